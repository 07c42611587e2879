//! Reaching files without ever following a symbolic link, and without a limit on depth.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use repo_format::tree::{EntryKind, Meta, Time};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Statx, StatxFlags};

/// Longest path given to the kernel at once; it takes 4,095 bytes.
const PIECE_BYTES_MAX: usize = 3072;

/// Flags for opening a directory to read names from it or to work relative to it.
pub(super) const DIR_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK);

/// What `statx` says, in the format's terms.
#[derive(Debug, Clone)]
pub(super) struct Stat {
    pub(super) kind: EntryKind,
    pub(super) meta: Meta,
    /// Allocated, in units of 512 bytes.
    pub(super) blocks: u64,
}

impl Stat {
    /// Of `name` in `dir`, not following it.
    pub(super) fn at(dir: impl AsFd, name: &[u8]) -> io::Result<Self> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let stat = rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS)?;
        Self::from_kernel(&stat)
    }

    /// Of an open file.
    pub(super) fn of(fd: impl AsFd) -> io::Result<Self> {
        let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        Self::from_kernel(&stat)
    }

    fn from_kernel(stat: &Statx) -> io::Result<Self> {
        let mode = u32::from(stat.stx_mode);
        let kind = match mode & libc::S_IFMT {
            libc::S_IFREG => EntryKind::File,
            libc::S_IFDIR => EntryKind::Dir,
            libc::S_IFLNK => EntryKind::Symlink,
            libc::S_IFIFO => EntryKind::Fifo,
            libc::S_IFSOCK => EntryKind::Socket,
            libc::S_IFCHR => EntryKind::CharDevice,
            libc::S_IFBLK => EntryKind::BlockDevice,
            _ => return Err(io::Error::other("a kind of file that this program does not know")),
        };
        let is_device = matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice);
        let time = |sec, nsec: u32| Time { sec, nsec: nsec.min(999_999_999) };
        let meta = Meta {
            mode: mode & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            mtime: time(stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            ctime: time(stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
            size: if kind == EntryKind::File { stat.stx_size } else { 0 },
            ino: stat.stx_ino,
            dev: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            nlink: stat.stx_nlink,
            rdev: if is_device {
                rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor)
            } else {
                0
            },
            xattrs: Vec::new(),
        };
        Ok(Self { kind, meta, blocks: stat.stx_blocks })
    }

    /// Whether both are the same inode.
    pub(super) fn is_same_inode(&self, other: &Self) -> bool {
        (self.meta.dev, self.meta.ino) == (other.meta.dev, other.meta.ino)
    }
}

/// Opens `path` below `root`, following no symbolic link in any of its components.
pub(super) fn open_beneath(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> io::Result<OwnedFd> {
    let mut at: Option<OwnedFd> = None;
    let mut rest = path;
    while let Some((piece, after)) = split_piece(rest) {
        let dir = at.as_ref().map_or(root, AsFd::as_fd);
        at = Some(open_piece(dir, piece, DIR_FLAGS)?);
        rest = after;
    }
    let dir = at.as_ref().map_or(root, AsFd::as_fd);
    open_piece(dir, if rest.is_empty() { b"." } else { rest }, flags)
}

/// Cuts off as much of a path as the kernel takes at once, if it does not take all of it.
fn split_piece(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let head = path.get(..PIECE_BYTES_MAX)?;
    let slash = head.iter().rposition(|byte| *byte == b'/')?;
    Some((path.get(..slash)?, path.get(slash + 1..)?))
}

fn open_piece(dir: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve) {
        // Kernels before 5.6, seccomp profiles that do not know the call; or a rename somewhere in
        // the system that made the kernel unsure.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM | rustix::io::Errno::AGAIN) => {
            open_by_names(dir, path, flags)
        }
        opened => Ok(opened?),
    }
}

fn open_by_names(dir: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let mut at: Option<OwnedFd> = None;
    let mut names = path.split(|byte| *byte == b'/').peekable();
    while let Some(name) = names.next() {
        let here = at.as_ref().map_or(dir, AsFd::as_fd);
        let flags = if names.peek().is_some() { DIR_FLAGS } else { flags };
        at = Some(rustix::fs::openat(here, name, flags, Mode::empty())?);
    }
    at.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

/// A path by which the calls that take no directory descriptor reach `name` in `dir`. Needs
/// `/proc`. The name itself is not followed by calls that follow no link.
pub(super) fn proc_path(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    use std::os::fd::AsRawFd;
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

/// How many directories may be open at once.
#[derive(Debug)]
pub(super) struct DirBudget {
    free: Mutex<usize>,
    freed: Condvar,
}

/// An open directory that counts against a [`DirBudget`].
#[derive(Debug)]
pub(super) struct OpenDir {
    fd: OwnedFd,
    budget: Option<Arc<DirBudget>>,
}

impl DirBudget {
    pub(super) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { free: Mutex::new(count), freed: Condvar::new() })
    }

    /// Counts `fd`, once there is room for it. With `or_cancelled` true it does not wait any more.
    pub(super) fn admit(self: &Arc<Self>, fd: OwnedFd, or_cancelled: &dyn Fn() -> bool) -> OpenDir {
        let mut free = lock(&self.free);
        while *free == 0 && !or_cancelled() {
            let wait = std::time::Duration::from_millis(50);
            free = self.freed.wait_timeout(free, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        if *free == 0 {
            return OpenDir { fd, budget: None };
        }
        *free -= 1;
        OpenDir { fd, budget: Some(Arc::clone(self)) }
    }
}

impl Drop for OpenDir {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            *lock(&budget.free) += 1;
            budget.freed.notify_one();
        }
    }
}

impl AsFd for OpenDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A poisoned lock only says that another thread panicked; that thread's panic is what is reported.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

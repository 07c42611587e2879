//! One regular file while it is restored.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use repo_format::tree::{Entry, Extent};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags};

use super::attributes::{What, apply_open};
use super::work::Shared;
use crate::tree::Progress;
use crate::tree::beneath::{Stat, lock};
use crate::tree::error::IssueKind;
use crate::tree::large::read_full;
use crate::tree::slices::holes;

/// Zeros for file systems that cannot make holes.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What is at a file's name in the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Nothing.
    Fresh,
    /// A regular file of which some parts may be right.
    Update,
}

/// A file being restored. Several workers may write to it at once.
#[derive(Debug)]
pub(super) struct FileJob {
    dir: Arc<OwnedFd>,
    /// In `dir`.
    name: Vec<u8>,
    /// Without its content.
    entry: Entry,
    start: Start,
    state: Mutex<State>,
    /// Writes to come, and one for the planner while it adds some.
    left: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    fd: Option<Arc<OwnedFd>>,
    has_failed: bool,
}

impl FileJob {
    pub(super) fn new(dir: Arc<OwnedFd>, name: Vec<u8>, entry: Entry, start: Start) -> Self {
        let (state, left) = (Mutex::default(), AtomicU64::new(1));
        Self { dir, name, entry, start, state, left }
    }

    /// Announces a write.
    pub(super) fn expect_write(&self) {
        self.left.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes `plain` at `offset`.
    pub(super) fn write(&self, shared: &Shared<'_>, plain: &[u8], offset: u64) {
        let written = self.open(shared).and_then(|fd| match fd {
            None => Ok(0),
            Some(fd) if self.start == Start::Update => update(&fd, plain, offset),
            Some(fd) => write_full(&*fd, plain, offset).map(|()| plain.len()),
        });
        match written {
            Ok(bytes) => Progress::add(&shared.progress.moved_bytes, bytes as u64),
            Err(error) => self.fail_io(shared, &error),
        }
    }

    /// The file's bytes cannot all be had.
    pub(super) fn fail(&self, shared: &Shared<'_>, kind: IssueKind, detail: String) {
        let mut state = lock(&self.state);
        if !std::mem::replace(&mut state.has_failed, true) {
            shared.issue(&self.entry.path, kind, detail);
        }
    }

    fn fail_io(&self, shared: &Shared<'_>, error: &io::Error) {
        if shared.is_fatal(&self.entry.path, error) {
            lock(&self.state).has_failed = true;
        } else {
            self.fail(shared, IssueKind::NotRestored, error.to_string());
        }
    }

    /// One announced write is done, or the planner's part. After the last, attributes are set.
    pub(super) fn finish_write(&self, shared: &Shared<'_>) {
        if self.left.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let fd = match self.open(shared) {
            Ok(fd) => fd,
            Err(error) => {
                self.fail_io(shared, &error);
                None
            }
        };
        let has_failed = lock(&self.state).has_failed;
        lock(&self.state).fd = None;
        let Some(fd) = fd.filter(|_| !has_failed && !shared.stop.is_set()) else {
            if self.start == Start::Fresh && has_failed {
                // A part of a file looks like a file.
                let _ = rustix::fs::unlinkat(&*self.dir, self.name.as_slice(), AtFlags::empty());
            }
            return;
        };
        let what = What { owner: shared.options.owner, existed: self.start == Start::Update };
        let failed = apply_open(fd.as_fd(), &self.entry.meta, what);
        shared.attributes_done(&self.entry, &failed);
        shared.count(&self.entry);
    }

    /// The open file; made or opened by whoever comes first. `None` if the file has failed.
    fn open(&self, shared: &Shared<'_>) -> io::Result<Option<Arc<OwnedFd>>> {
        let mut state = lock(&self.state);
        if state.has_failed {
            return Ok(None);
        }
        if let Some(fd) = &state.fd {
            return Ok(Some(Arc::clone(fd)));
        }
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
        let name = self.name.as_slice();
        let fd = match self.start {
            Start::Fresh => {
                let flags = flags | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                rustix::fs::openat(&*self.dir, name, flags, self.first_mode())?
            }
            Start::Update => self.open_existing(flags)?,
        };
        self.shape(shared, &fd)?;
        let fd = Arc::new(fd);
        state.fd = Some(Arc::clone(&fd));
        Ok(Some(fd))
    }

    /// The mode to make the file with: its own if it will belong to this process anyway, which
    /// spares a call; nobody else's otherwise, until it has its owner.
    fn first_mode(&self) -> Mode {
        let meta = &self.entry.meta;
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let private = Mode::RUSR | Mode::WUSR;
        if (meta.uid, meta.gid) == (uid.as_raw(), gid.as_raw()) {
            Mode::from_raw_mode(meta.mode & 0o777) | private
        } else {
            private
        }
    }

    fn open_existing(&self, flags: OFlags) -> io::Result<OwnedFd> {
        let name = self.name.as_slice();
        let flags = flags | OFlags::RDWR | OFlags::NONBLOCK;
        let opened = match rustix::fs::openat(&*self.dir, name, flags, Mode::empty()) {
            Err(rustix::io::Errno::ACCESS) => {
                // Its mode may forbid what its owner may allow.
                let path = flags.difference(OFlags::RDWR) | OFlags::PATH;
                let fd = rustix::fs::openat(&*self.dir, name, path, Mode::empty())?;
                let proc = format!("/proc/self/fd/{}", rustix::fd::AsRawFd::as_raw_fd(&fd));
                rustix::fs::chmod(proc.as_str(), Mode::RUSR | Mode::WUSR)?;
                rustix::fs::openat(&*self.dir, name, flags, Mode::empty())
            }
            opened => opened,
        }?;
        let stat = Stat::of(&opened)?;
        if stat.kind != repo_format::tree::EntryKind::File || stat.meta.nlink > 1 {
            return Err(io::Error::other("it was replaced while it was restored"));
        }
        Ok(opened)
    }

    /// Gives the file its size and its holes.
    fn shape(&self, shared: &Shared<'_>, fd: &OwnedFd) -> io::Result<()> {
        let size = self.entry.meta.size;
        let holes = holes(&self.entry);
        if self.start == Start::Update || !holes.is_empty() {
            rustix::fs::ftruncate(fd, size)?;
        }
        let dense = shared.options.no_sparse;
        if self.start == Start::Fresh && !dense {
            return Ok(());
        }
        for hole in holes {
            let flags = match (self.start, dense) {
                (Start::Fresh, _) => FallocateFlags::empty(),
                (Start::Update, true) => FallocateFlags::ZERO_RANGE,
                (Start::Update, false) => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            };
            match rustix::fs::fallocate(fd, flags, hole.offset, hole.len) {
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                    write_zeros(fd, hole)?;
                }
                done => done?,
            }
        }
        Ok(())
    }
}

fn write_zeros(fd: &OwnedFd, hole: Extent) -> io::Result<()> {
    let (mut at, end) = (hole.offset, hole.offset + hole.len);
    while at < end {
        let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(ZEROS.len());
        write_full(fd, ZEROS.get(..len).unwrap_or_default(), at)?;
        at += len as u64;
    }
    Ok(())
}

/// Writes what differs; gives the bytes written.
fn update(fd: &OwnedFd, plain: &[u8], offset: u64) -> io::Result<usize> {
    let mut old = vec![0u8; plain.len()];
    let got = read_full(fd, &mut old, offset)?;
    if got == plain.len() && old == plain {
        return Ok(0);
    }
    write_full(fd, plain, offset)?;
    Ok(plain.len())
}

/// Writes all of `plain` at `offset`.
fn write_full(fd: impl AsFd, plain: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = plain.get(done..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pwrite(fd.as_fd(), rest, offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(wrote) => done += wrote,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

//! Sets owner, mode, extended attributes and times.

use std::io;

use repo_format::tree::{EntryKind, Meta, Time};
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};

/// Attribute that the system sets itself and that cannot be dropped.
const SELINUX: &[u8] = b"security.selinux";

/// What to set beyond mode and times.
#[derive(Debug, Clone, Copy)]
pub(super) struct What {
    /// Owner and group.
    pub(super) owner: bool,
    /// The object was there before: drop attributes that it should not have.
    pub(super) existed: bool,
}

/// Sets all attributes of an open file or directory, times last. Gives what could not be set, for
/// people; empty if all is well.
///
/// Owner and mode that are right already are left alone: each costs a file system a transaction.
pub(super) fn apply_open(fd: BorrowedFd<'_>, meta: &Meta, what: What) -> Vec<String> {
    let mut failed = Vec::new();
    let now = rustix::fs::fstat(fd).ok();
    let has_owner = now.is_some_and(|now| (now.st_uid, now.st_gid) == (meta.uid, meta.gid));
    let is_owned = has_owner || own(fd, meta, what, &mut failed);
    let mode = mode_of(meta, is_owned);
    // A change of owner may take bits of the mode away.
    let has_mode = has_owner && now.is_some_and(|now| Mode::from_raw_mode(now.st_mode) == mode);
    if !has_mode {
        note(&mut failed, "mode", rustix::fs::fchmod(fd, mode));
    }
    let path = ObjectRef::Open(fd);
    set_xattrs(&path, meta, what.existed, &mut failed);
    note(&mut failed, "times", rustix::fs::futimens(fd, &timestamps(meta.mtime)));
    failed
}

/// The same for an object opened with `O_PATH`: a link, FIFO, socket or device. Needs `/proc`.
pub(super) fn apply_path(
    fd: BorrowedFd<'_>,
    kind: EntryKind,
    meta: &Meta,
    what: What,
) -> Vec<String> {
    let mut failed = Vec::new();
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let is_owned = own(fd, meta, what, &mut failed);
    if kind != EntryKind::Symlink {
        let mode = mode_of(meta, is_owned);
        note(&mut failed, "mode", rustix::fs::chmod(path.as_str(), mode));
    }
    set_xattrs(&ObjectRef::Path(&path), meta, what.existed, &mut failed);
    let times = timestamps(meta.mtime);
    // The kernel takes an empty path for the descriptor itself since 5.8.
    let set = rustix::fs::utimensat(fd, c"", &times, AtFlags::EMPTY_PATH).or_else(|_| {
        rustix::fs::utimensat(rustix::fs::CWD, path.as_str(), &times, AtFlags::empty())
    });
    note(&mut failed, "times", set);
    failed
}

enum ObjectRef<'a> {
    Open(BorrowedFd<'a>),
    Path(&'a str),
}

impl ObjectRef<'_> {
    fn set(&self, name: &[u8], value: &[u8]) -> rustix::io::Result<()> {
        match self {
            Self::Open(fd) => rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            Self::Path(path) => rustix::fs::setxattr(*path, name, value, XattrFlags::empty()),
        }
    }

    fn remove(&self, name: &[u8]) -> rustix::io::Result<()> {
        match self {
            Self::Open(fd) => rustix::fs::fremovexattr(fd, name),
            Self::Path(path) => rustix::fs::removexattr(*path, name),
        }
    }

    fn names(&self) -> Vec<u8> {
        let mut names = vec![0u8; 64 << 10];
        let listed = match self {
            Self::Open(fd) => rustix::fs::flistxattr(fd, names.as_mut_slice()),
            Self::Path(path) => rustix::fs::listxattr(*path, names.as_mut_slice()),
        };
        names.truncate(listed.unwrap_or(0));
        names
    }
}

fn set_xattrs(object: &ObjectRef<'_>, meta: &Meta, existed: bool, failed: &mut Vec<String>) {
    if existed {
        let names = object.names();
        for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let is_wanted = meta.xattrs.iter().any(|xattr| xattr.name == name);
            if !is_wanted && name != SELINUX {
                note(failed, &String::from_utf8_lossy(name), object.remove(name));
            }
        }
    }
    for xattr in &meta.xattrs {
        let name = String::from_utf8_lossy(&xattr.name);
        note(failed, &name, object.set(&xattr.name, &xattr.value));
    }
}

/// Sets the owner if it is wanted; true if the object then has it.
fn own(fd: BorrowedFd<'_>, meta: &Meta, what: What, failed: &mut Vec<String>) -> bool {
    if !what.owner {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        return (meta.uid, meta.gid) == (uid.as_raw(), gid.as_raw());
    }
    let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
    let done = rustix::fs::chownat(fd, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH);
    note(failed, "owner", done);
    done.is_ok()
}

/// A program that runs as its owner must not run as somebody else: without the owner it loses
/// those bits.
fn mode_of(meta: &Meta, is_owned: bool) -> Mode {
    Mode::from_raw_mode(if is_owned { meta.mode } else { meta.mode & !0o6000 })
}

fn timestamps(mtime: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.sec, tv_nsec: i64::from(mtime.nsec) },
    }
}

fn note(failed: &mut Vec<String>, what: &str, result: rustix::io::Result<()>) {
    if let Err(errno) = result {
        failed.push(format!("{what}: {}", io::Error::from(errno)));
    }
}

//! What is in the target already, and how it makes room.

use std::io;

use repo_format::tree::{Content, Entry, EntryKind};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags};

use super::RestoreJob;
use super::work::{Shared, target_error};
use crate::tree::TreeError;
use crate::tree::beneath::{DIR_FLAGS, Stat};
use crate::tree::names::{Name, Names, NamesError};

/// Memory for the names of a directory that is looked through.
pub(super) const NAMES_BYTES: usize = 1 << 20;

/// Opens or makes the target; true if something may be in it.
pub(super) fn open_target(job: &RestoreJob<'_>) -> Result<(OwnedFd, bool), TreeError> {
    let failed = |errno: rustix::io::Errno| target_error(job.target.to_owned(), errno.into());
    match rustix::fs::mkdir(job.target, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let flags = DIR_FLAGS.difference(OFlags::NOFOLLOW);
    let fd = rustix::fs::open(job.target, flags, Mode::empty()).map_err(failed)?;
    let names = Names::read(&fd, NAMES_BYTES, &job.options.scratch);
    let mut names = names.map_err(|error| names_error(job, error))?;
    // ext4 makes this in the root of every volume; it belongs to the file system.
    let is_ours = |name: &Name| name.bytes != b"lost+found";
    let mut has_something = false;
    while let Some(name) = names.next().map_err(|error| names_error(job, error))? {
        has_something |= is_ours(&name);
    }
    if has_something && !job.options.in_place {
        return Err(TreeError::TargetNotEmpty { path: job.target.to_owned() });
    }
    // What is made here shall not inherit what the target's owner once wanted for new files.
    let _ = rustix::fs::fremovexattr(&fd, "system.posix_acl_default");
    Ok((fd, has_something))
}

fn names_error(job: &RestoreJob<'_>, error: NamesError) -> TreeError {
    match error {
        NamesError::Directory(source) => target_error(job.target.to_owned(), source),
        NamesError::Scratch(source) => {
            TreeError::Scratch { path: job.options.scratch.clone(), source }
        }
    }
}

/// Makes or opens the directory `name` in `dir`; true if it was there.
pub(super) fn make_dir(
    dir: &OwnedFd,
    dir_existed: bool,
    name: &[u8],
) -> io::Result<(OwnedFd, bool)> {
    let mut existed = false;
    if dir_existed && let Some(stat) = existing(dir, name)? {
        existed = stat.kind == EntryKind::Dir;
        if existed && stat.meta.mode & 0o700 != 0o700 {
            let mode = Mode::from_raw_mode(stat.meta.mode | 0o700);
            // Only matters to those whom modes hold up; opening tells.
            let _ = chmod_nofollow(dir, name, mode);
        }
        if !existed {
            rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
        }
    }
    if !existed {
        rustix::fs::mkdirat(dir, name, Mode::RWXU)?;
    }
    Ok((rustix::fs::openat(dir, name, DIR_FLAGS, Mode::empty())?, existed))
}

/// Looks at what is where an entry is to go, and removes it if it is in the way.
pub(super) fn clear_place(
    shared: &Shared<'_>,
    dir: &OwnedFd,
    dir_existed: bool,
    name: &[u8],
    entry: &Entry,
) -> io::Result<Place> {
    if !dir_existed {
        return Ok(Place::Free);
    }
    let Some(stat) = existing(dir, name)? else { return Ok(Place::Free) };
    let (old, new) = (&stat.meta, &entry.meta);
    if stat.kind == EntryKind::Dir {
        if !shared.options.delete {
            return Err(io::Error::other("a directory is in its place"));
        }
        remove_tree(dir, name, shared)?;
        return Ok(Place::Free);
    }
    let is_same = stat.kind == entry.kind
        && (old.size, old.mtime, old.rdev) == (new.size, new.mtime, new.rdev)
        && match &entry.content {
            Content::Symlink(target) => rustix::fs::readlinkat(dir, name, Vec::new())
                .is_ok_and(|found| found.to_bytes() == target.as_slice()),
            _ => true,
        };
    if is_same {
        let owner_differs = (old.uid, old.gid) != (new.uid, new.gid);
        let only_attributes = old.mode != new.mode || (shared.options.owner && owner_differs);
        return Ok(Place::Same { only_attributes });
    }
    // Writing into a file with other names would change those too.
    if stat.kind == EntryKind::File && entry.kind == EntryKind::File && old.nlink == 1 {
        return Ok(Place::Similar);
    }
    rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
    Ok(Place::Free)
}

/// What is where an entry is to go.
pub(super) enum Place {
    /// Nothing (any more).
    Free,
    /// A regular file that can be made right.
    Similar,
    /// The entry itself.
    Same { only_attributes: bool },
}

/// What is at `name`, if anything.
pub(super) fn existing(dir: &OwnedFd, name: &[u8]) -> io::Result<Option<Stat>> {
    match Stat::at(dir, name) {
        Ok(stat) => Ok(Some(stat)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn chmod_nofollow(dir: &OwnedFd, name: &[u8], mode: Mode) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    Ok(rustix::fs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), mode)?)
}

/// Removes `name` in `dir` and all below it, following nothing. Keeps one directory open per level.
pub(super) fn remove_tree(dir: &OwnedFd, name: &[u8], shared: &Shared<'_>) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => {}
        done => return Ok(done?),
    }
    let open = |dir: &OwnedFd, name: &[u8]| -> io::Result<(OwnedFd, Names)> {
        let fd = rustix::fs::openat(dir, name, DIR_FLAGS, Mode::empty())?;
        let names =
            Names::read(&fd, NAMES_BYTES, &shared.options.scratch).map_err(NamesError::into_io)?;
        Ok((fd, names))
    };
    let (fd, names) = open(dir, name)?;
    let mut stack = vec![(name.to_vec(), fd, names)];
    while let Some((_, fd, names)) = stack.last_mut() {
        let next = names.next().map_err(NamesError::into_io)?;
        if let Some(next) = next {
            match rustix::fs::unlinkat(&*fd, &next.bytes, AtFlags::empty()) {
                Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => {
                    let (child, names) = open(fd, &next.bytes)?;
                    stack.push((next.bytes, child, names));
                }
                done => done?,
            }
        } else {
            let Some((done, ..)) = stack.pop() else { break };
            let parent = stack.last().map_or(dir, |(_, fd, _)| fd);
            rustix::fs::unlinkat(parent, &done, AtFlags::REMOVEDIR)?;
        }
    }
    Ok(())
}

//! The folders that objects lie in: made once, durable before anything is put in them.

use std::os::fd::OwnedFd;
use std::sync::PoisonError;

use repo_format::key::{ObjectKey, Prefix};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, fsync, mkdirat, openat, statx};
use rustix::io::Errno;

use super::{FOLDER_MODE, FsStore};
use crate::store::{Op, StoreError};

/// Where unfinished writes are.
pub(super) const TEMPORARY: &str = "tmp";
/// The repository's own folder, as a path below itself.
pub(super) const ROOT: &str = ".";

/// Which folders are known to exist durably: those of [`Prefix::ALL`], and [`TEMPORARY`].
#[derive(Debug, Default)]
pub(super) struct Prepared {
    prefixes: [bool; Prefix::ALL.len()],
    temporary: bool,
}

/// The folder of an object's path.
pub(super) fn of(path: &str) -> &str {
    path.rsplit_once('/').map_or(ROOT, |(folder, _)| folder)
}

impl FsStore {
    /// Makes sure that the folders for a write exist and that a power cut cannot take them back.
    /// A folder that exists may have been made just now by another process, which has not synced
    /// it yet; so this syncs in any case, once in a process's life.
    pub(super) fn prepare(&self, op: Op, prefixes: &[Prefix]) -> Result<(), StoreError> {
        let place = |prefix: &Prefix| Prefix::ALL.iter().position(|one| one == prefix);
        let mut prepared = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        let ready = prefixes.iter().filter_map(place).all(|place| prepared.prefixes[place]);
        if ready && prepared.temporary {
            return Ok(());
        }
        self.make_folder(op, TEMPORARY)?;
        for prefix in prefixes {
            self.make_prefix(op, *prefix)?;
        }
        self.sync_folder(op, ROOT)?;
        prepared.temporary = true;
        for place in prefixes.iter().filter_map(place) {
            prepared.prefixes[place] = true;
        }
        Ok(())
    }

    fn make_prefix(&self, op: Op, prefix: Prefix) -> Result<(), StoreError> {
        self.make_folder(op, prefix.folder())?;
        if prefix != Prefix::Packs {
            return Ok(());
        }
        for fan_out in 0..=u8::MAX {
            self.make_folder(op, &format!("{}/{fan_out:02x}", prefix.folder()))?;
        }
        self.sync_folder(op, prefix.folder())
    }

    fn make_folder(&self, op: Op, path: &str) -> Result<(), StoreError> {
        match mkdirat(&self.root, path, FOLDER_MODE) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(self.error(op, path, errno)),
        }
    }

    pub(super) fn open_folder(&self, op: Op, path: &str) -> Result<OwnedFd, StoreError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(&self.root, path, flags, Mode::empty()).map_err(|errno| self.error(op, path, errno))
    }

    pub(super) fn sync_folder(&self, op: Op, path: &str) -> Result<(), StoreError> {
        self.sync_open_folder(op, path, &self.open_folder(op, path)?)
    }

    pub(super) fn sync_open_folder(
        &self,
        op: Op,
        path: &str,
        folder: &OwnedFd,
    ) -> Result<(), StoreError> {
        match fsync(folder) {
            // File systems that cannot sync a folder (CIFS, read-only ones) need not.
            Ok(()) | Err(Errno::INVAL | Errno::ROFS) => Ok(()),
            Err(errno) => Err(self.error(op, path, errno)),
        }
    }

    /// Has an NFS client ask its server whether the folder of this object has changed: without it
    /// names made on other hosts stay hidden for up to a minute. Local file systems answer at
    /// once. A failure is not reported: what follows will meet it.
    pub(super) fn refresh(&self, key: &ObjectKey) {
        let path = key.to_string();
        let _ = statx(&self.root, of(&path), AtFlags::STATX_FORCE_SYNC, StatxFlags::MTIME);
    }

    /// [`FsStore::refresh`] for an open folder.
    pub(super) fn refresh_open(folder: &OwnedFd) {
        let flags = AtFlags::STATX_FORCE_SYNC | AtFlags::EMPTY_PATH;
        let _ = statx(folder, "", flags, StatxFlags::MTIME);
    }
}

//! Objects as files: atomic, durable, and safe on NFS.
//!
//! An object is written to `tmp/`, synced, linked to its name (which only one creator can do), and
//! then the folder is synced. So a name never stands for half an object, and `put_new` returns
//! only when a power cut can take neither the bytes nor the name. Since a snapshot's commit is put
//! after the `put_new` of every pack it needs has returned, no commit can outlive its packs.
//!
//! Between the link and the end of the folder's sync others can see an object that a power cut
//! would still take away. Nobody may act for good on such a catalog or commit, so `get` syncs
//! their folder before it returns one, and `put_new` before it answers that an object exists.
//!
//! Large aligned bodies and ranges bypass the page cache, see [`direct`]. Nothing is cached but
//! which folders and names are known to be durable.

mod direct;
mod folder;
mod list;
mod open;
mod temporary;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use repo_format::key::{ObjectKey, Prefix};
use rustix::fs::{AtFlags, Mode, OFlags, fstat, openat, statat, unlinkat};
use rustix::io::Errno;

use super::{Listed, Op, Store, StoreError, Strangers, Swept, may_rewrite};

pub use direct::{DIRECT_ALIGN_BYTES, DIRECT_READ_MIN_BYTES, DIRECT_WRITE_MIN_BYTES};

/// Mode of every object before the umask.
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
/// Mode of every folder before the umask.
const FOLDER_MODE: Mode = Mode::RWXU;
/// Most names remembered as durable; beyond it they are synced again.
const DURABLE_MAX: usize = 65_536;

/// A repository's objects in a folder of a file system.
pub struct FsStore {
    /// Held open, so that neither an unmount nor a rename can put another folder in its place.
    root: OwnedFd,
    /// Absolute; for messages only.
    path: PathBuf,
    /// Which folders this process knows to exist durably.
    folders: Mutex<folder::Prepared>,
    /// Catalogs and commits this process knows to be durable.
    durable: Mutex<HashSet<ObjectKey>>,
    /// Until the file system refuses `O_DIRECT`.
    direct: AtomicBool,
}

impl std::fmt::Debug for FsStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FsStore({})", self.path.display())
    }
}

impl FsStore {
    fn at(&self, path: &str) -> String {
        self.path.join(path).display().to_string()
    }

    fn error(&self, op: Op, path: &str, errno: Errno) -> StoreError {
        StoreError::from_io(op, self.at(path), errno.into())
    }

    fn open_object(&self, op: Op, key: &ObjectKey) -> Result<OwnedFd, StoreError> {
        let path = key.to_string();
        if may_rewrite(key) {
            self.refresh(key);
        }
        let open = || openat(&self.root, &*path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        self.twice_if_missing(key, open).map_err(|errno| self.error(op, &path, errno))
    }

    /// NFS may remember for a minute that a name was absent. Asks the server before believing it.
    fn twice_if_missing<T>(
        &self,
        key: &ObjectKey,
        find: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        match find() {
            Err(Errno::NOENT) => {
                self.refresh(key);
                find()
            }
            found => found,
        }
    }

    fn read_whole(&self, key: &ObjectKey, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
        let file = self.open_object(Op::Get, key)?;
        let too_large = |size_bytes| {
            Err(StoreError::TooLarge { at: self.at(&key.to_string()), size_bytes, limit_bytes })
        };
        let size_bytes = self.size_of(Op::Get, key, &file)?;
        if size_bytes > limit_bytes {
            return too_large(size_bytes);
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size_bytes).unwrap_or(0));
        // Bounded once more: whatever wrote this file may be writing still.
        File::from(file)
            .take(limit_bytes.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|error| StoreError::from_io(Op::Get, self.at(&key.to_string()), error))?;
        if bytes.len() as u64 > limit_bytes { too_large(bytes.len() as u64) } else { Ok(bytes) }
    }

    fn size_of(&self, op: Op, key: &ObjectKey, file: &OwnedFd) -> Result<u64, StoreError> {
        let stat = fstat(file).map_err(|errno| self.error(op, &key.to_string(), errno))?;
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }

    /// Makes sure that a power cut cannot take back a name this process has seen.
    fn settle(&self, op: Op, key: &ObjectKey) -> Result<(), StoreError> {
        if self.durable().contains(key) {
            return Ok(());
        }
        self.sync_folder(op, folder::of(&key.to_string()))?;
        self.remember_durable([*key]);
        Ok(())
    }

    fn remember_durable(&self, keys: impl IntoIterator<Item = ObjectKey>) {
        let mut durable = self.durable();
        let room = DURABLE_MAX.saturating_sub(durable.len());
        durable.extend(keys.into_iter().take(room));
    }

    fn durable(&self) -> std::sync::MutexGuard<'_, HashSet<ObjectKey>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse_direct(&self) {
        self.direct.store(false, Ordering::Relaxed);
    }
}

/// Whether others take steps that cannot be undone because they saw this object.
fn is_acted_upon(key: &ObjectKey) -> bool {
    matches!(key, ObjectKey::Catalog(_) | ObjectKey::Commit(_))
}

/// Whether it would do harm if a power cut brought a deleted object back: a removed key slot opens
/// the repository again, a cleaned session is taken for an open one.
fn must_stay_deleted(key: &ObjectKey) -> bool {
    match key {
        ObjectKey::Config
        | ObjectKey::KeySlot(_)
        | ObjectKey::Catalog(_)
        | ObjectKey::Session(_)
        | ObjectKey::Commit(_) => true,
        ObjectKey::CatalogPage { .. }
        | ObjectKey::Heartbeat(_)
        | ObjectKey::Pack(_)
        | ObjectKey::Segment(_) => false,
    }
}

impl Store for FsStore {
    fn get(&self, key: &ObjectKey, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
        let bytes = self.read_whole(key, limit_bytes)?;
        if is_acted_upon(key) {
            self.settle(Op::Get, key)?;
        }
        Ok(bytes)
    }

    fn get_range(
        &self,
        key: &ObjectKey,
        offset_bytes: u64,
        buf: &mut [u8],
    ) -> Result<(), StoreError> {
        let file = self.open_object(Op::GetRange, key)?;
        let read_bytes = direct::read_at(self, &file, offset_bytes, buf)
            .map_err(|errno| self.error(Op::GetRange, &key.to_string(), errno))?;
        let end_bytes = offset_bytes.saturating_add(buf.len() as u64);
        // An empty range lies in every object that is long enough for it to start in.
        if !buf.is_empty() && read_bytes == buf.len() {
            return Ok(());
        }
        let size_bytes = self.size_of(Op::GetRange, key, &file)?;
        if buf.is_empty() && offset_bytes <= size_bytes {
            return Ok(());
        }
        Err(StoreError::Short { at: self.at(&key.to_string()), end_bytes, size_bytes })
    }

    fn put_new(&self, key: &ObjectKey, body: &[u8]) -> Result<(), StoreError> {
        let path = key.to_string();
        let exists = || StoreError::Exists { at: self.at(&path) };
        self.prepare(Op::PutNew, key.prefix().as_slice())?;
        // Opened before the link, so that it hears of every error in writing the link.
        let folder = self.open_folder(Op::PutNew, folder::of(&path))?;
        self.refresh(key);
        let taken = match statat(&self.root, &*path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => true,
            Err(_) => !self.publish_new(&path, body)?,
        };
        self.sync_open_folder(Op::PutNew, folder::of(&path), &folder)?;
        if taken { Err(exists()) } else { Ok(()) }
    }

    fn put(&self, key: &ObjectKey, body: &[u8]) -> Result<(), StoreError> {
        let path = key.to_string();
        if !may_rewrite(key) {
            return Err(StoreError::WriteOnce { at: self.at(&path) });
        }
        self.prepare(Op::Put, key.prefix().as_slice())?;
        self.publish_over(&path, body)
    }

    fn list(
        &self,
        prefix: Prefix,
        visit: &mut dyn FnMut(Listed) -> Result<(), StoreError>,
    ) -> Result<Strangers, StoreError> {
        self.list_objects(prefix, visit)
    }

    fn list_first(&self, prefix: Prefix) -> Result<Option<ObjectKey>, StoreError> {
        self.first_object(prefix)
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let path = key.to_string();
        match unlinkat(&self.root, &*path, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(self.error(Op::Delete, &path, errno)),
        }
        if !must_stay_deleted(key) {
            return Ok(());
        }
        match self.sync_folder(Op::Delete, folder::of(&path)) {
            Err(StoreError::Missing { .. }) => Ok(()),
            synced => synced,
        }
    }

    fn size(&self, key: &ObjectKey) -> Result<u64, StoreError> {
        let path = key.to_string();
        let find = || statat(&self.root, &*path, AtFlags::empty());
        let stat =
            self.twice_if_missing(key, find).map_err(|errno| self.error(Op::Size, &path, errno))?;
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }

    fn sweep_temporary(&self) -> Result<Swept, StoreError> {
        self.sweep()
    }

    fn describe(&self) -> String {
        self.path.display().to_string()
    }
}

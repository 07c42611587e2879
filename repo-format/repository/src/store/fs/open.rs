//! Finding a repository's folder, and making one.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use repo_format::key::{ObjectKey, Prefix};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, fsync, mkdirat, openat, statat};
use rustix::io::Errno;

use super::folder::{Prepared, ROOT, TEMPORARY};
use super::{FOLDER_MODE, FsStore};
use crate::store::{Op, OpenError, StoreError};

/// What file systems and their snapshots put into a folder that is otherwise empty.
const NOT_CONTENT: [&str; 3] = ["lost+found", ".snapshot", ".zfs"];

impl FsStore {
    /// Opens the folder of an existing repository. Writes nothing, so that a read-only file system
    /// will do.
    ///
    /// # Errors
    ///
    /// [`OpenError::Missing`], [`OpenError::NotADirectory`], [`OpenError::NotARepository`];
    /// [`OpenError::Store`] with what the system answers, [`StoreError::Denied`] among it.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let store = Self::open_root(path)?;
        if store.has_config()? {
            Ok(store)
        } else {
            Err(OpenError::NotARepository { at: show(path) })
        }
    }

    /// Makes the folders of a new repository at `path`, where there may be an empty folder, or
    /// nothing; or what an earlier attempt left that did not get to write the config. Only the
    /// last part of the path is made, so that nothing is stored below a mount point whose file
    /// system is not mounted.
    ///
    /// # Errors
    ///
    /// [`OpenError::NoParent`], [`OpenError::NotADirectory`], [`OpenError::AlreadyARepository`],
    /// [`OpenError::NotEmpty`]; [`OpenError::Store`] with what the system answers.
    pub fn create(path: &Path) -> Result<Self, OpenError> {
        match mkdirat(CWD, path, FOLDER_MODE) {
            Ok(()) => sync_parent(path)?,
            Err(Errno::EXIST) => {}
            Err(Errno::NOENT) => {
                let parent = path.parent().unwrap_or(path);
                return Err(OpenError::NoParent { at: show(parent) });
            }
            Err(errno) => return Err(failed(path, errno)),
        }
        let store = Self::open_root(path)?;
        if store.has_config()? {
            return Err(OpenError::AlreadyARepository { at: show(path) });
        }
        if let Some(example) = store.foreign_name()? {
            return Err(OpenError::NotEmpty { at: show(path), example });
        }
        store.prepare(Op::Open, &Prefix::ALL)?;
        Ok(store)
    }

    fn open_root(path: &Path) -> Result<Self, OpenError> {
        let root = match open_directory(path) {
            Ok(root) => root,
            Err(Errno::NOENT) => return Err(OpenError::Missing { at: show(path) }),
            Err(Errno::NOTDIR) => return Err(OpenError::NotADirectory { at: show(path) }),
            Err(errno) => return Err(failed(path, errno)),
        };
        Ok(Self {
            root,
            path: absolute(path),
            folders: Mutex::new(Prepared::default()),
            durable: Mutex::new(HashSet::new()),
            direct: AtomicBool::new(true),
        })
    }

    fn has_config(&self) -> Result<bool, StoreError> {
        let config = ObjectKey::Config;
        let find = || statat(&self.root, &*config.to_string(), AtFlags::empty());
        match self.twice_if_missing(&config, find) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.error(Op::Open, &config.to_string(), errno)),
        }
    }

    /// A name that no earlier attempt at making a repository can have left.
    fn foreign_name(&self) -> Result<Option<String>, StoreError> {
        let mut foreign = None;
        self.each_name(Op::Open, ROOT, &mut |_, name, _| {
            let name = name.to_string_lossy();
            let ours = Prefix::ALL.iter().any(|prefix| prefix.folder() == name);
            if !ours && name != TEMPORARY && !NOT_CONTENT.contains(&&*name) {
                foreign = Some(name.into_owned());
            }
            Ok(())
        })?;
        Ok(foreign)
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty())
}

fn sync_parent(path: &Path) -> Result<(), OpenError> {
    let parent = absolute(path).parent().map_or_else(|| path.into(), Path::to_path_buf);
    match open_directory(&parent).and_then(fsync) {
        Ok(()) | Err(Errno::INVAL | Errno::ACCESS) => Ok(()),
        Err(errno) => Err(failed(&parent, errno)),
    }
}

fn absolute(path: &Path) -> std::path::PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.into())
}

fn show(path: &Path) -> String {
    absolute(path).display().to_string()
}

fn failed(path: &Path, errno: Errno) -> OpenError {
    OpenError::Store(StoreError::from_io(Op::Open, show(path), errno.into()))
}

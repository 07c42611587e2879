//! Where a process keeps its database: a slot of its own in the cache folder, or a temporary one.
//!
//! ```text
//! <cache folder>/<repository>/<slot>/lock          held (flock) while a process uses the slot
//! <cache folder>/<repository>/<slot>/damaged       exists: start anew
//! <cache folder>/<repository>/<slot>/db-<random>/  the database; a second one: start anew
//! ```

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use repo_format::id::RepositoryId;

use super::cache::Cache;
use super::database::failed;
use super::{IndexError, Tuning};

/// Processes with a cache of their own on one machine; more get temporary ones.
const SLOTS: usize = 16;
const LOCK: &str = "lock";
const DAMAGED: &str = "damaged";
const DATABASE: &str = "db-";
const PRIVATE: &str = "salvor-index-";

/// A folder that nobody else uses while this lives. Only its owner may look inside.
#[derive(Debug)]
pub(super) struct Home {
    path: PathBuf,
    is_private: bool,
    _lock: File,
}

impl Home {
    /// Takes the first free slot in `dir`.
    pub(super) fn claim(dir: &Path) -> io::Result<Self> {
        for slot in 0..SLOTS {
            let path = dir.join(slot.to_string());
            create_folder(&path)?;
            if let Some(lock) = try_lock(&path)? {
                return Ok(Self { path, is_private: false, _lock: lock });
            }
        }
        Err(io::Error::other(format!("all {SLOTS} slots of {} are in use", dir.display())))
    }

    /// Makes a temporary folder, and removes those that killed processes left.
    pub(super) fn private() -> io::Result<Self> {
        let temporary = std::env::temp_dir();
        sweep_private(&temporary);
        // Swept are only folders with the other name, and this one gets it when it is locked.
        let fresh = temporary.join(format!("new-{PRIVATE}{}", random_name()?));
        let path = temporary.join(format!("{PRIVATE}{}", random_name()?));
        create_folder(&fresh)?;
        let lock = try_lock(&fresh)?.ok_or(io::ErrorKind::WouldBlock)?;
        fs::rename(&fresh, &path)?;
        Ok(Self { path, is_private: true, _lock: lock })
    }

    pub(super) const fn is_private(&self) -> bool {
        self.is_private
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the database if it is whole and of this repository, or puts an empty one in its
    /// place and says why.
    pub(super) fn open(
        &self,
        repository: &RepositoryId,
        memory_bytes: usize,
        tuning: Tuning,
        rebuilt: &mut dyn FnMut(String),
    ) -> Result<Cache, IndexError> {
        let found = self.databases().map_err(failed)?;
        match found.as_slice() {
            [] => {}
            [_] if self.path.join(DAMAGED).exists() => rebuilt("it was found damaged".to_owned()),
            [folder] => match Cache::open(folder, repository, memory_bytes, tuning) {
                Ok(cache) => return Ok(cache),
                Err(error) => rebuilt(error.reason()),
            },
            _ => rebuilt("a rebuild was interrupted".to_owned()),
        }
        self.create(repository, memory_bytes, tuning)
    }

    /// Starts an empty database and removes every other.
    pub(super) fn create(
        &self,
        repository: &RepositoryId,
        memory_bytes: usize,
        tuning: Tuning,
    ) -> Result<Cache, IndexError> {
        let old = self.databases().map_err(failed)?;
        for folder in old {
            fs::remove_dir_all(folder).map_err(failed)?;
        }
        let name = random_name().map_err(failed)?;
        let folder = self.path.join(format!("{DATABASE}{name}"));
        fs::create_dir(&folder).map_err(failed)?;
        let cache = Cache::create(&folder, repository, memory_bytes, tuning)?;
        match fs::remove_file(self.path.join(DAMAGED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(cache),
        }
    }

    fn databases(&self) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(DATABASE) {
                found.push(entry.path());
            }
        }
        Ok(found)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.is_private {
            // What cannot be removed now is swept by the next process that needs such a folder.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Makes the next [`Home::open`] start anew. `database`: the folder of the damaged one.
pub(super) fn mark_damaged(database: &Path) {
    if let Some(home) = database.parent() {
        // If it cannot be marked, the damage is found again.
        let _ = File::create(home.join(DAMAGED));
    }
}

fn create_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn try_lock(folder: &Path) -> io::Result<Option<File>> {
    let file = File::options().create(true).truncate(false).write(true).open(folder.join(LOCK))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn random_name() -> io::Result<String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(format!("{:016x}", u64::from_be_bytes(bytes)))
}

/// Best effort: what cannot be removed stays.
fn sweep_private(temporary: &Path) {
    let own = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(temporary).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PRIVATE)
            && entry.metadata().is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == own);
        if is_ours && try_lock(&entry.path()).is_ok_and(|lock| lock.is_some()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

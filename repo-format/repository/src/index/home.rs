//! Where a process keeps its database: a slot of its own in the cache folder, or a temporary one.
//!
//! ```text
//! <cache folder>/<repository>/<slot>/lock                 held (flock) while a process uses the slot
//! <cache folder>/<repository>/<slot>/db-<random>/         the database; a second sound one: start anew
//! <cache folder>/<repository>/<slot>/db-<random>/damaged  exists: not to be used
//! ```

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use repo_format::id::RepositoryId;

use super::cache::Cache;
use super::database::failed;
use super::{IndexError, Tuning};

/// Processes with a cache of their own on one machine; more get temporary ones.
const SLOTS: usize = 16;
/// How long the database of a slot is kept unused while an earlier slot is free.
const IDLE_MAX: Duration = Duration::from_hours(30 * 24);
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
                lock.set_modified(SystemTime::now())?;
                (slot + 1..SLOTS).for_each(|later| sweep_idle(&dir.join(later.to_string())));
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
        let (damaged, sound): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|folder| folder.join(DAMAGED).exists());
        match sound.as_slice() {
            [] if damaged.is_empty() => {}
            [] => rebuilt("it was found damaged".to_owned()),
            [folder] => match Cache::open(folder, repository, memory_bytes, tuning) {
                Ok(Some(cache)) => {
                    for folder in &damaged {
                        remove(folder);
                    }
                    return Ok(cache);
                }
                Ok(None) => {}
                Err(error) => rebuilt(error.reason()),
            },
            _ => rebuilt("a rebuild was interrupted".to_owned()),
        }
        self.create(repository, memory_bytes, tuning, 0)
    }

    /// Starts an empty database, with pack numbers from `first`, and removes every other.
    pub(super) fn create(
        &self,
        repository: &RepositoryId,
        memory_bytes: usize,
        tuning: Tuning,
        first: u32,
    ) -> Result<Cache, IndexError> {
        self.clear().map_err(failed)?;
        let name = random_name().map_err(failed)?;
        let folder = self.path.join(format!("{DATABASE}{name}"));
        fs::create_dir(&folder).map_err(failed)?;
        Cache::create(&folder, repository, memory_bytes, tuning, first)
    }

    /// Gives the space back. A database that is open still may not go whole, and is marked: again
    /// if the mark went and the folder did not, for a compaction made a file just then.
    pub(super) fn clear(&self) -> io::Result<()> {
        for folder in self.databases()? {
            mark_damaged(&folder);
            remove(&folder);
            if folder.exists() {
                mark_damaged(&folder);
            }
        }
        Ok(())
    }

    fn databases(&self) -> io::Result<Vec<PathBuf>> {
        databases(&self.path)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.is_private {
            remove(&self.path);
        }
    }
}

/// What cannot be removed now will be found again.
fn remove(folder: &Path) {
    let _ = fs::remove_dir_all(folder);
}

/// Makes the next [`Home::open`] start anew. `folder`: of the damaged database.
pub(super) fn mark_damaged(folder: &Path) {
    // If it cannot be marked, the damage is found again.
    let _ = File::create(folder.join(DAMAGED));
}

fn databases(home: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(home)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(DATABASE) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Empties a slot that was not used for long: it was needed when more processes ran at once.
/// Best effort.
fn sweep_idle(home: &Path) {
    let lock_age = fs::metadata(home.join(LOCK)).and_then(|lock| lock.modified());
    let is_idle = lock_age.is_ok_and(|used| used.elapsed().is_ok_and(|age| age > IDLE_MAX));
    if is_idle && let Ok(Some(_lock)) = try_lock(home) {
        for folder in databases(home).unwrap_or_default() {
            remove(&folder);
        }
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
            remove(&entry.path());
        }
    }
}

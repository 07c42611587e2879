//! Directory trees: walked, captured, stored as a manifest of entries, compared and restored.
//!
//! * [`backup::backup_tree`] walks a directory and stores what changed since its parents.
//! * [`reader::TreeReader`] streams a stored tree, or finds one path in it.
//! * [`diff::diff`] compares two stored trees, [`restore::restore_tree`] and
//!   [`restore::restore_file`] bring them back.
//!
//! Everything here is a stream in path order. Memory does not depend on how many files there are
//! or on how large a directory is.

pub mod backup;
mod batch;
mod beneath;
mod capture;
pub mod diff;
mod error;
mod filter;
mod large;
mod links;
mod names;
pub mod reader;
pub mod restore;
mod scout;
mod slices;
pub mod source;
mod sparse;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod walk;
mod writer;
mod xattrs;

pub use error::{Issue, IssueKind, Issues, TreeError};
pub use source::BatchSource;
pub use writer::TreeWriter;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counters of a run in progress; any thread may look at any time.
#[derive(Debug, Default)]
pub struct Progress {
    /// Entries met by the walk (backup) or read from the manifest (restore). Runs ahead of
    /// `entries`: while the walk goes on, the total is not known.
    pub found: AtomicU64,
    /// Entries done.
    pub entries: AtomicU64,
    /// Regular files among them.
    pub files: AtomicU64,
    /// Content bytes done, holes and unchanged files included.
    pub bytes: AtomicU64,
    /// Content bytes read from the source file system (backup) or written to the target (restore).
    pub moved_bytes: AtomicU64,
    /// Files found unchanged: not opened in a backup, not written in a restore.
    pub unchanged_files: AtomicU64,
    /// Whether the walk has met everything, so that `found` is the total.
    pub walked: AtomicBool,
}

impl Progress {
    pub(crate) fn add(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }

    /// The counters as plain numbers.
    pub fn totals(&self) -> Totals {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            entries: get(&self.entries),
            files: get(&self.files),
            bytes: get(&self.bytes),
            moved_bytes: get(&self.moved_bytes),
            unchanged_files: get(&self.unchanged_files),
            excluded: 0,
        }
    }
}

/// What a run did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Totals {
    /// Entries of all kinds.
    pub entries: u64,
    /// Regular files; further hard links to a file do not count.
    pub files: u64,
    /// Content bytes, holes and unchanged files included.
    pub bytes: u64,
    /// Content bytes read from the source (backup) or written to the target (restore).
    pub moved_bytes: u64,
    /// Files that were neither opened (backup) nor written (restore).
    pub unchanged_files: u64,
    /// Things a pattern, a mount point or a cache tag excluded; a directory counts once.
    pub excluded: u64,
}

/// Whether the threads of a run are to stop.
#[derive(Debug)]
pub(crate) struct Stop<'a> {
    /// Set by the caller.
    cancel: &'a AtomicBool,
    /// Set when one of them failed.
    failed: AtomicBool,
}

impl<'a> Stop<'a> {
    pub(crate) const fn new(cancel: &'a AtomicBool) -> Self {
        Self { cancel, failed: AtomicBool::new(false) }
    }

    pub(crate) fn is_set(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.is_cancelled()
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    pub(crate) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }
}

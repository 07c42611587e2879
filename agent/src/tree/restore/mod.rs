//! Brings a stored tree back.
//!
//! ```text
//! planner (the caller's thread): directories ─Job→ workers: content, then attributes
//!        └ when a window of entries is done: hard links, then attributes of finished directories
//! ```
//!
//! Entries are taken in windows. Within one, chunks are fetched in the order they are stored, each
//! once, and written wherever they belong. Times are set last, so that a file with the right size
//! and `mtime` is complete: a restore in place skips it, which is how an interrupted restore goes
//! on.
//!
//! Nothing is ever followed out of the target: directories are reached by descriptors, files are
//! opened or made without following links, and paths with `..` do not decode.

mod attributes;
mod cat;
mod file;
mod plan;
mod planner;
mod special;
mod target;
mod work;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use repo_format::id::ChunkId;

use super::error::Issue;
use super::{BatchSource, Issues, Progress, Totals, TreeError};

pub use cat::restore_file;

/// How to restore.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "independent options of the command line")]
pub struct RestoreOptions {
    /// The target may hold something already. Files of the same size and `mtime` are taken to be
    /// complete, of others the parts that differ are written. Without it the target must be empty
    /// or missing.
    pub in_place: bool,
    /// With `in_place`: remove what the snapshot does not have.
    pub delete: bool,
    /// Set owner and group. Needs privileges for owners other than oneself; what fails is named.
    pub owner: bool,
    /// Give holes space on disk.
    pub no_sparse: bool,
    /// Wait until everything is on disk.
    pub sync: bool,
    /// Threads that fetch and write; 0 chooses.
    pub workers: usize,
    /// A directory for unnamed scratch files, used with `delete` by directories with millions of
    /// names.
    pub scratch: PathBuf,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        Self {
            in_place: false,
            delete: false,
            owner: true,
            no_sparse: false,
            sync: false,
            workers: 0,
            scratch: std::env::temp_dir(),
        }
    }
}

/// One restore.
#[derive(Clone, Copy)]
pub struct RestoreJob<'a> {
    /// Gives the chunks.
    pub source: &'a dyn BatchSource,
    /// The tree's root chunk.
    pub root: &'a ChunkId,
    /// What to restore: empty for everything. A directory becomes the target itself; anything
    /// else is restored under its own name in the target.
    pub subtree: &'a [u8],
    /// A directory, made if it is missing (its parent is not).
    pub target: &'a Path,
    /// How.
    pub options: &'a RestoreOptions,
    /// Counts along.
    pub progress: &'a Progress,
    /// Set it to stop within a second or so.
    pub cancel: &'a AtomicBool,
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreOutcome {
    /// What was brought back.
    pub totals: Totals,
    /// What was not, or not entirely.
    pub issues: Issues,
}

/// Restores `job.subtree` into `job.target`.
///
/// `on_issue` is called in the caller's thread for everything that is not restored as it was. A
/// file with a chunk that is damaged or missing is named, and removed again from a fresh target;
/// the rest is restored.
///
/// # Errors
///
/// The target is not empty, full, read-only or failing; there is no such subtree; the tree's
/// pages or the repository cannot be read; or it was cancelled. Restoring again with `in_place`
/// goes on from there.
pub fn restore_tree(
    job: RestoreJob<'_>,
    on_issue: &mut dyn FnMut(&Issue),
) -> Result<RestoreOutcome, TreeError> {
    planner::run(job, on_issue)
}

//! Forgetting snapshots and reclaiming what only they needed, beside running backups.
//!
//! Every step is a transition of the catalog chain; a process killed between any two leaves a
//! state from which any maintainer goes on. Which rule protects what is in FORMAT.md, "Protocol";
//! the names here are the names there.

pub(crate) mod draft;
pub(crate) mod mark;
mod merge;
mod prune;
mod repack;
mod sweep;

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use repo_format::config::Operation;
use repo_format::id::{ClusterId, PackName, SnapshotId};

use crate::index::Index;
use crate::lock::LockReport;
use crate::packer::PackOptions;
use crate::repository::now_s;
use crate::rules::{self, Rule, keeps};
use crate::view::View;
use crate::writer::sync_index;
use crate::{Repository, RepositoryError, catalog};
use draft::Draft;
pub use prune::prune;
pub(crate) use sweep::{CATALOGS_KEPT, clean_sessions};

/// Transitions are tried again when another maintainer was faster, this often.
const TRIES: u32 = 32;

/// How to prune.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Most bytes to write again, as a share of what the repository holds.
    pub max_repack: f64,
    /// A pack is emptied if less than this share of it is needed.
    pub live_below: f64,
    /// A session elsewhere that shows no sign of life for this long is ended.
    pub fence_after: Duration,
    /// The checkpoint of a run that was killed is forgotten if no run has gone on from it for this
    /// long; see [`crate::retention::given_up`].
    pub keep_unfinished: Duration,
    /// Where this machine remembers signs of life between runs.
    pub memory_file: Option<PathBuf>,
    /// Who prunes.
    pub cluster: ClusterId,
    /// Sizes of packs that a repack makes.
    pub packs: PackOptions,
}

/// What a prune did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct PruneReport {
    /// Packs of the repository when it began, and their bytes.
    pub packs: u64,
    /// See `packs`.
    pub bytes: u64,
    /// Bytes that some snapshot needs.
    pub needed_bytes: u64,
    /// Packs that nothing needs, when it began. Those that a repack empties come to these.
    pub unneeded_packs: u64,
    /// See `unneeded_packs`.
    pub unneeded_bytes: u64,
    /// Packs that were emptied, and their needed bytes, which were written again.
    pub repacked_packs: u64,
    /// See `repacked_packs`.
    pub repacked_bytes: u64,
    /// Packs deleted, left-overs of dead sessions among them.
    pub deleted_packs: u64,
    /// See `deleted_packs`.
    pub deleted_bytes: u64,
    /// Of them, or to come: packs that ended sessions left behind.
    pub leftover_packs: u64,
    /// See `leftover_packs`.
    pub leftover_bytes: u64,
    /// Unneeded packs that the next prune takes up: this one had no room for them in the catalog.
    pub postponed_packs: u64,
    /// Condemned packs that wait for sessions to end.
    pub waiting_packs: u64,
    /// See `waiting_packs`.
    pub waiting_bytes: u64,
    /// The sessions they wait for.
    pub waiting_for: Vec<String>,
    /// Packs that were condemned and turned out to be needed by a newer snapshot.
    pub rescued_packs: u64,
    /// Garbage left inside packs that are mostly needed.
    pub left_bytes: u64,
    /// Sessions ended because their process was gone.
    pub fenced_sessions: u64,
    /// Checkpoints of killed runs that were forgotten.
    pub forgotten_checkpoints: u64,
    /// References to chunks in no pack: run a verify.
    pub missing_chunks: u64,
    /// Index segments that were merged into fewer, or rid of what dead packs held.
    pub merged_segments: u64,
    /// What was done about locks, and what waits for their end; `None` where nothing is locked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockReport>,
}

/// Told what a long run does, and asked whether it should stop.
pub trait Watch: Sync {
    /// A step begins.
    fn step(&self, what: &str);
    /// Whether to stop at the next safe point.
    fn is_cancelled(&self) -> bool;
    /// So much of the step is done, in bytes. Called from any thread, a few times per MiB at
    /// most; the total may still grow.
    fn progress(&self, done_bytes: u64, total_bytes: u64) {
        let _ = (done_bytes, total_bytes);
    }
}

/// A watch that sees nothing and never stops.
#[derive(Debug, Clone, Copy)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn step(&self, _: &str) {}

    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Brings a view one transition further: `decide` fills the draft from the view; if another
/// maintainer was faster it is asked again with the new view. Returns whether anything changed.
///
/// # Errors
///
/// The store failed, `decide` failed, or [`RepositoryError::Contended`].
pub(crate) fn transition(
    repository: &Repository,
    view: &mut View,
    mut decide: impl FnMut(&View, &mut Draft) -> Result<(), RepositoryError>,
) -> Result<bool, RepositoryError> {
    for _ in 0..TRIES {
        let mut draft = Draft::new(view);
        decide(view, &mut draft)?;
        if !draft.is_changed() {
            return Ok(false);
        }
        let again = (!keeps(Rule::LoserStartsOver)).then(|| draft.clone());
        let mut published =
            catalog::publish(repository, &view.head, draft.catalog, draft.snapshots)?;
        let fresh = View::for_maintenance(repository)?;
        if let (None, Some(draft)) = (&published, again) {
            published = catalog::publish(repository, &fresh.head, draft.catalog, draft.snapshots)?;
        }
        *view = if keeps(Rule::ListsAfterEachVersion) { fresh } else { fresh.with_lists_of(view) };
        if published.is_some() {
            return Ok(true);
        }
    }
    Err(RepositoryError::Contended { tries: TRIES })
}

/// Forgets snapshots of `cluster`; with `adopt` also those of others. Returns how many were there.
/// Their space is reclaimed by the next prune.
///
/// # Errors
///
/// The store failed.
pub fn forget(
    repository: &Repository,
    ids: &[SnapshotId],
    cluster: Option<ClusterId>,
) -> Result<u64, RepositoryError> {
    repository.permits(Operation::Maintain)?;
    let mut forgotten = 0;
    for _ in 0..TRIES {
        let mut view = View::for_maintenance(repository)?;
        let is_published = transition(repository, &mut view, |view, draft| {
            forgotten = 0;
            draft.fold(view, now_s());
            for id in ids {
                let ours = draft.snapshots.get(id).is_some_and(|listed| {
                    cluster.is_none_or(|cluster| cluster == listed.snapshot.cluster)
                });
                if ours && draft.forget(id) {
                    forgotten += 1;
                }
            }
            draft.undie(view);
            Ok(())
        })?;
        // A snapshot that was folded after the catalog was read, and its session cleaned before the
        // lists were taken, is in neither.
        if is_published
            || !keeps(Rule::AbsentOnNewest)
            || catalog::newest_number(repository)? == view.head.catalog.n
        {
            return Ok(forgotten);
        }
    }
    Err(RepositoryError::Contended { tries: TRIES })
}

/// Folds commits into the catalog when many have piled up, so that opening stays quick where
/// nobody prunes. Failing is harmless.
///
/// * `waiting`: what [`View::waiting`] was when the run began. Its own commit is one more; if these
///   are few, nothing is asked: whoever comes next sees those of others.
///
/// # Errors
///
/// The store failed.
pub fn fold_if_many(repository: &Repository, waiting: usize) -> Result<(), RepositoryError> {
    let many = rules::many(32, 3);
    if waiting + 1 < many {
        return Ok(());
    }
    let mut view = View::for_maintenance(repository)?;
    if view.waiting() < many {
        return Ok(());
    }
    transition(repository, &mut view, |view, draft| {
        draft.fold(view, now_s());
        Ok(())
    })?;
    sweep::clean_sessions(repository, &view)
}

/// Records which packs are missing or damaged, so that the next backup stores what they held
/// again.
///
/// # Errors
///
/// The store failed.
pub fn record_bad(repository: &Repository, bad: &[PackName]) -> Result<(), RepositoryError> {
    let mut view = View::for_maintenance(repository)?;
    transition(repository, &mut view, |_, draft| {
        draft.set_bad(bad.to_vec());
        Ok(())
    })?;
    Ok(())
}

/// As [`record_bad`] for some packs: `damaged` ones are added to the list, `sound` ones leave it.
///
/// # Errors
///
/// The store failed.
pub(crate) fn update_bad(
    repository: &Repository,
    damaged: &HashSet<PackName>,
    sound: &HashSet<PackName>,
) -> Result<(), RepositoryError> {
    let mut view = View::for_maintenance(repository)?;
    transition(repository, &mut view, |view, draft| {
        let known = &view.head.catalog.bad;
        let mut bad: Vec<PackName> =
            known.iter().filter(|pack| !sound.contains(*pack)).copied().collect();
        let new = damaged.iter().filter(|pack| !known.contains(pack));
        bad.extend(new);
        draft.set_bad(bad);
        Ok(())
    })?;
    Ok(())
}

/// Brings the index in line with a view, all of it: what a lost segment listed must not look
/// unneeded.
fn sync_whole(repository: &Repository, index: &Index, view: &View) -> Result<(), RepositoryError> {
    let unreadable = sync_index(repository, index, view)?;
    if unreadable.is_empty() || !keeps(Rule::WholeIndexJudges) {
        Ok(())
    } else {
        Err(RepositoryError::IndexNotWhole { segments: unreadable.len() })
    }
}

fn step(watch: &dyn Watch, what: &str) -> Result<(), RepositoryError> {
    watch.step(what);
    if watch.is_cancelled() { Err(RepositoryError::Cancelled) } else { Ok(()) }
}

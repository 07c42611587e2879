//! Copying snapshots into another repository, which moves only what that one lacks.
//!
//! Ids and seals are per repository: each chunk is opened and verified under the source's keys,
//! named anew under the target's and sealed again; only the compressed frame stays as it is. The
//! manifest is rewritten with the new ids, page by page. Three things keep a copy from reading what
//! the target has already:
//!
//! - an earlier snapshot and its copy, side by side: pages that did not change are taken over by
//!   their place (`pair.rs`, `volume.rs`),
//! - a local memory of which chunk is which (`dictionary.rs`),
//! - keys that both repositories share, where they do.
//!
//! A snapshot is copied in a run of its own, committed as any backup is; [`Copier::copy`] may be
//! killed at any moment, and the next one goes on from the last checkpoint.

mod dictionary;
mod mover;
mod origin;
mod pair;
#[cfg(test)]
mod tests;
mod tree;
mod volume;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};

use repo_format::id::{ChunkId, ClusterId, SnapshotId};
use repo_format::pack::PackKind;
use repo_format::snapshot::{Completeness, Snapshot, VolumeKind};

use crate::effort::Effort;
use crate::index::Index;
use crate::packer::{PackOptions, lock};
use crate::parallel::both;
use crate::repository::now_s;
use crate::session::OpenSession;
use crate::store::StoreError;
use crate::view::View;
use crate::writer::{Writer, WriterOptions, sync_index};
use crate::{Repository, RepositoryError, gc, lock as locks};

use dictionary::Dictionary;
use mover::{Mover, Names};
pub use origin::{Counterparts, ORIGIN_TAG, Origin, Selection, origins};

/// A repository and its index.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Opened.
    pub repository: Arc<Repository>,
    /// Of that repository, in line with nothing yet.
    pub index: Arc<Index>,
}

/// How to copy.
#[derive(Debug, Clone, Copy)]
pub struct CopyOptions {
    /// Threads that fetch and store; each holds a range of 4 MiB and a chunk.
    pub threads: usize,
    /// Packs of the target.
    pub packs: PackOptions,
    /// Whose snapshots these are.
    pub cluster: ClusterId,
    /// What is stored is made safe from being stored again at least this often,
    pub checkpoint_every: Duration,
    /// or when this much was stored.
    pub checkpoint_bytes: u64,
    /// For the memory of which chunk is which.
    pub dictionary_bytes: usize,
}

/// How a copy is held back and stopped. Called from any thread.
pub trait Control: Sync {
    /// Before so many bytes are fetched from the source. May wait.
    fn pace(&self, bytes: u64) {
        let _ = bytes;
    }

    /// Whether to stop. What is stored stays useful.
    fn is_cancelled(&self) -> bool {
        false
    }

    /// Something is not as it should be, and copying goes on.
    fn warn(&self, text: &str) {
        let _ = text;
    }
}

/// How far a copy is, in bytes; all counters rise only.
#[derive(Debug, Default)]
pub struct Progress {
    /// Of the snapshots' content: copied, or found to be there.
    pub done_bytes: AtomicU64,
    /// Of them: there already.
    pub present_bytes: AtomicU64,
    /// Fetched from packs of the source.
    pub fetched_bytes: AtomicU64,
    /// Of manifests read from the source, decompressed.
    pub manifest_bytes: AtomicU64,
    /// Stored in the target by this snapshot and those before.
    pub stored_bytes: AtomicU64,
}

impl Progress {
    fn add(counter: &AtomicU64, bytes: u64) {
        counter.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Why a snapshot was not copied.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message is its doc")]
pub enum CopyError {
    #[error("the source cannot be read")]
    Source(#[source] RepositoryError),
    #[error("the target cannot be used")]
    Target(#[source] RepositoryError),
    #[error("the snapshot was forgotten before it could be copied")]
    Vanished,
    #[error("it was cancelled; what is stored stays useful")]
    Cancelled,
}

impl CopyError {
    /// Whether the snapshot is damaged in the source, so that others may still be copied.
    pub const fn is_source_damage(&self) -> bool {
        matches!(self, Self::Source(error) if error.is_damage())
    }

    /// Whether it only says that something else stopped the copy: of the threads that meet a
    /// failure of the target, one is told what it is.
    const fn is_echo(&self) -> bool {
        matches!(self, Self::Cancelled | Self::Target(RepositoryError::Cancelled))
    }
}

/// A snapshot that was copied.
#[derive(Debug, Clone)]
pub struct Copied {
    /// In the target.
    pub snapshot: Snapshot,
    /// Whether another process had copied it meanwhile: nothing was done then.
    pub was_present: bool,
}

/// Copies snapshots from one repository to another.
#[derive(Debug)]
pub struct Copier {
    source: Endpoint,
    target: Endpoint,
    dictionary: Dictionary,
    same_ids: bool,
    options: CopyOptions,
}

impl Copier {
    /// Gets ready. Returns also what a user may want to know and that is no error.
    ///
    /// * `cache_dir`: where the memory of which chunk is which is kept; it may be deleted at any
    ///   time, which costs reading again.
    pub fn new(
        source: Endpoint,
        target: Endpoint,
        cache_dir: &Path,
        options: CopyOptions,
    ) -> (Self, Option<String>) {
        let id_of = |endpoint: &Endpoint| {
            let keys = endpoint.repository.keys();
            [PackKind::Data, PackKind::Meta].map(|kind| keys.chunk_id(kind, b"salvor copy"))
        };
        let same_ids = id_of(&source) == id_of(&target);
        let (dictionary, notice) = if same_ids {
            (Dictionary::none(), None)
        } else {
            let ids = (source.repository.id(), target.repository.id());
            Dictionary::open(cache_dir, ids, options.dictionary_bytes)
        };
        (Self { source, target, dictionary, same_ids, options }, notice)
    }

    /// Which snapshots of the source are in the target, by these views.
    pub fn counterparts(&self, source: &View, target: &View) -> Counterparts {
        Counterparts::between(
            (self.source.repository.id(), source),
            (self.target.repository.id(), target),
        )
    }

    /// Copies one snapshot. When this returns `Ok` it is durable and visible in the target.
    ///
    /// # Errors
    ///
    /// [`CopyError`]; what was stored is kept for the next try, as far as the target allows.
    pub fn copy(
        &self,
        id: &SnapshotId,
        progress: &Progress,
        control: &dyn Control,
    ) -> Result<Copied, CopyError> {
        let (source, writer) = both(|| self.open_source(id, control), || self.open_writer(control));
        let (_session, source_view, snapshot) = source?;
        let writer = writer?;
        let counterparts = self.counterparts(&source_view, writer.view());
        if let Some(there) = counterparts.of(id)
            && let Some(there) = writer.view().all_snapshots().get(&there)
        {
            return Ok(Copied { snapshot: (*there).clone(), was_present: true });
        }
        let run = Run {
            copier: self,
            record: self.record(&snapshot, &counterparts),
            snapshot,
            source_view,
            counterparts,
            writer,
            stored_before: progress.stored_bytes.load(Ordering::Relaxed),
            progress,
            control,
        };
        run.finish()
    }

    /// Keeps `id` from being collected while it is read. A repository that may not be written to is
    /// read without.
    fn pin(&self, id: &SnapshotId) -> Result<(Option<OpenSession>, View), CopyError> {
        let repository = &self.source.repository;
        match OpenSession::reader(repository, self.options.cluster, *id, None) {
            Ok((session, view)) => Ok((Some(session), view)),
            Err(RepositoryError::NoSnapshot { .. }) => Err(CopyError::Vanished),
            Err(RepositoryError::Store(StoreError::Denied { .. } | StoreError::Refused { .. })) => {
                Ok((None, View::for_reading(repository).map_err(CopyError::Source)?))
            }
            Err(error) => Err(CopyError::Source(error)),
        }
    }

    /// Pins a snapshot, and brings the index in line with the view that shows it.
    fn open_source(
        &self,
        id: &SnapshotId,
        control: &dyn Control,
    ) -> Result<(Option<OpenSession>, View, Snapshot), CopyError> {
        let (session, view) = self.pin(id)?;
        let snapshot = view.all_snapshots().get(id).copied().cloned();
        let snapshot = snapshot.ok_or(CopyError::Vanished)?;
        let problems = sync_index(&self.source.repository, &self.source.index, &view);
        for problem in problems.map_err(CopyError::Source)? {
            control.warn(&problem);
        }
        Ok((session, view, snapshot))
    }

    fn open_writer(&self, control: &dyn Control) -> Result<Writer, CopyError> {
        let CopyOptions { packs, cluster, .. } = self.options;
        let options = WriterOptions { effort: Effort::default(), packs, cluster };
        let index = Arc::clone(&self.target.index);
        let (writer, unreadable) =
            Writer::open(&self.target.repository, index, &options).map_err(CopyError::Target)?;
        for problem in unreadable {
            control.warn(&format!("{problem}; what it lists is stored again"));
        }
        Ok(writer)
    }

    /// What the copy will say of itself; the root is not known yet.
    fn record(&self, snapshot: &Snapshot, counterparts: &Counterparts) -> Snapshot {
        Snapshot {
            tags: origin::tags_of_copy(snapshot, self.source.repository.id()),
            parent: snapshot.parent.and_then(|parent| counterparts.of(&parent)),
            root: ChunkId::NONE,
            holds: None,
            ..snapshot.clone()
        }
    }

    /// Tidies up after a round: removes checkpoints of killed copies that nothing will go on from,
    /// those of snapshots that the source has forgotten or that were copied since, and keeps the
    /// memory of which chunk is which from growing for ever. Returns how many checkpoints there were.
    ///
    /// * `source`, `target`: views from before or after the round.
    ///
    /// # Errors
    ///
    /// The target failed.
    pub fn tidy(&self, source: &View, target: &View) -> Result<u64, RepositoryError> {
        let segments = target.index_view().segments;
        self.dictionary.trim(segments.iter().map(|segment| segment.entries).sum());
        let counterparts = self.counterparts(source, target);
        let stale = self.stale_checkpoints(source, target, &counterparts, None);
        if stale.is_empty() {
            return Ok(0);
        }
        gc::forget(&self.target.repository, &stale, Some(self.options.cluster))
    }

    /// Checkpoints of the target that copies from this source left and that are of no use any more,
    /// `finished` counting as copied.
    fn stale_checkpoints(
        &self,
        source: &View,
        target: &View,
        counterparts: &Counterparts,
        finished: Option<SnapshotId>,
    ) -> Vec<SnapshotId> {
        let there = source.all_snapshots();
        let is_done = |id: &SnapshotId| {
            finished == Some(*id) || counterparts.of(id).is_some() || !there.contains_key(id)
        };
        let from_here = |checkpoint: &Snapshot| {
            let from = |origin: &Origin| origin.repository == *self.source.repository.id();
            origins(checkpoint).find(from).map(|origin| origin.snapshot)
        };
        target
            .all_snapshots()
            .into_values()
            .filter(|snapshot| snapshot.completeness == Completeness::Checkpoint)
            .filter(|snapshot| snapshot.cluster == self.options.cluster)
            .filter(|snapshot| from_here(snapshot).is_some_and(|id| is_done(&id)))
            .map(|snapshot| snapshot.id)
            .collect()
    }
}

/// The copying of one snapshot.
struct Run<'a> {
    copier: &'a Copier,
    snapshot: Snapshot,
    /// What the copy and its checkpoints say of themselves.
    record: Snapshot,
    source_view: View,
    counterparts: Counterparts,
    writer: Writer,
    stored_before: u64,
    progress: &'a Progress,
    control: &'a dyn Control,
}

impl Run<'_> {
    fn finish(self) -> Result<Copied, CopyError> {
        let root = match self.supervised() {
            Ok(root) => root,
            Err(error) => {
                // So that the next try, and the next snapshot, need not store it again. If the
                // target is what failed, this fails too.
                return Err(match self.checkpoint() {
                    Err(cause) if error.is_echo() => CopyError::Target(cause),
                    _ => error,
                });
            }
        };
        self.copier.dictionary.flush();
        if let Some(snapshot) = self.copied_by_others()? {
            return Ok(Copied { snapshot, was_present: true });
        }
        let Self { copier, snapshot, record, source_view, counterparts, writer, .. } = self;
        let superseded =
            copier.stale_checkpoints(&source_view, writer.view(), &counterparts, Some(snapshot.id));
        let waiting = writer.view().waiting();
        let counts = writer.counts();
        let mut record = Snapshot { root, ..record };
        record.sizes.new_plain = counts.new_plain_bytes;
        let (lock, index) = (writer.view().head.catalog.lock.clone(), Arc::clone(writer.index()));
        let copied = writer.finish(record, superseded).map_err(CopyError::Target)?;
        let stored = self.stored_before + copied.sizes.new_stored;
        self.progress.stored_bytes.store(stored, Ordering::Relaxed);
        // Whoever opens the target next is spared the work; failing costs only that.
        drop(gc::fold_if_many(&copier.target.repository, waiting));
        // A prune of the target does it, too, and says what is in the way.
        if locks::is_overdue(&copier.target.repository, lock.as_ref()) {
            drop(locks::assist(&copier.target.repository, &index, locks::ASSIST_MAX));
        }
        Ok(Copied { snapshot: copied, was_present: false })
    }

    /// The copy that another process has made meanwhile. Two that end in the same moment both
    /// stay, which does no harm.
    fn copied_by_others(&self) -> Result<Option<Snapshot>, CopyError> {
        let target = &self.copier.target.repository;
        let view = View::for_reading(target).map_err(CopyError::Target)?;
        let there = self.copier.counterparts(&self.source_view, &view).of(&self.snapshot.id);
        Ok(there.and_then(|id| view.all_snapshots().get(&id).copied().cloned()))
    }

    /// Makes what was stored safe.
    fn checkpoint(&self) -> Result<(), RepositoryError> {
        // First, so that every chunk that is safe is known by name, too.
        self.copier.dictionary.flush();
        // The snapshot may be old; what was copied of it so far is not, and waits for the next run
        // from now on.
        let finished_ns = i64::try_from(now_s()).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
        self.writer.checkpoint(Snapshot { finished_ns, ..self.record.clone() })
    }

    /// Copies while checkpoints are made beside.
    fn supervised(&self) -> Result<ChunkId, CopyError> {
        let stop = AtomicBool::new(false);
        let failure = Mutex::new(None);
        let (ended, end) = bounded::<()>(0);
        let copied = std::thread::scope(|scope| {
            scope.spawn(|| {
                if let Err(error) = self.checkpoint_until(&end) {
                    *lock(&failure) = Some(CopyError::Target(error));
                    stop.store(true, Ordering::Relaxed);
                }
            });
            let copied = self.work(&stop);
            drop(ended);
            copied
        });
        let failure = lock(&failure).take();
        match (copied, failure) {
            (Err(error), Some(failure)) if error.is_echo() => Err(failure),
            (copied, _) => copied,
        }
    }

    fn checkpoint_until(
        &self,
        end: &crossbeam_channel::Receiver<()>,
    ) -> Result<(), RepositoryError> {
        const GLANCE: Duration = Duration::from_millis(100);
        let CopyOptions { checkpoint_every, checkpoint_bytes, .. } = self.copier.options;
        let (mut last, mut last_stored) = (Instant::now(), 0);
        while end.recv_timeout(GLANCE) == Err(RecvTimeoutError::Timeout) {
            let stored = self.writer.counts().stored_bytes;
            self.progress.stored_bytes.store(self.stored_before + stored, Ordering::Relaxed);
            if last.elapsed() >= checkpoint_every || stored - last_stored >= checkpoint_bytes {
                self.checkpoint()?;
                last = Instant::now();
                last_stored = self.writer.counts().stored_bytes;
            }
        }
        Ok(())
    }

    fn work(&self, stop: &AtomicBool) -> Result<ChunkId, CopyError> {
        if self.snapshot.root == ChunkId::NONE {
            return Ok(ChunkId::NONE);
        }
        let Copier { source, target, dictionary, same_ids, options } = self.copier;
        let mover = Mover {
            source: &mover::reader(source),
            target: &mover::reader(target),
            writer: &self.writer,
            dictionary,
            same_ids: *same_ids,
            threads: options.threads,
            progress: self.progress,
            control: self.control,
            stop,
        };
        let base = origin::nearest_pair(
            &self.snapshot,
            &self.source_view,
            self.writer.view(),
            &self.counterparts,
        )
        .map(|(source, target)| (source.root, target.root));
        match self.snapshot.kind {
            VolumeKind::Block => volume::copy(&mover, &self.snapshot.root, base),
            VolumeKind::Tree => tree::copy(&mover, &self.snapshot.root, base),
        }
    }
}

/// What a chunk that was brought is called in the target.
fn name_of(names: &Names, id: &ChunkId) -> Result<ChunkId, CopyError> {
    names.get(id).copied().ok_or(CopyError::Source(RepositoryError::MissingChunk { id: *id }))
}

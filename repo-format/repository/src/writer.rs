//! Storing chunks and committing snapshots.
//!
//! A run is one main session, open from the first lookup to the commit: it keeps everything the
//! run relies on from being collected. Every so often a checkpoint makes what was stored so far
//! visible through a small session of its own, so that a killed run never stores it again.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use repo_format::config::Operation;
use repo_format::frame::{Compression, FrameEncoder};
use repo_format::id::{ChunkId, ClusterId, SegmentName, SessionId, SnapshotId};
use repo_format::pack::PackKind;
use repo_format::segment::{Entry, PackRow};
use repo_format::session::{Commit, SegmentRef};
use repo_format::snapshot::{Completeness, Snapshot};

use crate::chunks::ChunkSink;
use crate::effort::{Effort, Governor};
use crate::fill::Filler;
use crate::glance::Glance;
use crate::index::{Index, IndexError, SyncReport};
use crate::packer::{PackOptions, Packer, StoredPack, lock};
use crate::parallel::both;
use crate::rules::{Rule, keeps};
use crate::session::OpenSession;
use crate::view::View;
use crate::{Repository, RepositoryError, random, segments};

/// How a run writes.
#[derive(Debug, Clone, Copy)]
pub struct WriterOptions {
    /// How hard to compress data. Metadata is always compressed.
    pub effort: Effort,
    /// Packs.
    pub packs: PackOptions,
    /// Whose snapshots these are.
    pub cluster: ClusterId,
}

/// What a run did to the repository so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct WriterCounts {
    /// Chunks given.
    pub chunks: u64,
    /// Of them new.
    pub new_chunks: u64,
    /// Plain bytes of the new ones.
    pub new_plain_bytes: u64,
    /// What the new ones take sealed, without tables and padding.
    pub new_sealed_bytes: u64,
    /// Bytes of stored packs, everything included.
    pub stored_bytes: u64,
}

const SHARDS: usize = 16;

/// Stores chunks for one run. Shared by its threads.
#[derive(Debug)]
pub struct Writer {
    repository: Arc<Repository>,
    index: Arc<Index>,
    view: View,
    cluster: ClusterId,
    // Dropped before the session: no upload may outlive what protects it.
    packer: Packer,
    main: OpenSession,
    /// Loads what is missing of the index.
    filler: Mutex<Option<Filler>>,
    governor: Governor,
    encoders: Mutex<Vec<Encoder>>,
    /// Chunks of this run that no committed segment has yet.
    pending: [Mutex<HashSet<ChunkId>>; SHARDS],
    next_segment: AtomicU32,
    checkpoints: Mutex<Vec<SnapshotId>>,
    chunks: AtomicU64,
    new_chunks: AtomicU64,
    new_plain_bytes: AtomicU64,
    new_sealed_bytes: AtomicU64,
}

#[derive(Debug)]
struct Encoder {
    data: FrameEncoder,
    meta: FrameEncoder,
}

impl Writer {
    /// Opens a run: the session first, then the view it may rely on, then the index in line
    /// with that view. Returns the segments that could not be read, if any: their chunks will be
    /// stored again.
    ///
    /// # Errors
    ///
    /// The store or the index failed.
    pub fn open(
        repository: &Arc<Repository>,
        index: Arc<Index>,
        options: &WriterOptions,
    ) -> Result<(Self, Vec<String>), RepositoryError> {
        Self::open_after(repository, index, options, None, Duration::MAX)
    }

    /// As [`Self::open`], but sooner.
    ///
    /// * `glance`: of this repository; saves round trips. No other session of this process may use
    ///   `index` then: it may show what is older than what that session relies on.
    /// * `patience`: how long to wait for the index, if one segment does not take longer. The others
    ///   are loaded while the run goes on, newest first; until then, what they list may be stored
    ///   again. Reading through the index waits for them.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn open_after(
        repository: &Arc<Repository>,
        index: Arc<Index>,
        options: &WriterOptions,
        glance: Option<&Glance>,
        patience: Duration,
    ) -> Result<(Self, Vec<String>), RepositoryError> {
        repository.permits(Operation::Write)?;
        let fill = |view: &View| Filler::start(repository, &index, view, patience);
        let (main, view, (unreadable, filler)) = match glance {
            Some(glance) => begin_after(repository, options.cluster, glance, &fill)?,
            None => begin(repository, options.cluster, &fill)?,
        };
        let writer = Self {
            filler: Mutex::new(filler),
            packer: Packer::new(repository, main.id(), options.packs)?,
            repository: Arc::clone(repository),
            index,
            view,
            cluster: options.cluster,
            main,
            governor: Governor::new(options.effort),
            encoders: Mutex::new(Vec::new()),
            pending: Default::default(),
            next_segment: AtomicU32::new(0),
            checkpoints: Mutex::default(),
            chunks: AtomicU64::new(0),
            new_chunks: AtomicU64::new(0),
            new_plain_bytes: AtomicU64::new(0),
            new_sealed_bytes: AtomicU64::new(0),
        };
        Ok((writer, unreadable))
    }

    /// What the repository held when the run began.
    pub const fn view(&self) -> &View {
        &self.view
    }

    /// The repository.
    pub const fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// The index that tells what is stored.
    pub const fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// Id of the run's session, which will be the snapshot's.
    pub const fn id(&self) -> SessionId {
        self.main.id()
    }

    /// Whether chunks that a parent's manifest names may be referenced without asking the index:
    /// not while any pack is known to be damaged, so that what it held is stored again.
    pub fn trusts_parents(&self) -> bool {
        self.view.head.catalog.bad.is_empty() && self.view.damaged.is_empty()
    }

    /// Whether the repository has the chunk, and it may be referenced by this run.
    ///
    /// # Errors
    ///
    /// The index failed.
    pub fn knows(&self, id: &ChunkId) -> Result<bool, RepositoryError> {
        if lock(self.shard(id)).contains(id) {
            return Ok(true);
        }
        self.is_indexed(id)
    }

    /// A cache that turns out damaged knows nothing: chunks are stored again until the next sync
    /// rebuilds it.
    fn is_indexed(&self, id: &ChunkId) -> Result<bool, RepositoryError> {
        match self.index.usable(id) {
            Ok(place) => Ok(place.is_some()),
            Err(IndexError::Damaged(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Stores a chunk whose id is known, unless the repository has it already. Returns whether
    /// it was new.
    ///
    /// * `id`: what [`repo_format::keys::Keys::chunk_id`] gives for `plain`.
    ///
    /// # Errors
    ///
    /// The store or the index failed.
    pub fn put_identified(
        &self,
        kind: PackKind,
        id: &ChunkId,
        plain: &[u8],
    ) -> Result<bool, RepositoryError> {
        self.chunks.fetch_add(1, Ordering::Relaxed);
        if self.is_indexed(id)? || !lock(self.shard(id)).insert(*id) {
            return Ok(false);
        }
        self.store(kind, id, plain)?;
        Ok(true)
    }

    /// As [`Self::put_identified`] for a chunk whose frame another pack holds: it is stored as hard
    /// compressed as it was.
    ///
    /// * `frame`: verified to hold the `plain_bytes` bytes that give the id.
    ///
    /// # Errors
    ///
    /// The store or the index failed.
    pub(crate) fn put_frame(
        &self,
        kind: PackKind,
        id: &ChunkId,
        frame: &[u8],
        plain_bytes: usize,
    ) -> Result<bool, RepositoryError> {
        self.chunks.fetch_add(1, Ordering::Relaxed);
        if self.is_indexed(id)? || !lock(self.shard(id)).insert(*id) {
            return Ok(false);
        }
        let pushed = self.packer.push(kind, *id, [frame, &[]])?;
        self.count_new(plain_bytes, pushed.stored_len);
        Ok(true)
    }

    /// Stores a chunk that the repository has already: a repack moves it to a new pack, as hard
    /// compressed as it was.
    ///
    /// * `frame`: verified to hold the `plain_bytes` that give the id.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub(crate) fn rewrite(
        &self,
        kind: PackKind,
        id: &ChunkId,
        frame: &[u8],
        plain_bytes: usize,
    ) -> Result<(), RepositoryError> {
        if lock(self.shard(id)).insert(*id) {
            let pushed = self.packer.push(kind, *id, [frame, &[]])?;
            self.count_new(plain_bytes, pushed.stored_len);
        }
        Ok(())
    }

    fn store(&self, kind: PackKind, id: &ChunkId, plain: &[u8]) -> Result<(), RepositoryError> {
        let mut encoder = self.encoder()?;
        let began = Instant::now();
        let frame = match kind {
            PackKind::Data => encoder.data.encode(plain),
            PackKind::Meta => encoder.meta.encode(plain),
        };
        let compressing = began.elapsed();
        let pushed = self.packer.push(kind, *id, frame.parts());
        lock(&self.encoders).push(encoder);
        let pushed = pushed?;
        if kind == PackKind::Data {
            self.governor.note(plain.len() as u64, compressing, pushed.waited);
        }
        self.count_new(plain.len(), pushed.stored_len);
        Ok(())
    }

    fn count_new(&self, plain_bytes: usize, sealed_bytes: u32) {
        self.new_chunks.fetch_add(1, Ordering::Relaxed);
        self.new_plain_bytes.fetch_add(plain_bytes as u64, Ordering::Relaxed);
        self.new_sealed_bytes.fetch_add(sealed_bytes.into(), Ordering::Relaxed);
    }

    fn shard(&self, id: &ChunkId) -> &Mutex<HashSet<ChunkId>> {
        let [.., last] = id.as_bytes();
        &self.pending[usize::from(*last) % SHARDS]
    }

    /// How data is compressed at the moment.
    pub fn compression(&self) -> Compression {
        self.governor.compression()
    }

    fn encoder(&self) -> Result<Encoder, RepositoryError> {
        let named = |error| RepositoryError::format("the compressor", error);
        let compression = self.governor.compression();
        if let Some(mut encoder) = lock(&self.encoders).pop() {
            encoder.data.set_compression(compression).map_err(named)?;
            return Ok(encoder);
        }
        Ok(Encoder {
            data: FrameEncoder::new(compression).map_err(named)?,
            meta: FrameEncoder::new(Compression::Zstd(3)).map_err(named)?,
        })
    }

    /// Counters so far.
    pub fn counts(&self) -> WriterCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WriterCounts {
            chunks: get(&self.chunks),
            new_chunks: get(&self.new_chunks),
            new_plain_bytes: get(&self.new_plain_bytes),
            new_sealed_bytes: get(&self.new_sealed_bytes),
            stored_bytes: self.packer.stored_bytes(),
        }
    }

    /// Makes what was stored so far visible. `record` describes the run; its id, completeness
    /// and holds are set here. Every chunk its root refers to must have been put before.
    /// Does nothing if nothing was stored since the last time.
    ///
    /// Other threads may put chunks meanwhile.
    ///
    /// # Errors
    ///
    /// The store or the index failed; the run cannot go on then.
    pub fn checkpoint(&self, mut record: Snapshot) -> Result<(), RepositoryError> {
        let Some(batch) = self.store_segment()? else { return Ok(()) };
        let part = OpenSession::part_of(&self.main, self.cluster)?;
        record.id = part.id();
        record.cluster = self.cluster;
        record.completeness = Completeness::Checkpoint;
        record.holds = Some(self.main.id());
        let previous: Vec<SnapshotId> = lock(&self.checkpoints).drain(..).collect();
        part.commit(&Commit {
            nonce: random::bytes()?,
            segments: vec![batch.segment],
            snapshot: Some(record),
            forgets: previous,
        })?;
        lock(&self.checkpoints).push(part.id());
        self.promote(&batch)
    }

    /// Commits the run's snapshot; its id and cluster are set here. `forgets` names further
    /// checkpoints that it supersedes. When this returns, the snapshot is durable and visible.
    ///
    /// # Errors
    ///
    /// The store failed, or the session was fenced.
    pub fn finish(
        self,
        mut snapshot: Snapshot,
        mut forgets: Vec<SnapshotId>,
    ) -> Result<Snapshot, RepositoryError> {
        drop(lock(&self.filler).take());
        let batch = self.store_segment()?;
        snapshot.id = self.main.id();
        snapshot.cluster = self.cluster;
        snapshot.sizes.new_stored = self.packer.stored_bytes();
        forgets.append(&mut lock(&self.checkpoints));
        self.main.commit(&Commit {
            nonce: random::bytes()?,
            segments: batch.iter().map(|batch| batch.segment).collect(),
            snapshot: Some(snapshot.clone()),
            forgets,
        })?;
        if let Some(batch) = batch {
            // The commit stands whatever becomes of the cache.
            drop(self.promote(&batch));
        }
        Ok(snapshot)
    }

    /// Commits what was stored without a snapshot: a repack.
    ///
    /// # Errors
    ///
    /// The store failed, or the session was fenced.
    pub fn finish_repack(self) -> Result<(), RepositoryError> {
        let batch = self.store_segment()?;
        self.main.commit(&Commit {
            nonce: random::bytes()?,
            segments: batch.iter().map(|batch| batch.segment).collect(),
            snapshot: None,
            forgets: Vec::new(),
        })
    }

    fn store_segment(&self) -> Result<Option<Batch>, RepositoryError> {
        let stored = self.packer.flush()?;
        if stored.is_empty() {
            return Ok(None);
        }
        let (packs, mut entries, ids) = index_rows(stored);
        let counter = self.next_segment.fetch_add(1, Ordering::Relaxed);
        let name = SegmentName { session: self.main.id(), counter };
        let segment = segments::write(&self.repository, name, &packs, &mut entries)?;
        Ok(Some(Batch { segment, packs, entries, ids }))
    }

    /// Moves committed chunks from the run's own memory to the index.
    fn promote(&self, batch: &Batch) -> Result<(), RepositoryError> {
        self.index.add_segment(&batch.segment, &batch.packs, &batch.entries)?;
        for id in &batch.ids {
            lock(self.shard(id)).remove(id);
        }
        Ok(())
    }
}

/// What a run relies on: its session, what may be referenced, and how far the index shows it.
type Begun = (OpenSession, View, Filled);

/// The segments that could not be read, and who loads those that had to wait.
type Filled = (Vec<String>, Option<Filler>);

/// Brings the index in line with a view.
type Fill<'a> = dyn Fn(&View) -> Result<Filled, RepositoryError> + Sync + 'a;

/// O1 to O4.
fn begin(
    repository: &Arc<Repository>,
    cluster: ClusterId,
    fill: &Fill<'_>,
) -> Result<Begun, RepositoryError> {
    let take_view = || View::for_writing(repository);
    let early = (!keeps(Rule::ViewAfterSession)).then(take_view).transpose()?;
    let main = OpenSession::writer(repository, cluster)?;
    let view = early.map_or_else(take_view, Ok)?;
    if main.is_over_in(&view) {
        drop(main);
        return begin(repository, cluster, fill);
    }
    let filled = fill(&view)?;
    Ok((main, view, filled))
}

/// O1 to O4 from a glance: the session is created while what was seen is read, and the catalogs are
/// listed once more (O3) while the index takes in what it lacks. Only if there is a newer one by then,
/// all is listed anew.
fn begin_after(
    repository: &Arc<Repository>,
    cluster: ClusterId,
    glance: &Glance,
    fill: &Fill<'_>,
) -> Result<Begun, RepositoryError> {
    let (main, mut known) = both(
        || OpenSession::writer_from(repository, cluster, glance.n),
        || View::of_glance(repository, glance),
    );
    let main = main?;
    if let Some(view) = known.take() {
        let (is_current, filled) = both(|| view.is_current(repository), || fill(&view));
        if is_current? {
            return Ok((main, view, filled?));
        }
        // What is loaded for it in the background ends here, before another view's begins.
        known = Some(view);
    }
    let view = View::for_writing_after(repository, known.as_ref())?;
    if main.is_over_in(&view) {
        drop(main);
        return begin(repository, cluster, fill);
    }
    let filled = fill(&view)?;
    Ok((main, view, filled))
}

struct Batch {
    segment: SegmentRef,
    packs: Vec<PackRow>,
    entries: Vec<Entry>,
    ids: Vec<ChunkId>,
}

fn index_rows(stored: Vec<StoredPack>) -> (Vec<PackRow>, Vec<Entry>, Vec<ChunkId>) {
    let (mut packs, mut entries, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    for (number, pack) in (0u32..).zip(stored) {
        packs.push(pack.row);
        for (slot, row) in (0u32..).zip(&pack.chunks) {
            entries.push(Entry::new(&row.id, number, row.offset, row.stored_len, slot));
            ids.push(row.id);
        }
    }
    (packs, entries, ids)
}

impl ChunkSink for Writer {
    fn put(&self, kind: PackKind, plain: &[u8]) -> Result<ChunkId, RepositoryError> {
        let id = self.repository.keys().chunk_id(kind, plain);
        self.put_identified(kind, &id, plain)?;
        Ok(id)
    }
}

/// Brings the index in line with a view. Returns the segments that could not be read.
///
/// # Errors
///
/// The index failed.
pub fn sync_index(
    repository: &Repository,
    index: &Index,
    view: &View,
) -> Result<Vec<String>, RepositoryError> {
    let source = segments::Source::new(repository);
    Ok(problems(&index.sync(&view.index_view(), &source)?))
}

/// In words, which segments could not be read.
pub(crate) fn problems(report: &SyncReport) -> Vec<String> {
    let named =
        |(segment, why): &(SegmentRef, String)| format!("index segment x/{}: {why}", segment.name);
    report.unreadable.iter().map(named).collect()
}

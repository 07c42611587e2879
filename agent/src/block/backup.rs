//! Backing a block volume up: planned by page, read with a deep queue, hashed and stored by as
//! many workers as there are cores.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use repo_format::id::ChunkId;
use repo_format::pack::PackKind;
use repo_format::snapshot::Issue;
use repo_format::volume::{Page, PageRef, Slot, VolumeRoot};
use repository::RepositoryError;
use repository::chunks::{ChunkSink, ChunkSource};
use repository::writer::Writer;

use super::pages::{FullPage, Pages};
use super::plan::{Grid, NoParent, Parent, Planned, Planner, is_comparable};
use super::{ChangedExtents, Progress, is_zero};
use crate::volume::{
    BufPool, Engine, Extent, ExtentKind, READ_DEPTH, ReadDone, ReadEnd, ReadRequest, ReadSetup,
    Source, VolumeError, read_all,
};

/// Reads planned ahead of the disk.
const PLANNED_AHEAD: usize = 256;

/// Why a backup of a block volume stopped.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message is its doc")]
pub enum BlockError {
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error(
        "a volume of {size_bytes} bytes is too large for chunks of {chunk_bytes} bytes: choose larger ones with `salvor init --chunk-size`"
    )]
    TooLarge { size_bytes: u64, chunk_bytes: u64 },
    #[error("interrupted")]
    Interrupted,
    #[error("a worker stopped unexpectedly; this is a bug")]
    WorkerLost,
}

/// How to back up.
#[derive(Debug, Clone)]
pub struct BackupSetup {
    /// log2 of the chunk length.
    pub chunk_log2: u8,
    /// The parent's manifest root.
    pub parent: Option<VolumeRoot>,
    /// Whether all of the parent's volume could be read when it was saved.
    pub parent_is_complete: bool,
    /// What changed since the parent; `None`: everything may have.
    pub changed: Option<ChangedExtents>,
    /// How to read.
    pub engine: Engine,
    /// Buffers of one chunk each.
    pub pool: BufPool,
    /// Hashing and compressing threads.
    pub workers: usize,
    /// Most bytes to read a second; `None`: no limit.
    pub bytes_per_second: Option<u64>,
    /// Set it to stop.
    pub cancel: Arc<AtomicBool>,
}

/// What a backup found.
#[derive(Debug)]
pub struct BlockOutcome {
    /// The manifest's root, stored.
    pub root: ChunkId,
    /// Bytes of the volume that are no holes.
    pub allocated_bytes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Extents that could not be read.
    pub issues: Vec<Issue>,
}

/// Called every second or so while a backup runs; may store checkpoints.
pub type Tick<'a> = &'a mut dyn FnMut() -> Result<(), RepositoryError>;

/// Backs `source` up. What it stored before an error stays stored.
///
/// # Errors
///
/// [`BlockError::Interrupted`] after `setup.cancel`; the repository or the volume failed as a
/// whole. An extent that cannot be read is an issue, no error.
pub fn backup(
    source: &Arc<Source>,
    writer: &Writer,
    parents: &dyn ChunkSource,
    setup: BackupSetup,
    progress: &Progress,
    tick: Tick<'_>,
) -> Result<BlockOutcome, BlockError> {
    let grid = Grid { size_bytes: source.size_bytes(), chunk_log2: setup.chunk_log2 };
    let root = VolumeRoot::new(grid.size_bytes, grid.chunk_log2).map_err(|_| {
        BlockError::TooLarge { size_bytes: grid.size_bytes, chunk_bytes: grid.chunk_bytes() }
    })?;
    let run = Run {
        grid,
        writer,
        pages: Pages::new(root),
        progress,
        trusts_parent: writer.trusts_parents(),
        issues: Mutex::default(),
        failure: Mutex::default(),
        cancel: Arc::clone(&setup.cancel),
        stop: Arc::new(AtomicBool::new(false)),
        allocated_bytes: AtomicU64::new(0),
    };
    let read_bytes = run.pump(source, parents, setup, tick)?;
    let allocated_bytes = run.allocated_bytes.load(Ordering::Relaxed);
    let issues = run.issues.into_inner().unwrap_or_else(PoisonError::into_inner);
    let root = writer.put(PackKind::Meta, &run.pages.into_root().encode())?;
    Ok(BlockOutcome { root, allocated_bytes, read_bytes, issues })
}

struct Run<'a> {
    grid: Grid,
    writer: &'a Writer,
    pages: Pages,
    progress: &'a Progress,
    trusts_parent: bool,
    issues: Mutex<Vec<Issue>>,
    failure: Mutex<Option<BlockError>>,
    cancel: Arc<AtomicBool>,
    /// Stops the reading: set by `cancel` or by a failure.
    stop: Arc<AtomicBool>,
    allocated_bytes: AtomicU64,
}

impl Run<'_> {
    /// Runs planner, reader and workers to their end. Returns the bytes read.
    fn pump(
        &self,
        source: &Arc<Source>,
        parents: &dyn ChunkSource,
        setup: BackupSetup,
        tick: Tick<'_>,
    ) -> Result<u64, BlockError> {
        let (plan_out, plan_in) = bounded::<ReadRequest>(PLANNED_AHEAD);
        let (read_out, read_in) = bounded::<ReadDone>(setup.pool.count());
        let limit = setup.bytes_per_second.map(Throttle::new);
        let requests = PacedRequests { requests: plan_in, limit, stop: Arc::clone(&self.stop) };
        let read_setup = ReadSetup {
            engine: setup.engine,
            depth: READ_DEPTH.min(setup.pool.count().saturating_sub(setup.workers).max(1)),
            pool: setup.pool,
            cancel: Arc::clone(&self.stop),
        };
        let reading = read_all(Arc::clone(source), requests, read_setup, read_out)?;
        let (done_out, done_in) = bounded::<()>(0);
        std::thread::scope(|scope| {
            let parent = setup.parent.filter(|parent| is_comparable(parent, self.grid));
            let changed = setup.changed.filter(|_| parent.is_some());
            scope.spawn(move || {
                let extents = Counted { inner: source.extents(), run: self };
                let planned = match parent {
                    Some(root) => {
                        let is_sound = self.trusts_parent && setup.parent_is_complete;
                        let writer = self.writer;
                        let parent = StoredParent { root, source: parents, is_sound, writer };
                        self.plan(Planner::new(self.grid, extents, changed, parent), &plan_out)
                    }
                    None => self.plan(Planner::new(self.grid, extents, None, NoParent), &plan_out),
                };
                self.note(planned);
            });
            for _ in 0..setup.workers {
                let (read_in, done) = (read_in.clone(), done_out.clone());
                scope.spawn(move || {
                    let worked = self.work(&read_in);
                    self.note(worked);
                    drop(done);
                });
            }
            drop((read_in, done_out));
            self.supervise(&done_in, tick);
        });
        let summary = reading.join()?;
        if let Some(failure) = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(failure);
        }
        if self.cancel.load(Ordering::Relaxed) || summary.end == ReadEnd::Cancelled {
            return Err(BlockError::Interrupted);
        }
        if summary.end != ReadEnd::Complete {
            return Err(BlockError::WorkerLost);
        }
        Ok(summary.bytes)
    }

    /// Waits for the workers, ticking meanwhile and passing a cancellation on.
    fn supervise(&self, workers_done: &Receiver<()>, tick: Tick<'_>) {
        const GLANCE: Duration = Duration::from_millis(100);
        while workers_done.recv_timeout(GLANCE).is_err_and(|error| error.is_timeout()) {
            if self.cancel.load(Ordering::Relaxed) {
                self.stop.store(true, Ordering::Relaxed);
            } else if !self.stop.load(Ordering::Relaxed) {
                self.note(tick().map_err(BlockError::from));
            }
        }
    }

    /// Keeps the first failure and stops everything.
    fn note(&self, result: Result<(), BlockError>) {
        let Err(error) = result else { return };
        self.stop.store(true, Ordering::Relaxed);
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    fn plan<E: Iterator<Item = Extent>, P: Parent>(
        &self,
        mut planner: Planner<E, P>,
        requests: &crossbeam_channel::Sender<ReadRequest>,
    ) -> Result<(), BlockError> {
        while let Some((number, planned)) = planner.next_page()? {
            let work = match planned {
                Planned::Done(page) => {
                    self.pages.close(number, page);
                    continue;
                }
                Planned::Work(work) => work,
            };
            let read = work.read.clone();
            if let Some(full) = self.pages.start(work) {
                self.store_page(&full)?;
            }
            for chunk in read {
                let span = self.grid.span(chunk);
                let len_bytes = usize::try_from(span.end - span.start).unwrap_or(usize::MAX);
                let request = ReadRequest { offset_bytes: span.start, len_bytes };
                if requests.send(request).is_err() {
                    // The reader stopped; why is known elsewhere.
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn work(&self, answers: &Receiver<ReadDone>) -> Result<(), BlockError> {
        for answer in answers {
            if self.stop.load(Ordering::Relaxed) {
                continue;
            }
            let chunk = answer.offset_bytes >> self.grid.chunk_log2;
            let slot = match &answer.result {
                Ok(bytes) => self.store_chunk(chunk, bytes)?,
                Err(error) => {
                    self.record_issue(&answer, error);
                    Slot::Missing
                }
            };
            Progress::add(&self.progress.done, answer.len_bytes as u64);
            if let Some(full) = self.pages.set(chunk, slot) {
                self.store_page(&full)?;
            }
        }
        Ok(())
    }

    fn store_chunk(&self, chunk: u64, plain: &[u8]) -> Result<Slot, BlockError> {
        Progress::add(&self.progress.read, plain.len() as u64);
        if is_zero(plain) {
            return Ok(Slot::Zero);
        }
        let id = self.writer.repository().keys().chunk_id(PackKind::Data, plain);
        let slot = Slot::Data(id);
        let same_as_parent =
            self.trusts_parent && self.pages.parent_slot(chunk).is_some_and(|other| other == slot);
        if !same_as_parent {
            self.writer.put_identified(PackKind::Data, &id, plain)?;
        }
        Ok(slot)
    }

    fn store_page(&self, full: &FullPage) -> Result<(), BlockError> {
        let mut stored = Ok(ChunkId::NONE);
        let summary = full.page.summary(|| {
            stored = self.writer.put(PackKind::Meta, &full.page.encode());
            stored.as_ref().copied().unwrap_or(ChunkId::NONE)
        });
        stored?;
        self.pages.close(full.number, summary);
        Ok(())
    }

    fn record_issue(&self, answer: &ReadDone, error: &std::io::Error) {
        let end = answer.offset_bytes + answer.len_bytes as u64;
        let what = format!("bytes {}..{end}", answer.offset_bytes);
        let issue = Issue { what, why: error.to_string() };
        self.issues.lock().unwrap_or_else(PoisonError::into_inner).push(issue);
    }
}

/// Extents that are summed up as they are met.
struct Counted<'a, E> {
    inner: E,
    run: &'a Run<'a>,
}

impl<E: Iterator<Item = Extent>> Iterator for Counted<'_, E> {
    type Item = Extent;

    fn next(&mut self) -> Option<Extent> {
        let extent = self.inner.next()?;
        if extent.kind == ExtentKind::Data {
            self.run.allocated_bytes.fetch_add(extent.len_bytes, Ordering::Relaxed);
        }
        Some(extent)
    }
}

struct StoredParent<'a> {
    root: VolumeRoot,
    source: &'a dyn ChunkSource,
    is_sound: bool,
    writer: &'a Writer,
}

impl Parent for StoredParent<'_> {
    fn page_ref(&self, number: u64) -> Option<PageRef> {
        self.root.pages.get(usize::try_from(number).ok()?).copied()
    }

    fn page(&mut self, number: u64) -> Result<Option<Page>, RepositoryError> {
        let Some(PageRef::Page(id)) = self.page_ref(number) else { return Ok(None) };
        let mut plain = Vec::new();
        match self.source.get(PackKind::Meta, &id, &mut plain) {
            Ok(()) => Ok(Page::decode(&plain).ok()),
            // A damaged parent is no parent: its chunks are read and stored again.
            Err(error) if error.is_damage() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn size_bytes(&self) -> u64 {
        self.root.size_bytes
    }

    fn is_sound(&self) -> bool {
        self.is_sound
    }

    fn has(&self, id: &ChunkId) -> Result<bool, RepositoryError> {
        self.writer.knows(id)
    }
}

/// Planned requests, no faster than a limit.
struct PacedRequests {
    requests: Receiver<ReadRequest>,
    limit: Option<Throttle>,
    stop: Arc<AtomicBool>,
}

impl Iterator for PacedRequests {
    type Item = ReadRequest;

    fn next(&mut self) -> Option<ReadRequest> {
        let request = self.requests.recv().ok()?;
        if let Some(limit) = &mut self.limit {
            limit.pace(request.len_bytes as u64, &self.stop);
        }
        Some(request)
    }
}

/// Spreads bytes evenly over time.
#[derive(Debug)]
pub struct Throttle {
    bytes_per_second: u64,
    due: Instant,
}

impl Throttle {
    /// `bytes_per_second`: at least 1.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), due: Instant::now() }
    }

    /// Waits until `bytes` more are within the limit, or until `stop` is set. Time not used is not
    /// saved up for a burst.
    pub fn pace(&mut self, bytes: u64, stop: &AtomicBool) {
        const GLANCE: Duration = Duration::from_millis(100);
        let now = Instant::now();
        while Instant::now() < self.due && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(GLANCE.min(self.due.saturating_duration_since(Instant::now())));
        }
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.due = self.due.max(now) + cost;
    }
}

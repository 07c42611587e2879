//! Restoring a block volume: planned by pack, fetched in large ranges, every chunk verified before
//! it is written, written in any order.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use repo_format::id::ChunkId;
use repo_format::limits::PAGE_SLOTS;
use repo_format::pack::{CHUNK_OVERHEAD, PackKind};
use repo_format::snapshot::Issue;
use repo_format::volume::{Page, PageRef, Slot, VolumeRoot};
use repository::RepositoryError;
use repository::chunks::ChunkSource;
use repository::reader::{Decoder, RANGE_BYTES_MAX, RANGE_GRID_BYTES, Range, Reader};

use super::backup::BlockError;
use super::plan::Grid;
use super::{Progress, is_zero};
use crate::volume::{
    AlignedBuf, BufPool, Engine, PooledBuf, READ_DEPTH, ReadDone, ReadRequest, ReadSetup, Target,
    VolumeKind, WRITE_DEPTH, WriteSetup, Writer, read_all,
};

/// How to restore.
#[derive(Debug, Clone)]
pub struct RestoreSetup {
    /// How to write.
    pub engine: Engine,
    /// Buffers of one chunk each.
    pub pool: BufPool,
    /// Ranges fetched at once; each holds up to 4 MiB.
    pub fetchers: usize,
    /// Decrypting and decompressing threads.
    pub workers: usize,
    /// The target may hold anything: compare first, write only what differs, clear what must be
    /// zero. Otherwise it reads as zeroes everywhere.
    pub in_place: bool,
    /// Write zeroes where the volume had them instead of leaving holes.
    pub no_sparse: bool,
    /// Set it to stop.
    pub cancel: Arc<AtomicBool>,
}

/// What a restore did.
#[derive(Debug, Default)]
pub struct BlockRestored {
    /// Bytes of chunks written.
    pub written_bytes: u64,
    /// Bytes found to be right already.
    pub same_bytes: u64,
    /// Bytes fetched from the repository.
    pub fetched_bytes: u64,
    /// What the snapshot does not have, or the repository not any more: holes in the target.
    pub issues: Vec<Issue>,
    /// Whether some of them are damage in the repository.
    pub damaged: bool,
}

/// Writes the volume `root` to `target`, and makes it durable. Chunks that cannot be had are
/// named in the outcome, and everything else is restored.
///
/// # Errors
///
/// [`BlockError::Interrupted`] after `setup.cancel`; the target failed; the repository cannot be
/// reached; a page of the manifest is lost.
pub fn restore(
    reader: &Reader,
    root: &VolumeRoot,
    target: Arc<Target>,
    setup: &RestoreSetup,
    progress: &Progress,
) -> Result<BlockRestored, BlockError> {
    let grid = Grid { size_bytes: root.size_bytes, chunk_log2: root.chunk_log2 };
    let write_setup = WriteSetup {
        engine: setup.engine,
        depth: WRITE_DEPTH.min(setup.pool.count() / 2).max(1),
        sync: true,
        cancel: Arc::clone(&setup.cancel),
    };
    let writer = Writer::start(Arc::clone(&target), write_setup)?;
    let run = Run {
        grid,
        reader,
        target,
        writer: &writer,
        setup,
        progress,
        outcome: Mutex::default(),
        failure: Mutex::default(),
        stop: AtomicBool::new(false),
        fetched_bytes: AtomicU64::new(0),
    };
    run.pump(root);
    let Run { outcome, failure, fetched_bytes, .. } = run;
    let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
    let interrupted = setup.cancel.load(Ordering::Relaxed);
    let written = writer.finish();
    if interrupted {
        return Err(BlockError::Interrupted);
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    let mut outcome = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcome.written_bytes = written?.bytes;
    outcome.fetched_bytes = fetched_bytes.load(Ordering::Relaxed);
    outcome.issues.sort_by(|a, b| a.what.cmp(&b.what));
    Ok(outcome)
}

struct Run<'a> {
    grid: Grid,
    reader: &'a Reader,
    target: Arc<Target>,
    writer: &'a Writer,
    setup: &'a RestoreSetup,
    progress: &'a Progress,
    outcome: Mutex<BlockRestored>,
    failure: Mutex<Option<BlockError>>,
    stop: AtomicBool,
    fetched_bytes: AtomicU64,
}

/// Chunks of one page that are to be written: id and every place it goes.
type Wants = HashMap<ChunkId, Vec<u64>>;

/// A fetched range on its way to be decoded.
struct Fetched {
    range: Range,
    wants: Arc<Wants>,
    bytes: AlignedBuf,
}

/// A range on its way to be fetched.
struct Planned {
    range: Range,
    wants: Arc<Wants>,
}

impl Run<'_> {
    fn pump(&self, root: &VolumeRoot) {
        let (plan_out, plan_in) = bounded::<Planned>(2 * self.setup.fetchers);
        let (fetch_out, fetch_in) = bounded::<Fetched>(1);
        let buffers = self.setup.fetchers + self.setup.workers + 1;
        let (free_out, free_in) = bounded::<AlignedBuf>(buffers);
        for _ in 0..buffers {
            match AlignedBuf::new(self.range_bytes()) {
                Ok(buffer) => drop(free_out.send(buffer)),
                Err(error) => return self.note(Err(error.into())),
            }
        }
        std::thread::scope(|scope| {
            scope.spawn(move || self.note(self.plan(root, &plan_out)));
            for _ in 0..self.setup.fetchers {
                let (plan_in, fetch_out) = (plan_in.clone(), fetch_out.clone());
                let free_in = free_in.clone();
                scope.spawn(move || self.note(self.fetch(&plan_in, &free_in, &fetch_out)));
            }
            for _ in 0..self.setup.workers {
                let (fetch_in, free_out) = (fetch_in.clone(), free_out.clone());
                scope.spawn(move || self.note(self.decode(&fetch_in, &free_out)));
            }
            // The threads hold what they need: a channel closes when its last user ends.
            drop((plan_in, fetch_out, fetch_in, free_in, free_out));
        });
    }

    /// The longest range that a plan can ask for.
    fn range_bytes(&self) -> usize {
        let one_chunk = self.grid.chunk_bytes() + 2 * RANGE_GRID_BYTES + CHUNK_OVERHEAD as u64;
        usize::try_from(RANGE_BYTES_MAX.max(one_chunk)).unwrap_or(usize::MAX)
    }

    fn note(&self, result: Result<(), BlockError>) {
        let Err(error) = result else { return };
        self.stop.store(true, Ordering::Relaxed);
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.setup.cancel.load(Ordering::Relaxed)
    }

    fn plan(&self, root: &VolumeRoot, ranges: &Sender<Planned>) -> Result<(), BlockError> {
        for (number, page) in (0u64..).zip(&root.pages) {
            if self.stopped() {
                return Ok(());
            }
            let page = self.load_page(page)?;
            let chunks = self.grid.page(number);
            self.clear_zeroes(chunks.start, &page)?;
            let wants = if self.setup.in_place {
                self.differing(chunks.start, &page)?
            } else {
                self.all_data(chunks.start, &page)
            };
            if !self.send_ranges(wants, ranges)? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn load_page(&self, page: &PageRef) -> Result<Page, BlockError> {
        let id = match page {
            PageRef::Hole => return Ok(Page::default()),
            PageRef::Missing => return Ok(Page { slots: vec![Slot::Missing; PAGE_SLOTS] }),
            PageRef::Page(id) => id,
        };
        let mut plain = Vec::new();
        self.reader.get(PackKind::Meta, id, &mut plain)?;
        Page::decode(&plain).map_err(|error| {
            BlockError::Repository(RepositoryError::format(format!("manifest page {id}"), error))
        })
    }

    /// Chunks of a page with what they are, as far as the volume goes.
    fn slots<'p>(&self, first: u64, page: &'p Page) -> impl Iterator<Item = (u64, &'p Slot)> {
        let chunks = self.grid.chunks();
        (first..chunks).zip(&page.slots)
    }

    fn all_data(&self, first: u64, page: &Page) -> Wants {
        let mut wants = Wants::new();
        for (chunk, slot) in self.slots(first, page) {
            match slot {
                Slot::Data(id) => wants.entry(*id).or_default().push(chunk),
                Slot::Missing => self.name_missing(chunk),
                Slot::Hole | Slot::Zero => {}
            }
        }
        wants
    }

    /// Makes holes and zeroes of the page read as zeroes in the target.
    fn clear_zeroes(&self, first: u64, page: &Page) -> Result<(), BlockError> {
        // On a device clearing may mean writing: there, the comparison finds what needs it.
        let clear_all = self.setup.in_place && self.target.kind() == VolumeKind::File;
        let mut run: Option<std::ops::Range<u64>> = None;
        for (chunk, slot) in self.slots(first, page) {
            let span = self.grid.span(chunk);
            let blank = matches!(slot, Slot::Hole | Slot::Zero);
            let clear = clear_all && blank && !self.setup.no_sparse;
            match &mut run {
                Some(run) if clear => run.end = span.end,
                None if clear => run = Some(span.clone()),
                Some(done) => {
                    self.target.punch(done.start, done.end - done.start)?;
                    run = None;
                }
                None => {}
            }
            if self.setup.no_sparse && blank {
                self.write_zeroes(chunk)?;
            }
        }
        if let Some(run) = run {
            self.target.punch(run.start, run.end - run.start)?;
        }
        Ok(())
    }

    fn write_zeroes(&self, chunk: u64) -> Result<(), BlockError> {
        let Some(mut buffer) = self.buffer(chunk) else { return Ok(()) };
        buffer.fill(0);
        Ok(self.writer.submit(self.grid.span(chunk).start, buffer)?)
    }

    /// Reads the page's part of the target and keeps what differs; clears what must be zero.
    fn differing(&self, first: u64, page: &Page) -> Result<Wants, BlockError> {
        let on_device = self.target.kind() == VolumeKind::BlockDevice;
        let compare: Vec<u64> = self
            .slots(first, page)
            .filter(|(_, slot)| match slot {
                Slot::Data(_) => true,
                Slot::Hole | Slot::Zero => on_device,
                Slot::Missing => false,
            })
            .map(|(chunk, _)| chunk)
            .collect();
        for (chunk, slot) in self.slots(first, page) {
            if *slot == Slot::Missing {
                self.name_missing(chunk);
            }
        }
        let mut wants = Wants::new();
        if compare.is_empty() {
            return Ok(wants);
        }
        let source = Arc::new(self.target.as_source()?);
        let (out, answers) = bounded::<ReadDone>(self.setup.pool.count());
        let grid = self.grid;
        let requests = compare.into_iter().map(move |chunk| {
            let span = grid.span(chunk);
            let len_bytes = usize::try_from(span.end - span.start).unwrap_or(usize::MAX);
            ReadRequest { offset_bytes: span.start, len_bytes }
        });
        let read_setup = ReadSetup {
            engine: self.setup.engine,
            depth: READ_DEPTH.min(self.setup.pool.count() / 4).max(1),
            pool: self.setup.pool.clone(),
            cancel: Arc::clone(&self.setup.cancel),
        };
        let reading = read_all(source, requests, read_setup, out)?;
        for answer in answers {
            let chunk = answer.offset_bytes >> self.grid.chunk_log2;
            let index = usize::try_from(chunk - first).unwrap_or(usize::MAX);
            let Some(slot) = page.slots.get(index) else { continue };
            self.compare(chunk, slot, &answer, &mut wants)?;
        }
        reading.join()?;
        Ok(wants)
    }

    fn compare(
        &self,
        chunk: u64,
        slot: &Slot,
        answer: &ReadDone,
        wants: &mut Wants,
    ) -> Result<(), BlockError> {
        // What cannot be read is written: that may even mend it.
        let there = answer.result.as_ref().ok();
        let same = match slot {
            Slot::Data(id) => there.is_some_and(|bytes| {
                self.reader.repository().keys().chunk_id(PackKind::Data, bytes) == *id
            }),
            _ => there.is_some_and(|bytes| is_zero(bytes)),
        };
        if same {
            let bytes = answer.len_bytes as u64;
            self.outcome().same_bytes += bytes;
            Progress::add(&self.progress.done, bytes);
        } else if let Slot::Data(id) = slot {
            wants.entry(*id).or_default().push(chunk);
        } else {
            let span = self.grid.span(chunk);
            self.target.punch(span.start, span.end - span.start)?;
        }
        Ok(())
    }

    fn send_ranges(&self, wants: Wants, ranges: &Sender<Planned>) -> Result<bool, BlockError> {
        let (planned, missing) = self.reader.plan(wants.keys().map(|id| (0, *id)))?;
        for (_, id) in missing {
            self.name_lost(wants.get(&id), &RepositoryError::MissingChunk { id });
        }
        let wants = Arc::new(wants);
        for range in planned {
            let planned = Planned { range, wants: Arc::clone(&wants) };
            if ranges.send(planned).is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn fetch(
        &self,
        ranges: &Receiver<Planned>,
        free: &Receiver<AlignedBuf>,
        fetched: &Sender<Fetched>,
    ) -> Result<(), BlockError> {
        for Planned { range, wants } in ranges {
            if self.stopped() {
                continue;
            }
            let Ok(mut bytes) = free.recv() else { return Ok(()) };
            bytes.set_len(range.len.min(bytes.capacity()));
            match self.reader.fetch_into(&range, &mut bytes) {
                Ok(()) => {
                    self.fetched_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    Progress::add(&self.progress.read, bytes.len() as u64);
                }
                // Chunk by chunk, the rest of a short pack and other copies are still tried.
                Err(error) if error.is_damage() => bytes.set_len(0),
                Err(error) => return Err(error.into()),
            }
            if fetched.send(Fetched { range, wants, bytes }).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn decode(
        &self,
        fetched: &Receiver<Fetched>,
        free: &Sender<AlignedBuf>,
    ) -> Result<(), BlockError> {
        let mut decoder = Decoder::new()?;
        for Fetched { range, wants, mut bytes } in fetched {
            if !self.stopped() {
                self.decode_range(&range, &wants, &mut bytes, &mut decoder)?;
            }
            drop(free.send(bytes));
        }
        Ok(())
    }

    fn decode_range(
        &self,
        range: &Range,
        wants: &Wants,
        bytes: &mut [u8],
        decoder: &mut Decoder,
    ) -> Result<(), BlockError> {
        let cipher = self.reader.cipher(&range.pack)?;
        for wanted in &range.chunks {
            let Some(places) = wants.get(&wanted.id) else { continue };
            let Some((first, others)) = places.split_first() else { continue };
            let Some(mut buffer) = self.buffer(*first) else { return Ok(()) };
            let opened = self
                .reader
                .open_chunk_into(range, bytes, &cipher, wanted, decoder, &mut buffer)
                .or_else(|_| self.fetch_elsewhere(&wanted.id, &mut buffer));
            match opened {
                Ok(()) => self.write(*first, others, buffer)?,
                Err(error) if error.is_damage() => self.name_lost(Some(places), &error),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Tries every place that may still have the chunk.
    fn fetch_elsewhere(&self, id: &ChunkId, buffer: &mut [u8]) -> Result<(), RepositoryError> {
        let mut plain = Vec::new();
        self.reader.fetch_one(id, &mut plain)?;
        if plain.len() != buffer.len() {
            let why = "it is not as long as the volume's manifest says".to_owned();
            return Err(RepositoryError::DamagedChunk { id: *id, why });
        }
        buffer.copy_from_slice(&plain);
        Ok(())
    }

    fn write(&self, first: u64, others: &[u64], buffer: PooledBuf) -> Result<(), BlockError> {
        for chunk in others {
            let Some(mut copy) = self.buffer(*chunk) else { return Ok(()) };
            copy.copy_from_slice(&buffer);
            self.submit(*chunk, copy)?;
        }
        self.submit(first, buffer)
    }

    fn submit(&self, chunk: u64, buffer: PooledBuf) -> Result<(), BlockError> {
        let bytes = buffer.len() as u64;
        match self.writer.submit(self.grid.span(chunk).start, buffer) {
            Ok(()) => {
                Progress::add(&self.progress.done, bytes);
                Progress::add(&self.progress.written, bytes);
                Ok(())
            }
            Err(crate::volume::VolumeError::Cancelled) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A buffer as long as the chunk; `None` once the run is stopped.
    fn buffer(&self, chunk: u64) -> Option<PooledBuf> {
        const GLANCE: Duration = Duration::from_millis(100);
        let span = self.grid.span(chunk);
        let len = usize::try_from(span.end - span.start).unwrap_or(usize::MAX);
        loop {
            if self.stopped() {
                return None;
            }
            if let Some(mut buffer) = self.setup.pool.take_timeout(GLANCE) {
                buffer.set_len(len);
                return Some(buffer);
            }
        }
    }

    fn outcome(&self) -> std::sync::MutexGuard<'_, BlockRestored> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name_missing(&self, chunk: u64) {
        let why = "it could not be read when the snapshot was made".to_owned();
        self.outcome().issues.push(Issue { what: self.extent_name(chunk), why });
    }

    fn name_lost(&self, chunks: Option<&Vec<u64>>, error: &RepositoryError) {
        let mut outcome = self.outcome();
        outcome.damaged = true;
        for chunk in chunks.into_iter().flatten() {
            outcome.issues.push(Issue { what: self.extent_name(*chunk), why: error.to_string() });
        }
    }

    fn extent_name(&self, chunk: u64) -> String {
        let span = self.grid.span(chunk);
        format!("bytes {}..{}", span.start, span.end)
    }
}

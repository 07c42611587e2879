//! Packs being filled and stored.
//!
//! Two data packs are open at a time and each chunk goes to one of them at random, so that not
//! even who knows a file can tell from pack lengths where its chunks ended. The number of
//! buffers bounds memory; who finds none free waits, which is the back-pressure on everything
//! before.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use repo_format::id::{ChunkId, PackName, SessionId};
use repo_format::key::ObjectKey;
use repo_format::pack::{PackBuffer, PackBuilder, PackIdentity, PackKind, TocRow};
use repo_format::segment::PackRow;

use crate::rules::{Rule, keeps};
use crate::{Repository, RepositoryError, random};

/// How packs are made and stored.
#[derive(Debug, Clone, Copy)]
pub struct PackOptions {
    /// A data pack is closed at this length.
    pub data_bytes: usize,
    /// A metadata pack is closed at this length.
    pub meta_bytes: usize,
    /// Longest plain chunk that will come.
    pub chunk_bytes: usize,
    /// Data buffers: two being filled, the others on their way to the store. At least 3.
    pub buffers: usize,
    /// Packs on their way to the store at once. With 0, who fills a pack stores it.
    pub uploads: usize,
}

impl PackOptions {
    /// Sizes that keep all buffers together under about `memory_bytes`, as long as that is no less
    /// than 24 MiB. A pack is a request, so they are as large as they can be with three on their way
    /// while two are filled; only beyond the greatest length are there more of them.
    pub fn within(memory_bytes: usize, chunk_bytes: usize) -> Self {
        let meta_bytes = (memory_bytes / 24).clamp(META_BYTES.0, META_BYTES.1);
        let room = memory_bytes.saturating_sub(META_BUFFERS * meta_bytes);
        let data_bytes = (room / BUFFERS.0).clamp(DATA_BYTES.0, DATA_BYTES.1);
        let buffers = (room / data_bytes).clamp(BUFFERS.0, BUFFERS.1);
        Self { data_bytes, meta_bytes, chunk_bytes, buffers, uploads: buffers - 1 }
    }

    /// Most bytes that the buffers take together.
    pub const fn buffer_bytes(&self) -> usize {
        self.buffers * (self.data_bytes + self.chunk_bytes)
            + META_BUFFERS * (self.meta_bytes + self.chunk_bytes)
    }
}

const META_BUFFERS: usize = 2;
/// Least and greatest. With packs of more than 64 MiB a change costs less than a request for every
/// 64 MiB, checkpoints included.
const DATA_BYTES: (usize, usize) = (4 << 20, 80 << 20);
const META_BYTES: (usize, usize) = (2 << 20, 8 << 20);
const BUFFERS: (usize, usize) = (5, 12);
const OPEN_DATA: usize = 2;

/// A pack that is durable.
#[derive(Debug)]
pub struct StoredPack {
    /// As it goes into a segment.
    pub row: PackRow,
    /// Its chunks.
    pub chunks: Vec<TocRow>,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy)]
pub struct Pushed {
    /// Bytes that it takes in its pack.
    pub stored_len: u32,
    /// How long its thread waited for room: for the store, if that is what limits the run.
    pub waited: Duration,
}

/// A pack being filled.
#[derive(Debug)]
struct Open {
    pack: PackBuilder,
    /// It is closed at this length.
    target: usize,
}

/// Fills packs and stores them with threads of its own.
#[derive(Debug)]
pub struct Packer {
    repository: Arc<Repository>,
    session: SessionId,
    options: PackOptions,
    data: [Mutex<Option<Open>>; OPEN_DATA],
    meta: Mutex<Option<Open>>,
    /// The next data pack is closed when it is half full, so that from then on the two that are open
    /// are not full at the same time, and what sends them has always something to do.
    halves: AtomicBool,
    pools: Pools,
    next_counter: AtomicU32,
    choice: AtomicU64,
    uploads: Option<Sender<PackBuilder>>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Clone)]
struct Pools {
    data: (Sender<PackBuffer>, Receiver<PackBuffer>),
    meta: (Sender<PackBuffer>, Receiver<PackBuffer>),
}

impl Pools {
    fn of(&self, kind: PackKind) -> &(Sender<PackBuffer>, Receiver<PackBuffer>) {
        match kind {
            PackKind::Data => &self.data,
            PackKind::Meta => &self.meta,
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    failed: AtomicBool,
    stored_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    in_flight: BTreeSet<u32>,
    done: Vec<StoredPack>,
    failure: Option<RepositoryError>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Packer {
    /// Starts the uploading threads.
    ///
    /// # Errors
    ///
    /// The system gave no random bytes.
    pub fn new(
        repository: &Arc<Repository>,
        session: SessionId,
        options: PackOptions,
    ) -> Result<Self, RepositoryError> {
        let pools = Pools { data: unbounded(), meta: unbounded() };
        for _ in 0..options.buffers {
            let buffer = PackBuffer::new(options.data_bytes, options.chunk_bytes);
            drop(pools.data.0.send(buffer));
        }
        for _ in 0..META_BUFFERS {
            let buffer = PackBuffer::new(options.meta_bytes, options.chunk_bytes);
            drop(pools.meta.0.send(buffer));
        }
        let shared = Arc::new(Shared::default());
        let (uploads, queue) = bounded(options.buffers + META_BUFFERS);
        let threads = (0..options.uploads)
            .map(|_| {
                let uploader = Uploader {
                    repository: Arc::clone(repository),
                    queue: queue.clone(),
                    pools: pools.clone(),
                    shared: Arc::clone(&shared),
                };
                std::thread::spawn(move || uploader.run())
            })
            .collect();
        Ok(Self {
            repository: Arc::clone(repository),
            session,
            options,
            data: [Mutex::new(None), Mutex::new(None)],
            meta: Mutex::new(None),
            halves: AtomicBool::new(true),
            pools,
            next_counter: AtomicU32::new(0),
            choice: AtomicU64::new(u64::from_le_bytes(random::bytes()?)),
            uploads: Some(uploads),
            shared,
            threads,
        })
    }

    /// Seals a frame, given in two parts, into an open pack.
    ///
    /// # Errors
    ///
    /// The store failed, now or in the background since the last call.
    pub fn push(
        &self,
        kind: PackKind,
        id: ChunkId,
        frame: [&[u8]; 2],
    ) -> Result<Pushed, RepositoryError> {
        if self.shared.failed.load(Ordering::Acquire) {
            return Err(self.take_failure());
        }
        let began = Instant::now();
        let mut open = self.open_pack(kind);
        let len = frame.map(<[u8]>::len).iter().sum();
        if open.as_ref().is_some_and(|open| !open.pack.fits(len)) {
            self.close(&mut open)?;
        }
        let Open { pack, target } = match &mut *open {
            Some(open) => open,
            none => none.insert(self.start(kind)?),
        };
        let waited = began.elapsed();
        let row = pack.push(id, frame);
        if pack.len() >= *target {
            self.close(&mut open)?;
        }
        Ok(Pushed { stored_len: row.stored_len, waited })
    }

    /// Stores every open pack, waits until all that was pushed before is durable, and hands out
    /// what was not handed out yet.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub fn flush(&self) -> Result<Vec<StoredPack>, RepositoryError> {
        // Taken first: packs that others start from here on are not waited for.
        let until = self.next_counter.load(Ordering::Acquire);
        for open in self.data.iter().chain([&self.meta]) {
            self.close(&mut lock(open))?;
        }
        self.halves.store(true, Ordering::Relaxed);
        let mut state = lock(&self.shared.state);
        while state.failure.is_none()
            && !self.shared.failed.load(Ordering::Acquire)
            && state.in_flight.first().is_some_and(|counter| *counter < until)
        {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if self.shared.failed.load(Ordering::Acquire) {
            drop(state);
            return Err(self.take_failure());
        }
        Ok(std::mem::take(&mut state.done))
    }

    /// Bytes stored so far, padding included.
    pub fn stored_bytes(&self) -> u64 {
        self.shared.stored_bytes.load(Ordering::Relaxed)
    }

    /// Of the next pack.
    fn target(&self, kind: PackKind) -> usize {
        match kind {
            PackKind::Data if self.halves.swap(false, Ordering::Relaxed) => {
                self.options.data_bytes / 2
            }
            PackKind::Data => self.options.data_bytes,
            PackKind::Meta => self.options.meta_bytes,
        }
    }

    /// One of the open packs of a kind: of the two data packs one at random, but rather the
    /// other than waiting.
    fn open_pack(&self, kind: PackKind) -> MutexGuard<'_, Option<Open>> {
        if kind == PackKind::Meta {
            return lock(&self.meta);
        }
        let [a, b] = &self.data;
        let (first, second) = if self.coin() { (a, b) } else { (b, a) };
        match first.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => lock(second),
        }
    }

    /// The top bit of `SplitMix64` over a counter with a random start.
    fn coin(&self) -> bool {
        let mut mixed = self.choice.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) >> 63 == 1
    }

    fn start(&self, kind: PackKind) -> Result<Open, RepositoryError> {
        let buffer = self.pools.of(kind).1.recv().map_err(|_| RepositoryError::WorkerLost)?;
        let counter = self.next_counter.fetch_add(1, Ordering::AcqRel);
        let name = PackName { session: self.session, counter };
        let keys = self.repository.keys();
        let salt = random::bytes()?;
        let identity = PackIdentity { name, kind, epoch: keys.newest_epoch(), salt };
        let pack = PackBuilder::new(buffer, keys, identity)
            .map_err(|error| RepositoryError::format(ObjectKey::Pack(name), error))?;
        lock(&self.shared.state).in_flight.insert(counter);
        Ok(Open { pack, target: self.target(kind) })
    }

    fn close(&self, open: &mut Option<Open>) -> Result<(), RepositoryError> {
        let Some(Open { pack, .. }) = open.take() else { return Ok(()) };
        if self.options.uploads == 0 {
            store(&self.repository, &self.pools, &self.shared, pack);
            return Ok(());
        }
        let uploads = self.uploads.as_ref().ok_or(RepositoryError::WorkerLost)?;
        uploads.send(pack).map_err(|_| RepositoryError::WorkerLost)
    }

    /// The failure itself for who asks first; who comes later learns that the run is over.
    fn take_failure(&self) -> RepositoryError {
        lock(&self.shared.state).failure.take().unwrap_or(RepositoryError::Cancelled)
    }
}

impl Drop for Packer {
    fn drop(&mut self) {
        self.uploads = None;
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// One uploading thread.
struct Uploader {
    repository: Arc<Repository>,
    queue: Receiver<PackBuilder>,
    pools: Pools,
    shared: Arc<Shared>,
}

impl Uploader {
    fn run(self) {
        while let Ok(pack) = self.queue.recv() {
            store(&self.repository, &self.pools, &self.shared, pack);
        }
    }
}

/// Closes a pack and stores it, and notes in `shared` what became of it.
fn store(repository: &Repository, pools: &Pools, shared: &Shared, pack: PackBuilder) {
    let counter = pack.identity().name.counter;
    let kind = pack.identity().kind;
    let finished = pack.finish();
    let result = if shared.failed.load(Ordering::Acquire) {
        Err(RepositoryError::Cancelled)
    } else {
        let key = ObjectKey::Pack(finished.identity.name);
        let bytes = finished.buffer.as_bytes();
        repository.store().put_new(&key, bytes).map_err(RepositoryError::from)
    };
    let result = if keeps(Rule::StoredBeforeCommit) { result } else { Ok(()) };
    let bytes = finished.buffer.as_bytes().len();
    let row = PackRow {
        identity: finished.identity,
        bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
        chunks: u32::try_from(finished.rows.len()).unwrap_or(u32::MAX),
    };
    // The buffer goes back even after a failure: nobody may wait for it for ever.
    drop(pools.of(kind).0.send(finished.buffer));
    let mut state = lock(&shared.state);
    match result {
        Ok(()) => {
            shared.stored_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            state.done.push(StoredPack { row, chunks: finished.rows });
        }
        Err(error) => {
            if !shared.failed.swap(true, Ordering::AcqRel) {
                state.failure = Some(error);
            }
        }
    }
    state.in_flight.remove(&counter);
    drop(state);
    shared.changed.notify_all();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_memory_means_larger_packs_first_and_then_more_of_them_on_their_way() {
        for (memory_mib, data_mib, buffers) in
            [(24, 4, 5), (45, 8, 5), (159, 29, 5), (340, 64, 5), (416, 80, 5), (763, 80, 9)]
        {
            let options = PackOptions::within(memory_mib << 20, 4 << 20);
            let found = (options.data_bytes >> 20, options.buffers, options.uploads);
            assert_eq!(found, (data_mib, buffers, buffers - 1), "{memory_mib} MiB");
            let sum = buffers * options.data_bytes + META_BUFFERS * options.meta_bytes;
            assert!(sum <= memory_mib << 20, "{memory_mib} MiB: {options:?}");
        }
        assert_eq!(PackOptions::within(8 << 30, 4 << 20).buffers, 12);
    }
}

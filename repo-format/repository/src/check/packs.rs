//! Packs: their presence and length, and on demand every byte of them.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use repo_format::error::FormatError;
use repo_format::frame::FrameDecoder;
use repo_format::id::PackName;
use repo_format::key::{ObjectKey, Prefix};
use repo_format::pack::{PackCipher, TRAILER_LEN, TocRow, Trailer};
use repo_format::segment::PackRow;

use super::Checker;
use crate::index::{PackSet, PackState};
use crate::packer::lock;
use crate::recover::{describe, is_lost};
use crate::store::StoreError;
use crate::{Repository, RepositoryError, random};

/// Packs are read in pieces of at most this.
const PIECE_BYTES_MAX: usize = 4 << 20;
const PIECE_BYTES_MIN: usize = 256 << 10;
/// Read of a pack at first.
const TAIL_BYTES: u64 = 64 << 10;

impl Checker<'_> {
    /// Compares the stored packs with those the index lists.
    pub(super) fn check_packs(&mut self) -> Result<(), RepositoryError> {
        let (seen, mut suspects) = self.compare_listing()?;
        let checked = &mut self.report.checked;
        self.index.packs(&mut |number, row, state| {
            if state != PackState::Dead {
                checked.packs += 1;
                if !seen.contains(number) {
                    suspects.push(row.identity.name);
                }
            }
            ControlFlow::Continue(())
        })?;
        let guilty = self.confirm(suspects, Self::test_length)?;
        for (pack, what) in guilty {
            self.blame_pack(pack, what);
        }
        Ok(())
    }

    /// Packs of the store that have the length the index says, by number, and those that have
    /// another. What the index does not list is counted.
    fn compare_listing(&mut self) -> Result<(PackSet, Vec<PackName>), RepositoryError> {
        let (mut seen, mut suspects, mut failure) = (PackSet::default(), Vec::new(), None);
        let (index, report, view) = (self.index, &mut self.report, &self.view);
        let folded: HashSet<_> =
            view.head.catalog.folded.iter().map(|folded| folded.session).collect();
        self.repository.store().list(Prefix::Packs, &mut |listed| {
            let ObjectKey::Pack(name) = listed.key else { return Ok(()) };
            let number = index.pack_number(&name).and_then(|number| {
                Ok(match number {
                    Some(number) => index.pack(number)?.map(|row| (number, row)),
                    None => None,
                })
            });
            match number {
                Ok(Some((number, row))) => {
                    seen.insert(number);
                    if u64::from(row.bytes) != listed.size_bytes {
                        suspects.push(name);
                    }
                }
                Ok(None) => {
                    let session = &name.session;
                    if folded.contains(session) || !view.sessions.contains_key(session) {
                        report.leftover.packs += 1;
                        report.leftover.pack_bytes += listed.size_bytes;
                    }
                }
                Err(error) => failure = failure.take().or(Some(error)),
            }
            Ok(())
        })?;
        let segments: HashSet<_> =
            view.index_view().segments.into_iter().map(|segment| segment.name).collect();
        self.repository.store().list(Prefix::Segments, &mut |listed| {
            if let ObjectKey::Segment(name) = listed.key {
                let session = &name.session;
                let ended = folded.contains(session) || !view.sessions.contains_key(session);
                if ended && !segments.contains(&name) {
                    report.leftover.segments += 1;
                    report.leftover.segment_bytes += listed.size_bytes;
                }
            }
            Ok(())
        })?;
        failure.map_or(Ok((seen, suspects)), |error| Err(error.into()))
    }

    /// The row of a pack, if the index still lists it and nobody may delete it.
    pub(super) fn listed_row(
        &self,
        pack: &PackName,
    ) -> Result<Option<(u32, Arc<PackRow>)>, RepositoryError> {
        let Some(number) = self.index.pack_number(pack)? else { return Ok(None) };
        if self.index.pack_state(number) == PackState::Dead {
            return Ok(None);
        }
        Ok(self.index.pack(number)?.map(|row| (number, row)))
    }

    fn test_length(&self, pack: &PackName) -> Result<Option<String>, RepositoryError> {
        let Some((_, row)) = self.listed_row(pack)? else { return Ok(None) };
        match self.repository.store().size(&ObjectKey::Pack(*pack)) {
            Ok(bytes) if bytes == u64::from(row.bytes) => Ok(None),
            Ok(bytes) => Ok(Some(format!("it has {bytes} bytes and should have {}", row.bytes))),
            Err(StoreError::Missing { .. }) => Ok(Some("it is missing".to_owned())),
            Err(error) => {
                let error = RepositoryError::from(error);
                if is_lost(&error) { Ok(Some(describe(&error))) } else { Err(error) }
            }
        }
    }

    /// Reads a share of the packs from end to end: of all of them, or of those that the selected
    /// snapshots need.
    pub(super) fn read_packs(
        &mut self,
        share: f64,
        needed: &PackSet,
    ) -> Result<(), RepositoryError> {
        let (chosen, total_bytes) = self.choose(share, needed)?;
        let round = Round::new(self, &chosen, total_bytes);
        let suspects = round.run(self.options.threads)?;
        let [packs, bytes, chunks] =
            [round.packs, round.bytes, round.chunks].map(AtomicU64::into_inner);
        let checked = &mut self.report.checked;
        (checked.packs_read, checked.bytes_read, checked.chunks_read) = (packs, bytes, chunks);
        let piece_bytes = self.piece_bytes();
        let suspects = suspects.into_keys().collect();
        let guilty = self.confirm(suspects, |checker, pack| {
            let Some((_, row)) = checker.listed_row(pack)? else { return Ok(None) };
            PackReader::new(piece_bytes)?.read(checker.repository, &row).map(|read| read.damage)
        })?;
        for (pack, what) in guilty {
            self.blame_pack(pack, what);
        }
        Ok(())
    }

    fn choose(&self, share: f64, needed: &PackSet) -> Result<(PackSet, u64), RepositoryError> {
        let (mut chosen, mut total_bytes) = (PackSet::default(), 0);
        let mut dice = u64::from_le_bytes(random::bytes()?);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share between 0 and 1 of 2^32"
        )]
        let limit = (share.clamp(0.0, 1.0) * 4_294_967_296.0) as u64;
        let is_all = self.options.snapshots.is_none();
        self.index.packs(&mut |number, row, state| {
            // A linear congruential generator is random enough for a sample.
            dice = dice
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let is_wanted = is_all || needed.contains(number);
            let is_readable = state != PackState::Dead && !self.findings.is_bad(&row.identity.name);
            if is_wanted && is_readable && dice >> 32 < limit {
                chosen.insert(number);
                total_bytes += u64::from(row.bytes);
            }
            ControlFlow::Continue(())
        })?;
        Ok((chosen, total_bytes))
    }

    fn piece_bytes(&self) -> usize {
        let share = self.options.memory_bytes / self.options.threads.max(1) / 4;
        share.clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX)
    }
}

/// The threads' common work.
struct Round<'a> {
    checker: &'a Checker<'a>,
    chosen: &'a PackSet,
    total_bytes: u64,
    /// Packs with lower numbers were taken.
    next: Mutex<Option<u32>>,
    stop: AtomicBool,
    packs: AtomicU64,
    bytes: AtomicU64,
    chunks: AtomicU64,
    suspects: Mutex<BTreeMap<PackName, String>>,
}

impl<'a> Round<'a> {
    fn new(checker: &'a Checker<'a>, chosen: &'a PackSet, total_bytes: u64) -> Self {
        Self {
            checker,
            chosen,
            total_bytes,
            next: Mutex::new(Some(0)),
            stop: AtomicBool::new(false),
            packs: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            chunks: AtomicU64::new(0),
            suspects: Mutex::default(),
        }
    }

    fn run(&self, threads: usize) -> Result<BTreeMap<PackName, String>, RepositoryError> {
        std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..threads.max(1)).map(|_| scope.spawn(|| self.work())).collect();
            let mut result = Ok(());
            for worker in workers {
                let done = worker.join().unwrap_or(Err(RepositoryError::WorkerLost));
                result = result.and(done);
            }
            result
        })?;
        Ok(std::mem::take(&mut lock(&self.suspects)))
    }

    fn work(&self) -> Result<(), RepositoryError> {
        let done = self.read_all();
        if done.is_err() {
            self.stop.store(true, Ordering::Relaxed);
        }
        done
    }

    /// The next pack to read.
    fn take(&self) -> Option<u32> {
        let mut next = lock(&self.next);
        let number = self.chosen.next_from((*next)?);
        *next = number.and_then(|number| number.checked_add(1));
        number
    }

    fn read_all(&self) -> Result<(), RepositoryError> {
        let checker = self.checker;
        let mut reader = PackReader::new(checker.piece_bytes())?;
        while !self.stop.load(Ordering::Relaxed) {
            let Some(number) = self.take() else { break };
            checker.check_cancelled()?;
            let Some(row) = checker.index.pack(number)? else { continue };
            let read = reader.read(checker.repository, &row)?;
            let bytes = u64::from(row.bytes);
            let done_bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
            self.packs.fetch_add(1, Ordering::Relaxed);
            self.chunks.fetch_add(read.chunks, Ordering::Relaxed);
            checker.watch.progress(done_bytes, self.total_bytes);
            let name = row.identity.name;
            match read.damage {
                Some(what) => {
                    lock(&self.suspects).insert(name, what);
                }
                None if checker.known_bad.contains(&name) => checker.findings.sound_pack(name),
                None => {}
            }
        }
        Ok(())
    }
}

/// What reading a pack gave.
pub(super) struct PackRead {
    /// What is wrong with it.
    pub(super) damage: Option<String>,
    chunks: u64,
}

/// Reads packs from end to end, one after the other.
pub(super) struct PackReader {
    piece_bytes: usize,
    frames: FrameDecoder,
    /// Bytes of the pack from `start` on that are not done with.
    buffer: Vec<u8>,
    plain: Vec<u8>,
}

impl PackReader {
    pub(super) fn new(piece_bytes: usize) -> Result<Self, RepositoryError> {
        let frames = FrameDecoder::new().map_err(|error| RepositoryError::format("zstd", error))?;
        Ok(Self { piece_bytes, frames, buffer: Vec::new(), plain: Vec::new() })
    }

    /// Reads one pack: trailer, table, every byte before the trailer against its hash, every
    /// chunk against its id.
    pub(super) fn read(
        &mut self,
        repository: &Repository,
        row: &PackRow,
    ) -> Result<PackRead, RepositoryError> {
        let mut chunks = 0;
        let mut bad_chunks = 0u64;
        let damage = match self.read_through(repository, row, &mut chunks, &mut bad_chunks) {
            Ok(()) => None,
            Err(error) if is_lost(&error) => Some(describe(&error)),
            Err(error) => return Err(error),
        };
        let damage = damage.map(|what| match bad_chunks {
            0 => what,
            bad => format!("{bad} of its {} chunks are damaged: {what}", row.chunks),
        });
        Ok(PackRead { damage, chunks })
    }

    fn read_through(
        &mut self,
        repository: &Repository,
        row: &PackRow,
        chunks: &mut u64,
        bad_chunks: &mut u64,
    ) -> Result<(), RepositoryError> {
        let key = ObjectKey::Pack(row.identity.name);
        let named = |error| RepositoryError::format(key, error);
        let end = u64::from(row.bytes).saturating_sub(TRAILER_LEN as u64);
        let (trailer, cipher, table) = open_tail(repository, row)?;
        let mut hasher = blake3::Hasher::new();
        let mut rows = table.iter().peekable();
        let (mut start, mut position) = (0u64, 0u64);
        let mut damage = None;
        self.buffer.clear();
        while position < end {
            let len = (end - position).min(self.piece_bytes as u64);
            let kept = self.buffer.len();
            self.buffer.resize(kept + usize::try_from(len).unwrap_or(0), 0);
            let piece = self.buffer.get_mut(kept..).unwrap_or_default();
            repository.store().get_range(&key, position, piece)?;
            hasher.update(piece);
            position += len;
            while let Some(chunk) = rows.next_if(|chunk| chunk_end(chunk) <= position) {
                *chunks += 1;
                if let Err(error) = self.check_chunk(repository, row, &cipher, chunk, start) {
                    *bad_chunks += 1;
                    damage.get_or_insert(error);
                }
            }
            let done = rows.peek().map_or(position, |chunk| u64::from(chunk.offset)).min(position);
            self.buffer.drain(..usize::try_from(done - start).unwrap_or(0));
            start = done;
        }
        if let Some(error) = damage {
            return Err(named(error));
        }
        if *hasher.finalize().as_bytes() != trailer.hash {
            return Err(named(FormatError::Checksum));
        }
        Ok(())
    }

    /// Opens one chunk in the buffer, which begins at `start` of the pack.
    fn check_chunk(
        &mut self,
        repository: &Repository,
        row: &PackRow,
        cipher: &PackCipher,
        chunk: &TocRow,
        start: u64,
    ) -> Result<(), FormatError> {
        let at = usize::try_from(u64::from(chunk.offset).saturating_sub(start)).unwrap_or(0);
        let sealed = self
            .buffer
            .get_mut(at..at + chunk.stored_len as usize)
            .ok_or(FormatError::Truncated { what: "pack" })?;
        let frame = cipher.open_chunk(&chunk.id, chunk.offset, sealed)?;
        self.frames.decode(frame, &mut self.plain)?;
        if repository.keys().chunk_id(row.identity.kind, &self.plain) != chunk.id {
            return Err(FormatError::WrongContent);
        }
        Ok(())
    }
}

fn chunk_end(chunk: &TocRow) -> u64 {
    u64::from(chunk.offset) + u64::from(chunk.stored_len)
}

/// The trailer and the table of a pack, which must be those that the index describes.
fn open_tail(
    repository: &Repository,
    row: &PackRow,
) -> Result<(Trailer, PackCipher, Vec<TocRow>), RepositoryError> {
    let key = ObjectKey::Pack(row.identity.name);
    let named = |error| RepositoryError::format(key, error);
    let too_short = || named(FormatError::Truncated { what: "pack" });
    // Nearly every table is within the tail: one request does for both.
    let start = u64::from(row.bytes).saturating_sub(TAIL_BYTES);
    let mut tail = vec![0; usize::try_from(u64::from(row.bytes) - start).unwrap_or(0)];
    repository.store().get_range(&key, start, &mut tail)?;
    let trailer = tail.last_chunk::<TRAILER_LEN>().ok_or_else(too_short)?;
    let trailer = Trailer::decode(trailer).map_err(named)?;
    if trailer.identity != row.identity || trailer.pack_len != u64::from(row.bytes) {
        return Err(named(FormatError::Inconsistent { what: "identity of a pack" }));
    }
    let (cipher, place) = trailer.open(repository.keys()).map_err(named)?;
    let within = place.offset.checked_sub(start).and_then(|at| {
        let at = usize::try_from(at).ok()?;
        tail.get(at..at.checked_add(place.len as usize)?).map(<[u8]>::to_vec)
    });
    let mut sealed = within.unwrap_or_default();
    if sealed.is_empty() {
        sealed.resize(place.len as usize, 0);
        repository.store().get_range(&key, place.offset, &mut sealed)?;
    }
    let table = cipher.open_toc(&place, &mut sealed).map_err(named)?;
    if table.len() != row.chunks as usize {
        return Err(named(FormatError::Inconsistent { what: "number of a pack's chunks" }));
    }
    Ok((trailer, cipher, table))
}

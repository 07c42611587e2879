//! Index segments in the store: streaming them in, writing new ones, merging old ones.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::Mutex;

use repo_format::error::FormatError;
use repo_format::id::SegmentName;
use repo_format::key::ObjectKey;
use repo_format::segment::{
    Entry, PackRow, Row, SEALED_BLOCK_LEN, SEGMENT_HEADER_LEN, SegmentBuilder, SegmentDecoder,
};
use repo_format::session::SegmentRef;

use crate::index::{BoxError, SegmentSource};
use crate::packer::lock;
use crate::parallel::try_each;
use crate::{Repository, RepositoryError, random};

/// Blocks read with one request: 1 MiB. A merge holds one such read per input.
const BLOCKS_A_READ: u64 = 4;

/// Reads ahead of who takes a segment in as a whole.
const READS_AHEAD: usize = 8;

/// A position in a segment.
#[derive(Debug)]
pub struct SegmentCursor<'a> {
    repository: &'a Repository,
    segment: SegmentRef,
    decoder: SegmentDecoder,
    /// The first block that was not asked for.
    next_block: u64,
    /// Blocks that were read and are not opened yet.
    pieces: VecDeque<Vec<u8>>,
    rows: VecDeque<Row>,
}

impl<'a> SegmentCursor<'a> {
    /// Opens a segment; reads its beginning.
    ///
    /// # Errors
    ///
    /// The store failed, or the segment is damaged.
    pub fn open(repository: &'a Repository, segment: &SegmentRef) -> Result<Self, RepositoryError> {
        let front = read_front(repository, segment)?;
        Self::with_front(repository, segment, front)
    }

    /// As [`Self::open`], with what [`read_front`] gave.
    fn with_front(
        repository: &'a Repository,
        segment: &SegmentRef,
        mut front: Vec<u8>,
    ) -> Result<Self, RepositoryError> {
        let key = ObjectKey::Segment(segment.name);
        let named = |error| RepositoryError::format(key, error);
        let too_short = || named(FormatError::Truncated { what: "segment" });
        let header = front.first_chunk::<SEGMENT_HEADER_LEN>().ok_or_else(too_short)?;
        let keys = repository.keys();
        let decoder = SegmentDecoder::new(keys, &segment.name, header, segment.bytes);
        let decoder = decoder.map_err(named)?;
        front.drain(..SEGMENT_HEADER_LEN);
        let next_block = BLOCKS_A_READ.min(decoder.blocks());
        let (pieces, rows) = (VecDeque::from([front]), VecDeque::new());
        Ok(Self { repository, segment: *segment, decoder, next_block, pieces, rows })
    }

    /// The next row; `None` after the last.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn next_row(&mut self) -> Result<Option<Row>, RepositoryError> {
        self.next_row_ahead(1)
    }

    /// As [`Self::next_row`], with so many reads at once.
    fn next_row_ahead(&mut self, reads: usize) -> Result<Option<Row>, RepositoryError> {
        while self.rows.is_empty() {
            if let Some(piece) = self.pieces.pop_front() {
                self.open_blocks(piece)?;
            } else if self.next_block < self.decoder.blocks() {
                self.fetch(reads)?;
            } else {
                break;
            }
        }
        Ok(self.rows.pop_front())
    }

    fn fetch(&mut self, reads: usize) -> Result<(), RepositoryError> {
        let blocks = self.decoder.blocks();
        let starts = std::iter::successors(Some(self.next_block), |at| Some(at + BLOCKS_A_READ));
        let starts: Vec<u64> = starts.take_while(|at| *at < blocks).take(reads).collect();
        let pieces = try_each(&starts, |first| {
            let start = SEGMENT_HEADER_LEN as u64 + first * SEALED_BLOCK_LEN as u64;
            read_part(
                self.repository,
                &self.segment,
                start,
                BLOCKS_A_READ * SEALED_BLOCK_LEN as u64,
            )
        })?;
        self.pieces.extend(pieces);
        self.next_block = blocks.min(self.next_block + starts.len() as u64 * BLOCKS_A_READ);
        Ok(())
    }

    fn open_blocks(&mut self, mut piece: Vec<u8>) -> Result<(), RepositoryError> {
        let key = ObjectKey::Segment(self.segment.name);
        for block in piece.chunks_mut(SEALED_BLOCK_LEN) {
            let rows = &mut self.rows;
            self.decoder
                .push_block(block, &mut |row| rows.push_back(row))
                .map_err(|error| RepositoryError::format(key, error))?;
        }
        Ok(())
    }
}

/// The beginning of a segment: its header and the blocks of one read.
fn read_front(repository: &Repository, segment: &SegmentRef) -> Result<Vec<u8>, RepositoryError> {
    let len = SEGMENT_HEADER_LEN as u64 + BLOCKS_A_READ * SEALED_BLOCK_LEN as u64;
    read_part(repository, segment, 0, len)
}

/// At most `len` bytes of a segment.
fn read_part(
    repository: &Repository,
    segment: &SegmentRef,
    start: u64,
    len: u64,
) -> Result<Vec<u8>, RepositoryError> {
    let len = len.min(segment.bytes.saturating_sub(start));
    let mut bytes = vec![0u8; usize::try_from(len).unwrap_or(0)];
    repository.store().get_range(&ObjectKey::Segment(segment.name), start, &mut bytes)?;
    Ok(bytes)
}

/// Reads a stored segment to its end and counts what it holds.
///
/// * `bytes`: length of the object.
///
/// # Errors
///
/// The store failed, or the segment is damaged.
pub fn survey(
    repository: &Repository,
    name: SegmentName,
    bytes: u64,
) -> Result<SegmentRef, RepositoryError> {
    let mut counted = SegmentRef { name, entries: 0, packs: 0, bytes };
    let mut cursor = SegmentCursor::open(repository, &counted)?;
    while let Some(row) = cursor.next_row()? {
        match row {
            Row::Pack(_) => counted.packs += 1,
            Row::Entry(_) => counted.entries += 1,
        }
    }
    Ok(counted)
}

/// Writes a segment. `entries` are sorted here; their `pack` is a row of `packs`.
///
/// # Errors
///
/// The store failed.
pub fn write(
    repository: &Repository,
    name: SegmentName,
    packs: &[PackRow],
    entries: &mut [Entry],
) -> Result<SegmentRef, RepositoryError> {
    entries.sort_unstable_by_key(|entry| (entry.prefix, entry.pack));
    let mut builder = SegmentBuilder::new(repository.keys(), name, random::bytes()?, packs);
    for entry in entries.iter() {
        builder.push(entry);
    }
    finish(repository, name, builder, packs.len())
}

/// Stores what a builder holds.
///
/// # Errors
///
/// The store failed.
pub fn finish(
    repository: &Repository,
    name: SegmentName,
    builder: SegmentBuilder<'_>,
    packs: usize,
) -> Result<SegmentRef, RepositoryError> {
    let key = ObjectKey::Segment(name);
    let (bytes, entries) = builder.finish().map_err(|error| RepositoryError::format(key, error))?;
    repository.store().put_new(&key, &bytes)?;
    let packs = u32::try_from(packs).unwrap_or(u32::MAX);
    Ok(SegmentRef { name, entries, packs, bytes: bytes.len() as u64 })
}

/// The store as the index reads segments from it: the beginnings of several at once, and several
/// reads of a long one at once.
#[derive(Debug)]
pub struct Source<'a> {
    repository: &'a Repository,
    ahead: Mutex<Ahead>,
}

/// What will be read next.
#[derive(Debug, Default)]
struct Ahead {
    coming: VecDeque<SegmentRef>,
    fronts: HashMap<SegmentName, Result<Vec<u8>, RepositoryError>>,
}

impl<'a> Source<'a> {
    /// A source over a repository.
    pub fn new(repository: &'a Repository) -> Self {
        Self { repository, ahead: Mutex::new(Ahead::default()) }
    }

    /// The beginning of a segment, and of those behind it for the next calls.
    fn front(&self, segment: &SegmentRef) -> Result<Vec<u8>, RepositoryError> {
        let mut ahead = lock(&self.ahead);
        if let Some(front) = ahead.fronts.remove(&segment.name) {
            return front;
        }
        while ahead.coming.pop_front().is_some_and(|next| next.name != segment.name) {}
        let others = ahead.coming.len().min(READS_AHEAD - 1);
        let mut wanted = vec![*segment];
        wanted.extend(ahead.coming.drain(..others));
        let read = try_each(&wanted, |segment| {
            Ok::<_, Infallible>((segment.name, read_front(self.repository, segment)))
        });
        ahead.fronts = read.unwrap_or_else(|never| match never {}).into_iter().collect();
        ahead.fronts.remove(&segment.name).unwrap_or(Err(RepositoryError::WorkerLost))
    }
}

impl SegmentSource for Source<'_> {
    fn expect(&self, segments: &[SegmentRef]) {
        let coming = segments.iter().copied().collect();
        *lock(&self.ahead) = Ahead { coming, fronts: HashMap::new() };
    }

    fn read(
        &self,
        segment: &SegmentRef,
        each: &mut dyn FnMut(Row) -> ControlFlow<()>,
    ) -> Result<(), BoxError> {
        let front = self.front(segment)?;
        let mut cursor = SegmentCursor::with_front(self.repository, segment, front)?;
        while let Some(row) = cursor.next_row_ahead(READS_AHEAD)? {
            if each(row).is_break() {
                break;
            }
        }
        Ok(())
    }
}

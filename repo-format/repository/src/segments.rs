//! Index segments in the store: streaming them in, writing new ones, merging old ones.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use repo_format::error::FormatError;
use repo_format::id::SegmentName;
use repo_format::key::ObjectKey;
use repo_format::segment::{
    Entry, PackRow, Row, SEALED_BLOCK_LEN, SEGMENT_HEADER_LEN, SegmentBuilder, SegmentDecoder,
};
use repo_format::session::SegmentRef;

use crate::ahead::{Ahead, Piece};
use crate::index::{BoxError, SegmentSource};
use crate::packer::lock;
use crate::{Repository, RepositoryError, random};

/// Blocks read with one request: 1 MiB.
const BLOCKS_A_READ: u64 = 4;
/// Requests for pieces of segments at once, and pieces held at most.
const FETCHERS: usize = 8;

/// See [`FETCHERS`].
fn fetchers() -> usize {
    // There, one thread at a time is an agent.
    #[cfg(test)]
    if crate::sim::here::is_simulated() {
        return 0;
    }
    FETCHERS
}

/// Pieces that a segment is read in; the header comes with the first.
fn pieces_of(segment: &SegmentRef) -> usize {
    let piece_len = BLOCKS_A_READ * SEALED_BLOCK_LEN as u64;
    let body = segment.bytes.saturating_sub(SEGMENT_HEADER_LEN as u64);
    usize::try_from(body.div_ceil(piece_len)).unwrap_or(usize::MAX).max(1)
}

fn piece_of(segment: &SegmentRef, number: usize) -> Piece {
    let piece_len = BLOCKS_A_READ * SEALED_BLOCK_LEN as u64;
    let header_len = SEGMENT_HEADER_LEN as u64;
    let end = (number as u64 + 1).saturating_mul(piece_len).saturating_add(header_len);
    let offset = if number == 0 { 0 } else { header_len + number as u64 * piece_len };
    // Without a header it is no segment; the decoder words what is wrong.
    let len = end.min(segment.bytes.max(header_len)).saturating_sub(offset);
    let key = ObjectKey::Segment(segment.name);
    Piece { key, offset, len: usize::try_from(len).unwrap_or(0) }
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
    let segment = SegmentRef { name, entries: 0, packs: 0, bytes };
    Source::new(repository).survey(&segment)
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
    finish(repository, name, build(repository, name, packs, entries)?, packs.len())
}

/// As [`write`], of entries that are sorted already. They are gone before the segment is sealed,
/// which takes as much memory again.
///
/// # Errors
///
/// The store failed.
pub(crate) fn write_sorted(
    repository: &Repository,
    name: SegmentName,
    packs: &[PackRow],
    entries: Vec<Entry>,
) -> Result<SegmentRef, RepositoryError> {
    let builder = build(repository, name, packs, &entries)?;
    drop(entries);
    finish(repository, name, builder, packs.len())
}

fn build<'a>(
    repository: &'a Repository,
    name: SegmentName,
    packs: &[PackRow],
    entries: &[Entry],
) -> Result<SegmentBuilder<'a>, RepositoryError> {
    let mut builder = SegmentBuilder::new(repository.keys(), name, random::bytes()?, packs);
    builder.reserve(entries.len());
    for entry in entries {
        builder.push(entry);
    }
    Ok(builder)
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

/// The store as segments are read from it. Those that [`SegmentSource::expect`] announced are
/// fetched ahead as long as they are read in that order.
#[derive(Debug)]
pub struct Source<'a> {
    repository: &'a Repository,
    expected: Mutex<Option<Expected>>,
    bytes: AtomicU64,
}

/// What is being fetched ahead.
#[derive(Debug)]
struct Expected {
    /// Number of the first piece of each segment.
    starts: HashMap<SegmentName, usize>,
    ahead: Ahead,
}

impl<'a> Source<'a> {
    /// A source over a repository.
    pub fn new(repository: &'a Repository) -> Self {
        Self { repository, expected: Mutex::default(), bytes: AtomicU64::new(0) }
    }

    /// Hands out the rows of a segment, packs first, until `each` breaks.
    ///
    /// # Errors
    ///
    /// The store failed, or the segment is damaged. Rows handed out before stay true.
    pub fn rows(
        &self,
        segment: &SegmentRef,
        each: &mut dyn FnMut(Row) -> ControlFlow<()>,
    ) -> Result<(), RepositoryError> {
        let key = ObjectKey::Segment(segment.name);
        let named = |error| RepositoryError::format(key, error);
        let mut first = self.piece(segment, 0)?;
        let (header, blocks) = first
            .split_first_chunk_mut::<SEGMENT_HEADER_LEN>()
            .ok_or_else(|| named(FormatError::Truncated { what: "index segment" }))?;
        let keys = self.repository.keys();
        let mut decoder =
            SegmentDecoder::new(keys, &segment.name, header, segment.bytes).map_err(named)?;
        let mut is_over = false;
        let mut decode = |blocks: &mut [u8]| -> Result<bool, RepositoryError> {
            for block in blocks.chunks_mut(SEALED_BLOCK_LEN) {
                decoder
                    .push_block(block, &mut |row| is_over = is_over || each(row).is_break())
                    .map_err(named)?;
                if is_over {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        let mut is_done = decode(blocks)?;
        for number in 1..pieces_of(segment) {
            if is_done {
                break;
            }
            is_done = decode(&mut self.piece(segment, number)?)?;
        }
        Ok(())
    }

    fn piece(&self, segment: &SegmentRef, number: usize) -> Result<Vec<u8>, RepositoryError> {
        let expected = lock(&self.expected);
        let start = expected.as_ref().and_then(|it| Some((it, *it.starts.get(&segment.name)?)));
        let bytes = if let Some((expected, start)) = start {
            expected.ahead.take(start + number)?
        } else {
            let piece = piece_of(segment, number);
            let mut bytes = vec![0; piece.len];
            self.repository.store().get_range(&piece.key, piece.offset, &mut bytes)?;
            bytes
        };
        self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }

    /// Reads a segment to its end and counts what it holds.
    ///
    /// # Errors
    ///
    /// As [`Self::rows`].
    pub(crate) fn survey(&self, segment: &SegmentRef) -> Result<SegmentRef, RepositoryError> {
        let mut counted = SegmentRef { entries: 0, packs: 0, ..*segment };
        self.rows(segment, &mut |row| {
            match row {
                Row::Pack(_) => counted.packs += 1,
                Row::Entry(_) => counted.entries += 1,
            }
            ControlFlow::Continue(())
        })?;
        Ok(counted)
    }
}

impl SegmentSource for Source<'_> {
    fn expect(&self, segments: &[SegmentRef]) {
        let mut ends = Vec::with_capacity(segments.len());
        let mut starts = HashMap::new();
        let mut end = 0usize;
        for segment in segments {
            starts.insert(segment.name, end);
            end = end.saturating_add(pieces_of(segment));
            ends.push((end, *segment));
        }
        let plan = move |number: usize| {
            let at = ends.partition_point(|(end, _)| *end <= number);
            let (end, segment) = ends.get(at)?;
            Some(piece_of(segment, number + pieces_of(segment) - end))
        };
        let threads = if end > 1 { fetchers() } else { 0 };
        let ahead = Ahead::start(self.repository.store(), threads, Box::new(plan));
        *lock(&self.expected) = Some(Expected { starts, ahead });
    }

    fn read(
        &self,
        segment: &SegmentRef,
        each: &mut dyn FnMut(Row) -> ControlFlow<()>,
    ) -> Result<(), BoxError> {
        Ok(self.rows(segment, each)?)
    }

    fn bytes_read(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

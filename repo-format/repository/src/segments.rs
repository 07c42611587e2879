//! Index segments in the store: streaming them in, writing new ones, merging old ones.

use std::ops::ControlFlow;

use repo_format::id::SegmentName;
use repo_format::key::ObjectKey;
use repo_format::segment::{
    Entry, PackRow, Row, SEALED_BLOCK_LEN, SEGMENT_HEADER_LEN, SegmentBuilder, SegmentDecoder,
};
use repo_format::session::SegmentRef;

use crate::index::{BoxError, SegmentSource};
use crate::{Repository, RepositoryError, random};

/// Blocks read with one request: 1 MiB. A merge holds one such read per input.
const BLOCKS_A_READ: u64 = 4;

/// A position in a segment.
#[derive(Debug)]
pub struct SegmentCursor<'a> {
    repository: &'a Repository,
    segment: SegmentRef,
    decoder: SegmentDecoder,
    next_block: u64,
    rows: std::collections::VecDeque<Row>,
}

impl<'a> SegmentCursor<'a> {
    /// Opens a segment; reads its header only.
    ///
    /// # Errors
    ///
    /// The store failed, or the segment is damaged.
    pub fn open(repository: &'a Repository, segment: &SegmentRef) -> Result<Self, RepositoryError> {
        let key = ObjectKey::Segment(segment.name);
        let mut header = [0u8; SEGMENT_HEADER_LEN];
        repository.store().get_range(&key, 0, &mut header)?;
        let keys = repository.keys();
        let decoder = SegmentDecoder::new(keys, &segment.name, &header, segment.bytes)
            .map_err(|error| RepositoryError::format(key, error))?;
        let rows = std::collections::VecDeque::new();
        Ok(Self { repository, segment: *segment, decoder, next_block: 0, rows })
    }

    /// The next row; `None` after the last.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn next_row(&mut self) -> Result<Option<Row>, RepositoryError> {
        while self.rows.is_empty() && self.next_block < self.decoder.blocks() {
            self.fill()?;
        }
        Ok(self.rows.pop_front())
    }

    fn fill(&mut self) -> Result<(), RepositoryError> {
        let key = ObjectKey::Segment(self.segment.name);
        let count = BLOCKS_A_READ.min(self.decoder.blocks() - self.next_block);
        let block_len = SEALED_BLOCK_LEN as u64;
        let start = SEGMENT_HEADER_LEN as u64 + self.next_block * block_len;
        let len = (count * block_len).min(self.segment.bytes.saturating_sub(start));
        let mut bytes = vec![0u8; usize::try_from(len).unwrap_or(0)];
        self.repository.store().get_range(&key, start, &mut bytes)?;
        for block in bytes.chunks_mut(SEALED_BLOCK_LEN) {
            let rows = &mut self.rows;
            self.decoder
                .push_block(block, &mut |row| rows.push_back(row))
                .map_err(|error| RepositoryError::format(key, error))?;
        }
        self.next_block += count;
        Ok(())
    }
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

/// The store as the index reads segments from it.
#[derive(Debug)]
pub struct Source<'a> {
    repository: &'a Repository,
}

impl<'a> Source<'a> {
    /// A source over a repository.
    pub const fn new(repository: &'a Repository) -> Self {
        Self { repository }
    }
}

impl SegmentSource for Source<'_> {
    fn read(
        &self,
        segment: &SegmentRef,
        each: &mut dyn FnMut(Row) -> ControlFlow<()>,
    ) -> Result<(), BoxError> {
        let mut cursor = SegmentCursor::open(self.repository, segment)?;
        while let Some(row) = cursor.next_row()? {
            if each(row).is_break() {
                break;
            }
        }
        Ok(())
    }
}

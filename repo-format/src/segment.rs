//! An index segment: which chunk is where. Immutable, sorted, sealed block by block.
//!
//! ```text
//! header 128 B (clear) | block 0 | block 1 | …        each block: 256 KiB of plain bytes (the last: less), sealed
//! ```
//!
//! The plain bytes are one stream: counts, the table of packs, then entries ascending by chunk.

use crate::bytes::{CHECKSUM_LEN, Put, Reader, checked, checksum, len_u32, len_u64, to_usize};
use crate::error::{FormatError, check_suite, check_version};
use crate::id::{CHUNK_PREFIX_LEN, ChunkId, SegmentName, SessionId};
use crate::keys::{Keys, Purpose};
use crate::limits::{
    FORMAT_VERSION, PACK_BYTES_MAX, PACK_CHUNKS_MAX, SEGMENT_BLOCK_BYTES, SEGMENT_BLOCKS_MAX,
};
use crate::pack::{PackIdentity, PackKind, chunk_end};
use crate::seal::{DerivedKey, SUITE, SealKey, TAG_LEN};
use crate::session::{put_name, read_name};

/// Length of a segment's header.
pub const SEGMENT_HEADER_LEN: usize = 128;
/// Stored length of every block but the last.
pub const SEALED_BLOCK_LEN: usize = SEGMENT_BLOCK_BYTES + TAG_LEN;

const MAGIC: &[u8; 4] = b"SVIX";
/// Magic, version, suite, epoch, name, salt, commitment, checksum.
const HEADER_USED: usize = 4 + 2 + 2 + 4 + 20 + 32 + 32 + CHECKSUM_LEN;
const COUNTS_LEN: usize = 12;
const PACK_ROW_LEN: usize = 20 + 1 + 4 + 32 + 4 + 4;
const ENTRY_LEN: usize = CHUNK_PREFIX_LEN + 4 + 4 + 4 + 4;

/// A pack in a segment's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackRow {
    /// What opens it.
    pub identity: PackIdentity,
    /// Length of the object.
    pub bytes: u32,
    /// Chunks in it.
    pub chunks: u32,
}

/// Where one chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Front of the chunk's id.
    pub prefix: [u8; CHUNK_PREFIX_LEN],
    /// Row of the segment's table of packs.
    pub pack: u32,
    /// Where its sealed frame starts in the pack.
    pub offset: u32,
    /// Length of its sealed frame.
    pub stored_len: u32,
    /// Its position among the pack's chunks.
    pub slot: u32,
}

impl Entry {
    /// An entry of the chunk `id`.
    pub fn new(id: &ChunkId, pack: u32, offset: u32, stored_len: u32, slot: u32) -> Self {
        Self { prefix: id.prefix(), pack, offset, stored_len, slot }
    }
}

/// Builds a segment. Packs first, then entries ascending by (prefix, pack).
#[derive(Debug)]
pub struct SegmentBuilder<'a> {
    keys: &'a Keys,
    name: SegmentName,
    salt: [u8; 32],
    plain: Vec<u8>,
    packs: u32,
    entries: u64,
}

impl<'a> SegmentBuilder<'a> {
    /// Starts a segment with this table of packs. `salt` must be fresh random bytes.
    pub fn new(keys: &'a Keys, name: SegmentName, salt: [u8; 32], packs: &[PackRow]) -> Self {
        let mut plain = Vec::new();
        plain.raw(&[0; COUNTS_LEN]);
        for pack in packs {
            put_name(&mut plain, &pack.identity.name);
            plain.u8(pack.identity.kind.code());
            plain.u32(pack.identity.epoch);
            plain.raw(&pack.identity.salt);
            plain.u32(pack.bytes);
            plain.u32(pack.chunks);
        }
        let packs = len_u32(packs.len());
        Self { keys, name, salt, plain, packs, entries: 0 }
    }

    /// Makes room for so many entries at once.
    pub fn reserve(&mut self, entries: usize) {
        let plain_len = self.plain.len() + entries * ENTRY_LEN;
        let tags = plain_len.div_ceil(SEGMENT_BLOCK_BYTES) * TAG_LEN;
        self.plain.reserve_exact(SEGMENT_HEADER_LEN + tags + entries * ENTRY_LEN);
    }

    /// Adds an entry.
    pub fn push(&mut self, entry: &Entry) {
        self.plain.raw(&entry.prefix);
        for number in [entry.pack, entry.offset, entry.stored_len, entry.slot] {
            self.plain.u32(number);
        }
        self.entries += 1;
    }

    /// The segment's bytes and its number of entries.
    ///
    /// # Errors
    ///
    /// [`FormatError::UnknownEpoch`]; [`FormatError::Limit`] above [`SEGMENT_BLOCKS_MAX`].
    pub fn finish(mut self) -> Result<(Vec<u8>, u64), FormatError> {
        self.put_counts();
        let epoch = self.keys.newest_epoch();
        let derived = derive(self.keys, epoch, &self.name, &self.salt)?;
        let header = encode_header(epoch, &self.name, &self.salt, &derived.commitment);
        let mut out = self.plain;
        let plain_len = out.len();
        let blocks = plain_len.div_ceil(SEGMENT_BLOCK_BYTES);
        check_blocks(len_u64(blocks))?;
        // Each block is sealed where it will be, the last one first: no second buffer as long.
        out.resize(SEGMENT_HEADER_LEN + plain_len + blocks * TAG_LEN, 0);
        for number in (0..blocks).rev() {
            let from = number * SEGMENT_BLOCK_BYTES;
            let end = plain_len.min(from + SEGMENT_BLOCK_BYTES);
            let to = SEGMENT_HEADER_LEN + number * SEALED_BLOCK_LEN;
            out.copy_within(from..end, to);
            let (block, behind) = out.split_at_mut(to).1.split_at_mut(end - from);
            let aad = block_aad(&self.name, number + 1 == blocks);
            let tag = derived.seal.seal(len_u64(number), &aad, block);
            behind.split_at_mut(TAG_LEN).0.copy_from_slice(&tag);
        }
        out.split_at_mut(SEGMENT_HEADER_LEN).0.copy_from_slice(&header);
        Ok((out, self.entries))
    }

    fn put_counts(&mut self) {
        let mut counts = Vec::with_capacity(COUNTS_LEN);
        counts.u32(self.packs);
        counts.u64(self.entries);
        for (to, from) in self.plain.iter_mut().zip(&counts) {
            *to = *from;
        }
    }

    /// What [`Self::finish`] would seal.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn into_plain(mut self) -> Vec<u8> {
        self.put_counts();
        self.plain
    }
}

fn check_blocks(found: u64) -> Result<(), FormatError> {
    let limit = u64::from(SEGMENT_BLOCKS_MAX);
    if found > limit {
        return Err(FormatError::Limit { what: "blocks of an index segment", found, limit });
    }
    Ok(())
}

fn encode_header(
    epoch: u32,
    name: &SegmentName,
    salt: &[u8; 32],
    commitment: &[u8; 32],
) -> Vec<u8> {
    let mut out = Vec::with_capacity(SEGMENT_HEADER_LEN);
    out.raw(MAGIC);
    out.u16(FORMAT_VERSION);
    out.u16(SUITE);
    out.u32(epoch);
    put_name(&mut out, name);
    out.raw(salt);
    out.raw(commitment);
    let checksum = checksum(&out);
    out.raw(&checksum);
    out.resize(SEGMENT_HEADER_LEN, 0);
    out
}

fn derive(
    keys: &Keys,
    epoch: u32,
    name: &SegmentName,
    salt: &[u8; 32],
) -> Result<DerivedKey, FormatError> {
    let root = keys.root(Purpose::Segment, epoch)?;
    let counter = name.counter.to_le_bytes();
    Ok(DerivedKey::new(root, &[b"salvor segment", name.session.as_bytes(), &counter, salt]))
}

fn block_aad(name: &SegmentName, is_last: bool) -> Vec<u8> {
    let mut aad = b"salvor segment".to_vec();
    put_name(&mut aad, name);
    aad.u8(is_last.into());
    aad
}

/// Decodes a segment block by block.
#[derive(Debug)]
pub struct SegmentDecoder {
    key: SealKey,
    name: SegmentName,
    blocks: u64,
    next_block: u64,
    rows: Rows,
}

/// A row of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    /// Of the table of packs; all of them come first, in order.
    Pack(PackRow),
    /// Of the index.
    Entry(Entry),
}

impl SegmentDecoder {
    /// Reads the header of the segment stored as `name`, whose object is `object_len` long.
    ///
    /// # Errors
    ///
    /// Any [`FormatError`].
    pub fn new(
        keys: &Keys,
        name: &SegmentName,
        header: &[u8; SEGMENT_HEADER_LEN],
        object_len: u64,
    ) -> Result<Self, FormatError> {
        if header.first_chunk() != Some(MAGIC) {
            return Err(FormatError::BadMagic { expected: "index segment" });
        }
        let (covered, reserved) = header.split_at(HEADER_USED);
        let mut reader = Reader::new(checked(covered, "index segment")?, "index segment");
        reader.take(4)?;
        check_version(reader.u16()?)?;
        check_suite(reader.u16()?)?;
        let epoch = reader.u32()?;
        let own_name = SegmentName { session: SessionId(reader.array()?), counter: reader.u32()? };
        let salt = reader.array()?;
        let commitment = reader.array()?;
        reader.finish()?;
        Reader::new(reserved, "index segment").zeroes(reserved.len())?;
        if own_name != *name {
            return Err(FormatError::Inconsistent { what: "name of an index segment" });
        }
        let key = derive(keys, epoch, name, &salt)?.committed(&commitment)?;
        // Without a block, nothing would be opened and nothing would tell that all is missing.
        let body = object_len
            .checked_sub(len_u64(SEGMENT_HEADER_LEN))
            .filter(|body| *body >= len_u64(COUNTS_LEN + TAG_LEN))
            .ok_or(FormatError::Truncated { what: "index segment" })?;
        let blocks = body.div_ceil(len_u64(SEALED_BLOCK_LEN));
        check_blocks(blocks)?;
        Ok(Self { key, name: *name, blocks, next_block: 0, rows: Rows::default() })
    }

    /// Number of blocks.
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Opens the next block and hands out the rows that it completes.
    ///
    /// # Errors
    ///
    /// Any [`FormatError`]; `each` sees nothing unauthenticated.
    pub fn push_block(
        &mut self,
        sealed: &mut [u8],
        each: &mut dyn FnMut(Row),
    ) -> Result<(), FormatError> {
        let is_last = self.next_block + 1 == self.blocks;
        let plain = self.key.open(self.next_block, &block_aad(&self.name, is_last), sealed)?;
        self.next_block += 1;
        self.rows.read(plain, is_last, each)
    }
}

/// The plain side of a [`SegmentDecoder`].
#[derive(Debug, Default)]
pub(crate) struct Rows {
    /// The front of a row whose end is in the next block.
    pending: Vec<u8>,
    counts: Option<(u32, u64)>,
    packs_left: u32,
    entries_left: u64,
    last_prefix: Option<([u8; CHUNK_PREFIX_LEN], u32)>,
}

impl Rows {
    pub(crate) fn read(
        &mut self,
        plain: &[u8],
        is_last: bool,
        each: &mut dyn FnMut(Row),
    ) -> Result<(), FormatError> {
        let mut pending = std::mem::take(&mut self.pending);
        pending.extend_from_slice(plain);
        let mut reader = Reader::new(&pending, "index segment");
        while self.step(&mut reader, each)? {}
        let rest = reader.take(reader.remaining())?;
        match (self.is_complete(), is_last) {
            (true, true) if rest.is_empty() => Ok(()),
            (false, false) => {
                self.pending = rest.to_vec();
                Ok(())
            }
            (true, _) => Err(FormatError::Inconsistent { what: "bytes after its end" }),
            (false, true) => Err(FormatError::Truncated { what: "index segment" }),
        }
    }

    const fn is_complete(&self) -> bool {
        self.counts.is_some() && self.packs_left == 0 && self.entries_left == 0
    }

    /// Decodes one row, if all of it is there.
    fn step(
        &mut self,
        reader: &mut Reader<'_>,
        each: &mut dyn FnMut(Row),
    ) -> Result<bool, FormatError> {
        let Some((packs, _)) = self.counts else {
            if reader.remaining() < COUNTS_LEN {
                return Ok(false);
            }
            let counts = (reader.u32()?, reader.u64()?);
            self.counts = Some(counts);
            (self.packs_left, self.entries_left) = counts;
            return Ok(true);
        };
        if self.packs_left > 0 {
            if reader.remaining() < PACK_ROW_LEN {
                return Ok(false);
            }
            self.packs_left -= 1;
            each(Row::Pack(read_pack(reader)?));
            return Ok(true);
        }
        if self.entries_left == 0 || reader.remaining() < ENTRY_LEN {
            return Ok(false);
        }
        self.entries_left -= 1;
        let entry = read_entry(reader, packs)?;
        let place = (entry.prefix, entry.pack);
        if self.last_prefix.is_some_and(|last| last > place) {
            return Err(FormatError::Inconsistent { what: "order of an index segment" });
        }
        self.last_prefix = Some(place);
        each(Row::Entry(entry));
        Ok(true)
    }
}

fn read_pack(reader: &mut Reader<'_>) -> Result<PackRow, FormatError> {
    let name = read_name(reader)?;
    let kind = PackKind::from_code(reader.u8()?)?;
    let epoch = reader.u32()?;
    let salt = reader.array()?;
    let row = PackRow {
        identity: PackIdentity { name, kind, epoch, salt },
        bytes: reader.u32()?,
        chunks: reader.u32()?,
    };
    if to_usize(row.bytes.into()) > PACK_BYTES_MAX || row.chunks > PACK_CHUNKS_MAX {
        return Err(FormatError::Inconsistent { what: "pack in an index segment" });
    }
    Ok(row)
}

fn read_entry(reader: &mut Reader<'_>, packs: u32) -> Result<Entry, FormatError> {
    let entry = Entry {
        prefix: reader.array()?,
        pack: reader.u32()?,
        offset: reader.u32()?,
        stored_len: reader.u32()?,
        slot: reader.u32()?,
    };
    let is_chunk = chunk_end(entry.offset, entry.stored_len).is_some();
    if entry.pack >= packs || entry.slot >= PACK_CHUNKS_MAX || !is_chunk {
        return Err(FormatError::Inconsistent { what: "entry of an index segment" });
    }
    Ok(entry)
}

#[cfg(test)]
mod tests;

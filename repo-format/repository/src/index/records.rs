//! The bytes of the cache's records. Everything but the entries is in one column family, told
//! apart by its first byte.
//!
//! ```text
//! entry    prefix[24] pack u32        -> offset u32, stored_len u32, slot u32      (all big-endian)
//! pack     'p' number u32             -> session[16] counter u32 kind u8 epoch u32 salt[32] bytes u32 chunks u32
//! name     'n' session[16] counter u32 -> number u32
//! segment  's' session[16] counter u32 -> entries u64, packs u32, bytes u64, (number delta, chunks·2 + complete)* as LEB128
//! state    'm'                        -> schema u32, repository[16], next number u32
//! ```

use repo_format::id::{CHUNK_PREFIX_LEN, ObjectName, PackName, RepositoryId, SessionId};
use repo_format::pack::{PackIdentity, PackKind};
use repo_format::segment::PackRow;
use repo_format::session::SegmentRef;

use super::Place;

/// Of a database with another number nothing is read.
pub(super) const SCHEMA: u32 = 1;
pub(super) const STATE_KEY: &[u8] = b"m";
pub(super) const PACKS: u8 = b'p';
pub(super) const SEGMENTS: u8 = b's';

const NAMES: u8 = b'n';
const KEY_LEN: usize = CHUNK_PREFIX_LEN + 4;
const VALUE_LEN: usize = 12;
const NAME_LEN: usize = 20;

pub(super) type Prefix = [u8; CHUNK_PREFIX_LEN];

/// An entry as it is sorted and written: its key, then its value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EntryRow([u8; KEY_LEN + VALUE_LEN]);

impl EntryRow {
    pub(super) fn new(prefix: &Prefix, place: &Place) -> Self {
        let mut bytes = [0; KEY_LEN + VALUE_LEN];
        bytes[..CHUNK_PREFIX_LEN].copy_from_slice(prefix);
        let numbers = [place.pack, place.offset, place.stored_len, place.slot];
        for (to, from) in bytes[CHUNK_PREFIX_LEN..].chunks_exact_mut(4).zip(numbers) {
            to.copy_from_slice(&from.to_be_bytes());
        }
        Self(bytes)
    }

    pub(super) fn prefix(&self) -> &[u8] {
        &self.0[..CHUNK_PREFIX_LEN]
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.0[..KEY_LEN]
    }

    pub(super) fn value(&self) -> &[u8] {
        &self.0[KEY_LEN..]
    }
}

/// The number of the pack that an entry's key ends with.
pub(super) fn pack_of_key(key: &[u8]) -> Option<u32> {
    let bytes = key.get(CHUNK_PREFIX_LEN..)?.try_into().ok()?;
    Some(u32::from_be_bytes(bytes))
}

pub(super) fn read_entry(key: &[u8], value: &[u8]) -> Option<(Prefix, Place)> {
    let (prefix, _) = key.split_first_chunk()?;
    let mut value = Fields(value);
    let place = Place {
        pack: pack_of_key(key)?,
        offset: value.u32()?,
        stored_len: value.u32()?,
        slot: value.u32()?,
    };
    Some((*prefix, place))
}

fn name_bytes(name: &ObjectName) -> [u8; NAME_LEN] {
    let mut bytes = [0; NAME_LEN];
    bytes[..16].copy_from_slice(name.session.as_bytes());
    bytes[16..].copy_from_slice(&name.counter.to_be_bytes());
    bytes
}

pub(super) fn pack_key(number: u32) -> [u8; 5] {
    let [a, b, c, d] = number.to_be_bytes();
    [PACKS, a, b, c, d]
}

pub(super) fn read_pack_key(key: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(key.strip_prefix(&[PACKS])?.try_into().ok()?))
}

pub(super) fn name_key(name: &PackName) -> Vec<u8> {
    [&[NAMES][..], &name_bytes(name)].concat()
}

pub(super) fn segment_key(name: &ObjectName) -> Vec<u8> {
    [&[SEGMENTS][..], &name_bytes(name)].concat()
}

pub(super) fn pack_value(row: &PackRow) -> Vec<u8> {
    let mut out = name_bytes(&row.identity.name).to_vec();
    out.push(match row.identity.kind {
        PackKind::Data => 0,
        PackKind::Meta => 1,
    });
    out.extend_from_slice(&row.identity.epoch.to_be_bytes());
    out.extend_from_slice(&row.identity.salt);
    out.extend_from_slice(&row.bytes.to_be_bytes());
    out.extend_from_slice(&row.chunks.to_be_bytes());
    out
}

pub(super) fn read_pack(value: &[u8]) -> Option<PackRow> {
    let mut fields = Fields(value);
    let name = PackName { session: SessionId(fields.array()?), counter: fields.u32()? };
    let kind = match fields.array()? {
        [0] => PackKind::Data,
        [1] => PackKind::Meta,
        _ => return None,
    };
    let identity = PackIdentity { name, kind, epoch: fields.u32()?, salt: fields.array()? };
    Some(PackRow { identity, bytes: fields.u32()?, chunks: fields.u32()? })
}

pub(super) fn read_number(value: &[u8]) -> Option<u32> {
    Fields(value).u32()
}

pub(super) fn state_value(repository: &RepositoryId, next: u32) -> Vec<u8> {
    [&SCHEMA.to_be_bytes()[..], repository.as_bytes(), &next.to_be_bytes()].concat()
}

/// The next pack number, if the database is one of ours for this repository.
pub(super) fn read_state(value: &[u8], repository: &RepositoryId) -> Option<u32> {
    let mut fields = Fields(value);
    let is_ours = fields.u32()? == SCHEMA && fields.array()? == *repository.as_bytes();
    let next = fields.u32()?;
    is_ours.then_some(next)
}

/// A pack in a segment that was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ListedPack {
    pub(super) number: u32,
    /// Chunks in the pack, whether or not this segment has entries for all.
    pub(super) chunks: u32,
    /// Entries for all of them are in the cache.
    pub(super) is_complete: bool,
}

/// What tells that two references mean the same segment.
fn stamp(segment: &SegmentRef) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(&segment.entries.to_be_bytes());
    bytes[8..12].copy_from_slice(&segment.packs.to_be_bytes());
    bytes[12..].copy_from_slice(&segment.bytes.to_be_bytes());
    bytes
}

/// `packs`: ascending by number.
pub(super) fn segment_value(segment: &SegmentRef, packs: &[ListedPack]) -> Vec<u8> {
    let mut out = stamp(segment).to_vec();
    let mut last = 0;
    for pack in packs {
        put_varint(&mut out, u64::from(pack.number - last));
        put_varint(&mut out, u64::from(pack.chunks) << 1 | u64::from(pack.is_complete));
        last = pack.number;
    }
    out
}

pub(super) fn is_record_of(value: &[u8], segment: &SegmentRef) -> bool {
    value.starts_with(&stamp(segment))
}

/// Hands out the packs of a segment's record; `None` if it is malformed.
pub(super) fn each_listed(value: &[u8], each: &mut dyn FnMut(ListedPack)) -> Option<()> {
    let mut fields = Fields(value);
    fields.array::<20>()?;
    let mut number = 0u32;
    while !fields.0.is_empty() {
        number = number.checked_add(fields.varint()?.try_into().ok()?)?;
        let rest = fields.varint()?;
        let chunks = u32::try_from(rest >> 1).ok()?;
        each(ListedPack { number, chunks, is_complete: rest & 1 == 1 });
    }
    Some(())
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..63).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_is_read_back_as_it_was_written() {
        let name = PackName { session: SessionId([7; 16]), counter: 9 };
        let identity = PackIdentity { name, kind: PackKind::Meta, epoch: 3, salt: [5; 32] };
        let row = PackRow { identity, bytes: 77, chunks: 12 };
        assert_eq!(read_pack(&pack_value(&row)), Some(row));
        assert_eq!(read_pack_key(&pack_key(0x0102_0304)), Some(0x0102_0304));

        let place = Place { pack: 1, offset: 2, stored_len: 3, slot: u32::MAX };
        let entry = EntryRow::new(&[8; 24], &place);
        assert_eq!(read_entry(entry.key(), entry.value()), Some(([8; 24], place)));

        let segment = SegmentRef { name, entries: 1 << 40, packs: 3, bytes: 5 };
        let packs = [(0, 0, true), (1, 1 << 17, false), (u32::MAX, 300, true)];
        let packs =
            packs.map(|(number, chunks, is_complete)| ListedPack { number, chunks, is_complete });
        let value = segment_value(&segment, &packs);
        let mut read = Vec::new();
        each_listed(&value, &mut |pack| read.push(pack)).unwrap();
        assert_eq!(read, packs);
        assert!(is_record_of(&value, &segment));
        assert!(!is_record_of(&value, &SegmentRef { bytes: 6, ..segment }));
    }

    #[test]
    fn a_state_of_another_schema_or_repository_is_not_believed() {
        let ours = RepositoryId([1; 16]);
        let value = state_value(&ours, 42);
        assert_eq!(read_state(&value, &ours), Some(42));
        assert_eq!(read_state(&value, &RepositoryId([2; 16])), None);
        let mut other = value;
        other[3] ^= 1;
        assert_eq!(read_state(&other, &ours), None);
    }

    #[test]
    fn a_segment_record_cut_anywhere_inside_a_pack_is_refused() {
        let name = PackName { session: SessionId([7; 16]), counter: 9 };
        let segment = SegmentRef { name, entries: 1, packs: 1, bytes: 5 };
        let packs = [ListedPack { number: 1 << 20, chunks: 1 << 16, is_complete: true }];
        let value = segment_value(&segment, &packs);
        for cut in 21..value.len() {
            assert!(each_listed(&value[..cut], &mut |_| ()).is_none(), "cut at {cut}");
        }
    }
}

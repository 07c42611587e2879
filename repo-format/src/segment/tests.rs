use super::*;
use crate::keys::Secret;
use crate::testing::{SALT, bundle, damaged, keys, name, other_keys};

fn packs(count: u32) -> Vec<PackRow> {
    let row = |n| PackRow {
        identity: PackIdentity { name: name(n), kind: PackKind::Meta, epoch: n, salt: [9; 32] },
        bytes: 65_536 + n,
        chunks: n,
    };
    (0..count).map(row).collect()
}

fn entries(count: u32, packs: u32) -> Vec<Entry> {
    let entry = |n: u32| {
        let mut id = [0u8; 32];
        id[..4].copy_from_slice(&n.to_be_bytes());
        Entry::new(&ChunkId(id), n % packs, 128 + n, 21 + n % 1000, n % PACK_CHUNKS_MAX)
    };
    (0..count).map(entry).collect()
}

fn segment(packs: &[PackRow], entries: &[Entry]) -> Vec<u8> {
    let keys = keys();
    let mut builder = SegmentBuilder::new(&keys, name(1), SALT, packs);
    for entry in entries {
        builder.push(entry);
    }
    let (bytes, count) = builder.finish().unwrap();
    assert_eq!(count, len_u64(entries.len()));
    bytes
}

fn read_as(keys: &Keys, name: &SegmentName, bytes: &[u8]) -> Result<Vec<Row>, FormatError> {
    let truncated = FormatError::Truncated { what: "index segment" };
    let header = bytes.first_chunk().ok_or(truncated.clone())?;
    let mut decoder = SegmentDecoder::new(keys, name, header, len_u64(bytes.len()))?;
    let mut rest = bytes[SEGMENT_HEADER_LEN..].to_vec();
    let mut rows = Vec::new();
    let blocks: Vec<_> = rest.chunks_mut(SEALED_BLOCK_LEN).collect();
    assert_eq!(len_u64(blocks.len()), decoder.blocks());
    for block in blocks {
        decoder.push_block(block, &mut |row| rows.push(row))?;
    }
    Ok(rows)
}

fn read(bytes: &[u8]) -> Result<Vec<Row>, FormatError> {
    read_as(&keys(), &name(1), bytes)
}

/// Rows as the plain bytes of one block would give them.
fn rows_of(plain: &[u8]) -> Result<Vec<Row>, FormatError> {
    let mut rows = Vec::new();
    Rows::default().read(plain, true, &mut |row| rows.push(row)).map(|()| rows)
}

fn plain(counts: (u32, u64), packs: &[PackRow], entries: &[Entry]) -> Vec<u8> {
    let keys = keys();
    let mut builder = SegmentBuilder::new(&keys, name(1), SALT, packs);
    for entry in entries {
        builder.push(entry);
    }
    (builder.packs, builder.entries) = counts;
    builder.into_plain()
}

#[test]
fn a_segment_of_any_number_of_blocks_is_read_back_in_order() {
    // 6554 entries are one byte over a block; the others end inside a row of either kind.
    for (pack_count, entry_count) in [(0, 0), (1, 1), (3, 6554), (5000, 0), (4100, 30_000)] {
        let (packs, entries) = (packs(pack_count), entries(entry_count, pack_count.max(1)));
        let expected: Vec<Row> = packs
            .iter()
            .map(|pack| Row::Pack(*pack))
            .chain(entries.iter().map(|entry| Row::Entry(*entry)))
            .collect();
        assert_eq!(read(&segment(&packs, &entries)).unwrap(), expected);
    }
}

#[test]
fn every_damage_to_a_small_segment_is_noticed() {
    let bytes = segment(&packs(2), &entries(3, 2));
    for (damage, bytes) in damaged(&bytes) {
        let error = read(&bytes).unwrap_err();
        let expected = matches!(
            error,
            FormatError::Checksum
                | FormatError::BadMagic { .. }
                | FormatError::Truncated { .. }
                | FormatError::Unauthentic
                | FormatError::Inconsistent { .. }
        );
        assert!(expected, "{damage}: {error}");
    }
}

#[test]
fn whole_blocks_cannot_be_cut_off_or_exchanged() {
    let bytes = segment(&packs(4), &entries(30_000, 4));
    let blocks = (bytes.len() - SEGMENT_HEADER_LEN).div_ceil(SEALED_BLOCK_LEN);
    assert!(blocks > 3);
    for kept in 0..blocks {
        let cut = &bytes[..SEGMENT_HEADER_LEN + kept * SEALED_BLOCK_LEN];
        assert!(read(cut).is_err(), "{kept} of {blocks} blocks");
    }
    let mut exchanged = bytes[..SEGMENT_HEADER_LEN].to_vec();
    exchanged
        .extend_from_slice(&bytes[SEGMENT_HEADER_LEN + SEALED_BLOCK_LEN..][..SEALED_BLOCK_LEN]);
    exchanged.extend_from_slice(&bytes[SEGMENT_HEADER_LEN..][..SEALED_BLOCK_LEN]);
    exchanged.extend_from_slice(&bytes[SEGMENT_HEADER_LEN + 2 * SEALED_BLOCK_LEN..]);
    assert_eq!(read(&exchanged), Err(FormatError::Unauthentic));
}

#[test]
fn a_segment_opens_with_its_keys_and_under_its_name_only() {
    let bytes = segment(&packs(1), &entries(1, 1));
    assert_eq!(read_as(&other_keys(), &name(1), &bytes), Err(FormatError::WrongKey));
    let expected = FormatError::Inconsistent { what: "name of an index segment" };
    assert_eq!(read_as(&keys(), &name(2), &bytes), Err(expected));
    let rotated = Keys::new(&bundle(1).rotated(Secret::new([9; 32])).unwrap());
    assert!(read_as(&rotated, &name(1), &bytes).is_ok());
}

#[test]
fn a_newer_segment_is_named_as_such() {
    let with = |at: usize, value: u8| {
        let mut bytes = segment(&[], &[]);
        bytes[at] = value;
        let checksum = checksum(&bytes[..HEADER_USED - CHECKSUM_LEN]);
        bytes[HEADER_USED - CHECKSUM_LEN..HEADER_USED].copy_from_slice(&checksum);
        read(&bytes).unwrap_err()
    };
    assert_eq!(with(4, 2), FormatError::NewerVersion { found: 2, supported: 1 });
    assert_eq!(with(6, 2), FormatError::UnknownSuite { found: 2 });
    assert_eq!(with(8, 1), FormatError::UnknownEpoch { epoch: 1 });
}

#[test]
fn counts_that_lie_are_noticed() {
    let (packs, entries) = (packs(2), entries(3, 2));
    assert!(rows_of(&plain((2, 3), &packs, &entries)).is_ok());
    for counts in [(2, 2), (2, 4), (1, 3), (3, 3), (2, u64::MAX), (u32::MAX, 3), (0, 0)] {
        assert!(rows_of(&plain(counts, &packs, &entries)).is_err(), "{counts:?}");
    }
}

#[test]
fn bytes_behind_the_last_row_are_refused_at_once() {
    let mut rows = Rows::default();
    let plain = [&[0; COUNTS_LEN][..], &[0; 1000]].concat();
    assert!(rows.read(&plain, false, &mut |_| ()).is_err());
}

#[test]
fn rows_no_pack_can_have_are_refused() {
    let good = entries(1, 1)[0];
    let check = |entry: Entry| rows_of(&plain((1, 1), &packs(1), &[entry]));
    assert!(check(good).is_ok());
    for bad in [
        Entry { pack: 1, ..good },
        Entry { slot: PACK_CHUNKS_MAX, ..good },
        Entry { offset: 127, ..good },
        Entry { offset: u32::MAX, ..good },
        Entry { offset: len_u32(PACK_BYTES_MAX), ..good },
        Entry { stored_len: 20, ..good },
        Entry { stored_len: u32::MAX, ..good },
    ] {
        assert!(check(bad).is_err(), "{bad:?}");
    }
    let check = |pack: PackRow| rows_of(&plain((1, 0), &[pack], &[]));
    let good = packs(1)[0];
    assert!(check(good).is_ok());
    assert!(check(PackRow { bytes: len_u32(PACK_BYTES_MAX) + 1, ..good }).is_err());
    assert!(check(PackRow { chunks: PACK_CHUNKS_MAX + 1, ..good }).is_err());
}

#[test]
fn entries_out_of_order_are_refused() {
    let mut entries = entries(2, 1);
    entries.swap(0, 1);
    assert!(rows_of(&plain((1, 2), &packs(1), &entries)).is_err());
}

#[test]
fn a_segment_of_an_impossible_length_is_refused_before_it_is_read() {
    let bytes = segment(&[], &[]);
    let header = bytes.first_chunk().unwrap();
    for len in [0, 127, 128, 128 + 27] {
        let refused = SegmentDecoder::new(&keys(), &name(1), header, len).map(drop);
        assert_eq!(refused, Err(FormatError::Truncated { what: "index segment" }), "{len}");
    }
    let refused = SegmentDecoder::new(&keys(), &name(1), header, u64::MAX).map(drop);
    assert!(matches!(refused, Err(FormatError::Limit { .. })));
}

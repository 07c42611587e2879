use proptest::prelude::*;

use super::*;
use crate::frame::FRAME_HEADER_LEN;
use crate::keys::Secret;
use crate::testing::{SALT, bundle, damaged, keys, name, noise, other_keys};

fn identity() -> PackIdentity {
    PackIdentity { name: name(5), kind: PackKind::Data, epoch: 0, salt: SALT }
}

fn id(n: usize) -> ChunkId {
    keys().chunk_id(PackKind::Data, &n.to_le_bytes())
}

/// Bytes as long as a frame of `payload` bytes.
fn frame(n: usize, payload: usize) -> Vec<u8> {
    noise(n as u64, FRAME_HEADER_LEN + payload)
}

fn pack(payloads: &[usize]) -> FinishedPack {
    let buffer = PackBuffer::new(1 << 20, 1 << 16);
    let mut builder = PackBuilder::new(buffer, &keys(), identity()).unwrap();
    for (n, payload) in payloads.iter().enumerate() {
        assert!(builder.fits(FRAME_HEADER_LEN + payload));
        builder.push(id(n), [&frame(n, *payload), &[]]);
    }
    builder.finish()
}

fn trailer(bytes: &[u8]) -> Result<Trailer, FormatError> {
    let truncated = FormatError::Truncated { what: "pack" };
    Trailer::decode(bytes.last_chunk().ok_or(truncated)?)
}

/// Reads a pack as one without an index would.
fn read(bytes: &[u8], keys: &Keys) -> Result<Vec<(TocRow, Vec<u8>)>, FormatError> {
    let (cipher, place) = trailer(bytes)?.open(keys)?;
    let range = |offset: u64, len: u32| {
        let start = to_usize(offset);
        let end = start + to_usize(len.into());
        bytes.get(start..end).map(<[u8]>::to_vec).ok_or(FormatError::Truncated { what: "pack" })
    };
    let rows = cipher.open_toc(&place, &mut range(place.offset, place.len)?)?;
    let open = |row: TocRow| {
        let mut sealed = range(row.offset.into(), row.stored_len)?;
        Ok((row, cipher.open_chunk(&row.id, row.offset, &mut sealed)?.to_vec()))
    };
    rows.into_iter().map(open).collect()
}

#[test]
fn a_pack_is_read_back_without_an_index() {
    for payloads in [&[][..], &[0], &[1, 100, 65_536, 3], &[50; 200]] {
        let pack = pack(payloads);
        let read = read(pack.buffer.as_bytes(), &keys()).unwrap();
        assert_eq!(read.iter().map(|(row, _)| *row).collect::<Vec<_>>(), pack.rows);
        for (n, (row, plain)) in read.iter().enumerate() {
            assert_eq!((row.id, plain), (id(n), &frame(n, payloads[n])));
        }
    }
}

#[test]
fn header_trailer_and_hash_need_no_key() {
    let pack = pack(&[1000]);
    let bytes = pack.buffer.as_bytes();
    assert_eq!(decode_header(bytes.first_chunk().unwrap()).unwrap(), identity());
    let trailer = trailer(bytes).unwrap();
    assert_eq!(trailer.identity, identity());
    assert_eq!(trailer.pack_len, len_u64(bytes.len()));
    assert_eq!(trailer.hash, *blake3::hash(&bytes[..bytes.len() - TRAILER_LEN]).as_bytes());
}

#[test]
fn nothing_in_the_clear_tells_how_many_chunks_there_are() {
    let one = pack(&[5000]);
    let many = pack(&[50; 71]);
    assert_eq!(one.buffer.as_bytes().len(), many.buffer.as_bytes().len());
    let clear = |pack: &FinishedPack| pack.buffer.as_bytes()[..HEADER_LEN].to_vec();
    assert_eq!(clear(&one), clear(&many));
    let clear = |pack: &FinishedPack| {
        let bytes = pack.buffer.as_bytes();
        bytes[bytes.len() - TRAILER_LEN..][..IDENTITY_LEN].to_vec()
    };
    assert_eq!(clear(&one), clear(&many));
}

#[test]
fn padding_does_not_look_like_padding() {
    let pack = pack(&[100]);
    let bytes = &pack.buffer.as_bytes()[HEADER_LEN..pack.buffer.as_bytes().len() - TRAILER_LEN];
    let runs = bytes.windows(4).filter(|window| *window == [0; 4]).count();
    assert_eq!(runs, 0, "runs of zeroes");
}

#[test]
fn every_damage_to_header_or_trailer_is_told_from_a_wrong_key_and_a_newer_version() {
    let pack = pack(&[100]);
    let bytes = pack.buffer.as_bytes();
    let is_damage = |error: &FormatError| {
        matches!(
            error,
            FormatError::Checksum
                | FormatError::BadMagic { .. }
                | FormatError::Truncated { .. }
                | FormatError::Inconsistent { .. }
        )
    };
    let header = bytes.first_chunk::<HEADER_LEN>().unwrap();
    let footer = bytes.last_chunk::<TRAILER_LEN>().unwrap();
    let cases = damaged(header).filter(|(_, bytes)| bytes.len() == HEADER_LEN);
    for (damage, bytes) in cases {
        let error = decode_header(bytes.first_chunk().unwrap()).unwrap_err();
        assert!(is_damage(&error), "{damage}: {error}");
    }
    let cases = damaged(footer).filter(|(_, bytes)| bytes.len() == TRAILER_LEN);
    for (damage, bytes) in cases {
        let error = trailer(&bytes).unwrap_err();
        assert!(is_damage(&error), "{damage}: {error}");
    }
    assert_eq!(read(bytes, &other_keys()), Err(FormatError::WrongKey));
}

#[test]
fn every_damage_to_a_chunk_or_the_table_is_noticed() {
    let pack = pack(&[20, 30]);
    let bytes = pack.buffer.as_bytes();
    let (_, place) = trailer(bytes).unwrap().open(&keys()).unwrap();
    for at in HEADER_LEN..to_usize(place.offset + u64::from(place.len)) {
        for bit in 0..8 {
            let mut bytes = bytes.to_vec();
            bytes[at] ^= 1 << bit;
            let noticed = read(&bytes, &keys());
            assert_eq!(noticed, Err(FormatError::Unauthentic), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn a_truncated_pack_is_no_pack() {
    let pack = pack(&[20, 30]);
    let bytes = pack.buffer.as_bytes();
    for len in (0..bytes.len()).step_by(509).chain(bytes.len() - 300..bytes.len()) {
        assert!(trailer(&bytes[..len]).is_err(), "cut to {len}");
    }
}

#[test]
fn a_chunk_opens_as_itself_in_its_place_of_its_pack_only() {
    let pack = pack(&[40, 40]);
    let [first, second] = [pack.rows[0], pack.rows[1]];
    let sealed = |row: TocRow| {
        let start = to_usize(row.offset.into());
        pack.buffer.as_bytes()[start..start + to_usize(row.stored_len.into())].to_vec()
    };
    let open = |identity: PackIdentity, id: ChunkId, offset: u32| {
        let cipher = identity.cipher(&keys()).unwrap();
        cipher.open_chunk(&id, offset, &mut sealed(first)).map(|frame| frame.to_vec())
    };
    let right = identity();
    assert_eq!(open(right, first.id, first.offset).unwrap(), frame(0, 40));
    let refused = Err(FormatError::Unauthentic);
    assert_eq!(open(right, second.id, first.offset), refused);
    assert_eq!(open(right, first.id, second.offset), refused);
    assert_eq!(open(PackIdentity { name: name(6), ..right }, first.id, first.offset), refused);
    let meta = PackIdentity { kind: PackKind::Meta, ..right };
    assert_eq!(open(meta, first.id, first.offset), refused);
    let other_salt = PackIdentity { salt: [0; 32], ..right };
    assert_eq!(open(other_salt, first.id, first.offset), refused);
}

#[test]
fn a_pack_of_another_epoch_opens_while_the_key_is_held() {
    let rotated = Keys::new(&bundle(1).rotated(Secret::new([9; 32])).unwrap());
    assert!(read(pack(&[10]).buffer.as_bytes(), &rotated).is_ok());
    let newer = PackIdentity { epoch: 1, ..identity() };
    let buffer = PackBuffer::new(1 << 20, 1 << 16);
    let bytes = PackBuilder::new(buffer, &rotated, newer).unwrap().finish().buffer;
    let refused = read(bytes.as_bytes(), &keys()).map(drop);
    assert_eq!(refused, Err(FormatError::UnknownEpoch { epoch: 1 }));
    let buffer = PackBuffer::new(1 << 20, 1 << 16);
    assert!(PackBuilder::new(buffer, &keys(), newer).is_err());
}

#[test]
fn a_newer_pack_is_named_as_such() {
    let with = |at: usize, value: u8| {
        let mut header = *pack(&[]).buffer.as_bytes().first_chunk::<HEADER_LEN>().unwrap();
        header[at] = value;
        let checksum = checksum(&header[..100]);
        header[100..108].copy_from_slice(&checksum);
        decode_header(&header).unwrap_err()
    };
    assert_eq!(with(4, 2), FormatError::NewerVersion { found: 2, supported: 1 });
    assert_eq!(with(6, 2), FormatError::UnknownSuite { found: 2 });
    assert!(matches!(with(8, 3), FormatError::Inconsistent { .. }));
    assert!(matches!(with(9, 1), FormatError::Inconsistent { .. }));
}

#[test]
fn a_table_whose_rows_do_not_fill_the_pack_is_refused() {
    let table = |lens: &[u32]| {
        let mut plain = Vec::new();
        plain.u32(len_u32(lens.len()));
        for len in lens {
            plain.raw(&[1; 32]);
            plain.u32(*len);
        }
        plain
    };
    let place = |offset, rows: u32| TocPlace { offset, len: rows * 36 + 20, rows };
    let overhead = len_u32(CHUNK_OVERHEAD);
    assert_eq!(read_toc(&table(&[overhead]), &place(149, 1)).unwrap()[0].offset, 128);
    assert!(read_toc(&table(&[overhead]), &place(150, 1)).is_err());
    assert!(read_toc(&table(&[overhead]), &place(148, 1)).is_err());
    assert!(read_toc(&table(&[overhead - 1]), &place(148, 1)).is_err());
    assert!(read_toc(&table(&[u32::MAX]), &place(127, 1)).is_err());
    assert!(read_toc(&table(&[overhead]), &place(149, 2)).is_err());
    assert!(read_toc(&table(&[]), &TocPlace { offset: 128, len: 20, rows: u32::MAX }).is_err());
    let over = len_u32(CHUNK_BYTES_MAX + CHUNK_OVERHEAD + 1);
    assert!(read_toc(&table(&[over]), &place(128 + u64::from(over), 1)).is_err());
}

#[test]
fn a_place_outside_the_pack_is_refused() {
    let place = |offset: u64, len: u32, rows: u32, pack_len: u64| {
        let mut plain = Vec::new();
        plain.u64(offset);
        plain.u32(len);
        plain.u32(rows);
        read_place(&plain, pack_len)
    };
    assert!(place(128, 20, 0, 65_536).is_ok());
    for (offset, len, rows, pack_len) in [
        (127, 20, 0, 65_536),
        (128, 21, 0, 65_536),
        (128, 20, 1, 65_536),
        (128, 20, 0, 128 + 20 + 255),
        (u64::MAX, 20, 0, u64::MAX),
        (u64::MAX - 10, 20, 0, 65_536),
        (128, 20, 0, len_u64(PACK_BYTES_MAX) + 1),
        (128, u32::MAX, u32::MAX, u64::MAX),
    ] {
        assert!(place(offset, len, rows, pack_len).is_err(), "{offset} {len} {rows} {pack_len}");
    }
}

/// Fills a pack until a frame does not fit and checks the buffer's promises.
fn fill(mut buffer: PackBuffer, salt: u8, mut lens: impl FnMut() -> usize) -> PackBuffer {
    let (address, capacity) = (buffer.bytes.as_ptr(), buffer.bytes.capacity());
    let identity = PackIdentity { salt: [salt; 32], ..identity() };
    let mut builder = PackBuilder::new(buffer, &keys(), identity).unwrap();
    loop {
        let len = lens();
        if !builder.fits(len) {
            break;
        }
        builder.push(id(len), [&vec![7; len], &[]]);
    }
    buffer = builder.finish().buffer;
    assert_eq!(buffer.bytes.as_ptr(), address, "the buffer moved");
    assert_eq!(buffer.bytes.capacity(), capacity);
    assert_eq!(buffer.as_bytes().as_ptr().align_offset(GRID_BYTES), 0);
    assert!(buffer.as_bytes().len() <= buffer.capacity);
    assert!(buffer.as_bytes().len().is_multiple_of(GRID_BYTES));
    assert!(buffer.as_bytes().len() <= PACK_BYTES_MAX);
    buffer
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_pack_filled_to_the_brim_never_outgrows_its_buffer(
        target in 0usize..1 << 20,
        chunk in 1usize..100_000,
        lens in proptest::collection::vec(FRAME_HEADER_LEN..100_000usize, 1..50),
    ) {
        let mut lens = lens.into_iter().cycle();
        let buffer = PackBuffer::new(target, chunk);
        let buffer = fill(buffer, 1, || lens.next().unwrap());
        fill(buffer, 2, || lens.next().unwrap());
    }
}

#[test]
fn the_smallest_chunks_fill_a_pack_without_moving_its_buffer() {
    fill(PackBuffer::new(100_000, 1000), 1, || FRAME_HEADER_LEN);
}

#[test]
fn a_frame_fits_up_to_the_last_byte() {
    let buffer = PackBuffer::new(1 << 20, 1 << 16);
    let capacity = buffer.capacity;
    let builder = PackBuilder::new(buffer, &keys(), identity()).unwrap();
    let overhead = HEADER_LEN + TAG_LEN + TOC_ROW_LEN + 4 + TAG_LEN + TRAILER_LEN;
    assert!(builder.fits(capacity - overhead));
    assert!(!builder.fits(capacity - overhead + 1));
    let mut builder = builder;
    builder.push(id(0), [&vec![0; capacity - overhead], &[]]);
    assert_eq!(builder.finish().buffer.as_bytes().len(), capacity);
}

#[test]
fn the_largest_pack_is_within_the_limit() {
    let buffer = PackBuffer::new(PACK_BYTES_MAX, CHUNK_BYTES_MAX);
    assert_eq!(buffer.capacity, PACK_BYTES_MAX);
    fill(buffer, 1, || CHUNK_BYTES_MAX + FRAME_HEADER_LEN);
}

#[test]
fn padding_costs_at_most_a_sixteenth_and_leaves_few_lengths() {
    let mut lengths = std::collections::BTreeSet::new();
    for len in (PADDED_MIN..64 << 20).step_by(4097) {
        let padded = padme_len(len);
        assert!(padded >= len && padded.is_multiple_of(GRID_BYTES));
        assert!((padded - len) * 16 <= len, "{len} is padded to {padded}");
        lengths.insert(padded);
    }
    assert!(lengths.len() <= 32 * 10, "{} lengths", lengths.len());
    assert_eq!(padme_len(0), PADDED_MIN);
    assert_eq!(padme_len(PADDED_MIN), PADDED_MIN);
    assert_eq!(padme_len((1 << 20) + 1), (1 << 20) + (1 << 15));
}

#[test]
fn a_full_pack_wastes_at_most_64_kib() {
    let buffer = PackBuffer::new(8 << 20, 1 << 20);
    for len in ((8 << 20)..(9 << 20)).step_by(12_345) {
        let padded = buffer.padded_len(len).unwrap();
        assert!(padded - len < PADDED_MIN && padded.is_multiple_of(PADDED_MIN));
    }
    assert_eq!(buffer.padded_len(usize::MAX), None);
}

#[test]
fn no_nonce_is_used_twice_in_a_pack() {
    let pack = pack(&[0, 0, 1, 65_000]);
    let (_, place) = trailer(pack.buffer.as_bytes()).unwrap().open(&keys()).unwrap();
    let total = len_u64(pack.buffer.as_bytes().len() - TRAILER_LEN);
    let mut nonces: Vec<u64> = pack.rows.iter().map(|row| row.offset.into()).collect();
    nonces.extend([place.offset, total | 1 << 63, LOCATOR_POSITION]);
    nonces.sort_unstable();
    assert!(nonces.windows(2).all(|pair| pair[0] < pair[1]), "{nonces:?}");
}

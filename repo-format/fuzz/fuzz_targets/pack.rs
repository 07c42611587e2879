//! Packs: headers, trailers and tables of any bytes, and packs of our own with a byte changed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use repo_format::error::FormatError;
use repo_format::fuzzing;
use repo_format::id::{ChunkId, ObjectName, SessionId};
use repo_format::keys::Keys;
use repo_format::pack::{
    PackBuffer, PackBuilder, PackIdentity, PackKind, TocPlace, Trailer, decode_header,
};
use repo_format_fuzz::{SMALL, keys, within};

fuzz_target!(|input: (u32, u8, u64, &[u8])| {
    let (at, flip, pack_len, bytes) = input;
    any_bytes(pack_len, bytes);
    let keys = keys();
    let frames: Vec<&[u8]> = bytes.chunks(501).filter(|frame| frame.len() >= 5).collect();
    let mut pack = build(&keys, &frames);
    assert!(read(&keys, &pack).expect("our own pack") == frames);
    let at = usize::try_from(at).unwrap() % pack.len();
    pack[at] ^= flip;
    if let Ok(read) = within(SMALL, || read(&keys, &pack)) {
        // Padding and the header are not looked at here.
        assert!(read == frames, "byte {at} ^ {flip} gave another content");
    }
});

fn any_bytes(pack_len: u64, bytes: &[u8]) {
    if let Some(header) = bytes.first_chunk() {
        let _ = decode_header(header);
    }
    if let Some(trailer) = bytes.last_chunk() {
        let _ = Trailer::decode(trailer).and_then(|trailer| trailer.open(&keys()).map(drop));
    }
    let Ok(rows) = u32::try_from(bytes.len() / 36) else { return };
    let place =
        TocPlace { offset: pack_len, len: rows.saturating_mul(36).saturating_add(20), rows };
    let _ = within(SMALL, || fuzzing::toc(bytes, &place));
    if let Some((place, table)) = bytes.split_at_checked(16)
        && let Ok(place) = fuzzing::toc_place(place, pack_len)
    {
        let _ = within(SMALL, || fuzzing::toc(table, &place));
    }
}

fn build(keys: &Keys, frames: &[&[u8]]) -> Vec<u8> {
    let name = ObjectName { session: SessionId([1; 16]), counter: 2 };
    let identity = PackIdentity { name, kind: PackKind::Meta, epoch: 0, salt: [3; 32] };
    let buffer = PackBuffer::new(64 << 10, 1 << 10);
    let mut builder = PackBuilder::new(buffer, keys, identity).unwrap();
    for frame in frames {
        assert!(builder.fits(frame.len()));
        builder.push(keys.chunk_id(PackKind::Meta, frame), [frame, &[]]);
    }
    builder.finish().buffer.as_bytes().to_vec()
}

fn read(keys: &Keys, pack: &[u8]) -> Result<Vec<Vec<u8>>, FormatError> {
    let truncated = || FormatError::Truncated { what: "pack" };
    let trailer = Trailer::decode(pack.last_chunk().ok_or_else(truncated)?)?;
    let (cipher, place) = trailer.open(keys)?;
    let range = |offset: u64, len: u32| {
        let start = usize::try_from(offset).unwrap();
        let end = start.checked_add(usize::try_from(len).unwrap()).unwrap();
        pack.get(start..end).map(<[u8]>::to_vec).ok_or_else(truncated)
    };
    let mut frames = Vec::new();
    for row in cipher.open_toc(&place, &mut range(place.offset, place.len)?)? {
        let ChunkId(_) = row.id;
        let mut sealed = range(row.offset.into(), row.stored_len)?;
        frames.push(cipher.open_chunk(&row.id, row.offset, &mut sealed)?.to_vec());
    }
    Ok(frames)
}

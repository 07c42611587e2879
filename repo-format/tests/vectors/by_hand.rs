//! A second reader, written from FORMAT.md with nothing but BLAKE3 and AES-256-GCM, so that the
//! specification is known to be enough. Panics on anything unexpected.

use std::fmt::Write;

use aes_gcm::aead::{AeadInOut, KeyInit, inout::InOutBuf};
use aes_gcm::{Aes256Gcm, Nonce, Tag};

use super::{REPOSITORY, SESSION, SLOT, ascending, hex};

/// Masks for the default sizes: 2^21 strict, 2^19 relaxed.
const STRICT: u64 = 0x0000_d917_6753_7000;
const RELAXED: u64 = 0x0000_d917_0753_7000;

fn master(purpose: &str) -> [u8; 32] {
    blake3::derive_key(&format!("salvor v1 {purpose}"), &ascending::<32>(0x00))
}

fn epoch(purpose: &str) -> [u8; 32] {
    blake3::derive_key(&format!("salvor v1 {purpose}"), &ascending::<32>(0x20))
}

/// Key and commitment.
fn object_key(root: &[u8; 32], context: &[u8]) -> ([u8; 32], [u8; 32]) {
    let mut output = [0; 64];
    blake3::Hasher::new_keyed(root).update(context).finalize_xof().fill(&mut output);
    (output[..32].try_into().unwrap(), output[32..].try_into().unwrap())
}

fn open(key: &[u8; 32], position: u64, aad: &[u8], sealed: &[u8]) -> Vec<u8> {
    let nonce: [u8; 12] = [&[0; 4][..], &position.to_le_bytes()].concat().try_into().unwrap();
    let (bytes, tag) = sealed.split_at(sealed.len() - 16);
    let (mut plain, tag): (_, [u8; 16]) = (bytes.to_vec(), tag.try_into().unwrap());
    Aes256Gcm::new(key.into())
        .decrypt_inout_detached(
            &Nonce::from(nonce),
            aad,
            InOutBuf::from(plain.as_mut_slice()),
            &Tag::from(tag),
        )
        .unwrap();
    plain
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn len_at(bytes: &[u8], at: usize) -> usize {
    usize::try_from(u32_at(bytes, at)).unwrap()
}

fn check_sum(bytes: &[u8], covered: usize) {
    assert_eq!(bytes[covered..covered + 8], blake3::hash(&bytes[..covered]).as_bytes()[..8]);
}

pub fn chunk_id(purpose: &str, plain: &[u8]) -> [u8; 32] {
    *blake3::keyed_hash(&master(purpose), plain).as_bytes()
}

fn gear() -> Vec<u64> {
    let mut bytes = [0; 2048];
    blake3::Hasher::new_derive_key("salvor v1 gear")
        .update(&ascending::<32>(0x00))
        .finalize_xof()
        .fill(&mut bytes);
    bytes.chunks(8).map(|word| u64_at(word, 0)).collect()
}

fn pack_context(counter: u32) -> Vec<u8> {
    let counter = counter.to_le_bytes();
    [b"salvor pack".as_slice(), SESSION.as_bytes(), &counter, &super::SALT].concat()
}

/// The text of `keys.txt`.
pub fn keys_text() -> String {
    let mut text = String::new();
    let mut line = |what: &str, key: &[u8]| writeln!(text, "{} {what}", hex(key)).unwrap();
    for purpose in ["id data", "id meta", "config mac", "page cut"] {
        line(purpose, &master(purpose));
    }
    let gear = gear();
    for at in [0, 1, 255] {
        line(&format!("gear {at}"), &gear[at].to_be_bytes());
    }
    for purpose in ["seal data", "seal meta", "seal segment", "seal record"] {
        line(&format!("{purpose}, epoch 0"), &epoch(purpose));
    }
    for (what, purpose, counter) in [("data pack", "seal data", 0), ("meta pack", "seal meta", 1)] {
        let (key, commitment) = object_key(&epoch(purpose), &pack_context(counter));
        line(&format!("{what}, key"), &key);
        line(&format!("{what}, commitment"), &commitment);
    }
    text
}

pub fn open_config(bytes: &[u8]) {
    assert_eq!(bytes[..10], *b"SALVOR\0\x01\x01\0");
    assert_eq!(bytes[10..26], *REPOSITORY.as_bytes());
    let end = bytes.len() - 8;
    check_sum(bytes, end);
    let mac = blake3::keyed_hash(&master("config mac"), &bytes[..end - 32]);
    assert_eq!(*mac.as_bytes(), bytes[end - 32..end]);
}

/// Opens the slot of a key file.
pub fn open_slot(bytes: &[u8], bundle: &[u8]) {
    assert_eq!(bytes[..9], *b"SVKS\x01\0\x01\0\x02");
    assert_eq!(bytes[9..21], [0; 12]);
    check_sum(bytes, bytes.len() - 8);
    let (salt, commitment) = (&bytes[21..53], &bytes[53..85]);
    let root = blake3::derive_key("salvor v1 key file", super::PASSPHRASE);
    let (key, expected) = object_key(&root, &[b"salvor slot", salt].concat());
    assert_eq!(commitment, expected);
    // One byte each says how long the label and the wrapped bundle are.
    let label_len = usize::from(bytes[93]);
    let (label, rest) = bytes[94..].split_at(label_len);
    let wrapped = &rest[1..=usize::from(rest[0])];
    let place = [b"salvor slot".as_slice(), REPOSITORY.as_bytes(), SLOT.as_bytes()].concat();
    let aad = [&place, &bytes[85..93], label].concat();
    assert_eq!(open(&key, 0, &aad, wrapped), bundle);
}

/// Opens a pack whose frames are not compressed and returns its chunks.
pub fn open_pack(bytes: &[u8]) -> Vec<Vec<u8>> {
    let trailer = &bytes[bytes.len() - 256..];
    assert_eq!(bytes[..108], trailer[..108]);
    assert_eq!(bytes[108..128], [0; 20]);
    check_sum(bytes, 100);
    check_sum(trailer, 240);
    assert_eq!(trailer[248..], *b"SVPKEND\x01");
    assert_eq!(usize::try_from(u64_at(trailer, 140)).unwrap(), bytes.len());
    let hash = blake3::hash(&bytes[..bytes.len() - 256]);
    assert_eq!(trailer[148..180], *hash.as_bytes());
    let kind = bytes[8];
    let (seal, ids) = if kind == 1 { ("seal data", "id data") } else { ("seal meta", "id meta") };
    let context = [b"salvor pack".as_slice(), &bytes[16..36], &bytes[36..68]].concat();
    let (key, commitment) = object_key(&epoch(seal), &context);
    assert_eq!(bytes[68..100], commitment);
    let aad = |what: &[u8; 12], id: &[u8]| {
        [what.as_slice(), &[kind], &bytes[12..16], &bytes[16..36], id].concat()
    };
    let none = [0; 32];
    let place = open(&key, u64::MAX, &aad(b"salvor place", &none), &trailer[108..140]);
    let (offset, len) = (usize::try_from(u64_at(&place, 0)).unwrap(), len_at(&place, 8));
    let sealed = &bytes[offset..offset + len];
    let position = u64::try_from(offset).unwrap();
    let table = open(&key, position, &aad(b"salvor table", &none), sealed);
    assert_eq!(table[..4], place[12..16]);
    let mut at = 128;
    let mut chunks = Vec::new();
    for row in table[4..].chunks(36) {
        let (id, len) = (&row[..32], len_at(row, 32));
        let position = u64::try_from(at).unwrap();
        let frame = open(&key, position, &aad(b"salvor chunk", id), &bytes[at..at + len]);
        assert_eq!((frame[0], len_at(&frame, 1)), (0, frame.len() - 5));
        assert_eq!(chunk_id(ids, &frame[5..]), id);
        chunks.push(frame[5..].to_vec());
        at += len;
    }
    assert_eq!(at, offset);
    chunks
}

/// Opens a segment of one block and looks at its rows.
pub fn open_segment(bytes: &[u8]) {
    assert_eq!(bytes[..12], *b"SVIX\x01\0\x01\0\0\0\0\0");
    check_sum(bytes, 96);
    let context = [b"salvor segment".as_slice(), &bytes[12..32], &bytes[32..64]].concat();
    let (key, commitment) = object_key(&epoch("seal segment"), &context);
    assert_eq!(bytes[64..96], commitment);
    let aad = [b"salvor segment".as_slice(), &bytes[12..32], &[1]].concat();
    let plain = open(&key, 0, &aad, &bytes[128..]);
    let (packs, entries) = (len_at(&plain, 0), usize::try_from(u64_at(&plain, 4)).unwrap());
    assert_eq!(plain.len(), 12 + packs * 65 + entries * 40);
    let prefixes: Vec<&[u8]> = plain[12 + packs * 65..].chunks(40).map(|row| &row[..24]).collect();
    assert!(prefixes.is_sorted());
}

/// Opens a record that is not compressed.
pub fn open_record(bytes: &[u8], path: &str) -> Vec<u8> {
    assert_eq!(bytes[..16], *b"SVRC\x01\0\x01\0\0\0\0\0\0\0\0\0");
    check_sum(bytes, 80);
    let context = [b"salvor record", &bytes[16..48], path.as_bytes()].concat();
    let (key, commitment) = object_key(&epoch("seal record"), &context);
    assert_eq!(bytes[48..80], commitment);
    let aad = [b"salvor record".as_slice(), REPOSITORY.as_bytes(), path.as_bytes()].concat();
    let plain = open(&key, 0, &aad, &bytes[88..]);
    assert_eq!((plain[0], len_at(&plain, 1)), (0, plain.len() - 5));
    plain[5..].to_vec()
}

/// The text of `cuts-default.txt`.
pub fn cuts(bytes: &[u8], [min, avg, max]: [usize; 3]) -> String {
    let gear = gear();
    let mut text = format!("min {min} avg {avg} max {max}\n");
    let mut start = 0;
    while start < bytes.len() {
        let end = (bytes.len() - start).min(max);
        let mut cut = end;
        let mut hash = 0u64;
        for at in min..end / 2 * 2 {
            hash = (hash << 1).wrapping_add(gear[usize::from(bytes[start + at])]);
            let mask = if at < avg.min(end) / 2 * 2 { STRICT } else { RELAXED };
            if hash & mask == 0 {
                cut = at;
                break;
            }
        }
        start += cut;
        writeln!(text, "{start}").unwrap();
    }
    text
}

//! The golden files: written by this version as they always were, and read as they always were.
#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests read the golden files")]
#![expect(unreachable_pub, reason = "a module shared with the example that writes the files")]

use std::collections::BTreeSet;
use std::path::PathBuf;

use repo_format::catalog::{Catalog, decode_page};
use repo_format::config::Config;
use repo_format::envelope;
use repo_format::error::FormatError;
use repo_format::frame::FrameDecoder;
use repo_format::key::ObjectKey;
use repo_format::keyslot::{Kdf, KeySlot};
use repo_format::pack::{PackKind, TRAILER_LEN, Trailer};
use repo_format::segment::{Row, SEGMENT_HEADER_LEN, SegmentDecoder};
use repo_format::session::{Commit, Session};
use repo_format::tree::{Page, TreeRoot, decode_page as decode_tree_page, decode_slices};
use repo_format::volume::{self, VolumeRoot};

mod vectors;

use vectors::{REPOSITORY, SLOT, by_hand, keys};

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden")
}

fn stored(file: &str) -> Vec<u8> {
    let path = golden().join(file);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn unhex(file: &str) -> Vec<u8> {
    let text = String::from_utf8(stored(file)).unwrap();
    let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap()).collect()
}

#[test]
fn every_object_is_written_byte_for_byte_as_it_always_was() {
    for vector in vectors::all() {
        assert!(stored(vector.file) == vector.bytes, "{} is written differently", vector.file);
    }
}

#[test]
fn every_golden_file_is_held_to_something() {
    let expected: BTreeSet<String> = vectors::all()
        .iter()
        .chain([&vectors::zstd_frame()])
        .map(|vector| vector.file.to_owned())
        .collect();
    let found: BTreeSet<String> = std::fs::read_dir(golden())
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn config_and_slots_are_read() {
    let bytes = unhex("config.hex");
    let config = Config::decode(&bytes).unwrap();
    assert_eq!(config, Config::new(REPOSITORY, vectors::TIME_S));
    Config::authenticate(&bytes, &keys()).unwrap();
    for (file, kdf) in [("slot-key-file.hex", Kdf::KeyFile), ("slot-argon2id.hex", Kdf::default())]
    {
        let slot = KeySlot::decode(&unhex(file)).unwrap();
        assert_eq!(
            (slot.kdf, slot.label.as_str(), slot.created_s),
            (kdf, "golden", vectors::TIME_S)
        );
        let place = (&REPOSITORY, &SLOT);
        assert_eq!(slot.unwrap(place, vectors::PASSPHRASE).unwrap(), vectors::bundle());
        assert_eq!(slot.unwrap(place, b"wrong"), Err(FormatError::WrongKey));
    }
}

#[test]
fn records_are_read() {
    for (plain, sealed, key, expected) in vectors::records() {
        assert_eq!(unhex(plain), expected, "{plain}");
        let opened = envelope::open(&keys(), &REPOSITORY, &key, unhex(sealed)).unwrap();
        assert_eq!(opened, expected, "{sealed}");
    }
    assert_eq!(Session::decode(&unhex("session.hex")).unwrap(), vectors::session());
    assert_eq!(Commit::decode(&unhex("commit.hex")).unwrap(), vectors::commit());
    assert_eq!(Catalog::decode(&unhex("catalog.hex")).unwrap(), vectors::catalog());
    let locked = Catalog::decode(&unhex("catalog-locked.hex")).unwrap();
    assert_eq!(locked, vectors::locked_catalog());
    assert_eq!(decode_page(&unhex("catalog-page.hex")).unwrap(), vectors::listed());
}

#[test]
fn manifests_are_read() {
    assert_eq!(volume::Page::decode(&unhex("volume-page.hex")).unwrap(), vectors::volume_page());
    assert_eq!(VolumeRoot::decode(&unhex("volume-root.hex")).unwrap(), vectors::volume_root());
    let leaf = decode_tree_page(&unhex("tree-leaf.hex")).unwrap();
    assert_eq!(leaf, Page::Leaf(vectors::entries()));
    let inner = decode_tree_page(&unhex("tree-inner.hex")).unwrap();
    assert_eq!(inner, Page::Inner { level: 1, children: vectors::children() });
    assert_eq!(TreeRoot::decode(&unhex("tree-root.hex")).unwrap(), vectors::tree_root());
    assert_eq!(decode_slices(&unhex("slices.hex")).unwrap(), vectors::slices());
}

#[test]
fn packs_are_read_to_the_last_chunk() {
    for (file, kind) in [("pack-data.bin", PackKind::Data), ("pack-meta.bin", PackKind::Meta)] {
        let bytes = stored(file);
        let trailer = Trailer::decode(bytes.last_chunk().unwrap()).unwrap();
        assert_eq!(trailer.hash, *blake3::hash(&bytes[..bytes.len() - TRAILER_LEN]).as_bytes());
        let (cipher, place) = trailer.open(&keys()).unwrap();
        let range = |offset: u64, len: u32| {
            let start = usize::try_from(offset).unwrap();
            bytes[start..start + usize::try_from(len).unwrap()].to_vec()
        };
        let rows = cipher.open_toc(&place, &mut range(place.offset, place.len)).unwrap();
        let mut plains = Vec::new();
        for row in rows {
            let mut sealed = range(row.offset.into(), row.stored_len);
            let frame = cipher.open_chunk(&row.id, row.offset, &mut sealed).unwrap();
            let mut plain = Vec::new();
            FrameDecoder::new().unwrap().decode(frame, &mut plain).unwrap();
            assert_eq!(keys().chunk_id(kind, &plain), row.id);
            plains.push(plain);
        }
        assert_eq!(plains, vectors::chunks(kind), "{file}");
    }
}

#[test]
fn the_segment_is_read() {
    let bytes = unhex("segment.hex");
    let header = bytes.first_chunk().unwrap();
    let len = u64::try_from(bytes.len()).unwrap();
    let mut decoder = SegmentDecoder::new(&keys(), &vectors::name(0), header, len).unwrap();
    let mut rows = Vec::new();
    let mut block = bytes[SEGMENT_HEADER_LEN..].to_vec();
    decoder.push_block(&mut block, &mut |row| rows.push(row)).unwrap();
    let (packs, entries) = vectors::index();
    let expected: Vec<Row> =
        packs.into_iter().map(Row::Pack).chain(entries.into_iter().map(Row::Entry)).collect();
    assert_eq!(rows, expected);
}

#[test]
fn the_compressed_frame_is_read() {
    let mut plain = Vec::new();
    FrameDecoder::new().unwrap().decode(&unhex("frame-zstd.hex"), &mut plain).unwrap();
    assert_eq!(plain, vectors::zstd_plain());
}

#[test]
fn a_reader_made_from_the_specification_alone_opens_everything() {
    by_hand::open_config(&unhex("config.hex"));
    by_hand::open_slot(&unhex("slot-key-file.hex"), &vectors::bundle().encode());
    for kind in [PackKind::Data, PackKind::Meta] {
        let file = if kind == PackKind::Data { "pack-data.bin" } else { "pack-meta.bin" };
        assert_eq!(by_hand::open_pack(&stored(file)), vectors::chunks(kind), "{file}");
    }
    by_hand::open_segment(&unhex("segment.hex"));
    for (plain, sealed, key, _) in vectors::records() {
        let opened = by_hand::open_record(&unhex(sealed), &key.to_string());
        assert_eq!(opened, unhex(plain), "{sealed}");
    }
    let stream = vectors::noise("salvor golden stream", 64 << 20);
    let cuts = String::from_utf8(stored("cuts-default.txt")).unwrap();
    let sizes = [256 << 10, 1 << 20, 4 << 20];
    assert_eq!(by_hand::cuts(&stream, sizes), cuts);
    for (what, plain) in vectors::id_inputs() {
        let ids = [by_hand::chunk_id("id data", &plain), by_hand::chunk_id("id meta", &plain)];
        let expected = [PackKind::Data, PackKind::Meta].map(|kind| keys().chunk_id(kind, &plain));
        assert_eq!(ids, expected.map(|id| id.0), "{what}");
    }
}

#[test]
fn every_path_names_its_object() {
    let text = String::from_utf8(stored("object-names.txt")).unwrap();
    let keys: Vec<ObjectKey> = text.lines().map(|path| path.parse().unwrap()).collect();
    assert_eq!(keys, vectors::object_keys());
}

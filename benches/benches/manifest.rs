//! Codecs of manifests and index segments: bytes, and entries, a second of one thread.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on ends")]

use std::hint::black_box;

use benches::keys;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use repo_format::id::{ChunkId, PackName, SegmentName, SessionId};
use repo_format::keys::Keys;
use repo_format::limits::PAGE_SLOTS;
use repo_format::pack::{PackIdentity, PackKind};
use repo_format::segment::{self, PackRow, SegmentBuilder};
use repo_format::tree::{Content, Entry, EntryKind, Meta, Slice, Time, decode_page, encode_leaf};
use repo_format::volume::{Page, Slot};

const TREE_ENTRIES: u32 = 1000;
const SEGMENT_ENTRIES: u32 = 100_000;

fn id(number: usize) -> ChunkId {
    let mut id = ChunkId([0x5a; 32]);
    id.0[..8].copy_from_slice(&(number as u64).to_be_bytes());
    id
}

/// One page stands for 1 GiB of a volume in chunks of 1 MiB.
fn volume_page(criterion: &mut Criterion) {
    let page = Page { slots: (0..PAGE_SLOTS).map(|number| Slot::Data(id(number))).collect() };
    let bytes = page.encode();
    let mut group = criterion.benchmark_group("manifest");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("encode a volume page", |bencher| {
        bencher.iter(|| black_box(&page).encode());
    });
    group.bench_function("decode a volume page", |bencher| {
        bencher.iter(|| Page::decode(black_box(&bytes)).unwrap());
    });
    group.finish();
}

fn entry(number: u32) -> Entry {
    let time = Time { sec: 1_700_000_000 + i64::from(number), nsec: number };
    let size = 4096;
    let slice = Slice { chunk: id(number as usize / 100), offset: number * size, len: size };
    Entry {
        path: format!("usr/share/doc/package-{:03}/file-{number:06}.txt", number / 20).into(),
        kind: EntryKind::File,
        meta: Meta {
            mode: 0o644,
            uid: 1000,
            gid: 1000,
            mtime: time,
            ctime: time,
            size: size.into(),
            ino: 4_000_000 + u64::from(number),
            dev: 2049,
            nlink: 1,
            rdev: 0,
            xattrs: Vec::new(),
        },
        content: Content::Slices(vec![slice]),
        extents: Vec::new(),
    }
}

fn tree_page(criterion: &mut Criterion) {
    let entries: Vec<Entry> = (0..TREE_ENTRIES).map(entry).collect();
    let bytes = encode_leaf(&entries);
    println!("{} bytes for {TREE_ENTRIES} entries of a tree", bytes.len());
    let mut group = criterion.benchmark_group("manifest");
    group.throughput(Throughput::Elements(TREE_ENTRIES.into()));
    group.bench_function("encode tree entries", |bencher| {
        bencher.iter(|| encode_leaf(black_box(&entries)));
    });
    group.bench_function("decode tree entries", |bencher| {
        bencher.iter(|| decode_page(black_box(&bytes)).unwrap());
    });
    group.finish();
}

fn make_segment(keys: &Keys, name: SegmentName, pack: &PackRow) -> Vec<u8> {
    let mut builder = SegmentBuilder::new(keys, name, [3; 32], &[*pack]);
    for number in 0..SEGMENT_ENTRIES {
        builder.push(&segment::Entry::new(&id(number as usize), 0, number, 1 << 20, number));
    }
    builder.finish().unwrap().0
}

fn segments(criterion: &mut Criterion) {
    let keys = keys();
    let session = SessionId([1; 16]);
    let name = SegmentName { session, counter: 9 };
    let identity = PackIdentity {
        name: PackName { session, counter: 1 },
        kind: PackKind::Data,
        epoch: keys.newest_epoch(),
        salt: [2; 32],
    };
    let pack = PackRow { identity, bytes: 32 << 20, chunks: SEGMENT_ENTRIES };
    let mut group = criterion.benchmark_group("manifest");
    group.sample_size(20).throughput(Throughput::Elements(SEGMENT_ENTRIES.into()));
    group.bench_function("make an index segment", |bencher| {
        bencher.iter(|| make_segment(&keys, name, &pack));
    });
    group.finish();
}

criterion_group!(benches, volume_page, tree_page, segments);
criterion_main!(benches);

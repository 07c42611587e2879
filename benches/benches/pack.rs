//! Sealing frames into packs, and getting them out again: bytes a second of one thread.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on ends")]

use std::hint::black_box;

use benches::{keys, random_bytes};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use repo_format::frame::FRAME_HEADER_LEN;
use repo_format::id::{ChunkId, PackName, SessionId};
use repo_format::keys::Keys;
use repo_format::pack::{FinishedPack, PackBuffer, PackBuilder, PackIdentity, PackKind, TocRow};

const TARGET: usize = 32 << 20;
const CHUNK: usize = 1 << 20;

fn identity(keys: &Keys) -> PackIdentity {
    let name = PackName { session: SessionId([1; 16]), counter: 1 };
    PackIdentity { name, kind: PackKind::Data, epoch: keys.newest_epoch(), salt: [2; 32] }
}

fn fill(keys: &Keys, buffer: PackBuffer, frame: &[u8], frames: u64) -> FinishedPack {
    let mut pack = PackBuilder::new(buffer, keys, identity(keys)).unwrap();
    for number in 0..frames {
        let mut id = ChunkId::NONE;
        id.0[..8].copy_from_slice(&number.to_le_bytes());
        pack.push(id, [black_box(frame), &[]]);
    }
    pack.finish()
}

fn packs(criterion: &mut Criterion) {
    let keys = keys();
    let mut group = criterion.benchmark_group("pack");
    group.sample_size(20);
    // Short frames, and those of a volume's chunks at a ratio of 3.
    for kib in [16, 340] {
        let frame = random_bytes((kib << 10) + FRAME_HEADER_LEN);
        let frames = (TARGET / frame.len()) as u64;
        group.throughput(Throughput::Bytes(frames * frame.len() as u64));
        let mut buffer = Some(PackBuffer::new(TARGET, CHUNK));
        group.bench_function(format!("fill with {kib} KiB"), |bencher| {
            bencher.iter(|| {
                buffer = Some(fill(&keys, buffer.take().unwrap(), &frame, frames).buffer);
            });
        });
        let pack = fill(&keys, PackBuffer::new(TARGET, CHUNK), &frame, frames);
        let cipher = identity(&keys).cipher(&keys).unwrap();
        let mut sealed = Vec::new();
        group.bench_function(format!("open {kib} KiB each"), |bencher| {
            bencher.iter(|| {
                for row in &pack.rows {
                    copy(&pack, row, &mut sealed);
                    let opened = cipher.open_chunk(&row.id, row.offset, &mut sealed);
                    black_box(opened.unwrap());
                }
            });
        });
    }
    group.finish();
}

/// As a reader gets it from the store.
fn copy(pack: &FinishedPack, row: &TocRow, sealed: &mut Vec<u8>) {
    let start = row.offset as usize;
    sealed.clear();
    sealed.extend_from_slice(&pack.buffer.as_bytes()[start..start + row.stored_len as usize]);
}

criterion_group!(benches, packs);
criterion_main!(benches);

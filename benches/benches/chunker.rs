//! Content-defined chunking: bytes a second of one thread.

use std::hint::black_box;

use benches::{keys, random_bytes, real_bytes};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use repo_format::chunker::{ChunkSizes, Chunker};

const LEN: usize = 32 << 20;

fn cuts(chunker: &Chunker, mut bytes: &[u8]) -> usize {
    let mut chunks = 0;
    while let Some(len) = chunker.next_cut(bytes, true) {
        bytes = bytes.get(len..).unwrap_or_default();
        chunks += 1;
    }
    chunks
}

fn chunking(criterion: &mut Criterion) {
    let chunker = Chunker::new(keys().gear(), ChunkSizes::default());
    let mut group = criterion.benchmark_group("chunker");
    group.throughput(Throughput::Bytes(LEN as u64)).sample_size(20);
    let inputs =
        [("real", real_bytes(LEN)), ("random", random_bytes(LEN)), ("zeroes", vec![0; LEN])];
    for (name, bytes) in inputs {
        println!("{name}: {} chunks", cuts(&chunker, &bytes));
        group.bench_function(name, |bencher| {
            bencher.iter(|| cuts(&chunker, black_box(&bytes)));
        });
    }
    group.finish();
}

criterion_group!(benches, chunking);
criterion_main!(benches);

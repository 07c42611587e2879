//! Keyed BLAKE3 of chunks: bytes a second of one thread.

use std::hint::black_box;

use benches::{keys, random_bytes};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use repo_format::pack::PackKind;

fn identify(criterion: &mut Criterion) {
    let keys = keys();
    let mut group = criterion.benchmark_group("id");
    for kib in [4, 64, 1024, 4096] {
        let chunk = random_bytes(kib << 10);
        group.throughput(Throughput::Bytes(chunk.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{kib} KiB")), |bencher| {
            bencher.iter(|| keys.chunk_id(PackKind::Data, black_box(&chunk)));
        });
    }
    group.finish();
}

criterion_group!(benches, identify);
criterion_main!(benches);

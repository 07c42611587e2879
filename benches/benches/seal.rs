//! AES-256-GCM by the crate aes-gcm: bytes a second of one thread.

use std::hint::black_box;

use benches::random_bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use repo_format::seal::{DerivedKey, SealKey};

const AAD: [u8; 80] = [3; 80];

fn seal(criterion: &mut Criterion) {
    let key = SealKey::new(&[7; 32]);
    let mut group = criterion.benchmark_group("seal");
    for kib in [1, 16, 256, 1024] {
        let mut bytes = random_bytes(kib << 10);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        let mut position = 0;
        group.bench_function(format!("seal {kib} KiB"), |bencher| {
            bencher.iter(|| {
                position += 1;
                key.seal(position, &AAD, black_box(&mut bytes))
            });
        });
        let mut sealed = random_bytes(kib << 10);
        let tag = key.seal(0, &AAD, &mut sealed);
        sealed.extend(tag);
        group.bench_function(format!("open {kib} KiB"), |bencher| {
            bencher.iter_batched_ref(
                || sealed.clone(),
                |sealed| assert!(key.open(0, &AAD, black_box(sealed)).is_ok()),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

/// Once per pack, segment and record.
fn derive(criterion: &mut Criterion) {
    criterion.bench_function("seal/derive a key", |bencher| {
        bencher.iter(|| DerivedKey::new(black_box(&[9; 32]), &[b"salvor pack", &AAD]));
    });
}

criterion_group!(benches, seal, derive);
criterion_main!(benches);

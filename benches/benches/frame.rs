//! Compressing and decompressing chunks of 1 MiB: plain bytes a second of one thread, by level.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on ends")]

use std::hint::black_box;

use benches::{random_bytes, real_bytes};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use repo_format::frame::{Compression, FrameDecoder, FrameEncoder};

const CHUNK: usize = 1 << 20;
/// So many that none is in the cache of the processor when its turn comes again.
const CHUNKS: usize = 64;

/// Compression as `--compression` offers it, and what lies below.
fn levels() -> [(&'static str, Compression); 7] {
    use Compression::{Off, Zstd};
    [
        ("off", Off),
        ("zstd -3", Zstd(-3)),
        ("zstd -1", Zstd(-1)),
        ("zstd 1", Zstd(1)),
        ("zstd 3", Zstd(3)),
        ("zstd 6", Zstd(6)),
        ("zstd 9", Zstd(9)),
    ]
}

fn compress(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    group.throughput(Throughput::Bytes(CHUNK as u64));
    for (data, bytes) in
        [("real", real_bytes(CHUNK * CHUNKS)), ("random", random_bytes(CHUNK * CHUNKS))]
    {
        for (name, compression) in levels() {
            let mut encoder = FrameEncoder::new(compression).unwrap();
            let mut decoder = FrameDecoder::new().unwrap();
            let frames: Vec<Vec<u8>> =
                bytes.chunks(CHUNK).map(|chunk| encoder.encode(chunk).to_vec()).collect();
            let stored: usize = frames.iter().map(Vec::len).sum();
            let percent = 100 * stored / bytes.len();
            println!("{data}, {name}: stored in {percent} % of its length");
            let mut chunks = bytes.chunks(CHUNK).cycle();
            group.bench_function(format!("compress {data}, {name}"), |bencher| {
                bencher.iter(|| {
                    encoder.encode(black_box(chunks.next().unwrap())).parts().map(<[u8]>::len)
                });
            });
            let mut frames = frames.iter().cycle();
            let mut plain = Vec::new();
            group.bench_function(format!("decompress {data}, {name}"), |bencher| {
                bencher.iter(|| {
                    decoder.decode(black_box(frames.next().unwrap()), &mut plain).unwrap();
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, compress);
criterion_main!(benches);

//! Reading a volume: the ring against plain reads in threads, by depth. Bytes a second.
//!
//! `SALVOR_BENCH_VOLUME` names an image or a device to read, the first GiB of it; otherwise a file
//! of 512 MiB is made in `TMPDIR`, which should be on the disk that matters. Reading is direct
//! where the file system allows it, so the page cache plays no part.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on ends")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use agent::volume::{BufPool, Engine, ReadRequest, ReadSetup, Source, probe, read_all};
use benches::random_bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tempfile::NamedTempFile;

const REQUEST: usize = 1 << 20;
const MADE_MIB: usize = 512;
const READ_BYTES_MAX: u64 = 1 << 30;
const DEPTHS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// A file that goes away with this value, unless one was named.
fn volume() -> (PathBuf, Option<NamedTempFile>) {
    if let Some(path) = std::env::var_os("SALVOR_BENCH_VOLUME") {
        return (path.into(), None);
    }
    let mut file = NamedTempFile::new().unwrap();
    let piece = random_bytes(REQUEST);
    for _ in 0..MADE_MIB {
        file.write_all(&piece).unwrap();
    }
    file.as_file().sync_all().unwrap();
    (file.path().to_owned(), Some(file))
}

fn read(path: &Path, engine: Engine, depth: usize, bytes: u64) {
    let source = Arc::new(Source::open(path).unwrap());
    let requests = (0..bytes / REQUEST as u64)
        .map(|number| ReadRequest { offset_bytes: number * REQUEST as u64, len_bytes: REQUEST });
    let setup = ReadSetup {
        engine,
        depth,
        pool: BufPool::new(2 * depth, REQUEST).unwrap(),
        cancel: Arc::new(AtomicBool::new(false)),
    };
    let (out, done) = crossbeam_channel::bounded(depth);
    let reading = read_all(source, requests, setup, out).unwrap();
    for answer in done {
        answer.result.unwrap();
    }
    assert_eq!(reading.join().unwrap().bytes, bytes);
}

fn engines(criterion: &mut Criterion) {
    let (path, _file) = volume();
    let size_bytes = Source::open(&path).unwrap().size_bytes();
    let bytes = size_bytes.min(READ_BYTES_MAX) / REQUEST as u64 * REQUEST as u64;
    let mut group = criterion.benchmark_group("volume");
    group.sample_size(10).throughput(Throughput::Bytes(bytes));
    for engine in [Engine::Uring, Engine::Pread] {
        if let Err(error) = probe(Some(engine)) {
            println!("{engine} is left out: {error}");
            continue;
        }
        for depth in DEPTHS {
            group.bench_function(BenchmarkId::new(engine.to_string(), depth), |bencher| {
                bencher.iter(|| read(&path, engine, depth, bytes));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, engines);
criterion_main!(benches);

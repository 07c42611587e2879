//! The index cache: loading, opening, looking up, and the memory of the process that does it.
//!
//! `SALVOR_BENCH_ENTRIES` sets the number of chunks (a million unless told), `SALVOR_BENCH_SEGMENTS`
//! the number of segments that they come in, each over the whole range of ids.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use repo_format::id::{ChunkId, PackName, RepositoryId, SegmentName, SessionId};
use repo_format::pack::{PackIdentity, PackKind};
use repo_format::segment::{Entry, PackRow, Row};
use repo_format::session::SegmentRef;
use repository::index::{BoxError, Index, IndexView, MEMORY_BYTES_DEFAULT, SegmentSource};

const REPOSITORY: RepositoryId = RepositoryId([1; 16]);
const CHUNKS_A_PACK: u64 = 30;
const BATCH: u64 = 1024;

fn mix(mut number: u64) -> u64 {
    number = (number ^ number >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    number = (number ^ number >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    number ^ number >> 33
}

fn id_with(front: u64, seed: u64) -> ChunkId {
    let words = [front, mix(seed), mix(seed ^ 1 << 62), mix(seed ^ 1 << 63)];
    let mut bytes = [0; 32];
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_be_bytes());
    }
    ChunkId(bytes)
}

/// A repository of `entries` chunks, spread over `segments` segments, made up as it is read.
#[derive(Clone, Copy)]
struct MadeUp {
    entries: u64,
    segments: u64,
}

impl MadeUp {
    fn from_environment() -> Self {
        let number = |name: &str, default| {
            std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
        };
        Self {
            entries: number("SALVOR_BENCH_ENTRIES", 1_000_000),
            segments: number("SALVOR_BENCH_SEGMENTS", 1),
        }
    }

    /// Ascending with the number, and else like random.
    fn present(self, number: u64) -> ChunkId {
        let step = u64::MAX / self.entries;
        id_with(number * step + mix(number) % step, number * 7)
    }

    fn absent(number: u64) -> ChunkId {
        id_with(mix(mix(number)), !number)
    }

    fn view(self) -> IndexView {
        let segments = (0..self.segments).map(|segment| SegmentRef {
            name: SegmentName { session: SessionId([3; 16]), counter: narrow(segment) },
            entries: (self.entries - segment).div_ceil(self.segments),
            packs: narrow(self.packs(segment)),
            bytes: 0,
        });
        IndexView { segments: segments.collect(), ..IndexView::default() }
    }

    fn packs(self, segment: u64) -> u64 {
        (self.entries - segment).div_ceil(self.segments) / CHUNKS_A_PACK + 1
    }
}

fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl SegmentSource for MadeUp {
    fn read(
        &self,
        segment: &SegmentRef,
        each: &mut dyn FnMut(Row) -> ControlFlow<()>,
    ) -> Result<(), BoxError> {
        let number = u64::from(segment.name.counter);
        let packs = self.packs(number);
        let mut session = [4; 16];
        session[..8].copy_from_slice(&number.to_be_bytes());
        for pack in 0..packs {
            let name = PackName { session: SessionId(session), counter: narrow(pack) };
            let identity = PackIdentity { name, kind: PackKind::Data, epoch: 0, salt: [5; 32] };
            let chunks = narrow(segment.entries.saturating_sub(pack).div_ceil(packs));
            if each(Row::Pack(PackRow { identity, bytes: 32 << 20, chunks })).is_break() {
                return Ok(());
            }
        }
        for entry in 0..segment.entries {
            let slot = narrow(entry / packs);
            let id = self.present(number + entry * self.segments);
            let offset = 128 + (slot << 20);
            let row = Entry::new(&id, narrow(entry % packs), offset, 1 << 20, slot);
            if each(Row::Entry(row)).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn open(dir: &Path) -> Index {
    Index::open(dir, &REPOSITORY, MEMORY_BYTES_DEFAULT).unwrap_or_else(|error| panic!("{error}"))
}

fn sync(index: &Index, made_up: &MadeUp) {
    let report = index.sync(&made_up.view(), made_up).unwrap_or_else(|error| panic!("{error}"));
    assert!(report.unreadable.is_empty());
}

fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let lines =
        status.lines().filter(|line| line.starts_with("VmHWM") || line.starts_with("VmRSS"));
    lines
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join(", ")
}

fn lookups(criterion: &mut Criterion) {
    let made_up = MadeUp::from_environment();
    let dir = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
    let start = Instant::now();
    let index = open(dir.path());
    sync(&index, &made_up);
    println!("{} entries loaded in {:?}; {}", made_up.entries, start.elapsed(), resident());
    drop(index);
    let start = Instant::now();
    let index = open(dir.path());
    let opened = start.elapsed();
    sync(&index, &made_up);
    println!("opened in {opened:?}, synced after {:?}; {}", start.elapsed(), resident());

    let mut group = criterion.benchmark_group("index");
    let mut next = 0;
    group.bench_function("usable, absent", |bencher| {
        bencher.iter(|| {
            next += 1;
            black_box(index.usable(&MadeUp::absent(next)).is_ok_and(|place| place.is_none()))
        });
    });
    group.bench_function("usable, present", |bencher| {
        bencher.iter(|| {
            next += 1;
            black_box(index.usable(&made_up.present(mix(next) % made_up.entries)).is_ok())
        });
    });
    group.throughput(Throughput::Elements(BATCH));
    let absent: Vec<ChunkId> = (0..BATCH).map(MadeUp::absent).collect();
    group.bench_function("usable_many, absent", |bencher| {
        bencher.iter(|| black_box(index.usable_many(&absent).is_ok()));
    });
    let present: Vec<ChunkId> =
        (0..BATCH).map(|number| made_up.present(mix(number) % made_up.entries)).collect();
    group.bench_function("usable_many, present", |bencher| {
        bencher.iter(|| black_box(index.usable_many(&present).is_ok()));
    });
    group.finish();
    println!("after the lookups: {}", resident());
}

fn loading(criterion: &mut Criterion) {
    let made_up = MadeUp { entries: 100_000, segments: 1 };
    let mut group = criterion.benchmark_group("index");
    group.throughput(Throughput::Elements(made_up.entries));
    group.sample_size(10);
    group.bench_function("load", |bencher| {
        bencher.iter(|| {
            let dir = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
            sync(&open(dir.path()), &made_up);
        });
    });
    group.finish();
}

criterion_group!(benches, lookups, loading);
criterion_main!(benches);

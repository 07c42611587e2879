//! The whole way of a block volume, with a store in memory: what is left is the program's own cost.
//! Bytes of the volume a second, all processors.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on ends")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use agent::block::Progress;
use agent::block::backup::{BackupSetup, backup};
use agent::block::restore::{RestoreSetup, restore};
use agent::volume::{BufPool, Engine, Source, Target, probe};
use benches::{memory_folder, random_bytes, real_bytes};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use repo_format::id::{ChunkId, ClusterId};
use repo_format::pack::PackKind;
use repo_format::snapshot::{Snapshot, VolumeKind};
use repo_format::volume::VolumeRoot;
use repository::chunks::ChunkSource;
use repository::effort::Effort;
use repository::index::{Index, MEMORY_BYTES_DEFAULT};
use repository::packer::PackOptions;
use repository::reader::Reader;
use repository::store::Memory;
use repository::view::View;
use repository::writer::{Writer, WriterOptions, sync_index};
use repository::{InitOptions, Repository, UnlockSecret};
use tempfile::TempDir;
use zeroize::Zeroizing;

const BYTES: usize = 256 << 20;
const CHUNK_LOG2: u8 = 20;

/// A repository in memory and what goes with it.
struct Place {
    folder: TempDir,
    image: PathBuf,
    repository: Arc<Repository>,
    index: Arc<Index>,
    engine: Engine,
}

impl Place {
    fn new(image: &Path) -> Self {
        let folder = TempDir::new_in(memory_folder()).unwrap();
        let store = Arc::new(Memory::default());
        // A key file is not stretched: nothing of argon2id is measured.
        let secret = UnlockSecret::KeyFile(Zeroizing::new(vec![7; 32]));
        let options =
            InitOptions { chunk_log2: Some(CHUNK_LOG2), label: String::new(), lock: None };
        let repository = Arc::new(Repository::init(store, &secret, &options).unwrap());
        let index = Index::open(folder.path(), repository.id(), MEMORY_BYTES_DEFAULT).unwrap();
        let engine = probe(None).unwrap().engine;
        Self { folder, image: image.to_owned(), repository, index: Arc::new(index), engine }
    }

    fn reader(&self) -> Reader {
        let view = View::for_reading(&self.repository).unwrap();
        sync_index(&self.repository, &self.index, &view).unwrap();
        Reader::new(&self.repository, Arc::clone(&self.index))
    }

    fn backup(&self, parent: Option<VolumeRoot>) -> ChunkId {
        let options = WriterOptions {
            effort: Effort::default(),
            packs: PackOptions::within(160 << 20, 4 << 20),
            cluster: ClusterId::NONE,
        };
        let index = Arc::clone(&self.index);
        let (writer, _) = Writer::open(&self.repository, index, &options).unwrap();
        let setup = BackupSetup {
            chunk_log2: CHUNK_LOG2,
            parent,
            parent_is_complete: true,
            changed: None,
            engine: self.engine,
            pool: BufPool::new(37, 1 << CHUNK_LOG2).unwrap(),
            workers: processors(),
            bytes_per_second: None,
            cancel: Arc::new(AtomicBool::new(false)),
        };
        let source = Arc::new(Source::open(&self.image).unwrap());
        let reader = self.reader();
        let progress = Progress::default();
        let outcome = backup(&source, &writer, &reader, setup, &progress, &mut || Ok(())).unwrap();
        writer.finish(snapshot(outcome.root), Vec::new()).unwrap();
        outcome.root
    }

    fn root(&self, id: &ChunkId) -> VolumeRoot {
        let mut plain = Vec::new();
        self.reader().get(PackKind::Meta, id, &mut plain).unwrap();
        VolumeRoot::decode(&plain).unwrap()
    }

    fn restore(&self, root: &VolumeRoot) {
        let path = self.folder.path().join("restored");
        let target = Arc::new(Target::create(&path, root.size_bytes).unwrap());
        let setup = RestoreSetup {
            engine: self.engine,
            pool: BufPool::new(37, 1 << CHUNK_LOG2).unwrap(),
            fetchers: 3,
            workers: processors(),
            in_place: false,
            no_sparse: false,
            cancel: Arc::new(AtomicBool::new(false)),
        };
        let outcome = restore(&self.reader(), root, target, &setup, &Progress::default()).unwrap();
        assert!(outcome.issues.is_empty());
        fs::remove_file(path).unwrap();
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn snapshot(root: ChunkId) -> Snapshot {
    Snapshot::new("bench", VolumeKind::Block, root)
}

fn volumes(criterion: &mut Criterion) {
    let folder = TempDir::new_in(memory_folder()).unwrap();
    let image = folder.path().join("image");
    let mut group = criterion.benchmark_group("pipeline");
    group.sample_size(10).throughput(Throughput::Bytes(BYTES as u64));
    for (data, bytes) in [("real", real_bytes(BYTES)), ("random", random_bytes(BYTES))] {
        fs::write(&image, bytes).unwrap();
        group.bench_function(format!("backup {data}, first"), |bencher| {
            bencher.iter_batched(
                || Place::new(&image),
                |place| {
                    place.backup(None);
                    place
                },
                BatchSize::PerIteration,
            );
        });
        let place = Place::new(&image);
        let root = place.root(&place.backup(None));
        group.bench_function(format!("backup {data}, unchanged"), |bencher| {
            bencher.iter(|| place.backup(Some(root.clone())));
        });
        group.bench_function(format!("restore {data}"), |bencher| {
            bencher.iter(|| place.restore(&root));
        });
    }
    group.finish();
}

criterion_group!(benches, volumes);
criterion_main!(benches);

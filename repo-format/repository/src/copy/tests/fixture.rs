//! Repositories in memory, small volumes and trees, and copies between them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use repo_format::id::{ChunkId, ClusterId, SnapshotId};
use repo_format::pack::PackKind;
use repo_format::snapshot::{Completeness, Issue, Sizes, Snapshot, VolumeKind};
use repo_format::tree::{
    self, Child, Content, Entry, EntryKind, Meta, Page as TreePage, Slice, TreeRoot, encode_slices,
};
use repo_format::volume::{Page, PageRef, Slot, VolumeRoot};
use tempfile::TempDir;
use zeroize::Zeroizing;

use crate::check::{VerifyOptions, VerifyReport, verify};
use crate::chunks::{ChunkSink, ChunkSource};
use crate::copy::{Control, Copied, Copier, CopyError, CopyOptions, Endpoint, Progress};
use crate::effort::Effort;
use crate::gc::{self, PruneOptions, PruneReport, Unwatched};
use crate::index::Index;
use crate::packer::PackOptions;
use crate::reader::Reader;
use crate::store::wrap::{Meter, Metered};
use crate::store::{Memory, Store};
use crate::view::View;
use crate::writer::{Writer, WriterOptions, sync_index};
use crate::{InitOptions, Repository, RepositoryError, UnlockSecret};

const LOG2: u8 = 16;
pub(super) const CHUNK: usize = 1 << LOG2;
/// Bytes of a file's chunks.
const FILE_CHUNK: usize = 5000;

pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A volume's chunks by their number, each noise from a seed; or files by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Data {
    Volume(BTreeMap<u64, u64>),
    Tree(BTreeMap<String, Vec<u8>>),
}

/// A volume of `pages` pages with a few chunks in each but every third.
pub(super) fn volume(pages: u64) -> BTreeMap<u64, u64> {
    let page = |number: u64| (0..4).map(move |at| (number * 1024 + at * 300, number * 1024 + at));
    (0..pages).filter(|number| number % 3 != 2).flat_map(page).collect()
}

/// Files in so many leaves that there are inner pages of two levels; one file lists its slices in
/// chunks of their own.
pub(super) fn files(folders: u64) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for folder in 0..folders {
        for file in 0..8u64 {
            let len = usize::try_from(100 + folder * 700 + file * 3000).unwrap();
            files.insert(format!("folder-{folder:03}/{file}"), noise(folder * 100 + file, len));
        }
    }
    files.insert("folder-003/huge".into(), noise(77, 40 * FILE_CHUNK + 17));
    files
}

fn secret() -> UnlockSecret {
    UnlockSecret::KeyFile(Zeroizing::new(vec![3; 64]))
}

fn packs() -> PackOptions {
    PackOptions {
        data_bytes: 256 << 10,
        meta_bytes: 64 << 10,
        chunk_bytes: 1 << 20,
        buffers: 3,
        uploads: 1,
    }
}

/// In memory if there is such a folder: a cache is written to a lot.
fn cache_dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A repository with a machine's cache.
pub(super) struct Side {
    pub(super) store: Arc<Memory>,
    /// What the repository's store was asked.
    pub(super) meter: Arc<Meter>,
    pub(super) repository: Arc<Repository>,
    pub(super) index: Arc<Index>,
    _cache: TempDir,
}

static CLOCK: AtomicI64 = AtomicI64::new(1);

impl Side {
    pub(super) fn new() -> Self {
        let store = Arc::new(Memory::default());
        let options = InitOptions { chunk_log2: Some(LOG2), label: "first".into(), lock: None };
        Repository::init(Arc::clone(&store) as _, &secret(), &options).unwrap();
        Self::over(store)
    }

    /// A repository that exists, on a machine with an empty cache.
    pub(super) fn over(store: Arc<Memory>) -> Self {
        Self::through(store, |store| store)
    }

    /// As [`Self::over`], with something between the machine and the store.
    pub(super) fn through<S: Store + 'static>(
        store: Arc<Memory>,
        between: impl FnOnce(Arc<Memory>) -> S,
    ) -> Self {
        let cache = cache_dir();
        let metered = Metered::new(between(Arc::clone(&store)));
        let meter = metered.meter();
        let repository = Arc::new(Repository::open(Arc::new(metered), &secret()).unwrap());
        let index = Arc::new(Index::open(cache.path(), repository.id(), 4 << 20).unwrap());
        Self { store, meter, repository, index, _cache: cache }
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint { repository: Arc::clone(&self.repository), index: Arc::clone(&self.index) }
    }

    pub(super) fn view(&self) -> View {
        View::for_reading(&self.repository).unwrap()
    }

    pub(super) fn back_up(&self, name: &str, data: &Data) -> SnapshotId {
        let options =
            WriterOptions { effort: Effort::default(), packs: packs(), cluster: ClusterId::NONE };
        let index = Arc::clone(&self.index);
        let (writer, _) = Writer::open(&self.repository, index, &options).unwrap();
        let (kind, root) = match data {
            Data::Volume(chunks) => (VolumeKind::Block, put_volume(&writer, chunks)),
            Data::Tree(files) => (VolumeKind::Tree, put_tree(&writer, files)),
        };
        writer.finish(record(name, kind, root), Vec::new()).unwrap().id
    }

    /// What a snapshot holds.
    pub(super) fn read(&self, id: &SnapshotId) -> Result<Data, RepositoryError> {
        let view = self.view();
        sync_index(&self.repository, &self.index, &view).unwrap();
        let reader = Reader::new(&self.repository, Arc::clone(&self.index));
        let snapshot = view.all_snapshots()[id].clone();
        match snapshot.kind {
            VolumeKind::Block => get_volume(&reader, &snapshot.root).map(Data::Volume),
            VolumeKind::Tree => get_tree(&reader, &snapshot.root).map(Data::Tree),
        }
    }

    pub(super) fn verify(&self) -> VerifyReport {
        let options = VerifyOptions { read_data: Some(1.0), record: true, ..Default::default() };
        verify(&self.repository, &self.index, &options, &Unwatched).unwrap()
    }

    pub(super) fn forget(&self, ids: &[SnapshotId]) {
        assert_eq!(gc::forget(&self.repository, ids, None).unwrap(), ids.len() as u64);
    }

    pub(super) fn prune(&self) -> PruneReport {
        let options = PruneOptions {
            dry_run: false,
            max_repack: 1.0,
            live_below: 0.99,
            keep_unfinished: crate::retention::UNFINISHED_KEPT,
            fence_after: Duration::from_mins(15),
            memory_file: None,
            cluster: ClusterId::NONE,
            packs: packs(),
        };
        gc::prune(&self.repository, &self.index, &options, &Unwatched).unwrap()
    }
}

fn record(name: &str, kind: VolumeKind, root: ChunkId) -> Snapshot {
    let time = CLOCK.fetch_add(10, Ordering::Relaxed);
    Snapshot {
        completeness: Completeness::Incomplete,
        host: "machine".into(),
        source: format!("/{name}"),
        tags: vec![("app".into(), "db".into()), ("zone".into(), "a".into())],
        started_ns: time,
        finished_ns: time + 5,
        sizes: Sizes { logical: 7, allocated: 6, read: 5, entries: 4, ..Sizes::default() },
        issue_count: 1,
        issues: vec![Issue { what: "a".into(), why: "b".into() }],
        program: "test".into(),
        ..Snapshot::new(name, kind, root)
    }
}

/// Nothing holds a copy back.
pub(super) struct Free;

impl Control for Free {}

/// A machine that copies.
pub(super) struct Machine {
    pub(super) cache: TempDir,
}

impl Machine {
    pub(super) fn new() -> Self {
        Self { cache: cache_dir() }
    }

    pub(super) fn copier(&self, source: &Side, target: &Side) -> Copier {
        let options = CopyOptions {
            threads: 3,
            packs: packs(),
            cluster: ClusterId::NONE,
            checkpoint_every: Duration::from_secs(30),
            checkpoint_bytes: 1 << 30,
            dictionary_bytes: 1 << 20,
        };
        let ends = (source.endpoint(), target.endpoint());
        let (copier, notice) = Copier::new(ends.0, ends.1, self.cache.path(), options);
        assert_eq!(notice, None);
        copier
    }

    /// Copies one snapshot.
    pub(super) fn copy(
        &self,
        source: &Side,
        target: &Side,
        id: &SnapshotId,
    ) -> Result<(Copied, Progress), CopyError> {
        let progress = Progress::default();
        let copied = self.copier(source, target).copy(id, &progress, &Free)?;
        Ok((copied, progress))
    }
}

fn put_volume(sink: &dyn ChunkSink, chunks: &BTreeMap<u64, u64>) -> ChunkId {
    let pages = chunks.keys().last().map_or(0, |last| last / 1024 + 1);
    // The last chunk is no full one.
    let size_bytes = pages * 1024 * CHUNK as u64 - 100;
    let mut root = VolumeRoot::new(size_bytes, LOG2).unwrap();
    for (place, number) in root.pages.iter_mut().zip(0..) {
        let mut page = Page::default();
        page.slots[1] = if number % 2 == 0 { Slot::Zero } else { Slot::Hole };
        for (chunk, seed) in chunks.range(number * 1024..(number + 1) * 1024) {
            let id = sink.put(PackKind::Data, &noise(*seed, CHUNK)).unwrap();
            page.slots[usize::try_from(chunk % 1024).unwrap()] = Slot::Data(id);
        }
        *place = page.summary(|| sink.put(PackKind::Meta, &page.encode()).unwrap());
    }
    sink.put(PackKind::Meta, &root.encode()).unwrap()
}

fn get_volume(
    reader: &dyn ChunkSource,
    root: &ChunkId,
) -> Result<BTreeMap<u64, u64>, RepositoryError> {
    let seeds: BTreeMap<Vec<u8>, u64> = (0..64 * 1024)
        .filter(|seed| seed % 1024 < 4 || *seed >= 50_000)
        .filter(|seed| *seed < 50_100)
        .map(|seed| (noise(seed, 32), seed))
        .collect();
    let mut plain = Vec::new();
    reader.get(PackKind::Meta, root, &mut plain)?;
    let root = VolumeRoot::decode(&plain).unwrap();
    let mut chunks = BTreeMap::new();
    for (page, number) in root.pages.iter().zip(0..) {
        let PageRef::Page(id) = page else { continue };
        reader.get(PackKind::Meta, id, &mut plain)?;
        for (slot, at) in Page::decode(&plain).unwrap().slots.iter().zip(0..) {
            if let Slot::Data(id) = slot {
                reader.get(PackKind::Data, id, &mut plain)?;
                chunks.insert(number * 1024 + at, seeds[&plain[..32]]);
            }
        }
    }
    Ok(chunks)
}

fn put_tree(sink: &dyn ChunkSink, files: &BTreeMap<String, Vec<u8>>) -> ChunkId {
    let entries: Vec<Entry> = files.iter().map(|(path, bytes)| entry(sink, path, bytes)).collect();
    let mut children: Vec<Child> = Vec::new();
    // A leaf for each folder.
    for leaf in entries.chunk_by(|a, b| a.path[..10] == b.path[..10]) {
        children.push(Child {
            page: sink.put(PackKind::Meta, &tree::encode_leaf(leaf)).unwrap(),
            first_path: leaf[0].path.clone(),
            entries: leaf.len() as u64,
        });
    }
    let mut level = 0;
    while children.len() > 1 {
        level += 1;
        children = children
            .chunks(5)
            .map(|below| Child {
                page: sink.put(PackKind::Meta, &tree::encode_inner(level, below)).unwrap(),
                first_path: below[0].first_path.clone(),
                entries: below.iter().map(|child| child.entries).sum(),
            })
            .collect();
    }
    let count = files.len() as u64;
    let page = children.first().map(|child| child.page);
    let root = TreeRoot { page, level, entries: count, files: count, bytes: 0 };
    sink.put(PackKind::Meta, &root.encode()).unwrap()
}

fn entry(sink: &dyn ChunkSink, path: &str, bytes: &[u8]) -> Entry {
    let put = |chunk: &[u8]| Slice {
        chunk: sink.put(PackKind::Data, chunk).unwrap(),
        offset: 0,
        len: u32::try_from(chunk.len()).unwrap(),
    };
    let slices = || bytes.chunks(FILE_CHUNK).map(put).collect::<Vec<Slice>>();
    let content = if bytes.len() <= 300 {
        Content::Inline(bytes.to_vec())
    } else if path.ends_with("huge") {
        let lists = slices();
        let lists = lists.chunks(7).map(encode_slices);
        Content::Indirect(lists.map(|list| sink.put(PackKind::Meta, &list).unwrap()).collect())
    } else {
        Content::Slices(slices())
    };
    Entry {
        path: path.as_bytes().to_vec(),
        kind: EntryKind::File,
        meta: Meta { mode: 0o644, nlink: 1, size: bytes.len() as u64, ..Meta::default() },
        content,
        extents: Vec::new(),
    }
}

fn get_tree(
    reader: &dyn ChunkSource,
    root: &ChunkId,
) -> Result<BTreeMap<String, Vec<u8>>, RepositoryError> {
    let mut plain = Vec::new();
    reader.get(PackKind::Meta, root, &mut plain)?;
    let mut stack: Vec<ChunkId> = TreeRoot::decode(&plain).unwrap().page.into_iter().collect();
    let mut files = BTreeMap::new();
    while let Some(id) = stack.pop() {
        reader.get(PackKind::Meta, &id, &mut plain)?;
        match tree::decode_page(&plain).unwrap() {
            TreePage::Inner { children, .. } => stack.extend(children.iter().map(|c| c.page)),
            TreePage::Leaf(entries) => {
                for entry in entries {
                    let path = String::from_utf8(entry.path).unwrap();
                    files.insert(path, get_file(reader, entry.content)?);
                }
            }
        }
    }
    Ok(files)
}

fn get_file(reader: &dyn ChunkSource, content: Content) -> Result<Vec<u8>, RepositoryError> {
    let (mut bytes, mut plain) = (Vec::new(), Vec::new());
    let slices = match content {
        Content::Inline(bytes) => return Ok(bytes),
        Content::Slices(slices) => slices,
        Content::Indirect(ids) => {
            let mut all = Vec::new();
            for id in ids {
                reader.get(PackKind::Meta, &id, &mut plain)?;
                all.extend(tree::decode_slices(&plain).unwrap());
            }
            all
        }
        _ => Vec::new(),
    };
    for slice in slices {
        reader.get(PackKind::Data, &slice.chunk, &mut plain)?;
        bytes.extend_from_slice(&plain);
    }
    Ok(bytes)
}

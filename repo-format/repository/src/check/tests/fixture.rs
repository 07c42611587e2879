//! A small repository with every kind of object, its sources, and ways to damage it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use repo_format::id::{ChunkId, ClusterId, SnapshotId};
use repo_format::key::{ObjectKey, Prefix};
use repo_format::pack::PackKind;
use repo_format::snapshot::{Snapshot, VolumeKind};
use repo_format::tree::{
    self, Content, Entry, EntryKind, Meta, Page as TreePage, Slice, TreeRoot, encode_slices,
};
use repo_format::volume::{Page, PageRef, Slot, VolumeRoot};
use tempfile::TempDir;
use zeroize::Zeroizing;

use crate::check::{VerifyOptions, VerifyReport, verify};
use crate::chunks::{ChunkSink, ChunkSource};
use crate::effort::Effort;
use crate::gc::{self, PruneOptions, Unwatched};
use crate::index::Index;
use crate::packer::PackOptions;
use crate::reader::Reader;
use crate::store::FsStore;
use crate::view::View;
use crate::writer::{Writer, WriterOptions, sync_index};
use crate::{InitOptions, Repository, RepositoryError, UnlockSecret};

pub(super) const CHUNK: usize = 64 << 10;

pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// What a snapshot was made of: a volume's bytes, or files by path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Source {
    Volume(Vec<u8>),
    Tree(BTreeMap<String, Vec<u8>>),
}

pub(super) fn secret() -> UnlockSecret {
    UnlockSecret::KeyFile(Zeroizing::new(b"a key file of sixteen bytes or more".to_vec()))
}

/// An open repository with an index of its own.
pub(super) struct Opened {
    pub(super) repository: Arc<Repository>,
    pub(super) index: Arc<Index>,
    _cache: Option<TempDir>,
}

pub(super) struct Fixture {
    folder: TempDir,
    pub(super) sources: BTreeMap<String, Source>,
    pub(super) snapshots: BTreeMap<SnapshotId, Source>,
}

impl Fixture {
    /// A repository with folded and unfolded snapshots of a volume and of a tree.
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(FsStore::create(&folder.path().join("repo")).unwrap());
        let options = InitOptions { chunk_log2: Some(16), label: "first".into(), lock: None };
        let repository = Repository::init(store, &secret(), &options).unwrap();
        let other = UnlockSecret::KeyFile(Zeroizing::new(b"another key file, also long".to_vec()));
        repository.add_slot(&other, "second").unwrap();
        let mut fixture = Self { folder, sources: BTreeMap::new(), snapshots: BTreeMap::new() };
        let opened = fixture.open_warm().unwrap();
        let volume = noise(1, 5 * CHUNK + 1000);
        fixture.back_up(&opened, "disk", Source::Volume(volume.clone()));
        fixture.back_up(&opened, "home", Source::Tree(tree(1)));
        let twin = fixture.back_up(&opened, "disk", Source::Volume(volume.clone()));
        opened.prune();
        // So that not only the newest catalog lists what was folded.
        assert_eq!(gc::forget(&opened.repository, &[twin], None).unwrap(), 1);
        fixture.snapshots.remove(&twin);
        let mut changed = volume;
        changed[2 * CHUNK..3 * CHUNK].copy_from_slice(&noise(2, CHUNK));
        fixture.back_up(&opened, "disk", Source::Volume(changed));
        fixture.back_up(&opened, "home", Source::Tree(tree(2)));
        fixture
    }

    /// A copy in a folder of its own.
    pub(super) fn cloned(&self, copy: impl Fn(&Path, &Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy(self.folder.path(), folder.path());
        Self { folder, sources: self.sources.clone(), snapshots: self.snapshots.clone() }
    }

    pub(super) fn root(&self) -> PathBuf {
        self.folder.path().join("repo")
    }

    fn open_in(&self, cache: &Path) -> Result<(Arc<Repository>, Arc<Index>), RepositoryError> {
        let store = FsStore::open(&self.root())
            .map_err(|_| RepositoryError::NoRepository { at: "the fixture".into() })?;
        let store = Arc::new(store);
        let repository = Arc::new(Repository::open(store, &secret())?);
        let index = Index::open(cache, repository.id(), 4 << 20).unwrap();
        Ok((repository, Arc::new(index)))
    }

    /// With the cache that the backups filled.
    pub(super) fn open_warm(&self) -> Result<Opened, RepositoryError> {
        let (repository, index) = self.open_in(&self.folder.path().join("cache"))?;
        Ok(Opened { repository, index, _cache: None })
    }

    /// With an empty cache, as another machine.
    pub(super) fn open_cold(&self) -> Result<Opened, RepositoryError> {
        let cache = tempfile::tempdir().unwrap();
        let (repository, index) = self.open_in(cache.path())?;
        Ok(Opened { repository, index, _cache: Some(cache) })
    }
}

impl Opened {
    pub(super) fn verify(&self, witness: Option<u64>) -> VerifyReport {
        let options =
            VerifyOptions { read_data: Some(1.0), record: true, witness, ..Default::default() };
        verify(&self.repository, &self.index, &options, &Unwatched).unwrap()
    }

    pub(super) fn prune(&self) {
        let options = PruneOptions {
            dry_run: false,
            max_repack: 1.0,
            live_below: 0.5,
            keep_unfinished: crate::retention::UNFINISHED_KEPT,
            fence_after: Duration::from_mins(15),
            memory_file: None,
            cluster: ClusterId::NONE,
            packs: packs(),
        };
        gc::prune(&self.repository, &self.index, &options, &Unwatched).unwrap();
    }
}

impl Fixture {
    /// Backs a source up and remembers what the snapshot must give.
    pub(super) fn back_up(&mut self, opened: &Opened, name: &str, content: Source) -> SnapshotId {
        let options =
            WriterOptions { effort: Effort::default(), packs: packs(), cluster: ClusterId::NONE };
        let (writer, _) =
            Writer::open(&opened.repository, Arc::clone(&opened.index), &options).unwrap();
        let (kind, root) = match &content {
            Source::Volume(bytes) => (VolumeKind::Block, put_volume(&writer, bytes)),
            Source::Tree(files) => (VolumeKind::Tree, put_tree(&writer, files)),
        };
        let id = writer.finish(record(name, kind, root), Vec::new()).unwrap().id;
        self.sources.insert(name.to_owned(), content.clone());
        self.snapshots.insert(id, content);
        id
    }

    /// Backs up again what the sources have now.
    pub(super) fn back_up_all(&mut self, opened: &Opened) {
        for (name, content) in self.sources.clone() {
            self.back_up(opened, &name, content);
        }
    }

    /// Reads every snapshot that is listed; none may give anything but what it was made of.
    /// Returns those that gave all of it.
    pub(super) fn read_back(&self, opened: &Opened) -> Vec<SnapshotId> {
        let view = View::for_reading(&opened.repository).unwrap();
        sync_index(&opened.repository, &opened.index, &view).unwrap();
        let reader = Reader::new(&opened.repository, Arc::clone(&opened.index));
        let mut whole = Vec::new();
        for (id, expected) in &self.snapshots {
            let Some(snapshot) = view.all_snapshots().get(id).copied() else { continue };
            let read = match snapshot.kind {
                VolumeKind::Block => get_volume(&reader, &snapshot.root).map(Source::Volume),
                VolumeKind::Tree => get_tree(&reader, &snapshot.root).map(Source::Tree),
            };
            if let Ok(read) = read {
                assert!(read == *expected, "snapshot {id} gives something else");
                whole.push(*id);
            }
        }
        whole
    }

    pub(super) fn path(&self, key: &ObjectKey) -> PathBuf {
        self.root().join(key.to_string())
    }

    /// Every stored object, by kind and name.
    pub(super) fn objects(&self) -> Vec<ObjectKey> {
        let store = FsStore::open(&self.root()).unwrap();
        let mut keys = vec![ObjectKey::Config];
        for prefix in Prefix::ALL {
            crate::store::Store::list(&store, prefix, &mut |listed| {
                keys.push(listed.key);
                Ok(())
            })
            .unwrap();
        }
        keys
    }
}

pub(super) fn packs() -> PackOptions {
    PackOptions {
        data_bytes: 256 << 10,
        meta_bytes: 64 << 10,
        chunk_bytes: 1 << 20,
        buffers: 3,
        uploads: 1,
    }
}

fn record(name: &str, kind: VolumeKind, root: ChunkId) -> Snapshot {
    Snapshot { started_ns: 1, finished_ns: 2, ..Snapshot::new(name, kind, root) }
}

/// Files of which some differ from one version to the next.
pub(super) fn tree(version: u64) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    files.insert("a/inline".into(), b"short".to_vec());
    files.insert("a/whole".into(), noise(10, 3000));
    files.insert("b/changing".into(), noise(20 + version, 90_000));
    files.insert("b/huge".into(), noise(11, 200_000));
    files.insert("c/last".into(), noise(12, 40_000));
    files
}

fn put_volume(sink: &dyn ChunkSink, bytes: &[u8]) -> ChunkId {
    let mut root = VolumeRoot::new(bytes.len() as u64, 16).unwrap();
    let mut page = Page::default();
    for (slot, chunk) in page.slots.iter_mut().zip(bytes.chunks(CHUNK)) {
        *slot = Slot::Data(sink.put(PackKind::Data, chunk).unwrap());
    }
    let id = sink.put(PackKind::Meta, &page.encode()).unwrap();
    root.pages = vec![PageRef::Page(id)];
    sink.put(PackKind::Meta, &root.encode()).unwrap()
}

fn get_volume(reader: &Reader, root: &ChunkId) -> Result<Vec<u8>, RepositoryError> {
    let mut plain = Vec::new();
    reader.get(PackKind::Meta, root, &mut plain)?;
    let root = VolumeRoot::decode(&plain).unwrap();
    let mut bytes = Vec::new();
    for page in &root.pages {
        let PageRef::Page(id) = page else { unreachable!() };
        reader.get(PackKind::Meta, id, &mut plain)?;
        for slot in Page::decode(&plain).unwrap().slots {
            if let Slot::Data(id) = slot {
                reader.get(PackKind::Data, &id, &mut plain)?;
                bytes.extend_from_slice(&plain);
            }
        }
    }
    Ok(bytes)
}

fn slices(sink: &dyn ChunkSink, bytes: &[u8]) -> Vec<Slice> {
    let put = |chunk: &[u8]| Slice {
        chunk: sink.put(PackKind::Data, chunk).unwrap(),
        offset: 0,
        len: u32::try_from(chunk.len()).unwrap(),
    };
    bytes.chunks(CHUNK).map(put).collect()
}

fn put_tree(sink: &dyn ChunkSink, files: &BTreeMap<String, Vec<u8>>) -> ChunkId {
    let entry = |path: &str, content: Content, size: usize| Entry {
        path: path.as_bytes().to_vec(),
        kind: EntryKind::File,
        meta: Meta { mode: 0o644, nlink: 1, size: size as u64, ..Meta::default() },
        content,
        extents: Vec::new(),
    };
    let mut pages: Vec<Vec<Entry>> = vec![Vec::new(); 3];
    for (path, bytes) in files {
        let content = match path.as_str() {
            "a/inline" => Content::Inline(bytes.clone()),
            "b/huge" => Content::Indirect(
                slices(sink, bytes)
                    .chunks(2)
                    .map(|slices| sink.put(PackKind::Meta, &encode_slices(slices)).unwrap())
                    .collect(),
            ),
            _ => Content::Slices(slices(sink, bytes)),
        };
        let page = usize::from(path.as_bytes()[0] - b'a');
        pages[page].push(entry(path, content, bytes.len()));
    }
    pages[2].push(entry("c/link", Content::HardLink(b"b/changing".to_vec()), 0));
    pages[2].sort_by(|a, b| a.path.cmp(&b.path));
    if let Some(link) = pages[2].iter_mut().find(|entry| entry.path == b"c/link") {
        link.meta.size = files["b/changing"].len() as u64;
    }
    let children: Vec<tree::Child> = pages
        .iter()
        .map(|entries| tree::Child {
            page: sink.put(PackKind::Meta, &tree::encode_leaf(entries)).unwrap(),
            first_path: entries[0].path.clone(),
            entries: entries.len() as u64,
        })
        .collect();
    let top = sink.put(PackKind::Meta, &tree::encode_inner(1, &children)).unwrap();
    let root = TreeRoot { page: Some(top), level: 1, entries: 6, files: 6, bytes: 0 };
    sink.put(PackKind::Meta, &root.encode()).unwrap()
}

fn get_tree(reader: &Reader, root: &ChunkId) -> Result<BTreeMap<String, Vec<u8>>, RepositoryError> {
    let mut plain = Vec::new();
    reader.get(PackKind::Meta, root, &mut plain)?;
    let mut stack: Vec<ChunkId> = TreeRoot::decode(&plain).unwrap().page.into_iter().collect();
    let mut files = BTreeMap::new();
    while let Some(id) = stack.pop() {
        reader.get(PackKind::Meta, &id, &mut plain)?;
        match tree::decode_page(&plain).unwrap() {
            TreePage::Inner { children, .. } => {
                stack.extend(children.iter().map(|child| child.page));
            }
            TreePage::Leaf(entries) => {
                for entry in entries {
                    let path = String::from_utf8(entry.path).unwrap();
                    let listed = match entry.content {
                        Content::Inline(bytes) => {
                            files.insert(path, bytes);
                            continue;
                        }
                        Content::Slices(slices) => slices,
                        Content::Indirect(ids) => {
                            let mut all = Vec::new();
                            for id in ids {
                                reader.get(PackKind::Meta, &id, &mut plain)?;
                                all.extend(tree::decode_slices(&plain).unwrap());
                            }
                            all
                        }
                        _ => continue,
                    };
                    let mut bytes = Vec::new();
                    for slice in listed {
                        reader.get(PackKind::Data, &slice.chunk, &mut plain)?;
                        bytes.extend_from_slice(&plain);
                    }
                    files.insert(path, bytes);
                }
            }
        }
    }
    Ok(files)
}

/// One way to damage an object.
#[derive(Debug, Clone, Copy)]
pub(super) enum Damage {
    Removed,
    CutTo(usize),
    Flipped(usize),
}

impl Damage {
    /// `flips` spread single-bit flips, cuts, nothing left, and the removal.
    pub(super) fn all(len: usize, flips: usize) -> Vec<Self> {
        let mut all = vec![Self::Removed, Self::CutTo(0), Self::CutTo(1), Self::CutTo(len / 2)];
        all.extend([len.saturating_sub(300), len - 1].map(Self::CutTo));
        all.extend((0..flips).map(|flip| {
            // The first and the last bit are among them.
            Self::Flipped(flip * (len * 8 - 1) / (flips - 1).max(1))
        }));
        all
    }

    pub(super) fn apply(self, path: &Path) {
        let mut bytes = fs::read(path).unwrap();
        match self {
            Self::Removed => return fs::remove_file(path).unwrap(),
            Self::CutTo(len) => bytes.truncate(len),
            Self::Flipped(bit) => bytes[bit / 8] ^= 1 << (bit % 8),
        }
        fs::write(path, bytes).unwrap();
    }
}

//! A repository used as a library, for tests that need its store or more chunks than there is
//! data for.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use repo_format::id::{ChunkId, ClusterId};
use repo_format::pack::PackKind;
use repo_format::snapshot::{Completeness, Snapshot, VolumeKind};
use repo_format::volume::{Page, PageRef, Slot, VolumeRoot};
use repository::chunks::{ChunkSink, ChunkSource};
use repository::effort::Effort;
use repository::gc::PruneOptions;
use repository::index::Index;
use repository::packer::PackOptions;
use repository::store::Store;
use repository::writer::WriterOptions;
use repository::{InitOptions, Repository, RepositoryError, UnlockSecret};
use zeroize::Zeroizing;

/// log2 of the chunk length of volumes here.
pub const CHUNK_LOG2: u8 = 16;

/// What opens repositories of a [`super::Lab`], too.
pub fn secret() -> UnlockSecret {
    UnlockSecret::KeyFile(Zeroizing::new(vec![7; 64]))
}

/// A new repository.
pub fn init(store: Arc<dyn Store>) -> Repository {
    let options = InitOptions { chunk_log2: Some(CHUNK_LOG2), label: "first".into(), lock: None };
    Repository::init(store, &secret(), &options).unwrap()
}

/// A repository and an index in `cache`.
///
/// # Errors
///
/// The store failed.
pub fn open(
    store: Arc<dyn Store>,
    cache: &Path,
) -> Result<(Arc<Repository>, Arc<Index>), RepositoryError> {
    let repository = Repository::open(store, &secret())?;
    let index = Index::open(cache, repository.id(), 8 << 20)?;
    Ok((Arc::new(repository), Arc::new(index)))
}

const fn packs() -> PackOptions {
    PackOptions {
        data_bytes: 256 << 10,
        meta_bytes: 64 << 10,
        chunk_bytes: 1 << 20,
        buffers: 3,
        uploads: 1,
    }
}

/// A writer of small packs.
pub fn writer_options() -> WriterOptions {
    WriterOptions { effort: Effort::default(), packs: packs(), cluster: ClusterId::NONE }
}

/// A prune that writes everything again that it may.
pub fn prune_options() -> PruneOptions {
    PruneOptions {
        dry_run: false,
        max_repack: 1.0,
        live_below: 0.9,
        keep_unfinished: repository::retention::UNFINISHED_KEPT,
        fence_after: Duration::from_mins(15),
        memory_file: None,
        cluster: ClusterId::NONE,
        packs: packs(),
    }
}

/// The record of a volume's snapshot.
pub fn record(name: &str, root: ChunkId, completeness: Completeness) -> Snapshot {
    let blank = Snapshot::new(name, VolumeKind::Block, root);
    Snapshot { completeness, started_ns: 1, finished_ns: 2, ..blank }
}

/// Stores a volume's manifest over these slots. Returns its root.
///
/// # Errors
///
/// The store failed.
pub fn put_manifest(
    sink: &dyn ChunkSink,
    size_bytes: u64,
    slots: &[Slot],
) -> Result<ChunkId, RepositoryError> {
    let mut root = VolumeRoot::new(size_bytes, CHUNK_LOG2).unwrap();
    for (place, slots) in root.pages.iter_mut().zip(slots.chunks(Page::default().slots.len())) {
        let mut page = Page::default();
        page.slots[..slots.len()].copy_from_slice(slots);
        *place = PageRef::Page(sink.put(PackKind::Meta, &page.encode())?);
    }
    sink.put(PackKind::Meta, &root.encode())
}

/// Reads a volume back.
///
/// # Errors
///
/// Something is missing or damaged, or the store failed.
pub fn get_volume(source: &dyn ChunkSource, root: &ChunkId) -> Result<Vec<u8>, RepositoryError> {
    let mut plain = Vec::new();
    source.get(PackKind::Meta, root, &mut plain)?;
    let root = VolumeRoot::decode(&plain).unwrap();
    let mut bytes = Vec::new();
    for page in &root.pages {
        let PageRef::Page(id) = page else { continue };
        source.get(PackKind::Meta, id, &mut plain)?;
        for slot in Page::decode(&plain).unwrap().slots {
            if let Slot::Data(id) = slot {
                source.get(PackKind::Data, &id, &mut plain)?;
                bytes.extend_from_slice(&plain);
            }
        }
    }
    Ok(bytes)
}

//! A repository in memory.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use repo_format::id::ChunkId;
use repo_format::keys::{KeyBundle, Keys, Secret};
use repo_format::pack::PackKind;
use repository::RepositoryError;
use repository::chunks::{ChunkSink, ChunkSource};

use super::BatchSource;
use super::beneath::lock;

/// Keys that are the same in every test.
pub(super) fn keys() -> Keys {
    Keys::new(&KeyBundle::new(Secret::new([7; 32]), Secret::new([8; 32])))
}

/// Keeps chunks in memory, by id.
pub(super) struct Memory {
    keys: Keys,
    chunks: Mutex<HashMap<(bool, ChunkId), Vec<u8>>>,
    pub(super) gets: AtomicU64,
    pub(super) puts: AtomicU64,
}

impl Memory {
    pub(super) fn new() -> Self {
        let (gets, puts) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { keys: keys(), chunks: Mutex::default(), gets, puts }
    }

    /// Chunks of a kind, and their bytes.
    pub(super) fn stored(&self, kind: PackKind) -> (usize, usize) {
        let chunks = lock(&self.chunks);
        let of_kind =
            chunks.iter().filter(|((is_meta, _), _)| *is_meta == (kind == PackKind::Meta));
        of_kind.fold((0, 0), |(count, bytes), (_, plain)| (count + 1, bytes + plain.len()))
    }

    /// Loses a chunk; true if it was there.
    pub(super) fn lose(&self, kind: PackKind, id: &ChunkId) -> bool {
        lock(&self.chunks).remove(&(kind == PackKind::Meta, *id)).is_some()
    }

    pub(super) fn has(&self, kind: PackKind, id: &ChunkId) -> bool {
        lock(&self.chunks).contains_key(&(kind == PackKind::Meta, *id))
    }
}

impl ChunkSink for Memory {
    fn put(&self, kind: PackKind, plain: &[u8]) -> Result<ChunkId, RepositoryError> {
        assert!(!plain.is_empty() && plain.len() <= repo_format::limits::CHUNK_BYTES_MAX);
        self.puts.fetch_add(1, Ordering::Relaxed);
        let id = self.keys.chunk_id(kind, plain);
        let key = (kind == PackKind::Meta, id);
        lock(&self.chunks).entry(key).or_insert_with(|| plain.to_vec());
        Ok(id)
    }
}

impl ChunkSource for Memory {
    fn get(
        &self,
        kind: PackKind,
        id: &ChunkId,
        plain: &mut Vec<u8>,
    ) -> Result<(), RepositoryError> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        plain.clear();
        match lock(&self.chunks).get(&(kind == PackKind::Meta, *id)) {
            Some(chunk) => plain.extend_from_slice(chunk),
            None => return Err(RepositoryError::MissingChunk { id: *id }),
        }
        Ok(())
    }
}

impl BatchSource for Memory {}

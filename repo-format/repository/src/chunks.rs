//! What the pipelines need of a repository: a place to put chunks and a place to get them from.

use repo_format::id::ChunkId;
use repo_format::pack::PackKind;

use crate::RepositoryError;

/// Takes plain chunks. Any number of threads may call it at once.
pub trait ChunkSink: Send + Sync {
    /// Identifies `plain`, and stores it unless the repository has it already. The chunk is
    /// durable, and visible to others, only after the session's commit.
    ///
    /// * `plain`: 1 to [`repo_format::limits::CHUNK_BYTES_MAX`] bytes.
    ///
    /// # Errors
    ///
    /// The store failed, now or in the background since the last call.
    fn put(&self, kind: PackKind, plain: &[u8]) -> Result<ChunkId, RepositoryError>;
}

/// Gives plain chunks back. Any number of threads may call it at once.
pub trait ChunkSource: Send + Sync {
    /// Replaces the content of `plain` by the chunk's bytes, verified against its id.
    ///
    /// # Errors
    ///
    /// The chunk is not in the repository, is damaged, or the store failed.
    fn get(&self, kind: PackKind, id: &ChunkId, plain: &mut Vec<u8>)
    -> Result<(), RepositoryError>;
}

//! Where a tree's chunks come from: one by one, or many at once in the order they are stored.

use std::ops::ControlFlow;

use repo_format::id::ChunkId;
use repo_format::pack::PackKind;
use repository::RepositoryError;
use repository::chunks::ChunkSource;

/// Takes the chunk at a position of the request: its plain bytes, or why it cannot be had.
pub type Each<'a> = &'a mut dyn FnMut(usize, Result<&[u8], RepositoryError>) -> ControlFlow<()>;

/// A [`ChunkSource`] that can do better when it knows what is wanted next. Any number of threads
/// may call it at once; a restore does, with one request per thread.
///
/// The provided methods make every `ChunkSource` a slow one.
pub trait BatchSource: ChunkSource {
    /// For each id a number such that chunks with near numbers lie near one another: the pack in
    /// the high bits, the offset in the low ones. Chunks that are not found may get any number;
    /// asking for them says so.
    ///
    /// # Errors
    ///
    /// The index failed.
    fn locate(&self, kind: PackKind, ids: &[ChunkId]) -> Result<Vec<u64>, RepositoryError> {
        let _ = kind;
        Ok((0..ids.len()).map(|at| at as u64).collect())
    }

    /// Calls `each` once per id, in any order, in the calling thread, with the chunk's position
    /// in `ids`. A chunk that is missing or damaged is an `Err` there and does not end the
    /// request; `Break` does.
    ///
    /// # Errors
    ///
    /// What concerns no single chunk: the store cannot be reached.
    fn get_many(
        &self,
        kind: PackKind,
        ids: &[ChunkId],
        each: Each<'_>,
    ) -> Result<(), RepositoryError> {
        let mut plain = Vec::new();
        for (at, id) in ids.iter().enumerate() {
            let got = self.get(kind, id, &mut plain);
            if each(at, got.map(|()| plain.as_slice())).is_break() {
                break;
            }
        }
        Ok(())
    }
}

//! A limit on how fast a tree is read, kept where its content arrives: what is read waits here, and
//! reading waits for that.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;

use repo_format::id::ChunkId;
use repo_format::pack::PackKind;
use repository::RepositoryError;
use repository::chunks::ChunkSink;

use super::units::Size;
use crate::block::backup::Throttle;

/// Passes content on no faster than a limit; manifests pass freely.
pub(super) struct Paced<'a> {
    sink: &'a dyn ChunkSink,
    limit: Option<Mutex<Throttle>>,
    cancel: &'a AtomicBool,
}

impl<'a> Paced<'a> {
    /// * `limit`: bytes a second; `None`: no limit.
    /// * `cancel`: once it is set nothing waits any more.
    pub(super) fn new(
        sink: &'a dyn ChunkSink,
        limit: Option<Size>,
        cancel: &'a AtomicBool,
    ) -> Self {
        let limit = limit.map(|limit| Mutex::new(Throttle::new(limit.0)));
        Self { sink, limit, cancel }
    }
}

impl ChunkSink for Paced<'_> {
    fn put(&self, kind: PackKind, plain: &[u8]) -> Result<ChunkId, RepositoryError> {
        if let Some(limit) = self.limit.as_ref().filter(|_| kind == PackKind::Data) {
            let mut limit = limit.lock().unwrap_or_else(PoisonError::into_inner);
            limit.pace(plain.len() as u64, self.cancel);
        }
        self.sink.put(kind, plain)
    }
}

//! From an entry to the chunks that hold its bytes, and where those bytes go.

use std::collections::VecDeque;

use repo_format::id::ChunkId;
use repo_format::pack::PackKind;
use repo_format::tree::{Content, Entry, Extent, Slice, decode_slices};

use super::{BatchSource, TreeError};

/// The slices of an entry, in order. Lists of slices are read as they are needed.
pub(super) struct Slices<'a> {
    source: &'a dyn BatchSource,
    ready: VecDeque<Slice>,
    lists: VecDeque<ChunkId>,
}

impl<'a> Slices<'a> {
    pub(super) fn new(source: &'a dyn BatchSource, content: &Content) -> Self {
        let (ready, lists) = match content {
            Content::Slices(slices) => (slices.iter().copied().collect(), VecDeque::new()),
            Content::Indirect(lists) => (VecDeque::new(), lists.iter().copied().collect()),
            _ => (VecDeque::new(), VecDeque::new()),
        };
        Self { source, ready, lists }
    }

    pub(super) fn next(&mut self) -> Result<Option<Slice>, TreeError> {
        while self.ready.is_empty() {
            let Some(chunk) = self.lists.pop_front() else { return Ok(None) };
            let mut plain = Vec::new();
            self.source.get(PackKind::Meta, &chunk, &mut plain)?;
            let decoded = decode_slices(&plain);
            self.ready = decoded.map_err(|source| TreeError::Damaged { chunk, source })?.into();
        }
        Ok(self.ready.pop_front())
    }
}

/// Says where in the file the next bytes of an entry's data go.
#[derive(Debug)]
pub(super) struct Placer {
    data: std::vec::IntoIter<Extent>,
    now: Extent,
}

impl Placer {
    pub(super) fn new(entry: &Entry) -> Self {
        let data = if entry.extents.is_empty() {
            vec![Extent { offset: 0, len: entry.meta.size }]
        } else {
            entry.extents.clone()
        };
        Self { data: data.into_iter(), now: Extent { offset: 0, len: 0 } }
    }

    /// Takes at most `len` bytes that lie together. `None` when all data is placed.
    pub(super) fn take(&mut self, len: u64) -> Option<Extent> {
        while self.now.len == 0 {
            self.now = self.data.next()?;
        }
        let taken = Extent { offset: self.now.offset, len: len.min(self.now.len) };
        self.now.offset += taken.len;
        self.now.len -= taken.len;
        Some(taken)
    }
}

/// What is between the data of a file: its holes, ascending.
pub(super) fn holes(entry: &Entry) -> Vec<Extent> {
    let mut holes = Vec::new();
    if entry.extents.is_empty() {
        return holes;
    }
    let mut at = 0;
    for extent in &entry.extents {
        if extent.offset > at {
            holes.push(Extent { offset: at, len: extent.offset - at });
        }
        at = extent.offset + extent.len;
    }
    if at < entry.meta.size {
        holes.push(Extent { offset: at, len: entry.meta.size - at });
    }
    holes
}

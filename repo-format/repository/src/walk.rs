//! Every chunk that a snapshot refers to, found by walking its manifest.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use repo_format::id::ChunkId;
use repo_format::pack::PackKind;
use repo_format::snapshot::{Snapshot, VolumeKind};
use repo_format::tree::{self, Content, Entry, Page as TreePage, TreeRoot};
use repo_format::volume::{Page, PageRef, Slot, VolumeRoot};

use crate::RepositoryError;
use crate::chunks::ChunkSource;
use crate::index::{Index, IndexError};

/// Where a reference was met, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Context {
    /// In the manifest itself.
    Manifest,
    /// These bytes of a volume.
    Volume {
        /// In bytes.
        offset_bytes: u64,
        /// In bytes.
        len_bytes: u64,
    },
    /// The content of the file at this path.
    File(Vec<u8>),
    /// A page of a tree: the entries from one path on, up to another or the end.
    Entries {
        /// Path of the first entry; empty for the tree's root.
        from: Vec<u8>,
        /// Path of the first entry behind the page.
        to: Option<Vec<u8>>,
    },
}

/// Receives what a walk meets.
pub trait Visitor {
    /// A chunk is referred to. Metadata chunks are reported before they are read.
    ///
    /// # Errors
    ///
    /// Ends the walk.
    fn reference(
        &mut self,
        kind: PackKind,
        id: &ChunkId,
        context: &Context,
    ) -> Result<(), RepositoryError>;

    /// An entry of a tree is the same file as an earlier one.
    ///
    /// # Errors
    ///
    /// Ends the walk.
    fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), RepositoryError> {
        let _ = (path, target);
        Ok(())
    }

    /// A part of the manifest could not be read; what it lists is not walked.
    ///
    /// # Errors
    ///
    /// Ends the walk; the default does.
    fn unreadable(
        &mut self,
        error: RepositoryError,
        context: &Context,
    ) -> Result<(), RepositoryError> {
        let _ = context;
        Err(error)
    }
}

/// Manifest pages that were walked already: pages are shared between snapshots, and the sum of
/// their references is the same each time.
///
/// By default a set of ids, which suits one snapshot. [`Self::over`] an index, a page is one bit
/// at its place, so that memory follows the packs of metadata (about 20 bytes each) and not the
/// pages.
#[derive(Debug, Default)]
pub struct Seen {
    places: Option<Places>,
    /// Those that are in no listed pack.
    others: HashSet<ChunkId>,
}

/// One bit for each chunk of the packs that pages are in.
#[derive(Debug)]
struct Places {
    index: Arc<Index>,
    /// Where the bits of a pack start, by its number.
    starts: HashMap<u32, usize>,
    bits: Vec<u64>,
    /// Pages met last, each at the slot that its id names: snapshots of one volume that come one
    /// after the other share most pages, and these are not looked up again.
    recent: Vec<ChunkId>,
}

impl Seen {
    /// For the pages of any number of snapshots.
    pub fn over(index: &Arc<Index>) -> Self {
        const RECENT: usize = 64 << 10;
        let places = Places {
            index: Arc::clone(index),
            starts: HashMap::new(),
            bits: Vec::new(),
            recent: vec![ChunkId::NONE; RECENT],
        };
        Self { places: Some(places), others: HashSet::new() }
    }

    /// Notes a page. Returns whether it is new.
    fn insert(&mut self, id: &ChunkId) -> Result<bool, IndexError> {
        match &mut self.places {
            Some(places) => match places.insert(id)? {
                Some(is_new) => Ok(is_new),
                None => Ok(self.others.insert(*id)),
            },
            None => Ok(self.others.insert(*id)),
        }
    }

    fn remove(&mut self, id: &ChunkId) -> Result<(), IndexError> {
        self.others.remove(id);
        self.places.as_mut().map_or(Ok(()), |places| places.remove(id))
    }
}

impl Places {
    fn slot(&self, id: &ChunkId) -> usize {
        let [a, b, c, ..] = *id.as_bytes();
        (usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)) % self.recent.len()
    }

    /// Whether the page is new; `None` if it has no place.
    fn insert(&mut self, id: &ChunkId) -> Result<Option<bool>, IndexError> {
        let slot = self.slot(id);
        if self.recent.get(slot) == Some(id) {
            return Ok(Some(false));
        }
        let mut bits = Vec::new();
        for place in self.index.locate(id)? {
            bits.extend(self.bit(place.pack, place.slot)?);
        }
        let Some(first) = bits.first() else { return Ok(None) };
        if let Some(recent) = self.recent.get_mut(slot) {
            *recent = *id;
        }
        // The order of its places may have changed since it was noted.
        if bits.iter().any(|bit| self.is_set(*bit)) {
            return Ok(Some(false));
        }
        if let Some(word) = self.bits.get_mut(first / 64) {
            *word |= 1 << (first % 64);
        }
        Ok(Some(true))
    }

    fn remove(&mut self, id: &ChunkId) -> Result<(), IndexError> {
        let slot = self.slot(id);
        if let Some(recent) = self.recent.get_mut(slot).filter(|recent| *recent == id) {
            *recent = ChunkId::NONE;
        }
        for place in self.index.locate(id)? {
            if let Some(bit) = self.bit(place.pack, place.slot)?
                && let Some(word) = self.bits.get_mut(bit / 64)
            {
                *word &= !(1 << (bit % 64));
            }
        }
        Ok(())
    }

    fn is_set(&self, bit: usize) -> bool {
        self.bits.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    /// The bit of a place; `None` if the pack is not known or has no such slot.
    fn bit(&mut self, pack: u32, slot: u32) -> Result<Option<usize>, IndexError> {
        let start = if let Some(start) = self.starts.get(&pack) {
            *start
        } else {
            let Some(row) = self.index.pack(pack)? else { return Ok(None) };
            let start = self.bits.len() * 64;
            let words = (row.chunks as usize).div_ceil(64);
            self.bits.resize(self.bits.len() + words, 0);
            self.starts.insert(pack, start);
            start
        };
        let bit = start + slot as usize;
        Ok((bit < self.bits.len() * 64).then_some(bit))
    }
}

/// Walks the manifest of `snapshot`. Pages in `seen` are passed over.
///
/// # Errors
///
/// What the visitor returned, or the store cannot be reached.
pub fn walk(
    source: &dyn ChunkSource,
    snapshot: &Snapshot,
    seen: &mut Seen,
    visitor: &mut dyn Visitor,
) -> Result<(), RepositoryError> {
    if snapshot.root == ChunkId::NONE {
        return Ok(());
    }
    let mut walker = Walker { source, seen, visitor, plain: Vec::new() };
    match snapshot.kind {
        VolumeKind::Block => walker.volume(&snapshot.root),
        VolumeKind::Tree => walker.tree(&snapshot.root),
    }
}

struct Walker<'a> {
    source: &'a dyn ChunkSource,
    seen: &'a mut Seen,
    visitor: &'a mut dyn Visitor,
    plain: Vec<u8>,
}

impl Walker<'_> {
    /// Reports and reads a metadata chunk; `None` if it was walked before or cannot be read.
    fn read<T>(
        &mut self,
        id: &ChunkId,
        context: &Context,
        decode: impl FnOnce(&[u8]) -> Result<T, repo_format::error::FormatError>,
    ) -> Result<Option<T>, RepositoryError> {
        if !self.seen.insert(id)? {
            return Ok(None);
        }
        self.visitor.reference(PackKind::Meta, id, context)?;
        let decoded = self.source.get(PackKind::Meta, id, &mut self.plain).and_then(|()| {
            decode(&self.plain)
                .map_err(|error| RepositoryError::format(format!("manifest {id}"), error))
        });
        match decoded {
            Ok(decoded) => Ok(Some(decoded)),
            Err(error) => {
                // A later snapshot that shares the page has the same damage: it must hear of it.
                self.seen.remove(id)?;
                self.visitor.unreadable(error, context).map(|()| None)
            }
        }
    }

    fn volume(&mut self, root: &ChunkId) -> Result<(), RepositoryError> {
        let Some(root) = self.read(root, &Context::Manifest, VolumeRoot::decode)? else {
            return Ok(());
        };
        let page_log2 = root.chunk_log2 + 10;
        let at = |offset_bytes: u64, log2: u8| {
            let len_bytes = root.size_bytes.saturating_sub(offset_bytes).min(1 << log2);
            Context::Volume { offset_bytes, len_bytes }
        };
        for (number, page) in (0u64..).zip(&root.pages) {
            let PageRef::Page(id) = page else { continue };
            let page_offset = number << page_log2;
            let context = at(page_offset, page_log2);
            let Some(page) = self.read(id, &context, Page::decode)? else { continue };
            for (slot, offset) in page.slots.iter().zip(0u64..) {
                let Slot::Data(id) = slot else { continue };
                let context = at(page_offset + (offset << root.chunk_log2), root.chunk_log2);
                self.visitor.reference(PackKind::Data, id, &context)?;
            }
        }
        Ok(())
    }

    fn tree(&mut self, root: &ChunkId) -> Result<(), RepositoryError> {
        let Some(root) = self.read(root, &Context::Manifest, TreeRoot::decode)? else {
            return Ok(());
        };
        // Depth first with a stack of our own: the format bounds its depth, not the call stack.
        let mut stack: Vec<(ChunkId, Context)> = root
            .page
            .map(|page| (page, Context::Entries { from: Vec::new(), to: None }))
            .into_iter()
            .collect();
        while let Some((id, context)) = stack.pop() {
            match self.read(&id, &context, tree::decode_page)? {
                None => {}
                Some(TreePage::Inner { children, .. }) => {
                    let Context::Entries { to: mut end, .. } = context else { continue };
                    for child in children.into_iter().rev() {
                        let to = end.replace(child.first_path.clone());
                        stack.push((child.page, Context::Entries { from: child.first_path, to }));
                    }
                }
                Some(TreePage::Leaf(entries)) => {
                    for entry in entries {
                        self.entry(entry)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: Entry) -> Result<(), RepositoryError> {
        match entry.content {
            Content::Slices(slices) => {
                let context = Context::File(entry.path);
                for slice in &slices {
                    self.visitor.reference(PackKind::Data, &slice.chunk, &context)?;
                }
            }
            Content::Indirect(chunks) => {
                let context = Context::File(entry.path);
                for id in &chunks {
                    let Some(slices) = self.read(id, &context, tree::decode_slices)? else {
                        continue;
                    };
                    for slice in &slices {
                        self.visitor.reference(PackKind::Data, &slice.chunk, &context)?;
                    }
                }
            }
            Content::HardLink(target) => self.visitor.hard_link(&entry.path, &target)?,
            Content::None | Content::Inline(_) | Content::Symlink(_) => {}
        }
        Ok(())
    }
}

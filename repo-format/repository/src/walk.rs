//! Every chunk that a snapshot refers to, found by walking its manifest.

use std::collections::HashSet;

use repo_format::id::ChunkId;
use repo_format::pack::PackKind;
use repo_format::snapshot::{Snapshot, VolumeKind};
use repo_format::tree::{self, Content, Entry, Page as TreePage, TreeRoot};
use repo_format::volume::{Page, PageRef, Slot, VolumeRoot};

use crate::RepositoryError;
use crate::chunks::ChunkSource;

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
pub type Seen = HashSet<ChunkId>;

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
        if !self.seen.insert(*id) {
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
                self.seen.remove(id);
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

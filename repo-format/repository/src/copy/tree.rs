//! The manifest of a tree under the ids of another repository.
//!
//! The copy has the same pages with the same entries, cut at the same places, so that a snapshot and
//! its copy can be walked side by side. A page that is the same in an earlier snapshot, of which the
//! target has a copy, is taken over from that copy without being read.

use repo_format::error::FormatError;
use repo_format::id::ChunkId;
use repo_format::tree::{
    self, Child, Content, Entry, Page, Slice, TreeRoot, encode_inner, encode_leaf, encode_slices,
};

use super::mover::{Mover, Names, Wants, decoded};
use super::pair::TreePair;
use super::{CopyError, Progress, name_of};

const WRONG_LEVEL: FormatError = FormatError::Inconsistent { what: "level of a tree page" };

/// Leaves are rewritten together until they take this much,
const BATCH_BYTES: usize = 4 << 20;
/// or refer to so many chunks.
const BATCH_CHUNKS: usize = 8192;

/// Copies a tree. Returns the root of its manifest in the target.
///
/// * `base`: roots of an earlier snapshot and of its copy.
///
/// # Errors
///
/// [`CopyError`]; what was stored stays stored.
pub(super) fn copy(
    mover: &Mover<'_>,
    root: &ChunkId,
    base: Option<(ChunkId, ChunkId)>,
) -> Result<ChunkId, CopyError> {
    let mut root = decoded(root, TreeRoot::decode(&mover.read_page(root)?))?;
    if let Some(page) = root.page {
        let base = match base {
            Some(pair) => TreePair::open(mover, pair)?,
            None => None,
        };
        let top = Child { page, first_path: Vec::new(), entries: root.entries };
        let mut run = Run { mover, base, batch: Batch::default() };
        root.page = run.children(vec![top], root.level)?.pop().map(|copied| copied.page);
    }
    mover.put_page(&root.encode())
}

struct Run<'a> {
    mover: &'a Mover<'a>,
    base: Option<TreePair>,
    batch: Batch,
}

/// Leaves that wait to be rewritten.
#[derive(Default)]
struct Batch {
    /// Their position among their siblings, and their bytes.
    leaves: Vec<(usize, ChunkId, Vec<u8>)>,
    bytes: usize,
    wants: Wants,
    hints: Names,
    /// Chunks of slices that were rewritten already, for entries of these leaves.
    lists: Names,
}

impl Run<'_> {
    /// Copies pages of one level that lie under one parent. Deeper calls are as many as there are
    /// levels, which the format bounds.
    fn children(&mut self, mut children: Vec<Child>, level: u8) -> Result<Vec<Child>, CopyError> {
        for position in 0..children.len() {
            let Some(child) = children.get(position).cloned() else { break };
            if let Some(same) = self.unchanged(&child, level)? {
                set(&mut children, position, same);
            } else if level == 0 {
                self.add_leaf(position, &child)?;
                if self.batch.is_full() {
                    self.rewrite(&mut children)?;
                }
            } else {
                let copied = self.inner(&child.page, level)?;
                set(&mut children, position, copied);
            }
        }
        if level == 0 {
            self.rewrite(&mut children)?;
        }
        Ok(children)
    }

    fn unchanged(&mut self, child: &Child, level: u8) -> Result<Option<ChunkId>, CopyError> {
        match &mut self.base {
            Some(base) => base.same(self.mover, child, level),
            None => Ok(None),
        }
    }

    fn inner(&mut self, id: &ChunkId, level: u8) -> Result<ChunkId, CopyError> {
        match decoded(id, tree::decode_page(&self.mover.read_page(id)?))? {
            Page::Inner { level: found, children } if found == level => {
                let children = self.children(children, level - 1)?;
                self.mover.put_page(&encode_inner(level, &children))
            }
            _ => decoded(id, Err(WRONG_LEVEL)),
        }
    }

    /// Reads a leaf and notes what it refers to. Its entries are decoded twice, so that a batch
    /// takes no more memory than the pages' bytes.
    fn add_leaf(&mut self, position: usize, child: &Child) -> Result<(), CopyError> {
        let plain = self.mover.read_page(&child.page)?;
        let entries = leaf_entries(&child.page, &plain)?;
        if let Some(base) = &mut self.base {
            let ends = [entries.first(), entries.last()];
            for path in ends.into_iter().flatten().map(|entry| entry.path.as_slice()) {
                base.learn(self.mover, path, &mut self.batch.hints, &mut self.batch.lists)?;
            }
        }
        for entry in &entries {
            match &entry.content {
                Content::Slices(slices) => want(slices, &mut self.batch.wants),
                Content::Indirect(lists) => self.add_lists(lists)?,
                _ => {}
            }
        }
        self.batch.bytes += plain.len();
        self.batch.leaves.push((position, child.page, plain));
        Ok(())
    }

    /// A large file's chunks of slices are rewritten one by one: each may name 16,384 chunks.
    fn add_lists(&mut self, lists: &[ChunkId]) -> Result<(), CopyError> {
        for id in lists {
            if self.batch.lists.contains_key(id) {
                continue;
            }
            let mut slices = decoded(id, tree::decode_slices(&self.mover.read_page(id)?))?;
            let mut wants = Wants::new();
            want(&slices, &mut wants);
            let names = self.mover.bring(&wants, &self.batch.hints)?;
            rename(&mut slices, &names)?;
            let copied = self.mover.put_page(&encode_slices(&slices))?;
            self.batch.lists.insert(*id, copied);
        }
        Ok(())
    }

    /// Brings what the waiting leaves need and stores them.
    fn rewrite(&mut self, children: &mut [Child]) -> Result<(), CopyError> {
        let Batch { leaves, wants, hints, lists, .. } = std::mem::take(&mut self.batch);
        if let Some(base) = &mut self.base {
            base.forget();
        }
        if leaves.is_empty() {
            return Ok(());
        }
        let names = self.mover.bring(&wants, &hints)?;
        for (position, id, plain) in leaves {
            let mut entries = leaf_entries(&id, &plain)?;
            for entry in &mut entries {
                match &mut entry.content {
                    Content::Slices(slices) => rename(slices, &names)?,
                    Content::Indirect(ids) => {
                        for id in ids {
                            *id = name_of(&lists, id)?;
                        }
                    }
                    Content::Inline(bytes) => {
                        let progress = self.mover.progress;
                        Progress::add(&progress.done_bytes, bytes.len() as u64);
                    }
                    _ => {}
                }
            }
            set(children, position, self.mover.put_page(&encode_leaf(&entries))?);
        }
        Ok(())
    }
}

impl Batch {
    fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES || self.wants.len() >= BATCH_CHUNKS
    }
}

fn leaf_entries(id: &ChunkId, plain: &[u8]) -> Result<Vec<Entry>, CopyError> {
    match decoded(id, tree::decode_page(plain))? {
        Page::Leaf(entries) => Ok(entries),
        Page::Inner { .. } => decoded(id, Err(WRONG_LEVEL)),
    }
}

fn set(children: &mut [Child], position: usize, page: ChunkId) {
    if let Some(child) = children.get_mut(position) {
        child.page = page;
    }
}

fn want(slices: &[Slice], wants: &mut Wants) {
    for slice in slices {
        *wants.entry(slice.chunk).or_default() += u64::from(slice.len);
    }
}

fn rename(slices: &mut [Slice], names: &Names) -> Result<(), CopyError> {
    for slice in slices {
        slice.chunk = name_of(names, &slice.chunk)?;
    }
    Ok(())
}

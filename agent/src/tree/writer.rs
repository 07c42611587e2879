//! Builds the manifest of a tree from a stream of entries.

use std::cmp::Ordering;

use repo_format::id::ChunkId;
use repo_format::pack::PackKind;
use repo_format::tree::{
    Child, Content, Entry, EntryKind, PageCutter, TreeRoot, cmp_paths, encode_inner, encode_leaf,
};
use repository::chunks::ChunkSink;

use super::TreeError;

/// A page is ended before an entry that would take it beyond this.
const PAGE_WEIGHT_MAX: usize = 4 << 20;

/// Streams entries into pages. Holds one unfinished page per level.
pub struct TreeWriter<'a> {
    sink: &'a dyn ChunkSink,
    cutter: PageCutter,
    leaf: Vec<Entry>,
    leaf_weight: usize,
    /// At `n`: finished pages of level `n` that no page of level `n + 1` lists yet.
    pending: Vec<Vec<Child>>,
    last_path: Option<Vec<u8>>,
    root: TreeRoot,
}

impl<'a> TreeWriter<'a> {
    /// An empty tree. Pages go to `sink`.
    pub fn new(sink: &'a dyn ChunkSink, cutter: PageCutter) -> Self {
        Self {
            sink,
            cutter,
            leaf: Vec::new(),
            leaf_weight: 0,
            pending: Vec::new(),
            last_path: None,
            root: TreeRoot { page: None, level: 0, entries: 0, files: 0, bytes: 0 },
        }
    }

    /// Appends an entry. Chunks it names must have been put before.
    ///
    /// # Errors
    ///
    /// The sink's.
    ///
    /// # Panics
    ///
    /// If `entry.path` does not come after the path pushed before it.
    pub fn push(&mut self, entry: Entry) -> Result<(), TreeError> {
        let ascending = self
            .last_path
            .as_ref()
            .is_none_or(|last| cmp_paths(last, &entry.path) == Ordering::Less);
        assert!(ascending, "entries are pushed in path order");
        let weight = weight(&entry);
        if !self.leaf.is_empty() && self.leaf_weight + weight > PAGE_WEIGHT_MAX {
            self.end_leaf()?;
        }
        self.count(&entry);
        let last = self.last_path.get_or_insert_default();
        last.clear();
        last.extend_from_slice(&entry.path);
        self.leaf_weight += weight;
        let ends = self.cutter.ends_leaf(&entry.path, self.leaf_weight);
        self.leaf.push(entry);
        if ends { self.end_leaf() } else { Ok(()) }
    }

    /// Entries, files and bytes pushed so far.
    pub const fn so_far(&self) -> &TreeRoot {
        &self.root
    }

    /// Puts a root over everything pushed so far and goes on as if nothing had happened. The
    /// result is a complete tree of the first entries.
    ///
    /// # Errors
    ///
    /// The sink's.
    pub fn checkpoint(&self) -> Result<ChunkId, TreeError> {
        let (page, level) = self.top()?;
        let root = TreeRoot { page, level, ..self.root.clone() };
        Ok(self.sink.put(PackKind::Meta, &root.encode())?)
    }

    /// Puts the root of the whole tree.
    ///
    /// # Errors
    ///
    /// The sink's.
    pub fn finish(self) -> Result<ChunkId, TreeError> {
        self.checkpoint()
    }

    fn count(&mut self, entry: &Entry) {
        self.root.entries += 1;
        if entry.kind == EntryKind::File && !matches!(entry.content, Content::HardLink(_)) {
            self.root.files += 1;
            self.root.bytes = self.root.bytes.saturating_add(entry.meta.size);
        }
    }

    fn end_leaf(&mut self) -> Result<(), TreeError> {
        let child = self.put_leaf()?;
        self.leaf.clear();
        self.leaf_weight = 0;
        self.add_child(0, child)
    }

    fn add_child(&mut self, mut level: usize, mut child: Child) -> Result<(), TreeError> {
        loop {
            if self.pending.len() <= level {
                self.pending.resize(level + 1, Vec::new());
            }
            let Some(children) = self.pending.get_mut(level) else { return Ok(()) };
            let page = child.page;
            children.push(child);
            if !PageCutter::ends_inner(&page, children.len()) {
                return Ok(());
            }
            let children = std::mem::take(children);
            child = self.put_inner(level, &children)?;
            level += 1;
        }
    }

    fn put_leaf(&self) -> Result<Child, TreeError> {
        let page = self.sink.put(PackKind::Meta, &encode_leaf(&self.leaf))?;
        let first_path = self.leaf.first().map(|entry| entry.path.clone()).unwrap_or_default();
        Ok(Child { page, first_path, entries: self.leaf.len() as u64 })
    }

    /// Puts the page that lists `children`, which are pages of level `below`.
    fn put_inner(&self, below: usize, children: &[Child]) -> Result<Child, TreeError> {
        let level = u8::try_from(below + 1).unwrap_or(u8::MAX);
        let page = self.sink.put(PackKind::Meta, &encode_inner(level, children))?;
        let first_path = children.first().map(|child| child.first_path.clone()).unwrap_or_default();
        Ok(Child { page, first_path, entries: children.iter().map(|child| child.entries).sum() })
    }

    /// The topmost page over everything pushed so far, and its level.
    fn top(&self) -> Result<(Option<ChunkId>, u8), TreeError> {
        let mut carry = if self.leaf.is_empty() { None } else { Some(self.put_leaf()?) };
        for (level, pending) in self.pending.iter().enumerate() {
            let mut children = pending.clone();
            children.extend(carry.take());
            let is_top = self.pending.iter().skip(level + 1).all(Vec::is_empty);
            match (children.as_slice(), is_top) {
                ([], _) => {}
                ([only], true) => return Ok((Some(only.page), level_byte(level))),
                (children, _) => carry = Some(self.put_inner(level, children)?),
            }
        }
        Ok((carry.map(|child| child.page), level_byte(self.pending.len())))
    }
}

fn level_byte(level: usize) -> u8 {
    u8::try_from(level).unwrap_or(u8::MAX)
}

/// About the bytes an entry takes in a page. A function of the entry alone, so that where pages
/// end does not depend on what came before.
///
/// Paths share with their predecessor all but the last name, which is why only that counts.
fn weight(entry: &Entry) -> usize {
    let name = entry.path.rsplit(|byte| *byte == b'/').next().map_or(0, <[u8]>::len);
    let xattrs: usize =
        entry.meta.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len() + 4).sum();
    let content = match &entry.content {
        Content::None => 0,
        Content::Inline(bytes) | Content::Symlink(bytes) | Content::HardLink(bytes) => bytes.len(),
        Content::Slices(slices) => slices.len() * 38,
        Content::Indirect(chunks) => chunks.len() * 32,
    };
    40 + name + xattrs + content + entry.extents.len() * 8
}

/// Whether an entry fits into a page at all, whatever its path.
pub(super) fn fits_a_page(entry: &Entry) -> bool {
    weight(entry) + entry.path.len() <= PAGE_WEIGHT_MAX
}

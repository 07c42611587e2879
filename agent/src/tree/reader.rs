//! Streams a stored tree, or finds one path in it.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use repo_format::error::FormatError;
use repo_format::id::ChunkId;
use repo_format::pack::PackKind;
use repo_format::tree::{Child, Entry, Page, TreeRoot, cmp_paths, decode_page, is_below};

use super::{BatchSource, TreeError};

/// Leaf pages asked for at once in a long scan. Pages are some 20 KiB each.
const AHEAD_MAX: usize = 16;

/// A cursor over the entries of a stored tree, in path order.
///
/// A scan asks for more and more pages at once, so that a distant store is not waited for page by
/// page; a single look-up asks for none but those it needs.
pub struct TreeReader<'a> {
    source: &'a dyn BatchSource,
    root: TreeRoot,
    stack: Vec<Level>,
    leaf: std::vec::IntoIter<Entry>,
    /// No entry before this one may follow.
    last_path: Option<Vec<u8>>,
    ahead: usize,
    within: Vec<u8>,
}

/// The rest of an inner page.
struct Level {
    /// Of the pages it lists.
    below: u8,
    children: Vec<Child>,
    next: usize,
    /// Bytes of the children from `next` on, fetched ahead.
    fetched: std::collections::VecDeque<Vec<u8>>,
    /// The root's page is listed by no page that says where it starts.
    is_root: bool,
}

/// What a cursor stands before.
pub(super) enum Front<'r> {
    /// A page that was not looked into yet, and its level.
    Page(&'r Child, u8),
    /// An entry.
    Entry(&'r Entry),
}

impl<'a> TreeReader<'a> {
    /// Opens the tree whose root is the metadata chunk `root`.
    ///
    /// # Errors
    ///
    /// The chunk cannot be had, or is no tree's root.
    pub fn open(source: &'a dyn BatchSource, root: &ChunkId) -> Result<Self, TreeError> {
        let mut plain = Vec::new();
        source.get(PackKind::Meta, root, &mut plain)?;
        let decoded = TreeRoot::decode(&plain)
            .map_err(|source| TreeError::Damaged { chunk: *root, source })?;
        Ok(Self::over(source, decoded))
    }

    fn over(source: &'a dyn BatchSource, root: TreeRoot) -> Self {
        let mut reader = Self {
            source,
            root,
            stack: Vec::new(),
            leaf: Vec::new().into_iter(),
            last_path: None,
            ahead: 1,
            within: Vec::new(),
        };
        reader.rewind();
        reader
    }

    /// The tree's root: how many entries, files and bytes it has.
    pub const fn root(&self) -> &TreeRoot {
        &self.root
    }

    /// Where the tree's chunks come from.
    pub(super) fn source(&self) -> &'a dyn BatchSource {
        self.source
    }

    /// Goes to the first entry at or after `path`.
    ///
    /// # Errors
    ///
    /// A page cannot be had or is damaged.
    pub fn seek(&mut self, path: &[u8]) -> Result<(), TreeError> {
        self.rewind();
        loop {
            let Some(level) = self.stack.last_mut().filter(|level| !level.children.is_empty())
            else {
                return Ok(());
            };
            let after = level
                .children
                .partition_point(|child| cmp_paths(&child.first_path, path) != Ordering::Greater);
            level.next = after.saturating_sub(1);
            self.descend()?;
            if self.leaf.len() > 0 {
                break;
            }
        }
        while let Some(entry) = self.leaf.as_slice().first() {
            if cmp_paths(&entry.path, path) != Ordering::Less {
                break;
            }
            self.leaf.next();
        }
        Ok(())
    }

    /// Goes to `prefix` and ends after the last entry below it.
    ///
    /// # Errors
    ///
    /// As [`Self::seek`].
    pub fn below(mut self, prefix: &[u8]) -> Result<Self, TreeError> {
        if !prefix.is_empty() {
            self.seek(prefix)?;
        }
        self.within = prefix.to_vec();
        Ok(self)
    }

    /// The entry at `path`. Leaves the cursor where it is; reads one page per level.
    ///
    /// # Errors
    ///
    /// As [`Self::seek`].
    pub fn find(&self, path: &[u8]) -> Result<Option<Entry>, TreeError> {
        let mut other = Self::over(self.source, self.root.clone());
        other.seek(path)?;
        Ok(other.leaf.next().filter(|entry| entry.path == path))
    }

    /// The next entry, or `None` at the end.
    ///
    /// # Errors
    ///
    /// A page cannot be had or is damaged. What follows after an error is unspecified.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TreeError> {
        while self.leaf.len() == 0 {
            if self.front().is_none() {
                return Ok(None);
            }
            self.descend()?;
        }
        let entry = self.leaf.next();
        Ok(entry.filter(|entry| is_below(&entry.path, &self.within)))
    }

    /// What comes next, without looking into it.
    pub(super) fn front(&mut self) -> Option<Front<'_>> {
        if self.leaf.len() == 0 {
            while self.stack.last().is_some_and(|level| level.next >= level.children.len()) {
                self.stack.pop();
            }
            let level = self.stack.last()?;
            return Some(Front::Page(level.children.get(level.next)?, level.below));
        }
        self.leaf.as_slice().first().map(Front::Entry)
    }

    /// Passes over the page at the front.
    pub(super) fn skip_page(&mut self) {
        if let Some(level) = self.stack.last_mut() {
            level.fetched.pop_front();
            level.next += 1;
        }
    }

    /// Opens the page at the front.
    pub(super) fn descend(&mut self) -> Result<(), TreeError> {
        let Some(level) = self.stack.last_mut() else { return Ok(()) };
        if level.fetched.is_empty() {
            level.fetch(self.source, self.ahead)?;
            if level.below == 0 {
                self.ahead = (self.ahead * 2).min(AHEAD_MAX);
            }
        }
        let (Some(bytes), Some(child)) =
            (level.fetched.pop_front(), level.children.get(level.next))
        else {
            level.next += 1;
            return Ok(());
        };
        let (expected, chunk) = (level.below, child.page);
        let first_path = (!level.is_root).then(|| child.first_path.clone());
        level.next += 1;
        let damaged = |source| TreeError::Damaged { chunk, source };
        let page = decode_page(&bytes).map_err(damaged)?;
        let ordered = self.accept(page, expected, first_path.as_deref());
        ordered.map_err(|what| damaged(FormatError::Inconsistent { what }))
    }

    fn accept(
        &mut self,
        page: Page,
        expected: u8,
        first_path: Option<&[u8]>,
    ) -> Result<(), &'static str> {
        let (found, first) = match &page {
            Page::Leaf(entries) => (0, entries.first().map(|entry| entry.path.as_slice())),
            Page::Inner { level, children } => {
                (*level, children.first().map(|child| child.first_path.as_slice()))
            }
        };
        let first = first.ok_or("an empty tree page")?;
        if found != expected {
            return Err("level of a tree page");
        }
        if first_path.is_some_and(|path| path != first) {
            return Err("first path of a tree page");
        }
        if self.last_path.as_ref().is_some_and(|last| cmp_paths(last, first) != Ordering::Less) {
            return Err("order of tree pages");
        }
        match page {
            Page::Leaf(entries) => {
                self.last_path = entries.last().map(|entry| entry.path.clone());
                self.leaf = entries.into_iter();
            }
            Page::Inner { level, children } => self.stack.push(Level {
                below: level - 1,
                children,
                next: 0,
                fetched: std::collections::VecDeque::new(),
                is_root: false,
            }),
        }
        Ok(())
    }

    fn rewind(&mut self) {
        self.leaf = Vec::new().into_iter();
        self.last_path = None;
        self.ahead = 1;
        self.stack.clear();
        let entries = self.root.entries;
        let children: Vec<Child> = (self.root.page.iter())
            .map(|page| Child { page: *page, first_path: Vec::new(), entries })
            .collect();
        self.stack.push(Level {
            below: self.root.level,
            children,
            next: 0,
            fetched: std::collections::VecDeque::new(),
            is_root: true,
        });
    }
}

impl Level {
    /// Fetches the next child, and up to `ahead` of them if they are leaves.
    fn fetch(&mut self, source: &dyn BatchSource, ahead: usize) -> Result<(), TreeError> {
        let count = if self.below == 0 { ahead } else { 1 };
        let ids: Vec<ChunkId> =
            self.children.iter().skip(self.next).take(count).map(|child| child.page).collect();
        let mut pages: Vec<Option<Vec<u8>>> = vec![None; ids.len()];
        let mut failed = None;
        source.get_many(PackKind::Meta, &ids, &mut |at, got| {
            match (got, pages.get_mut(at)) {
                (Ok(plain), Some(page)) => *page = Some(plain.to_vec()),
                // Only the page that is needed now may fail the caller.
                (Err(error), _) if at == 0 => failed = Some(error),
                _ => {}
            }
            ControlFlow::Continue(())
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        self.fetched.extend(pages.into_iter().map_while(|page| page));
        Ok(())
    }
}

impl Iterator for TreeReader<'_> {
    type Item = Result<Entry, TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_entry().transpose()
    }
}

//! An earlier tree and its copy, side by side: where a page of the one has its counterpart in the
//! other.

use repo_format::id::ChunkId;
use repo_format::tree::{self, Child, Content, Entry, Page, TreeRoot, cmp_paths};

use super::CopyError;
use super::mover::{Halves, Mover, Names};

/// The pages that both trees have at one place, on the way from the root to where was looked last.
#[derive(Debug)]
struct Open {
    source: ChunkId,
    /// The source's child and the target's page, in path order.
    children: Vec<(Child, ChunkId)>,
}

/// Two trees of the same shape.
#[derive(Debug)]
pub(super) struct TreePair {
    root: Halves,
    level: u8,
    /// By level: asked for in path order, pages are opened once each.
    open: Vec<Option<Open>>,
    /// The leaf that was learned from last.
    learned: Option<ChunkId>,
    /// Whether pages may be taken over unread.
    is_trusted: bool,
}

impl TreePair {
    /// Opens both trees. `None` if they cannot be read or are of different shape.
    pub(super) fn open(mover: &Mover<'_>, pair: Halves) -> Result<Option<Self>, CopyError> {
        let Some((source, target)) = mover.read_pair(pair)? else { return Ok(None) };
        let (Ok(source), Ok(target)) = (TreeRoot::decode(&source), TreeRoot::decode(&target))
        else {
            return Ok(None);
        };
        let (Some(a), Some(b)) = (source.page, target.page) else { return Ok(None) };
        if source.level != target.level || source.entries != target.entries {
            return Ok(None);
        }
        let open = (0..=source.level).map(|_| None).collect();
        let is_trusted = mover.writer.trusts_parents();
        let (root, level, learned) = ((a, b), source.level, None);
        Ok(Some(Self { root, level, open, learned, is_trusted }))
    }

    /// The target's id of the page `child`, if the earlier tree has the same page at that place.
    pub(super) fn same(
        &mut self,
        mover: &Mover<'_>,
        child: &Child,
        level: u8,
    ) -> Result<Option<ChunkId>, CopyError> {
        if !self.is_trusted {
            return Ok(None);
        }
        let found = self.find(mover, &child.first_path, level)?;
        Ok(found.filter(|(source, _)| *source == child.page).map(|(_, target)| target))
    }

    /// Learns from the leaf that holds `path`, or would: what its chunks are called in the target.
    /// Chunks of slices go into `lists`, and may be referred to unread.
    pub(super) fn learn(
        &mut self,
        mover: &Mover<'_>,
        path: &[u8],
        hints: &mut Names,
        lists: &mut Names,
    ) -> Result<(), CopyError> {
        let Some(pair) = self.find(mover, path, 0)? else { return Ok(()) };
        if self.learned.replace(pair.0) == Some(pair.0) {
            return Ok(());
        }
        let Some((source, target)) = mover.read_pair(pair)? else { return Ok(()) };
        let (Ok(Page::Leaf(source)), Ok(Page::Leaf(target))) =
            (tree::decode_page(&source), tree::decode_page(&target))
        else {
            return Ok(());
        };
        for (source, target) in source.iter().zip(&target) {
            learn_entry(source, target, hints, self.is_trusted.then_some(&mut *lists));
        }
        Ok(())
    }

    /// What was learned is gone: learn again.
    pub(super) const fn forget(&mut self) {
        self.learned = None;
    }

    /// Both halves of the page of `level` that holds `path`, or would.
    fn find(
        &mut self,
        mover: &Mover<'_>,
        path: &[u8],
        level: u8,
    ) -> Result<Option<Halves>, CopyError> {
        let mut here = self.root;
        for at in (level..self.level).rev() {
            if !self.open_page(mover, here, at + 1)? {
                return Ok(None);
            }
            let Some(Some(open)) = self.open.get(usize::from(at) + 1) else { return Ok(None) };
            let behind = open
                .children
                .partition_point(|(child, _)| cmp_paths(&child.first_path, path).is_le());
            let Some((child, target)) = open.children.get(behind.saturating_sub(1)) else {
                return Ok(None);
            };
            here = (child.page, *target);
        }
        Ok((level <= self.level).then_some(here))
    }

    /// Makes the page `pair` the open one of `level`. Whether that could be done.
    fn open_page(&mut self, mover: &Mover<'_>, pair: Halves, level: u8) -> Result<bool, CopyError> {
        let Some(place) = self.open.get_mut(usize::from(level)) else { return Ok(false) };
        if place.as_ref().is_some_and(|open| open.source == pair.0) {
            return Ok(true);
        }
        let Some((source, target)) = mover.read_pair(pair)? else { return Ok(false) };
        let (Some(source), Some(target)) = (inner(&source, level), inner(&target, level)) else {
            return Ok(false);
        };
        let same_place =
            |(a, b): (&Child, &Child)| a.first_path == b.first_path && a.entries == b.entries;
        if source.len() != target.len() || !source.iter().zip(&target).all(same_place) {
            return Ok(false);
        }
        let children = source.into_iter().zip(target).map(|(a, b)| (a, b.page)).collect();
        *place = Some(Open { source: pair.0, children });
        Ok(true)
    }
}

fn inner(plain: &[u8], level: u8) -> Option<Vec<Child>> {
    match tree::decode_page(plain) {
        Ok(Page::Inner { level: found, children }) if found == level => Some(children),
        _ => None,
    }
}

fn learn_entry(source: &Entry, target: &Entry, hints: &mut Names, lists: Option<&mut Names>) {
    if source.path != target.path || source.meta != target.meta {
        return;
    }
    match (&source.content, &target.content) {
        (Content::Slices(source), Content::Slices(target)) => {
            for (source, target) in source.iter().zip(target) {
                if (source.offset, source.len) == (target.offset, target.len) {
                    hints.insert(source.chunk, target.chunk);
                }
            }
        }
        (Content::Indirect(source), Content::Indirect(target)) => {
            if let Some(lists) = lists.filter(|_| source.len() == target.len()) {
                lists.extend(source.iter().copied().zip(target.iter().copied()));
            }
        }
        _ => {}
    }
}

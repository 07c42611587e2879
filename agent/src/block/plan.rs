//! What to do with each chunk of a volume, page by page, in order: pure but for the parent's
//! pages, which are fetched when their turn comes.

use std::ops::Range;

use repo_format::id::ChunkId;
use repo_format::limits::PAGE_SLOTS;
use repo_format::volume::{Page, PageRef, Slot, VolumeRoot};
use repository::RepositoryError;

use super::ChangedExtents;
use crate::volume::{Extent, ExtentKind};

/// The volume's grid.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    pub(super) size_bytes: u64,
    pub(super) chunk_log2: u8,
}

impl Grid {
    pub(super) const fn chunk_bytes(self) -> u64 {
        1 << self.chunk_log2
    }

    pub(super) const fn chunks(self) -> u64 {
        self.size_bytes.div_ceil(self.chunk_bytes())
    }

    /// Bytes of chunk `number`; the last may be shorter than the others.
    pub(super) fn span(self, number: u64) -> Range<u64> {
        let start = number << self.chunk_log2;
        start..(start + self.chunk_bytes()).min(self.size_bytes)
    }

    /// Chunks of page `number`.
    pub(super) fn page(self, number: u64) -> Range<u64> {
        let first = number * PAGE_SLOTS as u64;
        first..(first + PAGE_SLOTS as u64).min(self.chunks())
    }
}

/// One page's work.
#[derive(Debug)]
pub(super) struct PageWork {
    pub(super) number: u64,
    /// Slots that are known without reading; `Missing` where `read` lists them.
    pub(super) slots: Vec<Slot>,
    /// Chunks to read.
    pub(super) read: Vec<u64>,
    /// The parent's page, to compare with.
    pub(super) parent: Option<Page>,
}

/// What is known about one page before anything is read.
#[derive(Debug)]
pub(super) enum Planned {
    /// Taken over from the parent, or all hole: nothing to do.
    Done(PageRef),
    /// Some of it is to be decided.
    Work(PageWork),
}

/// The parent's manifest, if there is one on the same grid.
pub(super) trait Parent {
    /// The parent's reference to a page.
    fn page_ref(&self, number: u64) -> Option<PageRef>;
    /// The page itself.
    fn page(&mut self, number: u64) -> Result<Option<Page>, RepositoryError>;
    /// Length of the parent's volume.
    fn size_bytes(&self) -> u64;
    /// Whether it lacks nothing, so that its pages may be taken over unseen.
    fn is_sound(&self) -> bool;
    /// Whether the repository has a chunk of a parent that is not sound.
    fn has(&self, id: &ChunkId) -> Result<bool, RepositoryError>;
}

/// Walks a volume's pages.
pub(super) struct Planner<E: Iterator, P> {
    grid: Grid,
    extents: std::iter::Peekable<E>,
    changed: Option<ChangedExtents>,
    parent: P,
    next_page: u64,
}

impl<E: Iterator<Item = Extent>, P: Parent> Planner<E, P> {
    pub(super) fn new(grid: Grid, extents: E, changed: Option<ChangedExtents>, parent: P) -> Self {
        Self { grid, extents: extents.peekable(), changed, parent, next_page: 0 }
    }

    /// The next page; `None` after the last.
    ///
    /// # Errors
    ///
    /// The parent's manifest cannot be read.
    pub(super) fn next_page(&mut self) -> Result<Option<(u64, Planned)>, RepositoryError> {
        let number = self.next_page;
        let chunks = self.grid.page(number);
        if chunks.is_empty() {
            return Ok(None);
        }
        self.next_page += 1;
        let start = self.grid.span(chunks.start).start;
        let end = self.grid.span(chunks.end - 1).end;
        let untouched = self.changed.as_ref().is_some_and(|changed| !changed.touches(start, end));
        if untouched
            && self.parent.is_sound()
            && self.parent_grid().page(number) == chunks
            && self.is_as_long_as_in_parent(chunks.end - 1)
            && let Some(page @ (PageRef::Hole | PageRef::Page(_))) = self.parent.page_ref(number)
        {
            self.skip_extents(end);
            return Ok(Some((number, Planned::Done(page))));
        }
        let parent = self.parent.page(number)?;
        let mut work = PageWork { number, slots: Vec::new(), read: Vec::new(), parent };
        for chunk in chunks {
            let slot = self.judge(chunk, work.parent.as_ref())?;
            if slot == Slot::Missing {
                work.read.push(chunk);
            }
            work.slots.push(slot);
        }
        work.slots.resize(PAGE_SLOTS, Slot::Hole);
        Ok(Some((number, Planned::Work(work))))
    }

    /// What chunk `number` is, or `Missing` if it must be read.
    fn judge(&mut self, number: u64, parent: Option<&Page>) -> Result<Slot, RepositoryError> {
        let span = self.grid.span(number);
        if !self.has_data(&span) {
            return Ok(Slot::Hole);
        }
        let touched =
            self.changed.as_ref().is_none_or(|changed| changed.touches(span.start, span.end));
        if touched || !self.is_as_long_as_in_parent(number) {
            return Ok(Slot::Missing);
        }
        let index = usize::try_from(number).unwrap_or(usize::MAX) % PAGE_SLOTS;
        match parent.and_then(|page| page.slots.get(index)).copied() {
            Some(Slot::Data(id)) if !self.parent.is_sound() && !self.parent.has(&id)? => {
                Ok(Slot::Missing)
            }
            slot => Ok(slot.unwrap_or(Slot::Missing)),
        }
    }

    fn parent_grid(&self) -> Grid {
        Grid { size_bytes: self.parent.size_bytes(), ..self.grid }
    }

    /// Whether the parent has chunk `number`, of the same length. A volume may have grown or
    /// shrunk since; of what was not there then, no list of changes says anything.
    fn is_as_long_as_in_parent(&self, number: u64) -> bool {
        let parent = self.parent_grid();
        number < parent.chunks() && parent.span(number) == self.grid.span(number)
    }

    /// Whether any data extent touches `span`. Spans are asked in ascending order.
    fn has_data(&mut self, span: &Range<u64>) -> bool {
        let end = |extent: &Extent| extent.offset_bytes + extent.len_bytes;
        while let Some(extent) = self.extents.peek() {
            if end(extent) <= span.start {
                self.extents.next();
            } else if extent.offset_bytes >= span.end {
                return false;
            } else if extent.kind == ExtentKind::Data {
                return true;
            } else if end(extent) >= span.end {
                return false;
            } else {
                self.extents.next();
            }
        }
        false
    }

    fn skip_extents(&mut self, until: u64) {
        let before = |extent: &Extent| extent.offset_bytes + extent.len_bytes <= until;
        while self.extents.next_if(before).is_some() {}
    }
}

/// A parent that is not there.
#[derive(Debug)]
pub(super) struct NoParent;

impl Parent for NoParent {
    fn page_ref(&self, _: u64) -> Option<PageRef> {
        None
    }

    fn page(&mut self, _: u64) -> Result<Option<Page>, RepositoryError> {
        Ok(None)
    }

    fn size_bytes(&self) -> u64 {
        0
    }

    fn is_sound(&self) -> bool {
        true
    }

    fn has(&self, _: &ChunkId) -> Result<bool, RepositoryError> {
        Ok(false)
    }
}

/// Whether a parent's manifest can be compared slot by slot: same grid; the size may differ, for
/// the last chunk's id tells its length too.
pub(super) fn is_comparable(parent: &VolumeRoot, grid: Grid) -> bool {
    parent.chunk_log2 == grid.chunk_log2
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG2: u8 = 16;
    const CHUNK: u64 = 1 << LOG2;

    fn extent(kind: ExtentKind, start_chunks: u64, end_chunks: u64) -> Extent {
        let len_bytes = (end_chunks - start_chunks) * CHUNK;
        Extent { offset_bytes: start_chunks * CHUNK, len_bytes, kind }
    }

    /// A parent of one page, and of chunks that all have the same id.
    struct OnePage {
        page: Page,
        size_bytes: u64,
        lost: bool,
    }

    impl Parent for OnePage {
        fn page_ref(&self, number: u64) -> Option<PageRef> {
            (number == 0).then_some(PageRef::Page(ChunkId([9; 32])))
        }

        fn page(&mut self, number: u64) -> Result<Option<Page>, RepositoryError> {
            Ok((number == 0).then(|| self.page.clone()))
        }

        fn size_bytes(&self) -> u64 {
            self.size_bytes
        }

        fn is_sound(&self) -> bool {
            !self.lost
        }

        fn has(&self, _: &ChunkId) -> Result<bool, RepositoryError> {
            Ok(!self.lost)
        }
    }

    fn full_page() -> Page {
        let mut page = Page::default();
        page.slots.fill(Slot::Data(ChunkId([7; 32])));
        page
    }

    fn reads(planned: &Planned) -> Vec<u64> {
        match planned {
            Planned::Done(_) => Vec::new(),
            Planned::Work(work) => work.read.clone(),
        }
    }

    #[test]
    fn only_chunks_with_data_are_read() {
        let grid = Grid { size_bytes: 2000 * CHUNK - 100, chunk_log2: LOG2 };
        let extents = [
            extent(ExtentKind::Hole, 0, 3),
            extent(ExtentKind::Data, 3, 5),
            extent(ExtentKind::Hole, 5, 1998),
            extent(ExtentKind::Data, 1998, 2000),
        ];
        let mut planner = Planner::new(grid, extents.into_iter(), None, NoParent);
        let (_, first) = planner.next_page().unwrap().unwrap();
        assert_eq!(reads(&first), [3, 4]);
        let (_, second) = planner.next_page().unwrap().unwrap();
        assert_eq!(reads(&second), [1998, 1999]);
        assert!(planner.next_page().unwrap().is_none());
        assert_eq!(grid.span(1999).end, grid.size_bytes);
    }

    #[test]
    fn unchanged_chunks_come_from_the_parent_and_untouched_pages_are_shared() {
        let grid = Grid { size_bytes: 1500 * CHUNK, chunk_log2: LOG2 };
        let parent =
            || OnePage { page: full_page(), size_bytes: PAGE_SLOTS as u64 * CHUNK, lost: false };
        let all = || [extent(ExtentKind::Data, 0, 1500)].into_iter();
        let list = format!("{{\"offset\":{},\"length\":1}}", 5 * CHUNK);
        let changed = ChangedExtents::read(list.as_bytes(), grid.size_bytes).unwrap();
        let mut planner = Planner::new(grid, all(), Some(changed), parent());
        let (_, first) = planner.next_page().unwrap().unwrap();
        assert_eq!(reads(&first), [5]);
        let (_, second) = planner.next_page().unwrap().unwrap();
        assert_eq!(reads(&second).len(), 476, "the parent has no second page: all of it is read");

        let changed = ChangedExtents::default();
        let mut planner = Planner::new(grid, all(), Some(changed), parent());
        let (_, first) = planner.next_page().unwrap().unwrap();
        assert!(matches!(first, Planned::Done(PageRef::Page(_))));
    }

    /// What is read of the first page with an empty list of changes.
    fn reads_without_changes(size_bytes: u64, parent: OnePage) -> Vec<u64> {
        let grid = Grid { size_bytes, chunk_log2: LOG2 };
        let all = [extent(ExtentKind::Data, 0, size_bytes.div_ceil(CHUNK))].into_iter();
        let changed = Some(ChangedExtents::default());
        reads(&Planner::new(grid, all, changed, parent).next_page().unwrap().unwrap().1)
    }

    #[test]
    fn what_the_parent_had_not_or_in_another_length_is_read_whatever_the_list_says() {
        let read = |size_bytes, parent_bytes| {
            let parent = OnePage { page: full_page(), size_bytes: parent_bytes, lost: false };
            reads_without_changes(size_bytes, parent)
        };
        assert_eq!(read(5 * CHUNK, 5 * CHUNK), [0; 0]);
        assert_eq!(read(7 * CHUNK, 5 * CHUNK), [5, 6], "grown by whole chunks");
        assert_eq!(read(7 * CHUNK, 5 * CHUNK - 1), [4, 5, 6], "grown inside a chunk");
        assert_eq!(read(5 * CHUNK + 9, 5 * CHUNK + 8), [5], "by a byte");
        assert_eq!(read(5 * CHUNK, 7 * CHUNK), [0; 0], "shrunk to a chunk's end");
        assert_eq!(read(5 * CHUNK - 1, 7 * CHUNK), [4], "shrunk inside a chunk");
    }

    #[test]
    fn what_the_repository_has_lost_is_read_again_whatever_the_list_says() {
        let parent = |page, lost| OnePage { page, size_bytes: 5 * CHUNK, lost };
        assert_eq!(reads_without_changes(5 * CHUNK, parent(full_page(), true)), [0, 1, 2, 3, 4]);
        let mut holey = full_page();
        holey.slots[3] = Slot::Missing;
        assert!(reads_without_changes(5 * CHUNK, parent(holey, true)).contains(&3));
    }
}

//! Pages of a manifest while their chunks come in, in any order.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;

use repo_format::limits::PAGE_SLOTS;
use repo_format::volume::{Page, PageRef, Slot, VolumeRoot};

use super::plan::PageWork;

/// A page that waits for some of its chunks.
#[derive(Debug)]
struct OpenPage {
    page: Page,
    parent: Option<Page>,
    left: usize,
}

/// A page whose chunks are all known.
#[derive(Debug)]
pub(super) struct FullPage {
    pub(super) number: u64,
    pub(super) page: Page,
}

/// The pages of a volume that is being backed up. Holds only those in progress: as many as
/// there are chunks in flight, at most.
#[derive(Debug)]
pub(super) struct Pages {
    open: Mutex<BTreeMap<u64, OpenPage>>,
    root: Mutex<VolumeRoot>,
}

fn place(chunk: u64) -> (u64, usize) {
    let slots = PAGE_SLOTS as u64;
    (chunk / slots, usize::try_from(chunk % slots).unwrap_or(0))
}

impl Pages {
    pub(super) fn new(root: VolumeRoot) -> Self {
        Self { open: Mutex::default(), root: Mutex::new(root) }
    }

    /// Takes in a page before its reads are issued. Gives it back at once if it needs none.
    pub(super) fn start(&self, work: PageWork) -> Option<FullPage> {
        let page = Page { slots: work.slots };
        let left = work.read.len();
        if left == 0 {
            return Some(FullPage { number: work.number, page });
        }
        let open = OpenPage { page, parent: work.parent, left };
        self.lock_open().insert(work.number, open);
        None
    }

    /// What the parent has in place of `chunk`.
    pub(super) fn parent_slot(&self, chunk: u64) -> Option<Slot> {
        let (number, index) = place(chunk);
        let open = self.lock_open();
        open.get(&number)?.parent.as_ref()?.slots.get(index).copied()
    }

    /// Records what `chunk` is. Gives its page back with the last one.
    pub(super) fn set(&self, chunk: u64, slot: Slot) -> Option<FullPage> {
        let (number, index) = place(chunk);
        let mut open = self.lock_open();
        let page = open.get_mut(&number)?;
        if let Some(place) = page.page.slots.get_mut(index) {
            *place = slot;
        }
        page.left -= 1;
        if page.left > 0 {
            return None;
        }
        open.remove(&number).map(|full| FullPage { number, page: full.page })
    }

    /// Records where a full page is stored.
    pub(super) fn close(&self, number: u64, page: PageRef) {
        let mut root = self.root.lock().unwrap_or_else(PoisonError::into_inner);
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        if let Some(place) = root.pages.get_mut(index) {
            *place = page;
        }
    }

    pub(super) fn into_root(self) -> VolumeRoot {
        self.root.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_open(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, OpenPage>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

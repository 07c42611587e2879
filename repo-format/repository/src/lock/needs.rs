//! Which objects somebody still needs.

use std::collections::HashSet;

use repo_format::catalog::PageRef;
use repo_format::id::{SegmentName, SessionId};
use repo_format::key::ObjectKey;

use crate::RepositoryError;
use crate::gc::CATALOGS_KEPT;
use crate::index::{Index, PackState};
use crate::view::View;

/// What a name means to the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Snapshots, or the repository as a whole, depend on it.
    Needed,
    /// The same, unless its owner deleted it.
    IfVisible,
    /// It is there for a reason, and for a while only.
    Kept,
    /// Nobody needs it.
    Idle,
}

/// Knows what a view needs. The index must be in line with the view.
#[derive(Debug)]
pub(super) struct Needs<'a> {
    index: &'a Index,
    newest: u64,
    pages: HashSet<ObjectKey>,
    segments: HashSet<SegmentName>,
    open: HashSet<SessionId>,
    registers: HashSet<SessionId>,
    folded: HashSet<SessionId>,
}

impl<'a> Needs<'a> {
    pub(super) fn new(view: &View, index: &'a Index) -> Self {
        let catalog = &view.head.catalog;
        let pages = catalog.pages.iter().flatten().flat_map(PageRef::keys).collect();
        let segments = view.index_view().segments.iter().map(|segment| segment.name).collect();
        let folded: HashSet<SessionId> =
            catalog.folded.iter().map(|folded| folded.session).collect();
        let open = view.sessions.keys().filter(|id| !folded.contains(*id)).copied().collect();
        let registers = view.registers.iter().copied().collect();
        Self { index, newest: catalog.n, pages, segments, open, registers, folded }
    }

    pub(super) fn of(&self, key: &ObjectKey) -> Result<Use, RepositoryError> {
        let needed = |needed: bool| if needed { Use::Needed } else { Use::Idle };
        Ok(match key {
            ObjectKey::Config => Use::Needed,
            ObjectKey::KeySlot(_) => Use::IfVisible,
            ObjectKey::Catalog(n) if *n == self.newest => Use::Needed,
            ObjectKey::Catalog(n) if n + CATALOGS_KEPT <= self.newest => Use::Idle,
            ObjectKey::Catalog(_) => Use::Kept,
            // For a version that is about to come.
            ObjectKey::CatalogPage { n, .. } if *n > self.newest => Use::IfVisible,
            ObjectKey::CatalogPage { .. } => needed(self.pages.contains(key)),
            ObjectKey::Segment(name) => {
                needed(self.segments.contains(name) || self.open.contains(&name.session))
            }
            ObjectKey::Pack(name) => {
                let number = self.index.pack_number(name)?;
                match number.map(|number| self.index.pack_state(number)) {
                    Some(PackState::Live | PackState::Bad) => Use::Needed,
                    Some(PackState::Condemned) => Use::Kept,
                    // Of a writer that has not committed it yet.
                    _ => needed(self.open.contains(&name.session)),
                }
            }
            ObjectKey::Session(id) | ObjectKey::Commit(id) => {
                let is_unfolded = self.registers.contains(id) && !self.folded.contains(id);
                if is_unfolded { Use::Kept } else { Use::Idle }
            }
            ObjectKey::Heartbeat(_) => Use::Idle,
        })
    }
}

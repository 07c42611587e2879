//! Everything a run can observe or remember at one moment.

use std::fmt;

use super::set::Set;

/// Sessions a run has room for. Number 0 made the repository's first snapshot and is long cleaned.
pub(super) const SESSIONS: usize = 5;
/// Packs: one per session (with the session's number), then one per maintainer.
pub(super) const PACKS: usize = SESSIONS + MAINTAINERS;
pub(super) const AGENTS: usize = 3;
pub(super) const MAINTAINERS: usize = 2;

/// The newest catalog version. Snapshots have the number of the session that committed them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(super) struct Catalog {
    pub(super) version: u8,
    /// Listed snapshots.
    pub(super) snaps: Set,
    /// Packs that listed segments name and that are not dead.
    pub(super) indexed: Set,
    /// Listed segments; kept empty where segments are no objects.
    pub(super) segments: Set,
    pub(super) dead: Set,
    pub(super) bad: Set,
    /// Sessions whose outcome is in the catalog.
    pub(super) folded: Set,
    /// Per snapshot: the version that forgot it; 0 if none did or it left `dying`.
    pub(super) dying: [u8; SESSIONS],
    /// Per pack: the version that condemned it; 0 if it is not condemned.
    pub(super) cond: [u8; PACKS],
    /// Per snapshot: the version that folded it. Kept for incremental verdicts only.
    pub(super) folded_at: [u8; SESSIONS],
}

impl Catalog {
    pub(super) fn condemned(&self) -> Set {
        Set::of((0..PACKS).filter(|&pack| self.cond[pack] != 0))
    }
}

impl fmt::Display for Catalog {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dying = Set::of((0..SESSIONS).filter(|&snap| self.dying[snap] != 0));
        write!(out, "version {}: snapshots {:?} dying {dying:?}", self.version, self.snaps)?;
        write!(out, " indexed {:?} condemned {:?}", self.indexed, self.condemned())?;
        write!(out, " dead {:?} folded {:?}", self.dead, self.folded)
    }
}

/// The write-once register of a session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(super) enum Register {
    #[default]
    Absent,
    Fence,
    Commit,
}

/// Where an agent is in its session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(super) enum Phase {
    #[default]
    Start,
    HeadRead,
    Opened,
    CatalogRead,
    CommitsListed,
    /// May choose what to refer to and what to upload.
    Ready,
    Chosen,
    /// The pack is stored, or none is needed.
    Stored,
    /// The segment is stored, or none is needed.
    Indexed,
    Committed,
    PartOpened,
    RegisterEmpty,
    SessionSeen,
    PartCommitted,
    Checkpointed,
    Reading,
    Done,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(super) struct Agent {
    pub(super) phase: Phase,
    /// Which of its sessions it is in.
    pub(super) position: u8,
    /// Catalog number for the session record.
    pub(super) base: u8,
    /// Chunks it may refer to.
    pub(super) allowed: Set,
    /// Chunks its last checkpoint refers to, which it would like to go on referring to.
    pub(super) carried: Set,
    /// What it remembers between its requests: parts of the catalog, pages of lists.
    pub(super) snaps_seen: Set,
    pub(super) folded_seen: Set,
    pub(super) first_list: Set,
    pub(super) second_list: Set,
    pub(super) cursor: u8,
    /// A reader's snapshot, also in its session record.
    pub(super) pin: u8,
}

/// Where a maintainer is in its pass.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(super) enum At {
    #[default]
    Start,
    PacksListed,
    CatalogRead,
    SessionsListed,
    CommitsListed,
    /// It created a catalog number and believes, or is about to check, that it is the newest.
    Won,
    /// One request decided on and not yet arrived.
    Sending(Request),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Request {
    DeletePack(u8),
    DeleteSegment(u8),
    DeleteSession(u8),
    DeleteCommit(u8),
    Fence(u8),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(super) struct Maintainer {
    pub(super) at: At,
    pub(super) cursor: u8,
    pub(super) packs: Set,
    pub(super) segments: Set,
    pub(super) lists: Lists,
    /// The catalog the pass is about; all zero where it is bound to be the newest.
    pub(super) view: Catalog,
    pub(super) repack: Repacked,
    /// What was condemned when it last marked; empty where marking is no step of its own.
    pub(super) marked: Set,
}

/// What listing session records and registers gave.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(super) struct Lists {
    /// Per session: 0 if it has no record, else 1 + its base.
    pub(super) sessions: [u8; SESSIONS],
    pub(super) registers: [Register; SESSIONS],
}

/// How far a maintainer is with the one repack it may do by itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(super) enum Repacked {
    #[default]
    No,
    Stored,
    Published,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(super) struct State {
    pub(super) catalog: Catalog,
    /// Session records and registers as they are now.
    pub(super) now: Lists,
    /// Pack objects present.
    pub(super) packs: Set,
    /// Segment objects present.
    pub(super) segments: Set,
    /// Per snapshot: the chunks it refers to.
    pub(super) needs: [Set; SESSIONS],
    /// Per pack: the chunks in it.
    pub(super) holds: [Set; PACKS],
    /// Per segment: the packs it names.
    pub(super) names: [Set; SESSIONS],
    /// Per merged segment: the segments it replaces.
    pub(super) replaces: [Set; SESSIONS],
    pub(super) agents: [Agent; AGENTS],
    pub(super) maintainers: [Maintainer; MAINTAINERS],
    /// Sessions whose commit request a network may deliver once more.
    pub(super) repeatable: Set,
    /// Snapshots some version forgot.
    pub(super) forgotten: Set,
    /// Sessions whose agent was told that its snapshot is saved.
    pub(super) reported: Set,
    /// Packs ever indexed: the worst that an index cache can believe.
    pub(super) cached: Set,
    pub(super) damaged: Set,
    /// Snapshots that had every chunk in a sound pack when damage was found.
    pub(super) guarded: Set,
}

//! The names of what can happen, as the protocol's code names it.

use std::fmt;

/// What a process does in one step: at most one request to the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// An agent reads the newest catalog's number (and a reader chooses its snapshot).
    ReadHead,
    /// An agent creates its session record.
    OpenSession,
    /// An agent reads the newest catalog, its session record being acknowledged.
    ReadCatalog,
    /// A writer looks for the session record of its own last checkpoint.
    CheckCheckpoint,
    /// An agent opens a session for a part of what its main session has done.
    OpenPart,
    /// An agent looks whether a session's register is empty.
    CheckRegister,
    /// An agent looks whether a session's record is there.
    CheckSession,
    /// A maintainer notes where every needed chunk is.
    Mark,
    /// A process lists the commit registers.
    ListCommits,
    /// A process lists the session records; a process that reads the newest catalog first may do so just before.
    ListSessions,
    /// A writer needs no chunk uploaded: it refers to what is there.
    Reference,
    /// A writer decides which chunks to upload.
    ChooseUpload,
    /// An agent uploads its pack.
    PutPack,
    /// An agent uploads its index segment.
    PutSegment,
    /// An agent creates its register with COMMIT.
    Commit,
    /// An agent asks whether its commit counts.
    Confirm,
    /// A copy of a commit request lands long after the first.
    LateCommit,
    /// A reader ends its session.
    Unpin,
    /// A maintainer lists packs and segments.
    ListPacks,
    /// A maintainer throws its lists away.
    StartOver,
    /// Several decisions in one catalog version.
    Publish,
    /// Version: what a session's register says is in the catalog.
    Fold,
    /// Version: a session whose records are gone leaves `folded`.
    DropFolded,
    /// Version: a snapshot is no longer listed.
    Forget,
    /// Version: a forgotten snapshot leaves `dying`.
    Undie,
    /// Version: no writer may refer to this pack any more.
    Condemn,
    /// Version: a condemned pack is dead.
    VerdictDead,
    /// Version: a condemned pack is needed, or simply let off.
    VerdictRescue,
    /// Version: a dead pack's name is forgotten.
    DropDead,
    /// Version: a pack is damaged, its chunks count as absent.
    MarkBad,
    /// A maintainer uploads a pack with chunks of listed packs.
    Repack,
    /// Version: that pack is indexed.
    PublishRepack,
    /// Version: a merged segment takes the place of those it was made of.
    PublishMerge,
    /// A sleeper creates a catalog number that was trimmed.
    WinOldNumber,
    /// A maintainer creates FENCE in a register, or finds it taken.
    Fence,
    /// A maintainer decides to delete a folded session's record.
    CleanSession,
    /// A maintainer decides to delete the register of a session whose record is gone.
    CleanCommit,
    /// A maintainer decides to delete a register that belongs to no session.
    CleanStray,
    /// A maintainer decides to delete a dead pack.
    SweepDead,
    /// A maintainer decides to delete a pack no index entry names.
    SweepOrphan,
    /// A maintainer decides to delete a segment no catalog lists.
    SweepSegment,
    /// The object decided on is gone.
    Delete,
    /// A stored pack rots.
    Damage,
}

/// Who takes a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Actor {
    /// An agent, by its place in the set-up.
    Agent(usize),
    /// A maintainer.
    Maintainer(usize),
    /// Nobody: networks and disks.
    World,
}

/// One step of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// Who takes it.
    pub actor: Actor,
    /// What is done.
    pub action: Action,
    /// The session, snapshot, pack or catalog version it is done to.
    pub target: usize,
}

impl Step {
    /// The step as a bit, one per [`Action`].
    pub(super) fn bit(self) -> u64 {
        1 << self.action as u64
    }
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.actor {
            Actor::Agent(number) => write!(out, "agent {number}")?,
            Actor::Maintainer(number) => write!(out, "maintainer {number}")?,
            Actor::World => write!(out, "world")?,
        }
        write!(out, ": {:?} {}", self.action, self.target)
    }
}

//! What a run explores: who takes part, what they may do, and which rule is left out.

use super::state::{AGENTS, MAINTAINERS, SESSIONS};
use super::step::Action;

/// What a session is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Saves a snapshot. With several sessions in a row, all but the last commit a checkpoint.
    Backup,
    /// Saves a snapshot in one main session that stays open to the end, and a checkpoint of it in
    /// a second session, its part, meanwhile. Packs have the main session's name.
    Parted,
    /// Copies chunks of listed packs into a new pack; commits no snapshot.
    Repack,
    /// Replaces all listed index segments by one, without the entries of dead packs.
    Merge,
    /// Pins one snapshot and reads it.
    Read,
}

/// What the verdict over a condemned pack looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Everything that may refer to the pack.
    Full,
    /// Only what was folded after the condemnation, what is not folded yet, and what is pinned.
    /// The rest was looked at when the pack was condemned.
    Incremental,
}

/// How the maintainers turn decisions into catalog versions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transitions {
    /// One decision a version.
    Single,
    /// Any number of decisions, in any order, in one version.
    Combined,
}

/// One rule of the protocol. A run leaves out at most one, and must then find a violation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// A writer chooses what to refer to by a catalog read after its session record was
    /// acknowledged.
    CatalogReadAfterSession,
    /// A pack is first condemned, then judged in a later catalog version.
    CondemnedBeforeDead,
    /// The lists behind a verdict were taken after the condemnation was published. Without it, one
    /// pass condemns and judges by the same lists.
    VerdictListsAgain,
    /// "No session is open" is no excuse to go without a verdict.
    VerdictEvenIfIdle,
    /// A verdict waits for the outcome of every writer's session opened before the condemnation.
    VerdictWaitsForSessions,
    /// A snapshot forgotten after a condemnation is a root of its verdict.
    ForgottenAreRoots,
    /// A forgotten snapshot stays in `dying` while an older condemnation is open.
    ForgottenAreKept,
    /// A chunk is safe elsewhere only in a pack that is not condemned itself.
    UncondemnedLocation,
    /// A condemnation counts the snapshots that the same version folds.
    CondemnSeesFolds,
    /// Condemning two packs in one version, neither counts as the other's second location.
    BatchIsNoLocation,
    /// COMMIT and FENCE share one write-once register.
    RegisterWrittenOnce,
    /// A commit counts only while its session record exists.
    CommitNeedsSession,
    /// Writers list commits first, then sessions.
    CommitsListedFirst,
    /// Maintainers list commits first, then sessions. It matters to parts, and to the cleaning of
    /// commits without session; where neither is, both orders do.
    MaintainersListCommitsFirst,
    /// A condemnation is decided by the locations in the very catalog it follows.
    MarkedOnThisCatalog,
    /// Maintainers list sessions and commits after they read the catalog they decide on.
    ListsAfterCatalog,
    /// An orphan is deleted only on a catalog that is still the newest after the last list.
    OrphansOnNewest,
    /// An orphan was listed before the sessions were.
    PacksListedFirst,
    /// A pack without index entries is an orphan only if its session is folded or gone.
    OrphanHasNoSession,
    /// The session record is cleaned before the commit record.
    SessionCleanedFirst,
    /// That a session was folded is no proof of success: a fence is folded too.
    FoldedMayBeFenced,
    /// No request to create a session lands after the session was cleaned.
    LateSessionsDie,
    /// References of the last session are carried on only if its checkpoint is still a root.
    CheckpointIsRoot,
    /// A checkpoint no catalog lists is a root only if its session record is seen afterwards.
    CheckpointSeenOpen,
    /// The check of the checkpoint follows the new session record, not the other way round.
    CheckpointAfterSession,
    /// A superseded checkpoint goes through `dying` like any forgotten snapshot.
    SupersededAreKept,
    /// The cache trusts a pack only if a listed segment names it.
    PackNamedByListedSegment,
    /// A dead pack's name is dropped only once no listed segment names it.
    DeadOutliveSegments,
    /// A merge counts only if every segment it replaces is still listed.
    MergeInputsListed,
    /// Whoever publishes a merge has seen its session open, after the catalog it follows.
    MergeSessionOpen,
    /// A reader checks that its snapshot is listed after its session record was acknowledged.
    PinCheckedAfterSession,
    /// Pinned snapshots are roots of a verdict while their session is open.
    PinsAreRoots,
    /// A forgotten snapshot stays in `dying` while it is pinned: a verdict finds it nowhere else.
    PinnedAreKept,
    /// A snapshot leaves `dying` in a later version than the one that forgot it, by lists taken in
    /// between: a reader may have pinned it since the lists before.
    ForgottenBeforeUndied,
    /// A part's record is acknowledged before the main session is seen open.
    PartBeforeMainSeen,
    /// The main session counts as open only if its record is seen after the empty register:
    /// an empty register may have been cleaned.
    MainRecordSeen,
    /// While a part is open, its main session's packs are no orphans.
    PartsProtectPacks,
    /// A catalog version counts as published only if the newest one, read again, is it.
    WinVerified,
    /// Marking a pack bad takes back every condemnation: it may have counted on that pack.
    BadTakesBack,
}

impl Rule {
    /// Every rule, in the order above.
    pub const ALL: [Self; 39] = [
        Self::CatalogReadAfterSession,
        Self::CondemnedBeforeDead,
        Self::VerdictListsAgain,
        Self::VerdictEvenIfIdle,
        Self::VerdictWaitsForSessions,
        Self::ForgottenAreRoots,
        Self::ForgottenAreKept,
        Self::UncondemnedLocation,
        Self::CondemnSeesFolds,
        Self::BatchIsNoLocation,
        Self::RegisterWrittenOnce,
        Self::CommitNeedsSession,
        Self::CommitsListedFirst,
        Self::MaintainersListCommitsFirst,
        Self::MarkedOnThisCatalog,
        Self::ListsAfterCatalog,
        Self::OrphansOnNewest,
        Self::PacksListedFirst,
        Self::OrphanHasNoSession,
        Self::SessionCleanedFirst,
        Self::FoldedMayBeFenced,
        Self::LateSessionsDie,
        Self::CheckpointIsRoot,
        Self::CheckpointSeenOpen,
        Self::CheckpointAfterSession,
        Self::SupersededAreKept,
        Self::PackNamedByListedSegment,
        Self::DeadOutliveSegments,
        Self::MergeInputsListed,
        Self::MergeSessionOpen,
        Self::PinCheckedAfterSession,
        Self::PinsAreRoots,
        Self::PinnedAreKept,
        Self::ForgottenBeforeUndied,
        Self::PartBeforeMainSeen,
        Self::MainRecordSeen,
        Self::PartsProtectPacks,
        Self::WinVerified,
        Self::BadTakesBack,
    ];
}

/// What a run explores.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a part of the protocol, on or off")]
pub struct Setup {
    /// The agents and how many sessions each may open, one after the other.
    pub agents: &'static [(Kind, usize)],
    /// How many maintainers run beside them: 1 or 2.
    pub maintainers: usize,
    /// Highest catalog version; 1 is the first.
    pub versions: u8,
    /// Distinct chunks: 1 or 2.
    pub chunks: usize,
    /// What verdicts look at.
    pub verdict: Verdict,
    /// How many decisions go into one version.
    pub transitions: Transitions,
    /// Writers also refer to what commits not yet folded hold.
    pub uses_unfolded: bool,
    /// Index segments are objects: written, listed, merged, swept. The index cache follows them.
    pub segments: bool,
    /// Lists come in pages of one key, so what is created meanwhile may or may not be in them.
    pub paged_lists: bool,
    /// Any catalog but the newest may be gone, so that a sleeper can create its number again.
    /// Maintainers then go on by a catalog that is not the newest, as far as they may.
    pub trimming: bool,
    /// The first pack may go bad.
    pub damage: bool,
    /// What nobody does in this run. It makes a run smaller; a violation it finds is one all the
    /// same.
    pub off: &'static [Action],
    /// The rule that is left out.
    pub without: Option<Rule>,
}

impl Setup {
    /// The plain protocol: each agent of `agents` with one session, `maintainers`, one chunk.
    pub const fn new(agents: &'static [(Kind, usize)], maintainers: usize, versions: u8) -> Self {
        Self {
            agents,
            maintainers,
            versions,
            chunks: 1,
            verdict: Verdict::Full,
            transitions: Transitions::Single,
            uses_unfolded: true,
            segments: false,
            paged_lists: false,
            trimming: false,
            damage: false,
            off: &[],
            without: None,
        }
    }

    /// The same run with `rule` left out.
    #[must_use]
    pub const fn without(self, rule: Rule) -> Self {
        Self { without: Some(rule), ..self }
    }

    /// The same run with nobody taking the actions of `off`.
    #[must_use]
    pub const fn off(self, off: &'static [Action]) -> Self {
        Self { off, ..self }
    }

    pub(super) fn keeps(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    pub(super) fn breaks(&self, rule: Rule) -> bool {
        self.without == Some(rule)
    }

    /// Whether the arrays of the state have room for this run.
    pub(super) fn fits(&self) -> bool {
        let sessions: usize = self.agents.iter().map(|(_, sessions)| sessions).sum();
        self.agents.len() <= AGENTS
            && sessions < SESSIONS
            && (1..=MAINTAINERS).contains(&self.maintainers)
            && (1..=2).contains(&self.chunks)
    }
}

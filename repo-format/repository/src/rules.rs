//! The rules of the protocol (FORMAT.md, "Protocol") as this crate keeps them, each asked for at
//! the place where it is kept.
//!
//! In the product every rule holds, and asking costs nothing. A simulation leaves one of them out
//! to show that it would notice.

/// A rule of the protocol. What leaving it out would mean is said where it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Rule {
    /// W1: a writer takes its view after its session is acknowledged.
    ViewAfterSession,
    /// W2: what is in a condemned pack is not referred to anew.
    CondemnedIsNotUsed,
    /// W2: what the cache knows beyond the view is nothing.
    UnlistedIsNothing,
    /// W4: a writer lists registers before sessions.
    RegistersFirst,
    /// W4, M1: who writes or maintains lists after the catalog was read.
    ListsAfterCatalog,
    /// W4: a commit without its session is nothing.
    CommitNeedsSession,
    /// W5: every pack is acknowledged before the commit is sent.
    StoredBeforeCommit,
    /// W5: a session whose register holds a fence did not commit.
    FenceEndsSession,
    /// W5: a commit counts only if the session is there, or the snapshot is listed.
    CommitIsConfirmed,
    /// W5: that a session was folded does not prove that its commit was.
    FoldedIsNoProof,
    /// W5, W6: a session that was folded is over, even if its record is there again.
    FoldedIsOver,
    /// W6: a part takes over the base of its main session.
    PartTakesBase,
    /// W6: a part is acknowledged before its main session is seen open.
    PartBeforeMainIsSeen,
    /// W6: a main session with a register is not open.
    MainHasNoRegister,
    /// W6: a main session without a record is not open.
    MainHasRecord,
    /// W6: the main session's register is looked for before its record.
    RegisterSeenBeforeRecord,
    /// M1: who loses decides anew, on the newest catalog.
    LoserStartsOver,
    /// M1: a maintainer lists registers before sessions.
    MaintainersListRegistersFirst,
    /// M1: packs are listed before sessions.
    PacksListedFirst,
    /// M1, D1: what is in neither the catalog nor the lists is gone only if the catalog is still
    /// the newest after the lists.
    AbsentOnNewest,
    /// M2: a version counts only if the newest catalog is it or was built on it.
    WinIsVerified,
    /// M3: packs are condemned by marks made on the very catalog that is succeeded.
    MarkedOnThisCatalog,
    /// M3: marks count only while every pack chosen as a place is live.
    StaleMarksAreRedone,
    /// M3: marks of a time when a chunk was found nowhere do not count later.
    FoundNowhereIsStale,
    /// M3: another place of a chunk is one in a live pack.
    UncondemnedPlace,
    /// M3: packs condemned together are no places for each other's chunks.
    CondemnedTogetherIsNoPlace,
    /// M4: a pack is condemned in one version and dead in a later one.
    CondemnedBeforeDead,
    /// M4: a verdict goes by lists taken after the condemnation was published.
    ListsAfterEachVersion,
    /// M4: a verdict waits for the writers that began before the condemnation.
    VerdictWaits,
    /// M5: what was folded since the condemnation is a root.
    FoldedAreRoots,
    /// M5: what was forgotten since the condemnation is a root.
    DyingAreRoots,
    /// M5: commits not folded are roots.
    UnfoldedAreRoots,
    /// M5: what readers hold is a root.
    PinnedAreRoots,
    /// M5: packs judged together are judged by the roots of the oldest.
    RootsSinceTheOldest,
    /// M5: packs judged together are no places for each other's chunks.
    JudgedIsNoPlace,
    /// M5: an index that is not whole judges nothing.
    WholeIndexJudges,
    /// W7, M5: what is forgotten is dying, checkpoints too.
    ForgottenAreDying,
    /// M6: no version undies what it forgets.
    ForgottenBeforeUndied,
    /// M6: what is dying stays while a pack condemned before is.
    DyingOutliveCondemned,
    /// M6: what is dying stays while a reader holds it.
    PinnedStayDying,
    /// M8: a left-over is of a session that is over.
    OrphanSessionIsOver,
    /// M8: an open part protects what its main session stored.
    PartsProtectPacks,
    /// M8: left-overs are deleted only if the catalog was the newest after the lists.
    SweptOnNewest,
    /// M9: calling a pack bad takes back every condemnation.
    BadTakesBack,
    /// M10: a session's record is removed, and seen gone, before its register.
    SessionCleanedFirst,
    /// M10: a register whose session is gone and not folded is removed.
    StrayRegistersAreSwept,
    /// M10: the row of a folded session stays while a request may be under way.
    FoldedStayADay,
    /// M11: the row of a dead pack stays while a segment names the pack.
    DeadOutliveSegments,
    /// M12: a merge counts only if its inputs are still listed.
    MergeInputsListed,
    /// M12: a merge counts only if its own session is open.
    MergeSessionOpen,
    /// M14: pages made for a version that is to come are left alone.
    PagesToComeStay,
    /// D1: a reader takes its view after its pin is acknowledged.
    PinBeforeView,
    /// D3: who only lists reads the catalog last.
    ReadersListFirst,
    /// D3: a list in which a register was gone when it was read is taken again.
    TornIsReadAgain,
}

#[cfg(test)]
impl Rule {
    /// Every rule.
    pub(crate) const ALL: [Self; 54] = [
        Self::ViewAfterSession,
        Self::CondemnedIsNotUsed,
        Self::UnlistedIsNothing,
        Self::RegistersFirst,
        Self::ListsAfterCatalog,
        Self::CommitNeedsSession,
        Self::StoredBeforeCommit,
        Self::FenceEndsSession,
        Self::CommitIsConfirmed,
        Self::FoldedIsNoProof,
        Self::FoldedIsOver,
        Self::PartTakesBase,
        Self::PartBeforeMainIsSeen,
        Self::MainHasNoRegister,
        Self::MainHasRecord,
        Self::RegisterSeenBeforeRecord,
        Self::LoserStartsOver,
        Self::MaintainersListRegistersFirst,
        Self::PacksListedFirst,
        Self::AbsentOnNewest,
        Self::WinIsVerified,
        Self::MarkedOnThisCatalog,
        Self::StaleMarksAreRedone,
        Self::FoundNowhereIsStale,
        Self::UncondemnedPlace,
        Self::CondemnedTogetherIsNoPlace,
        Self::CondemnedBeforeDead,
        Self::ListsAfterEachVersion,
        Self::VerdictWaits,
        Self::FoldedAreRoots,
        Self::DyingAreRoots,
        Self::UnfoldedAreRoots,
        Self::PinnedAreRoots,
        Self::RootsSinceTheOldest,
        Self::JudgedIsNoPlace,
        Self::WholeIndexJudges,
        Self::ForgottenAreDying,
        Self::ForgottenBeforeUndied,
        Self::DyingOutliveCondemned,
        Self::PinnedStayDying,
        Self::OrphanSessionIsOver,
        Self::PartsProtectPacks,
        Self::SweptOnNewest,
        Self::BadTakesBack,
        Self::SessionCleanedFirst,
        Self::StrayRegistersAreSwept,
        Self::FoldedStayADay,
        Self::DeadOutliveSegments,
        Self::MergeInputsListed,
        Self::MergeSessionOpen,
        Self::PagesToComeStay,
        Self::PinBeforeView,
        Self::ReadersListFirst,
        Self::TornIsReadAgain,
    ];
}

/// Whether the rule holds.
#[cfg(not(test))]
pub(crate) const fn keeps(_: Rule) -> bool {
    true
}

#[cfg(test)]
pub(crate) fn keeps(rule: Rule) -> bool {
    crate::sim::here::keeps(rule)
}

/// Whether this thread is part of a simulation, in which only agents act.
#[cfg(not(test))]
pub(crate) const fn is_simulated() -> bool {
    false
}

#[cfg(test)]
pub(crate) fn is_simulated() -> bool {
    crate::sim::here::is_simulated()
}

/// How many are many: `real`, but `few` in a simulation, which has few of everything.
#[cfg(not(test))]
pub(crate) const fn many<T: Copy>(real: T, _few: T) -> T {
    real
}

#[cfg(test)]
pub(crate) fn many<T: Copy>(real: T, few: T) -> T {
    if is_simulated() { few } else { real }
}

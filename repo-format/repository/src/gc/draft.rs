//! The next version of the catalog while it is being made: pure steps, each named as in the
//! protocol.

use std::collections::{BTreeMap, HashSet};

use repo_format::catalog::{Catalog, Condemned, Dying, Folded, Listed};
use repo_format::id::{PackName, SessionId, SnapshotId};
use repo_format::lock::ObjectLock;
use repo_format::session::{SegmentRef, Session, SessionKind};
use repo_format::snapshot::Snapshot;

use crate::rules::{Rule, keeps};
use crate::view::View;

/// A row of `folded` outlives its objects by this long: longer than any request can be under way.
const FOLDED_KEPT_S: u64 = 24 * 3600;

/// The next catalog, built on a view.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) catalog: Catalog,
    pub(crate) snapshots: BTreeMap<SnapshotId, Listed>,
    /// Its number.
    n: u64,
    changed: bool,
}

impl Draft {
    pub(crate) fn new(view: &View) -> Self {
        Self {
            catalog: view.head.catalog.clone(),
            snapshots: view.head.snapshots.clone(),
            n: view.head.catalog.n + 1,
            changed: false,
        }
    }

    /// Whether any step changed anything.
    pub(crate) const fn is_changed(&self) -> bool {
        self.changed
    }

    /// fold: takes in every valid commit and every fence.
    pub(crate) fn fold(&mut self, view: &View, now_s: u64) {
        for (id, commit) in &view.unfolded {
            self.catalog.segments.extend(&commit.segments);
            if let Some(snapshot) = &commit.snapshot {
                let listed = Listed { since: self.n, snapshot: snapshot.clone() };
                self.snapshots.insert(snapshot.id, listed);
            }
            self.catalog.folded.push(Folded { session: *id, at_s: now_s });
            self.changed = true;
        }
        // After all commits: one may forget what another of the same round adds.
        for id in view.unfolded.values().flat_map(|commit| &commit.forgets) {
            self.forget(id);
        }
        for id in &view.fenced {
            self.catalog.folded.push(Folded { session: *id, at_s: now_s });
            self.changed = true;
        }
    }

    /// A session that is folded although its record or its register is lost: a repair decided so.
    /// A root that is taken in this way is younger than everything condemned, so that each
    /// verdict checks it.
    pub(crate) fn settle(
        &mut self,
        id: &SessionId,
        segments: &[SegmentRef],
        snapshot: Option<&Snapshot>,
        now_s: u64,
    ) {
        let listed = &self.catalog.segments;
        let new = segments.iter().filter(|segment| !listed.contains(segment)).copied();
        let new: Vec<SegmentRef> = new.collect();
        self.catalog.segments.extend(new);
        if let Some(snapshot) = snapshot {
            let listed = Listed { since: self.n, snapshot: snapshot.clone() };
            self.snapshots.insert(snapshot.id, listed);
        }
        self.catalog.folded.push(Folded { session: *id, at_s: now_s });
        self.changed = true;
    }

    /// forget: the snapshot stays a root for verdicts on what was condemned before.
    pub(crate) fn forget(&mut self, id: &SnapshotId) -> bool {
        let Some(listed) = self.snapshots.remove(id) else { return false };
        if keeps(Rule::ForgottenAreDying) {
            self.catalog.dying.push(Dying { since: self.n, snapshot: listed.snapshot });
        }
        self.changed = true;
        true
    }

    /// condemn. The caller has shown that all roots do without these packs.
    pub(crate) fn condemn(&mut self, packs: impl IntoIterator<Item = PackName>) {
        let known: HashSet<PackName> =
            self.catalog.condemned.iter().map(|condemned| condemned.pack).collect();
        for pack in packs {
            if !known.contains(&pack) {
                self.catalog.condemned.push(Condemned { pack, since: self.n });
                self.changed = true;
            }
        }
    }

    /// verdict: rescues what is needed and declares the others dead.
    pub(crate) fn pass_verdict(&mut self, judged: &HashSet<PackName>, needed: &HashSet<PackName>) {
        let (dead, kept): (Vec<Condemned>, Vec<Condemned>) =
            self.catalog.condemned.iter().partition(|condemned| {
                judged.contains(&condemned.pack) && !needed.contains(&condemned.pack)
            });
        self.changed |= !dead.is_empty();
        self.catalog.dead.extend(dead.iter().map(|condemned| condemned.pack));
        let before = kept.len();
        let (rescued, kept): (Vec<Condemned>, Vec<Condemned>) =
            kept.into_iter().partition(|condemned| needed.contains(&condemned.pack));
        self.catalog.condemned = kept;
        self.distrust_locks(&rescued);
        self.changed |= self.catalog.condemned.len() != before;
    }

    /// undie: a forgotten snapshot is dropped once nothing condemned before it is left and no
    /// reader holds it. Never by the version that forgets it: only who lists the sessions after
    /// that version exists sees every reader that was in time to pin it.
    pub(crate) fn undie(&mut self, view: &View) {
        let condemned = &self.catalog.condemned;
        let pins = pins(view);
        let before = self.catalog.dying.len();
        self.catalog.dying.retain(|dying| {
            let is_new = dying.since > view.head.catalog.n;
            let is_condemned = condemned.iter().any(|condemned| condemned.since < dying.since);
            let is_pinned = pins.contains(&dying.snapshot.id);
            is_new && keeps(Rule::ForgottenBeforeUndied)
                || is_condemned && keeps(Rule::DyingOutliveCondemned)
                || is_pinned && keeps(Rule::PinnedStayDying)
        });
        self.changed |= self.catalog.dying.len() != before;
    }

    /// Drops dead packs that are gone and that no listed segment mentions.
    pub(crate) fn bury(&mut self, gone: &HashSet<PackName>) {
        for packs in [&mut self.catalog.dead, &mut self.catalog.bad] {
            let before = packs.len();
            packs.retain(|pack| !gone.contains(pack));
            self.changed |= packs.len() != before;
        }
    }

    /// Drops folded sessions whose objects have been gone for long enough.
    pub(crate) fn drop_folded(&mut self, view: &View, now_s: u64) {
        let before = self.catalog.folded.len();
        self.catalog.folded.retain(|folded| {
            view.sessions.contains_key(&folded.session)
                || view.registers.contains(&folded.session)
                || now_s.saturating_sub(folded.at_s) < FOLDED_KEPT_S && keeps(Rule::FoldedStayADay)
        });
        self.changed |= self.catalog.folded.len() != before;
    }

    /// Replaces segments by what they were merged into.
    pub(crate) fn replace_segments(&mut self, old: &[SegmentRef], new: &[SegmentRef]) {
        self.catalog.segments.retain(|segment| !old.contains(segment));
        self.catalog.segments.extend(new);
        self.changed = true;
    }

    /// Replaces the list of packs known to be damaged.
    pub(crate) fn set_bad(&mut self, bad: Vec<PackName>) {
        if self.catalog.bad != bad {
            // A pack may have been condemned because the other copy of its chunks was in one that
            // has turned out bad since.
            let is_new = |pack: &PackName| !self.catalog.bad.contains(pack);
            if bad.iter().any(is_new) && keeps(Rule::BadTakesBack) {
                let spared = std::mem::take(&mut self.catalog.condemned);
                self.distrust_locks(&spared);
            }
            self.catalog.bad = bad;
            self.changed = true;
        }
    }
}

/// How objects are locked.
impl Draft {
    /// lock: other values from now on; `None`: nothing is locked any more.
    pub(crate) fn set_lock(&mut self, lock: Option<ObjectLock>) {
        self.changed |= self.catalog.lock != lock;
        self.catalog.lock = lock;
    }

    /// Notes what was found out about locks, if there are any.
    pub(crate) fn edit_lock(&mut self, edit: impl FnOnce(&mut ObjectLock)) {
        let Some(mut lock) = self.catalog.lock.clone() else { return };
        edit(&mut lock);
        self.set_lock(Some(lock));
    }

    /// Packs that are no longer condemned were left out when their groups were extended.
    fn distrust_locks(&mut self, packs: &[Condemned]) {
        self.edit_lock(|lock| {
            for condemned in packs {
                lock.forget_round(ObjectLock::group_of_pack(&condemned.pack));
            }
        });
    }
}

/// Sessions that a verdict on what version `since` condemned has to wait for: writers that began
/// before and have not ended. A session whose record cannot be read may be any of these.
pub(crate) fn blocking(view: &View, since: u64) -> Vec<SessionId> {
    if !keeps(Rule::VerdictWaits) {
        return Vec::new();
    }
    let folded: HashSet<SessionId> =
        view.head.catalog.folded.iter().map(|folded| folded.session).collect();
    view.sessions
        .iter()
        .filter(|(id, _)| !folded.contains(id) && !view.registers.contains(id))
        .filter(|(_, session)| session.as_ref().is_none_or(|session| may_block(session, since)))
        .map(|(id, _)| *id)
        .collect()
}

fn may_block(session: &Session, since: u64) -> bool {
    session.kind == SessionKind::Writer && session.base < since
}

/// What a verdict on packs condemned at `since` or later must check: everything that came or went
/// after, for what was there before was checked when they were condemned.
pub(crate) fn verdict_roots(view: &View, since: u64) -> Vec<&Snapshot> {
    let catalog = &view.head.catalog;
    let folded = view.head.snapshots.values().filter(|listed| listed.since > since);
    let dying = catalog.dying.iter().filter(|dying| dying.since > since);
    let unfolded = view.unfolded.values().filter_map(|commit| commit.snapshot.as_ref());
    folded
        .map(|listed| &listed.snapshot)
        .filter(|_| keeps(Rule::FoldedAreRoots))
        .chain(dying.map(|dying| &dying.snapshot).filter(|_| keeps(Rule::DyingAreRoots)))
        .chain(unfolded.filter(|_| keeps(Rule::UnfoldedAreRoots)))
        .chain(pinned(view).filter(|_| keeps(Rule::PinnedAreRoots)))
        .collect()
}

/// Ids that open reader sessions hold.
fn pins(view: &View) -> HashSet<SnapshotId> {
    view.sessions
        .iter()
        .filter(|(id, _)| !view.registers.contains(id))
        .filter_map(|(_, session)| session.as_ref()?.pinned)
        .collect()
}

/// Snapshots that open reader sessions hold, forgotten ones among them.
fn pinned(view: &View) -> impl Iterator<Item = &Snapshot> {
    let pins = pins(view);
    let listed = view.head.snapshots.values().map(|listed| &listed.snapshot);
    let dying = view.head.catalog.dying.iter().map(|dying| &dying.snapshot);
    listed.chain(dying).filter(move |snapshot| pins.contains(&snapshot.id))
}

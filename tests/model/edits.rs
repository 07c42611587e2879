//! The decisions a maintainer can put into the next catalog version. All judgement is here.

use super::protocol::Protocol;
use super::set::Set;
use super::setup::{Kind, Rule, Verdict};
use super::state::{Catalog, Lists, PACKS, Register, SESSIONS, State};
use super::step::Action;

/// What decisions go by.
pub(super) struct Edit<'a> {
    pub(super) protocol: &'a Protocol,
    /// For what the objects hold, which never changes.
    pub(super) state: &'a State,
    /// The catalog the next version follows.
    pub(super) base: &'a Catalog,
    pub(super) lists: &'a Lists,
    /// What was condemned when needed chunks were last located.
    pub(super) marked: Set,
    /// The maintainer's own pack, if it is stored and not indexed.
    pub(super) repacked: Option<usize>,
}

type Edits = Vec<(Action, usize, Catalog)>;

impl Edit<'_> {
    /// Every single decision that can be added to `draft`.
    pub(super) fn all(&self, draft: &Catalog) -> Edits {
        let mut edits = Edits::new();
        for session in 1..self.protocol.sessions {
            self.fold(draft, session, &mut edits);
            self.drop_folded(draft, session, &mut edits);
        }
        for snap in 0..SESSIONS {
            Self::forget(draft, snap, &mut edits);
            self.undie(draft, snap, &mut edits);
        }
        if let Some(pack) = self.repacked
            && !draft.indexed.and(draft.dead).has(pack)
        {
            let indexed = draft.indexed.with(pack);
            edits.push((Action::PublishRepack, pack, Catalog { indexed, ..*draft }));
        }
        for pack in 0..PACKS {
            self.condemn(draft, pack, &mut edits);
            self.verdict(draft, pack, &mut edits);
            self.drop_dead(draft, pack, &mut edits);
            self.mark_bad(draft, pack, &mut edits);
        }
        edits
    }

    /// Every catalog that any number of decisions in any order makes of `first`, itself excluded.
    pub(super) fn closure(&self, first: Catalog, off: &[Action]) -> Vec<Catalog> {
        let mut found = vec![first];
        let mut done = 0;
        while let Some(draft) = found.get(done).copied() {
            done += 1;
            for (action, _, next) in self.all(&draft) {
                if !off.contains(&action) && !found.contains(&next) {
                    found.push(next);
                }
            }
        }
        found.split_off(1)
    }

    fn fold(&self, draft: &Catalog, session: usize, edits: &mut Edits) {
        let register = self.lists.registers[session];
        let counts =
            self.lists.sessions[session] != 0 || self.protocol.breaks(Rule::CommitNeedsSession);
        if register == Register::Absent || !counts || draft.folded.has(session) {
            return;
        }
        let mut next = Catalog { folded: draft.folded.with(session), ..*draft };
        if register == Register::Commit && self.protocol.kind(session) != Kind::Read {
            if self.protocol.saves(session) {
                next.snaps = next.snaps.with(session);
                self.supersede(&mut next, session);
            }
            if self.protocol.setup.verdict == Verdict::Incremental {
                next.folded_at[session] = draft.version;
            }
            self.index(&mut next, session);
        }
        edits.push((Action::Fold, session, next));
    }

    fn index(&self, next: &mut Catalog, session: usize) {
        let packs = self.protocol.packs(Set::one(session));
        let packs = Set::of(packs.iter().filter(|&pack| !self.state.holds[pack].is_empty()));
        next.indexed = next.indexed.and(packs);
        if self.protocol.setup.segments && !packs.is_empty() {
            next.segments = next.segments.with(session);
        }
    }

    fn supersede(&self, next: &mut Catalog, session: usize) {
        for checkpoint in self.protocol.superseded(session).shared(next.snaps).iter() {
            next.snaps = next.snaps.without(checkpoint);
            if self.protocol.keeps(Rule::SupersededAreKept) {
                next.dying[checkpoint] = next.version;
            }
        }
    }

    fn drop_folded(&self, draft: &Catalog, session: usize, edits: &mut Edits) {
        let gone =
            self.lists.sessions[session] == 0 && self.lists.registers[session] == Register::Absent;
        if draft.folded.has(session) && gone {
            let folded = draft.folded.without(session);
            edits.push((Action::DropFolded, session, Catalog { folded, ..*draft }));
        }
    }

    fn forget(draft: &Catalog, snap: usize, edits: &mut Edits) {
        if draft.snaps.has(snap) {
            let mut next = Catalog { snaps: draft.snaps.without(snap), ..*draft };
            next.dying[snap] = draft.version;
            edits.push((Action::Forget, snap, next));
        }
    }

    fn undie(&self, draft: &Catalog, snap: usize, edits: &mut Edits) {
        let forgotten = draft.dying[snap];
        let older = draft.cond.iter().any(|&cond| cond != 0 && cond < forgotten);
        let pinned = self.protocol.keeps(Rule::PinnedAreKept) && self.pins(draft).has(snap);
        let published =
            forgotten <= self.base.version || self.protocol.breaks(Rule::ForgottenBeforeUndied);
        let kept = pinned || (older && self.protocol.keeps(Rule::ForgottenAreKept));
        if forgotten != 0 && published && !kept {
            let mut next = *draft;
            next.dying[snap] = 0;
            next.folded_at[snap] = 0;
            edits.push((Action::Undie, snap, next));
        }
    }

    /// Whether `chunk` has a place besides `pack` that a verdict may count on.
    fn elsewhere(&self, draft: &Catalog, chunk: usize, pack: usize) -> bool {
        let condemning = draft.cond[pack] == 0;
        let condemned = if condemning && self.protocol.breaks(Rule::MarkedOnThisCatalog) {
            self.marked
        } else if self.protocol.breaks(Rule::UncondemnedLocation) {
            Set::EMPTY
        } else if self.protocol.breaks(Rule::BatchIsNoLocation) {
            self.base.condemned()
        } else {
            draft.condemned()
        };
        let places = draft.indexed.minus(condemned).minus(draft.bad).without(pack);
        self.state.held(places).has(chunk)
    }

    /// Whether a chunk of `pack` that one of `roots` refers to has no other place.
    fn is_needed(&self, draft: &Catalog, roots: Set, pack: usize) -> bool {
        let chunks = self.state.needed(roots).shared(self.state.holds[pack]);
        chunks.iter().any(|chunk| !self.elsewhere(draft, chunk, pack))
    }

    fn condemn(&self, draft: &Catalog, pack: usize, edits: &mut Edits) {
        let roots = if self.protocol.breaks(Rule::CondemnSeesFolds) {
            self.base.snaps
        } else {
            draft.snaps.and(self.protocol.unfolded(draft, self.lists))
        };
        let candidate = draft.indexed.has(pack) && draft.cond[pack] == 0;
        if !candidate || self.is_needed(draft, roots, pack) {
            return;
        }
        let idle = (1..self.protocol.sessions).all(|session| !self.is_open(draft, session));
        let mut next = *draft;
        if self.protocol.breaks(Rule::CondemnedBeforeDead)
            || (idle && self.protocol.breaks(Rule::VerdictEvenIfIdle))
        {
            next.dead = next.dead.with(pack);
            next.indexed = next.indexed.without(pack);
        } else {
            next.cond[pack] = draft.version;
        }
        edits.push((Action::Condemn, pack, next));
    }

    fn is_open(&self, draft: &Catalog, session: usize) -> bool {
        self.lists.sessions[session] != 0
            && self.lists.registers[session] == Register::Absent
            && !draft.folded.has(session)
    }

    /// Whether a writer's session opened before version `cond` has no outcome yet.
    fn waits(&self, draft: &Catalog, cond: u8) -> bool {
        let old = |session: usize| {
            let writes = self.protocol.kind(session) != Kind::Read;
            writes && self.lists.sessions[session] <= cond && self.is_open(draft, session)
        };
        self.protocol.keeps(Rule::VerdictWaitsForSessions) && (1..self.protocol.sessions).any(old)
    }

    /// What may refer to a pack condemned in version `cond`.
    fn roots(&self, draft: &Catalog, cond: u8) -> Set {
        let mut listed = draft.snaps;
        if self.protocol.keeps(Rule::ForgottenAreRoots) {
            listed = listed.and(Set::of((0..SESSIONS).filter(|&snap| draft.dying[snap] > cond)));
        }
        if self.protocol.setup.verdict == Verdict::Incremental {
            listed = Set::of(listed.iter().filter(|&snap| draft.folded_at[snap] > cond));
        }
        listed.and(self.protocol.unfolded(draft, self.lists)).and(self.pinned(draft))
    }

    /// Snapshots that open readers pin, wherever they are.
    fn pins(&self, draft: &Catalog) -> Set {
        let readers = (1..self.protocol.sessions).filter(|&session| {
            self.protocol.kind(session) == Kind::Read && self.is_open(draft, session)
        });
        let pins = readers
            .filter_map(|session| self.protocol.owner(session))
            .map(|(agent, _)| usize::from(self.state.agents[agent].pin));
        Set::of(pins)
    }

    /// Those of them that the catalog still describes.
    fn pinned(&self, draft: &Catalog) -> Set {
        let dying = Set::of((0..SESSIONS).filter(|&snap| draft.dying[snap] != 0));
        if self.protocol.keeps(Rule::PinsAreRoots) {
            self.pins(draft).shared(draft.snaps.and(dying))
        } else {
            Set::EMPTY
        }
    }

    /// The rescue is always allowed: a pack of several chunks is rescued for any of them.
    fn verdict(&self, draft: &Catalog, pack: usize, edits: &mut Edits) {
        let cond = draft.cond[pack];
        if cond == 0 {
            return;
        }
        let mut next = *draft;
        next.cond[pack] = 0;
        edits.push((Action::VerdictRescue, pack, next));
        let published = cond <= self.base.version;
        let needed = self.is_needed(draft, self.roots(draft, cond), pack);
        if published && !needed && !self.waits(draft, cond) {
            next.dead = next.dead.with(pack);
            next.indexed = next.indexed.without(pack);
            edits.push((Action::VerdictDead, pack, next));
        }
    }

    fn drop_dead(&self, draft: &Catalog, pack: usize, edits: &mut Edits) {
        let named = self.state.named(draft.segments).has(pack);
        let kept = named && self.protocol.keeps(Rule::DeadOutliveSegments);
        if self.protocol.setup.segments && draft.dead.has(pack) && !kept {
            let dead = draft.dead.without(pack);
            edits.push((Action::DropDead, pack, Catalog { dead, ..*draft }));
        }
    }

    fn mark_bad(&self, draft: &Catalog, pack: usize, edits: &mut Edits) {
        if self.state.damaged.has(pack) && draft.indexed.has(pack) && !draft.bad.has(pack) {
            let mut next = Catalog { bad: draft.bad.with(pack), ..*draft };
            if self.protocol.keeps(Rule::BadTakesBack) {
                next.cond = [0; PACKS];
            }
            edits.push((Action::MarkBad, pack, next));
        }
    }
}

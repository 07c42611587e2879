//! A maintainer's pass: list, read the catalog, list again, decide; then one request.

use super::edits;
use super::explore::Steps;
use super::protocol::{Protocol, small};
use super::set::Set;
use super::setup::{Rule, Transitions};
use super::state::{
    At, Catalog, Lists, Maintainer, PACKS, Register, Repacked, Request, SESSIONS, State,
};
use super::step::{Action, Actor};
use super::writer::page;

/// One maintainer at one moment.
struct Here<'a> {
    protocol: &'a Protocol,
    state: &'a State,
    number: usize,
}

impl Here<'_> {
    fn me(&self) -> &Maintainer {
        &self.state.maintainers[self.number]
    }

    /// The catalog this pass is about.
    fn view(&self) -> &Catalog {
        if keeps_views(self.protocol) { &self.me().view } else { &self.state.catalog }
    }

    fn is_newest(&self) -> bool {
        self.view().version == self.state.catalog.version
    }

    fn push(&self, action: Action, target: usize, next: State, steps: &mut Steps) {
        steps.push(Actor::Maintainer(self.number), action, target, next);
    }

    /// Appends the step after which the pass is over and `request` is on its way.
    fn send(&self, action: Action, target: usize, request: Request, steps: &mut Steps) {
        let mut next = *self.state;
        next.maintainers[self.number] = self.rest(At::Sending(request));
        self.push(action, target, next, steps);
    }

    /// This maintainer with nothing left of its pass.
    fn rest(&self, at: At) -> Maintainer {
        let Maintainer { repack, marked, .. } = *self.me();
        Maintainer { at, repack, marked, ..Maintainer::default() }
    }
}

/// Whether maintainers go on with a catalog that is not the newest any more. In the right protocol
/// nothing they could then do has an effect, so they start over at once; this keeps runs small.
fn keeps_views(protocol: &Protocol) -> bool {
    protocol.setup.trimming || protocol.breaks(Rule::OrphansOnNewest)
}

/// Appends what maintainer `number` can do next.
pub(super) fn steps(protocol: &Protocol, state: &State, number: usize, steps: &mut Steps) {
    let here = Here { protocol, state, number };
    match here.me().at {
        At::Start => {
            list_packs(&here, steps);
            mark(&here, steps);
        }
        At::PacksListed if keeps_views(protocol) => read_catalog(&here, steps),
        At::PacksListed | At::CatalogRead => list_sessions(&here, steps),
        At::SessionsListed => list_commits(&here, steps),
        At::CommitsListed => decide(&here, steps),
        At::Won => reread_newest(&here, steps),
        At::Sending(request) => deliver(&here, request, steps),
    }
}

fn list_packs(here: &Here, steps: &mut Steps) {
    let mut next = *here.state;
    let catalog = &here.state.catalog;
    let of_sessions = here.state.packs.shared(Set::first(SESSIONS));
    let me = &mut next.maintainers[here.number];
    me.packs = of_sessions.minus(catalog.indexed).minus(catalog.dead);
    me.segments = here.state.segments.minus(catalog.segments);
    me.at = At::PacksListed;
    here.push(Action::ListPacks, 0, next, steps);
}

/// In the right protocol marking is part of deciding to condemn. Apart from it, it gets old.
fn mark(here: &Here, steps: &mut Steps) {
    if here.protocol.breaks(Rule::MarkedOnThisCatalog) {
        let mut next = *here.state;
        next.maintainers[here.number].marked = here.state.catalog.condemned();
        here.push(Action::Mark, usize::from(here.state.catalog.version), next, steps);
    }
}

/// Lists one page of session records or registers, whichever `sessions` says.
fn list(here: &Here, sessions: bool, then: At, steps: &mut Steps) {
    let setup = &here.protocol.setup;
    let (part, cursor) = page(here.me().cursor, here.protocol.sessions, setup.paged_lists);
    let mut next = *here.state;
    let me = &mut next.maintainers[here.number];
    for session in part.iter() {
        if sessions {
            me.lists.sessions[session] = here.state.now.sessions[session];
        } else {
            me.lists.registers[session] = here.state.now.registers[session];
        }
    }
    me.cursor = cursor;
    if cursor == 0 {
        me.at = then;
    }
    let action = if sessions { Action::ListSessions } else { Action::ListCommits };
    here.push(action, usize::from(here.state.catalog.version), next, steps);
}

/// A step of its own only where the catalog can be outdated afterwards; elsewhere the pass would
/// start over, so that reading it with the first list comes to the same.
fn read_catalog(here: &Here, steps: &mut Steps) {
    let mut next = *here.state;
    let me = &mut next.maintainers[here.number];
    me.view = here.state.catalog;
    me.at = At::CatalogRead;
    here.push(Action::ReadCatalog, usize::from(here.state.catalog.version), next, steps);
}

fn list_sessions(here: &Here, steps: &mut Steps) {
    let sessions = here.protocol.breaks(Rule::MaintainersListCommitsFirst);
    list(here, sessions, At::SessionsListed, steps);
}

fn list_commits(here: &Here, steps: &mut Steps) {
    let sessions = here.protocol.keeps(Rule::MaintainersListCommitsFirst);
    list(here, sessions, At::CommitsListed, steps);
}

fn decide(here: &Here, steps: &mut Steps) {
    sweep_dead(here, here.view(), steps);
    clean(here, steps);
    if here.is_newest() || here.protocol.breaks(Rule::OrphansOnNewest) {
        sweep_orphans(here, steps);
    }
    if here.is_newest() {
        repack(here, steps);
    } else {
        let mut next = *here.state;
        next.maintainers[here.number] = here.rest(At::Start);
        here.push(Action::StartOver, 0, next, steps);
    }
    if here.view().version < here.protocol.setup.versions {
        versions(here, steps);
    }
}

/// Any version of the chain will do: the dead stay dead.
fn sweep_dead(here: &Here, catalog: &Catalog, steps: &mut Steps) {
    for pack in catalog.dead.shared(here.state.packs).iter() {
        here.send(Action::SweepDead, pack, Request::DeletePack(small(pack)), steps);
    }
}

fn sweep_orphans(here: &Here, steps: &mut Steps) {
    let (state, me, catalog) = (here.state, here.me(), here.view());
    let unfolded = here.protocol.unfolded(catalog, &me.lists);
    let unfolded_packs = here.protocol.packs(unfolded);
    let over = |session: usize| catalog.folded.has(session) || me.lists.sessions[session] == 0;
    let ended = |session: &usize| {
        let part = session + 1;
        let has_part = part < here.protocol.sessions && here.protocol.is_part(part);
        let parts_over = !has_part || here.protocol.breaks(Rule::PartsProtectPacks) || over(part);
        here.protocol.breaks(Rule::OrphanHasNoSession)
            || (over(*session) && parts_over && !unfolded_packs.has(*session))
    };
    let late = here.protocol.breaks(Rule::PacksListedFirst);
    let packs = if late { state.packs.shared(Set::first(SESSIONS)) } else { me.packs };
    let orphans = packs.shared(state.packs).minus(catalog.indexed).minus(catalog.dead);
    for pack in orphans.iter().filter(ended) {
        here.send(Action::SweepOrphan, pack, Request::DeletePack(small(pack)), steps);
    }
    let segments = if late { state.segments } else { me.segments };
    let orphans = segments.shared(state.segments).minus(catalog.segments);
    for segment in orphans.iter().filter(ended) {
        here.send(Action::SweepSegment, segment, Request::DeleteSegment(small(segment)), steps);
    }
}

/// Fences open sessions and cleans the records of ended ones.
fn clean(here: &Here, steps: &mut Steps) {
    let (me, catalog) = (here.me(), here.view());
    let in_order = here.protocol.keeps(Rule::SessionCleanedFirst);
    for session in 1..here.protocol.sessions {
        let number = small(session);
        let open = me.lists.sessions[session] != 0;
        let written = me.lists.registers[session] != Register::Absent;
        let folded = catalog.folded.has(session);
        if folded && open && (in_order || !written) {
            here.send(Action::CleanSession, session, Request::DeleteSession(number), steps);
        }
        if folded && written && (!in_order || !open) {
            here.send(Action::CleanCommit, session, Request::DeleteCommit(number), steps);
        }
        if !folded && written && !open {
            here.send(Action::CleanStray, session, Request::DeleteCommit(number), steps);
        }
        if !folded && open && !written {
            here.send(Action::Fence, session, Request::Fence(number), steps);
        }
    }
}

/// Copies what listed packs hold into a pack of the maintainer's own, once a run. Here the copy
/// needs no session, because nobody takes this pack for an orphan; [`Kind::Repack`] is the real one.
fn repack(here: &Here, steps: &mut Steps) {
    let (state, pack) = (here.state, SESSIONS + here.number);
    let readable = state.held(state.catalog.indexed.shared(state.packs));
    if here.me().repack != Repacked::No || here.protocol.setup.segments {
        return;
    }
    for copied in readable.subsets().skip(1) {
        let mut next = *state;
        next.packs = next.packs.with(pack);
        next.holds[pack] = copied;
        next.maintainers[here.number] = here.rest(At::Start);
        next.maintainers[here.number].repack = Repacked::Stored;
        here.push(Action::Repack, pack, next, steps);
    }
}

/// Every catalog version this maintainer can create now.
fn versions(here: &Here, steps: &mut Steps) {
    let base = *here.view();
    let edit = edits::Edit {
        protocol: here.protocol,
        state: here.state,
        base: &base,
        lists: &here.me().lists,
        marked: here.me().marked,
        repacked: (here.me().repack == Repacked::Stored).then_some(SESSIONS + here.number),
    };
    let first = Catalog { version: base.version + 1, ..base };
    match here.protocol.setup.transitions {
        Transitions::Single => {
            for (action, target, catalog) in edit.all(&first) {
                create(here, action, target, catalog, steps);
            }
        }
        Transitions::Combined => {
            for catalog in edit.closure(first, steps.off()) {
                create(here, Action::Publish, usize::from(catalog.version), catalog, steps);
            }
        }
    }
}

/// Creates the next catalog number: the newest version, or a number that was trimmed, or, if
/// another was faster, nothing.
fn create(here: &Here, action: Action, target: usize, catalog: Catalog, steps: &mut Steps) {
    if here.is_newest() {
        let next = published(here.protocol, here.state, Some(here.number), catalog);
        here.push(action, target, next, steps);
    } else if here.protocol.setup.trimming {
        let mut next = *here.state;
        let view =
            if here.protocol.breaks(Rule::WinVerified) { catalog } else { Catalog::default() };
        next.maintainers[here.number] = Maintainer { view, ..here.rest(At::Won) };
        here.push(Action::WinOldNumber, usize::from(catalog.version), next, steps);
    }
}

/// The newest catalog is not the one that was created: start over.
fn reread_newest(here: &Here, steps: &mut Steps) {
    if here.protocol.breaks(Rule::WinVerified) {
        sweep_dead(here, here.view(), steps);
    }
    let mut next = *here.state;
    next.maintainers[here.number] = here.rest(At::Start);
    here.push(Action::StartOver, 0, next, steps);
}

/// `state` with `catalog` as the newest version, created by maintainer `by` or by an agent.
pub(super) fn published(
    protocol: &Protocol,
    state: &State,
    by: Option<usize>,
    mut catalog: Catalog,
) -> State {
    if protocol.setup.segments {
        catalog.indexed = state.named(catalog.segments).minus(catalog.dead);
    }
    let old = &state.catalog;
    let folded = catalog.folded.minus(old.folded).iter();
    let commits = folded.filter(|&session| {
        state.now.registers[session] == Register::Commit && protocol.saves(session)
    });
    let were = old.snaps.and(Set::of(commits));
    let mut next = State { catalog, ..*state };
    next.forgotten = next.forgotten.and(were.minus(catalog.snaps));
    next.cached = next.cached.and(catalog.indexed);
    if catalog.bad != old.bad {
        let sound = state.held(old.indexed.shared(state.packs).minus(state.damaged));
        let whole = catalog.snaps.iter().filter(|&snap| state.needs[snap].within(sound));
        next.guarded = Set::of(whole);
    }
    for number in 0..protocol.setup.maintainers {
        let here = Here { protocol, state, number };
        let me = &mut next.maintainers[number];
        if by == Some(number) {
            let same_lists = protocol.breaks(Rule::VerdictListsAgain);
            *me = if same_lists { *here.me() } else { here.rest(At::Start) };
        } else if !matches!(here.me().at, At::Sending(_) | At::Won)
            && !keeps_views(protocol)
            && protocol.keeps(Rule::ListsAfterCatalog)
        {
            *me = here.rest(At::Start);
        }
        let mine = SESSIONS + number;
        if mine < PACKS && catalog.indexed.and(catalog.dead).has(mine) {
            me.repack = Repacked::Published;
        }
    }
    next
}

fn deliver(here: &Here, request: Request, steps: &mut Steps) {
    let mut next = *here.state;
    next.maintainers[here.number] = here.rest(At::Start);
    let Lists { sessions, registers } = &mut next.now;
    let target = match request {
        Request::DeletePack(pack) => {
            next.packs = next.packs.without(usize::from(pack));
            pack
        }
        Request::DeleteSegment(segment) => {
            next.segments = next.segments.without(usize::from(segment));
            segment
        }
        Request::DeleteSession(session) => {
            sessions[usize::from(session)] = 0;
            session
        }
        Request::DeleteCommit(session) => {
            registers[usize::from(session)] = Register::Absent;
            session
        }
        Request::Fence(session) => {
            let register = &mut registers[usize::from(session)];
            if *register == Register::Absent {
                *register = Register::Fence;
            }
            session
        }
    };
    here.push(Action::Delete, usize::from(target), next, steps);
}

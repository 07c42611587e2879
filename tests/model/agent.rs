//! Sessions as agents run them: open, read the catalog, upload, commit, confirm.

use super::explore::Steps;
use super::protocol::{Protocol, small};
use super::set::Set;
use super::setup::{Kind, Rule};
use super::state::{Agent, Phase, Register, State};
use super::step::{Action, Actor};
use super::{checks, writer};

/// One agent at one moment.
pub(super) struct At<'a> {
    pub(super) protocol: &'a Protocol,
    pub(super) state: &'a State,
    pub(super) number: usize,
    pub(super) session: usize,
    pub(super) kind: Kind,
}

impl At<'_> {
    pub(super) fn agent(&self) -> &Agent {
        &self.state.agents[self.number]
    }

    /// C3: whether a commit counts.
    pub(super) fn counts(&self, session: usize) -> bool {
        let catalog = &self.state.catalog;
        let loose = self.protocol.breaks(Rule::FoldedMayBeFenced);
        self.state.now.sessions[session] != 0
            || catalog.snaps.has(session)
            || (loose && catalog.folded.has(session))
    }

    /// Appends the step to `next`, in which the agent is in `phase`.
    pub(super) fn go(&self, action: Action, phase: Phase, mut next: State, steps: &mut Steps) {
        next.agents[self.number].phase = phase;
        steps.push(Actor::Agent(self.number), action, self.session, next);
    }

    /// Appends the step to `next`, in which the session is over. `carried` goes to the next one.
    pub(super) fn end(&self, action: Action, carried: Set, mut next: State, steps: &mut Steps) {
        let (kind, sessions) = self.protocol.setup.agents[self.number];
        let sessions = if kind == Kind::Parted { 1 } else { sessions };
        let position = usize::from(self.agent().position) + 1;
        if position < sessions {
            next.agents[self.number] =
                Agent { position: small(position), carried, ..Agent::default() };
            self.go(action, Phase::Start, next, steps);
        } else {
            next.agents[self.number] =
                Agent { position: self.agent().position, ..Agent::default() };
            self.go(action, Phase::Done, next, steps);
        }
    }
}

/// Appends what agent `number` can do next, and what the network can do with its commits.
pub(super) fn steps(protocol: &Protocol, state: &State, number: usize, steps: &mut Steps) {
    let session = protocol.session(state, number);
    let kind = protocol.setup.agents[number].0;
    let at = At { protocol, state, number, session, kind };
    match at.agent().phase {
        Phase::Start => read_head(&at, steps),
        Phase::HeadRead => open_session(&at, steps),
        Phase::Opened => read_catalog(&at, steps),
        Phase::CatalogRead => writer::after_catalog(&at, steps),
        Phase::CommitsListed => writer::second_list(&at, steps),
        Phase::Ready => writer::choose(&at, steps),
        Phase::Chosen => put_pack(&at, steps),
        Phase::Stored => put_segment(&at, steps),
        Phase::Indexed if kind == Kind::Merge => checks::read_catalog_again(&at, steps),
        Phase::Indexed if kind == Kind::Parted => checks::open_part(&at, steps),
        Phase::Indexed | Phase::Checkpointed => commit(&at, steps),
        Phase::PartOpened => checks::check_register(&at, steps),
        Phase::RegisterEmpty => checks::check_session(&at, steps),
        Phase::SessionSeen if kind == Kind::Merge => checks::publish_merge(&at, steps),
        Phase::SessionSeen => checks::commit_part(&at, steps),
        Phase::PartCommitted => checks::confirm_part(&at, steps),
        Phase::Committed => confirm(&at, steps),
        Phase::Reading => unpin(&at, steps),
        Phase::Done => {}
    }
    late_commits(&at, steps);
}

fn read_head(at: &At, steps: &mut Steps) {
    let mut next = *at.state;
    next.agents[at.number].base = at.state.catalog.version;
    match at.kind {
        Kind::Read => {
            for pin in at.state.catalog.snaps.iter() {
                next.agents[at.number].pin = small(pin);
                at.go(Action::ReadHead, Phase::HeadRead, next, steps);
            }
        }
        Kind::Backup | Kind::Parted => {
            next.agents[at.number].allowed = writer::allowed_early(at);
            at.go(Action::ReadHead, Phase::HeadRead, next, steps);
        }
        Kind::Repack | Kind::Merge => at.go(Action::ReadHead, Phase::HeadRead, next, steps),
    }
}

fn open_session(at: &At, steps: &mut Steps) {
    let mut next = *at.state;
    next.now.sessions[at.session] = 1 + at.agent().base;
    if at.kind != Kind::Parted {
        next.agents[at.number].base = 0;
    }
    let phase = match at.kind {
        Kind::Backup if at.protocol.breaks(Rule::CatalogReadAfterSession) => Phase::Ready,
        Kind::Read if at.protocol.breaks(Rule::PinCheckedAfterSession) => Phase::Reading,
        _ => Phase::Opened,
    };
    at.go(Action::OpenSession, phase, next, steps);
}

fn read_catalog(at: &At, steps: &mut Steps) {
    let catalog = &at.state.catalog;
    let mut next = *at.state;
    match at.kind {
        Kind::Backup | Kind::Parted => writer::read_catalog(at, steps),
        Kind::Repack => at.go(Action::ReadCatalog, Phase::Ready, next, steps),
        Kind::Merge => {
            next.replaces[at.session] = catalog.segments;
            next.names[at.session] = at.state.named(catalog.segments).minus(catalog.dead);
            at.go(Action::ReadCatalog, Phase::Stored, next, steps);
        }
        Kind::Read if catalog.snaps.has(usize::from(at.agent().pin)) => {
            at.go(Action::ReadCatalog, Phase::Reading, next, steps);
        }
        Kind::Read => at.go(Action::ReadCatalog, Phase::Done, next, steps),
    }
}

fn put_pack(at: &At, steps: &mut Steps) {
    let mut next = *at.state;
    next.packs = next.packs.with(at.session);
    at.go(Action::PutPack, after_pack(at), next, steps);
}

/// Where an agent goes on when its pack is stored or none is needed. The segment is a step of its
/// own only where segments are objects; elsewhere the pack stands for both.
pub(super) fn after_pack(at: &At) -> Phase {
    if at.protocol.setup.segments { Phase::Stored } else { Phase::Indexed }
}

fn put_segment(at: &At, steps: &mut Steps) {
    let mut next = *at.state;
    if at.kind != Kind::Merge && next.holds[at.session].is_empty() {
        at.go(Action::PutSegment, Phase::Indexed, next, steps);
        return;
    }
    if at.kind != Kind::Merge {
        next.names[at.session] = Set::one(at.session);
    }
    next.segments = next.segments.with(at.session);
    at.go(Action::PutSegment, Phase::Indexed, next, steps);
}

fn commit(at: &At, steps: &mut Steps) {
    let mut next = *at.state;
    let taken = at.state.now.registers[at.session] != Register::Absent;
    if taken && at.protocol.keeps(Rule::RegisterWrittenOnce) {
        next.needs[at.session] = Set::EMPTY;
        at.end(Action::Commit, Set::EMPTY, next, steps);
        return;
    }
    next.now.registers[at.session] = Register::Commit;
    next.repeatable = next.repeatable.with(at.session);
    if at.protocol.saves(at.session) {
        at.go(Action::Commit, Phase::Committed, next, steps);
    } else {
        at.end(Action::Commit, Set::EMPTY, next, steps);
    }
}

fn confirm(at: &At, steps: &mut Steps) {
    let mut next = *at.state;
    let counts = at.counts(at.session);
    let mut carried = Set::EMPTY;
    if counts {
        next.reported = next.reported.with(at.session);
        carried = at.state.needs[at.session];
    }
    at.end(Action::Confirm, carried, next, steps);
}

/// A reader takes its record away; who may not delete writes its register instead.
fn unpin(at: &At, steps: &mut Steps) {
    let mut next = *at.state;
    next.now.sessions[at.session] = 0;
    at.go(Action::Unpin, Phase::Done, next, steps);
    let mut next = *at.state;
    if next.now.registers[at.session] == Register::Absent {
        next.now.registers[at.session] = Register::Commit;
    }
    at.go(Action::Unpin, Phase::Done, next, steps);
}

/// A commit request the agent knows nothing more about is applied a second time. Where the
/// register still is, it is refused; where it was cleaned, it creates the register anew.
fn late_commits(at: &At, steps: &mut Steps) {
    for session in at.state.repeatable.iter() {
        let owner = at.protocol.owner(session).map(|(agent, _)| agent);
        if owner == Some(at.number) && at.state.now.registers[session] == Register::Absent {
            let mut next = *at.state;
            next.repeatable = next.repeatable.without(session);
            next.now.registers[session] = Register::Commit;
            if at.protocol.breaks(Rule::LateSessionsDie) {
                next.now.sessions[session] = 1 + 1;
            }
            steps.push(Actor::World, Action::LateCommit, session, next);
        }
    }
}

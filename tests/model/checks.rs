//! Agents that must know a session of theirs to be open still: before a part is committed, and
//! before a merge is published.

use super::agent::At;
use super::explore::Steps;
use super::maintainer;
use super::set::Set;
use super::setup::{Kind, Rule};
use super::state::{Phase, Register};
use super::step::Action;

/// Opens the part, with the main session's base.
pub(super) fn open_part(at: &At, steps: &mut Steps) {
    if at.protocol.breaks(Rule::PartBeforeMainSeen) {
        check_register(at, steps);
        return;
    }
    let mut next = *at.state;
    next.now.sessions[at.session + 1] = 1 + at.agent().base;
    at.go(Action::OpenPart, Phase::PartOpened, next, steps);
}

/// An empty register: nobody ended the session, or it was ended and cleaned since.
pub(super) fn check_register(at: &At, steps: &mut Steps) {
    let next = *at.state;
    if at.state.now.registers[at.session] != Register::Absent {
        at.end(Action::CheckRegister, Set::EMPTY, next, steps);
        return;
    }
    let skips = at.protocol.breaks(Rule::MainRecordSeen);
    let phase = if skips { Phase::SessionSeen } else { Phase::RegisterEmpty };
    at.go(Action::CheckRegister, phase, next, steps);
}

/// The record is cleaned before the register: if it is there, the register was never written.
pub(super) fn check_session(at: &At, steps: &mut Steps) {
    let next = *at.state;
    if at.state.now.sessions[at.session] == 0 {
        at.end(Action::CheckSession, Set::EMPTY, next, steps);
    } else {
        at.go(Action::CheckSession, Phase::SessionSeen, next, steps);
    }
}

/// Commits the checkpoint: what the main session stored and refers to so far.
pub(super) fn commit_part(at: &At, steps: &mut Steps) {
    let mut next = *at.state;
    let part = at.session + 1;
    if at.protocol.breaks(Rule::PartBeforeMainSeen) && next.now.sessions[part] == 0 {
        next.now.sessions[part] = 1 + at.agent().base;
        at.go(Action::OpenPart, Phase::SessionSeen, next, steps);
        return;
    }
    if next.now.registers[part] != Register::Absent {
        at.end(Action::Commit, Set::EMPTY, next, steps);
        return;
    }
    next.needs[part] = next.needs[at.session];
    next.now.registers[part] = Register::Commit;
    next.repeatable = next.repeatable.with(part);
    at.go(Action::Commit, Phase::PartCommitted, next, steps);
}

pub(super) fn confirm_part(at: &At, steps: &mut Steps) {
    let mut next = *at.state;
    if at.counts(at.session + 1) {
        next.reported = next.reported.with(at.session + 1);
        at.go(Action::Confirm, Phase::Checkpointed, next, steps);
    } else {
        at.end(Action::Confirm, Set::EMPTY, next, steps);
    }
}

/// The catalog that a merge is to follow. Its inputs must still be listed.
pub(super) fn read_catalog_again(at: &At, steps: &mut Steps) {
    debug_assert_eq!(at.kind, Kind::Merge);
    let mut next = *at.state;
    let catalog = &at.state.catalog;
    let listed = at.state.replaces[at.session].within(catalog.segments);
    if !listed && at.protocol.keeps(Rule::MergeInputsListed) {
        at.end(Action::ReadCatalog, Set::EMPTY, next, steps);
        return;
    }
    next.agents[at.number].base = catalog.version;
    let skips = at.protocol.breaks(Rule::MergeSessionOpen);
    let phase = if skips { Phase::SessionSeen } else { Phase::PartOpened };
    at.go(Action::ReadCatalog, phase, next, steps);
}

/// Creates the next catalog number, if nobody else did.
pub(super) fn publish_merge(at: &At, steps: &mut Steps) {
    let mut next = *at.state;
    let mut catalog = at.state.catalog;
    if catalog.version != at.agent().base {
        next.agents[at.number].base = 0;
        at.go(Action::StartOver, Phase::Indexed, next, steps);
    } else if catalog.version < at.protocol.setup.versions {
        let replaced = at.state.replaces[at.session];
        catalog.version += 1;
        catalog.segments = catalog.segments.minus(replaced).with(at.session);
        next = maintainer::published(at.protocol, at.state, None, catalog);
        at.end(Action::PublishMerge, Set::EMPTY, next, steps);
    }
}

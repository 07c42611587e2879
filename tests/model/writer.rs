//! What a writer may refer to: how it finds out, and what it chooses.

use super::agent::{At, after_pack};
use super::explore::Steps;
use super::set::Set;
use super::setup::{Kind, Rule};
use super::state::{Phase, Register};
use super::step::Action;

/// Chunks a session may refer to going by the newest catalog: what is in usable packs, and what a
/// listed snapshot refers to.
fn allowed(at: &At) -> Set {
    let catalog = &at.state.catalog;
    let usable = at.protocol.usable(at.state, catalog);
    at.state.held(usable).and(at.state.needed(catalog.snaps))
}

/// What the writer holds allowed before it opens its session: nothing, in the right protocol.
pub(super) fn allowed_early(at: &At) -> Set {
    if at.protocol.breaks(Rule::CatalogReadAfterSession) {
        return allowed(at);
    }
    let checkpoint = at.session - 1;
    let early = at.protocol.breaks(Rule::CheckpointAfterSession);
    if early && !at.agent().carried.is_empty() && is_root(at, at.state.catalog.folded, checkpoint) {
        return at.agent().carried;
    }
    Set::EMPTY
}

/// Whether the checkpoint is listed, or committed and not folded. `folded` is from a catalog read
/// earlier; the session record is asked for now.
fn is_root(at: &At, folded: Set, checkpoint: usize) -> bool {
    let seen =
        at.state.now.sessions[checkpoint] != 0 || at.protocol.breaks(Rule::CheckpointSeenOpen);
    at.state.catalog.snaps.has(checkpoint) || (!folded.has(checkpoint) && seen)
}

pub(super) fn read_catalog(at: &At, steps: &mut Steps) {
    let mut next = *at.state;
    let catalog = &at.state.catalog;
    let agent = &mut next.agents[at.number];
    agent.allowed = agent.allowed.and(allowed(at));
    let mut phase = Phase::Ready;
    if at.protocol.setup.uses_unfolded {
        agent.snaps_seen = catalog.snaps;
        agent.folded_seen = catalog.folded;
        agent.carried = Set::EMPTY;
        phase = Phase::CatalogRead;
    } else if !agent.carried.within(agent.allowed) {
        agent.folded_seen = catalog.folded.shared(Set::one(at.session - 1));
        phase = Phase::CatalogRead;
    } else {
        agent.carried = Set::EMPTY;
    }
    at.go(Action::ReadCatalog, phase, next, steps);
}

/// The catalog is read: lists what is not in it, or looks for the checkpoint that is not in it.
pub(super) fn after_catalog(at: &At, steps: &mut Steps) {
    if at.protocol.setup.uses_unfolded {
        first_list(at, steps);
    } else {
        check_checkpoint(at, steps);
    }
}

/// One request: the session record of the own last checkpoint. The commit itself is known.
fn check_checkpoint(at: &At, steps: &mut Steps) {
    let mut next = *at.state;
    let agent = &mut next.agents[at.number];
    let checkpoint = at.session - 1;
    let seen =
        at.state.now.sessions[checkpoint] != 0 || at.protocol.breaks(Rule::CheckpointSeenOpen);
    let root = seen && !agent.folded_seen.has(checkpoint);
    if root || at.protocol.breaks(Rule::CheckpointIsRoot) {
        agent.allowed = agent.allowed.and(agent.carried);
    }
    agent.carried = Set::EMPTY;
    agent.folded_seen = Set::EMPTY;
    at.go(Action::CheckCheckpoint, Phase::Ready, next, steps);
}

/// The sessions of the page at `cursor`, and where the next page starts.
pub(super) fn page(at_cursor: u8, sessions: usize, paged: bool) -> (Set, u8) {
    let all = Set::first(sessions).without(0);
    let cursor = usize::from(at_cursor).max(1);
    if paged && cursor + 1 < sessions {
        (Set::one(cursor), at_cursor.max(1) + 1)
    } else if paged {
        (Set::one(cursor), 0)
    } else {
        (all, 0)
    }
}

fn listed(at: &At, commits: bool, part: Set) -> Set {
    let now = &at.state.now;
    let there = |&session: &usize| {
        if commits {
            now.registers[session] == Register::Commit
        } else {
            now.sessions[session] != 0
        }
    };
    Set::of(part.iter().filter(there))
}

fn first_list(at: &At, steps: &mut Steps) {
    let commits = at.protocol.keeps(Rule::CommitsListedFirst);
    let setup = &at.protocol.setup;
    let (part, cursor) = page(at.agent().cursor, at.protocol.sessions, setup.paged_lists);
    let mut next = *at.state;
    let agent = &mut next.agents[at.number];
    agent.first_list = agent.first_list.and(listed(at, commits, part));
    agent.cursor = cursor;
    let action = if commits { Action::ListCommits } else { Action::ListSessions };
    let phase = if cursor == 0 { Phase::CommitsListed } else { Phase::CatalogRead };
    at.go(action, phase, next, steps);
}

pub(super) fn second_list(at: &At, steps: &mut Steps) {
    let commits = at.protocol.breaks(Rule::CommitsListedFirst);
    let setup = &at.protocol.setup;
    let (part, cursor) = page(at.agent().cursor, at.protocol.sessions, setup.paged_lists);
    let mut next = *at.state;
    let agent = &mut next.agents[at.number];
    agent.second_list = agent.second_list.and(listed(at, commits, part));
    agent.cursor = cursor;
    let action = if commits { Action::ListCommits } else { Action::ListSessions };
    if cursor != 0 {
        at.go(action, Phase::CommitsListed, next, steps);
        return;
    }
    let both = if at.protocol.breaks(Rule::CommitNeedsSession) {
        agent.first_list
    } else {
        agent.first_list.shared(agent.second_list)
    };
    let unfolded = both.minus(agent.folded_seen).minus(agent.snaps_seen).without(at.session);
    let found = at.state.needed(unfolded).and(at.state.held(at.protocol.packs(unfolded)));
    agent.allowed = agent.allowed.and(found);
    (agent.snaps_seen, agent.folded_seen) = (Set::EMPTY, Set::EMPTY);
    (agent.first_list, agent.second_list) = (Set::EMPTY, Set::EMPTY);
    at.go(action, Phase::Ready, next, steps);
}

/// Chooses what the snapshot refers to, and which of that is uploaded. What is allowed may be
/// uploaded all the same: the index may be slow, or the writer may not have looked.
pub(super) fn choose(at: &At, steps: &mut Steps) {
    let chunks = Set::first(at.protocol.setup.chunks);
    if at.kind == Kind::Repack {
        let readable = at.state.held(at.state.catalog.indexed.shared(at.state.packs));
        for copied in readable.subsets().skip(1) {
            upload(at, Set::EMPTY, copied, steps);
        }
        return;
    }
    let chain = at.kind == Kind::Backup && at.protocol.setup.agents[at.number].1 > 1;
    for needs in chunks.subsets().filter(|needs| chain || !needs.is_empty()) {
        for kept in needs.shared(at.agent().allowed).subsets() {
            upload(at, needs, needs.minus(kept), steps);
        }
    }
}

fn upload(at: &At, needs: Set, uploads: Set, steps: &mut Steps) {
    let mut next = *at.state;
    next.needs[at.session] = needs;
    next.holds[at.session] = uploads;
    next.agents[at.number].allowed = Set::EMPTY;
    if uploads.is_empty() {
        at.go(Action::Reference, after_pack(at), next, steps);
    } else {
        at.go(Action::ChooseUpload, Phase::Chosen, next, steps);
    }
}

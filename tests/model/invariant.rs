//! The promises: what must hold in every state.

use super::protocol::Protocol;
use super::setup::Kind;
use super::state::{Phase, Register, State};

/// The promise `state` breaks, if it breaks one.
pub(super) fn broken(protocol: &Protocol, state: &State) -> Option<&'static str> {
    let catalog = &state.catalog;
    let unfolded = protocol.unfolded(catalog, &state.now);
    let snaps = catalog.snaps.and(unfolded);
    let present = catalog.indexed.and(protocol.packs(unfolded)).shared(state.packs);
    if !state.damaged.is_empty() {
        let sound = state.held(present.minus(state.damaged));
        let guarded = state.needed(state.guarded.shared(catalog.snaps));
        return (!guarded.within(sound)).then_some("the last sound copy of a chunk is gone");
    }
    if !state.needed(snaps).within(state.held(present)) {
        return Some("a snapshot refers to a chunk that no indexed pack has");
    }
    if !state.reported.within(snaps.and(state.forgotten)) {
        return Some("a snapshot reported saved is not in the repository");
    }
    if !catalog.segments.within(state.segments) {
        return Some("a listed segment is gone");
    }
    if protocol.setup.segments && !catalog.indexed.within(state.packs) {
        return Some("a pack that the index calls live is gone");
    }
    for (number, agent) in state.agents.iter().enumerate().take(protocol.setup.agents.len()) {
        let session = protocol.session(state, number);
        let pinned = protocol.setup.agents[number].0 == Kind::Read
            && agent.phase == Phase::Reading
            && state.now.sessions[session] != 0
            && state.now.registers[session] == Register::Absent;
        let needs = state.needs[usize::from(agent.pin)];
        if pinned && !needs.within(state.held(present)) {
            return Some("a pinned snapshot refers to a chunk that no indexed pack has");
        }
    }
    None
}

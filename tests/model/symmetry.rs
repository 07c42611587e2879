//! States that differ only in the numbering of like processes are one state.

use std::hash::{Hash, Hasher};

use super::protocol::{Protocol, small};
use super::set::Set;
use super::state::{AGENTS, Agent, At, Catalog, MAINTAINERS, PACKS, Request, SESSIONS, State};

/// A renumbering. Each array gives the new number of the old one.
pub(super) struct Renaming {
    agents: [usize; AGENTS],
    maintainers: [usize; MAINTAINERS],
    /// Packs; the first [`SESSIONS`] of them are also the sessions, snapshots and segments.
    packs: [usize; PACKS],
}

/// Every renumbering of `protocol`'s processes but the identity.
pub(super) fn renamings(protocol: &Protocol) -> Vec<Renaming> {
    let mut found = vec![Renaming::identity()];
    let agents = protocol.setup.agents;
    if !protocol.setup.paged_lists {
        for second in 1..agents.len() {
            for first in 0..second {
                if agents[first] == agents[second] {
                    let swapped: Vec<_> = found
                        .iter()
                        .map(|names| names.with_agents_swapped(protocol, first, second))
                        .collect();
                    found.extend(swapped);
                }
            }
        }
    }
    if protocol.setup.maintainers > 1 {
        let swapped: Vec<_> = found.iter().map(Renaming::with_maintainers_swapped).collect();
        found.extend(swapped);
    }
    found.split_off(1)
}

impl Renaming {
    fn identity() -> Self {
        Self {
            agents: std::array::from_fn(|number| number),
            maintainers: std::array::from_fn(|number| number),
            packs: std::array::from_fn(|number| number),
        }
    }

    fn with_agents_swapped(&self, protocol: &Protocol, first: usize, second: usize) -> Self {
        let mut swapped = Self { ..*self };
        swapped.agents.swap(first, second);
        for session in 1..protocol.sessions {
            let Some((owner, position)) = protocol.owner(session) else { continue };
            let twin = (1..protocol.sessions)
                .find(|&twin| protocol.owner(twin) == Some((second, position)));
            if let Some(twin) = twin
                && owner == first
            {
                swapped.packs.swap(session, twin);
            }
        }
        swapped
    }

    fn with_maintainers_swapped(&self) -> Self {
        let mut swapped = Self { ..*self };
        swapped.maintainers.swap(0, 1);
        swapped.packs.swap(SESSIONS, SESSIONS + 1);
        swapped
    }

    fn set(&self, set: Set) -> Set {
        set.renamed(&self.packs)
    }

    fn array<T: Copy, const N: usize>(&self, array: [T; N]) -> [T; N] {
        let mut renamed = array;
        for (old, &value) in array.iter().enumerate() {
            renamed[self.packs[old]] = value;
        }
        renamed
    }

    fn number(&self, number: u8) -> u8 {
        small(self.packs[usize::from(number)])
    }

    fn catalog(&self, catalog: &Catalog) -> Catalog {
        Catalog {
            version: catalog.version,
            snaps: self.set(catalog.snaps),
            indexed: self.set(catalog.indexed),
            segments: self.set(catalog.segments),
            dead: self.set(catalog.dead),
            bad: self.set(catalog.bad),
            folded: self.set(catalog.folded),
            dying: self.array(catalog.dying),
            cond: self.array(catalog.cond),
            folded_at: self.array(catalog.folded_at),
        }
    }

    fn agent(&self, agent: &Agent) -> Agent {
        Agent {
            snaps_seen: self.set(agent.snaps_seen),
            folded_seen: self.set(agent.folded_seen),
            first_list: self.set(agent.first_list),
            second_list: self.set(agent.second_list),
            pin: self.number(agent.pin),
            ..*agent
        }
    }

    fn at(&self, at: At) -> At {
        let At::Sending(request) = at else { return at };
        At::Sending(match request {
            Request::DeletePack(pack) => Request::DeletePack(self.number(pack)),
            Request::DeleteSegment(segment) => Request::DeleteSegment(self.number(segment)),
            Request::DeleteSession(session) => Request::DeleteSession(self.number(session)),
            Request::DeleteCommit(session) => Request::DeleteCommit(self.number(session)),
            Request::Fence(session) => Request::Fence(self.number(session)),
        })
    }

    /// `state` renumbered.
    pub(super) fn of(&self, state: &State) -> State {
        let mut renamed = State {
            catalog: self.catalog(&state.catalog),
            packs: self.set(state.packs),
            segments: self.set(state.segments),
            needs: self.array(state.needs),
            holds: self.array(state.holds),
            names: self.array(state.names.map(|names| self.set(names))),
            replaces: self.array(state.replaces.map(|replaced| self.set(replaced))),
            repeatable: self.set(state.repeatable),
            forgotten: self.set(state.forgotten),
            reported: self.set(state.reported),
            cached: self.set(state.cached),
            damaged: self.set(state.damaged),
            guarded: self.set(state.guarded),
            ..*state
        };
        renamed.now.sessions = self.array(state.now.sessions);
        renamed.now.registers = self.array(state.now.registers);
        for (old, agent) in state.agents.iter().enumerate() {
            renamed.agents[self.agents[old]] = self.agent(agent);
        }
        for (old, maintainer) in state.maintainers.iter().enumerate() {
            let copy = &mut renamed.maintainers[self.maintainers[old]];
            *copy = *maintainer;
            copy.at = self.at(maintainer.at);
            copy.packs = self.set(maintainer.packs);
            copy.segments = self.set(maintainer.segments);
            copy.lists.sessions = self.array(maintainer.lists.sessions);
            copy.lists.registers = self.array(maintainer.lists.registers);
            copy.marked = self.set(maintainer.marked);
            copy.view = self.catalog(&maintainer.view);
        }
        renamed
    }
}

/// 64 bits that stand for a state. Two different states share them with a chance of about
/// n² / 2^65 over a run of n states, which would hide, never invent, a violation.
pub(super) fn fingerprint(state: &State) -> u64 {
    let mut mix = Mix(0x243f_6a88_85a3_08d3);
    state.hash(&mut mix);
    mix.finish()
}

struct Mix(u64);

impl Mix {
    fn word(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * 0x9e37_79b9_7f4a_7c15;
        let (low, high) = (product & u128::from(u64::MAX), product >> 64);
        let folded = low ^ (high & u128::from(u64::MAX));
        self.0 = u64::try_from(folded).unwrap_or_default().wrapping_add(0xf39c_c060_5ced_c835);
    }
}

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let word = part.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
            self.word(word);
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.word(u64::from(byte));
    }

    fn write_isize(&mut self, number: isize) {
        self.word(number.cast_unsigned() as u64);
    }

    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

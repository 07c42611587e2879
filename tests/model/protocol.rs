//! The protocol as a set of steps over states: numbering, and what several processes ask.

use super::explore::Steps;
use super::set::Set;
use super::setup::{Kind, Rule, Setup};
use super::state::{Catalog, Lists, Register, SESSIONS, State};
use super::step::{Action, Actor};
use super::symmetry::{self, Renaming};
use super::{agent, maintainer};

/// A set-up with its numbering.
pub(super) struct Protocol {
    pub(super) setup: Setup,
    /// Sessions in this run, the old one included.
    pub(super) sessions: usize,
    /// Per session: its agent and its place among that agent's sessions. The old one has none.
    owners: [Option<(usize, usize)>; SESSIONS],
    renamings: Vec<Renaming>,
}

impl Protocol {
    pub(super) fn new(setup: Setup) -> Self {
        assert!(setup.fits(), "the model has no room for {setup:?}");
        let mut owners = [None; SESSIONS];
        let mut sessions = 1;
        for (agent, &(_, count)) in setup.agents.iter().enumerate() {
            for position in 0..count {
                owners[sessions] = Some((agent, position));
                sessions += 1;
            }
        }
        let mut protocol = Self { setup, sessions, owners, renamings: Vec::new() };
        protocol.renamings = symmetry::renamings(&protocol);
        protocol
    }

    /// One listed snapshot that refers to every chunk, all in one pack.
    pub(super) fn start(&self) -> State {
        let mut state = State::default();
        let first = Set::one(0);
        let chunks = Set::first(self.setup.chunks);
        state.catalog.version = 1;
        state.catalog.snaps = first;
        state.catalog.indexed = first;
        state.packs = first;
        state.cached = first;
        state.needs[0] = chunks;
        state.holds[0] = chunks;
        if self.setup.segments {
            state.catalog.segments = first;
            state.segments = first;
            state.names[0] = first;
        }
        state
    }

    /// Appends every step possible in `state`.
    pub(super) fn steps(&self, state: &State, steps: &mut Steps) {
        for number in 0..self.setup.agents.len() {
            agent::steps(self, state, number, steps);
        }
        for number in 0..self.setup.maintainers {
            maintainer::steps(self, state, number, steps);
        }
        if self.setup.damage && state.damaged.is_empty() {
            let next = State { damaged: Set::one(0), ..*state };
            steps.push(Actor::World, Action::Damage, 0, next);
        }
    }

    /// The same number for states that differ in the numbering of like processes only.
    pub(super) fn fingerprint(&self, state: &State) -> u64 {
        let plain = symmetry::fingerprint(state);
        let renamed = self.renamings.iter().map(|names| symmetry::fingerprint(&names.of(state)));
        renamed.fold(plain, u64::min)
    }

    pub(super) fn keeps(&self, rule: Rule) -> bool {
        self.setup.keeps(rule)
    }

    pub(super) fn breaks(&self, rule: Rule) -> bool {
        self.setup.breaks(rule)
    }

    /// The session an agent is in.
    pub(super) fn session(&self, state: &State, agent: usize) -> usize {
        let before: usize = self.setup.agents[..agent].iter().map(|(_, count)| count).sum();
        1 + before + usize::from(state.agents[agent].position)
    }

    pub(super) fn owner(&self, session: usize) -> Option<(usize, usize)> {
        self.owners[session]
    }

    /// The packs that commits of `sessions` index. What a part indexed, its main session does not.
    pub(super) fn packs(&self, sessions: Set) -> Set {
        let pack = |session: usize| match self.kind(session) {
            Kind::Parted => self.is_part(session).then(|| session - 1),
            _ => Some(session),
        };
        Set::of(sessions.iter().filter_map(pack))
    }

    pub(super) fn is_part(&self, session: usize) -> bool {
        let position = self.owners[session].map_or(0, |(_, position)| position);
        position > 0 && self.kind(session) == Kind::Parted
    }

    /// Whether the session's commit lists a snapshot.
    pub(super) fn saves(&self, session: usize) -> bool {
        matches!(self.kind(session), Kind::Backup | Kind::Parted)
    }

    pub(super) fn kind(&self, session: usize) -> Kind {
        self.owners[session].map_or(Kind::Backup, |(agent, _)| self.setup.agents[agent].0)
    }

    /// The checkpoints that a final commit supersedes; none for other commits.
    pub(super) fn superseded(&self, session: usize) -> Set {
        if self.kind(session) == Kind::Parted {
            return if self.is_part(session) { Set::EMPTY } else { Set::one(session + 1) };
        }
        match self.owners[session] {
            Some((agent, position)) if position + 1 == self.setup.agents[agent].1 => {
                Set::of(session - position..session)
            }
            _ => Set::EMPTY,
        }
    }

    /// Commits that count although `catalog` does not have them yet, going by `lists`.
    pub(super) fn unfolded(&self, catalog: &Catalog, lists: &Lists) -> Set {
        let loose = self.breaks(Rule::CommitNeedsSession);
        let counts = |&session: &usize| {
            lists.registers[session] == Register::Commit
                && (loose || lists.sessions[session] != 0)
                && !catalog.folded.has(session)
                && !catalog.snaps.has(session)
        };
        Set::of((1..self.sessions).filter(counts))
    }

    /// Packs a new session may take chunks from, by what `catalog` says.
    pub(super) fn usable(&self, state: &State, catalog: &Catalog) -> Set {
        let known = if self.breaks(Rule::PackNamedByListedSegment) {
            state.cached.minus(catalog.dead)
        } else {
            catalog.indexed
        };
        known.minus(catalog.condemned()).minus(catalog.bad)
    }
}

impl State {
    /// Chunks that any of `snaps` refers to.
    pub(super) fn needed(&self, snaps: Set) -> Set {
        snaps.iter().fold(Set::EMPTY, |chunks, snap| chunks.and(self.needs[snap]))
    }

    /// Chunks in any of `packs`.
    pub(super) fn held(&self, packs: Set) -> Set {
        packs.iter().fold(Set::EMPTY, |chunks, pack| chunks.and(self.holds[pack]))
    }

    /// Packs that any of `segments` names.
    pub(super) fn named(&self, segments: Set) -> Set {
        segments.iter().fold(Set::EMPTY, |packs, segment| packs.and(self.names[segment]))
    }
}

/// A number that fits the model's small fields.
pub(super) fn small(number: usize) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

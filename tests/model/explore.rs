//! Breadth-first search over all states, so that a violation comes with a shortest trace.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

use super::invariant;
use super::protocol::Protocol;
use super::setup::Setup;
use super::state::State;
use super::step::{Action, Actor, Step};

/// How a run ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Every state was seen; none breaks a promise.
    Exhausted,
    /// The state limit was reached first; none of the states seen breaks a promise.
    Stopped,
    /// A promise is broken.
    Violated {
        /// Which.
        promise: &'static str,
        /// The steps that lead there, one line each.
        trace: Vec<String>,
    },
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// Distinct states seen, up to the numbering of like processes.
    pub states: usize,
    /// Steps tried.
    pub steps: u64,
    /// Longest of the shortest ways from the start to a state.
    pub depth: usize,
    /// One bit per [`Action`] somebody took.
    taken: u64,
}

impl Report {
    /// Length of the counter-example; `None` if there is none.
    pub fn counter_example(&self) -> Option<usize> {
        match &self.outcome {
            Outcome::Violated { trace, .. } => Some(trace.len()),
            Outcome::Exhausted | Outcome::Stopped => None,
        }
    }

    /// Whether somebody took this action at least once.
    pub fn took(&self, action: Action) -> bool {
        self.taken & (1 << action as u64) != 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { states, steps, depth, .. } = self;
        match &self.outcome {
            Outcome::Exhausted => write!(out, "exhaustive: ")?,
            Outcome::Stopped => write!(out, "bounded: ")?,
            Outcome::Violated { promise, trace } => {
                writeln!(out, "{promise}, after {} steps:", trace.len())?;
                for line in trace {
                    writeln!(out, "  {line}")?;
                }
            }
        }
        write!(out, "{states} states, {steps} steps, depth {depth}")
    }
}

/// Collects the steps out of one state.
pub(super) struct Steps {
    found: Vec<(Step, State)>,
    off: &'static [Action],
}

impl Steps {
    pub(super) fn push(&mut self, actor: Actor, action: Action, target: usize, next: State) {
        if !self.off.contains(&action) {
            self.found.push((Step { actor, action, target }, next));
        }
    }

    pub(super) fn off(&self) -> &'static [Action] {
        self.off
    }
}

/// Fingerprints are mixed already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0 << 8 | u64::from(byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// How each state was first reached: from which state, by which of that state's steps.
#[derive(Default)]
struct Ways {
    from: Vec<u32>,
    choice: Vec<u16>,
}

impl Ways {
    fn add(&mut self, from: u32, choice: usize) -> u32 {
        self.from.push(from);
        self.choice.push(u16::try_from(choice).unwrap_or(u16::MAX));
        u32::try_from(self.from.len() - 1).unwrap_or(u32::MAX)
    }

    /// The choices from the start to `state`.
    fn to(&self, mut state: u32) -> Vec<usize> {
        let mut choices = Vec::new();
        while state != 0 {
            choices.push(usize::from(self.choice[state as usize]));
            state = self.from[state as usize];
        }
        choices.reverse();
        choices
    }
}

/// Explores `setup` until everything is seen, a promise is broken, or `limit` states are seen.
///
/// # Panics
///
/// If `setup` needs more agents, sessions or maintainers than the model has room for.
pub fn explore(setup: &Setup, limit: usize) -> Report {
    let protocol = Protocol::new(*setup);
    let mut seen: HashSet<u64, BuildHasherDefault<AsIs>> = HashSet::default();
    let mut ways = Ways::default();
    let start = protocol.start();
    seen.insert(protocol.fingerprint(&start));
    let mut level = vec![(ways.add(0, 0), start)];
    let mut steps = Steps { found: Vec::new(), off: setup.off };
    let mut report =
        Report { outcome: Outcome::Exhausted, states: 1, steps: 0, depth: 0, taken: 0 };
    while !level.is_empty() {
        let mut next_level = Vec::new();
        for (number, state) in &level {
            steps.found.clear();
            protocol.steps(state, &mut steps);
            report.steps += steps.found.len() as u64;
            for (choice, (step, next)) in steps.found.iter().enumerate() {
                report.taken |= step.bit();
                if !seen.insert(protocol.fingerprint(next)) {
                    continue;
                }
                report.states += 1;
                let way = ways.add(*number, choice);
                if let Some(promise) = invariant::broken(&protocol, next) {
                    let trace = trace(&protocol, &ways.to(way));
                    report.outcome = Outcome::Violated { promise, trace };
                    return report;
                }
                next_level.push((way, *next));
            }
            if report.states > limit {
                report.outcome = Outcome::Stopped;
                return report;
            }
        }
        level = next_level;
        report.depth += usize::from(!level.is_empty());
    }
    report
}

/// One line per step; a new catalog version is spelt out.
fn trace(protocol: &Protocol, choices: &[usize]) -> Vec<String> {
    let mut state = protocol.start();
    let mut lines = Vec::new();
    for &choice in choices {
        let mut steps = Steps { found: Vec::new(), off: protocol.setup.off };
        protocol.steps(&state, &mut steps);
        let (step, next) = &steps.found[choice];
        let line = if next.catalog == state.catalog {
            step.to_string()
        } else {
            format!("{step} -> {}", next.catalog)
        };
        lines.push(line);
        state = *next;
    }
    lines
}

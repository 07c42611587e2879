//! Whether the cache is being filled in the background, for who waits for what is missing.

use std::sync::{Condvar, Mutex, PoisonError};

use super::lock;

/// One filling; a later sync takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fill(u64);

/// The filling that goes on, if any.
#[derive(Debug, Default)]
pub(super) struct Filling {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Number of the filling that is or was the last.
    fill: u64,
    /// Steps of all fillings so far.
    steps: u64,
    is_going_on: bool,
}

impl Filling {
    pub(super) fn begin(&self) -> Fill {
        let mut state = lock(&self.state);
        state.fill += 1;
        state.is_going_on = true;
        Fill(state.fill)
    }

    pub(super) fn is_current(&self, fill: Fill) -> bool {
        let state = lock(&self.state);
        state.is_going_on && state.fill == fill.0
    }

    /// More was loaded.
    pub(super) fn step(&self) {
        lock(&self.state).steps += 1;
        self.changed.notify_all();
    }

    pub(super) fn end(&self) {
        lock(&self.state).is_going_on = false;
        self.changed.notify_all();
    }

    /// The steps so far; `None` if nothing more will come.
    pub(super) fn now(&self) -> Option<u64> {
        let state = lock(&self.state);
        state.is_going_on.then_some(state.steps)
    }

    /// Waits until there were more steps than these, or no more will come.
    pub(super) fn wait_beyond(&self, steps: u64) {
        let mut state = lock(&self.state);
        while state.is_going_on && state.steps == steps {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

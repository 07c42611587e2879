//! How many requests may be on their way: more while all goes well, half when the server asks to
//! slow down.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// A limit begins here, so that a server that bears little is not asked for much at once.
const START: f64 = 16.0;
/// Refusals that come together are one: they answer requests that were sent before it was known.
const ONE_REFUSAL: Duration = Duration::from_millis(500);

/// Additive increase, multiplicative decrease.
#[derive(Debug)]
pub(super) struct Limiter {
    state: Mutex<State>,
    freed: Notify,
    max: f64,
}

#[derive(Debug)]
struct State {
    in_flight: u32,
    limit: f64,
    halved: Option<Instant>,
}

/// The right to have one request on its way; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Permit<'a>(&'a Limiter);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.state().in_flight -= 1;
        self.0.freed.notify_waiters();
    }
}

impl Limiter {
    pub(super) fn new(max: u32) -> Self {
        let max = f64::from(max.max(1));
        let state = State { in_flight: 0, limit: START.min(max), halved: None };
        Self { state: Mutex::new(state), freed: Notify::new(), max }
    }

    pub(super) async fn acquire(&self) -> Permit<'_> {
        loop {
            // It hears of everything from here on, so nothing is missed while the state is looked at.
            let freed = self.freed.notified();
            if let Some(permit) = self.try_acquire() {
                return permit;
            }
            freed.await;
        }
    }

    fn try_acquire(&self) -> Option<Permit<'_>> {
        let mut state = self.state();
        if f64::from(state.in_flight) + 1.0 > state.limit {
            return None;
        }
        state.in_flight += 1;
        Some(Permit(self))
    }

    /// A request went well: one more is allowed after as many as are allowed now.
    pub(super) fn went_well(&self) {
        let mut state = self.state();
        state.limit = (state.limit + 1.0 / state.limit).min(self.max);
        drop(state);
        self.freed.notify_waiters();
    }

    /// The server asked to slow down.
    pub(super) fn slow_down(&self) {
        let mut state = self.state();
        if state.halved.is_none_or(|at| at.elapsed() >= ONE_REFUSAL) {
            state.limit = (state.limit / 2.0).max(1.0);
            state.halved = Some(Instant::now());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(limiter: &Limiter) -> usize {
        std::iter::from_fn(|| limiter.try_acquire()).collect::<Vec<_>>().len()
    }

    #[test]
    fn it_halves_once_for_refusals_that_come_together_and_recovers_by_success() {
        let limiter = Limiter::new(64);
        assert_eq!(room(&limiter), 16);
        for _ in 0..10 {
            limiter.slow_down();
        }
        assert_eq!(room(&limiter), 8);
        for _ in 0..9 {
            limiter.went_well();
        }
        assert_eq!(room(&limiter), 9);
        for _ in 0..10_000 {
            limiter.went_well();
        }
        assert_eq!(room(&limiter), 64, "no more than the maximum");
    }

    #[test]
    fn one_request_is_always_allowed() {
        let limiter = Limiter::new(2);
        for _ in 0..5 {
            limiter.slow_down();
            limiter.state().halved = None;
        }
        assert_eq!(room(&limiter), 1);
    }

    #[test]
    fn who_waits_goes_on_when_another_one_is_done() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let limiter = Limiter::new(1);
            let first = limiter.acquire().await;
            let (second, ()) = tokio::join!(limiter.acquire(), async { drop(first) });
            drop(second);
        });
    }
}

//! How hard a run compresses: as it is told, or as hard as costs no time.

use std::sync::Mutex;
use std::time::Duration;

use repo_format::frame::Compression;

use crate::packer::lock;

/// How hard to compress data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Always like this.
    Fixed(Compression),
    /// From the lowest level up while the store is what the run waits for, and down again when
    /// compression is.
    Auto,
}

impl Default for Effort {
    fn default() -> Self {
        Self::Fixed(Compression::default())
    }
}

/// zstd levels that [`Effort::Auto`] moves among. Each takes about twice as long as the one before.
const LADDER: [i32; 5] = [1, 3, 6, 9, 12];
/// Plain bytes between two decisions: about two packs, so that a wait for one is seen in whole.
const WINDOW_BYTES: u64 = 64 << 20;

/// Chooses the level of each chunk.
#[derive(Debug)]
pub(crate) struct Governor {
    effort: Effort,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    rung: usize,
    plain_bytes: u64,
    compressing: Duration,
    waiting: Duration,
}

impl Governor {
    pub(crate) fn new(effort: Effort) -> Self {
        Self { effort, state: Mutex::default() }
    }

    /// How to compress the next chunk.
    pub(crate) fn compression(&self) -> Compression {
        match self.effort {
            Effort::Fixed(compression) => compression,
            Effort::Auto => Compression::Zstd(level(lock(&self.state).rung)),
        }
    }

    /// Takes note of what a chunk cost a thread: the compressing, and the waiting for room in a
    /// pack, which is what a slow store makes long.
    pub(crate) fn note(&self, plain_bytes: u64, compressing: Duration, waiting: Duration) {
        if self.effort != Effort::Auto {
            return;
        }
        let mut state = lock(&self.state);
        state.plain_bytes += plain_bytes;
        state.compressing += compressing;
        state.waiting += waiting;
        if state.plain_bytes >= WINDOW_BYTES {
            let rung = next_rung(state.rung, state.compressing, state.waiting);
            *state = State { rung, ..State::default() };
        }
    }
}

fn level(rung: usize) -> i32 {
    LADDER.get(rung).copied().unwrap_or(1)
}

/// One step up costs as much time again as compressing takes: it is free if threads wait that
/// long. A wait below a tenth of it is what threads cost each other, and no slow store.
fn next_rung(rung: usize, compressing: Duration, waiting: Duration) -> usize {
    if waiting > compressing {
        (rung + 1).min(LADDER.len() - 1)
    } else if waiting < compressing / 10 {
        rung.saturating_sub(1)
    } else {
        rung
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn run(governor: &Governor, windows: u32, waiting: Duration) -> Compression {
        for _ in 0..windows {
            governor.note(WINDOW_BYTES, 100 * MS, waiting);
        }
        governor.compression()
    }

    #[test]
    fn a_slow_store_raises_the_level_and_a_quick_one_lowers_it_again() {
        let governor = Governor::new(Effort::Auto);
        assert_eq!(governor.compression(), Compression::Zstd(1));
        assert_eq!(run(&governor, 1, 101 * MS), Compression::Zstd(3));
        assert_eq!(run(&governor, 1, 60 * MS), Compression::Zstd(3), "not worth a step");
        assert_eq!(run(&governor, 1, 500 * MS), Compression::Zstd(6));
        assert_eq!(run(&governor, 100, 500 * MS), Compression::Zstd(12));
        assert_eq!(run(&governor, 1, 9 * MS), Compression::Zstd(9));
        assert_eq!(run(&governor, 100, Duration::ZERO), Compression::Zstd(1));
    }

    #[test]
    fn nothing_is_decided_before_a_whole_window() {
        let governor = Governor::new(Effort::Auto);
        governor.note(WINDOW_BYTES - 1, MS, 1000 * MS);
        assert_eq!(governor.compression(), Compression::Zstd(1));
        governor.note(1, MS, MS);
        assert_eq!(governor.compression(), Compression::Zstd(3));
    }

    #[test]
    fn what_was_told_stays() {
        for compression in [Compression::Off, Compression::Zstd(19)] {
            let governor = Governor::new(Effort::Fixed(compression));
            assert_eq!(run(&governor, 10, 1000 * MS), compression);
        }
    }
}

//! What the tests that cross crates share: the real program in surroundings of its own, data made
//! from a seed, comparisons, and real devices and file systems.
//!
//! The tests are in `tests/`, one file for each kind of promise. Long runs need `SALVOR_SOAK=1`;
//! `SALVOR_TEST_SEED` repeats a run whose seed a failure has printed.
#![expect(clippy::unwrap_used, reason = "this crate is tests: a failure is a panic")]
#![expect(clippy::missing_panics_doc, clippy::return_self_not_must_use, reason = "likewise")]

pub mod model;
pub mod support;

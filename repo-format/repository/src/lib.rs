//! A Salvor repository as a library.
//!
//! [`Repository`] opens one; [`writer::Writer`] stores chunks and commits snapshots;
//! [`reader::Reader`] gives chunks back; [`gc`] forgets and prunes; [`check`] verifies; [`copy`]
//! keeps another repository in step. The protocol that lets all of them run at once is in FORMAT.md
//! of `repo-format`.

mod ahead;
pub mod catalog;
pub mod check;
pub mod chunks;
pub mod copy;
pub mod cost;
pub mod effort;
mod error;
mod fill;
pub mod gc;
mod glance;
pub mod index;
pub mod lock;
pub mod packer;
mod parallel;
pub mod process;
mod random;
pub mod reader;
mod recover;
pub mod repair;
mod repository;
mod rescue;
pub mod retention;
mod rules;
pub mod segments;
pub mod session;
#[cfg(test)]
mod sim;
pub mod stats;
pub mod store;
pub mod view;
pub mod walk;
pub mod writer;

pub use error::RepositoryError;
pub use glance::Glance;
pub use repository::{InitOptions, Repository, SlotInfo, UnlockSecret};

//! What a Salvor repository stores: bytes to types and back.
//!
//! No I/O, no clock, no randomness of its own: salts, nonces and times are arguments. FORMAT.md
//! beside this crate is the specification; the golden tests hold the two together.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::as_conversions))]

mod bytes;
pub mod catalog;
pub mod chunker;
pub mod config;
pub mod envelope;
pub mod error;
pub mod frame;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod id;
pub mod key;
pub mod keys;
pub mod keyslot;
pub mod limits;
pub mod lock;
pub mod pack;
pub mod seal;
pub mod segment;
pub mod session;
pub mod snapshot;
#[cfg(test)]
mod testing;
pub mod tree;
pub mod volume;

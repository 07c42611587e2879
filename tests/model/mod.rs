//! An explicit-state model of the protocol that lets writers, readers and garbage collection share
//! a repository without locks: FORMAT.md, "Protocol", says in words what this says in steps.
//!
//! Every request to the store is one atomic step of one process. Any process may pause for any
//! time or stop for ever at any point; requests that are on their way land at any later time;
//! nothing knows a clock. [`explore()`] visits every state that a [`Setup`] can reach, breadth
//! first, and checks the promises in each:
//!
//! - every chunk that a valid snapshot refers to is in a pack that is there and indexed;
//! - a snapshot that was reported saved is in the repository, or was forgotten since;
//! - what an open reader pins can be read;
//! - listed segments, and packs that the index calls live, are there;
//! - once damage is found, the last sound copy of a chunk is not collected.
//!
//! Each [`Rule`] of the protocol can be left out. A run without it must find a violation, which
//! shows two things: that the rule is needed, and that the model would notice.
//!
//! What stands for what:
//!
//! - One chunk is enough in most runs, with as many copies as there are packs. A pack with several
//!   chunks behaves, as far as one of them is concerned, like a pack with that one which is rescued
//!   or left uncondemned now and then for no reason; both are always allowed here. Runs with two
//!   chunks confirm it.
//! - A listing is one step, or with [`Setup::paged_lists`] one step for each session.
//! - A maintainer whose catalog is no longer the newest starts over, as the protocol demands. Only
//!   runs about breaking that ([`Setup::trimming`], [`Rule::OrphansOnNewest`]) let it go on.
//! - A pack stands for its index segment too, except with [`Setup::segments`].
//! - Repacks of a maintainer's own pack are one step; [`Kind::Repack`] does them in a session.
//!
//! Not in the model: catalog pages, damaged registers and records, the bytes of manifests, and what
//! a process remembers over a restart.
//!
//! | module | holds |
//! |---|---|
//! | `setup` | who takes part, and the rules |
//! | `state` | what there is at one moment |
//! | `agent`, `writer`, `checks` | sessions: backups with their checkpoints, repacks, merges, readers |
//! | `maintainer`, `edits` | passes, and the decisions that make the next catalog version |
//! | `invariant` | the promises |
//! | `explore`, `symmetry` | the search |

mod agent;
mod checks;
mod edits;
mod explore;
mod invariant;
mod maintainer;
mod protocol;
mod set;
mod setup;
mod state;
mod step;
mod symmetry;
mod writer;

pub use explore::{Outcome, Report, explore};
pub use setup::{Kind, Rule, Setup, Transitions, Verdict};
pub use step::{Action, Actor, Step};

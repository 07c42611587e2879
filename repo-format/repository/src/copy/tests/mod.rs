//! Copies between repositories in memory.

mod copies;
mod faults;
mod fixture;
mod incremental;
mod trouble;

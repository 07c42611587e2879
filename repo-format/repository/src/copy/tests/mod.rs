//! Copies between repositories in memory.

mod copies;
mod fixture;
mod incremental;
mod trouble;

//! To be written.
pub mod volume;

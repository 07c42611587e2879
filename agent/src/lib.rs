//! The data path of Salvor: volumes and trees into a repository and back, and the command line
//! that does it by hand.

pub mod block;
pub mod cli;
pub mod tree;
pub mod volume;

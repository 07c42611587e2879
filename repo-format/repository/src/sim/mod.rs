//! The code of this crate in a simulated world: see `doc/simulation.md`.

mod agent;
mod dice;
pub(crate) mod here;
mod oracle;
mod plan;
mod request;
mod run;
mod script;
mod store;
#[cfg(test)]
mod tests;
mod world;

//! What a thread of a simulation finds where the product asks the machine: random numbers, the
//! clock, who it is, who lives, and whether a rule holds.

use std::cell::RefCell;
use std::sync::Arc;

use repo_format::session::Process;

use super::dice::Dice;
use super::world::World;
use crate::process::Liveness;
use crate::rules::Rule;

/// Who the thread is. Without a world it has random numbers only.
#[derive(Debug)]
pub(super) struct Here {
    pub(super) world: Option<Arc<World>>,
    pub(super) agent: usize,
    pub(super) dice: Dice,
}

thread_local! {
    static HERE: RefCell<Option<Here>> = const { RefCell::new(None) };
}

/// Ends the thread's part in a simulation when it is dropped.
pub(super) struct Guard(());

pub(super) fn enter(here: Here) -> Guard {
    HERE.with_borrow_mut(|place| *place = Some(here));
    Guard(())
}

impl Drop for Guard {
    fn drop(&mut self) {
        HERE.with_borrow_mut(|place| *place = None);
    }
}

fn in_world<T>(ask: impl FnOnce(&World, usize) -> T) -> Option<T> {
    HERE.with_borrow(|here| {
        let here = here.as_ref()?;
        here.world.as_ref().map(|world| ask(world, here.agent))
    })
}

/// Whether this thread is part of a simulation.
pub(crate) fn is_simulated() -> bool {
    HERE.with_borrow(Option::is_some)
}

/// Fills `bytes` from the simulation's dice; `false` outside of one.
pub(crate) fn fill(bytes: &mut [u8]) -> bool {
    HERE.with_borrow_mut(|here| match here {
        Some(here) => {
            here.dice.fill(bytes);
            true
        }
        None => false,
    })
}

pub(crate) fn now_s() -> Option<u64> {
    in_world(World::clock_s)
}

pub(crate) fn process() -> Option<Process> {
    in_world(World::process)
}

pub(crate) fn liveness(process: &Process) -> Option<Liveness> {
    in_world(|world, agent| world.liveness(agent, process))
}

/// Whether indexes are kept in maps: in a simulation, unless it is told to use the real ones.
pub(crate) fn has_light_index() -> bool {
    in_world(|world, _| world.has_light_index()).unwrap_or(false)
}

pub(crate) fn keeps(rule: Rule) -> bool {
    in_world(|world, _| !world.without().contains(&rule)).unwrap_or(true)
}

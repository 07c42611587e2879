//! What a run of the simulation does: drawn from a seed, or written down.

use std::collections::VecDeque;

use super::dice::Dice;
use super::request::Fault;
use crate::rules::Rule;
use crate::store::Op;

use repo_format::key::Prefix;

/// Volumes that are backed up.
const VOLUMES: u64 = 2;
/// Different chunks that there are.
pub(super) const CHUNKS: u64 = 6;
/// Chunks of a volume.
const SLOTS_MAX: u64 = 4;

/// One run.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) agents: Vec<AgentPlan>,
    pub(super) schedule: Schedule,
    /// Most keys that a page of a listing has.
    pub(super) page: usize,
    /// Left out.
    pub(super) without: Vec<Rule>,
    /// Indexes are maps, not databases.
    pub(super) light_index: bool,
    /// Requests after which a run counts as one without end.
    pub(super) steps_max: u64,
}

/// One process and, if it dies, those started in its place.
#[derive(Debug, Clone)]
pub(super) struct AgentPlan {
    pub(super) name: String,
    /// Processes of one machine know whether the others live.
    pub(super) machine: u64,
    /// Requests whose outcome is not known are sent again.
    pub(super) retries: bool,
    /// It begins with what it saw before its session was open, if that is still right.
    pub(super) glances: bool,
    pub(super) jobs: VecDeque<Job>,
}

/// What an agent does, one after the other.
#[derive(Debug, Clone)]
pub(super) enum Job {
    Backup(Backup),
    /// Pins a snapshot and reads all of it.
    Read(Which),
    /// Lists what there is.
    List,
    Forget(Vec<Which>),
    Prune(Prune),
    /// Folds commits if there are many.
    Fold,
    /// Says that a pack is bad, or that none is.
    Bad(Option<String>),
}

/// Which of the snapshots that are listed, oldest first.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which {
    All,
    Newest,
    /// This one, counted around.
    Nth(u64),
}

#[derive(Debug, Clone)]
pub(super) struct Backup {
    pub(super) volume: u64,
    /// The chunk in each slot.
    pub(super) slots: Vec<u64>,
    pub(super) parent: bool,
    /// After these slots a checkpoint is made.
    pub(super) checkpoints: Vec<usize>,
    /// It dies without a word before its commit.
    pub(super) abandons: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Prune {
    /// In percent.
    pub(super) live_below: u64,
    /// Ends every session of which it does not know that its process lives.
    pub(super) fences: bool,
}

/// Who goes on at each request, and what goes wrong.
#[derive(Debug, Clone)]
pub(super) enum Schedule {
    Random(Chances),
    /// Stage by stage; then one agent after the other, to its end.
    Script(Vec<Stage>),
}

/// Each happens once in so many requests; 0: never.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Chances {
    /// Another agent goes on.
    pub(super) switch: u64,
    /// An agent sleeps for a number of requests of others.
    pub(super) sleep: u64,
    /// Hours pass.
    pub(super) pause: u64,
    /// A machine's clock is set.
    pub(super) clock: u64,
    /// By [`Fault::ALL`].
    pub(super) faults: [u64; Fault::ALL.len()],
    /// A request under way arrives.
    pub(super) landing: u64,
    /// Hours that a request may be under way (A3), and that a clock may be off. What the rows of
    /// folded sessions are kept for, a day, covers both together for the clocks of two machines.
    pub(super) late_hours: u64,
    pub(super) clock_hours: i64,
}

/// A part of a script.
#[derive(Debug, Clone)]
pub(super) enum Stage {
    /// The agent goes on until it is about to send the `nth` such request.
    Until { agent: usize, op: Op, prefix: Prefix, nth: usize },
    /// The agent sends the request that it is about to.
    Step { agent: usize },
    /// As [`Self::Step`], and this goes wrong.
    Spoil { agent: usize, fault: Fault },
    /// The agent goes on until it has done so many jobs in all.
    Jobs { agent: usize, count: usize },
    /// Everything under way arrives.
    Land,
    /// So many hours pass.
    Hours(u64),
    /// The clock of the agent's machine is put forward.
    Clock { agent: usize, hours: i64 },
    /// The object of this name in traces is lost.
    Lose(String),
}

impl Plan {
    /// Draws a run. `faults`: whether anything goes wrong but the schedule.
    pub(super) fn draw(seed: u64, faults: bool, without: Vec<Rule>) -> Self {
        let mut dice = Dice::of(seed, 1);
        let mut agents = Vec::new();
        let mut add = |dice: &mut Dice, kind: &str, count: u64, draw: fn(&mut Dice) -> Job| {
            for number in 0..count {
                let jobs = (0..=dice.below(4)).map(|_| draw(dice)).collect();
                let (machine, retries, glances) = (dice.below(2), dice.one_in(2), dice.one_in(2));
                let name = format!("{kind}{number}");
                agents.push(AgentPlan { name, machine, retries, glances, jobs });
            }
        };
        let writers = 1 + dice.below(3);
        add(&mut dice, "writer", writers, draw_backup);
        let readers = dice.below(2);
        add(&mut dice, "reader", readers, draw_reading);
        let maintainers = 1 + dice.below(2);
        add(&mut dice, "maintainer", maintainers, draw_maintenance);
        let page = dice.pick(&[1, 2, 3, 1000]);
        let schedule = Schedule::Random(Chances::draw(&mut dice, faults));
        Self {
            seed,
            agents,
            schedule,
            page,
            without,
            light_index: !seed.is_multiple_of(64),
            steps_max: 60_000,
        }
    }
}

impl Chances {
    fn draw(dice: &mut Dice, faults: bool) -> Self {
        let switch = dice.pick(&[1, 2, 4, 16]);
        let sleep = dice.pick(&[0, 20, 50, 200]);
        let pause = dice.pick(&[0, 100, 500]);
        let mut chances = Self { switch, sleep, pause, ..Self::default() };
        if faults {
            chances.clock = dice.pick(&[0, 100, 500]);
            chances.landing = dice.pick(&[2, 20, 200]);
            for chance in &mut chances.faults {
                *chance = dice.pick(&[0, 0, 50, 200, 1000]);
            }
            let may_be_late = Fault::ALL.iter().zip(chances.faults);
            let may_be_late = may_be_late.filter(|(fault, _)| fault.is_late()).any(|(_, n)| n > 0);
            (chances.late_hours, chances.clock_hours) = match (may_be_late, chances.clock > 0) {
                (true, true) => (12, 5),
                (true, false) => (24, 0),
                (false, _) => (0, 10 * 365 * 24),
            };
        }
        chances
    }
}

fn draw_backup(dice: &mut Dice) -> Job {
    let count = 1 + dice.index(usize::try_from(SLOTS_MAX).unwrap());
    let slots: Vec<u64> = (0..count).map(|_| dice.below(CHUNKS)).collect();
    let checkpoints = (0..count).filter(|_| dice.one_in(4)).collect();
    Job::Backup(Backup {
        volume: dice.below(VOLUMES),
        slots,
        parent: !dice.one_in(3),
        checkpoints,
        abandons: dice.one_in(8),
    })
}

fn draw_reading(dice: &mut Dice) -> Job {
    if dice.one_in(3) { Job::List } else { Job::Read(draw_which(dice)) }
}

fn draw_which(dice: &mut Dice) -> Which {
    match dice.below(4) {
        0 => Which::Newest,
        _ => Which::Nth(dice.below(8)),
    }
}

fn draw_maintenance(dice: &mut Dice) -> Job {
    match dice.below(8) {
        0 => Job::Fold,
        1 => Job::Forget(vec![Which::All]),
        2 | 3 => Job::Forget((0..=dice.below(2)).map(|_| draw_which(dice)).collect()),
        _ => Job::Prune(Prune { live_below: dice.pick(&[0, 50, 110]), fences: dice.one_in(3) }),
    }
}

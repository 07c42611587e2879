//! One run: the agents' threads, the end, and what it showed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use repo_format::key::Prefix;
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::agent::{self, Process, prune_options, read_snapshot};
use super::dice::Dice;
use super::here::{self, Here};
use super::oracle::Oracle;
use super::plan::{Plan, Prune};
use super::world::{Crash, World};
use crate::gc::{self, Unwatched};
use crate::index::Index;
use crate::reader::Reader;
use crate::store::{Memory, Store};
use crate::view::View;
use crate::writer::sync_index;
use crate::{InitOptions, Repository, UnlockSecret};

/// Prunes after which a repository that is left alone is at rest.
const PRUNES_MAX: u32 = 8;
/// Catalogs kept, in a simulation.
pub(super) const CATALOGS_KEPT: usize = 4;

/// What a run showed.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) violation: Option<String>,
    pub(super) trace: Vec<String>,
    pub(super) steps: u64,
    /// Snapshots told to be saved.
    pub(super) saved: usize,
    /// Errors that no fault explains.
    pub(super) odd: Vec<String>,
    /// A script waited for something that did not come.
    pub(super) is_vain: bool,
}

fn secret() -> UnlockSecret {
    UnlockSecret::KeyFile(Zeroizing::new(b"a key file of sixteen bytes or more".to_vec()))
}

/// A repository that was just made, always the same.
fn fresh() -> Memory {
    static FRESH: OnceLock<Memory> = OnceLock::new();
    let made = FRESH.get_or_init(|| {
        let here = Here { world: None, agent: 0, dice: Dice::new(0) };
        let memory = std::thread::spawn(move || {
            let _guard = here::enter(here);
            let memory = Arc::new(Memory::default());
            let options = InitOptions { chunk_log2: Some(16), label: "first".into(), lock: None };
            drop(Repository::init(memory.clone(), &secret(), &options).unwrap());
            memory
        });
        memory.join().unwrap().fork()
    });
    made.fork()
}

fn temporary() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

fn open(store: Arc<dyn Store>) -> Option<Arc<Repository>> {
    Repository::open(store, &secret()).ok().map(Arc::new)
}

/// Runs a plan to its end.
pub(super) fn run(plan: &Plan) -> Outcome {
    let objects = Arc::new(fresh());
    let direct = open(objects.clone()).unwrap();
    let world = World::new(plan, Arc::clone(&objects), Oracle::new(Arc::clone(&direct)));
    std::thread::scope(|scope| {
        for number in 0..plan.agents.len() {
            let world = &world;
            scope.spawn(move || live(world, plan, number));
        }
    });
    if world.violation().is_none() {
        // Whoever is in this thread's place later must not find a world here.
        std::thread::scope(|scope| {
            scope.spawn(|| end(&world, plan, &direct));
        });
    }
    let (saved, odd) = world.with_oracle(|oracle| (oracle.reported.len(), oracle.odds.clone()));
    Outcome {
        violation: world.violation(),
        trace: world.trace(),
        steps: world.steps(),
        saved,
        odd,
        is_vain: world.is_vain(),
    }
}

/// An agent's life: its processes, one after the other.
fn live(world: &Arc<World>, plan: &Plan, number: usize) {
    let agent = &plan.agents[number];
    let dice = Dice::of(plan.seed, 100 + number as u64);
    let _guard = here::enter(Here { world: Some(Arc::clone(world)), agent: number, dice });
    let cache = temporary();
    let mut jobs = agent.jobs.clone();
    world.enter(number);
    while !jobs.is_empty() && !world.is_over() {
        let ended = catch_unwind(AssertUnwindSafe(|| {
            let store = agent::store(world, number, agent.retries);
            let Some(repository) = open(store) else { return };
            let process = Process::new(world, number, repository, &cache, agent.glances);
            while let Some(job) = jobs.pop_front() {
                process.run(&job);
                world.job_done(number);
            }
        }));
        match ended {
            Ok(()) => {}
            Err(payload) if payload.is::<Crash>() => world.job_done(number),
            Err(payload) => {
                let what = payload.downcast_ref::<String>().map(String::as_str);
                let what = what.or_else(|| payload.downcast_ref::<&str>().copied());
                world.violated(format!("panicked: {}", what.unwrap_or("?")));
            }
        }
    }
    world.leave(number);
}

/// When everybody has stopped: what was promised is there, and what was not goes.
fn end(world: &Arc<World>, plan: &Plan, direct: &Arc<Repository>) {
    let dice = Dice::of(plan.seed, 99);
    let number = plan.agents.len();
    let _guard = here::enter(Here { world: Some(Arc::clone(world)), agent: number, dice });
    let cache = temporary();
    let ended = catch_unwind(AssertUnwindSafe(|| {
        world.settle();
        look(world)?;
        restore(world, direct, &cache)?;
        let index = Arc::new(Index::open(cache.path(), direct.id(), 1 << 20).unwrap());
        let clean = || clean_up(world, direct, &index);
        clean()?;
        restore(world, direct, &cache)?;
        let view = View::for_reading(direct).map_err(|error| error.to_string())?;
        let ids: Vec<_> = view.all_snapshots().into_keys().collect();
        world.with_oracle(|oracle| oracle.forgotten.extend(&ids));
        gc::forget(direct, &ids, None).map_err(|error| format!("the last forget: {error}"))?;
        clean()?;
        look(world)?;
        left_over(world)
    }));
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(what)) => world.violated(what),
        Err(_) => world.violated("the end panicked"),
    }
}

fn look(world: &World) -> Result<(), String> {
    world.with_oracle(|oracle| oracle.look(&world.objects))
}

/// Prunes, with a day between, until nothing is merged any more and what that left is gone. A
/// prune cleans up after itself what it can; the record and the register of its own last session,
/// and the row of it, are for the next ones.
fn clean_up(world: &World, direct: &Arc<Repository>, index: &Arc<Index>) -> Result<(), String> {
    let options = prune_options(&Prune { live_below: 0, fences: true });
    let mut quiet = 0;
    for _ in 0..PRUNES_MAX {
        let report = gc::prune(direct, index, &options, &Unwatched)
            .map_err(|error| format!("a prune when all is quiet: {error}"))?;
        world.pass_hours(25);
        quiet = if report.merged_segments + report.repacked_packs == 0 { quiet + 1 } else { 0 };
        if quiet == 3 {
            return Ok(());
        }
    }
    Err(format!("no rest after {PRUNES_MAX} prunes"))
}

/// Everything that was promised is read back, with an index of its own.
fn restore(world: &World, direct: &Arc<Repository>, _: &TempDir) -> Result<(), String> {
    let cache = temporary();
    let index = Arc::new(Index::open(cache.path(), direct.id(), 1 << 20).unwrap());
    let view = View::for_reading(direct).map_err(|error| format!("the list: {error}"))?;
    let unreadable = sync_index(direct, &index, &view).map_err(|error| error.to_string())?;
    if let Some(unreadable) = unreadable.first() {
        return Err(format!("at the end {unreadable}"));
    }
    let reader = Reader::new(direct, index);
    let (promised, contents) =
        world.with_oracle(|oracle| (oracle.promised(), oracle.contents.clone()));
    let all = view.all_snapshots();
    for id in promised {
        let snapshot = all.get(&id).ok_or_else(|| format!("{id} is not listed at the end"))?;
        let found = read_snapshot(&reader, snapshot)
            .map_err(|error| format!("{id} cannot be restored at the end: {error}"))?;
        if contents.get(&snapshot.root) != Some(&found) {
            return Err(format!("{id} gives something else at the end: {found:?}"));
        }
    }
    Ok(())
}

/// Nothing is left once nothing is wanted.
fn left_over(world: &World) -> Result<(), String> {
    let mut catalogs = 0;
    for key in world.objects.keys() {
        match key.prefix() {
            None | Some(Prefix::KeySlots) => {}
            Some(Prefix::Catalogs) => catalogs += 1,
            _ => return Err(format!("{key} is left over")),
        }
    }
    if catalogs > CATALOGS_KEPT {
        return Err(format!("{catalogs} catalogs are left over"));
    }
    Ok(())
}

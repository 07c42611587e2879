//! What the simulation shows. `SALVOR_SOAK=1` explores more; `SALVOR_SIM_SEED=N` one seed, and
//! prints what happened in it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::plan::Plan;
use super::run::{Outcome, run};
use super::script::{self, Scenario};
use crate::packer::lock;
use crate::rules::Rule;

/// Seeds of every day.
const SEEDS: u64 = 1500;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

fn is_soak() -> bool {
    variable("SALVOR_SOAK") == Some(1)
}

fn draw(seed: u64) -> Plan {
    Plan::draw(seed, !seed.is_multiple_of(4), Vec::new())
}

fn scenarios() -> Vec<Scenario> {
    match std::env::var("SALVOR_SIM_SCENARIOS") {
        Ok(path) => script::read(&std::fs::read_to_string(path).unwrap()),
        Err(_) => script::read(include_str!("scenarios.txt")),
    }
}

fn show(outcome: &Outcome) -> String {
    outcome.trace.join("\n")
}

/// Leaves out of a plan whatever is not needed to break a promise.
fn shrink(mut plan: Plan) -> Plan {
    loop {
        let smaller = smaller_plans(&plan).find(|smaller| run(smaller).violation.is_some());
        match smaller {
            Some(smaller) => plan = smaller,
            None => return plan,
        }
    }
}

fn smaller_plans(plan: &Plan) -> impl Iterator<Item = Plan> {
    let jobs = plan.agents.iter().enumerate();
    let places: Vec<(usize, usize)> =
        jobs.flat_map(|(agent, plan)| (0..plan.jobs.len()).map(move |job| (agent, job))).collect();
    places.into_iter().map(|(agent, job)| {
        let mut smaller = plan.clone();
        smaller.agents[agent].jobs.remove(job);
        smaller
    })
}

/// Runs seeds on all processors, until `enough` says so; returns the first that broke a promise.
fn explore(seeds: std::ops::Range<u64>, enough: impl Fn() -> bool + Sync) -> Option<u64> {
    let next = AtomicU64::new(seeds.start);
    let broken = Mutex::new(None);
    let (steps, saved, odd) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(BTreeMap::new()));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while lock(&broken).is_none() && !enough() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = run(&draw(seed));
                    steps.fetch_add(outcome.steps, Ordering::Relaxed);
                    saved.fetch_add(outcome.saved as u64, Ordering::Relaxed);
                    for error in &outcome.odd {
                        let digits = |c: char| if c.is_ascii_hexdigit() { '.' } else { c };
                        let kind: String = error.chars().map(digits).collect();
                        lock(&odd).entry(kind).or_insert((0, seed)).0 += 1;
                    }
                    if outcome.violation.is_some() {
                        *lock(&broken) = Some(seed);
                    }
                }
            });
        }
    });
    let (seconds, count) =
        (began.elapsed().as_secs_f64(), next.into_inner().min(seeds.end) - seeds.start);
    let (steps, saved) = (steps.into_inner(), saved.into_inner());
    println!(
        "{count} seeds, {steps} requests, {saved} snapshots, {seconds:.1} s; {:#?}",
        lock(&odd)
    );
    broken.into_inner().unwrap()
}

fn tell(seed: u64) -> String {
    let full = draw(seed);
    let whole = run(&full);
    let plan = shrink(full);
    let outcome = run(&plan);
    let name = "sim::tests::one_seed_is_replayed";
    format!(
        "seed {seed}: {:?}; the smallest plan that shows one:\n{plan:#?}\n{}\n\
         SALVOR_SIM_SEED={seed} cargo test --release -p repository {name} -- --nocapture",
        whole.violation,
        show(&outcome)
    )
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..48 {
        let (once, twice) = (run(&draw(seed)), run(&draw(seed)));
        assert!(show(&once) == show(&twice), "seed {seed} differs");
    }
}

#[test]
fn whatever_goes_wrong_every_promise_is_kept() {
    let broken = explore(0..SEEDS, || false);
    assert!(broken.is_none(), "{}", broken.map(tell).unwrap_or_default());
}

#[test]
fn a_soak_keeps_every_promise() {
    let Some(seconds) = is_soak().then(|| variable("SALVOR_SIM_SECONDS").unwrap_or(3600)) else {
        return;
    };
    let began = Instant::now();
    let end = Duration::from_secs(seconds);
    let from = variable("SALVOR_SIM_FROM").unwrap_or(SEEDS);
    let broken = explore(from..u64::MAX, || began.elapsed() > end);
    assert!(broken.is_none(), "{}", broken.map(tell).unwrap_or_default());
}

#[test]
fn one_seed_is_replayed() {
    let Some(seed) = variable("SALVOR_SIM_SEED") else { return };
    let outcome = run(&draw(seed));
    println!("{}", show(&outcome));
    assert!(outcome.violation.is_none(), "{}", tell(seed));
}

#[test]
fn leaving_out_any_rule_breaks_a_promise() {
    let scenarios = scenarios();
    let mut wrong = Vec::new();
    for scenario in &scenarios {
        let kept = run(&scenario.plan(None));
        if let Some(violation) = &kept.violation {
            wrong.push(format!("{:?}, kept: {violation}\n{}", scenario.rule, show(&kept)));
        }
        let Some(rule) = scenario.rule else { continue };
        let left_out = run(&scenario.plan(Some(rule)));
        println!("{rule:?}: {:?}", left_out.violation);
        if left_out.violation.is_none() || left_out.is_vain {
            wrong.push(format!("{rule:?}, left out: nothing; in vain: {}", left_out.is_vain));
        }
        if let Ok(folder) = std::env::var("SALVOR_SIM_TRACES") {
            std::fs::write(format!("{folder}/{rule:?}.kept"), show(&kept)).unwrap();
            std::fs::write(format!("{folder}/{rule:?}.left_out"), show(&left_out)).unwrap();
        }
    }
    for rule in Rule::ALL {
        if !scenarios.iter().any(|scenario| scenario.rule == Some(rule)) {
            wrong.push(format!("nothing shows {rule:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

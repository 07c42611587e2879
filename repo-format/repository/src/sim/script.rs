//! Schedules as text: see `scenarios.txt`.

use std::collections::VecDeque;

use repo_format::key::Prefix;

use super::plan::{AgentPlan, Backup, Job, Plan, Prune, Schedule, Stage, Which};
use super::request::Fault;
use crate::rules::Rule;
use crate::store::Op;

/// A schedule and the rule that it shows.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) rule: Option<Rule>,
    plan: Plan,
}

impl Scenario {
    /// * `without`: left out besides those that the scenario leaves out anyway.
    pub(super) fn plan(&self, without: Option<Rule>) -> Plan {
        let mut plan = self.plan.clone();
        plan.without.extend(without);
        plan
    }
}

/// Reads scenarios.
///
/// # Panics
///
/// If one is not written as they must be.
pub(super) fn read(text: &str) -> Vec<Scenario> {
    let mut scenarios: Vec<Scenario> = Vec::new();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    for line in lines.filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            let named = |name: &str| Rule::ALL.into_iter().find(|rule| format!("{rule:?}") == name);
            let (name, without) = name.split_once(" without ").unwrap_or((name, ""));
            let (rule, without) = (named(name), named(without).into_iter().collect());
            assert!(rule.is_some() || name == "-", "there is no rule {name}");
            let plan = Plan {
                seed: 0,
                agents: Vec::new(),
                schedule: Schedule::Script(Vec::new()),
                page: 1000,
                without,
                light_index: true,
                steps_max: 20_000,
            };
            scenarios.push(Scenario { rule, plan });
            continue;
        }
        let Some(scenario) = scenarios.last_mut() else { panic!("no scenario: {line}") };
        read_line(&mut scenario.plan, line).unwrap_or_else(|| panic!("not understood: {line}"));
    }
    scenarios
}

fn read_line(plan: &mut Plan, line: &str) -> Option<()> {
    if let Some(page) = line.strip_prefix("page ") {
        plan.page = page.parse().ok()?;
    } else if let Some(line) = line.strip_prefix('>') {
        let words: Vec<&str> = line.split_whitespace().collect();
        let stage = read_stage(plan, &words)?;
        let Schedule::Script(stages) = &mut plan.schedule else { return None };
        stages.push(stage);
    } else if let Some((agent, jobs)) = line.split_once(": ") {
        let (agent, retries) = match agent.strip_suffix(" retries") {
            Some(agent) => (agent, true),
            None => (agent, false),
        };
        let (name, machine) = agent.split_once(" on ").unwrap_or((agent, ""));
        let machine = match machine.bytes().next() {
            Some(letter) => u64::from(letter),
            None => 1000 + plan.agents.len() as u64,
        };
        let jobs: Option<VecDeque<Job>> = jobs.split(';').map(read_job).collect();
        let (name, jobs) = (name.to_owned(), jobs?);
        plan.agents.push(AgentPlan { name, machine, retries, glances: false, jobs });
    }
    Some(())
}

fn read_job(text: &str) -> Option<Job> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let after = |word: &str| {
        let at = words.iter().position(|other| *other == word)?;
        words.get(at + 1)?.parse::<u64>().ok()
    };
    let has = |word: &str| words.contains(&word);
    Some(match words[..] {
        ["backup", volume, slots, ..] => {
            let slots: Option<Vec<u64>> = slots.split(',').map(|slot| slot.parse().ok()).collect();
            let checkpoints = after("check").and_then(|slot| usize::try_from(slot).ok());
            Job::Backup(Backup {
                volume: volume.parse().ok()?,
                slots: slots?,
                parent: has("parent"),
                checkpoints: checkpoints.into_iter().collect(),
                abandons: false,
            })
        }
        ["list"] => Job::List,
        ["fold"] => Job::Fold,
        ["bad", pack] => Job::Bad(Some(pack.to_owned())),
        ["sound"] => Job::Bad(None),
        ["read", which] => Job::Read(read_which(which)?),
        ["forget", "none"] => Job::Forget(Vec::new()),
        ["forget", which] => Job::Forget(vec![read_which(which)?]),
        ["prune", ..] => {
            Job::Prune(Prune { live_below: after("below").unwrap_or(0), fences: has("fence") })
        }
        _ => return None,
    })
}

fn read_which(word: &str) -> Option<Which> {
    Some(match word {
        "all" => Which::All,
        "newest" => Which::Newest,
        number => Which::Nth(number.parse().ok()?),
    })
}

fn read_stage(plan: &Plan, words: &[&str]) -> Option<Stage> {
    let agent = |name: &str| plan.agents.iter().position(|agent| agent.name == name);
    Some(match *words {
        ["land"] => Stage::Land,
        ["hours", hours] => Stage::Hours(hours.parse().ok()?),
        ["clock", name, hours] => Stage::Clock { agent: agent(name)?, hours: hours.parse().ok()? },
        ["lose", pack] => Stage::Lose(pack.to_owned()),
        [name, "does", count] => Stage::Jobs { agent: agent(name)?, count: count.parse().ok()? },
        [name, "sends"] => Stage::Step { agent: agent(name)? },
        [name, "sends", fault] => {
            let fault = Fault::ALL.into_iter().find(|other| format!("{other:?}") == fault)?;
            Stage::Spoil { agent: agent(name)?, fault }
        }
        [name, "before", op, folder, ref nth @ ..] => {
            let op = Op::ALL.into_iter().find(|other| format!("{other:?}") == op)?;
            let prefix = Prefix::ALL.into_iter().find(|prefix| prefix.folder() == folder)?;
            let nth = nth.first().map_or(Some(1), |nth| nth.parse().ok())?;
            Stage::Until { agent: agent(name)?, op, prefix, nth }
        }
        _ => return None,
    })
}

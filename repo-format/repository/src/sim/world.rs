//! The simulated world: one store, one time, and the one agent that may go on.
//!
//! Every agent is a thread. It stops at each of its requests; who holds the turn decides by the
//! dice who goes on next, and hands the turn over. So exactly one thread runs at any moment, and a
//! seed gives the same run each time.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use repo_format::id::{PackName, SessionId};
use repo_format::key::ObjectKey;
use repo_format::session::Process;

use super::dice::Dice;
use super::oracle::Oracle;
use super::plan::{Chances, Plan, Schedule, Stage};
use super::request::{Fault, Request, Target, Write};
use crate::packer::lock;
use crate::process::Liveness;
use crate::rules::Rule;
use crate::store::{Memory, Op};

const HOUR_MS: u64 = 3600 * 1000;
/// When every run begins: 2026-01-01.
const START_MS: u64 = 1_767_225_600 * 1000;

/// The simulated world. Shared by the agents' threads.
#[derive(Debug)]
pub(super) struct World {
    state: Mutex<State>,
    turns: Vec<Condvar>,
    pub(super) objects: Arc<Memory>,
    without: Vec<Rule>,
    page: usize,
    has_light_index: bool,
}

#[derive(Debug)]
struct State {
    dice: Dice,
    schedule: Schedule,
    script: VecDeque<Stage>,
    steps: u64,
    steps_max: u64,
    now_ms: u64,
    agents: Vec<Agent>,
    entered: usize,
    turn: Option<usize>,
    under_way: Vec<UnderWay>,
    trace: Vec<String>,
    names: BTreeMap<SessionId, String>,
    oracle: Oracle,
    /// The run is over: every agent ends at its next request.
    is_over: bool,
    violation: Option<String>,
    /// The script waited for something that did not come.
    is_vain: bool,
}

#[derive(Debug)]
struct Agent {
    name: String,
    machine: u64,
    /// Number of its process among all processes.
    process: u32,
    is_alive: bool,
    sessions: u32,
    /// What it is about to ask; `None` while it has the turn.
    pending: Option<Request>,
    is_finished: bool,
    jobs_done: usize,
    wakes_at: u64,
    clock_offset_s: i64,
    spoil: Option<Fault>,
}

/// A request that was sent and has not arrived.
#[derive(Debug)]
struct UnderWay {
    write: Write,
    sent_ms: u64,
    sender: String,
}

/// An agent's process: what it asks after its death is not done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Who {
    pub(super) agent: usize,
    pub(super) process: u32,
}

/// A thread's end by a simulated crash.
pub(super) struct Crash;

/// Why there is no turn: the process is dead.
pub(super) struct Dead;

/// The turn of an agent: it alone goes on until it asks again.
pub(super) struct Turn<'a> {
    world: &'a World,
    state: MutexGuard<'a, State>,
    who: Who,
    request: Request,
    pub(super) fault: Option<Fault>,
}

impl World {
    pub(super) fn new(plan: &Plan, objects: Arc<Memory>, oracle: Oracle) -> Arc<Self> {
        let script = match &plan.schedule {
            Schedule::Script(stages) => stages.iter().cloned().collect(),
            Schedule::Random(_) => VecDeque::new(),
        };
        let mut agents: Vec<Agent> = (0u32..)
            .zip(&plan.agents)
            .map(|(number, agent)| Agent::new(&agent.name, agent.machine, number))
            .collect();
        // Who looks at everything at the end.
        agents.push(Agent::new("end", 100, u32::MAX));
        let state = State {
            dice: Dice::of(plan.seed, 2),
            schedule: plan.schedule.clone(),
            script,
            steps: 0,
            steps_max: plan.steps_max,
            now_ms: START_MS,
            entered: 0,
            turn: None,
            under_way: Vec::new(),
            trace: Vec::new(),
            names: BTreeMap::new(),
            oracle,
            is_over: false,
            violation: None,
            is_vain: false,
            agents,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            turns: plan.agents.iter().map(|_| Condvar::new()).collect(),
            objects,
            without: plan.without.clone(),
            page: plan.page,
            has_light_index: plan.light_index,
        })
    }

    pub(super) fn without(&self) -> &[Rule] {
        &self.without
    }

    pub(super) const fn has_light_index(&self) -> bool {
        self.has_light_index
    }

    pub(super) const fn page(&self) -> usize {
        self.page
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Seconds since 1970 by the clock of the agent's machine.
    pub(super) fn clock_s(&self, agent: usize) -> u64 {
        let state = self.state();
        (state.now_ms / 1000).saturating_add_signed(state.agents[agent].clock_offset_s)
    }

    pub(super) fn process(&self, agent: usize) -> Process {
        let state = self.state();
        let agent = &state.agents[agent];
        Process {
            host: format!("machine{}", agent.machine),
            boot_id: "boot".to_owned(),
            pid_namespace: agent.machine + 1,
            pid: agent.process,
            start_ticks: 1,
        }
    }

    pub(super) fn liveness(&self, agent: usize, process: &Process) -> Liveness {
        let state = self.state();
        if state.agents[agent].machine + 1 != process.pid_namespace {
            return Liveness::Unknown;
        }
        let lives = |agent: &Agent| agent.is_alive && agent.process == process.pid;
        if state.agents.iter().any(lives) { Liveness::Alive } else { Liveness::Dead }
    }

    /// The agent's process, started anew if it was.
    pub(super) fn who(&self, agent: usize) -> Who {
        Who { agent, process: self.state().agents[agent].process }
    }

    /// An agent's thread is there; returns when it has its first turn.
    pub(super) fn enter(&self, agent: usize) {
        let mut state = self.state();
        state.entered += 1;
        if state.entered == self.turns.len() {
            self.hand_over(&mut state);
        }
        drop(self.wait(state, agent));
    }

    /// An agent has nothing left to do.
    pub(super) fn leave(&self, agent: usize) {
        let mut state = self.state();
        let agent = &mut state.agents[agent];
        (agent.is_finished, agent.is_alive) = (true, false);
        self.hand_over(&mut state);
    }

    pub(super) fn job_done(&self, agent: usize) {
        self.state().agents[agent].jobs_done += 1;
    }

    pub(super) fn is_over(&self) -> bool {
        self.state().is_over
    }

    /// A promise was broken.
    pub(super) fn violated(&self, what: impl Into<String>) {
        let mut state = self.state();
        state.violate(what.into());
        self.end(&state);
    }

    pub(super) fn violation(&self) -> Option<String> {
        self.state().violation.clone()
    }

    pub(super) fn is_vain(&self) -> bool {
        self.state().is_vain
    }

    /// The pack of this name in traces, present or lost.
    pub(super) fn pack_named(&self, name: &str) -> Option<PackName> {
        let state = self.state();
        let (session, counter) = name.rsplit_once('-')?;
        let (session, _) = state.names.iter().find(|(_, name)| *name == session)?;
        Some(PackName { session: *session, counter: counter.parse().ok()? })
    }

    pub(super) fn steps(&self) -> u64 {
        self.state().steps
    }

    pub(super) fn trace(&self) -> Vec<String> {
        self.state().trace.clone()
    }

    /// Adds a line to the trace.
    pub(super) fn note(&self, agent: usize, what: &str) {
        let mut state = self.state();
        if !state.is_over {
            let line = format!("{:>6}  {:<12} {what}", "", state.agents[agent].name);
            state.trace.push(line);
        }
    }

    pub(super) fn with_oracle<T>(&self, ask: impl FnOnce(&mut Oracle) -> T) -> T {
        ask(&mut self.state().oracle)
    }

    /// Lets hours pass after the run.
    pub(super) fn pass_hours(&self, hours: u64) {
        self.state().now_ms += hours * HOUR_MS;
    }

    /// What is still under way arrives, or never does.
    pub(super) fn settle(&self) {
        let mut state = self.state();
        while let Some(late) = state.under_way.pop() {
            if state.dice.one_in(2) {
                state.arrive(&self.objects, &late);
            }
        }
        self.end(&state);
    }

    fn end(&self, state: &State) {
        if state.is_over {
            self.turns.iter().for_each(Condvar::notify_all);
        }
    }

    /// Stops at a request until the agent's turn comes.
    pub(super) fn turn(&self, who: Who, request: Request) -> Result<Turn<'_>, Dead> {
        let mut state = self.state();
        let agent = &mut state.agents[who.agent];
        if !agent.is_alive || agent.process != who.process || std::thread::panicking() {
            return Err(Dead);
        }
        agent.pending = Some(request);
        self.hand_over(&mut state);
        let mut state = self.wait(state, who.agent);
        if state.is_over {
            state.agents[who.agent].is_alive = false;
            drop(state);
            std::panic::resume_unwind(Box::new(Crash));
        }
        state.agents[who.agent].pending = None;
        let fault = state.draw_fault(who.agent, request.op);
        Ok(Turn { world: self, state, who, request, fault })
    }

    fn wait<'a>(&self, mut state: MutexGuard<'a, State>, agent: usize) -> MutexGuard<'a, State> {
        while state.turn != Some(agent) && !state.is_over {
            state =
                self.turns[agent].wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        state
    }

    /// Decides who goes on.
    fn hand_over(&self, state: &mut State) {
        if state.is_over {
            return;
        }
        state.pass_time(&self.objects);
        state.turn = state.choose(&self.objects);
        match state.turn {
            Some(next) if !state.is_over => self.turns[next].notify_one(),
            _ => {}
        }
        self.end(state);
    }
}

impl Turn<'_> {
    /// Has the request carried out as its fault says. `Ok`: its sender goes on with the answer.
    pub(super) fn finish<T, E: std::fmt::Display>(
        mut self,
        write: Option<&Write>,
        carry_out: impl FnOnce() -> Result<T, E>,
        unknown: impl FnOnce() -> E,
    ) -> Result<T, E> {
        let fault = self.fault;
        let is_done = fault.is_none_or(Fault::is_done);
        let answer = is_done.then(carry_out);
        self.log(answer.as_ref().map(Result::as_ref));
        let state = &mut *self.state;
        if let Some(write) = write {
            if is_done {
                state.after(&self.world.objects, write);
            }
            if fault.is_some_and(Fault::is_late) {
                let (write, sent_ms) = (write.clone(), state.now_ms);
                let sender = state.agents[self.who.agent].name.clone();
                state.under_way.push(UnderWay { write, sent_ms, sender });
            }
        }
        if fault.is_some_and(Fault::is_crash) || state.is_over {
            state.crash(self.who.agent);
            self.world.end(state);
            drop(self);
            std::panic::resume_unwind(Box::new(Crash));
        }
        match answer {
            Some(answer) if fault != Some(Fault::LostReply) => answer,
            _ => Err(unknown()),
        }
    }

    fn log<T, E: std::fmt::Display>(&mut self, answer: Option<Result<&T, &E>>) {
        let state = &mut *self.state;
        let Request { op, target } = self.request;
        if let (Op::PutNew, Target::Object(ObjectKey::Session(id))) = (op, target) {
            let agent = &mut state.agents[self.who.agent];
            agent.sessions += 1;
            let name = format!("{}.{}", agent.name, agent.sessions);
            state.names.entry(id).or_insert(name);
        }
        let mut line = format!(
            "{:>6}  {:<12} {op:?} {}",
            state.steps,
            state.agents[self.who.agent].name,
            state.name(&target)
        );
        if let Some(fault) = self.fault {
            let _ = write!(line, "  -- {fault:?}");
        }
        if let Some(Err(error)) = answer {
            let _ = write!(line, "  => {error}");
        }
        state.trace.push(line);
    }
}

impl Agent {
    fn new(name: &str, machine: u64, process: u32) -> Self {
        Self {
            name: name.to_owned(),
            machine,
            process,
            is_alive: true,
            sessions: 0,
            pending: None,
            is_finished: false,
            jobs_done: 0,
            wakes_at: 0,
            clock_offset_s: 0,
            spoil: None,
        }
    }
}

impl State {
    fn violate(&mut self, what: String) {
        self.trace.push(format!("{:>6}  BROKEN       {what}", self.steps));
        self.violation.get_or_insert(what);
        self.is_over = true;
    }

    /// What a person can read instead of a random id.
    fn name(&self, target: &Target) -> String {
        let key = match target {
            Target::All(prefix) => return format!("{}/", prefix.folder()),
            Target::Object(key) => key,
        };
        let session = |id: &SessionId| {
            self.names.get(id).cloned().unwrap_or_else(|| id.to_string()[..8].to_owned())
        };
        match key {
            ObjectKey::Catalog(n) => format!("cat/{n}"),
            ObjectKey::CatalogPage { n, .. } => format!("cpg/{n}"),
            ObjectKey::Session(id) => format!("ses/{}", session(id)),
            ObjectKey::Commit(id) => format!("com/{}", session(id)),
            ObjectKey::Heartbeat(id) => format!("hb/{}", session(id)),
            ObjectKey::Pack(name) => format!("p/{}-{}", session(&name.session), name.counter),
            ObjectKey::Segment(name) => format!("x/{}-{}", session(&name.session), name.counter),
            other => other.to_string(),
        }
    }

    /// Looks at the promises after something was changed.
    fn after(&mut self, objects: &Memory, write: &Write) {
        if let Err(what) = self.oracle.after(objects, write) {
            let readable = self
                .names
                .iter()
                .fold(what, |what, (id, name)| what.replace(&id.to_string(), name));
            self.violate(readable);
        }
    }

    fn crash(&mut self, agent: usize) {
        let next = 100 + u32::try_from(self.steps).unwrap_or(u32::MAX);
        let is_over = self.is_over;
        let agent = &mut self.agents[agent];
        (agent.process, agent.is_alive) = (next, !is_over);
    }

    fn arrive(&mut self, objects: &Memory, late: &UnderWay) {
        let done = late.write.apply(objects);
        let what = self.name(&Target::Object(*late.write.key()));
        let (op, sender) = (late.write.op(), &late.sender);
        let mut line = format!("{:>6}  {sender:<12} {op:?} {what}  -- arrives late", self.steps);
        if let Err(error) = done {
            let _ = write!(line, "  => {error}");
        }
        self.trace.push(line);
        self.after(objects, &late.write);
    }

    fn chances(&self) -> Chances {
        match &self.schedule {
            Schedule::Random(chances) => *chances,
            Schedule::Script(_) => Chances { late_hours: 24, ..Chances::default() },
        }
    }

    fn draw_fault(&mut self, agent: usize, op: Op) -> Option<Fault> {
        if let Some(fault) = self.agents[agent].spoil.take() {
            return Some(fault);
        }
        let chances = self.chances();
        let mut drawn = None;
        for (fault, chance) in Fault::ALL.into_iter().zip(chances.faults) {
            if self.dice.one_in(chance) && fault.applies_to(op) {
                drawn = Some(fault);
            }
        }
        drawn
    }

    /// A request later: some time passes, clocks are set, requests under way arrive.
    fn pass_time(&mut self, objects: &Memory) {
        self.steps += 1;
        if self.steps > self.steps_max {
            self.violate(format!("no end after {} requests", self.steps_max));
        }
        let chances = self.chances();
        let mut passed_ms = self.dice.below(2000);
        if self.dice.one_in(chances.pause) {
            passed_ms += (1 + self.dice.below(30)) * HOUR_MS;
            self.trace.push(format!(
                "{:>6}  time         {} h pass",
                self.steps,
                passed_ms / HOUR_MS
            ));
        }
        if self.dice.one_in(chances.clock) {
            self.set_clock();
        }
        let until_ms = self.now_ms + passed_ms;
        let mut at = 0;
        while at < self.under_way.len() {
            let is_due = until_ms > self.under_way[at].sent_ms + chances.late_hours * HOUR_MS;
            if is_due || self.dice.one_in(chances.landing) {
                let late = self.under_way.remove(at);
                // In time, or not at all.
                if !is_due || self.dice.one_in(2) {
                    self.arrive(objects, &late);
                }
            } else {
                at += 1;
            }
        }
        self.now_ms = until_ms;
    }

    fn set_clock(&mut self) {
        let machine = self.dice.below(2);
        let most = self.chances().clock_hours;
        let hours = self.dice.pick(&[1, 5, 30, most]).min(most);
        let offset_s = if self.dice.one_in(2) { hours * 3600 } else { -hours * 3600 };
        let what = format!("the clock of machine {machine} is off by {offset_s} s");
        self.trace.push(format!("{:>6}  time         {what}", self.steps));
        for agent in self.agents.iter_mut().filter(|agent| agent.machine == machine) {
            agent.clock_offset_s = offset_s;
        }
    }

    /// Who goes on: `None` once all are finished.
    fn choose(&mut self, objects: &Memory) -> Option<usize> {
        if let Some(next) = self.choose_scripted(objects) {
            return Some(next);
        }
        let working = |(number, agent): (usize, &Agent)| {
            (!agent.is_finished && agent.name != "end").then_some(number)
        };
        let all: Vec<usize> = self.agents.iter().enumerate().filter_map(working).collect();
        if matches!(self.schedule, Schedule::Script(_)) {
            return all.first().copied();
        }
        let chances = self.chances();
        let awake = |agent: &usize| self.agents[*agent].wakes_at <= self.steps;
        let awake: Vec<usize> = all.iter().copied().filter(awake).collect();
        let Some(first) = awake.first() else {
            return all.into_iter().min_by_key(|agent| self.agents[*agent].wakes_at);
        };
        let current = self.turn.filter(|turn| awake.contains(turn));
        let next = match current {
            Some(current) if !self.dice.one_in(chances.switch) => current,
            _ => *awake.get(self.dice.index(awake.len())).unwrap_or(first),
        };
        if self.dice.one_in(chances.sleep) {
            let requests = 1 << self.dice.below(11);
            self.agents[next].wakes_at = self.steps + requests;
        }
        Some(next)
    }

    fn lose(&mut self, objects: &Memory, name: &str) {
        let named = |key: &ObjectKey| self.name(&Target::Object(*key)) == format!("p/{name}");
        match objects.keys().into_iter().find(named) {
            Some(key) => {
                let lost = Write::Delete(key);
                drop(lost.apply(objects));
                self.trace.push(format!("{:>6}  p/{name} is lost", self.steps));
                self.after(objects, &lost);
            }
            None => self.is_vain = true,
        }
    }

    /// As the script says; `None` behind its end.
    fn choose_scripted(&mut self, objects: &Memory) -> Option<usize> {
        while let Some(stage) = self.script.front_mut() {
            match stage {
                Stage::Land => {
                    self.script.pop_front();
                    for late in std::mem::take(&mut self.under_way) {
                        self.arrive(objects, &late);
                    }
                }
                Stage::Hours(hours) => {
                    self.now_ms += *hours * HOUR_MS;
                    self.script.pop_front();
                }
                Stage::Clock { agent, hours } => {
                    self.agents[*agent].clock_offset_s = *hours * 3600;
                    self.script.pop_front();
                }
                Stage::Lose(name) => {
                    let name = std::mem::take(name);
                    self.script.pop_front();
                    self.lose(objects, &name);
                }
                Stage::Step { agent } => {
                    let agent = *agent;
                    self.script.pop_front();
                    return Some(agent);
                }
                Stage::Spoil { agent, fault } => {
                    let (agent, fault) = (*agent, *fault);
                    self.agents[agent].spoil = Some(fault);
                    self.script.pop_front();
                    return Some(agent);
                }
                Stage::Jobs { agent, count } => {
                    let (number, goal) = (*agent, *count);
                    let agent = &mut self.agents[number];
                    if agent.jobs_done < goal && !agent.is_finished {
                        return Some(number);
                    }
                    self.script.pop_front();
                }
                Stage::Until { agent, op, prefix, nth } => {
                    let number = *agent;
                    let agent = &self.agents[number];
                    let is_such = agent.pending.is_some_and(|request| {
                        request.op == *op && request.target.prefix() == Some(*prefix)
                    });
                    *nth -= usize::from(is_such);
                    if *nth > 0 && !agent.is_finished {
                        return Some(number);
                    }
                    self.is_vain |= *nth > 0;
                    self.script.pop_front();
                }
            }
        }
        None
    }
}

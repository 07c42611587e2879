//! What has to exist before what: levels in which a restore goes forward.
//!
//! [`Phase`]s follow one another whatever objects refer to. Within a phase an object comes a level
//! after what it needs. A workload whose owner is a custom resource comes after it, in the owner's
//! phase, so that the operator finds it owned. An owner that comes later than what it owns (a claim
//! belongs to a phase before all workloads) is linked afterwards: see [`Plan::set_aside`].

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;
use serde_json::Value;

use crate::graph::{Relation, references};
use crate::kinds::{Discovery, Phase, built_in, phase};
use crate::object::{GroupKind, Key, group_kind, items, name, namespace, text};

/// Objects that do not wait for one another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    /// The phase it is part of. It ends when its last level is complete.
    pub phase: Phase,
    /// The numbers that [`Order::add`] gave, in the order of the objects' keys.
    pub objects: Vec<usize>,
}

/// A reference that did not decide the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// The number of the object that refers.
    pub from: usize,
    /// The number of the object referred to.
    pub to: usize,
    /// How it refers.
    pub relation: Relation,
    /// Why it did not decide.
    pub why: Why,
}

/// Why a reference did not decide the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Why {
    /// The kind referred to comes in a later phase.
    LaterPhase,
    /// Objects refer to one another in a circle, and this was its weakest link.
    Cycle,
}

/// The order of a restore.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// First to last.
    pub levels: Vec<Level>,
    /// References that did not decide, in the order of their objects' keys. Those to owners are to
    /// be set once the owners exist.
    pub set_aside: Vec<SetAside>,
}

/// Collects what objects refer to. It holds one key for each object and a few bytes for each
/// reference.
#[derive(Debug, Default)]
pub struct Order {
    keys: HashMap<Key, u32>,
    objects: Vec<(u32, Phase)>,
    edges: Vec<(u32, u32, Relation)>,
    operators: Operators,
}

impl Order {
    /// Adds an object, and gives its number: 0, 1, 2, …
    pub fn add(&mut self, object: &Value, discovery: &Discovery) -> usize {
        let key = Key::of(object);
        let phase = phase(&key.kind.group, &key.kind.kind);
        let number = self.objects.len();
        for reference in references(object, discovery) {
            // Whatever comes in an earlier phase anyway need not be remembered.
            let to = crate::kinds::phase(&reference.to.kind.group, &reference.to.kind.kind);
            let is_earlier = to < phase && reference.relation != Relation::Owner;
            if reference.relation != Relation::Serves && !is_earlier {
                let to = self.intern(reference.to);
                self.edges.push((index(number), to, reference.relation));
            }
        }
        self.operators.add(object, number);
        let own = self.intern(key);
        self.objects.push((own, phase));
        number
    }

    /// The plan. It does not depend on the order in which objects were added.
    pub fn plan(self) -> Plan {
        let mut by_key: Vec<(&Key, usize)> = Vec::with_capacity(self.objects.len());
        let mut names: Vec<Option<&Key>> = vec![None; self.keys.len()];
        for (key, id) in &self.keys {
            names[*id as usize] = Some(key);
        }
        for (number, (id, _)) in self.objects.iter().enumerate() {
            if let Some(key) = names[*id as usize] {
                by_key.push((key, number));
            }
        }
        by_key.sort_unstable();
        let graph = self.ranked(&by_key);
        let numbers: Vec<usize> = by_key.iter().map(|(_, number)| *number).collect();
        graph.plan(&numbers)
    }

    fn intern(&mut self, key: Key) -> u32 {
        let next = index(self.keys.len());
        *self.keys.entry(key).or_insert(next)
    }

    /// The graph with objects numbered by their keys.
    fn ranked(&self, by_key: &[(&Key, usize)]) -> Graph {
        const NONE: u32 = u32::MAX;
        let mut rank_of_number = vec![NONE; self.objects.len()];
        let mut rank_of_id = vec![NONE; self.keys.len()];
        let mut phases = Vec::with_capacity(by_key.len());
        for (rank, (_, number)) in by_key.iter().enumerate() {
            let (id, phase) = self.objects[*number];
            rank_of_number[*number] = index(rank);
            rank_of_id[id as usize] = index(rank);
            phases.push(phase);
        }
        let mut edges = Vec::with_capacity(self.edges.len());
        for (from, to, relation) in &self.edges {
            let (from, to) = (rank_of_number[*from as usize], rank_of_id[*to as usize]);
            if to != NONE && from != to {
                edges.push((from, to, *relation));
            }
        }
        for (rank, (key, _)) in by_key.iter().enumerate() {
            for operator in self.operators.of(&key.kind) {
                edges.push((index(rank), rank_of_number[operator], Relation::Operator));
            }
        }
        edges.sort_unstable();
        edges.dedup_by_key(|(from, to, _)| (*from, *to));
        Graph { phases, edges }
    }
}

/// Objects numbered by their keys.
struct Graph {
    phases: Vec<Phase>,
    edges: Vec<(u32, u32, Relation)>,
}

impl Graph {
    fn plan(mut self, numbers: &[usize]) -> Plan {
        self.follow_owners();
        let mut set_aside = Vec::new();
        let mut inner = Vec::new();
        for edge in &self.edges {
            let (from, to, relation) = *edge;
            let (own, other) = (self.phases[from as usize], self.phases[to as usize]);
            if own == other {
                inner.push(*edge);
            } else if own < other {
                set_aside.push((from, to, relation, Why::LaterPhase));
            }
        }
        let mut layers = Layers::new(self.phases.len(), inner);
        layers.run();
        let broken = layers.broken.iter().map(|edge| layers.edges[*edge]);
        set_aside.extend(broken.map(|(from, to, relation)| (from, to, relation, Why::Cycle)));
        set_aside.sort_unstable();
        let mut levels: BTreeMap<(Phase, u32), Vec<usize>> = BTreeMap::new();
        for (rank, phase) in self.phases.iter().enumerate() {
            levels.entry((*phase, layers.depth[rank])).or_default().push(numbers[rank]);
        }
        let levels = levels.into_iter().map(|((phase, _), objects)| Level { phase, objects });
        let set_aside = set_aside.into_iter().map(|(from, to, relation, why)| SetAside {
            from: numbers[from as usize],
            to: numbers[to as usize],
            relation,
            why,
        });
        Plan { levels: levels.collect(), set_aside: set_aside.collect() }
    }

    /// Workloads and custom resources come no earlier than their owners.
    fn follow_owners(&mut self) {
        let owned = self.edges.iter().filter(|(from, _, relation)| {
            let phase = self.phases[*from as usize];
            *relation == Relation::Owner && matches!(phase, Phase::Workloads | Phase::Custom)
        });
        let mut dependents: HashMap<u32, Vec<u32>> = HashMap::new();
        let mut waiting = BTreeSet::new();
        for (from, to, _) in owned {
            dependents.entry(*to).or_default().push(*from);
            waiting.insert(*to);
        }
        while let Some(owner) = waiting.pop_first() {
            let phase = self.phases[owner as usize];
            for dependent in dependents.get(&owner).into_iter().flatten() {
                if self.phases[*dependent as usize] < phase {
                    self.phases[*dependent as usize] = phase;
                    waiting.insert(*dependent);
                }
            }
        }
    }
}

/// Longest paths, where circles are broken at their weakest link.
struct Layers {
    edges: Vec<(u32, u32, Relation)>,
    /// Edges sorted by where they lead, and where those of each object begin.
    incoming: Vec<usize>,
    incoming_start: Vec<usize>,
    outgoing_start: Vec<usize>,
    is_broken: Vec<bool>,
    pending: Vec<u32>,
    is_done: Vec<bool>,
    depth: Vec<u32>,
    broken: Vec<usize>,
    ready: Vec<u32>,
}

impl Layers {
    /// `edges` sorted by where they come from.
    fn new(count: usize, edges: Vec<(u32, u32, Relation)>) -> Self {
        let mut incoming: Vec<usize> = (0..edges.len()).collect();
        incoming.sort_by_key(|edge| edges[*edge].1);
        let starts = |of: &dyn Fn(usize) -> u32| {
            let mut starts = vec![0; count + 1];
            for at in 0..edges.len() {
                starts[of(at) as usize + 1] += 1;
            }
            for at in 0..count {
                starts[at + 1] += starts[at];
            }
            starts
        };
        let outgoing_start = starts(&|at| edges[at].0);
        let incoming_start = starts(&|at| edges[incoming[at]].1);
        let pending: Vec<u32> =
            (0..count).map(|at| index(outgoing_start[at + 1] - outgoing_start[at])).collect();
        let ready = (0..count).filter(|at| pending[*at] == 0).map(index).collect();
        Self {
            is_broken: vec![false; edges.len()],
            edges,
            incoming,
            incoming_start,
            outgoing_start,
            pending,
            is_done: vec![false; count],
            depth: vec![0; count],
            broken: Vec::new(),
            ready,
        }
    }

    fn run(&mut self) {
        let mut first = 0;
        loop {
            while let Some(object) = self.ready.pop() {
                self.finish(object as usize);
            }
            while first < self.is_done.len() && self.is_done[first] {
                first += 1;
            }
            if first == self.is_done.len() {
                return;
            }
            self.break_circle(first);
        }
    }

    fn finish(&mut self, object: usize) {
        self.is_done[object] = true;
        for at in self.incoming_start[object]..self.incoming_start[object + 1] {
            let edge = self.incoming[at];
            if self.is_broken[edge] {
                continue;
            }
            let dependent = self.edges[edge].0 as usize;
            self.depth[dependent] = self.depth[dependent].max(self.depth[object] + 1);
            self.release(dependent);
        }
    }

    fn release(&mut self, object: usize) {
        self.pending[object] -= 1;
        if self.pending[object] == 0 {
            self.ready.push(index(object));
        }
    }

    /// From an object that waits, goes along what it waits for until it has gone round.
    fn break_circle(&mut self, start: usize) {
        let mut position: HashMap<usize, usize> = HashMap::new();
        let mut path: Vec<usize> = Vec::new();
        let mut object = start;
        while !position.contains_key(&object) {
            position.insert(object, path.len());
            let mut outgoing = self.outgoing_start[object]..self.outgoing_start[object + 1];
            let waits = |edge: &usize| {
                !self.is_broken[*edge] && !self.is_done[self.edges[*edge].1 as usize]
            };
            let Some(edge) = outgoing.find(waits) else { return };
            path.push(edge);
            object = self.edges[edge].1 as usize;
        }
        let circle = &path[position[&object]..];
        let weakest = circle.iter().copied().max_by_key(|edge| {
            let (from, _, relation) = self.edges[*edge];
            (relation, std::cmp::Reverse(from))
        });
        if let Some(weakest) = weakest {
            self.is_broken[weakest] = true;
            self.broken.push(weakest);
            self.release(self.edges[weakest].0 as usize);
        }
    }
}

/// Which Deployments look after which groups of custom resources, read from what their service
/// accounts may do.
#[derive(Debug, Default)]
struct Operators {
    /// Groups that a role may write to: the role's kind, namespace and name.
    roles: HashMap<(String, String), BTreeSet<String>>,
    /// Roles bound to an account, by the account's namespace and name.
    bindings: HashMap<(String, String), Vec<(String, String)>>,
    /// What may be an operator, by namespace and account.
    workloads: Vec<((String, String), usize)>,
    /// What follows from all three.
    by_group: std::cell::OnceCell<HashMap<String, Vec<usize>>>,
}

impl Operators {
    fn add(&mut self, object: &Value, number: usize) {
        let own_namespace = namespace(object).to_owned();
        match group_kind(object) {
            ("rbac.authorization.k8s.io", "ClusterRole" | "Role") => {
                let groups = written_groups(object);
                if !groups.is_empty() {
                    self.roles.insert((own_namespace, name(object).to_owned()), groups);
                }
            }
            ("rbac.authorization.k8s.io", "ClusterRoleBinding" | "RoleBinding") => {
                let is_role = text(object, "/roleRef/kind") == "Role";
                let of = if is_role { own_namespace.clone() } else { String::new() };
                let role = (of, text(object, "/roleRef/name").to_owned());
                for subject in items(object, "/subjects") {
                    if text(subject, "/kind") == "ServiceAccount" {
                        let namespace = match text(subject, "/namespace") {
                            "" => own_namespace.clone(),
                            named => named.to_owned(),
                        };
                        let account = (namespace, text(subject, "/name").to_owned());
                        self.bindings.entry(account).or_default().push(role.clone());
                    }
                }
            }
            ("apps", "Deployment" | "StatefulSet") => {
                let account = text(object, "/spec/template/spec/serviceAccountName").to_owned();
                if !account.is_empty() {
                    self.workloads.push(((own_namespace, account), number));
                }
            }
            _ => {}
        }
    }

    /// The numbers of the workloads that look after a kind.
    fn of(&self, kind: &GroupKind) -> impl Iterator<Item = usize> + '_ {
        let is_custom = built_in(&kind.group, &kind.kind).is_none();
        let by_group = self.by_group.get_or_init(|| self.gather());
        let found = is_custom.then(|| by_group.get(&kind.group)).flatten();
        found.into_iter().flatten().copied()
    }

    fn gather(&self) -> HashMap<String, Vec<usize>> {
        let mut by_group: HashMap<String, Vec<usize>> = HashMap::new();
        for (account, number) in &self.workloads {
            let roles = self.bindings.get(account).into_iter().flatten();
            let groups: BTreeSet<&String> =
                roles.filter_map(|role| self.roles.get(role)).flatten().collect();
            for group in groups {
                by_group.entry(group.clone()).or_default().push(*number);
            }
        }
        by_group
    }
}

/// Groups of custom resources whose status a role may write: whoever looks after a kind does that.
fn written_groups(role: &Value) -> BTreeSet<String> {
    let mut groups = BTreeSet::new();
    for rule in items(role, "/rules") {
        let has = |list: &str, wanted: &dyn Fn(&str) -> bool| {
            items(rule, list).iter().filter_map(Value::as_str).any(wanted)
        };
        let writes = has("/verbs", &|verb| matches!(verb, "update" | "patch" | "*"))
            && has("/resources", &|resource| resource == "*" || resource.ends_with("/status"));
        if writes {
            let named = items(rule, "/apiGroups").iter().filter_map(Value::as_str);
            groups.extend(named.filter(|group| group.contains('.')).map(str::to_owned));
        }
    }
    groups
}

/// Objects that are taken first, in a given order: `orderedResources`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ordered {
    ranks: HashMap<Key, usize>,
}

impl Ordered {
    /// Reads `pods: "shop/db-1,shop/db-0"`; kinds without a namespace are named alone.
    ///
    /// # Errors
    ///
    /// The names that stand for no kind.
    pub fn new(
        listed: &BTreeMap<String, String>,
        discovery: &Discovery,
    ) -> Result<Self, Vec<String>> {
        let mut ranks = HashMap::new();
        let mut unknown = Vec::new();
        for (resource, objects) in listed {
            let kinds = discovery.kinds(resource);
            if kinds.is_empty() {
                unknown.push(resource.clone());
            }
            for kind in kinds {
                for object in objects.split(',').map(str::trim).filter(|text| !text.is_empty()) {
                    let (namespace, name) = object.split_once('/').unwrap_or(("", object));
                    let rank = ranks.len();
                    ranks.entry(Key::new(&kind.group, &kind.kind, namespace, name)).or_insert(rank);
                }
            }
        }
        if unknown.is_empty() { Ok(Self { ranks }) } else { Err(unknown) }
    }

    /// The place of an object in the order, if it has one.
    pub fn rank(&self, key: &Key) -> Option<usize> {
        self.ranks.get(key).copied()
    }
}

/// Numbers of objects fit into 32 bits: four thousand million objects are no cluster.
fn index(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

//! Everything that would go wrong with a restore, found before anything is written: all of it at
//! once, each with the object, the cause and what to do.
//!
//! The caller gathers [`Facts`] of the target and gives the objects as they would be created,
//! mapped and modified. A problem is blocking if an object could not be created or its data could
//! not come back; it is a warning if the restore succeeds and something will not work.

mod admission;
mod capacity;
mod classes;
mod exposure;
mod facts;
mod kinds;
mod names;
mod quantity;
mod quota;

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::Serialize;
use serde_json::Value;

pub use facts::{
    Existing, Facts, Free, Quota, Refusal, ServedKind, SnapshotClass, StorageClass, Version,
    Webhook, WebhookRule,
};

/// The oldest API server that a restore goes to: older ones lack what the preflight itself needs
/// (server-side apply and dry run in every built-in kind, GA admission policies).
pub const SERVER_MIN: Version = Version { major: 1, minor: 30 };

/// What tells objects apart: group, kind, namespace, name.
pub type Key<'a> = (&'a str, &'a str, &'a str, &'a str);

/// An object's name in full.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectId {
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Namespace; empty for a cluster-scoped object.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectId {
    /// Of an object as the API server speaks it.
    pub fn of(object: &Value) -> Self {
        let text = |path: &str| {
            object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        Self {
            api_version: text("/apiVersion"),
            kind: text("/kind"),
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name"),
        }
    }

    /// The API group; empty for the core.
    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// The version without its group.
    pub fn version(&self) -> &str {
        self.api_version.split_once('/').map_or(&self.api_version, |(_, version)| version)
    }

    /// Whether both name the same object, whatever their API version.
    pub fn is_same(&self, other: &Self) -> bool {
        self.key() == other.key()
    }

    /// What tells objects apart: group, kind, namespace, name.
    pub fn key(&self) -> Key<'_> {
        (self.group(), &self.kind, &self.namespace, &self.name)
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.namespace.is_empty() { "" } else { "/" };
        write!(formatter, "{} {}{slash}{}", self.kind, self.namespace, self.name)
    }
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Severity {
    /// Nothing is restored until it is solved, or told to be ignored.
    Blocking,
    /// The restore goes on.
    Warning,
}

/// What kind of problem it is; the words are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[expect(missing_docs, reason = "the names say it, and `judge` lists them in its table")]
pub enum Topic {
    OldServer,
    MissingKind,
    MissingVersion,
    MissingStorageClass,
    MissingSnapshotClass,
    MissingIngressClass,
    MissingGatewayClass,
    MissingPriorityClass,
    MissingRuntimeClass,
    NameConflict,
    NamespaceTerminating,
    NodePortTaken,
    HostTaken,
    QuotaTooSmall,
    WebhookDown,
    AdmissionRefused,
    NoCapacity,
}

/// Something that would go wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// How bad.
    pub severity: Severity,
    /// What kind.
    pub topic: Topic,
    /// The object that it is about.
    pub object: ObjectId,
    /// Why.
    pub cause: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}; {}", self.object, self.cause, self.remedy)
    }
}

/// What happens to objects that exist in the target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ExistingPolicy {
    /// They stay as they are.
    #[default]
    Skip,
    /// They are made equal, in place.
    Update,
    /// They are deleted and created.
    Replace,
    /// The restore is not to find any that differs.
    Fail,
}

/// What happens to node ports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NodePortPolicy {
    /// They are kept, and must be free.
    Keep,
    /// The target assigns others.
    #[default]
    Drop,
}

/// What is to be restored.
#[derive(Debug, Clone, Copy)]
pub struct Planned<'a> {
    /// The objects as they would be created.
    pub objects: &'a [Value],
    /// For those that exist.
    pub existing: ExistingPolicy,
    /// For Services.
    pub node_ports: NodePortPolicy,
    /// The API server that they came from, if known.
    pub source: Option<Version>,
}

/// Judges a restore. Sorted: blocking problems first, then by topic and object; each once.
pub fn judge(planned: Planned<'_>, facts: &Facts) -> Vec<Problem> {
    let objects: Vec<Item<'_>> = planned.objects.iter().map(Item::new).collect();
    let given = Case::new(planned, &objects, facts);
    let mut problems = Vec::new();
    for judge in JUDGES {
        judge(&given, &mut problems);
    }
    problems.sort();
    problems.dedup();
    problems
}

/// Whether a restore may begin.
pub fn may_begin(problems: &[Problem]) -> bool {
    problems.iter().all(|problem| problem.severity == Severity::Warning)
}

type Judge = fn(&Case<'_>, &mut Vec<Problem>);

const JUDGES: [Judge; 12] = [
    kinds::server,
    kinds::served,
    classes::storage,
    classes::snapshot,
    classes::network,
    classes::pods,
    names::conflicts,
    exposure::node_ports,
    exposure::hosts,
    quota::quotas,
    admission::admission,
    capacity::capacity,
];

/// One planned object.
struct Item<'a> {
    id: ObjectId,
    object: &'a Value,
}

impl<'a> Item<'a> {
    fn new(object: &'a Value) -> Self {
        Self { id: ObjectId::of(object), object }
    }

    fn is(&self, group: &str, kind: &str) -> bool {
        self.id.kind == kind && self.id.group() == group
    }

    fn text(&self, path: &str) -> Option<&'a str> {
        self.object.pointer(path)?.as_str()
    }

    fn list(&self, path: &str) -> &'a [Value] {
        let list = self.object.pointer(path).and_then(Value::as_array);
        list.map(Vec::as_slice).unwrap_or_default()
    }

    /// Where the spec of its pods is, and how many it makes; nothing for what makes none.
    ///
    /// * `nodes`: how many a `DaemonSet` runs on.
    fn pods(&self, nodes: u64) -> Option<(&'a Value, u64)> {
        let count = |path: &str| self.object.pointer(path).and_then(Value::as_u64).unwrap_or(1);
        let (path, count) = match (self.id.group(), self.id.kind.as_str()) {
            ("", "Pod") => ("/spec", 1),
            (
                "" | "apps",
                "ReplicationController" | "ReplicaSet" | "Deployment" | "StatefulSet",
            ) => ("/spec/template/spec", count("/spec/replicas")),
            ("apps", "DaemonSet") => ("/spec/template/spec", nodes),
            ("batch", "Job") if self.text_is_true("/spec/suspend") => ("/spec/template/spec", 0),
            ("batch", "Job") => ("/spec/template/spec", count("/spec/parallelism")),
            ("batch", "CronJob") => ("/spec/jobTemplate/spec/template/spec", 0),
            _ => return None,
        };
        Some((self.object.pointer(path)?, count))
    }

    fn text_is_true(&self, path: &str) -> bool {
        self.object.pointer(path).and_then(Value::as_bool) == Some(true)
    }

    fn problem(
        &self,
        severity: Severity,
        topic: Topic,
        cause: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Problem {
        let (cause, remedy) = (cause.into(), remedy.into());
        Problem { severity, topic, object: self.id.clone(), cause, remedy }
    }
}

/// What the judges look at.
struct Case<'a> {
    planned: Planned<'a>,
    objects: &'a [Item<'a>],
    facts: &'a Facts,
    brought: HashSet<Key<'a>>,
    existing: HashMap<Key<'a>, Existing>,
}

impl<'a> Case<'a> {
    fn new(planned: Planned<'a>, objects: &'a [Item<'a>], facts: &'a Facts) -> Self {
        let brought = objects.iter().map(|item| item.id.key()).collect();
        let existing = facts.existing.iter().map(|(id, state)| (id.key(), *state)).collect();
        Self { planned, objects, facts, brought, existing }
    }

    /// Whether the restore creates a cluster-scoped object of that name itself.
    fn brings(&self, group: &str, kind: &str, name: &str) -> bool {
        self.brings_in(group, kind, "", name)
    }

    fn brings_in(&self, group: &str, kind: &str, namespace: &str, name: &str) -> bool {
        self.brought.contains(&(group, kind, namespace, name))
    }

    fn existing(&self, id: &ObjectId) -> Option<Existing> {
        self.existing.get(&id.key()).copied()
    }

    /// The objects that the target does not have yet.
    fn new_objects(&self) -> impl Iterator<Item = &'a Item<'a>> {
        self.objects.iter().filter(|item| self.existing(&item.id).is_none())
    }

    /// The name of a kind in paths; a guess for one that the target does not serve.
    fn plural(&self, id: &ObjectId) -> String {
        let kinds = &self.facts.kinds;
        let known = kinds.iter().find(|kind| kind.kind == id.kind && kind.group == id.group());
        known.map_or_else(|| format!("{}s", id.kind.to_lowercase()), |kind| kind.plural.clone())
    }
}

fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

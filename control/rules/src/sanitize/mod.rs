//! What of an object belonged to the cluster it was saved from.
//!
//! [`sanitize`] runs a table of rules over an object. A rule leaves the object out, or changes it;
//! each change names its rule, so that a restore can say what it changed and why. [`rules`] lists
//! the table.
//!
//! An object is sanitised before its namespace and its references are mapped: rules look at names
//! as they were.

mod cluster;
mod leave;
mod meta;
mod owners;
mod pods;
mod services;
mod storage;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use owners::{OwnerFate, Owners};
pub use storage::keeps_volume;

use crate::object::{GroupKind, group_kind};
use crate::path;

/// What becomes of an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It is created, or compared with the one there.
    Restore(Sanitized),
    /// It is created, or what it has is added to the one there, which wins.
    Merge(Sanitized),
    /// It is not restored.
    Leave(Left),
}

/// Why an object is not restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Left {
    /// The rule.
    pub rule: &'static str,
    /// The reason, for people.
    pub why: String,
}

/// An object without what belonged to its old cluster.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sanitized {
    /// What to create.
    pub object: Value,
    /// Its status, which is written after it, if at all.
    pub status: Option<Value>,
    /// Owners that are restored later: entries of `ownerReferences` to add once they exist.
    pub pending_owners: Vec<Value>,
    /// What differs from the saved object.
    pub changes: Vec<Change>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Change {
    /// The rule that made it.
    pub rule: &'static str,
    /// A JSON pointer.
    pub path: String,
    /// What happened there. Values are not told: they may be secret.
    pub action: Action,
}

/// What happened at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// It is gone.
    Removed,
    /// It has another value.
    Replaced,
    /// It was not there before.
    Added,
}

/// What the user wants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Options {
    /// Addresses of Services within the cluster.
    pub cluster_ips: ClusterIps,
    /// Node ports and health-check ports of Services.
    pub node_ports: NodePorts,
    /// Addresses that a Service asks of its load balancer.
    pub load_balancers: LoadBalancers,
    /// Owners that are neither restored nor on the target.
    pub unresolved_owners: UnresolvedOwners,
    /// Whether claims keep their data source, so that the target's provisioner fills them.
    pub keep_data_sources: bool,
}

/// Addresses of Services within the cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ClusterIps {
    /// The target gives new ones; `None` stays.
    #[default]
    Drop,
    /// They stay as they are.
    Keep,
}

/// Node ports and health-check ports of Services.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NodePorts {
    /// Those a person wrote down stay; those the cluster chose are chosen anew.
    #[default]
    KeepChosen,
    /// All stay.
    Keep,
    /// All are chosen anew.
    Drop,
    /// These become others; the rest is chosen anew.
    Remap(BTreeMap<u16, u16>),
}

/// Addresses that a Service asks of its load balancer, and its external IPs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LoadBalancers {
    /// They stay.
    #[default]
    Keep,
    /// They go.
    Drop,
    /// These become others; the rest goes.
    Remap(BTreeMap<String, String>),
}

/// Owners that are neither restored nor on the target. A reference to an owner that does not exist
/// makes the garbage collector delete the object, so that it never stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum UnresolvedOwners {
    /// The object comes back without them.
    #[default]
    Drop,
    /// The object is left out.
    LeaveOut,
}

/// What is known of the restore and of the target.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// What becomes of owners.
    pub owners: Owners,
    /// Finalizers whose controller runs on the target.
    pub served_finalizers: BTreeSet<String>,
    /// Services with a selector: namespace and name.
    pub selecting_services: BTreeSet<(String, String)>,
    /// Volumes that come back as they are, see [`keeps_volume`].
    pub kept_volumes: BTreeSet<String>,
}

/// A rule that changes objects.
struct Rule {
    id: &'static str,
    /// What it does, for people.
    what: &'static str,
    /// The kinds it looks at; `*` stands for any.
    of: &'static [(&'static str, &'static str)],
    run: fn(&mut Job<'_>),
}

/// A rule that leaves objects out.
struct LeaveRule {
    id: &'static str,
    why: &'static str,
    of: &'static [(&'static str, &'static str)],
    when: fn(&Value, &Facts) -> bool,
}

/// Every kind.
const ANY: &[(&str, &str)] = &[("*", "*")];

/// Takes out what belonged to the old cluster.
///
/// Sanitising its own result changes nothing, but for ports whose only trace of having been chosen
/// by a person was in `managedFields`.
pub fn sanitize(mut object: Value, options: &Options, facts: &Facts) -> Verdict {
    let Some(map) = object.as_object_mut() else {
        return leave("object.shape", "it is no object");
    };
    let status = map.get("status").cloned().filter(|status| !status.is_null());
    for rule in leave::RULES.iter().filter(|rule| concerns(rule.of, &object)) {
        if (rule.when)(&object, facts) {
            return leave(rule.id, rule.why);
        }
    }
    let mut sanitized = Sanitized { status, ..Sanitized::default() };
    for rule in tables() {
        if concerns(rule.of, &object) {
            let rule_id = rule.id;
            let out = &mut sanitized;
            (rule.run)(&mut Job { object: &mut object, options, facts, rule: rule_id, out });
        }
    }
    let unresolved = sanitized.changes.iter().any(|change| change.rule == owners::UNRESOLVED);
    if unresolved && options.unresolved_owners == UnresolvedOwners::LeaveOut {
        return leave(owners::UNRESOLVED, "its owner is neither restored nor on the target");
    }
    let merges = group_kind(&object) == ("", "ServiceAccount");
    sanitized.object = object;
    if merges { Verdict::Merge(sanitized) } else { Verdict::Restore(sanitized) }
}

/// Every rule: its ID and what it does.
pub fn rules() -> impl Iterator<Item = (&'static str, &'static str)> {
    let leaving = leave::RULES.iter().map(|rule| (rule.id, rule.why));
    leaving.chain(tables().map(|rule| (rule.id, rule.what)))
}

/// Kinds first: their rules read metadata that the last table removes.
fn tables() -> impl Iterator<Item = &'static Rule> {
    let of_kinds = pods::RULES.iter().chain(services::RULES).chain(storage::RULES);
    of_kinds.chain(cluster::RULES).chain(owners::RULES).chain(meta::RULES)
}

fn leave(rule: &'static str, why: &str) -> Verdict {
    Verdict::Leave(Left { rule, why: why.to_owned() })
}

fn concerns(of: &[(&str, &str)], object: &Value) -> bool {
    let own = group_kind(object);
    let matches = |pattern: &str, part: &str| pattern == "*" || pattern == part;
    of.iter().any(|(group, kind)| matches(group, own.0) && matches(kind, own.1))
}

/// One rule at one object.
struct Job<'a> {
    object: &'a mut Value,
    options: &'a Options,
    facts: &'a Facts,
    rule: &'static str,
    out: &'a mut Sanitized,
}

impl Job<'_> {
    fn record(&mut self, path: impl Into<String>, action: Action) {
        self.out.changes.push(Change { rule: self.rule, path: path.into(), action });
    }

    /// Removes what is at a pointer, if anything is.
    fn remove(&mut self, pointer: &str) -> bool {
        let removed = path::remove(self.object, pointer);
        if removed.is_some() {
            self.record(pointer, Action::Removed);
        }
        removed.is_some()
    }

    /// Removes an entry of a map, and the map with its last entry.
    fn remove_entry(&mut self, map: &str, key: &str) -> bool {
        let removed = self.remove(&format!("{map}/{}", path::escape(key)));
        let entries = self.object.pointer(map).and_then(Value::as_object);
        if removed && entries.is_some_and(Map::is_empty) {
            path::remove(self.object, map);
        }
        removed
    }

    fn remove_annotation(&mut self, key: &str) -> bool {
        self.remove_entry("/metadata/annotations", key)
    }

    fn remove_label(&mut self, key: &str) -> bool {
        self.remove_entry("/metadata/labels", key)
    }

    /// Keeps those items of an array that pass, and the array while it has any.
    fn retain(&mut self, array: &str, mut keeps: impl FnMut(&Value) -> bool) {
        let Some(items) = self.object.pointer_mut(array).and_then(Value::as_array_mut) else {
            return;
        };
        let mut number = 0;
        let mut removed = Vec::new();
        items.retain(|item| {
            let stays = keeps(item);
            if !stays {
                removed.push(format!("{array}/{number}"));
            }
            number += 1;
            stays
        });
        let is_empty = items.is_empty() && !removed.is_empty();
        for path in removed {
            self.record(path, Action::Removed);
        }
        if is_empty {
            path::remove(self.object, array);
        }
    }

    /// Sets an entry of a map that exists.
    fn set(&mut self, map: &str, key: &str, value: Value) {
        let Some(entries) = self.object.pointer_mut(map).and_then(Value::as_object_mut) else {
            return;
        };
        if entries.get(key) == Some(&value) {
            return;
        }
        let before = entries.insert(key.to_owned(), value);
        let action = if before.is_some() { Action::Replaced } else { Action::Added };
        self.record(format!("{map}/{}", path::escape(key)), action);
    }
}

/// The kinds that are never restored, for those who would not even list them.
pub fn is_never_restored(kind: &GroupKind) -> bool {
    let (group, kind) = kind.as_pair();
    let object = Value::from_iter([
        ("apiVersion".to_owned(), Value::from(format!("{group}/v1"))),
        ("kind".to_owned(), Value::from(kind)),
    ]);
    let always = leave::RULES.iter().filter(|rule| rule.id.starts_with(leave::ALWAYS));
    always.into_iter().any(|rule| concerns(rule.of, &object))
}

//! What if the target has an object of that name.
//!
//! [`compare`] says where the object there differs from the wanted one in a way that matters: what
//! the server added by itself does not, nor does `1000m` instead of `1`, nor the order of what the
//! API keeps by name.

mod lists;
mod locked;

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::kinds::built_in;
use crate::object::{group_kind, is_terminating, text};
use crate::patch::merge_patch;
use crate::path::escape;
use crate::quantity::Quantity;
use lists::{List, Matching};

/// What to do with an object that is there already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Policy {
    /// It stays as it is; differences are told.
    #[default]
    Skip,
    /// It is changed where it differs, and never deleted.
    Update,
    /// It becomes what was saved, deleted and created again where that takes it. What holds data, or
    /// other objects, is never deleted.
    Replace,
}

/// A place where the object there is not as wanted. Values are not told: they may be secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Difference {
    /// A JSON pointer, into the wanted object or, for what it does not have, the one there.
    pub path: String,
    /// In what way.
    pub what: What,
}

/// How a place differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum What {
    /// It is wanted and not there.
    Missing,
    /// It is there with another value.
    Changed,
    /// It is there and not wanted.
    Extra,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.what {
            What::Missing => "missing",
            What::Changed => "differs",
            What::Extra => "not in the backup",
        };
        write!(f, "{} {what}", self.path)
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Nothing: it is as wanted.
    Same,
    /// Nothing, but tell.
    Skip(Vec<Difference>),
    /// Send this JSON merge patch.
    Update {
        /// The patch.
        patch: Value,
        /// What it settles.
        differences: Vec<Difference>,
    },
    /// Delete it and create the wanted one.
    Recreate(Vec<Difference>),
    /// It cannot be done under this policy.
    Blocked {
        /// What differs.
        differences: Vec<Difference>,
        /// Why it cannot be settled, and what to do.
        why: String,
    },
    /// It is being deleted: create the wanted one when it is gone.
    Wait,
}

/// Says what to do.
///
/// * `wanted`: sanitised and mapped;
/// * `live`: as the target has it.
pub fn judge(wanted: &Value, live: &Value, policy: Policy) -> Verdict {
    if is_terminating(live) {
        return Verdict::Wait;
    }
    if group_kind(wanted) == ("", "ServiceAccount") {
        let merged = merge_service_account(wanted, live);
        let differences = compare(&merged, live);
        if differences.is_empty() {
            return Verdict::Same;
        }
        return Verdict::Update { patch: merge_patch(live, &merged), differences };
    }
    let differences = compare(wanted, live);
    if differences.is_empty() {
        return Verdict::Same;
    }
    let fixed: Vec<&str> = differences
        .iter()
        .map(|difference| difference.path.as_str())
        .filter(|path| locked::is_immutable(live, path))
        .collect();
    match policy {
        Policy::Skip => Verdict::Skip(differences),
        Policy::Update | Policy::Replace if fixed.is_empty() => {
            Verdict::Update { patch: patch(wanted, live), differences }
        }
        Policy::Update => {
            let why = format!(
                "{} cannot be changed in place; restore under another name, or use replace",
                fixed.join(", ")
            );
            Verdict::Blocked { differences, why }
        }
        Policy::Replace => match locked::holds(live) {
            None => Verdict::Recreate(differences),
            Some(what) => {
                let why = format!(
                    "{} cannot be changed in place, and deleting it would delete {what}; \
                     restore under another name, or delete it yourself first",
                    fixed.join(", ")
                );
                Verdict::Blocked { differences, why }
            }
        },
    }
}

/// Where `live` is not as wanted, in the order of paths. Status is not looked at.
pub fn compare(wanted: &Value, live: &Value) -> Vec<Difference> {
    let mut comparison = Comparison { is_custom: is_custom(wanted), found: Vec::new() };
    let place = Place { field: "", path: String::new(), holds_quantities: false };
    comparison.value(wanted, Some(live), &place);
    comparison.found.sort_unstable();
    comparison.found
}

/// The JSON merge patch that makes `live` as wanted and keeps what the server added.
pub fn patch(wanted: &Value, live: &Value) -> Value {
    merge_patch(live, &overlay(wanted, live, "", is_custom(wanted)))
}

/// The service account there, with what it lacks. What it has stays as it is.
pub fn merge_service_account(wanted: &Value, live: &Value) -> Value {
    let mut merged = live.clone();
    if !live.is_object() {
        return merged;
    }
    for list in ["secrets", "imagePullSecrets"] {
        let have = live.get(list).and_then(Value::as_array).cloned().unwrap_or_default();
        let wanted = wanted.get(list).and_then(Value::as_array).into_iter().flatten();
        let is_there = |secret: &&Value| {
            have.iter().any(|other| text(other, "/name") == text(secret, "/name"))
        };
        let missing: Vec<Value> = wanted.filter(|secret| !is_there(secret)).cloned().collect();
        if !missing.is_empty() {
            merged[list] = have.iter().cloned().chain(missing).collect();
        }
    }
    for map in ["labels", "annotations"] {
        let wanted = wanted.pointer(&format!("/metadata/{map}")).and_then(Value::as_object);
        for (key, value) in wanted.into_iter().flatten() {
            let Some(metadata) = merged.get_mut("metadata").and_then(Value::as_object_mut) else {
                continue;
            };
            let entries = metadata.entry(map).or_insert_with(|| Value::Object(Map::new()));
            if let Some(entries) = entries.as_object_mut() {
                entries.entry(key).or_insert_with(|| value.clone());
            }
        }
    }
    let automount = "automountServiceAccountToken";
    if let (None, Some(value)) = (live.get(automount), wanted.get(automount)) {
        merged[automount] = value.clone();
    }
    merged
}

fn is_custom(object: &Value) -> bool {
    let (group, kind) = group_kind(object);
    built_in(group, kind).is_none()
}

/// Fields of objects that are the user's alone, so that an entry too many is a difference.
const EXACT: [&str; 9] = [
    "data",
    "binaryData",
    "labels",
    "matchLabels",
    "nodeSelector",
    "selector",
    "parameters",
    "hard",
    "podSelector",
];

/// Fields whose entries are quantities.
const QUANTITIES: [&str; 12] = [
    "requests",
    "limits",
    "hard",
    "capacity",
    "overhead",
    "podFixed",
    "default",
    "defaultRequest",
    "max",
    "min",
    "maxLimitRequestRatio",
    "allocatedResources",
];

/// Fields that are quantities themselves.
const QUANTITY: [&str; 4] = ["sizeLimit", "divisor", "averageValue", "storage"];

/// Labels that the server sets.
const SERVER_LABELS: [&str; 5] = [
    "kubernetes.io/metadata.name",
    "pod-template-hash",
    "controller-revision-hash",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
];

struct Place<'a> {
    field: &'a str,
    path: String,
    holds_quantities: bool,
}

impl Place<'_> {
    fn entry<'b>(&self, key: &'b str) -> Place<'b> {
        Place {
            field: key,
            path: format!("{}/{}", self.path, escape(key)),
            holds_quantities: QUANTITIES.contains(&self.field) || QUANTITY.contains(&key),
        }
    }

    fn item(&self, number: usize) -> Place<'static> {
        let path = format!("{}/{number}", self.path);
        Place { field: "", path, holds_quantities: false }
    }
}

struct Comparison {
    is_custom: bool,
    found: Vec<Difference>,
}

impl Comparison {
    fn push(&mut self, place: &Place<'_>, what: What) {
        self.found.push(Difference { path: place.path.clone(), what });
    }

    fn value(&mut self, wanted: &Value, live: Option<&Value>, place: &Place<'_>) {
        let Some(live) = live.filter(|live| !live.is_null()) else {
            if !is_nothing(wanted) {
                self.push(place, What::Missing);
            }
            return;
        };
        match (wanted, live) {
            (Value::Null, _) => {}
            (Value::Object(wanted), Value::Object(live)) => self.object(wanted, live, place),
            (Value::Array(wanted), Value::Array(live)) => self.array(wanted, live, place),
            _ if is_equal(wanted, live, place.holds_quantities) => {}
            _ => self.push(place, What::Changed),
        }
    }

    fn object(&mut self, wanted: &Map<String, Value>, live: &Map<String, Value>, at: &Place<'_>) {
        for (key, value) in wanted {
            let is_status = at.path.is_empty() && key == "status";
            // The server answers in the version it is asked in; that is no difference of the object.
            let is_version = at.path.is_empty() && key == "apiVersion";
            if !is_status && !is_version {
                self.value(value, live.get(key), &at.entry(key));
            }
        }
        if is_exact(at.field, self.is_custom) {
            for key in live.keys().filter(|key| is_extra(wanted, key)) {
                self.push(&at.entry(key), What::Extra);
            }
        }
    }

    fn array(&mut self, wanted: &[Value], live: &[Value], at: &Place<'_>) {
        let list = List::of(at.field, wanted, live, self.is_custom);
        let Matching { pairs, extra } = list.pair(wanted, live);
        for (number, partner) in pairs.into_iter().enumerate() {
            let place = at.item(number);
            match partner {
                Some(partner) => self.value(&wanted[number], Some(&live[partner]), &place),
                None => self.push(&place, What::Missing),
            }
        }
        for number in extra {
            if !lists::is_added_by_server(at.field, &live[number]) {
                self.push(&at.item(number), What::Extra);
            }
        }
    }
}

/// `live` with what is wanted.
fn overlay(wanted: &Value, live: &Value, field: &str, is_custom: bool) -> Value {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => {
            let mut result = live.clone();
            if is_exact(field, is_custom) {
                result.retain(|key, _| !is_extra(wanted, key));
            }
            for (key, value) in wanted {
                let before = live.get(key).unwrap_or(&Value::Null);
                let is_status = field.is_empty() && key == "status";
                let is_left_out = is_nothing(value) && before.is_null();
                if !is_status && !is_left_out {
                    result.insert(key.clone(), overlay(value, before, key, is_custom));
                }
            }
            Value::Object(result)
        }
        (Value::Array(wanted), Value::Array(live)) => {
            let list = List::of(field, wanted, live, is_custom);
            let Matching { pairs, extra } = list.pair(wanted, live);
            let kept = extra.into_iter().map(|number| &live[number]);
            let kept = kept.filter(|item| lists::is_added_by_server(field, item)).cloned();
            let laid = wanted.iter().zip(pairs).map(|(item, partner)| {
                partner.map_or_else(|| item.clone(), |at| overlay(item, &live[at], " ", is_custom))
            });
            laid.chain(kept).collect()
        }
        (Value::Null, _) => live.clone(),
        _ => wanted.clone(),
    }
}

/// Whether a live entry is one too many in a map that is the user's.
fn is_extra(wanted: &Map<String, Value>, key: &str) -> bool {
    !wanted.contains_key(key) && !SERVER_LABELS.contains(&key)
}

/// In custom resources the same words may mean anything, and the server may default what it likes.
fn is_exact(field: &str, is_custom: bool) -> bool {
    if is_custom { field == "labels" } else { EXACT.contains(&field) }
}

/// Whether leaving a value out says the same.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.values().all(is_nothing),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Bool(true) => false,
    }
}

fn is_equal(wanted: &Value, live: &Value, may_be_quantities: bool) -> bool {
    if wanted == live {
        return true;
    }
    if let (Value::Number(wanted), Value::Number(live)) = (wanted, live) {
        return wanted.as_f64() == live.as_f64();
    }
    let amount = |value: &Value| match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    };
    may_be_quantities && amount(wanted).is_some() && amount(wanted) == amount(live)
}

//! Workloads that come back stopped, and how they are started once all else is there.
//!
//! What was changed is kept in the annotation [`GATED`], so that whoever finds the object, also
//! after a crash, knows how to start it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::object::{annotation, group_kind, set_annotation, take_annotation};
use crate::patch::merge_patch;
use crate::path;

/// What was changed to stop an object: a JSON array of places and their values.
pub const GATED: &str = "salvor.dev/gated";

/// The name of the scheduling gate of pods, and the label no node has.
pub const GATE: &str = "salvor.dev/restore";

/// What a place held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Held {
    path: String,
    /// Missing: there was nothing, not even null.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "present")]
    value: Option<Value>,
    /// What it holds while the object is stopped. Missing: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "present")]
    gated: Option<Value>,
}

/// Tells a null from nothing at all.
mod present {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::Value;

    #[expect(clippy::ref_option, reason = "serde gives it so")]
    pub(super) fn serialize<S: Serializer>(
        value: &Option<Value>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        value.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Value>, D::Error> {
        Value::deserialize(from).map(Some)
    }
}

/// Whether objects like it can be held back, see [`stop`].
pub fn can_stop(object: &Value) -> bool {
    !places(object).is_empty()
}

/// Stops an object that is about to be created. Says whether it changed: what is stopped already, or
/// runs nothing, stays as it is.
pub fn stop(object: &mut Value) -> bool {
    if annotation(object, GATED).is_some() {
        return false;
    }
    let mut held = Vec::new();
    for (place, gated) in places(object) {
        let before = object.pointer(&place).cloned();
        if before == gated {
            continue;
        }
        put(object, &place, gated.clone());
        held.push(Held { path: place, value: before, gated });
    }
    if held.is_empty() {
        return false;
    }
    let Ok(text) = serde_json::to_string(&held) else { return false };
    set_annotation(object, GATED, &text);
    true
}

/// Undoes [`stop`] in an object: exactly what it was.
pub fn restore(object: &mut Value) -> bool {
    let Some(held) = held(object) else { return false };
    take_annotation(object, GATED);
    for Held { path, value, gated } in held.into_iter().rev() {
        if object.pointer(&path) == gated.as_ref() {
            put(object, &path, value);
        }
    }
    true
}

/// The JSON merge patch that starts a stopped object; none if it is not stopped. A place that
/// somebody has changed since is theirs, and stays.
pub fn start(live: &Value) -> Option<Value> {
    held(live)?;
    let mut started = live.clone();
    restore(&mut started);
    Some(merge_patch(live, &started))
}

fn held(object: &Value) -> Option<Vec<Held>> {
    serde_json::from_str(annotation(object, GATED)?).ok()
}

/// Places and what they hold while the object is stopped.
fn places(object: &Value) -> Vec<(String, Option<Value>)> {
    let at = |path: &str, value: Value| vec![(path.to_owned(), Some(value))];
    match group_kind(object) {
        ("apps", "Deployment" | "StatefulSet" | "ReplicaSet")
        | ("", "ReplicationController")
        | ("kubevirt.io", "VirtualMachineInstanceReplicaSet")
        | ("pool.kubevirt.io", "VirtualMachinePool")
        | ("argoproj.io", "Rollout") => at("/spec/replicas", json!(0)),
        ("batch", "Job" | "CronJob") => at("/spec/suspend", json!(true)),
        ("apps", "DaemonSet") => {
            let spec = "/spec/template/spec/nodeSelector";
            let mut selector = object.pointer(spec).and_then(Value::as_object).cloned();
            selector.get_or_insert_default().insert(GATE.to_owned(), json!("not-started"));
            vec![(spec.to_owned(), selector.map(Value::Object))]
        }
        ("", "Pod") => {
            let gates = object.pointer("/spec/schedulingGates").and_then(Value::as_array);
            let mut gates = gates.cloned().unwrap_or_default();
            if gates.iter().any(|gate| crate::object::text(gate, "/name") == GATE) {
                return Vec::new();
            }
            gates.push(json!({"name": GATE}));
            at("/spec/schedulingGates", Value::Array(gates))
        }
        ("kubevirt.io", "VirtualMachine") => vec![
            ("/spec/running".to_owned(), None),
            ("/spec/runStrategy".to_owned(), Some(json!("Halted"))),
        ],
        _ => Vec::new(),
    }
}

/// Puts a value at a place, or nothing. The place's parent must exist.
fn put(object: &mut Value, place: &str, value: Option<Value>) {
    let Some(value) = value else {
        path::remove(object, place);
        return;
    };
    let Some((parent, last)) = place.rsplit_once('/') else { return };
    if let Some(parent) = object.pointer_mut(parent).and_then(Value::as_object_mut) {
        parent.insert(last.to_owned(), value);
    }
}

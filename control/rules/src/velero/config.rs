//! `ConfigMap`s: resource policies, resource modifiers, and the mappings of restores.

use serde_json::{Map, Value, json};

use super::read::Notes;
use super::{Fate, Migration, Options, put};
use crate::modifiers::Modifiers;
use crate::yaml::{self, Node};

const CHANGE_STORAGE_CLASS: &str = "velero.io/change-storage-class";
const CHANGE_IMAGE_NAME: &str = "velero.io/change-image-name";

/// Mappings that Velero applies to every restore, and that are part of each Restore here.
#[derive(Default)]
pub(super) struct Mappings {
    storage_classes: Map<String, Value>,
    images: Vec<Value>,
}

pub(super) fn config_map(
    value: &Value,
    document: &Node,
    options: &Options,
    mappings: &mut Mappings,
    notes: &mut Notes<'_>,
) -> Option<Value> {
    let has_label = |label: &str| value["metadata"]["labels"].get(label).is_some();
    let data = value.get("data").and_then(Value::as_object).cloned().unwrap_or_default();
    if has_label(CHANGE_STORAGE_CLASS) {
        mappings.storage_classes.extend(data);
        let message = "its mappings are part of each Restore, as mappings.storageClasses";
        notes.whole(Fate::Changed, document.line, message);
        return None;
    }
    if has_label(CHANGE_IMAGE_NAME) {
        mappings.images.extend(data.values().filter_map(image));
        let message = "its mappings are part of each Restore, as mappings.images; here they fit the \
                       beginning of a name up to a slash, colon or at-sign, not any part of it";
        notes.whole(Fate::Changed, document.line, message);
        return None;
    }
    let only = data.values().next().filter(|_| data.len() == 1).and_then(Value::as_str);
    let parsed = only.and_then(|text| yaml::parse_value(text).ok()).unwrap_or_default();
    if parsed.get("resourceModifierRules").is_some() {
        check_modifiers(value, notes, document.line);
    } else if parsed.get("volumePolicies").is_some() || parsed.get("includeExcludePolicy").is_some()
    {
        check_policies(&parsed, notes, document.line);
    } else {
        let message = "is neither resource policies nor resource modifiers; it is left as it is";
        notes.whole(Fate::Dropped, document.line, message);
        return None;
    }
    let name = value["metadata"]["name"].clone();
    Some(json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": name, "namespace": options.namespace },
        "data": data,
    }))
}

/// `old,new`.
fn image(value: &Value) -> Option<Value> {
    let (from, to) = value.as_str()?.split_once(',')?;
    Some(json!({ "from": from.trim(), "to": to.trim() }))
}

fn check_modifiers(config_map: &Value, notes: &mut Notes<'_>, line: u64) {
    match Modifiers::from_config_map(config_map) {
        Ok(modifiers) => {
            for warning in modifiers.warnings() {
                notes.add(Fate::Changed, "data", line, warning.to_string());
            }
        }
        Err(invalid) => {
            for problem in invalid.problems {
                let message = format!("must be corrected: {problem}");
                notes.add(Fate::ToDo, "data", line, message);
            }
        }
    }
}

/// The format is read as it is; actions that mean something else are named.
fn check_policies(policies: &Value, notes: &mut Notes<'_>, line: u64) {
    let rows = policies.get("volumePolicies").and_then(Value::as_array);
    for (index, policy) in rows.into_iter().flatten().enumerate() {
        let action = policy.pointer("/action/type").and_then(Value::as_str).unwrap_or_default();
        let field = format!("volumePolicies[{index}].action");
        match action {
            "skip" | "fs-backup" => {}
            "snapshot" => {
                let message = "snapshot: the volume is copied from a snapshot to the repository";
                notes.add(Fate::Changed, &field, line, message);
            }
            other => {
                let message = format!(
                    "{other:?} is a plugin's own action; choose skip, fs-backup or snapshot"
                );
                notes.add(Fate::ToDo, &field, line, message);
            }
        }
        if policy.pointer("/action/parameters").is_some() {
            let message = "parameters are a plugin's own";
            notes.add(Fate::Dropped, &format!("{field}.parameters"), line, message);
        }
    }
    if policies.get("includeExcludePolicy").is_some() {
        let message = "name the kinds in the selection of the Backup or plan instead";
        notes.add(Fate::ToDo, "includeExcludePolicy", line, message);
    }
}

impl Mappings {
    /// Puts the mappings into every Restore of the stream.
    pub(super) fn finish(self, migration: &mut Migration) {
        if self.storage_classes.is_empty() && self.images.is_empty() {
            return;
        }
        for object in &mut migration.objects {
            if object["kind"] != "Restore" {
                continue;
            }
            if !self.storage_classes.is_empty() {
                let map = Value::Object(self.storage_classes.clone());
                put(object, "spec.mappings.storageClasses", map);
            }
            if !self.images.is_empty() {
                put(object, "spec.mappings.images", Value::Array(self.images.clone()));
            }
        }
    }
}

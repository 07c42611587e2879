//! Backup and Schedule.

use serde_json::{Value, json};

use super::filters::{label_selectors, selection};
use super::read::{Fields, Notes};
use super::{Fate, Options, new_object, put};
use crate::schedule::split_zone;

/// How long Velero keeps a backup if nothing is said.
const TTL_DEFAULT: &str = "720h";

pub(super) fn backup(root: &mut Fields<'_>, options: &Options, notes: &mut Notes<'_>) -> Value {
    let mut object = new_object("Backup", root, options, notes);
    let message = "creating it starts a new backup; what Velero stored is not read";
    notes.whole(Fate::ToDo, root.line(), message);
    let mut spec = root.map("spec").unwrap_or_else(|| empty("spec"));
    object["spec"] = content(&mut spec, notes);
    put(&mut object, "spec.ttl", json!(ttl(&mut spec, notes)));
    for (key, value) in metadata_labels(&mut spec) {
        object["metadata"]["labels"][key] = value;
    }
    spec.finish(notes);
    std::mem::replace(root, empty("")).finish(notes);
    object
}

pub(super) fn schedule(root: &mut Fields<'_>, options: &Options, notes: &mut Notes<'_>) -> Value {
    let mut object = new_object("BackupPlan", root, options, notes);
    let mut spec = root.map("spec").unwrap_or_else(|| empty("spec"));
    cadence(&mut spec, &mut object, notes);
    if spec.truth("paused") == Some(true) {
        put(&mut object, "spec.paused", json!(true));
    }
    let why = "a plan's backups always outlive it";
    if spec.truth("useOwnerReferencesInBackup") == Some(true) {
        spec.drop("useOwnerReferencesInBackup", why, notes);
    }
    let mut template = spec.map("template").unwrap_or_else(|| empty("spec.template"));
    let mut ours = content(&mut template, notes);
    // Velero copies a schedule's labels to its backups.
    let labels = object["metadata"].get("labels").cloned().unwrap_or_else(|| json!({}));
    let mut labels = labels.as_object().cloned().unwrap_or_default();
    labels.extend(metadata_labels(&mut template));
    if !labels.is_empty() {
        ours["labels"] = Value::Object(labels);
    }
    if let Some(annotations) = object["metadata"].get("annotations") {
        ours["annotations"] = annotations.clone();
    }
    let keep = ttl(&mut template, notes);
    put(&mut object, "spec.retention.keepWithin", json!(keep));
    put(&mut object, "spec.template", ours);
    template.finish(notes);
    spec.finish(notes);
    std::mem::replace(root, empty("")).finish(notes);
    object
}

/// Fields of an object that has none.
pub(super) fn empty(path: &str) -> Fields<'static> {
    static NOTHING: crate::yaml::Node =
        crate::yaml::Node { line: 0, kind: crate::yaml::Kind::Null };
    Fields::new(&NOTHING, path)
}

/// Expression and zone.
fn cadence(spec: &mut Fields<'_>, object: &mut Value, notes: &mut Notes<'_>) {
    let (field, line) = (spec.path("schedule"), spec.line_of("schedule"));
    let text = spec.text("schedule").unwrap_or_default();
    let (zone, expression) = split_zone(&text);
    let expression = match expression.strip_prefix("@every ") {
        None => Some(expression.to_owned()),
        Some(interval) => {
            let cron = every_as_cron(interval);
            let message = match &cron {
                Some(cron) => format!("@every {interval} becomes {cron:?}, by the clock"),
                None => format!("@every {interval} fits no clock; write it as cron"),
            };
            let fate = if cron.is_some() { Fate::Changed } else { Fate::ToDo };
            notes.add(fate, &field, line, message);
            cron
        }
    };
    if let Some(expression) = expression {
        put(object, "spec.schedule.cron", json!(expression));
    }
    if let Some(zone) = zone {
        put(object, "spec.schedule.timeZone", json!(zone));
    }
    let runs_missed = !spec.truth("skipImmediately").unwrap_or(false);
    put(object, "spec.schedule.runMissed", json!(runs_missed));
}

/// An interval that divides an hour or a day.
fn every_as_cron(interval: &str) -> Option<String> {
    let seconds = interval.trim().parse::<jiff::SignedDuration>().ok()?.as_secs();
    let minutes = (seconds > 0 && seconds % 60 == 0).then_some(seconds / 60)?;
    match minutes {
        1 => Some("* * * * *".into()),
        60 => Some("0 * * * *".into()),
        1440 => Some("0 0 * * *".into()),
        10_080 => Some("0 0 * * 0".into()),
        minutes if minutes < 60 && 60 % minutes == 0 => Some(format!("*/{minutes} * * * *")),
        minutes if minutes % 60 == 0 && minutes < 1440 && 24 % (minutes / 60) == 0 => {
            Some(format!("0 */{} * * *", minutes / 60))
        }
        _ => None,
    }
}

/// Velero's default is a month; ours is for ever.
fn ttl(spec: &mut Fields<'_>, notes: &mut Notes<'_>) -> String {
    let (field, line) = (spec.path("ttl"), spec.line_of("ttl"));
    spec.span("ttl", notes).unwrap_or_else(|| {
        let message = "is not set, which is 720h in Velero and for ever here; 720h is written";
        notes.add(Fate::Changed, &field, line, message);
        TTL_DEFAULT.into()
    })
}

fn metadata_labels(spec: &mut Fields<'_>) -> serde_json::Map<String, Value> {
    let labels = spec.map("metadata").and_then(|mut metadata| metadata.value("labels"));
    labels.and_then(|labels| labels.as_object().cloned()).unwrap_or_default()
}

/// What a Backup and a plan share.
fn content(spec: &mut Fields<'_>, notes: &mut Notes<'_>) -> Value {
    let mut ours = json!({ "selection": {} });
    selection(spec, &mut ours["selection"], notes);
    if let Some(location) = spec.text("storageLocation") {
        put(&mut ours, "repository.name", json!(location));
    }
    volumes(spec, &mut ours, notes);
    if let Some(mut hooks) = spec.map("hooks") {
        let mut sets = Vec::new();
        for node in hooks.list("resources") {
            let mut fields = Fields::new(node, &hooks.path("resources[]"));
            sets.push(hook_set(&mut fields, notes));
            fields.finish(notes);
        }
        if !sets.is_empty() {
            put(&mut ours, "hooks.sets", Value::Array(sets));
        }
        hooks.finish(notes);
    }
    let ordered = ordered(spec);
    if !ordered.is_empty() {
        ours["orderedObjects"] = Value::Array(ordered);
    }
    let why = "a copy is given up when it stalls, not after a set time";
    spec.drop("itemOperationTimeout", why, notes);
    ours
}

fn ordered(spec: &mut Fields<'_>) -> Vec<Value> {
    let map = spec.value("orderedResources");
    let map = map.as_ref().and_then(Value::as_object).into_iter().flatten();
    let rows = map.filter_map(|(kind, names)| {
        let names = names.as_str()?.split(',').map(str::trim).filter(|name| !name.is_empty());
        Some(json!({ "kind": kind, "objects": names.collect::<Vec<_>>() }))
    });
    rows.collect()
}

fn volumes(spec: &mut Fields<'_>, ours: &mut Value, notes: &mut Notes<'_>) {
    let snapshots = spec.truth("snapshotVolumes");
    let by_file = spec.truth("defaultVolumesToFsBackup").or(spec.truth("defaultVolumesToRestic"));
    spec.ignore(&["defaultVolumesToRestic"]);
    let method = match (snapshots, by_file) {
        (_, Some(true)) => Some("Live"),
        (Some(false), _) => Some("Skip"),
        _ => None,
    };
    if let Some(method) = method {
        put(ours, "volumes.method", json!(method));
    }
    if method == Some("Live") {
        let message = "volumes are read live, as in Velero; leave volumes.method out to read them \
                       from snapshots where the driver makes them";
        let name = "defaultVolumesToFsBackup";
        notes.add(Fate::Changed, &spec.path(name), spec.line_of(name), message);
    }
    let (field, line) = (spec.path("snapshotMoveData"), spec.line_of("snapshotMoveData"));
    if spec.truth("snapshotMoveData") != Some(true) && method.is_none() {
        let message = "is not set: Velero leaves snapshots in the cluster, here data is copied to \
                       the repository; volumes.method LocalSnapshot leaves it there";
        notes.add(Fate::Changed, &field, line, message);
    }
    if let Some(timeout) = spec.span("csiSnapshotTimeout", notes) {
        put(ours, "volumes.snapshotTimeout", json!(timeout));
    }
    if let Some(label) = spec.text("volumeGroupSnapshotLabelKey") {
        put(ours, "volumes.groupLabel", json!(label));
    }
    for name in ["resourcePolicy", "resourcePolicies", "resourcePolices"] {
        if let Some(mut reference) = spec.map(name) {
            if let Some(name) = reference.text("name") {
                put(ours, "volumes.policyConfigMap.name", json!(name));
            }
            reference.ignore(&["kind", "apiGroup"]);
            reference.finish(notes);
        }
    }
    spec.drop("volumeSnapshotLocations", "native snapshotters are not used; CSI ones are", notes);
    spec.drop("uploaderConfig", "parallelism follows from the machine and the budget", notes);
    match spec.text("datamover").as_deref() {
        None | Some("velero") => {}
        Some(_) => spec.drop("datamover", "data is moved by Salvor's own agents", notes),
    }
}

/// The part that hook specs of backups and restores share.
pub(super) fn hook_scope(fields: &mut Fields<'_>, notes: &mut Notes<'_>) -> Value {
    let name = fields.text("name").unwrap_or_else(|| "velero".into());
    let mut set = json!({ "name": name });
    for (theirs, ours) in
        [("includedNamespaces", "namespaces.include"), ("excludedNamespaces", "namespaces.exclude")]
    {
        let mut namespaces = fields.texts(theirs);
        namespaces.retain(|namespace| namespace != "*");
        if !namespaces.is_empty() {
            put(&mut set, ours, json!(namespaces));
        }
    }
    let is_pods = |kind: &String| matches!(kind.as_str(), "*" | "pods" | "pod" | "po");
    let (field, line) = (fields.path("includedResources"), fields.line_of("includedResources"));
    let kinds = fields.texts("includedResources");
    if !kinds.is_empty() && !kinds.iter().any(is_pods) {
        let message = "hooks run in pods only; in Velero this one never ran";
        notes.add(Fate::Changed, &field, line, message);
    }
    fields.drop("excludedResources", "hooks run in pods only", notes);
    let selectors = label_selectors(fields);
    if !selectors.is_empty() {
        set["labelSelectors"] = Value::Array(selectors);
    }
    set
}

fn hook_set(fields: &mut Fields<'_>, notes: &mut Notes<'_>) -> Value {
    let mut set = hook_scope(fields, notes);
    for phase in ["pre", "post"] {
        let mut hooks = Vec::new();
        let path = fields.path(&format!("{phase}[]"));
        for node in fields.list(phase) {
            let mut hook = Fields::new(node, &path);
            if let Some(mut exec) = hook.map("exec") {
                hooks.push(exec_hook(&mut exec, &[("timeout", "timeout")], notes));
                exec.finish(notes);
            }
            hook.finish(notes);
        }
        if !hooks.is_empty() {
            set[phase] = Value::Array(hooks);
        }
    }
    set
}

/// * `spans`: lengths of time, by their names there and here.
pub(super) fn exec_hook(
    exec: &mut Fields<'_>,
    spans: &[(&str, &str)],
    notes: &mut Notes<'_>,
) -> Value {
    let mut hook = json!({ "command": exec.texts("command") });
    for name in ["container", "onError"] {
        if let Some(text) = exec.text(name) {
            hook[name] = json!(text);
        }
    }
    for (theirs, ours) in spans {
        if let Some(span) = exec.span(theirs, notes) {
            hook[*ours] = json!(span);
        }
    }
    hook
}

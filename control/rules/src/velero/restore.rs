//! Restore.

use serde_json::{Value, json};

use super::backup::{empty, exec_hook, hook_scope};
use super::filters::selection;
use super::read::{Fields, Notes};
use super::{Fate, Options, new_object, put};
use crate::yaml::Node;

pub(super) fn restore(root: &mut Fields<'_>, options: &Options, notes: &mut Notes<'_>) -> Value {
    let labels = root.take("metadata").map(Node::to_value);
    let labels = labels.and_then(|metadata| metadata.get("labels").cloned());
    let mut object = new_object("Restore", root, options, notes);
    let mut spec = root.map("spec").unwrap_or_else(|| empty("spec"));
    let mut ours = json!({ "source": {}, "selection": {} });
    source(&mut spec, &mut ours, notes);
    selection(&mut spec, &mut ours["selection"], notes);
    objects(&mut spec, &mut ours, notes);
    volumes(&mut spec, &mut ours, notes);
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
    kubevirt(labels.as_ref(), root.line(), &mut ours, notes);
    object["spec"] = ours;
    spec.finish(notes);
    std::mem::replace(root, empty("")).finish(notes);
    object
}

fn source(spec: &mut Fields<'_>, ours: &mut Value, notes: &mut Notes<'_>) {
    let (field, line) = (spec.path("backupName"), spec.line_of("backupName"));
    let schedule = spec.text("scheduleName");
    if let Some(backup) = spec.text("backupName") {
        let message = format!("a Salvor Backup {backup:?} must exist; Velero's own cannot be read");
        notes.add(Fate::ToDo, &field, line, message);
        put(ours, "source.backup", json!(backup));
    } else if let Some(plan) = schedule {
        put(ours, "source.plan", json!(plan));
    } else {
        notes.add(Fate::ToDo, &field, line, "neither a backup nor a schedule is named");
    }
}

fn objects(spec: &mut Fields<'_>, ours: &mut Value, notes: &mut Notes<'_>) {
    if let Some(map) = spec.value("namespaceMapping").filter(|map| map != &json!({})) {
        put(ours, "mappings.namespaces", map);
    }
    if let Some(mut status) = spec.map("restoreStatus") {
        // Named and empty means every kind, as in Velero.
        let mut included = status.texts("includedResources");
        if included.is_empty() {
            included.push("*".into());
        }
        put(ours, "status.include", json!(included));
        let excluded = status.texts("excludedResources");
        if !excluded.is_empty() {
            put(ours, "status.exclude", json!(excluded));
        }
        status.finish(notes);
    }
    if spec.truth("preserveNodePorts") == Some(true) {
        put(ours, "services.nodePorts", json!("Keep"));
        put(ours, "services.healthCheckNodePorts", json!("Keep"));
    }
    let (field, line) = ("existingResourcePolicy", spec.line_of("existingResourcePolicy"));
    match spec.text(field).as_deref() {
        None | Some("none") => {}
        Some("update") => put(ours, "existingObjects.policy", json!("Update")),
        Some(other) => {
            let message = format!("{other:?} is not known; choose Skip, Update, Replace or Fail");
            notes.add(Fate::ToDo, &spec.path(field), line, message);
        }
    }
    if let Some(mut reference) = spec.map("resourceModifier") {
        let line = reference.line();
        if let Some(name) = reference.text("name") {
            put(ours, "modifiers", json!([{ "name": name }]));
            let message = "a patch that fails blocks its object here; in Velero the object is \
                           created without it";
            notes.add(Fate::Changed, &spec.path("resourceModifier"), line, message);
        }
        reference.ignore(&["kind", "apiGroup"]);
        reference.finish(notes);
    }
    let why = "a copy is given up when it stalls, not after a set time";
    spec.drop("itemOperationTimeout", why, notes);
}

fn volumes(spec: &mut Fields<'_>, ours: &mut Value, notes: &mut Notes<'_>) {
    if spec.truth("restorePVs") == Some(false) {
        put(ours, "volumes.data", json!("Empty"));
    }
    if let Some(mut uploader) = spec.map("uploaderConfig") {
        if let Some(sparse) = uploader.truth("writeSparseFiles") {
            put(ours, "volumes.sparse", json!(sparse));
        }
        let why = "parallelism follows from the machine and the budget";
        uploader.drop("parallelFilesDownload", why, notes);
        uploader.finish(notes);
    }
}

fn hook_set(fields: &mut Fields<'_>, notes: &mut Notes<'_>) -> Value {
    let mut set = hook_scope(fields, notes);
    let (mut init, mut exec) = (Vec::new(), Vec::new());
    let path = fields.path("postHooks[]");
    for node in fields.list("postHooks") {
        let mut hook = Fields::new(node, &path);
        if let Some(mut theirs) = hook.map("exec") {
            let spans = [("execTimeout", "execTimeout"), ("waitTimeout", "waitTimeout")];
            let mut ours = exec_hook(&mut theirs, &spans, notes);
            if let Some(wait) = theirs.truth("waitForReady") {
                ours["waitForReady"] = json!(wait);
            }
            if ours.get("waitTimeout").is_none() {
                let message = "is not set: Velero waits for ever, here 10m are the most";
                notes.add(Fate::Changed, &theirs.path("waitTimeout"), theirs.line(), message);
            }
            exec.push(ours);
            theirs.finish(notes);
        }
        if let Some(mut theirs) = hook.map("init") {
            let timeout = theirs.span("timeout", notes);
            let path = theirs.path("initContainers[]");
            for node in theirs.list("initContainers") {
                let mut container = Fields::new(node, &path);
                init.push(init_hook(&mut container, timeout.as_deref()));
                container.finish(notes);
            }
            theirs.finish(notes);
        }
        hook.finish(notes);
    }
    for (name, hooks) in [("init", init), ("exec", exec)] {
        if !hooks.is_empty() {
            set[name] = Value::Array(hooks);
        }
    }
    set
}

fn init_hook(container: &mut Fields<'_>, timeout: Option<&str>) -> Value {
    let mut command = container.texts("command");
    command.extend(container.texts("args"));
    let mut hook = json!({ "command": command });
    for (theirs, ours) in [("name", "containerName"), ("image", "image")] {
        if let Some(text) = container.text(theirs) {
            hook[ours] = json!(text);
        }
    }
    if let Some(timeout) = timeout {
        hook["timeout"] = json!(timeout);
    }
    hook
}

/// The labels by which `KubeVirt`'s plugin takes its options.
fn kubevirt(labels: Option<&Value>, line: u64, ours: &mut Value, notes: &mut Notes<'_>) {
    const PREFIX: &str = "velero.kubevirt.io/";
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        let Some(name) = key.strip_prefix(PREFIX) else { continue };
        match name {
            "restore-run-strategy" => put(ours, "kubevirt.runStrategy", value.clone()),
            "clear-mac-address" => put(ours, "kubevirt.clearMACAddresses", json!(true)),
            "generate-new-firmware-uuid" => put(ours, "kubevirt.newFirmwareUUID", json!(true)),
            _ => {
                let message = "is no option that is known here";
                notes.add(Fate::Dropped, &format!("metadata.labels.{key}"), line, message);
            }
        }
    }
}

//! In restored pods: init containers before them, commands once they run.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    ExecRun, Faults, Namespaces, OnError, Pod, PodAnnotations, Problem, Source, annotations,
    default_timeout, default_wait, span,
};
use crate::selector::Selector;

/// The name of a hook's init container if none is given.
pub const INIT_NAME: &str = "salvor-restore-hook";

/// The hooks in the spec of a Restore.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RestoreHooks {
    /// Whether hooks declared on pods run.
    pub pod_annotations: PodAnnotations,
    /// In this order.
    pub sets: Vec<RestoreHookSet>,
}

/// Hooks of some pods.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RestoreHookSet {
    /// What reports call it.
    pub name: String,
    /// Where its pods were at the time of the backup.
    pub namespaces: Namespaces,
    #[serde(rename = "labelSelectors")]
    selectors: Vec<Selector>,
    /// Put before the init containers.
    pub init: Vec<InitHook>,
    /// Run once the container is up.
    pub exec: Vec<RestoreExecHook>,
}

/// An init container.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InitHook {
    /// None: [`INIT_NAME`].
    #[serde(default)]
    pub container_name: Option<String>,
    /// None: that of the pod's first container.
    #[serde(default)]
    pub image: Option<String>,
    /// Program and arguments.
    #[serde(default)]
    pub command: Vec<String>,
    /// How long it may take.
    #[serde(default = "default_wait", deserialize_with = "span")]
    pub timeout: Duration,
}

/// A command in a restored pod.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreExecHook {
    /// None: the pod's first.
    #[serde(default)]
    pub container: Option<String>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// What a failure means.
    #[serde(default = "continue_then")]
    pub on_error: OnError,
    /// How long it may take.
    #[serde(default = "default_timeout", deserialize_with = "span")]
    pub exec_timeout: Duration,
    /// How long to wait for the container.
    #[serde(default = "default_wait", deserialize_with = "span")]
    pub wait_timeout: Duration,
    /// Whether to wait until it is ready, not only running.
    #[serde(default)]
    pub wait_for_ready: bool,
}

const fn continue_then() -> OnError {
    OnError::Continue
}

/// A command to run in a restored pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreRun {
    /// What and where.
    pub exec: ExecRun,
    /// How long to wait for the container.
    pub wait_timeout: Duration,
    /// Whether it must be ready, not only running.
    pub wait_for_ready: bool,
}

/// What runs in one restored pod, or in the pods of one template.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RestorePlan {
    /// Containers to put first in `spec.initContainers`, in this order.
    pub init: Vec<Value>,
    /// How long all of them may take.
    pub init_timeout: Duration,
    /// Once the pod is up, in this order.
    pub exec: Vec<RestoreRun>,
    /// What cannot run.
    pub problems: Vec<Problem>,
}

impl RestorePlan {
    /// Puts the init containers into the `spec` of the pod or template. Those that are there under
    /// a hook's name give way, so that a second restore does not add a second one.
    pub fn put_init(&self, spec: &mut Value) {
        if self.init.is_empty() {
            return;
        }
        let Some(spec) = spec.as_object_mut() else { return };
        let own =
            |container: &Value| self.init.iter().any(|hook| hook["name"] == container["name"]);
        let known = spec.get("initContainers").and_then(Value::as_array).cloned();
        let known = known.unwrap_or_default().into_iter().filter(|container| !own(container));
        let containers: Vec<Value> = self.init.iter().cloned().chain(known).collect();
        spec.insert("initContainers".into(), Value::Array(containers));
    }
}

/// Plans the hooks of a pod or of a pod template (an object with `metadata` and `spec`).
///
/// * `namespace`: where it was at the time of the backup.
/// * `name`: of the pod, or of what has the template; for messages.
pub fn restore(pod: &Value, namespace: &str, name: &str, hooks: &RestoreHooks) -> RestorePlan {
    let pod = Pod { object: pod, namespace, name };
    let mut faults = Faults { pod, found: Vec::new() };
    let mut plan = RestorePlan::default();
    let is_honoured = hooks.pod_annotations == PodAnnotations::Honour;
    let sets: Vec<&RestoreHookSet> =
        hooks.sets.iter().filter(|set| pod.is_selected(&set.namespaces, &set.selectors)).collect();
    let init_prefix = annotations::restore_prefix(pod, "init", "container-image");
    match init_prefix.filter(|_| is_honoured) {
        Some(prefix) => annotated_init(pod, &prefix, &mut plan, &mut faults),
        None => {
            for (set, hook) in sets.iter().flat_map(|set| set.init.iter().map(move |h| (set, h))) {
                spec_init(pod, &set.name, hook, &mut plan, &mut faults);
            }
        }
    }
    let annotated = is_honoured.then(|| annotations::restore_exec(pod, &mut faults)).flatten();
    match annotated {
        Some((prefix, run)) => {
            plan.exec.extend(run.and_then(|exec| waits(pod, &prefix, exec, &mut faults)));
        }
        None => {
            for (set, hook) in sets.iter().flat_map(|set| set.exec.iter().map(move |h| (set, h))) {
                plan.exec.extend(spec_exec(pod, &set.name, hook, &mut faults));
            }
        }
    }
    faults.bound(&mut plan.init, "init");
    faults.bound(&mut plan.exec, "exec");
    plan.problems = faults.found;
    plan
}

fn annotated_init(pod: Pod<'_>, prefix: &str, plan: &mut RestorePlan, faults: &mut Faults<'_>) {
    let key = |field: &str| format!("{prefix}/{field}");
    let command_key = key("command");
    let command = pod.annotation(&command_key).map(annotations::command).transpose();
    let command = faults.keep(command, &command_key, OnError::Fail);
    let timeout =
        annotations::time(pod, &key("timeout"), super::WAIT_DEFAULT, OnError::Fail, faults);
    let (Some(command), Some(timeout)) = (command, timeout) else { return };
    let name = pod.annotation(&key("container-name")).unwrap_or(INIT_NAME);
    let image = pod.annotation(&key("container-image")).unwrap_or_default();
    plan.init.push(init_container(name, image, &command.unwrap_or_default()));
    plan.init_timeout = plan.init_timeout.saturating_add(timeout);
}

fn spec_init(
    pod: Pod<'_>,
    set: &str,
    hook: &InitHook,
    plan: &mut RestorePlan,
    faults: &mut Faults<'_>,
) {
    let first = pod.object.pointer("/spec/containers/0/image").and_then(Value::as_str);
    let field = format!("{set}.init");
    let Some(image) = hook.image.as_deref().or(first) else {
        faults.add(field, "has no image, and the pod has none to take over", OnError::Fail);
        return;
    };
    let name = hook.container_name.as_deref().unwrap_or(INIT_NAME);
    if plan.init.iter().any(|container| container["name"] == name) {
        let message = format!("a second init container {name:?}; give containerName");
        faults.add(field, message, OnError::Fail);
        return;
    }
    plan.init.push(init_container(name, image, &hook.command));
    plan.init_timeout = plan.init_timeout.saturating_add(hook.timeout);
}

/// An empty command leaves the image its own.
fn init_container(name: &str, image: &str, command: &[String]) -> Value {
    match command {
        [] => json!({ "name": name, "image": image }),
        command => json!({ "name": name, "image": image, "command": command }),
    }
}

/// What Velero's annotations say of waiting.
fn waits(pod: Pod<'_>, prefix: &str, exec: ExecRun, faults: &mut Faults<'_>) -> Option<RestoreRun> {
    let wait_key = format!("{prefix}/wait-timeout");
    let wait_timeout =
        annotations::time(pod, &wait_key, super::WAIT_DEFAULT, exec.on_error, faults);
    let ready_key = format!("{prefix}/wait-for-ready");
    let wait_for_ready = match pod.annotation(&ready_key) {
        None => Some(false),
        Some(text) if text.eq_ignore_ascii_case("true") => Some(true),
        Some(text) if text.eq_ignore_ascii_case("false") => Some(false),
        Some(text) => {
            let message = format!("is {text:?}; it must be true or false");
            faults.add(ready_key, message, exec.on_error);
            None
        }
    };
    Some(RestoreRun { exec, wait_timeout: wait_timeout?, wait_for_ready: wait_for_ready? })
}

fn spec_exec(
    pod: Pod<'_>,
    set: &str,
    hook: &RestoreExecHook,
    faults: &mut Faults<'_>,
) -> Option<RestoreRun> {
    let field = format!("{set}.exec");
    let container = pod.container(hook.container.as_deref());
    let container = faults.keep(container, &field, hook.on_error)?;
    if hook.command.is_empty() {
        faults.add(field, "has no command", hook.on_error);
        return None;
    }
    let exec = ExecRun {
        source: Source::Set(set.to_owned()),
        container,
        command: hook.command.clone(),
        on_error: hook.on_error,
        timeout: hook.exec_timeout,
    };
    let (wait_timeout, wait_for_ready) = (hook.wait_timeout, hook.wait_for_ready);
    Some(RestoreRun { exec, wait_timeout, wait_for_ready })
}

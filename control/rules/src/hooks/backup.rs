//! Before and after the snapshots of a pod's volumes.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::{
    ExecRun, Faults, Namespaces, OnError, Pod, PodAnnotations, Problem, Source, annotations,
    default_timeout, default_wait, span,
};
use crate::hooks::annotations::Annotated;
use crate::selector::Selector;

/// The hooks in the spec of a Backup.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupHooks {
    /// Whether hooks declared on pods run.
    pub pod_annotations: PodAnnotations,
    /// In this order.
    pub sets: Vec<BackupHookSet>,
}

/// Hooks of some pods.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupHookSet {
    /// What reports call it.
    pub name: String,
    /// Where its pods are.
    pub namespaces: Namespaces,
    #[serde(rename = "labelSelectors")]
    selectors: Vec<Selector>,
    /// Before.
    pub pre: Vec<ExecHook>,
    /// After.
    pub post: Vec<ExecHook>,
    /// From before to after.
    pub sessions: Vec<SessionHook>,
}

/// A command that ends by itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecHook {
    /// None: the pod's first.
    #[serde(default)]
    pub container: Option<String>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// What a failure means.
    #[serde(default)]
    pub on_error: OnError,
    /// How long it may take.
    #[serde(default = "default_timeout", deserialize_with = "span")]
    pub timeout: Duration,
}

/// A command that stays open while the snapshots are taken.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionHook {
    /// None: the pod's first.
    #[serde(default)]
    pub container: Option<String>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Written to it first.
    #[serde(default)]
    pub open_input: Option<String>,
    /// A line of output with this says that it is ready; none: it is at once.
    #[serde(default)]
    pub ready_output: Option<String>,
    /// How long it may take to be ready.
    #[serde(default = "default_timeout", deserialize_with = "span")]
    pub ready_timeout: Duration,
    /// Written to it after the snapshots, before its input is closed.
    #[serde(default)]
    pub close_input: Option<String>,
    /// How long it may take to end then.
    #[serde(default = "default_timeout", deserialize_with = "span")]
    pub close_timeout: Duration,
    /// The longest that it stays open.
    #[serde(default = "default_wait", deserialize_with = "span")]
    pub open_timeout: Duration,
    /// What a failure means.
    #[serde(default)]
    pub on_error: OnError,
}

/// A session of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRun {
    /// Where it came from.
    pub source: Source,
    /// The container; one that exists.
    pub container: String,
    /// What it does and how long it may.
    pub hook: SessionHook,
}

/// What runs in one pod, in this order: `pre`, `sessions` opened; the snapshots; `sessions` closed
/// last opened first, `post`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupPlan {
    /// Before.
    pub pre: Vec<ExecRun>,
    /// From before to after.
    pub sessions: Vec<SessionRun>,
    /// After; runs whatever came before.
    pub post: Vec<ExecRun>,
    /// What cannot run.
    pub problems: Vec<Problem>,
    /// Why nothing runs although hooks are declared: the pod does not run.
    pub idle: Option<String>,
}

impl BackupPlan {
    /// Whether there is anything to run or to say.
    pub const fn is_empty(&self) -> bool {
        self.pre.is_empty()
            && self.sessions.is_empty()
            && self.post.is_empty()
            && self.problems.is_empty()
            && self.idle.is_none()
    }

    /// The longest that this pod's hooks can hold up the snapshots of its group.
    pub fn longest(&self) -> Duration {
        let pre: Duration = self.pre.iter().map(|run| run.timeout).sum();
        let sessions: Duration = self.sessions.iter().map(|run| run.hook.ready_timeout).sum();
        pre.saturating_add(sessions)
    }
}

/// Plans the hooks of a Pod.
pub fn backup(pod: &Value, hooks: &BackupHooks) -> BackupPlan {
    let text = |path: &str| pod.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let phase = text("/status/phase");
    let pod =
        Pod { object: pod, namespace: text("/metadata/namespace"), name: text("/metadata/name") };
    let mut faults = Faults { pod, found: Vec::new() };
    let mut plan = BackupPlan {
        pre: execs(pod, hooks, "pre", |set| &set.pre, &mut faults),
        post: execs(pod, hooks, "post", |set| &set.post, &mut faults),
        ..BackupPlan::default()
    };
    for set in hooks.sets.iter().filter(|set| pod.is_selected(&set.namespaces, &set.selectors)) {
        for hook in &set.sessions {
            let container = pod.container(hook.container.as_deref());
            let field = format!("{}.sessions", set.name);
            let Some(container) = faults.keep(container, &field, hook.on_error) else { continue };
            if hook.command.is_empty() {
                faults.add(field, "has no command", hook.on_error);
                continue;
            }
            let source = Source::Set(set.name.clone());
            plan.sessions.push(SessionRun { source, container, hook: hook.clone() });
        }
    }
    faults.bound(&mut plan.sessions, "sessions");
    plan.problems = faults.found;
    if phase != "Running" && !plan.is_empty() {
        let idle =
            format!("pod {} is {phase:?}, not Running: its hooks do not run", pod.full_name());
        return BackupPlan { idle: Some(idle), ..BackupPlan::default() };
    }
    plan
}

/// The commands of one phase: the annotated one, or those of the spec.
fn execs<'h>(
    pod: Pod<'_>,
    hooks: &'h BackupHooks,
    phase: &str,
    of: impl Fn(&'h BackupHookSet) -> &'h [ExecHook],
    faults: &mut Faults<'_>,
) -> Vec<ExecRun> {
    if hooks.pod_annotations == PodAnnotations::Honour {
        match annotations::backup_exec(pod, phase, faults) {
            Annotated::No => {}
            Annotated::Unusable => return Vec::new(),
            Annotated::Exec(run) => return vec![run],
        }
    }
    let mut runs = Vec::new();
    for set in hooks.sets.iter().filter(|set| pod.is_selected(&set.namespaces, &set.selectors)) {
        for hook in of(set) {
            let field = format!("{}.{phase}", set.name);
            let container = pod.container(hook.container.as_deref());
            let Some(container) = faults.keep(container, &field, hook.on_error) else { continue };
            if hook.command.is_empty() {
                faults.add(field, "has no command", hook.on_error);
                continue;
            }
            runs.push(ExecRun {
                source: Source::Set(set.name.clone()),
                container,
                command: hook.command.clone(),
                on_error: hook.on_error,
                timeout: hook.timeout,
            });
        }
    }
    faults.bound(&mut runs, phase);
    runs
}

//! Which hooks run in which pods, as a plan: containers resolved, times bounded, what cannot run
//! named. Nothing is run here.
//!
//! Hooks come from annotations on the pod (ours, and Velero's under their names) and from the spec
//! of a Backup or Restore. As in Velero, a pod that is annotated for a phase takes nothing of that
//! phase from the spec. Unlike in Velero, an annotation that cannot be read is an error: a hook that
//! silently waits another time, or runs another command, is none.

mod annotations;
mod backup;
mod restore;

use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::glob::Glob;
use crate::selector::Selector;
pub use backup::{
    BackupHookSet, BackupHooks, BackupPlan, ExecHook, SessionHook, SessionRun, backup,
};
pub use restore::{
    INIT_NAME, InitHook, RestoreExecHook, RestoreHookSet, RestoreHooks, RestorePlan, RestoreRun,
    restore,
};

/// How long a hook may take if nothing is said.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// How long a restored container is waited for if nothing is said. Velero waits for ever.
pub const WAIT_DEFAULT: Duration = Duration::from_mins(10);
/// The longest that anything here may take.
pub const TIMEOUT_MAX: Duration = Duration::from_hours(24);
/// How many hooks one pod may have in one phase.
pub const HOOKS_PER_POD_MAX: usize = 32;

/// Where a hook came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The pod's annotations, with this prefix.
    Annotation(String),
    /// The set of that name in the spec.
    Set(String),
}

/// What a failed hook means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum OnError {
    /// The pod and its volumes count as not saved; in a restore, its later hooks do not run.
    #[default]
    Fail,
    /// It is reported.
    Continue,
}

/// Whether hooks declared on pods run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum PodAnnotations {
    /// They do.
    #[default]
    Honour,
    /// They do not.
    Ignore,
}

/// A command to run in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecRun {
    /// Where it came from.
    pub source: Source,
    /// The container; one that exists.
    pub container: String,
    /// Program and arguments; at least the program.
    pub command: Vec<String>,
    /// What a failure means.
    pub on_error: OnError,
    /// How long it may take; at most [`TIMEOUT_MAX`].
    pub timeout: Duration,
}

/// A hook that cannot run. If it was to fail the backup, it does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("hook of pod {pod}: {field}: {message}")]
pub struct Problem {
    /// `namespace/name`.
    pub pod: String,
    /// The annotation, or the set and field.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
    /// What the hook's failure was to mean.
    pub on_error: OnError,
}

/// Namespaces by name or glob; exclusion wins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Namespaces {
    /// None: all.
    pub include: Vec<String>,
    /// None of these.
    pub exclude: Vec<String>,
}

impl Namespaces {
    /// A pattern that is no glob matches nothing: the schema refuses it before.
    fn take(&self, namespace: &str) -> bool {
        let any = |patterns: &[String]| {
            patterns
                .iter()
                .any(|pattern| Glob::new(pattern, None).is_ok_and(|glob| glob.matches(namespace)))
        };
        !any(&self.exclude) && (self.include.is_empty() || any(&self.include))
    }
}

/// A pod, or the template that makes pods, as hooks see it.
#[derive(Debug, Clone, Copy)]
struct Pod<'a> {
    object: &'a Value,
    namespace: &'a str,
    name: &'a str,
}

impl<'a> Pod<'a> {
    fn full_name(self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn annotation(self, key: &str) -> Option<&'a str> {
        let value = self.object.get("metadata")?.get("annotations")?.get(key)?.as_str()?;
        Some(value).filter(|value| !value.is_empty())
    }

    fn is_selected(self, namespaces: &Namespaces, selectors: &[Selector]) -> bool {
        let labels = self.object.pointer("/metadata/labels");
        namespaces.take(self.namespace)
            && (selectors.is_empty() || selectors.iter().any(|selector| selector.matches(labels)))
    }

    /// The names of the containers that a command can run in: the pod's own and, of the init
    /// containers, those that keep running beside them.
    fn containers(self) -> impl Iterator<Item = &'a str> {
        let of = |field: &str| {
            let containers = self.object.get("spec").and_then(|spec| spec.get(field)?.as_array());
            containers.map(Vec::as_slice).unwrap_or_default()
        };
        let is_sidecar = |container: &&Value| {
            container.get("restartPolicy").and_then(Value::as_str) == Some("Always")
        };
        let all = of("containers").iter().chain(of("initContainers").iter().filter(is_sidecar));
        all.filter_map(|container| container.get("name")?.as_str())
    }

    /// The container named, or the first.
    fn container(self, wanted: Option<&str>) -> Result<String, String> {
        let mut containers = self.containers();
        match wanted {
            None => {
                containers.next().map(str::to_owned).ok_or_else(|| "it has no container".into())
            }
            Some(wanted) if containers.any(|name| name == wanted) => Ok(wanted.to_owned()),
            Some(wanted) => {
                let there: Vec<&str> = self.containers().collect();
                Err(format!("there is no container {wanted:?}; there is {}", there.join(", ")))
            }
        }
    }
}

/// A length of time in a spec, as Go writes it: `90s`, `10m`, `1h30m`.
fn span<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_span(&text).map_err(serde::de::Error::custom)
}

/// Reads a length of time between nothing and [`TIMEOUT_MAX`].
fn parse_span(text: &str) -> Result<Duration, String> {
    let span = text.trim().parse::<jiff::SignedDuration>().ok();
    let span = span.and_then(|span| Duration::try_from(span).ok());
    match span {
        Some(span) if span > TIMEOUT_MAX => Err(format!("{text:?} is longer than 24h, the most")),
        Some(span) if span.is_zero() => Err(format!("{text:?} leaves no time to run")),
        Some(span) => Ok(span),
        None => Err(format!("{text:?} is no length of time; write 30s or 1h30m")),
    }
}

const fn default_timeout() -> Duration {
    TIMEOUT_DEFAULT
}

const fn default_wait() -> Duration {
    WAIT_DEFAULT
}

/// Collects the problems of one pod.
struct Faults<'a> {
    pod: Pod<'a>,
    found: Vec<Problem>,
}

impl Faults<'_> {
    fn add(&mut self, field: impl Into<String>, message: impl Into<String>, on_error: OnError) {
        let (field, message) = (field.into(), message.into());
        self.found.push(Problem { pod: self.pod.full_name(), field, message, on_error });
    }

    /// The value, or nothing and a problem more.
    fn keep<T>(&mut self, result: Result<T, String>, field: &str, on_error: OnError) -> Option<T> {
        result.map_err(|message| self.add(field, message, on_error)).ok()
    }

    /// No more than [`HOOKS_PER_POD_MAX`].
    fn bound<T>(&mut self, hooks: &mut Vec<T>, field: &str) {
        if hooks.len() > HOOKS_PER_POD_MAX {
            hooks.truncate(HOOKS_PER_POD_MAX);
            let message = format!("more than {HOOKS_PER_POD_MAX} hooks for one pod; merge some");
            self.add(field, message, OnError::Fail);
        }
    }
}

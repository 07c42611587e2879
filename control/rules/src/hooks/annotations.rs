//! Hooks declared on pods.

use std::time::Duration;

use super::{ExecRun, Faults, OnError, Pod, Source, parse_span};

/// Whose annotations are read: ours before Velero's.
const DOMAINS: [&str; 2] = ["salvor.dev", "velero.io"];

/// What a pod says of its hook.
pub(super) enum Annotated {
    /// Nothing.
    No,
    /// Something that cannot run, which is a problem of its own.
    Unusable,
    /// This.
    Exec(ExecRun),
}

/// The backup hook of a pod for one phase, `pre` or `post`. A prefix without a phase means `pre`.
pub(super) fn backup_exec(pod: Pod<'_>, phase: &str, faults: &mut Faults<'_>) -> Annotated {
    let prefixes = DOMAINS.iter().flat_map(|domain| {
        let bare = (phase == "pre").then(|| format!("hook.backup.{domain}"));
        [Some(format!("{phase}.hook.backup.{domain}")), bare]
    });
    let is_used = |prefix: &String| pod.annotation(&format!("{prefix}/command")).is_some();
    let Some(prefix) = prefixes.flatten().find(is_used) else { return Annotated::No };
    let run = exec(pod, &prefix, "timeout", OnError::Fail, faults);
    run.map_or(Annotated::Unusable, Annotated::Exec)
}

/// The command of a restored pod, and the prefix of its annotations.
pub(super) fn restore_exec(
    pod: Pod<'_>,
    faults: &mut Faults<'_>,
) -> Option<(String, Option<ExecRun>)> {
    let prefix = restore_prefix(pod, "post", "command")?;
    let run = exec(pod, &prefix, "exec-timeout", OnError::Continue, faults);
    Some((prefix, run))
}

/// The prefix of restore annotations that `pod` has with `field`.
pub(super) fn restore_prefix(pod: Pod<'_>, phase: &str, field: &str) -> Option<String> {
    let prefixes = DOMAINS.iter().map(|domain| format!("{phase}.hook.restore.{domain}"));
    prefixes.into_iter().find(|prefix| pod.annotation(&format!("{prefix}/{field}")).is_some())
}

fn exec(
    pod: Pod<'_>,
    prefix: &str,
    timeout_field: &str,
    on_error_default: OnError,
    faults: &mut Faults<'_>,
) -> Option<ExecRun> {
    let key = |field: &str| format!("{prefix}/{field}");
    let on_error_key = key("on-error");
    let on_error = match pod.annotation(&on_error_key) {
        None => on_error_default,
        Some("Fail") => OnError::Fail,
        Some("Continue") => OnError::Continue,
        Some(other) => {
            let message = format!("is {other:?}; it must be Fail or Continue");
            faults.add(on_error_key, message, OnError::Fail);
            OnError::Fail
        }
    };
    let command_key = key("command");
    let command = command(pod.annotation(&command_key).unwrap_or_default());
    let command = faults.keep(command, &command_key, on_error);
    let container = pod.container(pod.annotation(&key("container")));
    let container = faults.keep(container, &key("container"), on_error);
    let timeout = time(pod, &key(timeout_field), super::TIMEOUT_DEFAULT, on_error, faults);
    Some(ExecRun {
        source: Source::Annotation(prefix.to_owned()),
        container: container?,
        command: command?,
        on_error,
        timeout: timeout?,
    })
}

/// A length of time in an annotation.
pub(super) fn time(
    pod: Pod<'_>,
    key: &str,
    default: Duration,
    on_error: OnError,
    faults: &mut Faults<'_>,
) -> Option<Duration> {
    match pod.annotation(key) {
        None => Some(default),
        Some(text) => faults.keep(parse_span(text), key, on_error),
    }
}

/// A command: a JSON list of program and arguments, or the program alone. Text with spaces is one
/// word, as in Velero: there is no shell.
pub(super) fn command(text: &str) -> Result<Vec<String>, String> {
    if !text.starts_with('[') {
        return Ok(vec![text.to_owned()]);
    }
    match serde_json::from_str::<Vec<String>>(text) {
        Ok(command) if command.first().is_some_and(|program| !program.is_empty()) => Ok(command),
        _ => Err(format!(
            "{text:?} is no JSON list of program and arguments, such as [\"sh\", \"-c\", \"sync\"]"
        )),
    }
}

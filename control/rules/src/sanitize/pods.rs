//! Pods, and the templates that pods are made of.

use serde_json::Value;

use super::{Job, Rule};
use crate::kinds::{CONTAINERS, pod_spec_path};
use crate::object::{group_kind, is_true, items, name, text};

/// Kinds with a pod spec.
const WITH_PODS: &[(&str, &str)] = &[
    ("", "Pod"),
    ("", "PodTemplate"),
    ("", "ReplicationController"),
    ("apps", "*"),
    ("batch", "*"),
];

const POD: &[(&str, &str)] = &[("", "Pod")];

/// Labels that tie pods to the UID of their Job.
const JOB_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];

pub(super) static RULES: &[Rule] = &[
    Rule {
        id: "pod.node",
        what: "the scheduler chooses a node of the target",
        of: POD,
        run: |job| {
            job.remove("/spec/nodeName");
        },
    },
    Rule {
        id: "pod.priority",
        what: "priority, preemption and overhead follow from the target's classes",
        of: POD,
        run: strip_admitted,
    },
    Rule {
        id: "pod.token",
        what: "volumes for tokens of the old cluster go, in all kinds of containers",
        of: WITH_PODS,
        run: strip_tokens,
    },
    Rule {
        id: "pod.pullsecret",
        what: "pull secrets go that the old cluster made for the service account",
        of: WITH_PODS,
        run: strip_made_pull_secrets,
    },
    Rule {
        id: "pod.ephemeral",
        what: "ephemeral containers can only be added to a pod that runs",
        of: POD,
        run: |job| {
            job.remove("/spec/ephemeralContainers");
        },
    },
    Rule {
        id: "pod.veleroinit",
        what: "init containers of an earlier restore by Velero go",
        of: WITH_PODS,
        run: strip_restore_helpers,
    },
    Rule {
        id: "job.selector",
        what: "a Job's selector and labels hold its UID, and are made anew",
        of: &[("batch", "Job")],
        run: strip_job_selector,
    },
];

/// The JSON pointer of the pod spec.
fn spec_pointer(object: &Value) -> Option<String> {
    let (group, kind) = group_kind(object);
    Some(format!("/{}", pod_spec_path(group, kind)?.replace('.', "/")))
}

fn strip_admitted(job: &mut Job<'_>) {
    job.remove("/spec/priority");
    if !text(job.object, "/spec/priorityClassName").is_empty()
        || text(job.object, "/spec/preemptionPolicy") == "PreemptLowerPriority"
    {
        job.remove("/spec/preemptionPolicy");
    }
    if !text(job.object, "/spec/runtimeClassName").is_empty() {
        job.remove("/spec/overhead");
    }
}

fn strip_tokens(job: &mut Job<'_>) {
    let Some(spec) = spec_pointer(job.object) else { return };
    let account = match text(job.object, &format!("{spec}/serviceAccountName")) {
        "" => "default",
        account => account,
    };
    let prefix = format!("{account}-token-");
    let made: Vec<String> = items(job.object, &format!("{spec}/volumes"))
        .iter()
        .filter(|volume| is_token_volume(volume, &prefix))
        .map(|volume| text(volume, "/name").to_owned())
        .collect();
    if made.is_empty() {
        return;
    }
    let is_made = |named: &str| made.iter().any(|made| made == named);
    job.retain(&format!("{spec}/volumes"), |volume| !is_made(text(volume, "/name")));
    for list in CONTAINERS {
        for number in 0..items(job.object, &format!("{spec}/{list}")).len() {
            let mounts = format!("{spec}/{list}/{number}/volumeMounts");
            job.retain(&mounts, |mount| !is_made(text(mount, "/name")));
        }
    }
}

/// Whether admission added the volume: by the names it gives, and what it puts in. A volume that a
/// person named alike stays.
fn is_token_volume(volume: &Value, prefix: &str) -> bool {
    let name = text(volume, "/name");
    let is_made_secret = name.starts_with(prefix) && text(volume, "/secret/secretName") == name;
    let has_token = items(volume, "/projected/sources")
        .iter()
        .any(|source| source.get("serviceAccountToken").is_some());
    is_made_secret || (name.starts_with("kube-api-access-") && has_token)
}

fn strip_made_pull_secrets(job: &mut Job<'_>) {
    let Some(spec) = spec_pointer(job.object) else { return };
    let account = text(job.object, &format!("{spec}/serviceAccountName"));
    let prefix = format!("{}-dockercfg-", if account.is_empty() { "default" } else { account });
    job.retain(&format!("{spec}/imagePullSecrets"), |secret| {
        !text(secret, "/name").starts_with(&prefix)
    });
}

fn strip_restore_helpers(job: &mut Job<'_>) {
    let Some(spec) = spec_pointer(job.object) else { return };
    job.retain(&format!("{spec}/initContainers"), |container| {
        !matches!(text(container, "/name"), "restore-wait" | "restic-wait")
    });
}

fn strip_job_selector(job: &mut Job<'_>) {
    if is_true(job.object, "/spec/manualSelector") {
        return;
    }
    job.remove("/spec/selector");
    let own_name = name(job.object).to_owned();
    for label in JOB_LABELS {
        job.remove_label(label);
        job.remove_entry("/spec/template/metadata/labels", label);
    }
    // The server sets these to the name, which may be mapped later.
    for label in ["job-name", "batch.kubernetes.io/job-name"] {
        for labels in ["/metadata/labels", "/spec/template/metadata/labels"] {
            let value = text(job.object, &format!("{labels}/{}", crate::path::escape(label)));
            if value == own_name {
                job.remove_entry(labels, label);
            }
        }
    }
}

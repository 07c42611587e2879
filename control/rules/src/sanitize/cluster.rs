//! Namespaces, accounts, definitions, webhooks.

use serde_json::{Value, json};

use super::{Job, Rule};
use crate::object::{items, name, text};

const ADMISSION: &str = "admissionregistration.k8s.io";

pub(super) static RULES: &[Rule] = &[
    Rule {
        id: "namespace.own",
        what: "a namespace's finalizers and the label of its name are the server's",
        of: &[("", "Namespace")],
        run: |job| {
            job.remove("/spec");
            job.remove_label("kubernetes.io/metadata.name");
        },
    },
    Rule {
        id: "account.tokens",
        what: "a service account lists no secrets that the old cluster made for it",
        of: &[("", "ServiceAccount")],
        run: strip_made_secrets,
    },
    Rule {
        id: "secret.token",
        what: "a token Secret that a person asked for is filled by the target",
        of: &[("", "Secret")],
        run: empty_token,
    },
    Rule {
        id: "role.aggregated",
        what: "an aggregated ClusterRole's rules are gathered by the target",
        of: &[("rbac.authorization.k8s.io", "ClusterRole")],
        run: |job| {
            if job.object.get("aggregationRule").is_some_and(|rule| !rule.is_null()) {
                job.remove("/rules");
            }
        },
    },
    Rule {
        id: "crd.unknown",
        what: "v1 keeps unknown fields by schema, not by preserveUnknownFields",
        of: &[("apiextensions.k8s.io", "CustomResourceDefinition")],
        run: keep_unknown_by_schema,
    },
    Rule {
        id: "webhook.sideeffects",
        what: "v1 takes no webhook with unknown or some side effects",
        of: &[
            (ADMISSION, "MutatingWebhookConfiguration"),
            (ADMISSION, "ValidatingWebhookConfiguration"),
        ],
        run: settle_side_effects,
    },
    Rule {
        id: "vmi.placed",
        what: "labels go that tell where a virtual machine instance ran",
        of: &[("kubevirt.io", "VirtualMachineInstance")],
        run: |job| {
            for label in PLACED {
                job.remove_label(label);
            }
        },
    },
];

const PLACED: [&str; 7] = [
    "kubevirt.io/created-by",
    "kubevirt.io/nodeName",
    "kubevirt.io/migrationJobUID",
    "kubevirt.io/migrationTargetNodeName",
    "kubevirt.io/schedulable",
    "kubevirt.io/install-strategy",
    "kubevirt.io/outdatedLauncherImage",
];

fn strip_made_secrets(job: &mut Job<'_>) {
    let own = name(job.object);
    let made = [format!("{own}-token-"), format!("{own}-dockercfg-")];
    for list in ["/secrets", "/imagePullSecrets"] {
        job.retain(list, |secret| {
            let name = text(secret, "/name");
            !made.iter().any(|prefix| name.starts_with(prefix))
        });
    }
}

fn empty_token(job: &mut Job<'_>) {
    if text(job.object, "/type") != "kubernetes.io/service-account-token" {
        return;
    }
    job.remove_annotation("kubernetes.io/service-account.uid");
    for key in ["token", "ca.crt", "namespace"] {
        job.remove_entry("/data", key);
    }
}

fn keep_unknown_by_schema(job: &mut Job<'_>) {
    let is_v1 = text(job.object, "/apiVersion") == "apiextensions.k8s.io/v1";
    let keeps = job.object.pointer("/spec/preserveUnknownFields") == Some(&Value::Bool(true));
    if !is_v1 || !keeps {
        return;
    }
    job.set("/spec", "preserveUnknownFields", json!(false));
    for number in 0..items(job.object, "/spec/versions").len() {
        let schema = format!("/spec/versions/{number}/schema/openAPIV3Schema");
        job.set(&schema, "x-kubernetes-preserve-unknown-fields", json!(true));
    }
}

fn settle_side_effects(job: &mut Job<'_>) {
    if text(job.object, "/apiVersion") != "admissionregistration.k8s.io/v1" {
        return;
    }
    for number in 0..items(job.object, "/webhooks").len() {
        let webhook = format!("/webhooks/{number}");
        let effects = text(job.object, &format!("{webhook}/sideEffects"));
        if !matches!(effects, "None" | "NoneOnDryRun") {
            job.set(&webhook, "sideEffects", json!("None"));
        }
    }
}

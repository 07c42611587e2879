//! Classes that objects name and the target does not have.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Case, Problem, Severity, Topic, listed};

const DEFAULT_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

pub(super) fn storage(given: &Case<'_>, problems: &mut Vec<Problem>) {
    let classes = &given.facts.storage_classes;
    let has_default = classes.values().any(|class| class.is_default);
    let mut judge = |item: &super::Item<'_>, claim: &Value, what: &str| {
        // A claim of an existing volume needs no class.
        if claim.pointer("/spec/volumeName").and_then(Value::as_str).is_some_and(|n| !n.is_empty())
        {
            return;
        }
        let annotated = claim.pointer("/metadata/annotations").and_then(|a| a.get(DEFAULT_CLASS));
        let named = claim.pointer("/spec/storageClassName").or(annotated).and_then(Value::as_str);
        let cause = match named {
            Some("") => return,
            Some(class) if classes.contains_key(class) => return,
            Some(class) if given.brings("storage.k8s.io", "StorageClass", class) => return,
            Some(class) => format!("{what} storage class {class:?} does not exist"),
            None if has_default => return,
            None => format!("{what} default storage class, and there is none"),
        };
        let known = listed(classes.keys().map(String::as_str));
        let remedy = format!("map it to one there is ({known}), or set a fallback storage class");
        problems.push(item.problem(Severity::Blocking, Topic::MissingStorageClass, cause, remedy));
    };
    for item in given.objects {
        if item.is("", "PersistentVolumeClaim") {
            judge(item, item.object, "it needs the");
        }
        if item.is("apps", "StatefulSet") {
            for claim in item.list("/spec/volumeClaimTemplates") {
                judge(item, claim, "its claims need the");
            }
        }
    }
}

pub(super) fn snapshot(given: &Case<'_>, problems: &mut Vec<Problem>) {
    const GROUP: &str = "snapshot.storage.k8s.io";
    const PATH: &str = "/spec/volumeSnapshotClassName";
    let classes = &given.facts.snapshot_classes;
    for item in given.objects {
        if !item.is(GROUP, "VolumeSnapshot") && !item.is(GROUP, "VolumeSnapshotContent") {
            continue;
        }
        let driver = item.text("/spec/driver");
        let cause = match item.text(PATH) {
            Some(class) if classes.contains_key(class) => continue,
            Some(class) if given.brings(GROUP, "VolumeSnapshotClass", class) => continue,
            Some(class) => format!("volume snapshot class {class:?} does not exist"),
            None => match driver {
                Some(driver) if !classes.values().any(|class| class.driver == driver) => {
                    format!("no volume snapshot class is for driver {driver:?}")
                }
                _ => continue,
            },
        };
        let known = listed(classes.keys().map(String::as_str));
        let remedy = format!(
            "create the class (there is {known}), or exclude snapshots: they are not needed to restore data"
        );
        problems.push(item.problem(Severity::Blocking, Topic::MissingSnapshotClass, cause, remedy));
    }
}

/// Ingress and Gateway classes: without them nothing answers, yet the objects can be created.
pub(super) fn network(given: &Case<'_>, problems: &mut Vec<Problem>) {
    const OLD: &str = "/metadata/annotations/kubernetes.io~1ingress.class";
    let facts = given.facts;
    for item in given.objects {
        let (topic, class, kind, known) = if item.is("networking.k8s.io", "Ingress") {
            // The annotation names a controller's own word, which need not be a class.
            let class = item.text("/spec/ingressClassName");
            if class.is_none() && item.text(OLD).is_some() {
                continue;
            }
            (Topic::MissingIngressClass, class, "IngressClass", &facts.ingress_classes)
        } else if item.is("gateway.networking.k8s.io", "Gateway") {
            let class = item.text("/spec/gatewayClassName");
            (Topic::MissingGatewayClass, class, "GatewayClass", &facts.gateway_classes)
        } else {
            continue;
        };
        let Some(class) = class else { continue };
        if known.contains(class) || given.brings(item.id.group(), kind, class) {
            continue;
        }
        let cause = format!("{kind} {class:?} does not exist: nothing will serve it");
        let known = listed(known.iter().map(String::as_str));
        let remedy = format!(
            "install its controller, or name one there is ({known}) with a resource modifier"
        );
        problems.push(item.problem(Severity::Warning, topic, cause, remedy));
    }
}

/// Priority and runtime classes: pods that name a missing one are refused.
pub(super) fn pods(given: &Case<'_>, problems: &mut Vec<Problem>) {
    let facts = given.facts;
    // Made by the API server itself.
    let system: BTreeSet<&str> = ["system-cluster-critical", "system-node-critical"].into();
    for item in given.objects {
        let Some((spec, _)) = item.pods(facts.nodes) else { continue };
        let text = |field: &str| spec.get(field).and_then(Value::as_str).filter(|t| !t.is_empty());
        if let Some(class) = text("priorityClassName")
            && !system.contains(class)
            && !facts.priority_classes.contains(class)
            && !given.brings("scheduling.k8s.io", "PriorityClass", class)
        {
            let cause = format!("PriorityClass {class:?} does not exist: its pods are refused");
            let remedy =
                "create the class, take it into the restore, or remove it with a resource modifier";
            problems.push(item.problem(
                Severity::Blocking,
                Topic::MissingPriorityClass,
                cause,
                remedy,
            ));
        }
        if let Some(class) = text("runtimeClassName")
            && !facts.runtime_classes.contains(class)
            && !given.brings("node.k8s.io", "RuntimeClass", class)
        {
            let cause = format!("RuntimeClass {class:?} does not exist: its pods are refused");
            let remedy =
                "install the runtime with its class, or remove it with a resource modifier";
            problems.push(item.problem(
                Severity::Blocking,
                Topic::MissingRuntimeClass,
                cause,
                remedy,
            ));
        }
    }
}

//! What is selected. Velero's old filters name kinds of both scopes in one list; ours are apart.

use serde_json::{Value, json};

use super::read::{Fields, Notes};
use super::{Fate, put};
use crate::yaml::Node;

/// Built-in kinds without a namespace, by their names in paths, short names too.
const CLUSTER_SCOPED: [&str; 44] = [
    "apiservices",
    "apiservices.apiregistration.k8s.io",
    "certificatesigningrequests",
    "certificatesigningrequests.certificates.k8s.io",
    "clusterrolebindings",
    "clusterrolebindings.rbac.authorization.k8s.io",
    "clusterroles",
    "clusterroles.rbac.authorization.k8s.io",
    "crd",
    "crds",
    "csidrivers",
    "csidrivers.storage.k8s.io",
    "csinodes",
    "csinodes.storage.k8s.io",
    "customresourcedefinitions",
    "customresourcedefinitions.apiextensions.k8s.io",
    "flowschemas.flowcontrol.apiserver.k8s.io",
    "ingressclasses",
    "ingressclasses.networking.k8s.io",
    "mutatingwebhookconfigurations",
    "mutatingwebhookconfigurations.admissionregistration.k8s.io",
    "namespace",
    "namespaces",
    "nodes",
    "ns",
    "persistentvolume",
    "persistentvolumes",
    "priorityclasses",
    "priorityclasses.scheduling.k8s.io",
    "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io",
    "pv",
    "runtimeclasses",
    "runtimeclasses.node.k8s.io",
    "sc",
    "storageclass",
    "storageclasses",
    "storageclasses.storage.k8s.io",
    "validatingadmissionpolicies.admissionregistration.k8s.io",
    "validatingadmissionpolicybindings.admissionregistration.k8s.io",
    "validatingwebhookconfigurations",
    "validatingwebhookconfigurations.admissionregistration.k8s.io",
    "volumeattachments.storage.k8s.io",
    "volumesnapshotclasses.snapshot.storage.k8s.io",
    "volumesnapshotcontents.snapshot.storage.k8s.io",
];

/// Built-in groups: a kind of theirs that is not above has a namespace.
const BUILT_IN: [&str; 9] = [
    "",
    "apps",
    "autoscaling",
    "batch",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
];

/// Fills `selection`.
pub(super) fn selection(spec: &mut Fields<'_>, selection: &mut Value, notes: &mut Notes<'_>) {
    let namespaces = spec.texts("includedNamespaces");
    let takes_all = namespaces.is_empty() || namespaces.iter().any(|name| name == "*");
    if !takes_all {
        put(selection, "namespaces.include", json!(namespaces));
    }
    put_list(selection, "namespaces.exclude", &spec.texts("excludedNamespaces"));
    let selectors = label_selectors(spec);
    put_list(selection, "labelSelectors", &selectors);
    old_filters(spec, selection, takes_all, notes);
    scoped_filters(spec, selection);
}

fn put_list<T: serde::Serialize>(object: &mut Value, path: &str, list: &[T]) {
    if !list.is_empty() {
        put(object, path, json!(list));
    }
}

/// `labelSelector` and `orLabelSelectors`, of which Velero allows one.
pub(super) fn label_selectors(spec: &mut Fields<'_>) -> Vec<Value> {
    let one = spec.value("labelSelector").filter(says_something);
    let some = spec.list("orLabelSelectors").iter().map(Node::to_value).filter(says_something);
    one.into_iter().chain(some).collect()
}

fn says_something(selector: &Value) -> bool {
    selector.as_object().is_some_and(|selector| !selector.is_empty())
}

/// `includedResources`, `excludedResources` and `includeClusterResources`.
fn old_filters(
    spec: &mut Fields<'_>,
    selection: &mut Value,
    all_namespaces: bool,
    notes: &mut Notes<'_>,
) {
    let field = spec.path("includedResources");
    let line = spec.line_of("includedResources");
    let mut included = spec.texts("includedResources");
    if included.iter().any(|kind| kind == "*") {
        included.clear();
    }
    // In a list of exclusions Velero ignores the star.
    let mut excluded = spec.texts("excludedResources");
    excluded.retain(|kind| kind != "*");
    let cluster = spec.truth("includeClusterResources");
    let (namespaced, scoped, unsure) = split(&included);
    if !unsure.is_empty() {
        let message = format!(
            "whether {} has a namespace cannot be told from here: it is named in both scopes",
            unsure.join(", ")
        );
        notes.add(Fate::Changed, &field, line, message);
    }
    if !included.is_empty() && namespaced.is_empty() {
        put(selection, "namespaced.exclude", json!(["*"]));
    }
    put_list(selection, "namespaced.include", &namespaced);
    let mode = match (cluster, included.is_empty(), scoped.is_empty()) {
        (Some(false), ..) | (_, false, true) => Some("None"),
        (Some(true), true, _) => Some("All"),
        (None, true, _) => None,
        (Some(true), false, false) => Some("Listed"),
        (None, false, false) if all_namespaces => Some("Listed"),
        (None, false, false) => {
            let message = "of the cluster-scoped kinds, only those objects are taken that selected \
                           ones need, as in Velero, and those of other kinds that they need too";
            notes.add(Fate::Changed, &field, line, message);
            Some("Related")
        }
    };
    if let Some(mode) = mode {
        put(selection, "clusterScoped.mode", json!(mode));
    }
    if mode == Some("Listed") {
        put_list(selection, "clusterScoped.include", &scoped);
    }
    let (namespaced, scoped, _) = split(&excluded);
    put_list(selection, "namespaced.exclude", &namespaced);
    put_list(selection, "clusterScoped.exclude", &scoped);
}

/// The four lists of the newer filters.
fn scoped_filters(spec: &mut Fields<'_>, selection: &mut Value) {
    let is_all = |kinds: &[String]| kinds.iter().any(|kind| kind == "*");
    let included = spec.texts("includedClusterScopedResources");
    let excluded = spec.texts("excludedClusterScopedResources");
    if is_all(&excluded) {
        put(selection, "clusterScoped.mode", json!("None"));
    } else {
        if is_all(&included) {
            put(selection, "clusterScoped.mode", json!("All"));
        } else if !included.is_empty() {
            put(selection, "clusterScoped.mode", json!("Related"));
            put_list(selection, "clusterScoped.include", &included);
        }
        put_list(selection, "clusterScoped.exclude", &excluded);
    }
    let included = spec.texts("includedNamespaceScopedResources");
    if !is_all(&included) {
        put_list(selection, "namespaced.include", &included);
    }
    put_list(selection, "namespaced.exclude", &spec.texts("excludedNamespaceScopedResources"));
}

/// Kinds with a namespace, without one, and those that may be either (which are in both).
fn split(kinds: &[String]) -> (Vec<&str>, Vec<&str>, Vec<&str>) {
    let (mut namespaced, mut scoped, mut unsure) = (Vec::new(), Vec::new(), Vec::new());
    for kind in kinds {
        let kind = kind.as_str();
        let lower = kind.to_lowercase();
        let group = lower.split_once('.').map_or("", |(_, group)| group);
        if CLUSTER_SCOPED.contains(&lower.as_str()) {
            scoped.push(kind);
        } else if BUILT_IN.contains(&group) {
            namespaced.push(kind);
        } else {
            namespaced.push(kind);
            scoped.push(kind);
            unsure.push(kind);
        }
    }
    (namespaced, scoped, unsure)
}

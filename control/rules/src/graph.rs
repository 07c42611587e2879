//! What objects refer to: one table of places, for selection, mapping and order.

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use serde_json::Value;

use crate::kinds::{CONTAINERS, Discovery, built_in, pod_spec_path};
use crate::object::{GroupKind, Key, group_kind, items, namespace, owners, text};
use crate::path::resolve;

/// How one object needs another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Relation {
    /// The API server refuses the object without it: its CRD, its namespace.
    Definition,
    /// It owns the object.
    Owner,
    /// The object names it.
    Uses,
    /// The object binds it to a role, scales it or guards it: taken along with it, not before it.
    Serves,
    /// The object works better once it runs: a custom resource and its operator.
    Operator,
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Definition => "is defined by",
            Self::Owner => "is owned by",
            Self::Uses => "uses",
            Self::Serves => "serves",
            Self::Operator => "is looked after by",
        })
    }
}

/// What an object refers to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// How.
    pub relation: Relation,
    /// To what.
    pub to: Key,
}

/// Where the namespace of the object referred to is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The same namespace.
    Same,
    /// None: its kind is cluster-scoped.
    Cluster,
    /// In this sibling of the name; the same namespace if there is none.
    Sibling(&'static str),
}

/// A place that names another object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// The kind of object that has the place: group and kind. The kind `*pod*` stands for all that
    /// have a pod spec, and the path then starts within it.
    pub(crate) of: (&'static str, &'static str),
    /// The path to the name.
    pub(crate) path: &'static str,
    /// The kind referred to. Empty: the siblings `kind` and `apiGroup` or `apiVersion` say it.
    pub(crate) to: (&'static str, &'static str),
    pub(crate) scope: Scope,
    pub(crate) relation: Relation,
}

/// Whatever has a pod spec.
pub(crate) const POD: (&str, &str) = ("", "*pod*");

const CONFIG_MAP: (&str, &str) = ("", "ConfigMap");
const SECRET: (&str, &str) = ("", "Secret");
const CLAIM: (&str, &str) = ("", "PersistentVolumeClaim");
const SERVICE: (&str, &str) = ("", "Service");
const ACCOUNT: (&str, &str) = ("", "ServiceAccount");
const STORAGE_CLASS: (&str, &str) = ("storage.k8s.io", "StorageClass");
const ATTRIBUTES_CLASS: (&str, &str) = ("storage.k8s.io", "VolumeAttributesClass");
const ADMISSION: &str = "admissionregistration.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";
const INGRESS: (&str, &str) = ("networking.k8s.io", "Ingress");
const VM: (&str, &str) = ("kubevirt.io", "VirtualMachine");
const VMI: (&str, &str) = ("kubevirt.io", "VirtualMachineInstance");
const GATEWAY: &str = "gateway.networking.k8s.io";

const fn uses(
    of: (&'static str, &'static str),
    path: &'static str,
    to: (&'static str, &'static str),
) -> Place {
    Place { of, path, to, scope: Scope::Same, relation: Relation::Uses }
}

const fn class(
    of: (&'static str, &'static str),
    path: &'static str,
    to: (&'static str, &'static str),
) -> Place {
    Place { of, path, to, scope: Scope::Cluster, relation: Relation::Uses }
}

const fn elsewhere(
    of: (&'static str, &'static str),
    path: &'static str,
    to: (&'static str, &'static str),
    relation: Relation,
) -> Place {
    Place { of, path, to, scope: Scope::Sibling("namespace"), relation }
}

const fn serves(of: (&'static str, &'static str), path: &'static str) -> Place {
    Place { of, path, to: ("", ""), scope: Scope::Same, relation: Relation::Serves }
}

/// Every place that is known to name another object.
#[rustfmt::skip]
pub(crate) static PLACES: &[Place] = &[
    uses(POD, "volumes[].persistentVolumeClaim.claimName", CLAIM),
    uses(POD, "volumes[].configMap.name", CONFIG_MAP),
    uses(POD, "volumes[].secret.secretName", SECRET),
    uses(POD, "volumes[].projected.sources[].configMap.name", CONFIG_MAP),
    uses(POD, "volumes[].projected.sources[].secret.name", SECRET),
    uses(POD, "volumes[].csi.nodePublishSecretRef.name", SECRET),
    class(POD, "volumes[].ephemeral.volumeClaimTemplate.spec.storageClassName", STORAGE_CLASS),
    uses(POD, "imagePullSecrets[].name", SECRET),
    uses(POD, "serviceAccountName", ACCOUNT),
    uses(POD, "serviceAccount", ACCOUNT),
    class(POD, "priorityClassName", ("scheduling.k8s.io", "PriorityClass")),
    class(POD, "runtimeClassName", ("node.k8s.io", "RuntimeClass")),
    uses(POD, "resourceClaims[].resourceClaimName", ("resource.k8s.io", "ResourceClaim")),
    uses(POD, "resourceClaims[].resourceClaimTemplateName", ("resource.k8s.io", "ResourceClaimTemplate")),
    uses(("apps", "StatefulSet"), "spec.serviceName", SERVICE),
    class(("apps", "StatefulSet"), "spec.volumeClaimTemplates[].spec.storageClassName", STORAGE_CLASS),
    uses(ACCOUNT, "secrets[].name", SECRET),
    uses(ACCOUNT, "imagePullSecrets[].name", SECRET),
    class(CLAIM, "spec.volumeName", ("", "PersistentVolume")),
    class(CLAIM, "spec.storageClassName", STORAGE_CLASS),
    class(CLAIM, "spec.volumeAttributesClassName", ATTRIBUTES_CLASS),
    uses(CLAIM, "spec.dataSource.name", ("", "")),
    Place { of: CLAIM, path: "spec.dataSourceRef.name", to: ("", ""), scope: Scope::Sibling("namespace"), relation: Relation::Uses },
    class(("", "PersistentVolume"), "spec.storageClassName", STORAGE_CLASS),
    class(("", "PersistentVolume"), "spec.volumeAttributesClassName", ATTRIBUTES_CLASS),
    elsewhere(("", "PersistentVolume"), "spec.claimRef.name", CLAIM, Relation::Serves),
    elsewhere(("", "PersistentVolume"), "spec.csi.nodeStageSecretRef.name", SECRET, Relation::Uses),
    elsewhere(("", "PersistentVolume"), "spec.csi.nodePublishSecretRef.name", SECRET, Relation::Uses),
    elsewhere(("", "PersistentVolume"), "spec.csi.controllerExpandSecretRef.name", SECRET, Relation::Uses),
    elsewhere(("", "PersistentVolume"), "spec.csi.controllerPublishSecretRef.name", SECRET, Relation::Uses),
    elsewhere(("", "PersistentVolume"), "spec.csi.nodeExpandSecretRef.name", SECRET, Relation::Uses),
    uses((RBAC, "RoleBinding"), "roleRef.name", ("", "")),
    class((RBAC, "ClusterRoleBinding"), "roleRef.name", ("", "")),
    elsewhere((RBAC, "RoleBinding"), "subjects[].name", ("", ""), Relation::Serves),
    elsewhere((RBAC, "ClusterRoleBinding"), "subjects[].name", ("", ""), Relation::Serves),
    serves(("autoscaling", "HorizontalPodAutoscaler"), "spec.scaleTargetRef.name"),
    serves(("autoscaling.k8s.io", "VerticalPodAutoscaler"), "spec.targetRef.name"),
    serves(("keda.sh", "ScaledObject"), "spec.scaleTargetRef.name"),
    class(INGRESS, "spec.ingressClassName", ("networking.k8s.io", "IngressClass")),
    uses(INGRESS, "spec.defaultBackend.service.name", SERVICE),
    uses(INGRESS, "spec.defaultBackend.resource.name", ("", "")),
    uses(INGRESS, "spec.rules[].http.paths[].backend.service.name", SERVICE),
    uses(INGRESS, "spec.rules[].http.paths[].backend.resource.name", ("", "")),
    uses(INGRESS, "spec.tls[].secretName", SECRET),
    class((GATEWAY, "Gateway"), "spec.gatewayClassName", (GATEWAY, "GatewayClass")),
    elsewhere((GATEWAY, "Gateway"), "spec.listeners[].tls.certificateRefs[].name", SECRET, Relation::Uses),
    elsewhere((GATEWAY, "HTTPRoute"), "spec.parentRefs[].name", (GATEWAY, "Gateway"), Relation::Uses),
    elsewhere((GATEWAY, "HTTPRoute"), "spec.rules[].backendRefs[].name", SERVICE, Relation::Uses),
    elsewhere((ADMISSION, "MutatingWebhookConfiguration"), "webhooks[].clientConfig.service.name", SERVICE, Relation::Uses),
    elsewhere((ADMISSION, "ValidatingWebhookConfiguration"), "webhooks[].clientConfig.service.name", SERVICE, Relation::Uses),
    elsewhere(("apiextensions.k8s.io", "CustomResourceDefinition"), "spec.conversion.webhook.clientConfig.service.name", SERVICE, Relation::Operator),
    elsewhere(("apiregistration.k8s.io", "APIService"), "spec.service.name", SERVICE, Relation::Uses),
    class((ADMISSION, "ValidatingAdmissionPolicyBinding"), "spec.policyName", (ADMISSION, "ValidatingAdmissionPolicy")),
    class((ADMISSION, "MutatingAdmissionPolicyBinding"), "spec.policyName", (ADMISSION, "MutatingAdmissionPolicy")),
    class(("snapshot.storage.k8s.io", "VolumeSnapshot"), "spec.volumeSnapshotClassName", ("snapshot.storage.k8s.io", "VolumeSnapshotClass")),
    class(("snapshot.storage.k8s.io", "VolumeSnapshot"), "spec.source.volumeSnapshotContentName", ("snapshot.storage.k8s.io", "VolumeSnapshotContent")),
    uses(("snapshot.storage.k8s.io", "VolumeSnapshot"), "spec.source.persistentVolumeClaimName", CLAIM),
    uses(VM, "spec.template.spec.volumes[].dataVolume.name", ("cdi.kubevirt.io", "DataVolume")),
    uses(VM, "spec.template.spec.volumes[].dataVolume.name", CLAIM),
    uses(VM, "spec.template.spec.volumes[].persistentVolumeClaim.claimName", CLAIM),
    uses(VM, "spec.template.spec.volumes[].memoryDump.claimName", CLAIM),
    uses(VM, "spec.template.spec.volumes[].configMap.name", CONFIG_MAP),
    uses(VM, "spec.template.spec.volumes[].secret.secretName", SECRET),
    uses(VM, "spec.template.spec.volumes[].sysprep.configMap.name", CONFIG_MAP),
    uses(VM, "spec.template.spec.volumes[].sysprep.secret.name", SECRET),
    uses(VM, "spec.template.spec.volumes[].serviceAccount.serviceAccountName", ACCOUNT),
    uses(VM, "spec.template.spec.volumes[].cloudInitNoCloud.secretRef.name", SECRET),
    uses(VM, "spec.template.spec.volumes[].cloudInitNoCloud.networkDataSecretRef.name", SECRET),
    uses(VM, "spec.template.spec.volumes[].cloudInitConfigDrive.secretRef.name", SECRET),
    uses(VM, "spec.template.spec.volumes[].cloudInitConfigDrive.networkDataSecretRef.name", SECRET),
    uses(VM, "spec.template.spec.accessCredentials[].sshPublicKey.source.secret.secretName", SECRET),
    uses(VM, "spec.template.spec.accessCredentials[].userPassword.source.secret.secretName", SECRET),
    uses(VM, "spec.instancetype.revisionName", ("apps", "ControllerRevision")),
    uses(VM, "spec.preference.revisionName", ("apps", "ControllerRevision")),
    class(VM, "spec.dataVolumeTemplates[].spec.storage.storageClassName", STORAGE_CLASS),
    class(VM, "spec.dataVolumeTemplates[].spec.pvc.storageClassName", STORAGE_CLASS),
    uses(VMI, "spec.volumes[].dataVolume.name", ("cdi.kubevirt.io", "DataVolume")),
    uses(VMI, "spec.volumes[].dataVolume.name", CLAIM),
    uses(VMI, "spec.volumes[].persistentVolumeClaim.claimName", CLAIM),
    uses(VMI, "spec.volumes[].configMap.name", CONFIG_MAP),
    uses(VMI, "spec.volumes[].secret.secretName", SECRET),
    elsewhere(("cdi.kubevirt.io", "DataVolume"), "spec.source.pvc.name", CLAIM, Relation::Uses),
    uses(("cdi.kubevirt.io", "DataVolume"), "metadata.name", CLAIM),
    class(("cdi.kubevirt.io", "DataVolume"), "spec.storage.storageClassName", STORAGE_CLASS),
    class(("cdi.kubevirt.io", "DataVolume"), "spec.pvc.storageClassName", STORAGE_CLASS),
];

/// The places within a container that name another object.
pub(crate) const CONTAINER_PLACES: [(&str, (&str, &str)); 4] = [
    ("env[].valueFrom.configMapKeyRef.name", CONFIG_MAP),
    ("env[].valueFrom.secretKeyRef.name", SECRET),
    ("envFrom[].configMapRef.name", CONFIG_MAP),
    ("envFrom[].secretRef.name", SECRET),
];

/// What an object refers to, sorted, each once. A kind's CRD is named by `discovery`; what it does
/// not know has no definition.
pub fn references(object: &Value, discovery: &Discovery) -> Vec<Reference> {
    let mut found = Vec::new();
    let (group, kind) = group_kind(object);
    let own_namespace = namespace(object);
    let mut add = |relation, group: &str, kind: &str, namespace: &str, name: &str| {
        if !name.is_empty() && !kind.is_empty() {
            found.push(Reference { relation, to: Key::new(group, kind, namespace, name) });
        }
    };
    if !own_namespace.is_empty() {
        add(Relation::Definition, "", "Namespace", "", own_namespace);
    }
    if built_in(group, kind).is_none()
        && let Some(crd) = discovery.crd_name(&GroupKind::new(group, kind))
    {
        add(Relation::Definition, "apiextensions.k8s.io", "CustomResourceDefinition", "", &crd);
    }
    for owner in owners(object) {
        let kind = GroupKind::new(owner.group, owner.kind);
        let is_namespaced = discovery.is_namespaced(&kind).unwrap_or(true);
        let namespace = if is_namespaced { own_namespace } else { "" };
        add(Relation::Owner, owner.group, owner.kind, namespace, owner.name);
    }
    for (place, pointer) in places(object) {
        let (group, kind) = target(object, place, &pointer);
        let namespace = namespace_of(object, place, &pointer, kind);
        add(place.relation, group, kind, namespace, text(object, &pointer));
    }
    found.sort_unstable();
    found.dedup();
    let own = Key::of(object);
    found.retain(|reference| reference.to != own);
    found
}

/// What the claims of a `StatefulSet`'s templates are called, up to the ordinal at the end.
pub fn claim_prefixes(object: &Value) -> Vec<String> {
    if group_kind(object) != ("apps", "StatefulSet") {
        return Vec::new();
    }
    let own_name = crate::object::name(object);
    items(object, "/spec/volumeClaimTemplates")
        .iter()
        .map(|template| format!("{}-{own_name}-", crate::object::name(template)))
        .collect()
}

/// The rows of the table that apply to an object, each with the JSON pointer of a name.
pub(crate) fn places(object: &Value) -> Vec<(Place, String)> {
    let own = group_kind(object);
    let mut found = Vec::new();
    for place in places_of(own) {
        found.extend(resolve(object, place.path).into_iter().map(|pointer| (place, pointer)));
    }
    let Some(pod_spec) = pod_spec_path(own.0, own.1) else { return found };
    let pointer = format!("/{}", pod_spec.replace('.', "/"));
    let Some(spec) = object.pointer(&pointer) else { return found };
    for place in places_of(POD) {
        let inner = resolve(spec, place.path);
        found.extend(inner.into_iter().map(|inner| (place, format!("{pointer}{inner}"))));
    }
    for list in CONTAINERS {
        for (path, to) in CONTAINER_PLACES {
            let place = uses(POD, path, to);
            let inner = resolve(spec, &format!("{list}[].{path}"));
            found.extend(inner.into_iter().map(|inner| (place, format!("{pointer}{inner}"))));
        }
    }
    found
}

/// The rows of one kind.
fn places_of(of: (&str, &str)) -> impl Iterator<Item = Place> {
    static BY_KIND: LazyLock<HashMap<&str, Vec<Place>>> = LazyLock::new(|| {
        let mut by_kind: HashMap<&str, Vec<Place>> = HashMap::new();
        for place in PLACES {
            by_kind.entry(place.of.1).or_default().push(*place);
        }
        by_kind
    });
    let rows = BY_KIND.get(of.1).into_iter().flatten();
    rows.filter(move |place| place.of == of).copied()
}

/// The kind a place refers to; its siblings say it where the row does not.
pub(crate) fn target<'a>(object: &'a Value, place: Place, pointer: &str) -> (&'a str, &'a str) {
    let parent = parent(object, pointer);
    if place.to.1.is_empty() {
        let kind = text(parent, "/kind");
        let group = parent.get("apiGroup").and_then(Value::as_str);
        let version = text(parent, "/apiVersion");
        return (group.unwrap_or_else(|| crate::object::split_api_version(version).0), kind);
    }
    // A backend or certificate of the Gateway API may be of another kind than usual.
    let is_gateway = place.of.0 == GATEWAY;
    match parent.get("kind").and_then(Value::as_str).filter(|_| is_gateway) {
        Some(kind) => (text(parent, "/group"), kind),
        None => place.to,
    }
}

/// The namespace of what a place refers to.
pub(crate) fn namespace_of<'a>(
    object: &'a Value,
    place: Place,
    pointer: &str,
    kind: &str,
) -> &'a str {
    // A role binding names a Role or a ClusterRole; a subject may be a user or a group.
    if matches!(kind, "ClusterRole" | "User" | "Group") || place.scope == Scope::Cluster {
        return "";
    }
    match place.scope {
        Scope::Sibling(sibling) => {
            let named = parent(object, pointer).get(sibling).and_then(Value::as_str);
            named.unwrap_or_else(|| namespace(object))
        }
        Scope::Same | Scope::Cluster => namespace(object),
    }
}

fn parent<'a>(object: &'a Value, pointer: &str) -> &'a Value {
    let parent = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
    object.pointer(parent).unwrap_or(&Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_workload_refers_to_everything_its_pods_need_in_every_kind_of_container() {
        let object = json!({
            "apiVersion": "batch/v1", "kind": "CronJob",
            "metadata": {"name": "j", "namespace": "n"},
            "spec": {"jobTemplate": {"spec": {"template": {"spec": {
                "serviceAccountName": "sa",
                "priorityClassName": "high",
                "volumes": [
                    {"persistentVolumeClaim": {"claimName": "data"}},
                    {"projected": {"sources": [{"configMap": {"name": "cm"}}]}},
                ],
                "initContainers": [{"envFrom": [{"secretRef": {"name": "s1"}}]}],
                "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "s2"}}}]}],
                "ephemeralContainers": [{"env": [{"valueFrom": {"configMapKeyRef": {"name": "c2"}}}]}],
            }}}}},
        });
        let found: Vec<String> = references(&object, &Discovery::default())
            .iter()
            .map(|reference| format!("{} {}", reference.relation, reference.to))
            .collect();
        assert_eq!(
            found,
            [
                "is defined by Namespace n",
                "uses ConfigMap n/c2",
                "uses ConfigMap n/cm",
                "uses PersistentVolumeClaim n/data",
                "uses Secret n/s1",
                "uses Secret n/s2",
                "uses ServiceAccount n/sa",
                "uses PriorityClass.scheduling.k8s.io high",
            ]
        );
    }

    #[test]
    fn what_says_its_own_kind_is_believed() {
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "b", "namespace": "n"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
            "subjects": [
                {"kind": "ServiceAccount", "name": "sa", "namespace": "other"},
                {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "u"},
            ],
        });
        let found = references(&binding, &Discovery::default());
        let keys: Vec<String> = found.iter().map(|reference| reference.to.to_string()).collect();
        assert!(
            keys.contains(&"ClusterRole.rbac.authorization.k8s.io view".to_owned()),
            "{keys:?}"
        );
        assert!(keys.contains(&"ServiceAccount other/sa".to_owned()), "{keys:?}");
    }
}

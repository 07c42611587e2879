//! What cannot be changed in place, and what cannot be deleted without loss.

use serde_json::Value;

use crate::object::{group_kind, is_true, text};

/// Places that the API server lets nobody change: of a kind, below a path, but for some below it.
type Lock =
    (&'static [(&'static str, &'static str)], &'static [&'static str], &'static [&'static str]);

const RBAC: &str = "rbac.authorization.k8s.io";

#[rustfmt::skip]
static LOCKS: &[Lock] = &[
    (&[("", "Pod")], &["/spec"], &["/spec/activeDeadlineSeconds", "/spec/tolerations", "/spec/schedulingGates"]),
    (&[("batch", "Job")], &["/spec/selector", "/spec/template", "/spec/completions", "/spec/completionMode", "/spec/podFailurePolicy"], &[]),
    (&[("apps", "Deployment"), ("apps", "ReplicaSet"), ("apps", "DaemonSet")], &["/spec/selector"], &[]),
    (&[("apps", "StatefulSet")], &["/spec"], &[
        "/spec/replicas", "/spec/ordinals", "/spec/template", "/spec/updateStrategy",
        "/spec/persistentVolumeClaimRetentionPolicy", "/spec/minReadySeconds", "/spec/revisionHistoryLimit",
    ]),
    (&[("apps", "ControllerRevision")], &["/data"], &[]),
    (&[("", "PersistentVolumeClaim")], &["/spec"], &["/spec/resources/requests", "/spec/volumeAttributesClassName"]),
    (&[("", "PersistentVolume")], &["/spec"], &[
        "/spec/capacity", "/spec/mountOptions", "/spec/persistentVolumeReclaimPolicy", "/spec/claimRef",
        "/spec/accessModes", "/spec/storageClassName", "/spec/volumeAttributesClassName",
    ]),
    (&[("", "Service")], &["/spec/clusterIP", "/spec/clusterIPs"], &[]),
    (&[("", "Secret")], &["/type"], &[]),
    (&[("storage.k8s.io", "StorageClass")], &["/provisioner", "/parameters", "/reclaimPolicy", "/volumeBindingMode"], &[]),
    (&[("storage.k8s.io", "CSIDriver")], &["/spec/attachRequired", "/spec/volumeLifecycleModes"], &[]),
    (&[("storage.k8s.io", "VolumeAttributesClass")], &["/driverName", "/parameters"], &[]),
    (&[(RBAC, "RoleBinding"), (RBAC, "ClusterRoleBinding")], &["/roleRef"], &[]),
    (&[("scheduling.k8s.io", "PriorityClass")], &["/value", "/preemptionPolicy"], &[]),
    (&[("node.k8s.io", "RuntimeClass")], &["/handler"], &[]),
    (&[("networking.k8s.io", "IngressClass")], &["/spec/controller"], &[]),
    (&[("apiextensions.k8s.io", "CustomResourceDefinition")], &["/spec/group", "/spec/scope", "/spec/names/plural", "/spec/names/kind"], &[]),
];

/// Whether the place of an object cannot be changed.
pub(super) fn is_immutable(live: &Value, path: &str) -> bool {
    let own = group_kind(live);
    if matches!(own, ("", "Secret" | "ConfigMap")) && is_true(live, "/immutable") {
        return !path.starts_with("/metadata/");
    }
    let is_below = |prefix: &&str| {
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let is_image = own == ("", "Pod") && path.ends_with("/image");
    LOCKS
        .iter()
        .filter(|(kinds, _, _)| kinds.contains(&own))
        .any(|(_, locked, free)| locked.iter().any(is_below) && !free.iter().any(is_below))
        && !is_image
}

/// What is deleted with an object, if that is more than itself and what its controller makes again.
pub(super) fn holds(live: &Value) -> Option<&'static str> {
    Some(match group_kind(live) {
        ("", "PersistentVolumeClaim" | "PersistentVolume") => "its data",
        ("", "Namespace") => "everything in it",
        ("apiextensions.k8s.io", "CustomResourceDefinition") => "every object of the kind",
        ("cdi.kubevirt.io", "DataVolume") => "the claim it owns, with its data",
        ("kubevirt.io", "VirtualMachine") => "the volumes it owns, with their data",
        ("apps", "StatefulSet") => {
            let policy = "/spec/persistentVolumeClaimRetentionPolicy/whenDeleted";
            return (text(live, policy) == "Delete").then_some("its claims, with their data");
        }
        _ => return None,
    })
}

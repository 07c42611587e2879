//! Objects that are not restored.

use serde_json::Value;

use super::{ANY, Facts, LeaveRule};
use crate::object::{
    Owner, annotation, controller, group_kind, has_condition, is_terminating, label, name,
    namespace, text,
};

/// Rules that leave out each object of their kinds start with this.
pub(super) const ALWAYS: &str = "leave.kind.";

const SNAPSHOT: &str = "snapshot.storage.k8s.io";
const GROUP_SNAPSHOT: &str = "groupsnapshot.storage.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";

const fn always(
    id: &'static str,
    why: &'static str,
    of: &'static [(&'static str, &'static str)],
) -> LeaveRule {
    LeaveRule { id, why, of, when: |_, _| true }
}

const fn when(
    id: &'static str,
    why: &'static str,
    of: &'static [(&'static str, &'static str)],
    when: fn(&Value, &Facts) -> bool,
) -> LeaveRule {
    LeaveRule { id, why, of, when }
}

#[rustfmt::skip]
pub(super) static RULES: &[LeaveRule] = &[
    always("leave.kind.event", "events tell of the old cluster", &[("", "Event"), ("events.k8s.io", "Event")]),
    always("leave.kind.lease", "leases are held by programs of the old cluster", &[("coordination.k8s.io", "*")]),
    always("leave.kind.node", "nodes and what is known of them belong to their cluster", &[
        ("", "Node"), ("storage.k8s.io", "CSINode"), ("storage.k8s.io", "VolumeAttachment"),
        ("storage.k8s.io", "CSIStorageCapacity"), ("resource.k8s.io", "ResourceSlice"), ("", "ComponentStatus"),
        ("metrics.k8s.io", "*"), ("internal.apiserver.k8s.io", "*"), ("networking.k8s.io", "IPAddress"),
    ]),
    always("leave.kind.request", "it was an answer or a request of the moment", &[
        ("certificates.k8s.io", "CertificateSigningRequest"), ("authentication.k8s.io", "*"),
        ("authorization.k8s.io", "*"), ("", "Binding"), ("kubevirt.io", "VirtualMachineInstanceMigration"),
    ]),
    always("leave.kind.snapshot", "the snapshot is in the old cluster's storage; restored, it would take a new one", &[
        (SNAPSHOT, "VolumeSnapshot"), (SNAPSHOT, "VolumeSnapshotContent"),
        (GROUP_SNAPSHOT, "VolumeGroupSnapshot"), (GROUP_SNAPSHOT, "VolumeGroupSnapshotContent"),
    ]),
    always("leave.kind.backup", "runs of backups and restores are history, and must not run again", &[
        ("velero.io", "*"), ("salvor.dev", "Backup"), ("salvor.dev", "Restore"), ("salvor.dev", "VolumeTask"),
    ]),
    when("leave.terminating", "it was being deleted", ANY, |object, _| is_terminating(object)),
    when("leave.pod.mirror", "its node makes it from a file", &[("", "Pod")], |object, _| {
        annotation(object, "kubernetes.io/config.mirror").is_some()
    }),
    when("leave.pod.completed", "it has ended, and would run again", &[("", "Pod")], |object, _| {
        matches!(text(object, "/status/phase"), "Succeeded" | "Failed")
    }),
    when("leave.pod.launcher", "KubeVirt makes it for its virtual machine", &[("", "Pod")], |object, _| {
        matches!(label(object, "kubevirt.io"), Some("virt-launcher" | "hotplug-disk"))
    }),
    when("leave.controlled", "its controller makes it from the restored parent",
        &[("", "Pod"), ("apps", "ReplicaSet"), ("kubevirt.io", "VirtualMachineInstance")], is_controlled),
    when("leave.controlled.job", "its CronJob starts the next one", &[("batch", "Job")], is_controlled),
    when("leave.controlled.revision", "its workload makes it from the restored template",
        &[("apps", "ControllerRevision")], |object, _| {
            controller(object).is_some_and(|owner| owner.group == "apps")
        }),
    when("leave.controlled.pod", "it lives and dies with a pod",
        &[("", "PersistentVolumeClaim"), ("resource.k8s.io", "ResourceClaim")], |object, _| {
            controller(object).is_some_and(is_pod)
        }),
    when("leave.job.completed", "it has ended, and would run again", &[("batch", "Job")], |object, _| {
        !text(object, "/status/completionTime").is_empty()
            || has_condition(object, "Complete")
            || has_condition(object, "Failed")
    }),
    when("leave.endpoints", "its Service's controller makes it from the pods that run",
        &[("", "Endpoints")], is_managed_endpoints),
    when("leave.endpointslice", "its controller makes it from the pods that run",
        &[("discovery.k8s.io", "EndpointSlice")], |object, _| {
            let by = label(object, "endpointslice.kubernetes.io/managed-by");
            matches!(by, Some("endpointslice-controller.k8s.io" | "endpointslicemirroring-controller.k8s.io"))
        }),
    when("leave.leader", "it tells who led in the old cluster", &[("", "ConfigMap"), ("", "Endpoints")], |object, _| {
        annotation(object, "control-plane.alpha.kubernetes.io/leader").is_some()
    }),
    when("leave.published", "each cluster publishes its own", &[("", "ConfigMap")], |object, _| {
        matches!(name(object), "kube-root-ca.crt" | "openshift-service-ca.crt")
    }),
    when("leave.api", "it is the API server's own", &[("", "Service"), ("", "Endpoints"), ("discovery.k8s.io", "EndpointSlice")],
        |object, _| namespace(object) == "default" && name(object) == "kubernetes"),
    when("leave.token", "a token of the old cluster is worth nothing; a new one is made", &[("", "Secret")], is_made_token),
    when("leave.bootstrap", "the API server makes it and keeps it as it must be", ANY, is_bootstrapped),
    when("leave.apiservice", "the API server makes it from the API or the CRD", &[("apiregistration.k8s.io", "APIService")],
        |object, _| {
            label(object, "kube-aggregator.kubernetes.io/automanaged").is_some()
                || object.pointer("/spec/service").is_none_or(Value::is_null)
        }),
    when("leave.volume", "its claim gets a new volume", &[("", "PersistentVolume")], |object, facts| {
        !facts.kept_volumes.contains(name(object))
    }),
];

/// Whether a controller that comes back, or is there, will make the object.
fn is_controlled(object: &Value, facts: &Facts) -> bool {
    controller(object).is_some_and(|owner| facts.owners.fate(owner.uid).makes_dependents())
}

fn is_pod(owner: Owner<'_>) -> bool {
    matches!((owner.group, owner.kind), ("", "Pod") | ("kubevirt.io", "VirtualMachineInstance"))
}

fn is_managed_endpoints(object: &Value, facts: &Facts) -> bool {
    let service = (namespace(object).to_owned(), name(object).to_owned());
    facts.selecting_services.contains(&service)
        || label(object, "endpoints.kubernetes.io/managed-by") == Some("endpoint-controller")
        || annotation(object, "endpoints.kubernetes.io/last-change-trigger-time").is_some()
}

/// Whether a token was made for a service account, not asked for by a person.
fn is_made_token(object: &Value, _: &Facts) -> bool {
    match text(object, "/type") {
        "bootstrap.kubernetes.io/token" => true,
        "kubernetes.io/service-account-token" => {
            let account = annotation(object, "kubernetes.io/service-account.name");
            let rest = account.and_then(|account| name(object).strip_prefix(account));
            rest.is_some_and(|rest| rest.starts_with("-token-"))
        }
        "kubernetes.io/dockercfg" => annotation(object, "openshift.io/token-secret.name").is_some(),
        _ => false,
    }
}

fn is_bootstrapped(object: &Value, _: &Facts) -> bool {
    match group_kind(object) {
        (RBAC, _) => label(object, "kubernetes.io/bootstrapping") == Some("rbac-defaults"),
        ("flowcontrol.apiserver.k8s.io", _) => {
            annotation(object, "apf.kubernetes.io/autoupdate-spec") == Some("true")
        }
        ("scheduling.k8s.io", "PriorityClass") => name(object).starts_with("system-"),
        ("networking.k8s.io", "ServiceCIDR") => name(object) == "kubernetes",
        _ => false,
    }
}

//! The kinds every cluster has, and the kinds one cluster has.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::object::GroupKind;

/// When a kind is restored. Phases follow one another; within one, references decide.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// CRDs: waited for until established, then discovery is read again.
    Definitions,
    /// Namespaces: waited for while one of the name is terminating.
    Namespaces,
    /// What objects of all namespaces refer to: classes, priorities, runtime classes.
    Classes,
    /// Who may do what: service accounts, roles, bindings.
    Access,
    /// What workloads read, and the network policies that guard them.
    Config,
    /// Volumes and claims. Their data is complete before the next phase begins.
    Storage,
    /// How workloads are found, and budgets and scalers that wait for them.
    Services,
    /// What runs.
    Workloads,
    /// Objects of CRDs, once their operator is on its way.
    #[default]
    Custom,
    /// What limits the above, and would refuse it if it came earlier.
    Limits,
    /// What intercepts requests of others, and answers only once its backend runs.
    Interceptors,
}

/// A kind that is part of Kubernetes.
#[derive(Debug, Clone, Copy)]
pub struct BuiltIn {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The kind.
    pub kind: &'static str,
    /// The name in URLs and rules.
    pub plural: &'static str,
    /// Whether its objects live in namespaces.
    pub is_namespaced: bool,
    /// When it is restored.
    pub phase: Phase,
}

const fn row(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    is_namespaced: bool,
    phase: Phase,
) -> BuiltIn {
    BuiltIn { group, kind, plural, is_namespaced, phase }
}

const RBAC: &str = "rbac.authorization.k8s.io";
const NETWORK: &str = "networking.k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";
const SNAPSHOT: &str = "snapshot.storage.k8s.io";
const GROUP_SNAPSHOT: &str = "groupsnapshot.storage.k8s.io";

/// The kinds of Kubernetes and of its snapshot controller. A kind that is not here is restored as a
/// custom resource.
#[rustfmt::skip]
pub static BUILT_IN: &[BuiltIn] = &[
    row("apiextensions.k8s.io", "CustomResourceDefinition", "customresourcedefinitions", false, Phase::Definitions),
    row("", "Namespace", "namespaces", false, Phase::Namespaces),
    row("storage.k8s.io", "StorageClass", "storageclasses", false, Phase::Classes),
    row("storage.k8s.io", "CSIDriver", "csidrivers", false, Phase::Classes),
    row("storage.k8s.io", "VolumeAttributesClass", "volumeattributesclasses", false, Phase::Classes),
    row(SNAPSHOT, "VolumeSnapshotClass", "volumesnapshotclasses", false, Phase::Classes),
    row(GROUP_SNAPSHOT, "VolumeGroupSnapshotClass", "volumegroupsnapshotclasses", false, Phase::Classes),
    row("scheduling.k8s.io", "PriorityClass", "priorityclasses", false, Phase::Classes),
    row("node.k8s.io", "RuntimeClass", "runtimeclasses", false, Phase::Classes),
    row(NETWORK, "IngressClass", "ingressclasses", false, Phase::Classes),
    row(NETWORK, "ServiceCIDR", "servicecidrs", false, Phase::Classes),
    row("resource.k8s.io", "DeviceClass", "deviceclasses", false, Phase::Classes),
    row("gateway.networking.k8s.io", "GatewayClass", "gatewayclasses", false, Phase::Classes),
    row("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration", "prioritylevelconfigurations", false, Phase::Classes),
    row("flowcontrol.apiserver.k8s.io", "FlowSchema", "flowschemas", false, Phase::Classes),
    row("certificates.k8s.io", "ClusterTrustBundle", "clustertrustbundles", false, Phase::Classes),
    row("", "ServiceAccount", "serviceaccounts", true, Phase::Access),
    row(RBAC, "ClusterRole", "clusterroles", false, Phase::Access),
    row(RBAC, "Role", "roles", true, Phase::Access),
    row(RBAC, "ClusterRoleBinding", "clusterrolebindings", false, Phase::Access),
    row(RBAC, "RoleBinding", "rolebindings", true, Phase::Access),
    row("", "Secret", "secrets", true, Phase::Config),
    row("", "ConfigMap", "configmaps", true, Phase::Config),
    row("", "PodTemplate", "podtemplates", true, Phase::Config),
    row("apps", "ControllerRevision", "controllerrevisions", true, Phase::Config),
    row(NETWORK, "NetworkPolicy", "networkpolicies", true, Phase::Config),
    row("resource.k8s.io", "ResourceClaimTemplate", "resourceclaimtemplates", true, Phase::Config),
    row("resource.k8s.io", "ResourceClaim", "resourceclaims", true, Phase::Config),
    row("", "PersistentVolume", "persistentvolumes", false, Phase::Storage),
    row("", "PersistentVolumeClaim", "persistentvolumeclaims", true, Phase::Storage),
    row(SNAPSHOT, "VolumeSnapshotContent", "volumesnapshotcontents", false, Phase::Storage),
    row(SNAPSHOT, "VolumeSnapshot", "volumesnapshots", true, Phase::Storage),
    row(GROUP_SNAPSHOT, "VolumeGroupSnapshotContent", "volumegroupsnapshotcontents", false, Phase::Storage),
    row(GROUP_SNAPSHOT, "VolumeGroupSnapshot", "volumegroupsnapshots", true, Phase::Storage),
    row("storage.k8s.io", "CSIStorageCapacity", "csistoragecapacities", true, Phase::Storage),
    row("cdi.kubevirt.io", "DataVolume", "datavolumes", true, Phase::Storage),
    row("", "Service", "services", true, Phase::Services),
    row("", "Endpoints", "endpoints", true, Phase::Services),
    row("discovery.k8s.io", "EndpointSlice", "endpointslices", true, Phase::Services),
    row("policy", "PodDisruptionBudget", "poddisruptionbudgets", true, Phase::Services),
    row(NETWORK, "Ingress", "ingresses", true, Phase::Services),
    row("", "Pod", "pods", true, Phase::Workloads),
    row("", "ReplicationController", "replicationcontrollers", true, Phase::Workloads),
    row("apps", "ReplicaSet", "replicasets", true, Phase::Workloads),
    row("apps", "Deployment", "deployments", true, Phase::Workloads),
    row("apps", "StatefulSet", "statefulsets", true, Phase::Workloads),
    row("apps", "DaemonSet", "daemonsets", true, Phase::Workloads),
    row("batch", "Job", "jobs", true, Phase::Workloads),
    row("batch", "CronJob", "cronjobs", true, Phase::Workloads),
    row("autoscaling", "HorizontalPodAutoscaler", "horizontalpodautoscalers", true, Phase::Workloads),
    row("", "ResourceQuota", "resourcequotas", true, Phase::Limits),
    row("", "LimitRange", "limitranges", true, Phase::Limits),
    row("apiregistration.k8s.io", "APIService", "apiservices", false, Phase::Interceptors),
    row(ADMISSION, "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", false, Phase::Interceptors),
    row(ADMISSION, "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", false, Phase::Interceptors),
    row(ADMISSION, "ValidatingAdmissionPolicy", "validatingadmissionpolicies", false, Phase::Interceptors),
    row(ADMISSION, "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", false, Phase::Interceptors),
    row(ADMISSION, "MutatingAdmissionPolicy", "mutatingadmissionpolicies", false, Phase::Interceptors),
    row(ADMISSION, "MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings", false, Phase::Interceptors),
    row("", "Node", "nodes", false, Phase::Classes),
    row("", "Event", "events", true, Phase::Config),
    row("events.k8s.io", "Event", "events", true, Phase::Config),
    row("coordination.k8s.io", "Lease", "leases", true, Phase::Config),
    row("storage.k8s.io", "CSINode", "csinodes", false, Phase::Storage),
    row("storage.k8s.io", "VolumeAttachment", "volumeattachments", false, Phase::Storage),
    row("certificates.k8s.io", "CertificateSigningRequest", "certificatesigningrequests", false, Phase::Config),
    row(NETWORK, "IPAddress", "ipaddresses", false, Phase::Services),
    row("resource.k8s.io", "ResourceSlice", "resourceslices", false, Phase::Storage),
];

/// The row of a built-in kind.
pub fn built_in(group: &str, kind: &str) -> Option<&'static BuiltIn> {
    static BY_KIND: LazyLock<HashMap<(&str, &str), &BuiltIn>> =
        LazyLock::new(|| BUILT_IN.iter().map(|row| ((row.group, row.kind), row)).collect());
    BY_KIND.get(&(group, kind)).copied()
}

/// When objects of a kind are restored, if nothing they refer to says otherwise.
pub fn phase(group: &str, kind: &str) -> Phase {
    built_in(group, kind).map_or(Phase::Custom, |row| row.phase)
}

/// Where a kind keeps the pod specs it makes pods of.
pub fn pod_spec_path(group: &str, kind: &str) -> Option<&'static str> {
    Some(match (group, kind) {
        ("", "Pod") => "spec",
        ("", "PodTemplate") => "template.spec",
        ("batch", "CronJob") => "spec.jobTemplate.spec.template.spec",
        ("", "ReplicationController")
        | ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch", "Job")
        | ("kubevirt.io", "VirtualMachineInstanceReplicaSet") => "spec.template.spec",
        _ => return None,
    })
}

/// The lists of containers in a pod spec.
pub const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// One version of one kind, as a cluster serves it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resource {
    /// The API group; empty for the core group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The kind.
    pub kind: String,
    /// The name in URLs and rules.
    pub plural: String,
    /// The name of one; may be empty.
    pub singular: String,
    /// What people type for short.
    pub short_names: Vec<String>,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Whether this is the version the cluster prefers within the group.
    pub preferred: bool,
    /// Whether status is written apart from the rest.
    pub has_status_subresource: bool,
}

/// What a cluster serves.
#[derive(Debug, Clone, Default)]
pub struct Discovery {
    resources: Vec<Resource>,
    by_kind: HashMap<GroupKind, Vec<usize>>,
}

impl Discovery {
    /// Of the versions listed.
    pub fn new(resources: impl IntoIterator<Item = Resource>) -> Self {
        let resources: Vec<Resource> = resources.into_iter().collect();
        let mut by_kind: HashMap<GroupKind, Vec<usize>> = HashMap::new();
        for (at, resource) in resources.iter().enumerate() {
            let kind = GroupKind::new(&*resource.group, &*resource.kind);
            by_kind.entry(kind).or_default().push(at);
        }
        Self { resources, by_kind }
    }

    /// Every version of every kind.
    pub fn resources(&self) -> &[Resource] {
        &self.resources
    }

    /// The served versions of a kind, the preferred one first; none if the kind is not served.
    pub fn versions(&self, kind: &GroupKind) -> Vec<&Resource> {
        let served = self.by_kind.get(kind).map_or(&[][..], Vec::as_slice);
        let mut versions: Vec<&Resource> = served.iter().map(|at| &self.resources[*at]).collect();
        versions.sort_by_key(|resource| !resource.preferred);
        versions
    }

    /// The kinds that `name` stands for: `deployments.apps`, `deployments`, `deployment`, `deploy`,
    /// `Deployment`, `deployments.v1.apps`, or a kind with its group. Without a group, a name stands
    /// for that kind of every group that has one.
    pub fn kinds(&self, name: &str) -> Vec<GroupKind> {
        let wanted = name.to_lowercase();
        let mut found: Vec<GroupKind> = self
            .resources
            .iter()
            .filter(|resource| is_called(resource, &wanted))
            .map(|resource| GroupKind::new(&*resource.group, &*resource.kind))
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The name of a kind's CRD, if the cluster serves the kind.
    pub fn crd_name(&self, kind: &GroupKind) -> Option<String> {
        let at = *self.by_kind.get(kind)?.first()?;
        let resource = &self.resources[at];
        Some(format!("{}.{}", resource.plural, resource.group))
    }

    /// Whether objects of the kind live in namespaces. Built-in kinds are known without discovery.
    pub fn is_namespaced(&self, kind: &GroupKind) -> Option<bool> {
        let listed = self.by_kind.get(kind).and_then(|versions| versions.first());
        match listed {
            Some(at) => Some(self.resources[*at].namespaced),
            None => built_in(&kind.group, &kind.kind).map(|row| row.is_namespaced),
        }
    }
}

fn is_called(resource: &Resource, wanted: &str) -> bool {
    let kind = resource.kind.to_lowercase();
    let matches_rest = |rest: &str| {
        rest == resource.group
            || rest.strip_prefix(&resource.version).is_some_and(|rest| {
                rest.strip_prefix('.').is_some_and(|group| group == resource.group)
            })
    };
    let names = [resource.plural.as_str(), resource.singular.as_str(), kind.as_str()];
    let short = resource.short_names.iter().map(String::as_str);
    names.into_iter().chain(short).filter(|name| !name.is_empty()).any(|name| {
        wanted == name
            || wanted
                .strip_prefix(name)
                .and_then(|rest| rest.strip_prefix('.'))
                .is_some_and(matches_rest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_kind_has_two_rows() {
        for (at, row) in BUILT_IN.iter().enumerate() {
            let again = BUILT_IN[at + 1..]
                .iter()
                .any(|other| other.kind == row.kind && other.group == row.group);
            assert!(!again, "{} {}", row.group, row.kind);
        }
    }

    #[test]
    fn a_kind_is_found_by_every_name_people_use() {
        let deployments = Resource {
            group: "apps".into(),
            version: "v1".into(),
            kind: "Deployment".into(),
            plural: "deployments".into(),
            singular: "deployment".into(),
            short_names: vec!["deploy".into()],
            ..Resource::default()
        };
        let other = Resource { group: "example.org".into(), ..deployments.clone() };
        let discovery = Discovery::new([deployments, other]);
        let names = ["deployments.apps", "deploy.apps", "Deployment.apps", "deployments.v1.apps"];
        for name in names {
            assert_eq!(discovery.kinds(name), [GroupKind::new("apps", "Deployment")], "{name}");
        }
        for name in ["deployments", "deployment", "deploy", "Deployment"] {
            assert_eq!(discovery.kinds(name).len(), 2, "{name}");
        }
        for name in ["deployments.", "deploymentsxapps", "deployments.v2.apps", "", "."] {
            assert_eq!(discovery.kinds(name), [], "{name}");
        }
    }
}

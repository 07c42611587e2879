//! How the lists of the built-in types merge in a strategic merge patch: the `patchStrategy` and
//! `patchMergeKey` of the Kubernetes API (1.35), as a tree of what differs from the rule. The rule:
//! mappings merge, everything else is replaced.

/// A type, by those of its fields that lead to a list that merges.
#[derive(Debug)]
pub(super) struct Type(pub(super) &'static [Field]);

/// One such field.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) list: List,
    /// The type of the field's mapping, or of the list's items.
    pub(super) of: &'static Type,
}

/// What becomes of a field that is a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum List {
    Replace,
    /// Items with the same value of this key are one item.
    ByKey(&'static str),
    /// Plain values, each once.
    Set,
}

impl Type {
    pub(super) fn field(&self, name: &str) -> (&'static Type, List) {
        let field = self.0.iter().find(|field| field.name == name);
        field.map_or((&LEAF, List::Replace), |field| (field.of, field.list))
    }
}

const fn within(name: &'static str, of: &'static Type) -> Field {
    Field { name, list: List::Replace, of }
}

const fn by(name: &'static str, key: &'static str, of: &'static Type) -> Field {
    Field { name, list: List::ByKey(key), of }
}

static LEAF: Type = Type(&[]);

static METADATA: Type = Type(&[
    by("ownerReferences", "uid", &LEAF),
    Field { name: "finalizers", list: List::Set, of: &LEAF },
]);

static CONTAINER: Type = Type(&[
    by("env", "name", &LEAF),
    by("ports", "containerPort", &LEAF),
    by("volumeDevices", "devicePath", &LEAF),
    by("volumeMounts", "mountPath", &LEAF),
]);

static POD_SPEC: Type = Type(&[
    by("containers", "name", &CONTAINER),
    by("ephemeralContainers", "name", &CONTAINER),
    by("hostAliases", "ip", &LEAF),
    by("imagePullSecrets", "name", &LEAF),
    by("initContainers", "name", &CONTAINER),
    by("resourceClaims", "name", &LEAF),
    by("schedulingGates", "name", &LEAF),
    by("topologySpreadConstraints", "topologyKey", &LEAF),
    by("volumes", "name", &LEAF),
]);

static POD_STATUS: Type = Type(&[
    by("conditions", "type", &LEAF),
    by("hostIPs", "ip", &LEAF),
    by("podIPs", "ip", &LEAF),
    by("resourceClaimStatuses", "name", &LEAF),
]);

static TEMPLATE: Type = Type(&[within("metadata", &METADATA), within("spec", &POD_SPEC)]);
static WITH_TEMPLATE: Type = Type(&[within("template", &TEMPLATE)]);
static JOB_TEMPLATE: Type = Type(&[within("metadata", &METADATA), within("spec", &WITH_TEMPLATE)]);
static CONDITIONS: Type = Type(&[by("conditions", "type", &LEAF)]);

static PLAIN: Type = Type(&[within("metadata", &METADATA), within("status", &CONDITIONS)]);

static POD: Type = Type(&[
    within("metadata", &METADATA),
    within("spec", &POD_SPEC),
    within("status", &POD_STATUS),
]);

static POD_TEMPLATE: Type = Type(&[within("metadata", &METADATA), within("template", &TEMPLATE)]);

static WORKLOAD: Type = Type(&[
    within("metadata", &METADATA),
    within("spec", &WITH_TEMPLATE),
    within("status", &CONDITIONS),
]);

static CRON_JOB: Type = Type(&[
    within("metadata", &METADATA),
    within("spec", &Type(&[within("jobTemplate", &JOB_TEMPLATE)])),
]);

static SERVICE: Type = Type(&[
    within("metadata", &METADATA),
    within("spec", &Type(&[by("ports", "port", &LEAF)])),
    within("status", &CONDITIONS),
]);

static SERVICE_ACCOUNT: Type = Type(&[within("metadata", &METADATA), by("secrets", "name", &LEAF)]);

static NODE: Type = Type(&[
    within("metadata", &METADATA),
    within("spec", &Type(&[Field { name: "podCIDRs", list: List::Set, of: &LEAF }])),
    within("status", &Type(&[by("addresses", "type", &LEAF), by("conditions", "type", &LEAF)])),
]);

static CSI_NODE: Type =
    Type(&[within("metadata", &METADATA), within("spec", &Type(&[by("drivers", "name", &LEAF)]))]);

static WEBHOOKS: Type = Type(&[
    within("metadata", &METADATA),
    by("webhooks", "name", &Type(&[by("matchConditions", "name", &LEAF)])),
]);

static ADMISSION_POLICY: Type = Type(&[
    within("metadata", &METADATA),
    within("spec", &Type(&[by("matchConditions", "name", &LEAF), by("variables", "name", &LEAF)])),
    within("status", &CONDITIONS),
]);

/// The groups whose types a strategic merge patch knows: those of the Kubernetes client, and the
/// two that Velero adds (CRDs and CSI snapshots), whose lists do not merge.
const GROUPS: [&str; 23] = [
    "",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apps",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "extensions",
    "flowcontrol.apiserver.k8s.io",
    "internal.apiserver.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "resource.k8s.io",
    "scheduling.k8s.io",
    "snapshot.storage.k8s.io",
    "storage.k8s.io",
];

/// Whether types of this API group can be merged.
pub(super) fn is_known_group(group: &str) -> bool {
    GROUPS.contains(&group)
}

/// The type of an object; none for a custom resource.
pub(super) fn of(group: &str, kind: &str) -> Option<&'static Type> {
    if !is_known_group(group) {
        return None;
    }
    Some(match (group, kind) {
        ("", "Pod") => &POD,
        ("", "PodTemplate") => &POD_TEMPLATE,
        ("", "Service") => &SERVICE,
        ("", "ServiceAccount") => &SERVICE_ACCOUNT,
        ("", "Node") => &NODE,
        ("", "ReplicationController")
        | ("apps" | "extensions", "DaemonSet" | "Deployment" | "ReplicaSet" | "StatefulSet")
        | ("batch", "Job") => &WORKLOAD,
        ("batch", "CronJob") => &CRON_JOB,
        ("storage.k8s.io", "CSINode") => &CSI_NODE,
        (
            "admissionregistration.k8s.io",
            "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration",
        ) => &WEBHOOKS,
        (
            "admissionregistration.k8s.io",
            "MutatingAdmissionPolicy" | "ValidatingAdmissionPolicy",
        ) => &ADMISSION_POLICY,
        _ => &PLAIN,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn custom_resources_have_no_merge_keys() {
        assert!(of("kubevirt.io", "VirtualMachine").is_none());
        assert!(of("apiregistration.k8s.io", "APIService").is_none());
        assert!(of("batch", "CronJob").is_some());
    }

    #[test]
    fn a_container_of_a_cron_job_merges_by_name() {
        let mut place = of("batch", "CronJob").unwrap();
        for step in ["spec", "jobTemplate", "spec", "template", "spec"] {
            place = place.field(step).0;
        }
        assert_eq!(place.field("containers").1, List::ByKey("name"));
        assert_eq!(place.field("tolerations").1, List::Replace);
    }
}

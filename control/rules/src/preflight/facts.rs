//! What there is to know of the target cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::ObjectId;
use crate::selector::Selector;

/// The version of an API server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 1, so far.
    pub major: u32,
    /// Its minor version.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

/// The facts. What the caller does not know it leaves out, and nothing is judged by it.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The API server's version.
    pub server: Option<Version>,
    /// What discovery names, without subresources. Empty: unknown.
    pub kinds: Vec<ServedKind>,
    /// Storage classes by name.
    pub storage_classes: BTreeMap<String, StorageClass>,
    /// Volume snapshot classes by name.
    pub snapshot_classes: BTreeMap<String, SnapshotClass>,
    /// Ingress classes.
    pub ingress_classes: BTreeSet<String>,
    /// Gateway classes.
    pub gateway_classes: BTreeSet<String>,
    /// Priority classes.
    pub priority_classes: BTreeSet<String>,
    /// Runtime classes.
    pub runtime_classes: BTreeSet<String>,
    /// Node ports in use, health checks' too, and the Service that has each.
    pub node_ports: BTreeMap<u16, ObjectId>,
    /// Host names in use, with their paths, and the object that has each.
    pub hosts: BTreeMap<(String, String), ObjectId>,
    /// Resource quotas of the namespaces that are restored to.
    pub quotas: Vec<Quota>,
    /// Resources for which a `LimitRange` of a namespace gives containers a default, as
    /// `requests.cpu` or `limits.memory`.
    pub limit_defaults: BTreeMap<String, BTreeSet<String>>,
    /// Webhooks that judge what is created, and cannot be reached.
    pub webhooks_down: Vec<Webhook>,
    /// Labels of the namespaces there are.
    pub namespace_labels: BTreeMap<String, BTreeMap<String, String>>,
    /// Namespaces that are being deleted.
    pub namespaces_terminating: BTreeSet<String>,
    /// Services with a ready endpoint, as (namespace, name).
    pub services_ready: BTreeSet<(String, String)>,
    /// Planned objects that exist.
    pub existing: BTreeMap<ObjectId, Existing>,
    /// What the API server refused in a dry run.
    pub refusals: Vec<Refusal>,
    /// Nodes that pods can run on.
    pub nodes: u64,
    /// What nodes have free.
    pub free: Option<Free>,
}

/// A kind that the API server knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedKind {
    /// Its group; empty for the core.
    pub group: String,
    /// The versions it is served in.
    pub versions: Vec<String>,
    /// Its name.
    pub kind: String,
    /// Its name in paths.
    pub plural: String,
}

/// A storage class.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StorageClass {
    /// Who makes its volumes.
    pub provisioner: String,
    /// Whether claims that name no class get it.
    pub is_default: bool,
    /// What its driver says is free, in bytes.
    pub free_bytes: Option<u128>,
    /// The largest volume its driver can make, in bytes.
    pub volume_bytes_max: Option<u128>,
}

/// A volume snapshot class.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotClass {
    /// The CSI driver.
    pub driver: String,
}

/// A quota with its use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quota {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What is allowed, as Kubernetes writes quantities.
    pub hard: BTreeMap<String, String>,
    /// What is used.
    pub used: BTreeMap<String, String>,
    /// Whether it counts some pods only.
    pub is_scoped: bool,
}

/// A webhook whose backend does not answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Webhook {
    /// The configuration that it is in.
    pub configuration: ObjectId,
    /// Its name there.
    pub name: String,
    /// The Service it calls, as (namespace, name); none for a URL.
    pub service: Option<(String, String)>,
    /// Whether what it should judge is then refused.
    pub fails_closed: bool,
    /// What it judges.
    pub rules: Vec<WebhookRule>,
    /// In which namespaces; `metav1.LabelSelector` as JSON.
    pub namespace_selector: Option<serde_json::Value>,
    /// Of which objects; likewise.
    pub object_selector: Option<serde_json::Value>,
    /// Why it does not answer.
    pub cause: String,
}

/// A rule of a webhook, creation only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WebhookRule {
    /// `*` for all.
    pub groups: Vec<String>,
    /// `*` for all.
    pub versions: Vec<String>,
    /// Plural names; `*` for all.
    pub resources: Vec<String>,
}

/// What a planned object finds in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// The same.
    Same,
    /// Another state of it.
    Differs,
    /// One that is being deleted.
    Terminating,
}

/// An answer to a dry run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which object.
    pub object: ObjectId,
    /// The API server's words.
    pub message: String,
}

/// What is allocatable and not requested, over all nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Free {
    /// Thousandths of a processor.
    pub cpu_milli: u128,
    /// Memory.
    pub memory_bytes: u128,
    /// Pods.
    pub pods: u64,
}

/// Whether labels are selected; no selector selects all, and so does one that cannot be read.
pub(super) fn selects(selector: Option<&serde_json::Value>, labels: &serde_json::Value) -> bool {
    let Some(selector) = selector else { return true };
    match serde_json::from_value::<Selector>(selector.clone()) {
        Ok(selector) => selector.matches(Some(labels)),
        Err(_) => true,
    }
}

//! Which lists are really sets or maps.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::object::{canonical, text};

/// What identifies an item of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum List {
    /// Its place.
    Ordered,
    /// What it is: order does not matter.
    Set,
    /// These of its fields: order does not matter.
    Map(&'static [&'static str]),
}

/// Which items of two lists belong together.
pub(super) struct Matching {
    /// For each wanted item, the live one.
    pub(super) pairs: Vec<Option<usize>>,
    /// Live items that belong to none.
    pub(super) extra: Vec<usize>,
}

impl List {
    /// What a list of that name is. Items without the identifying fields make it an ordered one.
    pub(super) fn of(field: &str, wanted: &[Value], live: &[Value], is_custom: bool) -> Self {
        let list =
            if is_custom { Self::of_metadata(field) } else { Self::of_built_in(field, wanted) };
        match list {
            Self::Map(keys) => {
                let has_all = |item: &Value| keys.iter().any(|key| item.get(key).is_some());
                let is_distinct = |items: &[Value]| {
                    let mut ids: Vec<String> = items.iter().map(|item| list.id(item)).collect();
                    ids.sort_unstable();
                    ids.windows(2).all(|pair| pair[0] != pair[1])
                };
                let all = wanted.iter().chain(live).all(has_all);
                if all && is_distinct(wanted) && is_distinct(live) { list } else { Self::Ordered }
            }
            other => other,
        }
    }

    fn of_metadata(field: &str) -> Self {
        match field {
            "finalizers" => Self::Set,
            "ownerReferences" => Self::Map(&["uid"]),
            _ => Self::Ordered,
        }
    }

    fn of_built_in(field: &str, wanted: &[Value]) -> Self {
        match field {
            "accessModes" | "verbs" | "resources" | "apiGroups" | "resourceNames"
            | "nonResourceURLs" | "subjects" | "policyTypes" | "shortNames" | "categories"
            | "operations" | "apiVersions" | "mountOptions" | "tolerations" => Self::Set,
            "containers"
            | "ephemeralContainers"
            | "volumes"
            | "imagePullSecrets"
            | "secrets"
            | "resourceClaims"
            | "schedulingGates"
            | "webhooks"
            // Only a CRD's versions are objects; elsewhere they have no names, and their order counts.
            | "versions" => Self::Map(&["name"]),
            "volumeMounts" => Self::Map(&["mountPath", "subPath"]),
            "volumeDevices" => Self::Map(&["devicePath"]),
            "hostAliases" => Self::Map(&["ip"]),
            "topologySpreadConstraints" => Self::Map(&["topologyKey", "whenUnsatisfiable"]),
            "ports" if wanted.iter().any(|port| port.get("containerPort").is_some()) => {
                Self::Map(&["containerPort", "protocol"])
            }
            "ports" => Self::Map(&["port", "protocol"]),
            other => Self::of_metadata(other),
        }
    }

    fn id(self, item: &Value) -> String {
        match self {
            Self::Map(keys) => {
                let mut id = String::new();
                for key in keys {
                    let value = item.get(key).map(Value::to_string);
                    let value =
                        value.or_else(|| (*key == "protocol").then(|| "\"TCP\"".to_owned()));
                    id.push_str(&value.unwrap_or_default());
                    id.push('\0');
                }
                id
            }
            _ => canonical(item),
        }
    }

    /// Pairs the items of two lists.
    pub(super) fn pair(self, wanted: &[Value], live: &[Value]) -> Matching {
        if self == Self::Ordered {
            let pairs = (0..wanted.len()).map(|at| (at < live.len()).then_some(at)).collect();
            return Matching { pairs, extra: (wanted.len().min(live.len())..live.len()).collect() };
        }
        let mut free: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (at, item) in live.iter().enumerate().rev() {
            free.entry(self.id(item)).or_default().push(at);
        }
        let pairs =
            wanted.iter().map(|item| free.get_mut(&self.id(item)).and_then(Vec::pop)).collect();
        let mut extra: Vec<usize> = free.into_values().flatten().collect();
        extra.sort_unstable();
        Matching { pairs, extra }
    }
}

/// Whether the server adds such items to lists by itself.
pub(super) fn is_added_by_server(field: &str, item: &Value) -> bool {
    let name = text(item, "/name");
    match field {
        "volumes" | "volumeMounts" => name.starts_with("kube-api-access-"),
        "tolerations" => text(item, "/key").starts_with("node.kubernetes.io/"),
        "finalizers" | "ownerReferences" => true,
        "imagePullSecrets" | "secrets" => name.contains("-dockercfg-") || name.contains("-token-"),
        _ => false,
    }
}

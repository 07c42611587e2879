//! Quotas that the restored objects do not fit into.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::quantity::{milli, show};
use super::{Case, Item, ObjectId, Problem, Quota, Severity, Topic};

pub(super) fn quotas(given: &Case<'_>, problems: &mut Vec<Problem>) {
    if given.facts.quotas.is_empty() {
        return;
    }
    let namespaces: BTreeSet<&str> =
        given.facts.quotas.iter().map(|quota| quota.namespace.as_str()).collect();
    let mut demands: BTreeMap<&str, Demand> = BTreeMap::new();
    for item in given.new_objects() {
        if let Some(namespace) = namespaces.get(item.id.namespace.as_str()) {
            demands.entry(namespace).or_default().add(item, given);
        }
    }
    for quota in &given.facts.quotas {
        if let Some(demand) = demands.get(quota.namespace.as_str()) {
            judge(quota, demand, given, problems);
        }
    }
}

fn judge(quota: &Quota, demand: &Demand, given: &Case<'_>, problems: &mut Vec<Problem>) {
    let severity = if quota.is_scoped { Severity::Warning } else { Severity::Blocking };
    let object = ObjectId {
        api_version: "v1".into(),
        kind: "ResourceQuota".into(),
        namespace: quota.namespace.clone(),
        name: quota.name.clone(),
    };
    let mut push = |cause: String, remedy: &str| {
        let (object, remedy) = (object.clone(), remedy.to_owned());
        problems.push(Problem { severity, topic: Topic::QuotaTooSmall, object, cause, remedy });
    };
    let defaults = given.facts.limit_defaults.get(&quota.namespace);
    for (resource, hard) in &quota.hard {
        let name = canonical(resource);
        let Some(hard) = milli(hard) else { continue };
        let used = quota.used.get(resource).and_then(|used| milli(used)).unwrap_or(0);
        let wanted = demand.amounts.get(name).copied().unwrap_or(0);
        let free = hard.saturating_sub(used);
        if wanted > free {
            let cause = format!(
                "{resource}: the restore needs {}, {} of {} is free",
                show(wanted),
                show(free),
                show(hard)
            );
            push(cause, "raise the quota, exclude objects, or restore to another namespace");
        }
        let silent = demand
            .silent
            .get(name)
            .filter(|_| !defaults.is_some_and(|defaults| defaults.contains(name)));
        if let Some(object) = silent.filter(|_| MUST_BE_SET.contains(&name)) {
            let cause = format!(
                "it limits {resource}, and pods of {object} do not set it: they are refused"
            );
            push(cause, "set it with a resource modifier, or create a LimitRange with a default");
        }
    }
}

/// Resources that every container must set where a quota limits them.
const MUST_BE_SET: [&str; 4] = ["limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];

/// One name for each resource.
fn canonical(resource: &str) -> &str {
    match resource {
        "cpu" => "requests.cpu",
        "memory" => "requests.memory",
        "ephemeral-storage" => "requests.ephemeral-storage",
        "storage" => "requests.storage",
        "count/pods" => "pods",
        "count/services" => "services",
        "count/secrets" => "secrets",
        "count/configmaps" => "configmaps",
        "count/persistentvolumeclaims" => "persistentvolumeclaims",
        "count/replicationcontrollers" => "replicationcontrollers",
        "count/resourcequotas" => "resourcequotas",
        other => other,
    }
}

/// What new objects of one namespace need, in thousandths.
#[derive(Default)]
struct Demand {
    amounts: BTreeMap<String, u128>,
    /// For each resource that some pods do not set, one object whose pods they are.
    silent: BTreeMap<String, ObjectId>,
}

impl Demand {
    fn add(&mut self, item: &Item<'_>, given: &Case<'_>) {
        let plural = given.plural(&item.id);
        let counted = match item.id.group() {
            "" => format!("count/{plural}"),
            group => format!("count/{plural}.{group}"),
        };
        // Pods are counted below, with those that controllers make.
        if !item.is("", "Pod") {
            self.more(canonical(&counted), 1_000);
        }
        if item.is("", "Service") {
            self.service(item);
        }
        if item.is("", "PersistentVolumeClaim") {
            self.claim(item.object, 1);
        }
        let Some((spec, count)) = item.pods(given.facts.nodes) else { return };
        if count == 0 {
            return;
        }
        self.pods(item, spec, u128::from(count));
        for claim in item.list("/spec/volumeClaimTemplates") {
            let name = claim.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
            let missing = (0..count.min(10_000)).filter(|ordinal| {
                let name = format!("{name}-{}-{ordinal}", item.id.name);
                !given.brings_in("", "PersistentVolumeClaim", &item.id.namespace, &name)
            });
            self.claim_template(claim, missing.count());
        }
    }

    fn more(&mut self, resource: &str, milli: u128) {
        let amount = self.amounts.entry(resource.to_owned()).or_default();
        *amount = amount.saturating_add(milli);
    }

    fn service(&mut self, item: &Item<'_>) {
        let kind = item.text("/spec/type").unwrap_or("ClusterIP");
        let ports = item.list("/spec/ports").len() as u128 * 1_000;
        if kind == "LoadBalancer" {
            self.more("services.loadbalancers", 1_000);
        }
        let allocates =
            item.object.pointer("/spec/allocateLoadBalancerNodePorts").and_then(Value::as_bool);
        if kind == "NodePort" || kind == "LoadBalancer" && allocates != Some(false) {
            self.more("services.nodeports", ports);
        }
    }

    fn claim_template(&mut self, claim: &Value, count: usize) {
        if count > 0 {
            self.more("persistentvolumeclaims", count as u128 * 1_000);
            self.claim(claim, count as u128);
        }
    }

    fn claim(&mut self, claim: &Value, count: u128) {
        let size = claim.pointer("/spec/resources/requests/storage").and_then(Value::as_str);
        let size = size.and_then(milli).unwrap_or(0).saturating_mul(count);
        self.more("requests.storage", size);
        let class = claim.pointer("/spec/storageClassName").and_then(Value::as_str);
        if let Some(class) = class.filter(|class| !class.is_empty()) {
            self.more(&format!("{class}.storageclass.storage.k8s.io/requests.storage"), size);
            let claims = format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims");
            self.more(&claims, count.saturating_mul(1_000));
        }
    }

    fn pods(&mut self, item: &Item<'_>, spec: &Value, count: u128) {
        self.more("pods", count.saturating_mul(1_000));
        let needs = pod_needs(spec);
        for (resource, amount) in &needs {
            self.more(resource, amount.saturating_mul(count));
        }
        for resource in MUST_BE_SET {
            if is_silent_on(spec, resource) {
                self.silent.entry(resource.to_owned()).or_insert_with(|| item.id.clone());
            }
        }
    }
}

/// Whether some container does not say what it needs of a resource such as `limits.cpu`.
fn is_silent_on(spec: &Value, resource: &str) -> bool {
    let Some((half, name)) = resource.split_once('.') else { return false };
    let says = |of: &Value| {
        let set = |half: &str| of.get("resources").and_then(|r| r.get(half)?.get(name)).is_some();
        // A limit is a request where none is given.
        set(half) || half == "requests" && set("limits")
    };
    let any_silent = |field: &str| {
        let containers = spec.get(field).and_then(Value::as_array);
        containers.into_iter().flatten().any(|container| !says(container))
    };
    !says(spec) && (any_silent("containers") || any_silent("initContainers"))
}

/// What one pod asks for by `requests.cpu`, `limits.memory` and so on, in thousandths. As the
/// scheduler sums it: containers and sidecars together, or the largest init container with the
/// sidecars before it, plus overhead.
pub(super) fn pod_needs(spec: &Value) -> BTreeMap<String, u128> {
    let of = |field: &str| {
        let containers = spec.get(field).and_then(Value::as_array);
        containers.map(Vec::as_slice).unwrap_or_default()
    };
    let mut running: BTreeMap<String, u128> = BTreeMap::new();
    let mut peak: BTreeMap<String, u128> = BTreeMap::new();
    for container in of("initContainers") {
        let is_sidecar = container.get("restartPolicy").and_then(Value::as_str) == Some("Always");
        for (resource, amount) in container_needs(container) {
            let before = running.get(&resource).copied().unwrap_or(0);
            if is_sidecar {
                running.insert(resource.clone(), before.saturating_add(amount));
            }
            let highest = peak.entry(resource).or_default();
            *highest = (*highest).max(before.saturating_add(amount));
        }
    }
    for container in of("containers") {
        for (resource, amount) in container_needs(container) {
            let sum = running.entry(resource).or_default();
            *sum = sum.saturating_add(amount);
        }
    }
    for (resource, amount) in running {
        let highest = peak.entry(resource).or_default();
        *highest = (*highest).max(amount);
    }
    for (resource, amount) in amounts(spec.get("overhead")) {
        for half in ["requests", "limits"] {
            if let Some(sum) = peak.get_mut(&format!("{half}.{resource}")) {
                *sum = sum.saturating_add(amount);
            }
        }
    }
    for half in ["requests", "limits"] {
        for (resource, amount) in amounts(spec.pointer(&format!("/resources/{half}"))) {
            peak.insert(format!("{half}.{resource}"), amount);
        }
    }
    peak
}

fn container_needs(container: &Value) -> BTreeMap<String, u128> {
    let mut needs = BTreeMap::new();
    for (resource, amount) in amounts(container.pointer("/resources/limits")) {
        needs.insert(format!("limits.{resource}"), amount);
        needs.insert(format!("requests.{resource}"), amount);
    }
    for (resource, amount) in amounts(container.pointer("/resources/requests")) {
        needs.insert(format!("requests.{resource}"), amount);
    }
    needs
}

/// A map of quantities; one may be written as a number.
fn amounts(map: Option<&Value>) -> impl Iterator<Item = (&String, u128)> {
    map.and_then(Value::as_object).into_iter().flatten().filter_map(|(resource, amount)| {
        let amount = match amount {
            Value::String(text) => milli(text)?,
            number => milli(&number.to_string())?,
        };
        Some((resource, amount))
    })
}

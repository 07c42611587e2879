//! Services: what the old cluster allotted, and what a person chose.

use serde_json::Value;

use super::{Action, ClusterIps, Job, LoadBalancers, NodePorts, Rule};
use crate::object::{annotation, items, text};

const SERVICE: &[(&str, &str)] = &[("", "Service")];

/// What `kubectl apply` was last given.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Annotations that ask a load balancer for addresses, separated by commas.
const ADDRESS_ANNOTATIONS: [&str; 6] = [
    "metallb.io/loadBalancerIPs",
    "metallb.universe.tf/loadBalancerIPs",
    "kube-vip.io/loadbalancerIPs",
    "lbipam.cilium.io/ips",
    "io.cilium/lb-ipam-ips",
    "loadbalancer.openstack.org/load-balancer-address",
];

pub(super) static RULES: &[Rule] = &[
    Rule {
        id: "service.clusterip",
        what: "the target gives a Service its address, unless addresses are kept",
        of: SERVICE,
        run: cluster_ips,
    },
    Rule {
        id: "service.nodeport",
        what: "node ports follow the policy: by default those a person chose stay",
        of: SERVICE,
        run: node_ports,
    },
    Rule {
        id: "service.healthport",
        what: "the health-check port follows the policy for node ports",
        of: SERVICE,
        run: health_port,
    },
    Rule {
        id: "service.loadbalancer",
        what: "addresses asked of a load balancer, and external IPs, follow the policy",
        of: SERVICE,
        run: load_balancer,
    },
];

fn is_external_name(service: &Value) -> bool {
    text(service, "/spec/type") == "ExternalName"
}

fn cluster_ips(job: &mut Job<'_>) {
    let is_headless = text(job.object, "/spec/clusterIP") == "None";
    let keeps = job.options.cluster_ips == ClusterIps::Keep;
    if keeps || is_headless || is_external_name(job.object) {
        return;
    }
    job.remove("/spec/clusterIP");
    job.remove("/spec/clusterIPs");
}

fn node_ports(job: &mut Job<'_>) {
    if is_external_name(job.object) {
        return;
    }
    let options = job.options;
    for number in 0..items(job.object, "/spec/ports").len() {
        let place = format!("/spec/ports/{number}");
        let Some(entry) = job.object.pointer(&place) else { continue };
        let Some(port) = port_number(entry, "nodePort") else { continue };
        let stays = match &options.node_ports {
            NodePorts::Keep => true,
            NodePorts::KeepChosen => is_chosen(job.object, entry),
            NodePorts::Drop | NodePorts::Remap(_) => false,
        };
        match &options.node_ports {
            NodePorts::Remap(ports) => move_port(job, &place, "nodePort", ports.get(&port)),
            _ if stays => {}
            _ => {
                job.remove(&format!("{place}/nodePort"));
            }
        }
    }
}

fn health_port(job: &mut Job<'_>) {
    let Some(spec) = job.object.get("spec") else { return };
    let Some(port) = port_number(spec, "healthCheckNodePort") else { return };
    let options = job.options;
    match &options.node_ports {
        NodePorts::Keep => {}
        NodePorts::KeepChosen => {
            let applied = last_applied(job.object);
            let spec = applied.as_ref().and_then(|applied| applied.get("spec"));
            let wrote = spec.is_some_and(|spec| port_number(spec, "healthCheckNodePort").is_some());
            let owns =
                managed_specs(job.object).any(|spec| spec.get("f:healthCheckNodePort").is_some());
            if !wrote && !owns {
                job.remove("/spec/healthCheckNodePort");
            }
        }
        NodePorts::Drop => {
            job.remove("/spec/healthCheckNodePort");
        }
        NodePorts::Remap(ports) => {
            move_port(job, "/spec", "healthCheckNodePort", ports.get(&port));
        }
    }
}

/// A port that is itself the outcome of the mapping stays, so that sanitising twice is harmless.
fn move_port(job: &mut Job<'_>, place: &str, field: &str, to: Option<&u16>) {
    let now = job.object.pointer(place).and_then(|entry| port_number(entry, field));
    let is_outcome = match &job.options.node_ports {
        NodePorts::Remap(ports) => ports.values().any(|port| Some(*port) == now),
        _ => false,
    };
    match to {
        Some(port) => job.set(place, field, Value::from(*port)),
        None if is_outcome => {}
        None => {
            job.remove(&format!("{place}/{field}"));
        }
    }
}

fn port_number(entry: &Value, field: &str) -> Option<u16> {
    let number = entry.get(field)?.as_u64()?;
    u16::try_from(number).ok().filter(|port| *port != 0)
}

fn protocol(entry: &Value) -> &str {
    match text(entry, "/protocol") {
        "" => "TCP",
        protocol => protocol,
    }
}

/// Whether a person chose the node port of a port entry: it was applied, or somebody owns the field.
/// A port that the API server allots has no owner.
fn is_chosen(service: &Value, entry: &Value) -> bool {
    let port = entry.get("port").and_then(Value::as_u64).unwrap_or_default();
    let is_same = |other: &Value| {
        other.get("port").and_then(Value::as_u64) == Some(port)
            && protocol(other) == protocol(entry)
    };
    let applied = last_applied(service);
    let was_applied = applied.as_ref().is_some_and(|applied| {
        items(applied, "/spec/ports")
            .iter()
            .any(|other| is_same(other) && port_number(other, "nodePort").is_some())
    });
    was_applied
        || managed_specs(service).any(|spec| {
            let ports = spec.get("f:ports").and_then(Value::as_object);
            ports.into_iter().flatten().any(|(key, fields)| {
                let named = key.strip_prefix("k:");
                let named = named.and_then(|key| serde_json::from_str::<Value>(key).ok());
                fields.get("f:nodePort").is_some() && named.is_some_and(|named| is_same(&named))
            })
        })
}

fn last_applied(service: &Value) -> Option<Value> {
    serde_json::from_str(annotation(service, LAST_APPLIED)?).ok()
}

/// The parts of spec that each field manager owns.
fn managed_specs(service: &Value) -> impl Iterator<Item = &Value> {
    let managers = items(service, "/metadata/managedFields").iter();
    managers.filter_map(|manager| manager.pointer("/fieldsV1/f:spec"))
}

fn load_balancer(job: &mut Job<'_>) {
    let options = job.options;
    let map = |address: &str| -> Option<String> {
        match &options.load_balancers {
            LoadBalancers::Keep => Some(address.to_owned()),
            LoadBalancers::Drop => None,
            LoadBalancers::Remap(addresses) => addresses
                .get(address)
                .or_else(|| addresses.values().find(|outcome| *outcome == address))
                .cloned(),
        }
    };
    if options.load_balancers == LoadBalancers::Keep {
        return;
    }
    let asked = text(job.object, "/spec/loadBalancerIP").to_owned();
    if !asked.is_empty() {
        match map(&asked) {
            Some(other) => job.set("/spec", "loadBalancerIP", Value::from(other)),
            None => {
                job.remove("/spec/loadBalancerIP");
            }
        }
    }
    job.retain("/spec/externalIPs", |ip| ip.as_str().and_then(map).is_some());
    for number in 0..items(job.object, "/spec/externalIPs").len() {
        let place = format!("/spec/externalIPs/{number}");
        let mapped = map(text(job.object, &place));
        if let (Some(slot), Some(mapped)) = (job.object.pointer_mut(&place), mapped)
            && slot.as_str() != Some(&mapped)
        {
            *slot = Value::from(mapped);
            job.record(place, Action::Replaced);
        }
    }
    for key in ADDRESS_ANNOTATIONS {
        let Some(listed) = annotation(job.object, key) else { continue };
        let mapped: Vec<String> =
            listed.split(',').filter_map(|address| map(address.trim())).collect();
        if mapped.is_empty() {
            job.remove_annotation(key);
        } else {
            job.set("/metadata/annotations", key, Value::from(mapped.join(",")));
        }
    }
}

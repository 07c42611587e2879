//! Ports and host names that somebody else has.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Case, Item, NodePortPolicy, ObjectId, Problem, Severity, Topic};

pub(super) fn node_ports(given: &Case<'_>, problems: &mut Vec<Problem>) {
    if given.planned.node_ports == NodePortPolicy::Drop {
        return;
    }
    let mut planned: BTreeMap<u64, &ObjectId> = BTreeMap::new();
    for item in given.objects.iter().filter(|item| item.is("", "Service")) {
        let ports =
            item.list("/spec/ports").iter().filter_map(|port| port.get("nodePort")?.as_u64());
        let health = item.object.pointer("/spec/healthCheckNodePort").and_then(Value::as_u64);
        // One number may serve TCP and UDP of one Service.
        let ports: std::collections::BTreeSet<u64> =
            ports.chain(health).filter(|port| *port > 0).collect();
        for port in ports {
            let taken = u16::try_from(port).ok().and_then(|port| given.facts.node_ports.get(&port));
            let owner = taken.filter(|owner| !owner.is_same(&item.id));
            let owner = owner.or_else(|| planned.get(&port).copied());
            if let Some(owner) = owner {
                let cause = format!("node port {port} is taken by {owner}");
                let remedy = "drop node ports in the restore, change it with a resource modifier, or free it";
                problems.push(item.problem(
                    Severity::Blocking,
                    Topic::NodePortTaken,
                    cause,
                    remedy,
                ));
            }
            planned.entry(port).or_insert(&item.id);
        }
    }
}

pub(super) fn hosts(given: &Case<'_>, problems: &mut Vec<Problem>) {
    let mut planned: BTreeMap<(String, String), &ObjectId> = BTreeMap::new();
    for item in given.objects {
        for route in routes(item) {
            let taken = given.facts.hosts.get(&route).filter(|owner| !owner.is_same(&item.id));
            let taken = taken
                .or_else(|| planned.get(&route).copied().filter(|owner| !owner.is_same(&item.id)));
            if let Some(owner) = taken {
                let (host, path) = &route;
                let cause =
                    format!("host {host}{path} is served by {owner}: requests go to either");
                let remedy = "change the host with a resource modifier, or remove the other";
                problems.push(item.problem(Severity::Warning, Topic::HostTaken, cause, remedy));
            }
            planned.entry(route).or_insert(&item.id);
        }
    }
}

/// Hosts with their paths, of Ingresses, Gateway routes and `OpenShift` routes.
fn routes(item: &Item<'_>) -> Vec<(String, String)> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let mut routes = Vec::new();
    if item.is("networking.k8s.io", "Ingress") {
        for rule in item.list("/spec/rules") {
            let Some(host) = text(rule.get("host")) else { continue };
            let paths = rule.pointer("/http/paths").and_then(Value::as_array);
            let paths = paths.map(Vec::as_slice).unwrap_or_default();
            routes.extend(
                paths.iter().map(|path| {
                    (host.clone(), text(path.get("path")).unwrap_or_else(|| "/".into()))
                }),
            );
            if paths.is_empty() {
                routes.push((host, "/".into()));
            }
        }
    } else if item.is("route.openshift.io", "Route") {
        let path = item.text("/spec/path").filter(|path| !path.is_empty()).unwrap_or("/");
        routes.extend(item.text("/spec/host").map(|host| (host.to_owned(), path.to_owned())));
    }
    routes
}

//! Volumes and pods that there is no room for.

use std::collections::BTreeMap;

use super::quantity::{milli, show};
use super::quota::pod_needs;
use super::{Case, ObjectId, Problem, Severity, Topic};

pub(super) fn capacity(given: &Case<'_>, problems: &mut Vec<Problem>) {
    volumes(given, problems);
    nodes(given, problems);
}

fn volumes(given: &Case<'_>, problems: &mut Vec<Problem>) {
    let classes = &given.facts.storage_classes;
    let default = classes.iter().find(|(_, class)| class.is_default).map(|(name, _)| name.as_str());
    let mut sums: BTreeMap<&str, u128> = BTreeMap::new();
    for item in given.new_objects().filter(|item| item.is("", "PersistentVolumeClaim")) {
        let Some(name) = item.text("/spec/storageClassName").or(default) else { continue };
        let Some(class) = classes.get(name) else { continue };
        let size = item.text("/spec/resources/requests/storage").and_then(milli).unwrap_or(0);
        let size_bytes = size.div_ceil(1_000);
        *sums.entry(name).or_default() += size_bytes;
        if let Some(max) = class.volume_bytes_max.filter(|max| size_bytes > *max) {
            let max = show(max * 1_000);
            let cause = format!(
                "it needs {}, and the largest volume of class {name:?} is {max}",
                show(size)
            );
            let remedy = "map it to another storage class, or give its backend room";
            problems.push(item.problem(Severity::Blocking, Topic::NoCapacity, cause, remedy));
        }
    }
    for (name, sum_bytes) in sums {
        let free = classes.get(name).and_then(|class| class.free_bytes);
        let Some(free_bytes) = free.filter(|free| sum_bytes > *free) else { continue };
        problems.push(Problem {
            severity: Severity::Blocking,
            topic: Topic::NoCapacity,
            object: ObjectId {
                api_version: "storage.k8s.io/v1".into(),
                kind: "StorageClass".into(),
                namespace: String::new(),
                name: name.to_owned(),
            },
            cause: format!(
                "the claims of the restore need {}, its driver has {} free",
                show(sum_bytes * 1_000),
                show(free_bytes * 1_000)
            ),
            remedy: "give its backend room, map claims to another class, or restore fewer".into(),
        });
    }
}

/// Pods that do not fit stay pending, which is no harm to what is restored.
fn nodes(given: &Case<'_>, problems: &mut Vec<Problem>) {
    let Some(free) = given.facts.free else { return };
    let (mut cpu, mut memory, mut pods) = (0_u128, 0_u128, 0_u128);
    for item in given.new_objects() {
        let Some((spec, count)) = item.pods(given.facts.nodes) else { continue };
        let needs = pod_needs(spec);
        let need = |name: &str| {
            let amount = needs.get(name).copied().unwrap_or(0);
            amount.saturating_mul(u128::from(count))
        };
        cpu = cpu.saturating_add(need("requests.cpu"));
        memory = memory.saturating_add(need("requests.memory"));
        pods += u128::from(count);
    }
    let wanted = [
        ("CPU", cpu, free.cpu_milli),
        ("memory", memory, free.memory_bytes.saturating_mul(1_000)),
        ("pods", pods.saturating_mul(1_000), u128::from(free.pods) * 1_000),
    ];
    for (what, wanted, free) in wanted {
        if wanted > free {
            problems.push(Problem {
                severity: Severity::Warning,
                topic: Topic::NoCapacity,
                object: ObjectId { kind: "Node".into(), ..ObjectId::default() },
                cause: format!(
                    "{what}: the restored pods ask for {}, all nodes together have {} free: some \
                     stay pending",
                    show(wanted),
                    show(free)
                ),
                remedy: "add nodes, or restore the workloads stopped and start what fits".into(),
            });
        }
    }
}

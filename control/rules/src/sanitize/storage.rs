//! Volumes and claims: what bound them in the old cluster.

use serde_json::Value;

use super::{Job, Rule};
use crate::object::{items, text};
use crate::quantity::Quantity;

const CLAIM: &[(&str, &str)] = &[("", "PersistentVolumeClaim")];
const VOLUME: &[(&str, &str)] = &[("", "PersistentVolume")];

pub(super) static RULES: &[Rule] = &[
    Rule {
        id: "claim.binding",
        what: "a claim is bound anew, to its own volume if that comes back as it was",
        of: CLAIM,
        run: unbind_claim,
    },
    Rule {
        id: "claim.source",
        what: "a claim's data comes from the backup, not from where it came first",
        of: CLAIM,
        run: strip_sources,
    },
    Rule {
        id: "claim.size",
        what: "a claim asks for as much as its volume had, so that the data fits",
        of: CLAIM,
        run: ask_for_capacity,
    },
    Rule {
        id: "volume.binding",
        what: "a volume waits for its claim by name, whatever the claim's UID",
        of: VOLUME,
        run: unbind_volume,
    },
    Rule {
        id: "statefulset.claims",
        what: "status within claim templates goes",
        of: &[("apps", "StatefulSet")],
        run: |job| {
            for number in 0..items(job.object, "/spec/volumeClaimTemplates").len() {
                job.remove(&format!("/spec/volumeClaimTemplates/{number}/status"));
            }
        },
    },
];

const CLAIM_ANNOTATIONS: [&str; 8] = [
    "pv.kubernetes.io/bind-completed",
    "pv.kubernetes.io/bound-by-controller",
    "volume.kubernetes.io/storage-provisioner",
    "volume.beta.kubernetes.io/storage-provisioner",
    "volume.kubernetes.io/selected-node",
    "volume.kubernetes.io/storage-resizer",
    "volume.kubernetes.io/node-expansion-required",
    "pv.kubernetes.io/migrated-to",
];

/// Whether a volume comes back as it is: its data was not captured, and its owner said that it
/// outlives its claim, so that it is still where it was.
pub fn keeps_volume(volume: &Value, has_data: bool) -> bool {
    !has_data && text(volume, "/spec/persistentVolumeReclaimPolicy") == "Retain"
}

fn unbind_claim(job: &mut Job<'_>) {
    for key in CLAIM_ANNOTATIONS {
        job.remove_annotation(key);
    }
    let volume = text(job.object, "/spec/volumeName");
    if job.facts.kept_volumes.contains(volume) {
        return;
    }
    job.remove("/spec/volumeName");
    // A claim with a class and a selector is filled by no provisioner; without a class an administrator
    // makes the volumes that it selects.
    let class = job.object.pointer("/spec/storageClassName").and_then(Value::as_str);
    if class != Some("") {
        job.remove("/spec/selector");
    }
}

fn strip_sources(job: &mut Job<'_>) {
    if job.options.keep_data_sources {
        return;
    }
    job.remove("/spec/dataSource");
    job.remove("/spec/dataSourceRef");
}

fn ask_for_capacity(job: &mut Job<'_>) {
    let status = job.out.status.as_ref();
    let had = status.map_or("", |status| text(status, "/capacity/storage")).to_owned();
    let asked = text(job.object, "/spec/resources/requests/storage");
    let (Ok(had_bytes), Ok(asked_bytes)) = (Quantity::parse(&had), Quantity::parse(asked)) else {
        return;
    };
    if had_bytes > asked_bytes {
        job.set("/spec/resources/requests", "storage", Value::from(had));
    }
}

fn unbind_volume(job: &mut Job<'_>) {
    job.remove_annotation("pv.kubernetes.io/bound-by-controller");
    job.remove_annotation("pv.kubernetes.io/bind-completed");
    for field in ["uid", "resourceVersion", "apiVersion", "kind", "fieldPath"] {
        job.remove(&format!("/spec/claimRef/{field}"));
    }
}

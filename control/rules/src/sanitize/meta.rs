//! Metadata that the server keeps, and status.

use super::{ANY, Job, Rule};
use crate::object::items;

/// What the server writes.
const SERVER: [&str; 9] = [
    "generateName",
    "selfLink",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "clusterName",
];

/// Finalizers that the target's own components set where they are needed.
const OF_KUBERNETES: [&str; 11] = [
    "foregroundDeletion",
    "orphan",
    "kubernetes",
    "kubernetes.io/pvc-protection",
    "kubernetes.io/pv-protection",
    "kubernetes.io/pv-controller",
    "external-provisioner.volume.kubernetes.io/finalizer",
    "external-attacher",
    "service.kubernetes.io/load-balancer-cleanup",
    "batch.kubernetes.io/job-tracking",
    "snapshot.storage.kubernetes.io/pvc-as-source-protection",
];

/// Annotations that controllers write about the cluster they run in.
const OBSERVED: [&str; 17] = [
    "deployment.kubernetes.io/revision",
    "deployment.kubernetes.io/desired-replicas",
    "deployment.kubernetes.io/max-replicas",
    "autoscaling.alpha.kubernetes.io/conditions",
    "autoscaling.alpha.kubernetes.io/current-metrics",
    "endpoints.kubernetes.io/last-change-trigger-time",
    "endpoints.kubernetes.io/over-capacity",
    "batch.kubernetes.io/job-tracking",
    "cni.projectcalico.org/containerID",
    "cni.projectcalico.org/podIP",
    "cni.projectcalico.org/podIPs",
    "k8s.v1.cni.cncf.io/network-status",
    "k8s.v1.cni.cncf.io/networks-status",
    "k8s.ovn.org/pod-networks",
    "openshift.io/scc",
    "kubernetes.io/psp",
    "kubernetes.io/limit-ranger",
];

pub(super) static RULES: &[Rule] = &[
    Rule {
        id: "meta.finalizers",
        what: "finalizers go that nobody on the target would ever remove",
        of: ANY,
        run: strip_finalizers,
    },
    Rule {
        id: "meta.observed",
        what: "annotations go that controllers wrote about the old cluster",
        of: ANY,
        run: |job| {
            for key in OBSERVED {
                job.remove_annotation(key);
            }
        },
    },
    Rule { id: "meta.velero", what: "marks of earlier restores go", of: ANY, run: strip_marks },
    Rule {
        id: "meta.server",
        what: "metadata goes that the server writes itself",
        of: ANY,
        run: |job| {
            for field in SERVER {
                job.remove(&format!("/metadata/{field}"));
            }
        },
    },
    Rule {
        id: "meta.managed",
        what: "field ownership goes: it begins anew with the restore",
        of: ANY,
        run: |job| {
            job.remove("/metadata/managedFields");
        },
    },
    Rule {
        id: "meta.status",
        what: "status is set aside: controllers write it, or the restore does afterwards",
        of: ANY,
        run: |job| {
            job.remove("/status");
        },
    },
];

fn strip_finalizers(job: &mut Job<'_>) {
    let facts = job.facts;
    job.retain("/metadata/finalizers", |finalizer| {
        let name = finalizer.as_str().unwrap_or_default();
        !OF_KUBERNETES.contains(&name) && facts.served_finalizers.contains(name)
    });
    if items(job.object, "/metadata/finalizers").is_empty() {
        job.remove("/metadata/finalizers");
    }
}

fn strip_marks(job: &mut Job<'_>) {
    for key in ["velero.io/backup-name", "velero.io/restore-name"] {
        job.remove_label(key);
    }
    for key in VELERO_STATE {
        job.remove_annotation(key);
    }
}

/// What Velero writes about its own work.
const VELERO_STATE: [&str; 6] = [
    "velero.io/volume-snapshot-name",
    "velero.io/data-upload-name",
    "velero.io/original-pv-name",
    "velero.io/snapshot-volume-size",
    "velero.io/node-agent-namespace",
    "backup.velero.io/must-include-additional-items",
];

//! The table in `cases2/preflight.yaml`: every problem, and nothing where there is none.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use rules::preflight::{
    Existing, ExistingPolicy, Facts, Free, NodePortPolicy, ObjectId, Planned, Quota, Refusal,
    ServedKind, SnapshotClass, StorageClass, Version, Webhook, WebhookRule, judge, may_begin,
};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    facts: ShortFacts,
    source: Option<(u32, u32)>,
    existing: Option<String>,
    node_ports: Option<String>,
    objects: Vec<Value>,
    problems: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct ShortFacts {
    server: Option<(u32, u32)>,
    kinds: Vec<(String, String, String, String)>,
    storage_classes: BTreeMap<String, ShortClass>,
    snapshot_classes: BTreeMap<String, String>,
    ingress_classes: Vec<String>,
    node_ports: BTreeMap<u16, String>,
    hosts: BTreeMap<String, String>,
    quotas: Vec<ShortQuota>,
    limit_defaults: BTreeMap<String, Vec<String>>,
    webhooks_down: Vec<ShortWebhook>,
    namespace_labels: BTreeMap<String, BTreeMap<String, String>>,
    namespaces_terminating: Vec<String>,
    existing: BTreeMap<String, String>,
    refusals: BTreeMap<String, String>,
    free: Option<ShortFree>,
}

/// In GiB.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct ShortClass {
    free: Option<u128>,
    max: Option<u128>,
    default: bool,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct ShortQuota {
    namespace: String,
    name: String,
    hard: BTreeMap<String, String>,
    used: BTreeMap<String, String>,
    scoped: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ShortWebhook {
    configuration: String,
    service: String,
    closed: bool,
    resources: Vec<String>,
    namespace_selector: Option<Value>,
    object_selector: Option<Value>,
    cause: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ShortFree {
    cpu_milli: u128,
    memory_gib: u128,
    pods: u64,
}

fn id(api_version: &str, kind: &str, full_name: &str) -> ObjectId {
    let (namespace, name) = full_name.split_once('/').unwrap_or(("", full_name));
    ObjectId {
        api_version: api_version.into(),
        kind: kind.into(),
        namespace: namespace.into(),
        name: name.into(),
    }
}

/// `v1 ConfigMap ns/name`.
fn parse_id(text: &str) -> ObjectId {
    let [api_version, kind, name] = text.split(' ').collect::<Vec<_>>().try_into().unwrap();
    id(api_version, kind, name)
}

fn pair(text: &str) -> (String, String) {
    let (namespace, name) = text.split_once('/').unwrap();
    (namespace.into(), name.into())
}

impl ShortFacts {
    fn facts(self) -> Facts {
        let mut facts = self.classes();
        facts.node_ports = self
            .node_ports
            .iter()
            .map(|(port, owner)| (*port, id("v1", "Service", owner)))
            .collect();
        facts.hosts = self
            .hosts
            .iter()
            .map(|(route, owner)| {
                let at = route.find('/').unwrap();
                let route = (route[..at].to_owned(), route[at..].to_owned());
                (route, id("networking.k8s.io/v1", "Ingress", owner))
            })
            .collect();
        facts.webhooks_down = self.webhooks_down.iter().map(ShortWebhook::webhook).collect();
        let state = |text: &str| match text {
            "Same" => Existing::Same,
            "Differs" => Existing::Differs,
            _ => Existing::Terminating,
        };
        facts.existing =
            self.existing.iter().map(|(id, text)| (parse_id(id), state(text))).collect();
        let refusals = self.refusals.iter();
        facts.refusals = refusals
            .map(|(id, message)| Refusal { object: parse_id(id), message: message.clone() })
            .collect();
        facts.namespace_labels = self.namespace_labels;
        facts.namespaces_terminating = self.namespaces_terminating.into_iter().collect();
        facts.free = self.free.map(|free| Free {
            cpu_milli: free.cpu_milli,
            memory_bytes: free.memory_gib << 30,
            pods: free.pods,
        });
        facts
    }

    fn classes(&self) -> Facts {
        let storage = self.storage_classes.iter().map(|(name, class)| {
            let class = StorageClass {
                provisioner: "driver".into(),
                is_default: class.default,
                free_bytes: class.free.map(|gib| gib << 30),
                volume_bytes_max: class.max.map(|gib| gib << 30),
            };
            (name.clone(), class)
        });
        let snapshot = self
            .snapshot_classes
            .iter()
            .map(|(name, driver)| (name.clone(), SnapshotClass { driver: driver.clone() }));
        let kinds = self.kinds.iter().map(|(group, version, kind, plural)| ServedKind {
            group: group.clone(),
            versions: vec![version.clone()],
            kind: kind.clone(),
            plural: plural.clone(),
        });
        let quotas = self.quotas.iter().map(|quota| Quota {
            namespace: quota.namespace.clone(),
            name: quota.name.clone(),
            hard: quota.hard.clone(),
            used: quota.used.clone(),
            is_scoped: quota.scoped,
        });
        let defaults = self.limit_defaults.iter();
        Facts {
            server: self.server.map(|(major, minor)| Version { major, minor }),
            kinds: kinds.collect(),
            storage_classes: storage.collect(),
            snapshot_classes: snapshot.collect(),
            ingress_classes: self.ingress_classes.iter().cloned().collect(),
            quotas: quotas.collect(),
            limit_defaults: defaults
                .map(|(namespace, names)| (namespace.clone(), names.iter().cloned().collect()))
                .collect(),
            nodes: 1,
            ..Facts::default()
        }
    }
}

impl ShortWebhook {
    fn webhook(&self) -> Webhook {
        let all = || vec!["*".to_owned()];
        Webhook {
            configuration: id(
                "admissionregistration.k8s.io/v1",
                "ValidatingWebhookConfiguration",
                &self.configuration,
            ),
            name: "hook.example.com".into(),
            service: Some(pair(&self.service)),
            fails_closed: self.closed,
            rules: vec![WebhookRule {
                groups: all(),
                versions: all(),
                resources: self.resources.clone(),
            }],
            namespace_selector: self.namespace_selector.clone(),
            object_selector: self.object_selector.clone(),
            cause: self.cause.clone(),
        }
    }
}

#[test]
fn every_problem_is_found_at_once_with_its_object_and_nothing_else_is() {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/cases2/preflight.yaml"));
    let cases: Vec<Case> = serde_saphyr::from_str(&text.unwrap()).unwrap();
    for case in cases {
        let facts = case.facts.facts();
        let planned = Planned {
            objects: &case.objects,
            existing: match case.existing.as_deref() {
                Some("Fail") => ExistingPolicy::Fail,
                _ => ExistingPolicy::Skip,
            },
            node_ports: match case.node_ports.as_deref() {
                Some("Keep") => NodePortPolicy::Keep,
                _ => NodePortPolicy::Drop,
            },
            source: case.source.map(|(major, minor)| Version { major, minor }),
        };
        let problems = judge(planned, &facts);
        let found: Vec<String> = problems
            .iter()
            .map(|p| format!("{:?} {:?} {}: {}", p.severity, p.topic, p.object, p.cause))
            .collect();
        assert_eq!(found.len(), case.problems.len(), "{}: {found:#?}", case.name);
        for (found, wanted) in found.iter().zip(&case.problems) {
            let (object, cause) = wanted.split_once(": ").unwrap();
            let is_right = found.starts_with(object) && found.contains(cause);
            assert!(is_right, "{}: {wanted:?} is not {found:?}", case.name);
        }
        assert!(problems.iter().all(|problem| !problem.remedy.is_empty()), "{}", case.name);
        let blocks = case.problems.iter().any(|problem| problem.starts_with("Blocking"));
        assert_eq!(may_begin(&problems), !blocks, "{}", case.name);
    }
}

#[test]
fn a_hundred_thousand_objects_are_judged_in_linear_time() {
    let objects: Vec<Value> = (0..100_000)
        .map(|number| {
            serde_json::json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": {"name": format!("c{number}"), "namespace": "ns"},
                "spec": {"storageClassName": "brought"}})
        })
        .collect();
    let facts = Facts {
        existing: objects.iter().map(|object| (ObjectId::of(object), Existing::Same)).collect(),
        ..Facts::default()
    };
    let planned = Planned {
        objects: &objects,
        existing: ExistingPolicy::Skip,
        node_ports: NodePortPolicy::Keep,
        source: None,
    };
    let started = std::time::Instant::now();
    assert_eq!(judge(planned, &facts).len(), objects.len());
    // Quadratic, it would be hours.
    println!("{:?} for {} objects", started.elapsed(), objects.len());
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}

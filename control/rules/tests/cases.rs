//! Tables of cases in `cases/*.yaml`. Each names what it is taken from.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rules::existing::{self, Policy};
use rules::kinds::{Discovery, Resource};
use rules::map::{Mappings, map, suspects};
use rules::object::{GroupKind, Key};
use rules::order::{Order, Why};
use rules::patch;
use rules::sanitize::{Facts, Options, Owners, Sanitized, Verdict, rules, sanitize};
use rules::select::{Closure, Selection, Selector};
use rules::versions::{Stored, choose, served_by};
use rules::{gate, status};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The cases of all files whose names start so.
fn cases<T: DeserializeOwned>(table: &str) -> Vec<T> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with(table) {
            let text = std::fs::read_to_string(&path).unwrap();
            // Kubernetes takes `n` and `on` for texts, as YAML 1.2 does.
            let options = serde_saphyr::options! { strict_booleans: true };
            let read: Vec<T> = serde_saphyr::from_str_with_options(&text, options)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            cases.extend(read);
        }
    }
    assert!(!cases.is_empty(), "no cases of {table}");
    cases
}

fn same(case: &str, what: &str, found: &Value, wanted: &Value) {
    assert_eq!(found, wanted, "{case}: {what}\nfound  {found:#}\nwanted {wanted:#}");
}

/// What a small cluster serves.
fn discovery() -> Discovery {
    let row = |api: &str, kind: &str, plural: &str, short: &str, namespaced: bool| {
        let (group, version) = api.rsplit_once('/').unwrap_or(("", api));
        Resource {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            plural: plural.into(),
            singular: kind.to_lowercase(),
            short_names: short.split_whitespace().map(str::to_owned).collect(),
            namespaced,
            preferred: true,
            has_status_subresource: kind != "Gadget",
        }
    };
    Discovery::new([
        row("v1", "Pod", "pods", "po", true),
        row("v1", "ConfigMap", "configmaps", "cm", true),
        row("v1", "Secret", "secrets", "", true),
        row("v1", "Service", "services", "svc", true),
        row("v1", "ServiceAccount", "serviceaccounts", "sa", true),
        row("v1", "Event", "events", "ev", true),
        row("events.k8s.io/v1", "Event", "events", "ev", true),
        row("v1", "PersistentVolumeClaim", "persistentvolumeclaims", "pvc", true),
        row("v1", "PersistentVolume", "persistentvolumes", "pv", false),
        row("v1", "Namespace", "namespaces", "ns", false),
        row("v1", "ResourceQuota", "resourcequotas", "quota", true),
        row("apps/v1", "Deployment", "deployments", "deploy", true),
        row("apps/v1", "ReplicaSet", "replicasets", "rs", true),
        row("apps/v1", "StatefulSet", "statefulsets", "sts", true),
        row("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "hpa", true),
        row("storage.k8s.io/v1", "StorageClass", "storageclasses", "sc", false),
        row("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", "", false),
        row("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings", "", false),
        row("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings", "", true),
        row("networking.k8s.io/v1", "Ingress", "ingresses", "ing", true),
        row("networking.k8s.io/v1", "IngressClass", "ingressclasses", "", false),
        row("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", "pc", false),
        row(
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
            "crd",
            false,
        ),
        row(
            "admissionregistration.k8s.io/v1",
            "ValidatingWebhookConfiguration",
            "validatingwebhookconfigurations",
            "",
            false,
        ),
        row("example.org/v1", "Widget", "widgets", "wd", true),
        row("example.org/v1", "Gadget", "gadgets", "", true),
        row("k8s.mariadb.com/v1", "MariaDB", "mariadbs", "", true),
    ])
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SanitizeCase {
    name: String,
    source: String,
    input: Value,
    #[serde(default)]
    options: Options,
    #[serde(default)]
    facts: CaseFacts,
    restore: Option<Value>,
    merge: Option<Value>,
    leave: Option<String>,
    status: Option<Value>,
    #[serde(default)]
    pending: Vec<Value>,
    #[serde(default)]
    rules: BTreeSet<String>,
    /// Not asked to stay the same when sanitised again.
    #[serde(default)]
    once: bool,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct CaseFacts {
    owners: BTreeMap<String, String>,
    finalizers: BTreeSet<String>,
    services: Vec<String>,
    volumes: BTreeSet<String>,
}

impl CaseFacts {
    fn facts(&self) -> Facts {
        let object =
            |uid: &str| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"uid": uid}});
        let planned: Vec<Value> = self
            .owners
            .iter()
            .filter(|(_, fate)| *fate == "planned")
            .map(|(uid, _)| json!({"apiVersion": "x/v1", "kind": "X", "metadata": {"uid": uid}}))
            .chain(self.owners.iter().filter(|(_, fate)| *fate == "remade").flat_map(|(uid, _)| {
                let mut made = object(uid);
                made["metadata"]["ownerReferences"] =
                    json!([{"uid": format!("of-{uid}"), "controller": true}]);
                [made, json!({"apiVersion": "x/v1", "kind": "X", "metadata": {"uid": format!("of-{uid}")}})]
            }))
            .collect();
        let mut owners = Owners::planned(&planned);
        for (old, new) in
            self.owners.iter().filter(|(_, fate)| !matches!(fate.as_str(), "planned" | "remade"))
        {
            owners.found(old, new);
        }
        let split = |text: &String| {
            let (namespace, name) = text.split_once('/').unwrap();
            (namespace.to_owned(), name.to_owned())
        };
        Facts {
            owners,
            served_finalizers: self.finalizers.clone(),
            selecting_services: self.services.iter().map(split).collect(),
            kept_volumes: self.volumes.clone(),
        }
    }
}

#[test]
fn every_case_of_sanitation_gives_what_it_says() {
    for case in cases::<SanitizeCase>("sanitize") {
        assert!(!case.source.is_empty(), "{}", case.name);
        let facts = case.facts.facts();
        let verdict = sanitize(case.input.clone(), &case.options, &facts);
        let (wanted, sanitized) = match (verdict, &case.restore, &case.merge, &case.leave) {
            (Verdict::Restore(found), Some(wanted), None, None)
            | (Verdict::Merge(found), None, Some(wanted), None) => (wanted, found),
            (Verdict::Leave(left), None, None, Some(rule)) => {
                assert_eq!(left.rule, rule, "{}", case.name);
                continue;
            }
            (verdict, ..) => panic!("{}: {verdict:?}", case.name),
        };
        same(&case.name, "object", &sanitized.object, wanted);
        same(&case.name, "status", &json!(sanitized.status), &json!(case.status));
        same(&case.name, "pending owners", &json!(sanitized.pending_owners), &json!(case.pending));
        let rules: BTreeSet<String> =
            sanitized.changes.iter().map(|change| change.rule.to_owned()).collect();
        assert_eq!(rules, case.rules, "{}", case.name);
        if !case.once {
            again(&case, &facts, &sanitized);
        }
    }
}

fn again(case: &SanitizeCase, facts: &Facts, first: &Sanitized) {
    match sanitize(first.object.clone(), &case.options, facts) {
        Verdict::Restore(second) | Verdict::Merge(second) => {
            same(&case.name, "sanitised twice", &second.object, &first.object);
            assert_eq!(second.changes, [], "{}", case.name);
        }
        Verdict::Leave(left) => panic!("{}: {left:?}", case.name),
    }
}

#[test]
fn every_rule_of_sanitation_has_a_case() {
    let mut named: BTreeSet<String> = BTreeSet::new();
    for case in cases::<SanitizeCase>("sanitize") {
        named.extend(case.rules);
        named.extend(case.leave);
    }
    let without: Vec<&str> = rules().map(|(id, _)| id).filter(|id| !named.contains(*id)).collect();
    assert_eq!(without, [""; 0]);
}

#[test]
fn every_row_of_velero_has_a_case() {
    let sources: Vec<String> =
        cases::<SanitizeCase>("sanitize").into_iter().map(|case| case.source).collect();
    let rows = [
        "2.4 any",
        "Namespace",
        "native snapshot",
        "PV with PVB",
        "PV no data, Delete",
        "PV no data, Retain",
        "2.4 PVC",
        "restorePVs=false",
        "PVC at backup",
        "2.4 VolumeSnapshot",
        "VolumeSnapshotContent",
        "VolumeSnapshotClass",
        "DataUpload",
        "2.4 Pod",
        "Pod with PVBs",
        "Pod finished",
        "ReplicaSet",
        "Deployment",
        "StatefulSet",
        "DaemonSet",
        "2.4 Job",
        "CronJob",
        "2.4 Service",
        "Endpoints",
        "EndpointSlices",
        "ServiceAccount",
        "Secret type service-account-token",
        "CRD v1",
        "APIService",
        "webhook configurations",
        "last row",
        "2.2 step 3",
        "2.2 step 5",
        "2.2 step 7",
        "2.2 step 9",
    ];
    for row in rows {
        assert!(sources.iter().any(|source| source.contains(row)), "{row}");
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SelectCase {
    name: String,
    #[expect(dead_code, reason = "for readers")]
    source: String,
    selection: Selection,
    #[serde(default)]
    objects: Vec<Value>,
    /// Names of what is in, with a part of the reason.
    #[serde(default, rename = "in")]
    included: BTreeMap<String, String>,
    /// Likewise of what is out.
    #[serde(default)]
    out: BTreeMap<String, String>,
    /// Parts of the problems with the selection.
    #[serde(default)]
    problems: Vec<String>,
}

#[test]
fn every_case_of_selection_gives_what_it_says() {
    let discovery = discovery();
    for case in cases::<SelectCase>("select") {
        let selector = match Selector::new(&case.selection, &discovery) {
            Ok(selector) => selector,
            Err(problems) => {
                let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
                assert_eq!(texts.len(), case.problems.len(), "{}: {texts:?}", case.name);
                for (text, part) in texts.iter().zip(&case.problems) {
                    assert!(text.contains(part), "{}: {text}", case.name);
                }
                continue;
            }
        };
        assert_eq!(case.problems, [""; 0], "{}", case.name);
        let mut closure = Closure::new(&selector, &discovery);
        for object in &case.objects {
            closure.add(object);
        }
        let decisions = closure.decide();
        assert_eq!(decisions.len(), case.included.len() + case.out.len(), "{}", case.name);
        for decision in decisions {
            let table = if decision.reason.is_in() { &case.included } else { &case.out };
            let key = decision.key.to_string();
            let reason = decision.reason.to_string();
            let wanted =
                table.get(&key).unwrap_or_else(|| panic!("{}: {key}: {reason}", case.name));
            assert!(reason.contains(wanted.as_str()), "{}: {key}: {reason}", case.name);
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MapCase {
    name: String,
    #[expect(dead_code, reason = "for readers")]
    source: String,
    mappings: Mappings,
    input: Value,
    wanted: Value,
    #[serde(default)]
    suspects: Vec<String>,
}

#[test]
fn every_case_of_mapping_gives_what_it_says() {
    for case in cases::<MapCase>("map") {
        let mut object = case.input.clone();
        let changes = map(&mut object, &case.mappings);
        same(&case.name, "object", &object, &case.wanted);
        assert_eq!(suspects(&object, &case.mappings), case.suspects, "{}", case.name);
        let mut undone = object;
        for change in &changes {
            assert_eq!(undone.pointer(&change.path), Some(&json!(change.to)), "{}", case.name);
            *undone.pointer_mut(&change.path).unwrap() = json!(change.from);
        }
        same(&case.name, "the report undone", &undone, &case.input);
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OrderCase {
    name: String,
    #[expect(dead_code, reason = "for readers")]
    source: String,
    objects: Vec<Value>,
    levels: Vec<Vec<String>>,
    #[serde(default)]
    set_aside: Vec<(String, String, String)>,
}

#[test]
fn every_case_of_order_gives_what_it_says_whatever_order_objects_come_in() {
    let discovery = discovery();
    for mut case in cases::<OrderCase>("order") {
        for _ in 0..2 {
            let mut order = Order::default();
            for object in &case.objects {
                order.add(object, &discovery);
            }
            let plan = order.plan();
            let name = |number: &usize| Key::of(&case.objects[*number]).to_string();
            let levels: Vec<Vec<String>> =
                plan.levels.iter().map(|level| level.objects.iter().map(name).collect()).collect();
            assert_eq!(levels, case.levels, "{}", case.name);
            let set_aside: Vec<(String, String, String)> = plan
                .set_aside
                .iter()
                .map(|edge| {
                    let why = if edge.why == Why::Cycle { "cycle" } else { "later" };
                    (name(&edge.from), name(&edge.to), why.to_owned())
                })
                .collect();
            assert_eq!(set_aside, case.set_aside, "{}", case.name);
            case.objects.reverse();
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct VersionCase {
    name: String,
    #[expect(dead_code, reason = "for readers")]
    source: String,
    kind: GroupKind,
    stored: Vec<String>,
    source_prefers: String,
    /// The preferred one first.
    served: Vec<String>,
    #[serde(default)]
    asked: Vec<String>,
    version: Option<String>,
    because: Option<String>,
    /// A part of why it cannot be restored.
    unrestorable: Option<String>,
}

#[test]
fn every_case_of_versions_gives_what_it_says() {
    for case in cases::<VersionCase>("versions") {
        let mut served: Vec<Resource> = case
            .served
            .iter()
            .enumerate()
            .map(|(at, version)| Resource {
                group: case.kind.group.clone(),
                kind: case.kind.kind.clone(),
                version: version.clone(),
                preferred: at == 0,
                ..Resource::default()
            })
            .collect();
        served.push(Resource {
            group: "networking.k8s.io".into(),
            kind: "Ingress".into(),
            version: "v1".into(),
            ..Resource::default()
        });
        let kind = case.kind.clone();
        let stored =
            Stored { kind: kind.clone(), versions: case.stored, preferred: case.source_prefers };
        let asked = BTreeMap::from([(kind.clone(), case.asked)]);
        let choices = choose([&stored], &Discovery::new(served), &asked);
        let chosen = choices.chosen.get(&kind);
        assert_eq!(chosen.map(|choice| choice.version.clone()), case.version, "{}", case.name);
        let because = chosen.map(|choice| json!(choice.because).as_str().unwrap().to_owned());
        assert_eq!(because, case.because, "{}", case.name);
        let why = choices.unrestorable.first().map(ToString::to_string);
        match (&why, &case.unrestorable) {
            (Some(why), Some(part)) => assert!(why.contains(part), "{}: {why}", case.name),
            (why, part) => assert_eq!(why, part, "{}", case.name),
        }
    }
}

#[test]
fn a_crd_that_is_restored_says_what_the_target_will_serve() {
    let crd = json!({"spec": {
        "group": "example.org", "scope": "Namespaced",
        "names": {"kind": "Widget", "plural": "widgets", "shortNames": ["wd"]},
        "versions": [
            {"name": "v1beta1", "served": true},
            {"name": "v1", "served": true, "subresources": {"status": {}}},
            {"name": "v2", "served": false},
        ],
    }});
    let served = served_by(&crd);
    let found: Vec<(&str, bool, bool)> = served
        .iter()
        .map(|resource| {
            (resource.version.as_str(), resource.preferred, resource.has_status_subresource)
        })
        .collect();
    assert_eq!(found, [("v1beta1", false, false), ("v1", true, true)]);
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ExistingCase {
    name: String,
    #[expect(dead_code, reason = "for readers")]
    source: String,
    wanted: Value,
    live: Value,
    #[serde(default)]
    differences: Vec<String>,
    /// What each policy does.
    #[serde(default)]
    skip: Option<String>,
    #[serde(default)]
    update: Option<String>,
    #[serde(default)]
    replace: Option<String>,
    /// The object after an update.
    after: Option<Value>,
}

#[test]
fn every_case_of_existing_objects_gives_what_it_says() {
    for case in cases::<ExistingCase>("existing") {
        let differences: Vec<String> =
            existing::compare(&case.wanted, &case.live).iter().map(ToString::to_string).collect();
        assert_eq!(differences, case.differences, "{}", case.name);
        let policies = [
            (Policy::Skip, &case.skip),
            (Policy::Update, &case.update),
            (Policy::Replace, &case.replace),
        ];
        for (policy, wanted) in policies {
            let Some(wanted) = wanted else { continue };
            let verdict = existing::judge(&case.wanted, &case.live, policy);
            let found = match &verdict {
                existing::Verdict::Same => "same".to_owned(),
                existing::Verdict::Skip(_) => "skip".to_owned(),
                existing::Verdict::Update { .. } => "update".to_owned(),
                existing::Verdict::Recreate(_) => "recreate".to_owned(),
                existing::Verdict::Blocked { why, .. } => format!("blocked: {why}"),
                existing::Verdict::Wait => "wait".to_owned(),
            };
            assert!(found.starts_with(wanted.as_str()), "{}: {policy:?}: {found}", case.name);
            if let existing::Verdict::Update { patch, .. } = verdict {
                let after = patch::apply(&case.live, &patch);
                if let Some(wanted) = &case.after {
                    same(&case.name, "after the update", &after, wanted);
                }
                if after.get("kind") != Some(&json!("ServiceAccount")) {
                    assert_eq!(existing::compare(&case.wanted, &after), [], "{}", case.name);
                }
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GateCase {
    name: String,
    #[expect(dead_code, reason = "for readers")]
    source: String,
    input: Value,
    /// The spec while it is stopped; missing if it is not held back.
    stopped: Option<Value>,
    /// What somebody sets while it is stopped.
    meddling: Option<Value>,
    /// The spec once started; the input's if missing.
    started: Option<Value>,
}

#[test]
fn every_case_of_gates_gives_what_it_says_and_starts_as_it_was() {
    for case in cases::<GateCase>("gate") {
        let mut object = case.input.clone();
        let did = gate::stop(&mut object);
        assert_eq!(did, case.stopped.is_some(), "{}", case.name);
        let Some(stopped) = &case.stopped else {
            same(&case.name, "untouched", &object, &case.input);
            assert_eq!(gate::start(&object), None, "{}", case.name);
            continue;
        };
        same(&case.name, "stopped", &object["spec"], stopped);
        let once = object.clone();
        assert!(!gate::stop(&mut object), "{}", case.name);
        same(&case.name, "stopped twice", &object, &once);
        if let Some(spec) = &case.meddling {
            object["spec"] = spec.clone();
        }
        let started = patch::apply(&object, &gate::start(&object).unwrap());
        let mut wanted = case.input.clone();
        if let Some(spec) = &case.started {
            wanted["spec"] = spec.clone();
        }
        same(&case.name, "started", &started, &wanted);
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StatusCase {
    name: String,
    #[expect(dead_code, reason = "for readers")]
    source: String,
    #[serde(default)]
    included: Vec<String>,
    #[serde(default)]
    excluded: Vec<String>,
    object: Value,
    status: Option<Value>,
    writing: Option<String>,
    #[serde(default)]
    unknown: Vec<String>,
}

#[test]
fn every_case_of_status_gives_what_it_says() {
    let discovery = discovery();
    for case in cases::<StatusCase>("status") {
        let policy = match status::Policy::new(&case.included, &case.excluded, &discovery) {
            Ok(policy) => policy,
            Err(unknown) => {
                assert_eq!(unknown, case.unknown, "{}", case.name);
                continue;
            }
        };
        let versions = discovery.versions(&GroupKind::of(&case.object));
        let writing = policy.judge(&case.object, case.status.as_ref(), versions.first().copied());
        assert_eq!(Some(format!("{writing:?}")), case.writing, "{}", case.name);
    }
}

//! What holds whatever the objects are.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rules::existing::{self, Policy};
use rules::gate;
use rules::graph::{Relation, references};
use rules::kinds::{BUILT_IN, Discovery};
use rules::map::{Mappings, NameMapping, map};
use rules::object::{Key, api_version, canonical};
use rules::order::{Order, Plan};
use rules::patch;
use rules::quantity::Quantity;
use rules::sanitize::{Facts, Options, Verdict, sanitize};
use serde_json::{Value, json};

/// A few words for all fields, so that they meet; among them those that rules look for.
fn word() -> impl Strategy<Value = String> {
    let words = [
        "a",
        "b",
        "c",
        "None",
        "ExternalName",
        "Retain",
        "default",
        "sa",
        "sa-token-x",
        "kube-api-access-x",
        "1",
        "1000m",
        "1Gi",
        "docker.io/x",
        "kubernetes.io/pvc-protection",
        "10.0.0.1",
        "true",
        "restore-wait",
    ];
    prop::sample::select(words.to_vec()).prop_map(str::to_owned)
}

fn field() -> impl Strategy<Value = String> {
    let fields = [
        "name",
        "namespace",
        "uid",
        "spec",
        "template",
        "containers",
        "initContainers",
        "volumes",
        "volumeMounts",
        "ports",
        "port",
        "nodePort",
        "env",
        "valueFrom",
        "configMapKeyRef",
        "claimRef",
        "storageClassName",
        "ownerReferences",
        "finalizers",
        "labels",
        "annotations",
        "subjects",
        "roleRef",
        "kind",
        "clusterIP",
        "volumeName",
        "replicas",
        "suspend",
        "data",
        "secret",
        "secretName",
        "projected",
        "sources",
        "requests",
        "resources",
        "image",
    ];
    prop::sample::select(fields.to_vec()).prop_map(str::to_owned)
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..40_000_u32).prop_map(Value::from),
        word().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(field(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// An object of some built-in kind, or of none, with anything in it.
fn any_object() -> impl Strategy<Value = Value> {
    let kinds = (0..=BUILT_IN.len(), word(), word(), any_value(), any_value(), any_value());
    kinds.prop_map(|(kind, name, namespace, metadata, spec, data)| {
        let (group, kind) =
            BUILT_IN.get(kind).map_or(("example.org", "Widget"), |row| (row.group, row.kind));
        let mut object = json!({
            "apiVersion": api_version(group, "v1"),
            "kind": kind,
            "metadata": if metadata.is_object() { metadata } else { json!({}) },
            "spec": spec,
            "data": data,
        });
        object["metadata"]["name"] = json!(name);
        object["metadata"]["namespace"] = json!(namespace);
        object
    })
}

fn mappings() -> impl Strategy<Value = Mappings> {
    let pairs = || prop::collection::btree_map(word(), word(), 0..4);
    (pairs(), pairs(), pairs()).prop_map(|(namespaces, storage_classes, images)| Mappings {
        namespaces,
        storage_classes,
        images,
        names: vec![NameMapping { from: Key::new("", "ConfigMap", "a", "b"), to: "z".into() }],
    })
}

/// Objects of one phase with any owners among them, and a few of other phases.
fn any_graph() -> impl Strategy<Value = Vec<Value>> {
    let kinds = ["Widget", "Gadget", "Pod", "PersistentVolumeClaim"];
    let node = (0..kinds.len(), prop::collection::vec((0..20_usize, 0..kinds.len()), 0..4));
    prop::collection::vec(node, 1..20).prop_map(move |nodes| {
        let group = |kind: &str| if kind.len() == 6 { "example.org/v1" } else { "v1" };
        let object = |(at, (kind, owners)): (usize, (usize, Vec<(usize, usize)>))| {
            let owners: Vec<Value> = owners
                .into_iter()
                .map(|(name, kind)| {
                    let kind = kinds[kind];
                    json!({"apiVersion": group(kind), "kind": kind, "name": name.to_string()})
                })
                .collect();
            let kind = kinds[kind];
            json!({
                "apiVersion": group(kind), "kind": kind,
                "metadata": {"name": at.to_string(), "namespace": "n", "ownerReferences": owners},
            })
        };
        nodes.into_iter().enumerate().map(object).collect()
    })
}

fn plan(objects: &[Value]) -> Plan {
    let mut order = Order::default();
    for object in objects {
        order.add(object, &Discovery::default());
    }
    order.plan()
}

proptest! {
    #[test]
    fn mapping_by_identity_changes_nothing(object in any_object()) {
        let same = |words: &[&str]| -> BTreeMap<String, String> {
            words.iter().map(|word| ((*word).to_owned(), (*word).to_owned())).collect()
        };
        let identity = Mappings {
            namespaces: same(&["a", "b", "default"]),
            storage_classes: same(&["a", "b"]),
            images: same(&["docker.io", "docker.io/x"]),
            names: vec![NameMapping { from: Key::new("", "ConfigMap", "a", "b"), to: "b".into() }],
        };
        for mappings in [Mappings::default(), identity] {
            let mut mapped = object.clone();
            prop_assert_eq!(map(&mut mapped, &mappings), []);
            prop_assert_eq!(&mapped, &object);
        }
    }

    #[test]
    fn a_mapping_tells_all_it_did(object in any_object(), mappings in mappings()) {
        let mut mapped = object.clone();
        let changes = map(&mut mapped, &mappings);
        for change in changes {
            *mapped.pointer_mut(&change.path).unwrap() = json!(change.from);
        }
        prop_assert_eq!(mapped, object);
    }

    #[test]
    fn sanitising_twice_is_sanitising_once(object in any_object()) {
        let (options, facts) = (Options::default(), Facts::default());
        if let Verdict::Restore(once) | Verdict::Merge(once) = sanitize(object, &options, &facts) {
            match sanitize(once.object.clone(), &options, &facts) {
                Verdict::Restore(twice) | Verdict::Merge(twice) => {
                    prop_assert_eq!(&twice.object, &once.object);
                    prop_assert_eq!(twice.changes, []);
                }
                Verdict::Leave(left) => prop_assert!(false, "{left:?}"),
            }
        }
    }

    #[test]
    fn nothing_that_is_no_object_panics(value in any_value()) {
        let _ = sanitize(value.clone(), &Options::default(), &Facts::default());
        let _ = references(&value, &Discovery::default());
        let _ = existing::judge(&value, &json!({"kind": "ServiceAccount"}), Policy::Replace);
        let _ = existing::judge(&json!({"kind": "Pod", "spec": value}), &value, Policy::Replace);
        let mut copy = value.clone();
        gate::stop(&mut copy);
        let _ = gate::start(&copy);
    }

    #[test]
    fn an_order_has_each_object_once_and_after_all_that_it_needs(objects in any_graph()) {
        let plan = plan(&objects);
        let mut level_of = HashMap::new();
        for (at, level) in plan.levels.iter().enumerate() {
            for object in &level.objects {
                prop_assert_eq!(level_of.insert(*object, at), None);
            }
        }
        prop_assert_eq!(level_of.len(), objects.len());
        let numbers: HashMap<Key, usize> =
            objects.iter().enumerate().map(|(number, object)| (Key::of(object), number)).collect();
        let is_set_aside = |from: usize, to: usize| {
            plan.set_aside.iter().any(|edge| edge.from == from && edge.to == to)
        };
        for (from, object) in objects.iter().enumerate() {
            for reference in references(object, &Discovery::default()) {
                let Some(to) = numbers.get(&reference.to) else { continue };
                if reference.relation != Relation::Serves && !is_set_aside(from, *to) {
                    prop_assert!(level_of[&from] > level_of[to], "{from} needs {to}");
                }
            }
        }
    }

    #[test]
    fn an_order_does_not_depend_on_how_objects_came(objects in any_graph()) {
        let names = |objects: &[Value]| -> Vec<Vec<String>> {
            let plan = plan(objects);
            let name = |number: &usize| Key::of(&objects[*number]).to_string();
            plan.levels.iter().map(|level| level.objects.iter().map(name).collect()).collect()
        };
        let mut reversed = objects.clone();
        reversed.reverse();
        prop_assert_eq!(names(&objects), names(&reversed));
    }

    #[test]
    fn what_is_stopped_starts_as_it_was(object in any_object(), replicas in 0..5_u32) {
        let mut object = object;
        object["spec"] = json!({"replicas": replicas, "template": {"spec": {}}});
        if object.pointer("/metadata/annotations").is_some_and(|map| map.as_object().is_none_or(serde_json::Map::is_empty)) {
            object["metadata"].as_object_mut().unwrap().remove("annotations");
        }
        let mut stopped = object.clone();
        if gate::stop(&mut stopped) {
            let started = patch::apply(&stopped, &gate::start(&stopped).unwrap());
            prop_assert_eq!(started, object);
        }
    }

    #[test]
    fn an_object_is_like_itself_and_an_update_makes_it_as_wanted(
        wanted in any_object(),
        live in any_object(),
    ) {
        prop_assert_eq!(existing::compare(&wanted, &wanted), []);
        let after = patch::apply(&live, &existing::patch(&wanted, &live));
        let mut settled = wanted.clone();
        settled["apiVersion"] = after["apiVersion"].clone();
        prop_assert_eq!(existing::compare(&settled, &after), []);
    }

    #[test]
    fn a_merge_patch_leads_where_it_says(from in any_object(), to in any_object()) {
        let without_nulls = |value: &Value| patch::apply(&json!({}), value);
        let (from, to) = (without_nulls(&from), without_nulls(&to));
        prop_assert_eq!(patch::apply(&from, &patch::merge_patch(&from, &to)), to);
    }

    #[test]
    fn whole_numbers_are_the_same_in_any_unit(number in 0..1_000_000_000_u64) {
        let plain = Quantity::parse(&number.to_string()).unwrap();
        for text in [format!("{number}000m"), format!("{number}e0"), format!("{number}.0")] {
            prop_assert_eq!(Quantity::parse(&text).unwrap(), plain);
        }
        let large = Quantity::parse(&format!("{number}Ki")).unwrap();
        prop_assert_eq!(large, Quantity::parse(&(number * 1024).to_string()).unwrap());
    }

    #[test]
    fn canonical_text_says_the_same_as_the_value(value in any_value()) {
        let read: Value = serde_json::from_str(&canonical(&value)).unwrap();
        prop_assert_eq!(read, value);
    }
}

#[test]
fn a_hundred_thousand_objects_are_ordered_in_seconds() {
    let objects = 100_000;
    let started = Instant::now();
    let mut order = Order::default();
    for number in 0..objects {
        let owner = json!([{"apiVersion": "example.org/v1", "kind": "Widget", "name": (number / 7).to_string()}]);
        let object = json!({
            "apiVersion": "example.org/v1", "kind": "Widget",
            "metadata": {"name": number.to_string(), "namespace": "n", "ownerReferences": owner},
        });
        order.add(&object, &Discovery::default());
    }
    let added = started.elapsed();
    let plan = order.plan();
    let planned = started.elapsed().saturating_sub(added);
    println!("added in {added:?}, planned in {planned:?}, {} levels", plan.levels.len());
    let placed: usize = plan.levels.iter().map(|level| level.objects.len()).sum();
    assert_eq!(placed, objects);
    assert_eq!(plan.set_aside.len(), 0);
    assert!(planned < Duration::from_secs(10), "{planned:?}");
}

#[test]
fn a_chain_as_long_as_the_backup_needs_no_deep_stack() {
    let objects: Vec<Value> = (0..20_000_u32)
        .map(|number| {
            json!({
                "apiVersion": "example.org/v1", "kind": "Widget",
                "metadata": {"name": number.to_string(), "namespace": "n", "ownerReferences": [
                    {"apiVersion": "example.org/v1", "kind": "Widget", "name": ((number + 1) % 20_000).to_string()},
                ]},
            })
        })
        .collect();
    let plan = plan(&objects);
    assert_eq!((plan.levels.len(), plan.set_aside.len()), (20_000, 1));
}

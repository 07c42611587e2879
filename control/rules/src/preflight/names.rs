//! Objects that cannot have the name they are to have.

use std::collections::{BTreeMap, BTreeSet};

use super::{Case, Existing, ExistingPolicy, ObjectId, Problem, Severity, Topic};

pub(super) fn conflicts(given: &Case<'_>, problems: &mut Vec<Problem>) {
    taken(given, problems);
    twice(given, problems);
    terminating_namespaces(given, problems);
}

fn taken(given: &Case<'_>, problems: &mut Vec<Problem>) {
    for item in given.objects {
        let Some(state) = given.existing(&item.id) else { continue };
        let (severity, cause, remedy) = match (state, given.planned.existing) {
            (Existing::Terminating, _) => (
                Severity::Blocking,
                "an object of that name is being deleted",
                "wait until it is gone; if it does not go, look at its finalizers",
            ),
            (Existing::Differs, ExistingPolicy::Fail) => (
                Severity::Blocking,
                "an object of that name exists and differs",
                "delete it, map namespace or name, or set the existing-object policy",
            ),
            (Existing::Differs, ExistingPolicy::Skip) => (
                Severity::Warning,
                "an object of that name exists and differs; it stays as it is",
                "set the existing-object policy to Update or Replace to change it",
            ),
            _ => continue,
        };
        problems.push(item.problem(severity, Topic::NameConflict, cause, remedy));
    }
}

/// Two objects of the restore that a mapping gave one name.
fn twice(given: &Case<'_>, problems: &mut Vec<Problem>) {
    let mut count: BTreeMap<_, usize> = BTreeMap::new();
    for item in given.objects {
        *count.entry(item.id.key()).or_default() += 1;
    }
    for item in given.objects {
        let objects = count.get(&item.id.key()).copied().unwrap_or_default();
        if objects > 1 {
            let cause = format!("{objects} objects of the restore have this name");
            let remedy = "map their namespaces or names apart, or exclude all but one";
            problems.push(item.problem(Severity::Blocking, Topic::NameConflict, cause, remedy));
        }
    }
}

fn terminating_namespaces(given: &Case<'_>, problems: &mut Vec<Problem>) {
    let targets: BTreeSet<&str> =
        given.objects.iter().map(|item| item.id.namespace.as_str()).collect();
    for namespace in &given.facts.namespaces_terminating {
        let brought = given.brings("", "Namespace", namespace);
        if brought || targets.contains(namespace.as_str()) {
            problems.push(Problem {
                severity: Severity::Blocking,
                topic: Topic::NamespaceTerminating,
                object: ObjectId {
                    api_version: "v1".into(),
                    kind: "Namespace".into(),
                    namespace: String::new(),
                    name: namespace.clone(),
                },
                cause: "it is being deleted: nothing can be created in it".into(),
                remedy:
                    "wait until it is gone; if it does not go, its conditions say what holds it"
                        .into(),
            });
        }
    }
}

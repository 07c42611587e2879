//! Kinds and versions that the target does not serve, and targets that are too old.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Case, ObjectId, Problem, SERVER_MIN, Severity, Topic, listed};

pub(super) fn server(given: &Case<'_>, problems: &mut Vec<Problem>) {
    let Some(server) = given.facts.server else { return };
    let object = ObjectId { kind: "APIServer".into(), ..ObjectId::default() };
    if server < SERVER_MIN {
        problems.push(Problem {
            severity: Severity::Blocking,
            topic: Topic::OldServer,
            object,
            cause: format!(
                "the target runs Kubernetes {server}; {SERVER_MIN} is the oldest supported"
            ),
            remedy: "upgrade the target cluster".into(),
        });
    } else if let Some(source) = given.planned.source.filter(|source| *source > server) {
        problems.push(Problem {
            severity: Severity::Warning,
            topic: Topic::OldServer,
            object,
            cause: format!(
                "the target runs Kubernetes {server} and the backup is from {source}: fields that \
                 the target does not know are lost"
            ),
            remedy: "look for them in the dry run's warnings, or upgrade the target".into(),
        });
    }
}

pub(super) fn served(given: &Case<'_>, problems: &mut Vec<Problem>) {
    if given.facts.kinds.is_empty() {
        return;
    }
    let brought = brought_by_definitions(given);
    for item in given.objects {
        let (group, version, kind) = (item.id.group(), item.id.version(), item.id.kind.as_str());
        if brought.contains(&(group, version, kind)) {
            continue;
        }
        let served = given.facts.kinds.iter().find(|k| k.group == group && k.kind == kind);
        let Some(served) = served else {
            let cause = format!("the target serves no kind {kind} in group {group:?}");
            let remedy = "install its definition (CRD or API server) in the target, take the CRD \
                          into the restore, or exclude the kind";
            problems.push(item.problem(Severity::Blocking, Topic::MissingKind, cause, remedy));
            continue;
        };
        if !served.versions.iter().any(|known| known == version) {
            let known = listed(served.versions.iter().map(String::as_str));
            let cause = format!("the target serves {kind} in {known}, not in {version}");
            let remedy = "back up again, so that all served versions are taken, or convert it with \
                          a resource modifier";
            problems.push(item.problem(Severity::Blocking, Topic::MissingVersion, cause, remedy));
        }
    }
}

/// Group, version and kind of what CRDs in the restore define.
fn brought_by_definitions<'a>(given: &'a Case<'_>) -> BTreeSet<(&'a str, &'a str, &'a str)> {
    let mut brought = BTreeSet::new();
    for item in given.objects {
        if !item.is("apiextensions.k8s.io", "CustomResourceDefinition") {
            continue;
        }
        let names = item.text("/spec/group").zip(item.text("/spec/names/kind"));
        let Some((group, kind)) = names else { continue };
        for version in item.list("/spec/versions") {
            if version.get("served").and_then(Value::as_bool) == Some(true)
                && let Some(name) = version.get("name").and_then(Value::as_str)
            {
                brought.insert((group, name, kind));
            }
        }
    }
    brought
}

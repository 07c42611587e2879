//! The tables in `cases2/`: modifiers, hooks, preflight, and what becomes of Velero's objects.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use rules::hooks::{self, ExecRun, RestoreRun, SessionRun, Source};
use rules::modifiers::{FailedTest, Modifiers, Subject};
use rules::velero;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The rows of a table.
fn table<T: DeserializeOwned>(name: &str) -> Vec<T> {
    let path = format!("{}/cases2/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let rows: Vec<T> = serde_saphyr::from_str(&text).unwrap();
    assert!(!rows.is_empty());
    rows
}

/// Each part is in the message in its place, and there are no more messages.
fn assert_each_in(name: &str, messages: &[String], parts: &[String]) {
    assert_eq!(messages.len(), parts.len(), "{name}: {messages:#?}");
    for (message, part) in messages.iter().zip(parts) {
        assert!(message.contains(part.as_str()), "{name}: {part:?} is not in {message:?}");
    }
}

fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModifierCase {
    name: String,
    modifiers: String,
    #[serde(default)]
    resource: String,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    strict_tests: bool,
    want: Option<Value>,
    applied: Option<Vec<usize>>,
    #[serde(default)]
    skipped: Vec<String>,
    blocked: Option<String>,
    #[serde(default)]
    invalid: Vec<String>,
}

#[test]
fn modifiers_do_what_velero_documents_and_block_where_it_goes_on() {
    for case in table::<ModifierCase>("modifiers") {
        let name = &case.name;
        let mut modifiers = match Modifiers::parse(&case.modifiers) {
            Ok(modifiers) => modifiers,
            Err(invalid) => {
                assert_each_in(name, &texts(&invalid.problems), &case.invalid);
                continue;
            }
        };
        assert!(case.invalid.is_empty(), "{name}: it is valid");
        if case.strict_tests {
            modifiers.on_failed_test = FailedTest::Blocks;
        }
        let namespace = case.object["metadata"]["namespace"].as_str().unwrap_or_default();
        let subject = Subject { object: &case.object, group_resource: &case.resource, namespace };
        match (modifiers.apply(subject), &case.blocked) {
            (Ok(outcome), None) => {
                assert_eq!(&outcome.object, case.want.as_ref().unwrap_or(&case.object), "{name}");
                if let Some(applied) = case.applied {
                    assert_eq!(outcome.applied, applied, "{name}");
                }
                assert_each_in(name, &texts(&outcome.skipped), &case.skipped);
            }
            (Err(blocked), Some(wanted)) => {
                let message = blocked.to_string();
                assert!(message.contains(wanted.as_str()), "{name}: {message}");
            }
            (outcome, wanted) => panic!("{name}: {outcome:?}, not {wanted:?}"),
        }
    }
}

#[test]
fn the_modifiers_are_the_one_data_key_of_their_config_map() {
    let text = "version: v1\nresourceModifierRules:\n- conditions: {groupResource: pods}\n  \
                patches: [{operation: remove, path: /spec/nodeName}]\n";
    let one = json!({"metadata": {"name": "m"}, "data": {"any.yaml": text}});
    assert_eq!(Modifiers::from_config_map(&one).unwrap().len(), 1);
    let two = json!({"metadata": {"name": "m"}, "data": {"a": text, "b": text}});
    let message = Modifiers::from_config_map(&two).unwrap_err().to_string();
    assert!(message.contains("has 2 data keys"), "{message}");
    assert!(Modifiers::from_config_map(&json!({})).is_err());
}

#[test]
fn a_rule_for_namespaces_is_allowed_and_said_to_do_nothing() {
    let text = "version: v1\nresourceModifierRules:\n- conditions: {groupResource: namespaces}\n  \
                patches: [{operation: remove, path: /a}]\n";
    let modifiers = Modifiers::parse(text).unwrap();
    assert_each_in("namespaces", &texts(modifiers.warnings()), &["never modified".into()]);
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HookCase {
    name: String,
    backup: Option<Value>,
    restore: Option<Value>,
    pod: Value,
    #[serde(default)]
    pre: Vec<String>,
    #[serde(default)]
    post: Vec<String>,
    #[serde(default)]
    sessions: Vec<String>,
    #[serde(default)]
    init: Vec<Value>,
    #[serde(default)]
    exec: Vec<String>,
    init_containers: Option<Vec<String>>,
    #[serde(default)]
    problems: Vec<String>,
    idle: Option<String>,
}

fn source(source: &Source) -> &str {
    match source {
        Source::Annotation(name) | Source::Set(name) => name,
    }
}

fn run(run: &ExecRun) -> String {
    let ExecRun { source: from, container, command, on_error, timeout } = run;
    let command = command.join(" ");
    format!("{} {container} [{command}] {on_error:?} {}s", source(from), timeout.as_secs())
}

fn restore_run(row: &RestoreRun) -> String {
    let ready = if row.wait_for_ready { " ready" } else { "" };
    format!("{} wait {}s{ready}", run(&row.exec), row.wait_timeout.as_secs())
}

fn session(session: &SessionRun) -> String {
    let SessionRun { source: from, container, hook } = session;
    let (command, timeout) = (hook.command.join(" "), hook.ready_timeout.as_secs());
    format!("{} {container} [{command}] {:?} {timeout}s", source(from), hook.on_error)
}

#[test]
fn hooks_are_planned_as_pods_and_specs_say_and_faults_are_named() {
    for case in table::<HookCase>("hooks") {
        let name = &case.name;
        if let Some(spec) = &case.backup {
            let spec = serde_json::from_value(spec.clone()).unwrap();
            let plan = hooks::backup(&case.pod, &spec);
            assert_eq!(plan.pre.iter().map(run).collect::<Vec<_>>(), case.pre, "{name}");
            assert_eq!(plan.post.iter().map(run).collect::<Vec<_>>(), case.post, "{name}");
            let sessions: Vec<String> = plan.sessions.iter().map(session).collect();
            assert_eq!(sessions, case.sessions, "{name}");
            assert_each_in(name, &texts(&plan.problems), &case.problems);
            let (idle, wanted) = (plan.idle.unwrap_or_default(), case.idle.unwrap_or_default());
            assert!(
                idle.contains(&wanted) && idle.is_empty() == wanted.is_empty(),
                "{name}: {idle}"
            );
        }
        if let Some(spec) = &case.restore {
            let spec = serde_json::from_value(spec.clone()).unwrap();
            let plan = hooks::restore(&case.pod, "ns", "pod", &spec);
            assert_eq!(plan.init, case.init, "{name}");
            let exec: Vec<String> = plan.exec.iter().map(restore_run).collect();
            assert_eq!(exec, case.exec, "{name}");
            assert_each_in(name, &texts(&plan.problems), &case.problems);
            let mut pod_spec = case.pod["spec"].clone();
            plan.put_init(&mut pod_spec);
            plan.put_init(&mut pod_spec);
            if let Some(wanted) = case.init_containers {
                let containers = pod_spec["initContainers"].as_array().unwrap();
                let names: Vec<&str> =
                    containers.iter().map(|c| c["name"].as_str().unwrap()).collect();
                assert_eq!(names, wanted, "{name}: put in twice, each is there once");
            }
        }
    }
}

#[test]
fn the_hooks_of_one_pod_are_bounded() {
    let hook = json!({"command": ["a"]});
    let spec = json!({"sets": [{"name": "many", "pre": vec![hook; 40]}]});
    let pod = json!({"metadata": {"namespace": "ns", "name": "p"}, "status": {"phase": "Running"},
        "spec": {"containers": [{"name": "c"}]}});
    let plan = hooks::backup(&pod, &serde_json::from_value(spec).unwrap());
    assert_eq!(plan.pre.len(), hooks::HOOKS_PER_POD_MAX);
    assert_each_in("many", &texts(&plan.problems), &["more than 32 hooks".into()]);
    let long = json!({"sets": [{"name": "a", "pre": [{"command": ["a"], "timeout": "25h"}]}]});
    assert!(serde_json::from_value::<hooks::BackupHooks>(long).is_err());
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VeleroCase {
    name: String,
    velero: String,
    want: Option<Vec<Value>>,
    kinds: Option<Vec<String>>,
    notes: Vec<String>,
}

#[test]
fn velero_objects_become_ours_and_every_field_that_does_not_is_named() {
    for case in table::<VeleroCase>("velero") {
        let name = &case.name;
        let migration = velero::migrate(&case.velero, &velero::Options::default()).unwrap();
        if let Some(want) = case.want {
            assert_eq!(json!(migration.objects), json!(want), "{name}");
        }
        if let Some(kinds) = case.kinds {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let found: Vec<String> = migration
                .objects
                .iter()
                .map(|o| format!("{} {}", text(&o["kind"]), text(&o["metadata"]["name"])))
                .collect();
            assert_eq!(found, kinds, "{name}");
        }
        let found: Vec<String> = migration
            .notes
            .iter()
            .map(|note| {
                assert!(note.line > 0, "{name}: {note}");
                format!("{:?} {} {}: {}", note.fate, note.object, note.field, note.message)
            })
            .collect();
        assert_eq!(found.len(), case.notes.len(), "{name}: {found:#?}");
        for (found, wanted) in found.iter().zip(&case.notes) {
            let (field, message) = wanted.split_once(": ").unwrap();
            let is_right = found.starts_with(field) && found.contains(message);
            assert!(is_right, "{name}: {wanted:?} is not {found:?}");
        }
    }
}

#[test]
fn what_is_not_yaml_is_an_error_and_what_is_no_object_a_note() {
    let options = velero::Options::default();
    assert!(velero::migrate("a: [", &options).is_err());
    let migration = velero::migrate("just text\n---\na: 1\n", &options).unwrap();
    assert!(migration.objects.is_empty());
    assert_eq!(migration.notes.len(), 2);
}

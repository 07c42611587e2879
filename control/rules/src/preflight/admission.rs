//! What the API server would refuse: by a webhook that cannot be asked, or by its own word in a dry
//! run.

use serde_json::{Value, json};

use super::facts::selects;
use super::{Case, Item, ObjectId, Problem, Severity, Topic, Webhook};

pub(super) fn admission(given: &Case<'_>, problems: &mut Vec<Problem>) {
    for webhook in &given.facts.webhooks_down {
        webhook_down(given, webhook, problems);
    }
    planned_webhooks(given, problems);
    for refusal in &given.facts.refusals {
        // One that a missing webhook causes is said once, by its cause.
        if refusal.message.contains("failed calling webhook") {
            continue;
        }
        problems.push(Problem {
            severity: Severity::Blocking,
            topic: Topic::AdmissionRefused,
            object: refusal.object.clone(),
            cause: format!("the API server refuses it: {}", refusal.message),
            remedy: remedy(&refusal.message).into(),
        });
    }
}

/// What usually helps.
fn remedy(message: &str) -> &'static str {
    let table = [
        ("exceeded quota", "raise the quota, or exclude objects"),
        (
            "violates PodSecurity",
            "label the namespace for the level it needs, or harden the pods with a resource modifier",
        ),
        (
            "denied the request",
            "meet the policy with a resource modifier, or exempt the namespace in it",
        ),
        ("forbidden", "grant the requester the right, or exclude the object"),
        (
            "immutable",
            "set the existing-object policy to Replace, or delete the object in the target",
        ),
        ("provided port is already allocated", "drop node ports in the restore"),
        ("no matches for kind", "install the definition of the kind first"),
        ("Invalid value", "correct the field with a resource modifier"),
    ];
    let known = table.iter().find(|(part, _)| message.contains(part));
    known.map_or("correct the object with a resource modifier, or exclude it", |(_, remedy)| remedy)
}

fn webhook_down(given: &Case<'_>, webhook: &Webhook, problems: &mut Vec<Problem>) {
    let hit = given.new_objects().filter(|item| judges(given, webhook, item));
    let (mut count, mut first) = (0_usize, None);
    for item in hit {
        count += 1;
        first = first.or_else(|| Some(item.id.clone()));
    }
    let Some(first) = first else { return };
    let comes_up = webhook
        .service
        .as_ref()
        .is_some_and(|(namespace, name)| given.brings_in("", "Service", namespace, name));
    let what = format!("webhook {} does not answer ({})", webhook.name, webhook.cause);
    let (severity, cause, remedy) = match (webhook.fails_closed, comes_up) {
        (true, false) => (
            Severity::Blocking,
            format!("{what}: {count} objects would be refused, {first} among them"),
            "bring its backend up, or delete the configuration if what it belongs to is gone",
        ),
        (true, true) => (
            Severity::Warning,
            format!("{what}: {count} objects wait until the restore has brought its backend up"),
            "nothing, if the backend starts without them",
        ),
        (false, _) => (
            Severity::Warning,
            format!(
                "{what}: {count} objects are created without its judgement, {first} among them"
            ),
            "bring its backend up first if it changes what they need",
        ),
    };
    problems.push(Problem {
        severity,
        topic: Topic::WebhookDown,
        object: webhook.configuration.clone(),
        cause,
        remedy: remedy.into(),
    });
}

/// Whether a webhook is asked about the creation of an object.
fn judges(given: &Case<'_>, webhook: &Webhook, item: &Item<'_>) -> bool {
    let id = &item.id;
    let plural = given.plural(id);
    let among =
        |list: &[String], name: &str| list.iter().any(|known| known == "*" || known == name);
    let by_rule = webhook.rules.iter().any(|rule| {
        among(&rule.groups, id.group())
            && among(&rule.versions, id.version())
            && (among(&rule.resources, &plural) || rule.resources.iter().any(|r| r == "*/*"))
    });
    let labels = item.object.pointer("/metadata/labels").cloned().unwrap_or_else(|| json!({}));
    by_rule
        && selects(webhook.object_selector.as_ref(), &labels)
        && selects(webhook.namespace_selector.as_ref(), &namespace_labels(given, item))
}

/// The labels of an object's namespace: in the target, or as it is restored.
fn namespace_labels(given: &Case<'_>, item: &Item<'_>) -> Value {
    let name = if item.is("", "Namespace") { &item.id.name } else { &item.id.namespace };
    if let Some(labels) = given.facts.namespace_labels.get(name) {
        return json!(labels);
    }
    let brought =
        given.objects.iter().find(|item| item.is("", "Namespace") && item.id.name == *name);
    let labels = brought.and_then(|item| item.object.pointer("/metadata/labels")).cloned();
    let mut labels = labels.unwrap_or_else(|| json!({}));
    if let Some(labels) = labels.as_object_mut().filter(|_| !name.is_empty()) {
        labels.insert("kubernetes.io/metadata.name".into(), json!(name));
    }
    labels
}

/// Webhook configurations in the restore whose backend neither is there nor comes with it.
fn planned_webhooks(given: &Case<'_>, problems: &mut Vec<Problem>) {
    const GROUP: &str = "admissionregistration.k8s.io";
    for item in given.objects {
        if !item.is(GROUP, "MutatingWebhookConfiguration")
            && !item.is(GROUP, "ValidatingWebhookConfiguration")
        {
            continue;
        }
        for webhook in item.list("/webhooks") {
            let text = |path: &str| webhook.pointer(path).and_then(Value::as_str);
            let service = text("/clientConfig/service/namespace")
                .zip(text("/clientConfig/service/name"))
                .map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
            let Some(service) = service else { continue };
            let backend = ObjectId {
                api_version: "v1".into(),
                kind: "Service".into(),
                namespace: service.0.clone(),
                name: service.1.clone(),
            };
            let is_there = given.facts.services_ready.contains(&service)
                || given.brings_in("", "Service", &service.0, &service.1);
            if !is_there {
                let name = text("/name").unwrap_or_default();
                let cause = format!(
                    "webhook {name} calls {backend}, which is neither in the target nor in the restore"
                );
                let remedy = "take the backend into the restore, map its namespace too, or exclude the configuration";
                let severity = match text("/failurePolicy") {
                    Some("Ignore") => Severity::Warning,
                    _ => Severity::Blocking,
                };
                problems.push(item.problem(severity, Topic::WebhookDown, cause, remedy));
            }
        }
    }
}

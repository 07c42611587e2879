//! Other namespaces, storage classes, images and names, at every place that refers to them.
//!
//! All places are read before any is written, so that two namespaces may change places. A place
//! that may refer to a mapped namespace but is not known to, such as a host name in an argument,
//! is not touched; [`suspects`] names it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::graph::{Scope, claim_prefixes, namespace_of, places, target};
use crate::kinds::{CONTAINERS, pod_spec_path};
use crate::object::{GroupKind, Key, group_kind, items, kind, name, namespace, owners, text};
use crate::path::{escape, resolve};

/// What becomes what.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mappings {
    /// Namespaces.
    pub namespaces: BTreeMap<String, String>,
    /// Storage classes, where something asks for them. The classes themselves keep their names.
    pub storage_classes: BTreeMap<String, String>,
    /// Beginnings of image names, up to a `/`, the tag or the digest; the longest one counts.
    /// `docker.io` also stands for images that name no registry.
    pub images: BTreeMap<String, String>,
    /// Objects and what refers to them.
    pub names: Vec<NameMapping>,
}

/// Another name for an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NameMapping {
    /// The object, as it was called, in its old namespace.
    #[serde(flatten)]
    pub from: Key,
    /// Its new name.
    pub to: String,
}

/// Which mapping changed a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Mapping {
    /// Of namespaces.
    Namespace,
    /// Of storage classes.
    StorageClass,
    /// Of images.
    Image,
    /// Of names.
    Name,
}

/// A place that was changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Mapped {
    /// A JSON pointer.
    pub path: String,
    /// By which mapping.
    pub mapping: Mapping,
    /// What was there.
    pub from: String,
    /// What is there now.
    pub to: String,
}

/// The label that every namespace has of its own name.
const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";

/// Where classes were named before there was a field.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

impl Mappings {
    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
            && self.storage_classes.is_empty()
            && self.images.is_empty()
            && self.names.is_empty()
    }

    /// The new namespace.
    pub fn namespace<'a>(&'a self, old: &'a str) -> &'a str {
        self.namespaces.get(old).map_or(old, String::as_str)
    }

    /// The new key of an object.
    pub fn key(&self, old: &Key) -> Key {
        let name = match old.kind.as_pair() {
            ("", "Namespace") => self.namespace(&old.name),
            _ => self.name(old).unwrap_or(&old.name),
        };
        let namespace = self.namespace(&old.namespace).to_owned();
        Key { kind: old.kind.clone(), namespace, name: name.to_owned() }
    }

    /// Lets the claims of a `StatefulSet` follow when it is renamed: they are found by name.
    pub fn follow_claims<'a>(&mut self, objects: impl IntoIterator<Item = &'a Value>) {
        let mut prefixes: Vec<(String, String, String)> = Vec::new();
        let mut claims: Vec<Key> = Vec::new();
        for object in objects {
            let key = Key::of(object);
            if key.kind.as_pair() == ("", "PersistentVolumeClaim") {
                claims.push(key);
            } else if let Some(to) = self.name(&key) {
                for (old, template) in claim_prefixes(object)
                    .into_iter()
                    .zip(items(object, "/spec/volumeClaimTemplates"))
                {
                    let new = format!("{}-{to}-", name(template));
                    prefixes.push((key.namespace.clone(), old, new));
                }
            }
        }
        for claim in claims {
            if self.name(&claim).is_some() {
                continue;
            }
            let followed = prefixes.iter().find_map(|(namespace, old, new)| {
                let ordinal = claim.name.strip_prefix(old.as_str())?;
                let is_ordinal = ordinal.parse::<u32>().is_ok() && *namespace == claim.namespace;
                is_ordinal.then(|| format!("{new}{ordinal}"))
            });
            if let Some(to) = followed {
                self.names.push(NameMapping { from: claim, to });
            }
        }
    }

    fn name(&self, key: &Key) -> Option<&str> {
        let found = self.names.iter().find(|mapping| mapping.from == *key);
        found.map(|mapping| mapping.to.as_str())
    }

    /// The new name of an image.
    fn image(&self, image: &str) -> Option<String> {
        let full = full_image(image);
        let mut best: Option<(&str, &str, &str)> = None;
        for (from, to) in &self.images {
            let rest = rest_of_image(image, from).or_else(|| rest_of_image(&full, from));
            if let Some(rest) = rest
                && best.is_none_or(|(longest, _, _)| from.len() > longest.len())
            {
                best = Some((from, to, rest));
            }
        }
        best.map(|(_, to, rest)| format!("{}{rest}", to.trim_end_matches('/')))
    }
}

/// Maps an object, and says what changed, in the order of paths.
pub fn map(object: &mut Value, mappings: &Mappings) -> Vec<Mapped> {
    let mut found = Vec::new();
    if mappings.is_empty() {
        return found;
    }
    find_own(object, mappings, &mut found);
    find_references(object, mappings, &mut found);
    find_owners(object, mappings, &mut found);
    find_subjects(object, mappings, &mut found);
    find_selectors(object, mappings, &mut found);
    find_annotations(object, mappings, &mut found);
    find_images(object, mappings, &mut found);
    found.retain(|mapped| mapped.from != mapped.to);
    found.sort_unstable();
    found.dedup();
    for mapped in &found {
        if let Some(place) = object.pointer_mut(&mapped.path) {
            *place = Value::from(mapped.to.as_str());
        }
    }
    found
}

/// Places that speak of a mapped namespace and were not changed: JSON pointers. To be asked of an
/// object after [`map`].
pub fn suspects(object: &Value, mappings: &Mappings) -> Vec<String> {
    let mut found = Vec::new();
    let moved: Vec<&str> = mappings
        .namespaces
        .iter()
        .filter(|(from, to)| from != to && !mappings.namespaces.values().any(|to| to == *from))
        .map(|(from, _)| from.as_str())
        .collect();
    if !moved.is_empty() && kind(object) != "Secret" {
        suspect(object, "", "", &moved, &mut found);
    }
    found
}

fn suspect(value: &Value, key: &str, at: &str, moved: &[&str], found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                suspect(inner, key, &format!("{at}/{}", escape(key)), moved, found);
            }
        }
        Value::Array(list) => {
            for (number, inner) in list.iter().enumerate() {
                suspect(inner, key, &format!("{at}/{number}"), moved, found);
            }
        }
        Value::String(text) => {
            let is_field = matches!(key, "namespace" | "namespaces" | "matchNames");
            let speaks = moved
                .iter()
                .any(|namespace| (is_field && text == namespace) || names_host_in(text, namespace));
            if speaks {
                found.push(at.to_owned());
            }
        }
        _ => {}
    }
}

/// Whether a text has a service's host name within the namespace, such as `web.shop.svc`.
fn names_host_in(text: &str, namespace: &str) -> bool {
    let dotted = format!(".{namespace}");
    text.match_indices(&dotted).any(|(at, _)| {
        let rest = &text[at + dotted.len()..];
        rest == ".svc"
            || [".svc.", ".svc:", ".svc/", ".svc,"].iter().any(|end| rest.starts_with(end))
    })
}

fn find_own(object: &Value, mappings: &Mappings, found: &mut Vec<Mapped>) {
    let key = Key::of(object);
    let new = mappings.key(&key);
    push(found, "/metadata/namespace", Mapping::Namespace, &key.namespace, &new.namespace);
    let mapping = match key.kind.as_pair() {
        ("", "Namespace") => Mapping::Namespace,
        _ => Mapping::Name,
    };
    push(found, "/metadata/name", mapping, &key.name, &new.name);
}

fn find_references(object: &Value, mappings: &Mappings, found: &mut Vec<Mapped>) {
    for (place, pointer) in places(object) {
        let (group, kind) = target(object, place, &pointer);
        let old_namespace = namespace_of(object, place, &pointer, kind);
        let old = text(object, &pointer);
        if (group, kind) == ("storage.k8s.io", "StorageClass") {
            if let Some(to) = mappings.storage_classes.get(old) {
                push(found, &pointer, Mapping::StorageClass, old, to);
            }
        } else if let Some(to) = mappings.name(&Key::new(group, kind, old_namespace, old)) {
            push(found, &pointer, Mapping::Name, old, to);
        }
        if let Scope::Sibling(sibling) = place.scope {
            let parent = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
            let sibling = format!("{parent}/{sibling}");
            let old = text(object, &sibling);
            push(found, &sibling, Mapping::Namespace, old, mappings.namespace(old));
        }
    }
}

fn find_owners(object: &Value, mappings: &Mappings, found: &mut Vec<Mapped>) {
    for (number, owner) in owners(object).enumerate() {
        let beside = Key::new(owner.group, owner.kind, namespace(object), owner.name);
        let above = Key { namespace: String::new(), ..beside.clone() };
        if let Some(to) = mappings.name(&beside).or_else(|| mappings.name(&above)) {
            let pointer = format!("/metadata/ownerReferences/{number}/name");
            push(found, &pointer, Mapping::Name, owner.name, to);
        }
    }
}

/// Users and groups that stand for service accounts.
fn find_subjects(object: &Value, mappings: &Mappings, found: &mut Vec<Mapped>) {
    if group_kind(object).0 != "rbac.authorization.k8s.io" {
        return;
    }
    for (number, subject) in items(object, "/subjects").iter().enumerate() {
        let old = text(subject, "/name");
        let pointer = format!("/subjects/{number}/name");
        match kind(subject) {
            "Group" => {
                if let Some(namespace) = old.strip_prefix("system:serviceaccounts:") {
                    let to = format!("system:serviceaccounts:{}", mappings.namespace(namespace));
                    push(found, &pointer, Mapping::Namespace, old, &to);
                }
            }
            "User" => {
                let account = old.strip_prefix("system:serviceaccount:");
                if let Some((namespace, name)) = account.and_then(|text| text.split_once(':')) {
                    let new = mappings.key(&Key::new("", "ServiceAccount", namespace, name));
                    let to = format!("system:serviceaccount:{}:{}", new.namespace, new.name);
                    push(found, &pointer, Mapping::Namespace, old, &to);
                }
            }
            _ => {}
        }
    }
}

/// Selectors that choose namespaces by the label of their name.
fn find_selectors(object: &Value, mappings: &Mappings, found: &mut Vec<Mapped>) {
    let paths: &[&str] = match group_kind(object) {
        ("networking.k8s.io", "NetworkPolicy") => {
            &["spec.ingress[].from[].namespaceSelector", "spec.egress[].to[].namespaceSelector"]
        }
        ("admissionregistration.k8s.io", _) => &[
            "webhooks[].namespaceSelector",
            "spec.matchConstraints.namespaceSelector",
            "spec.matchResources.namespaceSelector",
        ],
        _ => pod_affinities(object),
    };
    for selector in paths.iter().flat_map(|path| resolve(object, path)) {
        let label = format!("{selector}/matchLabels/{}", escape(NAMESPACE_LABEL));
        let old = text(object, &label);
        push(found, &label, Mapping::Namespace, old, mappings.namespace(old));
        let expressions = format!("{selector}/matchExpressions");
        for (number, expression) in items(object, &expressions).iter().enumerate() {
            if text(expression, "/key") != NAMESPACE_LABEL {
                continue;
            }
            for (at, value) in items(expression, "/values").iter().enumerate() {
                let old = value.as_str().unwrap_or_default();
                let pointer = format!("{expressions}/{number}/values/{at}");
                push(found, &pointer, Mapping::Namespace, old, mappings.namespace(old));
            }
        }
    }
}

/// Where the pods of a workload choose whom to be near by namespace. These are few, so that the
/// common kinds are spelt out.
fn pod_affinities(object: &Value) -> &'static [&'static str] {
    let (group, kind) = group_kind(object);
    match pod_spec_path(group, kind) {
        Some("spec") => &[
            "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[].namespaceSelector",
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[].namespaceSelector",
        ],
        Some("spec.template.spec") => &[
            "spec.template.spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[].namespaceSelector",
            "spec.template.spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[].namespaceSelector",
        ],
        _ => &[],
    }
}

/// Annotations with a name in them that the API or a wide-spread controller acts on.
fn find_annotations(object: &Value, mappings: &Mappings, found: &mut Vec<Mapped>) {
    let mut places = vec!["/metadata/annotations".to_owned()];
    let templates = items(object, "/spec/volumeClaimTemplates").len();
    places.extend(
        (0..templates)
            .map(|number| format!("/spec/volumeClaimTemplates/{number}/metadata/annotations")),
    );
    for place in places {
        let pointer = format!("{place}/{}", escape(CLASS_ANNOTATION));
        let old = text(object, &pointer);
        if let Some(to) = mappings.storage_classes.get(old) {
            push(found, &pointer, Mapping::StorageClass, old, to);
        }
    }
    for annotation in ["cert-manager.io/inject-ca-from", "cert-manager.io/inject-ca-from-secret"] {
        let pointer = format!("/metadata/annotations/{}", escape(annotation));
        let old = text(object, &pointer);
        if let Some((namespace, name)) = old.split_once('/') {
            let to = format!("{}/{name}", mappings.namespace(namespace));
            push(found, &pointer, Mapping::Namespace, old, &to);
        }
    }
    let pointer = "/metadata/annotations/kubernetes.io~1service-account.name";
    let old = text(object, pointer);
    if let Some(to) = mappings.name(&Key::new("", "ServiceAccount", namespace(object), old)) {
        push(found, pointer, Mapping::Name, old, to);
    }
}

fn find_images(object: &Value, mappings: &Mappings, found: &mut Vec<Mapped>) {
    if mappings.images.is_empty() {
        return;
    }
    let (group, kind) = group_kind(object);
    let mut pointers = Vec::new();
    if let Some(spec) = pod_spec_path(group, kind) {
        for list in CONTAINERS {
            pointers.extend(resolve(object, &format!("{spec}.{list}[].image")));
            for variable in resolve(object, &format!("{spec}.{list}[].env[]")) {
                // By convention operators are told so which images to run.
                if text(object, &format!("{variable}/name")).starts_with("RELATED_IMAGE_") {
                    pointers.push(format!("{variable}/value"));
                }
            }
        }
        pointers.extend(resolve(object, &format!("{spec}.volumes[].image.reference")));
    }
    if group == "kubevirt.io" {
        for spec in ["spec", "spec.template.spec"] {
            pointers.extend(resolve(object, &format!("{spec}.volumes[].containerDisk.image")));
        }
    }
    for pointer in pointers {
        let old = text(object, &pointer);
        if let Some(to) = mappings.image(old) {
            push(found, &pointer, Mapping::Image, old, &to);
        }
    }
}

fn push(found: &mut Vec<Mapped>, path: &str, mapping: Mapping, from: &str, to: &str) {
    if !from.is_empty() && from != to {
        let (path, from, to) = (path.to_owned(), from.to_owned(), to.to_owned());
        found.push(Mapped { path, mapping, from, to });
    }
}

/// An image's name with what container runtimes add to it.
fn full_image(image: &str) -> String {
    let first = image.split('/').next().unwrap_or_default();
    let has_registry =
        image.contains('/') && (first.contains('.') || first.contains(':') || first == "localhost");
    match (has_registry, image.contains('/')) {
        (true, _) => image.to_owned(),
        (false, true) => format!("docker.io/{image}"),
        (false, false) => format!("docker.io/library/{image}"),
    }
}

/// What follows a beginning that ends where a part of the name ends.
fn rest_of_image<'a>(image: &'a str, beginning: &str) -> Option<&'a str> {
    let rest = image.strip_prefix(beginning.trim_end_matches('/'))?;
    let ends_part = rest.is_empty()
        || rest.starts_with('/')
        || (rest.starts_with([':', '@']) && !rest.contains('/'));
    ends_part.then_some(rest)
}

/// The kinds whose names can be mapped without breaking what finds them by convention.
pub fn can_rename(kind: &GroupKind) -> bool {
    !matches!(
        kind.as_pair(),
        ("apiextensions.k8s.io", "CustomResourceDefinition")
            | ("apiregistration.k8s.io", "APIService")
            | ("", "Namespace")
    )
}

//! Reading objects: who they are, what they carry, whom they belong to.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Annotations and labels of ours start with this.
pub const PREFIX: &str = "salvor.dev/";

/// A kind of object, whatever its version.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupKind {
    /// The API group; empty for the core group.
    #[serde(default)]
    pub group: String,
    /// The kind, as in `kind: Deployment`.
    pub kind: String,
}

impl GroupKind {
    /// A kind of a group.
    pub fn new(group: impl Into<String>, kind: impl Into<String>) -> Self {
        Self { group: group.into(), kind: kind.into() }
    }

    /// The kind of an object.
    pub fn of(object: &Value) -> Self {
        let (group, kind) = group_kind(object);
        Self::new(group, kind)
    }

    /// Group and kind, to match on.
    pub fn as_pair(&self) -> (&str, &str) {
        (&self.group, &self.kind)
    }
}

/// `Deployment.apps`, and `Pod` for the core group.
impl fmt::Display for GroupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        Ok(())
    }
}

/// What names an object within one cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Its kind.
    #[serde(flatten)]
    pub kind: GroupKind,
    /// Its namespace; empty if the kind has none.
    #[serde(default)]
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// The key of the object with these parts.
    pub fn new(group: &str, kind: &str, namespace: &str, name: &str) -> Self {
        let kind = GroupKind::new(group, kind);
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The key of an object.
    pub fn of(object: &Value) -> Self {
        let namespace = namespace(object).to_owned();
        Self { kind: GroupKind::of(object), namespace, name: name(object).to_owned() }
    }
}

/// `Deployment.apps shop/web`.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// An object with everything that identifies it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectRef {
    /// The API group; empty for the core group.
    pub group: String,
    /// The version it is read or written in.
    pub version: String,
    /// The kind.
    pub kind: String,
    /// The namespace; empty if the kind has none.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The UID; empty if it is not known.
    pub uid: String,
}

impl ObjectRef {
    /// What identifies `object`.
    pub fn of(object: &Value) -> Self {
        let (group, version) = group_version(object);
        Self {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind(object).to_owned(),
            namespace: namespace(object).to_owned(),
            name: name(object).to_owned(),
            uid: uid(object).to_owned(),
        }
    }

    /// Without version and UID.
    pub fn key(&self) -> Key {
        Key::new(&self.group, &self.kind, &self.namespace, &self.name)
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key().fmt(f)
    }
}

/// An entry of `metadata.ownerReferences`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner<'a> {
    /// The owner's API group; empty for the core group.
    pub group: &'a str,
    /// The owner's kind.
    pub kind: &'a str,
    /// The owner's name.
    pub name: &'a str,
    /// The owner's UID in the cluster that the object comes from.
    pub uid: &'a str,
    /// Whether it is the one that manages the object.
    pub controls: bool,
}

/// The text at a JSON pointer; empty if there is none.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The elements of the array at a JSON pointer; none if there is no array.
pub fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The value `true` at a JSON pointer.
pub fn is_true(object: &Value, pointer: &str) -> bool {
    object.pointer(pointer).and_then(Value::as_bool) == Some(true)
}

/// `metadata.name`.
pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

/// `metadata.namespace`; empty if there is none.
pub fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

/// `metadata.uid`; empty if there is none.
pub fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

/// `kind`.
pub fn kind(object: &Value) -> &str {
    text(object, "/kind")
}

/// Group and version of `apiVersion`; the core group is empty.
pub fn group_version(object: &Value) -> (&str, &str) {
    split_api_version(text(object, "/apiVersion"))
}

/// Group and version of `apps/v1`, or of `v1` alone.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// `apps/v1`, or `v1` alone for the core group.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Group and kind, to match on.
pub fn group_kind(object: &Value) -> (&str, &str) {
    (group_version(object).0, kind(object))
}

/// A label of the object.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.pointer("/metadata/labels")?.get(key)?.as_str()
}

/// An annotation of the object.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.pointer("/metadata/annotations")?.get(key)?.as_str()
}

/// Labels of the object as they are, in the order of their keys.
pub fn labels(object: &Value) -> Option<&Map<String, Value>> {
    object.pointer("/metadata/labels")?.as_object()
}

/// Sets an annotation. Nothing happens to a value that is not an object.
pub fn set_annotation(object: &mut Value, key: &str, value: &str) {
    let Some(root) = object.as_object_mut() else { return };
    let metadata = root.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    let Some(metadata) = metadata.as_object_mut() else { return };
    let annotations = metadata.entry("annotations").or_insert_with(|| Value::Object(Map::new()));
    if !annotations.is_object() {
        *annotations = Value::Object(Map::new());
    }
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(key.to_owned(), Value::from(value));
    }
}

/// Takes an annotation away, and the map of annotations if it was the last.
pub fn take_annotation(object: &mut Value, key: &str) -> Option<String> {
    let metadata = object.get_mut("metadata")?.as_object_mut()?;
    let annotations = metadata.get_mut("annotations")?.as_object_mut()?;
    let taken = annotations.remove(key)?;
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
    taken.as_str().map(str::to_owned)
}

/// The object's owners.
pub fn owners(object: &Value) -> impl Iterator<Item = Owner<'_>> {
    items(object, "/metadata/ownerReferences").iter().map(|owner| Owner {
        group: group_version(owner).0,
        kind: kind(owner),
        name: text(owner, "/name"),
        uid: text(owner, "/uid"),
        controls: is_true(owner, "/controller"),
    })
}

/// The owner that manages the object.
pub fn controller(object: &Value) -> Option<Owner<'_>> {
    owners(object).find(|owner| owner.controls)
}

/// Whether the object is being deleted.
pub fn is_terminating(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null())
}

/// Whether the condition `kind` of `status.conditions` is True.
pub fn has_condition(object: &Value, kind: &str) -> bool {
    items(object, "/status/conditions")
        .iter()
        .any(|condition| text(condition, "/type") == kind && text(condition, "/status") == "True")
}

/// One text for all objects that are equal as JSON: keys sorted, no space.
pub fn canonical(value: &Value) -> String {
    let mut out = String::new();
    write_canonical(value, &mut out);
    out
}

fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_unstable();
            out.push('{');
            for (at, key) in keys.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write_canonical(&map[key], out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write_canonical(item, out);
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn whatever_the_cluster_sends_is_read_without_panic() {
        for odd in [json!(null), json!([]), json!({"metadata": 3}), json!({"apiVersion": {}})] {
            assert_eq!(name(&odd), "");
            assert_eq!(group_version(&odd), ("", ""));
            assert_eq!(owners(&odd).count(), 0);
            let mut copy = odd.clone();
            set_annotation(&mut copy, "a", "b");
            assert_eq!(take_annotation(&mut copy, "c"), None);
        }
    }

    #[test]
    fn canonical_text_is_the_same_whatever_the_order_of_keys() {
        let one: Value = serde_json::from_str(r#"{"b":[1,{"y":1,"x":null}],"a":"\""}"#).unwrap();
        assert_eq!(canonical(&one), r#"{"a":"\"","b":[1,{"x":null,"y":1}]}"#);
    }

    #[test]
    fn the_last_annotation_takes_its_map_along() {
        let mut object = json!({"metadata": {"name": "a"}});
        set_annotation(&mut object, "k", "v");
        assert_eq!(take_annotation(&mut object, "k").as_deref(), Some("v"));
        assert_eq!(object, json!({"metadata": {"name": "a"}}));
    }
}

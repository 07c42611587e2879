//! Velero's objects as ours: Backup, Schedule, Restore, `BackupStorageLocation`, and the
//! `ConfigMap`s of resource policies, resource modifiers and mappings.
//!
//! Whatever is not carried over as it was is named, field by field: what has no equivalent, what
//! means something else here, and what a person has to do.

mod backup;
mod config;
mod filters;
mod location;
mod read;
mod restore;

use serde::Serialize;
use serde_json::{Value, json};

use crate::yaml::{self, Kind, Node, YamlError};
use read::{Fields, Notes};

/// What a stream of Velero's objects becomes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Migration {
    /// Ours, to be created in this order.
    pub objects: Vec<Value>,
    /// What a person must know, in the order of the stream.
    pub notes: Vec<Note>,
}

/// Something that was not carried over as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// What became of it.
    pub fate: Fate,
    /// Kind and name of Velero's object.
    pub object: String,
    /// The field, such as `spec.template.datamover`; empty for the whole object.
    pub field: String,
    /// Its line in the stream, counted from 1.
    pub line: u64,
    /// Why, and what instead.
    pub message: String,
}

/// What became of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Fate {
    /// It has no equivalent and was left out.
    Dropped,
    /// It was carried over and means something else.
    Changed,
    /// It is a person's turn.
    ToDo,
}

impl std::fmt::Display for Note {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fate = match self.fate {
            Fate::Dropped => "no equivalent",
            Fate::Changed => "changed",
            Fate::ToDo => "to do",
        };
        let colon = if self.field.is_empty() { "" } else { ": " };
        let Self { object, line, field, message, .. } = self;
        write!(formatter, "{object} (line {line}): {fate}: {field}{colon}{message}")
    }
}

/// Where the results are to live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The namespace that Salvor is installed in.
    pub namespace: String,
    /// The Secret with the passphrase of new repositories.
    pub key_secret: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { namespace: "salvor-system".into(), key_secret: "salvor-repository-key".into() }
    }
}

/// Reads a stream of YAML documents (or a List) and says what it is in our terms.
///
/// # Errors
///
/// [`YamlError`] if the stream is not YAML. An object that cannot be carried over is a note.
pub fn migrate(stream: &str, options: &Options) -> Result<Migration, YamlError> {
    let documents = yaml::parse_stream(stream)?;
    let mut migration = Migration::default();
    let mut mappings = config::Mappings::default();
    for document in documents.iter().flat_map(unlist) {
        object(document, options, &mut migration, &mut mappings);
    }
    mappings.finish(&mut migration);
    // Repositories and ConfigMaps before what names them.
    migration.objects.sort_by_key(|object| match object["kind"].as_str() {
        Some("Repository") => 0,
        Some("ConfigMap") => 1,
        Some("BackupPlan") => 2,
        _ => 3,
    });
    Ok(migration)
}

/// The items of a List, or the document itself.
fn unlist(document: &Node) -> Vec<&Node> {
    let Kind::Map(fields) = &document.kind else { return vec![document] };
    let field = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, node)| &node.kind);
    match (field("kind"), field("items")) {
        (Some(Kind::Text(kind)), Some(Kind::List(items))) if kind.ends_with("List") => {
            items.iter().collect()
        }
        _ => vec![document],
    }
}

fn object(
    document: &Node,
    options: &Options,
    migration: &mut Migration,
    mappings: &mut config::Mappings,
) {
    let value = document.to_value();
    let text = |path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let (api, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
    let label = format!("{} {}", if kind.is_empty() { "document" } else { kind }, name);
    let mut notes = Notes::new(&mut migration.notes, label.trim_end().to_owned());
    let mut root = Fields::new(document, "");
    let produced = match (api.split_once('/').map_or("", |(group, _)| group), kind) {
        ("velero.io", "Backup") => Some(backup::backup(&mut root, options, &mut notes)),
        ("velero.io", "Schedule") => Some(backup::schedule(&mut root, options, &mut notes)),
        ("velero.io", "Restore") => Some(restore::restore(&mut root, options, &mut notes)),
        ("velero.io", "BackupStorageLocation") => {
            location::repository(&mut root, options, &mut notes)
        }
        ("velero.io", "VolumeSnapshotLocation") => {
            let message = "volumes are copied from CSI snapshots or live; no location is needed";
            notes.whole(Fate::Dropped, document.line, message);
            None
        }
        ("velero.io" | "", "") => {
            notes.whole(Fate::Dropped, document.line, "is no object: it has no kind");
            None
        }
        ("velero.io", _) => {
            let message = "is Velero's own record and has no equivalent";
            notes.whole(Fate::Dropped, document.line, message);
            None
        }
        ("", "ConfigMap") => config::config_map(&value, document, options, mappings, &mut notes),
        _ => {
            notes.whole(Fate::Dropped, document.line, "is not Velero's; it is left as it is");
            None
        }
    };
    migration.objects.extend(produced);
}

/// The beginning of each of our objects. Labels and annotations come along, but for Velero's own.
fn new_object(
    kind: &str,
    root: &mut Fields<'_>,
    options: &Options,
    notes: &mut Notes<'_>,
) -> Value {
    root.ignore(&["apiVersion", "kind", "status"]);
    let mut object = json!({
        "apiVersion": "salvor.dev/v1alpha1",
        "kind": kind,
        "metadata": { "namespace": options.namespace },
        "spec": {},
    });
    let Some(metadata) = root.take("metadata") else { return object };
    let value = metadata.to_value();
    if let Some(name) = value.get("name") {
        object["metadata"]["name"] = name.clone();
    } else if value.get("generateName").is_some() {
        let message = "is empty; give it one: names are not generated";
        notes.add(Fate::ToDo, "metadata.name", metadata.line, message);
    }
    for field in ["labels", "annotations"] {
        let kept = value.get(field).and_then(Value::as_object).map(|fields| {
            let kept = fields.iter().filter(|(key, _)| !is_foreign(key));
            kept.map(|(key, value)| (key.clone(), value.clone())).collect::<serde_json::Map<_, _>>()
        });
        if let Some(kept) = kept.filter(|kept| !kept.is_empty()) {
            object["metadata"][field] = Value::Object(kept);
        }
    }
    object
}

/// Labels and annotations that mean something to Velero or to kubectl only.
fn is_foreign(key: &str) -> bool {
    let prefix = key.split_once('/').map_or("", |(prefix, _)| prefix);
    prefix == "velero.io"
        || prefix.ends_with(".velero.io")
        || prefix == "velero.kubevirt.io"
        || key == "kubectl.kubernetes.io/last-applied-configuration"
}

/// Sets a field by its path with dots, making what is missing on the way.
fn put(object: &mut Value, path: &str, value: Value) {
    let mut place = object;
    for step in path.split('.') {
        if !place.is_object() {
            *place = json!({});
        }
        place = &mut place[step];
    }
    *place = value;
}

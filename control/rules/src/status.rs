//! Whether an object's status comes back, and how it is written.
//!
//! Most controllers find their status out anew. Some believe it: without it they begin from
//! nothing, over data that was restored. The kinds known for that are in [`BELIEVED`]; a user adds
//! others, or an annotation on the object decides.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::kinds::{Discovery, Resource};
use crate::object::{GroupKind, annotation};

/// On an object: `true` or `false`, whatever is said of its kind. The first one counts.
pub const ANNOTATIONS: [&str; 2] = ["salvor.dev/restore-status", "velero.io/restore-status"];

/// Kinds whose controllers believe their status: group and kind, `*` for all of the group.
pub const BELIEVED: [(&str, &str); 4] = [
    ("k8s.mariadb.com", "*"),
    ("cert-manager.io", "Certificate"),
    ("cluster.x-k8s.io", "*"),
    ("infrastructure.cluster.x-k8s.io", "*"),
];

/// Whose status comes back.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// `None`: those of [`BELIEVED`].
    included: Option<BTreeSet<GroupKind>>,
    includes_all: bool,
    excluded: BTreeSet<GroupKind>,
    excludes_all: bool,
}

/// How the status is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    /// Not at all: there is none, or it is not wanted.
    Not,
    /// Through the status subresource, once the object exists. The API server takes it no other way.
    Subresource,
    /// With the object itself: its kind has no subresource.
    InObject,
}

impl Policy {
    /// Of kinds included and excluded, by the names [`Discovery::kinds`] knows or `*`; excluded wins.
    /// With neither list, the kinds that are known to need it.
    ///
    /// # Errors
    ///
    /// The names that stand for no kind.
    pub fn new(
        included: &[String],
        excluded: &[String],
        discovery: &Discovery,
    ) -> Result<Self, Vec<String>> {
        let mut unknown = Vec::new();
        let mut kinds = |names: &[String]| -> BTreeSet<GroupKind> {
            let mut found = BTreeSet::new();
            for name in names.iter().filter(|name| *name != "*") {
                let kinds = discovery.kinds(name);
                if kinds.is_empty() {
                    unknown.push(name.clone());
                }
                found.extend(kinds);
            }
            found
        };
        let has_star = |names: &[String]| names.iter().any(|name| name == "*");
        let policy = Self {
            included: (!included.is_empty()).then(|| kinds(included)),
            includes_all: has_star(included),
            excluded: kinds(excluded),
            excludes_all: has_star(excluded),
        };
        if unknown.is_empty() { Ok(policy) } else { Err(unknown) }
    }

    /// How the status of `object` is written.
    ///
    /// * `object`: with its annotations, and without status;
    /// * `resource`: its kind in the target, if it is known.
    pub fn judge(
        &self,
        object: &Value,
        status: Option<&Value>,
        resource: Option<&Resource>,
    ) -> Writing {
        let has_status = status.and_then(Value::as_object).is_some_and(|status| !status.is_empty());
        let is_wanted = said_by(object).unwrap_or_else(|| self.wants(&GroupKind::of(object)));
        if !has_status || !is_wanted {
            return Writing::Not;
        }
        match resource {
            Some(resource) if !resource.has_status_subresource => Writing::InObject,
            _ => Writing::Subresource,
        }
    }

    fn wants(&self, kind: &GroupKind) -> bool {
        if self.excludes_all || self.excluded.contains(kind) {
            return false;
        }
        match &self.included {
            Some(included) => self.includes_all || included.contains(kind),
            None => BELIEVED
                .iter()
                .any(|(group, name)| kind.group == *group && (*name == "*" || kind.kind == *name)),
        }
    }
}

/// What an annotation says; upper and lower case do not matter, and any other value says nothing.
fn said_by(object: &Value) -> Option<bool> {
    ANNOTATIONS.iter().find_map(|key| {
        let value = annotation(object, key)?;
        let says = |word: &str| value.trim().eq_ignore_ascii_case(word);
        if says("true") {
            Some(true)
        } else if says("false") {
            Some(false)
        } else {
            None
        }
    })
}

/// The object with its status, to be written through the subresource.
pub fn with_status(mut object: Value, status: Value) -> Value {
    if let Some(map) = object.as_object_mut() {
        map.insert("status".to_owned(), status);
    }
    object
}

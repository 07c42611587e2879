//! In which API version an object goes to the target.
//!
//! A backup holds each object in every version its cluster served. The choice is, in this order:
//! what the user asks for, what the target prefers, what the source preferred, the most stable
//! version that both have. A kind without a common version cannot be restored; that is known, and
//! told, before anything is written.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::kinds::{Discovery, Resource};
use crate::object::{GroupKind, is_true, items, text};

/// A kind as it is stored in a backup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    /// The kind.
    pub kind: GroupKind,
    /// The versions it is stored in.
    pub versions: Vec<String>,
    /// The one that the source preferred.
    pub preferred: String,
}

/// Why a version was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Because {
    /// The user asked for it.
    Asked,
    /// The target prefers it.
    TargetPrefers,
    /// The source preferred it, and the target serves it.
    SourcePreferred,
    /// Both have it.
    Common,
}

/// A chosen version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// The version.
    pub version: String,
    /// Why this one.
    pub because: Because,
}

/// A kind that cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unrestorable {
    /// The kind.
    pub kind: GroupKind,
    /// The versions it is stored in.
    pub stored: Vec<String>,
    /// The versions that the target serves; none if it does not know the kind.
    pub served: Vec<String>,
    /// A kind of another group that took its place, if one did.
    pub moved_to: Option<GroupKind>,
}

impl fmt::Display for Unrestorable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stored = self.stored.join(", ");
        write!(f, "{}: stored as {stored}; the target ", self.kind)?;
        if self.served.is_empty() {
            f.write_str("has no such kind; ")?;
        } else {
            write!(f, "serves {}; ", self.served.join(", "))?;
        }
        match &self.moved_to {
            Some(kind) => write!(f, "it is {kind} now: rewrite it, or exclude the kind"),
            None if self.served.is_empty() => {
                f.write_str("install what defines it, or include its CRD, or exclude the kind")
            }
            None => f.write_str("install a version that still serves it, or exclude the kind"),
        }
    }
}

/// The choice for every kind of a backup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choices {
    /// Kinds that can be restored.
    pub chosen: BTreeMap<GroupKind, Choice>,
    /// Kinds that cannot.
    pub unrestorable: Vec<Unrestorable>,
}

/// Chooses for each stored kind.
///
/// * `target`: what the target serves, and what it will serve once the restored CRDs are there, see
///   [`served_by`];
/// * `asked`: versions for a kind, the first that both have counts.
pub fn choose<'a>(
    stored: impl IntoIterator<Item = &'a Stored>,
    target: &Discovery,
    asked: &BTreeMap<GroupKind, Vec<String>>,
) -> Choices {
    let mut choices = Choices::default();
    for kind in stored {
        let wanted = asked.get(&kind.kind).map_or(&[][..], Vec::as_slice);
        match choose_one(kind, target, wanted) {
            Some(choice) => {
                choices.chosen.insert(kind.kind.clone(), choice);
            }
            None => choices.unrestorable.push(unrestorable(kind, target)),
        }
    }
    choices.unrestorable.sort_by(|a, b| a.kind.cmp(&b.kind));
    choices
}

fn choose_one(stored: &Stored, target: &Discovery, asked: &[String]) -> Option<Choice> {
    let served = target.versions(&stored.kind);
    let is_served = |version: &str| served.iter().any(|resource| resource.version == version);
    let is_stored = |version: &str| stored.versions.iter().any(|stored| stored == version);
    let choice = |version: &str, because| Some(Choice { version: version.to_owned(), because });
    if let Some(version) = asked.iter().find(|version| is_served(version) && is_stored(version)) {
        return choice(version, Because::Asked);
    }
    let preferred = served.iter().find(|resource| resource.preferred);
    if let Some(resource) = preferred.filter(|resource| is_stored(&resource.version)) {
        return choice(&resource.version, Because::TargetPrefers);
    }
    if is_served(&stored.preferred) && is_stored(&stored.preferred) {
        return choice(&stored.preferred, Because::SourcePreferred);
    }
    let common = stored.versions.iter().filter(|version| is_served(version));
    let best = common.max_by_key(|version| stability(version))?;
    choice(best, Because::Common)
}

fn unrestorable(stored: &Stored, target: &Discovery) -> Unrestorable {
    let served = target.versions(&stored.kind);
    let moved_to = successor(&stored.kind).filter(|kind| !target.versions(kind).is_empty());
    Unrestorable {
        kind: stored.kind.clone(),
        stored: stored.versions.clone(),
        served: served.iter().map(|resource| resource.version.clone()).collect(),
        moved_to,
    }
}

/// Where a kind went when its group was dropped.
fn successor(kind: &GroupKind) -> Option<GroupKind> {
    let group = match kind.as_pair() {
        ("extensions", "Deployment" | "DaemonSet" | "ReplicaSet") => "apps",
        ("extensions", "Ingress" | "NetworkPolicy") => "networking.k8s.io",
        ("", "Event") => "events.k8s.io",
        ("", "Endpoints") => return Some(GroupKind::new("discovery.k8s.io", "EndpointSlice")),
        _ => return None,
    };
    Some(GroupKind::new(group, &*kind.kind))
}

/// How stable a version is: `v2` > `v1` > `v1beta2` > `v1beta1` > `v1alpha1` > anything else.
pub fn stability(version: &str) -> impl Ord + use<> {
    let parsed = version.strip_prefix('v').and_then(|rest| {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (major, rest) = rest.split_at(digits);
        let major: u32 = major.parse().ok()?;
        let (level, minor) = match rest {
            "" => (3, "0"),
            _ if rest.starts_with("beta") => (2, &rest[4..]),
            _ if rest.starts_with("alpha") => (1, &rest[5..]),
            _ => return None,
        };
        Some((level, major, minor.parse::<u32>().ok()?))
    });
    // Names that say nothing of stability are compared as Kubernetes does: a before b.
    (parsed.unwrap_or((0, 0, 0)), Reverse(version.to_owned()))
}

/// What a CRD will serve: none for what is no CRD.
pub fn served_by(crd: &Value) -> Vec<Resource> {
    let group = text(crd, "/spec/group");
    let names = |field: &str| text(crd, &format!("/spec/names/{field}")).to_owned();
    let short_names = items(crd, "/spec/names/shortNames").iter().filter_map(Value::as_str);
    let short_names: Vec<String> = short_names.map(str::to_owned).collect();
    let mut served: Vec<Resource> = items(crd, "/spec/versions")
        .iter()
        .filter(|version| is_true(version, "/served"))
        .map(|version| Resource {
            group: group.to_owned(),
            version: text(version, "/name").to_owned(),
            kind: names("kind"),
            plural: names("plural"),
            singular: names("singular"),
            short_names: short_names.clone(),
            namespaced: text(crd, "/spec/scope") == "Namespaced",
            preferred: false,
            has_status_subresource: version.pointer("/subresources/status").is_some(),
        })
        .collect();
    let best = served.iter_mut().max_by_key(|resource| stability(&resource.version));
    if let Some(best) = best {
        best.preferred = true;
    }
    served
}

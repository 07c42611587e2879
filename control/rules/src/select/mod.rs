//! Which objects are part of a backup, or of a restore, and why.
//!
//! Filters are the words of a Velero user: namespaces and kinds included and excluded, where an
//! exclusion always wins; label selectors; labels that keep an object out. [`Selector::judge`] looks
//! at one object. [`Closure`] then adds what the chosen ones cannot do without: it keeps keys and
//! references only, so that the objects themselves need not be in memory.

mod closure;
mod labels;

use std::collections::BTreeSet;
use std::fmt;

use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

pub use closure::{Closure, Decision};
pub use labels::{LabelSelector, Operator, Requirement};

use crate::graph::Relation;
use crate::kinds::Discovery;
use crate::object::{
    GroupKind, Key, annotation, group_kind, is_terminating, label, labels, name, namespace,
};

/// Labels that keep an object out when they are exactly `true`.
pub const EXCLUDE_LABELS: [&str; 2] =
    ["salvor.dev/exclude-from-backup", "velero.io/exclude-from-backup"];

/// Annotations that keep an object out when they are exactly `true`.
pub const EXCLUDE_ANNOTATIONS: [&str; 2] =
    ["salvor.dev/exclude-from-backup", "velero.io/skip-from-backup"];

/// What a user asked for. Empty lists include everything.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Selection {
    /// Namespaces, or globs of them: `* ? [abc] {a,b}`.
    pub included_namespaces: Vec<String>,
    /// Likewise; wins.
    pub excluded_namespaces: Vec<String>,
    /// Kinds: `deployments.apps`, `deploy`, `*`. Not together with the scoped lists.
    pub included_resources: Vec<String>,
    /// Likewise; wins.
    pub excluded_resources: Vec<String>,
    /// Kinds without a namespace.
    pub included_cluster_scoped_resources: Vec<String>,
    /// Likewise; wins.
    pub excluded_cluster_scoped_resources: Vec<String>,
    /// Kinds with a namespace.
    pub included_namespace_scoped_resources: Vec<String>,
    /// Likewise; wins.
    pub excluded_namespace_scoped_resources: Vec<String>,
    /// Kinds without a namespace: all, none, or (unset) those that a chosen object needs, and all if
    /// all namespaces are chosen.
    pub include_cluster_resources: Option<bool>,
    /// What an object's labels must be.
    pub label_selector: Option<LabelSelector>,
    /// One of these must match. Not together with `label_selector`.
    pub or_label_selectors: Vec<LabelSelector>,
}

/// What is wrong with a selection.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Problem {
    /// A namespace pattern that is none.
    #[error("namespace pattern {pattern:?}: {reason}; use * ? [abc] {{a,b}}")]
    Pattern {
        /// As written.
        pattern: String,
        /// What is wrong.
        reason: String,
    },
    /// A kind that the cluster does not have.
    #[error("{list}: the cluster has no kind called {name:?}; see `kubectl api-resources`")]
    UnknownKind {
        /// The field.
        list: &'static str,
        /// As written.
        name: String,
    },
    /// A kind in the list of the other scope.
    #[error("{list}: {name} is of the other scope; move it to the other list")]
    WrongScope {
        /// The field.
        list: &'static str,
        /// As written.
        name: String,
    },
    /// Two ways to say the same.
    #[error("{first} and {second} cannot be combined; keep one of them")]
    Conflict {
        /// One field.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// A label selector that cannot be.
    #[error("label selector: {0}")]
    Labels(String),
}

/// Why an object is in, or out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// In: the selection asks for it.
    Selected,
    /// In: it is the namespace of a chosen object.
    NamespaceOf,
    /// In: a chosen object needs it, or it serves one.
    Related {
        /// The chosen object.
        by: Key,
        /// What is between them, read from the one that names the other.
        relation: Relation,
    },
    /// Out: its namespace is excluded by this pattern.
    NamespaceExcluded(String),
    /// Out: its namespace is not among those included.
    NamespaceNotIncluded,
    /// Out: its kind is excluded by this name.
    KindExcluded(String),
    /// Out: its kind is not among those included.
    KindNotIncluded,
    /// Out: `includeClusterResources: false`.
    ClusterScopeOff,
    /// Out: no chosen object needs it.
    ClusterScopeNotNeeded,
    /// Out: its labels are not those asked for.
    LabelsDiffer,
    /// Out: this label or annotation says so.
    Marked(String),
    /// Out: it is being deleted.
    Terminating,
    /// Out: another kind shows the same object.
    SameAs(GroupKind),
}

impl Reason {
    /// Whether the object is part of it.
    pub const fn is_in(&self) -> bool {
        matches!(self, Self::Selected | Self::NamespaceOf | Self::Related { .. })
    }

    /// Whether an object that is out for this reason comes in again when a chosen one needs it in
    /// this way. Without its CRD a custom resource is nothing, so that a list of kinds means both.
    const fn yields_to(&self, relation: Relation) -> bool {
        match self {
            Self::LabelsDiffer | Self::ClusterScopeNotNeeded => true,
            Self::KindNotIncluded => matches!(relation, Relation::Definition),
            _ => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Selected => f.write_str("the selection asks for it"),
            Self::NamespaceOf => f.write_str("it is the namespace of chosen objects"),
            Self::Related { by, relation } => write!(f, "related to {by} ({relation})"),
            Self::NamespaceExcluded(pattern) => write!(f, "its namespace is excluded by {pattern}"),
            Self::NamespaceNotIncluded => f.write_str("its namespace is not included"),
            Self::KindExcluded(name) => write!(f, "its kind is excluded by {name}"),
            Self::KindNotIncluded => f.write_str("its kind is not included"),
            Self::ClusterScopeOff => {
                f.write_str("it has no namespace, and includeClusterResources is false")
            }
            Self::ClusterScopeNotNeeded => {
                f.write_str("it has no namespace, and no chosen object needs it")
            }
            Self::LabelsDiffer => f.write_str("its labels do not match the selector"),
            Self::Marked(mark) => write!(f, "it carries {mark}: \"true\""),
            Self::Terminating => f.write_str("it is being deleted"),
            Self::SameAs(kind) => write!(f, "it is taken as {kind}"),
        }
    }
}

/// A selection ready to judge objects.
#[derive(Debug, Clone)]
pub struct Selector {
    included: Patterns,
    excluded: Patterns,
    namespaced: KindFilter,
    cluster: KindFilter,
    cluster_scope: Option<bool>,
    labels: Vec<LabelSelector>,
    all_namespaces: bool,
    names_cluster_kinds: bool,
    events_elsewhere: bool,
}

/// Kinds included and excluded in one scope.
#[derive(Debug, Clone, Default)]
struct KindFilter {
    /// `None`: all of them.
    included: Option<BTreeSet<GroupKind>>,
    excluded: Vec<(GroupKind, String)>,
    excludes_all: bool,
}

impl Selector {
    /// Reads a selection against what the cluster serves.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it, not just the first.
    pub fn new(selection: &Selection, discovery: &Discovery) -> Result<Self, Vec<Problem>> {
        let mut problems = conflicts(selection);
        let included = Patterns::new(&selection.included_namespaces, &mut problems);
        let excluded = Patterns::new(&selection.excluded_namespaces, &mut problems);
        let (namespaced, cluster) = kind_filters(selection, discovery, &mut problems);
        let mut labels = selection.or_label_selectors.clone();
        labels.extend(selection.label_selector.clone());
        labels.retain(|selector| !selector.is_empty());
        for selector in &labels {
            problems.extend(selector.problems().into_iter().map(Problem::Labels));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let all_namespaces = (included.is_empty() || included.has_star()) && excluded.is_empty();
        let events = GroupKind::new("events.k8s.io", "Event");
        let events_elsewhere = !discovery.versions(&events).is_empty();
        let cluster_scope = selection.include_cluster_resources;
        let names_cluster_kinds = !selection.included_cluster_scoped_resources.is_empty();
        Ok(Self {
            included,
            excluded,
            namespaced,
            cluster,
            cluster_scope,
            labels,
            all_namespaces,
            names_cluster_kinds,
            events_elsewhere,
        })
    }

    /// Judges one object by itself.
    pub fn judge(&self, object: &Value) -> Reason {
        if is_terminating(object) {
            return Reason::Terminating;
        }
        if let Some(mark) = mark(object) {
            return Reason::Marked(mark);
        }
        let (group, kind) = group_kind(object);
        let namespace = namespace(object);
        if self.events_elsewhere && (group, kind) == ("", "Event") {
            return Reason::SameAs(GroupKind::new("events.k8s.io", "Event"));
        }
        if (group, kind) == ("", "Namespace") {
            return self.judge_namespace(name(object), object);
        }
        let kind = GroupKind::new(group, kind);
        let wanted = if namespace.is_empty() {
            self.judge_cluster_scoped(&kind)
        } else {
            self.judge_namespaced(&kind, namespace)
        };
        match wanted {
            Reason::Selected if !self.matches_labels(object) => Reason::LabelsDiffer,
            other => other,
        }
    }

    /// Whether objects of a namespace may be in it at all: what need not be listed.
    pub fn takes_namespace(&self, namespace: &str) -> bool {
        self.reason_of_namespace(namespace).is_none()
    }

    /// Whether objects of a kind may be in it at all, be it as what others need.
    pub fn takes_kind(&self, kind: &GroupKind, is_namespaced: bool) -> bool {
        if is_namespaced {
            return self.namespaced.judge(kind).is_none();
        }
        self.cluster_scope != Some(false) && self.cluster.judge(kind).is_none()
    }

    fn judge_namespace(&self, name: &str, object: &Value) -> Reason {
        if let Some(reason) = self.reason_of_namespace(name) {
            return reason;
        }
        let kind = GroupKind::new("", "Namespace");
        if let Some(reason @ Reason::KindExcluded(_)) = self.cluster.judge(&kind) {
            return reason;
        }
        if self.matches_labels(object) { Reason::Selected } else { Reason::NamespaceOf }
    }

    fn judge_namespaced(&self, kind: &GroupKind, namespace: &str) -> Reason {
        self.reason_of_namespace(namespace)
            .or_else(|| self.namespaced.judge(kind))
            .unwrap_or(Reason::Selected)
    }

    fn judge_cluster_scoped(&self, kind: &GroupKind) -> Reason {
        if self.cluster_scope == Some(false) {
            return Reason::ClusterScopeOff;
        }
        if let Some(reason) = self.cluster.judge(kind) {
            return reason;
        }
        let is_asked_for = self.all_namespaces || self.names_cluster_kinds;
        if self.cluster_scope == Some(true) || is_asked_for {
            Reason::Selected
        } else {
            Reason::ClusterScopeNotNeeded
        }
    }

    fn reason_of_namespace(&self, namespace: &str) -> Option<Reason> {
        if let Some(pattern) = self.excluded.find(namespace) {
            return Some(Reason::NamespaceExcluded(pattern.to_owned()));
        }
        let is_in = self.included.is_empty() || self.included.find(namespace).is_some();
        (!is_in).then_some(Reason::NamespaceNotIncluded)
    }

    fn matches_labels(&self, object: &Value) -> bool {
        let labels = labels(object);
        self.labels.is_empty() || self.labels.iter().any(|selector| selector.matches(labels))
    }
}

impl KindFilter {
    fn judge(&self, kind: &GroupKind) -> Option<Reason> {
        if self.excludes_all {
            return Some(Reason::KindExcluded("*".to_owned()));
        }
        if let Some((_, name)) = self.excluded.iter().find(|(excluded, _)| excluded == kind) {
            return Some(Reason::KindExcluded(name.clone()));
        }
        let is_in = self.included.as_ref().is_none_or(|included| included.contains(kind));
        (!is_in).then_some(Reason::KindNotIncluded)
    }
}

fn mark(object: &Value) -> Option<String> {
    let label = EXCLUDE_LABELS.iter().find(|mark| label(object, mark) == Some("true"));
    let found = label.or_else(|| {
        EXCLUDE_ANNOTATIONS.iter().find(|mark| annotation(object, mark) == Some("true"))
    });
    found.map(|mark| (*mark).to_owned())
}

/// Fields that cannot be used together.
fn conflicts(selection: &Selection) -> Vec<Problem> {
    let unscoped = [
        ("includedResources", !selection.included_resources.is_empty()),
        ("excludedResources", !selection.excluded_resources.is_empty()),
        ("includeClusterResources", selection.include_cluster_resources.is_some()),
    ];
    let scoped = [
        ("includedClusterScopedResources", &selection.included_cluster_scoped_resources),
        ("excludedClusterScopedResources", &selection.excluded_cluster_scoped_resources),
        ("includedNamespaceScopedResources", &selection.included_namespace_scoped_resources),
        ("excludedNamespaceScopedResources", &selection.excluded_namespace_scoped_resources),
    ];
    let first = unscoped.iter().find(|(_, is_set)| *is_set);
    let second = scoped.iter().find(|(_, list)| !list.is_empty());
    let mut problems = Vec::new();
    if let (Some((first, _)), Some((second, _))) = (first, second) {
        problems.push(Problem::Conflict { first, second });
    }
    if selection.label_selector.is_some() && !selection.or_label_selectors.is_empty() {
        problems.push(Problem::Conflict { first: "labelSelector", second: "orLabelSelectors" });
    }
    problems
}

/// The filters of namespaced and of cluster-scoped kinds.
fn kind_filters(
    selection: &Selection,
    discovery: &Discovery,
    problems: &mut Vec<Problem>,
) -> (KindFilter, KindFilter) {
    let mut read = |list: &'static str, names: &[String], scope: Option<bool>| {
        kinds_of(list, names, scope, discovery, problems)
    };
    let included = read("includedResources", &selection.included_resources, None);
    let excluded = read("excludedResources", &selection.excluded_resources, None);
    let is_namespaced = |kind: &GroupKind| discovery.is_namespaced(kind).unwrap_or(true);
    let part = |list: &[(GroupKind, String)], wanted: bool| -> Vec<(GroupKind, String)> {
        list.iter().filter(|(kind, _)| is_namespaced(kind) == wanted).cloned().collect()
    };
    let filter = |scope: bool, scoped_in: Kinds, scoped_out: Kinds| {
        let mut names = scoped_in.found;
        names.extend(part(&included.found, scope));
        let is_limited = (scoped_in.is_given && !scoped_in.has_star)
            || (included.is_given && !included.has_star);
        let kinds = names.into_iter().map(|(kind, _)| kind).collect();
        let mut excluded_names = part(&excluded.found, scope);
        excluded_names.extend(scoped_out.found);
        KindFilter {
            included: is_limited.then_some(kinds),
            excluded: excluded_names,
            excludes_all: scoped_out.has_star,
        }
    };
    let namespaced_in = read(
        "includedNamespaceScopedResources",
        &selection.included_namespace_scoped_resources,
        Some(true),
    );
    let namespaced_out = read(
        "excludedNamespaceScopedResources",
        &selection.excluded_namespace_scoped_resources,
        Some(true),
    );
    let cluster_in = read(
        "includedClusterScopedResources",
        &selection.included_cluster_scoped_resources,
        Some(false),
    );
    let cluster_out = read(
        "excludedClusterScopedResources",
        &selection.excluded_cluster_scoped_resources,
        Some(false),
    );
    (filter(true, namespaced_in, namespaced_out), filter(false, cluster_in, cluster_out))
}

/// A list of kinds, read.
#[derive(Debug, Default)]
struct Kinds {
    found: Vec<(GroupKind, String)>,
    has_star: bool,
    is_given: bool,
}

fn kinds_of(
    list: &'static str,
    names: &[String],
    scope: Option<bool>,
    discovery: &Discovery,
    problems: &mut Vec<Problem>,
) -> Kinds {
    let mut kinds = Kinds { is_given: !names.is_empty(), ..Kinds::default() };
    for name in names {
        if name == "*" {
            kinds.has_star = true;
            continue;
        }
        let found = discovery.kinds(name);
        if found.is_empty() {
            problems.push(Problem::UnknownKind { list, name: name.clone() });
        }
        for kind in found {
            if scope.is_some() && discovery.is_namespaced(&kind) != scope {
                problems.push(Problem::WrongScope { list, name: name.clone() });
            } else {
                kinds.found.push((kind, name.clone()));
            }
        }
    }
    kinds
}

/// Globs of namespaces.
#[derive(Debug, Clone, Default)]
struct Patterns(Vec<(String, GlobMatcher)>);

impl Patterns {
    fn new(patterns: &[String], problems: &mut Vec<Problem>) -> Self {
        let mut read = Vec::with_capacity(patterns.len());
        for pattern in patterns {
            match compile(pattern) {
                Ok(matcher) => read.push((pattern.clone(), matcher)),
                Err(reason) => {
                    problems.push(Problem::Pattern { pattern: pattern.clone(), reason });
                }
            }
        }
        Self(read)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn has_star(&self) -> bool {
        self.0.iter().any(|(pattern, _)| pattern == "*")
    }

    fn find(&self, namespace: &str) -> Option<&str> {
        let found = self.0.iter().find(|(_, matcher)| matcher.is_match(namespace));
        found.map(|(pattern, _)| pattern.as_str())
    }
}

/// What is neither a glob nor part of a name is refused: a regular expression that is silently read
/// as a glob chooses the wrong namespaces.
fn compile(pattern: &str) -> Result<GlobMatcher, String> {
    if pattern.is_empty() {
        return Err("it is empty".to_owned());
    }
    if pattern.contains("**") {
        return Err("** says no more than *".to_owned());
    }
    let is_known =
        |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-*?[]{},!".contains(c);
    if let Some(odd) = pattern.chars().find(|c| !is_known(*c)) {
        return Err(format!("{odd:?} can be in no namespace's name"));
    }
    let glob = GlobBuilder::new(pattern).backslash_escape(false).build();
    glob.map(|glob| glob.compile_matcher()).map_err(|error| error.kind().to_string())
}

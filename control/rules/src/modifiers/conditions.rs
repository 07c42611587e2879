//! When a rule applies to an object.

use regex::Regex;
use serde_json::Value;

use super::Subject;
use super::expression::{Expression, ExpressionError};
use super::patch;
use crate::glob::Glob;
use crate::selector::Selector;

/// The conditions of one rule; all must hold.
#[derive(Debug)]
pub(super) struct Conditions {
    pub(super) group_resource: Glob,
    /// None: any namespace.
    pub(super) namespaces: Vec<Glob>,
    pub(super) name: Option<Regex>,
    pub(super) labels: Selector,
    pub(super) matches: Vec<Match>,
    pub(super) cel: Option<Expression>,
}

/// A value that must stand at a place. A place that is missing holds `null` only.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Match {
    pub(super) path: String,
    pub(super) value: Value,
}

impl Conditions {
    /// The cheap ones first, so that an expression runs on few objects.
    pub(super) fn hold(&self, subject: Subject<'_>) -> Result<bool, ExpressionError> {
        let metadata = subject.object.get("metadata");
        let name = metadata.and_then(|metadata| metadata.get("name")?.as_str()).unwrap_or_default();
        let labels = metadata.and_then(|metadata| metadata.get("labels"));
        let in_namespace = subject.namespace.is_empty()
            || self.namespaces.is_empty()
            || self.namespaces.iter().any(|glob| glob.matches(subject.namespace));
        let holds = in_namespace
            && self.group_resource.matches(subject.group_resource)
            && self.name.as_ref().is_none_or(|regex| regex.is_match(name))
            && self.labels.matches(labels)
            && self.matches.iter().all(|m| patch::holds(subject.object, &m.path, &m.value));
        match &self.cel {
            Some(expression) if holds => expression.holds(subject),
            _ => Ok(holds),
        }
    }
}

//! Reading fields so that none is forgotten.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::{Fate, Note};
use crate::yaml::{Kind, Node};

/// The notes on one object.
pub(super) struct Notes<'m> {
    notes: &'m mut Vec<Note>,
    object: String,
}

impl<'m> Notes<'m> {
    pub(super) const fn new(notes: &'m mut Vec<Note>, object: String) -> Self {
        Self { notes, object }
    }

    pub(super) fn add(&mut self, fate: Fate, field: &str, line: u64, message: impl Into<String>) {
        let (object, field, message) = (self.object.clone(), field.to_owned(), message.into());
        self.notes.push(Note { fate, object, field, line, message });
    }

    pub(super) fn whole(&mut self, fate: Fate, line: u64, message: impl Into<String>) {
        self.add(fate, "", line, message);
    }
}

/// The fields of a mapping; whatever nobody takes is reported.
pub(super) struct Fields<'n> {
    path: String,
    line: u64,
    entries: Vec<(&'n str, &'n Node)>,
    taken: BTreeSet<String>,
}

impl<'n> Fields<'n> {
    pub(super) fn new(node: &'n Node, path: &str) -> Self {
        let entries = match &node.kind {
            Kind::Map(fields) => fields.iter().map(|(key, value)| (key.as_str(), value)).collect(),
            _ => Vec::new(),
        };
        Self { path: path.to_owned(), line: node.line, entries, taken: BTreeSet::new() }
    }

    pub(super) const fn line(&self) -> u64 {
        self.line
    }

    pub(super) fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// A field that says something.
    pub(super) fn take(&mut self, name: &str) -> Option<&'n Node> {
        self.taken.insert(name.to_owned());
        let (_, node) = self.entries.iter().find(|(key, _)| *key == name)?;
        Some(*node).filter(|node| node.kind != Kind::Null)
    }

    pub(super) fn ignore(&mut self, names: &[&str]) {
        self.taken.extend(names.iter().map(|name| (*name).to_owned()));
    }

    pub(super) fn map(&mut self, name: &str) -> Option<Fields<'n>> {
        let path = self.path(name);
        self.take(name).map(|node| Fields::new(node, &path))
    }

    pub(super) fn list(&mut self, name: &str) -> &'n [Node] {
        match self.take(name).map(|node| &node.kind) {
            Some(Kind::List(items)) => items,
            _ => &[],
        }
    }

    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        match &self.take(name)?.kind {
            Kind::Text(text) => Some(text.clone()).filter(|text| !text.is_empty()),
            Kind::Number(number) => Some(number.to_string()),
            Kind::Bool(truth) => Some(truth.to_string()),
            _ => None,
        }
    }

    pub(super) fn truth(&mut self, name: &str) -> Option<bool> {
        match &self.take(name)?.kind {
            Kind::Bool(truth) => Some(*truth),
            Kind::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    pub(super) fn texts(&mut self, name: &str) -> Vec<String> {
        self.list(name)
            .iter()
            .filter_map(|item| item.to_value().as_str().map(str::to_owned))
            .collect()
    }

    pub(super) fn value(&mut self, name: &str) -> Option<Value> {
        self.take(name).map(Node::to_value)
    }

    /// A length of time in Go's form that our schema takes too. Zero is none.
    pub(super) fn span(&mut self, name: &str, notes: &mut Notes<'_>) -> Option<String> {
        let text = self.text(name)?;
        let span = text.parse::<jiff::SignedDuration>().ok();
        match span.and_then(|span| Duration::try_from(span).ok()) {
            Some(span) if span.is_zero() => None,
            Some(_) => Some(text),
            None => {
                let message = format!("{text:?} is no length of time; write 30s or 720h");
                notes.add(Fate::ToDo, &self.path(name), self.line_of(name), message);
                None
            }
        }
    }

    pub(super) fn line_of(&self, name: &str) -> u64 {
        let field = self.entries.iter().find(|(key, _)| *key == name);
        field.map_or(self.line, |(_, node)| node.line)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|(key, node)| *key == name && node.kind != Kind::Null)
    }

    /// Takes a field that has no equivalent, and says why.
    pub(super) fn drop(&mut self, name: &str, why: &str, notes: &mut Notes<'_>) {
        if let Some(node) = self.take(name) {
            notes.add(Fate::Dropped, &self.path(name), node.line, why);
        }
    }

    /// Reports what nobody took.
    pub(super) fn finish(self, notes: &mut Notes<'_>) {
        for (name, node) in &self.entries {
            let is_empty = match &node.kind {
                Kind::Null => true,
                Kind::Text(text) => text.is_empty(),
                Kind::List(items) => items.is_empty(),
                Kind::Map(fields) => fields.is_empty(),
                _ => false,
            };
            if !self.taken.contains(*name) && !is_empty {
                let message = "is not a field that is known here";
                notes.add(Fate::Dropped, &self.path(name), node.line, message);
            }
        }
    }
}

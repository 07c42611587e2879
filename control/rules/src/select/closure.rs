//! What chosen objects bring with them.

use std::collections::HashMap;

use serde_json::Value;

use super::{Reason, Selector};
use crate::graph::{Relation, claim_prefixes, references};
use crate::kinds::Discovery;
use crate::object::Key;

/// Whether an object is part of it, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The object.
    pub key: Key,
    /// Why it is in or out.
    pub reason: Reason,
}

/// Collects objects one by one, and decides once all are known. It holds what names them and what
/// they refer to.
#[derive(Debug)]
pub struct Closure<'a> {
    selector: &'a Selector,
    discovery: &'a Discovery,
    decisions: Vec<Decision>,
    index: HashMap<Key, usize>,
    references: Vec<(usize, Relation, Key)>,
    claims: Vec<(usize, String, String)>,
}

impl<'a> Closure<'a> {
    /// Of objects that `selector` judges.
    pub fn new(selector: &'a Selector, discovery: &'a Discovery) -> Self {
        Self {
            selector,
            discovery,
            decisions: Vec::new(),
            index: HashMap::new(),
            references: Vec::new(),
            claims: Vec::new(),
        }
    }

    /// Adds an object.
    pub fn add(&mut self, object: &Value) {
        let key = Key::of(object);
        let number = self.decisions.len();
        let reason = self.selector.judge(object);
        for reference in references(object, self.discovery) {
            self.references.push((number, reference.relation, reference.to));
        }
        for prefix in claim_prefixes(object) {
            self.claims.push((number, key.namespace.clone(), prefix));
        }
        self.index.insert(key.clone(), number);
        self.decisions.push(Decision { key, reason });
    }

    /// Decides, in the order the objects came.
    pub fn decide(mut self) -> Vec<Decision> {
        let edges = self.edges();
        let mut waiting: Vec<usize> = Vec::new();
        for (number, decision) in self.decisions.iter().enumerate() {
            if decision.reason == Reason::Selected {
                waiting.push(number);
            }
        }
        while let Some(number) = waiting.pop() {
            for (other, relation) in &edges[number] {
                if self.decisions[*other].reason.yields_to(*relation) {
                    let by = self.decisions[number].key.clone();
                    self.decisions[*other].reason = Reason::Related { by, relation: *relation };
                    waiting.push(*other);
                }
            }
        }
        self.decisions
    }

    /// What each object brings along. What it needs always; what names it, if that serves it (a
    /// binding, a scaler), and what it owns, because a workload is a unit.
    fn edges(&self) -> Vec<Vec<(usize, Relation)>> {
        let mut edges = vec![Vec::new(); self.decisions.len()];
        for (from, relation, to) in &self.references {
            let Some(to) = self.index.get(to) else { continue };
            if *relation != Relation::Serves {
                edges[*from].push((*to, *relation));
            }
            if matches!(relation, Relation::Serves | Relation::Owner) {
                edges[*to].push((*from, *relation));
            }
        }
        let claims: Vec<(usize, &Key)> = self
            .decisions
            .iter()
            .enumerate()
            .filter(|(_, decision)| decision.key.kind.as_pair() == ("", "PersistentVolumeClaim"))
            .map(|(number, decision)| (number, &decision.key))
            .collect();
        let mut by_namespace: HashMap<&str, Vec<(usize, &str)>> = HashMap::new();
        for (number, key) in claims {
            by_namespace.entry(&key.namespace).or_default().push((number, &key.name));
        }
        for (owner, namespace, prefix) in &self.claims {
            for (claim, name) in by_namespace.get(namespace.as_str()).into_iter().flatten() {
                let ordinal = name.strip_prefix(prefix.as_str()).unwrap_or_default();
                if !ordinal.is_empty() && ordinal.bytes().all(|byte| byte.is_ascii_digit()) {
                    edges[*owner].push((*claim, Relation::Uses));
                }
            }
        }
        edges
    }
}

//! Owner references: UIDs are new in the target.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::{ANY, Action, Job, Rule};
use crate::object::{controller, items, text, uid};

/// The rule of owners that cannot be found.
pub(super) const UNRESOLVED: &str = "owner.unresolved";

pub(super) static RULES: &[Rule] = &[
    Rule {
        id: "owner.relink",
        what: "references to owners get the owners' new UIDs",
        of: ANY,
        run: relink,
    },
    Rule {
        id: "owner.pending",
        what: "owners that are restored later are set once they exist",
        of: ANY,
        run: set_aside,
    },
    Rule {
        id: UNRESOLVED,
        what: "a reference to an owner that does not exist would have the object deleted",
        of: ANY,
        run: drop_unresolved,
    },
];

/// What becomes of an owner.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum OwnerFate {
    /// It exists in the target, with this UID.
    Exists(String),
    /// It is restored later in the same run.
    Planned,
    /// It is not restored: its own controller makes one like it, with a UID nobody knows yet.
    Remade,
    /// It is neither restored nor on the target.
    #[default]
    Absent,
}

impl OwnerFate {
    /// Whether there will be one that makes what it controls.
    pub const fn makes_dependents(&self) -> bool {
        !matches!(self, Self::Absent)
    }
}

/// What becomes of owners, by their UID in the old cluster.
#[derive(Debug, Clone, Default)]
pub struct Owners {
    fates: HashMap<String, OwnerFate>,
    new: HashSet<String>,
}

impl Owners {
    /// Plans for all `objects` of a restore: owners among them are restored, or are made again by
    /// their own controllers where those are restored.
    pub fn planned<'a>(objects: impl IntoIterator<Item = &'a Value>) -> Self {
        let mut owners = Self::default();
        let mut remade: Vec<(String, String)> = Vec::new();
        for object in objects {
            let own = uid(object);
            if own.is_empty() {
                continue;
            }
            owners.fates.insert(own.to_owned(), OwnerFate::Planned);
            let is_made = matches!(
                crate::object::group_kind(object),
                ("", "Pod") | ("apps", "ReplicaSet") | ("kubevirt.io", "VirtualMachineInstance")
            );
            if let Some(owner) = controller(object).filter(|_| is_made) {
                remade.push((own.to_owned(), owner.uid.to_owned()));
            }
        }
        for (own, by) in remade {
            if owners.fates.contains_key(&by) {
                owners.fates.insert(own, OwnerFate::Remade);
            }
        }
        owners
    }

    /// An owner exists in the target.
    pub fn found(&mut self, old: impl Into<String>, new: impl Into<String>) {
        let new = new.into();
        self.new.insert(new.clone());
        self.fates.insert(old.into(), OwnerFate::Exists(new));
    }

    /// An owner is not restored after all, because its creation failed or it was left out.
    pub fn lost(&mut self, old: &str) {
        self.fates.remove(old);
    }

    /// What becomes of the owner with this UID.
    pub fn fate(&self, uid: &str) -> OwnerFate {
        match self.fates.get(uid) {
            Some(fate) => fate.clone(),
            None if self.new.contains(uid) => OwnerFate::Exists(uid.to_owned()),
            None => OwnerFate::Absent,
        }
    }
}

fn relink(job: &mut Job<'_>) {
    for number in 0..items(job.object, "/metadata/ownerReferences").len() {
        let place = format!("/metadata/ownerReferences/{number}");
        let old = text(job.object, &format!("{place}/uid")).to_owned();
        if let OwnerFate::Exists(new) = job.facts.owners.fate(&old) {
            job.set(&place, "uid", Value::from(new));
        }
    }
}

fn set_aside(job: &mut Job<'_>) {
    let facts = job.facts;
    let is_planned = |owner: &Value| facts.owners.fate(text(owner, "/uid")) == OwnerFate::Planned;
    let pending: Vec<Value> = items(job.object, "/metadata/ownerReferences")
        .iter()
        .filter(|owner| is_planned(owner))
        .cloned()
        .collect();
    job.retain("/metadata/ownerReferences", |owner| !is_planned(owner));
    job.out.pending_owners.extend(pending);
}

fn drop_unresolved(job: &mut Job<'_>) {
    let facts = job.facts;
    job.retain("/metadata/ownerReferences", |owner| {
        matches!(facts.owners.fate(text(owner, "/uid")), OwnerFate::Exists(_))
    });
    let is_empty = job.object.pointer("/metadata/ownerReferences") == Some(&Value::Array(vec![]));
    if is_empty {
        crate::path::remove(job.object, "/metadata/ownerReferences");
        job.record("/metadata/ownerReferences", Action::Removed);
    }
}

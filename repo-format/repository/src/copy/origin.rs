//! Where a copied snapshot came from, and which snapshots of two repositories are the same.
//!
//! A copy carries a tag for each repository that it came through, so that a second copy of the same
//! snapshot is recognised whichever way it takes: straight, over a third repository, or back.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;

use repo_format::error::FormatError;
use repo_format::id::{ClusterId, RepositoryId, SnapshotId};
use repo_format::limits::TAGS_MAX;
use repo_format::snapshot::Snapshot;

use crate::RepositoryError;
use crate::view::View;

/// Key of the tag that says where a snapshot was copied from.
pub const ORIGIN_TAG: &str = "copied-from";

/// A snapshot of some repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The repository.
    pub repository: RepositoryId,
    /// Its snapshot.
    pub snapshot: SnapshotId,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.repository, self.snapshot)
    }
}

impl FromStr for Origin {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let (repository, snapshot) = text.split_once('/').ok_or(FormatError::BadName)?;
        Ok(Self { repository: repository.parse()?, snapshot: snapshot.parse()? })
    }
}

/// The snapshots that `snapshot` is a copy of.
pub fn origins(snapshot: &Snapshot) -> impl Iterator<Item = Origin> + '_ {
    let values = snapshot.tags.iter().filter(|(key, _)| key == ORIGIN_TAG);
    values.filter_map(|(_, value)| value.parse().ok())
}

/// The tags of a copy of `snapshot`, which is in `repository`: its own and one for where it came
/// from. Of a snapshot with as many tags as there may be, the last one gives way.
pub(super) fn tags_of_copy(
    snapshot: &Snapshot,
    repository: &RepositoryId,
) -> Vec<(String, String)> {
    let room = usize::try_from(TAGS_MAX).unwrap_or(usize::MAX).saturating_sub(1);
    let origin = Origin { repository: *repository, snapshot: snapshot.id };
    let mut tags: Vec<_> = snapshot.tags.iter().take(room).cloned().collect();
    tags.push((ORIGIN_TAG.to_owned(), origin.to_string()));
    tags.sort();
    tags
}

/// Which snapshots of one repository are also in another: the same content under the other's ids.
#[derive(Debug, Clone, Default)]
pub struct Counterparts(BTreeMap<SnapshotId, SnapshotId>);

impl Counterparts {
    /// Compares two repositories.
    ///
    /// * `source`, `target`: a repository's id and what it holds; checkpoints do not count.
    pub fn between(source: (&RepositoryId, &View), target: (&RepositoryId, &View)) -> Self {
        let mut by_origin: HashMap<Origin, SnapshotId> = HashMap::new();
        for snapshot in target.1.snapshots() {
            let itself = Origin { repository: *target.0, snapshot: snapshot.id };
            for origin in origins(snapshot).chain([itself]) {
                by_origin.insert(origin, snapshot.id);
            }
        }
        let mut pairs = BTreeMap::new();
        for snapshot in source.1.snapshots() {
            let itself = Origin { repository: *source.0, snapshot: snapshot.id };
            let found = origins(snapshot).chain([itself]).find_map(|origin| by_origin.get(&origin));
            if let Some(found) = found {
                pairs.insert(snapshot.id, *found);
            }
        }
        Self(pairs)
    }

    /// The snapshot of the target that is the same as this one of the source.
    pub fn of(&self, id: &SnapshotId) -> Option<SnapshotId> {
        self.0.get(id).copied()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the two have nothing in common.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Which snapshots to copy.
#[derive(Debug, Clone)]
pub struct Selection {
    /// As a user names them; empty: all of `cluster`.
    pub wanted: Vec<String>,
    /// Only those of this name.
    pub name: Option<String>,
    /// Only those with all these labels.
    pub tags: Vec<(String, String)>,
    /// Whose snapshots, where none is named.
    pub cluster: ClusterId,
}

impl Selection {
    /// The chosen snapshots, oldest first, each once.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::NoSnapshot`], [`RepositoryError::Ambiguous`] for one that is named.
    pub fn choose<'v>(&self, view: &'v View) -> Result<Vec<&'v Snapshot>, RepositoryError> {
        let mut chosen = if self.wanted.is_empty() {
            let mut all = view.snapshots();
            all.retain(|snapshot| snapshot.cluster == self.cluster);
            all
        } else {
            self.wanted
                .iter()
                .map(|wanted| view.find(wanted, self.cluster))
                .collect::<Result<_, _>>()?
        };
        chosen.retain(|snapshot| self.name.as_ref().is_none_or(|name| *name == snapshot.name));
        chosen.retain(|snapshot| self.tags.iter().all(|tag| snapshot.tags.contains(tag)));
        chosen.sort_by_key(|snapshot| (snapshot.started_ns, snapshot.id));
        chosen.dedup_by_key(|snapshot| snapshot.id);
        Ok(chosen)
    }
}

/// A snapshot of the source and the same in the target.
pub(super) type Pair = (Snapshot, Snapshot);

/// The pair whose manifests a copy of `snapshot` has most in common with: its parent, else the
/// nearest in time of the same name.
///
/// * `source`, `target`: what they hold. What the copy takes over from the target's half stays
///   there, since it is in the view that the writer's session was opened for.
pub(super) fn nearest_pair(
    snapshot: &Snapshot,
    source: &View,
    target: &View,
    counterparts: &Counterparts,
) -> Option<Pair> {
    let targets = target.all_snapshots();
    let of = |other: &Snapshot| targets.get(&counterparts.of(&other.id)?).copied().cloned();
    let fits = |other: &&Snapshot| other.name == snapshot.name && other.kind == snapshot.kind;
    source
        .snapshots()
        .into_iter()
        .filter(fits)
        .filter_map(|other| Some((other.clone(), of(other)?)))
        .min_by_key(|(other, _)| {
            let is_parent = snapshot.parent == Some(other.id);
            (!is_parent, other.started_ns.abs_diff(snapshot.started_ns))
        })
}

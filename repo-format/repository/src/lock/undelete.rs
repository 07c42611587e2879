//! Bringing back what somebody deleted or wrote over.
//!
//! Of every name that the newest catalog needs the oldest version is the true one. What is on top
//! of it is removed; where that is locked itself, a copy is put on top.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use repo_format::catalog::PageRef;
use repo_format::id::SessionId;
use repo_format::key::ObjectKey;

use crate::gc::{CATALOGS_KEPT, Watch, transition};
use crate::index::{Index, PackState};
use crate::store::{Store, Version, Versions};
use crate::view::View;
use crate::writer::sync_index;
use crate::{Repository, RepositoryError, catalog};

/// Names that are brought back together.
const BATCH: usize = 500;
/// A row of a folded session stays in the catalog for at least so long.
const FOLDED_KEPT_S: u64 = 24 * 3600;

/// What was brought back.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct UndeleteReport {
    /// Names that were hidden or written over, by folder.
    pub names: BTreeMap<String, u64>,
    /// Bytes of the objects behind them.
    pub bytes: u64,
    /// Of them those of which a copy had to be put on top, because what was there is locked.
    pub copied: u64,
    /// Key slots that are deleted, maybe by their owner, and were left so.
    pub slots_left: u64,
}

impl UndeleteReport {
    /// How many names.
    pub fn count(&self) -> u64 {
        self.names.values().sum()
    }

    /// Adds what another step brought back.
    pub fn add(&mut self, other: &Self) {
        for (folder, count) in &other.names {
            *self.names.entry(folder.clone()).or_default() += count;
        }
        self.bytes += other.bytes;
        self.copied += other.copied;
        self.slots_left += other.slots_left;
    }
}

fn versions_of(store: &dyn Store) -> Result<&dyn Versions, RepositoryError> {
    store.versions().ok_or_else(|| RepositoryError::NoObjectLock { at: store.describe() })
}

/// Brings back what it takes to open a repository: its config, and key slots that were written
/// over.
///
/// * `hidden_slots`: also those that were deleted, by whomever: who removed some of them has to do
///   so again.
///
/// # Errors
///
/// [`RepositoryError::NoObjectLock`] where there are no old versions; the store failed.
pub fn uncover_keys(
    store: &dyn Store,
    hidden_slots: bool,
) -> Result<UndeleteReport, RepositoryError> {
    let mut uncover = Uncover::new(versions_of(store)?);
    uncover.all_of("config", |key, _| *key == ObjectKey::Config)?;
    let mut left = 0;
    uncover.all_of("keys/", |_, group| {
        let is_hidden = group.first().is_some_and(|top| top.is_marker);
        left += u64::from(is_hidden && !hidden_slots);
        hidden_slots || !is_hidden
    })?;
    uncover.report.slots_left = left;
    uncover.finish()
}

/// Brings back everything that the newest catalog and the commits that are not folded into it need:
/// catalogs first, then what they name.
///
/// # Errors
///
/// The store or the index failed. What was brought back until then stays.
pub fn undelete(
    repository: &Arc<Repository>,
    index: &Arc<Index>,
    watch: &dyn Watch,
) -> Result<UndeleteReport, RepositoryError> {
    let store = repository.store();
    let mut uncover = Uncover::new(versions_of(&**store)?);
    watch.step("looking for catalogs");
    let (newest_s, found) = uncover.catalogs()?;
    let (kept, lost) = kept_catalogs(repository)?;
    for n in lost.intersection(&found) {
        // It was deleted because nobody could read it.
        repository.store().delete(&ObjectKey::Catalog(*n))?;
        uncover.take_back("cat");
    }
    let pages: HashSet<ObjectKey> = kept.iter().flat_map(PageRef::keys).collect();
    uncover.all_of("cpg/", |key, _| pages.contains(key))?;
    watch.step("looking for commits");
    uncover.commits(repository, newest_s)?;
    watch.step("looking for index segments");
    let view = View::for_reading(repository)?;
    let segments: HashSet<ObjectKey> =
        view.index_view().segments.iter().map(|segment| ObjectKey::Segment(segment.name)).collect();
    uncover.all_of("x/", |key, _| segments.contains(key))?;
    watch.step("looking for packs");
    sync_index(repository, index, &view)?;
    uncover.packs(index)?;
    let report = uncover.finish()?;
    if report.count() > 0 && view.warnings.is_empty() {
        forget_rounds(repository)?;
    }
    Ok(report)
}

/// The pages of those of the newest catalogs that can be read, and the numbers of those that cannot.
fn kept_catalogs(
    repository: &Repository,
) -> Result<(Vec<PageRef>, BTreeSet<u64>), RepositoryError> {
    let (mut kept, mut lost) = (Vec::new(), BTreeSet::new());
    let mut left = CATALOGS_KEPT;
    for n in crate::recover::catalog_numbers(repository)?.into_iter().rev() {
        match catalog::load_bare(repository, n) {
            Ok(_) if left == 0 => break,
            Ok((catalog, _)) => {
                left -= 1;
                kept.extend(catalog.pages.into_iter().flatten());
            }
            Err(error) if crate::recover::is_lost(&error) => {
                lost.insert(n);
            }
            Err(error) => return Err(error),
        }
    }
    Ok((kept, lost))
}

/// What was brought back was not extended while it was hidden.
fn forget_rounds(repository: &Repository) -> Result<(), RepositoryError> {
    let mut view = View::for_maintenance(repository)?;
    transition(repository, &mut view, |_, draft| {
        draft.edit_lock(|lock| lock.rounds_s.fill(0));
        Ok(())
    })?;
    Ok(())
}

/// A name whose true version is not on top.
struct Covered {
    truth: Version,
    above: Vec<Version>,
}

struct Uncover<'a> {
    versions: &'a dyn Versions,
    covered: Vec<Covered>,
    report: UndeleteReport,
}

impl<'a> Uncover<'a> {
    fn new(versions: &'a dyn Versions) -> Self {
        Self { versions, covered: Vec::new(), report: UndeleteReport::default() }
    }

    /// Looks at every name of ours that begins with `under`, and brings back those `wanted`.
    fn all_of(
        &mut self,
        under: &str,
        mut wanted: impl FnMut(&ObjectKey, &[Version]) -> bool,
    ) -> Result<(), RepositoryError> {
        let versions = self.versions;
        versions.list_versions(under, &mut |group| {
            if let Some(key) = key_of(group)
                && wanted(&key, group)
            {
                self.look_at(group);
                if self.covered.len() >= BATCH {
                    self.flush()?;
                }
            }
            Ok(())
        })?;
        Ok(self.flush()?)
    }

    /// * `group`: all versions of one name, the newest first.
    fn look_at(&mut self, group: &[Version]) {
        let Some(place) = group.iter().rposition(|version| !version.is_marker) else { return };
        let (Some(top), Some(truth)) = (group.first(), group.get(place)) else { return };
        let is_true = !top.is_marker && top.tag == truth.tag && top.size_bytes == truth.size_bytes;
        if is_true {
            return;
        }
        let folder = truth.path.split_once('/').map_or("config", |(folder, _)| folder);
        *self.report.names.entry(folder.to_owned()).or_default() += 1;
        self.report.bytes += truth.size_bytes;
        let above = group.get(..place).unwrap_or_default().to_vec();
        self.covered.push(Covered { truth: truth.clone(), above });
    }

    fn flush(&mut self) -> Result<(), crate::store::StoreError> {
        let covered = std::mem::take(&mut self.covered);
        if covered.is_empty() {
            return Ok(());
        }
        let above: Vec<Version> = covered.iter().flat_map(|one| &one.above).cloned().collect();
        let refused = self.versions.remove_versions(&above)?;
        let refused: HashSet<&str> = refused.iter().map(|one| one.path.as_str()).collect();
        for Covered { truth, .. } in &covered {
            if refused.contains(truth.path.as_str()) {
                self.versions.bring_back(truth)?;
                self.report.copied += 1;
            }
        }
        Ok(())
    }

    /// The newest catalogs, as many as are kept. Returns when the newest one was stored, and the
    /// numbers of those that were hidden.
    fn catalogs(&mut self) -> Result<(u64, BTreeSet<u64>), RepositoryError> {
        let (mut newest_s, mut hidden) = (None, BTreeSet::new());
        let mut left = CATALOGS_KEPT;
        self.all_of("cat/", |key, group| {
            let oldest = group.iter().rev().find(|version| !version.is_marker);
            let (ObjectKey::Catalog(n), Some(oldest)) = (key, oldest) else { return false };
            if left == 0 {
                return false;
            }
            left -= 1;
            newest_s.get_or_insert(oldest.at_s);
            if group.first().is_some_and(|top| top.is_marker) {
                hidden.insert(*n);
            }
            true
        })?;
        Ok((newest_s.unwrap_or(0), hidden))
    }

    /// A name that was counted was hidden again.
    fn take_back(&mut self, folder: &str) {
        if let Some(count) = self.report.names.get_mut(folder) {
            *count = count.saturating_sub(1);
        }
        self.report.names.retain(|_, count| *count > 0);
    }

    /// Commits that no catalog has taken in, and the records of their sessions. A session that was
    /// folded within the last day before the newest catalog is still in its list; what is older
    /// and not in it was folded before, or came to nothing.
    fn commits(&mut self, repository: &Repository, newest_s: u64) -> Result<(), RepositoryError> {
        let view = View::for_reading(repository)?;
        let folded: HashSet<SessionId> =
            view.head.catalog.folded.iter().map(|folded| folded.session).collect();
        let mut unfolded = BTreeSet::new();
        self.all_of("com/", |key, group| {
            let ObjectKey::Commit(id) = key else { return false };
            let oldest = group.iter().rev().find(|version| !version.is_marker);
            let is_recent =
                oldest.is_some_and(|oldest| oldest.at_s.saturating_add(FOLDED_KEPT_S) > newest_s);
            let is_unfolded =
                is_recent && !folded.contains(id) && !view.head.snapshots.contains_key(id);
            if is_unfolded {
                unfolded.insert(*id);
            }
            is_unfolded
        })?;
        self.all_of("ses/", |key, _| matches!(key, ObjectKey::Session(id) if unfolded.contains(id)))
    }

    fn packs(&mut self, index: &Index) -> Result<(), RepositoryError> {
        let mut failed = None;
        self.all_of("p/", |key, _| {
            let ObjectKey::Pack(name) = key else { return false };
            match index.pack_number(name) {
                Ok(number) => number.is_some_and(|number| {
                    !matches!(index.pack_state(number), PackState::Dead | PackState::Unlisted)
                }),
                Err(error) => {
                    failed.get_or_insert(error);
                    false
                }
            }
        })?;
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    fn finish(mut self) -> Result<UndeleteReport, RepositoryError> {
        self.flush()?;
        Ok(self.report)
    }
}

fn key_of(group: &[Version]) -> Option<ObjectKey> {
    group.first()?.path.parse().ok()
}

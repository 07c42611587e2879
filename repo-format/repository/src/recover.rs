//! What can still be known of the catalog when its newest version cannot be read: the newest
//! readable ancestor, and what stored objects tell of the versions after it.
//!
//! Nothing that was ever listed is left out on purpose, so a snapshot that was forgotten by one of
//! the lost versions may come back. Reading goes on with the result; only a repair writes it down.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use repo_format::catalog::{Listed, page_of};
use repo_format::id::SnapshotId;
use repo_format::key::{ObjectKey, Prefix};
use repo_format::session::SegmentRef;

use crate::catalog::{self, Head};
use crate::segments;
use crate::store::StoreError;
use crate::{Repository, RepositoryError};

/// A catalog put together from what is left.
#[derive(Debug, Clone)]
pub(crate) struct Recovered {
    /// Its number and hash are those of the readable ancestor.
    pub(crate) head: Head,
    /// The highest version that any object tells of.
    pub(crate) top: u64,
    /// What could not be read, and what was found instead.
    pub(crate) warnings: Vec<String>,
}

/// Whether an object is lost for this run: damaged, missing, or its bytes cannot be read.
pub(crate) fn is_lost(error: &RepositoryError) -> bool {
    error.is_damage() || matches!(error, RepositoryError::Store(StoreError::Io { .. }))
}

/// An error and its sources in one line.
pub(crate) fn describe(error: &RepositoryError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        source = error.source();
    }
    text
}

/// Numbers of all stored catalogs.
///
/// # Errors
///
/// The store failed.
pub(crate) fn catalog_numbers(repository: &Repository) -> Result<BTreeSet<u64>, RepositoryError> {
    let mut numbers = BTreeSet::new();
    repository.store().list(Prefix::Catalogs, &mut |listed| {
        if let ObjectKey::Catalog(n) = listed.key {
            numbers.insert(n);
        }
        Ok(())
    })?;
    Ok(numbers)
}

/// Names of all stored catalog pages: version and nonce.
///
/// # Errors
///
/// The store failed.
pub(crate) fn page_names(repository: &Repository) -> Result<BTreeSet<(u64, u64)>, RepositoryError> {
    let mut names = BTreeSet::new();
    repository.store().list(Prefix::CatalogPages, &mut |listed| {
        if let ObjectKey::CatalogPage { n, nonce } = listed.key {
            names.insert((n, nonce));
        }
        Ok(())
    })?;
    Ok(names)
}

/// Puts a catalog together.
///
/// * `floor`: a version that is known to have existed, or 0.
/// * `went_back`: whether a newer catalog than the newest that is there is known to be lost.
///
/// # Errors
///
/// The store failed. That nothing is left is no error: the catalog is then as of an empty
/// repository, with every segment that is stored.
pub(crate) fn newest_readable(
    repository: &Repository,
    floor: u64,
    went_back: bool,
) -> Result<Recovered, RepositoryError> {
    let numbers = catalog_numbers(repository)?;
    let pages = page_names(repository)?;
    let newest = numbers.last().copied().unwrap_or(0);
    let top = pages.last().map_or(newest, |(n, _)| newest.max(*n)).max(floor);
    let mut warnings = Vec::new();
    let mut found = None;
    for n in numbers.iter().rev() {
        match catalog::load_bare(repository, *n) {
            Ok(loaded) => {
                found = Some(loaded);
                break;
            }
            Err(error) if is_lost(&error) => warnings.push(describe(&error)),
            Err(error) => return Err(error),
        }
    }
    let is_newest = !went_back && found.as_ref().is_some_and(|(catalog, _)| catalog.n == newest);
    let is_any = found.is_some();
    let (catalog, hash) = found.unwrap_or_default();
    if !is_newest {
        warnings.push(if is_any {
            format!("catalog {} is read instead, the newest one that can be", catalog.n)
        } else {
            "no catalog can be read: only what other objects tell is known".to_owned()
        });
    }
    let mut recovery = Recovery {
        repository,
        base: is_any.then_some(catalog.n),
        head: Head { catalog, hash, snapshots: BTreeMap::new() },
        warnings,
        since: top + 1,
    };
    let (loaded, lost) = recovery.load_pages()?;
    if !is_newest || !lost.is_empty() {
        recovery.adopt_rows(&pages, &loaded, &lost)?;
    }
    if !is_newest {
        recovery.adopt_segments()?;
    }
    Ok(Recovered { head: recovery.head, top, warnings: recovery.warnings })
}

/// Version and nonce of catalog pages.
type PageNames = HashSet<(u64, u64)>;

struct Recovery<'a> {
    repository: &'a Repository,
    /// The readable ancestor.
    base: Option<u64>,
    head: Head,
    warnings: Vec<String>,
    /// The version that will list what is adopted.
    since: u64,
}

impl Recovery<'_> {
    /// Reads the pages of the ancestor. Returns those read, and the positions of those lost. The
    /// ancestor no longer lists those of which a copy is lost, so that they are made anew.
    fn load_pages(&mut self) -> Result<(PageNames, HashSet<usize>), RepositoryError> {
        let (mut loaded, mut lost) = (HashSet::new(), HashSet::new());
        for (position, slot) in self.head.catalog.pages.iter_mut().enumerate() {
            let Some(page) = *slot else { continue };
            match catalog::load_page(self.repository, &page) {
                Ok(rows) => {
                    let lost = catalog::lost_copies(self.repository, &page)?;
                    self.warnings.extend(lost.iter().map(|(_, error)| describe(error)));
                    if !lost.is_empty() {
                        *slot = None;
                    }
                    loaded.insert((page.n, page.nonce));
                    let rows = rows.into_iter().map(|row| (row.snapshot.id, row));
                    self.head.snapshots.extend(rows);
                }
                Err(error) if is_lost(&error) => {
                    self.warnings.push(describe(&error));
                    lost.insert(position);
                    *slot = None;
                }
                Err(error) => return Err(error),
            }
        }
        Ok((loaded, lost))
    }

    /// Takes in rows of pages that the ancestor does not list: those made after it, and for its
    /// lost pages those made before.
    fn adopt_rows(
        &mut self,
        pages: &BTreeSet<(u64, u64)>,
        loaded: &PageNames,
        lost: &HashSet<usize>,
    ) -> Result<(), RepositoryError> {
        let dying: HashSet<SnapshotId> =
            self.head.catalog.dying.iter().map(|dying| dying.snapshot.id).collect();
        let count = self.head.catalog.pages.len();
        let mut adopted = 0u64;
        for (n, nonce) in pages.iter().rev().filter(|name| !loaded.contains(*name)) {
            let is_later = self.base.is_none_or(|base| *n > base);
            if !is_later && lost.is_empty() {
                continue;
            }
            let key = ObjectKey::CatalogPage { n: *n, nonce: *nonce };
            let Some(rows) = self.read_page(&key)? else { continue };
            for row in rows {
                let id = row.snapshot.id;
                let wanted = is_later || lost.contains(&page_of(&id, count));
                if wanted && !dying.contains(&id) && !self.head.snapshots.contains_key(&id) {
                    adopted += 1;
                    let since = self.since;
                    self.head.snapshots.insert(id, Listed { since, snapshot: row.snapshot });
                }
            }
        }
        if adopted > 0 {
            self.warnings.push(format!("{adopted} snapshots were found on other catalog pages"));
        }
        Ok(())
    }

    fn read_page(&self, key: &ObjectKey) -> Result<Option<Vec<Listed>>, RepositoryError> {
        let rows = self.repository.get_sealed(key).and_then(|plain| {
            repo_format::catalog::decode_page(&plain)
                .map_err(|error| RepositoryError::format(key, error))
        });
        match rows {
            Ok(rows) => Ok(Some(rows)),
            Err(error) if is_lost(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn adopt_segments(&mut self) -> Result<(), RepositoryError> {
        let listed: HashSet<_> =
            self.head.catalog.segments.iter().map(|segment| segment.name).collect();
        let found = readable_segments(self.repository, |segment| !listed.contains(segment))?;
        if !found.is_empty() {
            self.warnings.push(format!("{} index segments were found besides", found.len()));
        }
        self.head.catalog.segments.extend(found);
        Ok(())
    }
}

/// Stored segments that can be read to their end, of those that are `wanted`.
///
/// # Errors
///
/// The store failed.
pub(crate) fn readable_segments(
    repository: &Repository,
    wanted: impl Fn(&repo_format::id::SegmentName) -> bool,
) -> Result<Vec<SegmentRef>, RepositoryError> {
    let mut candidates = Vec::new();
    repository.store().list(Prefix::Segments, &mut |listed| {
        if let ObjectKey::Segment(name) = listed.key
            && wanted(&name)
        {
            candidates.push((name, listed.size_bytes));
        }
        Ok(())
    })?;
    let mut found = Vec::new();
    for (name, bytes) in candidates {
        match segments::survey(repository, name, bytes) {
            Ok(segment) => found.push(segment),
            Err(error) if is_lost(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

//! Reading the catalog chain and adding to it.

use std::collections::BTreeMap;

use repo_format::catalog::{self, Catalog, Listed, PageRef, page_of};
use repo_format::id::SnapshotId;
use repo_format::key::{ObjectKey, Prefix};
use repo_format::limits::RECORD_BYTES_MAX;

use crate::parallel::try_each;
use crate::recover::is_lost;
use crate::repository::now_s;
use crate::rules::{Rule, keeps};
use crate::store::StoreError;
use crate::{Repository, RepositoryError, random, rules};

/// A page is split when it holds more snapshots than this on average.
const PAGE_SNAPSHOTS: usize = 256;

/// One version of the catalog with its snapshot list.
#[derive(Debug, Clone)]
pub struct Head {
    /// The catalog.
    pub catalog: Catalog,
    /// BLAKE3 of its sealed object: what the next version names.
    pub hash: [u8; 32],
    /// Its snapshots.
    pub snapshots: BTreeMap<SnapshotId, Listed>,
}

/// Number of the newest catalog.
///
/// # Errors
///
/// The store failed, or has no catalog at all.
pub fn newest_number(repository: &Repository) -> Result<u64, RepositoryError> {
    match repository.store().list_first(Prefix::Catalogs)? {
        Some(ObjectKey::Catalog(n)) => Ok(n),
        _ => Err(unreadable(RepositoryError::Store(StoreError::Missing {
            at: format!("{}: every catalog (cat/)", repository.store().describe()),
        }))),
    }
}

fn unreadable(source: RepositoryError) -> RepositoryError {
    RepositoryError::CatalogUnreadable { source: Box::new(source) }
}

/// The newest catalog and its snapshots.
///
/// # Errors
///
/// [`RepositoryError::CatalogUnreadable`] if it or a page is damaged or missing; the store failed.
pub fn newest(repository: &Repository) -> Result<Head, RepositoryError> {
    newest_after(repository, None)
}

/// As [`newest`], without reading it again if it is still `known`.
pub(crate) fn newest_after(
    repository: &Repository,
    known: Option<&Head>,
) -> Result<Head, RepositoryError> {
    newest_by(repository, |n| match known {
        Some(known) if known.catalog.n == n => Ok(known.clone()),
        _ => load(repository, n),
    })
}

/// The newest catalog without its snapshots.
///
/// # Errors
///
/// As [`newest`].
pub(crate) fn newest_bare(repository: &Repository) -> Result<Catalog, RepositoryError> {
    newest_by(repository, |n| Ok(load_bare(repository, n)?.0))
}

fn newest_by<T>(
    repository: &Repository,
    load: impl Fn(u64) -> Result<T, RepositoryError>,
) -> Result<T, RepositoryError> {
    loop {
        let n = newest_number(repository)?;
        match load(n) {
            // Trimmed, or its pages were, since it was listed: there is a newer one.
            Err(RepositoryError::Store(StoreError::Missing { .. }))
                if newest_number(repository)? > n => {}
            Err(error) if error.is_damage() => return Err(unreadable(error)),
            other => return other,
        }
    }
}

/// Catalog version `n` and its snapshots.
///
/// # Errors
///
/// The store failed, or the catalog or a page is damaged.
pub fn load(repository: &Repository, n: u64) -> Result<Head, RepositoryError> {
    let (catalog, hash) = load_bare(repository, n)?;
    let snapshots = load_pages(repository, &catalog)?;
    Ok(Head { catalog, hash, snapshots })
}

/// The snapshots of a catalog.
pub(crate) fn load_pages(
    repository: &Repository,
    catalog: &Catalog,
) -> Result<BTreeMap<SnapshotId, Listed>, RepositoryError> {
    let pages: Vec<&PageRef> = catalog.pages.iter().flatten().collect();
    let pages = try_each(&pages, |page| load_page(repository, page))?;
    Ok(pages.into_iter().flatten().map(|listed| (listed.snapshot.id, listed)).collect())
}

/// Catalog version `n` without its snapshots, and the hash of its object.
///
/// # Errors
///
/// As [`load`].
pub fn load_bare(repository: &Repository, n: u64) -> Result<(Catalog, [u8; 32]), RepositoryError> {
    let sealed = repository.store().get(&ObjectKey::Catalog(n), RECORD_BYTES_MAX)?;
    open_bare(repository, n, sealed)
}

/// As [`load_bare`], of the bytes of version `n`.
pub(crate) fn open_bare(
    repository: &Repository,
    n: u64,
    sealed: Vec<u8>,
) -> Result<(Catalog, [u8; 32]), RepositoryError> {
    let key = ObjectKey::Catalog(n);
    let hash = *blake3::hash(&sealed).as_bytes();
    let plain = repository.open_sealed(&key, sealed)?;
    let catalog = Catalog::decode(&plain).map_err(|error| RepositoryError::format(key, error))?;
    Ok((catalog, hash))
}

/// The snapshots of one page, from either of its copies.
///
/// # Errors
///
/// As [`load`]: what is wrong with the first copy.
pub fn load_page(repository: &Repository, page: &PageRef) -> Result<Vec<Listed>, RepositoryError> {
    let [first, second] = page.keys();
    match load_copy(repository, &first) {
        Err(error) if is_lost(&error) => load_copy(repository, &second).map_err(|_| error),
        loaded => loaded,
    }
}

/// The snapshots of one copy of a page.
///
/// # Errors
///
/// As [`load`].
pub(crate) fn load_copy(
    repository: &Repository,
    key: &ObjectKey,
) -> Result<Vec<Listed>, RepositoryError> {
    let plain = repository.get_sealed(key)?;
    catalog::decode_page(&plain).map_err(|error| RepositoryError::format(key, error))
}

/// The copies of a page that are lost, and why.
///
/// # Errors
///
/// The store cannot be reached.
pub(crate) fn lost_copies(
    repository: &Repository,
    page: &PageRef,
) -> Result<Vec<(ObjectKey, RepositoryError)>, RepositoryError> {
    let mut lost = Vec::new();
    for key in page.keys() {
        match load_copy(repository, &key) {
            Ok(_) => {}
            Err(error) if is_lost(&error) => lost.push((key, error)),
            Err(error) => return Err(error),
        }
    }
    Ok(lost)
}

/// Tries to make `next` (whose `n`, `previous`, `created_s` and `pages` are set here) the
/// successor of `head`. Returns `None` if another maintainer was first: the caller starts over
/// from the newest catalog, for what it decided on may have changed.
///
/// # Errors
///
/// The store failed. The new version may then exist; whoever reads the newest catalog finds out.
pub fn publish(
    repository: &Repository,
    head: &Head,
    mut next: Catalog,
    snapshots: BTreeMap<SnapshotId, Listed>,
) -> Result<Option<Head>, RepositoryError> {
    next.n = head.catalog.n + 1;
    next.previous = head.hash;
    next.created_s = now_s();
    next.pages = write_pages(repository, &head.catalog, next.n, &snapshots)?;
    let key = ObjectKey::Catalog(next.n);
    let sealed = repository.seal(&key, &next.encode())?;
    let hash = *blake3::hash(&sealed).as_bytes();
    match repository.store().put_new(&key, &sealed) {
        Ok(()) => {}
        Err(StoreError::Exists { .. }) => {
            // A lost reply: the object there may be ours.
            let there = repository.store().get(&key, RECORD_BYTES_MAX);
            if !there.is_ok_and(|bytes| bytes == sealed) {
                return Ok(None);
            }
        }
        Err(error) => return Err(error.into()),
    }
    if !keeps(Rule::WinIsVerified) || descends(repository, next.n, &hash)? {
        Ok(Some(Head { catalog: next, hash, snapshots }))
    } else {
        Ok(None)
    }
}

/// Whether the newest catalog is `n` itself or was built on it. Old catalogs are trimmed, so a
/// maintainer that slept for long may create a number that was used and removed.
fn descends(repository: &Repository, n: u64, hash: &[u8; 32]) -> Result<bool, RepositoryError> {
    if newest_number(repository)? == n {
        return Ok(true);
    }
    match load_bare(repository, n + 1) {
        Ok((successor, _)) => Ok(successor.previous == *hash),
        Err(RepositoryError::Store(StoreError::Missing { .. })) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes the pages that differ from those of `old` and returns the new list of pages.
fn write_pages(
    repository: &Repository,
    old: &Catalog,
    n: u64,
    snapshots: &BTreeMap<SnapshotId, Listed>,
) -> Result<Vec<Option<PageRef>>, RepositoryError> {
    let count = page_count(old.pages.len(), snapshots.len());
    let mut rows: Vec<Vec<Listed>> = vec![Vec::new(); count];
    for (id, listed) in snapshots {
        if let Some(page) = rows.get_mut(page_of(id, count)) {
            page.push(listed.clone());
        }
    }
    let mut pages = Vec::with_capacity(count);
    for (index, rows) in rows.iter().enumerate() {
        if rows.is_empty() {
            pages.push(None);
            continue;
        }
        let plain = catalog::encode_page(rows);
        let digest = *blake3::hash(&plain).as_bytes();
        let kept = old.pages.get(index).copied().flatten().filter(|page| page.digest == digest);
        if let Some(page) = kept {
            pages.push(Some(page));
            continue;
        }
        let nonce = u64::from_le_bytes(random::bytes()?);
        let snapshots = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        let page = PageRef { n, nonce, snapshots, digest };
        try_each(&page.keys(), |key| repository.put_sealed(key, &plain))?;
        pages.push(Some(page));
    }
    Ok(pages)
}

/// Grows only: splitting moves every snapshot, so it is done by doubling, and rarely.
fn page_count(old: usize, snapshots: usize) -> usize {
    let wanted = snapshots.div_ceil(rules::many(PAGE_SNAPSHOTS, 2)).next_power_of_two();
    wanted.max(old).clamp(1, 4096)
}

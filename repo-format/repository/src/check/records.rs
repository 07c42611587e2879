//! The config, the key slots and the catalog chain.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use repo_format::catalog::{Catalog, PageRef, page_of};
use repo_format::config::Config;
use repo_format::key::ObjectKey;
use repo_format::limits::RECORD_BYTES_MAX;

use super::{Checker, sessions};
use crate::RepositoryError;
use crate::catalog;
use crate::gc::CATALOGS_KEPT;
use crate::recover::{catalog_numbers, describe, is_lost, page_names};
use crate::store::StoreError;

/// A readable catalog and the hash of its object.
type Chain = BTreeMap<u64, (Catalog, [u8; 32])>;

impl Checker<'_> {
    pub(super) fn check_records(&mut self) -> Result<(), RepositoryError> {
        self.check_config()?;
        self.check_slots()?;
        // Pages first: a page is older than the catalog that lists it.
        let pages = page_names(self.repository)?;
        let numbers = catalog_numbers(self.repository)?;
        let chain = self.read_chain(&numbers)?;
        self.check_newest(&pages, &numbers);
        self.check_links(&numbers, &chain)?;
        self.check_pages(&chain)
    }

    fn check_config(&self) -> Result<(), RepositoryError> {
        let key = ObjectKey::Config;
        let named = |error| RepositoryError::format(key, error);
        let checked = self
            .repository
            .store()
            .get(&key, RECORD_BYTES_MAX)
            .map_err(RepositoryError::from)
            .and_then(|bytes| {
                Config::decode(&bytes).map_err(named)?;
                Config::authenticate(&bytes, self.repository.keys()).map_err(named)
            });
        match checked {
            Ok(()) => {}
            Err(error) if is_lost(&error) => self.findings.problem(key, describe(&error)),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn check_slots(&mut self) -> Result<(), RepositoryError> {
        let slots = self.repository.slots()?;
        self.report.checked.key_slots = slots.len() as u64;
        for slot in slots {
            if let Some(problem) = slot.problem {
                self.findings.problem(format!("keys/{}", slot.id), problem);
            }
        }
        Ok(())
    }

    /// Reads all catalogs, without their pages.
    fn read_chain(&mut self, numbers: &BTreeSet<u64>) -> Result<Chain, RepositoryError> {
        let mut chain = Chain::new();
        for n in numbers {
            match catalog::load_bare(self.repository, *n) {
                Ok(loaded) => {
                    self.report.checked.catalogs += 1;
                    chain.insert(*n, loaded);
                }
                Err(RepositoryError::Store(StoreError::Missing { .. }))
                    if self.is_trimmed(*n)? => {}
                Err(error) if is_lost(&error) => {
                    self.findings.problem(ObjectKey::Catalog(*n), describe(&error));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(chain)
    }

    /// Whether catalog `n` is so old by now that a prune may have removed it.
    fn is_trimmed(&self, n: u64) -> Result<bool, RepositoryError> {
        let newest = catalog_numbers(self.repository)?.last().copied().unwrap_or(0);
        Ok(n.saturating_add(CATALOGS_KEPT) <= newest)
    }

    /// Whether anything tells of a newer catalog than the newest that is there.
    fn check_newest(&self, pages: &BTreeSet<(u64, u64)>, numbers: &BTreeSet<u64>) {
        let folder = "cat/";
        let Some(newest) = numbers.last() else {
            self.findings.problem(folder, "there is no catalog at all");
            return;
        };
        if let Some(seen) = self.options.witness.filter(|seen| seen > newest) {
            let what = format!(
                "the newest catalog is {newest}, but this machine saw {seen}: newer ones were \
                 removed, or the storage went back in time"
            );
            self.findings.problem(folder, what);
        }
        // The maker of the next version may have died between its pages and its catalog.
        if let Some((n, nonce)) = pages.last().filter(|(n, _)| *n > newest + 1) {
            let page = ObjectKey::CatalogPage { n: *n, nonce: *nonce };
            let what = format!("the newest catalog is {newest}, but {page} was made after it");
            self.findings.problem(folder, what);
        }
    }

    /// Each version names the one before by hash, none is missing in between. The chain starts
    /// anew at a version that names none: a repair made it.
    fn check_links(&self, numbers: &BTreeSet<u64>, chain: &Chain) -> Result<(), RepositoryError> {
        let Some(newest) = numbers.last() else { return Ok(()) };
        let start = chain.iter().rev().find(|(_, (catalog, _))| catalog.previous == [0; 32]);
        let start = start.map_or(0, |(n, _)| *n);
        let kept = (newest + 1).saturating_sub(CATALOGS_KEPT);
        for n in start.max(kept)..=*newest {
            if !numbers.contains(&n) {
                if !self.is_trimmed(n)? {
                    self.findings.problem(ObjectKey::Catalog(n), "it is missing from the chain");
                }
                continue;
            }
            let (Some((_, hash)), Some((next, _))) = (chain.get(&n), chain.get(&(n + 1))) else {
                continue;
            };
            if next.previous != *hash {
                let what = "it is not the catalog that its successor was built on";
                self.findings.problem(ObjectKey::Catalog(n), what);
            }
        }
        Ok(())
    }

    /// The pages of all readable catalogs, each page once.
    fn check_pages(&mut self, chain: &Chain) -> Result<(), RepositoryError> {
        let mut pages: HashMap<(u64, u64), (PageRef, u64)> = HashMap::new();
        for (n, (catalog, _)) in chain {
            for page in catalog.pages.iter().flatten() {
                // Kept: the newest version that lists it.
                pages.insert((page.n, page.nonce), (*page, *n));
            }
        }
        let mut lost = HashSet::new();
        for (page, n) in pages.into_values() {
            let mut lost_copies = 0;
            for key in page.keys() {
                match catalog::load_copy(self.repository, &key) {
                    Ok(rows) => {
                        self.report.checked.catalog_pages += 1;
                        if rows.len() as u64 != u64::from(page.snapshots) {
                            self.findings.problem(key, "it is not the page that the catalog lists");
                        }
                    }
                    Err(RepositoryError::Store(StoreError::Missing { .. }))
                        if self.is_trimmed(n)? => {}
                    Err(error) if is_lost(&error) => {
                        self.findings.problem(key, describe(&error));
                        lost_copies += 1;
                    }
                    Err(error) => return Err(error),
                }
            }
            if lost_copies == page.keys().len() {
                lost.insert((page.n, page.nonce));
            }
        }
        if let Some((catalog, _)) = chain.values().last() {
            self.count_unknown(catalog, &lost);
        }
        Ok(())
    }

    /// Snapshots of lost pages of the newest catalog that no other object tells of.
    fn count_unknown(&self, newest: &Catalog, lost: &HashSet<(u64, u64)>) {
        let count = newest.pages.len();
        for (position, page) in newest.pages.iter().enumerate() {
            let Some(page) = page.filter(|page| lost.contains(&(page.n, page.nonce))) else {
                continue;
            };
            let found = self.view.head.snapshots.keys().filter(|id| page_of(id, count) == position);
            let unknown = u64::from(page.snapshots).saturating_sub(found.count() as u64);
            let key = ObjectKey::CatalogPage { n: page.n, nonce: page.nonce };
            for number in 1..=unknown {
                let id = format!("unknown {number} of {unknown} on {key}");
                self.findings.damaged_snapshot(sessions::lost(&id, None));
            }
        }
    }
}

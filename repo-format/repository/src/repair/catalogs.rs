//! The catalog chain: a new version on top of what is readable.

use std::collections::BTreeSet;

use repo_format::catalog::Catalog;
use repo_format::key::ObjectKey;

use super::Repair;
use crate::catalog::{self, Head};
use crate::recover::{self, catalog_numbers, is_lost};
use crate::view::View;
use crate::{RepositoryError, check};

/// Tried again this often when another maintainer was faster.
const TRIES: u32 = 8;

impl Repair<'_> {
    /// If the chain is damaged anywhere, adds a version that starts it anew, and then removes the
    /// versions that cannot be read. Packs that are condemned or dead stay so: a prune that was
    /// stopped may still be about to delete the dead ones.
    pub(super) fn catalogs(&mut self, witness: Option<u64>) -> Result<(), RepositoryError> {
        for _ in 0..TRIES {
            let problems = check::chain_problems(self.repository, self.index, witness)?;
            if problems.is_empty() {
                return Ok(());
            }
            // Signs of a newer catalog than the newest there is.
            let went_back = problems.iter().any(|problem| problem.object == "cat/");
            if let Some(n) = self.restart(witness, went_back)? {
                let objects: BTreeSet<&str> =
                    problems.iter().map(|problem| problem.object.as_str()).collect();
                let objects: Vec<&str> = objects.into_iter().take(5).collect();
                self.report.done.push(format!(
                    "catalog {n} starts the chain anew, because of {}",
                    objects.join(", ")
                ));
                return self.remove_unreadable(n);
            }
        }
        Err(RepositoryError::Contended { tries: TRIES })
    }

    /// Publishes a version that names no predecessor. Returns its number, or `None` if another
    /// maintainer was faster.
    fn restart(
        &mut self,
        witness: Option<u64>,
        went_back: bool,
    ) -> Result<Option<u64>, RepositoryError> {
        let view = View::for_reading(self.repository)?;
        let highest = view.sessions.values().flatten().map(|session| session.base).max();
        let floor = highest.max(witness).unwrap_or(0);
        let recovered = recover::newest_readable(self.repository, floor, went_back)?;
        let Head { catalog, snapshots, .. } = recovered.head;
        let next = catalog.clone();
        let on_top_of =
            Head { catalog: Catalog { n: recovered.top, ..catalog }, hash: [0; 32], snapshots };
        let snapshots = on_top_of.snapshots.clone();
        let published = catalog::publish(self.repository, &on_top_of, next, snapshots)?;
        if published.is_some() {
            self.report.done.extend(recovered.warnings);
        }
        Ok(published.map(|head| head.catalog.n))
    }

    /// Removes versions older than `n` that cannot be read with all copies of their pages.
    fn remove_unreadable(&self, n: u64) -> Result<(), RepositoryError> {
        for old in catalog_numbers(self.repository)?.range(..n) {
            if !self.is_whole(*old)? {
                self.repository.store().delete(&ObjectKey::Catalog(*old))?;
            }
        }
        Ok(())
    }

    fn is_whole(&self, n: u64) -> Result<bool, RepositoryError> {
        let catalog = match catalog::load_bare(self.repository, n) {
            Ok((catalog, _)) => catalog,
            Err(error) if is_lost(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        for page in catalog.pages.iter().flatten() {
            if !catalog::lost_copies(self.repository, page)?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

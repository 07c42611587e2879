//! Repairing what enough is left of.
//!
//! Nothing that is stored and can be read is dropped. Every step either creates objects that
//! nothing lists yet or is one transition of the catalog chain, so a repair that was killed
//! anywhere is simply run again. Runs beside backups; a prune refuses while there is something to
//! repair that it depends on.

mod catalogs;
mod registers;
mod salvage;
mod segments;

use std::sync::Arc;

use repo_format::config::Operation;
use serde::Serialize;

use crate::check::{self, VerifyOptions};
use crate::gc::{self, Watch};
use crate::index::Index;
use crate::repository::now_s;
use crate::view::View;
use crate::{Repository, RepositoryError};

/// What a repair did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    /// What was done, a line each; empty if nothing had to be.
    pub done: Vec<String>,
    /// What could not be saved, a line each. `salvor verify` names the snapshots it belongs to.
    pub lost: Vec<String>,
    /// Index segments made anew from the packs' own tables.
    pub rebuilt_segments: u64,
    /// Chunks copied out of packs that cannot be relied on any more.
    pub salvaged_chunks: u64,
    /// Their plain bytes.
    pub salvaged_bytes: u64,
}

/// Repairs: the catalog chain, then sessions and registers, then index segments, then packs.
///
/// What a damaged pack held and no other pack has is copied out as far as it can be read. What it
/// cannot, the next backup of the same source stores again.
///
/// * `witness`: as in [`VerifyOptions`]. A catalog that was removed leaves no trace itself.
///
/// # Errors
///
/// The store or the index failed, other maintainers were faster too often, or
/// [`RepositoryError::Cancelled`]. What was done until then stays.
pub fn repair(
    repository: &Arc<Repository>,
    index: &Arc<Index>,
    witness: Option<u64>,
    watch: &dyn Watch,
) -> Result<RepairReport, RepositoryError> {
    repository.permits(Operation::Maintain)?;
    let report = RepairReport::default();
    let mut repair = Repair { repository, index, watch, report };
    repair.step("repairing the catalog")?;
    repair.catalogs(witness)?;
    repair.step("repairing sessions")?;
    repair.registers()?;
    repair.step("rebuilding index segments")?;
    repair.segments()?;
    repair.step("looking for damaged packs")?;
    let options = VerifyOptions { record: true, witness, ..VerifyOptions::default() };
    let found = check::verify(repository, index, &options, watch)?;
    for pack in &found.bad_packs {
        repair.report.done.push(format!("pack {pack} was written down as bad"));
    }
    repair.step("copying chunks out of damaged packs")?;
    repair.salvage()?;
    Ok(repair.report)
}

struct Repair<'a> {
    repository: &'a Arc<Repository>,
    index: &'a Arc<Index>,
    watch: &'a dyn Watch,
    report: RepairReport,
}

impl Repair<'_> {
    fn step(&self, what: &str) -> Result<(), RepositoryError> {
        self.watch.step(what);
        self.check_cancelled()
    }

    fn check_cancelled(&self) -> Result<(), RepositoryError> {
        if self.watch.is_cancelled() { Err(RepositoryError::Cancelled) } else { Ok(()) }
    }

    /// fold: so that everything committed is in the catalog.
    fn fold(&self) -> Result<View, RepositoryError> {
        let mut view = View::for_maintenance(self.repository)?;
        gc::transition(self.repository, &mut view, |view, draft| {
            draft.fold(view, now_s());
            Ok(())
        })?;
        Ok(view)
    }
}

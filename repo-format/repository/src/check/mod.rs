//! Verifying: every stored object is where it should be and is what it should be.
//!
//! Runs beside backups and prunes. What vanishes or changes while it is looked at is looked at
//! again under a newer view before it is called damaged. Each problem is noted and the rest goes
//! on. When all is well each manifest page is read once, however many snapshots share it; only
//! when something is wrong each snapshot is walked on its own, to name what it lost.

mod packs;
mod records;
mod report;
mod segments;
mod sessions;
mod snapshots;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex};

use repo_format::id::{ChunkId, PackName, SessionId, SnapshotId};
use repo_format::snapshot::Snapshot;

use crate::gc::{self, Unwatched, Watch};
use crate::index::Index;
use crate::recover::describe;
use crate::view::View;
use crate::writer::sync_index;
use crate::{Repository, RepositoryError};
use report::Findings;

pub use report::{
    Checked, DamagedSnapshot, Leftover, PATHS_MAX, PROBLEMS_MAX, Problem, VerifyReport,
};

/// Looked at again this often while the repository keeps changing; what is wrong then is reported
/// as it is.
const TRIES: u32 = 5;

/// What to verify, and how.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// Only the manifests and data of these; the records, index and pack lengths of the whole
    /// repository all the same. `None`: all snapshots.
    pub snapshots: Option<Vec<SnapshotId>>,
    /// Share of the packs, 0 to 1, chosen at random, to be read from end to end with every chunk
    /// in them. `None`: only manifests are read.
    pub read_data: Option<f64>,
    /// Threads that read packs.
    pub threads: usize,
    /// For read buffers; the index has its own.
    pub memory_bytes: usize,
    /// The highest catalog version this machine ever saw: a newest catalog below it means that the
    /// storage was rolled back.
    pub witness: Option<u64>,
    /// Write down which packs are bad, so that the next backup stores what they held again.
    pub record: bool,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self {
            snapshots: None,
            read_data: None,
            threads: 2,
            memory_bytes: 64 << 20,
            witness: None,
            record: false,
        }
    }
}

/// Verifies. Damage is in the report, not in the result.
///
/// # Errors
///
/// The store cannot be reached or refuses access, the index failed, or
/// [`RepositoryError::Cancelled`].
pub fn verify(
    repository: &Arc<Repository>,
    index: &Arc<Index>,
    options: &VerifyOptions,
    watch: &dyn Watch,
) -> Result<VerifyReport, RepositoryError> {
    let findings = Findings::default();
    let checker = Checker::new(repository, index, options, watch, &findings)?;
    let mut report = checker.run()?;
    findings.into_report(&mut report);
    Ok(report)
}

/// What is wrong with the catalog chain, its pages among it.
///
/// # Errors
///
/// The store cannot be reached.
pub(crate) fn chain_problems(
    repository: &Arc<Repository>,
    index: &Arc<Index>,
    witness: Option<u64>,
) -> Result<Vec<Problem>, RepositoryError> {
    let findings = Findings::default();
    let options = VerifyOptions { witness, ..VerifyOptions::default() };
    let mut checker = Checker::new(repository, index, &options, &Unwatched, &findings)?;
    checker.check_records()?;
    checker.check_sessions()?;
    let mut report = VerifyReport::default();
    findings.into_report(&mut report);
    report
        .problems
        .retain(|problem| problem.object.starts_with("cat/") || problem.object.starts_with("cpg/"));
    Ok(report.problems)
}

struct Checker<'a> {
    repository: &'a Arc<Repository>,
    index: &'a Arc<Index>,
    options: &'a VerifyOptions,
    watch: &'a dyn Watch,
    findings: &'a Findings,
    report: VerifyReport,
    view: View,
    /// Packs that the catalog already calls bad.
    known_bad: HashSet<PackName>,
    /// Of them those that some snapshot still depends on.
    needed_bad: BTreeSet<PackName>,
}

impl<'a> Checker<'a> {
    fn new(
        repository: &'a Arc<Repository>,
        index: &'a Arc<Index>,
        options: &'a VerifyOptions,
        watch: &'a dyn Watch,
        findings: &'a Findings,
    ) -> Result<Self, RepositoryError> {
        let view = View::for_reading(repository)?;
        let known_bad = view.head.catalog.bad.iter().copied().collect();
        let report = VerifyReport::default();
        let needed_bad = BTreeSet::new();
        Ok(Self {
            repository,
            index,
            options,
            watch,
            findings,
            report,
            view,
            known_bad,
            needed_bad,
        })
    }

    fn step(&self, what: &str) -> Result<(), RepositoryError> {
        self.watch.step(what);
        self.check_cancelled()
    }

    fn check_cancelled(&self) -> Result<(), RepositoryError> {
        if self.watch.is_cancelled() { Err(RepositoryError::Cancelled) } else { Ok(()) }
    }

    fn run(mut self) -> Result<VerifyReport, RepositoryError> {
        self.step("checking records")?;
        self.check_records()?;
        self.check_sessions()?;
        self.step("reading index segments")?;
        self.check_segments()?;
        self.refresh()?;
        self.check_promises()?;
        self.step("listing packs")?;
        self.check_packs()?;
        self.step("reading manifests")?;
        let needs = self.check_manifests()?;
        if let Some(share) = self.options.read_data {
            self.step("reading packs")?;
            self.read_packs(share, &needs.packs)?;
        }
        self.name_damage(&needs)?;
        self.judge_known_bad();
        if self.options.record {
            self.record();
        }
        Ok(self.report)
    }

    /// Takes a fresh view and brings the index in line with it.
    fn refresh(&mut self) -> Result<(), RepositoryError> {
        self.view = View::for_reading(self.repository)?;
        // What cannot be read was noted when the segments were read.
        sync_index(self.repository, self.index, &self.view)?;
        Ok(())
    }

    /// Whether the repository is still as the view shows it.
    fn is_current(&self) -> Result<bool, RepositoryError> {
        let now = View::for_reading(self.repository)?;
        Ok(now.head.hash == self.view.head.hash
            && now.unfolded.keys().eq(self.view.unfolded.keys()))
    }

    /// Asks `test` about every suspect under a fresh view, and again as long as the repository
    /// changes meanwhile. Returns those it still holds against at the end.
    fn confirm<T: Clone>(
        &mut self,
        mut suspects: Vec<T>,
        mut test: impl FnMut(&Self, &T) -> Result<Option<String>, RepositoryError>,
    ) -> Result<Vec<(T, String)>, RepositoryError> {
        let mut guilty = Vec::new();
        for _ in 0..TRIES {
            guilty.clear();
            if suspects.is_empty() {
                break;
            }
            self.refresh()?;
            for suspect in &suspects {
                self.check_cancelled()?;
                if let Some(what) = test(self, suspect)? {
                    guilty.push((suspect.clone(), what));
                }
            }
            if guilty.is_empty() || self.is_current()? {
                break;
            }
            suspects = guilty.iter().map(|(suspect, _)| suspect.clone()).collect();
        }
        Ok(guilty)
    }

    /// The snapshots to walk, from the current view.
    fn selected(&self) -> Vec<Snapshot> {
        let wanted = |id: &SnapshotId| {
            self.options.snapshots.as_ref().is_none_or(|wanted| wanted.contains(id))
        };
        let all = self.view.all_snapshots();
        all.into_values().filter(|snapshot| wanted(&snapshot.id)).cloned().collect()
    }

    /// Notes a pack as bad; one that the catalog knows to be bad is no news.
    fn blame_pack(&self, pack: PackName, what: String) {
        if !self.known_bad.contains(&pack) {
            self.findings.problem(repo_format::key::ObjectKey::Pack(pack), what);
            self.findings.bad_pack(pack);
        }
    }

    fn judge_known_bad(&mut self) {
        let sound = self.findings.sound_packs();
        let dead = &self.view.head.catalog.dead;
        let left =
            self.known_bad.iter().filter(|pack| !sound.contains(*pack) && !dead.contains(pack));
        for pack in left {
            if self.needed_bad.contains(pack) {
                let what = "it was found damaged before, and snapshots still depend on it. Back up \
                            the same sources again, or run `salvor verify --repair`";
                self.findings.problem(repo_format::key::ObjectKey::Pack(*pack), what);
            } else {
                self.report.healed_packs.push(pack.to_string());
            }
        }
        self.report.healed_packs.sort();
    }

    fn record(&mut self) {
        let (bad, sound) = (self.findings.bad_packs(), self.findings.sound_packs());
        if bad.is_empty() && sound.is_empty() {
            return;
        }
        let bad = bad.into_iter().collect();
        if let Err(error) = gc::update_bad(self.repository, &bad, &sound) {
            let why = describe(&error);
            self.report.notes.push(format!("which packs are bad could not be recorded: {why}"));
        }
    }
}

/// Packs whose damage showed while manifests were read, each with a chunk that it does not give.
type Suspects = Mutex<BTreeMap<PackName, ChunkId>>;

/// Sessions by id, as the protocol orders them.
type Sessions = BTreeSet<SessionId>;

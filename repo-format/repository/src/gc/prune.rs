//! A prune, from the first listing to the last clean-up.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use repo_format::config::Operation;
use repo_format::id::{ChunkId, SessionId, SnapshotId};

use super::draft;
use super::mark::{self, Marks};
use super::repack::{self, Choice};
use super::{PruneOptions, PruneReport, TRIES, Watch};
use super::{forget, merge, step, sweep, sync_whole, transition};
use crate::effort::Effort;
use crate::index::{Index, PackSet, PackState};
use crate::lock;
use crate::packer::PackOptions;
use crate::reader::Reader;
use crate::repository::now_s;
use crate::rules::{self, Rule, keeps};
use crate::view::View;
use crate::writer::{Writer, WriterOptions};
use crate::{Repository, RepositoryError, catalog, retention, session};

/// A prune begins anew this often if what it goes by turns out to be gone, and others have pruned
/// meanwhile.
const STARTS: u32 = 4;

/// Condemned and dead packs in one catalog, each version of which is read whole: 2 MB. What is
/// beyond is condemned once these are gone.
const ROWS_MAX: usize = 64 << 10;

/// What a repack writes before it commits: a prune that is killed keeps what was committed.
const REPACK_BYTES: u64 = 8 << 30;
const REPACK_CHUNKS: usize = 256 << 10;

/// Reclaims what no snapshot needs.
///
/// # Errors
///
/// The store or index failed; [`RepositoryError::IndexNotWhole`] and damaged manifests stop it
/// before anything is deleted; [`RepositoryError::Cancelled`].
pub fn prune(
    repository: &Arc<Repository>,
    index: &Arc<Index>,
    options: &PruneOptions,
    watch: &dyn Watch,
) -> Result<PruneReport, RepositoryError> {
    repository.permits(Operation::Maintain)?;
    let mut pruner = Pruner {
        repository,
        index,
        options,
        watch,
        reader: Reader::new(repository, Arc::clone(index)),
        report: PruneReport::default(),
        marks: Marks::new(index),
        view: View::for_maintenance(repository)?,
    };
    for _ in 1..STARTS {
        match pruner.start() {
            Err(error) if error.is_damage() && pruner.is_behind()? => pruner.forget_plan()?,
            done => return done.map(|()| pruner.report),
        }
    }
    pruner.start()?;
    Ok(pruner.report)
}

struct Pruner<'a> {
    repository: &'a Arc<Repository>,
    index: &'a Arc<Index>,
    options: &'a PruneOptions,
    watch: &'a dyn Watch,
    reader: Reader,
    report: PruneReport,
    marks: Marks,
    view: View,
}

impl Pruner<'_> {
    fn start(&mut self) -> Result<(), RepositoryError> {
        if self.options.dry_run { self.survey() } else { self.run() }
    }

    /// Whether there is a newer catalog: what is missing by this view may rightly be gone.
    fn is_behind(&self) -> Result<bool, RepositoryError> {
        Ok(catalog::newest_number(self.repository)? != self.view.head.catalog.n)
    }

    /// Takes a new view, and keeps of the report only what was done.
    fn forget_plan(&mut self) -> Result<(), RepositoryError> {
        self.marks = Marks::new(self.index);
        self.view = View::for_maintenance(self.repository)?;
        let report = &mut self.report;
        (report.packs, report.bytes, report.needed_bytes, report.left_bytes) = (0, 0, 0, 0);
        (report.unneeded_packs, report.unneeded_bytes) = (0, 0);
        (report.waiting_packs, report.waiting_bytes) = (0, 0);
        Ok(())
    }

    fn step(&self, what: &str) -> Result<(), RepositoryError> {
        step(self.watch, what)
    }

    fn run(&mut self) -> Result<(), RepositoryError> {
        self.step("listing packs")?;
        self.repository.store().sweep_temporary()?;
        // Listed before sessions are: a pack that is here and belongs to no session seen later
        // is a left-over.
        let mut present = self.list_present()?;
        self.view = View::for_maintenance(self.repository)?;
        self.step("folding commits")?;
        self.end_dead_sessions()?;
        self.fold()?;
        self.give_up_unfinished()?;
        self.sync()?;
        self.pass_verdicts()?;
        self.step("marking what snapshots need")?;
        self.mark(&[])?;
        self.account()?;
        let emptied = self.repack()?;
        self.reclaim(&emptied, &mut present)?;
        self.marks = Marks::new(self.index);
        self.merge(merge::Aim::Few)?;
        self.step("trimming old catalogs")?;
        self.fold()?;
        sweep::clean_heartbeats(self.repository)?;
        sweep::trim(self.repository, &self.view)?;
        self.see_to_locks()?;
        self.account_waiting()
    }

    /// Last, so that what this run has deleted is hidden, and what it has stored is named.
    fn see_to_locks(&mut self) -> Result<(), RepositoryError> {
        if self.repository.store().versions().is_some() {
            self.step("seeing to object locks")?;
            self.sync()?;
            self.report.lock = lock::maintain(self.repository, self.index, &mut self.view)?;
        }
        Ok(())
    }

    fn survey(&mut self) -> Result<(), RepositoryError> {
        self.step("listing packs")?;
        let present = self.list_present()?;
        self.view = View::for_maintenance(self.repository)?;
        let dead: HashSet<SessionId> =
            sweep::dead_sessions(self.repository, &self.view, self.options).into_iter().collect();
        let given_up = self.given_up(|session| dead.contains(session));
        self.report.fenced_sessions = dead.len() as u64;
        self.report.forgotten_checkpoints = given_up.len() as u64;
        self.sync()?;
        let leftovers = sweep::leftovers(self.index, &self.view, &present)?;
        (self.report.leftover_packs, self.report.leftover_bytes) = leftovers.size();
        drop(present);
        self.step("marking what snapshots need")?;
        self.mark(&given_up)?;
        self.account()?;
        let tried = PackSet::default();
        let total = self.choice(&tried, self.marks.end(), self.repack_budget()).total()?;
        (self.report.repacked_packs, self.report.repacked_bytes) = total;
        self.account_waiting()
    }

    fn list_present(&mut self) -> Result<sweep::Present, RepositoryError> {
        self.sync()?;
        sweep::list_present(self.repository, self.index, &self.view)
    }

    /// Condemns, judges and deletes what nothing needs, as much at once as a catalog has room for.
    fn reclaim(
        &mut self,
        emptied: &PackSet,
        present: &mut sweep::Present,
    ) -> Result<(), RepositoryError> {
        loop {
            let was_full = self.is_full();
            self.step("condemning what nothing needs")?;
            let left = self.condemn(emptied)?;
            self.pass_verdicts()?;
            self.step("deleting")?;
            let deleted = self.sweep(present)?;
            self.report.postponed_packs = left;
            if left == 0 || deleted == 0 && !was_full {
                return Ok(());
            }
            // Dead packs stay in the catalog until no segment names them.
            self.merge(merge::Aim::NoDead)?;
            sweep::bury(self.repository, self.index, &mut self.view, present)?;
            if self.is_full() {
                return Ok(());
            }
        }
    }

    /// Whether no pack can be condemned for want of room.
    fn is_full(&self) -> bool {
        let catalog = &self.view.head.catalog;
        catalog.condemned.len() + catalog.dead.len() >= rules::many(ROWS_MAX, 3)
    }

    fn merge(&mut self, aim: merge::Aim) -> Result<(), RepositoryError> {
        let Self { repository, index, view, watch, .. } = self;
        let go_on = &mut || step(*watch, "merging index segments");
        self.report.merged_segments += merge::merge(repository, index, view, aim, go_on)?;
        Ok(())
    }

    fn sync(&self) -> Result<(), RepositoryError> {
        sync_whole(self.repository, self.index, &self.view)
    }

    fn end_dead_sessions(&mut self) -> Result<(), RepositoryError> {
        let dead = sweep::dead_sessions(self.repository, &self.view, self.options);
        for id in &dead {
            session::fence(self.repository, id)?;
        }
        self.report.fenced_sessions = dead.len() as u64;
        if !dead.is_empty() {
            self.view = View::for_maintenance(self.repository)?;
        }
        Ok(())
    }

    /// Checkpoints of killed runs that nobody has gone on from for long.
    ///
    /// * `is_dead`: whether a session that looks open is not.
    fn given_up(&self, is_dead: impl Fn(&SessionId) -> bool) -> Vec<SnapshotId> {
        let PruneOptions { cluster, keep_unfinished, .. } = self.options;
        let is_over = |session: &SessionId| is_dead(session) || self.view.is_over(session);
        let roots = self.view.all_snapshots().into_values();
        retention::given_up(roots, *cluster, *keep_unfinished, now_s(), is_over)
    }

    fn give_up_unfinished(&mut self) -> Result<(), RepositoryError> {
        let given_up = self.given_up(|_| false);
        if !given_up.is_empty() {
            let cluster = Some(self.options.cluster);
            self.report.forgotten_checkpoints = forget(self.repository, &given_up, cluster)?;
            self.view = View::for_maintenance(self.repository)?;
        }
        Ok(())
    }

    /// fold, undie, and the clean-up of what was folded before.
    fn fold(&mut self) -> Result<(), RepositoryError> {
        transition(self.repository, &mut self.view, |view, draft| {
            draft.fold(view, now_s());
            draft.undie(view);
            draft.drop_folded(view, now_s());
            Ok(())
        })?;
        sweep::clean_sessions(self.repository, &self.view)
    }

    /// * `without`: snapshots that need nothing any more.
    fn mark(&mut self, without: &[SnapshotId]) -> Result<(), RepositoryError> {
        // The view may list commits since the last sync: their chunks are not missing.
        self.sync()?;
        self.marks.refresh()?;
        let roots = self.view.root_snapshots().filter(|root| !without.contains(&root.id));
        self.marks.mark(&self.reader, roots, &PackSet::default())
    }

    fn repack_budget(&self) -> u64 {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a budget is no exact number, and a negative one means none"
        )]
        let budget = (self.report.bytes as f64 * self.options.max_repack) as u64;
        budget
    }

    fn choice<'c>(&'c self, tried: &'c PackSet, end: u32, budget_bytes: u64) -> Choice<'c> {
        let live_below = self.options.live_below;
        Choice { index: self.index, marks: &self.marks, tried, end, live_below, budget_bytes }
    }

    /// Writes the needed part of mostly empty packs again. Returns the packs emptied so.
    fn repack(&mut self) -> Result<PackSet, RepositoryError> {
        let (mut emptied, mut tried) = (PackSet::default(), PackSet::default());
        let mut left = self.repack_budget();
        let end = self.marks.end();
        loop {
            let chosen = self.choice(&tried, end, left).packs()?;
            if chosen.is_empty() {
                return Ok(emptied);
            }
            self.step("repacking")?;
            let before = self.report.repacked_bytes;
            let moved = self.repack_some(&chosen, &mut tried)?;
            left = left.saturating_sub(self.report.repacked_bytes - before);
            self.marks.refresh()?;
            self.marks.transfer(moved, &mut emptied)?;
        }
    }

    /// Where marks take much memory, packs get less.
    fn packs_beside_marks(&self) -> PackOptions {
        const MARKS_BYTES: usize = 16 << 20;
        let packs = self.options.packs;
        match self.marks.memory_bytes().saturating_sub(MARKS_BYTES) {
            0 => packs,
            over => {
                let left = packs.buffer_bytes().saturating_sub(over);
                PackOptions::within(left, packs.chunk_bytes)
            }
        }
    }

    /// Empties the first of the `chosen` packs, as a writer session whose commit is folded at
    /// once. Returns what was moved, and from which packs.
    fn repack_some(
        &mut self,
        chosen: &[u32],
        tried: &mut PackSet,
    ) -> Result<Vec<(ChunkId, u32)>, RepositoryError> {
        let options = WriterOptions {
            effort: Effort::default(),
            packs: self.packs_beside_marks(),
            cluster: self.options.cluster,
        };
        let (writer, _) = Writer::open(self.repository, Arc::clone(self.index), &options)?;
        let (mut moved, mut bytes) = (Vec::new(), 0);
        for number in chosen {
            self.step("repacking")?;
            tried.insert(*number);
            match repack::empty(&self.reader, &writer, *number, &self.marks) {
                Ok(chunks) => {
                    bytes += u64::from(self.marks.needed_bytes(*number));
                    self.report.repacked_packs += 1;
                    moved.extend(chunks.into_iter().map(|id| (id, *number)));
                }
                // A damaged pack stays as it is; verify names it.
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
            if bytes >= REPACK_BYTES || moved.len() >= REPACK_CHUNKS {
                break;
            }
        }
        self.report.repacked_bytes += bytes;
        writer.finish_repack()?;
        self.view = View::for_maintenance(self.repository)?;
        self.fold()?;
        self.sync()?;
        Ok(moved)
    }

    /// condemn: packs that no root of the very catalog that is being succeeded needs. Returns for
    /// how many of them there was no room.
    fn condemn(&mut self, emptied: &PackSet) -> Result<u64, RepositoryError> {
        let Self { repository, index, reader, marks, view, .. } = self;
        let mut left = 0;
        let mut is_marked = false;
        transition(repository, view, |view, draft| {
            if keeps(Rule::MarkedOnThisCatalog) || !is_marked {
                sync_whole(repository, index, view)?;
                marks.refresh()?;
                if keeps(Rule::StaleMarksAreRedone) && marks.are_stale() {
                    *marks = Marks::new(index);
                    marks.refresh()?;
                }
                marks.mark(reader, view.root_snapshots(), emptied)?;
                is_marked = true;
            }
            let catalog = &view.head.catalog;
            let taken = catalog.condemned.len() + catalog.dead.len();
            let room = rules::many(ROWS_MAX, 3).saturating_sub(taken);
            let mut names = Vec::new();
            left = 0;
            index.packs(&mut |number, row, state| {
                let is_idle = matches!(state, PackState::Live | PackState::Bad);
                if is_idle && marks.needed_bytes(number) == 0 {
                    if names.len() < room {
                        names.push(row.identity.name);
                    } else {
                        left += 1;
                    }
                }
                ControlFlow::Continue(())
            })?;
            if !keeps(Rule::CondemnedBeforeDead) {
                draft.condemn(names.clone());
                draft.pass_verdict(&names.iter().copied().collect(), &HashSet::new());
            }
            draft.condemn(names);
            Ok(())
        })?;
        Ok(left)
    }

    /// verdict: on every condemned pack that waits for nobody.
    fn pass_verdicts(&mut self) -> Result<(), RepositoryError> {
        let Self { repository, index, reader, view, report, .. } = self;
        let mut rescued = 0;
        transition(repository, view, |view, draft| {
            sync_whole(repository, index, view)?;
            let ripe: Vec<_> = view
                .head
                .catalog
                .condemned
                .iter()
                .filter(|condemned| draft::blocking(view, condemned.since).is_empty())
                .collect();
            let since = ripe.iter().map(|condemned| condemned.since);
            let since = if keeps(Rule::RootsSinceTheOldest) { since.min() } else { since.max() };
            let Some(since) = since else { return Ok(()) };
            let judged = ripe.iter().map(|condemned| condemned.pack).collect();
            let roots = draft::verdict_roots(view, since);
            let needed = mark::needed_of(reader, &judged, roots)?;
            rescued = needed.len() as u64;
            draft.pass_verdict(&judged, &needed);
            draft.undie(view);
            Ok(())
        })?;
        report.rescued_packs += rescued;
        Ok(())
    }

    /// Returns the number of packs deleted.
    fn sweep(&mut self, present: &mut sweep::Present) -> Result<u64, RepositoryError> {
        for _ in 0..TRIES {
            self.view = View::for_maintenance(self.repository)?;
            self.sync()?;
            let list_now = || sweep::list_present(self.repository, self.index, &self.view);
            let mut late = (!keeps(Rule::PacksListedFirst)).then(list_now).transpose()?;
            let present = late.as_mut().unwrap_or(present);
            // What nothing lists is a left-over only if no catalog newer than this view lists it.
            if catalog::newest_number(self.repository)? == self.view.head.catalog.n
                || !keeps(Rule::SweptOnNewest)
            {
                let swept = sweep::sweep(self.repository, self.index, &mut self.view, present)?;
                self.report.deleted_packs += swept.packs;
                self.report.deleted_bytes += swept.bytes;
                self.report.leftover_packs += swept.leftover_packs;
                self.report.leftover_bytes += swept.leftover_bytes;
                return Ok(swept.packs);
            }
        }
        Err(RepositoryError::Contended { tries: TRIES })
    }

    fn account(&mut self) -> Result<(), RepositoryError> {
        let Self { report, marks, .. } = self;
        self.index.packs(&mut |number, row, state| {
            if state == PackState::Dead {
                return ControlFlow::Continue(());
            }
            let (bytes, needed) = (u64::from(row.bytes), u64::from(marks.needed_bytes(number)));
            report.packs += 1;
            report.bytes += bytes;
            report.needed_bytes += needed;
            if needed > 0 {
                report.left_bytes += bytes.saturating_sub(needed);
            } else if matches!(state, PackState::Live | PackState::Bad) {
                report.unneeded_packs += 1;
                report.unneeded_bytes += bytes;
            }
            ControlFlow::Continue(())
        })?;
        report.missing_chunks = marks.missing;
        Ok(())
    }

    fn account_waiting(&mut self) -> Result<(), RepositoryError> {
        let mut sessions = HashSet::new();
        for condemned in &self.view.head.catalog.condemned {
            self.report.waiting_packs += 1;
            if let Some(number) = self.index.pack_number(&condemned.pack)?
                && let Some(row) = self.index.pack(number)?
            {
                self.report.waiting_bytes += u64::from(row.bytes);
            }
            sessions.extend(draft::blocking(&self.view, condemned.since));
        }
        self.report.waiting_for = sessions
            .into_iter()
            .map(|id| match self.view.sessions.get(&id) {
                Some(Some(session)) => {
                    format!("{id} ({} pid {})", session.process.host, session.process.pid)
                }
                _ => id.to_string(),
            })
            .collect();
        self.report.waiting_for.sort();
        Ok(())
    }
}

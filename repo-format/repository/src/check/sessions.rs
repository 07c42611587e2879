//! Sessions and their registers, and what this machine remembers of commits.

use std::collections::{BTreeMap, HashSet};

use repo_format::id::{PackName, SessionId};
use repo_format::key::{ObjectKey, Prefix};
use repo_format::session::Commit;
use repo_format::snapshot::{Completeness, Snapshot};

use super::{Checker, DamagedSnapshot, Sessions};
use crate::store::StoreError;
use crate::view::{self, Register};
use crate::{RepositoryError, catalog};

/// What a snapshot is named by when its manifest is lost as a whole.
pub(super) const EVERYTHING: &str = "everything";

/// A snapshot of which nothing can be restored.
pub(super) fn lost(id: &str, snapshot: Option<&Snapshot>) -> DamagedSnapshot {
    DamagedSnapshot {
        id: id.to_owned(),
        name: snapshot.map(|snapshot| snapshot.name.clone()).unwrap_or_default(),
        started_ns: snapshot.map_or(0, |snapshot| snapshot.started_ns),
        is_checkpoint: snapshot
            .is_some_and(|snapshot| snapshot.completeness == Completeness::Checkpoint),
        paths: vec![EVERYTHING.to_owned()],
        path_count: 1,
    }
}

impl Checker<'_> {
    pub(super) fn check_sessions(&mut self) -> Result<(), RepositoryError> {
        let folded = self.folded();
        let open: Vec<SessionId> =
            self.view.sessions.keys().filter(|id| !folded.contains(*id)).copied().collect();
        self.report.checked.sessions = open.len() as u64;
        self.check_session_records(&open)?;
        let damaged: Vec<SessionId> = self.view.damaged.iter().copied().collect();
        let damaged = self.confirm(damaged, |checker, id| {
            let what = "it is damaged: what its session committed is not listed, and kept";
            Ok(checker.view.damaged.contains(id).then(|| what.to_owned()))
        })?;
        for (id, what) in damaged {
            self.findings.problem(ObjectKey::Commit(id), what);
            self.findings.damaged_snapshot(self.lost_with(&id));
        }
        self.check_lone_registers()
    }

    fn folded(&self) -> Sessions {
        self.view.head.catalog.folded.iter().map(|folded| folded.session).collect()
    }

    /// What is known of the snapshot that session `id` committed: checkpoints of the same run
    /// tell its name.
    fn lost_with(&self, id: &SessionId) -> DamagedSnapshot {
        let of_run = |snapshot: &&&Snapshot| snapshot.holds == Some(*id);
        let all = self.view.all_snapshots();
        let checkpoint = all.values().find(of_run).copied();
        DamagedSnapshot { is_checkpoint: false, ..lost(&id.to_string(), checkpoint) }
    }

    fn check_session_records(&mut self, open: &[SessionId]) -> Result<(), RepositoryError> {
        let mut highest = None;
        let mut unreadable = Vec::new();
        for id in open {
            match self.view.sessions.get(id) {
                Some(Some(session)) => highest = highest.max(Some((session.base, *id))),
                _ => unreadable.push(*id),
            }
        }
        // Read after the sessions were: it cannot be less than what any of them began with.
        let newest = match catalog::newest_number(self.repository) {
            Ok(newest) => newest,
            Err(error) if error.is_damage() => 0,
            Err(error) => return Err(error),
        };
        if let Some((base, id)) = highest.filter(|(base, _)| *base > newest) {
            let session = ObjectKey::Session(id);
            let what = format!("the newest catalog is {newest}, but {session} began with {base}");
            self.findings.problem("cat/", what);
        }
        let unreadable = self.confirm(unreadable, |checker, id| {
            let exists = match checker.repository.store().size(&ObjectKey::Session(*id)) {
                Ok(_) => true,
                Err(StoreError::Missing { .. }) => false,
                Err(error) => return Err(error.into()),
            };
            let is_lost = matches!(checker.view.sessions.get(id), Some(None));
            let is_open = !checker.folded().contains(id);
            Ok((exists && is_lost && is_open).then(|| "it cannot be read".to_owned()))
        })?;
        for (id, what) in unreadable {
            self.findings.problem(ObjectKey::Session(id), what);
        }
        Ok(())
    }

    /// A commit counts only while its session's record exists, which is removed only once the
    /// commit is folded.
    fn check_lone_registers(&mut self) -> Result<(), RepositoryError> {
        if !self.view.warnings.is_empty() {
            // With the catalog lost, it is not known what was folded, and every commit counts.
            return Ok(());
        }
        let folded = self.folded();
        let alone =
            |id: &&SessionId| !self.view.sessions.contains_key(*id) && !folded.contains(*id);
        let lone: Vec<SessionId> = self.view.registers.iter().filter(alone).copied().collect();
        let guilty = self.confirm(lone, |checker, id| {
            Ok(checker
                .lone_commit(id)?
                .map(|_| "it is missing, so what the session committed does not count".to_owned()))
        })?;
        for (id, what) in guilty {
            self.findings.problem(ObjectKey::Session(id), what);
            if let Some(snapshot) = self.lone_commit(&id)?.and_then(|commit| commit.snapshot) {
                self.findings.damaged_snapshot(lost(&id.to_string(), Some(&snapshot)));
            }
        }
        Ok(())
    }

    fn lone_commit(&self, id: &SessionId) -> Result<Option<Commit>, RepositoryError> {
        let is_alone = self.view.registers.contains(id)
            && !self.view.sessions.contains_key(id)
            && !self.folded().contains(id)
            && !self.view.head.snapshots.contains_key(id);
        if !is_alone {
            return Ok(None);
        }
        match view::read_register(self.repository, id)? {
            Some(Register::Commit(commit)) => Ok(Some(*commit)),
            _ => Ok(None),
        }
    }

    /// Packs that a commit made visible once stay listed until they are declared dead. The local
    /// cache remembers packs that were: one that is stored, not dead, and not listed any more
    /// shows that a commit or a catalog was removed, which nothing that is left could tell.
    pub(super) fn check_promises(&mut self) -> Result<(), RepositoryError> {
        if !self.findings.is_empty() {
            // A lost segment or catalog explains it, and is named.
            return Ok(());
        }
        let dead: HashSet<PackName> = self.view.head.catalog.dead.iter().copied().collect();
        let suspects = self.once_listed(&dead)?;
        let guilty = self.confirm(suspects, |checker, pack| {
            let is_dead = checker.view.head.catalog.dead.contains(pack);
            let still = !is_dead && checker.index.was_listed(pack)? && checker.is_stored(pack)?;
            Ok(still.then(String::new))
        })?;
        let mut packs_of: BTreeMap<SessionId, u64> = BTreeMap::new();
        for (pack, _) in guilty {
            *packs_of.entry(pack.session).or_default() += 1;
        }
        let folded = self.folded();
        for (id, packs) in packs_of {
            let is_open = self.view.sessions.contains_key(&id) && !folded.contains(&id);
            let object =
                if is_open { ObjectKey::Commit(id).to_string() } else { "cat/".to_owned() };
            let what = format!(
                "{packs} packs of session {id} were committed and are listed no more: its commit, \
                 that of one of its checkpoints, or a newer catalog was removed"
            );
            self.findings.problem(object, what);
            self.findings.damaged_snapshot(self.lost_with(&id));
        }
        Ok(())
    }

    /// Stored packs that were listed once. The cache remembers many that were deleted since.
    fn once_listed(&self, dead: &HashSet<PackName>) -> Result<Vec<PackName>, RepositoryError> {
        let (mut found, mut failure) = (Vec::new(), None);
        if self.index.once_listed() == 0 {
            return Ok(found);
        }
        self.repository.store().list(Prefix::Packs, &mut |listed| {
            let ObjectKey::Pack(name) = listed.key else { return Ok(()) };
            match self.index.was_listed(&name) {
                Ok(true) if !dead.contains(&name) => found.push(name),
                Ok(_) => {}
                Err(error) => failure = failure.take().or(Some(error)),
            }
            Ok(())
        })?;
        failure.map_or(Ok(found), |error| Err(error.into()))
    }

    fn is_stored(&self, pack: &PackName) -> Result<bool, RepositoryError> {
        match self.repository.store().size(&ObjectKey::Pack(*pack)) {
            Ok(_) => Ok(true),
            Err(StoreError::Missing { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

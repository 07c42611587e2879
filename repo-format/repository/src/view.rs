//! What a repository holds at one moment: the newest catalog and the commits not folded into it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use repo_format::id::{ClusterId, SessionId, SnapshotId};
use repo_format::key::{ObjectKey, Prefix};
use repo_format::limits::RECORD_BYTES_MAX;
use repo_format::session::{Commit, FENCE, Session};
use repo_format::snapshot::{Completeness, Snapshot};

use crate::catalog::{self, Head};
use crate::index::IndexView;
use crate::rules::{Rule, keeps};
use crate::store::{Store, StoreError};
use crate::{Repository, RepositoryError, recover};

/// What a session's register holds.
#[derive(Debug, Clone)]
pub enum Register {
    /// A commit.
    Commit(Box<Commit>),
    /// A fence.
    Fence,
    /// Neither: damaged in storage, or planted. It commits nothing, and what its session stored
    /// is kept until someone has looked at it.
    Damaged,
}

/// The repository at one moment.
#[derive(Debug, Clone)]
pub struct View {
    /// The newest catalog.
    pub head: Head,
    /// Sessions that exist, folded or not. `None`: the record cannot be read.
    pub sessions: BTreeMap<SessionId, Option<Session>>,
    /// Registers that exist, folded or not.
    pub registers: BTreeSet<SessionId>,
    /// Valid commits that the catalog does not have yet.
    pub unfolded: BTreeMap<SessionId, Commit>,
    /// Fenced sessions that are not folded yet.
    pub fenced: BTreeSet<SessionId>,
    /// Sessions whose register is damaged.
    pub damaged: BTreeSet<SessionId>,
    /// Not empty if the newest catalog or a page of it cannot be read: what is wrong, and what
    /// is shown instead. Only [`Self::for_reading`] goes on then.
    pub warnings: Vec<String>,
    /// Whether a listed register was gone when it was read.
    is_torn: bool,
}

/// Session and register names under a prefix.
fn list_ids(store: &dyn Store, prefix: Prefix) -> Result<BTreeSet<SessionId>, StoreError> {
    let mut ids = BTreeSet::new();
    store.list(prefix, &mut |listed| {
        if let ObjectKey::Session(id) | ObjectKey::Commit(id) | ObjectKey::Heartbeat(id) =
            listed.key
        {
            ids.insert(id);
        }
        Ok(())
    })?;
    Ok(ids)
}

/// Sessions that exist now.
///
/// # Errors
///
/// The store failed.
pub fn list_sessions(repository: &Repository) -> Result<BTreeSet<SessionId>, RepositoryError> {
    Ok(list_ids(&**repository.store(), Prefix::Sessions)?)
}

/// Registers that exist now.
///
/// # Errors
///
/// The store failed.
pub fn list_registers(repository: &Repository) -> Result<BTreeSet<SessionId>, RepositoryError> {
    Ok(list_ids(&**repository.store(), Prefix::Commits)?)
}

/// Sessions that have a heartbeat now.
///
/// # Errors
///
/// The store failed.
pub fn list_heartbeats(repository: &Repository) -> Result<BTreeSet<SessionId>, RepositoryError> {
    Ok(list_ids(&**repository.store(), Prefix::Heartbeats)?)
}

/// Registers and sessions, in this order or the other.
fn list_both(
    repository: &Repository,
    registers_first: bool,
) -> Result<(BTreeSet<SessionId>, BTreeSet<SessionId>), RepositoryError> {
    if registers_first {
        let registers = list_registers(repository)?;
        return Ok((registers, list_sessions(repository)?));
    }
    let sessions = list_sessions(repository)?;
    Ok((list_registers(repository)?, sessions))
}

/// What the register of `id` holds; `None` if it does not exist.
///
/// # Errors
///
/// The store failed, or the register needs a newer program.
pub fn read_register(
    repository: &Repository,
    id: &SessionId,
) -> Result<Option<Register>, RepositoryError> {
    let key = ObjectKey::Commit(*id);
    let sealed = match repository.store().get(&key, RECORD_BYTES_MAX) {
        Err(StoreError::Missing { .. }) => return Ok(None),
        Err(StoreError::TooLarge { .. }) => return Ok(Some(Register::Damaged)),
        other => other?,
    };
    if sealed == FENCE {
        return Ok(Some(Register::Fence));
    }
    let commit = repository.open_sealed(&key, sealed).and_then(|plain| {
        Commit::decode(&plain).map_err(|error| RepositoryError::format(key, error))
    });
    match commit {
        Ok(commit) => Ok(Some(Register::Commit(Box::new(commit)))),
        Err(RepositoryError::Damaged { .. }) => Ok(Some(Register::Damaged)),
        Err(error) => Err(error),
    }
}

/// The record of session `id`; `None` if it does not exist or is damaged.
fn read_session(
    repository: &Repository,
    id: &SessionId,
) -> Result<Option<Session>, RepositoryError> {
    let key = ObjectKey::Session(*id);
    let plain = match repository.get_sealed(&key) {
        Ok(plain) => plain,
        Err(
            RepositoryError::Store(
                StoreError::Missing { .. }
                | StoreError::Short { .. }
                | StoreError::TooLarge { .. }
                // As if it were open: it is waited for.
                | StoreError::Io { .. },
            )
            | RepositoryError::Damaged { .. },
        ) => return Ok(None),
        Err(error) => return Err(error),
    };
    match Session::decode(&plain).map_err(|error| RepositoryError::format(key, error)) {
        Ok(session) => Ok(Some(session)),
        Err(RepositoryError::Damaged { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

impl View {
    /// What a writer may reference: the catalog first (O3), then registers, then sessions (O4).
    /// In this order a commit is seen as long as its session is not cleaned away.
    ///
    /// # Errors
    ///
    /// The store failed, or the catalog is damaged.
    pub fn for_writing(repository: &Repository) -> Result<Self, RepositoryError> {
        Self::catalog_first(repository, keeps(Rule::RegistersFirst))
    }

    fn catalog_first(
        repository: &Repository,
        registers_first: bool,
    ) -> Result<Self, RepositoryError> {
        let list = || list_both(repository, registers_first);
        let early = (!keeps(Rule::ListsAfterCatalog)).then(list).transpose()?;
        let head = catalog::newest(repository)?;
        let (registers, sessions) = early.map_or_else(list, Ok)?;
        Self::assemble(repository, head, registers, sessions, false)
    }

    /// What a maintainer decides on, in the order of [`Self::for_writing`]: a session that ends
    /// between the lists counts as open, which only makes others wait. The other order would miss
    /// a part that is opened and committed between them.
    ///
    /// # Errors
    ///
    /// The store failed, or the catalog is damaged.
    pub fn for_maintenance(repository: &Repository) -> Result<Self, RepositoryError> {
        Self::catalog_first(repository, keeps(Rule::MaintainersListRegistersFirst))
    }

    /// What a reader may list: registers and sessions first, then the catalog. A commit folded
    /// meanwhile is then in the catalog. If the newest catalog cannot be read, the newest one
    /// that can be is completed from other objects, and [`Self::warnings`] tells.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub fn for_reading(repository: &Repository) -> Result<Self, RepositoryError> {
        const TRIES: u32 = 8;
        let mut view = Self::try_for_reading(repository)?;
        for _ in 1..TRIES {
            if !view.is_torn || !keeps(Rule::TornIsReadAgain) {
                break;
            }
            view = Self::try_for_reading(repository)?;
        }
        Ok(view)
    }

    fn try_for_reading(repository: &Repository) -> Result<Self, RepositoryError> {
        let newest = || catalog::newest(repository);
        let early = (!keeps(Rule::ReadersListFirst)).then(newest);
        let (registers, mut sessions) = list_both(repository, true)?;
        let (head, warnings) = match early.unwrap_or_else(newest) {
            Ok(head) => (head, Vec::new()),
            Err(error) if recover::is_lost(&error) => {
                let recovered = recover::newest_readable(repository, 0, false)?;
                // A session is removed before its register, and only once it is folded: into the
                // lost catalog, as it seems.
                sessions.extend(&registers);
                (recovered.head, recovered.warnings)
            }
            Err(error) => return Err(error),
        };
        let view = Self::assemble(repository, head, registers, sessions, true)?;
        Ok(Self { warnings, ..view })
    }

    /// `may_skip`: a register that cannot be read at the moment counts as damaged. Who deletes
    /// must not: the snapshot in it is a root.
    fn assemble(
        repository: &Repository,
        head: Head,
        registers: BTreeSet<SessionId>,
        session_ids: BTreeSet<SessionId>,
        may_skip: bool,
    ) -> Result<Self, RepositoryError> {
        let folded: HashSet<SessionId> =
            head.catalog.folded.iter().map(|folded| folded.session).collect();
        let mut sessions = BTreeMap::new();
        for id in session_ids {
            let record = if folded.contains(&id) { None } else { read_session(repository, &id)? };
            sessions.insert(id, record);
        }
        let mut is_torn = false;
        let (mut unfolded, mut fenced, mut damaged) =
            (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        let counts = |id: &SessionId| sessions.contains_key(id) || !keeps(Rule::CommitNeedsSession);
        for id in registers.iter().filter(|id| !folded.contains(id) && counts(id)) {
            let register = match read_register(repository, id) {
                Err(error) if may_skip && recover::is_lost(&error) => Some(Register::Damaged),
                other => other?,
            };
            match register {
                Some(Register::Commit(commit)) => {
                    unfolded.insert(*id, *commit);
                }
                Some(Register::Fence) => {
                    fenced.insert(*id);
                }
                Some(Register::Damaged) => {
                    damaged.insert(*id);
                }
                // Folded and cleaned since it was listed: a newer catalog has it.
                None => is_torn = true,
            }
        }
        let warnings = Vec::new();
        Ok(Self { head, sessions, registers, unfolded, fenced, damaged, warnings, is_torn })
    }

    /// This view with the lists of an older one.
    pub(crate) fn with_lists_of(mut self, older: &Self) -> Self {
        let folded: HashSet<SessionId> =
            self.head.catalog.folded.iter().map(|folded| folded.session).collect();
        self.sessions.clone_from(&older.sessions);
        self.registers.clone_from(&older.registers);
        self.unfolded.clone_from(&older.unfolded);
        self.unfolded.retain(|id, _| !folded.contains(id));
        self.fenced.retain(|id| older.fenced.contains(id));
        self
    }

    /// Every snapshot, checkpoints among them, ascending by id. Those that an unfolded commit
    /// supersedes are left out.
    pub fn all_snapshots(&self) -> BTreeMap<SnapshotId, &Snapshot> {
        let mut all: BTreeMap<SnapshotId, &Snapshot> =
            self.head.snapshots.iter().map(|(id, listed)| (*id, &listed.snapshot)).collect();
        for commit in self.unfolded.values() {
            if let Some(snapshot) = &commit.snapshot {
                all.insert(snapshot.id, snapshot);
            }
        }
        for id in self.unfolded.values().flat_map(|commit| &commit.forgets) {
            all.remove(id);
        }
        all
    }

    /// Roots of garbage collection: everything in the catalog and in unfolded commits,
    /// checkpoints included, whether superseded or not.
    pub fn root_snapshots(&self) -> impl Iterator<Item = &Snapshot> {
        let listed = self.head.snapshots.values().map(|listed| &listed.snapshot);
        listed.chain(self.unfolded.values().filter_map(|commit| commit.snapshot.as_ref()))
    }

    /// The snapshots a user sees: no checkpoints; oldest first.
    pub fn snapshots(&self) -> Vec<&Snapshot> {
        let mut snapshots: Vec<&Snapshot> = self
            .all_snapshots()
            .into_values()
            .filter(|snapshot| snapshot.completeness != Completeness::Checkpoint)
            .collect();
        snapshots.sort_by_key(|snapshot| (snapshot.started_ns, snapshot.id));
        snapshots
    }

    /// The checkpoints of a volume: what killed runs left, and what running ones will supersede.
    pub fn checkpoints<'a>(
        &'a self,
        name: &'a str,
        source: &'a str,
    ) -> impl Iterator<Item = &'a Snapshot> {
        self.all_snapshots().into_values().filter(move |snapshot| {
            snapshot.completeness == Completeness::Checkpoint
                && snapshot.name == name
                && snapshot.source == source
        })
    }

    /// All checkpoints, oldest first: of runs that go on, and of runs that were killed.
    pub fn unfinished(&self) -> Vec<&Snapshot> {
        let all = self.all_snapshots().into_values();
        let mut unfinished: Vec<&Snapshot> =
            all.filter(|snapshot| snapshot.completeness == Completeness::Checkpoint).collect();
        unfinished.sort_by_key(|snapshot| (snapshot.started_ns, snapshot.id));
        unfinished
    }

    /// Whether a session can commit no more: it has a register, or is gone.
    pub fn is_over(&self, session: &SessionId) -> bool {
        self.registers.contains(session)
            || !self.sessions.contains_key(session)
            || self.head.catalog.folded.iter().any(|folded| folded.session == *session)
    }

    /// What the index must know to answer for this view.
    pub fn index_view(&self) -> IndexView {
        let catalog = &self.head.catalog;
        let mut segments = catalog.segments.clone();
        segments.extend(self.unfolded.values().flat_map(|commit| &commit.segments));
        IndexView {
            segments,
            condemned: catalog.condemned.iter().map(|condemned| condemned.pack).collect(),
            dead: catalog.dead.clone(),
            bad: catalog.bad.clone(),
        }
    }

    /// Finds a snapshot by what a user typed: an id, a unique prefix of one, `latest`, or
    /// `NAME@latest`. The newest of `own` cluster goes before newer ones of others.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::NoSnapshot`], [`RepositoryError::Ambiguous`].
    pub fn find(&self, wanted: &str, own: ClusterId) -> Result<&Snapshot, RepositoryError> {
        let snapshots = self.snapshots();
        let name = wanted.strip_suffix("@latest");
        if name.is_some() || wanted == "latest" {
            let named = |snapshot: &&Snapshot| name.is_none_or(|name| snapshot.name == name);
            let newest = snapshots.into_iter().filter(named).enumerate();
            let newest = newest.max_by_key(|(place, snapshot)| (snapshot.cluster == own, *place));
            return newest.map(|(_, snapshot)| snapshot).ok_or_else(|| no_snapshot(wanted));
        }
        the_one(snapshots, wanted)
    }

    /// Finds a checkpoint by its id or a unique prefix of it.
    ///
    /// # Errors
    ///
    /// As [`Self::find`].
    pub fn find_unfinished(&self, wanted: &str) -> Result<&Snapshot, RepositoryError> {
        the_one(self.unfinished(), wanted)
    }
}

fn no_snapshot(wanted: &str) -> RepositoryError {
    RepositoryError::NoSnapshot { wanted: wanted.to_owned() }
}

/// The only one whose id starts with `wanted`.
fn the_one<'a>(
    snapshots: Vec<&'a Snapshot>,
    wanted: &str,
) -> Result<&'a Snapshot, RepositoryError> {
    let is_meant =
        |snapshot: &&Snapshot| !wanted.is_empty() && snapshot.id.to_string().starts_with(wanted);
    let matching: Vec<&Snapshot> = snapshots.into_iter().filter(is_meant).collect();
    match matching.as_slice() {
        [] => Err(no_snapshot(wanted)),
        [snapshot] => Ok(snapshot),
        several => {
            let ids: Vec<String> = several
                .iter()
                .take(3)
                .map(|snapshot| snapshot.id.to_string().chars().take(16).collect())
                .collect();
            Err(RepositoryError::Ambiguous {
                wanted: wanted.to_owned(),
                count: several.len(),
                examples: ids.join(", "),
            })
        }
    }
}

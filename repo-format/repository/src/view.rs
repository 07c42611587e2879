//! What a repository holds at one moment: the newest catalog and the commits not folded into it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use repo_format::catalog::Catalog;
use repo_format::id::{ClusterId, SessionId, SnapshotId};
use repo_format::key::{ObjectKey, Prefix};
use repo_format::limits::RECORD_BYTES_MAX;
use repo_format::session::{Commit, FENCE, Session};
use repo_format::snapshot::{Completeness, Snapshot};

use crate::catalog::{self, Head};
use crate::glance::Glance;
use crate::index::IndexView;
use crate::parallel::{both, try_each};
use crate::rules::{Rule, keeps};
use crate::store::{Store, StoreError};
use crate::{Repository, RepositoryError, lock, recover};

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
    /// Sessions that exist, folded or not. `None`: the record cannot be read, or was not read because
    /// the view is for a writer.
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
    /// Whether the catalogs were listed before all else.
    is_catalog_first: bool,
}

/// Session and register names under a prefix.
pub(crate) fn list_ids(
    store: &dyn Store,
    prefix: Prefix,
) -> Result<BTreeSet<SessionId>, StoreError> {
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

/// Whether the records of open sessions are read. Only who decides what may go needs them, and there
/// are as many as there are agents at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Records {
    Read,
    Leave,
}

/// Names that were listed, to be read.
struct Listed<'a> {
    registers: BTreeSet<SessionId>,
    sessions: BTreeSet<SessionId>,
    /// A view from before, which spares reading again what is written once.
    known: Option<&'a View>,
    records: Records,
    /// A register that cannot be read at the moment counts as damaged. Who deletes must not: the
    /// snapshot in it is a root.
    may_skip: bool,
}

/// What they were found to be.
struct Found {
    sessions: BTreeMap<SessionId, Option<Session>>,
    registers: BTreeSet<SessionId>,
    unfolded: BTreeMap<SessionId, Commit>,
    fenced: BTreeSet<SessionId>,
    damaged: BTreeSet<SessionId>,
    is_torn: bool,
}

impl Listed<'_> {
    fn read(self, repository: &Repository, catalog: &Catalog) -> Result<Found, RepositoryError> {
        lock::learn(&**repository.store(), catalog.lock.as_ref());
        let folded: HashSet<SessionId> =
            catalog.folded.iter().map(|folded| folded.session).collect();
        let is_open = |id: &&SessionId| !folded.contains(*id);
        let open: Vec<SessionId> = self.sessions.iter().filter(is_open).copied().collect();
        let counts =
            |id: &&SessionId| self.sessions.contains(*id) || !keeps(Rule::CommitNeedsSession);
        let ended = self.registers.iter().filter(is_open).filter(counts);
        let ended: Vec<SessionId> = ended.copied().collect();
        let (records, registers) = both(
            || try_each(&open, |id| self.record(repository, id)),
            || try_each(&ended, |id| self.register(repository, id)),
        );
        let mut sessions: BTreeMap<_, _> = self.sessions.iter().map(|id| (*id, None)).collect();
        sessions.extend(open.into_iter().zip(records?));
        let mut found = Found {
            sessions,
            registers: self.registers,
            unfolded: BTreeMap::new(),
            fenced: BTreeSet::new(),
            damaged: BTreeSet::new(),
            is_torn: false,
        };
        for (id, register) in ended.into_iter().zip(registers?) {
            match register {
                Some(Register::Commit(commit)) => {
                    found.unfolded.insert(id, *commit);
                }
                Some(Register::Fence) => {
                    found.fenced.insert(id);
                }
                Some(Register::Damaged) => {
                    found.damaged.insert(id);
                }
                // Folded and cleaned since it was listed: a newer catalog has it.
                None => found.is_torn = true,
            }
        }
        Ok(found)
    }

    fn record(
        &self,
        repository: &Repository,
        id: &SessionId,
    ) -> Result<Option<Session>, RepositoryError> {
        let known = self.known.and_then(|known| known.sessions.get(id)?.clone());
        if known.is_some() || self.records == Records::Leave {
            return Ok(known);
        }
        read_session(repository, id)
    }

    fn register(
        &self,
        repository: &Repository,
        id: &SessionId,
    ) -> Result<Option<Register>, RepositoryError> {
        if let Some(register) = self.known.and_then(|known| known.register(id)) {
            return Ok(Some(register));
        }
        match read_register(repository, id) {
            Err(error) if self.may_skip && recover::is_lost(&error) => Ok(Some(Register::Damaged)),
            other => other,
        }
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
        Self::listed(repository, None, Records::Leave, keeps(Rule::RegistersFirst))
    }

    /// As [`Self::for_writing`]. What is there is listed anew; of what was there before and is
    /// written only once, the content is taken from `known` rather than read again.
    ///
    /// # Errors
    ///
    /// As [`Self::for_writing`].
    pub fn for_writing_after(
        repository: &Repository,
        known: Option<&Self>,
    ) -> Result<Self, RepositoryError> {
        Self::listed(repository, known, Records::Leave, keeps(Rule::RegistersFirst))
    }

    fn listed(
        repository: &Repository,
        known: Option<&Self>,
        records: Records,
        registers_first: bool,
    ) -> Result<Self, RepositoryError> {
        // One with warnings has a head that was put together from what is left.
        let known = known.filter(|known| known.warnings.is_empty());
        let list = || list_both(repository, registers_first);
        let early = (!keeps(Rule::ListsAfterCatalog)).then(list).transpose()?;
        let head = catalog::newest_after(repository, known.map(|known| &known.head))?;
        let (registers, sessions) = early.map_or_else(list, Ok)?;
        let listed = Listed { registers, sessions, known, records, may_skip: false };
        let found = listed.read(repository, &head.catalog)?;
        Ok(Self { is_catalog_first: true, ..Self::of(head, found, Vec::new()) })
    }

    /// What a maintainer decides on, the records of open sessions included. In the order of
    /// [`Self::for_writing`]: a session that ends between the lists counts as open, which only makes others wait. The other order would miss
    /// a part that is opened and committed between them.
    ///
    /// # Errors
    ///
    /// The store failed, or the catalog is damaged.
    pub fn for_maintenance(repository: &Repository) -> Result<Self, RepositoryError> {
        let order = keeps(Rule::MaintainersListRegistersFirst);
        Self::listed(repository, None, Records::Read, order)
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
        let records = Records::Read;
        let listed = Listed { registers, sessions, known: None, records, may_skip: true };
        let found = listed.read(repository, &head.catalog)?;
        Ok(Self::of(head, found, warnings))
    }

    /// What a glance shows, with what it names read; `None` if any of it cannot be read, or is gone
    /// since. Good for [`Self::renewed`] only: nothing holds what it shows.
    pub fn of_glance(repository: &Repository, glance: &Glance) -> Option<Self> {
        let sealed = glance.sealed.clone();
        let (catalog, hash) = catalog::open_bare(repository, glance.n, sealed).ok()?;
        let listed = Listed {
            registers: glance.registers.clone(),
            sessions: glance.sessions.clone(),
            known: None,
            records: Records::Leave,
            may_skip: false,
        };
        let (snapshots, found) = both(
            || catalog::load_pages(repository, &catalog),
            || listed.read(repository, &catalog),
        );
        let (snapshots, found) = (snapshots.ok()?, found.ok()?);
        let view = Self::of(Head { catalog, hash, snapshots }, found, Vec::new());
        (!view.is_torn).then_some(Self { is_catalog_first: true, ..view })
    }

    /// A view that is as good as one that is taken now.
    ///
    /// What this one shows is that, if the newest catalog still is the one that all else was listed
    /// after: only a newer one could make a snapshot, a segment or a commit of it go. It may lack what
    /// was committed since.
    ///
    /// # Errors
    ///
    /// As [`Self::for_writing`].
    pub fn renewed(self, repository: &Repository) -> Result<Self, RepositoryError> {
        if self.is_current(repository)? {
            return Ok(self);
        }
        Self::for_writing_after(repository, Some(&self))
    }

    /// Whether [`Self::renewed`] would give this very view.
    pub(crate) fn is_current(&self, repository: &Repository) -> Result<bool, RepositoryError> {
        let is_fit = self.is_catalog_first && !self.is_torn;
        Ok(is_fit && catalog::newest_number(repository)? == self.head.catalog.n)
    }

    /// As [`Self::for_reading`], but for the records of sessions; from a glance, if nothing has
    /// changed since.
    ///
    /// # Errors
    ///
    /// As [`Self::for_reading`].
    pub fn for_reading_after(
        repository: &Repository,
        glance: Option<&Glance>,
    ) -> Result<Self, RepositoryError> {
        let Some(glance) = glance else { return Self::for_reading(repository) };
        // As in `for_reading` a listing of the catalogs is the last.
        let (newest, view) =
            both(|| catalog::newest_number(repository), || Self::of_glance(repository, glance));
        match view {
            Some(view) if newest? == glance.n => Ok(view),
            _ => Self::for_reading(repository),
        }
    }

    fn of(head: Head, found: Found, warnings: Vec<String>) -> Self {
        let Found { sessions, registers, unfolded, fenced, damaged, is_torn } = found;
        let is_catalog_first = false;
        Self {
            head,
            sessions,
            registers,
            unfolded,
            fenced,
            damaged,
            warnings,
            is_torn,
            is_catalog_first,
        }
    }

    /// A commit or a fence that was read for this view.
    fn register(&self, id: &SessionId) -> Option<Register> {
        let commit = self.unfolded.get(id).map(|commit| Register::Commit(Box::new(commit.clone())));
        commit.or_else(|| self.fenced.contains(id).then_some(Register::Fence))
    }

    /// Sessions that have ended and are not folded into the catalog yet.
    pub fn waiting(&self) -> usize {
        self.unfolded.len() + self.fenced.len()
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
            || self.head.catalog.is_folded(session)
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use zeroize::Zeroizing;

    use repo_format::id::PackName;

    use super::*;
    use crate::effort::Effort;
    use crate::index::Index;
    use crate::packer::PackOptions;
    use crate::session::OpenSession;
    use crate::store::wrap::{Meter, Metered};
    use crate::store::{Memory, Op};
    use crate::writer::{Writer, WriterOptions};
    use crate::{InitOptions, UnlockSecret, random};

    fn committed(repository: &Arc<Repository>) {
        let session = OpenSession::writer(repository, ClusterId::NONE).unwrap();
        let nonce = random::bytes().unwrap();
        let (segments, forgets) = (Vec::new(), Vec::new());
        session.commit(&Commit { nonce, segments, snapshot: None, forgets }).unwrap();
    }

    #[test]
    fn a_view_after_another_reads_only_what_is_new_and_shows_the_same() {
        let (repository, meter) = counted();
        committed(&repository);
        OpenSession::writer(&repository, ClusterId::NONE).unwrap().abandon().unwrap();
        let known = View::for_writing(&repository).unwrap();
        assert_eq!(known.waiting(), 2);

        let after = || {
            let before = meter.read().requests(Op::Get);
            let view = View::for_writing_after(&repository, Some(&known)).unwrap();
            (meter.read().requests(Op::Get) - before, view)
        };
        let (reads, same) = after();
        assert_eq!(reads, 0);
        assert_eq!(
            (same.sessions, same.registers),
            (known.sessions.clone(), known.registers.clone())
        );
        assert!(same.unfolded.keys().eq(known.unfolded.keys()));
        assert_eq!(same.fenced, known.fenced);

        committed(&repository);
        let (reads, newer) = after();
        assert_eq!((reads, newer.waiting()), (1, 3), "the new register");
    }

    /// A repository whose requests are counted.
    fn counted() -> (Arc<Repository>, Arc<Meter>) {
        let store = Metered::new(Memory::default());
        let meter = store.meter();
        let secret = UnlockSecret::KeyFile(Zeroizing::new(vec![7; 32]));
        let made = Repository::init(Arc::new(store), &secret, &InitOptions::default());
        (Arc::new(made.unwrap()), meter)
    }

    /// The next version of the catalog, which calls a pack bad.
    fn call_bad(repository: &Repository, pack: PackName) {
        let head = catalog::newest(repository).unwrap();
        let next = Catalog { bad: vec![pack], ..head.catalog.clone() };
        let snapshots = head.snapshots.clone();
        assert!(catalog::publish(repository, &head, next, snapshots).unwrap().is_some());
    }

    #[test]
    fn a_view_is_taken_for_a_new_one_only_as_long_as_there_is_no_newer_catalog() {
        let (repository, meter) = counted();
        committed(&repository);
        let glance = || Glance::take(&**repository.store()).unwrap().unwrap();
        let first = glance();
        let seen = View::of_glance(&repository, &first).unwrap();
        assert_eq!(seen.waiting(), 1);
        let before = meter.read();
        let same = seen.clone().renewed(&repository).unwrap();
        let after = meter.read();
        assert_eq!(after.requests(Op::ListFirst) - before.requests(Op::ListFirst), 1);
        for op in [Op::Get, Op::List] {
            assert_eq!(after.requests(op), before.requests(op), "{op:?}");
        }
        assert_eq!(same.head.catalog.n, seen.head.catalog.n);

        let pack = PackName { session: SessionId([9; 16]), counter: 0 };
        call_bad(&repository, pack);
        let newer = seen.renewed(&repository).unwrap();
        assert_eq!(newer.head.catalog.bad, [pack]);
        let listed = View::for_reading_after(&repository, Some(&first)).unwrap();
        assert_eq!(listed.head.catalog.bad, [pack], "an old glance is no news");
        let seen = View::of_glance(&repository, &glance()).unwrap();
        let listed = View::for_reading(&repository).unwrap();
        assert!(!listed.is_current(&repository).unwrap(), "its catalog was listed last");
        assert!(seen.is_current(&repository).unwrap());
    }

    #[test]
    fn a_writer_that_begins_with_a_glance_relies_on_nothing_older_than_its_session() {
        let (repository, _) = counted();
        let glance = Glance::take(&**repository.store()).unwrap().unwrap();
        let pack = PackName { session: SessionId([9; 16]), counter: 0 };
        call_bad(&repository, pack);
        let folder = tempfile::tempdir().unwrap();
        let index = Index::open(folder.path(), repository.id(), 8 << 20).unwrap();
        let options = WriterOptions {
            effort: Effort::default(),
            packs: PackOptions::within(24 << 20, 1 << 20),
            cluster: ClusterId::NONE,
        };
        let (index, patience) = (Arc::new(index), std::time::Duration::MAX);
        let opened = Writer::open_after(&repository, index, &options, Some(&glance), patience);
        let (writer, _) = opened.unwrap();
        assert_eq!(writer.view().head.catalog.bad, [pack]);
        let sessions = list_sessions(&repository).unwrap();
        let record = read_session(&repository, sessions.first().unwrap()).unwrap().unwrap();
        assert_eq!(record.base, 0, "what was the newest when the glance was taken");
    }
}

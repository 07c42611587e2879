//! Opening a session, keeping it visibly alive, and ending it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use repo_format::catalog::Catalog;
use repo_format::id::{ClusterId, SessionId, SnapshotId};
use repo_format::key::ObjectKey;
use repo_format::session::{Commit, FENCE, Session, SessionKind};

use crate::parallel::both;
use crate::repository::now_s;
use crate::rules::{Rule, keeps};
use crate::store::StoreError;
use crate::view::{self, Register, View};
use crate::{Repository, RepositoryError, catalog, process, random, rules};

/// How often a session's heartbeat is rewritten.
pub const HEARTBEAT: Duration = Duration::from_secs(20);

/// Views that a reader takes at most before a snapshot counts as gone.
const VIEWS_MAX: u32 = 8;

/// A session that this process has open.
#[derive(Debug)]
pub struct OpenSession {
    repository: Arc<Repository>,
    id: SessionId,
    kind: SessionKind,
    base: u64,
    heartbeat: Option<Heartbeat>,
    ended: AtomicBool,
}

#[derive(Debug)]
struct Heartbeat {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl OpenSession {
    /// Opens a writer session (O1, O2). What it may reference is what a view taken *afterwards*
    /// shows.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub fn writer(
        repository: &Arc<Repository>,
        cluster: ClusterId,
    ) -> Result<Self, RepositoryError> {
        let base = catalog::newest_number(repository)?;
        Self::writer_from(repository, cluster, base)
    }

    /// As [`Self::writer`].
    ///
    /// * `base`: the number of a catalog that was the newest at some moment before (O1). An older one
    ///   only makes verdicts wait for this session that could do without.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub(crate) fn writer_from(
        repository: &Arc<Repository>,
        cluster: ClusterId,
        base: u64,
    ) -> Result<Self, RepositoryError> {
        let record = blank(SessionKind::Writer, base, cluster);
        Self::create(repository, &record, true)
    }

    /// Opens a session that commits a part of what `main` has done. It inherits `main`'s base, so
    /// a verdict that would wait for `main` waits for it too.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::Fenced`] if `main` was fenced: verdicts may have been passed since.
    pub fn part_of(main: &Self, cluster: ClusterId) -> Result<Self, RepositoryError> {
        let base = if keeps(Rule::PartTakesBase) {
            main.base
        } else {
            catalog::newest_number(&main.repository)?
        };
        let record =
            Session { part_of: Some(main.id), ..blank(SessionKind::Writer, base, cluster) };
        // The order matters: the part is visible before main is seen to be still open.
        if keeps(Rule::PartBeforeMainIsSeen) {
            let part = Self::create(&main.repository, &record, false)?;
            main.see_open()?;
            return Ok(part);
        }
        main.see_open()?;
        Self::create(&main.repository, &record, false)
    }

    /// That a register is missing proves only while the session's record, which is removed first,
    /// is there, and was never removed.
    fn see_open(&self) -> Result<(), RepositoryError> {
        if keeps(Rule::RegisterSeenBeforeRecord) {
            self.see_no_register()?;
            self.see_record()?;
        } else {
            self.see_record()?;
            self.see_no_register()?;
        }
        match self.folded_in()? {
            None => Ok(()),
            Some(_) => Err(RepositoryError::Fenced { session: self.id }),
        }
    }

    /// The newest catalog, if it says that this session was folded. Its record may be there all
    /// the same: a request to create it, repeated by a process that slept for long or landing for
    /// a second time, comes after the session was fenced, folded and cleaned.
    fn folded_in(&self) -> Result<Option<Catalog>, RepositoryError> {
        // No version up to the base is younger than the session.
        if !keeps(Rule::FoldedIsOver) || catalog::newest_number(&self.repository)? == self.base {
            return Ok(None);
        }
        let catalog = catalog::newest_bare(&self.repository)?;
        Ok(Some(catalog).filter(|catalog| catalog.is_folded(&self.id)))
    }

    /// Whether a view taken since the session was created shows that it is over already; see
    /// [`Self::commit`].
    pub(crate) fn is_over_in(&self, view: &View) -> bool {
        keeps(Rule::FoldedIsOver) && view.head.catalog.is_folded(&self.id)
    }

    fn see_no_register(&self) -> Result<(), RepositoryError> {
        match self.repository.store().size(&ObjectKey::Commit(self.id)) {
            Ok(_) if keeps(Rule::MainHasNoRegister) => {
                Err(RepositoryError::Fenced { session: self.id })
            }
            Ok(_) | Err(StoreError::Missing { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn see_record(&self) -> Result<(), RepositoryError> {
        match self.repository.store().size(&ObjectKey::Session(self.id)) {
            Err(StoreError::Missing { .. }) if keeps(Rule::MainHasRecord) => {
                Err(RepositoryError::Fenced { session: self.id })
            }
            Ok(_) | Err(StoreError::Missing { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a session that keeps `snapshot` from being collected while it is read.
    ///
    /// * `known`: a view from before, so that less is asked and read again.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::NoSnapshot`] if it was forgotten before the session was visible.
    pub fn reader(
        repository: &Arc<Repository>,
        cluster: ClusterId,
        snapshot: SnapshotId,
        known: Option<&View>,
    ) -> Result<(Self, View), RepositoryError> {
        let base = match known {
            Some(known) => known.head.catalog.n,
            None => catalog::newest_number(repository)?,
        };
        let record =
            Session { pinned: Some(snapshot), ..blank(SessionKind::Reader, base, cluster) };
        let take_view = |known: Option<&View>| {
            let view = match known {
                Some(known) => known.clone().renewed(repository),
                None => View::for_writing(repository),
            };
            match view {
                // Nothing can be collected until the catalog is repaired.
                Err(RepositoryError::CatalogUnreadable { .. }) => View::for_reading(repository),
                other => other,
            }
        };
        let early = (!keeps(Rule::PinBeforeView)).then(|| take_view(known)).transpose()?;
        let session = Self::create(repository, &record, true)?;
        let mut view = early.map_or_else(|| take_view(known), Ok)?;
        if session.is_over_in(&view) {
            drop(session);
            return Self::reader(repository, cluster, snapshot, None);
        }
        for _ in 0..VIEWS_MAX {
            if view.all_snapshots().contains_key(&snapshot) {
                return Ok((session, view));
            }
            // If it was folded after the catalog was read, and its session cleaned before the lists
            // were taken, it is in neither.
            let newest = catalog::newest_number(repository)?;
            if newest == view.head.catalog.n || !keeps(Rule::AbsentOnNewest) {
                break;
            }
            view = take_view(None)?;
        }
        Err(RepositoryError::NoSnapshot { wanted: snapshot.to_string() })
    }

    fn create(
        repository: &Arc<Repository>,
        record: &Session,
        beats: bool,
    ) -> Result<Self, RepositoryError> {
        let id = SessionId(random::bytes()?);
        repository.put_sealed(&ObjectKey::Session(id), &record.encode())?;
        // A simulation decides who acts next: no thread of an agent may act by itself.
        let beats = beats && !rules::is_simulated();
        let heartbeat = beats.then(|| start_heartbeat(Arc::clone(repository), id));
        let (kind, base, ended) = (record.kind, record.base, AtomicBool::new(false));
        Ok(Self { repository: Arc::clone(repository), id, kind, base, heartbeat, ended })
    }

    /// The session's id.
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// The repository.
    pub const fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// Makes everything in `commit` visible at once (C2, C3). When this returns `Ok` it is
    /// durable and listed for every reader.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::Fenced`]: nothing became visible. [`RepositoryError::Store`]: it is not
    /// known whether it did; a later view tells.
    pub fn commit(&self, commit: &Commit) -> Result<(), RepositoryError> {
        let key = ObjectKey::Commit(self.id);
        match self.repository.put_sealed(&key, &commit.encode()) {
            Ok(()) => {}
            Err(RepositoryError::Store(StoreError::Exists { .. })) => {
                match view::read_register(&self.repository, &self.id)? {
                    Some(Register::Commit(there)) if there.nonce == commit.nonce => {}
                    _ if !keeps(Rule::FenceEndsSession) => {}
                    _ => return Err(RepositoryError::Fenced { session: self.id }),
                }
            }
            Err(error) => return Err(error),
        }
        if keeps(Rule::CommitIsConfirmed) {
            self.confirm(commit)?;
        }
        self.ended.store(true, Ordering::Release);
        Ok(())
    }

    /// C3: a commit counts only while its session exists and was not folded, or once its snapshot is
    /// listed.
    fn confirm(&self, commit: &Commit) -> Result<(), RepositoryError> {
        let size = || self.repository.store().size(&ObjectKey::Session(self.id));
        let (there, folded) = both(size, || self.folded_in());
        match (there, folded?) {
            (Ok(_), None) => return Ok(()),
            (Ok(_) | Err(StoreError::Missing { .. }), _) => {}
            (Err(error), _) => return Err(error.into()),
        }
        // Being folded is no proof: fences are folded too.
        let head = catalog::newest(&self.repository)?;
        let listed = match &commit.snapshot {
            _ if !keeps(Rule::FoldedIsNoProof) => head.catalog.is_folded(&self.id),
            Some(_) => head.snapshots.contains_key(&self.id),
            None => commit.segments.iter().all(|segment| head.catalog.segments.contains(segment)),
        };
        if listed { Ok(()) } else { Err(RepositoryError::Fenced { session: self.id }) }
    }

    /// Ends the session without a commit: what it stored and did not commit becomes garbage. A
    /// reader, who cannot commit, takes its record away, if it may; otherwise, as of a writer, the
    /// record is left to a maintainer. Without a call to this, a drop does it as far as the store
    /// allows.
    ///
    /// # Errors
    ///
    /// The store failed; a maintainer will end the session later.
    pub fn abandon(&self) -> Result<(), RepositoryError> {
        if self.ended.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let is_reader = self.kind == SessionKind::Reader;
        if is_reader && self.repository.store().delete(&ObjectKey::Session(self.id)).is_ok() {
            return Ok(());
        }
        fence(&self.repository, &self.id)
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        // A failure here is harmless: whoever prunes next ends the session.
        drop(self.abandon());
        if let Some(Heartbeat { stop, thread }) = self.heartbeat.take() {
            drop(stop);
            drop(thread.join());
        }
    }
}

/// The record of a session of this process.
fn blank(kind: SessionKind, base: u64, cluster: ClusterId) -> Session {
    let (process, opened_s) = (process::current(), now_s());
    Session { kind, base, pinned: None, part_of: None, cluster, process, opened_s }
}

/// Ends a session that will not commit any more. A commit that is there already stays.
///
/// # Errors
///
/// The store failed.
pub fn fence(repository: &Repository, id: &SessionId) -> Result<(), RepositoryError> {
    match repository.store().put_new(&ObjectKey::Commit(*id), FENCE) {
        Ok(()) | Err(StoreError::Exists { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Rewrites `hb/<sid>` until the session ends. It proves liveness only: a store that refuses it
/// does not stop the session.
fn start_heartbeat(repository: Arc<Repository>, id: SessionId) -> Heartbeat {
    let (stop, stopped) = bounded::<()>(0);
    let thread = std::thread::spawn(move || {
        let key = ObjectKey::Heartbeat(id);
        let mut beat = 0u64;
        while stopped.recv_timeout(HEARTBEAT) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
            beat += 1;
            drop(repository.store().put(&key, &beat.to_le_bytes()));
        }
        if beat > 0 {
            drop(repository.store().delete(&key));
        }
    });
    Heartbeat { stop, thread }
}

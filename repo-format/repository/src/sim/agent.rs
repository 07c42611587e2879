//! What the agents do, with the code of the product.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use repo_format::frame::Compression;
use repo_format::id::{ChunkId, ClusterId, PackName, SnapshotId};
use repo_format::pack::PackKind;
use repo_format::snapshot::{Completeness, Snapshot, VolumeKind};
use repo_format::volume::{Page, PageRef, Slot, VolumeRoot};
use tempfile::TempDir;

use super::oracle::is_open;
use super::plan::{Backup, Job, Prune, Which};
use super::store::SimStore;
use super::world::World;
use crate::chunks::{ChunkSink, ChunkSource};
use crate::effort::Effort;
use crate::gc::{self, PruneOptions, Unwatched};
use crate::glance::Glance;
use crate::index::Index;
use crate::packer::PackOptions;
use crate::reader::Reader;
use crate::session::OpenSession;
use crate::store::wrap::{Retry, RetryPolicy};
use crate::store::{Store, StoreError};
use crate::view::View;
use crate::writer::{Writer, WriterOptions, sync_index};
use crate::{Repository, RepositoryError};

const CHUNK_LOG2: u8 = 16;
/// Two or three chunks to a pack.
const PACKS: PackOptions =
    PackOptions { data_bytes: 300, meta_bytes: 700, chunk_bytes: 1 << 10, buffers: 3, uploads: 0 };

/// A reader takes a new view this often when something moved under it.
const READS_MAX: u32 = 4;

/// One process of an agent.
pub(super) struct Process {
    world: Arc<World>,
    agent: usize,
    repository: Arc<Repository>,
    index: Arc<Index>,
    glances: bool,
}

/// A manifest: the chunk in each slot, and the chunks that it is made of.
struct Known {
    id: SnapshotId,
    root: ChunkId,
    page: ChunkId,
    slots: Vec<Slot>,
}

pub(super) fn chunk(number: u64) -> Vec<u8> {
    format!("chunk {number}, which is not long").into_bytes()
}

/// The store of an agent's process.
pub(super) fn store(world: &Arc<World>, agent: usize, retries: bool) -> Arc<dyn Store> {
    let store = SimStore::new(world, agent);
    if retries {
        let policy = RetryPolicy {
            tries_max: 4,
            wait_first: Duration::ZERO,
            wait_max: Duration::ZERO,
            budget: Duration::from_hours(1),
        };
        Arc::new(Retry::new(store, policy, Arc::new(AtomicBool::new(false))))
    } else {
        Arc::new(store)
    }
}

pub(super) fn prune_options(job: &Prune) -> PruneOptions {
    #[expect(clippy::cast_precision_loss, reason = "a few percent")]
    let live_below = job.live_below as f64 / 100.0;
    PruneOptions {
        dry_run: false,
        max_repack: 1.0,
        live_below,
        fence_after: if job.fences { Duration::ZERO } else { Duration::from_mins(15) },
        keep_unfinished: Duration::from_hours(24),
        memory_file: None,
        cluster: ClusterId::NONE,
        packs: PACKS,
    }
}

/// Whether a run may end so: it was stopped, and says so.
fn is_expected(error: &RepositoryError) -> bool {
    match error {
        RepositoryError::Store(error) => {
            matches!(error, StoreError::Unavailable { .. } | StoreError::GaveUp { .. })
        }
        RepositoryError::Fenced { .. }
        | RepositoryError::Contended { .. }
        | RepositoryError::NoSnapshot { .. }
        | RepositoryError::Cancelled => true,
        _ => false,
    }
}

impl Process {
    pub(super) fn new(
        world: &Arc<World>,
        agent: usize,
        repository: Arc<Repository>,
        cache: &TempDir,
        glances: bool,
    ) -> Self {
        let index = Index::open(cache.path(), repository.id(), 1 << 20).unwrap();
        Self { world: Arc::clone(world), agent, repository, index: Arc::new(index), glances }
    }

    /// Does a job; what it could not do, it says.
    pub(super) fn run(&self, job: &Job) {
        self.world.note(self.agent, &format!("{job:?}"));
        let done = match job {
            Job::Backup(job) => self.back_up(job),
            Job::Read(which) => self.read(*which),
            Job::List => self.list().map(drop),
            Job::Forget(which) => self.forget(which),
            Job::Prune(job) => {
                gc::prune(&self.repository, &self.index, &prune_options(job), &Unwatched).map(drop)
            }
            Job::Fold => gc::fold_if_many(&self.repository, usize::MAX - 1),
            Job::Bad(which) => self.mark_bad(which.as_ref()),
        };
        if let Err(error) = done {
            self.world.note(self.agent, &format!("ended: {error}"));
            if !is_expected(&error) {
                self.world.with_oracle(|oracle| oracle.odd(&error));
            }
        }
    }

    fn back_up(&self, job: &Backup) -> Result<(), RepositoryError> {
        let options = WriterOptions {
            effort: Effort::Fixed(Compression::Off),
            packs: PACKS,
            cluster: ClusterId::NONE,
        };
        let store = self.repository.store();
        let glance = if self.glances { Glance::take(&**store)? } else { None };
        let index = Arc::clone(&self.index);
        // Some go on with a part of the index.
        let is_patient = !self.glances || self.agent.is_multiple_of(2);
        let patience = if is_patient { Duration::MAX } else { Duration::ZERO };
        let (writer, _) =
            Writer::open_after(&self.repository, index, &options, glance.as_ref(), patience)?;
        let waiting = writer.view().waiting();
        let parents = self.parents(&writer, job);
        let trusts = writer.trusts_parents();
        let mut slots = vec![Slot::Missing; job.slots.len()];
        for (at, number) in job.slots.iter().enumerate() {
            let plain = chunk(*number);
            let id = self.repository.keys().chunk_id(PackKind::Data, &plain);
            let is_same = |parent: &Known| parent.slots.get(at) == Some(&Slot::Data(id));
            if !(trusts && parents.iter().any(is_same)) {
                writer.put_identified(PackKind::Data, &id, &plain)?;
            }
            slots[at] = Slot::Data(id);
            if job.checkpoints.contains(&at) {
                let root = self.put_manifest(&writer, &parents, &slots, &job.slots[..=at])?;
                let record =
                    Snapshot { completeness: Completeness::Checkpoint, ..record(job, root) };
                writer.checkpoint(record)?;
            }
        }
        let root = self.put_manifest(&writer, &parents, &slots, &job.slots)?;
        if job.abandons {
            return Ok(());
        }
        let name = volume(job.volume);
        let superseded =
            writer.view().checkpoints(&name, &name).map(|checkpoint| checkpoint.id).collect();
        let snapshot = writer.finish(record(job, root), superseded)?;
        self.world.with_oracle(|oracle| oracle.reported.insert(snapshot.id));
        self.world.note(self.agent, "saved");
        gc::fold_if_many(&self.repository, waiting)
    }

    /// The newest snapshot of the volume and what killed runs left of it, as far as they can be
    /// read.
    fn parents(&self, writer: &Writer, job: &Backup) -> Vec<Known> {
        if !job.parent {
            return Vec::new();
        }
        let (view, name) = (writer.view(), volume(job.volume));
        let snapshots = view.snapshots();
        let newest = snapshots.into_iter().rev().find(|snapshot| snapshot.name == name);
        let reader = Reader::new(&self.repository, Arc::clone(&self.index));
        let known = |snapshot: &Snapshot| read_manifest(&reader, snapshot).ok();
        view.checkpoints(&name, &name).chain(newest).filter_map(known).collect()
    }

    /// Stores what a parent does not have of a manifest, and returns its root.
    fn put_manifest(
        &self,
        writer: &Writer,
        parents: &[Known],
        slots: &[Slot],
        numbers: &[u64],
    ) -> Result<ChunkId, RepositoryError> {
        let mut page = Page::default();
        page.slots[..slots.len()].copy_from_slice(slots);
        let keys = self.repository.keys();
        let trusts = writer.trusts_parents();
        let put = |plain: &[u8]| {
            let id = keys.chunk_id(PackKind::Meta, plain);
            let is_same = |parent: &Known| parent.page == id || parent.root == id;
            if trusts && parents.iter().any(is_same) {
                return Ok(id);
            }
            writer.put(PackKind::Meta, plain)
        };
        let page = put(&page.encode())?;
        let size_bytes = (slots.len() as u64) << CHUNK_LOG2;
        let pages = vec![PageRef::Page(page)];
        let root = put(&VolumeRoot { size_bytes, chunk_log2: CHUNK_LOG2, pages }.encode())?;
        let mut refers = vec![root, page];
        refers.extend(slots.iter().filter_map(|slot| match slot {
            Slot::Data(id) => Some(*id),
            _ => None,
        }));
        let numbers = numbers.to_vec();
        self.world.with_oracle(|oracle| oracle.will_commit(root, refers, numbers));
        Ok(root)
    }

    /// Lists the snapshots: what was saved before must be there.
    fn list(&self) -> Result<View, RepositoryError> {
        let before = self.world.with_oracle(|oracle| oracle.promised());
        let view = View::for_reading(&self.repository)?;
        let after = self.world.with_oracle(|oracle| oracle.promised());
        let listed = view.all_snapshots();
        if let Some(lost) = before.intersection(&after).find(|id| !listed.contains_key(*id)) {
            self.world.violated(format!("{lost} was saved before and is not listed"));
        }
        Ok(view)
    }

    fn read(&self, which: Which) -> Result<(), RepositoryError> {
        let view = self.list()?;
        let Some(id) = choose(&view, which).first().copied() else { return Ok(()) };
        let promised = || self.world.with_oracle(|oracle| oracle.promised().contains(&id));
        let was_promised = promised();
        let known = self.glances.then_some(&view);
        let pinned = OpenSession::reader(&self.repository, ClusterId::NONE, id, known);
        let (session, mut view) = match pinned {
            Err(RepositoryError::NoSnapshot { wanted }) if was_promised && promised() => {
                self.world.violated(format!("{id} is there and cannot be pinned"));
                return Err(RepositoryError::NoSnapshot { wanted });
            }
            opened => opened?,
        };
        let snapshot = view.all_snapshots()[&id].clone();
        self.world.with_oracle(|oracle| oracle.pinned(session.id(), &snapshot));
        for tried in 1.. {
            sync_index(&self.repository, &self.index, &view)?;
            let reader = Reader::new(&self.repository, Arc::clone(&self.index));
            let error = match self.read_all(&reader, &snapshot) {
                Err(error) if error.is_damage() => error,
                done => return done,
            };
            // D2: things may have moved since the view was taken.
            if !is_open(&self.world.objects, &session.id()) {
                return Err(RepositoryError::Fenced { session: session.id() });
            }
            if tried == READS_MAX {
                self.world.violated(format!("{id} is pinned and cannot be read: {error}"));
                return Err(error);
            }
            view = View::for_writing(&self.repository)?;
        }
        Ok(())
    }

    fn read_all(&self, reader: &Reader, snapshot: &Snapshot) -> Result<(), RepositoryError> {
        let found = read_snapshot(reader, snapshot)?;
        let expected =
            self.world.with_oracle(|oracle| oracle.contents.get(&snapshot.root).cloned());
        if expected.as_ref() != Some(&found) {
            self.world.violated(format!("{} gives {found:?}, not {expected:?}", snapshot.id));
        }
        Ok(())
    }

    fn forget(&self, which: &[Which]) -> Result<(), RepositoryError> {
        let view = self.list()?;
        let ids: Vec<SnapshotId> = which.iter().flat_map(|which| choose(&view, *which)).collect();
        self.world.with_oracle(|oracle| oracle.forgotten.extend(&ids));
        gc::forget(&self.repository, &ids, None)?;
        self.world.with_oracle(|oracle| oracle.gone.extend(&ids));
        Ok(())
    }

    fn mark_bad(&self, which: Option<&String>) -> Result<(), RepositoryError> {
        let bad: Vec<PackName> =
            which.map(|name| self.world.pack_named(name).unwrap()).into_iter().collect();
        gc::record_bad(&self.repository, &bad)
    }
}

fn volume(number: u64) -> String {
    format!("volume{number}")
}

fn record(job: &Backup, root: ChunkId) -> Snapshot {
    let started_ns = i64::try_from(crate::repository::now_s()).unwrap() * 1_000_000_000;
    let blank = Snapshot::new(volume(job.volume), VolumeKind::Block, root);
    Snapshot { started_ns, finished_ns: started_ns, ..blank }
}

fn choose(view: &View, which: Which) -> Vec<SnapshotId> {
    let snapshots: Vec<SnapshotId> = view.snapshots().iter().map(|snapshot| snapshot.id).collect();
    match which {
        Which::All => snapshots,
        Which::Newest => snapshots.last().copied().into_iter().collect(),
        Which::Nth(nth) => {
            let at = nth.checked_rem(snapshots.len() as u64);
            at.map(|at| snapshots[usize::try_from(at).unwrap()]).into_iter().collect()
        }
    }
}

fn read_manifest(reader: &Reader, snapshot: &Snapshot) -> Result<Known, RepositoryError> {
    let mut plain = Vec::new();
    let named = |error| RepositoryError::format("manifest", error);
    reader.get(PackKind::Meta, &snapshot.root, &mut plain)?;
    let root = VolumeRoot::decode(&plain).map_err(named)?;
    let [PageRef::Page(page)] = root.pages[..] else { panic!("a volume of another shape") };
    reader.get(PackKind::Meta, &page, &mut plain)?;
    let mut slots = Page::decode(&plain).map_err(named)?.slots;
    slots.truncate(usize::try_from(root.chunks()).unwrap());
    Ok(Known { id: snapshot.id, root: snapshot.root, page, slots })
}

/// The numbers of a snapshot's chunks, read back.
pub(super) fn read_snapshot(
    reader: &Reader,
    snapshot: &Snapshot,
) -> Result<Vec<u64>, RepositoryError> {
    let known = read_manifest(reader, snapshot)?;
    debug_assert_eq!(known.id, snapshot.id);
    let mut plain = Vec::new();
    let mut numbers = Vec::new();
    for slot in known.slots {
        let Slot::Data(id) = slot else { continue };
        reader.get(PackKind::Data, &id, &mut plain)?;
        let number = (0..super::plan::CHUNKS).find(|number| chunk(*number) == plain);
        numbers.push(number.expect("a chunk that nobody stored"));
    }
    Ok(numbers)
}

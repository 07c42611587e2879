//! What must hold at every moment, looked up in the objects themselves after each change.
//!
//! The invariants are those of FORMAT.md, "Protocol". Nothing here uses the index or the garbage
//! collection: where a chunk is, is read from the segments that the catalog lists.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use repo_format::id::{CHUNK_PREFIX_LEN, ChunkId, PackName, SegmentName, SessionId, SnapshotId};
use repo_format::key::{ObjectKey, Prefix};
use repo_format::segment::Row;
use repo_format::session::{Commit, SegmentRef};
use repo_format::snapshot::Snapshot;

use super::request::Write;
use crate::catalog::{self, Head};
use crate::segments::Source;
use crate::store::{Memory, Store};
use crate::view::{self, Register};
use crate::{Repository, RepositoryError};

type ChunkPrefix = [u8; CHUNK_PREFIX_LEN];

/// What can be read.
#[derive(Debug, Default)]
struct Places {
    chunks: HashSet<ChunkPrefix>,
    /// Packs that a segment names and that are dead or not there.
    lost: BTreeSet<PackName>,
}

/// What is known besides what is stored: what the agents were told, and what they did.
#[derive(Debug)]
pub(super) struct Oracle {
    /// Reads the objects without anybody's turn.
    direct: Arc<Repository>,
    /// Every chunk that a manifest refers to, itself included, by its root.
    manifests: HashMap<ChunkId, Vec<ChunkId>>,
    /// The chunks' numbers, by the root of the manifest.
    pub(super) contents: HashMap<ChunkId, Vec<u64>>,
    /// Told to be saved.
    pub(super) reported: BTreeSet<SnapshotId>,
    /// Somebody may have asked to forget them.
    pub(super) forgotten: BTreeSet<SnapshotId>,
    /// Told to be forgotten.
    pub(super) gone: BTreeSet<SnapshotId>,
    /// Reader sessions that were told that they hold a snapshot.
    pins: BTreeMap<SessionId, Snapshot>,
    /// Packs that some catalog called dead.
    dead: HashSet<PackName>,
    head: Option<Head>,
    segments: HashMap<SegmentName, Arc<Vec<(ChunkPrefix, PackName)>>>,
    pub(super) checks: u64,
    /// Errors that no fault explains.
    pub(super) odds: Vec<String>,
}

/// Whether a session is there and not over.
pub(super) fn is_open(objects: &Memory, session: &SessionId) -> bool {
    objects.size(&ObjectKey::Session(*session)).is_ok()
        && objects.size(&ObjectKey::Commit(*session)).is_err()
}

impl Oracle {
    pub(super) fn new(direct: Arc<Repository>) -> Self {
        Self {
            direct,
            manifests: HashMap::new(),
            contents: HashMap::new(),
            reported: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            gone: BTreeSet::new(),
            pins: BTreeMap::new(),
            dead: HashSet::new(),
            head: None,
            segments: HashMap::new(),
            checks: 0,
            odds: Vec::new(),
        }
    }

    /// Takes note of an error that no fault explains.
    pub(super) fn odd(&mut self, error: &RepositoryError) {
        self.odds.push(crate::recover::describe(error));
    }

    /// A manifest is about to be committed: what it refers to, and the numbers of its chunks.
    pub(super) fn will_commit(&mut self, root: ChunkId, refers: Vec<ChunkId>, content: Vec<u64>) {
        self.manifests.insert(root, refers);
        self.contents.insert(root, content);
    }

    pub(super) fn pinned(&mut self, session: SessionId, snapshot: &Snapshot) {
        self.pins.insert(session, snapshot.clone());
    }

    /// What was told to be saved and nobody asked to forget.
    pub(super) fn promised(&self) -> BTreeSet<SnapshotId> {
        self.reported.difference(&self.forgotten).copied().collect()
    }

    /// Looks at everything that `write` may have broken.
    pub(super) fn after(&mut self, objects: &Memory, write: &Write) -> Result<(), String> {
        let Some(prefix) = write.key().prefix() else { return Ok(()) };
        let is_delete = matches!(write, Write::Delete(_));
        if matches!(prefix, Prefix::Catalogs | Prefix::CatalogPages) {
            self.head = None;
        } else if !is_delete && !matches!(prefix, Prefix::Commits | Prefix::Sessions) {
            // More packs and segments break nothing.
            return Ok(());
        }
        self.check(objects)
    }

    /// Looks at everything, whatever it knew before.
    pub(super) fn look(&mut self, objects: &Memory) -> Result<(), String> {
        self.head = None;
        self.check(objects)
    }

    fn check(&mut self, objects: &Memory) -> Result<(), String> {
        self.checks += 1;
        let head = match self.head.take() {
            Some(head) => head,
            None => self.read_head()?,
        };
        let checked = self.check_head(objects, &head);
        self.head = Some(head);
        checked
    }

    fn read_head(&mut self) -> Result<Head, String> {
        let head = catalog::newest_number(&self.direct)
            .and_then(|n| catalog::load(&self.direct, n))
            .map_err(|error| format!("the newest catalog cannot be read: {error}"))?;
        self.dead.extend(&head.catalog.dead);
        if head.catalog.n > 0
            && let Ok((_, hash)) = catalog::load_bare(&self.direct, head.catalog.n - 1)
            && hash != head.catalog.previous
        {
            return Err(format!("I8: catalog {} was not built on the one before", head.catalog.n));
        }
        Ok(head)
    }

    fn check_head(&mut self, objects: &Memory, head: &Head) -> Result<(), String> {
        let unfolded = self.unfolded(objects, head)?;
        let mut valid: BTreeMap<SnapshotId, &Snapshot> =
            head.snapshots.iter().map(|(id, listed)| (*id, &listed.snapshot)).collect();
        for commit in &unfolded {
            valid.extend(commit.snapshot.iter().map(|snapshot| (snapshot.id, snapshot)));
        }
        for id in self.promised() {
            if !valid.contains_key(&id) {
                return Err(format!(
                    "I2: {id} was reported saved, nobody forgot it, and it is gone"
                ));
            }
        }
        if let Some(id) = self.gone.iter().find(|id| valid.contains_key(*id)) {
            return Err(format!("{id} was reported forgotten, and is there"));
        }
        let places = self.places(objects, head, &unfolded)?;
        for (id, snapshot) in &valid {
            if let Some(lost) = places.lost.iter().find(|pack| Some(pack.session) == snapshot.holds)
            {
                return Err(format!("checkpoint {id} holds {lost}, which is gone"));
            }
            self.check_snapshot(&places, &snapshot.root, &format!("I1: {id}"))?;
        }
        self.pins.retain(|session, _| is_open(objects, session));
        for (session, snapshot) in &self.pins {
            let what = format!("I3: {}, pinned by {session},", snapshot.id);
            self.check_snapshot(&places, &snapshot.root, &what)?;
        }
        Ok(())
    }

    /// Valid commits that are not folded.
    fn unfolded(&self, objects: &Memory, head: &Head) -> Result<Vec<Commit>, String> {
        let mut unfolded = Vec::new();
        let folded: HashSet<SessionId> =
            head.catalog.folded.iter().map(|folded| folded.session).collect();
        for key in objects.keys() {
            let ObjectKey::Commit(id) = key else { continue };
            if folded.contains(&id) || objects.size(&ObjectKey::Session(id)).is_err() {
                continue;
            }
            match view::read_register(&self.direct, &id) {
                Ok(Some(Register::Commit(commit))) => unfolded.push(*commit),
                Ok(_) => {}
                Err(error) => return Err(format!("register {id} cannot be read: {error}")),
            }
        }
        Ok(unfolded)
    }

    /// Chunks that can be read and will be: in packs that are present, named by a segment that is
    /// present, and not dead.
    fn places(
        &mut self,
        objects: &Memory,
        head: &Head,
        unfolded: &[Commit],
    ) -> Result<Places, String> {
        let dead: HashSet<PackName> = head.catalog.dead.iter().copied().collect();
        let mut present: HashMap<PackName, bool> = HashMap::new();
        let mut places = Places::default();
        let of_commits = unfolded.iter().flat_map(|commit| &commit.segments);
        for segment in head.catalog.segments.iter().chain(of_commits) {
            for (prefix, pack) in &*self.entries(objects, segment)? {
                if self.dead.contains(pack) && !dead.contains(pack) {
                    return Err(format!("I5: {pack} was dead and a segment names it again"));
                }
                let is_present = *present.entry(*pack).or_insert_with(|| {
                    !dead.contains(pack) && objects.size(&ObjectKey::Pack(*pack)).is_ok()
                });
                if is_present {
                    places.chunks.insert(*prefix);
                } else {
                    places.lost.insert(*pack);
                }
            }
        }
        Ok(places)
    }

    fn entries(
        &mut self,
        objects: &Memory,
        segment: &SegmentRef,
    ) -> Result<Arc<Vec<(ChunkPrefix, PackName)>>, String> {
        if objects.size(&ObjectKey::Segment(segment.name)).is_err() {
            return Err(format!("I4: segment {} is listed and gone", segment.name));
        }
        if let Some(entries) = self.segments.get(&segment.name) {
            return Ok(Arc::clone(entries));
        }
        let entries = self
            .read_entries(segment)
            .map_err(|error| format!("segment {} cannot be read: {error}", segment.name))?;
        let entries = Arc::new(entries);
        self.segments.insert(segment.name, Arc::clone(&entries));
        Ok(entries)
    }

    fn read_entries(
        &self,
        segment: &SegmentRef,
    ) -> Result<Vec<(ChunkPrefix, PackName)>, RepositoryError> {
        let (mut packs, mut entries) = (Vec::new(), Vec::new());
        Source::new(&self.direct).rows(segment, &mut |row| {
            match row {
                Row::Pack(pack) => packs.push(pack.identity.name),
                Row::Entry(entry) => {
                    entries.push((entry.prefix, packs[entry.pack as usize]));
                }
            }
            ControlFlow::Continue(())
        })?;
        Ok(entries)
    }

    fn check_snapshot(&self, places: &Places, root: &ChunkId, what: &str) -> Result<(), String> {
        if *root == ChunkId::NONE {
            return Ok(());
        }
        let Some(refers) = self.manifests.get(root) else {
            return Err(format!("{what} has a manifest that nobody made"));
        };
        match refers.iter().find(|id| !places.chunks.contains(&id.prefix())) {
            None => Ok(()),
            Some(id) => Err(format!("{what} refers to chunk {id}, which is in no pack any more")),
        }
    }
}

//! Deleting: dead packs, left-overs of ended sessions, old catalogs. Everything here may be
//! repeated, and stopped anywhere.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::sync::Arc;

use repo_format::catalog::{Catalog, PageRef};
use repo_format::id::{ObjectName, PackName, SegmentName, SessionId};
use repo_format::key::{ObjectKey, Prefix};

use super::{PruneOptions, sync_whole, transition};
use crate::index::{Index, PackSet, PackState, States};
use crate::process::{self, Liveness};
use crate::repository::now_s;
use crate::rules::{self, Rule, keeps};
use crate::view::{self, View};
use crate::{Repository, RepositoryError, catalog};

/// Catalog versions kept, for readers that hold an older one.
pub(crate) const CATALOGS_KEPT: u64 = 32;

/// Objects removed between two counts: what S3 takes with one request.
const DELETED_AT_ONCE: usize = 1000;

/// Packs that are noted when they are listed, apart from those that the index names. More than that
/// wait for the next prune.
const STRAYS_MAX: usize = 256 << 10;
/// Names looked up in the index together.
const NAMES: usize = 64 << 10;

/// What was stored before the sessions were listed, as far as it may have to be deleted.
#[derive(Debug, Default)]
pub(crate) struct Present {
    /// Packs that the index did not name, and their lengths; dead ones among them.
    strays: Vec<(PackName, u64)>,
    segments: Vec<SegmentName>,
    /// Dead packs that were deleted, or were dead before the listing and are not in it.
    gone: HashSet<PackName>,
    /// Packs that the index named, by number: all of them, and those that were there.
    named: Arc<States>,
    found: PackSet,
}

/// Lists packs and segments. The index must be in line with `view`: what it names is no left-over.
pub(crate) fn list_present(
    repository: &Repository,
    index: &Index,
    view: &View,
) -> Result<Present, RepositoryError> {
    let mut present = Present {
        gone: view.head.catalog.dead.iter().copied().collect(),
        named: index.states(),
        ..Present::default()
    };
    let mut names = Vec::with_capacity(NAMES);
    let mut failure = None;
    repository.store().list(Prefix::Packs, &mut |listed| {
        let ObjectKey::Pack(name) = listed.key else { return Ok(()) };
        names.push((name, listed.size_bytes));
        if names.len() == NAMES {
            failure = failure.take().or(present.note(index, &mut names).err());
            names.clear();
        }
        Ok(())
    })?;
    failure.map_or_else(|| present.note(index, &mut names), Err)?;
    repository.store().list(Prefix::Segments, &mut |listed| {
        if let ObjectKey::Segment(name) = listed.key {
            present.segments.push(name);
        }
        Ok(())
    })?;
    Ok(present)
}

impl Present {
    fn note(
        &mut self,
        index: &Index,
        names: &mut Vec<(PackName, u64)>,
    ) -> Result<(), RepositoryError> {
        // In the order of the index.
        names.sort_unstable();
        for (name, bytes) in names.drain(..) {
            self.gone.remove(&name);
            match index.pack_number(&name)? {
                Some(number) => self.found.insert(number),
                None if self.strays.len() < STRAYS_MAX => self.strays.push((name, bytes)),
                None => {}
            }
        }
        Ok(())
    }
}

/// What was deleted.
#[derive(Debug, Default)]
pub(crate) struct Deleted {
    pub(crate) packs: u64,
    pub(crate) bytes: u64,
    pub(crate) leftover_packs: u64,
    pub(crate) leftover_bytes: u64,
}

impl Deleted {
    fn add(&mut self, packs: &[(PackName, u64)]) {
        self.packs += packs.len() as u64;
        self.bytes += packs.iter().map(|(_, bytes)| bytes).sum::<u64>();
    }
}

/// Deletes the packs that a catalog calls dead, and left-overs.
///
/// The view's catalog must still have been the newest after its lists were taken, and the index
/// in line with it.
pub(crate) fn sweep(
    repository: &Repository,
    index: &Index,
    view: &mut View,
    present: &mut Present,
) -> Result<Deleted, RepositoryError> {
    let mut deleted = Deleted::default();
    let dead = dead_packs(index, view, present)?;
    delete_packs(repository, &dead, &mut deleted)?;
    present.gone.extend(dead.into_iter().map(|(pack, _)| pack));
    let leftovers = leftovers(index, view, present)?;
    delete_packs(repository, &leftovers.packs, &mut deleted)?;
    repository.store().delete_many(&leftovers.objects)?;
    (deleted.leftover_packs, deleted.leftover_bytes) = leftovers.size();
    (present.strays, present.segments) = (Vec::new(), Vec::new());
    bury(repository, index, view, present)?;
    Ok(deleted)
}

/// Drops dead packs from the catalog that are gone and that no segment names.
pub(crate) fn bury(
    repository: &Repository,
    index: &Index,
    view: &mut View,
    present: &Present,
) -> Result<(), RepositoryError> {
    transition(repository, view, |view, draft| {
        sync_whole(repository, index, view)?;
        let mut gone = HashSet::new();
        for pack in view.head.catalog.dead.iter().filter(|pack| present.gone.contains(*pack)) {
            let is_named = index.pack_number(pack)?.is_some() && keeps(Rule::DeadOutliveSegments);
            if !is_named {
                gone.insert(*pack);
            }
        }
        draft.bury(&gone);
        Ok(())
    })?;
    Ok(())
}

/// Dead packs that are not known to be gone, and their lengths.
fn dead_packs(
    index: &Index,
    view: &View,
    present: &mut Present,
) -> Result<Vec<(PackName, u64)>, RepositoryError> {
    let strays: HashMap<PackName, u64> = present.strays.iter().copied().collect();
    let mut dead = Vec::new();
    for pack in &view.head.catalog.dead {
        if present.gone.contains(pack) {
            continue;
        }
        let Some(number) = index.pack_number(pack)? else {
            dead.push((*pack, strays.get(pack).copied().unwrap_or(0)));
            continue;
        };
        // It was stored before the listing began.
        let was_named = present.named.state(number) != PackState::Unlisted;
        if was_named && !present.found.contains(number) {
            present.gone.insert(*pack);
        } else if let Some(row) = index.pack(number)? {
            dead.push((*pack, row.bytes.into()));
        }
    }
    Ok(dead)
}

fn delete_packs(
    repository: &Repository,
    packs: &[(PackName, u64)],
    deleted: &mut Deleted,
) -> Result<(), RepositoryError> {
    for packs in packs.chunks(DELETED_AT_ONCE) {
        let keys: Vec<ObjectKey> = packs.iter().map(|(pack, _)| ObjectKey::Pack(*pack)).collect();
        repository.store().delete_many(&keys)?;
        deleted.add(packs);
    }
    Ok(())
}

/// Objects that nothing lists and nothing will.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    packs: Vec<(PackName, u64)>,
    /// Segments and registers.
    objects: Vec<ObjectKey>,
}

impl Leftovers {
    /// Packs and their bytes.
    pub(crate) fn size(&self) -> (u64, u64) {
        (self.packs.len() as u64, self.packs.iter().map(|(_, bytes)| bytes).sum())
    }
}

/// A pack or segment is a left-over if it was listed before the sessions were, nothing lists it,
/// and its session is folded or gone without a commit or an open part that could still list it.
pub(crate) fn leftovers(
    index: &Index,
    view: &View,
    present: &Present,
) -> Result<Leftovers, RepositoryError> {
    let folded: HashSet<SessionId> =
        view.head.catalog.folded.iter().map(|folded| folded.session).collect();
    let open = || view.sessions.iter().filter(|(id, _)| !folded.contains(id));
    if open().any(|(_, record)| record.is_none()) {
        // It may be a part of any session.
        return Ok(Leftovers::default());
    }
    let mains: HashSet<SessionId> =
        open().filter_map(|(_, record)| record.as_ref()?.part_of).collect();
    let over = |name: &ObjectName| {
        let session = &name.session;
        let ended = folded.contains(session) || !view.sessions.contains_key(session);
        let is_open = !ended && keeps(Rule::OrphanSessionIsOver);
        let has_part = mains.contains(session) && keeps(Rule::PartsProtectPacks);
        !(is_open
            || has_part
            || view.unfolded.contains_key(session)
            || view.damaged.contains(session))
    };
    let dead: HashSet<PackName> = view.head.catalog.dead.iter().copied().collect();
    let mut packs = Vec::new();
    for (pack, bytes) in present.strays.iter().filter(|(pack, _)| over(pack)) {
        if !dead.contains(pack) && index.pack_number(pack)?.is_none() {
            packs.push((*pack, *bytes));
        }
    }
    let listed: HashSet<SegmentName> =
        view.index_view().segments.iter().map(|segment| segment.name).collect();
    let segments = present.segments.iter();
    let orphans = segments.filter(|segment| over(segment) && !listed.contains(segment));
    let mut objects: Vec<ObjectKey> = orphans.map(|segment| ObjectKey::Segment(*segment)).collect();
    // A register that was created after its session was cleaned away, by who slept for long or
    // by a request that was under way. It commits nothing, and what it would commit is gone.
    let strays = view.registers.iter().filter(|id| {
        !folded.contains(id)
            && !view.sessions.contains_key(id)
            && keeps(Rule::StrayRegistersAreSwept)
    });
    objects.extend(strays.map(|id| ObjectKey::Commit(*id)));
    Ok(Leftovers { packs, objects })
}

/// clean: removes the session record of folded sessions, and once that is seen gone the register.
/// A register whose session is gone without being folded is a fence that came too late, and litter.
pub(crate) fn clean_sessions(repository: &Repository, view: &View) -> Result<(), RepositoryError> {
    let folded: Vec<SessionId> =
        view.head.catalog.folded.iter().map(|folded| folded.session).collect();
    let is_there = |id: &&SessionId| view.sessions.contains_key(*id);
    let is_first =
        |id: &&SessionId| keeps(Rule::SessionCleanedFirst) || !view.registers.contains(*id);
    let ended = folded.iter().filter(is_there).filter(is_first);
    let records = ended.flat_map(|id| [ObjectKey::Session(*id), ObjectKey::Heartbeat(*id)]);
    // A view lists registers before sessions, so a session that is not in it is gone for good.
    let lone = view.registers.iter().filter(|id| {
        let is_stray = !folded.contains(id);
        let is_too_soon = !is_stray && !keeps(Rule::SessionCleanedFirst);
        !view.sessions.contains_key(id) && (!is_stray || keeps(Rule::StrayRegistersAreSwept))
            || is_too_soon
    });
    let registers = lone.map(|id| ObjectKey::Commit(*id));
    Ok(repository.store().delete_many(&records.chain(registers).collect::<Vec<_>>())?)
}

/// Removes heartbeats whose session is gone: one that was under way when its session was removed
/// comes back.
pub(crate) fn clean_heartbeats(repository: &Repository) -> Result<(), RepositoryError> {
    let beats = view::list_heartbeats(repository)?;
    if beats.is_empty() {
        return Ok(());
    }
    // Listed after them: a session is there before its first heartbeat.
    let sessions = view::list_sessions(repository)?;
    let lone = beats.difference(&sessions).map(|id| ObjectKey::Heartbeat(*id));
    Ok(repository.store().delete_many(&lone.collect::<Vec<_>>())?)
}

/// Open sessions whose process is gone. On this machine the kernel knows; elsewhere a heartbeat that
/// did not move for long must do. A wrong guess costs that run one checkpoint.
pub(crate) fn dead_sessions(
    repository: &Repository,
    view: &View,
    options: &PruneOptions,
) -> Vec<SessionId> {
    let folded: HashSet<SessionId> =
        view.head.catalog.folded.iter().map(|folded| folded.session).collect();
    let mut memory = Memory::load(options);
    let mut dead = Vec::new();
    for (id, record) in &view.sessions {
        if folded.contains(id) || view.registers.contains(id) {
            continue;
        }
        let is_dead = match record.as_ref().map(|session| process::liveness(&session.process)) {
            Some(Liveness::Dead) => true,
            Some(Liveness::Alive) => false,
            Some(Liveness::Unknown) | None => {
                let beat = repository.store().get(&ObjectKey::Heartbeat(*id), 1 << 10);
                memory.is_stale(id, &beat.unwrap_or_default(), options)
            }
        };
        if is_dead {
            dead.push(*id);
        }
    }
    memory.save(view, options);
    dead
}

/// When each session's heartbeat was last seen to change, by this machine's clock. Only liveness
/// depends on it.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct Memory {
    seen: HashMap<String, (Vec<u8>, u64)>,
}

impl Memory {
    fn load(options: &PruneOptions) -> Self {
        let path = options.memory_file.as_ref();
        path.and_then(|path| fs::read(path).ok())
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    fn is_stale(&mut self, id: &SessionId, beat: &[u8], options: &PruneOptions) -> bool {
        let now = now_s();
        let row = self.seen.entry(id.to_string()).or_insert_with(|| (beat.to_vec(), now));
        if row.0 != beat {
            *row = (beat.to_vec(), now);
        }
        now.saturating_sub(row.1) >= options.fence_after.as_secs()
    }

    fn save(mut self, view: &View, options: &PruneOptions) {
        self.seen.retain(|id, _| view.sessions.keys().any(|session| session.to_string() == *id));
        if let Some(path) = &options.memory_file
            && let Ok(bytes) = serde_json::to_vec(&self)
        {
            // Losing it only means waiting anew.
            drop(fs::write(path, bytes));
        }
    }
}

/// Deletes old catalogs and pages that no kept catalog lists. A page made for a version that is
/// yet to come is left alone: its maker may be about to create that version.
pub(crate) fn trim(repository: &Repository, view: &View) -> Result<(), RepositoryError> {
    let newest = view.head.catalog.n;
    let versions = rules::many(CATALOGS_KEPT, 4);
    let keys = |catalog: &Catalog| -> Vec<ObjectKey> {
        catalog.pages.iter().flatten().flat_map(PageRef::keys).collect()
    };
    let mut used: HashSet<ObjectKey> = keys(&view.head.catalog).into_iter().collect();
    let (mut old, mut recent) = (Vec::new(), Vec::new());
    repository.store().list(Prefix::Catalogs, &mut |listed| {
        match listed.key {
            ObjectKey::Catalog(n) if n + versions <= newest => old.push(listed.key),
            ObjectKey::Catalog(n) if n < newest => recent.push(n),
            _ => {}
        }
        Ok(())
    })?;
    repository.store().delete_many(&old)?;
    for n in recent {
        match catalog::load_bare(repository, n) {
            Ok((catalog, _)) => used.extend(keys(&catalog)),
            // Damaged or just trimmed by another: nobody can use it or its pages.
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
    }
    let mut unused = Vec::new();
    repository.store().list(Prefix::CatalogPages, &mut |listed| {
        if let ObjectKey::CatalogPage { n, .. } = listed.key
            && (n <= newest || !keeps(Rule::PagesToComeStay))
            && !used.contains(&listed.key)
        {
            unused.push(listed.key);
        }
        Ok(())
    })?;
    Ok(repository.store().delete_many(&unused)?)
}

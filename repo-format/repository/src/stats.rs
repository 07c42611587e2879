//! What a repository holds, in numbers.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use repo_format::key::Prefix;
use repo_format::pack::PackKind;
use serde::Serialize;

use crate::RepositoryError;
use crate::cost::Holding;
use crate::index::{Index, PackState};
use crate::store::{Store, StoreError};
use crate::view::View;

/// Numbers of one volume name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NameStats {
    /// Snapshots.
    pub snapshots: u64,
    /// Length of the newest one, in bytes.
    pub newest_logical_bytes: u64,
    /// Sum over all snapshots of what a full copy of each would take, holes not counted.
    pub allocated_bytes: u64,
    /// Plain bytes that its snapshots added to the repository.
    pub new_plain_bytes: u64,
    /// What those took when stored.
    pub new_stored_bytes: u64,
}

/// Numbers of a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// By volume name.
    pub names: BTreeMap<String, NameStats>,
    /// Packs of content and their bytes.
    pub data_packs: u64,
    /// See `data_packs`.
    pub data_bytes: u64,
    /// Packs of manifests and their bytes.
    pub meta_packs: u64,
    /// See `meta_packs`.
    pub meta_bytes: u64,
    /// Chunks in all packs.
    pub chunks: u64,
    /// Index segments and their bytes.
    pub segments: u64,
    /// See `segments`.
    pub segment_bytes: u64,
    /// Packs that wait to be deleted, in bytes.
    pub condemned_bytes: u64,
    /// Version of the newest catalog.
    pub catalog: u64,
    /// Sessions that have not ended.
    pub open_sessions: u64,
}

/// Counts. The index must be in line with the view.
///
/// # Errors
///
/// The index failed.
pub fn collect(view: &View, index: &Index) -> Result<Stats, RepositoryError> {
    let mut stats = Stats { catalog: view.head.catalog.n, ..Stats::default() };
    for snapshot in view.snapshots() {
        let name = stats.names.entry(snapshot.name.clone()).or_default();
        name.snapshots += 1;
        name.newest_logical_bytes = snapshot.sizes.logical;
        name.allocated_bytes += snapshot.sizes.allocated;
        name.new_plain_bytes += snapshot.sizes.new_plain;
        name.new_stored_bytes += snapshot.sizes.new_stored;
    }
    for segment in view.index_view().segments {
        stats.segments += 1;
        stats.segment_bytes += segment.bytes;
    }
    let folded = &view.head.catalog.folded;
    let is_open =
        |id| !view.registers.contains(id) && !folded.iter().any(|folded| folded.session == *id);
    stats.open_sessions = view.sessions.keys().filter(|id| is_open(id)).count() as u64;
    index.packs(&mut |_, row, state| {
        let bytes = u64::from(row.bytes);
        match state {
            PackState::Dead | PackState::Unlisted => return ControlFlow::Continue(()),
            PackState::Condemned => stats.condemned_bytes += bytes,
            PackState::Live | PackState::Bad => {}
        }
        stats.chunks += u64::from(row.chunks);
        match row.identity.kind {
            PackKind::Data => {
                stats.data_packs += 1;
                stats.data_bytes += bytes;
            }
            PackKind::Meta => {
                stats.meta_packs += 1;
                stats.meta_bytes += bytes;
            }
        }
        ControlFlow::Continue(())
    })?;
    Ok(stats)
}

/// Objects of one kind, as they are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct KindStats {
    /// Their kind, for people.
    pub kind: &'static str,
    /// Their folder.
    pub folder: &'static str,
    /// How many there are.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Counts the objects that are there, whoever needs them, by listing all folders at once: with S3
/// one request for each thousand objects. The config, a single object, is in no folder.
///
/// # Errors
///
/// The store failed.
pub fn census(store: &dyn Store) -> Result<Vec<KindStats>, StoreError> {
    std::thread::scope(|scope| {
        let lists = Prefix::ALL.map(|prefix| scope.spawn(move || count(store, prefix)));
        lists
            .into_iter()
            .map(|list| list.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

fn count(store: &dyn Store, prefix: Prefix) -> Result<KindStats, StoreError> {
    let kind = match prefix {
        Prefix::KeySlots => "key slots",
        Prefix::Catalogs => "catalogs",
        Prefix::CatalogPages => "snapshot lists",
        Prefix::Sessions => "sessions",
        Prefix::Commits => "commits",
        Prefix::Heartbeats => "heartbeats",
        Prefix::Packs => "packs",
        Prefix::Segments => "index",
    };
    let mut stats = KindStats { kind, folder: prefix.folder(), objects: 0, bytes: 0 };
    store.list(prefix, &mut |listed| {
        stats.objects += 1;
        stats.bytes += listed.size_bytes;
        Ok(())
    })?;
    Ok(stats)
}

/// What prices are charged for.
pub fn holding(census: &[KindStats]) -> Holding {
    let of = |prefix: Prefix| census.iter().find(|row| row.folder == prefix.folder());
    Holding {
        packs: of(Prefix::Packs).map_or(0, |row| row.objects),
        pack_bytes: of(Prefix::Packs).map_or(0, |row| row.bytes),
        segments: of(Prefix::Segments).map_or(0, |row| row.objects),
        bytes: census.iter().map(|row| row.bytes).sum(),
    }
}

#[cfg(test)]
mod tests {
    use repo_format::id::{PackName, SessionId};
    use repo_format::key::ObjectKey;

    use super::*;
    use crate::store::Memory;
    use crate::store::wrap::Metered;

    #[test]
    fn every_object_is_counted_once_with_one_listing_a_kind() {
        let store = Metered::new(Memory::default());
        let meter = store.meter();
        let session = SessionId([1; 16]);
        let name = |counter| PackName { session, counter };
        for (key, len) in [
            (ObjectKey::Pack(name(1)), 100),
            (ObjectKey::Pack(name(2)), 50),
            (ObjectKey::Segment(name(3)), 7),
            (ObjectKey::Session(session), 3),
        ] {
            store.put_new(&key, &vec![0; len]).unwrap();
        }
        let census = census(&store).unwrap();
        let wanted = Holding { packs: 2, pack_bytes: 150, segments: 1, bytes: 160 };
        assert_eq!(holding(&census), wanted);
        assert_eq!(census.len(), Prefix::ALL.len());
        let rows = meter.read().rows;
        let asked: u64 = rows
            .iter()
            .filter(|row| row.op == crate::store::Op::List)
            .map(|row| row.requests)
            .sum();
        assert_eq!(asked, Prefix::ALL.len() as u64);
    }
}

//! What a repository holds, in numbers.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use repo_format::pack::PackKind;
use serde::Serialize;

use crate::RepositoryError;
use crate::index::{Index, PackState};
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

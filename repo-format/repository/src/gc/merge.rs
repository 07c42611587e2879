//! Merging index segments: small ones into few large ones, and all without what dead packs held.
//!
//! Whole segments are put together, up to a number of entries, and never cut: a pack's entries
//! stay in one segment, so that the tables of packs do not grow with every merge.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use repo_format::id::{ClusterId, PackName, SegmentName, SessionId};
use repo_format::segment::{Entry, PackRow, Row};
use repo_format::session::SegmentRef;

use super::{sync_whole, transition};
use crate::index::{Index, SegmentSource};
use crate::rules::{self, Rule, keeps};
use crate::segments;
use crate::session::OpenSession;
use crate::view::View;
use crate::{Repository, RepositoryError};

/// Entries of one merged segment, which bounds the memory of a merge: 10 MB, twice, and the packs'.
const ENTRIES_MAX: u64 = 256 << 10;
/// Segments with fewer entries than this are small.
const SMALL: u64 = ENTRIES_MAX / 2;
/// So many small segments are merged.
const MANY_SMALL: usize = 16;
/// Segments written before the catalog is told: a merge that is killed keeps what it has.
const GROUPS_MAX: usize = 16;
/// So many dead packs may stay in the index, wherever they are.
const FEW_DEAD: usize = 64;
/// More than this are taken out wherever they are; fewer only where they are many.
const MANY_DEAD: usize = 4096;

/// What a merge is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aim {
    /// Few segments, with little in them of dead packs.
    Few,
    /// No dead pack in any segment.
    NoDead,
}

/// A listed segment and what of it is dead.
#[derive(Debug, Clone, Copy)]
struct Input {
    segment: SegmentRef,
    dead_packs: u32,
}

impl Input {
    /// About as many entries as are left of it.
    fn live_entries(&self) -> u64 {
        let Self { segment, dead_packs } = self;
        let live = u64::from(segment.packs.saturating_sub(*dead_packs));
        segment.entries.saturating_mul(live) / u64::from(segment.packs).max(1)
    }

    /// Whether a quarter of its packs or more are dead.
    const fn is_burdened(&self) -> bool {
        self.dead_packs as u64 * 4 >= self.segment.packs as u64 && self.dead_packs > 0
    }
}

/// Merges as long as it is worth it: many segments may have piled up where nobody pruned. Returns
/// how many went into others.
///
/// * `go_on`: asked before each round; fails to stop.
///
/// # Errors
///
/// The store failed, a segment is damaged, or that of `go_on`.
pub(crate) fn merge(
    repository: &Arc<Repository>,
    index: &Index,
    view: &mut View,
    aim: Aim,
    go_on: &mut dyn FnMut() -> Result<(), RepositoryError>,
) -> Result<u64, RepositoryError> {
    let mut gone = 0;
    loop {
        go_on()?;
        sync_whole(repository, index, view)?;
        let mut groups = groups(inputs(index, view, aim)?);
        groups.truncate(GROUPS_MAX);
        match merge_some(repository, view, &groups)? {
            0 => return Ok(gone),
            merged => gone += merged,
        }
    }
}

fn merge_some(
    repository: &Arc<Repository>,
    view: &mut View,
    groups: &[Vec<SegmentRef>],
) -> Result<u64, RepositoryError> {
    if groups.is_empty() {
        return Ok(0);
    }
    let dead: HashSet<PackName> = view.head.catalog.dead.iter().copied().collect();
    // The session keeps others from taking the new segments for left-overs.
    let session = OpenSession::writer(repository, ClusterId::NONE)?;
    let mut outputs = Vec::new();
    for group in groups {
        outputs.extend(write_merged(repository, session.id(), outputs.len(), group, &dead)?);
    }
    let inputs = groups.concat();
    *view = View::for_maintenance(repository)?;
    let is_done = transition(repository, view, |view, draft| {
        let catalog = &view.head.catalog;
        let listed: HashSet<SegmentName> =
            catalog.segments.iter().map(|segment| segment.name).collect();
        let all_there = inputs.iter().all(|input| listed.contains(&input.name));
        // If this process slept for long, its session may have been ended, and what it wrote
        // taken for left-overs.
        let still_open = view.sessions.contains_key(&session.id())
            && !view.registers.contains(&session.id())
            && !catalog.is_folded(&session.id());
        let all_there = all_there || !keeps(Rule::MergeInputsListed);
        let still_open = still_open || !keeps(Rule::MergeSessionOpen);
        if all_there && still_open {
            draft.replace_segments(&inputs, &outputs);
        }
        Ok(())
    })?;
    Ok(if is_done { inputs.len() as u64 } else { 0 })
}

/// The segments to merge.
fn inputs(index: &Index, view: &View, aim: Aim) -> Result<Vec<Input>, RepositoryError> {
    let catalog = &view.head.catalog;
    // Of what no snapshot is left to need no segment may stay.
    let is_empty = view.root_snapshots().next().is_none();
    let no_dead = aim == Aim::NoDead || is_empty || catalog.dead.len() > MANY_DEAD;
    let few_dead = catalog.dead.len() <= rules::many(FEW_DEAD, 1);
    let mut seen = HashSet::new();
    let (mut burdened, mut small) = (Vec::new(), Vec::new());
    for segment in catalog.segments.iter().filter(|segment| seen.insert(segment.name)) {
        let dead_packs = if catalog.dead.is_empty() { 0 } else { index.dead_of(segment)? };
        let input = Input { segment: *segment, dead_packs };
        if no_dead && dead_packs > 0 || !few_dead && input.is_burdened() {
            burdened.push(input);
        } else if segment.entries < SMALL {
            small.push(input);
        }
    }
    if small.len() + burdened.len() >= rules::many(MANY_SMALL, 3) {
        burdened.append(&mut small);
    }
    Ok(burdened)
}

/// Puts inputs together, in their order, until each group is as large as a segment may be.
fn groups(inputs: Vec<Input>) -> Vec<Vec<SegmentRef>> {
    let mut groups: Vec<(Vec<SegmentRef>, bool)> = Vec::new();
    let mut room = 0;
    for input in inputs {
        let entries = input.live_entries();
        if let Some((group, has_dead)) = groups.last_mut().filter(|_| entries <= room) {
            group.push(input.segment);
            *has_dead |= input.dead_packs > 0;
            room -= entries;
        } else {
            groups.push((vec![input.segment], input.dead_packs > 0));
            room = ENTRIES_MAX.saturating_sub(entries);
        }
    }
    // Writing a lone segment again is of use only if something of it goes.
    groups.retain(|(group, has_dead)| group.len() > 1 || *has_dead);
    groups.into_iter().map(|(group, _)| group).collect()
}

/// Rows of several segments, those of dead packs left out.
struct Rows<'a> {
    dead: &'a HashSet<PackName>,
    numbers: HashMap<PackName, u32>,
    packs: Vec<PackRow>,
    entries: Vec<Entry>,
}

impl Rows<'_> {
    fn read(
        &mut self,
        source: &segments::Source<'_>,
        segment: &SegmentRef,
    ) -> Result<(), RepositoryError> {
        let mut packs = Vec::new();
        source.rows(segment, &mut |row| {
            match row {
                Row::Pack(pack) => packs.push(self.number(&pack)),
                Row::Entry(entry) => {
                    if let Some(pack) = packs.get(entry.pack as usize).copied().flatten() {
                        self.entries.push(Entry { pack, ..entry });
                    }
                }
            }
            ControlFlow::Continue(())
        })
    }

    fn number(&mut self, pack: &PackRow) -> Option<u32> {
        if self.dead.contains(&pack.identity.name) {
            return None;
        }
        let next = u32::try_from(self.packs.len()).unwrap_or(u32::MAX);
        let number = *self.numbers.entry(pack.identity.name).or_insert(next);
        if number == next {
            self.packs.push(*pack);
        }
        Some(number)
    }
}

/// Writes one group as one segment, or as none if all of it is dead.
fn write_merged(
    repository: &Repository,
    session: SessionId,
    counter: usize,
    inputs: &[SegmentRef],
    dead: &HashSet<PackName>,
) -> Result<Option<SegmentRef>, RepositoryError> {
    let source = segments::Source::new(repository);
    source.expect(inputs);
    let (numbers, packs, entries) = Default::default();
    let mut rows = Rows { dead, numbers, packs, entries };
    for segment in inputs {
        rows.read(&source, segment)?;
    }
    let Rows { numbers, packs, mut entries, .. } = rows;
    drop(numbers);
    if entries.is_empty() {
        return Ok(None);
    }
    entries.sort_unstable_by_key(|entry| (entry.prefix, entry.pack));
    // The same pack may be in two inputs after a repair: one entry is enough.
    entries.dedup_by_key(|entry| (entry.prefix, entry.pack));
    let counter = u32::try_from(counter).unwrap_or(u32::MAX);
    let name = SegmentName { session, counter };
    segments::write_sorted(repository, name, &packs, entries).map(Some)
}

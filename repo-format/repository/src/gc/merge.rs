//! Merging small index segments into few large ones, without what dead packs held.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use repo_format::id::{CHUNK_PREFIX_LEN, PackName, SegmentName, SessionId};
use repo_format::segment::{Entry, PackRow, Row};
use repo_format::session::SegmentRef;

use super::transition;
use crate::rules::{self, Rule, keeps};
use crate::segments::{self, SegmentCursor};
use crate::session::OpenSession;
use crate::view::View;
use crate::{Repository, RepositoryError};

/// Entries of one merged segment: 20 MB, which bounds the memory of a merge.
const ENTRIES_MAX: usize = 512 << 10;
/// Segments with fewer entries than this are small.
const SMALL: u64 = ENTRIES_MAX as u64 / 2;
/// So many small segments are merged.
const MANY_SMALL: usize = 16;
/// Inputs of one merge; each holds a read buffer.
const INPUTS_MAX: usize = 64;

/// Merges as long as it is worth it: many segments may have piled up where nobody pruned. Returns
/// how many went away.
///
/// * `go_on`: asked before each round; fails to stop.
///
/// # Errors
///
/// The store failed, a segment is damaged, or that of `go_on`.
pub(crate) fn merge(
    repository: &Arc<Repository>,
    view: &mut View,
    go_on: &mut dyn FnMut() -> Result<(), RepositoryError>,
) -> Result<u64, RepositoryError> {
    let mut gone = 0;
    loop {
        go_on()?;
        let round = merge_some(repository, view)?;
        gone += round;
        // With fewer than half gone, the next round would mostly write large ones anew.
        if round < INPUTS_MAX as u64 / 2 {
            return Ok(gone);
        }
    }
}

/// One round, of as many segments as can be read at once.
fn merge_some(repository: &Arc<Repository>, view: &mut View) -> Result<u64, RepositoryError> {
    let catalog = &view.head.catalog;
    let mut small: Vec<SegmentRef> =
        catalog.segments.iter().filter(|segment| segment.entries < SMALL).copied().collect();
    // Of what no snapshot is left to need no segment may stay.
    let is_empty = view.root_snapshots().next().is_none();
    let burdened = catalog.dead.len() > rules::many(64, 1) || is_empty && !catalog.dead.is_empty();
    if small.len() < rules::many(MANY_SMALL, 3) && !burdened {
        return Ok(0);
    }
    let mut inputs = if burdened { catalog.segments.clone() } else { std::mem::take(&mut small) };
    inputs.sort_by_key(|segment| segment.entries);
    inputs.truncate(INPUTS_MAX);
    let dead: HashSet<PackName> = catalog.dead.iter().copied().collect();
    // The session keeps others from taking the new segments for left-overs.
    let session = OpenSession::writer(repository, repo_format::id::ClusterId::NONE)?;
    let outputs = write_merged(repository, session.id(), &inputs, &dead)?;
    *view = View::for_maintenance(repository)?;
    let mut replaced = false;
    transition(repository, view, |view, draft| {
        let catalog = &view.head.catalog;
        let all_there = inputs.iter().all(|input| catalog.segments.contains(input));
        // If this process slept for long, its session may have been ended, and what it wrote
        // taken for left-overs.
        let still_open = view.sessions.contains_key(&session.id())
            && !view.registers.contains(&session.id())
            && !catalog.folded.iter().any(|folded| folded.session == session.id());
        let all_there = all_there || !keeps(Rule::MergeInputsListed);
        let still_open = still_open || !keeps(Rule::MergeSessionOpen);
        replaced = all_there && still_open;
        if replaced {
            draft.replace_segments(&inputs, &outputs);
        }
        Ok(())
    })?;
    let gone = (inputs.len() as u64).saturating_sub(outputs.len() as u64);
    Ok(if replaced { gone } else { 0 })
}

type HeapKey = Reverse<([u8; CHUNK_PREFIX_LEN], u32, usize)>;

/// One input of a merge: its cursor, the global numbers of its packs, and its current entry.
struct Input<'a> {
    cursor: SegmentCursor<'a>,
    packs: Vec<Option<u32>>,
    current: Option<Entry>,
}

impl Input<'_> {
    /// Steps to the next entry of a pack that is not dead.
    fn advance(&mut self, global: &mut Packs) -> Result<(), RepositoryError> {
        self.current = None;
        while let Some(row) = self.cursor.next_row()? {
            match row {
                Row::Pack(pack) => self.packs.push(global.number(&pack)),
                Row::Entry(entry) => {
                    let number = self.packs.get(entry.pack as usize).copied().flatten();
                    if let Some(pack) = number {
                        self.current = Some(Entry { pack, ..entry });
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }
}

/// Packs of all inputs, numbered across them.
struct Packs<'a> {
    dead: &'a HashSet<PackName>,
    numbers: HashMap<PackName, u32>,
    rows: Vec<PackRow>,
}

impl Packs<'_> {
    fn number(&mut self, pack: &PackRow) -> Option<u32> {
        if self.dead.contains(&pack.identity.name) {
            return None;
        }
        let next = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        let number = *self.numbers.entry(pack.identity.name).or_insert(next);
        if number == next {
            self.rows.push(*pack);
        }
        Some(number)
    }
}

fn write_merged(
    repository: &Repository,
    session: SessionId,
    inputs: &[SegmentRef],
    dead: &HashSet<PackName>,
) -> Result<Vec<SegmentRef>, RepositoryError> {
    let mut packs = Packs { dead, numbers: HashMap::new(), rows: Vec::new() };
    let mut open = Vec::with_capacity(inputs.len());
    let mut heap: BinaryHeap<HeapKey> = BinaryHeap::new();
    for (number, segment) in inputs.iter().enumerate() {
        let cursor = SegmentCursor::open(repository, segment)?;
        let mut input = Input { cursor, packs: Vec::new(), current: None };
        input.advance(&mut packs)?;
        heap.extend(input.current.map(|entry| Reverse((entry.prefix, entry.pack, number))));
        open.push(input);
    }
    let (mut outputs, mut batch) = (Vec::new(), Vec::new());
    let mut last = None;
    while let Some(Reverse((prefix, pack, number))) = heap.pop() {
        let Some(input) = open.get_mut(number) else { continue };
        // The same pack may be in two inputs after a repair: one entry is enough.
        if let Some(entry) = input.current.filter(|_| last != Some((prefix, pack))) {
            batch.push(entry);
            last = Some((prefix, pack));
        }
        input.advance(&mut packs)?;
        heap.extend(input.current.map(|entry| Reverse((entry.prefix, entry.pack, number))));
        if batch.len() == ENTRIES_MAX {
            outputs.push(write_batch(repository, session, outputs.len(), &packs, &mut batch)?);
        }
    }
    if !batch.is_empty() {
        outputs.push(write_batch(repository, session, outputs.len(), &packs, &mut batch)?);
    }
    Ok(outputs)
}

/// Writes one output; its table lists only the packs that its entries name.
fn write_batch(
    repository: &Repository,
    session: SessionId,
    counter: usize,
    packs: &Packs<'_>,
    batch: &mut Vec<Entry>,
) -> Result<SegmentRef, RepositoryError> {
    let mut local: HashMap<u32, u32> = HashMap::new();
    let mut rows = Vec::new();
    for entry in batch.iter_mut() {
        let next = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        let number = *local.entry(entry.pack).or_insert(next);
        if number == next {
            rows.extend(packs.rows.get(entry.pack as usize));
        }
        entry.pack = number;
    }
    let counter = u32::try_from(counter).unwrap_or(u32::MAX);
    let written = segments::write(repository, SegmentName { session, counter }, &rows, batch)?;
    batch.clear();
    Ok(written)
}

//! Which chunks of which packs are needed by a set of roots.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;

use repo_format::id::{ChunkId, PackName};
use repo_format::pack::PackKind;
use repo_format::segment::PackRow;
use repo_format::snapshot::Snapshot;

use crate::RepositoryError;
use crate::index::{Index, PackState, Place, REFERENCES_MAX};
use crate::reader::Reader;
use crate::rules::{Rule, keeps};
use crate::walk::{self, Context, Seen, Visitor};

/// What is needed of one pack.
#[derive(Debug, Clone)]
pub(crate) struct PackMarks {
    pub(crate) row: PackRow,
    pub(crate) state: PackState,
    pub(crate) needed_bytes: u64,
    pub(crate) needed_chunks: u32,
    /// One bit a chunk.
    bits: Vec<u64>,
}

impl PackMarks {
    fn new(row: PackRow, state: PackState) -> Self {
        let words = (row.chunks as usize).div_ceil(64);
        Self { row, state, needed_bytes: 0, needed_chunks: 0, bits: vec![0; words] }
    }

    pub(crate) fn needs(&self, slot: u32) -> bool {
        self.bits.get(slot as usize / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    fn mark(&mut self, place: &Place) {
        let bit = 1u64 << (place.slot % 64);
        if let Some(word) = self.bits.get_mut(place.slot as usize / 64)
            && *word & bit == 0
        {
            *word |= bit;
            self.needed_chunks += 1;
            self.needed_bytes += u64::from(place.stored_len);
        }
    }

    fn mark_all(&mut self) {
        self.needed_chunks = self.row.chunks;
        self.needed_bytes = self.row.bytes.into();
        self.bits.fill(u64::MAX);
    }

    pub(crate) fn name(&self) -> PackName {
        self.row.identity.name
    }
}

/// Marks over all listed packs: a bit a chunk, 1.3 MB for 10 million. Marks only grow, so they
/// stay right, if generous, when the roots change.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    pub(crate) packs: BTreeMap<u32, PackMarks>,
    /// References to chunks that are in no pack: snapshots that are damaged already.
    pub(crate) missing: u64,
    seen: Seen,
}

impl Marks {
    /// Takes in packs that the index came to list, and their present state.
    pub(crate) fn refresh(&mut self, index: &Index) -> Result<(), RepositoryError> {
        for pack in self.packs.values_mut() {
            pack.state = PackState::Unlisted;
        }
        let packs = &mut self.packs;
        index.packs(&mut |number, row, state| {
            packs.entry(number).or_insert_with(|| PackMarks::new(*row, state)).state = state;
            ControlFlow::Continue(())
        })?;
        Ok(())
    }

    /// Whether a chunk is marked in a pack that has left the live state since: its place has to be
    /// chosen anew, or two maintainers could each count on the copy that the other gives up. Or
    /// whether a chunk was found nowhere: lists that are not of one moment may show a commit and
    /// not the part whose segment has its chunks, and it is not looked for again by itself.
    pub(crate) fn are_stale(&self) -> bool {
        let has_left = |pack: &PackMarks| pack.needed_chunks > 0 && pack.state != PackState::Live;
        (self.missing > 0 && keeps(Rule::FoundNowhereIsStale)) || self.packs.values().any(has_left)
    }

    /// Marks what `roots` need. A chunk in several packs is needed in one of them only: a live
    /// one that is not in `avoid`, if there is any.
    ///
    /// # Errors
    ///
    /// A manifest cannot be read: what it needs cannot be known then, and nothing may be deleted.
    pub(crate) fn mark<'a>(
        &mut self,
        reader: &Reader,
        roots: impl IntoIterator<Item = &'a Snapshot>,
        avoid: &HashSet<u32>,
    ) -> Result<(), RepositoryError> {
        let index = reader.index();
        let mut seen = std::mem::take(&mut self.seen);
        let mut references = Vec::new();
        for root in roots {
            if let Some(session) = root.holds {
                let held = self.packs.values_mut().filter(|pack| pack.name().session == session);
                held.for_each(PackMarks::mark_all);
            }
            let mut marker = Marker { index, marks: self, avoid, references };
            walk::walk(reader, root, &mut seen, &mut marker)?;
            references = marker.references;
        }
        Marker { index, marks: self, avoid, references }.look_up()?;
        self.seen = seen;
        Ok(())
    }
}

struct Marker<'a> {
    index: &'a Index,
    marks: &'a mut Marks,
    avoid: &'a HashSet<u32>,
    /// Not looked up yet.
    references: Vec<ChunkId>,
}

impl Marker<'_> {
    fn look_up(&mut self) -> Result<(), RepositoryError> {
        let Self { index, marks, avoid, references } = self;
        let live = |place: &&Place| index.pack_state(place.pack) == PackState::Live;
        index.locate_sorted(references, &mut |places| {
            let best = places
                .iter()
                .find(|place| live(place) && !avoid.contains(&place.pack))
                .or_else(|| places.first());
            let best = if keeps(Rule::UncondemnedPlace) { best } else { places.last() };
            let best = best.filter(|_| {
                keeps(Rule::CondemnedTogetherIsNoPlace) || places.iter().filter(live).count() < 2
            });
            match best.and_then(|place| Some((place, marks.packs.get_mut(&place.pack)?))) {
                Some((place, pack)) => pack.mark(place),
                None => marks.missing += 1,
            }
        })?;
        references.clear();
        Ok(())
    }
}

impl Visitor for Marker<'_> {
    fn reference(&mut self, _: PackKind, id: &ChunkId, _: &Context) -> Result<(), RepositoryError> {
        self.references.push(*id);
        if self.references.len() >= REFERENCES_MAX { self.look_up() } else { Ok(()) }
    }
}

/// Which of the `judged` packs some root cannot do without: it needs a chunk of theirs that no
/// live pack has.
pub(crate) fn needed_of<'a>(
    reader: &Reader,
    judged: &HashSet<PackName>,
    roots: impl IntoIterator<Item = &'a Snapshot>,
) -> Result<HashSet<PackName>, RepositoryError> {
    let mut judge = Judge { reader, judged, needed: HashSet::new(), references: Vec::new() };
    let mut seen = Seen::new();
    for root in roots {
        if let Some(session) = root.holds {
            judge.needed.extend(judged.iter().filter(|pack| pack.session == session));
        }
        walk::walk(reader, root, &mut seen, &mut judge)?;
    }
    judge.look_up()?;
    Ok(judge.needed)
}

struct Judge<'a> {
    reader: &'a Reader,
    judged: &'a HashSet<PackName>,
    needed: HashSet<PackName>,
    /// Not looked up yet.
    references: Vec<ChunkId>,
}

impl Judge<'_> {
    fn look_up(&mut self) -> Result<(), RepositoryError> {
        let index = self.reader.index();
        let mut relied_on = HashSet::new();
        index.locate_sorted(&mut self.references, &mut |places| {
            let live = |place: &Place| index.pack_state(place.pack) == PackState::Live;
            let has_other = places.len() > 1 && !keeps(Rule::JudgedIsNoPlace);
            if !places.iter().any(live) && !has_other {
                relied_on.extend(places.iter().map(|place| place.pack));
            }
        })?;
        self.references.clear();
        for number in relied_on {
            if let Some(row) = index.pack(number)?
                && self.judged.contains(&row.identity.name)
            {
                self.needed.insert(row.identity.name);
            }
        }
        Ok(())
    }
}

impl Visitor for Judge<'_> {
    fn reference(&mut self, _: PackKind, id: &ChunkId, _: &Context) -> Result<(), RepositoryError> {
        self.references.push(*id);
        if self.references.len() >= REFERENCES_MAX { self.look_up() } else { Ok(()) }
    }

    /// What a damaged root needs cannot be known: nothing that is judged is given up. Without
    /// this, a damaged snapshot that was forgotten would stop every verdict for ever.
    fn unreadable(&mut self, error: RepositoryError, _: &Context) -> Result<(), RepositoryError> {
        if error.is_damage() {
            self.needed.extend(self.judged);
            return Ok(());
        }
        Err(error)
    }
}

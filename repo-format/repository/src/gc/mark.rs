//! Which chunks of which packs are needed by a set of roots.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use repo_format::id::{ChunkId, PackName, SessionId};
use repo_format::pack::PackKind;
use repo_format::snapshot::Snapshot;

use crate::RepositoryError;
use crate::index::{Index, IndexError, PackSet, PackState, Place, REFERENCES_MAX};
use crate::reader::Reader;
use crate::rules::{Rule, keeps};
use crate::walk::{self, Context, Seen, Visitor};

/// What is needed of the packs: a bit for each chunk and eight bytes for each pack, by the packs'
/// local numbers. 100 million chunks in 3 million packs take 40 MB.
///
/// Marks only grow, so they stay right, if generous, when the roots change.
#[derive(Debug)]
pub(crate) struct Marks {
    index: Arc<Index>,
    /// In `bits`, where those of each pack start; and at the end, where those of the last end.
    starts: Vec<u32>,
    /// Bytes needed of each pack.
    needed: Vec<u32>,
    bits: Vec<u8>,
    /// References to chunks that are in no pack: snapshots that are damaged already.
    pub(crate) missing: u64,
    seen: Seen,
}

impl Marks {
    pub(crate) fn new(index: &Arc<Index>) -> Self {
        Self {
            index: Arc::clone(index),
            starts: vec![0],
            needed: Vec::new(),
            bits: Vec::new(),
            missing: 0,
            seen: Seen::over(index),
        }
    }

    /// Makes room for packs that the index came to know.
    pub(crate) fn refresh(&mut self) -> Result<(), RepositoryError> {
        let first = u32::try_from(self.needed.len()).unwrap_or(u32::MAX);
        let mut bits_len = self.bits.len();
        let mut fits = true;
        let (starts, index) = (&mut self.starts, &self.index);
        let mut start_until = |number: u32, bits_len: usize| {
            let start = u32::try_from(bits_len).unwrap_or_else(|_| {
                fits = false;
                u32::MAX
            });
            starts.resize(starts.len().max(number as usize + 1), start);
        };
        let end = index.known_packs(first, &mut |number, row| {
            start_until(number, bits_len);
            bits_len += (row.chunks as usize).div_ceil(8);
            start_until(number + 1, bits_len);
        })?;
        start_until(end, bits_len);
        if !fits {
            return Err(IndexError::Failed("it has more chunks than can be counted".into()).into());
        }
        self.bits.resize(bits_len, 0);
        self.needed.resize(end as usize, 0);
        Ok(())
    }

    /// Whether a chunk is marked in a pack that has left the live state since: its place has to be
    /// chosen anew, or two maintainers could each count on the copy that the other gives up. Or
    /// whether a chunk was found nowhere: lists that are not of one moment may show a commit and
    /// not the part whose segment has its chunks, and it is not looked for again by itself.
    pub(crate) fn are_stale(&self) -> bool {
        let states = self.index.states();
        let has_left =
            |(number, needed): (u32, &u32)| *needed > 0 && states.state(number) != PackState::Live;
        (self.missing > 0 && keeps(Rule::FoundNowhereIsStale))
            || (0..).zip(&self.needed).any(has_left)
    }

    /// What the tables take.
    pub(crate) fn memory_bytes(&self) -> usize {
        4 * (self.starts.len() + self.needed.len()) + self.bits.len()
    }

    /// Higher than the number of every pack that there is room for.
    pub(crate) fn end(&self) -> u32 {
        u32::try_from(self.needed.len()).unwrap_or(u32::MAX)
    }

    /// Bytes that are needed of a pack.
    pub(crate) fn needed_bytes(&self, number: u32) -> u32 {
        self.needed.get(number as usize).copied().unwrap_or(0)
    }

    /// Whether a chunk is needed.
    pub(crate) fn needs(&self, number: u32, slot: u32) -> bool {
        let bits = self.bits_of(number).and_then(|bits| self.bits.get(bits));
        bits.and_then(|bits| bits.get(slot as usize / 8))
            .is_some_and(|byte| byte >> (slot % 8) & 1 == 1)
    }

    /// Whether so many chunks of a pack are needed.
    pub(crate) fn needs_chunks(&self, number: u32, chunks: u32) -> bool {
        let bits = self.bits_of(number).and_then(|bits| self.bits.get(bits));
        let needed = bits.map(|bits| bits.iter().map(|byte| byte.count_ones()).sum::<u32>());
        needed.unwrap_or(0) >= chunks
    }

    fn bits_of(&self, number: u32) -> Option<std::ops::Range<usize>> {
        let start = *self.starts.get(number as usize)?;
        let end = *self.starts.get(number as usize + 1)?;
        Some(start as usize..end as usize)
    }

    /// Marks a chunk. Returns whether there is room for it.
    fn mark_place(&mut self, place: &Place) -> bool {
        let Some(bits) = self.bits_of(place.pack) else { return false };
        let byte = self.bits.get_mut(bits).and_then(|bits| bits.get_mut(place.slot as usize / 8));
        let (Some(byte), Some(needed)) = (byte, self.needed.get_mut(place.pack as usize)) else {
            return false;
        };
        let bit = 1 << (place.slot % 8);
        if *byte & bit == 0 {
            *byte |= bit;
            *needed = needed.saturating_add(place.stored_len.max(1));
        }
        true
    }

    /// Marks every byte of the listed packs of these sessions.
    fn mark_sessions(&mut self, sessions: &HashSet<SessionId>) -> Result<(), RepositoryError> {
        if sessions.is_empty() {
            return Ok(());
        }
        let index = Arc::clone(&self.index);
        Ok(index.packs(&mut |number, row, _| {
            if sessions.contains(&row.identity.name.session) {
                if let Some(bits) = self.bits_of(number).and_then(|bits| self.bits.get_mut(bits)) {
                    bits.fill(u8::MAX);
                }
                if let Some(needed) = self.needed.get_mut(number as usize) {
                    *needed = row.bytes;
                }
            }
            ControlFlow::Continue(())
        })?)
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
        avoid: &PackSet,
    ) -> Result<(), RepositoryError> {
        let roots = in_order(roots);
        self.mark_sessions(&roots.iter().filter_map(|root| root.holds).collect())?;
        let mut seen = std::mem::take(&mut self.seen);
        let mut marker = Marker { marks: self, avoid, references: Vec::new() };
        for root in roots {
            walk::walk(reader, root, &mut seen, &mut marker)?;
        }
        marker.look_up()?;
        self.seen = seen;
        Ok(())
    }

    /// Takes note of chunks that were moved out of the packs `from`: they are needed where they
    /// are now, and `from` is not any more. Packs with a chunk that is nowhere else stay needed.
    ///
    /// * `moved`: every chunk that was needed of them, with the pack it was needed in.
    pub(crate) fn transfer(
        &mut self,
        mut moved: Vec<(ChunkId, u32)>,
        from: &mut PackSet,
    ) -> Result<(), RepositoryError> {
        let index = Arc::clone(&self.index);
        let states = index.states();
        let packs: HashSet<u32> = moved.iter().map(|(_, pack)| *pack).collect();
        let mut stuck = HashSet::new();
        moved.sort_unstable();
        for (id, pack) in &moved {
            let places = index.locate(id)?;
            let is_fit = |place: &&Place| {
                states.state(place.pack) == PackState::Live
                    && !from.contains(place.pack)
                    && !packs.contains(&place.pack)
            };
            if !places.iter().find(is_fit).is_some_and(|place| self.mark_place(place)) {
                stuck.insert(*pack);
            }
        }
        for pack in packs.into_iter().filter(|pack| !stuck.contains(pack)) {
            if let Some(bits) = self.bits_of(pack).and_then(|bits| self.bits.get_mut(bits)) {
                bits.fill(0);
            }
            if let Some(needed) = self.needed.get_mut(pack as usize) {
                *needed = 0;
            }
            from.insert(pack);
        }
        Ok(())
    }
}

/// Snapshots of one volume after the other: they share pages.
fn in_order<'a>(roots: impl IntoIterator<Item = &'a Snapshot>) -> Vec<&'a Snapshot> {
    let mut roots: Vec<&Snapshot> = roots.into_iter().collect();
    roots.sort_by(|a, b| (&a.name, a.started_ns, a.id).cmp(&(&b.name, b.started_ns, b.id)));
    roots
}

struct Marker<'a> {
    marks: &'a mut Marks,
    avoid: &'a PackSet,
    /// Not looked up yet.
    references: Vec<ChunkId>,
}

impl Marker<'_> {
    fn look_up(&mut self) -> Result<(), RepositoryError> {
        let Self { marks, avoid, references } = self;
        let index = Arc::clone(&marks.index);
        let states = index.states();
        let live = |place: &&Place| states.state(place.pack) == PackState::Live;
        index.locate_sorted(references, &mut |places| {
            let best = places
                .iter()
                .find(|place| live(place) && !avoid.contains(place.pack))
                .or_else(|| places.first());
            let best = if keeps(Rule::UncondemnedPlace) { best } else { places.last() };
            let best = best.filter(|_| {
                keeps(Rule::CondemnedTogetherIsNoPlace) || places.iter().filter(live).count() < 2
            });
            if !best.is_some_and(|place| marks.mark_place(place)) {
                marks.missing += 1;
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
    let mut seen = Seen::over(reader.index());
    for root in in_order(roots) {
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
        let states = index.states();
        let mut relied_on = HashSet::new();
        index.locate_sorted(&mut self.references, &mut |places| {
            let live = |place: &Place| states.state(place.pack) == PackState::Live;
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

//! The cache against a model: what a view lists, worked out from nothing but the view.

mod damage;
mod filling;
mod processes;
mod random;
mod rules;

pub(super) use processes::step;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::Path;

use repo_format::id::{ChunkId, ObjectName, PackName, RepositoryId, SegmentName, SessionId};
use repo_format::pack::{PackIdentity, PackKind};
use repo_format::segment::{Entry, PackRow, Row};
use repo_format::session::SegmentRef;

use super::{
    BoxError, Index, IndexError, IndexView, PackState, Place, SegmentSource, SyncReport, Tuning,
};

const REPOSITORY: RepositoryId = RepositoryId([9; 16]);
const MEMORY_BYTES: usize = 2 << 20;
/// So small that few entries make many tables.
const SMALL: Tuning =
    Tuning { rows_sorted_max: 64, table_bytes: 8 << 10, garbage_entries_min: 1 << 20 };

/// Numbers that look random and are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % end as u64).unwrap()
    }
}

fn chunk(number: u64) -> ChunkId {
    let mut dice = Dice(number);
    let words: Vec<u8> = (0..4).flat_map(|_| dice.roll().to_be_bytes()).collect();
    ChunkId(words.try_into().unwrap())
}

fn name(session: u64, counter: u32) -> ObjectName {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&session.to_be_bytes());
    ObjectName { session: SessionId(bytes), counter }
}

/// A pack and the numbers of its chunks, in the order of their slots.
#[derive(Debug, Clone)]
struct Pack {
    row: PackRow,
    chunks: Vec<u64>,
}

impl Pack {
    fn new(number: u32, chunks: &[u64]) -> Self {
        let identity = PackIdentity {
            name: name(1, number),
            kind: if number.is_multiple_of(2) { PackKind::Data } else { PackKind::Meta },
            epoch: number % 3,
            salt: [number.to_be_bytes()[3]; 32],
        };
        let row = PackRow { identity, bytes: 1 << 20, chunks: chunks.len().try_into().unwrap() };
        Self { row, chunks: chunks.to_vec() }
    }

    fn name(&self) -> PackName {
        self.row.identity.name
    }

    fn entries(&self, table_row: u32) -> impl Iterator<Item = Entry> {
        self.chunks.iter().zip(0u32..).map(move |(number, slot)| {
            Entry::new(&chunk(*number), table_row, 128 + slot * 1000, 900 + slot, slot)
        })
    }
}

#[derive(Debug, Clone)]
struct Segment {
    listed: SegmentRef,
    packs: Vec<Pack>,
    entries: Vec<Entry>,
}

/// The store, as far as the index sees it.
#[derive(Debug, Default)]
struct World {
    segments: BTreeMap<SegmentName, Segment>,
    /// Rows that can be read of a segment before it fails.
    broken: RefCell<HashMap<SegmentName, usize>>,
    entries_read: Cell<usize>,
}

impl World {
    fn add(&mut self, packs: &[Pack]) -> SegmentRef {
        let name = name(2, self.segments.len().try_into().unwrap());
        let mut entries: Vec<Entry> =
            packs.iter().zip(0..).flat_map(|(pack, row)| pack.entries(row)).collect();
        entries.sort_by_key(|entry| (entry.prefix, entry.pack));
        let listed = SegmentRef {
            name,
            entries: entries.len() as u64,
            packs: packs.len().try_into().unwrap(),
            bytes: 128 + 40 * entries.len() as u64,
        };
        self.segments.insert(name, Segment { listed, packs: packs.to_vec(), entries });
        listed
    }

    fn segment(&self, listed: &SegmentRef) -> &Segment {
        &self.segments[&listed.name]
    }

    /// What `view` says of each place of a chunk, the best first.
    fn expected(&self, view: &IndexView, number: u64) -> Vec<(PackState, PackName)> {
        let mut found = HashSet::new();
        for pack in view.segments.iter().flat_map(|listed| &self.segment(listed).packs) {
            if pack.chunks.contains(&number) {
                found.insert((state_in(view, &pack.name()), pack.name()));
            }
        }
        let mut found: Vec<_> = found.into_iter().collect();
        found.sort_unstable();
        found
    }

    fn pack(&self, name: &PackName) -> &Pack {
        let mut packs = self.segments.values().flat_map(|segment| &segment.packs);
        packs.find(|pack| pack.name() == *name).unwrap()
    }
}

fn state_in(view: &IndexView, name: &PackName) -> PackState {
    match () {
        () if view.dead.contains(name) => PackState::Dead,
        () if view.bad.contains(name) => PackState::Bad,
        () if view.condemned.contains(name) => PackState::Condemned,
        () => PackState::Live,
    }
}

impl SegmentSource for World {
    fn read(
        &self,
        listed: &SegmentRef,
        each: &mut dyn FnMut(Row) -> ControlFlow<()>,
    ) -> Result<(), BoxError> {
        let segment = self.segment(listed);
        let packs = segment.packs.iter().map(|pack| Row::Pack(pack.row));
        let rows = packs.chain(segment.entries.iter().map(|entry| Row::Entry(*entry)));
        let limit = self.broken.borrow().get(&listed.name).copied();
        for (at, row) in rows.enumerate() {
            if limit == Some(at) {
                return Err("the segment is torn".into());
            }
            if matches!(row, Row::Entry(_)) {
                self.entries_read.set(self.entries_read.get() + 1);
            }
            if each(row).is_break() {
                return Ok(());
            }
        }
        match limit {
            None => Ok(()),
            Some(_) => Err("the segment is torn".into()),
        }
    }
}

fn view_of(segments: &[SegmentRef]) -> IndexView {
    IndexView { segments: segments.to_vec(), ..IndexView::default() }
}

fn open(dir: &Path) -> Index {
    open_tuned(dir, SMALL)
}

fn open_tuned(dir: &Path, tuning: Tuning) -> Index {
    Index::open_tuned(dir, &REPOSITORY, MEMORY_BYTES, tuning).unwrap()
}

fn sync(index: &Index, view: &IndexView, world: &World) -> SyncReport {
    index.sync(view, world).unwrap()
}

/// Compares all that can be asked about the chunks with the model.
fn check(
    index: &Index,
    world: &World,
    view: &IndexView,
    chunks: std::ops::Range<u64>,
    when: &str,
) -> Result<(), IndexError> {
    let ids: Vec<ChunkId> = chunks.clone().map(chunk).collect();
    let located = index.locate_many(&ids)?;
    let usable = index.usable_many(&ids)?;
    for (at, number) in chunks.enumerate() {
        let expected = world.expected(view, number);
        let places = index.locate(&ids[at])?;
        assert_eq!(places, located[at], "{when}: chunk {number}, one by one and together");
        let mut found = Vec::new();
        for place in &places {
            found.push(check_place(index, world, number, place, when)?);
        }
        let order: Vec<PackState> = found.iter().map(|(state, _)| *state).collect();
        assert!(order.is_sorted(), "{when}: chunk {number} is found in {order:?}");
        found.sort_unstable();
        assert_eq!(found, expected, "{when}: chunk {number}");

        let live = places.iter().find(|place| index.pack_state(place.pack) == PackState::Live);
        assert_eq!(index.usable(&ids[at])?, live.copied(), "{when}: chunk {number}");
        assert_eq!(usable[at], live.copied(), "{when}: chunk {number}");
    }
    Ok(())
}

fn check_place(
    index: &Index,
    world: &World,
    number: u64,
    place: &Place,
    when: &str,
) -> Result<(PackState, PackName), IndexError> {
    let row = index.pack(place.pack)?.unwrap();
    let pack = world.pack(&row.identity.name);
    assert_eq!(*row, pack.row, "{when}");
    assert_eq!(index.pack_number(&pack.name())?, Some(place.pack), "{when}");
    let entry = pack.entries(0).find(|entry| entry.prefix == chunk(number).prefix()).unwrap();
    assert_eq!(
        (place.offset, place.stored_len, place.slot),
        (entry.offset, entry.stored_len, entry.slot),
        "{when}: chunk {number}"
    );
    Ok((index.pack_state(place.pack), pack.name()))
}

/// Segments of one pack each, with `chunks` chunks of their own and one that all of them share.
fn many_segments(world: &mut World, segments: u32, chunks: u64) -> Vec<SegmentRef> {
    (0..segments)
        .map(|number| {
            let start = 1 + u64::from(number) * chunks;
            let own: Vec<u64> = (start..start + chunks).chain([0]).collect();
            world.add(&[Pack::new(number, &own)])
        })
        .collect()
}

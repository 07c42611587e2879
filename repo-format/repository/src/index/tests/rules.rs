//! Which packs count, view by view.

use super::*;

#[test]
fn an_index_may_be_shared_by_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Index>();
}

#[test]
fn a_chunk_is_found_in_every_listed_pack_and_the_best_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::default();
    let packs: Vec<Pack> = (0..5).map(|pack| Pack::new(pack, &[1, 2 + u64::from(pack)])).collect();
    let a = world.add(&packs[..2]);
    let b = world.add(&packs[2..]);
    let index = open(dir.path());
    let mut view = view_of(&[a, b, a]);
    view.dead = vec![packs[0].name()];
    view.bad = vec![packs[1].name(), packs[0].name()];
    view.condemned = vec![packs[2].name(), packs[1].name(), name(77, 7)];
    let report = sync(&index, &view, &world);
    assert_eq!((report.loaded, report.entries), (2, 10));
    check(&index, &world, &view, 0..9, "at first").unwrap();

    let states = index.locate(&chunk(1)).unwrap();
    let states: Vec<_> = states.iter().map(|place| index.pack_state(place.pack)).collect();
    let (live, condemned) = (PackState::Live, PackState::Condemned);
    assert_eq!(states, [live, live, condemned, PackState::Bad, PackState::Dead]);
    for (number, is_usable) in [(2, false), (3, false), (4, false), (5, true), (6, true)] {
        let found = index.usable(&chunk(number)).unwrap();
        assert_eq!(found.is_some(), is_usable, "chunk {number}");
    }

    // A rescue, and a verdict.
    view.condemned = vec![];
    view.dead.push(packs[3].name());
    sync(&index, &view, &world);
    check(&index, &world, &view, 0..9, "after the rescue").unwrap();
}

#[test]
fn nothing_is_found_before_the_first_sync() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::default();
    let a = world.add(&[Pack::new(0, &[1])]);
    let index = open(dir.path());
    sync(&index, &view_of(&[a]), &world);
    assert!(index.usable(&chunk(1)).unwrap().is_some());
    drop(index);
    let index = open(dir.path());
    check(&index, &world, &view_of(&[]), 0..3, "opened again").unwrap();
    let report = sync(&index, &view_of(&[a]), &world);
    assert_eq!(report.loaded, 0, "it was loaded again");
    check(&index, &world, &view_of(&[a]), 0..3, "synced again").unwrap();
}

/// The worst that a cache can do: while nobody looked, a pack was condemned, declared dead, swept,
/// merged out of the index and dropped from the list of dead packs.
#[test]
fn a_pack_swept_while_the_cache_slept_is_never_found() {
    for is_reopened in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::default();
        let (swept, kept) = (Pack::new(0, &[1, 2]), Pack::new(1, &[2, 3]));
        let a = world.add(&[swept.clone(), kept.clone()]);
        let merged = world.add(&[kept, Pack::new(2, &[4])]);
        let mut index = open(dir.path());
        sync(&index, &view_of(&[a]), &world);
        assert!(index.usable(&chunk(1)).unwrap().is_some());
        if is_reopened {
            drop(index);
            index = open(dir.path());
        }
        sync(&index, &view_of(&[merged]), &world);
        assert_eq!(index.usable(&chunk(1)).unwrap(), None);
        assert_eq!(index.locate(&chunk(1)).unwrap(), []);
        assert_eq!(index.pack_number(&swept.name()).unwrap(), None);
        check(&index, &world, &view_of(&[merged]), 0..6, "after the merge").unwrap();
        let mut listed = Vec::new();
        index
            .packs(&mut |_, row, _| {
                listed.push(row.identity.name);
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(listed, [name(1, 1), name(1, 2)]);
    }
}

#[test]
fn a_merge_of_packs_that_are_all_there_is_not_read_beyond_its_packs() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::default();
    let packs: Vec<Pack> = (0..4).map(|pack| Pack::new(pack, &[u64::from(pack), 9])).collect();
    let parts: Vec<SegmentRef> = packs.chunks(1).map(|pack| world.add(pack)).collect();
    let merged = world.add(&packs[..3]);
    let further = world.add(&packs);
    let index = open(dir.path());
    sync(&index, &view_of(&parts[..3]), &world);
    let before = world.entries_read.get();
    let report = sync(&index, &view_of(&[merged]), &world);
    assert_eq!((report.loaded, world.entries_read.get()), (1, before));
    check(&index, &world, &view_of(&[merged]), 0..10, "merged").unwrap();

    // One pack of it is new: only that one's entries are taken.
    drop(index);
    let index = open(dir.path());
    sync(&index, &view_of(&[further]), &world);
    check(&index, &world, &view_of(&[further]), 0..10, "merged with a new pack").unwrap();
    assert_eq!(world.entries_read.get(), before + 8);
    assert_eq!(stored_entries(&index), 8);
}

/// Merges may cut segments by range, so that one has only some of a pack's entries.
#[test]
fn a_pack_whose_entries_are_spread_over_segments_is_found_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::default();
    let numbers: Vec<u64> = (0..20).collect();
    let packs = [Pack::new(0, &numbers[..15]), Pack::new(1, &numbers[5..])];
    let halves = [world.add(&packs), world.add(&packs)];
    for (half, is_low) in halves.iter().zip([true, false]) {
        let segment = world.segments.get_mut(&half.name).unwrap();
        segment.entries.retain(|entry| (entry.prefix[0] < 0x80) == is_low);
        segment.listed.entries = segment.entries.len() as u64;
    }
    let halves = halves.map(|half| world.segment(&half).listed);
    let index = open(dir.path());
    sync(&index, &view_of(&halves[..1]), &world);
    sync(&index, &view_of(&halves), &world);
    check(&index, &world, &view_of(&halves), 0..22, "both halves").unwrap();
}

#[test]
fn a_view_may_go_back_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::default();
    let old = many_segments(&mut world, 6, 40);
    let kept = world.segment(&old[0]).packs[0].clone();
    let new = world.add(&[Pack::new(100, &[1, 2, 3]), kept]);
    let (before, after) = (view_of(&old), view_of(&[new]));
    for garbage_entries_min in [1 << 20, 0] {
        let index = open_tuned(dir.path(), Tuning { garbage_entries_min, ..SMALL });
        for round in 0..3 {
            for view in [&before, &after, &view_of(&[]), &after] {
                sync(&index, view, &world);
                check(&index, &world, view, 0..250, &format!("round {round}")).unwrap();
            }
        }
    }
}

#[test]
fn what_no_view_lists_is_removed_once_it_is_more_than_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::default();
    let segments = many_segments(&mut world, 10, 50);
    let index = open_tuned(dir.path(), Tuning { garbage_entries_min: 0, ..SMALL });
    sync(&index, &view_of(&segments), &world);
    assert_eq!(stored_entries(&index), 510);
    sync(&index, &view_of(&segments[..6]), &world);
    assert_eq!(stored_entries(&index), 510, "less than half is garbage");
    sync(&index, &view_of(&segments[..2]), &world);
    assert_eq!(stored_entries(&index), 102);
    check(&index, &world, &view_of(&segments[..2]), 0..520, "tidied").unwrap();

    drop(index);
    let index = open(dir.path());
    let report = sync(&index, &view_of(&segments[..3]), &world);
    assert_eq!(report.loaded, 1, "a segment that was given up must be read again");
    check(&index, &world, &view_of(&segments[..3]), 0..520, "loaded again").unwrap();
}

/// Entries in the database, whether or not they count.
fn stored_entries(index: &Index) -> usize {
    index.cache().stored_entries().unwrap()
}

#[test]
fn a_segment_that_cannot_be_read_is_reported_and_the_rest_is_usable() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::default();
    let segments = many_segments(&mut world, 5, 100);
    let index = open(dir.path());
    for rows in [0, 1, 2, 90, 101] {
        world.broken.borrow_mut().insert(segments[2].name, rows);
        let report = sync(&index, &view_of(&segments), &world);
        let unreadable: Vec<_> = report.unreadable.iter().map(|(listed, _)| *listed).collect();
        assert_eq!(unreadable, [segments[2]], "cut after {rows} rows");
        assert_eq!(report.unreadable[0].1, "the segment is torn");
        let rest = [segments[0], segments[1], segments[3], segments[4]];
        check(&index, &world, &view_of(&rest), 0..510, "one is torn").unwrap();
    }
    world.broken.borrow_mut().clear();
    let report = sync(&index, &view_of(&segments), &world);
    assert_eq!((report.loaded, report.unreadable.len()), (1, 0));
    check(&index, &world, &view_of(&segments), 0..510, "all are whole").unwrap();
}

#[test]
fn a_segment_that_is_not_what_the_catalog_lists_is_not_believed() {
    let mut world = World::default();
    let sound = world.add(&[Pack::new(4, &[8]), Pack::new(5, &[9])]);
    let listed = world.add(&[Pack::new(0, &[1, 2, 3]), Pack::new(1, &[4])]);
    let slot_beyond = world.add(&[Pack::new(2, &[5, 6])]);
    world.segments.get_mut(&slot_beyond.name).unwrap().entries[1].slot = 2;
    let no_pack = world.add(&[Pack::new(3, &[7])]);
    world.segments.get_mut(&no_pack.name).unwrap().entries[0].pack = 1;
    let other_salt = world.add(&[Pack::new(4, &[8])]);
    world.segments.get_mut(&other_salt.name).unwrap().packs[0].row.identity.salt = [99; 32];

    for wrong in [
        SegmentRef { entries: 3, ..listed },
        SegmentRef { entries: 5, ..listed },
        SegmentRef { packs: 1, ..listed },
        SegmentRef { packs: 3, ..listed },
        slot_beyond,
        no_pack,
        other_salt,
    ] {
        let dir = tempfile::tempdir().unwrap();
        let index = open(dir.path());
        let report = sync(&index, &view_of(&[sound, wrong]), &world);
        assert_eq!(report.loaded, 1, "{wrong:?}");
        assert_eq!(report.unreadable.len(), 1, "{wrong:?}");
        check(&index, &world, &view_of(&[sound]), 0..10, "with a wrong segment").unwrap();
    }

    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path());
    sync(&index, &view_of(&[listed]), &world);
    let report = sync(&index, &view_of(&[SegmentRef { packs: 3, ..listed }]), &world);
    assert_eq!(report.unreadable.len(), 1, "what was loaded under that name is something else");
}

#[test]
fn an_own_segment_is_found_at_once_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::default();
    let first = world.add(&[Pack::new(0, &[1, 2])]);
    let own = world.add(&[Pack::new(1, &[2, 3]), Pack::new(2, &[4])]);
    let index = open(dir.path());
    sync(&index, &view_of(&[first]), &world);
    let segment = world.segment(&own);
    let rows: Vec<PackRow> = segment.packs.iter().map(|pack| pack.row).collect();
    index.add_segment(&own, &rows, &segment.entries).unwrap();
    let both = view_of(&[first, own]);
    check(&index, &world, &both, 0..6, "added").unwrap();
    assert_eq!(sync(&index, &both, &world).loaded, 0);

    // It was not committed after all.
    sync(&index, &view_of(&[first]), &world);
    check(&index, &world, &view_of(&[first]), 0..6, "dropped").unwrap();
    drop(index);
    let index = open(dir.path());
    assert_eq!(sync(&index, &both, &world).loaded, 0);
    check(&index, &world, &both, 0..6, "after a restart").unwrap();
}

#[test]
fn all_entries_are_handed_out_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::default();
    let segments = many_segments(&mut world, 4, 200);
    let index = open(dir.path());
    sync(&index, &view_of(&segments), &world);
    let mut view = view_of(&segments[1..]);
    view.dead = vec![name(1, 2)];
    sync(&index, &view, &world);
    let mut seen = Vec::new();
    index
        .entries(&mut |prefix, place, state| {
            assert_eq!(state, index.pack_state(place.pack));
            seen.push((*prefix, *place));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(seen.len(), 603);
    assert!(seen.is_sorted_by_key(|(prefix, place)| (*prefix, place.pack)));
    let places = index.locate(&chunk(0)).unwrap();
    let run: Vec<Place> =
        seen.iter().filter(|(prefix, _)| *prefix == chunk(0).prefix()).map(|row| row.1).collect();
    assert_eq!(run.len(), 3);
    assert!(run.iter().all(|place| places.contains(place)));
}

#[test]
fn lookups_go_on_while_another_thread_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::default();
    let segments = many_segments(&mut world, 12, 50);
    let index = open_tuned(dir.path(), Tuning { garbage_entries_min: 0, ..SMALL });
    sync(&index, &view_of(&segments[..1]), &world);
    let is_done = std::sync::atomic::AtomicBool::new(false);
    let is_done = &is_done;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                    // In all views, so it must be there at every moment.
                    for number in 1..51 {
                        assert!(index.usable(&chunk(number)).unwrap().is_some());
                    }
                }
            });
        }
        for _ in 0..4 {
            for end in [12, 3, 1, 7, 12] {
                sync(&index, &view_of(&segments[..end]), &world);
            }
        }
        is_done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

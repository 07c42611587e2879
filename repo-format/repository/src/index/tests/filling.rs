//! A cache that is used while it is being filled.

use std::time::Duration;

use super::*;

const SEGMENTS: u32 = 6;
const CHUNKS: u64 = 5;

struct Cold {
    _dir: tempfile::TempDir,
    index: Index,
    world: World,
    view: IndexView,
}

/// An empty cache, and a view of segments that share chunk 0 and have five chunks each of their own.
fn cold() -> Cold {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::default();
    let segments = many_segments(&mut world, SEGMENTS, CHUNKS);
    Cold { index: open(dir.path()), _dir: dir, world, view: view_of(&segments) }
}

/// The part of a view that has its first `segments`.
fn front(view: &IndexView, segments: usize) -> IndexView {
    IndexView { segments: view.segments[..segments].to_vec(), ..view.clone() }
}

fn all() -> std::ops::Range<u64> {
    0..1 + u64::from(SEGMENTS) * CHUNKS
}

/// The places that are found at once: to look for others would be to wait for them.
fn usable(index: &Index) -> Vec<bool> {
    let ids: Vec<ChunkId> = all().map(chunk).collect();
    index.usable_many(&ids).unwrap().iter().map(Option::is_some).collect()
}

fn expected(world: &World, view: &IndexView) -> Vec<bool> {
    let live = |number| world.expected(view, number).iter().any(|it| it.0 == PackState::Live);
    all().map(live).collect()
}

#[test]
fn at_each_moment_exactly_what_is_loaded_of_the_view_may_be_referenced() {
    let Cold { index, world, mut view, _dir } = cold();
    view.condemned.push(Pack::new(1, &[]).name());
    view.dead.push(Pack::new(4, &[]).name());
    let (report, fill) = index.begin(&view, &world, &mut |report| report.loaded < 2).unwrap();
    assert_eq!((report.loaded, report.left), (2, 4));
    assert_eq!(usable(&index), expected(&world, &front(&view, 2)));
    let fill = fill.unwrap();
    for loaded in 3..=6 {
        let step = index.fill(fill, &view, &world, &mut |report| report.loaded < 1).unwrap();
        assert_eq!(step.unwrap().left, 6 - loaded);
        assert_eq!(usable(&index), expected(&world, &front(&view, loaded)), "{loaded} segments");
    }
    assert!(index.fill(fill, &view, &world, &mut |_| true).unwrap().is_none(), "it is full");
    check(&index, &world, &view, all(), "filled").unwrap();
    let fetched = index.fetched();
    assert_eq!((fetched.segments, fetched.segments_left), (6, 0));
    assert!(fetched.was_cold);
}

#[test]
fn who_reads_waits_for_what_is_missing_and_no_longer() {
    let Cold { index, world, view, _dir } = cold();
    let (_, fill) = index.begin(&view, &world, &mut |report| report.loaded < 1).unwrap();
    let fill = fill.unwrap();
    std::thread::scope(|scope| {
        // Of the first segment, the last one, and none.
        let [first, last, none] = [1, all().end - 1, 1000].map(|number| {
            let index = &index;
            scope.spawn(move || index.locate(&chunk(number)).unwrap().len())
        });
        let many = scope.spawn(|| index.locate_many(&[chunk(1), chunk(all().end - 1)]).unwrap());
        assert_eq!(first.join().unwrap(), 1);
        std::thread::sleep(Duration::from_millis(20));
        assert!(!last.is_finished() && !none.is_finished() && !many.is_finished());
        while index.fill(fill, &view, &world, &mut |report| report.loaded < 1).unwrap().is_some() {}
        assert_eq!((last.join().unwrap(), none.join().unwrap()), (1, 0));
        assert!(many.join().unwrap().iter().all(|places| places.len() == 1));
    });
}

#[test]
fn nobody_waits_once_the_filling_has_ended() {
    let Cold { index, world, view, _dir } = cold();
    let (_, fill) = index.begin(&view, &world, &mut |report| report.loaded < 1).unwrap();
    std::thread::scope(|scope| {
        let last = scope.spawn(|| index.locate(&chunk(all().end - 1)).unwrap().len());
        index.end_fill(fill.unwrap());
        assert_eq!(last.join().unwrap(), 0);
    });
    check(&index, &world, &front(&view, 1), all(), "ended").unwrap();
    // What was loaded stays.
    assert_eq!(sync(&index, &view, &world).loaded, 5);
}

#[test]
fn a_segment_of_our_own_stays_found_while_the_cache_is_filled() {
    let Cold { index, mut world, view, _dir } = cold();
    let (_, fill) = index.begin(&view, &world, &mut |report| report.loaded < 1).unwrap();
    let own = world.add(&[Pack::new(50, &[500, 501])]);
    let segment = world.segment(&own);
    let packs: Vec<PackRow> = segment.packs.iter().map(|pack| pack.row).collect();
    index.add_segment(&own, &packs, &segment.entries).unwrap();
    index.fill(fill.unwrap(), &view, &world, &mut |report| report.loaded < 1).unwrap();
    assert!(index.usable(&chunk(500)).unwrap().is_some());
    sync(&index, &view, &world);
    assert_eq!(index.usable(&chunk(500)).unwrap(), None, "a view without it was synced");
}

#[test]
fn a_later_sync_takes_the_place_of_a_filling() {
    let Cold { index, world, view, _dir } = cold();
    let (_, fill) = index.begin(&view, &world, &mut |report| report.loaded < 1).unwrap();
    let newer = IndexView { condemned: vec![Pack::new(5, &[]).name()], ..view.clone() };
    sync(&index, &newer, &world);
    assert!(index.fill(fill.unwrap(), &view, &world, &mut |_| true).unwrap().is_none());
    check(&index, &world, &newer, all(), "the newer view").unwrap();
}

#[test]
fn a_segment_that_cannot_be_read_is_left_out_and_tried_by_the_next_sync() {
    let Cold { index, world, view, _dir } = cold();
    world.broken.borrow_mut().insert(view.segments[3].name, 2);
    let (report, fill) = index.begin(&view, &world, &mut |report| report.loaded < 1).unwrap();
    assert_eq!(report.left, 5);
    let step = index.fill(fill.unwrap(), &view, &world, &mut |_| true).unwrap().unwrap();
    assert_eq!((step.left, step.unreadable.len()), (0, 1));
    world.broken.borrow_mut().clear();
    assert_eq!(sync(&index, &view, &world).loaded, 1);
}

//! Several processes at once, and processes that are killed.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::*;

const DIR: &str = "SALVOR_TEST_INDEX_DIR";
const SEGMENTS: u32 = 60;
const CHUNKS: u64 = 150;

fn world() -> (World, IndexView) {
    let mut world = World::default();
    let segments = many_segments(&mut world, SEGMENTS, CHUNKS);
    (world, view_of(&segments))
}

fn spawn(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "index::tests::processes::syncs_when_it_is_run_as_a_child"])
        .env(DIR, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What a child process does: loads one segment after the other, and unloads some, for ever.
#[test]
fn syncs_when_it_is_run_as_a_child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let (world, view) = world();
    let index = open_tuned(Path::new(&dir), Tuning { garbage_entries_min: 100, ..SMALL });
    for round in 0.. {
        for end in [10, 30, 60, 59, 5, 60] {
            let view = view_of(&view.segments[..end]);
            sync(&index, &view, &world);
            let chunks = (end as u64 - 1) * CHUNKS..end as u64 * CHUNKS;
            check(&index, &world, &view, chunks, &format!("child, round {round}")).unwrap();
        }
    }
}

fn kill(mut child: Child) {
    assert!(child.try_wait().unwrap().is_none(), "the child failed");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// What the cache holds, without reading anything from the store: whatever counts must be whole.
fn check_what_counts(index: &Index, world: &World, view: &IndexView, when: &str) -> usize {
    for segment in &view.segments {
        world.broken.borrow_mut().insert(segment.name, 0);
    }
    let report = sync(index, view, world);
    world.broken.borrow_mut().clear();
    let unread: HashSet<SegmentName> =
        report.unreadable.iter().map(|(listed, _)| listed.name).collect();
    let mut loaded = view.clone();
    loaded.segments.retain(|listed| !unread.contains(&listed.name));
    check(index, world, &loaded, 0..u64::from(SEGMENTS) * CHUNKS + 1, when).unwrap();
    loaded.segments.len()
}

#[test]
fn a_killed_process_leaves_a_cache_that_is_right_and_useful() {
    let dir = tempfile::tempdir().unwrap();
    let (world, view) = world();
    let (mut dice, mut useful) = (Dice(11), 0);
    for round in 0..25 {
        let child = spawn(dir.path());
        std::thread::sleep(Duration::from_millis(20 + dice.roll() % 400));
        kill(child);
        let when = format!("killed in round {round}");
        let index = open(dir.path());
        assert_eq!(index.take_notices(), [], "{when}");
        useful += usize::from(check_what_counts(&index, &world, &view, &when) > 0);
        if round % 5 == 4 {
            sync(&index, &view, &world);
            check(&index, &world, &view, 0..200, &when).unwrap();
        }
    }
    assert!(useful > 5, "only {useful} of 25 kills left anything");
}

#[test]
fn processes_at_the_same_time_do_not_disturb_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (world, view) = world();
    let children: Vec<Child> = (0..3).map(|_| spawn(dir.path())).collect();
    for round in 0..4 {
        let index = open(dir.path());
        sync(&index, &view, &world);
        check(&index, &world, &view, 0..300, &format!("round {round}")).unwrap();
        assert_eq!(index.take_notices(), []);
    }
    let slots = std::fs::read_dir(dir.path().join(REPOSITORY.to_string())).unwrap().count();
    assert!(slots > 1, "all in one slot");
    children.into_iter().for_each(kill);
    // A lock dies with its process.
    let indexes: Vec<Index> = (0..4).map(|_| open(dir.path())).collect();
    assert!(indexes.iter().all(|index| index.take_notices().is_empty()));
}

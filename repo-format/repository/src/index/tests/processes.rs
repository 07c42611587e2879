//! Several processes at once, and processes that are killed.

use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use super::*;

const DIR: &str = "SALVOR_TEST_INDEX_DIR";
const STEPS: &str = "SALVOR_TEST_INDEX_STEPS";
const ROUNDS: u32 = 12;
const SEGMENTS: u32 = 60;
const CHUNKS: u64 = 150;
const TIDY: Tuning = Tuning { garbage_entries_min: 0, ..SMALL };

fn world() -> (World, IndexView) {
    let mut world = World::default();
    let segments = many_segments(&mut world, SEGMENTS, CHUNKS);
    (world, view_of(&segments))
}

/// A child that runs `test` of this module, and is killed before the `steps`th change of the database.
fn spawn(test: &str, dir: &Path, steps: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("index::tests::processes::{test}")])
        .env(DIR, dir)
        .env(STEPS, steps.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Comes before every change of a database.
pub(in crate::index) fn step() {
    static LEFT: LazyLock<AtomicU64> = LazyLock::new(|| {
        let steps = std::env::var(STEPS).ok().and_then(|steps| steps.parse().ok());
        AtomicU64::new(steps.unwrap_or(u64::MAX))
    });
    if LEFT.fetch_sub(1, Ordering::Relaxed) == 0 {
        let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
    }
}

fn shuffled(view: &IndexView, seed: u64) -> IndexView {
    let (mut view, mut dice) = (view.clone(), Dice(seed));
    for at in 1..view.segments.len() {
        view.segments.swap(at, dice.below(at + 1));
    }
    view
}

/// What a child process does: loads segments and unloads some, for ever.
#[test]
fn syncs_for_ever_as_a_child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let (world, view) = world();
    let index = open_tuned(Path::new(&dir), Tuning { garbage_entries_min: 100, ..SMALL });
    for round in 0.. {
        let view = shuffled(&view, u64::from(std::process::id()) + round);
        for end in [10, 30, 60, 59, 5, 60] {
            let view = view_of(&view.segments[..end]);
            sync(&index, &view, &world);
            check(&index, &world, &view, 0..CHUNKS, &format!("child, round {round}")).unwrap();
        }
    }
}

/// What a child process does: loads, gives packs up, loads again, and ends.
#[test]
fn syncs_a_little_as_a_child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let (world, view) = world();
    let index = open_tuned(Path::new(&dir), TIDY);
    for range in [0..2, 0..5, 1..2, 0..5] {
        sync(&index, &view_of(&view.segments[range]), &world);
    }
}

/// Every moment between two changes of the database. Afterwards the same segments come in another
/// order, so that a number that is given out twice would stand for another pack.
#[test]
fn a_kill_before_any_change_leaves_a_cache_that_is_right() {
    let (world, view) = world();
    let view = view_of(&view.segments[..5]);
    let reversed = view_of(&view.segments.iter().rev().copied().collect::<Vec<_>>());
    for steps in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let status = spawn("syncs_a_little_as_a_child", dir.path(), steps).wait().unwrap();
        let when = format!("killed before change {steps}");
        let index = open_tuned(dir.path(), TIDY);
        assert_eq!(index.take_notices(), [], "{when}");
        check_what_counts(&index, &world, &view, 0..5 * CHUNKS + 1, &when);
        sync(&index, &reversed, &world);
        check(&index, &world, &reversed, 0..5 * CHUNKS + 1, &when).unwrap();
        let first = view_of(&view.segments[..1]);
        sync(&index, &first, &world);
        check(&index, &world, &first, 0..5 * CHUNKS + 1, &when).unwrap();
        if status.success() {
            assert!(steps > 30, "only {steps} changes");
            return;
        }
    }
}

fn kill(mut child: Child) {
    assert!(child.try_wait().unwrap().is_none(), "the child failed");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// What the cache holds, without reading anything from the store: whatever counts must be whole.
fn check_what_counts(
    index: &Index,
    world: &World,
    view: &IndexView,
    chunks: std::ops::Range<u64>,
    when: &str,
) -> usize {
    for segment in &view.segments {
        world.broken.borrow_mut().insert(segment.name, 0);
    }
    let report = sync(index, view, world);
    world.broken.borrow_mut().clear();
    let unread: HashSet<SegmentName> =
        report.unreadable.iter().map(|(listed, _)| listed.name).collect();
    let mut loaded = view.clone();
    loaded.segments.retain(|listed| !unread.contains(&listed.name));
    check(index, world, &loaded, chunks, when).unwrap();
    loaded.segments.len()
}

#[test]
fn a_killed_process_leaves_a_cache_that_is_right_and_useful() {
    let dir = tempfile::tempdir().unwrap();
    let (world, view) = world();
    let (mut dice, mut useful) = (Dice(11), 0);
    for round in 0..ROUNDS {
        let child = spawn("syncs_for_ever_as_a_child", dir.path(), u64::MAX);
        std::thread::sleep(Duration::from_millis(20 + dice.roll() % 400));
        kill(child);
        let when = format!("killed in round {round}");
        let index = open(dir.path());
        assert_eq!(index.take_notices(), [], "{when}");
        let chunks = 0..u64::from(SEGMENTS) * CHUNKS + 1;
        useful += u32::from(check_what_counts(&index, &world, &view, chunks, &when) > 0);
        if round % 3 == 2 {
            sync(&index, &shuffled(&view, round.into()), &world);
            check(&index, &world, &view, 0..200, &when).unwrap();
        }
    }
    assert!(useful > ROUNDS / 4, "only {useful} of {ROUNDS} kills left anything");
}

#[test]
fn processes_at_the_same_time_do_not_disturb_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (world, view) = world();
    let spawn = |_| spawn("syncs_for_ever_as_a_child", dir.path(), u64::MAX);
    let children: Vec<Child> = (0..3).map(spawn).collect();
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

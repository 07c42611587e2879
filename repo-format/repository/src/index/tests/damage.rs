//! Damaged, foreign and unwritable caches: never a wrong answer, never an error that lasts.

use std::fs;
use std::path::PathBuf;

use super::super::Notice;
use super::*;

const CHUNKS: std::ops::Range<u64> = 0..165;
/// In which each file is damaged: removed, cut three times, flipped the rest of the times.
const WAYS: u32 = 7;

fn slot(dir: &Path, slot: u32) -> PathBuf {
    dir.join(REPOSITORY.to_string()).join(slot.to_string())
}

fn database(dir: &Path) -> PathBuf {
    let mut found = fs::read_dir(slot(dir, 0)).unwrap().map(|entry| entry.unwrap().path());
    found.find(|path| path.file_name().unwrap().to_string_lossy().starts_with("db-")).unwrap()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for path in files(from) {
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, target).unwrap();
        }
    }
}

/// Syncs and checks, as a program does: what is found damaged on the way is synced again, once.
fn recover(index: &Index, world: &World, view: &IndexView, when: &str) {
    sync(index, view, world);
    match check(index, world, view, CHUNKS, when) {
        Ok(()) => {}
        Err(IndexError::Damaged(_)) => {
            sync(index, view, world);
            check(index, world, view, CHUNKS, when).unwrap();
        }
        Err(error) => panic!("{when}: {error}"),
    }
}

#[test]
fn any_file_cut_flipped_or_gone_leads_to_a_rebuild_and_never_to_a_wrong_answer() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let mut world = World::default();
    let segments = many_segments(&mut world, 4, 40);
    let view = view_of(&segments);
    for end in [2, 4] {
        let index = open(&whole);
        sync(&index, &view_of(&segments[..end]), &world);
    }
    let file_names: Vec<_> =
        files(&database(&whole)).iter().map(|file| file.file_name().unwrap().to_owned()).collect();
    assert!(file_names.len() > 5, "{file_names:?}");
    let (mut dice, mut trials, mut rebuilds) = (Dice(5), 0, 0);
    for file in file_names {
        let len = fs::metadata(database(&whole).join(&file)).unwrap().len();
        for how in 0..WAYS {
            let hurt = dir.path().join(format!("hurt-{trials}"));
            copy(&whole, &hurt);
            let path = database(&hurt).join(&file);
            let at = dice.roll() % len.max(1);
            let when = format!("{}, way {how} at {at} of {len}", file.display());
            match how {
                0 => fs::remove_file(&path).unwrap(),
                1..4 => fs::File::options().write(true).open(&path).unwrap().set_len(at).unwrap(),
                _ => flip(&path, usize::try_from(at).unwrap(), dice.roll()),
            }
            let index = open(&hurt);
            recover(&index, &world, &view, &when);
            rebuilds += index.take_notices().len();
            drop(index);
            // It is whole now, for good.
            let index = open(&hurt);
            assert_eq!(index.take_notices(), [], "{when}");
            recover(&index, &world, &view, &when);
            assert_eq!(index.take_notices(), [], "{when}");
            drop(index);
            fs::remove_dir_all(&hurt).unwrap();
            trials += 1;
        }
    }
    assert!(rebuilds > trials / 4, "{rebuilds} rebuilds in {trials} trials");
}

fn flip(path: &Path, at: usize, dice: u64) {
    let mut bytes = fs::read(path).unwrap();
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << (dice % 8);
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_cache_of_another_repository_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::default();
    let a = world.add(&[Pack::new(0, &[1])]);
    let index = open(dir.path());
    sync(&index, &view_of(&[a]), &world);
    drop(index);
    let other = RepositoryId([8; 16]);
    fs::rename(dir.path().join(REPOSITORY.to_string()), dir.path().join(other.to_string()))
        .unwrap();
    let index = Index::open_tuned(dir.path(), &other, MEMORY_BYTES, SMALL).unwrap();
    assert!(matches!(index.take_notices()[..], [Notice::Rebuilt { .. }]));
    assert_eq!(sync(&index, &view_of(&[a]), &world).loaded, 1);
}

#[test]
fn an_interrupted_rebuild_is_started_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::default();
    let segments = many_segments(&mut world, 4, 40);
    let index = open(dir.path());
    sync(&index, &view_of(&segments), &world);
    drop(index);
    let before = database(dir.path());
    copy(&before, &before.with_file_name("db-0"));
    let index = open(dir.path());
    assert!(matches!(index.take_notices()[..], [Notice::Rebuilt { .. }]));
    recover(&index, &world, &view_of(&segments), "after the interruption");
    assert_ne!(database(dir.path()), before);
}

#[test]
fn a_folder_that_cannot_be_written_is_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "no folder").unwrap();
    let mut world = World::default();
    let segments = many_segments(&mut world, 4, 40);
    let index = open(&file);
    assert!(matches!(index.take_notices()[..], [Notice::Private { .. }]));
    recover(&index, &world, &view_of(&segments), "in a temporary folder");
    let private = super::super::lock(&index.home).path().to_owned();
    assert!(private.exists());
    drop(index);
    assert!(!private.exists(), "{} was left", private.display());
}

#[test]
fn a_folder_that_vanishes_or_breaks_while_it_is_used_is_replaced() {
    let mut world = World::default();
    let segments = many_segments(&mut world, 4, 40);
    let (half, whole) = (view_of(&segments[..2]), view_of(&segments));
    for is_whole_slot_gone in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let index = open(dir.path());
        sync(&index, &half, &world);
        let gone = if is_whole_slot_gone { slot(dir.path(), 0) } else { database(dir.path()) };
        fs::rename(gone, dir.path().join("gone")).unwrap();
        recover(&index, &world, &whole, "after the folder was removed");
        let notices = index.take_notices();
        match notices[..] {
            [Notice::Private { .. }] => assert!(is_whole_slot_gone),
            [Notice::Rebuilt { .. }] => assert!(!is_whole_slot_gone),
            _ => panic!("{notices:?}"),
        }
        // And it stays usable.
        recover(&index, &world, &half, "later");
        assert_eq!(index.take_notices(), []);
    }
}

#[test]
fn a_place_from_before_a_rebuild_leads_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::default();
    let segments = many_segments(&mut world, 4, 40);
    let index = open(dir.path());
    sync(&index, &view_of(&segments), &world);
    let old: Vec<Place> = CHUNKS.filter_map(|id| index.usable(&chunk(id)).unwrap()).collect();
    fs::rename(database(dir.path()), dir.path().join("gone")).unwrap();
    let more = many_segments(&mut world, 5, 40)[4];
    sync(&index, &view_of(&[more]), &world);
    sync(&index, &view_of(&segments), &world);
    assert_eq!(index.take_notices().len(), 1);
    for place in old {
        assert_eq!(index.pack(place.pack).unwrap(), None);
        assert_eq!(index.pack_state(place.pack), PackState::Unlisted);
    }
    assert!(index.usable(&chunk(1)).unwrap().is_some());
}

#[test]
fn a_slot_that_was_not_used_for_long_is_emptied() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (open(dir.path()), open(dir.path()));
    let age = std::time::Duration::from_hours(40 * 24);
    let lock = fs::File::options().write(true).open(slot(dir.path(), 1).join("lock")).unwrap();
    lock.set_modified(std::time::SystemTime::now() - age).unwrap();
    drop(first);
    let first = open(dir.path());
    assert_eq!(files(&slot(dir.path(), 1)).len(), 2, "a slot in use was emptied");
    drop((first, second));
    let first = open(dir.path());
    assert_eq!(files(&slot(dir.path(), 1)).len(), 1, "an idle slot was kept");
    drop(first);
    assert_eq!(files(&slot(dir.path(), 0)).len(), 2);
}

#[test]
fn a_seventeenth_process_gets_a_temporary_cache() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::default();
    let a = world.add(&[Pack::new(0, &[1])]);
    let indexes: Vec<Index> = (0..17).map(|_| open(dir.path())).collect();
    for (number, index) in indexes.iter().enumerate() {
        sync(index, &view_of(&[a]), &world);
        check(index, &world, &view_of(&[a]), 0..3, "one of many").unwrap();
        assert_eq!(index.take_notices().len(), usize::from(number == 16), "index {number}");
    }
    drop(indexes);
    assert_eq!(sync(&open(dir.path()), &view_of(&[a]), &world).loaded, 0);
}

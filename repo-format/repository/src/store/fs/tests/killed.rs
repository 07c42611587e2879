//! Other processes: racing for a name, and killed while they write.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{files, pack, repository};
use crate::store::fs::FsStore;
use crate::store::{Store, StoreError};
use repo_format::key::{ObjectKey, Prefix};

const PATH: &str = "SALVOR_TEST_STORE";
const BODY_BYTES: usize = 8 << 20;

/// This test program, running one of the tests below that do nothing unless told to.
fn child(test: &str, path: &Path, argument: u32) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("store::fs::tests::killed::{test}"), "--nocapture"])
        .env(PATH, path)
        .env("SALVOR_TEST_ARGUMENT", argument.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

fn told() -> Option<(FsStore, u32)> {
    let path = std::env::var_os(PATH)?;
    let argument = std::env::var("SALVOR_TEST_ARGUMENT").unwrap().parse().unwrap();
    Some((FsStore::open(Path::new(&path)).unwrap(), argument))
}

fn body(n: u32) -> Vec<u8> {
    vec![u8::try_from(n % 251).unwrap(); BODY_BYTES]
}

/// Run in a child: writes packs until it is killed.
#[test]
fn child_that_writes_for_ever() {
    let Some((store, from)) = told() else { return };
    for n in from.. {
        store.put_new(&pack(n), &body(n)).unwrap();
    }
}

/// Run in a child: tries to create a hundred catalogs and exits with a code that says how many it
/// won.
#[test]
fn child_that_races() {
    let Some((store, who)) = told() else { return };
    while matches!(store.size(&ObjectKey::Catalog(1000)), Err(StoreError::Missing { .. })) {}
    let mut won = 0;
    for n in 0..100 {
        match store.put_new(&ObjectKey::Catalog(n), &[u8::try_from(who).unwrap(); 10_000]) {
            Ok(()) => won += 1,
            Err(StoreError::Exists { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    std::process::exit(won);
}

#[test]
fn a_killed_put_leaves_no_object_and_its_rest_is_swept() {
    let (_folder, path, store) = repository();
    let (mut whole, mut leftovers) = (0, 0);
    for round in 0..20 {
        let from = round * 1000;
        let mut writer = child("child_that_writes_for_ever", &path, from);
        let deadline = Instant::now() + Duration::from_mins(1);
        while files(&path.join("tmp")).is_empty() {
            assert!(Instant::now() < deadline, "the writer did not begin");
        }
        std::thread::sleep(Duration::from_millis(u64::from(round) * 3));
        assert_eq!(store.sweep_temporary().unwrap().count, 0, "a living writer's file was swept");
        writer.kill().unwrap();
        writer.wait().unwrap();

        let left = files(&path.join("tmp")).len() as u64;
        leftovers += left;
        assert_eq!(store.sweep_temporary().unwrap().count, left, "round {round}");
        assert!(files(&path.join("tmp")).is_empty());
        store
            .list(Prefix::Packs, &mut |listed| {
                let ObjectKey::Pack(name) = listed.key else { panic!("{} listed", listed.key) };
                assert_eq!(listed.size_bytes, BODY_BYTES as u64, "half of {} is there", listed.key);
                assert!(store.get(&listed.key, u64::MAX)? == body(name.counter));
                whole += 1;
                store.delete(&listed.key)
            })
            .unwrap();
    }
    eprintln!("20 kills: {leftovers} unfinished, {whole} whole objects");
    assert!(leftovers > 0, "no kill hit a write: the test shows nothing");
}

#[test]
fn two_processes_never_win_the_same_name() {
    let (_folder, path, store) = repository();
    let mut racers = [child("child_that_races", &path, 1), child("child_that_races", &path, 2)];
    std::thread::sleep(Duration::from_millis(200));
    store.put_new(&ObjectKey::Catalog(1000), b"go").unwrap();
    let won = racers.each_mut().map(|racer| racer.wait().unwrap().code().unwrap());
    assert_eq!(won.iter().sum::<i32>(), 100, "{won:?}");
    let mut stored = [0; 2];
    for n in 0..100 {
        let bytes = store.get(&ObjectKey::Catalog(n), u64::MAX).unwrap();
        assert!(bytes.len() == 10_000 && bytes.iter().all(|byte| *byte == bytes[0]));
        stored[usize::from(bytes[0] - 1)] += 1;
    }
    assert_eq!(stored, won);
    eprintln!("two racers: {won:?}");
}

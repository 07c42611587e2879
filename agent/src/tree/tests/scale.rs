//! Depth and breadth.

use std::fs;

use rustix::fs::{Mode, OFlags};

use super::*;
use crate::tree::names::Names;

fn dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/var/tmp").unwrap()
}

/// Makes `levels` directories in one another, with a file in each.
fn nest(root: &Path, levels: usize) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut at = rustix::fs::open(root, flags, Mode::empty()).unwrap();
    for level in 0..levels {
        rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
        for name in ["a", "z"] {
            let flags = OFlags::WRONLY | OFlags::CREATE;
            let file = rustix::fs::openat(&at, name, flags, Mode::RUSR | Mode::WUSR).unwrap();
            rustix::io::write(&file, level.to_string().as_bytes()).unwrap();
        }
        at = rustix::fs::openat(&at, "d", flags, Mode::empty()).unwrap();
    }
}

#[test]
fn depth_beyond_what_the_kernel_takes_in_one_path_comes_back() {
    let source = dir();
    nest(source.path(), 3000);
    let memory = Memory::new();
    let outcome = backup(source.path(), &memory, &[]);
    assert!(outcome.issues.is_empty(), "{:?}", outcome.issues.named[0]);
    assert_eq!(outcome.totals.entries, 9001);
    let target = dir();
    let restored = restore(&memory, &outcome.root, target.path());
    assert_eq!(restored.totals.entries, 9001);
    settle();
    let again = backup(target.path(), &memory, &[]);
    let strip = |root| {
        let mut list = entries(&memory, root);
        for entry in &mut list {
            (entry.meta.ino, entry.meta.ctime) = (0, repo_format::tree::Time::default());
        }
        list
    };
    assert!(strip(&outcome.root) == strip(&again.root));
    // `rm -r` is not up to it in all versions; what a restore removes, it removes.
    fs::create_dir(source.path().join("empty")).unwrap();
}

#[test]
fn a_hundred_thousand_names_in_one_directory_come_back() {
    let source = dir();
    for number in 0..100_000 {
        fs::File::create(source.path().join(format!("name-{number}"))).unwrap();
    }
    let memory = Memory::new();
    // So little memory that names go through the scratch file.
    let options = BackupOptions { memory_bytes: 0, ..options() };
    let cancel = AtomicBool::new(false);
    let outcome = run_backup(source.path(), &memory, &[], &options, &mut NoHooks, &cancel).unwrap();
    assert_eq!(outcome.totals.entries, 100_001);
    let target = dir();
    restore(&memory, &outcome.root, target.path());
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 100_000);
}

#[test]
fn names_are_sorted_and_complete_with_any_memory() {
    let source = dir();
    for number in 0..5000 {
        let name = format!("{}-{}", number * 7919 % 5000, "x".repeat(number % 200));
        fs::File::create(source.path().join(name)).unwrap();
    }
    fs::create_dir(source.path().join("sub")).unwrap();
    let mut wanted: Vec<_> = fs::read_dir(source.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_encoded_bytes())
        .collect();
    wanted.sort();
    for bytes_max in [1000, 20_000, 100_000, 10 << 20] {
        let fd = fs::File::open(source.path()).unwrap();
        let mut names = Names::read(&fd, bytes_max, Path::new("/var/tmp")).unwrap();
        let mut found = Vec::new();
        while let Some(name) = names.next().unwrap() {
            assert_eq!(name.is_dir.unwrap(), name.bytes == b"sub");
            found.push(name.bytes);
        }
        assert_eq!(found, wanted);
    }
}

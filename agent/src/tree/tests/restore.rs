//! Restoring parts, restoring over something, and going on.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::atomic::{AtomicU64, Ordering};

use repo_format::tree::Content;
use repository::RepositoryError;
use repository::chunks::ChunkSource;

use super::change::as_nobody;
use super::*;
use crate::tree::restore::restore_file;
use crate::tree::{BatchSource, IssueKind};

fn dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/var/tmp").unwrap()
}

fn in_place() -> RestoreOptions {
    RestoreOptions { in_place: true, ..RestoreOptions::default() }
}

fn sample(root: &Path) {
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::write(root.join("a/b/one"), noise(1, 3_000_000)).unwrap();
    fs::write(root.join("a/two"), noise(2, 20_000)).unwrap();
    fs::write(root.join("a.three"), "three").unwrap();
    fs::hard_link(root.join("a/b/one"), root.join("a/b/link")).unwrap();
    fs::hard_link(root.join("a.three"), root.join("z-link")).unwrap();
    fs::hard_link(root.join("a/two"), root.join("y-link")).unwrap();
    fs::hard_link(root.join("a/two"), root.join("y-more")).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(&noise(9, 700_000), 3 << 20).unwrap();
    sparse.set_len(10 << 20).unwrap();
}

#[test]
fn a_subtree_becomes_the_target() {
    let source = dir();
    sample(source.path());
    let memory = Memory::new();
    let root = backup(source.path(), &memory, &[]).root;
    let target = dir();
    let into = target.path().join("new");
    restore_with(&memory, &root, "a/b", &into, &RestoreOptions::default()).unwrap();
    assert_same(&source.path().join("a/b"), &into);
}

#[test]
fn a_single_file_is_restored_under_its_name_even_if_it_is_a_link() {
    let source = dir();
    sample(source.path());
    let memory = Memory::new();
    let root = backup(source.path(), &memory, &[]).root;
    for (path, name) in [("a/two", "two"), ("z-link", "z-link"), ("sparse", "sparse")] {
        let target = dir();
        let mode = fs::metadata(target.path()).unwrap().permissions().mode();
        let outcome =
            restore_with(&memory, &root, path, target.path(), &RestoreOptions::default()).unwrap();
        assert!(outcome.issues.is_empty());
        let found = fs::read(target.path().join(name)).unwrap();
        assert_eq!(found, fs::read(source.path().join(path)).unwrap());
        assert_eq!(fs::read_dir(target.path()).unwrap().count(), 1);
        assert_eq!(fs::metadata(target.path()).unwrap().permissions().mode(), mode);
    }
    let missing = restore_with(&memory, &root, "a/nope", dir().path(), &in_place());
    assert!(matches!(missing, Err(TreeError::NoSuchPath { .. })));
}

#[test]
fn a_file_is_streamed_with_its_holes() {
    let source = dir();
    sample(source.path());
    let memory = Memory::new();
    let root = backup(source.path(), &memory, &[]).root;
    let cancel = AtomicBool::new(false);
    for path in ["a/b/one", "a/b/link", "sparse", "a.three", "a/two"] {
        let mut out = Vec::new();
        let len = restore_file(&memory, &root, path.as_bytes(), &mut out, &cancel).unwrap();
        assert_eq!(len, out.len() as u64);
        assert!(out == fs::read(source.path().join(path)).unwrap(), "{path}");
    }
    let mut out = Vec::new();
    let error = restore_file(&memory, &root, b"a/b", &mut out, &cancel).unwrap_err();
    assert!(matches!(error, TreeError::NotAFile { .. }));
}

#[test]
fn a_target_that_is_not_empty_is_left_alone_unless_in_place() {
    let source = dir();
    sample(source.path());
    let memory = Memory::new();
    let root = backup(source.path(), &memory, &[]).root;
    let target = dir();
    fs::write(target.path().join("mine"), "mine").unwrap();
    let refused = restore_with(&memory, &root, "", target.path(), &RestoreOptions::default());
    assert!(matches!(refused, Err(TreeError::TargetNotEmpty { .. })));
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 1);
    restore_with(&memory, &root, "", target.path(), &in_place()).unwrap();
    assert_eq!(fs::read(target.path().join("mine")).unwrap(), b"mine");
    fs::create_dir_all(target.path().join("a/extra/deep")).unwrap();
    fs::write(target.path().join("a/extra/deep/file"), "x").unwrap();
    let options = RestoreOptions { delete: true, ..in_place() };
    restore_with(&memory, &root, "", target.path(), &options).unwrap();
    assert_same(source.path(), target.path());
}

#[test]
fn in_place_writes_only_what_differs() {
    let source = dir();
    sample(source.path());
    let memory = Memory::new();
    let root = backup(source.path(), &memory, &[]).root;
    let target = dir();
    restore(&memory, &root, target.path());
    let again = restore_with(&memory, &root, "", target.path(), &in_place()).unwrap();
    assert_eq!(again.totals.moved_bytes, 0);
    assert_eq!(again.totals.unchanged_files, 4);
    // Damage a part of a file, the hole of another, the mode of a third, the kind of a fourth.
    let file = fs::File::options().write(true).open(target.path().join("a/b/one")).unwrap();
    file.write_all_at(b"!", 10).unwrap();
    let sparse = fs::File::options().write(true).open(target.path().join("sparse")).unwrap();
    sparse.write_all_at(b"not a hole", 8 << 20).unwrap();
    fs::set_permissions(target.path().join("a/two"), fs::Permissions::from_mode(0o0)).unwrap();
    fs::remove_file(target.path().join("a.three")).unwrap();
    std::os::unix::fs::symlink("x", target.path().join("a.three")).unwrap();
    let mtime = fs::metadata(source.path().join("a/b/one")).unwrap();
    assert_ne!(
        fs::metadata(target.path().join("a/b/one")).unwrap().mtime_nsec(),
        mtime.mtime_nsec()
    );
    // Its other name makes writing into it unsafe, so the names part and are joined again.
    let outcome = restore_with(&memory, &root, "", target.path(), &in_place()).unwrap();
    assert!(outcome.issues.is_empty(), "{:?}", outcome.issues);
    assert_same(source.path(), target.path());
}

#[test]
fn a_longer_or_shorter_file_is_brought_to_its_length_in_place() {
    let source = dir();
    fs::write(source.path().join("f"), noise(1, 5_000_000)).unwrap();
    fs::write(source.path().join("empty"), "").unwrap();
    let memory = Memory::new();
    let root = backup(source.path(), &memory, &[]).root;
    for len in [0, 3_000_000, 9_000_000] {
        let target = dir();
        let mut bytes = noise(1, 9_000_000);
        bytes.truncate(len);
        fs::write(target.path().join("f"), &bytes).unwrap();
        fs::write(target.path().join("empty"), "not").unwrap();
        let outcome = restore_with(&memory, &root, "", target.path(), &in_place()).unwrap();
        assert!(outcome.totals.moved_bytes <= 5_000_000);
        if len == 9_000_000 {
            assert_eq!(outcome.totals.moved_bytes, 0, "what is right is not written");
        }
        assert_same(source.path(), target.path());
    }
}

/// Fails after so many requests for content, as a killed restore would.
struct Failing<'a> {
    memory: &'a Memory,
    left: AtomicU64,
}

impl ChunkSource for Failing<'_> {
    fn get(
        &self,
        kind: PackKind,
        id: &ChunkId,
        plain: &mut Vec<u8>,
    ) -> Result<(), RepositoryError> {
        self.memory.get(kind, id, plain)
    }
}

impl BatchSource for Failing<'_> {
    fn get_many(
        &self,
        kind: PackKind,
        ids: &[ChunkId],
        each: crate::tree::source::Each<'_>,
    ) -> Result<(), RepositoryError> {
        if kind == PackKind::Data {
            let left = self.left.fetch_sub(1, Ordering::Relaxed);
            if left == 0 || left > 1 << 60 {
                return Err(RepositoryError::Cancelled);
            }
        }
        self.memory.get_many(kind, ids, each)
    }
}

#[test]
fn an_interrupted_restore_goes_on_where_it_was() {
    let source = dir();
    for number in 0..600 {
        let dir = source.path().join(format!("d{}", number % 7));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("f{number}")), noise(number, 70_000)).unwrap();
    }
    let memory = Memory::new();
    let root = backup(source.path(), &memory, &[]).root;
    let target = dir();
    let failing = Failing { memory: &memory, left: AtomicU64::new(5) };
    let (progress, cancel) = (Progress::default(), AtomicBool::new(false));
    let options = in_place();
    let job = RestoreJob {
        source: &failing,
        root: &root,
        subtree: b"",
        target: target.path(),
        options: &options,
        progress: &progress,
        cancel: &cancel,
    };
    let failed = restore_tree(job, &mut |_| {});
    assert!(matches!(failed, Err(TreeError::Repository(_))), "{failed:?}");
    let done = restore_with(&memory, &root, "", target.path(), &in_place()).unwrap();
    let kept = done.totals.unchanged_files;
    assert!(kept > 50 && kept < 600, "{:?}", done.totals);
    assert_same(source.path(), target.path());
}

#[test]
fn without_privileges_everything_comes_back_but_foreign_owners_and_those_are_named() {
    let source = dir();
    fs::create_dir(source.path().join("d")).unwrap();
    fs::write(source.path().join("d/f"), noise(1, 1000)).unwrap();
    fs::set_permissions(source.path().join("d"), fs::Permissions::from_mode(0o500)).unwrap();
    let memory = Memory::new();
    let root = backup(source.path(), &memory, &[]).root;
    let target = dir();
    fs::set_permissions(target.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let into = target.path().join("new");
    let outcome =
        as_nobody(|| restore_with(&memory, &root, "", &into, &RestoreOptions::default()).unwrap());
    if is_root() {
        assert_eq!(outcome.issues.count, 3);
        assert!(outcome.issues.named.iter().all(|issue| issue.kind == IssueKind::NotAllMetadata));
        assert!(outcome.issues.named[0].detail.starts_with("owner: "));
    }
    assert_eq!(fs::read(into.join("d/f")).unwrap(), noise(1, 1000));
    let mode = fs::metadata(into.join("d")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o500);
    let options = RestoreOptions { owner: false, ..in_place() };
    let again = as_nobody(|| restore_with(&memory, &root, "", &into, &options).unwrap());
    assert!(again.issues.is_empty(), "{:?}", again.issues);
}

#[test]
fn no_sparse_gives_holes_their_space() {
    let source = dir();
    fs::File::create(source.path().join("hole")).unwrap().set_len(4 << 20).unwrap();
    let memory = Memory::new();
    let root = backup(source.path(), &memory, &[]).root;
    let target = dir();
    let options = RestoreOptions { no_sparse: true, ..RestoreOptions::default() };
    restore_with(&memory, &root, "", target.path(), &options).unwrap();
    let meta = fs::metadata(target.path().join("hole")).unwrap();
    assert_eq!((meta.len(), meta.blocks() * 512), (4 << 20, 4 << 20));
}

#[test]
fn a_full_target_is_its_own_error() {
    let Ok(mount) = TmpMount::new("size=1m") else { return };
    let source = dir();
    fs::write(source.path().join("f"), noise(1, 4 << 20)).unwrap();
    let memory = Memory::new();
    let root = backup(source.path(), &memory, &[]).root;
    let result = restore_with(&memory, &root, "", mount.dir.path(), &RestoreOptions::default());
    let Err(TreeError::Target { source, .. }) = result else { panic!("{result:?}") };
    assert_eq!(source.raw_os_error(), Some(libc::ENOSPC));
}

/// A small file system, where the tests may mount.
struct TmpMount {
    dir: tempfile::TempDir,
}

impl TmpMount {
    fn new(options: &str) -> Result<Self, ()> {
        let dir = dir();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(dir.path())
            .status();
        if mounted.is_ok_and(|status| status.success()) { Ok(Self { dir }) } else { Err(()) }
    }
}

impl Drop for TmpMount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.dir.path()).status();
    }
}

#[test]
fn links_that_start_outside_the_subtree_are_joined_inside_it() {
    let source = dir();
    fs::create_dir(source.path().join("s")).unwrap();
    fs::write(source.path().join("a"), noise(3, 10_000)).unwrap();
    fs::hard_link(source.path().join("a"), source.path().join("s/x")).unwrap();
    fs::hard_link(source.path().join("a"), source.path().join("s/y")).unwrap();
    let memory = Memory::new();
    let root = backup(source.path(), &memory, &[]).root;
    assert!(matches!(entries(&memory, &root)[3].content, Content::HardLink(_)));
    let target = dir();
    restore_with(&memory, &root, "s", target.path(), &RestoreOptions::default()).unwrap();
    let ino = |name: &str| fs::metadata(target.path().join(name)).unwrap().ino();
    assert_eq!(ino("x"), ino("y"));
    assert_eq!(fs::read(target.path().join("y")).unwrap(), noise(3, 10_000));
}

//! Targets and trees that mean harm.

use std::fs;
use std::os::unix::fs::symlink;

use repo_format::tree::{Content, EntryKind, Meta};

use super::*;
use crate::tree::IssueKind;
use crate::tree::writer::TreeWriter;

fn dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/var/tmp").unwrap()
}

fn in_place() -> RestoreOptions {
    RestoreOptions { in_place: true, ..RestoreOptions::default() }
}

#[test]
fn links_in_the_target_are_replaced_and_never_followed() {
    let source = dir();
    fs::create_dir(source.path().join("dir")).unwrap();
    fs::write(source.path().join("dir/file"), "inside").unwrap();
    fs::write(source.path().join("large"), noise(1, 600_000)).unwrap();
    let memory = Memory::new();
    let root = backup(source.path(), &memory, &[]).root;
    let (target, victim) = (dir(), dir());
    fs::write(victim.path().join("file"), "precious").unwrap();
    fs::write(victim.path().join("large"), "precious").unwrap();
    symlink(victim.path(), target.path().join("dir")).unwrap();
    symlink(victim.path().join("large"), target.path().join("large")).unwrap();
    let outcome = restore_with(&memory, &root, "", target.path(), &in_place()).unwrap();
    assert!(outcome.issues.is_empty(), "{:?}", outcome.issues);
    assert_eq!(fs::read(victim.path().join("file")).unwrap(), b"precious");
    assert_eq!(fs::read(victim.path().join("large")).unwrap(), b"precious");
    assert_same(source.path(), target.path());
}

#[test]
fn a_file_with_other_names_in_the_target_is_replaced_and_not_written_through() {
    let source = dir();
    fs::write(source.path().join("f"), noise(1, 600_000)).unwrap();
    let memory = Memory::new();
    let root = backup(source.path(), &memory, &[]).root;
    let (target, victim) = (dir(), dir());
    fs::write(victim.path().join("other"), "precious").unwrap();
    fs::hard_link(victim.path().join("other"), target.path().join("f")).unwrap();
    restore_with(&memory, &root, "", target.path(), &in_place()).unwrap();
    assert_eq!(fs::read(victim.path().join("other")).unwrap(), b"precious");
    assert_same(source.path(), target.path());
}

fn write(memory: &Memory, parts: &[(&str, EntryKind, Content)]) -> ChunkId {
    let mut writer = TreeWriter::new(memory, cutter());
    for (path, kind, content) in parts {
        let size = match content {
            Content::Inline(bytes) => bytes.len() as u64,
            _ => 0,
        };
        let meta = Meta { mode: 0o755, nlink: 1, size, ..Meta::default() };
        let (path, content) = (path.as_bytes().to_vec(), content.clone());
        let entry = Entry { path, kind: *kind, meta, content, extents: Vec::new() };
        writer.push(entry).unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn a_tree_cannot_climb_out_of_its_target() {
    for path in ["../x", "a/../../x", "/x", ".."] {
        let memory = Memory::new();
        let file = Content::Inline(b"x".to_vec());
        let root =
            write(&memory, &[("", EntryKind::Dir, Content::None), (path, EntryKind::File, file)]);
        let target = dir();
        let result = restore_with(&memory, &root, "", &target.path().join("t"), &in_place());
        assert!(result.is_err(), "{path}");
        assert!(!target.path().join("x").exists());
    }
}

#[test]
fn a_tree_cannot_write_through_its_own_links() {
    let memory = Memory::new();
    let victim = dir();
    let link = Content::Symlink(victim.path().as_os_str().as_bytes().to_vec());
    let root = write(
        &memory,
        &[
            ("", EntryKind::Dir, Content::None),
            ("a", EntryKind::Symlink, link),
            ("a/b", EntryKind::File, Content::Inline(b"x".to_vec())),
        ],
    );
    let target = dir();
    let outcome =
        restore_with(&memory, &root, "", target.path(), &RestoreOptions::default()).unwrap();
    assert!(!victim.path().join("b").exists());
    assert_eq!(outcome.issues.named[0].kind, IssueKind::NotRestored);
}

#[test]
fn a_lost_chunk_costs_the_files_that_need_it_and_they_are_named() {
    let source = dir();
    fs::write(source.path().join("good"), noise(1, 2_000_000)).unwrap();
    fs::write(source.path().join("lost"), noise(2, 9_000_000)).unwrap();
    fs::write(source.path().join("tiny"), "tiny").unwrap();
    let memory = Memory::new();
    let root = backup(source.path(), &memory, &[]).root;
    let Content::Slices(slices) = &entries(&memory, &root)[2].content else { panic!() };
    assert!(memory.lose(PackKind::Data, &slices[2].chunk));
    let target = dir();
    let outcome =
        restore_with(&memory, &root, "", target.path(), &RestoreOptions::default()).unwrap();
    assert_eq!(outcome.issues.count, 1);
    assert!(outcome.issues.damaged);
    assert_eq!(outcome.issues.named[0].kind, IssueKind::Damaged);
    assert_eq!(outcome.issues.named[0].path, b"lost");
    assert!(!target.path().join("lost").exists(), "a part of a file looks like a file");
    for name in ["good", "tiny"] {
        assert_eq!(
            fs::read(source.path().join(name)).unwrap(),
            fs::read(target.path().join(name)).unwrap()
        );
    }
}

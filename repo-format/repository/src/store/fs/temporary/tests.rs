use std::fs;
use std::time::{Duration, SystemTime};

use repo_format::id::SessionId;
use repo_format::key::ObjectKey;
use tempfile::TempDir;

use super::*;
use crate::store::Store;

const KEY: ObjectKey = ObjectKey::Commit(SessionId([1; 16]));

fn store() -> (TempDir, FsStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = FsStore::create(&folder.path().join("repo")).unwrap();
    (folder, store)
}

#[test]
fn a_link_whose_answer_was_lost_is_known_for_our_own() {
    let (_folder, store) = store();
    let temporary = store.write_temporary(Op::PutNew, "x", b"body").unwrap();
    temporary.link_to(&KEY.to_string()).unwrap();
    // The client's second request, after the first was done.
    temporary.link_to(&KEY.to_string()).unwrap();
    let other = store.write_temporary(Op::PutNew, "x", b"body").unwrap();
    assert_eq!(other.link_to(&KEY.to_string()), Err(Errno::EXIST), "the same bytes, another file");
}

#[test]
fn without_hard_links_a_rename_creates_and_never_replaces() {
    let (folder, store) = store();
    let first = store.write_temporary(Op::PutNew, "x", b"first").unwrap();
    first.rename_to(&KEY.to_string()).unwrap();
    drop(first);
    let second = store.write_temporary(Op::PutNew, "x", b"second").unwrap();
    assert_eq!(second.rename_to(&KEY.to_string()), Err(Errno::EXIST));
    drop(second);
    assert_eq!(store.get(&KEY, 100).unwrap(), b"first");
    assert_eq!(fs::read_dir(folder.path().join("repo/tmp")).unwrap().count(), 0);
}

#[test]
fn a_writer_is_read_back_from_the_name_of_its_file() {
    let this = Writer::this();
    assert_eq!(Writer::of(&format!("{this}-0123456789abcdef")).as_ref(), Some(this));
    assert!(this.boot.as_ref().is_some_and(|boot| boot.len() == 32), "{this:?}");
    assert_ne!(this.namespace, 0);
    assert!(!this.is_dead());
    for name in ["", "x", "a-b-c-d", "-0-"] {
        assert!(Writer::of(name).is_none_or(|writer| !writer.is_dead()), "{name}");
    }
}

#[test]
fn only_what_is_certainly_dead_or_a_day_old_is_swept() {
    let (folder, store) = store();
    let tmp = folder.path().join("repo/tmp");
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let dead = Writer { process: child.id(), ..Writer::this().clone() };
    child.wait().unwrap();
    let other_boot = Writer { boot: Some("0".repeat(32)), ..dead.clone() };
    let other_namespace = Writer { namespace: 1, ..dead.clone() };
    let nameless = Writer { boot: None, ..dead.clone() };
    let names = [dead, Writer::this().clone(), other_boot, other_namespace, nameless]
        .map(|writer| format!("{writer}-00"));
    for name in &names {
        fs::write(tmp.join(name), "12345").unwrap();
    }
    fs::write(tmp.join("whatever"), "").unwrap();
    let swept = store.sweep_temporary().unwrap();
    assert_eq!((swept.count, swept.bytes), (1, 5));
    assert!(!tmp.join(&names[0]).exists());

    for entry in fs::read_dir(&tmp).unwrap() {
        let file = fs::File::options().write(true).open(entry.unwrap().path()).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_hours(25)).unwrap();
    }
    assert_eq!(store.sweep_temporary().unwrap().count, 5);
    assert_eq!(fs::read_dir(&tmp).unwrap().count(), 0);
}

#[test]
fn the_sweep_of_a_second_name_leaves_the_object() {
    let (folder, store) = store();
    store.put_new(&KEY, b"body").unwrap();
    let object = folder.path().join("repo").join(KEY.to_string());
    // Killed between the link and the removal of the first name.
    fs::hard_link(&object, folder.path().join("repo/tmp/0-0-0-0")).unwrap();
    fs::File::open(&object).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(store.sweep_temporary().unwrap().count, 1);
    assert_eq!(store.get(&KEY, 100).unwrap(), b"body");
}

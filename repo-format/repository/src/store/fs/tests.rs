//! What only a file system can show: real full disks, missing rights, killed writers.

mod hostile;
mod killed;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use repo_format::id::{ObjectName, SessionId};
use repo_format::key::{ObjectKey, Prefix};
use tempfile::TempDir;

use super::FsStore;
use crate::store::wrap::{Metered, Retry, RetryPolicy};
use crate::store::{Memory, OpenError, Store, StoreError, conformance};

fn pack(n: u32) -> ObjectKey {
    ObjectKey::Pack(ObjectName { session: SessionId([3; 16]), counter: n })
}

/// A new repository in a folder that goes with the test, its config written.
fn repository() -> (TempDir, PathBuf, FsStore) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("repo");
    let store = FsStore::create(&path).unwrap();
    store.put_new(&ObjectKey::Config, b"config").unwrap();
    (folder, path, store)
}

/// Everything below `path` that is a file.
fn files(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn every_store_keeps_every_promise() {
    let folder = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    let fs = || {
        count.set(count.get() + 1);
        FsStore::create(&folder.path().join(count.get().to_string())).unwrap()
    };
    conformance::run(&|| Box::new(fs()));
    conformance::run(&|| Box::new(Memory::default()));
    conformance::run(&|| Box::new(Metered::new(retrying(fs()))));
    conformance::run(&|| Box::new(retrying(Metered::new(Memory::default()))));
}

fn retrying<S: Store>(store: S) -> Retry<S> {
    Retry::new(store, RetryPolicy::default(), Arc::default())
}

#[test]
fn every_file_is_its_owners_alone_and_none_is_left_over() {
    let (_folder, path, store) = repository();
    store.put_new(&pack(1), &vec![1; 100_000]).unwrap();
    store.put(&ObjectKey::Heartbeat(SessionId([1; 16])), b"beat").unwrap();
    let files = files(&path);
    assert_eq!(files.len(), 3, "{files:?}");
    for file in files {
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o177, 0, "{file:?} has mode {mode:o}");
        let folder = fs::metadata(file.parent().unwrap()).unwrap().permissions().mode();
        assert_eq!(folder & 0o077, 0, "the folder of {file:?} has mode {folder:o}");
    }
}

#[test]
fn strangers_are_counted_and_never_listed() {
    let (_folder, path, store) = repository();
    store.put_new(&pack(1), b"x").unwrap();
    store.put_new(&ObjectKey::Catalog(1), b"x").unwrap();
    fs::write(path.join("p/README"), "").unwrap();
    fs::write(path.join("p/00/notes"), "").unwrap();
    fs::create_dir(path.join("cat/sub")).unwrap();
    fs::create_dir(path.join(ObjectKey::Catalog(7).to_string())).unwrap();
    // A pack where no pack of that name belongs.
    let own = fs::canonicalize(path.join(pack(1).to_string())).unwrap();
    let wrong = if own.parent().unwrap().ends_with("00") { "p/01" } else { "p/00" };
    fs::copy(&own, path.join(wrong).join(own.file_name().unwrap())).unwrap();

    let mut packs = Vec::new();
    let strangers = store
        .list(Prefix::Packs, &mut |listed| {
            packs.push(listed.key);
            Ok(())
        })
        .unwrap();
    assert_eq!(packs, [pack(1)]);
    assert_eq!(strangers.count, 3);
    assert!(strangers.example.unwrap().starts_with(path.to_str().unwrap()));
    let strangers = store.list(Prefix::Catalogs, &mut |_| Ok(())).unwrap();
    assert_eq!(strangers.count, 2);
    assert_eq!(store.list_first(Prefix::Catalogs).unwrap(), Some(ObjectKey::Catalog(1)));
}

#[test]
fn a_repository_copied_without_its_empty_folders_takes_writes() {
    let (_folder, path, store) = repository();
    store.put_new(&pack(1), b"x").unwrap();
    drop(store);
    for name in ["tmp", "ses", "x", "com"] {
        fs::remove_dir(path.join(name)).unwrap();
    }
    for entry in fs::read_dir(path.join("p")).unwrap() {
        let _ = fs::remove_dir(entry.unwrap().path());
    }
    let store = FsStore::open(&path).unwrap();
    assert!(store.list(Prefix::Sessions, &mut |_| Ok(())).is_ok());
    assert!(matches!(store.get(&pack(9), 9), Err(StoreError::Missing { .. })));
    store.delete(&ObjectKey::Session(SessionId([1; 16]))).unwrap();
    assert_eq!(store.sweep_temporary().unwrap().count, 0);
    for n in 2..40 {
        store.put_new(&pack(n), b"x").unwrap();
    }
    store.put_new(&ObjectKey::Session(SessionId([1; 16])), b"x").unwrap();
}

#[test]
fn a_place_that_will_not_do_is_named_with_the_reason() {
    let (folder, path, store) = repository();
    drop(store);
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let absent = folder.path().join("absent");
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();

    let open = |path: &Path| FsStore::open(path).unwrap_err();
    assert!(matches!(open(&absent), OpenError::Missing { .. }));
    assert!(matches!(open(&file), OpenError::NotADirectory { .. }));
    assert!(matches!(open(&file.join("below")), OpenError::NotADirectory { .. }));
    assert!(matches!(open(&empty), OpenError::NotARepository { .. }));
    let create = |path: &Path| FsStore::create(path).unwrap_err();
    assert!(matches!(create(&absent.join("below")), OpenError::NoParent { .. }));
    assert!(matches!(create(&file), OpenError::NotADirectory { .. }));
    assert!(matches!(create(&path), OpenError::AlreadyARepository { .. }));
    assert!(matches!(create(folder.path()), OpenError::NotEmpty { .. }));
    assert!(!absent.exists());
    for error in [open(&absent), open(&empty), create(&path)] {
        assert!(error.to_string().contains(folder.path().to_str().unwrap()), "{error}");
    }
}

#[test]
fn a_creation_that_was_interrupted_can_be_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("repo");
    drop(FsStore::create(&path).unwrap());
    fs::create_dir(path.join("lost+found")).unwrap();
    let store = FsStore::create(&path).unwrap();
    store.put_new(&ObjectKey::Config, b"config").unwrap();
    drop(store);
    FsStore::open(&path).unwrap();
}

#[test]
fn a_store_stays_with_its_folder_when_the_path_is_renamed() {
    let (folder, path, store) = repository();
    fs::rename(&path, folder.path().join("moved")).unwrap();
    store.put_new(&pack(1), b"x").unwrap();
    assert!(!path.exists());
    assert!(folder.path().join("moved").join(pack(1).to_string()).exists());
}

#[test]
fn a_stored_object_has_one_name() {
    let (_folder, path, store) = repository();
    store.put_new(&pack(1), b"x").unwrap();
    assert_eq!(fs::metadata(path.join(pack(1).to_string())).unwrap().nlink(), 1);
}

//! File systems that refuse: full, read-only, without rights, without `O_DIRECT`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{files, pack, repository};
use crate::store::fs::FsStore;
use crate::store::s3::S3Config;
use crate::store::{Location, Op, OpenError, Store, StoreError};
use repo_format::id::SessionId;
use repo_format::key::{ObjectKey, Prefix};

const PATH: &str = "SALVOR_TEST_HOSTILE_STORE";
const NOBODY: u32 = 65_534;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A file system mounted on a folder; unmounted when dropped.
struct Mounted {
    at: PathBuf,
    folder: TempDir,
}

impl Mounted {
    /// `None`, loudly, where mounting is not allowed.
    fn new(prepare: impl Fn(&Path) -> Command) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("mounted");
        fs::create_dir(&at).unwrap();
        let done = is_root() && prepare(folder.path()).arg(&at).status().unwrap().success();
        if !done {
            // Not `eprintln`, which the test harness would keep to itself.
            let warning = "WARNING: no file system could be mounted; what needs one is NOT shown";
            writeln!(std::io::stderr(), "{warning} (run the tests as root)").unwrap();
            return None;
        }
        Some(Self { at, folder })
    }

    /// A file system in memory: `tmpfs`, or `ramfs`, which has neither `O_DIRECT` nor a way to
    /// reserve space, nor a limit.
    fn in_memory(kind: &str, options: &str) -> Option<Self> {
        Self::new(|_| {
            let mut mount = Command::new("mount");
            mount.args(["-t", kind, "-o", options, "none"]);
            mount
        })
    }

    fn ext4(size_bytes: u64) -> Option<Self> {
        Self::ext4_in(None, size_bytes)
    }

    /// `place`: where the image lies; beside the mount point if not given.
    fn ext4_in(place: Option<&Path>, size_bytes: u64) -> Option<Self> {
        Self::new(|folder| {
            let image = place.unwrap_or(folder).join("image");
            fs::File::create(&image).unwrap().set_len(size_bytes).unwrap();
            let made = Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image).status();
            assert!(made.is_ok_and(|made| made.success()), "mkfs.ext4 failed");
            let mut mount = Command::new("mount");
            mount.args(["-o", "loop"]).arg(&image);
            mount
        })
    }

    /// The file system as a power cut would leave it now: what was written to the device, not
    /// what the kernel still holds in memory.
    fn after_a_power_cut(&self) -> Self {
        let image = self.folder.path().join("image");
        let Some(cut) = Self::new(|folder| {
            let copy = folder.join("image");
            fs::copy(&image, &copy).unwrap();
            let mut mount = Command::new("mount");
            mount.args(["-o", "loop"]).arg(&copy);
            mount
        }) else {
            panic!("the copy of a mounted image cannot be mounted");
        };
        cut
    }

    fn remount_read_only(&self) {
        let done = Command::new("mount").args(["-o", "remount,ro"]).arg(&self.at).status();
        assert!(done.unwrap().success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

fn new_repository(path: &Path) -> FsStore {
    let store = FsStore::create(path).unwrap();
    store.put_new(&ObjectKey::Config, b"config").unwrap();
    store
}

/// Fills the store with packs of `size` bytes until one does not fit; then all that succeeded is
/// whole, nothing else is there, and a freed object's space can be used.
fn fill(store: &FsStore, path: &Path, size: usize) {
    let body = |n: u32| vec![u8::try_from(n % 251).unwrap(); size];
    let mut stored = 0;
    let error = loop {
        match store.put_new(&pack(stored), &body(stored)) {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(stored > 0);
    assert!(matches!(error, StoreError::Full { op: Op::PutNew, .. }), "{error:?}");
    assert!(error.to_string().contains("free space"), "{error}");
    assert!(files(&path.join("tmp")).is_empty(), "an unfinished write keeps its space");
    let mut listed = 0;
    store
        .list(Prefix::Packs, &mut |found| {
            listed += 1;
            assert_eq!(found.size_bytes, size as u64);
            Ok(())
        })
        .unwrap();
    assert_eq!(listed, stored);
    for n in 0..stored {
        assert!(store.get(&pack(n), u64::MAX).unwrap() == body(n), "pack {n}");
    }
    assert!(matches!(store.size(&pack(stored)), Err(StoreError::Missing { .. })));
    store.delete(&pack(0)).unwrap();
    store.put_new(&pack(stored), &body(stored)).unwrap();
}

#[test]
fn a_full_disk_is_said_to_be_full_and_what_is_stored_stays_sound() {
    if let Some(mounted) = Mounted::in_memory("tmpfs", "size=24m") {
        let path = mounted.at.join("repo");
        fill(&new_repository(&path), &path, 3 << 20);
    }
    if let Some(mounted) = Mounted::ext4(48 << 20) {
        let path = mounted.at.join("repo");
        fill(&new_repository(&path), &path, 3 << 20);
        // So small that no space is reserved: the write itself or the sync must notice.
        let other = mounted.at.join("other");
        fs::remove_dir_all(&path).unwrap();
        fill(&new_repository(&other), &other, 60_000);
    }
}

/// Run in a child whose files may have no more than 1 MiB.
#[test]
fn child_with_a_file_size_limit() {
    let Some(path) = std::env::var_os(PATH) else { return };
    let store = FsStore::open(Path::new(&path)).unwrap();
    store.put_new(&pack(1), &vec![1; 500_000]).unwrap();
    let error = store.put_new(&pack(2), &vec![2; 2 << 20]).unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
}

#[test]
fn a_file_size_limit_is_said_to_be_one() {
    let (_folder, path, store) = repository();
    let limited = Command::new("sh")
        .args(["-c", r#"trap "" XFSZ; ulimit -f 2048; exec "$@""#, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "store::fs::tests::hostile::child_with_a_file_size_limit"])
        .env(PATH, &path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&limited.stdout);
    assert!(limited.status.success() && said.contains("1 passed"), "{limited:?}");
    assert_eq!(store.size(&pack(1)).unwrap(), 500_000);
    assert!(matches!(store.size(&pack(2)), Err(StoreError::Missing { .. })));
    assert!(files(&path.join("tmp")).is_empty());
}

/// Run in a child without root's rights, on a repository whose folders are locked one by one.
#[test]
fn child_without_rights() {
    let Some(path) = std::env::var_os(PATH) else { return };
    let path = PathBuf::from(path);
    let store = FsStore::open(&path).unwrap();
    let mode = |name: &str, mode| {
        fs::set_permissions(path.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    store.put_new(&pack(1), b"x").unwrap();
    let denied = |answer: Result<(), StoreError>, what: &str| {
        let error = answer.unwrap_err();
        assert!(matches!(error, StoreError::Denied { .. }), "{what}: {error:?}");
        assert!(error.to_string().contains("owner and mode"), "{error}");
    };
    mode("tmp", 0o500);
    denied(store.put_new(&pack(2), b"x"), "create");
    mode("tmp", 0o700);
    mode("config", 0);
    denied(store.get(&ObjectKey::Config, 9).map(drop), "read");
    mode("config", 0o600);
    mode("p", 0);
    denied(store.get_range(&pack(1), 0, &mut [0; 1]), "read a range");
    denied(store.size(&pack(1)).map(drop), "size");
    denied(store.list(Prefix::Packs, &mut |_| Ok(())).map(drop), "list");
    denied(store.delete(&pack(1)), "delete");
    mode("p", 0o700);
    store.get_range(&pack(1), 0, &mut [0; 1]).unwrap();
    mode("", 0);
    let error = FsStore::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Store(StoreError::Denied { .. })), "{error:?}");
    mode("", 0o700);
}

#[test]
fn missing_rights_are_named_and_nothing_is_half_done() {
    let (folder, path, store) = repository();
    drop(store);
    // Where another user may run it; the build's folders may be closed to them.
    let program = folder.path().join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut child = Command::new(&program);
    child.args(["--exact", "store::fs::tests::hostile::child_without_rights"]).env(PATH, &path);
    if is_root() {
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let owned = Command::new("chown").arg("-R").arg(NOBODY.to_string()).arg(&path).status();
        assert!(owned.unwrap().success());
        child.uid(NOBODY).current_dir("/");
    }
    let done = child.output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && said.contains("1 passed"), "{done:?}");
    assert!(files(&path.join("tmp")).is_empty());
}

#[test]
fn a_read_only_repository_can_be_read() {
    let Some(mounted) = Mounted::ext4(32 << 20) else { return };
    let path = mounted.at.join("repo");
    let store = new_repository(&path);
    store.put_new(&pack(1), &vec![1; 100_000]).unwrap();
    store.put_new(&ObjectKey::Catalog(1), b"catalog").unwrap();
    drop(store);
    mounted.remount_read_only();

    let store = Location::Path(path.clone()).open(&S3Config::default()).unwrap();
    assert_eq!(store.get(&pack(1), u64::MAX).unwrap(), vec![1; 100_000]);
    assert_eq!(store.get(&ObjectKey::Catalog(1), 100).unwrap(), b"catalog");
    assert_eq!(store.list_first(Prefix::Catalogs).unwrap(), Some(ObjectKey::Catalog(1)));
    let denied = |answer: Result<(), StoreError>| {
        assert!(matches!(answer, Err(StoreError::Denied { .. })), "{answer:?}");
    };
    denied(store.put_new(&pack(2), b"x"));
    denied(store.put(&ObjectKey::Heartbeat(SessionId([1; 16])), b"x"));
    denied(store.delete(&pack(1)));
    let error = FsStore::create(&mounted.at.join("second")).unwrap_err();
    assert!(matches!(error, OpenError::Store(StoreError::Denied { .. })), "{error:?}");
}

#[test]
fn what_was_created_or_removed_stays_so_through_a_power_cut() {
    let Some(mounted) = Mounted::ext4(40 << 20) else { return };
    let path = mounted.at.join("repo");
    let store = FsStore::create(&path).unwrap();
    let cut = mounted.after_a_power_cut();
    let folders = Prefix::ALL.map(Prefix::folder).into_iter().chain(["tmp", "p/00", "p/ff"]);
    for folder in folders {
        assert!(cut.at.join("repo").join(folder).is_dir(), "{folder} is lost");
    }

    let mut aligned = vec![7; (4 << 20) + 4096];
    let start = aligned.as_ptr().align_offset(4096);
    let aligned = &mut aligned[start..start + (4 << 20)];
    let session = SessionId([1; 16]);
    let slot = ObjectKey::KeySlot(repo_format::id::SlotId([1; 16]));
    let unaligned = vec![2; 300_000];
    let steps: [(ObjectKey, &[u8]); 6] = [
        (ObjectKey::Config, b"config"),
        (slot, b"slot"),
        (ObjectKey::Session(session), b"session"),
        (pack(1), aligned),
        (pack(2), &unaligned),
        (ObjectKey::Commit(session), b"commit"),
    ];
    for (n, (key, body)) in steps.iter().enumerate() {
        store.put_new(key, body).unwrap();
        let cut = mounted.after_a_power_cut();
        let after = FsStore::open(&cut.at.join("repo")).unwrap();
        for (key, body) in &steps[..=n] {
            assert!(after.get(key, u64::MAX).unwrap() == *body, "{key} is lost or cut");
        }
        assert!(after.sweep_temporary().is_ok());
    }
    store.delete(&slot).unwrap();
    let cut = mounted.after_a_power_cut();
    let after = FsStore::open(&cut.at.join("repo")).unwrap();
    assert!(matches!(after.size(&slot), Err(StoreError::Missing { .. })), "a key slot came back");
}

#[test]
fn what_is_read_of_a_register_stays_so_through_a_power_cut() {
    let Some(mounted) = Mounted::ext4(40 << 20) else { return };
    let path = mounted.at.join("repo");
    let store = new_repository(&path);
    let commit = |n| ObjectKey::Commit(SessionId([n; 16]));
    let survives = |key: &ObjectKey| {
        let cut = mounted.after_a_power_cut();
        FsStore::open(&cut.at.join("repo")).unwrap().get(key, 100).is_ok()
    };
    // As another writer would that has linked its object and not synced the folder yet.
    let link = |key: &ObjectKey| {
        let file = path.join("tmp/0-0-0-0");
        fs::write(&file, "body").unwrap();
        fs::File::open(&file).unwrap().sync_all().unwrap();
        fs::hard_link(&file, path.join(key.to_string())).unwrap();
        fs::remove_file(&file).unwrap();
    };
    link(&commit(1));
    assert!(!survives(&commit(1)), "the kernel was faster: the test shows nothing");
    store.get(&commit(1), 100).unwrap();
    assert!(survives(&commit(1)), "read, then lost");

    link(&commit(2));
    assert!(matches!(store.put_new(&commit(2), b"other"), Err(StoreError::Exists { .. })));
    assert!(survives(&commit(2)), "found to exist, then lost");

    link(&commit(3));
    store.list(Prefix::Commits, &mut |_| Ok(())).unwrap();
    store.get(&commit(3), 100).unwrap();
    assert!(survives(&commit(3)), "listed and read, then lost");
}

#[test]
fn what_the_device_refuses_is_reported_and_not_published() {
    // The device of 64 MiB has room for 24: beyond that its writes fail, long after the file
    // system took them.
    let Some(under) = Mounted::in_memory("tmpfs", "size=24m") else { return };
    let Some(mounted) = Mounted::ext4_in(Some(&under.at), 64 << 20) else { return };
    let store = new_repository(&mounted.at.join("repo"));
    // One byte in front, so that it goes through the page cache and the sync has to tell.
    let body = vec![1; (1 << 20) + 1];
    let (n, error) = (0..)
        .find_map(|n| store.put_new(&pack(n), &body[1..]).err().map(|error| (n, error)))
        .unwrap();
    assert!((5..30).contains(&n), "{n} MiB were stored: {error:?}");
    assert!(error.is_outcome_unknown() && !error.is_transient(), "{error:?}");
    assert!(matches!(error, StoreError::Io { op: Op::PutNew, .. }), "{error:?}");
    assert!(matches!(store.size(&pack(n)), Err(StoreError::Missing { .. })), "{error:?}");
    for stored in 0..n {
        assert!(store.get(&pack(stored), u64::MAX).unwrap() == body[1..]);
    }
}

#[test]
fn a_file_system_of_another_kind_keeps_every_promise() {
    for (kind, options) in [("tmpfs", "size=1g"), ("ramfs", "mode=700")] {
        let Some(mounted) = Mounted::in_memory(kind, options) else { return };
        let count = std::cell::Cell::new(0);
        crate::store::conformance::run(&|| {
            count.set(count.get() + 1);
            Box::new(FsStore::create(&mounted.at.join(count.get().to_string())).unwrap())
        });
    }
}

//! What changes between backups, and during one.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use repo_format::tree::{Content, EntryKind};
use repository::RepositoryError;
use repository::chunks::ChunkSink;

use super::*;
use crate::tree::IssueKind;
use crate::tree::diff::{Difference, diff};

fn dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/var/tmp").unwrap()
}

fn fill(root: &Path, count: u64) {
    for number in 0..count {
        let dir = root.join(format!("d{:02}", number % 20));
        fs::create_dir_all(&dir).unwrap();
        let len = 7 * usize::try_from(number % 900).unwrap();
        fs::write(dir.join(format!("f{number:05}")), noise(number, len)).unwrap();
    }
}

#[test]
fn an_unchanged_tree_is_not_read_again_and_has_the_same_root() {
    let source = dir();
    fill(source.path(), 2000);
    fs::write(source.path().join("big"), noise(1, 3 << 20)).unwrap();
    fs::hard_link(source.path().join("big"), source.path().join("d05/link")).unwrap();
    settle();
    let memory = Memory::new();
    let first = backup(source.path(), &memory, &[]);
    assert!(first.totals.moved_bytes > 3 << 20);
    let second = backup(source.path(), &memory, &[first.root]);
    assert_eq!(second.totals.moved_bytes, 0);
    assert_eq!(second.totals.unchanged_files, 2001);
    assert_eq!(second.root, first.root);
}

#[test]
fn one_changed_byte_costs_one_file() {
    let source = dir();
    fill(source.path(), 2000);
    settle();
    let memory = Memory::new();
    let first = backup(source.path(), &memory, &[]);
    let chunks = memory.stored(PackKind::Data).0;
    let changed = source.path().join("d03/f00803");
    let mut bytes = fs::read(&changed).unwrap();
    bytes[100] ^= 1;
    fs::write(&changed, &bytes).unwrap();
    settle();
    let second = backup(source.path(), &memory, &[first.root]);
    assert_eq!(second.totals.moved_bytes, bytes.len() as u64);
    assert_eq!(memory.stored(PackKind::Data).0, chunks + 1);
    let open = |root| TreeReader::open(&memory, root).unwrap();
    let found: Vec<_> =
        diff(open(&first.root), open(&second.root)).collect::<Result<_, _>>().unwrap();
    let [Difference::Changed { after, what, .. }] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(after.path, b"d03/f00803");
    assert!(what.content && what.mtime && !what.mode);
    let target = dir();
    restore(&memory, &second.root, target.path());
    assert_same(source.path(), target.path());
}

#[test]
fn a_changed_mode_is_seen_and_a_moved_directory_is_stored_once() {
    let source = dir();
    fill(source.path(), 2000);
    settle();
    let memory = Memory::new();
    let first = backup(source.path(), &memory, &[]);
    let bytes = memory.stored(PackKind::Data).1;
    fs::set_permissions(source.path().join("d01/f00001"), fs::Permissions::from_mode(0o600))
        .unwrap();
    fs::rename(source.path().join("d07"), source.path().join("e-renamed")).unwrap();
    settle();
    let second = backup(source.path(), &memory, &[first.root]);
    let grown = memory.stored(PackKind::Data).1 - bytes;
    assert!(grown < bytes / 20, "{grown} of {bytes} stored again");
    let target = dir();
    restore(&memory, &second.root, target.path());
    assert_same(source.path(), target.path());
}

#[test]
fn a_file_whose_chunk_was_lost_is_read_again() {
    let source = dir();
    fs::write(source.path().join("f"), noise(1, 5000)).unwrap();
    settle();
    let memory = Memory::new();
    let first = backup(source.path(), &memory, &[]);
    let Content::Slices(slices) = &entries(&memory, &first.root)[1].content else { panic!() };
    assert!(memory.lose(PackKind::Data, &slices[0].chunk));
    let second = backup(source.path(), &memory, &[first.root]);
    assert_eq!(second.totals.moved_bytes, 5000);
    restore(&memory, &second.root, dir().path());
}

#[test]
fn a_file_that_was_replaced_by_an_older_one_is_read() {
    let source = dir();
    fs::write(source.path().join("f"), "one").unwrap();
    fs::write(source.path().join("g"), "two").unwrap();
    let old = fs::metadata(source.path().join("f")).unwrap().modified().unwrap();
    File::options().write(true).open(source.path().join("g")).unwrap().set_modified(old).unwrap();
    settle();
    let memory = Memory::new();
    let first = backup(source.path(), &memory, &[]);
    fs::rename(source.path().join("g"), source.path().join("f")).unwrap();
    settle();
    let second = backup(source.path(), &memory, &[first.root]);
    let content = &entries(&memory, &second.root)[1].content;
    assert_eq!(*content, Content::Inline(b"two".to_vec()));
}

#[test]
fn a_link_whose_first_name_is_gone_has_the_content() {
    let source = dir();
    fs::write(source.path().join("a"), noise(4, 9000)).unwrap();
    fs::hard_link(source.path().join("a"), source.path().join("b")).unwrap();
    fs::hard_link(source.path().join("a"), source.path().join("c")).unwrap();
    settle();
    let memory = Memory::new();
    let first = backup(source.path(), &memory, &[]);
    fs::remove_file(source.path().join("a")).unwrap();
    settle();
    let second = backup(source.path(), &memory, &[first.root]);
    let found = entries(&memory, &second.root);
    assert!(matches!(found[1].content, Content::Slices(_)));
    assert_eq!(found[2].content, Content::HardLink(b"b".to_vec()));
    let target = dir();
    restore(&memory, &second.root, target.path());
    assert_same(source.path(), target.path());
}

/// Does something to the source when a chunk is put.
struct Meddler<'a> {
    memory: &'a Memory,
    act: Mutex<Box<dyn FnMut() + Send + 'a>>,
}

impl ChunkSink for Meddler<'_> {
    fn put(&self, kind: PackKind, plain: &[u8]) -> Result<ChunkId, RepositoryError> {
        if kind == PackKind::Data {
            (self.act.lock().unwrap())();
        }
        self.memory.put(kind, plain)
    }
}

fn backup_meddled<'a>(
    root: &Path,
    memory: &'a Memory,
    act: impl FnMut() + Send + 'a,
) -> TreeOutcome {
    let chunker = Chunker::new(keys().gear(), ChunkSizes::default());
    let sink = Meddler { memory, act: Mutex::new(Box::new(act)) };
    let (progress, cancel) = (Progress::default(), AtomicBool::new(false));
    let options = BackupOptions { workers: 1, ..BackupOptions::default() };
    let job = BackupJob {
        root,
        options: &options,
        sink: &sink,
        chunker: &chunker,
        cutter: cutter(),
        has_chunk: &|_, _| true,
        progress: &progress,
        cancel: &cancel,
    };
    backup_tree(job, Vec::new(), &mut NoHooks).unwrap()
}

#[test]
fn a_file_that_changes_once_is_read_again_and_one_that_keeps_changing_is_named() {
    for changes in [1, 100] {
        let source = dir();
        let path = source.path().join("f");
        fs::write(&path, noise(1, 20 << 20)).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        let mut left: u8 = changes;
        let memory = Memory::new();
        let outcome = backup_meddled(source.path(), &memory, || {
            if left > 0 {
                left -= 1;
                file.write_all_at(&[left; 10], 10 << 20).unwrap();
            }
        });
        if changes == 1 {
            assert!(outcome.issues.is_empty(), "{:?}", outcome.issues);
            let target = dir();
            restore(&memory, &outcome.root, target.path());
            assert!(fs::read(target.path().join("f")).unwrap() == fs::read(&path).unwrap());
        } else {
            assert_eq!(outcome.issues.named[0].kind, IssueKind::ChangedWhileRead);
            assert_eq!(outcome.totals.moved_bytes, 60 << 20);
            let again = backup(source.path(), &memory, &[outcome.root]);
            assert_eq!(again.totals.moved_bytes, 20 << 20, "it is read again the next time");
            restore(&memory, &outcome.root, dir().path());
        }
    }
}

#[test]
fn a_file_that_is_cut_short_or_grows_while_it_is_read_is_stored_as_it_was_read() {
    let source = dir();
    let path = source.path().join("f");
    let file = File::create(&path).unwrap();
    let memory = Memory::new();
    let mut puts = 0;
    file.write_all_at(&noise(1, 100 << 20), 0).unwrap();
    let outcome = backup_meddled(source.path(), &memory, || {
        puts += 1;
        let len = 100 - (puts % 90);
        file.set_len(len << 20).unwrap();
    });
    assert_eq!(outcome.issues.named[0].kind, IssueKind::ChangedWhileRead);
    let target = dir();
    restore(&memory, &outcome.root, target.path());
    let restored = fs::metadata(target.path().join("f")).unwrap().len();
    assert_eq!(restored, entries(&memory, &outcome.root)[1].meta.size);
}

#[test]
fn what_vanishes_is_named_and_the_rest_is_there() {
    let source = dir();
    for number in 0..300 {
        fs::write(source.path().join(format!("f{number:03}")), noise(number, 600 << 10)).unwrap();
    }
    let memory = Memory::new();
    let victim = source.path().join("f299");
    let outcome = backup_meddled(source.path(), &memory, || {
        let _ = fs::remove_file(&victim);
    });
    assert_eq!(outcome.issues.count, 1);
    assert_eq!(outcome.issues.named[0].kind, IssueKind::Vanished);
    assert_eq!(outcome.issues.named[0].path, b"f299");
    assert_eq!(outcome.totals.files, 299);
}

#[test]
fn what_cannot_be_read_is_named_and_not_recorded_as_something_else() {
    let source = dir();
    fs::create_dir(source.path().join("closed")).unwrap();
    fs::write(source.path().join("closed/inside"), "x").unwrap();
    fs::write(source.path().join("secret"), noise(1, 5000)).unwrap();
    fs::write(source.path().join("open"), "open").unwrap();
    fs::set_permissions(source.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["closed", "secret"] {
        fs::set_permissions(source.path().join(name), fs::Permissions::from_mode(0o0)).unwrap();
    }
    let memory = Memory::new();
    let first = if is_root() { Some(backup(source.path(), &memory, &[])) } else { None };
    let parents: Vec<_> = first.iter().map(|outcome| outcome.root).collect();
    if first.is_some() {
        // Different contents under the same name: old content must not pass for new.
        fs::write(source.path().join("secret"), noise(2, 5000)).unwrap();
    }
    let outcome = as_nobody(|| backup(source.path(), &memory, &parents));
    let named: Vec<_> = outcome.issues.named.iter().map(|i| (i.path.as_slice(), i.kind)).collect();
    assert_eq!(
        named,
        [(&b"closed"[..], IssueKind::Unreadable), (b"secret", IssueKind::Unreadable)]
    );
    assert!(outcome.issues.named[0].detail.contains("denied"));
    assert_eq!(paths(&memory, &outcome.root), ["", "closed", "open"]);
    fs::set_permissions(source.path().join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
}

/// Runs without privileges. Credentials belong to a thread, and new threads inherit them.
pub(super) fn as_nobody<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                if is_root() {
                    // SAFETY: plain system calls without memory arguments; they change this
                    // thread's credentials only, and the thread ends after `run`.
                    unsafe {
                        assert_eq!(libc::syscall(libc::SYS_setresgid, 65_534, 65_534, 65_534), 0);
                        assert_eq!(libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534), 0);
                    }
                }
                run()
            })
            .join()
            .unwrap()
    })
}

#[test]
fn what_is_excluded_is_counted_and_not_looked_at() {
    let source = dir();
    for name in ["keep/a.c", "keep/a.o", "build/x", "deep/build/y", "cache/z", "keep/build"] {
        let path = source.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    let tag = b"Signature: 8a477f597d28d172789f06886806bc55\n";
    fs::write(source.path().join("cache/CACHEDIR.TAG"), tag).unwrap();
    let memory = Memory::new();
    let excludes = ["*.o", "/build", "deep/**/y"].map(str::to_owned).to_vec();
    let options = BackupOptions { excludes, exclude_caches: true, ..options() };
    let cancel = AtomicBool::new(false);
    let outcome = run_backup(source.path(), &memory, &[], &options, &mut NoHooks, &cancel).unwrap();
    let wanted = ["", "cache", "deep", "deep/build", "keep", "keep/a.c", "keep/build"];
    assert_eq!(paths(&memory, &outcome.root), wanted);
    assert_eq!(outcome.totals.excluded, 4);
}

struct Checkpoints {
    roots: Vec<(ChunkId, u64)>,
    cancel_at: u64,
    cancel: &'static AtomicBool,
}

impl BackupHooks for Checkpoints {
    fn wants_checkpoint(&mut self, so_far: &crate::tree::Totals) -> bool {
        if so_far.entries >= self.cancel_at {
            self.cancel.store(true, Ordering::Relaxed);
        }
        self.roots.last().is_none_or(|(_, entries)| so_far.entries > entries + 500)
    }

    fn checkpoint(
        &mut self,
        root: &ChunkId,
        so_far: &crate::tree::Totals,
    ) -> Result<(), TreeError> {
        self.roots.push((*root, so_far.entries));
        Ok(())
    }
}

#[test]
fn a_cancelled_backup_leaves_a_checkpoint_that_the_next_one_goes_on_from() {
    let source = dir();
    fill(source.path(), 6000);
    settle();
    let memory = Memory::new();
    let older = {
        let outcome = backup(source.path(), &memory, &[]);
        // The parent knows the second half only by older content.
        fs::write(source.path().join("d00/f00000"), "changed").unwrap();
        settle();
        outcome.root
    };
    let cancel: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    let mut hooks = Checkpoints { roots: Vec::new(), cancel_at: 2500, cancel };
    let error =
        run_backup(source.path(), &memory, &[], &options(), &mut hooks, cancel).unwrap_err();
    assert!(matches!(error, TreeError::Cancelled));
    assert!(hooks.roots.len() >= 3);
    let (last, covered) = *hooks.roots.last().unwrap();
    assert!(covered >= 2500);
    assert_eq!(entries(&memory, &last).len() as u64, covered);
    let resumed = backup(source.path(), &memory, &[last]);
    assert!(resumed.totals.unchanged_files > 2000 && resumed.totals.unchanged_files < 6000);
    let resumed = backup(source.path(), &memory, &[older, last]);
    assert_eq!(
        resumed.totals.moved_bytes, 0,
        "what the first parent does not have, the second has"
    );
    assert_eq!(resumed.root, backup(source.path(), &memory, &[]).root);
}

/// Counts parents given up.
struct Lost(u32);

impl BackupHooks for Lost {
    fn parent_lost(&mut self, _: &TreeError) {
        self.0 += 1;
    }
}

#[test]
fn a_parent_that_cannot_be_read_costs_time_only() {
    let source = dir();
    fill(source.path(), 3000);
    settle();
    let memory = Memory::new();
    let first = backup(source.path(), &memory, &[]);
    let reader = TreeReader::open(&memory, &first.root).unwrap();
    let page = reader.root().page.unwrap();
    assert!(memory.lose(PackKind::Meta, &page));
    let mut hooks = Lost(0);
    let cancel = AtomicBool::new(false);
    let second =
        run_backup(source.path(), &memory, &[first.root], &options(), &mut hooks, &cancel).unwrap();
    assert_eq!(hooks.0, 1);
    assert_eq!(second.root, first.root);
    assert_eq!(second.totals.unchanged_files, 0);
}

#[test]
fn a_sink_that_fails_ends_the_run_with_its_error() {
    struct Failing;
    impl ChunkSink for Failing {
        fn put(&self, _: PackKind, _: &[u8]) -> Result<ChunkId, RepositoryError> {
            Err(RepositoryError::Cancelled)
        }
    }
    let source = dir();
    fill(source.path(), 3000);
    let chunker = Chunker::new(keys().gear(), ChunkSizes::default());
    let (progress, cancel) = (Progress::default(), AtomicBool::new(false));
    let job = BackupJob {
        root: source.path(),
        options: &options(),
        sink: &Failing,
        chunker: &chunker,
        cutter: cutter(),
        has_chunk: &|_, _| true,
        progress: &progress,
        cancel: &cancel,
    };
    let error = backup_tree(job, Vec::new(), &mut NoHooks).unwrap_err();
    assert!(matches!(error, TreeError::Repository(RepositoryError::Cancelled)));
}

#[test]
fn a_root_that_is_no_directory_is_its_own_error() {
    let source = dir();
    let path = source.path().join("file");
    fs::write(&path, "x").unwrap();
    for path in [path, source.path().join("nothing")] {
        let cancel = AtomicBool::new(false);
        let result = run_backup(&path, &Memory::new(), &[], &options(), &mut NoHooks, &cancel);
        assert!(matches!(result, Err(TreeError::Source { .. })));
    }
}

#[test]
fn a_mount_point_is_an_empty_directory_when_asked_for() {
    let source = dir();
    // /proc is a mount everywhere; its root's parent is not needed for the test.
    let options = BackupOptions {
        one_file_system: true,
        excludes: ["/*/**", "/*"].iter().map(|p| (*p).to_owned()).collect(),
        ..options()
    };
    let memory = Memory::new();
    let cancel = AtomicBool::new(false);
    fs::write(source.path().join("x"), "x").unwrap();
    let outcome = run_backup(source.path(), &memory, &[], &options, &mut NoHooks, &cancel).unwrap();
    assert_eq!(paths(&memory, &outcome.root), [""]);
    let options =
        BackupOptions { one_file_system: true, excludes: dev_excludes(), ..super::options() };
    let outcome =
        run_backup(Path::new("/dev"), &memory, &[], &options, &mut NoHooks, &cancel).unwrap();
    let found = entries(&memory, &outcome.root);
    let mounts: Vec<_> = found.iter().filter(|e| e.kind == EntryKind::Dir).collect();
    assert!(mounts.iter().all(|e| e.meta.dev != found[0].meta.dev || e.path != b"pts"));
    assert!(!found.iter().any(|e| e.path.starts_with(b"pts/")));
}

fn dev_excludes() -> Vec<String> {
    vec!["/fd".to_owned(), "/mqueue/*".to_owned(), "/shm/*".to_owned()]
}

//! Real files in, a repository in memory, real files out.

mod change;
mod hostile;
mod large;
mod manifest;
mod restore;
mod roundtrip;
mod scale;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use repo_format::chunker::{ChunkSizes, Chunker};
use repo_format::id::ChunkId;
use repo_format::pack::PackKind;
use repo_format::tree::{Entry, PageCutter};

use super::backup::{BackupHooks, BackupJob, BackupOptions, NoHooks, TreeOutcome, backup_tree};
use super::reader::TreeReader;
use super::restore::{RestoreJob, RestoreOptions, RestoreOutcome, restore_tree};
use super::testing::{Memory, keys};
use super::{Issue, Progress, TreeError};

fn cutter() -> PageCutter {
    PageCutter::new([9; 32])
}

fn options() -> BackupOptions {
    BackupOptions { workers: 4, ..BackupOptions::default() }
}

/// Backs up, with roots of parents.
fn run_backup(
    root: &Path,
    memory: &Memory,
    parents: &[ChunkId],
    options: &BackupOptions,
    hooks: &mut dyn BackupHooks,
    cancel: &AtomicBool,
) -> Result<TreeOutcome, TreeError> {
    let chunker = Chunker::new(keys().gear(), ChunkSizes::default());
    let progress = Progress::default();
    let has_chunk = |kind: PackKind, id: &ChunkId| memory.has(kind, id);
    let parents =
        parents.iter().map(|parent| TreeReader::open(memory, parent)).collect::<Result<_, _>>()?;
    let job = BackupJob {
        root,
        options,
        sink: memory,
        chunker: &chunker,
        cutter: cutter(),
        has_chunk: &has_chunk,
        progress: &progress,
        cancel,
    };
    backup_tree(job, parents, hooks)
}

fn backup(root: &Path, memory: &Memory, parents: &[ChunkId]) -> TreeOutcome {
    run_backup(root, memory, parents, &options(), &mut NoHooks, &AtomicBool::new(false)).unwrap()
}

fn restore_with(
    memory: &Memory,
    root: &ChunkId,
    subtree: &str,
    target: &Path,
    options: &RestoreOptions,
) -> Result<RestoreOutcome, TreeError> {
    let progress = Progress::default();
    let cancel = AtomicBool::new(false);
    let subtree = subtree.as_bytes();
    let job = RestoreJob {
        source: memory,
        root,
        subtree,
        target,
        options,
        progress: &progress,
        cancel: &cancel,
    };
    let mut told = Vec::new();
    let outcome = restore_tree(job, &mut |issue: &Issue| told.push(issue.clone()))?;
    assert_eq!(told.len() as u64, outcome.issues.count);
    Ok(outcome)
}

fn restore(memory: &Memory, root: &ChunkId, target: &Path) -> RestoreOutcome {
    let outcome = restore_with(memory, root, "", target, &RestoreOptions::default()).unwrap();
    assert!(outcome.issues.is_empty(), "{:?}", outcome.issues);
    outcome
}

fn entries(memory: &Memory, root: &ChunkId) -> Vec<Entry> {
    TreeReader::open(memory, root).unwrap().collect::<Result<_, _>>().unwrap()
}

fn paths(memory: &Memory, root: &ChunkId) -> Vec<String> {
    let path = |entry: Entry| String::from_utf8_lossy(&entry.path).into_owned();
    entries(memory, root).into_iter().map(path).collect()
}

/// Everything that a restore must bring back, by path, for people to read when it does not.
fn observe(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut seen = BTreeMap::new();
    let mut inodes: BTreeMap<(u64, u64), Vec<u8>> = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let below = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        let mut text = format!(
            "mode {:o} owner {}:{} mtime {}.{:09} rdev {} xattrs {:?}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.rdev(),
            xattrs(&path),
        );
        let kind = meta.file_type();
        if kind.is_dir() {
            let mut names: Vec<_> =
                fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()).collect();
            names.sort();
            todo.extend(names.into_iter().rev());
        } else {
            if meta.nlink() > 1 {
                let first = inodes.entry((meta.dev(), meta.ino())).or_insert(below.clone());
                let first = String::from_utf8_lossy(first);
                write!(text, " link of {first:?} ({})", meta.nlink()).unwrap();
            }
            if kind.is_symlink() {
                write!(text, " -> {:?}", fs::read_link(&path).unwrap()).unwrap();
            } else if kind.is_file() {
                let bytes = fs::read(&path).unwrap();
                let sum = repo_format_hash(&bytes);
                let (len, map) = (meta.len(), data_map(&path));
                write!(text, " size {len} sum {sum} data {map:?}").unwrap();
            } else {
                assert!(
                    kind.is_fifo()
                        || kind.is_socket()
                        || kind.is_char_device()
                        || kind.is_block_device()
                );
            }
        }
        seen.insert(below, text);
    }
    seen
}

fn repo_format_hash(bytes: &[u8]) -> String {
    keys().chunk_id(PackKind::Data, bytes).to_string()
}

fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0u8; 64 << 10];
    let len = rustix::fs::llistxattr(path, names.as_mut_slice()).unwrap_or(0);
    let mut found: Vec<_> = (names[..len].split(|byte| *byte == 0))
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0u8; 64 << 10];
            let len = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).unwrap();
            (String::from_utf8_lossy(name).into_owned(), value[..len].to_vec())
        })
        .collect();
    found.sort();
    found
}

/// Where the kernel says that data is.
fn data_map(path: &Path) -> Vec<(u64, u64)> {
    let file = fs::File::open(path).unwrap();
    let size = file.metadata().unwrap().len();
    let (mut map, mut at) = (Vec::new(), 0);
    while at < size {
        let Ok(start) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) else { break };
        let end = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(start)).unwrap();
        map.push((start, end.min(size)));
        at = end;
    }
    map
}

#[track_caller]
fn assert_same(a: &Path, b: &Path) {
    let (a, b) = (observe(a), observe(b));
    for (path, text) in &a {
        let other = b.get(path).map_or("missing", String::as_str);
        assert_eq!(text, other, "{}", String::from_utf8_lossy(path));
    }
    for path in b.keys() {
        assert!(a.contains_key(path), "{} is too much", String::from_utf8_lossy(path));
    }
}

/// Bytes that neither compress nor repeat; the same for the same seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A generator of cases: the same seed gives the same case, and a failure names its seed.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `sides`.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % sides
    }
}

/// Until what was just written counts as settled.
fn settle() {
    std::thread::sleep(std::time::Duration::from_millis(60));
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

//! What the tests share: volumes with known contents, and real devices.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, atomic::AtomicBool},
};

use tempfile::TempDir;

use crate::volume::{
    BufPool, Engine, ReadDone, ReadEnd, ReadRequest, ReadSetup, ReadSummary, Source, Target,
    WriteSetup, Writer, read_all,
};

pub(super) const ENGINES: [Engine; 2] = [Engine::Uring, Engine::Pread];

/// A directory on a disk, where direct I/O and holes are real.
pub(super) fn scratch() -> TempDir {
    tempfile::tempdir_in("/var/tmp").unwrap()
}

/// Bytes that repeat nowhere near.
pub(super) fn noise(seed: u64, len_bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len_bytes + 8);
    while bytes.len() < len_bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len_bytes);
    bytes
}

/// A file of `contents`.
pub(super) fn file_of(dir: &Path, name: &str, contents: &[u8]) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, contents).unwrap();
    path
}

/// A file that has data in `data` only, and what it reads as.
pub(super) fn sparse_file(
    dir: &Path,
    name: &str,
    size_bytes: usize,
    data: &[(usize, usize)],
) -> (PathBuf, Vec<u8>) {
    let path = dir.join(name);
    let file = File::create(&path).unwrap();
    file.set_len(size_bytes as u64).unwrap();
    let mut image = vec![0; size_bytes];
    for &(offset_bytes, len_bytes) in data {
        let bytes = noise(offset_bytes as u64 + 7, len_bytes);
        file.write_all_at(&bytes, offset_bytes as u64).unwrap();
        image[offset_bytes..offset_bytes + len_bytes].copy_from_slice(&bytes);
    }
    (path, image)
}

/// The requests that read all of a volume, `len_bytes` at a time.
pub(super) fn grid(size_bytes: u64, len_bytes: usize) -> impl Iterator<Item = ReadRequest> + Send {
    (0..size_bytes).step_by(len_bytes).map(move |offset_bytes| {
        let left_bytes = usize::try_from(size_bytes - offset_bytes).unwrap();
        ReadRequest { offset_bytes, len_bytes: len_bytes.min(left_bytes) }
    })
}

pub(super) fn reader(engine: Engine, depth: usize, pool: &BufPool) -> ReadSetup {
    ReadSetup { engine, depth, pool: pool.clone(), cancel: Arc::default() }
}

pub(super) fn writer(engine: Engine, depth: usize) -> WriteSetup {
    WriteSetup { engine, depth, sync: false, cancel: Arc::new(AtomicBool::new(false)) }
}

/// Answers every request; `failed` holds those that got none of their bytes.
pub(super) struct Outcome {
    pub(super) image: Vec<u8>,
    pub(super) failed: Vec<(u64, std::io::Error)>,
    pub(super) summary: ReadSummary,
}

/// Reads through a small pool, putting the answers together.
pub(super) fn read_requests(
    engine: Engine,
    depth: usize,
    source: Source,
    requests: impl Iterator<Item = ReadRequest> + Send + 'static,
    buffer_bytes: usize,
) -> Outcome {
    let pool = BufPool::new(5, buffer_bytes).unwrap();
    let mut image = vec![0; usize::try_from(source.size_bytes()).unwrap()];
    let mut failed = Vec::new();
    let (out, answers) = crossbeam_channel::bounded(2);
    let setup = reader(engine, depth, &pool);
    let reading = read_all(Arc::new(source), requests, setup, out).unwrap();
    for ReadDone { offset_bytes, len_bytes, result } in answers {
        match result {
            Ok(buffer) => {
                assert_eq!(buffer.len(), len_bytes, "{engine} at {offset_bytes}");
                let at = usize::try_from(offset_bytes).unwrap();
                image[at..at + len_bytes].copy_from_slice(&buffer);
            }
            Err(error) => failed.push((offset_bytes, error)),
        }
    }
    let summary = reading.join().unwrap();
    assert_eq!(pool.free(), pool.count(), "{engine}: a buffer is lost");
    Outcome { image, failed, summary }
}

/// What a volume reads as, all of it, without an error.
pub(super) fn read_whole(
    engine: Engine,
    depth: usize,
    source: Source,
    len_bytes: usize,
) -> Vec<u8> {
    let requests = grid(source.size_bytes(), len_bytes);
    let outcome = read_requests(engine, depth, source, requests, len_bytes);
    assert!(outcome.failed.is_empty(), "{engine}: {:?}", outcome.failed);
    assert_eq!(outcome.summary.end, ReadEnd::Complete);
    assert_eq!(outcome.summary.bytes, outcome.image.len() as u64);
    outcome.image
}

/// Writes the pieces of `image` that `ranges` name, in that order.
pub(super) fn write_ranges(
    engine: Engine,
    depth: usize,
    target: Target,
    image: &[u8],
    ranges: &[(usize, usize)],
) {
    let buffer_bytes = ranges.iter().map(|range| range.1).max().unwrap_or(1);
    let pool = BufPool::new(4, buffer_bytes).unwrap();
    let writer = Writer::start(Arc::new(target), writer(engine, depth)).unwrap();
    for &(offset_bytes, len_bytes) in ranges {
        let mut buffer = pool.take();
        buffer.fill_from(&image[offset_bytes..offset_bytes + len_bytes]);
        writer.submit(offset_bytes as u64, buffer).unwrap();
    }
    let summary = writer.finish().unwrap();
    assert_eq!(summary.bytes, ranges.iter().map(|range| range.1 as u64).sum::<u64>());
    assert_eq!(pool.free(), pool.count(), "{engine}: a buffer is lost");
}

/// Ranges that cover `size_bytes` in an order that is not the volume's.
pub(super) fn shuffled(size_bytes: usize, len_bytes: usize) -> Vec<(usize, usize)> {
    let mut ranges: Vec<_> = (0..size_bytes)
        .step_by(len_bytes)
        .map(|offset| (offset, len_bytes.min(size_bytes - offset)))
        .collect();
    ranges.sort_by_key(|range| (range.0 as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    ranges
}

/// Whether tests that need root can run. Without it they fail, unless that was asked for: a suite
/// that quietly tests no device proves nothing about devices.
pub(super) fn privileged() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(
        std::env::var_os("SALVOR_ALLOW_UNPRIVILEGED_TESTS").is_some(),
        "this test needs root for loop devices and mounts; \
         set SALVOR_ALLOW_UNPRIVILEGED_TESTS=1 to leave it out"
    );
    eprintln!("NOT TESTED: real devices and mounts (no root)");
    false
}

pub(super) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A loop device over a file, gone at the end.
pub(super) struct Loop {
    pub(super) path: PathBuf,
}

impl Loop {
    pub(super) fn over(file: &Path, sector_bytes: u32) -> Self {
        let sector = sector_bytes.to_string();
        let file = file.to_str().unwrap();
        // Devices are found, then claimed: another test may be faster.
        for _ in 0..20 {
            let arguments = ["--find", "--show", "--sector-size", &sector, file];
            let output = Command::new("losetup").args(arguments).output().unwrap();
            if output.status.success() {
                let path = String::from_utf8(output.stdout).unwrap();
                return Self { path: PathBuf::from(path.trim()) };
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("no loop device for {file}");
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.path).status();
    }
}

/// A mounted file system, gone at the end.
pub(super) struct Mount {
    pub(super) path: PathBuf,
}

impl Mount {
    pub(super) fn at(path: PathBuf, arguments: &[&str]) -> Self {
        fs::create_dir_all(&path).unwrap();
        let mut all = arguments.to_vec();
        all.push(path.to_str().unwrap());
        run("mount", &all);
        Self { path }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}

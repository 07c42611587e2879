//! Comparing what was backed up with what came back.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{SeekFrom, seek};

/// Where two files begin to differ; `None` if they are the same.
fn first_difference(a: &Path, b: &Path) -> Option<u64> {
    let (mut a, mut b) = (File::open(a).unwrap(), File::open(b).unwrap());
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    loop {
        let (here, there) = (fill(&mut a, &mut left), fill(&mut b, &mut right));
        let same = left[..here].iter().zip(&right[..there]).take_while(|(a, b)| a == b).count();
        if same < here.max(there) {
            return Some(at + same as u64);
        }
        if here == 0 {
            return None;
        }
        at += here as u64;
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> usize {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]).unwrap() {
            0 => break,
            read => filled += read,
        }
    }
    filled
}

/// Whether two files have the same bytes.
pub fn same_bytes(a: &Path, b: &Path) -> bool {
    first_difference(a, b).is_none()
}

/// Checks that `copy` has the bytes of `volume`, and data nowhere but in chunks where `volume`
/// has some: what was a hole is a hole.
#[track_caller]
pub fn assert_same_volume(volume: &Path, copy: &Path, chunk_bytes: u64) {
    let difference = first_difference(volume, copy);
    assert_eq!(difference, None, "{} and {} differ", volume.display(), copy.display());
    let size = fs::metadata(volume).unwrap().len();
    let allowed: Vec<(u64, u64)> = data_map(volume)
        .into_iter()
        .map(|(start, end)| {
            let start = start / chunk_bytes * chunk_bytes;
            (start, end.next_multiple_of(chunk_bytes).min(size))
        })
        .collect();
    for (start, end) in data_map(copy) {
        let mut at = start;
        for (from, to) in &allowed {
            if *from <= at && at < *to {
                at = *to;
            }
        }
        assert!(at >= end, "{start}..{end} of {} should have a hole at {at}", copy.display());
    }
}

/// Where the kernel says that a file has data: ascending, half open.
pub fn data_map(path: &Path) -> Vec<(u64, u64)> {
    let file = File::open(path).unwrap();
    let size = file.metadata().unwrap().len();
    let (mut map, mut at) = (Vec::new(), 0);
    while at < size {
        let Ok(start) = seek(&file, SeekFrom::Data(at)) else { break };
        let end = seek(&file, SeekFrom::Hole(start)).unwrap();
        map.push((start, end.min(size)));
        at = end;
    }
    map
}

/// Everything that a restore must bring back, by path, in words.
pub fn observe(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut seen = BTreeMap::new();
    let mut inodes: BTreeMap<(u64, u64), Vec<u8>> = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let below = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        let kind = meta.file_type();
        let mut text = format!(
            "mode {:o} owner {}:{} mtime {}.{:09} rdev {} attributes {:?}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.rdev(),
            attributes(&path),
        );
        if kind.is_dir() {
            let mut names: Vec<_> =
                fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort();
            todo.extend(names.into_iter().rev());
        } else if meta.nlink() > 1 {
            let first = inodes.entry((meta.dev(), meta.ino())).or_insert(below.clone());
            write!(text, " link of {:?} ({})", String::from_utf8_lossy(first), meta.nlink())
                .unwrap();
        }
        if kind.is_symlink() {
            let target = fs::read_link(&path).unwrap();
            write!(text, " -> {}", target.display()).unwrap();
        } else if kind.is_file() {
            write!(text, " size {} sum {:016x}", meta.len(), checksum(&path)).unwrap();
            if path.file_name().is_some_and(|name| name == "sparse") {
                write!(text, " data {:?}", data_map(&path)).unwrap();
            }
        }
        seen.insert(below, text);
    }
    seen
}

/// FNV-1a over words: enough to tell two files apart, and quick.
fn checksum(path: &Path) -> u64 {
    let mut sum = 0xcbf2_9ce4_8422_2325_u64;
    for word in fs::read(path).unwrap().chunks(8) {
        let mut bytes = [0; 8];
        bytes[..word.len()].copy_from_slice(word);
        sum = (sum ^ u64::from_le_bytes(bytes)).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    }
    sum
}

fn attributes(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0u8; 64 << 10];
    let len = rustix::fs::llistxattr(path, names.as_mut_slice()).unwrap_or(0);
    let mut found: Vec<_> = names[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0u8; 64 << 10];
            let len = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).unwrap_or(0);
            (String::from_utf8_lossy(name).into_owned(), value[..len].to_vec())
        })
        .collect();
    found.sort();
    found
}

/// Checks that two trees are the same in all that [`observe`] sees.
#[track_caller]
pub fn assert_same_tree(tree: &Path, copy: &Path) {
    let (a, b) = (observe(tree), observe(copy));
    for (path, text) in &a {
        let other = b.get(path).map_or("missing", String::as_str);
        assert_eq!(text, other, "{} of the copy", String::from_utf8_lossy(path));
    }
    for path in b.keys() {
        assert!(a.contains_key(path), "{} is too much", String::from_utf8_lossy(path));
    }
}

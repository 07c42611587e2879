//! Files that are read in regions, cut into chunks, and listed indirectly.

use std::fs;

use repo_format::tree::Content;

use super::*;
use crate::tree::restore::restore_file;
use crate::tree::slices::{Slices, holes};

fn dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/var/tmp").unwrap()
}

/// Backs up with chunks so small that a file of some megabytes has thousands.
fn backup_finely(root: &Path, memory: &Memory, parents: &[ChunkId]) -> TreeOutcome {
    let sizes = ChunkSizes { min: 512, avg: 1024, max: 4096 };
    let chunker = Chunker::new(keys().gear(), sizes);
    let (progress, cancel) = (Progress::default(), AtomicBool::new(false));
    let has_chunk = |kind: PackKind, id: &ChunkId| memory.has(kind, id);
    let job = BackupJob {
        root,
        options: &options(),
        sink: memory,
        chunker: &chunker,
        cutter: cutter(),
        has_chunk: &has_chunk,
        progress: &progress,
        cancel: &cancel,
    };
    let parents = parents.iter().map(|root| TreeReader::open(memory, root).unwrap()).collect();
    backup_tree(job, parents, &mut NoHooks).unwrap()
}

#[test]
fn a_file_of_many_chunks_is_listed_indirectly_restored_streamed_and_healed() {
    let source = dir();
    fs::write(source.path().join("f"), noise(1, 30 << 20)).unwrap();
    settle();
    let memory = Memory::new();
    let first = backup_finely(source.path(), &memory, &[]);
    let content = entries(&memory, &first.root)[1].content.clone();
    assert!(matches!(&content, Content::Indirect(lists) if lists.len() >= 2), "{content:?}");
    let target = dir();
    restore(&memory, &first.root, target.path());
    assert_same(source.path(), target.path());
    let mut out = Vec::new();
    restore_file(&memory, &first.root, b"f", &mut out, &AtomicBool::new(false)).unwrap();
    assert!(out == noise(1, 30 << 20));
    let second = backup_finely(source.path(), &memory, &[first.root]);
    assert_eq!((second.totals.moved_bytes, second.root), (0, first.root));
    let mut slices = Slices::new(&memory, &content);
    for _ in 0..5000 {
        slices.next().unwrap().unwrap();
    }
    assert!(memory.lose(PackKind::Data, &slices.next().unwrap().unwrap().chunk));
    let healed = backup_finely(source.path(), &memory, &[first.root]);
    assert_eq!(healed.totals.moved_bytes, 30 << 20);
    assert_eq!(healed.root, first.root);
    restore(&memory, &healed.root, dir().path());
}

/// A file that starts with noise, then has runs of zeros and of noise of all lengths.
fn any_runs(seed: u64) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    let mut bytes = noise(99, 600 << 10);
    for _ in 0..3 + dice.roll(5) {
        let len = match dice.roll(3) {
            0 => 1 + dice.roll(5000),
            1 => 60_000 + dice.roll(10_000),
            _ => 100_000 + dice.roll(1_400_000),
        };
        let len = usize::try_from(len).unwrap();
        if dice.roll(2) == 0 {
            bytes.resize(bytes.len() + len, 0);
        } else {
            bytes.extend(noise(dice.roll(1000), len));
        }
    }
    bytes
}

#[test]
fn zeros_may_become_holes_and_nothing_else_does() {
    for seed in 0..40 {
        let bytes = any_runs(seed);
        let source = dir();
        fs::write(source.path().join("f"), &bytes).unwrap();
        let memory = Memory::new();
        let root = backup(source.path(), &memory, &[]).root;
        let mut out = Vec::new();
        restore_file(&memory, &root, b"f", &mut out, &AtomicBool::new(false)).unwrap();
        assert!(out == bytes, "seed {seed}");
        let holes = holes(&entries(&memory, &root)[1]);
        assert!(holes.iter().all(|hole| hole.len >= 64 << 10), "seed {seed}: {holes:?}");
        let target = dir();
        restore(&memory, &root, target.path());
        assert!(fs::read(target.path().join("f")).unwrap() == bytes, "seed {seed}");
    }
}

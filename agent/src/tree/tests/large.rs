//! Files that are read in regions, cut into chunks, and listed indirectly.

use std::fs;

use proptest::prelude::*;
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

/// Runs of zeros (true) and of noise, by length in bytes.
fn any_runs() -> impl Strategy<Value = Vec<(bool, usize)>> {
    let len = prop_oneof![1usize..5000, 60_000usize..70_000, 100_000usize..1_500_000];
    prop::collection::vec((any::<bool>(), len), 3..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn zeros_may_become_holes_and_nothing_else_does(runs in any_runs()) {
        let mut bytes = noise(99, 600 << 10);
        for (at, (is_zero, len)) in runs.iter().enumerate() {
            match is_zero {
                true => bytes.resize(bytes.len() + len, 0),
                false => bytes.extend(noise(at as u64, *len)),
            }
        }
        let source = dir();
        fs::write(source.path().join("f"), &bytes).unwrap();
        let memory = Memory::new();
        let root = backup(source.path(), &memory, &[]).root;
        let mut out = Vec::new();
        restore_file(&memory, &root, b"f", &mut out, &AtomicBool::new(false)).unwrap();
        prop_assert!(out == bytes);
        let holes = holes(&entries(&memory, &root)[1]);
        prop_assert!(holes.iter().all(|hole| hole.len >= 64 << 10), "{holes:?}");
        let target = dir();
        restore(&memory, &root, target.path());
        prop_assert!(fs::read(target.path().join("f")).unwrap() == bytes);
    }
}

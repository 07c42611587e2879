//! The manifest: what is written is read, found, sought and compared.

use repo_format::tree::{Content, EntryKind, Meta, Time, cmp_paths, is_below};

use super::*;
use crate::tree::diff::{Difference, diff};
use crate::tree::writer::TreeWriter;

fn entry(path: &[u8], number: u64) -> Entry {
    let mtime = Time { sec: number.cast_signed(), nsec: 0 };
    let meta = Meta { mtime, ctime: mtime, mode: 0o644, nlink: 1, ino: number, ..Meta::default() };
    let (kind, content, extents) = (EntryKind::File, Content::None, Vec::new());
    Entry { path: path.to_vec(), kind, meta, content, extents }
}

fn write(memory: &Memory, entries: &[Entry]) -> ChunkId {
    let mut writer = TreeWriter::new(memory, cutter());
    for entry in entries {
        writer.push(entry.clone()).unwrap();
    }
    writer.finish().unwrap()
}

fn tree(count: usize) -> Vec<Entry> {
    let mut entries: Vec<Entry> = (0..count)
        .map(|n| entry(format!("d{}/e{}/f{n}", n % 100, n % 7).as_bytes(), n as u64))
        .collect();
    entries.sort_by(|a, b| cmp_paths(&a.path, &b.path));
    entries
}

#[test]
fn a_long_tree_is_read_back_found_and_sought() {
    let memory = Memory::new();
    let written = tree(100_000);
    let root = write(&memory, &written);
    assert!(entries(&memory, &root) == written);
    let reader = TreeReader::open(&memory, &root).unwrap();
    assert!(reader.root().level >= 2, "the test must have inner pages");
    for at in (0..written.len()).step_by(997) {
        let gets = memory.gets.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(reader.find(&written[at].path).unwrap().as_ref(), Some(&written[at]));
        let gets = memory.gets.load(std::sync::atomic::Ordering::Relaxed) - gets;
        assert!(gets <= 4, "a look-up reads a page per level, not {gets}");
    }
    assert_eq!(reader.find(b"d1/e1/nothing").unwrap(), None);
    let below: Vec<_> = TreeReader::open(&memory, &root)
        .unwrap()
        .below(b"d42")
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let wanted: Vec<_> = written.iter().filter(|e| is_below(&e.path, b"d42")).cloned().collect();
    assert_eq!(below, wanted);
}

#[test]
fn a_checkpoint_is_a_whole_tree_and_disturbs_nothing() {
    let memory = Memory::new();
    let written = tree(20_000);
    let mut writer = TreeWriter::new(&memory, cutter());
    assert_eq!(entries(&memory, &writer.checkpoint().unwrap()), []);
    for (at, entry) in written.iter().enumerate() {
        writer.push(entry.clone()).unwrap();
        if at % 3001 == 0 {
            let root = writer.checkpoint().unwrap();
            assert!(entries(&memory, &root) == written[..=at]);
        }
    }
    assert_eq!(writer.finish().unwrap(), write(&Memory::new(), &written));
}

#[test]
fn a_change_rewrites_the_pages_above_it_only() {
    let memory = Memory::new();
    let mut written = tree(100_000);
    write(&memory, &written);
    let before = memory.stored(PackKind::Meta).0;
    written.remove(50_000);
    let changed = written[30_000].clone();
    written[30_000].meta.mode = 0o600;
    let root = write(&memory, &written);
    assert!(memory.stored(PackKind::Meta).0 - before <= 12);
    assert_eq!(
        TreeReader::open(&memory, &root).unwrap().find(&changed.path).unwrap().unwrap().meta.mode,
        0o600
    );
}

#[test]
fn a_diff_reads_only_pages_that_differ() {
    let memory = Memory::new();
    let written = tree(100_000);
    let a = write(&memory, &written);
    let mut changed = written.clone();
    changed[70_000].meta.mode = 0o600;
    let removed = changed.remove(10);
    let b = write(&memory, &changed);
    let gets = memory.gets.load(std::sync::atomic::Ordering::Relaxed);
    let open = |root| TreeReader::open(&memory, root).unwrap();
    let found: Vec<_> = diff(open(&a), open(&b)).collect::<Result<_, _>>().unwrap();
    let gets = memory.gets.load(std::sync::atomic::Ordering::Relaxed) - gets;
    assert!(gets < 50, "{gets} pages were read");
    assert_eq!(found.len(), 2);
    assert_eq!(found[0], Difference::Removed(Box::new(removed)));
    let Difference::Changed { what, .. } = &found[1] else { panic!("{found:?}") };
    assert!(what.mode && !what.content && !what.owner);
    assert_eq!(diff(open(&a), open(&a)).count(), 0);
}

#[test]
fn a_missing_page_fails_the_scan_and_not_what_comes_before_it() {
    let memory = Memory::new();
    let written = tree(20_000);
    let root = write(&memory, &written);
    // The last leaf is the only page that no other tree shares with a shorter one.
    let mut reader = TreeReader::open(&memory, &root).unwrap();
    for _ in 0..19_000 {
        reader.next_entry().unwrap().unwrap();
    }
    assert!(memory.lose(PackKind::Meta, &root));
    assert!(TreeReader::open(&memory, &root).is_err());
}

/// A small tree of names that sort in surprising ways, in path order.
fn any_tree(dice: &mut Dice) -> Vec<Entry> {
    let names = ["a", "b", "a.x", "a-", "zz", "\u{1}", "m"];
    let mut paths = std::collections::BTreeMap::new();
    for _ in 0..dice.roll(400) {
        let depth = 1 + dice.roll(4);
        let name = |dice: &mut Dice| names[usize::try_from(dice.roll(7)).unwrap()];
        let path: Vec<&str> = (0..depth).map(|_| name(dice)).collect();
        paths.insert(path.join("/").into_bytes(), dice.roll(3));
    }
    let mut entries: Vec<_> = paths.iter().map(|(path, n)| entry(path, *n)).collect();
    entries.sort_by(|a, b| cmp_paths(&a.path, &b.path));
    entries
}

#[test]
fn whatever_is_written_is_read_and_sought() {
    for seed in 0..300 {
        let mut dice = Dice::new(seed);
        let written = any_tree(&mut dice);
        let memory = Memory::new();
        let root = write(&memory, &written);
        assert_eq!(entries(&memory, &root), written, "seed {seed}");
        let at = usize::try_from(dice.roll(400)).unwrap();
        let wanted = written.get(at).map_or(b"a/zz/m".to_vec(), |entry| entry.path.clone());
        let mut reader = TreeReader::open(&memory, &root).unwrap();
        reader.seek(&wanted).unwrap();
        let rest: Vec<_> = reader.collect::<Result<_, _>>().unwrap();
        let first = written.partition_point(|e| cmp_paths(&e.path, &wanted).is_lt());
        assert_eq!(&rest[..], &written[first..], "seed {seed}");
    }
}

#[test]
fn a_diff_is_what_a_comparison_of_the_lists_is() {
    for seed in 0..300 {
        let mut dice = Dice::new(seed);
        let a = any_tree(&mut dice);
        // Half of the cases are small changes, which share pages.
        let b = if dice.roll(2) == 0 {
            any_tree(&mut dice)
        } else {
            a.iter().filter(|_| dice.roll(20) > 0).cloned().collect()
        };
        let memory = Memory::new();
        let (root_a, root_b) = (write(&memory, &a), write(&memory, &b));
        let open = |root| TreeReader::open(&memory, root).unwrap();
        let mut found = Vec::new();
        for difference in diff(open(&root_a), open(&root_b)) {
            found.push(match difference.unwrap() {
                Difference::Added(entry) => ('+', entry.path),
                Difference::Removed(entry) => ('-', entry.path),
                Difference::Changed { after, .. } => ('~', after.path),
            });
        }
        assert_eq!(found, compare(&a, &b), "seed {seed}");
    }
}

fn compare(a: &[Entry], b: &[Entry]) -> Vec<(char, Vec<u8>)> {
    let mut wanted = Vec::new();
    for entry in a {
        match b.iter().find(|other| other.path == entry.path) {
            None => wanted.push(('-', entry.path.clone())),
            Some(other) if other.meta.mtime != entry.meta.mtime => {
                wanted.push(('~', entry.path.clone()));
            }
            Some(_) => {}
        }
    }
    let is_new = |entry: &&Entry| a.iter().all(|other| other.path != entry.path);
    wanted.extend(b.iter().filter(is_new).map(|entry| ('+', entry.path.clone())));
    wanted.sort_by(|a, b| cmp_paths(&a.1, &b.1));
    wanted
}

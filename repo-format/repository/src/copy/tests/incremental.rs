//! What a further copy costs: as much as changed, with and without a memory of earlier copies.

use std::sync::Arc;

use super::fixture::{CHUNK, Data, Machine, Side, files, noise, volume};
use crate::copy::Progress;

fn read(progress: Progress) -> (u64, u64) {
    (progress.fetched_bytes.into_inner(), progress.manifest_bytes.into_inner())
}

#[test]
fn of_a_changed_volume_only_changed_pages_and_chunks_are_read_on_any_machine() {
    let (source, target) = (Side::new(), Side::new());
    let mut chunks = volume(40);
    let first = source.back_up("disk", &Data::Volume(chunks.clone()));
    let (_, progress) = Machine::new().copy(&source, &target, &first).unwrap();
    let whole = read(progress);
    // Seeds from 50,000 on are of no other chunk.
    chunks.insert(6 * 1024 + 300, 50_000);
    chunks.insert(6 * 1024 + 5, 50_001);
    let second = source.back_up("disk", &Data::Volume(chunks.clone()));
    // This machine has copied nothing yet.
    let (copied, progress) = Machine::new().copy(&source, &target, &second).unwrap();
    assert_eq!(target.read(&copied.snapshot.id).unwrap(), Data::Volume(chunks));
    let (fetched, manifest) = read(progress);
    assert!(fetched <= 4 * CHUNK as u64, "{fetched} bytes of {} were fetched", whole.0);
    assert!(manifest * 4 < whole.1, "{manifest} of {} bytes of manifest were read", whole.1);
    assert_eq!(copied.snapshot.sizes.new_plain / CHUNK as u64, 2);
}

#[test]
fn of_a_changed_tree_only_changed_pages_and_files_are_read_on_any_machine() {
    let (source, target) = (Side::new(), Side::new());
    let mut tree = files(60);
    let first = source.back_up("home", &Data::Tree(tree.clone()));
    let (_, progress) = Machine::new().copy(&source, &target, &first).unwrap();
    let whole = read(progress);
    // One leaf is changed, one is new between old ones, one is gone.
    tree.insert("folder-003/3".into(), noise(900, 7000));
    tree.insert("folder-0305/new".into(), noise(901, 3000));
    tree.retain(|path, _| !path.starts_with("folder-040"));
    let second = source.back_up("home", &Data::Tree(tree.clone()));
    let (copied, progress) = Machine::new().copy(&source, &target, &second).unwrap();
    assert_eq!(target.read(&copied.snapshot.id).unwrap(), Data::Tree(tree));
    let (fetched, manifest) = read(progress);
    assert!(fetched <= 4 * 65536, "{fetched} bytes of {} were fetched", whole.0);
    assert!(copied.snapshot.sizes.new_plain < 40_000, "{:?}", copied.snapshot.sizes);
    assert!(manifest * 2 < whole.1, "{manifest} of {} bytes of manifest were read", whole.1);
}

#[test]
fn a_machine_that_copied_before_reads_no_chunk_again_under_any_name() {
    let (source, target, machine) = (Side::new(), Side::new(), Machine::new());
    for data in [Data::Volume(volume(5)), Data::Tree(files(12))] {
        let first = source.back_up("one", &data);
        let second = source.back_up("another", &data);
        machine.copy(&source, &target, &first).unwrap();
        let (copied, progress) = machine.copy(&source, &target, &second).unwrap();
        assert_eq!(progress.fetched_bytes.into_inner(), 0);
        assert_eq!(copied.snapshot.sizes.new_plain, 0);
        assert_eq!(target.read(&copied.snapshot.id).unwrap(), data);
    }
}

#[test]
fn without_any_memory_everything_is_read_again_and_nothing_stored() {
    let (source, target) = (Side::new(), Side::new());
    let data = Data::Volume(volume(5));
    let first = source.back_up("one", &data);
    let second = source.back_up("another", &data);
    let (_, progress) = Machine::new().copy(&source, &target, &first).unwrap();
    let whole = read(progress);
    let (copied, progress) = Machine::new().copy(&source, &target, &second).unwrap();
    assert_eq!(read(progress), whole);
    assert_eq!(copied.snapshot.sizes.new_plain, 0);
}

#[test]
fn repositories_with_the_same_keys_need_no_memory_to_know_what_is_there() {
    let source = Side::new();
    let (mut chunks, mut tree) = (volume(5), files(12));
    source.back_up("disk", &Data::Volume(chunks.clone()));
    source.back_up("home", &Data::Tree(tree.clone()));
    let clone = Side::over(Arc::new(source.store.fork()));
    chunks.insert(1024 + 17, 50_003);
    tree.insert("folder-004/2".into(), noise(902, 9000));
    for (name, data) in [("other", Data::Volume(chunks)), ("third", Data::Tree(tree))] {
        let id = source.back_up(name, &data);
        let (copied, progress) = Machine::new().copy(&source, &clone, &id).unwrap();
        let fetched = progress.fetched_bytes.into_inner();
        assert!(fetched <= 4 * CHUNK as u64, "{name}: {fetched} bytes were fetched");
        assert_eq!(clone.read(&copied.snapshot.id).unwrap(), data);
        let original = source.view().all_snapshots()[&id].root;
        assert_eq!(copied.snapshot.root, original, "the same keys give the same ids");
    }
    assert!(clone.verify().is_clean());
}

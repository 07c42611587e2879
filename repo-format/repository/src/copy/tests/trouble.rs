//! Damage on both sides, and prunes meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use repo_format::key::ObjectKey;
use repo_format::pack::PackKind;
use repo_format::snapshot::Completeness;

use super::fixture::{Data, Free, Machine, Side, files, noise, volume};
use crate::copy::{Control, CopyError, Progress};
use crate::index::PackState;
use crate::store::Op;
use crate::store::wrap::UsageRow;

/// The packs of a kind that are not among `old`.
fn packs_since(side: &Side, kind: PackKind, old: &[ObjectKey]) -> Vec<ObjectKey> {
    crate::writer::sync_index(&side.repository, &side.index, &side.view()).unwrap();
    let mut found = Vec::new();
    side.index
        .packs(&mut |_, row, state| {
            let key = ObjectKey::Pack(row.identity.name);
            if row.identity.kind == kind && state != PackState::Dead && !old.contains(&key) {
                found.push(key);
            }
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    found
}

/// Flips a bit in every chunk of the packs.
fn damage(side: &Side, packs: &[ObjectKey]) {
    assert!(!packs.is_empty());
    for pack in packs {
        assert!(side.store.damage(pack, |bytes| {
            for byte in bytes.iter_mut().step_by(50) {
                *byte ^= 1;
            }
        }));
    }
}

#[test]
fn damage_in_the_source_stops_its_snapshot_and_no_other() {
    for kind in [PackKind::Data, PackKind::Meta] {
        let (source, target, machine) = (Side::new(), Side::new(), Machine::new());
        let good = [("disk", Data::Volume(volume(3))), ("home", Data::Tree(files(8)))];
        let good = good.map(|(name, data)| (source.back_up(name, &data), data));
        let before = source.store.keys();
        let mut chunks = volume(3);
        chunks.insert(700, 50_005);
        let bad = source.back_up("disk", &Data::Volume(chunks));
        damage(&source, &packs_since(&source, kind, &before));
        let error = machine.copy(&source, &target, &bad).unwrap_err();
        assert!(error.is_source_damage(), "{kind:?}: {error:?}");
        for (id, data) in good {
            let (copied, _) = machine.copy(&source, &target, &id).unwrap();
            assert_eq!(target.read(&copied.snapshot.id).unwrap(), data);
        }
        assert!(target.verify().is_clean());
    }
}

#[test]
fn what_a_bad_pack_of_the_target_held_is_stored_again_by_the_next_copy() {
    let (source, target, machine) = (Side::new(), Side::new(), Machine::new());
    let data = Data::Volume(volume(4));
    let first = source.back_up("disk", &data);
    let second = source.back_up("disk", &data);
    machine.copy(&source, &target, &first).unwrap();
    damage(&target, &packs_since(&target, PackKind::Data, &[]));
    assert!(!target.verify().is_clean());
    let (copied, _) = machine.copy(&source, &target, &second).unwrap();
    assert_eq!(target.read(&copied.snapshot.id).unwrap(), data);
    assert!(target.verify().damaged_snapshots.is_empty());
}

#[test]
fn a_lost_manifest_of_an_earlier_copy_costs_its_help_only() {
    let (source, target) = (Side::new(), Side::new());
    let mut tree = files(20);
    let first = source.back_up("home", &Data::Tree(tree.clone()));
    Machine::new().copy(&source, &target, &first).unwrap();
    damage(&target, &packs_since(&target, PackKind::Meta, &[]));
    assert!(!target.verify().is_clean());
    tree.insert("folder-001/3".into(), noise(903, 5000));
    let second = source.back_up("home", &Data::Tree(tree.clone()));
    let (copied, _) = Machine::new().copy(&source, &target, &second).unwrap();
    assert_eq!(target.read(&copied.snapshot.id).unwrap(), Data::Tree(tree));
}

/// Prunes the source when the first byte is about to be fetched.
struct PruneMidway<'a> {
    source: &'a Side,
    once: AtomicBool,
}

impl Control for PruneMidway<'_> {
    fn pace(&self, _: u64) {
        if !self.once.swap(true, Ordering::Relaxed) {
            let other = Side::over(Arc::clone(&self.source.store));
            let report = [other.prune(), other.prune(), other.prune()];
            let repacked: u64 = report.iter().map(|report| report.repacked_packs).sum();
            let deleted: u64 = report.iter().map(|report| report.deleted_packs).sum();
            assert!(repacked > 0 && deleted > 0, "{report:?}");
        }
    }
}

#[test]
fn a_prune_that_moves_the_sources_chunks_meanwhile_is_followed() {
    let (source, target, machine) = (Side::new(), Side::new(), Machine::new());
    // Every pack holds chunks of both: each is emptied once the first is forgotten.
    let mut chunks = volume(5);
    let garbage = source.back_up("disk", &Data::Volume(chunks.clone()));
    for number in (0..5 * 1024).step_by(1024) {
        chunks.insert(number, 50_010 + number / 1024);
    }
    let id = source.back_up("disk", &Data::Volume(chunks.clone()));
    source.forget(&[garbage]);
    let control = PruneMidway { source: &source, once: AtomicBool::new(false) };
    let copied = machine.copier(&source, &target).copy(&id, &Progress::default(), &control);
    let copied = copied.unwrap();
    // The new index told where they are; nobody had to look through the packs for them.
    let usage = source.meter.read();
    let looked = |row: &&UsageRow| row.op == Op::List && row.kind == "p";
    assert_eq!(usage.rows.iter().find(looked), None);
    assert_eq!(target.read(&copied.snapshot.id).unwrap(), Data::Volume(chunks));
    assert!(target.verify().is_clean());
}

/// Stops after so many bytes.
struct StopAfter(AtomicU64);

impl Control for StopAfter {
    fn pace(&self, bytes: u64) {
        let left = self.0.load(Ordering::Relaxed).saturating_sub(bytes);
        self.0.store(left, Ordering::Relaxed);
    }

    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

#[test]
fn a_cancelled_copy_keeps_what_it_stored_for_the_next_and_leaves_nothing_behind() {
    let (source, target, machine) = (Side::new(), Side::new(), Machine::new());
    let data = Data::Volume(volume(12));
    let id = source.back_up("disk", &data);
    let stop = StopAfter(AtomicU64::new(1 << 20));
    let progress = Progress::default();
    let stopped = machine.copier(&source, &target).copy(&id, &progress, &stop);
    assert!(matches!(stopped, Err(CopyError::Cancelled)), "{stopped:?}");
    let first = progress.fetched_bytes.into_inner();
    assert!(first > 0);
    // A prune keeps what the checkpoint holds.
    target.prune();
    target.prune();
    let (copied, progress) = machine.copy(&source, &target, &id).unwrap();
    let second = progress.fetched_bytes.into_inner();
    let whole = 32 * 65536;
    assert!(second + first < whole + whole / 2, "{first} and then {second} of {whole} were read");
    assert!(second < whole, "nothing was kept");
    assert_eq!(target.read(&copied.snapshot.id).unwrap(), data);
    assert!(checkpoints(&target).is_empty());
}

/// Copies the same from another machine before the first byte is fetched.
struct OvertakenBy<'a> {
    other: &'a Machine,
    sides: [&'a Side; 2],
    id: repo_format::id::SnapshotId,
    once: AtomicBool,
}

impl Control for OvertakenBy<'_> {
    fn pace(&self, _: u64) {
        if !self.once.swap(true, Ordering::Relaxed) {
            let [source, target] = self.sides;
            let target = Side::over(Arc::clone(&target.store));
            self.other.copy(source, &target, &self.id).unwrap();
        }
    }
}

#[test]
fn a_copy_that_another_machine_was_faster_with_is_not_made_twice() {
    let (source, target) = (Side::new(), Side::new());
    let (machine, other) = (Machine::new(), Machine::new());
    let data = Data::Tree(files(6));
    let id = source.back_up("home", &data);
    let once = AtomicBool::new(false);
    let control = OvertakenBy { other: &other, sides: [&source, &target], id, once };
    let copied = machine.copier(&source, &target).copy(&id, &Progress::default(), &control);
    assert!(copied.unwrap().was_present);
    let view = target.view();
    let snapshots = view.snapshots();
    assert_eq!(snapshots.len(), 1);
    assert_eq!(target.read(&snapshots[0].id).unwrap(), data);
}

fn checkpoints(side: &Side) -> Vec<repo_format::id::SnapshotId> {
    let view = side.view();
    let all = view.all_snapshots();
    let checkpoints = all.values().filter(|one| one.completeness == Completeness::Checkpoint);
    checkpoints.map(|one| one.id).collect()
}

#[test]
fn a_checkpoint_of_a_snapshot_that_the_source_forgot_is_removed() {
    let (source, target, machine) = (Side::new(), Side::new(), Machine::new());
    let id = source.back_up("disk", &Data::Volume(volume(12)));
    let stop = StopAfter(AtomicU64::new(1 << 20));
    let copier = machine.copier(&source, &target);
    assert!(copier.copy(&id, &Progress::default(), &stop).is_err());
    assert_eq!(checkpoints(&target).len(), 1);
    assert_eq!(copier.tidy(&source.view(), &target.view()).unwrap(), 0);
    source.forget(&[id]);
    assert!(matches!(copier.copy(&id, &Progress::default(), &Free), Err(CopyError::Vanished)));
    assert_eq!(copier.tidy(&source.view(), &target.view()).unwrap(), 1);
    assert!(checkpoints(&target).is_empty());
}

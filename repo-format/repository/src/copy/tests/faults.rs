//! Stores that fail, at every write and at random.

use std::collections::BTreeMap;
use std::sync::Arc;

use repo_format::id::SnapshotId;

use super::fixture::{Data, Machine, Side, files, volume};
use crate::copy::CopyError;
use crate::store::wrap::{Fault, Faulty};

type Truths = BTreeMap<SnapshotId, Data>;

fn stocked() -> (Side, Truths) {
    let source = Side::new();
    let all = [("disk", Data::Volume(volume(3))), ("home", Data::Tree(files(5)))];
    let truths = all.map(|(name, data)| (source.back_up(name, &data), data)).into();
    (source, truths)
}

fn copy_all(
    machine: &Machine,
    source: &Side,
    target: &Side,
    truths: &Truths,
) -> Result<(), CopyError> {
    for id in truths.keys() {
        machine.copy(source, target, id)?;
    }
    Ok(())
}

/// The target is sound, and what it lists is what it should be. Returns how many snapshots it has.
fn check(source: &Side, target: &Side, truths: &Truths, what: &str) -> usize {
    let report = target.verify();
    assert!(report.is_clean(), "{what}: {report:?}");
    let there = Machine::new().copier(source, target).counterparts(&source.view(), &target.view());
    for (id, data) in truths {
        if let Some(copy) = there.of(id) {
            assert_eq!(target.read(&copy).unwrap(), *data, "{what}");
        }
    }
    there.len()
}

#[test]
fn a_copy_cut_at_any_write_leaves_a_sound_target_and_is_gone_on_with() {
    let (source, truths) = stocked();
    let empty = Side::new().store;
    for cut in 1.. {
        let machine = Machine::new();
        let store = Arc::new(empty.fork());
        let dying = Side::through(Arc::clone(&store), |store| Faulty::new(store).cut_after(cut));
        let is_whole = copy_all(&machine, &source, &dying, &truths).is_ok();
        drop(dying);
        let target = Side::over(store);
        let what = format!("cut after write {cut}");
        check(&source, &target, &truths, &what);
        copy_all(&machine, &source, &target, &truths).unwrap();
        assert_eq!(check(&source, &target, &truths, &what), truths.len());
        if is_whole {
            assert!(cut > 10, "only {cut} writes");
            return;
        }
    }
}

#[test]
fn whatever_either_store_answers_no_copy_is_wrong() {
    const FAULTS: [Fault; 6] = [
        Fault::Io,
        Fault::Unavailable,
        Fault::LostReply,
        Fault::Full,
        Fault::BitFlip,
        Fault::ShortRead,
    ];
    let (source, truths) = stocked();
    let empty = Side::new().store;
    let (mut failed, mut whole) = (0, 0);
    for seed in 0..30 {
        let (one_in, machine) = (8 << (seed % 5), Machine::new());
        let store = Arc::new(empty.fork());
        let faulty = |store| Faulty::new(store).random(seed, one_in, &FAULTS);
        // Opening a repository is not what is tried here, and may fail.
        let opened = std::panic::catch_unwind(|| {
            let target = Side::through(Arc::clone(&store), faulty);
            (target, Side::through(Arc::clone(&source.store), faulty))
        });
        let Ok((target, spoilt)) = opened else { continue };
        match copy_all(&machine, &spoilt, &target, &truths) {
            Ok(()) => whole += 1,
            Err(_) => failed += 1,
        }
        drop((target, spoilt));
        let target = Side::over(store);
        let what = format!("seed {seed}");
        check(&source, &target, &truths, &what);
        copy_all(&machine, &source, &target, &truths).unwrap();
        assert_eq!(check(&source, &target, &truths, &what), truths.len());
    }
    assert!(failed > 3 && whole > 3, "{failed} failed, {whole} did not");
}

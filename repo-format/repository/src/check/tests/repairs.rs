//! After a repair, and a new backup of what the sources still have, all is well again.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use repo_format::id::SnapshotId;
use repo_format::key::{ObjectKey, Prefix};

use super::fixture::{Damage, Fixture};
use crate::catalog;
use crate::gc::{self, Unwatched};
use crate::repair::repair;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// Puts a damaged repository right and checks that it is. Returns the old snapshots that are
/// whole again.
fn put_right(fixture: &mut Fixture, what: &str, witness: u64) -> BTreeSet<SnapshotId> {
    let old: BTreeSet<SnapshotId> = fixture.snapshots.keys().copied().collect();
    let opened = fixture.open_warm().unwrap();
    opened.verify(Some(witness));
    let report = repair(&opened.repository, &opened.index, Some(witness), &Unwatched)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    // A repair that has nothing left to do does nothing.
    let again = repair(&opened.repository, &opened.index, Some(witness), &Unwatched).unwrap();
    assert!(again.done.is_empty(), "{what}: {again:?} after {report:?}");
    fixture.back_up_all(&opened);
    let verified = opened.verify(Some(witness));
    let lost: Vec<SnapshotId> =
        verified.damaged_snapshots.iter().map(|lost| lost.id.parse().unwrap()).collect();
    // What the sources have no more can only be forgotten.
    assert!(verified.is_clean() || !lost.is_empty(), "{what}: {verified:#?} after {report:?}");
    assert!(lost.iter().all(|id| old.contains(id)), "{what}: {lost:?} after {report:?}");
    let forgotten = gc::forget(&opened.repository, &lost, None).unwrap();
    assert_eq!(forgotten, lost.len() as u64, "{what}");
    opened.prune();
    let cold = fixture.open_cold().unwrap();
    let verified = cold.verify(Some(witness));
    assert!(verified.is_clean(), "{what}, pruned: {verified:#?} after {report:?}");
    assert!(verified.healed_packs.is_empty(), "{what}, pruned: {verified:#?}");
    let whole: BTreeSet<SnapshotId> = fixture.read_back(&cold).into_iter().collect();
    for id in fixture.snapshots.keys().filter(|id| !old.contains(*id)) {
        assert!(whole.contains(id), "{what}: the new snapshot {id} is not whole");
    }
    whole.intersection(&old).copied().collect()
}

/// Damages each object of a kind. `may_lose`: snapshots whose own record was in it.
fn repair_each(prefix: Prefix, may_lose: usize) {
    let sound = Fixture::new();
    let opened = sound.open_warm().unwrap();
    let newest = catalog::newest_number(&opened.repository).unwrap();
    drop(opened);
    for key in sound.objects() {
        if key.prefix() != Some(prefix) {
            continue;
        }
        let len = fs::read(sound.path(&key)).unwrap().len();
        let damages = [Damage::Removed, Damage::CutTo(len / 2), Damage::Flipped(len * 5)];
        for damage in damages {
            let mut fixture = sound.cloned(copy);
            damage.apply(&fixture.path(&key));
            let what = format!("{key} {damage:?}");
            let whole = put_right(&mut fixture, &what, newest);
            assert!(whole.len() + may_lose >= 4, "{what}: only {whole:?} are whole");
        }
    }
}

#[test]
fn a_damaged_catalog_is_replaced_and_no_snapshot_is_lost() {
    repair_each(Prefix::Catalogs, 0);
}

#[test]
fn a_damaged_catalog_page_is_made_anew_and_no_snapshot_is_lost() {
    repair_each(Prefix::CatalogPages, 0);
}

#[test]
fn a_catalog_page_damaged_in_both_copies_costs_at_most_the_snapshots_on_it() {
    let mut fixture = Fixture::new();
    let opened = fixture.open_warm().unwrap();
    let head = catalog::newest(&opened.repository).unwrap();
    drop(opened);
    let page = head.catalog.pages.iter().flatten().next().unwrap();
    for key in page.keys() {
        Damage::Flipped(99).apply(&fixture.path(&key));
    }
    let whole = put_right(&mut fixture, "both copies", head.catalog.n);
    assert!(whole.len() + page.snapshots as usize >= 4, "only {whole:?} are whole");
}

#[test]
fn a_damaged_session_record_costs_nothing() {
    repair_each(Prefix::Sessions, 0);
}

#[test]
fn a_damaged_register_costs_at_most_its_own_snapshot() {
    repair_each(Prefix::Commits, 1);
}

#[test]
fn a_damaged_segment_is_made_anew_and_costs_nothing() {
    repair_each(Prefix::Segments, 0);
}

#[test]
fn what_a_damaged_pack_held_is_stored_again_as_far_as_the_source_has_it() {
    // Each old snapshot has chunks that the sources do not have any more.
    repair_each(Prefix::Packs, 2);
}

#[test]
fn without_any_catalog_all_snapshots_that_other_objects_tell_of_come_back() {
    let mut fixture = Fixture::new();
    for key in fixture.objects() {
        if key.prefix() == Some(Prefix::Catalogs) {
            Damage::Removed.apply(&fixture.path(&key));
        }
    }
    assert_eq!(put_right(&mut fixture, "no catalog", 0).len(), 4);
}

#[test]
fn without_any_segment_nothing_is_lost() {
    let mut fixture = Fixture::new();
    for key in fixture.objects() {
        if matches!(key, ObjectKey::Segment(_)) {
            Damage::Removed.apply(&fixture.path(&key));
        }
    }
    let cold = fixture.open_cold().unwrap();
    assert_eq!(fixture.read_back(&cold).len(), 4, "the packs' own tables were not used");
    assert_eq!(put_right(&mut fixture, "no segment", 0).len(), 4);
}

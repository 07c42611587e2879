//! Every kind of object × every kind of damage: it is named, and nothing wrong is given back.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::sync::Arc;

use repo_format::frame::{Compression, FrameEncoder};
use repo_format::id::ClusterId;
use repo_format::key::{ObjectKey, Prefix};
use repo_format::pack::PackKind;

use super::fixture::{CHUNK, Damage, Fixture, Opened, Source, noise, packs};
use crate::effort::Effort;
use crate::index::PackState;
use crate::view::View;
use crate::writer::{Writer, WriterOptions, sync_index};
use crate::{RepositoryError, catalog};

const FLIPS: usize = 64;

fn kind(key: &ObjectKey) -> &'static str {
    key.prefix().map_or("config", Prefix::folder)
}

#[test]
fn a_sound_repository_is_clean() {
    let fixture = Fixture::new();
    for opened in [fixture.open_warm().unwrap(), fixture.open_cold().unwrap()] {
        let report = opened.verify(Some(0));
        assert!(report.is_clean(), "{report:#?}");
        assert_eq!(report.checked.snapshots, 4);
        assert!(report.checked.packs_read >= 4, "{report:#?}");
        assert!(report.checked.chunks_read >= 20, "{report:#?}");
        assert_eq!(fixture.read_back(&opened).len(), 4);
    }
    let kinds: std::collections::BTreeSet<_> = fixture.objects().iter().map(kind).collect();
    let expected = ["cat", "com", "config", "cpg", "keys", "p", "ses", "x"];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), expected);
}

/// Damages the objects of one kind, one after the other.
fn damage_each(wanted: &str, flips: usize) {
    let fixture = Fixture::new();
    let opened = fixture.open_warm().unwrap();
    let newest = catalog::newest_number(&opened.repository).unwrap();
    let own_slot = opened.repository.slots().unwrap();
    let own_slot = own_slot.iter().find(|slot| slot.current).unwrap().id.clone();
    drop(opened);
    let is_wanted =
        |key: &ObjectKey| kind(key) == wanted && key.to_string() != format!("keys/{own_slot}");
    let objects: Vec<ObjectKey> = fixture.objects().into_iter().filter(is_wanted).collect();
    // The flips are spread over the objects of the kind.
    let flips = flips.div_ceil(objects.len()).max(4);
    for key in objects {
        let path = fixture.path(&key);
        let sound = fs::read(&path).unwrap();
        for damage in Damage::all(sound.len(), flips) {
            damage.apply(&path);
            check_one(&fixture, &key, damage, newest);
            fs::write(&path, &sound).unwrap();
        }
    }
}

fn check_one(fixture: &Fixture, key: &ObjectKey, damage: Damage, witness: u64) {
    let what = format!("{key} {damage:?}");
    let is_removed = matches!(damage, Damage::Removed);
    let opened = match (key, is_removed) {
        // A register that is gone looks as if it had never been: only who saw it knows.
        (ObjectKey::Commit(_), true) => fixture.open_warm(),
        _ => fixture.open_cold(),
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(error) => {
            assert_eq!(*key, ObjectKey::Config, "{what}: {error}");
            let is_clear =
                error.is_damage() || matches!(error, RepositoryError::NoRepository { .. });
            assert!(is_clear, "{what}: {error}");
            return;
        }
    };
    if matches!((key, is_removed), (ObjectKey::KeySlot(_), true)) {
        // A slot that was removed by hand is as one that was removed.
        return;
    }
    let options = crate::check::VerifyOptions {
        read_data: Some(1.0),
        witness: Some(witness),
        ..Default::default()
    };
    let report =
        crate::check::verify(&opened.repository, &opened.index, &options, &crate::gc::Unwatched)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
    let named: BTreeMap<&str, &str> = report
        .problems
        .iter()
        .map(|problem| (problem.object.as_str(), problem.what.as_str()))
        .collect();
    let is_named = named.contains_key(key.to_string().as_str())
        || (is_removed && kind(key) == "cat" && named.contains_key("cat/"));
    assert!(is_named, "{what} is not named: {report:#?}");
    let whole = fixture.read_back(&opened);
    let view = View::for_reading(&opened.repository).unwrap();
    let unknown = report.damaged_snapshots.iter().any(|lost| lost.id.starts_with("unknown"));
    for id in fixture.snapshots.keys() {
        let is_blamed = report.damaged_snapshots.iter().any(|lost| lost.id == id.to_string())
            || (unknown && !view.all_snapshots().contains_key(id));
        let is_whole = whole.contains(id);
        assert_eq!(is_blamed, !is_whole, "{what}, snapshot {id}: {report:#?}");
        let is_listed = view.all_snapshots().contains_key(id);
        assert!(is_listed || is_blamed, "{what} hides snapshot {id}");
    }
    for lost in &report.damaged_snapshots {
        assert!(lost.path_count > 0 && !lost.paths.is_empty(), "{what}: {lost:?}");
    }
}

macro_rules! matrix {
    ($($name:ident: $kind:literal, $flips:expr;)*) => {$(
        #[test]
        fn $name() {
            damage_each($kind, $flips);
        }
    )*};
}

matrix! {
    a_damaged_config_is_refused_with_a_reason: "config", FLIPS;
    a_damaged_key_slot_is_named: "keys", FLIPS;
    a_damaged_catalog_is_named_and_an_older_one_is_read: "cat", FLIPS;
    a_damaged_catalog_page_is_named: "cpg", FLIPS;
    a_damaged_session_is_named: "ses", FLIPS;
    a_damaged_register_is_named_with_the_snapshot_that_it_held: "com", FLIPS;
    a_damaged_segment_is_named_and_its_packs_are_read_by_their_tables: "x", FLIPS;
    a_damaged_pack_is_named_with_what_it_held: "p", FLIPS;
}

/// Removes packs of a kind that the sessions of the snapshots of `name` made: not those to which a
/// prune moved chunks of several. All packs of the kind if `name` is empty.
fn remove_packs(fixture: &Fixture, opened: &Opened, kind: PackKind, name: &str) -> u64 {
    let view = View::for_reading(&opened.repository).unwrap();
    sync_index(&opened.repository, &opened.index, &view).unwrap();
    let of_name: Vec<_> = view
        .all_snapshots()
        .into_values()
        .filter(|snapshot| snapshot.name == name)
        .map(|snapshot| snapshot.id)
        .collect();
    let mut removed = 0;
    opened
        .index
        .packs(&mut |_, row, state| {
            let identity = &row.identity;
            // A dead one is gone already.
            if state != PackState::Dead
                && identity.kind == kind
                && (name.is_empty() || of_name.contains(&identity.name.session))
            {
                Damage::Removed.apply(&fixture.path(&ObjectKey::Pack(identity.name)));
                removed += 1;
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    removed
}

#[test]
fn what_is_lost_is_named_by_path_and_by_range() {
    let fixture = Fixture::new();
    let opened = fixture.open_cold().unwrap();
    assert!(remove_packs(&fixture, &opened, PackKind::Data, "") > 0);
    let report = opened.verify(None);
    let volume = format!("bytes 0..{}", 5 * CHUNK + 1000);
    for lost in &report.damaged_snapshots {
        let expected = match lost.name.as_str() {
            "disk" => vec![volume.as_str()],
            _ => vec!["a/whole", "b/changing", "b/huge", "c/last", "c/link"],
        };
        assert_eq!(lost.paths, expected);
        assert_eq!(lost.path_count, expected.len() as u64);
    }
    assert_eq!(report.damaged_snapshots.len(), 4);
}

#[test]
fn a_lost_manifest_is_everything() {
    let mut fixture = Fixture::new();
    let opened = fixture.open_cold().unwrap();
    let id = fixture.back_up(&opened, "new", Source::Volume(noise(50, 3 * CHUNK)));
    assert_eq!(remove_packs(&fixture, &opened, PackKind::Meta, "new"), 1);
    let report = opened.verify(None);
    let lost: Vec<_> =
        report.damaged_snapshots.iter().map(|lost| (lost.id.clone(), lost.paths.clone())).collect();
    assert_eq!(lost, [(id.to_string(), vec!["everything".to_owned()])]);
}

#[test]
fn a_chunk_with_another_good_copy_is_not_lost() {
    let fixture = Fixture::new();
    let opened = fixture.open_cold().unwrap();
    let options =
        WriterOptions { effort: Effort::default(), packs: packs(), cluster: ClusterId::NONE };
    let index = Arc::clone(&opened.index);
    let (writer, _) = Writer::open(&opened.repository, index, &options).unwrap();
    let mut encoder = FrameEncoder::new(Compression::Off).unwrap();
    for content in fixture.snapshots.values() {
        if let Source::Volume(bytes) = content {
            for chunk in bytes.chunks(CHUNK) {
                let id = opened.repository.keys().chunk_id(PackKind::Data, chunk);
                let frame = encoder.encode(chunk).to_vec();
                writer.rewrite(PackKind::Data, &id, &frame, chunk.len()).unwrap();
            }
        }
    }
    writer.finish_repack().unwrap();
    let removed = remove_packs(&fixture, &opened, PackKind::Data, "disk");
    let report = opened.verify(None);
    assert_eq!((report.problem_count, report.bad_packs.len() as u64), (removed, removed));
    assert!(report.damaged_snapshots.is_empty(), "{report:#?}");
    assert_eq!(fixture.read_back(&opened).len(), 4);
    // Written down, and nothing depends on them any more.
    let again = opened.verify(None);
    assert!(again.is_clean(), "{again:#?}");
    assert_eq!(again.healed_packs.len() as u64, removed);
}

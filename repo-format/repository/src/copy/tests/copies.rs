//! What a copy is, and when one is left out.

use repo_format::id::{RepositoryId, SnapshotId};
use repo_format::snapshot::Snapshot;

use super::fixture::{Data, Machine, Side, files, volume};
use crate::copy::{ORIGIN_TAG, Origin, Selection, origins};
use crate::view::View;

fn both() -> [(&'static str, Data); 2] {
    [("disk", Data::Volume(volume(7))), ("home", Data::Tree(files(13)))]
}

#[test]
fn volumes_and_trees_come_out_of_the_copy_as_they_went_in() {
    let (source, target, machine) = (Side::new(), Side::new(), Machine::new());
    for (name, data) in both() {
        let id = source.back_up(name, &data);
        let (copied, _) = machine.copy(&source, &target, &id).unwrap();
        assert_eq!(target.read(&copied.snapshot.id).unwrap(), data, "{name}");
    }
    let report = target.verify();
    assert!(report.is_clean(), "{report:?}");
}

#[test]
fn a_copy_says_all_that_its_original_says_and_where_it_came_from() {
    let (source, target, machine) = (Side::new(), Side::new(), Machine::new());
    let id = source.back_up("disk", &Data::Volume(volume(2)));
    let original = source.view().all_snapshots()[&id].clone();
    let (copied, _) = machine.copy(&source, &target, &id).unwrap();
    let copy = target.view().all_snapshots()[&copied.snapshot.id].clone();
    let origin = Origin { repository: *source.repository.id(), snapshot: id };
    assert_eq!(origins(&copy).collect::<Vec<_>>(), [origin]);
    let mut tags = copy.tags.clone();
    tags.retain(|(key, _)| key != ORIGIN_TAG);
    let mut sizes = copy.sizes;
    sizes.new_plain = original.sizes.new_plain;
    sizes.new_stored = original.sizes.new_stored;
    let told = Snapshot { id, root: original.root, tags, sizes, ..copy };
    assert_eq!(told, original);
}

#[test]
fn a_snapshot_that_is_there_is_left_out_whichever_way_it_came() {
    let [a, b, c] = [Side::new(), Side::new(), Side::new()];
    let machine = Machine::new();
    let id = a.back_up("disk", &Data::Volume(volume(4)));
    let (in_b, _) = machine.copy(&a, &b, &id).unwrap();
    let (in_c, _) = machine.copy(&b, &c, &in_b.snapshot.id).unwrap();
    for (from, to, id) in
        [(&a, &b, id), (&a, &c, id), (&b, &a, in_b.snapshot.id), (&c, &a, in_c.snapshot.id)]
    {
        let before = to.store.keys();
        let (again, progress) = machine.copy(from, to, &id).unwrap();
        assert!(again.was_present);
        let packs = |keys: &[repo_format::key::ObjectKey]| {
            keys.iter().filter(|key| key.to_string().starts_with("p/")).count()
        };
        assert_eq!(packs(&to.store.keys()), packs(&before));
        assert_eq!(progress.fetched_bytes.into_inner(), 0);
        assert_eq!(progress.manifest_bytes.into_inner(), 0);
    }
}

#[test]
fn what_the_target_forgot_is_copied_again_and_nothing_that_is_gone_is_referred_to() {
    let (source, target, machine) = (Side::new(), Side::new(), Machine::new());
    for (name, data) in both() {
        let id = source.back_up(name, &data);
        let (copied, _) = machine.copy(&source, &target, &id).unwrap();
        target.forget(&[copied.snapshot.id]);
        // The memory of the first copy names chunks that are gone after this.
        for _ in 0..2 {
            target.prune();
        }
        assert!(target.store.keys().iter().all(|key| !key.to_string().starts_with("p/")));
        let (copied, _) = machine.copy(&source, &target, &id).unwrap();
        assert_eq!(target.read(&copied.snapshot.id).unwrap(), data, "{name}");
        target.forget(&[copied.snapshot.id]);
        target.prune();
        target.prune();
    }
}

#[test]
fn an_origin_is_read_back_as_it_was_written_and_nothing_else_is_read() {
    let origin = Origin { repository: RepositoryId([1; 16]), snapshot: SnapshotId::NONE };
    assert_eq!(origin.to_string().parse::<Origin>(), Ok(origin));
    for wrong in ["", "/", "ab/cd", &origin.to_string()[1..]] {
        assert!(wrong.parse::<Origin>().is_err(), "{wrong}");
    }
}

fn chosen(selection: &Selection, view: &View) -> Vec<String> {
    selection.choose(view).unwrap().iter().map(|snapshot| snapshot.name.clone()).collect()
}

#[test]
fn snapshots_are_chosen_by_any_of_their_names_once_and_oldest_first() {
    let source = Side::new();
    let ids = ["one", "two", "three"].map(|name| source.back_up(name, &Data::Volume(volume(1))));
    let view = source.view();
    let cluster = repo_format::id::ClusterId::NONE;
    let all = Selection { wanted: Vec::new(), name: None, tags: Vec::new(), cluster };
    assert_eq!(chosen(&all, &view), ["one", "two", "three"]);
    let wanted = ["latest", "one@latest", &ids[2].to_string()[..20]].map(str::to_owned).to_vec();
    assert_eq!(chosen(&Selection { wanted, ..all.clone() }, &view), ["one", "three"]);
    let name = Some("two".to_owned());
    assert_eq!(chosen(&Selection { name, ..all.clone() }, &view), ["two"]);
    let tags = vec![("app".to_owned(), "web".to_owned())];
    assert!(chosen(&Selection { tags, ..all.clone() }, &view).is_empty());
    let foreign = repo_format::id::ClusterId([9; 16]);
    assert!(chosen(&Selection { cluster: foreign, ..all.clone() }, &view).is_empty());
    let wanted = vec!["nothing".to_owned()];
    assert!(Selection { wanted, ..all }.choose(&view).is_err());
}

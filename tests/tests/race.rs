//! Several processes at work in one repository at once.
#![expect(clippy::unwrap_used, reason = "a failure is a panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tests::support::{
    Ended, Lab, MIB, Rng, Running, assert_same_tree, assert_same_volume, change_image, change_tree,
    make_image, make_tree, run, seed, soak,
};

const CHUNK: u64 = 64 << 10;

fn copy(from: &Path, to: &Path) {
    run("cp", &["-a".as_ref(), "--sparse=auto".as_ref(), from.as_os_str(), to.as_os_str()]);
}

/// What snapshots must give, by id.
type Truths = BTreeMap<String, PathBuf>;

fn id_of(ended: &Ended) -> String {
    ended.last_json()["snapshot"].as_str().unwrap().to_owned()
}

/// Every snapshot that is listed restores to what it was made of.
fn check(lab: &Lab, truths: &Truths) {
    lab.verify();
    for id in lab.snapshots() {
        let Some(truth) = truths.get(&id) else { continue };
        let back = lab.path("back");
        lab.ok(&["restore", &id, "back"]);
        if truth.is_dir() {
            assert_same_tree(truth, &back);
            fs::remove_dir_all(back).unwrap();
        } else {
            assert_same_volume(truth, &back, CHUNK);
            fs::remove_file(back).unwrap();
        }
    }
}

fn rounds() -> u32 {
    if soak() { 20 } else { 4 }
}

#[test]
fn two_backups_a_forget_and_a_prune_at_once_leave_every_snapshot_whole() {
    let mut rng = Rng::new(seed("race"));
    let lab = Lab::new();
    make_image(&lab.path("one"), rng.number(), 24 * MIB);
    copy(&lab.path("one"), &lab.path("two"));
    make_tree(&lab.path("tree"), rng.number(), 80);
    let mut truths = Truths::new();
    for round in 0..rounds() {
        // What one drops the other may still have: chunks change hands while they are collected.
        let (giver, taker) = if round % 2 == 0 { ("one", "two") } else { ("two", "one") };
        let (count, len) = (rng.below(80), 4096 << rng.below(6));
        fs::remove_file(lab.path(taker)).unwrap();
        copy(&lab.path(giver), &lab.path(taker));
        change_image(&lab.path(giver), &mut rng, count, len);
        change_tree(&lab.path("tree"), &mut rng);
        let mut backups = Vec::new();
        for (name, source) in [("one", "one"), ("two", "two"), ("tree", "tree"), ("one", "one")] {
            // Some on this machine's cache, some as if on another machine.
            let cache = *rng.pick(&["cache-1", "cache-2"]);
            let every = *rng.pick(&["0", "30"]);
            let mut line = vec!["backup", source, "--name", name, "--json"];
            line.extend(["--cache-dir", cache, "--checkpoint-seconds", every]);
            backups.push((source, lab.start(&line)));
        }
        let forget = lab.start(&["forget", "--keep-last", "2"]);
        let prune = lab.start(&["prune", "--max-repack", "100%", "--json"]);
        for (source, backup) in backups {
            let id = id_of(&backup.wait().expect(0));
            let truth = lab.path(format!("truth-{id}"));
            copy(&lab.path(source), &truth);
            truths.insert(id, truth);
        }
        forget.wait().expect(0);
        println!("round {round}: {}", prune.wait().expect(0).last_json());
        check(&lab, &truths);
        let listed = lab.snapshots();
        for (id, truth) in truths.extract_if(.., |id, _| !listed.contains(id)) {
            println!("{id} was forgotten");
            if truth.is_dir() {
                fs::remove_dir_all(truth).unwrap();
            } else {
                fs::remove_file(truth).unwrap();
            }
        }
    }
    lab.assert_tidy();
    check(&lab, &truths);
}

#[test]
fn two_prunes_at_once_do_what_one_does() {
    let lab = Lab::new();
    let mut truths = Truths::new();
    let mut rng = Rng::new(seed("two prunes"));
    make_image(&lab.path("disk"), rng.number(), 16 * MIB);
    for round in 0..rounds() {
        change_image(&lab.path("disk"), &mut rng, 30, 65536);
        let id = id_of(&lab.ok(&["backup", "disk", "--name", "disk", "--json"]));
        let truth = lab.path(format!("truth-{round}"));
        copy(&lab.path("disk"), &truth);
        truths.insert(id, truth);
        lab.ok(&["forget", "--keep-last", "1"]);
        let prunes: Vec<Running> = ["cache-1", "cache-1", "cache-2"]
            .into_iter()
            .map(|cache| lab.start(&["prune", "--max-repack", "100%", "--cache-dir", cache]))
            .collect();
        for prune in prunes {
            prune.wait().expect(0);
        }
        check(&lab, &truths);
    }
    lab.assert_tidy();
    check(&lab, &truths);
}

#[test]
fn a_key_rotation_during_a_backup_disturbs_neither() {
    let lab = Lab::new();
    make_image(&lab.path("disk"), 9, 32 * MIB);
    let line = ["backup", "disk", "--bandwidth", "16M", "--checkpoint-seconds", "0", "--json"];
    let backup = lab.start(&line);
    // Once it has committed a checkpoint it is in the middle.
    while lab.stored().get("com").map_or(0, BTreeMap::len) == 0 && !backup.has_ended() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    fs::write(lab.path("new-key"), [9; 40]).unwrap();
    lab.ok(&["key", "rotate", "--new-key-file", "new-key"]);
    backup.wait().expect(0);
    lab.run(&["snapshots"]).expect(1).says(&["opens none of the 1 key slots"]);
    fs::rename(lab.path("new-key"), lab.path("key")).unwrap();
    lab.verify();
    lab.ok(&["restore", "latest", "back"]);
    assert_same_volume(&lab.path("disk"), &lab.path("back"), CHUNK);
    lab.ok(&["backup", "disk"]);
    lab.verify();
    lab.assert_tidy();
}

#[test]
fn a_restore_that_began_before_its_snapshot_was_forgotten_ends_well() {
    let lab = Lab::new();
    tests::support::noise_file(&lab.path("disk"), 10, 96 * MIB);
    make_tree(&lab.path("tree"), 10, 300);
    for round in 0..rounds() {
        let disk = id_of(&lab.ok(&["backup", "disk", "--json"]));
        let tree = id_of(&lab.ok(&["backup", "tree", "--json"]));
        let restores = [
            lab.start(&["restore", &disk, "disk-back"]),
            lab.start(&["restore", &tree, "tree-back"]),
        ];
        // Until both have pinned their snapshot, forgetting it is simply first.
        let pinned = || lab.stored().get("ses").map_or(0, BTreeMap::len);
        while pinned() < 4 && !restores.iter().all(Running::has_ended) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        lab.ok(&["forget", &disk, &tree]);
        for _ in 0..2 {
            lab.ok(&["prune"]);
        }
        for restore in restores {
            restore.wait().expect(0);
        }
        assert_same_volume(&lab.path("disk"), &lab.path("disk-back"), CHUNK);
        assert_same_tree(&lab.path("tree"), &lab.path("tree-back"));
        fs::remove_file(lab.path("disk-back")).unwrap();
        fs::remove_dir_all(lab.path("tree-back")).unwrap();
        lab.assert_tidy();
        assert_eq!(lab.pack_bytes(), 0, "round {round}");
    }
}

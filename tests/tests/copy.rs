//! `salvor copy`: what comes out of a copy, what a further one costs, and what happens when it is
//! killed, or when either side is damaged, full, gone, or pruned meanwhile.
#![expect(clippy::unwrap_used, reason = "a failure is a panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tests::support::s3::{Bucket, bucket};
use tests::support::{
    Ended, Lab, MIB, Mount, Rng, Running, assert_same_tree, assert_same_volume, change_image,
    change_tree, make_image, make_tree, noise_file, privileged, run, seed, soak,
};

const CHUNK: u64 = 64 << 10;

/// A repository and one that is to hold the same, with keys of its own and on another machine.
struct Pair {
    primary: Lab,
    standby: Lab,
    /// Snapshots of the primary, and copies of what they were made of.
    saved: Vec<(String, PathBuf)>,
}

impl Pair {
    fn new() -> Self {
        let standby = Lab::bare();
        fs::write(standby.path("key"), [9; 64]).unwrap();
        // Another chunk length than that of the primary.
        standby.ok(&["init", "--chunk-size", "1M"]);
        Self { primary: Lab::new(), standby, saved: Vec::new() }
    }

    /// Words for the program.
    fn line(&self, more: &[&str]) -> Vec<String> {
        let (to, key) = (self.standby.repo().to_owned(), self.standby.path("key"));
        let words = ["copy".as_ref(), "--to".as_ref(), to.as_os_str(), "--to-key-file".as_ref()];
        let words =
            words.into_iter().chain([key.as_os_str()]).chain(more.iter().map(AsRef::as_ref));
        words.map(|word| word.to_str().unwrap().to_owned()).collect()
    }

    fn try_copy(&self, more: &[&str]) -> Ended {
        self.primary.run(&self.line(more))
    }

    /// The summary of a copy that must end well.
    #[track_caller]
    fn copy(&self, more: &[&str]) -> Value {
        self.primary.json(&self.line(more))
    }

    /// Backs up what is at `name` and remembers it.
    fn back_up(&mut self, name: &str) -> String {
        let ended = self.primary.json(&["backup", name, "--name", name]);
        let id = ended["snapshot"].as_str().unwrap().to_owned();
        let truth = self.primary.path(format!("truth-{id}"));
        let source = self.primary.path(name);
        run("cp", &["-a".as_ref(), "--sparse=auto".as_ref(), source.as_os_str(), truth.as_ref()]);
        self.saved.push((id.clone(), truth));
        id
    }

    /// The snapshot of the standby that is a copy of `id`.
    fn copy_of(&self, id: &str) -> Option<String> {
        let list = self.standby.json(&["snapshots"]);
        let rows = list["snapshots"].as_array().unwrap();
        let is_copy = |row: &&Value| {
            row["tags"]["copied-from"].as_str().is_some_and(|tag| tag.ends_with(&format!("/{id}")))
        };
        let row = rows.iter().find(is_copy)?;
        Some(row["snapshot"].as_str().unwrap().to_owned())
    }

    /// The standby gives back every snapshot bit by bit.
    #[track_caller]
    fn check(&self) {
        self.standby.verify();
        for (id, truth) in &self.saved {
            let copy = self.copy_of(id).unwrap_or_else(|| panic!("{id} was not copied"));
            let back = self.standby.path("back");
            self.standby.ok(&["restore", &copy, "back"]);
            compare(truth, &back);
        }
    }
}

#[track_caller]
fn compare(truth: &Path, back: &Path) {
    if truth.is_dir() {
        assert_same_tree(truth, back);
        fs::remove_dir_all(back).unwrap();
    } else {
        assert_same_volume(truth, back, CHUNK);
        fs::remove_file(back).unwrap();
    }
}

fn number(object: &Value, key: &str) -> u64 {
    object[key].as_u64().unwrap_or_else(|| panic!("{key} is missing from {object}"))
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

#[test]
fn what_is_restored_from_a_copy_is_what_was_backed_up_and_a_second_copy_moves_nothing() {
    let mut rng = Rng::new(seed("copy"));
    let mut pair = Pair::new();
    make_image(&pair.primary.path("disk"), rng.number(), 40 * MIB);
    make_tree(&pair.primary.path("tree"), rng.number(), 150);
    for _ in 0..3 {
        pair.back_up("disk");
        pair.back_up("tree");
        change_image(&pair.primary.path("disk"), &mut rng, 20, CHUNK);
        change_tree(&pair.primary.path("tree"), &mut rng);
    }
    let first = pair.copy(&[]);
    assert_eq!((number(&first, "copied"), number(&first, "present")), (6, 0));
    pair.check();
    let before = pair.standby.stored();
    let second = pair.copy(&[]);
    assert_eq!((number(&second, "copied"), number(&second, "present")), (0, 6));
    for moved in ["fetched_bytes", "manifest_bytes", "stored_bytes"] {
        assert_eq!(number(&second, moved), 0, "{moved}");
    }
    assert_eq!(pair.standby.stored(), before);
    pair.standby.assert_tidy();
    pair.primary.assert_tidy();
}

#[test]
fn a_copy_of_a_copy_and_the_way_back_give_the_same() {
    let mut pair = Pair::new();
    make_image(&pair.primary.path("disk"), 5, 10 * MIB);
    make_tree(&pair.primary.path("tree"), 6, 40);
    pair.back_up("disk");
    pair.back_up("tree");
    pair.copy(&[]);
    // Back: everything is there.
    let to_primary = |to: &Lab, more: &[&str]| {
        let (repo, key) = (to.repo().to_str().unwrap().to_owned(), to.path("key"));
        let line = ["copy", "--to", &repo, "--to-key-file", key.to_str().unwrap()];
        pair.standby.json(&[&line, more].concat())
    };
    assert_eq!(number(&to_primary(&pair.primary, &[]), "present"), 2);
    // What the primary lost comes back.
    pair.primary.ok(&["forget", &pair.saved[0].0]);
    pair.primary.ok(&["prune"]);
    pair.primary.ok(&["prune"]);
    let back = to_primary(&pair.primary, &[]);
    assert_eq!((number(&back, "copied"), number(&back, "present")), (1, 1));
    pair.primary.ok(&["restore", "disk@latest", "back"]);
    compare(&pair.saved[0].1, &pair.primary.path("back"));
    // To a third, of which the primary then lacks nothing.
    let third = Lab::new();
    assert_eq!(number(&to_primary(&third, &["--name", "tree"]), "copied"), 1);
    third.ok(&["restore", "tree@latest", "back"]);
    compare(&pair.saved[1].1, &third.path("back"));
    third.verify();
}

#[test]
fn an_incremental_copy_costs_what_changed_also_on_a_machine_that_never_copied() {
    let mut rng = Rng::new(seed("incremental copy"));
    let mut pair = Pair::new();
    noise_file(&pair.primary.path("disk"), rng.number(), 192 * MIB);
    make_tree(&pair.primary.path("tree"), rng.number(), 400);
    pair.back_up("disk");
    pair.back_up("tree");
    let whole = pair.copy(&[]);
    for cache in [None, Some("another-cache")] {
        change_image(&pair.primary.path("disk"), &mut rng, 4, CHUNK);
        fs::write(pair.primary.path("tree/file-new"), rng.noise(100_000)).unwrap();
        pair.back_up("disk");
        pair.back_up("tree");
        let more = cache.map_or(vec![], |cache| vec!["--cache-dir", cache]);
        let copied = pair.copy(&more);
        println!("{whole}\n{copied}");
        assert_eq!(number(&copied, "copied"), 2);
        let changed = 4 * CHUNK + 100_000;
        // Ranges are on a grid of 64 KiB; files of a changed tree page may be read again.
        let fetched = number(&copied, "fetched_bytes");
        assert!(fetched <= 4 * changed + 4 * MIB, "{fetched} bytes were read for {changed}");
        let stored = number(&copied, "stored_bytes");
        assert!(stored <= 2 * changed + MIB, "{stored} bytes were stored for {changed}");
        let manifest = number(&copied, "manifest_bytes");
        assert!(manifest <= 2 * number(&whole, "manifest_bytes"), "{manifest} bytes of manifest");
    }
    pair.check();
}

#[test]
fn a_copy_killed_three_times_is_identical_and_nothing_is_copied_twice_beyond_a_checkpoint() {
    let mut rng = Rng::new(seed("killed copy"));
    let mut pair = Pair::new();
    let size = 160 * MIB;
    noise_file(&pair.primary.path("disk"), rng.number(), size);
    make_tree(&pair.primary.path("tree"), rng.number(), 100);
    pair.back_up("tree");
    pair.back_up("disk");
    pair.back_up("disk");
    // A checkpoint every 100 ms; 40 MiB a second.
    let slow = ["--bandwidth", "40M", "--checkpoint-seconds", "0"];
    for kill in 0..3 {
        let running = pair.primary.start(&pair.line(&slow));
        let enough = pair.standby.pack_bytes() + 14 * MIB;
        until("a part of the copy", || pair.standby.pack_bytes() >= enough);
        std::thread::sleep(Duration::from_millis(rng.below(400)));
        let (killed, ended) = running.kill_after(Duration::ZERO);
        assert!(killed, "it ended before kill {kill}: {ended}");
    }
    // What one kill may cost: what was on its way, and what was stored since the checkpoint.
    let slack = 3 * 14 * MIB;
    let before = pair.standby.pack_bytes();
    let last = pair.copy(&["--checkpoint-seconds", "0"]);
    println!("{before} bytes before; {last}");
    let whole = pair.primary.pack_bytes();
    let fetched = number(&last, "fetched_bytes");
    assert!(fetched + before <= whole + slack, "{fetched} bytes were read after {before}");
    let stored = pair.standby.pack_bytes();
    assert!(stored <= whole + slack, "{stored} bytes are stored for {whole}");
    pair.check();
    pair.standby.assert_tidy();
    assert!(pair.standby.pack_bytes() <= whole + 8 * MIB);
}

/// A copy from one lab's repository to another's, wherever these are.
fn between(from: &Lab, to: &Lab, bucket: &Bucket, more: &[&str]) -> Command {
    let (repo, key) = (to.repo().to_str().unwrap().to_owned(), to.path("key"));
    let line = ["copy", "--json", "--to", &repo, "--to-key-file", key.to_str().unwrap()];
    let mut command = from.command(&[&line, more].concat());
    command.envs(bucket.environment());
    command
}

/// Copies `size_bytes` of noise, and is killed after each quarter. Returns what was fetched in
/// vain.
fn copy_through_three_kills(from: &Lab, to: &Lab, bucket: &Bucket, slow: &[&str]) -> u64 {
    let whole = from.pack_bytes();
    for quarter in 1..4 {
        let running = Running::start(between(from, to, bucket, slow));
        let enough = || to.pack_bytes() >= whole / 4 * quarter;
        until("a quarter of the copy", || enough() || running.has_ended());
        let (killed, ended) = running.kill_after(Duration::ZERO);
        assert!(killed, "it ended before kill {quarter}: {ended}");
    }
    let before = to.pack_bytes();
    let last = Running::start(between(from, to, bucket, &[])).wait().expect(0).last_json();
    let fetched = number(&last, "fetched_bytes");
    println!("{before} of {whole} bytes were stored when it was killed last; then: {last}");
    (before + fetched).saturating_sub(whole)
}

#[test]
fn a_copy_into_a_bucket_and_back_is_identical_however_often_it_is_killed() {
    let bucket = bucket();
    let (size, slow, slack) = if soak() {
        (5 << 30, ["--checkpoint-seconds", "1", "--bandwidth", "1G"], 3 * 512 * MIB)
    } else {
        (96 * MIB, ["--checkpoint-seconds", "0", "--bandwidth", "30M"], 3 * 14 * MIB)
    };
    let (here, back) = (Lab::new(), Lab::bare());
    noise_file(&here.path("disk"), 8, size);
    let id = here.json(&["backup", "disk", "--name", "disk"])["snapshot"].clone();
    let there = Lab::in_bucket(&bucket, "there-and-back");
    for (lab, byte) in [(&there, 7), (&back, 8)] {
        fs::write(lab.path("key"), [byte; 64]).unwrap();
        lab.ok(&["init", "--chunk-size", "64K"]);
    }
    for (from, to) in [(&here, &there), (&there, &back)] {
        let in_vain = copy_through_three_kills(from, to, &bucket, &slow);
        assert!(in_vain <= slack, "{in_vain} bytes were copied twice");
        to.verify();
        to.assert_tidy();
        assert!(to.pack_bytes() <= from.pack_bytes() * 11 / 10 + 8 * MIB);
    }
    back.ok(&["restore", "disk@latest", "back"]);
    assert_same_volume(&here.path("disk"), &back.path("back"), CHUNK);
    // The way home is known: nothing comes twice.
    let home = Running::start(between(&back, &here, &bucket, &[])).wait().expect(0).last_json();
    assert_eq!((number(&home, "copied"), number(&home, "present")), (0, 1), "{id}: {home}");
}

#[test]
fn an_interrupted_copy_keeps_what_it_stored_and_says_how_to_go_on() {
    let mut pair = Pair::new();
    noise_file(&pair.primary.path("disk"), 3, 64 * MIB);
    pair.back_up("disk");
    let running = pair.primary.start(&pair.line(&["--bandwidth", "20M"]));
    std::thread::sleep(Duration::from_millis(1500));
    let asked = Instant::now();
    running.signal(Signal::INT);
    running.wait().expect(130).says(&["interrupted", "same command again"]);
    assert!(asked.elapsed() < Duration::from_secs(10));
    let last = pair.copy(&[]);
    let fetched = number(&last, "fetched_bytes");
    assert!(fetched < 55 * MIB, "{fetched} bytes were read again");
    pair.check();
    pair.standby.assert_tidy();
}

#[test]
fn progress_is_told_every_second_and_rises_to_no_more_than_its_total() {
    let mut pair = Pair::new();
    noise_file(&pair.primary.path("disk"), 3, 48 * MIB);
    pair.back_up("disk");
    make_tree(&pair.primary.path("tree"), 4, 50);
    pair.back_up("tree");
    let slow = pair.try_copy(&["--json", "--progress", "--bandwidth", "16M"]).expect(0);
    let lines = slow.json_lines();
    let lines: Vec<_> = lines.iter().filter(|line| line["type"] == "progress").collect();
    assert!(lines.len() >= 2, "{slow}");
    let mut last = 0;
    for line in lines {
        let (done, total) = (number(line, "done"), number(line, "total"));
        assert!(last <= done && done <= total && total >= 48 * MIB, "{line}");
        assert_eq!(number(&line["counters"], "snapshots"), 2);
        last = done;
    }
    assert!(last > 8 * MIB);
    pair.check();
}

#[test]
fn a_source_that_may_not_be_written_to_is_copied_all_the_same() {
    if !privileged("a read-only mount") {
        return;
    }
    let mut pair = Pair::new();
    make_image(&pair.primary.path("disk"), 8, 8 * MIB);
    pair.back_up("disk");
    let mount = Mount::read_only(&pair.primary.path("read-only"), pair.primary.repo());
    let copied = pair.copy(&["--repo", mount.path.to_str().unwrap()]);
    assert_eq!(number(&copied, "copied"), 1);
    pair.check();
}

/// The packs that a command adds to a lab's repository.
fn new_packs(lab: &Lab, act: impl FnOnce()) -> Vec<PathBuf> {
    let before = lab.stored();
    act();
    let after = lab.stored();
    let new =
        after["p"].keys().filter(|name| !before.get("p").is_some_and(|p| p.contains_key(*name)));
    new.map(|name| lab.repo().join("p").join(name)).collect()
}

#[test]
fn a_snapshot_that_is_damaged_in_the_source_is_named_and_the_others_are_copied() {
    let mut pair = Pair::new();
    make_image(&pair.primary.path("disk"), 1, 8 * MIB);
    make_tree(&pair.primary.path("tree"), 2, 30);
    pair.back_up("disk");
    noise_file(&pair.primary.path("other"), 9, 4 * MIB);
    let primary = &pair.primary;
    let mut bad = String::new();
    let packs = new_packs(primary, || {
        let ended = primary.json(&["backup", "other", "--name", "other"]);
        bad = ended["snapshot"].as_str().unwrap().to_owned();
    });
    for pack in packs {
        for offset in (4096..fs::metadata(&pack).unwrap().len()).step_by(30_000) {
            overwrite(&pack, offset, b"damage");
        }
    }
    pair.back_up("tree");
    for _ in 0..2 {
        let ended = pair.try_copy(&["--json"]).expect(4);
        let ended = ended.says(&[&bad[..12], "other", "was not copied"]);
        let summary = ended.last_json();
        assert_eq!(number(&summary, "copied") + number(&summary, "present"), 2);
        assert_eq!(summary["damaged"][0]["snapshot"], bad.as_str());
    }
    pair.check();
    // Once it is given up, nothing of it stays.
    pair.primary.ok(&["forget", &bad]);
    pair.copy(&[]);
    pair.standby.assert_tidy();
    assert!(pair.standby.pack_bytes() < 10 * MIB);
}

#[test]
fn a_target_that_cannot_be_used_is_named_and_the_source_is_left_alone() {
    let mut pair = Pair::new();
    make_image(&pair.primary.path("disk"), 1, 4 * MIB);
    pair.back_up("disk");
    let before = pair.primary.stored();
    let primary = &pair.primary;
    primary.run(&["copy", "--to", "nowhere"]).expect(1).says(&["nowhere", "does not exist"]);
    let standby = pair.standby.repo().to_str().unwrap();
    primary.run(&["copy", "--to", standby]).expect(1).says(&["opens none of", standby]);
    let own = primary.repo().to_str().unwrap();
    primary.run(&["copy", "--to", own]).expect(2).says(&["copied from"]);
    primary.run(&["copy"]).expect(2).says(&["--to"]);
    pair.try_copy(&["nothing"]).expect(1).says(&["no snapshot matches"]);
    pair.primary.run(&["backup", "disk", "--tag", "copied-from=a/b"]).expect(2).says(&["reserved"]);
    assert_eq!(primary.stored(), before);
    // Damage in the target is not taken for damage in the source.
    pair.copy(&[]);
    let catalogs = pair.standby.stored()["cat"].clone();
    for name in catalogs.keys() {
        overwrite(&pair.standby.repo().join("cat").join(name), 40, b"damage");
    }
    pair.back_up("disk");
    let ended = pair.try_copy(&["--json"]).expect(4);
    assert_eq!(ended.last_json()["type"], "error");
}

#[test]
fn a_full_target_fails_the_copy_and_with_more_space_it_goes_on() {
    if !privileged("a file system that fills up") {
        return;
    }
    let mut pair = Pair::new();
    noise_file(&pair.primary.path("disk"), 4, 48 * MIB);
    pair.back_up("disk");
    let place = pair.standby.path("small");
    let mount = Mount::memory(&place, 32 * MIB);
    let repo = place.join("repo");
    let to = repo.to_str().unwrap();
    let primary = &pair.primary;
    primary.ok(&["init", "--repo", to]);
    // Slowly, so that there are checkpoints before it is full.
    let line = ["copy", "--to", to, "--checkpoint-seconds", "0", "--bandwidth", "40M"];
    primary.run(&line).expect(1).says(&["no space left"]);
    run("mount", &["-o", "remount,size=200M", mount.path.to_str().unwrap()]);
    let copied = primary.json(&line);
    let fetched = number(&copied, "fetched_bytes");
    assert!(fetched < 47 * MIB, "{fetched} bytes: nothing was kept");
    primary.ok(&["restore", "--repo", to, "disk@latest", "back"]);
    compare(&pair.saved[0].1, &primary.path("back"));
}

#[test]
fn prunes_of_both_sides_while_a_copy_runs_take_nothing_that_it_needs() {
    let mut rng = Rng::new(seed("prunes beside a copy"));
    let mut pair = Pair::new();
    make_image(&pair.primary.path("disk"), rng.number(), 24 * MIB);
    make_tree(&pair.primary.path("tree"), rng.number(), 60);
    for round in 0..if soak() { 20 } else { 3 } {
        for _ in 0..2 {
            change_image(&pair.primary.path("disk"), &mut rng, 60, CHUNK);
            change_tree(&pair.primary.path("tree"), &mut rng);
            pair.back_up("disk");
            pair.back_up("tree");
        }
        let every = *rng.pick(&["0", "30"]);
        let copy = pair.primary.start(&pair.line(&[
            "--json",
            "--bandwidth",
            "30M",
            "--checkpoint-seconds",
            every,
        ]));
        // Both sides forget what the copy before has brought, and collect it at once.
        let mut prunes: Vec<Running> = Vec::new();
        for lab in [&pair.primary, &pair.standby] {
            std::thread::sleep(Duration::from_millis(rng.below(300)));
            drop(lab.run(&["forget", "--keep-last", "2"]).expect(0));
            for _ in 0..2 {
                prunes.push(lab.start(&["prune", "--max-repack", "100%", "--cache-dir", "other"]));
            }
        }
        for prune in prunes {
            prune.wait().expect(0);
        }
        println!("round {round}: {}", copy.wait().expect(0).last_json());
        let kept = pair.primary.snapshots();
        pair.saved.retain(|(id, _)| kept.contains(id));
        pair.copy(&[]);
        pair.check();
    }
    pair.primary.verify();
    for lab in [&pair.primary, &pair.standby] {
        lab.assert_tidy();
    }
}

#[test]
fn two_copies_at_once_do_what_one_does() {
    let mut pair = Pair::new();
    make_image(&pair.primary.path("disk"), 8, 24 * MIB);
    make_tree(&pair.primary.path("tree"), 9, 60);
    pair.back_up("disk");
    pair.back_up("tree");
    let start = || pair.primary.start(&pair.line(&["--json", "--checkpoint-seconds", "0"]));
    let copies = [start(), start()];
    for copy in copies {
        println!("{}", copy.wait().expect(0));
    }
    pair.check();
    assert_eq!(number(&pair.copy(&[]), "present"), 2);
    pair.standby.assert_tidy();
}

/// Waits until something is so.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let late = Instant::now() + Duration::from_mins(10);
    while !is_so() {
        assert!(Instant::now() < late, "{what}: not within ten minutes");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_standby_follows_its_source_shows_its_lag_and_outlives_a_target_that_was_away() {
    let mut pair = Pair::new();
    make_image(&pair.primary.path("disk"), 1, 8 * MIB);
    make_tree(&pair.primary.path("tree"), 2, 30);
    pair.back_up("disk");
    let watching = pair.primary.start(&pair.line(&["--watch", "500ms", "--json"]));
    let mut rng = Rng::new(7);
    let is_copied = |pair: &Pair| pair.saved.iter().all(|(id, _)| pair.copy_of(id).is_some());
    until("the first copy", || is_copied(&pair));
    change_image(&pair.primary.path("disk"), &mut rng, 5, CHUNK);
    pair.back_up("disk");
    pair.back_up("tree");
    until("the second copy", || is_copied(&pair));
    // The target is not what it was for a while, and the source moves on.
    let (catalogs, away) = (pair.standby.repo().join("cat"), pair.standby.path("away"));
    fs::rename(&catalogs, &away).unwrap();
    change_image(&pair.primary.path("disk"), &mut rng, 5, CHUNK);
    pair.back_up("disk");
    std::thread::sleep(Duration::from_secs(2));
    assert!(!watching.has_ended());
    drop(fs::remove_dir(&catalogs));
    fs::rename(&away, &catalogs).unwrap();
    until("the copy after the trouble", || is_copied(&pair));
    // What the standby forgets by itself stays forgotten.
    pair.standby.ok(&["forget", "--keep-last", "1"]);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(pair.standby.snapshots().len(), 2);
    watching.signal(Signal::TERM);
    let ended = watching.wait().expect(0);
    let lines = ended.json_lines();
    let of_type = |kind: &str| lines.iter().filter(|line| line["type"] == kind).collect::<Vec<_>>();
    let lags = of_type("lag");
    assert!(
        lags.iter()
            .any(|lag| number(lag, "missing") > 0 && lag["lag_seconds"].as_f64() > Some(0.0))
    );
    let last = lags.last().unwrap();
    assert_eq!((number(last, "missing"), last["lag_seconds"].as_f64()), (0, Some(0.0)), "{last}");
    assert!(last["newest_seconds"].as_f64() > Some(1.0), "{last}");
    assert_eq!(last["names"].as_array().unwrap().len(), 2);
    assert_eq!(of_type("copied").len(), 4);
    assert!(!of_type("trouble").is_empty(), "{ended}");
    let mut saved = std::mem::take(&mut pair.saved);
    saved.retain(|(id, _)| pair.copy_of(id).is_some());
    pair.saved = saved;
    assert_eq!(pair.saved.len(), 2);
    pair.check();
}

#[test]
fn a_standby_that_is_stopped_in_the_middle_of_a_copy_keeps_what_it_has() {
    let mut pair = Pair::new();
    noise_file(&pair.primary.path("disk"), 3, 64 * MIB);
    pair.back_up("disk");
    let watching = pair.primary.start(&pair.line(&["--watch", "1s", "--bandwidth", "20M"]));
    std::thread::sleep(Duration::from_millis(1500));
    watching.signal(Signal::TERM);
    watching.wait().expect(0).says(&["goes on from there"]);
    let fetched = number(&pair.copy(&[]), "fetched_bytes");
    assert!(fetched < 55 * MIB, "{fetched} bytes were read again");
    pair.check();
}

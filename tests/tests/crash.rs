//! What `kill -9` at any moment leaves: nothing that was reported saved is lost, the next run
//! goes on, and a prune reclaims the rest.
#![expect(clippy::unwrap_used, reason = "a failure is a panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tests::support::s3::{Bucket, bucket};
use tests::support::s3proxy::{Fault, Orders, PASSING, Proxy};
use tests::support::{
    Ended, Lab, MIB, Rng, assert_same_tree, assert_same_volume, change_image, change_tree,
    make_image, make_tree, noise_file, run, seed, soak,
};

const CHUNK: u64 = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    BackUpImage,
    BackUpTree,
    RestoreImage,
    RestoreTree,
    Forget,
    Prune,
}

const ACTS: [Act; 6] = [
    Act::BackUpImage,
    Act::BackUpTree,
    Act::RestoreImage,
    Act::RestoreTree,
    Act::Forget,
    Act::Prune,
];

/// A snapshot that a run reported as saved, and a copy of what it was made of.
#[derive(Debug, Clone)]
struct Saved {
    id: String,
    truth: PathBuf,
    is_tree: bool,
}

/// A repository in use, and what it must be able to give back.
struct Scene {
    lab: Lab,
    rng: Rng,
    saved: Vec<Saved>,
    copies: u32,
    kills: u32,
    /// How long an act takes that is let run to its end, by act.
    usual: [Duration; 6],
}

impl Scene {
    /// * `lab`: with an empty repository.
    fn new(lab: Lab, seed: u64, image_bytes: u64, files: u64) -> Self {
        make_image(&lab.path("disk"), seed, image_bytes);
        make_tree(&lab.path("tree"), seed, files);
        let usual = [Duration::from_millis(400); 6];
        let rng = Rng::new(seed);
        let mut scene = Self { lab, rng, saved: Vec::new(), copies: 0, kills: 0, usual };
        for act in [Act::BackUpImage, Act::BackUpTree] {
            let line = scene.backup_line(act);
            let ended = scene.lab.ok(&line);
            scene.remember(act, &ended);
        }
        scene
    }

    /// Words to give to the program.
    fn backup_line(&mut self, act: Act) -> Vec<String> {
        let name = if act == Act::BackUpTree { "tree" } else { "disk" };
        let every = *self.rng.pick(&["0", "1", "30"]);
        let words = ["backup", name, "--name", name, "--json", "--checkpoint-seconds", every];
        words.map(str::to_owned).to_vec()
    }

    fn remember(&mut self, act: Act, ended: &Ended) {
        let id = ended.last_json()["snapshot"].as_str().unwrap().to_owned();
        let is_tree = act == Act::BackUpTree;
        let source = self.lab.path(if is_tree { "tree" } else { "disk" });
        self.copies += 1;
        let truth = self.lab.path(format!("truth-{}", self.copies));
        run("cp", &["-a".as_ref(), "--sparse=auto".as_ref(), source.as_os_str(), truth.as_ref()]);
        self.saved.push(Saved { id, truth, is_tree });
    }

    fn pick_saved(&mut self, is_tree: bool) -> Saved {
        let fitting: Vec<Saved> =
            self.saved.iter().filter(|saved| saved.is_tree == is_tree).cloned().collect();
        self.rng.pick(&fitting).clone()
    }

    /// Does one thing, kills it half-way, and lets it be done again. Whether it was killed.
    fn act(&mut self, act: Act) -> bool {
        match act {
            Act::BackUpImage | Act::BackUpTree => self.back_up(act),
            Act::RestoreImage | Act::RestoreTree => self.restore(act),
            Act::Forget => self.forget(),
            Act::Prune => self.prune(),
        }
    }

    /// Runs it and kills it at a moment drawn from the time it usually takes.
    fn cut(&mut self, act: Act, line: &[String]) -> bool {
        let usual = self.usual[act as usize];
        let delay = Duration::from_micros(
            self.rng.below(u64::try_from(usual.as_micros()).unwrap() * 11 / 10),
        );
        let (killed, ended) = self.lab.start(line).kill_after(delay);
        println!("{} killed={killed} after {delay:?}", line.join(" "));
        assert!(killed || ended.code.is_some(), "{ended}");
        if killed {
            self.kills += 1;
        }
        killed
    }

    fn again(&mut self, act: Act, line: &[String]) -> Ended {
        let ended = self.lab.run(line);
        self.usual[act as usize] = ended.took;
        ended
    }

    fn back_up(&mut self, act: Act) -> bool {
        if act == Act::BackUpTree {
            change_tree(&self.lab.path("tree"), &mut self.rng);
        } else {
            let (count, len) = (self.rng.below(60), 4096 << self.rng.below(8));
            change_image(&self.lab.path("disk"), &mut self.rng, count, len);
        }
        let line = self.backup_line(act);
        let killed = self.cut(act, &line);
        let ended = self.again(act, &line).expect(0);
        self.remember(act, &ended);
        killed
    }

    fn restore(&mut self, act: Act) -> bool {
        let saved = self.pick_saved(act == Act::RestoreTree);
        let target = self.lab.path("target");
        let mut line = ["restore", &saved.id, "target", "--json"].map(str::to_owned).to_vec();
        let in_place = self.rng.below(3) == 0;
        if in_place {
            let older = self.pick_saved(saved.is_tree);
            run("cp", &["-a".as_ref(), older.truth.as_os_str(), target.as_os_str()]);
            line.push("--in-place".into());
            if saved.is_tree {
                line.push("--delete".into());
            }
        }
        let killed = self.cut(act, &line);
        let ended = self.again(act, &line);
        // It may have been killed when all was done.
        let was_done = !in_place
            && ended.code == Some(1)
            && (ended.stderr.contains("exists already") || ended.stderr.contains("not empty"));
        assert!(ended.code == Some(0) || was_done, "{ended}");
        compare(&saved, &target);
        remove(&target);
        let mark = self.lab.path("target.salvor-restoring");
        assert!(!mark.exists(), "the mark of an unfinished restore was left");
        killed
    }

    fn forget(&mut self) -> bool {
        if self.saved.len() < 5 {
            return false;
        }
        let at = usize::try_from(self.rng.below(self.saved.len() as u64)).unwrap();
        let kind = self.saved[at].is_tree;
        if self.saved.iter().filter(|saved| saved.is_tree == kind).count() < 2 {
            return false;
        }
        let saved = self.saved.remove(at);
        let line = ["forget", &saved.id].map(str::to_owned).to_vec();
        let killed = self.cut(Act::Forget, &line);
        let ended = self.again(Act::Forget, &line);
        let was_done = ended.code == Some(1) && ended.stderr.contains("no snapshot matches");
        assert!(ended.code == Some(0) || was_done, "{ended}");
        remove(&saved.truth);
        killed
    }

    fn prune(&mut self) -> bool {
        let share = *self.rng.pick(&["0%", "10%", "100%"]);
        let line = ["prune", "--max-repack", share, "--json"].map(str::to_owned).to_vec();
        let killed = self.cut(Act::Prune, &line);
        self.again(Act::Prune, &line).expect(0);
        killed
    }

    /// Every snapshot that was reported is listed, all that is stored is sound, and one of them,
    /// or `all`, restores to what it was made of.
    fn check(&mut self, all: bool) {
        let listed = self.lab.snapshots();
        for saved in &self.saved {
            assert!(listed.contains(&saved.id), "{} is not listed any more", saved.id);
        }
        self.lab.verify();
        let chosen =
            if all { self.saved.clone() } else { vec![self.rng.pick(&self.saved).clone()] };
        for saved in chosen {
            let target = self.lab.path("checked");
            self.lab.ok(&["restore", &saved.id, "checked"]);
            compare(&saved, &target);
            remove(&target);
        }
    }
}

#[track_caller]
fn compare(saved: &Saved, copy: &Path) {
    if saved.is_tree {
        assert_same_tree(&saved.truth, copy);
    } else {
        assert_same_volume(&saved.truth, copy, CHUNK);
    }
}

fn remove(path: &Path) {
    if path.is_dir() {
        fs::remove_dir_all(path).unwrap();
    } else {
        fs::remove_file(path).unwrap();
    }
}

/// Kills `wanted` commands at random moments.
fn kill_again_and_again(lab: Lab, wanted: u32, image_bytes: u64, files: u64) {
    let mut scene = Scene::new(lab, seed("crash"), image_bytes, files);
    let mut turns = 0;
    while scene.kills < wanted {
        assert!(turns < 10 * wanted, "the kills come too late: {}", scene.kills);
        let act = ACTS[turns as usize % ACTS.len()];
        if scene.act(act) {
            scene.check(false);
        }
        turns += 1;
    }
    println!("{} kills in {turns} turns", scene.kills);
    scene.check(true);
    scene.lab.assert_tidy();
    scene.check(true);
    for id in scene.lab.snapshots() {
        scene.lab.ok(&["forget", &id]);
    }
    scene.lab.assert_tidy();
    assert_eq!(scene.lab.pack_bytes(), 0, "nothing is needed, and this is left");
}

#[test]
fn a_kill_at_any_moment_loses_nothing_that_was_reported_and_the_next_run_goes_on() {
    let (wanted, image_bytes, files) =
        if soak() { (200, 256 * MIB, 2000) } else { (24, 24 * MIB, 120) };
    kill_again_and_again(Lab::new(), wanted, image_bytes, files);
}

/// An empty repository in a bucket.
fn in_bucket(bucket: &Bucket, test: &str) -> Lab {
    let lab = Lab::in_bucket(bucket, test);
    lab.ok(&["init", "--chunk-size", "64K"]);
    lab
}

#[test]
fn nor_does_it_with_the_repository_in_a_bucket() {
    let (wanted, image_bytes, files) =
        if soak() { (100, 128 * MIB, 1000) } else { (10, 12 * MIB, 60) };
    kill_again_and_again(in_bucket(&bucket(), "crash"), wanted, image_bytes, files);
}

#[test]
fn nor_does_it_while_the_server_fails_now_and_then() {
    let bucket = bucket();
    let Some(endpoint) = bucket.endpoint.clone() else { return };
    let faults: Vec<Fault> = PASSING.into_iter().filter(|fault| *fault != Fault::Late).collect();
    let orders = Orders { one_in: 40, faults, ..Orders::default() };
    let proxy = Proxy::start(&endpoint, seed("crash proxy"), orders);
    let (wanted, image_bytes, files) = if soak() { (50, 32 * MIB, 300) } else { (6, 12 * MIB, 60) };
    let lab = in_bucket(&bucket.through(&proxy.endpoint()), "crash-proxy");
    kill_again_and_again(lab, wanted, image_bytes, files);
}

/// Runs a backup until it has made some checkpoints, and kills it.
#[track_caller]
fn kill_after_checkpoints(lab: &Lab, line: &[&str]) {
    let running = lab.start(line);
    let checkpoints = || lab.stored().get("com").map_or(0, BTreeMap::len);
    while checkpoints() < 4 && !running.has_ended() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let (killed, ended) = running.kill_after(Duration::ZERO);
    assert!(killed, "it was too quick to be killed: {ended}");
}

/// Kills a backup once it has made some checkpoints. What they have is not stored again, and what
/// came after is gone with the next prune.
#[track_caller]
fn assert_goes_on(lab: &Lab, line: &[&str], source_bytes: u64) {
    kill_after_checkpoints(lab, line);
    let kept_bytes = lab.json(&["stats"])["data_bytes"].as_u64().unwrap();
    assert!(lab.snapshots().is_empty(), "a checkpoint is no snapshot");
    let stored_bytes = lab.pack_bytes();
    let second = lab.json(line);
    let new_bytes = second["stored_bytes"].as_u64().unwrap();
    lab.verify();
    lab.assert_tidy();
    let all_bytes = lab.pack_bytes();
    println!(
        "of {source_bytes}, {all_bytes} sealed: {stored_bytes} were stored and {kept_bytes} kept, \
         then {new_bytes} more"
    );
    assert!(kept_bytes > 0, "there was a checkpoint, and it holds nothing");
    // Packs have tables and padding besides the content, and each run has its manifests.
    let slack = all_bytes / 20 + 2 * MIB;
    assert!(new_bytes + kept_bytes <= all_bytes + slack, "{new_bytes} + {kept_bytes}");
}

#[test]
fn a_killed_backup_of_an_image_does_not_store_again_what_a_checkpoint_has() {
    let lab = Lab::new();
    noise_file(&lab.path("disk"), 5, 48 * MIB);
    let line = ["backup", "disk", "--bandwidth", "16M", "--checkpoint-seconds", "0"];
    assert_goes_on(&lab, &line, 48 * MIB);
    lab.ok(&["restore", "latest", "back"]);
    assert_same_volume(&lab.path("disk"), &lab.path("back"), CHUNK);
}

#[test]
fn a_killed_backup_of_a_tree_does_not_store_again_what_a_checkpoint_has() {
    let lab = Lab::new();
    fs::create_dir(lab.path("tree")).unwrap();
    let (mut rng, mut total) = (Rng::new(6), 0);
    for number in 0..120 {
        let len = usize::try_from(1000 + rng.below(600_000)).unwrap();
        fs::write(lab.path(format!("tree/{number}")), rng.text(len)).unwrap();
        total += len as u64;
    }
    let line = ["backup", "tree", "--bandwidth", "10M", "--checkpoint-seconds", "0"];
    assert_goes_on(&lab, &line, total);
    lab.ok(&["restore", "latest", "back"]);
    assert_same_tree(&lab.path("tree"), &lab.path("back"));
}

#[test]
fn what_a_killed_backup_left_is_shown_and_goes_when_nobody_goes_on_from_it() {
    let lab = Lab::new();
    noise_file(&lab.path("disk"), 5, 48 * MIB);
    let line = ["backup", "disk", "--name=disk", "--bandwidth=16M", "--checkpoint-seconds=0"];
    let unfinished = || {
        let listed = lab.json(&["snapshots", "--unfinished"]);
        listed["unfinished"].as_array().unwrap().clone()
    };
    kill_after_checkpoints(&lab, &line);
    let left = unfinished();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!((&left[0]["name"], &left[0]["run"]), (&"disk".into(), &"stopped".into()));
    let young = lab.json(&["prune"]);
    assert_eq!(young["forgotten_checkpoints"], 0, "it may go on for a week");
    assert_eq!(unfinished().len(), 1);

    let would = lab.json(&["prune", "--unfinished-days", "0", "--dry-run"]);
    assert_eq!((&would["forgotten_checkpoints"], &would["needed_bytes"]), (&1.into(), &0.into()));
    assert_eq!(unfinished().len(), 1, "a dry run forgets nothing");
    let done = lab.json(&["prune", "--unfinished-days", "0"]);
    assert_eq!(done["forgotten_checkpoints"], 1, "{done}");
    lab.assert_tidy();
    assert_eq!(lab.pack_bytes(), 0);

    kill_after_checkpoints(&lab, &line);
    let id = unfinished()[0]["snapshot"].as_str().unwrap().to_owned();
    lab.ok(&["forget", &id[..12]]);
    assert!(unfinished().is_empty());
    lab.assert_tidy();
    assert_eq!(lab.pack_bytes(), 0);
}

#[test]
fn what_a_running_backup_has_stored_cannot_be_forgotten_under_it() {
    let lab = Lab::new();
    noise_file(&lab.path("disk"), 5, 48 * MIB);
    let running = lab.start(&["backup", "disk", "--bandwidth", "16M", "--checkpoint-seconds", "0"]);
    while lab.stored().get("com").map_or(0, BTreeMap::len) < 2 && !running.has_ended() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let listed = lab.json(&["snapshots", "--unfinished"]);
    let checkpoint = &listed["unfinished"][0];
    assert_eq!(checkpoint["run"], "running", "{listed}");
    let id = checkpoint["snapshot"].as_str().unwrap();
    // The next checkpoint may have taken its place meanwhile.
    let refused = lab.run(&["forget", id]).expect(1);
    assert!(refused.stderr.contains("stop it first") || refused.stderr.contains("no snapshot"));
    let pruned = lab.json(&["prune", "--unfinished-days", "0"]);
    assert_eq!(pruned["forgotten_checkpoints"], 0, "{pruned}");
    drop(running);
}

#[test]
fn a_reader_leaves_nothing_behind() {
    let lab = Lab::new();
    noise_file(&lab.path("disk"), 5, MIB);
    lab.ok(&["backup", "disk"]);
    let before = lab.names();
    for _ in 0..3 {
        lab.ok(&["restore", "latest", "back"]);
        lab.ok(&["verify", "--read-data"]);
        fs::remove_file(lab.path("back")).unwrap();
    }
    assert_eq!(lab.names(), before);
}

//! Object lock, against a real server: nothing that snapshots need can be destroyed before its
//! time, nothing fails because it is locked, and nothing is left when its time has come.
#![expect(clippy::unwrap_used, reason = "a failure is a panic")]

use std::fs;
use std::path::Path;

use serde_json::Value;
use tests::support::s3::{Bucket, bucket};
use tests::support::s3lock::{Made, Row, clock_s, wait_until};
use tests::support::s3proxy::{Orders, Proxy, Seen};
use tests::support::{
    Lab, MIB, Rng, Running, assert_same_tree, assert_same_volume, change_image, make_image,
    make_tree, noise_file,
};

/// A lab without a repository, in a bucket of its own.
struct Locked {
    lab: Lab,
    bucket: Bucket,
    prefix: String,
}

impl Locked {
    fn new(made: Made, init: &[&str]) -> Self {
        Self::at(bucket().sibling(made), init)
    }

    fn at(bucket: Bucket, init: &[&str]) -> Self {
        let lab = Lab::bare().moved_to(&bucket, "repo");
        lab.ok(&[&["init", "--chunk-size", "64K"], init].concat());
        make_image(&lab.path("disk"), 1, 4 * MIB);
        make_tree(&lab.path("tree"), 1, 12);
        Self { lab, bucket, prefix: "repo".into() }
    }

    fn versions(&self) -> Vec<Row> {
        self.bucket.versions(&self.prefix)
    }

    /// Versions below a folder, markers too.
    fn in_folder(&self, folder: &str) -> Vec<Row> {
        let mut rows = self.versions();
        rows.retain(|row| row.path.starts_with(folder));
        rows
    }

    /// Those that a plain GET finds.
    fn visible(&self) -> Vec<String> {
        let rows = self.versions().into_iter().filter(|row| row.is_latest && !row.is_marker);
        rows.map(|row| row.path).collect()
    }

    fn until(&self, row: &Row) -> i64 {
        self.bucket.retention(&self.prefix, row).unwrap_or_else(|| panic!("no lock: {row:?}")).1
    }

    fn backup(&self, seed: u64) {
        change_image(&self.lab.path("disk"), &mut Rng::new(seed), 6, 200_000);
        self.lab.ok(&["backup", "disk", "--name", "disk"]);
    }

    fn prune(&self) -> Value {
        self.lab.json(&["prune"])["lock"].clone()
    }
}

fn is_lockable(path: &str) -> bool {
    !["ses/", "hb/", "tmp/"].iter().any(|folder| path.starts_with(folder))
}

/// From the first backup to the day when nothing is left, in either mode.
fn lives_and_dies(mode: &str) {
    const KEEP_S: i64 = 15 + 10;
    let began_s = clock_s();
    let init = ["--lock", "15s", "--lock-mode", mode, "--lock-slack", "10s"];
    let locked = Locked::new(Made::Lock, &init);
    let lab = &locked.lab;
    locked.backup(1);
    locked.backup(2);
    lab.ok(&["backup", "tree", "--name", "tree"]);
    for (path, lock) in locked.bucket.locks(&locked.prefix) {
        if is_lockable(&path) {
            let (found, until_s) = lock.unwrap_or_else(|| panic!("{path} is not locked"));
            assert_eq!(found, mode.to_uppercase(), "{path}");
            assert!((began_s + KEEP_S..=clock_s() + KEEP_S).contains(&until_s), "{path}");
        } else {
            assert!(lock.is_none(), "{path} is locked: {lock:?}");
        }
    }
    let packs = locked.in_folder("p/");
    assert!(!locked.bucket.removes(&locked.prefix, &packs[0]), "{:?} was not locked", packs[0]);

    let ids = lab.snapshots();
    lab.ok(&["forget", &ids[0], &ids[1], &ids[2]]);
    let report = locked.prune();
    let last_put_s = packs.iter().map(|row| row.at_s).max().unwrap();
    assert_eq!(report["deferred_packs"].as_u64(), Some(packs.len() as u64), "{report}");
    assert!(report["deferred_until_s"].as_i64().unwrap() >= last_put_s + KEEP_S, "{report}");
    assert!(report.get("trouble").is_none_or(Value::is_null), "{report}");
    // For the repository they are gone; in the bucket they are all there.
    assert!(lab.stored()["p"].is_empty());
    let there: Vec<Row> = locked.in_folder("p/").into_iter().filter(|row| !row.is_marker).collect();
    assert_eq!(there.len(), packs.len());
    let text = lab.ok(&["prune"]).stdout;
    assert!(text.contains("still locked") && text.contains("until"), "{text}");

    // When the time has come, some prunes see to it that nothing of them is left.
    for _ in 0..4 {
        let report = locked.prune();
        let packs = report["deferred_packs"].as_u64().unwrap();
        if packs == 0 && locked.in_folder("p/").is_empty() && locked.in_folder("x/").is_empty() {
            break;
        }
        wait_until(report["deferred_until_s"].as_i64().unwrap_or(0));
    }
    assert!(locked.in_folder("p/").is_empty(), "{:?}", locked.in_folder("p/"));
    assert!(locked.in_folder("x/").is_empty(), "{:?}", locked.in_folder("x/"));
    assert!(locked.in_folder("ses/").is_empty(), "{:?}", locked.in_folder("ses/"));
    lab.verify();
    locked.backup(3);
    lab.verify();
    assert_eq!(lab.snapshots().len(), 1);
}

#[test]
fn a_bucket_in_compliance_mode_works_from_the_first_backup_to_the_last_expiry() {
    lives_and_dies("compliance");
}

#[test]
fn a_bucket_in_governance_mode_works_from_the_first_backup_to_the_last_expiry() {
    lives_and_dies("governance");
}

#[test]
fn what_a_snapshot_needs_is_locked_anew_and_what_none_needs_is_not() {
    const PERIOD_S: i64 = 20;
    let init = ["--lock", "20s", "--lock-slack", "8s"];
    let locked = Locked::new(Made::Lock, &init);
    let lab = &locked.lab;
    locked.backup(1);
    lab.ok(&["backup", "tree", "--name", "tree"]);
    let of_disk = locked.in_folder("p/");
    lab.ok(&["forget", "tree@latest"]);
    lab.ok(&["prune"]);
    let hidden: Vec<String> = locked
        .in_folder("p/")
        .into_iter()
        .filter(|row| row.is_marker)
        .map(|row| row.path)
        .collect();
    let is_needed = |row: &&Row| !row.is_marker && !hidden.contains(&row.path);
    let needed: Vec<Row> = of_disk.iter().filter(is_needed).cloned().collect();
    assert!(!needed.is_empty() && !hidden.is_empty());
    let idle: Vec<(Row, i64)> = of_disk
        .iter()
        .filter(|row| hidden.contains(&row.path))
        .map(|row| (row.clone(), locked.until(row)))
        .collect();

    // Less than the period is left.
    let last_s = needed.iter().map(|row| row.at_s).max().unwrap();
    wait_until(last_s + 9);
    let before_s = clock_s();
    let report = locked.prune();
    assert!(report["extended"].as_u64().unwrap() >= needed.len() as u64, "{report}");
    let assured_s = report["assured_until_s"].as_i64().unwrap();
    assert!(assured_s >= before_s + PERIOD_S, "{report}");
    for row in &needed {
        assert!(locked.until(row) >= assured_s, "{row:?}");
    }
    for (row, until_s) in &idle {
        if let Some((_, now)) = locked.bucket.retention(&locked.prefix, row) {
            assert_eq!(now, *until_s, "nobody needs {row:?}");
        }
    }
    for (path, lock) in locked.bucket.locks(&locked.prefix) {
        let is_newest = !path.starts_with("cat/");
        if is_lockable(&path) && is_newest && !path.starts_with("com/") {
            assert!(lock.unwrap().1 >= assured_s, "{path}");
        }
    }
    // Nothing to do so soon after.
    assert_eq!(locked.prune()["extended"], 0);

    // Where nobody prunes, the backup that relies on them sees to it.
    wait_until(before_s + 9 + 2);
    let before_s = clock_s();
    lab.ok(&["backup", "disk", "--name", "disk"]);
    for row in &needed {
        assert!(locked.until(row) >= before_s + PERIOD_S, "{row:?}");
    }
    lab.verify();
}

/// The requests about single versions of what is locked.
fn about_versions(seen: &[Seen]) -> Vec<&str> {
    seen.iter()
        .map(|seen| seen.target.as_str())
        .filter(|target| target.contains("versionId=") || target.contains("retention"))
        .filter(|target| !target.contains("/ses/") && !target.contains("/tmp/"))
        .collect()
}

#[test]
fn what_is_locked_costs_no_request_each_while_it_waits() {
    let bucket = bucket().sibling(Made::Lock);
    let proxy = Proxy::start(bucket.endpoint.as_ref().unwrap(), 1, Orders::default());
    let locked = Locked::at(bucket.through(&proxy.endpoint()), &["--lock", "1h"]);
    locked.backup(1);
    locked.backup(2);
    locked.lab.ok(&["forget", "--keep-last", "1"]);
    locked.lab.ok(&["prune"]);
    locked.lab.ok(&["prune"]);
    proxy.take_seen();
    let report = locked.prune();
    let seen = proxy.take_seen();
    assert!(report["deferred"].as_u64().unwrap() > 2, "{report}");
    assert_eq!(about_versions(&seen), [""; 0]);
}

#[test]
fn who_may_only_delete_destroys_nothing_and_one_command_brings_all_back() {
    let locked = Locked::new(Made::Lock, &["--lock", "1h"]);
    let lab = &locked.lab;
    lab.ok(&["backup", "tree", "--name", "tree"]);
    locked.backup(1);
    locked.backup(2);
    lab.ok(&["forget", "--keep-last", "1"]);
    lab.ok(&["prune"]);
    fs::write(lab.path("second"), [9; 64]).unwrap();
    lab.ok(&["key", "add", "--label", "second", "--new-key-file", "second"]);
    let removed = lab.run(&["key", "remove", "second"]).expect(0).says(&["old versions"]);
    drop(removed);
    // Not folded yet: only its commit names it.
    locked.backup(3);
    let ids = lab.snapshots();
    assert_eq!(ids.len(), 3);

    // Packs are deleted, and written over; one of them by what is locked itself.
    let packs: Vec<String> =
        locked.visible().into_iter().filter(|path| path.starts_with("p/")).collect();
    assert!(packs.len() > 4, "{packs:?}");
    locked.bucket.overwrite(&locked.prefix, &packs[0], true);
    locked.bucket.overwrite(&locked.prefix, &packs[1], false);
    locked.bucket.hide(&locked.prefix, &packs[2..]);
    lab.run(&["verify", "--read-data"]).expect(4);
    let report = lab.json(&["recover"]);
    assert_eq!(report["recovered"].as_u64(), Some(packs.len() as u64), "{report}");
    assert_eq!((&report["copied"], &report["slots_left"]), (&1.into(), &1.into()), "{report}");
    lab.verify();
    assert_eq!(lab.json(&["key", "list"])["slots"].as_array().unwrap().len(), 1);

    // Everything is deleted.
    locked.bucket.hide(&locked.prefix, &locked.visible());
    assert!(locked.visible().is_empty());
    lab.run(&["snapshots"]).expect(1).says(&["no Salvor repository"]);
    lab.run(&["init"]).expect(1).says(&["recover"]);
    lab.forget_cache();
    let ended = lab.run(&["recover"]).expect(0).says(&["key slots were brought back"]);
    assert!(ended.stdout.contains("verify --read-data"), "{ended}");
    assert_eq!(lab.snapshots(), ids);
    lab.verify();
    lab.ok(&["restore", "disk@latest", "back"]);
    assert_same_volume(&lab.path("disk"), &lab.path("back"), 64 << 10);
    lab.ok(&["restore", "tree@latest", "back-tree"]);
    assert_same_tree(&lab.path("tree"), &lab.path("back-tree"));
    // It goes on as before.
    lab.ok(&["backup", "disk", "--name", "disk"]);
    lab.ok(&["prune"]);
    lab.verify();
    assert_eq!(lab.json(&["recover"])["recovered"], 0);
}

#[test]
fn a_prune_after_an_attack_says_so_and_removes_nothing_that_is_needed() {
    let locked = Locked::new(Made::Lock, &["--lock", "2s", "--lock-slack", "2s"]);
    let lab = &locked.lab;
    locked.backup(1);
    // Content: a manifest that is gone stops a prune before it has anything to say.
    let packs = lab.stored()["p"].clone();
    let largest = packs.iter().max_by_key(|(_, bytes)| **bytes).unwrap().0;
    let path = format!("p/{largest}");
    let truth = locked.in_folder(&path).remove(0);
    wait_until(locked.until(&truth));
    locked.bucket.hide(&locked.prefix, std::slice::from_ref(&path));
    for _ in 0..2 {
        lab.run(&["prune"]).expect(3).says(&["salvor recover", &path]);
    }
    assert!(locked.in_folder(&path).iter().any(|row| row.id == truth.id), "{path} is gone");
    assert!(locked.until(&truth) > clock_s(), "it is not locked any more");
    lab.ok(&["recover"]);
    lab.verify();
}

#[test]
fn what_an_init_left_that_died_is_never_taken_for_the_truth() {
    let bucket = bucket().sibling(Made::Lock);
    // The first catalog of a repository whose keys nobody has.
    bucket.overwrite("repo", "cat/ffffffffffffffff", false);
    let locked = Locked::at(bucket, &["--lock", "1h"]);
    locked.backup(1);
    locked.lab.verify();
    assert_eq!(locked.lab.json(&["recover"])["recovered"], 0);
    locked.lab.verify();
    assert!(!locked.visible().contains(&"cat/ffffffffffffffff".to_owned()));
    assert!(locked.lab.json(&["prune"])["lock"]["attacked"] == 0);
}

#[test]
fn strangers_in_the_bucket_are_left_alone() {
    let bucket = bucket().sibling(Made::Lock);
    let lab = Lab::bare().moved_to(&bucket, "repo");
    lab.ok(&["init", "--lock", "1h"]);
    for path in ["notes", "p/zz", "mine/x"] {
        bucket.overwrite("repo", path, false);
        bucket.hide("repo", &[path.to_owned()]);
    }
    lab.ok(&["prune"]);
    let rows = bucket.versions("repo");
    for path in ["notes", "p/zz", "mine/x"] {
        assert_eq!(rows.iter().filter(|row| row.path == path).count(), 2, "{path}");
    }
}

#[test]
fn another_period_is_applied_at_once_and_no_lock_is_ever_shortened() {
    const HOUR_S: i64 = 3600;
    let locked = Locked::new(Made::Lock, &["--lock", "1h"]);
    let lab = &locked.lab;
    locked.backup(1);
    let packs = locked.in_folder("p/");
    let before_s = clock_s();
    let shown = lab.json(&["lock", "--period", "3h"]);
    assert_eq!(shown["lock"]["period_seconds"], 3 * HOUR_S, "{shown}");
    assert_eq!(shown["bucket"], "lock");
    let ends: Vec<i64> = packs.iter().map(|row| locked.until(row)).collect();
    assert!(ends.iter().all(|until_s| *until_s >= before_s + 3 * HOUR_S), "{ends:?}");
    assert!(
        locked.bucket.locks(&locked.prefix)["config"].as_ref().unwrap().1 >= before_s + 3 * HOUR_S
    );

    lab.ok(&["lock", "--period", "1h"]);
    lab.ok(&["prune"]);
    let after: Vec<i64> = packs.iter().map(|row| locked.until(row)).collect();
    assert_eq!(after, ends);
    let packs = locked.in_folder("p/");
    lab.ok(&["lock", "--off"]);
    locked.backup(2);
    let is_old = |row: &Row| packs.iter().any(|old| old.id == row.id);
    let new: Vec<Row> =
        locked.in_folder("p/").into_iter().filter(|row| !row.is_marker && !is_old(row)).collect();
    assert!(!new.is_empty());
    for row in new {
        assert!(locked.bucket.retention(&locked.prefix, &row).is_none(), "{row:?} is locked");
    }
    lab.ok(&["lock", "--period", "1h"]);
    let ends = locked.bucket.locks(&locked.prefix);
    assert!(ends.iter().all(|(path, lock)| !path.starts_with("p/") || lock.is_some()), "{ends:?}");
    let stats = lab.json(&["stats"]);
    assert_eq!(stats["lock"]["mode"], "governance");
    assert!(stats["lock"]["extensions_a_month"].as_u64().unwrap() > 0, "{stats}");
    lab.verify();
}

#[test]
fn a_bucket_that_locks_by_default_needs_no_word_of_it() {
    let locked = Locked::new(Made::Default, &[]);
    let lab = &locked.lab;
    locked.backup(1);
    locked.backup(2);
    lab.ok(&["forget", "--keep-last", "1"]);
    for _ in 0..3 {
        let report = locked.prune();
        assert!(report["deferred_packs"].as_u64().unwrap() > 0, "{report}");
        assert!(report.get("trouble").is_none_or(Value::is_null), "{report}");
    }
    lab.ok(&["key", "add", "--label", "second", "--new-key-file", "key"]);
    lab.ok(&["key", "remove", "second"]);
    lab.assert_tidy();
    lab.verify();
    assert!(lab.json(&["lock"])["lock"].is_null());
    assert!(lab.ok(&["lock"]).stdout.contains("1day"));
}

#[test]
fn a_rotated_key_leaves_old_slots_to_their_locks_and_says_so() {
    let locked = Locked::new(Made::Lock, &["--lock", "1h"]);
    let lab = &locked.lab;
    locked.backup(1);
    fs::write(lab.path("new"), [5; 64]).unwrap();
    let ended = lab.run(&["key", "rotate", "--new-key-file", "new"]).expect(0);
    ended.says(&["removed slots", "until their locks end"]);
    lab.run(&["snapshots"]).expect(1).says(&["none of the 1 key"]);
    let slots = locked.in_folder("keys/");
    assert_eq!(slots.iter().filter(|row| !row.is_marker).count(), 2, "{slots:?}");
    for row in slots.iter().filter(|row| !row.is_marker) {
        assert!(locked.until(row) > clock_s() + 3600, "{row:?}");
    }
    fs::copy(lab.path("new"), lab.path("key")).unwrap();
    lab.verify();
}

#[test]
fn bodies_in_parts_and_other_checksums_are_locked_as_well() {
    let bucket = bucket().sibling(Made::Lock);
    let lab = Lab::bare().moved_to(&bucket, "repo");
    let run = |line: &[&str]| {
        let mut command = lab.command(line);
        command.env("SALVOR_S3_CHECKSUM", "sha256").env("SALVOR_S3_MULTIPART", "5M");
        Running::start(command).wait().expect(0)
    };
    run(&["init", "--lock", "1h", "--lock-mode", "compliance"]);
    noise_file(&lab.path("disk"), 1, 24 * MIB);
    run(&["backup", "disk", "--name", "disk"]);
    let rows: Vec<Row> = bucket.versions("repo");
    let packs: Vec<&Row> = rows.iter().filter(|row| row.path.starts_with("p/")).collect();
    assert!(packs.len() >= 2, "{packs:?}");
    for row in packs {
        let (mode, until_s) = bucket.retention("repo", row).unwrap();
        assert!(mode == "COMPLIANCE" && until_s > clock_s() + 3600, "{mode} {until_s}");
    }
    lab.verify();
}

#[test]
fn where_nothing_can_be_locked_a_wish_for_it_is_refused() {
    let lab = Lab::bare();
    lab.run(&["init", "--lock", "1d"]).expect(2).says(&["s3://"]);
    assert!(!Path::new(lab.repo()).exists());
    lab.run(&["init", "--lock", "soon"]).expect(2);
    lab.run(&["init", "--lock-mode", "compliance"]).expect(2).says(&["--lock"]);

    let plain = bucket().sibling(Made::Versions);
    let lab = Lab::bare().moved_to(&plain, "repo");
    lab.run(&["init", "--lock", "1d"]).expect(1).says(&["object lock enabled"]);
    assert!(plain.versions("repo").iter().all(|row| row.path.starts_with("tmp/")));
    lab.run(&["init", "--check", "--lock", "1d"]).expect(1).says(&["locks objects"]);
    assert_eq!(lab.json(&["init", "--check"])["fit"], true);
    // As it was before there were locks.
    lab.ok(&["init"]);
    make_image(&lab.path("disk"), 1, 2 * MIB);
    lab.ok(&["backup", "disk", "--name", "disk"]);
    lab.ok(&["forget", "disk@latest"]);
    assert!(lab.json(&["prune"]).get("lock").is_none());
    lab.assert_tidy();
    lab.run(&["lock", "--period", "1d"]).expect(1).says(&["object lock enabled"]);
    let lab = Lab::new();
    lab.run(&["recover"]).expect(1).says(&["bucket"]);
}

const WRITES: [&str; 3] = ["s3:PutObject", "s3:GetObject", "s3:ListBucket"];
const MAINTAINS: [&str; 3] =
    ["s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListBucketMultipartUploads"];

#[test]
fn who_lacks_a_right_is_told_which_and_an_agent_needs_none_to_delete() {
    let locked = Locked::new(Made::Lock, &["--lock", "1h"]);
    let with = |rights: &[&[&str]], line: &[&str]| {
        let who = locked.bucket.with_rights(&rights.concat());
        let mut command = locked.lab.command(line);
        command.envs(who.environment());
        Running::start(command).wait()
    };
    let backup = ["backup", "disk", "--name", "disk"];
    with(&[&WRITES], &backup).expect(1).says(&["s3:PutObjectRetention"]);
    let agent: [&[&str]; 2] = [&WRITES, &["s3:PutObjectRetention"]];
    with(&agent, &backup).expect(0);
    let mut rng = Rng::new(5);
    change_image(&locked.lab.path("disk"), &mut rng, 6, 200_000);
    with(&agent, &backup).expect(0);
    locked.lab.verify();

    // What a prune may not do about locks it leaves to one that may, and it does all else.
    let maintainer = [&WRITES[..], &["s3:PutObjectRetention"], &MAINTAINS];
    locked.lab.ok(&["forget", "--keep-last", "1"]);
    with(&maintainer, &["prune"]).expect(3).says(&["s3:DeleteObjectVersion"]);
    locked.lab.verify();

    // The right to remove versions is not enough to remove what is locked.
    let attacker = locked.bucket.with_rights(&["s3:DeleteObject", "s3:DeleteObjectVersion"]);
    for row in locked.in_folder("p/").iter().filter(|row| !row.is_marker) {
        assert!(!attacker.removes(&locked.prefix, row), "{row:?} is gone");
    }
    let check = ["init", "--check", "--lock", "1h"];
    let ended = with(&[&WRITES, &MAINTAINS], &check).expect(1);
    ended.says(&["s3:GetBucketObjectLockConfiguration", "s3:PutObjectRetention"]);
    let all = [
        &maintainer.concat()[..],
        &["s3:ListBucketVersions", "s3:GetObjectRetention", "s3:DeleteObjectVersion"],
        &["s3:GetBucketObjectLockConfiguration"],
    ];
    with(&all, &check).expect(0);
    with(&all, &["prune"]).expect(0);
}

#[test]
fn the_check_tries_locks_and_leaves_nothing() {
    let bucket = bucket().sibling(Made::Lock);
    let lab = Lab::bare().moved_to(&bucket, "repo");
    let json = lab.json(&["init", "--check", "--lock", "30d", "--lock-mode", "compliance"]);
    assert_eq!(json["fit"], true, "{json}");
    let tried = json["tried"].as_array().unwrap();
    let lock = tried.iter().find(|row| row["what"].as_str().unwrap().starts_with("lock an object"));
    assert!(lock.unwrap()["trouble"].is_null(), "{json}");
    let left: Vec<Row> =
        bucket.versions("repo").into_iter().filter(|row| row.path.contains("lock-")).collect();
    assert!(left.is_empty(), "{left:?}");
}

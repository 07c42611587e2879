//! What the program says and how it ends when things are not as they should be.
#![expect(clippy::unwrap_used, reason = "a failure is a panic")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tests::support::{
    Device, Ended, Lab, MIB, Mount, Rng, Running, as_nobody, assert_same_tree, assert_same_volume,
    binary, make_image, make_tree, noise_file, privileged, run,
};

/// A lab with one snapshot of a disk and one of a tree.
fn stocked() -> Lab {
    let lab = Lab::new();
    make_image(&lab.path("disk"), 1, 4 * MIB);
    make_tree(&lab.path("tree"), 1, 20);
    lab.ok(&["backup", "disk", "--name", "disk"]);
    lab.ok(&["backup", "tree", "--name", "tree"]);
    lab
}

#[test]
fn a_wrong_secret_a_missing_and_a_newer_repository_are_told_apart() {
    let lab = stocked();
    fs::write(lab.path("wrong"), [1; 64]).unwrap();
    let wrong = lab.run(&["--key-file", "wrong", "snapshots"]);
    wrong.expect(1).says(&["opens none of the 1 key slots"]);
    let mut passphrase = lab.command(&["snapshots"]);
    passphrase.env_remove("SALVOR_KEY_FILE").env("SALVOR_PASSPHRASE", "not it");
    Running::start(passphrase).wait().expect(1).says(&["opens none of the 1 key slots"]);

    lab.run(&["--repo", "nowhere", "snapshots"]).expect(1).says(&["nowhere", "does not exist"]);
    let empty = lab.path("home");
    let empty = lab.run(&["--repo", empty.to_str().unwrap(), "snapshots"]);
    empty.expect(1).says(&["not a repository", "salvor init"]);
    let bucket = ["--repo", "s3://bucket/x", "--endpoint", "nowhere", "snapshots"];
    lab.run(&bucket).expect(1).says(&["s3://bucket/x", "--endpoint", "https://"]);
    lab.run(&["--repo", "ftp://x", "snapshots"]).expect(1).says(&["ftp://x"]);

    let config = lab.repo().join("config");
    let mut bytes = fs::read(&config).unwrap();
    bytes[8..10].copy_from_slice(&2u16.to_le_bytes());
    let covered = bytes.len() - 8;
    let sum = blake3::hash(&bytes[..covered]);
    bytes[covered..].copy_from_slice(&sum.as_bytes()[..8]);
    replace(&config, &bytes);
    for line in [&["snapshots"][..], &["backup", "disk"], &["prune"], &["restore", "latest", "x"]] {
        lab.run(line).expect(1).says(&["config", "newer"]);
    }
    assert!(!lab.path("x").exists());
}

fn replace(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn damage_to_config_key_slots_and_catalog_is_called_damage() {
    for (folder, words) in [("config", &["config", "damaged"][..]), ("keys", &["keys/", "damaged"])]
    {
        let lab = stocked();
        let path = first_file(&lab.repo().join(folder));
        let mut bytes = fs::read(&path).unwrap();
        bytes[30] ^= 4;
        replace(&path, &bytes);
        lab.run(&["snapshots"]).expect(4).says(words);
        lab.run(&["backup", "disk"]).expect(4).says(words);
    }
    let lab = stocked();
    lab.ok(&["prune"]);
    let catalog = first_file(&lab.repo().join("cat"));
    let mut bytes = fs::read(&catalog).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    replace(&catalog, &bytes);
    // Writing stops; what is there can still be read.
    lab.run(&["backup", "disk"]).expect(4).says(&["catalog", "verify --repair"]);
    lab.run(&["prune"]).expect(4).says(&["catalog"]);
    lab.run(&["verify"]).expect(4);
    lab.ok(&["restore", "disk@latest", "back"]);
    assert_same_volume(&lab.path("disk"), &lab.path("back"), 64 << 10);
}

fn first_file(path: &Path) -> std::path::PathBuf {
    if path.is_file() {
        return path.to_owned();
    }
    let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    names.swap_remove(0)
}

#[test]
fn a_target_that_holds_something_is_left_alone() {
    let lab = stocked();
    fs::write(lab.path("there"), "mine").unwrap();
    lab.run(&["restore", "disk@latest", "there"]).expect(1).says(&["there", "exists already"]);
    assert_eq!(fs::read(lab.path("there")).unwrap(), b"mine");
    fs::create_dir(lab.path("full")).unwrap();
    fs::write(lab.path("full/mine"), "mine").unwrap();
    lab.run(&["restore", "tree@latest", "full"]).expect(1).says(&["full", "not empty"]);
    assert_eq!(fs::read_dir(lab.path("full")).unwrap().count(), 1);
    lab.run(&["restore", "disk@latest", "full"]).expect(1).says(&["full", "directory"]);
    lab.run(&["restore", "disk@latest", "no/such/x"]).expect(1).says(&["no/such/x"]);
    lab.run(&["init"]).expect(1).says(&["already"]);
    lab.run(&["--repo", "full", "init"]).expect(1).says(&["not empty"]);
    for file in fs::read_dir(lab.path(".")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(!name.contains("restoring"), "{name} was left");
    }
}

#[test]
fn a_mark_left_by_an_interrupted_restore_does_not_let_a_later_file_be_overwritten() {
    let lab = stocked();
    let disk = lab.snapshots()[0].clone();
    // As a killed restore leaves them.
    fs::write(lab.path("vm.salvor-restoring"), &disk).unwrap();
    fs::write(lab.path("vm"), "half").unwrap();
    lab.ok(&["restore", &disk, "vm", "--in-place"]);
    assert_same_volume(&lab.path("disk"), &lab.path("vm"), 64 << 10);
    fs::write(lab.path("vm"), "in use since then").unwrap();
    lab.run(&["restore", &disk, "vm"]).expect(1).says(&["exists already"]);
    assert_eq!(fs::read(lab.path("vm")).unwrap(), b"in use since then");

    let tree = lab.snapshots()[1].clone();
    fs::write(lab.path("home2.salvor-restoring"), &tree).unwrap();
    lab.ok(&["restore", &tree, "home2", "--in-place"]);
    lab.run(&["restore", &tree, "home2"]).expect(1).says(&["not empty"]);
}

#[test]
fn a_device_that_is_too_small_or_in_use_is_refused_before_anything_is_written() {
    if !privileged("loop devices") {
        return;
    }
    let lab = stocked();
    noise_file(&lab.path("backing"), 3, 2 * MIB);
    let before = fs::read(lab.path("backing")).unwrap();
    let device = Device::over(&lab.path("backing"));
    let path = device.path.to_str().unwrap();
    lab.run(&["restore", "disk@latest", path]).expect(1).says(&[
        path,
        "block device",
        "--in-place",
    ]);
    let small = lab.run(&["restore", "disk@latest", path, "--in-place"]);
    small.expect(1).says(&[path, "2097152", "4194304"]);
    drop(device);
    assert!(fs::read(lab.path("backing")).unwrap() == before);
    let mount = Mount::ext4(&lab.path("mounted"), &lab.path("ext4"), 8 * MIB);
    let used = run("findmnt", &["-n", "-o", "SOURCE", mount.path.to_str().unwrap()]);
    let used = String::from_utf8(used).unwrap();
    let busy = lab.run(&["restore", "disk@latest", used.trim(), "--in-place"]);
    busy.expect(1).says(&[used.trim(), "in use"]);
}

#[test]
fn who_lacks_the_right_to_read_or_write_is_told_where() {
    if !privileged("becoming another user") {
        return;
    }
    let lab = stocked();
    let open = |path: &str, mode| {
        fs::set_permissions(lab.path(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    open(".", 0o755);
    open("key", 0o644);
    open("tmp", 0o777);
    let nobody = |line: &[&str]| {
        let mut command = lab.command(line);
        command.env("HOME", "/nonexistent").env("SALVOR_CACHE_DIR", lab.path("cache-nobody"));
        Running::start(as_nobody(&command)).wait()
    };
    open("repo", 0o700);
    nobody(&["snapshots"]).expect(1).says(&["repo", "no right"]);
    run("chmod", &["-R".as_ref(), "a+rX".as_ref(), lab.repo().as_os_str()]);
    nobody(&["snapshots"]).expect(0);
    nobody(&["backup", "disk"]).expect(1).says(&["no right", "repo"]);
    nobody(&["prune"]).expect(1).says(&["no right", "repo"]);
    nobody(&["restore", "disk@latest", "back"]).expect(1).says(&["permission denied", "back"]);
    fs::create_dir(lab.path("theirs")).unwrap();
    open("theirs", 0o777);
    nobody(&["restore", "disk@latest", "theirs/back"]).expect(0);
    assert_same_volume(&lab.path("disk"), &lab.path("theirs/back"), 64 << 10);
    // Only root may give files away: the content is there, and that it is not all is said.
    nobody(&["restore", "tree@latest", "theirs/tree"]).expect(3).says(&["not all metadata"]);
    nobody(&["restore", "tree@latest", "theirs/tree2", "--no-owner"]).expect(0);
    run("chmod", &["-R".as_ref(), "a+rwX".as_ref(), lab.repo().as_os_str()]);
    open("disk", 0o600);
    nobody(&["backup", "disk"]).expect(1).says(&["disk", "permission denied"]);
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_the_rest_is_saved() {
    if !privileged("becoming another user") {
        return;
    }
    let lab = Lab::new();
    fs::set_permissions(lab.path("."), fs::Permissions::from_mode(0o755)).unwrap();
    run("chmod", &["-R".as_ref(), "a+rwX".as_ref(), lab.repo().as_os_str()]);
    fs::set_permissions(lab.path("key"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::create_dir_all(lab.path("tree/closed")).unwrap();
    fs::write(lab.path("tree/open"), "open").unwrap();
    fs::write(lab.path("tree/secret"), "secret").unwrap();
    fs::write(lab.path("tree/closed/inner"), "inner").unwrap();
    for (path, mode) in [("tree/secret", 0o600), ("tree/closed", 0o700)] {
        fs::set_permissions(lab.path(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut command = lab.command(&["backup", "tree", "--json"]);
    command.env("SALVOR_CACHE_DIR", "/tmp/salvor-no-such").env("HOME", "/nonexistent");
    let ended = Running::start(as_nobody(&command)).wait();
    let ended = ended.expect(3).says(&["secret", "closed", "permission denied"]);
    let json = ended.last_json();
    assert_eq!((&json["complete"], &json["issue_count"]), (&false.into(), &2.into()));
    let listed = lab.ok(&["ls", "latest"]).stdout;
    assert!(listed.lines().any(|line| line == "open"), "{listed}");
    assert!(!listed.contains("secret"), "nothing may pass for its content: {listed}");
    let list = lab.json(&["snapshots"]);
    assert_eq!(list["snapshots"][0]["complete"], false);
}

#[test]
fn snapshots_that_are_not_there_or_not_one_are_named() {
    let lab = stocked();
    lab.run(&["restore", "ffffffffffff", "x"]).expect(1).says(&["ffffffffffff", "snapshots"]);
    lab.run(&["restore", "nobody@latest", "x"]).expect(1).says(&["nobody@latest"]);
    lab.run(&["ls", "tree@latest", "no/such"]).expect(1).says(&["no/such"]);
    lab.run(&["cat", "tree@latest", "folder"]).expect(1).says(&["folder"]);
    lab.run(&["forget", "ffffffffffff"]).expect(1).says(&["ffffffffffff"]);
    // With 17 ids two begin with the same digit.
    for number in 0..15 {
        lab.ok(&["backup", "disk", "--name", &number.to_string()]);
    }
    let ids = lab.snapshots();
    let twice = ids
        .iter()
        .map(|id| &id[..1])
        .find(|digit| ids.iter().filter(|id| id.starts_with(*digit)).count() > 1);
    lab.run(&["ls", twice.unwrap()]).expect(1).says(&["could be any of", "more digits"]);
    lab.run(&["restore", "", "x"]).expect(1);
}

#[test]
fn a_command_line_that_makes_no_sense_is_a_usage_error() {
    let lab = stocked();
    for (line, word) in [
        (&["frobnicate"][..], "frobnicate"),
        (&["backup"], "path"),
        (&["backup", "disk", "--compression", "20"], "1 to 19"),
        (&["backup", "disk", "--tag", "novalue"], "KEY=VALUE"),
        (&["backup", "tree", "--changed-blocks", "disk"], "directory"),
        (&["--memory", "1M", "snapshots"], "96M"),
        (&["--memory", "much", "snapshots"], "much"),
        (&["--threads", "0", "snapshots"], "--threads"),
        (&["forget"], "keep"),
        (&["restore", "disk@latest", "x", "--path", "a"], "volume"),
        (&["restore", "tree@latest", "x", "--delete"], "--in-place"),
        (&["cat", "tree@latest"], "name the file"),
        (&["cat", "disk@latest", "a"], "no paths"),
        (&["verify", "--read-data=101"], "percentage"),
        (&["prune", "--max-repack", "x"], "percentage"),
        (&["forget", "--keep-last", "1", "--max-repack", "5%"], "--prune"),
    ] {
        lab.run(line).expect(2).says(&[word]);
    }
    let mut bare = lab.command(&["snapshots"]);
    bare.env_remove("SALVOR_REPO");
    Running::start(bare).wait().expect(2).says(&["--repo", "SALVOR_REPO"]);
    let mut mute = lab.command(&["snapshots"]);
    mute.env_remove("SALVOR_KEY_FILE");
    let words = ["no passphrase given", "--passphrase-file", "SALVOR_PASSPHRASE"];
    Running::start(mute).wait().expect(2).says(&words);
    fs::write(lab.path("short"), "short").unwrap();
    lab.run(&["--key-file", "short", "snapshots"]).expect(1).says(&["short", "32 bytes"]);
    lab.run(&["--key-file", "none", "snapshots"]).expect(1).says(&["none", "no such file"]);
    lab.run(&["backup", "no-such-source"]).expect(1).says(&["no-such-source", "no such file"]);
    lab.run(&["backup", "tree/fifo"]).expect(1).says(&["tree/fifo"]);
    lab.run(&["backup", "tree", "--exclude", "a["]).expect(1).says(&["a[", "pattern"]);
}

#[test]
fn excluding_everything_or_nothing_is_no_error() {
    let lab = stocked();
    let none = lab.json(&["backup", "tree", "--name", "t", "--exclude", "/matches-nothing"]);
    assert!(none["entries"].as_u64().unwrap() > 20);
    assert_eq!(none["tree"]["excluded"], 0);
    let all = lab.json(&["backup", "tree", "--name", "t", "--exclude", "*"]);
    assert_eq!(all["entries"], 1, "the root itself");
    lab.ok(&["restore", "t@latest", "empty"]);
    assert_eq!(fs::read_dir(lab.path("empty")).unwrap().count(), 0);
    fs::create_dir(lab.path("nothing")).unwrap();
    lab.ok(&["backup", "nothing", "--name", "nothing"]);
    lab.ok(&["restore", "nothing@latest", "nothing-back"]);
    assert_same_tree(&lab.path("nothing"), &lab.path("nothing-back"));
}

/// A repository on a file system with little space.
fn small_repository(kind: &str) -> (Lab, Mount) {
    let outer = tests::support::scratch();
    let folder = outer.keep();
    let mount = match kind {
        "tmpfs" => Mount::memory(&folder.join("fs"), 24 * MIB),
        _ => Mount::ext4(&folder.join("fs"), &folder.join("image"), 32 * MIB),
    };
    let lab = Lab::at(&mount.path.join("repo"));
    lab.ok(&["init", "--chunk-size", "64K"]);
    (lab, mount)
}

#[test]
fn a_full_repository_says_so_and_stays_sound() {
    if !privileged("mounting") {
        return;
    }
    for kind in ["tmpfs", "ext4"] {
        let (lab, mount) = small_repository(kind);
        noise_file(&lab.path("small"), 1, 4 * MIB);
        noise_file(&lab.path("large"), 2, 48 * MIB);
        make_tree(&lab.path("tree"), 2, 10);
        lab.ok(&["backup", "small", "--name", "small"]);
        fs::create_dir(lab.path("big")).unwrap();
        fs::rename(lab.path("large"), lab.path("big/large")).unwrap();
        for source in ["big/large", "big"] {
            let line = ["backup", source, "--name", source, "--checkpoint-seconds", "0"];
            lab.run(&line).expect(1).says(&["no space left", "sound"]);
        }
        lab.verify();
        let ended = lab.run(&["prune"]);
        assert_eq!(ended.code, Some(0), "{kind}: a full repository cannot be pruned: {ended}");
        lab.assert_tidy();
        lab.ok(&["restore", "small@latest", "back"]);
        assert_same_volume(&lab.path("small"), &lab.path("back"), 64 << 10);
        lab.ok(&["backup", "tree", "--name", "tree"]);
        lab.ok(&["restore", "tree@latest", "tree-back"]);
        assert_same_tree(&lab.path("tree"), &lab.path("tree-back"));
        let folder = mount.path.parent().unwrap().to_owned();
        drop(mount);
        drop(fs::remove_dir_all(folder));
    }
}

#[test]
fn a_full_target_says_so_and_the_restore_goes_on_when_there_is_space() {
    if !privileged("mounting") {
        return;
    }
    let lab = Lab::new();
    noise_file(&lab.path("disk"), 1, 24 * MIB);
    fs::create_dir(lab.path("tree")).unwrap();
    for number in 0..12 {
        noise_file(&lab.path(format!("tree/{number}")), number, 2 * MIB);
    }
    lab.ok(&["backup", "disk", "--name", "disk"]);
    lab.ok(&["backup", "tree", "--name", "tree"]);
    let mount = Mount::memory(&lab.path("small"), 10 * MIB);
    for (source, target) in [("disk", "small/disk"), ("tree", "small/tree")] {
        let line = ["restore", &format!("{source}@latest"), target];
        lab.run(&line).expect(1).says(&["no space left"]);
        run("mount", &["-o", "remount,size=30m", mount.path.to_str().unwrap()]);
        lab.ok(&line);
        if source == "disk" {
            assert_same_volume(&lab.path(source), &lab.path(target), 64 << 10);
            fs::remove_file(lab.path(target)).unwrap();
        } else {
            assert_same_tree(&lab.path(source), &lab.path(target));
            fs::remove_dir_all(lab.path(target)).unwrap();
        }
        run("mount", &["-o", "remount,size=10m", mount.path.to_str().unwrap()]);
    }
}

#[test]
fn a_failing_disk_is_told_whichever_end_it_is() {
    if !privileged("loop devices over a full file system") {
        return;
    }
    let lab = Lab::new();
    noise_file(&lab.path("disk"), 1, 16 * MIB);
    lab.ok(&["backup", "disk", "--name", "disk"]);
    // A device over a file that cannot grow: what it has no space for fails with EIO.
    let mount = Mount::memory(&lab.path("memory"), 6 * MIB);
    let backing = mount.path.join("backing");
    fs::File::create(&backing).unwrap().set_len(16 * MIB).unwrap();
    let device = Device::over(&backing);
    let path = device.path.to_str().unwrap();
    let line = ["restore", "disk@latest", path, "--in-place"];
    lab.run(&line).expect(1).says(&[path, "write", "error"]);
    run("mount", &["-o", "remount,size=40m", mount.path.to_str().unwrap()]);
    lab.ok(&line);
    assert!(tests::support::same_bytes(&lab.path("disk"), &device.path));

    // A source that ends before its size: the rest cannot be read. It is named, and the snapshot
    // does not pass for complete.
    let source = lab.path("source");
    noise_file(&source, 2, 4 * MIB);
    let bad = Device::over(&source);
    fs::File::options().write(true).open(&source).unwrap().set_len(3 * MIB).unwrap();
    let line = ["backup", bad.path.to_str().unwrap(), "--name", "bad", "--json"];
    let ended = lab.run(&line).expect(3).says(&["bytes 3145728..", "incomplete"]);
    assert_eq!(ended.last_json()["complete"], false);
    let back = lab.run(&["restore", "bad@latest", "back"]).expect(3).says(&["3145728"]);
    drop(back);
    let (read, restored) = (fs::read(&source).unwrap(), fs::read(lab.path("back")).unwrap());
    assert!(restored[..3 << 20] == read[..] && restored[3 << 20..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_read_only_repository_can_be_read_and_says_why_it_cannot_be_written() {
    if !privileged("mounting") {
        return;
    }
    let lab = stocked();
    let mount = Mount::read_only(&lab.path("frozen"), lab.repo());
    let repo = mount.path.to_str().unwrap();
    let at = |line: &[&str]| {
        let mut all = vec!["--repo", repo];
        all.extend(line);
        lab.run(&all)
    };
    assert_eq!(at(&["snapshots"]).expect(0).stdout.lines().count(), 3);
    at(&["restore", "disk@latest", "back"]).expect(0);
    assert_same_volume(&lab.path("disk"), &lab.path("back"), 64 << 10);
    at(&["restore", "tree@latest", "tree-back"]).expect(0);
    assert_same_tree(&lab.path("tree"), &lab.path("tree-back"));
    at(&["ls", "tree@latest"]).expect(0);
    at(&["stats"]).expect(0);
    let ids = lab.snapshots();
    at(&["diff", &ids[1], &ids[1]]).expect(0);
    at(&["verify", "--read-data"]).expect(0);
    at(&["prune", "--dry-run"]).expect(0);
    for line in [&["backup", "disk"][..], &["prune"], &["forget", "--keep-last", "0", "latest"]] {
        let line: Vec<&str> =
            line.iter().copied().filter(|w| !["--keep-last", "0"].contains(w)).collect();
        at(&line).expect(1).says(&["frozen", "no right"]);
    }
}

/// Interrupts a backup in its middle; it must end soon, say how to go on, and keep what it has.
fn interrupt(line: &[&str], signal: Signal, source: &str, lab: &Lab) -> Ended {
    let running = lab.start(line);
    let packs = || lab.stored().get("p").map_or(0, std::collections::BTreeMap::len);
    let before = packs();
    let late = std::time::Instant::now() + Duration::from_mins(1);
    while packs() == before && !running.has_ended() && std::time::Instant::now() < late {
        std::thread::sleep(Duration::from_millis(20));
    }
    let sent = std::time::Instant::now();
    running.signal(signal);
    let ended = running.wait().expect(130).says(&["interrupted", "run the same command again"]);
    let took = sent.elapsed();
    assert!(took < Duration::from_secs(6), "{source} took {took:?} to stop");
    ended
}

#[test]
fn an_interrupted_backup_of_an_image_ends_soon_and_goes_on() {
    for signal in [Signal::INT, Signal::TERM] {
        let lab = Lab::new();
        noise_file(&lab.path("disk"), 1, 256 * MIB);
        let line = ["backup", "disk", "--name", "disk", "--bandwidth", "60M"];
        interrupt(&line, signal, "an image", &lab);
        let kept = lab.json(&["stats"])["data_bytes"].as_u64().unwrap();
        assert!(kept > 0, "nothing was kept");
        let second = lab.json(&["backup", "disk", "--name", "disk"]);
        let new = second["new_bytes"].as_u64().unwrap();
        assert!(new + kept < 256 * MIB * 51 / 50 + MIB, "new {new}, kept {kept}");
        lab.assert_tidy();
    }
}

#[test]
fn a_slow_backup_is_interrupted_just_as_soon() {
    let lab = Lab::new();
    noise_file(&lab.path("disk"), 1, 16 * MIB);
    let running = lab.start(&["backup", "disk", "--bandwidth", "2K"]);
    std::thread::sleep(Duration::from_millis(1500));
    let sent = std::time::Instant::now();
    running.signal(Signal::INT);
    while !running.has_ended() && sent.elapsed() < Duration::from_secs(6) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(running.has_ended(), "it does not stop");
    running.wait().expect(130).says(&["interrupted"]);
}

#[test]
fn an_interrupted_backup_of_a_tree_ends_soon_and_goes_on() {
    let lab = Lab::new();
    fs::create_dir(lab.path("tree")).unwrap();
    let mut rng = Rng::new(4);
    for number in 0..100 {
        fs::write(lab.path(format!("tree/{number}")), rng.text(1_000_000)).unwrap();
    }
    let line = ["backup", "tree", "--name", "tree", "--compression", "15"];
    let line = [&line[..], &["--checkpoint-seconds", "1"]].concat();
    interrupt(&line, Signal::TERM, "a tree", &lab);
    let second = lab.json(&["backup", "tree", "--name", "tree"]);
    let new = second["new_bytes"].as_u64().unwrap();
    assert!(new < 99_000_000, "{new} bytes were stored anew");
    lab.ok(&["restore", "tree@latest", "back"]);
    assert_same_tree(&lab.path("tree"), &lab.path("back"));
    lab.assert_tidy();
}

#[test]
fn an_interrupted_restore_ends_soon_and_goes_on() {
    let lab = Lab::new();
    noise_file(&lab.path("disk"), 1, 512 * MIB);
    lab.ok(&["backup", "disk"]);
    let line = ["restore", "latest", "back"];
    let running = lab.start(&line);
    while !lab.path("back").exists() && !running.has_ended() {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(50));
    running.signal(Signal::INT);
    let ended = running.wait();
    assert!(ended.took < Duration::from_secs(20), "{ended}");
    ended.expect(130).says(&["interrupted", "same command again"]);
    let ended = lab.ok(&line);
    assert!(ended.stderr.contains("going on"), "{ended}");
    assert!(tests::support::same_bytes(&lab.path("disk"), &lab.path("back")));
    assert!(!lab.path("back.salvor-restoring").exists());
}

#[test]
fn what_json_promises_is_there() {
    let lab = Lab::bare();
    let has = |value: &serde_json::Value, kind: &str, fields: &[&str]| {
        assert_eq!(value["type"], kind, "{value}");
        for field in fields {
            assert!(value.get(field).is_some(), "{field} is missing from {value}");
        }
    };
    has(&lab.json(&["init"]), "init", &["repository", "at", "chunk_bytes"]);
    make_image(&lab.path("disk"), 1, 4 * MIB);
    make_tree(&lab.path("tree"), 1, 10);
    let snapshot = [
        "snapshot",
        "name",
        "kind",
        "complete",
        "host",
        "source",
        "tags",
        "started",
        "finished",
        "parent",
        "logical_bytes",
        "allocated_bytes",
        "read_bytes",
        "new_bytes",
        "stored_bytes",
        "entries",
        "issue_count",
        "issues",
        "program",
    ];
    let disk = lab.json(&["backup", "disk", "--name", "d", "--tag", "a=b"]);
    has(&disk, "backup", &[&snapshot[..], &["seconds", "reused_chunks"]].concat());
    let tree = lab.json(&["backup", "tree", "--name", "t"]);
    has(&tree, "backup", &[&snapshot[..], &["tree"]].concat());
    let list = lab.json(&["snapshots", "--tag", "a=b"]);
    has(&list, "snapshots", &["snapshots"]);
    assert_eq!(list["snapshots"].as_array().unwrap().len(), 1);
    for field in snapshot {
        assert!(list["snapshots"][0].get(field).is_some(), "{field}");
    }
    let restored = ["snapshot", "seconds", "issues"];
    has(&lab.json(&["restore", "d@latest", "x"]), "restore", &restored);
    has(&lab.json(&["restore", "t@latest", "y"]), "restore", &restored);
    let entries = lab.ok(&["ls", "t@latest", "--json"]).json_lines();
    assert!(entries.len() as u64 >= tree["entries"].as_u64().unwrap());
    has(&entries[0], "entry", &["path", "kind", "mode", "uid", "gid", "size", "mtime_s"]);
    has(&lab.json(&["ls", "d@latest"]), "volume", &["size_bytes", "chunk_bytes"]);
    has(&lab.json(&["diff", "t@latest", "t@latest"]), "diff", &["added", "removed", "changed"]);
    has(&lab.json(&["stats"]), "stats", &["names", "data_bytes", "objects", "catalog"]);
    assert!(lab.json(&["stats"]).get("price").is_none(), "a directory has no price");
    has(&lab.json(&["stats", "--price", "wasabi"]), "stats", &["price", "object_bytes"]);
    let verified = ["clean", "problems", "damaged_snapshots", "checked"];
    has(&lab.json(&["verify", "--read-data"]), "verify", &verified);
    has(&lab.json(&["key", "list"]), "keys", &["slots"]);
    let forgot = lab.json(&["forget", "--keep-last", "1", "--dry-run"]);
    has(&forgot, "forget", &["dry_run", "forgotten", "kept", "snapshots"]);
    has(&lab.json(&["prune"]), "prune", &["deleted_packs", "needed_bytes", "waiting_packs"]);
    let error = lab.run(&["ls", "nothing", "--json"]).expect(1);
    has(&error.last_json(), "error", &["message", "exit"]);
}

#[test]
fn progress_is_one_json_object_a_second() {
    let lab = Lab::new();
    noise_file(&lab.path("disk"), 1, 24 * MIB);
    let line = ["backup", "disk", "--bandwidth", "8M", "--json", "--progress"];
    let lines = lab.ok(&line).json_lines();
    let progress: Vec<_> = lines.iter().filter(|line| line["type"] == "progress").collect();
    assert!((2..8).contains(&progress.len()), "{lines:?}");
    for line in &progress {
        for field in ["what", "seconds", "done", "total", "unit", "counters"] {
            assert!(line.get(field).is_some(), "{field} is missing from {line}");
        }
        assert!(line["done"].as_u64() <= line["total"].as_u64(), "{line}");
    }
    assert_eq!(lines.last().unwrap()["type"], "backup");
}

#[test]
fn help_and_completions_name_every_command_and_option() {
    let lab = Lab::bare();
    let top = lab.ok(&["--help"]).stdout;
    assert!(top.contains("Exit codes") && top.contains("130"), "{top}");
    for (command, options) in [
        ("init", &["--chunk-size", "--label"][..]),
        (
            "backup",
            &[
                "--name",
                "--tag",
                "--exclude",
                "--parent",
                "--changed-blocks",
                "--bandwidth",
                "--compression",
            ],
        ),
        ("snapshots", &["--name", "--tag"]),
        ("ls", &["--long"]),
        ("diff", &[]),
        ("cat", &[]),
        ("restore", &["--path", "--in-place", "--no-sparse", "--delete", "--no-owner"]),
        ("verify", &["--read-data", "--repair"]),
        (
            "forget",
            &[
                "--keep-last",
                "--keep-hourly",
                "--keep-daily",
                "--keep-weekly",
                "--keep-monthly",
                "--keep-yearly",
                "--dry-run",
            ],
        ),
        ("prune", &["--dry-run", "--max-repack"]),
        ("stats", &["--price", "--price-table"]),
        ("key", &["list", "add", "remove", "rotate"]),
    ] {
        assert!(top.contains(command), "{command} is missing from {top}");
        let help = lab.ok(&[command, "--help"]).stdout;
        for option in options.iter().chain(&["--repo", "--json", "--memory", "--cache-dir"]) {
            assert!(help.contains(option), "{option} is missing from: {help}");
        }
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = lab.ok(&["completion", shell]).stdout;
        assert!(script.len() > 1000 && script.contains("changed-blocks"), "{shell}");
    }
    lab.run(&["completion", "vms"]).expect(2);
    assert!(lab.ok(&["man"]).stdout.contains("salvor"));
    assert!(lab.ok(&["--version"]).stdout.starts_with("salvor "));
}

#[test]
fn a_reader_that_goes_away_is_no_reason_to_panic() {
    let lab = Lab::new();
    fs::create_dir(lab.path("tree")).unwrap();
    for number in 0..3000 {
        fs::write(lab.path(format!("tree/a-name-that-fills-the-pipe-{number}")), "x").unwrap();
    }
    noise_file(&lab.path("disk"), 1, MIB);
    lab.ok(&["backup", "tree", "--name", "tree"]);
    lab.ok(&["backup", "disk", "--name", "disk"]);
    for line in [
        "ls tree@latest",
        "ls tree@latest --json",
        "snapshots",
        "snapshots --json",
        "cat disk@latest",
        "diff tree@latest tree@latest",
        "completion bash",
        "--help",
        "man",
        "nonsense",
        "stats --json",
        "ls nothing --json",
    ] {
        let script =
            format!("set -o pipefail; {} {line} | (exec <&-; sleep 0.2)", binary().display());
        let mut shell = Command::new("bash");
        let like = lab.command(&["x"]);
        shell.args(["-c", &script]).env_clear().current_dir(lab.path("."));
        for (name, value) in like.get_envs().filter_map(|(name, value)| Some((name, value?))) {
            shell.env(name, value);
        }
        let ended = Running::start(shell).wait();
        assert!(!ended.stderr.contains("panicked"), "{line}: {ended}");
        assert_ne!(ended.code, Some(101), "{line}: {ended}");
    }
}

#[test]
fn snapshots_of_another_cluster_are_read_and_not_forgotten_unless_told() {
    let lab = Lab::new();
    let back_up = |cluster: &str, content: &str| {
        fs::write(lab.path("disk"), content).unwrap();
        let line = ["--cluster", cluster, "backup", "disk", "--name", "disk", "--json"];
        lab.ok(&line).last_json()["snapshot"].as_str().unwrap().to_owned()
    };
    let uuid = "6f1d2c3b-4a59-4687-9786-a5b4c3d2e1f0";
    let ours = back_up("ours", "ours");
    let theirs = back_up(uuid, "theirs");
    let newest = |cluster: &str| lab.ok(&["--cluster", cluster, "cat", "disk@latest"]).stdout;
    assert_eq!((newest("ours"), newest(uuid)), ("ours".into(), "theirs".into()));
    assert_eq!(newest("third"), "theirs", "who has none gets the newest of all");
    let listed = lab.json(&["snapshots"])["snapshots"].clone();
    assert_eq!(listed[1]["cluster"], uuid.replace('-', ""));
    assert_ne!(listed[0]["cluster"], listed[1]["cluster"]);
    let table = lab.ok(&["--cluster", "ours", "snapshots"]).stdout;
    assert!(table.contains("Cluster") && table.contains("6f1d2c3b"), "{table}");
    lab.ok(&["--cluster", "third", "forget", "--keep-last", "1", "--name", "nothing"]);
    lab.ok(&["--cluster", "ours", "forget", "--keep-last", "1"]);
    assert_eq!(lab.snapshots(), [ours.clone(), theirs.clone()]);
    let foreign = ["--cluster", "ours", "forget", &theirs];
    lab.run(&foreign).expect(1).says(&["made by another cluster", "--adopt"]);
    assert_eq!(lab.snapshots().len(), 2);
    lab.ok(&["--cluster", "ours", "forget", "--adopt", &theirs]);
    assert_eq!(lab.snapshots(), [ours]);
}

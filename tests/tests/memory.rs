//! How much memory the program takes: what it is told, whatever the data.
#![expect(clippy::unwrap_used, reason = "a failure is a panic")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use tests::support::{Ended, Lab, MIB, Rng, change_image, noise_file, scratch, soak};

/// What `--memory` says, and what the process may then have at most.
const SETTINGS: [(&[&str], u64); 2] = [(&[], 300 * MIB), (&["--memory", "128M"], 128 * MIB)];

/// Runs a command and checks its peak.
#[track_caller]
fn measured<S: AsRef<OsStr>>(lab: &Lab, setting: (&[&str], u64), line: &[S]) -> Ended {
    // The kernel adds what this process has; see `Ended::peak_bytes`.
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().to_owned();
    let own_kib: u64 = own.trim_end_matches(" kB").parse().unwrap();
    assert!(own_kib < 64 << 10, "the test itself is too large to measure with: {own}");
    let (options, limit_bytes) = setting;
    let all: Vec<&OsStr> =
        options.iter().map(OsStr::new).chain(line.iter().map(AsRef::as_ref)).collect();
    let ended = lab.ok(&all);
    let words: Vec<_> = all.iter().map(|word| word.to_string_lossy()).collect();
    println!("{:>4} MiB, {:>6.1?}: {}", ended.peak_bytes / MIB, ended.took, words.join(" "));
    assert!(
        ended.peak_bytes <= limit_bytes,
        "{} MiB, and {} are allowed: {}",
        ended.peak_bytes / MIB,
        limit_bytes / MIB,
        words.join(" ")
    );
    ended
}

fn remove(path: &Path) {
    if path.is_dir() {
        fs::remove_dir_all(path).unwrap();
    } else {
        fs::remove_file(path).unwrap();
    }
}

/// Everything that is done with a snapshot in its life, measured, in a repository of its own for
/// each setting. `change` makes a second version of the source.
fn life(source: &Path, mut change: impl FnMut()) {
    for setting in SETTINGS {
        let lab = Lab::bare();
        lab.ok(&["init"]);
        let source = source.to_str().unwrap();
        let backup = ["backup", source, "--name", "it"];
        measured(&lab, setting, &backup);
        measured(&lab, setting, &backup);
        measured(&lab, setting, &["restore", "it@latest", "back"]);
        measured(&lab, setting, &["restore", "it@latest", "back", "--in-place"]);
        remove(&lab.path("back"));
        change();
        measured(&lab, setting, &backup);
        measured(&lab, setting, &["snapshots"]);
        measured(&lab, setting, &["stats"]);
        measured(&lab, setting, &["verify", "--read-data"]);
        measured(&lab, setting, &["forget", "--keep-last", "1"]);
        measured(&lab, setting, &["prune", "--max-repack", "100%"]);
    }
}

#[test]
fn a_large_image_takes_no_more_memory_than_set() {
    let folder = scratch();
    let disk = folder.path().join("disk");
    let size = if soak() { 8192 * MIB } else { 384 * MIB };
    noise_file(&disk, 1, size);
    let mut rng = Rng::new(2);
    // Half of what packs hold becomes garbage: they are written again.
    life(&disk, || drop(change_image(&disk, &mut rng, size / 2 / MIB, MIB)));
}

#[test]
fn a_huge_sparse_image_takes_no_more_memory_than_set() {
    let folder = scratch();
    let disk = folder.path().join("disk");
    let file = File::create(&disk).unwrap();
    file.set_len(2 << 40).unwrap();
    let mut rng = Rng::new(1);
    for _ in 0..if soak() { 1024 } else { 64 } {
        let offset = rng.below((2 << 40) / MIB) * MIB;
        file.write_all_at(&rng.noise(1 << 20), offset).unwrap();
    }
    life(&disk, || drop(change_image(&disk, &mut rng, 10, MIB)));
}

fn many_files(in_a_folder: u64) {
    let folder = scratch();
    let tree = folder.path().join("tree");
    let files = if soak() { 2_000_000 } else { 20_000 };
    let mut rng = Rng::new(1);
    fs::create_dir(&tree).unwrap();
    for number in 0..files {
        let folder = number / in_a_folder;
        let folder = tree.join(format!("{}/{}", folder / 100, folder % 100));
        if number % in_a_folder == 0 {
            fs::create_dir_all(&folder).unwrap();
        }
        fs::write(folder.join(format!("file-{number}")), rng.noise(100)).unwrap();
    }
    life(&tree, || fs::write(tree.join("new"), rng.noise(1000)).unwrap());
}

#[test]
fn many_small_files_in_one_folder_take_no_more_memory_than_set() {
    many_files(u64::MAX);
}

#[test]
fn many_small_files_in_many_folders_take_no_more_memory_than_set() {
    many_files(200);
}

//! How much memory the program takes: what it is told, whatever the data.
#![expect(clippy::unwrap_used, reason = "a failure is a panic")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use tempfile::TempDir;
use tests::support::{
    Lab, MIB, Rng, SETTINGS, change_image, measured, noise_file, scratch, scratch_in_memory, soak,
};

fn remove(path: &Path) {
    if path.is_dir() {
        fs::remove_dir_all(path).unwrap();
    } else {
        fs::remove_file(path).unwrap();
    }
}

/// Everything that is done with a snapshot in its life, measured, in a repository of its own for
/// each setting. `change` makes a second version of the source.
fn life(source: &Path, folder: fn() -> TempDir, mut change: impl FnMut()) {
    for setting in SETTINGS {
        let lab = Lab::within(folder());
        lab.ok(&["init"]);
        lab.ok(&["init", "--repo", "standby"]);
        let source = source.to_str().unwrap();
        let backup = ["backup", source, "--name", "it"];
        measured(&lab, setting, &backup);
        measured(&lab, setting, &backup);
        measured(&lab, setting, &["copy", "--to", "standby", "latest"]);
        measured(&lab, setting, &["restore", "it@latest", "back"]);
        measured(&lab, setting, &["restore", "it@latest", "back", "--in-place"]);
        remove(&lab.path("back"));
        change();
        measured(&lab, setting, &backup);
        measured(&lab, setting, &["copy", "--to", "standby"]);
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
    life(&disk, scratch, || drop(change_image(&disk, &mut rng, size / 2 / MIB, MIB)));
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
    life(&disk, scratch, || drop(change_image(&disk, &mut rng, 10, MIB)));
}

fn many_files(in_a_folder: u64) {
    let scratch: fn() -> TempDir = if soak() { scratch } else { scratch_in_memory };
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
    life(&tree, scratch, || fs::write(tree.join("new"), rng.noise(1000)).unwrap());
}

#[test]
fn many_small_files_in_one_folder_take_no_more_memory_than_set() {
    many_files(u64::MAX);
}

#[test]
fn many_small_files_in_many_folders_take_no_more_memory_than_set() {
    many_files(200);
}

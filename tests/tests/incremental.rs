//! What a second backup and a restore over an older state cost, and that they stay exact.
#![expect(clippy::unwrap_used, reason = "a failure is a panic")]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use serde_json::Value;
use tests::support::{
    Device, Lab, MIB, Rng, assert_same_volume, change_image, data_map, make_image, noise_file,
    privileged, same_bytes, seed, soak,
};

const CHUNK: u64 = 64 << 10;

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("{field} is missing from {value}"))
}

/// Writes a list for `--changed-blocks`.
fn list(lab: &Lab, extents: &[(u64, u64)]) {
    let mut file = File::create(lab.path("changed")).unwrap();
    for (offset, length) in extents {
        writeln!(file, "{}", serde_json::json!({ "offset": offset, "length": length })).unwrap();
    }
}

#[track_caller]
fn assert_restores(lab: &Lab, snapshot: &str, source: &Path) {
    let back = lab.path("back");
    lab.ok(&["restore", snapshot, "back"]);
    assert_same_volume(source, &back, CHUNK);
    fs::remove_file(back).unwrap();
}

const LISTED: [&str; 6] = ["backup", "disk", "--name", "disk", "--changed-blocks", "changed"];
const PLAIN: [&str; 4] = ["backup", "disk", "--name", "disk"];

#[test]
fn a_list_of_changes_makes_a_run_read_and_store_in_proportion_to_them() {
    let mut rng = Rng::new(seed("changes"));
    let lab = Lab::bare();
    lab.ok(&["init"]);
    let size = if soak() { 8192 * MIB } else { 256 * MIB };
    let disk = lab.path("disk");
    noise_file(&disk, rng.number(), size);
    lab.ok(&PLAIN);
    // One part in a hundred, in pieces of the default chunk length.
    let changed = change_image(&disk, &mut rng, size / 100 / MIB, MIB);
    list(&lab, &changed);
    let bytes: u64 = changed.iter().map(|(_, len)| len).sum();
    let before = lab.pack_bytes();
    let run = lab.json(&LISTED);
    assert!(number(&run, "read_bytes") <= bytes, "{run}");
    assert!(number(&run, "new_bytes") <= bytes + MIB / 2, "{run}");
    let grown = lab.pack_bytes() - before;
    assert!(grown * 10 <= bytes * 13 + 10 * MIB / 2, "{grown} stored for {bytes}");
    assert!(!soak() || number(&run, "seconds") < 10, "{run}");
    assert_restores(&lab, "latest", &disk);
    // Without a list everything is read, and nothing more is stored.
    let before = lab.pack_bytes();
    let run = lab.json(&PLAIN);
    assert_eq!(number(&run, "read_bytes"), size);
    assert_eq!((number(&run, "new_bytes"), lab.pack_bytes()), (0, before), "{run}");
    // Scattered small writes: each costs a chunk that is read and stored, no more.
    let changed = change_image(&disk, &mut rng, 16, 4096);
    list(&lab, &changed);
    let run = lab.json(&LISTED);
    assert!(number(&run, "read_bytes") <= 16 * MIB, "{run}");
    assert!(number(&run, "new_bytes") <= 17 * MIB, "{run}");
    assert_restores(&lab, "latest", &disk);
}

#[test]
fn a_chain_of_listed_changes_stays_exact() {
    let mut rng = Rng::new(seed("chain"));
    let lab = Lab::new();
    let disk = lab.path("disk");
    make_image(&disk, rng.number(), 80 * MIB);
    lab.ok(&PLAIN);
    for _ in 0..if soak() { 40 } else { 6 } {
        let (count, len) = (rng.below(30), 512 << rng.below(9));
        let mut changed = change_image(&disk, &mut rng, count, len);
        // Holes punched and ranges zeroed are changes, too; lists may overlap and exceed.
        let at = rng.below(79) * MIB;
        let file = OpenOptions::new().write(true).open(&disk).unwrap();
        let how = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&file, how, at, MIB).unwrap();
        changed.push((at, MIB));
        let at = rng.below(79) * MIB;
        file.write_all_at(&vec![0; 1 << 20], at).unwrap();
        changed.push((at, MIB));
        changed.push((rng.below(40) * MIB, 2 * MIB));
        list(&lab, &changed);
        lab.ok(&LISTED);
        assert_restores(&lab, "latest", &disk);
    }
    lab.verify();
}

#[test]
fn a_volume_that_grew_or_shrank_since_its_parent_is_saved_as_it_is() {
    let lab = Lab::new();
    let disk = lab.path("disk");
    // Sizes inside a chunk, at chunk ends, and beyond a page of 1024 chunks.
    let sizes = [
        10 * MIB + 1000,
        13 * MIB + 77,
        13 * MIB + 200,
        64 * MIB,
        64 * MIB + 1,
        70 * MIB + 5,
        140 * MIB + 12345,
        70 * MIB + 5,
        3 * CHUNK,
        3 * CHUNK - 1,
        10 * MIB,
    ];
    let mut last = 0;
    for (step, size) in (0u64..).zip(sizes) {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&disk).unwrap();
        file.set_len(size).unwrap();
        if size > last {
            let mut rng = Rng::new(step);
            let new = usize::try_from((size - last).min(2 * MIB)).unwrap();
            file.write_all_at(&rng.noise(new), last).unwrap();
            file.write_all_at(&rng.noise(100), size - 100.min(size - last)).unwrap();
            file.set_len(size).unwrap();
        }
        // A source of changes that knows of no change but the new length lists nothing at all.
        list(&lab, &[]);
        let line: &[&str] = if step == 0 { &PLAIN } else { &LISTED };
        lab.ok(line);
        println!("{last} to {size}");
        assert_restores(&lab, "latest", &disk);
        lab.ok(&["backup", "disk", "--name", "whole"]);
        assert_restores(&lab, "whole@latest", &disk);
        last = size;
    }
    lab.verify();
}

#[test]
fn a_list_never_hides_what_the_parent_does_not_have() {
    if !privileged("loop devices") {
        return;
    }
    let lab = Lab::new();
    // The parent could not read its end, in a page of chunks that nothing has changed since.
    let source = lab.path("source");
    noise_file(&source, 2, 70 * MIB);
    let whole = fs::read(&source).unwrap();
    let device = Device::over(&source);
    let path = device.path.to_str().unwrap();
    File::options().write(true).open(&source).unwrap().set_len(69 * MIB).unwrap();
    lab.run(&["backup", path, "--name", "disk"]).expect(3).says(&["bytes 72351744"]);
    fs::write(&source, &whole).unwrap();
    list(&lab, &[(0, 4096)]);
    let line = ["backup", path, "--name", "disk", "--changed-blocks", "changed", "--json"];
    let ended = lab.run(&line);
    let json = ended.clone().expect(0).last_json();
    assert_eq!(json["complete"], true);
    lab.ok(&["restore", "latest", "back"]);
    assert!(same_bytes(&source, &lab.path("back")), "{ended}");
}

#[test]
fn a_list_does_not_keep_a_backup_from_healing_what_was_damaged() {
    let lab = Lab::new();
    let disk = lab.path("disk");
    noise_file(&disk, 3, 80 * MIB);
    lab.ok(&PLAIN);
    let stored = lab.stored();
    let (pack, _) = stored["p"].iter().max_by_key(|(_, size)| **size).unwrap();
    fs::remove_file(lab.repo().join("p").join(pack)).unwrap();
    lab.run(&["verify"]).expect(4);
    list(&lab, &[(0, 4096)]);
    lab.ok(&LISTED);
    assert_restores(&lab, "latest", &disk);
}

#[test]
fn a_list_that_does_not_fit_is_refused() {
    let lab = Lab::new();
    noise_file(&lab.path("disk"), 1, MIB);
    list(&lab, &[(0, 4096)]);
    lab.run(&LISTED).expect(1).says(&["needs a parent", "full backup"]);
    lab.ok(&PLAIN);
    list(&lab, &[(0, 512), (MIB - 1, 2)]);
    lab.run(&LISTED).expect(1).says(&["line 2", "1048577", "1048576"]);
    fs::write(lab.path("changed"), "{\"offset\":0,\"length\":5}\nnonsense\n").unwrap();
    lab.run(&LISTED).expect(1).says(&["line 2", "offset", "length"]);
    fs::write(lab.path("changed"), "{\"offset\":-1,\"length\":5}\n").unwrap();
    lab.run(&LISTED).expect(1).says(&["line 1"]);
    fs::remove_file(lab.path("changed")).unwrap();
    lab.run(&LISTED).expect(1).says(&["changed", "no such file"]);
    assert_eq!(lab.snapshots().len(), 1);
}

#[test]
fn holes_come_back_as_holes_and_zeroes_cost_nothing() {
    let lab = Lab::bare();
    lab.ok(&["init"]);
    let disk = lab.path("disk");
    let file = File::create(&disk).unwrap();
    file.set_len(1 << 40).unwrap();
    let mut rng = Rng::new(1);
    for offset in [0, 5 * MIB, (1 << 39) + 4096, (1 << 40) - 512] {
        file.write_all_at(&rng.noise(512), offset).unwrap();
    }
    file.write_all_at(&vec![0; 20 << 20], 100 * MIB).unwrap();
    let run = lab.json(&PLAIN);
    assert_eq!(number(&run, "logical_bytes"), 1 << 40);
    assert!(number(&run, "stored_bytes") < MIB, "{run}");
    assert!(number(&run, "read_bytes") <= 24 * MIB, "{run}");
    lab.ok(&["restore", "latest", "back"]);
    let back = lab.path("back");
    assert_eq!(fs::metadata(&back).unwrap().len(), 1 << 40);
    assert!(fs::metadata(&back).unwrap().blocks() * 512 <= 5 * MIB);
    for (start, end) in data_map(&disk) {
        let (mut a, mut b) = (vec![0; 1 << 16], vec![1; 1 << 16]);
        let len = usize::try_from((end - start).min(1 << 16)).unwrap();
        file_at(&disk, start, &mut a[..len]);
        file_at(&back, start, &mut b[..len]);
        assert!(a[..len] == b[..len], "at {start}");
    }
}

fn file_at(path: &Path, offset: u64, buffer: &mut [u8]) {
    File::open(path).unwrap().read_exact_at(buffer, offset).unwrap();
}

#[test]
fn images_of_any_size_come_back_byte_for_byte() {
    let lab = Lab::new();
    let mut sizes = vec![0, 1, 511, 512, 513, 4095, 4097, 65535, 65536, 65537, 131_073];
    sizes.extend([MIB - 1, MIB + 1, 3 * MIB + 12345]);
    for size in sizes {
        noise_file(&lab.path("disk"), size, size);
        lab.ok(&["backup", "disk", "--name", &size.to_string()]);
        assert_restores(&lab, &format!("{size}@latest"), &lab.path("disk"));
        let bytes = lab.command(&["cat", &format!("{size}@latest")]).output().unwrap().stdout;
        assert!(bytes == fs::read(lab.path("disk")).unwrap(), "{size}");
        // In place, over something of another length.
        for other in [0, 1, 70_000, 5 * MIB] {
            noise_file(&lab.path("target"), other + 9, other);
            lab.ok(&["restore", &format!("{size}@latest"), "target", "--in-place"]);
            assert_same_volume(&lab.path("disk"), &lab.path("target"), CHUNK);
        }
    }
    lab.verify();
}

#[test]
fn a_restore_in_place_writes_only_chunks_that_differ() {
    let mut rng = Rng::new(seed("in place"));
    let lab = Lab::new();
    let disk = lab.path("disk");
    make_image(&disk, rng.number(), 64 * MIB);
    lab.ok(&PLAIN);
    let target = lab.path("target");
    lab.ok(&["restore", "latest", "target"]);
    let line = ["restore", "latest", "target", "--in-place"];
    let same = lab.json(&line);
    assert_eq!((number(&same, "written_bytes"), number(&same, "fetched_bytes")), (0, 0), "{same}");
    let changed = change_image(&target, &mut rng, 10, 4096);
    let mut chunks: Vec<u64> = changed.iter().map(|(offset, _)| offset / CHUNK).collect();
    chunks.sort_unstable();
    chunks.dedup();
    let run = lab.json(&line);
    // A changed hole is made a hole again, which is no write.
    assert!(number(&run, "written_bytes") <= chunks.len() as u64 * CHUNK, "{run}");
    assert_same_volume(&disk, &target, CHUNK);
    lab.ok(&["restore", "latest", "full", "--no-sparse"]);
    assert!(same_bytes(&disk, &lab.path("full")));
    let blocks = fs::metadata(lab.path("full")).unwrap().blocks() * 512;
    assert!(blocks >= 64 * MIB, "--no-sparse left holes: {blocks}");
}

#[test]
fn a_device_is_backed_up_and_restored_like_a_file() {
    if !privileged("loop devices") {
        return;
    }
    let mut rng = Rng::new(seed("device"));
    let lab = Lab::new();
    let size = 20 * MIB + 3 * 512;
    let change = |rng: &mut Rng, path: &Path| {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        let offsets: Vec<u64> = (0..20).map(|_| rng.below(size / 4096) * 4096).collect();
        for offset in &offsets {
            file.write_all_at(&rng.noise(4096), *offset).unwrap();
        }
        offsets.into_iter().map(|offset| (offset, 4096)).collect::<Vec<_>>()
    };
    make_image(&lab.path("one"), rng.number(), size);
    make_image(&lab.path("two"), rng.number(), size + MIB);
    let (one, two) = (Device::over(&lab.path("one")), Device::over(&lab.path("two")));
    let (from, to) = (one.path.to_str().unwrap(), two.path.to_str().unwrap());
    lab.ok(&["backup", from, "--name", "device"]);
    lab.ok(&["restore", "latest", to, "--in-place"]);
    let same = |what: &str| {
        let (mut a, mut b) = (vec![0; usize::try_from(size).unwrap()], Vec::new());
        file_at(&one.path, 0, &mut a);
        b.resize(a.len(), 1);
        file_at(&two.path, 0, &mut b);
        assert!(a == b, "{what}");
    };
    same("restored over other content");
    let again = lab.json(&["restore", "latest", to, "--in-place"]);
    assert_eq!(number(&again, "written_bytes"), 0, "{again}");
    list(&lab, &change(&mut rng, &one.path));
    lab.ok(&["backup", from, "--name", "device", "--changed-blocks", "changed"]);
    let run = lab.json(&["restore", "latest", to, "--in-place"]);
    assert!(number(&run, "written_bytes") <= 20 * CHUNK, "{run}");
    same("updated in place");
    lab.ok(&["restore", "latest", "file"]);
    assert!(same_bytes(&one.path, &lab.path("file")));
}

#[test]
fn once_all_is_forgotten_no_index_segment_is_left() {
    let lab = Lab::new();
    for seed in 0..3 {
        make_image(&lab.path("disk"), seed, 2 * MIB);
        lab.ok(&["backup", "disk"]);
    }
    let all = lab.snapshots();
    lab.ok(&["forget", &all[0], &all[1], &all[2]]);
    // The first empties the index, the second removes what that replaced.
    for _ in 0..2 {
        lab.ok(&["prune"]);
    }
    let stored = lab.stored();
    for folder in ["p", "x", "ses", "com"] {
        assert!(stored[folder].is_empty(), "{folder}: {:?}", stored[folder]);
    }
    lab.ok(&["backup", "disk"]);
    lab.verify();
}

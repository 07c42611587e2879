//! A repository of millions of chunks: what it costs to open, and how much memory it takes.
#![expect(clippy::unwrap_used, reason = "a failure is a panic")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use repository::Repository;
use repository::store::FsStore;
use repository::store::wrap::{Metered, UsageRow};
use repository::view::View;
use tests::support::repository::secret;
use tests::support::{Lab, MIB, SETTINGS, example, measured, noise_file, run, soak};

fn fill(lab: &Lab, chunks: u64, chunks_a_pack: u64) {
    let program = example("many_chunks");
    let numbers = [chunks.to_string(), chunks_a_pack.to_string()];
    run(program.to_str().unwrap(), &[lab.repo().to_str().unwrap(), &numbers[0], &numbers[1]]);
}

fn forget_cache(lab: &Lab) {
    let cache = lab.path("home/.cache");
    if cache.exists() {
        fs::remove_dir_all(cache).unwrap();
    }
}

/// Requests and bytes that it takes to open the repository and list its snapshots.
fn cost_of_opening(repo: &Path) -> (u64, u64) {
    let store = Metered::new(FsStore::open(repo).unwrap());
    let meter = store.meter();
    let repository = Repository::open(Arc::new(store), &secret()).unwrap();
    assert_eq!(View::for_reading(&repository).unwrap().snapshots().len(), 1);
    let used = meter.read();
    let sum = |of: fn(&UsageRow) -> u64| used.rows.iter().map(of).sum();
    (sum(|row| row.requests), sum(|row| row.bytes))
}

#[test]
fn opening_costs_the_same_however_many_chunks_there_are_and_memory_is_what_is_set() {
    let (few, many) = (Lab::new(), Lab::new());
    fill(&few, 10, 512);
    fill(&many, if soak() { 10_000_000 } else { 300_000 }, if soak() { 32 } else { 512 });
    for lab in [&few, &many] {
        lab.ok(&["prune"]);
        forget_cache(lab);
    }
    let (small, large) = (cost_of_opening(few.repo()), cost_of_opening(many.repo()));
    println!("requests and bytes: {small:?} with 10 chunks, {large:?} with many");
    assert!(large.0 <= small.0 + 4, "{large:?} against {small:?} requests");
    assert!(large.1 <= small.1 + 100_000, "{large:?} against {small:?} bytes");
    noise_file(&many.path("disk"), 1, 8 * MIB);
    for setting in SETTINGS {
        forget_cache(&many);
        measured(&many, setting, &["snapshots"]);
        measured(&many, setting, &["backup", "disk", "--name", "disk"]);
        measured(&many, setting, &["restore", "disk@latest", "back"]);
        measured(&many, setting, &["stats"]);
        measured(&many, setting, &["verify"]);
        measured(&many, setting, &["forget", "disk@latest"]);
        measured(&many, setting, &["prune"]);
        fs::remove_file(many.path("back")).unwrap();
    }
    // Everything goes at once: more packs than a catalog has room for.
    measured(&many, SETTINGS[1], &["forget", "many@latest"]);
    measured(&many, SETTINGS[1], &["prune"]);
    many.assert_tidy();
    assert_eq!(many.pack_bytes(), 0);
}

/// The packs hold few chunks, so that memory for each pack cannot hide.
#[test]
fn maintenance_takes_a_few_bytes_for_each_pack() {
    const CHUNKS_A_PACK: u64 = 4;
    const BYTES_A_PACK: u64 = 32;
    let packs: [u64; 2] = if soak() { [100_000, 1_100_000] } else { [30_000, 230_000] };
    let labs = packs.map(|packs| {
        let lab = Lab::new();
        fill(&lab, packs * CHUNKS_A_PACK, CHUNKS_A_PACK);
        lab
    });
    // The first fills the cache.
    for line in [&["stats"][..], &["prune", "--dry-run"], &["verify"], &["prune"], &["stats"]] {
        let peaks = [0, 1].map(|at| measured(&labs[at], SETTINGS[0], line).peak_bytes);
        let each = peaks[1].saturating_sub(peaks[0]) / (packs[1] - packs[0]);
        println!("{each} bytes a pack: {line:?}");
        assert!(each <= BYTES_A_PACK, "{each} bytes for each pack: {line:?}");
    }
    // More than a catalog has room for at once, and what a dry run says of it.
    measured(&labs[1], SETTINGS[1], &["forget", "many@latest"]);
    let dry = labs[1].json(&["prune", "--dry-run"]);
    assert!(dry["unneeded_packs"].as_u64().unwrap() > packs[1]);
    let wet = measured(&labs[1], SETTINGS[1], &["prune", "--json"]).last_json();
    assert_eq!(
        (&wet["deleted_packs"], &wet["postponed_packs"]),
        (&dry["unneeded_packs"], &0.into())
    );
    labs[1].assert_tidy();
    assert_eq!(labs[1].pack_bytes(), 0);
}

#[test]
fn a_cold_node_begins_at_once_and_says_what_it_read_of_the_index() {
    let lab = Lab::new();
    fill(&lab, 1_300_000, 512);
    noise_file(&lab.path("disk"), 1, 8 * MIB);
    let backup = ["backup", "disk", "--name", "disk"];
    let patient = lab.json(&backup);
    let read = |ended: &serde_json::Value, name: &str| ended["index"][name].as_u64().unwrap();
    assert_eq!(patient["index"]["was_cold"], true);
    // Four of chunks, one of the manifest.
    assert_eq!((read(&patient, "segments"), read(&patient, "segments_left")), (5, 0));
    assert!(read(&patient, "entries") >= 1_300_000 && read(&patient, "bytes") >= 52_000_000);
    let warm = lab.json(&backup);
    assert_eq!((read(&warm, "entries"), warm["index"]["was_cold"].as_bool()), (0, Some(false)));
    forget_cache(&lab);
    // It has the newest segment, which lists this volume, and goes on with the others meanwhile.
    let hasty = lab.json(&[&backup[..], &["--index-wait", "0"]].concat());
    assert_eq!(hasty["index"]["was_cold"], true);
    assert!(read(&hasty, "segments") + read(&hasty, "segments_left") >= 5, "{hasty}");
    // Whatever of the index was there, the snapshot is whole, and what was stored twice goes.
    let pruned = lab.json(&["prune"]);
    assert_eq!(pruned["missing_chunks"], 0);
    lab.ok(&["restore", "disk@latest", "back"]);
    assert_eq!(fs::read(lab.path("back")).unwrap(), fs::read(lab.path("disk")).unwrap());
    let told = fs::remove_dir_all(lab.path("home/.cache")).map(|()| lab.ok(&backup)).unwrap();
    assert!(told.stdout.contains("the index cache was cold"), "{told}");
}

#[test]
fn a_dry_run_says_what_a_prune_then_does() {
    let lab = Lab::new();
    for (number, mib) in [(1, 24), (2, 8), (3, 8)] {
        noise_file(&lab.path("disk"), number, mib * MIB);
        lab.ok(&["backup", "disk", "--name", "disk"]);
        noise_file(&lab.path("other"), 10 + number, MIB);
        lab.ok(&["backup", "other", "--name", "other"]);
    }
    lab.ok(&["forget", "--keep-last", "1", "--name", "disk"]);
    let options = ["prune", "--max-repack", "50%"];
    let dry = lab.json(&[&options[..], &["--dry-run"]].concat());
    let wet = lab.json(&options);
    let names = [
        "packs",
        "bytes",
        "needed_bytes",
        "unneeded_packs",
        "unneeded_bytes",
        "repacked_packs",
        "repacked_bytes",
        "leftover_packs",
        "leftover_bytes",
        "left_bytes",
        "missing_chunks",
    ];
    for name in names {
        assert_eq!(dry[name], wet[name], "{name}");
    }
    let of = |name: &str| wet[name].as_u64().unwrap();
    assert!(of("unneeded_packs") > 0);
    let deleted = of("unneeded_packs") + of("repacked_packs") + of("leftover_packs");
    assert_eq!(of("deleted_packs"), deleted, "{wet}");
    let again = lab.json(&[&options[..], &["--dry-run"]].concat());
    assert_eq!(again["unneeded_packs"], 0);
}

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
use tests::support::{Lab, MIB, SETTINGS, measured, noise_file, soak};

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
    few.fill_with_chunks(10, 512);
    let (chunks, chunks_a_pack) = if soak() { (10_000_000, 32) } else { (300_000, 512) };
    many.fill_with_chunks(chunks, chunks_a_pack);
    for lab in [&few, &many] {
        lab.ok(&["prune"]);
        lab.forget_cache();
    }
    let (small, large) = (cost_of_opening(few.repo()), cost_of_opening(many.repo()));
    println!("requests and bytes: {small:?} with 10 chunks, {large:?} with many");
    assert!(large.0 <= small.0 + 4, "{large:?} against {small:?} requests");
    assert!(large.1 <= small.1 + 100_000, "{large:?} against {small:?} bytes");
    noise_file(&many.path("disk"), 1, 8 * MIB);
    for setting in SETTINGS {
        many.forget_cache();
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
    // The fewer packs, the more of what the large repository takes is buffers that fill up.
    let (packs, bytes_a_pack): ([u64; 2], _) =
        if soak() { ([150_000, 1_150_000], 32) } else { ([130_000, 260_000], 80) };
    let labs = packs.map(|packs| {
        let lab = Lab::new();
        lab.fill_with_chunks(packs * CHUNKS_A_PACK, CHUNKS_A_PACK);
        lab
    });
    for lab in &labs {
        // Loads the index; what that takes grows with the data until buffers are full.
        measured(lab, SETTINGS[0], &["stats"]);
    }
    for line in [&["stats"][..], &["prune", "--dry-run"], &["verify"], &["prune"]] {
        let peaks = [0, 1].map(|at| measured(&labs[at], SETTINGS[0], line).peak_bytes);
        let each = peaks[1].saturating_sub(peaks[0]) / (packs[1] - packs[0]);
        println!("{each} bytes a pack: {line:?}");
        assert!(each <= bytes_a_pack, "{each} bytes for each pack: {line:?}");
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

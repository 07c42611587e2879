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
use tests::support::{Lab, MIB, example, measured, noise_file, run, soak};

fn fill(lab: &Lab, chunks: u64) {
    let program = example("many_chunks");
    run(program.to_str().unwrap(), &[lab.repo().to_str().unwrap(), &chunks.to_string()]);
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
    fill(&few, 10);
    fill(&many, if soak() { 10_000_000 } else { 300_000 });
    for lab in [&few, &many] {
        lab.ok(&["prune"]);
        let remade = lab.path("home/.cache");
        fs::remove_dir_all(remade).unwrap();
    }
    let (small, large) = (cost_of_opening(few.repo()), cost_of_opening(many.repo()));
    println!("requests and bytes: {small:?} with 10 chunks, {large:?} with many");
    assert!(large.0 <= small.0 + 4, "{large:?} against {small:?} requests");
    assert!(large.1 <= small.1 + 100_000, "{large:?} against {small:?} bytes");
    noise_file(&many.path("disk"), 1, 8 * MIB);
    for setting in tests::support::SETTINGS {
        let cache = many.path("home/.cache");
        if cache.exists() {
            fs::remove_dir_all(cache).unwrap();
        }
        let opened = measured(&many, setting, &["snapshots"]);
        assert!(opened.took.as_secs() < 5, "{opened}");
        measured(&many, setting, &["backup", "disk", "--name", "disk"]);
        measured(&many, setting, &["restore", "disk@latest", "back"]);
        measured(&many, setting, &["stats"]);
        measured(&many, setting, &["verify"]);
        measured(&many, setting, &["forget", "disk@latest"]);
        measured(&many, setting, &["prune"]);
        fs::remove_file(many.path("back")).unwrap();
    }
}

//! Beside backups and prunes nothing sound is called damaged.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use repo_format::id::SnapshotId;

use super::fixture::{CHUNK, Fixture, Source, noise};
use crate::check::{VerifyOptions, verify};
use crate::gc::{self, Unwatched};
use crate::view::View;

#[test]
fn a_verify_beside_backups_and_prunes_is_clean() {
    let mut fixture = Fixture::new();
    let maintained = fixture.open_warm().unwrap();
    let watched = fixture.open_cold().unwrap();
    let stop = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let verifier = scope.spawn(|| {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) || rounds == 0 {
                let options = VerifyOptions { read_data: Some(1.0), ..Default::default() };
                let report =
                    verify(&watched.repository, &watched.index, &options, &Unwatched).unwrap();
                assert!(report.is_clean(), "round {rounds}: {report:#?}");
                rounds += 1;
            }
            rounds
        });
        let start = Instant::now();
        let mut seed = 100;
        while start.elapsed() < Duration::from_secs(8) && !verifier.is_finished() {
            seed += 1;
            fixture.back_up(&maintained, "disk", Source::Volume(noise(seed, 4 * CHUNK)));
            let view = View::for_reading(&maintained.repository).unwrap();
            let kept: BTreeSet<SnapshotId> =
                view.snapshots().iter().rev().take(2).map(|snapshot| snapshot.id).collect();
            let old: Vec<SnapshotId> =
                view.all_snapshots().into_keys().filter(|id| !kept.contains(id)).collect();
            gc::forget(&maintained.repository, &old, None).unwrap();
            maintained.prune();
        }
        stop.store(true, Ordering::Relaxed);
        verifier.join().unwrap()
    });
    assert!(rounds > 0);
}

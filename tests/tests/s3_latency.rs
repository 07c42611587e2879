//! A long way to the server. What has to be asked one request after the other takes the way each
//! time, so the round trips in sequence are counted; `benches/s3/run` has the times.
#![expect(clippy::unwrap_used, reason = "a failure is a panic")]

use std::time::Duration;

use tests::support::s3::{Bucket, bucket};
use tests::support::s3proxy::{Orders, Proxy, Seen, depth};
use tests::support::{Lab, MIB, noise_file, same_bytes};

/// Long enough that what is asked for at once arrives at once on a busy machine, too.
const LONG: Duration = Duration::from_millis(200);
const LATENCY: Duration = Duration::from_millis(50);

struct Far {
    proxy: Proxy,
    lab: Lab,
}

impl Far {
    /// A repository with a snapshot of so much data, and from then on a long way to it.
    fn stocked(bucket: &Bucket, size_bytes: u64, latency: Duration) -> Self {
        let endpoint = bucket.endpoint.clone().unwrap();
        let proxy = Proxy::start(&endpoint, 1, Orders::default());
        let lab = Lab::in_bucket(&bucket.through(&proxy.endpoint()), "latency");
        noise_file(&lab.path("disk"), 1, size_bytes);
        lab.ok(&["init"]);
        proxy.order(Orders { latency, ..Orders::default() });
        Self { proxy, lab }
    }

    fn run(&self, line: &[&str]) -> Vec<Seen> {
        self.proxy.take_seen();
        self.lab.ok(line);
        self.proxy.take_seen()
    }

    /// The run with the fewest round trips of some, as `count` counts them: what else a machine does
    /// only adds to them.
    fn best(&self, line: &[&str], count: impl Fn(&[Seen]) -> usize) -> usize {
        let runs = (0..3).map(|_| {
            let _ = std::fs::remove_file(self.lab.path("back"));
            let seen = self.run(line);
            for Seen { method, target, depth, .. } in &seen {
                println!("{depth:3} {method} {target}");
            }
            println!("{line:?}: {} of {} requests in sequence", count(&seen), seen.len());
            count(&seen)
        });
        runs.min().unwrap()
    }
}

/// Round trips up to the first request of packs that has a range or a body.
fn before_data(seen: &[Seen]) -> usize {
    let of_pack = |seen: &&Seen| seen.target.contains("/p/");
    seen.iter().filter(of_pack).map(|seen| seen.depth - 1).min().unwrap()
}

#[test]
fn few_round_trips_in_sequence_come_before_the_data_and_few_after_it() {
    let bucket = bucket();
    if bucket.endpoint.is_none() {
        return;
    }
    let far = Far::stocked(&bucket, MIB, LONG);
    // Config, key slot, sessions and commits, an own session and the catalog once more; then packs,
    // segment, commit and a look at the session.
    let first = (0..3).map(|seed| {
        noise_file(&far.lab.path("disk"), 2 + seed, MIB);
        depth(&far.run(&["backup", "disk", "--name", "disk", "--parent", "none"]))
    });
    let whole = first.min().unwrap();
    assert!(whole <= 9, "first backup: {whole}");
    let whole = far.best(&["backup", "disk", "--name", "disk"], depth);
    assert!(whole <= 8, "backup of what has not changed: {whole}");
    let before = far.best(&["restore", "disk@latest", "back"], before_data);
    assert!(before <= 5, "before a restore's manifest: {before}");
    let whole = far.best(&["restore", "disk@latest", "back"], depth);
    assert!(whole <= 8, "restore: {whole}");
    assert!(same_bytes(&far.lab.path("disk"), &far.lab.path("back")));
    let whole = far.best(&["snapshots"], depth);
    assert!(whole <= 4, "snapshots: {whole}");

    // The same from a catalog, with its pages, and a cold cache.
    far.proxy.order(Orders::default());
    far.lab.ok(&["prune"]);
    far.lab.forget_cache();
    far.proxy.order(Orders { latency: LONG, ..Orders::default() });
    let whole = far.best(&["restore", "disk@latest", "back"], depth);
    assert!(whole <= 8, "restore after a prune: {whole}");
    let whole = far.best(&["backup", "disk", "--name", "disk"], depth);
    assert!(whole <= 8, "backup after a prune: {whole}");
}

#[test]
fn a_far_server_gives_the_same_bytes_and_takes_no_more_requests() {
    let bucket = bucket();
    if bucket.endpoint.is_none() {
        return;
    }
    let run = |latency| {
        let far = Far::stocked(&bucket, 256 * MIB, latency);
        let backup = far.run(&["backup", "disk", "--name", "disk"]);
        let restore = far.run(&["restore", "disk@latest", "back"]);
        assert!(same_bytes(&far.lab.path("disk"), &far.lab.path("back")));
        [backup, restore]
    };
    let (near, far) = (run(Duration::ZERO), run(LATENCY));
    for ((near, far), what) in near.iter().zip(&far).zip(["backup", "restore"]) {
        println!("{what}: {} requests near, {} far", near.len(), far.len());
        // A heartbeat or a checkpoint more, as it takes longer; none is given up and repeated.
        assert!(far.len() <= near.len() + 20, "{what}: {}, near {}", far.len(), near.len());
    }
    let [_, restore] = far;
    let (all, deep) = (restore.len(), depth(&restore));
    assert!(deep * 3 <= all, "{deep} of {all} requests of a restore waited for one another");
}

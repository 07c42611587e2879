//! A repository of millions of chunks and a node whose cache has its index, or has not. Requests are
//! judged; times, near and far, are printed.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use tests::support::s3::{Bucket, bucket};
use tests::support::s3proxy::{Orders, Proxy};
use tests::support::{Lab, MIB, noise_file, soak};

fn backup(lab: &Lab, what: &str) -> Value {
    let ended = lab.ok(&["backup", "disk", "--name", "disk", "--json"]);
    let (json, peak) = (ended.last_json(), ended.peak_bytes / MIB);
    println!("{what}: {:.1?}, {peak} MiB, {} {}", ended.took, json["index"], json["requests"]);
    json
}

#[test]
fn a_cold_node_reads_the_index_in_few_requests_and_a_warm_one_reads_none_of_it() {
    let chunks = if soak() { 10_000_000 } else { 500_000 };
    let bucket = bucket();
    let Some(endpoint) = bucket.endpoint.clone() else { return };
    let prefix = Bucket::prefix("many");
    let near = Lab::bare().moved_to(&bucket, &prefix);
    near.ok(&["init", "--chunk-size", "64K"]);
    // The manifest's pages are the only packs there are.
    near.fill_with_chunks(chunks, 32);
    let proxy = Proxy::start(&endpoint, 1, Orders::default());
    let lab = Lab::bare().moved_to(&bucket.through(&proxy.endpoint()), &prefix);
    noise_file(&lab.path("disk"), 1, 8 * MIB);
    for latency in [Duration::ZERO, Duration::from_millis(50)] {
        proxy.order(Orders { latency, ..Orders::default() });
        println!("{latency:?} a request");
        let opened = lab.ok(&["snapshots"]);
        println!("snapshots without a cache: {:.1?}", opened.took);
        let cold = backup(&lab, "first backup without a cache");
        let warm = backup(&lab, "backup with a warm cache");
        let of = |run: &Value, group: &str, name: &str| run[group][name].as_u64().unwrap();
        assert_eq!((of(&warm, "index", "bytes"), of(&warm, "index", "segments_left")), (0, 0));
        let (bytes, segments) = (of(&cold, "index", "bytes"), of(&cold, "index", "segments"));
        assert!(bytes >= chunks * 40 && of(&cold, "index", "entries") >= chunks, "{cold}");
        let more = of(&cold, "requests", "get_class") - of(&warm, "requests", "get_class");
        // What was fetched ahead and not needed comes to it.
        let wanted = bytes / MIB + segments + 8;
        assert!(more <= wanted + 8, "{more} requests more, {wanted} pieces");
        lab.forget_cache();
    }
    proxy.order(Orders::default());
}

#[test]
fn a_cold_node_begins_at_once_and_says_what_it_read_of_the_index() {
    let lab = Lab::new();
    lab.fill_with_chunks(1_300_000, 512);
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
    lab.forget_cache();
    // It has the newest segment, which lists this volume, and goes on with the others meanwhile.
    let hasty = lab.json(&[&backup[..], &["--index-wait", "0"]].concat());
    assert_eq!(hasty["index"]["was_cold"], true);
    assert!(read(&hasty, "segments") + read(&hasty, "segments_left") >= 5, "{hasty}");
    // Whatever of the index was there, the snapshot is whole, and what was stored twice goes.
    let pruned = lab.json(&["prune"]);
    assert_eq!(pruned["missing_chunks"], 0);
    lab.ok(&["restore", "disk@latest", "back"]);
    assert_eq!(fs::read(lab.path("back")).unwrap(), fs::read(lab.path("disk")).unwrap());
    lab.forget_cache();
    let told = lab.ok(&backup);
    assert!(told.stdout.contains("the index cache was cold"), "{told}");
}

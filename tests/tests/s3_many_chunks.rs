//! A repository of millions of chunks in a bucket: what it takes to open it, with a warm cache of its
//! index and with none. Requests are judged; times, near and far, are printed.
#![expect(clippy::unwrap_used, reason = "a failure is a panic")]

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tests::support::s3::{Bucket, bucket};
use tests::support::s3proxy::{Orders, Proxy};
use tests::support::{Lab, MIB, example, noise_file, soak};

/// The manifest pages of the generator are the only packs there are.
fn fill(bucket: &Bucket, prefix: &str, chunks: u64) {
    let status = Command::new(example("many_chunks"))
        .args([format!("s3:{prefix}"), chunks.to_string(), "32".to_owned()])
        .env("SALVOR_TEST_S3_BUCKET", &bucket.bucket)
        .env("SALVOR_TEST_S3_ENDPOINT", bucket.endpoint.as_deref().unwrap_or_default())
        .env("SALVOR_TEST_S3_REGION", &bucket.region)
        .env("SALVOR_TEST_S3_PROVIDER", bucket.provider.as_deref().unwrap_or_default())
        .env("AWS_ACCESS_KEY_ID", &bucket.key)
        .env("AWS_SECRET_ACCESS_KEY", &bucket.secret)
        .env("AWS_SESSION_TOKEN", bucket.token.as_deref().unwrap_or_default())
        .status();
    assert!(status.unwrap().success());
}

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
    Lab::bare().moved_to(&bucket, &prefix).ok(&["init", "--chunk-size", "64K"]);
    fill(&bucket, &prefix, chunks);
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
        fs::remove_dir_all(lab.path("home/.cache")).unwrap();
    }
    proxy.order(Orders::default());
}

//! A long way to the server: 50 ms for each request. What it costs is printed; only at full length
//! is it judged, for on little data the start of a program decides.

use std::time::Duration;

use tests::support::s3::{Bucket, bucket};
use tests::support::s3proxy::{Orders, Proxy};
use tests::support::{Lab, MIB, noise_file, same_bytes, soak};

const LATENCY: Duration = Duration::from_millis(50);

/// Seconds for a first backup and a restore, and the requests of each.
fn measure(
    bucket: &Bucket,
    proxy: &Proxy,
    latency: Duration,
    size_bytes: u64,
) -> ([f64; 2], [usize; 2]) {
    let lab = Lab::in_bucket(&bucket.through(&proxy.endpoint()), "latency");
    noise_file(&lab.path("disk"), 1, size_bytes);
    lab.ok(&["init"]);
    proxy.order(Orders { latency, ..Orders::default() });
    proxy.take_seen();
    let backup = lab.ok(&["backup", "disk", "--name", "disk"]).took;
    let sent = proxy.take_seen().len();
    let restore = lab.ok(&["restore", "disk@latest", "back"]).took;
    let read = proxy.take_seen().len();
    proxy.order(Orders::default());
    assert!(same_bytes(&lab.path("disk"), &lab.path("back")));
    println!("{latency:?}: backup {backup:.2?}, {sent} requests; restore {restore:.2?}, {read}");
    ([backup.as_secs_f64(), restore.as_secs_f64()], [sent, read])
}

#[test]
fn a_far_server_gives_the_same_bytes_and_takes_no_more_requests() {
    let size_bytes = if soak() { 8192 } else { 256 } * MIB;
    let bucket = bucket();
    let Some(endpoint) = bucket.endpoint.clone() else { return };
    let proxy = Proxy::start(&endpoint, 1, Orders::default());
    let near = measure(&bucket, &proxy, Duration::ZERO, size_bytes);
    let far = measure(&bucket, &proxy, LATENCY, size_bytes);
    for (at, what) in ["backup", "restore"].into_iter().enumerate() {
        let slower = far.0[at] / near.0[at] - 1.0;
        println!("{what}: {:.0} % slower", 100.0 * slower);
        // A heartbeat or a checkpoint more, as it takes longer; no request is given up and repeated.
        let (near_requests, far_requests) = (near.1[at], far.1[at]);
        assert!(far_requests <= near_requests + 20, "{what}: {far_requests}, near {near_requests}");
        assert!(!soak() || slower < 0.2, "{what}: {slower:.2} slower");
    }
}

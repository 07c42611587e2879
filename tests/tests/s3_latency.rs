//! What a long way to the server costs: 50 ms for each request.

use std::time::Duration;

use tests::support::s3::{Bucket, bucket};
use tests::support::s3proxy::{Orders, Proxy};
use tests::support::{Lab, MIB, noise_file, same_bytes, soak};

const LATENCY: Duration = Duration::from_millis(50);

/// Seconds for a first backup and a restore, and requests for both.
fn measure(bucket: &Bucket, proxy: &Proxy, latency: Duration, size_bytes: u64) -> [f64; 2] {
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
    [backup.as_secs_f64(), restore.as_secs_f64()]
}

#[test]
fn a_long_way_to_the_server_costs_little() {
    let size_bytes = if soak() { 8192 } else { 256 } * MIB;
    let bucket = bucket();
    let Some(endpoint) = bucket.endpoint.clone() else { return };
    let proxy = Proxy::start(&endpoint, 1, Orders::default());
    let near = measure(&bucket, &proxy, Duration::ZERO, size_bytes);
    let far = measure(&bucket, &proxy, LATENCY, size_bytes);
    for (what, near, far) in [("backup", near[0], far[0]), ("restore", near[1], far[1])] {
        println!("{what}: {:.0} % slower", 100.0 * (far / near - 1.0));
        // Opening, sessions and catalog are some dozen requests one after the other, however
        // much data there is; the data itself must not wait.
        assert!(far < near * 1.25 + 3.0, "{what}: {near:.2} s near, {far:.2} s far");
    }
}

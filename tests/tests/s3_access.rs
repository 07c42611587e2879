//! Getting to the server: certificates, regions, credentials that change, proxies.
#![expect(clippy::unwrap_used, reason = "a failure is a panic")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use repo_format::key::ObjectKey;
use repository::store::s3::{S3Config, S3Store};
use repository::store::{Refusal, Store, StoreError};
use tests::support::s3::{Bucket, Server, bucket};
use tests::support::s3proxy::{Fault, Orders, Proxy};
use tests::support::{Lab, Running, run, scratch};

/// A certificate for 127.0.0.1, signed by itself, and its key.
fn make_certificate(folder: &Path) {
    let (key, certificate) = (folder.join("private.key"), folder.join("public.crt"));
    let line = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=salvor test",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ];
    let mut all: Vec<&str> = line.to_vec();
    all.extend(["-keyout", key.to_str().unwrap(), "-out", certificate.to_str().unwrap()]);
    run("openssl", &all);
}

#[test]
fn a_certificate_has_to_be_trusted_and_ca_file_makes_it_so() {
    let folder = scratch();
    make_certificate(folder.path());
    let server = Server::start_with(Some(folder.path()));
    let bucket = &server.bucket;
    assert!(bucket.endpoint.as_ref().unwrap().starts_with("https://"));
    let config = bucket.config();
    let store = S3Store::open(&bucket.bucket, "tls", &config).unwrap();
    match store.get(&ObjectKey::Config, 100).unwrap_err() {
        StoreError::Refused { refusal, .. } => assert_eq!(*refusal, Refusal::Certificate),
        error => panic!("{error:?}"),
    }
    let ca_file = Some(folder.path().join("public.crt"));
    let config = S3Config { ca_file, ..config };
    let store = S3Store::open(&bucket.bucket, "tls", &config).unwrap();
    store.put_new(&ObjectKey::Config, b"over TLS").unwrap();
    assert_eq!(store.get(&ObjectKey::Config, 100).unwrap(), b"over TLS");
}

#[test]
fn credentials_that_expire_are_looked_for_again() {
    let bucket = bucket();
    let proxy = Proxy::start(bucket.endpoint.as_ref().unwrap(), 1, Orders::default());
    let lab = Lab::in_bucket(&bucket.through(&proxy.endpoint()), "renewed");
    let profile = |secret: &str| {
        let file = lab.path("credentials");
        let text = format!(
            "[default]\naws_access_key_id = {}\naws_secret_access_key = {secret}\n",
            bucket.key
        );
        fs::write(&file, text).unwrap();
        file
    };
    let command = |line: &[&str], file: &Path| {
        let mut command = lab.command(line);
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        command.env("AWS_SHARED_CREDENTIALS_FILE", file);
        command
    };
    let file = profile(&bucket.secret);
    Running::start(command(&["init"], &file)).wait().expect(0);
    // The server calls them expired for a while; then they are good again.
    proxy.order(Orders { one_in: 1, faults: vec![Fault::Expired], ..Orders::default() });
    let listing = Running::start(command(&["snapshots"], &file));
    std::thread::sleep(Duration::from_millis(700));
    proxy.order(Orders::default());
    listing.wait().expect(0);
    let wrong = Running::start(command(&["snapshots"], &profile("wrong"))).wait();
    wrong.expect(1).says(&["signature is wrong", "secret key"]);
    let mut none = command(&["snapshots"], &lab.path("no-such-file"));
    none.env("AWS_EC2_METADATA_DISABLED", "true");
    none.env("SALVOR_S3_RETRY_SECONDS", "2");
    Running::start(none).wait().expect(1).says(&["no credentials", "AWS_ACCESS_KEY_ID"]);
}

#[test]
fn a_wrong_region_is_put_right_by_the_answer() {
    let bucket = bucket();
    let Some(endpoint) = bucket.endpoint.clone() else { return };
    let proxy = Proxy::start(&endpoint, 1, Orders::default());
    proxy.order(Orders { one_in: 1, faults: vec![Fault::Elsewhere], ..Orders::default() });
    let config =
        S3Config { region: Some("eu-west-1".into()), ..bucket.through(&proxy.endpoint()).config() };
    let store = S3Store::open(&bucket.bucket, &Bucket::prefix("region"), &config).unwrap();
    store.put_new(&ObjectKey::Config, b"there").unwrap();
    assert_eq!(store.get(&ObjectKey::Config, 100).unwrap(), b"there");
    let moved = proxy.spoilt();
    assert_eq!(moved, 1, "only the first request is signed for the wrong region");
}

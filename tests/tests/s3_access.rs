//! Getting to the server: certificates, regions, credentials that change, proxies.
#![expect(clippy::unwrap_used, reason = "a failure is a panic")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use repo_format::key::ObjectKey;
use repository::store::s3::{S3Config, S3Store};
use repository::store::{Refusal, Store, StoreError};
use tests::support::identity::{AUDIENCE, Identity, roles_named};
use tests::support::s3::{Bucket, Server, bucket};
use tests::support::s3proxy::{Fault, Orders, Proxy, Seen};
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
    let server = Server::start_with(Some(folder.path()), &[]);
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

/// A command that finds no credentials but those that it is given.
fn without_keys(lab: &Lab, line: &[&str]) -> std::process::Command {
    let mut command = lab.command(line);
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    command
}

#[test]
fn a_web_identity_token_is_enough_and_a_new_one_is_taken_when_credentials_end() {
    let folder = scratch();
    let identity = Identity::start(folder.path());
    let discovery = identity.discovery();
    let server = Server::start_with(
        None,
        &[
            ("MINIO_IDENTITY_OPENID_CONFIG_URL", &discovery),
            ("MINIO_IDENTITY_OPENID_CLIENT_ID", AUDIENCE),
            ("MINIO_IDENTITY_OPENID_CLIENT_SECRET", "none"),
        ],
    );
    let endpoint = server.bucket.endpoint.clone().unwrap();
    let sts = roles_named(&endpoint);
    let proxy = Proxy::start(&endpoint, 1, Orders::default());
    let lab = Lab::in_bucket(&server.bucket.through(&proxy.endpoint()), "identity");
    let file = lab.path("token");
    let command = |line: &[&str]| {
        let mut command = without_keys(&lab, line);
        command.env("AWS_WEB_IDENTITY_TOKEN_FILE", &file);
        command.env("AWS_ROLE_ARN", "arn:aws:iam::000000000000:role/salvor");
        command.env("AWS_ENDPOINT_URL_STS", &sts);
        command
    };
    fs::write(&file, identity.token("readwrite")).unwrap();
    Running::start(command(&["init"])).wait().expect(0);
    fs::write(lab.path("file"), b"content").unwrap();
    Running::start(command(&["backup", "file"])).wait().expect(0);

    // The credentials end in mid-run, and the token they came from is good no more.
    fs::write(&file, "no token").unwrap();
    let none = Running::start(command(&["snapshots"]));
    std::thread::sleep(Duration::from_millis(500));
    fs::write(&file, identity.token("readwrite")).unwrap();
    none.wait().expect(0);
    proxy.order(Orders { one_in: 1, faults: vec![Fault::Expired], ..Orders::default() });
    let listing = Running::start(command(&["snapshots"]));
    std::thread::sleep(Duration::from_millis(500));
    proxy.order(Orders::default());
    listing.wait().expect(0);

    fs::write(&file, identity.token("readonly")).unwrap();
    Running::start(command(&["backup", "file"]))
        .wait()
        .expect(1)
        .says(&["do not have the right s3:"]);
}

#[test]
fn requests_go_through_the_proxy_that_the_environment_names() {
    let bucket = bucket();
    let Some(endpoint) = bucket.endpoint.clone() else { return };
    let proxy = Proxy::start(&endpoint, 1, Orders::default());
    let lab = Lab::in_bucket(&bucket, "proxy");
    let through = |line: &[&str], exempt: &str| {
        let mut command = lab.command(line);
        command.env("HTTP_PROXY", proxy.endpoint()).env("NO_PROXY", exempt);
        Running::start(command).wait().expect(0);
        proxy.take_seen()
    };
    let seen = through(&["init"], "");
    assert!(seen.iter().all(|seen| seen.target.starts_with(&endpoint)), "{seen:?}");
    assert!(seen.iter().any(|seen| seen.method == "PUT"));
    assert!(through(&["snapshots"], "127.0.0.1").is_empty());
}

#[test]
fn classes_encryption_and_who_pays_are_asked_of_the_server_where_they_belong() {
    let kms = format!("key:{}=", "A".repeat(43));
    let server = Server::start_with(None, &[("MINIO_KMS_SECRET_KEY", &kms)]);
    let endpoint = server.bucket.endpoint.clone().unwrap();
    let proxy = Proxy::start(&endpoint, 1, Orders::default());
    let lab = Lab::in_bucket(&server.bucket.through(&proxy.endpoint()), "wishes");
    let wishes = ["--storage-class", "REDUCED_REDUNDANCY", "--requester-pays", "--sse"];
    let with = |sse: &str, line: &[&str]| {
        lab.ok(&[&wishes[..], &[sse], line].concat());
        proxy.take_seen()
    };
    for (sse, command) in [("AES256", "init"), ("aws:kms", "snapshots")] {
        with(sse, &[command]);
        fs::write(lab.path("file"), sse.repeat(1 << 17)).unwrap();
        let seen = with(sse, &["backup", "file", "--name", sse]);
        assert!(seen.iter().all(|seen| seen.asks("x-amz-request-payer", "requester")));
        let puts: Vec<_> = seen.iter().filter(|seen| seen.method == "PUT").collect();
        assert!(puts.iter().all(|seen| seen.asks("x-amz-server-side-encryption", sse)));
        let (packs, others): (Vec<&Seen>, Vec<&Seen>) =
            puts.iter().partition(|seen| seen.target.contains("/p/"));
        assert!(!packs.is_empty() && !others.is_empty());
        assert!(packs.iter().all(|seen| seen.asks("x-amz-storage-class", "REDUCED_REDUNDANCY")));
        assert!(others.iter().all(|seen| !seen.asks("x-amz-storage-class", "REDUCED_REDUNDANCY")));
    }
    lab.verify();
}

//! The program with a repository in a bucket: everything that it does, and what it costs in
//! requests.
#![expect(clippy::unwrap_used, reason = "a failure is a panic")]

use std::fs;

use tests::support::s3::{Bucket, bucket};
use tests::support::s3proxy::{Fault, Orders, Proxy, Seen};
use tests::support::{
    Lab, MIB, Rng, Running, assert_same_tree, assert_same_volume, change_image, change_tree,
    make_image, make_tree, noise_file,
};

/// A lab with a repository in a bucket, and data.
fn stocked(bucket: &Bucket, test: &str) -> Lab {
    let lab = Lab::in_bucket(bucket, test);
    lab.ok(&["init", "--chunk-size", "64K"]);
    make_image(&lab.path("disk"), 1, 16 * MIB);
    make_tree(&lab.path("tree"), 1, 40);
    lab
}

#[test]
fn everything_works_in_a_bucket_as_on_a_disk() {
    let bucket = bucket();
    let lab = stocked(&bucket, "cli");
    lab.run(&["init"]).expect(1).says(&["already"]);
    lab.ok(&["backup", "disk", "--name", "disk"]);
    lab.ok(&["backup", "tree", "--name", "tree"]);
    fs::copy(lab.path("disk"), lab.path("disk-before")).unwrap();
    let mut rng = Rng::new(2);
    change_image(&lab.path("disk"), &mut rng, 8, 100_000);
    change_tree(&lab.path("tree"), &mut rng);
    lab.ok(&["backup", "disk", "--name", "disk"]);
    lab.ok(&["backup", "tree", "--name", "tree"]);
    lab.verify();
    let ids = lab.snapshots();
    assert_eq!(ids.len(), 4);
    lab.ok(&["restore", &ids[0], "back-before"]);
    assert_same_volume(&lab.path("disk-before"), &lab.path("back-before"), 64 << 10);
    lab.ok(&["restore", "disk@latest", "back"]);
    assert_same_volume(&lab.path("disk"), &lab.path("back"), 64 << 10);
    lab.ok(&["restore", "tree@latest", "back-tree"]);
    assert_same_tree(&lab.path("tree"), &lab.path("back-tree"));
    lab.ok(&["diff", &ids[0], &ids[2]]);
    lab.ok(&["key", "add", "--label", "second", "--new-key-file", "key"]);
    lab.ok(&["key", "remove", "first"]);
    let before = lab.pack_bytes();
    lab.ok(&["forget", "--keep-last", "1"]);
    lab.assert_tidy();
    assert!(lab.pack_bytes() < before, "nothing was reclaimed");
    lab.verify();
    lab.ok(&["restore", "disk@latest", "back-after"]);
    assert_same_volume(&lab.path("disk"), &lab.path("back-after"), 64 << 10);
    let stats = lab.json(&["stats"]);
    assert_eq!(stats["names"].as_object().unwrap().len(), 2, "{stats}");
}

#[test]
fn a_repository_on_a_disk_is_copied_into_a_bucket() {
    let lab = Lab::in_bucket(&bucket(), "copy");
    lab.ok(&["init", "--chunk-size", "64K"]);
    make_image(&lab.path("disk"), 1, 8 * MIB);
    lab.ok(&["--repo", "local", "init", "--chunk-size", "64K"]);
    lab.ok(&["--repo", "local", "backup", "disk", "--name", "disk"]);
    lab.ok(&["--repo", "local", "copy", "--to", lab.repo().to_str().unwrap()]);
    lab.verify();
    lab.ok(&["restore", "disk@latest", "back"]);
    assert_same_volume(&lab.path("disk"), &lab.path("back"), 64 << 10);
}

#[test]
fn the_check_names_what_is_missing_and_creates_nothing() {
    let bucket = bucket();
    let lab = Lab::in_bucket(&bucket, "check");
    let json = lab.json(&["init", "--check"]);
    assert_eq!((&json["type"], &json["fit"]), (&"check".into(), &true.into()));
    lab.run(&["snapshots"]).expect(1).says(&["no Salvor repository", "salvor init"]);
    assert!(lab.ok(&["init", "--check"]).stdout.contains("is fit for a repository"));
    let mut wrong = lab.command(&["init", "--check"]);
    wrong.env("AWS_SECRET_ACCESS_KEY", "wrong");
    let wrong = Running::start(wrong).wait().expect(1);
    wrong.says(&["not fit", "s3:PutObject", "s3:GetObject", "s3:ListBucket", "s3:DeleteObject"]);
    lab.run(&["--repo", "there", "init", "--check"]).expect(2).says(&["s3://"]);
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let bucket = bucket();
    let lab = stocked(&bucket, "foreign");
    let prefix = lab.repo().to_str().unwrap().to_owned();
    let above = prefix.rsplit_once('/').unwrap().0.to_owned();
    lab.run(&["--repo", &above, "init"]).expect(1).says(&["not empty"]);
    lab.ok(&["--repo", &format!("{prefix}-beside"), "init"]);
    lab.ok(&["backup", "disk", "--name", "disk"]);
    assert_eq!(lab.snapshots().len(), 1);
    lab.run(&["--repo", "s3://no-such-bucket-of-salvor-tests", "snapshots"])
        .expect(1)
        .says(&["no bucket", "no-such-bucket-of-salvor-tests"]);
}

#[test]
fn a_command_line_about_buckets_that_makes_no_sense_is_refused() {
    let lab = Lab::bare();
    for (line, word) in [
        (["--storage-class", "DEEP_ARCHIVE"], "thawed"),
        (["--provider", "gcs"], "google"),
        (["--sse", "rot13"], "AES256"),
    ] {
        lab.run(&[&line[..], &["snapshots"]].concat()).expect(2).says(&[word]);
    }
    let line = ["--repo", "s3://b", "--ca-file", "none.pem", "snapshots"];
    lab.run(&line).expect(1).says(&["none.pem"]);
}

#[test]
fn a_bucket_that_creates_twice_will_do_if_the_registers_are_elsewhere() {
    let bucket = bucket();
    let careless = Orders { one_in: 1, faults: vec![Fault::Careless], ..Orders::default() };
    let proxy = Proxy::start(bucket.endpoint.as_ref().unwrap(), 1, careless);
    let lab = Lab::in_bucket(&bucket.through(&proxy.endpoint()), "registers");
    let with =
        |registers: &str, line: &[&str]| lab.run(&[&["--registers", registers], line].concat());
    let ok = |line: &[&str]| with("registers", line).expect(0);
    ok(&["init", "--check"]);
    ok(&["init", "--chunk-size", "64K"]);
    with("registers", &["init"]).expect(1).says(&["already"]);
    make_image(&lab.path("disk"), 1, 16 * MIB);
    make_tree(&lab.path("tree"), 1, 40);
    ok(&["backup", "disk", "--name", "disk"]);
    ok(&["backup", "tree", "--name", "tree"]);

    // The registers of another repository, and none at all: nothing may come of it.
    with("others", &["--repo", &format!("{}-2", lab.repo().display()), "init"]).expect(0);
    let before = lab.stored();
    with("others", &["prune"]).expect(1).says(&["--registers", "nothing was changed"]);
    lab.run(&["prune"]).expect(1).says(&["--registers"]);
    lab.run(&["--repo=registers", "prune"]).expect(1).says(&["--registers"]);
    assert_eq!(lab.stored(), before);

    std::thread::scope(|scope| {
        for volume in ["disk", "tree"] {
            scope.spawn(move || {
                for _ in 0..3 {
                    ok(&["backup", volume, "--name", volume]);
                }
            });
        }
        for _ in 0..3 {
            ok(&["forget", "--keep-last=1", "--prune"]);
        }
    });
    ok(&["verify", "--read-data"]);
    ok(&["restore", "disk@latest", "back"]);
    assert_same_volume(&lab.path("disk"), &lab.path("back"), 64 << 10);
    ok(&["restore", "tree@latest", "back-tree"]);
    assert_same_tree(&lab.path("tree"), &lab.path("back-tree"));
    lab.ok(&["--repo=local", "init", "--chunk-size=64K"]);
    let url = lab.repo().to_str().unwrap();
    lab.ok(&["--repo=local", "copy", "--to", url, "--to-registers", "registers"]);
    for id in with("registers", &["snapshots", "--json"]).expect(0).last_json()["snapshots"]
        .as_array()
        .unwrap()
    {
        ok(&["forget", id["snapshot"].as_str().unwrap()]);
    }
    ok(&["prune"]);
    ok(&["prune"]);
    assert_eq!(lab.pack_bytes(), 0);
}

/// Requests that AWS counts: deletes are free.
fn paid(seen: &[Seen]) -> usize {
    seen.iter().filter(|seen| seen.method != "DELETE").count()
}

#[test]
fn a_terabyte_costs_few_requests_and_a_change_only_what_has_changed() {
    const SIZE: u64 = 640 * MIB;
    let bucket = bucket();
    let proxy = Proxy::start(bucket.endpoint.as_ref().unwrap(), 1, Orders::default());
    let lab = Lab::in_bucket(&bucket.through(&proxy.endpoint()), "requests");
    lab.ok(&["init"]);
    noise_file(&lab.path("disk"), 1, SIZE);
    proxy.take_seen();

    // What does not compress is the most that has to be stored.
    lab.ok(&["backup", "disk", "--name", "disk"]);
    let first = proxy.take_seen();
    let packs = |seen: &[Seen]| seen.iter().filter(|seen| seen.body_bytes > 16 << 20).count();
    let (all, large) = (paid(&first), packs(&first));
    let others = all - large;
    // Packs that are not full are among them.
    assert!(others <= 20, "{others} requests beside the packs");
    // At 100 MB/s a terabyte takes 334 checkpoints, none of which takes as much as this whole run
    // beside its packs.
    let per_tb = large as u64 * 1_000_000_000_000 / SIZE + 334 * others as u64;
    println!("first: {large} packs and {others} other requests: {per_tb} a TB");
    assert!(per_tb <= 45_000, "{per_tb} requests a TB");

    lab.ok(&["backup", "disk", "--name", "disk"]);
    let unchanged = paid(&proxy.take_seen());
    overwrite(&lab.path("disk"), 1, 128 * MIB);
    lab.ok(&["backup", "disk", "--name", "disk"]);
    let changed = paid(&proxy.take_seen());
    println!("unchanged: {unchanged} requests, 128 MiB changed: {changed}");
    assert!(unchanged <= 200, "{unchanged} requests for nothing");
    assert!(changed <= 200 + 2, "{changed} requests for 128 MiB");

    // With room for longer packs a change takes no more than a request for every 64 MiB of it, but
    // for what is the same however much has changed.
    overwrite(&lab.path("disk"), 2, 448 * MIB);
    lab.ok(&["--memory", "1G", "backup", "disk", "--name", "disk"]);
    let changed = paid(&proxy.take_seen());
    println!("448 MiB changed, with more memory: {changed}");
    assert!(
        changed <= unchanged + 7 + 4,
        "{changed} requests for 448 MiB, {unchanged} for nothing"
    );

    lab.forget_cache();
    lab.ok(&["restore", "disk@latest", "back"]);
    assert_same_volume(&lab.path("disk"), &lab.path("back"), 1 << 20);
    let restore = paid(&proxy.take_seen());
    println!("restore of {} chunks: {restore} requests", SIZE / MIB);
    assert!(restore as u64 <= 100 + SIZE / (4 * MIB) + 20, "{restore} requests");
}

/// PUT-class, GET-class and DELETE, as providers charge them.
fn charged(seen: &[Seen]) -> [u64; 3] {
    let mut counts = [0; 3];
    for Seen { method, target, .. } in seen {
        let query = target.split_once('?').map_or("", |(_, query)| query);
        let lists = query.contains("list-type=") || query.starts_with("uploads");
        let class = match method.as_str() {
            "DELETE" => 2,
            "POST" if query.starts_with("delete") => 2,
            "GET" if !lists => 1,
            "HEAD" => 1,
            _ => 0,
        };
        counts[class] += 1;
    }
    counts
}

#[test]
fn every_long_command_reports_the_requests_that_the_server_saw() {
    let bucket = bucket();
    let proxy = Proxy::start(bucket.endpoint.as_ref().unwrap(), 1, Orders::default());
    let lab = stocked(&bucket.through(&proxy.endpoint()), "cost");
    lab.ok(&["--repo", "local", "init"]);
    let stocked = lab.path("disk").metadata().unwrap().len();
    for (line, bytes) in [
        (&["backup", "disk", "--name", "disk"][..], "sent_bytes"),
        (&["backup", "tree", "--name", "tree"], "sent_bytes"),
        (&["restore", "disk@latest", "back"], "received_bytes"),
        (&["restore", "tree@latest", "back-tree"], "received_bytes"),
        (&["verify", "--read-data"], "received_bytes"),
        (&["copy", "--to", "local"], "received_bytes"),
        (&["prune"], "received_bytes"),
        (&["stats"], "received_bytes"),
    ] {
        proxy.take_seen();
        let json = lab.json(line);
        let seen = charged(&proxy.take_seen());
        let both = line[0] == "copy";
        let told = if both { &json["requests"]["source"] } else { &json["requests"] };
        let of = |field: &str| told[field].as_u64().unwrap_or_else(|| panic!("{line:?}: {json}"));
        // A session ends behind the result: its register, and its heartbeat.
        let told = [of("put_class"), of("get_class"), of("delete")];
        for (told, seen) in told.into_iter().zip(seen) {
            assert!((told..=told + 2).contains(&seen), "{line:?}: {told} told, {seen} seen");
        }
        assert!(of(bytes) > 0 && of(bytes) < 2 * stocked, "{line:?}: {json}");
        if both {
            assert!(json["requests"]["target"].is_null(), "{json}");
        }
    }
    let text = lab.ok(&["restore", "disk@latest", "again"]).stdout;
    assert!(text.contains("requests: "), "{text}");
    let local = lab.json(&["--repo", "local", "verify"]);
    assert!(local.get("requests").is_none(), "{local}");
}

#[test]
fn stats_count_what_is_in_the_bucket_and_estimate_its_price() {
    let bucket = bucket();
    let lab = stocked(&bucket, "price");
    lab.ok(&["backup", "disk", "--name", "disk"]);
    let stats = lab.json(&["stats", "--price", "aws-standard"]);
    let objects = stats["objects"].as_array().unwrap();
    let sum: u64 = objects.iter().map(|row| row["bytes"].as_u64().unwrap()).sum();
    assert_eq!(stats["object_bytes"].as_u64(), Some(sum));
    let packs = objects.iter().find(|row| row["folder"] == "p").unwrap();
    assert_eq!(packs["bytes"].as_u64(), Some(lab.pack_bytes()));
    let month = stats["price"]["storage_month"].as_f64().unwrap();
    let wanted = f64::from(u32::try_from(sum).unwrap()) / f64::from(1 << 30) * 0.023;
    assert!((month / wanted - 1.0).abs() < 1e-6, "{month} for {sum} bytes, not {wanted}");
    let restore = &stats["price"]["restore"];
    assert!(restore["egress"].as_f64() > restore["requests"].as_f64(), "{restore}");
    assert!(lab.json(&["stats"]).get("price").is_none(), "nobody knows what this server costs");

    let table = r#"[{"name": "aws-standard", "storage_gb_month": 1073741824}]"#;
    fs::write(lab.path("prices"), table).unwrap();
    let line = ["stats", "--price", "aws-standard", "--price-table", "prices"];
    let month = lab.json(&line)["price"]["storage_month"].as_f64().unwrap();
    assert!((month - f64::from(u32::try_from(sum).unwrap())).abs() < 1.0, "{month}");
    assert!(lab.ok(&line).stdout.contains("list price, without tax"));
    lab.run(&["stats", "--price", "nobody"]).expect(2).says(&["backblaze-b2", "aws-glacier-ir"]);
    fs::write(lab.path("prices"), r#"[{"name": "x", "storage": 1}]"#).unwrap();
    lab.run(&line).expect(1).says(&["price table", "prices", "storage"]);
}

/// Other bytes at the start of a file.
fn overwrite(path: &std::path::Path, seed: u64, len: u64) {
    use std::io::{Seek, SeekFrom, Write};
    let mut file = fs::File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let noise = Rng::new(99 + seed).noise(usize::try_from(len).unwrap());
    file.write_all(&noise).unwrap();
}

//! The S3 backend against a real server.
#![expect(clippy::unwrap_used, reason = "a failure is a panic")]

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use repo_format::id::{ObjectName, SessionId};
use repo_format::key::{ObjectKey, Prefix};
use repository::store::s3::{Checksum, Multipart, S3Config, S3Store};
use repository::store::{Action, Refusal, Store, StoreError, conformance};
use tests::support::Rng;
use tests::support::s3::{Bucket, bucket};
use zeroize::Zeroizing;

fn pack(n: u32) -> ObjectKey {
    ObjectKey::Pack(ObjectName { session: SessionId([9; 16]), counter: n })
}

fn with(bucket: &Bucket, config: &S3Config, test: &str) -> S3Store {
    S3Store::open(&bucket.bucket, &Bucket::prefix(test), config).unwrap()
}

#[test]
fn every_promise_of_a_store_is_kept_in_a_bucket() {
    let bucket = bucket();
    conformance::run(&|| Box::new(bucket.store("conformance")));
}

#[test]
fn every_promise_is_kept_with_every_checksum_and_with_little_in_one_part() {
    let bucket = bucket();
    for checksum in [Checksum::Md5, Checksum::Sha256, Checksum::Crc32c] {
        let multipart = Multipart { threshold_bytes: 1 << 20, part_bytes: 5 << 20, parallel: 2 };
        let config = S3Config { checksum: Some(checksum), multipart, ..bucket.config() };
        conformance::run(&|| Box::new(with(&bucket, &config, "conformance")));
    }
}

#[test]
fn bodies_at_every_edge_of_a_part_come_back_the_same() {
    const PART: usize = 5 << 20;
    let bucket = bucket();
    let multipart = Multipart { threshold_bytes: PART, part_bytes: PART, parallel: 3 };
    let config = S3Config { multipart, ..bucket.config() };
    let store = with(&bucket, &config, "parts");
    let noise = Rng::new(1).noise(4 * PART);
    let sizes = [PART - 1, PART, PART + 1, 2 * PART - 1, 2 * PART, 2 * PART + 1, 4 * PART];
    let mut parts = 0;
    for (n, size) in (0..).zip(sizes) {
        let body = &noise[..size];
        store.put_new(&pack(n), body).unwrap();
        assert_eq!(store.size(&pack(n)).unwrap(), size as u64);
        assert!(store.get(&pack(n), size as u64).unwrap() == body, "{size} bytes");
        let again = store.put_new(&pack(n), body);
        assert!(matches!(again, Err(StoreError::Exists { .. })), "{size} bytes: {again:?}");
        parts += if size > PART { size.div_ceil(PART) } else { 0 };
    }
    let traffic = store.traffic().unwrap().read();
    let sent: u64 = traffic
        .iter()
        .filter(|row| row.action == Action::UploadPart && row.kind == "p")
        .map(|row| row.requests)
        .sum();
    assert_eq!(sent, 2 * parts as u64, "each body was sent twice: {traffic:?}");
}

#[test]
fn of_several_creators_in_parts_one_wins() {
    let bucket = bucket();
    let multipart = Multipart { threshold_bytes: 1 << 20, part_bytes: 5 << 20, parallel: 2 };
    let config = S3Config { multipart, ..bucket.config() };
    let store = with(&bucket, &config, "race");
    for round in 0..3 {
        let bodies: Vec<Vec<u8>> = (0..6).map(|n| vec![n; 6 << 20]).collect();
        let winners: Vec<&Vec<u8>> = std::thread::scope(|scope| {
            let put = |body: &Vec<u8>| match store.put_new(&pack(round), body) {
                Ok(()) => true,
                Err(StoreError::Exists { .. }) => false,
                Err(error) => panic!("{error:?}"),
            };
            let threads: Vec<_> =
                bodies.iter().map(|body| (body, scope.spawn(move || put(body)))).collect();
            threads.into_iter().filter_map(|(body, t)| t.join().unwrap().then_some(body)).collect()
        });
        assert_eq!(winners.len(), 1, "round {round}");
        assert!(store.get(&pack(round), 6 << 20).unwrap() == *winners[0], "a loser was stored");
    }
}

const CHILD: &str = "SALVOR_TEST_S3_CHILD";
const ROUNDS: u64 = 40;

/// Not a test: one of the processes of the next one. Says which rounds it won.
#[test]
fn child_that_creates() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let (start_ms, rest) = order.split_once(' ').unwrap();
    let (tag, prefix) = rest.split_once(' ').unwrap();
    let bucket = bucket();
    let store = S3Store::open(&bucket.bucket, prefix, &bucket.config()).unwrap();
    let start = UNIX_EPOCH + Duration::from_millis(start_ms.parse().unwrap());
    std::thread::sleep(start.duration_since(SystemTime::now()).unwrap_or_default());
    for n in 0..ROUNDS {
        let winners: Vec<String> = std::thread::scope(|scope| {
            let (store, tag) = (&store, &tag);
            let put = move |thread: u8| {
                let body = format!("{tag}-{thread}");
                match store.put_new(&ObjectKey::Catalog(n), body.as_bytes()) {
                    Ok(()) => Some(body),
                    Err(StoreError::Exists { .. }) => None,
                    Err(error) => panic!("{error:?}"),
                }
            };
            let threads: Vec<_> = (0..2).map(|thread| scope.spawn(move || put(thread))).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        for winner in winners {
            println!("won {n} {winner}");
        }
    }
}

#[test]
fn of_many_creators_in_several_processes_one_wins() {
    let bucket = bucket();
    let prefix = Bucket::prefix("processes");
    let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(1);
    let children: Vec<_> = (0..4)
        .map(|tag| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child_that_creates", "--nocapture"])
                .env(CHILD, format!("{} {tag} {prefix}", start.as_millis()))
                .env("SALVOR_TEST_S3_BUCKET", &bucket.bucket)
                .env("SALVOR_TEST_S3_ENDPOINT", bucket.endpoint.clone().unwrap_or_default())
                .env("SALVOR_TEST_S3_PROVIDER", bucket.provider.clone().unwrap_or_default())
                .envs(bucket.environment())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut winners: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            let Some((n, body)) = line.strip_prefix("won ").and_then(|won| won.split_once(' '))
            else {
                continue;
            };
            winners.entry(n.parse().unwrap()).or_default().push(body.to_owned());
        }
    }
    let store = S3Store::open(&bucket.bucket, &prefix, &bucket.config()).unwrap();
    let processes: std::collections::BTreeSet<&str> =
        winners.values().flatten().map(|body| &body[..1]).collect();
    assert!(processes.len() > 1, "one process won everything: they did not meet");
    for n in 0..ROUNDS {
        let stored = store.get(&ObjectKey::Catalog(n), 100).unwrap();
        let stored = String::from_utf8(stored).unwrap();
        assert_eq!(winners.get(&n), Some(&vec![stored]), "round {n}");
    }
}

#[test]
fn many_objects_are_removed_with_few_requests() {
    let bucket = bucket();
    let store = bucket.store("batch");
    let keys: Vec<ObjectKey> = (0..30).map(pack).collect();
    for key in &keys {
        store.put_new(key, b"x").unwrap();
    }
    store.delete_many(&keys[..29]).unwrap();
    let mut left = Vec::new();
    store
        .list(Prefix::Packs, &mut |listed| {
            left.push(listed.key);
            Ok(())
        })
        .unwrap();
    assert_eq!(left, keys[29..]);
    store.delete_many(&keys).unwrap();
    let traffic = store.traffic().unwrap().read();
    let of = |action| -> u64 {
        traffic.iter().filter(|row| row.action == action).map(|row| row.requests).sum()
    };
    let (batches, single) = (of(Action::DeleteObjects), of(Action::DeleteObject));
    assert!(batches == 2 && single == 0, "{traffic:?}");
}

fn refusal_of(config: &S3Config, bucket: &str) -> (Refusal, String) {
    let store = S3Store::open(bucket, "nothing", config).unwrap();
    match store.get(&ObjectKey::Config, 100).unwrap_err() {
        StoreError::Refused { refusal, at, .. } => (*refusal, at),
        error => panic!("{error:?}"),
    }
}

#[test]
fn who_is_not_let_in_is_told_what_to_change() {
    let bucket = bucket();
    let config = bucket.config();
    let nowhere = "no-such-bucket-of-salvor-tests";
    let (refusal, at) = refusal_of(&config, nowhere);
    assert_eq!(refusal, Refusal::NoBucket { bucket: nowhere.into() });
    assert_eq!(at, format!("s3://{nowhere}/nothing/config"));
    let mut wrong = config.clone();
    wrong.credentials.as_mut().unwrap().secret_access_key = Zeroizing::new("wrong".into());
    assert_eq!(refusal_of(&wrong, &bucket.bucket).0, Refusal::WrongSecret);
    let mut unknown = config;
    unknown.credentials.as_mut().unwrap().access_key_id = "NOBODY".into();
    assert_eq!(refusal_of(&unknown, &bucket.bucket).0, Refusal::UnknownKey);
}

#[test]
fn a_server_that_keeps_every_promise_passes_the_check() {
    let bucket = bucket();
    let store = bucket.store("check");
    let tried = store.preflight(None).unwrap();
    assert!(tried.len() >= 8);
    for one in tried {
        assert_eq!(one.trouble, None, "{}", one.what);
    }
    let mut names = Vec::new();
    for prefix in Prefix::ALL {
        let strangers = store.list(prefix, &mut |listed| {
            names.push(listed.key);
            Ok(())
        });
        assert_eq!(strangers.unwrap().count, 0, "{prefix:?}");
    }
    assert_eq!(names, []);
}

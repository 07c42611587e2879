//! The S3 backend behind a network and a server that fail: no wrong byte, no hang, and in the end
//! either success or words that say what is wrong.
#![expect(clippy::unwrap_used, reason = "a failure is a panic")]

use std::time::{Duration, Instant};

use repo_format::id::{ObjectName, SessionId};
use repo_format::key::{ObjectKey, Prefix};
use repository::store::s3::{Multipart, S3Config, S3Store, Timeouts};
use repository::store::wrap::RetryPolicy;
use repository::store::{Action, Refusal, Store, StoreError, conformance};
use tests::support::s3::{Bucket, bucket};
use tests::support::s3proxy::{Fault, Orders, PASSING, Proxy};
use tests::support::{
    Lab, MIB, Rng, Running, assert_same_tree, assert_same_volume, change_image, make_image,
    make_tree, seed, soak,
};

/// As patient as usual, but quick.
fn quick(bucket: &Bucket) -> S3Config {
    let retry = RetryPolicy {
        tries_max: 12,
        wait_first: Duration::from_millis(10),
        wait_max: Duration::from_millis(200),
        budget: Duration::from_mins(1),
    };
    let timeouts = Timeouts { stall: Duration::from_secs(5), ..Timeouts::default() };
    S3Config { retry, timeouts, ..bucket.config() }
}

fn proxy(seed: u64, one_in: u64, faults: &[Fault]) -> Proxy {
    let orders = Orders { one_in, faults: faults.into(), ..Orders::default() };
    Proxy::start(bucket().endpoint.as_ref().unwrap(), seed, orders)
}

fn store(proxy: &Proxy, config: impl FnOnce(S3Config) -> S3Config, test: &str) -> S3Store {
    let bucket = bucket().through(&proxy.endpoint());
    let config = config(quick(&bucket));
    S3Store::open(&bucket.bucket, &Bucket::prefix(test), &config).unwrap()
}

fn pack(n: u32) -> ObjectKey {
    ObjectKey::Pack(ObjectName { session: SessionId([9; 16]), counter: n })
}

#[test]
fn every_promise_is_kept_whatever_passing_fault_there_is() {
    let seed = seed("every passing fault");
    // Each for itself takes ten minutes.
    let single: Vec<&[Fault]> = PASSING.chunks(1).collect();
    let runs = if soak() { single } else { vec![&PASSING[..]] };
    for (n, faults) in (0..).zip(runs) {
        let proxy = proxy(seed + n, 20, faults);
        conformance::run(&|| Box::new(store(&proxy, |config| config, "faults")));
        assert!(proxy.spoilt() > 20, "{faults:?}: only {} requests were spoilt", proxy.spoilt());
    }
}

#[test]
fn parts_of_uploads_get_over_every_passing_fault_and_nothing_is_replaced() {
    let seed = seed("parts");
    let proxy = proxy(seed, 4, &PASSING);
    let multipart = Multipart { threshold_bytes: 1 << 20, part_bytes: 5 << 20, parallel: 2 };
    let store = store(&proxy, |config| S3Config { multipart, ..config }, "parts");
    let mut rng = Rng::new(seed);
    for n in 0..12 {
        let body = rng.noise(11 << 20);
        store.put_new(&pack(n), &body).unwrap();
        assert!(store.get(&pack(n), 11 << 20).unwrap() == body, "pack {n} is not the same");
        let other = rng.noise(6 << 20);
        let again = store.put_new(&pack(n), &other);
        assert!(matches!(again, Err(StoreError::Exists { .. })), "pack {n}: {again:?}");
    }
}

#[test]
fn a_whole_life_of_a_repository_passes_through_faults() {
    let seed = seed("a whole life");
    for round in 0..if soak() { 20 } else { 2 } {
        let proxy = proxy(seed + round, 9, &PASSING);
        let lab = Lab::in_bucket(&bucket().through(&proxy.endpoint()), "life");
        lab.ok(&["init", "--chunk-size", "64K"]);
        make_image(&lab.path("disk"), round, 16 * MIB);
        make_tree(&lab.path("tree"), round, 30);
        lab.ok(&["backup", "disk", "--name", "disk"]);
        lab.ok(&["backup", "tree", "--name", "tree"]);
        change_image(&lab.path("disk"), &mut Rng::new(seed), 6, 100_000);
        lab.ok(&["backup", "disk", "--name", "disk"]);
        lab.verify();
        lab.ok(&["restore", "disk@latest", "back"]);
        assert_same_volume(&lab.path("disk"), &lab.path("back"), 64 << 10);
        lab.ok(&["restore", "tree@latest", "back-tree"]);
        assert_same_tree(&lab.path("tree"), &lab.path("back-tree"));
        lab.ok(&["forget", "--keep-last", "1"]);
        lab.ok(&["prune"]);
        lab.ok(&["restore", "disk@latest", "back-after"]);
        assert_same_volume(&lab.path("disk"), &lab.path("back-after"), 64 << 10);
        let spoilt = proxy.spoilt();
        assert!(spoilt > 10, "only {spoilt} requests were spoilt");
        proxy.order(Orders::default());
        lab.assert_tidy();
        lab.verify();
    }
}

#[test]
fn tries_are_bounded_and_the_last_word_says_what_is_wrong() {
    for (fault, word) in [
        (Fault::Unavailable, "503"),
        (Fault::SlowDown, "SlowDown"),
        (Fault::Reset, "connection"),
        (Fault::Expired, "expired"),
        (Fault::LostReply, "connection"),
    ] {
        let proxy = proxy(1, 1, &[fault]);
        let lab = Lab::in_bucket(&bucket().through(&proxy.endpoint()), "never");
        let mut command = lab.command(&["snapshots"]);
        command.env("SALVOR_S3_RETRY_SECONDS", "3");
        let ended = Running::start(command).wait();
        assert!(ended.took < Duration::from_secs(15), "{fault:?}: {ended}");
        ended.expect(1).says(&["gave up after", word, "s3://"]);
        // Of each of the three requests that a command begins with, all at once.
        let tries = proxy.take_seen().len();
        assert!((2..=33).contains(&tries), "{fault:?}: {tries} tries");
    }
}

#[test]
fn an_answer_that_never_comes_is_given_up() {
    let proxy = proxy(1, 0, &[]);
    proxy.order(Orders { latency: Duration::from_secs(30), ..Orders::default() });
    let stall = Duration::from_millis(300);
    let impatient = |config: S3Config| S3Config {
        timeouts: Timeouts { stall, ..config.timeouts },
        retry: RetryPolicy { tries_max: 3, ..config.retry },
        ..config
    };
    let start = Instant::now();
    let error = store(&proxy, impatient, "hangs").size(&pack(1)).unwrap_err();
    assert!(matches!(error, StoreError::GaveUp { tries: 3, .. }), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn what_hangs_ends_soon_after_it_is_told_to_stop() {
    let proxy = proxy(1, 0, &[]);
    proxy.order(Orders { latency: Duration::from_mins(1), ..Orders::default() });
    let store =
        store(&proxy, |config| S3Config { timeouts: Timeouts::default(), ..config }, "stop");
    let start = Instant::now();
    let stop = store.stop();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(store.size(&pack(1)).is_err());
    });
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn a_server_that_creates_twice_gets_no_repository() {
    let proxy = proxy(1, 1, &[Fault::Careless]);
    let bucket = bucket().through(&proxy.endpoint());
    let lab = Lab::in_bucket(&bucket, "careless");
    lab.run(&["init"]).expect(1).says(&["If-None-Match", "nothing can be stored safely"]);
    let check = lab.run(&["init", "--check"]).expect(1);
    check.says(&["refuse a second creation", "not fit"]);
    assert!(lab.stored().values().all(std::collections::BTreeMap::is_empty));
    // Nor does a repository that was moved there get anything more.
    let store = store(&proxy, |config| config, "careless");
    match store.put_new(&pack(1), b"x").unwrap_err() {
        StoreError::Refused { refusal, .. } => {
            assert_eq!(*refusal, Refusal::NotOnce { how: "" });
        }
        error => panic!("{error:?}"),
    }
}

#[test]
fn a_server_that_asks_to_slow_down_is_sent_less() {
    let proxy = proxy(1, 0, &[]);
    let store = store(&proxy, |config| config, "slow");
    for n in 0..200 {
        store.put_new(&pack(n), b"x").unwrap();
    }
    proxy.order(Orders { one_in: 3, faults: vec![Fault::SlowDown], ..Orders::default() });
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for n in (thread..200).step_by(8) {
                    assert_eq!(store.get(&pack(n), 10).unwrap(), b"x");
                }
            });
        }
    });
    let traffic = store.traffic().unwrap().read();
    let gets = traffic.iter().find(|row| row.action == Action::GetObject).unwrap();
    assert!(gets.slow_downs > 20 && gets.failures == gets.slow_downs, "{gets:?}");
    assert_eq!(gets.requests - gets.failures, 200, "each was answered once");
}

#[test]
fn a_listing_of_many_pages_goes_on_after_a_failure() {
    let proxy = proxy(1, 0, &[]);
    let store = store(&proxy, |config| config, "pages");
    std::thread::scope(|scope| {
        for thread in 0..8u32 {
            let store = &store;
            scope.spawn(move || {
                for n in (thread..2100).step_by(8) {
                    store.put_new(&pack(n), b"x").unwrap();
                }
            });
        }
    });
    proxy.order(Orders { one_in: 2, faults: PASSING.into(), ..Orders::default() });
    for _ in 0..4 {
        let mut keys = std::collections::BTreeSet::new();
        let mut visit = |listed: repository::store::Listed| {
            assert!(keys.insert(listed.key), "{} came twice", listed.key);
            Ok(())
        };
        store.list(Prefix::Packs, &mut visit).unwrap();
        assert_eq!(keys.len(), 2100);
    }
    let traffic = store.traffic().unwrap().read();
    let lists = traffic.iter().find(|row| row.action == Action::ListObjectsV2).unwrap();
    assert_eq!((lists.kind, lists.requests - lists.failures), ("p", 12), "every page is counted");
}

//! What a bucket costs against a folder, and a server that is far away against a near one.
//!
//! Starts the S3 server of the tests, and their proxy in front of it. Each phase runs on data that
//! does not compress: in a folder, in the bucket, through the proxy, and through the proxy with latency
//! for every request. The proxy takes time of the processors, too, so that what latency costs is told by
//! its own two lines.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on ends")]
#![expect(clippy::cast_precision_loss, reason = "figures of three digits")]

use std::time::{Duration, Instant};

use repo_format::id::{ObjectName, SessionId};
use repo_format::key::ObjectKey;
use repository::store::Store;
use tests::support::s3::{Bucket, Server, cpu_of};
use tests::support::s3proxy::{Orders, Proxy, Seen, depth};
use tests::support::{Lab, MIB, noise_file, same_bytes};

const USAGE: &str =
    "usage: s3 [--mib N[,N]…] [--runs N] [--latency MS] [--memory SIZE] [--only NAME[,NAME]…]
  names: folder, bucket, proxy, far, puts";

struct Options {
    mib: Vec<u64>,
    runs: usize,
    latency: Duration,
    memory: String,
    only: Vec<String>,
}

impl Options {
    fn read() -> Self {
        let mut options = Self {
            mib: vec![1024, 4096],
            runs: 3,
            latency: Duration::from_millis(50),
            memory: "256M".into(),
            only: ["folder", "bucket", "proxy", "far", "puts"].map(Into::into).into(),
        };
        let mut words = std::env::args().skip(1);
        while let (Some(name), value) = (words.next(), words.next()) {
            let value = value.unwrap_or_else(|| panic!("{USAGE}"));
            match name.as_str() {
                "--mib" => options.mib = value.split(',').map(|n| n.parse().unwrap()).collect(),
                "--runs" => options.runs = value.parse().unwrap(),
                "--latency" => options.latency = Duration::from_millis(value.parse().unwrap()),
                "--memory" => options.memory = value,
                "--only" => options.only = value.split(',').map(Into::into).collect(),
                _ => panic!("{USAGE}"),
            }
        }
        options
    }
}

/// What one command took.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    seconds: f64,
    own_cpu: f64,
    server_cpu: f64,
    requests: usize,
    /// Round trips in sequence; 0 where nobody looked.
    depth: usize,
}

struct Bench {
    options: Options,
    server: Server,
    proxy: Proxy,
}

impl Bench {
    fn start(options: Options) -> Self {
        let server = Server::start();
        let endpoint = server.bucket.endpoint.clone().unwrap();
        Self { options, server, proxy: Proxy::start(&endpoint, 1, Orders::default()) }
    }

    /// First backup and restore at one place.
    fn run(&self, place: &str, mib: u64) -> [Cost; 2] {
        let bucket = &self.server.bucket;
        let lab = match place {
            "folder" => Lab::bare(),
            "bucket" => Lab::in_bucket(bucket, "bench"),
            _ => Lab::in_bucket(&bucket.through(&self.proxy.endpoint()), "bench"),
        };
        noise_file(&lab.path("disk"), 1, mib * MIB);
        lab.ok(&["init"]);
        let latency = if place == "far" { self.options.latency } else { Duration::ZERO };
        self.proxy.order(Orders { latency, ..Orders::default() });
        let backup = self.measure(&lab, &["backup", "disk", "--name", "disk"]);
        let restore = self.measure(&lab, &["restore", "disk@latest", "back"]);
        self.proxy.order(Orders::default());
        assert!(same_bytes(&lab.path("disk"), &lab.path("back")));
        if lab.is_in_bucket() {
            let store = lab.store();
            for (folder, names) in lab.stored() {
                let keys: Vec<ObjectKey> = names
                    .keys()
                    .filter_map(|name| format!("{folder}/{name}").parse().ok())
                    .collect();
                store.delete_many(&keys).unwrap();
            }
        }
        [backup, restore]
    }

    fn measure(&self, lab: &Lab, line: &[&str]) -> Cost {
        rustix::fs::sync();
        self.proxy.take_seen();
        let before = self.server.cpu().as_secs_f64();
        let ended = lab.ok(&[line, &["--memory", &self.options.memory]].concat());
        let server_cpu = self.server.cpu().as_secs_f64() - before;
        let seen: Vec<Seen> = self.proxy.take_seen();
        Cost {
            seconds: ended.took.as_secs_f64(),
            own_cpu: ended.cpu.as_secs_f64(),
            server_cpu,
            requests: seen.len(),
            depth: depth(&seen),
        }
    }

    /// Bodies of the length of packs, created by the same client with nothing else to do: the most
    /// that this server takes.
    fn puts(&self, mib: u64) -> Cost {
        const BODY: u64 = 28;
        let store = self.server.bucket.store_at(&Bucket::prefix("puts"));
        let body = tests::support::Rng::new(1).noise(usize::try_from(BODY * MIB).unwrap());
        let key = |counter| ObjectKey::Pack(ObjectName { session: SessionId([7; 16]), counter });
        let count = u32::try_from(mib / BODY).unwrap().max(1);
        rustix::fs::sync();
        let (before, own, start) = (self.server.cpu().as_secs_f64(), own_cpu(), Instant::now());
        let next = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    loop {
                        let counter = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        if counter >= count {
                            return;
                        }
                        store.put_new(&key(counter), &body).unwrap();
                    }
                });
            }
        });
        let seconds = start.elapsed().as_secs_f64() * mib as f64 / (u64::from(count) * BODY) as f64;
        let server_cpu = self.server.cpu().as_secs_f64() - before;
        let own_cpu = own_cpu() - own;
        let keys: Vec<ObjectKey> = (0..count).map(key).collect();
        store.delete_many(&keys).unwrap();
        Cost { seconds, own_cpu, server_cpu, requests: count as usize, ..Cost::default() }
    }
}

fn own_cpu() -> f64 {
    cpu_of(std::process::id()).as_secs_f64()
}

/// The run in the middle by time.
fn median(mut runs: Vec<Cost>) -> Cost {
    runs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    runs[runs.len() / 2]
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn row(place: &str, phase: &str, mib: u64, cost: &Cost) {
    let gb = (mib * MIB) as f64 / 1e9;
    let count = |n: usize| if n == 0 { "–".to_owned() } else { n.to_string() };
    println!(
        "| {mib} | {phase} | {place} | {:.0} | {:.2} | {} | {} | {:.2} | {:.2} |",
        gb * 1e3 / cost.seconds,
        cost.seconds,
        count(cost.requests),
        count(cost.depth),
        cost.own_cpu / gb,
        cost.server_cpu / gb,
    );
}

fn main() {
    let bench = Bench::start(Options::read());
    let Options { runs, memory, latency, .. } = &bench.options;
    println!(
        "median of {runs}; --memory {memory}; far: {latency:?} for each request; load {}",
        load()
    );
    println!();
    println!(
        "| MiB | phase | place | MB/s | seconds | requests | in sequence | CPU s/GB | server's CPU s/GB |"
    );
    println!("| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    let wants = |place: &str| bench.options.only.iter().any(|one| one == place);
    for mib in &bench.options.mib {
        let places: Vec<&str> =
            ["folder", "bucket", "proxy", "far"].into_iter().filter(|one| wants(one)).collect();
        let mut costs: Vec<[Vec<Cost>; 2]> = vec![Default::default(); places.len()];
        let mut puts = Vec::new();
        // One after the other, so that what else the machine does meets all alike.
        for _ in 0..*runs {
            for (place, costs) in places.iter().zip(&mut costs) {
                let [backup, restore] = bench.run(place, *mib);
                costs[0].push(backup);
                costs[1].push(restore);
            }
            if wants("puts") {
                puts.push(bench.puts(*mib));
            }
        }
        for (at, phase) in ["backup", "restore"].into_iter().enumerate() {
            for (place, costs) in places.iter().zip(&costs) {
                row(place, phase, *mib, &median(costs[at].clone()));
            }
        }
        if wants("puts") {
            row("bucket", "PUTs alone", *mib, &median(puts));
        }
    }
    println!("\nload at the end: {}", load());
}

//! Eight writers of three clusters, a reader, and somebody who forgets and prunes, all at work in
//! one repository at once, each in processes of its own with a cache of its own, some with a clock
//! that is an hour off, and all of them killed now and then.
//!
//! When it fails, the lines above the failure are the story, one for each process that ended; the
//! seed repeats the data and the dice, but not the kernel's order of things.
#![expect(clippy::unwrap_used, reason = "a failure is a panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, UNIX_EPOCH};

use repo_format::catalog::PageRef;
use repo_format::id::ClusterId;
use repo_format::key::ObjectKey;
use repository::Repository;
use repository::catalog::load_bare;
use serde_json::Value;
use tests::support::repository::secret;
use tests::support::s3::bucket;
use tests::support::{
    Ended, Lab, MIB, Rng, Running, assert_same_tree, assert_same_volume, change_image, change_tree,
    make_image, make_tree, run, seed, shifted_clock, soak,
};

const CHUNK: u64 = 64 << 10;
const HOUR_S: i64 = 3600;
/// Snapshots of a name that a forget keeps.
const KEPT: usize = 2;
/// Old versions of the catalog that may be left, and the newest; see FORMAT.md.
const CATALOGS_KEPT: usize = 32;

/// The cluster whose snapshots nobody forgets.
const ARCHIVE: &str = "archive";
/// The others.
const FORGETFUL: [&str; 2] = ["north", "south"];

/// Who starts processes: whose they are, and how wrong their clock is.
#[derive(Debug, Clone, Copy)]
struct Actor {
    name: &'static str,
    cluster: &'static str,
    clock_s: i64,
}

const fn actor(name: &'static str, cluster: &'static str, clock_s: i64) -> Actor {
    Actor { name, cluster, clock_s }
}

/// The writers, and the volume that each backs up: some the same one, for one cluster or several.
const WRITERS: [(Actor, usize); 8] = [
    (actor("writer-1", "north", 0), 0),
    (actor("writer-2", "north", HOUR_S), 0),
    (actor("writer-3", "south", 0), 0),
    (actor("writer-4", "north", 0), 1),
    (actor("writer-5", "south", -HOUR_S), 2),
    (actor("writer-6", "south", 0), 3),
    (actor("writer-7", "north", -HOUR_S), 3),
    (actor("writer-8", ARCHIVE, HOUR_S), 4),
];
/// Names of the volumes, and whether each is a tree.
const VOLUMES: [(&str, bool); 5] =
    [("alpha", false), ("beta", false), ("gamma", false), ("tree", true), ("old", false)];
/// The archive keeps everything: its writer rests when it has so many.
const ARCHIVED_MAX: usize = 4;

const READER: Actor = actor("reader", "north", 0);
const PRUNERS: [Actor; 2] = [actor("prune-1", "north", 0), actor("prune-2", "south", -HOUR_S)];

/// A copy of a volume as it was, as long as somebody may want to compare with it.
#[derive(Debug)]
struct Truth {
    path: PathBuf,
    is_tree: bool,
}

impl Drop for Truth {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

impl Truth {
    #[track_caller]
    fn compare(&self, copy: &Path) {
        if self.is_tree {
            assert_same_tree(&self.path, copy);
        } else {
            assert_same_volume(&self.path, copy, CHUNK);
        }
    }
}

/// Removes a file or a folder; what is not there is fine.
fn remove(path: &Path) {
    if path.is_dir() {
        drop(fs::remove_dir_all(path));
    } else {
        drop(fs::remove_file(path));
    }
}

fn copy(from: &Path, to: &Path) {
    run("cp", &["-a".as_ref(), "--sparse=auto".as_ref(), from.as_os_str(), to.as_os_str()]);
}

/// What is backed up. Whoever reads it holds `now`, so that nobody changes it meanwhile.
#[derive(Debug)]
struct Volume {
    path: PathBuf,
    is_tree: bool,
    now: RwLock<Arc<Truth>>,
}

/// A snapshot that a process reported as saved.
#[derive(Debug, Clone)]
struct Saved {
    series: (String, String),
    started: String,
    /// `None` once it was seen to be forgotten.
    truth: Option<Arc<Truth>>,
}

/// A process at work.
#[derive(Debug)]
struct Process {
    actor: Actor,
    what: &'static str,
    running: Running,
}

/// How many processes ran, and how many of them were killed, by what they did.
type Counts = BTreeMap<&'static str, (u32, u32)>;

struct Scene {
    lab: Lab,
    volumes: Vec<Volume>,
    saved: Mutex<BTreeMap<String, Saved>>,
    /// How long a process takes that is let run to its end, by what it does.
    usual: Mutex<BTreeMap<&'static str, Duration>>,
    counts: Mutex<Counts>,
    copies: AtomicU32,
    is_over: AtomicBool,
    began: Instant,
}

/// Ends the others when one has failed.
struct Alarm<'a>(&'a Scene);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.is_over.store(true, Ordering::Relaxed);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn text(row: &Value, field: &str) -> String {
    row[field].as_str().unwrap().to_owned()
}

/// What a cluster is called in lists.
fn id_of(cluster: &str) -> String {
    ClusterId::of_name(cluster).to_string()
}

impl Scene {
    fn new(lab: Lab, rng: &mut Rng) -> Self {
        lab.ok(&["init", "--chunk-size", "64K"]);
        fs::create_dir(lab.path("volumes")).unwrap();
        let size_bytes = if soak() { 16 * MIB } else { 6 * MIB };
        // The same at first: what one drops the others have, for some time.
        let content = rng.number();
        let make = |(number, (name, is_tree)): (u32, (&str, bool))| {
            let path = lab.path("volumes").join(name);
            if is_tree {
                make_tree(&path, content, 30);
            } else {
                make_image(&path, content, size_bytes);
            }
            let truth = Truth { path: lab.path(format!("truth-{number}")), is_tree };
            copy(&path, &truth.path);
            Volume { path, is_tree, now: RwLock::new(Arc::new(truth)) }
        };
        let volumes: Vec<Volume> = (0..).zip(VOLUMES).map(make).collect();
        Self {
            lab,
            volumes,
            saved: Mutex::default(),
            usual: Mutex::default(),
            counts: Mutex::default(),
            copies: AtomicU32::new(100),
            is_over: AtomicBool::new(false),
            began: Instant::now(),
        }
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Starts a process that does `what`.
    fn start(&self, actor: Actor, what: &'static str, words: &[&str]) -> Process {
        let mut command = self.lab.command(&[what]);
        command.args(words).args(["--json", "--cluster", actor.cluster, "--cache-dir"]);
        command.arg(self.lab.path(format!("cache-{}", actor.name)));
        if actor.clock_s != 0 {
            command.env("LD_PRELOAD", shifted_clock());
            command.env("SALVOR_TEST_CLOCK_SHIFT", actor.clock_s.to_string());
        }
        Process { actor, what, running: Running::start(command) }
    }

    /// Waits for a process, or kills it at a moment drawn from the time that such a one takes.
    /// Whether it was killed before it ended.
    fn end(&self, rng: &mut Rng, process: Process, kills: bool) -> (bool, Ended) {
        let Process { actor, what, running } = process;
        let usual = lock(&self.usual).get(what).copied().unwrap_or(Duration::from_millis(500));
        let within = u64::try_from(usual.as_micros()).unwrap() * 11 / 10 + 1;
        let delay = Duration::from_micros(rng.below(within));
        let (killed, ended) =
            if kills { running.kill_after(delay) } else { (false, running.wait()) };
        let how = ended.code.map_or("was killed".into(), |code| format!("ended with {code}"));
        self.tell(actor, &format!("{what} {how} after {:.3?}", ended.took));
        let mut counts = lock(&self.counts);
        let (all, of_them_killed) = counts.entry(what).or_default();
        *all += 1;
        *of_them_killed += u32::from(killed);
        if !killed {
            lock(&self.usual).insert(what, ended.took);
        }
        (killed, ended)
    }

    /// A line of the story.
    fn tell(&self, actor: Actor, what: &str) {
        println!("{:9.3?} {}: {what}", self.began.elapsed(), actor.name);
    }

    /// Backs up a volume. Whether it was reported as saved.
    fn back_up(&self, rng: &mut Rng, actor: Actor, volume: usize, kills: bool) -> bool {
        let (name, _) = VOLUMES[volume];
        let Volume { path, now, .. } = &self.volumes[volume];
        let now = now.read().unwrap_or_else(PoisonError::into_inner);
        let every = *rng.pick(&["0", "1", "30"]);
        let path = path.to_str().unwrap();
        let line = [path, "--name", name, "--checkpoint-seconds", every];
        let process = self.start(actor, "backup", &line);
        let (killed, ended) = self.end(rng, process, kills);
        // One that had reported before it was killed must have kept its word, too.
        if killed && !ended.stdout.ends_with('\n') {
            return false;
        }
        let ended = if killed { ended } else { ended.expect(0) };
        let row = ended.last_json();
        let (id, started) = (text(&row, "snapshot"), text(&row, "started"));
        self.tell(actor, &format!("saved {id} of {name}"));
        let series = (text(&row, "cluster"), name.to_owned());
        let saved = Saved { series, started, truth: Some(Arc::clone(&now)) };
        lock(&self.saved).insert(id, saved);
        true
    }

    /// Changes a volume when nobody reads it: some of it, or all of it into what another one is.
    fn change(&self, rng: &mut Rng, volume: usize) {
        let Volume { path, is_tree, now } = &self.volumes[volume];
        let mut now = now.write().unwrap_or_else(PoisonError::into_inner);
        if *is_tree {
            change_tree(path, rng);
        } else {
            if rng.below(3) == 0 {
                self.become_another(rng, path);
            }
            let (count, len) = (rng.below(24), 4096 << rng.below(7));
            change_image(path, rng, count, len);
        }
        let number = self.copies.fetch_add(1, Ordering::Relaxed);
        let truth = Truth { path: self.lab.path(format!("truth-{number}")), is_tree: *is_tree };
        copy(path, &truth.path);
        *now = Arc::new(truth);
    }

    /// Makes an image what a snapshot of any image holds: chunks change hands.
    fn become_another(&self, rng: &mut Rng, path: &Path) {
        let others: Vec<Arc<Truth>> = lock(&self.saved)
            .values()
            .filter_map(|saved| saved.truth.clone())
            .filter(|truth| !truth.is_tree)
            .collect();
        if !others.is_empty() {
            remove(path);
            copy(&rng.pick(&others).path, path);
        }
    }

    /// Backs up again and again.
    fn write(&self, mut rng: Rng, actor: Actor, volume: usize) {
        let _alarm = Alarm(self);
        let mut saved = 0;
        while !self.is_over() || saved == 0 {
            if rng.below(2) == 0 {
                self.change(&mut rng, volume);
            }
            let kills = rng.below(5) < 2;
            saved += usize::from(self.back_up(&mut rng, actor, volume, kills));
            while actor.cluster == ARCHIVE && saved >= ARCHIVED_MAX && !self.is_over() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// What is listed: by id, whose it is and of what.
    fn listed(&self) -> BTreeMap<String, Saved> {
        let list = self.lab.json(&["snapshots"]);
        let rows = list["snapshots"].as_array().unwrap().iter();
        let saved = |row| {
            let series = (text(row, "cluster"), text(row, "name"));
            (text(row, "snapshot"), Saved { series, started: text(row, "started"), truth: None })
        };
        rows.map(saved).collect()
    }

    /// Lets go of what compares with snapshots that are forgotten. Those that the archive reported
    /// must all be there.
    fn let_go(&self) {
        let known: Vec<String> = lock(&self.saved).keys().cloned().collect();
        let listed = self.listed();
        let archive = id_of(ARCHIVE);
        let mut saved = lock(&self.saved);
        for id in known.iter().filter(|id| !listed.contains_key(*id)) {
            let gone = saved.get_mut(id).unwrap();
            assert!(gone.series.0 != archive, "{id} of another cluster was forgotten: {gone:?}");
            gone.truth = None;
        }
    }

    /// Forgets for one cluster, and prunes in one or two processes, some of which are killed.
    fn collect(&self, mut rng: Rng) {
        let _alarm = Alarm(self);
        while !self.is_over() {
            let cluster = *rng.pick(&FORGETFUL);
            let actor = Actor { cluster, ..*rng.pick(&PRUNERS) };
            let kept = KEPT.to_string();
            let forget = self.start(actor, "forget", &["--keep-last", &kept]);
            let count = 1 + usize::from(rng.below(3) == 0);
            let line = ["--max-repack", "100%"];
            let prune = |actor: &Actor| self.start(*actor, "prune", &line);
            let prunes: Vec<Process> = PRUNERS[..count].iter().map(prune).collect();
            for process in std::iter::once(forget).chain(prunes) {
                let kills = rng.below(3) == 0;
                let (killed, ended) = self.end(&mut rng, process, kills);
                if !killed {
                    println!("{}", ended.expect(0).last_json());
                }
            }
            self.let_go();
        }
    }

    /// Restores snapshots that were reported, and compares. One that is forgotten before the
    /// restore has begun is the only one that may be refused.
    fn read(&self, mut rng: Rng) {
        let _alarm = Alarm(self);
        while !self.is_over() {
            let choices: Vec<(String, Arc<Truth>)> = lock(&self.saved)
                .iter()
                .filter_map(|(id, saved)| Some((id.clone(), saved.truth.clone()?)))
                .collect();
            if choices.is_empty() {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
            let (id, truth) = rng.pick(&choices);
            let kills = rng.below(8) == 0;
            self.restore(&mut rng, id, truth, kills);
        }
    }

    fn restore(&self, rng: &mut Rng, id: &str, truth: &Truth, kills: bool) {
        let target = self.lab.path(format!("back-{id}"));
        let process = self.start(READER, "restore", &[id, target.to_str().unwrap()]);
        let (killed, ended) = self.end(rng, process, kills);
        if ended.code == Some(0) {
            truth.compare(&target);
        } else if !killed {
            let listed = self.listed().contains_key(id);
            assert!(!listed, "{id} is listed and does not restore: {ended}");
            ended.expect(1).says(&["no snapshot matches"]);
        }
        remove(&target);
        remove(&target.with_added_extension("salvor-restoring"));
    }

    /// All of them at once, for a while.
    fn play(&self, rng: &mut Rng, time: Duration) {
        std::thread::scope(|scope| {
            for (actor, volume) in WRITERS {
                let rng = Rng::new(rng.number());
                scope.spawn(move || self.write(rng, actor, volume));
            }
            let (first, second) = (Rng::new(rng.number()), Rng::new(rng.number()));
            scope.spawn(move || self.collect(first));
            scope.spawn(move || self.read(second));
            while self.began.elapsed() < time && !self.is_over() {
                std::thread::sleep(Duration::from_millis(20));
            }
            self.is_over.store(true, Ordering::Relaxed);
        });
    }

    /// The next run of each writer goes on from what a killed one has left.
    fn go_on(&self, rng: &mut Rng) {
        for (actor, volume) in WRITERS {
            assert!(self.back_up(rng, actor, volume, false));
        }
    }

    /// Nothing that was reported is gone but what a forget had to forget: of each series the
    /// newest are there, of the archive all.
    fn check_listed(&self) {
        let listed = self.listed();
        let mut series: BTreeMap<(String, String), BTreeSet<(String, String)>> = BTreeMap::new();
        for (id, saved) in listed.iter().chain(&*lock(&self.saved)) {
            // Fractions of a second are as long as they need be.
            let started = saved.started.trim_end_matches('Z').to_owned();
            series.entry(saved.series.clone()).or_default().insert((started, id.clone()));
        }
        let archive = id_of(ARCHIVE);
        for (of, all) in series {
            let kept = if of.0 == archive { all.len() } else { KEPT };
            for (started, id) in all.iter().rev().take(kept) {
                assert!(listed.contains_key(id), "{id} of {of:?}, {started}, is lost: {all:?}");
            }
        }
    }

    /// All that is stored is sound, and so is what is left of it once each cluster has forgotten
    /// what is old: all that was reported and is listed restores to what it was made of.
    fn check(&self, rng: &mut Rng) {
        self.check_listed();
        self.lab.verify();
        for cluster in FORGETFUL {
            let kept = KEPT.to_string();
            self.lab.ok(&["forget", "--cluster", cluster, "--keep-last", &kept]);
        }
        self.lab.ok(&["prune", "--max-repack", "100%"]);
        self.check_listed();
        self.let_go();
        let saved = lock(&self.saved).clone();
        for (id, saved) in &saved {
            if let Some(truth) = &saved.truth {
                self.restore(rng, id, truth, false);
            }
        }
        self.check_listed();
        self.lab.verify();
    }

    /// Forgets all, each cluster its own and the archive's by adoption only.
    fn forget_all(&self) {
        for cluster in FORGETFUL {
            let listed = self.listed();
            let (ours, others): (Vec<_>, Vec<_>) =
                listed.iter().partition(|(_, saved)| saved.series.0 == id_of(cluster));
            let (foreign, _) = others.first().unwrap();
            let line = ["forget", "--cluster", cluster];
            let refused = self.lab.run(&[&line[..], &[foreign]].concat());
            refused.expect(1).says(&["another cluster"]);
            let ids = ours.iter().map(|(id, _)| id.as_str());
            self.lab.ok(&line.into_iter().chain(ids).collect::<Vec<_>>());
        }
        let left = self.lab.snapshots();
        assert!(!left.is_empty(), "the archive's are gone");
        let line = ["forget", "--adopt"].into_iter().chain(left.iter().map(String::as_str));
        self.lab.ok(&line.collect::<Vec<_>>());
        assert_eq!(self.lab.snapshots(), [""; 0]);
    }

    /// Prunes until that changes nothing, and checks what is there, whoever made it: the config,
    /// a key slot, the newest catalogs with the pages they name, and nothing else.
    fn assert_empty(&self) {
        let (mut before, mut names) = (BTreeSet::new(), self.lab.names());
        let mut passes = 0;
        while names != before {
            assert!(passes < 6, "{passes} prunes, and there is still a change: {names:#?}");
            println!("{}", self.lab.json(&["prune", "--max-repack", "100%"]));
            (before, names) = (names, self.lab.names());
            passes += 1;
        }
        println!("left after {passes} prunes: {names:?}");
        let catalogs: BTreeSet<String> =
            names.iter().filter(|name| name.starts_with("cat/")).cloned().collect();
        assert!((1..=CATALOGS_KEPT).contains(&catalogs.len()), "{} catalogs", catalogs.len());
        let mut wanted = pages_of(&self.lab, &catalogs);
        wanted.extend(catalogs);
        wanted.insert("config".into());
        if self.lab.is_in_bucket() {
            // By it each process sees that the server still refuses to create twice.
            wanted.insert("tmp/create-once".into());
        }
        let unwanted: BTreeSet<String> = names.difference(&wanted).cloned().collect();
        let keys = unwanted.iter().filter(|name| name.starts_with("keys/")).count();
        assert!(keys == 1 && unwanted.len() == 1, "beside a key slot this is left: {unwanted:#?}");
        let missing: Vec<&String> = wanted.difference(&names).collect();
        assert!(missing.is_empty(), "catalogs name what is not there: {missing:#?}");
    }
}

/// Every copy of every page that these catalogs name.
fn pages_of(lab: &Lab, catalogs: &BTreeSet<String>) -> BTreeSet<String> {
    let repository = Repository::open(lab.store(), &secret()).unwrap();
    let mut pages = BTreeSet::new();
    for name in catalogs {
        let Ok(ObjectKey::Catalog(n)) = name.parse() else { panic!("{name} is no catalog") };
        let (catalog, _) = load_bare(&repository, n).unwrap();
        let named = catalog.pages.iter().flatten().flat_map(PageRef::keys);
        pages.extend(named.map(|key| key.to_string()));
    }
    pages
}

/// The wrong clock is wrong.
fn assert_clock_is_wrong() {
    let mut date = Command::new("date");
    date.arg("+%s").env("LD_PRELOAD", shifted_clock());
    let output = date.env("SALVOR_TEST_CLOCK_SHIFT", HOUR_S.to_string()).output().unwrap();
    let shown_s: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap();
    let now_s = UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(shown_s > now_s + 3000, "it shows {shown_s} at {now_s}");
}

/// The two tests take the machine in turns.
static MACHINE: Mutex<()> = Mutex::new(());

fn storm(lab: Lab, test: &str) {
    let _machine = lock(&MACHINE);
    assert_clock_is_wrong();
    let mut rng = Rng::new(seed(test));
    let scene = Scene::new(lab, &mut rng);
    let time = if soak() { Duration::from_mins(10) } else { Duration::from_secs(18) };
    scene.play(&mut rng, time);
    scene.go_on(&mut rng);
    let counts = lock(&scene.counts).clone();
    let saved = lock(&scene.saved).len();
    println!("{saved} snapshots were reported; processes and kills: {counts:?}");
    scene.check(&mut rng);
    scene.forget_all();
    scene.assert_empty();
    println!("{test}: {:?} in all", scene.began.elapsed());
    let kills: u32 = counts.values().map(|(_, kills)| kills).sum();
    assert!(kills >= 5, "only {kills} were killed: {counts:?}");
}

#[test]
fn eight_writers_and_a_gc_that_are_killed_at_random_leave_every_reported_snapshot_in_a_bucket() {
    storm(Lab::in_bucket(&bucket(), "writers"), "writers, bucket");
}

#[test]
fn eight_writers_and_a_gc_that_are_killed_at_random_leave_every_reported_snapshot_on_a_disk() {
    storm(Lab::bare(), "writers, disk");
}

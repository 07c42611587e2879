//! Locks over months, with a clock that the test sets: what snapshots need is never locked for
//! less than the period, nothing is extended or asked about more often than it has to be, and what
//! was deleted goes when its lock has ended. The store keeps versions and locks as S3 does; that
//! S3 does so is shown against a real server (`s3_lock.rs`).
#![expect(clippy::unwrap_used, reason = "a failure is a panic")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use repo_format::key::{ObjectKey, Prefix};
use repo_format::lock::{LockMode, ObjectLock};
use repo_format::pack::PackKind;
use repo_format::snapshot::Completeness;
use repo_format::volume::Slot;
use repository::chunks::ChunkSink;
use repository::gc::{PruneOptions, Unwatched, forget, prune};
use repository::index::Index;
use repository::lock::{self, LockOptions};
use repository::store::{
    Held, Listed, Lockable, Protection, Refused, Store, StoreError, Strangers, Swept, Version,
    Versions, is_lockable,
};
use repository::view::View;
use repository::writer::Writer;
use repository::{InitOptions, Repository};
use tests::support::Rng;
use tests::support::repository::{
    CHUNK_LOG2, prune_options, put_manifest, record, secret, writer_options,
};

const DAY_S: u64 = 24 * 3600;
const PERIOD_S: u64 = 30 * DAY_S;
const SLACK_S: u64 = 16 * DAY_S;
/// What the locks promise holds if a prune runs at least so often.
const PRUNE_S: u64 = SLACK_S / 8;

#[derive(Debug, Clone)]
struct Stored {
    version: Version,
    bytes: Vec<u8>,
    held: Option<Held>,
    /// When its lock was extended.
    extended_s: Vec<u64>,
    /// How often somebody asked about its lock.
    asked: u64,
}

#[derive(Debug, Default)]
struct State {
    now_s: u64,
    next_id: u64,
    protection: Option<Protection>,
    /// By path; the newest last.
    names: BTreeMap<String, Vec<Stored>>,
    refused: u64,
}

/// A store with versions and locks, and a clock of its own.
#[derive(Debug)]
struct Vault(Mutex<State>);

impl Vault {
    fn new() -> Self {
        Self(Mutex::new(State { now_s: 1_800_000_000, ..State::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn pass_time(&self, seconds: u64) {
        self.state().now_s += seconds;
    }

    /// What a plain GET finds below a folder, by path.
    fn visible(&self, folder: &str) -> BTreeMap<String, Stored> {
        let state = self.state();
        let below = state.names.iter().filter(|(path, _)| path.starts_with(folder));
        let newest = below.filter_map(|(path, all)| Some((path, all.last()?)));
        let seen = newest.filter(|(_, stored)| !stored.version.is_marker);
        seen.map(|(path, stored)| (path.clone(), stored.clone())).collect()
    }
}

impl State {
    fn push(&mut self, path: &str, bytes: &[u8], is_marker: bool, held: Option<Held>) {
        self.next_id += 1;
        let version = Version {
            path: path.to_owned(),
            id: self.next_id.to_string(),
            at_s: self.now_s,
            size_bytes: bytes.len() as u64,
            tag: blake3::hash(bytes).to_string(),
            is_marker,
        };
        let stored =
            Stored { version, bytes: bytes.to_vec(), held, extended_s: Vec::new(), asked: 0 };
        self.names.entry(path.to_owned()).or_default().push(stored);
    }

    fn newest(&self, key: &ObjectKey) -> Result<&Stored, StoreError> {
        let path = key.to_string();
        let newest = self.names.get(&path).and_then(|all| all.last());
        newest.filter(|stored| !stored.version.is_marker).ok_or(StoreError::Missing { at: path })
    }

    fn find(&mut self, version: &Version) -> Option<&mut Stored> {
        let all = self.names.get_mut(&version.path)?;
        all.iter_mut().find(|stored| stored.version.id == version.id)
    }
}

impl Store for Vault {
    fn get(&self, key: &ObjectKey, _: u64) -> Result<Vec<u8>, StoreError> {
        Ok(self.state().newest(key)?.bytes.clone())
    }

    fn get_range(&self, key: &ObjectKey, from: u64, buf: &mut [u8]) -> Result<(), StoreError> {
        let state = self.state();
        let from = usize::try_from(from).unwrap();
        buf.copy_from_slice(&state.newest(key)?.bytes[from..from + buf.len()]);
        Ok(())
    }

    fn put_new(&self, key: &ObjectKey, body: &[u8]) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.newest(key).is_ok() {
            return Err(StoreError::Exists { at: key.to_string() });
        }
        let protection = state.protection.filter(|_| is_lockable(key));
        let now_s = state.now_s;
        let held = protection.map(|lock| Held { mode: lock.mode, until_s: now_s + lock.keep_s });
        state.push(&key.to_string(), body, false, held);
        Ok(())
    }

    fn put(&self, key: &ObjectKey, body: &[u8]) -> Result<(), StoreError> {
        self.state().push(&key.to_string(), body, false, None);
        Ok(())
    }

    fn list(
        &self,
        prefix: Prefix,
        visit: &mut dyn FnMut(Listed) -> Result<(), StoreError>,
    ) -> Result<Strangers, StoreError> {
        for (path, stored) in self.visible(&format!("{}/", prefix.folder())) {
            visit(Listed { key: path.parse().unwrap(), size_bytes: stored.version.size_bytes })?;
        }
        Ok(Strangers::default())
    }

    fn list_first(&self, prefix: Prefix) -> Result<Option<ObjectKey>, StoreError> {
        let all = self.visible(&format!("{}/", prefix.folder()));
        Ok(all.keys().next().map(|path| path.parse().unwrap()))
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.newest(key).is_ok() {
            state.push(&key.to_string(), &[], true, None);
        }
        Ok(())
    }

    fn size(&self, key: &ObjectKey) -> Result<u64, StoreError> {
        Ok(self.state().newest(key)?.version.size_bytes)
    }

    fn sweep_temporary(&self) -> Result<Swept, StoreError> {
        Ok(Swept::default())
    }

    fn versions(&self) -> Option<&dyn Versions> {
        Some(self)
    }

    fn describe(&self) -> String {
        "vault".into()
    }
}

impl Versions for Vault {
    fn now_s(&self) -> u64 {
        self.state().now_s
    }

    fn protect(&self, protection: Option<Protection>) {
        self.state().protection = protection;
    }

    fn lockable(&self) -> Result<Lockable, StoreError> {
        Ok(Lockable::Yes { default: None })
    }

    fn try_lock(&self, _: LockMode, _: bool) -> Result<(), StoreError> {
        Ok(())
    }

    fn list_versions(
        &self,
        under: &str,
        visit: &mut dyn FnMut(&[Version]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let groups: Vec<Vec<Version>> = self
            .state()
            .names
            .iter()
            .filter(|(path, _)| path.starts_with(under))
            .map(|(_, all)| all.iter().rev().map(|stored| stored.version.clone()).collect())
            .collect();
        groups.iter().try_for_each(|group| visit(group))
    }

    fn held(&self, versions: &[Version]) -> Result<Vec<Option<Held>>, StoreError> {
        let mut state = self.state();
        let ask = |version| {
            let stored = state.find(version)?;
            stored.asked += 1;
            stored.held
        };
        Ok(versions.iter().map(ask).collect())
    }

    fn extend(&self, versions: &[Version], held: Held) -> Result<(), StoreError> {
        let mut state = self.state();
        let now_s = state.now_s;
        for version in versions {
            let Some(stored) = state.find(version) else { continue };
            stored.extended_s.push(now_s);
            if stored.held.is_none_or(|there| there.until_s < held.until_s) {
                stored.held = Some(held);
            }
        }
        Ok(())
    }

    fn remove_versions(&self, versions: &[Version]) -> Result<Vec<Refused>, StoreError> {
        let mut state = self.state();
        let mut refused = Vec::new();
        for version in versions {
            let now_s = state.now_s;
            let Some(stored) = state.find(version) else { continue };
            if stored.held.is_some_and(|held| held.until_s >= now_s) {
                state.refused += 1;
                refused.push(Refused { path: version.path.clone(), why: "locked".into() });
                continue;
            }
            let all = state.names.get_mut(&version.path).unwrap();
            all.retain(|stored| stored.version.id != version.id);
        }
        state.names.retain(|_, all| !all.is_empty());
        Ok(refused)
    }

    fn bring_back(&self, version: &Version) -> Result<(), StoreError> {
        let mut state = self.state();
        let bytes = state.find(version).unwrap().bytes.clone();
        state.push(&version.path, &bytes, false, None);
        Ok(())
    }
}

/// A repository in a vault, and a volume of eight chunks that is backed up again and again.
struct Life {
    vault: Arc<Vault>,
    repository: Arc<Repository>,
    index: Arc<Index>,
    _cache: tempfile::TempDir,
    chunks: Vec<Vec<u8>>,
    rng: Rng,
}

impl Life {
    fn new(seed: u64) -> Self {
        let vault = Arc::new(Vault::new());
        let times = (Duration::from_secs(PERIOD_S), Some(Duration::from_secs(SLACK_S)));
        let lock = LockOptions { mode: LockMode::Governance, period: times.0, slack: times.1 };
        let (chunk_log2, label) = (Some(CHUNK_LOG2), "first".into());
        let options = InitOptions { chunk_log2, label, lock: Some(lock) };
        let repository = Arc::new(Repository::init(vault.clone(), &secret(), &options).unwrap());
        let cache = tests::support::scratch_in_memory();
        let index = Arc::new(Index::open(cache.path(), repository.id(), 8 << 20).unwrap());
        let mut rng = Rng::new(seed);
        let chunks = (0..8).map(|_| rng.noise(1 << CHUNK_LOG2)).collect();
        Self { vault, repository, index, _cache: cache, chunks, rng }
    }

    /// One chunk of the first half changes; the others stay as long as they live.
    fn back_up(&mut self) {
        let place = usize::try_from(self.rng.number() % 4).unwrap();
        self.chunks[place] = self.rng.noise(1 << CHUNK_LOG2);
        let (writer, _) =
            Writer::open(&self.repository, Arc::clone(&self.index), &writer_options()).unwrap();
        let put = |chunk: &Vec<u8>| Slot::Data(writer.put(PackKind::Data, chunk).unwrap());
        let slots: Vec<Slot> = self.chunks.iter().map(put).collect();
        let size = (self.chunks.len() as u64) << CHUNK_LOG2;
        let root = put_manifest(&writer, size, &slots).unwrap();
        writer.finish(record("volume", root, Completeness::Complete), Vec::new()).unwrap();
    }

    fn keep_last(&self, count: usize) {
        let view = View::for_reading(&self.repository).unwrap();
        let all = view.all_snapshots();
        let ids: Vec<_> = all.keys().copied().collect();
        // All were made by the same clock: by the catalog that took them in, then.
        let mut by_age: Vec<_> = ids
            .into_iter()
            .map(|id| (view.head.snapshots.get(&id).map_or(u64::MAX, |listed| listed.since), id))
            .collect();
        by_age.sort_unstable();
        let old = by_age.len().saturating_sub(count);
        let old: Vec<_> = by_age.into_iter().take(old).map(|(_, id)| id).collect();
        forget(&self.repository, &old, None).unwrap();
    }

    fn prune(&self) -> lock::LockReport {
        // Packs live long if none is written again.
        let options = PruneOptions { max_repack: 0.0, ..prune_options() };
        let report = prune(&self.repository, &self.index, &options, &Unwatched).unwrap();
        let lock = report.lock.unwrap();
        assert_eq!((lock.attacked, &lock.trouble), (0, &None), "{lock:?}");
        lock
    }

    fn lock(&self) -> ObjectLock {
        lock::current(&self.repository).unwrap().unwrap()
    }

    /// What the repository depends on, by path.
    fn needed(&self) -> BTreeMap<String, Stored> {
        let folders = ["config", "keys/", "p/", "x/"];
        folders.iter().flat_map(|folder| self.vault.visible(folder)).collect()
    }
}

fn until_s(stored: &Stored) -> u64 {
    stored.held.map_or(0, |held| held.until_s)
}

#[test]
fn what_is_needed_is_never_locked_for_less_than_the_period_and_nothing_is_done_twice() {
    for seed in [1, 2] {
        let mut life = Life::new(seed);
        let mut extended = 0;
        for _ in 0..90 {
            life.back_up();
            life.vault.pass_time(life.rng.number() % (PRUNE_S / 2));
            life.back_up();
            life.keep_last(3);
            life.vault.pass_time(life.rng.number() % (PRUNE_S / 2));
            let (before, now_s) = (life.needed(), life.vault.now_s());
            extended += life.prune().extended;
            let after = life.needed();
            // At the worst moment: just before the prune.
            for (path, stored) in before.iter().filter(|(path, _)| after.contains_key(*path)) {
                assert!(until_s(stored) >= now_s + PERIOD_S, "seed {seed}: {path}: {stored:?}");
            }
            let assured_s = lock::assured_until_s(&life.lock()).unwrap();
            for (path, stored) in &after {
                assert!(until_s(stored) >= assured_s, "seed {seed}: {path}: {stored:?}");
            }
            assert!(assured_s >= now_s + PERIOD_S, "seed {seed}");
            check_thrift(&life, seed);
        }
        assert!(extended > 0, "seed {seed}: nothing lived long enough");
        end(&life, seed);
    }
}

/// Nothing was extended or asked about without need, and nothing stayed for longer than it had to.
fn check_thrift(life: &Life, seed: u64) {
    let state = life.vault.state();
    assert_eq!(state.refused, 0, "seed {seed}: something was removed that was locked");
    for (path, all) in &state.names {
        let deleted_s = all.last().filter(|top| top.version.is_marker).map(|top| top.version.at_s);
        for stored in all.iter().filter(|stored| !stored.version.is_marker) {
            let mut last_s = stored.version.at_s + SLACK_S / 8 - SLACK_S * 3 / 4;
            for at_s in &stored.extended_s {
                assert!(at_s - last_s >= SLACK_S * 3 / 4, "seed {seed}: {path}: {stored:?}");
                last_s = *at_s;
            }
            let asked_max = SLACK_S / PRUNE_S * 4;
            assert!(stored.asked <= asked_max, "seed {seed}: {path} asked {}", stored.asked);
            if let Some(deleted_s) = deleted_s {
                let gone_s = deleted_s + PERIOD_S + SLACK_S + PRUNE_S;
                assert!(state.now_s <= gone_s, "seed {seed}: {path} is still there: {stored:?}");
                let late = stored.extended_s.iter().any(|at_s| *at_s > deleted_s);
                assert!(!late, "seed {seed}: {path} was extended after it was deleted");
            }
        }
    }
}

/// When no snapshot is left and all locks have ended, nothing of them is left.
fn end(life: &Life, seed: u64) {
    life.keep_last(0);
    for _ in 0..3 {
        life.prune();
        life.vault.pass_time(PERIOD_S + SLACK_S + 1);
    }
    life.prune();
    let state = life.vault.state();
    let left: Vec<&String> = state
        .names
        .keys()
        .filter(|path| path.starts_with("p/") || path.starts_with("x/"))
        .collect();
    assert!(left.is_empty(), "seed {seed}: {left:?}");
}

#[test]
fn where_nobody_prunes_backups_keep_what_they_rely_on() {
    let mut life = Life::new(3);
    for day in 0..100 {
        let lock = life.lock();
        life.back_up();
        if lock::is_overdue(&life.repository, Some(&lock)) {
            lock::assist(&life.repository, &life.index, u64::MAX).unwrap();
        }
        let now_s = life.vault.now_s();
        for (path, stored) in life.needed() {
            assert!(until_s(&stored) >= now_s + PERIOD_S, "day {day}: {path}: {stored:?}");
        }
        life.vault.pass_time(DAY_S);
    }
    let state = life.vault.state();
    let extended: usize =
        state.names.values().flatten().map(|stored| stored.extended_s.len()).sum();
    assert!(extended > 0);
}

#[test]
fn what_a_backup_extends_is_bounded_and_the_next_one_goes_on() {
    let mut life = Life::new(4);
    (0..12).for_each(|_| life.back_up());
    life.vault.pass_time(SLACK_S + DAY_S);
    let mut rounds = 0;
    while lock::is_overdue(&life.repository, Some(&life.lock())) {
        let report = lock::assist(&life.repository, &life.index, 3).unwrap();
        assert!((1..=40).contains(&report.extended), "{report:?}");
        rounds += 1;
        assert!(rounds < 300, "it never ends");
    }
    assert!(rounds > 3, "{rounds}");
    let now_s = life.vault.now_s();
    for (path, stored) in life.needed() {
        assert!(until_s(&stored) >= now_s + PERIOD_S, "{path}: {stored:?}");
    }
}

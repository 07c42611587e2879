//! Trying again what may work the next time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use repo_format::key::{ObjectKey, Prefix};

use crate::store::{Listed, Store, StoreError, Strangers, Swept, Traffic, Versions};

/// How long and how often one request is tried. Waits double from `wait_first` to `wait_max`, each
/// drawn at random from its upper half, so that many clients do not come back at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries of one request in all, the first included.
    pub tries_max: u32,
    /// The first wait, before it is shortened at random.
    pub wait_first: Duration,
    /// The longest wait.
    pub wait_max: Duration,
    /// No try begins later than this after the first one did.
    pub budget: Duration,
}

impl Default for RetryPolicy {
    /// Outlasts a server's restart: ten tries within two minutes.
    fn default() -> Self {
        Self {
            tries_max: 10,
            wait_first: Duration::from_millis(100),
            wait_max: Duration::from_secs(20),
            budget: Duration::from_mins(2),
        }
    }
}

/// The waits between the tries of one request.
#[derive(Debug)]
pub(crate) struct Backoff {
    policy: RetryPolicy,
    start: Instant,
    cap: Duration,
    tries: u32,
}

impl Backoff {
    /// The first try begins now.
    pub(crate) fn new(policy: RetryPolicy) -> Self {
        Self { policy, start: Instant::now(), cap: policy.wait_first, tries: 0 }
    }

    /// A try has failed: how long to wait before the next one. `None` if there must be none.
    pub(crate) fn next_wait(&mut self) -> Option<Duration> {
        self.tries += 1;
        let wait = jittered(self.cap);
        self.cap = self.cap.saturating_mul(2).min(self.policy.wait_max);
        let late = self.start.elapsed().saturating_add(wait) > self.policy.budget;
        (self.tries < self.policy.tries_max && !late).then_some(wait)
    }

    /// What to say when there is no further try. `error` is that of the last one.
    pub(crate) fn gave_up(&self, error: StoreError) -> StoreError {
        let waited_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        StoreError::GaveUp { tries: self.tries, waited_ms, source: Box::new(error) }
    }
}

/// How soon a wait notices that it is to stop.
const STOP_POLL: Duration = Duration::from_millis(50);

/// Repeats requests that failed for a passing reason. All other errors pass through at once.
///
/// A `put_new` whose outcome is in doubt is sent again, which is safe because only one creation
/// succeeds; if the object then exists, its bytes decide: the same as ours means that ours were
/// stored. So a register's body must hold something of its writer's own.
///
/// A listing is begun again only as long as nothing of it was visited.
#[derive(Debug)]
pub struct Retry<S> {
    inner: S,
    policy: RetryPolicy,
    stop: Arc<AtomicBool>,
}

impl<S: Store> Retry<S> {
    /// Retries requests to `inner`. Once `stop` is true, waits end and nothing is repeated.
    pub fn new(inner: S, policy: RetryPolicy, stop: Arc<AtomicBool>) -> Self {
        Self { inner, policy, stop }
    }

    fn run<T>(&self, mut request: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut backoff = Backoff::new(self.policy);
        loop {
            let error = match request() {
                Err(error) if error.is_transient() => error,
                answer => return answer,
            };
            match backoff.next_wait() {
                Some(wait) if self.wait(wait) => {}
                _ => return Err(backoff.gave_up(error)),
            }
        }
    }

    /// `false` if it was told to stop.
    fn wait(&self, wait: Duration) -> bool {
        let end = Instant::now() + wait;
        while !self.stop.load(Ordering::Relaxed) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(STOP_POLL));
        }
        false
    }

    /// The object exists although an earlier try of ours may have made it: whose is it?
    fn claim(&self, key: &ObjectKey, body: &[u8], exists: StoreError) -> Result<(), StoreError> {
        match self.inner.get(key, body.len() as u64) {
            Ok(stored) if stored == body => Ok(()),
            Ok(_) | Err(StoreError::TooLarge { .. }) => Err(exists),
            Err(error) => Err(error),
        }
    }
}

/// Between half of `cap` and all of it.
fn jittered(cap: Duration) -> Duration {
    let half_ns = u64::try_from(cap.as_nanos() / 2).unwrap_or(u64::MAX / 2);
    // Without randomness the waits are merely equal.
    let random = getrandom::u64().unwrap_or(0);
    Duration::from_nanos(half_ns + random % (half_ns + 1))
}

impl<S: Store> Store for Retry<S> {
    fn get(&self, key: &ObjectKey, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
        self.run(|| self.inner.get(key, limit_bytes))
    }

    fn get_range(
        &self,
        key: &ObjectKey,
        offset_bytes: u64,
        buf: &mut [u8],
    ) -> Result<(), StoreError> {
        self.run(|| self.inner.get_range(key, offset_bytes, buf))
    }

    fn put_new(&self, key: &ObjectKey, body: &[u8]) -> Result<(), StoreError> {
        let mut in_doubt = false;
        self.run(|| match self.inner.put_new(key, body) {
            Err(exists @ StoreError::Exists { .. }) if in_doubt => self.claim(key, body, exists),
            Err(error) => {
                in_doubt |= error.is_outcome_unknown();
                Err(error)
            }
            Ok(()) => Ok(()),
        })
    }

    fn put(&self, key: &ObjectKey, body: &[u8]) -> Result<(), StoreError> {
        self.run(|| self.inner.put(key, body))
    }

    fn list(
        &self,
        prefix: Prefix,
        visit: &mut dyn FnMut(Listed) -> Result<(), StoreError>,
    ) -> Result<Strangers, StoreError> {
        let mut begun = false;
        let mut failed = None;
        let listed = self.run(|| {
            let listed = self.inner.list(prefix, &mut |listed| {
                begun = true;
                visit(listed)
            });
            match listed {
                // Not repeated, whatever it is: it would be visited twice.
                Err(error) if begun => {
                    failed = Some(error);
                    Ok(Strangers::default())
                }
                listed => listed,
            }
        });
        failed.map_or(listed, Err)
    }

    fn list_first(&self, prefix: Prefix) -> Result<Option<ObjectKey>, StoreError> {
        self.run(|| self.inner.list_first(prefix))
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.run(|| self.inner.delete(key))
    }

    fn delete_many(&self, keys: &[ObjectKey]) -> Result<(), StoreError> {
        self.run(|| self.inner.delete_many(keys))
    }

    fn traffic(&self) -> Option<Arc<Traffic>> {
        self.inner.traffic()
    }

    fn is_split(&self) -> bool {
        self.inner.is_split()
    }

    fn versions(&self) -> Option<&dyn Versions> {
        self.inner.versions()
    }

    fn size(&self, key: &ObjectKey) -> Result<u64, StoreError> {
        self.run(|| self.inner.size(key))
    }

    fn prepare(&self) {
        self.inner.prepare();
    }

    fn sweep_temporary(&self) -> Result<Swept, StoreError> {
        self.run(|| self.inner.sweep_temporary())
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[cfg(test)]
mod tests {
    use repo_format::id::SessionId;

    use super::*;
    use crate::store::wrap::{Fault, Faulty};
    use crate::store::{Memory, Op};

    const KEY: ObjectKey = ObjectKey::Commit(SessionId([5; 16]));

    fn quick(inner: Faulty<Memory>) -> Retry<Faulty<Memory>> {
        let policy = RetryPolicy {
            tries_max: 4,
            wait_first: Duration::from_millis(1),
            wait_max: Duration::from_millis(2),
            budget: Duration::from_secs(5),
        };
        Retry::new(inner, policy, Arc::default())
    }

    #[test]
    fn a_creation_whose_answer_was_lost_is_recognised_by_its_bytes() {
        let faulty = Faulty::new(Memory::default()).fail_nth(Op::PutNew, 1, Fault::LostReply);
        let store = quick(faulty);
        store.put_new(&KEY, b"ours").unwrap();
        assert_eq!(store.get(&KEY, 100).unwrap(), b"ours");
        assert!(matches!(store.put_new(&KEY, b"ours"), Err(StoreError::Exists { .. })));
    }

    #[test]
    fn another_ones_object_is_never_taken_for_ours() {
        for theirs in [&b"them"[..], b"longer than ours", b""] {
            let memory = Memory::default();
            memory.put_new(&KEY, theirs).unwrap();
            let store = quick(Faulty::new(memory).fail_nth(Op::PutNew, 1, Fault::Unavailable));
            assert!(matches!(store.put_new(&KEY, b"ours"), Err(StoreError::Exists { .. })));
            assert_eq!(store.get(&KEY, 100).unwrap(), theirs);
        }
    }

    #[test]
    fn an_error_that_does_not_pass_is_not_repeated() {
        for fault in [Fault::Io, Fault::Full] {
            let store = quick(Faulty::new(Memory::default()).fail_nth(Op::PutNew, 1, fault));
            assert!(store.put_new(&KEY, b"x").is_err());
            assert_eq!(store.inner.requests(), 1, "{fault:?}");
        }
        let store = quick(Faulty::new(Memory::default()));
        assert!(matches!(store.size(&KEY), Err(StoreError::Missing { .. })));
        assert_eq!(store.inner.requests(), 1);
    }

    #[test]
    fn it_gives_up_after_its_tries_and_says_so() {
        let faulty = (1..=9).fold(Faulty::new(Memory::default()), |faulty, nth| {
            faulty.fail_nth(Op::Get, nth, Fault::Unavailable)
        });
        let store = quick(faulty);
        let error = store.get(&KEY, 9).unwrap_err();
        assert!(matches!(error, StoreError::GaveUp { tries: 4, .. }), "{error:?}");
        assert!(!error.is_transient());
        assert_eq!(store.inner.requests(), 4);
    }

    #[test]
    fn no_try_begins_after_the_budget() {
        let mut store = quick(Faulty::new(Memory::default()).random(1, 1, &[Fault::Unavailable]));
        store.policy =
            RetryPolicy { tries_max: u32::MAX, budget: Duration::from_millis(20), ..store.policy };
        let start = Instant::now();
        assert!(matches!(store.size(&KEY), Err(StoreError::GaveUp { .. })));
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }

    #[test]
    fn told_to_stop_it_stops_waiting() {
        let mut store = quick(Faulty::new(Memory::default()).random(1, 1, &[Fault::Unavailable]));
        store.policy = RetryPolicy {
            wait_first: Duration::from_mins(1),
            wait_max: Duration::from_mins(1),
            budget: Duration::from_mins(10),
            ..store.policy
        };
        let stop = store.stop.clone();
        let start = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(30));
                stop.store(true, Ordering::Relaxed);
            });
            assert!(store.size(&KEY).is_err());
        });
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }

    #[test]
    fn a_listing_that_was_begun_is_not_begun_again() {
        let store = quick(Faulty::new(Memory::default()));
        store.put_new(&KEY, b"x").unwrap();
        let mut visits = 0;
        let listed = store.list(Prefix::Commits, &mut |_| {
            visits += 1;
            Err(StoreError::Unavailable {
                op: Op::List,
                at: String::new(),
                source: std::io::Error::other("visitor"),
            })
        });
        assert!(matches!(listed, Err(StoreError::Unavailable { .. })), "{listed:?}");
        assert_eq!(visits, 1);
    }
}

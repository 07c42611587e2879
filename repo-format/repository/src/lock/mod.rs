//! Object lock: what snapshots need is locked in the bucket for a period from any moment on, so
//! that nobody, whoever has the credentials, can destroy it before somebody notices.
//!
//! Objects are locked when they are created, for the period and some slack. What is needed for
//! longer is extended by `prune`, once in so long a time as the slack is, and by backups where
//! nobody prunes. How long that lasts is written down in the catalog by groups of objects, so that
//! nobody has to ask the server about single ones. See section 15 of FORMAT.md, "Locks".
//!
//! In such a bucket a deletion only hides a name, and the protocol goes by names: it knows nothing
//! of locks. What is hidden is removed for good by a later `prune`, when its lock has ended.

mod needs;
mod pass;
mod undelete;

use std::time::Duration;

use repo_format::lock::{LOCK_GROUPS, LockMode, ObjectLock};

use crate::catalog;
use crate::gc::transition;
use crate::index::Index;
use crate::repository::now_s;
use crate::store::{Lockable, Protection, Refusal, Store, StoreError, Versions};
use crate::view::View;
use crate::writer::sync_index;
use crate::{Repository, RepositoryError};

pub(crate) use pass::maintain;
pub use undelete::{UndeleteReport, uncover_keys, undelete};

/// The slack is at most this by default.
const SLACK_MAX_S: u64 = 30 * 24 * 3600;
/// Locks that a backup extends at most, where nobody prunes.
pub const ASSIST_MAX: u64 = 10_000;

/// How objects are to be locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockOptions {
    /// Who may go against it.
    pub mode: LockMode,
    /// What snapshots need stays locked for so long from any moment on.
    pub period: Duration,
    /// New locks are longer by this; `None`: half the period, and at most 30 days.
    pub slack: Option<Duration>,
}

impl LockOptions {
    fn period_s(&self) -> u64 {
        self.period.as_secs().max(1)
    }

    fn slack_s(&self) -> u64 {
        let usual = (self.period_s() / 2).clamp(1, SLACK_MAX_S);
        self.slack.map_or(usual, |slack| slack.as_secs().max(1))
    }
}

/// What was done about locks, and what waits for their end.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct LockReport {
    /// Objects whose lock was extended.
    pub extended: u64,
    /// All that snapshots need is locked at least until then, in seconds since 1970; `None` if
    /// that is not known, or objects are locked by the bucket's default only.
    pub assured_until_s: Option<u64>,
    /// Objects that were deleted and are still kept, because they are locked.
    pub deferred: u64,
    /// Packs among them.
    pub deferred_packs: u64,
    /// Bytes of all of them.
    pub deferred_bytes: u64,
    /// The last of these locks ends by then.
    pub deferred_until_s: Option<u64>,
    /// Objects that were deleted before and are gone for good now.
    pub removed: u64,
    /// Their bytes.
    pub removed_bytes: u64,
    /// Objects that are needed and were deleted or written over by somebody.
    pub attacked: u64,
    /// One of them.
    pub attacked_example: Option<String>,
    /// What could not be done, and why; the next prune tries again.
    pub trouble: Option<String>,
}

/// Tells the store how to lock what it creates.
pub(crate) fn learn(store: &dyn Store, lock: Option<&ObjectLock>) {
    if let Some(versions) = store.versions() {
        versions.protect(lock.map(protection));
    }
}

fn protection(lock: &ObjectLock) -> Protection {
    Protection { mode: lock.mode, keep_s: lock.keep_s() }
}

/// Makes sure that the store keeps locks, and has it lock what it creates. Returns what the first
/// catalog says about it.
pub(crate) fn begin(
    store: &dyn Store,
    options: &LockOptions,
) -> Result<ObjectLock, RepositoryError> {
    try_out(store, options.mode)?;
    let began_s = store.versions().map_or(0, Versions::now_s);
    let (period_s, slack_s) = (options.period_s(), options.slack_s());
    let mut lock = ObjectLock::new(options.mode, period_s, slack_s, 0);
    // Nothing is stored yet: any time will do. Groups have different ones, so that they do not
    // all come due at once.
    for (group, round_s) in (0u64..).zip(&mut lock.rounds_s) {
        *round_s = began_s.saturating_sub(slack_s.saturating_mul(group) / (2 * LOCK_GROUPS as u64));
    }
    lock.settled_s = Some(began_s.saturating_sub(slack_s));
    learn(store, Some(&lock));
    Ok(lock)
}

fn try_out(store: &dyn Store, mode: LockMode) -> Result<(), RepositoryError> {
    let none = || RepositoryError::NoObjectLock { at: store.describe() };
    let versions = store.versions().ok_or_else(none)?;
    match versions.lockable() {
        Ok(Lockable::No) => return Err(none()),
        Ok(Lockable::Yes { .. }) => {}
        // The trial will tell.
        Err(error) if is_refused(&error) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(versions.try_lock(mode, false)?)
}

/// Whether a right is missing, or the like: trying again does not help, and others may have it.
pub(crate) fn is_refused(error: &StoreError) -> bool {
    matches!(error, StoreError::Refused { refusal, .. }
        if matches!(**refusal, Refusal::NoRight { .. } | Refusal::Unsupported | Refusal::Locked))
}

/// Changes how objects are locked from now on; `None`: not at all. What is locked stays so until
/// its lock ends.
///
/// # Errors
///
/// [`RepositoryError::NoObjectLock`]; the server does not keep locks; the store failed.
pub fn choose(
    repository: &Repository,
    options: Option<&LockOptions>,
) -> Result<Option<ObjectLock>, RepositoryError> {
    repository.permits(repo_format::config::Operation::Maintain)?;
    if let Some(options) = options {
        try_out(&**repository.store(), options.mode)?;
    }
    let mut view = View::for_maintenance(repository)?;
    transition(repository, &mut view, |view, draft| {
        let old = view.head.catalog.lock.as_ref();
        draft.set_lock(options.map(|options| changed(old, options, view.head.catalog.n + 1)));
        Ok(())
    })?;
    learn(&**repository.store(), view.head.catalog.lock.as_ref());
    Ok(view.head.catalog.lock)
}

/// What was known to be locked for longer than the new values demand stays known.
fn changed(old: Option<&ObjectLock>, options: &LockOptions, since: u64) -> ObjectLock {
    let (period_s, slack_s) = (options.period_s(), options.slack_s());
    let new = ObjectLock::new(options.mode, period_s, slack_s, since);
    match old {
        Some(old) if old.keep_s() >= new.keep_s() => ObjectLock {
            settled_s: old.settled_s,
            rounds_s: old.rounds_s.clone(),
            since: old.since,
            ..new
        },
        _ => new,
    }
}

/// How objects are locked now, if they are.
///
/// # Errors
///
/// The store failed, or the catalog cannot be read.
pub fn current(repository: &Repository) -> Result<Option<ObjectLock>, RepositoryError> {
    let n = catalog::newest_number(repository)?;
    Ok(catalog::load_bare(repository, n)?.0.lock)
}

/// Until when all that snapshots need is locked at least; `None`: nobody knows yet.
pub fn assured_until_s(lock: &ObjectLock) -> Option<u64> {
    let settled_s = lock.settled_s?;
    let first = lock.rounds_s.iter().copied().min().unwrap_or(0);
    (first > 0 && settled_s <= first).then(|| first.saturating_add(lock.keep_s()))
}

/// Whether the locks of a group have to be seen to.
///
/// * `lead_s`: so long before less than the period is left of the first one.
fn is_due(lock: &ObjectLock, group: usize, now_s: u64, lead_s: u64) -> bool {
    let round_s = lock.round_s(group);
    round_s == 0
        || lock.settled_s.is_some_and(|settled_s| settled_s > round_s)
        || now_s.saturating_add(lead_s) >= round_s.saturating_add(lock.slack_s)
}

/// Whether a backup should help out with [`assist`]: less than the period is left of some lock,
/// because nobody has pruned for longer than the slack.
pub fn is_overdue(repository: &Repository, lock: Option<&ObjectLock>) -> bool {
    let (Some(lock), Some(versions)) = (lock, repository.store().versions()) else { return false };
    let now_s = versions.now_s();
    lock.rounds_s.iter().enumerate().any(|(group, _)| is_due(lock, group, now_s, 0))
}

/// Extends locks of which less than the period is left, as far as one backup may be held up by
/// that: those of all packs that are in use, for it is not known which of them a backup relied on.
///
/// * `extended_max`: about so many.
///
/// # Errors
///
/// The store or the index failed. Nothing is lost by that.
pub fn assist(
    repository: &Repository,
    index: &Index,
    extended_max: u64,
) -> Result<LockReport, RepositoryError> {
    let mut view = View::for_maintenance(repository)?;
    // What only a commit names is locked by that commit's own lock, which nobody extends.
    transition(repository, &mut view, |view, draft| {
        draft.fold(view, now_s());
        Ok(())
    })?;
    if !sync_index(repository, index, &view)?.is_empty() {
        return Ok(LockReport::default());
    }
    pass::extend_overdue(repository, index, &mut view, extended_max)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use repo_format::id::{PackName, SessionId};
    use repo_format::lock::LOCK_GROUP_OTHERS;
    use zeroize::Zeroizing;

    use super::*;
    use crate::gc::draft::Draft;
    use crate::store::Memory;
    use crate::{InitOptions, UnlockSecret};

    const DAY_S: u64 = 24 * 3600;

    fn options(period_s: u64) -> LockOptions {
        let (mode, period) = (LockMode::Governance, Duration::from_secs(period_s));
        LockOptions { mode, period, slack: None }
    }

    #[test]
    fn the_slack_is_half_the_period_and_a_month_at_most() {
        for (period_s, slack_s) in [(7 * DAY_S, 7 * DAY_S / 2), (365 * DAY_S, 30 * DAY_S), (1, 1)] {
            assert_eq!(options(period_s).slack_s(), slack_s);
        }
        let own = LockOptions { slack: Some(Duration::from_secs(9)), ..options(100) };
        assert_eq!(own.slack_s(), 9);
    }

    fn pack(byte: u8) -> PackName {
        PackName { session: SessionId([byte; 16]), counter: 0 }
    }

    fn rounds_after(edit: impl Fn(&mut Draft)) -> Vec<usize> {
        let secret = UnlockSecret::KeyFile(Zeroizing::new(vec![7; 64]));
        let store = Arc::new(Memory::default());
        let repository = Repository::init(store, &secret, &InitOptions::default()).unwrap();
        let mut view = View::for_maintenance(&repository).unwrap();
        let mut lock = ObjectLock::new(LockMode::Governance, 30 * DAY_S, 15 * DAY_S, 1);
        lock.rounds_s.fill(1000);
        transition(&repository, &mut view, |_, draft| {
            draft.set_lock(Some(lock.clone()));
            draft.condemn([pack(1), pack(2)]);
            Ok(())
        })
        .unwrap();
        transition(&repository, &mut view, |_, draft| {
            edit(draft);
            Ok(())
        })
        .unwrap();
        let lock = current(&repository).unwrap().unwrap();
        (0..LOCK_GROUPS).filter(|group| lock.round_s(*group) == 0).collect()
    }

    #[test]
    fn what_is_known_of_locks_is_taken_back_with_a_condemnation() {
        let group = |byte| ObjectLock::group_of_pack(&pack(byte));
        let both: HashSet<PackName> = [pack(1), pack(2)].into();
        let one: HashSet<PackName> = [pack(1)].into();
        assert_eq!(rounds_after(|draft| draft.pass_verdict(&both, &one)), [group(1)]);
        assert_eq!(rounds_after(|draft| draft.pass_verdict(&both, &HashSet::new())), [0; 0]);
        let mut all = [group(1), group(2)];
        all.sort_unstable();
        assert_eq!(rounds_after(|draft| draft.set_bad(vec![pack(3)])), all);
    }

    #[test]
    fn a_longer_period_makes_every_group_due_and_a_shorter_one_none() {
        let mut lock = ObjectLock::new(LockMode::Governance, 30 * DAY_S, 15 * DAY_S, 1);
        lock.settled_s = Some(1000);
        lock.rounds_s.fill(1000);
        let now_s = 1000 + DAY_S;
        assert!(!is_due(&lock, 7, now_s, 0));
        let shorter = changed(Some(&lock), &options(20 * DAY_S), 9);
        assert!(!is_due(&shorter, 7, now_s, 0));
        assert_eq!(assured_until_s(&shorter), Some(1000 + 30 * DAY_S));
        let longer = changed(Some(&lock), &options(60 * DAY_S), 9);
        assert!(is_due(&longer, 7, now_s, 0) && longer.since == 9);
        assert_eq!(assured_until_s(&longer), None);
    }

    #[test]
    fn a_group_is_due_before_less_than_the_period_is_left_of_any_lock() {
        let mut lock = ObjectLock::new(LockMode::Governance, 30 * DAY_S, 16 * DAY_S, 1);
        lock.settled_s = Some(DAY_S);
        lock.rounds_s.fill(100 * DAY_S);
        let due = |lock: &ObjectLock, day: u64, lead: u64| {
            is_due(lock, LOCK_GROUP_OTHERS, day * DAY_S, lead * DAY_S)
        };
        assert!(!due(&lock, 115, 0) && due(&lock, 116, 0));
        assert!(!due(&lock, 113, 2) && due(&lock, 114, 2));
        // What came between was stored by who may not have known the period.
        lock.settled_s = Some(101 * DAY_S);
        assert!(due(&lock, 102, 0));
        assert_eq!(assured_until_s(&lock), None);
    }
}

//! One walk over all versions: locks that are due are extended, and what was deleted is removed
//! for good once its lock has ended.

use std::collections::{HashMap, HashSet};

use repo_format::key::ObjectKey;
use repo_format::lock::{LOCK_GROUP_OTHERS, LOCK_GROUPS, ObjectLock};

use super::needs::{Needs, Use};
use super::{LockReport, assured_until_s, is_due, is_refused};
use crate::gc::draft::blocking;
use crate::gc::transition;
use crate::index::Index;
use crate::recover::describe;
use crate::store::{Held, Lockable, Protection, StoreError, Version, Versions, is_lockable};
use crate::view::View;
use crate::{Repository, RepositoryError};

/// Versions that are asked about, extended or removed together.
const BATCH: usize = 500;
/// What an eighth of the slack is for: a group is seen to so long before it must be, and what was
/// stored since so short a time is left for the next time.
const EARLY_PART: u64 = 8;
/// Where things are tried out.
const SCRATCH: &str = "tmp/";
/// Where objects are that are no packs.
const OTHERS: [&str; 5] = ["cat/", "config", "cpg/", "keys/", "x/"];

/// Sees to all locks, as a prune does. `None` where nothing can be locked. The index must be in
/// line with the view, and the view's catalog the newest.
pub(crate) fn maintain(
    repository: &Repository,
    index: &Index,
    view: &mut View,
) -> Result<Option<LockReport>, RepositoryError> {
    let Some(versions) = repository.store().versions() else { return Ok(None) };
    let is_chosen = view.head.catalog.lock.is_some();
    let (default, trouble) = match versions.lockable() {
        Ok(Lockable::Yes { default }) => (default, None),
        Ok(Lockable::No) if !is_chosen => return Ok(None),
        Ok(Lockable::No) => {
            let at = repository.store().describe();
            (None, Some(describe(&RepositoryError::NoObjectLock { at })))
        }
        Err(error) if is_refused(&error) && !is_chosen => return Ok(None),
        Err(error) if is_refused(&error) => (None, None),
        Err(error) => return Err(error.into()),
    };
    let lead_s = view.head.catalog.lock.as_ref().map_or(0, |lock| lock.slack_s / EARLY_PART);
    let mut pass = Pass::new(versions, index, view, default, lead_s);
    pass.report.trouble = trouble;
    pass.walk("", true)?;
    let (mut report, done) = pass.finish()?;
    publish(repository, view, done)?;
    report.assured_until_s = view.head.catalog.lock.as_ref().and_then(assured_until_s);
    Ok(Some(report))
}

/// Sees to groups that are overdue, until so many locks were extended.
pub(super) fn extend_overdue(
    repository: &Repository,
    index: &Index,
    view: &mut View,
    extended_max: u64,
) -> Result<LockReport, RepositoryError> {
    let Some(versions) = repository.store().versions() else { return Ok(LockReport::default()) };
    let mut pass = Pass::new(versions, index, view, None, 0);
    let due: Vec<usize> = (0..LOCK_GROUPS).filter(|group| pass.is_due(*group)).collect();
    for group in due {
        if pass.report.extended >= extended_max || pass.report.trouble.is_some() {
            pass.drop_group(group);
            continue;
        }
        if group == LOCK_GROUP_OTHERS {
            OTHERS.iter().try_for_each(|under| pass.walk(under, false))?;
        } else {
            pass.walk(&format!("p/{group:02x}/"), false)?;
        }
        pass.flush()?;
    }
    let (mut report, done) = pass.finish()?;
    publish(repository, view, done)?;
    report.assured_until_s = view.head.catalog.lock.as_ref().and_then(assured_until_s);
    Ok(report)
}

/// What a pass has found out about locks.
struct Done {
    before: ObjectLock,
    settled_s: Option<u64>,
    round_s: u64,
    groups: Vec<usize>,
}

/// Writes down how long locks last. What was taken back meanwhile stays so.
fn publish(
    repository: &Repository,
    view: &mut View,
    done: Option<Done>,
) -> Result<(), RepositoryError> {
    let Some(done) = done else { return Ok(()) };
    transition(repository, view, |_, draft| {
        draft.edit_lock(|lock| {
            if lock.since != done.before.since {
                return;
            }
            lock.settled_s = lock.settled_s.or(done.settled_s);
            for group in &done.groups {
                if lock.round_s(*group) == done.before.round_s(*group)
                    && let Some(round_s) = lock.rounds_s.get_mut(*group)
                {
                    *round_s = done.round_s;
                }
            }
        });
        Ok(())
    })?;
    Ok(())
}

/// The locks that are extended by a pass.
struct Round {
    lock: ObjectLock,
    settled_s: Option<u64>,
    /// What was stored before this time is extended.
    from_s: u64,
    due: Vec<bool>,
}

/// Versions of one name that nobody needs.
struct Doomed {
    is_pack: bool,
    objects: Vec<Version>,
    markers: Vec<Version>,
    /// Some object of it stays for now, so its markers do.
    stays: bool,
}

struct Pass<'a> {
    versions: &'a dyn Versions,
    needs: Needs<'a>,
    /// As the catalog says.
    lock: Option<ObjectLock>,
    default: Option<Protection>,
    round: Option<Round>,
    now_s: u64,
    to_extend: Vec<Version>,
    doomed: Vec<Doomed>,
    report: LockReport,
}

impl<'a> Pass<'a> {
    fn new(
        versions: &'a dyn Versions,
        index: &'a Index,
        view: &View,
        default: Option<Protection>,
        lead_s: u64,
    ) -> Self {
        // Later than the lists of the view: who has ended by then stores nothing any more.
        let now_s = versions.now_s();
        let lock = view.head.catalog.lock.clone();
        let round = lock.clone().map(|lock| {
            let is_settled = blocking(view, lock.since).is_empty();
            let settled_s = lock.settled_s.or_else(|| is_settled.then_some(now_s));
            let recent_s = now_s.saturating_sub(lock.slack_s / EARLY_PART);
            let from_s = recent_s.max(settled_s.unwrap_or(now_s));
            let known = ObjectLock { settled_s, ..lock.clone() };
            let due = (0..LOCK_GROUPS).map(|group| is_due(&known, group, now_s, lead_s)).collect();
            Round { lock, settled_s, from_s, due }
        });
        Self {
            versions,
            needs: Needs::new(view, index),
            lock,
            default,
            round,
            now_s,
            to_extend: Vec::new(),
            doomed: Vec::new(),
            report: LockReport::default(),
        }
    }

    fn is_due(&self, group: usize) -> bool {
        self.round.as_ref().is_some_and(|round| round.due.get(group) == Some(&true))
    }

    /// Leaves a group for another time.
    fn drop_group(&mut self, group: usize) {
        if let Some(due) = self.round.as_mut().and_then(|round| round.due.get_mut(group)) {
            *due = false;
        }
    }

    /// * `removes`: whether what nobody needs is removed, too.
    fn walk(&mut self, under: &str, removes: bool) -> Result<(), RepositoryError> {
        let mut failed = None;
        let listed = self.versions.list_versions(under, &mut |group| {
            self.visit(group, removes).map_err(|error| match error {
                RepositoryError::Store(error) => error,
                other => {
                    let at = under.to_owned();
                    failed = Some(other);
                    StoreError::Missing { at }
                }
            })
        });
        if let Some(error) = failed {
            return Err(error);
        }
        match listed {
            Err(error) if is_refused(&error) => {
                self.give_up(&error.into());
                Ok(())
            }
            other => Ok(other?),
        }
    }

    /// Extends nothing any more: who has more rights may.
    fn give_up(&mut self, error: &RepositoryError) {
        self.report.trouble.get_or_insert_with(|| describe(error));
        self.to_extend.clear();
        if let Some(round) = &mut self.round {
            round.due.fill(false);
        }
    }

    /// * `group`: all versions of one name.
    fn visit(&mut self, group: &[Version], removes: bool) -> Result<(), RepositoryError> {
        let Some(top) = group.first() else { return Ok(()) };
        let key = top.path.parse::<ObjectKey>().ok();
        if key.is_none() && !top.path.starts_with(SCRATCH) {
            // Not ours.
            return Ok(());
        }
        let wanted = key.as_ref().map_or(Ok(Use::Idle), |key| self.needs.of(key))?;
        match (key, wanted) {
            (_, Use::Kept) => {}
            (Some(key), Use::Needed) => self.keep(&key, group),
            (Some(key), Use::IfVisible) if !top.is_marker => self.keep(&key, group),
            _ if removes => self.doom(key.as_ref(), group),
            _ => {}
        }
        if self.to_extend.len() + self.doomed.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    /// The oldest object is the true one, and what has the same content on top of it is as good.
    fn keep(&mut self, key: &ObjectKey, group: &[Version]) {
        let Some(top) = group.first() else { return };
        let Some(oldest) = group.iter().rev().find(|version| !version.is_marker) else { return };
        let is_same = top.tag == oldest.tag && top.size_bytes == oldest.size_bytes;
        if top.is_marker || !is_same {
            self.report.attacked += 1;
            self.report.attacked_example.get_or_insert_with(|| top.path.clone());
        }
        if !self.is_due(ObjectLock::group_of(key)) || self.is_fresh(oldest) {
            return;
        }
        self.to_extend.push(oldest.clone());
        if top.id != oldest.id && is_same && !top.is_marker {
            self.to_extend.push(top.clone());
        }
    }

    /// Whether a version's first lock is all that it needs for now.
    fn is_fresh(&self, version: &Version) -> bool {
        let Some(round) = &self.round else { return true };
        version.at_s >= round.from_s && round.settled_s.is_some_and(|at_s| version.at_s >= at_s)
    }

    /// Below the uppermost marker nothing is needed any more; of what is rewritten, nothing below
    /// the newest version.
    fn doom(&mut self, key: Option<&ObjectKey>, group: &[Version]) {
        let is_rewritten = key.is_none_or(|key| !is_lockable(key));
        let from = match group.iter().position(|version| version.is_marker) {
            Some(marker) => marker,
            None if is_rewritten => 1,
            None => return,
        };
        let (mut objects, mut markers) = (Vec::new(), Vec::new());
        let (mut deleted_s, mut stays) = (self.now_s, false);
        let is_pack = matches!(key, Some(ObjectKey::Pack(_)));
        for version in group.iter().skip(from) {
            if version.is_marker {
                deleted_s = version.at_s;
                markers.push(version.clone());
            } else if self.ends_s(!is_rewritten, version, deleted_s) > self.now_s {
                let until_s = self.ends_by_s(version, deleted_s);
                self.defer(is_pack, version, until_s);
                stays = true;
            } else {
                objects.push(version.clone());
            }
        }
        if !objects.is_empty() || !markers.is_empty() && !stays {
            self.doomed.push(Doomed { is_pack, objects, markers, stays });
        }
    }

    /// When the lock of a deleted version ends at the earliest. One that was needed for longer
    /// than the slack was extended, and not long before it was deleted.
    fn ends_s(&self, is_locked: bool, version: &Version, deleted_s: u64) -> u64 {
        let own = self.lock.as_ref().filter(|_| is_locked).map_or(0, |lock| {
            version.at_s.saturating_add(lock.slack_s).max(deleted_s).saturating_add(lock.period_s)
        });
        let default = self.default.map_or(0, |default| version.at_s.saturating_add(default.keep_s));
        own.max(default)
    }

    /// When it ends at the latest, if nobody changed the period.
    fn ends_by_s(&self, version: &Version, deleted_s: u64) -> u64 {
        let lock = self.lock.as_ref();
        let own = lock.map_or(0, |lock| {
            let was_extended = deleted_s > version.at_s.saturating_add(lock.slack_s / 2);
            let from_s = if was_extended { deleted_s } else { version.at_s };
            from_s.saturating_add(lock.keep_s())
        });
        own.max(self.ends_s(false, version, deleted_s))
    }

    fn defer(&mut self, is_pack: bool, version: &Version, until_s: u64) {
        let report = &mut self.report;
        report.deferred += 1;
        report.deferred_packs += u64::from(is_pack);
        report.deferred_bytes += version.size_bytes;
        report.deferred_until_s = report.deferred_until_s.max(Some(until_s));
    }

    fn flush(&mut self) -> Result<(), RepositoryError> {
        self.extend()?;
        self.remove()
    }

    fn extend(&mut self) -> Result<(), RepositoryError> {
        let batch = std::mem::take(&mut self.to_extend);
        let Some(round) = self.round.as_ref().filter(|_| !batch.is_empty()) else { return Ok(()) };
        let until_s = round.from_s.saturating_add(round.lock.keep_s());
        match self.versions.extend(&batch, Held { mode: round.lock.mode, until_s }) {
            Ok(()) => self.report.extended += batch.len() as u64,
            Err(error) if is_refused(&error) => self.give_up(&error.into()),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn remove(&mut self) -> Result<(), RepositoryError> {
        let mut doomed = std::mem::take(&mut self.doomed);
        self.leave_locked(&mut doomed)?;
        let objects: Vec<Version> =
            doomed.iter().flat_map(|doomed| &doomed.objects).cloned().collect();
        let refused = self.remove_all(&objects)?;
        for doomed in &mut doomed {
            for version in &doomed.objects {
                if refused.contains(&version.path) {
                    doomed.stays = true;
                    self.defer(doomed.is_pack, version, self.now_s);
                } else {
                    self.report.removed += 1;
                    self.report.removed_bytes += version.size_bytes;
                }
            }
        }
        // Last, or what they hide would come back.
        let markers: Vec<Version> = doomed
            .into_iter()
            .filter(|doomed| !doomed.stays)
            .flat_map(|doomed| doomed.markers)
            .collect();
        self.remove_all(&markers).map(drop)
    }

    /// Asks which versions are locked, and leaves those.
    fn leave_locked(&mut self, doomed: &mut [Doomed]) -> Result<(), RepositoryError> {
        let may_be_locked = |version: &&Version| {
            self.default.is_some() || version.path.parse().map_or(true, |key| is_lockable(&key))
        };
        let objects = doomed.iter().flat_map(|doomed| &doomed.objects);
        let asked: Vec<Version> = objects.filter(may_be_locked).cloned().collect();
        let held = match self.versions.held(&asked) {
            Ok(held) => held,
            // Then the server decides when it is asked to remove them.
            Err(error) if is_refused(&error) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let held: HashMap<String, Held> = asked
            .into_iter()
            .zip(held)
            .filter_map(|(version, held)| Some((version.id, held?)))
            .filter(|(_, held)| held.until_s >= self.now_s)
            .collect();
        for doomed in doomed {
            let (locked, free): (Vec<Version>, Vec<Version>) =
                doomed.objects.drain(..).partition(|version| held.contains_key(&version.id));
            for version in &locked {
                let until_s = held.get(&version.id).map_or(0, |held| held.until_s);
                self.defer(doomed.is_pack, version, until_s);
            }
            doomed.stays |= !locked.is_empty();
            doomed.objects = free;
        }
        Ok(())
    }

    /// Returns the paths of those that were not removed.
    fn remove_all(&mut self, versions: &[Version]) -> Result<HashSet<String>, RepositoryError> {
        if versions.is_empty() {
            return Ok(HashSet::new());
        }
        let refused = match self.versions.remove_versions(versions) {
            Ok(refused) => refused,
            Err(error) if is_refused(&error) => {
                self.report.trouble.get_or_insert_with(|| describe(&error.into()));
                return Ok(versions.iter().map(|version| version.path.clone()).collect());
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(first) = refused.first() {
            self.report.trouble.get_or_insert_with(|| {
                format!(
                    "old versions cannot be removed, {} for one: {}. It takes the right \
                     s3:DeleteObjectVersion, or a lifecycle rule for noncurrent versions",
                    first.path,
                    first.why.trim_end_matches('.')
                )
            });
        }
        Ok(refused.into_iter().map(|refused| refused.path).collect())
    }

    fn finish(mut self) -> Result<(LockReport, Option<Done>), RepositoryError> {
        self.flush()?;
        let done = self.round.map(|round| Done {
            groups: (0..LOCK_GROUPS).filter(|group| round.due.get(*group) == Some(&true)).collect(),
            before: round.lock,
            settled_s: round.settled_s,
            round_s: round.from_s,
        });
        Ok((self.report, done))
    }
}

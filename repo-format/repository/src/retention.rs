//! Which snapshots a retention policy keeps, and which unfinished runs are given up: pure functions
//! of their times.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use repo_format::id::{ClusterId, SessionId, SnapshotId};
use repo_format::snapshot::{Completeness, Snapshot};

/// How long the checkpoint of a run that was killed waits for the next run, if nothing else is
/// said: a week covers what is run once a week.
pub const UNFINISHED_KEPT: Duration = Duration::from_hours(7 * 24);

/// How many snapshots of each kind to keep, per volume name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest ones.
    pub last: u32,
    /// The newest of each of so many hours that have one; likewise below.
    pub hourly: u32,
    /// Days.
    pub daily: u32,
    /// ISO weeks.
    pub weekly: u32,
    /// Months.
    pub monthly: u32,
    /// Years.
    pub yearly: u32,
}

impl Policy {
    /// Whether it would keep nothing at all.
    pub const fn is_empty(&self) -> bool {
        self.last == 0
            && self.hourly == 0
            && self.daily == 0
            && self.weekly == 0
            && self.monthly == 0
            && self.yearly == 0
    }
}

/// What becomes of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The snapshot.
    pub id: SnapshotId,
    /// Why it is kept; empty if it is to be forgotten.
    pub reasons: Vec<&'static str>,
}

/// Judges snapshots, each name a series of its own. An incomplete snapshot never takes the place
/// of a complete one: it counts only for `last`.
pub fn judge(snapshots: &[&Snapshot], policy: &Policy, zone: &TimeZone) -> Vec<Decision> {
    let mut series: BTreeMap<&str, Vec<&Snapshot>> = BTreeMap::new();
    for snapshot in snapshots {
        series.entry(&snapshot.name).or_default().push(snapshot);
    }
    let mut decisions = Vec::with_capacity(snapshots.len());
    for mut of_name in series.into_values() {
        of_name.sort_by_key(|snapshot| std::cmp::Reverse((snapshot.started_ns, snapshot.id)));
        decisions.extend(judge_series(&of_name, policy, zone));
    }
    decisions
}

/// The checkpoints of `cluster` whose run is over, and has waited for a next run for longer than
/// `kept`. Time is the makers': a wrong clock costs the next run at most what was stored before.
///
/// * `is_over`: whether a session can commit no more.
pub fn given_up<'a>(
    snapshots: impl IntoIterator<Item = &'a Snapshot>,
    cluster: ClusterId,
    kept: Duration,
    now_s: u64,
    is_over: impl Fn(&SessionId) -> bool,
) -> Vec<SnapshotId> {
    let waited_since_s = |snapshot: &Snapshot| {
        let last_ns = snapshot.finished_ns.max(snapshot.started_ns);
        u64::try_from(last_ns / 1_000_000_000).unwrap_or(0)
    };
    snapshots
        .into_iter()
        .filter(|snapshot| snapshot.completeness == Completeness::Checkpoint)
        .filter(|snapshot| snapshot.cluster == cluster)
        .filter(|snapshot| snapshot.holds.as_ref().is_none_or(&is_over))
        .filter(|snapshot| now_s.saturating_sub(waited_since_s(snapshot)) >= kept.as_secs())
        .map(|snapshot| snapshot.id)
        .collect()
}

/// Judges one series, newest first.
fn judge_series(series: &[&Snapshot], policy: &Policy, zone: &TimeZone) -> Vec<Decision> {
    let mut rules = [
        ("hourly", policy.hourly, HashSet::new()),
        ("daily", policy.daily, HashSet::new()),
        ("weekly", policy.weekly, HashSet::new()),
        ("monthly", policy.monthly, HashSet::new()),
        ("yearly", policy.yearly, HashSet::new()),
    ];
    let mut last_left = policy.last;
    let mut decisions = Vec::with_capacity(series.len());
    for snapshot in series {
        let mut reasons = Vec::new();
        if last_left > 0 {
            last_left -= 1;
            reasons.push("last");
        }
        if snapshot.completeness == Completeness::Complete {
            let periods = periods(snapshot.started_ns, zone);
            for ((reason, limit, taken), period) in rules.iter_mut().zip(periods) {
                if taken.len() < *limit as usize && taken.insert(period) {
                    reasons.push(*reason);
                }
            }
        }
        decisions.push(Decision { id: snapshot.id, reasons });
    }
    decisions
}

/// Hour, day, ISO week, month and year of a time, each as a number that tells it from others.
fn periods(started_ns: i64, zone: &TimeZone) -> [i64; 5] {
    let time = Timestamp::from_nanosecond(started_ns.into()).unwrap_or_default();
    let local = time.to_zoned(zone.clone());
    let date = local.date();
    let week = date.iso_week_date();
    let year = i64::from(date.year());
    let month = year * 12 + i64::from(date.month());
    let day = month * 31 + i64::from(date.day());
    let iso = i64::from(week.year()) * 54 + i64::from(week.week());
    // The offset tells the hour that a clock change repeats from the one it repeats.
    let hour = (day * 24 + i64::from(local.hour())) * 200_000 + i64::from(local.offset().seconds());
    [hour, day, iso, month, year]
}

#[cfg(test)]
mod tests {
    use super::*;
    use repo_format::id::ChunkId;
    use repo_format::snapshot::VolumeKind;

    const HOUR_NS: i64 = 3_600_000_000_000;

    fn snapshot(number: u8, name: &str, hours: i64) -> Snapshot {
        Snapshot {
            id: SnapshotId::from_bytes([number; 16]),
            started_ns: 1_700_000_000_000_000_000 / (24 * HOUR_NS) * 24 * HOUR_NS + hours * HOUR_NS,
            ..Snapshot::new(name, VolumeKind::Block, ChunkId::NONE)
        }
    }

    fn kept(snapshots: &[Snapshot], policy: &Policy) -> Vec<u8> {
        let refs: Vec<&Snapshot> = snapshots.iter().collect();
        let mut kept: Vec<u8> = judge(&refs, policy, &TimeZone::UTC)
            .into_iter()
            .filter(|decision| !decision.reasons.is_empty())
            .map(|decision| decision.id.as_bytes()[0])
            .collect();
        kept.sort_unstable();
        kept
    }

    #[test]
    fn the_newest_of_each_period_is_kept_and_periods_without_one_do_not_count() {
        // Two a day on days 0, 1 and 5.
        let hours = [(1, 2), (2, 20), (3, 26), (4, 44), (5, 122), (6, 140)];
        let all: Vec<Snapshot> = hours.map(|(number, hour)| snapshot(number, "v", hour)).into();
        assert_eq!(kept(&all, &Policy { daily: 2, ..Policy::default() }), [4, 6]);
        assert_eq!(kept(&all, &Policy { daily: 9, ..Policy::default() }), [2, 4, 6]);
        assert_eq!(kept(&all, &Policy { last: 1, daily: 3, ..Policy::default() }), [2, 4, 6]);
        assert_eq!(kept(&all, &Policy { last: 3, ..Policy::default() }), [4, 5, 6]);
    }

    #[test]
    fn each_name_is_a_series_of_its_own() {
        let all = [snapshot(1, "a", 0), snapshot(2, "a", 1), snapshot(3, "b", 0)];
        assert_eq!(kept(&all, &Policy { last: 1, ..Policy::default() }), [2, 3]);
    }

    #[test]
    fn an_incomplete_snapshot_does_not_push_out_a_complete_one() {
        let mut all = [snapshot(1, "a", 0), snapshot(2, "a", 1)];
        all[1].completeness = Completeness::Incomplete;
        assert_eq!(kept(&all, &Policy { daily: 1, ..Policy::default() }), [1]);
    }

    #[test]
    fn an_empty_policy_keeps_nothing_which_callers_must_refuse() {
        assert!(Policy::default().is_empty());
        assert_eq!(kept(&[snapshot(1, "a", 0)], &Policy::default()), [0u8; 0]);
    }

    #[test]
    fn what_a_killed_run_left_is_given_up_once_it_is_over_and_has_waited_long_enough() {
        let (own, other) = (ClusterId::NONE, ClusterId::of_name("other"));
        let session = |number: u8| Some(SessionId([number; 16]));
        let mut all = [0, 1, 2, 3, 4].map(|number| Snapshot {
            completeness: Completeness::Checkpoint,
            holds: session(number),
            ..snapshot(number, "v", 0)
        });
        all[1].finished_ns = all[1].started_ns + 2 * HOUR_NS;
        all[2].completeness = Completeness::Incomplete;
        all[3].cluster = other;
        let started_s = u64::try_from(all[0].started_ns / 1_000_000_000).unwrap();
        let given_up = |hours: u64| -> Vec<u8> {
            let is_over = |session: &SessionId| session.0[0] != 4;
            let (kept, now_s) = (Duration::from_hours(1), started_s + hours * 3600);
            let ids = super::given_up(&all, own, kept, now_s, is_over);
            ids.iter().map(|id| id.as_bytes()[0]).collect()
        };
        assert_eq!(given_up(0), [0u8; 0]);
        assert_eq!(given_up(1), [0]);
        assert_eq!(given_up(3), [0, 1]);
    }
}

//! Which backups are kept, and why. What is kept is the union of what each rule keeps, so that a
//! further rule never costs a backup.
//!
//! The periods mean what they mean for snapshots in a repository (`salvor forget`): of each hour,
//! day, ISO week, month and year that has one, the newest complete backup counts.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// What a plan keeps. Without a rule (all zero, no `ttl`) everything is kept for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest ones, complete or partial.
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
    /// The newest so many complete ones are kept, whatever else says; not a rule by itself.
    pub minimum_good: u32,
    /// Everything younger than this. A backup's own expiry, if it has one, counts instead.
    pub ttl: Option<Duration>,
    /// How long a failed run stays to be looked at. It has nothing to restore, and counts nowhere.
    pub failed_ttl: Duration,
}

/// How a backup ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It has not.
    Running,
    /// Everything is saved.
    Completed,
    /// Something is missing.
    Partial,
    /// Nothing can be restored from it.
    Failed,
}

/// A backup, as far as its life span is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point<'a> {
    /// Its name, unique among those judged together.
    pub name: &'a str,
    /// The plan that made it; none if a person did.
    pub plan: Option<&'a str>,
    /// The cluster that made it.
    pub cluster: &'a str,
    /// Its point in time: when it started.
    pub taken: Timestamp,
    /// How it ended.
    pub state: State,
    /// Until when it is kept at least, if it says so itself.
    pub expires: Option<Expiry>,
    /// It must not be deleted until a person says otherwise.
    pub is_held: bool,
}

/// A backup's own wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// Not after this, unless a rule of its plan wants it.
    At(Timestamp),
    /// For ever.
    Never,
}

/// Why a backup is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the words that users see are its doc")]
pub enum Reason {
    Running,
    LegalHold,
    ForeignCluster,
    MinimumGood,
    Last,
    Hourly,
    Daily,
    Weekly,
    Monthly,
    Yearly,
    NotExpired,
    NeverExpires,
    NoRule,
    RecentFailure,
}

impl Reason {
    /// The words for it.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Running => "it is still running",
            Self::LegalHold => "legal hold",
            Self::ForeignCluster => "another cluster's",
            Self::MinimumGood => "among the last complete ones",
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
            Self::NotExpired => "not expired",
            Self::NeverExpires => "never expires",
            Self::NoRule => "no rule limits it",
            Self::RecentFailure => "a recent failure",
        }
    }
}

/// What becomes of one backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision<'a> {
    /// Which.
    pub name: &'a str,
    /// Why it is kept; empty if it is to be deleted.
    pub reasons: Vec<Reason>,
}

impl Decision<'_> {
    /// Whether it stays.
    pub const fn is_kept(&self) -> bool {
        !self.reasons.is_empty()
    }
}

/// Whose rules count, and when and where it is.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// This cluster: others' backups are never deleted.
    pub cluster: &'a str,
    /// The policies of the plans there are. What a deleted plan made goes by its own expiry alone.
    pub policies: &'a BTreeMap<String, Policy>,
    /// Whose calendar counts.
    pub zone: &'a TimeZone,
    /// Now.
    pub now: Timestamp,
}

/// Judges backups, those of each plan and cluster as a series of its own. In the order of series
/// and then newest first.
pub fn judge<'a>(points: &[Point<'a>], facts: Facts<'_>) -> Vec<Decision<'a>> {
    let mut series: BTreeMap<(Option<&str>, &str), Vec<&Point<'a>>> = BTreeMap::new();
    for point in points {
        series.entry((point.plan, point.cluster)).or_default().push(point);
    }
    let mut decisions = Vec::with_capacity(points.len());
    for ((plan, cluster), mut points) in series {
        points.sort_by_key(|point| std::cmp::Reverse((point.taken, point.name)));
        let policy = plan.and_then(|plan| facts.policies.get(plan));
        let is_foreign = cluster != facts.cluster;
        decisions.extend(judge_series(&points, policy, is_foreign, facts));
    }
    decisions
}

/// Judges one series, newest first.
fn judge_series<'a>(
    points: &[&Point<'a>],
    policy: Option<&Policy>,
    is_foreign: bool,
    facts: Facts<'_>,
) -> Vec<Decision<'a>> {
    let mut counts = Counts::new(policy.copied().unwrap_or_default());
    let mut decisions = Vec::with_capacity(points.len());
    for point in points {
        let mut reasons = Vec::new();
        let flags = [
            (point.state == State::Running, Reason::Running),
            (point.is_held, Reason::LegalHold),
            (is_foreign, Reason::ForeignCluster),
        ];
        reasons.extend(flags.into_iter().filter(|(holds, _)| *holds).map(|(_, reason)| reason));
        counts.judge(point, facts.zone, &mut reasons);
        reasons.extend(by_age(point, policy, facts.now));
        decisions.push(Decision { name: point.name, reasons });
    }
    decisions
}

/// What keeps a backup by its age alone.
fn by_age(point: &Point<'_>, policy: Option<&Policy>, now: Timestamp) -> Option<Reason> {
    if point.state == State::Running {
        return None;
    }
    let is_young = |ttl: Duration| {
        let ends =
            SignedDuration::try_from(ttl).ok().and_then(|ttl| point.taken.checked_add(ttl).ok());
        ends.is_none_or(|ends| now < ends)
    };
    if point.state == State::Failed {
        let ttl = policy.map_or(Duration::ZERO, |policy| policy.failed_ttl);
        let is_wanted = match point.expires {
            Some(Expiry::At(time)) => now < time,
            Some(Expiry::Never) => true,
            None => policy.is_none(),
        };
        return (is_young(ttl) || is_wanted).then_some(Reason::RecentFailure);
    }
    match (point.expires, policy) {
        (Some(Expiry::Never), _) => Some(Reason::NeverExpires),
        (Some(Expiry::At(time)), _) => (now < time).then_some(Reason::NotExpired),
        (None, Some(Policy { ttl: Some(ttl), .. })) => is_young(*ttl).then_some(Reason::NotExpired),
        (None, Some(policy)) => policy.has_no_rule().then_some(Reason::NoRule),
        (None, None) => Some(Reason::NoRule),
    }
}

impl Policy {
    /// Whether nothing in it ever deletes a complete backup.
    pub const fn has_no_rule(&self) -> bool {
        self.ttl.is_none()
            && self.last == 0
            && self.hourly == 0
            && self.daily == 0
            && self.weekly == 0
            && self.monthly == 0
            && self.yearly == 0
    }
}

/// What the counting rules of a policy have left, going from new to old.
struct Counts {
    minimum_good: u32,
    last: u32,
    periods: [(Reason, u32, HashSet<i64>); 5],
}

impl Counts {
    fn new(policy: Policy) -> Self {
        Self {
            minimum_good: policy.minimum_good,
            last: policy.last,
            periods: [
                (Reason::Hourly, policy.hourly, HashSet::new()),
                (Reason::Daily, policy.daily, HashSet::new()),
                (Reason::Weekly, policy.weekly, HashSet::new()),
                (Reason::Monthly, policy.monthly, HashSet::new()),
                (Reason::Yearly, policy.yearly, HashSet::new()),
            ],
        }
    }

    fn judge(&mut self, point: &Point<'_>, zone: &TimeZone, reasons: &mut Vec<Reason>) {
        if !matches!(point.state, State::Completed | State::Partial) {
            return;
        }
        let is_complete = point.state == State::Completed;
        if is_complete && self.minimum_good > 0 {
            self.minimum_good -= 1;
            reasons.push(Reason::MinimumGood);
        }
        if self.last > 0 {
            self.last -= 1;
            reasons.push(Reason::Last);
        }
        if is_complete {
            let periods = self.periods.iter_mut().zip(periods(point.taken, zone));
            for ((reason, limit, taken), period) in periods {
                if taken.len() < *limit as usize && taken.insert(period) {
                    reasons.push(*reason);
                }
            }
        }
    }
}

/// Hour, day, ISO week, month and year of a time, each as a number that tells it from others.
fn periods(taken: Timestamp, zone: &TimeZone) -> [i64; 5] {
    let local = taken.to_zoned(zone.clone());
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

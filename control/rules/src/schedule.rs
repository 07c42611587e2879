//! When a plan runs next: cron with a time zone, jitter, pause, and missed runs made good by one.
//!
//! A *due time* is what the cron expression says; a run starts up to the jitter later. A plan's
//! state is the due time that it last started a run for, so that each is used once at most and any
//! number that passed meanwhile is made good by a single run for the latest of them.
//!
//! Where a clock is set forward, a time that does not occur is due at the first instant after the
//! gap; where it is set back, a time that occurs twice is due at the first of the two. Expressions
//! for every hour or minute run in both of them and do not run in the gap.

use std::fmt::Write as _;
use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};
use sha2::{Digest, Sha256};

/// The shortest interval `@every` takes.
pub const INTERVAL_MIN: Duration = Duration::from_mins(1);
/// How many missed due times are counted before counting stops.
pub const MISSED_MAX: u32 = 1_000;
/// The longest name of a run, so that it fits a label.
pub const RUN_NAME_LENGTH_MAX: usize = 63;

/// When something is due.
#[derive(Debug, Clone)]
pub enum Cadence {
    /// A cron expression on the clocks of a zone.
    Cron(Box<CronIn>),
    /// Again so long after the last time.
    Every(Duration),
}

/// A cron expression in a time zone.
#[derive(Debug, Clone)]
pub struct CronIn {
    cron: Cron,
    zone: TimeZone,
}

/// Why an expression is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not five fields of cron, `@daily` and its like, or `@every 6h`.
    #[error(
        "schedule {expression:?}: {reason}; write five fields, such as \"0 1 * * *\", or @daily"
    )]
    Syntax {
        /// The expression.
        expression: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A date that does not exist.
    #[error("schedule {0:?} is never due: no such date exists")]
    Never(String),
    /// An `@every` that is too short.
    #[error("schedule {0:?}: an interval is one minute or more")]
    Interval(String),
}

/// What decides when a plan runs.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// When it is due.
    pub cadence: &'a Cadence,
    /// Its UID, which fixes its share of the jitter.
    pub uid: &'a str,
    /// Runs start up to so much later than they are due.
    pub jitter: Duration,
    /// Nothing starts.
    pub paused: bool,
    /// The first due time is later than this: when the plan was made, or last resumed or changed.
    pub since: Timestamp,
    /// A first run is due at `since` itself.
    pub run_at_once: bool,
}

/// What a plan has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct History {
    /// The due time of the run that was started last.
    pub last_due: Option<Timestamp>,
    /// A run of this plan has not ended yet, whatever its phase.
    pub running: bool,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Start one run and record `due` as [`History::last_due`].
    Run {
        /// The latest due time that has come.
        due: Timestamp,
        /// Earlier due times that this run makes good, [`MISSED_MAX`] at most.
        missed: u32,
    },
    /// A run is due, and starts when the one that runs has ended.
    Pending {
        /// The latest due time that has come.
        due: Timestamp,
        /// Earlier ones that passed meanwhile, [`MISSED_MAX`] at most.
        missed: u32,
    },
    /// Ask again then.
    Wait {
        /// When the next run starts.
        until: Timestamp,
    },
    /// Ask again when the plan changes.
    Paused,
    /// No further due time exists that a clock can say.
    Never,
}

/// Splits Velero's `CRON_TZ=Europe/Berlin 0 1 * * *` into zone and expression.
pub fn split_zone(expression: &str) -> (Option<&str>, &str) {
    let trimmed = expression.trim();
    let rest = trimmed.strip_prefix("CRON_TZ=").or_else(|| trimmed.strip_prefix("TZ="));
    match rest.and_then(|rest| rest.split_once(char::is_whitespace)) {
        Some((zone, expression)) => (Some(zone), expression.trim()),
        None => (None, trimmed),
    }
}

impl Cadence {
    /// Reads five fields (minute, hour, day, month, weekday), `@yearly`, `@annually`, `@monthly`,
    /// `@weekly`, `@daily`, `@midnight`, `@hourly`, or `@every` with a duration such as `1h30m`.
    /// If both day and weekday are restricted, either suffices, as in cron.
    ///
    /// * `zone`: whose clocks count. A zone within the expression is the caller's to look up: see
    ///   [`split_zone`].
    ///
    /// # Errors
    ///
    /// [`ScheduleError`] for what is no schedule, or one that is never due.
    pub fn parse(expression: &str, zone: TimeZone) -> Result<Self, ScheduleError> {
        let expression = expression.trim();
        if let Some(interval) = expression.strip_prefix("@every ") {
            return parse_interval(expression, interval);
        }
        let syntax =
            |reason: String| ScheduleError::Syntax { expression: expression.into(), reason };
        let fields = if expression == "@midnight" { "@daily" } else { expression };
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .sloppy_ranges(true)
            .build();
        let cron = parser.parse(fields).map_err(|error| syntax(error.to_string()))?;
        let cadence = Self::Cron(Box::new(CronIn { cron, zone }));
        if cadence.next(Timestamp::UNIX_EPOCH).is_none() {
            return Err(ScheduleError::Never(expression.into()));
        }
        Ok(cadence)
    }

    /// The first due time after `after`.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Cron(cron) => {
                let next = cron.cron.find_next_occurrence(&cron.local(after), false);
                next.ok().map(|next| next.timestamp()).filter(|next| *next > after)
            }
            Self::Every(interval) => {
                after.checked_add(SignedDuration::try_from(*interval).ok()?).ok()
            }
        }
    }

    /// The last due time in `after..=until`, if there is one.
    fn last_between(&self, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
        if until <= after {
            return None;
        }
        let last = match self {
            Self::Cron(cron) => {
                let last = cron.cron.find_previous_occurrence(&cron.local(until), true).ok()?;
                last.timestamp()
            }
            Self::Every(interval) => {
                let interval_s = i64::try_from(interval.as_secs()).ok().filter(|s| *s > 0)?;
                let past_s = until.duration_since(after).as_secs();
                after.checked_add(SignedDuration::from_secs(past_s - past_s % interval_s)).ok()?
            }
        };
        (last > after && last <= until).then_some(last)
    }

    /// How many due times lie in `after..before`, counted to [`MISSED_MAX`].
    fn count_between(&self, after: Timestamp, before: Timestamp) -> u32 {
        let mut count = 0;
        let mut place = after;
        while count < MISSED_MAX {
            match self.next(place) {
                Some(next) if next < before => place = next,
                _ => break,
            }
            count += 1;
        }
        count
    }
}

impl CronIn {
    fn local(&self, time: Timestamp) -> Zoned {
        time.to_zoned(self.zone.clone())
    }
}

fn parse_interval(expression: &str, interval: &str) -> Result<Cadence, ScheduleError> {
    let parsed = interval.trim().parse::<SignedDuration>();
    let parsed = parsed.ok().and_then(|interval| Duration::try_from(interval).ok());
    let interval = parsed.ok_or_else(|| ScheduleError::Syntax {
        expression: expression.into(),
        reason: "@every needs a duration such as 6h or 1h30m".into(),
    })?;
    if interval < INTERVAL_MIN {
        return Err(ScheduleError::Interval(expression.into()));
    }
    Ok(Cadence::Every(Duration::from_secs(interval.as_secs())))
}

impl Plan<'_> {
    /// How much later than due this plan's runs start: always the same for one UID, and spread
    /// evenly over `0..=jitter` in whole seconds.
    pub fn delay(&self) -> Duration {
        let digest = Sha256::digest(self.uid.as_bytes());
        let draw = digest.iter().take(8).fold(0_u64, |draw, byte| draw << 8 | u64::from(*byte));
        Duration::from_secs(draw % self.jitter.as_secs().saturating_add(1))
    }

    /// Decides. Once the caller has recorded a run's due time, no later decision names that time or
    /// an earlier one again, however the clock moves.
    pub fn decide(&self, history: History, now: Timestamp) -> Decision {
        if self.paused {
            return Decision::Paused;
        }
        let delay = SignedDuration::try_from(self.delay()).unwrap_or(SignedDuration::MAX);
        let first = self.run_at_once && history.last_due.is_none_or(|last| last < self.since);
        let base = history.last_due.map_or(self.since, |last| last.max(self.since));
        let come = now.saturating_sub(delay).unwrap_or(Timestamp::MIN);
        let latest = self.cadence.last_between(base, come);
        let due = latest.or_else(|| (first && self.since <= come).then_some(self.since));
        if let Some(due) = due {
            let missed = self.cadence.count_between(base, due) + u32::from(first && due > base);
            let missed = missed.min(MISSED_MAX);
            return if history.running {
                Decision::Pending { due, missed }
            } else {
                Decision::Run { due, missed }
            };
        }
        let next = if first { Some(self.since) } else { self.cadence.next(base) };
        match next.and_then(|next| next.checked_add(delay).ok()) {
            Some(until) => Decision::Wait { until },
            None => Decision::Never,
        }
    }

    /// By how much the recovery point is missed: how long ago the first due time was that no good
    /// run covers. Zero if nothing is missed, if the plan is paused, or within `grace`.
    ///
    /// * `last_good`: the due time of the last run that completed.
    /// * `grace`: how long a run may take, jitter aside.
    pub fn missed_by(
        &self,
        last_good: Option<Timestamp>,
        grace: Duration,
        now: Timestamp,
    ) -> Duration {
        if self.paused {
            return Duration::ZERO;
        }
        let base = last_good.map_or(self.since, |last| last.max(self.since));
        let Some(due) = self.cadence.next(base).filter(|due| *due < now) else {
            return Duration::ZERO;
        };
        let late = Duration::try_from(now.duration_since(due)).unwrap_or_default();
        if late <= grace.saturating_add(self.delay()) { Duration::ZERO } else { late }
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The name of the run for a due time: `PLAN-YYYYMMDDhhmmss` in UTC, as Velero names them. Two
/// controllers that decide at once so make one run. A long plan name is cut, and told from others
/// by a digest.
pub fn run_name(plan: &str, due: Timestamp) -> String {
    let suffix = due.strftime("%Y%m%d%H%M%S").to_string();
    let room = RUN_NAME_LENGTH_MAX - suffix.len() - 1;
    if plan.len() <= room {
        return format!("{plan}-{suffix}");
    }
    let digest = Sha256::digest(plan.as_bytes());
    let digest = hex(&digest[..4]);
    let cut = plan.floor_char_boundary(room - digest.len() - 1);
    format!("{}-{digest}-{suffix}", plan[..cut].trim_end_matches(['-', '.']))
}

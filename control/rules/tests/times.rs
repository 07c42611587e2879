//! Schedules, retention and webhooks: what is decided by times.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use rules::retention::{self, Expiry, Facts, Point, Policy, Reason, State};
use rules::schedule::{
    Cadence, Decision, History, MISSED_MAX, Plan, RUN_NAME_LENGTH_MAX, ScheduleError, run_name,
    split_zone,
};
use rules::webhook::{self, Memory, Refusal, Request, Rules, matches_event};

/// Central European time, without a time zone database.
fn berlin() -> TimeZone {
    TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn cron(text: &str) -> Cadence {
    Cadence::parse(text, berlin()).unwrap()
}

fn plan(cadence: &Cadence, since: Timestamp) -> Plan<'_> {
    Plan { cadence, uid: "uid", jitter: Duration::ZERO, paused: false, since, run_at_once: false }
}

#[test]
fn due_times_are_right_where_clocks_are_set() {
    // 2026: forward on 29 March at 02:00, back on 25 October at 03:00.
    let table = [
        (
            "30 2 * * *",
            "2026-03-28T12:00:00Z",
            vec!["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
        ),
        (
            "30 2 * * *",
            "2026-10-24T12:00:00Z",
            vec!["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
        ),
        (
            "0 * * * *",
            "2026-10-24T23:30:00Z",
            vec!["2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"],
        ),
        ("0 * * * *", "2026-03-29T00:30:00Z", vec!["2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"]),
        ("0 3 * * *", "2026-03-28T12:00:00Z", vec!["2026-03-29T01:00:00Z", "2026-03-30T01:00:00Z"]),
        ("@daily", "2026-01-01T00:00:00Z", vec!["2026-01-01T23:00:00Z"]),
        ("@midnight", "2026-01-01T00:00:00Z", vec!["2026-01-01T23:00:00Z"]),
        ("0 0 29 2 *", "2026-01-01T00:00:00Z", vec!["2028-02-28T23:00:00Z"]),
        ("0 12 1 * MON", "2026-01-01T12:00:00Z", vec!["2026-01-05T11:00:00Z"]),
    ];
    for (expression, after, wanted) in table {
        let cadence = cron(expression);
        let mut place = at(after);
        for wanted in wanted {
            place = cadence.next(place).unwrap();
            assert_eq!(place, at(wanted), "{expression} after {after}");
        }
    }
}

#[test]
fn what_is_no_schedule_is_refused_with_the_reason() {
    let parse = |text: &str| Cadence::parse(text, TimeZone::UTC);
    for text in
        ["", "* * * *", "* * * * * *", "61 * * * *", "@fortnightly", "@every soon", "a b c d e"]
    {
        assert!(
            matches!(parse(text), Err(ScheduleError::Syntax { .. })),
            "{text}: {:?}",
            parse(text)
        );
    }
    assert!(matches!(parse("0 0 31 2 *"), Err(ScheduleError::Never(_))));
    assert!(matches!(parse("@every 30s"), Err(ScheduleError::Interval(_))));
    assert!(matches!(parse("@every 1h30m"), Ok(Cadence::Every(every)) if every.as_secs() == 5400));
    assert_eq!(split_zone("CRON_TZ=Europe/Berlin 0 1 * * *"), (Some("Europe/Berlin"), "0 1 * * *"));
    assert_eq!(split_zone(" TZ=UTC @daily "), (Some("UTC"), "@daily"));
    assert_eq!(split_zone("0 1 * * *"), (None, "0 1 * * *"));
}

#[test]
fn a_day_of_downtime_is_made_good_by_one_run_and_a_running_one_lets_one_wait() {
    let cadence = cron("0 * * * *");
    let mut plan = plan(&cadence, at("2026-06-01T00:00:00Z"));
    let mut history = History { last_due: Some(at("2026-06-01T05:00:00Z")), running: false };
    let (now, due) = (at("2026-06-02T05:30:00Z"), at("2026-06-02T05:00:00Z"));
    assert_eq!(plan.decide(history, now), Decision::Run { due, missed: 23 });
    history.running = true;
    assert_eq!(plan.decide(history, now), Decision::Pending { due, missed: 23 });
    history = History { last_due: Some(due), running: true };
    let until = at("2026-06-02T06:00:00Z");
    assert_eq!(plan.decide(history, now), Decision::Wait { until });
    plan.paused = true;
    assert_eq!(plan.decide(history, now), Decision::Paused);
    plan.paused = false;
    // What passed while the plan was paused is not made good.
    plan.since = now;
    assert_eq!(plan.decide(History::default(), now), Decision::Wait { until });
    let years = at("2046-06-02T05:30:00Z");
    assert!(matches!(plan.decide(history, years), Decision::Pending { missed: MISSED_MAX, .. }));
}

#[test]
fn a_plan_that_runs_at_once_does_so_once() {
    let cadence = cron("0 0 * * *");
    let since = at("2026-06-01T12:00:00Z");
    let plan = Plan { run_at_once: true, ..plan(&cadence, since) };
    let now = at("2026-06-01T12:00:05Z");
    assert_eq!(plan.decide(History::default(), now), Decision::Run { due: since, missed: 0 });
    let history = History { last_due: Some(since), running: false };
    assert_eq!(plan.decide(history, now), Decision::Wait { until: at("2026-06-01T22:00:00Z") });
    let late = at("2026-06-02T12:00:00Z");
    let due = at("2026-06-01T22:00:00Z");
    assert_eq!(plan.decide(History::default(), late), Decision::Run { due, missed: 1 });
}

#[test]
fn jitter_is_the_same_for_one_plan_and_spreads_many() {
    let cadence = cron("0 * * * *");
    let since = at("2026-06-01T00:00:00Z");
    let jittered = |uid| Plan { uid, jitter: Duration::from_mins(10), ..plan(&cadence, since) };
    let uids: Vec<String> = (0..2000).map(|number| format!("uid-{number}")).collect();
    let delays: Vec<u64> = uids.iter().map(|uid| jittered(uid).delay().as_secs()).collect();
    assert_eq!(delays[0], jittered("uid-0").delay().as_secs());
    assert!(delays.iter().all(|delay| *delay <= 600));
    let mean = delays.iter().sum::<u64>() / 2000;
    assert!((270..330).contains(&mean), "{mean}");
    let plan = jittered("uid-1");
    let delay = SignedDuration::from_secs(i64::try_from(delays[1]).unwrap());
    let due = at("2026-06-01T01:00:00Z");
    let start = due.checked_add(delay).unwrap();
    assert_eq!(plan.decide(History::default(), since), Decision::Wait { until: start });
    assert_eq!(plan.decide(History::default(), start), Decision::Run { due, missed: 0 });
}

#[test]
fn the_gauge_says_by_how_much_the_recovery_point_is_missed() {
    let cadence = cron("0 * * * *");
    let plan = plan(&cadence, at("2026-06-01T00:00:00Z"));
    let good = Some(at("2026-06-01T05:00:00Z"));
    let grace = Duration::from_mins(30);
    let missed = |now: &str| plan.missed_by(good, grace, at(now)).as_secs();
    assert_eq!(missed("2026-06-01T05:59:00Z"), 0);
    assert_eq!(missed("2026-06-01T06:20:00Z"), 0);
    assert_eq!(missed("2026-06-01T06:31:00Z"), 31 * 60);
    assert_eq!(missed("2026-06-02T06:00:00Z"), 24 * 3600);
    assert_eq!(
        Plan { paused: true, ..plan }.missed_by(good, grace, at("2026-07-01T00:00:00Z")).as_secs(),
        0
    );
}

#[test]
fn a_run_is_named_after_its_due_time_and_fits_a_label() {
    let due = at("2026-06-01T05:00:00Z");
    assert_eq!(run_name("daily", due), "daily-20260601050000");
    let (long, other) = (format!("{}a", "x".repeat(100)), format!("{}b", "x".repeat(100)));
    let name = run_name(&long, due);
    assert_eq!(name.len(), RUN_NAME_LENGTH_MAX);
    assert_ne!(name, run_name(&other, due));
}

proptest! {
    #[test]
    fn no_due_time_is_used_twice_however_the_clock_moves(
        steps in proptest::collection::vec(-7200_i64..20_000, 1..60),
        which in 0_usize..5,
        jitter in 0_u64..900,
    ) {
        let cadences = ["*/7 * * * *", "30 2 * * *", "0 * * * *", "@every 37m", "15 1,13 * * SUN"];
        let cadence = cron(cadences[which]);
        let since = at("2026-10-24T20:00:00Z");
        let plan = Plan { jitter: Duration::from_secs(jitter), ..plan(&cadence, since) };
        let mut history = History::default();
        let mut now = since;
        for step in steps {
            now = now.checked_add(SignedDuration::from_secs(step)).unwrap();
            match plan.decide(history, now) {
                Decision::Run { due, .. } => {
                    prop_assert!(due <= now && due > since);
                    prop_assert!(history.last_due.is_none_or(|last| last < due));
                    // It is the latest that has come.
                    let delay = SignedDuration::try_from(plan.delay()).unwrap();
                    let next = cadence.next(due).unwrap().checked_add(delay).unwrap();
                    prop_assert!(next > now, "{due} at {now}, and then {next}");
                    history.last_due = Some(due);
                }
                Decision::Wait { until } => prop_assert!(until > now),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}

const DAY_S: i64 = 86_400;

fn day(number: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + number * DAY_S).unwrap()
}

fn point(name: &str, number: i64) -> Point<'_> {
    Point {
        name,
        plan: Some("p"),
        cluster: "here",
        taken: day(number),
        state: State::Completed,
        expires: None,
        is_held: false,
    }
}

fn kept(points: &[Point<'_>], policy: Policy, now: Timestamp) -> BTreeMap<String, Vec<Reason>> {
    let policies = BTreeMap::from([("p".to_owned(), policy)]);
    let facts = Facts { cluster: "here", policies: &policies, zone: &TimeZone::UTC, now };
    let decisions = retention::judge(points, facts);
    assert_eq!(decisions.len(), points.len(), "each backup is judged once");
    let kept = decisions.into_iter().filter(retention::Decision::is_kept);
    kept.map(|decision| (decision.name.to_owned(), decision.reasons)).collect()
}

fn names(kept: &BTreeMap<String, Vec<Reason>>) -> Vec<&str> {
    kept.keys().map(String::as_str).collect()
}

#[test]
fn the_last_good_backups_stay_whatever_else_says() {
    let mut points = [point("a", 0), point("b", 1), point("c", 2), point("d", 3)];
    points[2].state = State::Partial;
    points[3].state = State::Failed;
    let policy =
        Policy { ttl: Some(Duration::from_hours(24)), minimum_good: 1, ..Policy::default() };
    let kept = kept(&points, policy, day(100));
    assert_eq!(kept, BTreeMap::from([("b".into(), vec![Reason::MinimumGood])]));
}

#[test]
fn what_is_held_or_running_or_anothers_stays() {
    let mut points = [
        point("held", 0),
        point("running", 1),
        point("foreign", 2),
        point("old", 3),
        point("new", 4),
    ];
    points[0].is_held = true;
    points[1].state = State::Running;
    points[2].cluster = "there";
    let policy = Policy { last: 1, ..Policy::default() };
    let kept = kept(&points, policy, day(100));
    assert_eq!(names(&kept), ["foreign", "held", "new", "running"]);
    assert_eq!(kept["held"], [Reason::LegalHold]);
}

#[test]
fn periods_count_complete_backups_only_and_last_counts_partial_ones_too() {
    let mut points = [point("a", 0), point("b", 1), point("c", 2)];
    points[2].state = State::Partial;
    let daily = Policy { daily: 2, ..Policy::default() };
    assert_eq!(names(&kept(&points, daily, day(9))), ["a", "b"]);
    let last = Policy { last: 1, ..Policy::default() };
    assert_eq!(names(&kept(&points, last, day(9))), ["c"]);
}

#[test]
fn no_rule_means_for_ever_and_an_own_expiry_counts_before_the_plans() {
    let mut points = [point("a", 0), point("b", 0), point("c", 0)];
    points[1].expires = Some(Expiry::At(day(5)));
    points[2].expires = Some(Expiry::Never);
    assert_eq!(names(&kept(&points, Policy::default(), day(9))), ["a", "c"]);
    let ttl = Policy { ttl: Some(Duration::from_hours(24 * 7)), ..Policy::default() };
    assert_eq!(names(&kept(&points, ttl, day(4))), ["a", "b", "c"]);
    assert_eq!(names(&kept(&points, ttl, day(9))), ["c"]);
    // What a person made, or a plan that is gone, goes by its own expiry.
    for point in &mut points {
        point.plan = None;
    }
    assert_eq!(names(&kept(&points, ttl, day(9))), ["a", "c"]);
}

#[test]
fn a_failed_run_is_shown_for_a_while_and_never_counts() {
    let mut points = [point("good", 0), point("failed", 1)];
    points[1].state = State::Failed;
    let policy = Policy { last: 1, failed_ttl: Duration::from_hours(24 * 7), ..Policy::default() };
    assert_eq!(kept(&points, policy, day(2))["failed"], [Reason::RecentFailure]);
    assert_eq!(names(&kept(&points, policy, day(9))), ["good"]);
}

fn policies() -> impl Strategy<Value = Policy> {
    let count = || 0_u32..4;
    let ttl = proptest::option::of(1_u64..60);
    (count(), count(), count(), count(), count(), count(), ttl).prop_map(
        |(last, daily, weekly, monthly, yearly, minimum_good, ttl_days)| Policy {
            last,
            hourly: 0,
            daily,
            weekly,
            monthly,
            yearly,
            minimum_good,
            ttl: ttl_days.map(|days| Duration::from_hours(24 * days)),
            failed_ttl: Duration::ZERO,
        },
    )
}

proptest! {
    #[test]
    fn a_further_rule_never_costs_a_backup(
        first in policies(),
        more in policies(),
        days in proptest::collection::vec((0_i64..400, 0_u8..3), 0..30),
    ) {
        // Without any rule everything is kept; the first one is what begins to delete.
        prop_assume!(!first.has_no_rule());
        let all = Policy {
            last: first.last.max(more.last),
            daily: first.daily.max(more.daily),
            weekly: first.weekly.max(more.weekly),
            monthly: first.monthly.max(more.monthly),
            yearly: first.yearly.max(more.yearly),
            minimum_good: first.minimum_good.max(more.minimum_good),
            ttl: first.ttl.max(more.ttl),
            ..first
        };
        let names: Vec<String> = (0..days.len()).map(|number| format!("b{number}")).collect();
        let points: Vec<Point<'_>> = names.iter().zip(&days).map(|(name, (number, state))| {
            let state = [State::Completed, State::Partial, State::Failed][usize::from(*state)];
            Point { state, ..point(name, *number) }
        }).collect();
        let few: BTreeSet<String> = kept(&points, first, day(400)).into_keys().collect();
        let many: BTreeSet<String> = kept(&points, all, day(400)).into_keys().collect();
        prop_assert!(many.is_superset(&few), "{:?} lost of {:?}", few.difference(&many), few);
        let good = points.iter().filter(|point| point.state == State::Completed).count();
        let good_kept = points.iter().filter(|p| p.state == State::Completed && few.contains(p.name));
        prop_assert!(good_kept.count() >= good.min(first.minimum_good as usize));
    }
}

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const NONCE: &str = "nonce-0123456789";
const BODY: &[u8] = br#"{"event": "model.updated", "subject": "orders"}"#;

struct Call {
    timestamp: String,
    nonce: String,
    signature: String,
    body: Vec<u8>,
}

fn call(time: Timestamp, nonce: &str, body: &[u8]) -> Call {
    let timestamp = time.as_second().to_string();
    let signature = format!("sha256={}", webhook::sign(SECRET, &timestamp, nonce, body));
    Call { timestamp, nonce: nonce.into(), signature, body: body.into() }
}

fn judge(call: &Call, memory: &mut Memory, now: Timestamp) -> Result<webhook::Event, Refusal> {
    let events = ["model.*".to_owned()];
    let rules = Rules {
        secrets: &[b"another secret, the one of before".as_slice(), SECRET],
        events: &events,
        window: Duration::from_mins(5),
        burst: 3,
        refill: Duration::from_mins(1),
    };
    let request = Request {
        timestamp: Some(&call.timestamp),
        nonce: Some(&call.nonce),
        signature: Some(&call.signature),
        body: &call.body,
    };
    webhook::judge(request, rules, memory, now)
}

#[test]
fn a_genuine_request_is_accepted_once() {
    let now = at("2026-06-01T12:00:00Z");
    let mut memory = Memory::default();
    let genuine = call(now, NONCE, BODY);
    let event = judge(&genuine, &mut memory, now).unwrap();
    assert_eq!((event.event.as_str(), event.subject.as_str()), ("model.updated", "orders"));
    assert_eq!(judge(&genuine, &mut memory, now), Err(Refusal::Replayed));
    // Also after a restart that reads its memory back.
    let text = serde_json::to_string(&memory).unwrap();
    let mut memory: Memory = serde_json::from_str(&text).unwrap();
    let later = now.checked_add(SignedDuration::from_secs(299)).unwrap();
    assert_eq!(judge(&genuine, &mut memory, later), Err(Refusal::Replayed));
    let stale = now.checked_add(SignedDuration::from_secs(301)).unwrap();
    let refused = judge(&genuine, &mut memory, stale);
    assert_eq!(refused, Err(Refusal::Stale { by_s: 301, window_s: 300 }));
}

#[test]
fn whatever_is_changed_about_a_request_it_is_refused_and_nothing_is_remembered() {
    let now = at("2026-06-01T12:00:00Z");
    let genuine = || call(now, NONCE, BODY);
    let mut changed = vec![
        (Call { body: BODY[1..].into(), ..genuine() }, Refusal::Signature),
        (Call { nonce: "nonce-0123456788".into(), ..genuine() }, Refusal::Signature),
        (Call { timestamp: (now.as_second() + 1).to_string(), ..genuine() }, Refusal::Signature),
        (Call { nonce: "short".into(), ..genuine() }, Refusal::Header(webhook::HEADER_NONCE)),
        (
            Call { nonce: "with.a.dot.0123456".into(), ..genuine() },
            Refusal::Header(webhook::HEADER_NONCE),
        ),
        (Call { timestamp: "-5".into(), ..genuine() }, Refusal::Header(webhook::HEADER_TIMESTAMP)),
        (
            Call { signature: "md5=00".into(), ..genuine() },
            Refusal::Header(webhook::HEADER_SIGNATURE),
        ),
        (call(now, NONCE, b"[]"), Refusal::Body),
        (call(now, NONCE, br#"{"event": "other"}"#), Refusal::OtherEvent("other".into())),
        (Call { body: vec![0; webhook::BODY_BYTES_MAX + 1], ..genuine() }, Refusal::TooLarge),
    ];
    let genuine_signature = genuine().signature;
    for at in 7..genuine_signature.len() {
        let mut signature = genuine_signature.clone().into_bytes();
        signature[at] = if signature[at] == b'0' { b'1' } else { b'0' };
        let signature = String::from_utf8(signature).unwrap();
        changed.push((Call { signature, ..genuine() }, Refusal::Signature));
    }
    for (call, wanted) in changed {
        let mut memory = Memory::default();
        let refused = judge(&call, &mut memory, now);
        assert_eq!(refused.as_ref(), Err(&wanted), "{}", call.timestamp);
        assert_eq!(memory, Memory::default(), "{wanted:?}");
        assert!((200..600).contains(&wanted.status()));
    }
}

#[test]
fn a_secret_that_is_too_short_opens_nothing() {
    let rules = Rules {
        secrets: &[b"short"],
        events: &[],
        window: Duration::from_mins(5),
        burst: 1,
        refill: Duration::from_mins(1),
    };
    let request = Request { timestamp: None, nonce: None, signature: None, body: b"" };
    let refused = webhook::judge(request, rules, &mut Memory::default(), Timestamp::UNIX_EPOCH);
    assert_eq!(refused, Err(Refusal::NoSecret));
}

#[test]
fn after_a_burst_requests_wait_and_are_told_how_long() {
    let now = at("2026-06-01T12:00:00Z");
    let mut memory = Memory::default();
    let nth = |number: u32, now| call(now, &format!("nonce-of-length-{number}"), BODY);
    for number in 0..3 {
        judge(&nth(number, now), &mut memory, now).unwrap();
    }
    let refused = judge(&nth(3, now), &mut memory, now);
    assert_eq!(refused, Err(Refusal::TooMany { retry_after_s: 60 }));
    let later = now.checked_add(SignedDuration::from_mins(1)).unwrap();
    judge(&nth(4, later), &mut memory, later).unwrap();
    assert!(judge(&nth(5, later), &mut memory, later).is_err());
}

#[test]
fn events_match_by_name_or_by_the_part_before_a_star() {
    let matches = |wanted: &str, event: &str| matches_event(&[wanted.to_owned()], event);
    assert!(matches("model.updated", "model.updated"));
    assert!(matches("model.*", "model.updated.twice"));
    assert!(matches("*", "anything"));
    assert!(matches_event(&[], "anything"));
    assert!(!matches("model.updated", "model.updated2"));
    assert!(!matches("model.*", "model."));
    assert!(!matches("model.*", "models.x"));
    assert!(!matches("mod*", "model"));
}

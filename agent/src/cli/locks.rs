//! `salvor lock`, `salvor recover`, and what other commands say about locks.

use std::sync::Arc;
use std::time::Duration;

use repo_format::lock::ObjectLock;
use repository::index::Index;
use repository::lock::{self, LockOptions, LockReport, UndeleteReport};
use repository::store::{Lockable, Protection, Store};
use repository::{Repository, RepositoryError};
use serde_json::{Value, json};

use super::args::{LockArgs, LockWish};
use super::context::Context;
use super::error::{CliError, Exit};
use super::{maintain, requests, units};

const MONTH_S: u64 = 30 * 24 * 3600;

/// How a new repository is to be locked.
pub(super) fn wish(wish: &LockWish) -> Option<LockOptions> {
    let mode = wish.lock_mode.unwrap_or_default();
    wish.lock.map(|period| LockOptions { mode, period, slack: wish.lock_slack })
}

pub(super) fn run(context: &Context, args: &LockArgs) -> Result<Exit, CliError> {
    let repository = context.open()?;
    let old = lock::current(&repository)?;
    let mut exit = Exit::Done;
    if args.off {
        lock::choose(&repository, None)?;
    } else if let Some(period) = args.period {
        let usual = old.as_ref().map_or_else(Default::default, |old| old.mode);
        let mode = args.mode.unwrap_or(usual);
        let options = LockOptions { mode, period, slack: args.slack };
        lock::choose(&repository, Some(&options))?;
        let report = lock::assist(&repository, &*context.index(&repository)?, u64::MAX)?;
        context.ui.say(&format!("extended the locks of {} objects", units::count(report.extended)));
        if let Some(trouble) = &report.trouble {
            context.ui.warn(trouble);
            exit = Exit::Partial;
        }
    }
    show(context, &repository)?;
    Ok(exit)
}

fn show(context: &Context, repository: &Repository) -> Result<(), CliError> {
    let store = repository.store();
    let current = lock::current(repository)?;
    let bucket = match store.versions() {
        Some(versions) => versions.lockable().map_err(RepositoryError::from)?,
        None => Lockable::No,
    };
    let mut object = json!({
        "type": "lock",
        "lock": current.as_ref().map(|lock| of_lock(lock, None)),
        "bucket": bucket_name(bucket),
    });
    requests::add(&mut object, &**store);
    context.ui.object(&object);
    context.ui.say(&current.as_ref().map_or_else(
        || "nothing is locked by Salvor: `salvor lock --period 30d` begins".to_owned(),
        line,
    ));
    context.ui.say(&bucket_line(bucket));
    Ok(())
}

const fn bucket_name(bucket: Lockable) -> &'static str {
    match bucket {
        Lockable::No => "no lock",
        Lockable::Yes { default: None } => "lock",
        Lockable::Yes { default: Some(_) } => "lock with a default",
    }
}

/// What a bucket does of its own accord.
pub(super) fn bucket_line(bucket: Lockable) -> String {
    match bucket {
        Lockable::No => "the bucket has no object lock".into(),
        Lockable::Yes { default: None } => "the bucket has object lock, and no default".into(),
        Lockable::Yes { default: Some(Protection { mode, keep_s }) } => format!(
            "the bucket locks everything for {} in {mode} mode, heartbeats and session records \
             too: `salvor init --lock` without a default keeps less",
            time(keep_s)
        ),
    }
}

/// For programs; `packs`: how many there are, if that is known.
pub(super) fn of_lock(lock: &ObjectLock, packs: Option<u64>) -> Value {
    json!({
        "mode": lock.mode.name(),
        "period_seconds": lock.period_s,
        "slack_seconds": lock.slack_s,
        "assured_until": lock::assured_until_s(lock).map(rfc3339),
        "extensions_a_month": packs.map(|packs| extensions_a_month(lock, packs)),
    })
}

/// For people.
pub(super) fn line(lock: &ObjectLock) -> String {
    let assured = lock::assured_until_s(lock).map_or_else(
        || "how long that lasts is known after the next prune".to_owned(),
        |at_s| format!("all that snapshots need is locked until {} at least", date(at_s)),
    );
    format!(
        "objects are locked for {} and {} of slack in {} mode; {assured}",
        time(lock.period_s),
        time(lock.slack_s),
        lock.mode
    )
}

/// Each pack's lock is extended once in three quarters of the slack.
pub(super) fn extensions_a_month(lock: &ObjectLock, packs: u64) -> u64 {
    packs.saturating_mul(MONTH_S) / (lock.slack_s.saturating_mul(3) / 4).max(1)
}

fn time(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

fn nanoseconds(at_s: u64) -> i64 {
    i64::try_from(at_s).unwrap_or(0).saturating_mul(1_000_000_000)
}

fn date(at_s: u64) -> String {
    units::time(nanoseconds(at_s))
}

fn rfc3339(at_s: u64) -> String {
    units::rfc3339(nanoseconds(at_s))
}

/// What a prune did about locks. Returns whether all of it could be done.
pub(super) fn show_report(context: &Context, report: &LockReport) -> bool {
    let ui = &context.ui;
    if report.removed > 0 {
        ui.say(&format!(
            "removed {} for good whose lock had ended ({})",
            units::counted(report.removed, "deleted object", "deleted objects"),
            units::bytes(report.removed_bytes)
        ));
    }
    if report.deferred > 0 {
        let until = report
            .deferred_until_s
            .map_or_else(String::new, |at_s| format!(": the last of them until {}", date(at_s)));
        ui.say(&format!(
            "{} ({}) are deleted and still locked{until}. Prunes after that remove them for good",
            units::counted(report.deferred_packs, "pack", "packs"),
            units::bytes(report.deferred_bytes),
        ));
    }
    if report.extended > 0 {
        let extended = units::counted(report.extended, "lock", "locks");
        ui.say(&format!("extended {extended}"));
    }
    if let Some(at_s) = report.assured_until_s {
        ui.say(&format!("all that snapshots need is locked until {} at least", date(at_s)));
    }
    if report.attacked > 0 {
        ui.warn(&format!(
            "{} that are needed were deleted or written over by somebody ({} for one). They are \
             still there: run `salvor recover` before their locks end",
            units::counted(report.attacked, "object", "objects"),
            report.attacked_example.as_deref().unwrap_or_default()
        ));
    }
    if let Some(trouble) = &report.trouble {
        ui.warn(&format!("not everything about locks could be done: {trouble}"));
    }
    report.trouble.is_none() && report.attacked == 0
}

/// After a backup: where nobody prunes, locks that run out are extended here. A failure is no
/// failure of the backup.
pub(super) fn help_out(
    context: &Context,
    repository: &Repository,
    index: &Index,
    lock: Option<&ObjectLock>,
) {
    if !lock::is_overdue(repository, lock) {
        return;
    }
    let trouble = match lock::assist(repository, index, lock::ASSIST_MAX) {
        Ok(report) => report.trouble,
        Err(error) => Some(CliError::from(error).chain()),
    };
    if let Some(trouble) = trouble {
        context.ui.warn(&format!(
            "less than the period is left of the locks of what this backup needs, and they could \
             not be extended: run `salvor prune` with the right to do so ({trouble})"
        ));
    }
}

/// What a removed slot still is where objects are locked.
pub(super) fn warn_of_old_slots(context: &Context, repository: &Repository) {
    let Ok(Some(lock)) = lock::current(repository) else { return };
    context.ui.warn(&format!(
        "the bucket keeps removed slots as old versions until their locks end, within {}: who can \
         read old versions and knows the secret can open them until then. What is written after a \
         `salvor key rotate` is out of their reach",
        time(lock.keep_s())
    ));
}

pub(super) fn recover(context: &Context) -> Result<Exit, CliError> {
    let store = context.store(false)?;
    let secret = context.secret(false)?;
    let mut report = lock::uncover_keys(&*store, false)?;
    let repository = match Repository::open(Arc::clone(&store), &secret) {
        Err(RepositoryError::WrongSecret { .. } | RepositoryError::NoSlots { .. }) => {
            report.add(&lock::uncover_keys(&*store, true)?);
            report.slots_left = 0;
            Repository::open(store, &secret)?
        }
        other => other?,
    };
    let repository = Arc::new(repository);
    let index = context.index(&repository)?;
    report.add(&lock::undelete(&repository, &index, &maintain::Watching(context))?);
    show_recovered(context, &repository, &report);
    Ok(Exit::Done)
}

fn show_recovered(context: &Context, repository: &Repository, report: &UndeleteReport) {
    let mut object = json!(report);
    if let Some(map) = object.as_object_mut() {
        map.insert("type".into(), json!("recover"));
        map.insert("recovered".into(), json!(report.count()));
    }
    requests::add(&mut object, &**repository.store());
    let ui = &context.ui;
    ui.object(&object);
    if report.count() == 0 {
        ui.say("nothing that is needed was deleted or written over");
    } else {
        let folders: Vec<String> = report
            .names
            .iter()
            .map(|(folder, count)| format!("{} in {folder}", units::count(*count)))
            .collect();
        ui.say(&format!(
            "brought back {} ({}): {}",
            units::counted(report.count(), "object", "objects"),
            units::bytes(report.bytes),
            folders.join(", ")
        ));
        ui.say("run `salvor verify --read-data` now, and change the credentials that were used");
    }
    if report.names.contains_key("keys") {
        ui.warn("key slots were brought back, those that you had removed among them: see `salvor key list`");
    }
    if report.slots_left > 0 {
        ui.note(&format!(
            "{} that were removed before were left so",
            units::counted(report.slots_left, "key slot", "key slots")
        ));
    }
}

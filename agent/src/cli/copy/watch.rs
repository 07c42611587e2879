//! `salvor copy --watch`: a standby that follows its source.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use repository::copy::Selection;
use serde_json::json;

use super::lag::Lag;
use super::link::{Link, Secrets};
use super::round::{self, Plan};
use crate::cli::args::CopyArgs;
use crate::cli::context::Context;
use crate::cli::error::{CliError, Exit};

/// The first wait after a failure; each further failure doubles it.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest wait after a failure.
const RETRY_MAX: Duration = Duration::from_mins(5);

/// Copies what is new, again and again, until it is asked to stop.
///
/// * `link`: opened once, so that a mistake in the command line ends it at once. After a failure
///   both repositories are opened again.
pub(super) fn follow(
    context: &Context,
    args: &CopyArgs,
    selection: &Selection,
    secrets: &Secrets,
    link: Link,
    every: Duration,
) -> Exit {
    let mut link = Some(link);
    let mut retry = RETRY_FIRST;
    while !context.cancel.load(Ordering::Relaxed) {
        let began = Instant::now();
        let wait = match turn(context, args, selection, secrets, &mut link) {
            Ok(()) => {
                retry = RETRY_FIRST;
                every.saturating_sub(began.elapsed())
            }
            Err(CliError::Interrupted(message)) => {
                context.ui.note(&message);
                break;
            }
            Err(error) => {
                link = None;
                let wait = retry;
                retry = (2 * retry).min(RETRY_MAX);
                tell_trouble(context, &error, wait);
                wait
            }
        };
        sleep(context, wait);
    }
    context.ui.say("stopped");
    Exit::Done
}

fn tell_trouble(context: &Context, error: &CliError, wait: Duration) {
    let (message, seconds) = (error.chain(), wait.as_secs());
    context.ui.warn(&format!("{message}; trying again in {seconds} s"));
    context.ui.object(&json!({ "type": "trouble", "message": message, "retry_seconds": seconds }));
}

/// One round. Says the lag before there is work to do and after it.
fn turn(
    context: &Context,
    args: &CopyArgs,
    selection: &Selection,
    secrets: &Secrets,
    link: &mut Option<Link>,
) -> Result<(), CliError> {
    let link = match link {
        Some(link) => link,
        none => none.insert(Link::open(context, args, secrets)?),
    };
    let plan = Plan::make(context, link, selection, true)?;
    tell_lag(context, &plan);
    if !plan.has_work() {
        return Ok(());
    }
    round::copy_all(context, args, link, &plan)?;
    tell_lag(context, &Plan::make(context, link, selection, true)?);
    Ok(())
}

fn tell_lag(context: &Context, plan: &Plan) {
    let now_ns = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX));
    let lag = Lag::of(&plan.chosen, &plan.counterparts, now_ns);
    context.ui.say(&lag.to_string());
    context.ui.object(&lag.to_json());
}

/// Waits, but not for somebody who asked to stop.
fn sleep(context: &Context, wait: Duration) {
    const GLANCE: Duration = Duration::from_millis(100);
    let until = Instant::now() + wait;
    while !context.cancel.load(Ordering::Relaxed) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(GLANCE.min(left));
    }
}

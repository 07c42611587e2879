//! `salvor copy`.

mod lag;
mod link;
mod round;
mod watch;

use std::time::Instant;

use serde_json::json;

use super::args::CopyArgs;
use super::context::Context;
use super::error::{CliError, Exit};
use super::snapshots::parse_tags;
use super::{requests, units};
use link::{Link, Secrets};
use repository::copy::Selection;
use round::{Outcome, Plan};

pub(super) fn run(context: &Context, args: &CopyArgs) -> Result<Exit, CliError> {
    let selection = Selection {
        wanted: args.snapshots.clone(),
        name: args.name.clone(),
        tags: parse_tags(&args.tags)?,
        cluster: context.cluster(),
    };
    let secrets = Secrets::read(context, args)?;
    let link = Link::open(context, args, &secrets)?;
    if let Some(every) = args.watch {
        return Ok(watch::follow(context, args, &selection, &secrets, link, every));
    }
    let started = Instant::now();
    let plan = Plan::make(context, &link, &selection, args.new_only)?;
    let outcome = round::copy_all(context, args, &link, &plan)?;
    summarise(context, &link, &outcome, started);
    Ok(exit_of(&outcome, !selection.wanted.is_empty()))
}

/// * `by_name`: the user named each snapshot, and so misses one that is gone.
const fn exit_of(outcome: &Outcome, by_name: bool) -> Exit {
    if !outcome.damaged.is_empty() {
        Exit::Damaged
    } else if by_name && outcome.vanished > 0 {
        Exit::Partial
    } else {
        Exit::Done
    }
}

fn summarise(context: &Context, link: &Link, outcome: &Outcome, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    let at = link.target.store().describe();
    context.ui.say(&format!(
        "copied {} to {at} in {seconds:.1} s; {} there already\n  fetched {} ({}), stored {}",
        units::counted(outcome.copied, "snapshot", "snapshots"),
        units::counted(outcome.present, "was", "were"),
        units::bytes(outcome.fetched_bytes),
        units::rate(outcome.fetched_bytes, seconds),
        units::bytes(outcome.stored_bytes),
    ));
    if !outcome.damaged.is_empty() {
        context.ui.warn(&format!(
            "not copied, for damage in the source: {}. Run `salvor verify` there",
            units::counted(outcome.damaged.len() as u64, "snapshot", "snapshots")
        ));
    }
    requests::say(context, "source ", &**link.source.store());
    requests::say(context, "target ", &**link.target.store());
    let damaged: Vec<_> = outcome
        .damaged
        .iter()
        .map(|(id, why)| json!({ "snapshot": id.to_string(), "why": why }))
        .collect();
    context.ui.object(&json!({
        "type": "copy",
        "to": at,
        "copied": outcome.copied,
        "present": outcome.present,
        "vanished": outcome.vanished,
        "damaged": damaged,
        "fetched_bytes": outcome.fetched_bytes,
        "manifest_bytes": outcome.manifest_bytes,
        "stored_bytes": outcome.stored_bytes,
        "seconds": seconds,
        "requests": requests::of_both(&**link.source.store(), &**link.target.store()),
    }));
}

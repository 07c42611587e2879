//! `salvor forget`, `salvor prune`.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use repo_format::id::{ClusterId, SnapshotId};
use repo_format::snapshot::Snapshot;
use repository::gc::{self, PruneOptions, PruneReport, Watch};
use repository::index::Index;
use repository::retention::{self, Decision, Policy};
use repository::store::Store;
use repository::view::View;
use repository::{Repository, RepositoryError};
use serde_json::json;

use super::args::{ForgetArgs, PruneArgs, Pruning};
use super::context::Context;
use super::error::{CliError, Exit};
use super::fetched;
use super::snapshots::{self, new_table, short};
use super::units;
use super::{locks, requests};

/// See [`Pruning::max_repack`].
const MAX_REPACK: f64 = 0.1;
/// See [`Pruning::unfinished_days`].
const UNFINISHED_DAYS: u64 = 7;

pub(super) fn forget(context: &Context, args: &ForgetArgs) -> Result<Exit, CliError> {
    let policy = Policy {
        last: args.keep_last,
        hourly: args.keep_hourly,
        daily: args.keep_daily,
        weekly: args.keep_weekly,
        monthly: args.keep_monthly,
        yearly: args.keep_yearly,
    };
    if args.snapshots.is_empty() && policy.is_empty() {
        let message =
            "say what to keep (--keep-last, --keep-daily, …) or which snapshots to forget";
        return Err(CliError::Usage(message.into()));
    }
    let Pruning { max_repack, unfinished_days, .. } = &args.pruning;
    if !args.prune && (max_repack.is_some() || unfinished_days.is_some()) {
        let message = "--max-repack and --unfinished-days say how to prune: give --prune, too";
        return Err(CliError::Usage(message.into()));
    }
    let repository = context.open()?;
    let view = View::for_reading(&repository)?;
    let decisions = if args.snapshots.is_empty() {
        let snapshots: Vec<&Snapshot> = view
            .snapshots()
            .into_iter()
            .filter(|snapshot| snapshot.cluster == context.cluster())
            .filter(|snapshot| args.name.as_ref().is_none_or(|name| *name == snapshot.name))
            .collect();
        retention::judge(&snapshots, &policy, &TimeZone::system())
    } else {
        let mut decisions = Vec::new();
        for wanted in &args.snapshots {
            let snapshot = find(&view, wanted, context.cluster())?;
            if snapshot.cluster != context.cluster() && !args.adopt {
                return Err(CliError::Failed(format!(
                    "snapshot {wanted} was made by another cluster ({}): give --adopt to forget it \
                     all the same",
                    snapshots::cluster(snapshot.cluster)
                )));
            }
            decisions.push(Decision { id: snapshot.id, reasons: Vec::new() });
        }
        decisions
    };
    let doomed: Vec<SnapshotId> = decisions
        .iter()
        .filter(|decision| decision.reasons.is_empty())
        .map(|decision| decision.id)
        .collect();
    if !args.dry_run && !doomed.is_empty() {
        let only = (!args.adopt).then(|| context.cluster());
        gc::forget(&repository, &doomed, only)?;
    }
    show_decisions(context, &view, &decisions, args.dry_run);
    if args.prune && !args.dry_run {
        return run_prune(context, &repository, false, &args.pruning);
    }
    if !doomed.is_empty() && !args.dry_run {
        context.ui.say("run `salvor prune` to reclaim their space");
    }
    Ok(Exit::Done)
}

/// A snapshot, or the checkpoint of a run that is over.
fn find<'a>(view: &'a View, wanted: &str, own: ClusterId) -> Result<&'a Snapshot, CliError> {
    let found = view.find(wanted, own);
    if !matches!(found, Err(RepositoryError::NoSnapshot { .. })) {
        return Ok(found?);
    }
    // What is wrong with a snapshot's name is of more use than what is wrong with a checkpoint's.
    let Ok(checkpoint) = view.find_unfinished(wanted) else { return Ok(found?) };
    match snapshots::run_of(view, checkpoint) {
        ("stopped", _) => Ok(checkpoint),
        (_, process) => Err(CliError::Failed(format!(
            "{wanted} is what a backup of `{}` has stored so far, and it may still run ({process}): stop \
             it first. If its machine is gone, `salvor prune` ends it after a while",
            checkpoint.name
        ))),
    }
}

fn show_decisions(context: &Context, view: &View, decisions: &[Decision], dry_run: bool) {
    let all = view.all_snapshots();
    let mut table = new_table(&["", "ID", "Time", "Name", "Why"]);
    let mut rows = Vec::new();
    for decision in decisions {
        let Some(snapshot) = all.get(&decision.id) else { continue };
        let keep = !decision.reasons.is_empty();
        table.add_row([
            if keep { "keep" } else { "forget" }.to_owned(),
            short(&snapshot.id),
            units::time(snapshot.started_ns),
            snapshot.name.clone(),
            decision.reasons.join(", "),
        ]);
        rows.push(json!({
            "snapshot": snapshot.id.to_string(),
            "name": snapshot.name,
            "keep": keep,
            "reasons": decision.reasons,
        }));
    }
    let forgotten = decisions.iter().filter(|decision| decision.reasons.is_empty()).count();
    context.ui.object(&json!({
        "type": "forget",
        "dry_run": dry_run,
        "forgotten": forgotten,
        "kept": decisions.len() - forgotten,
        "snapshots": rows,
    }));
    if !decisions.is_empty() {
        context.ui.say(&table.to_string());
    }
    let verb = if dry_run { "would forget" } else { "forgot" };
    context.ui.say(&format!("{verb} {forgotten}, keeping {}", decisions.len() - forgotten));
}

pub(super) fn prune(context: &Context, args: &PruneArgs) -> Result<Exit, CliError> {
    let repository = context.open()?;
    run_prune(context, &repository, args.dry_run, &args.pruning)
}

fn run_prune(
    context: &Context,
    repository: &Arc<Repository>,
    dry_run: bool,
    args: &Pruning,
) -> Result<Exit, CliError> {
    context.check_witness(repository, &View::for_reading(repository)?)?;
    let budget = context.budget(1 << repository.config().chunk_log2);
    let index = context.index(repository)?;
    let unfinished_days = args.unfinished_days.unwrap_or(UNFINISHED_DAYS);
    let options = PruneOptions {
        dry_run,
        max_repack: args.max_repack.map_or(MAX_REPACK, |share| share.0),
        live_below: 0.66,
        fence_after: Duration::from_secs(args.fence_minutes.saturating_mul(60)),
        keep_unfinished: Duration::from_secs(unfinished_days.saturating_mul(24 * 3600)),
        memory_file: Some(context.cache_dir().join(format!("{}.seen", repository.id()))),
        cluster: context.cluster(),
        packs: budget.packs,
    };
    let report = gc::prune(repository, &index, &options, &Watching(context))?;
    show_report(context, &**repository.store(), &index, &report, dry_run);
    let locked = report.lock.as_ref().is_none_or(|report| locks::show_report(context, report));
    Ok(match () {
        () if report.missing_chunks > 0 => Exit::Damaged,
        () if !locked => Exit::Partial,
        () => Exit::Done,
    })
}

/// Says what a long run does.
pub(super) struct Watching<'a>(pub(super) &'a Context);

impl Watch for Watching<'_> {
    fn step(&self, what: &str) {
        self.0.ui.detail(what);
    }

    fn is_cancelled(&self) -> bool {
        self.0.cancel.load(std::sync::atomic::Ordering::Relaxed)
    }
}

fn show_report(
    context: &Context,
    store: &dyn Store,
    index: &Index,
    report: &PruneReport,
    dry_run: bool,
) {
    let ui = &context.ui;
    let mut object = json!(report);
    if let Some(map) = object.as_object_mut() {
        map.insert("type".into(), json!("prune"));
        map.insert("dry_run".into(), json!(dry_run));
    }
    requests::add(&mut object, store);
    fetched::add(&mut object, index);
    ui.object(&object);
    fetched::say(context, index);
    ui.say(&format!(
        "{} in {} packs, of which snapshots need {}",
        units::bytes(report.bytes),
        units::count(report.packs),
        units::bytes(report.needed_bytes)
    ));
    if dry_run {
        ui.say(&format!(
            "would delete {} packs ({}) and empty {} more (writing {} again)",
            units::count(report.unneeded_packs),
            units::bytes(report.unneeded_bytes),
            units::count(report.repacked_packs),
            units::bytes(report.repacked_bytes)
        ));
        if report.leftover_packs > 0 {
            ui.say(&format!(
                "would delete {} packs ({}) that ended sessions left behind",
                units::count(report.leftover_packs),
                units::bytes(report.leftover_bytes)
            ));
        }
    } else {
        ui.say(&format!(
            "deleted {} packs ({}); wrote {} again to empty {} packs",
            units::count(report.deleted_packs),
            units::bytes(report.deleted_bytes),
            units::bytes(report.repacked_bytes),
            units::count(report.repacked_packs)
        ));
    }
    if report.waiting_packs > 0 {
        ui.say(&format!(
            "{} ({}) can be deleted once these sessions have ended; the next prune does it:\n  {}",
            units::bytes(report.waiting_bytes),
            units::count(report.waiting_packs),
            report.waiting_for.join("\n  ")
        ));
    }
    if report.postponed_packs > 0 {
        ui.say(&format!(
            "{} more packs are not needed; the next prune takes them up",
            units::count(report.postponed_packs)
        ));
    }
    let would = if dry_run { "would have " } else { "" };
    if report.fenced_sessions > 0 {
        let sessions = units::counted(report.fenced_sessions, "session", "sessions");
        ui.say(&format!("{would}ended {sessions} whose process was gone"));
    }
    if report.forgotten_checkpoints > 0 {
        let runs = units::counted(report.forgotten_checkpoints, "killed backup", "killed backups");
        ui.say(&format!("{would}forgotten what {runs} left and nobody went on with"));
    }
    requests::say(context, "", store);
    if report.missing_chunks > 0 {
        ui.warn(&format!(
            "{} chunks that snapshots need are in no pack: run `salvor verify`",
            units::count(report.missing_chunks)
        ));
    }
}

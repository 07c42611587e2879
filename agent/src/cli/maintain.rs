//! `salvor forget`, `salvor prune`.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use repo_format::id::SnapshotId;
use repo_format::snapshot::Snapshot;
use repository::Repository;
use repository::gc::{self, PruneOptions, PruneReport, Watch};
use repository::index::Index;
use repository::retention::{self, Decision, Policy};
use repository::store::Store;
use repository::view::View;
use serde_json::json;

use super::args::{ForgetArgs, PruneArgs};
use super::context::Context;
use super::error::{CliError, Exit};
use super::fetched;
use super::requests;
use super::snapshots::{self, new_table, short};
use super::units::{self, Share};

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
            let snapshot = view.find(wanted, context.cluster())?;
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
        return run_prune(context, &repository, false, Share(0.1), Duration::from_mins(15));
    }
    if !doomed.is_empty() && !args.dry_run {
        context.ui.say("run `salvor prune` to reclaim their space");
    }
    Ok(Exit::Done)
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
    let fence_after = Duration::from_mins(args.fence_minutes);
    run_prune(context, &repository, args.dry_run, args.max_repack, fence_after)
}

fn run_prune(
    context: &Context,
    repository: &Arc<Repository>,
    dry_run: bool,
    max_repack: Share,
    fence_after: Duration,
) -> Result<Exit, CliError> {
    context.check_witness(repository, &View::for_reading(repository)?)?;
    let budget = context.budget(1 << repository.config().chunk_log2);
    let index = context.index(repository)?;
    let options = PruneOptions {
        dry_run,
        max_repack: max_repack.0,
        live_below: 0.66,
        fence_after,
        memory_file: Some(context.cache_dir().join(format!("{}.seen", repository.id()))),
        cluster: context.cluster(),
        packs: budget.packs,
    };
    let report = gc::prune(repository, &index, &options, &Watching(context))?;
    show_report(context, &**repository.store(), &index, &report, dry_run);
    Ok(if report.missing_chunks > 0 { Exit::Damaged } else { Exit::Done })
}

struct Watching<'a>(&'a Context);

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
    if report.fenced_sessions > 0 {
        ui.say(&format!("ended {} sessions whose process was gone", report.fenced_sessions));
    }
    requests::say(context, "", store);
    if report.missing_chunks > 0 {
        ui.warn(&format!(
            "{} chunks that snapshots need are in no pack: run `salvor verify`",
            units::count(report.missing_chunks)
        ));
    }
}

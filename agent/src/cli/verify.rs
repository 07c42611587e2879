//! `salvor verify`.

use std::sync::atomic::{AtomicU64, Ordering};

use repo_format::id::SnapshotId;
use repository::Repository;
use repository::check::{self, VerifyOptions, VerifyReport};
use repository::gc::Watch;
use repository::index::Index;
use repository::repair;
use repository::store::Store;
use repository::view::View;
use serde_json::json;

use super::args::VerifyArgs;
use super::context::Context;
use super::error::{CliError, Exit};
use super::fetched;
use super::requests;
use super::ui::Status;
use super::units;

/// Problems and paths shown to people; `--json` has all of them.
const SHOWN: usize = 20;

pub(super) fn run(context: &Context, args: &VerifyArgs) -> Result<Exit, CliError> {
    let repository = context.open()?;
    let index = context.index(&repository)?;
    let witness = context.witness(&repository);
    let watch = Watching { context, done: AtomicU64::new(0), total: AtomicU64::new(0) };
    if args.repair {
        let report = repair::repair(&repository, &index, witness, &watch)?;
        for line in &report.done {
            context.ui.say(&format!("repaired: {line}"));
        }
        for line in &report.lost {
            context.ui.warn(&format!("lost: {line}"));
        }
        context.ui.object(&json!({ "type": "repair", "report": report }));
    }
    let options = VerifyOptions {
        snapshots: wanted(context, &repository, args)?,
        read_data: args.read_data.map(|share| share.0),
        threads: readers(context, &repository),
        memory_bytes: context.budget(1 << repository.config().chunk_log2).packs.buffer_bytes(),
        witness,
        record: true,
    };
    let status = || Status {
        done: watch.done.load(Ordering::Relaxed),
        total: watch.total.load(Ordering::Relaxed),
        in_bytes: true,
        ..Status::default()
    };
    let report = context
        .ui
        .watch("verify", status, || check::verify(&repository, &index, &options, &watch))?;
    show(context, &**repository.store(), &index, &report);
    Ok(if report.is_clean() { Exit::Done } else { Exit::Damaged })
}

/// Threads that read packs. Most of a request to a server is waiting.
fn readers(context: &Context, repository: &Repository) -> usize {
    const FAR: usize = 8;
    let is_far = repository.store().traffic().is_some();
    if is_far { FAR.max(context.threads()) } else { context.threads() }
}

fn wanted(
    context: &Context,
    repository: &Repository,
    args: &VerifyArgs,
) -> Result<Option<Vec<SnapshotId>>, CliError> {
    if args.snapshots.is_empty() {
        return Ok(None);
    }
    let view = View::for_reading(repository)?;
    let ids: Result<Vec<SnapshotId>, CliError> =
        args.snapshots.iter().map(|wanted| Ok(view.find(wanted, context.cluster())?.id)).collect();
    ids.map(Some)
}

struct Watching<'a> {
    context: &'a Context,
    done: AtomicU64,
    total: AtomicU64,
}

impl Watch for Watching<'_> {
    fn step(&self, what: &str) {
        self.context.ui.detail(what);
    }

    fn is_cancelled(&self) -> bool {
        self.context.cancel.load(Ordering::Relaxed)
    }

    fn progress(&self, done_bytes: u64, total_bytes: u64) {
        self.done.store(done_bytes, Ordering::Relaxed);
        self.total.store(total_bytes, Ordering::Relaxed);
    }
}

fn show(context: &Context, store: &dyn Store, index: &Index, report: &VerifyReport) {
    let ui = &context.ui;
    let mut object = json!(report);
    if let Some(map) = object.as_object_mut() {
        map.insert("type".into(), json!("verify"));
        map.insert("clean".into(), json!(report.is_clean()));
    }
    requests::add(&mut object, store);
    fetched::add(&mut object, index);
    ui.object(&object);
    fetched::say(context, index);
    let checked = &report.checked;
    ui.say(&format!(
        "checked {} snapshots: {} manifest pages, {} references, {} packs, {} index segments",
        units::count(checked.snapshots),
        units::count(checked.pages),
        units::count(checked.references),
        units::count(checked.packs),
        units::count(checked.segments),
    ));
    if checked.packs_read > 0 {
        ui.say(&format!(
            "read {} of {} packs and verified {} chunks",
            units::bytes(checked.bytes_read),
            units::count(checked.packs_read),
            units::count(checked.chunks_read),
        ));
    }
    requests::say(context, "", store);
    for note in &report.notes {
        ui.note(note);
    }
    for problem in report.problems.iter().take(SHOWN) {
        ui.warn(&format!("{}: {}", problem.object, problem.what));
    }
    if report.problem_count > SHOWN as u64 {
        ui.warn(&format!("and {} more problems", report.problem_count - SHOWN as u64));
    }
    for damaged in &report.damaged_snapshots {
        let id: String = damaged.id.chars().take(12).collect();
        ui.warn(&format!(
            "snapshot {id} of {} cannot be restored in full: {} paths are affected",
            damaged.name,
            units::count(damaged.path_count)
        ));
        for path in damaged.paths.iter().take(SHOWN) {
            ui.warn(&format!("  {path}"));
        }
    }
    if report.is_clean() {
        ui.say("no damage found");
    } else if report.damaged_snapshots.is_empty() {
        ui.warn("damage was found, and every snapshot can still be restored in full");
    } else {
        ui.warn(
            "back up again: what the sources still have is stored anew, and heals the snapshots",
        );
    }
    if !report.is_clean() && store.versions().is_some() {
        ui.warn(
            "if the bucket keeps old versions, `salvor recover` brings back what was deleted or \
             written over: run it first",
        );
    }
}

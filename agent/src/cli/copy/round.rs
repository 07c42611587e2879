//! One round of copying: what is to be copied, and the copying of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use repo_format::id::SnapshotId;
use repo_format::snapshot::Snapshot;
use repository::copy::{Control, Copied, CopyError, Counterparts, Progress, Selection};
use repository::view::View;
use serde_json::json;

use super::link::Link;
use crate::block::backup::Throttle;
use crate::cli::args::CopyArgs;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::snapshots::{self, short};
use crate::cli::ui::{Status, Ui};
use crate::cli::units;

/// What a round has to do, by what both repositories held when it began.
pub(super) struct Plan {
    source: View,
    target: View,
    pub(super) counterparts: Counterparts,
    /// Chosen, whether in the target or not, oldest first.
    pub(super) chosen: Vec<Snapshot>,
    /// Of them: to be copied.
    missing: Vec<Snapshot>,
}

impl Plan {
    pub(super) fn make(
        context: &Context,
        link: &Link,
        selection: &Selection,
        new_only: bool,
    ) -> Result<Self, CliError> {
        let view = |repository| -> Result<View, CliError> {
            let view = View::for_reading(repository)?;
            context.check_witness(repository, &view)?;
            for warning in &view.warnings {
                context.ui.warn(warning);
            }
            Ok(view)
        };
        let (source, target) = (view(&link.source)?, view(&link.target)?);
        let counterparts = link.copier.counterparts(&source, &target);
        let mut chosen: Vec<Snapshot> = selection.choose(&source)?.into_iter().cloned().collect();
        if new_only {
            drop_older(&mut chosen, &counterparts);
        }
        let is_missing = |snapshot: &&Snapshot| counterparts.of(&snapshot.id).is_none();
        let missing = chosen.iter().filter(is_missing).cloned().collect();
        Ok(Self { source, target, counterparts, chosen, missing })
    }

    pub(super) const fn has_work(&self) -> bool {
        !self.missing.is_empty()
    }
}

/// Leaves out what is missing and older than the newest that both have of the same name: the target
/// has forgotten it.
fn drop_older(chosen: &mut Vec<Snapshot>, counterparts: &Counterparts) {
    let mut newest: BTreeMap<String, i64> = BTreeMap::new();
    for snapshot in chosen.iter().filter(|snapshot| counterparts.of(&snapshot.id).is_some()) {
        let newest = newest.entry(snapshot.name.clone()).or_insert(i64::MIN);
        *newest = snapshot.started_ns.max(*newest);
    }
    chosen.retain(|snapshot| {
        counterparts.of(&snapshot.id).is_some()
            || newest.get(&snapshot.name).is_none_or(|newest| snapshot.started_ns > *newest)
    });
}

/// What a round did.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) copied: u64,
    pub(super) present: u64,
    /// Forgotten in the source before it was their turn.
    pub(super) vanished: u64,
    pub(super) damaged: Vec<(SnapshotId, String)>,
    pub(super) fetched_bytes: u64,
    pub(super) manifest_bytes: u64,
    pub(super) stored_bytes: u64,
}

/// Copies what is missing, oldest first.
pub(super) fn copy_all(
    context: &Context,
    args: &CopyArgs,
    link: &Link,
    plan: &Plan,
) -> Result<Outcome, CliError> {
    let meter = Meter::new(&plan.missing);
    let control = Held {
        limit: args.bandwidth.map(|limit| Mutex::new(Throttle::new(limit.0))),
        cancel: &context.cancel,
        ui: &context.ui,
    };
    let mut outcome =
        Outcome { present: (plan.chosen.len() - plan.missing.len()) as u64, ..Outcome::default() };
    let result = context.ui.watch(
        "copy",
        || meter.status(),
        || {
            for snapshot in &plan.missing {
                copy_one(context, link, snapshot, &meter, &control, &mut outcome)?;
            }
            Ok(())
        },
    );
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    outcome.fetched_bytes = read(&meter.progress.fetched_bytes);
    outcome.manifest_bytes = read(&meter.progress.manifest_bytes);
    outcome.stored_bytes = read(&meter.progress.stored_bytes);
    match result {
        Ok(()) => {
            link.copier.tidy(&plan.source, &plan.target)?;
            Ok(outcome)
        }
        Err(CliError::Copy(CopyError::Cancelled)) => Err(CliError::Interrupted(format!(
            "interrupted. {} snapshots were copied and {} were stored, which is kept: run the same \
             command again, and it goes on from there",
            units::count(outcome.copied),
            units::bytes(outcome.stored_bytes),
        ))),
        Err(error) => Err(error),
    }
}

fn copy_one(
    context: &Context,
    link: &Link,
    snapshot: &Snapshot,
    meter: &Meter,
    control: &Held<'_>,
    outcome: &mut Outcome,
) -> Result<(), CliError> {
    let (started, before) = (Instant::now(), meter.begin(snapshot));
    match link.copier.copy(&snapshot.id, &meter.progress, control) {
        Ok(Copied { was_present: true, .. }) => outcome.present += 1,
        Ok(Copied { snapshot: copy, .. }) => {
            outcome.copied += 1;
            let fetched = meter.progress.fetched_bytes.load(Ordering::Relaxed) - before;
            report(&context.ui, snapshot, &copy, fetched, started);
        }
        Err(CopyError::Vanished) => {
            outcome.vanished += 1;
            let id = short(&snapshot.id);
            context.ui.note(&format!("snapshot {id} was forgotten before it could be copied"));
        }
        Err(error) if error.is_source_damage() => {
            let why = CliError::from(error).chain();
            let (id, name) = (short(&snapshot.id), &snapshot.name);
            context.ui.warn(&format!("snapshot {id} of {name} was not copied: {why}"));
            outcome.damaged.push((snapshot.id, why));
        }
        Err(error) => return Err(error.into()),
    }
    meter.end(snapshot);
    Ok(())
}

fn report(ui: &Ui, snapshot: &Snapshot, copy: &Snapshot, fetched: u64, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    ui.say(&format!(
        "snapshot {} of {} copied as {}: {} in {seconds:.1} s, fetched {}, stored {}",
        short(&snapshot.id),
        snapshot.name,
        short(&copy.id),
        units::bytes(snapshot.sizes.allocated),
        units::bytes(fetched),
        units::bytes(copy.sizes.new_stored),
    ));
    let mut object = snapshots::to_json(copy);
    if let Some(map) = object.as_object_mut() {
        map.insert("type".into(), json!("copied"));
        map.insert("from".into(), json!(snapshot.id.to_string()));
        map.insert("fetched_bytes".into(), json!(fetched));
        map.insert("seconds".into(), json!(seconds));
    }
    ui.object(&object);
}

/// How far a round is. What was taken over without being read is not counted as it goes, so each
/// snapshot's end puts the count right.
struct Meter {
    progress: Progress,
    total: u64,
    count: u64,
    ended: AtomicU64,
    /// Bytes of the snapshots that have ended, and with the one that is being copied.
    floor: AtomicU64,
    ceiling: AtomicU64,
}

impl Meter {
    fn new(snapshots: &[Snapshot]) -> Self {
        Self {
            progress: Progress::default(),
            total: snapshots.iter().map(weight).sum(),
            count: snapshots.len() as u64,
            ended: AtomicU64::new(0),
            floor: AtomicU64::new(0),
            ceiling: AtomicU64::new(0),
        }
    }

    /// Returns the bytes fetched so far.
    fn begin(&self, snapshot: &Snapshot) -> u64 {
        let floor = self.floor.load(Ordering::Relaxed);
        self.progress.done_bytes.store(floor, Ordering::Relaxed);
        self.ceiling.store(floor + weight(snapshot), Ordering::Relaxed);
        self.progress.fetched_bytes.load(Ordering::Relaxed)
    }

    fn end(&self, snapshot: &Snapshot) {
        self.floor.fetch_add(weight(snapshot), Ordering::Relaxed);
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    fn status(&self) -> Status {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Progress { done_bytes, present_bytes, fetched_bytes, manifest_bytes, stored_bytes } =
            &self.progress;
        let (fetched, stored) = (read(fetched_bytes), read(stored_bytes));
        let present = read(present_bytes);
        let number = (read(&self.ended) + 1).min(self.count);
        Status {
            done: read(done_bytes)
                .clamp(read(&self.floor), read(&self.ceiling).max(read(&self.floor))),
            total: self.total,
            in_bytes: true,
            message: format!(
                "snapshot {number} of {}, fetched {} stored {}, {} were there",
                self.count,
                units::bytes(fetched),
                units::bytes(stored),
                units::bytes(present),
            ),
            extra: json!({
                "snapshot": number,
                "snapshots": self.count,
                "fetched_bytes": fetched,
                "manifest_bytes": read(manifest_bytes),
                "stored_bytes": stored,
                "present_bytes": present,
            }),
        }
    }
}

/// What a snapshot counts for in the progress; not nothing, for an empty one.
fn weight(snapshot: &Snapshot) -> u64 {
    snapshot.sizes.allocated.max(1)
}

/// Keeps a copy to its rate, and stops it.
struct Held<'a> {
    limit: Option<Mutex<Throttle>>,
    cancel: &'a AtomicBool,
    ui: &'a Ui,
}

impl Control for Held<'_> {
    fn pace(&self, bytes: u64) {
        if let Some(limit) = &self.limit {
            limit.lock().unwrap_or_else(PoisonError::into_inner).pace(bytes, self.cancel);
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    fn warn(&self, text: &str) {
        self.ui.warn(text);
    }
}

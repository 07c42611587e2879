//! `salvor snapshots`, and how snapshots are shown everywhere.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use repo_format::id::{ClusterId, SnapshotId};
use repo_format::snapshot::{Completeness, Snapshot, VolumeKind};
use repository::copy::{ORIGIN_TAG, Origin};
use repository::process::{Liveness, liveness};
use repository::view::View;
use serde_json::{Value, json};

use super::args::SnapshotsArgs;
use super::context::Context;
use super::error::{CliError, Exit};
use super::units;

pub(super) fn run(context: &Context, args: &SnapshotsArgs) -> Result<Exit, CliError> {
    let tags = parse_tags(&args.tags)?;
    let (repository, glance) = context.open_with_glance(false)?;
    // Only who asks for unfinished runs is told what the records of their sessions say.
    let glance = glance.filter(|_| !args.unfinished);
    let view = View::for_reading_after(&repository, glance.as_ref())?;
    let is_wanted = |snapshot: &&Snapshot| {
        args.name.as_ref().is_none_or(|name| *name == snapshot.name)
            && tags.iter().all(|tag| snapshot.tags.contains(tag))
    };
    let unfinished: Vec<&Snapshot> = view.unfinished().into_iter().filter(is_wanted).collect();
    if args.unfinished {
        show_unfinished(context, &view, &unfinished);
        return Ok(Exit::Done);
    }
    let snapshots: Vec<&Snapshot> = view.snapshots().into_iter().filter(is_wanted).collect();
    if context.ui.json {
        let list: Vec<Value> = snapshots.iter().map(|snapshot| to_json(snapshot)).collect();
        context.ui.object(&json!({ "type": "snapshots", "snapshots": list }));
    } else if snapshots.is_empty() {
        context.ui.say("no snapshots");
    } else {
        let several = snapshots.iter().any(|snapshot| snapshot.cluster != context.cluster());
        context.ui.print(&table(&snapshots, several));
    }
    if !unfinished.is_empty() {
        context.ui.detail(&format!(
            "and {}: --unfinished lists them",
            units::counted(unfinished.len() as u64, "unfinished backup", "unfinished backups")
        ));
    }
    Ok(Exit::Done)
}

/// What is known of the run that a checkpoint is from: whether it goes on, if that can be told, and
/// where it runs or ran.
pub(super) fn run_of(view: &View, checkpoint: &Snapshot) -> (&'static str, String) {
    let Some(session) = checkpoint.holds.filter(|session| !view.is_over(session)) else {
        return ("stopped", String::new());
    };
    let Some(Some(record)) = view.sessions.get(&session) else {
        return ("unknown", String::new());
    };
    let state = match liveness(&record.process) {
        Liveness::Alive => "running",
        Liveness::Dead => "stopped",
        Liveness::Unknown => "unknown",
    };
    (state, format!("{} pid {}", record.process.host, record.process.pid))
}

fn show_unfinished(context: &Context, view: &View, unfinished: &[&Snapshot]) {
    if context.ui.json {
        let rows = unfinished.iter().map(|checkpoint| {
            let mut row = to_json(checkpoint);
            if let Some(row) = row.as_object_mut() {
                let (state, process) = run_of(view, checkpoint);
                row.insert("run".into(), json!(state));
                row.insert("process".into(), json!(process));
            }
            row
        });
        let rows: Vec<Value> = rows.collect();
        return context.ui.object(&json!({ "type": "unfinished", "unfinished": rows }));
    }
    if unfinished.is_empty() {
        return context.ui.say("no unfinished backups");
    }
    let mut table = new_table(&["ID", "Started", "Last checkpoint", "Name", "Path", "Run"]);
    for checkpoint in unfinished {
        let (state, process) = run_of(view, checkpoint);
        table.add_row([
            short(&checkpoint.id),
            units::time(checkpoint.started_ns),
            units::time(checkpoint.finished_ns),
            checkpoint.name.clone(),
            checkpoint.source.clone(),
            [state.to_owned(), process].join(" ").trim().to_owned(),
        ]);
    }
    context.ui.print(&table.to_string());
}

/// A cluster for people and programs; nothing for nobody's.
pub(super) fn cluster(cluster: ClusterId) -> String {
    if cluster == ClusterId::NONE { String::new() } else { cluster.to_string() }
}

/// * `with_cluster`: whether to say whose each snapshot is.
fn table(snapshots: &[&Snapshot], with_cluster: bool) -> String {
    let mut table = new_table(&["ID", "Time", "Name", "Kind", "Size", "New", "Stored", ""]);
    for column in [4, 5, 6] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for snapshot in snapshots {
        let remark = match snapshot.completeness {
            Completeness::Incomplete => format!("incomplete: {} issues", snapshot.issue_count),
            _ => String::new(),
        };
        let tags: Vec<String> =
            snapshot.tags.iter().map(|(key, value)| tag_text(key, value)).collect();
        table.add_row([
            short(&snapshot.id),
            units::time(snapshot.started_ns),
            snapshot.name.clone(),
            kind(snapshot.kind).to_owned(),
            units::bytes(snapshot.sizes.logical),
            units::bytes(snapshot.sizes.new_plain),
            units::bytes(snapshot.sizes.new_stored),
            [tags.join(" "), remark].join(" ").trim().to_owned(),
        ]);
        if with_cluster && let Some(row) = table.row_mut(table.row_count() - 1) {
            row.add_cell(cluster(snapshot.cluster).get(..8).unwrap_or("-").into());
        }
    }
    if with_cluster {
        let header = ["ID", "Time", "Name", "Kind", "Size", "New", "Stored", "", "Cluster"];
        table.set_header(header);
    }
    table.to_string()
}

/// A label as people want it: of where a copy came from, as much as [`short`] gives.
fn tag_text(key: &str, value: &str) -> String {
    match value.parse::<Origin>() {
        Ok(origin) if key == ORIGIN_TAG => {
            let repository: String = origin.repository.to_string().chars().take(12).collect();
            format!("{key}={repository}/{}", short(&origin.snapshot))
        }
        _ => format!("{key}={value}"),
    }
}

/// A table without lines, as terminals and `awk` like it.
pub(super) fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(header.iter().copied());
    table
}

pub(super) const fn kind(kind: VolumeKind) -> &'static str {
    match kind {
        VolumeKind::Block => "volume",
        VolumeKind::Tree => "tree",
    }
}

/// Enough of an id for people; any unique beginning is accepted back.
pub(super) fn short(id: &SnapshotId) -> String {
    id.to_string().chars().take(12).collect()
}

pub(super) fn parse_tags(texts: &[String]) -> Result<Vec<(String, String)>, CliError> {
    let mut tags = Vec::with_capacity(texts.len());
    for text in texts {
        let (key, value) = text
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| CliError::Usage(format!("`{text}` is not KEY=VALUE")))?;
        tags.push((key.to_owned(), value.to_owned()));
    }
    tags.sort();
    Ok(tags)
}

pub(super) fn to_json(snapshot: &Snapshot) -> Value {
    let sizes = &snapshot.sizes;
    let issues: Vec<Value> = snapshot
        .issues
        .iter()
        .map(|issue| json!({ "what": issue.what, "why": issue.why }))
        .collect();
    let tags: serde_json::Map<String, Value> =
        snapshot.tags.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    json!({
        "snapshot": snapshot.id.to_string(),
        "cluster": cluster(snapshot.cluster),
        "name": snapshot.name,
        "kind": kind(snapshot.kind),
        "complete": snapshot.completeness == Completeness::Complete,
        "host": snapshot.host,
        "source": snapshot.source,
        "tags": tags,
        "started": units::rfc3339(snapshot.started_ns),
        "finished": units::rfc3339(snapshot.finished_ns),
        "parent": snapshot.parent.map(|id| id.to_string()),
        "logical_bytes": sizes.logical,
        "allocated_bytes": sizes.allocated,
        "read_bytes": sizes.read,
        "new_bytes": sizes.new_plain,
        "stored_bytes": sizes.new_stored,
        "entries": sizes.entries,
        "issue_count": snapshot.issue_count,
        "issues": issues,
        "program": snapshot.program,
    })
}

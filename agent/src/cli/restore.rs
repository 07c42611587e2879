//! `salvor restore`.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use repo_format::pack::PackKind;
use repo_format::snapshot::{Snapshot, VolumeKind};
use repo_format::volume::VolumeRoot;
use repository::RepositoryError;
use repository::chunks::ChunkSource;
use repository::reader::RANGE_BYTES_MAX;
use repository::store::Location;
use serde_json::{Value, json};

use super::args::RestoreArgs;
use super::backup::issue_text;
use super::batch::Batched;
use super::browse::{self, Opened, tree_path};
use super::context::Context;
use super::error::{CliError, Exit};
use super::requests;
use super::snapshots::short;
use super::ui::Status;
use super::units;
use crate::block;
use crate::block::backup::BlockError;
use crate::block::restore::{BlockRestored, RestoreSetup};
use crate::tree::restore::{RestoreJob, RestoreOptions, RestoreOutcome, restore_tree};
use crate::tree::{self, TreeError};
use crate::volume::{BufPool, Target};

pub(super) fn run(context: &Context, args: &RestoreArgs) -> Result<Exit, CliError> {
    let opened = browse::open(context, &args.snapshot)?;
    match opened.snapshot.kind {
        VolumeKind::Block => restore_volume(context, args, &opened),
        VolumeKind::Tree => restore_directory(context, args, &opened),
    }
}

fn restore_volume(
    context: &Context,
    args: &RestoreArgs,
    opened: &Opened,
) -> Result<Exit, CliError> {
    if args.path.is_some() || args.delete || args.no_owner {
        let message = "--path, --delete and --no-owner are for trees, and this is a volume";
        return Err(CliError::Usage(message.into()));
    }
    let started = Instant::now();
    let mut plain = Vec::new();
    opened.reader.get(PackKind::Meta, &opened.snapshot.root, &mut plain)?;
    let what = format!("manifest of snapshot {}", opened.snapshot.id);
    let root = VolumeRoot::decode(&plain).map_err(|error| RepositoryError::format(what, error))?;
    let place = Place::prepare(args, &opened.snapshot, &root)?;
    if place.resumes {
        context.ui.note("going on with an interrupted restore: what is there already is kept");
    }
    let setup = restore_setup(context, args, &place, root.chunk_log2)?;
    let progress = block::Progress::default();
    progress.total.store(opened.snapshot.sizes.allocated, Ordering::Relaxed);
    let status = || {
        let done = progress.done.load(Ordering::Relaxed);
        let read = progress.read.load(Ordering::Relaxed);
        Status {
            done,
            total: progress.total.load(Ordering::Relaxed).max(done),
            in_bytes: true,
            message: format!("{} fetched", units::bytes(read)),
            extra: json!({ "fetched_bytes": read }),
        }
    };
    let target = Arc::clone(&place.target);
    let result = context.ui.watch("restore", status, || {
        block::restore::restore(&opened.reader, &root, target, &setup, &progress)
    });
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(BlockError::Interrupted) => {
            return Err(interrupted());
        }
        Err(error) => return Err(error.into()),
    };
    place.finish()?;
    report_volume(context, args, opened, &outcome, started);
    Ok(match (outcome.damaged, outcome.issues.is_empty()) {
        (true, _) => Exit::Damaged,
        (false, false) => Exit::Partial,
        (false, true) => Exit::Done,
    })
}

fn restore_setup(
    context: &Context,
    args: &RestoreArgs,
    place: &Place,
    chunk_log2: u8,
) -> Result<RestoreSetup, CliError> {
    let budget = context.budget(1 << chunk_log2);
    let buffers = (budget.packs.buffer_bytes() / 4 + (budget.slabs << chunk_log2)) >> chunk_log2;
    Ok(RestoreSetup {
        engine: context.engine()?,
        pool: BufPool::new(buffers.clamp(8, 64), 1 << chunk_log2)?,
        fetchers: fetchers(context, budget.packs.buffer_bytes())?,
        workers: context.threads(),
        in_place: place.overwrites,
        no_sparse: args.no_sparse,
        cancel: Arc::clone(&context.cancel),
    })
}

/// Ranges to fetch at once: a server is far away, and most of a request is waiting.
///
/// * `memory`: bytes of packs in a backup; half of it is for ranges.
fn fetchers(context: &Context, memory: usize) -> Result<usize, CliError> {
    let most = usize::try_from(RANGE_BYTES_MAX).unwrap_or(usize::MAX);
    Ok(match context.location()? {
        Location::S3 { .. } => (memory / 2 / most).clamp(3, 32),
        Location::Path(_) => 3,
    })
}

/// Threads that fetch and write files; 0 for as many as suit the processors. Each holds a range and
/// a chunk.
fn tree_workers(context: &Context) -> Result<usize, CliError> {
    let memory = context.budget(1 << 20).packs.buffer_bytes();
    Ok(match context.location()? {
        Location::S3 { .. } => fetchers(context, memory / 2)?.max(2 * context.threads()),
        Location::Path(_) => 0,
    })
}

fn report_volume(
    context: &Context,
    args: &RestoreArgs,
    opened: &Opened,
    outcome: &BlockRestored,
    started: Instant,
) {
    let seconds = started.elapsed().as_secs_f64();
    let allocated = opened.snapshot.sizes.allocated;
    context.ui.say(&format!(
        "restored snapshot {} to {}\n  {} volume in {seconds:.1} s ({}); wrote {}, {} were right already",
        short(&opened.snapshot.id),
        args.target.display(),
        units::bytes(opened.snapshot.sizes.logical),
        units::rate(allocated, seconds),
        units::bytes(outcome.written_bytes),
        units::bytes(outcome.same_bytes),
    ));
    for issue in outcome.issues.iter().take(20) {
        context.ui.warn(&issue_text(issue));
    }
    if !outcome.issues.is_empty() {
        context.ui.warn(&format!(
            "{} extents could not be restored and read as zeroes",
            units::count(outcome.issues.len() as u64)
        ));
    }
    let issues: Vec<_> = outcome.issues.iter().map(issue_text).collect();
    let object = json!({
        "type": "restore",
        "snapshot": opened.snapshot.id.to_string(),
        "seconds": seconds,
        "written_bytes": outcome.written_bytes,
        "same_bytes": outcome.same_bytes,
        "fetched_bytes": outcome.fetched_bytes,
        "issues": issues,
    });
    report_requests(context, opened, object);
}

/// Where a volume is restored to, and the mark that tells an unfinished restore from a file that
/// somebody needs.
struct Place {
    target: Arc<Target>,
    overwrites: bool,
    resumes: bool,
    mark: Option<Mark>,
}

impl Place {
    fn prepare(
        args: &RestoreArgs,
        snapshot: &Snapshot,
        root: &VolumeRoot,
    ) -> Result<Self, CliError> {
        let path = &args.target;
        let kind = fs::metadata(path).map(|meta| meta.file_type());
        if kind.as_ref().is_ok_and(fs::FileType::is_dir) {
            let message = format!("{} is a directory: name the file to restore to", path.display());
            return Err(CliError::Failed(message));
        }
        let is_device = kind.as_ref().is_ok_and(FileTypeExt::is_block_device);
        if is_device {
            if !args.in_place {
                let message = format!(
                    "{} is a block device: give --in-place to overwrite what it holds",
                    path.display()
                );
                return Err(CliError::Failed(message));
            }
            let target = Arc::new(Target::open_in_place(path, root.size_bytes)?);
            return Ok(Self { target, overwrites: true, resumes: false, mark: None });
        }
        let mark = Mark::beside(path);
        let resumes = mark.names(snapshot);
        if kind.is_ok() && (args.in_place || resumes) {
            let mut target = Target::open_in_place(path, 0)?;
            target.set_size(root.size_bytes)?;
            let resumes = resumes && !args.in_place;
            // Whatever left a mark here, after this the file is whole and somebody's.
            let mark = mark.exists().then_some(mark);
            return Ok(Self { target: Arc::new(target), overwrites: true, resumes, mark });
        }
        if kind.is_ok() {
            let message = format!(
                "{} exists already. Choose another target, or give --in-place to overwrite what differs",
                path.display()
            );
            return Err(CliError::Failed(message));
        }
        // The mark is there before the file is: an unfinished file is never without one.
        mark.set(snapshot)?;
        let target = Target::create(path, root.size_bytes).inspect_err(|_| {
            drop(mark.clear());
        })?;
        let mark = Some(mark);
        Ok(Self { target: Arc::new(target), overwrites: false, resumes: false, mark })
    }

    /// Everything is on disk: the mark goes.
    fn finish(self) -> Result<(), CliError> {
        self.mark.map_or(Ok(()), |mark| mark.clear())
    }
}

/// A file beside a target that names the snapshot being restored to it.
struct Mark(PathBuf);

impl Mark {
    fn beside(target: &Path) -> Self {
        let mut name = target.as_os_str().to_owned();
        name.push(".salvor-restoring");
        Self(PathBuf::from(name))
    }

    fn exists(&self) -> bool {
        self.0.exists()
    }

    fn names(&self, snapshot: &Snapshot) -> bool {
        fs::read_to_string(&self.0).is_ok_and(|id| id.trim() == snapshot.id.to_string())
    }

    fn set(&self, snapshot: &Snapshot) -> Result<(), CliError> {
        let what = format!("cannot write {}", self.0.display());
        fs::write(&self.0, snapshot.id.to_string()).map_err(CliError::io(what))
    }

    fn clear(&self) -> Result<(), CliError> {
        let what = format!("cannot remove {}", self.0.display());
        fs::remove_file(&self.0).map_err(CliError::io(what))
    }
}

fn restore_directory(
    context: &Context,
    args: &RestoreArgs,
    opened: &Opened,
) -> Result<Exit, CliError> {
    let started = Instant::now();
    let subtree = args.path.as_deref().map(tree_path).transpose()?.unwrap_or_default();
    let what = format!("cannot restore to {}", args.target.display());
    let target = std::path::absolute(&args.target).map_err(CliError::io(what))?;
    let mark = Mark::beside(&target);
    let resumes = !args.in_place && mark.names(&opened.snapshot);
    if resumes {
        context.ui.note("going on with an interrupted restore: files that are complete are kept");
    }
    let marked = !args.in_place && !resumes && is_free(&target);
    if marked {
        mark.set(&opened.snapshot)?;
    }
    let options = RestoreOptions {
        in_place: args.in_place || resumes,
        delete: args.delete,
        owner: !args.no_owner,
        no_sparse: args.no_sparse,
        sync: true,
        workers: tree_workers(context)?,
        scratch: context.scratch_dir(),
    };
    let mut damaged = false;
    let result = run_restore(context, opened, (&subtree, &target), &options, &mut damaged);
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(TreeError::Cancelled) => return Err(interrupted()),
        Err(error) => {
            if marked && is_free(&target) {
                mark.clear()?;
            }
            return Err(error.into());
        }
    };
    if marked || resumes || mark.exists() {
        mark.clear()?;
    }
    report_tree(context, args, opened, &outcome, started);
    Ok(match (damaged, outcome.issues.count == 0) {
        (true, _) => Exit::Damaged,
        (false, false) => Exit::Partial,
        (false, true) => Exit::Done,
    })
}

fn interrupted() -> CliError {
    let text = "interrupted. Run the same command again: it goes on from what is there";
    CliError::Interrupted(text.into())
}

/// Restores a subtree to a target, naming what cannot be had; `damaged` tells whether any of it
/// is damage in the repository.
fn run_restore(
    context: &Context,
    opened: &Opened,
    (subtree, target): (&[u8], &Path),
    options: &RestoreOptions,
    damaged: &mut bool,
) -> Result<RestoreOutcome, TreeError> {
    let source = Batched(&opened.reader);
    let progress = tree::Progress::default();
    let job = RestoreJob {
        source: &source,
        root: &opened.snapshot.root,
        subtree,
        target,
        options,
        progress: &progress,
        cancel: &context.cancel,
    };
    let total = if subtree.is_empty() { opened.snapshot.sizes.logical } else { 0 };
    let status = || {
        let totals = progress.totals();
        let message = units::counted(totals.entries, "entry", "entries");
        Status { done: totals.bytes, total, in_bytes: true, message, extra: json!(totals) }
    };
    let mut on_issue = |issue: &tree::Issue| {
        *damaged |= issue.kind == tree::IssueKind::Damaged;
        context.ui.warn(&issue.to_string());
    };
    context.ui.watch("restore", status, || restore_tree(job, &mut on_issue))
}

/// Whether nothing is there yet.
fn is_free(path: &Path) -> bool {
    match fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

fn report_tree(
    context: &Context,
    args: &RestoreArgs,
    opened: &Opened,
    outcome: &RestoreOutcome,
    started: Instant,
) {
    let seconds = started.elapsed().as_secs_f64();
    let totals = &outcome.totals;
    context.ui.say(&format!(
        "restored snapshot {} to {}\n  {}, {} in {seconds:.1} s ({}); {} right already",
        short(&opened.snapshot.id),
        args.target.display(),
        units::counted(totals.entries, "entry", "entries"),
        units::bytes(totals.bytes),
        units::rate(totals.moved_bytes, seconds),
        units::counted(totals.unchanged_files, "file was", "files were"),
    ));
    if outcome.issues.count > 0 {
        context.ui.warn(&format!(
            "{} could not be restored as saved",
            units::counted(outcome.issues.count, "thing", "things")
        ));
    }
    let object = json!({
        "type": "restore",
        "snapshot": opened.snapshot.id.to_string(),
        "seconds": seconds,
        "totals": totals,
        "issues": outcome.issues.named,
        "issue_count": outcome.issues.count,
    });
    report_requests(context, opened, object);
}

/// What it took at the server, for people and as a part of the result.
fn report_requests(context: &Context, opened: &Opened, mut object: Value) {
    let store = opened.repository.store();
    requests::say(context, "", &**store);
    requests::add(&mut object, &**store);
    context.ui.object(&object);
}

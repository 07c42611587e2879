//! `salvor backup`.

use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use repo_format::chunker::Chunker;
use repo_format::id::{ChunkId, SnapshotId};
use repo_format::pack::PackKind;
use repo_format::snapshot::{Completeness, ISSUES_KEPT, Issue, Sizes, Snapshot, VolumeKind};
use repo_format::volume::VolumeRoot;
use repository::chunks::ChunkSource;
use repository::copy::ORIGIN_TAG;
use repository::effort::Effort;
use repository::process::hostname;
use repository::reader::Reader;
use repository::view::View;
use repository::writer::{Writer, WriterOptions};
use repository::{Repository, RepositoryError, gc};
use serde_json::{Value, json};

use super::args::BackupArgs;
use super::batch::Batched;
use super::context::Context;
use super::error::{CliError, Exit};
use super::fetched;
use super::paced::Paced;
use super::snapshots::{self, parse_tags};
use super::ui::{Status, saved_so_far};
use super::{locks, requests, units};
use crate::block::backup::{BackupSetup, BlockError};
use crate::block::{self, ChangedExtents};
use crate::tree::backup::{BackupHooks, BackupJob, BackupOptions, backup_tree};
use crate::tree::reader::TreeReader;
use crate::tree::{self, Totals, TreeError};
use crate::volume::{BufPool, Source};

/// A checkpoint is due when this much was stored since the last one, whatever the time.
const CHECKPOINT_BYTES: u64 = 8 << 30;

pub(super) fn run(context: &Context, args: &BackupArgs) -> Result<Exit, CliError> {
    let kind = kind_of(&args.path)?;
    let tags = parse_tags(&args.tags)?;
    if tags.iter().any(|(key, _)| key == ORIGIN_TAG) {
        // A copy takes its word for what both repositories have.
        let message = format!("the label `{ORIGIN_TAG}` is reserved for `salvor copy`");
        return Err(CliError::Usage(message));
    }
    if kind == VolumeKind::Tree && args.changed_blocks.is_some() {
        let message = "--changed-blocks is for images and devices, and this is a directory";
        return Err(CliError::Usage(message.into()));
    }
    let (repository, glance) = context.open_with_glance(true)?;
    let chunk_log2 = repository.config().chunk_log2;
    let budget = context.budget(1 << chunk_log2);
    let index = context.index(&repository)?;
    let options = WriterOptions {
        effort: args.compression.0,
        packs: budget.packs,
        cluster: context.cluster(),
    };
    let patience = Duration::from_secs(args.index_wait);
    let opened =
        Writer::open_after(&repository, Arc::clone(&index), &options, glance.as_ref(), patience);
    let (writer, unreadable) = opened?;
    context.check_witness(&repository, writer.view())?;
    fetched::say(context, &index);
    for problem in unreadable {
        context.ui.warn(&format!("{problem}; what it lists is stored again"));
    }
    let source = absolute(&args.path)?;
    let name = args.name.clone().unwrap_or_else(|| format!("{}:{source}", hostname()));
    let cluster = context.cluster();
    let record = Snapshot { cluster, ..blank_record(kind, name, source, tags) };
    let parent = find_parent(writer.view(), &args.parent, &record)?;
    let run = Run {
        context,
        args,
        reader: Reader::new(&repository, index),
        repository,
        writer,
        record: Snapshot { parent: parent.as_ref().map(|parent| parent.id), ..record },
        parent,
        started: Instant::now(),
    };
    match kind {
        VolumeKind::Block => run.block(),
        VolumeKind::Tree => run.tree(),
    }
}

struct Run<'a> {
    context: &'a Context,
    args: &'a BackupArgs,
    repository: Arc<Repository>,
    reader: Reader,
    writer: Writer,
    record: Snapshot,
    parent: Option<Snapshot>,
    started: Instant,
}

/// What a finished run found.
struct Found {
    root: ChunkId,
    sizes: Sizes,
    issues: Vec<Issue>,
    issue_count: u64,
    extra: Value,
}

impl Run<'_> {
    fn block(self) -> Result<Exit, CliError> {
        let source = Arc::new(Source::open(&self.args.path)?);
        let setup = self.block_setup(&source)?;
        let progress = block::Progress::default();
        let total = setup.changed.as_ref().map_or_else(
            || allocated_estimate(&self.args.path, source.size_bytes()),
            ChangedExtents::bytes,
        );
        progress.total.store(total, Ordering::Relaxed);
        let mut checkpoints = Checkpoints::new(&self);
        let status = || block_status(&progress, &self.writer);
        let result = self.context.ui.watch("backup", status, || {
            let mut tick = || checkpoints.store_if_due(ChunkId::NONE);
            let parents: &dyn ChunkSource = &self.reader;
            block::backup::backup(&source, &self.writer, parents, setup, &progress, &mut tick)
        });
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(BlockError::Interrupted) => return Err(self.interrupted(ChunkId::NONE)),
            Err(error) => return Err(error.into()),
        };
        let counts = self.writer.counts();
        let sizes = Sizes {
            logical: source.size_bytes(),
            allocated: outcome.allocated_bytes,
            read: outcome.read_bytes,
            new_plain: counts.new_plain_bytes,
            new_stored: 0,
            entries: 0,
        };
        let issue_count = outcome.issues.len() as u64;
        let issues = outcome.issues;
        self.finish(Found { root: outcome.root, sizes, issues, issue_count, extra: Value::Null })
    }

    fn block_setup(&self, source: &Source) -> Result<BackupSetup, CliError> {
        let parent = self.parent.as_ref().map(|parent| self.volume_root(parent)).transpose();
        let parent = match parent {
            // What a damaged parent had is read and stored again, which heals it. A list of changes
            // is of no use then: most of the volume would be missing.
            Err(error) if error.is_damage() && self.args.changed_blocks.is_none() => {
                self.context.ui.warn(&format!("the parent cannot be read: {error}"));
                None
            }
            other => other?,
        };
        let complete = self
            .parent
            .as_ref()
            .is_some_and(|parent| parent.completeness == Completeness::Complete);
        let changed = match &self.args.changed_blocks {
            None => None,
            Some(path) => {
                let what = format!("cannot open the list of changed extents {}", path.display());
                let file = File::open(path).map_err(CliError::io(what))?;
                Some(ChangedExtents::read(BufReader::new(file), source.size_bytes())?)
            }
        };
        let own_log2 = self.repository.config().chunk_log2;
        if changed.is_some() && parent.as_ref().is_none_or(|root| root.chunk_log2 != own_log2) {
            return Err(CliError::Failed(
                "--changed-blocks needs a parent, and there is no earlier snapshot of this name: \
                 make a full backup first, or name one with --parent"
                    .into(),
            ));
        }
        let budget = self.context.budget(1 << own_log2);
        Ok(BackupSetup {
            chunk_log2: own_log2,
            parent,
            parent_is_complete: complete,
            changed,
            engine: self.context.engine()?,
            pool: BufPool::new(budget.slabs, 1 << own_log2)?,
            workers: self.context.threads(),
            bytes_per_second: self.args.bandwidth.map(|size| size.0),
            cancel: Arc::clone(&self.context.cancel),
        })
    }

    fn volume_root(&self, parent: &Snapshot) -> Result<VolumeRoot, RepositoryError> {
        let mut plain = Vec::new();
        self.reader.get(PackKind::Meta, &parent.root, &mut plain)?;
        VolumeRoot::decode(&plain).map_err(|error| {
            RepositoryError::format(format!("manifest of snapshot {}", parent.id), error)
        })
    }

    fn tree(self) -> Result<Exit, CliError> {
        let source = Batched(&self.reader);
        let parents = self.tree_parents(&source);
        let budget = self.context.budget(1 << self.repository.config().chunk_log2);
        let options = BackupOptions {
            excludes: self.args.excludes.clone(),
            one_file_system: self.args.one_file_system,
            exclude_caches: self.args.exclude_caches,
            workers: 0,
            memory_bytes: budget.tree_bytes,
            scratch: self.context.scratch_dir(),
        };
        let keys = self.repository.keys();
        let chunker = Chunker::new(keys.gear(), self.repository.config().file_chunks);
        let progress = tree::Progress::default();
        let sink = Paced::new(&self.writer, self.args.bandwidth, &self.context.cancel);
        let trusts_parents = self.writer.trusts_parents();
        let has_chunk =
            |_: PackKind, id: &ChunkId| trusts_parents || self.writer.knows(id).unwrap_or(false);
        let job = BackupJob {
            root: &self.args.path,
            options: &options,
            sink: &sink,
            chunker: &chunker,
            cutter: keys.page_cutter(),
            has_chunk: &has_chunk,
            progress: &progress,
            cancel: &self.context.cancel,
        };
        let mut hooks = Hooks { checkpoints: Checkpoints::new(&self), last_root: ChunkId::NONE };
        let status = || tree_status(&progress, &self.writer);
        let result =
            self.context.ui.watch("backup", status, || backup_tree(job, parents, &mut hooks));
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(TreeError::Cancelled) => {
                let root = hooks.last_root;
                return Err(self.interrupted(root));
            }
            Err(error) => return Err(error.into()),
        };
        let sizes = Sizes {
            logical: outcome.totals.bytes,
            allocated: outcome.totals.bytes,
            read: outcome.totals.moved_bytes,
            new_plain: self.writer.counts().new_plain_bytes,
            new_stored: 0,
            entries: outcome.totals.entries,
        };
        let issue_count = outcome.issues.count;
        let issues = outcome.issues.named.iter().take(ISSUES_KEPT).map(issue_record).collect();
        let extra = json!(outcome.totals);
        self.finish(Found { root: outcome.root, sizes, issues, issue_count, extra })
    }

    /// The parent and what killed runs of the same volume got done, newest first.
    fn tree_parents<'r>(&self, source: &'r Batched<'r>) -> Vec<TreeReader<'r>> {
        let record = &self.record;
        let checkpoints = self.writer.view().checkpoints(&record.name, &record.source);
        let mut roots: Vec<(i64, ChunkId)> = if self.args.parent == "none" {
            Vec::new()
        } else {
            checkpoints
                .chain(self.parent.as_ref())
                .map(|snapshot| (snapshot.started_ns, snapshot.root))
                .filter(|(_, root)| *root != ChunkId::NONE)
                .collect()
        };
        roots.sort_unstable_by_key(|root| std::cmp::Reverse(root.0));
        let mut readers = Vec::new();
        for (_, root) in roots.into_iter().take(4) {
            match TreeReader::open(source, &root) {
                Ok(reader) => readers.push(reader),
                Err(error) => {
                    self.context.ui.warn(&format!("a parent cannot be read: {error}"));
                }
            }
        }
        readers
    }

    /// Keeps what was stored so far, and says how to go on.
    fn interrupted(&self, root: ChunkId) -> CliError {
        let finished_ns = now_ns();
        let kept = self.writer.checkpoint(Snapshot { root, finished_ns, ..self.record.clone() });
        let stored = units::bytes(self.writer.counts().stored_bytes);
        CliError::Interrupted(match kept {
            Ok(()) => format!(
                "interrupted. {stored} were stored and are kept: run the same command again, and \
                 it goes on from there"
            ),
            Err(error) => format!(
                "interrupted, and what was stored since the last checkpoint could not be kept: \
                 {error}"
            ),
        })
    }

    fn finish(self, found: Found) -> Result<Exit, CliError> {
        let Self { context, args, repository, reader, writer, record, started, .. } = self;
        let superseded: Vec<SnapshotId> = writer
            .view()
            .checkpoints(&record.name, &record.source)
            .filter(|checkpoint| checkpoint.cluster == context.cluster())
            .map(|checkpoint| checkpoint.id)
            .collect();
        let complete = found.issue_count == 0;
        let snapshot = Snapshot {
            completeness: if complete { Completeness::Complete } else { Completeness::Incomplete },
            finished_ns: now_ns(),
            root: found.root,
            sizes: found.sizes,
            issue_count: found.issue_count,
            issues: found.issues,
            ..record
        };
        let waiting = writer.view().waiting();
        let counts = writer.counts();
        let compression = units::compression(writer.compression());
        let lock = writer.view().head.catalog.lock.clone();
        let index = Arc::clone(writer.index());
        let snapshot = writer.finish(snapshot, superseded)?;
        // Whoever opens the repository next is spared the work; failing costs only that.
        drop(gc::fold_if_many(&repository, waiting));
        locks::help_out(context, &repository, &index, lock.as_ref());
        let mut extra = json!({ "compression": compression, "tree": found.extra });
        requests::add(&mut extra, &**repository.store());
        fetched::add(&mut extra, reader.index());
        report(context, &snapshot, counts.chunks - counts.new_chunks, started, &extra);
        if args.compression.0 == Effort::Auto {
            context.ui.say(&format!("  compressed with {compression} by the end"));
        }
        requests::say(context, "", &**repository.store());
        Ok(if complete { Exit::Done } else { Exit::Partial })
    }
}

fn report(context: &Context, snapshot: &Snapshot, reused: u64, started: Instant, extra: &Value) {
    let seconds = started.elapsed().as_secs_f64();
    let sizes = &snapshot.sizes;
    let what = match snapshot.kind {
        VolumeKind::Block => {
            format!(
                "{} volume, {} allocated",
                units::bytes(sizes.logical),
                units::bytes(sizes.allocated)
            )
        }
        VolumeKind::Tree => {
            let entries = units::counted(sizes.entries, "entry", "entries");
            format!("{entries}, {}", units::bytes(sizes.logical))
        }
    };
    context.ui.say(&format!(
        "snapshot {} of {}\n  {what}; read {} in {seconds:.1} s ({})\n  new {}, stored {} (ratio {:.2}); {} there already",
        snapshots::short(&snapshot.id),
        snapshot.name,
        units::bytes(sizes.read),
        units::rate(sizes.allocated, seconds),
        units::bytes(sizes.new_plain),
        units::bytes(sizes.new_stored),
        units::ratio(sizes.new_plain, sizes.new_stored),
        units::counted(reused, "chunk was", "chunks were"),
    ));
    for issue in snapshot.issues.iter().take(20) {
        context.ui.warn(&issue_text(issue));
    }
    if snapshot.issue_count > 0 {
        context.ui.warn(&format!(
            "the snapshot is incomplete: {} could not be saved as found",
            units::counted(snapshot.issue_count, "thing", "things")
        ));
    }
    let mut object = snapshots::to_json(snapshot);
    if let Some(map) = object.as_object_mut() {
        map.insert("type".into(), json!("backup"));
        map.insert("seconds".into(), json!(seconds));
        map.insert("reused_chunks".into(), json!(reused));
        map.extend(extra.as_object().cloned().unwrap_or_default());
    }
    context.ui.object(&object);
}

pub(super) fn issue_text(issue: &Issue) -> String {
    if issue.why.is_empty() { issue.what.clone() } else { format!("{}: {}", issue.what, issue.why) }
}

fn issue_record(issue: &tree::Issue) -> Issue {
    let cut = |text: &str| text.chars().take(1000).collect::<String>();
    let text = issue.to_string();
    let what = String::from_utf8_lossy(&issue.path);
    let why = text.strip_prefix(&*what).unwrap_or(&text).trim_start_matches(": ");
    Issue { what: cut(&what), why: cut(why) }
}

/// Decides when a checkpoint is due, and stores it.
struct Checkpoints<'a> {
    writer: &'a Writer,
    record: Snapshot,
    every: Duration,
    last: Instant,
    last_stored: u64,
}

impl<'a> Checkpoints<'a> {
    fn new(run: &'a Run<'_>) -> Self {
        Self {
            writer: &run.writer,
            record: run.record.clone(),
            every: Duration::from_secs(run.args.checkpoint_seconds),
            last: Instant::now(),
            last_stored: 0,
        }
    }

    fn is_due(&self) -> bool {
        let stored = self.writer.counts().stored_bytes - self.last_stored;
        self.last.elapsed() >= self.every || stored >= CHECKPOINT_BYTES
    }

    fn store(&mut self, root: ChunkId) -> Result<(), RepositoryError> {
        let finished_ns = now_ns();
        self.writer.checkpoint(Snapshot { root, finished_ns, ..self.record.clone() })?;
        self.last = Instant::now();
        self.last_stored = self.writer.counts().stored_bytes;
        Ok(())
    }

    fn store_if_due(&mut self, root: ChunkId) -> Result<(), RepositoryError> {
        if self.is_due() { self.store(root) } else { Ok(()) }
    }
}

struct Hooks<'a> {
    checkpoints: Checkpoints<'a>,
    last_root: ChunkId,
}

impl BackupHooks for Hooks<'_> {
    fn wants_checkpoint(&mut self, _: &Totals) -> bool {
        self.checkpoints.is_due()
    }

    fn checkpoint(&mut self, root: &ChunkId, _: &Totals) -> Result<(), TreeError> {
        self.last_root = *root;
        Ok(self.checkpoints.store(*root)?)
    }
}

fn block_status(progress: &block::Progress, writer: &Writer) -> Status {
    let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let counts = writer.counts();
    let (done, total) = (get(&progress.done), get(&progress.total));
    Status {
        done,
        total: total.max(done),
        in_bytes: true,
        message: saved_so_far(get(&progress.read), counts.new_plain_bytes, counts.stored_bytes),
        extra: json!(counts),
    }
}

fn tree_status(progress: &tree::Progress, writer: &Writer) -> Status {
    let totals = progress.totals();
    let counts = writer.counts();
    let walked = progress.walked.load(Ordering::Relaxed);
    Status {
        done: totals.entries,
        total: if walked { progress.found.load(Ordering::Relaxed) } else { 0 },
        in_bytes: false,
        message: saved_so_far(totals.moved_bytes, counts.new_plain_bytes, counts.stored_bytes),
        extra: json!({ "tree": totals, "repository": counts }),
    }
}

fn kind_of(path: &Path) -> Result<VolumeKind, CliError> {
    let what = format!("cannot back up {}", path.display());
    let file_type = std::fs::metadata(path).map_err(CliError::io(what))?.file_type();
    if file_type.is_dir() {
        Ok(VolumeKind::Tree)
    } else if file_type.is_file() || file_type.is_block_device() {
        Ok(VolumeKind::Block)
    } else {
        let text = "is neither an image, a block device nor a directory";
        Err(CliError::Failed(format!("{} {text}", path.display())))
    }
}

/// What a volume's blocks take on disk, for the progress bar.
fn allocated_estimate(path: &Path, size_bytes: u64) -> u64 {
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() => (meta.blocks() * 512).min(size_bytes),
        _ => size_bytes,
    }
}

fn absolute(path: &Path) -> Result<String, CliError> {
    let what = format!("cannot back up {}", path.display());
    let path = std::path::absolute(path).map_err(CliError::io(what))?;
    Ok(path.to_string_lossy().into_owned())
}

fn now_ns() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

fn blank_record(
    kind: VolumeKind,
    name: String,
    source: String,
    tags: Vec<(String, String)>,
) -> Snapshot {
    Snapshot {
        completeness: Completeness::Checkpoint,
        host: hostname(),
        source,
        tags,
        started_ns: now_ns(),
        program: format!("salvor {}", env!("CARGO_PKG_VERSION")),
        ..Snapshot::new(name, kind, ChunkId::NONE)
    }
}

/// The snapshot to compare with.
fn find_parent(view: &View, wanted: &str, record: &Snapshot) -> Result<Option<Snapshot>, CliError> {
    match wanted {
        "none" => Ok(None),
        "auto" => Ok(view
            .snapshots()
            .into_iter()
            .rev()
            .filter(|snapshot| snapshot.cluster == record.cluster)
            .find(|snapshot| snapshot.name == record.name && snapshot.kind == record.kind)
            .cloned()),
        wanted => {
            let parent = view.find(wanted, record.cluster)?;
            if parent.kind != record.kind {
                let message =
                    format!("snapshot {wanted} is of another kind than what is backed up");
                return Err(CliError::Failed(message));
            }
            Ok(Some(parent.clone()))
        }
    }
}

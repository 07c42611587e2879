//! Backs a directory tree up.
//!
//! ```text
//! walker ─Batch→ workers ─Done→ emitter (the caller's thread) ─Entry→ TreeWriter
//! ```
//!
//! One thread walks and looks the entries up in the parents. Workers look at the files and read
//! those that changed; there are more of them than processors, so that many files are in flight on
//! a cold disk. The emitter restores the order. Batches under way are limited, which bounds
//! memory and keeps everything in step with the slowest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, never, select, unbounded};
use repo_format::chunker::Chunker;
use repo_format::id::ChunkId;
use repo_format::pack::PackKind;
use repo_format::tree::{Content, EntryKind, PageCutter};
use repository::chunks::ChunkSink;

use super::batch::{Batch, Batcher};
use super::capture::{Captured, Context, Done, Gate, capture_again, capture_batch, fits, position};
use super::error::{Issue, IssueKind};
use super::filter::Filter;
use super::large::Large;
use super::links::{Links, Turn};
use super::reader::TreeReader;
use super::scout::{Hint, Hints, SCOUTS, scout};
use super::walk::{WalkOptions, Walker};
use super::{Issues, Progress, Stop, Totals, TreeError, TreeWriter};

/// Batches between the walker and the emitter.
const WINDOW: usize = 48;
/// How often the hooks are asked for a checkpoint while nothing can be emitted.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// Workers per processor.
const WORKERS_PER_CPU: usize = 8;
/// Memory a worker may need for the small files it gathers.
const WORKER_BYTES: usize = 1 << 20;

/// What to back up and how.
#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// Patterns of what to leave out. `*.o` and `a/b` match at any depth, `/a` only at the root
    /// of the tree, `dir/` directories only; `**` crosses directories, `*`, `?` and `[…]` do not;
    /// `{a,b}` is either.
    pub excludes: Vec<String>,
    /// Record mount points as empty directories.
    pub one_file_system: bool,
    /// Record directories with a valid `CACHEDIR.TAG` as empty.
    pub exclude_caches: bool,
    /// Threads that read; 0 chooses.
    pub workers: usize,
    /// Memory for names, buffers and entries under way. Less than 16 MiB counts as 16 MiB.
    pub memory_bytes: usize,
    /// A directory for unnamed scratch files, used by directories with millions of names.
    pub scratch: PathBuf,
}

impl Default for BackupOptions {
    fn default() -> Self {
        Self {
            excludes: Vec::new(),
            one_file_system: false,
            exclude_caches: false,
            workers: 0,
            memory_bytes: 48 << 20,
            scratch: std::env::temp_dir(),
        }
    }
}

impl BackupOptions {
    fn memory(&self) -> usize {
        self.memory_bytes.max(16 << 20)
    }

    fn worker_count(&self) -> usize {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let wanted = if self.workers == 0 { cpus * WORKERS_PER_CPU } else { self.workers };
        wanted.clamp(1, (self.memory() / 4 / WORKER_BYTES).max(2))
    }
}

/// One backup.
#[derive(Clone, Copy)]
pub struct BackupJob<'a> {
    /// The directory; a symbolic link to one is followed.
    pub root: &'a Path,
    /// How.
    pub options: &'a BackupOptions,
    /// Takes chunks and pages.
    pub sink: &'a dyn ChunkSink,
    /// Cuts large files.
    pub chunker: &'a Chunker,
    /// Decides where pages and batches end; keyed.
    pub cutter: PageCutter,
    /// Whether the repository has a chunk, undamaged as far as it knows. An unchanged file of
    /// which a chunk is missing is read again. `&|_, _| true` trusts the parents.
    pub has_chunk: &'a (dyn Fn(PackKind, &ChunkId) -> bool + Sync),
    /// Counts along.
    pub progress: &'a Progress,
    /// Set it to stop within a second or so.
    pub cancel: &'a AtomicBool,
}

/// What the caller wants to know while a backup runs. Called in the caller's thread.
pub trait BackupHooks {
    /// Something could not be captured as it is.
    fn issue(&mut self, issue: &Issue) {
        let _ = issue;
    }

    /// A parent could not be read to its end; what it does not tell is read again.
    fn parent_lost(&mut self, error: &TreeError) {
        let _ = error;
    }

    /// Whether a checkpoint is due. Asked after each batch, and at least every second.
    fn wants_checkpoint(&mut self, so_far: &Totals) -> bool {
        let _ = so_far;
        false
    }

    /// `root` is a complete tree of what was captured so far, in path order; everything it names
    /// has been put. Also called, wanted or not, before a cancelled run returns.
    ///
    /// # Errors
    ///
    /// End the run.
    fn checkpoint(&mut self, root: &ChunkId, so_far: &Totals) -> Result<(), TreeError> {
        let _ = (root, so_far);
        Ok(())
    }
}

/// Hooks that want nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHooks;

impl BackupHooks for NoHooks {}

/// What a backup made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeOutcome {
    /// The tree's root chunk.
    pub root: ChunkId,
    /// What it holds, and what was read for it.
    pub totals: Totals,
    /// What it does not hold as it was. Not empty: the snapshot is incomplete.
    pub issues: Issues,
}

/// Backs up `job.root`.
///
/// * `parents`: earlier trees of the same directory, the preferred one first: the parent
///   snapshot, and the checkpoints of an interrupted run before it. A file that one of them has
///   with the same size, times and inode is not opened. Link counts, owners and modes are always
///   taken from the file system.
///
/// A file that cannot be opened or read is named and not recorded, even if a parent has it: a
/// snapshot never passes old content off as new. A directory that cannot be read is recorded
/// without what is below it.
///
/// # Errors
///
/// The root cannot be opened, the sink failed, or the run was cancelled. What befalls single files
/// is in the outcome.
pub fn backup_tree<'a>(
    job: BackupJob<'a>,
    parents: Vec<TreeReader<'a>>,
    hooks: &mut dyn BackupHooks,
) -> Result<TreeOutcome, TreeError> {
    let filter = Filter::new(&job.options.excludes)?;
    let stop = Stop::new(job.cancel);
    let memory = job.options.memory();
    let (hints, hinted) = Hints::new();
    let walker = Walker::new(
        job.root,
        WalkOptions {
            filter: &filter,
            one_file_system: job.options.one_file_system,
            exclude_caches: job.options.exclude_caches,
            names_bytes: memory / 4,
            scratch: &job.options.scratch,
            stop: &stop,
        },
        hints,
    )?;
    let parents_source = parents.first().map(TreeReader::source);
    let batcher = Batcher::new(walker, job.cutter, parents);
    let links = Links::new(job.options.scratch.clone());
    let workers = job.options.worker_count();
    let (help, helped) = unbounded();
    let context = Context {
        sink: job.sink,
        chunker: job.chunker,
        has_chunk: job.has_chunk,
        parents: parents_source,
        progress: job.progress,
        stop: &stop,
        links: &links,
        buffers: Gate::new(memory / 2),
        help,
        helpers: (memory / 2 / (2 * job.chunker.sizes().max as usize)).clamp(1, workers),
    };
    let emitter = Emitter {
        context: &context,
        writer: TreeWriter::new(job.sink, job.cutter),
        hooks,
        issues: Issues::default(),
        excluded: 0,
        entries_at_checkpoint: 0,
        scratch: &job.options.scratch,
    };
    run_threads(batcher, &hinted, workers, &helped, emitter)
}

/// Starts the walker, its scouts and the workers, and emits in this thread.
fn run_threads(
    batcher: Batcher<'_>,
    hinted: &Receiver<Hint>,
    workers: usize,
    helped: &Receiver<Arc<Large>>,
    emitter: Emitter<'_, '_>,
) -> Result<TreeOutcome, TreeError> {
    let context = emitter.context;
    std::thread::scope(|scope| {
        let (to_workers, from_walker) = bounded::<Batch>(WINDOW);
        let (messages_in, messages) = bounded::<Message>(2 * WINDOW);
        let (window_in, window) = bounded::<()>(WINDOW);
        let (quit_in, quit) = bounded::<()>(0);
        let walk_in = messages_in.clone();
        scope.spawn(move || {
            let _watch = Watch(walk_in.clone());
            let end = walk(batcher, context, &window_in, &to_workers);
            let _ = walk_in.send(Message::Walked(end));
        });
        for _ in 0..SCOUTS {
            scope.spawn(move || scout(hinted));
        }
        for _ in 0..workers {
            let (work_from, quit) = (from_walker.clone(), quit.clone());
            let done_in = messages_in.clone();
            scope.spawn(move || {
                let _watch = Watch(done_in.clone());
                work(context, &work_from, helped, &quit, &done_in);
            });
        }
        drop((messages_in, from_walker));
        let outcome = emitter.run(&messages, &window);
        if outcome.is_err() {
            context.stop.fail();
        }
        drop((quit_in, window, messages));
        outcome
    })
}

enum Message {
    Done(Result<Done, TreeError>),
    Walked(Result<WalkEnd, TreeError>),
    /// A thread panicked.
    Died,
}

struct WalkEnd {
    batches: u64,
    excluded: u64,
    lost_parents: Vec<TreeError>,
}

/// Tells the emitter of a panic, which would otherwise wait for ever.
struct Watch(Sender<Message>);

impl Drop for Watch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.send(Message::Died);
        }
    }
}

fn walk(
    mut batcher: Batcher<'_>,
    context: &Context<'_>,
    window: &Sender<()>,
    to_workers: &Sender<Batch>,
) -> Result<WalkEnd, TreeError> {
    let mut count = 0;
    while let Some(batch) = batcher.next()? {
        Progress::add(&context.progress.found, batch.items.len() as u64);
        count += 1;
        // The emitter has gone: it has the reason.
        if window.send(()).is_err() || to_workers.send(batch).is_err() {
            break;
        }
    }
    if context.stop.is_cancelled() {
        return Err(TreeError::Cancelled);
    }
    context.progress.walked.store(true, Ordering::Relaxed);
    let excluded = batcher.excluded();
    Ok(WalkEnd { batches: count, excluded, lost_parents: batcher.lost_parents })
}

fn work(
    context: &Context<'_>,
    batches: &Receiver<Batch>,
    help: &Receiver<Arc<Large>>,
    quit: &Receiver<()>,
    messages: &Sender<Message>,
) {
    let closed = never();
    let mut batches = batches;
    loop {
        // Finishing a large file frees the line for everybody.
        if let Ok(large) = help.try_recv() {
            large.help(context);
            continue;
        }
        select! {
            recv(help) -> large => {
                if let Ok(large) = large {
                    large.help(context);
                }
            }
            recv(batches) -> batch => match batch {
                Ok(batch) => {
                    let done = capture_batch(context, batch);
                    let failed = done.is_err();
                    if messages.send(Message::Done(done)).is_err() || failed {
                        return;
                    }
                }
                // There may still be large files to help with.
                Err(_) => batches = &closed,
            },
            recv(quit) -> _ => return,
        }
    }
}

/// Puts what the workers made into order and into the tree.
struct Emitter<'a, 'h> {
    context: &'a Context<'a>,
    writer: TreeWriter<'a>,
    hooks: &'h mut dyn BackupHooks,
    issues: Issues,
    excluded: u64,
    entries_at_checkpoint: u64,
    scratch: &'a Path,
}

impl Emitter<'_, '_> {
    fn run(
        mut self,
        messages: &Receiver<Message>,
        window: &Receiver<()>,
    ) -> Result<TreeOutcome, TreeError> {
        match self.emit_all(messages, window) {
            Ok(()) => {}
            Err(TreeError::Cancelled) => {
                if self.writer.so_far().entries > self.entries_at_checkpoint {
                    self.checkpoint()?;
                }
                return Err(TreeError::Cancelled);
            }
            Err(error) => return Err(error),
        }
        let totals = self.totals();
        Ok(TreeOutcome { root: self.writer.finish()?, totals, issues: self.issues })
    }

    fn emit_all(
        &mut self,
        messages: &Receiver<Message>,
        window: &Receiver<()>,
    ) -> Result<(), TreeError> {
        let mut waiting: BTreeMap<u64, Done> = BTreeMap::new();
        let mut next = 0;
        let mut end = u64::MAX;
        while next < end {
            if self.context.stop.is_cancelled() {
                return Err(TreeError::Cancelled);
            }
            match messages.recv_timeout(ASK_EVERY) {
                Ok(Message::Done(done)) => {
                    let done = done?;
                    waiting.insert(done.seq, done);
                }
                Ok(Message::Walked(walked)) => {
                    let walked = walked?;
                    end = walked.batches;
                    self.excluded = walked.excluded;
                    for error in &walked.lost_parents {
                        self.hooks.parent_lost(error);
                    }
                }
                Ok(Message::Died) | Err(RecvTimeoutError::Disconnected) => {
                    return Err(TreeError::Cancelled);
                }
                Err(RecvTimeoutError::Timeout) => self.offer_checkpoint()?,
            }
            while let Some(done) = waiting.remove(&next) {
                self.emit(done)?;
                next += 1;
                let _ = window.try_recv();
                self.offer_checkpoint()?;
            }
        }
        Ok(())
    }

    fn emit(&mut self, done: Done) -> Result<(), TreeError> {
        for issue in done.issues {
            self.add_issue(issue);
        }
        for captured in done.captured {
            if let Some(captured) = self.settle_links(captured, position(done.seq, 0))? {
                self.push(captured)?;
            }
        }
        let so_far = self.writer.so_far();
        let progress = self.context.progress;
        progress.entries.store(so_far.entries, Ordering::Relaxed);
        progress.files.store(so_far.files, Ordering::Relaxed);
        progress.bytes.store(so_far.bytes, Ordering::Relaxed);
        Ok(())
    }

    fn push(&mut self, captured: Captured) -> Result<(), TreeError> {
        let Captured { entry, is_unchanged, .. } = captured;
        if !fits(&entry) {
            let (path, kind, detail) = (entry.path, IssueKind::TooLarge, String::new());
            self.add_issue(Issue { path, kind, detail });
            return Ok(());
        }
        let is_content = !matches!(entry.content, Content::HardLink(_));
        if is_unchanged && entry.kind == EntryKind::File && is_content {
            Progress::add(&self.context.progress.unchanged_files, 1);
        }
        self.writer.push(entry)
    }

    /// Turns further links into links; captures what has no content and needs it after all.
    fn settle_links(
        &mut self,
        mut captured: Captured,
        position: u64,
    ) -> Result<Option<Captured>, TreeError> {
        let Some(key) = captured.link else { return Ok(Some(captured)) };
        let (path, nlink) = (&captured.entry.path, captured.entry.meta.nlink);
        let turn = self.context.links.turn(key, position, nlink, path);
        let turn =
            turn.map_err(|source| TreeError::Scratch { path: self.scratch.to_owned(), source })?;
        match (turn, captured.retry.take()) {
            (Turn::Further(first), _) => {
                captured.entry.content = Content::HardLink(first);
                captured.entry.extents = Vec::new();
                captured.entry.meta.xattrs = Vec::new();
                Ok(Some(captured))
            }
            (_, None) => Ok(Some(captured)),
            (turn, Some(found)) => {
                let (again, issues) = capture_again(self.context, *found)?;
                for issue in issues {
                    self.add_issue(issue);
                }
                if again.is_none() && turn == Turn::First {
                    self.context.links.withdraw(key);
                }
                Ok(again)
            }
        }
    }

    fn add_issue(&mut self, issue: Issue) {
        self.hooks.issue(&issue);
        self.issues.add(issue);
    }

    fn totals(&self) -> Totals {
        Totals { excluded: self.excluded, ..self.context.progress.totals() }
    }

    fn offer_checkpoint(&mut self) -> Result<(), TreeError> {
        let totals = self.totals();
        if self.hooks.wants_checkpoint(&totals) { self.checkpoint() } else { Ok(()) }
    }

    fn checkpoint(&mut self) -> Result<(), TreeError> {
        let root = self.writer.checkpoint()?;
        self.entries_at_checkpoint = self.writer.so_far().entries;
        self.hooks.checkpoint(&root, &self.totals())
    }
}

//! What the workers of a restore do, and what they share.

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender};
use repo_format::error::FormatError;
use repo_format::id::ChunkId;
use repo_format::pack::PackKind;
use repo_format::tree::{Content, Entry, EntryKind};
use repository::RepositoryError;

use super::RestoreOptions;
use super::file::FileJob;
use super::special::Special;
use crate::tree::beneath::lock;
use crate::tree::error::{Issue, IssueKind, display_path};
use crate::tree::{BatchSource, Progress, Stop, TreeError};

/// What all threads of a restore share.
pub(super) struct Shared<'a> {
    pub(super) source: &'a dyn BatchSource,
    pub(super) options: &'a RestoreOptions,
    pub(super) progress: &'a Progress,
    pub(super) stop: &'a Stop<'a>,
    /// To the planner, which tells the caller.
    pub(super) issues: Sender<Issue>,
    pub(super) failure: Mutex<Option<TreeError>>,
}

impl Shared<'_> {
    /// Names an entry.
    pub(super) fn issue(&self, path: &[u8], kind: IssueKind, detail: String) {
        // The planner has gone only if the restore has failed anyway.
        let _ = self.issues.send(Issue { path: path.to_vec(), kind, detail });
    }

    /// Ends the restore; the first reason counts.
    pub(super) fn fail(&self, error: TreeError) {
        lock(&self.failure).get_or_insert(error);
        self.stop.fail();
    }

    /// Whether an error concerns the target as a whole, in which case the restore ends.
    pub(super) fn is_fatal(&self, path: &[u8], error: &io::Error) -> bool {
        let fatal = [
            libc::ENOSPC,
            libc::EDQUOT,
            libc::EROFS,
            libc::EIO,
            libc::EMFILE,
            libc::ENFILE,
            libc::ENOMEM,
        ];
        let Some(code) = error.raw_os_error().filter(|code| fatal.contains(code)) else {
            return false;
        };
        let source = io::Error::from_raw_os_error(code);
        self.fail(TreeError::Target { path: display_path(path), source });
        true
    }

    /// Names an entry whose attributes could not all be set.
    pub(super) fn attributes_done(&self, entry: &Entry, failed: &[String]) {
        if !failed.is_empty() {
            self.issue(&entry.path, IssueKind::NotAllMetadata, failed.join("; "));
        }
    }

    /// Counts an entry that is there now.
    pub(super) fn count(&self, entry: &Entry) {
        Progress::add(&self.progress.entries, 1);
        if entry.kind == EntryKind::File && !matches!(entry.content, Content::HardLink(_)) {
            Progress::add(&self.progress.files, 1);
            Progress::add(&self.progress.bytes, entry.meta.size);
        }
    }
}

/// A write: some bytes of a chunk to some place of a file.
#[derive(Debug)]
pub(super) struct Op {
    /// In the chunk.
    pub(super) offset: u32,
    pub(super) len: u32,
    pub(super) file: Arc<FileJob>,
    /// In the file.
    pub(super) at: u64,
}

/// A chunk and all writes from it.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) id: ChunkId,
    pub(super) ops: Vec<Op>,
}

/// A piece of work.
pub(super) struct Job {
    pub(super) task: Task,
    /// Of the window it belongs to.
    pub(super) countdown: Arc<Countdown>,
}

/// What a piece of work is.
pub(super) enum Task {
    Fetch(Vec<Wanted>),
    Make(Vec<Special>),
}

/// Counts the jobs of a window down.
#[derive(Debug, Default)]
pub(super) struct Countdown {
    left: Mutex<usize>,
    done: Condvar,
}

impl Countdown {
    pub(super) fn add(&self, jobs: usize) {
        *lock(&self.left) += jobs;
    }

    pub(super) fn wait(&self) {
        let mut left = lock(&self.left);
        while *left > 0 {
            left = self.done.wait(left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Takes one off a countdown however the work ends.
struct Finish<'a>(&'a Countdown, &'a Shared<'a>);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.1.stop.fail();
        }
        *lock(&self.0.left) -= 1;
        self.0.done.notify_all();
    }
}

/// Works until there is no more.
pub(super) fn work(shared: &Shared<'_>, jobs: &Receiver<Job>) {
    for job in jobs {
        let _finish = Finish(&job.countdown, shared);
        // Jobs that are left are taken and dropped, so that nobody waits for them.
        if shared.stop.is_set() {
            continue;
        }
        match job.task {
            Task::Fetch(wanted) => fetch(shared, &wanted),
            Task::Make(specials) => {
                for special in specials {
                    if !shared.stop.is_set() {
                        special.restore(shared);
                    }
                }
            }
        }
    }
}

fn fetch(shared: &Shared<'_>, wanted: &[Wanted]) {
    let ids: Vec<ChunkId> = wanted.iter().map(|chunk| chunk.id).collect();
    let fetched = shared.source.get_many(PackKind::Data, &ids, &mut |at, plain| {
        if let Some(chunk) = wanted.get(at) {
            write_chunk(shared, chunk, plain.as_ref());
        }
        if shared.stop.is_set() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if let Err(error) = fetched {
        shared.fail(error.into());
    }
}

fn write_chunk(shared: &Shared<'_>, chunk: &Wanted, plain: Result<&&[u8], &RepositoryError>) {
    for op in &chunk.ops {
        match plain {
            Ok(plain) => {
                let (start, len) = (op.offset as usize, op.len as usize);
                let part = start.checked_add(len).and_then(|end| plain.get(start..end));
                if let Some(part) = part {
                    op.file.write(shared, part, op.at);
                } else {
                    let detail = FormatError::Inconsistent { what: "slice" }.to_string();
                    op.file.fail(shared, IssueKind::Damaged, detail);
                }
            }
            Err(error) => op.file.fail(shared, IssueKind::Damaged, error.to_string()),
        }
        op.file.finish_write(shared);
    }
}

/// A path of the target for an error.
pub(super) fn target_error(path: PathBuf, source: io::Error) -> TreeError {
    TreeError::Target { path, source }
}

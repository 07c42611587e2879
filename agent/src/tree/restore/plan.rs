//! A window: the work of some thousand entries, put into the order of what is stored.

use std::collections::HashMap;
use std::sync::Arc;

use repo_format::id::ChunkId;
use repo_format::pack::PackKind;
use repo_format::tree::Entry;
use rustix::fd::OwnedFd;

use super::file::FileJob;
use super::special::Special;
use super::work::{Op, Task, Wanted};
use crate::tree::{BatchSource, TreeError};

/// Entries without chunks per job.
const SPECIALS_PER_JOB: usize = 64;
/// Bytes to write per job, about.
const JOB_BYTES: u64 = 4 << 20;
/// Chunks per job.
const JOB_CHUNKS: usize = 64;

const WRITES_MAX: usize = 16_384;
const SPECIALS_MAX: usize = 4096;
const BYTES_MAX: u64 = 256 << 20;
const DIRS_MAX: usize = 160;
/// Files that stay open because their bytes come from several chunks.
const OPEN_FILES_MAX: usize = 96;

/// A further link to make.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) dir: Arc<OwnedFd>,
    pub(super) name: Vec<u8>,
    pub(super) entry: Entry,
    /// Below the target.
    pub(super) first: Vec<u8>,
}

/// A directory of which everything is restored but its attributes.
#[derive(Debug)]
pub(super) struct Closing {
    /// `None` if it was closed on the way.
    pub(super) dir: Option<Arc<OwnedFd>>,
    /// Below the target.
    pub(super) path: Vec<u8>,
    pub(super) entry: Entry,
    pub(super) existed: bool,
}

/// Entries planned and not yet handed to the workers.
#[derive(Debug, Default)]
pub(super) struct Window {
    chunks: Vec<Wanted>,
    at: HashMap<ChunkId, usize>,
    specials: Vec<Special>,
    writes: usize,
    bytes: u64,
    dirs: usize,
    open_files: usize,
    /// To make when the jobs of this window and all before it are done.
    pub(super) links: Vec<Link>,
    /// To finish after the links, in this order: children come before their parents.
    pub(super) closings: Vec<Closing>,
}

impl Window {
    pub(super) fn write(&mut self, chunk: ChunkId, op: Op) {
        self.writes += 1;
        self.bytes += u64::from(op.len);
        let at = *self.at.entry(chunk).or_insert_with(|| {
            self.chunks.push(Wanted { id: chunk, ops: Vec::new() });
            self.chunks.len() - 1
        });
        if let Some(wanted) = self.chunks.get_mut(at) {
            wanted.ops.push(op);
        }
    }

    pub(super) fn special(&mut self, special: Special) {
        self.specials.push(special);
    }

    pub(super) const fn count_dir(&mut self) {
        self.dirs += 1;
    }

    /// A file with writes from several chunks was added.
    pub(super) const fn count_open_file(&mut self) {
        self.open_files += 1;
    }

    pub(super) fn is_full(&self) -> bool {
        self.writes >= WRITES_MAX
            || self.specials.len() >= SPECIALS_MAX
            || self.bytes >= BYTES_MAX
            || self.dirs >= DIRS_MAX
            || self.open_files >= OPEN_FILES_MAX
            || self.links.len() + self.closings.len() >= SPECIALS_MAX
    }

    /// Splits the work into jobs; what reads chunks first, in the order they are stored.
    pub(super) fn take_tasks(&mut self, source: &dyn BatchSource) -> Result<Vec<Task>, TreeError> {
        let mut tasks = Vec::new();
        let chunks = std::mem::take(&mut self.chunks);
        let ids: Vec<ChunkId> = chunks.iter().map(|chunk| chunk.id).collect();
        let keys = source.locate(PackKind::Data, &ids)?;
        let mut placed: Vec<(u64, Wanted)> = keys.into_iter().zip(chunks).collect();
        placed.sort_by_key(|(place, _)| *place);
        let (mut job, mut bytes) = (Vec::new(), 0);
        for (_, wanted) in placed {
            bytes += wanted.ops.iter().map(|op| u64::from(op.len)).sum::<u64>();
            job.push(wanted);
            if bytes >= JOB_BYTES || job.len() >= JOB_CHUNKS {
                tasks.push(Task::Fetch(std::mem::take(&mut job)));
                bytes = 0;
            }
        }
        if !job.is_empty() {
            tasks.push(Task::Fetch(job));
        }
        let mut specials = std::mem::take(&mut self.specials).into_iter().peekable();
        while specials.peek().is_some() {
            tasks.push(Task::Make(specials.by_ref().take(SPECIALS_PER_JOB).collect()));
        }
        Ok(tasks)
    }

    /// Adds a write of a file and announces it.
    pub(super) fn announce(&mut self, chunk: ChunkId, file: &Arc<FileJob>, op: (u32, u32, u64)) {
        let (offset, len, at) = op;
        file.expect_write();
        self.write(chunk, Op { offset, len, file: Arc::clone(file), at });
    }
}

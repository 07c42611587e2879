//! Captures one entry: what it is, its attributes, its bytes.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crossbeam_channel::Sender;
use repo_format::chunker::Chunker;
use repo_format::id::ChunkId;
use repo_format::limits::{INLINE_BYTES_MAX, PATH_BYTES_MAX};
use repo_format::pack::PackKind;
use repo_format::tree::{Content, Entry, EntryKind, Extent, Meta, Slice, Time, Xattr};
use repository::chunks::ChunkSink;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};

use super::batch::{Batch, Item};
use super::beneath::{Stat, lock, proc_path};
use super::error::{Issue, IssueKind};
use super::large::{Large, read_full};
use super::links::{Claim, LinkKey, Links};
use super::slices::Slices;
use super::sparse::{data_extents, recorded_extents};
use super::walk::{Found, io_issue};
use super::writer::fits_a_page;
use super::xattrs::Xattrs;
use super::{BatchSource, Progress, Stop, TreeError};

/// Files with at least this much data have chunks of their own; smaller ones share.
const LARGE_BYTES: u64 = 512 << 10;
/// Most bytes of shared chunks.
const SHARED_BYTES: usize = 1 << 20;
/// Times a file that keeps changing is read.
const READS_MAX: u32 = 3;
/// A file that changed so shortly before it was read may change once more without its times
/// telling: the kernel's clock for them ticks at 100 to 1,000 Hz.
const TICK_NANOS: i128 = 20_000_000;
/// The same for file systems that keep whole seconds.
const COARSE_TICK_NANOS: i128 = 2_000_000_000;

/// What capturing needs; shared by all workers of a run.
pub(super) struct Context<'a> {
    pub(super) sink: &'a dyn ChunkSink,
    pub(super) chunker: &'a Chunker,
    pub(super) has_chunk: &'a (dyn Fn(PackKind, &ChunkId) -> bool + Sync),
    /// Gives the parents' lists of slices.
    pub(super) parents: Option<&'a dyn BatchSource>,
    pub(super) progress: &'a Progress,
    pub(super) stop: &'a Stop<'a>,
    pub(super) links: &'a Links,
    /// Bounds the buffers of large files.
    pub(super) buffers: Gate,
    /// Where workers that have nothing else to do look for large files to help with.
    pub(super) help: Sender<Arc<Large>>,
    pub(super) helpers: usize,
}

impl Context<'_> {
    pub(super) fn is_cancelled(&self) -> bool {
        self.stop.is_set()
    }

    /// Buffer for cutting a large file: the greatest chunk, and as much again to cut from.
    pub(super) fn buffer_bytes(&self) -> usize {
        2 * self.chunker.sizes().max as usize
    }

    pub(super) fn count_read(&self, bytes: usize) {
        Progress::add(&self.progress.moved_bytes, bytes as u64);
    }
}

/// Admits so many bytes at once, or one request that exceeds them.
#[derive(Debug)]
pub(super) struct Gate {
    bytes: usize,
    used: Mutex<usize>,
    freed: Condvar,
}

/// Bytes admitted by a [`Gate`].
pub(super) struct Admitted<'a> {
    gate: &'a Gate,
    bytes: usize,
}

impl Gate {
    pub(super) fn new(bytes: usize) -> Self {
        Self { bytes, used: Mutex::new(0), freed: Condvar::new() }
    }

    pub(super) fn admit(&self, bytes: usize) -> Admitted<'_> {
        let mut used = lock(&self.used);
        while *used > 0 && *used + bytes > self.bytes {
            used = self.freed.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        *used += bytes;
        Admitted { gate: self, bytes }
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        *lock(&self.gate.used) -= self.bytes;
        self.gate.freed.notify_all();
    }
}

/// Why a file's bytes could not be had.
#[derive(Debug)]
pub(super) enum ReadError {
    /// The file: it is named, the run goes on.
    Io(io::Error),
    /// The run cannot go on.
    Fatal(TreeError),
}

impl From<TreeError> for ReadError {
    fn from(error: TreeError) -> Self {
        Self::Fatal(error)
    }
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A captured entry.
#[derive(Debug)]
pub(super) struct Captured {
    pub(super) entry: Entry,
    /// It has several links.
    pub(super) link: Option<LinkKey>,
    /// Set if it was taken for a further link and has no content: how to capture it if it is not.
    pub(super) retry: Option<Box<Found>>,
    pub(super) is_unchanged: bool,
}

/// What a worker made of a [`Batch`].
#[derive(Debug)]
pub(super) struct Done {
    pub(super) seq: u64,
    pub(super) captured: Vec<Captured>,
    pub(super) issues: Vec<Issue>,
}

/// Position in the order of emission.
pub(super) fn position(seq: u64, at: usize) -> u64 {
    seq << 16 | at as u64
}

/// Captures all entries of a batch.
pub(super) fn capture_batch(context: &Context<'_>, batch: Batch) -> Result<Done, TreeError> {
    let mut worker = Worker::new(context, batch.issues);
    for (at, item) in batch.items.into_iter().enumerate() {
        if context.is_cancelled() {
            return Err(TreeError::Cancelled);
        }
        worker.capture(item, position(batch.seq, at), false)?;
    }
    worker.flush()?;
    Ok(Done { seq: batch.seq, captured: worker.captured, issues: worker.issues })
}

/// Captures an entry with its content, whatever other links there are.
pub(super) fn capture_again(
    context: &Context<'_>,
    found: Found,
) -> Result<(Option<Captured>, Vec<Issue>), TreeError> {
    let mut worker = Worker::new(context, Vec::new());
    worker.capture(Item { found, before: Vec::new() }, 0, true)?;
    worker.flush()?;
    Ok((worker.captured.pop(), worker.issues))
}

struct Worker<'a> {
    context: &'a Context<'a>,
    captured: Vec<Captured>,
    issues: Vec<Issue>,
    /// Bytes of small files that will be one chunk, and whose they are.
    shared: Vec<u8>,
    members: Vec<Member>,
    /// The chunk that was last asked for.
    known: Option<(ChunkId, bool)>,
}

struct Member {
    captured_at: usize,
    offset: usize,
    len: usize,
}

/// A file's bytes as captured.
struct Bytes {
    content: Content,
    extents: Vec<Extent>,
    size: u64,
    /// In the shared chunk, to be named when that is put.
    shared: Option<(usize, usize)>,
}

impl<'a> Worker<'a> {
    fn new(context: &'a Context<'a>, issues: Vec<Issue>) -> Self {
        Self {
            context,
            captured: Vec::new(),
            issues,
            shared: Vec::new(),
            members: Vec::new(),
            known: None,
        }
    }

    /// Captures an item, or names why not.
    fn capture(&mut self, item: Item, position: u64, is_again: bool) -> Result<(), TreeError> {
        let path = item.found.path.clone();
        match self.try_capture(item, position, is_again) {
            Ok(()) => Ok(()),
            Err(ReadError::Io(error)) => {
                self.issues.push(io_issue(path, &error));
                // What was read of it.
                let end = self.members.last().map_or(0, |member| member.offset + member.len);
                self.shared.truncate(end);
                Ok(())
            }
            Err(ReadError::Fatal(error)) => Err(error),
        }
    }

    fn try_capture(&mut self, item: Item, position: u64, is_again: bool) -> Result<(), ReadError> {
        let Item { mut found, before } = item;
        let stat = match (found.stat.take(), &found.parent) {
            (Some(stat), _) => Some(stat),
            // Opening tells, unless there is hope that it need not be opened.
            (None, Some(_)) if found.is_file && before.is_empty() => None,
            (None, Some(parent)) => Some(Stat::at(&**parent, found.name())?),
            (None, None) => None,
        };
        if let Some(stat) = &stat
            && let Some(entry) = self.unchanged(stat, before)
        {
            self.reuse(found, stat, entry);
            return Ok(());
        }
        match stat {
            Some(stat) if stat.kind != EntryKind::File => self.capture_special(&found, stat),
            stat => self.capture_file(found, stat.as_ref(), position, is_again),
        }
    }

    /// The parent entry that is this very state of this very inode, and whose chunks are there.
    fn unchanged(&mut self, stat: &Stat, before: Vec<Entry>) -> Option<Entry> {
        before.into_iter().find(|entry| is_same_state(entry, stat) && self.has_content(entry))
    }

    fn has_content(&mut self, entry: &Entry) -> bool {
        match &entry.content {
            Content::Slices(slices) => slices.iter().all(|slice| self.has_chunk(&slice.chunk)),
            Content::Indirect(_) => {
                let Some(source) = self.context.parents else { return false };
                let mut slices = Slices::new(source, &entry.content);
                loop {
                    match slices.next() {
                        Ok(Some(slice)) if self.has_chunk(&slice.chunk) => {}
                        Ok(None) => return true,
                        // What cannot be checked is read again.
                        Ok(Some(_)) | Err(_) => return false,
                    }
                }
            }
            _ => true,
        }
    }

    fn has_chunk(&mut self, id: &ChunkId) -> bool {
        match self.known {
            Some((known, is_there)) if known == *id => is_there,
            _ => {
                let is_there = (self.context.has_chunk)(PackKind::Data, id);
                self.known = Some((*id, is_there));
                is_there
            }
        }
    }

    fn reuse(&mut self, found: Found, stat: &Stat, before: Entry) {
        let meta = Meta { xattrs: before.meta.xattrs, ..stat.meta.clone() };
        let is_further_link = matches!(before.content, Content::HardLink(_));
        let content = if is_further_link { Content::None } else { before.content };
        let path = found.path.clone();
        let entry = Entry { path, kind: stat.kind, meta, content, extents: before.extents };
        self.captured.push(Captured {
            link: link_key(&entry),
            entry,
            retry: is_further_link.then(|| Box::new(found)),
            is_unchanged: true,
        });
    }

    fn capture_special(&mut self, found: &Found, stat: Stat) -> Result<(), ReadError> {
        let mut meta = stat.meta;
        let content = match (&found.parent, stat.kind) {
            (Some(parent), EntryKind::Symlink) => Content::Symlink(
                rustix::fs::readlinkat(&**parent, found.name(), Vec::new())
                    .map_err(io::Error::from)?
                    .into_bytes(),
            ),
            _ => Content::None,
        };
        let xattrs = match (&found.own, &found.parent) {
            (Some(own), _) => Xattrs::Open(own.as_fd()).read(),
            (None, Some(parent)) => Xattrs::Path(proc_path(parent.as_fd(), found.name())).read(),
            (None, None) => Ok(Vec::new()),
        };
        meta.xattrs = self.or_issue(&found.path, xattrs);
        let path = found.path.clone();
        let entry = Entry { path, kind: stat.kind, meta, content, extents: Vec::new() };
        self.push(entry, None);
        Ok(())
    }

    /// Attributes that cannot be read are named; the file is captured without them.
    fn or_issue(&mut self, path: &[u8], xattrs: io::Result<Vec<Xattr>>) -> Vec<Xattr> {
        xattrs.unwrap_or_else(|error| {
            let (kind, detail) = (IssueKind::Attributes, error.to_string());
            self.issues.push(Issue { path: path.to_vec(), kind, detail });
            Vec::new()
        })
    }

    fn capture_file(
        &mut self,
        found: Found,
        stat: Option<&Stat>,
        position: u64,
        is_again: bool,
    ) -> Result<(), ReadError> {
        let Some(parent) = found.parent.clone() else { return Ok(()) };
        if let Some(stat) = stat
            && self.is_claimed(&found, stat, position, is_again)
        {
            self.push_further_link(found, stat);
            return Ok(());
        }
        let fd = open_for_reading(&*parent, found.name())?;
        let mut before = Stat::of(&fd)?;
        if before.kind != EntryKind::File {
            // Replaced since the directory was read.
            let stat = Stat::at(&*parent, found.name())?;
            if stat.kind == EntryKind::File || stat.kind == EntryKind::Dir {
                return Err(io::Error::from_raw_os_error(libc::ENOENT).into());
            }
            return self.capture_special(&found, stat);
        }
        if stat.is_none() && self.is_claimed(&found, &before, position, is_again) {
            self.push_further_link(found, &before);
            return Ok(());
        }
        let mut fd = fd;
        for attempt in 1.. {
            let read;
            (fd, read) = self.read_bytes(fd, &before)?;
            let after = Stat::of(&fd)?;
            let is_stable = is_same_content(&before, &after) && read.size == before.meta.size;
            if is_stable || attempt >= READS_MAX {
                if !is_stable {
                    let (path, kind) = (found.path.clone(), IssueKind::ChangedWhileRead);
                    self.issues.push(Issue { path, kind, detail: String::new() });
                }
                let xattrs = Xattrs::Open(fd.as_fd()).read();
                before.meta.xattrs = self.or_issue(&found.path, xattrs);
                self.push_file(found.path, before, read);
                break;
            }
            if let Some((offset, _)) = read.shared {
                self.shared.truncate(offset);
            }
            before = after;
        }
        Ok(())
    }

    /// Whether an earlier entry has or will have this file's content.
    fn is_claimed(&mut self, found: &Found, stat: &Stat, position: u64, is_again: bool) -> bool {
        if stat.meta.nlink < 2 || is_again {
            return false;
        }
        let key = (stat.meta.dev, stat.meta.ino);
        match self.context.links.claim(key, position, stat.meta.nlink) {
            Claim::Read => false,
            Claim::Skip => true,
            Claim::Forget => {
                let (path, detail) = (found.path.clone(), String::new());
                self.issues.push(Issue { path, kind: IssueKind::LinkForgotten, detail });
                false
            }
        }
    }

    fn push_further_link(&mut self, found: Found, stat: &Stat) {
        let (path, meta) = (found.path.clone(), stat.meta.clone());
        let (content, extents) = (Content::None, Vec::new());
        let entry = Entry { path, kind: EntryKind::File, meta, content, extents };
        self.push(entry, Some(Box::new(found)));
    }

    fn push_file(&mut self, path: Vec<u8>, stat: Stat, bytes: Bytes) {
        let mut meta = stat.meta;
        meta.size = bytes.size;
        if is_racy(&meta) {
            meta.ctime = Time::default();
        }
        if let Some((offset, len)) = bytes.shared {
            self.members.push(Member { captured_at: self.captured.len(), offset, len });
        }
        let Bytes { content, extents, .. } = bytes;
        self.push(Entry { path, kind: EntryKind::File, meta, content, extents }, None);
    }

    fn push(&mut self, entry: Entry, retry: Option<Box<Found>>) {
        let link = link_key(&entry);
        self.captured.push(Captured { entry, link, retry, is_unchanged: false });
    }

    /// Reads a file once. `stat` says how much to expect.
    fn read_bytes(&mut self, fd: OwnedFd, stat: &Stat) -> Result<(OwnedFd, Bytes), ReadError> {
        let size = stat.meta.size;
        let is_sparse = stat.blocks.saturating_mul(512) < size;
        let data = if is_sparse {
            data_extents(&fd, size)?
        } else {
            vec![Extent { offset: 0, len: size }]
        };
        let data_bytes: u64 = data.iter().map(|extent| extent.len).sum();
        if data_bytes >= LARGE_BYTES {
            return self.read_large(fd, data, size);
        }
        let len = usize::try_from(data_bytes).unwrap_or(usize::MAX);
        if self.shared.len() + len > SHARED_BYTES {
            self.flush()?;
        }
        let first = self.shared.len();
        self.shared.resize(first + len, 0);
        let (mut at, mut end) = (first, None);
        for extent in &data {
            let want = usize::try_from(extent.len).unwrap_or(usize::MAX);
            let part = self.shared.get_mut(at..at + want).unwrap_or_default();
            let got = read_full(&fd, part, extent.offset)?;
            self.context.count_read(got);
            at += got;
            if got < want {
                end = Some(extent.offset + got as u64);
                break;
            }
        }
        self.shared.truncate(at);
        let extents = recorded_extents(data, size, end);
        let len = at - first;
        let mut bytes =
            Bytes { content: Content::None, extents, size: end.unwrap_or(size), shared: None };
        if len as u64 <= INLINE_BYTES_MAX {
            if len > 0 {
                bytes.content =
                    Content::Inline(self.shared.get(first..).unwrap_or_default().to_vec());
            }
            self.shared.truncate(first);
        } else {
            bytes.shared = Some((first, len));
        }
        Ok((fd, bytes))
    }

    fn read_large(
        &mut self,
        fd: OwnedFd,
        data: Vec<Extent>,
        size: u64,
    ) -> Result<(OwnedFd, Bytes), ReadError> {
        // Sequential reads deserve the kernel's larger read-ahead; that it may refuse is no harm.
        let _ = rustix::fs::fadvise(&fd, 0, None, rustix::fs::Advice::Sequential);
        let large = Arc::new(Large::new(fd, data));
        let helpers = large.regions().saturating_sub(1).min(self.context.helpers as u64);
        for _ in 0..helpers {
            if self.context.help.try_send(Arc::clone(&large)).is_err() {
                break;
            }
        }
        let whole = large.read(self.context)?;
        let fd = match Arc::try_unwrap(large) {
            Ok(large) => large.into_fd(),
            Err(large) => large.fd().try_clone()?,
        };
        let extents = recorded_extents(whole.data, size, whole.end);
        let size = whole.end.unwrap_or(size);
        Ok((fd, Bytes { content: whole.content, extents, size, shared: None }))
    }

    /// Puts the shared chunk and tells its members where they are.
    fn flush(&mut self) -> Result<(), TreeError> {
        if !self.members.is_empty() {
            let chunk = self.context.sink.put(PackKind::Data, &self.shared)?;
            for member in self.members.drain(..) {
                let Some(captured) = self.captured.get_mut(member.captured_at) else { continue };
                captured.entry.content = Content::Slices(vec![Slice {
                    chunk,
                    offset: u32::try_from(member.offset).unwrap_or(u32::MAX),
                    len: u32::try_from(member.len).unwrap_or(u32::MAX),
                }]);
            }
        }
        self.shared.clear();
        Ok(())
    }
}

/// Whether the entry fits the format. Only monstrous attributes or paths do not.
pub(super) fn fits(entry: &Entry) -> bool {
    fits_a_page(entry)
        && match &entry.content {
            Content::Symlink(target) => target.len() as u64 <= PATH_BYTES_MAX,
            _ => true,
        }
}

fn link_key(entry: &Entry) -> Option<LinkKey> {
    let has_links = entry.kind != EntryKind::Dir && entry.meta.nlink > 1;
    has_links.then_some((entry.meta.dev, entry.meta.ino))
}

/// Device numbers do not count: they may differ after a reboot.
fn is_same_state(entry: &Entry, stat: &Stat) -> bool {
    let (a, b) = (&entry.meta, &stat.meta);
    entry.kind == stat.kind
        && (a.size, a.mtime, a.ctime, a.ino) == (b.size, b.mtime, b.ctime, b.ino)
}

fn is_same_content(a: &Stat, b: &Stat) -> bool {
    (a.meta.size, a.meta.mtime, a.meta.ctime) == (b.meta.size, b.meta.mtime, b.meta.ctime)
}

/// Whether a change right after the read could leave the file's times as they are. Such a file
/// is recorded with a `ctime` of 0, so that the next run reads it again.
fn is_racy(meta: &Meta) -> bool {
    let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) else { return false };
    let is_coarse = meta.ctime.nsec == 0 && meta.mtime.nsec == 0;
    let tick = if is_coarse { COARSE_TICK_NANOS } else { TICK_NANOS };
    let changed = i128::from(meta.ctime.sec) * 1_000_000_000 + i128::from(meta.ctime.nsec);
    i128::try_from(now.as_nanos()).is_ok_and(|now| changed > now - tick)
}

fn open_for_reading(dir: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match rustix::fs::openat(dir.as_fd(), name, flags | OFlags::NOATIME, Mode::empty()) {
        // Only the owner may ask for that.
        Err(rustix::io::Errno::PERM) => {
            Ok(rustix::fs::openat(dir.as_fd(), name, flags, Mode::empty())?)
        }
        opened => Ok(opened?),
    }
}

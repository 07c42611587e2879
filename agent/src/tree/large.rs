//! Reads a large file in regions, by several workers at once.
//!
//! A region is 64 MiB of the file's offsets. Each is cut into chunks on its own, so that an
//! unchanged region gives the same chunks, whoever reads it and whatever changed elsewhere. Long
//! runs of zeros become holes.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Condvar, Mutex, PoisonError};

use repo_format::limits::{ENTRY_SLICES_MAX, SLICES_PER_CHUNK};
use repo_format::pack::PackKind;
use repo_format::tree::{Content, Extent, Slice, encode_slices};
use rustix::fd::{AsFd, OwnedFd};

use super::TreeError;
use super::beneath::lock;
use super::capture::{Context, ReadError};
use super::sparse::add_extent;

/// Bytes of file offsets that are chunked on their own.
pub(super) const REGION_BYTES: u64 = 64 << 20;
/// Bytes per read.
const READ_BYTES: usize = 1 << 20;
/// Grain in which zeros are looked for.
const BLOCK_BYTES: usize = 4096;
/// Zeros that are left out, at least.
const ZERO_RUN_BYTES: usize = 64 << 10;
/// Extents of a file that its runs of zeros may add.
const ZERO_RUNS_MAX: u64 = 32_768;
/// Regions that may be done before their turn.
const AHEAD_MAX: u64 = 4096;

/// A file being read.
pub(super) struct Large {
    fd: OwnedFd,
    /// Where its data lies.
    data: Vec<Extent>,
    zero_runs_per_region: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Number and start of the next region.
    next: u64,
    cursor: u64,
    joined: u64,
    running: usize,
    stopped: bool,
    done: BTreeMap<u64, Result<Region, ReadError>>,
}

/// What became of a region.
#[derive(Debug, Default)]
pub(super) struct Region {
    slices: Vec<Slice>,
    data: Vec<Extent>,
    /// The file ended here, earlier than expected.
    end: Option<u64>,
}

/// What became of a file.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) content: Content,
    /// As in an entry, if `size` is the file's size.
    pub(super) data: Vec<Extent>,
    /// Less than expected if the file was cut short meanwhile.
    pub(super) end: Option<u64>,
}

impl Large {
    /// * `data`: the file's data extents, ascending, not empty.
    pub(super) fn new(fd: OwnedFd, data: Vec<Extent>) -> Self {
        let last = data.last().map_or(0, |extent| extent.offset + extent.len);
        let regions = last.div_ceil(REGION_BYTES).max(1);
        Self {
            fd,
            data,
            zero_runs_per_region: ZERO_RUNS_MAX / regions,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// The file again.
    pub(super) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Whether there is more than one region: whether help is of use.
    pub(super) fn regions(&self) -> u64 {
        let last = self.data.last().map_or(0, |extent| extent.offset + extent.len);
        last.div_ceil(REGION_BYTES)
    }

    /// Reads regions until none is left to take.
    pub(super) fn help(&self, context: &Context<'_>) {
        while let Some((number, start)) = self.take() {
            self.run(context, number, start);
        }
    }

    fn run(&self, context: &Context<'_>, number: u64, start: u64) {
        let done = RegionReader::new(self, context, start).read();
        let mut state = lock(&self.state);
        state.running -= 1;
        state.stopped |= done.is_err();
        state.done.insert(number, done);
        drop(state);
        self.changed.notify_all();
    }

    /// Reads the whole file, with what help there is.
    pub(super) fn read(&self, context: &Context<'_>) -> Result<Whole, ReadError> {
        let mut join = Join::default();
        loop {
            let ready = {
                let mut state = lock(&self.state);
                let joined = state.joined;
                let ready = state.done.remove(&joined);
                if ready.is_some() {
                    state.joined += 1;
                }
                ready
            };
            if let Some(region) = ready {
                self.changed.notify_all();
                if join.add(region?, context)? {
                    lock(&self.state).stopped = true;
                }
                continue;
            }
            if let Some((number, start)) = self.take() {
                self.run(context, number, start);
                continue;
            }
            let state = lock(&self.state);
            if state.done.contains_key(&state.joined) {
                continue;
            }
            if state.running == 0 {
                break;
            }
            drop(self.changed.wait(state).unwrap_or_else(PoisonError::into_inner));
        }
        if context.is_cancelled() {
            return Err(TreeError::Cancelled.into());
        }
        join.finish(context)
    }

    /// The next region that has data.
    fn take(&self) -> Option<(u64, u64)> {
        let mut state = lock(&self.state);
        if state.stopped || state.next >= state.joined + AHEAD_MAX {
            return None;
        }
        let at = self.data.partition_point(|extent| extent.offset + extent.len <= state.cursor);
        let extent = self.data.get(at)?;
        let position = extent.offset.max(state.cursor);
        let start = position / REGION_BYTES * REGION_BYTES;
        let number = state.next;
        state.next += 1;
        state.cursor = start + REGION_BYTES;
        state.running += 1;
        Some((number, start))
    }
}

/// Puts regions together again.
#[derive(Default)]
struct Join {
    slices: Vec<Slice>,
    indirect: Vec<repo_format::id::ChunkId>,
    data: Vec<Extent>,
    end: Option<u64>,
}

impl Join {
    /// Adds the next region; true if the file ends with it.
    fn add(&mut self, region: Region, context: &Context<'_>) -> Result<bool, ReadError> {
        if self.end.is_some() {
            return Ok(true);
        }
        for extent in region.data {
            add_extent(&mut self.data, extent);
        }
        self.slices.extend(region.slices);
        while self.slices.len() >= SLICES_PER_CHUNK {
            let rest = self.slices.split_off(SLICES_PER_CHUNK);
            self.put_slices(context)?;
            self.slices = rest;
        }
        self.end = region.end;
        Ok(self.end.is_some())
    }

    fn put_slices(&mut self, context: &Context<'_>) -> Result<(), ReadError> {
        let chunk = context.sink.put(PackKind::Meta, &encode_slices(&self.slices));
        self.indirect.push(chunk.map_err(TreeError::from)?);
        Ok(())
    }

    fn finish(mut self, run: &Context<'_>) -> Result<Whole, ReadError> {
        let content = if self.indirect.is_empty() && self.slices.is_empty() {
            Content::None
        } else if self.indirect.is_empty() && self.slices.len() as u64 <= ENTRY_SLICES_MAX {
            Content::Slices(self.slices)
        } else {
            if !self.slices.is_empty() {
                self.put_slices(run)?;
            }
            Content::Indirect(self.indirect)
        };
        Ok(Whole { content, data: self.data, end: self.end })
    }
}

/// Reads one region.
struct RegionReader<'a> {
    file: &'a Large,
    context: &'a Context<'a>,
    start: u64,
    /// Bytes of data not cut yet.
    buffer: Vec<u8>,
    /// Zeros at the end of `buffer` that may turn out to be a long run, and how many more there
    /// were before it was known to be one.
    zeros: usize,
    dropped_zeros: u64,
    zero_runs_left: u64,
    region: Region,
}

impl<'a> RegionReader<'a> {
    fn new(file: &'a Large, context: &'a Context<'a>, start: u64) -> Self {
        Self {
            file,
            context,
            start,
            buffer: Vec::new(),
            zeros: 0,
            dropped_zeros: 0,
            zero_runs_left: file.zero_runs_per_region,
            region: Region::default(),
        }
    }

    fn read(mut self) -> Result<Region, ReadError> {
        let end = self.start + REGION_BYTES;
        let first = self.file.data.partition_point(|e| e.offset + e.len <= self.start);
        let parts: Vec<(u64, u64)> = (self.file.data.iter().skip(first))
            .take_while(|extent| extent.offset < end)
            .map(|e| (e.offset.max(self.start), (e.offset + e.len).min(end)))
            .collect();
        let bytes: u64 = parts.iter().map(|(start, end)| end - start).sum();
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(self.context.buffer_bytes());
        let _admitted = self.context.buffers.admit(bytes);
        self.buffer.reserve_exact(bytes);
        for (start, end) in parts {
            if !self.read_part(start, end)? {
                break;
            }
        }
        self.cut(true)?;
        Ok(self.region)
    }

    /// Reads one extent; false if the file ended inside it.
    fn read_part(&mut self, start: u64, end: u64) -> Result<bool, ReadError> {
        let mut at = start;
        while at < end {
            if self.context.is_cancelled() {
                return Err(TreeError::Cancelled.into());
            }
            if self.buffer.len() + READ_BYTES > self.context.buffer_bytes() {
                self.cut(false)?;
            }
            let want = usize::try_from(end - at).unwrap_or(READ_BYTES).min(READ_BYTES);
            let old = self.buffer.len();
            self.buffer.resize(old + want, 0);
            let fresh = self.buffer.get_mut(old..).unwrap_or_default();
            let got = read_full(&self.file.fd, fresh, at).map_err(ReadError::Io)?;
            self.buffer.truncate(old + got);
            self.context.count_read(got);
            self.sift(old, at);
            at += got as u64;
            if got < want {
                self.settle_zeros(at);
                self.region.end = Some(at);
                return Ok(false);
            }
        }
        self.settle_zeros(at);
        Ok(true)
    }

    /// Takes long runs of zeros out of the bytes from `old` on, which are at `offset` in the file.
    fn sift(&mut self, old: usize, offset: u64) {
        let fresh_len = self.buffer.len() - old;
        let is_open = self.zeros > 0 || self.dropped_zeros > 0;
        let is_plain = !is_open && !self.has_zero_block(old);
        if is_plain || self.zero_runs_left == 0 {
            add_extent(&mut self.region.data, Extent { offset, len: fresh_len as u64 });
            return;
        }
        let (mut from, mut to) = (old, old);
        while from < old + fresh_len {
            let len = BLOCK_BYTES.min(old + fresh_len - from);
            let at = offset + (from - old) as u64;
            let is_zero = self.buffer.get(from..from + len).is_some_and(is_zero);
            if is_zero && self.zero_runs_left > 0 {
                if self.dropped_zeros > 0 {
                    self.dropped_zeros += len as u64;
                    from += len;
                    continue;
                }
                self.zeros += len;
                self.move_block(from, to, len);
                to += len;
                if self.zeros >= ZERO_RUN_BYTES {
                    to -= self.zeros;
                    self.dropped_zeros = self.zeros as u64;
                    self.zeros = 0;
                }
            } else {
                self.settle_zeros(at);
                self.move_block(from, to, len);
                to += len;
                add_extent(&mut self.region.data, Extent { offset: at, len: len as u64 });
            }
            from += len;
        }
        self.buffer.truncate(to);
    }

    fn move_block(&mut self, from: usize, to: usize, len: usize) {
        if from != to {
            self.buffer.copy_within(from..from + len, to);
        }
    }

    /// A run of zeros, if any, ends at `end`: it is data if it is short, a hole if it is long.
    fn settle_zeros(&mut self, end: u64) {
        if self.dropped_zeros > 0 {
            self.zero_runs_left -= 1;
        } else if self.zeros > 0 {
            let len = self.zeros as u64;
            add_extent(&mut self.region.data, Extent { offset: end - len, len });
        }
        (self.zeros, self.dropped_zeros) = (0, 0);
    }

    fn has_zero_block(&self, from: usize) -> bool {
        self.buffer.get(from..).unwrap_or_default().chunks(BLOCK_BYTES).any(is_zero)
    }

    /// Puts the chunks at the front of the buffer, all of it if `is_last`.
    fn cut(&mut self, is_last: bool) -> Result<(), ReadError> {
        let known = self.buffer.len() - self.zeros;
        let mut at = 0;
        while let Some(rest) = self.buffer.get(at..known) {
            let Some(len) = self.context.chunker.next_cut(rest, is_last) else { break };
            let plain = rest.get(..len).unwrap_or(rest);
            let put = self.context.sink.put(PackKind::Data, plain).map_err(TreeError::from)?;
            let len = u32::try_from(plain.len()).unwrap_or(u32::MAX);
            self.region.slices.push(Slice { chunk: put, offset: 0, len });
            at += plain.len();
        }
        self.buffer.drain(..at);
        Ok(())
    }
}

/// Whether all bytes are zero.
fn is_zero(bytes: &[u8]) -> bool {
    let (head, rest) = bytes.split_at(bytes.len().min(16));
    head.iter().all(|byte| *byte == 0)
        && rest.chunks(64).all(|part| part.iter().fold(0, |or, byte| or | byte) == 0)
}

/// Reads until `buffer` is full or the file ends; gives the bytes read.
pub(super) fn read_full(fd: impl AsFd, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pread(fd.as_fd(), rest, offset + done as u64) {
            Ok(0) => break,
            Ok(got) => done += got,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(done)
}

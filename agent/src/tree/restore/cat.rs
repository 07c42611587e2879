//! Streams the bytes of one file.

use std::io::Write;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use repo_format::error::FormatError;
use repo_format::id::ChunkId;
use repo_format::pack::PackKind;
use repo_format::tree::{Content, Entry, EntryKind, Slice};

use crate::tree::error::display_path;
use crate::tree::reader::TreeReader;
use crate::tree::slices::{Placer, Slices};
use crate::tree::{BatchSource, TreeError};

/// Groups of chunks that are fetched at once, each by a thread of its own.
const AHEAD: usize = 8;
/// A group ends when it has so many bytes of the file.
const GROUP_BYTES: u64 = 4 << 20;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Writes the bytes of the file at `path` to `out`, holes as zeros; gives their number.
///
/// # Errors
///
/// There is no such file, a chunk cannot be had, or `out` failed. What was written then are the
/// file's first bytes.
pub fn restore_file(
    source: &dyn BatchSource,
    root: &ChunkId,
    path: &[u8],
    out: &mut dyn Write,
    cancel: &AtomicBool,
) -> Result<u64, TreeError> {
    let reader = TreeReader::open(source, root)?;
    let missing = || TreeError::NoSuchPath { path: display_path(path) };
    let mut entry = reader.find(path)?.ok_or_else(missing)?;
    if let Content::HardLink(first) = &entry.content {
        entry = reader.find(first)?.ok_or_else(missing)?;
    }
    if entry.kind != EntryKind::File {
        return Err(TreeError::NotAFile { path: display_path(path) });
    }
    let mut writer = Writer { out, at: 0, placer: Placer::new(&entry) };
    if let Content::Inline(bytes) = &entry.content {
        writer.data(bytes)?;
    } else {
        stream(source, &entry, &mut writer, cancel)?;
    }
    writer.zeros_to(entry.meta.size)?;
    Ok(entry.meta.size)
}

/// Slices to fetch together, and where to send their bytes.
type Request = (Vec<Slice>, Sender<Result<Vec<u8>, TreeError>>);

/// Fetches on several threads, writes in order.
fn stream(
    source: &dyn BatchSource,
    entry: &Entry,
    writer: &mut Writer<'_>,
    cancel: &AtomicBool,
) -> Result<(), TreeError> {
    std::thread::scope(|scope| {
        let (requests_in, requests) = bounded::<Request>(AHEAD);
        for _ in 0..AHEAD {
            let requests: Receiver<Request> = requests.clone();
            scope.spawn(move || {
                for (group, reply) in requests {
                    let _ = reply.send(fetch(source, &group));
                }
            });
        }
        drop(requests);
        let mut slices = Slices::new(source, &entry.content);
        let mut waiting = std::collections::VecDeque::new();
        let mut is_end = false;
        loop {
            while waiting.len() < AHEAD && !is_end {
                let group = next_group(&mut slices)?;
                if group.is_empty() {
                    is_end = true;
                } else {
                    let (reply_in, reply) = bounded(1);
                    is_end = requests_in.send((group, reply_in)).is_err();
                    waiting.push_back(reply);
                }
            }
            let Some(reply) = waiting.pop_front() else { return Ok(()) };
            if cancel.load(Ordering::Relaxed) {
                return Err(TreeError::Cancelled);
            }
            // A thread that panicked sends nothing; the scope reports its panic.
            let bytes = reply.recv().map_err(|_| TreeError::Cancelled)??;
            writer.data(&bytes)?;
        }
    })
}

/// Empty at the end.
fn next_group(slices: &mut Slices<'_>) -> Result<Vec<Slice>, TreeError> {
    let (mut group, mut bytes) = (Vec::new(), 0);
    while bytes < GROUP_BYTES
        && let Some(slice) = slices.next()?
    {
        bytes += u64::from(slice.len);
        group.push(slice);
    }
    Ok(group)
}

/// The bytes of a group, each chunk asked for once.
fn fetch(source: &dyn BatchSource, group: &[Slice]) -> Result<Vec<u8>, TreeError> {
    let mut ids: Vec<ChunkId> = group.iter().map(|slice| slice.chunk).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut parts: Vec<Option<Vec<u8>>> = vec![None; group.len()];
    let mut failure = None;
    source.get_many(PackKind::Data, &ids, &mut |at, plain| {
        let id = ids.get(at).copied().unwrap_or(ChunkId::NONE);
        let places = group.iter().zip(&mut parts).filter(|(slice, _)| slice.chunk == id);
        match plain {
            Ok(plain) => places.for_each(|(slice, part)| *part = cut(*slice, plain)),
            Err(error) => failure = Some(TreeError::from(error)),
        }
        if failure.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    let mut bytes = Vec::new();
    for (slice, part) in group.iter().zip(parts) {
        let source = FormatError::Inconsistent { what: "slice" };
        bytes.extend(part.ok_or(TreeError::Damaged { chunk: slice.chunk, source })?);
    }
    Ok(bytes)
}

fn cut(slice: Slice, plain: &[u8]) -> Option<Vec<u8>> {
    let (start, len) = (slice.offset as usize, slice.len as usize);
    let part = start.checked_add(len).and_then(|end| plain.get(start..end));
    part.map(<[u8]>::to_vec)
}

struct Writer<'a> {
    out: &'a mut dyn Write,
    at: u64,
    placer: Placer,
}

impl Writer<'_> {
    /// Writes the next bytes of the file's data, and the hole before them.
    fn data(&mut self, bytes: &[u8]) -> Result<(), TreeError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let Some(place) = self.placer.take(rest.len() as u64) else { return Ok(()) };
            self.zeros_to(place.offset)?;
            let (now, later) =
                rest.split_at(usize::try_from(place.len).unwrap_or(usize::MAX).min(rest.len()));
            self.out.write_all(now).map_err(TreeError::Output)?;
            self.at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    fn zeros_to(&mut self, end: u64) -> Result<(), TreeError> {
        while self.at < end {
            let len = usize::try_from(end - self.at).unwrap_or(usize::MAX).min(ZEROS.len());
            self.out.write_all(ZEROS.get(..len).unwrap_or_default()).map_err(TreeError::Output)?;
            self.at += len as u64;
        }
        Ok(())
    }
}

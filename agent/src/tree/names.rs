//! The names in one directory, sorted, whatever their number.
//!
//! Names are kept in one arena. What exceeds the bound goes to an unlinked scratch file as sorted
//! runs, which are merged while they are read.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, RawDir};

/// Bytes asked of the kernel per call.
const READ_BYTES: usize = 64 << 10;
/// Bytes of a run read at once while merging, at most.
const RUN_READ_BYTES: usize = 64 << 10;

/// One name. `kind` is `None` where the file system does not tell.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) bytes: Vec<u8>,
    pub(super) is_dir: Option<bool>,
    pub(super) is_file: bool,
}

/// The names of a directory in ascending order, each once.
pub(super) enum Names {
    Memory { arena: Arena, next: usize },
    Merge(Merge),
}

impl Names {
    /// Reads all names of `dir` except `.` and `..`, from the first, whatever was read before.
    ///
    /// * `bytes_max`: about how much memory the names may take; more goes to a file in `scratch`.
    pub(super) fn read(
        dir: impl AsFd,
        bytes_max: usize,
        scratch: &Path,
    ) -> Result<Self, NamesError> {
        let rewound = rustix::fs::seek(&dir, rustix::fs::SeekFrom::Start(0));
        rewound.map_err(|errno| NamesError::Directory(errno.into()))?;
        let mut buffer = vec![MaybeUninit::<u8>::uninit(); READ_BYTES];
        let mut raw = RawDir::new(dir, &mut buffer);
        let mut arena = Arena::default();
        let mut spill: Option<Spill> = None;
        while let Some(entry) = raw.next() {
            let entry = entry.map_err(|errno| NamesError::Directory(errno.into()))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            arena.push(name, entry.file_type());
            if arena.used_bytes() > bytes_max {
                let spill = match &mut spill {
                    Some(spill) => spill,
                    none => none.insert(Spill::new(scratch).map_err(NamesError::Scratch)?),
                };
                arena.sort();
                spill.add(&arena).map_err(NamesError::Scratch)?;
                arena.clear();
            }
        }
        arena.sort();
        let Some(mut spill) = spill else {
            arena.shrink();
            return Ok(Self::Memory { arena, next: 0 });
        };
        spill.add(&arena).map_err(NamesError::Scratch)?;
        drop(arena);
        Ok(Self::Merge(spill.merge(bytes_max).map_err(NamesError::Scratch)?))
    }

    /// The next name.
    pub(super) fn next(&mut self) -> Result<Option<Name>, NamesError> {
        match self {
            Self::Memory { arena, next } => {
                let Some(record) = arena.record(*next) else { return Ok(None) };
                *next += 1;
                // A file system that lists a name twice would break the order of paths.
                while arena.record(*next).is_some_and(|other| other.get(1..) == record.get(1..)) {
                    *next += 1;
                }
                Ok(parse(record))
            }
            Self::Merge(merge) => merge.next().map_err(NamesError::Scratch),
        }
    }

    /// Of the names to come, the first that are directories; at most `max`.
    pub(super) fn dirs_ahead(&self, max: usize) -> Vec<Vec<u8>> {
        let Self::Memory { arena, next } = self else { return Vec::new() };
        let ahead = arena.starts.get(*next..).unwrap_or_default().iter();
        ahead
            .filter_map(|start| record_at(&arena.bytes, *start))
            .filter(|record| record.first() == Some(&IS_DIR))
            .take(max)
            .filter_map(|record| Some(record.get(HEAD..)?.to_vec()))
            .collect()
    }

    /// Memory taken.
    pub(super) fn used_bytes(&self) -> usize {
        match self {
            Self::Memory { arena, .. } => arena.bytes.capacity() + arena.starts.capacity() * 4,
            Self::Merge(merge) => merge.runs.iter().map(|run| run.buffer.capacity()).sum(),
        }
    }
}

/// Why names could not be read.
#[derive(Debug)]
pub(super) enum NamesError {
    /// The directory itself.
    Directory(io::Error),
    /// The scratch file.
    Scratch(io::Error),
}

impl NamesError {
    /// What the kernel said.
    pub(super) fn into_io(self) -> io::Error {
        match self {
            Self::Directory(error) | Self::Scratch(error) => error,
        }
    }
}

/// Names one after the other: a byte for the kind, two for the length, the bytes.
#[derive(Default)]
pub(super) struct Arena {
    bytes: Vec<u8>,
    starts: Vec<u32>,
}

const HEAD: usize = 3;
const IS_DIR: u8 = 1;
const IS_FILE: u8 = 2;

impl Arena {
    fn push(&mut self, name: &[u8], kind: FileType) {
        let (Ok(start), Ok(len)) = (u32::try_from(self.bytes.len()), u16::try_from(name.len()))
        else {
            return;
        };
        self.starts.push(start);
        self.bytes.push(match kind {
            FileType::Directory => IS_DIR,
            FileType::RegularFile => IS_FILE,
            FileType::Unknown => 0,
            _ => 3,
        });
        self.bytes.extend_from_slice(&len.to_le_bytes());
        self.bytes.extend_from_slice(name);
    }

    fn used_bytes(&self) -> usize {
        self.bytes.len() + self.starts.len() * 4
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        self.starts.sort_unstable_by(|a, b| name_at(bytes, *a).cmp(name_at(bytes, *b)));
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.starts.clear();
    }

    fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.starts.shrink_to_fit();
    }

    fn record(&self, at: usize) -> Option<&[u8]> {
        record_at(&self.bytes, *self.starts.get(at)?)
    }
}

fn record_at(bytes: &[u8], start: u32) -> Option<&[u8]> {
    let record = bytes.get(usize::try_from(start).ok()?..)?;
    let len = u16::from_le_bytes([*record.get(1)?, *record.get(2)?]);
    record.get(..HEAD + usize::from(len))
}

fn name_at(bytes: &[u8], start: u32) -> &[u8] {
    record_at(bytes, start).and_then(|record| record.get(HEAD..)).unwrap_or_default()
}

fn parse(record: &[u8]) -> Option<Name> {
    let is_dir = match record.first()? {
        0 => None,
        kind => Some(*kind == IS_DIR),
    };
    let is_file = *record.first()? == IS_FILE;
    Some(Name { bytes: record.get(HEAD..)?.to_vec(), is_dir, is_file })
}

/// Sorted runs in a scratch file.
struct Spill {
    file: File,
    ends: Vec<u64>,
}

impl Spill {
    fn new(scratch: &Path) -> io::Result<Self> {
        Ok(Self { file: scratch_file(scratch)?, ends: Vec::new() })
    }

    fn add(&mut self, arena: &Arena) -> io::Result<()> {
        let mut at = self.ends.last().copied().unwrap_or(0);
        let mut block = Vec::with_capacity(2 * RUN_READ_BYTES);
        for index in 0..arena.starts.len() {
            block.extend_from_slice(arena.record(index).unwrap_or_default());
            if block.len() >= RUN_READ_BYTES {
                self.file.write_all_at(&block, at)?;
                at += block.len() as u64;
                block.clear();
            }
        }
        self.file.write_all_at(&block, at)?;
        self.ends.push(at + block.len() as u64);
        Ok(())
    }

    fn merge(self, bytes_max: usize) -> io::Result<Merge> {
        let read_bytes = (bytes_max / self.ends.len().max(1)).clamp(4 << 10, RUN_READ_BYTES);
        let mut start = 0;
        let mut runs = Vec::with_capacity(self.ends.len());
        for end in self.ends {
            runs.push(Run { at: start, end, buffer: Vec::new(), next: 0, read_bytes });
            start = end;
        }
        let mut merge = Merge { file: self.file, runs, heads: BinaryHeap::new() };
        for run in 0..merge.runs.len() {
            merge.refill(run)?;
        }
        Ok(merge)
    }
}

/// Merges sorted runs.
pub(super) struct Merge {
    file: File,
    runs: Vec<Run>,
    heads: BinaryHeap<Reverse<(Name, usize)>>,
}

/// The rest of a run.
struct Run {
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    next: usize,
    read_bytes: usize,
}

impl Merge {
    fn next(&mut self) -> io::Result<Option<Name>> {
        let Some(Reverse((name, run))) = self.heads.pop() else { return Ok(None) };
        self.refill(run)?;
        while let Some(Reverse((other, run))) = self.heads.peek() {
            if other.bytes != name.bytes {
                break;
            }
            let run = *run;
            self.heads.pop();
            self.refill(run)?;
        }
        Ok(Some(name))
    }

    fn refill(&mut self, index: usize) -> io::Result<()> {
        let Some(run) = self.runs.get_mut(index) else { return Ok(()) };
        if let Some(name) = run.next(&self.file)? {
            self.heads.push(Reverse((name, index)));
        }
        Ok(())
    }
}

impl Run {
    fn next(&mut self, file: &File) -> io::Result<Option<Name>> {
        loop {
            let start = u32::try_from(self.next).unwrap_or(u32::MAX);
            if let Some(record) = record_at(&self.buffer, start) {
                self.next += record.len();
                return Ok(parse(record));
            }
            if self.at == self.end {
                return Ok(None);
            }
            self.buffer.drain(..self.next);
            self.next = 0;
            let kept = self.buffer.len();
            let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
            // A record is at most 64 KiB; one that is cut off is completed by the next read.
            self.buffer.resize(kept + left.min(self.read_bytes), 0);
            let fresh = self.buffer.get_mut(kept..).unwrap_or_default();
            file.read_exact_at(fresh, self.at)?;
            self.at += fresh.len() as u64;
        }
    }
}

/// A file without a name in `dir`, gone when it is closed.
pub(super) fn scratch_file(dir: &Path) -> io::Result<File> {
    let mode = Mode::RUSR | Mode::WUSR;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let opened: Result<OwnedFd, _> = rustix::fs::open(dir, flags | OFlags::TMPFILE, mode);
    match opened {
        Ok(fd) => Ok(File::from(fd)),
        // Not every file system can.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {
            named_scratch_file(dir, flags, mode)
        }
        Err(errno) => Err(errno.into()),
    }
}

fn named_scratch_file(dir: &Path, flags: OFlags, mode: Mode) -> io::Result<File> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!(".salvor-scratch-{}-{number}", std::process::id()));
        match rustix::fs::open(&path, flags | OFlags::CREATE | OFlags::EXCL, mode) {
            Ok(fd) => {
                rustix::fs::unlink(&path)?;
                return Ok(File::from(fd));
            }
            Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

//! Entries that need no chunk: links, FIFOs, sockets, devices; empty and tiny files.

use std::io;
use std::sync::Arc;

use repo_format::tree::{Content, Entry, EntryKind};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags};

use super::attributes::{What, apply_path};
use super::file::{FileJob, Start};
use super::work::Shared;
use crate::tree::error::IssueKind;

/// An entry without chunks.
#[derive(Debug)]
pub(super) struct Special {
    pub(super) dir: Arc<OwnedFd>,
    /// In `dir`.
    pub(super) name: Vec<u8>,
    pub(super) entry: Entry,
    pub(super) start: Start,
    /// It is there and complete, but for its attributes.
    pub(super) only_attributes: bool,
}

impl Special {
    /// Makes it.
    pub(super) fn restore(self, shared: &Shared<'_>) {
        if self.only_attributes {
            return self.restore_attributes(shared, true);
        }
        if self.entry.kind == EntryKind::File {
            return self.restore_file(shared);
        }
        match self.make() {
            Ok(()) => self.restore_attributes(shared, false),
            Err(error) => self.failed(shared, &error),
        }
    }

    fn failed(&self, shared: &Shared<'_>, error: &io::Error) {
        if !shared.is_fatal(&self.entry.path, error) {
            shared.issue(&self.entry.path, IssueKind::NotRestored, error.to_string());
        }
    }

    fn restore_file(mut self, shared: &Shared<'_>) {
        let bytes = match std::mem::replace(&mut self.entry.content, Content::None) {
            Content::Inline(bytes) => bytes,
            _ => Vec::new(),
        };
        let mut placer = crate::tree::slices::Placer::new(&self.entry);
        let file = FileJob::new(self.dir, self.name, self.entry, self.start);
        let mut at = 0;
        while let Some(place) = placer.take((bytes.len() - at) as u64).filter(|part| part.len > 0) {
            let len = usize::try_from(place.len).unwrap_or(usize::MAX);
            file.write(shared, bytes.get(at..at + len).unwrap_or_default(), place.offset);
            at += len;
        }
        file.finish_write(shared);
    }

    fn make(&self) -> io::Result<()> {
        let (dir, name) = (&*self.dir, self.name.as_slice());
        let kind = match self.entry.kind {
            EntryKind::Symlink => {
                let Content::Symlink(target) = &self.entry.content else { return Ok(()) };
                return Ok(rustix::fs::symlinkat(target.as_slice(), dir, name)?);
            }
            EntryKind::Fifo => FileType::Fifo,
            EntryKind::Socket => FileType::Socket,
            EntryKind::CharDevice => FileType::CharacterDevice,
            EntryKind::BlockDevice => FileType::BlockDevice,
            EntryKind::File | EntryKind::Dir => return Ok(()),
        };
        let mode = Mode::RUSR | Mode::WUSR;
        Ok(rustix::fs::mknodat(dir, name, kind, mode, self.entry.meta.rdev)?)
    }

    fn restore_attributes(&self, shared: &Shared<'_>, existed: bool) {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&*self.dir, self.name.as_slice(), flags, Mode::empty());
        let failed = match opened {
            Ok(fd) => {
                let what = What { owner: shared.options.owner, existed };
                apply_path(fd.as_fd(), self.entry.kind, &self.entry.meta, what)
            }
            Err(errno) => vec![io::Error::from(errno).to_string()],
        };
        shared.attributes_done(&self.entry, &failed);
        shared.count(&self.entry);
    }
}

//! Runs ahead of the walk, so that directories on a cold disk are in memory when it comes by.
//!
//! A scout reads a directory and forgets what it read. The walk reads it again, which costs little
//! then; in exchange nothing has to be handed over, kept in order or bounded. While the walk meets
//! no slow directory, nothing is scouted.

use std::mem::MaybeUninit;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::fs::{Mode, RawDir};

use super::beneath::{DIR_FLAGS, OpenDir};

/// Threads that run ahead.
pub(super) const SCOUTS: usize = 8;
/// Hints that wait.
const HINTS: usize = 128;
/// Directories hinted at per directory.
const HINTS_PER_DIR: usize = 64;
/// Opening and reading a directory that is in memory takes less.
const SLOW: Duration = Duration::from_micros(60);
/// Directories that are scouted after a slow one.
const WORTH: usize = 256;
/// Bytes of a directory that are read ahead.
const READ_BYTES_MAX: usize = 1 << 20;

/// A directory that the walk will come to.
pub(super) struct Hint {
    parent: Arc<OpenDir>,
    name: Vec<u8>,
}

/// The walk's side: says what comes next, if that seems to be of use.
pub(super) struct Hints {
    to: Sender<Hint>,
    credit: usize,
    since: Instant,
}

impl Hints {
    pub(super) fn new() -> (Self, Receiver<Hint>) {
        let (to, hints) = bounded(HINTS);
        (Self { to, credit: 0, since: Instant::now() }, hints)
    }

    /// The walk begins to open a directory.
    pub(super) fn start(&mut self) {
        self.since = Instant::now();
    }

    /// It has read it; `dirs_ahead` gives the names of the first directories in it.
    pub(super) fn done(
        &mut self,
        dir: &Arc<OpenDir>,
        dirs_ahead: impl FnOnce(usize) -> Vec<Vec<u8>>,
    ) {
        if self.since.elapsed() > SLOW {
            self.credit = WORTH;
        }
        if self.credit == 0 {
            return;
        }
        self.credit -= 1;
        for name in dirs_ahead(HINTS_PER_DIR) {
            if self.to.try_send(Hint { parent: Arc::clone(dir), name }).is_err() {
                break;
            }
        }
    }
}

/// Follows hints until there will be no more. What cannot be read the walk will find out.
pub(super) fn scout(hints: &Receiver<Hint>) {
    let mut buffer = vec![MaybeUninit::<u8>::uninit(); 32 << 10];
    for Hint { parent, name } in hints {
        let Ok(fd) = rustix::fs::openat(&*parent, name, DIR_FLAGS, Mode::empty()) else { continue };
        drop(parent);
        let mut names = RawDir::new(fd, &mut buffer);
        let mut read = 0;
        while let Some(Ok(name)) = names.next() {
            read += name.file_name().count_bytes();
            if read > READ_BYTES_MAX {
                break;
            }
        }
    }
}

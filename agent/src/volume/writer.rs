//! Writes to a target, many in flight.

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use crossbeam_channel::{SendTimeoutError, Sender};
use tokio::sync::Notify;

use super::{Engine, PooledBuf, Target, VolumeError, engine::GLANCE, pread, uring};

/// How to write.
#[derive(Debug, Clone)]
pub struct WriteSetup {
    /// See [`super::probe`].
    pub engine: Engine,
    /// Writes in flight, 1 to [`super::DEPTH_MAX`]; see [`super::WRITE_DEPTH`]. As many again may
    /// wait their turn.
    pub depth: usize,
    /// Whether [`Writer::finish`] makes what was written durable.
    pub sync: bool,
    /// Set it, and [`Writer::submit`] takes no more.
    pub cancel: Arc<AtomicBool>,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteSummary {
    /// Buffers written.
    pub writes: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// One buffer on its way to the target.
pub(super) struct WriteJob {
    pub(super) offset_bytes: u64,
    pub(super) buffer: PooledBuf,
}

/// What the writing threads share with the [`Writer`].
#[derive(Clone)]
pub(super) struct WriteLine {
    pub(super) target: Arc<Target>,
    shared: Arc<Progress>,
}

#[derive(Default)]
struct Progress {
    first_error: OnceLock<VolumeError>,
    writes: AtomicU64,
    bytes: AtomicU64,
}

impl WriteLine {
    pub(super) fn finished(&self, job: &WriteJob, result: io::Result<()>) {
        let bytes = job.buffer.len() as u64;
        match result {
            Ok(()) => {
                self.shared.writes.fetch_add(1, Ordering::Relaxed);
                self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            Err(source) => {
                let error = self.target.write_error(job.offset_bytes, bytes, source);
                // A later error is dropped: the first is the one that is told.
                let _ = self.shared.first_error.set(error);
            }
        }
    }
}

/// Writes buffers at their offsets, in any order.
///
/// Any number of threads may submit. Two writes that overlap may land in either order. A write that
/// fails stops none that was accepted, but no more are accepted then.
///
/// Dropping it waits for what was accepted, and forgets how that ended.
#[must_use = "without `finish` nobody learns whether the writes succeeded"]
pub struct Writer {
    jobs: Option<Sender<WriteJob>>,
    wake: Arc<Notify>,
    line: WriteLine,
    threads: Vec<JoinHandle<()>>,
    sync: bool,
    cancel: Arc<AtomicBool>,
}

impl Writer {
    /// Starts the threads that write.
    ///
    /// # Errors
    ///
    /// [`VolumeError::EngineUnavailable`].
    pub fn start(target: Arc<Target>, setup: WriteSetup) -> Result<Self, VolumeError> {
        let depth = setup.depth.clamp(1, super::DEPTH_MAX);
        let (jobs, queue) = crossbeam_channel::bounded(depth);
        let wake = Arc::new(Notify::new());
        let line = WriteLine { target, shared: Arc::default() };
        let threads = match setup.engine {
            Engine::Uring => {
                vec![uring::start_writing(line.clone(), queue, Arc::clone(&wake), depth)?]
            }
            Engine::Pread => pread::start_writing(&line, &queue, depth)?,
        };
        let (sync, cancel) = (setup.sync, setup.cancel);
        Ok(Self { jobs: Some(jobs), wake, line, threads, sync, cancel })
    }

    /// Hands a buffer over, waiting while too many are under way.
    ///
    /// # Errors
    ///
    /// The first [`VolumeError::Write`] of any buffer before; [`VolumeError::Cancelled`];
    /// [`VolumeError::TargetTooSmall`] if the buffer would reach beyond the target.
    pub fn submit(&self, offset_bytes: u64, buffer: PooledBuf) -> Result<(), VolumeError> {
        let size_bytes = self.line.target.size_bytes();
        let needed_bytes = offset_bytes.saturating_add(buffer.len() as u64);
        if needed_bytes > size_bytes {
            let path = self.line.target.path().to_owned();
            return Err(VolumeError::TargetTooSmall { path, size_bytes, needed_bytes });
        }
        let Some(jobs) = &self.jobs else { return Err(VolumeError::EngineDied) };
        let mut waiting = WriteJob { offset_bytes, buffer };
        loop {
            if let Some(error) = self.line.shared.first_error.get() {
                return Err(error.clone());
            }
            if self.cancel.load(Ordering::Relaxed) {
                return Err(VolumeError::Cancelled);
            }
            match jobs.send_timeout(waiting, GLANCE) {
                Ok(()) => {
                    self.wake.notify_one();
                    return Ok(());
                }
                Err(SendTimeoutError::Timeout(back)) => waiting = back,
                Err(SendTimeoutError::Disconnected(_)) => return Err(VolumeError::EngineDied),
            }
        }
    }

    /// What is written by now, for a progress display.
    pub fn written(&self) -> WriteSummary {
        let shared = &self.line.shared;
        WriteSummary {
            writes: shared.writes.load(Ordering::Relaxed),
            bytes: shared.bytes.load(Ordering::Relaxed),
        }
    }

    /// Waits for every accepted write, and for the disk if so set up.
    ///
    /// # Errors
    ///
    /// The first [`VolumeError::Write`]; [`VolumeError::Sync`]; [`VolumeError::EngineDied`].
    pub fn finish(mut self) -> Result<WriteSummary, VolumeError> {
        let died = self.wait();
        if let Some(error) = self.line.shared.first_error.get() {
            return Err(error.clone());
        }
        if died {
            return Err(VolumeError::EngineDied);
        }
        if self.sync {
            self.line.target.sync()?;
        }
        Ok(self.written())
    }

    /// Whether a thread panicked.
    fn wait(&mut self) -> bool {
        self.jobs = None;
        self.wake.notify_one();
        let mut died = false;
        for thread in self.threads.drain(..) {
            died |= thread.join().is_err();
        }
        died
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.wait();
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("path", &self.line.target.path()).finish_non_exhaustive()
    }
}

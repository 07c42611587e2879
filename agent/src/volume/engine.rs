//! What the engines have in common: requests in, filled buffers out.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use crossbeam_channel::{SendTimeoutError, Sender};

use super::{BufPool, PooledBuf, Source, VolumeError, pread, uring};

/// How long a thread waits for a neighbour before it looks whether it should stop.
pub(super) const GLANCE: Duration = Duration::from_millis(50);

/// How volumes are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// One thread with an `io_uring`, many requests in flight.
    Uring,
    /// A few threads, one system call each.
    Pread,
}

impl Engine {
    /// The variable by which an operator chooses; the command line goes before it.
    pub const ENV: &'static str = "SALVOR_IO_ENGINE";

    /// `auto` is `None`: whichever [`super::probe`] finds to work.
    ///
    /// # Errors
    ///
    /// [`VolumeError::UnknownEngine`].
    pub fn parse(text: &str) -> Result<Option<Self>, VolumeError> {
        match text {
            "auto" => Ok(None),
            "uring" => Ok(Some(Self::Uring)),
            "pread" => Ok(Some(Self::Pread)),
            _ => Err(VolumeError::UnknownEngine { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uring => "uring",
            Self::Pread => "pread",
        })
    }
}

/// A range of a volume to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadRequest {
    /// Best a multiple of [`Source::alignment_bytes`].
    pub offset_bytes: u64,
    /// At most a buffer of the pool.
    pub len_bytes: usize,
}

/// One request's end.
#[derive(Debug)]
pub struct ReadDone {
    /// The request's.
    pub offset_bytes: u64,
    /// The request's.
    pub len_bytes: usize,
    /// All of the range, or why not: the system's error, `UnexpectedEof` if the volume shrank, or
    /// `InvalidInput` for a request outside the volume or larger than a buffer.
    pub result: io::Result<PooledBuf>,
}

/// How to read.
#[derive(Debug, Clone)]
pub struct ReadSetup {
    /// See [`super::probe`].
    pub engine: Engine,
    /// Requests in flight, 1 to [`super::DEPTH_MAX`]; see [`super::READ_DEPTH`].
    pub depth: usize,
    /// Where buffers come from. An empty pool stops reading until one comes back, so whoever holds
    /// buffers must not wait for more of them to be filled.
    pub pool: BufPool,
    /// Set it to stop early.
    pub cancel: Arc<AtomicBool>,
}

/// Why reading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadEnd {
    #[default]
    /// Every request was answered.
    Complete,
    /// The cancel flag was set: some were not.
    Cancelled,
    /// Nobody listens any more.
    ReceiverGone,
}

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadSummary {
    /// Why it ended. Only after [`ReadEnd::Complete`] is silence an answer.
    pub end: ReadEnd,
    /// Requests answered with bytes.
    pub requests: u64,
    /// Bytes in those answers.
    pub bytes: u64,
    /// Requests answered with an error.
    pub failed: u64,
}

impl ReadSummary {
    /// Notes that reading stops before all is answered; the first reason counts.
    pub(super) fn stop(&mut self, end: ReadEnd) {
        if self.end == ReadEnd::Complete {
            self.end = end;
        }
    }

    fn add(&mut self, other: Self) {
        self.stop(other.end);
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.failed += other.failed;
    }
}

/// Threads that read. Dropping it stops them, and waits for what the device has in hand: that
/// cannot be called back.
#[derive(Debug)]
#[must_use = "dropping it stops the reading"]
pub struct Reading {
    threads: Vec<JoinHandle<ReadSummary>>,
    stop: Arc<AtomicBool>,
}

impl Reading {
    /// Waits for the end. The channel of answers closes before this returns.
    ///
    /// # Errors
    ///
    /// [`VolumeError::EngineDied`]: requests may be unanswered.
    pub fn join(mut self) -> Result<ReadSummary, VolumeError> {
        let mut sum = ReadSummary::default();
        for thread in self.threads.drain(..) {
            sum.add(thread.join().map_err(|_| VolumeError::EngineDied)?);
        }
        Ok(sum)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing more to stop.
            let _ = thread.join();
        }
    }
}

/// Answers every request of `requests` to `out`, in any order, with at most `setup.depth` of them in
/// flight.
///
/// A failed request is an answer and stops nothing. A full `out` or an empty pool stops reading
/// until that changes. `requests` is asked from the engine's threads, just before it is needed.
///
/// # Errors
///
/// [`VolumeError::EngineUnavailable`].
pub fn read_all(
    source: Arc<Source>,
    requests: impl Iterator<Item = ReadRequest> + Send + 'static,
    setup: ReadSetup,
    out: Sender<ReadDone>,
) -> Result<Reading, VolumeError> {
    let stop = Arc::new(AtomicBool::new(false));
    let depth = setup.depth.clamp(1, super::DEPTH_MAX);
    let engine = setup.engine;
    let line =
        ReadLine { source, pool: setup.pool, out, cancel: setup.cancel, stop: Arc::clone(&stop) };
    let requests: Requests = Box::new(requests);
    let threads = match engine {
        Engine::Uring => vec![uring::start_reading(line, requests, depth)?],
        Engine::Pread => pread::start_reading(&line, requests, depth)?,
    };
    Ok(Reading { threads, stop })
}

pub(super) type Requests = Box<dyn Iterator<Item = ReadRequest> + Send>;

/// What the threads of one reading share.
#[derive(Clone)]
pub(super) struct ReadLine {
    pub(super) source: Arc<Source>,
    pub(super) pool: BufPool,
    out: Sender<ReadDone>,
    cancel: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl ReadLine {
    pub(super) fn stopped(&self) -> bool {
        self.cancel.load(Ordering::Relaxed) || self.stop.load(Ordering::Relaxed)
    }

    /// Whether a request can be asked of the system at all.
    pub(super) fn check(&self, request: ReadRequest, buffer: &PooledBuf) -> io::Result<()> {
        let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        let end_bytes = request.offset_bytes.checked_add(request.len_bytes as u64);
        if end_bytes.is_none_or(|end| end > self.source.size_bytes()) {
            return refuse("the request reaches beyond the end of the volume");
        }
        if request.len_bytes > buffer.capacity() {
            return refuse("the request is larger than a buffer");
        }
        Ok(())
    }

    /// Passes an answer on, waiting as long as it takes unless told to stop.
    pub(super) fn answer(&self, done: ReadDone, sum: &mut ReadSummary) {
        if sum.end != ReadEnd::Complete {
            return;
        }
        let (bytes, failed) = (done.len_bytes as u64, done.result.is_err());
        if !failed {
            self.source.file.forget(done.offset_bytes, done.len_bytes);
        }
        let mut waiting = done;
        loop {
            if self.stopped() {
                sum.stop(ReadEnd::Cancelled);
                return;
            }
            match self.out.send_timeout(waiting, GLANCE) {
                Ok(()) => break,
                Err(SendTimeoutError::Timeout(back)) => waiting = back,
                Err(SendTimeoutError::Disconnected(_)) => {
                    sum.stop(ReadEnd::ReceiverGone);
                    return;
                }
            }
        }
        if failed {
            sum.failed += 1;
        } else {
            sum.requests += 1;
            sum.bytes += bytes;
        }
    }
}

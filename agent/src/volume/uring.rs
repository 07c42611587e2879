//! The engine that keeps many requests in flight from one thread.
//!
//! `tokio-uring` and everything that is not `Send` live and die in the thread started here; outside
//! it are only channels and buffers. The reactor is one future that polls the requests in flight:
//! at 1 MiB each there are few of them, and it needs no task, wake-up or allocation of tokio's.

use std::{
    any::Any,
    fmt::Display,
    future::{Future, poll_fn},
    io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::Poll,
    thread::{self, JoinHandle},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use tokio::sync::{Notify, futures::Notified};
use tokio_uring::{Runtime, buf::BoundedBuf, fs::File};

use super::{
    Engine, PooledBuf, VolumeError,
    engine::{GLANCE, ReadDone, ReadEnd, ReadLine, ReadRequest, ReadSummary, Requests},
    file::VolumeFile,
    transfer::{Shape, Transfer, Way},
    writer::{WriteJob, WriteLine},
};

pub(super) fn start_reading(
    line: ReadLine,
    requests: Requests,
    depth: usize,
) -> Result<JoinHandle<ReadSummary>, VolumeError> {
    let file = duplicate(&line.source.file)?;
    start("salvor-read-ring", depth, move |ring| {
        let files = Rc::new(Files::from(file));
        let sum = ReadSummary::default();
        let mut feed = ReadFeed { line, requests, files, sum, panic: None };
        ring.block_on(drive(&mut feed, depth));
        if let Some(panic) = feed.panic {
            resume_unwind(panic);
        }
        feed.sum
    })
    .map_err(|error| unavailable(&error))
}

pub(super) fn start_writing(
    line: WriteLine,
    jobs: Receiver<WriteJob>,
    wake: Arc<Notify>,
    depth: usize,
) -> Result<JoinHandle<()>, VolumeError> {
    let file = duplicate(&line.target.file)?;
    start("salvor-write-ring", depth, move |ring| {
        let files = Rc::new(Files::from(file));
        let mut feed = WriteFeed { line, jobs, wake, files };
        ring.block_on(drive(&mut feed, depth));
    })
    .map_err(|error| unavailable(&error))
}

/// For an operator who insisted on the ring, or whose ring worked when the process started.
pub(super) fn unavailable(why: &dyn Display) -> VolumeError {
    let why = format!("{why}; {}=pread needs no io_uring", Engine::ENV);
    VolumeError::EngineUnavailable { engine: Engine::Uring, why }
}

fn duplicate(file: &VolumeFile) -> Result<VolumeFile, VolumeError> {
    file.duplicate().map_err(|error| unavailable(&error))
}

/// Runs `work` in a new thread with a ring of its own, once the ring is known to exist.
pub(super) fn start<T: Default + Send + 'static>(
    name: &str,
    depth: usize,
    work: impl FnOnce(&Runtime) -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let (tell, told) = crossbeam_channel::bounded(1);
    let body = move || {
        let entries = u32::try_from(depth).unwrap_or(u32::MAX);
        match Runtime::new(tokio_uring::builder().entries(entries)) {
            Ok(ring) => {
                // The starter waits for exactly this.
                let _ = tell.send(Ok(()));
                work(&ring)
            }
            Err(error) => {
                let _ = tell.send(Err(error));
                T::default()
            }
        }
    };
    let thread = thread::Builder::new().name(name.to_owned()).spawn(body)?;
    match told.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::other("the thread of a ring died while it was set up")),
    }
}

/// What the reactor is to do next.
enum Next<T> {
    /// Start this.
    Work(Work<T>),
    /// Nothing now: something has to land, or [`Feed::news`] to come.
    Wait,
    /// Nothing ever again.
    End,
}

type Work<T> = Pin<Box<dyn Future<Output = T>>>;

/// Where the reactor gets its work, and takes what came of it.
trait Feed {
    type Done;

    /// `idle`: nothing is in flight, so it may block the thread for [`GLANCE`] before it says
    /// [`Next::Wait`]. Must not panic: see [`Flying`].
    fn next(&mut self, idle: bool) -> Next<Self::Done>;

    /// Resolves when [`Self::next`] may have something after it said [`Next::Wait`].
    fn news(&self) -> Notified<'_>;

    /// May block: the kernel goes on with what is in flight.
    fn done(&mut self, done: Self::Done);
}

/// Keeps up to `depth` pieces of work in flight until the feed ends, then waits for the last.
async fn drive<F: Feed>(feed: &mut F, depth: usize) {
    let mut flying = Flying(Vec::with_capacity(depth));
    let mut open = true;
    while open || !flying.0.is_empty() {
        while open && flying.0.len() < depth {
            match feed.next(flying.0.is_empty()) {
                Next::Work(work) => flying.0.push(work),
                Next::Wait => break,
                Next::End => open = false,
            }
        }
        if flying.0.is_empty() {
            continue;
        }
        let hungry = open && flying.0.len() < depth;
        for done in flying.landed(hungry.then(|| feed.news())).await {
            feed.done(done);
        }
    }
}

/// Work whose buffers the kernel may be using.
///
/// `tokio-uring` frees such buffers too early if its runtime goes first, as it would in an unwinding
/// thread. So nothing here is dropped in flight: better no process than one with foreign bytes in
/// its memory.
struct Flying<T>(Vec<Work<T>>);

impl<T> Flying<T> {
    /// Polls everything; returns what is done as soon as anything is, or nothing on `news`.
    async fn landed(&mut self, news: Option<Notified<'_>>) -> Vec<T> {
        let mut news = pin!(news);
        poll_fn(|context| {
            let mut landed = Vec::new();
            self.0.retain_mut(|work| match work.as_mut().poll(context) {
                Poll::Ready(done) => {
                    landed.push(done);
                    false
                }
                Poll::Pending => true,
            });
            let told = news.as_mut().as_pin_mut().is_some_and(|news| news.poll(context).is_ready());
            if told || !landed.is_empty() { Poll::Ready(landed) } else { Poll::Pending }
        })
        .await
    }
}

impl<T> Drop for Flying<T> {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            eprintln!("salvor: a ring thread failed with I/O in flight; stopping the process");
            std::process::abort();
        }
    }
}

/// The descriptors of a volume, as the ring wants them.
struct Files {
    direct: Option<File>,
    buffered: File,
    shape: Shape,
}

impl From<VolumeFile> for Files {
    fn from(file: VolumeFile) -> Self {
        let shape = Shape::from(&file);
        let direct = file.direct.map(File::from_std);
        Self { direct, buffered: File::from_std(file.buffered), shape }
    }
}

impl Files {
    fn descriptor(&self, direct: bool) -> &File {
        self.direct.as_ref().filter(|_| direct).unwrap_or(&self.buffered)
    }
}

struct ReadFeed {
    line: ReadLine,
    requests: Requests,
    files: Rc<Files>,
    sum: ReadSummary,
    /// The request iterator's, kept until nothing is in flight.
    panic: Option<Box<dyn Any + Send>>,
}

impl Feed for ReadFeed {
    type Done = ReadDone;

    fn next(&mut self, idle: bool) -> Next<ReadDone> {
        if self.line.stopped() {
            self.sum.stop(ReadEnd::Cancelled);
        }
        if self.sum.end != ReadEnd::Complete {
            return Next::End;
        }
        let pool = &self.line.pool;
        let buffer = if idle { pool.take_timeout(GLANCE) } else { pool.try_take() };
        let Some(buffer) = buffer else { return Next::Wait };
        match catch_unwind(AssertUnwindSafe(|| self.requests.next())) {
            Ok(Some(request)) => {
                let refused = self.line.check(request, &buffer).err();
                Next::Work(Box::pin(read(Rc::clone(&self.files), request, buffer, refused)))
            }
            Ok(None) => Next::End,
            Err(panic) => {
                self.panic = Some(panic);
                Next::End
            }
        }
    }

    fn news(&self) -> Notified<'_> {
        self.line.pool.came_back()
    }

    fn done(&mut self, done: ReadDone) {
        self.line.answer(done, &mut self.sum);
    }
}

async fn read(
    files: Rc<Files>,
    request: ReadRequest,
    mut buffer: PooledBuf,
    refused: Option<io::Error>,
) -> ReadDone {
    let ReadRequest { offset_bytes, len_bytes } = request;
    let answer = |result| ReadDone { offset_bytes, len_bytes, result };
    if let Some(error) = refused {
        return answer(Err(error));
    }
    let room_bytes = buffer.capacity();
    let mut transfer = Transfer::new(files.shape, Way::Read, offset_bytes, len_bytes, room_bytes);
    while let Some(step) = transfer.next() {
        let file = files.descriptor(step.direct);
        // The slice starts where the bytes read so far end.
        buffer.set_len(step.at);
        let space = buffer.slice(step.at..step.at + step.len_bytes);
        let (result, space) = file.read_at(space, step.offset_bytes).await;
        buffer = space.into_inner();
        if let Err(error) = transfer.record(&step, result) {
            return answer(Err(error));
        }
    }
    buffer.set_len(len_bytes);
    answer(Ok(buffer))
}

struct WriteFeed {
    line: WriteLine,
    jobs: Receiver<WriteJob>,
    wake: Arc<Notify>,
    files: Rc<Files>,
}

impl Feed for WriteFeed {
    type Done = (WriteJob, io::Result<()>);

    fn next(&mut self, idle: bool) -> Next<Self::Done> {
        let job = if idle {
            self.jobs.recv_timeout(GLANCE).map_err(|error| error == RecvTimeoutError::Disconnected)
        } else {
            self.jobs.try_recv().map_err(|error| error == TryRecvError::Disconnected)
        };
        match job {
            Ok(job) => Next::Work(Box::pin(write(Rc::clone(&self.files), job))),
            Err(true) => Next::End,
            Err(false) => Next::Wait,
        }
    }

    fn news(&self) -> Notified<'_> {
        self.wake.notified()
    }

    fn done(&mut self, (job, result): Self::Done) {
        self.line.finished(&job, result);
    }
}

async fn write(files: Rc<Files>, job: WriteJob) -> (WriteJob, io::Result<()>) {
    let WriteJob { offset_bytes, mut buffer } = job;
    let len_bytes = buffer.len();
    let mut transfer = Transfer::new(files.shape, Way::Write, offset_bytes, len_bytes, len_bytes);
    let mut outcome = Ok(());
    while let (Some(step), Ok(())) = (transfer.next(), &outcome) {
        let file = files.descriptor(step.direct);
        let part = buffer.slice(step.at..step.at + step.len_bytes);
        let (result, part) = file.write_at(part, step.offset_bytes).submit().await;
        buffer = part.into_inner();
        outcome = transfer.record(&step, result);
    }
    (WriteJob { offset_bytes, buffer }, outcome)
}

//! The engine that works everywhere: a few threads, one positional system call each.

use std::{
    io,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use crossbeam_channel::Receiver;

use super::{
    AlignedBuf, Engine, VolumeError,
    engine::{GLANCE, ReadDone, ReadEnd, ReadLine, ReadRequest, ReadSummary, Requests},
    file::VolumeFile,
    transfer::{Shape, Transfer, Way},
    writer::{WriteJob, WriteLine},
};

/// More threads than this only add switches: at 1 MiB a call, fewer already keep a disk busy.
const THREADS_MAX: usize = 8;

pub(super) fn start_reading(
    line: &ReadLine,
    requests: Requests,
    depth: usize,
) -> Result<Vec<JoinHandle<ReadSummary>>, VolumeError> {
    let requests = Arc::new(Mutex::new(requests));
    start("salvor-read", depth, || {
        let (line, requests) = (line.clone(), Arc::clone(&requests));
        move || read(&line, &requests)
    })
}

pub(super) fn start_writing(
    line: &WriteLine,
    jobs: &Receiver<WriteJob>,
    depth: usize,
) -> Result<Vec<JoinHandle<()>>, VolumeError> {
    start("salvor-write", depth, || {
        let (line, jobs) = (line.clone(), jobs.clone());
        move || write(&line, &jobs)
    })
}

/// Starts up to `depth` threads; fewer will do where the system has no more to give.
fn start<T: Send + 'static, W: FnOnce() -> T + Send + 'static>(
    name: &str,
    depth: usize,
    work: impl Fn() -> W,
) -> Result<Vec<JoinHandle<T>>, VolumeError> {
    let mut threads = Vec::new();
    for number in 0..depth.min(THREADS_MAX) {
        match thread::Builder::new().name(format!("{name}-{number}")).spawn(work()) {
            Ok(thread) => threads.push(thread),
            Err(error) if threads.is_empty() => {
                let why = error.to_string();
                return Err(VolumeError::EngineUnavailable { engine: Engine::Pread, why });
            }
            Err(_) => break,
        }
    }
    Ok(threads)
}

fn write(line: &WriteLine, jobs: &Receiver<WriteJob>) {
    for job in jobs {
        let result = write_out(&line.target.file, job.offset_bytes, &job.buffer);
        line.finished(&job, result);
    }
}

fn read(line: &ReadLine, requests: &Mutex<Requests>) -> ReadSummary {
    let mut sum = ReadSummary::default();
    while sum.end == ReadEnd::Complete {
        if line.stopped() {
            sum.stop(ReadEnd::Cancelled);
            break;
        }
        // The buffer first: a request must not wait in a thread that has nothing to read it into.
        let Some(mut buffer) = line.pool.take_timeout(GLANCE) else { continue };
        let next = requests.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some(request) = next else { break };
        let ReadRequest { offset_bytes, len_bytes } = request;
        let result = line
            .check(request, &buffer)
            .and_then(|()| read_into(&line.source.file, offset_bytes, len_bytes, &mut buffer))
            .map(|()| buffer);
        line.answer(ReadDone { offset_bytes, len_bytes, result }, &mut sum);
    }
    sum
}

fn read_into(
    file: &VolumeFile,
    offset_bytes: u64,
    len_bytes: usize,
    buffer: &mut AlignedBuf,
) -> io::Result<()> {
    let shape = Shape::from(file);
    let mut transfer = Transfer::new(shape, Way::Read, offset_bytes, len_bytes, buffer.capacity());
    while let Some(step) = transfer.next() {
        let space = &mut buffer.space_mut()[step.at..step.at + step.len_bytes];
        let result = file.descriptor(step.direct).read_at(space, step.offset_bytes);
        transfer.record(&step, result)?;
    }
    buffer.set_len(len_bytes);
    Ok(())
}

fn write_out(file: &VolumeFile, offset_bytes: u64, bytes: &[u8]) -> io::Result<()> {
    let shape = Shape::from(file);
    let mut transfer = Transfer::new(shape, Way::Write, offset_bytes, bytes.len(), bytes.len());
    while let Some(step) = transfer.next() {
        let part = &bytes[step.at..step.at + step.len_bytes];
        let result = file.descriptor(step.direct).write_at(part, step.offset_bytes);
        transfer.record(&step, result)?;
    }
    Ok(())
}

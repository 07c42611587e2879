//! Nothing waits for ever: not for a full channel, not for an empty pool.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::kit::{ENGINES, file_of, grid, noise, reader, scratch, writer};
use crate::volume::{
    BufPool, Engine, ReadDone, ReadEnd, ReadSetup, Reading, Source, Target, VolumeError, Writer,
    read_all,
};

const SOON: Duration = Duration::from_secs(1);
const SIZE_BYTES: u64 = 4 << 20;

fn image() -> (TempDir, PathBuf) {
    let dir = scratch();
    let path = file_of(dir.path(), "image", &noise(20, 4 << 20));
    (dir, path)
}

/// A reading that nobody drains, once it has come to a standstill.
fn stuck(
    engine: Engine,
    path: &std::path::Path,
    buffers: usize,
    channel: usize,
) -> (Reading, ReadSetup, crossbeam_channel::Receiver<ReadDone>) {
    let pool = BufPool::new(buffers, 4096).unwrap();
    let setup = reader(engine, 4, &pool);
    let (out, answers) = crossbeam_channel::bounded(channel);
    let source = Arc::new(Source::open(path).unwrap());
    let requests = grid(SIZE_BYTES, 4096);
    let reading = read_all(source, requests, setup.clone(), out).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    (reading, setup, answers)
}

#[test]
fn a_reading_that_waits_is_cancelled_at_once() {
    let (_dir, path) = image();
    for engine in ENGINES {
        // Waiting for room in the channel; waiting for a buffer.
        for (buffers, channel) in [(8, 1), (2, 100)] {
            let (reading, setup, answers) = stuck(engine, &path, buffers, channel);
            let asked = Instant::now();
            setup.cancel.store(true, Ordering::Relaxed);
            assert_eq!(reading.join().unwrap().end, ReadEnd::Cancelled, "{engine}");
            assert!(asked.elapsed() < SOON, "{engine}: {:?}", asked.elapsed());
            drop(answers);
            assert_eq!(setup.pool.free(), buffers, "{engine}: a buffer is lost");
        }
    }
}

#[test]
fn a_running_read_is_cancelled_at_once() {
    let (_dir, path) = image();
    for engine in ENGINES {
        let pool = BufPool::new(8, 4096).unwrap();
        let setup = reader(engine, 4, &pool);
        let (out, answers) = crossbeam_channel::bounded(4);
        let source = Arc::new(Source::open(&path).unwrap());
        let endless = std::iter::repeat_with(|| grid(SIZE_BYTES, 4096)).flatten();
        let reading = read_all(source, endless, setup.clone(), out).unwrap();
        let mut asked = None;
        for number in 0.. {
            if answers.recv().is_err() {
                break;
            }
            if number == 1000 {
                setup.cancel.store(true, Ordering::Relaxed);
                asked = Some(Instant::now());
            }
        }
        assert!(asked.is_some_and(|asked| asked.elapsed() < SOON), "{engine}");
        assert_eq!(reading.join().unwrap().end, ReadEnd::Cancelled, "{engine}");
    }
}

#[test]
fn a_reading_nobody_listens_to_ends() {
    let (_dir, path) = image();
    for engine in ENGINES {
        let (reading, _setup, answers) = stuck(engine, &path, 8, 2);
        drop(answers);
        assert_eq!(reading.join().unwrap().end, ReadEnd::ReceiverGone, "{engine}");
    }
}

#[test]
fn a_reading_nobody_owns_ends() {
    let (_dir, path) = image();
    for engine in ENGINES {
        let (reading, setup, answers) = stuck(engine, &path, 8, 2);
        let asked = Instant::now();
        drop(reading);
        assert!(asked.elapsed() < SOON, "{engine}");
        assert_eq!(answers.iter().count(), 2, "what was answered is still there");
        assert_eq!(setup.pool.free(), 8, "{engine}");
    }
}

#[test]
fn a_cancelled_writer_takes_no_more_and_finishes_what_it_took() {
    let dir = scratch();
    for engine in ENGINES {
        let path = dir.path().join(engine.to_string());
        let pool = BufPool::new(2, 4096).unwrap();
        let setup = writer(engine, 2);
        let cancel = Arc::clone(&setup.cancel);
        let writer = Writer::start(Arc::new(Target::create(&path, 8192).unwrap()), setup).unwrap();
        let mut buffer = pool.take();
        buffer.fill_from(&[7; 4096]);
        writer.submit(0, buffer).unwrap();
        cancel.store(true, Ordering::Relaxed);
        let refused = writer.submit(4096, pool.take());
        assert!(matches!(refused, Err(VolumeError::Cancelled)), "{engine}: {refused:?}");
        assert_eq!(writer.finish().unwrap().bytes, 4096, "{engine}");
        assert_eq!(std::fs::read(&path).unwrap()[..4096], [7; 4096]);
    }
}

#[test]
fn a_dropped_writer_has_written_what_it_took() {
    let dir = scratch();
    for engine in ENGINES {
        let path = dir.path().join(engine.to_string());
        let pool = BufPool::new(8, 4096).unwrap();
        let target = Arc::new(Target::create(&path, 64 * 4096).unwrap());
        let writer = Writer::start(target, writer(engine, 4)).unwrap();
        for number in 0..64 {
            let mut buffer = pool.take();
            buffer.fill_from(&[9; 4096]);
            writer.submit(number * 4096, buffer).unwrap();
        }
        drop(writer);
        assert!(std::fs::read(&path).unwrap().iter().all(|&byte| byte == 9), "{engine}");
    }
}

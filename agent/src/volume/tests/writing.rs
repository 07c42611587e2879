use std::{fs, os::unix::fs::MetadataExt, path::Path, sync::Arc, thread};

use super::kit::{
    ENGINES, Loop, Mount, file_of, noise, privileged, read_whole, run, scratch, shuffled,
    write_ranges, writer,
};
use crate::volume::{BufPool, Engine, Target, VolumeError, Writer};

const MIB: usize = 1 << 20;

#[test]
fn every_size_is_written_as_it_was_given() {
    let dir = scratch();
    for size_bytes in [0, 1, 511, 4095, 4096, 4097, MIB, 3 * MIB + 12_345] {
        let image = noise(30, size_bytes);
        for engine in ENGINES {
            for (depth, len_bytes) in [(1, 65_536), (8, MIB), (4, 20_480), (3, 5000)] {
                let path = dir.path().join("target");
                let target = Target::create(&path, size_bytes as u64).unwrap();
                let ranges = shuffled(size_bytes, len_bytes);
                write_ranges(engine, depth, target, &image, &ranges);
                assert!(fs::read(&path).unwrap() == image, "{engine}: {size_bytes} by {len_bytes}");
                fs::remove_file(&path).unwrap();
            }
        }
    }
}

#[test]
fn a_volume_without_direct_io_is_written_the_same() {
    let dir = scratch();
    let image = noise(31, MIB + 77);
    for engine in ENGINES {
        let path = dir.path().join(engine.to_string());
        let mut target = Target::create(&path, image.len() as u64).unwrap();
        target.file.direct = None;
        write_ranges(engine, 4, target, &image, &shuffled(image.len(), 65_536));
        assert!(fs::read(&path).unwrap() == image, "{engine}");
    }
}

#[test]
fn what_is_not_written_stays_a_hole() {
    let dir = scratch();
    for engine in ENGINES {
        let path = dir.path().join(engine.to_string());
        let image = noise(32, 64 * MIB);
        let target = Target::create(&path, 64 * MIB as u64).unwrap();
        let ranges = [(5 * MIB, MIB), (40 * MIB, 4096), (64 * MIB - 4096, 4096)];
        write_ranges(engine, 4, target, &image, &ranges);
        let mut want = vec![0; 64 * MIB];
        for (at, len) in ranges {
            want[at..at + len].copy_from_slice(&image[at..at + len]);
        }
        assert!(fs::read(&path).unwrap() == want, "{engine}");
        assert!(fs::metadata(&path).unwrap().blocks() * 512 < 2 * MIB as u64, "{engine}");
    }
}

#[test]
fn an_existing_volume_is_changed_only_where_written() {
    let dir = scratch();
    for engine in ENGINES {
        let mut want = noise(33, 2 * MIB);
        let path = file_of(dir.path(), "target", &want);
        let image = noise(34, 2 * MIB);
        let ranges = [(4096, 4096), (MIB - 1, 3), (MIB + 4096, 10_000), (100, 1)];
        let target = Target::open_in_place(&path, 2 * MIB as u64).unwrap();
        write_ranges(engine, 4, target, &image, &ranges);
        for (at, len) in ranges {
            want[at..at + len].copy_from_slice(&image[at..at + len]);
        }
        assert!(fs::read(&path).unwrap() == want, "{engine}");
    }
}

#[test]
fn neighbours_within_a_page_do_not_undo_each_other() {
    let dir = scratch();
    for engine in ENGINES {
        let image = noise(35, 64 * 4096);
        let path = dir.path().join(engine.to_string());
        let target = Target::create(&path, image.len() as u64).unwrap();
        // 6 KiB each: every second border is inside a page.
        write_ranges(engine, 16, target, &image, &shuffled(image.len(), 6144));
        assert!(fs::read(&path).unwrap() == image, "{engine}");
    }
}

#[test]
fn the_target_reads_as_written_while_it_is_written() {
    let dir = scratch();
    for engine in ENGINES {
        let image = noise(36, MIB + 100);
        let path = dir.path().join(engine.to_string());
        let target = Arc::new(Target::create(&path, image.len() as u64).unwrap());
        let pool = BufPool::new(1, 2 * MIB).unwrap();
        let writer = Writer::start(Arc::clone(&target), writer(engine, 4)).unwrap();
        let mut buffer = pool.take();
        buffer.fill_from(&image);
        writer.submit(0, buffer).unwrap();
        drop(pool.take());
        let source = target.as_source().unwrap();
        assert!(read_whole(engine, 4, source, 65_536) == image, "{engine}");
        writer.finish().unwrap();
    }
}

#[test]
fn many_threads_may_submit() {
    let dir = scratch();
    for engine in ENGINES {
        let image = noise(37, 4 * MIB);
        let path = dir.path().join(engine.to_string());
        let pool = BufPool::new(6, 4096).unwrap();
        let target = Target::create(&path, image.len() as u64).unwrap();
        let writer = Writer::start(Arc::new(target), writer(engine, 4)).unwrap();
        thread::scope(|scope| {
            for number in 0..4 {
                let (writer, pool, image) = (&writer, &pool, &image);
                scope.spawn(move || {
                    for at in (number * MIB..(number + 1) * MIB).step_by(4096) {
                        let mut buffer = pool.take();
                        buffer.fill_from(&image[at..at + 4096]);
                        writer.submit(at as u64, buffer).unwrap();
                    }
                });
            }
        });
        assert_eq!(writer.finish().unwrap().writes, 1024);
        assert!(fs::read(&path).unwrap() == image, "{engine}");
    }
}

#[test]
fn a_write_beyond_the_target_is_refused() {
    let dir = scratch();
    for engine in ENGINES {
        let path = dir.path().join(engine.to_string());
        let pool = BufPool::new(1, 4096).unwrap();
        let target = Target::create(&path, 5000).unwrap();
        let writer = Writer::start(Arc::new(target), writer(engine, 1)).unwrap();
        for offset_bytes in [905, 5000, u64::MAX] {
            let mut buffer = pool.take();
            buffer.fill_from(&[1; 4096]);
            let error = writer.submit(offset_bytes, buffer).unwrap_err();
            assert!(matches!(error, VolumeError::TargetTooSmall { .. }), "{error:?}");
        }
        writer.finish().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 5000);
    }
}

/// Fills a file system: the error must name its place, and every write that was not said to have
/// failed must be there.
fn fill(engine: Engine, dir: &Path) {
    let path = dir.join("target");
    let pool = BufPool::new(8, MIB).unwrap();
    let target = Target::create(&path, 64 * MIB as u64).unwrap();
    let mut setup = writer(engine, 4);
    setup.sync = true;
    let writer = Writer::start(Arc::new(target), setup).unwrap();
    let mut refused = None;
    for number in 0..64 {
        let mut buffer = pool.take();
        buffer.fill_from(&noise(number, MIB));
        if let Err(error) = writer.submit(number * MIB as u64, buffer) {
            refused = Some(error.to_string());
            break;
        }
    }
    // Once all buffers are back, all that was accepted has ended.
    let _all: Vec<_> = (0..pool.count()).map(|_| pool.take()).collect();
    let written = writer.written();
    let finished = writer.finish().unwrap_err();
    let VolumeError::Write { offset_bytes, source, .. } = &finished else { panic!("{finished:?}") };
    assert_eq!(source.raw_os_error(), Some(libc::ENOSPC), "{engine}: {finished:?}");
    assert!(finished.to_string().contains(&offset_bytes.to_string()), "{finished}");
    assert_eq!(refused, Some(finished.to_string()), "{engine}: who submits is told the same");

    let image = fs::read(&path).unwrap();
    let is_there = |&number: &u64| {
        image.chunks(MIB).nth(usize::try_from(number).unwrap()).unwrap() == noise(number, MIB)
    };
    let there = (0..64).filter(is_there).count();
    assert_eq!(there as u64, written.writes, "{engine}");
    assert!(there >= 8, "{engine}: only {there} fitted");
    assert!(!is_there(&(offset_bytes / MIB as u64)), "{engine}");
}

#[test]
fn a_full_file_system_fails_the_write_that_did_not_fit_and_no_other() {
    if !privileged() {
        return;
    }
    for engine in ENGINES {
        let dir = scratch();
        let tmpfs = ["-t", "tmpfs", "-o", "size=16m", "none"];
        fill(engine, &Mount::at(dir.path().join("tmpfs"), &tmpfs).path);

        let disk = dir.path().join("disk");
        fs::File::create(&disk).unwrap().set_len(32 << 20).unwrap();
        run("mkfs.ext4", &["-q", disk.to_str().unwrap()]);
        let device = Loop::over(&disk, 512);
        let mount = Mount::at(dir.path().join("ext4"), &[device.path.to_str().unwrap()]);
        fill(engine, &mount.path);
    }
}

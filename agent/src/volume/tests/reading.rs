use std::{
    fs::File,
    io::ErrorKind,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::kit::{
    ENGINES, file_of, grid, noise, read_requests, read_whole, reader, scratch, sparse_file,
};
use crate::volume::{BufPool, ExtentKind, ReadEnd, ReadRequest, Source, VolumeError, read_all};

const MIB: usize = 1 << 20;

#[test]
fn every_size_reads_as_it_was_written() {
    let dir = scratch();
    for size_bytes in [0, 1, 511, 512, 4095, 4096, 4097, MIB - 1, MIB, 3 * MIB + 12_345] {
        let contents = noise(size_bytes as u64, size_bytes);
        let path = file_of(dir.path(), "image", &contents);
        for engine in ENGINES {
            for (depth, len_bytes) in [(1, 4096), (3, 65_536), (16, MIB), (200, 5000)] {
                let source = Source::open(&path).unwrap();
                let image = read_whole(engine, depth, source, len_bytes);
                assert!(image == contents, "{engine}: {size_bytes} by {len_bytes}");
            }
        }
    }
}

#[test]
fn a_volume_without_direct_io_reads_the_same() {
    let dir = scratch();
    let contents = noise(9, 3 * MIB + 999);
    let path = file_of(dir.path(), "image", &contents);
    for engine in ENGINES {
        let mut source = Source::open(&path).unwrap();
        source.file.direct = None;
        assert!(!source.is_direct());
        assert!(read_whole(engine, 4, source, 65_536) == contents, "{engine}");
    }
}

#[test]
fn a_disk_is_read_directly() {
    let dir = scratch();
    let path = file_of(dir.path(), "image", &noise(9, 4096));
    let source = Source::open(&path).unwrap();
    assert!(source.is_direct(), "no direct I/O in {:?}; run the tests on a disk", dir.path());
    assert!(source.alignment_bytes() >= 4096);
}

#[test]
fn holes_read_as_zeroes_and_need_not_be_read() {
    let dir = scratch();
    let data = [(MIB, 100_000), (3 * MIB, 4096), (6 * MIB + 4096, MIB)];
    let (path, contents) = sparse_file(dir.path(), "sparse", 8 * MIB + 1, &data);
    for engine in ENGINES {
        assert!(read_whole(engine, 8, Source::open(&path).unwrap(), MIB) == contents, "{engine}");

        let source = Arc::new(Source::open(&path).unwrap());
        let requests: Vec<_> = source
            .extents()
            .filter(|extent| extent.kind == ExtentKind::Data)
            .flat_map(|extent| {
                grid(extent.len_bytes, MIB).map(move |request| ReadRequest {
                    offset_bytes: request.offset_bytes + extent.offset_bytes,
                    ..request
                })
            })
            .collect();
        let source = Source::open(&path).unwrap();
        let outcome = read_requests(engine, 8, source, requests.into_iter(), MIB);
        assert!(outcome.image == contents, "{engine}");
        assert!(outcome.summary.bytes < 2 * MIB as u64, "{engine}: {:?}", outcome.summary);
    }
}

#[test]
fn requests_at_odd_offsets_get_their_bytes() {
    let dir = scratch();
    let contents = noise(11, 2 * MIB + 7);
    let path = file_of(dir.path(), "image", &contents);
    for engine in ENGINES {
        let ranges = [
            (1_u64, 4096),
            (4097, 4095),
            (12_288, 1),
            (4095, 2),
            (MIB as u64 + 3, MIB + 4),
            (0, 3),
        ];
        let requests =
            ranges.map(|(offset_bytes, len_bytes)| ReadRequest { offset_bytes, len_bytes });
        let source = Source::open(&path).unwrap();
        let outcome = read_requests(engine, 4, source, requests.into_iter(), 2 * MIB);
        assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
        for (offset_bytes, len_bytes) in ranges {
            let at = usize::try_from(offset_bytes).unwrap();
            let range = at..at + len_bytes;
            assert!(outcome.image[range.clone()] == contents[range], "{engine} at {offset_bytes}");
        }
    }
}

#[test]
fn what_was_just_written_is_read_though_it_is_only_in_the_cache() {
    let dir = scratch();
    let mut contents = noise(12, MIB);
    let path = file_of(dir.path(), "image", &contents);
    let file = File::options().write(true).open(&path).unwrap();
    file.sync_all().unwrap();
    file.write_all_at(b"fresh", 500_000).unwrap();
    contents[500_000..500_005].copy_from_slice(b"fresh");
    for engine in ENGINES {
        assert!(read_whole(engine, 4, Source::open(&path).unwrap(), 65_536) == contents);
    }
}

#[test]
fn a_volume_that_shrank_fails_where_it_ends_and_reads_elsewhere() {
    let dir = scratch();
    for engine in ENGINES {
        let contents = noise(13, 4 * MIB);
        let path = file_of(dir.path(), "image", &contents);
        let source = Source::open(&path).unwrap();
        let cut = 2 * MIB + 4096 * 3 + 100;
        File::options().write(true).open(&path).unwrap().set_len(cut as u64).unwrap();
        let requests = grid(4 * MIB as u64, MIB);
        let mut outcome = read_requests(engine, 4, source, requests, MIB);
        outcome.failed.sort_by_key(|failed| failed.0);
        let offsets: Vec<_> = outcome.failed.iter().map(|failed| failed.0).collect();
        assert_eq!(offsets, [2 * MIB as u64, 3 * MIB as u64], "{engine}");
        for (_, error) in &outcome.failed {
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{engine}");
        }
        let said = outcome.failed[0].1.to_string();
        assert!(said.contains(&format!("offset {cut}")), "{engine}: {said}");
        assert!(outcome.image[..2 * MIB] == contents[..2 * MIB]);
        assert_eq!(outcome.summary.end, ReadEnd::Complete);
        assert_eq!((outcome.summary.requests, outcome.summary.failed), (2, 2));
    }
}

#[test]
fn a_request_that_cannot_be_is_answered_and_stops_nothing() {
    let dir = scratch();
    let contents = noise(14, 3 * 4096);
    let path = file_of(dir.path(), "image", &contents);
    for engine in ENGINES {
        let requests = [(0, 8192), (0, 4096), (4096, 8193), (u64::MAX, 1), (8192, 4096), (4096, 0)];
        let requests =
            requests.map(|(offset_bytes, len_bytes)| ReadRequest { offset_bytes, len_bytes });
        let source = Source::open(&path).unwrap();
        let outcome = read_requests(engine, 2, source, requests.into_iter(), 4096);
        assert_eq!(outcome.failed.len(), 3, "{engine}: {:?}", outcome.failed);
        let refused = |failed: &(u64, std::io::Error)| failed.1.kind() == ErrorKind::InvalidInput;
        assert!(outcome.failed.iter().all(refused), "{:?}", outcome.failed);
        assert_eq!(outcome.summary.requests, 3);
    }
}

#[test]
fn reading_waits_for_buffers_and_never_has_more_than_the_pool() {
    let dir = scratch();
    let contents = noise(15, 2 * MIB);
    let path = file_of(dir.path(), "image", &contents);
    for engine in ENGINES {
        let pool = BufPool::new(3, 4096).unwrap();
        let (out, answers) = crossbeam_channel::unbounded();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        let requests = grid(2 * MIB as u64, 4096).inspect(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        let source = Arc::new(Source::open(&path).unwrap());
        let reading = read_all(source, requests, reader(engine, 16, &pool), out).unwrap();
        let mut held = Vec::new();
        for (number, done) in answers.iter().enumerate() {
            let buffer = done.result.unwrap();
            let at = usize::try_from(done.offset_bytes).unwrap();
            assert!(buffer[..] == contents[at..at + 4096], "{engine} at {at}");
            assert!(asked.load(Ordering::SeqCst) <= number + 3 + 1, "{engine}: reads ahead");
            held.push(buffer);
            if held.len() == 3 {
                assert!(pool.try_take().is_none());
                held.clear();
            }
        }
        drop(held);
        assert_eq!(reading.join().unwrap().requests, 512);
        assert_eq!(pool.free(), 3);
    }
}

#[test]
fn a_panic_of_the_request_iterator_is_told_and_frees_everything() {
    let dir = scratch();
    let path = file_of(dir.path(), "image", &noise(16, MIB));
    for engine in ENGINES {
        let pool = BufPool::new(4, 4096).unwrap();
        let (out, answers) = crossbeam_channel::unbounded();
        let requests = grid(MIB as u64, 4096).inspect(|request| {
            assert!(request.offset_bytes < 100 * 4096, "on purpose");
        });
        let source = Arc::new(Source::open(&path).unwrap());
        let reading = read_all(source, requests, reader(engine, 3, &pool), out).unwrap();
        assert!(answers.iter().count() <= 100);
        assert!(matches!(reading.join(), Err(VolumeError::EngineDied)), "{engine}");
        assert_eq!(pool.free(), 4, "{engine}");
    }
}

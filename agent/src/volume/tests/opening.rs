use std::{
    error::Error,
    fs::{self, File},
    os::unix::{fs::FileExt, fs::PermissionsExt, net::UnixListener},
    path::Path,
    sync::Arc,
};

use rustix::fs::{CWD, FallocateFlags, FileType, Mode};

use super::kit::{file_of, noise, privileged, scratch, sparse_file};
use crate::volume::{Extent, ExtentKind, Source, Target, VolumeError, VolumeKind};

fn extents(source: &Arc<Source>) -> Vec<(u64, u64, ExtentKind)> {
    source
        .extents()
        .map(|Extent { offset_bytes, len_bytes, kind }| (offset_bytes, len_bytes, kind))
        .collect()
}

#[test]
fn what_is_no_volume_is_refused_by_name() {
    let dir = scratch();
    let pipe = dir.path().join("pipe");
    rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
    let socket = dir.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    for (path, name) in [
        (dir.path(), "a directory"),
        (Path::new("/dev/null"), "a character device"),
        (&pipe, "a pipe"),
        (&socket, "a socket"),
    ] {
        let error = Source::open(path).unwrap_err();
        assert!(matches!(error, VolumeError::NotAVolume { .. }), "{error:?}");
        let message = error.to_string();
        assert!(message.contains(name), "{message}");
        assert!(message.contains(path.to_str().unwrap()), "{message}");
        Target::open_in_place(path, 0).unwrap_err();
    }
}

#[test]
fn what_cannot_be_opened_says_why() {
    let dir = scratch();
    let missing = Source::open(&dir.path().join("missing")).unwrap_err();
    assert!(missing.source().unwrap().to_string().contains("No such file"), "{missing:?}");

    if !privileged() {
        return;
    }
    let path = file_of(dir.path(), "private", b"x");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let refused = std::thread::spawn(move || {
        // SAFETY: changes the identity of this thread alone, for access to files.
        unsafe { libc::setfsuid(65534) };
        Source::open(&path).unwrap_err()
    });
    let refused = refused.join().unwrap();
    assert!(refused.source().unwrap().to_string().contains("Permission denied"), "{refused:?}");
}

#[test]
fn a_link_is_followed() {
    let dir = scratch();
    let path = file_of(dir.path(), "image", &noise(1, 5000));
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let source = Source::open(&link).unwrap();
    assert_eq!((source.size_bytes(), source.kind()), (5000, VolumeKind::File));
}

#[test]
fn extents_are_the_data_and_the_holes() {
    const MIB: usize = 1 << 20;
    let dir = scratch();
    let data = [(MIB, MIB), (4 * MIB, 8192), (7 * MIB, 100)];
    let (path, _) = sparse_file(dir.path(), "sparse", 8 * MIB + 77, &data);
    let source = Arc::new(Source::open(&path).unwrap());
    let found = extents(&source);
    let mut at_bytes = 0;
    for &(offset_bytes, len_bytes, kind) in &found {
        assert_eq!(offset_bytes, at_bytes, "no gap, no overlap: {found:?}");
        assert!(len_bytes > 0);
        at_bytes += len_bytes;
        let holds = data
            .iter()
            .any(|&(start, len)| (start as u64) < at_bytes && (start + len) as u64 > offset_bytes);
        assert_eq!(kind == ExtentKind::Data, holds, "{found:?}");
    }
    assert_eq!(at_bytes, source.size_bytes());
    assert_eq!(found.len(), 7, "hole, data, hole, data, hole, data, hole: {found:?}");

    let empty = file_of(dir.path(), "empty", b"");
    assert_eq!(extents(&Arc::new(Source::open(&empty).unwrap())), []);
    let (hole, _) = sparse_file(dir.path(), "hole", MIB, &[]);
    let hole = Arc::new(Source::open(&hole).unwrap());
    assert_eq!(extents(&hole), [(0, MIB as u64, ExtentKind::Hole)]);
}

#[test]
fn allocated_but_unwritten_space_is_a_hole_and_unflushed_data_is_not() {
    let dir = scratch();
    let path = dir.path().join("allocated");
    let file = File::create(&path).unwrap();
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 4 << 20).unwrap();
    file.write_all_at(&[1; 4096], 1 << 20).unwrap();
    let source = Arc::new(Source::open(&path).unwrap());
    let data: Vec<_> =
        extents(&source).into_iter().filter(|extent| extent.2 == ExtentKind::Data).collect();
    assert_eq!(data, [(1 << 20, 4096, ExtentKind::Data)]);
}

#[test]
fn the_missing_end_of_a_cut_file_is_not_taken_for_a_hole() {
    let dir = scratch();
    let path = file_of(dir.path(), "cut", &noise(3, 1 << 20));
    let source = Arc::new(Source::open(&path).unwrap());
    File::options().write(true).open(&path).unwrap().set_len(512 << 10).unwrap();
    let holes = extents(&source).iter().any(|extent| extent.2 == ExtentKind::Hole);
    assert!(!holes, "{:?}", extents(&source));
}

#[test]
fn a_new_target_is_all_hole_and_private() {
    let dir = scratch();
    let path = dir.path().join("new");
    let target = Target::create(&path, (1 << 40) + 5).unwrap();
    assert_eq!(target.size_bytes(), (1 << 40) + 5);
    let found = fs::metadata(&path).unwrap();
    assert_eq!(found.len(), (1 << 40) + 5);
    assert_eq!(std::os::unix::fs::MetadataExt::blocks(&found), 0);
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_new_target_replaces_nothing() {
    let dir = scratch();
    let path = file_of(dir.path(), "there", b"precious");
    let error = Target::create(&path, 10).unwrap_err();
    assert!(matches!(error, VolumeError::TargetExists { .. }), "{error:?}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn a_target_that_cannot_be_sized_leaves_no_file() {
    let dir = scratch();
    let path = dir.path().join("vast");
    let error = Target::create(&path, u64::MAX >> 1).unwrap_err();
    assert!(matches!(error, VolumeError::SetSize { .. }), "{error:?}");
    assert!(!path.exists());
}

#[test]
fn a_target_too_small_is_refused_before_anything_is_written() {
    let dir = scratch();
    let contents = noise(4, 4096);
    let path = file_of(dir.path(), "small", &contents);
    match Target::open_in_place(&path, 4097).unwrap_err() {
        VolumeError::TargetTooSmall { size_bytes: 4096, needed_bytes: 4097, .. } => {}
        error => panic!("{error:?}"),
    }
    assert_eq!(fs::read(&path).unwrap(), contents);
    let mut target = Target::open_in_place(&path, 4000).unwrap();
    assert_eq!(target.size_bytes(), 4096);
    target.set_size(4000).unwrap();
    assert_eq!((target.size_bytes(), fs::read(&path).unwrap()), (4000, contents[..4000].to_vec()));
    target.set_size(9000).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 9000);
}

#[test]
fn a_punched_range_reads_as_zeroes_and_nothing_else_changes() {
    let dir = scratch();
    let image = noise(5, 1 << 20);
    for (offset_bytes, len_bytes) in [
        (0, 0),
        (0, 4096),
        (1, 4094),
        (4095, 2),
        (65536, 65536),
        (100, 700_000),
        (12345, (1 << 20) - 12345),
    ] {
        let path = file_of(dir.path(), "punched", &image);
        let target = Target::open_in_place(&path, 1 << 20).unwrap();
        target.punch(offset_bytes, len_bytes).unwrap();
        let mut want = image.clone();
        let at = usize::try_from(offset_bytes).unwrap();
        want[at..at + usize::try_from(len_bytes).unwrap()].fill(0);
        assert!(fs::read(&path).unwrap() == want, "{offset_bytes} + {len_bytes}");
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_punched_range_gives_its_space_back() {
    let dir = scratch();
    let path = file_of(dir.path(), "punched", &noise(6, 1 << 20));
    File::open(&path).unwrap().sync_all().unwrap();
    let target = Target::open_in_place(&path, 0).unwrap();
    target.punch(0, 1 << 20).unwrap();
    let source = Arc::new(target.as_source().unwrap());
    assert_eq!(extents(&source), [(0, 1 << 20, ExtentKind::Hole)]);
}

//! Real block devices (loop), with sectors of 512 and 4096 bytes, and with bad ones.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::kit::{
    ENGINES, Loop, Mount, file_of, grid, noise, privileged, read_requests, read_whole, run,
    scratch, shuffled, write_ranges,
};
use crate::volume::{ExtentKind, Source, Target, VolumeError, VolumeKind};

const MIB: usize = 1 << 20;
/// Not a multiple of a page: three sectors are left over.
const ODD_BYTES: usize = 5 * MIB + 3 * 512;

fn device_of(dir: &Path, contents: &[u8], sector_bytes: u32) -> (Loop, PathBuf) {
    let file = file_of(dir, "disk", contents);
    (Loop::over(&file, sector_bytes), file)
}

fn contents_of(device: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    File::open(device).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_device_reads_to_its_last_sector() {
    if !privileged() {
        return;
    }
    for (size_bytes, sector_bytes) in [(ODD_BYTES, 512), (5 * MIB, 512), (5 * MIB, 4096)] {
        let dir = scratch();
        let contents = noise(40, size_bytes);
        let (device, _) = device_of(dir.path(), &contents, sector_bytes);
        for engine in ENGINES {
            for len_bytes in [MIB, 20_480, 4096] {
                let source = Source::open(&device.path).unwrap();
                assert_eq!(source.kind(), VolumeKind::BlockDevice);
                assert_eq!(source.size_bytes(), size_bytes as u64);
                assert!(source.is_direct());
                let image = read_whole(engine, 4, source, len_bytes);
                assert!(image == contents, "{engine}: {size_bytes} by {len_bytes}");
            }
        }
        let source = Arc::new(Source::open(&device.path).unwrap());
        let extents: Vec<_> = source.extents().collect();
        assert_eq!(extents.len(), 1);
        assert_eq!((extents[0].kind, extents[0].len_bytes), (ExtentKind::Data, size_bytes as u64));
    }
}

#[test]
fn a_device_is_written_to_its_last_sector() {
    if !privileged() {
        return;
    }
    for (size_bytes, sector_bytes) in [(ODD_BYTES, 512), (5 * MIB, 4096)] {
        for engine in ENGINES {
            let dir = scratch();
            let (device, _) = device_of(dir.path(), &vec![0; size_bytes], sector_bytes);
            let image = noise(41, size_bytes);
            let target = Target::open_in_place(&device.path, size_bytes as u64).unwrap();
            write_ranges(engine, 4, target, &image, &shuffled(size_bytes, MIB));
            assert!(contents_of(&device.path) == image, "{engine}: {size_bytes}");
        }
    }
}

#[test]
fn a_bad_sector_fails_its_request_only() {
    if !privileged() {
        return;
    }
    for engine in ENGINES {
        let dir = scratch();
        let contents = noise(42, 4 * MIB);
        let (device, file) = device_of(dir.path(), &contents, 512);
        let source = Source::open(&device.path).unwrap();
        // The device keeps its size; what its file no longer has, it cannot read.
        File::options().write(true).open(file).unwrap().set_len(3 * MIB as u64).unwrap();
        let outcome = read_requests(engine, 4, source, grid(4 * MIB as u64, MIB), MIB);
        let failed: Vec<_> =
            outcome.failed.iter().map(|(offset, error)| (*offset, error.raw_os_error())).collect();
        assert_eq!(failed, [(3 * MIB as u64, Some(libc::EIO))], "{engine}");
        assert!(outcome.image[..3 * MIB] == contents[..3 * MIB], "{engine}");
    }
}

#[test]
fn a_punched_range_of_a_device_reads_as_zeroes() {
    if !privileged() {
        return;
    }
    let dir = scratch();
    let mut want = noise(43, ODD_BYTES);
    let (device, _) = device_of(dir.path(), &want, 512);
    let target = Target::open_in_place(&device.path, 0).unwrap();
    for (offset_bytes, len_bytes) in
        [(MIB, MIB), (512, 512), (3 * MIB + 5, 700_001), (ODD_BYTES - 512, 512), (0, 1)]
    {
        target.punch(offset_bytes as u64, len_bytes as u64).unwrap();
        want[offset_bytes..offset_bytes + len_bytes].fill(0);
        let source = target.as_source().unwrap();
        let image = read_whole(ENGINES[0], 4, source, MIB);
        assert!(image == want, "{offset_bytes} + {len_bytes}");
    }
    target.sync().unwrap();
    drop(target);
    assert!(contents_of(&device.path) == want);
}

#[test]
fn a_device_too_small_is_refused() {
    if !privileged() {
        return;
    }
    let dir = scratch();
    let (device, _) = device_of(dir.path(), &noise(44, MIB), 512);
    let error = Target::open_in_place(&device.path, MIB as u64 + 1).unwrap_err();
    assert!(matches!(error, VolumeError::TargetTooSmall { .. }), "{error:?}");
    let mut target = Target::open_in_place(&device.path, 1000).unwrap();
    target.set_size(1000).unwrap();
    assert_eq!(target.size_bytes(), MIB as u64, "a device keeps its size");
    target.set_size(MIB as u64 + 1).unwrap_err();
}

#[test]
fn a_mounted_device_is_not_overwritten() {
    if !privileged() {
        return;
    }
    let dir = scratch();
    let disk = dir.path().join("disk");
    File::create(&disk).unwrap().set_len(16 << 20).unwrap();
    run("mkfs.ext4", &["-q", disk.to_str().unwrap()]);
    let device = Loop::over(&disk, 512);
    let mount = Mount::at(dir.path().join("mnt"), &[device.path.to_str().unwrap()]);
    fs::write(mount.path.join("file"), b"precious").unwrap();
    let error = Target::open_in_place(&device.path, 0).unwrap_err();
    assert!(matches!(error, VolumeError::TargetBusy { .. }), "{error:?}");
    Source::open(&device.path).unwrap();
}

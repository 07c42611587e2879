//! Every kind of file and attribute comes back as it was.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, makedev, mknodat,
};

use super::*;

fn set_mtime(path: &Path, sec: i64, nsec: i64) {
    let time = Timespec { tv_sec: sec, tv_nsec: nsec };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

#[track_caller]
fn check(source: &Path) -> (tempfile::TempDir, Memory, TreeOutcome) {
    let memory = Memory::new();
    let outcome = backup(source, &memory, &[]);
    assert!(outcome.issues.is_empty(), "{:?}", outcome.issues);
    let target = tempfile::tempdir_in("/var/tmp").unwrap();
    restore(&memory, &outcome.root, target.path());
    assert_same(source, target.path());
    (target, memory, outcome)
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/var/tmp").unwrap()
}

#[test]
fn files_of_every_size_class_come_back() {
    let source = dir();
    for len in [0, 1, 511, 512, 513, 4096, 600 << 10, (512 << 10) - 1, 512 << 10, 3_000_000] {
        fs::write(source.path().join(format!("f{len}")), noise(len as u64, len)).unwrap();
    }
    fs::write(source.path().join("huge"), noise(1, 70 << 20)).unwrap();
    let (_, memory, outcome) = check(source.path());
    assert_eq!(outcome.totals.files, 11);
    assert!(memory.stored(PackKind::Data).1 > 70 << 20);
}

#[test]
fn kinds_modes_owners_and_times_come_back() {
    let source = dir();
    let at = |name: &str| source.path().join(name);
    fs::create_dir_all(at("dir/sub")).unwrap();
    for (name, mode) in [("plain", 0o644), ("setuid", 0o4755), ("none", 0), ("all", 0o7777)] {
        fs::write(at(name), name).unwrap();
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(at("dir/sub"), fs::Permissions::from_mode(0o1500)).unwrap();
    symlink("plain", at("link")).unwrap();
    symlink("/nowhere/\u{e9}", at("dir/dangling")).unwrap();
    symlink("x".repeat(4000), at("long")).unwrap();
    mknodat(CWD, at("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    if is_root() {
        let mode = Mode::from_raw_mode(0o600);
        mknodat(CWD, at("null"), FileType::CharacterDevice, mode, makedev(1, 3)).unwrap();
        mknodat(CWD, at("disk"), FileType::BlockDevice, mode, makedev(253, 70_000)).unwrap();
        std::os::unix::fs::lchown(at("link"), Some(12), Some(34)).unwrap();
        std::os::unix::fs::chown(at("plain"), Some(1234), Some(4_000_000_000)).unwrap();
        std::os::unix::fs::chown(at("dir"), Some(7), Some(8)).unwrap();
    }
    set_mtime(&at("plain"), 1_000_000_000, 123_456_789);
    set_mtime(&at("all"), -5, 999_999_999);
    set_mtime(&at("link"), 17, 1);
    set_mtime(&at("fifo"), 5_000_000_000, 7);
    set_mtime(&at("dir/sub"), 99, 3);
    set_mtime(&at("dir"), 98, 4);
    set_mtime(source.path(), 97, 5);
    check(source.path());
    drop(socket);
}

#[test]
fn names_of_any_bytes_come_back_in_path_order() {
    let source = dir();
    let names: [&[u8]; 7] = [b"\xff\xfe", b"a b\n", b"a", b"a.txt", b"a-", b"\x01", b"\xc3\x28"];
    for name in names {
        let path = source.path().join(OsStr::from_bytes(name));
        if name == b"a" {
            fs::create_dir(&path).unwrap();
            fs::write(path.join("z"), "z").unwrap();
        } else {
            fs::write(&path, name).unwrap();
        }
    }
    let (_, memory, outcome) = check(source.path());
    let found = paths(&memory, &outcome.root);
    let at = |name: &str| found.iter().position(|path| path == name).unwrap();
    assert!(at("a") < at("a/z") && at("a/z") < at("a b\n") && at("a b\n") < at("a-"));
}

#[test]
fn hard_links_come_back_as_links() {
    let source = dir();
    let at = |name: &str| source.path().join(name);
    fs::create_dir_all(at("a/deep")).unwrap();
    fs::write(at("z-first"), noise(3, 100_000)).unwrap();
    fs::hard_link(at("z-first"), at("a/deep/second")).unwrap();
    fs::hard_link(at("z-first"), at("m-third")).unwrap();
    fs::write(at("tiny"), "tiny").unwrap();
    fs::hard_link(at("tiny"), at("a/tiny")).unwrap();
    symlink("tiny", at("sym")).unwrap();
    fs::hard_link(at("sym"), at("a/sym")).unwrap();
    fs::write(at("elsewhere"), "its other name is outside").unwrap();
    let outside = dir();
    fs::hard_link(at("elsewhere"), outside.path().join("name")).unwrap();
    let memory = Memory::new();
    let outcome = backup(source.path(), &memory, &[]);
    assert_eq!(outcome.totals.files, 3);
    assert_eq!(outcome.totals.moved_bytes, 100_000 + 4 + 25, "each is read once");
    let target = dir();
    restore(&memory, &outcome.root, target.path());
    fs::hard_link(target.path().join("elsewhere"), outside.path().join("other")).unwrap();
    assert_same(source.path(), target.path());
}

#[test]
fn extended_attributes_and_acls_come_back() {
    let source = dir();
    let at = |name: &str| source.path().join(name);
    fs::create_dir(at("dir")).unwrap();
    fs::write(at("file"), "x").unwrap();
    fs::write(at("dir/file"), noise(1, 5000)).unwrap();
    symlink("file", at("link")).unwrap();
    let set = |path: &Path, name: &str, value: &[u8]| {
        rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
    };
    set(&at("file"), "user.empty", b"");
    set(&at("file"), "user.large", &noise(2, 3000));
    set(&at("dir"), "user.dir", b"\0\xff");
    if is_root() {
        set(&at("link"), "trusted.link", b"on the link itself");
        let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        set(&at("dir/file"), "security.capability", &capability);
    }
    for arguments in [
        ["-m", "u:1234:rw,g:77:r,m::rwx", "file"],
        ["-m", "d:u:55:rwx,d:g::r-x", "dir"],
        ["-m", "u:9:r", "dir/file"],
    ] {
        let done = Command::new("setfacl").args(arguments).current_dir(source.path()).status();
        assert!(done.unwrap().success());
    }
    fs::set_permissions(at("dir/file"), fs::Permissions::from_mode(0o4750)).unwrap();
    let (target, ..) = check(source.path());
    assert!(xattrs(&target.path().join("file")).len() >= 3);
}

#[test]
fn holes_come_back_as_holes() {
    let source = dir();
    let make = |name: &str, size: u64, data: &[(u64, usize)]| {
        let file = File::create(source.path().join(name)).unwrap();
        file.set_len(size).unwrap();
        for (offset, len) in data {
            file.write_all_at(&noise(*offset + 1, *len), *offset).unwrap();
        }
    };
    make("all-hole", 1 << 27, &[]);
    make("tiny-hole", 100, &[]);
    make("small", 200_000, &[(8192, 4096), (100_000, 10)]);
    make("tail", 1 << 20, &[(0, 4096)]);
    make("head", 1 << 20, &[((1 << 20) - 4096, 4096)]);
    make("large", 300 << 20, &[(4096, 2 << 20), (63 << 20, 3 << 20), (200 << 20, 700_000)]);
    let (_, memory, outcome) = check(source.path());
    assert!(memory.stored(PackKind::Data).1 < 7 << 20);
    assert!(outcome.totals.moved_bytes < 7 << 20, "holes are not read");
}

#[test]
fn long_runs_of_zeros_become_holes_and_short_ones_stay_data() {
    let source = dir();
    let mut bytes = noise(1, 130 << 20);
    bytes[5 << 20..9 << 20].fill(0);
    bytes[(63 << 20) + 1..66 << 20].fill(0);
    bytes[(70 << 20) + 4096..(70 << 20) + 4096 + (32 << 10)].fill(0);
    bytes[129 << 20..].fill(0);
    fs::write(source.path().join("f"), &bytes).unwrap();
    let memory = Memory::new();
    let outcome = backup(source.path(), &memory, &[]);
    let target = dir();
    restore(&memory, &outcome.root, target.path());
    let restored = target.path().join("f");
    assert!(fs::read(&restored).unwrap() == bytes);
    let mib = 1 << 20;
    let data = [(0, 5 * mib), (9 * mib, 63 * mib + 4096), (66 * mib, 129 * mib)];
    assert_eq!(data_map(&restored), data);
    assert!(memory.stored(PackKind::Data).1 <= 123 << 20);
}

#[test]
fn a_file_of_many_extents_comes_back() {
    let source = dir();
    let file = File::create(source.path().join("comb")).unwrap();
    for tooth in 0..2000u64 {
        file.write_all_at(&noise(tooth, 4096), tooth * 12_288).unwrap();
    }
    check(source.path());
}

#[test]
fn a_file_in_which_nothing_repeats_is_found_again_after_an_insertion() {
    let source = dir();
    let bytes = noise(5, 40 << 20);
    fs::write(source.path().join("f"), &bytes).unwrap();
    let memory = Memory::new();
    backup(source.path(), &memory, &[]);
    let before = memory.stored(PackKind::Data).1;
    let mut inserted = bytes[..1 << 20].to_vec();
    inserted.extend_from_slice(b"inserted");
    inserted.extend_from_slice(&bytes[1 << 20..]);
    fs::write(source.path().join("f"), &inserted).unwrap();
    backup(source.path(), &memory, &[]);
    assert!(memory.stored(PackKind::Data).1 - before < 9 << 20);
}

#[test]
fn the_same_tree_gives_the_same_root_whoever_works_on_it() {
    let source = dir();
    for number in 0..3000 {
        let dir = source.path().join(format!("d{}", number % 37));
        fs::create_dir_all(&dir).unwrap();
        fs::write(
            dir.join(format!("f{number}")),
            noise(number, 40 * usize::try_from(number % 90).unwrap()),
        )
        .unwrap();
    }
    fs::write(source.path().join("big"), noise(1, 150 << 20)).unwrap();
    settle();
    let roots: Vec<_> = [1, 2, 16]
        .map(|workers| {
            let memory = Memory::new();
            let options = BackupOptions { workers, ..BackupOptions::default() };
            let cancel = AtomicBool::new(false);
            run_backup(source.path(), &memory, &[], &options, &mut NoHooks, &cancel).unwrap().root
        })
        .into();
    assert_eq!(roots[0], roots[1]);
    assert_eq!(roots[0], roots[2]);
}

//! Data made from a seed.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use super::{MIB, Rng};

/// A disk image: runs of noise, text, zeroes that are written, and holes, a few 100 KiB each.
/// About half of it is data.
pub fn make_image(path: &Path, seed: u64, size_bytes: u64) {
    let mut rng = Rng::new(seed);
    let file = File::create(path).unwrap();
    file.set_len(size_bytes).unwrap();
    let mut at = 0;
    while at < size_bytes {
        let len = (4096 * (1 + rng.below(160))).min(size_bytes - at);
        let bytes = usize::try_from(len).unwrap();
        match rng.below(5) {
            0 | 1 => file.write_all_at(&rng.noise(bytes), at).unwrap(),
            2 => file.write_all_at(&rng.text(bytes), at).unwrap(),
            3 => file.write_all_at(&vec![0; bytes], at).unwrap(),
            _ => {}
        }
        at += len;
    }
}

/// A file of noise only, written in pieces: nothing in it compresses or repeats.
pub fn noise_file(path: &Path, seed: u64, size_bytes: u64) {
    let mut rng = Rng::new(seed);
    let file = File::create(path).unwrap();
    let mut at = 0;
    while at < size_bytes {
        let len = MIB.min(size_bytes - at);
        file.write_all_at(&rng.noise(usize::try_from(len).unwrap()), at).unwrap();
        at += len;
    }
}

/// Overwrites `count` pieces of `len` bytes at offsets that are multiples of `len`. Returns where.
pub fn change_image(path: &Path, rng: &mut Rng, count: u64, len: u64) -> Vec<(u64, u64)> {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let places = file.metadata().unwrap().len() / len;
    let mut changed = Vec::new();
    for _ in 0..count {
        let offset = rng.below(places) * len;
        file.write_all_at(&rng.noise(usize::try_from(len).unwrap()), offset).unwrap();
        changed.push((offset, len));
    }
    changed
}

/// A tree with about `files` files of all kinds and sizes, and everything a restore must bring
/// back: modes, owners (for root), times, links, attributes, holes, names that are no UTF-8.
pub fn make_tree(root: &Path, seed: u64, files: u64) {
    let mut rng = Rng::new(seed);
    fs::create_dir(root).unwrap();
    let mut folders = vec![root.to_owned()];
    for number in 0..files {
        let folder = rng.pick(&folders).clone();
        if rng.below(12) == 0 {
            let new = folder.join(format!("folder-{number}"));
            fs::create_dir(&new).unwrap();
            folders.push(new);
        }
        let path = folder.join(format!("file-{number}"));
        fs::write(&path, content(&mut rng)).unwrap();
        touch(&path, &mut rng);
    }
    specials(root, &mut rng);
    // Innermost first: making something in a folder changes its time.
    for folder in folders.iter().rev() {
        touch(folder, &mut rng);
    }
}

fn content(rng: &mut Rng) -> Vec<u8> {
    let len = match rng.below(10) {
        0 => 0,
        1..=4 => rng.below(512),
        5..=8 => rng.below(60_000),
        _ => rng.below(1_500_000),
    };
    let len = usize::try_from(len).unwrap();
    if rng.below(2) == 0 { rng.text(len) } else { rng.noise(len) }
}

fn touch(path: &Path, rng: &mut Rng) {
    let mode = *rng.pick(&[0o644, 0o600, 0o755, 0o4755, 0o1777, 0o700]);
    if rustix::process::geteuid().is_root() {
        let id = |rng: &mut Rng| Some(u32::try_from(rng.below(4) * 1000).unwrap());
        let (owner, group) = (id(rng), id(rng));
        std::os::unix::fs::lchown(path, owner, group).unwrap();
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let nanos = Duration::from_nanos(1_000_000_000_000_000_000 + rng.below(1 << 58));
    File::open(path).unwrap().set_modified(UNIX_EPOCH + nanos).unwrap();
}

fn specials(root: &Path, rng: &mut Rng) {
    let odd = root.join(OsStr::from_bytes(b"no \xff utf-8 \n at all"));
    fs::write(&odd, "odd").unwrap();
    fs::hard_link(&odd, root.join("second name")).unwrap();
    symlink("no/such/place", root.join("dangling")).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(8 * MIB + 5).unwrap();
    sparse.write_all_at(&rng.noise(70_000), 3 * MIB).unwrap();
    sparse.write_all_at(b"end", 8 * MIB + 2).unwrap();
    fs::write(root.join("large"), rng.noise(3 << 20)).unwrap();
    let fifo = root.join("fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o640);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    drop(std::os::unix::net::UnixListener::bind(root.join("socket")));
    let flags = rustix::fs::XattrFlags::empty();
    // Not every file system has them.
    let _ = rustix::fs::setxattr(&odd, c"user.colour", b"blue \xff", flags);
}

/// Changes a tree that [`make_tree`] made: new files, other content, removals, another name.
pub fn change_tree(root: &Path, rng: &mut Rng) {
    let mut files: Vec<PathBuf> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().as_bytes().starts_with(b"file-"))
        .collect();
    files.sort();
    for path in &files {
        match rng.below(8) {
            0 => fs::write(path, content(rng)).unwrap(),
            1 => fs::remove_file(path).unwrap(),
            2 => fs::rename(path, path.with_extension("renamed")).unwrap(),
            _ => {}
        }
    }
    for _ in 0..4 {
        fs::write(root.join(format!("file-new-{}", rng.below(1 << 40))), content(rng)).unwrap();
    }
}

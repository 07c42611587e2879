//! Whether a restored thing is what it was made from: every byte, and all metadata.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::report::bytes;
use crate::{Outcome, While};

const PIECE_BYTES: usize = 1 << 20;
/// Longest name list, and longest value, that Linux has.
const XATTR_BYTES_MAX: usize = 64 << 10;

/// Compares two images below `folder`, byte for byte, and that holes are holes.
pub(crate) fn image(folder: &Path, original: &str, restored: &str) -> Outcome<()> {
    let [a, b] = [original, restored].map(|name| folder.join(name));
    let [meta_a, meta_b] = [metadata(&a)?, metadata(&b)?];
    same("the length", &b, &meta_a.len(), &meta_b.len())?;
    same_bytes(&a, &b)?;
    same_holes(&b, &meta_a, &meta_b)?;
    println!("      identical to {original}: {}, every byte; holes are holes", bytes(meta_a.len()));
    Ok(())
}

/// Compares two trees, or two files, below `folder`.
pub(crate) fn tree(folder: &Path, original: &str, restored: &str) -> Outcome<()> {
    let mut comparison = Comparison::default();
    comparison.entry(&folder.join(original), &folder.join(restored), Path::new(""))?;
    let Comparison { entries, bytes: length, .. } = comparison;
    let what = if entries == 1 { String::new() } else { format!("{entries} entries, ") };
    println!(
        "      identical to {original}: {what}{}, every byte; kinds, modes, owners, times, links, \
         holes, extended attributes",
        bytes(length)
    );
    Ok(())
}

#[derive(Default)]
struct Comparison {
    entries: u64,
    bytes: u64,
    /// The path at which an inode was met first, of each side.
    links: [BTreeMap<(u64, u64), PathBuf>; 2],
}

impl Comparison {
    /// `path` is that of `a` and `b` below the roots.
    fn entry(&mut self, a: &Path, b: &Path, path: &Path) -> Outcome<()> {
        let [meta_a, meta_b] = [metadata(a)?, metadata(b)?];
        self.entries += 1;
        same("the kind", b, &meta_a.file_type(), &meta_b.file_type())?;
        same("the mode", b, &meta_a.mode(), &meta_b.mode())?;
        let owner = |meta: &Metadata| (meta.uid(), meta.gid());
        same("the owner", b, &owner(&meta_a), &owner(&meta_b))?;
        let time = |meta: &Metadata| (meta.mtime(), meta.mtime_nsec());
        same("the time", b, &time(&meta_a), &time(&meta_b))?;
        same("an extended attribute", b, &attributes(a)?, &attributes(b)?)?;
        let kind = meta_a.file_type();
        if kind.is_dir() {
            return self.children(a, b, path);
        }
        same("the number of links", b, &meta_a.nlink(), &meta_b.nlink())?;
        let [first_a, first_b] = self.first_paths(path, [&meta_a, &meta_b]);
        same("the hard link", b, &first_a, &first_b)?;
        if kind.is_symlink() {
            let [to_a, to_b] = [a, b].map(|link| fs::read_link(link).while_(link.display()));
            same("the target", b, &to_a?, &to_b?)?;
        } else if kind.is_file() {
            same("the length", b, &meta_a.len(), &meta_b.len())?;
            same_bytes(a, b)?;
            same_holes(b, &meta_a, &meta_b)?;
            self.bytes += meta_a.len();
        } else if kind.is_char_device() || kind.is_block_device() {
            same("the device", b, &meta_a.rdev(), &meta_b.rdev())?;
        }
        Ok(())
    }

    fn children(&mut self, a: &Path, b: &Path, path: &Path) -> Outcome<()> {
        let names = names(a)?;
        same("the list of names", b, &names, &self::names(b)?)?;
        for name in names {
            self.entry(&a.join(&name), &b.join(&name), &path.join(&name))?;
        }
        Ok(())
    }

    fn first_paths(&mut self, path: &Path, metas: [&Metadata; 2]) -> [PathBuf; 2] {
        let mut sides = self.links.iter_mut().zip(metas);
        std::array::from_fn(|_| match sides.next() {
            Some((seen, meta)) => {
                let inode = (meta.dev(), meta.ino());
                seen.entry(inode).or_insert_with(|| path.to_owned()).clone()
            }
            None => PathBuf::new(),
        })
    }
}

fn metadata(path: &Path) -> Outcome<Metadata> {
    fs::symlink_metadata(path).while_(path.display())
}

fn names(folder: &Path) -> Outcome<BTreeSet<OsString>> {
    let entries = fs::read_dir(folder).while_(folder.display())?;
    entries.map(|entry| Ok(entry.while_(folder.display())?.file_name())).collect()
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, path: &Path, a: &T, b: &T) -> Outcome<()> {
    if a == b {
        return Ok(());
    }
    Err(format!("{}: {what} differs: it was {a:?} and is {b:?}", path.display()))
}

fn attributes(path: &Path) -> Outcome<BTreeMap<OsString, Vec<u8>>> {
    let mut buffer = vec![0; XATTR_BYTES_MAX];
    let len = match rustix::fs::llistxattr(path, &mut buffer[..]) {
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        other => other.while_(path.display())?,
    };
    let names: Vec<Vec<u8>> = buffer[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .collect();
    let mut found = BTreeMap::new();
    for name in names {
        let name = OsString::from_vec(name);
        let len = rustix::fs::lgetxattr(path, &name, &mut buffer[..]).while_(path.display())?;
        found.insert(name, buffer[..len].to_vec());
    }
    Ok(found)
}

/// Nothing that was a hole may have become zeroes on disk. File systems differ in what they count
/// besides, so a tenth of the length is let pass.
fn same_holes(path: &Path, a: &Metadata, b: &Metadata) -> Outcome<()> {
    let [was, is] = [a, b].map(|meta| meta.blocks() * 512);
    if is > was + a.len() / 10 + (64 << 10) {
        return Err(format!("{}: took {was} bytes on disk and takes {is}", path.display()));
    }
    Ok(())
}

fn same_bytes(a: &Path, b: &Path) -> Outcome<()> {
    let mut sides = [File::open(a).while_(a.display())?, File::open(b).while_(b.display())?];
    let mut pieces = [vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]];
    let mut offset = 0;
    loop {
        let mut lens = [0; 2];
        for ((side, piece), len) in sides.iter_mut().zip(&mut pieces).zip(&mut lens) {
            *len = fill(side, piece).while_(b.display())?;
        }
        let [piece_a, piece_b] = [&pieces[0][..lens[0]], &pieces[1][..lens[1]]];
        if piece_a != piece_b {
            let at = piece_a.iter().zip(piece_b).take_while(|(a, b)| a == b).count();
            return Err(format!("{}: byte {} differs", b.display(), offset + at));
        }
        if lens[0] == 0 {
            return Ok(());
        }
        offset += lens[0];
    }
}

/// Reads until `piece` is full or the file ends.
fn fill(file: &mut File, piece: &mut [u8]) -> std::io::Result<usize> {
    let mut len = 0;
    while len < piece.len() {
        match file.read(&mut piece[len..])? {
            0 => break,
            read => len += read,
        }
    }
    Ok(len)
}

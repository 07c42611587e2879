//! Data and a repository for the benchmarks.

use std::fs;
use std::path::{Path, PathBuf};

use repo_format::keys::{KeyBundle, Keys, Secret};

/// Keys of a made-up repository.
pub fn keys() -> Keys {
    Keys::new(&KeyBundle::new(Secret::new([1; 32]), Secret::new([2; 32])))
}

/// Bytes that do not compress, the same in every run.
pub fn random_bytes(len: usize) -> Vec<u8> {
    let mut state = 2024u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(mixed ^ mixed >> 31).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// `len` bytes of programs, libraries and texts of this machine: the same on one machine, and
/// about what a server's disk holds. Never the same file twice, unless there are too few.
///
/// # Panics
///
/// If there are none.
pub fn real_bytes(len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let before = bytes.len();
        for folder in ["/usr/bin", "/usr/lib", "/usr/share"] {
            gather(Path::new(folder), len, &mut bytes);
        }
        assert!(bytes.len() > before, "this machine has no files in /usr");
    }
    bytes
}

/// Files of up to a few MiB, so that no single one decides; names in order.
fn gather(folder: &Path, len: usize, bytes: &mut Vec<u8>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if bytes.len() >= len {
            return;
        }
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => gather(&path, len, bytes),
            Ok(meta) if meta.is_file() && meta.len() <= 4 << 20 => {
                let file = fs::read(&path).unwrap_or_default();
                bytes.extend_from_slice(file.get(..len - bytes.len()).unwrap_or(&file));
            }
            _ => (),
        }
    }
}

/// A folder in memory where there is one, so that no disk is measured.
pub fn memory_folder() -> PathBuf {
    let shm = PathBuf::from("/dev/shm");
    if shm.is_dir() { shm } else { std::env::temp_dir() }
}

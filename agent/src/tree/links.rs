//! Which entries are the same inode.
//!
//! Entries are captured out of order and emitted in order. The first entry emitted has the
//! content, later ones name its path. While capturing, whoever knows of an earlier entry that is
//! the same inode does not read the file again.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Mutex;

use super::beneath::lock;
use super::names::scratch_file;

/// Groups remembered at once: 24 MiB at most.
const GROUPS_MAX: usize = 300_000;
/// Paths kept in memory before the rest goes to a scratch file.
const PATHS_BYTES_MAX: usize = 4 << 20;

/// An inode: device and number.
pub(super) type LinkKey = (u64, u64);

/// Whether a worker is to read a file that has several links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// No earlier entry is known.
    Read,
    /// An earlier entry is the same inode and has been or is being read.
    Skip,
    /// There are too many groups: treat it as a file of its own.
    Forget,
}

/// What an entry turns out to be when its turn to be emitted comes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is the first of its group.
    First,
    /// It is a further link to the entry at this path.
    Further(Vec<u8>),
    /// It cannot be remembered.
    Forgotten,
}

#[derive(Debug)]
struct Group {
    /// The earliest entry that a worker claimed to read.
    claimed_by: u64,
    /// Of the entry that was emitted.
    first: Option<PathAt>,
    /// Links that were not met yet.
    left: u32,
}

#[derive(Debug, Clone, Copy)]
struct PathAt {
    at: u64,
    len: u32,
}

/// All groups of links of a run.
#[derive(Debug)]
pub(super) struct Links {
    state: Mutex<State>,
    groups_max: usize,
}

#[derive(Debug)]
struct State {
    groups: HashMap<LinkKey, Group>,
    paths: Paths,
}

impl Links {
    pub(super) fn new(scratch: PathBuf) -> Self {
        Self::with_limit(scratch, GROUPS_MAX)
    }

    fn with_limit(scratch: PathBuf, groups_max: usize) -> Self {
        let paths = Paths { memory: Vec::new(), file: None, file_bytes: 0, scratch };
        Self { state: Mutex::new(State { groups: HashMap::new(), paths }), groups_max }
    }

    /// Asks, on behalf of the entry at `position` in the order of emission, whether to read.
    pub(super) fn claim(&self, key: LinkKey, position: u64, nlink: u32) -> Claim {
        let mut state = lock(&self.state);
        let is_full = state.groups.len() >= self.groups_max;
        match state.groups.get_mut(&key) {
            Some(group) if group.claimed_by < position => Claim::Skip,
            Some(group) => {
                group.claimed_by = position;
                Claim::Read
            }
            None if is_full => Claim::Forget,
            None => {
                let group = Group { claimed_by: position, first: None, left: nlink };
                state.groups.insert(key, group);
                Claim::Read
            }
        }
    }

    /// Settles the entry at `path` and `position`. Called in order of emission, and only for
    /// entries that are emitted, or are about to be once their content is there.
    pub(super) fn turn(
        &self,
        key: LinkKey,
        position: u64,
        nlink: u32,
        path: &[u8],
    ) -> io::Result<Turn> {
        let mut state = lock(&self.state);
        let State { groups, paths } = &mut *state;
        if groups.len() >= self.groups_max && !groups.contains_key(&key) {
            return Ok(Turn::Forgotten);
        }
        let group =
            groups.entry(key).or_insert(Group { claimed_by: position, first: None, left: nlink });
        let turn = if let Some(first) = group.first {
            Turn::Further(paths.get(first)?)
        } else {
            group.first = Some(paths.add(path)?);
            group.claimed_by = group.claimed_by.min(position);
            Turn::First
        };
        group.left = group.left.saturating_sub(1);
        if group.left == 0 {
            groups.remove(&key);
        }
        Ok(turn)
    }

    /// The first entry of a group could not be captured after all: the next one is the first.
    pub(super) fn withdraw(&self, key: LinkKey) {
        lock(&self.state).groups.remove(&key);
    }
}

/// Paths, by where they start.
#[derive(Debug)]
struct Paths {
    memory: Vec<u8>,
    file: Option<File>,
    file_bytes: u64,
    scratch: PathBuf,
}

/// Positions from here on are in the file.
const IN_FILE: u64 = 1 << 62;

impl Paths {
    fn add(&mut self, path: &[u8]) -> io::Result<PathAt> {
        let len = u32::try_from(path.len()).unwrap_or(u32::MAX);
        if self.memory.len() + path.len() <= PATHS_BYTES_MAX {
            let at = self.memory.len() as u64;
            self.memory.extend_from_slice(path);
            return Ok(PathAt { at, len });
        }
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(scratch_file(&self.scratch)?),
        };
        file.write_all_at(path, self.file_bytes)?;
        let at = IN_FILE + self.file_bytes;
        self.file_bytes += path.len() as u64;
        Ok(PathAt { at, len })
    }

    fn get(&self, path: PathAt) -> io::Result<Vec<u8>> {
        let len = usize::try_from(path.len).unwrap_or(usize::MAX);
        if let (Some(at), Some(file)) = (path.at.checked_sub(IN_FILE), &self.file) {
            let mut bytes = vec![0; len];
            file.read_exact_at(&mut bytes, at)?;
            return Ok(bytes);
        }
        let at = usize::try_from(path.at).unwrap_or(usize::MAX);
        let bytes = at.checked_add(len).and_then(|end| self.memory.get(at..end));
        Ok(bytes.unwrap_or_default().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_entry_of_a_group_has_the_content() {
        let links = Links::new(std::env::temp_dir());
        assert_eq!(links.claim((1, 2), 10, 3), Claim::Read);
        assert_eq!(links.claim((1, 2), 11, 3), Claim::Skip);
        assert_eq!(links.claim((1, 2), 5, 3), Claim::Read, "an earlier entry cannot wait");
        assert_eq!(links.turn((1, 2), 5, 3, b"a").unwrap(), Turn::First);
        assert_eq!(links.turn((1, 2), 10, 3, b"b").unwrap(), Turn::Further(b"a".to_vec()));
        assert_eq!(links.turn((1, 2), 11, 3, b"c").unwrap(), Turn::Further(b"a".to_vec()));
        assert!(lock(&links.state).groups.is_empty(), "complete groups are dropped");
    }

    #[test]
    fn more_groups_than_fit_are_files_of_their_own() {
        let links = Links::with_limit(std::env::temp_dir(), 1);
        assert_eq!(links.claim((1, 1), 1, 2), Claim::Read);
        assert_eq!(links.claim((1, 2), 2, 2), Claim::Forget);
        assert_eq!(links.turn((1, 2), 2, 2, b"x").unwrap(), Turn::Forgotten);
        assert_eq!(links.turn((1, 1), 1, 2, b"a").unwrap(), Turn::First);
    }

    #[test]
    fn paths_beyond_the_memory_bound_are_read_back_from_the_scratch_file() {
        let links = Links::new(std::env::temp_dir());
        let path = |number: u64| format!("{number:0>1000}").into_bytes();
        for number in 0..6000 {
            assert_eq!(links.turn((0, number), number, 2, &path(number)).unwrap(), Turn::First);
        }
        assert!(lock(&links.state).paths.file.is_some());
        for number in [0, 1, 4000, 4193, 4194, 4195, 5999] {
            let turn = links.turn((0, number), 9000, 2, b"z").unwrap();
            assert_eq!(turn, Turn::Further(path(number)));
        }
    }
}

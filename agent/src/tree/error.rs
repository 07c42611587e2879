//! What can go wrong with a tree: as a whole, and with one file of it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use repo_format::error::FormatError;
use repo_format::id::ChunkId;
use repository::RepositoryError;

/// Why a whole run stopped. What befalls one file is an [`Issue`] and stops nothing.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The repository failed.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The directory to back up cannot be opened.
    #[error("cannot read the directory {}", path.display())]
    Source {
        /// As the caller named it.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// An exclude pattern is not one.
    #[error("`{pattern}` is not a pattern: {reason}")]
    Pattern {
        /// As given.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The target of a restore holds something already.
    #[error(
        "the target {} is not empty. Choose an empty one, or restore in place to overwrite what differs", path.display()
    )]
    TargetNotEmpty {
        /// The target directory.
        path: PathBuf,
    },
    /// The target cannot take any more: no space, no quota, read-only, failing.
    #[error("cannot write {} in the target", path.display())]
    Target {
        /// Below the target, or the target itself.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The snapshot has no such path.
    #[error("the snapshot has no path {}", path.display())]
    NoSuchPath {
        /// Relative to the snapshot's root.
        path: PathBuf,
    },
    /// The path is there, but has no bytes to stream.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// Relative to the snapshot's root.
        path: PathBuf,
    },
    /// A metadata chunk is authentic and yet not what it should be.
    #[error("metadata chunk {chunk} of the tree is damaged")]
    Damaged {
        /// The chunk.
        chunk: ChunkId,
        /// What is wrong with it.
        source: FormatError,
    },
    /// Writing the bytes of a file to where the caller wants them failed.
    #[error("cannot write the file's content")]
    Output(#[source] std::io::Error),
    /// A scratch file for what does not fit into memory cannot be made or used.
    #[error("cannot use a scratch file in {}", path.display())]
    Scratch {
        /// The directory for scratch files.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Cancelled,
}

/// A path of a tree for people and for `std`.
pub(crate) fn display_path(path: &[u8]) -> PathBuf {
    PathBuf::from(if path.is_empty() { OsString::from(".") } else { os_path(path) })
}

fn os_path(path: &[u8]) -> OsString {
    OsString::from_vec(path.to_vec())
}

/// Something that was not captured, or not brought back, as it is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Issue {
    /// Below the tree's root, raw bytes.
    #[serde(serialize_with = "lossy")]
    pub path: Vec<u8>,
    /// What happened.
    pub kind: IssueKind,
    /// Particulars, mostly what the kernel said. May be empty.
    pub detail: String,
}

fn lossy<S: serde::Serializer>(path: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(path))
}

impl std::fmt::Display for Issue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", display_path(&self.path).display(), self.kind.text())?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

/// What kind of [`Issue`] it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum IssueKind {
    /// It could not be opened or read. A file is missing from the snapshot (nothing is recorded
    /// that could pass for its content); a directory is there, without what is below it.
    Unreadable,
    /// It was there when its directory was read, and gone when its turn came.
    Vanished,
    /// It changed while it was read, each time it was tried; the snapshot has what was read last.
    ChangedWhileRead,
    /// Its extended attributes could not be read, or not all; the rest is in the snapshot.
    Attributes,
    /// It exceeds a limit of the format and is not in the snapshot.
    TooLarge,
    /// There are too many groups of hard links to remember: it is stored as a file of its own.
    LinkForgotten,
    /// Restore: it could not be created or written.
    NotRestored,
    /// Restore: its content is there; owner, mode, attributes or times could not all be set.
    NotAllMetadata,
    /// Restore: the repository does not have its content undamaged. No part of it is left in a
    /// fresh target.
    Damaged,
}

impl IssueKind {
    /// For people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Unreadable => "cannot be read",
            Self::Vanished => "vanished",
            Self::ChangedWhileRead => "changed while it was read",
            Self::Attributes => "extended attributes cannot be read",
            Self::TooLarge => "exceeds a limit of the format",
            Self::LinkForgotten => "stored as a file of its own: too many hard links",
            Self::NotRestored => "not restored",
            Self::NotAllMetadata => "not all metadata restored",
            Self::Damaged => "damaged in the repository",
        }
    }
}

/// The issues of a run. The first [`Self::NAMED_MAX`] are kept; hooks are told of every one.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Issues {
    /// The first ones, in path order within what each thread met.
    pub named: Vec<Issue>,
    /// How many there were.
    pub count: u64,
    /// Whether one of them is [`IssueKind::Damaged`].
    pub damaged: bool,
}

impl Issues {
    /// Issues kept in memory.
    pub const NAMED_MAX: usize = 1000;

    /// Whether nothing went wrong.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn add(&mut self, issue: Issue) {
        self.count += 1;
        self.damaged |= issue.kind == IssueKind::Damaged;
        if self.named.len() < Self::NAMED_MAX {
            self.named.push(issue);
        }
    }
}

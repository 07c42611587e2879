//! Why a store did not do as asked.

use std::io;

use rustix::io::Errno;

use super::Refusal;

/// What a store was asked to do. `Display` gives a verb that a path can follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "named after the methods of `Store`")]
pub enum Op {
    Open,
    Get,
    GetRange,
    PutNew,
    Put,
    List,
    ListFirst,
    Delete,
    Size,
    SweepTemporary,
    Lock,
}

impl Op {
    /// Every operation, in the order of declaration.
    pub const ALL: [Self; 11] = [
        Self::Open,
        Self::Get,
        Self::GetRange,
        Self::PutNew,
        Self::Put,
        Self::List,
        Self::ListFirst,
        Self::Delete,
        Self::Size,
        Self::SweepTemporary,
        Self::Lock,
    ];

    /// Whether it can change what is stored.
    pub const fn is_write(self) -> bool {
        matches!(self, Self::PutNew | Self::Put | Self::Delete)
    }
}

impl std::fmt::Display for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Get | Self::GetRange => "read",
            Self::PutNew => "create",
            Self::Put => "replace",
            Self::List | Self::ListFirst => "list",
            Self::Delete => "delete",
            Self::Size => "find the size of",
            Self::SweepTemporary => "clear unfinished writes in",
            Self::Lock => "lock",
        })
    }
}

/// Why a store did not do as asked. A variant exists where a caller acts differently.
///
/// `at` is always the full place: the path of a file, or the URL of an object. What happened in
/// the system below is the source, so a chain of messages says nothing twice.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message is its doc")]
pub enum StoreError {
    #[error("{at} does not exist")]
    Missing { at: String },

    #[error("{at} exists already")]
    Exists { at: String },

    #[error(
        "{at} has {size_bytes} bytes, but bytes up to {end_bytes} were wanted: it is damaged or not the object that was expected"
    )]
    Short { at: String, end_bytes: u64, size_bytes: u64 },

    #[error(
        "{at} has {size_bytes} bytes, more than the {limit_bytes} that such an object may have: it is damaged or not ours"
    )]
    TooLarge { at: String, size_bytes: u64, limit_bytes: u64 },

    /// Only heartbeats are ever rewritten; asking for anything else is our own bug.
    #[error("{at} may be written only once, so it was not replaced")]
    WriteOnce { at: String },

    #[error(
        "no right to {op} {at}: check its owner and mode, and that its file system is mounted read-write where it is to be written"
    )]
    Denied { op: Op, at: String, source: io::Error },

    #[error(
        "no space left to {op} {at}: free space there, raise its quota or prune; what is stored already is sound"
    )]
    Full { op: Op, at: String, source: io::Error },

    /// May work if tried again: a time-out, a stale handle, too many requests. After a write it
    /// is not known whether the write took place.
    #[error("cannot {op} {at} at the moment")]
    Unavailable { op: Op, at: String, source: io::Error },

    /// Trying again is not expected to help: a failing disk, an unsupported file system.
    /// After a write it is not known whether the write took place.
    #[error("cannot {op} {at}: check the device and the system's log, then run `salvor verify`")]
    Io { op: Op, at: String, source: io::Error },

    /// A server does not do it for a reason that trying again does not change. A write did not
    /// take place.
    #[error("cannot {op} {at}: {refusal}")]
    Refused { op: Op, at: String, refusal: Box<Refusal>, source: io::Error },

    /// A server answered something that is not known here, or that no sound server answers. After
    /// a write it is not known whether the write took place.
    #[error("cannot {op} {at}: the server did not answer as S3 does")]
    Server { op: Op, at: String, source: io::Error },

    /// It was tried as long as it may be.
    #[error(
        "gave up after {tries} tries in {waited_ms} ms: check the network and the storage, then run the command again"
    )]
    GaveUp { tries: u32, waited_ms: u64, source: Box<StoreError> },
}

impl StoreError {
    /// Sorts what the system answered into the variants a caller tells apart. `ENOENT` becomes
    /// [`StoreError::Missing`] and `EEXIST` becomes [`StoreError::Exists`].
    pub fn from_io(op: Op, at: String, source: io::Error) -> Self {
        let Some(errno) = Errno::from_io_error(&source) else {
            return Self::Io { op, at, source };
        };
        match errno {
            Errno::NOENT => Self::Missing { at },
            Errno::EXIST => Self::Exists { at },
            Errno::ACCESS | Errno::PERM | Errno::ROFS => Self::Denied { op, at, source },
            // FBIG is the process's file size limit: no object comes near a file system's own.
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Self::Full { op, at, source },
            errno if is_passing(errno) => Self::Unavailable { op, at, source },
            _ => Self::Io { op, at, source },
        }
    }

    /// Whether the same request may succeed if it is sent again.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Whether a write that ended with this error may have taken place all the same.
    pub fn is_outcome_unknown(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Io { .. } | Self::Server { .. } => true,
            Self::GaveUp { source, .. } => source.is_outcome_unknown(),
            _ => false,
        }
    }
}

/// Conditions that pass by themselves. `EIO` is not among them: on a local disk it stays, and
/// NFS mounted `softerr` answers `ETIMEDOUT` instead.
fn is_passing(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::INTR
            | Errno::AGAIN
            | Errno::TIMEDOUT
            | Errno::STALE
            | Errno::BUSY
            | Errno::NOMEM
            | Errno::MFILE
            | Errno::NFILE
            | Errno::NETDOWN
            | Errno::NETUNREACH
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::CONNRESET
            | Errno::CONNREFUSED
            | Errno::CONNABORTED
            | Errno::NOTCONN
            | Errno::REMOTEIO
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(errno: Errno) -> StoreError {
        StoreError::from_io(Op::PutNew, "/r/config".into(), errno.into())
    }

    #[test]
    fn what_a_caller_tells_apart_is_told_apart() {
        assert!(matches!(error_of(Errno::NOENT), StoreError::Missing { .. }));
        assert!(matches!(error_of(Errno::EXIST), StoreError::Exists { .. }));
        for errno in [Errno::ACCESS, Errno::PERM, Errno::ROFS] {
            assert!(matches!(error_of(errno), StoreError::Denied { .. }), "{errno}");
        }
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::FBIG] {
            assert!(matches!(error_of(errno), StoreError::Full { .. }), "{errno}");
        }
        for errno in [Errno::STALE, Errno::TIMEDOUT, Errno::AGAIN] {
            assert!(error_of(errno).is_transient(), "{errno}");
        }
        assert!(!error_of(Errno::IO).is_transient());
    }

    #[test]
    fn only_a_failure_below_leaves_a_write_in_doubt() {
        assert!(error_of(Errno::IO).is_outcome_unknown());
        assert!(error_of(Errno::TIMEDOUT).is_outcome_unknown());
        assert!(!error_of(Errno::NOSPC).is_outcome_unknown());
        assert!(!error_of(Errno::EXIST).is_outcome_unknown());
    }

    #[test]
    fn a_message_names_the_path_and_leaves_the_cause_to_the_chain() {
        let error = error_of(Errno::NOSPC);
        let message = error.to_string();
        assert!(message.contains("/r/config") && message.contains("free space"), "{message}");
        assert!(!message.contains("os error"), "{message}");
        assert!(std::error::Error::source(&error).is_some());
    }
}

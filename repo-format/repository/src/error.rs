//! Why a repository did not do as asked.

use repo_format::error::FormatError;
use repo_format::id::{ChunkId, SessionId};

use crate::index::IndexError;
use crate::store::StoreError;

/// Why a repository did not do as asked. A variant exists where a caller acts differently.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message is its doc")]
pub enum RepositoryError {
    #[error(transparent)]
    Store(#[from] StoreError),

    #[error(
        "there is no Salvor repository at {at}. Create one with `salvor init`, or check the path"
    )]
    NoRepository { at: String },

    #[error("there is a repository at {at} already; nothing was changed")]
    AlreadyInitialised { at: String },

    #[error("the passphrase or key file opens none of the {slots} key slots of {at}")]
    WrongSecret { at: String, slots: usize },

    #[error(
        "{at} has no key slot left that can be read: without a copy of `keys/` nothing in it can be opened"
    )]
    NoSlots { at: String },

    #[error("{object} cannot be used by this program: {source}")]
    Unsupported { object: String, source: FormatError },

    #[error("{object} is damaged: {source}. Run `salvor verify` to see what is affected")]
    Damaged { object: String, source: FormatError },

    #[error(
        "the newest catalog cannot be read, so nothing may be written. Run `salvor verify --repair`; reading goes on with an older one"
    )]
    CatalogUnreadable { source: Box<RepositoryError> },

    #[error(
        "chunk {id} is in no pack that the index knows. Run `salvor verify` to see what is affected"
    )]
    MissingChunk { id: ChunkId },

    #[error(
        "chunk {id} cannot be read from any pack that should hold it ({why}). Run `salvor verify` to see what is affected"
    )]
    DamagedChunk { id: ChunkId, why: String },

    #[error(
        "session {session} was fenced: it did not move for so long that a maintainer took it for dead. Nothing that was reported saved is lost; run the backup again, it goes on from its last checkpoint"
    )]
    Fenced { session: SessionId },

    #[error(
        "the repository went back in time: catalog {seen} was seen before and the newest is now {found}. Its storage was rolled back or objects were removed. Nothing was written; run `salvor verify`"
    )]
    RolledBack { seen: u64, found: u64 },

    #[error("the local index cache failed")]
    Index(#[from] IndexError),

    #[error("the system gave no random bytes")]
    Random(#[source] getrandom::Error),

    #[error(
        "{at} is {}", if *is_split {
            "one half of a repository whose data is in a bucket and whose registers are elsewhere: give the bucket with --repo and the other place with --registers"
        } else {
            "a whole repository: open it without --registers"
        }
    )]
    Halves { at: String, is_split: bool },

    #[error("no snapshot matches `{wanted}`. `salvor snapshots` lists them")]
    NoSnapshot { wanted: String },

    #[error("`{wanted}` could be any of {count} snapshots ({examples}). Give more digits")]
    Ambiguous { wanted: String, count: usize, examples: String },

    #[error("`{label}` is the last key slot: removing it would close the repository for ever")]
    LastSlot { label: String },

    #[error("no key slot matches `{wanted}`. `salvor key list` lists them")]
    NoSlot { wanted: String },

    #[error(
        "the repository's index is not whole ({segments} segments cannot be read), so nothing was deleted. Run `salvor verify --repair` first"
    )]
    IndexNotWhole { segments: usize },

    #[error("other maintainers changed the catalog {tries} times in a row; run it again")]
    Contended { tries: u32 },

    #[error(
        "objects cannot be locked in {at}: that takes a bucket with versioning and object lock enabled"
    )]
    NoObjectLock { at: String },

    #[error("a worker of the repository stopped unexpectedly; this is a bug")]
    WorkerLost,

    #[error("it was cancelled; what is stored stays useful")]
    Cancelled,
}

impl RepositoryError {
    /// Names the object that could not be decoded, and tells damage from what a newer program or
    /// another key could read.
    #[expect(clippy::needless_pass_by_value, reason = "keys and texts come by value")]
    pub fn format(object: impl ToString, source: FormatError) -> Self {
        let object = object.to_string();
        match source {
            FormatError::NewerVersion { .. }
            | FormatError::UnknownFeature { .. }
            | FormatError::UnknownSuite { .. }
            | FormatError::UnknownEpoch { .. } => Self::Unsupported { object, source },
            _ => Self::Damaged { object, source },
        }
    }

    /// Whether stored bytes are missing or wrong, so that a part of the repository is lost.
    pub const fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Damaged { .. }
                | Self::CatalogUnreadable { .. }
                | Self::MissingChunk { .. }
                | Self::DamagedChunk { .. }
                | Self::RolledBack { .. }
                | Self::IndexNotWhole { .. }
                | Self::NoSlots { .. }
                | Self::Store(
                    StoreError::Missing { .. }
                        | StoreError::Short { .. }
                        | StoreError::TooLarge { .. }
                )
        )
    }
}

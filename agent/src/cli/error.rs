//! What a command ends with.

use repository::RepositoryError;
use repository::copy::CopyError;

use crate::block::ChangedError;
use crate::block::backup::BlockError;
use crate::tree::TreeError;
use crate::volume::VolumeError;

/// Exit codes, as the help lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Done,
    Failed,
    Usage,
    Partial,
    Damaged,
    Interrupted,
}

impl Exit {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Partial => 3,
            Self::Damaged => 4,
            Self::Interrupted => 130,
        }
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error(transparent)]
    Block(#[from] BlockError),
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error(transparent)]
    Changed(#[from] ChangedError),
    #[error(transparent)]
    Open(#[from] repository::store::OpenError),
    #[error(transparent)]
    Store(#[from] repository::store::StoreError),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Failed(String),
    #[error("{what}")]
    Io { what: String, source: std::io::Error },
    #[error("{0}")]
    Interrupted(String),
}

impl CliError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// The code to exit with.
    pub(crate) fn exit(&self) -> Exit {
        let of_repository = |error: &RepositoryError| match error {
            RepositoryError::Cancelled => Exit::Interrupted,
            error if error.is_damage() => Exit::Damaged,
            _ => Exit::Failed,
        };
        match self {
            Self::Repository(error)
            | Self::Tree(TreeError::Repository(error))
            | Self::Block(BlockError::Repository(error))
            | Self::Copy(CopyError::Source(error) | CopyError::Target(error)) => {
                of_repository(error)
            }
            Self::Tree(TreeError::Damaged { .. }) => Exit::Damaged,
            Self::Copy(CopyError::Cancelled)
            | Self::Block(BlockError::Interrupted)
            | Self::Tree(TreeError::Cancelled)
            | Self::Volume(VolumeError::Cancelled)
            | Self::Interrupted(_) => Exit::Interrupted,
            Self::Usage(_) => Exit::Usage,
            _ => Exit::Failed,
        }
    }

    /// The message with everything that caused it, nothing said twice.
    pub(crate) fn chain(&self) -> String {
        let mut message = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            let text = error.to_string();
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            source = error.source();
        }
        message
    }
}

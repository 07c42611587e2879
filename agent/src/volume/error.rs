//! Why a volume could not be opened, read or written.

use std::{io, path::PathBuf, sync::Arc};

/// A variant exists where a caller acts differently. The message says what failed and on what; the
/// source, where there is one, says what the system answered.
#[derive(Debug, Clone, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message is its doc")]
pub enum VolumeError {
    #[error("cannot open {path:?}")]
    Open { path: PathBuf, source: Arc<io::Error> },
    #[error("{path:?} is {found}, not a regular file or a block device{advice}")]
    NotAVolume { path: PathBuf, found: &'static str, advice: &'static str },
    #[error("{path:?} exists already; restore in place to overwrite it, or name a new file")]
    TargetExists { path: PathBuf },
    #[error("{path:?} holds {size_bytes} bytes, but {needed_bytes} are needed")]
    TargetTooSmall { path: PathBuf, size_bytes: u64, needed_bytes: u64 },
    #[error("{path:?} is in use (mounted, or held by another program); release it first")]
    TargetBusy { path: PathBuf },
    #[error("{path:?} cannot be set to {size_bytes} bytes")]
    SetSize { path: PathBuf, size_bytes: u64, source: Arc<io::Error> },
    #[error("write of {len_bytes} bytes at offset {offset_bytes} of {path:?} failed")]
    Write { path: PathBuf, offset_bytes: u64, len_bytes: u64, source: Arc<io::Error> },
    #[error("{path:?} was written, but the system could not make it durable")]
    Sync { path: PathBuf, source: Arc<io::Error> },
    #[error("stopped on request")]
    Cancelled,
    #[error("the {engine} engine cannot start: {why}")]
    EngineUnavailable { engine: super::Engine, why: String },
    #[error("an I/O thread died; what it was asked to do is not done")]
    EngineDied,
    #[error("unknown I/O engine {text:?}; use auto, uring or pread")]
    UnknownEngine { text: String },
    #[error("cannot allocate {size_bytes} bytes of I/O buffers")]
    OutOfMemory { size_bytes: usize, source: Arc<io::Error> },
}

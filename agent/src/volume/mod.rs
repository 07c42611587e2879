//! Volumes: regular files and block devices, read and written as fast as the disk goes.
//!
//! ```text
//! Source ─extents→ requests ─read_all(engine)→ ReadDone{PooledBuf} → workers
//!                                                workers → Writer(engine) ─→ Target
//! ```
//!
//! Two engines have the same interface: [`Engine::Uring`] and [`Engine::Pread`]; [`probe`] says
//! which one a node can use. Both pass buffers of one [`BufPool`], which bounds the memory of
//! everything in flight. Direct I/O is used wherever the volume can do it, so a backup does not
//! push the node's workloads out of the page cache.
//!
//! Only the backup and restore wiring may start readers and writers; stages see buffers.

mod buffer;
mod engine;
mod error;
mod extent;
mod file;
mod pread;
mod probe;
mod source;
mod target;
mod transfer;
mod uring;
mod writer;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests;

pub use buffer::{AlignedBuf, BUFFER_ALIGN_BYTES, BufPool, PooledBuf};
pub use engine::{
    Engine, ReadDone, ReadEnd, ReadRequest, ReadSetup, ReadSummary, Reading, read_all,
};
pub use error::VolumeError;
pub use extent::{Extent, ExtentKind, Extents};
pub use file::VolumeKind;
pub use probe::{EngineChoice, RingState, probe};
pub use source::Source;
pub use target::Target;
pub use writer::{WriteSetup, WriteSummary, Writer};

/// The most requests one reader or writer keeps in flight.
pub const DEPTH_MAX: usize = 128;
/// Reads in flight that keep a disk busy.
pub const READ_DEPTH: usize = 16;
/// Writes in flight that keep a disk busy.
pub const WRITE_DEPTH: usize = 8;

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

/// The most requests one reader or writer keeps in flight: far beyond where more ever helped.
pub const DEPTH_MAX: usize = 128;

/// Reads in flight that keep a disk busy, at 1 MiB each.
///
/// Measured on an 8 GiB file of noise (ext4 on a virtio disk, 2 cores shared with other work, Linux
/// 6.18, page cache dropped; medians of five): the ring at depth 4, 8, 16 and 32 read 1,690, 1,961,
/// 2,261 and 2,513 MB/s for 20, 13, 14 and 11 ms of CPU time per GB; the threads at 2, 4 and 8 read
/// 1,664, 2,151 and 2,257 MB/s for 36, 20 and 18 ms; fio (libaio, depth 16, huge pages) 2,050 MB/s
/// for 10 ms. Between 16 and 32 lies little but memory.
pub const READ_DEPTH: usize = 16;

/// Writes in flight that keep a disk busy, at 1 MiB each.
///
/// Measured as for [`READ_DEPTH`], 4 GiB into a new sparse file and onto the disk; medians of
/// three: the ring at depth 1, 4, 8 and 16 wrote 2,195, 2,975, 3,075 and 3,327 MB/s for 69, 39, 30
/// and 31 ms of CPU time per GB; the threads at 4 and 8 wrote 2,407 and 2,655 MB/s for 77 and 72 ms;
/// fio (libaio, depth 8) 2,522 MB/s. To allocate the file first gained 8 % and would cost its holes.
pub const WRITE_DEPTH: usize = 8;

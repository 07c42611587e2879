//! A volume to be read.

use std::{path::Path, sync::Arc};

use super::{
    Extents, VolumeError, VolumeKind,
    file::{Access, VolumeFile},
};

/// A regular file or block device, opened for reading.
///
/// Its size is the one it had when it was opened. It should not change while it is read (a snapshot
/// does not); if it shrinks, reads of the missing part fail.
#[derive(Debug)]
pub struct Source {
    pub(super) file: VolumeFile,
    size_bytes: u64,
}

impl Source {
    /// Opens `path`, following links, for direct I/O where that works.
    ///
    /// # Errors
    ///
    /// [`VolumeError::NotAVolume`] for directories, character devices, pipes and sockets;
    /// [`VolumeError::Open`] if it does not exist, may not be read or has no medium.
    pub fn open(path: &Path) -> Result<Self, VolumeError> {
        let (file, size_bytes) = VolumeFile::open(path, Access::Read)?;
        Ok(Self { file, size_bytes })
    }

    pub(super) fn of(file: VolumeFile, size_bytes: u64) -> Self {
        Self { file, size_bytes }
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// How many bytes it holds, holes included.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// File or device.
    pub fn kind(&self) -> VolumeKind {
        self.file.kind
    }

    /// Requests that start at a multiple of this are read directly, the rest through the page
    /// cache: correct, but slower.
    pub fn alignment_bytes(&self) -> u64 {
        self.file.alignment_bytes
    }

    /// Whether reads bypass the page cache.
    pub fn is_direct(&self) -> bool {
        self.file.direct.is_some()
    }

    /// Data and holes in order, without gaps, from 0 to [`Self::size_bytes`].
    pub fn extents(self: &Arc<Self>) -> Extents {
        Extents::of(Arc::clone(self))
    }
}

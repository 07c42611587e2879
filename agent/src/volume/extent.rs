//! Which parts of a volume hold data.

use std::sync::Arc;

use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};

use super::{Source, VolumeKind};

/// What a range of a volume holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentKind {
    /// Bytes that must be read.
    Data,
    /// Nothing was ever written; it reads as zeroes.
    Hole,
}

/// A range of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts.
    pub offset_bytes: u64,
    /// Never 0.
    pub len_bytes: u64,
    /// What it holds.
    pub kind: ExtentKind,
}

/// Walks a volume's extents without holding them: each step is one or two seeks.
///
/// They come in order, without gaps, and cover the volume; a block device is one extent of data.
/// Allocated but unwritten ranges are holes: the seeks know them, and, unlike FIEMAP, also know what
/// waits in the page cache to be written. Where a file system cannot tell, everything from there on
/// is data, which costs time only.
#[derive(Debug)]
pub struct Extents {
    source: Arc<Source>,
    at_bytes: u64,
    can_tell: bool,
}

impl Extents {
    pub(super) fn of(source: Arc<Source>) -> Self {
        let can_tell = source.kind() == VolumeKind::File;
        Self { source, at_bytes: 0, can_tell }
    }

    fn up_to(&mut self, end_bytes: u64, kind: ExtentKind) -> Extent {
        let offset_bytes = self.at_bytes;
        self.at_bytes = end_bytes.min(self.source.size_bytes());
        Extent { offset_bytes, len_bytes: self.at_bytes - offset_bytes, kind }
    }
}

impl Iterator for Extents {
    type Item = Extent;

    fn next(&mut self) -> Option<Extent> {
        let size_bytes = self.source.size_bytes();
        if self.at_bytes >= size_bytes {
            return None;
        }
        if !self.can_tell {
            return Some(self.up_to(size_bytes, ExtentKind::Data));
        }
        let file = &self.source.file.buffered;
        match seek(file, SeekFrom::Data(self.at_bytes)) {
            Ok(data_bytes) if data_bytes > self.at_bytes => {
                Some(self.up_to(data_bytes, ExtentKind::Hole))
            }
            Ok(_) => match seek(file, SeekFrom::Hole(self.at_bytes)) {
                Ok(hole_bytes) if hole_bytes > self.at_bytes => {
                    Some(self.up_to(hole_bytes, ExtentKind::Data))
                }
                // The file changed in between; to read too much is always right.
                _ => Some(self.up_to(size_bytes, ExtentKind::Data)),
            },
            // No data from here to the end. A file that was cut says the same; its missing end is
            // called data, so that reading it fails and names the place.
            Err(Errno::NXIO) => match seek(file, SeekFrom::End(0)) {
                Ok(end_bytes) if end_bytes >= size_bytes => {
                    Some(self.up_to(size_bytes, ExtentKind::Hole))
                }
                _ => Some(self.up_to(size_bytes, ExtentKind::Data)),
            },
            Err(_) => {
                self.can_tell = false;
                Some(self.up_to(size_bytes, ExtentKind::Data))
            }
        }
    }
}

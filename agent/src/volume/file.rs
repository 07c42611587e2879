//! An opened volume: one descriptor for direct I/O, one for what direct I/O cannot do.

use std::{
    fs::{File, Metadata, OpenOptions},
    io,
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{Advice, AtFlags, OFlags, StatxFlags};

use super::{AlignedBuf, VolumeError, buffer::page_bytes};

/// What kind of thing holds the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeKind {
    /// A regular file, usually a raw disk image.
    File,
    /// A block device.
    BlockDevice,
}

/// The descriptors of one volume. Both are of one inode; the kernel keeps their views coherent as
/// long as no page is written by both at once, which [`super::transfer`] sees to.
#[derive(Debug)]
pub(super) struct VolumeFile {
    pub(super) path: PathBuf,
    pub(super) kind: VolumeKind,
    /// Opened with `O_DIRECT`; `None` where that does not work.
    pub(super) direct: Option<File>,
    pub(super) buffered: File,
    /// Offsets and lengths of direct I/O are multiples of this: a power of two, at least a page,
    /// so that direct and buffered writes never share one.
    pub(super) alignment_bytes: u64,
}

/// For what a volume is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    /// Of a block device: alone.
    ReadWrite,
}

impl VolumeFile {
    pub(super) fn open(path: &Path, access: Access) -> Result<(Self, u64), VolumeError> {
        let failed = |source| VolumeError::Open { path: path.to_owned(), source: Arc::new(source) };
        let found = std::fs::metadata(path).map_err(failed)?;
        // Asked before opening: to open a pipe would wait for its other end.
        let kind = kind_of(path, &found)?;
        let buffered =
            open_with(path, access, kind, OFlags::empty()).map_err(|source| {
                match source.raw_os_error() {
                    Some(libc::EBUSY) => VolumeError::TargetBusy { path: path.to_owned() },
                    _ => failed(source),
                }
            })?;
        let opened = buffered.metadata().map_err(failed)?;
        kind_of(path, &opened)?;
        let size_bytes = match kind {
            VolumeKind::File => opened.len(),
            // The kernel seeks a device's end to its capacity, which its metadata does not have.
            VolumeKind::BlockDevice => rustix::fs::seek(&buffered, rustix::fs::SeekFrom::End(0))
                .map_err(|e| failed(e.into()))?,
        };
        let mut file = Self {
            path: path.to_owned(),
            kind,
            direct: None,
            buffered,
            alignment_bytes: page_bytes() as u64,
        };
        file.find_direct(access, &opened, size_bytes);
        Ok((file, size_bytes))
    }

    /// Takes a second descriptor for direct I/O, if the volume can do it with our buffers.
    fn find_direct(&mut self, access: Access, opened: &Metadata, size_bytes: u64) {
        let Some(alignment_bytes) = direct_alignment(&self.buffered, self.kind) else { return };
        // The device is held alone through the first descriptor; a second claim would refuse itself.
        let Ok(direct) = open_with(&self.path, access, VolumeKind::File, OFlags::DIRECT) else {
            return;
        };
        let same = direct.metadata().is_ok_and(|second| {
            (second.dev(), second.ino(), second.rdev())
                == (opened.dev(), opened.ino(), opened.rdev())
        });
        if same && (size_bytes == 0 || reads(&direct, alignment_bytes)) {
            self.alignment_bytes = alignment_bytes.max(self.alignment_bytes);
            self.direct = Some(direct);
        }
    }

    /// The descriptor for one step of a transfer.
    pub(super) fn descriptor(&self, direct: bool) -> &File {
        self.direct.as_ref().filter(|_| direct).unwrap_or(&self.buffered)
    }

    /// Lets the kernel forget a range that was read through its cache, so that a backup does not
    /// push out what the node's workloads keep there.
    pub(super) fn forget(&self, offset_bytes: u64, len_bytes: usize) {
        if self.direct.is_none() {
            let len_bytes = std::num::NonZeroU64::new(len_bytes as u64);
            // Advice; a refusal costs cache only.
            let _ = rustix::fs::fadvise(&self.buffered, offset_bytes, len_bytes, Advice::DontNeed);
        }
    }

    /// The same descriptors under another owner.
    pub(super) fn duplicate(&self) -> io::Result<Self> {
        Ok(Self {
            path: self.path.clone(),
            kind: self.kind,
            direct: self.direct.as_ref().map(File::try_clone).transpose()?,
            buffered: self.buffered.try_clone()?,
            alignment_bytes: self.alignment_bytes,
        })
    }
}

fn kind_of(path: &Path, found: &Metadata) -> Result<VolumeKind, VolumeError> {
    let kind = found.file_type();
    let (found, advice) = if kind.is_file() {
        return Ok(VolumeKind::File);
    } else if kind.is_block_device() {
        return Ok(VolumeKind::BlockDevice);
    } else if kind.is_dir() {
        ("a directory", "; back it up as a tree")
    } else if kind.is_char_device() {
        ("a character device", "; a disk has a block device")
    } else if kind.is_fifo() {
        ("a pipe", "; write it to a file first")
    } else {
        ("a socket", "")
    };
    Err(VolumeError::NotAVolume { path: path.to_owned(), found, advice })
}

fn open_with(path: &Path, access: Access, kind: VolumeKind, more: OFlags) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(access == Access::ReadWrite);
    let mut flags = more;
    if (access, kind) == (Access::ReadWrite, VolumeKind::BlockDevice) {
        flags |= OFlags::EXCL;
    }
    let flags_of = |flags: OFlags| flags.bits().cast_signed();
    // Only a file's owner may ask that reading leave no trace in its access time.
    match options.custom_flags(flags_of(flags | OFlags::NOATIME)).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            options.custom_flags(flags_of(flags)).open(path)
        }
        opened => opened,
    }
}

/// To what direct I/O must be aligned, or `None` if there can be none.
fn direct_alignment(file: &File, kind: VolumeKind) -> Option<u64> {
    let usual_bytes = AlignedBuf::ALIGN_BYTES;
    let wants_bytes = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
        .ok()
        .filter(|answer| answer.stx_mask & StatxFlags::DIOALIGN.bits() != 0)
        .map(|answer| (answer.stx_dio_mem_align, answer.stx_dio_offset_align));
    match wants_bytes {
        Some((memory, offset)) if memory == 0 || offset == 0 => None,
        Some((memory, _)) if memory > usual_bytes => None,
        Some((_, offset)) => Some(u64::from(offset)),
        None if kind == VolumeKind::BlockDevice => {
            let sector_bytes = rustix::fs::ioctl_blksszget(file).unwrap_or(usual_bytes);
            Some(u64::from(sector_bytes.max(usual_bytes)))
        }
        None => Some(u64::from(usual_bytes)),
    }
    .filter(|bytes| bytes.is_power_of_two())
}

/// Whether one direct read works: some file systems take the flag and refuse the I/O.
fn reads(direct: &File, alignment_bytes: u64) -> bool {
    let block_bytes = usize::try_from(alignment_bytes).unwrap_or(usize::MAX);
    let Ok(mut block) = AlignedBuf::new(block_bytes) else { return false };
    // Only "not like this" speaks against direct I/O; a bad sector says nothing about the rest.
    match direct.read_at(block.space_mut(), 0) {
        Ok(_) => true,
        Err(error) => !matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)),
    }
}

//! A volume to be written.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
};

use rustix::{fs::FallocateFlags, io::Errno};

use super::{
    Source, VolumeError, VolumeKind,
    file::{Access, VolumeFile},
};

/// How much is zeroed by one write where no faster way exists.
const ZEROES_BYTES: usize = 256 << 10;
static ZEROES: [u8; ZEROES_BYTES] = [0; ZEROES_BYTES];

/// A regular file or block device, opened for writing (and reading).
#[derive(Debug)]
pub struct Target {
    pub(super) file: VolumeFile,
    size_bytes: u64,
}

impl Target {
    /// Makes a new file of `size_bytes`, all of it a hole, readable by its owner only.
    ///
    /// # Errors
    ///
    /// [`VolumeError::TargetExists`] if there is anything at `path`; [`VolumeError::SetSize`] if
    /// the file system cannot hold a file that large. Neither leaves a file behind.
    pub fn create(path: &Path, size_bytes: u64) -> Result<Self, VolumeError> {
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let made = made.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => VolumeError::TargetExists { path: path.to_owned() },
            _ => VolumeError::Open { path: path.to_owned(), source: Arc::new(source) },
        })?;
        let opened = set_len(path, &made, size_bytes)
            .and_then(|()| VolumeFile::open(path, Access::ReadWrite));
        match opened {
            Ok((file, _)) => Ok(Self { file, size_bytes }),
            Err(error) => {
                // The file is ours and empty; the first error is the one to tell.
                let _ = fs::remove_file(path);
                Err(error)
            }
        }
    }

    /// Opens an existing file or device to overwrite its first `needed_bytes`; what lies beyond
    /// them stays. A file that should end there is cut or grown by [`Self::set_size`].
    ///
    /// # Errors
    ///
    /// [`VolumeError::TargetTooSmall`]; [`VolumeError::TargetBusy`] for a device that is mounted or
    /// otherwise claimed; those of [`Source::open`].
    pub fn open_in_place(path: &Path, needed_bytes: u64) -> Result<Self, VolumeError> {
        let (file, size_bytes) = VolumeFile::open(path, Access::ReadWrite)?;
        if size_bytes < needed_bytes {
            let path = path.to_owned();
            return Err(VolumeError::TargetTooSmall { path, size_bytes, needed_bytes });
        }
        Ok(Self { file, size_bytes })
    }

    /// Cuts or grows a file; a device must have that size or more.
    ///
    /// # Errors
    ///
    /// [`VolumeError::SetSize`], [`VolumeError::TargetTooSmall`].
    pub fn set_size(&mut self, size_bytes: u64) -> Result<(), VolumeError> {
        match self.file.kind {
            VolumeKind::File => set_len(&self.file.path, &self.file.buffered, size_bytes)?,
            VolumeKind::BlockDevice if size_bytes > self.size_bytes => {
                return Err(VolumeError::TargetTooSmall {
                    path: self.file.path.clone(),
                    size_bytes: self.size_bytes,
                    needed_bytes: size_bytes,
                });
            }
            VolumeKind::BlockDevice => return Ok(()),
        }
        self.size_bytes = size_bytes;
        Ok(())
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// How many bytes it holds.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// File or device.
    pub fn kind(&self) -> VolumeKind {
        self.file.kind
    }

    /// Writes that start at a multiple of this bypass the page cache.
    pub fn alignment_bytes(&self) -> u64 {
        self.file.alignment_bytes
    }

    /// Whether writes bypass the page cache.
    pub fn is_direct(&self) -> bool {
        self.file.direct.is_some()
    }

    /// Makes a range read as zeroes, giving its space back where the volume can. Any range inside
    /// the volume will do; no write to it may be in flight.
    ///
    /// # Errors
    ///
    /// [`VolumeError::Write`].
    pub fn punch(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), VolumeError> {
        if len_bytes == 0 {
            return Ok(());
        }
        let keep = FallocateFlags::KEEP_SIZE;
        // On a device the first unmaps if what is unmapped reads as zeroes, and is refused else;
        // the second lets the device zero the range, or has the kernel write zeroes.
        for how in [FallocateFlags::PUNCH_HOLE | keep, FallocateFlags::ZERO_RANGE | keep] {
            match self.allocate(how, offset_bytes, len_bytes) {
                Ok(()) => return Ok(()),
                // Not here, or (a device) not on this boundary.
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NODEV | Errno::NOSYS) => {}
                Err(error) => return Err(self.write_error(offset_bytes, len_bytes, error.into())),
            }
        }
        self.write_zeroes(offset_bytes, len_bytes)
            .map_err(|error| self.write_error(offset_bytes, len_bytes, error))
    }

    /// Waits until all that was written is on stable storage.
    ///
    /// # Errors
    ///
    /// [`VolumeError::Sync`]: something written before may be lost, and it is unknown what.
    pub fn sync(&self) -> Result<(), VolumeError> {
        self.file.buffered.sync_data().map_err(|source| VolumeError::Sync {
            path: self.file.path.clone(),
            source: Arc::new(source),
        })
    }

    /// The same volume for reading: what is written shows at once.
    ///
    /// # Errors
    ///
    /// [`VolumeError::Open`] if the process has no descriptors left.
    pub fn as_source(&self) -> Result<Source, VolumeError> {
        let file = self.file.duplicate().map_err(|source| VolumeError::Open {
            path: self.file.path.clone(),
            source: Arc::new(source),
        })?;
        Ok(Source::of(file, self.size_bytes))
    }

    pub(super) fn write_error(
        &self,
        offset_bytes: u64,
        len_bytes: u64,
        source: io::Error,
    ) -> VolumeError {
        let (path, source) = (self.file.path.clone(), Arc::new(source));
        VolumeError::Write { path, offset_bytes, len_bytes, source }
    }

    fn allocate(
        &self,
        how: FallocateFlags,
        offset_bytes: u64,
        len_bytes: u64,
    ) -> Result<(), Errno> {
        loop {
            match rustix::fs::fallocate(&self.file.buffered, how, offset_bytes, len_bytes) {
                Err(Errno::INTR) => {}
                done => return done,
            }
        }
    }

    fn write_zeroes(&self, mut offset_bytes: u64, len_bytes: u64) -> io::Result<()> {
        let end_bytes = offset_bytes.saturating_add(len_bytes);
        while offset_bytes < end_bytes {
            let left_bytes = usize::try_from(end_bytes - offset_bytes).unwrap_or(usize::MAX);
            let part = &ZEROES[..left_bytes.min(ZEROES_BYTES)];
            self.file.buffered.write_all_at(part, offset_bytes)?;
            offset_bytes += part.len() as u64;
        }
        Ok(())
    }
}

fn set_len(path: &Path, file: &fs::File, size_bytes: u64) -> Result<(), VolumeError> {
    file.set_len(size_bytes).map_err(|source| VolumeError::SetSize {
        path: path.to_owned(),
        size_bytes,
        source: Arc::new(source),
    })
}

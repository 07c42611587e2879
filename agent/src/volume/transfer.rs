//! How one read or write is cut into system calls: pure, and the same for every engine.

use std::io;

use super::file::{VolumeFile, VolumeKind};

/// How often in a row the system may say "again" before that counts as an error.
const RETRIES_MAX: u32 = 64;

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Read,
    Write,
}

/// The next system call of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// Through the descriptor for direct I/O, else through the page cache.
    pub(super) direct: bool,
    /// Where it starts in the volume.
    pub(super) offset_bytes: u64,
    /// Where it starts in the buffer.
    pub(super) at: usize,
    /// How much to ask for. A direct read may ask for more than is wanted: up to the end of the
    /// block in which a file ends.
    pub(super) len_bytes: usize,
}

/// What of direct I/O a volume allows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) direct: bool,
    pub(super) kind: VolumeKind,
    pub(super) alignment_bytes: u64,
}

impl From<&VolumeFile> for Shape {
    fn from(file: &VolumeFile) -> Self {
        Self {
            direct: file.direct.is_some(),
            kind: file.kind,
            alignment_bytes: file.alignment_bytes,
        }
    }
}

/// One request on its way.
#[derive(Debug)]
pub(super) struct Transfer {
    shape: Shape,
    way: Way,
    offset_bytes: u64,
    len_bytes: usize,
    /// What the buffer can hold: a read may overshoot `len_bytes` into it.
    room_bytes: usize,
    done_bytes: usize,
    retries: u32,
}

impl Transfer {
    pub(super) fn new(
        shape: Shape,
        way: Way,
        offset_bytes: u64,
        len_bytes: usize,
        room_bytes: usize,
    ) -> Self {
        Self { shape, way, offset_bytes, len_bytes, room_bytes, done_bytes: 0, retries: 0 }
    }

    /// What to do next; `None` once all is done.
    ///
    /// A request that starts on a block boundary goes directly up to its last whole block. What is
    /// left of a write goes through the cache; a read of a file takes the whole block instead,
    /// which ends short at the end of the file.
    pub(super) fn next(&self) -> Option<Step> {
        let left_bytes = self.len_bytes - self.done_bytes;
        if left_bytes == 0 {
            return None;
        }
        let offset_bytes = self.offset_bytes + self.done_bytes as u64;
        let step =
            |direct, len_bytes| Some(Step { direct, offset_bytes, at: self.done_bytes, len_bytes });
        let block = self.shape.alignment_bytes;
        let aligned = self.offset_bytes.is_multiple_of(block)
            && (self.done_bytes as u64).is_multiple_of(block);
        if !self.shape.direct || !aligned {
            return step(false, left_bytes);
        }
        let block = usize::try_from(block).unwrap_or(usize::MAX);
        let whole_bytes = left_bytes - left_bytes % block;
        if whole_bytes == left_bytes {
            return step(true, left_bytes);
        }
        let over_bytes = left_bytes.saturating_add(block - left_bytes % block);
        let may_overshoot = self.way == Way::Read
            && self.shape.kind == VolumeKind::File
            && over_bytes <= self.room_bytes - self.done_bytes;
        match (may_overshoot, whole_bytes) {
            (true, _) => step(true, over_bytes),
            (false, 0) => step(false, left_bytes),
            (false, _) => step(true, whole_bytes),
        }
    }

    /// Takes note of how a step ended.
    ///
    /// # Errors
    ///
    /// What ends the transfer: the system's error, or the end of the volume before the request's.
    /// Interruptions are not errors, and neither is a refusal of direct I/O, after which the rest
    /// goes through the cache.
    pub(super) fn record(&mut self, step: &Step, result: io::Result<usize>) -> io::Result<()> {
        match result {
            Ok(0) => Err(self.cut_short()),
            Ok(count) => {
                self.done_bytes = self.done_bytes.saturating_add(count).min(self.len_bytes);
                self.retries = 0;
                Ok(())
            }
            Err(error) if again(&error) && self.retries < RETRIES_MAX => {
                self.retries += 1;
                Ok(())
            }
            Err(error) if step.direct && error.raw_os_error() == Some(libc::EINVAL) => {
                self.shape.direct = false;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn cut_short(&self) -> io::Error {
        let offset_bytes = self.offset_bytes + self.done_bytes as u64;
        match self.way {
            Way::Read => io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the volume ends at offset {offset_bytes}: it shrank while it was read"),
            ),
            Way::Write => io::Error::new(
                io::ErrorKind::WriteZero,
                format!("the system took no bytes at offset {offset_bytes}"),
            ),
        }
    }
}

/// Whether the system asks to be asked again. A ring ends requests with ECANCELED when the thread
/// that carried them is told to stop; reads and positional writes can be repeated.
fn again(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::ECANCELED))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 8;

    /// Carries a transfer out on a volume in memory, `most` bytes a step.
    fn carry(mut transfer: Transfer, volume: &[u8], most: usize) -> (Vec<u8>, Vec<Step>) {
        let mut buffer = vec![0xee; transfer.room_bytes];
        let mut steps = Vec::new();
        while let Some(step) = transfer.next() {
            let at = usize::try_from(step.offset_bytes).unwrap();
            let end = (at + step.len_bytes.min(most)).min(volume.len());
            buffer[step.at..step.at + end - at].copy_from_slice(&volume[at..end]);
            transfer.record(&step, Ok(end - at)).unwrap();
            steps.push(step);
        }
        buffer.truncate(transfer.len_bytes);
        (buffer, steps)
    }

    /// Every way, kind, offset, length, room and step size of a small volume.
    fn every_case(mut check: impl FnMut(Transfer, &[u8], usize)) {
        let volume: Vec<u8> = (0..37).collect();
        for (way, kind, direct) in [
            (Way::Read, VolumeKind::File, true),
            (Way::Read, VolumeKind::BlockDevice, true),
            (Way::Write, VolumeKind::File, true),
            (Way::Write, VolumeKind::BlockDevice, true),
            (Way::Read, VolumeKind::File, false),
        ] {
            let shape = Shape { direct, kind, alignment_bytes: BLOCK as u64 };
            for offset in 0..volume.len() {
                for len in 0..=volume.len() - offset {
                    for (room, most) in [(len, 99), (len + 9, 99), (len + 9, 3), (48, 8), (48, 1)] {
                        let room = room.max(len);
                        check(Transfer::new(shape, way, offset as u64, len, room), &volume, most);
                    }
                }
            }
        }
    }

    #[test]
    fn a_transfer_moves_its_range_and_no_byte_else() {
        every_case(|transfer, volume, most| {
            let at = usize::try_from(transfer.offset_bytes).unwrap();
            let want = volume[at..at + transfer.len_bytes].to_vec();
            let told = format!("{transfer:?}, {most} a step");
            assert!(carry(transfer, volume, most).0 == want, "{told}");
        });
    }

    #[test]
    fn direct_steps_are_aligned_and_stay_in_the_buffer() {
        every_case(|transfer, volume, most| {
            let told = format!("{transfer:?}, {most} a step");
            let (write, room) = (transfer.way == Way::Write, transfer.room_bytes);
            let device = transfer.shape.kind == VolumeKind::BlockDevice;
            let end = usize::try_from(transfer.offset_bytes).unwrap() + transfer.len_bytes;
            for step in carry(transfer, volume, most).1 {
                let at = usize::try_from(step.offset_bytes).unwrap();
                assert!(step.at + step.len_bytes <= room, "{told}: {step:?}");
                if step.direct {
                    for number in [at, step.at, step.len_bytes] {
                        assert!(number.is_multiple_of(BLOCK), "{told}: {step:?}");
                    }
                }
                if write || device {
                    assert!(at + step.len_bytes <= end, "{told}: {step:?} overshoots");
                }
            }
        });
    }

    #[test]
    fn a_whole_aligned_request_is_one_direct_step() {
        for way in [Way::Read, Way::Write] {
            let shape = Shape { direct: true, kind: VolumeKind::File, alignment_bytes: 4096 };
            let transfer = Transfer::new(shape, way, 1 << 20, 1 << 20, 1 << 20);
            let volume = vec![0; 2 << 20];
            assert_eq!(carry(transfer, &volume, usize::MAX >> 1).1.len(), 1);
        }
    }

    fn reading() -> Transfer {
        let shape = Shape { direct: true, kind: VolumeKind::File, alignment_bytes: 8 };
        Transfer::new(shape, Way::Read, 0, 16, 16)
    }

    #[test]
    fn interruptions_are_repeated_but_not_for_ever() {
        for code in [libc::EINTR, libc::EAGAIN, libc::ECANCELED] {
            let mut transfer = reading();
            let step = transfer.next().unwrap();
            for _ in 0..RETRIES_MAX {
                transfer.record(&step, Err(io::Error::from_raw_os_error(code))).unwrap();
                assert_eq!(transfer.next(), Some(step));
            }
            transfer.record(&step, Err(io::Error::from_raw_os_error(code))).unwrap_err();
        }
    }

    #[test]
    fn a_refusal_of_direct_io_goes_on_through_the_cache() {
        let mut transfer = reading();
        let step = transfer.next().unwrap();
        assert!(step.direct);
        let refused = || Err(io::Error::from_raw_os_error(libc::EINVAL));
        transfer.record(&step, refused()).unwrap();
        let step = transfer.next().unwrap();
        assert!(!step.direct);
        transfer.record(&step, refused()).unwrap_err();
    }
}

//! Which engine this machine can use, and why not the other.

use std::{
    fs::{self, File},
    io,
    time::Duration,
};

use rustix::fs::MemfdFlags;
use tokio_uring::buf::BoundedBuf;

use super::{AlignedBuf, Engine, VolumeError, uring};

/// Whoever takes longer for one page of memory is broken.
const PATIENCE: Duration = Duration::from_secs(5);

/// What `io_uring` can do here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingState {
    /// A write and a read came back as they should.
    Works,
    /// The kernel or a seccomp profile says no: somebody's decision, to be changed by a person.
    Forbidden,
    /// It is offered, and does not work.
    Broken,
    /// Not tried: the engine was chosen by hand.
    Unknown,
}

/// Which engine to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineChoice {
    /// The engine.
    pub engine: Engine,
    /// What was found, for the log and the metrics.
    pub ring: RingState,
    /// The reason in words.
    pub why: String,
}

/// Chooses an engine: the one asked for, or the ring if it works.
///
/// Takes a millisecond or so. Ask once per process.
///
/// # Errors
///
/// [`VolumeError::EngineUnavailable`] if the ring was asked for and does not work. Without a wish
/// there is always an engine.
pub fn probe(wish: Option<Engine>) -> Result<EngineChoice, VolumeError> {
    if wish == Some(Engine::Pread) {
        let why = "chosen by hand".to_owned();
        return Ok(EngineChoice { engine: Engine::Pread, ring: RingState::Unknown, why });
    }
    match try_ring() {
        Ok(()) => {
            let why = "io_uring works here".to_owned();
            Ok(EngineChoice { engine: Engine::Uring, ring: RingState::Works, why })
        }
        Err(error) => {
            let (ring, why) = judge(&error, disabled_setting().as_deref());
            if wish == Some(Engine::Uring) {
                return Err(uring::unavailable(&why));
            }
            Ok(EngineChoice { engine: Engine::Pread, ring, why })
        }
    }
}

/// The value of `kernel.io_uring_disabled`, on kernels that have it (6.6 and later).
fn disabled_setting() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok().map(|text| text.trim().to_owned())
}

fn judge(error: &io::Error, disabled: Option<&str>) -> (RingState, String) {
    match (error.raw_os_error(), disabled) {
        (Some(libc::ENOSYS), _) => (
            RingState::Forbidden,
            "the kernel has no io_uring, or a seccomp profile hides it (ENOSYS)".to_owned(),
        ),
        (Some(libc::EPERM | libc::EACCES), Some(value @ ("1" | "2"))) => {
            (RingState::Forbidden, format!("kernel.io_uring_disabled is {value}"))
        }
        (Some(libc::EPERM | libc::EACCES), _) => (
            RingState::Forbidden,
            "a seccomp profile or security module forbids io_uring; containerd and Docker do by \
             default"
                .to_owned(),
        ),
        (Some(libc::ENOMEM), _) => (
            RingState::Broken,
            "no memory for an io_uring (ENOMEM); before Linux 5.12 it counts against ulimit -l"
                .to_owned(),
        ),
        (Some(libc::EINVAL), _) => {
            (RingState::Broken, "this kernel's io_uring is too old (EINVAL)".to_owned())
        }
        _ => (RingState::Broken, format!("io_uring does not work: {error}")),
    }
}

/// Writes a page through a ring and reads it back.
fn try_ring() -> io::Result<()> {
    let page = rustix::fs::memfd_create("salvor-probe", MemfdFlags::CLOEXEC)?;
    let (tell, told) = crossbeam_channel::bounded(1);
    uring::start("salvor-probe", 2, move |ring| {
        // Nobody listens any more once patience has ended.
        let _ = tell.send(ring.block_on(round_trip(File::from(page))));
    })?;
    told.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, "a request through io_uring got no answer"))
    })
}

async fn round_trip(page: File) -> io::Result<()> {
    let lost = |error: VolumeError| io::Error::other(error);
    let file = tokio_uring::fs::File::from_std(page);
    let mut buffer = AlignedBuf::new(AlignedBuf::ALIGN_BYTES as usize).map_err(lost)?;
    buffer.space_mut().fill(0xa5);
    buffer.set_len(buffer.capacity());
    let (written, mut buffer) = file.write_at(buffer, 0).submit().await;
    let written = written?;
    buffer.set_len(0);
    buffer.space_mut().fill(0);
    let room = buffer.capacity();
    let (read, buffer) = file.read_at(buffer.slice(0..room), 0).await;
    let (read, buffer) = (read?, buffer.into_inner());
    if written == room && read == room && buffer.iter().all(|&byte| byte == 0xa5) {
        Ok(())
    } else {
        Err(io::Error::other("io_uring gave back other bytes than it was given"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbidden_and_broken_are_told_apart() {
        use RingState::{Broken, Forbidden};
        for (code, setting, state, word) in [
            (libc::ENOSYS, None, Forbidden, "no io_uring"),
            (libc::EPERM, Some("0"), Forbidden, "seccomp"),
            (libc::EPERM, None, Forbidden, "seccomp"),
            (libc::EACCES, Some("0"), Forbidden, "seccomp"),
            (libc::EPERM, Some("1"), Forbidden, "io_uring_disabled is 1"),
            (libc::EPERM, Some("2"), Forbidden, "io_uring_disabled is 2"),
            (libc::ENOMEM, Some("0"), Broken, "ulimit"),
            (libc::EINVAL, None, Broken, "too old"),
            (libc::EIO, None, Broken, "does not work"),
        ] {
            let (found, why) = judge(&io::Error::from_raw_os_error(code), setting);
            assert_eq!(found, state, "{code}, {setting:?}");
            assert!(why.contains(word), "{why}");
        }
    }
}

//! Block volumes: a fixed grid of chunks, read and written in parallel, in any order.

pub mod backup;
pub mod changed;
mod pages;
mod plan;
pub mod restore;

use std::sync::atomic::{AtomicU64, Ordering};

pub use changed::{ChangedError, ChangedExtents};

/// Counters of a run in progress, in bytes; any thread may look at any time.
#[derive(Debug, Default)]
pub struct Progress {
    /// What there is to do, as far as is known before.
    pub total: AtomicU64,
    /// Done of it.
    pub done: AtomicU64,
    /// Read from the source, or from the repository.
    pub read: AtomicU64,
    /// Written to the target.
    pub written: AtomicU64,
}

impl Progress {
    fn add(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }
}

/// Whether a buffer is all zeroes, at memory speed: by comparing it with itself, shifted.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    match bytes.split_first() {
        None => true,
        Some((first, rest)) => *first == 0 && rest == bytes.split_at(rest.len()).0,
    }
}

#[cfg(test)]
mod tests {
    use super::is_zero;

    #[test]
    fn only_zeroes_are_zeroes_wherever_the_other_byte_is() {
        assert!(is_zero(&[]) && is_zero(&[0]) && is_zero(&[0; 4096]));
        for at in [0, 1, 7, 8, 4095] {
            let mut bytes = [0u8; 4096];
            bytes[at] = 1;
            assert!(!is_zero(&bytes), "byte {at}");
        }
        assert!(!is_zero(&[5; 100]));
    }
}

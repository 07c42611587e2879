//! Surroundings for the program under test.

mod compare;
mod data;
pub mod identity;
mod machine;
mod measure;
pub mod repository;
mod rng;
pub mod s3;
pub mod s3lock;
pub mod s3proxy;
mod salvor;

pub use compare::{assert_same_tree, assert_same_volume, data_map, observe, same_bytes};
pub use data::{change_image, change_tree, make_image, make_tree, noise_file};
pub use machine::{Device, Mount, as_nobody, privileged, run};
pub use measure::{SETTINGS, Setting, measured};
pub use rng::{Rng, seed};
pub use salvor::{Ended, Lab, Running, Stored, binary, example, shifted_clock};

/// Whether to run at full length.
pub fn soak() -> bool {
    std::env::var_os("SALVOR_SOAK").is_some_and(|value| value != "0")
}

/// A folder on a disk, where direct I/O and holes are real.
pub fn scratch() -> tempfile::TempDir {
    let base = std::env::var_os("SALVOR_TEST_DIR").unwrap_or_else(|| "/var/tmp".into());
    tempfile::Builder::new().prefix("salvor-test-").tempdir_in(base).unwrap()
}

/// A folder in memory, if the machine has one: for many small files whose disk is of no interest.
pub fn scratch_in_memory() -> tempfile::TempDir {
    let prefix = "salvor-test-";
    tempfile::Builder::new().prefix(prefix).tempdir_in("/dev/shm").unwrap_or_else(|_| scratch())
}

/// One MiB.
pub const MIB: u64 = 1 << 20;

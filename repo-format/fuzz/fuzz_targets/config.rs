//! A config that is accepted has sizes the chunker can work with, and one encoding.
#![no_main]

use libfuzzer_sys::fuzz_target;
use repo_format::config::{Config, Operation};
use repo_format::error::FormatError;
use repo_format_fuzz::{SMALL, keys, within};

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // With the checksum that a forger would compute.
    check(&[bytes, &repo_format::fuzzing::checksum(bytes)].concat());
});

fn check(bytes: &[u8]) {
    let authentic = Config::authenticate(bytes, &keys());
    let Ok(config) = within(SMALL, || Config::decode(bytes)) else { return };
    assert!(config.file_chunks.are_valid());
    for operation in [Operation::Read, Operation::Write, Operation::Maintain] {
        let _: Result<(), FormatError> = config.permits(operation);
    }
    let again = config.encode(&keys());
    assert_eq!(again.len(), bytes.len());
    assert_eq!(again == bytes, authentic.is_ok());
}

//! Key slots. Slots of passphrases are not opened: Argon2id takes its time.
#![no_main]

use libfuzzer_sys::fuzz_target;
use repo_format::id::{RepositoryId, SlotId};
use repo_format::keyslot::{Kdf, KeySlot};
use repo_format_fuzz::{SMALL, canonical};

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    check(&[bytes, &repo_format::fuzzing::checksum(bytes)].concat());
});

fn check(bytes: &[u8]) {
    canonical(SMALL, bytes, KeySlot::decode, |slot| {
        if slot.kdf == Kdf::KeyFile {
            let place = (&RepositoryId([1; 16]), &SlotId([2; 16]));
            assert!(slot.unwrap(place, b"secret").is_err());
        }
        slot.encode()
    });
}

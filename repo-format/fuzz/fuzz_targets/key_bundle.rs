//! The bundle of keys inside a slot.
#![no_main]

use libfuzzer_sys::fuzz_target;
use repo_format::keys::{KeyBundle, Keys, Secret};
use repo_format_fuzz::{SMALL, canonical};

fuzz_target!(|bytes: &[u8]| {
    canonical(SMALL, bytes, KeyBundle::decode, |bundle| {
        let keys = Keys::new(bundle);
        assert_eq!(keys.newest_epoch(), bundle.newest_epoch());
        let _ = bundle.rotated(Secret::new([9; 32]));
        bundle.encode().to_vec()
    });
});

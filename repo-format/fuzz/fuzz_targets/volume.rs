//! Manifests of block volumes: pages and roots.
#![no_main]

use libfuzzer_sys::fuzz_target;
use repo_format::volume::{Page, VolumeRoot};
use repo_format_fuzz::{SMALL, canonical};

fuzz_target!(|bytes: &[u8]| {
    canonical(SMALL, bytes, Page::decode, Page::encode);
    // A root of a few bytes may stand for 480,000 pages without a chunk.
    canonical(2 * SMALL, bytes, VolumeRoot::decode, |root| {
        assert!(root.chunks() <= 1024 * u64::try_from(root.pages.len()).unwrap());
        root.encode()
    });
});

//! What a key holder may seal as a small object, and the snapshots inside.
#![no_main]

use libfuzzer_sys::fuzz_target;
use repo_format::catalog::{Catalog, decode_page, encode_page};
use repo_format::session::{Commit, Session};
use repo_format_fuzz::{SMALL, canonical};

fuzz_target!(|bytes: &[u8]| {
    canonical(SMALL, bytes, Session::decode, Session::encode);
    canonical(SMALL, bytes, Commit::decode, Commit::encode);
    canonical(SMALL, bytes, Catalog::decode, Catalog::encode);
    canonical(SMALL, bytes, decode_page, |rows| encode_page(rows));
});

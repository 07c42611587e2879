//! Writes the golden files of this format version into `repo-format/golden`. Files that exist
//! stay as they are: they are what other versions are held to.
#![expect(clippy::unwrap_used, reason = "a tool for developers that may stop at the first error")]
#![allow(unreachable_pub, reason = "a module shared with the tests")]

use std::io::{ErrorKind, Write};

#[path = "../tests/vectors/mod.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod vectors;

fn main() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut refused = 0;
    for vector in vectors::all().into_iter().chain([vectors::zstd_frame()]) {
        let path = folder.join(vector.file);
        match std::fs::File::create_new(&path) {
            Ok(mut file) => {
                file.write_all(&vector.bytes).unwrap();
                println!("{} written, {} bytes", path.display(), vector.bytes.len());
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                println!("{} exists: left as it is", path.display());
                refused += 1;
            }
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }
    assert_eq!(refused, 0, "golden files are never written twice");
}

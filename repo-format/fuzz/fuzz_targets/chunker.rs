//! How the input is split never moves a cut, and every chunk has an allowed length.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use repo_format::chunker::{ChunkSizes, Chunker};
use repo_format_fuzz::{SMALL, keys, within};

const SIZES: ChunkSizes = ChunkSizes { min: 64, avg: 256, max: 1024 };
static CHUNKER: LazyLock<Chunker> = LazyLock::new(|| Chunker::new(keys().gear(), SIZES));

fuzz_target!(|input: (u16, &[u8])| {
    let (piece, bytes) = input;
    let whole = within(SMALL, || cuts(bytes, usize::MAX));
    assert_eq!(whole, cuts(bytes, usize::from(piece) + 1));
    let mut start = 0;
    for end in &whole {
        let len = end - start;
        assert!(len > 0 && len <= 1024 && (len >= 64 || *end == bytes.len()));
        start = *end;
    }
    assert_eq!(start, bytes.len());
});

fn cuts(bytes: &[u8], piece: usize) -> Vec<usize> {
    let mut cuts = Vec::new();
    let (mut from, mut to) = (0, 0);
    loop {
        match CHUNKER.next_cut(&bytes[from..to], to == bytes.len()) {
            Some(len) => {
                from += len;
                cuts.push(from);
            }
            None if to == bytes.len() => return cuts,
            None => to = bytes.len().min(to.saturating_add(piece)),
        }
    }
}

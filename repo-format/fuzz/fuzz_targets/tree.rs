//! Tree manifests: pages, roots, lists of slices.
#![no_main]

use libfuzzer_sys::fuzz_target;
use repo_format::tree::{
    Page, TreeRoot, cmp_paths, decode_page, decode_slices, encode_inner, encode_leaf,
    encode_slices, is_safe_path,
};
use repo_format_fuzz::{SMALL, canonical};

/// Paths may take 64 MiB without their shared prefixes.
const LIMIT: usize = (64 << 20) + SMALL;

fuzz_target!(|bytes: &[u8]| {
    canonical(LIMIT, bytes, decode_page, |page| {
        check(page);
        match page {
            Page::Leaf(entries) => encode_leaf(entries),
            Page::Inner { level, children } => encode_inner(*level, children),
        }
    });
    canonical(SMALL, bytes, TreeRoot::decode, TreeRoot::encode);
    canonical(SMALL, bytes, decode_slices, |slices| encode_slices(slices));
});

fn check(page: &Page) {
    let paths: Vec<&[u8]> = match page {
        Page::Leaf(entries) => entries.iter().map(|entry| entry.path.as_slice()).collect(),
        Page::Inner { children, .. } => {
            children.iter().map(|child| child.first_path.as_slice()).collect()
        }
    };
    assert!(paths.iter().all(|path| is_safe_path(path)));
    assert!(paths.windows(2).all(|pair| cmp_paths(pair[0], pair[1]).is_lt()));
    if let Page::Leaf(entries) = page {
        assert!(entries.iter().all(|entry| entry.check().is_ok()));
    }
}

//! FORMAT.md and the code name the same limits and masks.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;

use fastcdc::v2020::{Normalization, select_masks};
use repo_format::limits;

const FORMAT: &str = include_str!("../FORMAT.md");
const LIMITS: &str = include_str!("../src/limits.rs");

/// Names and values, as text, of the constants named.
macro_rules! values {
    ($($name:ident)*) => { BTreeMap::from([$((stringify!($name), limits::$name.to_string())),*]) };
}

/// Cells of the table rows between two headings.
fn rows(from: &str, to: &str) -> Vec<Vec<&'static str>> {
    let (_, section) = FORMAT.split_once(from).unwrap();
    let (section, _) = section.split_once(to).unwrap();
    let cells = |line: &'static str| line.trim_matches('|').split('|').map(str::trim).collect();
    section.lines().filter(|line| line.starts_with('|')).map(cells).collect()
}

#[test]
fn the_table_of_limits_is_the_code() {
    let code = values! {
        FORMAT_VERSION RECORD_VERSION CATALOG_VERSION GRID_BYTES CHUNK_BYTES_MAX CHUNK_LOG2_MIN
        CHUNK_LOG2_MAX PACK_BYTES_MAX PACK_CHUNKS_MAX SEGMENT_BLOCK_BYTES SEGMENT_BLOCKS_MAX PAGE_SLOTS
        VOLUME_PAGES_MAX TREE_PAGE_BYTES_MAX PATH_BYTES_MAX LONG_PATH_BYTES TREE_PATHS_BYTES_MAX
        XATTR_BYTES_MAX XATTRS_MAX XATTR_NAME_BYTES_MAX XATTRS_BYTES_MAX INLINE_BYTES_MAX
        ENTRY_SLICES_MAX SLICES_PER_CHUNK INDIRECT_MAX EXTENTS_MAX TREE_DEPTH_MAX RECORD_BYTES_MAX
        RECORD_PLAIN_MAX TEXT_BYTES_MAX TAGS_MAX CATALOG_PAGE_SNAPSHOTS_MAX CATALOG_PAGES_MAX
        CATALOG_ROWS_MAX COMMIT_SEGMENTS_MAX COMMIT_FORGETS_MAX ISSUES_MAX FEATURES_MAX
        FEATURE_BYTES_MAX EPOCHS_MAX ARGON2_KIB_MAX ARGON2_PASSES_MAX ARGON2_LANES_MAX
    };
    let declared: Vec<&str> = LIMITS
        .lines()
        .filter_map(|line| line.strip_prefix("pub const "))
        .map(|rest| rest.split_once(':').unwrap().0)
        .collect();
    assert_eq!(code.len(), declared.len(), "limits.rs has a constant that is not compared");
    assert!(declared.iter().all(|name| code.contains_key(name)));
    let table: BTreeMap<&str, String> = rows("## 16. Limits", "## 17.")
        .into_iter()
        .filter(|row| row[0].starts_with('`'))
        .map(|row| (row[0].trim_matches('`'), row[1].replace(',', "")))
        .collect();
    assert_eq!(table, code);
}

#[test]
fn the_table_of_masks_is_the_one_the_chunker_uses() {
    let table: BTreeMap<u32, u64> = rows("### 14.2 Files", "- From the start")
        .iter()
        .flat_map(|row| row.chunks(2))
        .filter_map(|pair| {
            let mask = u64::from_str_radix(pair[1].strip_prefix("0x")?, 16).ok()?;
            Some((pair[0].parse().ok()?, mask))
        })
        .collect();
    assert_eq!(table.keys().copied().collect::<Vec<_>>(), (7..=23).collect::<Vec<_>>());
    for log2 in 8..=22 {
        let (strict, relaxed) = select_masks(1 << log2, Normalization::Level1);
        assert_eq!((table[&(log2 + 1)], table[&(log2 - 1)]), (strict, relaxed), "2^{log2}");
    }
}

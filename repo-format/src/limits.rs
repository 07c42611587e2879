//! Every maximum of the format. A decoder refuses what exceeds them before it allocates.

use crate::bytes::len_u64;
use crate::tree::PageCutter;

/// The newest format version this crate reads and the one it writes.
pub const FORMAT_VERSION: u16 = 1;
/// The newest layout of a record (key bundle, session, commit, catalog, snapshot, manifest page).
pub const RECORD_VERSION: u8 = 1;
/// The newest layout of a catalog: the one that says how objects are locked.
pub const CATALOG_VERSION: u8 = 2;
/// Alignment of a pack's length and of range reads: what O_DIRECT needs everywhere we know of.
pub const GRID_BYTES: usize = 4096;

/// Largest plain chunk, data or metadata.
pub const CHUNK_BYTES_MAX: usize = 16 << 20;
/// log2 of the smallest block-volume chunk (64 KiB).
pub const CHUNK_LOG2_MIN: u8 = 16;
/// log2 of the largest block-volume chunk (16 MiB).
pub const CHUNK_LOG2_MAX: u8 = 24;
/// Largest pack. A pack is at most its target plus one chunk, its TOC and padding.
pub const PACK_BYTES_MAX: usize = 192 << 20;
/// Most chunks in one pack.
pub const PACK_CHUNKS_MAX: u32 = 1 << 17;
/// Plain bytes of one block of an index segment.
pub const SEGMENT_BLOCK_BYTES: usize = 256 << 10;
/// Most blocks in one index segment.
pub const SEGMENT_BLOCKS_MAX: u32 = 1 << 24;
/// Chunk slots in one page of a block volume's manifest.
pub const PAGE_SLOTS: usize = 1024;
/// Most pages of a block volume's manifest: its root is one chunk (33 bytes a page at most).
pub const VOLUME_PAGES_MAX: u64 = 480_000;
/// Largest page of a tree manifest: an entry with the largest of everything still fits.
pub const TREE_PAGE_BYTES_MAX: usize = 8 << 20;
/// Longest path inside a tree: 255 names of 255 bytes (Linux allows 4,096 bytes a call; deeper
/// trees exist).
pub const PATH_BYTES_MAX: u64 = 64 << 10;
/// A leaf ends after a path longer than this, which bounds what a page's paths take together.
pub const LONG_PATH_BYTES: usize = 4096;
/// Sum of the paths of one tree page, prefixes written out. Prefixes are shared in the page, so
/// its length does not bound this.
pub const TREE_PATHS_BYTES_MAX: u64 = 64 << 20;
/// Largest extended attribute (Linux: 64 KiB).
pub const XATTR_BYTES_MAX: u64 = 64 << 10;
/// Most extended attributes of one file (Linux lists at most 64 KiB of names).
pub const XATTRS_MAX: u64 = 16_384;
/// Longest name of an extended attribute.
pub const XATTR_NAME_BYTES_MAX: u64 = 255;
/// All names and values of one file's extended attributes together.
pub const XATTRS_BYTES_MAX: u64 = 4 << 20;
/// Longest file content that is stored inside the tree entry itself.
pub const INLINE_BYTES_MAX: u64 = 512;
/// Most slices listed in an entry itself; longer files list chunks of slices.
pub const ENTRY_SLICES_MAX: u64 = 1024;
/// Slices in one chunk of slices.
pub const SLICES_PER_CHUNK: usize = 16_384;
/// Most chunks of slices in one entry.
pub const INDIRECT_MAX: u64 = 65_536;
/// Most extents of a sparse file; a file with more is stored dense.
pub const EXTENTS_MAX: u64 = 65_536;
/// Levels of a tree manifest.
pub const TREE_DEPTH_MAX: u8 = 8;
/// Largest small object (config, slot, session, commit, catalog, catalog page), sealed.
pub const RECORD_BYTES_MAX: u64 = 64 << 20;
/// Plain bytes of a small object.
pub const RECORD_PLAIN_MAX: usize = 256 << 20;
/// Longest text: names, hosts, labels.
pub const TEXT_BYTES_MAX: u64 = 4096;
/// Most tags of one snapshot.
pub const TAGS_MAX: u64 = 1024;
/// Most snapshots on one catalog page.
pub const CATALOG_PAGE_SNAPSHOTS_MAX: u64 = 65_536;
/// Most pages of the catalog's snapshot list.
pub const CATALOG_PAGES_MAX: u64 = 4096;
/// Most rows in each of a catalog's inline lists.
pub const CATALOG_ROWS_MAX: u64 = 4 << 20;
/// Segments in one commit.
pub const COMMIT_SEGMENTS_MAX: u64 = 65_536;
/// Snapshots that one commit forgets.
pub const COMMIT_FORGETS_MAX: u64 = 65_536;
/// Issues of a snapshot kept by name; more are only counted.
pub const ISSUES_MAX: u64 = 1000;
/// Features in each of the config's lists.
pub const FEATURES_MAX: u64 = 64;
/// Longest name of a feature.
pub const FEATURE_BYTES_MAX: u64 = 64;
/// Key epochs in one bundle.
pub const EPOCHS_MAX: u64 = 256;
/// Argon2id memory that is refused, in KiB (4 GiB).
pub const ARGON2_KIB_MAX: u32 = 4 << 20;
/// Argon2id passes that are refused.
pub const ARGON2_PASSES_MAX: u32 = 64;
/// Argon2id lanes that are refused.
pub const ARGON2_LANES_MAX: u32 = 64;

const _: () = assert!(PACK_BYTES_MAX >= 8 * CHUNK_BYTES_MAX);
const _: () = assert!(TREE_PAGE_BYTES_MAX <= CHUNK_BYTES_MAX);
const _: () = assert!(VOLUME_PAGES_MAX * 33 + 64 <= len_u64(CHUNK_BYTES_MAX));
// A page that is full but for one entry, and that entry: path, attributes, chunks, extents.
const _: () = assert!(
    len_u64(PageCutter::TARGET_MAX_BYTES)
        + PATH_BYTES_MAX
        + XATTRS_BYTES_MAX
        + XATTRS_MAX * 5
        + INDIRECT_MAX * 32
        + EXTENTS_MAX * 20
        + 256
        <= len_u64(TREE_PAGE_BYTES_MAX)
);
const _: () = assert!(len_u64(PageCutter::MAX_CHILDREN) * PATH_BYTES_MAX <= TREE_PATHS_BYTES_MAX);
// 21 bytes is the shortest entry.
const _: () = assert!(
    len_u64(PageCutter::TARGET_MAX_BYTES / 21 * LONG_PATH_BYTES) + PATH_BYTES_MAX
        <= TREE_PATHS_BYTES_MAX
);
const _: () = assert!(SLICES_PER_CHUNK * 40 <= CHUNK_BYTES_MAX);

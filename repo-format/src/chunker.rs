//! Content-defined chunking of files: FastCDC with a Gear table that is secret and per
//! repository, so that cuts tell nothing about content to who does not hold the keys.

use fastcdc::v2020::{Normalization, cut_gear, select_masks};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::bytes::to_usize;

/// The secret table that drives the rolling hash.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct GearTable {
    table: Vec<u64>,
    shifted: Vec<u64>,
}

impl std::fmt::Debug for GearTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GearTable(…)")
    }
}

impl GearTable {
    pub(crate) fn derive(master: &[u8; 32]) -> Self {
        let mut bytes = vec![0u8; 256 * 8];
        let mut hasher = blake3::Hasher::new_derive_key("salvor v1 gear");
        hasher.update(master);
        hasher.finalize_xof().fill(&mut bytes);
        hasher.zeroize();
        let table: Vec<u64> = bytes
            .chunks_exact(8)
            .map(|word| word.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
            .collect();
        let shifted = table.iter().map(|word| word << 1).collect();
        bytes.zeroize();
        Self { table, shifted }
    }
}

/// Sizes of content-defined chunks, in bytes. Stored in the repository's config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkSizes {
    /// No chunk but the last of a region is shorter. Even, at least 64.
    pub min: u32,
    /// Where the cut condition becomes easier. A power of two.
    pub avg: u32,
    /// No chunk is longer. Even.
    pub max: u32,
}

impl Default for ChunkSizes {
    fn default() -> Self {
        Self { min: 256 << 10, avg: 1 << 20, max: 4 << 20 }
    }
}

impl ChunkSizes {
    /// Whether the chunker and the format can work with these sizes.
    pub fn are_valid(self) -> bool {
        self.min >= 64
            && self.min.is_multiple_of(2)
            && self.max.is_multiple_of(2)
            && self.avg.is_power_of_two()
            && (256..=4 << 20).contains(&self.avg)
            && self.min < self.avg
            && self.avg < self.max
            && self.max <= 16 << 20
    }
}

/// Cuts bytes into chunks.
#[derive(Debug, Clone)]
pub struct Chunker {
    gear: GearTable,
    sizes: ChunkSizes,
    strict: u64,
    relaxed: u64,
}

impl Chunker {
    /// A chunker for one repository.
    pub fn new(gear: &GearTable, sizes: ChunkSizes) -> Self {
        let (strict, relaxed) = select_masks(to_usize(sizes.avg.into()), Normalization::Level1);
        Self { gear: gear.clone(), sizes, strict, relaxed }
    }

    /// Length of the chunk at the front of `bytes`, or `None` if that depends on bytes that are
    /// not there yet: fewer than the greatest chunk length, and not `is_last`.
    ///
    /// How a caller splits its input never moves a cut. Empty `bytes` give `None`.
    pub fn next_cut(&self, bytes: &[u8], is_last: bool) -> Option<usize> {
        let [min, avg, max] =
            [self.sizes.min, self.sizes.avg, self.sizes.max].map(|size| to_usize(size.into()));
        if bytes.is_empty() || (bytes.len() < max && !is_last) {
            return None;
        }
        let (_, len) = cut_gear(
            bytes,
            min,
            avg,
            max,
            self.strict,
            self.relaxed,
            self.strict << 1,
            self.relaxed << 1,
            &self.gear.table,
            &self.gear.shifted,
        );
        Some(len.max(1))
    }

    /// The sizes this chunker was made with.
    pub const fn sizes(&self) -> ChunkSizes {
        self.sizes
    }
}

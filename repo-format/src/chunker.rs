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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::noise;

    const SMALL: ChunkSizes = ChunkSizes { min: 64, avg: 256, max: 1024 };

    fn gear(seed: u8) -> GearTable {
        GearTable::derive(&[seed; 32])
    }

    fn lens(chunker: &Chunker, mut bytes: &[u8]) -> Vec<usize> {
        let mut lens = Vec::new();
        while let Some(len) = chunker.next_cut(bytes, true) {
            lens.push(len);
            bytes = &bytes[len..];
        }
        lens
    }

    /// As [`lens`] when the bytes come in pieces of `piece` bytes.
    fn lens_in_pieces(chunker: &Chunker, bytes: &[u8], piece: usize) -> Vec<usize> {
        let mut lens = Vec::new();
        let (mut from, mut to) = (0, 0);
        loop {
            match chunker.next_cut(&bytes[from..to], to == bytes.len()) {
                Some(len) => {
                    lens.push(len);
                    from += len;
                }
                None if to == bytes.len() => return lens,
                None => to = bytes.len().min(to + piece),
            }
        }
    }

    /// The rule of FORMAT.md, a byte at a time.
    fn reference_len(gear: &GearTable, sizes: ChunkSizes, bytes: &[u8]) -> usize {
        let [min, avg, max] = [sizes.min, sizes.avg, sizes.max].map(|size| size as usize);
        let (strict, relaxed) = select_masks(avg, Normalization::Level1);
        let end = bytes.len().min(max);
        if end <= min {
            return end;
        }
        let mut hash = 0u64;
        for (at, byte) in bytes.iter().enumerate().take(end / 2 * 2).skip(min) {
            hash = (hash << 1).wrapping_add(gear.table[usize::from(*byte)]);
            let mask = if at < avg.min(end) / 2 * 2 { strict } else { relaxed };
            if hash & mask == 0 {
                return at;
            }
        }
        end
    }

    fn reference_lens(gear: &GearTable, sizes: ChunkSizes, mut bytes: &[u8]) -> Vec<usize> {
        let mut lens = Vec::new();
        while !bytes.is_empty() {
            lens.push(reference_len(gear, sizes, bytes));
            bytes = &bytes[lens[lens.len() - 1]..];
        }
        lens
    }

    proptest! {
        #[test]
        fn cuts_follow_the_rule_however_the_bytes_come(
            seed in any::<u64>(),
            len in 0usize..20_000,
            piece in 1usize..3000,
            repeat in 1usize..100,
        ) {
            let chunker = Chunker::new(&gear(1), SMALL);
            // Noise, then a part that repeats: with cuts at the greatest length.
            let mut bytes = noise(seed, len);
            let pattern = noise(seed ^ 1, repeat);
            bytes.extend(pattern.iter().cycle().take(len / 2));
            let expected = reference_lens(&gear(1), SMALL, &bytes);
            prop_assert_eq!(&lens(&chunker, &bytes), &expected);
            prop_assert_eq!(&lens_in_pieces(&chunker, &bytes, piece), &expected);
            prop_assert_eq!(expected.iter().sum::<usize>(), bytes.len());
        }

        #[test]
        fn every_chunk_but_the_last_has_an_allowed_length(seed in any::<u64>()) {
            let lens = lens(&Chunker::new(&gear(1), SMALL), &noise(seed, 50_000));
            let (last, others) = lens.split_last().unwrap();
            prop_assert!(others.iter().all(|len| (64..=1024).contains(len)), "{:?}", lens);
            prop_assert!(*last <= 1024);
        }
    }

    #[test]
    fn the_default_sizes_cut_as_the_rule_says() {
        let bytes = noise(1, 24 << 20);
        let sizes = ChunkSizes::default();
        let lens = lens(&Chunker::new(&gear(1), sizes), &bytes);
        assert_eq!(lens, reference_lens(&gear(1), sizes, &bytes));
        let average = bytes.len() / lens.len();
        assert!((512 << 10..2 << 20).contains(&average), "{average} bytes a chunk");
    }

    #[test]
    fn another_key_gives_other_cuts() {
        let bytes = noise(1, 100_000);
        let cuts = |seed| lens(&Chunker::new(&gear(seed), SMALL), &bytes);
        assert_eq!(cuts(1), cuts(1));
        assert_ne!(cuts(1), cuts(2));
    }

    #[test]
    fn an_insertion_moves_only_the_cuts_near_it() {
        let chunker = Chunker::new(&gear(1), SMALL);
        let before = noise(1, 100_000);
        let after = [&before[..50_000], b"inserted", &before[50_000..]].concat();
        let ends = |lens: Vec<usize>, len: usize| -> std::collections::HashSet<usize> {
            let ends = lens.iter().scan(0, |end, len| {
                *end += len;
                Some(*end)
            });
            ends.map(|end| len - end).collect()
        };
        let old = ends(lens(&chunker, &before), before.len());
        let new = ends(lens(&chunker, &after), after.len());
        let lost = old.difference(&new).filter(|to_end| **to_end < 45_000).count();
        assert_eq!(lost, 0, "cuts far behind the insertion moved");
    }

    #[test]
    fn bytes_without_any_variety_are_cut_at_the_greatest_length() {
        let lens = lens(&Chunker::new(&gear(1), SMALL), &[0; 5000]);
        assert_eq!(lens, [1024, 1024, 1024, 1024, 904]);
    }

    #[test]
    fn nothing_is_cut_while_it_depends_on_bytes_to_come() {
        let chunker = Chunker::new(&gear(1), SMALL);
        let bytes = noise(1, 1024);
        assert_eq!(chunker.next_cut(&[], true), None);
        assert_eq!(chunker.next_cut(&bytes[..1023], false), None);
        assert!(chunker.next_cut(&bytes, false).is_some());
        assert_eq!(chunker.next_cut(&bytes[..1], true), Some(1));
    }
}

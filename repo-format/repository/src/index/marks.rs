//! Which chunks are needed: one bit for each chunk of each listed pack.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::database::damaged;
use super::view::PackState;
use super::{Index, IndexError, Place};

/// Marks over the packs that an index listed when they were made. Any number of threads may set
/// them at once. A bit per chunk and eight bytes per pack: 10 million chunks take about 4 MB.
#[derive(Debug)]
pub struct Marks {
    /// Where each pack's bits start, and behind the last one their end.
    starts: Vec<u32>,
    bits: Vec<AtomicU64>,
    /// Stored bytes of the marked chunks of each pack.
    bytes: Vec<AtomicU32>,
}

/// What is marked in one pack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needed {
    /// Marked chunks.
    pub chunks: u32,
    /// Their sealed frames, together.
    pub bytes: u32,
}

impl Marks {
    /// No marks, for the packs that the index lists now.
    ///
    /// # Errors
    ///
    /// [`IndexError::TooManyChunks`], [`IndexError::Damaged`].
    pub fn new(index: &Index) -> Result<Self, IndexError> {
        let cache = index.cache();
        let view = cache.view();
        let mut starts = vec![0u32; view.len() + 1];
        let mut malformed = false;
        cache.each_listed(&view, &mut |number, chunks| match starts.get_mut(number as usize) {
            Some(start) if view.state(number) != PackState::Unlisted => *start = chunks,
            _ => malformed = true,
        })?;
        if malformed {
            return Err(damaged("a segment lists a pack that has no number"));
        }
        let mut sum = 0u32;
        for start in &mut starts {
            let chunks = std::mem::replace(start, sum);
            sum = sum.checked_add(chunks).ok_or(IndexError::TooManyChunks)?;
        }
        let words = (sum as usize).div_ceil(64);
        Ok(Self {
            starts,
            bits: (0..words).map(|_| AtomicU64::new(0)).collect(),
            bytes: (0..view.len()).map(|_| AtomicU32::new(0)).collect(),
        })
    }

    /// Marks a chunk as needed and tells whether it was not marked before.
    ///
    /// # Errors
    ///
    /// [`IndexError::NotMarkable`]: the index was synced since, and these marks are of no use.
    pub fn mark(&self, place: &Place) -> Result<bool, IndexError> {
        let unknown = IndexError::NotMarkable { pack: place.pack, slot: place.slot };
        let Some(bit) = self.bit_of(place) else { return Err(unknown) };
        let (Some(word), Some(bytes)) =
            (self.bits.get(bit as usize / 64), self.bytes.get(place.pack as usize))
        else {
            return Err(unknown);
        };
        let mask = 1 << (bit % 64);
        let is_new = word.fetch_or(mask, Ordering::Relaxed) & mask == 0;
        if is_new {
            bytes.fetch_add(place.stored_len, Ordering::Relaxed);
        }
        Ok(is_new)
    }

    /// Whether a chunk is marked.
    pub fn is_marked(&self, place: &Place) -> bool {
        self.bit_of(place).is_some_and(|bit| self.bit(bit))
    }

    fn bit_of(&self, place: &Place) -> Option<u32> {
        let (start, end) = self.range_of(place.pack)?;
        start.checked_add(place.slot).filter(|bit| *bit < end)
    }

    fn range_of(&self, pack: u32) -> Option<(u32, u32)> {
        let at = pack as usize;
        Some((*self.starts.get(at)?, *self.starts.get(at + 1)?))
    }

    fn bit(&self, bit: u32) -> bool {
        let word = self.bits.get(bit as usize / 64);
        word.is_some_and(|word| word.load(Ordering::Relaxed) & 1 << (bit % 64) != 0)
    }

    /// What is marked in a pack, by its number.
    pub fn needed_in(&self, pack: u32) -> Needed {
        let Some((start, end)) = self.range_of(pack) else { return Needed::default() };
        let chunks = (start..end).map(|bit| u32::from(self.bit(bit))).sum();
        let bytes = self.bytes.get(pack as usize);
        Needed { chunks, bytes: bytes.map_or(0, |bytes| bytes.load(Ordering::Relaxed)) }
    }
}

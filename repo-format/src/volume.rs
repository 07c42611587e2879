//! The manifest of a block volume: a page map with O(1) access to any offset.
//!
//! A page covers [`PAGE_SLOTS`] chunks and is a metadata chunk; the root lists the pages. Pages
//! that did not change are shared between snapshots by their id.

use crate::bytes::{Put, Reader, len_u64, to_usize};
use crate::error::{FormatError, check_record_version};
use crate::id::ChunkId;
use crate::limits::{CHUNK_LOG2_MAX, CHUNK_LOG2_MIN, PAGE_SLOTS, RECORD_VERSION, VOLUME_PAGES_MAX};

/// What one chunk of a volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Slot {
    /// Not allocated on the source; reads as zeroes and takes no space when restored.
    #[default]
    Hole,
    /// Allocated, all zeroes.
    Zero,
    /// This chunk.
    Data(ChunkId),
    /// Not covered: a checkpoint that had not come so far, or an extent that could not be read.
    Missing,
}

impl Slot {
    const fn state(&self) -> u8 {
        match self {
            Self::Hole => 0,
            Self::Zero => 1,
            Self::Data(_) => 2,
            Self::Missing => 3,
        }
    }
}

/// The chunks of [`PAGE_SLOTS`] × chunk length bytes of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Always [`PAGE_SLOTS`] long; slots behind the volume's end are holes.
    pub slots: Vec<Slot>,
}

impl Default for Page {
    fn default() -> Self {
        Self { slots: vec![Slot::Hole; PAGE_SLOTS] }
    }
}

const STATES_LEN: usize = PAGE_SLOTS / 4;

impl Page {
    /// The page's plain bytes: two bits a slot, then the ids of its data slots in order.
    pub fn encode(&self) -> Vec<u8> {
        let mut states = [0u8; STATES_LEN];
        for (states, slots) in states.iter_mut().zip(self.slots.chunks(4)) {
            *states = slots.iter().rev().fold(0, |states, slot| states << 2 | slot.state());
        }
        let mut out = Vec::with_capacity(1 + STATES_LEN + PAGE_SLOTS * ChunkId::LEN);
        out.u8(RECORD_VERSION);
        out.raw(&states);
        for slot in self.slots.iter().take(PAGE_SLOTS) {
            if let Slot::Data(id) = slot {
                out.raw(id.as_bytes());
            }
        }
        out
    }

    /// Decodes a page.
    ///
    /// # Errors
    ///
    /// Any [`FormatError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes, "volume page");
        check_record_version(reader.u8()?)?;
        let states: [u8; STATES_LEN] = reader.array()?;
        let mut slots = Vec::with_capacity(PAGE_SLOTS);
        for state in states.iter().flat_map(|byte| [0, 2, 4, 6].map(|shift| byte >> shift & 3)) {
            slots.push(match state {
                0 => Slot::Hole,
                1 => Slot::Zero,
                2 => Slot::Data(ChunkId(reader.array()?)),
                _ => Slot::Missing,
            });
        }
        reader.finish()?;
        Ok(Self { slots })
    }

    /// What the root says of this page.
    pub fn summary(&self, id: impl FnOnce() -> ChunkId) -> PageRef {
        let all = |slot: Slot| self.slots.iter().all(|other| *other == slot);
        if all(Slot::Hole) {
            PageRef::Hole
        } else if all(Slot::Missing) {
            PageRef::Missing
        } else {
            PageRef::Page(id())
        }
    }
}

/// A page as the root lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageRef {
    /// All its slots are holes.
    Hole,
    /// All its slots are missing.
    Missing,
    /// This metadata chunk.
    Page(ChunkId),
}

/// The root of a block volume's manifest, a metadata chunk named by the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRoot {
    /// Length of the volume in bytes; the last chunk is as long as what is left.
    pub size_bytes: u64,
    /// log2 of the chunk length.
    pub chunk_log2: u8,
    /// One row per [`PAGE_SLOTS`] chunks, from offset 0.
    pub pages: Vec<PageRef>,
}

impl VolumeRoot {
    /// A root of a volume of which nothing was covered yet.
    ///
    /// # Errors
    ///
    /// [`FormatError::Limit`] for a volume too large for chunks of this length.
    pub fn new(size_bytes: u64, chunk_log2: u8) -> Result<Self, FormatError> {
        let count = page_count(size_bytes, chunk_log2)?;
        Ok(Self { size_bytes, chunk_log2, pages: vec![PageRef::Missing; count] })
    }

    /// Number of chunks in the volume.
    pub const fn chunks(&self) -> u64 {
        self.size_bytes.div_ceil(1 << self.chunk_log2)
    }

    /// The root's plain bytes; runs of equal rows without a page are one row.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![RECORD_VERSION, self.chunk_log2];
        out.u64(self.size_bytes);
        let mut rest = self.pages.as_slice();
        while let Some(first) = rest.first() {
            let same =
                |row: &&PageRef| std::mem::discriminant(*row) == std::mem::discriminant(first);
            let run = rest.iter().take_while(same).count();
            let (rows, tail) = rest.split_at(run);
            out.u8(match first {
                PageRef::Hole => 0,
                PageRef::Missing => 1,
                PageRef::Page(_) => 2,
            });
            out.varint(len_u64(run));
            for row in rows {
                if let PageRef::Page(id) = row {
                    out.raw(id.as_bytes());
                }
            }
            rest = tail;
        }
        out
    }

    /// Decodes a root.
    ///
    /// # Errors
    ///
    /// Any [`FormatError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes, "volume root");
        check_record_version(reader.u8()?)?;
        let chunk_log2 = reader.u8()?;
        let size_bytes = reader.u64()?;
        let count = page_count(size_bytes, chunk_log2)?;
        let mut pages = Vec::with_capacity(count);
        let mut last_tag = None;
        while !reader.is_empty() {
            let tag = reader.u8()?;
            if last_tag.replace(tag) == Some(tag) {
                return Err(FormatError::Inconsistent { what: "run of pages" });
            }
            let run = reader.bounded(len_u64(count - pages.len()), "run of pages")?;
            if run == 0 {
                return Err(FormatError::Inconsistent { what: "run of pages" });
            }
            for _ in 0..run {
                pages.push(match tag {
                    0 => PageRef::Hole,
                    1 => PageRef::Missing,
                    2 => PageRef::Page(ChunkId(reader.array()?)),
                    _ => return Err(FormatError::Inconsistent { what: "run of pages" }),
                });
            }
        }
        if pages.len() != count {
            return Err(FormatError::Inconsistent { what: "number of pages" });
        }
        Ok(Self { size_bytes, chunk_log2, pages })
    }
}

fn page_count(size_bytes: u64, chunk_log2: u8) -> Result<usize, FormatError> {
    if !(CHUNK_LOG2_MIN..=CHUNK_LOG2_MAX).contains(&chunk_log2) {
        return Err(FormatError::Inconsistent { what: "chunk length of a volume" });
    }
    let count = size_bytes.div_ceil(len_u64(PAGE_SLOTS) << chunk_log2);
    if count > VOLUME_PAGES_MAX {
        let (found, limit) = (count, VOLUME_PAGES_MAX);
        return Err(FormatError::Limit { what: "number of pages of a volume", found, limit });
    }
    Ok(to_usize(count))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing;

    fn slot() -> impl Strategy<Value = Slot> {
        prop_oneof![
            Just(Slot::Hole),
            Just(Slot::Zero),
            Just(Slot::Missing),
            testing::chunk_id().prop_map(Slot::Data),
        ]
    }

    fn page_ref() -> impl Strategy<Value = PageRef> {
        prop_oneof![
            Just(PageRef::Hole),
            Just(PageRef::Missing),
            testing::chunk_id().prop_map(PageRef::Page),
        ]
    }

    proptest! {
        #[test]
        fn a_page_is_read_back_as_it_was(slots in proptest::collection::vec(slot(), PAGE_SLOTS)) {
            let page = Page { slots };
            prop_assert_eq!(Page::decode(&page.encode()).unwrap(), page);
        }

        #[test]
        fn a_root_is_read_back_as_it_was(
            pages in proptest::collection::vec(page_ref(), 0..40),
            chunk_log2 in CHUNK_LOG2_MIN..=CHUNK_LOG2_MAX,
            tail in any::<u64>(),
        ) {
            let page_bytes = len_u64(PAGE_SLOTS) << chunk_log2;
            let full = len_u64(pages.len()) * page_bytes;
            let size_bytes = full - tail % page_bytes.min(full.max(1));
            let root = VolumeRoot { size_bytes, chunk_log2, pages };
            prop_assert_eq!(VolumeRoot::decode(&root.encode()).unwrap(), root);
        }
    }

    #[test]
    fn a_damaged_root_is_refused_or_another_root() {
        let id = |byte| PageRef::Page(ChunkId([byte; 32]));
        let pages = vec![PageRef::Hole, id(1), id(2), PageRef::Missing, PageRef::Missing];
        let root = VolumeRoot { size_bytes: 5 << 30, chunk_log2: 20, pages };
        let decode = |bytes: &[u8]| VolumeRoot::decode(bytes);
        testing::refuses_damage_or_is_canonical(&root.encode(), decode, VolumeRoot::encode);
    }

    #[test]
    fn a_damaged_page_is_refused_or_another_page() {
        let mut page = Page::default();
        page.slots[3] = Slot::Data(ChunkId([1; 32]));
        page.slots[1023] = Slot::Zero;
        let decode = |bytes: &[u8]| Page::decode(bytes);
        testing::refuses_damage_or_is_canonical(&page.encode(), decode, Page::encode);
    }

    #[test]
    fn two_runs_of_one_kind_are_one_run() {
        let root = VolumeRoot { size_bytes: 2 << 30, chunk_log2: 20, pages: vec![] };
        let mut bytes = root.encode();
        bytes.raw(&[0, 1, 0, 1]);
        assert!(VolumeRoot::decode(&bytes).is_err());
    }

    #[test]
    fn a_volume_beyond_the_limit_is_refused_before_anything_is_reserved() {
        for chunk_log2 in CHUNK_LOG2_MIN..=CHUNK_LOG2_MAX {
            let largest = VOLUME_PAGES_MAX * (len_u64(PAGE_SLOTS) << chunk_log2);
            assert_eq!(
                VolumeRoot::new(largest, chunk_log2).unwrap().pages.len(),
                to_usize(VOLUME_PAGES_MAX)
            );
            for size_bytes in [largest + 1, u64::MAX] {
                let refused = VolumeRoot::new(size_bytes, chunk_log2);
                assert!(matches!(refused, Err(FormatError::Limit { .. })));
                let root = VolumeRoot { size_bytes, chunk_log2, pages: vec![] };
                let refused = VolumeRoot::decode(&root.encode());
                assert!(matches!(refused, Err(FormatError::Limit { .. })));
            }
        }
    }

    #[test]
    fn a_chunk_length_out_of_range_is_refused() {
        for chunk_log2 in (0..CHUNK_LOG2_MIN).chain(CHUNK_LOG2_MAX + 1..=u8::MAX) {
            let root = VolumeRoot { size_bytes: 1 << 30, chunk_log2, pages: vec![] };
            assert!(VolumeRoot::decode(&root.encode()).is_err(), "2^{chunk_log2}");
            assert!(VolumeRoot::new(1 << 30, chunk_log2).is_err(), "2^{chunk_log2}");
        }
    }

    #[test]
    fn the_largest_root_fits_a_chunk() {
        let largest = VOLUME_PAGES_MAX * (len_u64(PAGE_SLOTS) << 20);
        let mut root = VolumeRoot::new(largest, 20).unwrap();
        root.pages.fill(PageRef::Page(ChunkId([1; 32])));
        assert!(root.encode().len() <= crate::limits::CHUNK_BYTES_MAX);
    }

    #[test]
    fn a_page_of_one_kind_needs_no_chunk() {
        let never = || unreachable!("no id is needed");
        assert_eq!(Page::default().summary(never), PageRef::Hole);
        let missing = Page { slots: vec![Slot::Missing; PAGE_SLOTS] };
        assert_eq!(missing.summary(never), PageRef::Missing);
        let zero = Page { slots: vec![Slot::Zero; PAGE_SLOTS] };
        assert_eq!(zero.summary(|| ChunkId([5; 32])), PageRef::Page(ChunkId([5; 32])));
    }

    #[test]
    fn the_last_chunk_counts_however_short() {
        assert_eq!(VolumeRoot::new(0, 20).unwrap().chunks(), 0);
        assert_eq!(VolumeRoot::new(1, 20).unwrap().chunks(), 1);
        assert_eq!(VolumeRoot::new((1 << 20) + 1, 20).unwrap().chunks(), 2);
    }
}

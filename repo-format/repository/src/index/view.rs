//! What the current view says of each pack: one byte a pack, by its local number.

use repo_format::id::SegmentName;

use super::records::ListedPack;
use crate::rules::{Rule, keeps};

/// What a pack is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PackState {
    /// Listed, and nothing against it.
    Live,
    /// About to be declared dead: to be read, not to be referenced anew.
    Condemned,
    /// Found missing or damaged: worth a try when reading.
    Bad,
    /// Deleted, or about to be.
    Dead,
    /// No segment of the view names it: to be ignored.
    Unlisted,
}

impl PackState {
    /// Whether a new snapshot may refer to what is in such a pack.
    pub(super) fn is_usable(self) -> bool {
        match self {
            Self::Live => true,
            Self::Condemned => !keeps(Rule::CondemnedIsNotUsed),
            Self::Unlisted => !keeps(Rule::UnlistedIsNothing),
            Self::Bad | Self::Dead => false,
        }
    }
}

/// A segment of the view names the pack.
pub(super) const LISTED: u8 = 1;
pub(super) const CONDEMNED: u8 = 2;
pub(super) const BAD: u8 = 4;
pub(super) const DEAD: u8 = 8;
/// The number stands for a pack: entries with it are kept.
pub(super) const KNOWN: u8 = 16;
/// Entries for all of the pack's chunks are in the cache.
pub(super) const COMPLETE: u8 = 32;

/// The packs' flags and what they come from. Immutable once it is shared.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    flags: Vec<u8>,
    /// The segments that were loaded, of those that the view has.
    pub(super) segments: Vec<SegmentName>,
    /// Chunks of the listed packs.
    pub(super) chunks: u64,
}

impl View {
    /// A view that lists nothing. `known`: what is known of the packs whatever the view.
    pub(super) fn new(known: &[u8]) -> Self {
        Self { flags: known.to_vec(), segments: Vec::new(), chunks: 0 }
    }

    /// Takes in what was learnt of the packs since.
    pub(super) fn learn(&mut self, known: &[u8]) {
        self.flags.resize(self.flags.len().max(known.len()), 0);
        for (flags, known) in self.flags.iter_mut().zip(known) {
            *flags |= known;
        }
    }

    /// Takes a pack of a listed segment in.
    pub(super) fn list(&mut self, pack: &ListedPack) {
        let flags = self.flags_mut(pack.number);
        if *flags & LISTED == 0 {
            *flags |= LISTED;
            self.chunks += u64::from(pack.chunks);
        }
    }

    pub(super) fn flags_mut(&mut self, number: u32) -> &mut u8 {
        let at = number as usize;
        if self.flags.len() <= at {
            self.flags.resize(at + 1, 0);
        }
        &mut self.flags[at]
    }

    pub(super) fn flags(&self, number: u32) -> u8 {
        self.flags.get(number as usize).copied().unwrap_or(0)
    }

    /// Whether entries of the pack may be dropped for good: its number was given up.
    pub(super) fn is_given_up(&self, number: u32) -> bool {
        self.flags.get(number as usize).is_some_and(|flags| flags & KNOWN == 0)
    }

    /// How many packs were listed once, in full, and are not.
    pub(super) fn once_listed(&self) -> usize {
        let once = |flags: &&u8| **flags & LISTED == 0 && **flags & COMPLETE != 0;
        self.flags.iter().filter(once).count()
    }

    /// The state of a pack.
    pub(crate) fn state(&self, number: u32) -> PackState {
        let flags = self.flags(number);
        if flags & LISTED == 0 {
            PackState::Unlisted
        } else if flags & DEAD != 0 {
            PackState::Dead
        } else if flags & BAD != 0 {
            PackState::Bad
        } else if flags & CONDEMNED != 0 {
            PackState::Condemned
        } else {
            PackState::Live
        }
    }
}

/// A set of packs by number: a bit each.
#[derive(Debug, Clone, Default)]
pub(crate) struct PackSet {
    bits: Vec<u64>,
}

impl PackSet {
    pub(crate) fn insert(&mut self, number: u32) {
        let word = number as usize / 64;
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        if let Some(bits) = self.bits.get_mut(word) {
            *bits |= 1 << (number % 64);
        }
    }

    pub(crate) fn contains(&self, number: u32) -> bool {
        self.bits.get(number as usize / 64).is_some_and(|bits| bits >> (number % 64) & 1 == 1)
    }

    /// The first pack of the set with this number or a higher one.
    pub(crate) fn next_from(&self, number: u32) -> Option<u32> {
        let mut word = number as usize / 64;
        let mut bits = self.bits.get(word)? & u64::MAX << (number % 64);
        while bits == 0 {
            word += 1;
            bits = *self.bits.get(word)?;
        }
        u32::try_from(word * 64).ok().map(|first| first + bits.trailing_zeros())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_packs_is_walked_in_order_and_to_its_end() {
        let numbers = [0, 1, 63, 64, 200, 1 << 20];
        let mut set = PackSet::default();
        assert_eq!(set.next_from(0), None);
        numbers.iter().rev().for_each(|number| set.insert(*number));
        let mut walked = Vec::new();
        let mut next = Some(0);
        while let Some(number) = next.and_then(|next| set.next_from(next)) {
            walked.push(number);
            next = number.checked_add(1);
        }
        assert_eq!(walked, numbers);
        assert!(numbers.iter().all(|number| set.contains(*number)) && !set.contains(2));
        assert_eq!(set.next_from(u32::MAX), None);
    }
}

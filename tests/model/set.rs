//! Sets of small numbers: sessions, snapshots, packs, segments or chunks.

use std::fmt;

/// A set of numbers below eight.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Set(u8);

impl Set {
    pub(super) const EMPTY: Self = Self(0);

    pub(super) const fn one(member: usize) -> Self {
        Self(1 << member)
    }

    /// The numbers `0..count`.
    pub(super) fn first(count: usize) -> Self {
        Self::of(0..count)
    }

    pub(super) fn of(members: impl Iterator<Item = usize>) -> Self {
        members.fold(Self::EMPTY, Self::with)
    }

    pub(super) const fn has(self, member: usize) -> bool {
        self.0 & (1 << member) != 0
    }

    pub(super) const fn with(self, member: usize) -> Self {
        Self(self.0 | (1 << member))
    }

    pub(super) const fn without(self, member: usize) -> Self {
        Self(self.0 & !(1 << member))
    }

    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(super) const fn shared(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) const fn within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// The members, ascending.
    pub(super) fn iter(self) -> impl Iterator<Item = usize> + Clone {
        (0..8).filter(move |&member| self.has(member))
    }

    /// Every subset, the empty one first.
    pub(super) fn subsets(self) -> impl Iterator<Item = Self> {
        (0..=self.0).map(Self).filter(move |part| part.within(self))
    }

    /// The set with each member replaced by what `names` gives for it.
    pub(super) fn renamed(self, names: &[usize]) -> Self {
        Self::of(self.iter().map(|member| names[member]))
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_set().entries(self.iter()).finish()
    }
}

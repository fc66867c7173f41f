//! Under which epoch a state was read.

use std::fmt;

/// A partition's epoch: the version of the layout under which it was raised (32 bits), then a number. Greater ones are
/// later, and those of a later layout are greater than any of an earlier one: what a lost owner had raised need not be
/// known (decision 0021).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Before the first round.
    pub const FIRST: Self = Self(0);

    /// The next one under a layout; none where a layout has been given so many rounds, or the cluster so many layouts,
    /// that there is none.
    #[must_use]
    pub fn next_under(self, layout: u64) -> Option<Self> {
        let least = u64::from(u32::try_from(layout).ok()?) << 32;
        let next = self.0.max(least).checked_add(1)?;
        (next >> 32 == layout).then_some(Self(next))
    }

    /// Before the first round under a layout. Everybody who knows the layout reads under this one, or a later one: it is
    /// as if they had marked a round that nobody finishes.
    #[must_use]
    pub fn of_layout(layout: u64) -> Self {
        Self(u64::from(u32::try_from(layout).unwrap_or(u32::MAX)) << 32)
    }

    /// The layout under which it was raised.
    #[must_use]
    pub const fn layout(self) -> u64 {
        self.0 >> 32
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.layout(), self.0 & u64::from(u32::MAX))
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

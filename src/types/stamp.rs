//! Stamps: when an actor minted a dot, as one 64-bit integer.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Wall;

/// 48 bits of wall-clock milliseconds, then 16 logical bits. A plain integer: counting past the logical bits carries
/// into the milliseconds, so a stamp can run ahead of the clock but never back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Stamp(pub u64);

impl Stamp {
    /// Bits below the milliseconds.
    pub const LOGICAL_BITS: u32 = 16;

    /// The first stamp of a wall-clock millisecond.
    #[must_use]
    pub const fn at(wall: Wall) -> Self {
        Self(wall.0 << Self::LOGICAL_BITS)
    }

    /// The millisecond this stamp lies in. For display and for windows, never for deciding what survives.
    #[must_use]
    pub const fn wall(self) -> Wall {
        Wall(self.0 >> Self::LOGICAL_BITS)
    }

    /// The next stamp. Saturates at the end of time (year 10889), where no further mint is possible.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> Self::LOGICAL_BITS, self.0 & 0xffff)
    }
}

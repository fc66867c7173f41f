//! The grid: the ring of 2^64 tokens cut into Q equal partitions (Dynamo paper, strategy 3).
//!
//! One grid for ring, Merkle trees, transfers and backups; fixed when the cluster is founded.

use std::ops::RangeInclusive;

use thiserror::Error;

use crate::types::{PartitionId, Token};

/// How finely the ring is cut: Q = 2^bits partitions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Grid {
    bits: u32,
}

/// Why a number of partitions makes no grid.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("the number of partitions is a power of two from 1 to {max}, got {0}", max = Grid::MAX)]
pub struct InvalidGrid(pub u32);

impl Grid {
    /// Q unless configured otherwise.
    pub const DEFAULT: u32 = 1024;
    /// The greatest Q.
    pub const MAX: u32 = 65_536;

    /// A grid of `q` partitions.
    pub const fn new(q: u32) -> Result<Self, InvalidGrid> {
        if q.is_power_of_two() && q <= Self::MAX { Ok(Self { bits: q.trailing_zeros() }) } else { Err(InvalidGrid(q)) }
    }

    /// Q.
    #[must_use]
    pub const fn q(self) -> u32 {
        1 << self.bits
    }

    /// The partition a token lies in: its upper bits.
    #[must_use]
    pub const fn partition(self, token: Token) -> PartitionId {
        // Shifted in two steps, because a shift by all 64 bits (Q = 1) is none.
        PartitionId((token.0 >> 1 >> (63 - self.bits)) as u32)
    }

    /// The tokens of a partition, first and last included.
    ///
    /// # Panics
    /// If the grid has no such partition.
    #[must_use]
    pub const fn range(self, partition: PartitionId) -> RangeInclusive<Token> {
        assert!(partition.0 < self.q(), "no such partition");
        let low = 63 - self.bits;
        let first = (partition.0 as u64) << low << 1;
        Token(first)..=Token(first | (((1 << low) - 1) << 1 | 1))
    }

    /// All partitions, in order.
    pub fn partitions(self) -> impl ExactSizeIterator<Item = PartitionId> + Clone {
        (0..self.q()).map(PartitionId)
    }
}

impl Default for Grid {
    fn default() -> Self {
        Self { bits: Self::DEFAULT.trailing_zeros() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn q_is_a_power_of_two_up_to_65536() {
        for bad in [0, 3, 1000, 65_537, 131_072] {
            assert_eq!(Grid::new(bad), Err(InvalidGrid(bad)));
        }
        assert_eq!(Grid::new(1024), Ok(Grid::default()));
    }

    #[test]
    fn partitions_cover_the_ring_without_gap_or_overlap() {
        for bits in 0..=16 {
            let grid = Grid::new(1 << bits).unwrap();
            let mut next = Some(0u64);
            for partition in grid.partitions() {
                let range = grid.range(partition);
                assert_eq!(next, Some(range.start().0));
                next = range.end().0.checked_add(1);
            }
            assert_eq!(next, None, "the last partition ends the ring");
        }
    }

    #[test]
    fn the_grid_never_changes() {
        let grid = Grid::default();
        assert_eq!(grid.partition(Token(0xe99f_35dc_dbdd_838a)), PartitionId(934));
        assert_eq!(Grid::new(1).unwrap().partition(Token(u64::MAX)), PartitionId(0));
        assert_eq!(Grid::new(65_536).unwrap().partition(Token(u64::MAX)), PartitionId(65_535));
    }

    proptest! {
        #[test]
        fn a_token_lies_in_its_partition(token: u64, bits in 0u32..=16) {
            let grid = Grid::new(1 << bits).unwrap();
            prop_assert!(grid.range(grid.partition(Token(token))).contains(&Token(token)));
        }
    }
}

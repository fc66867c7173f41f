//! A partition's tree as two of its owners compare it: 256 sums, over all placement classes and hours that count.
//!
//! Stored leaves are kept apart by class and hour, so that a comparison can take those that both sides hold and leave
//! out those that have passed. Since a leaf is a sum, leaves that count are simply added: one tree for a pair of owners,
//! however many buckets and hours there are. A key that hangs under another hour or class on either side (its bucket's n
//! was just changed, a longer TTL was written) then differs once or not at all, not once in each tree.

use std::fmt;

use super::leaf::LEAVES;
use super::messages::Terms;
use super::node::Node;

/// A partition's leaves.
#[derive(Clone, PartialEq, Eq)]
pub struct Tree {
    sums: Box<[u128; LEAVES]>,
}

/// What stands for a whole tree: the first 16 bytes of the BLAKE3 hash of its sums, in order, each little endian. A leaf
/// that nothing hangs on is a sum of 0, stored or not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Root(pub [u8; 16]);

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Root({self})")
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self { sums: Box::new([0; LEAVES]) }
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tree").field(&self.root()).finish()
    }
}

impl Tree {
    /// A tree that nothing hangs on.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a stored leaf, if it counts.
    pub fn add(&mut self, terms: &Terms, class: u16, hour: u32, leaf: u8, sum: u128) {
        if terms.counts(class, hour) {
            let held = &mut self.sums[usize::from(leaf)];
            *held = held.wrapping_add(sum);
        }
    }

    /// What stands for all of it.
    #[must_use]
    pub fn root(&self) -> Root {
        let mut hasher = blake3::Hasher::new();
        for sum in self.sums.iter() {
            hasher.update(&sum.to_le_bytes());
        }
        let mut half = [0; 16];
        half.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Root(half)
    }

    /// The sum of all leaves of a node at or above them.
    pub(super) fn sum(&self, node: Node) -> u128 {
        self.sums[node.leaves()].iter().fold(0, |sum, leaf| sum.wrapping_add(*leaf))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::hour::MAIN;

    fn terms() -> Terms {
        Terms { salt: 1, width: super::super::Width::Full, first: 10, classes: vec![0, 3] }
    }

    #[test]
    fn a_root_is_what_it_was_when_it_was_first_compared() {
        let mut tree = Tree::new();
        assert_eq!(tree.root().to_string(), "b6fb73fc46938c981e2b0b4b1ef282ad");
        tree.add(&terms(), 0, MAIN, 7, 1);
        assert_eq!(tree.root().to_string(), "c14aa162e32c9bdca1e319f104e3d84c");
        tree.add(&terms(), 0, MAIN, 7, u128::MAX);
        assert_eq!(tree, Tree::new(), "what is taken out again was never there");
    }

    #[test]
    fn only_what_counts_is_added_and_under_any_class_and_hour_alike() {
        let (mut tree, mut other) = (Tree::new(), Tree::new());
        tree.add(&terms(), 0, 10, 9, 5);
        tree.add(&terms(), 3, MAIN, 9, 7);
        tree.add(&terms(), 0, 9, 9, 1000);
        tree.add(&terms(), 1, MAIN, 9, 1000);
        other.add(&terms(), 3, 11, 9, 12);
        assert_eq!(tree.root(), other.root());
        assert_eq!(tree.sum(Node::ROOT), 12);
        other.add(&terms(), 3, 11, 10, 12);
        assert_ne!(tree.root(), other.root());
    }
}

//! Nodes of the tree that is walked: four children each, the 256 leaves at depth 4, and below them as many levels as a
//! full leaf needs.
//!
//! Only the leaves are stored. Above them a node is the sum of the leaves under it; below, a leaf of many keys is split
//! by further bits of a salted hash of the stored key, from the keys themselves, only where and when it differs. So the
//! cost of finding a difference does not depend on how full a leaf is.

use std::ops::Range;

use super::leaf::LEAVES;

/// The depth of the leaves.
pub const LEAF_DEPTH: u32 = 4;
/// The greatest depth there is: 32 bits of hash below a leaf.
pub const MAX_DEPTH: u32 = LEAF_DEPTH + 16;

/// A node: a one, then two bits for each step down from the root.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Node(u64);

/// Where a key lies among all nodes: the node at [`MAX_DEPTH`] that it is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Position(u64);

impl Position {
    pub(super) fn new(leaf: u8, path: u32) -> Self {
        Self(1 << 40 | u64::from(leaf) << 32 | u64::from(path))
    }

    /// The node of this depth that it is in.
    pub(super) const fn at(self, depth: u32) -> Node {
        Node(self.0 >> (2 * (MAX_DEPTH - depth)))
    }
}

impl Node {
    /// The whole partition.
    pub const ROOT: Self = Self(1);

    /// The node of this number, if there is one.
    #[must_use]
    pub const fn new(number: u64) -> Option<Self> {
        let zeros = number.leading_zeros();
        if number != 0 && zeros % 2 == 1 && (63 - zeros) / 2 <= MAX_DEPTH { Some(Self(number)) } else { None }
    }

    /// Its number, which names it on the wire.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// How many steps it is below the root.
    #[must_use]
    pub const fn depth(self) -> u32 {
        (63 - self.0.leading_zeros()) / 2
    }

    /// Whether its digest comes from stored leaves alone; that of others' children takes the keys.
    #[must_use]
    pub const fn is_above_leaves(self) -> bool {
        self.depth() < LEAF_DEPTH
    }

    /// Its four children, left to right; none at the greatest depth.
    #[must_use]
    pub const fn children(self) -> Option<[Self; 4]> {
        let first = self.0 << 2;
        if self.depth() == MAX_DEPTH {
            None
        } else {
            Some([Self(first), Self(first + 1), Self(first + 2), Self(first + 3)])
        }
    }

    /// Which child of its parent it is.
    pub(super) const fn index(self) -> usize {
        (self.0 & 3) as usize
    }

    /// The leaves that it spans, or lies in.
    #[must_use]
    pub fn leaves(self) -> Range<usize> {
        let (depth, path) = (self.depth(), self.0 ^ 1 << (2 * self.depth()));
        let span = LEAVES >> (2 * depth.min(LEAF_DEPTH));
        let first = (path >> (2 * depth.saturating_sub(LEAF_DEPTH))) as usize * span;
        first..first + span
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_that_name_no_node_are_none() {
        for number in [0, 2, 3, 8, 1 << 42, u64::MAX] {
            assert_eq!(Node::new(number), None, "{number}");
        }
        assert_eq!(Node::new(1), Some(Node::ROOT));
        assert_eq!(Node::new(1 << 40).map(Node::depth), Some(MAX_DEPTH));
        assert_eq!(Node::new(1 << 40).and_then(Node::children), None);
        assert_eq!(Node::ROOT.leaves(), 0..LEAVES);
    }

    proptest! {
        #[test]
        fn a_key_is_in_one_child_of_each_node_it_is_in(leaf: u8, path: u32, depth in 0..MAX_DEPTH) {
            let position = Position::new(leaf, path);
            let (node, below) = (position.at(depth), position.at(depth + 1));
            prop_assert_eq!(Node::new(node.number()), Some(node));
            prop_assert_eq!(node.depth(), depth);
            prop_assert!(node.leaves().contains(&usize::from(leaf)));
            prop_assert_eq!(node.children().unwrap()[below.index()], below);
            prop_assert_eq!(node.children().unwrap().iter().filter(|child| **child == below).count(), 1);
            let under: usize = node.children().unwrap().iter().map(|child| child.leaves().len()).sum();
            prop_assert_eq!(under, if depth < LEAF_DEPTH { node.leaves().len() } else { 4 });
        }
    }
}

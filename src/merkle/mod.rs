//! Merkle trees: how two owners of a partition find out which keys they hold differently, at a cost of the difference.
//!
//! **Leaves** are exact at every moment: each write puts the difference it makes to its leaf into its own batch
//! (`replica`), by the arithmetic of [`leaf_element`], [`leaf_of`] and [`hour_of`]. Trees are never rebuilt. Expiry makes
//! no difference that counts (`hour`).
//!
//! Left to others: what lies where in storage (`replica`).

mod hour;
mod leaf;

pub use hour::{MAIN, drops_from, first_hour, hour_of};
pub use leaf::{LEAVES, leaf_element, leaf_of};

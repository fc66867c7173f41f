//! Merkle trees: how two owners of a partition find out which keys they hold differently, at a cost of the difference.
//!
//! **Leaves** are exact at every moment: each write puts the difference it makes to its leaf into its own batch
//! (`replica`), by the arithmetic of [`leaf_element`], [`leaf_of`] and [`hour_of`]. Trees are never rebuilt.
//!
//! **A round** of one owner with another goes: [`Terms`] (salt, first hour, the placement classes that both hold) ->
//! [`Roots`] of all partitions they share, ten bytes each, and that is all where they are in sync -> a [`Walk`] over the
//! partitions that differ. A walk goes down four children at a time, three salted bytes each, below the leaves by hashes
//! of the keys themselves, until few keys are left under a node; of those it sends prints, and the answer tells which
//! differ. Many partitions share a message. Where a thousand keys of a million differ that is about 100 bytes a key, names
//! included, however full the leaves are; (key, digest) of all keys of their leaves would be 300 to 3,500.
//!
//! What comes out is one [`Difference`] per key: fetch it, send it, or both. For *both*, fetch first, merge, and send
//! back only what merged to something else than was fetched: at most two objects travel, one where this side is stale.
//! States are merged wherever they arrive, so a difference that was told late, or wrongly, changes nothing.
//!
//! **What it rests on.** Leaves are sums, so trees of several classes and hours add up (`tree`). Expiry makes no
//! difference that counts (`hour`). Prints may hide a difference once, never for ever (`salt`). Neither side keeps state
//! for the other: the responder answers from what it holds then, so a lost reply is asked again and keys may change
//! between steps; a key that differs all the while is found, one that is equal all the while is never named. Keys that
//! either side leaves out (written so lately that they may still be on their way) are left out.
//!
//! **Bounds.** A request has at most [`NODES_MAX`] questions and [`REQUEST_MAX`] bytes, a reply [`REPLY_MAX`]; what has
//! no room is asked again or split. A walk goes depth first, so it holds a few thousand nodes whatever differs; a side
//! lists at most [`LISTED_MAX`] bytes of keys at a time.
//!
//! Left to others: reading trees and keys, sending, exchanging objects, when to compare whom (`repair`), which classes
//! two owners share (`ring`), what lies where in storage (`replica`).

mod answer;
mod hour;
mod leaf;
mod messages;
mod node;
mod salt;
mod survey;
mod tree;
mod walk;

#[cfg(test)]
mod tests;

pub use answer::{Answering, answer_roots};
pub use hour::{MAIN, first_hour, first_kept, hour_of};
pub use leaf::{LEAVES, leaf_element, leaf_of};
pub use messages::{
    Answer, Mark, NODES_MAX, Print, Question, REPLY_MAX, REQUEST_MAX, ROOTS_MAX, Reply, Request, Roots, RootsReply,
    Terms,
};
pub use node::{LEAF_DEPTH, MAX_DEPTH, Node};
pub use salt::Width;
pub use survey::{Entry, LISTED_MAX, Read, Survey, Wanted};
pub use tree::{Root, Tree};
pub use walk::{Difference, Exchange, Unexpected, Walk};

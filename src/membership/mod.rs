//! Who is there, and what each says of itself: scuttlebutt gossip, and the phi accrual failure detector.
//!
//! **Gossip.** Every node has a [`State`]: a [`Life`] and named values, each under a version that only its owner counts
//! up. Nobody else changes it, so two states of one node are never merged: the later one wins, and of two in one life
//! the one of the greater version holds all that the other does. A [`View`] holds the states that a node knows of, its
//! own included. Two views are made equal in an exchange of up to four messages:
//!
//! ```text
//!  A                                B
//!  | -- 16 bytes: hash of the view --> |   equal: "same", and that was all
//!  | <---- digest: who, life, version --|
//!  | -- push: what B lacks, what A wants --> |
//!  | <---- delta: what A wants ---------|
//! ```
//!
//! A delta is bounded. What does not fit comes with the next exchange, and nothing is lost by that: a state's changes
//! travel in the order of their versions, without gaps, so a version says that all up to it is held. Which node's
//! changes go first is decided by a random number, so that no busy node keeps a quiet one waiting.
//!
//! A removed node's id is refused for good. A node outside the layout that has not been heard of for long is forgotten.
//! A node that hears of a later life of its own, or of its present one with other boot bits, is told ([`Event`]): its
//! directory went back, or was copied; it never takes its state from others.
//!
//! **Failure detection** ([`FailureDetector`]) is apart from gossip: it listens to direct heartbeats alone, since what
//! others say of a node hides a broken link to it (scylla#8488). Down is an opinion, and no part of a state.
//!
//! Pure: random numbers and time come as arguments; what values mean, who sends when, and what follows is the caller's.
//!
//! Anchors: van Renesse et al., *Efficient Reconciliation and Flow Control for Anti-Entropy Protocols* (scuttlebutt);
//! Hayashibara et al., *The phi Accrual Failure Detector*; Cassandra's `Gossiper`; Quickwit's chitchat.

mod choose;
mod exchange;
mod life;
mod phi;
mod state;
#[cfg(test)]
mod tests;
mod view;

pub use choose::choose;
pub use exchange::{DELTA_MAX, Delta, Digest, KNOWN_MAX, Known, NodeDelta, Push, REMOVED_MAX, Scope};
pub use life::{GENERATION_MAX, Life, next_generation};
pub use phi::{FailureDetector, Opinion, PhiRules};
pub use state::{ENTRIES_MAX, Entry, InvalidName, NAME_MAX, Name, State, Unset, VALUE_MAX};
pub use view::{Event, FORGET_AFTER, NODES_MAX, View, ViewHash};

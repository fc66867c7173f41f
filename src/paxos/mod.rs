//! One decision, made once: single-decree Paxos among a fixed set of stores.
//!
//! It decides the next layout of the chain (semantics section 3): two operators commit at once, exactly one layout
//! wins, and the other one is told which. A [`Proposer`] asks, an [`Acceptor`] answers, a majority of the
//! [`Electorate`] counts. What is decided is opaque bytes; which decision it is, is named by a [`DecisionId`] (for the
//! chain: the parent's hash).
//!
//! The rules, each of which loses the promise of *one* value when it is taken out (`tests/models/paxos.rs`):
//!
//! 1. **Flushed before it is answered.** An acceptor that would change gives back an [`Unflushed`]: its reply comes out
//!    only against the word that the record is flushed, and meanwhile there is no acceptor to ask anything else.
//! 2. **A promise binds**: an acceptor takes part in no ballot below the highest one it has promised.
//! 3. **What may be chosen already is carried on**: a proposer takes the accepted value of the highest ballot among the
//!    promises it counts, its own only if there is none.
//! 4. **A majority, of stores**: any two majorities share a store that remembers. A wiped disk is another store. One
//!    that is proven to have gone back, under its own store id, has forgotten promises just as well: its caller makes no
//!    acceptor of it in a decision that was open then, until everybody who may propose has renounced it ([`Recovery`]).
//! 5. **A ballot is never used for two values**: it carries bits drawn for the one proposal, so that a proposer which
//!    crashed, or runs twice on a copied directory, cannot use it again.
//!
//! Pure: nothing is sent, flushed or waited for here. When to repeat a request, and how long to wait before trying
//! again after having been beaten (two proposers can beat each other for ever), is the caller's; see `pacing::Backoff`.
//!
//! Anchors: Lamport, *Paxos Made Simple*; Chandra et al., *Paxos Made Live*, for what disks do to it.

mod acceptor;
mod electorate;
mod messages;
mod proposer;
mod record;
mod recovery;
#[cfg(test)]
mod tests;

pub use acceptor::{Acceptor, Step, Unflushed};
pub use electorate::{Electorate, deciders};
pub use messages::{Accept, Accepted, Ballot, Decided, DecisionId, Prepare, Reply, Request, Value, ValueHash};
pub use proposer::{Outcome, Progress, Proposer};
pub use record::{Record, RecordError};
pub use recovery::{Proposals, Recovery, Ticket};

//! Exhaustive models: every order of events, within small bounds, of a few nodes that run the real merge, mint, proof and
//! start rules of `quorate::causality`, the acceptors and proposers of `quorate::paxos`, the views of
//! `quorate::membership` and the rules of layout changes of `quorate::ring`. Each rule can be taken out, and then the loss
//! must be found: a model that finds nothing proves nothing.
//!
//! Run with `--nocapture` for the number of states and, for a planted bug, the shortest way to the loss.

#![allow(clippy::unwrap_used, reason = "tests")]

mod chain;
mod clock;
mod collection;
mod contexts;
mod expiry;
mod explore;
mod generations;
mod handoff;
mod mend;
mod mint;
mod paxos;
mod records;
mod recovery;
mod votes;
mod world;

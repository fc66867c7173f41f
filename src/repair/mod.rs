//! Repair: replicas that drifted, whatever made them drift, come together again.
//!
//! Built so far: [`mend`](start), which ends quarantine and `syncing` by merging what every other owner holds;
//! [`Transfers`], which merge what a new layout gives this node; [`clear_leftovers`], which deletes what it has taken
//! away, once that is safe; [purging](start_purging), which drops what was in buckets before they were emptied; and
//! [expiry](start_expiry), which drops what has outlived its horizon; [`Hints`], which send owners what they missed; and
//! [`AntiEntropy`], which compares Merkle trees with the other owners and makes equal what differs; [`Scrub`], which
//! reads everything again and finds what a disk has spoilt; and [`Reaper`], which removes deletions for good once every owner
//! has confirmed them. Each is a [`Worker`], listed and steered by name.

mod entropy;
mod expiry;
mod hints;
mod leftover;
mod marks;
mod mend;
mod purge;
mod rate;
mod reaper;
mod scrub;
mod transfer;
mod worker;

pub use entropy::{AntiEntropy, Repaired, Scope};
pub use expiry::start as start_expiry;
pub use hints::{HintOptions, Hints, Replaying, Stage, wait_for as wait_for_hints};
pub use leftover::start as clear_leftovers;
pub use mend::{Accepted, Mending, start};
pub use purge::start as start_purging;
pub use reaper::{HeldUp, Reaper, ReaperOptions, Waits, take_step};
pub use scrub::{Report, Scrub, ScrubOptions};
pub use transfer::{Progress, Transfers};
pub use worker::{Log, Roster, Worker};

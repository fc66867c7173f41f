//! Repair: replicas that drifted, whatever made them drift, come together again.
//!
//! Built so far: [`mend`](start), which ends quarantine and `syncing` by merging what every other owner holds;
//! [`Transfers`], which merge what a new layout gives this node; [`clear_leftovers`], which deletes what it has taken
//! away, once that is safe; [purging](start_purging), which drops what was in buckets before they were emptied; and
//! [`Hints`], which send owners what they missed. Anti-entropy, scrub and collection join them here.

mod hints;
mod leftover;
mod mend;
mod purge;
mod transfer;

pub use hints::{HintOptions, Hints, Replaying, Stage, wait_for as wait_for_hints};
pub use leftover::start as clear_leftovers;
pub use mend::{Mending, start};
pub use purge::start as start_purging;
pub use transfer::{Progress, Transfers};

//! Repair: replicas that drifted, whatever made them drift, come together again.
//!
//! Built so far: [`mend`](start), which ends quarantine and `syncing` by merging what every other owner holds;
//! [`Transfers`], which merge what a new layout gives this node; and [`clear_leftovers`], which deletes what it has taken
//! away, once that is safe. Hints, anti-entropy, scrub and collection join them here.

mod leftover;
mod mend;
mod transfer;

pub use leftover::start as clear_leftovers;
pub use mend::{Mending, start};
pub use transfer::{Progress, Transfers};

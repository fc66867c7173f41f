//! Repair: replicas that drifted, whatever made them drift, come together again.
//!
//! Built so far: [`mend`](start), which ends quarantine and `syncing` by merging what every other owner holds. Hints,
//! anti-entropy, scrub and collection join it here.

mod mend;

pub use mend::{Mending, start};

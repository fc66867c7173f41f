//! The rare paths that a run may force, by the names under which [`Buggify`](crate::env::Buggify) is asked for them.
//!
//! None of them breaks a promise: each is something that happens by itself once in a long while. Each run turns a random
//! half of them on, for the same reason as with faults; [`super::tally`] counts how often each was taken.

use std::collections::BTreeMap;

use crate::env::Entropy;

/// The commit lags behind the mint: others know a dot that its coordinator may still forget.
pub const LAG: &str = "commit lags behind the mint";

/// Name and chance, each time it may be taken, of every rare path but [`LAG`], whose chance a run chooses.
pub const PATHS: [(&str, f64); 8] = [
    // Storage threads take one operation at a time.
    ("a batch of one", 0.3),
    // Refused before the mint, or a vote that is none.
    ("a storage queue is full", 0.01),
    // It is read by a storage thread, behind what waits there.
    ("a record is not in memory", 0.3),
    ("an owner hands over", 0.1),
    // A conditional read whose digest matches is answered as if it did not.
    ("sent whole though it is the same", 0.2),
    // Long after the coordinator has given up, or answered.
    ("acknowledged late", 0.05),
    ("only W owners are written to at once", 0.1),
    // Decided once, at the start of a process.
    ("hedges run out", 0.5),
];

/// Which rare paths are on, and how likely each is to be taken.
pub type Chances = BTreeMap<&'static str, f64>;

/// A random half of them.
#[must_use]
pub fn choose(entropy: &Entropy) -> Chances {
    PATHS.into_iter().filter(|_| entropy.chance(0.5)).collect()
}

/// Whether there is a rare path of this name.
#[must_use]
pub fn is_known(name: &str) -> bool {
    name == LAG || PATHS.iter().any(|(path, _)| *path == name)
}

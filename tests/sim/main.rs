//! Whole clusters of the real node code in the deterministic simulation: random faults, scenarios, planted bugs.
//!
//! `QUORATE_SEEDS=300` runs more seeds; `QUORATE_SEED=n` chooses the first; a failure prints the line that replays it.
#![cfg(feature = "sim")]
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod answers;
mod buckets;
mod collect;
mod collect_faults;
mod detector;
mod expiry;
mod forced;
mod gossip;
mod hints;
mod layouts;
mod lists;
mod mints;
mod needed;
#[path = "../options/mod.rs"]
mod options;
mod plants;
mod repair;
mod scenarios;
mod scrub;
mod seeds;
mod sessions;
mod sloppy;
mod sloppy_layouts;
mod voices;

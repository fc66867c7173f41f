//! How fast, how often, when again: the arithmetic of being a good neighbour.
//!
//! Pure values: time and random bits are handed in. [`Backoff`] says when to try again, [`Budget`] whether at all,
//! [`TokenBucket`] how much a second, [`Breaker`] whether a peer is worth a call, [`LatencyWindow`] what slow means,
//! [`AdaptiveWindow`] how much at once (semantics sections 4, 5 and 7). Who calls whom is `peers`' to know.

mod backoff;
mod breaker;
mod bucket;
mod budget;
mod latency;
mod window;

pub use backoff::Backoff;
pub use breaker::{Breaker, BreakerRules, BreakerState};
pub use bucket::TokenBucket;
pub use budget::Budget;
pub use latency::LatencyWindow;
pub use window::AdaptiveWindow;

//! Hours: how what expires leaves the comparison, so that expiry makes no chatter.
//!
//! An object counts in the hour of its horizon; what never expires counts in [`MAIN`], after all hours. Two rules, by
//! each node's own clock:
//!
//! - An hour is **left out** of comparisons from its end on ([`first_hour`]).
//! - An object is **dropped** for its horizon no earlier than the end of its hour + `max_clock_drift` ([`first_kept`]).
//!
//! Both sides compare from the *later* of their first hours: the initiator names its own, a responder that has a later
//! one says so, and nothing is compared until the initiator has taken it. So both sum the same hours, and none that either
//! has begun to drop: whoever drops has left that hour out before, by its own clock, and its word counts. The time between
//! is for what is under way when an hour ends (each step of a walk looks at the clock again), for a clock that is set
//! back, and for the other side to leave the hour out by its own clock: nodes that drop have clocks within
//! `max_clock_drift` of each other (semantics section 2). A difference that is found is then never one that expiry made.
//!
//! A clock that is wrong by hours can do no more than leave out hours that count, until it is right.

use std::time::Duration;

use crate::causality::Horizon;
use crate::types::Wall;

/// The hour of what never expires.
pub const MAIN: u32 = u32::MAX;
const HOUR: u64 = 3_600_000;

/// The hour that an object of this horizon counts in.
#[must_use]
pub fn hour_of(horizon: Horizon) -> u32 {
    match horizon {
        Horizon::INFINITE => MAIN,
        Horizon(ms) => u32::try_from(ms / HOUR).unwrap_or(MAIN),
    }
}

/// The first hour that counts by a clock that reads `now`.
#[must_use]
pub fn first_hour(now: Wall) -> u32 {
    u32::try_from(now.0 / HOUR).unwrap_or(MAIN)
}

/// The first hour that is still kept by a clock that reads `now`: objects of the hours before it, which ended `linger` ago or
/// earlier, may be dropped for their horizon. `linger`: at least `max_clock_drift`. Never [`MAIN`] and later.
#[must_use]
pub fn first_kept(now: Wall, linger: Duration) -> u32 {
    let linger = u64::try_from(linger.as_millis()).unwrap_or(u64::MAX);
    first_hour(Wall(now.0.saturating_sub(linger))).min(MAIN - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_hour_is_what_it_was_when_data_was_first_stored() {
        let hours = [0, 3_599_999, 3_600_000, 1_795_337_563_000, u64::MAX - 1, u64::MAX].map(|ms| hour_of(Horizon(ms)));
        assert_eq!(hours, [0, 0, 1, 498_704, MAIN, MAIN]);
    }

    #[test]
    fn an_hour_is_kept_until_every_clock_has_passed_it() {
        let drift = Duration::from_millis(500);
        assert_eq!([0, 100, HOUR, HOUR + 499, HOUR + 500].map(|now| first_kept(Wall(now), drift)), [0, 0, 0, 0, 1]);
        assert_eq!([7_200_499, 7_200_500].map(|now| first_kept(Wall(now), drift)), [1, 2]);
        assert_eq!(first_kept(Wall(10 * HOUR), Duration::ZERO), 10);
        assert_eq!(first_kept(Wall(u64::MAX), drift), MAIN - 1, "nothing in the main tree is dropped");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        /// What one side may have dropped, the two leave out, as long as their clocks are as near as those of nodes that
        /// expire are.
        #[test]
        fn what_may_be_dropped_is_left_out(horizon in 0..20 * HOUR, now in 0..20 * HOUR, drift in 0..5000_u64, apart in -5000..=5000_i64) {
            let other = now.saturating_add_signed(apart.clamp(-(drift as i64), drift as i64));
            let hour = hour_of(Horizon(horizon));
            let dropped = hour < first_kept(Wall(now), Duration::from_millis(drift));
            prop_assert!(!dropped || (hour < first_hour(Wall(now)) && hour < first_hour(Wall(other))));
            prop_assert!(!dropped || now > horizon + drift, "never before horizon + drift");
        }
    }
}

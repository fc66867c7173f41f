//! Hours: how what expires leaves the comparison, so that expiry makes no chatter.
//!
//! An object counts in the hour of its horizon; what never expires counts in [`MAIN`], after all hours. Two rules, by
//! each node's own clock:
//!
//! - An hour is **left out** of comparisons from its end on ([`first_hour`]).
//! - An object is **dropped** for its horizon no earlier than the end of its hour + `max_clock_drift` ([`drops_from`]).
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

/// From when on, by a node's own clock, an object of this horizon may be dropped for it; none: never.
#[must_use]
pub fn drops_from(horizon: Horizon, max_clock_drift: Duration) -> Option<Wall> {
    let hour = hour_of(horizon);
    (hour != MAIN).then(|| Wall((u64::from(hour) + 1) * HOUR) + max_clock_drift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_hour_is_what_it_was_when_data_was_first_stored() {
        let hours = [0, 3_599_999, 3_600_000, 1_795_337_563_000, u64::MAX - 1, u64::MAX].map(|ms| hour_of(Horizon(ms)));
        assert_eq!(hours, [0, 0, 1, 498_704, MAIN, MAIN]);
        assert_eq!(drops_from(Horizon(3_600_000), Duration::from_millis(500)), Some(Wall(7_200_500)));
        assert_eq!(drops_from(Horizon(u64::MAX - 1), Duration::ZERO), None, "nothing in the main tree is dropped");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        /// What one side may have dropped, the two leave out, as long as their clocks are as near as those of nodes that
        /// expire are.
        #[test]
        fn what_may_be_dropped_is_left_out(horizon in 0..20 * HOUR, now in 0..20 * HOUR, drift in 0..5000_u64, apart in -5000..=5000_i64) {
            let other = now.saturating_add_signed(apart.clamp(-(drift as i64), drift as i64));
            let dropped = drops_from(Horizon(horizon), Duration::from_millis(drift)).is_some_and(|from| Wall(now) >= from);
            let hour = hour_of(Horizon(horizon));
            prop_assert!(!dropped || (hour < first_hour(Wall(now)) && hour < first_hour(Wall(other))));
            prop_assert!(!dropped || now > horizon + drift, "never before horizon + drift");
        }
    }
}

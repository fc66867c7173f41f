//! Exponential backoff with full jitter: everybody who failed together comes back apart.

use std::time::Duration;

/// How long to wait before an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    /// The longest wait before the first repetition.
    pub base: Duration,
    /// The longest wait at all.
    pub cap: Duration,
}

impl Backoff {
    /// The longest wait before repetition `attempt` (from 0): doubles, up to the cap.
    #[must_use]
    pub fn ceiling(self, attempt: u32) -> Duration {
        self.base.saturating_mul(1u32.checked_shl(attempt).unwrap_or(u32::MAX)).min(self.cap)
    }

    /// The wait before repetition `attempt` (from 0): anything from nothing to the ceiling, as `random` bits decide.
    #[must_use]
    pub fn delay(self, attempt: u32, random: u64) -> Duration {
        let ceiling = u64::try_from(self.ceiling(attempt).as_micros()).unwrap_or(u64::MAX);
        // The high half of the product spreads the bits evenly over 0..=ceiling, without a division.
        Duration::from_micros(u64::try_from((u128::from(random) * (u128::from(ceiling) + 1)) >> 64).unwrap_or(ceiling))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_doubles_up_to_the_cap() {
        let backoff = Backoff { base: Duration::from_millis(50), cap: Duration::from_secs(1) };
        let ceilings: Vec<_> = [0, 1, 2, 4, 5, 31, 32, u32::MAX].map(|n| backoff.ceiling(n).as_millis()).into();
        assert_eq!(ceilings, [50, 100, 200, 800, 1000, 1000, 1000, 1000]);
        assert_eq!(backoff.delay(0, 0), Duration::ZERO);
        assert_eq!(backoff.delay(0, u64::MAX), Duration::from_millis(50));
        assert_eq!(backoff.delay(0, 1 << 63), Duration::from_millis(25));
    }

    proptest! {
        #[test]
        fn it_stays_between_nothing_and_the_ceiling(base in 0u64..u64::MAX, cap in 0u64..u64::MAX, n: u32, a: u64, b: u64) {
            let backoff = Backoff { base: Duration::from_micros(base), cap: Duration::from_micros(cap) };
            prop_assert!(backoff.delay(n, a) <= backoff.ceiling(n));
            prop_assert!(backoff.ceiling(n) <= backoff.ceiling(n.saturating_add(1)));
            prop_assert!(backoff.ceiling(n) <= backoff.cap);
            prop_assert!(backoff.delay(n, a.min(b)) <= backoff.delay(n, a.max(b)), "more bits, no shorter wait");
        }
    }
}

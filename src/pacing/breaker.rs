//! A circuit breaker: a peer that keeps failing is left alone for a while, then probed by one call.

use std::time::Duration;

use super::Backoff;
use crate::types::Mono;

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BreakerRules {
    /// Failures in a row that open it; at least 1.
    pub failures: u32,
    /// The pause before the first probe is at least this.
    pub pause: Duration,
    /// What is added, growing with every probe that fails.
    pub backoff: Backoff,
}

impl Default for BreakerRules {
    fn default() -> Self {
        let backoff = Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(5) };
        Self { failures: 5, pause: Duration::from_millis(100), backoff }
    }
}

/// Where a breaker stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BreakerState {
    /// Calls pass.
    Closed,
    /// No call passes before this time.
    Open {
        /// When a probe may pass.
        until: Mono,
    },
    /// One probe is under way; given up at this time, where nobody has reported on it.
    HalfOpen {
        /// When another probe may pass.
        until: Mono,
    },
}

/// The breaker of one peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Breaker {
    rules: BreakerRules,
    state: BreakerState,
    failures: u32,
    probes: u32,
}

impl Breaker {
    /// Closed.
    #[must_use]
    pub const fn new(rules: BreakerRules) -> Self {
        Self { rules, state: BreakerState::Closed, failures: 0, probes: 0 }
    }

    /// Where it stands.
    #[must_use]
    pub const fn state(&self) -> BreakerState {
        self.state
    }

    /// Whether a call may be made now. Whoever is let through reports its outcome; a probe whose outcome is not reported
    /// within `patience` does not keep the breaker half open for ever.
    pub fn allow(&mut self, now: Mono, patience: Duration) -> bool {
        match self.state {
            BreakerState::Closed => true,
            BreakerState::Open { until } | BreakerState::HalfOpen { until } if now < until => false,
            BreakerState::Open { .. } | BreakerState::HalfOpen { .. } => {
                self.state = BreakerState::HalfOpen { until: now + patience };
                true
            }
        }
    }

    /// A call was answered, by whatever: the peer is there.
    pub fn succeeded(&mut self) {
        *self = Self::new(self.rules);
    }

    /// A call failed. `random` bits jitter the pause.
    pub fn failed(&mut self, now: Mono, random: u64) {
        self.failures = self.failures.saturating_add(1);
        match self.state {
            BreakerState::Closed if self.failures < self.rules.failures => {}
            // Calls made before it opened may fail while it is open: they prolong nothing.
            BreakerState::Open { .. } => {}
            BreakerState::Closed | BreakerState::HalfOpen { .. } => {
                let pause = self.rules.pause + self.rules.backoff.delay(self.probes, random);
                self.probes = self.probes.saturating_add(1);
                self.state = BreakerState::Open { until: now + pause };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(1);

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_by_a_probe() {
        let mut breaker = Breaker::new(BreakerRules::default());
        (0..4).for_each(|_| breaker.failed(Mono(0), 0));
        assert!(breaker.allow(Mono(0), PATIENCE));
        breaker.succeeded();
        (0..4).for_each(|_| breaker.failed(Mono(0), 0));
        assert_eq!(breaker.state(), BreakerState::Closed, "a success in between starts the count anew");
        breaker.failed(Mono(0), 0);
        assert_eq!(breaker.state(), BreakerState::Open { until: Mono(100_000) });
        breaker.failed(Mono(50_000), u64::MAX);
        assert!(!breaker.allow(Mono(99_999), PATIENCE));
        assert!(breaker.allow(Mono(100_000), PATIENCE), "one probe");
        assert!(!breaker.allow(Mono(100_000), PATIENCE), "and no second");
        let mut other = breaker;
        breaker.failed(Mono(100_000), u64::MAX);
        assert_eq!(breaker.state(), BreakerState::Open { until: Mono(400_000) }, "100 ms, and the whole of 200");
        assert!(other.allow(Mono(1_100_000), PATIENCE), "a probe nobody reported on");
        other.succeeded();
        assert!(other.allow(Mono(1_100_000), PATIENCE) && other.allow(Mono(1_100_000), PATIENCE));
    }

    proptest! {
        #[test]
        fn while_it_is_not_closed_probes_are_at_least_a_pause_apart_and_always_come(
            steps in proptest::collection::vec((0u64..300_000, 0u8..4, any::<u64>()), 1..200),
        ) {
            let rules = BreakerRules::default();
            let mut breaker = Breaker::new(rules);
            let mut now = Mono(0);
            let mut probe: Option<Mono> = None;
            for (step, what, random) in steps {
                now = Mono(now.0 + step);
                let closed = breaker.state() == BreakerState::Closed;
                match what {
                    0 => breaker.failed(now, random),
                    1 => breaker.succeeded(),
                    _ => {
                        let passed = breaker.allow(now, PATIENCE);
                        prop_assert!(passed || !closed);
                        if passed && !closed {
                            prop_assert!(probe.is_none_or(|last| now.since(last) >= rules.pause));
                            probe = Some(now);
                        }
                    }
                }
                if breaker.state() == BreakerState::Closed {
                    probe = None;
                }
                let longest = PATIENCE + rules.pause + rules.backoff.cap;
                prop_assert!(breaker.clone().allow(now + longest, PATIENCE), "shut for ever");
            }
        }
    }
}

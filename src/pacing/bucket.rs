//! A token bucket: a rate with room for a burst.

use std::time::Duration;

use crate::types::Mono;

/// One token, in the unit that is counted: a millionth, so that a rate of one a second gains one a microsecond.
const TOKEN: u128 = 1_000_000;

/// Fills at a rate, up to a burst. Whole numbers throughout: it neither drifts nor depends on how often it is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TokenBucket {
    per_second: u64,
    burst: u64,
    level: u128,
    at: Mono,
}

impl TokenBucket {
    /// A full bucket of `burst` tokens that gains `per_second`.
    #[must_use]
    pub fn new(per_second: u64, burst: u64, now: Mono) -> Self {
        Self { per_second, burst, level: u128::from(burst) * TOKEN, at: now }
    }

    /// Takes `tokens`, or nothing, and says how long to wait: for [`Duration::MAX`] where waiting does not help, as more
    /// is asked for than the bucket can hold.
    pub fn take(&mut self, now: Mono, tokens: u64) -> Result<(), Duration> {
        self.fill(now);
        let wanted = u128::from(tokens) * TOKEN;
        if wanted <= self.level {
            self.level -= wanted;
            return Ok(());
        }
        if tokens > self.burst || self.per_second == 0 {
            return Err(Duration::MAX);
        }
        let micros = (wanted - self.level).div_ceil(u128::from(self.per_second));
        Err(Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
    }

    /// Whole tokens that can be taken now.
    pub fn available(&mut self, now: Mono) -> u64 {
        self.fill(now);
        u64::try_from(self.level / TOKEN).unwrap_or(u64::MAX)
    }

    fn fill(&mut self, now: Mono) {
        let gained = now.since(self.at).as_micros().saturating_mul(u128::from(self.per_second));
        self.level = self.level.saturating_add(gained).min(u128::from(self.burst) * TOKEN);
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_says_how_long_to_wait() {
        let mut bucket = TokenBucket::new(10, 2, Mono(0));
        assert_eq!(bucket.take(Mono(0), 2), Ok(()));
        assert_eq!(bucket.take(Mono(0), 1), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(Mono(99_999), 1), Err(Duration::from_micros(1)));
        assert_eq!(bucket.take(Mono(100_000), 1), Ok(()));
        assert_eq!(bucket.take(Mono(100_000), 3), Err(Duration::MAX));
        assert_eq!(TokenBucket::new(0, 1, Mono(0)).take(Mono(0), 2), Err(Duration::MAX));
        assert_eq!(bucket.available(Mono(9_000_000)), 2);
    }

    proptest! {
        #[test]
        fn never_more_than_rate_and_burst_and_the_wait_is_exact(
            per_second in 1u64..10_000, burst in 1u64..100, steps in proptest::collection::vec((0u64..500_000, 1u64..20), 1..60),
        ) {
            let mut bucket = TokenBucket::new(per_second, burst, Mono(0));
            let (mut now, mut taken) = (Mono(0), 0u64);
            for (step, tokens) in steps {
                now = Mono(now.0 + step);
                match bucket.take(now, tokens) {
                    Ok(()) => taken += tokens,
                    Err(wait) if wait < Duration::MAX => {
                        let mut early = bucket;
                        prop_assert!(early.take(now + wait - Duration::from_micros(1), tokens).is_err(), "too long");
                        prop_assert_eq!(bucket.clone().take(now + wait, tokens), Ok(()), "too short");
                    }
                    Err(_) => prop_assert!(tokens > burst),
                }
                prop_assert!(u128::from(taken) * TOKEN <= u128::from(burst) * TOKEN + u128::from(now.0) * u128::from(per_second));
            }
        }
    }
}

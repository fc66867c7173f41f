//! Whether this node's wall clock is known to be right: only then does it say that something's time has passed.
//!
//! It is said every half second, by whoever compares it with the members' clocks, and holds for a few seconds at most. A
//! clock that is set meanwhile loses it at once: it no longer goes as the monotonic one does.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::types::{Mono, Wall};

/// How long a word holds that is not renewed.
const HOLDS: Duration = Duration::from_secs(5);

/// What was said last of the wall clock.
#[derive(Debug)]
pub(super) struct Trust {
    right_at: Mutex<Option<(Mono, Wall)>>,
    drift: Duration,
}

impl Trust {
    /// Nothing has been said yet. `drift`: how far apart two clocks may be.
    pub(super) const fn new(drift: Duration) -> Self {
        Self { right_at: Mutex::new(None), drift }
    }

    /// Says whether the clock, which reads `wall` now, is right.
    pub(super) fn say(&self, is_right: bool, now: Mono, wall: Wall) {
        *self.right_at.lock().unwrap_or_else(PoisonError::into_inner) = is_right.then_some((now, wall));
    }

    /// Whether a clock that reads `wall` now is known to be right.
    pub(super) fn holds(&self, now: Mono, wall: Wall) -> bool {
        let said = *self.right_at.lock().unwrap_or_else(PoisonError::into_inner);
        said.is_some_and(|(then, read)| {
            let passed = now.since(then);
            let apart = (read + passed).0.abs_diff(wall.0);
            passed <= HOLDS && u128::from(apart) <= (self.drift / 2).as_millis()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_holds_for_a_clock_that_goes_on() {
        let trust = Trust::new(Duration::from_millis(500));
        let at = |ms: u64| Mono(ms * 1000);
        assert!(!trust.holds(at(0), Wall(0)), "nothing was said");
        trust.say(true, at(1000), Wall(50_000));
        assert!(trust.holds(at(1000), Wall(50_000)) && trust.holds(at(3000), Wall(52_000)));
        assert!(trust.holds(at(3000), Wall(52_250)) && trust.holds(at(3000), Wall(51_750)));
        assert!(!trust.holds(at(3000), Wall(52_251)) && !trust.holds(at(3000), Wall(51_749)), "it was set");
        assert!(!trust.holds(at(6001), Wall(55_001)), "nobody said it again");
        trust.say(false, at(3500), Wall(52_500));
        assert!(!trust.holds(at(3500), Wall(52_500)));
    }
}

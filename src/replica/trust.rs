//! Whether this node's wall clock is known to be right: only then does it say that something's time has passed.
//!
//! It is said every half second, by whoever compares it with the members' clocks, and holds for a few seconds at most. A
//! clock that is set meanwhile loses it at once: it no longer goes as the monotonic one does. Then words do not count for a
//! while, for what they go by may have been heard before.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::types::{Mono, Wall};

/// How long a word holds that is not renewed.
const HOLDS: Duration = Duration::from_secs(5);
/// How long words do not count once the clock was seen to be set: longer than an answer is waited for that is compared with
/// it.
const DEAF: Duration = Duration::from_secs(1);

/// What was said last of the wall clock.
#[derive(Debug, Default)]
pub(super) struct Trust {
    said: Mutex<Option<Word>>,
    deaf_until: Mutex<Mono>,
}

/// The clock was right when the two read so, and is as long as they do not part by more than this.
#[derive(Clone, Copy, Debug)]
struct Word {
    mono: Mono,
    wall: Wall,
    within: Duration,
}

impl Word {
    fn goes_for(&self, now: Mono, wall: Wall) -> bool {
        let apart = (self.wall + now.since(self.mono)).0.abs_diff(wall.0);
        u128::from(apart) <= self.within.as_millis()
    }
}

impl Trust {
    /// The clock, which reads `wall` now, is right to `within`; none: it is not, or nobody knows.
    pub(super) fn say(&self, within: Option<Duration>, now: Mono, wall: Wall) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let mut deaf_until = self.deaf_until.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_some_and(|word| !word.goes_for(now, wall)) {
            *deaf_until = now + DEAF;
        }
        *said = within.filter(|_| now >= *deaf_until).map(|within| Word { mono: now, wall, within });
    }

    /// Whether a clock that reads `wall` now is known to be right.
    pub(super) fn holds(&self, now: Mono, wall: Wall) -> bool {
        let said = *self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.is_some_and(|word| now.since(word.mono) <= HOLDS && word.goes_for(now, wall))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Option<Duration> = Some(Duration::from_millis(250));

    fn at(ms: u64) -> Mono {
        Mono(ms * 1000)
    }

    #[test]
    fn a_word_holds_for_a_clock_that_goes_on() {
        let trust = Trust::default();
        assert!(!trust.holds(at(0), Wall(0)), "nothing was said");
        trust.say(WITHIN, at(1000), Wall(50_000));
        assert!(trust.holds(at(1000), Wall(50_000)) && trust.holds(at(3000), Wall(52_000)));
        assert!(trust.holds(at(3000), Wall(52_250)) && trust.holds(at(3000), Wall(51_750)));
        assert!(!trust.holds(at(3000), Wall(52_251)) && !trust.holds(at(3000), Wall(51_749)), "it was set");
        assert!(!trust.holds(at(6001), Wall(55_001)), "nobody said it again");
        trust.say(None, at(3500), Wall(52_500));
        assert!(!trust.holds(at(3500), Wall(52_500)));
    }

    #[test]
    fn a_word_said_of_a_clock_that_was_just_set_does_not_count() {
        let trust = Trust::default();
        trust.say(WITHIN, at(1000), Wall(50_000));
        trust.say(WITHIN, at(1500), Wall(86_450_500));
        assert!(!trust.holds(at(1500), Wall(86_450_500)), "by what was heard before it was set");
        trust.say(WITHIN, at(2000), Wall(86_451_000));
        assert!(!trust.holds(at(2100), Wall(86_451_100)), "by what may have been on its way when it was set");
        trust.say(WITHIN, at(2500), Wall(86_451_500));
        assert!(trust.holds(at(2600), Wall(86_451_600)), "by what was heard since");
    }
}

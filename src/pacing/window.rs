//! How much may be under way to one target: what it takes without getting slow.

use std::time::Duration;

/// Answers within this are never slow, however fast others were.
const FAST: Duration = Duration::from_millis(10);
/// An answer is slow that takes so many times as long as the fastest.
const SLOW: u32 = 4;
/// The fastest answer fades by this part of it with each answer, so that what was true once does not stay.
const FADES: u32 = 256;

/// Grows by one with each answer until one is slow, then by one a round; halves, at most once a round, when an answer is
/// slow or fails. Between 1 and a given bound.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AdaptiveWindow {
    size: usize,
    most: usize,
    fastest: Option<Duration>,
    /// Nothing was slow yet.
    opening: bool,
    /// Answers since it last grew by a round, or shrank.
    answers: usize,
}

impl AdaptiveWindow {
    /// One at first, and never more than `most`.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { size: 1, most: most.max(1), fastest: None, opening: true, answers: 0 }
    }

    /// How many may be under way.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.size
    }

    /// One was answered, and took this long.
    pub fn on_answer(&mut self, took: Duration) {
        let fastest = self.fastest.map_or(took, |fastest| (fastest + fastest / FADES).min(took));
        self.fastest = Some(fastest);
        if took > FAST.max(fastest * SLOW) {
            return self.shrink();
        }
        self.answers += 1;
        if self.opening || self.answers >= self.size {
            self.answers = 0;
            self.size = (self.size + 1).min(self.most);
        }
    }

    /// One failed, was refused, or was not answered in time.
    pub fn on_failure(&mut self) {
        self.shrink();
    }

    fn shrink(&mut self) {
        self.answers += 1;
        // Those that were under way together with the one that shrank it say the same once more.
        if self.opening || self.answers >= self.size {
            self.answers = 0;
            self.size = (self.size / 2).max(1);
        }
        self.opening = false;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn opened(to: usize) -> AdaptiveWindow {
        let mut window = AdaptiveWindow::new(to);
        while window.size() < to {
            window.on_answer(MS);
        }
        window
    }

    #[test]
    fn it_opens_fast_and_is_bounded() {
        let mut window = AdaptiveWindow::new(64);
        (0..20).for_each(|_| window.on_answer(MS));
        assert_eq!(window.size(), 21);
        (0..200).for_each(|_| window.on_answer(9 * MS));
        assert_eq!(window.size(), 64, "ten milliseconds are never slow");
    }

    #[test]
    fn it_halves_once_a_round_and_then_grows_by_one_a_round() {
        let mut window = opened(64);
        window.on_answer(50 * MS);
        assert_eq!(window.size(), 32);
        (0..31).for_each(|_| window.on_answer(50 * MS));
        assert_eq!(window.size(), 32, "they were under way already");
        window.on_failure();
        assert_eq!(window.size(), 16);
        (0..16).for_each(|_| window.on_answer(MS));
        assert_eq!(window.size(), 17);
        (0..1000).for_each(|_| window.on_failure());
        assert_eq!(window.size(), 1, "one is always tried");
    }

    #[test]
    fn what_is_slow_is_measured_by_what_was_fast_and_that_fades() {
        let mut far = AdaptiveWindow::new(64);
        (0..10).for_each(|_| far.on_answer(40 * MS));
        assert_eq!(far.size(), 11, "a long way is not slow");
        let mut window = opened(64);
        window.on_answer(20 * MS);
        assert_eq!(window.size(), 32);
        (0..4000).for_each(|_| window.on_answer(20 * MS));
        assert_eq!(window.size(), 64, "the way became longer");
    }

    proptest! {
        #[test]
        fn it_stays_between_one_and_the_bound(most in 0usize..300, answers in proptest::collection::vec((any::<bool>(), 0u64..1_000_000), 0..400)) {
            let mut window = AdaptiveWindow::new(most);
            for (fails, micros) in answers {
                if fails { window.on_failure() } else { window.on_answer(Duration::from_micros(micros)) }
                prop_assert!((1..=most.max(1)).contains(&window.size()));
            }
        }
    }
}

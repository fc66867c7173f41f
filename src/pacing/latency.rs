//! What slow means: quantiles over a peer's recent answers.

use std::time::Duration;

/// Samples kept: enough that one in twenty is six of them.
const KEPT: usize = 128;
/// Samples after which the quantiles are computed anew.
const STALE_AFTER: u32 = 16;
/// Fewer samples than this say nothing.
const FEWEST: usize = 16;

/// The latencies of one peer's latest answers. Quantiles are computed once every 16 samples, so asking is free.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LatencyWindow {
    /// Microseconds; a ring once it is full.
    samples: Vec<u32>,
    next: usize,
    since: u32,
    median: Option<u32>,
    p95: Option<u32>,
}

impl LatencyWindow {
    /// Nothing is known yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { samples: Vec::new(), next: 0, since: 0, median: None, p95: None }
    }

    /// An answer took this long. What is longer than 71 minutes counts as that.
    pub fn record(&mut self, took: Duration) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        if self.samples.len() < KEPT {
            self.samples.push(micros);
        } else {
            self.samples[self.next] = micros;
        }
        self.next = (self.next + 1) % KEPT;
        self.since += 1;
        if self.since >= STALE_AFTER && self.samples.len() >= FEWEST {
            self.since = 0;
            let mut samples = self.samples.clone();
            let (half, most) = ((samples.len() - 1) / 2, (samples.len() * 95).div_ceil(100) - 1);
            let (below, p95, _) = samples.select_nth_unstable(most);
            self.p95 = Some(*p95);
            self.median = Some(*below.select_nth_unstable(half).1);
        }
    }

    /// Half of the recent answers took at most this: who is fastest. None while too little is known.
    #[must_use]
    pub fn median(&self) -> Option<Duration> {
        self.median.map(|micros| Duration::from_micros(micros.into()))
    }

    /// 95 of 100 recent answers took at most this: past it a read may be hedged. None while too little is known.
    #[must_use]
    pub fn p95(&self) -> Option<Duration> {
        self.p95.map(|micros| Duration::from_micros(micros.into()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantiles_of_a_hundred_and_twenty_eight() {
        let mut window = LatencyWindow::new();
        (1..=15).for_each(|ms| window.record(Duration::from_millis(ms)));
        assert_eq!((window.median(), window.p95()), (None, None));
        (16..=128).for_each(|ms| window.record(Duration::from_millis(ms)));
        assert_eq!(window.median(), Some(Duration::from_millis(64)));
        assert_eq!(window.p95(), Some(Duration::from_millis(122)));
        (0..128).for_each(|_| window.record(Duration::from_millis(1)));
        assert_eq!(window.p95(), Some(Duration::from_millis(1)), "the old ones are forgotten");
    }

    proptest! {
        #[test]
        fn p95_is_what_95_in_100_of_the_kept_samples_stay_within(
            blocks in 1usize..20, samples in proptest::collection::vec(any::<u32>(), 320),
        ) {
            let mut window = LatencyWindow::new();
            let samples = &samples[..blocks * 16];
            samples.iter().for_each(|micros| window.record(Duration::from_micros((*micros).into())));
            let kept = &samples[samples.len().saturating_sub(KEPT)..];
            let within = |limit: Duration| kept.iter().filter(|m| Duration::from_micros((**m).into()) <= limit).count();
            let (median, p95) = (window.median().unwrap(), window.p95().unwrap());
            prop_assert!(within(p95) * 100 >= kept.len() * 95 && within(median) * 2 >= kept.len());
            let below = |limit: Duration| kept.iter().filter(|m| Duration::from_micros((**m).into()) < limit).count();
            prop_assert!(below(p95) * 100 < kept.len() * 95, "a smaller limit would do");
        }
    }
}

//! When a node may not trust its own clock.
//!
//! A node whose clock is more than half of `max_clock_drift` from the lower median of all reachable members, itself
//! included, stops minting, expiring and dropping. So any two nodes that do those are within `max_clock_drift` of each
//! other, which is what dropping an object past its horizon rests on (I-DELETE). Half of a heartbeat's round trip is
//! the error of what it tells: a node is out only where it is out whatever the errors hide, so a slow link stops nobody.

use std::time::Duration;

use crate::types::Wall;

/// What a heartbeat told about a peer's wall clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reading {
    /// How far the peer is ahead of this node, in milliseconds; negative for behind.
    pub ahead_ms: i64,
    /// How far off that may be, either way.
    pub error_ms: i64,
}

impl Reading {
    /// From a heartbeat sent at `sent` by this node's wall clock, answered after `round_trip` by its monotonic one, with
    /// the peer's wall clock at `theirs`: taken to have been read half way.
    #[must_use]
    pub fn new(sent: Wall, round_trip: Duration, theirs: Wall) -> Self {
        let half = round_trip / 2;
        let error_ms = i64::try_from(half.as_micros().div_ceil(1000)).unwrap_or(i64::MAX);
        Self { ahead_ms: difference(theirs, sent + half), error_ms }
    }
}

fn difference(a: Wall, b: Wall) -> i64 {
    let wide = i128::from(a.0) - i128::from(b.0);
    i64::try_from(wide).unwrap_or(if wide < 0 { i64::MIN } else { i64::MAX })
}

/// This node's clock beside the others'.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Drift {
    /// Near enough, as far as can be told.
    InTime,
    /// At least this far ahead: stop. Once set right the clock restarts from wall time, under a new incarnation.
    Ahead(Duration),
    /// At least this far behind: stop.
    Behind(Duration),
}

/// The bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DriftRule {
    /// `max_clock_drift`: how far apart two nodes that mint may be.
    pub max_clock_drift: Duration,
}

impl Default for DriftRule {
    fn default() -> Self {
        Self { max_clock_drift: Duration::from_millis(500) }
    }
}

impl DriftRule {
    /// Judges this node by one reading of each reachable member, itself not among them.
    #[must_use]
    pub fn judge(&self, peers: &[Reading]) -> Drift {
        // The lower median of true offsets lies between that of the least and that of the greatest they can be.
        let least = lower_median(peers, |peer| peer.ahead_ms.saturating_sub(peer.error_ms));
        let greatest = lower_median(peers, |peer| peer.ahead_ms.saturating_add(peer.error_ms));
        let limit = i64::try_from((self.max_clock_drift / 2).as_millis()).unwrap_or(i64::MAX);
        if least > limit {
            Drift::Behind(Duration::from_millis(least.unsigned_abs()))
        } else if greatest < -limit {
            Drift::Ahead(Duration::from_millis(greatest.unsigned_abs()))
        } else {
            Drift::InTime
        }
    }
}

/// The lower median of the peers' offsets and this node's own, which is zero.
fn lower_median(peers: &[Reading], offset: impl Fn(&Reading) -> i64) -> i64 {
    let mut offsets: Vec<i64> = peers.iter().map(offset).chain([0]).collect();
    offsets.sort_unstable();
    offsets[(offsets.len() - 1) / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offsets: &[i64]) -> Vec<Reading> {
        offsets.iter().map(|&ahead_ms| Reading { ahead_ms, error_ms: 0 }).collect()
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn judged_by_the_lower_median_itself_included() {
        let rule = DriftRule::default();
        for (offsets, verdict) in [
            (&[][..], Drift::InTime),
            (&[250, 250], Drift::InTime),
            (&[251, 251], Drift::Behind(ms(251))),
            (&[-250, -250], Drift::InTime),
            (&[-251, -251], Drift::Ahead(ms(251))),
            // Of two the one ahead is out, never both: the lower median is the earlier clock.
            (&[-1000], Drift::Ahead(ms(1000))),
            (&[1000], Drift::InTime),
            // One wrong clock of three or five convinces nobody.
            (&[0, 90_000], Drift::InTime),
            (&[-90_000, 0], Drift::InTime),
            (&[-5, 3, -90_000, -90_000], Drift::InTime),
            (&[-600, -600, -600, 1], Drift::Ahead(ms(600))),
            (&[600, 700, 800, 0], Drift::Behind(ms(600))),
        ] {
            assert_eq!(rule.judge(&at(offsets)), verdict, "{offsets:?}");
        }
    }

    #[test]
    fn what_may_be_the_links_fault_stops_nobody() {
        let slow = Reading::new(Wall(10_000), ms(400), Wall(10_600));
        assert_eq!(slow, Reading { ahead_ms: 400, error_ms: 200 });
        assert_eq!(DriftRule::default().judge(&[slow, slow]), Drift::InTime);
        let sure = Reading::new(Wall(10_000), ms(20), Wall(10_410));
        assert_eq!(DriftRule::default().judge(&[sure, sure]), Drift::Behind(ms(390)));
    }

    #[test]
    fn any_two_that_are_in_time_are_within_the_bound() {
        // Every placing of five clocks on a coarse grid: whoever is in time is within the bound of whoever else is.
        let grid = [-600, -300, -200, 0, 200, 300, 600_i64];
        let mut found_out = 0;
        for n in 0..7_usize.pow(5) {
            let clocks: Vec<i64> = (0..5).map(|i| grid[n / 7_usize.pow(i) % 7]).collect();
            let good = clocks.iter().enumerate().filter(|(me, mine)| {
                let others = clocks.iter().enumerate().filter(|(other, _)| other != me).map(|(_, c)| c - **mine);
                DriftRule::default().judge(&at(&others.collect::<Vec<_>>())) == Drift::InTime
            });
            let good: Vec<i64> = good.map(|(_, clock)| *clock).collect();
            found_out += usize::from(good.len() < 5);
            let (least, most) = (good.iter().min().unwrap(), good.iter().max().unwrap());
            assert!(most - least <= 500, "{clocks:?}");
        }
        assert!(found_out > 0);
    }

    #[test]
    fn absurd_clocks_do_not_overflow() {
        let far = [Reading::new(Wall(0), ms(0), Wall(u64::MAX)), Reading::new(Wall(u64::MAX), ms(9), Wall(0))];
        assert_eq!(DriftRule::default().judge(&[far[0], far[0]]), Drift::Behind(ms(i64::MAX as u64)));
        assert!(matches!(DriftRule::default().judge(&[far[1], far[1]]), Drift::Ahead(_)));
    }
}

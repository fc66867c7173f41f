//! This node's clock beside the members': too far off, and it mints nothing until it is right again.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use tracing::{error, info};

use super::Peers;
use crate::causality::{Drift, DriftRule, Reading};
use crate::replica::{Bar, Renewal};
use crate::types::StoreId;

/// How often the clock is judged.
const EVERY: Duration = Duration::from_millis(500);

/// The latest reading of each reachable member.
#[derive(Debug)]
pub(super) struct Clocks {
    rule: DriftRule,
    readings: BTreeMap<StoreId, Reading>,
}

impl Clocks {
    pub(super) fn new(max_clock_drift: Duration) -> Self {
        Self { rule: DriftRule { max_clock_drift }, readings: BTreeMap::new() }
    }

    pub(super) fn note(&mut self, store: StoreId, reading: Reading) {
        self.readings.insert(store, reading);
    }

    pub(super) fn forget(&mut self, store: StoreId) {
        self.readings.remove(&store);
    }

    /// How far from the others' a clock may be that is right.
    fn limit(&self) -> Duration {
        self.rule.max_clock_drift / 2
    }

    /// How many clocks go as this one does, itself included.
    fn agreeing(&self) -> usize {
        let limit = i64::try_from(self.limit().as_millis()).unwrap_or(i64::MAX);
        let agrees = |reading: &&Reading| reading.ahead_ms.saturating_abs().saturating_sub(reading.error_ms) <= limit;
        1 + self.readings.values().filter(agrees).count()
    }

    fn judge(&self) -> Drift {
        let readings: Vec<Reading> = self.readings.values().copied().collect();
        self.rule.judge(&readings)
    }

    /// How far this node is ahead of the members' lower median, in milliseconds, and whether that is too far. None
    /// while no member is reachable.
    pub(super) fn verdict(&self) -> Option<(i64, bool)> {
        let mut ahead: Vec<i64> = self.readings.values().map(|reading| -reading.ahead_ms).collect();
        if ahead.is_empty() {
            return None;
        }
        ahead.push(0);
        ahead.sort_unstable_by(|a, b| b.cmp(a));
        Some((ahead[(ahead.len() - 1) / 2], self.judge() != Drift::InTime))
    }
}

/// Begins to judge.
pub(super) fn start(peers: &Peers) {
    let peers = peers.clone();
    let tasks = peers.inner.env.tasks.clone();
    tasks.spawn(async move {
        let mut was_ahead = false;
        loop {
            peers.inner.env.clock.sleep(EVERY).await;
            let drift = {
                let clocks = peers.inner.clocks.lock().unwrap_or_else(PoisonError::into_inner);
                let offset = clocks.verdict().map_or(0, |(ahead_ms, _)| ahead_ms);
                peers.inner.metrics.peers.clock_offset.set(offset as f64 / 1000.0);
                let drift = clocks.judge();
                let members =
                    peers.inner.chain.load().as_ref().map_or(usize::MAX, |chain| chain.newest().members().len());
                // Several may be wrong alike: that they are no majority does not say that the others are right.
                let confirmed = 2 * clocks.agreeing() > members && drift == Drift::InTime;
                peers.inner.replica.identity().confirm_clock(confirmed.then_some(clocks.limit()));
                drift
            };
            let identity = peers.inner.replica.identity();
            match drift {
                Drift::InTime => {
                    if was_ahead {
                        // The stamps it minted while ahead must not be reached again from a clock that went back.
                        if let Err(failed) = identity.renew(Renewal::ClockReset) {
                            error!(%failed, "the clock is right again, but the disk failed");
                            continue;
                        }
                        was_ahead = false;
                        let incarnation = identity.incarnation();
                        peers.introduce(|hello| hello.incarnation = incarnation);
                    }
                    if identity.lift(Bar::ClockDrift) {
                        info!("the clock is right again: minting");
                    }
                }
                Drift::Ahead(by) | Drift::Behind(by) => {
                    was_ahead |= matches!(drift, Drift::Ahead(_));
                    if identity.bar(Bar::ClockDrift) {
                        error!(
                            ?by,
                            ahead = matches!(drift, Drift::Ahead(_)),
                            "this node's clock is too far from the others': it mints nothing; set the clock right"
                        );
                    }
                }
            }
        }
    });
}

//! What a run is made of: a seed becomes the size of the cluster, the pace of its clients, and a schedule of faults.

use std::time::Duration;

use quorate::env::Entropy;
use quorate::sim::drive::spare_power;
use quorate::sim::faults::{Fault, Kind, Profile, Schedule};
use quorate::sim::net::Death;
use quorate::storage::Durability;

use super::cluster::seed_of;
use super::plants::Plant;

/// What every run has.
const ALWAYS: &[fn(&Fault) -> bool] = &[
    |fault| matches!(fault, Fault::Crash { death: Death::Killed, .. }),
    |fault| matches!(fault, Fault::Crash { death: Death::PowerCut, .. }),
    |fault| matches!(fault, Fault::Partition { .. }),
    |fault| matches!(fault, Fault::Pause { .. }),
];

/// What a run is: printed when it fails.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) seed: u64,
    pub(super) nodes: usize,
    pub(super) length: Duration,
    pub(super) durability: Durability,
    /// The faults there may be, and those that there must be.
    pub(super) profile: Profile,
    pub(super) always: &'static [fn(&Fault) -> bool],
    /// Mean time between two steps of a client.
    pub(super) think: Duration,
    pub(super) lag: f64,
    /// Chance that a read or a write of a socket takes a few bytes only.
    pub(super) short: f64,
    pub(super) plant: Option<Plant>,
}

impl Options {
    /// What a seed chooses. Wiped directories and older copies are nothing that sockets have a part in, and stay with the
    /// other tier.
    pub(super) fn of(seed: u64) -> Self {
        let entropy = Entropy::seeded(seed_of(seed, "options", 0));
        let nodes = if entropy.chance(0.5) { 5 } else { 3 };
        let length = Duration::from_secs(20);
        let durability = if entropy.chance(0.25) { Durability::Os } else { Durability::Flush };
        let mut profile = Profile::quorum(nodes, 3, length);
        profile.kinds.retain(|kind| !matches!(kind, Kind::Wipe | Kind::RollBack | Kind::Copy));
        profile.every = Duration::from_millis(150 + entropy.below(300));
        let think = Duration::from_millis(60 + entropy.below(240));
        let lag = if entropy.chance(0.3) { 0.5 } else { 0.05 };
        let short = [0.0, 0.05, 0.5][entropy.below(3) as usize];
        Self { seed, nodes, length, durability, profile, always: ALWAYS, think, lag, short, plant: None }
    }

    /// The first schedule of this seed that has what there must be.
    pub(super) fn schedule(&self) -> Schedule {
        let drawn = |number| {
            let mut schedule = Schedule::generate(seed_of(self.seed, "schedule", number), &self.profile);
            if self.durability == Durability::Os {
                spare_power(&mut schedule);
            }
            schedule
        };
        let has = |schedule: &Schedule| {
            self.always.iter().all(|wanted| schedule.events.iter().any(|event| wanted(&event.fault)))
        };
        (0..).map(drawn).find(has).expect("the schedules of a seed have no end")
    }
}

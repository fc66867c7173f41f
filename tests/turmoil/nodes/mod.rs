//! Whole nodes of the product on turmoil hosts: transport, handshake, peers, founding, coordinator and replica over
//! simulated TCP, and the HTTP edge on it, driven by HTTP clients on hosts of their own.
//!
//! What stands in for the machine is storage, clocks, entropy and sockets; everything between is what is shipped. The
//! history, the schedules of faults and the judges are the other tier's (`quorate::sim`).

use std::time::Duration;

use quorate::sim::faults::Kind;
use quorate::storage::Durability;

use crate::children::{self, Job, Outcome};
use crate::harness::Test;
use crate::options;
use plan::Options;
use plants::Plant;
use run::run;

mod cluster;
mod http;
mod nemesis;
mod plan;
mod plants;
mod run;
mod sights;
mod verdict;

const JOB: &str = "nodes";
const PROMISES: &str = "nodes::no_seed_breaks_a_promise";
/// Seeds of every CI run.
const SEEDS: u64 = 8;
/// Most seeds a planted bug may survive.
const SURVIVES: u64 = 60;

pub(crate) const JOBS: &[Job] = &[
    Job(JOB, |seed, traced| run(&Options::of(seed), traced)),
    Job("acknowledges early", |seed, _| planted(seed, Some(Plant::AcknowledgesEarly))),
    Job("takes stale replies", |seed, _| planted(seed, Some(Plant::TakesStaleReplies))),
    Job("one acknowledgement too few", |seed, _| planted(seed, Some(Plant::OneAckTooFew))),
    Job("nothing planted", |seed, _| planted(seed, None)),
];

pub(crate) const TESTS: &[Test] = &[
    Test("nodes::one_seed_is_one_run", || children::repeats(JOB, 2)),
    Test(PROMISES, no_seed_breaks_a_promise),
    Test("nodes::an_acknowledgement_before_the_store_answered_is_caught", || {
        caught("acknowledges early", &["stale", "lost", "dropped"]);
    }),
    Test("nodes::a_stale_reply_taken_for_a_newer_ones_is_caught", || {
        caught("takes stale replies", &["stale", "lost", "dropped", "from-nowhere", "dot-reused"]);
    }),
    Test("nodes::one_acknowledgement_too_few_is_caught", || {
        caught("one acknowledgement too few", &["stale", "lost", "dropped"]);
    }),
];

fn no_seed_breaks_a_promise() {
    let seeds = options::seeds(SEEDS);
    let totals = children::none_breaks(JOB, PROMISES, &seeds);
    if seeds.len() as u64 >= SEEDS {
        let never: Vec<&str> = sights::SOMETIMES
            .iter()
            .copied()
            .filter(|what| totals.get(*what).is_none_or(|count| *count == 0))
            .collect();
        assert_eq!(never, [""; 0], "what no seed did");
    }
}

/// A run for bugs: short, busy, three nodes, and faults of the network alone.
fn planted(seed: u64, plant: Option<Plant>) -> Outcome {
    let mut options = Options::of(seed);
    options.plant = plant;
    options.nodes = 3;
    options.profile.nodes = 3;
    options.profile.kinds = [Kind::Crash, Kind::Partition, Kind::Loss, Kind::DiskSlow, Kind::Pause].into();
    options.length = Duration::from_secs(8);
    options.profile.length = options.length;
    options.think = Duration::from_millis(60);
    options.durability = Durability::Flush;
    run(&options, false)
}

/// The bug is caught, by one of these rules; and without the bug all is well.
fn caught(job: &str, rules: &[&str]) {
    for seed in 1..=SURVIVES {
        let outcome = children::all(job, &[seed], false).remove(0);
        let caught = outcome
            .broken
            .iter()
            .find(|line| line.trim().split_once(": ").is_some_and(|(rule, _)| rules.contains(&rule)));
        if let Some(violation) = caught {
            eprintln!("{job}: caught by seed {seed}: {}", violation.trim());
            assert_eq!(children::all("nothing planted", &[seed], false).remove(0).broken, [""; 0]);
            return;
        }
    }
    panic!("{job}: {SURVIVES} seeds went by and nobody noticed");
}

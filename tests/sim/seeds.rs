//! Random runs: the same seed is the same run, and no run breaks a promise.

use std::time::Duration;

use quorate::sim::drive::{Options, Report, Variety, run};
use quorate::sim::history;
use quorate::sim::tally::Tally;

use crate::options::{first_seed, number};

fn length() -> Duration {
    Duration::from_secs(number("QUORATE_SECONDS").unwrap_or(60))
}

fn one(seed: u64, length: Duration) -> Report {
    of(Variety::Members, seed, length)
}

fn of(variety: Variety, seed: u64, length: Duration) -> Report {
    run(&Options::with(variety, seed, length)).unwrap()
}

/// So many seeds of a variety, none of which breaks a promise; what happened in them.
fn many(variety: Variety, count: u64) -> Tally {
    let first = first_seed();
    eprintln!("{variety:?}: {count} seeds from {first}, {:?} each", length());
    let mut total = Tally::default();
    let mut failed = Vec::new();
    for seed in (0..count).map(|offset| first.wrapping_add(offset)) {
        let report = of(variety, seed, length());
        total.add(&report.tally);
        if !report.violations.is_empty() {
            eprintln!("{report}");
            failed.push(seed);
        }
    }
    eprintln!("{variety:?}: {count} seeds: {total}");
    assert!(failed.is_empty(), "{variety:?}: {} of {count} seeds broke a promise: {failed:?}", failed.len());
    assert_eq!(total.clashes, 0, "one dot with two values");
    total
}

fn seeds() -> u64 {
    number("QUORATE_SEEDS").unwrap_or(40)
}

#[test]
fn the_same_seed_is_the_same_run_byte_for_byte() {
    for seed in [11, 12] {
        let length = Duration::from_secs(20);
        let (first, second) = (one(seed, length), one(seed, length));
        assert_eq!(history::write(&first.history), history::write(&second.history), "seed {seed}");
        assert_eq!(first.trace, second.trace, "seed {seed}: the network");
        assert_eq!(first.tally, second.tally, "seed {seed}");
    }
    let other = one(13, Duration::from_secs(20));
    assert_ne!(other.trace, one(11, Duration::from_secs(20)).trace);
}

#[test]
fn no_seed_breaks_a_promise() {
    let total = many(Variety::Members, seeds());
    if seeds() >= 40 {
        assert_eq!(total.never(), [""; 0], "rare paths that no seed took");
        assert!(seeds() < 400 || total.too_old > 0, "nothing came late in any seed");
    }
}

/// A wiped directory never votes "not found": what was acknowledged is on every owner that is left, and is read.
#[test]
fn no_seed_with_a_wiped_directory_breaks_a_promise() {
    let total = many(Variety::Wiped, seeds().div_ceil(4));
    assert!(total.wipes > 0, "no directory was wiped");
}

/// A process on a copy of a directory is taken in by nobody, and what clients ask it spoils nothing.
#[test]
fn no_seed_with_a_copied_directory_breaks_a_promise() {
    let total = many(Variety::Copied, seeds().div_ceil(4));
    assert!(total.copies > 0, "no directory was copied");
}

/// Nodes come, go, die and are replaced, one change after the other and on top of each other, under all other faults: every
/// write acknowledged at a quorum is found, no read goes back, all replicas agree at the end, and no change wedges.
#[test]
fn no_seed_with_layout_changes_breaks_a_promise() {
    let count = seeds().div_ceil(2);
    let total = many(Variety::Layouts, count);
    if seeds() >= 40 {
        assert_eq!(total.never_moved(count), [""; 0], "what no seed did");
    }
}

/// Owners crash, more of them than a quorum survives, and fallbacks stand in: whatever was acknowledged is found at the end.
#[test]
fn no_seed_with_sloppy_quorums_loses_anything() {
    let total = many(Variety::Sloppy, seeds().div_ceil(2));
    if seeds() >= 40 {
        assert_eq!(total.never_sloppy(), [""; 0], "what no seed did");
    }
}

/// Every client reads and writes one replica at a time, through whatever node, and sends what it has seen: it finds its own
/// writes, never goes back, and nobody is shown a write without what its writer had seen.
#[test]
fn no_seed_with_sessions_breaks_a_promise() {
    let total = many(Variety::Sessions, seeds().div_ceil(2));
    if seeds() >= 40 {
        assert_eq!(total.never_in_sessions(), [""; 0], "what no seed did");
    }
}

/// Seeds that found something, and what.
#[test]
fn what_seeds_found_once_stays_fixed() {
    let found = [
        (1, "a write handed over in a frame that came twice was minted twice: a connection delivers it once"),
        (
            4,
            "a node that had just started was well by its own account while its peers still thought that it minted not",
        ),
        (34, "a directory that went back within one life voted \"not found\": nothing is lost, reads may miss it"),
        (58, "the same, where the only peer that had seen the later life was cut off"),
        (1023, "a node that took a new incarnation while it was stopped listened again after its shutdown"),
    ];
    for (seed, what) in found {
        let report = one(seed, Duration::from_secs(60));
        assert!(report.violations.is_empty(), "{what}\n{report}");
    }
}

/// Replays one seed, and writes its history where `QUORATE_HISTORY` says.
#[test]
fn replay() {
    let Some(seed) = number("QUORATE_SEED") else { return };
    let variety = match std::env::var("QUORATE_VARIETY").as_deref() {
        Ok("Wiped") => Variety::Wiped,
        Ok("Copied") => Variety::Copied,
        Ok("Layouts") => Variety::Layouts,
        Ok("Sloppy") => Variety::Sloppy,
        Ok("Sessions") => Variety::Sessions,
        _ => Variety::Members,
    };
    let report = of(variety, seed, length());
    eprintln!("{report}");
    if let Ok(path) = std::env::var("QUORATE_HISTORY") {
        report.faults.events.iter().for_each(|event| eprintln!("{:?} {:?}", event.at, event.fault));
        std::fs::write(path, history::write(&report.history)).unwrap();
    }
    assert!(report.violations.is_empty());
}

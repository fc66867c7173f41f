//! What the environment says about seeds, for every target that runs simulations.
#![allow(clippy::panic, dead_code, reason = "a test; not every target uses all of it")]

/// The number that a variable holds.
pub(crate) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// `QUORATE_SEED`; without it, fresh seeds for each commit, the same for everybody who has it.
pub(crate) fn first_seed() -> u64 {
    let head = || {
        let git = std::process::Command::new("git").args(["rev-parse", "HEAD"]).output().ok()?;
        u64::from_str_radix(std::str::from_utf8(&git.stdout).ok()?.get(..12)?, 16).ok()
    };
    number("QUORATE_SEED").or_else(head).unwrap_or(20_260_101)
}

/// `QUORATE_SEEDS` seeds, or as many as a target runs when nobody says, from the first one on.
pub(crate) fn seeds(unsaid: u64) -> Vec<u64> {
    let first = first_seed();
    (0..number("QUORATE_SEEDS").unwrap_or(unsaid)).map(|offset| first.wrapping_add(offset)).collect()
}

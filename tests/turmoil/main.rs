//! What lies below messages, on turmoil's simulated hosts and TCP: the transport by itself ([`transport`]), and whole
//! nodes with their HTTP edge, driven by HTTP clients ([`nodes`]).
//!
//! A target without the standard harness: every seed runs in a process of its own ([`children`]), as many at a time as
//! there are cores. `QUORATE_SEEDS=30` runs more seeds, `QUORATE_SEED=n` chooses the first; a failure prints the line
//! that replays its seed. Words on the command line choose tests by a part of their name.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, missing_docs, reason = "a test")]

#[cfg(not(tokio_unstable))]
compile_error!("without --cfg tokio_unstable a panic in a simulated task passes as success: see .cargo/config.toml");

mod children;
mod harness;
mod nodes;
mod seams;
mod transport;

#[path = "../options/mod.rs"]
mod options;

fn main() -> std::process::ExitCode {
    harness::main(&[transport::TESTS, nodes::TESTS].concat(), &[transport::JOBS, nodes::JOBS].concat())
}

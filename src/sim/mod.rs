//! Whole clusters in one deterministic, seeded process: adapters for the seams, and what judges a run.
//!
//! **What replaces the machine**: [`time`] (virtual time in microseconds, clocks that skew, drift, jump and stop),
//! [`net`] and [`transport`] (a network of messages, link by link), [`disk`] (over `storage::memory`). No tricks below
//! the seams: all time and randomness come through `env::Env`, so one seed decides a whole run, byte for byte.
//!
//! **Who runs**: [`cluster`] (real nodes on simulated machines), [`drive`] (a whole run, from seed to verdict), [`finish`]
//! (its end), [`rare`] (rare paths, forced), [`backs`] (directories that go back), [`tally`] (what happened).
//!
//! **What a run is made of**: [`faults`] (what goes wrong and when, as data), [`layouts`] (who comes and goes),
//! [`workload`] (what the clients do, as data, and a runner for any `kv::Kv`), [`history`] (what was asked, answered and
//! shown, as JSON lines), [`check`] (the judges, which know nothing of simulation and judge histories of real processes as
//! well).

pub mod backs;
pub mod check;
pub mod cluster;
pub mod disk;
pub mod drive;
pub mod faults;
pub mod finish;
pub mod history;
pub mod layouts;
pub mod net;
pub mod rare;
pub mod tally;
pub mod time;
pub mod transport;
pub mod workload;

//! Quorums: levels, requirements, and the one tally that counts them all.
//!
//! A [`Level`] (what a client asks for) becomes a [`Requirement`]: groups of members, each with a need. One [`Tally`]
//! counts every requirement, for reads, writes and repairs. [`GetCore`] and [`PutCore`] are state machines: reply in,
//! answer and repairs out, time as an argument; they touch no socket and no clock (openraft's engine, riak's `get_core`).
//! Whoever does the talking is a thin loop: make a core, do what it says, tell it what came back.
//!
//! Left to others: who owns what (`ring`), who is up (`peers`), how states merge (`causality`).

mod explain;
mod get;
mod level;
pub mod list;
mod put;
mod requirement;
mod stand_in;
mod tally;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tables;
#[cfg(test)]
mod testing;

pub use explain::{Described, Explain, ExplainedReplica, Recorder, ReplicaResult, Role};
pub use get::{Floor, Found, GetAction, GetCore, GetFailure, ReadPlan, Repair, ReplicaReply};
pub use level::{Level, LevelError};
pub use put::{PutAction, PutCore, PutFailure};
pub use requirement::{Group, GroupUp, OwnersIn, RegionOwners, Requirement, Unavailable, requirement};
pub use stand_in::Fallbacks;
pub use tally::{Counted, Tally, Verdict};

/// Why a replica gave no vote. None of these counts for anything: only an answer does, and "not found" is one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum NoVote {
    /// It cannot read or write: a checksum, the disk.
    Failed,
    /// It does not do this: another layout, not an owner, overloaded, stopping.
    Refused,
    /// It has not merged what every other owner has.
    Syncing,
    /// The connection failed.
    Unreachable,
    /// No answer in time.
    TimedOut,
}

impl NoVote {
    /// As an error names it: `error`, `refused`, `syncing`, `down`, `timeout`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "error",
            Self::Refused => "refused",
            Self::Syncing => "syncing",
            Self::Unreachable => "down",
            Self::TimedOut => "timeout",
        }
    }
}

//! Being in a cluster: how it is founded, which layouts are in force, what the nodes say of themselves.
//!
//! The decisions are `ring`'s, `paxos`' and `membership`'s; this room probes the seeds, flushes before anybody is told,
//! and publishes what is known of layouts behind an atomic pointer ([`LayoutKeeper`], [`Known`]). The next layout is
//! decided among members (`decide`), by itself where no operator is needed ([`Steward`]); what is in flight is registered
//! ([`Held`]), so that a layout is acked only when nothing older is. Until a node serves, it says why not ([`Standing`]).
//! Once it is a member it gossips ([`Gossiper`]), the settings of buckets that need no decision among the rest
//! ([`BucketKeeper`]).

mod buckets;
mod decide;
mod founding;
mod gossiper;
mod held;
mod joiners;
mod keeper;
mod known;
mod points;
mod said;
mod steward;
mod voice;

pub use buckets::{BucketKeeper, Unset};
pub use decide::{ProposeError, Proposed};
pub use founding::{ClusterService, FoundingOptions};
pub use gossiper::{About, Gossiper, Heard};
pub use held::{Counting, Guard, Held};
pub use joiners::{Joiner, Joiners};
pub use keeper::{LayoutKeeper, Untaken};
pub use known::Known;
pub use points::resume_key;
pub use said::{DiskState, Head, Said};
pub use steward::Steward;

pub use crate::ring::founding::Directory;

/// Where a node stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It has not begun.
    Starting,
    /// It waits to become a member, and why.
    Waiting(String),
    /// It stays out, and why: an operator has to act.
    Refused(String),
    /// It is a member, and serves.
    Serving,
}

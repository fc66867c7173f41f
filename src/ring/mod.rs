//! Who owns what: the partition grid, layouts, where the planner puts replicas, and how a cluster begins.
//!
//! The ring is cut once into Q equal partitions ([`Grid`]); a [`Layout`] says which members own each of them, in an
//! order, per region. Every node that holds the same layout computes the same answer from it: owners, preference list,
//! fallbacks are functions of the layout and the partition alone, and the hash of its one encoding names it.
//! [`planner`] makes layouts, [`report`] judges them by the four figures of placement, [`founding`] decides who may
//! make the first one.
//!
//! The others follow it in a [`Chain`]. How the owners change without losing a write stands in six files that say what
//! one node may do by what it knows: [`trackers`] (how far everybody is), [`live`] (which layouts count), [`sync`]
//! (what is to be merged), [`judge`] (which requests are served), [`change`] and [`risk`] (which layout may come next).
//! [`operations`] turns what an operator asks for, in names, into the one successor that does it, [`buckets`] what is
//! asked for buckets; what needs no operator is [`auto`]'s to wish for. The exhaustive model in `tests/models/chain` runs
//! them.
//!
//! Left to others: how one successor is agreed on, who is up, and every doing.

pub mod auto;
pub mod buckets;
mod chain;
mod chain_codec;
pub mod change;
mod codec;
pub mod founding;
mod grid;
pub mod judge;
mod layout;
pub mod live;
pub mod operations;
mod placement;
pub mod planner;
mod preference;
pub mod report;
pub mod risk;
pub mod sync;
mod targets;
pub mod trackers;

pub use chain::{Chain, ChainError};
pub use grid::{Grid, InvalidGrid};
pub use layout::{
    BucketSettings, DEFAULT_N, DEFAULT_REPLICAS_MAX, Layout, LayoutError, LayoutHash, LayoutSpec, Member, MemberIndex,
    Mode, REPLICAS_LIMIT, RegionOwners, Role,
};
pub use live::View;
pub use trackers::{Tracker, Trackers};

//! Who owns what: the partition grid, layouts, where the planner puts replicas, and how a cluster begins.
//!
//! The ring is cut once into Q equal partitions ([`Grid`]); a [`Layout`] says which members own each of them, in an
//! order, per region. Every node that holds the same layout computes the same answer from it: owners, preference list,
//! fallbacks are functions of the layout and the partition alone, and the hash of its one encoding names it.
//! [`planner`] makes layouts, [`report`] judges them by the four figures of placement, [`founding`] decides who may
//! make the first one.
//!
//! Left to others: how a later layout is agreed on, which layouts are live, who is up.

mod codec;
pub mod founding;
mod grid;
mod layout;
mod placement;
pub mod planner;
mod preference;
pub mod report;
mod targets;

pub use grid::{Grid, InvalidGrid};
pub use layout::{
    BucketSettings, DEFAULT_N, DEFAULT_REPLICAS_MAX, Layout, LayoutError, LayoutHash, LayoutSpec, Member, MemberIndex,
    Mode, REPLICAS_LIMIT, RegionOwners, Role,
};

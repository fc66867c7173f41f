//! Repairs as documents: comparisons with the other owners that somebody asks for.

use serde::{Deserialize, Serialize};

use super::layouts::OperationView;
use super::{Error, ErrorCode};

/// What the ids of repairs begin with.
pub const REPAIR_ID: &str = "repair-";

/// What administrators ask of a node that compares what it holds. By default it cannot.
pub trait RepairAdmin: Send + Sync {
    /// Begins to compare what this node holds with the other owners, and to make equal what differs.
    fn begin_repair(&self, request: RepairRequest) -> Result<RepairBegun, Error> {
        let _ = request;
        Err(Error::refused(ErrorCode::NotServing, "this node compares nothing: it is in no cluster"))
    }

    /// How far a repair has come.
    fn repair_operation(&self, id: &str) -> Result<OperationView, Error> {
        Err(unknown_repair(id))
    }
}

/// The error for an id that is no repair's.
#[must_use]
pub fn unknown_repair(id: &str) -> Error {
    let detail = format!("{id:?} is no repair of this node: ask the one that began it; it keeps its last ones");
    Error::refused(ErrorCode::NotKnown, detail)
}

/// What to compare.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RepairRequest {
    /// This bucket alone.
    pub bucket: Option<String>,
    /// This partition alone.
    pub partition: Option<u32>,
    /// Say what differs, and change nothing.
    pub dry_run: bool,
    /// Of the pairs of members only those that the asked one leads, so that each pair is compared once where every
    /// member is asked.
    pub once: bool,
    /// Keys of this partition that cannot be read here, and that no other owner holds, are given up: they read as never
    /// written, or as what is left of them elsewhere.
    pub accept_data_loss: bool,
}

/// A repair has begun.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RepairBegun {
    /// Ask for it by this, at the node that began it.
    pub id: String,
    /// That node.
    pub node: String,
}

/// What a repair has come to so far.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RepairView {
    /// The node that compares.
    pub node: String,
    /// Whether it changes nothing.
    pub dry_run: bool,
    /// Pairs of a partition and another owner that were compared.
    pub compared: u64,
    /// Of those, pairs that differed. Where one bucket was asked for: in what its trees hold, which other buckets share.
    pub differed: u64,
    /// Keys that differed.
    pub keys: u64,
    /// Of those, keys that are equal now.
    pub repaired: u64,
    /// Keys that could not be made equal. Those that were equal by the time they were looked at are neither.
    pub failed: u64,
    /// Bytes of records that were exchanged.
    pub bytes: u64,
    /// Pairs that could not be compared to the end.
    pub unfinished: u64,
    /// Keys that were given up.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub given_up: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

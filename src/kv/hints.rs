//! Hints as documents: what waits on a node for owners that missed it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::env::BoxFuture;
use crate::types::Wall;

/// What administrators ask of a node's hints. By default there are none.
pub trait HintAdmin: Send + Sync {
    /// What waits here, and for whom.
    fn hints_view(&self) -> HintsView {
        HintsView::default()
    }

    /// A sync point: waits until all hints that were left here up to `until` (none: now) are replayed, for at most
    /// `patience`.
    fn wait_for_hints(&self, patience: Duration, until: Option<Wall>) -> BoxFuture<'_, HintsWaited> {
        let _ = patience;
        Box::pin(async move { HintsWaited { until: until.unwrap_or_default(), ..HintsWaited::default() } })
    }
}

/// What waits on one node.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HintsView {
    /// The node that answers.
    pub node: String,
    /// Whom something waits for.
    pub targets: Vec<HintTarget>,
    /// Hints that wait, one for each key and owner.
    pub keys: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of the keys: those that counted towards a quorum, and that nothing drops.
    #[serde(default)]
    pub owed: u64,
    /// Hints that could not be read when the node started, a stretch of them counted once: nobody knows for whom they are,
    /// or a later version left them. They are left alone.
    #[serde(default)]
    pub unreadable: u64,
    /// Most bytes that may wait.
    pub max_bytes: u64,
    /// Hints left since the node started, those merged with an older one of their key included.
    pub left: u64,
    /// Hints replayed since the node started.
    pub replayed: u64,
    /// Hints dropped, or not kept, since the node started.
    pub dropped: u64,
    /// Partitions in which something was dropped and that have not been compared with their other owners since.
    pub marked: u64,
}

/// What waits for one owner.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HintTarget {
    /// Its name; its store id where it is a member no more.
    pub node: String,
    /// Its store id.
    pub store: String,
    /// Keys that wait.
    pub keys: u64,
    /// Bytes of their hints.
    pub bytes: u64,
    /// Of the keys: those that counted towards a quorum, in this owner's place.
    #[serde(default)]
    pub owed: u64,
    /// When the oldest was left (RFC 3339).
    pub oldest: String,
    /// `waiting` (it is down), `starting`, `replaying`, `backing_off`, `replaced` (it is no owner any more: they go to
    /// those that are), `paused` (the worker was told to).
    pub state: String,
    /// Hints replayed since the first of those that wait was left.
    pub replayed: u64,
    /// Why the last send that failed did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a sync point came to.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HintsWaited {
    /// The node that answers.
    pub node: String,
    /// The sync point, by this node's wall clock in milliseconds since 1970: to go on waiting for the same hints.
    pub until: Wall,
    /// Whether they are all replayed, or dropped.
    pub done: bool,
    /// What is left of them, by owner.
    pub left: Vec<HintsLeft>,
}

/// What is left for one owner.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HintsLeft {
    /// Its name; its store id where it is a member no more.
    pub node: String,
    /// Keys.
    pub keys: u64,
}

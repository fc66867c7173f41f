//! Deletions as documents: what waits to be removed for good, and for whom.

use serde::{Deserialize, Serialize};

/// What administrators ask of a node that collects deletions. By default nothing waits.
pub trait TombstoneAdmin: Send + Sync {
    /// What waits in the partitions whose rounds this node drives, as of its last look at each.
    fn tombstones_view(&self) -> TombstonesView {
        TombstonesView::default()
    }
}

/// What waits on one node.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TombstonesView {
    /// The node that answers.
    pub node: String,
    /// Deletions that wait.
    pub waiting: u64,
    /// Of those, the ones that have stayed as long as they must: they wait for a round, or for whoever holds it up.
    pub ripe: u64,
    /// Partitions in which any wait.
    pub partitions: u64,
    /// How long a deletion stays at least, in seconds.
    pub linger_s: u64,
    /// Deleted objects removed from this node for good since it started.
    pub collected: u64,
    /// Rounds that this node took to their end since it started.
    pub rounds: u64,
    /// Who holds up rounds.
    pub held_up_by: Vec<HolderUp>,
}

/// A member for which rounds wait.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HolderUp {
    /// Its name; its store id where it is a member no more.
    pub node: String,
    /// Its store id.
    pub store: String,
    /// Partitions that wait for it.
    pub partitions: u64,
    /// Deletions that wait in them.
    pub waiting: u64,
    /// What is with it, in one of them.
    pub why: String,
}

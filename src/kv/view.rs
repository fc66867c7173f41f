//! What an edge asks of a node beside the three verbs of [`Kv`](super::Kv): who owns what, how it is, whether it is
//! ready. Plain documents: the HTTP edge serialises them as they are, the client reads them back.

use serde::{Deserialize, Serialize};

use super::layouts::WaitView;
use super::{BucketAdmin, Error, HintAdmin, HintsLeft, LayoutAdmin, RepairAdmin, TombstoneAdmin, WorkerAdmin};
use crate::types::ObjectId;

/// A node as seen from an edge. Every call answers at once, from snapshots; what takes time is [`LayoutAdmin`]'s or
/// [`HintAdmin`]'s.
pub trait NodeView: LayoutAdmin + HintAdmin + WorkerAdmin + RepairAdmin + TombstoneAdmin {
    /// Who owns an object.
    fn owners(&self, id: &ObjectId) -> Result<Owners, Error>;
    /// One screen on how the cluster is, as this node sees it.
    fn status(&self) -> Status;
    /// The placement in force.
    fn ring(&self) -> RingView;
    /// Whether requests may be sent here; if not, why. Needs no quorum: a cut-off node still takes writes at W = 1.
    fn ready(&self) -> Result<(), String>;
    /// All metrics in the Prometheus text format, refreshed.
    fn metrics_text(&self) -> String;
    /// What may be asked of it about buckets, if anything.
    fn bucket_admin(&self) -> Option<&dyn BucketAdmin> {
        None
    }
}

/// Where an object lies.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Owners {
    /// Its place on the ring, 16 hexadecimal digits.
    pub token: String,
    /// Its partition.
    pub partition: u32,
    /// The layout this was read from.
    pub layout: u64,
    /// The owners, in the order of preference.
    pub owners: Vec<OwnerView>,
    /// Who stands in for them, in order.
    pub fallbacks: Vec<OwnerView>,
}

/// An owner of a partition.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct OwnerView {
    /// The node's name.
    pub node: String,
    /// Its zone.
    pub zone: String,
    /// Its region.
    pub region: String,
    /// `up`, `down`, `syncing`: this node's opinion.
    pub state: String,
}

/// One screen on how things are.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// The name of the node that answers.
    pub node: String,
    /// The version it runs.
    pub version: String,
    /// The cluster it is a member of; none while it is fresh.
    pub cluster: Option<String>,
    /// The newest layout it knows.
    pub layout: u64,
    /// The last change of the layout, and how far it has come; none where this node has seen none.
    #[serde(default)]
    pub change: Option<ChangeView>,
    /// `ok`, `degraded`, `not_serving`.
    pub health: String,
    /// The members, itself included.
    pub members: Vec<MemberView>,
    /// What somebody should look at.
    pub attention: Vec<Attention>,
    /// What waits on the node that answers for members that missed it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<HintsLeft>,
}

/// A change of the layout, and how far it has come. What follows a layout by itself belongs to it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ChangeView {
    /// The layout that makes it.
    pub layout: u64,
    /// What it changes, in words: `n4 joins`, `bucket orders n 3 to 5`.
    pub changes: Vec<String>,
    /// Since when this node has known it (RFC 3339); none if it came with the directory.
    pub since: Option<String>,
    /// Whether it has come to its end.
    pub complete: bool,
    /// Steps done, of the layout that is being put in force.
    pub done: u64,
    /// Its steps.
    pub total: u64,
    /// For whom it waits.
    pub waits_for: Vec<WaitView>,
}

/// Something that somebody should look at, and what to do about it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Attention {
    /// A stable word for it.
    pub code: String,
    /// What is the matter, for people.
    pub text: String,
    /// The command to type next; empty where there is none.
    pub command: String,
}

/// Where a node is reached: `host:port` each.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Addresses {
    /// By clients.
    pub client: String,
    /// By peers.
    pub peer: String,
}

/// A member of the cluster as one node sees it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct MemberView {
    /// Its node id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The life it mints in, in hexadecimal; none where it has not been heard of.
    pub incarnation: Option<String>,
    /// Where it is reached.
    pub addresses: Addresses,
    /// Its region.
    pub region: String,
    /// Its zone.
    pub zone: String,
    /// Its share of the ring.
    pub weight: u32,
    /// `up`, `suspect`, `down`, `syncing`.
    pub state: String,
    /// How suspect it is: how unlikely its silence would be if it lived, as a power of ten; none for the node that
    /// answers.
    pub phi: Option<f64>,
    /// Since when it is in this state, by the wall clock (RFC 3339).
    pub since: Option<String>,
    /// The newest layout that it has said it knows; 0 while it has not said.
    pub layout: u64,
}

/// The members of the cluster as one node sees them.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Members {
    /// All of them, the node that answers included.
    pub members: Vec<MemberView>,
}

/// The placement in force.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RingView {
    /// The newest layout's version.
    pub version: u64,
    /// Its content hash.
    pub hash: String,
    /// The versions that are live, the oldest first.
    pub live: Vec<u64>,
    /// The number of partitions.
    pub q: u32,
    /// The names of the members.
    pub members: Vec<String>,
    /// Who owns what, by the newest layout.
    pub partitions: Vec<PartitionView>,
    /// The other live layouts, the newest first: writes are counted in them as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub older: Vec<OlderRing>,
}

/// Who owns what by a layout that is still live beside the newest.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct OlderRing {
    /// The layout's version.
    pub version: u64,
    /// Its content hash.
    pub hash: String,
    /// The partitions whose owners are others there.
    pub partitions: Vec<PartitionView>,
}

/// The owners of one partition.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PartitionView {
    /// The partition.
    pub id: u32,
    /// The names of its owners, in the order of preference.
    pub owners: Vec<String>,
}

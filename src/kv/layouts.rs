//! Layouts as operators see them: the documents of `/admin/layout` and `/admin/operations`, and what an edge asks of a
//! node about them. Plain documents: the HTTP edge takes and gives them as they are, the client reads them back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Error, RepairView};
use crate::env::BoxFuture;

/// A node as operators use it to change the cluster.
///
/// Every plan is made, and kept for a while, at the node that is asked; whoever commits it asks the same node.
pub trait LayoutAdmin: Send + Sync {
    /// The layouts there are, and how far each member has come with them.
    fn layout(&self) -> LayoutView;
    /// What a change would come to. Changes nothing.
    fn plan(&self, request: PlanRequest) -> BoxFuture<'_, Result<PlanView, Error>>;
    /// Has a plan's layout decided.
    fn commit(&self, plan: String, request: CommitRequest) -> BoxFuture<'_, Result<Begun, Error>>;
    /// Leaves out members that are dead for good, at once.
    fn skip(&self, request: SkipRequest) -> BoxFuture<'_, Result<Begun, Error>>;
    /// Gives up the change under way.
    fn abort(&self, request: AbortRequest) -> BoxFuture<'_, Result<Begun, Error>>;
    /// Appends a layout without the members that are gone, undecided: for a cluster that has lost those who decide.
    fn force(&self, request: ForceRequest) -> BoxFuture<'_, Result<Begun, Error>>;
    /// How far something that takes time has come.
    fn operation(&self, id: &str) -> Result<OperationView, Error>;
}

/// What to change. Members are called by name, node id or store id.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlanRequest {
    /// Nodes that become members.
    pub add: Vec<String>,
    /// Members that leave: they live, and are copied from.
    pub leave: Vec<String>,
    /// Members that are dead for good.
    pub remove: Vec<String>,
    /// Members that are dead for good, and who takes their places.
    pub replace: Vec<Replacement>,
    /// New shares of the load.
    pub weights: BTreeMap<String, u32>,
    /// New labels.
    pub labels: BTreeMap<String, LabelsRequest>,
    /// Give up the change under way; only `remove` goes with it.
    pub abort: bool,
    /// Place everything anew, also where nobody changes.
    pub rebalance: bool,
}

/// A dead member, and who takes its places.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replacement {
    /// The member.
    pub old: String,
    /// The node that comes; its name may be the same.
    pub new: String,
}

/// Labels to change; what is not said stays.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LabelsRequest {
    /// The zone.
    pub zone: Option<String>,
    /// The region.
    pub region: Option<String>,
}

/// Which layout a plan is to become, and what is taken upon oneself by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitRequest {
    /// The plan's version, so that nobody commits what he has not seen.
    pub version: u64,
    /// Partitions may be left with fewer live replicas than their quorums need.
    #[serde(default)]
    pub force: bool,
    /// Acknowledged writes may be lost.
    #[serde(default)]
    pub accept_data_loss: bool,
}

/// Whom to leave out.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SkipRequest {
    /// Members whose processes have stopped for good.
    pub members: Vec<String>,
    /// See [`CommitRequest::force`].
    pub force: bool,
    /// See [`CommitRequest::accept_data_loss`].
    pub accept_data_loss: bool,
}

/// How to give up a change.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AbortRequest {
    /// Members that have died meanwhile, and are left out with it.
    pub remove: Vec<String>,
    /// See [`CommitRequest::force`].
    pub force: bool,
    /// See [`CommitRequest::accept_data_loss`].
    pub accept_data_loss: bool,
}

/// Who is gone for ever.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ForceRequest {
    /// Members whose processes have stopped, and never run again.
    pub gone: Vec<String>,
    /// See [`CommitRequest::accept_data_loss`]: here it is always asked for.
    pub accept_data_loss: bool,
}

/// Something was begun that takes time.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Begun {
    /// Ask for it by this, at any node.
    pub id: String,
    /// The layout that was decided.
    pub version: u64,
    /// Its content hash.
    pub hash: String,
    /// What was found out only with the decision; for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// How far something has come.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct OperationView {
    /// Its id.
    pub id: String,
    /// `unheard` (this node knows nothing of it yet), `running`, `done`, `superseded` (given up, or taken over by the next
    /// layout), `lost` (another layout was decided in its place), `incomplete` (a repair that did not get everywhere).
    pub state: String,
    /// Steps done.
    pub done: u64,
    /// Steps in all.
    pub total: u64,
    /// Seconds left, about; none where nothing can be said yet.
    pub eta_s: Option<u64>,
    /// Why it did not come about, or does not go on now.
    pub error: Option<String>,
    /// For whom it waits.
    #[serde(default)]
    pub waits_for: Vec<WaitView>,
    /// What it has come to, where it is a repair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<RepairView>,
}

/// What a change would come to.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct PlanView {
    /// Commit it by this, at the node that made it.
    pub id: String,
    /// The layout it makes.
    pub version: u64,
    /// That layout's content hash.
    pub hash: String,
    /// The layout it follows.
    pub parent: u64,
    /// `change`, `abort`, `skip`, `same`.
    pub kind: String,
    /// Replicas are counted with so many per partition: the most any bucket has.
    pub n: u8,
    /// Everybody who is or will be a member.
    pub members: Vec<PlannedMember>,
    /// Partitions that pass from one to another.
    pub moves: Vec<MoveView>,
    /// The zones.
    pub zones: Vec<PlannedZone>,
    /// Replicas that are copied.
    pub copied: u64,
    /// A lower bound of that.
    pub least_copied: Option<u64>,
    /// About how many bytes are copied; none where that is not known.
    pub bytes: Option<u64>,
    /// The greatest load over the mean (by weight), before.
    pub max_over_mean_before: f64,
    /// The same, after.
    pub max_over_mean: f64,
    /// Partitions with more replicas in one zone than need be, after.
    pub zone_violations: u64,
    /// What may go wrong.
    pub risks: Vec<RiskView>,
    /// What commits it.
    pub command: String,
}

/// A member before and after a plan.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PlannedMember {
    /// Its name.
    pub name: String,
    /// Its node id.
    pub id: String,
    /// Its region, after.
    pub region: String,
    /// Its zone, after.
    pub zone: String,
    /// Its weight, after.
    pub weight: u32,
    /// What becomes of it, in words: `joins`, `leaves`, `removed`, `replaces n3`, `weight 1 to 2`.
    pub changes: Vec<String>,
    /// Partitions it owned.
    pub before: u64,
    /// Partitions it will own.
    pub after: u64,
    /// Partitions that are copied to it.
    pub gains: u64,
    /// About how many bytes these are.
    pub bytes: Option<u64>,
}

/// Partitions that pass from one member to another.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MoveView {
    /// Who gives them up; none where lists grow.
    pub from: Option<String>,
    /// Who gets them.
    pub to: String,
    /// How many.
    pub partitions: u64,
}

/// A zone before and after a plan.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PlannedZone {
    /// Its region.
    pub region: String,
    /// Its label.
    pub zone: String,
    /// Members that own something there, after.
    pub members: u64,
    /// Replicas there.
    pub before: u64,
    /// Replicas there, after.
    pub after: u64,
}

/// What may go wrong.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RiskView {
    /// `too_thin`, `may_lose_data`.
    pub code: String,
    /// What, and where.
    pub text: String,
    /// The member of [`CommitRequest`] that goes on all the same.
    pub needs: String,
}

/// One layout in a list.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LayoutSummary {
    /// Its version.
    pub version: u64,
    /// Its content hash.
    pub hash: String,
    /// How many members it has.
    pub members: u64,
    /// What it changed, in words: `n4 joins`, `bucket orders n 3 to 5`; nothing where only those who decide changed.
    pub changes: Vec<String>,
    /// Since when this node has known it (RFC 3339); none if it came with the directory.
    pub since: Option<String>,
}

/// How far a member has followed the chain.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TrackerView {
    /// Its name.
    pub member: String,
    /// Its node id.
    pub id: String,
    /// The layout it uses, with nothing in flight on older ones.
    pub ack: u64,
    /// The live layouts whose share it holds.
    pub synced: Vec<u64>,
    /// The oldest layout it serves reads in.
    pub sync_ack: u64,
    /// What is awaited of it: `ack`, `synced`, `sync_ack`; none where nothing is.
    pub awaited: Option<String>,
}

/// For whom a change waits.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct WaitView {
    /// The member.
    pub member: String,
    /// `ack`, `synced`, `sync_ack`.
    pub awaited: String,
    /// `up`, `down`, `syncing`.
    pub state: String,
    /// Since when, as this node saw it (RFC 3339).
    pub since: Option<String>,
}

/// A node that waits to become a member.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CandidateView {
    /// Its name.
    pub name: String,
    /// Its node id.
    pub id: String,
    /// Its region.
    pub region: String,
    /// Its zone.
    pub zone: String,
    /// The weight it wants.
    pub weight: u32,
    /// Where other nodes reach it.
    pub peer_address: String,
}

/// The layouts there are.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LayoutView {
    /// The newest layout; none while this node is in no cluster.
    pub head: Option<LayoutSummary>,
    /// Whether no change is under way, as far as this node knows.
    pub complete: bool,
    /// The layouts that writes are counted in, the newest first.
    pub live: Vec<LayoutSummary>,
    /// The layout that reads use.
    pub reads_in: u64,
    /// Those this node has known, the newest first.
    pub history: Vec<LayoutSummary>,
    /// How far the members have come.
    pub trackers: Vec<TrackerView>,
    /// For whom the change under way waits.
    pub waits_for: Vec<WaitView>,
    /// Steps done, of the change under way.
    pub done: u64,
    /// Its steps.
    pub total: u64,
    /// Who decides the next layout: members that came with the newest one do not yet.
    pub deciders: Vec<String>,
    /// Members that are about to be left out.
    pub leaving: Vec<String>,
    /// Nodes that could become members.
    pub candidates: Vec<CandidateView>,
}

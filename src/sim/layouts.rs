//! The nemesis of layouts: while clients and the other nemesis go on, nodes join, leave, die and are replaced or
//! removed, weights and buckets' n change, changes are taken back; one after the other and on top of each other.
//!
//! It does what operators and machines do: starts processes on empty disks, ends others for good, and asks whatever node
//! answers for a layout. What it asks for may be refused, or lose against another; nothing here looks whether it was
//! wise. One thing it minds: a copy is lost (a disk given up, a record damaged, what was not flushed gone with the power)
//! only while no earlier loss is still being made good, for two of three copies cannot be lost by a store that keeps
//! every promise. For the same reason no bucket has fewer than two.

use std::collections::BTreeSet;
use std::ops::Bound::Unbounded;
use std::time::Duration;

use bytes::Bytes;

use super::backs::Backs;
use super::cluster::Cluster;
use super::net::Death;
use crate::cluster::{Known, Proposed, Standing};
use crate::env::Entropy;
use crate::kv::ReadOptions;
use crate::node::Node;
use crate::quorum::Level;
use crate::replica::name_of;
use crate::ring::buckets::{self, Wanted};
use crate::ring::change;
use crate::ring::risk::may_lose;
use crate::ring::{Layout, Member, planner};
use crate::storage::{Durability, Keyspace};
use crate::types::{Bucket, PartitionId, StoreId};

/// Machines at most, those that are empty or dead included.
pub const MACHINES: usize = 9;
/// Members at least: one more than replicas, so that one can always go.
const MEMBERS: usize = 4;
/// How long nothing moves where nothing is going to.
const CALM: Duration = Duration::from_secs(10);
/// How long one proposal is tried.
const PATIENCE: Duration = Duration::from_secs(3);

/// What it may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Move {
    Join,
    Leave,
    Remove,
    Replace,
    Weight,
    Replicas,
    Abort,
    DieJoining,
    Damage,
    PowerCut,
    RollBack,
}

const MOVES: [Move; 13] = [
    Move::Join,
    Move::Join,
    Move::Leave,
    Move::Remove,
    Move::Replace,
    Move::Weight,
    Move::Replicas,
    Move::Replicas,
    Move::Abort,
    Move::DieJoining,
    Move::Damage,
    Move::PowerCut,
    Move::RollBack,
];

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Churned {
    /// Layouts that were asked for and decided.
    pub layouts: u64,
    /// Of those, changes of a bucket's n.
    pub replicas: u64,
    /// Records damaged.
    pub damaged: u64,
    /// Machines that lost power with what they had not flushed.
    pub unflushed: u64,
    /// Directories that went back.
    pub rolled_back: u64,
}

/// Changes layouts, and the n of these buckets, at random for so long by the clock behind all clocks.
pub async fn churn(cluster: &Cluster, seed: u64, length: Duration, buckets: &[Bucket], backs: &Backs) -> Churned {
    let entropy = Entropy::seeded(seed ^ 0x006c_6179_6f75_7473);
    let (buckets, done) = (buckets.to_vec(), Churned::default());
    let (cluster, backs) = (cluster.clone(), backs.clone());
    let mut churn = Churn { cluster, entropy, buckets, backs, damaged: Vec::new(), done };
    let time = churn.cluster.time();
    let end = time.now() + u64::try_from(length.as_micros()).unwrap_or(u64::MAX);
    loop {
        let pause = Duration::from_millis(500 + churn.entropy.below(5000));
        time.sleep(pause).await;
        if time.now() >= end {
            return churn.done;
        }
        let what = MOVES[churn.pick(MOVES.len())];
        let decided = churn.make(what).await;
        churn.done.layouts += u64::from(decided);
    }
}

/// Waits until no change is under way or wished for, and what was given up is gone; who is no member then.
///
/// # Errors
/// What is still not so after a while: a change wedged.
pub async fn settled(cluster: &Cluster, most: Duration) -> Result<BTreeSet<usize>, String> {
    // What was proposed before may still be decided by whoever proposes next: nothing moves for a while.
    let version = || newest(cluster).map(|layout| layout.version());
    let mut quiet = false;
    for _ in 0..5 {
        if !cluster.until(most, || unsettled(cluster).is_none()).await {
            break;
        }
        let before = version();
        cluster.time().sleep(CALM).await;
        quiet = unsettled(cluster).is_none() && version() == before;
        if quiet {
            break;
        }
    }
    if quiet {
        Ok(outside(cluster))
    } else {
        let each = (0..cluster.len()).map(|machine| format!("\n    n{machine}: {}", describe(cluster, machine)));
        Err(format!("{}{}", unsettled(cluster).unwrap_or_default(), each.collect::<String>()))
    }
}

/// Where a machine's node stands with layouts, for people.
fn describe(cluster: &Cluster, machine: usize) -> String {
    let Some(node) = cluster.node(machine) else { return "no process".into() };
    let store = node.replica().identity().store();
    let standing = node.standing();
    let Some(known) = node.layouts().known() else { return format!("{store}: {standing:?}, knows no layout") };
    let own = known.view().own();
    format!(
        "{store}: {standing:?}, layouts {:?}, tracker {own:?}, in flight {:?}, read-only {}, unsynced {}, to merge from {:?}",
        known.live(),
        node.layouts().held().oldest(),
        node.replica().health().is_read_only(),
        node.replica().health().unsynced().len(),
        node.transfers().map(|transfers| transfers.missing().into_keys().collect::<Vec<_>>())
    )
}

/// The machines whose node, if any, is no member.
fn outside(cluster: &Cluster) -> BTreeSet<usize> {
    let Some(newest) = newest(cluster) else { return BTreeSet::new() };
    let inside = |machine: &usize| cluster.node(*machine).is_some_and(|node| is_in(&newest, *machine, &node));
    (0..cluster.len()).filter(|machine| !inside(machine)).collect()
}

/// Whether a machine's node is a member: one on a copy of a member's directory is none, whatever its store.
fn is_in(layout: &Layout, machine: usize, node: &Node) -> bool {
    let member = layout.member_by_store(node.replica().identity().store()).map(|index| layout.member(index));
    member.is_some_and(|member| Churn::machine_of(member) == Some(machine))
}

/// The newest layout that any node knows.
fn newest(cluster: &Cluster) -> Option<Layout> {
    let layouts = (0..cluster.len()).filter_map(|machine| cluster.node(machine)?.layouts().newest());
    layouts.max_by_key(Layout::version)
}

fn unsettled(cluster: &Cluster) -> Option<String> {
    let newest = newest(cluster)?;
    for machine in 0..cluster.len() {
        let Some(node) = cluster.node(machine) else { return Some(format!("n{machine} does not run")) };
        if !is_in(&newest, machine, &node) {
            if newest.member_by_store(node.replica().identity().store()).is_some() {
                // On a copy of a member's directory: whether anybody let it in is asked at the end.
                continue;
            }
            match node.standing() {
                Standing::Refused(_) => continue,
                other => return Some(format!("n{machine} is no member and does not know why: {other:?}")),
            }
        }
        let Some(known) = node.layouts().known() else { return Some(format!("n{machine} knows no layout")) };
        if known.newest() != &newest || known.chain.live().len() != 1 {
            let waits = known.view().waits_for();
            return Some(format!(
                "n{machine} knows layout {} of {}, live {:?}, waits for {waits:?}",
                known.newest().version(),
                newest.version(),
                known.live()
            ));
        }
        if known.chain.some_do_not_decide() || newest.leaving().next().is_some() {
            return Some(format!("layout {} is to be followed by another", newest.version()));
        }
        if let Some(key) = left_over(&node, &known) {
            return Some(format!("n{machine} still holds {key}, which it does not own"));
        }
    }
    None
}

/// A stored key that a node does not own.
fn left_over(node: &Node, known: &Known) -> Option<String> {
    let storage = node.replica().storage();
    let keys = storage.scan(Keyspace::Index, Unbounded, Unbounded).filter_map(|entry| Some(entry.ok()?.0));
    keys.into_iter().find(|stored| !is_owned(known, stored)).map(|stored| stored.escape_ascii().to_string())
}

/// Whether a node owns what is stored there under this key, in some live layout.
fn is_owned(known: &Known, stored: &Bytes) -> bool {
    let partition = stored.get(..4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
    let bucket = name_of(stored).map(|(id, _)| id.bucket);
    !partition.is_some_and(|partition| known.view().may_delete(PartitionId(partition), bucket.as_ref()))
}

/// A record that was damaged, and whose.
struct Damaged {
    machine: usize,
    store: StoreId,
    stored: Bytes,
}

struct Churn {
    cluster: Cluster,
    entropy: Entropy,
    /// Those whose n changes.
    buckets: Vec<Bucket>,
    backs: Backs,
    /// What has not been seen whole again.
    damaged: Vec<Damaged>,
    done: Churned,
}

impl Churn {
    fn pick(&self, bound: usize) -> usize {
        usize::try_from(self.entropy.below(bound.max(1) as u64)).unwrap_or(0)
    }

    fn any<T>(&self, mut of: Vec<T>) -> Option<T> {
        if of.is_empty() { None } else { Some(of.swap_remove(self.pick(of.len()))) }
    }

    /// A node that serves, to ask; not `except`.
    fn somebody(&self, except: Option<usize>) -> Option<Node> {
        let serving = (0..self.cluster.len())
            .filter(|machine| Some(*machine) != except)
            .filter_map(|machine| self.cluster.node(machine).filter(|node| node.standing() == Standing::Serving));
        self.any(serving.collect())
    }

    /// The machine on which a member's process is, or last was, by its name.
    fn machine_of(member: &Member) -> Option<usize> {
        member.name.strip_prefix('n')?.parse().ok()
    }

    /// Members of the newest layout that stay, with their machines.
    fn members(&self) -> Vec<(usize, Member)> {
        let Some(newest) = newest(&self.cluster) else { return Vec::new() };
        let members = newest.members().iter().filter(|member| member.weight > 0);
        members.filter_map(|member| Some((Self::machine_of(member)?, member.clone()))).collect()
    }

    /// Machines that are not in use: no member's, by anybody's account.
    fn spare(&self) -> Option<usize> {
        let mut used: BTreeSet<usize> = BTreeSet::new();
        for machine in 0..self.cluster.len() {
            let Some(node) = self.cluster.node(machine) else { continue };
            if let Some(known) = node.layouts().known() {
                let live = known.chain.live().iter().flat_map(Layout::members);
                used.extend(live.filter_map(Self::machine_of));
            }
            let refused = matches!(node.standing(), Standing::Refused(_));
            if !refused {
                used.insert(machine);
            }
        }
        let free: Vec<usize> = (0..self.cluster.len()).filter(|machine| !used.contains(machine)).collect();
        match self.any(free) {
            Some(machine) => Some(machine),
            None if self.cluster.len() < MACHINES => Some(self.cluster.add_machine(None)),
            None => None,
        }
    }

    /// Whether, as far as anybody can tell, no loss is still being made good.
    fn is_whole(&mut self) -> bool {
        let Some(newest) = newest(&self.cluster) else { return false };
        let cluster = &self.cluster;
        self.damaged.retain(|damaged| {
            let given_up = newest.member_by_store(damaged.store).is_none();
            let readable = cluster.node(damaged.machine).is_some_and(|node| {
                let replica = node.replica();
                replica.identity().store() == damaged.store
                    && replica.storage().get(Keyspace::Objects, &damaged.stored).is_ok()
                    && !replica.health().is_quarantined(&damaged.stored)
            });
            !given_up && !readable
        });
        self.damaged.is_empty()
            && self.backs.all_noticed()
            && newest.members().iter().all(|member| {
                let node = Self::machine_of(member).and_then(|machine| self.cluster.node(machine));
                node.is_some_and(|node| {
                    let known = node.layouts().known();
                    node.replica().identity().store() == member.store
                    && node.standing() == Standing::Serving
                    && node.replica().health().unsynced().is_empty()
                    && !node.replica().health().is_read_only()
                    // A removal that was begun may still be decided: then that disk is given up, too.
                    && node.layouts().pledged() <= newest.version()
                    && known.is_some_and(|known| *known.newest() == newest && known.chain.live().len() == 1)
                })
            })
    }

    async fn make(&mut self, what: Move) -> bool {
        match what {
            Move::Join => self.join().await.is_some(),
            Move::DieJoining => {
                let Some(machine) = self.join().await else { return false };
                self.cluster.time().sleep(Duration::from_millis(self.entropy.below(4000))).await;
                // It may be an owner like any other by now.
                let careless = self.cluster.setup().durability == Durability::Os;
                self.cluster.crash(machine, if careless { Death::Killed } else { Death::PowerCut });
                self.cluster.time().sleep(Duration::from_millis(self.entropy.below(6000))).await;
                // It comes back on what it had, or not before the end.
                if self.entropy.chance(0.5) {
                    drop(self.cluster.start(machine).await);
                }
                false
            }
            Move::Leave => {
                let members = self.members();
                if members.len() <= MEMBERS {
                    return false;
                }
                let Some((_, member)) = self.any(members) else { return false };
                self.propose(None, |known| change::leave(&known.chain, &[member.store].into()).ok()).await
            }
            Move::Weight => {
                let Some((_, chosen)) = self.any(self.members()) else { return false };
                let weight = 50 + 50 * u32::try_from(self.entropy.below(4)).unwrap_or(0);
                self.propose(None, |known| {
                    let mut members = known.newest().members().to_vec();
                    members.iter_mut().filter(|member| member.store == chosen.store).for_each(|it| it.weight = weight);
                    planner::plan(known.newest(), members).ok()
                })
                .await
            }
            Move::Replicas => self.replicas().await,
            Move::Damage => {
                self.damage().await;
                false
            }
            Move::PowerCut => {
                self.power_cut().await;
                false
            }
            Move::RollBack => {
                self.roll_back().await;
                false
            }
            Move::Abort => self.propose(None, |known| change::abort(&known.chain, &BTreeSet::new()).ok()).await,
            Move::Remove => self.remove().await,
            Move::Replace => self.replace().await,
        }
    }

    /// A process on an empty disk, which asks to be taken in.
    async fn join(&self) -> Option<usize> {
        let machine = self.spare()?;
        self.cluster.crash(machine, Death::Killed);
        self.cluster.disk(machine, |disk| disk.wipe());
        self.cluster.start(machine).await.ok().map(|()| machine)
    }

    /// A machine burns down, and an operator takes its member out.
    async fn remove(&mut self) -> bool {
        let members = self.members();
        if members.len() <= MEMBERS || !self.is_whole() {
            return false;
        }
        let Some((machine, member)) = self.any(members) else { return false };
        self.cluster.crash(machine, Death::PowerCut);
        self.cluster.time().sleep(Duration::from_millis(self.entropy.below(3000))).await;
        let gone = BTreeSet::from([member.store]);
        let removed = self.propose(Some(machine), |known| {
            let lost = may_lose(&known.chain, &gone, &BTreeSet::new(), &[]);
            change::skip(&known.chain, &gone).ok().filter(|_| lost.is_empty())
        });
        let removed = removed.await;
        // It was not taken out, or the machine was saved after all: its process finds out which.
        if !removed || self.entropy.chance(0.3) {
            drop(self.cluster.start(machine).await);
        }
        removed
    }

    /// A machine comes back with an empty disk, and replaces itself.
    async fn replace(&mut self) -> bool {
        if !self.is_whole() {
            return false;
        }
        let Some((machine, _)) = self.any(self.members()) else { return false };
        self.cluster.crash(machine, Death::PowerCut);
        self.cluster.disk(machine, |disk| disk.wipe());
        self.cluster.time().sleep(Duration::from_millis(self.entropy.below(2000))).await;
        self.cluster.start(machine).await.is_ok()
    }

    /// A bucket gets another n, two to five.
    async fn replicas(&mut self) -> bool {
        let Some(bucket) = self.any(self.buckets.clone()) else { return false };
        let n = 2 + u8::try_from(self.entropy.below(4)).unwrap_or(0);
        let decided = self.propose(None, |known| {
            let now = known.newest().settings(&bucket);
            let wanted = Wanted { n, n_in_region: Vec::new(), mode: now.mode, role: now.role };
            buckets::set(known.newest(), &bucket, &wanted).ok().flatten()
        });
        let decided = decided.await;
        self.done.replicas += u64::from(decided);
        decided
    }

    /// One record of what a member owns fails its checksum; somebody reads it, sooner or later.
    async fn damage(&mut self) {
        if !self.is_whole() {
            return;
        }
        let Some((machine, member)) = self.any(self.members()) else { return };
        let Some(node) = self.cluster.node(machine) else { return };
        let Some(known) = node.layouts().known() else { return };
        let storage = node.replica().storage();
        let all = storage.scan(Keyspace::Objects, Unbounded, Unbounded).filter_map(|entry| Some(entry.ok()?.0));
        let owned = all.enumerate().filter(|(_, stored)| is_owned(&known, stored));
        let Some((at, _)) = self.any(owned.collect()) else { return };
        let Some(stored) = self.cluster.damage(machine, at as u64) else { return };
        let Some((id, _)) = name_of(&stored) else { return };
        self.damaged.push(Damaged { machine, store: member.store, stored });
        self.done.damaged += 1;
        self.cluster.time().sleep(Duration::from_millis(self.entropy.below(2000))).await;
        for _ in 0..3 {
            if let Some(kv) = self.cluster.kv(machine) {
                drop(kv.get(id.clone(), ReadOptions { r: Level::Quorum, ..ReadOptions::default() }).await);
            }
            self.cluster.time().sleep(Duration::from_millis(200)).await;
        }
    }

    /// A member's machine loses power for a moment: with `durability = os` what it had not flushed is gone.
    async fn power_cut(&mut self) {
        if !self.is_whole() {
            return;
        }
        let Some((machine, _)) = self.any(self.members()) else { return };
        let careless = self.cluster.setup().durability == Durability::Os;
        self.done.unflushed += u64::from(careless && self.cluster.disk(machine, |disk| disk.unsynced()) > 0);
        self.cluster.crash(machine, Death::PowerCut);
        self.cluster.time().sleep(Duration::from_millis(self.entropy.below(3000))).await;
        drop(self.cluster.start(machine).await);
    }

    /// A member's directory goes back to a copy made at a clean stop, one life ago. Until its node has been told nothing
    /// else is lost.
    async fn roll_back(&mut self) {
        if !self.is_whole() {
            return;
        }
        let Some((machine, _)) = self.any(self.members()) else { return };
        let (cluster, time) = (self.cluster.clone(), self.cluster.time());
        if cluster.stop(machine).await.is_err() {
            drop(cluster.start(machine).await);
            return;
        }
        self.backs.copied(machine);
        cluster.disk(machine, |disk| disk.keep_copy());
        time.sleep(Duration::from_millis(self.entropy.below(1000))).await;
        drop(cluster.start(machine).await);
        time.sleep(Duration::from_millis(self.entropy.below(6000))).await;
        // What was lost elsewhere meanwhile this copy may be needed for.
        if self.is_whole() {
            cluster.crash(machine, Death::Killed);
            self.backs.went_back(machine);
            cluster.disk(machine, |disk| disk.roll_back());
            self.done.rolled_back += 1;
            time.sleep(Duration::from_millis(self.entropy.below(2000))).await;
        }
        drop(cluster.start(machine).await);
    }

    /// Has somebody propose what `next` makes of what it knows.
    async fn propose(&self, except: Option<usize>, next: impl Fn(&Known) -> Option<Layout>) -> bool {
        let Some(node) = self.somebody(except) else { return false };
        let Some(layout) = node.layouts().known().and_then(|known| next(&known)) else { return false };
        matches!(node.layouts().propose(layout, PATIENCE).await, Ok(Proposed::Won { .. }))
    }
}

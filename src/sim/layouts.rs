//! The nemesis of layouts: while clients and the other nemesis go on, nodes join, leave, die and are replaced or
//! removed, weights change, changes are taken back; one after the other and on top of each other.
//!
//! It does what operators and machines do: starts processes on empty disks, ends others for good, and asks whatever node
//! answers for a layout. What it asks for may be refused, or lose against another; nothing here looks whether it was
//! wise. One thing it minds: a disk is given up only while no earlier loss is still being made good, for two of three
//! copies cannot be lost by a store that keeps every promise.

use std::collections::BTreeSet;
use std::time::Duration;

use super::cluster::Cluster;
use super::net::Death;
use crate::cluster::{Known, Proposed, Standing};
use crate::env::Entropy;
use crate::node::Node;
use crate::ring::change;
use crate::ring::risk::may_lose;
use crate::ring::{Layout, Member, planner};
use crate::storage::Keyspace;
use crate::types::PartitionId;

/// Machines at most, those that are empty or dead included.
const MACHINES: usize = 9;
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
    Abort,
    DieJoining,
}

const MOVES: [Move; 8] =
    [Move::Join, Move::Join, Move::Leave, Move::Remove, Move::Replace, Move::Weight, Move::Abort, Move::DieJoining];

/// Changes layouts at random until `end`, by the clock behind all clocks; how many were decided.
pub async fn churn(cluster: &Cluster, seed: u64, length: Duration) -> u64 {
    let churn = Churn { cluster: cluster.clone(), entropy: Entropy::seeded(seed ^ 0x006c_6179_6f75_7473) };
    let end = cluster.time().now() + u64::try_from(length.as_micros()).unwrap_or(u64::MAX);
    let mut decided = 0;
    loop {
        let pause = Duration::from_millis(500 + churn.entropy.below(5000));
        cluster.time().sleep(pause).await;
        if cluster.time().now() >= end {
            return decided;
        }
        let what = MOVES[churn.pick(MOVES.len())];
        decided += u64::from(churn.make(what).await);
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
    let inside = |machine: &usize| {
        let node = cluster.node(*machine);
        node.is_some_and(|node| newest.member_by_store(node.replica().identity().store()).is_some())
    };
    (0..cluster.len()).filter(|machine| !inside(machine)).collect()
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
        let store = node.replica().identity().store();
        if newest.member_by_store(store).is_none() {
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
    use std::ops::Bound::Unbounded;
    let storage = node.replica().storage();
    let keys = storage.scan(Keyspace::Index, Unbounded, Unbounded).filter_map(|entry| Some(entry.ok()?.0));
    let stray = |stored: &bytes::Bytes| {
        let partition = stored.get(..4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
        let bucket = crate::replica::name_of(stored).map(|(id, _)| id.bucket);
        partition.is_some_and(|partition| known.view().may_delete(PartitionId(partition), bucket.as_ref()))
    };
    keys.into_iter().find(stray).map(|stored| stored.escape_ascii().to_string())
}

struct Churn {
    cluster: Cluster,
    entropy: Entropy,
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
    fn is_whole(&self) -> bool {
        let Some(newest) = newest(&self.cluster) else { return false };
        newest.members().iter().all(|member| {
            let node = Self::machine_of(member).and_then(|machine| self.cluster.node(machine));
            node.is_some_and(|node| {
                let known = node.layouts().known();
                node.replica().identity().store() == member.store
                    && node.standing() == Standing::Serving
                    && node.replica().health().unsynced().is_empty()
                    // A removal that was begun may still be decided: then that disk is given up, too.
                    && node.layouts().pledged() <= newest.version()
                    && known.is_some_and(|known| *known.newest() == newest && known.chain.live().len() == 1)
            })
        })
    }

    async fn make(&self, what: Move) -> bool {
        match what {
            Move::Join => self.join().await.is_some(),
            Move::DieJoining => {
                let Some(machine) = self.join().await else { return false };
                self.cluster.time().sleep(Duration::from_millis(self.entropy.below(4000))).await;
                self.cluster.crash(machine, Death::PowerCut);
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
    async fn remove(&self) -> bool {
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
    async fn replace(&self) -> bool {
        if !self.is_whole() {
            return false;
        }
        let Some((machine, _)) = self.any(self.members()) else { return false };
        self.cluster.crash(machine, Death::PowerCut);
        self.cluster.disk(machine, |disk| disk.wipe());
        self.cluster.time().sleep(Duration::from_millis(self.entropy.below(2000))).await;
        self.cluster.start(machine).await.is_ok()
    }

    /// Has somebody propose what `next` makes of what it knows.
    async fn propose(&self, except: Option<usize>, next: impl Fn(&Known) -> Option<Layout>) -> bool {
        let Some(node) = self.somebody(except) else { return false };
        let Some(layout) = node.layouts().known().and_then(|known| next(&known)) else { return false };
        matches!(node.layouts().propose(layout, PATIENCE).await, Ok(Proposed::Won { .. }))
    }
}

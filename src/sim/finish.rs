//! The end of every run: heals, ends every process and starts it again, waits until all is well, reads everything at
//! R = all through every node, and compares what the replicas hold, and what gossip has told each of all.
//!
//! **Who is out.** A wiped node stays out until a layout change takes it in again, and a process on a copy of a directory
//! was never in. R = all is then what is left of an object's owners: everything acknowledged has to be there, and on
//! every owner that is left. Who is out must still be out at the end, and hold nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::check::{Violation, converge};
use super::cluster::Cluster;
use super::layouts::settled;
use super::net::Death;
use super::workload::Runner;
use crate::causality::decode_head;
use crate::cluster::{Heard, Standing};
use crate::env::{Clock, Entropy};
use crate::kv::{NodeView as _, ReadOptions, TombstoneAdmin as _, WriteOptions};
use crate::quorum::Level;
use crate::replica::name_of;
use crate::types::{ObjectId, Stamp, Wall};

/// How long the healed cluster may take until nobody is without a vote.
const PATIENCE: Duration = Duration::from_secs(60);

fn ill(rule: &'static str, about: &str, detail: String) -> Violation {
    Violation { rule, about: about.to_owned(), op: None, detail }
}

/// The end of a run, all of whose machines are members.
pub async fn finish(cluster: &Cluster, runner: &Runner, entropy: &Entropy) -> Vec<Violation> {
    finish_without(cluster, runner, entropy, &BTreeSet::new()).await
}

/// The end of a run in which the directories of the machines in `out` were wiped, or are copies.
pub async fn finish_without(
    cluster: &Cluster,
    runner: &Runner,
    entropy: &Entropy,
    out: &BTreeSet<usize>,
) -> Vec<Violation> {
    heal(cluster, entropy).await;
    finish_healed(cluster, runner, out).await
}

/// The end of a run in which layouts changed: whoever is a member by then is in, once nothing moves any more.
pub async fn finish_settled(cluster: &Cluster, runner: &Runner, entropy: &Entropy) -> Vec<Violation> {
    heal(cluster, entropy).await;
    match settled(cluster, 3 * PATIENCE).await {
        Ok(out) => finish_healed(cluster, runner, &out).await,
        Err(why) => vec![ill("wedged", "cluster", format!("{:?} after the heal: {why}", 3 * PATIENCE))],
    }
}

async fn finish_healed(cluster: &Cluster, runner: &Runner, out: &BTreeSet<usize>) -> Vec<Violation> {
    let end = End { cluster, runner, out };
    if !end.is_well().await {
        return vec![ill("not-well", "cluster", format!("{PATIENCE:?} after the heal: {:?}", end.ills()))];
    }
    // What a node says of itself travels with its heartbeats.
    cluster.time().sleep(Duration::from_secs(1)).await;
    // What owners missed and others noted is with them by then.
    if !cluster.until(PATIENCE, || end.hints().is_empty()).await {
        return vec![ill("hints-left", "cluster", format!("{PATIENCE:?} after all was well: {:?}", end.hints()))];
    }
    let mut violations = end.repeat().await;
    // Damage that nobody has read yet comes to light, and is mended.
    for _ in 0..5 {
        let unread = end.read_all().await;
        end.is_well().await;
        if unread == 0 {
            break;
        }
    }
    violations.extend(end.collected().await);
    let nodes: Vec<u32> = end.members().filter_map(|machine| u32::try_from(machine).ok()).collect();
    runner.last_reads(u32::MAX, &nodes, |key| end.left_of(&runner.id(key))).await;
    // Answers do not wait for the slowest owner.
    cluster.time().sleep(Duration::from_secs(10)).await;
    violations.extend(end.compare());
    violations.extend(end.views().await);
    violations.extend(end.let_in());
    violations
}

async fn heal(cluster: &Cluster, entropy: &Entropy) {
    cluster.calm();
    cluster.net().heal();
    for machine in 0..cluster.len() {
        cluster.resume(machine);
        cluster.clock(machine).correct();
    }
    cluster.time().sleep(Duration::from_secs(3)).await;
    for machine in 0..cluster.len() {
        cluster.disk(machine, |disk| disk.heal());
        // Clean or not; a stop that fails leaves no clean mark, which is what a crash does.
        if entropy.chance(0.5) {
            drop(cluster.stop(machine).await);
        } else {
            cluster.crash(machine, Death::Killed);
        }
        cluster.start(machine).await.unwrap_or_else(|failed| panic!("node {machine} does not start: {failed}"));
    }
}

struct End<'a> {
    cluster: &'a Cluster,
    runner: &'a Runner,
    out: &'a BTreeSet<usize>,
}

impl End<'_> {
    fn members(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.cluster.len()).filter(|machine| !self.out.contains(machine))
    }

    fn ills(&self) -> Vec<String> {
        self.cluster.ills_without(self.out)
    }

    async fn is_well(&self) -> bool {
        self.cluster.until(PATIENCE, || self.ills().is_empty()).await
    }

    /// The hints that wait though nothing is in their way: whom they are for is up, or a member no more.
    fn hints(&self) -> Vec<String> {
        let stores = |machine| Some(self.cluster.node(machine)?.replica().identity().store());
        let up: BTreeSet<_> = self.members().filter_map(stores).collect();
        let mut waits = Vec::new();
        for machine in self.members() {
            let Some(node) = self.cluster.node(machine) else { continue };
            let Some(newest) = node.layouts().newest() else { continue };
            for (target, waiting) in node.replica().hints().targets() {
                if up.contains(&target) || newest.member_by_store(target).is_none() {
                    waits.push(format!("n{machine} for {target}: {waiting:?}"));
                }
            }
        }
        waits
    }

    /// Where deletions are collected, all are gone once nothing is in the way; but those that a clock dated to the future.
    async fn collected(&self) -> Option<Violation> {
        let linger = self.cluster.setup().linger?;
        let left = |machine: usize| {
            let records = self.cluster.audit(machine).records;
            let deleted = |record: &Bytes| {
                let head = decode_head(record);
                head.is_ok_and(|head| {
                    let written = head.context.greatest_stamp().map_or(Wall(0), Stamp::wall);
                    let ripe = written + 2 * linger <= Clock::wall(&*self.cluster.clock(machine));
                    ripe && head.siblings.iter().all(|sibling| sibling.is_tombstone)
                })
            };
            let unfinished = self.cluster.node(machine).map_or(0, |node| node.replica().unfinished_rounds().len());
            records.values().filter(|record| deleted(record)).count() + unfinished
        };
        if self.cluster.until(3 * PATIENCE, || self.members().all(|machine| left(machine) == 0)).await {
            return None;
        }
        let say = |machine| {
            let view = self.cluster.node(machine).map(|node| node.tombstones_view());
            format!("n{machine} holds {}: {view:?}", left(machine))
        };
        let detail: Vec<String> = self.members().map(say).collect();
        Some(ill("uncollected", "cluster", format!("{:?} after all was well: {detail:?}", 3 * PATIENCE)))
    }

    /// How many owners of an object are not out.
    fn left_of(&self, id: &ObjectId) -> u8 {
        let node = self.members().find_map(|machine| self.cluster.node(machine));
        let owners = node.and_then(|node| node.owners(id).ok()).map(|owners| owners.owners).unwrap_or_default();
        let gone: BTreeSet<String> = self.out.iter().map(|machine| format!("n{machine}")).collect();
        u8::try_from(owners.iter().filter(|owner| !gone.contains(&owner.node)).count()).unwrap_or(u8::MAX)
    }

    /// A write and its repetition through another node, under one Idempotency-Key, are one write.
    async fn repeat(&self) -> Vec<Violation> {
        let id = self.runner.id("repeated");
        let options = || WriteOptions {
            w: Level::Count(self.left_of(&id)),
            idempotency_key: Some(Bytes::from_static(b"once")),
            timeout: Duration::from_secs(5),
            ..WriteOptions::default()
        };
        let mut replayed = Vec::new();
        for machine in self.members().take(2) {
            let Some(kv) = self.cluster.kv(machine) else { continue };
            match kv.put(id.clone(), "once".into(), options()).await {
                Ok(answer) => replayed.push(answer.replayed),
                Err(error) => {
                    return vec![ill("repeated", "repeated", format!("refused on a healed cluster: {error}"))];
                }
            }
        }
        if replayed == [false, true] {
            return Vec::new();
        }
        vec![ill("repeated", "repeated", format!("replayed: {replayed:?}, not first no, then yes"))]
    }

    /// Reads every object of the history at R = all through the first node; how many could not be read.
    async fn read_all(&self) -> usize {
        let mut unread = 0;
        for key in self.runner.keys() {
            let kv = self.members().next().and_then(|machine| self.cluster.kv(machine));
            let Some(kv) = kv else { continue };
            let id = self.runner.id(&key);
            let r = Level::Count(self.left_of(&id));
            let options = ReadOptions { r, timeout: Duration::from_secs(5), ..ReadOptions::default() };
            if kv.get(id, options).await.is_err() {
                unread += 1;
            }
        }
        unread
    }

    /// What each store says about its objects, and whether all that are left hold the same.
    fn compare(&self) -> Vec<Violation> {
        let mut violations = Vec::new();
        let mut dumps = BTreeMap::new();
        for machine in self.members() {
            let audit = self.cluster.audit(machine);
            violations.extend(audit.wrong.into_iter().map(|wrong| ill("audit", &format!("n{machine}"), wrong)));
            let records = audit.records.into_iter().map(|(key, record)| (key.to_vec(), record.to_vec())).collect();
            dumps.insert(format!("n{machine}"), records);
        }
        let owners = |stored: &[u8]| {
            name_of(&Bytes::copy_from_slice(stored)).map_or(0, |(id, _)| usize::from(self.left_of(&id)))
        };
        violations.extend(converge(&dumps, owners));
        violations
    }

    /// Whoever is in knows the same of everybody who is in, and of each what it says of itself.
    async fn views(&self) -> Option<Violation> {
        let views = || -> Vec<_> {
            let heard = |machine| self.cluster.node(machine).map(|node| node.heard());
            self.members().map(|machine| (machine, heard(machine).unwrap_or_default())).collect()
        };
        let first =
            |views: &[(usize, Arc<Heard>)]| views.first().map(|(_, heard)| Arc::clone(heard)).unwrap_or_default();
        let equal = |views: &[(usize, Arc<Heard>)]| {
            let first = first(views);
            first.nodes.len() >= views.len() && views.iter().all(|(_, heard)| *heard == first)
        };
        if self.cluster.until(PATIENCE, || equal(&views())).await {
            return None;
        }
        let views = views();
        let first = first(&views);
        let other = views.iter().find(|(_, heard)| *heard != first);
        let detail = match other {
            Some((machine, heard)) => format!("n{machine} has heard {heard:?}, another {first:?}"),
            None => format!("{} of {} are known: {first:?}", first.nodes.len(), views.len()),
        };
        Some(ill("views-differ", "cluster", detail))
    }

    /// Who was to stay out and did not.
    fn let_in(&self) -> Vec<Violation> {
        let serves = |machine: &usize| {
            let node = self.cluster.node(*machine);
            node.is_some_and(|node| node.standing() == Standing::Serving && node.replica().identity().may_vote())
        };
        let out = self.out.iter().filter(|machine| serves(machine));
        out.map(|machine| ill("let-in", &format!("n{machine}"), "it serves, and is no member".to_owned())).collect()
    }
}

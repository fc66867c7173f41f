//! What an ex-owner still holds, and when it goes.
//!
//! A node that owns a bucket's objects in a partition in no live layout deletes its copy only after a last comparison:
//! keys and digests against those of the newest layout's owners. What an owner holds alike is covered; the rest is sent
//! to all of them, and is covered once a majority has merged it. Then it begins a new tenure of the partition (what it
//! minted there it is about to forget: I-MINT) and deletes exactly what was compared, unless it has changed, or the
//! partition has come back meanwhile.
//!
//! It waits until one layout alone is live. Bounds: one partition and `LIST` keys at a time; a round every few seconds
//! while something is left, and every minute all the same.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tracing::{debug, info, warn};

use super::worker::{Roster, Worker};
use crate::cluster::{Known, LayoutKeeper};
use crate::env::Env;
use crate::peers::Peers;
use crate::replica::{Fault, Place, Replica, name_of};
use crate::ring::live::holders;
use crate::ring::sync::placements;
use crate::storage::Keyspace;
use crate::transport::messages::layouts::ListDigests;
use crate::transport::messages::{Ask, Refusal, Target, Tell, Write};
use crate::types::{Bucket, Digest, PartitionId, StoreId};

const CALL_FOR: Duration = Duration::from_secs(5);
/// Keys compared at once.
const LIST: usize = 500;
/// Between two rounds while something is left.
const ROUND: Duration = Duration::from_secs(2);
/// Between two rounds where nothing was left.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

struct Leftovers {
    env: Env,
    replica: Replica,
    peers: Peers,
    keeper: LayoutKeeper,
    worker: Worker,
}

/// Begins to look for what is left over, in a task of the node.
pub fn start(env: &Env, replica: Replica, peers: Peers, keeper: LayoutKeeper, roster: &Roster) {
    let about = "Deletes what layouts have taken away from this node, once its owners hold all of it.";
    let worker = roster.register("leftovers", about, None);
    let leftovers = Leftovers { env: env.clone(), replica, peers, keeper, worker };
    env.tasks.spawn(leftovers.run());
}

impl Leftovers {
    async fn run(self) {
        let (mut changes, mut bell) = (self.keeper.changes(), self.worker.bell());
        let (mut cleared, mut looked) = (0, self.env.clock.now());
        loop {
            self.worker.allowed().await;
            changes.mark_unchanged();
            if self.env.clock.now().since(looked) >= LOOK_AGAIN {
                // Whatever came in meanwhile, and however.
                cleared = 0;
            }
            let known = self.keeper.known().filter(|known| settled(known) && known.newest().version() != cleared);
            let mut left = false;
            if let Some(known) = known {
                looked = self.env.clock.now();
                let _run = self.worker.begin();
                match self.round(&known).await {
                    Ok(()) => cleared = known.newest().version(),
                    Err(why) => {
                        debug!(why, "what is left over here is not covered by its owners yet");
                        self.worker.failed(why);
                        left = true;
                    }
                }
            }
            let look_again = self.env.clock.sleep(if left { ROUND } else { LOOK_AGAIN });
            tokio::select! {
                biased;
                () = look_again => {}
                () = bell.rung() => cleared = 0,
                changed = changes.changed(), if !left => if changed.is_err() { return },
            }
        }
    }

    /// Goes through what this node does not own; an error if something has to stay for now.
    async fn round(&self, known: &Known) -> Result<(), String> {
        let classes = placements(known.chain.live());
        let view = known.view();
        let mut kept = None;
        let grid = known.newest().grid();
        for partition in grid.partitions() {
            self.worker.progress(u64::from(partition.0), u64::from(grid.q()));
            self.worker.allowed().await;
            if classes.iter().any(|bucket| view.may_delete(partition, bucket.as_ref())) {
                match self.clear(known, partition).await {
                    Ok(0) => {}
                    Ok(objects) => info!(%partition, objects, "deleted: its owners hold all of it"),
                    Err(why) => kept = Some(why),
                }
            }
        }
        kept.map_or(Ok(()), Err)
    }

    async fn clear(&self, known: &Known, partition: PartitionId) -> Result<u64, String> {
        let told = |fault: Fault| fault.to_string();
        let (mut after, mut deleted, mut begun, mut changed) = (Bytes::new(), 0, false, false);
        loop {
            let page = self.replica.digests(partition, after.clone(), Bytes::new(), LIST).await.map_err(told)?;
            let mine = |stored: &Bytes| {
                let bucket = name_of(stored).map(|(id, _)| id.bucket);
                bucket.filter(|bucket| known.view().may_delete(partition, Some(bucket)))
            };
            let left: Vec<(Bytes, Digest)> =
                page.entries.iter().filter(|(stored, _)| mine(stored).is_some()).cloned().collect();
            if !left.is_empty() {
                let covered = self.cover(known, partition, &after, left).await?;
                let sure = covered.len() as u64;
                if !begun {
                    self.replica.new_tenures(vec![partition]).await.map_err(told)?;
                    begun = true;
                }
                let keeper = self.keeper.clone();
                let spared = move |bucket: &Bucket| {
                    keeper.known().is_none_or(|now| !settled(&now) || !now.view().may_delete(partition, Some(bucket)))
                };
                let done = self.replica.forget_covered(partition, covered, Arc::new(spared));
                let done = done.await.map_err(told)?;
                changed |= done < sure;
                deleted += done;
            }
            match page.next {
                Some(next) => after = next,
                // What came late is compared anew.
                None if changed => return Err("something changed while it was compared".into()),
                None => return Ok(deleted),
            }
        }
    }

    /// Makes sure that the owners hold these, and returns those of which that is sure: what cannot be read here stays.
    async fn cover(
        &self,
        known: &Known,
        partition: PartitionId,
        after: &Bytes,
        left: Vec<(Bytes, Digest)>,
    ) -> Result<Vec<(Bytes, Digest)>, String> {
        let mut covered = Vec::with_capacity(left.len());
        let wanted: BTreeSet<Bytes> = left.iter().map(|(stored, _)| stored.clone()).collect();
        let to = wanted.last().cloned().unwrap_or_default();
        let buckets: BTreeSet<Bucket> = left.iter().filter_map(|(stored, _)| Some(name_of(stored)?.0.bucket)).collect();
        let owners_of =
            |bucket: &Bucket| -> Vec<StoreId> { holders(known.newest(), partition, Some(bucket)).stores().collect() };
        let owners: BTreeSet<StoreId> = buckets.iter().flat_map(owners_of).collect();
        let lists = join_all(owners.iter().map(|owner| self.list(known, *owner, partition, after, &to, &wanted))).await;
        let held: Vec<(StoreId, BTreeSet<(Bytes, Digest)>)> =
            owners.iter().copied().zip(lists).filter_map(|(owner, list)| Some((owner, list?))).collect();
        for (stored, digest) in left {
            let Some((id, generation)) = name_of(&stored) else { continue };
            let owners = owners_of(&id.bucket);
            let alike = |owner: &StoreId| {
                held.iter().any(|(from, list)| from == owner && list.contains(&(stored.clone(), digest)))
            };
            if owners.iter().any(alike) {
                covered.push((stored, digest));
                continue;
            }
            let place = Place::of(known.newest().grid(), &id, generation);
            // Before it is read.
            let epoch = self.replica.leftover_epoch(partition).0;
            let record = self.replica.storage().get(Keyspace::Objects, &place.stored);
            let record = match record {
                Ok(Some(record)) => record,
                Ok(None) => continue,
                Err(failed) => {
                    warn!(%partition, %failed, "what nobody else holds of this kind cannot be read here: it stays");
                    continue;
                }
            };
            let target = Target { bucket: id.bucket.as_str().to_owned(), generation, key: id.key.as_bytes().clone() };
            let write = Write { target, record, epoch, flush: true, repair: true };
            let version = known.newest().version();
            let sent = owners.iter().map(|owner| self.peers.call(*owner, Ask::Write(write.clone()), version, CALL_FOR));
            let told: Vec<Tell> = join_all(sent).await.into_iter().filter_map(|reply| reply.ok()?.tell).collect();
            // A round of collection waits until nobody has anything left over: what is there all the same came back with an
            // old directory, and was covered before.
            if told.iter().any(|told| matches!(told, Tell::Refused(refused) if refused.why() == Refusal::Sealed)) {
                covered.push((stored, digest));
                continue;
            }
            let took = |told: &&Tell| matches!(told, Tell::Written(written) if written.layouts.contains(&version));
            let merged = told.iter().filter(took).count();
            if merged < owners.len() / 2 + 1 {
                return Err(format!("{merged} of {} owners took in what they lacked", owners.len()));
            }
            covered.push((stored, digest));
        }
        Ok(covered)
    }

    /// What an owner holds of these keys, all in one range; none if it cannot be asked.
    async fn list(
        &self,
        known: &Known,
        owner: StoreId,
        partition: PartitionId,
        after: &Bytes,
        to: &Bytes,
        wanted: &BTreeSet<Bytes>,
    ) -> Option<BTreeSet<(Bytes, Digest)>> {
        let (mut held, mut after) = (BTreeSet::new(), after.clone());
        loop {
            let most = u32::try_from(2 * LIST).unwrap_or(u32::MAX);
            let list = ListDigests { partition: partition.0, after, to: to.clone(), most };
            let version = known.newest().version();
            let reply = self.peers.call(owner, Ask::ListDigests(list), version, CALL_FOR).await.ok()?;
            let Some(Tell::Digests(digests)) = reply.tell else { return None };
            let asked = digests.entries.into_iter().filter(|of| wanted.contains(&of.stored));
            held.extend(asked.filter_map(|of| Some((of.stored, Digest::from_slice(&of.digest)?))));
            match digests.next {
                Some(next) => after = next,
                None => return Some(held),
            }
        }
    }
}

/// Whether no change is under way, as far as is known here.
fn settled(known: &Known) -> bool {
    known.chain.live().len() == 1 && known.is_member()
}

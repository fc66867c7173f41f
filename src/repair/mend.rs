//! Mending: a key that could not be read, or a partition whose state is in doubt, is merged from every other owner.
//!
//! Only *every* other owner will do: what this copy acknowledged together with one of them may be unknown to the rest.
//! While one cannot be asked, the key answers *error* and the partition `syncing`: neither is a vote for "not found"
//! (I-ACK, I-OVERLAP). An owner that cannot read its own copy has nothing to give and has been asked; but where another
//! copy is damaged and nobody holds one, nothing is released: that takes an operator.
//!
//! Before any copy is read, every owner, this node among them, decides what it is counting votes for in that partition
//! (`Ask::Settle`): a vote must not outlive the copy that it stands for (decision 0024, `tests/models/mend.rs`).
//!
//! A source that was copied is not copied again until the partition is synced: what is acknowledged later reaches this
//! node by the write path. Where the partition is marked as unsynced once more (a second gap on the disk), every source is
//! copied again.
//!
//! What nobody holds is given up where an operator says so ([`Mending::accept_loss`]): the key reads as never written.
//!
//! Bounds: what is counted ends by the deadlines of its operations; one worker; one page of 1 MiB and 64 merges under way per source; tries again every 250 ms to 5 s.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use tracing::{error, info, warn};

use super::worker::{Roster, Worker};
use crate::causality::{MergeRules, Object, decode_object, encode_object};
use crate::cluster::LayoutKeeper;
use crate::collect::{Epoch, Lesson};
use crate::env::Env;
use crate::peers::Peers;
use crate::replica::{Cause, Fault, MergeRequest, Place, Replica, name_of};
use crate::ring::live::holders;
use crate::ring::sync::placements;
use crate::ring::{Layout, Mode};
use crate::transport::messages::collect::Collect;
use crate::transport::messages::{Ask, Fetch, Held, Page, Read, Refusal, Settle, Target, Tell};
use crate::types::{Bucket, Incarnation, Key, ObjectId, PartitionId, StoreId};

const CALL_FOR: Duration = Duration::from_secs(5);
const PAGE: u32 = 1 << 20;
/// Merges under way at once, per source.
const MERGES: usize = 64;
const GIVE_WAY: Duration = Duration::from_millis(20);
const AGAIN_AT_LEAST: Duration = Duration::from_millis(250);
const AGAIN_AT_MOST: Duration = Duration::from_secs(5);

/// What the mending worker has done.
#[derive(Debug, Default)]
pub struct Mending {
    /// Keys released from quarantine.
    pub keys: AtomicU64,
    /// Partitions completely synced.
    pub partitions: AtomicU64,
    /// Keys given up: nobody holds what was in them.
    pub given_up: AtomicU64,
    /// Partitions in which keys may be given up, with how many said so who have not taken it back.
    accepted: Mutex<BTreeMap<PartitionId, usize>>,
}

impl Mending {
    /// Keys of a partition that nobody holds may be given up, for as long as this lives, or another of the same partition.
    #[must_use]
    pub fn accept_loss(self: &Arc<Self>, partition: PartitionId) -> Accepted {
        *self.accepted().entry(partition).or_insert(0) += 1;
        Accepted { mending: Arc::clone(self), partition }
    }

    fn accepts_loss(&self, partition: PartitionId) -> bool {
        self.accepted().contains_key(&partition)
    }

    fn accepted(&self) -> MutexGuard<'_, BTreeMap<PartitionId, usize>> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody's word that keys of a partition may be given up; dropped, it is taken back.
#[derive(Debug)]
pub struct Accepted {
    mending: Arc<Mending>,
    partition: PartitionId,
}

impl Drop for Accepted {
    fn drop(&mut self) {
        let mut accepted = self.mending.accepted();
        if let Some(count) = accepted.get_mut(&self.partition) {
            *count -= 1;
            if *count == 0 {
                accepted.remove(&self.partition);
            }
        }
    }
}

struct Mender {
    env: Env,
    replica: Replica,
    peers: Peers,
    keeper: LayoutKeeper,
    window: Duration,
    worker: Worker,
    done: Arc<Mending>,
    copied: Mutex<Copied>,
}

/// What was copied, of partitions that are not synced yet, since the mark that made them so, in this incarnation and under
/// these live layouts: under others it may be others that have to be.
#[derive(Debug)]
struct Copied {
    incarnation: Incarnation,
    live: Vec<u64>,
    whole: BTreeMap<PartitionId, (u64, BTreeSet<StoreId>)>,
}

/// What one other owner says of a key.
enum Theirs {
    /// ... with the epoch under which it was read, and what is sealed there.
    Object(Object, [Epoch; 2]),
    Nothing([Epoch; 2]),
    /// It cannot read its own copy.
    Damaged,
    /// It could not be asked.
    Unknown,
}

/// Begins to mend, in a task of the node.
pub fn start(
    env: &Env,
    replica: Replica,
    peers: Peers,
    keeper: LayoutKeeper,
    window: Duration,
    roster: &Roster,
) -> Arc<Mending> {
    let done = Arc::new(Mending::default());
    let incarnation = replica.identity().incarnation();
    let copied = Mutex::new(Copied { incarnation, live: Vec::new(), whole: BTreeMap::new() });
    let about = "Merges what could not be read, and partitions whose state is in doubt, from every other owner.";
    let (env, worker) = (env.clone(), roster.register("mending", about, None));
    let tasks = env.tasks.clone();
    let mender = Mender { env, replica, peers, keeper, window, worker, done: Arc::clone(&done), copied };
    tasks.spawn(mender.run());
    done
}

impl Copied {
    fn note(&mut self, partition: PartitionId, doubt: u64, store: StoreId) {
        let (since, whole) = self.whole.entry(partition).or_default();
        if *since != doubt {
            (*since, *whole) = (doubt, BTreeSet::new());
        }
        whole.insert(store);
    }
}

impl Mender {
    async fn run(self) {
        let (mut changes, mut bell) = (self.replica.health().watch(), self.worker.bell());
        let mut again = AGAIN_AT_LEAST;
        loop {
            self.worker.allowed().await;
            changes.mark_unchanged();
            let before = (self.done.keys.load(Ordering::Relaxed), self.done.partitions.load(Ordering::Relaxed));
            {
                let _run = (!self.replica.health().is_well()).then(|| self.worker.begin());
                self.round().await;
            }
            let after = (self.done.keys.load(Ordering::Relaxed), self.done.partitions.load(Ordering::Relaxed));
            if self.replica.health().is_well() {
                again = AGAIN_AT_LEAST;
                // The replica outlives this task, so the sender is never gone while it waits.
                if changes.changed().await.is_err() {
                    return;
                }
            } else {
                again = if before == after { (again * 2).min(AGAIN_AT_MOST) } else { AGAIN_AT_LEAST };
                self.worker.rest(&mut bell, again).await;
            }
        }
    }

    async fn round(&self) {
        let (unsynced, quarantined) = (self.replica.health().unsynced(), self.replica.health().quarantined());
        let total = (unsynced.len() + quarantined.len()) as u64;
        let mut tried = 0;
        let mut next = async || {
            self.worker.progress(tried, total);
            tried += 1;
            self.worker.allowed().await;
        };
        for partition in unsynced {
            next().await;
            if let Err(why) = self.sync(partition).await {
                warn!(%partition, why, "a partition cannot be synced yet");
                self.worker.failed(format!("partition {partition}: {why}"));
            }
        }
        let mut keys: BTreeMap<PartitionId, Vec<Bytes>> = BTreeMap::new();
        for (partition, stored) in self.replica.health().quarantined() {
            keys.entry(partition).or_default().push(stored);
        }
        for (partition, keys) in keys {
            let settled = self.settle(partition).await;
            for stored in keys {
                next().await;
                if let Err(why) = self.mend(partition, stored, &settled).await {
                    warn!(%partition, why, "a quarantined key cannot be mended yet");
                    self.worker.failed(format!("a key of partition {partition}: {why}"));
                }
            }
        }
    }

    /// Has every owner decide what it is counting votes for in a partition: this node may have given some that stand for
    /// copies it has not got any more. What became of it at each other one.
    async fn settle(&self, partition: PartitionId) -> BTreeMap<StoreId, Result<(), String>> {
        let others = self.others(partition);
        if !self.env.buggify.breaks("what a node counts itself is decided before it mends") {
            let held = self.keeper.held();
            held.counted(partition, held.last_begun(partition)).await;
        }
        if self.env.buggify.breaks("what others count is decided before a node mends") {
            return others.into_iter().map(|store| (store, Ok(()))).collect();
        }
        let version = self.newest().map_or(0, |layout| layout.version());
        let ask = async |store: StoreId| {
            let mut until = 0;
            loop {
                let settle = Ask::Settle(Settle { partition: partition.0, until });
                match self.peers.call(store, settle, version, CALL_FOR).await.map(|reply| reply.tell) {
                    Ok(Some(Tell::Settled(settled))) if settled.counting => until = settled.until,
                    Ok(Some(Tell::Settled(_))) => return Ok(()),
                    Ok(Some(Tell::Refused(refused))) => return Err(format!("{store} refuses: {}", refused.detail)),
                    Ok(_) => return Err(format!("{store} answers something else")),
                    Err(failed) => return Err(format!("{store}: {failed}")),
                }
            }
        };
        let settled = join_all(others.iter().map(|store| ask(*store))).await;
        others.into_iter().zip(settled).collect()
    }

    /// The other owners of what this node owns in a partition, over all buckets and live layouts; those that have ended
    /// excepted. Empty where it owns nothing.
    fn others(&self, partition: PartitionId) -> Vec<StoreId> {
        let Some(known) = self.keeper.known() else { return Vec::new() };
        let mut others = BTreeSet::new();
        for bucket in placements(known.chain.live()) {
            let lists = known.chain.live().iter().map(|layout| holders(layout, partition, bucket.as_ref()));
            let owners: BTreeSet<StoreId> = lists.flat_map(|list| list.stores().collect::<Vec<_>>()).collect();
            if owners.contains(&known.me) {
                others.extend(owners);
            }
        }
        others.retain(|store| *store != known.me && !known.chain.ended().contains(store));
        others.into_iter().collect()
    }

    /// Those of them that own a bucket's objects there, in whatever live layout.
    fn owners(&self, partition: PartitionId, bucket: &Bucket) -> BTreeSet<StoreId> {
        let Some(known) = self.keeper.known() else { return BTreeSet::new() };
        let lists = known.chain.live().iter().map(|layout| holders(layout, partition, Some(bucket)));
        lists.flat_map(|list| list.stores().collect::<Vec<_>>()).collect()
    }

    /// Those of them that can be trusted to hold what was acknowledged: the owners in the oldest live layout, which is
    /// complete. One that comes with a newer layout may hold nothing yet.
    fn complete(&self, partition: PartitionId, bucket: &Bucket) -> BTreeSet<StoreId> {
        let Some(known) = self.keeper.known() else { return BTreeSet::new() };
        let mut owners: BTreeSet<StoreId> = holders(&known.chain.live()[0], partition, Some(bucket)).stores().collect();
        owners.retain(|store| *store != known.me && !known.chain.ended().contains(store));
        owners
    }

    fn live(&self) -> Vec<u64> {
        self.keeper.known().map(|known| known.live()).unwrap_or_default()
    }

    fn newest(&self) -> Result<Layout, String> {
        self.keeper.newest().ok_or_else(|| "this node is in no cluster".into())
    }

    async fn sync(&self, partition: PartitionId) -> Result<(), String> {
        let Some(doubt) = self.replica.health().doubt(partition) else { return Ok(()) };
        let (live, others) = (self.live(), self.others(partition));
        let missing: Vec<StoreId> = {
            let mut copied = self.copied();
            let incarnation = self.replica.identity().incarnation();
            if (copied.incarnation, &copied.live) != (incarnation, &live) {
                *copied = Copied { incarnation, live: live.clone(), whole: BTreeMap::new() };
            }
            let whole = copied.whole.get(&partition).filter(|(since, _)| *since == doubt).map(|(_, whole)| whole);
            others.iter().copied().filter(|store| whole.is_none_or(|whole| !whole.contains(store))).collect()
        };
        if !missing.is_empty() {
            self.settle(partition).await.into_values().collect::<Result<(), _>>()?;
            if let Some(from) = self.refuse_what_is_sealed(partition, &others).await? {
                // It starts over: from who has sealed what is forgotten here.
                self.copy(partition, from).await?;
                return Err("this directory is older than what was collected since".into());
            }
        }
        let results = join_all(missing.iter().map(|store| self.copy(partition, *store))).await;
        let mut failed = None;
        for (result, store) in results.into_iter().zip(missing) {
            match result {
                Ok(()) => self.copied().note(partition, doubt, store),
                Err(why) => failed = Some(why),
            }
        }
        if let Some(why) = failed {
            return Err(why);
        }
        if self.live() != live {
            return Err("the layouts have moved on meanwhile: others may have to be asked".into());
        }
        let promises = !self.env.buggify.breaks("who forgot its promises stands in for nobody");
        if promises && self.replica.health().is_forgetful(partition) {
            self.hear(partition).await?;
        }
        if !self.replica.mark_synced(partition, doubt).await.map_err(|fault| fault.to_string())? {
            return Err("it was marked as unsynced once more meanwhile".into());
        }
        self.copied().whole.remove(&partition);
        self.done.partitions.fetch_add(1, Ordering::Relaxed);
        if !others.is_empty() {
            info!(%partition, sources = others.len(), "a partition is synced");
        }
        Ok(())
    }

    /// Asks the owners of a partition that this node does not own how far they are, before it stands in for one of them again:
    /// its directory went back, and what it said to a driver of rounds is forgotten. Whatever it said it had drained most of
    /// them had marked before, and each of those knows it.
    async fn hear(&self, partition: PartitionId) -> Result<(), String> {
        let Some(known) = self.keeper.known() else { return Err("this node is in no cluster".into()) };
        let mut groups: Vec<Vec<StoreId>> = Vec::new();
        for bucket in placements(known.chain.live()) {
            let lists = known.chain.live().iter().map(|layout| holders(layout, partition, bucket.as_ref()));
            groups.extend(lists.map(|list| list.stores().collect()));
        }
        if groups.iter().any(|owners| owners.contains(&known.me)) {
            // It owns it: it was merged, and an owner's word on rounds is its book.
            return Ok(());
        }
        let up = self.peers.up();
        let all: BTreeSet<StoreId> = groups.iter().flatten().copied().filter(|store| up.is_up(*store)).collect();
        let version = known.newest().version();
        let (mut answered, mut sealed, mut epoch) = (BTreeSet::new(), Epoch::FIRST, Epoch(u64::MAX));
        // Once more with what the first one found: whoever has forgotten it says so.
        for _ in 0..2 {
            // What it drained all had marked: so much as who has marked least.
            (answered, epoch) = (BTreeSet::new(), Epoch(u64::MAX));
            let ask = Ask::Collect(Collect::ask(partition.0, sealed));
            let told = all.iter().map(|store| self.peers.call(*store, ask.clone(), version, CALL_FOR));
            for (store, told) in all.iter().zip(join_all(told).await) {
                if let Ok(Some(Tell::Collected(told))) = told.map(|reply| reply.tell) {
                    sealed = sealed.max(Epoch(told.sealed));
                    if !told.syncing && !told.behind {
                        epoch = epoch.min(Epoch(told.epoch));
                        answered.insert(*store);
                    }
                }
            }
        }
        let most =
            |owners: &Vec<StoreId>| owners.iter().filter(|store| answered.contains(store)).count() > owners.len() / 2;
        if !groups.iter().all(most) {
            return Err(
                "this directory went back, and most owners have not said yet what they have collected: until then \
                        this node stands in for none of them"
                    .into(),
            );
        }
        self.replica.hear(partition, sealed, epoch).await.map_err(|fault| fault.to_string())
    }

    fn copied(&self) -> MutexGuard<'_, Copied> {
        self.copied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before anything is merged: what any other owner has sealed is refused here as well from now on, whoever sends it. Each of
    /// them knows the newest layout as it answers, and seals nothing new that is older. Where this node has forgotten that it
    /// marked it: who has sealed most.
    async fn refuse_what_is_sealed(
        &self,
        partition: PartitionId,
        others: &[StoreId],
    ) -> Result<Option<StoreId>, String> {
        let version = self.newest()?.version();
        let mut sealed = self.replica.sealed(partition);
        let mut most: Option<(Epoch, StoreId)> = None;
        // Once more with what the first one found: whoever else has forgotten it learns of it.
        for _ in 0..2 {
            let ask = Ask::Collect(Collect::ask(partition.0, sealed));
            let told = others.iter().map(|store| self.peers.call(*store, ask.clone(), version, CALL_FOR));
            for (store, told) in others.iter().zip(join_all(told).await) {
                match told.map(|reply| (reply.head, reply.tell)) {
                    Ok((head, Some(Tell::Collected(_)))) if head < version => {
                        return Err(format!("{store} does not know layout {version} yet"));
                    }
                    Ok((_, Some(Tell::Collected(told)))) => {
                        most = most.max(Some((Epoch(told.sealed), *store)));
                    }
                    Ok((_, Some(Tell::Refused(refused)))) => {
                        return Err(format!("{store} refuses: {}", refused.detail));
                    }
                    Ok(_) => return Err(format!("{store} answers something else")),
                    Err(failed) => return Err(format!("{store}: {failed}")),
                }
            }
            sealed = sealed.max(most.map_or(Epoch::FIRST, |(epoch, _)| epoch));
        }
        if self.replica.is_behind(partition, sealed) {
            return Ok(most.map(|(_, store)| store));
        }
        self.replica.refuse_before(partition, sealed).await.map_err(|fault| fault.to_string())?;
        Ok(None)
    }

    /// Merges everything that one other owner holds of a partition, whatever its own state.
    async fn copy(&self, partition: PartitionId, from: StoreId) -> Result<(), String> {
        let mut after = Bytes::new();
        loop {
            // What is merged here is in flight: newer layouts are not acked before it has ended.
            let _guard = self.keeper.held().take();
            let fetch = Fetch { partition: partition.0, after, max_bytes: PAGE, held: Bytes::new() };
            let version = self.newest()?.version();
            let reply = self.peers.call(from, Ask::Fetch(fetch), version, CALL_FOR).await;
            let page = match reply.map(|reply| reply.tell) {
                Ok(Some(Tell::Page(page))) => page,
                Ok(Some(Tell::Refused(refused))) => return Err(format!("{from} refuses: {}", refused.detail)),
                Ok(_) => return Err(format!("{from} answers something else")),
                Err(failed) => return Err(format!("{from}: {failed}")),
            };
            if !page.unreadable.is_empty() {
                // What it cannot read it may have acknowledged: it has to be mended first.
                return Err(format!("{from} cannot read {} keys of it", page.unreadable.len()));
            }
            if self.replica.is_behind(partition, Epoch(page.sealed)) {
                self.start_over(partition, page).await?;
                return Err(
                    "this directory is older than what was collected since: the partition is copied anew".into()
                );
            }
            if page.epoch < self.replica.sealed(partition).0 {
                return Err(format!("{from} has not marked yet what another owner has sealed"));
            }
            let epoch = Epoch(page.epoch);
            let merges = page.entries.into_iter().map(|entry| self.merge_patiently(entry.target, entry.record, epoch));
            let mut merging = futures_util::stream::iter(merges).buffer_unordered(MERGES);
            while let Some(merged) = merging.next().await {
                // A key that is quarantined here is mended by itself.
                if let Err(fault) = merged
                    && fault != Fault::Damaged
                {
                    return Err(fault.to_string());
                }
            }
            drop(merging);
            match page.next {
                Some(next) => after = next,
                None => return Ok(()),
            }
        }
    }

    /// This node has forgotten what it marked: what it holds may have been collected since, so it goes, like a disk that was
    /// lost; but not where a quorum of the owners is in doubt like that, or without a vote: what was acknowledged may lie
    /// with them alone, and that takes an operator. What nobody else owns stays.
    async fn start_over(&self, partition: PartitionId, page: Page) -> Result<(), String> {
        let lesson = page
            .lesson
            .ok_or("a round of collection is to be finished there first, or its directory went back as well")?;
        let lesson = Lesson::decode(lesson).map_err(|bad| bad.to_string())?;
        let (known, others) = (self.keeper.known(), self.others(partition));
        let Some(known) = known else { return Err("this node is in no cluster".into()) };
        let (mut doubted, mut sealed) = (BTreeSet::from([known.me]), Epoch(page.sealed));
        let ask = Collect::ask(partition.0, Epoch(page.sealed));
        let version = known.newest().version();
        let told = others.iter().map(|store| self.peers.call(*store, Ask::Collect(ask.clone()), version, CALL_FOR));
        for (store, told) in others.iter().zip(join_all(told).await) {
            match told.map(|reply| reply.tell) {
                Ok(Some(Tell::Collected(told))) => {
                    sealed = sealed.max(Epoch(told.sealed));
                    if told.syncing || told.behind {
                        doubted.insert(*store);
                    }
                }
                _ => return Err(format!("{store} cannot be asked whether it is behind a collection as well")),
            }
        }
        let most = placements(known.chain.live()).into_iter().any(|bucket| {
            known.chain.live().iter().any(|layout| {
                let list = holders(layout, partition, bucket.as_ref());
                // A region by itself as well: its own quorum may be all that acknowledged a write. (One owner is none.)
                let regions = list.regions.iter().map(|region| region.owners.clone()).filter(|owners| owners.len() > 1);
                let mut groups: Vec<Vec<StoreId>> = regions.chain([list.stores().collect()]).collect();
                groups.retain(|owners| owners.contains(&known.me) && list.stores().count() > 1);
                let in_doubt = |owners: &Vec<StoreId>| owners.iter().filter(|owner| doubted.contains(owner)).count();
                groups.iter().any(|owners| in_doubt(owners) > owners.len() / 2)
            })
        });
        if most && !self.done.accepts_loss(partition) {
            let names: Vec<String> = doubted.iter().map(StoreId::to_string).collect();
            return Err(format!(
                "its directory went back behind a collection, and most owners are in doubt ({}): what only they hold \
                 would be lost; `quorate repair --partition {partition} --accept-data-loss` copies it anew all the same",
                names.join(", ")
            ));
        }
        let (keeper, me) = (self.keeper.clone(), known.me);
        let shared = move |bucket: &Bucket| {
            keeper.known().is_some_and(|known| {
                let ended = known.chain.ended();
                let other = |store: &StoreId| *store != me && !ended.contains(store);
                holders(&known.chain.live()[0], partition, Some(bucket)).stores().any(|store| other(&store))
            })
        };
        let deleted = self.replica.start_over(partition, lesson, sealed, Arc::new(shared)).await;
        let deleted = deleted.map_err(|fault| fault.to_string())?;
        // Whatever was copied before went as well.
        self.copied().whole.remove(&partition);
        error!(%partition, deleted, "this directory went back behind a collection: the partition is copied anew from its other owners");
        Ok(())
    }

    /// Gives way to clients where the storage threads have enough to do.
    async fn merge_patiently(&self, target: Target, record: Bytes, epoch: Epoch) -> Result<(), Fault> {
        loop {
            match self.merge(target.clone(), record.clone(), epoch, Cause::Anew).await {
                Err(Fault::Overloaded) => self.env.clock.sleep(GIVE_WAY).await,
                merged => return merged,
            }
        }
    }

    async fn merge(&self, target: Target, record: Bytes, epoch: Epoch, cause: Cause) -> Result<(), Fault> {
        let layout = self.newest().map_err(Fault::Malformed)?;
        merge_into(&self.replica, &layout, self.window, target, (record, epoch), cause).await
    }

    async fn mend(
        &self,
        partition: PartitionId,
        stored: Bytes,
        settled: &BTreeMap<StoreId, Result<(), String>>,
    ) -> Result<(), String> {
        let Some((id, generation)) = name_of(&stored) else { return Err("it is no object".into()) };
        let (live, others) = (self.live(), self.others(partition));
        let (complete, owners) = (self.complete(partition, &id.bucket), self.owners(partition, &id.bucket));
        let accepts = self.done.accepts_loss(partition);
        let given_up = format!("`quorate repair --partition {partition} --accept-data-loss` gives it up");
        if complete.is_empty() && !accepts {
            return Err(format!("there is no other owner that is complete; {given_up}"));
        }
        let target = Target { bucket: id.bucket.as_str().to_owned(), generation, key: id.key.as_bytes().clone() };
        let said = join_all(others.iter().map(|store| self.ask(*store, target.clone()))).await;
        let layout = self.newest()?;
        let last_write_wins = layout.settings(&id.bucket).mode == Mode::Lww;
        let rules = MergeRules { last_write_wins, idempotency_window: self.window };
        let mut merged = Object::new();
        let (mut found, mut damaged) = (false, false);
        // Of a merge the least.
        let (mut least, mut sealed) = (self.replica.epoch(partition), self.replica.sealed(partition));
        for (theirs, from) in said.into_iter().zip(&others) {
            // Who coordinates this bucket's writes may be counting. Whoever is given up with what it holds is not waited for.
            match settled.get(from) {
                Some(Ok(())) => {}
                _ if !owners.contains(from) || (accepts && matches!(theirs, Theirs::Unknown)) => {}
                Some(Err(why)) => return Err(why.clone()),
                None => return Err(format!("{from} has come to own it meanwhile, and may be counting votes")),
            }
            match theirs {
                Theirs::Object(object, [epoch, seal]) => {
                    merged.merge(&object, &rules);
                    (found, least, sealed) = (true, least.min(epoch), sealed.max(seal));
                }
                Theirs::Nothing([epoch, seal]) => (least, sealed) = (least.min(epoch), sealed.max(seal)),
                Theirs::Damaged => damaged = true,
                Theirs::Unknown if !complete.contains(from) => {}
                Theirs::Unknown => return Err(format!("{from} cannot be asked")),
            }
        }
        if self.live() != live {
            return Err("the layouts have moved on meanwhile: others may have to be asked".into());
        }
        if least < sealed && !self.env.buggify.breaks("a merge across a seal is begun again") {
            if self.replica.is_behind(partition, sealed) {
                self.replica.distrust(partition).await.map_err(|fault| fault.to_string())?;
            }
            // One had not sealed yet what another has collected: what it sent may be that.
            return Err("a round of collection was sealed while they were asked: they are asked again".into());
        }
        self.replica.refuse_before(partition, sealed).await.map_err(|fault| fault.to_string())?;
        if damaged && !found && !accepts {
            return Err(format!("another owner's copy is damaged as well, and nobody holds one; {given_up}"));
        }
        let lost = (damaged || complete.is_empty()) && !found;
        self.merge(target, encode_object(&merged), least, Cause::Mend).await.map_err(|fault| fault.to_string())?;
        self.done.keys.fetch_add(1, Ordering::Relaxed);
        if lost {
            self.done.given_up.fetch_add(1, Ordering::Relaxed);
            warn!(%partition, "a key that nobody holds is GIVEN UP, as it was told");
        } else {
            info!(%partition, "a quarantined key is whole again");
        }
        Ok(())
    }

    async fn ask(&self, store: StoreId, target: Target) -> Theirs {
        let read = Read { target, have: None, to_mend: true };
        let version = self.newest().map_or(0, |layout| layout.version());
        match self.peers.call(store, Ask::Read(read), version, CALL_FOR).await.map(|reply| reply.tell) {
            Ok(Some(Tell::Copy(copy))) => {
                let epoch = [Epoch(copy.epoch), Epoch(copy.sealed)];
                match (copy.held(), copy.record.map(decode_object)) {
                    (Held::Object, Some(Ok(object))) => Theirs::Object(object, epoch),
                    (Held::Nothing, _) => Theirs::Nothing(epoch),
                    _ => Theirs::Unknown,
                }
            }
            Ok(Some(Tell::Refused(refused))) if refused.why() == Refusal::Damaged => Theirs::Damaged,
            _ => Theirs::Unknown,
        }
    }
}

/// Merges a state that another owner sent, read under an epoch, into the copy here.
pub(super) async fn merge_into(
    replica: &Replica,
    layout: &Layout,
    window: Duration,
    target: Target,
    (record, epoch): (Bytes, Epoch),
    cause: Cause,
) -> Result<(), Fault> {
    let bad = |what: String| Fault::Malformed(what);
    let bucket = Bucket::new(&target.bucket).map_err(|wrong| bad(wrong.to_string()))?;
    let key = Key::new(target.key).map_err(|wrong| bad(wrong.to_string()))?;
    let id = ObjectId::new(bucket, key);
    let settings = layout.settings(&id.bucket);
    let place = Place::of(layout.grid(), &id, target.generation);
    let rules = MergeRules { last_write_wins: settings.mode == Mode::Lww, idempotency_window: window };
    if target.generation < settings.generation {
        // Emptied or deleted since: nobody names it any more.
        return Ok(());
    }
    let class = layout.class_of(settings);
    replica.merge(MergeRequest { place, record, rules, class, flush: false, cause, epoch }).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_accepted_until_all_who_did_have_taken_it_back() {
        let mending = Arc::new(Mending::default());
        let (first, second) = (mending.accept_loss(PartitionId(3)), mending.accept_loss(PartitionId(3)));
        assert!(!mending.accepts_loss(PartitionId(4)));
        drop(first);
        assert!(mending.accepts_loss(PartitionId(3)), "the other one is still under way");
        drop(second);
        assert!(!mending.accepts_loss(PartitionId(3)));
    }
}

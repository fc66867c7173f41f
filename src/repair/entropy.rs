//! Anti-entropy: two owners find out what they hold differently, whatever made them differ, and make it equal, at a cost of
//! the difference.
//!
//! Of two members the one with the smaller store id compares all partitions that both own, once an interval, soon after
//! either came (back) up, or when it is told to; and whoever dropped hints compares those partitions. While hints wait for
//! one of the two, at whichever node, the comparison waits, for a while: it would find what they bring. A round is `merkle`'s:
//! roots of many partitions in one message, a walk where they differ, then objects, both ways; they end in the one write
//! path like all others. It needs one live layout: while a change is under way transfers do the same and more.
//!
//! Bounds: one round at a time; 128 partitions at once, fewer where that takes too long; 16 objects under way; a rate in
//! bytes a second. A round that is not answered ends, says what it did not finish, and is begun again in a minute or two.
//! Clients come first: what finds a full queue waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use tokio::sync::Mutex as Turn;
use tracing::{debug, info, warn};

use super::marks::Marks;
use super::mend::merge_into;
use super::rate::Rate;
use super::reaper::Reaper;
use super::worker::{Roster, Worker};
use crate::causality::digest_of_record;
use crate::cluster::{Known, LayoutKeeper};
use crate::collect::Epoch;
use crate::env::Env;
use crate::merkle::{Difference, Exchange, Read as Surveyed, Root, Roots, RootsReply, Terms, Walk, Width};
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::replica::{Cause, Fault, Place, Replica, name_of};
use crate::ring::live::holders;
use crate::ring::{BucketSettings, Layout};
use crate::transport::messages::collect::Collect;
use crate::transport::messages::merkle::{CompareRoots, Descend};
use crate::transport::messages::{Ask, Held, Read, Target, Tell, Write};
use crate::types::{Bucket, Mono, PartitionId, StoreId};

/// For one question: the other side may have to look at all keys of many partitions.
const CALL_FOR: Duration = Duration::from_secs(15);
/// Objects exchanged at once.
const AT_ONCE: usize = 16;
const TRIES: u32 = 3;
/// Between two looks at what is due.
const TICK: Duration = Duration::from_secs(1);
const GIVE_WAY: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(10);
/// Partitions compared at once; where a question about so many gets no answer in time, fewer, but at least [`LEAST`].
const PARTITIONS: usize = 128;
const LEAST: usize = 4;
/// After a round that did not come to its end, at least; as much again at random.
const RETRY: Duration = Duration::from_secs(60);
/// How soon after either side came up, at least; as much again at random.
const SOON: Duration = Duration::from_secs(10);
/// How long a comparison that is due waits for hints, at most.
const FOR_HINTS: Duration = Duration::from_secs(600);

/// What a round did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Repaired {
    /// Pairs of a partition and another owner that were compared.
    pub compared: u64,
    /// Of those, pairs that differed.
    pub differed: u64,
    /// Keys that differed.
    pub keys: u64,
    /// Of those, keys that are equal now; with a dry run none.
    pub repaired: u64,
    /// Keys that could not be made equal: refused, or the other side went away. Neither this nor `repaired` are keys that were
    /// equal by the time they were looked at.
    pub failed: u64,
    /// Bytes of records that were exchanged.
    pub bytes: u64,
    /// Pairs that could not be compared to the end.
    pub unfinished: u64,
}

impl Repaired {
    /// Both together.
    pub fn add(&mut self, other: Self) {
        self.compared += other.compared;
        self.differed += other.differed;
        self.keys += other.keys;
        self.repaired += other.repaired;
        self.failed += other.failed;
        self.bytes += other.bytes;
        self.unfinished += other.unfinished;
    }
}

/// What to compare.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scope {
    /// This bucket alone.
    pub bucket: Option<Bucket>,
    /// This partition alone.
    pub partition: Option<PartitionId>,
    /// Only say what differs.
    pub dry_run: bool,
    /// Only with members whose store id is greater, so that of a pair one side compares.
    pub once: bool,
}

impl Scope {
    /// Whether what differs under a stored key is asked for.
    fn names(&self, stored: &Bytes) -> bool {
        let Some(bucket) = &self.bucket else { return true };
        name_of(stored).is_some_and(|(id, _)| id.bucket == *bucket)
    }

    /// What is asked for of what two members own together.
    fn of(&self, layout: &Layout, shared: Shared) -> Shared {
        let class = self.bucket.as_ref().map(|bucket| layout.class_of(layout.settings(bucket)));
        let mut asked = Shared::new();
        for (mut classes, mut partitions) in shared {
            classes.retain(|its| class.is_none_or(|class| class == *its));
            partitions.retain(|partition| self.partition.is_none_or(|only| only == *partition));
            if !classes.is_empty() && !partitions.is_empty() {
                asked.entry(classes).or_default().extend(partitions);
            }
        }
        asked
    }
}

/// Told what a repair has come to so far.
type Told<'a> = &'a (dyn Fn(&Repaired) + Send + Sync);

/// Compares and repairs. Clones are the same worker.
#[derive(Clone)]
pub struct AntiEntropy {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    replica: Replica,
    peers: Peers,
    keeper: LayoutKeeper,
    metrics: Arc<Metrics>,
    window: Duration,
    interval: Duration,
    rate: Rate,
    worker: Worker,
    reaper: Reaper,
    /// One round at a time.
    turn: Turn<()>,
    due: Mutex<BTreeMap<StoreId, Due>>,
    marks: Mutex<Marks>,
}

/// When another member is compared with next.
#[derive(Clone, Copy, Debug)]
struct Due {
    at: Mono,
    /// Since when it has been up; none: it is down.
    up_since: Option<Mono>,
    /// Since when, after the last comparison, the next one has been put off.
    put_off: Option<Mono>,
}

impl std::fmt::Debug for AntiEntropy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AntiEntropy").field("interval", &self.inner.interval).finish_non_exhaustive()
    }
}

/// What this node and another own together: partitions by the placement classes of which that is so.
type Shared = BTreeMap<Vec<u16>, Vec<PartitionId>>;

impl AntiEntropy {
    /// Begins to compare, in a task of the node: each pair once an `interval`, at most `rate` bytes a second (0: as many
    /// as there are).
    #[must_use]
    #[allow(clippy::too_many_arguments, reason = "what a worker works with, and its two settings")]
    pub fn start(
        env: &Env,
        replica: Replica,
        peers: Peers,
        keeper: LayoutKeeper,
        metrics: Arc<Metrics>,
        window: Duration,
        interval: Duration,
        rate: u64,
        reaper: Reaper,
        roster: &Roster,
    ) -> Self {
        let about = "Compares what this node holds with the other owners, and makes equal what differs.";
        let worker = roster.register("anti-entropy", about, Some(rate));
        let rate = Rate::new(env, rate, rate.max(1 << 20));
        let (turn, due, marks) = (Turn::new(()), Mutex::default(), Mutex::default());
        let env = env.clone();
        let inner =
            Inner { env, replica, peers, keeper, metrics, window, interval, rate, worker, reaper, turn, due, marks };
        let this = Self { inner: Arc::new(inner) };
        this.inner.env.tasks.spawn(this.clone().run());
        this
    }

    async fn run(self) {
        let worker = &self.inner.worker;
        let mut bell = worker.bell();
        loop {
            let told = worker.rest(&mut bell, TICK).await;
            let Some(known) = self.settled() else { continue };
            if told {
                self.repair(Scope::default()).await;
            }
            self.visit_marked(&known).await;
            for peer in self.due_now(&known) {
                let (done, _) = self.round(peer, &Scope::default(), &|_| {}).await;
                if done.keys > 0 {
                    info!(%peer, ?done, "replicas differed");
                }
                if done.unfinished > 0 {
                    let Inner { env, interval, .. } = &*self.inner;
                    let retry =
                        RETRY.min(*interval) + Duration::from_micros(env.entropy.below(RETRY.as_micros() as u64));
                    if let Some(its) = self.due().get_mut(&peer) {
                        its.at = its.at.min(env.clock.now() + retry);
                    }
                }
            }
        }
    }

    /// Compares partitions of which hints were dropped with every other owner, one in a look; those whose owners are all up.
    async fn visit_marked(&self, known: &Known) {
        let (up, now) = (self.inner.peers.up(), self.inner.env.clock.now());
        let marked = self.marks().ripe(&self.inner.replica.hints().marked(), now);
        let mut marked = marked.into_iter();
        let all_up = |partition: PartitionId| {
            let mut owners = holders(known.newest(), partition, None).stores().collect::<Vec<_>>().into_iter();
            owners.all(|owner| owner == known.me || up.is_up(owner))
        };
        let Some((partition, told)) = marked.find(|(partition, _)| all_up(*partition)) else { return };
        self.marks().compared(partition);
        let done = self.repair(Scope { partition: Some(partition), ..Scope::default() }).await;
        if done.unfinished == 0
            && let Err(fault) = self.inner.replica.unmark(partition, told).await
        {
            debug!(%partition, %fault, "it is compared again");
        }
    }

    /// Compares with every other owner that is up, now.
    pub async fn repair(&self, scope: Scope) -> Repaired {
        self.repair_and_tell(&scope, &|_| {}).await.0
    }

    /// As [`AntiEntropy::repair`], telling now and then how far it is; and why it did not get everywhere, if so.
    pub async fn repair_and_tell(&self, scope: &Scope, told: Told<'_>) -> (Repaired, Option<String>) {
        let (mut done, mut why) = (Repaired::default(), None);
        let Some(known) = self.settled() else {
            return (Repaired { unfinished: 1, ..done }, Some("layouts change".to_owned()));
        };
        for peer in self.asked(&known, scope) {
            let before = done;
            let so_far = |round: &Repaired| {
                let mut sum = before;
                sum.add(*round);
                told(&sum);
            };
            let (round, trouble) = self.round(peer, scope, &so_far).await;
            done.add(round);
            why = trouble.or(why);
        }
        (done, why)
    }

    /// How many pairs of a partition and another owner a repair would compare; none while layouts change.
    #[must_use]
    pub fn pairs(&self, scope: &Scope) -> Option<u64> {
        let known = self.settled()?;
        let of = |peer| scope.of(known.newest(), shared(known.newest(), known.me, peer)).into_values();
        Some(self.asked(&known, scope).flat_map(of).map(|partitions| partitions.len() as u64).sum())
    }

    /// Whom a repair compares with.
    fn asked<'a>(&self, known: &'a Known, scope: &'a Scope) -> impl Iterator<Item = StoreId> + 'a {
        others(known).filter(|peer| !scope.once || known.me < *peer)
    }

    /// What is known of layouts, where just one is live and this node is a member of it.
    fn settled(&self) -> Option<Arc<Known>> {
        self.inner.keeper.known().filter(|known| known.chain.live().len() == 1 && known.is_member())
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.inner.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn due(&self) -> MutexGuard<'_, BTreeMap<StoreId, Due>> {
        self.inner.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The members that this node is to compare with now. Their next turn is set.
    fn due_now(&self, known: &Known) -> Vec<StoreId> {
        let Inner { env, peers, interval, .. } = &*self.inner;
        let (now, up) = (env.clock.now(), peers.up());
        let within = |time: Duration| Duration::from_micros(env.entropy.below(time.as_micros() as u64 + 1));
        let mine: BTreeSet<StoreId> = others(known).filter(|peer| known.me < *peer).collect();
        let mut all = self.due();
        all.retain(|peer, _| mine.contains(peer));
        let mut due = Vec::new();
        let (patience, owed) = (FOR_HINTS.min(*interval / 2), peers.is_owed());
        for peer in mine {
            let up_since = up.get(peer).filter(|status| status.up).map(|status| status.since);
            let soon = now + SOON.min(*interval / 2) + within(SOON.min(*interval / 2));
            let its = all.entry(peer).or_insert(Due { at: soon, up_since, put_off: None });
            if up_since.is_some() && its.up_since != up_since {
                // Also where it was due long ago: who comes back is first sent what it missed. But who comes back again and
                // again is compared all the same.
                let since = *its.put_off.get_or_insert(now);
                its.at = if now < since + patience { soon } else { its.at.min(soon) };
            }
            its.up_since = up_since;
            if up_since.is_some() && its.at <= now {
                let missing = owed
                    || up.get(peer).is_some_and(|status| status.mood.catching_up)
                    || self.inner.replica.hints().waiting(peer).is_some();
                if missing && now < *its.put_off.get_or_insert(now) + patience {
                    continue;
                }
                its.put_off = None;
                its.at = now + *interval * 3 / 4 + within(*interval / 4);
                due.push(peer);
            }
        }
        due
    }

    /// One round with one other member.
    async fn round(&self, peer: StoreId, scope: &Scope, told: Told<'_>) -> (Repaired, Option<String>) {
        let _turn = self.inner.turn.lock().await;
        let (mut done, mut trouble) = (Repaired::default(), None);
        let Some(known) = self.settled() else {
            return (Repaired { unfinished: 1, ..done }, Some("layouts change".to_owned()));
        };
        let _run = self.inner.worker.begin();
        for (classes, partitions) in scope.of(known.newest(), shared(known.newest(), known.me, peer)) {
            let mut unfinished: BTreeSet<PartitionId> = partitions.iter().copied().collect();
            // Who was away finishes what it had sealed before it is compared: else what the others have dropped differs.
            for partition in self.inner.replica.unfinished_rounds() {
                if unfinished.contains(&partition) {
                    self.inner.reaper.finish(&known, partition).await;
                }
            }
            if let Err(why) = self.compare(&known, peer, classes, scope, &mut unfinished, &mut done, told).await {
                debug!(%peer, why, "a comparison ended early");
                let why = format!("with {peer}: {why}");
                self.inner.worker.failed(why.clone());
                trouble = Some(why);
            }
            done.unfinished += unfinished.len() as u64;
        }
        let metrics = &self.inner.metrics.repair;
        metrics.rounds.inc();
        metrics.compared.inc_by(done.compared);
        metrics.differed.inc_by(done.differed);
        metrics.repaired.inc_by(done.repaired);
        metrics.bytes.inc_by(done.bytes);
        (done, trouble)
    }

    /// Compares partitions that both own for the same classes, and exchanges what differs. Takes out of `unfinished` what
    /// was compared to the end.
    #[allow(clippy::too_many_arguments, reason = "what is compared, with whom, and what has become of it")]
    async fn compare(
        &self,
        known: &Known,
        peer: StoreId,
        classes: Vec<u16>,
        scope: &Scope,
        unfinished: &mut BTreeSet<PartitionId>,
        done: &mut Repaired,
        told: Told<'_>,
    ) -> Result<(), String> {
        let Inner { env, replica, .. } = &*self.inner;
        let width = if scope.dry_run { Width::Full } else { Width::Short };
        let mut terms = Terms { salt: env.entropy.u64(), width, first: replica.first_hour(), classes };
        let partitions: Vec<PartitionId> = unfinished.iter().copied().collect();
        let mut at_once = PARTITIONS;
        for some in partitions.chunks(PARTITIONS) {
            self.inner.worker.progress((partitions.len() - unfinished.len()) as u64, partitions.len() as u64);
            self.inner.worker.allowed().await;
            let (same, differ) = self.compare_roots(known, peer, &mut terms, some).await?;
            done.compared += (same.len() + differ.len()) as u64;
            done.differed += differ.len() as u64;
            unfinished.retain(|partition| !same.contains(partition));
            told(done);
            let mut left = &differ[..];
            while !left.is_empty() {
                let (now, later) = left.split_at(at_once.min(left.len()));
                let mut walk = Walk::new(terms.clone(), now.iter().copied());
                match self.walk(known, peer, &mut walk, scope, done).await {
                    Ok(()) => {
                        told(done);
                        let ended =
                            |partition: &PartitionId| now.contains(partition) && !walk.unfinished().contains(partition);
                        unfinished.retain(|partition| !ended(partition));
                        left = later;
                    }
                    // It may be too much to be read in the time that a question has.
                    Err(_) if at_once > LEAST => at_once = (at_once / 4).max(LEAST),
                    Err(why) => return Err(why),
                }
            }
        }
        Ok(())
    }

    /// Which of these partitions are the same on both sides, and which differ; the others nothing can be told of.
    async fn compare_roots(
        &self,
        known: &Known,
        peer: StoreId,
        terms: &mut Terms,
        partitions: &[PartitionId],
    ) -> Result<(Vec<PartitionId>, Vec<PartitionId>), String> {
        let (mut same, mut differ) = (Vec::new(), Vec::new());
        for _ in 0..TRIES {
            // What is not whole here is merged by other means first.
            let trees = self.patiently(|| self.inner.replica.trees(partitions, terms)).await?;
            let roots: Vec<(PartitionId, Root)> = trees.iter().map(|(at, tree)| (*at, tree.root())).collect();
            let Some(asked) = Roots::of(terms, &roots).into_iter().next() else { return Ok((same, differ)) };
            let ask = Ask::CompareRoots(CompareRoots::from(&asked));
            let Tell::RootsCompared(reply) = self.ask(known, peer, ask).await? else {
                return Err("it answers something else".into());
            };
            match reply.read() {
                // An hour passed: all roots are others now. It has passed here, too, or is about to.
                Some(RootsReply::Later(first)) if first > terms.first => terms.first = first,
                Some(RootsReply::Compared { differ: theirs, cannot }) => {
                    let told = roots.into_iter().map(|(partition, _)| partition).filter(|at| !cannot.contains(at));
                    (differ, same) = told.partition(|partition| theirs.contains(partition));
                    return Ok((same, differ));
                }
                _ => return Err("its comparison of roots is none".into()),
            }
        }
        Err("it names a later hour each time".into())
    }

    async fn walk(
        &self,
        known: &Known,
        peer: StoreId,
        walk: &mut Walk,
        scope: &Scope,
        done: &mut Repaired,
    ) -> Result<(), String> {
        let Inner { replica, .. } = &*self.inner;
        loop {
            self.inner.worker.allowed().await;
            self.still(known)?;
            let wanted = walk.wanted(replica.first_hour());
            if wanted.is_empty() {
                return Ok(());
            }
            let mut read: BTreeMap<PartitionId, Surveyed> = BTreeMap::new();
            for of in wanted {
                let partition = of.partition;
                match self.patiently(|| replica.survey(of.clone(), walk.terms())).await {
                    Ok(Some(found)) => drop(read.insert(partition, found)),
                    Ok(None) => {}
                    // It stops no other; the walk leaves it unfinished.
                    Err(why) => warn!(%partition, why, "what is held cannot be compared"),
                }
            }
            let Some(request) = walk.ask(&read) else { continue };
            drop(read);
            let Tell::Descended(reply) = self.ask(known, peer, Ask::Descend(Descend::from(&request))).await? else {
                return Err("it answers something else".into());
            };
            let reply = reply.read().ok_or("its answer is none")?;
            let mut found = walk.answered(reply).map_err(|unexpected| unexpected.to_string())?;
            found.retain(|difference| scope.names(&difference.stored));
            done.keys += found.len() as u64;
            if !scope.dry_run {
                self.exchange_all(known, peer, found, done).await;
            }
        }
    }

    /// What is compared under one layout counts while that is the only one.
    fn still(&self, known: &Known) -> Result<(), String> {
        let now = self.settled().map(|now| now.newest().version());
        if now == Some(known.newest().version()) { Ok(()) } else { Err("layouts change".into()) }
    }

    async fn exchange_all(&self, known: &Known, peer: StoreId, found: Vec<Difference>, done: &mut Repaired) {
        let partitions: BTreeSet<PartitionId> = found.iter().map(|difference| difference.partition).collect();
        join_all(partitions.into_iter().map(|partition| self.level(known, peer, partition))).await;
        let exchanges = found.into_iter().map(|difference| self.exchange(known, peer, difference));
        let mut running = futures_util::stream::iter(exchanges).buffer_unordered(AT_ONCE);
        while let Some(exchanged) = running.next().await {
            match exchanged {
                Ok(None) => {}
                Ok(Some(bytes)) => {
                    done.repaired += 1;
                    done.bytes += bytes;
                }
                Err(why) => {
                    done.failed += 1;
                    self.inner.metrics.repair.failures.inc();
                    debug!(%peer, why, "a key that differs could not be made equal yet");
                }
            }
        }
    }

    /// Where two owners differ, one of them may have forgotten what was collected: its directory went back, and it is to start
    /// its copy over.
    async fn level(&self, known: &Known, peer: StoreId, partition: PartitionId) {
        let replica = &self.inner.replica;
        let asked = Collect::ask(partition.0, replica.sealed(partition));
        if let Ok(Tell::Collected(told)) = self.ask(known, peer, Ask::Collect(asked)).await
            && replica.is_behind(partition, Epoch(told.sealed))
            && let Err(fault) = replica.distrust(partition).await
        {
            debug!(%partition, %fault, "the next comparison finds it again");
        }
    }

    /// Makes one key equal on both sides. Gives the bytes of the records that travelled; none where there was nothing to be
    /// done: emptied or placed elsewhere meanwhile.
    async fn exchange(&self, known: &Known, peer: StoreId, difference: Difference) -> Result<Option<u64>, String> {
        let Inner { replica, keeper, .. } = &*self.inner;
        let layout = known.newest();
        let (id, generation) = name_of(&difference.stored).ok_or("it names no key")?;
        let place = Place::of(layout.grid(), &id, generation);
        let settings = layout.settings(&id.bucket);
        let owns = |store| layout.member_by_store(store).is_some_and(|at| layout.owns(at, place.partition, settings));
        if place.stored != difference.stored || place.partition != difference.partition {
            return Err("it names a key of another partition".into());
        }
        if generation != settings.generation || !owns(known.me) || !owns(peer) {
            return Ok(None);
        }
        let target = Target { bucket: id.bucket.as_str().to_owned(), generation, key: id.key.as_bytes().clone() };
        let (mut bytes, mut sent, mut refused) = (None, None, None);
        // Before it is read.
        let epoch = replica.epoch(place.partition).0;
        // Ours first: where theirs is only older, that is all, and they say so in a few bytes. Where ours is, both travel.
        if difference.exchange != Exchange::Fetch
            && let Some(record) = self.patiently(|| replica.read_to_mend(place.clone())).await?
        {
            let size = record.len() as u64;
            (bytes, sent) = (Some(size), Some(Bytes::copy_from_slice(&digest_of_record(&record).0)));
            self.inner.rate.pace(size).await;
            // Before the look at the layouts: see `Held`. Not while it waits: no layout is acked meanwhile.
            let _guard = keeper.held().take();
            self.still(known)?;
            let write = Write { target: target.clone(), record, epoch, flush: false, repair: true };
            // One that cannot write has all the same what is to be read.
            refused = match self.ask(known, peer, Ask::Write(write)).await {
                Ok(Tell::Written(_)) => None,
                Ok(_) => Some("it answers something else".to_owned()),
                Err(why) => Some(why),
            };
        }
        if difference.exchange != Exchange::Send {
            let read = Read { target: target.clone(), have: sent, to_mend: true };
            let Tell::Copy(copy) = self.ask(known, peer, Ask::Read(read)).await? else {
                return Err("it answers something else".into());
            };
            if let (Held::Object, Some(record)) = (copy.held(), copy.record) {
                let size = record.len() as u64;
                bytes = Some(bytes.unwrap_or(0) + size);
                self.inner.rate.pace(size).await;
                let _guard = keeper.held().take();
                self.still(known)?;
                self.merge(layout, target, record, Epoch(copy.epoch)).await?;
            }
        }
        refused.map_or(Ok(bytes), Err)
    }

    async fn merge(&self, layout: &Layout, target: Target, record: Bytes, epoch: Epoch) -> Result<(), String> {
        let Inner { replica, window, .. } = &*self.inner;
        let state = || (record.clone(), epoch);
        self.patiently(|| merge_into(replica, layout, *window, target.clone(), state(), Cause::Repair)).await
    }

    async fn ask(&self, known: &Known, peer: StoreId, ask: Ask) -> Result<Tell, String> {
        let reply = self.inner.peers.call(peer, ask, known.newest().version(), CALL_FOR).await;
        match reply.map_err(|failed| failed.to_string())?.tell {
            Some(Tell::Refused(refused)) => Err(refused.detail),
            Some(tell) => Ok(tell),
            None => Err("it answers nothing".into()),
        }
    }

    /// Gives way to clients where the storage threads have enough to do; for so long, then it is given up.
    async fn patiently<T, F: Future<Output = Result<T, Fault>>>(&self, job: impl Fn() -> F) -> Result<T, String> {
        let clock = &self.inner.env.clock;
        let until = clock.now() + PATIENCE;
        loop {
            match job().await {
                Err(Fault::Overloaded) if clock.now() < until => clock.sleep(GIVE_WAY).await,
                done => return done.map_err(|fault| fault.to_string()),
            }
        }
    }
}

fn others(known: &Known) -> impl Iterator<Item = StoreId> + '_ {
    known.newest().members().iter().map(|member| member.store).filter(|store| *store != known.me)
}

/// What two members own together.
fn shared(layout: &Layout, me: StoreId, peer: StoreId) -> Shared {
    let (Some(mine), Some(theirs)) = (layout.member_by_store(me), layout.member_by_store(peer)) else {
        return Shared::new();
    };
    let spec = layout.spec();
    let configured = spec.buckets.values();
    let classes: BTreeMap<u16, &BucketSettings> =
        configured.chain([&spec.default_bucket]).map(|settings| (layout.class_of(settings), settings)).collect();
    let mut shared = Shared::new();
    for partition in layout.partitions_of(me) {
        let both = |settings: &BucketSettings| {
            layout.owns(mine, partition, settings) && layout.owns(theirs, partition, settings)
        };
        let classes: Vec<u16> =
            classes.iter().filter(|(_, settings)| both(settings)).map(|(class, _)| *class).collect();
        if !classes.is_empty() {
            shared.entry(classes).or_default().push(partition);
        }
    }
    shared
}

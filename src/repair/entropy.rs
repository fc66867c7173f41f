//! Anti-entropy: two owners find out what they hold differently, whatever made them differ, and make it equal, at a cost of
//! the difference.
//!
//! Of two members the one with the smaller store id compares all partitions that both own, once an interval, soon after
//! either came (back) up, or when it is told to. A round is `merkle`'s: roots of all partitions in one message, a walk
//! where they differ, then objects, both ways; they end in the one write path like all others. It needs one live layout:
//! while a change is under way transfers do the same and more.
//!
//! Bounds: one round at a time; 16 objects under way; a rate in bytes a second; three tries of a step that gets no answer,
//! then the round ends and says what it did not finish. Clients come first: what finds a full queue waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::Mutex as Turn;
use tracing::{debug, info};

use super::mend::merge_into;
use crate::causality::digest_of_record;
use crate::cluster::{Known, LayoutKeeper};
use crate::env::Env;
use crate::merkle::{Difference, Exchange, Read as Surveyed, Roots, RootsReply, Terms, Walk, Width};
use crate::metrics::Metrics;
use crate::pacing::TokenBucket;
use crate::peers::Peers;
use crate::replica::{Cause, Fault, Place, Replica, name_of};
use crate::ring::{BucketSettings, Layout};
use crate::transport::messages::merkle::{CompareRoots, Descend};
use crate::transport::messages::{Ask, Held, Read, Target, Tell, Write};
use crate::types::{Mono, PartitionId, StoreId};

const CALL_FOR: Duration = Duration::from_secs(5);
/// Objects exchanged at once.
const AT_ONCE: usize = 16;
const TRIES: u32 = 3;
/// Between two looks at what is due.
const TICK: Duration = Duration::from_secs(1);
const GIVE_WAY: Duration = Duration::from_millis(20);
/// Trees read between two pauses.
const TREES: usize = 16;
/// How soon after either side came up, at least; as much again at random.
const SOON: Duration = Duration::from_secs(10);

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
        self.bytes += other.bytes;
        self.unfinished += other.unfinished;
    }
}

/// What to compare.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Scope {
    /// This partition alone.
    pub partition: Option<PartitionId>,
    /// Only say what differs.
    pub dry_run: bool,
}

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
    rate: Option<Mutex<TokenBucket>>,
    burst: u64,
    /// One round at a time.
    turn: Turn<()>,
    due: Mutex<BTreeMap<StoreId, Due>>,
}

/// When another member is compared with next.
#[derive(Clone, Copy, Debug)]
struct Due {
    at: Mono,
    was_up: bool,
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
    ) -> Self {
        let burst = rate.max(1 << 20);
        let rate = (rate > 0).then(|| Mutex::new(TokenBucket::new(rate, burst, env.clock.now())));
        let (turn, due) = (Turn::new(()), Mutex::default());
        let env = env.clone();
        let inner = Inner { env, replica, peers, keeper, metrics, window, interval, rate, burst, turn, due };
        let this = Self { inner: Arc::new(inner) };
        this.inner.env.tasks.spawn(this.clone().run());
        this
    }

    async fn run(self) {
        loop {
            self.inner.env.clock.sleep(TICK).await;
            let Some(known) = self.settled() else { continue };
            for peer in self.due_now(&known) {
                let done = self.round(peer, Scope::default()).await;
                if done.keys > 0 {
                    info!(%peer, ?done, "replicas differed");
                }
            }
        }
    }

    /// Compares with every other owner that is up, now.
    pub async fn repair(&self, scope: Scope) -> Repaired {
        let mut done = Repaired::default();
        let Some(known) = self.settled() else { return Repaired { unfinished: 1, ..done } };
        for peer in others(&known) {
            done.add(self.round(peer, scope).await);
        }
        done
    }

    /// What is known of layouts, where just one is live and this node is a member of it.
    fn settled(&self) -> Option<Arc<Known>> {
        self.inner.keeper.known().filter(|known| known.chain.live().len() == 1 && known.is_member())
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
        for peer in mine {
            let is_up = up.is_up(peer);
            let soon = now + SOON.min(*interval / 2) + within(SOON.min(*interval / 2));
            let its = all.entry(peer).or_insert(Due { at: soon, was_up: is_up });
            if is_up && !its.was_up {
                its.at = its.at.min(soon);
            }
            its.was_up = is_up;
            if is_up && its.at <= now {
                its.at = now + *interval * 3 / 4 + within(*interval / 4);
                due.push(peer);
            }
        }
        due
    }

    /// One round with one other member.
    async fn round(&self, peer: StoreId, scope: Scope) -> Repaired {
        let _turn = self.inner.turn.lock().await;
        let mut done = Repaired::default();
        let Some(known) = self.settled() else { return done };
        for (classes, mut partitions) in shared(known.newest(), known.me, peer) {
            partitions.retain(|partition| scope.partition.is_none_or(|only| only == *partition));
            let mut unfinished: BTreeSet<PartitionId> = partitions.iter().copied().collect();
            if let Err(why) = self.compare(&known, peer, classes, scope, &mut unfinished, &mut done).await {
                debug!(%peer, why, "a comparison ended early");
            }
            done.unfinished += unfinished.len() as u64;
        }
        let metrics = &self.inner.metrics.repair;
        metrics.rounds.inc();
        metrics.compared.inc_by(done.compared);
        metrics.differed.inc_by(done.differed);
        metrics.repaired.inc_by(done.repaired);
        metrics.bytes.inc_by(done.bytes);
        done
    }

    /// Compares partitions that both own for the same classes, and exchanges what differs. Takes out of `unfinished` what
    /// was compared to the end.
    async fn compare(
        &self,
        known: &Known,
        peer: StoreId,
        classes: Vec<u16>,
        scope: Scope,
        unfinished: &mut BTreeSet<PartitionId>,
        done: &mut Repaired,
    ) -> Result<(), String> {
        let Inner { env, replica, .. } = &*self.inner;
        let width = if scope.dry_run { Width::Full } else { Width::Short };
        let mut terms = Terms { salt: env.entropy.u64(), width, first: replica.first_hour(), classes };
        let mut differ = Vec::new();
        let partitions: Vec<PartitionId> = unfinished.iter().copied().collect();
        'again: loop {
            let mut roots = Vec::new();
            for (at, partition) in partitions.iter().enumerate() {
                // What is not whole here is merged by other means first.
                if let Some(tree) = self.patiently(|| replica.tree(*partition, &terms)).await? {
                    roots.push((*partition, tree.root()));
                }
                if at % TREES == TREES - 1 {
                    env.clock.sleep(Duration::from_millis(1)).await;
                }
            }
            for asked in Roots::of(&terms, &roots) {
                let Tell::RootsCompared(reply) =
                    self.ask(known, peer, Ask::CompareRoots(CompareRoots::from(&asked))).await?
                else {
                    return Err("it answers something else".into());
                };
                match reply.read() {
                    Some(RootsReply::Later(first)) if first > terms.first => {
                        // An hour passed: all roots are others now. It has passed here, too, or is about to.
                        terms.first = first;
                        differ.clear();
                        continue 'again;
                    }
                    Some(RootsReply::Compared { differ: theirs, cannot }) => {
                        for (partition, _) in &asked.roots {
                            if !cannot.contains(partition) {
                                done.compared += 1;
                                unfinished.remove(partition);
                            }
                        }
                        differ.extend(theirs.into_iter().filter(|at| asked.roots.iter().any(|(had, _)| had == at)));
                    }
                    _ => return Err("its comparison of roots is none".into()),
                }
            }
            break;
        }
        done.differed += differ.len() as u64;
        unfinished.extend(&differ);
        let mut walk = Walk::new(terms, differ.iter().copied());
        let walked = self.walk(known, peer, &mut walk, scope, done).await;
        unfinished.retain(|partition| {
            !differ.contains(partition) || walk.unfinished().contains(partition) || walked.is_err()
        });
        walked
    }

    async fn walk(
        &self,
        known: &Known,
        peer: StoreId,
        walk: &mut Walk,
        scope: Scope,
        done: &mut Repaired,
    ) -> Result<(), String> {
        let Inner { replica, .. } = &*self.inner;
        let mut failures = 0;
        loop {
            let wanted = walk.wanted(replica.first_hour());
            if wanted.is_empty() {
                return Ok(());
            }
            let mut read: BTreeMap<PartitionId, Surveyed> = BTreeMap::new();
            for of in wanted {
                let partition = of.partition;
                if let Some(found) = self.patiently(|| replica.survey(of.clone(), walk.terms())).await? {
                    read.insert(partition, found);
                }
            }
            let Some(request) = walk.ask(&read) else { continue };
            drop(read);
            let reply = match self.ask(known, peer, Ask::Descend(Descend::from(&request))).await {
                Ok(Tell::Descended(reply)) => reply.read().ok_or("its answer is none")?,
                Ok(_) => return Err("it answers something else".into()),
                Err(_) if failures + 1 < TRIES => {
                    failures += 1;
                    walk.lost();
                    continue;
                }
                Err(why) => return Err(why),
            };
            failures = 0;
            let found = walk.answered(reply).map_err(|unexpected| unexpected.to_string())?;
            done.keys += found.len() as u64;
            if !scope.dry_run {
                self.exchange_all(known, peer, found, done).await;
            }
        }
    }

    async fn exchange_all(&self, known: &Known, peer: StoreId, found: Vec<Difference>, done: &mut Repaired) {
        let exchanges = found.into_iter().map(|difference| self.exchange(known, peer, difference));
        let mut running = futures_util::stream::iter(exchanges).buffer_unordered(AT_ONCE);
        while let Some(exchanged) = running.next().await {
            match exchanged {
                Ok(bytes) => {
                    done.repaired += 1;
                    done.bytes += bytes;
                }
                Err(why) => {
                    self.inner.metrics.repair.failures.inc();
                    debug!(%peer, why, "a key that differs could not be made equal yet");
                }
            }
        }
    }

    /// Makes one key equal on both sides. Gives the bytes of the records that travelled.
    async fn exchange(&self, known: &Known, peer: StoreId, difference: Difference) -> Result<u64, String> {
        let Inner { replica, keeper, .. } = &*self.inner;
        let layout = known.newest();
        let (id, generation) = name_of(&difference.stored).ok_or("it names no key")?;
        let place = Place::of(layout.grid(), &id, generation);
        let settings = layout.settings(&id.bucket);
        let both_own =
            |store| layout.member_by_store(store).is_some_and(|at| layout.owns(at, place.partition, settings));
        if place.stored != difference.stored || place.partition != difference.partition {
            return Err("it names a key of another partition".into());
        }
        if generation != settings.generation || !both_own(known.me) || !both_own(peer) {
            // Emptied, or placed elsewhere: what is left of it goes by other means.
            return Ok(0);
        }
        let target = Target { bucket: id.bucket.as_str().to_owned(), generation, key: id.key.as_bytes().clone() };
        let _guard = keeper.held().take();
        let mut bytes = 0;
        let mut fetched = None;
        if difference.exchange != Exchange::Send {
            let read = Read { target: target.clone(), have: None, to_mend: true };
            let Tell::Copy(copy) = self.ask(known, peer, Ask::Read(read)).await? else {
                return Err("it answers something else".into());
            };
            if let (Held::Object, Some(record)) = (copy.held(), copy.record) {
                bytes += record.len() as u64;
                fetched = Some(digest_of_record(&record));
                self.pace(record.len() as u64).await;
                self.merge(layout, target.clone(), record).await?;
            }
        }
        if difference.exchange != Exchange::Fetch
            && let Some(record) = self.patiently(|| replica.read_to_mend(place.clone())).await?
            && fetched != Some(digest_of_record(&record))
        {
            bytes += record.len() as u64;
            self.pace(record.len() as u64).await;
            let write = Write { target, record, epoch: 0, flush: false, repair: true };
            let Tell::Written(_) = self.ask(known, peer, Ask::Write(write)).await? else {
                return Err("it answers something else".into());
            };
        }
        Ok(bytes)
    }

    async fn merge(&self, layout: &Layout, target: Target, record: Bytes) -> Result<(), String> {
        let Inner { replica, window, .. } = &*self.inner;
        self.patiently(|| merge_into(replica, layout, *window, target.clone(), record.clone(), Cause::Repair)).await
    }

    async fn ask(&self, known: &Known, peer: StoreId, ask: Ask) -> Result<Tell, String> {
        let reply = self.inner.peers.call(peer, ask, known.newest().version(), CALL_FOR).await;
        match reply.map_err(|failed| failed.to_string())?.tell {
            Some(Tell::Refused(refused)) => Err(refused.detail),
            Some(tell) => Ok(tell),
            None => Err("it answers nothing".into()),
        }
    }

    /// Gives way to clients where the storage threads have enough to do.
    async fn patiently<T, F: Future<Output = Result<T, Fault>>>(&self, job: impl Fn() -> F) -> Result<T, String> {
        loop {
            match job().await {
                Err(Fault::Overloaded) => self.inner.env.clock.sleep(GIVE_WAY).await,
                done => return done.map_err(|fault| fault.to_string()),
            }
        }
    }

    /// Waits until the rate allows for these bytes.
    async fn pace(&self, bytes: u64) {
        let Some(rate) = &self.inner.rate else { return };
        loop {
            let now = self.inner.env.clock.now();
            let taken = rate.lock().unwrap_or_else(PoisonError::into_inner).take(now, bytes.min(self.inner.burst));
            match taken {
                Ok(()) => return,
                Err(wait) => self.inner.env.clock.sleep(wait).await,
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

//! Replay: what owners missed is sent to them once they are back.
//!
//! The storage threads keep the hints (`replica::hints`); this worker reads them, an owner at a time and side by side, reads
//! each object from this node's own store *after* its hint, sends it as any write is sent, in all live layouts, and has the
//! hint ended if it is still the one that was read. So the newest state travels, and nothing that was written meanwhile is
//! taken for sent.
//!
//! An owner that owns the object in no live layout any more has been replaced: what it missed goes to all who own it now,
//! up or down itself. Who of them does not take it is left a hint of its own; but whoever has ended never comes back, and is
//! left none, whatever an older layout says that is still live: two of them would be left each other's for ever.
//!
//! A hint *by value* holds what is sent, and the owner that it is for may be the first to see it. So while layouts change
//! it goes to all owners in all live layouts, as every state that reaches one of them does; and what this node itself owns
//! by now it merges. What was owed is let go only once those that took it have flushed it.
//!
//! Nobody waits for anybody: each owner has its own window, which opens and closes with how fast it answers; one that is
//! down, slow or full holds up no other, and a key that cannot be read or sent now holds up no other key. Everybody who
//! was left hints by many nodes would hear from all of them at once when it comes back: each begins at a time of its own.
//!
//! Bounds: `WINDOW` objects under way and a page of `PAGE` hints for each owner; a rate in bytes a second that all share;
//! hints older than the hint window are dropped, and their partitions marked, whether or not their owner is up.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Semaphore;
use tracing::{debug, info};

use super::rate::Rate;
use super::worker::{Roster, Worker};
use crate::causality::{MergeRules, decode_object, digest_of_record, encode_object};
use crate::cluster::{Known, LayoutKeeper};
use crate::collect::Epoch;
use crate::env::Env;
use crate::metrics::{Dropped, Metrics};
use crate::pacing::{AdaptiveWindow, Backoff};
use crate::peers::Peers;
use crate::replica::{Cause, Fault, Hint, HintEnd, HintPage, KeepRequest, MergeRequest, Place, Replica, name_of};
use crate::ring::Mode;
use crate::ring::live::holders;
use crate::transport::messages::{Ask, Refusal, Target, Tell, Write};
use crate::types::{Mono, ObjectId, PartitionId, StoreId, Wall};

const CALL_FOR: Duration = Duration::from_secs(5);
/// Most objects under way to one owner.
const WINDOW: usize = 256;
/// Hints read at once.
const PAGE: usize = 256;
/// After so many keys one after the other that cannot be sent it is not the keys.
const IN_A_ROW: u32 = 64;
/// Most bytes sent in one go where there is a rate.
const BURST: u64 = 1 << 20;
/// Within this after an owner is back it hears from this node.
const BEGINS_WITHIN: Duration = Duration::from_secs(1);
/// Between two looks at an owner that is down, and two rounds where hints keep coming.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Between two searches for hints that are too old, at least.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// So long after a layout has come or gone hints are left that were decided upon before it, at most.
const LATE_FOR: Duration = Duration::from_secs(60);
/// After a round in which something failed.
const AGAIN: Backoff = Backoff { base: Duration::from_millis(200), cap: Duration::from_secs(20) };
/// A storage thread has enough to do.
const GIVE_WAY: Duration = Duration::from_millis(20);
/// How often one operation gives way.
const GIVES_WAY: u32 = 50;

/// How replaying is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HintOptions {
    /// How long a hint is kept.
    pub window: Duration,
    /// How long, by an object's own stamps, request ids are remembered; the same on all nodes.
    pub idempotency_window: Duration,
    /// Most bytes a second that are sent; 0: as many as there are.
    pub rate: u64,
}

/// What is done about one owner's hints.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Stage {
    /// The owner is down.
    #[default]
    Waiting,
    /// It is up, and hears from this node soon.
    Starting,
    /// They are being sent.
    Replaying,
    /// Something failed: again, later.
    BackingOff,
    /// It is no member any more: they are being sent to those that own their objects now.
    Replaced,
    /// The worker was told to pause.
    Paused,
}

impl Stage {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Replaying => "replaying",
            Self::BackingOff => "backing_off",
            Self::Replaced => "replaced",
            Self::Paused => "paused",
        }
    }
}

/// How far one owner's hints are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Replaying {
    /// What is being done.
    pub stage: Stage,
    /// Hints ended since the first of those that wait now was left, because everybody has what they were for.
    pub replayed: u64,
    /// Why the last send that failed did.
    pub trouble: Option<String>,
}

/// Sends what owners missed. Clones are the same worker.
#[derive(Clone)]
pub struct Hints {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    replica: Replica,
    peers: Peers,
    keeper: LayoutKeeper,
    metrics: Arc<Metrics>,
    window: Duration,
    idempotency_window: Duration,
    rate: Rate,
    worker: Worker,
    /// The owners that something is under way for.
    targets: Mutex<BTreeMap<StoreId, Replaying>>,
    /// Objects that are in memory because of hints, for all owners together: a window counts them, whatever their size.
    turns: Semaphore,
}

/// Objects read and on their way at once.
const TURNS: usize = 32;

/// How far what an owner that is down owns no more has been passed on.
#[derive(Default)]
struct Astray {
    /// The layouts that were live when it was last looked for.
    live: Vec<u64>,
    /// How often it is to be looked for still, and when next.
    looks: u32,
    at: Mono,
    attempt: u32,
}

/// Why something was not sent.
#[derive(Debug)]
enum Unsent {
    /// This key, now.
    Key(String),
    /// Nothing is to be had of the owner now.
    Owner(String),
}

impl std::fmt::Debug for Hints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Hints").field(&*self.targets()).finish()
    }
}

impl Hints {
    /// Begins to send, in tasks of the node.
    #[must_use]
    pub fn start(
        env: &Env,
        replica: Replica,
        peers: Peers,
        keeper: LayoutKeeper,
        metrics: Arc<Metrics>,
        options: HintOptions,
        roster: &Roster,
    ) -> Self {
        let HintOptions { window, idempotency_window, rate } = options;
        let worker = roster.register("hints", "Sends owners that are back what they missed.", Some(rate));
        let rate = Rate::new(env, rate, rate.min(BURST));
        let targets = Mutex::default();
        let turns = Semaphore::new(TURNS);
        let inner = Inner {
            env: env.clone(),
            replica,
            peers,
            keeper,
            metrics,
            window,
            idempotency_window,
            rate,
            worker,
            targets,
            turns,
        };
        let this = Self { inner: Arc::new(inner) };
        env.tasks.spawn(this.clone().run());
        this
    }

    fn targets(&self) -> MutexGuard<'_, BTreeMap<StoreId, Replaying>> {
        self.inner.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far it is, by owner.
    #[must_use]
    pub fn now(&self) -> BTreeMap<StoreId, Replaying> {
        self.targets().clone()
    }

    /// A task for everybody who has none and for whom hints wait.
    async fn run(self) {
        let Inner { env, replica, .. } = &*self.inner;
        let mut changes = replica.hints().watch();
        loop {
            changes.mark_unchanged();
            {
                // Held, so that a task that ends because nothing waits has either ended or sees what waits now.
                let mut targets = self.targets();
                for target in replica.hints().targets().into_keys() {
                    targets.entry(target).or_insert_with(|| {
                        env.tasks.spawn(self.clone().replay(target));
                        Replaying::default()
                    });
                }
            }
            // The replica outlives this task, so the sender is never gone while it waits.
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn tell(&self, target: StoreId, change: impl FnOnce(&mut Replaying)) {
        if let Some(replaying) = self.targets().get_mut(&target) {
            change(replaying);
        }
    }

    /// Whether nothing waits for an owner any more: then its task ends.
    fn is_over(&self, target: StoreId) -> bool {
        let mut targets = self.targets();
        let over = self.inner.replica.hints().waiting(target).is_none();
        if over && let Some(Replaying { replayed: 1.., .. }) = targets.remove(&target) {
            debug!(%target, "has what it missed, as far as was noted here");
        }
        over
    }

    async fn replay(self, target: StoreId) {
        let Inner { env, peers, worker, .. } = &*self.inner;
        let (mut window, mut attempt, mut begun, mut swept) = (AdaptiveWindow::new(WINDOW), 0, false, None);
        let (mut at, mut astray) = (Bytes::new(), Astray::default());
        let (mut changes, mut bell) = (peers.watch(), worker.bell());
        while !self.is_over(target) {
            if worker.is_paused() {
                self.tell(target, |replaying| replaying.stage = Stage::Paused);
                worker.allowed().await;
            }
            changes.mark_unchanged();
            self.sweep(target, &mut swept).await;
            let Some(replaced) = self.can_be_sent(target) else {
                begun = false;
                self.pass_on(target, &mut window, &mut astray).await;
                self.tell(target, |replaying| replaying.stage = Stage::Waiting);
                tokio::select! {
                    biased;
                    _ = changes.changed() => {}
                    () = env.clock.sleep(LOOK_AGAIN) => {}
                }
                continue;
            };
            if !begun {
                begun = true;
                self.tell(target, |replaying| replaying.stage = Stage::Starting);
                info!(%target, waiting = ?self.inner.replica.hints().waiting(target), "what it missed is sent to it");
                let micros = u64::try_from(BEGINS_WITHIN.as_micros()).unwrap_or(u64::MAX);
                env.clock.sleep(Duration::from_micros(env.entropy.below(micros))).await;
                continue;
            }
            let stage = if replaced { Stage::Replaced } else { Stage::Replaying };
            self.tell(target, |replaying| replaying.stage = stage);
            let round = {
                let _run = worker.begin();
                self.round(target, &mut window, &mut at, false).await
            };
            match round {
                Ok(()) => {
                    attempt = 0;
                    if self.is_over(target) {
                        return;
                    }
                    // They come faster than they go, or some cannot be sent now: not in a circle without a pause.
                    env.clock.sleep(LOOK_AGAIN).await;
                }
                // What is under way has ended; it goes on behind that.
                Err(_) if worker.is_paused() => {}
                Err(why) => {
                    debug!(%target, why, "what it missed cannot be sent now");
                    worker.failed(format!("for {target}: {why}"));
                    self.inner.metrics.hints.failures.inc();
                    self.tell(target, |replaying| {
                        (replaying.stage, replaying.trouble) = (Stage::BackingOff, Some(why));
                    });
                    worker.rest(&mut bell, AGAIN.delay(attempt, env.entropy.u64())).await;
                    attempt += 1;
                }
            }
        }
    }

    /// Whether something can be sent because of an owner's hints, and whether that is to others, in its place.
    fn can_be_sent(&self, target: StoreId) -> Option<bool> {
        if self.inner.env.buggify.breaks("hints are replayed") {
            return None;
        }
        let known = self.inner.keeper.known()?;
        let member = |layout: &crate::ring::Layout| layout.member_by_store(target).is_some();
        let gone = known.chain.ended().contains(&target) || !known.chain.live().iter().any(member);
        if gone { Some(true) } else { self.inner.peers.up().is_up(target).then_some(false) }
    }

    /// Of an owner that is down: what it owns no more goes to those that do, and what nobody is owed any more is dropped.
    /// Looked for where a layout has come or gone, and once more later.
    async fn pass_on(&self, target: StoreId, window: &mut AdaptiveWindow, astray: &mut Astray) {
        let Inner { env, keeper, worker, metrics, .. } = &*self.inner;
        let breaks = |rule| env.buggify.breaks(rule);
        if breaks("hints are replayed") || breaks("what an owner owns no more is not kept for it") {
            return;
        }
        let Some(known) = keeper.known() else { return };
        let (now, live) = (env.clock.now(), known.live());
        if astray.live != live {
            *astray = Astray { live, looks: 2, at: now, attempt: 0 };
        }
        if astray.looks == 0 || now < astray.at {
            return;
        }
        let _run = worker.begin();
        match self.round(target, window, &mut Bytes::new(), true).await {
            Ok(()) => (astray.looks, astray.at, astray.attempt) = (astray.looks - 1, now + LATE_FOR, 0),
            Err(why) => {
                debug!(%target, why, "what it owns no more cannot be sent to others now");
                worker.failed(format!("in place of {target}: {why}"));
                metrics.hints.failures.inc();
                self.tell(target, |replaying| replaying.trouble = Some(why));
                astray.at = now + AGAIN.delay(astray.attempt, env.entropy.u64());
                astray.attempt += 1;
            }
        }
    }

    /// Whether a hint is for its owner no more, whatever that one is at: it owns the object in no live layout, or the bucket
    /// was emptied since.
    fn is_astray(&self, target: StoreId, stored: &Bytes) -> bool {
        let (Some(known), Some((id, generation))) = (self.inner.keeper.known(), name_of(stored)) else { return false };
        let newest = known.newest();
        let partition = newest.partition(id.token());
        generation < newest.settings(&id.bucket).generation || owned_by(&known, partition, &id, target).is_empty()
    }

    /// Goes through all that waits for an owner behind `at`, or what of it is astray. An error where it makes no sense to go
    /// on; then `at` is where the next round begins, so that what cannot be sent is in nobody's way.
    async fn round(
        &self,
        target: StoreId,
        window: &mut AdaptiveWindow,
        at: &mut Bytes,
        astray: bool,
    ) -> Result<(), String> {
        let (mut after, mut last, mut unsent, mut in_a_row) = (std::mem::take(at), false, None, 0);
        let (mut ended, mut failed) = (0_u64, None);
        let mut queue: VecDeque<(Bytes, Hint)> = VecDeque::new();
        let mut sending = FuturesUnordered::new();
        loop {
            while sending.len() < window.size() && unsent.is_none() {
                let Some((stored, hint)) = queue.pop_front() else {
                    if last {
                        break;
                    }
                    match self.page(target, &after).await {
                        Ok(page) => {
                            let goes = |(stored, _): &(Bytes, Hint)| !astray || self.is_astray(target, stored);
                            queue.extend(page.entries.into_iter().filter(goes));
                            if page.unreadable > 0 {
                                failed = Some(format!("{} hints cannot be read", page.unreadable));
                            }
                            (last, after) = (page.next.is_none(), page.next.unwrap_or_default());
                        }
                        // What is under way is waited for all the same.
                        Err(fault) => unsent = Some(format!("hints cannot be read: {fault}")),
                    }
                    continue;
                };
                sending.push(self.send_one(target, stored, hint));
            }
            let Some(sent) = sending.next().await else { break };
            match sent {
                Ok(took) => {
                    (in_a_row, ended) = (0, ended + 1);
                    took.into_iter().for_each(|took| window.on_answer(took));
                }
                Err(Unsent::Key(why)) => {
                    in_a_row += 1;
                    if in_a_row >= IN_A_ROW {
                        unsent.get_or_insert(why.clone());
                    }
                    self.inner.metrics.hints.failures.inc();
                    failed = Some(why.clone());
                    self.tell(target, |replaying| replaying.trouble = Some(why));
                }
                Err(Unsent::Owner(why)) => {
                    window.on_failure();
                    unsent.get_or_insert(why);
                }
            }
            if unsent.is_none() && self.inner.worker.is_paused() {
                unsent = Some("it was told to pause".to_owned());
            }
            if unsent.is_none() && !astray && self.can_be_sent(target).is_none() {
                unsent = Some("it is down".to_owned());
            }
        }
        if unsent.is_some() {
            *at = after;
        }
        // Where nothing that is left can be sent it is not tried in a circle.
        unsent.or(failed.filter(|_| ended == 0)).map_or(Ok(()), Err)
    }

    async fn page(&self, target: StoreId, after: &Bytes) -> Result<HintPage, Fault> {
        self.patiently(|| self.inner.replica.hints_of(target, after.clone(), PAGE)).await
    }

    /// Gives way to clients where a storage thread has enough to do.
    async fn patiently<T, F: Future<Output = Result<T, Fault>>>(&self, job: impl Fn() -> F) -> Result<T, Fault> {
        for _ in 0..GIVES_WAY {
            match job().await {
                Err(Fault::Overloaded) => self.inner.env.clock.sleep(GIVE_WAY).await,
                done => return done,
            }
        }
        Err(Fault::Overloaded)
    }

    /// Does about one hint what there is to do; tells how long its owner took to answer, where it was asked.
    async fn send_one(&self, target: StoreId, stored: Bytes, hint: Hint) -> Result<Option<Duration>, Unsent> {
        let Inner { env, replica, keeper, metrics, .. } = &*self.inner;
        let here = |fault: Fault| Unsent::Key(format!("a key cannot be read here: {fault}"));
        let end = async |why: HintEnd| {
            let ended = self.patiently(|| replica.end_hint(target, stored.clone(), hint.revision, why)).await;
            ended.map_err(here)
        };
        if self.is_too_old(&hint) {
            return end(HintEnd::Dropped(Dropped::TooOld)).await.map(|()| None);
        }
        let Some((id, generation)) = name_of(&stored) else {
            return end(HintEnd::Dropped(Dropped::Gone)).await.map(|()| None);
        };
        let Some(layout) = keeper.newest() else { return Err(Unsent::Owner("this node is in no cluster".into())) };
        let settings = layout.settings(&id.bucket);
        if generation < settings.generation {
            return end(HintEnd::Dropped(Dropped::Purged)).await.map(|()| None);
        }
        let place = Place::of(layout.grid(), &id, generation);
        let partition = place.partition;
        // Before its object is in memory, until it has been sent.
        let Ok(_turn) = self.inner.turns.acquire().await else { return Ok(None) };
        // Before it is read. What is left over from an earlier layout is as new as what it remembers, whatever this node knows.
        let owns = keeper.known().is_some_and(|known| !owned_by(&known, partition, &id, known.me).is_empty());
        let whole = owns || env.buggify.breaks("what is left over is sent as what it remembers");
        let read = if whole { replica.epoch(partition).0 } else { replica.leftover_epoch(partition).0 };
        let own = match &hint {
            Hint { kept: Some(_), refers: false, .. } => None,
            Hint { kept: Some(_), .. } if env.buggify.breaks("what was noted beside what is kept is sent") => None,
            _ => self.patiently(|| replica.read_to_mend(place.clone())).await.map_err(here)?,
        };
        let rules = MergeRules {
            last_write_wins: settings.mode == Mode::Lww,
            idempotency_window: self.inner.idempotency_window,
        };
        // Of a merge the least.
        let epoch = match (&hint.kept, &own) {
            (Some(kept), None) => kept.epoch,
            (kept, _) => kept.as_ref().map_or(read, |kept| kept.epoch.min(read)),
        };
        let found = match (hint.kept.as_ref().map(|kept| kept.record.clone()), own) {
            (Some(kept), Some(own)) => Some(both(kept, own, &rules)?),
            (kept, own) => kept.or(own),
        };
        let Some(record) = found else {
            return end(HintEnd::Dropped(Dropped::Gone)).await.map(|()| None);
        };
        self.inner.rate.pace(record.len() as u64).await;
        // Before the look at the layouts: see `Held`.
        let guard = keeper.held().take();
        let Some(known) = keeper.known() else { return Err(Unsent::Owner("this node is in no cluster".into())) };
        let target_of = Target { bucket: id.bucket.as_str().to_owned(), generation, key: id.key.as_bytes().clone() };
        let flush = hint.owed && !env.buggify.breaks("what is owed is flushed before it is let go");
        let write = Write { target: target_of, record: record.clone(), epoch, flush, repair: true };
        let sent = env.clock.now();
        let owns = !owned_by(&known, partition, &id, target).is_empty();
        let took = if hint.kept.is_some() && (!owns || known.chain.live().len() > 1) {
            self.spread(&known, &place, &id, target, &write, rules).await?;
            None
        } else if !owns {
            let missed = self.send_to_owners(&known, partition, &id, target, &write).await;
            if !missed.is_empty() {
                let digest = digest_of_record(&record);
                let leave = || replica.leave_hints(place.clone(), digest, missed.clone());
                self.patiently(leave).await.map_err(here)?;
            }
            None
        } else {
            self.send(&known, partition, &id, target, write).await?;
            metrics.hints.bytes.inc_by(record.len() as u64);
            Some(env.clock.now().since(sent))
        };
        // Held until then: what is ended here was for the layouts that it was sent in.
        end(HintEnd::Replayed).await?;
        drop(guard);
        self.tell(target, |replaying| replaying.replayed += 1);
        Ok(took)
    }

    /// Brings what was kept by value to all owners in all live layouts, and is done once the owner it was for, where that is
    /// one still, has it. For every other one that does not take it, it is kept as well.
    async fn spread(
        &self,
        known: &Known,
        place: &Place,
        id: &ObjectId,
        target: StoreId,
        write: &Write,
        rules: MergeRules,
    ) -> Result<(), Unsent> {
        let replica = &self.inner.replica;
        let here = |fault: Fault| Unsent::Key(format!("it cannot be kept here: {fault}"));
        let class = known.newest().class_of(known.newest().settings(&id.bucket));
        let (record, flush) = (write.record.clone(), write.flush);
        if !owned_by(known, place.partition, id, known.me).is_empty() {
            let (record, cause) = (record.clone(), Cause::Repair);
            let epoch = Epoch(write.epoch);
            let merge = MergeRequest { place: place.clone(), record, rules, class, flush, cause, epoch };
            self.patiently(|| replica.merge(merge.clone())).await.map_err(here)?;
        }
        let owns = !owned_by(known, place.partition, id, target).is_empty();
        if owns {
            self.send(known, place.partition, id, target, write.clone()).await?;
        }
        for owner in self.send_to_owners(known, place.partition, id, target, write).await {
            let (place, record, epoch) = (place.clone(), record.clone(), write.epoch);
            let sealed = replica.heard(place.partition);
            let keep = KeepRequest { place, owner, record, epoch, sealed, rules, flush };
            self.patiently(|| replica.keep_hint(keep.clone())).await.map_err(here)?;
        }
        Ok(())
    }

    /// Sends an object to all its owners in all live layouts, but for this node, `target`, and those that have ended; tells who
    /// of them has not taken it.
    async fn send_to_owners(
        &self,
        known: &Known,
        partition: PartitionId,
        id: &ObjectId,
        target: StoreId,
        write: &Write,
    ) -> Vec<StoreId> {
        let live = known.chain.live().iter();
        let owners = live.flat_map(|layout| holders(layout, partition, Some(&id.bucket)).stores().collect::<Vec<_>>());
        let all = self.inner.env.buggify.breaks("who has ended is left no hints");
        let ended = |owner: &StoreId| !all && known.chain.ended().contains(owner);
        let mut owners: Vec<StoreId> =
            owners.filter(|owner| *owner != known.me && *owner != target && !ended(owner)).collect();
        owners.sort_unstable();
        owners.dedup();
        let sends = owners.iter().map(|owner| self.send(known, partition, id, *owner, write.clone()));
        let sent = join_all(sends).await;
        owners.into_iter().zip(sent).filter(|(_, sent)| sent.is_err()).map(|(owner, _)| owner).collect()
    }

    /// Sends an object to an owner; done once that has it in every live layout in which it owns it.
    async fn send(
        &self,
        known: &Known,
        partition: PartitionId,
        id: &ObjectId,
        to: StoreId,
        write: Write,
    ) -> Result<(), Unsent> {
        let Inner { peers, keeper, .. } = &*self.inner;
        let flush = write.flush;
        let (version, mut older) = (known.newest().version(), known.live());
        older.retain(|live| *live != version);
        older.reverse();
        let reply = peers.call_in(to, Ask::Write(write), version, older, CALL_FOR).await;
        let because_of_layouts = match reply.map(|reply| reply.tell) {
            Ok(Some(Tell::Written(written))) if flush && !written.flushed => {
                return Err(Unsent::Key("it has taken it, and not flushed it".into()));
            }
            Ok(Some(Tell::Written(written))) => {
                if owned_by(known, partition, id, to).iter().all(|version| written.layouts.contains(version)) {
                    return Ok(());
                }
                "it has dropped a layout that is live here".to_owned()
            }
            Ok(Some(Tell::Refused(refused))) => match refused.why() {
                Refusal::Layout | Refusal::NotOwner => refused.detail,
                // It has sealed a round meanwhile: read again in the next turn.
                Refusal::Syncing | Refusal::Damaged | Refusal::Malformed | Refusal::Sealed => {
                    return Err(Unsent::Key(refused.detail));
                }
                _ => return Err(Unsent::Owner(refused.detail)),
            },
            Ok(_) => return Err(Unsent::Key("it answers something else".into())),
            Err(failed) => return Err(Unsent::Owner(failed.to_string())),
        };
        // Whatever it is that it knows; whoever refused because it is behind learns from this node instead.
        if let Err(why) = keeper.catch_up(to, 0).await {
            debug!(%to, %why, "could not learn what an owner that refuses knows");
        }
        Err(Unsent::Key(because_of_layouts))
    }

    /// A node whose clock is wrong drops nothing.
    fn is_too_old(&self, hint: &Hint) -> bool {
        let Inner { env, replica, window, .. } = &*self.inner;
        !hint.owed && hint.since + *window < env.clock.wall() && replica.identity().clock_is_right()
    }

    /// Drops what is too old, whether or not the owner is up.
    async fn sweep(&self, target: StoreId, swept: &mut Option<Mono>) {
        let Inner { env, replica, window, .. } = &*self.inner;
        let now = env.clock.now();
        let oldest = replica.hints().waiting(target).map_or(Wall(u64::MAX), |waiting| waiting.oldest);
        let revision = crate::types::Digest([0; 16]);
        let some = Hint { owed: false, revision, since: oldest, kept: None, refers: true };
        let lately = swept.is_some_and(|last| now.since(last) < SWEEP_EVERY.min(*window / 4));
        if lately || oldest == Wall(u64::MAX) || !self.is_too_old(&some) {
            return;
        }
        *swept = Some(now);
        let mut after = Bytes::new();
        loop {
            // What fails is tried again with the next sweep.
            let Ok(page) = self.page(target, &after).await else { return };
            for (stored, hint) in page.entries.into_iter().filter(|(_, hint)| self.is_too_old(hint)) {
                let why = HintEnd::Dropped(Dropped::TooOld);
                let ended = self.patiently(|| replica.end_hint(target, stored.clone(), hint.revision, why)).await;
                if ended.is_err() {
                    return;
                }
            }
            match page.next {
                Some(next) => after = next,
                None => return,
            }
        }
    }
}

/// A sync point: waits until all hints that were left here up to `until` are ended, for at most `patience`; tells how many
/// of them are left, by owner. A hint that another is merged with meanwhile is the same hint, and is waited for.
pub async fn wait_for(env: &Env, replica: &Replica, until: Wall, patience: Duration) -> BTreeMap<StoreId, u64> {
    let give_up = env.clock.now() + patience;
    loop {
        let targets = replica.hints().targets().into_keys();
        let left = targets.map(|target| (target, replica.hints().left_by(target, until)));
        let left: BTreeMap<StoreId, u64> = left.filter(|(_, count)| *count > 0).collect();
        let now = env.clock.now();
        if left.is_empty() || now >= give_up {
            return left;
        }
        env.clock.sleep(GIVE_WAY.min(give_up.since(now))).await;
    }
}

/// What is kept for an owner, and what it missed of this node's own copy, in one.
fn both(kept: Bytes, own: Bytes, rules: &MergeRules) -> Result<Bytes, Unsent> {
    let damaged = |_| Unsent::Key("what is kept of it here is damaged".to_owned());
    let (mut object, own) = (decode_object(kept).map_err(damaged)?, decode_object(own).map_err(damaged)?);
    object.merge(&own, rules);
    Ok(encode_object(&object))
}

/// The live layouts in which a store owns an object.
fn owned_by(known: &Known, partition: PartitionId, id: &ObjectId, store: StoreId) -> Vec<u64> {
    if known.chain.ended().contains(&store) {
        return Vec::new();
    }
    let owns = |layout: &&crate::ring::Layout| holders(layout, partition, Some(&id.bucket)).contains(store);
    known.chain.live().iter().filter(owns).map(crate::ring::Layout::version).collect()
}

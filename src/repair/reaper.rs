//! Collection of tombstones: drives rounds until what was deleted is gone from every owner, by proof (`collect`).
//!
//! Of each bucket's objects in a partition their first owner that is up drives the rounds: buckets of other regions have other
//! owners, who alone see what is deleted there. Where something was deleted since it last looked, it goes through the
//! partition's index, whose entries say which objects are nothing but deletions, or will be; only those are read. What has
//! been deleted for `linger` (and as long as a request may be repeated, whose id goes with the object) it lists, a few
//! hundred keys a round, and takes all owners through mark, drain, seal, drop. What one of them holds otherwise is left out
//! until comparison has made them equal.
//!
//! Only while one layout is live, and only while everybody is up who has to answer: owners, those who may hold hints of the
//! partition, and those who may still hold what they owned before; these are asked once a layout. Whoever is not holds up
//! the partition, and is named.
//!
//! Whatever all owners have marked is finished first, whoever began it. While layouts change nothing begins; what is sealed
//! is finished, or forgotten, by any owner that waits for it, for nobody gains a partition before.
//!
//! Bounds: one worker; `AT_ONCE` partitions at once, one round in each; a look at a partition once in a quarter of `linger`
//! (at least every minute), 1,024 index entries or 64 records in one go, and a pause after each.

mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use tracing::{debug, info};

pub use step::take_step;

use super::worker::{Roster, Worker};
use crate::cluster::{Known, LayoutKeeper};
use crate::collect::{Drive, Epoch, HELD_MAX, LISTED_MAX, Listed, Plan, Round, RoundId, Stage, Status, Step, plan};
use crate::env::Env;
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::replica::{Deletions, Fault, OfBucket, Replica};
use crate::ring::Layout;
use crate::ring::live::{holders, settings_of};
use crate::ring::sync::placements;
use crate::transport::messages::collect::{Collect, CollectStep, Collected};
use crate::transport::messages::{Ask, Tell};
use crate::types::{Bucket, Mono, PartitionId, StoreId, Wall};

const CALL_FOR: Duration = Duration::from_secs(5);
/// Partitions at once.
const AT_ONCE: usize = 4;
/// Between two passes at most.
const PASS: Duration = Duration::from_secs(60);
/// Between two passes while a round waits to be finished.
const UNFINISHED: Duration = Duration::from_secs(2);
/// After each stretch of the index: clients come first.
const GIVE_WAY: Duration = Duration::from_millis(2);
/// How often a driver looks anew what is to be done, in one go.
const TURNS: usize = 8;

/// How a node collects.
#[derive(Clone, Copy, Debug)]
pub struct ReaperOptions {
    /// How long what is deleted stays.
    pub linger: Duration,
    /// How long requests may be repeated.
    pub idempotency_window: Duration,
    /// How far apart clocks may be.
    pub max_clock_drift: Duration,
}

/// What waits in one partition.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Waits {
    /// Deletions that are not collected yet.
    pub deletions: u64,
    /// Of those, the ones that linger no longer.
    pub ripe: u64,
    /// Who holds them up, and why.
    pub held_up: Option<HeldUp>,
}

/// Who holds up a round.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldUp {
    /// The member.
    pub by: StoreId,
    /// What is with it.
    pub why: String,
}

/// What this node remembers between passes.
#[derive(Debug, Default)]
struct Memory {
    /// The layout all this is of.
    layout: u64,
    /// Of which partitions a member that does not own them holds nothing: it takes nothing of them, either.
    clear: BTreeMap<StoreId, BTreeSet<PartitionId>>,
    waits: BTreeMap<PartitionId, Waits>,
    /// When a partition is looked at again.
    due: BTreeMap<PartitionId, Mono>,
}

/// Collects. Clones are the same worker.
#[derive(Clone)]
pub struct Reaper {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    replica: Replica,
    peers: Peers,
    keeper: LayoutKeeper,
    metrics: Arc<Metrics>,
    linger: Duration,
    worker: Worker,
    memory: Mutex<Memory>,
    /// Partitions that something is under way in.
    busy: Mutex<BTreeSet<PartitionId>>,
}

impl std::fmt::Debug for Reaper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reaper").field("linger", &self.inner.linger).finish_non_exhaustive()
    }
}

impl Reaper {
    /// Begins to collect, in a task of the node.
    #[must_use]
    pub fn start(
        env: &Env,
        replica: Replica,
        peers: Peers,
        keeper: LayoutKeeper,
        metrics: Arc<Metrics>,
        options: ReaperOptions,
        roster: &Roster,
    ) -> Self {
        let about = "Removes deletions for good once every owner has confirmed them.";
        let worker = roster.register("collection", about, None);
        let ReaperOptions { linger, idempotency_window, max_clock_drift } = options;
        let linger = linger.max(idempotency_window).max(max_clock_drift);
        let (env, memory, busy) = (env.clone(), Mutex::default(), Mutex::default());
        let inner = Inner { env, replica, peers, keeper, metrics, linger, worker, memory, busy };
        let this = Self { inner: Arc::new(inner) };
        this.inner.env.tasks.spawn(this.clone().run());
        this
    }

    /// How long what is deleted stays at least.
    #[must_use]
    pub fn linger(&self) -> Duration {
        self.inner.linger
    }

    /// What waits in the partitions that this node drives, as of its last look at each.
    #[must_use]
    pub fn waits(&self) -> BTreeMap<PartitionId, Waits> {
        self.memory().waits.clone()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.inner.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self) {
        let Inner { env, replica, worker, .. } = &*self.inner;
        let mut bell = worker.bell();
        loop {
            let unfinished = !replica.unfinished_rounds().is_empty();
            let pause = if unfinished { UNFINISHED } else { self.look_every() };
            // Not all nodes at once.
            let jitter = env.entropy.below(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX).max(1));
            let told = worker.rest(&mut bell, pause / 2 + Duration::from_millis(jitter)).await;
            let Some(known) = self.inner.keeper.known().filter(|known| known.is_member()) else { continue };
            self.pass(&known, told).await;
        }
    }

    fn look_every(&self) -> Duration {
        (self.inner.linger / 4).min(PASS)
    }

    async fn pass(&self, known: &Known, told: bool) {
        let Inner { env, replica, worker, .. } = &*self.inner;
        for partition in replica.unfinished_rounds() {
            worker.allowed().await;
            self.finish(known, partition).await;
        }
        let [layout] = known.chain.live() else { return };
        let up = self.inner.peers.up();
        let is_up = |store: StoreId| store == known.me || up.is_up(store);
        let buckets = placements(std::slice::from_ref(layout));
        let drives = |at: &PartitionId| {
            buckets.iter().any(|bucket| driver(layout, *at, bucket.as_ref(), is_up) == Some(known.me))
        };
        let mine: BTreeSet<PartitionId> = layout.grid().partitions().filter(drives).collect();
        let now = env.clock.now();
        let due: Vec<PartitionId> = {
            let mut memory = self.memory();
            if memory.layout != layout.version() {
                *memory = Memory { layout: layout.version(), ..Memory::default() };
            }
            memory.waits.retain(|at, _| mine.contains(at));
            let due = |at: &PartitionId| told || memory.due.get(at).is_none_or(|due| *due <= now);
            mine.into_iter().filter(|at| self.has_work(*at) && due(at)).collect()
        };
        if due.is_empty() {
            return self.tell();
        }
        let (_run, total) = (worker.begin(), due.len() as u64);
        let collected: u64 = futures_util::stream::iter(due.into_iter().enumerate())
            .map(async |(done, partition)| {
                worker.allowed().await;
                worker.progress(done as u64, total);
                self.turn(known, layout, partition).await
            })
            .buffer_unordered(AT_ONCE)
            .fold(0, async |sum, some| sum + some)
            .await;
        if collected > 0 {
            info!(collected, "what was deleted is gone from all owners");
        }
        self.tell();
    }

    /// Whether there may be anything to do.
    fn has_work(&self, partition: PartitionId) -> bool {
        let replica = &self.inner.replica;
        replica.may_hold_deletions(partition) || replica.still_takes_out(partition)
    }

    /// Sets the gauges.
    fn tell(&self) {
        let memory = self.memory();
        let sum: u64 = memory.waits.values().map(|waits| waits.deletions).sum();
        let held_up = memory.waits.values().filter(|waits| waits.held_up.is_some()).count();
        let metrics = &self.inner.metrics.collect;
        metrics.waiting.set(i64::try_from(sum).unwrap_or(i64::MAX));
        metrics.held_up.set(i64::try_from(held_up).unwrap_or(i64::MAX));
    }

    /// One partition's turn; tells how many deletions are gone.
    async fn turn(&self, known: &Known, layout: &Layout, partition: PartitionId) -> u64 {
        let Some(_busy) = self.take(partition) else { return 0 };
        let Inner { env, worker, .. } = &*self.inner;
        let (mut waits, mut collected) = (Waits::default(), 0);
        let ended = self.collect(known, layout, partition, &mut waits, &mut collected).await;
        if let Err(Stopped::HeldUp(held_up)) = &ended {
            debug!(%partition, by = %held_up.by, why = held_up.why, "nothing is collected for now");
            waits.held_up = Some(held_up.clone());
        }
        if let Err(Stopped::Here(fault)) = &ended {
            debug!(%partition, %fault, "nothing is collected for now");
            worker.failed(format!("partition {partition}: {fault}"));
            waits.held_up = Some(HeldUp { by: known.me, why: fault.to_string() });
        }
        if waits.deletions > 0 || ended.is_err() {
            self.inner.replica.keeps_deletions(partition);
        }
        // What could not go, or is more than one go takes, soon again; what is too young is not ripe before.
        let soon = waits.ripe > 0 || ended.is_err();
        let pause = if soon { self.look_every() } else { self.inner.linger / 4 };
        let mut memory = self.memory();
        memory.due.insert(partition, env.clock.now() + pause);
        match waits == Waits::default() {
            true => drop(memory.waits.remove(&partition)),
            false => drop(memory.waits.insert(partition, waits)),
        }
        collected
    }

    /// Of each partition one thing at a time.
    fn take(&self, partition: PartitionId) -> Option<Busy<'_>> {
        let busy = &self.inner.busy;
        let free = busy.lock().unwrap_or_else(PoisonError::into_inner).insert(partition);
        free.then_some(Busy { partition, busy })
    }

    /// Goes through a partition's deletions, round by round.
    async fn collect(
        &self,
        known: &Known,
        layout: &Layout,
        partition: PartitionId,
        waits: &mut Waits,
        collected: &mut u64,
    ) -> Result<(), Stopped> {
        let Inner { env, replica, linger, .. } = &*self.inner;
        // By a wrong clock anything is old.
        if !replica.identity().clock_is_right() {
            let why = "its clock is not known to be right".to_owned();
            return Err(Stopped::HeldUp(HeldUp { by: known.me, why }));
        }
        let linger = u64::try_from(linger.as_millis()).unwrap_or(u64::MAX);
        let before = Wall(env.clock.wall().0.saturating_sub(linger));
        // Others see what they drive themselves.
        let (me, up, of) = (known.me, self.inner.peers.up(), layout.clone());
        let mine: OfBucket<bool> = Arc::new(move |bucket| {
            driver(&of, partition, Some(bucket), |store| store == me || up.is_up(store)) == Some(me)
        });
        let (mut after, mut stopped) = (Bytes::new(), None);
        replica.looks_for_deletions(partition);
        loop {
            let (mut listed, mut next) = (Vec::new(), None);
            while listed.len() < LISTED_MAX {
                let mine = Arc::clone(&mine);
                let found = replica.deletions(partition, after.clone(), before, mine).await?;
                let Deletions { ripe, young, others, next: on } = found;
                if others {
                    // They are to be found by whoever drives them next.
                    replica.keeps_deletions(partition);
                }
                waits.deletions += young + ripe.len() as u64;
                waits.ripe += ripe.len() as u64;
                listed.extend(ripe);
                next = on;
                env.clock.sleep(GIVE_WAY).await;
                match &next {
                    Some(on) => after = on.clone(),
                    None => break,
                }
            }
            if stopped.is_none() && (!listed.is_empty() || replica.still_takes_out(partition)) {
                for some in chunks(listed) {
                    match self.rounds(known, layout, partition, some).await {
                        Ok(gone) => {
                            waits.deletions = waits.deletions.saturating_sub(gone);
                            waits.ripe = waits.ripe.saturating_sub(gone);
                            *collected += gone;
                        }
                        // What waits is counted to the end.
                        Err(why) => stopped = Some(why),
                    }
                    if stopped.is_some() {
                        break;
                    }
                }
            }
            if next.is_none() {
                return stopped.map_or(Ok(()), Err);
            }
        }
    }

    /// Finishes what waits, then begins a round of these and takes it to its end; tells how many went.
    async fn rounds(
        &self,
        known: &Known,
        layout: &Layout,
        partition: PartitionId,
        mut listed: Vec<Listed>,
    ) -> Result<u64, Stopped> {
        let Inner { env, replica, metrics, .. } = &*self.inner;
        let owners = owners(layout, partition);
        let holders = holders_of_hints(known, layout, partition, &owners);
        self.all_up(known, &holders)?;
        self.no_leftovers(known, layout, partition, &owners, &holders).await?;
        let empty = listed.is_empty();
        for _ in 0..TURNS {
            let said = self.statuses(known, partition, &owners).await?;
            for id in given_up(said.whole.values()) {
                self.forget(known, partition, &said, id, true).await?;
            }
            let Some((epoch, after)) = self.go_on(known, layout, partition, &said, &holders).await? else { continue };
            if listed.is_empty() && !(empty && replica.still_takes_out(partition)) {
                return Ok(0);
            }
            let round = Round::new(epoch, env.entropy.u64(), std::mem::take(&mut listed), after);
            let mark = Collect::mark(partition.0, said.sealed, &round);
            let mut drive = Drive::begin(round.id(), owners.clone(), holders.clone());
            let marked = self.mark(known, &mut drive, mark).await;
            if !matches!(&marked, Ok(differs) if differs.is_empty()) {
                // Given up: this node has not marked it. Whoever cannot be told now is told when they are many.
                let _ = self.forget(known, partition, &said, round.id(), true).await;
            }
            let differs = marked?;
            if differs.is_empty() {
                self.drive(known, partition, said.sealed, drive).await?;
                metrics.collect.rounds.inc();
                return Ok(round.listed().len() as u64);
            }
            // Left out, until they are equal everywhere.
            listed = round.listed().to_vec();
            listed.retain(|listed| !differs.contains(&listed.stored));
        }
        Ok(0)
    }

    /// Asks all to mark; gives the keys that some hold otherwise.
    async fn mark(&self, known: &Known, drive: &mut Drive, mark: Collect) -> Result<BTreeSet<Bytes>, Stopped> {
        let mut differs = BTreeSet::new();
        // This node last: what others do not mark it need not forget.
        let (mine, others): (Vec<StoreId>, Vec<StoreId>) =
            drive.waits().iter().copied().partition(|owner| *owner == known.me);
        for some in [others, mine] {
            if !differs.is_empty() {
                break;
            }
            let asked = some.iter().map(|owner| self.ask(known, *owner, mark.clone()));
            for (owner, told) in some.iter().zip(join_all(asked).await) {
                let told = told?;
                if told.done {
                    drive.done(*owner, Step::Mark);
                } else if told.differs.is_empty() {
                    return Err(Stopped::HeldUp(HeldUp { by: *owner, why: told.detail }));
                }
                differs.extend(told.differs);
            }
        }
        Ok(differs)
    }

    /// Takes a round to its end.
    async fn drive(
        &self,
        known: &Known,
        partition: PartitionId,
        sealed: Epoch,
        mut drive: Drive,
    ) -> Result<(), Stopped> {
        while let Some(step) = drive.step() {
            let word = match step {
                Step::Mark => CollectStep::Mark,
                Step::Drain => CollectStep::Drain,
                Step::Seal => CollectStep::Seal,
                Step::Drop => CollectStep::Drop,
            };
            if step == Step::Drain && self.inner.env.buggify.breaks("hints are drained before a seal") {
                drive.waits().clone().into_iter().for_each(|store| drive.done(store, step));
                continue;
            }
            let asked = Collect::of_round(partition.0, sealed, word, drive.round());
            let some: Vec<StoreId> = drive.waits().iter().copied().collect();
            let told = join_all(some.iter().map(|store| self.ask(known, *store, asked.clone()))).await;
            for (store, told) in some.into_iter().zip(told) {
                let told = told?;
                if !told.done {
                    return Err(Stopped::HeldUp(HeldUp { by: store, why: told.detail }));
                }
                drive.done(store, step);
            }
        }
        Ok(())
    }

    async fn forget(
        &self,
        known: &Known,
        partition: PartitionId,
        owners: &Owners,
        id: RoundId,
        given_up: bool,
    ) -> Result<(), Stopped> {
        let asked = Collect { given_up, ..Collect::of_round(partition.0, owners.sealed, CollectStep::Forget, id) };
        let told = join_all(owners.whole.keys().map(|owner| self.ask(known, *owner, asked.clone()))).await;
        told.into_iter().try_for_each(|told| told.map(drop))
    }

    /// How far all owners are. One that is behind what another has sealed is told so.
    async fn statuses(
        &self,
        known: &Known,
        partition: PartitionId,
        owners: &BTreeSet<StoreId>,
    ) -> Result<Owners, Stopped> {
        let mut all = Owners { sealed: self.inner.replica.sealed(partition), ..Owners::default() };
        // Once more where one has sealed more than was known: who is behind that finds out by being asked.
        for _ in 0..2 {
            let (sealed, before) = (all.sealed, std::mem::take(&mut all.whole));
            let asked = Collect::ask(partition.0, sealed);
            let whom = owners.iter().filter(|owner| before.get(owner).is_none_or(|status| status.sealed < sealed));
            let whom: Vec<StoreId> = whom.copied().collect();
            let told = join_all(whom.iter().map(|owner| self.ask(known, *owner, asked.clone()))).await;
            all.whole = before;
            for (owner, told) in whom.into_iter().zip(told) {
                let nonsense = || HeldUp { by: owner, why: "it answers what makes no sense".into() };
                let told = told?;
                let status = told.status().ok_or_else(|| Stopped::HeldUp(nonsense()))?;
                all.sealed = all.sealed.max(status.sealed);
                all.whole.insert(owner, status);
                if told.behind {
                    all.behind.insert(owner);
                }
            }
            if all.sealed == sealed {
                break;
            }
        }
        all.whole.retain(|owner, _| !all.behind.contains(owner));
        Ok(all)
    }

    /// One thing that comes before a round may begin; what it may begin with, where there is none.
    async fn go_on(
        &self,
        known: &Known,
        layout: &Layout,
        partition: PartitionId,
        owners: &Owners,
        holders: &BTreeSet<StoreId>,
    ) -> Result<Option<(Epoch, Vec<RoundId>)>, Stopped> {
        let statuses: Vec<Status> = owners.whole.values().cloned().collect();
        let is_sealed = |id: RoundId| {
            statuses.iter().any(|status| status.rounds.get(&id).is_some_and(|stage| *stage > Stage::Marked))
        };
        match plan(&statuses, layout.version()) {
            Plan::Finish(id) if is_sealed(id) => {
                // Whoever is behind had marked it as well, and gives up what it holds: those that are left finish it.
                let left = owners.whole.keys().copied().collect();
                self.drive(known, partition, owners.sealed, Drive::finish(id, left)).await.map(|()| None)
            }
            Plan::Finish(id) if owners.behind.is_empty() => {
                let drive = Drive::resume(id, owners.whole.keys().copied().collect(), holders.clone());
                self.drive(known, partition, owners.sealed, drive).await.map(|()| None)
            }
            Plan::Finish(id) | Plan::Forget(id) => {
                self.forget(known, partition, owners, id, false).await.map(|()| None)
            }
            Plan::Exhausted if statuses.iter().any(|status| status.epoch.layout() > layout.version()) => {
                let why = "a newer layout is known already: nothing begins under this one".to_owned();
                Err(Stopped::HeldUp(HeldUp { by: known.me, why }))
            }
            Plan::Exhausted => {
                let why = "this layout has had all the rounds it may have: change it".to_owned();
                Err(Stopped::HeldUp(HeldUp { by: known.me, why }))
            }
            Plan::Begin { epoch, after } => match owners.behind.first() {
                None => Ok(Some((epoch, after))),
                Some(by) => {
                    let why = "its directory went back behind a collection: the partition is copied anew".to_owned();
                    Err(Stopped::HeldUp(HeldUp { by: *by, why }))
                }
            },
        }
    }

    /// Finishes, or forgets, what owners have sealed; nothing begins. Whoever cannot be asked is waited for.
    pub(super) async fn finish(&self, known: &Known, partition: PartitionId) {
        let Some(_busy) = self.take(partition) else { return };
        for _ in 0..TURNS {
            let unfinished = self.inner.replica.rounds(partition).rounds;
            let Some(id) = unfinished.iter().find(|(_, stage)| **stage == Stage::Sealed).map(|(id, _)| *id) else {
                return;
            };
            let live = known.chain.live();
            // Whose round it was; where that layout is complete, those who own it since then had to wait for it.
            let layout = live.iter().find(|layout| layout.version() == id.epoch.layout()).unwrap_or(&live[0]);
            let mut owners = owners(layout, partition);
            owners.retain(|owner| !known.chain.ended().contains(owner));
            let holders = holders_of_hints(known, layout, partition, &owners);
            let went = match self.statuses(known, partition, &owners).await {
                Ok(owners) => self.go_on(known, layout, partition, &owners, &holders).await,
                Err(stopped) => Err(stopped),
            };
            match went {
                Ok(None) => {}
                // An owner that cannot mark it any more has not said so yet.
                Ok(Some(_)) => return,
                Err(stopped) => return debug!(%partition, %stopped, "a round waits to be finished"),
            }
        }
    }

    fn all_up(&self, known: &Known, all: &BTreeSet<StoreId>) -> Result<(), Stopped> {
        let up = self.inner.peers.up();
        let down = all.iter().find(|store| **store != known.me && !up.is_up(**store));
        down.map_or(Ok(()), |by| Err(Stopped::HeldUp(HeldUp { by: *by, why: "it is down".into() })))
    }

    /// Nobody who is no owner holds anything of a partition any more, nor keeps anything of it who stands in for nobody: its
    /// owners would refuse it.
    async fn no_leftovers(
        &self,
        known: &Known,
        layout: &Layout,
        partition: PartitionId,
        owners: &BTreeSet<StoreId>,
        holders: &BTreeSet<StoreId>,
    ) -> Result<(), Stopped> {
        let others: Vec<StoreId> = {
            let memory = self.memory();
            let clear = |store: &StoreId| memory.clear.get(store).is_some_and(|clear| clear.contains(&partition));
            let members = layout.members().iter().map(|member| member.store);
            members.filter(|store| !owners.contains(store) && !clear(store)).collect()
        };
        let asked = others.iter().map(|store| self.ask(known, *store, Collect::ask(partition.0, Epoch::FIRST)));
        for (store, told) in others.iter().zip(join_all(asked).await) {
            let told = told?;
            let why = match () {
                () if told.leftover => "it owned the partition, and has not deleted its copy yet",
                () if told.keeps && !holders.contains(store) => {
                    "it stood in for an owner, and still keeps what that missed"
                }
                () => "",
            };
            if !why.is_empty() {
                return Err(Stopped::HeldUp(HeldUp { by: *store, why: why.to_owned() }));
            }
            self.memory().clear.entry(*store).or_default().insert(partition);
        }
        Ok(())
    }

    async fn ask(&self, known: &Known, store: StoreId, asked: Collect) -> Result<Collected, Stopped> {
        let Inner { replica, peers, .. } = &*self.inner;
        if store == known.me {
            let up = peers.up();
            return Ok(take_step(replica, known, |store| up.is_up(store), asked).await?);
        }
        let why = match peers.call(store, Ask::Collect(asked), known.newest().version(), CALL_FOR).await {
            Ok(reply) => match reply.tell {
                Some(Tell::Collected(told)) => return Ok(told),
                Some(Tell::Refused(refused)) => refused.detail,
                _ => "it answers something else".to_owned(),
            },
            Err(failed) => failed.to_string(),
        };
        Err(Stopped::HeldUp(HeldUp { by: store, why }))
    }
}

/// What the owners of a partition say of themselves.
#[derive(Default)]
struct Owners {
    whole: BTreeMap<StoreId, Status>,
    /// Those that have forgotten what they marked.
    behind: BTreeSet<StoreId>,
    /// The greatest epoch that one of them has sealed.
    sealed: Epoch,
}

/// Why a round does not go on.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error("{} holds it up: {}", .0.by, .0.why)]
    HeldUp(HeldUp),
    #[error(transparent)]
    Here(#[from] Fault),
}

/// A partition that something is under way in.
struct Busy<'a> {
    partition: PartitionId,
    busy: &'a Mutex<BTreeSet<PartitionId>>,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.partition);
    }
}

/// Where an owner holds many, the rounds that not all have marked, and nobody has sealed: of drivers that gave them up.
fn given_up<'a>(statuses: impl Iterator<Item = &'a Status> + Clone) -> BTreeSet<RoundId> {
    if statuses.clone().all(|status| status.rounds.len() < HELD_MAX / 2) {
        return BTreeSet::new();
    }
    let owners = statuses.clone().count();
    let mut marks: BTreeMap<RoundId, Vec<Stage>> = BTreeMap::new();
    for (id, stage) in statuses.flat_map(|status| &status.rounds) {
        marks.entry(*id).or_default().push(*stage);
    }
    let is_given_up = |stages: &[Stage]| stages.len() < owners && stages.iter().all(|stage| *stage == Stage::Marked);
    marks.into_iter().filter(|(_, stages)| is_given_up(stages)).map(|(id, _)| id).collect()
}

/// What fits into rounds; one that is empty where there is nothing.
fn chunks(mut listed: Vec<Listed>) -> Vec<Vec<Listed>> {
    let mut chunks = Vec::new();
    while listed.len() > LISTED_MAX {
        let rest = listed.split_off(LISTED_MAX);
        chunks.push(std::mem::replace(&mut listed, rest));
    }
    chunks.push(listed);
    chunks
}

/// All who own anything of a partition.
fn owners(layout: &Layout, partition: PartitionId) -> BTreeSet<StoreId> {
    let buckets = placements(std::slice::from_ref(layout));
    buckets.iter().flat_map(|bucket| holders(layout, partition, bucket.as_ref()).stores().collect::<Vec<_>>()).collect()
}

/// Who drives the rounds of a bucket's objects in a partition: the first of their owners that is up, so that somebody counts
/// what waits for those that are not.
fn driver(
    layout: &Layout,
    partition: PartitionId,
    bucket: Option<&Bucket>,
    is_up: impl Fn(StoreId) -> bool,
) -> Option<StoreId> {
    holders(layout, partition, bucket).stores().find(|store| is_up(*store))
}

/// All who may hold hints of a partition: its owners, and those who stand in for them.
fn holders_of_hints(
    known: &Known,
    layout: &Layout,
    partition: PartitionId,
    owners: &BTreeSet<StoreId>,
) -> BTreeSet<StoreId> {
    let mut holders = owners.clone();
    for bucket in placements(std::slice::from_ref(layout)) {
        let settings = settings_of(layout, bucket.as_ref());
        holders.extend(known.chain.fallback_stores(partition, settings).map(|(_, store)| store));
    }
    holders
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Digest;

    fn id(number: u64) -> RoundId {
        RoundId { epoch: Epoch(number), nonce: 0, listed: Digest([0; 16]) }
    }

    #[test]
    fn what_drivers_gave_up_is_forgotten_once_it_is_much() {
        let holds = |marked: std::ops::Range<u64>| Status {
            rounds: marked.map(|number| (id(number), Stage::Marked)).collect(),
            ..Status::default()
        };
        assert_eq!(given_up([holds(0..7), holds(0..0)].iter()), BTreeSet::new());
        let mut many = holds(0..9);
        many.rounds.insert(id(3), Stage::Sealed);
        assert_eq!(
            given_up([many, holds(0..2)].iter()),
            (4..9).chain([2]).map(id).collect(),
            "0 and 1 all have marked"
        );
    }

    #[test]
    fn rounds_are_as_large_as_they_may_be_and_one_is_empty() {
        let listed = |count: usize| {
            let one = |n: usize| Listed {
                stored: n.to_be_bytes().to_vec().into(),
                digest: Digest([0; 16]),
                dots: Vec::new(),
            };
            (0..count).map(one).collect::<Vec<_>>()
        };
        let sizes = |count| chunks(listed(count)).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(0), [0]);
        assert_eq!(sizes(LISTED_MAX), [LISTED_MAX]);
        assert_eq!(sizes(2 * LISTED_MAX + 1), [LISTED_MAX, LISTED_MAX, 1]);
    }
}

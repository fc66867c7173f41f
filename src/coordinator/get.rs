//! The shell around a coordinated read: performs what [`GetCore`] decides, keeps the time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;

use super::floor::Floor;
use super::pending::Pending;
use super::sloppy::Kept;
use super::{Coordinator, Inner, Located, about_layouts, left, no_vote_of, no_vote_of_fault, no_vote_of_refusal};
use crate::causality::{Object, VersionVector, decode_object, digest_of_record, encode_object};
use crate::cluster::Known;
use crate::collect::Epoch;
use crate::env::BoxFuture;
use crate::kv::{Counted, Error, ErrorCode, Outcome, ReadOptions, RepairMode};
use crate::quorum::{
    self, Explain, GetAction, GetCore, GetFailure, Level, NoVote, ReadPlan, Recorder, ReplicaReply, Requirement,
};
use crate::replica::{Cause, Fault, MergeRequest};
use crate::transport::messages::collect::Collect;
use crate::transport::messages::{Ask, Held, Read, Refusal, Tell, Write};
use crate::types::{Digest, Mono, ObjectId, StoreId};

/// Never hedge sooner than this.
const HEDGE_AT_LEAST: Duration = Duration::from_millis(1);
/// Repairs that nobody waits for may take this long.
const REPAIR_FOR: Duration = Duration::from_secs(5);

/// Between two tries where a round of collection was sealed meanwhile; twice as long each time.
const AGAIN_AFTER: Duration = Duration::from_millis(2);
/// How long owners may take to hear what one of them has sealed.
const TELL_FOR: Duration = Duration::from_secs(2);

/// What a read found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The merge of the votes; none if nobody has ever had anything.
    pub object: Option<Arc<Object>>,
    /// Its digest, where that is known already.
    pub digest: Option<Digest>,
    /// The least epoch of the votes.
    pub epoch: Epoch,
    /// The generation of its bucket under which it was looked for.
    pub generation: u64,
    /// Who said so.
    pub counted: Counted,
    /// How, where it was asked for.
    pub explain: Option<Explain>,
}

/// What a read asks of the owners.
#[derive(Clone)]
pub(super) struct Needs {
    /// Who has to vote.
    pub(super) votes: Requirement,
    /// Who has to hold what is returned, with blocking repair.
    pub(super) hold: Requirement,
    pub(super) repair: RepairMode,
    /// What the result has to cover.
    pub(super) floor: Option<quorum::Floor>,
}

/// Whether what was found covers all this.
pub(super) fn cover(found: &Found, seen: &VersionVector) -> bool {
    found.object.as_ref().map_or(seen.is_empty(), |object| object.context().covers_all(seen))
}

enum Event {
    Replied(StoreId, ReplicaReply, Under),
    Repaired(StoreId, bool),
    /// It has sealed a round of collection since what it was to take was read.
    Sealed(StoreId),
}

/// What a reply was read under, and what its replica takes.
#[derive(Clone, Copy, Debug)]
struct Under {
    epoch: Epoch,
    sealed: Epoch,
}

/// Of several replies: the least epoch, the greatest sealed one. A reply that says nothing counts for nothing.
const NOTHING_YET: Under = Under { epoch: Epoch(u64::MAX), sealed: Epoch::FIRST };

impl Under {
    fn and(self, other: Self) -> Self {
        Self { epoch: self.epoch.min(other.epoch), sealed: self.sealed.max(other.sealed) }
    }

    /// Whether one was read before another's replica sealed a round: it may show what has been collected there.
    const fn is_across(self) -> bool {
        self.epoch.0 < self.sealed.0
    }
}

impl Coordinator {
    /// Reads an object, here or at an owner: something at least as new as the floor. The one that the options hold is not
    /// looked at: this is what it says.
    pub async fn get(&self, id: &ObjectId, options: &ReadOptions, floor: Option<&Floor>) -> Result<Found, Error> {
        let _admitted = self.admit()?;
        let began = self.inner.env.clock.now();
        let deadline = began + options.timeout;
        let mut looked = 0;
        loop {
            let located = self.locate(id)?;
            // A level that is wrong is wrong at every node: say so here.
            let needs = self.needs(&located, options, floor)?;
            let known = Arc::clone(&located.known);
            let found = if let Err(behind) = self.check_heard(&located, floor) {
                Err(behind)
            } else if options.sloppy {
                Box::pin(self.read_sloppy(located, needs, options, began, deadline)).await
            } else if let Err(short) = self.feasible(&located, &needs) {
                Err(short)
            } else if self.is_synced_owner(&located) && !self.would_rather_not(&located) {
                match needs.floor {
                    None => self.read_for(located, needs, Kept::default(), options, began, deadline).await,
                    Some(_) => Box::pin(self.read_covering(located, needs, options, began, deadline)).await,
                }
            } else {
                // Boxed: it would make the future of every read here that much larger.
                Box::pin(self.hand_over_read(&located, options, &needs, deadline)).await
            };
            let Err(error) = found else { return found };
            if !self.goes_on(&known, deadline) && !Box::pin(self.looks_again(&error, &mut looked, deadline)).await {
                return Err(error);
            }
        }
    }

    /// Reads as the coordinating owner.
    pub(super) async fn read_here(
        &self,
        mut located: Located,
        options: &ReadOptions,
        floor: Option<&Floor>,
        began: Mono,
        deadline: Mono,
    ) -> Result<Found, Error> {
        loop {
            let (known, id) = (Arc::clone(&located.known), located.id.clone());
            let needs = self.needs(&located, options, floor)?;
            let found = match self.feasible(&located, &needs) {
                Ok(()) => Box::pin(self.read_covering(located, needs, options, began, deadline)).await,
                Err(short) => Err(short),
            };
            match found {
                Err(_) if self.goes_on(&known, deadline) => located = self.locate(&id)?,
                found => return found,
            }
        }
    }

    /// Whether an operation that failed is begun anew, since the layouts have moved on under it.
    pub(super) fn goes_on(&self, known: &Known, deadline: Mono) -> bool {
        let goes_on = self.moved_on(known) && !left(deadline, self.inner.env.clock.now()).is_zero();
        if goes_on {
            self.inner.metrics.layout.retries.inc();
        }
        goes_on
    }

    pub(super) fn needs(
        &self,
        located: &Located,
        options: &ReadOptions,
        floor: Option<&Floor>,
    ) -> Result<Needs, Error> {
        let votes = self.require_votes(located, options.r)?;
        let repair = match options.repair {
            Some(RepairMode::Off) => RepairMode::Off,
            Some(RepairMode::Sync) if options.sloppy => {
                let detail = "repair=sync promises that owners hold what is returned, which a sloppy read cannot; say \
                              sloppy=off, or repair=async";
                return Err(Error::refused(ErrorCode::BadParameter, detail));
            }
            _ if options.sloppy => RepairMode::Async,
            asked => asked.unwrap_or_else(|| default_repair(located, &votes)),
        };
        // Repaired is where it is owed: in each live layout.
        let (hold, floor) = (self.require(located, options.r)?, self.floor_in(located, floor)?);
        Ok(Needs { votes, hold, repair, floor })
    }

    /// Refuses what can't be had now: too few are up to vote or, in the midst of a change, to hold what is returned. Else
    /// a read would wait its whole time for the dead owners of the older layout.
    fn feasible(&self, located: &Located, needs: &Needs) -> Result<(), Error> {
        let up = self.inner.peers.up();
        let Needs { votes, hold, repair, .. } = needs;
        let held = (located.route.live.len() > 1 && *repair == RepairMode::Sync).then_some(hold);
        for requirement in std::iter::once(votes).chain(held) {
            if let Err(short) = requirement.feasible(|store| up.is_up(store)) {
                return Err(self.unavailable(located, &short));
            }
        }
        Ok(())
    }

    /// Reads at the owners, beside what fallbacks keep: where they were asked, nothing is promised of what is returned but
    /// that it is merged, so nobody waits for repairs.
    pub(super) async fn read_for(
        &self,
        located: Located,
        needs: Needs,
        kept: Kept,
        options: &ReadOptions,
        began: Mono,
        deadline: Mono,
    ) -> Result<Found, Error> {
        let located = Arc::new(located);
        let mut beside = (!kept.answered.is_empty()).then(|| (needs.clone(), kept.clone()));
        let floor = needs.floor.clone();
        let (mut needs, mut kept, mut pause) = (needs, kept, AGAIN_AFTER);
        loop {
            let sealed = match self.read_once(&located, needs, kept, options, began, deadline).await? {
                Ok(found) => return Ok(found),
                Err(sealed) => sealed,
            };
            let clock = &self.inner.env.clock;
            if pause > AGAIN_AFTER {
                // Twice is no coincidence.
                self.tell_what_is_sealed(&located, sealed);
            }
            clock.sleep(pause.min(left(deadline, clock.now()))).await;
            pause *= 2;
            if left(deadline, clock.now()).is_zero() {
                let detail = "replicas answered from before and after a round of collection, until no time was left";
                return Err(Error::new(ErrorCode::ReadTimeout, Outcome::Unknown, detail));
            }
            // All are asked again: whoever has sealed had every owner's mark, so nobody answers from before it any more.
            (needs, kept) = match &mut beside {
                None => (Needs { floor: floor.clone(), ..self.needs(&located, options, None)? }, Kept::default()),
                Some((needs, kept)) => {
                    kept.leave_out(sealed, &located.rules);
                    (needs.clone(), kept.clone())
                }
            };
        }
    }

    /// Tells the owners what one of them has sealed: whoever has forgotten that it marked it finds that out by this.
    fn tell_what_is_sealed(&self, located: &Arc<Located>, sealed: Epoch) {
        let (this, located) = (self.clone(), Arc::clone(located));
        self.inner.env.tasks.spawn(async move {
            let ask = Ask::Collect(Collect::ask(located.place.partition.0, sealed));
            let version = located.known.newest().version();
            let others = located.route.stores.iter().filter(|store| **store != this.inner.me);
            join_all(others.map(|store| this.inner.peers.call(*store, ask.clone(), version, TELL_FOR))).await;
        });
    }

    /// Or what was sealed: one replica answered from before another sealed a round of collection, and nothing of it counts.
    async fn read_once(
        &self,
        located: &Arc<Located>,
        needs: Needs,
        kept: Kept,
        options: &ReadOptions,
        began: Mono,
        deadline: Mono,
    ) -> Result<Result<Found, Epoch>, Error> {
        let up = self.inner.peers.up();
        // While layouts change, owners in all of them first: what they hold counts in each.
        let apart = |store| match located.route.live.len() {
            1 => 0,
            _ => needs.hold.groups().iter().filter(|group| !group.members.contains(&store)).count(),
        };
        let far = |store| (apart(store), !located.route.is_near(store, &self.inner.region));
        let candidates = round_from(self.inner.me, &located.route.stores, |store| up.is_up(store), far);
        let Needs { votes, hold, repair, floor } = needs;
        // Before anybody votes. Where nobody waits for repairs, nothing is promised that a copy could be missing from.
        let counting = (repair == RepairMode::Sync).then(|| self.inner.keeper.held().counting(located.place.partition));
        let core_hold = hold.clone();
        let plan = ReadPlan {
            hold,
            votes,
            candidates,
            beside: kept.object,
            own: Some(self.inner.me),
            rules: located.rules,
            repair,
            floor,
            digest: Object::digest,
        };
        let core = GetCore::new(plan, options.explain.then(|| Recorder::new(began)));
        let mut run = Run {
            coordinator: self.clone(),
            located: Arc::clone(located),
            hold: core_hold,
            core,
            pending: Pending::new(),
            deadline,
            explain: options.explain,
            // What an owner keeps for another one is no vote of its own.
            kept: kept.each.into_iter().filter(|(store, ..)| !located.route.stores.contains(store)).collect(),
            answer: None,
            under: Under { epoch: kept.epoch, ..NOTHING_YET },
            again: false,
        };
        run.until_answered(options.hedge.then_some(options.r)).await;
        drop(counting);
        let answer = match run.answer.take() {
            None => Ok(Err(run.under.sealed)),
            Some(answer) => answer.map(Ok),
        };
        if !matches!(answer, Ok(Err(_))) && !run.pending.is_empty() {
            // Repairs, and replies that tell whom to repair, go on without the client.
            self.inner.env.tasks.spawn(async move { run.until_settled().await });
        }
        answer
    }
}

/// Whom to ask, in order: those that are up, then the others; of each sort those first who are least far, by their ids from
/// this node's on and round. So a node asks the same neighbour whenever it can, and what it asks goes out in fewer writes and
/// wakes one process, not all; and of an object's owners each is asked first by one of the others.
fn round_from<F: Ord>(
    me: StoreId,
    stores: &[StoreId],
    is_up: impl Fn(StoreId) -> bool,
    far: impl Fn(StoreId) -> F,
) -> Vec<StoreId> {
    let mut candidates = Vec::with_capacity(stores.len());
    candidates.extend(stores.iter().copied().filter(|store| is_up(*store)));
    let up = candidates.len();
    candidates.extend(stores.iter().copied().filter(|store| !is_up(*store)));
    let (up, down) = candidates.split_at_mut(up);
    for part in [up, down] {
        part.sort_unstable_by_key(|store| (far(*store), store.bits().wrapping_sub(me.bits())));
    }
    candidates
}

/// Blocking repair where R overlaps with every other such R (I-MONO), else after the answer.
fn default_repair(located: &Located, votes: &Requirement) -> RepairMode {
    let read = located.route.live.iter().find(|owners| owners.layout == located.known.read_version());
    let n = read.map_or(0, crate::quorum::OwnersIn::n);
    let need: usize = votes.groups().iter().map(|group| group.need).sum();
    if 2 * need > n { RepairMode::Sync } else { RepairMode::Async }
}

struct Run {
    coordinator: Coordinator,
    located: Arc<Located>,
    /// Who has to hold what is returned, with blocking repair.
    hold: Requirement,
    core: GetCore,
    pending: Pending<Event>,
    deadline: Mono,
    explain: bool,
    /// What fallbacks said that may vote in owners' places.
    kept: Vec<(StoreId, ReplicaReply, Epoch)>,
    answer: Option<Result<Found, Error>>,
    /// Of all replies that the core was told.
    under: Under,
    /// What was read is no answer any more: everybody is asked again.
    again: bool,
}

impl Run {
    fn now(&self) -> Mono {
        self.coordinator.inner.env.clock.now()
    }

    /// Whether a round of collection was sealed between what the replicas answered, or before they took what was read.
    const fn begins_again(&self) -> bool {
        self.again || self.under.is_across()
    }

    /// Where this owner is behind what another one has sealed it has forgotten a mark: it says so no longer.
    fn distrust_own(&self, sealed: Epoch) {
        let (inner, partition) = (&self.coordinator.inner, self.located.place.partition);
        let owns = self.located.route.live.len() == 1 && self.located.route.stores.contains(&inner.me);
        if owns && inner.replica.is_behind(partition, sealed) {
            let replica = inner.replica.clone();
            inner.env.tasks.spawn(async move {
                // A shard that takes no job now finds it out by the next read.
                let _ = replica.distrust(partition).await;
            });
        }
    }

    /// Past the slowest asked owner's own p95; none where nobody is left to ask, or the budget is spent.
    fn hedge_after(&self, level: Level) -> Option<Duration> {
        let inner = &self.coordinator.inner;
        let mut hedges = inner.hedges.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        hedges.earn();
        if matches!(level, Level::All) {
            return None;
        }
        let slowest =
            self.located.stores().filter(|store| *store != inner.me).filter_map(|store| inner.peers.p95(store)).max();
        slowest.map(|p95| p95.max(HEDGE_AT_LEAST))
    }

    /// With a level: hedges reads at that level.
    async fn until_answered(&mut self, hedged: Option<Level>) {
        let now = self.now();
        let actions = self.core.start(now);
        self.perform(now, actions);
        if self.answer.is_some() || self.begins_again() {
            return;
        }
        let clock = Arc::clone(&self.coordinator.inner.env.clock);
        let whole = left(self.deadline, now);
        // One timer for both: the hedge's first, then the deadline's.
        let mut hedge = hedged.and_then(|level| self.hedge_after(level)).filter(|after| *after < whole);
        let mut timer = clock.sleep(hedge.unwrap_or(whole));
        while self.answer.is_none() && !self.begins_again() {
            let event = tokio::select! {
                biased;
                event = self.pending.next(), if !self.pending.is_empty() => {
                    let Some(event) = event else { continue };
                    Some(event)
                }
                () = &mut timer => None,
            };
            let now = self.now();
            let actions = match event {
                Some(event) => self.on(now, event),
                None if hedge.take().is_some() => {
                    timer = clock.sleep(left(self.deadline, now));
                    self.hedge(now)
                }
                None => self.core.on_deadline(now),
            };
            self.perform(now, actions);
        }
    }

    fn hedge(&mut self, now: Mono) -> Vec<GetAction> {
        let inner = &self.coordinator.inner;
        if !inner.hedges.lock().unwrap_or_else(std::sync::PoisonError::into_inner).spend() {
            return Vec::new();
        }
        let actions = self.core.on_hedge(now);
        if !actions.is_empty() {
            self.coordinator.inner.metrics.quorum.hedges.inc();
        }
        actions
    }

    async fn until_settled(mut self) {
        let clock = Arc::clone(&self.coordinator.inner.env.clock);
        let mut enough = clock.sleep(REPAIR_FOR);
        loop {
            let event = tokio::select! {
                biased;
                event = self.pending.next() => event,
                () = &mut enough => None,
            };
            let Some(event) = event else { return };
            let now = self.now();
            let actions = self.on(now, event);
            self.perform(now, actions);
        }
    }

    fn on(&mut self, now: Mono, event: Event) -> Vec<GetAction> {
        match event {
            Event::Replied(from, reply, under) => {
                let all = if matches!(reply, ReplicaReply::NoVote(_)) { self.under } else { self.under.and(under) };
                if all.is_across() && !self.coordinator.inner.env.buggify.breaks("a read across a seal is begun again")
                {
                    self.distrust_own(all.sealed);
                    // After the answer: whoever is stale is found by another read. Before: nothing of it counts.
                    if self.answer.is_none() {
                        self.under = all;
                    }
                    return Vec::new();
                }
                self.under = all;
                self.core.on_reply(now, from, reply)
            }
            Event::Sealed(from) => {
                self.coordinator.inner.metrics.quorum.read_repair_failures.inc();
                self.again = self.answer.is_none();
                if self.again { Vec::new() } else { self.core.on_repair_ack(now, from, false) }
            }
            Event::Repaired(from, ok) => {
                if !ok {
                    self.coordinator.inner.metrics.quorum.read_repair_failures.inc();
                }
                self.core.on_repair_ack(now, from, ok)
            }
        }
    }

    fn perform(&mut self, now: Mono, actions: Vec<GetAction>) {
        for action in actions {
            match action {
                GetAction::Ask { to, have } => {
                    if let Some((_, reply, _)) = self.kept.iter().find(|(store, ..)| *store == to) {
                        let actions = self.on(now, Event::Replied(to, reply.clone(), NOTHING_YET));
                        self.perform(now, actions);
                        continue;
                    }
                    // A record that makes no sense is read again below, and put into quarantine.
                    if let Some((found, under)) = self.own_at_once(to)
                        && let whole = found.is_ok()
                        && let reply = reply_of_read(found)
                        && !(whole && matches!(reply, ReplicaReply::NoVote(_)))
                    {
                        // How long it took is only told where somebody wants to know: a clock is not free.
                        let now = if self.explain { self.now() } else { now };
                        let actions = self.on(now, Event::Replied(to, reply, under));
                        self.perform(now, actions);
                        continue;
                    }
                    let asked = self.ask(now, to, have);
                    self.pending.push(asked);
                }
                // What a fallback keeps is for its owner.
                GetAction::Repair { to, .. } if self.kept.iter().any(|(store, ..)| *store == to) => {}
                GetAction::Repair { to, object, awaited } => {
                    self.coordinator.inner.metrics.quorum.read_repairs.inc();
                    let repaired = self.repair(to, &object, awaited);
                    self.pending.push(repaired);
                }
                GetAction::Answer(found) => {
                    self.count_floor(true);
                    if found.divergent {
                        self.coordinator.inner.metrics.quorum.divergent_reads.inc();
                    }
                    let explain = self.explain();
                    let digest = found.object.as_ref().and_then(|object| self.core.digest_of(object));
                    let (epoch, generation) = (self.under.epoch, self.located.generation);
                    let found =
                        Found { object: found.object, digest, epoch, generation, counted: found.counted, explain };
                    self.tell(Ok(found));
                }
                GetAction::Fail { why, counted } => {
                    if why == GetFailure::SessionUnmet {
                        self.count_floor(false);
                    }
                    let error = self.error(why, counted);
                    self.tell(Err(error));
                }
            }
        }
    }

    fn tell(&mut self, result: Result<Found, Error>) {
        self.answer = Some(result);
    }

    fn count_floor(&self, answered: bool) {
        let sessions = &self.coordinator.inner.metrics.sessions;
        let counter = match self.core.covers_floor() {
            None => return,
            Some(_) if !answered => &sessions.unmet,
            Some(true) if self.core.is_widened() => &sessions.widened,
            Some(true) => &sessions.at_once,
            // Whether it is gone is for whoever asks all the others to say.
            Some(false) => return,
        };
        counter.inc();
    }

    fn explain(&self) -> Option<Explain> {
        let recorder = self.core.recorder().filter(|_| self.explain)?;
        Some(recorder.explain(|store| self.located.describe(store)))
    }

    /// The own replica's copy, where that takes no waiting.
    fn own_at_once(&self, to: StoreId) -> Option<(Result<Option<Bytes>, Fault>, Under)> {
        let inner = &self.coordinator.inner;
        if to != inner.me {
            return None;
        }
        if let Err(fault) = self.coordinator.judge_own_read(&self.located) {
            return Some((Err(fault), NOTHING_YET));
        }
        let (place, replica) = (&self.located.place, &inner.replica);
        // The one before what it tells of, the other after.
        let epoch = replica.epoch(place.partition);
        let found = replica.read_at_once(place)?;
        Some((found, Under { epoch, sealed: replica.sealed(place.partition) }))
    }

    fn ask(&self, now: Mono, to: StoreId, have: Option<Digest>) -> BoxFuture<'static, Event> {
        let inner = &self.coordinator.inner;
        if to == inner.me {
            let (replica, place) = (inner.replica.clone(), self.located.place.clone());
            let judged = self.coordinator.judge_own_read(&self.located);
            return Box::pin(async move {
                let epoch = replica.epoch(place.partition);
                let found = match judged {
                    Ok(()) => replica.read(place.clone()).await,
                    Err(fault) => Err(fault),
                };
                let under = Under { epoch, sealed: replica.sealed(place.partition) };
                let whole = found.is_ok();
                let reply = reply_of_read(found);
                if whole && matches!(reply, ReplicaReply::NoVote(_)) {
                    replica.suspect(place).await;
                }
                Event::Replied(to, reply, under)
            });
        }
        let have = have.map(|digest| Bytes::copy_from_slice(&digest.0));
        let read = Read { target: self.located.target(), have, to_mend: false };
        let budget = left(self.deadline, now);
        // Where a floor is looked for there is time to ask again: what was cut off may be back by then.
        let budget = if self.core.is_widened() { budget / 2 } else { budget };
        let call = inner.peers.call(to, Ask::Read(read), self.located.known.read_version(), budget);
        let coordinator = self.coordinator.clone();
        Box::pin(async move {
            let mut under = NOTHING_YET;
            let reply = match call.await {
                Ok(reply) => {
                    if let Some(Tell::Copy(copy)) = &reply.tell {
                        under = Under { epoch: Epoch(copy.epoch), sealed: Epoch(copy.sealed) };
                    }
                    if let Some(Tell::Refused(refused)) = &reply.tell
                        && about_layouts(refused.why())
                    {
                        coordinator.learn_from(to).await;
                    }
                    reply_of_tell(reply.tell)
                }
                Err(failed) => ReplicaReply::NoVote(no_vote_of(&failed)),
            };
            Event::Replied(to, reply, under)
        })
    }

    fn repair(&self, to: StoreId, object: &Arc<Object>, awaited: bool) -> BoxFuture<'static, Event> {
        let inner = &self.coordinator.inner;
        let record = encode_object(object);
        if to == inner.me {
            let request = MergeRequest {
                place: self.located.place.clone(),
                record,
                rules: self.located.rules,
                class: self.located.class,
                flush: false,
                cause: Cause::Repair,
                epoch: self.under.epoch,
            };
            let (coordinator, located) = (self.coordinator.clone(), Arc::clone(&self.located));
            let counts = self.hold.layouts_of(to);
            return Box::pin(async move {
                let Inner { keeper, replica, .. } = &*coordinator.inner;
                // Before the look at the layouts: see `Held`.
                let _guard = keeper.held().take();
                let Some(layouts) = coordinator.judge_own_write(&located) else { return Event::Repaired(to, false) };
                match replica.merge(request).await {
                    Err(Fault::TooOld(_)) => Event::Sealed(to),
                    merged => {
                        let counted = counts.iter().all(|layout| layouts.contains(layout));
                        Event::Repaired(to, merged.is_ok() && counted)
                    }
                }
            });
        }
        let epoch = self.under.epoch.0;
        let write = Write { target: self.located.target(), record, epoch, flush: false, repair: true };
        let budget = if awaited { left(self.deadline, self.now()) } else { REPAIR_FOR };
        let (version, older) = (self.located.version(), self.located.older());
        let call = inner.peers.call_in(to, Ask::Write(write), version, older, budget);
        let (coordinator, counts) = (self.coordinator.clone(), self.hold.layouts_of(to));
        Box::pin(async move {
            let ok = match call.await.map(|reply| reply.tell) {
                // It holds it in all layouts in which that is asked of it, or it is not counted at all.
                Ok(Some(Tell::Written(written))) => counts.iter().all(|layout| written.layouts.contains(layout)),
                Ok(Some(Tell::Refused(refused))) if about_layouts(refused.why()) => {
                    coordinator.learn_from(to).await;
                    false
                }
                Ok(Some(Tell::Refused(refused))) if refused.why() == Refusal::Sealed => return Event::Sealed(to),
                _ => false,
            };
            Event::Repaired(to, ok)
        })
    }

    fn error(&self, why: GetFailure, counted: Counted) -> Error {
        let Counted { answered, needed, n, layout, .. } = counted;
        let (code, detail) = match why {
            GetFailure::TooFewVotes => (
                ErrorCode::ReplicasFailed,
                format!("{answered} of {needed} replicas could answer, the others failed or refused"),
            ),
            GetFailure::DeadlinePassed => {
                (ErrorCode::ReadTimeout, format!("{answered} of {needed} replicas answered in time"))
            }
            GetFailure::SessionUnmet => (
                ErrorCode::SessionUnmet,
                format!(
                    "{answered} of {n} replicas answered and have not seen all that the floor names; another may have, and \
                     gave no answer: read again later, or without the floor"
                ),
            ),
            GetFailure::NotMended => (
                ErrorCode::ReadTimeout,
                format!("the replicas differed, and {needed} of them could not be brought to hold the merge in time"),
            ),
        };
        let mut error = Error::new(code, Outcome::Unknown, detail);
        (error.required, error.answered, error.n, error.layout) = (Some(needed), Some(answered), Some(n), Some(layout));
        error.replicas = self.located.reports(self.core.states());
        if code == ErrorCode::ReplicasFailed { self.coordinator.later(error) } else { error }
    }
}

pub(super) fn reply_of_read(found: Result<Option<Bytes>, Fault>) -> ReplicaReply {
    match found {
        Ok(Some(record)) => reply_of_record(record),
        Ok(None) => ReplicaReply::Nothing,
        Err(fault) => ReplicaReply::NoVote(no_vote_of_fault(&fault)),
    }
}

fn reply_of_record(record: Bytes) -> ReplicaReply {
    let digest = digest_of_record(&record);
    decode_object(record).map_or(ReplicaReply::NoVote(NoVote::Failed), |object| ReplicaReply::Record(object, digest))
}

pub(super) fn reply_of_tell(tell: Option<Tell>) -> ReplicaReply {
    match tell {
        Some(Tell::Copy(copy)) => match (copy.held(), copy.record) {
            (Held::Same, _) => ReplicaReply::Same,
            (Held::Object, Some(record)) => reply_of_record(record),
            (Held::Nothing, _) => ReplicaReply::Nothing,
            _ => ReplicaReply::NoVote(NoVote::Failed),
        },
        Some(Tell::Refused(refused)) => ReplicaReply::NoVote(no_vote_of_refusal(refused.why())),
        _ => ReplicaReply::NoVote(NoVote::Failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(number: u128) -> StoreId {
        StoreId::from_bits(number)
    }

    #[test]
    fn every_owner_is_asked_first_by_one_of_the_others() {
        for order in [[7, 40, 900], [900, 7, 40], [40, 900, 7]] {
            let owners = order.map(store);
            let mut first: Vec<StoreId> =
                owners.iter().map(|me| round_from(*me, &owners, |other| other != *me, |_| 0)[0]).collect();
            first.sort_unstable();
            assert_eq!(first, [7, 40, 900].map(store), "{order:?}");
        }
    }

    #[test]
    fn near_ones_come_before_far_ones_and_those_that_are_down_last() {
        let owners = [5, 1, 4, 2].map(store);
        let is_up = |asked: StoreId| ![store(4), store(1)].contains(&asked);
        let far = |asked: StoreId| ![store(2), store(1)].contains(&asked);
        assert_eq!(round_from(store(3), &owners, is_up, |_| 0), [5, 2, 4, 1].map(store));
        assert_eq!(round_from(store(3), &owners, is_up, far), [2, 5, 1, 4].map(store));
        assert_eq!(round_from(store(9), &[], is_up, far), []);
    }
}

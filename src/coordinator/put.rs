//! The shell around a coordinated write: mints here, sends to all owners at once, counts with [`PutCore`].
//!
//! It reads like this: the storage thread reads, merges and mints; what was minted leaves for the other owners while the
//! commit here is under way; acknowledgements feed the core; the core answers. The whole runs in a task of its own: a
//! client that goes away stops nothing, and late owners are still waited for. Who fails, or is not heard of for long
//! enough, is left a hint; `repair` sends it what it missed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tracing::debug;

use super::floor::Floor;
use super::pending::Pending;
use super::{
    Claim, Coordinator, Inner, Located, about_layouts, broken, left, no_vote_of, no_vote_of_fault, no_vote_of_refusal,
    refused,
};
use crate::causality::{
    self, Dot, Fingerprint, Object, Payload, RequestId, Supersedes, VersionVector, decode_head, encode_object,
};
use crate::cluster::Counting;
use crate::collect::Epoch;
use crate::env::BoxFuture;
use crate::kv::{Counted, Error, ErrorCode, Outcome, ReadOptions, RepairMode};
use crate::pacing::Backoff;
use crate::quorum::{Explain, Level, NoVote, PutAction, PutCore, PutFailure, Recorder};
use crate::replica::{Cause, Coordinated, Fault, KeepRequest, MergeRequest, MintRequest, Minting, Place, name_of};
use crate::transport::messages::{Ask, Keep, Refusal, Reply, Tell, Write};
use crate::types::{Digest, Mono, ObjectId, StoreId, Wall};

/// How often an owner is asked again that refuses because of layouts, and knows none that is news.
const ASKED_AGAIN: u32 = 6;
/// How often a write is read again and sent again that an owner refuses because of a round of collection.
const READ_AGAIN: usize = 3;
/// How long owners that are late are still waited for after the answer.
const LATE_FOR: Duration = Duration::from_secs(5);
/// When a hint is tried again that a storage thread has no room for.
const HINTED_AGAIN: Backoff = Backoff { base: Duration::from_millis(20), cap: Duration::from_secs(1) };

/// A write, with everything checked that can be checked without the object.
#[derive(Clone, Debug)]
pub struct WritePlan {
    /// What to store. When it expires is not said yet.
    pub payload: Payload,
    /// How long it lives, from the mint on.
    pub ttl: Option<Duration>,
    /// What it supersedes.
    pub supersedes: Supersedes,
    /// The generation of its bucket under which its context was given out, where that is to be looked at.
    pub shown_under: Option<u64>,
    /// The request, where it carried an Idempotency-Key.
    pub request: Option<(RequestId, Fingerprint)>,
    /// W.
    pub w: Level,
    /// What it is to be minted on, or on something newer.
    pub floor: Option<Floor>,
    /// How many of the W must have flushed.
    pub durable: u32,
    /// How long to try.
    pub timeout: Duration,
    /// Whether the answer holds the resulting object.
    pub return_body: bool,
    /// Whether to explain.
    pub explain: bool,
    /// Most siblings the result may have, where the write adds one.
    pub max_siblings: u32,
    /// Most bytes the resulting object may have.
    pub max_object: u64,
    /// Whether fallbacks may stand in for owners.
    pub sloppy: bool,
}

impl WritePlan {
    /// Whether it brings a new value: no delete.
    pub(super) fn grows(&self) -> bool {
        self.payload.value.is_some()
    }

    /// Whether what it supersedes is what its coordinator sees: a delete without a context.
    pub(super) fn looks(&self) -> bool {
        matches!(self.supersedes, Supersedes::Seen)
    }
}

/// What a write did.
#[derive(Clone, Debug)]
pub struct Wrote {
    /// The resulting object, where it was asked for.
    pub object: Option<Object>,
    /// The resulting object's context: what a floor is made from, and a context where `alone`, or with the object.
    pub context: VersionVector,
    /// The generation of its bucket under which it was written.
    pub generation: u64,
    /// The resulting object's digest.
    pub digest: Digest,
    /// How many siblings it has.
    pub siblings: u32,
    /// Whether the new sibling is alone in it.
    pub alone: bool,
    /// When what was written expires.
    pub expires_at: Option<Wall>,
    /// Whether it had been done before.
    pub replayed: bool,
    /// Who has it.
    pub counted: Counted,
    /// How, where it was asked for.
    pub explain: Option<Explain>,
}

enum Event {
    Acked {
        from: StoreId,
        layouts: Vec<u64>,
        flushed: bool,
    },
    Failed {
        from: StoreId,
        why: NoVote,
    },
    /// Because of layouts; what it knows has been learnt, if it knows more.
    Refused {
        from: StoreId,
    },
    /// It may have caught up by now.
    Again {
        from: StoreId,
    },
    /// These have hints.
    Hinted(Vec<StoreId>),
    /// A fallback keeps it for an owner.
    Kept {
        from: StoreId,
        layouts: Vec<u64>,
        flushed: bool,
    },
    /// A fallback does not; because of layouts, or for another reason.
    NotKept {
        from: StoreId,
        why: NoVote,
        because_of_layouts: bool,
    },
}

impl Coordinator {
    /// Writes an object, here or at an owner.
    pub async fn put(&self, id: &ObjectId, mut plan: WritePlan) -> Result<Wrote, Error> {
        let admitted = Arc::new(self.admit()?);
        let began = self.inner.env.clock.now();
        let deadline = began + plan.timeout;
        let mut looked = 0;
        loop {
            // Before the look at the layouts: see `Held`.
            let guard = self.inner.keeper.held().take();
            let located = self.locate(id)?;
            let known = Arc::clone(&located.known);
            if plan.shown_under.take_if(|shown| *shown < located.generation).is_some() {
                // The bucket was emptied since. What the client was shown is gone for good: nothing there is covered by it.
                plan.supersedes = Supersedes::Covered(VersionVector::new());
            }
            let wrote = self.write(located, &plan, began, deadline, (Arc::clone(&admitted), guard)).await;
            let Err(error) = wrote else { return wrote };
            if error.outcome != Outcome::NotApplied
                || !self.goes_on(&known, deadline) && !Box::pin(self.looks_again(&error, &mut looked, deadline)).await
            {
                return Err(error);
            }
        }
    }

    async fn write(
        &self,
        located: Located,
        plan: &WritePlan,
        began: Mono,
        deadline: Mono,
        held: impl Send + 'static,
    ) -> Result<Wrote, Error> {
        self.check(&located, plan)?;
        self.check_heard(&located, plan.floor.as_ref())?;
        let whole = !self.inner.replica.health().is_quarantined(&located.place.stored);
        let takes = whole && self.takes(self.inner.me, plan.grows()) && !self.knows_less(&located, plan);
        let mints = takes && self.is_synced_owner(&located) && self.inner.replica.identity().barred().is_none();
        if mints && !self.would_rather_not(&located) {
            self.write_here(located, plan.clone(), None, began, deadline, held).await
        } else if plan.sloppy {
            let last = match self.hand_over_write(&located, plan, deadline).await {
                Err(last) => last,
                wrote => return wrote,
            };
            Box::pin(self.write_instead(located, plan, last, began, deadline, held)).await
        } else {
            drop(held);
            self.hand_over_write(&located, plan, deadline).await
        }
    }

    /// A node that takes no new values does not know what others have taken: where one of those is up, it is not this one
    /// that looks which values a delete without a context supersedes.
    fn knows_less(&self, located: &Located, plan: &WritePlan) -> bool {
        let up = self.inner.peers.up();
        let knows = |store| store != self.inner.me && up.mints(store) && up.writes(store, true);
        plan.looks() && !self.takes(self.inner.me, true) && located.stores().any(knows)
    }

    /// Refuses what is wrong at every node, and what too few replicas are up for, before anything is sent.
    pub(super) fn check(&self, located: &Located, plan: &WritePlan) -> Result<(), Error> {
        let requirement = self.require(located, plan.w)?;
        requirement
            .check_durable(plan.durable as usize)
            .map_err(|wrong| Error::refused(ErrorCode::BadParameter, wrong.to_string()))?;
        let Err(short) = requirement.feasible(|store| self.takes(store, plan.grows())) else { return Ok(()) };
        if self.check_sloppy(located, plan, &requirement)? {
            return Ok(());
        }
        match requirement.feasible(|store| self.takes(store, false)) {
            Ok(()) => Err(self.no_room(located, &short)),
            Err(short) => Err(self.unavailable(located, &short)),
        }
    }

    /// Writes as the coordinating owner, or, in an owner's place, as a fallback; [`Coordinator::check`] has been passed.
    pub(super) async fn write_here(
        &self,
        located: Located,
        plan: WritePlan,
        stands_for: Option<StoreId>,
        began: Mono,
        deadline: Mono,
        held: impl Send + 'static,
    ) -> Result<Wrote, Error> {
        let claim = match plan.request {
            Some((id, _)) => {
                let claim = self.claim(id)?;
                match stands_for {
                    None => self.catch_up(&located, plan.w, deadline).await,
                    Some(owner) => self.catch_up_kept(&located, owner, deadline).await,
                }
                Some(claim)
            }
            None => None,
        };
        if plan.floor.is_some() {
            Box::pin(self.meet_floor(&located, &plan, stands_for, deadline)).await?;
        }
        // By the clock of the node that mints: one that is known to be wrong does not.
        let expires_at = plan.ttl.map(|time| self.inner.env.clock.wall() + time);
        let write = causality::Write {
            payload: Payload { expires_at, ..plan.payload.clone() },
            supersedes: plan.supersedes.clone(),
            request: plan.request,
        };
        let counting = self.inner.keeper.held().counting(located.place.partition);
        let minting = self
            .inner
            .replica
            .mint(MintRequest {
                place: located.place.clone(),
                write,
                rules: located.rules,
                class: located.class,
                max_siblings: plan.max_siblings as usize,
                max_object: usize::try_from(plan.max_object).unwrap_or(usize::MAX),
                deadline,
                flush: plan.durable > 0,
                stands_for,
            })
            .map_err(|fault| self.refusal(&fault))?;
        let (answer, answered) = oneshot::channel();
        let (answer, refused) = (Some((answer, counting)), Vec::new());
        if stands_for.is_some() {
            self.inner.metrics.quorum.stood_in.inc();
        }
        let coordinator = self.clone();
        let task = Task { coordinator, located, plan, stands_for, began, deadline, answer, claim, refused };
        self.inner.env.tasks.spawn(async move {
            task.run(minting).await;
            drop(held);
        });
        let answered = answered.await;
        answered.unwrap_or_else(|_| {
            // The node stopped with the write under way.
            Err(Error::new(ErrorCode::NotServing, Outcome::Unknown, "the node stopped before the write was answered"))
        })
    }

    /// Before a write with an Idempotency-Key is minted: what the other owners hold is merged here, so that a repeated
    /// request finds itself even where another owner coordinated it. Best effort: whoever cannot be reached may hold it.
    async fn catch_up(&self, located: &Located, w: Level, deadline: Mono) {
        let half = left(deadline, self.inner.env.clock.now()) / 2;
        let r = if matches!(w, Level::Count(1) | Level::One | Level::LocalOne | Level::Any) {
            Level::One
        } else {
            Level::Quorum
        };
        let options =
            ReadOptions { r, timeout: half, repair: Some(RepairMode::Off), hedge: false, ..ReadOptions::default() };
        let Ok(again) = self.locate(&located.id) else { return };
        let now = self.inner.env.clock.now();
        let Ok(found) = self.read_here(again, &options, None, now, now + half).await else { return };
        let Some(object) = found.object else { return };
        let merge = MergeRequest {
            place: located.place.clone(),
            record: encode_object(&object),
            rules: located.rules,
            class: located.class,
            flush: false,
            cause: Cause::Repair,
            epoch: found.epoch,
        };
        // A merge that fails leaves what was here; the mint then fails for the same reason, or goes on without it.
        let _ = self.inner.replica.merge(merge).await;
    }

    /// What is held here by now instead of what was minted before a round was sealed, and under which epoch it was read: if
    /// it holds that write, or what superseded it. The commit may have failed, or the write may be deleted and collected.
    async fn read_again(&self, place: &Place, dot: Dot) -> Option<(Bytes, Epoch)> {
        let Inner { replica, keeper, .. } = &*self.inner;
        let (id, known) = (name_of(&place.stored)?.0, keeper.known()?);
        let owns = known.coordinates(place.partition, &id.bucket);
        let epoch = if owns { replica.epoch(place.partition) } else { replica.leftover_epoch(place.partition) };
        let record = replica.read_to_mend(place.clone()).await.ok()??;
        let covers = decode_head(&record).is_ok_and(|head| head.context.covers(dot));
        covers.then_some((record, epoch))
    }

    /// Leaves hints for owners that missed a write. It holds the write's place among the operations under way for as long
    /// as the storage thread has no room for it: so those that wait here are bounded.
    async fn leave_hints(self, place: Place, revision: Digest, targets: Vec<StoreId>) {
        let Inner { env, replica, .. } = &*self.inner;
        let mut attempt = 0;
        while !targets.is_empty() {
            match replica.leave_hints(place.clone(), revision, targets.clone()).await {
                Err(Fault::Overloaded) => env.clock.sleep(HINTED_AGAIN.delay(attempt, env.entropy.u64())).await,
                Err(fault) => {
                    return debug!(%fault, "no hint for an owner that missed a write: comparison will find it");
                }
                Ok(()) => return,
            }
            attempt += 1;
        }
    }

    pub(super) fn refusal(&self, fault: &Fault) -> Error {
        let error = refused(fault);
        let soon = matches!(
            fault,
            Fault::Overloaded | Fault::Stopping | Fault::Barred(_) | Fault::Syncing | Fault::Damaged | Fault::HintsFull
        );
        if soon { self.later(error) } else { error }
    }
}

struct Task {
    coordinator: Coordinator,
    located: Located,
    plan: WritePlan,
    /// The owner for whom this node keeps it, as a fallback.
    stands_for: Option<StoreId>,
    began: Mono,
    deadline: Mono,
    /// Who waits for the answer, and that votes are counted until there is one.
    answer: Option<(oneshot::Sender<Result<Wrote, Error>>, Counting)>,
    claim: Option<Claim>,
    /// How often each owner has refused because of layouts, without anything to be learnt from that.
    refused: Vec<(StoreId, u32)>,
}

impl Task {
    async fn run(mut self, mut minting: Minting) {
        let env = self.coordinator.inner.env.clone();
        // Nothing is minted after the deadline, but a storage thread that hangs may not even say so.
        let patience = left(self.deadline, env.clock.now()) + Duration::from_millis(100);
        let mut minted = env.timeout(patience, minting.minted()).await;
        if minted.is_err() {
            let detail = "the disk did not take the write in time; it may still";
            self.tell(Err(Error::new(ErrorCode::WriteTimeout, Outcome::Unknown, detail)));
            // If it is minted after all it belongs to the other owners as well.
            minted = env.timeout(LATE_FOR, minting.minted()).await;
        }
        let coordinated = match minted {
            Ok(Ok(coordinated)) => coordinated,
            Ok(Err(fault)) => {
                let error = self.coordinator.refusal(&fault);
                return self.tell(Err(error));
            }
            Err(_) => return,
        };
        let inner = Arc::clone(&self.coordinator.inner);
        let Ok(requirement) = self.coordinator.require(&self.located, self.plan.w) else { return };
        let recorder = self.plan.explain.then(|| Recorder::new(self.began));
        let owners = self.located.stores();
        // So that exactly W have it when it is answered.
        let at_once = if env.buggify.at("only W owners are written to at once") {
            requirement.groups().iter().map(|group| group.need).sum::<usize>().saturating_sub(1)
        } else {
            usize::MAX
        };
        let (me, stands_for) = (inner.me, self.stands_for.map(|owner| (owner, inner.me)));
        let own = stands_for.is_none().then_some(me);
        let fallbacks = self.coordinator.fallbacks_for(&self.located, &self.plan);
        let core = PutCore::new(requirement, owners, self.plan.durable as usize, own, recorder);
        let mut core = core.sloppy(fallbacks, stands_for);
        let mut pending = Pending::new();
        for (sent, action) in core.start(env.clock.now()).into_iter().enumerate() {
            let PutAction::Send { to, .. } = action else { continue };
            let sending = self.send(to, &coordinated);
            if sent < at_once {
                pending.push(sending);
            } else {
                let later = env.clock.sleep(Duration::from_micros(env.entropy.below(2_000_000)));
                pending.push(Box::pin(async move {
                    later.await;
                    sending.await
                }));
            }
        }
        let mine = core.layouts_of(core.stands_for(me).unwrap_or(me));
        pending.push(Box::pin(async move {
            match (minting.durable().await, stands_for) {
                (Ok(flushed), None) => Event::Acked { from: me, layouts: mine, flushed },
                (Ok(flushed), Some(_)) => Event::Kept { from: me, layouts: mine, flushed },
                (Err(fault), None) => Event::Failed { from: me, why: no_vote_of_fault(&fault) },
                (Err(fault), Some(_)) => {
                    Event::NotKept { from: me, why: no_vote_of_fault(&fault), because_of_layouts: false }
                }
            }
        }));
        let mut slow = None;
        if self.plan.sloppy {
            let down: Vec<StoreId> =
                self.located.stores().filter(|store| !self.coordinator.takes(*store, self.plan.grows())).collect();
            for action in core.stand_in(env.clock.now(), &down) {
                self.keep_at(action, &mut pending, &coordinated);
            }
            slow = Some(env.clock.sleep(left(self.deadline, env.clock.now()) / 2));
        }
        let mut deadline = env.clock.sleep(left(self.deadline, env.clock.now()));
        let mut late = None;
        let (mut hinting, mut hinted): (Vec<StoreId>, Vec<StoreId>) = Default::default();
        loop {
            let actions = tokio::select! {
                biased;
                event = pending.next() => match event {
                    None => break,
                    Some(Event::Hinted(targets)) => {
                        core.note_hinted(&targets);
                        hinted.extend(targets);
                        Vec::new()
                    }
                    Some(event) => self.on(event, &mut core, &mut pending, &coordinated),
                },
                () = async { if let Some(slow) = &mut slow { slow.await } }, if slow.is_some() => {
                    slow = None;
                    let silent: Vec<StoreId> = core.unheard().filter(|owner| *owner != me).collect();
                    core.stand_in(env.clock.now(), &silent)
                }
                () = &mut deadline => {
                    if late.is_some() {
                        break;
                    }
                    core.on_deadline(env.clock.now()).into_iter().collect()
                }
            };
            for action in actions {
                match action {
                    PutAction::Send { to, .. } => pending.push(self.send(to, &coordinated)),
                    PutAction::Hint { .. } => self.keep_at(action, &mut pending, &coordinated),
                    action => {
                        late = Some(());
                        deadline = env.clock.sleep(LATE_FOR);
                        self.finish(action, &core, &coordinated);
                    }
                }
            }
            let failed: Vec<StoreId> = core.failed().filter(|owner| *owner != me && !hinting.contains(owner)).collect();
            // A note that refers to this node's own copy is for one that has a copy.
            if !failed.is_empty() && stands_for.is_none() {
                hinting.extend(&failed);
                let (digest, left) = (coordinated.digest, failed.clone());
                let hint = self.coordinator.clone().leave_hints(self.located.place.clone(), digest, left);
                pending.push(Box::pin(async move {
                    hint.await;
                    Event::Hinted(failed)
                }));
            }
            // Whoever is down by now is left a hint, and not waited for.
            if core.is_decided() && hinted.len() == hinting.len() {
                let up = inner.peers.up();
                let silent = |store: StoreId| store != me && !up.is_up(store);
                if core.unheard().all(silent) && core.unheard_stand_ins().all(silent) {
                    break;
                }
            }
        }
        inner.metrics.quorum.missed_owners.inc_by(core.missed().count() as u64);
        self.finish_undecided();
        let missed: Vec<StoreId> = core.missed().filter(|owner| *owner != me && !hinted.contains(owner)).collect();
        if stands_for.is_some() {
            for owner in missed.into_iter().filter(|owner| !core.is_hinted(*owner)) {
                let kept = self
                    .coordinator
                    .keep_here(&self.located, owner, coordinated.record.clone(), coordinated.epoch, false)
                    .await;
                if let Err(fault) = kept {
                    debug!(%owner, %fault, "no hint for an owner that missed a write: comparison will find it");
                }
            }
            return;
        }
        self.coordinator.leave_hints(self.located.place.clone(), coordinated.digest, missed).await;
    }

    fn on(
        &mut self,
        event: Event,
        core: &mut PutCore,
        pending: &mut Pending<Event>,
        coordinated: &Coordinated,
    ) -> Vec<PutAction> {
        let now = self.coordinator.inner.env.clock.now();
        match event {
            Event::Acked { from, layouts, flushed } => {
                let mut decided = core.on_ack(now, from, &layouts, flushed);
                let buggify = &self.coordinator.inner.env.buggify;
                if let Some((heir, layout)) = broken::counts_for(buggify, &self.located, from) {
                    decided = decided.or(core.on_ack(now, heir, &[layout], flushed));
                }
                if core.acked_in_part(from) {
                    pending.push(self.ask_what_it_knows(from));
                }
                decided.into_iter().collect()
            }
            Event::Failed { from, why } => core.on_failed(now, from, why).into_iter().collect(),
            Event::Kept { from, layouts, flushed } => {
                self.coordinator.inner.metrics.quorum.stand_ins.inc();
                let mut decided = core.on_hinted(now, from, &layouts, flushed);
                let buggify = &self.coordinator.inner.env.buggify;
                if let Some(other) = broken::counts_twice(buggify, core, from) {
                    decided = decided.or(core.on_ack(now, other, &layouts, flushed));
                }
                if core.hinted_in_part(from) {
                    let learns = self.ask_what_it_knows(from);
                    pending.push(Box::pin(async move {
                        learns.await;
                        Event::NotKept { from, why: NoVote::Refused, because_of_layouts: true }
                    }));
                }
                decided.into_iter().collect()
            }
            Event::NotKept { from, why, because_of_layouts } => {
                if because_of_layouts && let Some(actions) = self.follow(now, core) {
                    return actions;
                }
                core.on_hint_failed(now, from, why).into_iter().collect()
            }
            Event::Hinted(_) => Vec::new(),
            Event::Again { from } => {
                pending.push(self.send(from, coordinated));
                Vec::new()
            }
            Event::Refused { from } if core.is_decided() => {
                core.on_failed(now, from, NoVote::Refused).into_iter().collect()
            }
            Event::Refused { from } => {
                if let Some(actions) = self.follow(now, core) {
                    return actions;
                }
                if let Some(wait) = self.patience_with(from) {
                    let wait = self.coordinator.inner.env.clock.sleep(wait);
                    pending.push(Box::pin(async move {
                        wait.await;
                        Event::Again { from }
                    }));
                    return Vec::new();
                }
                core.on_failed(now, from, NoVote::Refused).into_iter().collect()
            }
        }
    }

    /// Goes on under the layouts that are known by now; none where they are the same.
    fn follow(&mut self, now: Mono, core: &mut PutCore) -> Option<Vec<PutAction>> {
        if core.is_decided() || !self.coordinator.moved_on(&self.located.known) {
            return None;
        }
        let located = self.coordinator.locate(&self.located.id).ok()?;
        if located.generation != self.located.generation {
            // What was minted under a generation that has ended holds what was emptied: it goes nowhere any more.
            return None;
        }
        // What N is by now may be less than was asked for: all of them, then.
        let requirement = self.coordinator.require(&located, self.plan.w);
        let requirement = requirement.or_else(|_| self.coordinator.require(&located, Level::All)).ok()?;
        self.coordinator.inner.metrics.layout.retries.inc();
        let owners: Vec<StoreId> = located.stores().collect();
        self.located = located;
        let fallbacks = self.coordinator.fallbacks_for(&self.located, &self.plan);
        Some(core.on_layouts(now, requirement, owners, fallbacks))
    }

    /// Asks a fallback to keep it for an owner. Where a round of collection has been drained there since it was minted, what is
    /// held here by now goes instead.
    fn keep_at(&self, action: PutAction, pending: &mut Pending<Event>, coordinated: &Coordinated) {
        let PutAction::Hint { to, owner, layouts } = action else { return };
        let flush = self.plan.durable > 1;
        let coordinator = self.coordinator.clone();
        let Coordinated { record, epoch, dot, .. } = coordinated;
        let (record, epoch, dot) = (record.clone(), *epoch, *dot);
        let (place, rules) = (self.located.place.clone(), self.located.rules);
        if to == coordinator.inner.me {
            pending.push(Box::pin(async move {
                let replica = &coordinator.inner.replica;
                let keep = |record, Epoch(epoch)| {
                    let (place, sealed) = (place.clone(), replica.heard(place.partition));
                    replica.keep_hint(KeepRequest { place, owner, record, epoch, sealed, rules, flush })
                };
                let mut kept = keep(record, epoch).await;
                if let Err(Fault::TooOld(_)) = kept
                    && let Some((record, epoch)) = coordinator.read_again(&place, dot).await
                {
                    kept = keep(record, epoch).await;
                }
                match kept {
                    Ok(flushed) => Event::Kept { from: to, layouts, flushed },
                    Err(fault) => Event::NotKept { from: to, why: no_vote_of_fault(&fault), because_of_layouts: false },
                }
            }));
            return;
        }
        let budget = left(self.deadline, coordinator.inner.env.clock.now()) + LATE_FOR;
        let (version, older) = (self.located.version(), self.located.older());
        let keep = self.located.keep(owner, record, epoch, coordinator.inner.replica.heard(place.partition), flush);
        let again = Keep { record: Bytes::new(), ..keep.clone() };
        let call = coordinator.inner.peers.call_in(to, Ask::Keep(keep), version, older.clone(), budget);
        pending.push(Box::pin(async move {
            let not_kept = |why, because_of_layouts| Event::NotKept { from: to, why, because_of_layouts };
            let mut reply = call.await;
            for _ in 0..READ_AGAIN {
                if !is_sealed(&reply) {
                    break;
                }
                let Some((record, Epoch(epoch))) = coordinator.read_again(&place, dot).await else { break };
                let keep = Keep { record, epoch, ..again.clone() };
                reply = coordinator.inner.peers.call_in(to, Ask::Keep(keep), version, older.clone(), budget).await;
            }
            match reply {
                Ok(reply) => match reply.tell {
                    Some(Tell::Written(written)) => {
                        Event::Kept { from: to, layouts: written.layouts, flushed: written.flushed }
                    }
                    Some(Tell::Refused(refused)) if about_layouts(refused.why()) => {
                        coordinator.learn_from(to).await;
                        not_kept(NoVote::Refused, true)
                    }
                    Some(Tell::Refused(refused)) => not_kept(no_vote_of_refusal(refused.why()), false),
                    _ => not_kept(NoVote::Failed, false),
                },
                Err(failed) => not_kept(no_vote_of(&failed), false),
            }
        }));
    }

    /// Of an owner that has dropped a layout in which it is counted here: then that one is to be dropped here, too, or it
    /// is asked again, as after a refusal.
    fn ask_what_it_knows(&self, from: StoreId) -> BoxFuture<'static, Event> {
        let (coordinator, known) = (self.coordinator.clone(), Arc::clone(&self.located.known));
        Box::pin(async move {
            if !coordinator.moved_on(&known) {
                coordinator.learn_from(from).await;
            }
            Event::Refused { from }
        })
    }

    /// How long to wait before an owner that refuses because of layouts is asked again; none: often enough.
    fn patience_with(&mut self, store: StoreId) -> Option<Duration> {
        let at = self.refused.iter().position(|(known, _)| *known == store).unwrap_or_else(|| {
            self.refused.push((store, 0));
            self.refused.len() - 1
        });
        let attempt = self.refused[at].1;
        self.refused[at].1 += 1;
        (attempt < ASKED_AGAIN).then(|| Duration::from_millis(20 << attempt))
    }

    fn finish(&mut self, action: PutAction, core: &PutCore, coordinated: &Coordinated) {
        // From here on a repetition finds the request in the object itself.
        self.claim = None;
        let inner = &self.coordinator.inner;
        let result = match action {
            PutAction::Answer(counted) => {
                let siblings = coordinated.object.siblings().len();
                if coordinated.replayed {
                    inner.metrics.quorum.replays.inc();
                }
                if siblings > 1 {
                    inner.metrics.quorum.sibling_writes.inc();
                }
                let recorder = core.recorder();
                Ok(Wrote {
                    object: self.plan.return_body.then(|| coordinated.object.clone()),
                    context: coordinated.object.context().clone(),
                    generation: self.located.generation,
                    digest: coordinated.digest,
                    siblings: u32::try_from(siblings).unwrap_or(u32::MAX),
                    alone: is_alone(&coordinated.object, coordinated.dot),
                    expires_at: expiry_of(&coordinated.object, coordinated.dot),
                    replayed: coordinated.replayed,
                    counted,
                    explain: recorder.map(|recorder| recorder.explain(|store| self.located.describe(store))),
                })
            }
            PutAction::Fail { why, counted } => {
                inner.metrics.quorum.unknown_writes.inc();
                let Counted { answered, needed, n, layout, .. } = counted;
                let waited = match why {
                    PutFailure::DeadlinePassed => format!("in {:?}", self.plan.timeout),
                    PutFailure::TooFewAcks => "and too few of the others can".to_owned(),
                };
                let detail = format!(
                    "{answered} of {needed} replicas acknowledged {waited}; the write may be there all the same"
                );
                let mut error = Error::new(ErrorCode::WriteTimeout, Outcome::Unknown, detail);
                (error.required, error.answered, error.n, error.layout) =
                    (Some(needed), Some(answered), Some(n), Some(layout));
                error.replicas = self.located.reports(core.states());
                Err(error)
            }
            PutAction::Send { .. } | PutAction::Hint { .. } => return,
        };
        self.tell(result);
    }

    /// Every owner answered and nothing was decided: cannot be, for then it is met or hopeless. Whoever waits is told.
    fn finish_undecided(&mut self) {
        self.tell(Err(Error::new(ErrorCode::Internal, Outcome::Unknown, "the write ended undecided; this is a bug")));
    }

    fn tell(&mut self, result: Result<Wrote, Error>) {
        if let Some((answer, counting)) = self.answer.take() {
            drop(counting);
            // A client that went away wants no answer.
            let _ = answer.send(result);
        }
    }

    fn send(&self, to: StoreId, coordinated: &Coordinated) -> BoxFuture<'static, Event> {
        let inner = &self.coordinator.inner;
        if to == inner.me {
            return self.accept_here(coordinated);
        }
        let write = Write {
            target: self.located.target(),
            record: coordinated.record.clone(),
            epoch: coordinated.epoch.0,
            flush: self.plan.durable > 1,
            repair: false,
        };
        let (place, dot) = (self.located.place.clone(), coordinated.dot);
        let budget = left(self.deadline, inner.env.clock.now()) + LATE_FOR;
        let (version, older) = (self.located.version(), self.located.older());
        let again = Write { record: Bytes::new(), ..write.clone() };
        let call = inner.peers.call_in(to, Ask::Write(write), version, older.clone(), budget);
        let coordinator = self.coordinator.clone();
        Box::pin(async move {
            let mut reply = call.await;
            for _ in 0..READ_AGAIN {
                if !is_sealed(&reply) {
                    break;
                }
                // A round was sealed there since this was minted: what is held by now goes instead.
                let Some((record, Epoch(epoch))) = coordinator.read_again(&place, dot).await else { break };
                let write = Write { record, epoch, ..again.clone() };
                reply = coordinator.inner.peers.call_in(to, Ask::Write(write), version, older.clone(), budget).await;
            }
            match reply {
                Ok(reply) => match reply.tell {
                    Some(Tell::Written(written)) => {
                        Event::Acked { from: to, layouts: written.layouts, flushed: written.flushed }
                    }
                    Some(Tell::Refused(refused)) if about_layouts(refused.why()) => {
                        coordinator.learn_from(to).await;
                        Event::Refused { from: to }
                    }
                    Some(Tell::Refused(refused)) => Event::Failed { from: to, why: no_vote_of_refusal(refused.why()) },
                    _ => Event::Failed { from: to, why: NoVote::Failed },
                },
                Err(failed) => Event::Failed { from: to, why: no_vote_of(&failed) },
            }
        })
    }

    /// Under other layouts than it was minted under, the own copy is asked again like any other.
    fn accept_here(&self, coordinated: &Coordinated) -> BoxFuture<'static, Event> {
        let (rules, class, flush) = (self.located.rules, self.located.class, self.plan.durable > 1);
        let (place, dot, minted) = (self.located.place.clone(), coordinated.dot, coordinated.record.clone());
        let (cause, epoch) = (Cause::Written, coordinated.epoch);
        let (coordinator, judged) = (self.coordinator.clone(), self.coordinator.judge_own_write(&self.located));
        Box::pin(async move {
            let inner = &coordinator.inner;
            let from = inner.me;
            let Some(layouts) = judged else { return Event::Failed { from, why: NoVote::Refused } };
            let merge = |record, epoch| {
                let place = place.clone();
                inner.replica.merge(MergeRequest { place, record, rules, class, flush, cause, epoch })
            };
            let mut merged = merge(minted, epoch).await;
            if let Err(Fault::TooOld(_)) = merged
                && let Some((record, epoch)) = coordinator.read_again(&place, dot).await
            {
                merged = merge(record, epoch).await;
            }
            match merged {
                Ok(flushed) => Event::Acked { from, layouts, flushed },
                Err(fault) => Event::Failed { from, why: no_vote_of_fault(&fault) },
            }
        })
    }
}

/// Whether what was sent is refused because of a round of collection.
fn is_sealed<E>(reply: &Result<Reply, E>) -> bool {
    let sealed = |tell: &Tell| matches!(tell, Tell::Refused(refused) if refused.why() == Refusal::Sealed);
    reply.as_ref().is_ok_and(|reply| reply.tell.as_ref().is_some_and(sealed))
}

/// When the sibling of a dot expires; none also where it has been superseded since.
fn expiry_of(object: &Object, dot: Dot) -> Option<Wall> {
    object.siblings().iter().find(|sibling| sibling.dot == dot)?.payloads.first()?.expires_at
}

/// Whether the answer may carry a context. A replayed request's dot may have been superseded since.
fn is_alone(object: &Object, dot: Dot) -> bool {
    object.is_alone(dot)
}

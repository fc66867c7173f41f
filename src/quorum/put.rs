//! A coordinated write, after the mint: acknowledgement in, answer out.
//!
//! ```text
//!   read, mint, commit (replica)          PutCore                     other owners
//!            |  the minted object            |                             |
//!            +-----------------------------> | start: Send to all at once  |
//!            |                               +---------------------------->|
//!            |  on_ack(own)                  |                             |
//!            +-----------------------------> |   on_ack / on_failed        |
//!                                            | <---------------------------+
//!            W in each live layout, K flushed| -> Answer                   |
//!            out of reach, or deadline       | -> Fail (outcome unknown)   |
//!            afterwards: late ones are noted | <---------------------------+
//!                                            | -> missed(): who has it not
//! ```
//!
//! **The rules** (semantics sections 3, 4 and 7). The own replica is a replica like any other; its commit is an
//! acknowledgement. One counts only in the layouts it was for (I-ACK over layout changes). Something was minted, so a
//! failure is never "not applied" (I-HONEST): [`Requirement::feasible`] is asked before the mint. Left to others: hints
//! for those who [`missed`](PutCore::missed) it.
//!
//! **Sloppy** ([`PutCore::sloppy`]). For an owner that is down, and for one that fails before the decision, the next
//! fallback is asked to store a hint; that is a vote in the owner's place, and the owner's own, should it come after all,
//! is the same one. A fallback that fails is followed by the next.

use super::{Counted, Fallbacks, NoVote, Recorder, ReplicaResult, Requirement, Tally, Verdict};
use crate::types::{Mono, StoreId};

/// What to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PutAction {
    /// Send the minted object to this owner, naming these layouts.
    Send {
        /// The owner.
        to: StoreId,
        /// The layouts it counts in.
        layouts: Vec<u64>,
    },
    /// Have this fallback store a hint for an owner, naming the layouts in which that owner counts.
    Hint {
        /// The fallback.
        to: StoreId,
        /// The owner.
        owner: StoreId,
        /// The layouts the owner counts in.
        layouts: Vec<u64>,
    },
    /// Tell the client that it is done.
    Answer(Counted),
    /// Tell the client that it may be done, or may be done later: outcome *unknown*.
    Fail {
        /// Why.
        why: PutFailure,
        /// How far it got.
        counted: Counted,
    },
}

/// Why a write was not acknowledged. The outcome is unknown, whatever it is: something was minted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PutFailure {
    /// Too many owners refused, failed or could not be reached.
    TooFewAcks,
    /// The deadline passed.
    DeadlinePassed,
}

/// What became of one owner's copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Copy {
    Sent,
    Failed(NoVote),
    Acked,
}

/// A fallback in an owner's place.
#[derive(Clone, Debug)]
struct StandIn {
    owner: StoreId,
    fallback: StoreId,
    copy: Copy,
}

/// One coordinated write. Pure: time is an argument, and what is to be done is returned.
#[derive(Clone, Debug)]
pub struct PutCore {
    tally: Tally,
    own: Option<StoreId>,
    owners: Vec<(StoreId, Copy)>,
    /// Whom else it may ask, and whom it has asked; nobody where it is strict.
    fallbacks: Fallbacks,
    stand_ins: Vec<StandIn>,
    /// All fallbacks that were ever asked, whatever the layouts were then: one disk is one vote.
    asked: Vec<StoreId>,
    decided: bool,
    recorder: Option<Box<Recorder>>,
}

impl PutCore {
    /// A write that `requirement` has to acknowledge, `durable` of it flushed, and that goes to all `owners`: those of other
    /// regions too, which a local level does not count. `own` is the coordinator's own replica: it commits by itself, and
    /// is not sent to.
    #[must_use]
    pub fn new(
        requirement: Requirement,
        owners: impl IntoIterator<Item = StoreId>,
        durable: usize,
        own: Option<StoreId>,
        recorder: Option<Recorder>,
    ) -> Self {
        let mut everybody = requirement.members().to_vec();
        for owner in owners {
            if !everybody.contains(&owner) {
                everybody.push(owner);
            }
        }
        let owners: Vec<_> = everybody.into_iter().map(|id| (id, Copy::Sent)).collect();
        let mut recorder = recorder.map(Box::new);
        if let Some(recorder) = &mut recorder {
            recorder.expect(owners.iter().map(|(id, _)| *id));
        }
        let (fallbacks, stand_ins, asked) = (Fallbacks::default(), Vec::new(), Vec::new());
        Self {
            tally: Tally::durable(requirement, durable),
            own,
            owners,
            fallbacks,
            stand_ins,
            asked,
            decided: false,
            recorder,
        }
    }

    /// The same write, for which these may stand in for owners. A coordinator that is a fallback itself stores its hint by
    /// itself: `own` is (owner, this node).
    #[must_use]
    pub fn sloppy(mut self, fallbacks: Fallbacks, own: Option<(StoreId, StoreId)>) -> Self {
        self.fallbacks = fallbacks.only(|store| own.is_none_or(|(_, me)| me != store));
        let stand = |(owner, fallback)| StandIn { owner, fallback, copy: Copy::Sent };
        self.stand_ins.extend(own.map(stand));
        self.asked.extend(own.map(|(_, me)| me));
        self
    }

    /// For whom a fallback stands in.
    #[must_use]
    pub fn stands_for(&self, fallback: StoreId) -> Option<StoreId> {
        self.stand_ins.iter().find(|stand| stand.fallback == fallback).map(|stand| stand.owner)
    }

    /// Asks fallbacks in the place of these owners, as far as there are any and nobody stands in for them yet.
    pub fn stand_in(&mut self, now: Mono, owners: &[StoreId]) -> Vec<PutAction> {
        if self.decided || self.fallbacks.is_empty() {
            return Vec::new();
        }
        let lacks = |owner: &StoreId| !self.tally.has_all_of(*owner) && !self.has_stand_in(*owner);
        let owners: Vec<StoreId> = owners.iter().copied().filter(lacks).collect();
        let stands = self.fallbacks.take_for_all(self.tally.requirement(), &owners);
        stands.into_iter().map(|(owner, fallback)| self.ask_to_stand_in(now, owner, fallback)).collect()
    }

    fn has_stand_in(&self, owner: StoreId) -> bool {
        self.stand_ins.iter().any(|stand| stand.owner == owner && !matches!(stand.copy, Copy::Failed(_)))
    }

    fn ask_to_stand_in(&mut self, now: Mono, owner: StoreId, fallback: StoreId) -> PutAction {
        self.stand_ins.push(StandIn { owner, fallback, copy: Copy::Sent });
        self.asked.push(fallback);
        if let Some(recorder) = &mut self.recorder {
            recorder.sent(now, fallback, false);
        }
        PutAction::Hint { to: fallback, owner, layouts: self.tally.requirement().layouts_of(owner) }
    }

    /// A fallback has stored its hint, for these layouts.
    pub fn on_hinted(&mut self, now: Mono, from: StoreId, layouts: &[u64], flushed: bool) -> Option<PutAction> {
        let stand = self.stand_ins.iter_mut().find(|stand| stand.fallback == from)?;
        stand.copy = Copy::Acked;
        let owner = stand.owner;
        self.tally.acknowledged(owner, layouts, flushed);
        if let Some(recorder) = &mut self.recorder {
            let result = if flushed { ReplicaResult::Flushed } else { ReplicaResult::Acked };
            recorder.answered(now, from, result, None);
            recorder.hinted(owner);
        }
        self.decide(now, None)
    }

    /// A fallback did not store its hint, as far as is known: the next one is asked, where there is one.
    pub fn on_hint_failed(&mut self, now: Mono, from: StoreId, why: NoVote) -> Option<PutAction> {
        let stand = self.stand_ins.iter_mut().find(|stand| stand.fallback == from)?;
        let owner = stand.owner;
        if stand.copy == Copy::Acked {
            if self.tally.has_all_of(owner) {
                return None;
            }
            // In the layouts that it has not acknowledged.
            self.tally.failed(owner);
            return self.decide(now, None);
        }
        stand.copy = Copy::Failed(why);
        if let Some(recorder) = &mut self.recorder {
            recorder.answered(now, from, why.into(), None);
        }
        if let Some(next) = self.stand_in(now, &[owner]).pop() {
            return Some(next);
        }
        let failed = self.owners.iter().any(|(id, copy)| *id == owner && matches!(copy, Copy::Failed(_)));
        if failed && !self.has_stand_in(owner) {
            self.tally.failed(owner);
        }
        self.decide(now, None)
    }

    /// To all owners at once.
    pub fn start(&mut self, now: Mono) -> Vec<PutAction> {
        if let Some(recorder) = &mut self.recorder {
            self.owners.iter().for_each(|(id, _)| recorder.sent(now, *id, false));
        }
        let others = self.owners.iter().filter(|(id, _)| Some(*id) != self.own);
        others.map(|&(to, _)| PutAction::Send { to, layouts: self.tally.requirement().layouts_of(to) }).collect()
    }

    /// `from` has it, in these layouts; also long after the answer.
    pub fn on_ack(&mut self, now: Mono, from: StoreId, layouts: &[u64], flushed: bool) -> Option<PutAction> {
        let (_, copy) = self.owners.iter_mut().find(|(id, _)| *id == from)?;
        *copy = Copy::Acked;
        self.tally.acknowledged(from, layouts, flushed);
        if let Some(recorder) = &mut self.recorder {
            let result = if flushed { ReplicaResult::Flushed } else { ReplicaResult::Acked };
            recorder.answered(now, from, result, None);
        }
        self.decide(now, None)
    }

    /// `from` may not have it: not at all, or not in the layouts that it has not acknowledged.
    pub fn on_failed(&mut self, now: Mono, from: StoreId, why: NoVote) -> Option<PutAction> {
        let (_, copy) = self.owners.iter_mut().find(|(id, _)| *id == from)?;
        if *copy == Copy::Acked {
            if self.tally.has_all_of(from) {
                return None;
            }
            self.tally.failed(from);
            return self.decide(now, None);
        }
        *copy = Copy::Failed(why);
        if let Some(recorder) = &mut self.recorder {
            recorder.answered(now, from, why.into(), None);
        }
        if let Some(instead) = self.stand_in(now, &[from]).pop() {
            return Some(instead);
        }
        if !self.has_stand_in(from) {
            self.tally.failed(from);
        }
        self.decide(now, None)
    }

    /// Other layouts are live now, and it is counted in these. What was acknowledged stands for the layouts it was for;
    /// whoever lacks one is asked again, with the same dot, also who acknowledged for other layouts: between the two it
    /// may have lost what it held. After the decision nothing is asked any more. `fallbacks`: those there are now. Who was
    /// one and is none now stands in for nobody any more, also where it is one again later: the votes it has given stand
    /// for the layouts they were for, and a second one would be of the same disk.
    pub fn on_layouts(
        &mut self,
        now: Mono,
        requirement: Requirement,
        owners: impl IntoIterator<Item = StoreId>,
        fallbacks: Fallbacks,
    ) -> Vec<PutAction> {
        if self.decided {
            return Vec::new();
        }
        self.tally = self.tally.carried_into(requirement);
        self.stand_ins.retain(|stand| fallbacks.stores().any(|store| store == stand.fallback));
        let asked = &self.asked;
        self.fallbacks = fallbacks.only(|store| !asked.contains(&store));
        for owner in owners.into_iter().chain(self.tally.requirement().members().to_vec()) {
            if self.owners.iter().all(|(id, _)| *id != owner) {
                self.owners.push((owner, Copy::Sent));
                if let Some(recorder) = &mut self.recorder {
                    recorder.expect([owner]);
                }
            }
        }
        if let Some(action) = self.decide(now, None) {
            return vec![action];
        }
        let mut actions = Vec::new();
        for stand in &mut self.stand_ins {
            let layouts = self.tally.requirement().layouts_of(stand.owner);
            let waits = matches!(stand.copy, Copy::Sent | Copy::Acked) && !self.tally.has_all_of(stand.owner);
            if waits && !layouts.is_empty() {
                stand.copy = Copy::Sent;
                actions.push(PutAction::Hint { to: stand.fallback, owner: stand.owner, layouts });
            }
        }
        for (id, copy) in &mut self.owners {
            let layouts = self.tally.requirement().layouts_of(*id);
            // Who is not counted gets it all the same, once.
            let lacks = if layouts.is_empty() { *copy != Copy::Acked } else { !self.tally.has_all_of(*id) };
            if lacks {
                *copy = Copy::Sent;
                if let Some(recorder) = &mut self.recorder {
                    recorder.sent(now, *id, false);
                }
                actions.push(PutAction::Send { to: *id, layouts });
            }
        }
        actions
    }

    /// The deadline passed.
    pub fn on_deadline(&mut self, now: Mono) -> Option<PutAction> {
        self.decide(now, Some(PutFailure::DeadlinePassed))
    }

    fn decide(&mut self, now: Mono, failure: Option<PutFailure>) -> Option<PutAction> {
        if self.decided {
            return None;
        }
        let instead =
            |stand: &&StandIn| stand.copy == Copy::Acked && !self.owners.contains(&(stand.owner, Copy::Acked));
        let sloppy = u32::try_from(self.stand_ins.iter().filter(instead).count()).unwrap_or(u32::MAX);
        let counted = Counted { sloppy, ..self.tally.counted() };
        let action = match (self.tally.verdict(), failure) {
            (Verdict::Met, _) => PutAction::Answer(counted),
            (_, Some(why)) => PutAction::Fail { why, counted },
            (Verdict::Hopeless, None) => PutAction::Fail { why: PutFailure::TooFewAcks, counted },
            (Verdict::Open, None) => return None,
        };
        self.decided = true;
        if let Some(recorder) = &mut self.recorder {
            let (owners, stand_ins) = (&self.owners, &self.stand_ins);
            let stood = |id| stand_ins.iter().any(|stand| stand.fallback == id && stand.copy == Copy::Acked);
            recorder.decided(now, |id| owners.contains(&(id, Copy::Acked)) || stood(id));
        }
        Some(action)
    }

    /// The owners that are not known to have it in every layout they count in: for hints, and for the answer.
    pub fn missed(&self) -> impl Iterator<Item = StoreId> + '_ {
        let missed = |(id, copy): &&(StoreId, Copy)| *copy != Copy::Acked || !self.tally.has_all_of(*id);
        self.owners.iter().filter(missed).map(|(id, _)| *id)
    }

    /// Takes down that hints were left for these owners, which count for nothing.
    pub fn note_hinted(&mut self, owners: &[StoreId]) {
        if let Some(recorder) = &mut self.recorder {
            owners.iter().for_each(|owner| recorder.hinted(*owner));
        }
    }

    /// Whether a fallback holds a hint for `owner`.
    #[must_use]
    pub fn is_hinted(&self, owner: StoreId) -> bool {
        self.stand_ins.iter().any(|stand| stand.owner == owner && stand.copy == Copy::Acked)
    }

    /// The fallbacks that nothing was heard of since they were asked.
    pub fn unheard_stand_ins(&self) -> impl Iterator<Item = StoreId> + '_ {
        self.stand_ins.iter().filter(|stand| stand.copy == Copy::Sent).map(|stand| stand.fallback)
    }

    /// The owners that failed, refused or could not be reached: they have missed it, as far as anybody knows.
    pub fn failed(&self) -> impl Iterator<Item = StoreId> + '_ {
        self.owners.iter().filter(|(_, copy)| matches!(copy, Copy::Failed(_))).map(|(id, _)| *id)
    }

    /// The owners that nothing was heard of since it was sent to them.
    pub fn unheard(&self) -> impl Iterator<Item = StoreId> + '_ {
        self.owners.iter().filter(|(_, copy)| *copy == Copy::Sent).map(|(id, _)| *id)
    }

    /// The layouts in which `owner` counts.
    #[must_use]
    pub fn layouts_of(&self, owner: StoreId) -> Vec<u64> {
        self.tally.requirement().layouts_of(owner)
    }

    /// Whether `owner` has it, but in fewer layouts than it counts in: it has dropped one that is live here. It is to be
    /// asked what it knows, for nothing else is coming from it.
    #[must_use]
    pub fn acked_in_part(&self, owner: StoreId) -> bool {
        let acked = self.owners.contains(&(owner, Copy::Acked));
        !self.decided && acked && !self.tally.has_all_of(owner)
    }

    /// The same of a fallback that stands in for an owner.
    #[must_use]
    pub fn hinted_in_part(&self, fallback: StoreId) -> bool {
        let acked = self.stand_ins.iter().find(|stand| stand.fallback == fallback && stand.copy == Copy::Acked);
        !self.decided && acked.is_some_and(|stand| !self.tally.has_all_of(stand.owner))
    }

    /// Whether the client has been answered.
    #[must_use]
    pub const fn is_decided(&self) -> bool {
        self.decided
    }

    /// Whether every owner has answered or failed, so that nothing more will come.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.owners.iter().all(|(_, copy)| *copy != Copy::Sent) && self.unheard_stand_ins().next().is_none()
    }

    /// What each owner did, as an error tells it: `ok`, `down`, `timeout`, `error`, `refused`, `syncing`.
    pub fn states(&self) -> impl Iterator<Item = (StoreId, &'static str)> + '_ {
        let stand_ins = self.stand_ins.iter().map(|stand| (stand.fallback, stand.copy));
        self.owners.iter().copied().chain(stand_ins).map(|(id, copy)| match copy {
            Copy::Sent => (id, NoVote::TimedOut.as_str()),
            Copy::Failed(why) => (id, why.as_str()),
            Copy::Acked => (id, "ok"),
        })
    }

    /// What was taken down, where it was asked for.
    #[must_use]
    pub fn recorder(&self) -> Option<&Recorder> {
        self.recorder.as_deref()
    }
}

#[cfg(test)]
#[path = "put_tests.rs"]
mod tests;

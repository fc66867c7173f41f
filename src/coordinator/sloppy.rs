//! Sloppy quorums: fallbacks in the place of owners that are down.
//!
//! **Writes.** A coordinator asks fallbacks to keep hints for owners that are down, at once, and for owners that fail, or
//! say nothing for half of the time there is (`put`). Where no owner can be reached that would coordinate, the first
//! fallback that can does: it mints on the hint that it keeps (`replica::hints`). It sees no more than that, so a write
//! that supersedes what its coordinator sees is refused there: a delete that deletes nothing is worse than none.
//!
//! **Reads** ask all fallbacks for what they keep, and merge it with what the owners hold; one that answered votes in the
//! place of an owner that is down. The node that was asked does that itself: nothing is minted.
//!
//! Near the limit of hints a write is refused before anything is sent (503 `hints_full`), as far as heartbeats tell: while the
//! largest object still fits, so that few are refused by who is to keep them, after the mint.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;

use super::floor::Floor;
use super::get::{Needs, cover, reply_of_tell};
use super::handover::elsewhere;
use super::{Coordinator, Found, Located, WritePlan, Wrote, left};
use crate::causality::{MergeRules, Object, encode_object};
use crate::collect::Epoch;
use crate::kv::{Error, ErrorCode, Outcome, ReadOptions};
use crate::quorum::{Fallbacks, NoVote, ReplicaReply, Requirement};
use crate::replica::{Fault, KeepRequest};
use crate::transport::messages::{Ask, Held, Keep, Read, Tell};
use crate::types::{Mono, StoreId};

/// What fallbacks said of an object.
#[derive(Clone)]
pub(super) struct Kept {
    /// Who answered.
    pub(super) answered: Vec<StoreId>,
    /// All that they keep, merged.
    pub(super) object: Option<Arc<Object>>,
    /// What each keeps, and the least epoch under which that was read.
    pub(super) each: Vec<(StoreId, ReplicaReply, Epoch)>,
    /// The least epoch under which any of it was read.
    pub(super) epoch: Epoch,
}

impl Default for Kept {
    fn default() -> Self {
        Self { answered: Vec::new(), object: None, each: Vec::new(), epoch: Epoch(u64::MAX) }
    }
}

impl Located {
    /// Everybody who may keep something of this object for an owner: whoever was a fallback once, and what they keep goes on
    /// being theirs to hand off, whatever they are now.
    pub(super) fn keepers(&self) -> Vec<StoreId> {
        let chain = &self.known.chain;
        let members = chain.live().iter().flat_map(|layout| layout.members().iter().map(|member| member.store));
        let all: std::collections::BTreeSet<StoreId> = members.filter(|store| !chain.ended().contains(store)).collect();
        all.into_iter().collect()
    }

    /// Who may stand in for owners of this object, whether or not they are up, each within its region. Works them out each
    /// time: owners that are down are the exception.
    pub(super) fn fallbacks(&self) -> Fallbacks {
        let chain = &self.known.chain;
        let settings = chain.newest().settings(&self.id.bucket);
        let mut regions: Vec<(&str, Vec<StoreId>, Vec<StoreId>)> = Vec::new();
        for owners in self.route.live.iter().flat_map(|layout| &layout.regions) {
            let holders = owners.owners.iter().take(owners.n);
            match regions.iter_mut().find(|(region, ..)| *region == &*owners.region) {
                Some((_, known, _)) => known.extend(holders),
                None => regions.push((&owners.region, holders.copied().collect(), Vec::new())),
            }
        }
        for (region, store) in chain.fallback_stores(self.place.partition, settings) {
            if let Some((.., free)) = regions.iter_mut().find(|(known, ..)| *known == region) {
                free.push(store);
            }
        }
        Fallbacks::new(regions.into_iter().map(|(_, owners, free)| (owners, free)))
    }

    /// The state for a fallback, to be kept for an owner.
    pub(super) fn keep(&self, owner: StoreId, record: Bytes, epoch: Epoch, sealed: Epoch, flush: bool) -> Keep {
        let owner = Bytes::copy_from_slice(owner.as_bytes());
        Keep { target: self.target(), owner, record, epoch: epoch.0, flush, sealed: sealed.0 }
    }
}

impl Coordinator {
    /// Whether a node may stand in for an owner of a write, as far as is known.
    pub(super) fn stands_in(&self, store: StoreId, grows: bool) -> bool {
        if store != self.inner.me {
            return self.inner.peers.up().stands_in(store, grows);
        }
        self.takes(store, grows) && !self.inner.replica.hints().is_full()
    }

    /// The fallbacks that may be asked for a write; nobody where it is strict.
    pub(super) fn fallbacks_for(&self, located: &Located, plan: &WritePlan) -> Fallbacks {
        if !plan.sloppy {
            return Fallbacks::default();
        }
        located.fallbacks().only(|store| self.stands_in(store, plan.grows()))
    }

    /// Whether enough owners and fallbacks are up for a sloppy write of which too few owners are.
    pub(super) fn check_sloppy(
        &self,
        located: &Located,
        plan: &WritePlan,
        requirement: &Requirement,
    ) -> Result<bool, Error> {
        if !plan.sloppy {
            return Ok(false);
        }
        let takes = |store| self.takes(store, plan.grows());
        let down: Vec<StoreId> = requirement.members().iter().copied().filter(|store| !takes(*store)).collect();
        let enough = |mut fallbacks: Fallbacks| {
            let stands = fallbacks.take_for_all(requirement, &down);
            requirement.feasible(|store| takes(store) || stands.iter().any(|(owner, _)| *owner == store)).is_ok()
        };
        if enough(self.fallbacks_for(located, plan)) {
            return Ok(true);
        }
        let up = self.inner.peers.up();
        let has_room = |store| if store == self.inner.me { takes(store) } else { up.writes(store, plan.grows()) };
        if enough(located.fallbacks().only(has_room)) {
            return Err(self.hints_full());
        }
        Ok(false)
    }

    pub(super) fn hints_full(&self) -> Error {
        let detail = "as many hints wait on the nodes that could stand in as may (`node.hints.max_bytes`): they take no \
                      more until their owners are back; nothing was sent";
        self.later(Error::refused(ErrorCode::HintsFull, detail))
    }

    /// Writes where no owner could be reached that coordinates; `last` says why not. Nothing was done until here.
    pub(super) async fn write_instead(
        &self,
        located: Located,
        plan: &WritePlan,
        last: Error,
        began: Mono,
        deadline: Mono,
        held: impl Send + 'static,
    ) -> Result<Wrote, Error> {
        let unreached = last.code == ErrorCode::QuorumUnavailable || elsewhere(last.code);
        if !plan.sloppy || last.outcome != Outcome::NotApplied || !unreached {
            return Err(last);
        }
        let fallbacks = located.fallbacks();
        if fallbacks.stores().any(|store| store == self.inner.me) {
            match self.stands_for(&located, plan, Some(&last)) {
                Ok(owner) => {
                    return self.write_here(located, plan.clone(), Some(owner), began, deadline, held).await;
                }
                Err(error) if plan.looks() => return Err(error),
                Err(_) => {}
            }
        }
        drop(held);
        let up = self.inner.peers.up();
        let takes = |store: &StoreId| up.mints(*store) && up.stands_in(*store, plan.grows());
        let hosts: Vec<StoreId> = fallbacks.stores().filter(takes).collect();
        if plan.looks() && !hosts.is_empty() {
            return Err(self.sees_nothing(Some(&last)));
        }
        self.hand_over_write_to(&located, plan, &hosts, deadline, last).await
    }

    /// `last`: why no owner took it, where one was asked here.
    fn sees_nothing(&self, last: Option<&Error>) -> Error {
        let (code, why) = match last {
            Some(last) => (last.code, &*last.detail),
            None => (ErrorCode::QuorumUnavailable, "this node owns no copy of the object"),
        };
        let detail = format!(
            "{why}; and who stands in for an owner does not see what this write would supersede: send the context of what you \
             have read; nothing was done"
        );
        self.later(Error::refused(code, detail))
    }

    /// The owner for whom this node keeps a write that it coordinates as a fallback: one that is down, where there is one.
    /// `last`: why no owner coordinates it, where that is known.
    pub(super) fn stands_for(
        &self,
        located: &Located,
        plan: &WritePlan,
        last: Option<&Error>,
    ) -> Result<StoreId, Error> {
        if plan.looks() {
            return Err(self.sees_nothing(last));
        }
        if let Some(bar) = self.inner.replica.identity().barred() {
            return Err(self.refusal(&Fault::Barred(bar)));
        }
        if self.inner.replica.hints().is_full() {
            return Err(self.hints_full());
        }
        let requirement = self.require(located, plan.w)?;
        let (up, mut down): (Vec<StoreId>, Vec<StoreId>) =
            requirement.members().iter().copied().partition(|store| self.takes(*store, plan.grows()));
        // Whose vote counts in the most layouts first, as where it was found that there are enough.
        down.sort_by_key(|store| std::cmp::Reverse(requirement.layouts_of(*store).len()));
        let owner = located.fallbacks().owner_for(self.inner.me, down.into_iter().chain(up));
        owner.ok_or_else(|| {
            let detail = "this node stands in for no owner of the object";
            self.later(Error::refused(ErrorCode::ReplicasFailed, detail))
        })
    }

    /// What fallbacks keep of an object: asks all that are up, and waits for each no longer than `patience`.
    pub(super) async fn ask_fallbacks(&self, located: &Located, patience: Duration) -> Kept {
        let fallbacks: Vec<StoreId> = located.fallbacks().stores().collect();
        self.ask_keepers(located, &fallbacks, patience).await
    }

    /// Asks these, as far as they are up, what they keep of an object for others.
    pub(super) async fn ask_keepers(&self, located: &Located, keepers: &[StoreId], patience: Duration) -> Kept {
        let up = self.inner.peers.up();
        let me = self.inner.me;
        let fallbacks: Vec<StoreId> =
            keepers.iter().copied().filter(|store| *store == me || up.is_up(*store)).collect();
        let asked = fallbacks.iter().map(|store| self.ask_fallback(located, *store, patience));
        let replies = join_all(asked).await;
        let mut kept = Kept::default();
        for (store, (reply, epoch)) in fallbacks.into_iter().zip(replies) {
            kept.epoch = kept.epoch.min(epoch);
            match &reply {
                ReplicaReply::NoVote(_) => continue,
                ReplicaReply::Object(object) | ReplicaReply::Record(object, _) => {
                    let clashes = kept.add(object, &located.rules);
                    self.inner.metrics.replica.dot_clashes.inc_by(clashes);
                }
                ReplicaReply::Same | ReplicaReply::Nothing => {}
            }
            kept.answered.push(store);
            kept.each.push((store, reply, epoch));
        }
        kept
    }

    /// What one keeps, and the least epoch under which that was read.
    async fn ask_fallback(&self, located: &Located, store: StoreId, patience: Duration) -> (ReplicaReply, Epoch) {
        let nothing = Epoch(u64::MAX);
        if store == self.inner.me {
            let found = self.inner.replica.kept(located.place.clone(), located.rules).await;
            let epoch = found.as_ref().ok().and_then(|kept| kept.as_ref()).map_or(nothing, |(_, epoch)| Epoch(*epoch));
            return (super::get::reply_of_read(found.map(|kept| kept.map(|(record, _)| record))), epoch);
        }
        let read = Read { target: located.target(), have: None, to_mend: false };
        match self.inner.peers.call(store, Ask::ReadKept(read), located.version(), patience).await {
            Ok(reply) => match reply.tell {
                Some(Tell::Copy(copy)) if copy.held() == Held::Same => (ReplicaReply::NoVote(NoVote::Failed), nothing),
                Some(Tell::Copy(copy)) => {
                    let epoch = if copy.held() == Held::Object { Epoch(copy.epoch) } else { nothing };
                    (reply_of_tell(Some(Tell::Copy(copy))), epoch)
                }
                tell => (reply_of_tell(tell), nothing),
            },
            Err(failed) => (ReplicaReply::NoVote(super::no_vote_of(&failed)), nothing),
        }
    }

    /// A read that counts fallbacks in the place of owners that are down, and knows what they keep.
    pub(super) async fn read_sloppy(
        &self,
        located: Located,
        needs: Needs,
        options: &ReadOptions,
        began: Mono,
        deadline: Mono,
    ) -> Result<Found, Error> {
        let half = left(deadline, self.inner.env.clock.now()) / 2;
        let kept = self.ask_fallbacks(&located, half).await;
        let up = self.inner.peers.up();
        let me = self.inner.me;
        let votes = &needs.votes;
        // An owner whose copy is no vote yet is asked all the same: what it says is.
        let down: Vec<StoreId> =
            votes.members().iter().copied().filter(|owner| *owner != me && !up.is_up(*owner)).collect();
        let mut free = located.fallbacks().only(|store| kept.answered.contains(&store));
        let stands = free.take_for_all(votes, &down);
        let counted = votes.with_stand_ins(&stands);
        let there = |store| store == me || up.is_up(store) || kept.answered.contains(&store);
        if let Err(short) = counted.feasible(there) {
            return Err(self.unavailable(&located, &short));
        }
        self.inner.metrics.quorum.sloppy_reads.inc();
        let stood = u32::try_from(stands.len()).unwrap_or(u32::MAX);
        let (floor, id, generation) = (needs.floor.clone(), located.id.clone(), located.generation);
        let needs = Needs { votes: counted, ..needs };
        let mut found = self.read_for(located, needs, kept, options, began, deadline).await?;
        found.counted.sloppy = stood;
        match floor {
            Some(floor) if !cover(&found, &floor.seen) => {
                let floor = Floor { generation, seen: floor.seen };
                Box::pin(self.look_at_keepers(&id, &floor, options, began, deadline)).await
            }
            _ => Ok(found),
        }
    }

    /// Before a write with an Idempotency-Key is minted in an owner's place: what other fallbacks keep is kept here, too.
    pub(super) async fn catch_up_kept(&self, located: &Located, owner: StoreId, deadline: Mono) {
        let half = left(deadline, self.inner.env.clock.now()) / 2;
        let kept = self.ask_fallbacks(located, half).await;
        let Some(object) = kept.object else { return };
        // What cannot be kept is not known here: best effort, as it is among owners.
        let _ = self.keep_here(located, owner, encode_object(&object), kept.epoch, false).await;
    }

    /// Keeps a state for an owner, on this node.
    pub(super) async fn keep_here(
        &self,
        located: &Located,
        owner: StoreId,
        record: Bytes,
        Epoch(epoch): Epoch,
        flush: bool,
    ) -> Result<bool, Fault> {
        let (place, rules) = (located.place.clone(), located.rules);
        let sealed = self.inner.replica.heard(place.partition);
        let request = KeepRequest { place, owner, record, epoch, sealed, rules, flush };
        self.inner.replica.keep_hint(request).await
    }
}

impl Kept {
    /// Leaves out what was read before owners sealed so much: they hold it, or have seen it deleted; for hints are handed off
    /// before a seal, and what a directory that went back keeps is no news.
    pub(super) fn leave_out(&mut self, sealed: Epoch, rules: &MergeRules) {
        self.each.retain(|(.., read)| *read >= sealed);
        let left = std::mem::take(&mut self.each);
        (self.answered, self.object) = (left.iter().map(|(store, ..)| *store).collect(), None);
        self.epoch = left.iter().map(|(.., read)| *read).min().unwrap_or(Epoch(u64::MAX));
        for (_, reply, _) in &left {
            if let ReplicaReply::Object(object) | ReplicaReply::Record(object, _) = reply {
                // Two values of one dot were counted before.
                self.add(object, rules);
            }
        }
        self.each = left;
    }

    /// Tells how many dots came with two values.
    fn add(&mut self, object: &Object, rules: &MergeRules) -> u64 {
        match &mut self.object {
            None => {
                self.object = Some(Arc::new(object.clone()));
                0
            }
            Some(known) => Arc::make_mut(known).merge(object, rules).clashes as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causality::{self, Payload, Supersedes, Write};
    use crate::types::{ActorId, Stamp};

    fn object(actor: u64) -> Object {
        let payload = Payload { value: Some(Default::default()), ..Payload::default() };
        let write = Write { payload, supersedes: Supersedes::Tombstones, request: None };
        causality::write(&Object::new(), write, ActorId(actor), Stamp(10), Stamp(0), &MergeRules::default()).object
    }

    #[test]
    fn what_fallbacks_keep_from_before_a_seal_is_left_out_and_their_word_with_it() {
        let rules = MergeRules::default();
        let mut kept = Kept::default();
        for (number, read) in [(1, 4), (2, 6)] {
            let (store, object) = (StoreId::from_bits(number), object(number as u64));
            kept.add(&object, &rules);
            kept.answered.push(store);
            kept.each.push((store, ReplicaReply::Object(object), Epoch(read)));
            kept.epoch = kept.epoch.min(Epoch(read));
        }
        let nothing = StoreId::from_bits(3);
        kept.answered.push(nothing);
        kept.each.push((nothing, ReplicaReply::Nothing, Epoch(u64::MAX)));
        assert_eq!(kept.object.as_ref().unwrap().siblings().len(), 2);
        kept.leave_out(Epoch(5), &rules);
        assert_eq!(kept.answered, [StoreId::from_bits(2), nothing]);
        assert_eq!((kept.epoch, kept.each.len()), (Epoch(6), 2));
        assert_eq!(kept.object.as_deref(), Some(&object(2)));
    }
}

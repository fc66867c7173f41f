//! Hints by value: this node stands in for an owner.
//!
//! What arrives is merged with what is there for the same owner and key, by the one merge rule. **Who mints here mints on
//! the record it stores into** (I-MINT): its actor is drawn for that record and this life of the node, and ends with the
//! record. So whoever holds the record holds every dot of the actor; after the record was replayed and ended, after a
//! crash that may have forgotten some of it, on a copy of the directory, it is another actor.
//!
//! A directory that went back has forgotten what it promised the owners: that it keeps nothing that was read before a round
//! of collection. Until it has heard of them how far they are it stands in for nobody; and nothing is merged with what it
//! keeps from before what they have sealed, for they refuse that (decision 0025).
//!
//! An old state that is handed off later brings back nothing: it is merged, and what its owner has superseded by then its
//! owner's context covers.

use std::ops::Bound;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::record::{Hint, Kept, bytes_of, hint_key};
use super::{HintOp, HintWork};
use crate::causality::{MergeRules, Object, decode_object, digest_of_record, encode_object};
use crate::collect::Epoch;
use crate::replica::place::{Place, range_of};
use crate::replica::shard::{Coordinated, MintRequest, Shard};
use crate::replica::{Cause, Fault, Replica};
use crate::storage::Keyspace;
use crate::types::{PartitionId, StoreId};

/// An object to be kept for an owner.
#[derive(Clone, Debug)]
pub struct KeepRequest {
    /// Where it lies there.
    pub place: Place,
    /// The owner.
    pub owner: StoreId,
    /// What.
    pub record: Bytes,
    /// The partition's epoch under which it was read.
    pub epoch: u64,
    /// What an owner has sealed, as far as is known where it comes from.
    pub sealed: Epoch,
    /// How this bucket merges.
    pub rules: MergeRules,
    /// Flush before answering, whatever the node's durability.
    pub flush: bool,
}

impl Shard {
    pub(super) fn keep_hint(&self, work: &mut HintWork, request: &KeepRequest) -> Result<(), Fault> {
        self.check_writable()?;
        let KeepRequest { place, owner, record, epoch, sealed, rules, flush: _ } = request;
        self.hear(place.partition, *sealed, Epoch::FIRST)?;
        self.judge_hint(place.partition, Epoch(*epoch))?;
        let incoming = decode_object(record.clone()).map_err(|bad| Fault::Malformed(bad.to_string()))?;
        let slot = self.slot(work, *owner, &place.stored)?;
        let known = slot.after.as_ref().and_then(|hint| hint.kept.clone());
        self.stands_in(place.partition, known.as_ref().map(|known| Epoch(known.epoch)))?;
        let mut object = kept_object(known.as_ref())?;
        if !self.health.room().admits(&object, &incoming, Cause::Written) {
            return Err(self.no_room());
        }
        let merged = object.merge(&incoming, rules);
        self.count_clashes(place.partition, &merged);
        if known.is_some() && !merged.changed {
            return Ok(());
        }
        let record = if object == incoming { record.clone() } else { encode_object(&object) };
        let (epoch, tenure) = known.map_or((*epoch, 0), |known| (known.epoch.min(*epoch), known.tenure));
        self.store_hint(work, *owner, place, Kept { epoch, tenure, record })
    }

    /// Mints on the record that is kept for an owner.
    pub(in crate::replica) fn mint_on_hint(
        &mut self,
        work: &mut HintWork,
        request: &MintRequest,
        owner: StoreId,
    ) -> Result<Coordinated, Fault> {
        self.check_writable()?;
        let place = &request.place;
        let known = self.slot(work, owner, &place.stored)?.after.as_ref().and_then(|hint| hint.kept.clone());
        self.stands_in(place.partition, known.as_ref().map(|known| Epoch(known.epoch)))?;
        let object = kept_object(known.as_ref())?;
        let tenure = match known.as_ref().map_or(0, |known| known.tenure) {
            0 => self.env.entropy.u64().max(1),
            tenure => tenure,
        };
        let mut minted = self.mint_upon(&object, request, Some(tenure))?;
        // What is minted on nothing else brings nothing back.
        minted.epoch = known.map_or_else(|| self.hint_epoch(place.partition), |known| Epoch(known.epoch));
        if minted.replayed {
            return Ok(minted);
        }
        let epoch = minted.epoch.0;
        self.store_hint(work, owner, place, Kept { epoch, tenure, record: minted.record.clone() })?;
        Ok(minted)
    }

    /// Puts what is kept for an owner in its place, if it fits.
    fn store_hint(&self, work: &mut HintWork, owner: StoreId, place: &Place, kept: Kept) -> Result<(), Fault> {
        let (revision, since) = (digest_of_record(&kept.record), self.env.clock.wall());
        let left = Hint { owed: true, revision, since, kept: Some(kept), refers: false };
        let grows = work.grows;
        let slot = self.slot(work, owner, &place.stored)?;
        let before = slot.after.as_ref().map_or(0, |hint| bytes_of(&place.stored, hint));
        let more = bytes_of(&place.stored, &left).saturating_sub(before);
        if more > 0 && self.hints.total().1 + grows + more > self.hints.max_bytes() {
            self.metrics.hints.refused.inc();
            // What was there stays; this one is not taken, and whoever asked is told so.
            return if self.env.buggify.breaks("what is owed is refused at the limit") {
                Ok(())
            } else {
                Err(Fault::HintsFull)
            };
        }
        slot.after = Some(match slot.after.take() {
            Some(known) => known.merged(left),
            None => left,
        });
        work.grows += more;
        self.metrics.hints.kept.inc();
        self.health.room().took(usize::try_from(more).unwrap_or(usize::MAX));
        Ok(())
    }

    /// Whether nothing is kept in a partition that was read before `epoch`; who cannot tell does not say so.
    pub(in crate::replica) fn keeps_nothing_before(&self, partition: PartitionId, epoch: Epoch) -> Result<bool, Fault> {
        if self.hints.has_gaps() {
            return Ok(false);
        }
        let (first, end) = range_of(partition);
        for owner in self.hints.known_owners() {
            let (from, to) = (hint_key(owner, &first), end.as_ref().map(|end| hint_key(owner, end)));
            let to = to.as_ref().map_or(Bound::Unbounded, |to| Bound::Excluded(&to[..]));
            for entry in self.storage.scan(Keyspace::Hints, Bound::Included(&from[..]), to) {
                let (key, value) = entry.map_err(Fault::from)?;
                if !key.starts_with(owner.as_bytes()) {
                    break;
                }
                let old = |hint: Hint| hint.kept.is_some_and(|kept| Epoch(kept.epoch) < epoch);
                if Hint::decode(&value).is_none_or(old) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// What is kept here of one object, for whomever, and the least epoch under which any of it was read.
    fn kept_of(&self, place: &Place, rules: &MergeRules) -> Result<Option<(Bytes, u64)>, Fault> {
        let (mut one, mut all): (Option<Bytes>, Option<Object>) = (None, None);
        let mut least = u64::MAX;
        for owner in self.hints.known_owners() {
            let found = self.read_hint(&hint_key(owner, &place.stored))?;
            let Some(Kept { record, epoch, .. }) = found.and_then(|hint| hint.kept) else { continue };
            least = least.min(epoch);
            if one.as_ref() == Some(&record) {
                continue;
            }
            let object = decode_object(record.clone()).map_err(|_| Fault::Damaged)?;
            match &mut all {
                None => (one, all) = (Some(record), Some(object)),
                Some(all) => {
                    let merged = all.merge(&object, rules);
                    self.count_clashes(place.partition, &merged);
                    one = Some(encode_object(all));
                }
            }
        }
        if one.is_none() && self.hints.has_gaps() {
            // Who cannot tell does not say that there is nothing.
            return Err(Fault::HintUnreadable);
        }
        Ok(one.map(|record| (record, least)))
    }
}

/// The object that is kept; an empty one where none is.
fn kept_object(kept: Option<&Kept>) -> Result<Object, Fault> {
    let record = kept.map(|kept| kept.record.clone());
    record.map_or_else(|| Ok(Object::new()), |record| decode_object(record).map_err(|_| Fault::Damaged))
}

impl Replica {
    /// Stands in for an owner: keeps an object for it, merged with what is kept already; returns once that is durable, and
    /// whether it was flushed.
    pub async fn keep_hint(&self, request: KeepRequest) -> Result<bool, Fault> {
        self.seem_overloaded()?;
        let (answer, answered) = oneshot::channel();
        let partition = request.place.partition;
        self.send(partition, crate::replica::shard::Op::Hint(HintOp::Keep { request: Box::new(request), answer }))?;
        answered.await.unwrap_or(Err(Fault::Stopping))
    }

    /// What is kept here of an object for owners that missed it, merged, and the least epoch under which any of it was read;
    /// none where nothing is.
    pub async fn kept(&self, place: Place, rules: MergeRules) -> Result<Option<(Bytes, u64)>, Fault> {
        let at: PartitionId = place.partition;
        self.run(at, move |shard| shard.kept_of(&place, &rules)).await?
    }
}

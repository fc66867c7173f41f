//! Hints: what this node holds and another owner missed.
//!
//! The storage thread that owns the partition leaves and ends them, in the batch with everything else: a hint is never
//! there before the object it refers to, and no flush is forced by one. Two hints for one owner and key are one; **an
//! acknowledgement ends only the revision it answers**, so that what was written while an older state was on its way is
//! sent as well.
//!
//! What is not kept, because there are too many hints, or no room, or for too long, marks its partition, durably and in
//! the same batch: its owners are to be compared. A scrub that puts right what it cannot vouch for leaves the same mark.
//!
//! A hint *by value* (`keep`) is an owner's copy on a node that stands in for it, and counted towards a quorum: it is as
//! durable as `durability` says before it is acknowledged, and nothing drops it but the end of its bucket.
//!
//! What cannot be read, or is of a later version, may be owed as well: nothing is put in its place, it counts as owed, and
//! its partition is marked.
//!
//! Left to others: who is left one (`coordinator`), when they are sent (`repair`).
//!
//! Bounds: `ReplicaOptions::max_hint_bytes` for all owners together. Past it new keys are dropped, and what would be owed
//! is refused (several storage threads may pass it by a batch each); the summary in memory is [`HintBook`]'s.

mod book;
mod keep;
mod record;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;
use tracing::error;

pub use book::{HintBook, Waiting};
pub use keep::KeepRequest;
pub use record::{Hint, Kept};
use record::{bytes_of, hint_key, partition_of, target_of};
use walk::Walk;

use super::place::Place;
use super::shard::{Merged, Op, Shard};
use super::{Fault, Replica, ReplicaOptions};
use crate::metrics::Dropped;
use crate::storage::{Batch, Durability, Keyspace, Storage, StorageError};
use crate::types::{Digest, PartitionId, StoreId};

/// A page of hints by value ends once it has so many bytes of objects.
const PAGE_BYTES: usize = 1 << 20;

/// Why a hint is no longer needed, or kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HintEnd {
    /// Everybody it was for has it.
    Replayed,
    /// It was given up, without an acknowledgement.
    Dropped(Dropped),
}

/// A page of an owner's hints, in order of stored keys.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HintPage {
    /// (stored key, hint).
    pub entries: Vec<(Bytes, Hint)>,
    /// Where the next page goes on; none: this was the last.
    pub next: Option<Bytes>,
    /// Hints that cannot be read, and gaps with nobody knows how many.
    pub unreadable: u64,
}

/// What a batch does about hints.
pub(super) enum HintOp {
    /// These owners missed the state with this digest.
    Leave { place: Place, revision: Digest, targets: Vec<StoreId>, answer: oneshot::Sender<Merged> },
    /// This node stands in for an owner.
    Keep { request: Box<KeepRequest>, answer: oneshot::Sender<Merged> },
    /// This revision is done with.
    End { target: StoreId, stored: Bytes, revision: Digest, why: HintEnd, answer: oneshot::Sender<Merged> },
}

/// What a batch found and did to hints.
#[derive(Default)]
pub(super) struct HintWork {
    slots: BTreeMap<Bytes, Slot>,
    marks: Vec<PartitionId>,
    /// Bytes that the batch adds.
    grows: u64,
}

struct Slot {
    target: StoreId,
    stored: Bytes,
    before: Option<Hint>,
    after: Option<Hint>,
}

/// What waits on this disk. The partitions of what of it cannot be read are marked.
pub(super) fn open(storage: &dyn Storage, options: &ReplicaOptions) -> Result<HintBook, StorageError> {
    let (book, doubtful) = HintBook::open(storage, options)?;
    if !doubtful.is_empty() {
        let mut batch = Batch::new();
        doubtful.into_iter().for_each(|partition| batch.put(Keyspace::Meta, book::mark_key(partition), vec![1]));
        storage.commit(batch, Durability::Flush)?;
    }
    Ok(book)
}

impl HintOp {
    /// Whether what it does has to be as durable as data, and whether it is to be flushed whatever that is. Hints alone are
    /// not worth a flush.
    pub(super) fn is_data(&self) -> (bool, bool) {
        match self {
            Self::Keep { request, .. } => (true, request.flush),
            Self::Leave { .. } | Self::End { .. } => (false, false),
        }
    }
}

impl HintWork {
    /// Adds what is to be written.
    pub(super) fn write(&self, batch: &mut Batch) {
        for (key, slot) in self.slots.iter().filter(|(_, slot)| slot.before != slot.after) {
            match &slot.after {
                Some(hint) => batch.put(Keyspace::Hints, key.clone(), hint.encode()),
                None => batch.delete(Keyspace::Hints, key.clone()),
            }
        }
        for partition in &self.marks {
            batch.put(Keyspace::Meta, book::mark_key(*partition), vec![1]);
        }
    }
}

impl Shard {
    /// Does one of a batch's operations on hints; gives back whom to tell once it is committed.
    pub(super) fn hint(&self, work: &mut HintWork, op: HintOp) -> Option<oneshot::Sender<Merged>> {
        let (done, answer) = match op {
            HintOp::Leave { place, revision, targets, answer } => {
                let left = self.check_writable().map(|()| {
                    targets.into_iter().for_each(|target| self.leave_hint(work, target, &place.stored, revision));
                });
                (left, answer)
            }
            HintOp::Keep { request, answer } => (self.keep_hint(work, &request), answer),
            HintOp::End { target, stored, revision, why, answer } => {
                let writable = self.check_writable();
                (writable.and_then(|()| self.end_hint(work, target, &stored, revision, why)), answer)
            }
        };
        match done {
            Ok(()) => Some(answer),
            Err(fault) => {
                // Whoever no longer waits has stopped.
                let _ = answer.send(Err(fault));
                None
            }
        }
    }

    /// What is there, as this batch will leave it. Where that cannot be told nothing is put in its place: it may be owed.
    fn slot<'a>(&self, work: &'a mut HintWork, target: StoreId, stored: &Bytes) -> Result<&'a mut Slot, Fault> {
        match work.slots.entry(hint_key(target, stored)) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let before = match self.read_hint(entry.key()) {
                    Err(Fault::HintUnreadable) if self.env.buggify.breaks("a hint that cannot be read stays") => None,
                    read => read?,
                };
                Ok(entry.insert(Slot { target, stored: stored.clone(), before: before.clone(), after: before }))
            }
        }
    }

    /// The hint under this key, from disk.
    fn read_hint(&self, key: &[u8]) -> Result<Option<Hint>, Fault> {
        let known = match self.storage.get(Keyspace::Hints, key) {
            Ok(None) => return Ok(None),
            Ok(Some(value)) => Hint::decode(&value),
            Err(failed) => {
                error!(%failed, "a hint cannot be read");
                None
            }
        };
        known.map(Some).ok_or_else(|| {
            self.metrics.hints.unreadable.inc();
            Fault::HintUnreadable
        })
    }

    fn leave_hint(&self, work: &mut HintWork, target: StoreId, stored: &Bytes, revision: Digest) {
        let left = Hint { owed: false, revision, since: self.env.clock.wall(), kept: None, refers: true };
        let (grows, bytes) = (work.grows, bytes_of(stored, &left));
        let Ok(slot) = self.slot(work, target, stored) else {
            self.metrics.hints.dropped(Dropped::Unreadable).inc();
            return self.mark(work, stored);
        };
        let known = slot.after.take();
        let new = known.is_none();
        if new {
            let full = self.hints.total().1 + grows + bytes > self.hints.max_bytes();
            let short = self.health.room().is_short();
            if full || short {
                let why = if full { Dropped::Full } else { Dropped::NoRoom };
                self.metrics.hints.dropped(why).inc();
                return self.mark(work, stored);
            }
        }
        slot.after = Some(match known {
            Some(known) => known.merged(left),
            None => left,
        });
        self.metrics.hints.left.inc();
        if new {
            work.grows += bytes;
            self.health.room().took(usize::try_from(bytes).unwrap_or(usize::MAX));
        }
    }

    fn end_hint(
        &self,
        work: &mut HintWork,
        target: StoreId,
        stored: &Bytes,
        revision: Digest,
        why: HintEnd,
    ) -> Result<(), Fault> {
        let any = self.env.buggify.breaks("an acknowledgement ends only the revision it answers");
        let slot = self.slot(work, target, stored)?;
        // Of a bucket that is no more, nothing is promised.
        let owed_no_more = matches!(why, HintEnd::Replayed | HintEnd::Dropped(Dropped::Purged));
        let ends = |hint: &Hint| (any || hint.revision == revision) && (owed_no_more || !hint.owed);
        if !slot.after.as_ref().is_some_and(ends) {
            return Ok(());
        }
        slot.after = None;
        match why {
            HintEnd::Replayed => drop(self.metrics.hints.replayed.inc()),
            HintEnd::Dropped(why) => {
                self.metrics.hints.dropped(why).inc();
                if why.is_missed() {
                    self.mark(work, stored);
                }
            }
        }
        Ok(())
    }

    fn mark(&self, work: &mut HintWork, stored: &[u8]) {
        if let Some(partition) = partition_of(stored)
            && self.hints.mark(partition)
        {
            work.marks.push(partition);
        }
    }

    /// Marks a partition of which more than a hint may have been lost: its owners are to be compared.
    pub(super) fn mark_for_comparison(&self, partition: PartitionId, batch: &mut Batch) {
        if self.hints.mark(partition) {
            batch.put(Keyspace::Meta, book::mark_key(partition), vec![1]);
        }
    }

    /// What was done is on disk.
    pub(super) fn hints_committed(&self, work: HintWork) {
        let done = work.slots.into_values().filter(|slot| slot.before != slot.after);
        self.hints.committed(done.map(|slot| (slot.target, slot.stored, slot.before, slot.after)));
    }
}

impl Replica {
    /// What waits, for whom; and which partitions are marked.
    #[must_use]
    pub fn hints(&self) -> &Arc<HintBook> {
        &self.inner.hints
    }

    /// Leaves hints for owners that missed the state with this digest, which this node's store holds, or a newer one.
    pub async fn leave_hints(&self, place: Place, revision: Digest, targets: Vec<StoreId>) -> Result<(), Fault> {
        self.seem_overloaded()?;
        let (answer, answered) = oneshot::channel();
        let partition = place.partition;
        self.send(partition, Op::Hint(HintOp::Leave { place, revision, targets, answer }))?;
        answered.await.unwrap_or(Err(Fault::Stopping)).map(drop)
    }

    /// Ends a hint, if it still has the revision that was read before the object was.
    pub async fn end_hint(&self, target: StoreId, stored: Bytes, revision: Digest, why: HintEnd) -> Result<(), Fault> {
        let Some(partition) = partition_of(&stored) else { return Ok(()) };
        let (answer, answered) = oneshot::channel();
        self.send(partition, Op::Hint(HintOp::End { target, stored, revision, why, answer }))?;
        answered.await.unwrap_or(Err(Fault::Stopping)).map(drop)
    }

    /// A page of an owner's hints, from the first stored key after `after` on.
    pub async fn hints_of(&self, target: StoreId, after: Bytes, most: usize) -> Result<HintPage, Fault> {
        // By the thread that owns where it begins: so several pages of several owners are read side by side.
        let at = partition_of(&after).unwrap_or(PartitionId(0));
        self.run(at, move |shard| hints_of(shard, target, &after, most)).await
    }

    /// Takes away a partition's mark, unless something was dropped there since `told` was.
    pub async fn unmark(&self, partition: PartitionId, told: u64) -> Result<(), Fault> {
        self.run(partition, move |shard| {
            if !shard.hints.unmark(partition, told) {
                return Ok(());
            }
            let mut batch = Batch::new();
            batch.delete(Keyspace::Meta, book::mark_key(partition));
            shard.storage.commit(batch, Durability::Os).map(drop).map_err(|failed| {
                shard.fail(&failed);
                Fault::ReadOnly(failed.to_string())
            })
        })
        .await?
    }
}

fn hints_of(shard: &Shard, target: StoreId, after: &[u8], most: usize) -> HintPage {
    let mut page = HintPage::default();
    let mut bytes = 0;
    for entry in Walk::over(&*shard.storage, shard.partitions, target, after) {
        let read = entry.ok().and_then(|(key, value)| Some((target_of(&key)?.1, Hint::decode(&value)?)));
        let Some((stored, hint)) = read else {
            page.unreadable += 1;
            continue;
        };
        bytes += hint.kept.as_ref().map_or(0, |kept| kept.record.len());
        page.entries.push((stored.clone(), hint));
        if page.entries.len() >= most.max(1) || bytes >= PAGE_BYTES {
            page.next = Some(stored);
            break;
        }
    }
    page
}

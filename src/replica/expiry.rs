//! Dropping what has outlived its horizon: all that was ever under the key has expired, by every clock there may be, so
//! nobody has to be asked (model: `tests/models/expiry.rs`).
//!
//! It is kept for `max_clock_drift` more, and for as long as a request may be repeated: the ids of requests go with it.
//!
//! It goes by whole hours, for the Merkle tree does: an object hangs under its horizon's hour, and owners leave out the
//! hours that have passed. So what one owner has dropped and another has not yet is no difference between them. The
//! leaves of an hour tell where there is anything to do; they go with the last object.

use std::ops::Bound::{Excluded, Included};

use bytes::Bytes;

use super::forget::Scanned;
use super::index::index_digest;
use super::place::{leaf_key, range_of};
use super::shard::Shard;
use super::{Fault, Replica};
use crate::causality::decode_head;
use crate::merkle::first_kept;
use crate::storage::{Batch, Durability, Keyspace};
use crate::types::{PartitionId, Stamp};

/// Most index entries looked at in one go.
const CHUNK: usize = 1024;

impl Replica {
    /// Drops a chunk of what a partition holds under hours that have passed, from the first stored key after `after` on;
    /// tells how many objects, and where to go on. Nothing while this node's clock is not to be trusted. Flushed.
    pub async fn expire(&self, partition: PartitionId, after: Bytes) -> Result<(u64, Option<Bytes>), Fault> {
        if !self.inner.identity.clock_is_right() {
            return Ok((0, None));
        }
        let kept = first_kept(self.now(), self.inner.linger);
        self.run(partition, move |shard| shard.expire(partition, kept, &after)).await?
    }
}

impl Shard {
    /// Drops a chunk; the first of a partition only where a leaf says that there is something. Gives how many objects went
    /// and where to go on.
    fn expire(&self, partition: PartitionId, kept: u32, after: &Bytes) -> Result<(u64, Option<Bytes>), Fault> {
        if after.is_empty() && self.leaves_before(partition, kept)?.is_empty() {
            return Ok((0, None));
        }
        let (first, end) = range_of(partition);
        let from = if after.is_empty() { Included(&first[..]) } else { Excluded(&after[..]) };
        let end = end.as_ref().map_or(std::ops::Bound::Unbounded, |end| Excluded(&end[..]));
        let (mut keys, mut floor, mut scanned) = (Vec::new(), Stamp::default(), Scanned::default());
        // What a round lists is the round's, until it has dropped it.
        let book = self.books.of(partition);
        for entry in self.storage.scan(Keyspace::Index, from, end).take(CHUNK) {
            let (stored, entry) = entry.map_err(Fault::from)?;
            if index_digest(&entry).is_some_and(|(_, hour)| (1..kept).contains(&hour))
                && !book.as_ref().is_some_and(|book| book.lists(&stored))
                && let Some(greatest) = self.greatest_stamp(&stored)
            {
                floor = floor.max(greatest);
                keys.push(stored.clone());
            }
            scanned.note(stored);
        }
        let dropped = self.drop_below(partition, &keys, floor)?;
        let next = scanned.next(CHUNK);
        if next.is_none() {
            self.clear_leaves(partition, kept)?;
        }
        Ok((dropped, next))
    }

    /// Deletes objects none of which has seen a stamp above `floor`. From then on nothing is minted in this partition below
    /// it, and a state that names a dot of this node's below it is no proof that the directory went back (I-MINT).
    fn drop_below(&self, partition: PartitionId, keys: &[Bytes], floor: Stamp) -> Result<u64, Fault> {
        let mut beside = Batch::new();
        let floor = if self.env.buggify.breaks("a drop raises the floor") { Stamp::default() } else { floor };
        if let Some((key, value)) = self.identity.floor_entry(partition, floor) {
            beside.put(Keyspace::Meta, key, value);
        }
        let dropped = self.delete_beside(partition, keys, beside, &self.metrics.replica.expired)?;
        if dropped > 0 {
            self.identity.raise_floor(partition, floor);
        }
        Ok(dropped)
    }

    /// The greatest stamp that an object has seen; none where it cannot be read: it stays until it is mended.
    fn greatest_stamp(&self, stored: &Bytes) -> Option<Stamp> {
        if self.health.is_quarantined(stored) {
            return None;
        }
        let record = self.storage.get(Keyspace::Objects, stored).ok()??;
        decode_head(&record).ok()?.context.greatest_stamp()
    }

    /// The leaves of a partition under hours before `kept`: key and sum.
    fn leaves_before(&self, partition: PartitionId, kept: u32) -> Result<Vec<(Bytes, Bytes)>, Fault> {
        let mut leaves = Vec::new();
        for class in self.classes.in_partition(partition) {
            let (from, to) = (leaf_key(partition, class, 1, 0), leaf_key(partition, class, kept, 0));
            for leaf in self.storage.scan(Keyspace::Merkle, Included(&from[..]), Excluded(&to[..])) {
                leaves.push(leaf.map_err(Fault::from)?);
            }
        }
        Ok(leaves)
    }

    /// Takes away the leaves under which nothing hangs any more. One that is not zero stays, and is looked at again.
    fn clear_leaves(&self, partition: PartitionId, kept: u32) -> Result<(), Fault> {
        let mut batch = Batch::new();
        for (leaf, sum) in self.leaves_before(partition, kept)? {
            if sum.iter().all(|byte| *byte == 0) {
                batch.delete(Keyspace::Merkle, leaf);
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.storage.commit(batch, Durability::Os).map(|_| ()).map_err(|failed| {
            self.fail(&failed);
            Fault::ReadOnly(failed.to_string())
        })
    }
}

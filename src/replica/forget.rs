//! Deleting for good what this node holds of partitions: because it begins a new tenure of one it did not own, or has
//! given one up and every key is covered by the new owners.
//!
//! Object, index entry and Merkle delta go in one batch, as they came. The work is done in chunks, so that clients of
//! other partitions of the same storage thread need not wait for all of it.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;

use super::class::{front, front_of};
use super::index::index_digest;
use super::place::{self, name_of, range_of};
use super::shard::Shard;
use super::{Fault, Replica};
use crate::causality::{decode_object, digest_of_record};
use crate::merkle::{hour_of, leaf_element};
use crate::storage::{Batch, Durability, Keyspace};
use crate::types::{Bucket, Digest, PartitionId};

/// Most objects deleted in one go.
const CHUNK: usize = 256;
const WENT_BACK: &[u8] = b"replica/went-back";

/// Says something of a bucket.
pub type OfBucket<T> = Arc<dyn Fn(&Bucket) -> T + Send + Sync>;

/// A page of what is held: stored keys and digests.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DigestPage {
    /// (stored key, digest).
    pub entries: Vec<(Bytes, Digest)>,
    /// Where the next page goes on; none: this was the last.
    pub next: Option<Bytes>,
}

impl Replica {
    /// Begins new tenures of partitions, all in one flush: what was minted in the ones before may be forgotten.
    pub async fn new_tenures(&self, partitions: Vec<PartitionId>) -> Result<(), Fault> {
        self.run(PartitionId(0), move |shard| {
            shard.identity.new_tenures(&partitions).map_err(|failed| {
                shard.fail(&failed);
                Fault::ReadOnly(failed.to_string())
            })
        })
        .await?
    }

    /// Deletes what is held of a partition's buckets that `which` names. Flushed.
    pub async fn forget(&self, partition: PartitionId, which: OfBucket<bool>) -> Result<u64, Fault> {
        let (mut after, mut deleted) = (Bytes::new(), 0);
        loop {
            let (from, which) = (after.clone(), Arc::clone(&which));
            let step = self.run(partition, move |shard| {
                let page = digests_of(shard, partition, &from, &Bytes::new(), CHUNK)?;
                let named =
                    |(stored, _): &&(Bytes, Option<Digest>)| name_of(stored).is_some_and(|(id, _)| which(&id.bucket));
                let keys: Vec<Bytes> = page.0.iter().filter(named).map(|(stored, _)| stored.clone()).collect();
                shard.delete(partition, &keys, &shard.metrics.replica.forgotten).map(|deleted| (deleted, page.1))
            });
            let (some, next) = step.await??;
            deleted += some;
            match next {
                Some(next) => after = next,
                None => return Ok(deleted),
            }
        }
    }

    /// Deletes those of these objects that are still as their digests say, unless `spared` names their bucket by then:
    /// asked by the storage thread that would have taken in what came meanwhile.
    pub async fn forget_covered(
        &self,
        partition: PartitionId,
        covered: Vec<(Bytes, Digest)>,
        spared: OfBucket<bool>,
    ) -> Result<u64, Fault> {
        self.run(partition, move |shard| {
            let unchanged = |(stored, digest): &&(Bytes, Digest)| {
                let held = shard.storage.get(Keyspace::Index, stored).ok().flatten();
                let same = held.as_deref().and_then(index_digest).is_some_and(|(held, _)| held == *digest);
                same && name_of(stored).is_some_and(|(id, _)| !spared(&id.bucket))
            };
            let keys: Vec<Bytes> = covered.iter().filter(unchanged).map(|(stored, _)| stored.clone()).collect();
            shard.delete(partition, &keys, &shard.metrics.replica.forgotten)
        })
        .await?
    }

    /// Deletes what is held of a bucket in a partition under generations before this one, a chunk at a time; tells how
    /// many objects that were, and whether it was all. Flushed.
    pub async fn drop_before(
        &self,
        partition: PartitionId,
        bucket: &Bucket,
        generation: u64,
    ) -> Result<(u64, bool), Fault> {
        let from = front(partition, bucket);
        let to = Bytes::from([&from[..], &generation.to_be_bytes()].concat());
        self.run(partition, move |shard| {
            let mut keys = Vec::new();
            for entry in
                shard.storage.scan(Keyspace::Index, Bound::Included(&from[..]), Bound::Excluded(&to[..])).take(CHUNK)
            {
                keys.push(entry.map_err(Fault::from)?.0);
            }
            Ok((shard.delete(partition, &keys, &shard.metrics.replica.forgotten)?, keys.len() < CHUNK))
        })
        .await?
    }

    /// A page of the stored keys and digests of a partition, after `after`, up to `to` where that is not empty. A key
    /// whose digest cannot be read is left out: it is covered by nothing.
    pub async fn digests(
        &self,
        partition: PartitionId,
        after: Bytes,
        to: Bytes,
        most: usize,
    ) -> Result<DigestPage, Fault> {
        let page = self.run(partition, move |shard| digests_of(shard, partition, &after, &to, most)).await??;
        let entries = page.0.into_iter().filter_map(|(stored, digest)| Some((stored, digest?)));
        Ok(DigestPage { entries: entries.collect(), next: page.1 })
    }

    /// Makes all that was merged so far as durable as a flush does.
    pub async fn flush(&self) -> Result<(), Fault> {
        self.run(PartitionId(0), |shard| {
            shard.storage.flush().map(|_| ()).map_err(|failed| {
                shard.fail(&failed);
                Fault::ReadOnly(failed.to_string())
            })
        })
        .await?
    }

    /// Removes entries of the node's own state.
    pub async fn unremember(&self, keys: Vec<Bytes>) -> Result<(), Fault> {
        if keys.is_empty() {
            return Ok(());
        }
        self.run(PartitionId(0), move |shard| {
            let mut batch = Batch::new();
            keys.into_iter().for_each(|key| batch.delete(Keyspace::Meta, key));
            shard.storage.commit(batch, Durability::Flush).map(|_| ()).map_err(|failed| {
                shard.fail(&failed);
                Fault::ReadOnly(failed.to_string())
            })
        })
        .await?
    }

    /// Whether this directory was proven to have gone back, and what it promised before that was not dealt with yet.
    pub fn went_back(&self) -> Result<bool, Fault> {
        Ok(self.storage().get(Keyspace::Meta, WENT_BACK)?.is_some())
    }

    /// It has been dealt with.
    pub async fn heeded_going_back(&self) -> Result<(), Fault> {
        self.unremember(vec![Bytes::from_static(WENT_BACK)]).await
    }
}

/// Notes that the directory went back, in the batch that acts on it.
pub(super) fn note_going_back(batch: &mut Batch) {
    batch.put(Keyspace::Meta, WENT_BACK, vec![1]);
}

/// How far a scan in chunks has come.
#[derive(Default)]
pub(super) struct Scanned {
    last: Option<Bytes>,
    count: usize,
}

impl Scanned {
    pub(super) fn note(&mut self, stored: Bytes) {
        self.last = Some(stored);
        self.count += 1;
    }

    /// Where the next chunk goes on; none where this one was not full.
    pub(super) fn next(self, chunk: usize) -> Option<Bytes> {
        self.last.filter(|_| self.count >= chunk)
    }
}

/// Stored keys with their digests, none where that cannot be read; and where to go on.
type Listed = (Vec<(Bytes, Option<Digest>)>, Option<Bytes>);

fn digests_of(shard: &Shard, partition: PartitionId, after: &Bytes, to: &Bytes, most: usize) -> Result<Listed, Fault> {
    let (first, end) = range_of(partition);
    let from = if after.is_empty() { Bound::Included(&first[..]) } else { Bound::Excluded(&after[..]) };
    let end = match (to.is_empty(), &end) {
        (false, _) => Bound::Included(&to[..]),
        (true, Some(end)) => Bound::Excluded(&end[..]),
        (true, None) => Bound::Unbounded,
    };
    let mut entries = Vec::new();
    for entry in shard.storage.scan(Keyspace::Index, from, end) {
        let (stored, entry) = entry.map_err(Fault::from)?;
        entries.push((stored.clone(), index_digest(&entry).map(|(digest, _)| digest)));
        if entries.len() >= most.max(1) {
            return Ok((entries, Some(stored)));
        }
    }
    Ok((entries, None))
}

impl Shard {
    /// Deletes objects with all that is stored about them.
    fn delete(&self, partition: PartitionId, keys: &[Bytes], count: &Counter) -> Result<u64, Fault> {
        self.delete_beside(partition, keys, Batch::new(), count)
    }

    /// As [`Shard::delete`], in one batch with what else is to be written.
    pub(super) fn delete_beside(
        &self,
        partition: PartitionId,
        keys: &[Bytes],
        mut batch: Batch,
        count: &Counter,
    ) -> Result<u64, Fault> {
        if keys.is_empty() {
            return Ok(0);
        }
        let grid = self.grid();
        for stored in keys {
            let entry = self.storage.get(Keyspace::Index, stored).ok().flatten();
            let known = entry.as_deref().and_then(index_digest).or_else(|| {
                let record = self.storage.get(Keyspace::Objects, stored).ok().flatten()?;
                let digest = digest_of_record(&record);
                Some((digest, hour_of(decode_object(record).ok()?.horizon())))
            });
            if let (Some((digest, hour)), Some((id, generation))) = (known, name_of(stored)) {
                let leaf = place::Place::of(grid, &id, generation).leaf;
                let leaf = place::leaf_key(partition, self.classes.of(&front_of(stored)), hour, leaf);
                batch.add(Keyspace::Merkle, leaf, leaf_element(stored, &digest).wrapping_neg());
            }
            batch.delete(Keyspace::Index, stored.clone());
            batch.delete(Keyspace::Objects, stored.clone());
        }
        self.storage.commit(batch, Durability::Flush).map_err(|failed| {
            self.fail(&failed);
            Fault::ReadOnly(failed.to_string())
        })?;
        self.health.release(keys);
        count.inc_by(keys.len() as u64);
        Ok(keys.len() as u64)
    }
}

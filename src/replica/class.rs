//! Under which placement class the Merkle leaves of a bucket's objects hang, partition by partition.
//!
//! Owners compare trees by class, since a class stands for the owner positions that hold a bucket. When its n changes so
//! does its class, and its objects have to be taken out of the one tree and put into the other: all of a partition's at
//! once, in the batch of the first write that comes with the new class, or when the background asks for it. Until then
//! they stay where they are. What is recorded here is therefore always true of what is stored, whatever a request says.
//!
//! Only classes other than 0, the cluster's default, are recorded: as many as there are configured buckets in partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::index::index_digest;
use super::place::{Place, leaf_key, name_of};
use super::shard::Shard;
use super::{Fault, Replica};
use crate::merkle::leaf_element;
use crate::ring::Grid;
use crate::storage::{Batch, Durability, Keyspace, Storage, StorageError};
use crate::types::{Bucket, PartitionId};

const PREFIX: &[u8] = b"merkle/class/";
const END: &[u8] = b"merkle/class0";

/// What stored keys of one bucket in one partition begin with.
pub(super) fn front_of(stored: &Bytes) -> Bytes {
    let bucket = stored.get(4).map_or(0, |len| usize::from(*len));
    stored.slice(..stored.len().min(5 + bucket))
}

/// The same, from the names.
pub(super) fn front(partition: PartitionId, bucket: &Bucket) -> Bytes {
    let (name, at) = (bucket.as_str().as_bytes(), partition.0.to_be_bytes());
    [&at[..], &[u8::try_from(name.len()).unwrap_or(u8::MAX)], name].concat().into()
}

/// The classes that are not 0, by the front of the stored keys.
pub(super) fn recorded(storage: &dyn Storage) -> Result<BTreeMap<Bytes, u16>, StorageError> {
    let mut recorded = BTreeMap::new();
    for entry in storage.scan(Keyspace::Meta, Included(PREFIX), Excluded(END)) {
        let (key, value) = entry?;
        if let Ok(class) = <[u8; 2]>::try_from(&value[..]) {
            recorded.insert(key.slice(PREFIX.len()..), u16::from_be_bytes(class));
        }
    }
    Ok(recorded)
}

/// Where leaves hang.
#[derive(Debug, Default)]
pub(super) struct Classes(Mutex<BTreeMap<Bytes, u16>>);

impl Classes {
    pub(super) const fn new(recorded: BTreeMap<Bytes, u16>) -> Self {
        Self(Mutex::new(recorded))
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<Bytes, u16>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all there is hangs under 0.
    pub(super) fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    /// The class under which what begins so hangs.
    pub(super) fn of(&self, front: &Bytes) -> u16 {
        self.all().get(front).copied().unwrap_or(0)
    }

    /// The classes that anything in a partition may hang under.
    pub(super) fn in_partition(&self, partition: PartitionId) -> BTreeSet<u16> {
        let front = partition.0.to_be_bytes();
        let recorded = self.all();
        let others = recorded.range(Bytes::copy_from_slice(&front)..).take_while(|(key, _)| key.starts_with(&front));
        others.map(|(_, class)| *class).chain([0]).collect()
    }

    /// Adds to `batch` what hangs what begins so under `class`. Where the index cannot be read everything stays.
    pub(super) fn hang(&self, storage: &dyn Storage, grid: Grid, front: &Bytes, class: u16, batch: &mut Batch) {
        let before = self.of(front);
        if before == class {
            return;
        }
        let mut sums: BTreeMap<(u32, u8), u128> = BTreeMap::new();
        let end = after(front);
        let to = end.as_deref().map_or(Unbounded, Excluded);
        for entry in storage.scan(Keyspace::Index, Included(front), to) {
            let Ok((stored, entry)) = entry else { return };
            if let (Some((digest, hour)), Some((id, generation))) = (index_digest(&entry), name_of(&stored)) {
                let leaf = Place::of(grid, &id, generation).leaf;
                let sum = sums.entry((hour, leaf)).or_default();
                *sum = sum.wrapping_add(leaf_element(&stored, &digest));
            }
        }
        let partition = front.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        for ((hour, leaf), sum) in sums {
            let at = |class| leaf_key(PartitionId(partition), class, hour, leaf);
            batch.add(Keyspace::Merkle, at(before), sum.wrapping_neg());
            batch.add(Keyspace::Merkle, at(class), sum);
        }
        let key = [PREFIX, front].concat();
        if class == 0 {
            batch.delete(Keyspace::Meta, key);
            self.all().remove(front);
        } else {
            batch.put(Keyspace::Meta, key, class.to_be_bytes().to_vec());
            self.all().insert(front.clone(), class);
        }
    }
}

/// The first key after all that begin so; none if there is none.
pub(super) fn after(front: &[u8]) -> Option<Vec<u8>> {
    let last = front.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut after = front[..=last].to_vec();
    after[last] += 1;
    Some(after)
}

impl Shard {
    pub(super) fn grid(&self) -> Grid {
        Grid::new(self.partitions).unwrap_or_default()
    }
}

impl Replica {
    /// Hangs what is held of a bucket in a partition under this placement class, if it hangs under another.
    pub async fn hang(&self, partition: PartitionId, bucket: &Bucket, class: u16) -> Result<(), Fault> {
        let front = front(partition, bucket);
        self.run(partition, move |shard| {
            let mut batch = Batch::new();
            shard.classes.hang(&*shard.storage, shard.grid(), &front, class, &mut batch);
            if batch.is_empty() {
                return Ok(());
            }
            shard.storage.commit(batch, Durability::Os).map(|_| ()).map_err(|failed| {
                shard.fail(&failed);
                Fault::ReadOnly(failed.to_string())
            })
        })
        .await?
    }
}

//! What this replica must not vote on: partitions that are not completely synced, keys that could not be read.
//!
//! An unsynced partition answers `syncing`, a quarantined key answers *error*; neither is a vote for "not found". Both
//! end only when the state of every other owner has been merged (`repair::mend`). Unsynced partitions are remembered on
//! disk; a quarantined key needs no memory, for reading it again finds the damage again (a record that is gone altogether a
//! scrub finds by its index entry; a pass that left something unmended begins anew in the next life).
//!
//! Quarantined is what cannot be read, or does not decode. A record that decodes stays a vote, whatever its index entry says
//! (`replica::scrub`); and mending merges on top of whatever decodes here, and never drops it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::identity::partition_key;
use super::room::{Reserve, Room};
use crate::storage::{Batch, Durability, Keyspace, Storage, StorageError};
use crate::types::PartitionId;

const UNSYNCED: &[u8] = b"unsynced/";
/// The value of such a mark.
const DOUBTFUL: u8 = 1;
/// ... where the directory went back: what was promised for others is forgotten as well.
const FORGETFUL: u8 = 2;

/// Partitions and keys that must not be voted on.
#[derive(Debug)]
pub struct Health {
    ill: Mutex<Ill>,
    /// How many there are of both, changed with them: the common case is one load of zero.
    count: AtomicUsize,
    /// Held while what is on disk and what is in memory are brought from one state to the next.
    marking: Mutex<()>,
    read_only: AtomicBool,
    room: Room,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ill {
    /// With the number of the mark that made it so.
    unsynced: BTreeMap<PartitionId, u64>,
    /// Those of them in which the directory went back.
    forgetful: BTreeSet<PartitionId>,
    marks: u64,
    quarantined: BTreeMap<Bytes, PartitionId>,
}

impl Health {
    /// Reads which partitions are unsynced, measures the room.
    pub(super) fn open(storage: &dyn Storage, reserve: Reserve) -> Result<Self, StorageError> {
        use std::ops::Bound::{Excluded, Included};
        let (mut unsynced, mut forgetful) = (BTreeMap::new(), BTreeSet::new());
        for entry in storage.scan(Keyspace::Meta, Included(UNSYNCED), Excluded(b"unsynced0")) {
            let (key, value) = entry?;
            if let Ok(partition) = key[UNSYNCED.len()..].try_into() {
                let partition = PartitionId(u32::from_be_bytes(partition));
                unsynced.insert(partition, 0);
                if value.first() == Some(&FORGETFUL) {
                    forgetful.insert(partition);
                }
            }
        }
        let count = AtomicUsize::new(unsynced.len());
        let ill = Mutex::new(Ill { unsynced, forgetful, ..Ill::default() });
        let (marking, read_only, changes) = (Mutex::new(()), AtomicBool::new(false), watch::channel(0).0);
        let room = Room::new(reserve);
        room.measured(storage.space());
        Ok(Self { ill, count, marking, read_only, room, changes })
    }

    /// Whether nothing is wrong: the common case, one load.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Whether the partition has been completely synced.
    #[must_use]
    pub fn is_synced(&self, partition: PartitionId) -> bool {
        self.is_well() || !self.ill().unsynced.contains_key(&partition)
    }

    /// Whether the key is quarantined.
    #[must_use]
    pub fn is_quarantined(&self, stored: &Bytes) -> bool {
        !self.is_well() && self.ill().quarantined.contains_key(stored)
    }

    /// Whether a commit failed: nothing is written until the node is started again.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Acquire)
    }

    /// The room on the disk.
    #[must_use]
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// The partitions that are not completely synced.
    #[must_use]
    pub fn unsynced(&self) -> Vec<PartitionId> {
        self.ill().unsynced.keys().copied().collect()
    }

    /// The mark that made a partition unsynced, the last one; none where it is synced.
    #[must_use]
    pub fn doubt(&self, partition: PartitionId) -> Option<u64> {
        self.ill().unsynced.get(&partition).copied()
    }

    /// Whether the directory went back, and it was not found out since what the partition's owners were promised here: not to
    /// keep what was read before a round of collection.
    #[must_use]
    pub fn is_forgetful(&self, partition: PartitionId) -> bool {
        !self.is_well() && self.ill().forgetful.contains(&partition)
    }

    /// The quarantined keys.
    #[must_use]
    pub fn quarantined(&self) -> Vec<(PartitionId, Bytes)> {
        self.ill().quarantined.iter().map(|(stored, partition)| (*partition, stored.clone())).collect()
    }

    /// Told of every change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn latch_read_only(&self) -> bool {
        !self.read_only.swap(true, Ordering::AcqRel)
    }

    /// Durably marks partitions as unsynced, and stores `beside` in the same batch.
    pub(super) fn mark_unsynced(
        &self,
        storage: &dyn Storage,
        partitions: &[PartitionId],
        beside: Batch,
    ) -> Result<(), StorageError> {
        self.mark(storage, partitions, beside, false)
    }

    /// The same of partitions in which the directory went back.
    pub(super) fn mark_forgetful(
        &self,
        storage: &dyn Storage,
        partitions: &[PartitionId],
        beside: Batch,
    ) -> Result<(), StorageError> {
        self.mark(storage, partitions, beside, true)
    }

    fn mark(
        &self,
        storage: &dyn Storage,
        partitions: &[PartitionId],
        mut beside: Batch,
        went_back: bool,
    ) -> Result<(), StorageError> {
        let _marking = self.marking.lock().unwrap_or_else(PoisonError::into_inner);
        // In memory first: whatever the disk does, there must be no vote from here on.
        self.change(|ill| {
            ill.marks += 1;
            ill.unsynced.extend(partitions.iter().map(|partition| (*partition, ill.marks)));
            if went_back {
                ill.forgetful.extend(partitions);
            }
        });
        for partition in partitions {
            let mark = if self.is_forgetful(*partition) { FORGETFUL } else { DOUBTFUL };
            beside.put(Keyspace::Meta, partition_key(UNSYNCED, *partition), vec![mark]);
        }
        storage.commit(beside, Durability::Flush).map(|_| ())
    }

    /// Durably marks a partition as completely synced, unless it was marked as unsynced since `doubt`: what befell it then
    /// may not have been merged. Flushes what was, for the mark says it is there. Tells whether it is synced.
    pub(super) fn mark_synced(
        &self,
        storage: &dyn Storage,
        partition: PartitionId,
        doubt: u64,
    ) -> Result<bool, StorageError> {
        let _marking = self.marking.lock().unwrap_or_else(PoisonError::into_inner);
        if self.doubt(partition).is_some_and(|last| last != doubt) {
            return Ok(false);
        }
        let mut batch = Batch::new();
        batch.delete(Keyspace::Meta, partition_key(UNSYNCED, partition));
        storage.flush()?;
        storage.commit(batch, Durability::Flush)?;
        self.change(|ill| {
            ill.unsynced.remove(&partition);
            ill.forgetful.remove(&partition);
        });
        Ok(true)
    }

    /// Puts a key into quarantine; tells whether it is new there.
    pub(super) fn quarantine(&self, partition: PartitionId, stored: Bytes) -> bool {
        self.change(|ill| ill.quarantined.insert(stored, partition).is_none())
    }

    /// Releases keys whose whole state has been committed.
    pub(super) fn release(&self, stored: &[Bytes]) {
        self.change(|ill| ill.quarantined.retain(|held, _| !stored.contains(held)));
    }

    fn ill(&self) -> MutexGuard<'_, Ill> {
        self.ill.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Ill) -> T) -> T {
        let mut ill = self.ill();
        let result = change(&mut ill);
        self.count.store(ill.unsynced.len() + ill.quarantined.len(), Ordering::Release);
        drop(ill);
        self.changes.send_modify(|count| *count += 1);
        result
    }
}

//! How many hints wait, for whom, since when; and the partitions where one was dropped.
//!
//! A summary in memory: built by a scan at the start, kept exact by the storage threads, which enter what a batch did
//! once it is committed. Administrators, metrics and the worker that replays hints look here and not on the disk.
//!
//! Bounds: for each owner a count for each second in which hints were left that still wait, which the hint window
//! bounds; one entry for each marked partition.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;
use tracing::{error, warn};

use super::ReplicaOptions;
use super::record::{Hint, bytes_of, partition_of, target_of};
use super::walk::Walk;
use crate::storage::{Keyspace, Storage, StorageError};
use crate::types::{PartitionId, StoreId, Wall};

const MARKED: &[u8] = b"repair/marked/";
const MARKED_END: &[u8] = b"repair/marked0";

/// The hints that wait for one owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Waiting {
    /// Keys: one hint each.
    pub keys: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// Of the keys: those that counted towards a quorum, and that nothing drops.
    pub owed: u64,
    /// When the oldest was left, to the second.
    pub oldest: Wall,
}

/// The summary. Shared by all shards.
#[derive(Debug)]
pub struct HintBook {
    state: Mutex<State>,
    max_bytes: u64,
    /// The largest object that clients may write.
    largest: u64,
    /// Hints that could not be read when this life began, by owner: they may be owed.
    unreadable: BTreeMap<StoreId, u64>,
    /// Places where nobody knows how many, or for whom.
    gaps: u64,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    targets: BTreeMap<StoreId, Target>,
    keys: u64,
    bytes: u64,
    /// With how often it was marked in this life.
    marked: BTreeMap<PartitionId, u64>,
}

#[derive(Debug, Default)]
struct Target {
    keys: u64,
    bytes: u64,
    owed: u64,
    /// Hints by the second they were left in.
    ages: BTreeMap<u64, u64>,
}

fn second(at: Wall) -> u64 {
    at.0 / 1000
}

impl HintBook {
    /// What the disk holds, and the partitions that are to be marked because hints cannot be read.
    pub(super) fn open(
        storage: &dyn Storage,
        options: &ReplicaOptions,
    ) -> Result<(Self, BTreeSet<PartitionId>), StorageError> {
        let ReplicaOptions { max_hint_bytes: max_bytes, max_object: largest, partitions, .. } = *options;
        let mut state = State::default();
        for entry in storage.scan(Keyspace::Meta, Included(MARKED), Excluded(MARKED_END)) {
            let (key, _) = entry?;
            if let Some(partition) = key[MARKED.len()..].first_chunk() {
                state.marked.insert(PartitionId(u32::from_be_bytes(*partition)), 0);
            }
        }
        let (mut unreadable, mut gaps, mut doubtful) = (BTreeMap::<StoreId, u64>::new(), 0, BTreeSet::new());
        for entry in Walk::over_all(storage, partitions) {
            let read = entry.map(|(key, value)| (target_of(&key), Hint::decode(&value)));
            match read {
                Ok((Some((target, stored)), Some(hint))) => state.enter(target, &stored, None, Some(&hint)),
                Ok((Some((target, stored)), None)) => {
                    *unreadable.entry(target).or_default() += 1;
                    doubtful.extend(partition_of(&stored));
                }
                Ok((None, _)) => gaps += 1,
                Err(failed) => {
                    error!(%failed, "hints cannot be read: every partition is marked for comparison with its other owners");
                    gaps += 1;
                }
            }
        }
        if gaps > 0 {
            doubtful.extend((0..partitions).map(PartitionId));
        }
        let unknown: u64 = unreadable.values().sum();
        if unknown > 0 {
            warn!(unknown, "hints that cannot be read, or that a later version left, are left alone: they may be owed");
        }
        let (state, changes) = (Mutex::new(state), watch::channel(0).0);
        let book = Self { state, max_bytes, largest, unreadable, gaps, changes };
        doubtful.retain(|partition| book.mark(*partition));
        Ok((book, doubtful))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The most bytes that may wait.
    #[must_use]
    pub fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// Keys and bytes that wait, for all owners together.
    #[must_use]
    pub fn total(&self) -> (u64, u64) {
        let state = self.state();
        (state.keys, state.bytes)
    }

    /// How many of those that wait counted towards a quorum; who cannot be read may have.
    #[must_use]
    pub fn owed(&self) -> u64 {
        let owed: u64 = self.state().targets.values().map(|target| target.owed).sum();
        owed + self.unreadable()
    }

    /// How many could not be read when this life began; a gap with nobody knows how many is one.
    #[must_use]
    pub fn unreadable(&self) -> u64 {
        self.unreadable.values().sum::<u64>() + self.gaps
    }

    /// Whether some may be kept for owners of whom nothing is known.
    pub(super) fn has_gaps(&self) -> bool {
        self.gaps > 0
    }

    /// Everybody for whom something is here, whether or not it can be read.
    pub(super) fn known_owners(&self) -> BTreeSet<StoreId> {
        self.state().targets.keys().chain(self.unreadable.keys()).copied().collect()
    }

    /// Whether this node stands in for nobody any more: the largest object may not fit beside what waits. Refused before
    /// anything is sent a write is simply not done; refused by who was to keep it nobody knows what became of it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.total().1.saturating_add(self.largest) > self.max_bytes
    }

    /// What waits, by owner.
    #[must_use]
    pub fn targets(&self) -> BTreeMap<StoreId, Waiting> {
        self.state().targets.iter().map(|(target, waiting)| (*target, waiting.view())).collect()
    }

    /// What waits for an owner; none where nothing does.
    #[must_use]
    pub fn waiting(&self, target: StoreId) -> Option<Waiting> {
        self.state().targets.get(&target).map(Target::view)
    }

    /// How many of an owner's hints were left in the second of `at` or before.
    #[must_use]
    pub fn left_by(&self, target: StoreId, at: Wall) -> u64 {
        let state = self.state();
        let ages = state.targets.get(&target).map(|waiting| waiting.ages.range(..=second(at)));
        ages.map_or(0, |ages| ages.map(|(_, count)| count).sum())
    }

    /// Told whenever hints wait for somebody for whom none did, or none wait any more.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The partitions in which something was dropped here that was never sent, or put right by a scrub, each with how often
    /// that was told in this life: what [`Replica::unmark`](crate::replica::Replica::unmark) is to name once the owners have been compared.
    #[must_use]
    pub fn marked(&self) -> BTreeMap<PartitionId, u64> {
        self.state().marked.clone()
    }

    /// Marks a partition; tells whether that is to be written down.
    pub(super) fn mark(&self, partition: PartitionId) -> bool {
        let mut state = self.state();
        let new = !state.marked.contains_key(&partition);
        *state.marked.entry(partition).or_insert(0) += 1;
        new
    }

    /// Takes a mark away, unless something was dropped since; tells whether it was.
    pub(super) fn unmark(&self, partition: PartitionId, told: u64) -> bool {
        let mut state = self.state();
        let same = state.marked.get(&partition) == Some(&told);
        if same {
            state.marked.remove(&partition);
        }
        same
    }

    /// Enters what a commit did to hints: (owner, stored key, before, after).
    pub(super) fn committed(&self, done: impl IntoIterator<Item = (StoreId, Bytes, Option<Hint>, Option<Hint>)>) {
        let mut news = false;
        {
            let mut state = self.state();
            for (target, stored, before, after) in done {
                let had = state.targets.contains_key(&target);
                state.enter(target, &stored, before.as_ref(), after.as_ref());
                news |= had != state.targets.contains_key(&target);
            }
        }
        if news {
            self.changes.send_modify(|count| *count += 1);
        }
    }
}

impl State {
    fn enter(&mut self, target: StoreId, stored: &[u8], before: Option<&Hint>, after: Option<&Hint>) {
        let waiting = self.targets.entry(target).or_default();
        if let Some(before) = before {
            let bytes = bytes_of(stored, before);
            waiting.owed = waiting.owed.saturating_sub(before.owed.into());
            if let Some(count) = waiting.ages.get_mut(&second(before.since)) {
                *count -= 1;
                if *count == 0 {
                    waiting.ages.remove(&second(before.since));
                }
            }
            (waiting.keys, waiting.bytes) = (waiting.keys.saturating_sub(1), waiting.bytes.saturating_sub(bytes));
            (self.keys, self.bytes) = (self.keys.saturating_sub(1), self.bytes.saturating_sub(bytes));
        }
        if let Some(after) = after {
            let bytes = bytes_of(stored, after);
            waiting.owed += u64::from(after.owed);
            *waiting.ages.entry(second(after.since)).or_default() += 1;
            (waiting.keys, waiting.bytes) = (waiting.keys + 1, waiting.bytes + bytes);
            (self.keys, self.bytes) = (self.keys + 1, self.bytes + bytes);
        }
        if waiting.keys == 0 {
            self.targets.remove(&target);
        }
    }
}

impl Target {
    fn view(&self) -> Waiting {
        let oldest = self.ages.keys().next().map_or(0, |second| second * 1000);
        Waiting { keys: self.keys, bytes: self.bytes, owed: self.owed, oldest: Wall(oldest) }
    }
}

/// The entry of [`Keyspace::Meta`] that marks a partition.
#[must_use]
pub(super) fn mark_key(partition: PartitionId) -> Bytes {
    [MARKED, &partition.0.to_be_bytes()].concat().into()
}

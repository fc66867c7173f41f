//! Live layouts: which count for writes, which one reads use, and what a node may say of itself.
//!
//! While a change is under way two or more layouts are live. A write needs its W in each of them, so that whichever of
//! them a reader uses finds it; a read uses one, the newest that all its members are synced to. A layout ceases to be
//! live once every member has flushed that it reads in a later one. (Garage's layout manager is the model; its Jepsen
//! set test went from losing acknowledged writes in every run to none.)
//!
//! Every question is answered from what one node knows: its chain, the trackers it has heard. Others may have got
//! further, and its answer is then the more cautious one, since everything here only ever becomes *allowed* by knowing
//! more.
//!
//! *All* means the newest layout's members. Members of older live layouts that it does not list have ended: nobody
//! waits for them, and nobody takes their word.

use super::{BucketSettings, Chain, Layout, Tracker, Trackers};
use crate::types::{Bucket, PartitionId, StoreId};

/// What one node knows.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Its chain, flushed.
    pub chain: &'a Chain,
    /// The trackers it has heard, its own among them as far as it is flushed.
    pub trackers: &'a Trackers,
    /// Its store.
    pub me: StoreId,
}

/// The owners of a bucket's objects in one region of a layout.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct HoldersIn<'a> {
    /// The region's label.
    pub region: &'a str,
    /// The replicas the bucket asks for there: what the layout counts with, whatever another one says.
    pub n: u8,
    /// The owners, in the partition's order: `n` of them, or as many as there are.
    pub owners: Vec<StoreId>,
}

/// One layout's part of what a write needs, in plain lists: a requirement is made of these elsewhere.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct LayoutHolders<'a> {
    /// The layout.
    pub version: u64,
    /// By region; regions without an owner of the bucket are left out.
    pub regions: Vec<HoldersIn<'a>>,
}

/// What a change waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Awaited {
    /// The member has not said that it uses the newest layout, with nothing in flight on older ones.
    Ack,
    /// It has not said that it holds all that the newest layout gives it.
    Synced,
    /// It has not said that it reads in the newest layout alone.
    SyncAck,
}

/// What safety needs to know of a bucket in `layout`; none stands for all buckets that were never configured.
#[must_use]
pub fn settings_of<'a>(layout: &'a Layout, bucket: Option<&Bucket>) -> &'a BucketSettings {
    bucket.map_or(&layout.spec().default_bucket, |bucket| layout.settings(bucket))
}

/// The owners of a bucket's objects in a partition of one layout.
///
/// # Panics
/// If the grid has no such partition.
#[must_use]
pub fn holders<'a>(layout: &'a Layout, partition: PartitionId, bucket: Option<&Bucket>) -> LayoutHolders<'a> {
    let settings = settings_of(layout, bucket);
    let regions = layout.owners(partition, settings).map(|(region, owners)| HoldersIn {
        region,
        n: settings.n_in(region),
        owners: owners.iter().map(|owner| layout.member(*owner).store).collect(),
    });
    LayoutHolders { version: layout.version(), regions: regions.collect() }
}

impl LayoutHolders<'_> {
    /// All owners, each once.
    pub fn stores(&self) -> impl Iterator<Item = StoreId> + '_ {
        self.regions.iter().flat_map(|region| region.owners.iter().copied())
    }

    /// Whether `store` is one of them.
    #[must_use]
    pub fn contains(&self, store: StoreId) -> bool {
        self.stores().any(|owner| owner == store)
    }
}

impl<'a> View<'a> {
    /// This node's own tracker, as far as it is flushed.
    #[must_use]
    pub fn own(&self) -> &'a Tracker {
        self.trackers.of(self.me)
    }

    /// What a write of a bucket's object in `partition` needs: its W among the owners in each of these, the newest
    /// first.
    ///
    /// Each is counted with its own n and its own list. Owners that are down, not yet synced or have ended still count:
    /// who leaves out one that is still coming will not find there what it then serves reads without. A read's blocking
    /// repair waits for its R among the same.
    #[must_use]
    pub fn written_to(&self, partition: PartitionId, bucket: Option<&Bucket>) -> Vec<LayoutHolders<'a>> {
        self.chain.live().iter().rev().map(|layout| holders(layout, partition, bucket)).collect()
    }

    /// The layout that reads use: the newest live one to which all its members are synced, else the oldest, to which
    /// everybody is.
    ///
    /// Also those members that have ended meanwhile must have said so: a layout that one of its owners never filled is
    /// not complete by that owner's being left out.
    #[must_use]
    pub fn read_layout(&self) -> &'a Layout {
        let live = self.chain.live();
        live.iter().rev().find(|layout| self.all_synced(layout)).unwrap_or(&live[0])
    }

    /// Whether all members of `layout` have said that they are synced to it.
    #[must_use]
    pub fn all_synced(&self, layout: &Layout) -> bool {
        let synced = |store| self.trackers.of(store).synced.contains(&layout.version());
        layout.members().iter().all(|member| synced(member.store))
    }

    /// The layout this node may ack now, if that is more than it has. `in_flight_on` is the newest layout known to the
    /// oldest write that it coordinates, or has accepted and not yet committed: none while there is no such write.
    #[must_use]
    pub fn may_ack(&self, in_flight_on: Option<u64>) -> Option<u64> {
        let version = self.chain.newest().version().min(in_flight_on.unwrap_or(u64::MAX));
        (version > self.own().ack).then_some(version)
    }

    /// The layout this node may sync_ack now, if that is more than it has. `pledged` is the version of the newest
    /// successor that it accepted in Paxos (0: none).
    ///
    /// With its acceptance it said how far it had sync_acked, and what was skipped was judged by that: so it never
    /// sync_acks a layout older than that successor afterwards.
    #[must_use]
    pub fn may_sync_ack(&self, pledged: u64) -> Option<u64> {
        let own = self.own();
        let mut newest_first = self.chain.live().iter().rev().map(Layout::version);
        newest_first.find(|version| {
            let layout = self.chain.get(*version);
            *version > own.sync_ack
                && *version >= pledged
                && *version <= own.ack
                && layout.is_some_and(|layout| self.all_synced(layout))
        })
    }

    /// From which version on layouts are live, if that is later than the chain says: every member has sync_acked it, or
    /// a later one.
    #[must_use]
    pub fn may_drop_before(&self) -> Option<u64> {
        let newest = self.chain.newest();
        let least = newest.members().iter().map(|member| self.trackers.of(member.store).sync_ack).min().unwrap_or(0);
        let version = least.min(newest.version());
        (version > self.chain.live_from()).then_some(version)
    }

    /// Whether the newest layout is in force everywhere, as far as is known here: no change is under way.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let newest = self.chain.newest().version();
        self.chain.live_from() == newest || self.may_drop_before() == Some(newest)
    }

    /// For whom a change waits, and for what; empty once it is complete. A member that is down stays here until it is
    /// back or skipped, so this is what `status` shows.
    #[must_use]
    pub fn waits_for(&self) -> Vec<(StoreId, Awaited)> {
        if self.is_complete() {
            return Vec::new();
        }
        let newest = self.chain.newest();
        let awaited = |store| {
            let tracker = self.trackers.of(store);
            let version = newest.version();
            match () {
                () if tracker.ack < version => Some(Awaited::Ack),
                () if !tracker.synced.contains(&version) => Some(Awaited::Synced),
                () if tracker.sync_ack < version => Some(Awaited::SyncAck),
                () => None,
            }
        };
        newest.members().iter().filter_map(|member| Some((member.store, awaited(member.store)?))).collect()
    }
}

#[cfg(test)]
mod tests;

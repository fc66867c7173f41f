//! What a layout gives a node, and when the node holds it.
//!
//! **The rule**: a node is synced to v once, for each partition v gives it, it has merged the complete state of *every*
//! owner in the older live layouts, each read after that owner acked v. Every owner, because a write at W = 1 may be on
//! any of them, and one at W = 2 of 3 on two that are not the one chosen. After its ack, because what the owner accepts
//! later goes to v's owners as well, and what it accepted before is in what is read. Owners that have ended are
//! excepted.
//!
//! *Gives* means more than the lists show. Where a layout has fewer owners of an object than the one before (a smaller
//! n, a smaller region) and those that remain were owners before, a write that was acknowledged by a majority of many
//! may be on a minority of the few. Then all that remain merge, too ([`merges_anew`]).
//!
//! Whoever owned a partition in the layout before and was synced there keeps it, and merges nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::live::{LayoutHolders, View, holders};
use super::{Chain, Layout};
use crate::types::{Bucket, PartitionId, StoreId};

/// What a node has merged: per partition and source, the newest layout that the source said it had acked when the read
/// of it began. In memory; what was merged is flushed before [`View::may_claim`]'s answer is.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Merged(BTreeMap<(PartitionId, StoreId), u64>);

impl Merged {
    /// All that `source` held of `partition` is merged; it had acked `acked` before it was read.
    pub fn record(&mut self, partition: PartitionId, source: StoreId, acked: u64) {
        let known = self.0.entry((partition, source)).or_default();
        *known = acked.max(*known);
    }

    /// Forgets what no rule asks for any more once `chain` is known, and what was merged of partitions whose data were
    /// deleted.
    pub fn prune(&mut self, chain: &Chain, deleted: &BTreeSet<PartitionId>) {
        self.0.retain(|(partition, _), acked| *acked > chain.live_from() && !deleted.contains(partition));
    }

    /// What is remembered: partition, source, the newest layout that it had acked.
    pub fn iter(&self) -> impl Iterator<Item = (PartitionId, StoreId, u64)> {
        self.0.iter().map(|((partition, source), acked)| (*partition, *source, *acked))
    }

    /// The newest layout that `source` had acked when this partition was last merged from it; 0 if it never was.
    #[must_use]
    pub fn acked(&self, partition: PartitionId, source: StoreId) -> u64 {
        self.0.get(&(partition, source)).copied().unwrap_or(0)
    }
}

/// A partition to be merged before a layout is synced to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Gain {
    /// The partition.
    pub partition: PartitionId,
    /// Whose state is still missing. Each is read once it has acked the layout; nobody waits for the others.
    pub sources: BTreeSet<StoreId>,
}

/// Whether an owner in both layouts has to merge all the same, because there are fewer owners now: over all regions, or
/// in its own. With at least as many gained (and filled) as lost, a write's share of the owners does not shrink.
#[must_use]
pub fn merges_anew(older: &LayoutHolders<'_>, newer: &LayoutHolders<'_>, owner: StoreId) -> bool {
    let fewer = |before: &BTreeSet<StoreId>, after: &BTreeSet<StoreId>| {
        after.difference(before).count() < before.difference(after).count()
    };
    let of = |at: &LayoutHolders<'_>, region: &str| -> BTreeSet<StoreId> {
        at.regions.iter().filter(|r| r.region == region).flat_map(|r| r.owners.iter().copied()).collect()
    };
    let home = newer.regions.iter().find(|region| region.owners.contains(&owner)).map(|region| region.region);
    fewer(&older.stores().collect(), &newer.stores().collect())
        || home.is_some_and(|home| fewer(&of(older, home), &of(newer, home)))
}

/// One bucket for each way in which the live layouts place buckets; none stands for those never configured.
#[must_use]
pub fn placements(live: &[Layout]) -> Vec<Option<Bucket>> {
    let mut seen = BTreeSet::new();
    let configured: BTreeSet<&Bucket> = live.iter().flat_map(|layout| layout.spec().buckets.keys()).collect();
    let all = std::iter::once(None).chain(configured.into_iter().cloned().map(Some));
    all.filter(|bucket| {
        let n = |layout: &Layout| -> Vec<u8> {
            let settings = super::live::settings_of(layout, bucket.as_ref());
            layout.regions().map(|region| settings.n_in(region)).collect()
        };
        seen.insert(live.iter().map(n).collect::<Vec<_>>())
    })
    .collect()
}

/// Whether `me` deletes what it has of a bucket in a partition, under a new tenure, before it accepts anything for it:
/// the layouts behind `known` give it the partition, and in no live layout up to there did it own it. What it may still
/// hold from an earlier tenure was left out of what has happened since. An owner in any live layout never deletes: what
/// it holds may be acknowledged.
///
/// Deleted first, then the chain is flushed: asked again after a crash in between, the answer is the same.
#[must_use]
pub fn starts_afresh(chain: &Chain, known: u64, me: StoreId, partition: PartitionId, bucket: Option<&Bucket>) -> bool {
    let owned = |layout: &Layout| holders(layout, partition, bucket).contains(me);
    let (older, newer): (Vec<_>, Vec<_>) = chain.live().iter().partition(|layout| layout.version() <= known);
    newer.into_iter().any(owned) && !older.into_iter().any(owned)
}

impl View<'_> {
    /// Whether this node owns a bucket's objects in a partition in no live layout, so that it may delete them once a
    /// last comparison has shown that every key is covered by an owner in the newest layout.
    #[must_use]
    pub fn may_delete(&self, partition: PartitionId, bucket: Option<&Bucket>) -> bool {
        !self.chain.live().iter().any(|layout| holders(layout, partition, bucket).contains(self.me))
    }

    /// What is still to be merged for the newest layout. What an aborted one would have given is not asked for any
    /// more.
    #[must_use]
    pub fn to_merge(&self, merged: &Merged) -> Vec<Gain> {
        let placements = placements(self.chain.live());
        let newest = self.chain.live().len() - 1;
        let gain = |partition| {
            let missing = placements.iter().flat_map(|bucket| self.missing(merged, partition, bucket.as_ref(), newest));
            Gain { partition, sources: missing.collect() }
        };
        let gains = self.chain.newest().grid().partitions().map(gain);
        gains.filter(|gain| !gain.sources.is_empty()).collect()
    }

    /// The live layouts that this node is a member of, has acked and is synced to, but has not yet said so. What was
    /// merged is flushed first, whatever `durability` says.
    #[must_use]
    pub fn may_claim(&self, merged: &Merged) -> BTreeSet<u64> {
        let (live, own) = (self.chain.live(), self.own());
        let placements = placements(live);
        let claimable = |at: &usize| {
            let layout = &live[*at];
            let version = layout.version();
            own.ack >= version
                && !own.synced.contains(&version)
                && layout.member_by_store(self.me).is_some()
                && layout.grid().partitions().all(|partition| {
                    placements.iter().all(|bucket| self.missing(merged, partition, bucket.as_ref(), *at).is_empty())
                })
        };
        (0..live.len()).filter(claimable).map(|at| live[at].version()).collect()
    }

    /// Whether this node is a synced owner of a bucket's objects in a partition of a live layout: it serves reads
    /// there.
    #[must_use]
    pub fn holds(&self, merged: &Merged, version: u64, partition: PartitionId, bucket: Option<&Bucket>) -> bool {
        let Some(at) = self.chain.live().iter().position(|layout| layout.version() == version) else { return false };
        holders(&self.chain.live()[at], partition, bucket).contains(self.me)
            && self.missing(merged, partition, bucket, at).is_empty()
    }

    /// Whose state this node lacks to be synced, in one partition, to the live layout at `upto`.
    fn missing(
        &self,
        merged: &Merged,
        partition: PartitionId,
        bucket: Option<&Bucket>,
        upto: usize,
    ) -> BTreeSet<StoreId> {
        let live = &self.chain.live()[..=upto];
        let lists: Vec<LayoutHolders<'_>> = live.iter().map(|layout| holders(layout, partition, bucket)).collect();
        let mut missing = BTreeSet::new();
        // The oldest live layout is complete: everything else was, or is, copied from its owners.
        for (at, list) in lists.iter().enumerate().skip(1) {
            let version = list.version;
            let before = &lists[at - 1];
            let keeps = || before.contains(self.me) && !merges_anew(before, list, self.me) && missing.is_empty();
            if !list.contains(self.me) || self.own().synced.contains(&version) || keeps() {
                missing.clear();
                continue;
            }
            let lacks = |source: &StoreId| {
                *source != self.me && !self.chain.ended().contains(source) && merged.acked(partition, *source) < version
            };
            missing = lists[..at].iter().flat_map(LayoutHolders::stores).filter(lacks).collect();
        }
        missing
    }
}

#[cfg(test)]
mod tests;

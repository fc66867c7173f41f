//! What a plan risks: partitions left with too few replicas that live, and, where stores are skipped, writes that only
//! they may hold.
//!
//! A skipped store is copied from no more. A write that was acknowledged by a majority survives that as long as fewer
//! than a majority of its owners are skipped *since the last complete layout*; owners that are not synced count with
//! the skipped ones, for they do not hold it either. Which owners: those of the last complete layout, and those of
//! every later layout that may have replaced it somewhere, since a write may then have left the older one out.

use std::collections::BTreeSet;
use std::fmt;

use super::live::{HoldersIn, holders};
use super::sync::placements;
use super::{Chain, Layout};
use crate::types::{Bucket, PartitionId, StoreId};

/// Owners of which too few are left. One stands for all partitions that are alike in layout, region and bucket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Short {
    /// The layout.
    pub version: u64,
    /// The region; none where all regions are counted together.
    pub region: Option<String>,
    /// A bucket so placed; none: those never configured.
    pub bucket: Option<Bucket>,
    /// The first such partition.
    pub partition: PartitionId,
    /// How many partitions are so short, this one included.
    pub partitions: usize,
    /// How many owners are left in that one.
    pub left: usize,
    /// How many there are: the effective N.
    pub n: usize,
    /// How many a quorum needs.
    pub quorum: usize,
}

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, region, bucket, partition, partitions, left, n, quorum } = self;
        write!(f, "layout {version}: partition {partition}")?;
        if *partitions > 1 {
            write!(f, " and {} more", partitions - 1)?;
        }
        region.iter().try_for_each(|region| write!(f, " in region {region}"))?;
        bucket.iter().try_for_each(|bucket| write!(f, ", bucket {bucket} and those placed alike"))?;
        write!(f, ": {left} of {n} replicas would be left, a quorum needs {quorum}")
    }
}

/// The partitions of a planned layout in which fewer owners would live than the widest quorum needs: a plan that leaves
/// any is refused, since it would stop their writes. `status` shows the same of the layouts in force.
#[must_use]
pub fn too_thin(plan: &Layout, lives: impl Fn(StoreId) -> bool) -> Vec<Short> {
    short_in(plan, |left, n| left < n / 2 + 1, &lives)
}

/// What a member said when it accepted a successor: how far it had sync_acked. It never sync_acks a layout older than
/// that successor afterwards.
pub type Pledge = (StoreId, u64);

/// Where skipping may lose what a majority acknowledged: then `--accept-data-loss` is asked for. Empty: nothing of the
/// kind can be lost.
///
/// `skipped` are all stores to be left out now; those that ended since the last complete layout are added from the
/// chain. `pledges` are the acceptors'. If one of them, not skipped, had not sync_acked a layout, that layout can never
/// have replaced the last complete one, and nobody has written to it alone.
#[must_use]
pub fn may_lose(
    chain: &Chain,
    skipped: &BTreeSet<StoreId>,
    unsynced: &BTreeSet<StoreId>,
    pledges: &[Pledge],
) -> Vec<Short> {
    let gone = |store: StoreId| skipped.contains(&store) || chain.ended().contains(&store);
    let least = pledges.iter().filter(|(store, _)| !gone(*store)).map(|(_, sync_ack)| *sync_ack).min();
    let replaced_up_to = least.unwrap_or(u64::MAX).max(chain.live_from());
    let holds = |store: StoreId| !gone(store) && !unsynced.contains(&store);
    let lost = |left: usize, n: usize| n - left > n / 2;
    let layouts = chain.live().iter().filter(|layout| layout.version() <= replaced_up_to);
    layouts.flat_map(|layout| short_in(layout, lost, &holds)).collect()
}

/// Who of `layout`'s owners is left: counted per region and over all, partition by partition.
fn short_in(layout: &Layout, short: impl Fn(usize, usize) -> bool, left: &impl Fn(StoreId) -> bool) -> Vec<Short> {
    let mut found: Vec<Short> = Vec::new();
    for bucket in placements(std::slice::from_ref(layout)) {
        for partition in layout.grid().partitions() {
            let lists = holders(layout, partition, bucket.as_ref());
            let count = |of: &[&HoldersIn<'_>]| {
                let all = of.iter().flat_map(|region| &region.owners);
                (all.clone().filter(|owner| left(**owner)).count(), all.count())
            };
            let each = lists.regions.iter().map(|region| (Some(region.region.to_owned()), count(&[region])));
            let over_all = (None, count(&lists.regions.iter().collect::<Vec<_>>()));
            let over_all = (lists.regions.len() > 1).then_some(over_all);
            for (region, (left, n)) in each.chain(over_all).filter(|(_, (left, n))| short(*left, *n)) {
                match found.iter_mut().find(|known| known.region == region && known.bucket == bucket) {
                    Some(known) => known.partitions += 1,
                    None => found.push(Short {
                        version: layout.version(),
                        region,
                        bucket: bucket.clone(),
                        partition,
                        partitions: 1,
                        left,
                        n,
                        quorum: n / 2 + 1,
                    }),
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests;

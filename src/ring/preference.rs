//! Preference lists: in which order a partition's nodes are turned to.
//!
//! Functions of the layout and the partition alone, so that every node names the same owners, the same coordinator and
//! the same fallbacks without asking anybody; who of them is up is for the caller to know.

use std::collections::BTreeMap;

use super::{BucketSettings, Chain, Layout, MemberIndex};
use crate::types::{PartitionId, StoreId};

impl Layout {
    /// The owners of a bucket's objects in `partition`, those of `home` first, then region by region: the first that
    /// is up and synced is asked to coordinate.
    ///
    /// # Panics
    /// If the grid has no such partition.
    #[must_use]
    pub fn preference_list(&self, home: &str, partition: PartitionId, settings: &BucketSettings) -> Vec<MemberIndex> {
        let (near, far): (Vec<_>, Vec<_>) = self.owners(partition, settings).partition(|(region, _)| *region == home);
        near.into_iter().chain(far).flat_map(|(_, owners)| owners).copied().collect()
    }

    /// The up to `n` nodes that stand in for the first `n` owners of `partition` in `region`: those that follow in the
    /// partition's fixed order, which is its owner list, then all other members of the region that are not leaving,
    /// shuffled by the partition's number and their store ids. Of these the first comes next whose zone has the fewest
    /// fallbacks so far, and then the fewest listed owners: a zone that fails takes few of those that stand in.
    ///
    /// Of a chain they are [`Chain::fallbacks`]. Costs a hash per member of the region where the owner list is too short; it
    /// is for when owners are down.
    ///
    /// # Panics
    /// If the grid has no such partition.
    #[must_use]
    pub fn fallbacks(&self, region: &str, partition: PartitionId, n: u8) -> Vec<MemberIndex> {
        self.fallbacks_among(region, partition, n, |_| true)
    }

    fn fallbacks_among(
        &self,
        region: &str,
        partition: PartitionId,
        n: u8,
        may: impl Fn(StoreId) -> bool,
    ) -> Vec<MemberIndex> {
        let listed = self.owners_in(region, partition, u8::MAX);
        let wanted = usize::from(n);
        let may = |index: MemberIndex| may(self.member(index).store);
        let behind = listed.iter().copied().skip(wanted);
        let mut order: Vec<MemberIndex> = behind.filter(|index| may(*index)).take(wanted).collect();
        if order.len() >= wanted {
            return order;
        }
        let mut others: Vec<_> = (0..)
            .map(MemberIndex)
            .zip(self.members())
            .filter(|(index, m)| m.region == region && m.weight > 0 && !listed.contains(index) && may(*index))
            .map(|(index, member)| (shuffle(partition, member.store.bits()), index))
            .collect();
        others.sort_unstable();
        // Of each zone: fallbacks, listed owners.
        let mut zones: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        listed.iter().for_each(|index| zones.entry(&self.member(*index).zone).or_default().1 += 1);
        order.iter().for_each(|index| zones.entry(&self.member(*index).zone).or_default().0 += 1);
        while order.len() < wanted && !others.is_empty() {
            let used = |index: MemberIndex| zones.get(&*self.member(index).zone).copied().unwrap_or_default();
            // The first of several: the shuffle decides.
            let next = (0..others.len()).min_by_key(|at| used(others[*at].1)).unwrap_or_default();
            let (_, index) = others.remove(next);
            zones.entry(&self.member(index).zone).or_default().0 += 1;
            order.push(index);
        }
        order
    }
}

impl Chain {
    /// The [`Layout::fallbacks`] of the newest layout, of those members alone that every live layout lists. Who has only
    /// just come in may be given up before the change is complete, and with it what it keeps for others.
    ///
    /// # Panics
    /// If the grid has no such partition.
    #[must_use]
    pub fn fallbacks(&self, region: &str, partition: PartitionId, n: u8) -> Vec<MemberIndex> {
        let stays = |store| self.live().iter().all(|layout| layout.member_by_store(store).is_some());
        self.newest().fallbacks_among(region, partition, n, stays)
    }

    /// The stores that stand in for owners of a bucket's objects in `partition`, region by region: (region, store).
    ///
    /// # Panics
    /// If the grid has no such partition.
    pub fn fallback_stores<'a>(
        &'a self,
        partition: PartitionId,
        settings: &'a BucketSettings,
    ) -> impl Iterator<Item = (&'a str, StoreId)> + 'a {
        let newest = self.newest();
        newest.regions().flat_map(move |region| {
            let fallbacks = self.fallbacks(region, partition, settings.n_in(region)).into_iter();
            fallbacks.map(move |index| (region, newest.member(index).store))
        })
    }
}

/// A member's rank in a partition's order (rendezvous hashing). Never changes: hints lie where it points.
pub(super) fn shuffle(partition: PartitionId, store: u128) -> u64 {
    let mut hash = 0u64;
    for part in [u64::from(partition.0), store as u64, (store >> 64) as u64] {
        // The finalizer of splitmix64.
        hash = (hash ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^= hash >> 31;
    }
    hash
}

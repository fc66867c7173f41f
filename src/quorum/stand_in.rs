//! Who stands in for owners that are down: sloppy quorums.
//!
//! A fallback that has stored a hint *for an owner* has that owner's vote, wherever that owner counts: one vote an owner,
//! however many copies there are of it, and no fallback for two owners, or one disk would be two of W (I-ACK). A fallback
//! stands in within its own region, so that a level that counts by region means what it says.
//!
//! Left to others: which fallbacks a partition has (`ring`), who of them is up and has room.

use super::Requirement;
use crate::types::StoreId;

/// The fallbacks of one object that may still be asked, by region.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Fallbacks {
    regions: Vec<RegionFallbacks>,
}

/// The owners of one region and those that may stand in for them, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
struct RegionFallbacks {
    owners: Vec<StoreId>,
    free: Vec<StoreId>,
}

impl Fallbacks {
    /// By region: (its owners in any live layout, its fallbacks in order). A store that owns the object in any live layout
    /// stands in for nobody.
    #[must_use]
    pub fn new(regions: impl IntoIterator<Item = (Vec<StoreId>, Vec<StoreId>)>) -> Self {
        let of = |(owners, free)| RegionFallbacks { owners, free };
        let mut regions: Vec<RegionFallbacks> = regions.into_iter().map(of).collect();
        let owners: Vec<StoreId> = regions.iter().flat_map(|region| region.owners.clone()).collect();
        let mut seen = owners.clone();
        for region in &mut regions {
            region.free.retain(|store| {
                let new = !seen.contains(store);
                seen.push(*store);
                new
            });
        }
        Self { regions }
    }

    /// Only those for which this holds.
    #[must_use]
    pub fn only(mut self, takes: impl Fn(StoreId) -> bool) -> Self {
        self.regions.iter_mut().for_each(|region| region.free.retain(|store| takes(*store)));
        self
    }

    /// All that are left, in order.
    pub fn stores(&self) -> impl Iterator<Item = StoreId> + '_ {
        self.regions.iter().flat_map(|region| region.free.iter().copied())
    }

    /// Whether nobody is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stores().next().is_none()
    }

    /// The next one for `owner`; it is for nobody else then.
    pub fn take_for(&mut self, owner: StoreId) -> Option<StoreId> {
        let region =
            self.regions.iter_mut().find(|region| region.owners.contains(&owner) && !region.free.is_empty())?;
        Some(region.free.remove(0))
    }

    /// The first of `owners` that `fallback` can stand in for.
    pub fn owner_for(&self, fallback: StoreId, owners: impl IntoIterator<Item = StoreId>) -> Option<StoreId> {
        let region = self.regions.iter().find(|region| region.free.contains(&fallback))?;
        owners.into_iter().find(|owner| region.owners.contains(owner))
    }

    /// Somebody for each of these owners, as long as there are any: (owner, fallback). Owners that count in more groups
    /// come first, for they bring more votes.
    pub fn take_for_all(&mut self, requirement: &Requirement, owners: &[StoreId]) -> Vec<(StoreId, StoreId)> {
        let mut wanted: Vec<StoreId> =
            owners.iter().copied().filter(|owner| !requirement.layouts_of(*owner).is_empty()).collect();
        wanted.sort_by_key(|owner| std::cmp::Reverse(requirement.layouts_of(*owner).len()));
        wanted.into_iter().filter_map(|owner| Some((owner, self.take_for(owner)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::quorum::testing::{ids, one_layout, two_layouts};
    use crate::quorum::{Level, Tally};

    fn fallbacks(owners: std::ops::Range<u128>, free: impl IntoIterator<Item = u128>) -> Fallbacks {
        Fallbacks::new([(ids(owners), ids(free))])
    }

    fn id(bits: u128) -> StoreId {
        StoreId::from_bits(bits)
    }

    #[test]
    fn each_stands_in_once_in_order_and_in_its_region() {
        let mut some = fallbacks(0..3, [7, 8]);
        assert_eq!(some.take_for(id(1)), Some(id(7)));
        assert_eq!(some.take_for(id(9)), None, "9 owns nothing");
        assert_eq!(some.take_for(id(0)), Some(id(8)));
        assert_eq!((some.take_for(id(2)), some.is_empty()), (None, true));
        let mut regions = Fallbacks::new([(ids(0..2), ids([7])), (ids(10..12), ids([17, 0, 7]))]);
        assert_eq!(regions.stores().collect::<Vec<_>>(), ids([7, 17]), "an owner, or one named twice, is not free");
        assert_eq!((regions.owner_for(id(17), ids([0, 11])), regions.owner_for(id(9), ids([0]))), (Some(id(11)), None));
        assert_eq!((regions.take_for(id(10)), regions.take_for(id(11))), (Some(id(17)), None));
        assert!(fallbacks(0..3, [7, 8]).only(|store| store == id(8)).stores().eq(ids([8])));
    }

    #[test]
    fn owners_that_count_in_more_layouts_come_first() {
        // Stores 0, 1, 2 in layout 1; 1, 2, 3 in layout 2.
        let mut one = fallbacks(0..4, [7]);
        assert_eq!(one.take_for_all(&two_layouts(Level::Quorum), &ids([0, 3, 2])), [(id(2), id(7))]);
        let local = one_layout(Level::One, 2);
        let mut rest = fallbacks(0..4, [7, 8]);
        assert_eq!(rest.take_for_all(&local, &ids([3, 0])), [(id(0), id(7))], "3 does not count");
    }

    proptest! {
        /// Whoever stands in for whom, what is met was met by as many disks as there are votes.
        #[test]
        fn a_vote_is_a_disk(down in proptest::collection::btree_set(0u128..4, 0..4), free in 0u128..5, w in 1u8..4) {
            let requirement = two_layouts(Level::Count(w));
            let down = ids(down);
            let stands = fallbacks(0..4, 10..10 + free).take_for_all(&requirement, &down);
            for (at, (owner, fallback)) in stands.iter().enumerate() {
                prop_assert!(down.contains(owner));
                prop_assert!(stands[..at].iter().all(|(other, taken)| other != owner && taken != fallback));
            }
            prop_assert!(stands.len() == down.len() || stands.len() as u128 == free, "as many as can");
            let mut tally = Tally::new(requirement.clone());
            for group in requirement.groups() {
                let up = group.members.iter().filter(|member| !down.contains(member)).copied();
                let instead = stands.iter().filter(|(owner, _)| group.members.contains(owner));
                let disks: Vec<StoreId> = up.chain(instead.map(|(_, fallback)| *fallback)).collect();
                let distinct: std::collections::BTreeSet<_> = disks.iter().collect();
                prop_assert_eq!(distinct.len(), disks.len());
            }
            let up = ids(0..4).into_iter().filter(|owner| !down.contains(owner));
            up.chain(stands.iter().map(|(owner, _)| *owner)).for_each(|owner| tally.yes(owner));
            let takes = |owner| !down.contains(&owner) || stands.iter().any(|(stood, _)| *stood == owner);
            prop_assert_eq!(tally.is_met(), requirement.feasible(takes).is_ok());
        }
    }
}

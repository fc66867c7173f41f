//! From a level to who has to answer: groups of members, each with a need.
//!
//! **The rule** (semantics sections 3 and 4): a write needs W in *each* live layout, each counted with its own N; a read
//! uses one of them ([`Requirement::in_layout`]). A number is judged against the newest live layout and capped at N in
//! older ones. Effective N = min(n, owners listed); words are computed from it, over all regions or within one.

use std::collections::BTreeSet;
use std::sync::Arc;

use thiserror::Error;

use super::{Level, LevelError};
use crate::types::StoreId;

/// The owners of one object in one region of one layout.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegionOwners {
    /// The region's label.
    pub region: Arc<str>,
    /// How many replicas the object's bucket wants there.
    pub n: usize,
    /// The partition's owners there, in order; the first `n` of them hold the object.
    pub owners: Vec<StoreId>,
}

impl RegionOwners {
    /// Those that hold the object: as many as are wanted, or as there are.
    fn holders(&self) -> &[StoreId] {
        &self.owners[..self.n.min(self.owners.len())]
    }
}

/// The owners of one object in one layout.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnersIn {
    /// The layout's version.
    pub layout: u64,
    /// The owners, by region. No store is listed twice.
    pub regions: Vec<RegionOwners>,
}

impl OwnersIn {
    /// The effective N over all regions.
    #[must_use]
    pub fn n(&self) -> usize {
        self.regions.iter().map(|region| region.holders().len()).sum()
    }
}

/// Members of one layout, of which at least `need` have to answer.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Group {
    /// The layout it is counted in.
    pub layout: u64,
    /// The region it is counted in; none where it is counted over all of them.
    pub region: Option<Arc<str>>,
    /// Who counts: the effective N.
    pub members: Vec<StoreId>,
    /// How many of them have to answer: at least 1, at most all.
    pub need: usize,
}

/// Who has to answer: every group has to reach its need. Groups are ordered by layout, the newest first. Cheap to clone:
/// clones share it, and one serves every operation on a partition.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Requirement {
    groups: Arc<[Group]>,
    members: Arc<[StoreId]>,
}

impl Requirement {
    fn new(groups: Vec<Group>) -> Self {
        let mut members = Vec::with_capacity(groups.first().map_or(0, |group| group.members.len()));
        for &member in groups.iter().flat_map(|group| &group.members) {
            if !members.contains(&member) {
                members.push(member);
            }
        }
        Self { groups: groups.into(), members: members.into() }
    }

    /// The groups, the newest layout's first.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The newest layout that counts.
    #[must_use]
    pub fn layout(&self) -> u64 {
        self.groups.first().map_or(0, |group| group.layout)
    }

    /// Only what is counted in `layout`: a read's requirement. None if nothing is.
    #[must_use]
    pub fn in_layout(&self, layout: u64) -> Option<Self> {
        let groups: Vec<_> = self.groups.iter().filter(|group| group.layout == layout).cloned().collect();
        (!groups.is_empty()).then(|| Self::new(groups))
    }

    /// Everybody who counts, each once, the newest layout's first.
    #[must_use]
    pub fn members(&self) -> &[StoreId] {
        &self.members
    }

    /// The layouts in which `member` counts.
    #[must_use]
    pub fn layouts_of(&self, member: StoreId) -> Vec<u64> {
        let mut layouts: Vec<_> =
            self.groups.iter().filter(|group| group.members.contains(&member)).map(|group| group.layout).collect();
        layouts.dedup();
        layouts
    }

    /// The same, with fallbacks in the place of owners: (owner, fallback), no store twice. For reads: what a fallback
    /// holds for its owner is its vote.
    #[must_use]
    pub fn with_stand_ins(&self, stands: &[(StoreId, StoreId)]) -> Self {
        let instead =
            |member: &StoreId| stands.iter().find(|(owner, _)| owner == member).map_or(*member, |(_, by)| *by);
        let of = |group: &Group| Group { members: group.members.iter().map(instead).collect(), ..group.clone() };
        Self::new(self.groups.iter().map(of).collect())
    }

    /// Checks `durable=K` against W: at most as many flushed acknowledgements as acknowledgements, in the newest layout.
    pub fn check_durable(&self, durable: usize) -> Result<(), LevelError> {
        let needed = self.groups.iter().filter(|group| group.layout == self.layout()).map(|group| group.need).sum();
        if durable > needed { Err(LevelError::TooDurable { durable, needed }) } else { Ok(()) }
    }

    /// Whether enough members are up, before anything is sent: 503 `quorum_unavailable` says why not, and that nothing
    /// was applied.
    pub fn feasible(&self, up: impl Fn(StoreId) -> bool) -> Result<(), Unavailable> {
        let live = |group: &Group| group.members.iter().filter(|member| up(**member)).count();
        if self.groups.iter().all(|group| live(group) >= group.need) {
            return Ok(());
        }
        let of = |group: &Group| GroupUp {
            layout: group.layout,
            region: group.region.clone(),
            required: group.need,
            live: live(group),
            n: group.members.len(),
        };
        let groups: Vec<GroupUp> = self.groups.iter().map(of).collect();
        match groups.iter().find(|group| group.live < group.required) {
            // Somebody came up while they were counted.
            None => Ok(()),
            Some(short) => {
                let (required, live, n) = (short.required, short.live, short.n);
                Err(Unavailable { required, live, n, groups })
            }
        }
    }
}

/// Members of one group that are up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupUp {
    /// The layout it is counted in.
    pub layout: u64,
    /// The region; none for all.
    pub region: Option<Arc<str>>,
    /// How many have to answer.
    pub required: usize,
    /// How many are up.
    pub live: usize,
    /// How many there are.
    pub n: usize,
}

/// Too few members are up. `required`, `live` and `n` are those of the first group that is short.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{required} of {n} replicas are needed, {live} can be reached")]
pub struct Unavailable {
    /// How many have to answer.
    pub required: usize,
    /// How many are up.
    pub live: usize,
    /// How many there are.
    pub n: usize,
    /// All groups, short or not.
    pub groups: Vec<GroupUp>,
}

impl Unavailable {
    /// The layout in which too few are up: the newest of those.
    #[must_use]
    pub fn layout(&self) -> u64 {
        self.groups.iter().find(|group| group.live < group.required).map_or(0, |group| group.layout)
    }
}

/// Who has to answer at `level`, counted in every layout of `live` (in any order).
///
/// # Errors
/// A [`LevelError`] that says what would be right: the request is refused before anything is sent.
pub fn requirement(level: Level, live: &[OwnersIn], local_region: &str) -> Result<Requirement, LevelError> {
    let mut layouts: Vec<&OwnersIn> = live.iter().collect();
    layouts.sort_by_key(|owners| std::cmp::Reverse(owners.layout));
    let newest = layouts.first().map_or(0, |owners| owners.n());
    if newest == 0 {
        return Err(LevelError::NoOwners);
    }
    match level.number() {
        Some(0) => return Err(LevelError::Zero),
        Some(asked) if asked > newest => return Err(LevelError::TooMany { asked, n: newest }),
        _ => {}
    }
    let mut groups = Vec::with_capacity(layouts.len());
    for (age, owners) in layouts.into_iter().enumerate() {
        let before = groups.len();
        add_groups(&mut groups, level, owners, local_region);
        let over_all = match level {
            Level::LocalOne => Level::One,
            Level::LocalQuorum => Level::Quorum,
            _ => continue,
        };
        if groups.len() == before {
            if age == 0 {
                return Err(LevelError::NoneInRegion(local_region.into()));
            }
            // The region is new: in the older layout its objects lie elsewhere, so they are counted there.
            add_groups(&mut groups, over_all, owners, local_region);
        }
    }
    Ok(Requirement::new(groups))
}

/// What `level` asks of one layout. Groups without members ask nothing and are left out.
fn add_groups(groups: &mut Vec<Group>, level: Level, owners: &OwnersIn, local_region: &str) {
    let majority = |n: usize| n / 2 + 1;
    let by_region = matches!(level, Level::LocalOne | Level::LocalQuorum | Level::EachQuorum);
    if by_region {
        let wanted = |region: &&RegionOwners| level == Level::EachQuorum || &*region.region == local_region;
        for region in owners.regions.iter().filter(wanted) {
            let members = distinct(region.holders());
            if !members.is_empty() {
                let need = if level == Level::LocalOne { 1 } else { majority(members.len()) };
                groups.push(Group { layout: owners.layout, region: Some(region.region.clone()), members, need });
            }
        }
        return;
    }
    let mut members = Vec::with_capacity(owners.n());
    owners.regions.iter().for_each(|region| members.extend_from_slice(region.holders()));
    let members = distinct(&members);
    if !members.is_empty() {
        let n = members.len();
        let need = match level.number() {
            Some(number) => number.min(n),
            None if level == Level::All => n,
            None => majority(n),
        };
        groups.push(Group { layout: owners.layout, region: None, members, need });
    }
}

/// The same list; that it has no duplicates is the ring's promise, and counting one store twice would break every
/// quorum, so it is checked.
fn distinct(members: &[StoreId]) -> Vec<StoreId> {
    let set: BTreeSet<_> = members.iter().collect();
    assert_eq!(set.len(), members.len(), "a store is listed twice among the owners of one layout");
    members.to_vec()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(bits: impl IntoIterator<Item = u128>) -> Vec<StoreId> {
        bits.into_iter().map(StoreId::from_bits).collect()
    }

    fn owners(layout: u64, regions: &[(&str, usize, std::ops::Range<u128>)]) -> OwnersIn {
        let regions = regions
            .iter()
            .map(|(region, n, range)| RegionOwners { region: (*region).into(), n: *n, owners: ids(range.clone()) })
            .collect();
        OwnersIn { layout, regions }
    }

    fn needs(level: Level, live: &[OwnersIn]) -> Vec<(u64, usize, usize)> {
        let requirement = requirement(level, live, "eu").unwrap();
        requirement.groups().iter().map(|group| (group.layout, group.need, group.members.len())).collect()
    }

    #[test]
    fn a_number_is_judged_by_the_newest_layout_and_capped_in_older_ones() {
        let live = [owners(1, &[("eu", 1, 0..5)]), owners(2, &[("eu", 3, 0..5)])];
        assert_eq!(needs(Level::Count(3), &live), [(2, 3, 3), (1, 1, 1)]);
        assert_eq!(needs(Level::Quorum, &live), [(2, 2, 3), (1, 1, 1)]);
        let error = requirement(Level::Count(4), &live, "eu").unwrap_err();
        assert_eq!(error, LevelError::TooMany { asked: 4, n: 3 });
        assert_eq!(
            error.to_string(),
            "4 replicas were asked for, but an object here has 3: a number from 1 to 3 is right, or quorum or all"
        );
        let shrunk = [owners(1, &[("eu", 3, 0..5)]), owners(2, &[("eu", 1, 0..5)])];
        assert!(requirement(Level::Two, &shrunk, "eu").is_err(), "an older, larger N does not make a number right");
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        let live = [owners(1, &[("eu", 3, 0..3)])];
        assert_eq!(requirement(Level::Count(0), &live, "eu"), Err(LevelError::Zero));
        assert_eq!(
            requirement(Level::Any, &live, "eu"),
            requirement(Level::One, &live, "eu"),
            "who counts is not said here"
        );
        assert_eq!(requirement(Level::LocalOne, &live, "us"), Err(LevelError::NoneInRegion("us".into())));
        assert_eq!(requirement(Level::One, &[], "eu"), Err(LevelError::NoOwners));
        assert_eq!(requirement(Level::One, &[owners(1, &[("eu", 3, 0..0)])], "eu"), Err(LevelError::NoOwners));
        let two = requirement(Level::Two, &live, "eu").unwrap();
        assert_eq!(two.check_durable(2), Ok(()));
        assert_eq!(two.check_durable(3), Err(LevelError::TooDurable { durable: 3, needed: 2 }));
    }

    #[test]
    #[should_panic(expected = "listed twice")]
    fn a_store_counts_once_in_a_layout() {
        let twice = RegionOwners { region: "eu".into(), n: 2, owners: ids([1, 1]) };
        let _ = requirement(Level::Quorum, &[OwnersIn { layout: 1, regions: vec![twice] }], "eu");
    }

    #[test]
    fn too_few_up_is_said_before_anything_is_sent() {
        let live = [owners(1, &[("eu", 3, 0..3)]), owners(2, &[("eu", 3, 2..5)])];
        let quorum = requirement(Level::Quorum, &live, "eu").unwrap();
        assert_eq!(quorum.feasible(|_| true), Ok(()));
        let error = quorum.feasible(|id| id.bits() >= 2).unwrap_err();
        assert_eq!((error.required, error.live, error.n), (2, 1, 3), "the older layout is the short one");
        assert_eq!(error.groups.len(), 2);
        assert_eq!(error.groups[0].live, 3);
        assert_eq!(error.to_string(), "2 of 3 replicas are needed, 1 can be reached");
        assert_eq!(quorum.members(), ids([2, 3, 4, 0, 1]));
        assert_eq!(quorum.layouts_of(StoreId::from_bits(2)), [2, 1]);
        assert_eq!(quorum.in_layout(1).unwrap().members(), ids([0, 1, 2]));
        assert_eq!(quorum.in_layout(3), None);
    }

    /// Levels whose needs add up to more than N, over the same members, share a member in any two quorums: I-OVERLAP
    /// rests on it. `None` where the pair promises nothing.
    fn must_overlap(read: &Group, write: &Group) -> bool {
        read.members == write.members && read.need + write.need > read.members.len()
    }

    fn any_level() -> impl Strategy<Value = Level> {
        prop_oneof![proptest::sample::select(Level::NAMED.to_vec()), (1u8..8).prop_map(Level::Count)]
    }

    proptest! {
        #[test]
        fn every_group_can_be_met_and_asks_somebody(
            level in any_level(), n in 1usize..6, listed in 1u128..6, us in 0u128..4, older in 1u128..6,
        ) {
            let live = [
                owners(7, &[("eu", n, 0..listed), ("us", n, 100..100 + us)]),
                owners(6, &[("eu", n, 0..older)]),
            ];
            let Ok(requirement) = requirement(level, &live, "eu") else { return Ok(()) };
            for group in requirement.groups() {
                prop_assert!(1 <= group.need && group.need <= group.members.len());
            }
            for layout in [7, 6] {
                prop_assert!(requirement.in_layout(layout).is_some(), "each live layout counts");
            }
        }

        #[test]
        fn quorums_of_more_than_n_in_sum_intersect(r in any_level(), w in any_level(), n in 1usize..6, us in 0u128..4) {
            let live = [owners(1, &[("eu", n, 0..5), ("us", n, 100..100 + us)])];
            let (Ok(read), Ok(write)) = (requirement(r, &live, "eu"), requirement(w, &live, "eu")) else { return Ok(()) };
            for (a, b) in read.groups().iter().flat_map(|a| write.groups().iter().map(move |b| (a, b))) {
                if must_overlap(a, b) {
                    // The hardest choice: the first of one, the last of the other.
                    let first: BTreeSet<_> = a.members.iter().take(a.need).collect();
                    prop_assert!(b.members.iter().rev().take(b.need).any(|member| first.contains(member)));
                }
            }
            let strong = [Level::Quorum, Level::All];
            if strong.contains(&r) && strong.contains(&w) || (r, w) == (Level::One, Level::All) || (r, w) == (Level::All, Level::One) {
                prop_assert!(must_overlap(&read.groups()[0], &write.groups()[0]), "{r} and {w}");
            }
            let regional = [Level::LocalQuorum, Level::EachQuorum];
            if regional.contains(&r) && regional.contains(&w) {
                let local = |requirement: &Requirement| {
                    requirement.groups().iter().find(|group| group.region.as_deref() == Some("eu")).cloned()
                };
                prop_assert!(must_overlap(&local(&read).unwrap(), &local(&write).unwrap()), "{r} and {w}");
            }
        }
    }
}

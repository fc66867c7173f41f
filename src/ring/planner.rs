//! The planner: who should own what.
//!
//! A partition's owners are an ordered list of which a bucket uses the first n, so load has to be right *at every n*,
//! the first position included: it coordinates. The planner therefore fills position after position. Each member's
//! load over the first n positions has a target (`Shape::targets`); it is to be met to the whole partition.
//!
//! For one position: (1) whoever holds it and may go on keeps it; (2) what is free goes to members below their target;
//! (3) members above their target pass partitions on to members below, directly or along a shortest path of exchanges
//! (breadth first over members, as in bipartite matching), until nobody can be helped. Of several ways the one that
//! moves least is taken (`Placement::cost` looks at the positions to come as well); of equal ones a fixed
//! hash draws one, in proportion to what members lack, so that any two members share few partitions and a dead one is
//! replaced from many. Positions are settled one by one, so what the last ones force on the first is not seen in time:
//! when the lists are filled, moves that turn out needless are taken back (`economy`).
//!
//! Members of weight 0 are leaving: no list has them, no target counts them.
//!
//! Hard rules, whatever the targets say: no owner twice in a list; no two owners in one zone while zones suffice, and
//! zones evenly used where they do not. A member or zone whose target is a replica of *every* partition is given its
//! position before the list is full (`restrict`, in `placement`).
//!
//! The same input gives the same layout on every machine: no clock, no random bits, ties broken by a fixed hash.

use std::collections::{BTreeMap, BTreeSet};

use super::placement::{FREE, Placement};
use super::targets::Shape;
use super::{BucketSettings, Grid, Layout, LayoutError, LayoutHash, LayoutSpec, Member, MemberIndex, RegionOwners};

/// Layout 1 of a cluster of `members`, in any order.
pub fn found(
    cluster_name: &str,
    grid: Grid,
    replicas_max: u8,
    default_bucket: BucketSettings,
    members: Vec<Member>,
) -> Result<Layout, LayoutError> {
    let spec = LayoutSpec {
        version: 1,
        parent: LayoutHash::default(),
        cluster: None,
        cluster_name: cluster_name.into(),
        q: grid.q(),
        replicas_max,
        members: Vec::new(),
        regions: Vec::new(),
        default_bucket,
        buckets: BTreeMap::new(),
    };
    place(None, spec, members)
}

/// The layout after `current` with these members, in any order; everything else stays. A node that comes with another
/// store takes the places of its old one; one of weight 0 stays a member and gives up all of its own.
pub fn plan(current: &Layout, members: Vec<Member>) -> Result<Layout, LayoutError> {
    let spec = LayoutSpec {
        version: current.version() + 1,
        parent: current.hash(),
        cluster: Some(current.cluster()),
        ..current.spec().clone()
    };
    place(Some(current), spec, members)
}

fn place(current: Option<&Layout>, mut spec: LayoutSpec, mut members: Vec<Member>) -> Result<Layout, LayoutError> {
    members.sort_by_key(|member| member.node);
    let stay = |member: &&Member| member.weight > 0;
    let regions: BTreeSet<&str> = members.iter().filter(stay).map(|member| member.region.as_str()).collect();
    spec.regions = regions
        .into_iter()
        .map(|region| {
            let local: Vec<(MemberIndex, &Member)> =
                (0..).map(MemberIndex).zip(&members).filter(|(_, m)| m.region == region && stay(m)).collect();
            let shape = Shape::new(spec.q as usize, local.iter().map(|(_, m)| (m.weight, m.zone.as_str())));
            let width = local.len().min(usize::from(spec.replicas_max));
            let old = old_owners(current, region, &local, width, spec.q as usize);
            let stores = local.iter().map(|(_, member)| member.store.bits()).collect();
            let lists = Placement::new(&shape, stores, width, old).run();
            RegionOwners {
                region: region.to_owned(),
                width: u8::try_from(width).unwrap_or(u8::MAX),
                owners: lists.into_iter().map(|owner| local[owner].0).collect(),
            }
        })
        .collect();
    spec.members = members;
    Layout::new(spec)
}

/// The lists of `current`, in the new members' local numbers; [`FREE`] where a member is gone or there was none.
fn old_owners(
    current: Option<&Layout>,
    region: &str,
    local: &[(MemberIndex, &Member)],
    width: usize,
    q: usize,
) -> Vec<usize> {
    let mut old = vec![FREE; q * width];
    let Some(current) = current else { return old };
    let heir: Vec<usize> = current
        .members()
        .iter()
        .map(|gone| local.binary_search_by_key(&gone.node, |(_, member)| member.node).unwrap_or(FREE))
        .collect();
    for partition in current.grid().partitions() {
        let owners = current.owners_in(region, partition, u8::try_from(width).unwrap_or(u8::MAX));
        for (position, owner) in owners.iter().enumerate() {
            old[partition.0 as usize * width + position] = heir[owner.get()];
        }
    }
    old
}

#[cfg(test)]
mod tests;

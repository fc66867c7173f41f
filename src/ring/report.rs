//! The four figures of placement (semantics section 3): load by weight, moves, zones; planning time is for whoever
//! holds a clock (`examples/placement.rs`).

use std::collections::BTreeSet;
use std::fmt;

use super::targets::Shape;
use super::{Layout, Member, RegionOwners};
use crate::types::{PartitionId, StoreId};

/// The figures at one n.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct FiguresAtN {
    /// How many owners of each list are used.
    pub n: u8,
    /// The greatest load relative to the member's share by weight: max/mean where weights are equal.
    pub max_over_mean: f64,
    /// The least that figure can be: partitions are whole, nobody holds one twice, zones come before weights.
    pub least_max_over_mean: f64,
    /// Replicas that a member holds now and did not before.
    pub moves: usize,
    /// A lower bound of `moves` where loads are right, by two counts of the same moves. By partition: it has n
    /// owners and had k of those that are still members, so at least n - k of its owners are new. By member: it
    /// holds at least the least that is right for it and had h of it, so at least the difference is new to it.
    /// Every move is counted once by its partition and once by its member, so each sum is a bound, and so is the
    /// greater. It may be out of reach: it looks at this n alone, and not at whom a zone's rule keeps out of which
    /// partition.
    pub least_moves: usize,
    /// Partitions with two replicas in one zone while zones suffice, or more than need be where they do not.
    pub zone_violations: usize,
}

/// How good a placement is.
#[derive(Clone, PartialEq, Debug)]
pub struct PlacementReport {
    /// Per n, from 1 to the longest list.
    pub figures: Vec<FiguresAtN>,
}

impl PlacementReport {
    /// Judges `layout`, as following `before` where there is one.
    #[must_use]
    pub fn of(before: Option<&Layout>, layout: &Layout) -> Self {
        let longest = layout.spec().regions.iter().map(|table| table.width).max().unwrap_or(0);
        let mut figures: Vec<FiguresAtN> = (1..=longest)
            .map(|n| FiguresAtN {
                n,
                max_over_mean: 0.0,
                least_max_over_mean: 0.0,
                moves: 0,
                least_moves: 0,
                zone_violations: 0,
            })
            .collect();
        for table in &layout.spec().regions {
            region(before, layout, table, &mut figures);
        }
        Self { figures }
    }

    /// The figures at `n`, or at the longest list where none is that long.
    #[must_use]
    pub fn at(&self, n: u8) -> Option<&FiguresAtN> {
        self.figures.iter().rfind(|figures| figures.n <= n)
    }
}

impl fmt::Display for PlacementReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  n  max/mean  (least)  moves  (least)  zone violations")?;
        for at in &self.figures {
            let FiguresAtN { n, max_over_mean, least_max_over_mean, moves, least_moves, zone_violations } = at;
            writeln!(
                f,
                "{n:>3} {max_over_mean:>9.3} {least_max_over_mean:>8.3} {moves:>6} {least_moves:>8} {zone_violations:>16}"
            )?;
        }
        Ok(())
    }
}

fn region(before: Option<&Layout>, layout: &Layout, table: &RegionOwners, figures: &mut [FiguresAtN]) {
    let members: Vec<(usize, &Member)> =
        layout.members().iter().enumerate().filter(|(_, m)| m.region == table.region && m.weight > 0).collect();
    let mut local = vec![usize::MAX; layout.members().len()];
    members.iter().enumerate().for_each(|(at, (global, _))| local[*global] = at);
    let shape =
        Shape::new(layout.grid().q() as usize, members.iter().map(|(_, member)| (member.weight, member.zone.as_str())));
    let targets = shape.targets(usize::from(table.width));
    for at in figures {
        let n = at.n.min(table.width);
        let wanted = shape.bounds(&targets[usize::from(n) - 1], usize::from(n));
        let (mut load, mut load_before) = (vec![0usize; members.len()], vec![0usize; members.len()]);
        let mut must_gain = 0;
        for partition in layout.grid().partitions() {
            let owners = table.of(partition, n);
            let stores_before = stores(before, &table.region, partition, at.n);
            let stays =
                |store: &StoreId| layout.member_by_store(*store).is_some_and(|index| layout.member(index).weight > 0);
            let kept: BTreeSet<StoreId> = stores_before.iter().copied().filter(stays).collect();
            must_gain += usize::from(n).saturating_sub(kept.len());
            for store in &kept {
                let index = layout.member_by_store(*store).map_or(usize::MAX, |index| local[index.get()]);
                if let Some(load) = load_before.get_mut(index) {
                    *load += 1;
                }
            }
            for owner in owners {
                load[local[owner.get()]] += 1;
                at.moves += usize::from(!stores_before.contains(&layout.member(*owner).store));
            }
            let zones: Vec<usize> = owners.iter().map(|owner| shape.zones[local[owner.get()]]).collect();
            let most = zones.iter().map(|zone| zones.iter().filter(|other| *other == zone).count()).max().unwrap_or(0);
            at.zone_violations += usize::from(most > shape.zone_cap(usize::from(n)));
        }
        let shares = (0..members.len()).map(|member| shape.share(member, usize::from(n)));
        for (member, share) in shares.enumerate() {
            at.max_over_mean = at.max_over_mean.max(load[member] as f64 / share);
        }
        at.least_max_over_mean = at.least_max_over_mean.max(wanted.ratio);
        let by_load: usize =
            wanted.loads.iter().zip(&load_before).map(|((low, _), had)| low.saturating_sub(*had)).sum();
        at.least_moves += by_load.max(must_gain);
    }
}

fn stores(layout: Option<&Layout>, region: &str, partition: PartitionId, n: u8) -> Vec<StoreId> {
    let Some(layout) = layout else { return Vec::new() };
    layout.owners_in(region, partition, n).iter().map(|owner| layout.member(*owner).store).collect()
}

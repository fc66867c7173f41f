//! How much each member should hold: the load that the planner aims at and the report judges by.
//!
//! For every n the n Q replicas of a region are shared out by weight, as far as two rules let it: nobody holds a
//! partition twice, and the replicas of a partition are spread evenly over zones (in different zones while zones
//! suffice). What a member or a zone may not take goes to the others, still by weight. Targets only grow with n, because
//! the first n owners are also among the first n + 1.

use std::collections::BTreeMap;

/// What matters of a region's members, by their order in it.
pub(super) struct Shape {
    /// Q.
    pub(super) q: usize,
    /// Weight per member.
    pub(super) weights: Vec<u32>,
    total: f64,
    /// Zone per member, zones counted from 0.
    pub(super) zones: Vec<usize>,
    /// Members per zone.
    pub(super) zone_sizes: Vec<usize>,
}

/// Slack for sums of floating point numbers that should be whole.
const EPSILON: f64 = 1e-6;
/// The same for a zone's sum, of a thousand such.
const SLACK: f64 = 1e-2;

impl Shape {
    /// The shape of members given as (weight, zone label).
    pub(super) fn new<'a>(q: usize, members: impl Iterator<Item = (u32, &'a str)>) -> Self {
        let mut shape = Self { q, weights: Vec::new(), total: 0.0, zones: Vec::new(), zone_sizes: Vec::new() };
        let mut labels = BTreeMap::new();
        for (weight, label) in members {
            let next = labels.len();
            let zone = *labels.entry(label).or_insert(next);
            if zone == next {
                shape.zone_sizes.push(0);
            }
            shape.zone_sizes[zone] += 1;
            shape.weights.push(weight);
            shape.total += f64::from(weight);
            shape.zones.push(zone);
        }
        shape
    }

    /// Number of members.
    pub(super) fn len(&self) -> usize {
        self.weights.len()
    }

    /// Most of the first `n` owners of a partition that may lie in one zone: 1 while zones suffice.
    pub(super) fn zone_cap(&self, n: usize) -> usize {
        let room = |cap: usize| self.zone_sizes.iter().map(|size| cap.min(*size)).sum::<usize>();
        (1..=n).find(|cap| room(*cap) >= n).unwrap_or(n)
    }

    /// A member's share by weight alone of the load at `n`.
    pub(super) fn share(&self, member: usize, n: usize) -> f64 {
        (n * self.q) as f64 * f64::from(self.weights[member]) / self.total
    }

    /// Per n from 1 to `width`, per member: the target.
    pub(super) fn targets(&self, width: usize) -> Vec<Vec<f64>> {
        let mut targets = Vec::with_capacity(width);
        let mut before = vec![0.0; self.len()];
        for n in 1..=width {
            before = self.fill(n, &before);
            targets.push(before.clone());
        }
        targets
    }

    fn fill(&self, n: usize, before: &[f64]) -> Vec<f64> {
        let q = self.q as f64;
        let cap = self.zone_cap(n);
        let bounds: Vec<(f64, f64)> =
            self.zone_sizes.iter().map(|size| (q * (cap - 1).min(*size) as f64, q * cap.min(*size) as f64)).collect();
        let level =
            |member: usize, by_weight: f64| (by_weight * f64::from(self.weights[member])).max(before[member]).min(q);
        let zone_sums = |by_weight: f64| {
            let mut sums = vec![0.0; bounds.len()];
            (0..self.len()).for_each(|member| sums[self.zones[member]] += level(member, by_weight));
            sums
        };
        let clamped = |by_weight: f64| {
            let sums = zone_sums(by_weight).into_iter().zip(&bounds);
            sums.map(|(sum, (low, high))| sum.max(*low).min(*high)).collect::<Vec<f64>>()
        };
        let everywhere = rising_to((n * self.q) as f64, q, |by_weight| clamped(by_weight).iter().sum());
        let wanted = clamped(everywhere);
        let free = zone_sums(everywhere);
        let per_zone: Vec<f64> = (0..bounds.len())
            .map(|zone| {
                if (wanted[zone] - free[zone]).abs() < EPSILON {
                    return everywhere;
                }
                let members: Vec<usize> = (0..self.len()).filter(|member| self.zones[*member] == zone).collect();
                rising_to(wanted[zone], q, |by_weight| members.iter().map(|m| level(*m, by_weight)).sum())
            })
            .collect();
        (0..self.len()).map(|member| level(member, per_zone[self.zones[member]])).collect()
    }
}

/// What the whole loads may be that add up to targets.
pub(super) struct Bounds {
    /// Per member: least and most.
    pub(super) loads: Vec<(usize, usize)>,
    /// The least that the greatest load relative to its share by weight can be.
    pub(super) ratio: f64,
}

impl Shape {
    /// Rounds the targets at `n`: down, or up for as many as need be, where up hurts the least relative to weight. A
    /// zone whose replicas the rules number rounds within itself; all others round among themselves.
    pub(super) fn bounds(&self, targets: &[f64], n: usize) -> Bounds {
        let ratio = |member: usize, load: usize| load as f64 / self.share(member, n);
        let whole: Vec<(usize, usize)> =
            targets.iter().map(|t| ((t + EPSILON).floor() as usize, (t - EPSILON).ceil() as usize)).collect();
        let cap = self.zone_cap(n);
        let mut sums = vec![0.0; self.zone_sizes.len()];
        targets.iter().zip(&self.zones).for_each(|(target, zone)| sums[*zone] += target);
        let numbered = |zone: usize| {
            [cap - 1, cap].iter().any(|each| (sums[zone] - (each * self.q) as f64).abs() < SLACK)
                || self.zone_sizes[zone] <= cap && (sums[zone] - (self.zone_sizes[zone] * self.q) as f64).abs() < SLACK
        };
        let mut groups = BTreeMap::<Option<usize>, Vec<usize>>::new();
        for (member, zone) in self.zones.iter().enumerate() {
            groups.entry(numbered(*zone).then_some(*zone)).or_default().push(member);
        }
        let mut most = (0..self.len()).map(|m| ratio(m, whole[m].0)).fold(0.0, f64::max);
        for members in groups.values() {
            let sum = members.iter().map(|m| targets[*m]).sum::<f64>().round() as usize;
            let raised_count = sum.saturating_sub(members.iter().map(|m| whole[*m].0).sum());
            let mut raised: Vec<f64> =
                members.iter().filter(|m| whole[**m].1 > whole[**m].0).map(|m| ratio(*m, whole[*m].1)).collect();
            raised.sort_by(f64::total_cmp);
            let last = raised_count.checked_sub(1).and_then(|last| raised.get(last));
            most = most.max(last.copied().unwrap_or(0.0));
        }
        let fits = |m: usize| ratio(m, whole[m].1) <= most + EPSILON;
        let loads = (0..self.len()).map(|m| if fits(m) { whole[m] } else { (whole[m].0, whole[m].0) }).collect();
        Bounds { loads, ratio: most }
    }
}

/// Where `f`, which never falls, reaches `value` between 0 and `high`.
fn rising_to(value: f64, mut high: f64, f: impl Fn(f64) -> f64) -> f64 {
    let mut low = 0.0;
    for _ in 0..64 {
        let middle = (low + high) / 2.0;
        if f(middle) < value { low = middle } else { high = middle }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounded(shape: &Shape, width: usize) -> Vec<Vec<i64>> {
        let targets = shape.targets(width);
        targets.iter().map(|row| row.iter().map(|target| target.round() as i64).collect()).collect()
    }

    #[test]
    fn load_follows_weight_until_a_member_holds_everything() {
        let shape = Shape::new(1024, [(1, ""), (1, ""), (2, "")].into_iter());
        assert_eq!(rounded(&shape, 3), [[256, 256, 512], [512, 512, 1024], [1024, 1024, 1024]]);
    }

    #[test]
    fn a_zone_holds_one_replica_while_zones_suffice_and_shares_it_by_weight() {
        let shape = Shape::new(1024, [(1, "a"), (3, "a"), (1, "b")].into_iter());
        assert_eq!(rounded(&shape, 3), [[205, 614, 205], [256, 768, 1024], [1024, 1024, 1024]]);
        assert_eq!((1..=3).map(|n| shape.zone_cap(n)).collect::<Vec<_>>(), [1, 1, 2]);
    }
}

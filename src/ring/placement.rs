//! The planner's workbench: one region's lists, filled position after position. `planner` tells the method.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use super::layout::REPLICAS_LIMIT;
use super::preference::shuffle;
use super::targets::Shape;
use crate::types::PartitionId;

mod economy;

/// No owner (yet).
pub(super) const FREE: usize = usize::MAX;

/// One region being filled.
pub(super) struct Placement<'a> {
    shape: &'a Shape,
    stores: Vec<u128>,
    width: usize,
    /// Per n: most owners in one zone.
    zone_caps: Vec<usize>,
    /// The targets that are a replica of every partition: per n, the members or zones that have one.
    everywhere: Vec<Vec<BTreeSet<usize>>>,
    /// Per n, per member: least and most load over the first n positions.
    bounds: Vec<Vec<(usize, usize)>>,
    /// Per n, per member: that load, as `lists` stand.
    loads: Vec<Vec<usize>>,
    /// The lists before.
    old: Vec<usize>,
    /// The lists: settled before `position`, still the old ones behind it.
    lists: Vec<usize>,
    position: usize,
    /// Per member: the partitions it has at this position.
    here: Vec<Vec<usize>>,
    /// Per partition: the only members that may take this position, where that is restricted.
    restricted: Vec<Option<BTreeSet<usize>>>,
}

/// How full a member is at this position, relative to its bounds.
#[derive(Clone, Copy)]
enum Than {
    Least,
    Most,
}

impl<'a> Placement<'a> {
    pub(super) fn new(shape: &'a Shape, stores: Vec<u128>, width: usize, old: Vec<usize>) -> Self {
        let targets = shape.targets(width);
        let bounds = (1..=width).map(|n| shape.bounds(&targets[n - 1], n).loads).collect();
        let everywhere = (1..=width).map(|n| everywhere(shape, &targets[n - 1], n)).collect();
        let mut loads = vec![vec![0; shape.len()]; width];
        for (at, owner) in old.iter().enumerate().filter(|(_, owner)| **owner != FREE) {
            loads[at % width..].iter_mut().for_each(|load| load[*owner] += 1);
        }
        let zone_caps = (1..=width).map(|n| shape.zone_cap(n)).collect();
        let here = vec![Vec::new(); shape.len()];
        let lists = old.clone();
        Self {
            shape,
            stores,
            width,
            zone_caps,
            everywhere,
            bounds,
            loads,
            old,
            lists,
            position: 0,
            here,
            restricted: Vec::new(),
        }
    }

    /// The lists, one after the other.
    pub(super) fn run(mut self) -> Vec<usize> {
        for position in 0..self.width {
            self.position = position;
            self.restrict();
            self.keep();
            self.fill();
            self.exchange();
        }
        self.economise();
        self.lists
    }

    /// Finds the partitions whose open positions are just enough for those members or zones that must own every
    /// partition: only they may take the next one.
    fn restrict(&mut self) {
        let restricted = |partition: usize| {
            let listed = self.settled(partition);
            // Up to the n at `open`, `open + 1` positions are to be filled.
            self.everywhere[self.position..].iter().enumerate().find_map(|(open, units)| {
                let missing = units.iter().filter(|unit| !listed.iter().any(|owner| unit.contains(owner)));
                let missing: Vec<_> = missing.collect();
                (missing.len() > open).then(|| missing.into_iter().flatten().copied().collect())
            })
        };
        self.restricted = (0..self.shape.q).map(restricted).collect();
    }

    /// The owners of a partition at the positions before this one.
    fn settled(&self, partition: usize) -> &[usize] {
        &self.lists[partition * self.width..][..self.position]
    }

    /// Those behind this one: not settled.
    fn to_come(&self, partition: usize) -> &[usize] {
        &self.lists[partition * self.width..][self.position + 1..self.width]
    }

    fn owner(&self, partition: usize) -> usize {
        self.lists[partition * self.width + self.position]
    }

    /// Whether `member` may have this position of `partition` by the hard rules.
    fn may(&self, partition: usize, member: usize) -> bool {
        let listed = self.settled(partition);
        let zone = self.shape.zones[member];
        let in_zone = listed.iter().filter(|owner| self.shape.zones[**owner] == zone).count();
        in_zone < self.zone_caps[self.position]
            && !listed.contains(&member)
            && self.restricted[partition].as_ref().is_none_or(|only| only.contains(&member))
    }

    /// The load that this position decides.
    fn load(&self, member: usize) -> usize {
        self.loads[self.position][member]
    }

    fn bound(&self, member: usize, than: Than) -> usize {
        let (least, most) = self.bounds[self.position][member];
        match than {
            Than::Least => least,
            Than::Most => most,
        }
    }

    fn over(&self, member: usize, than: Than) -> bool {
        self.load(member) > self.bound(member, than) && !self.here[member].is_empty()
    }

    fn under(&self, member: usize, than: Than) -> bool {
        self.load(member) < self.bound(member, than)
    }

    /// Changes one place of the lists, and the loads with it.
    fn put(&mut self, partition: usize, position: usize, member: usize) {
        let place = &mut self.lists[partition * self.width + position];
        let before = std::mem::replace(place, member);
        for loads in &mut self.loads[position..] {
            if before != FREE {
                loads[before] -= 1;
            }
            if member != FREE {
                loads[member] += 1;
            }
        }
    }

    /// Gives this position of `partition` to `member`, which leaves a later one that it had.
    fn assign(&mut self, partition: usize, member: usize) {
        if let Some(later) = self.to_come(partition).iter().position(|owner| *owner == member) {
            self.put(partition, self.position + 1 + later, FREE);
        }
        let before = self.owner(partition);
        if before != FREE {
            self.here[before].retain(|held| *held != partition);
        }
        self.put(partition, self.position, member);
        self.here[member].push(partition);
    }

    fn keep(&mut self) {
        self.here.iter_mut().for_each(Vec::clear);
        for partition in 0..self.shape.q {
            let before = self.owner(partition);
            if before == FREE {
                continue;
            }
            if self.may(partition, before) {
                self.here[before].push(partition);
            } else {
                self.put(partition, self.position, FREE);
            }
        }
    }

    /// Gives every free place to somebody.
    fn fill(&mut self) {
        // Whoever lost an earlier position of the same list has its data: it comes back even where it is over, and the
        // exchanges choose what it gives up.
        for partition in 0..self.shape.q {
            let had = &self.old[partition * self.width..][..=self.position];
            if self.owner(partition) == FREE
                && let Some(member) = had.iter().copied().find(|member| *member != FREE && self.may(partition, *member))
            {
                self.assign(partition, member);
            }
        }
        for than in [Than::Least, Than::Most] {
            for partition in 0..self.shape.q {
                if self.owner(partition) == FREE
                    && let Some(member) = self.draw(partition, than)
                {
                    self.assign(partition, member);
                }
            }
        }
        // Where only full members may, the cheapest takes it and passes something on.
        for partition in 0..self.shape.q {
            if self.owner(partition) != FREE {
                continue;
            }
            let cheapest = |this: &Self| {
                let members = (0..this.shape.len()).filter(|member| this.may(partition, *member));
                members.min_by_key(|m| (this.cost(partition, *m), this.rank(partition, *m), *m))
            };
            let member = cheapest(self).or_else(|| {
                // A list is never longer than the region has members, and zones are used evenly: the hard rules
                // without the restriction always leave somebody.
                self.restricted[partition] = None;
                cheapest(self)
            });
            if let Some(member) = member {
                self.assign(partition, member);
            }
        }
    }

    /// Draws a member for a free place among those that are under, in proportion to how much they lack.
    fn draw(&self, partition: usize, than: Than) -> Option<usize> {
        // Nothing was there and nothing is: whoever comes costs the same.
        let list = partition * self.width..(partition + 1) * self.width;
        let behind = list.start + self.position..list.end;
        let blank = self.lists[behind].iter().chain(&self.old[list]).all(|owner| *owner == FREE);
        (0..self.shape.len()).filter(|member| self.under(*member, than) && self.may(partition, *member)).min_by_key(
            |member| {
                let lacks = (self.bound(*member, than) - self.load(*member)) as u64;
                let cost = if blank { 0 } else { self.cost(partition, *member) };
                (cost, self.rank(partition, *member) / lacks, *member)
            },
        )
    }

    fn rank(&self, partition: usize, member: usize) -> u64 {
        let salted = partition * self.width + self.position;
        shuffle(PartitionId(u32::try_from(salted).unwrap_or(u32::MAX)), self.stores[member]) >> 8
    }

    /// What it costs to give this position to `member`: at this n and every later one, the replicas that somebody holds
    /// who did not, and how far loads leave their bounds, each compared with doing nothing. Whoever `member` drives
    /// out of a later position, by being there itself or by its zone, leaves it to whom it takes this position from.
    /// Doubled, so that of equal ones who moves up within the list goes before who is new to it: the place behind
    /// stays open for whoever lacks most.
    fn cost(&self, partition: usize, member: usize) -> i64 {
        let first = partition * self.width;
        let (old, now) = (&self.old[first..][..self.width], &self.lists[first..][..self.width]);
        let mut then = [FREE; REPLICAS_LIMIT];
        let then = &mut then[..self.width];
        then[..self.position].copy_from_slice(&now[..self.position]);
        then[self.position] = member;
        for at in self.position + 1..self.width {
            let stays = |owner: usize, listed: &[usize]| {
                let in_zone = |other: &&usize| **other != FREE && self.shape.zones[**other] == self.shape.zones[owner];
                !listed.contains(&owner) && listed.iter().filter(in_zone).count() < self.zone_caps[at]
            };
            let settled = &then[..at];
            let candidates = [now[at], now[self.position]];
            then[at] = candidates.into_iter().find(|o| *o != FREE && stays(*o, settled)).unwrap_or(FREE);
        }
        let mut cost = 0;
        for at in self.position..self.width {
            let gains = |list: &[usize]| list[..=at].iter().filter(|o| **o == FREE || !old[..=at].contains(o)).count();
            cost += gains(then) as i64 - gains(now) as i64;
            if at == self.position {
                continue; // Loads at this n are what the caller settles.
            }
            let came = then[..=at].iter().filter(|o| !now[..=at].contains(o)).map(|owner| (*owner, 1));
            let left = now[..=at].iter().filter(|o| !then[..=at].contains(o)).map(|owner| (*owner, -1));
            for (owner, change) in came.chain(left).filter(|(owner, _)| *owner != FREE) {
                let (least, most) = self.bounds[at][owner];
                let outside = |load: i64| (least as i64 - load).max(load - most as i64).max(0);
                let load = self.loads[at][owner] as i64;
                cost += outside(load + change) - outside(load);
            }
        }
        2 * cost - i64::from(now[self.position + 1..].contains(&member))
    }

    fn exchange(&mut self) {
        for (from, to) in [(Than::Most, Than::Least), (Than::Most, Than::Most), (Than::Least, Than::Least)] {
            self.hand_over(from, to);
            loop {
                let givers = (0..self.shape.len()).filter(|member| self.over(*member, from)).collect();
                if !self.pass_on(givers, to) {
                    break;
                }
            }
        }
    }

    /// Members that are over give partitions to members that are under, the cheapest first, while any can.
    fn hand_over(&mut self, from: Than, to: Than) {
        let takers: Vec<usize> = (0..self.shape.len()).filter(|member| self.under(*member, to)).collect();
        let mut ways = BinaryHeap::new();
        for giver in (0..self.shape.len()).filter(|member| self.over(*member, from)) {
            for partition in &self.here[giver] {
                for taker in takers.iter().filter(|taker| self.may(*partition, **taker)) {
                    ways.push(Reverse((
                        self.cost(*partition, *taker),
                        self.rank(*partition, *taker),
                        giver,
                        *partition,
                        *taker,
                    )));
                }
            }
        }
        while let Some(Reverse((cost, rank, giver, partition, taker))) = ways.pop() {
            if !self.over(giver, from) || !self.under(taker, to) || self.owner(partition) != giver {
                continue;
            }
            let now = self.cost(partition, taker);
            if now > cost {
                ways.push(Reverse((now, rank, giver, partition, taker)));
            } else {
                self.assign(partition, taker);
            }
        }
    }

    /// Passes one partition along the shortest path from one of `givers` to a member that is under: each member on the
    /// path takes one and gives one. False if there is no path.
    fn pass_on(&mut self, givers: Vec<usize>, to: Than) -> bool {
        let takers: Vec<usize> = (0..self.shape.len()).filter(|member| self.under(*member, to)).collect();
        if takers.is_empty() {
            return false;
        }
        let mut reached_by: Vec<Option<usize>> = vec![None; self.shape.len()];
        let mut unreached: Vec<usize> = (0..self.shape.len()).filter(|member| !givers.contains(member)).collect();
        let mut queue: VecDeque<Vec<usize>> = givers.into_iter().map(|giver| self.here[giver].clone()).collect();
        while let Some(given) = queue.pop_front() {
            for partition in given {
                // One who takes ends the search, so none of them was reached yet.
                if let Some(taker) = takers.iter().copied().find(|member| self.may(partition, *member)) {
                    reached_by[taker] = Some(partition);
                    self.walk_back(taker, &reached_by);
                    return true;
                }
                let (near, far) = unreached.into_iter().partition(|member| self.may(partition, *member));
                unreached = far;
                let near: Vec<usize> = near;
                for member in near {
                    reached_by[member] = Some(partition);
                    queue.push_back(self.here[member].clone());
                }
            }
        }
        false
    }

    fn walk_back(&mut self, mut taker: usize, reached_by: &[Option<usize>]) {
        while let Some(partition) = reached_by[taker] {
            let giver = self.owner(partition);
            self.assign(partition, taker);
            taker = giver;
        }
    }
}

/// The members, or zones as sets of members while zones suffice, whose target at `n` is a replica of every partition.
fn everywhere(shape: &Shape, targets: &[f64], n: usize) -> Vec<BTreeSet<usize>> {
    let zones_suffice = shape.zone_cap(n) == 1;
    let mut groups = BTreeMap::<usize, (f64, BTreeSet<usize>)>::new();
    for (member, target) in targets.iter().enumerate() {
        let group = groups.entry(if zones_suffice { shape.zones[member] } else { member }).or_default();
        group.0 += target;
        group.1.insert(member);
    }
    let full = shape.q as f64 - 0.5;
    groups.into_values().filter(|(sum, _)| *sum > full).map(|(_, members)| members).collect()
}

//! Takes back needless moves from lists that are filled: what was settled position after position is looked at as a
//! whole.
//!
//! A *step* changes one partition: over a span of list lengths n, one owner gives way to another, either to the one who
//! follows at the span's end (they change places) or, where the span goes to the list's end, to a member that was not
//! listed. A step that undoes a move leaves its taker one partition too many and its giver one too few over the span;
//! a chain of steps over the same span, none of which moves more than it takes back, leads from the one to the other
//! (breadth first over members). Whoever has room within the bounds may keep one, or do with one less, on the way. So
//! loads stay as they are, or within their bounds, at every n, and the sum of moves over all n falls with every chain:
//! it ends.
//!
//! Chains over one span alone get stuck where lists would have to be turned over two spans at once. So lists are
//! *stirred* a few times by chains that change nothing in the figures, drawn by a fixed hash. It ends early once moves
//! are the least possible; what stays above after it is a local optimum, not proved to be the best.

use std::collections::VecDeque;
use std::ops::Range;

use super::{FREE, Placement, shuffle};
use crate::types::PartitionId;

/// One partition's change over a span of list lengths: `leaves` gives way to `comes`.
#[derive(Clone, Copy)]
struct Step {
    partition: usize,
    leaves: usize,
    comes: usize,
}

/// How a chain came to a member.
#[derive(Clone, Copy)]
enum Reached {
    By(Step),
    /// This member keeps one more, so the one reached may do with one less.
    Room(usize),
}

/// How often lists are stirred. Four times finds most of what eight find.
const STIRS: u32 = 4;
/// The size, members times places, up to which there is time to stir.
const STIRRED: usize = 2_000_000;

/// What a sweep over all partitions is to find.
#[derive(Clone, Copy)]
enum Sweep {
    /// Chains that take a move back.
    TakeBack,
    /// Chains that move as much as before, drawn anew each time by its number: others can be found from there.
    Stir(u32),
}

impl Placement<'_> {
    pub(super) fn economise(&mut self) {
        if self.old.iter().all(|owner| *owner == FREE) {
            return;
        }
        let mut held = vec![vec![Vec::new(); self.shape.len()]; self.width];
        for (at, owner) in self.lists.iter().enumerate() {
            held[at % self.width][*owner].push(at / self.width);
        }
        let stirs = if self.shape.len() * self.lists.len() <= STIRRED { STIRS } else { 0 };
        for stir in 0..=stirs {
            while !self.moves_least() && self.sweep(Sweep::TakeBack, &mut held) {}
            if stir == stirs || self.moves_least() {
                return;
            }
            self.sweep(Sweep::Stir(stir), &mut held);
        }
    }

    /// Whether no placement within the bounds moves less, at any n: as many moves as partitions lost owners, or as
    /// members lack of the least they must hold.
    fn moves_least(&self) -> bool {
        (0..self.width).all(|n| {
            let mut had = vec![0; self.shape.len()];
            let (mut moved, mut lost) = (0, 0);
            for (list, old) in self.lists.chunks(self.width).zip(self.old.chunks(self.width)) {
                moved += list[..=n].iter().filter(|owner| !old[..=n].contains(owner)).count();
                for owner in &old[..=n] {
                    match had.get_mut(*owner) {
                        Some(had) => *had += 1,
                        None => lost += 1,
                    }
                }
            }
            let lack: usize = self.bounds[n].iter().zip(had).map(|((least, _), had)| least.saturating_sub(had)).sum();
            moved <= lost.max(lack)
        })
    }

    /// Looks at every span of every partition in which something moved; true if any chain was taken.
    fn sweep(&mut self, sweep: Sweep, held: &mut [Vec<Vec<usize>>]) -> bool {
        let mut taken = false;
        for start in 0..self.width {
            for end in start + 1..=self.width {
                for partition in 0..self.shape.q {
                    let list = partition * self.width..(partition + 1) * self.width;
                    let (now, old) = (&self.lists[list.clone()], &self.old[list]);
                    let moved = (0..self.width).any(|n| !old[..=n].contains(&now[n]));
                    taken |= moved && self.improve(partition, start..end, sweep, held);
                }
            }
        }
        taken
    }

    /// Takes a step of `partition` over `span` if a chain makes up for it.
    fn improve(&mut self, partition: usize, span: Range<usize>, sweep: Sweep, held: &mut [Vec<Vec<usize>>]) -> bool {
        let leaves = self.lists[partition * self.width + span.start];
        let mut takers: Vec<usize> = self.successors(partition, &span).collect();
        let mut dearest = -1;
        if let Sweep::Stir(number) = sweep {
            let salt = u128::from(number) << 32 | (span.start << 16 | span.end) as u128;
            let drawn = shuffle(PartitionId(u32::try_from(partition).unwrap_or(u32::MAX)), salt);
            if drawn & 1 == 0 {
                return false;
            }
            if span.end == self.width {
                takers.push((drawn >> 1) as usize % self.shape.len());
            }
            dearest = 0;
        }
        for comes in takers {
            let step = Step { partition, leaves, comes };
            if self.price(step, &span) <= dearest
                && self.allowed(step, &span)
                && let Some(chain) = self.chain(comes, leaves, &span, &held[span.start])
            {
                self.take(step, &span, held);
                chain.into_iter().for_each(|step| self.take(step, &span, held));
                return true;
            }
        }
        false
    }

    /// Who may follow at the start of `span` without a copy: who stands at its end, else former owners.
    fn successors(&self, partition: usize, span: &Range<usize>) -> impl Iterator<Item = usize> {
        let first = partition * self.width;
        let to_the_end = span.end == self.width;
        let former = if to_the_end { &self.old[first..][..self.width] } else { &[] };
        let next = if to_the_end { None } else { Some(self.lists[first + span.end]) };
        former.iter().copied().filter(|owner| *owner != FREE).chain(next)
    }

    /// Moves more, or fewer, over all n of the span.
    fn price(&self, step: Step, span: &Range<usize>) -> i64 {
        let old = &self.old[step.partition * self.width..][..self.width];
        let moved = |owner: usize| span.clone().filter(|n| !old[..=*n].contains(&owner)).count() as i64;
        moved(step.comes) - moved(step.leaves)
    }

    /// Whether a step keeps the hard rules.
    fn allowed(&self, step: Step, span: &Range<usize>) -> bool {
        let list = &self.lists[step.partition * self.width..][..self.width];
        let zone = |member: usize| self.shape.zones[member];
        let listed = if span.end == self.width { list } else { &list[..span.end] };
        !listed.contains(&step.comes)
            && (zone(step.comes) == zone(step.leaves)
                || span.clone().all(|n| {
                    list[..=n].iter().filter(|owner| zone(**owner) == zone(step.comes)).count() < self.zone_caps[n]
                }))
    }

    fn take(&mut self, step: Step, span: &Range<usize>, held: &mut [Vec<Vec<usize>>]) {
        let to_the_end = span.end == self.width;
        let mut put = |position: usize, from: usize, to: usize| {
            self.put(step.partition, position, to);
            held[position][from].retain(|partition| *partition != step.partition);
            held[position][to].push(step.partition);
        };
        put(span.start, step.leaves, step.comes);
        if !to_the_end {
            put(span.end, step.comes, step.leaves);
        }
    }

    /// The steps by which `from`, who has one too many over the span, passes it on to `to`, who has one too few.
    fn chain(&self, from: usize, to: usize, span: &Range<usize>, held: &[Vec<usize>]) -> Option<Vec<Step>> {
        let mut reached: Vec<Option<Reached>> = vec![None; self.shape.len()];
        let mut unreached: Vec<usize> = (0..self.shape.len()).filter(|member| *member != from).collect();
        let mut queue = VecDeque::from([from]);
        let mut room = true;
        while let Some(leaves) = queue.pop_front() {
            if room && self.bounds_leave(leaves, span, 1) {
                room = false;
                for member in unreached.extract_if(.., |member| self.bounds_leave(*member, span, -1)) {
                    reached[member] = Some(Reached::Room(leaves));
                    queue.push_back(member);
                }
            }
            for partition in &held[leaves] {
                if reached[to].is_some() {
                    return Some(self.steps(from, to, &reached));
                }
                let step = |comes: usize| Step { partition: *partition, leaves, comes };
                let passable = |comes: usize| {
                    let step = step(comes);
                    self.price(step, span) <= 0 && self.allowed(step, span)
                };
                // A former owner's place can only go to a former owner for nothing.
                let moved =
                    span.end == self.width && !self.old[partition * self.width..][..=span.start].contains(&leaves);
                if moved {
                    for member in unreached.extract_if(.., |member| passable(*member)) {
                        reached[member] = Some(Reached::By(step(member)));
                        queue.push_back(member);
                    }
                } else {
                    for member in self.successors(*partition, span) {
                        if member != from && reached[member].is_none() && passable(member) {
                            reached[member] = Some(Reached::By(step(member)));
                            unreached.retain(|other| *other != member);
                            queue.push_back(member);
                        }
                    }
                }
            }
        }
        reached[to].is_some().then(|| self.steps(from, to, &reached))
    }

    fn steps(&self, from: usize, to: usize, reached: &[Option<Reached>]) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut at = to;
        while at != from
            && let Some(how) = reached[at]
        {
            at = match how {
                Reached::By(step) => {
                    steps.push(step);
                    step.leaves
                }
                Reached::Room(keeper) => keeper,
            };
        }
        steps
    }

    /// Whether a member's loads stay within their bounds over the span when they change by `change`.
    fn bounds_leave(&self, member: usize, span: &Range<usize>, change: i64) -> bool {
        span.clone().all(|n| {
            let (least, most) = self.bounds[n][member];
            (least as i64..=most as i64).contains(&(self.loads[n][member] as i64 + change))
        })
    }
}

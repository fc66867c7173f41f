//! The one tally: counts every quorum, of reads, of writes and of repairs.
//!
//! A vote is recorded per member and counts in each group the member belongs to (for a write: only in the layouts the
//! acknowledgement was for). A requirement is *met* once every group has reached its need, *hopeless* once some group
//! cannot any more. Votes only ever get better (waiting, failed, yes, flushed), so what is met stays met, and what is
//! met is never hopeless.

use serde::{Deserialize, Serialize};

use super::{Group, Requirement};
use crate::types::StoreId;

/// How a quorum was met, or how far it got.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counted {
    /// Replicas that counted when it was decided.
    pub answered: u32,
    /// Replicas needed.
    pub needed: u32,
    /// Replicas there are.
    pub n: u32,
    /// The layout it was counted in.
    pub layout: u64,
    /// How many fallbacks stood in for owners when it was decided: their hints are among what counted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sloppy: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Where a tally stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// More votes may decide it.
    Open,
    /// Every group has what it needs.
    Met,
    /// Some group can never have what it needs, unless a member that failed votes after all.
    Hopeless,
}

/// What a member has said, from worst to best; "failed" is better than nothing in that it is known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Vote {
    Waiting,
    Failed,
    Yes,
    Flushed,
}

/// Counts votes against a [`Requirement`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Tally {
    requirement: Requirement,
    /// One vote per group and member, in the requirement's order: all groups' in one list.
    votes: Vec<Vote>,
    durable: usize,
}

impl Tally {
    /// Nobody has voted.
    #[must_use]
    pub fn new(requirement: Requirement) -> Self {
        Self::durable(requirement, 0)
    }

    /// Nobody has voted; of the votes that count in a layout at least `durable` have to be flushed (as many as are
    /// needed there, where that is less).
    #[must_use]
    pub fn durable(requirement: Requirement, durable: usize) -> Self {
        let votes = vec![Vote::Waiting; requirement.groups().iter().map(|group| group.members.len()).sum()];
        Self { requirement, votes, durable }
    }

    /// The same count against another requirement: what was said for a layout stands for that layout, and for no other;
    /// who failed may be asked again.
    #[must_use]
    pub fn carried_into(&self, requirement: Requirement) -> Self {
        let mut carried = Self::durable(requirement, self.durable);
        let said = |layout: u64, member: StoreId| {
            let groups = self.groups().filter(|(group, _)| group.layout == layout);
            let mut votes = groups.flat_map(|(group, votes)| group.members.iter().zip(votes));
            let vote = votes.find(|(id, _)| **id == member).map(|(_, vote)| *vote);
            vote.filter(|vote| *vote >= Vote::Yes).unwrap_or(Vote::Waiting)
        };
        let groups = carried.requirement.groups().iter();
        carried.votes = groups.flat_map(|group| group.members.iter().map(|id| said(group.layout, *id))).collect();
        carried
    }

    /// What is counted against.
    #[must_use]
    pub fn requirement(&self) -> &Requirement {
        &self.requirement
    }

    /// `member` votes, in every layout it counts in.
    pub fn yes(&mut self, member: StoreId) {
        self.raise(member, Vote::Yes, |_| true);
    }

    /// `member` acknowledges for these layouts alone, having flushed or not.
    pub fn acknowledged(&mut self, member: StoreId, layouts: &[u64], flushed: bool) {
        let vote = if flushed { Vote::Flushed } else { Vote::Yes };
        self.raise(member, vote, |layout| layouts.contains(&layout));
    }

    /// `member` will not vote: refused, failed, not in time. Takes back no vote that it has given.
    pub fn failed(&mut self, member: StoreId) {
        self.raise(member, Vote::Failed, |_| true);
    }

    fn raise(&mut self, member: StoreId, vote: Vote, counts_in: impl Fn(u64) -> bool) {
        let places =
            self.requirement.groups().iter().flat_map(|group| group.members.iter().map(|id| (group.layout, *id)));
        for ((layout, id), old) in places.zip(&mut self.votes) {
            if id == member && counts_in(layout) {
                *old = vote.max(*old);
            }
        }
    }

    /// Whether every group has what it needs.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.groups().all(|(group, votes)| count(votes, Vote::Yes) >= group.need)
            && (self.durable == 0 || self.layouts().all(|layout| self.flushed(layout) >= self.flushes_needed(layout)))
    }

    /// Whether some group cannot be met by the votes that are still out.
    #[must_use]
    pub fn is_hopeless(&self) -> bool {
        let possible = |votes: &[Vote]| votes.iter().filter(|vote| **vote != Vote::Failed).count();
        let out = |votes: &[Vote]| votes.iter().filter(|vote| **vote == Vote::Waiting).count();
        self.groups().any(|(group, votes)| possible(votes) < group.need)
            || self.durable > 0
                && self.layouts().any(|layout| {
                    let out: usize = self.groups_in(layout).map(|(_, votes)| out(votes)).sum();
                    self.flushed(layout) + out < self.flushes_needed(layout)
                })
    }

    /// Where it stands.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match (self.is_met(), self.is_hopeless()) {
            (true, _) => Verdict::Met,
            (false, true) => Verdict::Hopeless,
            (false, false) => Verdict::Open,
        }
    }

    /// Whether `member` has voted in every layout it counts in.
    #[must_use]
    pub fn has_all_of(&self, member: StoreId) -> bool {
        let mut own =
            self.groups().flat_map(|(group, votes)| group.members.iter().zip(votes)).filter(|(id, _)| **id == member);
        own.all(|(_, vote)| *vote >= Vote::Yes)
    }

    /// Whether asking `member` would help: some group it belongs to, where it has said nothing yet, needs more votes
    /// than it has and than `pending` members may still bring.
    #[must_use]
    pub fn wants(&self, member: StoreId, pending: impl Fn(StoreId) -> bool) -> bool {
        self.groups().any(|(group, votes)| {
            let mut open = false;
            let mut coming = 0;
            for (id, vote) in group.members.iter().zip(votes) {
                if *vote >= Vote::Yes || *vote == Vote::Waiting && pending(*id) {
                    coming += 1;
                }
                open |= *id == member && *vote == Vote::Waiting && !pending(*id);
            }
            open && coming < group.need
        })
    }

    /// The figures to report: of the newest layout; where that has what it needs and another has not, of that one.
    #[must_use]
    pub fn counted(&self) -> Counted {
        let short = |layout: &u64| self.groups_in(*layout).any(|(group, votes)| count(votes, Vote::Yes) < group.need);
        let Some(layout) = self.layouts().find(short).or_else(|| self.layouts().next()) else {
            return Counted::default();
        };
        let (mut answered, mut needed, mut n) = (0, 0, 0);
        for (group, votes) in self.groups_in(layout) {
            answered += count(votes, Vote::Yes);
            needed += group.need;
            n += group.members.len();
        }
        let figure = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Counted { answered: figure(answered), needed: figure(needed), n: figure(n), layout, sloppy: 0 }
    }

    /// Each group with its members' votes.
    fn groups(&self) -> impl Iterator<Item = (&Group, &[Vote])> {
        let mut rest = &self.votes[..];
        self.requirement.groups().iter().map(move |group| {
            let (votes, others) = rest.split_at(group.members.len());
            rest = others;
            (group, votes)
        })
    }

    fn groups_in(&self, layout: u64) -> impl Iterator<Item = (&Group, &[Vote])> {
        self.groups().filter(move |(group, _)| group.layout == layout)
    }

    /// The layouts, the newest first: groups of one layout stand side by side.
    fn layouts(&self) -> impl Iterator<Item = u64> + '_ {
        let groups = self.requirement.groups();
        let first = |at: &usize| *at == 0 || groups[at - 1].layout != groups[*at].layout;
        (0..groups.len()).filter(first).map(|at| groups[at].layout)
    }

    fn flushed(&self, layout: u64) -> usize {
        self.groups_in(layout).map(|(_, votes)| count(votes, Vote::Flushed)).sum()
    }

    fn flushes_needed(&self, layout: u64) -> usize {
        self.durable.min(self.groups_in(layout).map(|(group, _)| group.need).sum())
    }
}

/// Votes at least as good as `least`.
fn count(votes: &[Vote], least: Vote) -> usize {
    votes.iter().filter(|vote| **vote >= least).count()
}

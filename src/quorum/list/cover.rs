//! Who is asked for which partitions.

use std::collections::BTreeMap;

use crate::quorum::{NoVote, Requirement};
use crate::types::{PartitionId, StoreId};

/// A partition that too few could answer for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gap {
    /// Which.
    pub partition: PartitionId,
    /// Who counts there, and why they did not answer; those that did or could are left out.
    pub silent: Vec<(StoreId, NoVote)>,
}

#[derive(Clone, Debug)]
struct Row {
    requirement: Requirement,
    asked: Vec<StoreId>,
    failed: Vec<(StoreId, NoVote)>,
    is_gap: bool,
}

impl Row {
    /// Whether one more answer is of use, and this would be it.
    fn wants(&self, store: StoreId) -> bool {
        let open = !self.asked.contains(&store) && !self.failed.iter().any(|(failed, _)| *failed == store);
        open && self.requirement.groups().iter().any(|group| {
            group.members.contains(&store)
                && group.members.iter().filter(|member| self.asked.contains(member)).count() < group.need
        })
    }

    fn is_met(&self) -> bool {
        self.requirement
            .groups()
            .iter()
            .all(|group| group.members.iter().filter(|member| self.asked.contains(member)).count() >= group.need)
    }
}

/// Which stores are asked for which partitions: as few as cover them, this node first where it is one of them.
#[derive(Clone, Debug)]
pub struct Cover {
    me: StoreId,
    rows: Vec<Row>,
}

impl Cover {
    /// A cover of the partitions 0, 1, ..., each with who has to answer for it.
    #[must_use]
    pub fn new(me: StoreId, requirements: impl IntoIterator<Item = Requirement>) -> Self {
        let row = |requirement| Row { requirement, asked: Vec::new(), failed: Vec::new(), is_gap: false };
        Self { me, rows: requirements.into_iter().map(row).collect() }
    }

    /// Says who else is to be asked for these partitions, each store with its own; who counts as asked from here on. `up`
    /// tells who can be asked at all; of those that cover as many, the one of the least `rank` is taken. A partition for
    /// which too few are left becomes a gap, and nobody is asked for it any more.
    ///
    /// # Panics
    /// If there is no such partition.
    pub fn assign<R: Ord>(
        &mut self,
        partitions: &[PartitionId],
        up: impl Fn(StoreId) -> bool,
        rank: impl Fn(StoreId) -> R,
    ) -> Vec<(StoreId, Vec<PartitionId>)> {
        let mut left: Vec<PartitionId> = Vec::with_capacity(partitions.len());
        for &partition in partitions {
            let row = &mut self.rows[partition.0 as usize];
            for &member in row.requirement.members() {
                let open = !row.asked.contains(&member) && !row.failed.iter().any(|(failed, _)| *failed == member);
                if open && !up(member) {
                    row.failed.push((member, NoVote::Unreachable));
                }
            }
            let failed = |store: &StoreId| row.failed.iter().any(|(failed, _)| failed == store);
            let short = row
                .requirement
                .groups()
                .iter()
                .any(|group| group.members.iter().filter(|member| !failed(member)).count() < group.need);
            row.is_gap |= short;
            if !row.is_gap {
                left.push(partition);
            }
        }
        let mut asked: BTreeMap<StoreId, Vec<PartitionId>> = BTreeMap::new();
        let mut next = Some(self.me);
        while let Some(store) = next {
            let wants = |partition: &&PartitionId| self.rows[partition.0 as usize].wants(store);
            let its: Vec<PartitionId> = left.iter().filter(wants).copied().collect();
            its.iter().for_each(|partition| self.rows[partition.0 as usize].asked.push(store));
            if !its.is_empty() {
                asked.insert(store, its);
            }
            left.retain(|partition| !self.rows[partition.0 as usize].is_met());
            next = self.widest(&left, &rank);
        }
        asked.into_iter().collect()
    }

    /// Who could answer for most of these.
    fn widest<R: Ord>(&self, left: &[PartitionId], rank: impl Fn(StoreId) -> R) -> Option<StoreId> {
        let mut wide: BTreeMap<StoreId, usize> = BTreeMap::new();
        for row in left.iter().map(|partition| &self.rows[partition.0 as usize]) {
            for &member in row.requirement.members().iter().filter(|member| row.wants(**member)) {
                *wide.entry(member).or_default() += 1;
            }
        }
        wide.into_iter().min_by_key(|(store, count)| (std::cmp::Reverse(*count), rank(*store), *store)).map(|(s, _)| s)
    }

    /// A store that was asked does not answer for a partition.
    ///
    /// # Panics
    /// If there is no such partition.
    pub fn fail(&mut self, partition: PartitionId, store: StoreId, why: NoVote) {
        let row = &mut self.rows[partition.0 as usize];
        row.asked.retain(|asked| *asked != store);
        if !row.failed.iter().any(|(failed, _)| *failed == store) {
            row.failed.push((store, why));
        }
    }

    /// Whether too few answer for a partition.
    ///
    /// # Panics
    /// If there is no such partition.
    #[must_use]
    pub fn is_gap(&self, partition: PartitionId) -> bool {
        self.rows[partition.0 as usize].is_gap
    }

    /// The partitions that too few answer for.
    #[must_use]
    pub fn gaps(&self) -> Vec<Gap> {
        let gaps = self.rows.iter().zip(0..).filter(|(row, _)| row.is_gap);
        gaps.map(|(row, at)| Gap { partition: PartitionId(at), silent: row.failed.clone() }).collect()
    }
}

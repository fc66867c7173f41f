//! What a comparison with another owner reads here: the stored leaves of a partition, and its keys by leaf.
//!
//! Both are read by the storage thread that owns the partition, between two batches: what it sees is whole.

use std::ops::Bound::{Excluded, Included, Unbounded};

use super::class::front_of;
use super::place::{Place, leaf_key, name_of, range_of};
use super::shard::{Shard, index_digest};
use super::{Fault, Replica};
use crate::merkle::{Entry, MAIN, Read, Terms, Tree, Wanted, first_hour};
use crate::storage::Keyspace;
use crate::types::PartitionId;

impl Replica {
    /// The first hour that counts in a comparison, by this node's clock.
    #[must_use]
    pub fn first_hour(&self) -> u32 {
        first_hour(self.now())
    }

    /// The tree of a partition; none where not everything that this node owns of it is here.
    pub async fn tree(&self, partition: PartitionId, terms: &Terms) -> Result<Option<Tree>, Fault> {
        if !self.tells_of(partition) {
            return Ok(None);
        }
        let terms = terms.clone();
        self.run(partition, move |shard| shard.tree(partition, &terms)).await?.map(Some)
    }

    /// What a step of a comparison wants of a partition; none as [`Replica::tree`].
    pub async fn survey(&self, wanted: Wanted, terms: &Terms) -> Result<Option<Read>, Fault> {
        if !self.tells_of(wanted.partition) {
            return Ok(None);
        }
        let terms = terms.clone();
        self.run(wanted.partition, move |shard| shard.survey(&wanted, &terms)).await?.map(Some)
    }

    /// Whether this node knows who it is, and has merged every other owner's state of a partition.
    fn tells_of(&self, partition: PartitionId) -> bool {
        self.inner.identity.may_vote() && self.inner.health.is_synced(partition)
    }
}

impl Shard {
    fn tree(&self, partition: PartitionId, terms: &Terms) -> Result<Tree, Fault> {
        let mut tree = Tree::new();
        for class in &terms.classes {
            let from = leaf_key(partition, *class, terms.first, 0);
            let to = leaf_key(partition, *class, MAIN, u8::MAX);
            for leaf in self.storage.scan(Keyspace::Merkle, Included(&from[..]), Included(&to[..])) {
                let (key, sum) = leaf.map_err(Fault::from)?;
                let (Some(hour), Some(leaf)) = (key.get(6..10), key.get(10)) else { continue };
                let hour = hour.try_into().map_or(MAIN, u32::from_be_bytes);
                let sum = sum.as_ref().try_into().map_or(0, u128::from_le_bytes);
                tree.add(terms, *class, hour, *leaf, sum);
            }
        }
        Ok(tree)
    }

    fn survey(&self, wanted: &Wanted, terms: &Terms) -> Result<Read, Fault> {
        let tree = wanted.tree.then(|| self.tree(wanted.partition, terms)).transpose()?;
        if wanted.nodes.is_empty() {
            return Ok(Read { tree, survey: None });
        }
        let mut survey = wanted.survey(terms);
        let (grid, now) = (self.grid(), self.env.clock.now());
        let (first, end) = range_of(wanted.partition);
        let end = end.as_ref().map_or(Unbounded, |end| Excluded(&end[..]));
        for entry in self.storage.scan(Keyspace::Index, Included(&first[..]), end) {
            let (stored, entry) = entry.map_err(Fault::from)?;
            let (Some((digest, hour)), Some((id, generation))) = (index_digest(&entry), name_of(&stored)) else {
                continue;
            };
            let leaf = Place::of(grid, &id, generation).leaf;
            if survey.wants(leaf) {
                let class = self.classes.of(&front_of(&stored));
                let is_fresh = self.was_written_lately(now, &stored);
                survey.offer(&Entry { stored, digest, leaf, class, hour, is_fresh });
            }
        }
        Ok(Read { tree, survey: Some(survey) })
    }
}

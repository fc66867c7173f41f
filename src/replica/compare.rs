//! What a comparison with another owner reads here: the stored leaves of a partition, and its keys by leaf.
//!
//! Both are read by the storage thread that owns the partition, between two batches: each key is seen as one batch left it.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};

use bytes::Bytes;
use tracing::warn;

use super::class::front_of;
use super::forget::Scanned;
use super::index::index_digest;
use super::place::{Place, leaf_key, name_of, range_of};
use super::shard::Shard;
use super::{Fault, Replica};
use crate::merkle::{Entry, MAIN, Read, Survey, Terms, Tree, Wanted, first_hour};
use crate::storage::Keyspace;
use crate::types::PartitionId;

/// Trees read in one go.
const TREES: usize = 16;
/// Keys surveyed in one go.
const CHUNK: usize = 4096;

impl Replica {
    /// The first hour that counts in a comparison, by this node's clock.
    #[must_use]
    pub fn first_hour(&self) -> u32 {
        first_hour(self.now())
    }

    /// The trees of partitions, but of those of which not everything that this node owns is here, or can be read.
    pub async fn trees(&self, partitions: &[PartitionId], terms: &Terms) -> Result<Vec<(PartitionId, Tree)>, Fault> {
        let mut by_thread: BTreeMap<u32, Vec<PartitionId>> = BTreeMap::new();
        let threads = u32::try_from(self.inner.queues.len()).unwrap_or(1).max(1);
        for partition in partitions.iter().filter(|partition| self.tells_of(**partition)) {
            by_thread.entry(partition.0 % threads).or_default().push(*partition);
        }
        let mut trees = Vec::with_capacity(partitions.len());
        for some in by_thread.values().flat_map(|its| its.chunks(TREES)) {
            let (asked, terms) = (some.to_vec(), terms.clone());
            let read = move |shard: &Shard| -> Vec<(PartitionId, Tree)> {
                asked.into_iter().filter_map(|at| Some((at, shard.tree_or_warn(at, &terms)?))).collect()
            };
            trees.extend(self.run(some[0], read).await?);
        }
        trees.sort_unstable_by_key(|(partition, _)| *partition);
        Ok(trees)
    }

    /// What a step of a comparison wants of a partition; none where not everything that this node owns of it is here. In
    /// chunks: clients of its storage thread need not wait for all of it.
    pub async fn survey(&self, wanted: Wanted, terms: &Terms) -> Result<Option<Read>, Fault> {
        let partition = wanted.partition;
        if !self.tells_of(partition) {
            return Ok(None);
        }
        let mut read = Read::default();
        if wanted.tree {
            let terms = terms.clone();
            read.tree = Some(self.run(partition, move |shard| shard.tree(partition, &terms)).await??);
        }
        if !wanted.nodes.is_empty() {
            let (mut survey, mut after) = (wanted.survey(terms), Some(Bytes::new()));
            while let Some(from) = after {
                (survey, after) = self.run(partition, move |shard| shard.survey(partition, survey, &from)).await??;
            }
            read.survey = Some(survey);
        }
        Ok(Some(read))
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

    fn tree_or_warn(&self, partition: PartitionId, terms: &Terms) -> Option<Tree> {
        self.tree(partition, terms)
            .inspect_err(|fault| warn!(%partition, %fault, "what is held cannot be compared"))
            .ok()
    }

    /// Offers a chunk of a partition's keys; gives where to go on.
    fn survey(
        &self,
        partition: PartitionId,
        mut survey: Survey,
        after: &Bytes,
    ) -> Result<(Survey, Option<Bytes>), Fault> {
        let (grid, now) = (self.grid(), self.env.clock.now());
        let (first, end) = range_of(partition);
        let from = if after.is_empty() { Included(&first[..]) } else { Excluded(&after[..]) };
        let end = end.as_ref().map_or(Unbounded, |end| Excluded(&end[..]));
        let mut scanned = Scanned::default();
        for entry in self.storage.scan(Keyspace::Index, from, end).take(CHUNK) {
            let (stored, entry) = entry.map_err(Fault::from)?;
            scanned.note(stored.clone());
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
        Ok((survey, scanned.next(CHUNK)))
    }
}

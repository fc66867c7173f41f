//! What this node knows of layouts: an immutable snapshot.

use std::sync::Arc;

use crate::ring::judge::{Named, Refusal, Unfit};
use crate::ring::sync::Merged;
use crate::ring::{BucketSettings, Chain, Layout, Trackers, View};
use crate::types::{Bucket, PartitionId, StoreId};

/// What this node knows of layouts; all of it flushed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Known {
    /// The layouts.
    pub chain: Arc<Chain>,
    /// How far everybody follows them, as far as was heard.
    pub trackers: Arc<Trackers>,
    /// What was merged here for the layouts that are not complete yet.
    pub merged: Arc<Merged>,
    /// This node's store.
    pub me: StoreId,
    /// The layout that reads use.
    read: u64,
}

impl Known {
    pub(super) fn new(chain: Arc<Chain>, trackers: Arc<Trackers>, merged: Arc<Merged>, me: StoreId) -> Self {
        let read = View { chain: &chain, trackers: &trackers, me }.read_layout().version();
        Self { chain, trackers, merged, me, read }
    }

    /// The questions that `ring` answers.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View { chain: &self.chain, trackers: &self.trackers, me: self.me }
    }

    /// The newest layout.
    #[must_use]
    pub fn newest(&self) -> &Layout {
        self.chain.newest()
    }

    /// The version of the layout that reads use.
    #[must_use]
    pub const fn read_version(&self) -> u64 {
        self.read
    }

    /// Whether requests are routed as by `other`: the same layouts are live, and reads use the same one.
    #[must_use]
    pub fn routes_like(&self, other: &Self) -> bool {
        let span = |known: &Self| (known.chain.live_from(), known.newest().version(), known.read);
        span(self) == span(other)
    }

    /// Whether this node's store is a member of the newest layout.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.newest().member_by_store(self.me).is_some()
    }

    /// The one layout that is live, if both sides know no other: then nothing has to be compared, which is nearly
    /// always.
    #[must_use]
    pub fn agreed(&self, named: Named<'_>) -> Option<&Layout> {
        let newest = self.newest();
        let alone = self.chain.live_from() == newest.version()
            && named.newest == newest.version()
            && named.counted == [newest.version()]
            && newest.member_by_store(named.sender).is_some();
        alone.then_some(newest)
    }

    fn owns(&self, layout: &Layout, partition: PartitionId, settings: &BucketSettings) -> bool {
        layout.member_by_store(self.me).is_some_and(|me| layout.owns(me, partition, settings))
    }

    /// Whether a write is accepted, and in which layouts the acknowledgement counts.
    pub fn judge_write(&self, named: Named<'_>, partition: PartitionId, bucket: &Bucket) -> Result<Vec<u64>, Refusal> {
        match self.agreed(named) {
            Some(layout) if self.owns(layout, partition, layout.settings(bucket)) => Ok(vec![layout.version()]),
            _ => self.view().judge_write(named, partition, Some(bucket)),
        }
    }

    /// Whether this node keeps a hint for an owner, and in which layouts it counts in that one's place.
    pub fn judge_hint(
        &self,
        named: Named<'_>,
        partition: PartitionId,
        bucket: &Bucket,
        owner: StoreId,
    ) -> Result<Vec<u64>, Refusal> {
        self.view().judge_hint(named, partition, Some(bucket), owner)
    }

    /// Whether a read is served.
    pub fn judge_read(&self, named: Named<'_>, partition: PartitionId, bucket: &Bucket) -> Result<u64, Refusal> {
        match self.agreed(named) {
            Some(layout) if self.owns(layout, partition, layout.settings(bucket)) => Ok(layout.version()),
            _ if named.counted.len() != 1 => Err(Refusal { why: Unfit::NotLive, live: self.live() }),
            _ => self.view().judge_read(named, &self.merged, partition, Some(bucket)),
        }
    }

    /// Whether this node is an owner of the object that holds everything, in some live layout: then it coordinates.
    #[must_use]
    pub fn coordinates(&self, partition: PartitionId, bucket: &Bucket) -> bool {
        let live = self.chain.live();
        if let [only] = live {
            return self.owns(only, partition, only.settings(bucket));
        }
        let holds = |layout: &Layout| self.view().holds(&self.merged, layout.version(), partition, Some(bucket));
        self.is_member() && live.iter().any(holds)
    }

    /// The versions of the live layouts, the oldest first.
    #[must_use]
    pub fn live(&self) -> Vec<u64> {
        self.chain.live().iter().map(Layout::version).collect()
    }
}

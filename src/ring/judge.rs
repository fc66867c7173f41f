//! A replica's judgement of a request, by the layouts it names.
//!
//! Every request names the newest layout its sender knows and those in which its quorum is counted. A write has to be
//! counted in the newest that is known here, whatever its sender has heard since it began: accepted for an older one
//! alone it could be acknowledged while who owns the object next is told nothing of it. A refusal is no vote; it carries
//! what is live here, and the sender goes on with the same dot. An acknowledgement counts only in the layouts that the
//! request named *and* that were live here when it was accepted: for a later one the sender asks again, also those that
//! acknowledged before, since between the two an owner may have lost the partition, deleted it and got it back empty.

use super::live::{View, holders, settings_of};
use super::sync::Merged;
use crate::types::{Bucket, PartitionId, StoreId};

/// What a request says of layouts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Named<'a> {
    /// The sender's store.
    pub sender: StoreId,
    /// The newest layout the sender knows.
    pub newest: u64,
    /// The layouts in which the sender counts the answer.
    pub counted: &'a [u64],
}

/// Why a request is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unfit {
    /// The sender's store has ended, for good.
    Ended,
    /// The sender does not know the newest layout: it counts too little.
    Behind,
    /// None of the layouts is live here. If the sender's newest is unknown here, this node is the one to catch up.
    NotLive,
    /// This node owns the object in none of the layouts.
    NotOwner,
    /// This node is no fallback of the object, so it keeps no hint of it for anybody.
    NotFallback,
    /// This node is an owner, but does not hold everything yet.
    Syncing,
    /// This node has sync_acked a later layout: writes may already leave this one out.
    Superseded,
}

/// A refusal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Why.
    pub why: Unfit,
    /// What is live here.
    pub live: Vec<u64>,
}

impl View<'_> {
    /// Whether a write is accepted, and in which layouts the acknowledgement counts.
    pub fn judge_write(
        &self,
        named: Named<'_>,
        partition: PartitionId,
        bucket: Option<&Bucket>,
    ) -> Result<Vec<u64>, Refusal> {
        let mut live = self.judge_counted(named)?;
        live.retain(|version| {
            let layout = self.chain.get(*version);
            layout.is_some_and(|layout| holders(layout, partition, bucket).contains(self.me))
        });
        if live.is_empty() { Err(self.refused(Unfit::NotOwner)) } else { Ok(live) }
    }

    /// Whether a hint for an owner is taken, that counts in its place, and in which layouts: those in which the owner is
    /// one. It has to be counted in the newest layout that is known here, as any write. Only [`Chain::fallbacks`] keep any,
    /// so that it is known where they lie; whoever owns the object in a live layout is written to itself.
    ///
    /// [`Chain::fallbacks`]: super::Chain::fallbacks
    ///
    /// # Panics
    /// If the grid has no such partition.
    pub fn judge_hint(
        &self,
        named: Named<'_>,
        partition: PartitionId,
        bucket: Option<&Bucket>,
        owner: StoreId,
    ) -> Result<Vec<u64>, Refusal> {
        let mut live = self.judge_counted(named)?;
        let settings = settings_of(self.chain.newest(), bucket);
        let stands = self.chain.fallback_stores(partition, settings).any(|(_, store)| store == self.me);
        let owns = self.chain.live().iter().any(|layout| holders(layout, partition, bucket).contains(self.me));
        if !stands || owns {
            return Err(self.refused(Unfit::NotFallback));
        }
        live.retain(|version| {
            let layout = self.chain.get(*version);
            layout.is_some_and(|layout| holders(layout, partition, bucket).contains(owner))
        });
        if live.is_empty() { Err(self.refused(Unfit::NotOwner)) } else { Ok(live) }
    }

    /// Whether a read that is counted in one layout is served.
    ///
    /// # Panics
    /// If it is counted in several.
    pub fn judge_read(
        &self,
        named: Named<'_>,
        merged: &Merged,
        partition: PartitionId,
        bucket: Option<&Bucket>,
    ) -> Result<u64, Refusal> {
        assert_eq!(named.counted.len(), 1, "a read is counted in one layout");
        let version = self.judge_sender(named)?[0];
        if version < self.own().sync_ack {
            return Err(self.refused(Unfit::Superseded));
        }
        let owner = self.chain.get(version).is_some_and(|layout| holders(layout, partition, bucket).contains(self.me));
        match (owner, self.holds(merged, version, partition, bucket)) {
            (false, _) => Err(self.refused(Unfit::NotOwner)),
            (true, false) => Err(self.refused(Unfit::Syncing)),
            (true, true) => Ok(version),
        }
    }

    /// The named layouts that are live here.
    fn judge_sender(&self, named: Named<'_>) -> Result<Vec<u64>, Refusal> {
        if self.chain.ended().contains(&named.sender) {
            return Err(self.refused(Unfit::Ended));
        }
        if named.newest < self.chain.newest().version() {
            return Err(self.refused(Unfit::Behind));
        }
        let live: Vec<u64> = named.counted.iter().copied().filter(|version| self.chain.is_live(*version)).collect();
        if live.is_empty() { Err(self.refused(Unfit::NotLive)) } else { Ok(live) }
    }

    /// The same for what is written, which has to be counted in the newest layout.
    fn judge_counted(&self, named: Named<'_>) -> Result<Vec<u64>, Refusal> {
        let live = self.judge_sender(named)?;
        if !named.counted.contains(&self.chain.newest().version()) {
            // The sender knows the newest layout by now, but began before it did, and counts without it.
            return Err(self.refused(Unfit::Behind));
        }
        Ok(live)
    }

    /// What is said to one who would copy from here by layouts that are past: who gave a partition up may hold nothing of
    /// it.
    #[must_use]
    pub fn behind(&self) -> Refusal {
        self.refused(Unfit::Behind)
    }

    fn refused(&self, why: Unfit) -> Refusal {
        Refusal { why, live: self.chain.live().iter().map(super::Layout::version).collect() }
    }
}

#[cfg(test)]
mod tests;

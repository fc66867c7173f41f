//! What a node says of the deletions that it collects.

use std::collections::BTreeMap;

use super::Node;
use crate::kv::{HolderUp, TombstoneAdmin, TombstonesView};
use crate::repair::Waits;
use crate::types::StoreId;

impl TombstoneAdmin for Node {
    fn tombstones_view(&self) -> TombstonesView {
        let metrics = &self.inner.metrics.collect;
        let node = self.inner.config.node.name.clone();
        let Some(reaper) = self.inner.workers.get().map(|workers| &workers.reaper) else {
            return TombstonesView { node, ..TombstonesView::default() };
        };
        let waits = reaper.waits();
        let sum = |of: fn(&Waits) -> u64| waits.values().map(of).sum();
        let mut holders: BTreeMap<StoreId, HolderUp> = BTreeMap::new();
        for one in waits.values() {
            let Some(held_up) = &one.held_up else { continue };
            let holder = holders.entry(held_up.by).or_insert_with(|| HolderUp {
                node: self.name_of(held_up.by),
                store: held_up.by.to_string(),
                why: held_up.why.clone(),
                ..HolderUp::default()
            });
            holder.partitions += 1;
            holder.waiting += one.deletions;
        }
        TombstonesView {
            node,
            waiting: sum(|waits| waits.deletions),
            ripe: sum(|waits| waits.ripe),
            partitions: waits.values().filter(|waits| waits.deletions > 0).count() as u64,
            linger_s: reaper.linger().as_secs(),
            collected: metrics.dropped.get(),
            rounds: metrics.rounds.get(),
            held_up_by: holders.into_values().collect(),
        }
    }
}

//! What a node says of its hints.

use std::time::Duration;

use super::Node;
use crate::env::BoxFuture;
use crate::kv::{HintAdmin, HintTarget, HintsLeft, HintsView, HintsWaited, date};
use crate::types::{StoreId, Wall};

impl HintAdmin for Node {
    fn hints_view(&self) -> HintsView {
        let (book, metrics) = (self.inner.replica.hints(), &self.inner.metrics.hints);
        let working = self.hints().map(|hints| hints.now()).unwrap_or_default();
        let target = |(store, waiting): (StoreId, crate::replica::Waiting)| {
            let replaying = working.get(&store).cloned().unwrap_or_default();
            HintTarget {
                node: self.name_of(store),
                store: store.to_string(),
                keys: waiting.keys,
                bytes: waiting.bytes,
                owed: waiting.owed,
                oldest: date::rfc3339(waiting.oldest),
                state: replaying.stage.as_str().to_owned(),
                replayed: replaying.replayed,
                error: replaying.trouble,
            }
        };
        let targets = book.targets();
        let sum = |of: fn(&crate::replica::Waiting) -> u64| targets.values().map(of).sum();
        HintsView {
            node: self.inner.config.node.name.clone(),
            keys: sum(|waiting| waiting.keys),
            bytes: sum(|waiting| waiting.bytes),
            owed: sum(|waiting| waiting.owed),
            targets: targets.clone().into_iter().map(target).collect(),
            unreadable: book.unreadable(),
            max_bytes: book.max_bytes(),
            left: metrics.left.get(),
            replayed: metrics.replayed.get(),
            dropped: metrics.all_dropped(),
            marked: book.marked().len() as u64,
        }
    }

    fn wait_for_hints(&self, patience: Duration, until: Option<Wall>) -> BoxFuture<'_, HintsWaited> {
        let until = until.unwrap_or_else(|| self.inner.env.clock.wall());
        Box::pin(async move {
            let left = crate::repair::wait_for_hints(&self.inner.env, &self.inner.replica, until, patience).await;
            HintsWaited {
                node: self.inner.config.node.name.clone(),
                until,
                done: left.is_empty(),
                left: left.into_iter().map(|(store, keys)| HintsLeft { node: self.name_of(store), keys }).collect(),
            }
        })
    }
}

impl Node {
    /// A member's name in a live layout; else its store id.
    pub(super) fn name_of(&self, store: StoreId) -> String {
        let known = self.inner.keeper.known();
        let live = known.iter().flat_map(|known| known.chain.live().iter().rev());
        let mut names = live.filter_map(|layout| Some(layout.member(layout.member_by_store(store)?).name.clone()));
        names.next().unwrap_or_else(|| store.to_string())
    }
}

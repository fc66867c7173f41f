//! The chain: the layouts a node knows, each naming its parent by hash.
//!
//! A store of this kind loses data where nodes disagree about who owns what. So there is one value per version (decided
//! among the [`Chain::deciders`], elsewhere), a node takes a layout only as the successor of one it has, and two
//! layouts of one version are an error that is said, never settled by picking one. The chain also remembers two things
//! of layouts it no longer holds: from which version on layouts are *live* for this node, and the store ids that have
//! *ended*: a store that was a member and is none in the next layout is refused for good, since whatever wakes up under
//! its name holds a state that nobody waited for.
//!
//! A chain is flushed before it is used or told: what it says must not be taken back by a crash. Its form on disk and
//! on the wire is `chain_codec`'s.

use std::collections::BTreeSet;

use bytes::Bytes;
use thiserror::Error;

use super::{BucketSettings, Layout, LayoutError, chain_codec};
use crate::types::{NodeId, StoreId};

/// The layouts a node knows. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Chain {
    /// Contiguous, the oldest first; begins with layout 1 or holds at least two, so that the newest's parent is known.
    layouts: Vec<Layout>,
    live_from: u64,
    ended: BTreeSet<StoreId>,
}

/// Why a layout or a chain is not taken.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ChainError {
    /// Two layouts of one version, or of one place: the worst that can be.
    #[error("layout {version} is another one here: two layouts were decided, or these are two clusters")]
    Fork {
        /// The version.
        version: u64,
    },
    /// It does not follow what is known.
    #[error("layout {got} does not follow layout {newest}: those between are missing")]
    Gap {
        /// The newest version known.
        newest: u64,
        /// The version offered.
        got: u64,
    },
    /// A store came back.
    #[error("layout {version} lists store {store}, which has ended: its node comes back with an empty directory")]
    Ended {
        /// The version.
        version: u64,
        /// The store.
        store: StoreId,
    },
    /// A successor changes what a successor cannot.
    #[error("layout {version} cannot follow: {why}")]
    Successor {
        /// The version.
        version: u64,
        /// What it changes.
        why: String,
    },
    /// The parts make no chain.
    #[error("unsound chain: {0}")]
    Unsound(&'static str),
    /// The bytes make no layout, or end too early.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

impl Chain {
    /// The chain of a cluster just founded.
    ///
    /// # Panics
    /// If `first` is not layout 1.
    #[must_use]
    pub fn founded(first: Layout) -> Self {
        assert_eq!(first.version(), 1, "a chain begins with layout 1");
        Self { layouts: vec![first], live_from: 1, ended: BTreeSet::new() }
    }

    /// A chain from its parts, checked whole: every link, and that nothing which has ended is listed.
    pub fn new(layouts: Vec<Layout>, live_from: u64, ended: BTreeSet<StoreId>) -> Result<Self, ChainError> {
        let mut layouts = layouts.into_iter();
        let first = layouts.next().ok_or(ChainError::Unsound("it has no layout"))?;
        let oldest = first.version();
        let mut chain = Self { layouts: vec![first], live_from: oldest, ended: BTreeSet::new() };
        for layout in layouts {
            chain.push(layout)?;
        }
        if oldest > 1 && chain.layouts.len() < 2 {
            return Err(ChainError::Unsound("the newest layout's parent is missing"));
        }
        if !(oldest..=chain.newest().version()).contains(&live_from) {
            return Err(ChainError::Unsound("the oldest live layout is not in it"));
        }
        if let Some(member) = chain.newest().members().iter().find(|member| ended.contains(&member.store)) {
            return Err(ChainError::Ended { version: chain.newest().version(), store: member.store });
        }
        if !chain.ended.is_subset(&ended) {
            return Err(ChainError::Unsound("a store that its layouts end is not among the ended"));
        }
        (chain.live_from, chain.ended) = (live_from, ended);
        Ok(chain)
    }

    /// The one encoding, for the disk and for the wire.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        chain_codec::encode(self)
    }

    /// Reads an encoding and checks all of it; refuses every byte string that [`Chain::encode`] would not have made.
    pub fn decode(bytes: &[u8]) -> Result<Self, ChainError> {
        chain_codec::decode(bytes)
    }

    /// The newest layout.
    #[must_use]
    pub fn newest(&self) -> &Layout {
        // Never empty: every way to make a chain puts one in, and compacting keeps the newest.
        &self.layouts[self.layouts.len() - 1]
    }

    /// The layouts held, the oldest first; those before [`Chain::live_from`] are kept as parents alone.
    #[must_use]
    pub fn layouts(&self) -> &[Layout] {
        &self.layouts
    }

    /// A layout by version, if it is held.
    #[must_use]
    pub fn get(&self, version: u64) -> Option<&Layout> {
        let oldest = self.layouts.first().map_or(0, Layout::version);
        self.layouts.get(usize::try_from(version.checked_sub(oldest)?).ok()?)
    }

    /// The oldest layout that is live for this node.
    #[must_use]
    pub const fn live_from(&self) -> u64 {
        self.live_from
    }

    /// The layouts that are live for this node, the oldest first: never none.
    #[must_use]
    pub fn live(&self) -> &[Layout] {
        let before = self.layouts.iter().take_while(|layout| layout.version() < self.live_from).count();
        &self.layouts[before..]
    }

    /// Whether a layout of this version is live for this node.
    #[must_use]
    pub fn is_live(&self, version: u64) -> bool {
        (self.live_from..=self.newest().version()).contains(&version)
    }

    /// Store ids that were members once and are no more: refused for good.
    #[must_use]
    pub const fn ended(&self) -> &BTreeSet<StoreId> {
        &self.ended
    }

    /// Who decides the newest layout's successor: the stores its parent had, too. A store that has only just come in
    /// has not shown yet that it keeps its promises, nor does anybody know whether it ever held what it is thought to
    /// hold. All members where there is no parent, or nobody is left of it.
    #[must_use]
    pub fn deciders(&self) -> Vec<(NodeId, StoreId)> {
        let parent = self.newest().version().checked_sub(1).and_then(|version| self.get(version));
        let all = || self.newest().members().iter().map(|member| (member.node, member.store));
        let old: Vec<_> =
            all().filter(|(_, store)| parent.is_none_or(|p| p.member_by_store(*store).is_some())).collect();
        if old.is_empty() { all().collect() } else { old }
    }

    /// Whether the members are more than the deciders. Once the newest layout is complete an identical successor makes
    /// them equal, so that those who came in decide as well.
    #[must_use]
    pub fn some_do_not_decide(&self) -> bool {
        self.deciders().len() < self.newest().members().len()
    }

    /// Whether `next` may stand behind the newest layout: the form of the chain alone. Whether such a change may be
    /// made now is [`judge_successor`](super::change::judge_successor)'s to say.
    pub fn follows(&self, next: &Layout) -> Result<(), ChainError> {
        let (newest, version) = (self.newest(), next.version());
        if version != newest.version() + 1 {
            return Err(ChainError::Gap { newest: newest.version(), got: version });
        }
        if next.spec().parent != newest.hash() || next.cluster() != newest.cluster() {
            return Err(ChainError::Fork { version: newest.version() });
        }
        let refused = |why: String| Err(ChainError::Successor { version, why });
        if next.grid() != newest.grid() || next.spec().replicas_max != newest.spec().replicas_max {
            return refused("the grid and replicas_max are fixed when a cluster is founded".into());
        }
        for member in next.members() {
            if self.ended.contains(&member.store) {
                return Err(ChainError::Ended { version, store: member.store });
            }
            if newest.member_by_store(member.store).is_some_and(|before| newest.member(before).node != member.node) {
                return refused(format!("store {} is another node's", member.store));
            }
        }
        let bucket = |name: &str, before: &BucketSettings, after: &BucketSettings| {
            let kept = before.id != after.id || (before.mode, before.role) == (after.mode, after.role);
            if !kept {
                return refused(format!("bucket {name}: mode and role are fixed at creation"));
            }
            if after.generation < before.generation {
                return refused(format!("bucket {name}: a generation never goes back"));
            }
            Ok(())
        };
        bucket("(default)", &newest.spec().default_bucket, &next.spec().default_bucket)?;
        // A name that only one of the two lists has the default's settings in the other, its generation among them.
        for name in newest.spec().buckets.keys().chain(next.spec().buckets.keys()) {
            bucket(name.as_str(), newest.settings(name), next.settings(name))?;
        }
        Ok(())
    }

    /// Takes the newest layout's successor.
    pub fn push(&mut self, next: Layout) -> Result<(), ChainError> {
        self.follows(&next)?;
        let stores = self.newest().members().iter().map(|member| member.store);
        let gone: Vec<_> = stores.filter(|store| next.member_by_store(*store).is_none()).collect();
        self.ended.extend(gone);
        self.layouts.push(next);
        Ok(())
    }

    /// Takes what another node's chain has in addition, and says whether that was anything. All or nothing.
    ///
    /// That the other has dropped layouts is taken over, too: it knows that every member has sync_acked a later one,
    /// and what it knows stays true.
    pub fn merge(&mut self, other: &Self) -> Result<bool, ChainError> {
        let mut merged = self.clone();
        for layout in &other.layouts {
            match merged.get(layout.version()) {
                Some(held) if held == layout => {}
                Some(_) => return Err(ChainError::Fork { version: layout.version() }),
                None if layout.version() <= merged.newest().version() => {} // dropped here
                None => merged.push(layout.clone())?,
            }
        }
        if merged.newest().version() == other.newest().version() {
            merged.ended.extend(&other.ended);
        }
        merged.drop_before(other.live_from);
        let news = merged != *self;
        *self = merged;
        Ok(news)
    }

    /// What to tell a node whose newest layout is `version`: that one as the link, and all that follow. A node that is
    /// further behind than this chain reaches back is told all there is.
    #[must_use]
    pub fn since(&self, version: u64) -> Self {
        let first = version.min(self.newest().version() - 1).min(self.live_from);
        let layouts: Vec<_> = self.layouts.iter().filter(|layout| layout.version() >= first).cloned().collect();
        Self { layouts, ..self.clone() }
    }

    /// Older layouts are not live any more; they are forgotten, but for the newest layout's parent. Never goes back.
    pub fn drop_before(&mut self, live_from: u64) {
        self.live_from = self.live_from.max(live_from.min(self.newest().version()));
        let keep_from = self.live_from.min((self.newest().version() - 1).max(1));
        self.layouts.retain(|layout| layout.version() >= keep_from);
    }
}

#[cfg(test)]
pub(in crate::ring) mod tests;

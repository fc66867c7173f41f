//! Who decides, and how many of them are enough.

use std::collections::BTreeSet;

use crate::types::StoreId;

/// The stores whose majority decides. Fixed for one decision: two proposers that counted different sets could each find
/// a majority.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Electorate {
    stores: BTreeSet<StoreId>,
}

impl Electorate {
    /// An electorate of these stores; none if there are none, for nobody's consent is no decision.
    #[must_use]
    pub fn new(stores: impl IntoIterator<Item = StoreId>) -> Option<Self> {
        let stores: BTreeSet<_> = stores.into_iter().collect();
        (!stores.is_empty()).then_some(Self { stores })
    }

    /// The stores.
    pub fn stores(&self) -> impl ExactSizeIterator<Item = StoreId> {
        self.stores.iter().copied()
    }

    /// Whether a store is one of them.
    #[must_use]
    pub fn has(&self, store: StoreId) -> bool {
        self.stores.contains(&store)
    }

    /// How many are enough: any two sets of that many share a store.
    #[must_use]
    pub fn majority(&self) -> usize {
        self.stores.len() / 2 + 1
    }

    /// How many may refuse before there are not enough left.
    pub(super) fn spare(&self) -> usize {
        self.stores.len() - self.majority()
    }
}

/// Who decides the successor of a layout: its stores that its parent had too. So a joiner, or a replaced disk, decides
/// nothing before the layout that brought it has had a say, and a majority of strangers can't take a cluster over.
/// All of its stores where it has no parent, or shares none with it. None for a layout without members.
#[must_use]
pub fn deciders(
    layout: impl IntoIterator<Item = StoreId>,
    parent: Option<impl IntoIterator<Item = StoreId>>,
) -> Option<Electorate> {
    let layout: BTreeSet<_> = layout.into_iter().collect();
    let parent: BTreeSet<_> = parent.into_iter().flatten().collect();
    Electorate::new(layout.intersection(&parent).copied()).or_else(|| Electorate::new(layout))
}

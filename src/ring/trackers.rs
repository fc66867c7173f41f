//! Trackers: how far each member has followed the chain.
//!
//! - `ack(v)`: uses v, and no write that it coordinates or has accepted is in flight on anything older. Only then is
//!   its store a source worth copying: what it is sent from now on is sent to v's owners as well.
//! - `synced(v)`: it holds all that v gives it (`sync`).
//! - `sync_ack(v)`: it knows that all of v's members are synced, and serves no read in an older layout ever after.
//!
//! `ack` and `sync_ack` are numbers, since each says something of all older layouts. `synced` is a set: after an abort
//! a joiner holds all that v+1 gives it, which is nothing, and may never have held what v did; counted as a maximum,
//! its word for v+1 would pass for one for v.
//!
//! **The rule**: only the member itself raises its tracker, and flushes before it tells ([`OwnTracker`]); everybody
//! else keeps the greatest heard ([`Trackers::hear`]). A word that was acted upon cannot be taken back: a source that
//! forgot its ack would accept writes that nobody copies. A tracker that goes beyond what its own member knows is
//! therefore proof that the member's directory went back.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Chain, LayoutError, chain_codec};
use crate::types::StoreId;

/// How far one member has followed the chain. Ordered only by [`Tracker::covers`]: there is no total order.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Tracker {
    /// Uses this layout, and nothing of its is in flight on older ones.
    pub ack: u64,
    /// Holds all that these layouts give it.
    pub synced: BTreeSet<u64>,
    /// Serves no read in layouts older than this.
    pub sync_ack: u64,
}

impl Tracker {
    /// The one encoding, for the disk and for the wire.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        chain_codec::encode_tracker(self)
    }

    /// Reads an encoding; refuses every byte string that [`Tracker::encode`] would not have made.
    pub fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        chain_codec::decode_tracker(bytes)
    }

    /// Takes the greater of each.
    pub fn merge(&mut self, other: &Self) {
        self.ack = self.ack.max(other.ack);
        self.synced.extend(&other.synced);
        self.sync_ack = self.sync_ack.max(other.sync_ack);
    }

    /// Whether `other` says nothing beyond this. What `other` says of layouts before `live_from` is past, and not
    /// asked.
    #[must_use]
    pub fn covers(&self, other: &Self, live_from: u64) -> bool {
        self.ack >= other.ack
            && self.sync_ack >= other.sync_ack
            && other.synced.iter().all(|version| *version < live_from || self.synced.contains(version))
    }

    /// Forgets what it says of layouts before `live_from`, which no rule asks for.
    pub fn forget_before(&mut self, live_from: u64) {
        self.synced = self.synced.split_off(&live_from);
    }
}

/// What came of a tracker that was heard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeardTracker {
    /// Nothing new.
    Known,
    /// It was raised, or it was the first.
    News,
    /// It is about this node, and says more than this node knows of itself: its directory went back, or was copied.
    /// Every partition is unsynced until merged anew, and the node mints under a new incarnation.
    WentBack,
}

/// The trackers of all members, as far as they were heard.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Trackers(BTreeMap<StoreId, Tracker>);

impl Trackers {
    /// The tracker of a member; one of whom nothing was heard has done nothing.
    #[must_use]
    pub fn of(&self, store: StoreId) -> &Tracker {
        static NOTHING: Tracker = Tracker { ack: 0, synced: BTreeSet::new(), sync_ack: 0 };
        self.0.get(&store).unwrap_or(&NOTHING)
    }

    /// Takes what somebody told of `store`'s tracker; `me` is this node's store.
    pub fn hear(&mut self, me: StoreId, live_from: u64, store: StoreId, tracker: &Tracker) -> HeardTracker {
        if store == me {
            let known = self.of(me).covers(tracker, live_from);
            return if known { HeardTracker::Known } else { HeardTracker::WentBack };
        }
        if self.0.contains_key(&store) && self.of(store).covers(tracker, live_from) {
            return HeardTracker::Known;
        }
        self.0.entry(store).or_default().merge(tracker);
        HeardTracker::News
    }

    /// Takes this node's own tracker, flushed.
    pub fn set_own(&mut self, me: StoreId, own: &Tracker) {
        self.0.entry(me).or_default().merge(own);
    }

    /// Everybody heard of.
    pub fn iter(&self) -> impl Iterator<Item = (StoreId, &Tracker)> {
        self.0.iter().map(|(store, tracker)| (*store, tracker))
    }

    /// Forgets stores that are members of no layout `chain` holds, and what is past: so the table is never larger than
    /// the layouts it is about.
    pub fn prune(&mut self, chain: &Chain) {
        let listed = |store: &StoreId| chain.layouts().iter().any(|layout| layout.member_by_store(*store).is_some());
        self.0.retain(|store, _| listed(store));
        self.0.values_mut().for_each(|tracker| tracker.forget_before(chain.live_from()));
    }
}

/// This node's own tracker: raised, flushed, then told; in this order, always.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct OwnTracker {
    told: Tracker,
    flushing: Option<Tracker>,
}

impl OwnTracker {
    /// The tracker found on disk.
    #[must_use]
    pub const fn stored(tracker: Tracker) -> Self {
        Self { told: tracker, flushing: None }
    }

    /// What others may be told, and what this node may rest on: it is on disk.
    #[must_use]
    pub const fn told(&self) -> &Tracker {
        &self.told
    }

    /// Raises it, and returns what to flush; none while an earlier flush is under way or where nothing is new.
    pub fn raise(&mut self, by: &Tracker) -> Option<&Tracker> {
        if self.flushing.is_some() || self.told.covers(by, 0) {
            return None;
        }
        let mut raised = self.told.clone();
        raised.merge(by);
        self.flushing = Some(raised);
        self.flushing.as_ref()
    }

    /// What was to be flushed is not on disk, as far as is known: it is raised again, or not.
    pub fn not_flushed(&mut self) {
        self.flushing = None;
    }

    /// Forgets what it says of layouts before `live_from`, which no rule asks for.
    pub fn forget_before(&mut self, live_from: u64) {
        self.told.forget_before(live_from);
    }

    /// What was to be flushed is on disk: it may be told.
    pub fn flushed(&mut self) {
        if let Some(raised) = self.flushing.take() {
            self.told = raised;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tracker() -> impl Strategy<Value = Tracker> {
        (0u64..5, proptest::collection::btree_set(0u64..5, 0..4), 0u64..5).prop_map(|(ack, synced, sync_ack)| Tracker {
            ack,
            synced,
            sync_ack,
        })
    }

    const ME: StoreId = StoreId::from_bits(1);
    const OTHER: StoreId = StoreId::from_bits(2);

    #[test]
    fn nothing_is_told_before_it_is_flushed() {
        let mut own = OwnTracker::stored(Tracker { ack: 1, ..Tracker::default() });
        let acked = Tracker { ack: 2, ..Tracker::default() };
        assert_eq!(own.raise(&acked), Some(&acked));
        assert_eq!(own.told().ack, 1);
        assert_eq!(own.raise(&Tracker { ack: 3, ..Tracker::default() }), None, "one flush at a time");
        own.flushed();
        assert_eq!(own.told(), &acked);
        own.flushed();
        assert_eq!(own.told(), &acked);
        let synced = Tracker { synced: BTreeSet::from([1, 2]), ..acked.clone() };
        assert!(own.raise(&synced).is_some());
        own.not_flushed();
        assert_eq!(own.told(), &acked, "a flush that failed changes nothing, and may be tried again");
        assert!(own.raise(&synced).is_some());
        own.flushed();
        own.forget_before(2);
        assert_eq!(own.told().synced, BTreeSet::from([2]));
        own.forget_before(3);
        assert_eq!(own.told(), &acked);
        assert_eq!(own.raise(&Tracker { sync_ack: 0, ..acked.clone() }), None, "nothing is new");
    }

    #[test]
    fn a_word_about_myself_that_i_do_not_know_proves_that_my_directory_went_back() {
        let mut table = Trackers::default();
        table.set_own(ME, &Tracker { ack: 2, synced: BTreeSet::from([2]), sync_ack: 1 });
        let less = Tracker { ack: 1, synced: BTreeSet::from([2]), sync_ack: 1 };
        assert_eq!(table.hear(ME, 1, ME, &less), HeardTracker::Known);
        let past = Tracker { synced: BTreeSet::from([0]), ..less.clone() };
        assert_eq!(table.hear(ME, 1, ME, &past), HeardTracker::Known, "what is past was forgotten, not lost");
        assert_eq!(table.hear(ME, 1, ME, &Tracker { sync_ack: 2, ..less }), HeardTracker::WentBack);
        assert_eq!(table.of(ME).sync_ack, 1, "what was not flushed here is not believed");
    }

    proptest! {
        #[test]
        fn merging_is_a_join(a in tracker(), b in tracker(), c in tracker()) {
            let join = |a: &Tracker, b: &Tracker| { let mut a = a.clone(); a.merge(b); a };
            prop_assert_eq!(join(&a, &b), join(&b, &a));
            prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
            prop_assert_eq!(join(&a, &a), a.clone());
            prop_assert!(join(&a, &b).covers(&a, 0) && join(&a, &b).covers(&b, 0));
            prop_assert_eq!(a.covers(&b, 0), join(&a, &b) == a);
        }

        #[test]
        fn what_was_heard_only_grows_in_any_order(mut heard in proptest::collection::vec(tracker(), 1..6)) {
            let table = |heard: &[Tracker]| {
                let mut table = Trackers::default();
                for tracker in heard {
                    let before = table.clone();
                    let news = table.hear(ME, 0, OTHER, tracker) == HeardTracker::News;
                    prop_assert_eq!(news, table != before);
                    prop_assert!(table.of(OTHER).covers(tracker, 0) && table.of(OTHER).covers(before.of(OTHER), 0));
                }
                Ok(table)
            };
            let forth = table(&heard)?;
            heard.reverse();
            prop_assert_eq!(forth, table(&heard)?);
        }
    }
}

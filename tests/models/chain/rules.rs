//! The product's rules, asked with what a node of the model knows. Answers are kept, because the same questions come
//! millions of times.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use quorate::quorum::{Level, OwnersIn, RegionOwners, Requirement, Tally, requirement};
use quorate::ring::judge::Named;
use quorate::ring::live::{LayoutHolders, View, holders};
use quorate::ring::sync::{Merged, starts_afresh};
use quorate::ring::trackers::OwnTracker;
use quorate::ring::{Chain, Layout, Tracker, Trackers};
use quorate::types::{PartitionId, StoreId};

use super::state::{NODES, Node, Set, Track, has, those};

pub(super) const ALL: PartitionId = PartitionId(0);

pub(super) fn store(node: usize) -> StoreId {
    StoreId::from_bits(100 + node as u128)
}

fn set(versions: impl IntoIterator<Item = u64>) -> Set {
    versions.into_iter().fold(0, |set, version| set | 1 << version)
}

fn tracker(track: Track) -> Tracker {
    let synced = those(track.synced).map(|version| version as u64).collect();
    Tracker { ack: track.ack.into(), synced, sync_ack: track.sync_ack.into() }
}

fn track(tracker: &Tracker) -> Track {
    let small = |version: u64| u8::try_from(version).unwrap();
    Track { ack: small(tracker.ack), synced: set(tracker.synced.iter().copied()), sync_ack: small(tracker.sync_ack) }
}

/// Packs small numbers, so that what was asked is found again quickly.
struct Key(u128);

impl Key {
    fn of(node: &Node, me: usize) -> Self {
        Self(me as u128).and(node.base).and(node.head).and_all(&node.merged)
    }

    fn and(self, number: u8) -> Self {
        debug_assert!(number < 8);
        Self(self.0 << 3 | u128::from(number))
    }

    fn and_all(self, numbers: &[u8]) -> Self {
        numbers.iter().fold(self, |key, number| key.and(*number))
    }

    fn and_set(self, set: Set) -> Self {
        Self(self.0 << 6 | u128::from(set))
    }

    fn and_track(self, track: Track) -> Self {
        self.and(track.ack).and(track.sync_ack).and_set(track.synced)
    }
}

/// What a node may do by what it knows.
#[derive(Clone, Copy, Default)]
pub(super) struct May {
    /// Layouts it may say it is synced to, now.
    pub(super) claim: Set,
    pub(super) sync_ack: Option<u8>,
    pub(super) drop_before: Option<u8>,
    /// Nodes it still has to merge from.
    pub(super) merge: Set,
    pub(super) delete: bool,
    /// The layouts it may read in: the one the rule names, and those it would have named knowing less.
    pub(super) read_in: Set,
    /// Where it holds everything.
    pub(super) holds: Set,
}

/// One scenario's layouts, and what was asked of the rules about them.
pub(super) struct Rules {
    pub(super) layouts: Vec<Layout>,
    chains: BTreeMap<(u8, u8), Chain>,
    asked: RefCell<BTreeMap<u128, May>>,
    writes: RefCell<BTreeMap<u128, Set>>,
    reads: RefCell<BTreeMap<u128, bool>>,
    tallies: RefCell<BTreeMap<u128, bool>>,
    read_by: RefCell<BTreeMap<(u8, Set), bool>>,
    /// Per version: the owners.
    pub(super) owners: Vec<Set>,
    pub(super) write: Level,
    pub(super) read: Level,
}

impl Rules {
    pub(super) fn new(layouts: Vec<Layout>, write: Level, read: Level) -> Self {
        let mut chains = BTreeMap::new();
        let mut chain = Chain::founded(layouts[0].clone());
        for head in 1..=layouts.len() as u8 {
            if head > 1 {
                chain.push(layouts[usize::from(head) - 1].clone()).unwrap();
            }
            for base in 1..=head {
                let mut chain = chain.clone();
                chain.drop_before(base.into());
                chains.insert((base, head), chain);
            }
        }
        let mut owners = vec![0];
        owners.extend(layouts.iter().map(|layout| {
            let owners = holders(layout, ALL, None);
            (0..NODES).filter(|node| owners.contains(store(*node))).fold(0, |set, node| set | 1 << node)
        }));
        Self {
            layouts,
            chains,
            asked: RefCell::default(),
            writes: RefCell::default(),
            reads: RefCell::default(),
            tallies: RefCell::default(),
            read_by: RefCell::default(),
            owners,
            write,
            read,
        }
    }

    pub(super) fn chain(&self, base: u8, head: u8) -> &Chain {
        &self.chains[&(base, head)]
    }

    pub(super) fn members(&self, version: u8) -> Set {
        let layout = &self.layouts[usize::from(version) - 1];
        (0..NODES).filter(|node| layout.member_by_store(store(*node)).is_some()).fold(0, |set, node| set | 1 << node)
    }

    pub(super) fn table(tracks: &[Track; NODES]) -> Trackers {
        let mut table = Trackers::default();
        for (node, track) in tracks.iter().enumerate() {
            table.set_own(store(node), &tracker(*track));
        }
        table
    }

    fn merged(merged: &[u8; NODES]) -> Merged {
        let mut record = Merged::default();
        for (node, acked) in merged.iter().enumerate().filter(|(_, acked)| **acked > 0) {
            record.record(ALL, store(node), (*acked).into());
        }
        record
    }

    /// Everybody's trackers, as `me` may have heard them by now.
    fn tracks(nodes: &[Node; NODES], me: usize) -> [Track; NODES] {
        let mut tracks = nodes.map(|node| node.told);
        tracks[me] = nodes[me].own;
        tracks
    }

    pub(super) fn may(&self, nodes: &[Node; NODES], me: usize) -> May {
        let Node { base, head, merged, pledged, .. } = nodes[me];
        let tracks = Self::tracks(nodes, me);
        let key = tracks.iter().fold(Key::of(&nodes[me], me).and(pledged), |key, track| key.and_track(*track)).0;
        if let Some(may) = self.asked.borrow().get(&key) {
            return *may;
        }
        let (table, record) = (Self::table(&tracks), Self::merged(&merged));
        let view = View { chain: self.chain(base, head), trackers: &table, me: store(me) };
        let small = |version: Option<u64>| version.map(|version| u8::try_from(version).unwrap());
        let merge: BTreeSet<StoreId> = view.to_merge(&record).into_iter().flat_map(|gain| gain.sources).collect();
        let live = view.chain.live();
        let synced = live.iter().filter(|layout| view.all_synced(layout)).map(Layout::version);
        let read_in = set(synced) | 1 << base | 1 << view.read_layout().version();
        let may = May {
            claim: set(view.may_claim(&record)),
            sync_ack: small(view.may_sync_ack(pledged.into())),
            drop_before: small(view.may_drop_before()),
            merge: (0..NODES).filter(|node| merge.contains(&store(*node))).fold(0, |set, node| set | 1 << node),
            delete: view.may_delete(ALL, None),
            read_in,
            holds: set(live.iter().map(Layout::version).filter(|version| view.holds(&record, *version, ALL, None))),
        };
        self.asked.borrow_mut().insert(key, may);
        may
    }

    /// What a node may ack, with the oldest of its writes in flight on `in_flight_on`.
    pub(super) fn may_ack(&self, node: &Node, me: usize, in_flight_on: Option<u8>) -> Option<u8> {
        if node.own.ack == node.head {
            return None;
        }
        let mut table = Trackers::default();
        table.set_own(store(me), &tracker(node.own));
        let view = View { chain: self.chain(node.base, node.head), trackers: &table, me: store(me) };
        view.may_ack(in_flight_on.map(u64::from)).map(|version| u8::try_from(version).unwrap())
    }

    /// A node's tracker raised by the book: flushed, then told.
    pub(super) fn raise(&self, node: &mut Node, by: Track) {
        let mut own = OwnTracker::stored(tracker(node.own));
        if let Some(flushing) = own.raise(&tracker(by)) {
            node.disk = track(flushing);
            own.flushed();
            node.own = track(own.told());
            node.told = node.own;
        }
    }

    /// The layouts in which a write's acknowledgement by `me` counts; none if it is refused.
    pub(super) fn judge_write(&self, node: &Node, me: usize, sender: u8, newest: u8, counted: Set) -> Set {
        let key = Key::of(node, me).and(sender).and(newest).and_set(counted).0;
        if let Some(counts) = self.writes.borrow().get(&key) {
            return *counts;
        }
        let table = Trackers::default();
        let view = View { chain: self.chain(node.base, node.head), trackers: &table, me: store(me) };
        let counted: Vec<u64> = those(counted).map(|version| version as u64).collect();
        let named = Named { sender: store(sender.into()), newest: newest.into(), counted: &counted };
        let counts = view.judge_write(named, ALL, None).map_or(0, set);
        self.writes.borrow_mut().insert(key, counts);
        counts
    }

    pub(super) fn judge_read(&self, node: &Node, me: usize, newest: u8, layout: u8, own: Track) -> bool {
        let key = Key::of(node, me).and(newest).and(layout).and_track(own).0;
        if let Some(served) = self.reads.borrow().get(&key) {
            return *served;
        }
        let mut table = Trackers::default();
        table.set_own(store(me), &tracker(own));
        let view = View { chain: self.chain(node.base, node.head), trackers: &table, me: store(me) };
        let named = Named { sender: store(me), newest: newest.into(), counted: &[layout.into()] };
        let served = view.judge_read(named, &Self::merged(&node.merged), ALL, None).is_ok();
        self.reads.borrow_mut().insert(key, served);
        served
    }

    pub(super) fn starts_afresh(&self, node: &Node, me: usize, known: u8) -> bool {
        starts_afresh(self.chain(node.base, node.head), known.into(), store(me), ALL, None)
    }

    /// What an object's owners in these layouts are, as quorums are told.
    pub(super) fn requirement(lists: &[LayoutHolders<'_>], level: Level) -> Requirement {
        let regions = |list: &LayoutHolders<'_>| {
            let region = |region: &quorate::ring::live::HoldersIn<'_>| RegionOwners {
                region: region.region.into(),
                n: region.n.into(),
                owners: region.owners.clone(),
            };
            list.regions.iter().map(region).collect()
        };
        let live: Vec<_> = lists.iter().map(|list| OwnersIn { layout: list.version, regions: regions(list) }).collect();
        requirement(level, &live, "home").unwrap()
    }

    /// Whether a write counted in these layouts is acknowledged, `lists` being what the rule asks for or, with a bug,
    /// not.
    pub(super) fn met(
        &self,
        base: u8,
        head: u8,
        acks: &[Set; NODES],
        twist: impl FnOnce(&mut Vec<LayoutHolders<'_>>),
        may_keep: bool,
    ) -> bool {
        let key = acks.iter().fold(Key(0).and(base).and(head), |key, acks| key.and_set(*acks)).0;
        if let Some(met) = self.tallies.borrow().get(&key).filter(|_| may_keep) {
            return *met;
        }
        let table = Trackers::default();
        let view = View { chain: self.chain(base, head), trackers: &table, me: store(0) };
        let mut lists = view.written_to(ALL, None);
        twist(&mut lists);
        let mut tally = Tally::new(Self::requirement(&lists, self.write));
        for (node, layouts) in acks.iter().enumerate() {
            let layouts: Vec<u64> = those(*layouts).map(|version| version as u64).collect();
            tally.acknowledged(store(node), &layouts, true);
        }
        if may_keep {
            self.tallies.borrow_mut().insert(key, tally.is_met());
        }
        tally.is_met()
    }

    /// Whether these replies are a read's quorum in a layout.
    pub(super) fn read_by(&self, layout: u8, replied: Set) -> bool {
        if let Some(enough) = self.read_by.borrow().get(&(layout, replied)) {
            return *enough;
        }
        let lists = [holders(&self.layouts[usize::from(layout) - 1], ALL, None)];
        let mut tally = Tally::new(Self::requirement(&lists, self.read));
        (0..NODES).filter(|node| has(replied, *node)).for_each(|node| tally.yes(store(node)));
        self.read_by.borrow_mut().insert((layout, replied), tally.is_met());
        tally.is_met()
    }
}

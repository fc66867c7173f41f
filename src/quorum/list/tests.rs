//! Laws: whatever lies where, whoever fails, the pages tell every key once, in order, or name the gap it lies in.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::quorum::testing::{ids, owners};
use crate::quorum::{Level, NoVote, OwnersIn, RegionOwners, requirement};
use crate::types::{PartitionId, StoreId};

/// Partitions of these tests, and stores.
const PARTITIONS: u32 = 8;
const STORES: u128 = 5;

fn key(number: u16) -> Bytes {
    Bytes::from(format!("k{number:05}"))
}

fn partition_of(key: &Bytes) -> PartitionId {
    PartitionId(crc32fast::hash(key) % PARTITIONS)
}

fn owners_of(partition: PartitionId) -> Vec<StoreId> {
    ids((0..3).map(|at| (u128::from(partition.0) + at) % STORES))
}

/// A store says its version of a key; the greatest counts, and 0 is a tombstone.
struct Rules;

impl Keys for Rules {
    type Said = u8;

    fn partition_of(&self, key: &Bytes) -> PartitionId {
        partition_of(key)
    }

    fn join(&self, _: &Bytes, said: Vec<u8>) -> Option<u8> {
        said.into_iter().max().filter(|version| *version > 0)
    }

    fn bytes(&self, key: &Bytes, _: &u8) -> usize {
        key.len()
    }
}

fn cover(level: Level) -> Cover {
    let row = |partition| {
        let owners = RegionOwners { region: "eu".into(), n: 3, owners: owners_of(PartitionId(partition)) };
        requirement(level, &[OwnersIn { layout: 1, regions: vec![owners] }], "eu").unwrap()
    };
    Cover::new(StoreId::from_bits(0), (0..PARTITIONS).map(row))
}

/// What goes wrong.
#[derive(Clone, Debug, Default)]
struct World {
    keys: BTreeMap<Bytes, u8>,
    down: BTreeSet<StoreId>,
    /// It is thought to be up.
    dead: BTreeSet<StoreId>,
    unable: BTreeSet<(StoreId, u32)>,
    /// Most keys of an answer.
    piece: usize,
}

impl World {
    fn answer(&self, asking: &Asking) -> Answer<u8> {
        let unable: Vec<(PartitionId, NoVote)> = asking
            .partitions
            .iter()
            .filter(|partition| self.unable.contains(&(asking.store, partition.0)))
            .map(|partition| (*partition, NoVote::Syncing))
            .collect();
        let its = |key: &Bytes| {
            let at = partition_of(key);
            asking.partitions.contains(&at) && !unable.iter().any(|(unable, _)| *unable == at)
        };
        let behind = self.keys.iter().filter(|(key, _)| **key > asking.after && its(key));
        let most = asking.keys.min(self.piece);
        let mut keys: Vec<(Bytes, u8)> = behind.map(|(key, version)| (key.clone(), *version)).take(most + 1).collect();
        let whole = (keys.len() > most).then(|| {
            keys.truncate(most);
            keys[most - 1].0.clone()
        });
        Answer { keys, whole, unable }
    }

    fn page(&self, level: Level, after: Bytes, most: usize) -> ListPage<u8> {
        let wanted = Wanted { after, keys: most, bytes: 1 << 20 };
        let mut core = ListCore::new(Rules, wanted, cover(level), PARTITIONS);
        for _ in 0..10_000 {
            match core.step(|store| !self.down.contains(&store), |_| 0) {
                ListStep::Done(page) => return page,
                ListStep::Wait => panic!("nobody is under way"),
                ListStep::Ask(asked) => {
                    for asking in asked {
                        assert!(!asking.partitions.is_empty() && asking.keys > 0);
                        if self.dead.contains(&asking.store) {
                            core.on_failed(asking.stream, NoVote::TimedOut);
                        } else {
                            core.on_answer(asking.stream, self.answer(&asking));
                        }
                    }
                }
            }
        }
        panic!("it does not end");
    }

    /// The partitions for which fewer than `need` owners can answer.
    fn gaps(&self, need: usize) -> BTreeSet<PartitionId> {
        let can = |partition: PartitionId| {
            let well = |store: &&StoreId| {
                !self.down.contains(store)
                    && !self.dead.contains(store)
                    && !self.unable.contains(&(**store, partition.0))
            };
            owners_of(partition).iter().filter(well).count()
        };
        (0..PARTITIONS).map(PartitionId).filter(|partition| can(*partition) < need).collect()
    }
}

fn world() -> impl Strategy<Value = World> {
    let stores = || prop::collection::btree_set((0..STORES).prop_map(StoreId::from_bits), 0..3);
    let unable = prop::collection::btree_set(((0..STORES).prop_map(StoreId::from_bits), 0..PARTITIONS), 0..8);
    let keys = prop::collection::btree_map((0..500u16).prop_map(key), 0..3u8, 0..120);
    (keys, stores(), stores(), unable, 1..20usize).prop_map(|(keys, down, dead, unable, piece)| World {
        keys,
        down,
        dead,
        unable,
        piece,
    })
}

proptest! {
    #[test]
    fn every_key_comes_once_in_order_or_lies_in_a_gap_that_is_named(
        world in world(),
        most in 1..40usize,
        need in 1..4u8,
    ) {
        let gaps = world.gaps(usize::from(need));
        let (mut listed, mut after, mut pages) = (Vec::new(), Bytes::new(), 0);
        loop {
            let page = world.page(Level::Count(need), after.clone(), most);
            prop_assert!(page.keys.len() <= most);
            // Whoever is found out only as it is asked is a gap of a page that asks it: of every page that has any left.
            let named: BTreeSet<PartitionId> = page.gaps.iter().map(|gap| gap.partition).collect();
            prop_assert_eq!(&named, &gaps);
            listed.extend(page.keys.iter().map(|(key, _)| key.clone()));
            pages += 1;
            prop_assert!(pages < 500);
            match page.upto {
                None => break,
                Some(upto) => {
                    prop_assert!(upto > after, "no page may stand still");
                    after = upto;
                }
            }
        }
        let live = world.keys.iter().filter(|(key, version)| **version > 0 && !gaps.contains(&partition_of(key)));
        let expected: Vec<Bytes> = live.map(|(key, _)| key.clone()).collect();
        prop_assert_eq!(listed, expected);
    }

    #[test]
    fn a_merge_brings_all_streams_in_order_whatever_the_pieces(
        streams in prop::collection::vec(prop::collection::btree_set(0..200u16, 0..40), 1..6),
        piece in 1..9usize,
    ) {
        let mut merge = Merge::default();
        let names: Vec<usize> = streams.iter().map(|_| merge.open(Bytes::new())).collect();
        let mut out = Vec::new();
        loop {
            match merge.advance() {
                Next::Done => break,
                Next::Key(key, said) => out.push((key, said.len())),
                Next::Wants(wanted) => for at in wanted {
                    let stream = &streams[names.iter().position(|name| *name == at).unwrap()];
                    let whole = merge.whole_to(at).unwrap().clone();
                    let rest: Vec<Bytes> = stream.iter().map(|number| key(*number)).filter(|key| *key > whole).collect();
                    let some: Vec<(Bytes, ())> = rest.iter().take(piece).map(|key| (key.clone(), ())).collect();
                    let upto = (rest.len() > piece).then(|| some[piece - 1].0.clone());
                    prop_assert!(merge.feed(at, some, upto));
                },
            }
        }
        let all: BTreeSet<u16> = streams.iter().flatten().copied().collect();
        let expected = |number: &u16| (key(*number), streams.iter().filter(|stream| stream.contains(number)).count());
        prop_assert_eq!(out, all.iter().map(expected).collect::<Vec<_>>());
    }
}

#[test]
fn what_is_fed_out_of_order_is_refused() {
    let mut merge = Merge::default();
    let at = merge.open(key(5));
    for wrong in [vec![key(5)], vec![key(3)], vec![key(7), key(7)], vec![key(8), key(7)]] {
        assert!(!merge.feed(at, wrong.into_iter().map(|key| (key, ())).collect(), None));
    }
    assert!(!merge.feed(at, vec![(key(7), ())], Some(key(6))), "it is whole up to before what it brought");
    assert_eq!(merge.advance(), Next::Wants(vec![at]), "nothing was done");
    assert!(merge.feed(at, vec![(key(7), ())], None));
    assert_eq!(merge.advance(), Next::Key(key(7), vec![(at, ())]));
    assert_eq!(merge.advance(), Next::Done);
}

#[test]
fn as_few_as_cover_all_are_asked_and_this_node_first() {
    let mut cover = Cover::new(StoreId::from_bits(2), (0..4).map(|_| requirement_of(0..5)));
    let all: Vec<PartitionId> = (0..4).map(PartitionId).collect();
    assert_eq!(cover.assign(&all, |_| true, |_| 0), [(StoreId::from_bits(2), all.clone())]);
    let mut apart = Cover::new(StoreId::from_bits(9), [requirement_of(0..3), requirement_of(2..5)]);
    let both = [PartitionId(0), PartitionId(1)];
    assert_eq!(apart.assign(&both, |_| true, |_| 0), [(StoreId::from_bits(2), both.to_vec())]);
    apart.fail(both[0], StoreId::from_bits(2), NoVote::Syncing);
    let others = apart.assign(&both[..1], |_| true, |store| store.bits() != 1);
    assert_eq!(others, [(StoreId::from_bits(1), vec![both[0]])], "the one of the least rank");
    apart.fail(both[0], StoreId::from_bits(1), NoVote::TimedOut);
    assert_eq!(apart.assign(&both[..1], |_| false, |_| 0), []);
    assert!(apart.is_gap(both[0]) && !apart.is_gap(both[1]));
    let silent = [(2, NoVote::Syncing), (1, NoVote::TimedOut), (0, NoVote::Unreachable)];
    let silent = silent.map(|(store, why)| (StoreId::from_bits(store), why)).to_vec();
    assert_eq!(apart.gaps(), [Gap { partition: both[0], silent }]);
}

fn requirement_of(stores: std::ops::Range<u128>) -> crate::quorum::Requirement {
    requirement(Level::One, &[owners(1, stores)], "eu").unwrap()
}

#[test]
fn at_the_deadline_a_page_ends_where_all_streams_are_known() {
    let world = World { keys: (0..60).map(|n| (key(n), 1)).collect(), piece: 3, ..World::default() };
    let wanted = Wanted { after: Bytes::new(), keys: 60, bytes: 1 << 20 };
    let mut core = ListCore::new(Rules, wanted.clone(), cover(Level::One), PARTITIONS);
    let ListStep::Ask(asked) = core.step(|_| true, |_| 0) else { panic!("it asks first") };
    assert!(asked.len() > 1);
    for asking in &asked {
        core.on_answer(asking.stream, world.answer(asking));
    }
    core.on_deadline();
    let ListStep::Done(page) = core.step(|_| true, |_| 0) else { panic!("it ends") };
    let upto = page.upto.expect("there is more");
    assert_eq!(
        page.keys.iter().map(|(key, _)| key).collect::<Vec<_>>(),
        world.keys.range(..=upto).map(|(key, _)| key).collect::<Vec<_>>()
    );
    assert_eq!(page.gaps, []);

    // One of them says nothing: the page is there all the same, and says what it lacks.
    let mut core = ListCore::new(Rules, wanted, cover(Level::One), PARTITIONS);
    let ListStep::Ask(asked) = core.step(|_| true, |_| 0) else { panic!("it asks first") };
    for asking in &asked[1..] {
        core.on_answer(asking.stream, world.answer(asking));
    }
    core.on_deadline();
    let ListStep::Done(page) = core.step(|_| true, |_| 0) else { panic!("it ends") };
    let silent: Vec<PartitionId> = page.gaps.iter().map(|gap| gap.partition).collect();
    assert_eq!(silent, asked[0].partitions);
    assert!(!page.keys.is_empty() && page.keys.iter().all(|(key, _)| !silent.contains(&partition_of(key))));
}

#[test]
fn a_store_that_stands_still_is_given_up() {
    let wanted = Wanted { after: Bytes::new(), keys: 10, bytes: 100 };
    let mut core = ListCore::new(Rules, wanted, cover(Level::One), PARTITIONS);
    for _ in 0..100 {
        match core.step(|_| true, |_| 0) {
            ListStep::Done(page) => {
                assert_eq!(page.gaps.len(), PARTITIONS as usize);
                return;
            }
            ListStep::Wait => panic!("nobody is under way"),
            ListStep::Ask(asked) => asked.into_iter().for_each(|asking| {
                core.on_answer(
                    asking.stream,
                    Answer { keys: Vec::new(), whole: Some(asking.after), unable: Vec::new() },
                );
            }),
        }
    }
    panic!("it does not end");
}

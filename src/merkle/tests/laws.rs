//! A walk finds exactly the keys that differ, whatever is held, changes, is lost or left out.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// What a side holds of a key: version, hour, freshness.
type Holding = Option<(u8, u32, bool)>;

#[derive(Clone, Debug)]
struct Setting {
    partitions: u32,
    leaves: u8,
    /// By key.
    held: Vec<(u16, Holding, Holding)>,
    firsts: [u32; 2],
    salt: u64,
}

const SHARED: &[u16] = &[0, 2];
/// Hides version 2 of key 50 behind version 1: found by trying.
const HIDING: u64 = 1_339_121;

fn holding() -> impl Strategy<Value = Holding> {
    let hour = prop_oneof![4 => Just(MAIN), 1 => 8..12_u32];
    prop_oneof![1 => Just(None), 4 => (0..3_u8, hour, prop::bool::weighted(0.1)).prop_map(Some)]
}

fn setting(keys: usize) -> impl Strategy<Value = Setting> {
    let class = prop_oneof![4 => Just(0_u16), 1 => Just(2), 1 => Just(1)];
    let same = (class.clone(), holding()).prop_map(|(class, held)| (class, held, held)).boxed();
    let other = (class, holding(), holding());
    let key = prop_oneof![1 => same.clone(), 1 => other.boxed()];
    let mostly = prop_oneof![9 => same, 1 => key.clone().boxed()];
    let held = prop_oneof![vec(key, 0..keys), vec(mostly, 0..keys)];
    (1..4_u32, prop_oneof![Just(1_u8), Just(3), 0..=255_u8], held, [9..11_u32, 9..11_u32], any::<u64>())
        .prop_map(|(partitions, leaves, held, firsts, salt)| Setting { partitions, leaves, held, firsts, salt })
}

impl Setting {
    fn place(&self, key: usize) -> (u32, u8, [u8; 4]) {
        let name = (key as u32).to_be_bytes();
        let hash = blake3::hash(&name);
        let leaf = if self.leaves == 0 { hash.as_bytes()[0] } else { hash.as_bytes()[0] % self.leaves };
        (u32::from(hash.as_bytes()[1]) % self.partitions, leaf, name)
    }

    fn put(&self, maps: &mut Maps, side: usize, key: usize, held: Holding) {
        let (partition, leaf, name) = self.place(key);
        match held {
            None => drop(maps.sides[side].remove(&self.stored(key))),
            Some((version, hour, fresh)) => {
                // The horizon is part of an object: another hour is another digest.
                let entry = maps.put(side, partition, leaf, &name, version * 16 + hour as u8 % 16);
                (entry.class, entry.hour, entry.is_fresh) = (self.held[key].0, hour, fresh);
            }
        }
    }

    fn stored(&self, key: usize) -> Bytes {
        let (partition, _, name) = self.place(key);
        [partition.to_be_bytes(), name].concat().into()
    }

    fn maps(&self) -> Maps {
        let mut maps = Maps { firsts: self.firsts, ..Maps::default() };
        for (key, (_, a, b)) in self.held.iter().enumerate() {
            self.put(&mut maps, A, key, *a);
            self.put(&mut maps, B, key, *b);
        }
        maps
    }

    fn terms(&self) -> Terms {
        Terms { salt: self.salt, width: Width::Full, first: self.firsts[A], classes: SHARED.to_vec() }
    }
}

/// By the definition: what is to be found.
fn differing(maps: &Maps) -> BTreeMap<Bytes, Exchange> {
    let first = maps.firsts[A].max(maps.firsts[B]);
    let counts = |entry: &&Entry| entry.hour >= first && SHARED.contains(&entry.class);
    let all: BTreeSet<&Bytes> = maps.sides.iter().flat_map(BTreeMap::keys).collect();
    let exchange = |stored: &&Bytes| {
        let [a, b] = [A, B].map(|side| maps.sides[side].get(*stored).filter(counts));
        if [a, b].iter().flatten().any(|entry| entry.is_fresh) {
            return None;
        }
        match (a, b) {
            (Some(a), Some(b)) => (a.digest != b.digest).then_some(Exchange::Both),
            (Some(_), None) => Some(Exchange::Send),
            (None, Some(_)) => Some(Exchange::Fetch),
            (None, None) => None,
        }
    };
    all.into_iter().filter_map(|stored| Some((stored.clone(), exchange(&stored)?))).collect()
}

/// Sides on which keys change and from which replies are lost while they are compared.
struct Busy<'a> {
    setting: &'a Setting,
    maps: Maps,
    changes: std::vec::IntoIter<Option<(usize, usize, Holding)>>,
    lost: std::vec::IntoIter<bool>,
    touched: BTreeSet<Bytes>,
}

impl Sides for Busy<'_> {
    fn each(&self, side: usize, partition: PartitionId, offer: &mut dyn FnMut(&Entry)) {
        self.maps.each(side, partition, offer);
    }

    fn meddle(&mut self) {
        for (side, key, held) in self.changes.by_ref().map_while(|change| change) {
            if key < self.setting.held.len() {
                self.touched.insert(self.setting.stored(key));
                self.setting.put(&mut self.maps, side, key, held);
            }
        }
    }

    fn loses(&mut self) -> bool {
        self.lost.next().unwrap_or(false)
    }

    fn first(&self, side: usize) -> u32 {
        self.maps.firsts[side]
    }
}

#[test]
fn what_one_salt_hides_the_next_one_finds() {
    let mut maps = Maps::default();
    for n in 0..100_u8 {
        maps.put(A, 0, n, &[n], 1);
        maps.put(B, 0, n, &[n], 1 + u8::from(n == 50));
    }
    let hidden = round(&mut maps, 1, &terms(HIDING, Width::Short));
    assert_eq!((hidden.differ, hidden.found.len()), (1, 0));
    for (salt, width) in [(HIDING + 1, Width::Short), (HIDING, Width::Full)] {
        assert_eq!(round(&mut maps, 1, &terms(salt, width)).found, differing(&maps));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn a_walk_finds_exactly_the_keys_that_differ(setting in setting(200)) {
        let mut maps = setting.maps();
        let wanted = differing(&maps);
        let told = round(&mut maps, setting.partitions, &setting.terms());
        prop_assert_eq!(&told.found, &wanted);
        prop_assert!(told.unfinished.is_empty());
        prop_assert!(told.largest.0 <= REQUEST_MAX && told.largest.1 <= REPLY_MAX);
        // Both then hold the same, but for what was left out; and then nothing is sent beyond the roots.
        maps.repair(&told.found);
        maps.sides.iter_mut().for_each(|side| side.retain(|_, entry| !entry.is_fresh));
        let left_out: Vec<Bytes> = setting.maps().sides.iter().flatten().filter(|(_, e)| e.is_fresh).map(|(k, _)| k.clone()).collect();
        maps.sides.iter_mut().for_each(|side| left_out.iter().for_each(|stored| drop(side.remove(stored))));
        let again = round(&mut maps, setting.partitions, &setting.terms());
        prop_assert_eq!((again.differ, again.requests), (0, 0));
    }

    #[test]
    fn what_is_held_alike_is_not_walked(setting in setting(200)) {
        let mut maps = setting.maps();
        maps.sides[B] = maps.sides[A].clone();
        let told = round(&mut maps, setting.partitions, &setting.terms());
        prop_assert_eq!((told.differ, told.requests), (0, 0));
    }

    #[test]
    fn changes_and_lost_replies_hide_nothing_that_lasts(
        setting in setting(100),
        changes in vec(prop::option::weighted(0.7, (0..2_usize, 0..100_usize, holding())), 0..60),
        lost in vec(any::<bool>(), 0..12),
    ) {
        let maps = setting.maps();
        let wanted = differing(&maps);
        let (changes, lost) = (changes.into_iter(), lost.into_iter());
        let mut busy = Busy { setting: &setting, maps, changes, lost, touched: BTreeSet::new() };
        let told = round(&mut busy, setting.partitions, &setting.terms());
        let lasting = |found: &BTreeMap<Bytes, Exchange>| -> BTreeMap<Bytes, Exchange> {
            found.iter().filter(|(key, _)| !busy.touched.contains(*key)).map(|(key, what)| (key.clone(), *what)).collect()
        };
        prop_assert_eq!(lasting(&told.found), lasting(&wanted));
        // Whatever was found: once nothing changes any more, the next round finds the rest.
        let mut maps = busy.maps;
        maps.repair(&told.found);
        let rest = differing(&maps);
        prop_assert_eq!(round(&mut maps, setting.partitions, &setting.terms()).found, rest);
    }
}

//! Random operations, against the simplest model there is: sorted maps.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included};

use bytes::Bytes;
use proptest::prelude::*;
use quorate::storage::{Batch, Change, Durability, Keyspace, Storage};

use crate::{Bed, Memory};

/// One step. Keys are few, so that steps meet.
#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<Change>, Durability),
    Flush,
    Reopen,
    Scan(Keyspace, u8, u8),
}

type Model = BTreeMap<(Keyspace, Bytes), Bytes>;

fn apply(model: &mut Model, change: &Change) {
    match change.clone() {
        Change::Put(keyspace, key, value) => _ = model.insert((keyspace, key), value),
        Change::Delete(keyspace, key) => _ = model.remove(&(keyspace, key)),
        Change::Add(keyspace, key, delta) => {
            let mut bytes = model.get(&(keyspace, key.clone())).map(|value| value.to_vec()).unwrap_or_default();
            bytes.resize(16, 0);
            let sum = u128::from_le_bytes(bytes.try_into().unwrap()).wrapping_add(delta);
            model.insert((keyspace, key), Bytes::copy_from_slice(&sum.to_le_bytes()));
        }
    }
}

fn keyspace() -> impl Strategy<Value = Keyspace> {
    prop::sample::select(Keyspace::ALL.to_vec())
}

fn change() -> impl Strategy<Value = Change> {
    let key = (0..12_u8).prop_map(|key| Bytes::from(vec![key]));
    prop_oneof![
        4 => (keyspace(), key.clone(), prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(keyspace, key, value)| Change::Put(keyspace, key, value.into())),
        2 => (keyspace(), key.clone()).prop_map(|(keyspace, key)| Change::Delete(keyspace, key)),
        4 => (keyspace(), key, any::<u128>()).prop_map(|(keyspace, key, delta)| Change::Add(keyspace, key, delta)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (prop::collection::vec(change(), 0..8), any::<bool>()).prop_map(|(changes, flush)| {
            Step::Commit(changes, if flush { Durability::Flush } else { Durability::Os })
        }),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
        3 => (keyspace(), 0..12_u8, 0..12_u8).prop_map(|(keyspace, from, to)| Step::Scan(keyspace, from, to)),
    ]
}

pub(crate) fn batch(changes: &[Change]) -> Batch {
    let mut batch = Batch::new();
    for change in changes.iter().cloned() {
        match change {
            Change::Put(keyspace, key, value) => batch.put(keyspace, key, value),
            Change::Delete(keyspace, key) => batch.delete(keyspace, key),
            Change::Add(keyspace, key, delta) => batch.add(keyspace, key, delta),
        }
    }
    batch
}

fn run(bed: &dyn Bed, steps: &[Step]) {
    let mut model = Model::new();
    let mut storage = Some(bed.open().unwrap());
    for step in steps {
        let open: &dyn Storage = storage.as_deref().unwrap();
        match step {
            Step::Commit(changes, durability) => {
                open.commit(batch(changes), *durability).unwrap();
                changes.iter().for_each(|change| apply(&mut model, change));
                for (keyspace, key) in changes.iter().map(|change| match change {
                    Change::Put(keyspace, key, _) | Change::Delete(keyspace, key) | Change::Add(keyspace, key, _) => {
                        (*keyspace, key.clone())
                    }
                }) {
                    assert_eq!(open.get(keyspace, &key).unwrap(), model.get(&(keyspace, key)).cloned());
                }
            }
            Step::Flush => _ = open.flush().unwrap(),
            Step::Reopen => {
                storage = None;
                storage.replace(bed.open().unwrap());
            }
            Step::Scan(keyspace, from, to) => {
                let found: Vec<_> =
                    open.scan(*keyspace, Included(&[*from]), Excluded(&[*to])).map(Result::unwrap).collect();
                let within = |space: &Keyspace, key: &Bytes| space == keyspace && key[0] >= *from && key[0] < *to;
                let expected: Vec<_> = model
                    .iter()
                    .filter(|((space, key), _)| within(space, key))
                    .map(|((_, key), value)| (key.clone(), value.clone()))
                    .collect();
                assert_eq!(found, expected);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn memory_is_a_sorted_map(steps in prop::collection::vec(step(), 0..40)) {
        run(&Memory::default(), &steps);
    }
}

#[cfg(feature = "rocksdb")]
proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn rocksdb_is_a_sorted_map(steps in prop::collection::vec(step(), 0..60)) {
        run(&crate::Rocks::default(), &steps);
    }
}

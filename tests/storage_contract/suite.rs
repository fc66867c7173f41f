//! The cases that every implementation passes.

use std::ops::Bound::{self, Excluded, Included, Unbounded};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use quorate::storage::{Batch, Durability, Keyspace, Storage, StorageError};

use crate::Bed;

fn put(storage: &dyn Storage, keyspace: Keyspace, key: &[u8], value: &[u8]) {
    let mut batch = Batch::new();
    batch.put(keyspace, key.to_vec(), value.to_vec());
    storage.commit(batch, Durability::Os).unwrap();
}

fn get(storage: &dyn Storage, keyspace: Keyspace, key: &[u8]) -> Option<Vec<u8>> {
    storage.get(keyspace, key).unwrap().map(|value| value.to_vec())
}

/// The keys between two bounds.
pub(crate) fn keys(storage: &dyn Storage, keyspace: Keyspace, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Vec<Vec<u8>> {
    storage.scan(keyspace, from, to).map(|entry| entry.unwrap().0.to_vec()).collect()
}

/// A sum; absent is zero.
pub(crate) fn sum(storage: &dyn Storage, key: &[u8]) -> u128 {
    let value = storage.get(Keyspace::Merkle, key).unwrap();
    value.map_or(0, |value| u128::from_le_bytes(value.as_ref().try_into().unwrap()))
}

pub(crate) fn keyspaces_are_apart(bed: &dyn Bed) {
    let storage = bed.open().unwrap();
    for keyspace in Keyspace::ALL {
        put(&*storage, keyspace, b"key", keyspace.name().as_bytes());
    }
    let mut batch = Batch::new();
    batch.delete(Keyspace::Hints, &b"key"[..]);
    storage.commit(batch, Durability::Flush).unwrap();
    for keyspace in Keyspace::ALL {
        let expected = (keyspace != Keyspace::Hints).then(|| keyspace.name().as_bytes().to_vec());
        assert_eq!(get(&*storage, keyspace, b"key"), expected, "{}", keyspace.name());
        let scanned = keys(&*storage, keyspace, Unbounded, Unbounded);
        assert_eq!(scanned.len(), usize::from(expected.is_some()), "{}", keyspace.name());
    }
}

pub(crate) fn keys_are_ordered_bytes(bed: &dyn Bed) {
    let storage = bed.open().unwrap();
    let mut expected: Vec<Vec<u8>> =
        vec![vec![0], vec![0, 0], vec![0, 255], vec![127], vec![128], vec![255], vec![255, 0]];
    expected.extend((0..300_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes().to_vec()));
    for key in &expected {
        put(&*storage, Keyspace::Objects, key, key);
    }
    expected.sort();
    expected.dedup();
    assert_eq!(keys(&*storage, Keyspace::Objects, Unbounded, Unbounded), expected);
}

pub(crate) fn scans_keep_their_bounds(bed: &dyn Bed) {
    let storage = bed.open().unwrap();
    let all: Vec<Vec<u8>> =
        vec![b"a".into(), b"b".into(), b"b\0".into(), b"ba".into(), b"c".into(), b"\xff\xff".into()];
    for key in &all {
        put(&*storage, Keyspace::Index, key, b"");
    }
    // Neighbours that other keyspaces hold must not show.
    put(&*storage, Keyspace::Hints, b"bb", b"");
    let points: [&[u8]; 9] = [b"", b"a", b"aa", b"b", b"b\0", b"ba", b"c", b"d", b"\xff\xff\xff"];
    let bounds = || points.into_iter().flat_map(|point| [Included(point), Excluded(point)]).chain([Unbounded]);
    for from in bounds() {
        for to in bounds() {
            let after = |key: &[u8]| match from {
                Included(bound) => key >= bound,
                Excluded(bound) => key > bound,
                Unbounded => true,
            };
            let before = |key: &[u8]| match to {
                Included(bound) => key <= bound,
                Excluded(bound) => key < bound,
                Unbounded => true,
            };
            let expected: Vec<_> = all.iter().filter(|key| after(key) && before(key)).cloned().collect();
            assert_eq!(keys(&*storage, Keyspace::Index, from, to), expected, "{from:?} to {to:?}");
        }
    }
}

pub(crate) fn scans_see_one_moment(bed: &dyn Bed) {
    let storage = bed.open().unwrap();
    let key = |n: u32| n.to_be_bytes().to_vec();
    for n in 0..500 {
        put(&*storage, Keyspace::Objects, &key(2 * n), b"old");
    }
    let mut scan = storage.scan(Keyspace::Objects, Unbounded, Unbounded);
    let mut seen: Vec<_> = scan.by_ref().take(10).map(Result::unwrap).collect();
    let mut batch = Batch::new();
    for n in 0..500 {
        match n % 3 {
            0 => batch.put(Keyspace::Objects, key(2 * n), &b"new"[..]),
            1 => batch.delete(Keyspace::Objects, key(2 * n)),
            _ => batch.add(Keyspace::Objects, key(2 * n), 7),
        }
        batch.put(Keyspace::Objects, key(2 * n + 1), &b"new"[..]);
    }
    storage.commit(batch.clone(), Durability::Flush).unwrap();
    seen.extend(scan.by_ref().take(200).map(Result::unwrap));
    // A second change must not replace what the first left for the scan.
    storage.commit(batch, Durability::Os).unwrap();
    seen.extend(scan.map(Result::unwrap));
    assert_eq!(seen.len(), 500);
    for (n, (found, value)) in (0..).zip(&seen) {
        assert_eq!((found.as_ref(), value.as_ref()), (key(2 * n).as_ref(), &b"old"[..]));
    }
    let after = storage.scan(Keyspace::Objects, Unbounded, Unbounded).map(Result::unwrap).collect::<Vec<_>>();
    assert_eq!(after.len(), 1000 - 167);
    assert!(after.iter().all(|(_, value)| value != "old"));
}

pub(crate) fn scans_see_whole_batches(bed: &dyn Bed) {
    let storage = bed.open().unwrap();
    let done = AtomicBool::new(false);
    let (first, last) = (&b"a"[..], &b"z"[..]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..300_u32 {
                let mut batch = Batch::new();
                batch.put(Keyspace::Objects, first, n.to_be_bytes().to_vec());
                for filler in 0..70_u8 {
                    batch.put(Keyspace::Objects, vec![b'b', filler], n.to_be_bytes().to_vec());
                }
                batch.put(Keyspace::Objects, last, n.to_be_bytes().to_vec());
                storage.commit(batch, Durability::Os).unwrap();
            }
            done.store(true, Ordering::Release);
        });
        loop {
            let last_round = done.load(Ordering::Acquire);
            let entries: Vec<_> = storage.scan(Keyspace::Objects, Unbounded, Unbounded).map(Result::unwrap).collect();
            assert!(entries.is_empty() || entries.len() == 72, "{}", entries.len());
            assert!(entries.windows(2).all(|pair| pair[0].1 == pair[1].1), "a torn batch was read");
            if last_round {
                break;
            }
        }
    });
}

pub(crate) fn changes_apply_in_order(bed: &dyn Bed) {
    let storage = bed.open().unwrap();
    let mut batch = Batch::new();
    batch.put(Keyspace::Objects, &b"kept"[..], &b"1"[..]);
    batch.delete(Keyspace::Objects, &b"kept"[..]);
    batch.put(Keyspace::Objects, &b"kept"[..], &b"2"[..]);
    batch.put(Keyspace::Objects, &b"gone"[..], &b"1"[..]);
    batch.delete(Keyspace::Objects, &b"gone"[..]);
    batch.delete(Keyspace::Objects, &b"never"[..]);
    batch.add(Keyspace::Merkle, &b"sum"[..], 5);
    batch.delete(Keyspace::Merkle, &b"sum"[..]);
    batch.add(Keyspace::Merkle, &b"sum"[..], 2);
    batch.add(Keyspace::Merkle, &b"sum"[..], 1);
    storage.commit(batch, Durability::Flush).unwrap();
    assert_eq!(get(&*storage, Keyspace::Objects, b"kept").as_deref(), Some(&b"2"[..]));
    assert_eq!(get(&*storage, Keyspace::Objects, b"gone"), None);
    assert_eq!(get(&*storage, Keyspace::Objects, b"never"), None);
    assert_eq!(sum(&*storage, b"sum"), 3);
}

pub(crate) fn sums_wrap_around(bed: &dyn Bed) {
    let storage = bed.open().unwrap();
    let deltas = [u128::MAX, 3, u128::MAX - 7, 1 << 127, 1 << 127, 42];
    let mut expected = 0_u128;
    for delta in deltas {
        let mut batch = Batch::new();
        batch.add(Keyspace::Merkle, &b"leaf"[..], delta);
        storage.commit(batch, Durability::Os).unwrap();
        expected = expected.wrapping_add(delta);
        assert_eq!(sum(&*storage, b"leaf"), expected);
    }
    let mut batch = Batch::new();
    batch.add(Keyspace::Merkle, &b"leaf"[..], expected.wrapping_neg());
    storage.commit(batch, Durability::Flush).unwrap();
    assert_eq!(sum(&*storage, b"leaf"), 0);
    drop(storage);
    assert_eq!(sum(&*bed.open().unwrap(), b"leaf"), 0);
}

pub(crate) fn sums_start_from_what_was_put(bed: &dyn Bed) {
    let storage = bed.open().unwrap();
    for (stored, expected) in [(&[2_u8, 1][..], 0x0102 + 1), (&[], 1), (&[255; 16], 0), (&[0; 40], 1)] {
        put(&*storage, Keyspace::Merkle, b"leaf", stored);
        let mut batch = Batch::new();
        batch.add(Keyspace::Merkle, &b"leaf"[..], 1);
        storage.commit(batch, Durability::Os).unwrap();
        assert_eq!(sum(&*storage, b"leaf"), expected, "{stored:?}");
    }
}

pub(crate) fn reopening_keeps_everything(bed: &dyn Bed) {
    for round in 0..3_u8 {
        let storage = bed.open().unwrap();
        for earlier in 0..round {
            assert_eq!(get(&*storage, Keyspace::Meta, &[earlier, 0]).as_deref(), Some(&b"flushed"[..]));
            assert_eq!(get(&*storage, Keyspace::Meta, &[earlier, 1]).as_deref(), Some(&b"handed over"[..]));
        }
        assert_eq!(sum(&*storage, b"rounds"), u128::from(round));
        let mut batch = Batch::new();
        batch.put(Keyspace::Meta, vec![round, 0], &b"flushed"[..]);
        batch.add(Keyspace::Merkle, &b"rounds"[..], 1);
        storage.commit(batch, Durability::Flush).unwrap();
        put(&*storage, Keyspace::Meta, &[round, 1], b"handed over");
    }
}

pub(crate) fn values_of_eight_mebibytes(bed: &dyn Bed) {
    let storage = bed.open().unwrap();
    let value: Bytes = (0..8_u32 << 20).map(|n| u8::try_from(n.wrapping_mul(2_654_435_761) >> 24).unwrap()).collect();
    let mut batch = Batch::new();
    batch.put(Keyspace::Objects, &b"large"[..], value.clone());
    batch.put(Keyspace::Index, &b"large"[..], &b"digest"[..]);
    storage.commit(batch, Durability::Flush).unwrap();
    assert_eq!(storage.get(Keyspace::Objects, b"large").unwrap(), Some(value.clone()));
    drop(storage);
    let storage = bed.open().unwrap();
    let scanned: Vec<_> = storage.scan(Keyspace::Objects, Unbounded, Unbounded).map(Result::unwrap).collect();
    assert_eq!(scanned, [(Bytes::from_static(b"large"), value)]);
}

pub(crate) fn empty_keys_values_and_batches(bed: &dyn Bed) {
    let storage = bed.open().unwrap();
    storage.commit(Batch::new(), Durability::Os).unwrap();
    storage.commit(Batch::new(), Durability::Flush).unwrap();
    storage.flush().unwrap();
    put(&*storage, Keyspace::Meta, b"", b"");
    assert_eq!(get(&*storage, Keyspace::Meta, b"").as_deref(), Some(&b""[..]));
    assert_eq!(keys(&*storage, Keyspace::Meta, Included(b""), Included(b"")), [b"".to_vec()]);
    assert_eq!(keys(&*storage, Keyspace::Meta, Excluded(b""), Unbounded), Vec::<Vec<u8>>::new());
}

pub(crate) fn many_keys_at_once(bed: &dyn Bed) {
    let storage = bed.open().unwrap();
    for n in 0..50_u8 {
        put(&*storage, Keyspace::Objects, &[n * 2], &[n]);
    }
    let asked: Vec<Bytes> = [98_u8, 3, 0, 98, 255, 4].map(|key| Bytes::copy_from_slice(&[key])).to_vec();
    let found: Vec<_> = storage.multi_get(Keyspace::Objects, &asked).into_iter().map(Result::unwrap).collect();
    let expected = [Some(49_u8), None, Some(0), Some(49), None, Some(2)];
    assert_eq!(found, expected.map(|value| value.map(|value| Bytes::copy_from_slice(&[value]))));
    assert!(storage.multi_get(Keyspace::Objects, &[]).is_empty());
}

pub(crate) fn the_cache_agrees_with_the_disk(bed: &dyn Bed) {
    let storage = bed.open().unwrap();
    for n in 0..100_u8 {
        put(&*storage, Keyspace::Objects, &[n], &[n]);
    }
    let mut batch = Batch::new();
    batch.delete(Keyspace::Objects, vec![7]);
    storage.commit(batch, Durability::Os).unwrap();
    let mut known = 0;
    for n in 0..200_u8 {
        if let Some(cached) = storage.get_cached(Keyspace::Objects, &[n]) {
            known += 1;
            assert_eq!(cached.unwrap(), storage.get(Keyspace::Objects, &[n]).unwrap());
        }
    }
    assert!(known >= 99, "what was just written is known without the disk: {known}");
}

pub(crate) fn one_opener_at_a_time(bed: &dyn Bed) {
    let storage = bed.open().unwrap();
    put(&*storage, Keyspace::Meta, b"key", b"value");
    assert!(matches!(bed.open().map(|_| ()), Err(StorageError::Locked(_))));
    assert_eq!(get(&*storage, Keyspace::Meta, b"key").as_deref(), Some(&b"value"[..]), "the first goes on");
    drop(storage);
    bed.open().unwrap();
}

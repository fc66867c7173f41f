//! What a simulated disk does wrong, and that it is decided by the seed alone.

use std::collections::BTreeSet;
use std::ops::Bound::Unbounded;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate::env::Entropy;
use quorate::storage::memory::{Faults, MemoryDisk, MemoryStorage};
use quorate::storage::{Batch, Durability, Keyspace, Space, Storage, StorageError};

fn disk(seed: u64) -> MemoryDisk {
    MemoryDisk::new(Arc::new(Entropy::seeded(seed)))
}

/// Batch number `n`: two keys, so that a half of it would show.
fn pair(n: u32) -> Batch {
    let mut batch = Batch::new();
    batch.put(Keyspace::Objects, n.to_be_bytes().to_vec(), &b"value"[..]);
    batch.put(Keyspace::Index, n.to_be_bytes().to_vec(), &b"digest"[..]);
    batch
}

/// How many batches are there; panics unless they are whole and the first ones.
fn prefix(storage: &dyn Storage) -> u32 {
    let numbers = |keyspace| -> Vec<u32> {
        let keys = storage.scan(keyspace, Unbounded, Unbounded).map(|entry| entry.unwrap().0);
        keys.map(|key| u32::from_be_bytes(key.as_ref().try_into().unwrap())).collect()
    };
    let found = numbers(Keyspace::Objects);
    assert_eq!(found, numbers(Keyspace::Index), "half a batch");
    let len = u32::try_from(found.len()).unwrap();
    assert_eq!(found, (0..len).collect::<Vec<_>>(), "not a prefix");
    len
}

fn fill(storage: &dyn Storage, numbers: std::ops::Range<u32>, durability: Durability) {
    for n in numbers {
        storage.commit(pair(n), durability).unwrap();
    }
}

#[test]
fn a_crash_keeps_a_prefix_and_all_that_was_flushed() {
    let mut lengths = BTreeSet::new();
    for seed in 0..200 {
        let disk = disk(seed);
        let storage = disk.open().unwrap();
        fill(&storage, 0..3, Durability::Os);
        fill(&storage, 3..4, Durability::Flush);
        fill(&storage, 4..9, Durability::Os);
        assert_eq!(disk.unsynced(), 5);
        disk.crash(&Entropy::seeded(seed));
        assert!(matches!(storage.get(Keyspace::Objects, &[0; 4]), Err(StorageError::Io(_))), "the old handle is dead");
        assert!(matches!(storage.commit(pair(9), Durability::Os), Err(StorageError::Io(_))));
        assert!(matches!(storage.get_cached(Keyspace::Objects, &[0; 4]), Some(Err(StorageError::Io(_)))));
        assert!(matches!(storage.scan(Keyspace::Objects, Unbounded, Unbounded).next(), Some(Err(StorageError::Io(_)))));
        let reopened = disk.open().unwrap();
        drop(storage);
        let kept = prefix(&reopened);
        assert!((4..=9).contains(&kept), "{kept}");
        lengths.insert(kept);
        assert_eq!(disk.unsynced(), 0);
    }
    assert_eq!(lengths, (4..=9).collect(), "every length happens");
}

#[test]
fn a_dead_process_loses_nothing_and_a_flush_covers_what_came_before() {
    let disk = disk(1);
    let storage = disk.open().unwrap();
    fill(&storage, 0..5, Durability::Os);
    disk.kill();
    assert!(matches!(storage.flush(), Err(StorageError::Io(_))));
    let storage = disk.open().unwrap();
    assert_eq!(prefix(&storage), 5);
    assert_eq!(disk.unsynced(), 5);
    storage.flush().unwrap();
    disk.crash(&Entropy::seeded(1));
    assert_eq!(prefix(&disk.open().unwrap()), 5);
}

#[test]
fn a_failed_write_leaves_nothing_and_latches() {
    let disk = disk(1);
    let storage = disk.open().unwrap();
    fill(&storage, 0..2, Durability::Flush);
    disk.set_faults(Faults { commit_error: 1.0, ..Faults::default() });
    assert!(matches!(storage.commit(pair(2), Durability::Flush), Err(StorageError::Io(_))));
    disk.set_faults(Faults::default());
    assert!(matches!(storage.commit(pair(3), Durability::Os), Err(StorageError::ReadOnly(_))));
    assert!(matches!(storage.flush(), Err(StorageError::ReadOnly(_))));
    assert_eq!(prefix(&storage), 2, "reads go on");
    drop(storage);
    let storage = disk.open().unwrap();
    assert_eq!(prefix(&storage), 2);
    fill(&storage, 2..3, Durability::Flush);
}

#[test]
fn a_failed_flush_is_not_readable_and_may_be_there_later() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..64 {
        for crash in [false, true] {
            let disk = disk(seed);
            let storage = disk.open().unwrap();
            fill(&storage, 0..2, Durability::Os);
            disk.set_faults(Faults { flush_error: 1.0, ..Faults::default() });
            assert!(matches!(storage.commit(pair(2), Durability::Flush), Err(StorageError::Io(_))));
            assert_eq!(prefix(&storage), 2, "not readable");
            assert!(matches!(storage.commit(pair(3), Durability::Os), Err(StorageError::ReadOnly(_))));
            drop(storage);
            if crash {
                disk.crash(&Entropy::seeded(seed));
            }
            outcomes.insert((crash, prefix(&disk.open().unwrap())));
        }
    }
    let expected = [(false, 2), (false, 3), (true, 0), (true, 1), (true, 2), (true, 3)];
    assert_eq!(outcomes, BTreeSet::from(expected));
}

#[test]
fn a_failed_plain_flush_latches_too() {
    let disk = disk(1);
    let storage = disk.open().unwrap();
    fill(&storage, 0..2, Durability::Os);
    disk.set_faults(Faults { flush_error: 1.0, ..Faults::default() });
    assert!(matches!(storage.flush(), Err(StorageError::Io(_))));
    assert!(matches!(storage.flush(), Err(StorageError::ReadOnly(_))));
    assert_eq!(disk.unsynced(), 2, "nothing became durable");
}

#[test]
fn a_full_disk_says_so() {
    let disk = disk(1);
    // A pair takes 4 + 5 and 4 + 6 bytes.
    disk.set_faults(Faults { capacity: Some(100), ..Faults::default() });
    let storage = disk.open().unwrap();
    fill(&storage, 0..5, Durability::Flush);
    assert_eq!(storage.space(), Some(Space { free: 5, total: 100 }));
    assert!(matches!(storage.commit(pair(5), Durability::Flush), Err(StorageError::Full(_))));
    assert_eq!(prefix(&storage), 5);
    assert!(matches!(storage.commit(Batch::new(), Durability::Os), Err(StorageError::ReadOnly(_))));
    drop(storage);
    let storage = disk.open().unwrap();
    let mut deletes = Batch::new();
    deletes.delete(Keyspace::Objects, 4_u32.to_be_bytes().to_vec());
    deletes.delete(Keyspace::Index, 4_u32.to_be_bytes().to_vec());
    storage.commit(deletes, Durability::Flush).unwrap();
    fill(&storage, 4..5, Durability::Flush);
    assert_eq!(storage.space(), Some(Space { free: 5, total: 100 }));
}

#[test]
fn damage_lasts_until_it_is_overwritten() {
    let disk = disk(1);
    let storage = disk.open().unwrap();
    fill(&storage, 0..4, Durability::Flush);
    let key = 1_u32.to_be_bytes();
    assert!(disk.damage(Keyspace::Objects, &key));
    assert!(!disk.damage(Keyspace::Objects, b"nothing here"));
    let corrupt =
        |storage: &MemoryStorage| matches!(storage.get(Keyspace::Objects, &key), Err(StorageError::Corrupt { .. }));
    assert!(corrupt(&storage));
    assert!(storage.get_cached(Keyspace::Objects, &key).is_none());
    let asked = [0_u32, 1, 2].map(|n| Bytes::copy_from_slice(&n.to_be_bytes()));
    let answers = storage.multi_get(Keyspace::Objects, &asked);
    assert!(matches!(answers[..], [Ok(Some(_)), Err(StorageError::Corrupt { .. }), Ok(Some(_))]), "{answers:?}");
    let scanned: Vec<_> = storage.scan(Keyspace::Objects, Unbounded, Unbounded).collect();
    assert!(matches!(scanned[..], [Ok(_), Err(StorageError::Corrupt { .. })]), "an error ends a scan: {scanned:?}");
    assert!(storage.get(Keyspace::Index, &key).unwrap().is_some(), "the other keyspace is well");

    // An overwrite that a crash loses heals nothing.
    storage.commit(pair(1), Durability::Os).unwrap();
    assert!(!corrupt(&storage));
    let lost = (0..).find(|seed| Entropy::seeded(*seed).below(2) == 0).unwrap();
    disk.crash(&Entropy::seeded(lost));
    let storage = disk.open().unwrap();
    assert!(corrupt(&storage));
    storage.commit(pair(1), Durability::Flush).unwrap();
    disk.crash(&Entropy::seeded(0));
    assert!(!corrupt(&disk.open().unwrap()));
}

#[test]
fn read_errors_and_random_damage_follow_their_probability() {
    let disk = disk(3);
    let storage = disk.open().unwrap();
    fill(&storage, 0..50, Durability::Flush);
    disk.set_faults(Faults { read_error: 0.5, ..Faults::default() });
    let failed = (0..200).filter(|_| storage.get(Keyspace::Objects, &[0; 4]).is_err()).count();
    assert!((60..140).contains(&failed), "{failed}");
    let ends = |_: &i32| storage.scan(Keyspace::Objects, Unbounded, Unbounded).last().unwrap().is_err();
    let failed = (0..200).filter(ends).count();
    assert!((60..140).contains(&failed), "{failed}");
    disk.set_faults(Faults { damage: 0.1, ..Faults::default() });
    let damaged = |n: &u32| matches!(storage.get(Keyspace::Index, &n.to_be_bytes()), Err(StorageError::Corrupt { .. }));
    let first: Vec<u32> = (0..50).filter(damaged).collect();
    assert!((1..20).contains(&first.len()), "{first:?}");
    disk.set_faults(Faults::default());
    assert_eq!((0..50).filter(damaged).collect::<Vec<_>>(), first, "damage stays");
    disk.set_faults(Faults { uncached: 1.0, ..Faults::default() });
    assert!(storage.get_cached(Keyspace::Objects, &[0; 4]).is_none());
}

#[test]
fn flushes_stall_within_their_range() {
    let disk = disk(1);
    let storage = disk.open().unwrap();
    let (least, most) = (Duration::from_millis(2), Duration::from_millis(9));
    disk.set_faults(Faults { flush_stall: Some((least, most)), ..Faults::default() });
    let stalls: Vec<_> = (0..50).map(|n| storage.commit(pair(n), Durability::Flush).unwrap().stall).collect();
    assert!(stalls.iter().all(|stall| (least..=most).contains(stall)));
    assert!(stalls.iter().collect::<BTreeSet<_>>().len() > 10);
    assert_eq!(storage.commit(pair(50), Durability::Os).unwrap().stall, Duration::ZERO);
    assert!(storage.flush().unwrap().stall >= least);
}

#[test]
fn directories_are_wiped_rolled_back_and_copied() {
    let disk = disk(1);
    let storage = disk.open().unwrap();
    fill(&storage, 0..3, Durability::Os);
    let copied = disk.snapshot_platter();
    fill(&storage, 3..6, Durability::Flush);
    let clone = MemoryDisk::cloned_from(&copied, Arc::new(Entropy::seeded(2)));
    assert_eq!(prefix(&clone.open().unwrap()), 3);
    assert_eq!(prefix(&storage), 6, "a copy leaves the original alone");
    disk.restore_platter(&copied);
    assert!(storage.get(Keyspace::Objects, &[0; 4]).is_err(), "rolled back under its feet");
    assert_eq!(prefix(&disk.open().unwrap()), 3);
    disk.wipe();
    assert_eq!(prefix(&disk.open().unwrap()), 0);
}

#[test]
fn a_seed_decides_everything() {
    let run = |seed| {
        let disk = disk(seed);
        let mut trace = Vec::new();
        disk.set_faults(Faults {
            read_error: 0.1,
            damage: 0.1,
            uncached: 0.3,
            commit_error: 0.02,
            flush_error: 0.05,
            flush_stall: Some((Duration::ZERO, Duration::from_millis(5))),
            capacity: Some(2000),
        });
        let crashes = Entropy::seeded(seed);
        for n in 0..400_u32 {
            let storage = disk.open().unwrap();
            let durability = if n % 3 == 0 { Durability::Flush } else { Durability::Os };
            trace.push(format!("{:?}", storage.commit(pair(n % 60), durability)));
            trace.push(format!("{:?}", storage.get(Keyspace::Objects, &(n % 60).to_be_bytes())));
            trace.push(format!("{:?}", storage.get_cached(Keyspace::Index, &(n % 60).to_be_bytes())));
            trace.push(format!("{:?}", storage.scan(Keyspace::Index, Unbounded, Unbounded).collect::<Vec<_>>()));
            if n % 20 == 19 {
                disk.crash(&crashes);
            }
        }
        trace
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn without_a_platter_nothing_piles_up() {
    let storage = MemoryStorage::ephemeral(Arc::new(Entropy::seeded(1)));
    fill(&storage, 0..100, Durability::Os);
    fill(&storage, 100..200, Durability::Flush);
    assert_eq!(prefix(&storage), 200);
    assert_eq!(storage.space(), None);
}

#[test]
fn the_system_writes_back_in_time() {
    let disk = disk(1);
    let storage = disk.open().unwrap();
    fill(&storage, 0..5000, Durability::Os);
    assert!(disk.unsynced() < 5000);
    disk.crash(&Entropy::seeded(1));
    assert!(prefix(&disk.open().unwrap()) >= 904);
}

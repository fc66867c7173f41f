//! What happens to a RocksDB store when its files are not what they were: damaged tables, torn and shortened logs, a
//! full disk.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Bound::Unbounded;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use quorate::env::Entropy;
use quorate::storage::rocks::{DIRECTORY, RocksOptions, RocksStorage};
use quorate::storage::{Batch, Durability, Keyspace, Storage, StorageError};

/// Small buffers, so that little data moves through all of RocksDB.
pub(crate) fn small() -> RocksOptions {
    RocksOptions { block_cache: 1 << 20, write_buffers: 1 << 20, ..RocksOptions::default() }
}

fn open(dir: &Path) -> Result<RocksStorage, StorageError> {
    RocksStorage::open(dir, &small())
}

/// The files of the store whose names end in `ending`, oldest first.
fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join(DIRECTORY)).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|found| found == ending)).collect();
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.join(DIRECTORY)).unwrap();
    for entry in fs::read_dir(from.join(DIRECTORY)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(DIRECTORY).join(path.file_name().unwrap())).unwrap();
    }
}

/// Batch number `n`: two keyspaces and a counter, so that a half of it would show.
pub(crate) fn numbered(n: u32, value: Vec<u8>) -> Batch {
    let mut batch = Batch::new();
    batch.put(Keyspace::Objects, n.to_be_bytes().to_vec(), value);
    batch.put(Keyspace::Index, n.to_be_bytes().to_vec(), &b"digest"[..]);
    batch.add(Keyspace::Merkle, &b"count"[..], 1);
    batch
}

/// How many batches are there; panics unless they are whole and the first ones.
pub(crate) fn prefix(storage: &dyn Storage) -> u32 {
    let numbers = |keyspace| -> Vec<u32> {
        let keys = storage.scan(keyspace, Unbounded, Unbounded).map(|entry| entry.unwrap().0);
        keys.map(|key| u32::from_be_bytes(key.as_ref().try_into().unwrap())).collect()
    };
    let found = numbers(Keyspace::Objects);
    assert_eq!(found, numbers(Keyspace::Index), "half a batch");
    let len = u32::try_from(found.len()).unwrap();
    assert_eq!(found, (0..len).collect::<Vec<_>>(), "not a prefix");
    assert_eq!(crate::suite::sum(storage, b"count"), u128::from(len), "half a batch");
    len
}

#[test]
fn a_flipped_byte_in_a_table_is_never_a_wrong_answer() {
    let origin = tempfile::tempdir().unwrap();
    let entropy = Entropy::seeded(5);
    let mut expected = BTreeMap::new();
    let storage = open(origin.path()).unwrap();
    for n in 0..1000_u32 {
        let value: Vec<u8> = (0..13).flat_map(|_| entropy.u64().to_le_bytes()).collect();
        let mut batch = Batch::new();
        batch.put(Keyspace::Objects, n.to_be_bytes().to_vec(), value.clone());
        storage.commit(batch, Durability::Os).unwrap();
        expected.insert(Bytes::copy_from_slice(&n.to_be_bytes()), Bytes::from(value));
    }
    storage.flush().unwrap();
    storage.compact().unwrap();
    drop(storage);

    let [table] = &files(origin.path(), "sst")[..] else { panic!("one table expected") };
    let sound = fs::read(table).unwrap();
    let keys: Vec<Bytes> = expected.keys().cloned().collect();
    let (mut refused, mut partly) = (0, 0);
    for step in 0..40 {
        let mut damaged = sound.clone();
        let at = step * sound.len() / 40 + usize::try_from(entropy.below(97)).unwrap();
        damaged[at.min(sound.len() - 1)] ^= 0x10;
        let dir = tempfile::tempdir().unwrap();
        copy(origin.path(), dir.path());
        fs::write(dir.path().join(DIRECTORY).join(table.file_name().unwrap()), &damaged).unwrap();
        let storage = match open(dir.path()) {
            Ok(storage) => storage,
            Err(StorageError::Corrupt { .. }) => {
                refused += 1;
                continue;
            }
            Err(other) => panic!("{other}"),
        };
        let singly: Vec<_> = keys.iter().map(|key| storage.get(Keyspace::Objects, key)).collect();
        let together = storage.multi_get(Keyspace::Objects, &keys);
        for answers in [&singly, &together] {
            let mut corrupt = 0;
            for (key, answer) in keys.iter().zip(answers) {
                match answer {
                    Ok(value) => assert_eq!(value.as_ref(), expected.get(key), "a wrong answer, byte {at}"),
                    Err(StorageError::Corrupt { .. }) => corrupt += 1,
                    Err(other) => panic!("{other}"),
                }
            }
            partly += usize::from(corrupt > 0 && corrupt < keys.len());
        }
        let mut scan = storage.scan(Keyspace::Objects, Unbounded, Unbounded);
        let good: Vec<_> = scan.by_ref().take_while(Result::is_ok).map(Result::unwrap).collect();
        assert!(scan.next().is_none(), "an error ends a scan");
        assert!(good.iter().all(|(key, value)| expected.get(key) == Some(value)));
        assert_eq!(good.len() == keys.len(), singly.iter().all(Result::is_ok), "a scan stops at damage, byte {at}");

        if let Some(n) = singly.iter().position(Result::is_err) {
            let mut batch = Batch::new();
            batch.put(Keyspace::Objects, keys[n].clone(), &b"again"[..]);
            storage.commit(batch, Durability::Os).unwrap();
            assert_eq!(storage.get(Keyspace::Objects, &keys[n]).unwrap().as_deref(), Some(&b"again"[..]));
        }
    }
    assert!(partly >= 40, "most damage is to blocks, and spares the others: {partly} of 80, {refused} refused");
}

/// A store whose log holds `count` batches, none of them in a table file.
fn logged(dir: &Path, count: u32, durability: Durability) -> PathBuf {
    let storage = open(dir).unwrap();
    for n in 0..count {
        storage.commit(numbered(n, vec![b'v'; 300]), durability).unwrap();
    }
    drop(storage);
    files(dir, "log").pop().unwrap()
}

#[test]
fn a_torn_unsynced_tail_opens_and_keeps_a_prefix() {
    let origin = tempfile::tempdir().unwrap();
    let log = logged(origin.path(), 30, Durability::Os);
    let sound = fs::read(&log).unwrap();
    let mut lengths = std::collections::BTreeSet::new();
    for step in 0..24 {
        // Where the power went, and what was there instead of the rest: nothing, zeros, or anything.
        let cut = sound.len() - 1 - step * 37;
        let mut torn = sound[..cut].to_vec();
        match step % 3 {
            0 => {}
            1 => torn.resize(sound.len() + 4096, 0),
            _ => torn.resize(sound.len(), 0xa5),
        }
        let dir = tempfile::tempdir().unwrap();
        copy(origin.path(), dir.path());
        fs::write(dir.path().join(DIRECTORY).join(log.file_name().unwrap()), torn).unwrap();
        let storage = open(dir.path()).unwrap();
        let kept = prefix(&storage);
        lengths.insert(kept);
        storage.commit(numbered(kept, Vec::new()), Durability::Flush).unwrap();
        drop(storage);
        assert_eq!(prefix(&open(dir.path()).unwrap()), kept + 1, "a torn tail does not come back");
    }
    assert!(lengths.len() >= 3 && lengths.iter().all(|kept| (25..30).contains(kept)), "{lengths:?}");
}

#[test]
fn a_log_that_lost_synced_writes_is_refused() {
    let origin = tempfile::tempdir().unwrap();
    let log = logged(origin.path(), 30, Durability::Flush);
    let sound = fs::read(&log).unwrap();
    let mut flipped = sound.clone();
    flipped[sound.len() / 2] ^= 1;
    let cut = sound[..sound.len() - 1].to_vec();
    for (what, bytes, least) in
        [("one byte short", cut, 29), ("a flipped bit inside", flipped, 10), ("empty", Vec::new(), 0)]
    {
        let dir = tempfile::tempdir().unwrap();
        copy(origin.path(), dir.path());
        fs::write(dir.path().join(DIRECTORY).join(log.file_name().unwrap()), bytes).unwrap();
        for _ in 0..2 {
            let answer = open(dir.path()).map(|storage| prefix(&storage));
            assert!(matches!(answer, Err(StorageError::Corrupt { .. })), "{what}: {answer:?}");
        }
        let accepted = RocksStorage::open(dir.path(), &RocksOptions { accept_loss: true, ..small() }).unwrap();
        let kept = prefix(&accepted);
        assert!((least..30).contains(&kept), "{what}: {kept}");
        drop(accepted);
        assert_eq!(prefix(&open(dir.path()).unwrap()), kept, "{what}: accepted once, it is accepted");
    }
    assert_eq!(prefix(&open(origin.path()).unwrap()), 30);
}

#[test]
fn a_missing_directory_is_made_and_a_file_in_its_place_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("a/b/c");
    open(&deep).unwrap().commit(numbered(0, Vec::new()), Durability::Flush).unwrap();
    assert_eq!(prefix(&open(&deep).unwrap()), 1);
    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    assert!(matches!(open(&file), Err(StorageError::Io(_))));
}

#[test]
fn space_is_that_of_the_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let space = open(dir.path()).unwrap().space().unwrap();
    assert!(space.free > 0 && space.free <= space.total, "{space:?}");
}

/// A small file system of its own, unmounted at the end.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .output();
        match mount {
            Ok(output) if output.status.success() => Some(Self(dir)),
            Ok(output) => {
                println!("skipped: no tmpfs can be mounted here: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                println!("skipped: no tmpfs can be mounted here: {error}");
                None
            }
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_says_so_and_loses_nothing() {
    let Some(tmpfs) = Tmpfs::mount("16m") else { return };
    let ballast = tmpfs.0.path().join("ballast");
    fs::write(&ballast, vec![0; 6 << 20]).unwrap();
    let entropy = Entropy::seeded(1);
    for durability in [Durability::Flush, Durability::Os] {
        let dir = tmpfs.0.path().join(format!("{durability:?}"));
        let storage = open(&dir).unwrap();
        let value = || (0..4096).flat_map(|_| entropy.u64().to_le_bytes()).collect::<Vec<_>>();
        let (failed, error) = (0..1000_u32)
            .find_map(|n| storage.commit(numbered(n, value()), durability).err().map(|error| (n, error)))
            .expect("16 MiB do not hold 1000 values of 32 KiB");
        assert!(matches!(error, StorageError::Full(_)), "{error}");
        assert_eq!(storage.get(Keyspace::Objects, &failed.to_be_bytes()).unwrap(), None, "not readable");
        assert!(matches!(storage.commit(Batch::new(), Durability::Os), Err(StorageError::ReadOnly(_))));
        assert!(matches!(storage.flush(), Err(StorageError::ReadOnly(_))));
        assert_eq!(prefix(&storage), failed, "reads go on");
        assert!(storage.space().unwrap().free < 1 << 20);
        // Space alone does not end it: an operator restarts the node.
        fs::remove_file(&ballast).unwrap();
        assert!(matches!(storage.commit(Batch::new(), Durability::Flush), Err(StorageError::ReadOnly(_))));
        drop(storage);
        let storage = open(&dir).unwrap();
        let kept = prefix(&storage);
        assert!((failed..=failed + 1).contains(&kept), "{failed} acknowledged, {kept} there");
        storage.commit(numbered(kept, Vec::new()), Durability::Flush).unwrap();
        drop(storage);
        fs::remove_dir_all(&dir).unwrap();
        fs::write(&ballast, vec![0; 6 << 20]).unwrap();
    }
}

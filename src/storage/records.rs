//! A cache of records over a store: what was read lately is answered without asking RocksDB, whose own cache is of blocks
//! and costs a search in every table.
//!
//! It is exact: **nothing is answered that a commit has overtaken.** While a commit that changes a key is under way, the
//! key is marked, and who finds the mark asks the store. The mark is set before the commit begins and taken away after
//! the last trace of the key has left the cache, so that
//! - nobody who comes while the commit decides what is readable is answered from the cache, and what the store has shown
//!   once is not taken back;
//! - a read that took the old value out of the store before, and wants to leave it here after, finds its place gone.
//!
//! `tests/models/records.rs` goes through every interleaving of this; each of its steps is needed there.
//!
//! After a commit that failed its keys stay marked: the store is read-only from then on and knows by itself what it shows.
//! Values are put here by reads that memory answers, so neither a load of writes nor a transfer throws out what is read.
//! What the disk damages under a record that is kept here is found once the record was thrown out, or by scans.

use std::hash::{BuildHasher, DefaultHasher, Hasher};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle, GuardResult};
use quick_cache::{OptionsBuilder, Weighter};

use super::{Batch, Change, Committed, Durability, Entry, Keyspace, Space, Storage, StorageError};
use crate::metrics::Metrics;

/// Marks, each for the keys that hash to it: as many commits are under way there.
const MARKS: usize = 4096;
/// Parts of the cache with a lock and a bound of their own. A record larger than a part is not kept.
const PARTS: usize = 8;
/// What an entry costs beside its key and its value.
const OVERHEAD: usize = 160;

/// A store, and the records read from it lately.
pub struct RecordCache {
    store: Arc<dyn Storage>,
    cache: Cache<Bytes, Bytes, Size, Seeded, DefaultLifecycle<Bytes, Bytes>>,
    marks: Box<[AtomicU32]>,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for RecordCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordCache").field("bytes", &self.cache.weight()).finish_non_exhaustive()
    }
}

impl RecordCache {
    /// A cache of at most so many bytes over a store. `seed`: what clients cannot know when they choose keys.
    #[must_use]
    pub fn new(store: Arc<dyn Storage>, bytes: usize, seed: u64, metrics: &Arc<Metrics>) -> Self {
        let mut options = OptionsBuilder::new();
        options.shards(PARTS).weight_capacity(bytes as u64).estimated_items_capacity(bytes / 1024);
        let options = options.build().expect("capacities are all that it needs");
        let cache = Cache::with_options(options, Size, Seeded(seed), DefaultLifecycle::default());
        let marks = (0..MARKS).map(|_| AtomicU32::new(0)).collect();
        Self { store, cache, marks, metrics: Arc::clone(metrics) }
    }

    fn mark(&self, key: &[u8]) -> &AtomicU32 {
        &self.marks[crc32fast::hash(key) as usize % MARKS]
    }

    /// Whether a commit is under way that may change what is under this key: who asks now has to ask the store.
    fn is_marked(&self, key: &[u8]) -> bool {
        self.mark(key).load(Ordering::SeqCst) > 0
    }

    /// The stored keys that a batch changes.
    fn changed(batch: &Batch) -> Vec<Bytes> {
        let object = |change: &Change| match change {
            Change::Put(Keyspace::Objects, key, _)
            | Change::Delete(Keyspace::Objects, key)
            | Change::Add(Keyspace::Objects, key, _) => Some(key.clone()),
            _ => None,
        };
        batch.changes().iter().filter_map(object).collect()
    }
}

impl Storage for RecordCache {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        if keyspace == Keyspace::Objects
            && !self.is_marked(key)
            && let Some(kept) = self.cache.get(key)
        {
            return Ok(Some(kept));
        }
        self.store.get(keyspace, key)
    }

    fn multi_get(&self, keyspace: Keyspace, keys: &[Bytes]) -> Vec<Result<Option<Bytes>, StorageError>> {
        self.store.multi_get(keyspace, keys)
    }

    fn get_cached(&self, keyspace: Keyspace, key: &[u8]) -> Option<Result<Option<Bytes>, StorageError>> {
        if keyspace != Keyspace::Objects || self.is_marked(key) {
            return self.store.get_cached(keyspace, key);
        }
        if let Some(kept) = self.cache.get(key) {
            self.metrics.replica.cache_hits.inc();
            return Some(Ok(Some(kept)));
        }
        self.metrics.replica.cache_misses.inc();
        // A key of its own: the one at hand may be a slice of a message.
        match self.cache.get_value_or_guard(&Bytes::copy_from_slice(key), Some(Duration::ZERO)) {
            GuardResult::Value(kept) => Some(Ok(Some(kept))),
            // Somebody else is at it.
            GuardResult::Timeout => self.store.get_cached(keyspace, key),
            GuardResult::Guard(place) => {
                let found = self.store.get_cached(keyspace, key)?;
                if let Ok(Some(record)) = &found {
                    // Refused where a commit has taken the place away in the meantime.
                    let _ = place.insert(record.clone());
                }
                Some(found)
            }
        }
    }

    fn scan<'a>(
        &'a self,
        keyspace: Keyspace,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Box<dyn Iterator<Item = Entry> + 'a> {
        self.store.scan(keyspace, from, to)
    }

    fn commit(&self, batch: Batch, durability: Durability) -> Result<Committed, StorageError> {
        let changed = Self::changed(&batch);
        for key in &changed {
            self.mark(key).fetch_add(1, Ordering::SeqCst);
        }
        let committed = self.store.commit(batch, durability)?;
        for key in &changed {
            self.cache.remove(key);
            self.mark(key).fetch_sub(1, Ordering::SeqCst);
        }
        Ok(committed)
    }

    fn flush(&self) -> Result<Committed, StorageError> {
        self.store.flush()
    }

    fn space(&self) -> Option<Space> {
        self.store.space()
    }
}

/// What an entry counts for.
#[derive(Clone, Copy, Debug)]
struct Size;

impl Weighter<Bytes, Bytes> for Size {
    fn weight(&self, key: &Bytes, value: &Bytes) -> u64 {
        (key.len() + value.len() + OVERHEAD) as u64
    }
}

/// Hashes that nobody outside can foresee.
#[derive(Clone, Copy, Debug)]
struct Seeded(u64);

impl BuildHasher for Seeded {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64};

    use super::*;
    use crate::env::Entropy;
    use crate::storage::memory::{Faults, MemoryDisk};

    const KEY: &[u8] = b"key";

    fn over(disk: &MemoryDisk, bytes: usize) -> (Arc<RecordCache>, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new());
        (Arc::new(RecordCache::new(Arc::new(disk.open().unwrap()), bytes, 7, &metrics)), metrics)
    }

    fn disk() -> MemoryDisk {
        MemoryDisk::new(Arc::new(Entropy::seeded(1)))
    }

    fn put(cache: &RecordCache, key: &'static [u8], value: Vec<u8>) -> Result<Committed, StorageError> {
        let mut batch = Batch::new();
        batch.put(Keyspace::Objects, key, value);
        cache.commit(batch, Durability::Flush)
    }

    fn read(cache: &RecordCache, key: &[u8]) -> Option<Bytes> {
        cache.get_cached(Keyspace::Objects, key)?.unwrap()
    }

    #[test]
    fn what_was_read_is_kept_until_a_commit_changes_it() {
        let (cache, metrics) = over(&disk(), 1 << 20);
        put(&cache, KEY, b"one".to_vec()).unwrap();
        assert_eq!(read(&cache, KEY).as_deref(), Some(&b"one"[..]));
        assert_eq!(metrics.replica.cache_hits.get(), 0, "a write leaves nothing here");
        assert_eq!(read(&cache, KEY).as_deref(), Some(&b"one"[..]));
        assert_eq!(cache.get(Keyspace::Objects, KEY).unwrap().as_deref(), Some(&b"one"[..]));
        assert_eq!(metrics.replica.cache_hits.get(), 1, "readers are counted, not what writes look up");
        put(&cache, KEY, b"two".to_vec()).unwrap();
        assert_eq!(read(&cache, KEY).as_deref(), Some(&b"two"[..]));
        let mut batch = Batch::new();
        batch.delete(Keyspace::Objects, KEY);
        cache.commit(batch, Durability::Os).unwrap();
        assert_eq!(read(&cache, KEY), None);
        assert_eq!(metrics.replica.cache_hits.get(), 1);
    }

    #[test]
    fn what_is_in_another_keyspace_is_not_kept() {
        let (cache, metrics) = over(&disk(), 1 << 20);
        let mut batch = Batch::new();
        batch.put(Keyspace::Index, KEY, &b"entry"[..]);
        cache.commit(batch, Durability::Flush).unwrap();
        for _ in 0..2 {
            assert!(cache.get_cached(Keyspace::Index, KEY).is_some());
            assert!(cache.get_cached(Keyspace::Objects, KEY).unwrap().unwrap().is_none());
        }
        assert_eq!(metrics.replica.cache_hits.get(), 0);
    }

    #[test]
    fn it_stays_within_its_bytes() {
        let (cache, _) = over(&disk(), 64 << 10);
        for round in 0..1000_u32 {
            let mut batch = Batch::new();
            let key = Bytes::copy_from_slice(&round.to_be_bytes());
            batch.put(Keyspace::Objects, key.clone(), vec![0; 1000]);
            cache.commit(batch, Durability::Os).unwrap();
            assert!(read(&cache, &key).is_some());
            assert!(cache.cache.weight() <= 64 << 10, "{} bytes", cache.cache.weight());
        }
        assert!(cache.cache.weight() > 32 << 10, "{} bytes", cache.cache.weight());
        put(&cache, b"large", vec![0; 60 << 10]).unwrap();
        assert_eq!(
            read(&cache, b"large").map(|record| record.len()),
            Some(60 << 10),
            "too large to be kept, not to be read"
        );
    }

    #[test]
    fn a_commit_that_failed_leaves_its_keys_to_the_store() {
        let disk = disk();
        let (cache, metrics) = over(&disk, 1 << 20);
        put(&cache, KEY, b"one".to_vec()).unwrap();
        assert!(read(&cache, KEY).is_some());
        disk.set_faults(Faults { flush_error: 1.0, ..Faults::default() });
        assert!(put(&cache, KEY, b"two".to_vec()).is_err());
        for _ in 0..3 {
            assert_eq!(read(&cache, KEY).as_deref(), Some(&b"one"[..]), "nothing of it is readable");
        }
        assert_eq!(metrics.replica.cache_hits.get(), 0);
    }

    /// The model has every order of the steps; this has the steps as they are, on threads.
    #[test]
    fn readers_on_threads_never_go_back() {
        const KEYS: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];
        let (cache, metrics) = over(&disk(), 8 << 10);
        let (known, done) = ([const { AtomicU64::new(0) }; KEYS.len()], AtomicBool::new(false));
        std::thread::scope(|scope| {
            for reader in 0..3 {
                let (cache, known, done) = (&cache, &known, &done);
                scope.spawn(move || {
                    let mut at = reader;
                    while !done.load(Ordering::Acquire) {
                        at = (at + 1) % KEYS.len();
                        let since = known[at].load(Ordering::SeqCst);
                        let found = read(cache, KEYS[at]);
                        let found = found.map_or(0, |record| u64::from_be_bytes(record[..8].try_into().unwrap()));
                        assert!(found >= since, "{since} was known, {found} was read");
                        known[at].fetch_max(found, Ordering::SeqCst);
                    }
                });
            }
            for round in 1..=2_000_000_u64 {
                if round > 20_000 && metrics.replica.cache_hits.get() > 0 {
                    // Readers may have been late to begin.
                    break;
                }
                let at = usize::try_from(round).unwrap() % KEYS.len();
                put(&cache, KEYS[at], round.to_be_bytes().to_vec()).unwrap();
                known[at].fetch_max(round, Ordering::SeqCst);
            }
            done.store(true, Ordering::Release);
        });
        assert!(metrics.replica.cache_hits.get() > 0, "the cache had no part in it");
    }
}

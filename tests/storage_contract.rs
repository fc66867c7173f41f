//! The contract of `Storage`: one suite, run on every implementation, then what only one of them can show.
//!
//! Memory shows what a disk does wrong, by seeds; RocksDB shows the same with real files, a real full disk and a real
//! `kill -9`.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "storage_contract/memory_faults.rs"]
mod memory_faults;
#[path = "storage_contract/model.rs"]
mod model;
#[cfg(feature = "rocksdb")]
#[path = "storage_contract/rocks_files.rs"]
mod rocks_files;
#[cfg(feature = "rocksdb")]
#[path = "storage_contract/rocks_processes.rs"]
mod rocks_processes;
#[path = "storage_contract/suite.rs"]
mod suite;

use std::sync::Arc;

use quorate::env::Entropy;
use quorate::metrics::Metrics;
use quorate::storage::memory::MemoryDisk;
use quorate::storage::records::RecordCache;
use quorate::storage::{Storage, StorageError};

/// Something that stores can be opened on, one after the other.
trait Bed {
    fn open(&self) -> Result<Box<dyn Storage>, StorageError>;
}

/// Another bed, with a cache of records over what is opened: so small that it forgets all the time.
#[derive(Default)]
struct Cached<B>(B);

impl<B: Bed> Bed for Cached<B> {
    fn open(&self) -> Result<Box<dyn Storage>, StorageError> {
        let store: Arc<dyn Storage> = Arc::from(self.0.open()?);
        Ok(Box::new(RecordCache::new(store, 16 << 10, 1, &Arc::new(Metrics::new()))))
    }
}

struct Memory(MemoryDisk);

impl Default for Memory {
    fn default() -> Self {
        Self(MemoryDisk::new(Arc::new(Entropy::seeded(1))))
    }
}

impl Bed for Memory {
    fn open(&self) -> Result<Box<dyn Storage>, StorageError> {
        Ok(Box::new(self.0.open()?))
    }
}

#[cfg(feature = "rocksdb")]
struct Rocks(tempfile::TempDir);

#[cfg(feature = "rocksdb")]
impl Default for Rocks {
    fn default() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
}

#[cfg(feature = "rocksdb")]
impl Bed for Rocks {
    fn open(&self) -> Result<Box<dyn Storage>, StorageError> {
        let storage = quorate::storage::rocks::RocksStorage::open(self.0.path(), &rocks_files::small())?;
        Ok(Box::new(storage))
    }
}

macro_rules! contract {
    ($($case:ident),* $(,)?) => {
        mod on_memory {
            $(#[test] fn $case() { crate::suite::$case(&crate::Memory::default()); })*
        }
        mod on_memory_with_a_cache_of_records {
            $(#[test] fn $case() { crate::suite::$case(&crate::Cached::<crate::Memory>::default()); })*
        }
        #[cfg(feature = "rocksdb")]
        mod on_rocksdb {
            $(#[test] fn $case() { crate::suite::$case(&crate::Rocks::default()); })*
        }
        #[cfg(feature = "rocksdb")]
        mod on_rocksdb_with_a_cache_of_records {
            $(#[test] fn $case() { crate::suite::$case(&crate::Cached::<crate::Rocks>::default()); })*
        }
    };
}

contract![
    keyspaces_are_apart,
    keys_are_ordered_bytes,
    scans_keep_their_bounds,
    scans_see_one_moment,
    scans_see_whole_batches,
    changes_apply_in_order,
    sums_wrap_around,
    sums_start_from_what_was_put,
    reopening_keeps_everything,
    values_of_eight_mebibytes,
    empty_keys_values_and_batches,
    many_keys_at_once,
    the_cache_agrees_with_the_disk,
    one_opener_at_a_time,
];

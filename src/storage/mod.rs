//! The storage seam: ordered keyspaces, atomic batches, and what a failure means.
//!
//! Synchronous on purpose: `replica`'s storage threads call it, and simulations call it inline. A batch is all or
//! nothing, in order, and not readable before it is as durable as was asked (semantics, *Commit*). After a commit or
//! flush that failed, every later one fails with [`StorageError::ReadOnly`] until the store is opened again.
//!
//! `rocks.rs` is the only file that names rocksdb; `memory.rs` can lose unsynced writes, fail, fill and corrupt.

use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

pub mod memory;
pub mod records;
#[cfg(feature = "rocksdb")]
pub mod rocks;

/// Which ordered map a key is in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Keyspace {
    /// The node's own state: identity, marks, leases, layouts.
    Meta,
    /// Objects: records.
    Objects,
    /// Per object: digest, sibling count, horizon. Answers what needs no value.
    Index,
    /// Merkle leaves: wrapping sums, changed by [`Batch::add`].
    Merkle,
    /// Hints for other owners.
    Hints,
}

impl Keyspace {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Meta, Self::Objects, Self::Index, Self::Merkle, Self::Hints];

    /// The stable name on disk.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Objects => "objects",
            Self::Index => "index",
            Self::Merkle => "merkle",
            Self::Hints => "hints",
        }
    }
}

/// One change of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Stores a value under a key.
    Put(Keyspace, Bytes, Bytes),
    /// Removes a key; nothing happens where there is none.
    Delete(Keyspace, Bytes),
    /// Adds to the 128-bit wrapping sum under a key (little endian, absent = 0). A sum of zero reads as zero or absent.
    /// A value that was put and is not 16 bytes long counts as its first 16, zeros after it.
    Add(Keyspace, Bytes, u128),
}

/// Changes that happen together or not at all, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    changes: Vec<Change>,
}

impl Batch {
    /// No changes yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { changes: Vec::new() }
    }

    /// Stores `value` under `key`.
    pub fn put(&mut self, keyspace: Keyspace, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.changes.push(Change::Put(keyspace, key.into(), value.into()));
    }

    /// Removes `key`.
    pub fn delete(&mut self, keyspace: Keyspace, key: impl Into<Bytes>) {
        self.changes.push(Change::Delete(keyspace, key.into()));
    }

    /// Adds `delta` to the sum under `key`.
    pub fn add(&mut self, keyspace: Keyspace, key: impl Into<Bytes>, delta: u128) {
        self.changes.push(Change::Add(keyspace, key.into(), delta));
    }

    /// The changes, in order.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Whether nothing would change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// How durable a commit is when it returns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Durability {
    /// Handed to the operating system: survives the process, not the machine.
    Os,
    /// Flushed to the disk: survives the machine.
    Flush,
}

/// What a successful commit tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Committed {
    /// Time that a simulated disk wants to pass before the commit is answered. Zero on a real one, which has taken
    /// its time already.
    pub stall: Duration,
}

/// Why storage did not do what was asked.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum StorageError {
    /// What is stored there cannot be trusted: a checksum failed. Quarantine it.
    #[error("what is stored in {keyspace} is damaged: {detail}", keyspace = .keyspace.name())]
    Corrupt {
        /// Where.
        keyspace: Keyspace,
        /// What the store said.
        detail: String,
    },
    /// The disk refused. After a commit or flush: nothing of it is readable, and the store is read-only.
    #[error("the disk failed: {0}")]
    Io(String),
    /// No space. After a commit: nothing of it is readable, and the store is read-only.
    #[error("the disk is full: {0}")]
    Full(String),
    /// A commit or flush failed earlier; restart the node once the disk is well.
    #[error("read-only since an earlier commit failed: {0}")]
    ReadOnly(String),
    /// Another process holds the directory.
    #[error("the data directory is in use by another process: {0}")]
    Locked(String),
}

/// One entry of a scan.
pub type Entry = Result<(Bytes, Bytes), StorageError>;

/// An ordered, durable set of keyspaces.
pub trait Storage: Send + Sync + 'static {
    /// The value under `key`.
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, StorageError>;

    /// The values under `keys`, in their order; one bad key does not spoil the others.
    fn multi_get(&self, keyspace: Keyspace, keys: &[Bytes]) -> Vec<Result<Option<Bytes>, StorageError>> {
        keys.iter().map(|key| self.get(keyspace, key)).collect()
    }

    /// The value under `key` if that is known without touching the disk; `None` if it is not, and [`Storage::get`] on
    /// a storage thread has to tell.
    fn get_cached(&self, keyspace: Keyspace, key: &[u8]) -> Option<Result<Option<Bytes>, StorageError>> {
        let _ = (keyspace, key);
        None
    }

    /// The entries between two bounds in key order, as of the time of the call. An error ends it: what lies behind is
    /// not known. Bounds that cross hold nothing.
    fn scan<'a>(
        &'a self,
        keyspace: Keyspace,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Box<dyn Iterator<Item = Entry> + 'a>;

    /// Applies a batch: atomic, in order, as durable as asked when this returns, not readable before.
    fn commit(&self, batch: Batch, durability: Durability) -> Result<Committed, StorageError>;

    /// Makes every commit so far as durable as [`Durability::Flush`].
    fn flush(&self) -> Result<Committed, StorageError>;

    /// Bytes in use and bytes free on the disk, where there is one.
    fn space(&self) -> Option<Space> {
        None
    }
}

/// The sum that a stored value stands for.
fn sum(value: Option<&[u8]>) -> u128 {
    let mut bytes = [0; size_of::<u128>()];
    if let Some(value) = value {
        let len = value.len().min(bytes.len());
        bytes[..len].copy_from_slice(&value[..len]);
    }
    u128::from_le_bytes(bytes)
}

/// Whether no key can be between two bounds: a range that ordered maps refuse or misread.
fn is_empty_range(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    match (from, to) {
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Excluded(to))
        | (Bound::Excluded(from), Bound::Included(to)) => from >= to,
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
    }
}

/// Disk space, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// What a process like this one may still use.
    pub free: u64,
    /// The size of the file system.
    pub total: u64,
}

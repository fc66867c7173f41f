//! Storage in RocksDB: the only file that names it.
//!
//! One column family a keyspace, one write-ahead log for all of them: a [`Batch`] is one log record, so it is there
//! whole or not at all. [`Durability::Flush`] syncs the log before the batch becomes readable; [`Durability::Os`] hands
//! the record to the operating system. [`Change::Add`] is a merge operator, so it reads nothing.
//!
//! **Recovery.** A power cut leaves behind what was never synced in any state: cut anywhere, pages missing, zeros. No
//! recovery mode of RocksDB tells that from damage to what *was* synced:
//! - `AbsoluteConsistency` refuses any incomplete record, so every crash in the middle of a write.
//! - `TolerateCorruptedTailRecords` forgives a record cut short, but refuses one whose pages came out of order, which a
//!   power cut makes too; it does not notice a gap between two logs; and it takes a damaged length in the last block for
//!   the end, which drops what was acknowledged without a word.
//! - `PointInTime` always ends at a state that was, and checks that no table file is ahead of the log; but it, too,
//!   drops what lies behind damage, silently.
//!
//! So: `PointInTime`, and what it can not know is written down beside the log. The file `SYNCED` holds the greatest
//! sequence number that a sync has covered, written (not synced) after each sync. A store whose log ends before that
//! number has lost what it acknowledged: opening it answers [`StorageError::Corrupt`], unless
//! [`RocksOptions::accept_loss`] says that the caller will merge with the other owners. The number is never too great,
//! so a torn tail opens always; after a power cut it may be a few seconds old, and then it sees only older losses.
//! Damage that is a run of zeros *inside* the log is skipped by every mode; anti-entropy finds that.

use std::fs::{self, File, OpenOptions};
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, BlockBasedTablePinningTier, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBRawIterator, DBRecoveryMode, DataBlockIndexType, Error, ErrorKind, LogLevel, MergeOperands, Options, ReadOptions,
    ReadTier, WriteBatch, WriteOptions,
};

use super::{Batch, Change, Committed, Durability, Entry, Keyspace, Space, Storage, StorageError, is_empty_range, sum};

/// The directory of the store inside a node's data directory.
pub const DIRECTORY: &str = "store";

/// What RocksDB may use. The defaults suit a node on a small machine: under 64 MiB resident when idle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RocksOptions {
    /// Bytes of uncompressed blocks, indexes and filters kept in memory, all keyspaces together. Default 32 MiB; give it
    /// what the machine can spare.
    pub block_cache: usize,
    /// Bytes of writes kept in memory before they go to table files, all keyspaces together. Default 64 MiB, used only
    /// as far as there are writes; more means less rewriting later, and a longer log to read at start.
    pub write_buffers: usize,
    /// Threads that write and compact table files. Default 2.
    pub background_jobs: i32,
    /// Table files kept open. Default 512.
    pub max_open_files: i32,
    /// Opens a store whose log has lost writes it had synced. Default false. Whoever sets it must treat the store as
    /// rolled back: nothing in it may vote before it was merged with the other owners.
    pub accept_loss: bool,
}

impl Default for RocksOptions {
    fn default() -> Self {
        Self {
            block_cache: 32 << 20,
            write_buffers: 64 << 20,
            background_jobs: 2,
            max_open_files: 512,
            accept_loss: false,
        }
    }
}

/// A store in a directory.
pub struct RocksStorage {
    db: DB,
    path: PathBuf,
    synced: Synced,
    /// Why no more commits are accepted.
    failed: OnceLock<String>,
    read: ReadOptions,
    read_cached: ReadOptions,
    write: WriteOptions,
    write_sync: WriteOptions,
}

impl std::fmt::Debug for RocksStorage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksStorage")
            .field("path", &self.path)
            .field("failed", &self.failed.get())
            .finish_non_exhaustive()
    }
}

impl RocksStorage {
    /// Opens the store in `data_dir`, making what is missing.
    ///
    /// # Errors
    /// [`StorageError::Locked`] while another process (or this one) has it open, [`StorageError::Corrupt`] when its
    /// files do not fit together or synced writes are gone, [`StorageError::Full`] or [`StorageError::Io`] otherwise.
    pub fn open(data_dir: &Path, options: &RocksOptions) -> Result<Self, StorageError> {
        let path = data_dir.join(DIRECTORY);
        create_durably(&path).map_err(|error| io_error(&path, &error))?;
        let cache = Cache::new_hyper_clock_cache(options.block_cache, 0);
        let families = Keyspace::ALL.map(|keyspace| {
            ColumnFamilyDescriptor::new(keyspace.name(), family_options(Some(keyspace), options, &cache))
        });
        let unused =
            ColumnFamilyDescriptor::new(rocksdb::DEFAULT_COLUMN_FAMILY_NAME, family_options(None, options, &cache));
        let db = DB::open_cf_descriptors(&db_options(options), &path, families.into_iter().chain([unused]))
            .map_err(|error| open_error(&error))?;
        let synced = Synced::open(&path, db.latest_sequence_number(), options.accept_loss)?;
        let mut read_cached = ReadOptions::default();
        read_cached.set_read_tier(ReadTier::BlockCache);
        let mut write = WriteOptions::default();
        write.set_no_slowdown(true);
        let mut write_sync = WriteOptions::default();
        write_sync.set_no_slowdown(true);
        write_sync.set_sync(true);
        Ok(Self {
            db,
            path,
            synced,
            failed: OnceLock::new(),
            read: ReadOptions::default(),
            read_cached,
            write,
            write_sync,
        })
    }

    /// Writes all that is in memory to table files and compacts them: slow, and never needed for correctness.
    ///
    /// # Errors
    /// What the disk says.
    pub fn compact(&self) -> Result<(), StorageError> {
        for keyspace in Keyspace::ALL {
            let family = self.family(keyspace)?;
            self.db.flush_cf(family).map_err(|error| write_error(&error))?;
            self.db.compact_range_cf(family, None::<&[u8]>, None::<&[u8]>);
        }
        Ok(())
    }

    fn family(&self, keyspace: Keyspace) -> Result<&ColumnFamily, StorageError> {
        self.db
            .cf_handle(keyspace.name())
            .ok_or_else(|| StorageError::Io(format!("column family {} is not open", keyspace.name())))
    }

    fn writable(&self) -> Result<(), StorageError> {
        self.failed.get().map_or(Ok(()), |why| Err(StorageError::ReadOnly(why.clone())))
    }

    /// From the first failure on nothing is committed: RocksDB may recover on its own, but what a failed sync was to
    /// make durable may be lost by then, and a later sync would not say so.
    fn fail(&self, error: &Error) -> StorageError {
        let error = write_error(error);
        // Only the first reason is kept.
        let _ = self.failed.set(error.to_string());
        error
    }
}

impl RocksStorage {
    /// Writes, and waits by itself where RocksDB wants writers to wait for flushes and compactions. Its own wait holds
    /// the place at the head of all writers: on a full disk its recovery then waits for that place, and both for ever.
    fn write_through(&self, batch: &Batch, options: &WriteOptions) -> Result<(), StorageError> {
        let mut waited = Duration::ZERO;
        loop {
            match self.db.write_opt(self.record_of(batch)?, options) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Incomplete && waited < STALLED_FOR => {
                    std::thread::sleep(STALL_STEP);
                    waited += STALL_STEP;
                }
                Err(error) => return Err(self.fail(&error)),
            }
        }
    }

    fn record_of(&self, batch: &Batch) -> Result<WriteBatch, StorageError> {
        let mut record = WriteBatch::with_capacity_bytes(record_size(batch));
        for change in batch.changes() {
            match change {
                Change::Put(keyspace, key, value) => record.put_cf(self.family(*keyspace)?, key, value),
                Change::Delete(keyspace, key) => record.delete_cf(self.family(*keyspace)?, key),
                Change::Add(keyspace, key, delta) => record.merge_cf(self.family(*keyspace)?, key, delta.to_le_bytes()),
            }
        }
        Ok(record)
    }
}

impl Storage for RocksStorage {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let found = self.db.get_pinned_cf_opt(self.family(keyspace)?, key, &self.read);
        found
            .map(|value| value.map(|value| Bytes::copy_from_slice(&value)))
            .map_err(|error| read_error(keyspace, &error))
    }

    fn multi_get(&self, keyspace: Keyspace, keys: &[Bytes]) -> Vec<Result<Option<Bytes>, StorageError>> {
        let family = match self.family(keyspace) {
            Ok(family) => family,
            Err(error) => return vec![Err(error); keys.len()],
        };
        let found = self.db.batched_multi_get_cf_opt(family, keys, false, &self.read);
        let answer = |value: Result<Option<rocksdb::DBPinnableSlice<'_>>, Error>| match value {
            Ok(value) => Ok(value.map(|value| Bytes::copy_from_slice(&value))),
            Err(error) => Err(read_error(keyspace, &error)),
        };
        found.into_iter().map(answer).collect()
    }

    fn get_cached(&self, keyspace: Keyspace, key: &[u8]) -> Option<Result<Option<Bytes>, StorageError>> {
        // An error here is `Incomplete` (the disk would have to be asked) or one that the disk will repeat.
        let value = self.db.get_pinned_cf_opt(self.family(keyspace).ok()?, key, &self.read_cached).ok()?;
        Some(Ok(value.map(|value| Bytes::copy_from_slice(&value))))
    }

    fn scan<'a>(
        &'a self,
        keyspace: Keyspace,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Box<dyn Iterator<Item = Entry> + 'a> {
        if is_empty_range(from, to) {
            return Box::new(std::iter::empty());
        }
        let family = match self.family(keyspace) {
            Ok(family) => family,
            Err(error) => return Box::new(std::iter::once(Err(error))),
        };
        let mut options = ReadOptions::default();
        options.set_total_order_seek(true);
        // A long scan of values would throw out of the cache what point reads need.
        options.fill_cache(keyspace != Keyspace::Objects);
        match from {
            Bound::Included(key) => options.set_iterate_lower_bound(key),
            Bound::Excluded(key) => options.set_iterate_lower_bound(successor(key)),
            Bound::Unbounded => {}
        }
        match to {
            Bound::Included(key) => options.set_iterate_upper_bound(successor(key)),
            Bound::Excluded(key) => options.set_iterate_upper_bound(key),
            Bound::Unbounded => {}
        }
        // The iterator sees the store as it is at this moment, whatever is committed while it runs.
        let mut iterator = self.db.raw_iterator_cf_opt(family, options);
        iterator.seek_to_first();
        Box::new(Scan { iterator, keyspace, ended: false })
    }

    fn commit(&self, batch: Batch, durability: Durability) -> Result<Committed, StorageError> {
        self.writable()?;
        if batch.is_empty() {
            return if durability == Durability::Flush { self.flush() } else { Ok(Committed::default()) };
        }
        if durability == Durability::Os {
            self.write_through(&batch, &self.write)?;
            return Ok(Committed::default());
        }
        // Each change takes a number, so this batch ends at `covered` or, with others under way, behind it.
        let covered = self.db.latest_sequence_number() + u64::try_from(batch.changes().len()).unwrap_or(0);
        self.write_through(&batch, &self.write_sync)?;
        self.synced.note(covered);
        Ok(Committed::default())
    }

    fn flush(&self) -> Result<Committed, StorageError> {
        self.writable()?;
        let covered = self.db.latest_sequence_number();
        self.db.flush_wal(true).map_err(|error| self.fail(&error))?;
        self.synced.note(covered);
        Ok(Committed::default())
    }

    fn space(&self) -> Option<Space> {
        let disk = rustix::fs::statvfs(&self.path).ok()?;
        Some(Space {
            free: disk.f_bavail.saturating_mul(disk.f_frsize),
            total: disk.f_blocks.saturating_mul(disk.f_frsize),
        })
    }
}

/// Between two tries of a write that RocksDB does not take yet.
const STALL_STEP: Duration = Duration::from_millis(2);
/// A write that is not taken for this long has failed.
const STALLED_FOR: Duration = Duration::from_secs(60);

/// A running scan.
struct Scan<'a> {
    iterator: DBRawIterator<'a>,
    keyspace: Keyspace,
    ended: bool,
}

impl Iterator for Scan<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        if self.ended {
            return None;
        }
        if let Some((key, value)) = self.iterator.item() {
            let entry = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            self.iterator.next();
            return Some(Ok(entry));
        }
        self.ended = true;
        self.iterator.status().err().map(|error| Err(read_error(self.keyspace, &error)))
    }
}

/// The greatest sequence number known to be synced, beside the log (see the module's *Recovery*).
struct Synced {
    file: File,
    noted: Mutex<u64>,
}

impl Synced {
    const FILE: &'static str = "SYNCED";
    /// Number, then its checksum.
    const LEN: usize = 12;

    fn open(path: &Path, recovered: u64, accept_loss: bool) -> Result<Self, StorageError> {
        let path = path.join(Self::FILE);
        let result = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = result.map_err(|error| io_error(&path, &error))?;
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut &file, &mut bytes).map_err(|error| io_error(&path, &error))?;
        let noted = Self::decode(&bytes).unwrap_or(0);
        if noted > recovered && !accept_loss {
            return Err(StorageError::Corrupt {
                keyspace: Keyspace::Meta,
                detail: format!(
                    "the log ends at {recovered}, but was synced up to {noted}: acknowledged writes are gone"
                ),
            });
        }
        file.write_all_at(&Self::encode(recovered), 0).map_err(|error| io_error(&path, &error))?;
        Ok(Self { file, noted: Mutex::new(recovered) })
    }

    /// A failure here loses the check, not the data: the sync itself has succeeded.
    fn note(&self, number: u64) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if number > *noted {
            *noted = number;
            if let Err(error) = self.file.write_all_at(&Self::encode(number), 0) {
                tracing::warn!(%error, "cannot note how far the log is synced");
            }
        }
    }

    fn encode(number: u64) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        bytes[8..].copy_from_slice(&crc32fast::hash(&number.to_le_bytes()).to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<u64> {
        let number = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
        (bytes == Self::encode(number)).then_some(number)
    }
}

fn db_options(options: &RocksOptions) -> Options {
    let mut db = Options::default();
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    db.set_paranoid_checks(true);
    db.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    // Logs that were closed are synced before table files depend on them; their sizes are checked at start.
    db.set_track_and_verify_wals_in_manifest(!options.accept_loss);
    db.set_db_write_buffer_size(options.write_buffers);
    // What is rarely written must not keep old logs: start would take longer.
    db.set_max_total_wal_size(u64::try_from(options.write_buffers).unwrap_or(u64::MAX).saturating_mul(2));
    db.set_max_background_jobs(options.background_jobs);
    db.set_max_open_files(options.max_open_files);
    db.set_bytes_per_sync(1 << 20);
    db.set_skip_stats_update_on_db_open(true);
    // No thread that wakes for statistics nobody reads.
    db.set_stats_dump_period_sec(0);
    db.set_stats_persist_period_sec(0);
    db.set_log_level(LogLevel::Warn);
    db.set_keep_log_file_num(2);
    db.set_max_log_file_size(4 << 20);
    db
}

/// What depends on how a keyspace is read; `None` is the family that RocksDB insists on and nothing uses.
fn family_options(keyspace: Option<Keyspace>, options: &RocksOptions, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    // Indexes and filters count against the cache, so that memory has one bound.
    table.set_cache_index_and_filter_blocks(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    // ... but an open table holds on to its own, so that a point read looks up one block, not three.
    table.set_unpartitioned_pinning_tier(BlockBasedTablePinningTier::All);
    let mut family = Options::default();
    family.set_write_buffer_size(options.write_buffers / 4);
    family.set_compression_type(DBCompressionType::Lz4);
    family.set_merge_operator_associative("quorate.add128", add);
    match keyspace {
        Some(Keyspace::Objects | Keyspace::Index) => {
            // Point reads, often of what is not there (first writes): filters in tables and memory.
            table.set_bloom_filter(10.0, false);
            table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
            family.set_memtable_prefix_bloom_ratio(0.02);
            family.set_memtable_whole_key_filtering(true);
        }
        // Each read sums up what was added since the last table file: a small buffer bounds that.
        Some(Keyspace::Merkle) => family.set_write_buffer_size(options.write_buffers / 16),
        Some(Keyspace::Meta | Keyspace::Hints) | None => {}
    }
    family.set_block_based_table_factory(&table);
    family
}

/// 128-bit wrapping addition: associative, and total, because a merge that fails would stop compactions.
fn add(_key: &[u8], stored: Option<&[u8]>, added: &MergeOperands) -> Option<Vec<u8>> {
    let total = added.iter().fold(sum(stored), |total, delta| total.wrapping_add(sum(Some(delta))));
    Some(total.to_le_bytes().to_vec())
}

/// The least key above `key`.
fn successor(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}

/// About how long the log record of a batch is.
fn record_size(batch: &Batch) -> usize {
    let size = |change: &Change| match change {
        Change::Put(_, key, value) => key.len() + value.len() + 12,
        Change::Delete(_, key) => key.len() + 7,
        Change::Add(_, key, _) => key.len() + 24,
    };
    12 + batch.changes().iter().map(size).sum::<usize>()
}

/// Makes a directory that is still there after a power cut: its name is synced in its parent.
fn create_durably(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_durably(parent)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(parent)?.sync_all()
}

fn io_error(path: &Path, error: &std::io::Error) -> StorageError {
    let detail = format!("{}: {error}", path.display());
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => StorageError::Full(detail),
        _ => StorageError::Io(detail),
    }
}

fn open_error(error: &Error) -> StorageError {
    let said: &str = error.as_ref();
    if said.contains("lock hold by current process") || said.contains("While lock file") {
        return StorageError::Locked(said.to_owned());
    }
    read_error(Keyspace::Meta, error)
}

fn read_error(keyspace: Keyspace, error: &Error) -> StorageError {
    match error.kind() {
        // A damaged footer can claim a format that does not exist.
        ErrorKind::Corruption | ErrorKind::NotSupported => {
            StorageError::Corrupt { keyspace, detail: error.as_ref().to_owned() }
        }
        _ => write_error(error),
    }
}

/// RocksDB's kinds do not set a full disk apart: its text, which has the system's words, does.
fn write_error(error: &Error) -> StorageError {
    let said: &str = error.as_ref();
    let full = ["No space left on device", "Disk quota exceeded"].iter().any(|words| said.contains(words));
    if full { StorageError::Full(said.to_owned()) } else { StorageError::Io(said.to_owned()) }
}

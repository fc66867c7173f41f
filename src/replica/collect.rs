//! The owner's side of the collection of tombstones: the [`Book`] of each partition, and what its steps do here.
//!
//! Each step is a job of the partition's storage thread: it sees on disk all that was merged or minted before it, and is
//! flushed, with what it did to objects, in one batch, before it is answered. A flush takes everything before it along: so
//! what a mark says is held is as durable as the mark. What is read by other threads is read *after* the epoch was looked
//! up, and what is sealed is looked up *after* it was read: a state is never thought newer than it is.
//!
//! The common case, that nothing was ever collected in a partition, is one load.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;

use super::class::front_of;
use super::identity::partition_key;
use super::place::{Place, name_of};
use super::shard::{Loaded, Shard};
use super::{Fault, Replica};
use crate::causality::{Dot, Horizon, Object, decode_head, decode_object, digest_of_record, encode_object};
use crate::collect::{Book, Epoch, Lesson, NoSuchRound, NotMarked, Round, RoundId, Status, Unfinished};
use crate::storage::{Batch, Durability, Keyspace, Storage, StorageError};
use crate::types::{Digest, PartitionId, Stamp};

const COLLECT: &[u8] = b"collect/";

/// The books of all partitions in which anything was ever collected.
#[derive(Debug, Default)]
pub(super) struct Books {
    any: AtomicBool,
    books: RwLock<BTreeMap<PartitionId, Arc<Book>>>,
}

impl Books {
    /// Reads them. One that is damaged stops the start: without it this store would take in what it refused.
    pub(super) fn open(storage: &dyn Storage) -> Result<Self, StorageError> {
        let mut books = BTreeMap::new();
        for entry in storage.scan(Keyspace::Meta, Included(COLLECT), Excluded(b"collect0")) {
            let (key, value) = entry?;
            let Ok(partition) = key[COLLECT.len()..].try_into() else { continue };
            let partition = PartitionId(u32::from_be_bytes(partition));
            let book = Book::decode(value).map_err(|bad| {
                let detail =
                    format!("what was collected in partition {partition}: {bad}; empty the directory to start over");
                StorageError::Io(detail)
            })?;
            books.insert(partition, Arc::new(book));
        }
        Ok(Self { any: AtomicBool::new(!books.is_empty()), books: RwLock::new(books) })
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<PartitionId, Arc<Book>>> {
        self.books.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A partition's book; none where it is blank.
    pub(super) fn of(&self, partition: PartitionId) -> Option<Arc<Book>> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        self.read().get(&partition).cloned()
    }

    fn set(&self, partition: PartitionId, book: Book) {
        self.books.write().unwrap_or_else(PoisonError::into_inner).insert(partition, Arc::new(book));
        self.any.store(true, Ordering::Release);
    }

    /// A record as it is sent: without what is sealed or dropped. None: nothing is left of it.
    pub(super) fn strip(&self, partition: PartitionId, stored: &Bytes, record: Bytes) -> Option<Bytes> {
        let Some(book) = self.of(partition).filter(|book| book.takes_out(stored)) else { return Some(record) };
        // One that cannot be decoded is found out by whoever reads it.
        let Ok(object) = decode_object(record.clone()) else { return Some(record) };
        match book.strip(stored, &object) {
            None => Some(record),
            Some(left) => (!left.is_empty()).then(|| encode_object(&left)),
        }
    }
}

impl Replica {
    /// Under which epoch a partition is read from now on: to be looked up before what is sent is read.
    #[must_use]
    pub fn epoch(&self, partition: PartitionId) -> Epoch {
        self.inner.books.of(partition).map_or(Epoch::FIRST, |book| book.epoch())
    }

    /// The first epoch whose states a partition takes: to be looked up after what is answered was read.
    #[must_use]
    pub fn sealed(&self, partition: PartitionId) -> Epoch {
        self.inner.books.of(partition).map_or(Epoch::FIRST, |book| book.sealed())
    }

    /// What a driver asks of an owner before anything else.
    #[must_use]
    pub fn rounds(&self, partition: PartitionId) -> Status {
        self.inner.books.of(partition).map_or_else(Status::default, |book| book.status())
    }

    /// Marks a round, if everything that it lists is held here, and nothing else under those keys. `live`: the layout, where
    /// one alone is live.
    pub async fn mark(
        &self,
        partition: PartitionId,
        round: Round,
        live: Option<u64>,
    ) -> Result<Result<(), NotMarked>, Fault> {
        if !self.votes(partition) {
            return Err(Fault::Syncing);
        }
        self.collect(partition, move |shard, book| book.mark(&round, live, |stored| shard.deletions(partition, stored)))
            .await
    }

    /// Takes no hint any more that was read before `epoch`. Hints here hold no states, but name what this store holds, so
    /// none has to go first.
    pub async fn drain(&self, partition: PartitionId, epoch: Epoch) -> Result<(), Fault> {
        self.collect(partition, move |_, book| book.drain(epoch)).await
    }

    /// Seals a round that was marked here.
    pub async fn seal(&self, partition: PartitionId, id: RoundId) -> Result<Result<(), NoSuchRound>, Fault> {
        self.collect(partition, move |_, book| book.seal(id)).await
    }

    /// Abandons the rounds that are not sealed, for owners are about to change.
    pub async fn abandon_rounds(&self, partition: PartitionId) -> Result<(), Fault> {
        self.collect(partition, |_, book| book.abandon()).await
    }

    /// Forgets a round that another owner can never mark any more.
    pub async fn forget_round(&self, partition: PartitionId, id: RoundId) -> Result<(), Fault> {
        self.collect(partition, move |_, book| book.forget(id)).await
    }

    /// What a store that becomes an owner, or holds hints, learns first; none while a round waits to be finished.
    pub fn lesson(&self, partition: PartitionId) -> Result<Lesson, Unfinished> {
        self.inner.books.of(partition).unwrap_or_default().lesson()
    }

    /// Learns it, before anything of the partition is taken or minted.
    pub async fn learn(&self, partition: PartitionId, lesson: Lesson) -> Result<(), Fault> {
        self.collect(partition, move |_, book| book.learn(lesson)).await
    }

    /// Drops a round that was sealed here; tells of how many keys it removed anything. Nothing is minted below what they
    /// covered from then on.
    pub async fn drop_round(&self, partition: PartitionId, id: RoundId) -> Result<Result<u64, NoSuchRound>, Fault> {
        self.run(partition, move |shard| shard.drop_round(partition, id)).await?
    }

    /// A step that changes the book alone.
    async fn collect<T: Send + 'static>(
        &self,
        partition: PartitionId,
        step: impl FnOnce(&Shard, &mut Book) -> T + Send + 'static,
    ) -> Result<T, Fault> {
        self.run(partition, move |shard| {
            shard.check_writable()?;
            let before = shard.books.of(partition).unwrap_or_default();
            let mut book = (*before).clone();
            let told = step(shard, &mut book);
            // What is as it was is on disk: its answer was lost.
            if book != *before {
                shard.write_book(partition, book, Batch::new())?;
            }
            Ok(told)
        })
        .await?
    }
}

impl Shard {
    fn write_book(&self, partition: PartitionId, book: Book, mut batch: Batch) -> Result<(), Fault> {
        let unflushed = self.env.buggify.breaks("a round's step is flushed");
        batch.put(Keyspace::Meta, partition_key(COLLECT, partition), book.encode());
        let durability = if unflushed { Durability::Os } else { Durability::Flush };
        self.storage.commit(batch, durability).map_err(|failed| {
            self.fail(&failed);
            Fault::ReadOnly(failed.to_string())
        })?;
        self.books.set(partition, book);
        Ok(())
    }

    /// What is held under a key, if that is nothing but deletions, or values that have expired by every clock: its digest,
    /// and their dots.
    fn deletions(&self, partition: PartitionId, stored: &Bytes) -> Option<(Digest, Vec<Dot>)> {
        let (id, generation) = name_of(stored)?;
        let place = Place::of(self.grid(), &id, generation);
        if place.partition != partition || place.stored != *stored {
            return None;
        }
        let record = self.read(&place).ok()??;
        let head = decode_head(&record).ok()?;
        let now = self.env.clock.wall();
        let expired = |at| self.identity.clock_is_right() && Horizon(at).is_past(now, self.drift);
        let gone = head
            .siblings
            .iter()
            .all(|sibling| sibling.is_tombstone || sibling.expires_at.is_some_and(|at| expired(at.0)));
        let dots = head.siblings.iter().map(|sibling| sibling.dot).collect();
        gone.then(|| (digest_of_record(&record), dots))
    }

    fn drop_round(&self, partition: PartitionId, id: RoundId) -> Result<Result<u64, NoSuchRound>, Fault> {
        self.check_writable()?;
        let before = self.books.of(partition).unwrap_or_default();
        let mut book = (*before).clone();
        let Ok(listed) = book.drop_round(id) else { return Ok(Err(NoSuchRound)) };
        let (mut loaded, mut floor): (BTreeMap<Bytes, Loaded>, Stamp) = Default::default();
        for (stored, dots) in listed {
            let Some((name, generation)) = name_of(stored) else { continue };
            let place = Place::of(self.grid(), &name, generation);
            // One that cannot be read is mended from the others, which have none of it, or take it out.
            let Ok(entry) = self.load(&mut loaded, &place) else { continue };
            floor = floor.max(entry.object.greatest_stamp().unwrap_or_default());
            if let Some(left) = entry.object.without(dots) {
                let class = self.classes.of(&front_of(stored));
                entry.put(left, &place, class);
            }
        }
        if book == *before {
            return Ok(Ok(0));
        }
        let floor = if self.env.buggify.breaks("a drop raises the floor") { Stamp::default() } else { floor };
        let dropped = loaded.values().filter(|entry| entry.is_dirty()).count() as u64;
        let mut batch = self.batch_of(loaded);
        if let Some((key, value)) = self.identity.floor_entry(partition, floor) {
            batch.put(Keyspace::Meta, key, value);
        }
        self.write_book(partition, book, batch)?;
        self.identity.raise_floor(partition, floor);
        Ok(Ok(dropped))
    }

    /// Under which epoch what this thread reads now is read.
    pub(super) fn epoch(&self, partition: PartitionId) -> Epoch {
        self.books.of(partition).map_or(Epoch::FIRST, |book| book.epoch())
    }

    /// Judges a state that arrives; gives it as it is taken in.
    pub(super) fn take_in(&self, place: &Place, read: Epoch, incoming: Object) -> Result<Object, Fault> {
        let Some(book) = self.books.of(place.partition) else { return Ok(incoming) };
        if !self.env.buggify.breaks("what was read under a sealed epoch is refused") {
            book.judge(read).map_err(Fault::TooOld)?;
        }
        Ok(book.strip(&place.stored, &incoming).unwrap_or(incoming))
    }
}

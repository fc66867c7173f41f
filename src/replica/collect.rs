//! The owner's side of the collection of tombstones: the [`Book`] of each partition, and what its steps do here.
//!
//! Each step is a job of the partition's storage thread: it sees on disk all that was merged or minted before it, and is
//! flushed, with what it did to objects, in one batch, before it is answered. A flush takes everything before it along: so
//! what a mark says is held is as durable as the mark. What is read by other threads is read *after* the epoch was looked
//! up, and what is sealed is looked up *after* it was read: a state is never thought newer than it is.
//!
//! **Layouts.** Whoever knows a layout (flushed) reads under its first epoch, or a later one: as if it had marked a round
//! that nobody finishes. Before a newer layout is flushed here, rounds that are not sealed are abandoned, and none of an older
//! one is marked any more. While this store still has to merge a partition for the newest layout it takes nothing of it that
//! was read before that layout was known: what has been collected there it learns from each owner that it merges, with the
//! first page, and none of them teaches while a round waits to be dropped. So a change of layouts waits for sealed rounds.
//!
//! **A directory that went back.** An owner that remembers no mark of what another one has sealed, nor a tenure that began
//! later, had marked that round, and has forgotten it: what it holds may have been collected since. So it marks nothing, its
//! own states are read under what it remembers, whatever layout it has learned of since, and are refused everywhere; and it
//! gives up its copy of the partition, and merges it anew from every other owner, like a disk that was lost (decision 0025).
//!
//! What every read asks of a book, the two epochs and whether anything is taken out, is a load each.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;

use super::class::front_of;
use super::forget::{OfBucket, Scanned};
use super::health::Health;
use super::identity::partition_key;
use super::index::may_be_deletion;
use super::place::{Place, name_of, range_of};
use super::shard::{Loaded, Shard};
use super::{Cause, Fault, Replica};
use crate::causality::{Head, Horizon, Object, decode_head, decode_object, digest_of_record, encode_object};
use crate::collect::{Book, Epoch, Lesson, Listed, NoSuchRound, NotMarked, Round, RoundId, Stage, Status, TooOld};
use crate::storage::{Batch, Durability, Keyspace, Storage, StorageError};
use crate::types::{PartitionId, Stamp, Wall};

const COLLECT: &[u8] = b"collect/";
const SINCE: &[u8] = b"collecting-since";
/// Most index entries looked at in one go.
const CHUNK: usize = 1024;
/// Most records read in one go.
const RECORDS: usize = 64;

/// The books of all partitions in which anything was ever collected, and what else is to be known of all of them.
#[derive(Debug, Default)]
pub(super) struct Books {
    any: AtomicBool,
    /// By partition: what every read asks of its book.
    brief: Vec<Brief>,
    books: RwLock<BTreeMap<PartitionId, Arc<Book>>>,
    /// The version of the newest layout, once it is flushed.
    layout: AtomicU64,
    /// The version of the first layout that this directory ever knew.
    since: AtomicU64,
    /// No round of an older layout than this is marked any more.
    closed: AtomicU64,
    gains: AtomicBool,
    /// Partitions that are to be merged for the newest layout.
    gained: RwLock<BTreeSet<PartitionId>>,
    /// By partition: nothing is left there, or came since, that a round would be for.
    none: Vec<AtomicBool>,
}

/// What is to be known of a book for every read, without a lock.
#[derive(Debug, Default)]
struct Brief {
    epoch: AtomicU64,
    sealed: AtomicU64,
    takes_out: AtomicBool,
}

/// What a look for deletions found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Deletions {
    /// What may be collected.
    pub ripe: Vec<Listed>,
    /// How many are too young.
    pub young: u64,
    /// Whether there may be some of other buckets.
    pub others: bool,
    /// Where to go on; none: that was all.
    pub next: Option<Bytes>,
}

impl Books {
    /// Reads them. One that is damaged stops the start: without it this store would take in what it refused.
    pub(super) fn open(storage: &dyn Storage, partitions: u32) -> Result<Self, StorageError> {
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
        let since = match storage.get(Keyspace::Meta, SINCE)? {
            None => 0,
            Some(version) => u64::from_be_bytes(version.as_ref().try_into().map_err(|_| {
                StorageError::Io("the first layout of this directory: empty the directory to start over".into())
            })?),
        };
        let none = (0..partitions).map(|_| AtomicBool::new(false)).collect();
        let (any, since) = (AtomicBool::new(!books.is_empty()), AtomicU64::new(since));
        let brief = (0..partitions).map(|_| Brief::default()).collect();
        let this = Self { any, brief, books: RwLock::new(books), since, none, ..Self::default() };
        this.read().iter().for_each(|(partition, book)| this.sum_up(*partition, book));
        Ok(this)
    }

    fn sum_up(&self, partition: PartitionId, book: &Book) {
        let Some(brief) = self.brief.get(partition.0 as usize) else { return };
        brief.takes_out.store(book.takes_out_any(), Ordering::Release);
        brief.sealed.store(book.sealed().0, Ordering::Release);
        brief.epoch.store(book.epoch().0, Ordering::Release);
    }

    fn sealed(&self, partition: PartitionId) -> Epoch {
        Epoch(self.brief(partition, |brief| brief.sealed.load(Ordering::Acquire)))
    }

    fn brief<T: Default>(&self, partition: PartitionId, of: impl FnOnce(&Brief) -> T) -> T {
        self.brief.get(partition.0 as usize).map(of).unwrap_or_default()
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
        let book = Arc::new(book);
        self.books.write().unwrap_or_else(PoisonError::into_inner).insert(partition, Arc::clone(&book));
        self.sum_up(partition, &book);
        self.any.store(true, Ordering::Release);
    }

    /// The first epoch under the newest layout.
    fn first(&self) -> Epoch {
        Epoch::of_layout(self.layout.load(Ordering::Acquire))
    }

    fn epoch(&self, partition: PartitionId) -> Epoch {
        self.marked(partition).max(self.first())
    }

    /// Up to where this directory itself remembers a mark, or a tenure that began later: what knowing a layout adds to that
    /// says nothing of what lies here, where it is an old copy.
    fn marked(&self, partition: PartitionId) -> Epoch {
        let since = Epoch::of_layout(self.since.load(Ordering::Acquire));
        Epoch(self.brief(partition, |brief| brief.epoch.load(Ordering::Acquire))).max(since)
    }

    /// Under which epoch a partition is read. Where the directory went back that it knows a layout says nothing.
    fn read_epoch(&self, partition: PartitionId, health: &Health) -> Epoch {
        if health.is_forgetful(partition) { self.marked(partition) } else { self.epoch(partition) }
    }

    /// Judges a state that arrives.
    fn judge(&self, partition: PartitionId, read: Epoch, cause: Cause) -> Result<(), TooOld> {
        let sealed = self.sealed(partition);
        if read < sealed {
            return Err(TooOld { read, sealed });
        }
        if matches!(cause, Cause::Anew | Cause::Mend) {
            return Ok(());
        }
        let sealed = self.first();
        let gained = || self.gained.read().unwrap_or_else(PoisonError::into_inner).contains(&partition);
        if self.gains.load(Ordering::Acquire) && read < sealed && gained() {
            return Err(TooOld { read, sealed });
        }
        Ok(())
    }

    /// Something is written there that a round is for, some day.
    pub(super) fn may_hold_deletions(&self, partition: PartitionId) {
        if let Some(none) = self.none.get(partition.0 as usize) {
            none.store(false, Ordering::Release);
        }
    }

    /// A record as it is sent: without what is dropped. None: nothing is left of it.
    pub(super) fn send(&self, partition: PartitionId, stored: &Bytes, record: Bytes) -> Option<Bytes> {
        if !self.brief(partition, |brief| brief.takes_out.load(Ordering::Acquire)) {
            return Some(record);
        }
        let Some(book) = self.of(partition).filter(|book| book.takes_out(stored)) else { return Some(record) };
        // One that cannot be decoded is found out by whoever reads it.
        let Ok(object) = decode_object(record.clone()) else { return Some(record) };
        match book.send(stored, &object) {
            None => Some(record),
            Some(left) => (!left.is_empty()).then(|| encode_object(&left)),
        }
    }
}

impl Replica {
    /// Under which epoch a partition is read from now on: to be looked up before what is sent is read.
    #[must_use]
    pub fn epoch(&self, partition: PartitionId) -> Epoch {
        self.inner.books.read_epoch(partition, &self.inner.health)
    }

    /// The same of a partition that this store does not own any more: nobody has told it to distrust what is left there.
    #[must_use]
    pub fn leftover_epoch(&self, partition: PartitionId) -> Epoch {
        self.inner.books.marked(partition)
    }

    /// The first epoch whose states a partition takes: to be looked up after what is answered was read.
    #[must_use]
    pub fn sealed(&self, partition: PartitionId) -> Epoch {
        self.inner.books.sealed(partition)
    }

    /// The greatest epoch of a partition that an owner is known here to have sealed.
    #[must_use]
    pub fn heard(&self, partition: PartitionId) -> Epoch {
        self.inner.books.of(partition).map_or(Epoch::FIRST, |book| book.heard())
    }

    /// What owners have sealed, and may have had drained: who stands in for them keeps nothing older from here on.
    pub async fn hear(&self, partition: PartitionId, sealed: Epoch, drained: Epoch) -> Result<(), Fault> {
        self.run(partition, move |shard| {
            shard.check_writable()?;
            shard.hear(partition, sealed, drained)
        })
        .await?
    }

    /// What a driver asks of an owner before anything else.
    #[must_use]
    pub fn rounds(&self, partition: PartitionId) -> Status {
        let epoch = self.inner.books.epoch(partition);
        Status { epoch, ..self.inner.books.of(partition).map_or_else(Status::default, |book| book.status()) }
    }

    /// Partitions in which a round waits for somebody here.
    #[must_use]
    pub fn unfinished_rounds(&self) -> Vec<PartitionId> {
        let books = self.inner.books.read();
        books.iter().filter(|(_, book)| book.is_sealing()).map(|(partition, _)| *partition).collect()
    }

    /// Whether another round would do some good here though nothing waits for one: it ends what is taken out of what arrives.
    #[must_use]
    pub fn still_takes_out(&self, partition: PartitionId) -> bool {
        self.inner.books.of(partition).is_some_and(|book| book.still_takes_out())
    }

    /// From here on this layout is the newest: it is flushed. `gained`: what is to be merged for it yet.
    pub fn follow_layout(&self, version: u64, gained: BTreeSet<PartitionId>) {
        let books = &self.inner.books;
        let gains = !gained.is_empty() && !self.inner.buggify.breaks("a store that gains a partition learns its epoch");
        // The sooner what is refused, the later what it is refused by.
        books.closed.fetch_max(version, Ordering::AcqRel);
        *books.gained.write().unwrap_or_else(PoisonError::into_inner) = gained;
        books.gains.store(gains, Ordering::Release);
        books.layout.fetch_max(version, Ordering::AcqRel);
    }

    /// Before a newer layout is flushed: abandons the rounds that are not sealed, and marks none of an older one any more.
    pub async fn close_rounds(&self, version: u64) -> Result<(), Fault> {
        self.inner.books.closed.fetch_max(version, Ordering::AcqRel);
        // A mark that is under way did not see that. Behind it in the queue of each storage thread:
        for thread in 0..self.inner.queues.len() {
            self.run(PartitionId(u32::try_from(thread).unwrap_or_default()), |_| ()).await?;
        }
        let marked: Vec<PartitionId> = {
            let books = self.inner.books.read();
            books.iter().filter(|(_, book)| book.is_marked()).map(|(partition, _)| *partition).collect()
        };
        for partition in marked {
            self.collect(partition, |_, book| book.abandon()).await?;
        }
        Ok(())
    }

    /// What is to be remembered with the first layout that this directory knows: of what was sealed before it owes no mark.
    pub fn begins_under(&self, version: u64) -> (Bytes, Bytes) {
        self.inner.books.since.fetch_max(version, Ordering::AcqRel);
        (Bytes::from_static(SINCE), Bytes::copy_from_slice(&version.to_be_bytes()))
    }

    /// A partition is owned, from a layout on, that was not: nothing of an earlier tenure waits to be finished.
    pub async fn begin_anew(&self, partition: PartitionId, layout: u64) -> Result<(), Fault> {
        self.collect(partition, move |_, book| book.begin_anew(layout)).await
    }

    /// Whether what this node says of a partition counts.
    #[must_use]
    pub fn has_vote(&self, partition: PartitionId) -> bool {
        self.votes(partition)
    }

    /// Marks a round, if everything that it lists is held here, and nothing else under those keys. `live`: the layout, where
    /// one alone is live; `owns`: whether this store owns a bucket's objects there.
    pub async fn mark(
        &self,
        partition: PartitionId,
        round: Round,
        live: Option<u64>,
        owns: OfBucket<bool>,
    ) -> Result<Result<(), NotMarked>, Fault> {
        if !self.votes(partition) {
            return Err(Fault::Syncing);
        }
        self.collect(partition, move |shard, book| {
            let closed = shard.books.closed.load(Ordering::Acquire);
            let live = live.filter(|live| *live >= closed);
            book.mark(&round, live, |listed| shard.agrees(partition, listed, &owns))
        })
        .await
    }

    /// Takes no hint any more that was read before `epoch`; tells whether none that was is held. Those that name what this
    /// store holds are read when they are sent.
    pub async fn drain(&self, partition: PartitionId, epoch: Epoch) -> Result<bool, Fault> {
        self.collect(partition, move |_, book| book.drain(epoch)).await?;
        self.run(partition, move |shard| shard.keeps_nothing_before(partition, epoch)).await?
    }

    /// Whether no state of a partition is kept here for another owner.
    pub async fn keeps_nothing(&self, partition: PartitionId) -> Result<bool, Fault> {
        self.run(partition, move |shard| shard.keeps_nothing_before(partition, Epoch(u64::MAX))).await?
    }

    /// Seals a round that was marked here. Not while what was marked may not be held any more, for the disk lost something
    /// since: first that is merged from the others.
    pub async fn seal(&self, partition: PartitionId, id: RoundId) -> Result<Result<(), NoSuchRound>, Fault> {
        let sealed = self.collect(partition, move |shard, book| {
            if book.status().rounds.get(&id) == Some(&Stage::Marked)
                && !shard.env.buggify.breaks("what is sealed is held")
            {
                if !shard.health.is_synced(partition) {
                    return Err(Fault::Syncing);
                }
                if book.listed(id).any(|stored| shard.health.is_quarantined(stored)) {
                    return Err(Fault::Damaged);
                }
            }
            Ok(book.seal(id))
        });
        sealed.await?
    }

    /// Forgets a round that another owner can never mark any more; `given_up`: one that not all have marked, as far as its
    /// driver knows. Who has sealed it knows better.
    pub async fn forget_round(&self, partition: PartitionId, id: RoundId, given_up: bool) -> Result<(), Fault> {
        self.collect(partition, move |_, book| book.forget(id, given_up)).await
    }

    /// What a store that merges this partition learns first; none while a round waits to be finished, nor from one whose
    /// directory went back: what that holds may have been collected. One that is unsynced for another reason has a book that
    /// was flushed.
    #[must_use]
    pub fn lesson(&self, partition: PartitionId) -> Option<Lesson> {
        if self.inner.health.is_forgetful(partition) {
            return None;
        }
        self.inner.books.of(partition).unwrap_or_default().lesson().ok()
    }

    /// Learns it, before anything of the partition that its teacher read is taken. Who is behind it does not: from then on it
    /// would seem to remember, with all that lies here from before. It has no vote any more, and starts over first.
    pub async fn learn(&self, partition: PartitionId, lesson: Lesson) -> Result<(), Fault> {
        if self.is_behind(partition, lesson.sealed()) && !self.inner.buggify.breaks("who is behind does not learn") {
            self.distrust(partition).await?;
            return Err(Fault::Syncing);
        }
        self.collect(partition, move |_, book| book.learn(lesson)).await
    }

    /// Whether this store has forgotten that it marked what another owner has sealed: its directory went back.
    #[must_use]
    pub fn is_behind(&self, partition: PartitionId, sealed: Epoch) -> bool {
        sealed > self.inner.books.marked(partition)
    }

    /// It has: no vote here until everything of the partition was merged anew from every other owner.
    pub async fn distrust(&self, partition: PartitionId) -> Result<(), Fault> {
        self.run(partition, move |shard| {
            if shard.health.is_forgetful(partition) {
                return Ok(());
            }
            shard.metrics.replica.rollback_proofs.inc();
            shard.mark_forgetful(partition)
        })
        .await?
    }

    /// Takes nothing any more that was read before what some owner has sealed. Who is behind that is to start over instead.
    pub async fn refuse_before(&self, partition: PartitionId, sealed: Epoch) -> Result<(), Fault> {
        if sealed <= self.sealed(partition) || self.is_behind(partition, sealed) {
            return Ok(());
        }
        self.collect(partition, move |_, book| book.refuse_before(sealed)).await
    }

    /// ... whether or not it has a vote: nothing that was merged before this counts as merged.
    async fn doubt_anew(&self, partition: PartitionId) -> Result<(), Fault> {
        if self.inner.buggify.breaks("who starts over is marked once more") {
            return self.distrust(partition).await;
        }
        self.run(partition, move |shard| shard.mark_forgetful(partition)).await?
    }

    /// Gives up what is held of a partition whose owner has forgotten what it marked, of buckets that others own as well,
    /// under a new tenure, and learns. `sealed` is the greatest that any owner is known to have sealed. A crash in between
    /// leaves it as much behind as it was. It is marked as unsynced once more in any case: what was merged until here goes as
    /// well, whoever it came from.
    pub async fn start_over(
        &self,
        partition: PartitionId,
        lesson: Lesson,
        sealed: Epoch,
        shared: OfBucket<bool>,
    ) -> Result<u64, Fault> {
        self.doubt_anew(partition).await?;
        // What arrives from here on stays. It still remembers no mark: a crash leaves it as much behind.
        if !self.inner.buggify.breaks("who starts over refuses first what was collected") {
            let sealed = sealed.max(lesson.sealed());
            self.collect(partition, move |_, book| book.refuse_before(sealed)).await?;
        }
        self.new_tenures(vec![partition]).await?;
        let deleted = self.forget(partition, shared).await?;
        self.collect(partition, move |_, book| book.learn(lesson)).await?;
        Ok(deleted)
    }

    /// Drops a round that was sealed here; tells of how many keys it removed anything. Nothing is minted below what they
    /// covered from then on.
    pub async fn drop_round(&self, partition: PartitionId, id: RoundId) -> Result<Result<u64, NoSuchRound>, Fault> {
        self.run(partition, move |shard| shard.drop_round(partition, id)).await?
    }

    /// Whether nothing at all is held of a partition.
    pub fn holds_nothing(&self, partition: PartitionId) -> Result<bool, Fault> {
        let (first, end) = range_of(partition);
        let to = end.as_ref().map_or(Unbounded, |end| Excluded(&end[..]));
        match self.inner.storage.scan(Keyspace::Index, Included(&first[..]), to).next() {
            None => Ok(true),
            Some(entry) => entry.map(|_| false).map_err(Fault::from),
        }
    }

    /// Whether a partition may hold deletions that were not looked at yet.
    #[must_use]
    pub fn may_hold_deletions(&self, partition: PartitionId) -> bool {
        self.inner.books.none.get(partition.0 as usize).is_none_or(|none| !none.load(Ordering::Acquire))
    }

    /// A look at it begins: what is deleted from here on is to be looked at again.
    pub fn looks_for_deletions(&self, partition: PartitionId) {
        if let Some(none) = self.inner.books.none.get(partition.0 as usize) {
            none.store(true, Ordering::Release);
        }
    }

    /// It found some that are to stay a while.
    pub fn keeps_deletions(&self, partition: PartitionId) {
        self.inner.books.may_hold_deletions(partition);
    }

    /// A stretch of a partition's deletions, after `after`: by the index, whose entries say which records to read. Ripe are
    /// those of which nothing was written, and in which nothing expired, since `before`. Of the buckets in `of` alone.
    pub async fn deletions(
        &self,
        partition: PartitionId,
        after: Bytes,
        before: Wall,
        of: OfBucket<bool>,
    ) -> Result<Deletions, Fault> {
        self.run(partition, move |shard| shard.deletions(partition, &after, before, &of)).await?
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
    fn mark_forgetful(&self, partition: PartitionId) -> Result<(), Fault> {
        self.health.mark_forgetful(&*self.storage, &[partition], Batch::new()).map_err(|failed| {
            self.fail(&failed);
            Fault::ReadOnly(failed.to_string())
        })
    }

    fn write_book(&self, partition: PartitionId, book: Book, mut batch: Batch) -> Result<(), Fault> {
        let unflushed = self.env.buggify.breaks("a round's step is flushed");
        batch.put(Keyspace::Meta, partition_key(COLLECT, partition), book.encode());
        let durability = if unflushed { Durability::Os } else { Durability::Flush };
        self.storage.commit(batch, durability).map_err(|failed| {
            self.fail(&failed);
            Fault::ReadOnly(failed.to_string())
        })?;
        self.books.set(partition, book);
        // An older copy of this directory is found out by it.
        self.identity.move_on().map_err(|failed| {
            self.fail(&failed);
            Fault::ReadOnly(failed.to_string())
        })
    }

    /// Whether exactly what is listed is held; or nothing, where this store owns none of that bucket.
    fn agrees(&self, partition: PartitionId, listed: &Listed, owns: &OfBucket<bool>) -> bool {
        let Some((id, generation)) = name_of(&listed.stored) else { return false };
        let place = Place::of(self.grid(), &id, generation);
        if place.partition != partition || place.stored != listed.stored {
            return false;
        }
        match self.read(&place) {
            Ok(Some(record)) => self.listed(listed.stored.clone(), &record).is_some_and(|(held, _)| held == *listed),
            Ok(None) => !owns(&id.bucket),
            Err(_) => false,
        }
    }

    /// A record as a round lists it, if it is nothing but deletions, or values that have expired by every clock; and since
    /// when.
    fn listed(&self, stored: Bytes, record: &Bytes) -> Option<(Listed, Wall)> {
        let Head { siblings, context, .. } = decode_head(record).ok()?;
        let now = self.env.clock.wall();
        let expired = |at: Wall| self.identity.clock_is_right() && Horizon(at.0).is_past(now, self.drift);
        let gone = siblings.iter().all(|sibling| sibling.is_tombstone || sibling.expires_at.is_some_and(expired));
        if !gone {
            return None;
        }
        let written = context.greatest_stamp().map(Stamp::wall);
        let since = siblings.iter().filter_map(|sibling| sibling.expires_at).chain(written).max();
        let dots = siblings.iter().map(|sibling| sibling.dot).collect();
        Some((Listed { stored, digest: digest_of_record(record), dots }, since.unwrap_or_default()))
    }

    fn deletions(
        &self,
        partition: PartitionId,
        after: &Bytes,
        before: Wall,
        of: &OfBucket<bool>,
    ) -> Result<Deletions, Fault> {
        let (first, end) = range_of(partition);
        let from = if after.is_empty() { Included(&first[..]) } else { Excluded(&after[..]) };
        let to = end.as_ref().map_or(Unbounded, |end| Excluded(&end[..]));
        let (mut found, mut scanned, mut read) = (Deletions::default(), Scanned::default(), 0);
        for entry in self.storage.scan(Keyspace::Index, from, to).take(CHUNK) {
            let (stored, entry) = entry.map_err(Fault::from)?;
            scanned.note(stored.clone());
            if !may_be_deletion(&entry) || self.health.is_quarantined(&stored) {
                continue;
            }
            if name_of(&stored).is_none_or(|(id, _)| !of(&id.bucket)) {
                found.others = true;
                continue;
            }
            read += 1;
            // One that cannot be read is found by whoever asks for it, or by a scrub.
            if let Ok(Some(record)) = self.storage.get(Keyspace::Objects, &stored)
                && let Some((listed, since)) = self.listed(stored.clone(), &record)
            {
                match since <= before {
                    true => found.ripe.push(listed),
                    false => found.young += 1,
                }
            } else if entry[0] > 1 {
                // It will be one, once its values have expired.
                found.young += 1;
            }
            if read >= RECORDS {
                found.next = Some(stored);
                return Ok(found);
            }
        }
        found.next = scanned.next(CHUNK);
        Ok(found)
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
        self.metrics.collect.dropped.inc_by(dropped);
        Ok(Ok(dropped))
    }

    /// Under which epoch what this thread reads now is read.
    pub(super) fn epoch(&self, partition: PartitionId) -> Epoch {
        self.books.read_epoch(partition, &self.health)
    }

    /// Under which epoch a hint is minted from now on that is read nowhere else.
    pub(super) fn hint_epoch(&self, partition: PartitionId) -> Epoch {
        let drained = self.books.of(partition).map_or(Epoch::FIRST, |book| book.drained());
        self.books.epoch(partition).max(drained)
    }

    pub(super) fn hear(&self, partition: PartitionId, sealed: Epoch, drained: Epoch) -> Result<(), Fault> {
        let before = self.books.of(partition).unwrap_or_default();
        let mut book = (*before).clone();
        book.hear(sealed, drained);
        if book == *before { Ok(()) } else { self.write_book(partition, book, Batch::new()) }
    }

    /// Judges a state that is to be kept for another owner.
    pub(super) fn judge_hint(&self, partition: PartitionId, read: Epoch) -> Result<(), Fault> {
        if self.env.buggify.breaks("a drained holder takes no older hint") {
            return Ok(());
        }
        self.judged(self.books.of(partition).map_or(Ok(()), |book| book.judge_hint(read)))
    }

    /// Whether this node stands in for owners of a partition, and keeps more beside what it keeps already, read under `kept`.
    /// A directory that went back has forgotten what it promised them.
    pub(super) fn stands_in(&self, partition: PartitionId, kept: Option<Epoch>) -> Result<(), Fault> {
        if self.env.buggify.breaks("who forgot its promises stands in for nobody") {
            return Ok(());
        }
        if self.health.is_forgetful(partition) {
            return Err(Fault::Syncing);
        }
        let book = kept.and_then(|kept| Some((kept, self.books.of(partition)?)));
        self.judged(book.map_or(Ok(()), |(kept, book)| book.judge_kept(kept)))
    }

    fn judged(&self, judged: Result<(), TooOld>) -> Result<(), Fault> {
        judged.map_err(|old| {
            self.metrics.collect.refused.inc();
            Fault::TooOld(old)
        })
    }

    /// Judges a state that arrives; gives it as it is taken in.
    pub(super) fn take_in(&self, place: &Place, read: Epoch, cause: Cause, incoming: Object) -> Result<Object, Fault> {
        if !self.env.buggify.breaks("what was read under a sealed epoch is refused") {
            self.books.judge(place.partition, read, cause).map_err(|old| {
                self.metrics.collect.refused.inc();
                Fault::TooOld(old)
            })?;
        }
        if !self.books.brief(place.partition, |brief| brief.takes_out.load(Ordering::Acquire)) {
            return Ok(incoming);
        }
        let book = self.books.of(place.partition);
        Ok(book.and_then(|book| book.strip(&place.stored, &incoming)).unwrap_or(incoming))
    }
}

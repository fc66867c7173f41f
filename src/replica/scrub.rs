//! What a scrub reads here: everything, a chunk at a time, past all caches of ours, and whether it agrees.
//!
//! A record must be readable and decode; else its key is quarantined, and mended from the other owners like any other (a
//! new tenure included). An index entry that cannot be read, or is missing, is written again from its record.
//!
//! So is one that says something else than a record that decodes: **the record is believed.** A hole in the log that
//! recovery skips can take index and leaf of the last commits together, while their records had reached a table: to believe
//! the index would delete an acknowledged write. It may as well have been the record that stayed behind: so the leaf is
//! recomputed, what is minted next is under a new tenure (dots may be forgotten), and the partition is marked for comparison
//! with its other owners, all in the same job.
//!
//! Leaves are summed up chunk by chunk. Each that is something else in the end (written meanwhile, most of them) is suspect:
//! the thread that owns it recomputes it from the index, in one go, and only that decides. It is the only rebuild there is.
//! One that could be read and was wrong means that something went that nobody knows of: a new tenure, and a mark, here too.
//!
//! The index names every key, so one damaged record hides none. Behind what cannot be read of the index, the objects name
//! the next key, or the quarantine does. Where neither can be read nobody here knows what was there: then the partition has
//! no vote until all of it has been merged from every other owner, which names it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included, Unbounded};

use bytes::Bytes;
use tracing::{error, warn};

use super::class::front_of;
use super::index::{index_digest, index_entry};
use super::place::{Place, leaf_key, name_of, range_of};
use super::shard::Shard;
use super::{Fault, Replica};
use crate::causality::{decode_object, digest_of_record};
use crate::merkle::{hour_of, leaf_element};
use crate::storage::{Batch, Durability, Keyspace, StorageError};
use crate::types::{Digest, PartitionId};

/// Most keys of a chunk.
const KEYS: usize = 256;
/// Bytes of records after which a chunk ends.
const BYTES: usize = 256 << 10;

/// Merkle leaves by their keys, those of zero left out.
pub type Leaves = BTreeMap<Bytes, u128>;

/// What a chunk came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scrubbed {
    /// Keys looked at.
    pub keys: u64,
    /// Bytes of records read.
    pub bytes: u64,
    /// Keys that were put into quarantine.
    pub damaged: Vec<Bytes>,
    /// Index entries that could not be read, or were missing, and were written again from their records.
    pub index_mended: u64,
    /// Index entries that said something else than their records, and were written again from them.
    pub disagreed: u64,
    /// Leaves recomputed, because they hang under such an index entry.
    pub leaves_mended: u64,
    /// Whether something lies here of which not even the key can be read.
    pub gap: bool,
    /// What the objects of the chunk add to their leaves.
    pub leaves: Leaves,
    /// Leaves, by their number, that something hangs under of which it is not known what.
    pub unknown: BTreeSet<u8>,
    /// Where the next chunk goes on; none: this was the last of the partition.
    pub next: Option<Bytes>,
}

/// An index entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Entry {
    /// Digest and hour.
    Says(Digest, u32),
    Unreadable,
    Missing,
}

impl Entry {
    fn of(entry: &[u8]) -> Self {
        index_digest(entry).map_or(Self::Unreadable, |(digest, hour)| Self::Says(digest, hour))
    }
}

/// A stretch of the index, also behind what cannot be read of it.
#[derive(Default)]
struct Listed {
    entries: BTreeMap<Bytes, Entry>,
    gap: bool,
    /// Nothing behind the last gap can be named.
    cut: bool,
    next: Option<Bytes>,
}

/// What the leaves of a partition should be.
struct Sums {
    leaves: Leaves,
    /// Leaves, by their number, under which something unknown hangs.
    unknown: BTreeSet<u8>,
    /// Nothing behind a gap can be named.
    cut: bool,
}

/// What makes leaves right.
struct Recomputed {
    batch: Batch,
    /// Leaves that were not the sum of their objects.
    wrong: u64,
    /// Of those, leaves that could be read.
    readable: u64,
}

impl Replica {
    /// Reads a chunk of a partition, from the first stored key after `after` on, and quarantines what is damaged.
    pub async fn scrub(&self, partition: PartitionId, after: Bytes) -> Result<Scrubbed, Fault> {
        self.run(partition, move |shard| shard.scrub(partition, &after)).await?
    }

    /// The stored leaves of a partition.
    pub async fn leaves(&self, partition: PartitionId) -> Result<Leaves, Fault> {
        self.run(partition, move |shard| shard.leaves(partition)).await
    }

    /// Recomputes leaves of a partition from its index; tells how many were not the sum of their objects. Those under which
    /// something unknown hangs are left alone. Where one was wrong that could be read, the partition gets a new tenure and is
    /// marked for comparison with its other owners.
    pub async fn recompute(&self, partition: PartitionId, leaves: BTreeSet<Bytes>) -> Result<u64, Fault> {
        self.run(partition, move |shard| shard.recompute(partition, &leaves)).await?
    }
}

fn add(leaves: &mut Leaves, leaf: Bytes, element: u128) {
    let sum = leaves.entry(leaf).or_default();
    *sum = sum.wrapping_add(element);
}

impl Shard {
    fn scrub(&self, partition: PartitionId, after: &Bytes) -> Result<Scrubbed, Fault> {
        self.check_writable()?;
        let mut listed = self.list(partition, after, KEYS);
        let mut done = Scrubbed { gap: listed.gap, next: listed.next.take(), ..Scrubbed::default() };
        let mut records = self.records(partition, after, &mut done);
        if let Some(last) = &done.next {
            listed.entries.retain(|stored, _| stored <= last);
        }
        for stored in records.keys() {
            listed.entries.entry(stored.clone()).or_insert(Entry::Missing);
        }
        if done.gap && !self.env.buggify.breaks("a scrub reports what it cannot read") {
            error!(%partition, "what is stored here cannot even be named: the partition is merged from its other owners");
            self.health
                .mark_unsynced(&*self.storage, &[partition], Batch::new())
                .map_err(|failed| self.failed(&failed))?;
        }
        let (mut batch, mut alone, mut doubtful) = (Batch::new(), 0, BTreeSet::new());
        let mut isolated = false;
        for (stored, entry) in listed.entries {
            let Some((id, generation)) = name_of(&stored) else { continue };
            let place = Place { stored, ..Place::of(self.grid(), &id, generation) };
            let leaf_at = |hour| leaf_key(partition, self.classes.of(&front_of(&place.stored)), hour, place.leaf);
            done.keys += 1;
            let record = match records.remove(&place.stored) {
                Some(record) => Ok(Some(record)),
                None if self.health.is_quarantined(&place.stored) => Ok(None),
                // Past the cache of records: it is the disk that is asked.
                None => {
                    let read = self.storage.multi_get(Keyspace::Objects, std::slice::from_ref(&place.stored)).pop();
                    let read = read.unwrap_or(Ok(None));
                    alone += read.as_ref().map_or(0, |read| read.as_ref().map_or(0, Bytes::len));
                    read
                }
            };
            match self.judge(&place, entry, record) {
                Ok((digest, hour, rewritten)) => {
                    if let Some(rewritten) = rewritten {
                        batch.put(Keyspace::Index, place.stored.clone(), rewritten);
                        if let Entry::Says(_, its) = entry {
                            done.disagreed += 1;
                            doubtful.extend([leaf_at(its), leaf_at(hour)]);
                        } else {
                            done.index_mended += 1;
                        }
                    }
                    add(&mut done.leaves, leaf_at(hour), leaf_element(&place.stored, &digest));
                }
                Err(why) => {
                    match entry {
                        Entry::Says(digest, hour) => {
                            add(&mut done.leaves, leaf_at(hour), leaf_element(&place.stored, &digest));
                        }
                        Entry::Unreadable | Entry::Missing => drop(done.unknown.insert(place.leaf)),
                    }
                    if let Some(why) = why.filter(|_| !self.env.buggify.breaks("a scrub reports what it cannot read")) {
                        isolated |= self.isolate(&place, &why);
                        done.damaged.push(place.stored.clone());
                    }
                }
            }
            if alone >= BYTES {
                done.next = Some(place.stored);
                break;
            }
        }
        // Nothing is minted in this partition before this job ends: one tenure does for all that was found.
        if isolated && done.disagreed == 0 {
            self.forgets_dots(partition);
        }
        if done.disagreed > 0 {
            let entries = done.disagreed;
            error!(%partition, entries, "index entries were not their records': the records are believed, and compared with the other owners'");
            self.doubt(partition, &mut batch)?;
        }
        if !batch.is_empty() {
            warn!(%partition, entries = done.index_mended + done.disagreed, "index entries are written again from their records");
            self.storage.commit(batch, Durability::Flush).map_err(|failed| self.failed(&failed))?;
        }
        if !doubtful.is_empty() {
            // By the index as it is now; doubted already.
            let Recomputed { batch, wrong, .. } = self.recomputed(partition, &doubtful);
            if wrong > 0 {
                self.storage.commit(batch, Durability::Flush).map_err(|failed| self.failed(&failed))?;
            }
            done.leaves_mended = wrong;
        }
        done.bytes += alone as u64;
        Ok(done)
    }

    fn failed(&self, failed: &StorageError) -> Fault {
        self.fail(failed);
        Fault::ReadOnly(failed.to_string())
    }

    /// The records of a chunk, as far as they can be read in a row, and where the chunk ends because they are so large.
    fn records(&self, partition: PartitionId, after: &Bytes, done: &mut Scrubbed) -> BTreeMap<Bytes, Bytes> {
        let (first, end) = range_of(partition);
        let from = if after.is_empty() { Included(&first[..]) } else { Excluded(&after[..]) };
        let to = match (&done.next, &end) {
            (Some(last), _) => Included(&last[..]),
            (None, Some(end)) => Excluded(&end[..]),
            (None, None) => Unbounded,
        };
        let (mut records, mut bytes, mut cut) = (BTreeMap::new(), 0, None);
        for entry in self.storage.scan(Keyspace::Objects, from, to) {
            // What lies behind is read one by one.
            let Ok((stored, record)) = entry else { break };
            bytes += record.len();
            records.insert(stored.clone(), record);
            if bytes >= BYTES || records.len() >= KEYS {
                cut = Some(stored);
                break;
            }
        }
        done.bytes += bytes as u64;
        done.next = cut.or(done.next.take());
        records
    }

    /// What hangs under a key: digest, hour, and the index entry where that has to be written again. Else why the key has
    /// to be quarantined; none where it is already.
    fn judge(
        &self,
        place: &Place,
        entry: Entry,
        record: Result<Option<Bytes>, StorageError>,
    ) -> Result<(Digest, u32, Option<Bytes>), Option<String>> {
        if self.health.is_quarantined(&place.stored) {
            return Err(None);
        }
        let record = match record {
            Ok(Some(record)) => record,
            Ok(None) => return Err(Some("its index entry is there, and it is not".to_owned())),
            Err(failed) => return Err(Some(failed.to_string())),
        };
        let digest = digest_of_record(&record);
        let object = decode_object(record).map_err(|bad| Some(format!("it cannot be decoded: {bad}")))?;
        let hour = hour_of(object.horizon());
        if entry == Entry::Says(digest, hour) {
            return Ok((digest, hour, None));
        }
        Ok((digest, hour, Some(index_entry(&digest, &object))))
    }

    /// A stretch of a partition's index, from the first stored key after `after` on.
    fn list(&self, partition: PartitionId, after: &Bytes, most: usize) -> Listed {
        let (first, end) = range_of(partition);
        let to = end.as_ref().map_or(Unbounded, |end| Excluded(&end[..]));
        let (mut listed, mut at) = (Listed::default(), after.clone());
        loop {
            let from = |at: &Bytes| if at.is_empty() { Included(first.clone()) } else { Excluded(at.clone()) };
            let (bound, mut broke) = (from(&at), false);
            for entry in self.storage.scan(Keyspace::Index, bound.as_ref().map(|key| &key[..]), to) {
                let Ok((stored, entry)) = entry else {
                    broke = true;
                    break;
                };
                at = stored.clone();
                listed.entries.insert(stored, Entry::of(&entry));
                if listed.entries.len() >= most {
                    listed.next = Some(at);
                    return listed;
                }
            }
            if !broke {
                return listed;
            }
            // The objects name the next key, or the quarantine does.
            let named = self.named_behind(partition, &at);
            let upper = named.as_ref().map_or(to, |named| Excluded(&named[..]));
            let bound = from(&at);
            let behind = match self.storage.scan(Keyspace::Objects, bound.as_ref().map(|key| &key[..]), upper).next() {
                Some(Ok((stored, _))) => Some(stored),
                Some(Err(_)) => {
                    listed.gap = true;
                    None
                }
                None => None,
            };
            let Some(stored) = behind.or(named) else {
                listed.cut = listed.gap;
                return listed;
            };
            let entry = match self.storage.get(Keyspace::Index, &stored) {
                Ok(Some(entry)) => Entry::of(&entry),
                Ok(None) => Entry::Missing,
                Err(_) => Entry::Unreadable,
            };
            at = stored.clone();
            listed.entries.insert(stored, entry);
            if listed.entries.len() >= most {
                listed.next = Some(at);
                return listed;
            }
        }
    }

    /// The first quarantined key of a partition behind this one.
    fn named_behind(&self, partition: PartitionId, at: &Bytes) -> Option<Bytes> {
        let named = self.health.quarantined().into_iter().filter(|(of, stored)| *of == partition && stored > at);
        named.map(|(_, stored)| stored).min()
    }

    /// One that cannot be read is left out: then it is not the sum of anything.
    fn leaves(&self, partition: PartitionId) -> Leaves {
        let (from, end) = range_of(partition);
        let to = end.as_ref().map_or(Unbounded, |end| Excluded(&end[..]));
        let leaves = self.storage.scan(Keyspace::Merkle, Included(&from[..]), to).filter_map(Result::ok);
        let sums = leaves.map(|(leaf, sum)| (leaf, sum.as_ref().try_into().map_or(0, u128::from_le_bytes)));
        sums.filter(|(_, sum)| *sum != 0).collect()
    }

    /// What the leaves of a partition should be, by its index, without these keys.
    fn sums(&self, partition: PartitionId, without: &BTreeSet<Bytes>) -> Sums {
        let (mut leaves, mut unknown, mut after) = (Leaves::new(), BTreeSet::new(), Bytes::new());
        loop {
            let listed = self.list(partition, &after, KEYS);
            if listed.gap {
                unknown.extend(0..=u8::MAX);
            }
            for (stored, entry) in listed.entries.iter().filter(|(stored, _)| !without.contains(*stored)) {
                let Some((id, generation)) = name_of(stored) else { continue };
                let leaf = Place::of(self.grid(), &id, generation).leaf;
                match entry {
                    Entry::Says(digest, hour) => {
                        let at = leaf_key(partition, self.classes.of(&front_of(stored)), *hour, leaf);
                        add(&mut leaves, at, leaf_element(stored, digest));
                    }
                    Entry::Unreadable | Entry::Missing => drop(unknown.insert(leaf)),
                }
            }
            match listed.next {
                Some(next) => after = next,
                None => return Sums { leaves, unknown, cut: listed.cut },
            }
        }
    }

    fn recompute(&self, partition: PartitionId, leaves: &BTreeSet<Bytes>) -> Result<u64, Fault> {
        self.check_writable()?;
        let Recomputed { mut batch, wrong, readable } = self.recomputed(partition, leaves);
        if readable > 0 {
            error!(%partition, wrong = readable, "Merkle leaves were not the sums of their objects: recomputed; find out why");
            self.doubt(partition, &mut batch)?;
        }
        if wrong > 0 {
            warn!(%partition, wrong, "Merkle leaves are written again");
            self.storage.commit(batch, Durability::Flush).map_err(|failed| self.failed(&failed))?;
        }
        Ok(wrong)
    }

    /// What is to be written so that leaves are the sums of what the index names.
    fn recomputed(&self, partition: PartitionId, leaves: &BTreeSet<Bytes>) -> Recomputed {
        let Sums { leaves: sums, unknown, .. } = self.sums(partition, &BTreeSet::new());
        let mut done = Recomputed { batch: Batch::new(), wrong: 0, readable: 0 };
        for leaf in leaves.iter().filter(|leaf| leaf.last().is_none_or(|number| !unknown.contains(number))) {
            let sum = sums.get(leaf).copied().unwrap_or_default();
            let stored = self
                .storage
                .get(Keyspace::Merkle, leaf)
                .map(|stored| stored.map_or(0, |stored| stored.as_ref().try_into().map_or(0, u128::from_le_bytes)));
            if stored != Ok(sum) {
                done.batch.put(Keyspace::Merkle, leaf.clone(), sum.to_le_bytes().to_vec());
                done.wrong += 1;
                done.readable += u64::from(stored.is_ok());
            }
        }
        done
    }

    /// What is stored of a partition may not be all that was: a new tenure before the next mint, for dots may be forgotten
    /// (I-MINT), and a mark, so that its owners are compared.
    fn doubt(&self, partition: PartitionId, batch: &mut Batch) -> Result<(), Fault> {
        self.identity.new_tenure(partition).map_err(|failed| self.failed(&failed))?;
        self.mark_for_comparison(partition, batch);
        Ok(())
    }

    /// Puts to `batch` the leaves under which these keys of a partition hang, without them: what they hung under cannot be
    /// read any more. Before anything is added to those leaves. Not where nobody can tell what hangs there.
    pub(super) fn unhang(&self, partition: PartitionId, keys: &BTreeSet<Bytes>, batch: &mut Batch) {
        let names = keys.iter().filter_map(name_of);
        let numbers: BTreeSet<u8> =
            names.map(|(id, generation)| Place::of(self.grid(), &id, generation).leaf).collect();
        let Sums { leaves: sums, cut, .. } = self.sums(partition, keys);
        if cut {
            return;
        }
        let stored = self.leaves(partition);
        let all: BTreeSet<&Bytes> = stored.keys().chain(sums.keys()).collect();
        for leaf in all.into_iter().filter(|leaf| leaf.last().is_some_and(|number| numbers.contains(number))) {
            let sum = sums.get(leaf).copied().unwrap_or_default();
            batch.put(Keyspace::Merkle, leaf.clone(), sum.to_le_bytes().to_vec());
        }
    }
}

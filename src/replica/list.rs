//! The keys of one bucket, in byte order, out of partitions that lie apart.
//!
//! The stored keys of a bucket in one partition are a range in the keys' own order, so a list is as many ranges as there are
//! partitions, merged. Each is read in short pieces: about as many keys as the list is likely to want of it, so that nothing
//! is held open between two pieces, and a storage thread is let go after [`SCANNED`] entries or [`BYTES`] of records. What
//! that costs is one seek a partition and list, whatever is found there; the bench of lists has the figures.
//!
//! The index answers for nearly all keys without their objects ([`Shown`]). Where objects are read, they are read past the
//! cache of records: a list throws nothing out of it.
//!
//! **What cannot be answered for is said, partition by partition**: what is not completely synced, and what holds a key that
//! cannot be read. A list never leaves out what it could not read.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::oneshot;

use super::class::{after, front};
use super::index::{Shown, index_shown};
use super::place::Place;
use super::shard::{Op, Shard};
use super::{Fault, Replica};
use crate::causality::{decode_object, digest_of_record};
use crate::quorum::list::{Merge, Next};
use crate::storage::Keyspace;
use crate::types::{Bucket, Digest, Mono, PartitionId, Wall};

/// Index entries that a storage thread goes through in one go: few in tests, so that a list takes several.
const SCANNED: usize = if cfg!(test) { 64 } else { 2048 };
/// As many of them a record that is read from disk is worth.
const READ_COSTS: usize = if cfg!(test) { 1 } else { 16 };
/// Bytes of records that it reads in one go.
const BYTES: usize = 1 << 20;

/// What of a bucket is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListWanted {
    /// The bucket.
    pub bucket: Bucket,
    /// Its generation.
    pub generation: u64,
    /// Keys that begin so.
    pub prefix: Bytes,
    /// Keys behind this one; empty: from the first on.
    pub after: Bytes,
    /// The time by which values have expired or not: the same for all that answer for one page.
    pub now: Wall,
    /// About so many keys.
    pub keys: usize,
    /// About so many bytes, keys and records together; one key is listed at least.
    pub bytes: usize,
    /// With the records.
    pub records: bool,
    /// For a merge with what other owners hold: deletes, too.
    pub dead: bool,
}

/// What is held under one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// The object's digest.
    pub digest: Digest,
    /// How many siblings are shown; 0: none is, for it is deleted or has expired.
    pub siblings: u32,
    /// How many siblings have expired.
    pub expired: u32,
    /// The record, where it was wanted.
    pub record: Option<Bytes>,
}

/// What there is of a bucket.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Listing {
    /// The keys, in order.
    pub keys: Vec<(Bytes, Listed)>,
    /// Up to this key, itself included, they are all there are; none: to the end.
    pub whole: Option<Bytes>,
    /// The partitions that nothing can be said of, and why: none of their keys is among these.
    pub unable: Vec<(PartitionId, Fault)>,
}

/// What was read of one partition: keys, and up to where they are all there are.
type Piece = (Vec<(Bytes, Listed)>, Option<Bytes>);
/// What a storage thread read of the streams that it was asked for.
type Pieces = Vec<(usize, Result<Piece, Fault>)>;

impl Replica {
    /// Lists keys of one bucket in these partitions. Ends where it has as much as is wanted, at `deadline` with what it has
    /// by then, or where there is no more.
    pub async fn list(
        &self,
        partitions: &[PartitionId],
        wanted: &ListWanted,
        deadline: Mono,
    ) -> Result<Listing, Fault> {
        let mut listing = Listing::default();
        let (mut merge, mut streams) = (Merge::<Listed>::default(), Vec::with_capacity(partitions.len()));
        for &partition in partitions {
            match self.cannot_list(partition, wanted) {
                Some(fault) => listing.unable.push((partition, fault)),
                None => {
                    merge.open(wanted.after.clone());
                    streams.push(partition);
                }
            }
        }
        let likely = wanted.keys.div_ceil(streams.len().max(1));
        let piece = (likely + 2 * likely.isqrt() + 1).min(wanted.keys.max(1));
        let (mut keys, mut bytes, mut failed): (Vec<(usize, Bytes, Listed)>, usize, Vec<usize>) = Default::default();
        loop {
            match merge.advance() {
                Next::Done => break,
                Next::Key(key, said) => {
                    for (at, listed) in said {
                        bytes += key.len() + listed.record.as_ref().map_or(0, Bytes::len);
                        keys.push((at, key.clone(), listed));
                    }
                    if keys.len() >= wanted.keys || bytes >= wanted.bytes {
                        listing.whole = Some(key);
                        break;
                    }
                }
                Next::Wants(_) if self.inner.clock.now() >= deadline => {
                    listing.whole = merge.reached().cloned();
                    break;
                }
                Next::Wants(wants) => {
                    let at = |at: usize| (at, streams[at], merge.whole_to(at).cloned().unwrap_or_default());
                    let asked = wants.into_iter().map(at).collect();
                    for (at, read) in self.pieces(asked, wanted, piece).await? {
                        match read {
                            Ok((keys, whole)) => {
                                if !merge.feed(at, keys, whole) {
                                    return Err(Fault::Damaged);
                                }
                            }
                            Err(fault) => {
                                merge.close(at);
                                failed.push(at);
                                listing.unable.push((streams[at], fault));
                            }
                        }
                    }
                }
            }
        }
        // What came of a partition before it failed is not all of it; what has outlived its horizon, others may have dropped:
        // they agree.
        let is_told = |at: &usize, listed: &Listed| {
            let outlived =
                wanted.dead && listed.record.is_some() && self.unless_outlived(listed.record.clone()).is_none();
            !failed.contains(at) && !outlived
        };
        keys.retain(|(at, _, listed)| is_told(at, listed));
        listing.keys = keys.into_iter().map(|(_, key, listed)| (key, listed)).collect();
        Ok(listing)
    }

    /// Why nothing can be listed of a partition; none where all seems well.
    fn cannot_list(&self, partition: PartitionId, wanted: &ListWanted) -> Option<Fault> {
        let health = &self.inner.health;
        if !self.inner.identity.may_vote() || !health.is_synced(partition) {
            return Some(Fault::Syncing);
        }
        if health.is_well() {
            return None;
        }
        let begins = begins(partition, wanted);
        let damaged = health.quarantined().into_iter().any(|(_, stored)| {
            stored.starts_with(&begins) && stored.get(begins.len() - wanted.prefix.len()..) > Some(&wanted.after[..])
        });
        damaged.then_some(Fault::Damaged)
    }

    /// Reads on in streams (its number, its partition, behind which key), as far as the storage threads come in one go: at
    /// least in one of them.
    async fn pieces(
        &self,
        asked: Vec<(usize, PartitionId, Bytes)>,
        wanted: &ListWanted,
        most: usize,
    ) -> Result<Pieces, Fault> {
        let threads = self.inner.queues.len();
        let mut by_thread: BTreeMap<usize, Vec<(usize, PartitionId, Bytes)>> = BTreeMap::new();
        for stream in asked {
            by_thread.entry(stream.1.0 as usize % threads).or_default().push(stream);
        }
        let mut answers = Vec::with_capacity(by_thread.len());
        for its in by_thread.into_values() {
            let (answer, answered) = oneshot::channel();
            let (partition, wanted) = (its[0].1, wanted.clone());
            let job = move |shard: &Shard| drop(answer.send(shard.pieces(its, &wanted, most)));
            self.send(partition, Op::Run(Box::new(job)))?;
            answers.push(answered);
        }
        let mut pieces = Vec::new();
        for answered in answers {
            pieces.extend(answered.await.map_err(|_| Fault::Stopping)?);
        }
        Ok(pieces)
    }
}

/// What the stored keys begin with.
fn begins(partition: PartitionId, wanted: &ListWanted) -> Bytes {
    let front = front(partition, &wanted.bucket);
    let mut begins = BytesMut::with_capacity(front.len() + 8 + wanted.prefix.len());
    begins.put_slice(&front);
    begins.put_u64(wanted.generation);
    begins.put_slice(&wanted.prefix);
    begins.freeze()
}

/// What is left of what a storage thread does in one go.
struct Effort {
    entries: usize,
    bytes: usize,
}

impl Effort {
    fn is_spent(&self) -> bool {
        self.entries == 0 || self.bytes == 0
    }
}

impl Shard {
    fn pieces(&self, asked: Vec<(usize, PartitionId, Bytes)>, wanted: &ListWanted, most: usize) -> Pieces {
        let mut effort = Effort { entries: SCANNED, bytes: BYTES };
        let mut pieces = Vec::with_capacity(asked.len());
        for (at, partition, after) in asked {
            pieces.push((at, self.piece(partition, &after, wanted, most, &mut effort)));
            if effort.is_spent() {
                break;
            }
        }
        pieces
    }

    /// At most so many keys of a partition behind `after`.
    fn piece(
        &self,
        partition: PartitionId,
        behind: &Bytes,
        wanted: &ListWanted,
        most: usize,
        effort: &mut Effort,
    ) -> Result<Piece, Fault> {
        let begins = begins(partition, wanted);
        let head = begins.len() - wanted.prefix.len();
        let last = [&begins[..head], &behind[..]].concat();
        let from = if *behind < wanted.prefix { Included(&begins[..]) } else { Excluded(&last[..]) };
        let end = after(&begins);
        let to = end.as_deref().map_or(Unbounded, Excluded);
        let mut keys = Vec::with_capacity(most.min(SCANNED));
        // A seek is worth a few entries.
        effort.entries = effort.entries.saturating_sub(8);
        for entry in self.storage.scan(Keyspace::Index, from, to) {
            let (stored, entry) = entry.map_err(Fault::from)?;
            let key = stored.slice(head..);
            effort.entries = effort.entries.saturating_sub(1);
            if let Some(listed) = self.shown(partition, &stored, &entry, wanted, effort)? {
                keys.push((key.clone(), listed));
            }
            if keys.len() >= most || effort.is_spent() {
                return Ok((keys, Some(key)));
            }
        }
        Ok((keys, None))
    }

    /// What is shown under a stored key; none: nothing.
    fn shown(
        &self,
        partition: PartitionId,
        stored: &Bytes,
        entry: &[u8],
        wanted: &ListWanted,
        effort: &mut Effort,
    ) -> Result<Option<Listed>, Fault> {
        if self.health.is_quarantined(stored) {
            return Err(Fault::Damaged);
        }
        match index_shown(entry) {
            Some((_, Shown::Dead)) if !wanted.dead => return Ok(None),
            Some((digest, Shown::Lasts(siblings))) if !wanted.records => {
                return Ok(Some(Listed { digest, siblings, expired: 0, record: None }));
            }
            _ => {}
        }
        // Not many of them in one go.
        effort.entries = effort.entries.saturating_sub(READ_COSTS);
        let place = Place { partition, leaf: 0, stored: stored.clone() };
        let Some(record) = self.read(&place)? else {
            // A key that the index names and that is not there: bit rot, or a scrub would have found it.
            return Err(self.quarantine(&place, "its index entry is there, and it is not"));
        };
        effort.bytes = effort.bytes.saturating_sub(record.len());
        let object = decode_object(record.clone()).map_err(|bad| self.quarantine(&place, &bad.to_string()))?;
        let (siblings, expired) = shown_of(&object, wanted.now);
        if siblings == 0 && !wanted.dead {
            return Ok(None);
        }
        let digest = digest_of_record(&record);
        Ok(Some(Listed { digest, siblings, expired, record: wanted.records.then_some(record) }))
    }
}

/// How many siblings of an object are shown at `now`, and how many have expired.
fn shown_of(object: &crate::causality::Object, now: Wall) -> (u32, u32) {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    (count(crate::kv::views(object, now).len()), count(crate::kv::expired(object, now)))
}

#[cfg(test)]
mod tests;

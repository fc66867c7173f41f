//! Going over hints, past what cannot be read.
//!
//! An error ends a scan, and what lies behind is not known: one block that is damaged would keep from their owners all hints
//! that sort after it. So it is tried again, for a disk that fails once may not the second time; then it goes on behind, with
//! the first owner and partition from which it can be read again. That is searched for by halves. What lies in between stays
//! where it is, unread.
//!
//! Bounds: 128 seeks for a gap, and as many as a number of partitions has bits.

use std::ops::Bound::{self, Excluded, Included, Unbounded};

use bytes::Bytes;

use super::record::hint_key;
use crate::storage::{Entry, Keyspace, Storage};
use crate::types::StoreId;

/// How often it is tried again before a gap is one.
const TRIES: u32 = 3;

/// Hints between two bounds, in order of keys. An error stands for a gap; behind it it goes on.
pub(super) struct Walk<'a> {
    storage: &'a dyn Storage,
    /// Partitions of the grid.
    partitions: u32,
    /// The owner behind the last; none: there is no such bound.
    to: Option<u128>,
    scan: Box<dyn Iterator<Item = Entry> + 'a>,
    /// The last that was read, or where it began.
    last: Bytes,
    /// How often it was begun anew since.
    tries: u32,
}

impl<'a> Walk<'a> {
    /// All hints.
    pub(super) fn over_all(storage: &'a dyn Storage, partitions: u32) -> Self {
        let scan = storage.scan(Keyspace::Hints, Unbounded, Unbounded);
        Self { storage, partitions, to: None, scan, last: Bytes::new(), tries: 0 }
    }

    /// An owner's hints, from the first stored key after `after` on.
    pub(super) fn over(storage: &'a dyn Storage, partitions: u32, target: StoreId, after: &[u8]) -> Self {
        let scan = Box::new(std::iter::empty());
        let (to, last) = (target.bits().checked_add(1), hint_key(target, after));
        let mut walk = Self { storage, partitions, to, scan, last, tries: 0 };
        // An owner's id alone is no hint's key.
        walk.scan = walk.scan_from(Excluded(&walk.last));
        walk
    }

    fn scan_from(&self, from: Bound<&[u8]>) -> Box<dyn Iterator<Item = Entry> + 'a> {
        let to = self.to.map(u128::to_be_bytes);
        self.storage.scan(Keyspace::Hints, from, to.as_ref().map_or(Unbounded, |to| Excluded(&to[..])))
    }

    /// Whether it fails at once from here on.
    fn fails_from(&self, target: u128, partition: u32) -> bool {
        matches!(self.scan_from(Included(&front(target, partition))).next(), Some(Err(_)))
    }

    /// The first owner and partition behind the last that was read from which it does not fail at once; none: there is none.
    fn behind(&self) -> Option<(u128, u32)> {
        let (last, within) = front_of(&self.last);
        let end = self.to.unwrap_or(u128::MAX);
        // It fails from `fails` on, and not from `reads` on.
        let (mut fails, mut reads) = (last, end);
        if self.fails_from(end, 0) {
            fails = end;
        }
        while reads.saturating_sub(fails) > 1 {
            let middle = fails + (reads - fails) / 2;
            if self.fails_from(middle, 0) { fails = middle } else { reads = middle }
        }
        let (mut low, mut high) = (if fails == last { within } else { 0 }, self.partitions);
        while high.saturating_sub(low) > 1 {
            let middle = low + (high - low) / 2;
            if self.fails_from(fails, middle) { low = middle } else { high = middle }
        }
        if high < self.partitions { Some((fails, high)) } else { fails.checked_add(1).map(|next| (next, 0)) }
    }
}

impl Iterator for Walk<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        loop {
            match self.scan.next()? {
                Ok((key, value)) => {
                    (self.last, self.tries) = (key.clone(), 0);
                    return Some(Ok((key, value)));
                }
                Err(_) if self.tries < TRIES => {
                    self.tries += 1;
                    self.scan = self.scan_from(Excluded(&self.last));
                }
                Err(failed) => {
                    self.tries = 0;
                    self.scan = Box::new(std::iter::empty());
                    if let Some((target, partition)) = self.behind() {
                        self.last = Bytes::copy_from_slice(&front(target, partition));
                        self.scan = self.scan_from(Included(&self.last));
                    }
                    return Some(Err(failed));
                }
            }
        }
    }
}

/// What the keys of an owner's hints in a partition begin with.
fn front(target: u128, partition: u32) -> [u8; 20] {
    let mut key = [0; 20];
    key[..16].copy_from_slice(&target.to_be_bytes());
    key[16..].copy_from_slice(&partition.to_be_bytes());
    key
}

/// Owner and partition of a key, as far as it goes.
fn front_of(key: &[u8]) -> (u128, u32) {
    let Some((target, rest)) = key.split_first_chunk() else { return (0, 0) };
    (u128::from_be_bytes(*target), rest.first_chunk().map_or(0, |partition| u32::from_be_bytes(*partition)))
}

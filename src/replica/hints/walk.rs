//! Going over hints, past what cannot be read.
//!
//! An error ends a scan, and what lies behind is not known: one block that is damaged would keep from their owners all hints
//! that sort after it. So it is tried again, for a disk that fails once may not the second time; then it goes on behind: with
//! the next partition of the same owner, the one after it, and so on; then with the owners that come after, at doubling
//! distances. What lies in between stays where it is, unread.
//!
//! Bounds: as many seeks for a gap as there are partitions, and 131.

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
    to: Option<[u8; 16]>,
    scan: Box<dyn Iterator<Item = Entry> + 'a>,
    /// The last that was read, or where it began.
    last: Bytes,
    /// How often it was begun anew since.
    steps: u32,
}

impl<'a> Walk<'a> {
    /// All hints.
    pub(super) fn over_all(storage: &'a dyn Storage, partitions: u32) -> Self {
        let scan = storage.scan(Keyspace::Hints, Unbounded, Unbounded);
        Self { storage, partitions, to: None, scan, last: Bytes::new(), steps: 0 }
    }

    /// An owner's hints, from the first stored key after `after` on.
    pub(super) fn over(storage: &'a dyn Storage, partitions: u32, target: StoreId, after: &[u8]) -> Self {
        let from = hint_key(target, after);
        let to = target.bits().checked_add(1).map(u128::to_be_bytes);
        // An owner's id alone is no hint's key.
        let scan = storage.scan(Keyspace::Hints, Excluded(&from[..]), end_at(to.as_ref()));
        Self { storage, partitions, to, scan, last: from, steps: 0 }
    }

    /// Where to begin behind a gap, by how often that was tried; none: nowhere.
    fn behind(&self, tries: u32) -> Option<[u8; 20]> {
        let (target, partition) = front_of(&self.last).unwrap_or_default();
        let in_target = self.partitions.saturating_sub(partition.saturating_add(1));
        let (target, partition) = match tries.checked_sub(in_target.saturating_add(1)) {
            None => (target, partition + tries),
            Some(doublings) => (target.checked_add(1u128.checked_shl(doublings)?)?, 0),
        };
        let mut key = [0; 20];
        key[..16].copy_from_slice(&target.to_be_bytes());
        key[16..].copy_from_slice(&partition.to_be_bytes());
        Some(key)
    }
}

fn end_at(to: Option<&[u8; 16]>) -> Bound<&[u8]> {
    to.map_or(Unbounded, |to| Excluded(&to[..]))
}

impl Iterator for Walk<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        loop {
            match self.scan.next()? {
                Ok((key, value)) => {
                    (self.last, self.steps) = (key.clone(), 0);
                    return Some(Ok((key, value)));
                }
                Err(failed) => {
                    self.steps += 1;
                    let to = end_at(self.to.as_ref());
                    self.scan = match self.steps.checked_sub(TRIES).map(|tries| self.behind(tries + 1)) {
                        None => self.storage.scan(Keyspace::Hints, Excluded(&self.last[..]), to),
                        Some(Some(from)) => self.storage.scan(Keyspace::Hints, Included(&from[..]), to),
                        Some(None) => Box::new(std::iter::empty()),
                    };
                    if self.steps == TRIES {
                        return Some(Err(failed));
                    }
                }
            }
        }
    }
}

/// Owner and partition of a key, as far as it goes.
fn front_of(key: &[u8]) -> Option<(u128, u32)> {
    let (target, rest) = key.split_first_chunk()?;
    Some((u128::from_be_bytes(*target), rest.first_chunk().map_or(0, |partition| u32::from_be_bytes(*partition))))
}

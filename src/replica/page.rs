//! What another node copies of a partition, a page at a time, but for what it holds already.
//!
//! Who copies one owner after the other finds nearly everything of the first one at the second again. So it says what it
//! holds, 16 bytes a key, and is sent the rest. Both sides go by the records themselves, as any reader would be told them: an
//! index that says more than can be read leaves nothing out.

use std::ops::Bound;

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use super::place::{Place, range_of};
use super::shard::Shard;
use super::{Fault, Replica};
use crate::causality::digest_of_record;
use crate::merkle::leaf_element;
use crate::storage::Keyspace;
use crate::types::PartitionId;

/// Unreadable keys named on one page, at most.
const UNREADABLE: usize = 1000;
/// States in an inventory, at most.
const STATES: usize = 8192;
const STATE: usize = 16;

/// A page of a partition, in order of stored keys.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PartitionPage {
    /// (stored key, record).
    pub entries: Vec<(Bytes, Bytes)>,
    /// Stored keys in the page's range that could not be read.
    pub unreadable: Vec<Bytes>,
    /// Where the next page goes on; none: this was the last.
    pub next: Option<Bytes>,
}

/// States of objects that somebody holds: the first 16 bytes of the hash of (stored key, digest) of each.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Inventory(Vec<u128>);

/// What claims to be an inventory is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("an inventory names up to {STATES} states of {STATE} bytes each; this one has {0} bytes")]
pub struct NoInventory(usize);

impl Inventory {
    fn of(mut states: Vec<u128>) -> Self {
        states.sort_unstable();
        Self(states)
    }

    /// As it travels: each state big endian, one after the other.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(STATE * self.0.len());
        self.0.iter().for_each(|state| bytes.put_u128(*state));
        bytes.freeze()
    }

    /// What [`Inventory::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, NoInventory> {
        let (states, rest) = bytes.as_chunks::<STATE>();
        if !rest.is_empty() || states.len() > STATES {
            return Err(NoInventory(bytes.len()));
        }
        Ok(Self::of(states.iter().map(|state| u128::from_be_bytes(*state)).collect()))
    }

    fn names(&self, stored: &[u8], record: &[u8]) -> bool {
        !self.0.is_empty() && self.0.binary_search(&state_of(stored, record)).is_ok()
    }
}

fn state_of(stored: &[u8], record: &[u8]) -> u128 {
    leaf_element(stored, &digest_of_record(record))
}

impl Replica {
    /// A page of a partition, from the first stored key after `after` on, of about `max_bytes`, without what is in
    /// `held`: that counts among the bytes, so that no page takes longer for it.
    pub async fn page(
        &self,
        partition: PartitionId,
        after: Bytes,
        max_bytes: usize,
        held: Inventory,
    ) -> Result<PartitionPage, Fault> {
        self.run(partition, move |shard| {
            let mut page = PartitionPage::default();
            let mut bytes = 0;
            page.next = shard.walk(partition, &after, |stored, record| {
                match record {
                    Some(record) => {
                        bytes += stored.len() + record.len();
                        if !held.names(&stored, &record) {
                            page.entries.push((stored, record));
                        }
                    }
                    None => page.unreadable.push(stored),
                }
                bytes < max_bytes && page.unreadable.len() < UNREADABLE
            })?;
            Ok(page)
        })
        .await?
    }

    /// What is held of a partition, from the first stored key after `after` on, about as far as a page of `max_bytes`
    /// reaches; and how many bytes that is.
    pub async fn inventory(
        &self,
        partition: PartitionId,
        after: Bytes,
        max_bytes: usize,
    ) -> Result<(Inventory, usize), Fault> {
        self.run(partition, move |shard| {
            let (mut states, mut bytes) = (Vec::new(), 0);
            shard.walk(partition, &after, |stored, record| {
                bytes += stored.len();
                if let Some(record) = record {
                    bytes += record.len();
                    states.push(state_of(&stored, &record));
                }
                bytes < max_bytes && states.len() < STATES
            })?;
            Ok((Inventory::of(states), bytes))
        })
        .await?
    }
}

impl Shard {
    /// Shows the stored keys of a partition after `after`, each with its record, none where that cannot be read, for as
    /// long as more are wanted; tells the last one shown where there may be more. Goes by the index, which is small and
    /// names every key, so that one damaged record does not hide those after it.
    fn walk(
        &self,
        partition: PartitionId,
        after: &Bytes,
        mut wants_more: impl FnMut(Bytes, Option<Bytes>) -> bool,
    ) -> Result<Option<Bytes>, Fault> {
        let (first, end) = range_of(partition);
        let from = if after.is_empty() { Bound::Included(&first[..]) } else { Bound::Excluded(&after[..]) };
        let to = end.as_ref().map_or(Bound::Unbounded, |end| Bound::Excluded(&end[..]));
        for entry in self.storage.scan(Keyspace::Index, from, to) {
            let (stored, _) = entry.map_err(Fault::from)?;
            let place = Place { partition, leaf: 0, stored: stored.clone() };
            let record = match self.read_to_send(&place) {
                Ok(None) => continue,
                read => read.ok(),
            };
            if !wants_more(stored.clone(), record.flatten()) {
                return Ok(Some(stored));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inventory_comes_out_as_it_went_in_and_names_states_of_keys() {
        let states = [(&b"k1"[..], &b"one"[..]), (b"k2", b"two"), (b"k3", b"one")];
        let inventory = Inventory::of(states.iter().map(|(stored, record)| state_of(stored, record)).collect());
        let told = Inventory::decode(&inventory.encode()).unwrap();
        assert_eq!(told, inventory);
        assert!(states.iter().all(|(stored, record)| told.names(stored, record)));
        assert!(!told.names(b"k2", b"one"), "another key's state is none of this one");
        assert!(!Inventory::default().names(b"k1", b"one"));
    }

    #[test]
    fn garbage_is_no_inventory() {
        assert_eq!(Inventory::decode(&[7; 17]), Err(NoInventory(17)));
        assert!(Inventory::decode(&vec![7; STATE * STATES]).is_ok());
        assert!(Inventory::decode(&vec![7; STATE * (STATES + 1)]).is_err());
    }
}

//! Where an object lies in storage: the stored key, its partition, its Merkle leaf.
//!
//! Stored key: partition (u32) | length of bucket (u8) | bucket | bucket generation (u64) | key, integers big endian. So
//! a partition is one range, a bucket within it another, and keys within that are in their own byte order.

use bytes::{BufMut, Bytes, BytesMut};

use crate::merkle::leaf_of;
use crate::ring::Grid;
use crate::types::{Bucket, Key, ObjectId, PartitionId};

/// Where an object lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its partition.
    pub partition: PartitionId,
    /// Its leaf in the partition's Merkle tree.
    pub leaf: u8,
    /// Its key in `Objects` and `Index`.
    pub stored: Bytes,
}

impl Place {
    /// The place of `id` in a grid, under a bucket generation.
    #[must_use]
    pub fn of(grid: Grid, id: &ObjectId, generation: u64) -> Self {
        let token = id.token();
        let partition = grid.partition(token);
        let bucket = id.bucket.as_str().as_bytes();
        let mut stored = BytesMut::with_capacity(4 + 1 + bucket.len() + 8 + id.key.as_bytes().len());
        stored.put_u32(partition.0);
        stored.put_u8(u8::try_from(bucket.len()).unwrap_or(u8::MAX));
        stored.put_slice(bucket);
        stored.put_u64(generation);
        stored.put_slice(id.key.as_bytes());
        Self { partition, leaf: leaf_of(token, grid.q().trailing_zeros()), stored: stored.freeze() }
    }
}

/// The name a stored key was made from: (object, bucket generation). None if it is no stored key.
#[must_use]
pub fn name_of(stored: &Bytes) -> Option<(ObjectId, u64)> {
    let len = usize::from(*stored.get(4)?);
    let bucket = std::str::from_utf8(stored.get(5..5 + len)?).ok()?;
    let generation = u64::from_be_bytes(stored.get(5 + len..13 + len)?.try_into().ok()?);
    let key = Key::new(stored.slice(13 + len..)).ok()?;
    Some((ObjectId::new(Bucket::new(bucket).ok()?, key), generation))
}

/// The first stored key of a partition, and the first after it (none for the last partition there can be).
#[must_use]
pub fn range_of(partition: PartitionId) -> (Bytes, Option<Bytes>) {
    let at = |p: u32| Bytes::copy_from_slice(&p.to_be_bytes());
    (at(partition.0), partition.0.checked_add(1).map(at))
}

/// The key of a Merkle leaf: partition (u32) | placement class (u16) | hour of the horizon (u32,
/// [`MAIN`](crate::merkle::MAIN) for what never expires) | leaf (u8).
#[must_use]
pub(super) fn leaf_key(partition: PartitionId, class: u16, hour: u32, leaf: u8) -> Bytes {
    let mut key = BytesMut::with_capacity(11);
    key.put_u32(partition.0);
    key.put_u16(class);
    key.put_u32(hour);
    key.put_u8(leaf);
    key.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_stored_key_names_its_object(bucket in "[A-Za-z0-9._-]{1,128}", key in proptest::collection::vec(any::<u8>(), 1..1024), generation: u64) {
            let id = ObjectId::new(Bucket::new(&bucket).unwrap(), Key::new(key).unwrap());
            let place = Place::of(Grid::new(1024).unwrap(), &id, generation);
            prop_assert_eq!(name_of(&place.stored), Some((id, generation)));
            let (from, to) = range_of(place.partition);
            prop_assert!(from <= place.stored && place.stored < to.unwrap());
        }

        #[test]
        fn garbage_is_no_stored_key(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = name_of(&Bytes::from(bytes));
        }

        #[test]
        fn keys_of_a_bucket_keep_their_order(a in proptest::collection::vec(any::<u8>(), 1..20), b in proptest::collection::vec(any::<u8>(), 1..20)) {
            let stored = |key: &Vec<u8>| {
                let id = ObjectId::new(Bucket::new("b").unwrap(), Key::new(key.clone()).unwrap());
                Place::of(Grid::new(1).unwrap(), &id, 0).stored
            };
            prop_assert_eq!(a.cmp(&b), stored(&a).cmp(&stored(&b)));
        }
    }
}

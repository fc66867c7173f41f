//! What a node remembers, on disk, of what it has merged from whom for a layout that is not complete yet.

use std::ops::Bound::{Excluded, Included};

use bytes::Bytes;

use crate::storage::{Keyspace, Storage, StorageError};
use crate::types::{PartitionId, StoreId};

/// What was merged whole.
pub(super) const MERGED: &[u8] = b"layout/merged/";
/// How far what is being merged has come.
pub(super) const POINT: &[u8] = b"layout/point/";

/// Something merged from a source, whole or up to a key, and the layout it was merged for.
pub(super) struct Point {
    pub(super) key: Bytes,
    pub(super) partition: PartitionId,
    pub(super) source: StoreId,
    pub(super) layout: u64,
}

pub(super) fn point_key(prefix: &[u8], partition: PartitionId, source: StoreId) -> Bytes {
    [prefix, &partition.0.to_be_bytes(), source.as_bytes()].concat().into()
}

/// The key under which a transfer that stopped half way remembers the layout it is for (8 bytes, big endian) and the last
/// stored key that is durable here. It goes with what was merged.
#[must_use]
pub fn resume_key(partition: PartitionId, source: StoreId) -> Bytes {
    point_key(POINT, partition, source)
}

/// What is remembered under a prefix. What cannot be read was not merged: it is merged again.
pub(super) fn points(storage: &dyn Storage, prefix: &[u8]) -> Result<Vec<Point>, StorageError> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    let point = |key: Bytes, value: &Bytes| {
        let (partition, source) = key.get(prefix.len()..)?.split_at_checked(4)?;
        let partition = PartitionId(u32::from_be_bytes(partition.try_into().ok()?));
        let layout = u64::from_be_bytes(value.get(..8)?.try_into().ok()?);
        Some(Point { partition, source: StoreId::from_slice(source)?, layout, key: key.clone() })
    };
    let entries = storage.scan(Keyspace::Meta, Included(prefix), Excluded(&end));
    let points = entries.map(|entry| entry.map(|(key, value)| point(key, &value)));
    points.filter_map(Result::transpose).collect()
}

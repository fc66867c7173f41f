//! Recomputes what is stored *about* objects from the objects: index entries from records, Merkle leaves from index and
//! records. A scrub does the same slowly; simulations do it at the end of each run (I-CONVERGE).

use std::collections::BTreeMap;
use std::ops::Bound::Unbounded;

use bytes::Bytes;

use super::class::{front_of, recorded};
use super::index::{index_digest, index_entry};
use super::place::{Place, leaf_key, name_of};
use crate::causality::{decode_object, digest_of_record};
use crate::merkle::{hour_of, leaf_element};
use crate::ring::Grid;
use crate::storage::{Keyspace, Storage, StorageError};

/// What an audit found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Audit {
    /// Every record, by stored key.
    pub records: BTreeMap<Bytes, Bytes>,
    /// What does not agree, for people. Empty: all is well.
    pub wrong: Vec<String>,
}

/// Reads everything a store holds and recomputes index and Merkle leaves.
pub fn audit(storage: &dyn Storage, grid: Grid) -> Result<Audit, StorageError> {
    let mut audit = Audit::default();
    let classes = recorded(storage)?;
    let mut leaves: BTreeMap<Bytes, u128> = BTreeMap::new();
    let mut index: BTreeMap<Bytes, Bytes> =
        storage.scan(Keyspace::Index, Unbounded, Unbounded).collect::<Result<_, _>>()?;
    for entry in storage.scan(Keyspace::Objects, Unbounded, Unbounded) {
        let (stored, record) = entry?;
        let key = stored.escape_ascii();
        let digest = digest_of_record(&record);
        let entry = index.remove(&stored);
        match (decode_object(record.clone()), name_of(&stored)) {
            (Ok(object), Some((id, generation))) => {
                let hour = hour_of(object.horizon());
                let says = entry.as_deref().and_then(index_digest);
                let whole = entry.as_ref().is_none_or(|entry| entry[0] < 2 || *entry == index_entry(&digest, &object));
                if says != Some((digest, hour)) || !whole {
                    audit.wrong.push(format!("{key}: the index entry is not the record's"));
                }
                let place = Place::of(grid, &id, generation);
                let class = classes.get(&front_of(&stored)).copied().unwrap_or(0);
                let leaf = leaves.entry(leaf_key(place.partition, class, hour, place.leaf)).or_default();
                *leaf = leaf.wrapping_add(leaf_element(&stored, &digest));
            }
            (Err(bad), _) => audit.wrong.push(format!("{key}: the record cannot be decoded: {bad}")),
            (_, None) => audit.wrong.push(format!("{key}: it is no stored key")),
        }
        audit.records.insert(stored, record);
    }
    audit
        .wrong
        .extend(index.keys().map(|stored| format!("{}: an index entry without a record", stored.escape_ascii())));
    for entry in storage.scan(Keyspace::Merkle, Unbounded, Unbounded) {
        let (leaf, sum) = entry?;
        let sum = sum.as_ref().try_into().map_or(0, u128::from_le_bytes);
        if leaves.remove(&leaf).unwrap_or_default() != sum {
            audit.wrong.push(format!("leaf {}: not the sum of its objects", leaf.escape_ascii()));
        }
    }
    let missing = leaves.iter().filter(|(_, sum)| **sum != 0);
    audit.wrong.extend(missing.map(|(leaf, _)| format!("leaf {}: missing", leaf.escape_ascii())));
    Ok(audit)
}

//! What is on the disks of nodes that have stopped.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound::Unbounded;

use bytes::Bytes;
use quorate::replica::name_of;
use quorate::storage::rocks::{RocksOptions, RocksStorage};
use quorate::storage::{Keyspace, Storage};

use crate::server::Server;

/// The objects of one bucket, over all nodes.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    /// Different ones.
    pub(crate) objects: usize,
    /// How many of them lie on how many nodes.
    pub(crate) held_by: BTreeMap<usize, usize>,
    /// Those whose copies differ.
    pub(crate) differ: usize,
    /// Bytes of keys and records, over all nodes.
    pub(crate) bytes: usize,
}

impl fmt::Display for Copies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { objects, held_by, differ, bytes } = self;
        write!(f, "on disk: {objects} objects, {bytes} bytes with all copies; {differ} differ; held by nodes: ")?;
        f.debug_map().entries(held_by).finish()
    }
}

/// Counts what these nodes hold of a bucket.
pub(crate) fn copies<'a>(nodes: impl Iterator<Item = &'a Server>, bucket: &str) -> Copies {
    let mut held: BTreeMap<Bytes, Vec<Bytes>> = BTreeMap::new();
    let mut copies = Copies::default();
    for node in nodes {
        let storage = RocksStorage::open(&node.directory, &RocksOptions::default()).unwrap();
        for entry in storage.scan(Keyspace::Objects, Unbounded, Unbounded) {
            let (stored, record) = entry.unwrap();
            if name_of(&stored).unwrap().0.bucket.as_str() == bucket {
                copies.bytes += stored.len() + record.len();
                held.entry(stored).or_default().push(record);
            }
        }
    }
    copies.objects = held.len();
    for records in held.into_values() {
        copies.differ += usize::from(records.iter().any(|record| *record != records[0]));
        *copies.held_by.entry(records.len()).or_default() += 1;
    }
    copies
}

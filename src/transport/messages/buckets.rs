//! Messages about the gossiped settings of buckets: what one side has, and what the other has beside it.
//!
//! One message does both: it brings entries, which are merged and flushed before the answer, and the hash of what the
//! asker then has. Where the hash of the answering node's table is another, the answer holds all of it.

use bytes::Bytes;
use prost::Message;

/// See [`super::Ask::Buckets`] and [`super::Tell::Buckets`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BucketTable {
    /// The hash of the sender's whole table, 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub hash: Bytes,
    /// What it brings of it.
    #[prost(message, repeated, tag = "2")]
    pub entries: Vec<BucketEntry>,
}

/// The settings of one bucket.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BucketEntry {
    /// The bucket's name.
    #[prost(string, tag = "1")]
    pub bucket: String,
    /// Its settings (`kv`'s encoding).
    #[prost(bytes = "bytes", tag = "2")]
    pub settings: Bytes,
}

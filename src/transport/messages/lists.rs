//! Messages about the keys of a bucket.

use bytes::Bytes;
use prost::Message;

/// See [`super::Ask::List`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct List {
    /// The bucket's name.
    #[prost(string, tag = "1")]
    pub bucket: String,
    /// The bucket's generation.
    #[prost(uint64, tag = "2")]
    pub generation: u64,
    /// In these partitions.
    #[prost(uint32, repeated, tag = "3")]
    pub partitions: Vec<u32>,
    /// Keys that begin so.
    #[prost(bytes = "bytes", tag = "4")]
    pub prefix: Bytes,
    /// Keys behind this one; empty from the first on.
    #[prost(bytes = "bytes", tag = "5")]
    pub after: Bytes,
    /// The time by which values have expired or not, in milliseconds.
    #[prost(uint64, tag = "6")]
    pub now_ms: u64,
    /// About so many keys.
    #[prost(uint32, tag = "7")]
    pub keys: u32,
    /// About so many bytes; one key is listed at least.
    #[prost(uint32, tag = "8")]
    pub max_bytes: u32,
    /// With the records.
    #[prost(bool, tag = "9")]
    pub records: bool,
    /// For a merge with what other owners hold: deletes, too.
    #[prost(bool, tag = "10")]
    pub dead: bool,
}

/// See [`super::Tell::Listed`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Listed {
    /// The keys, in order.
    #[prost(message, repeated, tag = "1")]
    pub keys: Vec<ListedKey>,
    /// Up to this key, itself included, they are all there are; none: to the end.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub whole: Option<Bytes>,
    /// The partitions that the answering node cannot answer for: none of their keys is among these.
    #[prost(message, repeated, tag = "3")]
    pub unable: Vec<Unable>,
    /// Where it is for a merge: under which epoch each of the other partitions was read, and what is sealed there.
    #[prost(message, repeated, tag = "4")]
    pub read: Vec<ReadUnder>,
}

/// Of a partition of a list.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ReadUnder {
    /// Which.
    #[prost(uint32, tag = "1")]
    pub partition: u32,
    /// Its epoch, of before it was read.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// The first epoch whose states it takes, of after it was read.
    #[prost(uint64, tag = "3")]
    pub sealed: u64,
}

/// One key of a list.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ListedKey {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The object's digest.
    #[prost(bytes = "bytes", tag = "2")]
    pub digest: Bytes,
    /// How many siblings are shown; 0: none is.
    #[prost(uint32, tag = "3")]
    pub siblings: u32,
    /// How many siblings have expired.
    #[prost(uint32, tag = "4")]
    pub expired: u32,
    /// The record, where it was wanted.
    #[prost(bytes = "bytes", optional, tag = "5")]
    pub record: Option<Bytes>,
}

/// A partition that a node cannot answer for.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Unable {
    /// Which.
    #[prost(uint32, tag = "1")]
    pub partition: u32,
    /// Why.
    #[prost(enumeration = "super::Refusal", tag = "2")]
    pub why: i32,
}

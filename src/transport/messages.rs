//! The one vocabulary: all that ever passes between nodes.
//!
//! Protobuf by derive: numbered fields make rolling upgrades safe; a number is never given a second meaning. Objects
//! travel as the records they are stored as (`causality::codec`). Every request names the newest layout its sender
//! knows and the layout in which its quorum is counted (semantics section 3); every message that carries an object
//! carries the partition epoch under which it was read.

pub mod buckets;
pub mod collect;
pub mod gossip;
pub mod layouts;
pub mod lists;
pub mod merkle;

use bytes::Bytes;
use prost::{Message, Oneof};

use buckets::BucketTable;
use collect::{Collect, Collected};
use gossip::{Gossip, Gossiped};
use layouts::{Decide, Decided, Digests, Layouts, LayoutsTold, ListDigests, Renounce};
use lists::{List, Listed};
use merkle::{CompareRoots, Descend, Descended, RootsCompared};

/// A request from one node to another.
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    /// Version of the newest layout the sender knows; 0 while it knows none.
    #[prost(uint64, tag = "1")]
    pub head: u64,
    /// Version of the newest layout in which the sender counts the quorum this request is for; 0 where there is none.
    #[prost(uint64, tag = "2")]
    pub counted: u64,
    /// What is left of the deadline, in microseconds. Safety never rests on it.
    #[prost(uint64, tag = "3")]
    pub budget_us: u64,
    /// What is asked.
    #[prost(
        oneof = "Ask",
        tags = "10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 29, 30, 31, 40, 41, 55"
    )]
    pub ask: Option<Ask>,
    /// Versions of the older layouts in which it is counted as well, the newest first: a write is, while a change is
    /// under way.
    #[prost(uint64, repeated, tag = "4")]
    pub also: Vec<u64>,
}

/// What is asked.
#[derive(Clone, PartialEq, Oneof)]
pub enum Ask {
    /// Who are you, and are you in a cluster? Allowed before there is one.
    #[prost(message, tag = "10")]
    Probe(Probe),
    /// I am alive, and my wall clock says this.
    #[prost(message, tag = "11")]
    Heartbeat(Heartbeat),
    /// What have you seen of me before? Asked at a start, before the first mint.
    #[prost(message, tag = "12")]
    Recall(Recall),
    /// Your copy of an object.
    #[prost(message, tag = "13")]
    Read(Read),
    /// Merge this state into your copy.
    #[prost(message, tag = "14")]
    Write(Write),
    /// Coordinate this read: I own no copy.
    #[prost(message, tag = "15")]
    HandedRead(HandedRead),
    /// Coordinate this write: I own no copy.
    #[prost(message, tag = "16")]
    HandedWrite(HandedWrite),
    /// A page of a partition, to merge from.
    #[prost(message, tag = "17")]
    Fetch(Fetch),
    /// What I know of all nodes, and what do you?
    #[prost(message, tag = "18")]
    Gossip(Gossip),
    /// Which layouts are there, and how far is everybody?
    #[prost(message, tag = "19")]
    Layouts(Layouts),
    /// Take part in the decision on the next layout.
    #[prost(message, tag = "20")]
    Decide(Decide),
    /// What do you hold of a partition: keys and digests.
    #[prost(message, tag = "21")]
    ListDigests(ListDigests),
    /// Which of these partitions' Merkle roots are not yours?
    #[prost(message, tag = "22")]
    CompareRoots(CompareRoots),
    /// Which of these nodes' children, or keys, are not yours?
    #[prost(message, tag = "23")]
    Descend(Descend),
    /// Take this step of a round of collection, flushed before you answer.
    #[prost(message, tag = "24")]
    Collect(Collect),
    /// I have forgotten what I promised in the decision on the next layout: give up what you propose there.
    #[prost(message, tag = "29")]
    Renounce(Renounce),
    /// Take these settings of buckets, flushed before you answer; and what do you have beside them?
    #[prost(message, tag = "30")]
    Buckets(BucketTable),
    /// A copy of mine in this partition is damaged: finish counting what you count there, and tell me then.
    #[prost(message, tag = "31")]
    Settle(Settle),
    /// Keep this state for an owner that I cannot reach.
    #[prost(message, tag = "40")]
    Keep(Keep),
    /// What do you keep of an object for its owners? Answered as a read is.
    #[prost(message, tag = "41")]
    ReadKept(Read),
    /// The keys of a bucket, in these partitions.
    #[prost(message, tag = "55")]
    List(List),
}

/// A reply.
#[derive(Clone, PartialEq, Message)]
pub struct Reply {
    /// Version of the newest layout the answering node knows.
    #[prost(uint64, tag = "1")]
    pub head: u64,
    /// What is answered.
    #[prost(oneof = "Tell", tags = "10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 30, 31, 55")]
    pub tell: Option<Tell>,
}

/// What is answered.
#[derive(Clone, PartialEq, Oneof)]
pub enum Tell {
    /// To [`Ask::Probe`].
    #[prost(message, tag = "10")]
    Probed(Probed),
    /// To [`Ask::Heartbeat`].
    #[prost(message, tag = "11")]
    Alive(Heartbeat),
    /// To [`Ask::Recall`].
    #[prost(message, tag = "12")]
    Recalled(Recalled),
    /// To [`Ask::Read`] and [`Ask::ReadKept`].
    #[prost(message, tag = "13")]
    Copy(Copy),
    /// To [`Ask::Write`] and [`Ask::Keep`]: merged.
    #[prost(message, tag = "14")]
    Written(Written),
    /// To [`Ask::HandedRead`].
    #[prost(message, tag = "15")]
    ReadDone(ReadDone),
    /// To [`Ask::HandedWrite`].
    #[prost(message, tag = "16")]
    WriteDone(WriteDone),
    /// To [`Ask::Fetch`].
    #[prost(message, tag = "17")]
    Page(Page),
    /// Not done, and provably so.
    #[prost(message, tag = "18")]
    Refused(Refused),
    /// A handed-over operation failed.
    #[prost(message, tag = "19")]
    Failed(Failed),
    /// To [`Ask::Gossip`].
    #[prost(message, tag = "20")]
    Gossiped(Gossiped),
    /// To [`Ask::Layouts`].
    #[prost(message, tag = "21")]
    Layouts(LayoutsTold),
    /// To [`Ask::Decide`] and [`Ask::Renounce`].
    #[prost(message, tag = "22")]
    Decided(Decided),
    /// To [`Ask::ListDigests`].
    #[prost(message, tag = "23")]
    Digests(Digests),
    /// To [`Ask::CompareRoots`].
    #[prost(message, tag = "24")]
    RootsCompared(RootsCompared),
    /// To [`Ask::Descend`].
    #[prost(message, tag = "25")]
    Descended(Descended),
    /// To [`Ask::Collect`].
    #[prost(message, tag = "26")]
    Collected(Collected),
    /// To [`Ask::Buckets`].
    #[prost(message, tag = "30")]
    Buckets(BucketTable),
    /// To [`Ask::Settle`]: whether votes that were given before it was first asked are counted here.
    #[prost(message, tag = "31")]
    Settled(Settled),
    /// To [`Ask::List`].
    #[prost(message, tag = "55")]
    Listed(Listed),
}

/// Names an object: bucket, the bucket's generation, key.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Target {
    /// The bucket's name.
    #[prost(string, tag = "1")]
    pub bucket: String,
    /// The bucket's generation: raised by purge and delete, part of the stored key.
    #[prost(uint64, tag = "2")]
    pub generation: u64,
    /// The key.
    #[prost(bytes = "bytes", tag = "3")]
    pub key: Bytes,
}

/// See [`Ask::Probe`]. Who asks is in the connection's [`super::Hello`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Probe {
    /// The asker has nothing yet, and would be taken in as a member with this share of the load; 0: it only asks.
    #[prost(uint32, tag = "1")]
    pub weight: u32,
    /// It waits for a plan: members that take in others by themselves leave it alone.
    #[prost(bool, tag = "2")]
    pub by_plan: bool,
}

/// See [`Tell::Probed`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Probed {
    /// Nothing was ever stored here, and no cluster is known.
    #[prost(bool, tag = "1")]
    pub fresh: bool,
    /// The chain of layouts, where there is one (`ring`'s encoding).
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub chain: Option<Bytes>,
    /// The node's seeds.
    #[prost(string, repeated, tag = "3")]
    pub seeds: Vec<String>,
    /// Its share of the load.
    #[prost(uint32, tag = "4")]
    pub weight: u32,
}

/// A sign of life; sent and answered.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Heartbeat {
    /// The sender's wall clock in milliseconds.
    #[prost(uint64, tag = "1")]
    pub wall_ms: u64,
    /// Bits: 1 = coordinates no writes now (read-only, drifting, draining), 2 = read-only, 4 = draining.
    #[prost(uint32, tag = "2")]
    pub state: u32,
    /// How far the sender's directory has moved on: flushed before it is told, and it never falls.
    #[prost(uint64, tag = "3")]
    pub progress: u64,
}

/// See [`Ask::Recall`]. Who asks is in the connection's [`super::Hello`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Recall {
    /// Remember this life from now on; the reply tells what was remembered before.
    #[prost(bool, tag = "1")]
    pub remember: bool,
}

/// See [`Tell::Recalled`]: the newest that the answering node knows of the asking store id.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Recalled {
    /// Whether anything is known.
    #[prost(bool, tag = "1")]
    pub known: bool,
    /// The highest generation seen.
    #[prost(uint64, tag = "2")]
    pub generation: u64,
    /// The boot nonce seen with it.
    #[prost(fixed64, tag = "3")]
    pub boot: u64,
    /// The greatest progress heard of.
    #[prost(uint64, tag = "4")]
    pub progress: u64,
    /// The life that asks is remembered from now on, flushed.
    #[prost(bool, tag = "5")]
    pub kept: bool,
}

/// See [`Ask::Read`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Read {
    /// The object.
    #[prost(message, required, tag = "1")]
    pub target: Target,
    /// The digest of what the asker holds: an equal copy is answered "same", without its bytes.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub have: Option<Bytes>,
    /// The asker mends a copy of its own: answer what is held, even where the partition is not completely synced (the
    /// reply says which).
    #[prost(bool, tag = "3")]
    pub to_mend: bool,
}

/// See [`Tell::Copy`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Copy {
    /// What is held.
    #[prost(enumeration = "Held", tag = "1")]
    pub held: i32,
    /// The object's record, where `held` is [`Held::Object`].
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub record: Option<Bytes>,
    /// The partition's epoch when it was read.
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    /// The partition's sealed epoch.
    #[prost(uint64, tag = "4")]
    pub sealed: u64,
}

/// What a replica holds of an object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, prost::Enumeration)]
#[repr(i32)]
pub enum Held {
    /// Not said; no vote.
    Unknown = 0,
    /// The copy the asker named.
    Same = 1,
    /// This object.
    Object = 2,
    /// Nothing: a vote for "not found".
    Nothing = 3,
}

/// See [`Ask::Write`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Write {
    /// The object.
    #[prost(message, required, tag = "1")]
    pub target: Target,
    /// The state to merge, as a record.
    #[prost(bytes = "bytes", tag = "2")]
    pub record: Bytes,
    /// The partition epoch under which it was read (the least, of a merge).
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    /// Flush before answering, whatever the replica's `durability`.
    #[prost(bool, tag = "4")]
    pub flush: bool,
    /// It was written before, and this copy lacks it.
    #[prost(bool, tag = "5")]
    pub repair: bool,
}

/// See [`Tell::Written`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Written {
    /// Whether it was flushed to the disk.
    #[prost(bool, tag = "1")]
    pub flushed: bool,
    /// The layouts in which the acknowledgement counts: those that the request named, that were live here when it was
    /// accepted, and in which this node, or the owner that it keeps a hint for, owns the object.
    #[prost(uint64, repeated, tag = "2")]
    pub layouts: Vec<u64>,
}

/// See [`Ask::Keep`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Keep {
    /// The object.
    #[prost(message, required, tag = "1")]
    pub target: Target,
    /// The store id of the owner that it is for.
    #[prost(bytes = "bytes", tag = "2")]
    pub owner: Bytes,
    /// The state, as a record.
    #[prost(bytes = "bytes", tag = "3")]
    pub record: Bytes,
    /// The partition epoch under which it was read (the least, of a merge).
    #[prost(uint64, tag = "4")]
    pub epoch: u64,
    /// Flush before answering, whatever the node's `durability`.
    #[prost(bool, tag = "5")]
    pub flush: bool,
    /// The greatest epoch of the partition that an owner has sealed, as far as the sender knows.
    #[prost(uint64, tag = "6")]
    pub sealed: u64,
}

/// See [`Ask::HandedRead`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct HandedRead {
    /// The object.
    #[prost(message, required, tag = "1")]
    pub target: Target,
    /// R, as a level's text.
    #[prost(string, tag = "2")]
    pub level: String,
    /// `sync`, `async` or `off`.
    #[prost(string, tag = "3")]
    pub repair: String,
    /// Whether to hedge.
    #[prost(bool, tag = "4")]
    pub hedge: bool,
    /// Whether to explain.
    #[prost(bool, tag = "5")]
    pub explain: bool,
    /// What the answer is to be at least as new as, under the target's generation (`causality`'s encoding of a vector).
    #[prost(bytes = "bytes", optional, tag = "50")]
    pub floor: Option<Bytes>,
}

/// See [`Ask::HandedWrite`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct HandedWrite {
    /// The object.
    #[prost(message, required, tag = "1")]
    pub target: Target,
    /// W, as a level's text.
    #[prost(string, tag = "2")]
    pub level: String,
    /// At least this many of the W acknowledgements flushed.
    #[prost(uint32, tag = "3")]
    pub durable: u32,
    /// What to store.
    #[prost(message, required, tag = "4")]
    pub payload: Payload,
    /// What it supersedes.
    #[prost(enumeration = "Superseding", tag = "5")]
    pub supersedes: i32,
    /// The context, where `supersedes` is [`Superseding::Covered`] (`causality`'s encoding of a vector).
    #[prost(bytes = "bytes", tag = "6")]
    pub context: Bytes,
    /// The request id, where it carried an Idempotency-Key.
    #[prost(bytes = "bytes", optional, tag = "7")]
    pub request_id: Option<Bytes>,
    /// The request's fingerprint.
    #[prost(bytes = "bytes", optional, tag = "8")]
    pub fingerprint: Option<Bytes>,
    /// Whether the answer carries the resulting object.
    #[prost(bool, tag = "9")]
    pub return_body: bool,
    /// Whether to explain.
    #[prost(bool, tag = "10")]
    pub explain: bool,
    /// Most siblings the result may have; a blind write over it is refused.
    #[prost(uint32, tag = "11")]
    pub max_siblings: u32,
    /// Most bytes the resulting object may have.
    #[prost(uint64, tag = "12")]
    pub max_object: u64,
    /// Whether fallbacks may stand in for owners; one of them is handed the write where no owner can be reached.
    #[prost(bool, tag = "13")]
    pub sloppy: bool,
    /// What it is to be minted on, or on something newer: as in [`HandedRead::floor`].
    #[prost(bytes = "bytes", optional, tag = "50")]
    pub floor: Option<Bytes>,
}

/// What a client wants stored.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Payload {
    /// The value; none for a delete.
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub value: Option<Bytes>,
    /// The value's media type.
    #[prost(string, optional, tag = "2")]
    pub content_type: Option<String>,
    /// The user's own metadata.
    #[prost(btree_map = "string, string", tag = "3")]
    pub meta: std::collections::BTreeMap<String, String>,
    /// The first node's wall clock at the write, in milliseconds.
    #[prost(uint64, tag = "4")]
    pub written_at_ms: u64,
    /// How long it lives, in milliseconds, by the clock of the node that mints.
    #[prost(uint64, optional, tag = "6")]
    pub ttl_ms: Option<u64>,
}

/// What a write supersedes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, prost::Enumeration)]
#[repr(i32)]
pub enum Superseding {
    /// Tombstones the coordinator sees.
    Tombstones = 0,
    /// What the context covers.
    Covered = 1,
    /// All the coordinator sees.
    Seen = 2,
}

/// How a quorum was met.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Counted {
    /// Replicas that counted when it was decided.
    #[prost(uint32, tag = "1")]
    pub answered: u32,
    /// Replicas needed.
    #[prost(uint32, tag = "2")]
    pub needed: u32,
    /// Replicas there are.
    #[prost(uint32, tag = "3")]
    pub n: u32,
    /// The layout it was counted in.
    #[prost(uint64, tag = "4")]
    pub layout: u64,
    /// How many fallbacks stood in for owners.
    #[prost(uint32, tag = "5")]
    pub sloppy: u32,
}

/// See [`Tell::ReadDone`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ReadDone {
    /// The merged object; none if nothing is known.
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub record: Option<Bytes>,
    /// The quorum.
    #[prost(message, required, tag = "2")]
    pub counted: Counted,
    /// The explanation, as JSON.
    #[prost(bytes = "bytes", tag = "3")]
    pub explain: Bytes,
}

/// See [`Tell::WriteDone`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct WriteDone {
    /// The resulting object's record, where it was asked for.
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub record: Option<Bytes>,
    /// The resulting object's digest.
    #[prost(bytes = "bytes", tag = "2")]
    pub digest: Bytes,
    /// How many siblings it has.
    #[prost(uint32, tag = "3")]
    pub siblings: u32,
    /// Whether the new sibling is alone in it.
    #[prost(bool, tag = "4")]
    pub alone: bool,
    /// Whether it had been done before, under the same Idempotency-Key.
    #[prost(bool, tag = "5")]
    pub replayed: bool,
    /// The quorum.
    #[prost(message, required, tag = "6")]
    pub counted: Counted,
    /// The explanation, as JSON.
    #[prost(bytes = "bytes", tag = "7")]
    pub explain: Bytes,
    /// The resulting object's context (`causality`'s encoding of a vector).
    #[prost(bytes = "bytes", tag = "8")]
    pub context: Bytes,
    /// When what was written expires, in milliseconds.
    #[prost(uint64, optional, tag = "9")]
    pub expires_at_ms: Option<u64>,
}

/// See [`Ask::Fetch`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Fetch {
    /// The partition.
    #[prost(uint32, tag = "1")]
    pub partition: u32,
    /// Go on after this stored key; empty from the start.
    #[prost(bytes = "bytes", tag = "2")]
    pub after: Bytes,
    /// Most bytes of a page; at least one entry is gone through.
    #[prost(uint32, tag = "3")]
    pub max_bytes: u32,
    /// States that the asker holds and need not be sent: an inventory, 16 bytes each.
    #[prost(bytes = "bytes", tag = "4")]
    pub held: Bytes,
}

/// See [`Ask::Settle`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Settle {
    /// The partition.
    #[prost(uint32, tag = "1")]
    pub partition: u32,
    /// Up to which operation, as an earlier answer said; 0: up to the last that has begun.
    #[prost(uint64, tag = "2")]
    pub until: u64,
}

/// See [`Tell::Settled`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Settled {
    /// Some of them still count: ask again.
    #[prost(bool, tag = "1")]
    pub counting: bool,
    /// Up to which operation.
    #[prost(uint64, tag = "2")]
    pub until: u64,
}

/// See [`Tell::Page`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Page {
    /// Objects, by stored key.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<PageEntry>,
    /// The stored key after which the next page begins; none: this was the last.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub next: Option<Bytes>,
    /// The partition's epoch when they were read.
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    /// Keys in this range that could not be read here: merge them from others.
    #[prost(message, repeated, tag = "4")]
    pub unreadable: Vec<Target>,
    /// The newest layout that the source had acked before it read this.
    #[prost(uint64, tag = "5")]
    pub acked: u64,
    /// The first epoch whose states the source takes.
    #[prost(uint64, tag = "6")]
    pub sealed: u64,
    /// With the first page of a partition: what is to be learnt before any of it is taken (`collect`'s encoding). None
    /// while a round of collection waits to be finished there.
    #[prost(bytes = "bytes", optional, tag = "7")]
    pub lesson: Option<Bytes>,
}

/// One object of a page.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PageEntry {
    /// The object's name.
    #[prost(message, required, tag = "1")]
    pub target: Target,
    /// Its record.
    #[prost(bytes = "bytes", tag = "2")]
    pub record: Bytes,
}

/// See [`Tell::Refused`]: nothing was done, and this is no vote.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Refused {
    /// Why.
    #[prost(enumeration = "Refusal", tag = "1")]
    pub why: i32,
    /// The same for people.
    #[prost(string, tag = "2")]
    pub detail: String,
    /// Versions of the layouts that are live for the refusing node.
    #[prost(uint64, repeated, tag = "3")]
    pub live: Vec<u64>,
}

/// Why a replica does not do what it is asked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, prost::Enumeration)]
#[repr(i32)]
pub enum Refusal {
    /// Not understood: a newer peer's message.
    Unknown = 0,
    /// The layout is not the one in use here.
    Layout = 1,
    /// Not an owner, or not a member.
    NotOwner = 2,
    /// The partition is not completely synced.
    Syncing = 3,
    /// What is stored cannot be read; the key is quarantined.
    Damaged = 4,
    /// The disk failed.
    ReadOnly = 5,
    /// A queue is full.
    Overloaded = 6,
    /// The node is stopping.
    Stopping = 7,
    /// The clock is wrong: no mint.
    ClockDrift = 8,
    /// The deadline was over before it was begun.
    TooLate = 9,
    /// The message is damaged.
    Malformed = 10,
    /// The disk is filled up to its reserve: no new values.
    NoRoom = 11,
    /// The sender's store was removed from the cluster, for good.
    Ended = 12,
    /// What was sent was read under an epoch that is sealed here: read again, and send that.
    Sealed = 13,
    /// As many hints wait as may, and this one would be owed.
    HintsFull = 20,
}

/// See [`Tell::Failed`]: a handed-over operation's error, as `kv::Error` says it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Failed {
    /// The error as JSON (`kv::Error`).
    #[prost(bytes = "bytes", tag = "1")]
    pub error: Bytes,
}

impl Request {
    /// A request that asks `ask`.
    #[must_use]
    pub fn new(ask: Ask) -> Self {
        Self { head: 0, counted: 0, budget_us: 0, ask: Some(ask), also: Vec::new() }
    }
}

impl Reply {
    /// A reply that tells `tell`.
    #[must_use]
    pub fn new(tell: Tell) -> Self {
        Self { head: 0, tell: Some(tell) }
    }

    /// A refusal.
    #[must_use]
    pub fn refused(why: Refusal, detail: impl Into<String>) -> Self {
        Self::new(Tell::Refused(Refused::new(why, detail)))
    }
}

impl Refused {
    /// A refusal, and why.
    #[must_use]
    pub fn new(why: Refusal, detail: impl Into<String>) -> Self {
        Self { why: why.into(), detail: detail.into(), live: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// prost panics on a tag that a oneof's field lists but its enum lacks: every tag is tried on its own.
    #[test]
    fn no_tag_panics() {
        for tag in 1..200u32 {
            for wire_type in [0, 1, 2, 5] {
                let mut bytes = Vec::new();
                prost::encoding::encode_varint(u64::from(tag << 3 | wire_type), &mut bytes);
                bytes.extend([0; 8]);
                drop(Request::decode(&bytes[..]));
                drop(Reply::decode(&bytes[..]));
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(request) = Request::decode(&bytes[..]) {
                prop_assert_eq!(Request::decode(&request.encode_to_vec()[..]), Ok(request));
            }
            if let Ok(reply) = Reply::decode(&bytes[..]) {
                prop_assert_eq!(Reply::decode(&reply.encode_to_vec()[..]), Ok(reply));
            }
        }
    }
}

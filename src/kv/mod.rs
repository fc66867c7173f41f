//! The key-value interface that everything above the coordinator speaks: the embedding API, the HTTP edge, the client.
//!
//! [`Kv`] has three verbs, and lists keys. What an answer says is always the same three things: the siblings, what the client may do
//! next ([`ContextToken`]), and how many replicas said so ([`Counted`]). What an error says is always [`Outcome`]
//! (I-HONEST): applied, not applied, or unknown.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::causality::Dot;
use crate::env::BoxFuture;
use crate::quorum::{Explain, Level};
use crate::types::{Bucket, Digest, ObjectId, Wall};

pub mod batch;
mod bucket;
mod bucket_settings;
pub mod date;
mod error;
mod hints;
pub mod layouts;
mod lifetime;
mod list;
pub mod mock;
pub mod plans;
mod present;
pub mod progress;
mod repairs;
mod session;
mod tombstones;
mod view;
pub mod wire;
mod workers;

pub use crate::quorum::{Counted, Repair as RepairMode};
pub use bucket::{ANSWERED, BucketAdmin, BucketRules, BucketView, BucketWish, Buckets, Guard, LARGEST_OBJECT, Word};
pub use bucket_settings::{BLIND_WRITES, BucketValues, Settings, SettingsTable, VALUES_MAX, blind_word, read_blind};
pub use error::{Error, ErrorCode, ReplicaReport};
pub use hints::{HintAdmin, HintTarget, HintsLeft, HintsView, HintsWaited};
pub use layouts::LayoutAdmin;
pub use lifetime::{LONGEST_TTL, Lifetime, LifetimeError};
pub use list::{
    GapsSeen, KeyGap, KeyPage, KeyView, LIST_BYTES, LIST_MOST, ListCursor, ListOptions, PREFIX_MOST, Pages,
};
pub use present::{check_ttl, etag_of, expired, open_context, open_floor, payload_of, request_of, views};
pub use repairs::{REPAIR_ID, RepairAdmin, RepairBegun, RepairRequest, RepairView, unknown_repair};
pub use session::Session;
pub use tombstones::{HolderUp, TombstoneAdmin, TombstonesView};
pub use view::{
    Addresses, Attention, ChangeView, MemberView, Members, NodeView, OlderRing, OwnerView, Owners, PartitionView,
    RingView, Status,
};
pub use workers::{ScrubView, Steer, WorkerAdmin, WorkerView, WorkersView, unknown_worker};

/// What a client holds of an object's causal history: opaque, bound to bucket and key, authenticated. Send it with the
/// next write to supersede exactly what it covers.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContextToken(pub String);

/// What a later read must be at least as new as, and a later write must be made on. Not a context: a write refuses it as
/// one.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FloorToken(pub String);

impl fmt::Debug for ContextToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContextToken({})", self.0)
    }
}

impl fmt::Debug for FloorToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FloorToken({})", self.0)
    }
}

/// Whether what was asked for was done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done, on as many replicas as were asked for.
    Applied,
    /// Provably not done, and it never will be.
    NotApplied,
    /// It may have been done, or may be done later: a timeout is this, never "failed".
    Unknown,
}

/// How to read.
#[derive(Clone, PartialEq, Debug)]
pub struct ReadOptions {
    /// R.
    pub r: Level,
    /// How long to try.
    pub timeout: Duration,
    /// When to mend what diverges. None: [`RepairMode::Sync`] where R is a quorum or more, else asynchronous.
    pub repair: Option<RepairMode>,
    /// Whether to ask one more replica when one is slow.
    pub hedge: bool,
    /// Whether to explain.
    pub explain: bool,
    /// Whether what fallbacks keep for owners is merged into the answer, and votes in the place of owners that are down.
    pub sloppy: bool,
    /// Find something at least as new as this: the floor of an earlier answer about the same object ([`Session`] keeps
    /// them). Where the R asked have not seen it, every owner is asked; where one that may have it does not answer in
    /// time, there is no answer ([`ErrorCode::SessionUnmet`]).
    pub floor: Option<FloorToken>,
}

impl Default for ReadOptions {
    fn default() -> Self {
        let timeout = Duration::from_secs(1);
        Self { r: Level::Quorum, timeout, repair: None, hedge: true, explain: false, sloppy: false, floor: None }
    }
}

/// How to write.
#[derive(Clone, PartialEq, Debug)]
pub struct WriteOptions {
    /// W.
    pub w: Level,
    /// How many of the W must have flushed to disk, at least.
    pub durable: u32,
    /// How long to try.
    pub timeout: Duration,
    /// Supersede exactly what this covers. None: a blind write.
    pub context: Option<ContextToken>,
    /// Makes a repeated write the same write: 1 to 255 bytes.
    pub idempotency_key: Option<Bytes>,
    /// How long the value lives; of a delete nothing is said.
    pub ttl: Lifetime,
    /// Whether the answer holds the resulting object, and so always a context.
    pub return_body: bool,
    /// Whether to explain.
    pub explain: bool,
    /// Whether a hint on a fallback counts in the place of an owner that is down. [`Level::Any`] is always so.
    pub sloppy: bool,
    /// Write on top of something at least as new as this, so that whoever is shown the write is shown what its writer had
    /// seen. Not a context: it supersedes nothing.
    pub floor: Option<FloorToken>,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self {
            w: Level::Quorum,
            durable: 0,
            timeout: Duration::from_secs(1),
            context: None,
            idempotency_key: None,
            ttl: Lifetime::Unsaid,
            return_body: false,
            explain: false,
            sloppy: false,
            floor: None,
        }
    }
}

/// A value and what describes it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Value {
    /// The bytes.
    pub bytes: Bytes,
    /// Media type.
    pub content_type: Option<String>,
    /// The user's own metadata, 2 KiB in all.
    pub meta: BTreeMap<String, String>,
}

impl<T: Into<Bytes>> From<T> for Value {
    fn from(bytes: T) -> Self {
        Self { bytes: bytes.into(), content_type: None, meta: BTreeMap::new() }
    }
}

/// A sibling as a client sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SiblingView {
    /// The write.
    pub dot: Dot,
    /// The value; none for a delete that raced a write.
    pub value: Option<Value>,
    /// The coordinator's wall clock at the write. For display only.
    pub written_at: Wall,
    /// When it expires.
    pub expires_at: Option<Wall>,
}

/// An object's entity tag: its digest, and how many of its siblings have expired. Equal on every replica.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ETag {
    /// The whole object's digest.
    pub digest: Digest,
    /// How many siblings have expired by now.
    pub expired: usize,
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.expired {
            0 => write!(f, "{}", self.digest),
            k => write!(f, "{}-{k}", self.digest),
        }
    }
}

/// What a read found.
#[derive(Clone, PartialEq, Debug)]
pub struct ReadAnswer {
    /// The live siblings and, where there is at least one, the deleted ones beside them, greatest stamp first. Empty:
    /// not found.
    pub siblings: Vec<SiblingView>,
    /// Covers all of `siblings`; an empty context where nothing is known. Always there: a 404 carries one, too.
    pub context: ContextToken,
    /// What to be at least as new as.
    pub floor: FloorToken,
    /// The object's tag; none where nothing is known.
    pub etag: Option<ETag>,
    /// Who said so.
    pub counted: Counted,
    /// How, where it was asked for.
    pub explain: Option<Explain>,
}

/// What a write did.
#[derive(Clone, PartialEq, Debug)]
pub struct WriteAnswer {
    /// Covers the new sibling; only there if that is alone in the resulting object, or with `return_body`: a context
    /// names only what its holder was shown.
    pub context: Option<ContextToken>,
    /// What to be at least as new as.
    pub floor: FloorToken,
    /// The resulting object's tag.
    pub etag: ETag,
    /// How many siblings the resulting object has.
    pub sibling_count: u32,
    /// The resulting siblings, with `return_body`.
    pub siblings: Option<Vec<SiblingView>>,
    /// When the value expires.
    pub expires_at: Option<Wall>,
    /// It had been done before, under the same Idempotency-Key.
    pub replayed: bool,
    /// Who has it.
    pub counted: Counted,
    /// How, where it was asked for.
    pub explain: Option<Explain>,
}

/// A key-value store with quorums: a node in this process, or a client of one elsewhere.
pub trait Kv: Send + Sync {
    /// Reads an object.
    fn get(&self, id: ObjectId, options: ReadOptions) -> BoxFuture<'_, Result<ReadAnswer, Error>>;
    /// Stores a value.
    fn put(&self, id: ObjectId, value: Value, options: WriteOptions) -> BoxFuture<'_, Result<WriteAnswer, Error>>;
    /// Deletes: stores a tombstone.
    fn delete(&self, id: ObjectId, options: WriteOptions) -> BoxFuture<'_, Result<WriteAnswer, Error>>;
    /// A page of a bucket's keys; [`Pages`] goes through them all.
    fn list(&self, bucket: Bucket, options: ListOptions) -> BoxFuture<'_, Result<KeyPage, Error>>;
}

impl<K: Kv + ?Sized> Kv for std::sync::Arc<K> {
    fn get(&self, id: ObjectId, options: ReadOptions) -> BoxFuture<'_, Result<ReadAnswer, Error>> {
        (**self).get(id, options)
    }

    fn put(&self, id: ObjectId, value: Value, options: WriteOptions) -> BoxFuture<'_, Result<WriteAnswer, Error>> {
        (**self).put(id, value, options)
    }

    fn delete(&self, id: ObjectId, options: WriteOptions) -> BoxFuture<'_, Result<WriteAnswer, Error>> {
        (**self).delete(id, options)
    }

    fn list(&self, bucket: Bucket, options: ListOptions) -> BoxFuture<'_, Result<KeyPage, Error>> {
        (**self).list(bucket, options)
    }
}

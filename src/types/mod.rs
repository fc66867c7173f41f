//! The words every room shares: who (ids), what (bucket, key, token), when (stamps, time newtypes).
//!
//! Plain values, no behaviour that decides anything. `Token` is the only user of murmur3. Nothing here reads a
//! clock or draws a random number: ids are made from bits handed in by whoever holds the entropy seam.

mod id;
mod key;
mod nearest;
mod stamp;
mod time;

pub use id::{ActorId, ClusterId, Digest, Incarnation, NodeId, PartitionId, StoreId, Tenure};
pub use key::{Bucket, InvalidBucket, InvalidKey, Key, MAX_BUCKET_LEN, MAX_KEY_LEN, ObjectId, Token};
pub use nearest::nearest;
pub use stamp::Stamp;
pub use time::{Mono, Wall};

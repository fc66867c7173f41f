//! Versions: which writes happened before which, and what survives when two states meet.
//!
//! An **object** is a *dotted causal container*: a causal context (version vector) and the siblings that no later write
//! superseded. **The merge rule** ([`Object::merge`]): a sibling survives if both states hold it, or if only one does
//! and the other's context does not cover its dot; contexts join. It is commutative, associative and idempotent, so
//! every way a state can travel (client put, peer put, read repair, hint, anti-entropy, transfer) ends in the same
//! object. Anchors: dotted version vector sets (Almeida et al.), ORSWOT, riak's `dvvset`.
//!
//! Kept here: I-CONCUR (merge, and contexts that name only what was shown), I-MINT (who mints, on top of what), and the
//! part of I-ACK, I-CONVERGE and I-DELETE that rests on the merge rule. Left to others: where objects are stored and
//! which incarnation this is (`replica`), how many copies count (`quorum`).

mod actor;
mod codec;
mod context;
mod drift;
mod mint;
mod object;
mod recent;
mod version_vector;

#[cfg(test)]
mod tests;

pub use actor::{LastLife, Memory, Start, actor_of, on_start, rollback_proof};
pub use codec::{
    Head, RecordError, SiblingHead, decode_head, decode_object, decode_vector, digest_of_record, encode_object,
    encode_vector, horizon_of_record,
};
pub use context::{ContextError, MAX_BATCH_CONTEXT_LEN, MAX_CONTEXT_LEN, TokenKeys, TokenKind};
pub use drift::{Drift, DriftRule, Reading};
pub use mint::{BlindWrites, ContextRequired, Lease, Minted, NodeClock, Supersedes, Write, write};
pub use object::{Horizon, MergeRules, Merged, Object, Payload, Sibling};
pub use recent::{Fingerprint, RECENT_MAX, Recent, RecentRequests, RequestId};
pub use version_vector::{Dot, VersionVector};

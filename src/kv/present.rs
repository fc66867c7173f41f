//! Between what clients say and see, and what is stored: views, tags, contexts, request ids.

use std::time::Duration;

use super::{
    ContextToken, ETag, Error, ErrorCode, FloorToken, LONGEST_TTL, Lifetime, LifetimeError, SiblingView, Value,
};
use crate::causality::{
    ContextError, Fingerprint, MAX_BATCH_CONTEXT_LEN, Object, Payload, RequestId, TokenKeys, TokenKind, VersionVector,
    encode_vector,
};
use crate::types::{ObjectId, Wall};

/// The live siblings and, where there is at least one, the deleted ones beside them, greatest stamp first; expired ones
/// are not shown. Empty: not found.
#[must_use]
pub fn views(object: &Object, now: Wall) -> Vec<SiblingView> {
    if !object.is_live(now) {
        return Vec::new();
    }
    let payloads = object.siblings().iter().flat_map(|s| s.payloads.iter().map(|payload| (s.dot, payload)));
    let shown = payloads.filter(|(_, payload)| payload.is_tombstone() || !payload.is_expired(now));
    let mut views: Vec<SiblingView> = shown
        .map(|(dot, Payload { value, content_type, meta, written_at, expires_at })| SiblingView {
            dot,
            value: value.as_ref().map(|bytes| Value {
                bytes: bytes.clone(),
                content_type: content_type.clone(),
                meta: meta.clone(),
            }),
            written_at: *written_at,
            expires_at: *expires_at,
        })
        .collect();
    views.sort_by_key(|view| std::cmp::Reverse((view.dot.stamp, view.dot.actor)));
    views
}

/// How many siblings have expired by `now`.
#[must_use]
pub fn expired(object: &Object, now: Wall) -> usize {
    object.siblings().iter().filter(|sibling| !sibling.is_tombstone() && !sibling.is_live(now)).count()
}

/// The object's entity tag at `now`.
#[must_use]
pub fn etag_of(object: &Object, now: Wall) -> ETag {
    ETag { digest: object.digest(), expired: expired(object, now) }
}

/// What a client's value, or its wish to delete, is stored as. When it expires is for its coordinator to say.
#[must_use]
pub fn payload_of(value: Option<Value>, written_at: Wall) -> Payload {
    let tombstone = Payload { written_at, ..Payload::default() };
    match value {
        Some(Value { bytes, content_type, meta }) => Payload { value: Some(bytes), content_type, meta, ..tombstone },
        None => tombstone,
    }
}

/// A time to live, if it is one that may be asked for; `deletes`: of a write that has no value.
pub fn check_ttl(ttl: Lifetime, deletes: bool) -> Result<(), Error> {
    let refused = |detail: String| Err(Error::refused(ErrorCode::BadParameter, detail));
    match ttl {
        Lifetime::Unsaid => Ok(()),
        _ if deletes => refused("a delete has no time to live: it stays until every owner has seen it".into()),
        Lifetime::For(time) if time < Duration::from_millis(1) || time > LONGEST_TTL => {
            refused(format!("ttl: {}", LifetimeError(format!("{time:?}"))))
        }
        Lifetime::Forever | Lifetime::For(_) => Ok(()),
    }
}

/// What a client's context covers, if it is one of this cluster's and of this object, and the generation of the bucket
/// under which it was given out. It may be as long as a batch's may; an edge that takes it from a header bounds that.
pub fn open_context(keys: &TokenKeys, id: &ObjectId, token: &ContextToken) -> Result<(u64, VersionVector), Error> {
    keys.open(TokenKind::Context, id, &token.0, MAX_BATCH_CONTEXT_LEN).map_err(|wrong| {
        let code = match wrong {
            ContextError::TooLarge { .. } => ErrorCode::ContextTooLarge,
            _ => ErrorCode::BadContext,
        };
        Error::refused(code, wrong.to_string())
    })
}

/// What a client's floor names, if it is one of this cluster's and of this object, and the generation of the bucket under
/// which it was given out.
pub fn open_floor(keys: &TokenKeys, id: &ObjectId, token: &FloorToken) -> Result<(u64, VersionVector), Error> {
    keys.open(TokenKind::Floor, id, &token.0, MAX_BATCH_CONTEXT_LEN).map_err(|wrong| {
        let right = match wrong {
            ContextError::ContextAsFloor => "",
            _ => ": send the Quorate-Floor of an earlier answer about this very object, or none",
        };
        Error::refused(ErrorCode::BadFloor, format!("the floor: {wrong}{right}"))
    })
}

/// Which request an Idempotency-Key names, and what it asks for: two hashes, so that a repetition is told from another use
/// of the key.
#[must_use]
pub fn request_of(
    key: &[u8],
    id: &ObjectId,
    value: Option<&Value>,
    ttl: Lifetime,
    context: Option<&VersionVector>,
) -> (RequestId, Fingerprint) {
    let mut name = blake3::Hasher::new_derive_key("quorate 2026-11 request id");
    part(&mut name, key);
    part(&mut name, id.bucket.as_str().as_bytes());
    part(&mut name, id.key.as_bytes());
    let mut asked = blake3::Hasher::new_derive_key("quorate 2026-11 request fingerprint");
    match value {
        None => part(&mut asked, b"delete"),
        Some(value) => {
            part(&mut asked, b"put");
            part(&mut asked, &value.bytes);
            part(&mut asked, value.content_type.as_deref().unwrap_or_default().as_bytes());
            for (name, value) in &value.meta {
                part(&mut asked, name.as_bytes());
                part(&mut asked, value.as_bytes());
            }
            // One part, which no metadata is: that comes in pairs.
            if ttl != Lifetime::Unsaid {
                part(&mut asked, ttl.to_string().as_bytes());
            }
        }
    }
    part(&mut asked, &context.map(encode_vector).unwrap_or_default());
    (RequestId(half(&name)), Fingerprint(half(&asked)))
}

/// Hashes a part with its length before it, so that no two lists of parts hash alike.
fn part(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_be_bytes()).update(bytes);
}

fn half(hasher: &blake3::Hasher) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    half
}

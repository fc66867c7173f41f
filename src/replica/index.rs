//! The key index: what is known of an object without its value.

use bytes::{BufMut, Bytes, BytesMut};

use crate::causality::{Horizon, Object, Sibling};
use crate::merkle::hour_of;
use crate::types::Digest;

/// In an entry's count of siblings: the object is nothing but deletions, or will be once its values have expired.
const DELETION: u32 = 1 << 31;

/// An index entry: version (u8) | digest (16) | siblings (31 bits), [`DELETION`] (1) | horizon (u64), integers big endian.
pub(super) fn index_entry(digest: &Digest, object: &Object) -> Bytes {
    let siblings = u32::try_from(object.siblings().len()).unwrap_or(u32::MAX).min(DELETION - 1);
    let mut entry = BytesMut::with_capacity(29);
    entry.put_u8(2);
    entry.put_slice(&digest.0);
    entry.put_u32(if ends_as_deletion(object) { siblings | DELETION } else { siblings });
    entry.put_u64(object.horizon().0);
    entry.freeze()
}

/// Whether a round of collection is to look at it some day: not at what expires, for that goes without one.
pub(super) fn ends_as_deletion(object: &Object) -> bool {
    let expires = |sibling: &Sibling| sibling.payloads.iter().all(|payload| payload.expires_at.is_some());
    let lasts = object.horizon() == Horizon::INFINITE;
    object.siblings().iter().all(|sibling| sibling.is_tombstone() || lasts && expires(sibling))
}

/// Whether an index entry may be of such an object; those of version 1 do not say.
pub(super) fn may_be_deletion(entry: &[u8]) -> bool {
    match entry {
        [2, rest @ ..] if rest.len() == 28 => rest[16] & 0x80 != 0,
        _ => true,
    }
}

/// The digest and horizon hour in an index entry.
pub(super) fn index_digest(entry: &[u8]) -> Option<(Digest, u32)> {
    match entry {
        [1 | 2, rest @ ..] if rest.len() == 28 => {
            let horizon = u64::from_be_bytes(rest[20..].try_into().ok()?);
            Some((Digest::from_slice(&rest[..16])?, hour_of(Horizon(horizon))))
        }
        _ => None,
    }
}

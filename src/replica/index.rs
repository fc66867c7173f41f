//! The key index: what is known of an object without its value.

use bytes::{BufMut, Bytes, BytesMut};

use crate::causality::Horizon;
use crate::merkle::hour_of;
use crate::types::Digest;

/// An index entry: version (u8) | digest (16) | siblings (u32) | horizon (u64), integers big endian.
pub(super) fn index_entry(digest: &Digest, siblings: u32, horizon: Horizon) -> Bytes {
    let mut entry = BytesMut::with_capacity(29);
    entry.put_u8(1);
    entry.put_slice(&digest.0);
    entry.put_u32(siblings);
    entry.put_u64(horizon.0);
    entry.freeze()
}

/// The digest and horizon hour in an index entry.
pub(super) fn index_digest(entry: &[u8]) -> Option<(Digest, u32)> {
    match entry {
        [1, rest @ ..] if rest.len() == 28 => {
            let horizon = u64::from_be_bytes(rest[20..].try_into().ok()?);
            Some((Digest::from_slice(&rest[..16])?, hour_of(Horizon(horizon))))
        }
        _ => None,
    }
}

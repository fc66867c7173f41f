//! What the targets `token` and `record` do with an input; `tests/corpora/` does the same with each file of
//! the corpora. None may panic, whatever the bytes.

use bytes::Bytes;
use quorate::causality::{MAX_CONTEXT_LEN, TokenKeys, TokenKind, decode_object};
use quorate::types::{Bucket, Key, ObjectId};

/// Verifies the input as a context token: nothing passes that these keys did not make.
pub fn token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (Ok(bucket), Ok(key)) = (Bucket::new("b"), Key::new(&b"k"[..])) else { return };
    let keys = TokenKeys::new(&[b"not in any corpus"]);
    assert!(keys.verify(TokenKind::Context, &ObjectId::new(bucket, key), text, MAX_CONTEXT_LEN).is_err());
}

/// Decodes the input as a stored record.
pub fn record(data: &[u8]) {
    drop(decode_object(Bytes::copy_from_slice(data)));
}

//! Names out of the raw request target: percent-decoded **once**, never normalised, so that every key that can be
//! stored can be named (`/`, `%2F`, `.`, `..`, spaces, any bytes).

use bytes::Bytes;

use super::params::Query;
use super::problem::Problem;
use crate::kv::wire;
use crate::types::{Bucket, Key, ObjectId};

/// The value of a hexadecimal digit.
fn digit(byte: u8) -> Option<u8> {
    (byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Decodes percent escapes once. None where one is cut off or not hexadecimal.
pub(super) fn percent_decode(raw: &str) -> Option<Bytes> {
    let raw = raw.as_bytes();
    if !raw.contains(&b'%') {
        return Some(Bytes::copy_from_slice(raw));
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((first, after)) = rest.split_first() {
        rest = match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                out.push(digit(*high)? << 4 | digit(*low)?);
                after
            }
            (b'%', _) => return None,
            (plain, after) => {
                out.push(*plain);
                after
            }
        };
    }
    Some(out.into())
}

/// The object that `path` (after `prefix`) and `key_b64` name.
pub(super) fn object_id(path: &str, prefix: &str, query: &Query<'_>) -> Result<ObjectId, Problem> {
    let rest = path.strip_prefix(prefix).unwrap_or_default();
    let rest = rest.strip_prefix('/').unwrap_or(rest);
    let (bucket, key) = match rest.split_once('/') {
        Some((bucket, key)) => (bucket, Some(key)),
        None => (rest, None),
    };
    let bad_escape = || Problem::bad_key("a % in the path is not followed by two hexadecimal digits");
    let bucket = percent_decode(bucket).ok_or_else(bad_escape)?;
    let bucket = Bucket::new(&String::from_utf8_lossy(&bucket)).map_err(|invalid| Problem::bad_bucket(&invalid))?;
    let key = match (key, query.get("key_b64")) {
        (Some(_), Some(_)) => return Err(Problem::bad_key("the key is named twice: in the path and by key_b64")),
        (Some(raw), None) => percent_decode(raw).ok_or_else(bad_escape)?,
        (None, Some(text)) => {
            wire::from_base64(text).ok_or_else(|| Problem::bad_key("key_b64 is not base64url without padding"))?
        }
        (None, None) => return Err(Problem::bad_key("no key: the path is /{bucket}/{key}, or /{bucket}?key_b64=")),
    };
    let key = Key::new(key).map_err(|invalid| Problem::bad_key(&invalid.to_string()))?;
    Ok(ObjectId::new(bucket, key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_are_decoded_once() {
        assert_eq!(percent_decode("a%2Fb%252F+").as_deref(), Some(&b"a/b%2F+"[..]));
        for bad in ["%", "%4", "%4g", "a%%41", "%+1"] {
            assert_eq!(percent_decode(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_named(key in proptest::collection::vec(any::<u8>(), 1..64)) {
            let escaped: String = key.iter().map(|byte| format!("%{byte:02x}")).collect();
            let query = Query::parse(None).unwrap();
            let id = object_id(&format!("/v1/kv/b/{escaped}"), "/v1/kv", &query).unwrap();
            prop_assert_eq!(id.key.as_bytes(), &key);
        }

        #[test]
        fn no_path_panics(path in "\\PC{0,40}") {
            let query = Query::parse(None).unwrap();
            let _ = object_id(&path, "/v1/kv", &query);
        }
    }
}

//! What is stored where: bucket, key, and the token that places them on the ring.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

/// Most bytes in a key.
pub const MAX_KEY_LEN: usize = 1024;
/// Most bytes in a bucket's name.
pub const MAX_BUCKET_LEN: usize = 128;

/// A bucket's name: 1 to 128 of `A-Z a-z 0-9 . _ -`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket(Arc<str>);

/// Why a text is no bucket name.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a bucket's name is 1 to {MAX_BUCKET_LEN} of A-Z a-z 0-9 . _ -, got {0:?}")]
pub struct InvalidBucket(pub String);

impl Bucket {
    /// Checks and takes a bucket's name.
    pub fn new(name: &str) -> Result<Self, InvalidBucket> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if (1..=MAX_BUCKET_LEN).contains(&name.len()) && name.bytes().all(plain) {
            Ok(Self(name.into()))
        } else {
            Err(InvalidBucket(name.chars().take(2 * MAX_BUCKET_LEN).collect()))
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({:?})", self.0)
    }
}

/// A key: any 1 to 1,024 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Bytes);

/// Why bytes are no key.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a key has 1 to {MAX_KEY_LEN} bytes, got {0}")]
pub struct InvalidKey(pub usize);

impl Key {
    /// Checks and takes a key.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, InvalidKey> {
        let bytes = bytes.into();
        if (1..=MAX_KEY_LEN).contains(&bytes.len()) { Ok(Self(bytes)) } else { Err(InvalidKey(bytes.len())) }
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// The full name of an object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectId {
    /// The bucket it is in.
    pub bucket: Bucket,
    /// Its key there.
    pub key: Key,
}

impl ObjectId {
    /// Names the object `key` in `bucket`.
    #[must_use]
    pub fn new(bucket: Bucket, key: Key) -> Self {
        Self { bucket, key }
    }

    /// Where the object lies on the ring.
    #[must_use]
    pub fn token(&self) -> Token {
        Token::of(&self.bucket, &self.key)
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.bucket, self.key)
    }
}

/// A point on the ring: the first 8 bytes of murmur3 x64-128 over (bucket, 0x00, key), read big endian.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u64);

impl Token {
    /// The token of a bucket and key. The bytes hashed are at most 128 + 1 + 1,024, so they fit the stack.
    #[must_use]
    pub fn of(bucket: &Bucket, key: &Key) -> Self {
        let mut buffer = [0u8; MAX_BUCKET_LEN + 1 + MAX_KEY_LEN];
        let (name, key) = (bucket.as_str().as_bytes(), key.as_bytes());
        let len = name.len() + 1 + key.len();
        buffer[..name.len()].copy_from_slice(name);
        buffer[name.len() + 1..len].copy_from_slice(key);
        let hash = murmur3::murmur3_x64_128(&mut &buffer[..len], 0).expect("reading from memory does not fail");
        // murmur3 x64-128 yields h1 then h2, each little endian; the crate packs h1 into the low half.
        Self((hash as u64).swap_bytes())
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(bucket: &str, key: &[u8]) -> ObjectId {
        ObjectId::new(Bucket::new(bucket).unwrap(), Key::new(key.to_vec()).unwrap())
    }

    #[test]
    fn bucket_names_are_checked() {
        assert!(Bucket::new("a.b_c-9").is_ok());
        assert!(Bucket::new(&"x".repeat(128)).is_ok());
        for bad in ["", "a/b", "a b", "é", &"x".repeat(129)] {
            assert!(Bucket::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn keys_are_1_to_1024_bytes() {
        assert_eq!(Key::new(Vec::new()), Err(InvalidKey(0)));
        assert!(Key::new(vec![0; 1024]).is_ok());
        assert_eq!(Key::new(vec![0; 1025]), Err(InvalidKey(1025)));
    }

    #[test]
    fn the_zero_byte_keeps_bucket_and_key_apart() {
        assert_ne!(id("ab", b"c").token(), id("a", b"bc").token());
    }

    #[test]
    fn tokens_never_change() {
        // First 8 bytes of murmur3 x64-128 (seed 0) of "b\0k", from
        // another implementation (mmh3).
        assert_eq!(id("b", b"k").token().to_string(), GOLDEN);
    }
    const GOLDEN: &str = "e99f35dcdbdd838a";
}

//! Context and floor tokens: a version vector in a client's hands.
//!
//! A client's context decides what its write supersedes, so it must be one that a node of this cluster gave out, for
//! this key: opaque, versioned, bound to bucket and key, authenticated. A floor says only what a read must be at least
//! as new as; taken for a context it would name what its holder was never shown (I-CONCUR), so the kind is
//! authenticated, too.
//!
//! Token: base64url without padding of version (1 byte), kind (1), MAC (16), in version 2 the bucket's generation (8,
//! big endian), then actor and stamp (8 each, big endian) of each entry. The MAC is 16 of the 32 bytes of keyed BLAKE3
//! over version, bucket, 0, the key's length (4), key, and all that follows the MAC: the first half for a context, the
//! second for a floor, so that the two tokens of an answer take one hash. Without the length the end of a key could be
//! passed off as the first entry of a vector.
//!
//! Version 1 is of generation 0. A bucket that was emptied has another generation, in which nothing is known of what was
//! shown before: taken for a context of it, an old token would name what its owners minted and never saw there, which
//! proves to them that they have forgotten it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use thiserror::Error;

use super::VersionVector;
use super::codec::{decode_entries, encode_entries};
use crate::types::ObjectId;

/// Longest token in a header.
pub const MAX_CONTEXT_LEN: usize = 32 * 1024;
/// Longest token in a batch's body.
pub const MAX_BATCH_CONTEXT_LEN: usize = 256 * 1024;

/// Of generation 0.
const FIRST: u8 = 1;
/// With a generation.
const OF_GENERATION: u8 = 2;
const MAC_LEN: usize = 16;
const HEAD_LEN: usize = 2 + MAC_LEN;
const KEY_CONTEXT: &str = "quorate 2026-11 context token";

/// What a token is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenKind {
    /// What its holder was shown: a write supersedes it.
    Context,
    /// What a read must be at least as new as.
    Floor,
}

impl TokenKind {
    const fn byte(self) -> u8 {
        match self {
            Self::Context => b'c',
            Self::Floor => b'f',
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::Context => Self::Floor,
            Self::Floor => Self::Context,
        }
    }
}

/// Why a token was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ContextError {
    /// Longer than what a node takes: a batch takes more than a header.
    #[error("the token has {len} bytes, at most {max} are taken")]
    TooLarge {
        /// Its length.
        len: usize,
        /// The most that is taken here.
        max: usize,
    },
    /// Not the shape of a token: cut, or changed on the way.
    #[error("this is no token: it is damaged")]
    Damaged,
    /// Of another key, bucket or cluster, or made up: these cannot be told apart.
    #[error("the token was not given out for this key by this cluster")]
    Foreign,
    /// A floor where a context is wanted.
    #[error("a floor is no context: it names what its holder was not shown")]
    FloorAsContext,
    /// A context where a floor is wanted.
    #[error("a context is no floor: send the floor that came with it")]
    ContextAsFloor,
}

/// The keys that tokens are authenticated with. The first signs, all verify: so a secret can be replaced while tokens
/// made with the old one are in clients' hands.
#[derive(Clone)]
pub struct TokenKeys(Vec<[u8; 32]>);

impl std::fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenKeys({})", self.0.len())
    }
}

impl TokenKeys {
    /// Keys derived from the cluster's secrets, the signing one first. A cluster without a secret hands in the bytes of
    /// its id: that keeps clusters apart, and errors out, but not forgers.
    ///
    /// # Panics
    /// If there is no secret: then nothing could be signed.
    #[must_use]
    pub fn new(secrets: &[&[u8]]) -> Self {
        assert!(!secrets.is_empty(), "at least one secret, or the cluster's id");
        Self(secrets.iter().map(|secret| blake3::derive_key(KEY_CONTEXT, secret)).collect())
    }

    /// The token of `vector` for `id`, in a bucket that was never emptied. The empty vector has one, too: a 404's context.
    #[must_use]
    pub fn sign(&self, kind: TokenKind, id: &ObjectId, vector: &VersionVector) -> String {
        Draft::new(&self.0, id, 0, vector).token(kind)
    }

    /// Both tokens of `vector` for `id` under a generation of its bucket: the context and the floor.
    #[must_use]
    pub fn sign_both(&self, id: &ObjectId, generation: u64, vector: &VersionVector) -> (String, String) {
        let mut draft = Draft::new(&self.0, id, generation, vector);
        (draft.token(TokenKind::Context), draft.token(TokenKind::Floor))
    }

    /// The vector of a token that must be of this kind, for `id`, and at most `max_len` bytes long.
    pub fn verify(
        &self,
        kind: TokenKind,
        id: &ObjectId,
        token: &str,
        max_len: usize,
    ) -> Result<VersionVector, ContextError> {
        self.open(kind, id, token, max_len).map(|(_, vector)| vector)
    }

    /// As [`TokenKeys::verify`], and the generation of the bucket under which it was given out.
    pub fn open(
        &self,
        kind: TokenKind,
        id: &ObjectId,
        token: &str,
        max_len: usize,
    ) -> Result<(u64, VersionVector), ContextError> {
        if token.len() > max_len {
            return Err(ContextError::TooLarge { len: token.len(), max: max_len });
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| ContextError::Damaged)?;
        let (head, body) = bytes.split_first_chunk::<HEAD_LEN>().ok_or(ContextError::Damaged)?;
        let [version, spoken, theirs @ ..] = *head;
        let claimed = [kind, kind.other()].into_iter().find(|k| k.byte() == spoken).ok_or(ContextError::Damaged)?;
        let (generation, entries) = match (version, body.split_first_chunk()) {
            (FIRST, _) => (0, body),
            (OF_GENERATION, Some((generation, entries))) => (u64::from_be_bytes(*generation), entries),
            _ => return Err(ContextError::Damaged),
        };
        let vector = decode_entries(entries).map_err(|_| ContextError::Damaged)?;
        // Every key is tried whichever matches: time tells nothing about which.
        let genuine =
            self.0.iter().fold(false, |found, key| found | same(mac(&hash(key, version, id, body), claimed), &theirs));
        match (genuine, claimed) {
            (false, _) => Err(ContextError::Foreign),
            (true, TokenKind::Floor) if kind == TokenKind::Context => Err(ContextError::FloorAsContext),
            (true, TokenKind::Context) if kind == TokenKind::Floor => Err(ContextError::ContextAsFloor),
            (true, _) => Ok((generation, vector)),
        }
    }
}

/// A token without its kind and MAC, and the MACs of all kinds.
struct Draft {
    token: Vec<u8>,
    hash: blake3::Hash,
}

impl Draft {
    fn new(keys: &[[u8; 32]], id: &ObjectId, generation: u64, vector: &VersionVector) -> Self {
        let mut token = Vec::with_capacity(HEAD_LEN + 8 + 16 * vector.len());
        let version = if generation == 0 { FIRST } else { OF_GENERATION };
        token.push(version);
        token.resize(HEAD_LEN, 0);
        if generation > 0 {
            token.extend(generation.to_be_bytes());
        }
        encode_entries(vector, &mut token);
        let of = |key| hash(key, version, id, &token[HEAD_LEN..]);
        let hash = keys.first().map_or_else(|| blake3::Hash::from_bytes([0; 32]), of);
        Self { token, hash }
    }

    fn token(&mut self, kind: TokenKind) -> String {
        self.token[1] = kind.byte();
        self.token[2..HEAD_LEN].copy_from_slice(mac(&self.hash, kind));
        URL_SAFE_NO_PAD.encode(&self.token)
    }
}

fn hash(key: &[u8; 32], version: u8, id: &ObjectId, body: &[u8]) -> blake3::Hash {
    let object_key = id.key.as_bytes();
    // A key has at most 1,024 bytes.
    let key_len = u32::try_from(object_key.len()).unwrap_or(u32::MAX);
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&[version]).update(id.bucket.as_str().as_bytes()).update(&[0]);
    hasher.update(&key_len.to_be_bytes()).update(object_key).update(body);
    hasher.finalize()
}

/// The half of the hash that authenticates a kind of token.
fn mac(hash: &blake3::Hash, kind: TokenKind) -> &[u8] {
    let (context, floor) = hash.as_bytes().split_at(MAC_LEN);
    match kind {
        TokenKind::Context => context,
        TokenKind::Floor => floor,
    }
}

/// Whether two MACs are equal, in a time that does not depend on where they differ: one comparison of 128 bits.
fn same(ours: &[u8], theirs: &[u8; MAC_LEN]) -> bool {
    let number = |bytes: &[u8]| <[u8; MAC_LEN]>::try_from(bytes).map(u128::from_ne_bytes);
    let (Ok(ours), Ok(theirs)) = (number(ours), number(theirs)) else { return false };
    std::hint::black_box(ours ^ theirs) == 0
}

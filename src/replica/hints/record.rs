//! What a hint is on disk.
//!
//! Key: the store id of the owner that missed something (16) | the stored key of what it missed, so that the hints of one
//! owner are one range, and in that those of one partition another.
//!
//! Value: version (u8, 1) | kind (u8) | flags (u8: bit 0, owed) | revision (16) | since (u64, milliseconds of wall time,
//! big endian). Kind 1 is a hint *by reference*: this node owns the object, and what is to be sent is whatever its own
//! store holds by then, so a million overwrites of one key are one hint, and the newest state is what travels. A version
//! or kind that this build does not know is left alone: a newer one may have counted it.

use bytes::{BufMut, Bytes, BytesMut};

use crate::types::{Digest, PartitionId, StoreId, Wall};

const VERSION: u8 = 1;
const BY_REFERENCE: u8 = 1;
const OWED: u8 = 1;
/// Bytes of a value.
const LEN: usize = 27;

/// A hint: an owner missed something that this node holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hint {
    /// It counted towards a quorum: never dropped.
    pub owed: bool,
    /// What it was left for. An acknowledgement ends the hint only where this is still what it was when the object was
    /// read.
    pub revision: Digest,
    /// When the oldest of those that were merged into it was left.
    pub since: Wall,
}

impl Hint {
    /// The value.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut value = BytesMut::with_capacity(LEN);
        value.put_u8(VERSION);
        value.put_u8(BY_REFERENCE);
        value.put_u8(if self.owed { OWED } else { 0 });
        value.put_slice(&self.revision.0);
        value.put_u64(self.since.0);
        value.freeze()
    }

    /// Reads a value; none where this build does not know it.
    #[must_use]
    pub fn decode(value: &[u8]) -> Option<Self> {
        let [VERSION, BY_REFERENCE, flags @ (0 | OWED), rest @ ..] = value else { return None };
        let (revision, since) = rest.split_at_checked(16)?;
        let since = Wall(u64::from_be_bytes(since.try_into().ok()?));
        Some(Self { owed: flags & OWED != 0, revision: Digest::from_slice(revision)?, since })
    }

    /// This hint, and another one left later for the same owner and key. Where they were left for different states the
    /// revision is a third one, which neither had: what was read before both is covered by no acknowledgement.
    #[must_use]
    pub fn merged(self, later: Self) -> Self {
        let revision = if self.revision == later.revision {
            self.revision
        } else {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&self.revision.0).update(&later.revision.0);
            let mut half = [0; 16];
            half.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
            Digest(half)
        };
        Self { owed: self.owed || later.owed, revision, since: self.since.min(later.since) }
    }
}

/// The key of an owner's hint for a stored key.
#[must_use]
pub(super) fn hint_key(target: StoreId, stored: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(16 + stored.len());
    key.put_slice(target.as_bytes());
    key.put_slice(stored);
    key.freeze()
}

/// The owner, and the stored key; none if it is no hint's key.
#[must_use]
pub(super) fn target_of(key: &Bytes) -> Option<(StoreId, Bytes)> {
    let target = StoreId::from_slice(key.get(..16)?)?;
    let stored = key.slice(16..);
    partition_of(&stored).map(|_| (target, stored))
}

/// The partition that a stored key begins with.
#[must_use]
pub(super) fn partition_of(stored: &[u8]) -> Option<PartitionId> {
    stored.first_chunk().map(|bytes| PartitionId(u32::from_be_bytes(*bytes)))
}

/// What a hint for this stored key counts for, in bytes.
#[must_use]
pub(super) fn bytes_of(stored: &[u8]) -> u64 {
    (16 + stored.len() + LEN) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hint(revision: u8, since: u64) -> Hint {
        Hint { owed: false, revision: Digest([revision; 16]), since: Wall(since) }
    }

    #[test]
    fn golden_bytes() {
        let golden: Vec<u8> = [&[1, 1, 1][..], &[0xAB; 16], &[0, 0, 1, 0x8C, 0, 0, 0, 7]].concat();
        let hint = Hint { owed: true, revision: Digest([0xAB; 16]), since: Wall(0x018C_0000_0007) };
        assert_eq!(hint.encode(), golden);
        assert_eq!(Hint::decode(&golden), Some(hint));
        assert_eq!(golden.len() as u64 + 16 + 5, bytes_of(b"12345"));
        let key = hint_key(StoreId::from_bits(0x0102), &[0, 0, 0, 9, 1, b'b']);
        assert_eq!(key[..], [&[0; 14][..], &[1, 2, 0, 0, 0, 9, 1, b'b']].concat());
        assert_eq!(target_of(&key), Some((StoreId::from_bits(0x0102), key.slice(16..))));
        assert_eq!(partition_of(&key[16..]), Some(PartitionId(9)));
        assert_eq!(target_of(&key.slice(..19)), None, "it names no partition");
    }

    #[test]
    fn what_a_newer_build_may_write_is_not_misread() {
        let plain = hint(1, 2).encode();
        for (at, byte) in [(0, 2), (1, 2), (2, 2)] {
            let mut other = plain.to_vec();
            other[at] = byte;
            assert_eq!(Hint::decode(&other), None);
        }
        assert_eq!(Hint::decode(&plain[..26]), None);
        assert_eq!(Hint::decode(&[&plain[..], b"x"].concat()), None);
    }

    #[test]
    fn merging_keeps_the_older_time_and_no_revision_comes_back() {
        let (one, other) = (hint(1, 500), hint(2, 300));
        let both = one.merged(other);
        assert_eq!(both.since, Wall(300));
        assert!(both.revision != one.revision && both.revision != other.revision);
        let again = both.merged(one);
        assert!(again.revision != one.revision && again.revision != both.revision, "one was answered in between");
        assert_eq!(one.merged(hint(1, 900)), one, "the same state is the same hint");
        assert!(one.merged(Hint { owed: true, ..one }).owed && Hint { owed: true, ..one }.merged(one).owed);
    }

    proptest! {
        #[test]
        fn every_hint_is_read_back(owed: bool, revision: [u8; 16], since: u64, garbage in proptest::collection::vec(any::<u8>(), 0..60)) {
            let hint = Hint { owed, revision: Digest(revision), since: Wall(since) };
            prop_assert_eq!(Hint::decode(&hint.encode()), Some(hint));
            let _ = (Hint::decode(&garbage), target_of(&garbage.into()));
        }
    }
}

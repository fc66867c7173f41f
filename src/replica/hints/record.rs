//! What a hint is on disk.
//!
//! Key: the store id of the owner that missed something (16) | the stored key of what it missed, so that the hints of one
//! owner are one range, and in that those of one partition another.
//!
//! Value: version (u8, 1) | kind (u8) | flags (u8: bit 0, owed; bit 1, of kind 2 alone, what this node owns was missed as
//! well) | revision (16) | since (u64, milliseconds of wall time, big endian). Kind 1 is a hint *by reference*: this node owns the object, and what is to be sent is whatever its own
//! store holds by then, so a million overwrites of one key are one hint, and the newest state is what travels. Kind 2 is a
//! hint *by value*: this node owns no copy and stands in for one who does. Behind `since` it goes on: epoch (u64) | tenure
//! (u64) | the object's record, merged from all that was left for this owner and key. It counted towards a quorum, so it
//! is always owed.
//!
//! A version or kind that this build does not know is left alone: a newer one may have counted it.

use bytes::{BufMut, Bytes, BytesMut};

use crate::types::{Digest, PartitionId, StoreId, Wall};

const VERSION: u8 = 1;
const BY_REFERENCE: u8 = 1;
const BY_VALUE: u8 = 2;
const OWED: u8 = 1;
const REFERS: u8 = 2;
/// Bytes of a value.
const LEN: usize = 27;
/// Bytes that a hint by value has beside those and its object's record.
const KEPT_LEN: usize = 16;

/// A hint: an owner missed something that this node holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hint {
    /// It counted towards a quorum: never dropped.
    pub owed: bool,
    /// What it was left for. An acknowledgement ends the hint only where this is still what it was when the object was
    /// read.
    pub revision: Digest,
    /// When the oldest of those that were merged into it was left.
    pub since: Wall,
    /// The object itself, where this node holds it for nothing else.
    pub kept: Option<Kept>,
    /// Whether the owner missed what this node's own copy holds: every hint by reference, and one by value with which one
    /// by reference was merged. Both are to be sent then.
    pub refers: bool,
}

/// What a hint by value holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    /// The partition's epoch under which it was read: the least, of a merge.
    pub epoch: u64,
    /// The random bits of the actor that mints on this record; 0: none does. It ends with the record.
    pub tenure: u64,
    /// The object.
    pub record: Bytes,
}

impl Hint {
    /// The value.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let more = self.kept.as_ref().map_or(0, |kept| KEPT_LEN + kept.record.len());
        let mut value = BytesMut::with_capacity(LEN + more);
        value.put_u8(VERSION);
        value.put_u8(if self.kept.is_some() { BY_VALUE } else { BY_REFERENCE });
        let refers = self.refers && self.kept.is_some();
        value.put_u8(if self.owed { OWED } else { 0 } | if refers { REFERS } else { 0 });
        value.put_slice(&self.revision.0);
        value.put_u64(self.since.0);
        if let Some(kept) = &self.kept {
            value.put_u64(kept.epoch);
            value.put_u64(kept.tenure);
            value.put_slice(&kept.record);
        }
        value.freeze()
    }

    /// Reads a value; none where this build does not know it.
    #[must_use]
    pub fn decode(value: &Bytes) -> Option<Self> {
        let [VERSION, kind @ (BY_REFERENCE | BY_VALUE), flags, rest @ ..] = &value[..] else { return None };
        if flags & !(if *kind == BY_VALUE { OWED | REFERS } else { OWED }) != 0 {
            return None;
        }
        let (revision, rest) = rest.split_at_checked(16)?;
        let (since, rest) = rest.split_first_chunk()?;
        let (owed, since) = (flags & OWED != 0, Wall(u64::from_be_bytes(*since)));
        let kept = match *kind {
            BY_VALUE => {
                let (epoch, rest) = rest.split_first_chunk()?;
                let (tenure, record) = rest.split_first_chunk()?;
                let (epoch, tenure) = (u64::from_be_bytes(*epoch), u64::from_be_bytes(*tenure));
                Some(Kept { epoch, tenure, record: value.slice_ref(record) })
            }
            _ if rest.is_empty() => None,
            _ => return None,
        };
        let refers = kept.is_none() || flags & REFERS != 0;
        Some(Self { owed, revision: Digest::from_slice(revision)?, since, kept, refers })
    }

    /// This hint, and another one left later for the same owner and key. Where they were left for different states the
    /// revision is a third one, which neither had: what was read before both is covered by no acknowledgement. Where both
    /// hold an object, what the later one holds is the merge of both: whoever merges objects has seen to that.
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
        let kept = match (self.kept, later.kept) {
            (Some(older), Some(newer)) => Some(Kept { epoch: older.epoch.min(newer.epoch), ..newer }),
            (older, newer) => newer.or(older),
        };
        let (owed, refers) = (self.owed || later.owed, self.refers || later.refers);
        Self { owed, revision, since: self.since.min(later.since), kept, refers }
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
pub(super) fn bytes_of(stored: &[u8], hint: &Hint) -> u64 {
    let kept = hint.kept.as_ref().map_or(0, |kept| KEPT_LEN + kept.record.len());
    (16 + stored.len() + LEN + kept) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hint(revision: u8, since: u64) -> Hint {
        Hint { owed: false, revision: Digest([revision; 16]), since: Wall(since), kept: None, refers: true }
    }

    fn kept(epoch: u64, tenure: u64, record: &'static [u8]) -> Option<Kept> {
        Some(Kept { epoch, tenure, record: Bytes::from_static(record) })
    }

    #[test]
    fn golden_bytes() {
        let golden: Vec<u8> = [&[1, 1, 1][..], &[0xAB; 16], &[0, 0, 1, 0x8C, 0, 0, 0, 7]].concat();
        let (revision, since) = (Digest([0xAB; 16]), Wall(0x018C_0000_0007));
        let hint = Hint { owed: true, revision, since, kept: None, refers: true };
        assert_eq!(hint.encode(), golden);
        assert_eq!(Hint::decode(&golden.clone().into()).as_ref(), Some(&hint));
        assert_eq!(golden.len() as u64 + 16 + 5, bytes_of(b"12345", &hint));
        let by_value = Hint { kept: kept(3, 0x0102, b"object"), refers: false, ..hint };
        let mut bytes = golden;
        bytes[1] = 2;
        bytes.extend([&[0; 7][..], &[3], &[0; 6], &[1, 2], b"object"].concat());
        assert_eq!(by_value.encode(), bytes);
        assert_eq!(bytes.len() as u64 + 16 + 5, bytes_of(b"12345", &by_value));
        assert_eq!(Hint::decode(&bytes.clone().into()).as_ref(), Some(&by_value));
        bytes[2] = 3;
        assert_eq!(Hint::decode(&bytes.into()), Some(Hint { refers: true, ..by_value }));
        let key = hint_key(StoreId::from_bits(0x0102), &[0, 0, 0, 9, 1, b'b']);
        assert_eq!(key[..], [&[0; 14][..], &[1, 2, 0, 0, 0, 9, 1, b'b']].concat());
        assert_eq!(target_of(&key), Some((StoreId::from_bits(0x0102), key.slice(16..))));
        assert_eq!(partition_of(&key[16..]), Some(PartitionId(9)));
        assert_eq!(target_of(&key.slice(..19)), None, "it names no partition");
    }

    #[test]
    fn what_a_newer_build_may_write_is_not_misread() {
        let plain = hint(1, 2).encode();
        for (at, byte) in [(0, 2), (1, 2), (1, 3), (2, 2)] {
            let mut other = plain.to_vec();
            other[at] = byte;
            assert_eq!(Hint::decode(&other.into()), None);
        }
        assert_eq!(Hint::decode(&plain.slice(..26)), None);
        assert_eq!(Hint::decode(&[&plain[..], b"x"].concat().into()), None);
    }

    #[test]
    fn merging_keeps_the_older_time_and_no_revision_comes_back() {
        let (one, other) = (hint(1, 500), hint(2, 300));
        let both = one.clone().merged(other.clone());
        assert_eq!(both.since, Wall(300));
        assert!(both.revision != one.revision && both.revision != other.revision);
        let again = both.clone().merged(one.clone());
        assert!(again.revision != one.revision && again.revision != both.revision, "one was answered in between");
        assert_eq!(one.clone().merged(hint(1, 900)), one, "the same state is the same hint");
        let owed = Hint { owed: true, kept: kept(4, 9, b"v"), refers: false, ..one.clone() };
        let both = [one.clone().merged(owed.clone()), owed.clone().merged(one)];
        assert!(both.iter().all(|hint| hint.owed && hint.kept == owed.kept), "what was kept stays");
        assert!(both.iter().all(|hint| hint.refers), "and so does what was noted");
        assert!(!owed.clone().merged(owed.clone()).refers);
        let later = Hint { kept: kept(6, 9, b"vw"), ..owed.clone() };
        assert_eq!(owed.merged(later).kept, kept(4, 9, b"vw"), "the least epoch");
    }

    proptest! {
        #[test]
        fn every_hint_is_read_back(owed: bool, revision: [u8; 16], since: u64, garbage in proptest::collection::vec(any::<u8>(), 0..60)) {
            let plain = Hint { owed, revision: Digest(revision), since: Wall(since), kept: None, refers: true };
            let kept = Some(Kept { epoch: since, tenure: !since, record: garbage.clone().into() });
            let both = Hint { kept: kept.clone(), ..plain.clone() };
            for hint in [plain.clone(), both, Hint { kept, refers: false, ..plain }] {
                prop_assert_eq!(Hint::decode(&hint.encode()), Some(hint));
            }
            let garbage = Bytes::from(garbage);
            let _ = (Hint::decode(&garbage), target_of(&garbage));
        }
    }
}

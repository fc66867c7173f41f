//! A round: its epoch, and what it lists.

use bytes::Bytes;

use super::Epoch;
use crate::causality::Dot;
use crate::types::Digest;

/// Most keys in a round: marking one reads them all, in one go of a storage thread.
pub const LISTED_MAX: usize = 256;

/// One round, and no other: epoch, its driver's nonce, hash of what it lists. Ordered by epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RoundId {
    /// The epoch that it raises owners to.
    pub epoch: Epoch,
    /// Random bits: two drivers may choose one epoch.
    pub nonce: u64,
    /// The hash of what it lists.
    pub listed: Digest,
}

/// An object that is to be collected: nothing but deletions.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Listed {
    /// Its stored key.
    pub stored: Bytes,
    /// Its digest, which is the same at every owner.
    pub digest: Digest,
    /// Its deletions: what is taken out, also by owners of the partition that hold nothing of this bucket.
    pub dots: Vec<Dot>,
}

/// What a driver asks owners to mark.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Round {
    id: RoundId,
    listed: Vec<Listed>,
    after: Vec<RoundId>,
}

impl Round {
    /// The round of `epoch` that lists these, and began after all had dropped `after`.
    #[must_use]
    pub fn new(epoch: Epoch, nonce: u64, listed: Vec<Listed>, after: Vec<RoundId>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for Listed { stored, digest, dots } in &listed {
            hasher.update(&(stored.len() as u64).to_be_bytes()).update(stored).update(&digest.0);
            hasher.update(&(dots.len() as u64).to_be_bytes());
            for Dot { actor, stamp } in dots {
                hasher.update(&actor.0.to_be_bytes()).update(&stamp.0.to_be_bytes());
            }
        }
        // Keys and rounds have different lengths in front of them: no list of one is one of the other.
        hasher.update(&u64::MAX.to_be_bytes());
        for RoundId { epoch, nonce, listed } in &after {
            hasher.update(&epoch.0.to_be_bytes()).update(&nonce.to_be_bytes()).update(&listed.0);
        }
        let mut hash = [0; 16];
        hash.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self { id: RoundId { epoch, nonce, listed: Digest(hash) }, listed, after }
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> RoundId {
        self.id
    }

    /// What it lists.
    #[must_use]
    pub fn listed(&self) -> &[Listed] {
        &self.listed
    }

    /// The rounds that all owners had dropped when it began.
    #[must_use]
    pub fn after(&self) -> &[RoundId] {
        &self.after
    }
}

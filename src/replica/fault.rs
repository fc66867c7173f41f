//! Why a replica did not do what it was asked. None of these is a vote.

use thiserror::Error;

use super::Bar;
use crate::collect::TooOld;
use crate::storage::StorageError;
use crate::transport::messages::Refusal;

/// Why a replica did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Fault {
    /// What is stored cannot be read; the key is quarantined.
    #[error("what is stored here cannot be read; it is being fetched from the other owners")]
    Damaged,
    /// The partition is not completely synced.
    #[error("this replica has not yet merged the state of every other owner")]
    Syncing,
    /// A commit failed: nothing of it is readable, nothing is written until a restart. Whether what was under way will
    /// be there then is unknown.
    #[error("the disk failed, this node is read-only until it is started again: {0}")]
    ReadOnly(String),
    /// The disk is filled up to its reserve, and this would bring a new value. Nothing was done.
    #[error("this node's disk is filled up to what it keeps back for deletes: it takes no new values")]
    NoRoom,
    /// As many bytes of hints wait here as may, and this one would be owed. Nothing was done.
    #[error(
        "as many hints wait on this node as may (`node.hints.max_bytes`): it stands in for nobody until some are replayed"
    )]
    HintsFull,
    /// A hint that is kept here cannot be read, or a later version left it: it may be owed. Nothing was done.
    #[error(
        "what this node keeps there for an owner cannot be read, or a later version of Quorate left it: nothing is put in its \
         place"
    )]
    HintUnreadable,
    /// The queue of the partition's storage thread is full. Nothing was done.
    #[error("too many operations wait for the disk")]
    Overloaded,
    /// The node is stopping. Nothing was done.
    #[error("the node is stopping")]
    Stopping,
    /// No dot may be minted here now, and why. Nothing was done.
    #[error("this node coordinates no writes: {0}")]
    Barred(Bar),
    /// What was sent was read before something was collected here. Nothing was done: read again, and send that.
    #[error(transparent)]
    TooOld(#[from] TooOld),
    /// The deadline was over before anything was minted. Nothing was done.
    #[error("the deadline passed before the write was begun")]
    TooLate,
    /// The record is damaged.
    #[error("the record cannot be decoded: {0}")]
    Malformed(String),
    /// The context, or the object, names the last stamp there is: nothing can follow it.
    #[error("no stamp is left after those of the context: it is forged, or a clock was set to the end of time")]
    EndOfTime,
    /// The Idempotency-Key came with another request before.
    #[error("the Idempotency-Key was used for another request")]
    IdempotencyReused,
    /// The object has as many siblings as it may have.
    #[error("the object has {siblings} siblings, the most it may have")]
    TooManySiblings {
        /// How many it has.
        siblings: usize,
    },
    /// The object would be larger than it may be.
    #[error("the object would have {bytes} bytes, more than the {most} it may have")]
    ObjectTooLarge {
        /// How large it would be.
        bytes: usize,
        /// How large it may be.
        most: usize,
    },
}

impl Fault {
    /// The refusal that says this to a peer.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Damaged | Self::HintUnreadable => Refusal::Damaged,
            Self::Syncing => Refusal::Syncing,
            Self::ReadOnly(_) => Refusal::ReadOnly,
            Self::NoRoom => Refusal::NoRoom,
            Self::HintsFull => Refusal::HintsFull,
            Self::Overloaded => Refusal::Overloaded,
            Self::Stopping => Refusal::Stopping,
            Self::Barred(_) => Refusal::ClockDrift,
            Self::TooLate => Refusal::TooLate,
            Self::TooOld(_) => Refusal::Sealed,
            Self::Malformed(_)
            | Self::EndOfTime
            | Self::IdempotencyReused
            | Self::TooManySiblings { .. }
            | Self::ObjectTooLarge { .. } => Refusal::Malformed,
        }
    }
}

impl From<StorageError> for Fault {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Corrupt { .. } => Self::Damaged,
            other => Self::ReadOnly(other.to_string()),
        }
    }
}

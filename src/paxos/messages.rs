//! What passes between proposers and acceptors, as plain values.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

use crate::types::{NodeId, StoreId};

/// Which decision: for the chain, the hash of the layout whose successor is sought.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DecisionId(pub [u8; 32]);

impl fmt::Debug for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DecisionId(")?;
        self.0.iter().take(8).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("..)")
    }
}

/// An attempt to decide. Ordered by round first; the rest makes it nobody else's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ballot {
    /// Raised above every ballot that got in the way.
    pub round: u64,
    /// Whose attempt.
    pub node: NodeId,
    /// Random bits drawn for the proposal. Without them a node that crashed could begin again at the same round, with
    /// another value: two values under one ballot, and two decisions (`tests/models/paxos.rs`).
    pub proposal: u64,
}

/// The name of a value: BLAKE3 of its bytes, so for a layout its own hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueHash(pub [u8; 32]);

impl fmt::Display for ValueHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ValueHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ValueHash({self})")
    }
}

/// What can be decided: opaque bytes and their hash.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    hash: ValueHash,
    bytes: Bytes,
}

impl Value {
    /// A value of these bytes.
    #[must_use]
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { hash: ValueHash(*blake3::hash(&bytes).as_bytes()), bytes }
    }

    /// Its name.
    #[must_use]
    pub const fn hash(&self) -> ValueHash {
        self.hash
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({:.8}, {} bytes)", self.hash.to_string(), self.bytes.len())
    }
}

/// "Take part in no ballot below this one, and tell what you accepted before it."
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prepare {
    /// Which decision.
    pub decision: DecisionId,
    /// Which attempt.
    pub ballot: Ballot,
}

/// "Accept this, unless you have promised a higher ballot."
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Accept {
    /// Which decision.
    pub decision: DecisionId,
    /// Which attempt.
    pub ballot: Ballot,
    /// The one value of that attempt.
    pub value: Value,
}

/// What a proposer asks of every acceptor.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Request {
    /// The first question.
    Prepare(Prepare),
    /// The second.
    Accept(Accept),
}

impl Request {
    /// Which decision it is about: where to find the acceptor for it.
    #[must_use]
    pub const fn decision(&self) -> DecisionId {
        match self {
            Self::Prepare(prepare) => prepare.decision,
            Self::Accept(accept) => accept.decision,
        }
    }

    /// The attempt it belongs to.
    #[must_use]
    pub const fn ballot(&self) -> Ballot {
        match self {
            Self::Prepare(prepare) => prepare.ballot,
            Self::Accept(accept) => accept.ballot,
        }
    }
}

/// What an acceptor accepted last.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Accepted {
    /// Under which ballot.
    pub ballot: Ballot,
    /// Which value.
    pub value: Value,
}

/// What an acceptor answers. All but refusals and what is decided was flushed before.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reply {
    /// It takes part in nothing below `ballot`.
    Promised {
        /// The ballot asked for.
        ballot: Ballot,
        /// What it has accepted so far.
        accepted: Option<Accepted>,
    },
    /// It has accepted.
    Accepted {
        /// The ballot asked for.
        ballot: Ballot,
        /// The value accepted.
        value: ValueHash,
        /// What it vouched for in the same flushed step; see [`super::Acceptor::receive`].
        attestation: Bytes,
    },
    /// It has promised a higher ballot.
    Refused {
        /// The ballot asked for.
        ballot: Ballot,
        /// The one promised: whoever tries again has to go above it.
        highest: Ballot,
    },
    /// It knows what was decided.
    Decided(Decided),
    /// It was asked about a decision that it is not the acceptor of.
    OtherDecision,
    /// Not an acceptor's word: what it proposed itself in that decision comes to nothing; see [`super::Recovery`].
    Renounced {
        /// The highest round that it knows of.
        highest: u64,
    },
}

/// A decision. Final: whoever holds one may tell it to anybody, and needs nothing flushed for that.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Decided {
    /// Which decision.
    pub decision: DecisionId,
    /// The one value.
    pub value: Value,
    /// What acceptors vouched for as they accepted it: of a majority at least, of more if more were heard of.
    pub attestations: BTreeMap<StoreId, Bytes>,
}

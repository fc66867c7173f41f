//! Gossip on the wire, and what of it is let in: `membership`'s messages as protobuf, their bounds checked.
//!
//! What is beyond a bound was not said by a node of any version: the whole message is refused, nothing of it is used.

use std::time::Duration;

use bytes::Bytes;
use prost::{Message, Oneof};
use thiserror::Error;

use crate::membership::{
    self, DELTA_MAX, ENTRIES_MAX, KNOWN_MAX, Life, NAME_MAX, Name, REMOVED_MAX, Scope, VALUE_MAX, ViewHash,
};
use crate::types::NodeId;

/// See [`Ask::Gossip`](super::Ask::Gossip).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Gossip {
    /// What is said.
    #[prost(oneof = "GossipAsk", tags = "1, 2")]
    pub ask: Option<GossipAsk>,
}

/// What opens an exchange, and what goes on with it.
#[derive(Clone, PartialEq, Eq, Oneof)]
pub enum GossipAsk {
    /// The hash of the asker's view, 16 bytes. Answered with [`GossipTell::Same`] or [`GossipTell::Digest`].
    #[prost(bytes = "bytes", tag = "1")]
    Hash(Bytes),
    /// The answer to a digest. Answered with [`GossipTell::Delta`].
    #[prost(message, tag = "2")]
    Push(Push),
}

/// See [`Tell::Gossiped`](super::Tell::Gossiped).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Gossiped {
    /// What is answered.
    #[prost(oneof = "GossipTell", tags = "1, 2, 3")]
    pub tell: Option<GossipTell>,
}

/// The answers.
#[derive(Clone, PartialEq, Eq, Oneof)]
pub enum GossipTell {
    /// Both know the same.
    #[prost(message, tag = "1")]
    Same(Same),
    /// How far the answering node's view goes.
    #[prost(message, tag = "2")]
    Digest(Digest),
    /// What the asker lacked.
    #[prost(message, tag = "3")]
    Delta(Delta),
}

/// See [`GossipTell::Same`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Same {}

/// How far somebody's knowledge of a node goes.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Known {
    /// The node, 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub node: Bytes,
    /// The life known of: its generation.
    #[prost(uint64, tag = "2")]
    pub generation: u64,
    /// The life's random bits.
    #[prost(fixed64, tag = "3")]
    pub boot: u64,
    /// All changes up to this one are known.
    #[prost(uint64, tag = "4")]
    pub version: u64,
}

/// See [`GossipTell::Digest`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Digest {
    /// Those that are known.
    #[prost(message, repeated, tag = "1")]
    pub known: Vec<Known>,
    /// It speaks of the nodes from this one on; of all, where there is none.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub first: Option<Bytes>,
    /// Up to this one.
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub last: Option<Bytes>,
    /// Stands for the set of removed ids, 16 bytes.
    #[prost(bytes = "bytes", tag = "4")]
    pub removed: Bytes,
}

/// One value of a node.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Entry {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Opaque bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
    /// Counts the owner's changes.
    #[prost(uint64, tag = "3")]
    pub version: u64,
}

/// Changes of one node's state.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NodeDelta {
    /// The node, 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub node: Bytes,
    /// The life that they are of: its generation.
    #[prost(uint64, tag = "2")]
    pub generation: u64,
    /// The life's random bits.
    #[prost(fixed64, tag = "3")]
    pub boot: u64,
    /// They follow on this change.
    #[prost(uint64, tag = "4")]
    pub base: u64,
    /// How long ago the node last gave a sign, in milliseconds.
    #[prost(uint64, tag = "5")]
    pub age_ms: u64,
    /// The changes, ascending by version.
    #[prost(message, repeated, tag = "6")]
    pub entries: Vec<Entry>,
}

/// See [`GossipTell::Delta`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Delta {
    /// Changes, each node once.
    #[prost(message, repeated, tag = "1")]
    pub nodes: Vec<NodeDelta>,
    /// Ids of removed nodes, 16 bytes each.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub removed: Vec<Bytes>,
}

/// See [`GossipAsk::Push`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Push {
    /// What the sender of the digest lacks.
    #[prost(message, required, tag = "1")]
    pub delta: Delta,
    /// Of whom it knows more, and how far the knowledge here goes.
    #[prost(message, repeated, tag = "2")]
    pub wants: Vec<Known>,
    /// Stands for the set of removed ids here, 16 bytes.
    #[prost(bytes = "bytes", tag = "3")]
    pub removed: Bytes,
}

/// Why a gossip message is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum BadGossip {
    /// Something that has 16 bytes has not.
    #[error("an id or a hash has {0} bytes, not 16")]
    Sixteen(usize),
    /// A scope with one end.
    #[error("a digest names one end of what it speaks of")]
    HalfAScope,
    /// More of something than there may be.
    #[error("too many {what}: {got}, at most {most}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        got: usize,
        /// How many there may be.
        most: usize,
    },
    /// A name is empty or too long.
    #[error("the name of a value has 1 to {NAME_MAX} bytes, got {0}")]
    Name(usize),
    /// Nothing is said, or what a newer node says.
    #[error("nothing that is known is said")]
    Nothing,
}

fn bits(bytes: &Bytes) -> Result<u128, BadGossip> {
    bytes.as_ref().try_into().map(u128::from_be_bytes).map_err(|_| BadGossip::Sixteen(bytes.len()))
}

fn node(bytes: &Bytes) -> Result<NodeId, BadGossip> {
    bits(bytes).map(NodeId::from_bits)
}

fn sixteen(bits: u128) -> Bytes {
    Bytes::copy_from_slice(&bits.to_be_bytes())
}

fn id(node: NodeId) -> Bytes {
    Bytes::copy_from_slice(node.as_bytes())
}

const fn at_most(what: &'static str, got: usize, most: usize) -> Result<(), BadGossip> {
    if got > most { Err(BadGossip::TooMany { what, got, most }) } else { Ok(()) }
}

impl From<ViewHash> for Gossip {
    fn from(hash: ViewHash) -> Self {
        Self { ask: Some(GossipAsk::Hash(Bytes::copy_from_slice(&hash.0))) }
    }
}

impl From<&membership::Push> for Gossip {
    fn from(push: &membership::Push) -> Self {
        let wants = push.wants.iter().map(Known::from).collect();
        let push = Push { delta: (&push.delta).into(), wants, removed: sixteen(push.removed) };
        Self { ask: Some(GossipAsk::Push(push)) }
    }
}

impl From<Option<&membership::Digest>> for Gossiped {
    fn from(digest: Option<&membership::Digest>) -> Self {
        let tell = digest.map_or(GossipTell::Same(Same {}), |digest| {
            let (first, last) = match digest.scope {
                Scope::All => (None, None),
                Scope::Arc(first, last) => (Some(id(first)), Some(id(last))),
            };
            let known = digest.known.iter().map(Known::from).collect();
            GossipTell::Digest(Digest { known, first, last, removed: sixteen(digest.removed) })
        });
        Self { tell: Some(tell) }
    }
}

impl From<&membership::Delta> for Gossiped {
    fn from(delta: &membership::Delta) -> Self {
        Self { tell: Some(GossipTell::Delta(delta.into())) }
    }
}

impl From<&membership::Known> for Known {
    fn from(known: &membership::Known) -> Self {
        let Life { generation, boot } = known.life;
        Self { node: id(known.node), generation, boot, version: known.version }
    }
}

impl From<&membership::Delta> for Delta {
    fn from(delta: &membership::Delta) -> Self {
        let entry = |entry: &membership::Entry| Entry {
            name: entry.name.as_str().to_owned(),
            value: entry.value.clone(),
            version: entry.version,
        };
        let nodes = delta.nodes.iter().map(|node| NodeDelta {
            node: id(node.node),
            generation: node.life.generation,
            boot: node.life.boot,
            base: node.base,
            age_ms: u64::try_from(node.age.as_millis()).unwrap_or(u64::MAX),
            entries: node.entries.iter().map(entry).collect(),
        });
        Self { nodes: nodes.collect(), removed: delta.removed.iter().map(|node| id(*node)).collect() }
    }
}

/// The hash that opens an exchange.
pub fn hash(bytes: &Bytes) -> Result<ViewHash, BadGossip> {
    bits(bytes).map(|bits| ViewHash(bits.to_be_bytes()))
}

impl TryFrom<&Known> for membership::Known {
    type Error = BadGossip;

    fn try_from(known: &Known) -> Result<Self, BadGossip> {
        let life = Life { generation: known.generation, boot: known.boot };
        Ok(Self { node: node(&known.node)?, life, version: known.version })
    }
}

impl TryFrom<&Digest> for membership::Digest {
    type Error = BadGossip;

    fn try_from(digest: &Digest) -> Result<Self, BadGossip> {
        at_most("nodes in a digest", digest.known.len(), KNOWN_MAX)?;
        let scope = match (&digest.first, &digest.last) {
            (None, None) => Scope::All,
            (Some(first), Some(last)) => Scope::Arc(node(first)?, node(last)?),
            _ => return Err(BadGossip::HalfAScope),
        };
        let known = digest.known.iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        Ok(Self { scope, known, removed: bits(&digest.removed)? })
    }
}

impl TryFrom<&Push> for membership::Push {
    type Error = BadGossip;

    fn try_from(push: &Push) -> Result<Self, BadGossip> {
        at_most("nodes asked for", push.wants.len(), KNOWN_MAX)?;
        let wants = push.wants.iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        Ok(Self { delta: (&push.delta).try_into()?, wants, removed: bits(&push.removed)? })
    }
}

impl TryFrom<&Delta> for membership::Delta {
    type Error = BadGossip;

    fn try_from(delta: &Delta) -> Result<Self, BadGossip> {
        at_most("removed ids", delta.removed.len(), REMOVED_MAX)?;
        let nodes = delta.nodes.iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        let removed = delta.removed.iter().map(node).collect::<Result<_, _>>()?;
        let delta = Self { nodes, removed };
        at_most("bytes in a delta", delta.weight(), DELTA_MAX)?;
        Ok(delta)
    }
}

impl TryFrom<&NodeDelta> for membership::NodeDelta {
    type Error = BadGossip;

    fn try_from(delta: &NodeDelta) -> Result<Self, BadGossip> {
        at_most("values of a node", delta.entries.len(), ENTRIES_MAX)?;
        let entry = |entry: &Entry| {
            at_most("bytes in a value", entry.value.len(), VALUE_MAX)?;
            let name = Name::new(&entry.name).map_err(|invalid| BadGossip::Name(invalid.0))?;
            Ok(membership::Entry { name, value: entry.value.clone(), version: entry.version })
        };
        Ok(Self {
            node: node(&delta.node)?,
            life: Life { generation: delta.generation, boot: delta.boot },
            base: delta.base,
            age: Duration::from_millis(delta.age_ms),
            entries: delta.entries.iter().map(entry).collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
#[path = "gossip_tests.rs"]
mod tests;

//! Messages about layouts: the chain and how far everybody follows it, the decision on the next one, what is held.
//!
//! Chains, trackers and decisions travel in `ring`'s and `paxos`' own encodings where those have one, since they are
//! checked whole when they are read.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::{Message, Oneof};
use thiserror::Error;

use crate::paxos;
use crate::types::{NodeId, StoreId};

/// See [`super::Ask::Layouts`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Layouts {
    /// The newest layout the asker knows: what follows it is wanted.
    #[prost(uint64, tag = "1")]
    pub since: u64,
}

/// See [`super::Tell::Layouts`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LayoutsTold {
    /// The chain, from what the asker knows on (`ring`'s encoding); none where there is no cluster yet.
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub chain: Option<Bytes>,
    /// How far each member follows it, as far as was heard.
    #[prost(message, repeated, tag = "2")]
    pub trackers: Vec<TrackerOf>,
}

/// How far one member follows the chain.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TrackerOf {
    /// The member's store id.
    #[prost(bytes = "bytes", tag = "1")]
    pub store: Bytes,
    /// Its tracker (`ring`'s encoding).
    #[prost(bytes = "bytes", tag = "2")]
    pub tracker: Bytes,
}

/// See [`super::Ask::ListDigests`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ListDigests {
    /// The partition.
    #[prost(uint32, tag = "1")]
    pub partition: u32,
    /// Go on after this stored key; empty from the start.
    #[prost(bytes = "bytes", tag = "2")]
    pub after: Bytes,
    /// Up to this stored key, itself included; empty up to the end.
    #[prost(bytes = "bytes", tag = "3")]
    pub to: Bytes,
    /// Most entries.
    #[prost(uint32, tag = "4")]
    pub most: u32,
}

/// See [`super::Tell::Digests`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Digests {
    /// Stored keys and digests, in order of the keys.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<DigestOf>,
    /// Where the next list goes on; none: this was the last.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub next: Option<Bytes>,
}

/// One object's digest.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DigestOf {
    /// Its stored key.
    #[prost(bytes = "bytes", tag = "1")]
    pub stored: Bytes,
    /// The digest.
    #[prost(bytes = "bytes", tag = "2")]
    pub digest: Bytes,
}

/// See [`super::Ask::Decide`]: what a proposer asks of an acceptor.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Decide {
    /// Which decision: the hash of the layout whose successor is sought.
    #[prost(bytes = "bytes", tag = "1")]
    pub decision: Bytes,
    /// Which attempt.
    #[prost(message, required, tag = "2")]
    pub ballot: Ballot,
    /// The value to accept; none: promise.
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub value: Option<Bytes>,
}

/// See [`super::Ask::Renounce`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Renounce {
    /// Which decision: the hash of the layout whose successor is sought.
    #[prost(bytes = "bytes", tag = "1")]
    pub decision: Bytes,
}

/// An attempt.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Ballot {
    /// Its round.
    #[prost(uint64, tag = "1")]
    pub round: u64,
    /// Whose it is.
    #[prost(bytes = "bytes", tag = "2")]
    pub node: Bytes,
    /// Drawn for it.
    #[prost(fixed64, tag = "3")]
    pub proposal: u64,
}

/// See [`super::Tell::Decided`]: what an acceptor answers.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Decided {
    /// What it answers.
    #[prost(oneof = "Voice", tags = "1, 2, 3, 4, 5, 6")]
    pub voice: Option<Voice>,
}

/// What an acceptor answers.
#[derive(Clone, PartialEq, Eq, Oneof)]
pub enum Voice {
    /// It takes part in nothing lower.
    #[prost(message, tag = "1")]
    Promised(Promised),
    /// It has accepted.
    #[prost(message, tag = "2")]
    Accepted(Accepted),
    /// It has promised a higher attempt.
    #[prost(message, tag = "3")]
    Refused(Refused),
    /// It knows what was decided.
    #[prost(message, tag = "4")]
    Known(Known),
    /// It does not decide that, or does not know that layout.
    #[prost(message, tag = "5")]
    Other(Other),
    /// To [`super::Ask::Renounce`]: nothing that it proposed in that decision counts any more.
    #[prost(message, tag = "6")]
    Renounced(Renounced),
}

/// What was proposed is given up.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Renounced {
    /// The highest round it knows of.
    #[prost(uint64, tag = "1")]
    pub highest: u64,
}

/// A promise.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Promised {
    /// The attempt asked for.
    #[prost(message, required, tag = "1")]
    pub ballot: Ballot,
    /// The attempt whose value was accepted before, if there was one.
    #[prost(message, optional, tag = "2")]
    pub accepted: Option<Ballot>,
    /// That value.
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub value: Option<Bytes>,
}

/// An acceptance.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Accepted {
    /// The attempt asked for.
    #[prost(message, required, tag = "1")]
    pub ballot: Ballot,
    /// The hash of the value accepted.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
    /// What the acceptor vouched for.
    #[prost(bytes = "bytes", tag = "3")]
    pub attestation: Bytes,
}

/// A refusal.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Refused {
    /// The attempt asked for.
    #[prost(message, required, tag = "1")]
    pub ballot: Ballot,
    /// The one promised.
    #[prost(message, required, tag = "2")]
    pub highest: Ballot,
}

/// What was decided.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Known {
    /// The value.
    #[prost(bytes = "bytes", tag = "1")]
    pub value: Bytes,
}

/// Not this acceptor's decision.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Other {}

/// Why a message about a decision means nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("a message about a decision that makes no sense: {0}")]
pub struct BadDecide(&'static str);

impl From<&paxos::Ballot> for Ballot {
    fn from(ballot: &paxos::Ballot) -> Self {
        let paxos::Ballot { round, node, proposal } = *ballot;
        Self { round, node: Bytes::copy_from_slice(node.as_bytes()), proposal }
    }
}

impl TryFrom<&Ballot> for paxos::Ballot {
    type Error = BadDecide;

    fn try_from(ballot: &Ballot) -> Result<Self, BadDecide> {
        let node = NodeId::from_slice(&ballot.node).ok_or(BadDecide("a node id has 16 bytes"))?;
        Ok(Self { round: ballot.round, node, proposal: ballot.proposal })
    }
}

fn hash(bytes: &Bytes) -> Result<[u8; 32], BadDecide> {
    bytes.as_ref().try_into().map_err(|_| BadDecide("a hash has 32 bytes"))
}

impl From<&paxos::Request> for Decide {
    fn from(request: &paxos::Request) -> Self {
        let decision = Bytes::copy_from_slice(&request.decision().0);
        let value = match request {
            paxos::Request::Prepare(_) => None,
            paxos::Request::Accept(accept) => Some(accept.value.bytes().clone()),
        };
        Self { decision, ballot: (&request.ballot()).into(), value }
    }
}

impl TryFrom<&Decide> for paxos::Request {
    type Error = BadDecide;

    fn try_from(decide: &Decide) -> Result<Self, BadDecide> {
        let decision = paxos::DecisionId(hash(&decide.decision)?);
        let ballot = (&decide.ballot).try_into()?;
        Ok(match &decide.value {
            None => Self::Prepare(paxos::Prepare { decision, ballot }),
            Some(value) => Self::Accept(paxos::Accept { decision, ballot, value: paxos::Value::new(value.clone()) }),
        })
    }
}

impl From<&paxos::Reply> for Decided {
    fn from(reply: &paxos::Reply) -> Self {
        let voice = match reply {
            paxos::Reply::Promised { ballot, accepted } => Voice::Promised(Promised {
                ballot: ballot.into(),
                accepted: accepted.as_ref().map(|accepted| (&accepted.ballot).into()),
                value: accepted.as_ref().map(|accepted| accepted.value.bytes().clone()),
            }),
            paxos::Reply::Accepted { ballot, value, attestation } => Voice::Accepted(Accepted {
                ballot: ballot.into(),
                value: Bytes::copy_from_slice(&value.0),
                attestation: attestation.clone(),
            }),
            paxos::Reply::Refused { ballot, highest } => {
                Voice::Refused(Refused { ballot: ballot.into(), highest: highest.into() })
            }
            paxos::Reply::Decided(decided) => Voice::Known(Known { value: decided.value.bytes().clone() }),
            paxos::Reply::OtherDecision => Voice::Other(Other {}),
            paxos::Reply::Renounced { highest } => Voice::Renounced(Renounced { highest: *highest }),
        };
        Self { voice: Some(voice) }
    }
}

impl Decided {
    /// The reply it carries; `decision` is what was asked about.
    pub fn reply(&self, decision: paxos::DecisionId) -> Result<paxos::Reply, BadDecide> {
        Ok(match &self.voice {
            Some(Voice::Promised(promised)) => {
                let accepted = match (&promised.accepted, &promised.value) {
                    (None, None) => None,
                    (Some(ballot), Some(value)) => {
                        let value = paxos::Value::new(value.clone());
                        Some(paxos::Accepted { ballot: ballot.try_into()?, value })
                    }
                    _ => return Err(BadDecide("an accepted value comes with its ballot")),
                };
                paxos::Reply::Promised { ballot: (&promised.ballot).try_into()?, accepted }
            }
            Some(Voice::Accepted(accepted)) => paxos::Reply::Accepted {
                ballot: (&accepted.ballot).try_into()?,
                value: paxos::ValueHash(hash(&accepted.value)?),
                attestation: accepted.attestation.clone(),
            },
            Some(Voice::Refused(refused)) => {
                paxos::Reply::Refused { ballot: (&refused.ballot).try_into()?, highest: (&refused.highest).try_into()? }
            }
            Some(Voice::Known(known)) => paxos::Reply::Decided(paxos::Decided {
                decision,
                value: paxos::Value::new(known.value.clone()),
                attestations: BTreeMap::new(),
            }),
            Some(Voice::Other(_)) => paxos::Reply::OtherDecision,
            Some(Voice::Renounced(renounced)) => paxos::Reply::Renounced { highest: renounced.highest },
            None => return Err(BadDecide("it says nothing")),
        })
    }
}

impl TrackerOf {
    /// The tracker of a store.
    #[must_use]
    pub fn new(store: StoreId, tracker: Bytes) -> Self {
        Self { store: Bytes::copy_from_slice(store.as_bytes()), tracker }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ballot() -> impl Strategy<Value = paxos::Ballot> {
        (any::<u64>(), any::<u128>(), any::<u64>()).prop_map(|(round, node, proposal)| paxos::Ballot {
            round,
            node: NodeId::from_bits(node),
            proposal,
        })
    }

    fn value() -> impl Strategy<Value = paxos::Value> {
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(paxos::Value::new)
    }

    fn reply() -> impl Strategy<Value = paxos::Reply> {
        let accepted = (ballot(), value()).prop_map(|(ballot, value)| paxos::Accepted { ballot, value });
        prop_oneof![
            (ballot(), proptest::option::of(accepted))
                .prop_map(|(ballot, accepted)| paxos::Reply::Promised { ballot, accepted }),
            (ballot(), value(), proptest::collection::vec(any::<u8>(), 0..9)).prop_map(|(ballot, value, vouched)| {
                paxos::Reply::Accepted { ballot, value: value.hash(), attestation: vouched.into() }
            }),
            (ballot(), ballot()).prop_map(|(ballot, highest)| paxos::Reply::Refused { ballot, highest }),
            value().prop_map(|value| {
                let decision = paxos::DecisionId([7; 32]);
                paxos::Reply::Decided(paxos::Decided { decision, value, attestations: BTreeMap::new() })
            }),
            Just(paxos::Reply::OtherDecision),
            any::<u64>().prop_map(|highest| paxos::Reply::Renounced { highest }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_asked_and_answered_arrives(decision in any::<[u8; 32]>(), ballot in ballot(), value in value(), reply in reply()) {
            let decision = paxos::DecisionId(decision);
            for request in [
                paxos::Request::Prepare(paxos::Prepare { decision, ballot }),
                paxos::Request::Accept(paxos::Accept { decision, ballot, value }),
            ] {
                let sent = Decide::decode(&Decide::from(&request).encode_to_vec()[..]).unwrap();
                prop_assert_eq!(paxos::Request::try_from(&sent), Ok(request));
            }
            let sent = Decided::decode(&Decided::from(&reply).encode_to_vec()[..]).unwrap();
            prop_assert_eq!(sent.reply(paxos::DecisionId([7; 32])), Ok(reply));
        }
    }
}

//! Rounds of the collection of tombstones on the wire ([`crate::collect`]).

use bytes::Bytes;
use prost::Message;

use crate::causality::Dot;
use crate::collect::{Epoch, Listed, Round, RoundId, Stage, Status};
use crate::types::{ActorId, Digest, Stamp};

/// See [`super::Ask::Collect`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Collect {
    /// The partition.
    #[prost(uint32, tag = "1")]
    pub partition: u32,
    /// The greatest epoch that any owner has sealed, as far as the driver knows: whoever is behind it has forgotten a mark.
    #[prost(uint64, tag = "2")]
    pub sealed: u64,
    /// What is to be done.
    #[prost(enumeration = "CollectStep", tag = "3")]
    pub step: i32,
    /// The round; none where it is only asked.
    #[prost(message, optional, tag = "4")]
    pub round: Option<RoundName>,
    /// What it lists, to be marked.
    #[prost(message, repeated, tag = "5")]
    pub listed: Vec<ListedKey>,
    /// The rounds that all owners had dropped when it began, to be marked.
    #[prost(message, repeated, tag = "6")]
    pub after: Vec<RoundName>,
    /// To be forgotten: the driver gave it up before all had marked it. Who has sealed it knows better.
    #[prost(bool, tag = "7")]
    pub given_up: bool,
}

/// A step of a round.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, prost::Enumeration)]
#[repr(i32)]
pub enum CollectStep {
    /// None: how far are you?
    Ask = 0,
    /// Mark what is listed.
    Mark = 1,
    /// Hold no hint that was read before, and take none.
    Drain = 2,
    /// Seal what was marked.
    Seal = 3,
    /// Drop what was sealed.
    Drop = 4,
    /// Forget what was not dropped by anybody, and cannot be.
    Forget = 5,
}

/// A round's name.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RoundName {
    /// Its epoch.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// Random bits.
    #[prost(fixed64, tag = "2")]
    pub nonce: u64,
    /// The hash of what it lists.
    #[prost(bytes = "bytes", tag = "3")]
    pub hash: Bytes,
}

/// An object that is nothing but deletions.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ListedKey {
    /// Its stored key.
    #[prost(bytes = "bytes", tag = "1")]
    pub stored: Bytes,
    /// Its digest.
    #[prost(bytes = "bytes", tag = "2")]
    pub digest: Bytes,
    /// The actor of each deletion.
    #[prost(fixed64, repeated, tag = "3")]
    pub actors: Vec<u64>,
    /// The stamp of each.
    #[prost(fixed64, repeated, tag = "4")]
    pub stamps: Vec<u64>,
}

/// See [`super::Tell::Collected`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Collected {
    /// Whether the step is done, by now or before.
    #[prost(bool, tag = "1")]
    pub done: bool,
    /// Why not, for people.
    #[prost(string, tag = "2")]
    pub detail: String,
    /// The partition's epoch.
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    /// The first epoch whose states are taken.
    #[prost(uint64, tag = "4")]
    pub sealed: u64,
    /// The rounds held.
    #[prost(message, repeated, tag = "5")]
    pub rounds: Vec<RoundAt>,
    /// Listed keys under which something else is held: the round was not marked.
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub differs: Vec<Bytes>,
    /// Something is left here of the partition, which this node does not own.
    #[prost(bool, tag = "7")]
    pub leftover: bool,
    /// States are kept here for owners of the partition, of which this node is none.
    #[prost(bool, tag = "8")]
    pub keeps: bool,
    /// It owns the partition and has no vote there: what it held, or holds, is in doubt.
    #[prost(bool, tag = "9")]
    pub syncing: bool,
    /// It has forgotten a mark of what the driver says is sealed.
    #[prost(bool, tag = "10")]
    pub behind: bool,
}

/// How far a round is.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RoundAt {
    /// The round.
    #[prost(message, required, tag = "1")]
    pub round: RoundName,
    /// 0 marked, 1 sealed, 2 dropped.
    #[prost(uint32, tag = "2")]
    pub stage: u32,
}

impl From<RoundId> for RoundName {
    fn from(id: RoundId) -> Self {
        Self { epoch: id.epoch.0, nonce: id.nonce, hash: Bytes::copy_from_slice(&id.listed.0) }
    }
}

impl RoundName {
    /// What it names; none where it names nothing.
    #[must_use]
    pub fn id(&self) -> Option<RoundId> {
        Some(RoundId { epoch: Epoch(self.epoch), nonce: self.nonce, listed: Digest::from_slice(&self.hash)? })
    }
}

impl From<&Listed> for ListedKey {
    fn from(listed: &Listed) -> Self {
        Self {
            stored: listed.stored.clone(),
            digest: Bytes::copy_from_slice(&listed.digest.0),
            actors: listed.dots.iter().map(|dot| dot.actor.0).collect(),
            stamps: listed.dots.iter().map(|dot| dot.stamp.0).collect(),
        }
    }
}

impl ListedKey {
    fn read(self) -> Option<Listed> {
        let Self { stored, digest, actors, stamps } = self;
        if actors.len() != stamps.len() {
            return None;
        }
        let dot = |(actor, stamp)| Dot::new(ActorId(actor), Stamp(stamp));
        let dots = actors.into_iter().zip(stamps).map(dot).collect();
        Some(Listed { stored, digest: Digest::from_slice(&digest)?, dots })
    }
}

impl Collect {
    /// The question how far an owner is.
    #[must_use]
    pub fn ask(partition: u32, sealed: Epoch) -> Self {
        Self { partition, sealed: sealed.0, ..Self::default() }
    }

    /// A step of a round that has been marked.
    #[must_use]
    pub fn of_round(partition: u32, sealed: Epoch, step: CollectStep, id: RoundId) -> Self {
        Self { step: step.into(), round: Some(id.into()), ..Self::ask(partition, sealed) }
    }

    /// To mark a round.
    #[must_use]
    pub fn mark(partition: u32, sealed: Epoch, round: &Round) -> Self {
        Self {
            listed: round.listed().iter().map(ListedKey::from).collect(),
            after: round.after().iter().map(|id| RoundName::from(*id)).collect(),
            ..Self::of_round(partition, sealed, CollectStep::Mark, round.id())
        }
    }

    /// The round to be marked; none where it is not what its name says.
    #[must_use]
    pub fn round(self) -> Option<Round> {
        let id = self.round?.id()?;
        let listed = self.listed.into_iter().map(ListedKey::read).collect::<Option<_>>()?;
        let after = self.after.iter().map(RoundName::id).collect::<Option<_>>()?;
        Some(Round::new(id.epoch, id.nonce, listed, after)).filter(|round| round.id() == id)
    }
}

impl Collected {
    /// What an owner says of itself.
    #[must_use]
    pub fn new(status: &Status) -> Self {
        let stage = |stage: Stage| match stage {
            Stage::Marked => 0,
            Stage::Sealed => 1,
            Stage::Dropped => 2,
        };
        let rounds = status.rounds.iter().map(|(id, at)| RoundAt { round: (*id).into(), stage: stage(*at) });
        Self { epoch: status.epoch.0, sealed: status.sealed.0, rounds: rounds.collect(), ..Self::default() }
    }

    /// The same, read; none where it makes no sense.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        let stage = |stage| match stage {
            0 => Some(Stage::Marked),
            1 => Some(Stage::Sealed),
            2 => Some(Stage::Dropped),
            _ => None,
        };
        let rounds = self.rounds.iter().map(|at| Some((at.round.id()?, stage(at.stage)?))).collect::<Option<_>>()?;
        Some(Status { epoch: Epoch(self.epoch), sealed: Epoch(self.sealed), rounds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round() -> Round {
        let before = Round::new(Epoch(1 << 32 | 1), 3, Vec::new(), Vec::new()).id();
        let dots = vec![Dot::new(ActorId(5), Stamp(6)), Dot::new(ActorId(7), Stamp(8))];
        let listed = Listed { stored: Bytes::from_static(b"k"), digest: Digest([9; 16]), dots };
        Round::new(Epoch(1 << 32 | 2), 4, vec![listed], vec![before])
    }

    #[test]
    fn a_round_is_read_as_it_was_sent_and_refused_where_its_name_is_another_ones() {
        let asked = Collect::mark(11, Epoch(12), &round());
        let read = Collect::decode(asked.encode_to_vec().as_slice()).unwrap();
        assert_eq!((read.partition, read.sealed, read.step()), (11, 12, CollectStep::Mark));
        assert_eq!(read.clone().round(), Some(round()));
        let other = Collect { listed: Vec::new(), ..read.clone() };
        assert_eq!(other.round(), None);
        let mut uneven = read;
        uneven.listed[0].stamps.pop();
        assert_eq!(uneven.round(), None);
    }

    #[test]
    fn a_status_is_read_as_it_was_sent() {
        let rounds = [(round().id(), Stage::Sealed)].into();
        let status = Status { epoch: Epoch(8), sealed: Epoch(7), rounds };
        let mut told = Collected::new(&status);
        assert_eq!(told.status(), Some(status));
        told.rounds[0].stage = 3;
        assert_eq!(told.status(), None);
    }

    /// What is sent today is read by whoever is older or newer.
    #[test]
    fn golden_bytes() {
        let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let id = RoundId { epoch: Epoch(300), nonce: 4, listed: Digest([9; 16]) };
        let name = "08ac02110400000000000000";
        let hash = format!("1a10{}", "09".repeat(16));
        let asked = Collect::of_round(11, Epoch(12), CollectStep::Seal, id);
        assert_eq!(hex(asked.encode_to_vec()), format!("080b100c1803221e{name}{hash}"));
        let dots = vec![Dot::new(ActorId(5), Stamp(6))];
        let listed = ListedKey::from(&Listed { stored: Bytes::from_static(b"k"), digest: Digest([8; 16]), dots });
        let says = format!("0a016b1210{}1a0805000000000000002208{}", "08".repeat(16), "0600000000000000");
        assert_eq!(hex(listed.encode_to_vec()), says);
        let told = Collected {
            done: true,
            leftover: true,
            rounds: vec![RoundAt { round: id.into(), stage: 2 }],
            epoch: 5,
            sealed: 6,
            ..Collected::default()
        };
        assert_eq!(hex(told.encode_to_vec()), format!("0801180520062a220a1e{name}{hash}10023801"));
    }
}

//! What an acceptor must not forget, and its bytes on disk.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use super::{Accepted, Ballot, Value};
use crate::types::NodeId;

const FORMAT: u8 = 1;
const PROMISED: u8 = 1;
const ACCEPTED: u8 = 2;
const ATTESTED: u8 = 4;

/// An acceptor's memory of one decision: flushed whole, read whole at a start.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Record {
    /// It takes part in nothing below this.
    pub promised: Option<Ballot>,
    /// What it accepted last.
    pub accepted: Option<Accepted>,
    /// What it vouched for when it first accepted anything.
    pub attestation: Option<Bytes>,
}

/// Why bytes are no record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum RecordError {
    /// Written by a newer version, or no record at all.
    #[error("unknown format {0} of a Paxos record")]
    Format(u8),
    /// Too short, too long, or of parts that do not go together.
    #[error("a malformed Paxos record")]
    Malformed,
}

impl Record {
    /// Format byte (1) | flags | per flag: promised ballot | accepted ballot, length (u32), value | length (u32),
    /// attestation. A ballot is round (u64), node (16 bytes), proposal (u64); integers are big endian.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(128);
        out.put_u8(FORMAT);
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        out.put_u8(
            flag(self.promised.is_some(), PROMISED)
                | flag(self.accepted.is_some(), ACCEPTED)
                | flag(self.attestation.is_some(), ATTESTED),
        );
        self.promised.iter().for_each(|ballot| put_ballot(&mut out, ballot));
        if let Some(accepted) = &self.accepted {
            put_ballot(&mut out, &accepted.ballot);
            put_bytes(&mut out, accepted.value.bytes());
        }
        self.attestation.iter().for_each(|attestation| put_bytes(&mut out, attestation));
        out.freeze()
    }

    /// Reads what [`Record::encode`] wrote. A damaged record is an error, never an empty one: an acceptor that takes
    /// itself for new breaks its promises.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut bytes = bytes;
        let format = bytes.try_get_u8().map_err(|_| RecordError::Malformed)?;
        if format != FORMAT {
            return Err(RecordError::Format(format));
        }
        read(&mut bytes).filter(|_| bytes.is_empty()).ok_or(RecordError::Malformed)
    }
}

fn read(bytes: &mut &[u8]) -> Option<Record> {
    let flags = bytes.try_get_u8().ok()?;
    let mut record = Record::default();
    if flags & !(PROMISED | ACCEPTED | ATTESTED) != 0 {
        return None;
    }
    if flags & PROMISED != 0 {
        record.promised = Some(ballot(bytes)?);
    }
    if flags & ACCEPTED != 0 {
        record.accepted = Some(Accepted { ballot: ballot(bytes)?, value: Value::new(block(bytes)?) });
    }
    if flags & ATTESTED != 0 {
        record.attestation = Some(block(bytes)?);
    }
    let accepted = record.accepted.as_ref().map(|accepted| accepted.ballot);
    // Accepting promises, and vouches; who begins anew has vouched before.
    let vouched = accepted.is_none() || record.attestation.is_some();
    (accepted <= record.promised && vouched).then_some(record)
}

fn put_ballot(out: &mut BytesMut, ballot: &Ballot) {
    out.put_u64(ballot.round);
    out.put_slice(ballot.node.as_bytes());
    out.put_u64(ballot.proposal);
}

fn put_bytes(out: &mut BytesMut, bytes: &Bytes) {
    // What comes over the wire, the only source of values, is far below 4 GiB.
    out.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.put_slice(bytes);
}

fn ballot(bytes: &mut &[u8]) -> Option<Ballot> {
    let round = bytes.try_get_u64().ok()?;
    let node = NodeId::from_slice(bytes.split_off(..16)?)?;
    Some(Ballot { round, node, proposal: bytes.try_get_u64().ok()? })
}

fn block(bytes: &mut &[u8]) -> Option<Bytes> {
    let length = usize::try_from(bytes.try_get_u32().ok()?).ok()?;
    Some(Bytes::copy_from_slice(bytes.split_off(..length)?))
}

//! The record: the bytes that an object is stored as, travels as, and is compared by.
//!
//! *Canonical*: equal objects are equal bytes, and decoding refuses whatever encoding would not have written. So one
//! hash of the record ([`digest_of_record`]) stands for the whole object in conditional reads, ETags and Merkle leaves
//! (I-CONVERGE), and a byte changed on the way never passes for another spelling of the same state.
//!
//! Layout, version 1. Integers are LEB128 in their shortest form unless a width is given; those are big endian.
//!
//! ```text
//! version      1 byte
//! horizon      0 nothing | 1 infinite | 2, then u64
//! context      count, then per actor, ascending: actor u64, stamp u64
//! siblings     count, then per sibling, by dot: which actor of the context, how far below that actor's stamp,
//!              count of payloads, then per payload, ascending: flags, written_at, expires_at?, content type?,
//!              meta?, length of the value?
//! recent       count, then per request, by (stamp, actor, id): actor u64, stamp u64, id, fingerprint (16 each)
//! values       the values' bytes, in order, to the end
//! ```
//!
//! A sibling that the context does not cover cannot be spelled. All values lie at the end: [`decode_head`] needs none
//! of them, and a decoded value is a slice of the record, not a copy. Decoding never panics and allocates in
//! proportion to the bytes it was given, never to a number it read.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use super::{Dot, Fingerprint, Horizon, Object, Payload, Recent, RecentRequests, RequestId, Sibling, VersionVector};
use crate::types::{ActorId, Digest, Stamp, Wall};

/// The version that is written, and the only one there is so far.
const VERSION: u8 = 1;

const HORIZON_NOTHING: u8 = 0;
const HORIZON_INFINITE: u8 = 1;
const HORIZON_AT: u8 = 2;

const HAS_VALUE: u8 = 1;
const HAS_CONTENT_TYPE: u8 = 2;
const HAS_META: u8 = 4;
const EXPIRES: u8 = 8;

/// Why bytes are no record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum RecordError {
    /// The bytes end before the record does.
    #[error("the record is cut short")]
    Truncated,
    /// Written by a later version, or no record at all.
    #[error("record version {0} is not known here")]
    UnknownVersion(u8),
    /// Nothing that is written here looks like this.
    #[error("the record is damaged: {0}")]
    Malformed(&'static str),
}

/// What a record says without its values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// See [`Horizon`].
    pub horizon: Horizon,
    /// All that the state has seen.
    pub context: VersionVector,
    /// The siblings, by dot.
    pub siblings: Vec<SiblingHead>,
}

/// What a record says about one sibling without its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SiblingHead {
    /// The write.
    pub dot: Dot,
    /// All it holds is a delete.
    pub is_tombstone: bool,
    /// When the last of its values has expired; none for never, and for a delete.
    pub expires_at: Option<Wall>,
}

impl SiblingHead {
    /// Whether it reads as a live value at `now`: [`Sibling::is_live`] without the value.
    #[must_use]
    pub fn is_live(&self, now: Wall) -> bool {
        !self.is_tombstone && self.expires_at.is_none_or(|at| at > now)
    }
}

impl Object {
    /// The digest of the whole object, context included: equal where the object is.
    #[must_use]
    pub fn digest(&self) -> Digest {
        digest_of_record(&encode_object(self))
    }
}

/// The digest of an object, from its record: the first 16 bytes of its BLAKE3 hash.
#[must_use]
pub fn digest_of_record(record: &[u8]) -> Digest {
    let mut digest = [0; 16];
    digest.copy_from_slice(&blake3::hash(record).as_bytes()[..16]);
    Digest(digest)
}

/// The record of `object`.
#[must_use]
pub fn encode_object(object: &Object) -> Bytes {
    let payloads = || object.siblings().iter().flat_map(|sibling| &sibling.payloads);
    let values = || payloads().filter_map(|payload| payload.value.as_ref());
    let body: usize = values().map(Bytes::len).sum();
    let mut out =
        BytesMut::with_capacity(body + 64 + 16 * object.context().len() + 48 * object.recent().as_slice().len());
    out.put_u8(VERSION);
    match object.horizon() {
        Horizon::NOTHING => out.put_u8(HORIZON_NOTHING),
        Horizon::INFINITE => out.put_u8(HORIZON_INFINITE),
        Horizon(at) => {
            out.put_u8(HORIZON_AT);
            out.put_u64(at);
        }
    }
    put_len(&mut out, object.context().len());
    object.context().iter().for_each(|dot| put_dot(&mut out, dot));
    put_len(&mut out, object.siblings().len());
    for sibling in object.siblings() {
        // Covered, by the invariant of `Object`: the entry is there, and not below the sibling's stamp.
        let at = object.context().position(sibling.dot.actor).unwrap_or_else(|at| at);
        let top = object.context().get(sibling.dot.actor).unwrap_or_default();
        put_len(&mut out, at);
        put_int(&mut out, top.0.saturating_sub(sibling.dot.stamp.0));
        put_len(&mut out, sibling.payloads.len());
        sibling.payloads.iter().for_each(|payload| put_payload_head(&mut out, payload));
    }
    put_len(&mut out, object.recent().as_slice().len());
    for recent in object.recent().as_slice() {
        put_dot(&mut out, recent.dot);
        out.put_slice(&recent.id.0);
        out.put_slice(&recent.fingerprint.0);
    }
    values().for_each(|value| out.put_slice(value));
    out.freeze()
}

/// The object of a record; its values are slices of it.
pub fn decode_object(record: Bytes) -> Result<Object, RecordError> {
    let mut input = Input(&record);
    let (horizon, context) = (input.version()?.horizon()?, input.context()?);
    let count = input.len()?;
    // Room for one of each, which is what there usually is: what the record claims may be a lie.
    let mut siblings: Vec<Sibling> = Vec::with_capacity(count.min(1));
    // Lengths first, values later: they lie at the end.
    let mut lengths = Vec::with_capacity(count.min(1));
    for _ in 0..count {
        let dot = input.sibling_dot(&context, siblings.last().map(|s| s.dot))?;
        let payload_count = input.payload_count()?;
        let mut payloads = Vec::with_capacity(payload_count.min(1));
        for _ in 0..payload_count {
            let (payload, length) = input.payload_head()?;
            payloads.push(payload);
            lengths.push(length);
        }
        siblings.push(Sibling { dot, payloads });
    }
    let recent = input.recent()?;
    let mut at = record.len() - input.0.len();
    let payloads = siblings.iter_mut().flat_map(|sibling| &mut sibling.payloads);
    for (payload, length) in payloads.zip(lengths) {
        let Some(length) = length else { continue };
        let end = usize::try_from(length).ok().and_then(|length| at.checked_add(length));
        let end = end.filter(|end| *end <= record.len()).ok_or(RecordError::Truncated)?;
        payload.value = Some(record.slice(at..end));
        at = end;
    }
    check(at == record.len(), "bytes follow its end")?;
    let ordered = siblings.iter().all(|s| s.payloads.is_sorted_by(|a, b| a < b));
    check(ordered, "payloads out of order")?;
    let nothing = siblings.is_empty() && recent.as_slice().is_empty() && horizon == Horizon::NOTHING;
    check(!context.is_empty() || nothing, "something of nothing seen")?;
    Ok(Object { context, siblings, horizon, recent })
}

/// What a record says without its values. Reads nothing behind the siblings' heads, so it does not notice damage there.
pub fn decode_head(record: &[u8]) -> Result<Head, RecordError> {
    let mut input = Input(record);
    let (horizon, context) = (input.version()?.horizon()?, input.context()?);
    let count = input.len()?;
    let mut siblings: Vec<SiblingHead> = Vec::new();
    for _ in 0..count {
        let dot = input.sibling_dot(&context, siblings.last().map(|s| s.dot))?;
        let (mut is_tombstone, mut never, mut last) = (true, false, None);
        for _ in 0..input.payload_count()? {
            let (payload, length) = input.payload_head()?;
            if length.is_some() {
                is_tombstone = false;
                never |= payload.expires_at.is_none();
                last = last.max(payload.expires_at);
            }
        }
        siblings.push(SiblingHead { dot, is_tombstone, expires_at: last.filter(|_| !never) });
    }
    Ok(Head { horizon, context, siblings })
}

/// The horizon in a record, by its first bytes alone; none where that is no record.
#[must_use]
pub fn horizon_of_record(record: &[u8]) -> Option<Horizon> {
    Input(record).version().ok()?.horizon().ok()
}

/// A version vector by itself, as peer messages carry it: version, then actor and stamp of each entry.
#[must_use]
pub fn encode_vector(vector: &VersionVector) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + 16 * vector.len());
    out.put_u8(VERSION);
    vector.iter().for_each(|dot| put_dot(&mut out, dot));
    out.freeze()
}

/// Reads what [`encode_vector`] wrote.
pub fn decode_vector(bytes: &[u8]) -> Result<VersionVector, RecordError> {
    let mut input = Input(bytes);
    input.version()?;
    decode_entries(input.0)
}

/// The entries of a vector, 16 bytes each, for whoever has a version byte around them already.
pub(super) fn encode_entries(vector: &VersionVector, out: &mut Vec<u8>) {
    vector.iter().for_each(|dot| put_dot(out, dot));
}

/// Reads what [`encode_entries`] wrote.
pub(super) fn decode_entries(bytes: &[u8]) -> Result<VersionVector, RecordError> {
    let mut input = Input(bytes);
    let vector = input.dots(bytes.len() / 16)?;
    if input.0.is_empty() { Ok(vector) } else { Err(RecordError::Truncated) }
}

fn put_int(out: &mut BytesMut, mut n: u64) {
    while n >= 0x80 {
        out.put_u8(n as u8 | 0x80);
        n >>= 7;
    }
    out.put_u8(n as u8);
}

fn put_len(out: &mut BytesMut, len: usize) {
    put_int(out, len as u64);
}

fn put_text(out: &mut BytesMut, text: &str) {
    put_len(out, text.len());
    out.put_slice(text.as_bytes());
}

fn put_dot(out: &mut impl BufMut, dot: Dot) {
    out.put_u64(dot.actor.0);
    out.put_u64(dot.stamp.0);
}

fn put_payload_head(out: &mut BytesMut, payload: &Payload) {
    let flag = |on: bool, bit: u8| if on { bit } else { 0 };
    out.put_u8(
        flag(payload.value.is_some(), HAS_VALUE)
            | flag(payload.content_type.is_some(), HAS_CONTENT_TYPE)
            | flag(!payload.meta.is_empty(), HAS_META)
            | flag(payload.expires_at.is_some(), EXPIRES),
    );
    put_int(out, payload.written_at.0);
    if let Some(at) = payload.expires_at {
        put_int(out, at.0);
    }
    if let Some(content_type) = &payload.content_type {
        put_text(out, content_type);
    }
    if !payload.meta.is_empty() {
        put_len(out, payload.meta.len());
        for (name, value) in &payload.meta {
            put_text(out, name);
            put_text(out, value);
        }
    }
    if let Some(value) = &payload.value {
        put_len(out, value.len());
    }
}

fn check(holds: bool, otherwise: &'static str) -> Result<(), RecordError> {
    if holds { Ok(()) } else { Err(RecordError::Malformed(otherwise)) }
}

/// What is left to read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], RecordError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(RecordError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(RecordError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, RecordError> {
        self.array().map(|[byte]| byte)
    }

    fn fixed(&mut self) -> Result<u64, RecordError> {
        self.array().map(u64::from_be_bytes)
    }

    fn int(&mut self) -> Result<u64, RecordError> {
        let mut n = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            check(bits << shift >> shift == bits, "a number past 64 bits")?;
            n |= bits << shift;
            if byte & 0x80 == 0 {
                check(byte != 0 || shift == 0, "a number longer than it need be")?;
                return Ok(n);
            }
        }
        Err(RecordError::Malformed("a number past 64 bits"))
    }

    /// A count of things of at least one byte each: more than there are bytes left is a lie.
    fn len(&mut self) -> Result<usize, RecordError> {
        let len = self.int()?;
        usize::try_from(len).ok().filter(|len| *len <= self.0.len()).ok_or(RecordError::Truncated)
    }

    fn text(&mut self) -> Result<String, RecordError> {
        let len = self.len()?;
        let text = std::str::from_utf8(self.take(len)?);
        text.map(str::to_owned).map_err(|_| RecordError::Malformed("a text that is no UTF-8"))
    }

    fn version(&mut self) -> Result<&mut Self, RecordError> {
        match self.byte()? {
            VERSION => Ok(self),
            other => Err(RecordError::UnknownVersion(other)),
        }
    }

    fn horizon(&mut self) -> Result<Horizon, RecordError> {
        match self.byte()? {
            HORIZON_NOTHING => Ok(Horizon::NOTHING),
            HORIZON_INFINITE => Ok(Horizon::INFINITE),
            HORIZON_AT => {
                let horizon = Horizon(self.fixed()?);
                check(!matches!(horizon, Horizon::NOTHING | Horizon::INFINITE), "a horizon longer than it need be")?;
                Ok(horizon)
            }
            _ => Err(RecordError::Malformed("no such horizon")),
        }
    }

    fn dot(&mut self) -> Result<Dot, RecordError> {
        Ok(Dot::new(ActorId(self.fixed()?), Stamp(self.fixed()?)))
    }

    fn dots(&mut self, count: usize) -> Result<VersionVector, RecordError> {
        if self.0.len() / 16 < count {
            return Err(RecordError::Truncated);
        }
        let dots = (0..count).map(|_| self.dot()).collect::<Result<_, _>>()?;
        VersionVector::from_sorted(dots).ok_or(RecordError::Malformed("actors out of order"))
    }

    fn context(&mut self) -> Result<VersionVector, RecordError> {
        let count = self.len()?;
        self.dots(count)
    }

    fn sibling_dot(&mut self, context: &VersionVector, before: Option<Dot>) -> Result<Dot, RecordError> {
        let (index, below) = (self.int()?, self.int()?);
        let top = usize::try_from(index).ok().and_then(|index| context.entry(index));
        let dot = top.and_then(|top| Some(Dot::new(top.actor, Stamp(top.stamp.0.checked_sub(below)?))));
        let dot = dot.ok_or(RecordError::Malformed("a sibling that the context does not cover"))?;
        check(before.is_none_or(|before| before < dot), "siblings out of order")?;
        Ok(dot)
    }

    fn payload_count(&mut self) -> Result<usize, RecordError> {
        let count = self.len()?;
        check(count > 0, "a sibling that holds nothing")?;
        Ok(count)
    }

    /// A payload without its value, and the value's length.
    fn payload_head(&mut self) -> Result<(Payload, Option<u64>), RecordError> {
        let flags = self.byte()?;
        check(flags & !(HAS_VALUE | HAS_CONTENT_TYPE | HAS_META | EXPIRES) == 0, "no such flag")?;
        let written_at = Wall(self.int()?);
        let expires_at = if flags & EXPIRES != 0 { Some(Wall(self.int()?)) } else { None };
        let content_type = if flags & HAS_CONTENT_TYPE != 0 { Some(self.text()?) } else { None };
        let meta = if flags & HAS_META != 0 { self.meta()? } else { BTreeMap::new() };
        let length = if flags & HAS_VALUE != 0 { Some(self.int()?) } else { None };
        Ok((Payload { value: None, content_type, meta, written_at, expires_at }, length))
    }

    fn meta(&mut self) -> Result<BTreeMap<String, String>, RecordError> {
        let count = self.len()?;
        check(count > 0, "metadata of nothing")?;
        let mut meta = BTreeMap::new();
        for _ in 0..count {
            let (name, value) = (self.text()?, self.text()?);
            let after = meta.last_key_value().is_none_or(|(last, _)| *last < name);
            check(after, "metadata out of order")?;
            meta.insert(name, value);
        }
        Ok(meta)
    }

    fn recent(&mut self) -> Result<RecentRequests, RecordError> {
        let count = self.len()?;
        if self.0.len() / 48 < count {
            return Err(RecordError::Truncated);
        }
        let one = |input: &mut Self| {
            Ok(Recent { dot: input.dot()?, id: RequestId(input.array()?), fingerprint: Fingerprint(input.array()?) })
        };
        let sorted = (0..count).map(|_| one(self)).collect::<Result<_, _>>()?;
        RecentRequests::from_sorted(sorted).ok_or(RecordError::Malformed("requests out of order"))
    }
}

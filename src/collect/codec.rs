//! A book's bytes on disk, and a lesson's on the wire.
//!
//! Version (1 byte), epoch, sealed, drained, heard, count of rounds; per round, ascending: epoch, nonce, hash (16), stage (1),
//! count of rounds before it and each of them (32), count of keys; per key, ascending: length, key, count of dots, actor
//! and stamp of each. Lengths and counts are 32 bits, all else 64 unless said; integers are big endian.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use super::book::Held;
use super::{Book, Epoch, Lesson, RoundId, Stage};
use crate::causality::Dot;
use crate::types::{ActorId, Digest, Stamp};

const VERSION: u8 = 1;

/// Why bytes are no book.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum BookError {
    /// Written by a newer version, or no book at all.
    #[error("unknown version {0} of a book of collections")]
    Version(u8),
    /// Too short, too long, or of parts that do not go together.
    #[error("a malformed book of collections")]
    Malformed,
}

impl Book {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        out.put_u8(VERSION);
        [self.epoch, self.sealed, self.drained, self.heard].iter().for_each(|epoch| out.put_u64(epoch.0));
        put_count(&mut out, self.held.len());
        for (id, held) in &self.held {
            put_id(&mut out, id);
            out.put_u8(held.stage as u8);
            put_count(&mut out, held.after.len());
            held.after.iter().for_each(|id| put_id(&mut out, id));
            put_count(&mut out, held.listed.len());
            for (stored, dots) in &held.listed {
                put_count(&mut out, stored.len());
                out.put_slice(stored);
                put_count(&mut out, dots.len());
                for dot in dots {
                    out.put_u64(dot.actor.0);
                    out.put_u64(dot.stamp.0);
                }
            }
        }
        out.freeze()
    }

    /// Reads what [`Book::encode`] wrote. A damaged book is an error, never an empty one: an owner that takes itself for
    /// new takes in what it refused.
    pub fn decode(mut bytes: Bytes) -> Result<Self, BookError> {
        let version = bytes.try_get_u8().map_err(|_| BookError::Malformed)?;
        if version != VERSION {
            return Err(BookError::Version(version));
        }
        read_book(&mut bytes).filter(|_| bytes.is_empty()).ok_or(BookError::Malformed)
    }
}

impl Lesson {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        self.0.encode()
    }

    /// Reads what [`Lesson::encode`] wrote. One with an unfinished round is none.
    pub fn decode(bytes: Bytes) -> Result<Self, BookError> {
        Book::decode(bytes)?.lesson().map_err(|_| BookError::Malformed)
    }
}

fn put_count(out: &mut BytesMut, count: usize) {
    // Bounded far below by what a book may hold.
    out.put_u32(u32::try_from(count).unwrap_or(u32::MAX));
}

fn put_id(out: &mut BytesMut, id: &RoundId) {
    out.put_u64(id.epoch.0);
    out.put_u64(id.nonce);
    out.put_slice(&id.listed.0);
}

/// A count of things of at least `least` bytes each: more than there are bytes left is a lie.
fn count(bytes: &mut Bytes, least: usize) -> Option<usize> {
    let count = usize::try_from(bytes.try_get_u32().ok()?).ok()?;
    (count.checked_mul(least)? <= bytes.len()).then_some(count)
}

fn read_id(bytes: &mut Bytes) -> Option<RoundId> {
    let (epoch, nonce) = (Epoch(bytes.try_get_u64().ok()?), bytes.try_get_u64().ok()?);
    let mut listed = [0; 16];
    bytes.try_copy_to_slice(&mut listed).ok()?;
    Some(RoundId { epoch, nonce, listed: Digest(listed) })
}

fn read_book(bytes: &mut Bytes) -> Option<Book> {
    let mut epoch = || bytes.try_get_u64().ok().map(Epoch);
    let (held, heard) = (BTreeMap::new(), Epoch::FIRST);
    let mut book = Book { epoch: epoch()?, sealed: epoch()?, drained: epoch()?, heard, held };
    book.heard = epoch()?;
    for _ in 0..count(bytes, 41)? {
        let id = read_id(bytes)?;
        let stage = match bytes.try_get_u8().ok()? {
            0 => Stage::Marked,
            1 => Stage::Sealed,
            2 => Stage::Dropped,
            _ => return None,
        };
        let after = (0..count(bytes, 32)?).map(|_| read_id(bytes)).collect::<Option<_>>()?;
        let mut listed = BTreeMap::new();
        for _ in 0..count(bytes, 8)? {
            let len = count(bytes, 1)?;
            let stored = bytes.split_to(len);
            let dots = (0..count(bytes, 16)?).map(|_| read_dot(bytes)).collect::<Option<_>>()?;
            let ordered = listed.last_key_value().is_none_or(|(last, _)| *last < stored);
            listed.insert(stored, dots);
            if !ordered {
                return None;
            }
        }
        let ordered = book.held.last_key_value().is_none_or(|(last, _)| *last < id);
        book.held.insert(id, Held { stage, listed, after });
        if !ordered {
            return None;
        }
    }
    Some(book)
}

fn read_dot(bytes: &mut Bytes) -> Option<Dot> {
    Some(Dot::new(ActorId(bytes.try_get_u64().ok()?), Stamp(bytes.try_get_u64().ok()?)))
}

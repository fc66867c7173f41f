//! Frames: how messages lie on a byte stream.
//!
//! ```text
//! 0        4        8      9       10            18
//! | crc32  | length | kind | flags | request id  | body ...
//! ```
//!
//! All numbers are big endian; `length` counts the body. The checksum covers **everything after itself, header
//! included**: a flipped bit in the request id would hand a good reply to the wrong caller, one in the length would
//! put the whole stream out of step. TCP's own 16-bit sum misses such bits often enough to matter at a fleet's volume.
//!
//! **Pieces.** A message longer than [`PIECE`] travels as several frames of one kind and id, all but the last with
//! [`MORE`] set. Frames of other messages may stand between them, so a 4 MiB object does not hold up a heartbeat; but
//! only one message at a time is in pieces, so a receiver never holds more than one unfinished message.
//!
//! **Bounds.** Nothing is allocated because the wire said so: a buffer grows as bytes arrive. A frame longer than the
//! cap is refused as soon as its header is there ([`UNAUTHENTICATED_CAP`] until the handshake is over: CASSANDRA-20052
//! is what happens otherwise), a message in pieces when it passes the message limit. After any [`FrameError`] the
//! stream cannot be trusted: whoever reads it closes the connection.

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

/// Bytes before the body.
pub const HEADER_LEN: usize = 18;
/// Longest body before the peer is authenticated.
pub const UNAUTHENTICATED_CAP: usize = 4096;
/// Longest body this version sends in one frame; longer messages travel in pieces.
pub const PIECE: usize = 256 * 1024;
/// Flag: the message goes on in a later frame of the same kind and id.
pub const MORE: u8 = 1;

/// What a frame is for. Numbers are never given a second meaning.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Handshake: who I am.
    Hello = 1,
    /// Handshake: that I know the secret.
    Proof = 2,
    /// Handshake: why I do not talk to you, as text.
    Refused = 3,
    /// A request.
    Request = 10,
    /// A reply, under its request's id.
    Reply = 11,
    /// There is a reply but it cannot be sent; the body says why. Proves nothing about the request.
    NoReply = 12,
    /// Are you there? Answered by [`Kind::Pong`].
    Ping = 13,
    /// I am here.
    Pong = 14,
    /// Make a new connection for what you send from now on; what was sent on this one is still answered.
    Goodbye = 15,
}

impl Kind {
    /// The kind of this number, if it is known.
    #[must_use]
    pub const fn of(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Hello,
            2 => Self::Proof,
            3 => Self::Refused,
            10 => Self::Request,
            11 => Self::Reply,
            12 => Self::NoReply,
            13 => Self::Ping,
            14 => Self::Pong,
            15 => Self::Goodbye,
            _ => return None,
        })
    }
}

/// One frame, or one message put together from its pieces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// The kind's number; see [`Kind::of`]. Unknown ones are read too: they are answered, not punished.
    pub kind: u8,
    /// Whether the message goes on in a later frame.
    pub more: bool,
    /// The request's id; 0 where there is none.
    pub id: u64,
    /// The body, sharing memory with the buffer it was read into: whoever keeps a small part of it for long copies it.
    pub body: Bytes,
}

/// Why a byte stream is no stream of frames. Every one means: close the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum FrameError {
    /// Longer than is read here.
    #[error("{length} bytes where at most {cap} are read")]
    TooLong {
        /// How long it is, as far as is known.
        length: usize,
        /// The cap.
        cap: usize,
    },
    /// What arrived is not what was sent.
    #[error("checksum does not match")]
    Checksum,
    /// Flags of a newer protocol than was agreed on.
    #[error("unknown flags {0:#04x}")]
    Flags(u8),
    /// A second message in pieces begins before the first has ended.
    #[error("two messages in pieces at once")]
    Interleaved,
}

/// Appends a frame.
///
/// # Panics
/// If the body is longer than 4 GiB; callers keep to [`PIECE`].
pub fn put(out: &mut Vec<u8>, kind: Kind, more: bool, id: u64, body: &[u8]) {
    let at = begin(out);
    out.extend_from_slice(body);
    finish(out, at, kind, more, id);
}

/// Leaves room for a header; the body is appended by the caller, then [`finish`] is called with what this returns.
pub fn begin(out: &mut Vec<u8>) -> usize {
    let at = out.len();
    out.extend_from_slice(&[0; HEADER_LEN]);
    at
}

/// Fills in the header of the frame that [`begin`] opened at `at` and whose body is all that follows it.
///
/// # Panics
/// If the body is longer than 4 GiB; callers keep to [`PIECE`].
pub fn finish(out: &mut [u8], at: usize, kind: Kind, more: bool, id: u64) {
    let frame = &mut out[at..];
    let length = u32::try_from(frame.len() - HEADER_LEN).expect("a frame's body is far below 4 GiB");
    fill(frame, length, kind, more, id);
    let crc = crc32fast::hash(&frame[4..]);
    frame[..4].copy_from_slice(&crc.to_be_bytes());
}

/// The header of a frame whose body lies elsewhere, so that a large one is written without being copied.
///
/// # Panics
/// If the body is longer than 4 GiB; callers keep to [`PIECE`].
#[must_use]
pub fn header(kind: Kind, more: bool, id: u64, body: &[u8]) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    let length = u32::try_from(body.len()).expect("a frame's body is far below 4 GiB");
    fill(&mut header, length, kind, more, id);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[4..]);
    crc.update(body);
    header[..4].copy_from_slice(&crc.finalize().to_be_bytes());
    header
}

fn fill(frame: &mut [u8], length: u32, kind: Kind, more: bool, id: u64) {
    frame[4..8].copy_from_slice(&length.to_be_bytes());
    frame[8] = kind as u8;
    frame[9] = if more { MORE } else { 0 };
    frame[10..18].copy_from_slice(&id.to_be_bytes());
}

/// Takes the first frame out of `buffer`, if all of it is there. `cap` is the longest body that is read.
pub fn decode(buffer: &mut BytesMut, cap: usize) -> Result<Option<Frame>, FrameError> {
    let Some((header, _)) = buffer.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let [c0, c1, c2, c3, l0, l1, l2, l3, kind, flags, id @ ..] = *header;
    let length = usize::try_from(u32::from_be_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    if length > cap {
        return Err(FrameError::TooLong { length, cap });
    }
    if buffer.len() < HEADER_LEN + length {
        return Ok(None);
    }
    let mut frame = buffer.split_to(HEADER_LEN + length);
    if crc32fast::hash(&frame[4..]) != u32::from_be_bytes([c0, c1, c2, c3]) {
        return Err(FrameError::Checksum);
    }
    if flags & !MORE != 0 {
        return Err(FrameError::Flags(flags));
    }
    frame.advance(HEADER_LEN);
    Ok(Some(Frame { kind, more: flags & MORE != 0, id: u64::from_be_bytes(id), body: frame.freeze() }))
}

/// Puts messages in pieces together again. Holds at most one unfinished message of at most `max_message` bytes.
#[derive(Debug)]
pub struct Assembler {
    max_message: usize,
    open: Option<(u8, u64, BytesMut)>,
}

impl Assembler {
    /// One that refuses messages longer than `max_message`.
    #[must_use]
    pub const fn new(max_message: usize) -> Self {
        Self { max_message, open: None }
    }

    /// Takes a frame in the order of the stream; gives back a whole message when this frame completes one.
    pub fn push(&mut self, frame: Frame) -> Result<Option<Frame>, FrameError> {
        let Frame { kind, more, id, body } = frame;
        let continues = self.open.as_ref().is_some_and(|open| (open.0, open.1) == (kind, id));
        if !continues && !more {
            return Ok(Some(Frame { kind, more: false, id, body }));
        }
        if !continues && self.open.is_some() {
            return Err(FrameError::Interleaved);
        }
        let (_, _, whole) = self.open.get_or_insert_with(|| (kind, id, BytesMut::new()));
        let length = whole.len().saturating_add(body.len());
        if length > self.max_message {
            return Err(FrameError::TooLong { length, cap: self.max_message });
        }
        whole.extend_from_slice(&body);
        if more {
            return Ok(None);
        }
        Ok(self.open.take().map(|(kind, id, whole)| Frame { kind, more: false, id, body: whole.freeze() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(kind: Kind, more: bool, id: u64, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, kind, more, id, body);
        out
    }

    #[test]
    fn golden_bytes() {
        let bytes = encoded(Kind::Request, false, 0x0102_0304_0506_0708, b"quorate");
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "4ba8b56f000000070a00010203040506070871756f72617465");
        assert_eq!(header(Kind::Request, false, 0x0102_0304_0506_0708, b"quorate"), bytes[..HEADER_LEN]);
    }

    #[test]
    fn a_length_over_the_cap_is_refused_before_its_body_comes() {
        let bytes = encoded(Kind::Hello, false, 0, &[0; UNAUTHENTICATED_CAP + 1]);
        let mut buffer = BytesMut::from(&bytes[..HEADER_LEN]);
        let refused = FrameError::TooLong { length: UNAUTHENTICATED_CAP + 1, cap: UNAUTHENTICATED_CAP };
        assert_eq!(decode(&mut buffer, UNAUTHENTICATED_CAP), Err(refused));
        let bytes = encoded(Kind::Hello, false, 0, &[0; UNAUTHENTICATED_CAP]);
        assert!(decode(&mut BytesMut::from(&bytes[..]), UNAUTHENTICATED_CAP).unwrap().is_some());
    }

    #[test]
    fn pieces_are_bounded_and_do_not_mix() {
        let frame = |id, more, body: &'static [u8]| Frame { kind: 10, more, id, body: Bytes::from_static(body) };
        let mut assembler = Assembler::new(6);
        assert_eq!(assembler.push(frame(1, true, b"abc")), Ok(None));
        assert_eq!(assembler.push(frame(2, false, b"between")), Ok(Some(frame(2, false, b"between"))));
        assert_eq!(assembler.push(frame(2, true, b"x")), Err(FrameError::Interleaved));
        assert_eq!(assembler.push(frame(1, false, b"def")), Ok(Some(frame(1, false, b"abcdef"))));
        assert_eq!(assembler.push(frame(1, true, b"abcdef")), Ok(None));
        assert_eq!(assembler.push(frame(1, false, b"g")), Err(FrameError::TooLong { length: 7, cap: 6 }));
    }

    fn any_frame() -> impl Strategy<Value = (Kind, bool, u64, Vec<u8>)> {
        let kind = prop::sample::select(vec![Kind::Request, Kind::Reply, Kind::Ping, Kind::NoReply]);
        (kind, any::<bool>(), any::<u64>(), prop::collection::vec(any::<u8>(), 0..300))
    }

    proptest! {
        #[test]
        fn frames_survive_any_split(frames in prop::collection::vec(any_frame(), 0..8), cuts in prop::collection::vec(1usize..64, 1..64)) {
            let mut stream = Vec::new();
            for (kind, more, id, body) in &frames {
                put(&mut stream, *kind, *more, *id, body);
            }
            let (mut buffer, mut seen, mut rest) = (BytesMut::new(), Vec::new(), &stream[..]);
            for cut in cuts.into_iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at(cut.min(rest.len()));
                buffer.extend_from_slice(now);
                rest = later;
                while let Some(frame) = decode(&mut buffer, 300).unwrap() {
                    seen.push((Kind::of(frame.kind).unwrap(), frame.more, frame.id, frame.body.to_vec()));
                }
            }
            prop_assert_eq!(seen, frames);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn any_flipped_bit_is_noticed((kind, more, id, body) in any_frame(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut bytes = encoded(kind, more, id, &body);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            // A longer length waits for bytes that never come, or is over the cap; everything else is a checksum.
            match decode(&mut BytesMut::from(&bytes[..]), 1 << 20) {
                Ok(None) | Err(FrameError::TooLong { .. }) => prop_assert!((4..8).contains(&at)),
                Err(FrameError::Checksum) => {}
                other => prop_assert!(false, "{:?}", other),
            }
        }

        #[test]
        fn any_bytes_are_decoded_or_refused_and_never_grow(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            let mut assembler = Assembler::new(1 << 16);
            let mut total = 0;
            while let Ok(Some(frame)) = decode(&mut buffer, UNAUTHENTICATED_CAP) {
                total += HEADER_LEN + frame.body.len();
                if assembler.push(frame).is_err() {
                    break;
                }
            }
            prop_assert!(total <= bytes.len());
        }
    }
}

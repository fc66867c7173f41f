//! An answer's headers, at little cost: every value is written into one buffer, of which each is a slice, and the map is
//! the request's own, emptied, so that its memory goes back and forth on a connection.

use std::io::Write as _;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::kv::{ETag, date, wire};
use crate::types::Wall;

pub(super) const CONTEXT: HeaderName = HeaderName::from_static(wire::CONTEXT);
pub(super) const EXPIRES_AT: HeaderName = HeaderName::from_static(wire::EXPIRES_AT);
pub(super) const EXPLAIN: HeaderName = HeaderName::from_static(wire::EXPLAIN);
pub(super) const FLOOR: HeaderName = HeaderName::from_static(wire::FLOOR);
pub(super) const LAYOUT: HeaderName = HeaderName::from_static(wire::LAYOUT);
pub(super) const SLOPPY: HeaderName = HeaderName::from_static(wire::SLOPPY);
pub(super) const REPLAYED: HeaderName = HeaderName::from_static(wire::REPLAYED);
pub(super) const REPLICAS: HeaderName = HeaderName::from_static(wire::REPLICAS);
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static(wire::REQUEST_ID);
pub(super) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
pub(super) const SIBLINGS: HeaderName = HeaderName::from_static(wire::SIBLINGS);

/// Room for the values of a usual answer.
const ROOM: usize = 384;
/// As many values as a usual answer has.
const USUAL: usize = 8;

/// The headers of an answer.
pub(super) struct Headers {
    map: HeaderMap,
    text: Vec<u8>,
    /// Whose value ends where in the text.
    written: Vec<(HeaderName, usize)>,
}

impl Headers {
    /// None yet; `used` is a map that is no longer needed.
    pub(super) fn new(mut used: HeaderMap) -> Self {
        used.clear();
        Self { map: used, text: Vec::with_capacity(ROOM), written: Vec::with_capacity(USUAL) }
    }

    /// Sets a header to what `write` writes. A value that no header can carry is left out: the envelope has it.
    fn write(&mut self, name: HeaderName, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.text);
        self.written.push((name, self.text.len()));
    }

    pub(super) fn text(&mut self, name: HeaderName, value: &str) {
        self.write(name, |out| out.extend_from_slice(value.as_bytes()));
    }

    /// Sets a header, unless something is written for it.
    pub(super) fn fixed(&mut self, name: HeaderName, value: HeaderValue) {
        self.map.insert(name, value);
    }

    /// Numbers with slashes between them.
    pub(super) fn numbers<const N: usize>(&mut self, name: HeaderName, numbers: [u64; N]) {
        self.write(name, |out| {
            for (at, number) in numbers.into_iter().enumerate() {
                if at > 0 {
                    out.push(b'/');
                }
                put_decimal(out, number);
            }
        });
    }

    pub(super) fn etag(&mut self, etag: ETag) {
        self.write(http::header::ETAG, |out| put_etag(out, etag));
    }

    pub(super) fn last_modified(&mut self, at: Wall) {
        self.write(http::header::LAST_MODIFIED, |out| out.extend_from_slice(&date::http_date(at)));
    }

    /// Microseconds, as milliseconds.
    pub(super) fn timing(&mut self, micros: u128) {
        self.write(SERVER_TIMING, |out| {
            // A buffer takes all that is written.
            let _ = write!(out, "total;dur={}.{:03}", micros / 1_000, micros % 1_000);
        });
    }

    pub(super) fn finish(self) -> HeaderMap {
        let Self { mut map, text, written } = self;
        let text = Bytes::from(text);
        let mut from = 0;
        for (name, to) in written {
            if let Ok(value) = HeaderValue::from_maybe_shared(text.slice(from..to)) {
                map.insert(name, value);
            }
            from = to;
        }
        map
    }
}

/// The entity tag as a header has it, quotes included.
fn put_etag(out: &mut Vec<u8>, etag: ETag) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut hex = [0; 32];
    for (digits, byte) in hex.chunks_exact_mut(2).zip(etag.digest.0) {
        digits.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    out.push(b'"');
    out.extend_from_slice(&hex);
    if etag.expired > 0 {
        out.push(b'-');
        put_decimal(out, etag.expired as u64);
    }
    out.push(b'"');
}

fn put_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return out.extend_from_slice(&digits[at..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Digest;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn values_read_as_their_usual_form(numbers: [u64; 3], digest: [u8; 16], expired in 0usize..200) {
            let mut used = HeaderMap::new();
            used.insert(FLOOR, HeaderValue::from_static("of the request"));
            let mut headers = Headers::new(used);
            headers.numbers(REPLICAS, numbers);
            let etag = ETag { digest: Digest(digest), expired };
            headers.etag(etag);
            headers.text(CONTEXT, "a\nb");
            let map = headers.finish();
            let [a, b, c] = numbers;
            prop_assert_eq!(map[REPLICAS].to_str().unwrap(), format!("{a}/{b}/{c}"));
            prop_assert_eq!(map[http::header::ETAG].to_str().unwrap(), format!("\"{etag}\""));
            prop_assert_eq!(map.len(), 2, "neither the request's nor what no header can carry");
        }
    }
}

//! The interface as it is spelled over HTTP: header names, words, and the two documents (envelope, problem). The edge
//! writes them, the client reads them; neither knows the other.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use std::collections::BTreeMap;

use super::{
    ContextToken, Counted, ETag, Error, ErrorCode, KeyGap, KeyView, ListCursor, Outcome, ReplicaReport, SiblingView,
    Value, date,
};
use crate::causality::Dot;
use crate::quorum::Explain;
use crate::types::{ActorId, Digest, Key, ObjectId, Stamp};

/// `Quorate-Context`: what a write supersedes, what an answer has shown.
pub const CONTEXT: &str = "quorate-context";
/// `Quorate-Floor`: what a later read must be at least as new as.
pub const FLOOR: &str = "quorate-floor";
/// `Idempotency-Key`: makes a repeated write the same write.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// `Quorate-Meta-*`: the user's own metadata.
pub const META_PREFIX: &str = "quorate-meta-";
/// `Quorate-Replicas`: answered/needed/N.
pub const REPLICAS: &str = "quorate-replicas";
/// `Quorate-Layout`: the layout it was counted in.
pub const LAYOUT: &str = "quorate-layout";
/// `Quorate-Sloppy`: how many fallbacks stood in for owners, where any did.
pub const SLOPPY: &str = "quorate-sloppy";
/// `Quorate-Siblings`: how many siblings there are, where there is more than the one shown.
pub const SIBLINGS: &str = "quorate-siblings";
/// `Quorate-Replayed`: the write had been done before.
pub const REPLAYED: &str = "quorate-replayed";
/// `Quorate-Request-Id`: names the request in logs.
pub const REQUEST_ID: &str = "quorate-request-id";
/// `Quorate-Expires-At`: when the value expires.
pub const EXPIRES_AT: &str = "quorate-expires-at";
/// `Quorate-Explain`: the explanation, base64url JSON.
pub const EXPLAIN: &str = "quorate-explain";
/// The media type of an [`Envelope`].
pub const ENVELOPE_TYPE: &str = "application/vnd.quorate.object+json";
/// The media type of a [`ProblemDocument`].
pub const PROBLEM_TYPE: &str = "application/problem+json";
/// Most bytes of the user's metadata, names and values together.
pub const MAX_META: usize = 2048;
/// Most bytes of an Idempotency-Key.
pub const MAX_IDEMPOTENCY_KEY: usize = 255;

/// Base64url without padding: the only base64 there is here.
#[must_use]
pub fn to_base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads [`to_base64`].
#[must_use]
pub fn from_base64(text: &str) -> Option<Bytes> {
    URL_SAFE_NO_PAD.decode(text).ok().map(Bytes::from)
}

/// Reads what [`Dot`]'s `Display` writes.
#[must_use]
pub fn parse_dot(text: &str) -> Option<Dot> {
    let (actor, stamp) = text.split_once('@')?;
    let half = |part| hex(part, 16).and_then(|bits| u64::try_from(bits).ok());
    Some(Dot::new(ActorId(half(actor)?), Stamp(half(stamp)?)))
}

/// Reads what [`ETag`]'s `Display` writes, quotes around it or not.
#[must_use]
pub fn parse_etag(text: &str) -> Option<ETag> {
    let bare = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    let (digest, expired) = match bare.split_once('-') {
        Some((digest, expired)) => (digest, expired.parse().ok()?),
        None => (bare, 0),
    };
    Some(ETag { digest: Digest(hex(digest, 32)?.to_be_bytes()), expired })
}

/// Exactly `digits` hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let plain = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u128::from_str_radix(text, 16).ok().filter(|_| plain)
}

/// An object with all its siblings, as JSON.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Envelope {
    /// The bucket.
    pub bucket: String,
    /// The key, where it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The key in base64url.
    pub key_b64: String,
    /// Covers all of `siblings`; none where they are not shown.
    #[serde(default)]
    pub context: Option<ContextToken>,
    /// The object's tag, without quotes; none where nothing is known.
    #[serde(default)]
    pub etag: Option<String>,
    /// The siblings, greatest stamp first.
    pub siblings: Vec<EnvelopeSibling>,
    /// How the quorum of a read was met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<Counted>,
    /// How the quorum of a write was met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write: Option<Counted>,
    /// How the answer came about, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explain: Option<Explain>,
}

/// One sibling in an [`Envelope`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EnvelopeSibling {
    /// The write.
    pub dot: String,
    /// The value, where it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The value in base64url; none for a delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_b64: Option<String>,
    /// Its media type.
    #[serde(default)]
    pub content_type: Option<String>,
    /// The user's own metadata.
    #[serde(default)]
    pub meta: BTreeMap<String, String>,
    /// When it was written (RFC 3339), by the coordinator's clock.
    pub written_at: String,
    /// When it expires (RFC 3339).
    #[serde(default)]
    pub expires_at: Option<String>,
    /// Whether it is a delete.
    pub deleted: bool,
}

impl From<&SiblingView> for EnvelopeSibling {
    fn from(view: &SiblingView) -> Self {
        let value = view.value.as_ref();
        Self {
            dot: view.dot.to_string(),
            value: value.and_then(|value| std::str::from_utf8(&value.bytes).ok()).map(str::to_owned),
            value_b64: value.map(|value| to_base64(&value.bytes)),
            content_type: value.and_then(|value| value.content_type.clone()),
            meta: value.map(|value| value.meta.clone()).unwrap_or_default(),
            written_at: date::rfc3339(view.written_at),
            expires_at: view.expires_at.map(date::rfc3339),
            deleted: value.is_none(),
        }
    }
}

impl EnvelopeSibling {
    /// The sibling it tells of; none if it makes no sense.
    #[must_use]
    pub fn view(self) -> Option<SiblingView> {
        let value = match (self.deleted, self.value_b64) {
            (true, _) => None,
            (false, None) => return None,
            (false, Some(text)) => {
                Some(Value { bytes: from_base64(&text)?, content_type: self.content_type, meta: self.meta })
            }
        };
        let expires_at = match self.expires_at {
            Some(text) => Some(date::parse_rfc3339(&text)?),
            None => None,
        };
        Some(SiblingView {
            dot: parse_dot(&self.dot)?,
            value,
            written_at: date::parse_rfc3339(&self.written_at)?,
            expires_at,
        })
    }
}

impl Envelope {
    /// An envelope of these siblings.
    #[must_use]
    pub fn new(id: &ObjectId, etag: Option<ETag>, siblings: &[SiblingView]) -> Self {
        let key = id.key.as_bytes();
        Self {
            bucket: id.bucket.to_string(),
            key: std::str::from_utf8(key).ok().map(str::to_owned),
            key_b64: to_base64(key),
            context: None,
            etag: etag.map(|etag| etag.to_string()),
            siblings: siblings.iter().map(EnvelopeSibling::from).collect(),
            read: None,
            write: None,
            explain: None,
        }
    }
}

/// The media type of a list, a document a line: [`KeyDocument`]s, and a [`TrailerLine`] at the end.
pub const LINES_TYPE: &str = "application/x-ndjson";

/// A key in a list, as JSON.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeyDocument {
    /// The key, where it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The key in base64url.
    pub key_b64: String,
    /// Its object's tag, without quotes.
    pub etag: String,
    /// How many siblings a reader is shown.
    pub siblings: u32,
    /// The live siblings, greatest stamp first, where they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<EnvelopeSibling>>,
}

impl From<&KeyView> for KeyDocument {
    fn from(view: &KeyView) -> Self {
        let key = view.key.as_bytes();
        Self {
            key: std::str::from_utf8(key).ok().map(str::to_owned),
            key_b64: to_base64(key),
            etag: view.etag.to_string(),
            siblings: view.siblings,
            values: view.values.as_ref().map(|values| values.iter().map(EnvelopeSibling::from).collect()),
        }
    }
}

impl KeyDocument {
    /// The key it tells of; none if it makes no sense.
    #[must_use]
    pub fn view(self) -> Option<KeyView> {
        let values = match self.values {
            None => None,
            Some(values) => Some(values.into_iter().map(EnvelopeSibling::view).collect::<Option<_>>()?),
        };
        let key = Key::new(from_base64(&self.key_b64)?).ok()?;
        Some(KeyView { key, etag: parse_etag(&self.etag)?, siblings: self.siblings, values })
    }
}

/// A page of a list, as JSON.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PageDocument {
    /// The bucket.
    pub bucket: String,
    /// The keys, in byte order.
    pub keys: Vec<KeyDocument>,
    /// Where the next page goes on; none: there are no more keys.
    pub cursor: Option<ListCursor>,
    /// What is missing: no key of these partitions is on the page.
    pub gaps: Vec<KeyGap>,
    /// The layout that it was read in.
    pub layout: u64,
}

/// The last line of a list that comes line by line: without it the list was broken off.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TrailerLine {
    /// What is to be said of the whole list.
    pub trailer: ListTrailer,
}

/// See [`TrailerLine`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ListTrailer {
    /// Whether all keys were listed, from where the list began to the end of the bucket.
    pub complete: bool,
    /// How many keys were listed.
    pub keys: u64,
    /// Where to go on; none: there are no more keys.
    pub cursor: Option<ListCursor>,
    /// What is missing: keys of these partitions were left out, of some of the pages at least.
    pub gaps: Vec<KeyGap>,
    /// Why it went no further, where that was not as asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ProblemDocument>,
}

/// An RFC 9457 problem: every error is told as one.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ProblemDocument {
    /// `urn:quorate:problem:` and the code, dashed.
    #[serde(rename = "type")]
    pub kind: String,
    /// What kind of problem it is, for people.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What kind of problem it is, for programs: an [`ErrorCode`], or a word of the HTTP edge's own.
    pub code: String,
    /// What is wrong with this request.
    pub detail: String,
    /// Whether it was done all the same.
    pub outcome: Outcome,
    /// See [`Error::required`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<u32>,
    /// See [`Error::answered`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<u32>,
    /// See [`Error::n`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
    /// How to try again: `same-idempotency-key` (a write whose outcome is unknown), `later`, `now`; none where it would
    /// end the same way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<String>,
    /// See [`Error::retry_after`], in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Names the request in logs; empty in a batch, where the whole has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    /// See [`Error::layout`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<u64>,
    /// See [`Error::replicas`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<ReplicaReport>,
    /// See [`Error::context`]; in a problem that carries an envelope's members, that of the envelope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<ContextToken>,
}

impl ProblemDocument {
    /// The problem that tells of this error. `status`, `title` and `retry` are the edge's to say.
    #[must_use]
    pub fn of(error: Error, status: u16, title: &str, retry: Option<&str>) -> Self {
        Self {
            kind: problem_type(error.code.as_str()),
            title: title.to_owned(),
            status,
            code: error.code.as_str().to_owned(),
            detail: error.detail,
            outcome: error.outcome,
            required: error.required,
            answered: error.answered,
            n: error.n,
            retry: retry.map(str::to_owned),
            retry_after_ms: error.retry_after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
            request_id: String::new(),
            layout: error.layout,
            replicas: error.replicas,
            context: error.context.map(|token| *token),
        }
    }

    /// The error it tells of. What this version does not know is told as it stands, and never as a wrong parameter:
    /// whoever asked would look for a mistake that is not there.
    #[must_use]
    pub fn error(self) -> Error {
        let known = ErrorCode::parse(&self.code)
            .or_else(|| WRONG_REQUESTS.contains(&self.code.as_str()).then_some(ErrorCode::BadParameter));
        let (code, detail) = match known {
            Some(code) => (code, self.detail),
            None => (unknown_code(self.status), format!("{} {}: {}", self.status, self.code, self.detail)),
        };
        Error {
            code,
            outcome: self.outcome,
            detail,
            required: self.required,
            answered: self.answered,
            n: self.n,
            layout: self.layout,
            replicas: self.replicas,
            retry_after: self.retry_after_ms.map(std::time::Duration::from_millis),
            context: self.context.map(Box::new),
        }
    }
}

/// The HTTP edge's own words for a request that is wrong.
const WRONG_REQUESTS: [&str; 5] =
    ["bad_bucket", "bad_key", "headers_too_large", "precondition_needs_cas", "unsupported_encoding"];

/// What an error is whose code is not known, or that has none: as much as its status alone tells.
#[must_use]
pub fn unknown_code(status: u16) -> ErrorCode {
    match status {
        401 | 403 => ErrorCode::Unauthorized,
        501 => ErrorCode::NotYet,
        500.. => ErrorCode::Internal,
        _ => ErrorCode::Unexpected,
    }
}

/// The `type` of the problem with this code.
#[must_use]
pub fn problem_type(code: &str) -> String {
    format!("urn:quorate:problem:{}", code.replace('_', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_and_tags_read_back() {
        let dot = Dot::new(ActorId(7), Stamp(u64::MAX));
        assert_eq!(parse_dot(&dot.to_string()), Some(dot));
        assert_eq!(parse_dot("7@1"), None);
        for expired in [0, 3] {
            let tag = ETag { digest: Digest([0xab; 16]), expired };
            assert_eq!(parse_etag(&format!("\"{tag}\"")), Some(tag));
        }
        assert_eq!(parse_etag("\"abc\""), None);
    }

    #[test]
    fn an_unknown_code_is_no_wrong_parameter() {
        let told = |status, code: &str| {
            let error = Error::refused(ErrorCode::Internal, "said so");
            ProblemDocument { code: code.into(), ..ProblemDocument::of(error, status, "", None) }.error()
        };
        let unknown = [
            (401, ErrorCode::Unauthorized),
            (403, ErrorCode::Unauthorized),
            (404, ErrorCode::Unexpected),
            (418, ErrorCode::Unexpected),
            (429, ErrorCode::Unexpected),
            (500, ErrorCode::Internal),
            (501, ErrorCode::NotYet),
            (503, ErrorCode::Internal),
        ];
        for (status, code) in unknown {
            let error = told(status, "of_tomorrow");
            assert_eq!((error.code, error.detail), (code, format!("{status} of_tomorrow: said so")));
        }
        for code in WRONG_REQUESTS {
            assert_eq!(told(400, code).code, ErrorCode::BadParameter, "{code}");
        }
        for code in ErrorCode::ALL {
            let error = told(400, code.as_str());
            assert_eq!((error.code, error.detail.as_str()), (code, "said so"), "a known code is what it says");
        }
    }

    #[test]
    fn base64_is_url_safe_and_unpadded() {
        assert_eq!(to_base64(&[0xfb, 0xff]), "-_8");
        assert_eq!(from_base64("-_8").as_deref(), Some(&[0xfb, 0xff][..]));
        assert_eq!(from_base64("-_8="), None);
        assert_eq!(from_base64("+/8"), None);
    }
}

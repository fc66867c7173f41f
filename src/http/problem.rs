//! RFC 9457 problems: the one form in which this edge says no. Each carries what is true of the request all the same:
//! `applied`, `not_applied` or `unknown` (I-HONEST).

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;

use super::routes::Answer;
use crate::env::Entropy;
use crate::kv::wire::{Envelope, ProblemDocument};
use crate::kv::{Error, ErrorCode, Outcome, wire};
use crate::types::InvalidBucket;

/// A refusal or failure on its way to becoming a response.
#[derive(Debug)]
pub(super) struct Problem(Box<Inner>);

#[derive(Debug)]
struct Inner {
    document: ProblemDocument,
    envelope: Option<Envelope>,
    headers: HeaderMap,
}

/// A problem that carries an envelope's members: the form of a 409 on siblings.
#[derive(Serialize)]
struct WithEnvelope<'a> {
    #[serde(flatten)]
    problem: &'a ProblemDocument,
    #[serde(flatten)]
    envelope: &'a Envelope,
}

impl Problem {
    /// A refusal with a code of this edge's own: nothing was done.
    pub(super) fn new(status: StatusCode, code: &str, title: &str, detail: impl Into<String>) -> Self {
        let mut document =
            ProblemDocument::of(Error::refused(ErrorCode::BadParameter, detail), status.as_u16(), title, None);
        document.kind = wire::problem_type(code);
        code.clone_into(&mut document.code);
        Self(Box::new(Inner { document, envelope: None, headers: HeaderMap::new() }))
    }

    pub(super) fn bad_parameter(detail: impl Into<String>) -> Self {
        Error::refused(ErrorCode::BadParameter, detail).into()
    }

    pub(super) fn bad_key(detail: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_key", "The key is wrong", detail)
    }

    pub(super) fn bad_bucket(invalid: &InvalidBucket) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_bucket", "The bucket is wrong", invalid.to_string())
    }

    pub(super) fn not_yet(what: &str) -> Self {
        Error::refused(ErrorCode::NotYet, format!("{what} is part of the interface, but not built yet")).into()
    }

    pub(super) fn headers_too_large(detail: String) -> Self {
        Self::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large", "The headers are too large", detail)
    }

    /// No such method here; `allow` are those there are.
    pub(super) fn method(allow: &'static str) -> Self {
        let detail = format!("the methods here are {allow}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "No such method here", detail)
            .header(header::ALLOW, allow)
    }

    /// A path that leads nowhere, or nowhere yet.
    pub(super) fn unrouted(path: &str, not_yet: &[&str]) -> Self {
        let below =
            |known: &&str| path.strip_prefix(*known).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        match not_yet.iter().find(|known| below(known)) {
            Some(known) => Self::not_yet(known),
            None => {
                Self::new(StatusCode::NOT_FOUND, "no_such_route", "No such route", "nothing is served at this path")
            }
        }
    }

    /// A header that the response carries beside its own.
    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.0.headers.insert(name, value);
        }
        self
    }

    /// Headers that the response carries beside its own.
    pub(super) fn headers(mut self, headers: HeaderMap) -> Self {
        self.0.headers.extend(headers);
        self
    }

    /// The envelope's members become members of the problem.
    pub(super) fn envelope(mut self, envelope: Envelope) -> Self {
        self.0.document.context = None;
        self.0.envelope = Some(envelope);
        self
    }

    /// The document alone, where an answer has begun already.
    pub(super) fn into_document(self) -> ProblemDocument {
        self.0.document
    }

    #[cfg(test)]
    pub(super) fn detail(&self) -> &str {
        &self.0.document.detail
    }

    /// The response. `entropy` spreads out those who come back after a 429 or 503.
    pub(super) fn into_response(self, request_id: &str, entropy: &Entropy) -> Answer {
        let Inner { mut document, envelope, headers } = *self.0;
        request_id.clone_into(&mut document.request_id);
        let body = match &envelope {
            Some(envelope) => serde_json::to_vec(&WithEnvelope { problem: &document, envelope }),
            None => serde_json::to_vec(&document),
        };
        let mut response = Response::new(Full::from(body.unwrap_or_default()));
        *response.status_mut() = StatusCode::from_u16(document.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        *response.headers_mut() = headers;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(wire::PROBLEM_TYPE));
        if matches!(document.status, 429 | 503) {
            let least = document.retry_after_ms.unwrap_or(0).div_ceil(1_000).max(1);
            let seconds = least.saturating_add(entropy.below(least.saturating_add(2)));
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let (status, title) = status(error.code);
        let retry = match (error.outcome, error.code) {
            (_, ErrorCode::ReadTimeout) => Some("now"),
            // The same plan again is the same layout.
            (_, ErrorCode::Undecided) => Some("later"),
            (Outcome::Unknown, _) => Some("same-idempotency-key"),
            _ if status.as_u16() == 503 || error.code == ErrorCode::IdempotencyInFlight => Some("later"),
            _ => None,
        };
        let document = ProblemDocument::of(error, status.as_u16(), title, retry);
        Self(Box::new(Inner { document, envelope: None, headers: HeaderMap::new() }))
    }
}

/// The status and title of an error.
fn status(code: ErrorCode) -> (StatusCode, &'static str) {
    match code {
        ErrorCode::BadParameter => (StatusCode::BAD_REQUEST, "A parameter is wrong"),
        ErrorCode::BadContext => (StatusCode::BAD_REQUEST, "The context is wrong"),
        ErrorCode::ContextTooLarge => (StatusCode::CONFLICT, "The context is too large"),
        ErrorCode::ContextRequired => (StatusCode::PRECONDITION_REQUIRED, "A context is required"),
        ErrorCode::TooManySiblings => (StatusCode::CONFLICT, "Too many siblings"),
        ErrorCode::ValueTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "The value is too large"),
        ErrorCode::ObjectTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "The object would be too large"),
        ErrorCode::IdempotencyInFlight => (StatusCode::CONFLICT, "The same request is in flight"),
        ErrorCode::IdempotencyReused => (StatusCode::UNPROCESSABLE_ENTITY, "The Idempotency-Key was used before"),
        ErrorCode::NotYet => (StatusCode::NOT_IMPLEMENTED, "Not built yet"),
        ErrorCode::QuorumUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "Too few live replicas"),
        ErrorCode::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "Overloaded"),
        ErrorCode::HintsFull => (StatusCode::SERVICE_UNAVAILABLE, "No more hints are taken"),
        ErrorCode::ClockDrift => (StatusCode::SERVICE_UNAVAILABLE, "No clock that can be trusted"),
        ErrorCode::ReadOnly => (StatusCode::SERVICE_UNAVAILABLE, "Read-only"),
        ErrorCode::DiskFull => (StatusCode::INSUFFICIENT_STORAGE, "Too few disks have room"),
        ErrorCode::NotServing => (StatusCode::SERVICE_UNAVAILABLE, "Not serving"),
        ErrorCode::WriteTimeout => (StatusCode::GATEWAY_TIMEOUT, "Too few acknowledgements in time"),
        ErrorCode::ReadTimeout => (StatusCode::GATEWAY_TIMEOUT, "Too few answers in time"),
        ErrorCode::ReplicasFailed => (StatusCode::SERVICE_UNAVAILABLE, "Too few replicas could answer"),
        ErrorCode::LayoutConflict => (StatusCode::CONFLICT, "Another layout was decided"),
        ErrorCode::LayoutRefused => (StatusCode::CONFLICT, "The layout may not change so, or not now"),
        ErrorCode::Paused => (StatusCode::CONFLICT, "Who would do it is paused"),
        ErrorCode::Undecided => (StatusCode::GATEWAY_TIMEOUT, "Not decided in time"),
        ErrorCode::NotKnown => (StatusCode::NOT_FOUND, "Not known here"),
        ErrorCode::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, "Not as it was taken for"),
        ErrorCode::PreconditionRequired => (StatusCode::PRECONDITION_REQUIRED, "Say what you know of it"),
        ErrorCode::Unreachable => (StatusCode::SERVICE_UNAVAILABLE, "No node could be reached"),
        ErrorCode::Unauthorized => (StatusCode::UNAUTHORIZED, "Not authorised"),
        ErrorCode::Unexpected => (StatusCode::INTERNAL_SERVER_ERROR, "An answer that makes no sense"),
        ErrorCode::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "Internal error"),
    }
}

//! Objects: `/v1/kv/{bucket}/{key}`.
//!
//! **A context names only what its holder was shown**: an answer that shows one of several siblings (`resolve=latest`)
//! or none of them (HEAD) carries no context; the problem of a 409 shows all of them and carries theirs.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;

use super::headers::{self, Headers};
use super::params::{self, Query};
use super::problem::Problem;
use super::routes::Answer;
use super::uri::object_id;
use super::{Api, body};
use crate::kv::wire::{self, Envelope};
use crate::kv::{Counted, ETag, FloorToken, ReadAnswer, SiblingView, WriteAnswer, WriteOptions, date};
use crate::quorum::Explain;
use crate::types::{Mono, ObjectId};

const METHODS: &str = "GET, HEAD, PUT, DELETE";
const OPAQUE: HeaderValue = HeaderValue::from_static("application/octet-stream");

const PATH: &str = "/v1/kv";

/// Whether a request to this path is about an object.
pub(super) fn takes(path: &str) -> bool {
    path.strip_prefix(PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

pub(super) async fn route(api: &Api, request: Request<Incoming>) -> Answer {
    let started = api.env.clock.now();
    let method = request.method().clone();
    let answer = object(api, request, started).await;
    api.finish(&method, started, answer)
}

async fn object(api: &Api, request: Request<Incoming>, started: Mono) -> Result<Answer, Problem> {
    let (parts, body) = request.into_parts();
    api.check_headers(&parts.headers)?;
    let writes = match parts.method {
        Method::GET | Method::HEAD => false,
        Method::PUT | Method::DELETE => true,
        _ => return Err(Problem::method(METHODS)),
    };
    let query = Query::parse(parts.uri.query())?;
    let id = object_id(parts.uri.path(), PATH, &query)?;
    if writes {
        refuse_preconditions(&parts.headers)?;
        let limits = api.limits_of(&id.bucket);
        let options = query.write_options(&parts.headers, &limits)?;
        let most = limits.max_value;
        // Boxed: what a write keeps would make the future of every read that much larger, and futures are moved.
        return Box::pin(write(api, id, parts.method, parts.headers, options, (body, most), started)).await;
    }
    let (options, latest) = (query.read_options(&parts.headers, &api.limits_of(&id.bucket))?, query.resolve_latest()?);
    drop(query);
    let show = Show { head: parts.method == Method::HEAD, latest, envelope: accepts_envelope(&parts.headers) };
    let headers = parts.headers;
    let answer = api.kv.get(id.clone(), options).await?;
    let time = answer.explain.is_some().then(|| api.env.clock.now().since(started));
    read_response(&id, answer, show, headers, time)
}

async fn write(
    api: &Api,
    id: ObjectId,
    method: Method,
    headers: HeaderMap,
    options: WriteOptions,
    (body, most): (Incoming, usize),
    started: Mono,
) -> Result<Answer, Problem> {
    let wants_envelope = accepts_envelope(&headers);
    let answer = if method == Method::PUT {
        refuse_encodings(&headers)?;
        let value = params::value(&headers, body::within(api, &headers, Body::new(body), most).await?)?;
        api.kv.put(id.clone(), value, options).await?
    } else {
        api.kv.delete(id.clone(), options).await?
    };
    let time = answer.explain.is_some().then(|| api.env.clock.now().since(started));
    write_response(&id, answer, wants_envelope, headers, time)
}

/// A check that looks atomic and is not would be worse than none (anchor: riak_kv#1849).
fn refuse_preconditions(headers: &HeaderMap) -> Result<(), Problem> {
    let conditions = [
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_UNMODIFIED_SINCE,
        header::IF_RANGE,
    ];
    match conditions.iter().find(|name| headers.contains_key(*name)) {
        None => Ok(()),
        Some(name) => {
            let detail =
                format!("{name} on a write needs a bucket with mode = \"cas\": send a Quorate-Context instead");
            let title = "Conditional writes need compare-and-set";
            Err(Problem::new(StatusCode::BAD_REQUEST, "precondition_needs_cas", title, detail))
        }
    }
}

/// A stored value has no place for an encoding, so the reader would take the encoded bytes for the value.
fn refuse_encodings(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(header::CONTENT_RANGE) {
        return Err(Problem::bad_parameter("Content-Range: a PUT stores whole values"));
    }
    match headers.get(header::CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            let detail = "Content-Encoding is not kept: send the plain bytes, or name the encoding in the Content-Type";
            let title = "The encoding is not kept";
            Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", title, detail))
        }
        _ => Ok(()),
    }
}

pub(super) fn accepts_envelope(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').any(|item| {
            item.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(wire::ENVELOPE_TYPE))
        })
    })
}

/// How a read is to be shown.
struct Show {
    head: bool,
    latest: bool,
    envelope: bool,
}

fn read_response(
    id: &ObjectId,
    answer: ReadAnswer,
    show: Show,
    request: HeaderMap,
    time: Option<Duration>,
) -> Result<Answer, Problem> {
    let ReadAnswer { siblings, context, floor, etag, counted, explain } = answer;
    let unchanged = etag.is_some_and(|etag| matches_etag(&request, etag));
    let mut headers = common_headers(request, &floor, etag, counted);
    if siblings.len() > 1 {
        headers.numbers(headers::SIBLINGS, [siblings.len() as u64]);
    }
    timing(&mut headers, time);
    let shows_all = siblings.len() <= 1 || !(show.head || (show.latest && !show.envelope));
    if shows_all {
        headers.text(headers::CONTEXT, &context.0);
    }
    let envelope = |explain| Envelope {
        context: shows_all.then(|| context.clone()),
        read: Some(counted),
        explain,
        ..Envelope::new(id, etag, &siblings)
    };
    let chosen = match siblings.as_slice() {
        _ if show.envelope => None,
        [] => {
            insert_explain(&mut headers, explain.as_ref());
            return Err(not_found(format!("{id} has no value")).headers(headers.finish()));
        }
        // The greatest stamp is a delete's: what is latest is that there is nothing. An older value would be a guess.
        [SiblingView { value: None, .. }, ..] if show.latest => {
            insert_explain(&mut headers, explain.as_ref());
            let detail = format!(
                "of {} siblings of {id} the latest is a delete: read without resolve=latest to see the others",
                siblings.len()
            );
            // A 404 carries a context, so all that it covers is shown, as a 409 shows it. HEAD shows nothing.
            if show.head {
                return Err(not_found(detail).headers(headers.finish()));
            }
            headers.text(headers::CONTEXT, &context.0);
            let shown = Envelope { context: Some(context.clone()), ..envelope(explain) };
            return Err(not_found(detail).headers(headers.finish()).envelope(shown));
        }
        [only] => Some(only),
        [latest, ..] if show.latest => Some(latest),
        all => {
            let problem = siblings_stand(id, all.len());
            return Err(problem.headers(headers.finish()).envelope(envelope(explain)));
        }
    };
    if unchanged {
        return Ok(with_headers(StatusCode::NOT_MODIFIED, headers, Bytes::new()));
    }
    match chosen.and_then(|sibling| Some((sibling, sibling.value.as_ref()?))) {
        Some((sibling, value)) => {
            insert_explain(&mut headers, explain.as_ref());
            describe(&mut headers, sibling);
            Ok(with_headers(StatusCode::OK, headers, value.bytes.clone()))
        }
        None => envelope_response(headers, &siblings, &envelope(explain)),
    }
}

pub(super) fn siblings_stand(id: &ObjectId, count: usize) -> Problem {
    let detail = format!(
        "{id} has {count} siblings: write with this context to settle them, or read with ?resolve=latest to take the \
         latest value"
    );
    Problem::new(StatusCode::CONFLICT, "siblings", "The object has siblings", detail)
}

pub(super) fn not_found(detail: String) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "No such object", detail)
}

fn write_response(
    id: &ObjectId,
    answer: WriteAnswer,
    wants_envelope: bool,
    request: HeaderMap,
    time: Option<Duration>,
) -> Result<Answer, Problem> {
    let WriteAnswer { context, floor, etag, sibling_count, siblings, expires_at, replayed, counted, explain } = answer;
    let mut headers = common_headers(request, &floor, Some(etag), counted);
    if let Some(context) = &context {
        headers.text(headers::CONTEXT, &context.0);
    }
    if context.is_none() || sibling_count > 1 {
        headers.numbers(headers::SIBLINGS, [u64::from(sibling_count)]);
    }
    if replayed {
        headers.fixed(headers::REPLAYED, HeaderValue::from_static("true"));
    }
    timing(&mut headers, time);
    let Some(siblings) = siblings else {
        insert_explain(&mut headers, explain.as_ref());
        if let Some(at) = expires_at {
            headers.text(headers::EXPIRES_AT, &date::rfc3339(at));
        }
        return Ok(with_headers(StatusCode::NO_CONTENT, headers, Bytes::new()));
    };
    if let ([only @ SiblingView { value: Some(value), .. }], false) = (siblings.as_slice(), wants_envelope) {
        insert_explain(&mut headers, explain.as_ref());
        describe(&mut headers, only);
        return Ok(with_headers(StatusCode::OK, headers, value.bytes.clone()));
    }
    let envelope = Envelope { context, write: Some(counted), explain, ..Envelope::new(id, Some(etag), &siblings) };
    envelope_response(headers, &siblings, &envelope)
}

fn envelope_response(mut headers: Headers, siblings: &[SiblingView], envelope: &Envelope) -> Result<Answer, Problem> {
    if let Some(last) = siblings.iter().map(|sibling| sibling.written_at).max() {
        headers.last_modified(last);
    }
    let mut response = super::owners::json(envelope)?;
    headers.fixed(header::CONTENT_TYPE, HeaderValue::from_static(wire::ENVELOPE_TYPE));
    *response.headers_mut() = headers.finish();
    Ok(response)
}

fn with_headers(status: StatusCode, headers: Headers, body: Bytes) -> Answer {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers.finish();
    response
}

/// What every answer about an object carries. `request` is the map of a request that has been read.
fn common_headers(request: HeaderMap, floor: &FloorToken, etag: Option<ETag>, counted: Counted) -> Headers {
    let mut headers = Headers::new(request);
    headers.text(headers::FLOOR, &floor.0);
    if let Some(etag) = etag {
        headers.etag(etag);
    }
    let Counted { answered, needed, n, layout, sloppy } = counted;
    headers.numbers(headers::REPLICAS, [answered, needed, n].map(u64::from));
    headers.numbers(headers::LAYOUT, [layout]);
    if sloppy > 0 {
        headers.numbers(headers::SLOPPY, [sloppy.into()]);
    }
    headers
}

/// How long it took, for those who asked for an explanation.
fn timing(headers: &mut Headers, time: Option<Duration>) {
    if let Some(time) = time {
        headers.timing(time.as_micros());
    }
}

/// The explanation as a header, where the body is not an envelope.
fn insert_explain(headers: &mut Headers, explain: Option<&Explain>) {
    if let Some(json) = explain.and_then(|explain| serde_json::to_vec(explain).ok()) {
        headers.text(headers::EXPLAIN, &wire::to_base64(&json));
    }
}

/// The headers that describe a value served raw.
fn describe(headers: &mut Headers, sibling: &SiblingView) {
    headers.last_modified(sibling.written_at);
    if let Some(at) = sibling.expires_at {
        headers.text(headers::EXPIRES_AT, &date::rfc3339(at));
    }
    headers.fixed(header::CONTENT_TYPE, OPAQUE);
    let Some(value) = &sibling.value else {
        return;
    };
    if let Some(media_type) = &value.content_type {
        headers.text(header::CONTENT_TYPE, media_type);
    }
    for (name, content) in &value.meta {
        if let Ok(name) = HeaderName::try_from(format!("{}{name}", wire::META_PREFIX)) {
            headers.text(name, content);
        }
    }
}

/// Whether the client has this state of the object already (weak comparison, RFC 9110 section 13.1.2).
fn matches_etag(request: &HeaderMap, etag: ETag) -> bool {
    if !request.contains_key(header::IF_NONE_MATCH) {
        return false;
    }
    let own = format!("\"{etag}\"");
    request.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == own)
    })
}

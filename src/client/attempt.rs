//! One attempt: options -> request, response -> answer or failure.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use reqwest::{Method, Url};

use super::is_plain;
use super::retry::Failure;
use crate::kv::wire::{self, Envelope, ProblemDocument};
use crate::kv::{
    ContextToken, Counted, Error, ErrorCode, FloorToken, Lifetime, Outcome, ReadAnswer, ReadOptions, RepairMode,
    SiblingView, Value, WriteAnswer, WriteOptions,
};
use crate::quorum::{Explain, Level};
use crate::types::ObjectId;

/// The longest answer that is read: an envelope of the largest object, base64 and text side by side, with room.
const MAX_ANSWER: usize = 64 << 20;

/// Query parameters, not yet encoded.
pub(super) type Params = Vec<(&'static str, String)>;

/// A request that can be sent more than once.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: Method,
    path: String,
    query: Params,
    pub(super) headers: Vec<(String, Vec<u8>)>,
    pub(super) body: Option<Bytes>,
}

/// A node's answer, not an error.
#[derive(Debug)]
pub(super) struct Answer {
    headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Request {
    pub(super) fn new(method: Method, (path, query): (String, Params)) -> Self {
        Self { method, path, query, headers: Vec::new(), body: None }
    }

    pub(super) fn header(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        self.headers.push((name.to_owned(), value.into()));
    }

    /// Its body is this JSON document.
    pub(super) fn json(&mut self, document: Vec<u8>) {
        self.header("content-type", "application/json");
        self.body = Some(document.into());
    }

    pub(super) fn param(&mut self, name: &'static str, value: impl Into<String>) {
        self.query.push((name, value.into()));
    }
}

/// The path that names an object, and the parameter that does where a path cannot.
pub(super) fn object_path(room: &str, id: &ObjectId) -> Result<(String, Params), Error> {
    let (bucket, key) = (id.bucket.as_str(), id.key.as_bytes());
    if matches!(bucket, "." | "..") {
        return Err(Error::refused(ErrorCode::BadParameter, "a URL cannot name the buckets . and .."));
    }
    Ok(match std::str::from_utf8(key) {
        Ok(text) if is_plain(key) => (format!("/v1/{room}/{bucket}/{text}"), Vec::new()),
        _ => (format!("/v1/{room}/{bucket}"), vec![("key_b64", wire::to_base64(key))]),
    })
}

pub(super) fn read_request(id: &ObjectId, options: &ReadOptions) -> Result<Request, Error> {
    let mut request = Request::new(Method::GET, object_path("kv", id)?);
    request.header("accept", wire::ENVELOPE_TYPE);
    request.param("r", options.r.to_string());
    if let Some(mode) = options.repair {
        let word = match mode {
            RepairMode::Sync => "sync",
            RepairMode::Async => "async",
            RepairMode::Off => "off",
        };
        request.param("repair", word);
    }
    if !options.hedge {
        request.param("hedge", "off");
    }
    // Said either way, like the level: what is asked for here does not hang on what the bucket says.
    request.param("sloppy", if options.sloppy { "on" } else { "off" });
    if options.explain {
        request.param("explain", "1");
    }
    if let Some(floor) = &options.floor {
        request.header(wire::FLOOR, floor.0.as_bytes());
    }
    Ok(request)
}

pub(super) fn write_request(
    method: Method,
    id: &ObjectId,
    value: Option<Value>,
    options: &WriteOptions,
) -> Result<Request, Error> {
    let mut request = Request::new(method, object_path("kv", id)?);
    request.param("w", options.w.to_string());
    // As in a read; the level any means it.
    if options.sloppy || options.w != Level::Any {
        request.param("sloppy", if options.sloppy { "on" } else { "off" });
    }
    if options.durable > 0 {
        request.param("durable", options.durable.to_string());
    }
    if options.explain {
        request.param("explain", "1");
    }
    if options.ttl != Lifetime::Unsaid {
        request.param("ttl", options.ttl.to_string());
    }
    if options.return_body {
        request.param("return", "body");
        request.header("accept", wire::ENVELOPE_TYPE);
    }
    if let Some(context) = &options.context {
        request.header(wire::CONTEXT, context.0.as_bytes());
    }
    if let Some(floor) = &options.floor {
        request.header(wire::FLOOR, floor.0.as_bytes());
    }
    if let Some(key) = &options.idempotency_key {
        request.header(wire::IDEMPOTENCY_KEY, key.to_vec());
    }
    let Some(Value { bytes, content_type, meta }) = value else {
        return Ok(request);
    };
    if let Some(media_type) = content_type {
        request.header("content-type", media_type);
    }
    for (name, content) in meta {
        // Header names have no case, so a name with capitals would come back as another one.
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            let detail = format!("metadata names are lower case over HTTP, got {name:?}");
            return Err(Error::refused(ErrorCode::BadParameter, detail));
        }
        request.header(&format!("{}{name}", wire::META_PREFIX), content);
    }
    request.body = Some(bytes);
    Ok(request)
}

/// Sends a request once. `time` is what the node is given for it.
pub(super) async fn send(
    http: &reqwest::Client,
    endpoint: &Url,
    request: &Request,
    time: Option<Duration>,
) -> Result<Answer, Failure> {
    let mut url = endpoint.clone();
    url.set_path(&request.path);
    {
        let mut query = url.query_pairs_mut();
        query.extend_pairs(request.query.iter().map(|(name, value)| (*name, value.as_str())));
        if let Some(time) = time {
            query.append_pair("timeout", &format!("{}ms", time.as_millis().max(1)));
        }
    }
    if url.query() == Some("") {
        url.set_query(None);
    }
    let mut builder = http.request(request.method.clone(), url);
    for (name, value) in &request.headers {
        builder = builder.header(name.as_str(), value.as_slice());
    }
    if let Some(body) = &request.body {
        builder = builder.body(body.clone());
    }
    let built = builder.build().map_err(|error| {
        Failure::Said(Error::refused(ErrorCode::BadParameter, format!("this cannot be said over HTTP: {error}")))
    })?;
    let mut response = http.execute(built).await.map_err(|error| {
        let unseen = error.is_connect();
        let text = format!("{endpoint}: {}", chain(&error.without_url()));
        if unseen { Failure::Unseen(text) } else { Failure::Lost(text) }
    })?;
    let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
    let mut body = Vec::new();
    while let Some(chunk) =
        response.chunk().await.map_err(|error| Failure::Lost(format!("{endpoint}: {}", chain(&error))))?
    {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(Failure::Said(nonsense("the answer is too long")));
        }
        body.extend_from_slice(&chunk);
    }
    if status.is_success() {
        Ok(Answer { headers, body: body.into() })
    } else {
        Err(Failure::Said(said(status, &body)))
    }
}

/// The error and what it came from: reqwest tells only the outermost.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

/// The error that a response tells of.
fn said(status: StatusCode, body: &[u8]) -> Error {
    match serde_json::from_slice::<ProblemDocument>(body) {
        Ok(problem) => problem.error(),
        Err(_) => {
            // Whatever stands between may have passed the request on before it gave up waiting.
            let refused = status.is_client_error() && status != StatusCode::REQUEST_TIMEOUT;
            let outcome = if refused { Outcome::NotApplied } else { Outcome::Unknown };
            let detail = format!("answered {status} and no problem document: is a Quorate node there?");
            Error::new(wire::unknown_code(status.as_u16()), outcome, detail)
        }
    }
}

/// An answer that makes no sense says nothing about what was done.
fn nonsense(detail: &str) -> Error {
    Error::new(ErrorCode::Internal, Outcome::Unknown, detail)
}

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.headers.get(name)?.to_str().ok()
}

fn floor(answer: &Answer) -> FloorToken {
    FloorToken(header(answer, wire::FLOOR).unwrap_or_default().to_owned())
}

fn views(envelope: Envelope) -> Option<Vec<SiblingView>> {
    envelope.siblings.into_iter().map(wire::EnvelopeSibling::view).collect()
}

pub(super) fn read_answer(answer: &Answer) -> Result<ReadAnswer, Error> {
    let envelope: Envelope =
        serde_json::from_slice(&answer.body).map_err(|error| nonsense(&format!("not an envelope: {error}")))?;
    let etag = match &envelope.etag {
        Some(text) => Some(wire::parse_etag(text).ok_or_else(|| nonsense("the envelope's etag is none"))?),
        None => None,
    };
    Ok(ReadAnswer {
        context: envelope.context.clone().ok_or_else(|| nonsense("the envelope has no context"))?,
        floor: floor(answer),
        etag,
        counted: envelope.read.unwrap_or_default(),
        explain: envelope.explain.clone(),
        siblings: views(envelope).ok_or_else(|| nonsense("the envelope's siblings make no sense"))?,
    })
}

pub(super) fn write_answer(answer: &Answer, options: &WriteOptions) -> Result<WriteAnswer, Error> {
    // The write is done: that its answer makes no sense does not undo it.
    let nonsense = |detail: &str| Error { outcome: Outcome::Applied, ..nonsense(detail) };
    let etag = header(answer, "etag").and_then(wire::parse_etag).ok_or_else(|| nonsense("the answer has no etag"))?;
    let envelope: Option<Envelope> = if options.return_body {
        Some(serde_json::from_slice(&answer.body).map_err(|error| nonsense(&format!("not an envelope: {error}")))?)
    } else {
        None
    };
    let explain = match &envelope {
        Some(envelope) => envelope.explain.clone(),
        None => header(answer, wire::EXPLAIN).and_then(wire::from_base64).and_then(|json| explain(&json)),
    };
    let siblings = match envelope {
        Some(envelope) => Some(views(envelope).ok_or_else(|| nonsense("the envelope's siblings make no sense"))?),
        None => None,
    };
    Ok(WriteAnswer {
        context: header(answer, wire::CONTEXT).map(|token| ContextToken(token.to_owned())),
        floor: floor(answer),
        etag,
        sibling_count: header(answer, wire::SIBLINGS).and_then(|count| count.parse().ok()).unwrap_or(1),
        siblings,
        expires_at: header(answer, wire::EXPIRES_AT).and_then(crate::kv::date::parse_rfc3339),
        replayed: answer.headers.contains_key(wire::REPLAYED),
        counted: counted(answer),
        explain,
    })
}

fn explain(json: &[u8]) -> Option<Explain> {
    serde_json::from_slice(json).ok()
}

/// How the quorum was met: `answered/needed/n`.
fn counted(answer: &Answer) -> Counted {
    let replicas = header(answer, wire::REPLICAS).unwrap_or_default();
    let mut numbers = replicas.split('/').map(|number| number.parse().unwrap_or_default());
    let mut next = || numbers.next().unwrap_or_default();
    let (answered, needed, n) = (next(), next(), next());
    let layout = header(answer, wire::LAYOUT).and_then(|layout| layout.parse().ok()).unwrap_or_default();
    let sloppy = header(answer, wire::SLOPPY).and_then(|count| count.parse().ok()).unwrap_or_default();
    Counted { answered, needed, n, layout, sloppy }
}

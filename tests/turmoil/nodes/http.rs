//! A client as programs are: HTTP over simulated TCP with connections that are kept, idempotency keys, and attempts
//! elsewhere where the first one provably did nothing.
//!
//! What was sent and not answered is of unknown outcome: it is told, and not tried again.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use quorate::env::{BoxFuture, Env};
use quorate::kv::wire::{self, Envelope, EnvelopeSibling, ProblemDocument};
use quorate::kv::{ContextToken, Counted, Error, ErrorCode, FloorToken, Kv, Outcome, ReadAnswer, ReadOptions};
use quorate::kv::{KeyPage, ListOptions, SiblingView, Value, WriteAnswer, WriteOptions};
use quorate::quorum::Level;
use quorate::types::{Bucket, ObjectId};
use turmoil::net::TcpStream;

use super::sights::Sights;
use crate::seams::{Socket, World};

/// Where nodes serve clients.
pub(super) const PORT: u16 = 7400;
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(1);
/// How long an answer may take past the time that the node was given for it.
const GRACE: Duration = Duration::from_millis(250);
/// Attempts of one call.
const ATTEMPTS: u32 = 3;
/// Share of the writes that carry an Idempotency-Key, and of those that have their siblings sent back.
const KEYED: f64 = 0.5;
const SENT_BACK: f64 = 0.1;

type Sender = SendRequest<Full<Bytes>>;

/// Why there is no answer.
enum Failure {
    /// The node never had the request.
    Unseen(String),
    /// It may have.
    Lost(String),
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn floor(&self) -> FloorToken {
        FloorToken(self.header(wire::FLOOR).unwrap_or_default().to_owned())
    }

    fn envelope(&self) -> Result<(Envelope, Vec<SiblingView>), Error> {
        let mut envelope: Envelope = serde_json::from_slice(&self.body).map_err(nonsense)?;
        let siblings = std::mem::take(&mut envelope.siblings);
        let views = siblings.into_iter().map(EnvelopeSibling::view).collect::<Option<_>>();
        Ok((envelope, views.ok_or_else(|| nonsense("a sibling makes no sense"))?))
    }
}

/// An answer that makes no sense is a bug of the edge, and ends the run.
fn nonsense(what: impl std::fmt::Display) -> Error {
    panic!("an answer makes no sense: {what}")
}

/// One host's connections, by node.
pub(super) struct Http {
    env: Env,
    world: Arc<World>,
    sights: Arc<Sights>,
    nodes: usize,
    kept: Mutex<BTreeMap<usize, Vec<Sender>>>,
}

impl Http {
    pub(super) fn new(env: Env, world: Arc<World>, sights: Arc<Sights>, nodes: usize) -> Arc<Self> {
        Arc::new(Self { env, world, sights, nodes, kept: Mutex::default() })
    }

    /// A client that asks this node first.
    pub(super) fn at(self: &Arc<Self>, node: usize) -> Arc<dyn Kv> {
        Arc::new(Client { http: Arc::clone(self), node })
    }

    async fn connect(&self, node: usize) -> io::Result<Sender> {
        let stream = TcpStream::connect((format!("n{node}"), PORT)).await?;
        let socket = Socket::new(stream, Arc::clone(&self.world), false)?;
        let (sender, connection) = handshake(TokioIo::new(socket)).await.map_err(io::Error::other)?;
        // What ends it is told to whoever waits for an answer on it.
        self.env.tasks.spawn(async move { drop(connection.await) });
        self.sights.count("HTTP connections");
        Ok(sender)
    }

    async fn connection(&self, node: usize) -> Result<Sender, Failure> {
        let kept = || self.kept.lock().unwrap().entry(node).or_default().pop();
        while let Some(sender) = kept() {
            if sender.is_ready() {
                self.sights.count("HTTP connections used again");
                return Ok(sender);
            }
        }
        match self.env.timeout(CONNECT, self.connect(node)).await {
            Ok(Ok(sender)) => Ok(sender),
            Ok(Err(error)) => Err(Failure::Unseen(format!("n{node}: {error}"))),
            Err(_) => Err(Failure::Unseen(format!("n{node}: no connection in time"))),
        }
    }

    /// One attempt at one node.
    async fn attempt(&self, node: usize, request: Request<Full<Bytes>>, time: Duration) -> Result<Answer, Failure> {
        let mut sender = self.connection(node).await?;
        let sent = async {
            let response = sender.try_send_request(request).await.map_err(|mut failed| {
                let unseen = failed.take_message().is_some();
                let text = format!("n{node}: {}", failed.error());
                if unseen { Failure::Unseen(text) } else { Failure::Lost(text) }
            })?;
            let (parts, body) = response.into_parts();
            let body = body.collect().await.map_err(|error| Failure::Lost(format!("n{node}: {error}")))?;
            Ok(Answer { status: parts.status, headers: parts.headers, body: body.to_bytes() })
        };
        let answer = match self.env.timeout(time + GRACE, sent).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(Failure::Lost(why))) => {
                self.sights.count("HTTP connections lost under a request");
                return Err(Failure::Lost(why));
            }
            Ok(Err(unseen)) => return Err(unseen),
            Err(_) => {
                self.sights.count("HTTP requests without an answer in time");
                return Err(Failure::Lost(format!("n{node}: no answer in time")));
            }
        };
        if sender.ready().await.is_ok() {
            self.kept.lock().unwrap().entry(node).or_default().push(sender);
        }
        Ok(answer)
    }

    /// Tries, elsewhere as well as long as nothing was done. Nobody minds a read that is done twice.
    async fn execute(&self, node: usize, ask: &Ask, time: Duration) -> Result<Answer, Error> {
        let mut attempts = 0;
        loop {
            let at = (node + attempts as usize) % self.nodes;
            attempts += 1;
            let error = match self.attempt(at, ask.request(at, time), time).await {
                Ok(answer) if answer.status.is_success() => return Ok(answer),
                Ok(answer) => self.said(&answer),
                Err(Failure::Unseen(why)) => {
                    self.sights.count("HTTP connections not had");
                    Error::refused(ErrorCode::Unreachable, why)
                }
                Err(Failure::Lost(why)) => Error::new(ErrorCode::Unreachable, Outcome::Unknown, why),
            };
            let safe = ask.method == Method::GET || error.outcome == Outcome::NotApplied;
            if !safe || attempts == ATTEMPTS || self.env.entropy.chance(0.5) {
                return Err(error);
            }
            self.sights.count("HTTP attempts elsewhere");
        }
    }

    fn said(&self, answer: &Answer) -> Error {
        let problem: ProblemDocument = serde_json::from_slice(&answer.body)
            .unwrap_or_else(|error| panic!("{} without a problem document: {error}: {:?}", answer.status, answer.body));
        assert_eq!(problem.status, answer.status.as_u16());
        self.sights.count(match answer.status.as_u16() {
            504 => "answered 504",
            503 | 507 => "answered 503",
            _ => "answered 4xx",
        });
        assert!(answer.status != StatusCode::INTERNAL_SERVER_ERROR, "{problem:?}");
        problem.error()
    }
}

/// A request that can be sent more than once.
struct Ask {
    method: Method,
    path: String,
    headers: Vec<(&'static str, Vec<u8>)>,
    body: Bytes,
}

impl Ask {
    fn request(&self, node: usize, time: Duration) -> Request<Full<Bytes>> {
        let uri = format!("{}&timeout={}ms", self.path, time.as_millis());
        let mut request = Request::builder().method(self.method.clone()).uri(uri).header("host", format!("n{node}"));
        for (name, value) in &self.headers {
            request = request.header(*name, value.as_slice());
        }
        request.body(Full::new(self.body.clone())).expect("names and values are plain")
    }
}

/// The client API of a cluster, one node first.
struct Client {
    http: Arc<Http>,
    node: usize,
}

impl Client {
    /// A level by one of its names.
    fn word(&self, level: Level) -> String {
        let names: &[Level] = match level {
            Level::Count(1) => &[Level::One, Level::LocalOne],
            Level::Count(2) => &[Level::Two, Level::Quorum, Level::LocalQuorum, Level::EachQuorum],
            Level::Count(3) => &[Level::Three, Level::All],
            _ => &[],
        };
        let at = self.http.env.entropy.below(names.len() as u64 + 1) as usize;
        names.get(at).copied().unwrap_or(level).to_string()
    }

    fn ask(&self, method: Method, id: &ObjectId, level: (&str, Level)) -> Ask {
        let key = std::str::from_utf8(id.key.as_bytes()).expect("plans have plain keys");
        let path = format!("/v1/kv/{}/{key}?{}={}", id.bucket, level.0, self.word(level.1));
        let accept = ("accept", wire::ENVELOPE_TYPE.as_bytes().to_vec());
        Ask { method, path, headers: vec![accept], body: Bytes::new() }
    }

    async fn write(&self, id: ObjectId, value: Option<Value>, options: WriteOptions) -> Result<WriteAnswer, Error> {
        let entropy = &self.http.env.entropy;
        let method = if value.is_some() { Method::PUT } else { Method::DELETE };
        let mut ask = self.ask(method, &id, ("w", options.w));
        ask.body = value.map(|value| value.bytes).unwrap_or_default();
        if let Some(context) = &options.context {
            ask.headers.push((wire::CONTEXT, context.0.clone().into_bytes()));
        }
        let drawn = || entropy.chance(KEYED).then(|| format!("{:032x}", entropy.u128()).into());
        if let Some(key) = options.idempotency_key.or_else(drawn) {
            ask.headers.push((wire::IDEMPOTENCY_KEY, key.to_vec()));
        }
        let sent_back = options.return_body || entropy.chance(SENT_BACK);
        if sent_back {
            ask.path.push_str("&return=body");
        }
        let answer = self.http.execute(self.node, &ask, options.timeout).await?;
        let siblings = if sent_back { Some(answer.envelope()?.1) } else { None };
        let replayed = answer.headers.contains_key(wire::REPLAYED);
        if replayed {
            self.http.sights.count("answered as the first time");
        }
        Ok(WriteAnswer {
            expires_at: None,
            context: answer.header(wire::CONTEXT).map(|token| ContextToken(token.to_owned())),
            floor: answer.floor(),
            etag: answer.header("etag").and_then(wire::parse_etag).ok_or_else(|| nonsense("no etag"))?,
            sibling_count: answer.header(wire::SIBLINGS).and_then(|count| count.parse().ok()).unwrap_or(1),
            siblings,
            replayed,
            counted: Counted::default(),
            explain: None,
        })
    }
}

impl Kv for Client {
    fn get(&self, id: ObjectId, options: ReadOptions) -> BoxFuture<'_, Result<ReadAnswer, Error>> {
        Box::pin(async move {
            let ask = self.ask(Method::GET, &id, ("r", options.r));
            let answer = self.http.execute(self.node, &ask, options.timeout).await?;
            let (envelope, siblings) = answer.envelope()?;
            Ok(ReadAnswer {
                siblings,
                context: envelope.context.ok_or_else(|| nonsense("an envelope without a context"))?,
                floor: answer.floor(),
                etag: None,
                counted: envelope.read.unwrap_or_default(),
                explain: None,
            })
        })
    }

    fn put(&self, id: ObjectId, value: Value, options: WriteOptions) -> BoxFuture<'_, Result<WriteAnswer, Error>> {
        Box::pin(self.write(id, Some(value), options))
    }

    fn delete(&self, id: ObjectId, options: WriteOptions) -> BoxFuture<'_, Result<WriteAnswer, Error>> {
        Box::pin(self.write(id, None, options))
    }

    fn list(&self, _: Bucket, _: ListOptions) -> BoxFuture<'_, Result<KeyPage, Error>> {
        Box::pin(async { Err(Error::refused(ErrorCode::NotYet, "these runs list nothing")) })
    }
}

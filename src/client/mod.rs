//! The typed client over HTTP: a [`Kv`] that lives elsewhere.
//!
//! It knows several endpoints and goes on to the next where that is safe. **Safe** means: the request provably was not
//! taken (no connection, a refusal that says `not_applied`), or it is a read, or it carries an Idempotency-Key, so that
//! the same write twice is one write. The client draws such a key for every write that has none. What one call tells is
//! the weakest of what its attempts told (I-HONEST). One budget, the call's timeout, covers all attempts with their
//! backoff, and travels along.
//!
//! Keys that are not plain go by `key_b64`, since URL libraries collapse `.`, `..` and even `%2e%2e`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error as ThisError;

use crate::env::{BoxFuture, Env};
use crate::kv::layouts::{
    AbortRequest, Begun, CommitRequest, ForceRequest, LayoutView, OperationView, PlanRequest, PlanView, SkipRequest,
};
use crate::kv::{
    Error, ErrorCode, HintsView, HintsWaited, KeyPage, Kv, ListOptions, Members, Outcome, Owners, ReadAnswer,
    ReadOptions, RepairBegun, RepairRequest, RingView, Status, Steer, TombstonesView, Value, WorkerView, WorkersView,
    WriteAnswer, WriteOptions,
};
use crate::types::{Bucket, ObjectId, Wall};

mod attempt;
mod batch;
mod buckets;
mod lists;
mod retry;

use attempt::{Answer, Request};
use retry::{Failure, Retry, Verdict};

/// How long an answer may take past the time that the node was given for it.
const GRACE: Duration = Duration::from_millis(250);
/// The longest time a node takes on.
const MAX_TIMEOUT: Duration = Duration::from_secs(30);

/// What a worker's name may not carry into a path as it is.
const WORKER: AsciiSet = NON_ALPHANUMERIC.remove(b'-');

/// Where the nodes are, and how to try.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientConfig {
    /// Client APIs of nodes: `http://host:port`. The first is tried first; the one that answered last is kept.
    pub endpoints: Vec<String>,
    /// Admin APIs of nodes, for [`Client::status`] and [`Client::members`].
    pub admin_endpoints: Vec<String>,
    /// The secret of the admin APIs.
    pub admin_token: Option<String>,
    /// Most attempts a call.
    pub max_attempts: u32,
    /// Backoff once every endpoint has been tried: up to this, doubling, full jitter.
    pub backoff: Duration,
    /// The most a backoff grows to.
    pub max_backoff: Duration,
    /// Whether a write without an Idempotency-Key is given one.
    pub idempotent: bool,
}

impl ClientConfig {
    /// The defaults, for these client APIs.
    #[must_use]
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            admin_endpoints: Vec::new(),
            admin_token: None,
            max_attempts: 8,
            backoff: Duration::from_millis(20),
            max_backoff: Duration::from_secs(1),
            idempotent: true,
        }
    }
}

/// Why there is no client.
#[derive(Debug, ThisError)]
pub enum ClientError {
    /// No endpoint was given.
    #[error("a client needs at least one endpoint, such as http://127.0.0.1:7400")]
    NoEndpoint,
    /// This is no `http://host:port`.
    #[error("{0:?} is no endpoint: it is http://host:port")]
    BadEndpoint(String),
    /// The HTTP library could not be started.
    #[error("no HTTP client: {0}")]
    Http(#[from] reqwest::Error),
}

/// A client of a cluster. Clones share connections.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    endpoints: Vec<Url>,
    admin: Vec<Url>,
    config: ClientConfig,
    preferred: AtomicUsize,
    env: Env,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("endpoints", &self.0.config.endpoints).finish_non_exhaustive()
    }
}

fn endpoints(texts: &[String]) -> Result<Vec<Url>, ClientError> {
    let parse = |text: &String| {
        let url =
            Url::parse(text).ok().filter(|url| url.scheme() == "http" && url.path() == "/" && url.query().is_none());
        url.ok_or_else(|| ClientError::BadEndpoint(text.clone()))
    };
    texts.iter().map(parse).collect()
}

impl Client {
    /// A client. Connects nowhere yet. `env` gives time and the random bits of Idempotency-Keys and backoff.
    pub fn new(config: ClientConfig, env: Env) -> Result<Self, ClientError> {
        let (nodes, admin) = (endpoints(&config.endpoints)?, endpoints(&config.admin_endpoints)?);
        if nodes.is_empty() {
            return Err(ClientError::NoEndpoint);
        }
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .pool_idle_timeout(Duration::from_secs(20))
            .connect_timeout(Duration::from_secs(1))
            .tcp_nodelay(true)
            .build()?;
        Ok(Self(Arc::new(Inner { http, endpoints: nodes, admin, config, preferred: AtomicUsize::new(0), env })))
    }

    /// Who owns an object.
    pub async fn owners(&self, id: &ObjectId) -> Result<Owners, Error> {
        let request = Request::new(Method::GET, attempt::object_path("owners", id)?);
        self.document(&self.0.endpoints, request).await
    }

    /// How the cluster is, as the first admin endpoint that answers sees it.
    pub async fn status(&self) -> Result<Status, Error> {
        self.admin("/admin/status").await
    }

    /// Who is in the cluster, as the first admin endpoint that answers sees it.
    pub async fn members(&self) -> Result<Members, Error> {
        self.admin("/admin/members").await
    }

    /// Who owns what, as the first admin endpoint that answers sees it.
    pub async fn ring(&self) -> Result<RingView, Error> {
        self.admin("/admin/ring").await
    }

    /// The layouts there are, and how far the members have come with them.
    pub async fn layout(&self) -> Result<LayoutView, Error> {
        self.admin("/admin/layout").await
    }

    /// What a change would come to. The node that answers keeps the plan: the first admin endpoint that can be reached.
    pub async fn plan_layout(&self, request: &PlanRequest) -> Result<PlanView, Error> {
        self.admin_post("/admin/layout/plans", request, true).await
    }

    /// Has a plan's layout decided.
    pub async fn commit_layout(&self, plan: &str, request: CommitRequest) -> Result<Begun, Error> {
        self.admin_post(&format!("/admin/layout/plans/{plan}/commit"), &request, false).await
    }

    /// Leaves out members that are dead for good.
    pub async fn skip_members(&self, request: &SkipRequest) -> Result<Begun, Error> {
        self.admin_post("/admin/layout/skip", request, false).await
    }

    /// Gives up the change under way.
    pub async fn abort_layout(&self, request: &AbortRequest) -> Result<Begun, Error> {
        self.admin_post("/admin/layout/abort", request, false).await
    }

    /// Appends a layout that nobody decides: see [`LayoutAdmin::force`](crate::kv::LayoutAdmin::force).
    pub async fn force_layout(&self, request: &ForceRequest) -> Result<Begun, Error> {
        self.admin_post("/admin/layout/force", request, false).await
    }

    /// How far something that takes time has come.
    pub async fn operation(&self, id: &str) -> Result<OperationView, Error> {
        self.admin(&format!("/admin/operations/{id}")).await
    }

    /// What waits on the first admin endpoint that answers, for owners that missed it.
    pub async fn hints(&self) -> Result<HintsView, Error> {
        self.admin("/admin/hints").await
    }

    /// Waits until the hints that the first admin endpoint that answers held at `until` are replayed, for at most 30 s;
    /// none: those it holds now. The answer names the sync point, to go on with.
    pub async fn wait_for_hints(&self, patience: Duration, until: Option<Wall>) -> Result<HintsWaited, Error> {
        let patience = patience.clamp(Duration::from_millis(1), MAX_TIMEOUT);
        let mut request = self.admin_request(Method::POST, "/admin/hints/wait")?;
        request.param("timeout", format!("{}ms", patience.as_millis().max(1)));
        if let Some(Wall(until)) = until {
            request.param("until", until.to_string());
        }
        read(&self.execute(&self.0.admin, request, MAX_TIMEOUT, true, false).await?)
    }

    /// Deletions that wait to be removed for good, as the first admin endpoint that answers drives it.
    pub async fn tombstones(&self) -> Result<TombstonesView, Error> {
        self.admin("/admin/tombstones").await
    }

    /// What runs in the background of the first node whose admin endpoint answers.
    pub async fn workers(&self) -> Result<WorkersView, Error> {
        self.admin("/admin/workers").await
    }

    /// Tells a worker of that node what to do.
    pub async fn steer(&self, name: &str, steer: Steer) -> Result<WorkerView, Error> {
        let name = utf8_percent_encode(name, &WORKER);
        let request = self.admin_request(Method::POST, &format!("/admin/workers/{name}/{}", steer.as_str()))?;
        self.document(&self.0.admin, request).await
    }

    /// Has the first node whose admin endpoint answers compare what it holds with the other owners, and make equal what
    /// differs; [`Client::operation`] follows it there.
    pub async fn begin_repair(&self, request: &RepairRequest) -> Result<RepairBegun, Error> {
        self.admin_post("/admin/repairs", request, false).await
    }

    async fn admin<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let request = self.admin_request(Method::GET, path)?;
        self.document(&self.0.admin, request).await
    }

    /// `safe`: asked twice it is asked once.
    async fn admin_post<T: DeserializeOwned>(
        &self,
        path: &str,
        document: &impl Serialize,
        safe: bool,
    ) -> Result<T, Error> {
        let mut request = self.admin_request(Method::POST, path)?;
        let body = serde_json::to_vec(document)
            .map_err(|error| Error::refused(ErrorCode::BadParameter, format!("this has no JSON form: {error}")))?;
        request.json(body);
        let answer = self.execute(&self.0.admin, request, MAX_TIMEOUT, safe, false).await?;
        read(&answer)
    }

    fn admin_request(&self, method: Method, path: &str) -> Result<Request, Error> {
        if self.0.admin.is_empty() {
            return Err(Error::refused(ErrorCode::BadParameter, "this client was given no admin endpoint"));
        }
        let mut request = Request::new(method, (path.to_owned(), Vec::new()));
        if let Some(token) = &self.0.config.admin_token {
            request.headers.push(("authorization".to_owned(), format!("Bearer {token}").into_bytes()));
        }
        Ok(request)
    }

    async fn document<T: DeserializeOwned>(&self, endpoints: &[Url], request: Request) -> Result<T, Error> {
        let answer = self.execute(endpoints, request, ReadOptions::default().timeout, true, false).await?;
        read(&answer)
    }

    /// Tries until it is done, refused, or out of time.
    async fn execute(
        &self,
        endpoints: &[Url],
        request: Request,
        budget: Duration,
        safe: bool,
        timed: bool,
    ) -> Result<Answer, Error> {
        let Inner { http, config, env, preferred, .. } = &*self.0;
        let start = env.clock.now();
        let mut retry = Retry::new(safe, config.max_attempts);
        let mut at = preferred.load(Ordering::Relaxed);
        loop {
            let left = budget.saturating_sub(env.clock.now().since(start));
            let share = if safe && endpoints.len() > 1 && retry.may_go_on() { left / 2 } else { left };
            let share = share.clamp(Duration::from_millis(1), MAX_TIMEOUT);
            let endpoint = &endpoints[at % endpoints.len()];
            let sent = attempt::send(http, endpoint, &request, timed.then_some(share));
            let failure = match env.timeout(share + GRACE, sent).await {
                Ok(Ok(answer)) => {
                    if std::ptr::eq(endpoints, self.0.endpoints.as_slice()) {
                        preferred.store(at % endpoints.len(), Ordering::Relaxed);
                    }
                    return Ok(answer);
                }
                Ok(Err(failure)) => failure,
                Err(_) => Failure::Lost(format!("{endpoint} did not answer in time")),
            };
            let least = match &failure {
                Failure::Said(error) => error.retry_after.unwrap_or_default(),
                Failure::Unseen(_) | Failure::Lost(_) => Duration::ZERO,
            };
            match retry.after(failure) {
                Verdict::GiveUp(error) => return Err(error),
                Verdict::Again => {}
            }
            at += 1;
            let wait = self.pause(retry.attempts(), endpoints.len(), least);
            let left = budget.saturating_sub(env.clock.now().since(start));
            if left <= wait {
                return Err(retry.out_of_time());
            }
            if !wait.is_zero() {
                env.clock.sleep(wait).await;
            }
        }
    }

    /// None while there are endpoints not yet tried; then at least what they asked for, plus full jitter, doubling.
    fn pause(&self, attempts: u32, endpoints: usize, least: Duration) -> Duration {
        let Inner { config, env, .. } = &*self.0;
        let endpoints = u32::try_from(endpoints).unwrap_or(u32::MAX);
        if attempts < endpoints {
            return Duration::ZERO;
        }
        let round = (attempts / endpoints).saturating_sub(1).min(16);
        let most = config.backoff.saturating_mul(1 << round).min(config.max_backoff);
        let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX).max(1);
        least + Duration::from_micros(env.entropy.below(micros))
    }

    async fn write(
        &self,
        method: Method,
        id: ObjectId,
        value: Option<Value>,
        mut options: WriteOptions,
    ) -> Result<WriteAnswer, Error> {
        if options.idempotency_key.is_none() && self.0.config.idempotent {
            options.idempotency_key = Some(Bytes::from(format!("{:032x}", self.0.env.entropy.u128())));
        }
        let safe = options.idempotency_key.is_some();
        let request = attempt::write_request(method, &id, value, &options)?;
        let answer = self.execute(&self.0.endpoints, request, options.timeout, safe, true).await?;
        attempt::write_answer(&answer, &options)
    }
}

impl Kv for Client {
    fn get(&self, id: ObjectId, options: ReadOptions) -> BoxFuture<'_, Result<ReadAnswer, Error>> {
        Box::pin(async move {
            let request = attempt::read_request(&id, &options)?;
            let answer = self.execute(&self.0.endpoints, request, options.timeout, true, true).await?;
            attempt::read_answer(&answer)
        })
    }

    fn put(&self, id: ObjectId, value: Value, options: WriteOptions) -> BoxFuture<'_, Result<WriteAnswer, Error>> {
        Box::pin(self.write(Method::PUT, id, Some(value), options))
    }

    fn delete(&self, id: ObjectId, options: WriteOptions) -> BoxFuture<'_, Result<WriteAnswer, Error>> {
        Box::pin(self.write(Method::DELETE, id, None, options))
    }

    fn list(&self, bucket: Bucket, options: ListOptions) -> BoxFuture<'_, Result<KeyPage, Error>> {
        Box::pin(async move { self.page(&bucket, &options).await })
    }
}

/// The document that an answer is.
fn read<T: DeserializeOwned>(answer: &Answer) -> Result<T, Error> {
    let nonsense =
        |error| Error::new(ErrorCode::Internal, Outcome::Unknown, format!("not the expected document: {error}"));
    serde_json::from_slice(&answer.body).map_err(nonsense)
}

/// Whether a key may stand in a path as it is: no URL library changes it.
fn is_plain(key: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    key.iter().all(plain) && key.iter().any(|byte| *byte != b'.')
}

//! The HTTP edge: parse, ask the [`Kv`], format. No logic of its own, so that the embedding API, this and the client
//! behave alike; what it needs from a node beside the [`Kv`] is a [`NodeView`], so that it is tested without one.
//!
//! Two routers for two listeners: [`client_router`] (objects, batches, buckets, owners) and [`admin_router`] (health, metrics, status).
//! Both are served by [`serve`], which bounds what a client may hold: connections, header time, header size, body size
//! and body time. Every error is an RFC 9457 problem that carries an [`Outcome`](crate::kv::Outcome) (I-HONEST).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::routing::any;
use http::{HeaderMap, HeaderValue, Method, header};

use crate::env::Env;
use crate::kv::{Kv, NodeView};
use crate::metrics::Metrics;
use crate::quorum::Level;
use crate::types::{Bucket, Mono};

mod admin;
mod batch;
mod body;
mod buckets;
mod connections;
mod head_timer;
mod headers;
mod hints;
mod kv;
mod layouts;
mod lists;
mod owners;
mod params;
mod problem;
mod repairs;
mod routes;
mod serve;
mod tombstones;
mod uri;
mod workers;

pub use admin::{AdminToken, admin_router};
pub use routes::Routes;
pub use serve::{ServeLimits, TcpSocket, serve};

use problem::Problem;
use routes::Answer;

/// What a request may cost, and means where it does not say. Checked once, where the node's configuration is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestLimits {
    /// Most bytes in a value; a longer body is refused before it is buffered.
    pub max_value: usize,
    /// How long a client may take to send a body.
    pub body_time: Duration,
    /// Most bytes of header names and values together. Contexts (32 KiB) must fit.
    pub max_header_bytes: usize,
    /// Most headers.
    pub max_headers: usize,
    /// R, where a request does not say.
    pub r: Level,
    /// W, where a request does not say.
    pub w: Level,
    /// How long a request may take, where it does not say.
    pub timeout: Duration,
    /// Whether fallbacks count, where a request does not say.
    pub sloppy: bool,
}

impl RequestLimits {
    /// The longest a request may take, whatever it says.
    pub const MAX_TIMEOUT: Duration = Duration::from_secs(30);
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            max_value: 1 << 20,
            body_time: Duration::from_secs(30),
            max_header_bytes: 64 * 1024,
            max_headers: 96,
            r: Level::Quorum,
            w: Level::Quorum,
            timeout: Duration::from_secs(1),
            sloppy: false,
        }
    }
}

/// What the handlers share.
pub struct Api {
    kv: Arc<dyn Kv>,
    node: Arc<dyn NodeView>,
    metrics: Arc<Metrics>,
    env: Env,
    limits: RequestLimits,
    /// What every request's name begins with: 48 random bits of this process.
    boot: String,
    requests: AtomicU64,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Api {
    /// An edge on this store and node.
    #[must_use]
    pub fn new(
        kv: Arc<dyn Kv>,
        node: Arc<dyn NodeView>,
        metrics: Arc<Metrics>,
        env: Env,
        limits: RequestLimits,
    ) -> Self {
        let boot = format!("{:012x}-", env.entropy.u64() >> 16);
        Self { kv, node, metrics, env, limits, boot, requests: AtomicU64::new(0) }
    }

    /// What a request may cost, and means where it does not say, in this bucket.
    fn limits_of(&self, bucket: &Bucket) -> RequestLimits {
        let Some(admin) = self.node.bucket_admin() else { return self.limits };
        let own = admin.bucket_values(bucket);
        let max_value = own.max_value.map_or(self.limits.max_value, |most| usize::try_from(most).unwrap_or(usize::MAX));
        let (r, w) = (own.r.unwrap_or(self.limits.r), own.w.unwrap_or(self.limits.w));
        RequestLimits { r, w, max_value, sloppy: own.sloppy.unwrap_or(self.limits.sloppy), ..self.limits }
    }

    /// Names a request: the process, then a count.
    fn request_id(&self) -> String {
        let mut id = String::with_capacity(self.boot.len() + 16);
        id.push_str(&self.boot);
        let count = self.requests.fetch_add(1, Ordering::Relaxed);
        let digits = (64 - count.leading_zeros()).div_ceil(4).max(1);
        id.extend((0..digits).rev().filter_map(|at| char::from_digit((count >> (4 * at)) as u32 & 15, 16)));
        id
    }

    /// Refuses a request whose headers are more than what is taken. A request that does not even fit the connection's
    /// buffer never comes here: hyper answers it with a bare 431.
    fn check_headers(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        let limits = &self.limits;
        if headers.len() <= limits.max_headers && bytes <= limits.max_header_bytes {
            return Ok(());
        }
        let (most, most_bytes) = (limits.max_headers, limits.max_header_bytes);
        Err(Problem::headers_too_large(format!("at most {most} headers with {most_bytes} bytes in all are taken")))
    }

    /// What every answer carries, and the count of it.
    fn finish(&self, method: &Method, started: Mono, answer: Result<Answer, Problem>) -> Answer {
        let id = self.request_id();
        let mut response = match answer {
            Ok(response) => response,
            Err(problem) => problem.into_response(&id, &self.env.entropy),
        };
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::try_from(id) {
            headers.insert(headers::REQUEST_ID, id);
        }
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let time = self.env.clock.now().since(started);
        self.metrics.http.record(method.as_str(), response.status().as_u16(), time);
        response
    }
}

/// The client API: `/v1/kv`, `/v1/batch`, `/v1/buckets`, `/v1/owners`.
pub fn client_router(api: Arc<Api>) -> Routes {
    let rest = Router::new()
        .route("/v1/batch", any(batch::route))
        .route("/v1/buckets", any(buckets::route))
        .route("/v1/buckets/", any(buckets::route))
        .route("/v1/buckets/{*rest}", any(buckets::route))
        .route("/v1/owners", any(owners::route))
        .route("/v1/owners/", any(owners::route))
        .route("/v1/owners/{*rest}", any(owners::route))
        .fallback(client_fallback)
        .with_state(Arc::clone(&api));
    Routes::with_objects(api, rest)
}

/// Paths of the client API that are written down and not built yet.
const CLIENT_NOT_YET: [&str; 1] = ["/v1/openapi.json"];

async fn client_fallback(State(api): State<Arc<Api>>, request: Request) -> Answer {
    let started = api.env.clock.now();
    let problem = Problem::unrouted(request.uri().path(), &CLIENT_NOT_YET);
    api.finish(request.method(), started, Err(problem))
}

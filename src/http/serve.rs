//! The accept loop. Not `axum::serve`, which sets no timer: its header timeouts are inert.
//!
//! What a client may hold is bounded: **connections** by `max_connections`; past that, the connection that has waited
//! longest for a request is closed in favour of the new one (so that a thousand slow sockets keep nobody out), and where
//! all are at work the new one gets a 503 at once. **Time** by one timer, which runs while a request's head is awaited:
//! so it is both the header timeout and the idle timeout. **Header size** by hyper's buffer. Bodies are bounded where they
//! are read.
//!
//! Stopping: no more connections, requests under way are finished, idle connections closed; what is left after `drain`
//! is cut. Dropping the future cuts at once.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::serve::Listener;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::env::Env;
use crate::metrics::Metrics;

/// What the clients of one listener may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServeLimits {
    /// Most connections at a time.
    pub max_connections: usize,
    /// How long a connection may wait for a request's head, whether nothing of it has come (idle) or a part.
    pub head_time: Duration,
    /// Bytes of buffer a connection: what a request's head must fit in.
    pub max_head: usize,
    /// How long requests may go on after the shutdown.
    pub drain: Duration,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            head_time: Duration::from_secs(30),
            max_head: 128 * 1024,
            drain: Duration::from_secs(20),
        }
    }
}

/// A TCP listener whose connections answer at once (no Nagle) and which survives running out of files.
#[derive(Debug)]
pub struct TcpSocket {
    listener: TcpListener,
    env: Env,
}

impl TcpSocket {
    /// Listens with this listener.
    #[must_use]
    pub fn new(listener: TcpListener, env: Env) -> Self {
        Self { listener, env }
    }
}

impl Listener for TcpSocket {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    // Without it answers wait for acknowledgements: slower, still right.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "cannot turn Nagle's algorithm off");
                    }
                    return (stream, peer);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    self.env.clock.sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// The connections there are. Those waiting for a request are ordered by how long: the first one goes first.
#[derive(Default)]
struct Register {
    next: u64,
    open: usize,
    waiting: BTreeMap<u64, CancellationToken>,
}

struct Connections(Mutex<Register>);

impl Connections {
    fn lock(&self) -> MutexGuard<'_, Register> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a connection, another one's if need be. None where all are at work. It is closed by `cut`, too.
    fn open(self: &Arc<Self>, most: usize, cut: &CancellationToken) -> Option<Connection> {
        let mut register = self.lock();
        if register.open >= most {
            let (_, longest) = register.waiting.pop_first()?;
            longest.cancel();
        }
        register.open += 1;
        drop(register);
        let connection = Connection { all: self.clone(), close: cut.child_token(), waiting: Arc::default() };
        connection.wait();
        Some(connection)
    }
}

/// A connection's place in the register.
struct Connection {
    all: Arc<Connections>,
    close: CancellationToken,
    waiting: Arc<Mutex<Option<u64>>>,
}

impl Connection {
    fn waiting(&self) -> MutexGuard<'_, Option<u64>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It waits for a request from now on.
    fn wait(&self) {
        let mut register = self.all.lock();
        let place = register.next;
        register.next += 1;
        register.waiting.insert(place, self.close.clone());
        *self.waiting() = Some(place);
    }

    /// It is at work from now on.
    fn work(&self) {
        let mut register = self.all.lock();
        if let Some(place) = self.waiting().take() {
            register.waiting.remove(&place);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.work();
        let mut register = self.all.lock();
        register.open = register.open.saturating_sub(1);
    }
}

/// Marks its connection as at work until dropped.
struct Working(Arc<Connection>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.wait();
    }
}

/// The router, with the connection's state kept in the register.
struct Tracked {
    router: TowerToHyperService<Router>,
    connection: Arc<Connection>,
}

impl Service<Request<Incoming>> for Tracked {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.connection.work();
        let working = Working(self.connection.clone());
        let answer = self.router.call(request);
        Box::pin(async move {
            let answer = answer.await;
            drop(working);
            answer
        })
    }
}

/// Serves `router` on `listener` until `shutdown`, then drains. Returns when no connection is left.
pub async fn serve<L: Listener>(
    mut listener: L,
    router: Router,
    limits: ServeLimits,
    env: Env,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) {
    let mut http = http1::Builder::new();
    // No `max_headers`: hyper's own bound (100, then a bare 431) costs nothing, any other two allocations a request; the
    // edge takes fewer.
    // No `pipeline_flush`: with it hyper keeps its own 400 and 431 to itself, since what it refused is still in the buffer.
    http.timer(TokioTimer::new()).header_read_timeout(limits.head_time).max_buf_size(limits.max_head);
    let connections = Arc::new(Connections(Mutex::default()));
    let tracker = TaskTracker::new();
    let cut = CancellationToken::new();
    let _cut_when_dropped = cut.clone().drop_guard();
    loop {
        let (io, _) = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let Some(connection) = connections.open(limits.max_connections, &cut) else {
            metrics.http.connections_refused.inc();
            refuse(io).await;
            continue;
        };
        metrics.http.connections.inc();
        let close = connection.close.clone();
        let service = Tracked { router: TowerToHyperService::new(router.clone()), connection: Arc::new(connection) };
        let driven = http.serve_connection(TokioIo::new(io), service);
        let (shutdown, metrics) = (shutdown.clone(), metrics.clone());
        tracker.spawn(async move {
            drive(driven, &close, &shutdown).await;
            metrics.http.connections.dec();
        });
    }
    drop(listener);
    tracker.close();
    tokio::select! {
        biased;
        () = tracker.wait() => {}
        () = env.clock.sleep(limits.drain) => {
            tracing::warn!(connections = tracker.len(), "cutting connections that did not end in time");
            cut.cancel();
            tracker.wait().await;
        }
    }
}

/// Drives one connection to its end.
async fn drive<C>(connection: C, close: &CancellationToken, shutdown: &CancellationToken)
where
    C: Future<Output = hyper::Result<()>> + Graceful,
{
    let (mut connection, mut closed, mut stopping) =
        (pin!(connection), pin!(close.cancelled()), pin!(shutdown.cancelled()));
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            () = closed.as_mut() => return,
            () = stopping.as_mut(), if !draining => {
                draining = true;
                connection.as_mut().finish();
            }
            ended = connection.as_mut() => {
                // A client that breaks off or talks nonsense is its own affair.
                if let Err(error) = ended {
                    tracing::debug!(%error, "a client connection ended badly");
                }
                return;
            }
        }
    }
}

/// A connection that can be told to take no further request.
trait Graceful {
    fn finish(self: std::pin::Pin<&mut Self>);
}

impl<I, S> Graceful for http1::Connection<I, S>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    S: hyper::service::HttpService<Incoming, ResBody = Body>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn finish(self: std::pin::Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Tells one connection too many to come back later: what fits the socket's buffer, without waiting for it.
async fn refuse<Io: tokio::io::AsyncWrite + Unpin>(mut io: Io) {
    const BODY: &str = r#"{"type":"urn:quorate:problem:overloaded","title":"Overloaded","status":503,"code":"overloaded","detail":"too many connections","outcome":"not_applied","retry":"later"}"#;
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        BODY.len()
    );
    // The client may be gone already: nothing to tell it then.
    let _gone = io.write_all(format!("{head}{BODY}").as_bytes()).await;
}

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

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connections::{Connection, Connections, Told};
use super::head_timer::HeadTimer;
use super::routes::{AnyBody, Routes};
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

/// Serves `routes` on `listener` until `shutdown`, then drains. Returns when no connection is left.
pub async fn serve<L: Listener>(
    mut listener: L,
    routes: impl Into<Routes>,
    limits: ServeLimits,
    env: Env,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) {
    let routes = Arc::new(routes.into());
    let mut http = http1::Builder::new();
    // No `max_headers`: hyper's own bound (100, then a bare 431) costs nothing, any other two allocations a request; the
    // edge takes fewer.
    // No `pipeline_flush`: with it hyper keeps its own 400 and 431 to itself, since what it refused is still in the buffer.
    http.header_read_timeout(limits.head_time).max_buf_size(limits.max_head);
    let connections = Connections::new();
    let tracker = TaskTracker::new();
    let _cut_when_dropped = CutWhenDropped(&connections);
    loop {
        let (io, _) = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let Some(connection) = connections.open(limits.max_connections, &routes) else {
            metrics.http.connections_refused.inc();
            refuse(io).await;
            continue;
        };
        metrics.http.connections.inc();
        let connection = Arc::new(connection);
        let served = Arc::clone(&connection);
        let service = service_fn(move |request| {
            let working = served.work();
            async move { Ok::<_, Infallible>(working.0.routes.answer(request).await) }
        });
        let driven = http.timer(HeadTimer::new(limits.head_time)).serve_connection(TokioIo::new(io), service);
        let metrics = Arc::clone(&metrics);
        tracker.spawn(async move {
            drive(driven, &connection).await;
            metrics.http.connections.dec();
        });
    }
    drop(listener);
    connections.tell(Told::Finish);
    tracker.close();
    tokio::select! {
        biased;
        () = tracker.wait() => {}
        () = env.clock.sleep(limits.drain) => {
            tracing::warn!(connections = tracker.len(), "cutting connections that did not end in time");
            connections.tell(Told::Close);
            tracker.wait().await;
        }
    }
}

/// Cuts every connection when the accept loop is dropped.
struct CutWhenDropped<'a>(&'a Connections);

impl Drop for CutWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.tell(Told::Close);
    }
}

/// Drives one connection to its end.
async fn drive<I, S>(http: http1::Connection<I, S>, connection: &Connection)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    S: HttpService<Incoming, ResBody = AnyBody>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut http = pin!(http);
    let (mut waker, mut finishing) = (None, false);
    let ended = poll_fn(|cx| {
        match connection.told(&mut waker, cx) {
            Told::Close => return Poll::Ready(Ok(())),
            Told::Finish if !finishing => {
                finishing = true;
                http.as_mut().graceful_shutdown();
            }
            Told::Finish | Told::Nothing => {}
        }
        http.as_mut().poll(cx)
    });
    // A client that breaks off or talks nonsense is its own affair.
    if let Err(error) = ended.await {
        tracing::debug!(%error, "a client connection ended badly");
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

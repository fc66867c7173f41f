//! Peers over TCP: a few long-lived connections per address, many calls in flight on each.
//!
//! ```text
//! call -> Peer (by address) -> Link (one connection, dialled on demand) -> Calls -> Connection task -> socket
//! accept -> handshake -> Connection task -> Handler
//! ```
//! Each side dials for its own calls. A link that could not be opened, or that broke within a second, is not dialled
//! again before a backoff is over (doubling, with jitter): until then calls fail at once, with the reason.
//!
//! **Bounds**, all in [`TcpConfig`], each hit counted ([`TcpTransport::counters`]): calls in flight and bytes queued per
//! connection; calls waiting for a connection per address; requests served at once per connection (past it the socket
//! is not read); connections accepted, of which a handshake may last [`TcpConfig::handshake_timeout`]; bytes of a frame
//! and of a message. One entry is kept per address ever called.
//!
//! **A new [`Hello`]** retires what was opened under the old one: calls in flight are still answered, later ones use new
//! connections.

mod calls;
mod connection;
mod handshaking;
mod links;
mod net;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use prost::Message;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::calls::{Calls, Limits, MAX_SLOTS, Unsent};
use self::connection::{Connection, Tuning};
use self::links::Peer;
pub use self::net::{Listener, Net, Stream, TokioNet};
use super::counters::{Counters, Gauge, Stats, count};
use super::handshake::Secrets;
use super::messages::{Reply, Request};
use super::{Answer, CallError, Handler, Hello, Transport};
use crate::env::{BoxFuture, Env};
use crate::types::StoreId;

/// Attempts to queue one call, each on another connection, before it fails.
const ATTEMPTS: usize = 3;
/// Pause after a failed accept (out of files, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How the transport behaves. The defaults suit a data centre.
#[derive(Clone, Debug)]
pub struct TcpConfig {
    /// Where to listen (`host:port`); none to only dial.
    pub listen: Option<String>,
    /// The cluster's secrets.
    pub secrets: Secrets,
    /// Connections per address.
    pub connections: usize,
    /// Calls in flight per connection, and calls waiting for a connection per address (at most 1,048,576).
    pub max_in_flight: usize,
    /// Bytes queued per connection; one message is always taken.
    pub max_queued_bytes: usize,
    /// Requests served at once per connection.
    pub max_serving: usize,
    /// Connections accepted at once, handshakes included.
    pub max_inbound: usize,
    /// Bytes of a frame once the peer is authenticated.
    pub max_frame: usize,
    /// Bytes of a message, however many frames it takes.
    pub max_message: usize,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long the handshake may take.
    pub handshake_timeout: Duration,
    /// First and longest pause before a broken link is dialled again.
    pub backoff: (Duration, Duration),
    /// A connection this long silent is asked whether it lives.
    pub idle_probe: Duration,
    /// How long the answer to that may take.
    pub probe_timeout: Duration,
    /// How long a superseded connection is still served.
    pub drain_timeout: Duration,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            listen: None,
            secrets: Secrets::default(),
            connections: 1,
            max_in_flight: 4096,
            max_queued_bytes: 64 << 20,
            max_serving: 4096,
            max_inbound: 1024,
            max_frame: 16 << 20,
            max_message: 64 << 20,
            connect_timeout: Duration::from_secs(2),
            handshake_timeout: Duration::from_secs(2),
            backoff: (Duration::from_millis(25), Duration::from_secs(1)),
            idle_probe: Duration::from_secs(30),
            probe_timeout: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// What happened to a dialled connection.
#[derive(Clone, PartialEq, Debug)]
pub enum LinkEvent {
    /// Opened, to this node.
    Up(Arc<Hello>),
    /// Closed; the text says why. Calls in flight have failed.
    Down(String),
    /// Could not be opened: refused, reset, timed out, rejected.
    Failed(CallError),
}

type Hook = Box<dyn Fn(&str, &LinkEvent) + Send + Sync>;

/// Who this node is, since the last [`Transport::serve`].
struct Identity {
    hello: Arc<Hello>,
    handler: Arc<dyn Handler>,
}

struct Inner {
    env: Env,
    net: Arc<dyn Net>,
    config: TcpConfig,
    secrets: ArcSwap<Secrets>,
    listener: Mutex<Option<Box<dyn Listener>>>,
    identity: ArcSwapOption<Identity>,
    peers: ArcSwap<BTreeMap<String, Arc<Peer>>>,
    adding: Mutex<()>,
    accepted: Mutex<BTreeMap<u64, Weak<Calls>>>,
    next_accepted: AtomicU64,
    stop: CancellationToken,
    tracker: TaskTracker,
    counters: Arc<Counters>,
    hook: ArcSwapOption<Hook>,
}

/// The transport over TCP.
pub struct TcpTransport {
    inner: Arc<Inner>,
    local_address: Option<String>,
}

impl TcpTransport {
    /// Takes the port, where the configuration names one. Connections are accepted from the first
    /// [`Transport::serve`] on.
    pub async fn bind(env: Env, net: Arc<dyn Net>, mut config: TcpConfig) -> io::Result<Self> {
        config.max_in_flight = config.max_in_flight.clamp(1, MAX_SLOTS);
        config.connections = config.connections.max(1);
        config.max_serving = config.max_serving.max(1);
        let listener = match &config.listen {
            Some(address) => Some(net.bind(address).await?),
            None => None,
        };
        let local_address = listener.as_ref().map(|listener| listener.local_address()).transpose()?;
        let inner = Inner {
            env,
            net,
            secrets: ArcSwap::from_pointee(config.secrets.clone()),
            config,
            listener: Mutex::new(listener),
            identity: ArcSwapOption::empty(),
            peers: ArcSwap::default(),
            adding: Mutex::new(()),
            accepted: Mutex::default(),
            next_accepted: AtomicU64::new(0),
            stop: CancellationToken::new(),
            tracker: TaskTracker::new(),
            counters: Arc::default(),
            hook: ArcSwapOption::empty(),
        };
        Ok(Self { inner: Arc::new(inner), local_address })
    }

    /// Where it listens, the port resolved.
    #[must_use]
    pub fn local_address(&self) -> Option<&str> {
        self.local_address.as_deref()
    }

    /// What it counts.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.inner.counters
    }

    /// Has `hook` told of every dialled connection that opens, closes or fails to open, with its address, so that a
    /// peer can be suspected at once. It must not block.
    pub fn on_link(&self, hook: impl Fn(&str, &LinkEvent) + Send + Sync + 'static) {
        self.inner.hook.store(Some(Arc::new(Box::new(hook))));
    }

    /// Changes the secrets; connections that are open stay open.
    pub fn set_secrets(&self, secrets: Secrets) {
        self.inner.secrets.store(Arc::new(secrets));
    }
}

impl Transport for TcpTransport {
    fn serve(&self, hello: Hello, handler: Arc<dyn Handler>) {
        let inner = &self.inner;
        if inner.stop.is_cancelled() {
            // Whoever comes late, a new incarnation while the node stops, would keep handler and transport alive for ever.
            return;
        }
        inner.identity.store(Some(Arc::new(Identity { hello: Arc::new(hello), handler })));
        if inner.stop.is_cancelled() {
            // The shutdown came between.
            return inner.identity.store(None);
        }
        for peer in inner.peers.load().values() {
            peer.retire();
        }
        for calls in lock(&inner.accepted).values().filter_map(Weak::upgrade) {
            calls.drain();
        }
        let listener = lock(&inner.listener).take();
        if let Some(listener) = listener {
            inner.spawn(accept(inner.clone(), listener));
        }
    }

    fn call(
        &self,
        address: &str,
        expect: Option<StoreId>,
        request: Request,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Answer, CallError>> {
        let inner = self.inner.clone();
        let peer = inner.peer(address);
        Box::pin(async move {
            let mut now = inner.env.clock.now();
            let until = now + deadline;
            for _ in 0..ATTEMPTS {
                let calls = match peer.pick() {
                    Ok(calls) => calls,
                    Err(link) => {
                        let calls = links::open(&inner, &peer, link, until).await?;
                        now = inner.env.clock.now();
                        calls
                    }
                };
                if let Some(store) = expect
                    && calls.peer.store != store
                {
                    let there = &calls.peer;
                    let text = format!("{:?} at {} has store {}, not {store}", there.name, peer.address, there.store);
                    return Err(CallError::Rejected(text));
                }
                let call = match calls.send(&request, now, until) {
                    Ok(call) => call,
                    Err(Unsent::Gone) => continue,
                    Err(Unsent::Refused(error)) => return Err(error),
                };
                drop(request);
                let body = call.await?;
                let reply =
                    Reply::decode(body).map_err(|error| CallError::Lost(format!("unreadable reply: {error}")))?;
                return Ok(Answer { from: calls.peer.clone(), reply });
            }
            Err(CallError::NotSent("every connection ended before the request was queued".into()))
        })
    }

    fn stats(&self) -> Stats {
        self.inner.counters.snapshot()
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        let inner = self.inner.clone();
        Box::pin(async move {
            inner.stop.cancel();
            drop(lock(&inner.listener).take());
            // The handler knows this transport: letting go of it lets both be freed.
            inner.identity.store(None);
            inner.tracker.close();
            inner.tracker.wait().await;
        })
    }
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        self.inner.stop.cancel();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    /// Runs `task` until it ends or the transport is shut down, whichever comes first.
    fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let (stop, token) = (self.stop.clone(), self.tracker.token());
        self.env.tasks.spawn(async move {
            let _token = token;
            tokio::select! {
                biased;
                () = stop.cancelled_owned() => {}
                () = task => {}
            }
        });
    }

    /// The entry of an address, made at its first call.
    fn peer(&self, address: &str) -> Arc<Peer> {
        if let Some(peer) = self.peers.load().get(address) {
            return peer.clone();
        }
        let _adding = lock(&self.adding);
        let mut peers = BTreeMap::clone(&self.peers.load());
        let peer =
            peers.entry(address.to_owned()).or_insert_with(|| Arc::new(Peer::new(address, &self.config))).clone();
        self.peers.store(Arc::new(peers));
        peer
    }

    fn tell(&self, address: &str, event: &LinkEvent) {
        if let Some(hook) = &*self.hook.load() {
            hook(address, event);
        }
    }

    fn tuning(&self) -> Tuning {
        let config = &self.config;
        Tuning {
            max_frame: config.max_frame,
            max_message: config.max_message,
            serving: config.max_serving,
            idle_probe: config.idle_probe,
            probe_timeout: config.probe_timeout,
            drain: config.drain_timeout,
        }
    }

    fn limits(&self) -> Limits {
        let config = &self.config;
        Limits { in_flight: config.max_in_flight, queued_bytes: config.max_queued_bytes, message: config.max_message }
    }

    /// The task's half of a connection whose handshake is over.
    fn connection(&self, opened: handshaking::Opened) -> (Arc<Calls>, Connection) {
        let calls = Arc::new(Calls::new(opened.peer, self.counters.clone(), self.limits()));
        let (env, counters) = (self.env.clone(), self.counters.clone());
        (calls.clone(), Connection::new(env, calls, counters, self.tuning(), opened.stream, opened.input))
    }
}

/// Takes connections until the transport is shut down.
async fn accept(inner: Arc<Inner>, listener: Box<dyn Listener>) {
    loop {
        match listener.accept().await {
            Ok(stream) if inner.counters.snapshot().open_inbound < inner.config.max_inbound as u64 => {
                let gauge = Gauge::raise(inner.counters.clone(), |counters| &counters.open_inbound);
                let task = serve_one(inner.clone(), stream);
                inner.spawn(async move {
                    let _gauge = gauge;
                    task.await;
                });
            }
            Ok(_) => count(&inner.counters.inbound_bound_hits),
            Err(error) => {
                tracing::warn!(%error, "accepting a peer's connection failed");
                inner.env.clock.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one accepted connection to its end.
async fn serve_one(inner: Arc<Inner>, stream: Box<dyn Stream>) {
    let Some(identity) = inner.identity.load_full() else { return };
    let opened = match handshaking::open(&inner, None, &identity, stream).await {
        Ok(opened) => opened,
        Err(error) => {
            tracing::info!(%error, "a peer's connection was not taken");
            return;
        }
    };
    let (calls, connection) = inner.connection(opened);
    let number = inner.next_accepted.fetch_add(1, Ordering::Relaxed);
    lock(&inner.accepted).insert(number, Arc::downgrade(&calls));
    let _forget = Forget(inner.clone(), number);
    // `serve` may have come between the handshake and here.
    if !inner.identity.load().as_ref().is_some_and(|now| Arc::ptr_eq(now, &identity)) {
        calls.drain();
    }
    let peer = calls.peer.name.clone();
    let why = connection.served_by(identity.handler.clone()).run().await;
    tracing::debug!(%peer, %why, "a peer's connection ended");
}

/// Takes an accepted connection off the list, however its task ends.
struct Forget(Arc<Inner>, u64);

impl Drop for Forget {
    fn drop(&mut self) {
        lock(&self.0.accepted).remove(&self.1);
    }
}

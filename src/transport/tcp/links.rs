//! The connections to one address: which one a call takes, and how they are opened again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use super::calls::Calls;
use super::handshaking;
use super::{Inner, LinkEvent, TcpConfig, lock};
use crate::env::Env;
use crate::transport::CallError;
use crate::transport::counters::{Gauge, count};
use crate::types::Mono;

/// A connection that lived this long was a good one: the next attempt needs no backoff.
const LIVED: Duration = Duration::from_secs(1);

/// What an attempt to open a connection came to, once it did.
type Attempt = watch::Receiver<Option<Result<Arc<Calls>, CallError>>>;

/// All connections to one address.
pub(super) struct Peer {
    pub(super) address: String,
    links: Vec<Link>,
    next: AtomicUsize,
    waiting: AtomicUsize,
}

struct Link {
    open: ArcSwapOption<Calls>,
    dial: Mutex<Dial>,
}

#[derive(Default)]
struct Dial {
    attempt: Option<Attempt>,
    failures: u32,
    not_before: Mono,
    last: Option<CallError>,
}

impl Peer {
    pub(super) fn new(address: &str, config: &TcpConfig) -> Self {
        let link = || Link { open: ArcSwapOption::empty(), dial: Mutex::default() };
        let links = std::iter::repeat_with(link).take(config.connections).collect();
        Self { address: address.to_owned(), links, next: AtomicUsize::new(0), waiting: AtomicUsize::new(0) }
    }

    /// The connection for the next call, or the number of the link to open for it.
    pub(super) fn pick(&self) -> Result<Arc<Calls>, usize> {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.links.len();
        let open = self.links[at].open.load_full();
        open.filter(|calls| calls.is_usable()).ok_or(at)
    }

    /// Uses new connections from now on, dialled at once.
    pub(super) fn retire(&self) {
        for link in &self.links {
            *lock(&link.dial) = Dial::default();
            if let Some(calls) = link.open.swap(None) {
                calls.retire();
            }
        }
    }
}

/// Counts a call that waits for a connection.
struct WaitingCall<'a>(&'a AtomicUsize);

impl Drop for WaitingCall<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits until the link is open, dialling if nobody does. Every error proves that nothing was sent.
pub(super) async fn open(
    inner: &Arc<Inner>,
    peer: &Arc<Peer>,
    number: usize,
    until: Mono,
) -> Result<Arc<Calls>, CallError> {
    let waiting = WaitingCall(&peer.waiting);
    if peer.waiting.fetch_add(1, Ordering::Relaxed) >= inner.config.max_in_flight {
        count(&inner.counters.in_flight_bound_hits);
        return Err(CallError::Busy("too many calls wait for a connection to this node".into()));
    }
    if inner.stop.is_cancelled() {
        return Err(CallError::NotSent("this node is stopping".into()));
    }
    let mut attempt = attempt(inner, peer, number)?;
    let outcome = async {
        match attempt.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => None,
        }
    };
    let left = until.since(inner.env.clock.now());
    let outcome = inner.env.timeout(left, outcome).await;
    drop(waiting);
    match outcome {
        Ok(Some(result)) => result,
        Ok(None) => Err(CallError::NotSent("connecting was given up".into())),
        Err(_) => Err(CallError::NotSent(format!("no connection to {} in time", peer.address))),
    }
}

/// The attempt under way, or a new one; within the backoff, the last one's error.
fn attempt(inner: &Arc<Inner>, peer: &Arc<Peer>, number: usize) -> Result<Attempt, CallError> {
    let link = &peer.links[number];
    let mut dial = lock(&link.dial);
    if let Some(attempt) = &dial.attempt {
        let ended = attempt.borrow().as_ref().map(|result| result.as_ref().is_ok_and(|calls| calls.is_usable()));
        // An attempt whose task is gone without a word was cancelled, or panicked.
        let abandoned = attempt.has_changed().is_err();
        if ended == Some(true) || (ended.is_none() && !abandoned) {
            return Ok(attempt.clone());
        }
    }
    if inner.env.clock.now() < dial.not_before {
        let unknown = CallError::NotSent("the connection broke".into());
        return Err(dial.last.clone().unwrap_or(unknown));
    }
    let (tell, attempt) = watch::channel(None);
    dial.attempt = Some(attempt.clone());
    drop(dial);
    let task = run(inner.clone(), peer.clone(), number, tell);
    inner.spawn(task);
    Ok(attempt)
}

/// Opens the link and runs its connection to the end.
async fn run(
    inner: Arc<Inner>,
    peer: Arc<Peer>,
    number: usize,
    tell: watch::Sender<Option<Result<Arc<Calls>, CallError>>>,
) {
    let link = &peer.links[number];
    count(&inner.counters.dials);
    let identity = inner.identity.load_full();
    let opened = async {
        let Some(identity) = &identity else {
            return Err(CallError::NotSent("this node does not serve yet".into()));
        };
        let connected = inner.env.timeout(inner.config.connect_timeout, inner.net.connect(&peer.address)).await;
        let stream = match connected {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                count(&inner.counters.failed_dials);
                return Err(CallError::NotSent(format!("connecting to {}: {error}", peer.address)));
            }
            Err(_) => {
                count(&inner.counters.failed_dials);
                return Err(CallError::NotSent(format!("connecting to {} took too long", peer.address)));
            }
        };
        handshaking::open(&inner, Some(&peer.address), identity, stream).await
    };
    let opened = match opened.await {
        Ok(opened) => opened,
        Err(error) => {
            let error = match error {
                CallError::Rejected(text) => CallError::Rejected(format!("{}: {text}", peer.address)),
                other => other,
            };
            lock(&link.dial).failed(&inner, error.clone());
            inner.tell(&peer.address, &LinkEvent::Failed(error.clone()));
            tell.send_replace(Some(Err(error)));
            return;
        }
    };
    let gauge = Gauge::raise(inner.counters.clone(), |counters| &counters.open_outbound);
    let (calls, connection) = inner.connection(opened);
    link.open.store(Some(calls.clone()));
    // `serve` may have come between: then this connection was opened under the old identity.
    if !same(&identity, &inner.identity.load_full()) {
        calls.retire();
    }
    let since = inner.env.clock.now();
    inner.tell(&peer.address, &LinkEvent::Up(calls.peer.clone()));
    tell.send_replace(Some(Ok(calls.clone())));
    let why = connection.run().await;
    drop(gauge);
    let retired = why == "retired";
    if inner.env.clock.now().since(since) >= LIVED || retired {
        lock(&link.dial).failures = 0;
    } else {
        lock(&link.dial).failed(&inner, CallError::NotSent(format!("the connection broke at once: {why}")));
    }
    link.open.rcu(|open| open.clone().filter(|now| !Arc::ptr_eq(now, &calls)));
    tracing::debug!(address = %peer.address, %why, "a connection to a peer ended");
    inner.tell(&peer.address, &LinkEvent::Down(why));
}

fn same<T>(a: &Option<Arc<T>>, b: &Option<Arc<T>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

impl Dial {
    /// No new attempt before the backoff is over: doubled with each failure, then between a half and all of it.
    fn failed(&mut self, inner: &Inner, error: CallError) {
        let (first, longest) = inner.config.backoff;
        let pause = first.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures = self.failures.saturating_add(1);
        self.not_before = inner.env.clock.now() + jittered(&inner.env, pause);
        self.last = Some(error);
    }
}

fn jittered(env: &Env, pause: Duration) -> Duration {
    let half = pause / 2;
    let micros = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
    half + Duration::from_micros(env.entropy.below(micros))
}

//! Faults on the way to peers, over any transport: what `quorate fault` and tests turn on.
//!
//! [`Faults`] stands between a node and its transport and treats each peer, known by its peer address, by a [`Fault`].
//! It sits on both sides of the node, so that **one node's rules cut it off completely**: calls it makes go through the
//! rules, and so do requests that come in (the peer is known by its [`Hello`]). Nothing is made up: a request that is
//! lost was not handled, and a reply that is lost leaves its caller to its deadline, which is what a network does.
//!
//! **Held requests** ([`Fault::hold`]) are how old writes really come back: the caller's deadline passes, and the
//! request is delivered by [`Faults::release`] or when the fault is lifted, after newer ones over newer connections.
//! At most [`MAX_HELD`] per peer are kept; past it a held request is lost.
//!
//! All chance comes from [`Env::entropy`] and all waiting from [`Env::clock`]: a seed decides everything.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::counters::Stats;
use super::messages::{Ask, Refusal, Reply, Request};
use super::{Answer, CallError, Handler, Hello, Stranger, Transport};
use crate::env::{BoxFuture, Env};
use crate::types::StoreId;

/// Most requests held back per peer.
pub const MAX_HELD: usize = 64;
/// How long the place of a lost inbound request is kept when it names no deadline.
const FORGET: Duration = Duration::from_secs(1);

/// What happens between this node and one peer. The default is nothing.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Fault {
    /// Every message is late by this much.
    pub delay: Duration,
    /// And by up to this much more, drawn anew each time: messages overtake each other.
    pub jitter: Duration,
    /// Probability that a message is lost, each way by itself.
    pub loss: f64,
    /// Nothing leaves for the peer: neither requests nor replies.
    pub cut_to: bool,
    /// Nothing arrives from the peer: neither requests nor replies.
    pub cut_from: bool,
    /// Probability that a request is delivered twice.
    pub duplicate: f64,
    /// Probability that a request is held back; see [`Faults::release`].
    pub hold: f64,
}

impl Fault {
    /// Nothing passes in either direction.
    #[must_use]
    pub fn cut() -> Self {
        Self { cut_to: true, cut_from: true, ..Self::default() }
    }
}

/// A transport with faults.
pub struct Faults {
    shared: Arc<Shared>,
}

struct Shared {
    env: Env,
    inner: Arc<dyn Transport>,
    rules: Mutex<Rules>,
    returned: AtomicU64,
}

#[derive(Default)]
struct Rules {
    faults: BTreeMap<String, Fault>,
    held: BTreeMap<String, Vec<Held>>,
}

struct Held {
    expect: Option<StoreId>,
    request: Request,
    deadline: Duration,
}

impl Faults {
    /// Over `inner`, without any fault yet.
    #[must_use]
    pub fn new(env: Env, inner: Arc<dyn Transport>) -> Self {
        Self { shared: Arc::new(Shared { env, inner, rules: Mutex::default(), returned: AtomicU64::new(0) }) }
    }

    /// Sets the fault between this node and the one at `address`. One without [`Fault::hold`] delivers what was held.
    pub fn set(&self, address: &str, fault: Fault) {
        let holds = fault.hold > 0.0;
        self.shared.rules().faults.insert(address.to_owned(), fault);
        if !holds {
            self.release(address);
        }
    }

    /// Lifts every fault and delivers all that was held.
    pub fn heal(&self) {
        let mut rules = self.shared.rules();
        rules.faults.clear();
        let held: Vec<String> = rules.held.keys().cloned().collect();
        drop(rules);
        for address in held {
            self.release(&address);
        }
    }

    /// Delivers the requests held back from `address`, whatever was sent since, oldest last. Their callers are gone.
    pub fn release(&self, address: &str) {
        let held = self.shared.rules().held.remove(address).unwrap_or_default();
        for Held { expect, request, deadline } in held.into_iter().rev() {
            self.shared.returned.fetch_add(1, Ordering::Relaxed);
            let call = self.shared.inner.call(address, expect, request, deadline);
            // Whatever becomes of it, nobody waits for the reply.
            self.shared.env.tasks.spawn(async move { drop(call.await) });
        }
    }

    /// How many requests that were held back have been sent after all.
    #[must_use]
    pub fn returned(&self) -> u64 {
        self.shared.returned.load(Ordering::Relaxed)
    }

    /// The faults that are set now, by address.
    #[must_use]
    pub fn current(&self) -> BTreeMap<String, Fault> {
        self.shared.rules().faults.clone()
    }
}

impl Shared {
    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, address: &str) -> Option<Fault> {
        self.rules().faults.get(address).cloned()
    }

    /// What holds when a message arrives: the fault may have been lifted while it was under way.
    fn arrives(&self, address: &str, cut: impl Fn(&Fault) -> bool) -> bool {
        self.fault(address)
            .is_none_or(|fault| !(cut(&fault) || (fault.loss > 0.0 && self.env.entropy.chance(fault.loss))))
    }

    async fn travel(&self, fault: &Fault) {
        let micros = u64::try_from(fault.jitter.as_micros()).unwrap_or(u64::MAX);
        let extra = if micros == 0 { 0 } else { self.env.entropy.below(micros) };
        let time = fault.delay + Duration::from_micros(extra);
        if !time.is_zero() {
            self.env.clock.sleep(time).await;
        }
    }

    fn hold(&self, address: &str, held: Held) {
        let mut rules = self.rules();
        let queue = rules.held.entry(address.to_owned()).or_default();
        if queue.len() < MAX_HELD {
            queue.push(held);
        }
    }

    /// A call under `fault`; never ends where a message was lost.
    async fn call(self: Arc<Self>, fault: Fault, address: String, held: Held) -> Result<Answer, CallError> {
        if fault.hold > 0.0 && self.env.entropy.chance(fault.hold) {
            self.hold(&address, held);
            return std::future::pending().await;
        }
        self.travel(&fault).await;
        if !self.arrives(&address, |fault| fault.cut_to) {
            return std::future::pending().await;
        }
        let Held { expect, request, deadline } = held;
        // A connection delivers a request once, and a handed-over write is the one request that relies on it: a second
        // coordination would be a second write.
        let once = matches!(request.ask, Some(Ask::HandedWrite(_)));
        if !once && fault.duplicate > 0.0 && self.env.entropy.chance(fault.duplicate) {
            let twin = self.inner.call(&address, expect, request.clone(), deadline);
            self.env.tasks.spawn(async move { drop(twin.await) });
        }
        let result = self.inner.call(&address, expect, request, deadline).await;
        self.travel(&fault).await;
        if result.is_ok() && !self.arrives(&address, |fault| fault.cut_from) {
            return std::future::pending().await;
        }
        result
    }
}

impl Transport for Faults {
    fn serve(&self, hello: Hello, handler: Arc<dyn Handler>) {
        self.shared.inner.serve(hello, Arc::new(Inbound { shared: self.shared.clone(), handler }));
    }

    fn call(
        &self,
        address: &str,
        expect: Option<StoreId>,
        request: Request,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Answer, CallError>> {
        let Some(fault) = self.shared.fault(address) else {
            return self.shared.inner.call(address, expect, request, deadline);
        };
        let (shared, address) = (self.shared.clone(), address.to_owned());
        Box::pin(async move {
            let env = shared.env.clone();
            let call = shared.call(fault, address, Held { expect, request, deadline });
            env.timeout(deadline, call).await.unwrap_or(Err(CallError::TimedOut))
        })
    }

    fn stats(&self) -> Stats {
        self.shared.inner.stats()
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.shared.inner.shutdown()
    }
}

/// The same rules for what comes in.
struct Inbound {
    shared: Arc<Shared>,
    handler: Arc<dyn Handler>,
}

impl Handler for Inbound {
    fn admit(&self, peer: &Hello) -> Result<(), String> {
        self.handler.admit(peer)
    }

    fn lists(&self, address: &str) -> bool {
        self.handler.lists(address)
    }

    fn overhear(&self, stranger: &Stranger) {
        self.handler.overhear(stranger);
    }

    fn handle(&self, from: Arc<Hello>, request: Request) -> BoxFuture<'static, Reply> {
        if self.shared.fault(&from.peer_address).is_none() {
            return self.handler.handle(from, request);
        }
        let (shared, handler) = (self.shared.clone(), self.handler.clone());
        Box::pin(async move {
            let address = &from.peer_address;
            let patience = if request.budget_us == 0 { FORGET } else { Duration::from_micros(request.budget_us) };
            if !shared.arrives(address, |fault| fault.cut_from) {
                // Its caller has given up by then; and if it has not, this is the truth.
                shared.env.clock.sleep(patience).await;
                return Reply::refused(Refusal::Overloaded, "lost on the way by a fault that is set here");
            }
            let reply = handler.handle(from.clone(), request).await;
            if !shared.arrives(address, |fault| fault.cut_to) {
                // A late reply is still a true one.
                shared.env.clock.sleep(patience).await;
            }
            reply
        })
    }
}

#[cfg(test)]
#[path = "faults_tests.rs"]
mod tests;

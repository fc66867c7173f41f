//! Planted bugs: each must be caught by a judge within a bounded number of seeds, else the judges prove nothing.
//!
//! None of them has a switch in the product: what stands between a node and its transport breaks the rule.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate::env::{BoxFuture, Env};
use quorate::transport::messages::{Ask, Reply, Request, Tell, Written};
use quorate::transport::{Answer, CallError, Handler, Hello, Transport};
use quorate::types::StoreId;

/// What is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Plant {
    /// A peer acknowledges a write before its store has answered.
    AcknowledgesEarly,
    /// A reply that comes too late is taken for the answer to the next request of its kind.
    TakesStaleReplies,
    /// Whoever does not acknowledge counts as if it had.
    OneAckTooFew,
}

/// What a node is given for its transport.
pub(super) fn over(plant: Option<Plant>, transport: Arc<dyn Transport>, env: &Env) -> Arc<dyn Transport> {
    match plant {
        None => transport,
        Some(plant) => Arc::new(Planted { plant, inner: transport, env: env.clone(), known: Arc::default() }),
    }
}

/// What is known of a peer.
#[derive(Default)]
struct Known {
    hello: Option<Arc<Hello>>,
    /// Late answers, to writes and to reads.
    stale: [Option<Answer>; 2],
}

struct Planted {
    plant: Plant,
    inner: Arc<dyn Transport>,
    env: Env,
    known: Arc<Mutex<BTreeMap<String, Known>>>,
}

impl Planted {
    /// Waits for the answer longer than it was asked to, for whoever asks next.
    fn keep_for_later(&self, address: &str, kind: usize, call: BoxFuture<'static, Result<Answer, CallError>>) {
        let (known, address) = (Arc::clone(&self.known), address.to_owned());
        self.env.tasks.spawn(async move {
            if let Ok(answer) = call.await {
                known.lock().unwrap().entry(address).or_default().stale[kind] = Some(answer);
            }
        });
    }
}

impl Transport for Planted {
    fn serve(&self, hello: Hello, handler: Arc<dyn Handler>) {
        let early = self.plant == Plant::AcknowledgesEarly;
        let handler = if early { Arc::new(Hasty(handler, self.env.clone())) } else { handler };
        self.inner.serve(hello, handler);
    }

    fn call(
        &self,
        address: &str,
        expect: Option<StoreId>,
        request: Request,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Answer, CallError>> {
        let kind = match &request.ask {
            Some(Ask::Write(_)) => Some(0),
            Some(Ask::Read(_)) => Some(1),
            _ => None,
        };
        if let (Plant::TakesStaleReplies, Some(kind)) = (self.plant, kind) {
            let stale = self.known.lock().unwrap().entry(address.to_owned()).or_default().stale[kind].take();
            let late = self.inner.call(address, expect, request.clone(), deadline * 4);
            if let Some(answer) = stale {
                self.keep_for_later(address, kind, late);
                return Box::pin(async move { Ok(answer) });
            }
            let (env, known, address) = (self.env.clone(), Arc::clone(&self.known), address.to_owned());
            return Box::pin(async move {
                let (tell, mut told) = tokio::sync::oneshot::channel();
                let teller = env.clone();
                teller.tasks.spawn(async move {
                    if let Err(Ok(answer)) = tell.send(late.await) {
                        known.lock().unwrap().entry(address).or_default().stale[kind] = Some(answer);
                    }
                });
                match env.timeout(deadline, &mut told).await {
                    Ok(answer) => answer.unwrap_or(Err(CallError::TimedOut)),
                    Err(_) => Err(CallError::TimedOut),
                }
            });
        }
        let layouts = vec![request.counted];
        let call = self.inner.call(address, expect, request, deadline);
        if self.plant != Plant::OneAckTooFew {
            return call;
        }
        let (known, address) = (Arc::clone(&self.known), address.to_owned());
        Box::pin(async move {
            let answer = call.await;
            let mut known = known.lock().unwrap();
            let known = known.entry(address).or_default();
            if let Ok(answer) = &answer {
                known.hello = Some(Arc::clone(&answer.from));
            }
            let acknowledged = Reply::new(Tell::Written(Written { flushed: true, layouts }));
            match (kind, &known.hello) {
                (Some(0), Some(from)) => Ok(Answer { from: Arc::clone(from), reply: acknowledged }),
                _ => answer,
            }
        })
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.inner.shutdown()
    }
}

/// Says "written" to every write, then writes.
struct Hasty(Arc<dyn Handler>, Env);

impl Handler for Hasty {
    fn admit(&self, peer: &Hello) -> Result<(), String> {
        self.0.admit(peer)
    }

    fn handle(&self, from: Arc<Hello>, request: Request) -> BoxFuture<'static, Reply> {
        let early = matches!(request.ask, Some(Ask::Write(_)));
        if !early {
            return self.0.handle(from, request);
        }
        let layouts = vec![request.counted];
        let (handler, env) = (Arc::clone(&self.0), self.1.clone());
        env.tasks.clone().spawn(async move {
            // It stands in a queue, which a crash takes with it.
            env.clock.sleep(Duration::from_millis(env.entropy.below(300))).await;
            drop(handler.handle(from, request).await);
        });
        Box::pin(async { Reply::new(Tell::Written(Written { flushed: true, layouts })) })
    }
}

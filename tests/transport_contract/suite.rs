//! What every transport promises, as checks that run on any of them: implement [`Bench`], call [`all`].
#![allow(unreachable_pub, reason = "shared by several test crates")]

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use quorate::env::{BoxFuture, Env};
use quorate::transport::messages::{Ask, Copy, Held, Read, Refusal, Reply, Request, Target, Tell};
use quorate::transport::{Answer, CallError, Handler, Hello, Stranger, Transport};
use quorate::types::{ClusterId, Incarnation, NodeId, StoreId};
use tokio::sync::{Semaphore, watch};

/// Long enough never to be reached by a call that works.
const AMPLE: Duration = Duration::from_secs(60);
/// Short enough to wait for.
const SHORT: Duration = Duration::from_millis(50);

/// Makes endpoints of the transport under test.
pub trait Bench: Send + Sync {
    /// A transport that serves nobody yet, and where others will reach it.
    fn endpoint(&self) -> BoxFuture<'_, Endpoint>;
    /// Ends it as a crash does: its tasks are gone, its sockets close without a word.
    fn crash<'a>(&'a self, endpoint: &'a Endpoint) -> BoxFuture<'a, ()>;
    /// An address at which nobody listens.
    fn nowhere(&self) -> String;
}

/// One node's transport.
pub struct Endpoint {
    pub transport: Arc<dyn Transport>,
    pub address: String,
    pub env: Env,
}

/// Runs the whole suite, one check after the other.
pub async fn all(bench: &impl Bench) {
    call_and_reply(bench).await;
    a_thousand_at_once(bench).await;
    deadlines(bench).await;
    expected_store(bench).await;
    admission(bench).await;
    strangers(bench).await;
    death(bench).await;
    nobody_there(bench).await;
    large_messages(bench).await;
    slow_requests_block_nobody(bench).await;
    cancelled_calls_free_their_place(bench).await;
    serving_anew(bench).await;
    shutdown(bench).await;
}

/// A hello that no other has.
pub fn hello(n: u128, address: &str) -> Hello {
    Hello {
        node: NodeId::from_bits(n),
        store: StoreId::from_bits(n + 1000),
        cluster: None,
        incarnation: Incarnation(n),
        generation: 1,
        boot: n as u64,
        name: format!("n{n}"),
        region: "r".into(),
        zone: "z".into(),
        peer_address: address.into(),
        client_address: address.into(),
        protocol: (1, 1),
        settings: 0,
        defaults: String::new(),
    }
}

/// A request that [`Echo`] answers with a copy of `text`.
pub fn ask(text: impl Into<Bytes>) -> Request {
    let target = Target { bucket: "b".into(), generation: 0, key: text.into() };
    Request::new(Ask::Read(Read { target, have: None, to_mend: false }))
}

/// What [`Echo`] answered.
pub fn told(answer: &Answer) -> Bytes {
    match &answer.reply.tell {
        Some(Tell::Copy(Copy { record: Some(record), .. })) => record.clone(),
        other => panic!("no echo: {other:?}"),
    }
}

/// Echoes; requests that begin with `wait` only once [`Echo::let_go`] has been called.
pub struct Echo {
    refuses: Option<String>,
    /// What its layout would list.
    pub lists: Mutex<Option<String>>,
    /// Members of other clusters that called.
    pub overheard: Mutex<Vec<Stranger>>,
    gate: Arc<Semaphore>,
    entered: Arc<watch::Sender<usize>>,
    pub handled: Arc<AtomicUsize>,
}

impl Echo {
    pub fn new() -> Arc<Self> {
        Self::refusing(None)
    }

    fn refusing(refuses: Option<&str>) -> Arc<Self> {
        let entered = Arc::new(watch::Sender::new(0));
        Arc::new(Self {
            refuses: refuses.map(Into::into),
            lists: Mutex::default(),
            overheard: Mutex::default(),
            gate: Arc::new(Semaphore::new(0)),
            entered,
            handled: Arc::default(),
        })
    }

    fn let_go(&self) {
        self.gate.close();
    }

    async fn entered(&self, n: usize) {
        self.entered.subscribe().wait_for(|seen| *seen >= n).await.unwrap();
    }
}

impl Handler for Echo {
    fn admit(&self, _: &Hello) -> Result<(), String> {
        self.refuses.clone().map_or(Ok(()), Err)
    }

    fn lists(&self, address: &str) -> bool {
        self.lists.lock().unwrap().as_deref() == Some(address)
    }

    fn overhear(&self, stranger: &Stranger) {
        self.overheard.lock().unwrap().push(stranger.clone());
    }

    fn handle(&self, _: Arc<Hello>, request: Request) -> BoxFuture<'static, Reply> {
        let (gate, entered, handled) = (self.gate.clone(), self.entered.clone(), self.handled.clone());
        Box::pin(async move {
            handled.fetch_add(1, Ordering::Relaxed);
            let Some(Ask::Read(Read { target, .. })) = request.ask else {
                return Reply::refused(Refusal::Unknown, "only reads");
            };
            if target.key.starts_with(b"wait") {
                entered.send_modify(|n| *n += 1);
                // Only ever closed: that is what lets everybody go.
                drop(gate.acquire().await);
            }
            Reply::new(Tell::Copy(Copy { held: Held::Object.into(), record: Some(target.key), epoch: 0, sealed: 0 }))
        })
    }
}

async fn serving(bench: &impl Bench, n: u128, handler: Arc<Echo>) -> Endpoint {
    let endpoint = bench.endpoint().await;
    endpoint.transport.serve(hello(n, &endpoint.address), handler);
    endpoint
}

async fn pair(bench: &impl Bench) -> (Endpoint, Endpoint, Arc<Echo>) {
    let echo = Echo::new();
    (serving(bench, 1, Echo::new()).await, serving(bench, 2, echo.clone()).await, echo)
}

async fn close(endpoints: &[&Endpoint]) {
    for endpoint in endpoints {
        endpoint.transport.shutdown().await;
    }
}

/// Asks again until `wanted` is met: for what takes effect only after a moment.
async fn until<T>(env: &Env, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..2000 {
        if let Some(value) = attempt().await {
            return value;
        }
        env.clock.sleep(Duration::from_millis(5)).await;
    }
    panic!("never came");
}

async fn joined<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    futures_util::future::join_all(futures).await
}

pub async fn call_and_reply(bench: &impl Bench) {
    let (a, b, _) = pair(bench).await;
    let answer = a.transport.call(&b.address, None, ask("hello"), AMPLE).await.unwrap();
    assert_eq!(told(&answer), "hello");
    assert_eq!(*answer.from, hello(2, &b.address), "the peer's hello arrives whole");
    let back = b.transport.call(&a.address, None, ask("back"), AMPLE).await.unwrap();
    assert_eq!((told(&back), back.from.node), ("back".into(), NodeId::from_bits(1)));
    close(&[&a, &b]).await;
}

pub async fn a_thousand_at_once(bench: &impl Bench) {
    let (a, b, echo) = pair(bench).await;
    let call = |n: usize| a.transport.call(&b.address, None, ask(format!("wait {n}")), AMPLE);
    let calls = joined((0..1000).map(call).collect());
    let release = async {
        echo.entered(1000).await;
        echo.let_go();
    };
    let (answers, ()) = tokio::join!(calls, release);
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(told(answer.as_ref().unwrap()), format!("wait {n}"), "each gets its own reply");
    }
    close(&[&a, &b]).await;
}

pub async fn deadlines(bench: &impl Bench) {
    let (a, b, echo) = pair(bench).await;
    told(&a.transport.call(&b.address, None, ask("open"), AMPLE).await.unwrap());
    let before = a.env.clock.now();
    let error = a.transport.call(&b.address, None, ask("wait"), SHORT).await.unwrap_err();
    assert_eq!(error, CallError::TimedOut);
    assert!(a.env.clock.now().since(before) >= SHORT, "not before its time");
    echo.let_go();
    let answer = a.transport.call(&b.address, None, ask("after"), AMPLE).await.unwrap();
    assert_eq!(told(&answer), "after", "the late reply is nobody else's");
    close(&[&a, &b]).await;
}

pub async fn expected_store(bench: &impl Bench) {
    let (a, b, echo) = pair(bench).await;
    let right = Some(StoreId::from_bits(1002));
    assert_eq!(told(&a.transport.call(&b.address, right, ask("x"), AMPLE).await.unwrap()), "x");
    let wrong = Some(StoreId::from_bits(666));
    let error = a.transport.call(&b.address, wrong, ask("y"), AMPLE).await.unwrap_err();
    assert!(matches!(&error, CallError::Rejected(text) if text.contains("store")), "{error:?}");
    assert_eq!(echo.handled.load(Ordering::Relaxed), 1, "what is rejected was not sent");
    close(&[&a, &b]).await;
}

pub async fn admission(bench: &impl Bench) {
    let a = serving(bench, 1, Echo::new()).await;
    let strict = Echo::refusing(Some("you are not on the list"));
    let b = serving(bench, 2, strict.clone()).await;
    let error = a.transport.call(&b.address, None, ask("x"), AMPLE).await.unwrap_err();
    assert!(matches!(&error, CallError::Rejected(text) if text.contains("not on the list")), "{error:?}");
    let error = b.transport.call(&a.address, None, ask("x"), AMPLE).await.unwrap_err();
    assert!(matches!(&error, CallError::Rejected(text) if text.contains("not on the list")), "{error:?}");
    assert_eq!(strict.handled.load(Ordering::Relaxed), 0);
    close(&[&a, &b]).await;
}

/// Members of two clusters refuse each other; who is called is told whether it was taken for a member.
pub async fn strangers(bench: &impl Bench) {
    for listed in [true, false] {
        let (a, b) = (bench.endpoint().await, bench.endpoint().await);
        let (calling, called) = (Echo::new(), Echo::new());
        *calling.lists.lock().unwrap() = listed.then(|| b.address.clone());
        let of = |n, address: &str| Hello { cluster: Some(ClusterId::from_bits(n)), ..hello(n, address) };
        b.transport.serve(of(2, &b.address), called.clone());
        a.transport.serve(of(1, &a.address), calling.clone());
        let refused = a.transport.call(&b.address, None, ask("x"), AMPLE).await.unwrap_err();
        assert!(matches!(&refused, CallError::Rejected(why) if why.contains("other cluster")), "{refused:?}");
        let dialled = listed.then(|| b.address.clone());
        let cluster = ClusterId::from_bits(1);
        let stranger = Stranger { cluster, name: "n1".into(), address: a.address.clone(), dialled };
        assert_eq!(*called.overheard.lock().unwrap(), [stranger]);
        assert_eq!(*calling.overheard.lock().unwrap(), []);
        assert_eq!(called.handled.load(Ordering::SeqCst), 0);
        close(&[&a, &b]).await;
    }
}

pub async fn death(bench: &impl Bench) {
    let (a, b, echo) = pair(bench).await;
    let calls = (0..20).map(|n| a.transport.call(&b.address, None, ask(format!("wait {n}")), AMPLE)).collect();
    let crash = async {
        echo.entered(20).await;
        bench.crash(&b).await;
    };
    let before = a.env.clock.now();
    let (answers, ()) = tokio::join!(joined(calls), crash);
    for answer in answers {
        assert!(matches!(answer, Err(CallError::Lost(_))), "{answer:?}");
    }
    assert!(a.env.clock.now().since(before) < AMPLE, "known at once, not at the deadline");
    close(&[&a]).await;
}

pub async fn nobody_there(bench: &impl Bench) {
    let a = serving(bench, 1, Echo::new()).await;
    let error = a.transport.call(&bench.nowhere(), None, ask("x"), AMPLE).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent(_)), "{error:?}");
    assert!(error.proves_unseen());
    close(&[&a]).await;
}

pub async fn large_messages(bench: &impl Bench) {
    let (a, b, _) = pair(bench).await;
    let large: Bytes = (0..6usize << 20).map(|n| ((n * 31) >> 3) as u8).collect::<Vec<_>>().into();
    let calls = (0..3).map(|_| a.transport.call(&b.address, None, ask(large.clone()), AMPLE)).collect();
    let small = (0..50).map(|n| a.transport.call(&b.address, None, ask(format!("{n}")), AMPLE)).collect();
    let (calls, small) = tokio::join!(joined(calls), joined(small));
    for answer in calls {
        assert!(told(&answer.unwrap()) == large, "6 MiB there and back, unchanged");
    }
    for (n, answer) in small.into_iter().enumerate() {
        assert_eq!(told(&answer.unwrap()), format!("{n}"));
    }
    close(&[&a, &b]).await;
}

pub async fn slow_requests_block_nobody(bench: &impl Bench) {
    let (a, b, echo) = pair(bench).await;
    let slow = a.transport.call(&b.address, None, ask("wait"), AMPLE);
    let quick = async {
        echo.entered(1).await;
        let answer = a.transport.call(&b.address, None, ask("quick"), AMPLE).await.unwrap();
        echo.let_go();
        told(&answer)
    };
    let (slow, quick) = tokio::join!(slow, quick);
    assert_eq!((told(&slow.unwrap()), quick), ("wait".into(), "quick".into()));
    close(&[&a, &b]).await;
}

pub async fn cancelled_calls_free_their_place(bench: &impl Bench) {
    let (a, b, echo) = pair(bench).await;
    // More calls than any bound allows at once, all given up before they are answered.
    for round in 0..12 {
        let calls =
            joined((0..1000).map(|n| a.transport.call(&b.address, None, ask(format!("wait {n}")), AMPLE)).collect());
        tokio::select! {
            biased;
            _ = calls => panic!("nobody lets them go"),
            () = echo.entered((round + 1) * 300) => {}
        }
    }
    echo.let_go();
    let answer = a.transport.call(&b.address, None, ask("after"), AMPLE).await;
    assert_eq!(told(&answer.unwrap()), "after");
    close(&[&a, &b]).await;
}

pub async fn serving_anew(bench: &impl Bench) {
    let (a, b, echo) = pair(bench).await;
    let flying = a.transport.call(&b.address, None, ask("wait"), AMPLE);
    let change = async {
        echo.entered(1).await;
        let newer = Hello { generation: 2, ..hello(2, &b.address) };
        b.transport.serve(newer, echo.clone());
        let seen = until(&a.env, async || {
            let answer = a.transport.call(&b.address, None, ask("who"), AMPLE).await.ok()?;
            (answer.from.generation == 2).then_some(answer)
        });
        assert_eq!(told(&seen.await), "who");
        echo.let_go();
    };
    let (flying, ()) = tokio::join!(flying, change);
    assert_eq!(told(&flying.unwrap()), "wait", "what was under way is still answered");
    close(&[&a, &b]).await;
}

pub async fn shutdown(bench: &impl Bench) {
    let (a, b, echo) = pair(bench).await;
    let flying = a.transport.call(&b.address, None, ask("wait"), AMPLE);
    let stop = async {
        echo.entered(1).await;
        a.transport.shutdown().await;
    };
    let (flying, ()) = tokio::join!(flying, stop);
    assert!(matches!(flying, Err(CallError::Lost(_))), "{flying:?}");
    a.transport.serve(hello(1, &a.address), echo.clone());
    let later = a.transport.call(&b.address, None, ask("x"), AMPLE).await;
    assert!(matches!(later, Err(CallError::NotSent(_))), "{later:?}");
    let gone = until(&b.env, async || b.transport.call(&a.address, None, ask("x"), AMPLE).await.err());
    assert!(gone.await.proves_unseen());
    close(&[&b]).await;
    // No task is left, once those that just ended have been put away.
    until(&a.env, async || a.env.tasks.is_empty().then_some(())).await;
    until(&b.env, async || b.env.tasks.is_empty().then_some(())).await;
}

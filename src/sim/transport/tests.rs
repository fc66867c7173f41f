//! What a call proves, fault by fault.

use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::sim::net::Link;
use crate::sim::time::{SimTime, run};
use crate::transport::messages::{Ask, Heartbeat, Probe, Tell};
use crate::types::{Digest, Incarnation, NodeId};

const SECOND: Duration = Duration::from_secs(1);

/// Answers heartbeats with their own number, after a while, and remembers them.
struct Echo {
    clock: Arc<SimClock>,
    takes: Duration,
    refuses: Option<u128>,
    heard: Mutex<Vec<u64>>,
}

impl Handler for Echo {
    fn admit(&self, peer: &Hello) -> Result<(), String> {
        if self.refuses == Some(peer.node.bits()) { Err("not you".to_owned()) } else { Ok(()) }
    }

    fn handle(&self, from: Arc<Hello>, request: Request) -> BoxFuture<'static, Reply> {
        assert_eq!(from.name, "a");
        let Some(Ask::Heartbeat(heartbeat)) = request.ask else {
            return Box::pin(async { Reply::refused(Refusal::Unknown, "") });
        };
        self.heard.lock().unwrap().push(heartbeat.wall_ms);
        let takes = self.clock.sleep(self.takes);
        Box::pin(async move {
            takes.await;
            Reply::new(Tell::Alive(heartbeat))
        })
    }
}

fn hello(name: &str, number: u128) -> Hello {
    Hello {
        node: NodeId::from_bits(number),
        store: StoreId::from_bits(number),
        cluster: None,
        incarnation: Incarnation(number),
        generation: 1,
        boot: 1,
        name: name.to_owned(),
        region: String::new(),
        zone: String::new(),
        peer_address: format!("{name}:1"),
        client_address: String::new(),
        protocol: (1, 1),
        settings: 0,
        defaults: String::new(),
    }
}

/// Two processes, `a` (number 1) and `b` (number 2), and their network.
struct Pair {
    time: SimTime,
    net: SimNet,
    a: Arc<SimTransport>,
    b: Arc<SimTransport>,
    clock_b: Arc<SimClock>,
    echo: Arc<Echo>,
    _tasks: Tasks,
}

fn echo(clock: &Arc<SimClock>, takes: Duration, refuses: Option<u128>) -> Arc<Echo> {
    Arc::new(Echo { clock: clock.clone(), takes, refuses, heard: Mutex::default() })
}

impl Pair {
    fn new(time: SimTime, seed: u64, base: Link, takes: Duration) -> Self {
        let tasks = Tasks::default();
        let net = SimNet::new(time, seed, base, &tasks);
        let (clock_a, clock_b) = (SimClock::new(time), SimClock::new(time));
        let (a, b) = (SimTransport::new(&net, clock_a.clone()), SimTransport::new(&net, clock_b.clone()));
        let echo_b = echo(&clock_b, takes, None);
        a.serve(hello("a", 1), echo(&clock_a, takes, None));
        b.serve(hello("b", 2), echo_b.clone());
        Self { time, net, a, b, clock_b, echo: echo_b, _tasks: tasks }
    }

    fn call(&self, number: u64) -> BoxFuture<'static, Result<Answer, CallError>> {
        let ask = Ask::Heartbeat(Heartbeat { wall_ms: number, state: 0, progress: 0 });
        self.a.call("b:1", None, Request::new(ask), SECOND)
    }

    fn heard(&self) -> Vec<u64> {
        self.echo.heard.lock().unwrap().clone()
    }
}

fn with_pair<F: Future<Output = ()>>(base: Link, takes: Duration, body: impl FnOnce(Pair) -> F) {
    run(1, |time| body(Pair::new(time, 1, base, takes))).unwrap();
}

fn quiet(body: impl AsyncFnOnce(Pair)) {
    run(1, |time| body(Pair::new(time, 1, Link::default(), Duration::from_millis(1)))).unwrap();
}

#[test]
fn a_call_is_answered_by_whom_it_reached() {
    quiet(async |pair| {
        let answer = pair.call(7).await.unwrap();
        assert_eq!(answer.from.name, "b");
        assert_eq!(answer.reply.tell, Some(Tell::Alive(Heartbeat { wall_ms: 7, state: 0, progress: 0 })));
        let probe = pair.a.call("b:1", Some(StoreId::from_bits(2)), Request::new(Ask::Probe(Probe::default())), SECOND);
        assert_eq!(probe.await.unwrap().reply, Reply::refused(Refusal::Unknown, ""));
    });
}

#[test]
fn what_was_not_sent_is_told_apart() {
    quiet(async |pair| {
        let ask = || Request::new(Ask::Heartbeat(Heartbeat { wall_ms: 1, state: 0, progress: 0 }));
        assert!(matches!(pair.a.call("c:1", None, ask(), SECOND).await, Err(CallError::NotSent(_))), "nobody listens");
        let other = pair.a.call("b:1", Some(StoreId::from_bits(9)), ask(), SECOND).await;
        assert!(matches!(other, Err(CallError::Rejected(_))), "another store");
        let silent = SimTransport::new(&pair.net, SimClock::new(pair.time));
        assert!(matches!(silent.call("b:1", None, ask(), SECOND).await, Err(CallError::NotSent(_))), "serves not yet");
        let clock = SimClock::new(pair.time);
        silent.serve(hello("c", 3), echo(&clock, SECOND, Some(2)));
        assert!(matches!(silent.call("b:1", None, ask(), SECOND).await, Err(CallError::Rejected(_))), "c refuses b");
        let refused = SimTransport::new(&pair.net, clock.clone());
        refused.serve(hello("d", 4), echo(&clock, SECOND, Some(1)));
        let refused_by_d = pair.a.call("d:1", None, ask(), SECOND).await;
        assert_eq!(refused_by_d, Err(CallError::Rejected("not you".to_owned())));
        assert_eq!(pair.heard(), [0; 0]);
    });
}

#[test]
fn a_cut_before_the_connection_proves_and_a_cut_after_it_does_not() {
    quiet(async |pair| {
        pair.net.cut("a:1", "b:1");
        assert!(matches!(pair.call(1).await, Err(CallError::NotSent(_))));
        pair.net.heal();
        pair.call(2).await.unwrap();
        pair.net.cut("b:1", "a:1");
        assert_eq!(pair.call(3).await, Err(CallError::TimedOut));
        pair.net.heal();
        pair.call(4).await.unwrap();
        assert_eq!(pair.heard(), [2, 3, 4], "one way: what timed out was done");
    });
}

#[test]
fn a_held_frame_comes_after_newer_ones() {
    let link = Link { hold: 1.0, ..Link::default() };
    with_pair(link, Duration::ZERO, |pair| async move {
        pair.call(1).await.unwrap();
        pair.net.cut("a:1", "b:1");
        assert_eq!(pair.call(2).await, Err(CallError::TimedOut));
        pair.net.heal();
        pair.call(3).await.unwrap();
        pair.time.sleep(SECOND).await;
        assert_eq!(pair.heard(), [1, 3, 2]);
        assert_eq!(pair.net.stats().held, 1);
    });
}

#[test]
fn a_frame_outlives_its_sender_but_not_its_receiver() {
    let link = Link { hold: 1.0, ..Link::default() };
    with_pair(link, Duration::ZERO, |pair| async move {
        pair.call(1).await.unwrap();
        pair.net.partition(&["a:1"], &["b:1"]);
        assert_eq!(pair.call(2).await, Err(CallError::TimedOut));
        pair.net.crash("a:1", Death::PowerCut);
        pair.net.heal();
        pair.time.sleep(SECOND).await;
        assert_eq!(pair.heard(), [1, 2]);
    });
    let link = Link { hold: 1.0, ..Link::default() };
    with_pair(link, Duration::ZERO, |pair| async move {
        pair.call(1).await.unwrap();
        pair.net.cut("a:1", "b:1");
        assert_eq!(pair.call(2).await, Err(CallError::TimedOut));
        pair.net.crash("b:1", Death::PowerCut);
        let again = SimTransport::new(&pair.net, pair.clock_b.clone());
        let anew = echo(&pair.clock_b, Duration::ZERO, None);
        again.serve(hello("b", 2), anew.clone());
        pair.net.heal();
        pair.time.sleep(SECOND).await;
        assert_eq!((pair.heard(), anew.heard.lock().unwrap().clone()), (vec![1], vec![]));
    });
}

#[test]
fn a_killed_peer_loses_the_calls_under_way() {
    with_pair(Link::default(), Duration::from_millis(100), |pair| async move {
        let killer = async {
            pair.time.sleep(Duration::from_millis(50)).await;
            pair.net.crash("b:1", Death::Killed);
        };
        let (end, ()) = tokio::join!(pair.call(1), killer);
        assert!(matches!(end, Err(CallError::Lost(_))), "{end:?}");
        assert!(pair.time.now() < 60_000, "known at once, not at the deadline");
        assert!(matches!(pair.call(2).await, Err(CallError::NotSent(_))), "nobody listens any more");
    });
}

#[test]
fn a_machine_without_power_is_silent_until_it_is_back() {
    quiet(async |pair| {
        pair.call(1).await.unwrap();
        pair.net.crash("b:1", Death::PowerCut);
        let before = pair.time.now();
        assert_eq!(pair.call(2).await, Err(CallError::TimedOut), "a connection stood");
        assert_eq!(pair.time.now() - before, 1_000_000);
        let again = SimTransport::new(&pair.net, pair.clock_b.clone());
        again.serve(hello("b", 2), pair.echo.clone());
        assert!(matches!(pair.call(3).await, Err(CallError::Lost(_))), "the new process does not know the connection");
        pair.call(4).await.unwrap();
        assert_eq!(pair.heard(), [1, 4]);
    });
}

#[test]
fn a_paused_node_hears_and_says_nothing_until_it_is_resumed() {
    quiet(async |pair| {
        pair.call(1).await.unwrap();
        assert!(pair.net.pause("b:1"));
        assert_eq!(pair.call(2).await, Err(CallError::TimedOut));
        assert_eq!(pair.heard(), [1]);
        let call = pair.call(3);
        let resume = async {
            pair.time.sleep(Duration::from_millis(500)).await;
            pair.net.resume("b:1");
        };
        let (answer, ()) = tokio::join!(call, resume);
        answer.unwrap();
        assert_eq!(pair.heard(), [1, 2, 3], "what came meanwhile was waiting");
    });
}

#[test]
fn a_doubled_request_is_done_twice_and_answered_once() {
    let link = Link { duplicate: 1.0, ..Link::default() };
    with_pair(link, Duration::ZERO, |pair| async move {
        pair.call(1).await.unwrap();
        pair.time.sleep(SECOND).await;
        assert_eq!(pair.heard(), [1, 1]);
    });
}

#[test]
fn frames_stay_in_order_unless_they_may_be_late() {
    let order_of = |reorder: f64| {
        let mut heard = Vec::new();
        let link = Link { reorder, ..Link::default() };
        with_pair(link, Duration::ZERO, |pair| {
            let heard = &mut heard;
            async move {
                pair.call(0).await.unwrap();
                let calls: Vec<_> = (1..=20).map(|number| pair.call(number)).collect();
                let tasks = Tasks::default();
                for call in calls {
                    tasks.spawn(async move { drop(call.await) });
                }
                pair.time.sleep(SECOND).await;
                *heard = pair.heard();
            }
        });
        heard
    };
    assert_eq!(order_of(0.0), (0..=20).collect::<Vec<_>>());
    let late = order_of(0.5);
    assert!(late.len() == 21 && !late.is_sorted(), "{late:?}");
}

#[test]
fn a_new_identity_makes_connections_anew() {
    quiet(async |pair| {
        let serve = async {
            pair.time.sleep(Duration::from_micros(1_500)).await;
            pair.b.serve(Hello { incarnation: Incarnation(77), ..hello("b", 2) }, pair.echo.clone());
        };
        let (under_way, ()) = tokio::join!(pair.call(1), serve);
        assert_eq!(under_way.unwrap().from.incarnation, Incarnation(2), "what was under way is answered");
        assert_eq!(pair.call(2).await.unwrap().from.incarnation, Incarnation(77));
    });
}

#[test]
fn a_retired_connection_is_left_even_when_the_word_is_lost() {
    quiet(async |pair| {
        pair.call(1).await.unwrap();
        pair.net.cut("b:1", "a:1");
        pair.b.serve(Hello { incarnation: Incarnation(77), ..hello("b", 2) }, pair.echo.clone());
        pair.time.sleep(SECOND).await;
        pair.net.heal();
        assert_eq!(pair.call(2).await.unwrap().from.incarnation, Incarnation(2));
        assert_eq!(pair.call(3).await.unwrap().from.incarnation, Incarnation(77));
    });
}

#[test]
fn a_shutdown_loses_what_is_under_way_and_frees_the_address() {
    quiet(async |pair| {
        let stop = async {
            pair.time.sleep(Duration::from_micros(1_500)).await;
            pair.b.shutdown().await;
        };
        let (under_way, ()) = tokio::join!(pair.call(1), stop);
        assert!(matches!(under_way, Err(CallError::Lost(_))), "{under_way:?}");
        assert!(matches!(pair.call(2).await, Err(CallError::NotSent(_))));
        SimTransport::new(&pair.net, pair.clock_b.clone()).serve(hello("b", 2), pair.echo.clone());
    });
}

#[test]
#[should_panic(expected = "two processes cannot listen at b:1")]
fn an_address_is_taken_once() {
    quiet(async |pair| {
        SimTransport::new(&pair.net, pair.clock_b.clone()).serve(hello("b", 5), pair.echo.clone());
    });
}

#[test]
fn a_seed_decides_every_delivery() {
    let trace = |seed: u64| -> Digest {
        let link = Link { loss: 0.1, duplicate: 0.1, reorder: 0.3, ..Link::default() };
        run(seed, |time| async move {
            let pair = Pair::new(time, seed, link, Duration::from_millis(3));
            for number in 0..50 {
                drop(pair.call(number).await);
            }
            let stats = pair.net.stats();
            assert!(stats.lost > 0 && stats.duplicated > 0 && stats.late > 0, "{stats:?}");
            pair.net.trace()
        })
        .unwrap()
    };
    assert_eq!(trace(5), trace(5));
    assert_ne!(trace(5), trace(6));
}

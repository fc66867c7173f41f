//! The TCP transport over simulated TCP: partitions, crashes, reconnects, short reads and writes, and bits turned over,
//! decided by a seed.
//!
//! Checked for every call: the reply, if there is one, is the one to this request, by the node it was meant for; an
//! error that says "not seen" is true of every request of that call; and once all is healed, calls work again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate::env::{BoxFuture, Buggify, Entropy, Env};
use quorate::transport::messages::{Ask, Copy, Held, Read, Reply, Request, Target, Tell};
use quorate::transport::tcp::{TcpConfig, TcpTransport};
use quorate::transport::{CallError, Handler, Hello, Transport};
use quorate::types::{Incarnation, NodeId, StoreId};

use crate::children::{self, Job, Outcome};
use crate::harness::Test;
use crate::options;
use crate::seams::{HostClock, SimulatedTcp, Whims, World, env};

const HOSTS: [&str; 3] = ["a", "b", "c"];
const PORT: u16 = 7402;
const FAULTS_END: Duration = Duration::from_secs(12);
const END: Duration = Duration::from_secs(16);
const DEADLINE: Duration = Duration::from_millis(500);

const JOB: &str = "transport";
const CALLS: &str = "transport::calls_are_answered_rightly_or_fail_truthfully";
pub(crate) const JOBS: &[Job] = &[Job(JOB, |seed, traced| run(seed, traced).outcome())];
pub(crate) const TESTS: &[Test] = &[
    Test(CALLS, calls_are_answered_rightly_or_fail_truthfully),
    Test("transport::one_seed_is_one_run", || children::repeats(JOB, 1)),
    Test("transport::the_check_notices_a_lie", the_check_notices_a_lie),
];

/// What happened, over all hosts of one run.
#[derive(Default)]
struct Journal {
    /// Which requests were handled, and how often.
    handled: BTreeMap<String, usize>,
    /// Requests of calls that said "not seen".
    unseen: Vec<String>,
    outcomes: BTreeMap<&'static str, usize>,
    after_heal: BTreeMap<(usize, usize), usize>,
    trace: String,
}

impl Journal {
    fn outcome(self) -> Outcome {
        let broken = broken(&self).into_iter().collect();
        let counts = self.outcomes.into_iter().map(|(outcome, count)| (outcome.to_owned(), count as u64)).collect();
        Outcome { counts, broken, trace: self.trace }
    }
}

type Shared = Arc<Mutex<Journal>>;

struct Echo {
    me: usize,
    env: Env,
    journal: Shared,
}

impl Handler for Echo {
    fn admit(&self, _: &Hello) -> Result<(), String> {
        Ok(())
    }

    fn handle(&self, from: Arc<Hello>, request: Request) -> BoxFuture<'static, Reply> {
        let Some(Ask::Read(Read { target, .. })) = request.ask else { panic!("only reads are sent") };
        let name = String::from_utf8(target.key.to_vec()).unwrap();
        assert!(name.starts_with(&format!("{}>{} ", from.name, HOSTS[self.me])), "{name} came to {}", HOSTS[self.me]);
        *self.journal.lock().unwrap().handled.entry(name).or_default() += 1;
        let (env, me) = (self.env.clone(), self.me as u64);
        Box::pin(async move {
            env.clock.sleep(Duration::from_millis(env.entropy.below(30))).await;
            let large = env.entropy.chance(0.02);
            let record = if large { target.key.repeat(20_000).into() } else { target.key };
            Reply::new(Tell::Copy(Copy { held: Held::Object.into(), record: Some(record), epoch: me, sealed: 0 }))
        })
    }
}

fn hello(me: usize, boot: u64) -> Hello {
    Hello {
        node: NodeId::from_bits(me as u128 + 1),
        store: StoreId::from_bits(me as u128 + 1),
        cluster: None,
        incarnation: Incarnation(1),
        generation: 1,
        boot,
        name: HOSTS[me].into(),
        region: "r".into(),
        zone: "z".into(),
        peer_address: format!("{}:{PORT}", HOSTS[me]),
        client_address: String::new(),
        protocol: (1, 1),
        settings: 0,
        defaults: String::new(),
    }
}

/// One host's life, from a boot to a crash or the end.
async fn host(me: usize, seed: u64, world: Arc<World>, journal: Shared) -> turmoil::Result {
    let boot = world.now() / 1_000;
    let env = env(HostClock::new(&world), seed ^ (me as u64) << 32 ^ boot, Buggify::default());
    let config = TcpConfig { listen: Some(format!("0.0.0.0:{PORT}")), ..TcpConfig::default() };
    let transport = Arc::new(TcpTransport::bind(env.clone(), Arc::new(SimulatedTcp(world)), config).await?);
    transport.serve(hello(me, boot), Arc::new(Echo { me, env: env.clone(), journal: journal.clone() }));
    let mut n = 0;
    loop {
        env.clock.sleep(Duration::from_millis(10 + env.entropy.below(30))).await;
        let to = (me + 1 + env.entropy.below(2) as usize) % HOSTS.len();
        let name = format!("{}>{} boot {boot} number {n}", HOSTS[me], HOSTS[to]);
        n += 1;
        env.tasks.spawn(one_call(transport.clone(), me, to, name, journal.clone()));
    }
}

async fn one_call(transport: Arc<TcpTransport>, me: usize, to: usize, name: String, journal: Shared) {
    let target = Target { bucket: "b".into(), generation: 0, key: name.clone().into() };
    let request = Request::new(Ask::Read(Read { target, have: None, to_mend: false }));
    let expect = Some(StoreId::from_bits(to as u128 + 1));
    let result = transport.call(&format!("{}:{PORT}", HOSTS[to]), expect, request, DEADLINE).await;
    let now = turmoil::sim_elapsed().unwrap();
    let mut journal = journal.lock().unwrap();
    let outcome = match &result {
        Ok(answer) => {
            let Some(Tell::Copy(Copy { record: Some(record), epoch, .. })) = &answer.reply.tell else {
                panic!("no echo: {:?}", answer.reply)
            };
            assert!(record.starts_with(name.as_bytes()), "{name} was answered {:?}", &record[..record.len().min(80)]);
            assert_eq!((*epoch, answer.from.name.as_str()), (to as u64, HOSTS[to]));
            if now > FAULTS_END {
                *journal.after_heal.entry((me, to)).or_default() += 1;
            }
            "replies"
        }
        Err(CallError::NotSent(_) | CallError::Busy(_)) => "not sent",
        Err(CallError::Lost(_)) => "lost",
        Err(CallError::TimedOut) => "timed out",
        Err(CallError::Rejected(why)) => panic!("{name} was rejected: {why}"),
    };
    if result.as_ref().is_err_and(CallError::proves_unseen) {
        journal.unseen.push(name.clone());
    }
    *journal.outcomes.entry(outcome).or_default() += 1;
    journal.trace.push_str(&format!("{} {name}: {outcome}\n", now.as_micros()));
}

fn run(seed: u64, traced: bool) -> Journal {
    let whims = Whims { entropy: Entropy::seeded(seed ^ 0xb175), short: 0.1, flipped: 0.001 };
    let (journal, world) = (Shared::default(), World::new(whims, traced));
    let mut builder = turmoil::Builder::new();
    builder
        .rng_seed(seed)
        .epoch(std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000))
        .simulation_duration(END * 2)
        .tick_duration(Duration::from_millis(1))
        .tcp_capacity(1024)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(5));
    let mut sim = builder.build();
    for (me, name) in HOSTS.into_iter().enumerate() {
        let (journal, world) = (journal.clone(), world.clone());
        sim.host(name, move || host(me, seed, world.clone(), journal.clone()));
    }
    sim.client("clock", async {
        #[allow(clippy::disallowed_methods, reason = "ends the simulation")]
        tokio::time::sleep(END).await;
        Ok(())
    });
    let dice = Entropy::seeded(seed);
    let mut down: Option<usize> = None;
    let mut next = Duration::from_secs(2);
    let mut healed = false;
    while !sim.step().unwrap_or_else(|error| panic!("seed {seed}: {error}")) {
        world.stepped(sim.elapsed());
        if sim.elapsed() < next {
            continue;
        }
        next = sim.elapsed() + Duration::from_millis(200 + dice.below(1500));
        if sim.elapsed() > FAULTS_END - Duration::from_secs(2) {
            if !std::mem::replace(&mut healed, true) {
                world.calm();
                for (x, y) in [(0, 1), (0, 2), (1, 2)] {
                    sim.repair(HOSTS[x], HOSTS[y]);
                }
                down.take().into_iter().for_each(|host| sim.bounce(HOSTS[host]));
            }
            continue;
        }
        let x = dice.below(3) as usize;
        let y = (x + 1 + dice.below(2) as usize) % 3;
        match dice.below(6) {
            0 => sim.partition(HOSTS[x], HOSTS[y]),
            1 => sim.partition_oneway(HOSTS[x], HOSTS[y]),
            2 | 3 => sim.repair(HOSTS[x], HOSTS[y]),
            _ => match down.take() {
                Some(host) => sim.bounce(HOSTS[host]),
                None => {
                    sim.crash(HOSTS[x]);
                    down = Some(x);
                }
            },
        }
    }
    drop(sim);
    let mut journal = Arc::into_inner(journal).unwrap().into_inner().unwrap();
    journal.trace.push_str(&world.trace().unwrap_or_default());
    journal.outcomes.insert("bits turned over", world.flips() as usize);
    journal
}

/// What a run broke, if anything.
fn broken(journal: &Journal) -> Option<String> {
    if let Some((name, times)) = journal.handled.iter().find(|(_, times)| **times > 1) {
        return Some(format!("{name} was handled {times} times"));
    }
    if let Some(name) = journal.unseen.iter().find(|name| journal.handled.contains_key(*name)) {
        return Some(format!("{name} was said to be unseen, but was handled"));
    }
    let links = HOSTS.len() * (HOSTS.len() - 1);
    if journal.after_heal.len() < links || journal.after_heal.values().any(|replies| *replies < 30) {
        return Some(format!("calls do not work again after healing: {:?}", journal.after_heal));
    }
    None
}

fn calls_are_answered_rightly_or_fail_truthfully() {
    let seeds = options::seeds(4);
    let totals = children::none_breaks(JOB, CALLS, &seeds);
    // The faults must have bitten, or nothing was tested.
    for outcome in ["replies", "not sent", "lost", "timed out", "bits turned over"] {
        assert!(seeds.len() < 4 || totals.get(outcome).is_some_and(|n| *n > 0), "never seen: {outcome}");
    }
}

fn the_check_notices_a_lie() {
    let mut journal = run(2, false);
    assert_eq!(broken(&journal), None);
    let handled = journal.handled.keys().next().unwrap().clone();
    journal.unseen.push(handled.clone());
    assert!(broken(&journal).is_some_and(|what| what.contains("said to be unseen")));
    journal.unseen.pop();
    journal.handled.insert(handled, 2);
    assert!(broken(&journal).is_some_and(|what| what.contains("handled 2 times")));
}

//! One run: a seed becomes options, a cluster on turmoil hosts, clients on others, faults, a heal, and a verdict.
//!
//! *Safety phase*: clients and nemesis together. *Heal*: every process ended once more, cleanly or not, and started
//! again. *Liveness*: all has to be well within a bounded time, and writes through every node at W = N have to succeed.
//! Then everything is read at R = N through every node, and the judges speak.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use quorate::env::{Buggify, Entropy, Env};
use quorate::kv::{ReadOptions, WriteOptions};
use quorate::quorum::Level;
use quorate::sim::check::Violation;
use quorate::sim::cluster::Keys;
use quorate::sim::drive::forgets;
use quorate::sim::faults::Schedule;
use quorate::sim::history::Recorder;
use quorate::sim::net::Death;
use quorate::sim::workload::{self, Action, Plan, Runner, Step};
use quorate::storage::Durability;
use quorate::types::{Bucket, Key, ObjectId};
use tokio::sync::watch;
use turmoil::Sim;

use super::cluster::{Cluster, Setup, host, seed_of};
use super::http::Http;
use super::nemesis::{LATENCY, Nemesis};
use super::plan::Options;
use super::verdict::{equal, verdict};
use crate::children::Outcome;
use crate::seams::{HostClock, Whims, World, env};

/// Each operation's deadline.
const DEADLINE: Duration = Duration::from_secs(1);
/// How long the healed cluster may take until all is well, and until all replicas are equal.
const PATIENCE: Duration = Duration::from_secs(60);
/// Chance that something a node reads from a peer has a bit turned over.
const FLIPPED: f64 = 0.001;
/// After this much simulated time a run hangs.
const END: Duration = Duration::from_secs(600);
/// Hosts of clients, and clients on each.
const CLIENT_HOSTS: u32 = 3;
const CLIENTS: u32 = 2;
/// The client that asks for progress, and the one that reads everything at the end.
pub(super) const PROGRESS: u32 = u32::MAX - 1;
const LAST: u32 = u32::MAX;

/// How far a run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Founding,
    Faults,
    Verdict,
}

/// What hosts of one run share beside the cluster.
pub(super) struct Shared {
    pub(super) cluster: Arc<Cluster>,
    phase: watch::Sender<Phase>,
    pub(super) recorder: Arc<Recorder>,
    clients_done: AtomicUsize,
    pub(super) violations: Mutex<Vec<Violation>>,
}

impl Shared {
    fn ill(&self, rule: &'static str, detail: String) {
        self.violations.lock().unwrap().push(Violation { rule, about: "cluster".to_owned(), op: None, detail });
    }

    async fn until(&self, phase: Phase) {
        drop(self.phase.subscribe().wait_for(|now| *now == phase).await);
    }

    /// A host of clients: how they reach the nodes, and what carries out their plans.
    fn client(&self, number: u64) -> (Env, Arc<Http>, Runner) {
        let Cluster { world, sights, setup, .. } = &*self.cluster;
        let env = env(HostClock::new(world), seed_of(setup.seed, "client", number), Buggify::default());
        let http = Http::new(env.clone(), Arc::clone(world), Arc::clone(sights), setup.nodes);
        let doors = Arc::clone(&http);
        let runner = Runner {
            nodes: Arc::new(move |node| Some(doors.at(node as usize))),
            decode: Arc::new(Keys::default()),
            clock: Arc::clone(&env.clock),
            recorder: Arc::clone(&self.recorder),
            bucket: Bucket::new("simulated").unwrap(),
            latest: None,
            words: false,
            sloppy: false,
            sessions: false,
            timeout: DEADLINE,
        };
        (env, http, runner)
    }
}

async fn client_host(shared: Arc<Shared>, number: u32, plans: Vec<Vec<Step>>) -> turmoil::Result {
    let (_env, _http, runner) = shared.client(number.into());
    shared.until(Phase::Faults).await;
    let client = |(at, steps): (u32, Vec<Step>)| {
        let runner = runner.clone();
        async move { runner.client(number * CLIENTS + at, &steps).await }
    };
    futures_util::future::join_all((0..).zip(plans).map(client)).await;
    shared.clients_done.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Waits until all is well, and says so if it does not come to be.
async fn well(shared: &Shared, env: &Env) -> bool {
    let give_up = env.clock.now() + PATIENCE;
    while !shared.cluster.ills().is_empty() {
        if env.clock.now() > give_up {
            shared.ill("not-well", format!("{PATIENCE:?} after the heal: {:?}", shared.cluster.ills()));
            return false;
        }
        env.clock.sleep(Duration::from_millis(50)).await;
    }
    true
}

/// The client that comes after the heal: progress, a repeated write, the last reads.
async fn judge(shared: Arc<Shared>) -> turmoil::Result {
    let (env, http, runner) = shared.client(CLIENT_HOSTS.into());
    shared.until(Phase::Verdict).await;
    if !well(&shared, &env).await {
        return Ok(());
    }
    // What a node says of itself travels with its heartbeats.
    env.clock.sleep(Duration::from_secs(1)).await;
    let (nodes, n) = (shared.cluster.setup.nodes as u32, shared.cluster.setup.n);
    let step = |node| Step {
        think: Duration::ZERO,
        node,
        key: "progress".to_owned(),
        action: Action::Union,
        element: format!("progress.{node}"),
        r: n,
        w: n,
    };
    runner.client(PROGRESS, &(0..nodes).map(step).collect::<Vec<_>>()).await;
    repeat(&shared, &http).await;
    // Damage that nobody has read yet comes to light, and is mended.
    for _ in 0..5 {
        let unread = read_all(&http, &runner).await;
        if !well(&shared, &env).await {
            return Ok(());
        }
        if unread == 0 {
            break;
        }
    }
    runner.last_reads(LAST, &(0..nodes).collect::<Vec<_>>(), |_| n).await;
    // Answers do not wait for the slowest owner.
    let give_up = env.clock.now() + PATIENCE;
    while !equal(&shared.cluster).is_empty() && env.clock.now() < give_up {
        env.clock.sleep(Duration::from_millis(250)).await;
    }
    Ok(())
}

/// A write and its repetition through another node, under one Idempotency-Key, are one write.
async fn repeat(shared: &Shared, http: &Arc<Http>) {
    let id = ObjectId::new(Bucket::new("simulated").unwrap(), Key::new("repeated").unwrap());
    let mut replayed = Vec::new();
    for node in [0, 1] {
        let idempotency_key = Some(Bytes::from_static(b"once"));
        let options =
            WriteOptions { w: Level::All, idempotency_key, timeout: Duration::from_secs(5), ..WriteOptions::default() };
        match http.at(node).put(id.clone(), "once".into(), options).await {
            Ok(answer) => replayed.push(answer.replayed),
            Err(error) => return shared.ill("repeated", format!("refused on a healed cluster: {error}")),
        }
    }
    if replayed != [false, true] {
        shared.ill("repeated", format!("replayed: {replayed:?}, not first no, then yes"));
    }
}

/// Reads every object of the history at R = N through the first node; how many could not be read.
async fn read_all(http: &Arc<Http>, runner: &Runner) -> usize {
    let options = ReadOptions { r: Level::All, timeout: Duration::from_secs(5), ..ReadOptions::default() };
    let mut unread = 0;
    for key in runner.keys() {
        let id = ObjectId::new(runner.bucket.clone(), Key::new(key).unwrap());
        unread += usize::from(http.at(0).get(id, options.clone()).await.is_err());
    }
    unread
}

/// A run under way.
struct Drive<'a> {
    sim: Sim<'a>,
    shared: Arc<Shared>,
    nemesis: Nemesis,
}

impl Drive<'_> {
    /// One step; whether every client host is done.
    fn step(&mut self) -> bool {
        let done = self.sim.step().unwrap_or_else(|error| panic!("the simulation ends: {error}"));
        self.shared.cluster.world.stepped(self.sim.elapsed());
        done
    }

    fn steps(&mut self, time: Duration, mut until: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.sim.elapsed() + time;
        while self.sim.elapsed() < end {
            if until(self) {
                return true;
            }
            self.step();
        }
        until(self)
    }

    /// From founding to the verdict. False: it was never founded.
    fn through(&mut self, schedule: &Schedule, entropy: &Entropy) -> bool {
        if !self.steps(PATIENCE, |this| this.shared.cluster.ills().is_empty()) {
            let ills = self.shared.cluster.ills();
            self.shared.ill("not-founded", format!("{ills:?}"));
            return false;
        }
        self.shared.phase.send_replace(Phase::Faults);
        let begun = self.sim.elapsed();
        for event in &schedule.events {
            while self.sim.elapsed() < begun + event.at {
                self.step();
            }
            self.nemesis.apply(&mut self.sim, &event.fault);
        }
        self.nemesis.heal(&mut self.sim);
        // Plans are of a length, but operations that hang take their time.
        let done = |this: &mut Self| this.shared.clients_done.load(Ordering::Relaxed) == CLIENT_HOSTS as usize;
        assert!(self.steps(END / 2, done), "clients hang");
        self.steps(Duration::from_secs(3), |_| false);
        for node in 0..self.shared.cluster.len() {
            self.shared.cluster.disk(node, |disk| disk.heal());
            let stopped = entropy.chance(0.5) && {
                self.shared.cluster.stop(node);
                self.steps(Duration::from_secs(10), |this| !this.sim.is_host_running(host(node)))
            };
            if !stopped {
                self.nemesis.crash(&mut self.sim, node, Death::Killed);
            }
            self.nemesis.start(&mut self.sim, node);
        }
        self.shared.phase.send_replace(Phase::Verdict);
        while !self.step() {}
        true
    }
}

/// Carries out a run.
pub(super) fn run(options: &Options, traced: bool) -> Outcome {
    let Options { seed, nodes, durability, lag, short, plant, .. } = *options;
    let schedule = options.schedule();
    let setup = Setup { seed, nodes, n: 3, durability, lag, plant };
    let n = setup.n;
    let whims = Whims { entropy: Entropy::seeded(seed_of(seed, "sockets", 0)), short, flipped: FLIPPED };
    let cluster = Cluster::new(setup, World::new(whims, traced));
    let shared = Arc::new(Shared {
        cluster: Arc::clone(&cluster),
        phase: watch::Sender::new(Phase::Founding),
        recorder: Arc::default(),
        clients_done: AtomicUsize::new(0),
        violations: Mutex::default(),
    });
    let frail = durability == Durability::Os || schedule.options.kinds.iter().any(|kind| forgets(*kind));
    let steps = options.length.as_micros() / options.think.as_micros();
    let mut plan = Plan::generate(
        seed,
        &workload::Options {
            clients: CLIENT_HOSTS * CLIENTS,
            nodes: nodes as u32,
            steps: steps as u32,
            n,
            strict: true,
            least_w: if frail { 2 } else { 1 },
            one: false,
            least_r: 1,
            latest: false,
            think: options.think,
        },
    );
    let mut builder = turmoil::Builder::new();
    builder
        .rng_seed(seed)
        .epoch(std::time::UNIX_EPOCH + Duration::from_millis(quorate::sim::time::START.0))
        .simulation_duration(END)
        .tick_duration(Duration::from_millis(1))
        .tcp_capacity(1024)
        .repair_rate(0.05)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(LATENCY);
    let mut sim = builder.build();
    for node in 0..nodes {
        let cluster = Arc::clone(&cluster);
        sim.host(host(node), move || Arc::clone(&cluster).live(node));
    }
    let clients: Vec<String> = (0..CLIENT_HOSTS).map(|number| format!("client-{number}")).collect();
    for (number, name) in (0..).zip(&clients) {
        let plans = plan.clients.drain(..CLIENTS as usize).collect();
        sim.client(name.as_str(), client_host(Arc::clone(&shared), number, plans));
    }
    sim.client("judge", judge(Arc::clone(&shared)));
    let entropy = Entropy::seeded(seed_of(seed, "nemesis", 0));
    let nemesis = Nemesis::new(Arc::clone(&cluster), &clients, &entropy);
    let mut drive = Drive { sim, shared: Arc::clone(&shared), nemesis };
    let founded = drive.through(&schedule, &entropy);
    if founded && shared.violations.lock().unwrap().is_empty() {
        shared.violations.lock().unwrap().extend(equal(&cluster));
    }
    (0..nodes).for_each(|node| drive.nemesis.crash(&mut drive.sim, node, Death::Killed));
    drop(drive);
    verdict(options, &schedule, &shared)
}

//! One run: a seed becomes options, a cluster on turmoil hosts, clients on others, faults, a heal, and a verdict.
//!
//! *Safety phase*: clients and nemesis together. *Heal*: every process ended once more, cleanly or not, and started
//! again. *Liveness*: all has to be well within a bounded time, and writes through every node at W = N have to succeed.
//! Then everything is read at R = N through every node, and the judges speak.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use quorate::env::{Buggify, Entropy, Env};
use quorate::kv::{ReadOptions, WriteOptions};
use quorate::quorum::Level;
use quorate::sim::check::{Violation, converge, lost, mono, overlap};
use quorate::sim::cluster::Keys;
use quorate::sim::drive::{forgets, spare_power};
use quorate::sim::faults::{Fault, Kind, Profile, Schedule};
use quorate::sim::history::{self, Event, Line, Recorder};
use quorate::sim::net::Death;
use quorate::sim::workload::{self, Action, Plan, Runner, Step};
use quorate::storage::Durability;
use quorate::types::{Bucket, Key, ObjectId};
use tokio::sync::watch;
use turmoil::Sim;

use super::cluster::{Cluster, Setup, host, seed_of};
use super::http::Http;
use super::nemesis::{LATENCY, Nemesis};
use super::plants::Plant;
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
const PROGRESS: u32 = u32::MAX - 1;
const LAST: u32 = u32::MAX;

/// What every run has.
const ALWAYS: &[fn(&Fault) -> bool] = &[
    |fault| matches!(fault, Fault::Crash { death: Death::Killed, .. }),
    |fault| matches!(fault, Fault::Crash { death: Death::PowerCut, .. }),
    |fault| matches!(fault, Fault::Partition { .. }),
    |fault| matches!(fault, Fault::Pause { .. }),
];

/// What a run is: printed when it fails.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) seed: u64,
    pub(super) nodes: usize,
    pub(super) length: Duration,
    pub(super) durability: Durability,
    /// The faults there may be, and those that there must be.
    pub(super) profile: Profile,
    pub(super) always: &'static [fn(&Fault) -> bool],
    /// Mean time between two steps of a client.
    pub(super) think: Duration,
    pub(super) lag: f64,
    /// Chance that a read or a write of a socket takes a few bytes only.
    pub(super) short: f64,
    pub(super) plant: Option<Plant>,
}

impl Options {
    /// What a seed chooses. Wiped directories and older copies are nothing that sockets have a part in, and stay with the
    /// other tier.
    pub(super) fn of(seed: u64) -> Self {
        let entropy = Entropy::seeded(seed_of(seed, "options", 0));
        let nodes = if entropy.chance(0.5) { 5 } else { 3 };
        let length = Duration::from_secs(20);
        let durability = if entropy.chance(0.25) { Durability::Os } else { Durability::Flush };
        let mut profile = Profile::quorum(nodes, 3, length);
        profile.kinds.retain(|kind| !matches!(kind, Kind::Wipe | Kind::RollBack));
        profile.every = Duration::from_millis(150 + entropy.below(300));
        let think = Duration::from_millis(60 + entropy.below(240));
        let lag = if entropy.chance(0.3) { 0.5 } else { 0.05 };
        let short = [0.0, 0.05, 0.5][entropy.below(3) as usize];
        Self { seed, nodes, length, durability, profile, always: ALWAYS, think, lag, short, plant: None }
    }

    /// The first schedule of this seed that has what there must be.
    fn schedule(&self) -> Schedule {
        let drawn = |number| {
            let mut schedule = Schedule::generate(seed_of(self.seed, "schedule", number), &self.profile);
            if self.durability == Durability::Os {
                spare_power(&mut schedule);
            }
            schedule
        };
        let has = |schedule: &Schedule| {
            self.always.iter().all(|wanted| schedule.events.iter().any(|event| wanted(&event.fault)))
        };
        (0..).map(drawn).find(has).expect("the schedules of a seed have no end")
    }
}

/// How far a run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Founding,
    Faults,
    Verdict,
}

/// What hosts of one run share beside the cluster.
struct Shared {
    cluster: Arc<Cluster>,
    phase: watch::Sender<Phase>,
    recorder: Arc<Recorder>,
    clients_done: AtomicUsize,
    violations: Mutex<Vec<Violation>>,
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
    runner.last_reads(LAST, nodes, n).await;
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

/// What is not equal on all replicas, and what of a replica's own books is wrong.
fn equal(cluster: &Cluster) -> Vec<Violation> {
    let (mut dumps, mut violations) = (BTreeMap::new(), Vec::new());
    for number in 0..cluster.len() {
        let audit = cluster.audit(number);
        let wrong = |detail| Violation { rule: "audit", about: host(number), op: None, detail };
        violations.extend(audit.wrong.into_iter().map(wrong));
        let records = audit.records.into_iter().map(|(key, record)| (key.to_vec(), record.to_vec())).collect();
        dumps.insert(host(number), records);
    }
    violations.extend(converge(&dumps, cluster.setup.n.into()));
    violations
}

/// What an operation after the heal, on a cluster that is well, was not answered with.
fn no_progress(history: &[Line]) -> Vec<Violation> {
    let late = |line: &&Line| matches!(&line.event, Event::Invoke(invoke) if invoke.client == PROGRESS);
    let asked: BTreeMap<u64, &Line> = history.iter().filter(late).map(|line| (line.op, line)).collect();
    let answered = history.iter().filter(|line| matches!(line.event, Event::Ok(_)) && asked.contains_key(&line.op));
    if asked.len() == answered.count() && !asked.is_empty() {
        return Vec::new();
    }
    let ends = history.iter().filter(|line| asked.contains_key(&line.op)).map(|line| format!("{:?}", line.event));
    let detail = ends.collect::<Vec<_>>().join("\n    ");
    vec![Violation { rule: "no-progress", about: "simulated/progress".to_owned(), op: None, detail }]
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

/// What the judges say.
fn verdict(options: &Options, schedule: &Schedule, shared: &Shared) -> Outcome {
    let (cluster, n) = (&shared.cluster, shared.cluster.setup.n);
    let history = shared.recorder.lines();
    let mut violations = std::mem::take(&mut *shared.violations.lock().unwrap());
    if violations.is_empty() {
        violations.extend(no_progress(&history));
        violations.extend(lost::check(&history));
    }
    violations.extend(overlap::check(&history, overlap::Rules { n, lww: false }));
    violations.extend(mono::check(&history, n));
    let sights = &cluster.sights;
    for line in &history {
        sights.count(match line.event {
            Event::Invoke(_) => "operations",
            Event::Ok(_) => "operations answered",
            Event::Info { .. } => "operations of unknown outcome",
            Event::Fail { .. } => "operations refused",
        });
    }
    let tally = cluster.tally();
    for (what, count) in [
        ("sibling writes", tally.siblings),
        ("read repairs", tally.read_repairs),
        ("hedges", tally.hedges),
        ("hand-overs", tally.handovers),
        ("quarantines", tally.quarantines),
        ("new incarnations", tally.incarnations),
        ("failed commits", tally.commit_failures),
        ("rollback proofs", tally.rollbacks),
    ] {
        sights.add(what, count);
    }
    sights.add("bits turned over", cluster.world.flips());
    if tally.clashes > 0 {
        let detail = format!("{} times one dot was met with two values", tally.clashes);
        violations.push(Violation { rule: "clash", about: "cluster".to_owned(), op: None, detail });
    }
    if let Ok(path) = std::env::var("QUORATE_HISTORY") {
        std::fs::write(path, history::write(&history)).unwrap();
    }
    let mut broken: Vec<String> = violations.iter().take(20).map(|violation| format!("  {violation}")).collect();
    if !broken.is_empty() {
        let Options { seed, nodes, length, durability, think, lag, short, .. } = options;
        let what = format!(
            "seed {seed}: {nodes} nodes, {length:?}, durability {durability:?}, a step every {think:?}, {lag} of the \
             commits lag, {short} of the reads and writes are short\n{}\n{} violations",
            schedule.options,
            violations.len()
        );
        broken.insert(0, what);
    }
    let trace = cluster.world.trace().map(|trace| trace + &history::write(&history)).unwrap_or_default();
    Outcome { counts: sights.all(), broken, trace }
}

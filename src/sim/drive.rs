//! One run: a seed becomes options, a cluster, clients, faults, a heal, and a verdict.
//!
//! *Safety phase*: clients and nemesis together. *Heal*: everything connected, correct, resumed; every process ended
//! once more and started again. *Liveness*: within a bounded time no node may be without a vote or a peer. Then every
//! object is read at R = N through every node, and the judges speak: [`lost`], [`overlap`], [`mono`], [`converge`], and
//! the audit of what each store says about its objects.
//!
//! Not in a random run: wiped directories. A wiped node stays out until a layout change takes it in again, so nothing
//! could be read at R = N; scenarios have them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::check::{Violation, converge, lost, mono, overlap};
use super::cluster::{Cluster, Keys, Setup, Wraps};
use super::faults::{self, Kind, Profile, Schedule};
use super::history::{Event, Line, Recorder};
use super::net::Death;
use super::tally::Tally;
use super::time::{CannotSimulate, SimClock, SimTime, run as simulate};
use super::workload::{self, Plan, Runner};
use crate::env::{Entropy, Tasks};
use crate::kv::{ReadOptions, WriteOptions};
use crate::quorum::Level;
use crate::storage::Durability;
use crate::types::{Bucket, Digest, Key, ObjectId};

/// How long the healed cluster may take until nobody is without a vote.
const PATIENCE: Duration = Duration::from_secs(60);
/// Clients of a run.
const CLIENTS: u32 = 8;
/// Each operation's deadline.
const DEADLINE: Duration = Duration::from_secs(1);

/// What one run is: printed when it fails.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// Machines.
    pub nodes: usize,
    /// How long the safety phase lasts.
    pub length: Duration,
    /// How durable a write is when it is acknowledged.
    pub durability: Durability,
    /// The faults there may be.
    pub profile: Profile,
    /// Mean time between two steps of a client.
    pub think: Duration,
    /// Chance that a commit lags behind its mint.
    pub lag: f64,
    /// Between nodes and seams.
    pub wraps: Wraps,
}

impl Options {
    /// What a seed chooses: three or five nodes, durability, pace.
    #[must_use]
    pub fn of(seed: u64, length: Duration) -> Self {
        let entropy = Entropy::seeded(seed ^ 0x0070_7469_6f6e_7300);
        let nodes = if entropy.chance(0.4) { 5 } else { 3 };
        let durability = if entropy.chance(0.25) { Durability::Os } else { Durability::Flush };
        let mut profile = Profile::quorum(nodes, 3, length);
        profile.kinds.remove(&Kind::Wipe);
        profile.every = Duration::from_millis(150 + entropy.below(600));
        let think = Duration::from_millis(100 + entropy.below(500));
        let lag = if entropy.chance(0.3) { 0.5 } else { 0.05 };
        Self { seed, nodes, length, durability, profile, think, lag, wraps: Wraps::default() }
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, nodes, length, durability, think, lag, .. } = self;
        write!(f, "seed {seed}: {nodes} nodes, {length:?}, durability {durability:?}, a step every {think:?}, ")?;
        write!(f, "{lag} of the commits lag")
    }
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// What it was.
    pub options: Options,
    /// The faults that the seed chose.
    pub faults: Schedule,
    /// Broken promises. Empty: all is well.
    pub violations: Vec<Violation>,
    /// All that clients asked and were told.
    pub history: Vec<Line>,
    /// A hash of all that went over the network.
    pub trace: Digest,
    /// What happened.
    pub tally: Tally,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.options, self.faults.options, self.tally)?;
        for violation in self.violations.iter().take(20) {
            writeln!(f, "  {violation}")?;
        }
        if self.violations.len() > 20 {
            writeln!(f, "  and {} more", self.violations.len() - 20)?;
        }
        let seconds = self.options.length.as_secs();
        write!(
            f,
            "replay: QUORATE_SEED={} QUORATE_SECONDS={seconds} cargo test --release --no-default-features --features \
             sim --test sim replay -- --nocapture",
            self.options.seed
        )
    }
}

/// Carries out a run.
///
/// # Errors
/// Where the build cannot simulate.
pub fn run(options: &Options) -> Result<Report, CannotSimulate> {
    simulate(options.seed, |time| drive(time, options.clone()))
}

/// A fault that what was acknowledged on one replica alone does not survive.
fn forgets(kind: Kind) -> bool {
    matches!(kind, Kind::DiskDamage | Kind::RollBack | Kind::Wipe)
}

/// What the schedule may not do to a cluster that flushes nothing: cut the power of more than one machine, ever.
/// Acknowledgements on W >= 2 replicas survive the loss of one.
fn spare_power(schedule: &mut Schedule) {
    for event in &mut schedule.events {
        if let faults::Fault::Crash { node, death } = &mut event.fault
            && *node != 0
        {
            *death = Death::Killed;
        }
    }
    schedule.events.retain(|event| {
        !matches!(
            event.fault,
            faults::Fault::DiskDamage { node, .. } | faults::Fault::RollBack { node } if node != 0
        )
    });
}

async fn drive(time: SimTime, options: Options) -> Report {
    let seed = options.seed;
    let mut schedule = Schedule::generate(seed, &options.profile);
    let careless = options.durability == Durability::Os;
    if careless {
        spare_power(&mut schedule);
    }
    let setup = Setup {
        durability: options.durability,
        lag: options.lag,
        wraps: options.wraps.clone(),
        ..Setup::new(seed, options.nodes)
    };
    let n = setup.n;
    let cluster = Cluster::founded(time, setup).await;
    let steps = options.length.as_micros() / options.think.as_micros().max(1);
    let frail = careless || schedule.options.kinds.iter().any(|kind| forgets(*kind));
    let plan = Plan::generate(
        seed,
        &workload::Options {
            clients: CLIENTS,
            nodes: u32::try_from(options.nodes).unwrap_or(u32::MAX),
            steps: u32::try_from(steps).unwrap_or(u32::MAX),
            n,
            strict: true,
            least_w: if frail { 2 } else { 1 },
            think: options.think,
        },
    );
    let runner = runner(&cluster);
    let (begun, tasks) = (time.now(), Tasks::default());
    let (done, mut all_done) = tokio::sync::mpsc::channel::<()>(1);
    for (client, steps) in plan.clients.into_iter().enumerate() {
        let (runner, done) = (runner.clone(), done.clone());
        tasks.spawn(async move {
            runner.client(u32::try_from(client).unwrap_or(u32::MAX), &steps).await;
            drop(done);
        });
    }
    drop(done);
    for event in &schedule.events {
        time.until(begun + u64::try_from(event.at.as_micros()).unwrap_or(u64::MAX)).await;
        cluster.apply(&event.fault).await;
    }
    // Ends when every client has dropped its sender.
    let _ = all_done.recv().await;
    let mut violations = finish(&cluster, &runner, &Entropy::seeded(seed)).await;
    let history = runner.recorder.lines();
    violations.extend(lost::check(&history));
    violations.extend(overlap::check(&history, overlap::Rules { n, lww: false }));
    violations.extend(mono::check(&history, n));
    if schedule.events.iter().any(|event| matches!(event.fault, faults::Fault::RollBack { .. })) {
        // Nothing is lost by a directory that goes back, but it votes until somebody proves to it that it did, and of a
        // copy a moment old, or where nobody is there who saw more, there is no proof: a read may miss what it forgot.
        violations.retain(|violation| !matches!(violation.rule, "stale" | "went-back"));
    }
    let mut tally = cluster.tally();
    for line in &history {
        match line.event {
            Event::Invoke(_) => tally.operations += 1,
            Event::Ok(_) => tally.answered += 1,
            Event::Info { .. } => tally.unknown += 1,
            Event::Fail { .. } => {}
        }
    }
    let trace = cluster.net().trace();
    cluster.end();
    Report { options, faults: schedule, violations, history, trace, tally }
}

/// A runner of workloads on a cluster, with a history of its own.
#[must_use]
pub fn runner(cluster: &Cluster) -> Runner {
    Runner {
        nodes: cluster.nodes(),
        decode: Arc::new(Keys::default()),
        clock: SimClock::new(cluster.time()),
        recorder: Arc::new(Recorder::default()),
        bucket: Bucket::new("simulated").expect("a good name"),
        timeout: DEADLINE,
    }
}

fn ill(rule: &'static str, about: &str, detail: String) -> Violation {
    Violation { rule, about: about.to_owned(), op: None, detail }
}

/// The end of every run: heals, ends every process and starts it again, waits until all is well, reads everything at
/// R = N through every node, and compares what the replicas hold.
pub async fn finish(cluster: &Cluster, runner: &Runner, entropy: &Entropy) -> Vec<Violation> {
    heal(cluster, entropy).await;
    if !cluster.until_well(PATIENCE).await {
        return vec![ill("not-well", "cluster", format!("{PATIENCE:?} after the heal: {:?}", cluster.ills()))];
    }
    // What a node says of itself travels with its heartbeats.
    cluster.time().sleep(Duration::from_secs(1)).await;
    let mut violations = repeat(cluster, runner).await;
    // Damage that nobody has read yet comes to light, and is mended.
    for _ in 0..5 {
        let unread = read_all(cluster, runner).await;
        cluster.until_well(PATIENCE).await;
        if unread == 0 {
            break;
        }
    }
    let nodes = u32::try_from(cluster.len()).unwrap_or(u32::MAX);
    runner.last_reads(u32::MAX, nodes, cluster.setup().n).await;
    // Answers do not wait for the slowest owner.
    cluster.time().sleep(Duration::from_secs(10)).await;
    let mut dumps = BTreeMap::new();
    for machine in 0..cluster.len() {
        let audit = cluster.audit(machine);
        violations.extend(audit.wrong.into_iter().map(|wrong| ill("audit", &format!("n{machine}"), wrong)));
        let records = audit.records.into_iter().map(|(key, record)| (key.to_vec(), record.to_vec())).collect();
        dumps.insert(format!("n{machine}"), records);
    }
    violations.extend(converge(&dumps, usize::from(cluster.setup().n)));
    violations
}

async fn heal(cluster: &Cluster, entropy: &Entropy) {
    cluster.net().heal();
    for machine in 0..cluster.len() {
        cluster.resume(machine);
        cluster.clock(machine).correct();
    }
    cluster.time().sleep(Duration::from_secs(3)).await;
    for machine in 0..cluster.len() {
        cluster.disk(machine, |disk| disk.heal());
        // Clean or not; a stop that fails leaves no clean mark, which is what a crash does.
        if entropy.chance(0.5) {
            drop(cluster.stop(machine).await);
        } else {
            cluster.crash(machine, Death::Killed);
        }
        cluster.start(machine).await.unwrap_or_else(|failed| panic!("node {machine} does not start: {failed}"));
    }
}

/// A write and its repetition through another node, under one Idempotency-Key, are one write.
async fn repeat(cluster: &Cluster, runner: &Runner) -> Vec<Violation> {
    let Ok(key) = Key::new("repeated") else { return Vec::new() };
    let id = ObjectId::new(runner.bucket.clone(), key);
    let options = || WriteOptions {
        w: Level::All,
        idempotency_key: Some(Bytes::from_static(b"once")),
        timeout: Duration::from_secs(5),
        ..WriteOptions::default()
    };
    let mut replayed = Vec::new();
    for machine in [0, 1] {
        let Some(kv) = cluster.kv(machine) else { continue };
        match kv.put(id.clone(), "once".into(), options()).await {
            Ok(answer) => replayed.push(answer.replayed),
            Err(error) => return vec![ill("repeated", "repeated", format!("refused on a healed cluster: {error}"))],
        }
    }
    if replayed == [false, true] {
        return Vec::new();
    }
    vec![ill("repeated", "repeated", format!("replayed: {replayed:?}, not first no, then yes"))]
}

/// Reads every object of the history at R = N through the first node; how many could not be read.
async fn read_all(cluster: &Cluster, runner: &Runner) -> usize {
    let options = ReadOptions { r: Level::All, timeout: Duration::from_secs(5), ..ReadOptions::default() };
    let mut unread = 0;
    for key in runner.keys() {
        let (Some(kv), Ok(key)) = (cluster.kv(0), Key::new(key)) else { continue };
        let id = ObjectId::new(runner.bucket.clone(), key);
        if kv.get(id, options.clone()).await.is_err() {
            unread += 1;
        }
    }
    unread
}

//! One run: a seed becomes options, a cluster, clients, faults, a heal, and a verdict.
//!
//! *Safety phase*: clients and nemesis together. *Heal*: everything connected, correct, resumed; every process ended
//! once more and started again. *Liveness*: within a bounded time no node may be without a vote or a peer. Then every
//! object is read at R = N through every node ([`finish_without`]), and the judges speak: [`lost`], [`overlap`], [`mono`],
//! [`session`], `converge`, and the audit of what each store says about its objects.
//!
//! **Varieties.** A wiped node replaces itself by a layout change, so a run in which one is wiped ends when no change is
//! under way any more: a [`Variety`] of its own. So does one in which layouts change all the time; and where a directory is
//! copied, the copy is out at the end.
//!
//! **A directory that went back** votes on what it forgot until somebody proves to it that it did, and of a copy a moment
//! old, or where nobody is there who saw more, there is no proof. Nothing is lost by it; which reads it may spoil, and
//! which not, [`excuse`] says.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::check::excuse::{self, WentBack};
use super::check::{Violation, lost, mono, overlap, session};
use super::cluster::{Cluster, Keys, Setup, Wraps};
use super::faults::{self, Fault, Kind, Profile, Schedule};
use super::finish::{finish_settled, finish_without};
use super::history::{Event, Line, Recorder};
use super::layouts::churn;
use super::net::Death;
use super::rare;
use super::tally::Tally;
use super::time::{CannotSimulate, SimClock, SimTime, run as simulate};
use super::workload::{self, Plan, Runner};
use crate::env::{Clock as _, Entropy, Tasks};
use crate::kv::NodeView as _;
use crate::storage::Durability;
use crate::types::{Bucket, Digest, Key, ObjectId};

/// Clients of a run.
const CLIENTS: u32 = 8;
/// Each operation's deadline.
const DEADLINE: Duration = Duration::from_secs(1);

/// Between two looks at whether a directory that went back has been found out.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What befalls directories in a run that has an end of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Variety {
    /// All machines stay members.
    Members,
    /// One directory, a minority of the owners of its objects, is wiped.
    Wiped,
    /// A process starts on a copy of a member's directory, and clients ask it as well.
    Copied,
    /// Nodes come, go, die and are replaced; weights change; changes are taken back.
    Layouts,
}

/// What one run is: printed when it fails.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// What befalls directories.
    pub variety: Variety,
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
    /// The other rare paths that are forced.
    pub rare: rare::Chances,
    /// Between nodes and seams.
    pub wraps: Wraps,
}

impl Options {
    /// What a seed chooses: three or five nodes, durability, pace, rare paths.
    #[must_use]
    pub fn of(seed: u64, length: Duration) -> Self {
        let entropy = Entropy::seeded(seed ^ 0x0070_7469_6f6e_7300);
        let nodes = if entropy.chance(0.4) { 5 } else { 3 };
        let durability = if entropy.chance(0.25) { Durability::Os } else { Durability::Flush };
        let mut profile = Profile::quorum(nodes, 3, length);
        profile.kinds.remove(&Kind::Wipe);
        profile.kinds.remove(&Kind::Copy);
        profile.every = Duration::from_millis(150 + entropy.below(600));
        let think = Duration::from_millis(100 + entropy.below(500));
        let lag = if entropy.chance(0.3) { 0.5 } else { 0.05 };
        let (rare, wraps, variety) = (rare::choose(&entropy), Wraps::default(), Variety::Members);
        Self { seed, variety, nodes, length, durability, profile, think, lag, rare, wraps }
    }

    /// What a seed chooses for a run of this variety.
    #[must_use]
    pub fn with(variety: Variety, seed: u64, length: Duration) -> Self {
        let mut options = Self { variety, ..Self::of(seed, length) };
        match variety {
            Variety::Members => return options,
            Variety::Wiped => {
                // A power cut that may have taken what was not flushed is made good from *every* other owner, and a wiped
                // one holds nothing to make it good with.
                options.durability = Durability::Flush;
                options.always(Kind::Wipe);
            }
            Variety::Copied => options.always(Kind::Copy),
            Variety::Layouts => {
                // Disks are lost by the nemesis of layouts, one at a time; another that forgets beside it would be one
                // too many.
                options.nodes = 5;
                options.durability = Durability::Flush;
                let every = options.profile.every;
                options.profile = Profile { every, ..Profile::quorum(5, 3, length) };
                for kind in [Kind::Wipe, Kind::Copy, Kind::RollBack, Kind::DiskDamage] {
                    options.profile.kinds.remove(&kind);
                }
            }
        }
        options
    }

    fn always(&mut self, kind: Kind) {
        self.profile.kinds.insert(kind);
        self.profile.always.insert(kind);
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, variety, nodes, length, durability, think, lag, rare, .. } = self;
        write!(f, "seed {seed} ({variety:?}): {nodes} nodes, {length:?}, durability {durability:?}, ")?;
        write!(f, "a step every {think:?}, {lag} of the commits lag, forced: {:?}", rare.keys())
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
            "replay: QUORATE_SEED={} QUORATE_VARIETY={:?} QUORATE_SECONDS={seconds} cargo test --release \
             --no-default-features --features sim --test sim replay -- --nocapture",
            self.options.seed, self.options.variety
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
#[must_use]
pub fn forgets(kind: Kind) -> bool {
    matches!(kind, Kind::DiskDamage | Kind::RollBack | Kind::Wipe)
}

/// What the schedule may not do to a cluster that flushes nothing: cut the power of more than one machine, ever.
/// Acknowledgements on W >= 2 replicas survive the loss of one.
pub fn spare_power(schedule: &mut Schedule) {
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

/// Carries a schedule out, and takes down when directories went back.
struct Nemesis {
    cluster: Cluster,
    clock: Arc<SimClock>,
    tasks: Tasks,
    /// When each node's copy was made.
    copies: BTreeMap<usize, u64>,
    went_back: Arc<Mutex<Vec<(usize, WentBack)>>>,
}

impl Nemesis {
    async fn apply(&mut self, fault: &Fault) {
        match fault {
            Fault::KeepCopy { node } => drop(self.copies.insert(*node, self.clock.now().0)),
            Fault::RollBack { node } => self.note(*node),
            _ => {}
        }
        self.cluster.apply(fault).await;
    }

    /// A directory goes back now: looks until its node has been told.
    fn note(&self, node: usize) {
        let Some(&made) = self.copies.get(&node) else { return };
        let back = self.clock.now().0;
        let mut all = self.went_back.lock().unwrap_or_else(PoisonError::into_inner);
        // A copy made of a directory that had gone back itself, unnoticed, lacks what that one had forgotten.
        let unnoticed = |(of, went): &&(usize, WentBack)| {
            *of == node && went.back <= made && went.noticed.is_none_or(|noticed| noticed > made)
        };
        let copied = all.iter().filter(unnoticed).map(|(_, went)| went.copied).fold(made, u64::min);
        let number = all.len();
        all.push((node, WentBack { copied, back, ..WentBack::default() }));
        drop(all);
        let (cluster, clock, went_back) = (self.cluster.clone(), self.clock.clone(), Arc::clone(&self.went_back));
        self.tasks.spawn(async move {
            loop {
                clock.sleep(LOOK_EVERY).await;
                let told = |node: crate::node::Node| node.metrics().replica.rollback_proofs.get() > 0;
                if cluster.node(node).is_some_and(told) {
                    let mut all = went_back.lock().unwrap_or_else(PoisonError::into_inner);
                    all[number].1.noticed = Some(clock.now().0);
                    return;
                }
            }
        });
    }

    /// All that went back, with what their nodes own.
    fn account(&self, runner: &Runner) -> Vec<WentBack> {
        let mut all = self.went_back.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (machine, went) in &mut all {
            let Some(node) = self.cluster.node(*machine) else { continue };
            let owned = |key: &String| {
                let id = Key::new(key.clone()).map(|key| ObjectId::new(runner.bucket.clone(), key));
                let owners = id.ok().and_then(|id| node.owners(&id).ok());
                owners.is_some_and(|owners| owners.owners.iter().any(|owner| owner.node == format!("n{machine}")))
            };
            went.keys = runner.keys().into_iter().filter(owned).collect();
        }
        all.into_iter().map(|(_, went)| went).collect()
    }
}

/// The machines that are no members at the end: those that began with a copy.
fn out(cluster: &Cluster) -> BTreeSet<usize> {
    (cluster.setup().nodes..cluster.len()).collect()
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
        rare: options.rare.clone(),
        wraps: options.wraps.clone(),
        ..Setup::new(seed, options.nodes)
    };
    let n = setup.n;
    let cluster = Cluster::founded(time, setup).await;
    let runner = runner(&cluster);
    let (begun, tasks) = (time.now(), Tasks::default());
    let mut all_done = clients(&options, &schedule, &runner, &tasks);
    let (clock, copies, went_back) = (SimClock::new(time), BTreeMap::new(), Arc::default());
    let mut nemesis = Nemesis { cluster: cluster.clone(), clock, tasks: tasks.clone(), copies, went_back };
    let layouts = options.variety == Variety::Layouts;
    let (moved, mut moves) = tokio::sync::mpsc::channel::<u64>(1);
    if layouts {
        let (cluster, length) = (cluster.clone(), options.length);
        tasks.spawn(async move {
            // Nobody waits for it where the run has ended early.
            let _ = moved.send(churn(&cluster, seed, length).await).await;
        });
    }
    for event in &schedule.events {
        time.until(begun + u64::try_from(event.at.as_micros()).unwrap_or(u64::MAX)).await;
        nemesis.apply(&event.fault).await;
    }
    // Ends when every client has dropped its sender.
    let _ = all_done.recv().await;
    let decided = if layouts { moves.recv().await.unwrap_or(0) } else { 0 };
    let entropy = Entropy::seeded(seed);
    let comes_back = options.variety == Variety::Wiped;
    let mut violations = if layouts || comes_back {
        finish_settled(&cluster, &runner, &entropy).await
    } else {
        finish_without(&cluster, &runner, &entropy, &out(&cluster)).await
    };
    let history = runner.recorder.lines();
    violations.extend(lost::check(&history));
    violations.extend(overlap::check(&history, overlap::Rules { n, lww: false }));
    violations.extend(mono::check(&history, n));
    violations.extend(session::check(&history, session::Rules { n, floors: false }));
    let violations = excuse::unexplained(&history, n, violations, &nemesis.account(&runner));
    let tally = Tally { layouts: decided, ..count(cluster.tally(), &history) };
    let trace = cluster.net().trace();
    tasks.cancel();
    cluster.end();
    Report { options, faults: schedule, violations, history, trace, tally }
}

/// Sets the clients off; what it returns ends when they have.
fn clients(options: &Options, schedule: &Schedule, runner: &Runner, tasks: &Tasks) -> tokio::sync::mpsc::Receiver<()> {
    let copied = options.variety == Variety::Copied;
    let layouts = options.variety == Variety::Layouts;
    let forgetful = schedule.options.kinds.iter().any(|kind| forgets(*kind)) || copied || layouts;
    let frail = options.durability == Durability::Os || forgetful;
    let steps = options.length.as_micros() / options.think.as_micros().max(1);
    let plan = Plan::generate(
        options.seed,
        &workload::Options {
            clients: CLIENTS,
            // One more for the process on a copy, some for those that come.
            nodes: u32::try_from(options.nodes).unwrap_or(u32::MAX) + u32::from(copied) + 3 * u32::from(layouts),
            steps: u32::try_from(steps).unwrap_or(u32::MAX),
            n: Setup::new(options.seed, options.nodes).n,
            strict: true,
            least_w: if frail { 2 } else { 1 },
            // What nobody has found out yet votes on its own copy, old as it is.
            least_r: if copied || layouts { 2 } else { 1 },
            think: options.think,
        },
    );
    let (done, all_done) = tokio::sync::mpsc::channel::<()>(1);
    for (client, steps) in plan.clients.into_iter().enumerate() {
        let (runner, done) = (runner.clone(), done.clone());
        tasks.spawn(async move {
            runner.client(u32::try_from(client).unwrap_or(u32::MAX), &steps).await;
            drop(done);
        });
    }
    all_done
}

fn count(mut tally: Tally, history: &[Line]) -> Tally {
    for line in history {
        match line.event {
            Event::Invoke(_) => tally.operations += 1,
            Event::Ok(_) => tally.answered += 1,
            Event::Info { .. } => tally.unknown += 1,
            Event::Fail { .. } => {}
        }
    }
    tally
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

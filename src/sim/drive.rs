//! One run: a seed becomes options, a cluster, clients, faults, a heal, and a verdict.
//!
//! *Safety phase*: clients and nemesis together. *Heal*: everything connected, correct, resumed; every process ended
//! once more and started again. *Liveness*: within a bounded time no node may be without a vote or a peer. Then every
//! object is read at R = N through every node ([`finish_without`]), and the judges speak: [`lost`], [`overlap`], [`mono`],
//! [`session`], `converge`, and the audit of what each store says about its objects.
//!
//! **Varieties.** A wiped node replaces itself by a layout change, so a run in which one is wiped ends when no change is
//! under way any more: a [`Variety`] of its own. So does one in which layouts change all the time; and where a directory is
//! copied, the copy is out at the end. Where fallbacks stand in for owners, only [`lost`] judges. Where clients have
//! sessions, one replica is asked for at a time, and [`session`] judges by their floors.
//!
//! **A directory that went back** votes on what it forgot until somebody proves to it that it did, and of a copy a moment
//! old, or where nobody is there who saw more, there is no proof. Nothing is lost by it; which reads it may spoil, and
//! which not, [`excuse`] says.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::backs::Backs;
use super::check::{Violation, collected, excuse, lost, mono, overlap, session};
use super::cluster::{Cluster, Keys, Setup, Wraps};
use super::faults::{self, Fault, Kind, Profile, Schedule};
use super::finish::{finish_settled, finish_without};
use super::history::{Event, Line, Recorder};
use super::layouts::{Churned, MACHINES, churn};
use super::net::Death;
use super::rare;
use super::tally::Tally;
use super::time::{CannotSimulate, SimClock, SimTime, run as simulate};
use super::workload::{self, Plan, Runner};
use crate::env::{Entropy, Tasks};
use crate::ring::buckets::{self, Wanted};
use crate::ring::{BucketSettings, Mode};
use crate::storage::Durability;
use crate::types::{Bucket, Digest};

/// Clients of a run.
const CLIENTS: u32 = 8;
/// Each operation's deadline.
const DEADLINE: Duration = Duration::from_secs(1);

/// How long what is deleted stays in runs that collect: longer than a request is repeated.
const LINGER: Duration = Duration::from_secs(3);

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
    /// More owners are down than a quorum survives, and fallbacks stand in for them: only that nothing is lost is promised.
    Sloppy,
    /// Every client sends the floor of what it has seen, and asks one replica, through whatever node.
    Sessions,
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
    /// How long what is deleted stays; none: longer than the run lasts.
    pub linger: Option<Duration>,
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
        // By itself, so that nothing else of the run depends on it.
        let collects = Entropy::seeded(seed ^ 0x0063_6f6c_6c65_6374).chance(0.5);
        let linger = collects.then_some(LINGER);
        Self { seed, variety, nodes, length, durability, profile, linger, think, lag, rare, wraps }
    }

    /// What a seed chooses for a run of this variety.
    #[must_use]
    pub fn with(variety: Variety, seed: u64, length: Duration) -> Self {
        let mut options = Self { variety, ..Self::of(seed, length) };
        match variety {
            Variety::Members => return options,
            Variety::Wiped => {
                // A power cut that may have taken what was not flushed is made good from *every* other owner, and a wiped
                // one holds nothing to make it good with. So is what was minted, sent, and then not taken by a disk that failed.
                options.durability = Durability::Flush;
                for kind in [Kind::DiskError, Kind::DiskFull] {
                    options.profile.kinds.remove(&kind);
                }
                options.always(Kind::Wipe);
            }
            Variety::Copied => options.always(Kind::Copy),
            Variety::Sloppy => {
                // What one disk alone holds, a fallback's hint among it, has to be on that disk.
                options.durability = Durability::Flush;
                options.nodes = 5;
                let every = options.profile.every;
                options.profile = Profile { every, max_down: 3, ..Profile::quorum(5, 3, length) };
                for kind in [Kind::Wipe, Kind::Copy, Kind::RollBack, Kind::DiskDamage] {
                    options.profile.kinds.remove(&kind);
                }
                options.always(Kind::Crash);
            }
            Variety::Sessions => {
                // What one replica acknowledged alone has to stay there.
                options.durability = Durability::Flush;
                options.profile.kinds.retain(|kind| !forgets(*kind));
            }
            Variety::Layouts => {
                // Copies are lost by the nemesis of layouts, one at a time; another that forgets beside it would be one
                // too many. Its machines come later, some of them: what befalls one that is not there befalls nobody.
                let entropy = Entropy::seeded(seed ^ 0x6d61_6368_696e_6573);
                options.nodes = 5 + usize::try_from(entropy.below(MACHINES as u64 - 4)).unwrap_or(0);
                let (every, machines) = (options.profile.every, MACHINES.min(options.nodes + 2));
                options.profile = Profile { every, ..Profile::quorum(machines, 3, length) };
                for kind in [Kind::Wipe, Kind::RollBack, Kind::DiskDamage] {
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
        let Self { seed, variety, nodes, length, durability, linger, think, lag, rare, .. } = self;
        write!(f, "seed {seed} ({variety:?}): {nodes} nodes, {length:?}, durability {durability:?}, ")?;
        write!(
            f,
            "a step every {think:?}, deletions stay for {linger:?}, {lag} of the commits lag, forced: {:?}",
            rare.keys()
        )
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

/// Takes every power cut for a kill: where others cut the power, one machine after the other.
fn spare_all_power(schedule: &mut Schedule) {
    for event in &mut schedule.events {
        if let Fault::Crash { death, .. } = &mut event.fault {
            *death = Death::Killed;
        }
    }
}

/// Carries out one fault of a schedule, and takes down when directories go back.
async fn apply(cluster: &Cluster, backs: &Backs, fault: &Fault) {
    if fault.machine().is_some_and(|machine| machine >= cluster.len()) {
        return;
    }
    match fault {
        Fault::KeepCopy { node } => backs.copied(*node),
        Fault::RollBack { node } => backs.went_back(*node),
        _ => {}
    }
    cluster.apply(fault).await;
}

/// The machines that are no members at the end: those that began with a copy.
fn out(cluster: &Cluster) -> BTreeSet<usize> {
    (cluster.setup().nodes..cluster.len()).collect()
}

async fn drive(time: SimTime, options: Options) -> Report {
    let seed = options.seed;
    let mut schedule = Schedule::generate(seed, &options.profile);
    let careless = options.durability == Durability::Os;
    let layouts = options.variety == Variety::Layouts;
    match careless {
        true if layouts => spare_all_power(&mut schedule),
        true => spare_power(&mut schedule),
        false => {}
    }
    let setup = Setup {
        durability: options.durability,
        linger: options.linger,
        lag: options.lag,
        rare: options.rare.clone(),
        wraps: options.wraps.clone(),
        ..Setup::new(seed, options.nodes)
    };
    let n = setup.n;
    let cluster = Cluster::founded(time, setup).await;
    let mut runner = runner(&cluster);
    runner.sloppy = options.variety == Variety::Sloppy;
    runner.sessions = options.variety == Variety::Sessions;
    if layouts {
        let latest = Bucket::new("latest").expect("a good name");
        last_write_wins(&cluster, &latest).await;
        (runner.latest, runner.words) = (Some(latest), true);
    }
    let (begun, tasks) = (time.now(), Tasks::default());
    let mut all_done = clients(&options, &schedule, &runner, &tasks);
    let backs = Backs::new(&cluster, &tasks);
    let (moved, mut moves) = tokio::sync::mpsc::channel::<Churned>(1);
    if layouts {
        let (cluster, backs, length) = (cluster.clone(), backs.clone(), options.length);
        let buckets: Vec<Bucket> = runner.latest.iter().cloned().chain([runner.bucket.clone()]).collect();
        tasks.spawn(async move {
            // Nobody waits for it where the run has ended early.
            let _ = moved.send(churn(&cluster, seed, length, &buckets, &backs).await).await;
        });
    }
    for event in &schedule.events {
        time.until(begun + u64::try_from(event.at.as_micros()).unwrap_or(u64::MAX)).await;
        apply(&cluster, &backs, &event.fault).await;
    }
    // Ends when every client has dropped its sender.
    let _ = all_done.recv().await;
    let churned = if layouts { moves.recv().await.unwrap_or_default() } else { Churned::default() };
    let entropy = Entropy::seeded(seed);
    let comes_back = options.variety == Variety::Wiped;
    let mut violations = if layouts || comes_back {
        finish_settled(&cluster, &runner, &entropy).await
    } else {
        finish_without(&cluster, &runner, &entropy, &out(&cluster)).await
    };
    let history = runner.recorder.lines();
    let mut judged = Cow::Borrowed(&history);
    if let Some(linger) = options.linger {
        // What a sloppy read shows is promised to nobody.
        if !runner.sloppy {
            violations.extend(collected::check(&history, n));
        }
        // How long something has been deleted is told by clocks. One that is wrong makes it seem longer: no promise is broken by
        // that, for what is collected every owner has confirmed.
        let wrong = [Kind::ClockJump, Kind::ClockDrift].iter().any(|kind| options.profile.kinds.contains(kind));
        judged = Cow::Owned(collected::covered(&history, if wrong { Duration::ZERO } else { linger }));
    }
    if runner.sloppy {
        violations.extend(lost::check(&of_bucket(&judged, &runner.bucket)));
    } else {
        violations.extend(judge(&of_bucket(&judged, &runner.bucket), n, false, runner.sessions));
    }
    if let Some(latest) = &runner.latest {
        violations.extend(judge(&of_bucket(&judged, latest), n, true, runner.sessions));
    }
    let violations = excuse::unexplained(&judged, n, violations, &backs.account(&runner));
    let Churned { layouts, replicas, damaged, unflushed, rolled_back } = churned;
    let tally = Tally { layouts, replicas, damaged, unflushed, rolled_back, ..count(cluster.tally(), &history) };
    let trace = cluster.net().trace();
    tasks.cancel();
    cluster.end();
    Report { options, faults: schedule, violations, history, trace, tally }
}

/// What the judges say of one bucket's history.
fn judge(lines: &[Line], n: u8, lww: bool, floors: bool) -> Vec<Violation> {
    let mut violations = lost::check(lines);
    // There a write may lose against a concurrent one of a greater stamp: whether it did, `overlap` tells by the last reads.
    violations.retain(|violation| !(lww && violation.rule == "lost"));
    violations.extend(overlap::check(lines, overlap::Rules { n, lww }));
    violations.extend(mono::check(lines, n));
    violations.extend(session::check(lines, session::Rules { n, floors }));
    violations
}

/// The operations on one bucket.
fn of_bucket(lines: &[Line], bucket: &Bucket) -> Vec<Line> {
    let begun = |line: &Line| matches!(&line.event, Event::Invoke(invoke) if invoke.bucket == bucket.as_str());
    let ops: BTreeSet<u64> = lines.iter().filter(|line| begun(line)).map(|line| line.op).collect();
    lines.iter().filter(|line| ops.contains(&line.op)).cloned().collect()
}

/// Makes a bucket whose objects keep the latest write alone.
async fn last_write_wins(cluster: &Cluster, bucket: &Bucket) {
    let Some(node) = cluster.node(0) else { return };
    let next = node.layouts().newest().and_then(|newest| {
        let BucketSettings { n, role, .. } = newest.spec().default_bucket.clone();
        let wanted = Wanted { n, n_in_region: Vec::new(), mode: Mode::Lww, role };
        buckets::set(&newest, bucket, &wanted).ok()?
    });
    let Some(next) = next else { return };
    let version = next.version();
    let proposed = node.layouts().propose(next, Duration::from_secs(30)).await;
    assert!(proposed.is_ok(), "no bucket could be made: {proposed:?}");
    let known = |machine| {
        let known = cluster.node(machine).and_then(|node| node.layouts().known());
        known.is_some_and(|known| known.live() == [version])
    };
    let made = cluster.until(Duration::from_secs(60), || (0..cluster.len()).all(known)).await;
    assert!(made, "a bucket was decided and never in force: {:?}", cluster.ills());
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
            // One more for the process on a copy; in layouts those that come.
            nodes: u32::try_from(options.profile.nodes).unwrap_or(u32::MAX) + u32::from(copied),
            steps: u32::try_from(steps).unwrap_or(u32::MAX),
            n: Setup::new(options.seed, options.nodes).n,
            strict: true,
            one: options.variety == Variety::Sessions,
            least_w: if frail { 2 } else { 1 },
            // What nobody has found out yet votes on its own copy, old as it is.
            least_r: if copied || layouts { 2 } else { 1 },
            latest: layouts,
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
        latest: None,
        words: false,
        sloppy: false,
        sessions: false,
        timeout: DEADLINE,
    }
}

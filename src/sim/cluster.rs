//! Whole clusters: real [`Node`]s on simulated machines, in one process, from one seed.
//!
//! A **machine** has an address, clocks and a disk that outlive its processes; a **life** is one process on it. A crash
//! drops every task of a life at its next await and leaves what the disk had; a clean stop runs the node's own shutdown.
//! Clients come through a door that a paused process does not open.
//!
//! [`Wraps`] put something between a node and its seams: that is how planted bugs get in without a switch in the
//! product; the few that cannot are rules by name, broken through `Buggify`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::disk::SimDisk;
use super::faults::Fault;
use super::net::{Death, Link, SimNet};
use super::rare;
use super::tally::Tally;
use super::time::{SimClock, SimTime};
use super::transport::SimTransport;
use super::workload::{Decode, Nodes};
use crate::causality::{MAX_CONTEXT_LEN, TokenKeys, TokenKind, VersionVector};
use crate::cluster::Standing;
use crate::env::{Blocking, BoxFuture, Buggify, Clock, Entropy, Env, Tasks};
use crate::kv::{
    ContextToken, Error, FloorToken, KeyPage, Kv, ListOptions, NodeView as _, ReadAnswer, ReadOptions, Value,
    WriteAnswer, WriteOptions,
};
use crate::node::{ClusterConfig, Config, Node, NodeConfig, StartError};
use crate::replica::{self, Audit};
use crate::ring::Grid;
use crate::storage::memory::Platter;
use crate::storage::{Durability, Keyspace, Storage, StorageError};
use crate::transport::Transport;
use crate::types::{Bucket, Incarnation, ObjectId};

/// The secret of simulated clusters, which [`Keys`] reads tokens with.
pub const SECRET: &[u8] = b"the secret of simulated clusters";
/// How long a client's request takes to a node, and its answer back.
const DOOR: Duration = Duration::from_micros(100);
/// Bytes of a node's cache of records: so few that most of it is thrown out again.
const RECORD_CACHE: usize = 32 << 10;
/// Often enough to meet everything else that goes on in a run.
const REPAIR_INTERVAL: Duration = Duration::from_secs(15);

/// Longer than any run.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Puts something between a node and its storage.
pub type WrapStorage = Arc<dyn Fn(Arc<dyn Storage>) -> Arc<dyn Storage> + Send + Sync>;
/// Puts something between a node and its transport.
pub type WrapTransport = Arc<dyn Fn(Arc<dyn Transport>) -> Arc<dyn Transport> + Send + Sync>;
/// Puts something between clients and a node.
pub type WrapKv = Arc<dyn Fn(Node) -> Arc<dyn Kv> + Send + Sync>;

/// What stands between nodes and their seams; nothing by default.
#[derive(Clone, Default)]
pub struct Wraps {
    /// Over each node's storage.
    pub storage: Option<WrapStorage>,
    /// Over each node's transport.
    pub transport: Option<WrapTransport>,
    /// Over each node, on the clients' side.
    pub kv: Option<WrapKv>,
    /// The rule that no node keeps.
    pub broken: Option<&'static str>,
}

impl std::fmt::Debug for Wraps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { storage, transport, kv, broken } = self;
        write!(f, "Wraps({}, {}, {}, {broken:?})", storage.is_some(), transport.is_some(), kv.is_some())
    }
}

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Decides everything.
    pub seed: u64,
    /// Machines.
    pub nodes: usize,
    /// Replicas of each key.
    pub n: u8,
    /// Partitions.
    pub partitions: u32,
    /// How durable a write is when it is acknowledged.
    pub durability: Durability,
    /// Whether nodes that ask are taken in by themselves.
    pub auto_join: bool,
    /// How many found; none: as many as there are seeds.
    pub expect: Option<usize>,
    /// Whether nodes leave each other hints of what they missed; without, what is to heal otherwise has time to show.
    pub hints: bool,
    /// How long what is deleted stays, and requests may be repeated; none: longer than any run.
    pub linger: Option<Duration>,
    /// Chance that a commit lags behind its mint.
    pub lag: f64,
    /// The other rare paths that are forced.
    pub rare: rare::Chances,
    /// Between nodes and seams.
    pub wraps: Wraps,
}

impl Setup {
    /// Three replicas on so many nodes, a small grid, flushed.
    #[must_use]
    pub fn new(seed: u64, nodes: usize) -> Self {
        let (rare, wraps) = (rare::Chances::new(), Wraps::default());
        let (partitions, durability, auto_join, expect) = (16, Durability::Flush, true, None);
        let (linger, hints, lag) = (None, true, 0.05);
        Self { seed, nodes, n: 3, partitions, durability, auto_join, expect, hints, linger, lag, rare, wraps }
    }
}

/// Changes a configuration.
type Told = Box<dyn Fn(&mut Config) + Send>;

struct Life {
    node: Node,
    env: Env,
    kv: Arc<dyn Kv>,
}

struct Machine {
    address: String,
    clock: Arc<SimClock>,
    disk: SimDisk,
    /// Processes started so far.
    lives: u64,
    life: Option<Life>,
    /// What its next processes are told otherwise than all.
    told: Option<Told>,
    incarnation: Option<Incarnation>,
}

/// A cluster. Clones are the same cluster.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    time: SimTime,
    net: SimNet,
    net_tasks: Tasks,
    setup: Setup,
    seeds: Vec<String>,
    machines: Mutex<Vec<Machine>>,
    tally: Mutex<Tally>,
    /// Rare paths taken.
    forced: Arc<Mutex<BTreeMap<&'static str, u64>>>,
    /// No more of them.
    calm: Arc<AtomicBool>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("setup", &self.inner.setup).finish_non_exhaustive()
    }
}

fn address(machine: usize) -> String {
    format!("n{machine}:7402")
}

/// Unrelated seeds from one.
fn seed(of: &Setup, what: &str, number: u64) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&of.seed.to_le_bytes()).update(&number.to_le_bytes()).update(what.as_bytes());
    let mut half = [0; 8];
    half.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(half)
}

impl Cluster {
    /// Machines without processes; [`Cluster::start`] starts one.
    #[must_use]
    pub fn new(time: SimTime, setup: Setup) -> Self {
        let net_tasks = Tasks::default();
        let net = SimNet::new(time, seed(&setup, "net", 0), Link::default(), &net_tasks);
        let seeds = (0..setup.nodes).map(address).collect();
        let (machines, tally, forced, calm) = (Mutex::default(), Mutex::default(), Arc::default(), Arc::default());
        let nodes = setup.nodes;
        let this =
            Self { inner: Arc::new(Inner { time, net, net_tasks, setup, seeds, machines, tally, forced, calm }) };
        for _ in 0..nodes {
            let _ = this.add_machine(None);
        }
        this
    }

    /// A cluster with every node started and serving.
    pub async fn founded(time: SimTime, setup: Setup) -> Self {
        let this = Self::new(time, setup);
        this.start_all().await;
        assert!(this.until_well(Duration::from_secs(60)).await, "founding failed: {:?}", this.ills());
        this
    }

    /// Another machine, whose directory is empty or a copy; its number.
    #[must_use]
    pub fn add_machine(&self, copy: Option<&Platter>) -> usize {
        let mut machines = self.machines();
        let number = machines.len();
        let disk = SimDisk::new(seed(&self.inner.setup, "disk", number as u64));
        if let Some(copy) = copy {
            disk.become_copy(copy);
        }
        let clock = SimClock::new(self.inner.time);
        let machine =
            Machine { address: address(number), clock, disk, lives: 0, life: None, told: None, incarnation: None };
        machines.push(machine);
        number
    }

    /// The network.
    #[must_use]
    pub fn net(&self) -> &SimNet {
        &self.inner.net
    }

    /// The clock behind all clocks.
    #[must_use]
    pub fn time(&self) -> SimTime {
        self.inner.time
    }

    /// What it is made of.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        &self.inner.setup
    }

    /// Machines.
    #[must_use]
    pub fn len(&self) -> usize {
        self.machines().len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The running node of a machine.
    #[must_use]
    pub fn node(&self, machine: usize) -> Option<Node> {
        self.machines().get(machine)?.life.as_ref().map(|life| life.node.clone())
    }

    /// A machine's clock.
    #[must_use]
    pub fn clock(&self, machine: usize) -> Arc<SimClock> {
        Arc::clone(&self.machines()[machine].clock)
    }

    /// A machine's address.
    #[must_use]
    pub fn address(&self, machine: usize) -> String {
        self.machines()[machine].address.clone()
    }

    /// Changes what a machine's next processes are told.
    pub fn tell(&self, machine: usize, told: impl Fn(&mut Config) + Send + 'static) {
        self.machines()[machine].told = Some(Box::new(told));
    }

    /// Does something to a machine's disk.
    pub fn disk<T>(&self, machine: usize, what: impl FnOnce(&mut SimDisk) -> T) -> T {
        what(&mut self.machines()[machine].disk)
    }

    /// The machine's node as clients reach it; none while no process runs.
    #[must_use]
    pub fn kv(&self, machine: usize) -> Option<Arc<dyn Kv>> {
        let machines = self.machines();
        let machine = machines.get(machine)?;
        let kv = Arc::clone(&machine.life.as_ref()?.kv);
        Some(Arc::new(Door { kv, clock: Arc::clone(&machine.clock) }))
    }

    /// All of them, for a workload.
    #[must_use]
    pub fn nodes(&self) -> Nodes {
        let this = self.clone();
        Arc::new(move |number| this.kv(number as usize))
    }

    /// Starts a process on a machine, unless one runs there.
    ///
    /// # Errors
    /// What the node says.
    pub async fn start(&self, machine: usize) -> Result<(), StartError> {
        let (env, config, storage, transport) = {
            let mut machines = self.machines();
            let it = &mut machines[machine];
            if it.life.is_some() {
                return Ok(());
            }
            it.clock.reboot();
            it.lives += 1;
            let storage = it.disk.open()?;
            let number = machine as u64 * 1_000_000 + it.lives;
            let env = Env {
                clock: Arc::clone(&it.clock) as Arc<dyn Clock>,
                entropy: Arc::new(Entropy::seeded(seed(&self.inner.setup, "node", number))),
                tasks: Tasks::default(),
                blocking: Blocking::Inline,
                buggify: self.buggify(seed(&self.inner.setup, "buggify", number)),
            };
            let transport = SimTransport::new(&self.inner.net, Arc::clone(&it.clock));
            (env, self.config(machine, it), storage, transport)
        };
        let Wraps { storage: wrap_storage, transport: wrap_transport, kv: wrap_kv, .. } = &self.inner.setup.wraps;
        let storage: Arc<dyn Storage> = Arc::new(storage);
        let storage = wrap_storage.as_ref().map_or_else(|| Arc::clone(&storage), |wrap| wrap(Arc::clone(&storage)));
        let transport: Arc<dyn Transport> = transport;
        let transport =
            wrap_transport.as_ref().map_or_else(|| Arc::clone(&transport), |wrap| wrap(Arc::clone(&transport)));
        let started = Node::start_on(env.clone(), config, storage, transport).await;
        let node = match started {
            Ok(node) => node,
            Err(failed) => {
                env.tasks.cancel();
                self.disk(machine, |disk| disk.die(Death::Killed));
                return Err(failed);
            }
        };
        let kv = wrap_kv.as_ref().map_or_else(|| Arc::new(node.clone()) as Arc<dyn Kv>, |wrap| wrap(node.clone()));
        self.machines()[machine].life = Some(Life { node, env, kv });
        Ok(())
    }

    /// Starts a process on every machine that has none. Clients may have to wait until they serve.
    ///
    /// # Panics
    /// If one does not start.
    pub async fn start_all(&self) {
        for machine in 0..self.len() {
            self.start(machine).await.unwrap_or_else(|failed| panic!("node {machine} does not start: {failed}"));
        }
    }

    /// No rare path but the lag is forced from here on: what follows is to go well.
    pub fn calm(&self) {
        self.inner.calm.store(true, Ordering::Release);
    }

    /// The rare paths of one process: forced as likely as the setup says, and counted.
    fn buggify(&self, seed: u64) -> Buggify {
        let entropy = Entropy::seeded(seed);
        let mut chances = self.inner.setup.rare.clone();
        chances.insert(rare::LAG, self.inner.setup.lag);
        let (forced, calm) = (Arc::clone(&self.inner.forced), Arc::clone(&self.inner.calm));
        let decide = move |name: &'static str| {
            assert!(rare::is_known(name), "{name:?} is no rare path that runs know of");
            if name != rare::LAG && calm.load(Ordering::Acquire) {
                return false;
            }
            let taken = chances.get(name).is_some_and(|chance| entropy.chance(*chance));
            if taken {
                *forced.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
            }
            taken
        };
        Buggify::new(decide).breaking(self.inner.setup.wraps.broken)
    }

    fn config(&self, machine: usize, it: &Machine) -> Config {
        let Setup { n, partitions, durability, auto_join, expect, hints, linger, .. } = &self.inner.setup;
        let defaults = ClusterConfig::default();
        let cluster = ClusterConfig {
            name: "simulated".to_owned(),
            partitions: *partitions,
            replicas_max: 5,
            n: *n,
            secrets: vec![SECRET.to_vec()],
            idempotency_window: linger.unwrap_or(defaults.idempotency_window),
            ..defaults
        };
        let node = NodeConfig {
            name: format!("n{machine}"),
            peer_address: address(machine),
            client_address: format!("n{machine}:7400"),
            seeds: self.inner.seeds.clone(),
            bootstrap_expect: *expect,
            auto_join: *auto_join,
            max_hint_bytes: if *hints { NodeConfig::default().max_hint_bytes } else { 0 },
            durability: *durability,
            machine_boot: it.disk.machine_boot(),
            record_cache: RECORD_CACHE,
            repair_interval: REPAIR_INTERVAL,
            collect_linger: linger.unwrap_or(NEVER),
            ..NodeConfig::default()
        };
        let mut config = Config { cluster, node };
        if let Some(told) = &it.told {
            told(&mut config);
        }
        config
    }

    /// Ends a machine's process without a word.
    pub fn crash(&self, machine: usize, death: Death) {
        let mut machines = self.machines();
        let it = &mut machines[machine];
        let life = it.life.take();
        if let Some(life) = &life {
            life.env.tasks.cancel();
            self.count(&life.node, &mut it.incarnation);
        }
        let at = it.address.clone();
        it.disk.die(death);
        it.clock.resume();
        drop(machines);
        self.inner.net.crash(&at, death);
        drop(life);
    }

    /// Stops a machine's process cleanly.
    ///
    /// # Errors
    /// What the node's shutdown says.
    pub async fn stop(&self, machine: usize) -> Result<(), StorageError> {
        let Some(life) = self.machines()[machine].life.take() else { return Ok(()) };
        self.tally_mut().stops += 1;
        let stopped = life.node.shutdown_within(Duration::from_secs(5)).await;
        let mut machines = self.machines();
        let it = &mut machines[machine];
        self.count(&life.node, &mut it.incarnation);
        // Whoever still holds the node holds a dead process.
        it.disk.die(Death::Killed);
        stopped
    }

    fn count(&self, node: &Node, incarnation: &mut Option<Incarnation>) {
        let mut tally = self.tally_mut();
        tally.add_life(node.metrics());
        let now = node.replica().identity().incarnation();
        if incarnation.is_some_and(|before| before != now) {
            tally.incarnations += 1;
        }
        *incarnation = Some(now);
    }

    /// Stops a machine where it is.
    pub fn pause(&self, machine: usize) {
        self.clock(machine).pause();
        self.inner.net.pause(&self.address(machine));
    }

    /// Lets it go on.
    pub fn resume(&self, machine: usize) {
        self.clock(machine).resume();
        self.inner.net.resume(&self.address(machine));
    }

    /// Carries out what a schedule says.
    pub async fn apply(&self, fault: &Fault) {
        let net = &self.inner.net;
        match fault {
            Fault::Crash { node, death } => self.crash(*node, *death),
            // One that fails to stop well leaves no clean mark: a crash.
            Fault::Stop { node } => drop(self.stop(*node).await),
            Fault::Restart { node } => {
                self.disk(*node, |disk| disk.heal());
                // It says why itself; the final phase starts what is down.
                drop(self.start(*node).await);
            }
            Fault::Pause { node } => self.pause(*node),
            Fault::Resume { node } => self.resume(*node),
            Fault::Partition { side } => {
                let names: Vec<String> = (0..self.len()).map(address).collect();
                let (near, far): (Vec<_>, Vec<_>) = names.iter().enumerate().partition(|(at, _)| side.contains(at));
                let text = |side: Vec<(usize, &String)>| -> Vec<String> {
                    side.into_iter().map(|(_, name)| name.clone()).collect()
                };
                let (near, far) = (text(near), text(far));
                let near: Vec<&str> = near.iter().map(String::as_str).collect();
                let far: Vec<&str> = far.iter().map(String::as_str).collect();
                net.partition(&near, &far);
            }
            Fault::OneWay { from, to } => net.cut(&address(*from), &address(*to)),
            Fault::Heal => net.heal(),
            Fault::Links(link) => net.set_base(link.clone()),
            Fault::ClockJump { node, millis } => self.clock(*node).jump(*millis),
            Fault::ClockDrift { node, ppm } => self.clock(*node).drift(*ppm),
            Fault::ClockCorrect { node } => self.clock(*node).correct(),
            Fault::DiskError { node } => self.disk(*node, |disk| disk.fail()),
            Fault::DiskFull { node } => self.disk(*node, |disk| disk.fill()),
            Fault::DiskSlow { node, stall } => self.disk(*node, |disk| disk.slow(*stall)),
            Fault::DiskDamage { node, pick } => drop(self.damage(*node, *pick)),
            Fault::Wipe { node } => {
                self.tally_mut().wipes += 1;
                self.disk(*node, |disk| disk.wipe());
            }
            Fault::Copy { node } => {
                self.tally_mut().copies += 1;
                let copy = self.disk(*node, |disk| disk.snapshot());
                let twin = self.add_machine(Some(&copy));
                // Refused or waiting, it says why itself.
                drop(self.start(twin).await);
            }
            Fault::KeepCopy { node } => self.disk(*node, SimDisk::keep_copy),
            Fault::RollBack { node } => self.disk(*node, |disk| disk.roll_back()),
        }
    }

    /// Damages one stored object of a machine; its stored key, if there was any.
    pub fn damage(&self, machine: usize, pick: u64) -> Option<bytes::Bytes> {
        match self.node(machine) {
            Some(node) => self.disk(machine, |disk| disk.damage(&**node.replica().storage(), pick)),
            None => self.disk(machine, |disk| disk.damage_closed(pick)),
        }
    }

    /// Damages this entry of a machine's disk, if there is one; says whether there was.
    pub fn damage_entry(&self, machine: usize, keyspace: Keyspace, key: &[u8]) -> bool {
        self.disk(machine, |disk| disk.damage_entry(keyspace, key))
    }

    /// Why not all is well: one line for each machine whose node does not serve, does not mint, has keys or partitions
    /// without a vote, or thinks another down. Empty: all is well.
    #[must_use]
    pub fn ills(&self) -> Vec<String> {
        self.ills_without(&BTreeSet::new())
    }

    /// As [`Cluster::ills`], of the machines that are not in `out`, which may miss those that are.
    #[must_use]
    pub fn ills_without(&self, out: &BTreeSet<usize>) -> Vec<String> {
        let mut ills = Vec::new();
        for machine in (0..self.len()).filter(|machine| !out.contains(machine)) {
            let Some(node) = self.node(machine) else {
                ills.push(format!("n{machine}: no process"));
                continue;
            };
            if node.standing() != Standing::Serving {
                ills.push(format!("n{machine}: {:?}", node.standing()));
            }
            if let Some(bar) = node.replica().identity().barred() {
                ills.push(format!("n{machine}: {bar}"));
            }
            let missed = |text: &str| out.iter().any(|gone| text.starts_with(&format!("n{gone} at ")));
            let status = node.status();
            // A bucket that wants more replicas than there are members has as many as there can be.
            let wants = status.attention.iter().filter(|told| told.code != "fewer_than_n");
            let told = wants.filter(|told| told.code != "member_down" || !missed(&told.text));
            ills.extend(told.map(|attention| format!("n{machine}: {}", attention.text)));
        }
        ills
    }

    /// Waits until all is well, for so long at most; whether it is.
    pub async fn until_well(&self, most: Duration) -> bool {
        self.until(most, || self.ills().is_empty()).await
    }

    /// Waits for a condition, looked at every 50 ms, for so long at most; whether it came.
    pub async fn until(&self, most: Duration, condition: impl Fn() -> bool) -> bool {
        let end = self.inner.time.now() + u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        loop {
            if condition() {
                return true;
            }
            if self.inner.time.now() >= end {
                return false;
            }
            self.inner.time.sleep(Duration::from_millis(50)).await;
        }
    }

    /// Recomputes what a machine's node has stored about its objects.
    ///
    /// # Panics
    /// If no process runs there or its store cannot be read.
    #[must_use]
    pub fn audit(&self, machine: usize) -> Audit {
        let node = self.node(machine).unwrap_or_else(|| panic!("no process on machine {machine}"));
        let Setup { partitions, .. } = &self.inner.setup;
        let grid = Grid::new(*partitions).unwrap_or_default();
        replica::audit(&**node.replica().storage(), grid)
            .unwrap_or_else(|failed| panic!("the store of machine {machine} cannot be read: {failed}"))
    }

    /// What happened so far, the running processes included.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let mut tally = self.tally_mut().clone();
        tally.forced = self.inner.forced.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for life in self.machines().iter().filter_map(|machine| machine.life.as_ref()) {
            tally.add_life(life.node.metrics());
        }
        tally
    }

    /// Ends everything.
    pub fn end(&self) {
        (0..self.len()).for_each(|machine| self.crash(machine, Death::Killed));
        self.inner.net_tasks.cancel();
    }

    fn machines(&self) -> MutexGuard<'_, Vec<Machine>> {
        self.inner.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tally_mut(&self) -> MutexGuard<'_, Tally> {
        self.inner.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where clients reach a process: its machine's clock holds it shut while the process is paused.
struct Door {
    kv: Arc<dyn Kv>,
    clock: Arc<SimClock>,
}

impl Door {
    async fn pass<T>(&self, what: BoxFuture<'_, T>) -> T {
        self.clock.sleep(DOOR).await;
        let answer = what.await;
        self.clock.sleep(DOOR).await;
        answer
    }
}

impl Kv for Door {
    fn get(&self, id: ObjectId, options: ReadOptions) -> BoxFuture<'_, Result<ReadAnswer, Error>> {
        Box::pin(self.pass(self.kv.get(id, options)))
    }

    fn put(&self, id: ObjectId, value: Value, options: WriteOptions) -> BoxFuture<'_, Result<WriteAnswer, Error>> {
        Box::pin(self.pass(self.kv.put(id, value, options)))
    }

    fn delete(&self, id: ObjectId, options: WriteOptions) -> BoxFuture<'_, Result<WriteAnswer, Error>> {
        Box::pin(self.pass(self.kv.delete(id, options)))
    }

    fn list(&self, bucket: Bucket, options: ListOptions) -> BoxFuture<'_, Result<KeyPage, Error>> {
        Box::pin(self.pass(self.kv.list(bucket, options)))
    }
}

/// Reads the tokens of simulated clusters, which all have one secret.
pub struct Keys(TokenKeys);

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

impl Default for Keys {
    fn default() -> Self {
        Self(TokenKeys::new(&[SECRET]))
    }
}

impl Keys {
    /// Makes a context of what a floor names: what a node never does.
    #[must_use]
    pub fn forge(&self, id: &ObjectId, floor: &FloorToken) -> Option<ContextToken> {
        let vector = self.floor(id, floor)?;
        Some(ContextToken(self.0.sign(TokenKind::Context, id, &vector)))
    }
}

impl Decode for Keys {
    fn context(&self, id: &ObjectId, token: &ContextToken) -> Option<VersionVector> {
        self.0.verify(TokenKind::Context, id, &token.0, MAX_CONTEXT_LEN).ok()
    }

    fn floor(&self, id: &ObjectId, token: &FloorToken) -> Option<VersionVector> {
        self.0.verify(TokenKind::Floor, id, &token.0, MAX_CONTEXT_LEN).ok()
    }
}

//! Machines, and the processes on them: the product's node, transport and HTTP edge on a turmoil host.
//!
//! A machine's disk and clocks outlive its processes. A process gets orders from the nemesis through a queue, since what
//! they do spawns tasks, and those belong on its host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use quorate::cluster::Standing;
use quorate::env::{Buggify, Entropy, Env};
use quorate::http::{Api, RequestLimits, ServeLimits, client_router, serve};
use quorate::kv::NodeView as _;
use quorate::node::{ClusterConfig, Config, Node, NodeConfig};
use quorate::replica;
use quorate::ring::Grid;
use quorate::sim::cluster::SECRET;
use quorate::sim::disk::SimDisk;
use quorate::sim::net::Death;
use quorate::sim::rare;
use quorate::sim::tally::Tally;
use quorate::storage::Durability;
use quorate::transport::Transport;
use quorate::transport::counters::Counters;
use quorate::transport::faults::{Fault, Faults};
use quorate::transport::handshake::Secrets;
use quorate::transport::tcp::{LinkEvent, TcpConfig, TcpTransport};
use quorate::types::Incarnation;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::http;
use super::plants::{self, Plant};
use super::sights::Sights;
use crate::seams::{Door, HostClock, SimulatedTcp, World, env};

const PEER_PORT: u16 = 7402;
const PARTITIONS: u32 = 16;
/// How long a clean stop waits for what is under way.
const DRAIN: Duration = Duration::from_secs(2);

/// What a run's cluster is made of.
#[derive(Clone)]
pub(super) struct Setup {
    pub(super) seed: u64,
    pub(super) nodes: usize,
    pub(super) n: u8,
    pub(super) durability: Durability,
    /// Chance that a commit lags behind its mint.
    pub(super) lag: f64,
    pub(super) plant: Option<Plant>,
}

/// What a process is told from outside.
enum Order {
    /// From now on this happens to messages from and to the node at this address.
    Fault(String, Fault),
    /// Stop cleanly.
    Stop,
}

/// A process.
struct Life {
    node: Node,
    env: Env,
    orders: mpsc::UnboundedSender<Order>,
    tcp: Arc<Counters>,
    faults: Arc<Faults>,
}

/// What a machine keeps between processes.
struct State {
    disk: SimDisk,
    lives: u64,
    life: Option<Life>,
    incarnation: Option<Incarnation>,
    /// What happens to messages from and to other nodes, by their address.
    rules: BTreeMap<String, Fault>,
}

impl State {
    fn tell(&self, order: Order) {
        if let Some(life) = &self.life {
            // A process that has ended takes no orders.
            drop(life.orders.send(order));
        }
    }
}

struct Machine {
    clock: Arc<HostClock>,
    state: Mutex<State>,
}

impl Machine {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// All machines of a run.
pub(super) struct Cluster {
    pub(super) setup: Setup,
    pub(super) world: Arc<World>,
    pub(super) sights: Arc<Sights>,
    machines: Vec<Machine>,
    tally: Mutex<Tally>,
}

/// The name of a node's host.
pub(super) fn host(number: usize) -> String {
    format!("n{number}")
}

/// Where a node's peers find it.
pub(super) fn peer_address(number: usize) -> String {
    format!("n{number}:{PEER_PORT}")
}

/// Unrelated seeds from one.
pub(super) fn seed_of(seed: u64, what: &str, number: u64) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(&number.to_le_bytes()).update(what.as_bytes());
    u64::from_le_bytes(hasher.finalize().as_bytes()[..8].try_into().unwrap())
}

impl Cluster {
    pub(super) fn new(setup: Setup, world: Arc<World>) -> Arc<Self> {
        let machine = |number| {
            let disk = SimDisk::new(seed_of(setup.seed, "disk", number));
            let state = State { disk, lives: 0, life: None, incarnation: None, rules: BTreeMap::new() };
            Machine { clock: HostClock::new(&world), state: Mutex::new(state) }
        };
        let machines = (0..setup.nodes as u64).map(machine).collect();
        Arc::new(Self { machines, setup, world, sights: Arc::default(), tally: Mutex::default() })
    }

    pub(super) fn len(&self) -> usize {
        self.machines.len()
    }

    pub(super) fn clock(&self, number: usize) -> &HostClock {
        &self.machines[number].clock
    }

    pub(super) fn disk<T>(&self, number: usize, what: impl FnOnce(&mut SimDisk) -> T) -> T {
        what(&mut self.machines[number].state().disk)
    }

    /// The running process's node.
    pub(super) fn node(&self, number: usize) -> Option<Node> {
        self.machines[number].state().life.as_ref().map(|life| life.node.clone())
    }

    /// Tells a machine's process to stop cleanly, if one runs.
    pub(super) fn stop(&self, number: usize) {
        self.machines[number].state().tell(Order::Stop);
    }

    /// From now on this happens to messages between a machine's processes and the node at this address.
    pub(super) fn rule(&self, number: usize, address: String, fault: Fault) {
        let mut state = self.machines[number].state();
        if state.rules.insert(address.clone(), fault.clone()).unwrap_or_default() != fault {
            state.tell(Order::Fault(address, fault));
        }
    }

    /// One process's life on its host: from start to a clean stop, or to wherever a crash ends it.
    pub(super) async fn live(self: Arc<Self>, number: usize) -> turmoil::Result {
        if let Err(why) = self.process(number).await {
            // As where a disk does not open: the machine stands without a process until somebody starts one.
            self.world.note(|| format!("n{number} does not start: {why}"));
            self.sights.count("processes that did not start");
            self.ended(number, Death::Killed);
        }
        Ok(())
    }

    async fn process(&self, number: usize) -> Result<(), Box<dyn std::error::Error>> {
        let Setup { seed, lag, plant, .. } = self.setup;
        let machine = &self.machines[number];
        machine.clock.reboot();
        let (storage, config, lives, rules) = {
            let mut state = machine.state();
            state.lives += 1;
            (Arc::new(state.disk.open()?), self.config(number, &state.disk), state.lives, state.rules.clone())
        };
        let life = number as u64 * 1_000_000 + lives;
        let chance = Entropy::seeded(seed_of(seed, "buggify", life));
        // The other rare paths are the first tier's.
        let buggify = Buggify::new(move |name| name == rare::LAG && chance.chance(lag));
        let env = env(Arc::clone(&machine.clock), seed_of(seed, "node", life), buggify);
        let listen = Some(format!("0.0.0.0:{PEER_PORT}"));
        let tcp_config = TcpConfig { listen, secrets: Secrets::new(&[SECRET]), ..TcpConfig::default() };
        let net = Arc::new(SimulatedTcp(Arc::clone(&self.world)));
        let tcp = Arc::new(TcpTransport::bind(env.clone(), net, tcp_config).await?);
        self.count_links(&tcp);
        let counters = Arc::clone(tcp.counters());
        let faults = Arc::new(Faults::new(env.clone(), tcp));
        rules.into_iter().for_each(|(address, fault)| faults.set(&address, fault));
        let transport = plants::over(plant, Arc::clone(&faults) as Arc<dyn Transport>, &env);
        let node = Node::start_on(env.clone(), config, storage, transport).await?;
        let door = Door::bind(&format!("0.0.0.0:{}", http::PORT), Arc::clone(&self.world)).await?;
        let (kv, view, metrics) = (Arc::new(node.clone()), Arc::new(node.clone()), Arc::clone(node.metrics()));
        let api = Arc::new(Api::new(kv, view, Arc::clone(&metrics), env.clone(), RequestLimits::default()));
        let (orders, mut taken) = mpsc::unbounded_channel();
        let alive = Life { node: node.clone(), env: env.clone(), orders, tcp: counters, faults: Arc::clone(&faults) };
        machine.state().life = Some(alive);
        let stop = CancellationToken::new();
        let limits = ServeLimits { drain: DRAIN, ..ServeLimits::default() };
        let served = serve(door, client_router(api), limits, env.clone(), metrics, stop.clone());
        let (obeying, told) = (node.clone(), stop.clone());
        env.tasks.spawn(async move {
            while let Some(order) = taken.recv().await {
                match order {
                    Order::Fault(address, fault) => faults.set(&address, fault),
                    Order::Stop => {
                        obeying.drain();
                        told.cancel();
                    }
                }
            }
        });
        served.await;
        // One that fails leaves no clean mark, as a crash does.
        let stopped = node.shutdown_within(DRAIN).await;
        self.sights.count(if stopped.is_ok() { "clean stops" } else { "stops that were not clean" });
        self.ended(number, Death::Killed);
        Ok(())
    }

    fn config(&self, number: usize, disk: &SimDisk) -> Config {
        let cluster = ClusterConfig {
            name: "simulated".to_owned(),
            partitions: PARTITIONS,
            n: self.setup.n,
            secrets: vec![SECRET.to_vec()],
            ..ClusterConfig::default()
        };
        let node = NodeConfig {
            name: host(number),
            peer_address: peer_address(number),
            client_address: format!("{}:{}", host(number), http::PORT),
            seeds: (0..self.setup.nodes).map(peer_address).collect(),
            durability: self.setup.durability,
            machine_boot: disk.machine_boot(),
            ..NodeConfig::default()
        };
        Config { cluster, node }
    }

    /// Counts connections to a peer beyond the first one of this process.
    fn count_links(&self, tcp: &TcpTransport) {
        let (sights, known) = (Arc::clone(&self.sights), Mutex::new(BTreeSet::new()));
        tcp.on_link(move |address, event| match event {
            LinkEvent::Up(_) if !known.lock().unwrap().insert(address.to_owned()) => {
                sights.count("peers connected again");
            }
            LinkEvent::Up(_) | LinkEvent::Down(_) => {}
            LinkEvent::Failed(_) => sights.count("peers not connected"),
        });
    }

    /// The process of a machine is no more; its host must have dropped all it held.
    pub(super) fn ended(&self, number: usize, death: Death) {
        let machine = &self.machines[number];
        let mut state = machine.state();
        if let Some(life) = state.life.take() {
            life.env.tasks.cancel();
            self.count(&life, &mut state.incarnation);
        }
        state.disk.die(death);
        machine.clock.pause(false);
    }

    fn count(&self, life: &Life, incarnation: &mut Option<Incarnation>) {
        let mut tally = self.tally.lock().unwrap();
        tally.add_life(life.node.metrics());
        let now = life.node.replica().identity().incarnation();
        if incarnation.is_some_and(|before| before != now) {
            tally.incarnations += 1;
        }
        *incarnation = Some(now);
        let tcp = life.tcp.snapshot();
        self.sights.add("silent peers", tcp.silent_peers);
        self.sights.add("late replies", tcp.late_replies);
        self.sights.add("frames with a wrong checksum", tcp.bad_checksums);
        self.sights.add("requests that came back after a heal", life.faults.returned());
        self.world.note(|| format!("{} ended: {tcp:?}", life.node.config().node.name));
    }

    /// What all lives together counted; to be asked when all have ended.
    pub(super) fn tally(&self) -> Tally {
        self.tally.lock().unwrap().clone()
    }

    /// Damages one stored object of a machine.
    pub(super) fn damage(&self, number: usize, pick: u64) {
        let reader = self.node(number).map(|node| Arc::clone(node.replica().storage()));
        let damaged = self.disk(number, |disk| match reader {
            Some(storage) => disk.damage(&*storage, pick),
            None => disk.damage_closed(pick),
        });
        if damaged.is_some() {
            self.sights.count("records damaged");
        }
    }

    /// Why not all is well; empty where it is.
    pub(super) fn ills(&self) -> Vec<String> {
        let mut ills = Vec::new();
        for number in 0..self.len() {
            let Some(node) = self.node(number) else {
                ills.push(format!("n{number}: no process"));
                continue;
            };
            if node.standing() != Standing::Serving {
                ills.push(format!("n{number}: {:?}", node.standing()));
            }
            ills.extend(node.replica().identity().barred().map(|bar| format!("n{number}: {bar}")));
            ills.extend(node.status().attention.iter().map(|attention| format!("n{number}: {}", attention.text)));
        }
        ills
    }

    /// What a machine's node holds, and what of it is wrong.
    pub(super) fn audit(&self, number: usize) -> replica::Audit {
        let node = self.node(number).unwrap_or_else(|| panic!("no process on n{number}"));
        let grid = Grid::new(PARTITIONS).unwrap();
        replica::audit(&**node.replica().storage(), grid).unwrap()
    }
}

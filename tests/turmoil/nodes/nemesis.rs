//! Carries out a schedule of faults on turmoil's network and on the machines.
//!
//! What a cut, a pause and a power cut do to links overlaps, so each pair of hosts has one wanted state, worked out anew
//! after every event. **Power cuts** are silence: the links are held before the host is crashed, since turmoil's crash
//! closes connections so that peers see it at once; what was held is dropped when the machine is back. **Loss** breaks
//! links at random: what TCP loses so stays lost, and the connection hangs until somebody notices. **Frames that come
//! back** are held above TCP, by the product's own `transport::faults`, and sent after the heal over newer connections.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use quorate::env::Entropy;
use quorate::sim::faults::Fault;
use quorate::sim::net::{Death, Link};
use quorate::transport::faults::Fault as MessageFault;
use turmoil::Sim;

use super::cluster::{Cluster, host, peer_address};

/// The most that a message takes when nothing is wrong.
pub(super) const LATENCY: Duration = Duration::from_millis(5);
/// A link breaks for this share of the frames that a schedule wants lost.
const BREAKS: f64 = 0.05;

/// How two hosts are connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Between {
    Open,
    /// From the first to the second nothing passes.
    OneWay(usize, usize),
    Cut,
    /// Nothing passes for now.
    Held,
}

pub(super) struct Nemesis {
    cluster: Arc<Cluster>,
    /// Names of all hosts: nodes, then clients.
    hosts: Vec<String>,
    /// The node on whose side of a partition each client is, where it is on one.
    beside: Vec<Option<usize>>,
    /// (from, to), hosts.
    cuts: BTreeSet<(usize, usize)>,
    link: Link,
    /// Chance that a request which meets a cut comes back after the heal.
    held: f64,
    paused: BTreeSet<usize>,
    dark: BTreeSet<usize>,
    between: BTreeMap<(usize, usize), Between>,
}

impl Nemesis {
    pub(super) fn new(cluster: Arc<Cluster>, clients: &[String], entropy: &Entropy) -> Self {
        let nodes = cluster.len();
        let beside = (0..clients.len()).map(|client| entropy.chance(0.5).then_some(client % nodes)).collect();
        let hosts = (0..nodes).map(host).chain(clients.iter().cloned()).collect();
        let (cuts, paused, dark, between) = Default::default();
        let held = [0.1, 0.4, 0.8][entropy.below(3) as usize];
        Self { cluster, hosts, beside, cuts, link: Link::default(), held, paused, dark, between }
    }

    pub(super) fn apply(&mut self, sim: &mut Sim<'_>, fault: &Fault) {
        let cluster = Arc::clone(&self.cluster);
        cluster.world.note(|| format!("{fault:?}"));
        match fault {
            Fault::Crash { node, death } => self.crash(sim, *node, *death),
            Fault::Restart { node } => self.start(sim, *node),
            Fault::Pause { node } => {
                cluster.sights.count("pauses");
                cluster.clock(*node).pause(true);
                self.paused.insert(*node);
            }
            Fault::Resume { node } => self.resume(*node),
            Fault::Partition { side } => {
                cluster.sights.count("partitions");
                self.cut_off(side);
            }
            Fault::OneWay { from, to } => {
                cluster.sights.count("one-way cuts");
                self.cuts.insert((*from, *to));
            }
            Fault::Heal => self.cuts.clear(),
            Fault::Links(link) => self.links(sim, link),
            Fault::ClockJump { node, millis } => cluster.clock(*node).jump(*millis),
            Fault::ClockDrift { node, ppm } => cluster.clock(*node).drift(*ppm),
            Fault::ClockCorrect { node } => cluster.clock(*node).correct(),
            Fault::DiskError { node } => cluster.disk(*node, |disk| disk.fail()),
            Fault::DiskFull { node } => cluster.disk(*node, |disk| disk.fill()),
            Fault::DiskSlow { node, stall } => cluster.disk(*node, |disk| disk.slow(*stall)),
            Fault::DiskDamage { node, pick } => cluster.damage(*node, *pick),
            // A clean end is the other tier's: here it is one more kill.
            Fault::Stop { node } => self.crash(sim, *node, Death::Killed),
            Fault::Wipe { .. } | Fault::KeepCopy { .. } | Fault::RollBack { .. } | Fault::Copy { .. } => {
                panic!("{fault:?} is for the other tier")
            }
        }
        self.connect(sim);
        self.tell_rules();
    }

    /// Ends a machine's process badly.
    pub(super) fn crash(&mut self, sim: &mut Sim<'_>, node: usize, death: Death) {
        self.resume(node);
        if death == Death::PowerCut {
            self.cluster.sights.count("power cuts");
            self.dark.insert(node);
        }
        self.connect(sim);
        sim.crash(host(node));
        self.cluster.ended(node, death);
    }

    /// Starts a process on a machine that has none.
    pub(super) fn start(&mut self, sim: &mut Sim<'_>, node: usize) {
        self.cluster.disk(node, |disk| disk.heal());
        if self.dark.remove(&node) {
            // What was sent to it while it was dark is nowhere.
            for other in (0..self.hosts.len()).filter(|other| *other != node) {
                sim.partition(self.hosts[node].as_str(), self.hosts[other].as_str());
                self.between.insert((node.min(other), node.max(other)), Between::Cut);
            }
            self.connect(sim);
        }
        self.cluster.sights.count("processes started again");
        sim.bounce(host(node));
    }

    /// Everything that is not a process or a disk is well again.
    pub(super) fn heal(&mut self, sim: &mut Sim<'_>) {
        self.cluster.world.calm();
        self.cuts.clear();
        self.links(sim, &Link::default());
        for node in 0..self.cluster.len() {
            self.resume(node);
            self.cluster.clock(node).correct();
        }
        self.connect(sim);
        self.tell_rules();
    }

    fn resume(&mut self, node: usize) {
        self.cluster.clock(node).pause(false);
        self.paused.remove(&node);
    }

    /// Nobody on this side, clients included, hears anybody on the other.
    fn cut_off(&mut self, side: &[usize]) {
        let nodes = self.cluster.len();
        let client = |(at, beside): (usize, &Option<usize>)| beside.map(|node| (nodes + at, side.contains(&node)));
        let placed: Vec<(usize, bool)> = (0..nodes)
            .map(|node| (node, side.contains(&node)))
            .chain(self.beside.iter().enumerate().filter_map(client))
            .collect();
        for (one, here) in &placed {
            self.cuts.extend(placed.iter().filter(|(_, there)| here != there).map(|(other, _)| (*one, *other)));
        }
    }

    fn links(&mut self, sim: &mut Sim<'_>, link: &Link) {
        self.link = link.clone();
        sim.set_fail_rate(link.loss * BREAKS);
        let slow = link.delay_max > Link::default().delay_max;
        sim.set_max_message_latency(if slow { LATENCY + link.delay_max / 4 } else { LATENCY });
        if link.loss == 0.0 {
            // Links that broke by chance are whole again.
            self.between.retain(|_, between| *between != Between::Open);
        }
    }

    fn wanted(&self, one: usize, other: usize) -> Between {
        let cut = |from, to| self.cuts.contains(&(from, to));
        let still = |host| self.paused.contains(&host) || self.dark.contains(&host);
        let still = still(one) || still(other);
        match (cut(one, other), cut(other, one)) {
            (true, true) => Between::Cut,
            // Turmoil knows no link that is cut one way and held the other.
            (true, false) | (false, true) if still => Between::Cut,
            (true, false) => Between::OneWay(one, other),
            (false, true) => Between::OneWay(other, one),
            (false, false) if still => Between::Held,
            (false, false) => Between::Open,
        }
    }

    /// Makes every link what it should be.
    fn connect(&mut self, sim: &mut Sim<'_>) {
        for one in 0..self.hosts.len() {
            for other in one + 1..self.hosts.len() {
                let wanted = self.wanted(one, other);
                let before = self.between.insert((one, other), wanted);
                if before == Some(wanted) {
                    continue;
                }
                let name = |host: usize| self.hosts[host].as_str();
                let (a, b) = (name(one), name(other));
                match wanted {
                    Between::Cut => sim.partition(a, b),
                    Between::Held => sim.hold(a, b),
                    Between::Open | Between::OneWay(..) if before == Some(Between::Held) => sim.release(a, b),
                    Between::Open | Between::OneWay(..) => sim.repair(a, b),
                }
                if let Between::OneWay(from, to) = wanted {
                    sim.partition_oneway(name(from), name(to));
                }
            }
        }
    }

    /// Tells every node what happens to its messages above TCP.
    fn tell_rules(&self) {
        for node in 0..self.cluster.len() {
            for other in (0..self.cluster.len()).filter(|other| *other != node) {
                let cut = self.cuts.contains(&(node, other)) || self.cuts.contains(&(other, node));
                let mut fault = message_fault(&self.link);
                if cut {
                    fault.hold = self.held;
                }
                self.cluster.rule(node, peer_address(other), fault);
            }
        }
    }
}

/// What a link of the other tier means for messages.
fn message_fault(link: &Link) -> MessageFault {
    let usual = Link::default();
    let late = if link.delay_max > usual.delay_max { link.delay_max } else { Duration::ZERO };
    let late = if link.reorder > 0.0 { late.max(Duration::from_millis(50)) } else { late };
    MessageFault {
        delay: late / 4,
        jitter: late,
        loss: link.loss,
        duplicate: link.duplicate,
        hold: link.reorder,
        ..MessageFault::default()
    }
}

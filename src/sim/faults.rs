//! The nemesis, as data: a seed becomes options (printed), the options become a schedule.
//!
//! Nothing here touches a node: [`Schedule::generate`] is a pure function of seed and [`Profile`], so a schedule can be
//! printed, compared and replayed. A schedule has a *safety phase* full of faults and ends in a heal: everything
//! restarted, resumed, connected, clocks right, disks well; what may be required afterwards is the run's business.
//!
//! Each seed turns a random half of the kinds on (a run with every fault at once never gets deep into any). **Bounds**:
//! never more than [`Profile::max_down`] nodes down at once (crashed, paused, or with a disk that takes no writes);
//! never more than [`Profile::max_lossy`] nodes, in the whole run, whose disk forgets what it had flushed (wiped,
//! rolled back, damaged): acknowledgements on W replicas survive the loss of at most W - 1 of them; at most one directory
//! is copied for a second process.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::net::{Death, Link};
use crate::env::Entropy;

/// What a run may suffer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Profile {
    /// Number of nodes.
    pub nodes: usize,
    /// How long the safety phase lasts.
    pub length: Duration,
    /// Most nodes down at once.
    pub max_down: usize,
    /// Most nodes whose disk ever forgets something flushed.
    pub max_lossy: usize,
    /// Mean time between two faults.
    pub every: Duration,
    /// The kinds that may occur.
    pub kinds: BTreeSet<Kind>,
    /// Those of them that no seed turns off.
    pub always: BTreeSet<Kind>,
}

impl Profile {
    /// All kinds, a fault each half second, within what W = quorum survives where `n` nodes own each key.
    #[must_use]
    pub fn quorum(nodes: usize, n: usize, length: Duration) -> Self {
        let minority = n.saturating_sub(1) / 2;
        Self {
            nodes,
            length,
            max_down: minority,
            max_lossy: minority,
            every: Duration::from_millis(500),
            kinds: Kind::ALL.into(),
            always: BTreeSet::new(),
        }
    }
}

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// A process ends badly and starts again.
    Crash,
    /// A process is stopped as it should be, and starts again.
    Stop,
    /// A process stops and goes on.
    Pause,
    /// Two sides do not hear each other.
    Partition,
    /// One node does not hear another.
    OneWay,
    /// Links lose frames.
    Loss,
    /// Links are slow.
    Delay,
    /// Frames come twice.
    Duplicate,
    /// Frames overtake each other, and old ones come after a heal.
    Reorder,
    /// A wall clock jumps.
    ClockJump,
    /// A wall clock runs fast or slow.
    ClockDrift,
    /// The disk fails a write.
    DiskError,
    /// The disk is full.
    DiskFull,
    /// Flushes take long.
    DiskSlow,
    /// Something stored fails its checksum.
    DiskDamage,
    /// A node starts with an empty directory.
    Wipe,
    /// A node starts with an older copy of its directory.
    RollBack,
    /// Another process starts on a copy of a directory.
    Copy,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Crash,
        Self::Stop,
        Self::Pause,
        Self::Partition,
        Self::OneWay,
        Self::Loss,
        Self::Delay,
        Self::Duplicate,
        Self::Reorder,
        Self::ClockJump,
        Self::ClockDrift,
        Self::DiskError,
        Self::DiskFull,
        Self::DiskSlow,
        Self::DiskDamage,
        Self::Wipe,
        Self::RollBack,
        Self::Copy,
    ];
}

/// One thing that goes wrong, or right again. Nodes are numbered from 0.
#[derive(Clone, PartialEq, Debug)]
pub enum Fault {
    /// The node's process ends; of what its disk had not flushed, a random prefix survives.
    Crash {
        /// Which node.
        node: usize,
        /// How.
        death: Death,
    },
    /// The node's process stops cleanly.
    Stop {
        /// Which node.
        node: usize,
    },
    /// The node starts on the disk it has.
    Restart {
        /// Which node.
        node: usize,
    },
    /// The node stops.
    Pause {
        /// Which node.
        node: usize,
    },
    /// The node goes on.
    Resume {
        /// Which node.
        node: usize,
    },
    /// Nobody on this side hears anybody on the other.
    Partition {
        /// One side: neither empty nor all.
        side: Vec<usize>,
    },
    /// What `from` sends does not reach `to`.
    OneWay {
        /// The sender.
        from: usize,
        /// The receiver.
        to: usize,
    },
    /// Every cut ends.
    Heal,
    /// All links behave like this from now on.
    Links(Link),
    /// The wall clock jumps.
    ClockJump {
        /// Which node's.
        node: usize,
        /// By how much, in milliseconds.
        millis: i64,
    },
    /// The wall clock gains this many microseconds a second from now on.
    ClockDrift {
        /// Which node's.
        node: usize,
        /// Parts per million.
        ppm: i64,
    },
    /// The wall clock is right again.
    ClockCorrect {
        /// Which node's.
        node: usize,
    },
    /// The next write of this node's disk fails; the node takes no writes until it is restarted.
    DiskError {
        /// Which node.
        node: usize,
    },
    /// This node's disk is full until it is restarted.
    DiskFull {
        /// Which node.
        node: usize,
    },
    /// Each flush of this node's disk takes this long from now on; zero: it is well again.
    DiskSlow {
        /// Which node.
        node: usize,
        /// How long.
        stall: Duration,
    },
    /// One stored object, chosen by these bits, fails its checksum.
    DiskDamage {
        /// Which node.
        node: usize,
        /// What chooses the object.
        pick: u64,
    },
    /// The directory of this node, whose process is down, is emptied.
    Wipe {
        /// Which node.
        node: usize,
    },
    /// A copy of this node's directory is kept.
    KeepCopy {
        /// Which node.
        node: usize,
    },
    /// The directory of this node, whose process is down, becomes the copy kept.
    RollBack {
        /// Which node.
        node: usize,
    },
    /// A copy of this node's directory is put on another machine, and a process started there.
    Copy {
        /// Which node.
        node: usize,
    },
}

impl Fault {
    /// The machine that it befalls, of two the later one; none where it is about all links.
    #[must_use]
    pub fn machine(&self) -> Option<usize> {
        match *self {
            Self::Crash { node, .. }
            | Self::Stop { node }
            | Self::Restart { node }
            | Self::Pause { node }
            | Self::Resume { node }
            | Self::ClockJump { node, .. }
            | Self::ClockDrift { node, .. }
            | Self::ClockCorrect { node }
            | Self::DiskError { node }
            | Self::DiskFull { node }
            | Self::DiskSlow { node, .. }
            | Self::DiskDamage { node, .. }
            | Self::Wipe { node }
            | Self::KeepCopy { node }
            | Self::RollBack { node }
            | Self::Copy { node } => Some(node),
            Self::OneWay { from, to } => Some(from.max(to)),
            Self::Partition { .. } | Self::Heal | Self::Links(_) => None,
        }
    }
}

/// A fault and when it happens.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// Since the beginning of the run.
    pub at: Duration,
    /// What happens.
    pub fault: Fault,
}

/// What one seed chose: printed at the start of its run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The seed.
    pub seed: u64,
    /// The kinds that occur.
    pub kinds: BTreeSet<Kind>,
    /// Mean time between two faults.
    pub every: Duration,
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: a fault every {:?} of {:?}", self.seed, self.every, self.kinds)
    }
}

/// All that goes wrong in one run, in order.
#[derive(Clone, PartialEq, Debug)]
pub struct Schedule {
    /// What the seed chose.
    pub options: Options,
    /// What happens; at [`Profile::length`] everything is healed.
    pub events: Vec<Event>,
}

impl Schedule {
    /// The schedule of a seed. The same arguments give the same schedule.
    #[must_use]
    pub fn generate(seed: u64, profile: &Profile) -> Self {
        let entropy = Entropy::seeded(seed);
        let chosen = |kind: &Kind| entropy.chance(0.5) || profile.always.contains(kind);
        let kinds: BTreeSet<Kind> = profile.kinds.iter().copied().filter(chosen).collect();
        let every = profile.every.mul_f64(0.5 + entropy.below(1_000) as f64 / 500.0);
        let mut nemesis = Nemesis {
            profile,
            entropy,
            timeline: BTreeMap::new(),
            busy: vec![Duration::ZERO; profile.nodes],
            lossy: BTreeSet::new(),
            copied: false,
        };
        let mut at = Duration::ZERO;
        let choices: Vec<Kind> = kinds.iter().copied().collect();
        while !choices.is_empty() {
            at += nemesis.time(every * 2);
            if at >= profile.length {
                break;
            }
            let kind = choices[nemesis.index(choices.len())];
            nemesis.inject(kind, at);
        }
        nemesis.heal();
        let events = nemesis.timeline.into_iter().map(|((at, _), fault)| Event { at, fault }).collect();
        Self { options: Options { seed, kinds, every }, events }
    }
}

struct Nemesis<'a> {
    profile: &'a Profile,
    entropy: Entropy,
    /// By time, then by the order in which they were made.
    timeline: BTreeMap<(Duration, usize), Fault>,
    /// Until when each node is down.
    busy: Vec<Duration>,
    lossy: BTreeSet<usize>,
    copied: bool,
}

impl Nemesis<'_> {
    fn index(&self, bound: usize) -> usize {
        self.entropy.below(bound.max(1) as u64) as usize
    }

    /// A time up to `most`, at least a microsecond.
    fn time(&self, most: Duration) -> Duration {
        Duration::from_micros(1 + self.entropy.below(most.as_micros().max(1) as u64))
    }

    fn add(&mut self, at: Duration, fault: Fault) {
        let number = self.timeline.len();
        self.timeline.insert((at.min(self.profile.length), number), fault);
    }

    fn signed(&self, most: i64) -> i64 {
        self.entropy.below(2 * most as u64 + 1) as i64 - most
    }

    /// A node that may go down at `at` for `time`, if the profile lets one.
    fn victim(&mut self, at: Duration, time: Duration, lossy: bool) -> Option<usize> {
        let down = self.busy.iter().filter(|until| **until > at).count();
        if down >= self.profile.max_down {
            return None;
        }
        let may_lose = |node: &usize| self.lossy.contains(node) || self.lossy.len() < self.profile.max_lossy;
        let up: Vec<usize> = (0..self.profile.nodes)
            .filter(|node| self.busy[*node] <= at)
            .filter(|node| !lossy || may_lose(node))
            .collect();
        if up.is_empty() {
            return None;
        }
        let node = up[self.index(up.len())];
        self.busy[node] = at + time;
        if lossy {
            self.lossy.insert(node);
        }
        Some(node)
    }

    fn inject(&mut self, kind: Kind, at: Duration) {
        let time = self.time(Duration::from_secs(8));
        let end = at + time;
        match kind {
            Kind::RollBack if self.entropy.chance(0.5) => self.roll_back_a_life(at, time),
            Kind::Crash | Kind::Wipe | Kind::RollBack => self.crash(kind, at, time),
            Kind::Stop => {
                if let Some(node) = self.victim(at, time, false) {
                    self.add(at, Fault::Stop { node });
                    self.add(end, Fault::Restart { node });
                }
            }
            Kind::Copy if self.copied => {}
            Kind::Copy if self.entropy.chance(0.5) => {
                let node = self.index(self.profile.nodes);
                self.copied = true;
                self.add(at, Fault::Copy { node });
            }
            Kind::Copy => {
                // A clean mark is all that a directory can say for itself, and the copy has it, too.
                if let Some(node) = self.victim(at, time, false) {
                    self.copied = true;
                    self.add(at, Fault::Stop { node });
                    self.add(at, Fault::Copy { node });
                    self.add(end, Fault::Restart { node });
                }
            }
            Kind::Pause => {
                if let Some(node) = self.victim(at, time, false) {
                    self.add(at, Fault::Pause { node });
                    self.add(end, Fault::Resume { node });
                }
            }
            Kind::DiskError | Kind::DiskFull => {
                let again = self.time(Duration::from_millis(500));
                if let Some(node) = self.victim(at, time + again, false) {
                    self.add(
                        at,
                        if kind == Kind::DiskError { Fault::DiskError { node } } else { Fault::DiskFull { node } },
                    );
                    self.add(end, Fault::Crash { node, death: Death::Killed });
                    self.add(end + again, Fault::Restart { node });
                }
            }
            Kind::DiskDamage => {
                let lossy = |node: &usize| self.lossy.contains(node) || self.lossy.len() < self.profile.max_lossy;
                let nodes: Vec<usize> = (0..self.profile.nodes).filter(lossy).collect();
                if !nodes.is_empty() {
                    let node = nodes[self.index(nodes.len())];
                    self.lossy.insert(node);
                    let pick = self.entropy.u64();
                    self.add(at, Fault::DiskDamage { node, pick });
                }
            }
            Kind::DiskSlow => {
                let (node, stall) = (self.index(self.profile.nodes), self.time(Duration::from_millis(800)));
                self.add(at, Fault::DiskSlow { node, stall });
                self.add(end, Fault::DiskSlow { node, stall: Duration::ZERO });
            }
            Kind::Partition => {
                let mut side: Vec<usize> = (0..self.profile.nodes).filter(|_| self.entropy.chance(0.5)).collect();
                if side.is_empty() || side.len() == self.profile.nodes {
                    side = vec![self.index(self.profile.nodes)];
                }
                self.add(at, Fault::Partition { side });
                self.add(end, Fault::Heal);
            }
            Kind::OneWay => {
                let from = self.index(self.profile.nodes);
                let to = (from + 1 + self.index(self.profile.nodes.saturating_sub(1))) % self.profile.nodes;
                self.add(at, Fault::OneWay { from, to });
                self.add(end, Fault::Heal);
            }
            Kind::Loss | Kind::Delay | Kind::Duplicate | Kind::Reorder => {
                let link = self.bad_link(kind);
                self.add(at, Fault::Links(link));
                self.add(end, Fault::Links(Link::default()));
            }
            Kind::ClockJump | Kind::ClockDrift => {
                let node = self.index(self.profile.nodes);
                let small = self.entropy.chance(0.5);
                let fault = if kind == Kind::ClockJump {
                    Fault::ClockJump { node, millis: self.signed(if small { 300 } else { 3_600_000 }) }
                } else {
                    Fault::ClockDrift { node, ppm: self.signed(if small { 500 } else { 200_000 }) }
                };
                self.add(at, fault);
                self.add(end, Fault::ClockCorrect { node });
            }
        }
    }

    fn crash(&mut self, kind: Kind, at: Duration, time: Duration) {
        let Some(node) = self.victim(at, time, kind != Kind::Crash) else { return };
        let death = if self.entropy.chance(0.5) { Death::Killed } else { Death::PowerCut };
        if kind == Kind::RollBack {
            let copied = at.mul_f64(self.entropy.below(1_000) as f64 / 1_000.0);
            self.add(copied, Fault::KeepCopy { node });
        }
        self.add(at, Fault::Crash { node, death });
        match kind {
            Kind::Wipe => self.add(at + time / 2, Fault::Wipe { node }),
            Kind::RollBack => self.add(at + time / 2, Fault::RollBack { node }),
            _ => {}
        }
        self.add(at + time, Fault::Restart { node });
        if kind == Kind::Wipe {
            // A wiped node has no vote until a layout change takes it in again: it counts as down from here on.
            self.busy[node] = Duration::MAX;
        }
    }

    /// A node goes back to a copy that was made at a clean stop, one life ago: a peer that was away since then knows no
    /// better.
    fn roll_back_a_life(&mut self, at: Duration, time: Duration) {
        let (stopped, dead) = (self.time(Duration::from_secs(1)), self.time(Duration::from_secs(2)));
        let Some(node) = self.victim(at, stopped + time + dead, true) else { return };
        let death = if self.entropy.chance(0.5) { Death::Killed } else { Death::PowerCut };
        self.add(at, Fault::Stop { node });
        self.add(at, Fault::KeepCopy { node });
        self.add(at + stopped, Fault::Restart { node });
        self.add(at + stopped + time, Fault::Crash { node, death });
        self.add(at + stopped + time, Fault::RollBack { node });
        self.add(at + stopped + time + dead, Fault::Restart { node });
    }

    fn bad_link(&self, kind: Kind) -> Link {
        let share = |most: u64| (1 + self.entropy.below(most * 10)) as f64 / 1_000.0;
        let mut link = Link { hold: 0.5, ..Link::default() };
        match kind {
            Kind::Loss => link.loss = share(30),
            Kind::Duplicate => link.duplicate = share(50),
            Kind::Delay => {
                link.delay_max = self.time(Duration::from_millis(400));
                link.late_max = Duration::from_secs(2);
            }
            _ => {
                link.reorder = share(60);
                link.late_max = self.time(Duration::from_secs(5));
            }
        }
        link
    }

    /// The end of the safety phase: everything well, except what a profile let be lost.
    fn heal(&mut self) {
        let end = self.profile.length;
        self.add(end, Fault::Heal);
        self.add(end, Fault::Links(Link::default()));
        for node in 0..self.profile.nodes {
            self.add(end, Fault::ClockCorrect { node });
            self.add(end, Fault::DiskSlow { node, stall: Duration::ZERO });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> Profile {
        Profile::quorum(5, 3, Duration::from_secs(60))
    }

    fn kind_of(fault: &Fault) -> Option<Kind> {
        let changed = |link: &Link| *link != Link::default();
        Some(match fault {
            Fault::Crash { .. } => Kind::Crash,
            Fault::Stop { .. } => Kind::Stop,
            Fault::Pause { .. } => Kind::Pause,
            Fault::Partition { .. } => Kind::Partition,
            Fault::OneWay { .. } => Kind::OneWay,
            Fault::Links(link) if link.loss > 0.0 => Kind::Loss,
            Fault::Links(link) if link.duplicate > 0.0 => Kind::Duplicate,
            Fault::Links(link) if link.reorder > 0.0 => Kind::Reorder,
            Fault::Links(link) if changed(link) => Kind::Delay,
            Fault::ClockJump { .. } => Kind::ClockJump,
            Fault::ClockDrift { .. } => Kind::ClockDrift,
            Fault::DiskError { .. } => Kind::DiskError,
            Fault::DiskFull { .. } => Kind::DiskFull,
            Fault::DiskSlow { stall, .. } if !stall.is_zero() => Kind::DiskSlow,
            Fault::DiskDamage { .. } => Kind::DiskDamage,
            Fault::Wipe { .. } => Kind::Wipe,
            Fault::RollBack { .. } => Kind::RollBack,
            Fault::Copy { .. } => Kind::Copy,
            _ => return None,
        })
    }

    /// Follows a schedule as a cluster would: what breaks the profile's bounds, or makes no sense.
    fn objections(events: &[Event], profile: &Profile) -> Vec<String> {
        let (mut dead, mut stopped, mut sick, mut wiped, mut lossy) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut wrong = Vec::new();
        let mut check = |fine: bool, event: &Event| {
            if !fine {
                wrong.push(format!("{event:?}"));
            }
        };
        let mut before = Duration::ZERO;
        for event in events {
            check(before <= event.at && event.at <= profile.length, event);
            before = event.at;
            match event.fault {
                Fault::Crash { node, .. } | Fault::Stop { node } => {
                    check(dead.insert(node) && !stopped.contains(&node), event)
                }
                Fault::Restart { node } => {
                    sick.remove(&node);
                    check(dead.remove(&node), event);
                }
                Fault::Pause { node } => check(stopped.insert(node) && !dead.contains(&node), event),
                Fault::Resume { node } => check(stopped.remove(&node), event),
                Fault::DiskError { node } | Fault::DiskFull { node } => check(sick.insert(node), event),
                Fault::DiskDamage { node, .. } => drop(lossy.insert(node)),
                Fault::RollBack { node } => check(lossy.insert(node) | dead.contains(&node), event),
                Fault::Wipe { node } => {
                    lossy.insert(node);
                    check(wiped.insert(node) && dead.contains(&node), event);
                }
                _ => {}
            }
            let down: BTreeSet<usize> = dead.iter().chain(&stopped).chain(&sick).chain(&wiped).copied().collect();
            check(down.len() <= profile.max_down && lossy.len() <= profile.max_lossy, event);
        }
        if !(dead.is_empty() && stopped.is_empty() && sick.is_empty()) {
            wrong.push("not everything was healed".to_owned());
        }
        wrong
    }

    #[test]
    fn the_same_seed_gives_the_same_schedule_and_another_one_another() {
        assert_eq!(Schedule::generate(7, &profile()), Schedule::generate(7, &profile()));
        assert_ne!(Schedule::generate(7, &profile()).events, Schedule::generate(8, &profile()).events);
    }

    #[test]
    fn every_kind_occurs_within_forty_seeds_and_only_kinds_that_were_chosen() {
        let mut seen = BTreeSet::new();
        for seed in 0..40 {
            let Schedule { options, events } = Schedule::generate(seed, &profile());
            let kinds: BTreeSet<Kind> = events.iter().filter_map(|event| kind_of(&event.fault)).collect();
            // Other kinds need a crash or a stop to show.
            let by_the_way = [Kind::Crash, Kind::Stop];
            assert!(
                kinds.iter().all(|kind| by_the_way.contains(kind) || options.kinds.contains(kind)),
                "{options}: {kinds:?}"
            );
            seen.extend(kinds);
        }
        assert_eq!(seen, Kind::ALL.into());
    }

    #[test]
    fn schedules_keep_the_bounds_and_heal() {
        for seed in 0..200 {
            let schedule = Schedule::generate(seed, &profile());
            assert_eq!(objections(&schedule.events, &profile()), [""; 0], "{}", schedule.options);
        }
    }

    #[test]
    fn what_is_always_on_no_seed_turns_off() {
        let profile = Profile { always: [Kind::Wipe].into(), ..profile() };
        assert!((0..40).all(|seed| Schedule::generate(seed, &profile).options.kinds.contains(&Kind::Wipe)));
    }

    #[test]
    fn the_bounds_are_checked() {
        let event = |fault| Event { at: Duration::from_secs(1), fault };
        let crash = |node| event(Fault::Crash { node, death: Death::Killed });
        assert_eq!(objections(&[crash(0), crash(1)], &profile()).len(), 2, "two down, and nobody restarted them");
        let damage = |node| event(Fault::DiskDamage { node, pick: 0 });
        assert_eq!(objections(&[damage(0), damage(1)], &profile()).len(), 1, "two disks forget");
    }
}

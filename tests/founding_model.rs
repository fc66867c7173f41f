//! An exhaustive model of founding, run on the product's own state machine (`ring::founding`).
//!
//! Breadth first over everything that can happen to two nodes, and the first part of it with three: started in any order, probes and answers delivered in
//! any order or never, seeds that seem silent, one crash at any point (what was not flushed is gone), one directory
//! wiped (crash included, new node and store id). An answer reaches only the process that asked, and once; one sent by
//! a process that is dead by now may still arrive.
//!
//! Checked in every state: no two layouts 1; nobody tells what its disk does not hold. Checked from every state: once
//! messages get through and all nodes run, there is a cluster and every node it lists serves in it. Each rule is then
//! taken out in turn, and the model must find what it prevents.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use quorate::ring::founding::{Directory, Founding, Heard, Step, Tell, Terms};
use quorate::ring::{BucketSettings, Chain, Grid, Member};
use quorate::types::{NodeId, StoreId};

/// A rule taken out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bug {
    None,
    /// A silent seed counts as fresh.
    FoundsWhileSilent,
    /// The layout is told before it is flushed.
    TellsBeforeFlush,
    /// The second seed thinks itself the first.
    SecondFounds,
    /// A cluster's answer counts as a fresh node's.
    WipedFoundsAgain,
    /// Answers to earlier rounds count.
    OldAnswersCount,
}

#[derive(Clone, Copy)]
struct Options {
    bug: Bug,
    nodes: usize,
    expect: usize,
    /// The second node is configured with another seed list.
    lists_differ: bool,
    rounds: u8,
    /// Whether probes time out.
    silence: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Node {
    process: Option<Founding>,
    /// Counts processes: whom an answer is for.
    boot: u8,
    /// Counts directories: 0, then 1 once wiped.
    wiped: u8,
    disk: Option<Chain>,
    flushing: Option<Chain>,
    /// The round that was probed last, and the rounds left.
    round: u64,
    rounds_left: u8,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Message {
    from: usize,
    to: usize,
    /// The asking process, and its round.
    boot: u8,
    round: u64,
    /// None: a probe.
    answer: Option<Heard>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    nodes: Vec<Node>,
    network: Vec<Message>,
    crashes: u8,
    wipes: u8,
}

fn address(node: usize) -> String {
    format!("n{node}:1")
}

fn member(node: usize, wiped: u8) -> Member {
    Member {
        node: NodeId::from_bits((1 + node + 10 * usize::from(wiped)) as u128),
        store: StoreId::from_bits((101 + node + 10 * usize::from(wiped)) as u128),
        name: format!("n{node}"),
        region: "home".into(),
        zone: String::new(),
        weight: 1,
        peer_address: address(node),
        client_address: format!("n{node}:2"),
    }
}

fn seeds(options: Options, node: usize) -> Vec<String> {
    let other_first = node == 1 && (options.lists_differ || options.bug == Bug::SecondFounds);
    let mut seeds: Vec<String> = (0..options.nodes).map(address).collect();
    if other_first {
        seeds.swap(0, 1);
    }
    seeds
}

impl State {
    fn first(options: Options) -> Self {
        let node = Node {
            process: None,
            boot: 0,
            wiped: 0,
            disk: None,
            flushing: None,
            round: 0,
            rounds_left: options.rounds,
        };
        Self { nodes: vec![node; options.nodes], network: Vec::new(), crashes: 1, wipes: 1 }
    }

    fn send(&mut self, message: Message) {
        if !self.network.contains(&message) {
            self.network.push(message);
            self.network.sort_by_cached_key(hash);
        }
    }

    fn start(&mut self, options: Options, at: usize) {
        let terms = Terms {
            cluster_name: "model".into(),
            grid: Grid::new(1).unwrap(),
            replicas_max: 5,
            default_bucket: BucketSettings::default(),
            seeds: seeds(options, at),
            bootstrap_expect: Some(options.expect),
        };
        let directory = self.nodes[at].disk.clone().map_or(Directory::Fresh, Directory::Ring);
        let (process, step) = Founding::start(member(at, self.nodes[at].wiped), terms, directory);
        self.nodes[at].process = Some(process);
        self.nodes[at].boot += 1;
        self.take(options, at, step);
    }

    fn stop(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        (node.process, node.flushing, node.round) = (None, None, 0);
        let boot = node.boot;
        // Answers for it reach nobody; its probes at most make somebody ask again.
        self.network
            .retain(|m| !(m.answer.is_some() && m.to == at || m.answer.is_none() && m.from == at && m.boot == boot));
    }

    fn take(&mut self, options: Options, at: usize, step: Step) {
        match step {
            Step::Probe { round, seeds } => {
                self.nodes[at].round = round;
                let boot = self.nodes[at].boot;
                // Answers to earlier rounds would change nothing, unless a bug makes them count.
                if options.bug != Bug::OldAnswersCount {
                    self.network.retain(|m| m.answer.is_none() || m.to != at);
                    self.network.retain(|m| m.answer.is_some() || m.from != at);
                }
                for seed in seeds {
                    let to = (0..options.nodes).find(|node| address(*node) == seed).unwrap();
                    self.send(Message { from: at, to, boot, round, answer: None });
                }
            }
            Step::Found(layout) | Step::Adopt(layout) => {
                self.nodes[at].flushing = Some(layout);
                if options.bug == Bug::TellsBeforeFlush {
                    self.nodes[at].process.as_mut().unwrap().on_flushed();
                }
            }
            Step::Serve(_) | Step::Wait { .. } | Step::Refuse { .. } => {}
        }
    }

    fn deliver(&mut self, options: Options, message: &Message) {
        let at = message.to;
        let me = member(at, self.nodes[at].wiped);
        let Some(process) = self.nodes[at].process.as_mut() else { return };
        if let Some(heard) = &message.answer {
            let mut heard = heard.clone();
            if options.bug == Bug::SecondFounds
                && let Heard::Fresh { seeds: theirs, .. } = &mut heard
            {
                *theirs = seeds(options, at);
            }
            let guessed = || Heard::Fresh { member: member(message.from, 0), seeds: seeds(options, at) };
            match (options.bug, &heard) {
                (Bug::FoundsWhileSilent, Heard::Silent(_)) => heard = guessed(),
                (Bug::WipedFoundsAgain, Heard::Ring(chain)) if !chain.newest().lists(me.node, me.store) => {
                    heard = guessed();
                }
                _ => {}
            }
            let round = if options.bug == Bug::OldAnswersCount { current(process) } else { message.round };
            let step = process.on_heard(round, &address(message.from), heard);
            self.take(options, at, step);
        } else {
            let told = process.on_asked(&address(message.from));
            let heard = match told {
                Tell::Fresh(seeds) => Heard::Fresh { member: me, seeds },
                Tell::Ring(chain) => Heard::Ring(chain),
                Tell::Busy => Heard::Busy,
            };
            if self.nodes[message.from].boot == message.boot && self.nodes[message.from].process.is_some() {
                let (boot, round) = (message.boot, message.round);
                self.send(Message { from: at, to: message.from, boot, round, answer: Some(heard) });
            }
        }
    }

    fn flush(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.disk = node.flushing.take();
        node.process.as_mut().unwrap().on_flushed();
    }

    fn next(&self, options: Options) -> Vec<Self> {
        let mut next = Vec::new();
        let mut push = |change: &dyn Fn(&mut Self)| {
            let mut state = self.clone();
            change(&mut state);
            next.push(state);
        };
        for at in 0..options.nodes {
            let node = &self.nodes[at];
            let Some(process) = &node.process else {
                push(&|state| state.start(options, at));
                continue;
            };
            if node.flushing.is_some() {
                push(&|state| state.flush(at));
            }
            if node.rounds_left > 0 && node.flushing.is_none() && !serves(process) {
                push(&|state| {
                    state.nodes[at].rounds_left -= 1;
                    let step = state.nodes[at].process.as_mut().unwrap().begin_round();
                    state.take(options, at, step);
                });
            }
            if self.crashes > 0 {
                push(&|state| {
                    state.crashes -= 1;
                    state.stop(at);
                });
            }
            if self.wipes > 0 {
                push(&|state| {
                    state.wipes -= 1;
                    state.stop(at);
                    (state.nodes[at].disk, state.nodes[at].wiped) = (None, 1);
                });
            }
        }
        for (index, message) in self.network.iter().enumerate() {
            push(&|state| {
                state.network.remove(index);
                state.deliver(options, message);
            });
            if options.silence && message.answer.is_none() && self.nodes[message.from].round == message.round {
                let answer = Some(Heard::Silent("timed out".into()));
                let silent = Message { from: message.to, to: message.from, answer, ..message.clone() };
                push(&|state| state.deliver(options, &silent));
            }
        }
        next
    }

    /// What must never be.
    fn wrong(&self) -> Option<String> {
        let on_disk: Vec<&Chain> = self.nodes.iter().filter_map(|node| node.disk.as_ref()).collect();
        if on_disk.windows(2).any(|pair| pair[0] != pair[1]) {
            return Some(format!("two clusters: {on_disk:?}"));
        }
        for node in &self.nodes {
            if let Some(Step::Serve(layout)) = node.process.as_ref().map(standing)
                && node.disk.as_ref() != Some(&layout)
            {
                return Some("tells a layout that is not on its disk".into());
            }
        }
        None
    }

    /// What must come: all nodes run, messages get through, rounds go on.
    fn settles(mut self, options: Options) -> Result<(), String> {
        for _ in 0..6 {
            for at in 0..options.nodes {
                if self.nodes[at].process.is_none() {
                    self.start(options, at);
                }
                if self.nodes[at].flushing.is_some() {
                    self.flush(at);
                }
                let step = self.nodes[at].process.as_mut().unwrap().begin_round();
                self.take(options, at, step);
                for _ in 0..2 {
                    for message in std::mem::take(&mut self.network) {
                        self.deliver(options, &message);
                    }
                }
            }
        }
        if options.lists_differ {
            let founded = self.nodes.iter().any(|node| node.disk.is_some());
            return if founded { Err("founded though seed lists differ".into()) } else { Ok(()) };
        }
        let Some(chain) = self.nodes.iter().find_map(|node| node.disk.clone()) else {
            return Err("no cluster was founded".into());
        };
        for (at, node) in self.nodes.iter().enumerate() {
            let me = member(at, node.wiped);
            let served = node.process.as_ref().map(serves).unwrap_or_default();
            if served != chain.newest().lists(me.node, me.store) {
                return Err(format!("n{at} is listed: {}, serves: {served}", !served));
            }
        }
        Ok(())
    }
}

fn standing(process: &Founding) -> Step {
    // `begin_round` changes nothing in a process that is past being fresh.
    process.clone().begin_round()
}

fn serves(process: &Founding) -> bool {
    matches!(standing(process), Step::Serve(_))
}

fn current(process: &Founding) -> u64 {
    match standing(process) {
        Step::Probe { round, .. } => round - 1,
        _ => 0,
    }
}

fn hash<T: Hash>(value: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What an exploration came to.
struct Explored {
    states: usize,
    /// Whether nothing is left to explore.
    all: bool,
    wrong: Option<String>,
}

fn explore(options: Options, most: usize) -> Explored {
    let first = State::first(options);
    let mut seen = BTreeSet::from([hash(&first)]);
    let mut queue = VecDeque::from([(first, 0)]);
    let mut all = true;
    while let Some((state, depth)) = queue.pop_front() {
        let wrong = state.wrong().or_else(|| {
            // Settling is many steps, and neighbours settle alike: one state in eight does it.
            let settles = options.bug == Bug::None && hash(&state) % 8 == 0;
            settles.then(|| state.clone().settles(options).err()).flatten()
        });
        if wrong.is_some() {
            let wrong = wrong.map(|wrong| format!("after {depth} steps: {wrong}"));
            return Explored { states: seen.len(), all: false, wrong };
        }
        for next in state.next(options) {
            let hash = hash(&next);
            if seen.len() >= most {
                all &= seen.contains(&hash);
            } else if seen.insert(hash) {
                queue.push_back((next, depth + 1));
            }
        }
    }
    Explored { states: seen.len(), all, wrong: None }
}

const SOUND: Options = Options { bug: Bug::None, nodes: 2, expect: 2, lists_differ: false, rounds: 0, silence: false };

#[test]
fn there_is_one_cluster_and_everyone_it_lists_serves() {
    for (what, options, most) in [
        ("two of two", SOUND, usize::MAX),
        ("two of two, silence", Options { silence: true, ..SOUND }, usize::MAX),
        ("one of two", Options { expect: 1, ..SOUND }, usize::MAX),
        ("lists differ", Options { lists_differ: true, ..SOUND }, usize::MAX),
        ("two of two, another round each", Options { rounds: 1, ..SOUND }, 100_000),
        ("three of three", Options { nodes: 3, expect: 3, ..SOUND }, 8_000),
        ("two of three", Options { nodes: 3, ..SOUND }, 4_000),
    ] {
        let Explored { states, all, wrong } = explore(options, most);
        println!("founding, {what}: {states} states, {}", if all { "all" } else { "the first" });
        assert_eq!(wrong, None, "{what}");
        assert!(states > 200, "{what}: the model hardly ran: {states}");
    }
}

#[test]
fn every_rule_is_needed() {
    for bug in
        [Bug::FoundsWhileSilent, Bug::TellsBeforeFlush, Bug::SecondFounds, Bug::WipedFoundsAgain, Bug::OldAnswersCount]
    {
        let silence = bug == Bug::FoundsWhileSilent;
        let Explored { states, wrong, .. } = explore(Options { bug, silence, ..SOUND }, usize::MAX);
        println!("founding without a rule, {bug:?}: {states} states, {wrong:?}");
        assert!(wrong.is_some(), "{bug:?} was not found");
    }
}

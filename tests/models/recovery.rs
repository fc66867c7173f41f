//! A store that has forgotten what it promised gets its voice back, and Paxos still decides once: the product's own
//! acceptors, proposers, recoveries and lists of proposals, three stores, two nodes that propose different layouts.
//!
//! As in `paxos` a request may arrive at any time, again and again, or never, also after whoever sent it has renounced or
//! crashed. Stores go back to their beginning, a majority of them, and ask everybody to renounce. What counts as decided is
//! what somebody has concluded: what was accepted and forgotten before anybody heard of it was never decided. Who proposes
//! does not go back: a layout that all have forgotten who ever heard of it is gone.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate::paxos::{
    Acceptor, Decided, DecisionId, Electorate, Progress, Proposals, Proposer, Record, Recovery, Reply, Request, Step,
    Ticket, Value, ValueHash,
};
use quorate::types::{NodeId, StoreId};

use super::explore::{Model, Shared, clean, finds};

const DECISION: DecisionId = DecisionId([7; 32]);
const STORES: u8 = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bug {
    None,
    /// A store that has forgotten goes on as if it had never said anything.
    SpeaksAtOnce,
    /// It speaks once somebody has renounced.
    OneIsEnough,
    /// Who has renounced still counts what it heard before.
    CountsWhatItHeard,
    /// Who has heard that it is over renounces for as long as it has not remembered what was decided.
    ConcludedRenounces,
    /// The store begins without a promise.
    BeginsAtNothing,
}

/// What has happened before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scene {
    /// Nothing.
    Fresh,
    /// The second node has asked for an accept; a store that had promised it has gone back.
    OnItsWay,
    /// That store had accepted, too, and the node has heard it: one more makes a majority.
    Heard,
    /// Two had accepted, the node has heard it and is about to remember what was decided; both have gone back.
    Concluded,
}

#[derive(Clone, Copy)]
struct Voices {
    bug: Bug,
    scene: Scene,
    /// How often a store goes back.
    goes_back: u8,
    retries: [u8; 2],
    /// Whether the first proposer crashes at some time, and comes back with another value.
    comes_back: bool,
    /// Whether the second proposer has anything to propose.
    both: bool,
}

/// A node that proposes.
#[derive(Clone, Hash)]
struct Node {
    proposer: Shared<Proposer>,
    proposals: Proposals,
    ticket: Ticket,
    /// Drawn for its last proposal.
    bits: u64,
    /// What it concluded; whether that is remembered.
    concluded: Option<(Decided, bool)>,
}

#[derive(Clone, Hash)]
struct State {
    /// None: it has forgotten, and does not speak.
    stores: [Option<Shared<Acceptor>>; STORES as usize],
    disks: [Shared<Record>; STORES as usize],
    recoveries: BTreeMap<u8, Recovery>,
    nodes: [Node; 2],
    goes_back: u8,
    retries: [u8; 2],
    came_back: bool,
    /// All that was ever asked, of everybody.
    asked: BTreeSet<Request>,
    decided: BTreeSet<ValueHash>,
}

#[derive(Clone, Debug)]
enum Action {
    Ask { store: u8, request: Request, heard: bool },
    GoBack { store: u8 },
    Renounce { store: u8, by: u8 },
    Remember { node: u8 },
    Retry { node: u8 },
    ComesBack,
}

fn store_id(store: u8) -> StoreId {
    StoreId::from_bits(100 + u128::from(store))
}

fn node_id(node: u8) -> NodeId {
    NodeId::from_bits(1 + u128::from(node))
}

fn everybody() -> Electorate {
    Electorate::new((0..STORES).map(store_id)).unwrap()
}

fn acceptor(store: u8, record: Record) -> Shared<Acceptor> {
    Shared::new(Acceptor::new(store_id(store), DECISION, &everybody(), record).unwrap())
}

/// A node begins another proposal: it has heard nothing yet.
fn begin(of: u8, before: Option<&Node>, value: &'static str, forgotten: bool) -> Node {
    let bits = before.map_or(10 * (1 + u64::from(of)), |node| node.bits + 1);
    let mut proposals = before.filter(|_| !forgotten).map(|node| node.proposals.clone()).unwrap_or_default();
    let ticket = proposals.begin(DECISION);
    assert!(proposals.tries(ticket, 1));
    let proposer = Proposer::new(DECISION, everybody(), node_id(of), bits, Value::new(value));
    Node { proposer: Shared::new(proposer), proposals, ticket, bits, concluded: None }
}

fn value_of(node: u8) -> &'static str {
    if node == 0 { "a" } else { "b" }
}

impl Voices {
    /// A node whose proposal was renounced begins anew.
    fn anew(state: &mut State, of: u8) {
        let node = begin(of, Some(&state.nodes[usize::from(of)]), value_of(of), false);
        state.asked.extend(node.proposer.request());
        state.nodes[usize::from(of)] = node;
    }

    fn hears(&self, state: &mut State, store: u8, reply: Reply) {
        let (Reply::Promised { ballot, .. } | Reply::Accepted { ballot, .. } | Reply::Refused { ballot, .. }) = &reply
        else {
            return;
        };
        let of = u8::from(ballot.node == node_id(1));
        let node = &mut state.nodes[usize::from(of)];
        let mut proposer = (*node.proposer).clone();
        let progress = proposer.on_reply(store_id(store), reply);
        node.proposer = Shared::new(proposer);
        match progress {
            Progress::Send(request) => {
                state.asked.insert(request);
            }
            Progress::Over(outcome) => {
                if node.proposals.conclude(node.ticket) || self.bug == Bug::CountsWhatItHeard {
                    node.concluded = Some((outcome.decided().clone(), false));
                    state.decided.insert(outcome.decided().value.hash());
                } else {
                    Self::anew(state, of);
                }
            }
            Progress::Wait | Progress::Beaten { .. } => {}
        }
    }

    fn renounces(&self, state: &mut State, store: u8, by: u8) {
        let known = state.nodes.get(usize::from(by)).and_then(|node| node.concluded.clone());
        if let Some((decided, true)) = known {
            state.recoveries.remove(&store);
            let mut told = (*acceptor(store, (*state.disks[usize::from(store)]).clone())).clone();
            told.learn(decided);
            state.stores[usize::from(store)] = Some(Shared::new(told));
            return;
        }
        let tried = match state.nodes.get_mut(usize::from(by)) {
            Some(node) => node.proposals.renounce(DECISION),
            // It proposes nothing.
            None => Some(0),
        };
        let Some(tried) = tried.or((self.bug == Bug::ConcludedRenounces).then_some(0)) else { return };
        let promised = state.disks[usize::from(by)].promised.map_or(0, |ballot| ballot.round);
        let Some(recovery) = state.recoveries.get_mut(&store) else { return };
        recovery.renounced(store_id(by), tried.max(promised));
        if self.bug == Bug::OneIsEnough {
            (0..STORES).for_each(|other| recovery.renounced(store_id(other), 0));
        }
        if let Some(record) = recovery.record(node_id(store), Bytes::from_static(b"had")) {
            let record = if self.bug == Bug::BeginsAtNothing { Record::default() } else { record };
            state.recoveries.remove(&store);
            state.disks[usize::from(store)] = Shared::new(record.clone());
            state.stores[usize::from(store)] = Some(acceptor(store, record));
        }
    }
}

impl Model for Voices {
    type State = State;
    type Action = Action;

    fn start(&self) -> State {
        let nodes = [0, 1].map(|of| begin(of, None, value_of(of), false));
        let back = match self.scene {
            Scene::Fresh => 0,
            Scene::OnItsWay | Scene::Heard => 1,
            Scene::Concluded => 2,
        };
        let asking = nodes.iter().take(if self.both { 2 } else { 1 });
        let mut state = State {
            stores: [0, 1, 2].map(|store| Some(acceptor(store, Record::default()))),
            disks: [0, 1, 2].map(|_| Shared::new(Record::default())),
            recoveries: BTreeMap::new(),
            asked: asking.filter_map(|node| node.proposer.request()).collect(),
            nodes,
            goes_back: self.goes_back + back,
            retries: self.retries,
            came_back: !self.comes_back,
            decided: BTreeSet::new(),
        };
        let hears = |state: &mut State, stores: &[u8]| {
            for store in stores {
                let request = state.nodes[1].proposer.request().unwrap();
                *state = self.step(state, &Action::Ask { store: *store, request, heard: true });
            }
        };
        if self.scene != Scene::Fresh {
            hears(&mut state, &[0, 2]);
        }
        match self.scene {
            Scene::Fresh | Scene::OnItsWay => {}
            Scene::Heard => hears(&mut state, &[0]),
            Scene::Concluded => hears(&mut state, &[0, 2]),
        }
        for store in [0, 2].into_iter().take(usize::from(back)) {
            state = self.step(&state, &Action::GoBack { store });
        }
        state
    }

    fn actions(&self, state: &State) -> Vec<Action> {
        let mut actions = Vec::new();
        for store in (0..STORES).filter(|store| state.stores[usize::from(*store)].is_some()) {
            for request in &state.asked {
                let ask = |heard| Action::Ask { store, request: request.clone(), heard };
                actions.extend([true, false].map(ask));
            }
            actions.extend((state.goes_back > 0).then_some(Action::GoBack { store }));
        }
        for (store, recovery) in &state.recoveries {
            let unheard = (0..STORES).filter(|by| recovery.unheard().contains(&store_id(*by)));
            actions.extend(unheard.map(|by| Action::Renounce { store: *store, by }));
        }
        let nodes = || (0..2).zip(&state.nodes);
        let forgets = |(_, node): &(u8, &Node)| matches!(node.concluded, Some((_, false)));
        actions.extend(nodes().filter(forgets).map(|(node, _)| Action::Remember { node }));
        let tries = nodes().filter(|(node, _)| state.retries[usize::from(*node)] > 0);
        actions.extend(tries.map(|(node, _)| Action::Retry { node }));
        actions.extend((!state.came_back).then_some(Action::ComesBack));
        actions
    }

    fn step(&self, state: &State, action: &Action) -> State {
        let mut next = state.clone();
        match action {
            Action::Ask { store, request, heard } => {
                let at = usize::from(*store);
                let Some(before) = next.stores[at].as_ref().map(|acceptor| (**acceptor).clone()) else { return next };
                let (after, reply) = match before.receive(request, || Bytes::from_static(b"no")) {
                    Step::Answer(after, reply) => (after, reply),
                    Step::Flush(unflushed) => {
                        next.disks[at] = Shared::new(unflushed.record().clone());
                        unflushed.flushed()
                    }
                };
                next.stores[at] = Some(Shared::new(after));
                if *heard {
                    self.hears(&mut next, *store, reply);
                }
            }
            Action::GoBack { store } => {
                let at = usize::from(*store);
                next.goes_back -= 1;
                next.disks[at] = Shared::new(Record::default());
                next.stores[at] = (self.bug == Bug::SpeaksAtOnce).then(|| acceptor(*store, Record::default()));
                if self.bug != Bug::SpeaksAtOnce {
                    next.recoveries.insert(*store, Recovery::new(DECISION, (0..STORES).map(store_id)));
                }
            }
            Action::Renounce { store, by } => self.renounces(&mut next, *store, *by),
            Action::Remember { node } => {
                if let Some((_, remembered)) = &mut next.nodes[usize::from(*node)].concluded {
                    *remembered = true;
                }
                let Node { proposals, ticket, .. } = &mut next.nodes[usize::from(*node)];
                proposals.end(*ticket);
            }
            Action::Retry { node } => {
                let at = usize::from(*node);
                next.retries[at] -= 1;
                let Node { proposer, proposals, ticket, .. } = &mut next.nodes[at];
                let mut again = (**proposer).clone();
                let request = again.retry();
                if !proposals.tries(*ticket, again.round()) {
                    Self::anew(&mut next, *node);
                } else {
                    *proposer = Shared::new(again);
                    next.asked.extend(request);
                }
            }
            Action::ComesBack => {
                next.came_back = true;
                if next.nodes[0].concluded.is_none() {
                    let again = begin(0, Some(&next.nodes[0]), "c", true);
                    next.asked.extend(again.proposer.request());
                    next.nodes[0] = again;
                }
            }
        }
        next
    }

    fn wrong(&self, state: &State) -> Option<String> {
        (state.decided.len() > 1).then(|| format!("{} values were decided", state.decided.len()))
    }

    fn most(&self) -> usize {
        600_000
    }

    fn may_stop_there(&self) -> bool {
        true
    }
}

const FRESH: Voices =
    Voices { bug: Bug::None, scene: Scene::Fresh, goes_back: 1, retries: [0, 0], comes_back: false, both: true };
/// The first node tries again twice: once renounced, and once more to get above the store's first promise.
const LATER: Voices = Voices { goes_back: 0, retries: [2, 0], ..FRESH };

#[test]
fn one_value_though_stores_have_forgotten() {
    assert!(clean("recovery: one store goes back", &FRESH) > 1_000);
    for scene in [Scene::OnItsWay, Scene::Heard, Scene::Concluded] {
        assert!(clean(&format!("recovery: {scene:?}"), &Voices { scene, ..LATER }) > 1_000);
    }
}

#[test]
fn one_value_though_a_proposer_has_forgotten_how_high_it_was() {
    let crash = Voices { comes_back: true, ..FRESH };
    assert!(clean("recovery: a proposer comes back", &Voices { both: false, goes_back: 2, ..crash }) > 1_000);
    let crash = Voices { scene: Scene::OnItsWay, goes_back: 0, ..crash };
    assert!(clean("recovery: a proposer comes back, one asks again", &crash) > 1_000);
}

#[test]
fn each_rule_of_recovery_taken_out_lets_two_values_be_decided() {
    use Bug::{BeginsAtNothing, ConcludedRenounces, CountsWhatItHeard, OneIsEnough, SpeaksAtOnce};
    let of = |bug| match bug {
        SpeaksAtOnce => FRESH,
        BeginsAtNothing => Voices { scene: Scene::OnItsWay, retries: [0, 0], ..LATER },
        ConcludedRenounces => Voices { scene: Scene::Concluded, ..LATER },
        _ => Voices { scene: Scene::Heard, ..LATER },
    };
    for bug in [SpeaksAtOnce, OneIsEnough, CountsWhatItHeard, ConcludedRenounces, BeginsAtNothing] {
        finds(&format!("recovery: {bug:?}"), &Voices { bug, ..of(bug) });
    }
}

//! Paxos never decides twice (semantics section 3, the chain): the product's own acceptors and proposers, three stores,
//! two nodes that propose different layouts.
//!
//! A request may arrive at any time, again and again, or never. Its reply arrives at once, or never, or late: one of
//! them at a time is held back for as long as one likes. An acceptor crashes before a flush, one disk is wiped, a
//! proposer crashes and comes back with another value. Decided is what a majority said it accepted under one ballot,
//! whether or not anybody heard all of them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate::paxos::{
    Acceptor, Ballot, DecisionId, Electorate, Outcome, Progress, Proposer, Record, Reply, Request, Step, Value,
    ValueHash,
};
use quorate::types::{NodeId, StoreId};

use super::explore::{Model, Shared, clean, finds};

const DECISION: DecisionId = DecisionId([7; 32]);
const STORES: u8 = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bug {
    None,
    /// The acceptor's reply leaves before its record is flushed.
    AnswersBeforeFlush,
    /// The acceptor forgets what it promised; it still knows what it accepted.
    IgnoresPromise,
    /// Promises do not tell what was accepted.
    HidesAccepted,
    /// One store is counted as a majority.
    MinorityDecides,
    /// The wiped disk answers in the old one's name. A disk that went back to its beginning does, under its own name.
    OtherStoreVotes,
    /// A proposer that comes back uses its old bits, so its old ballots.
    BallotUsedAgain,
}

#[derive(Clone, Copy)]
struct Paxos {
    bug: Bug,
    /// Attempts that the proposers have besides their first.
    retries: [u8; 2],
    /// Whether the third store's disk is wiped at some time.
    wipe: bool,
    /// Whether the first proposer is started again at some time, with another value.
    comes_back: bool,
    /// Whether replies may be late.
    late: bool,
}

#[derive(Clone, Hash)]
struct State {
    /// None: the store has no voice.
    stores: [Option<Shared<Acceptor>>; STORES as usize],
    /// What is on the stores' disks.
    disks: [Shared<Record>; STORES as usize],
    proposers: [Shared<Proposer>; 2],
    retries: [u8; 2],
    wiped: bool,
    came_back: bool,
    /// All that was ever asked, of everybody.
    asked: BTreeSet<Request>,
    /// The reply that is late, and whose.
    late: Option<(u8, Reply)>,
    /// Who ever said that it accepted what.
    accepts: BTreeMap<(Ballot, ValueHash), BTreeSet<u8>>,
}

/// What becomes of a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Arrives,
    IsLost,
    IsLate,
    /// The store crashes before it has flushed what it replies.
    Crash,
}

#[derive(Clone, Debug)]
enum Action {
    Ask { store: u8, request: Request, reply: Fate },
    LateReply,
    Wipe,
    Retry { proposer: u8 },
    ComesBack,
}

fn store_id(store: u8) -> StoreId {
    StoreId::from_bits(100 + u128::from(store))
}

fn node_id(proposer: u8) -> NodeId {
    NodeId::from_bits(1 + u128::from(proposer))
}

fn everybody() -> Electorate {
    Electorate::new((0..STORES).map(store_id)).unwrap()
}

fn acceptor(store: u8, record: Record) -> Acceptor {
    Acceptor::new(store_id(store), DECISION, &everybody(), record).unwrap()
}

impl Paxos {
    fn proposer(&self, proposer: u8, proposal: u64, value: &'static str) -> Proposer {
        // The bug: this proposer is content with the store of its own number.
        let counted = match self.bug {
            Bug::MinorityDecides => Electorate::new([store_id(proposer)]).unwrap(),
            _ => everybody(),
        };
        Proposer::new(DECISION, counted, node_id(proposer), proposal, Value::new(value))
    }

    /// A store takes a request; gives the reply that leaves it.
    fn takes(&self, state: &mut State, store: u8, request: &Request, crash: bool) -> Option<Reply> {
        let at = usize::from(store);
        let mut before = (**state.stores[at].as_ref()?).clone();
        if self.bug == Bug::IgnoresPromise {
            before = acceptor(store, Record { promised: None, ..(*state.disks[at]).clone() });
        }
        let (after, mut reply) = match before.receive(request, || Bytes::from_static(b"no")) {
            Step::Answer(after, reply) => (after, reply),
            Step::Flush(unflushed) if !crash => {
                state.disks[at] = Shared::new(unflushed.record().clone());
                unflushed.flushed()
            }
            Step::Flush(unflushed) => {
                state.stores[at] = Some(Shared::new(acceptor(store, (*state.disks[at]).clone())));
                return (self.bug == Bug::AnswersBeforeFlush).then(|| unflushed.flushed().1);
            }
        };
        state.stores[at] = Some(Shared::new(after));
        if self.bug == Bug::HidesAccepted
            && let Reply::Promised { accepted, .. } = &mut reply
        {
            *accepted = None;
        }
        Some(reply)
    }

    fn hears(&self, state: &mut State, store: u8, reply: Reply) {
        let (Reply::Promised { ballot, .. } | Reply::Accepted { ballot, .. } | Reply::Refused { ballot, .. }) = &reply
        else {
            return;
        };
        let to = usize::from(ballot.node == node_id(1));
        if matches!(reply, Reply::Refused { .. }) && state.retries[to] == 0 {
            return;
        }
        let mut proposer = (*state.proposers[to]).clone();
        if let Progress::Send(request) = proposer.on_reply(store_id(store), reply) {
            state.asked.insert(request);
        }
        state.proposers[to] = Shared::new(proposer);
    }
}

impl Model for Paxos {
    type State = State;
    type Action = Action;

    fn start(&self) -> State {
        let proposers = [self.proposer(0, 10, "a"), self.proposer(1, 20, "b")];
        State {
            stores: [0, 1, 2].map(|store| Some(Shared::new(acceptor(store, Record::default())))),
            disks: [0, 1, 2].map(|_| Shared::new(Record::default())),
            asked: proposers.iter().filter_map(Proposer::request).collect(),
            proposers: proposers.map(Shared::new),
            retries: self.retries,
            wiped: !self.wipe,
            came_back: !self.comes_back,
            late: None,
            accepts: BTreeMap::new(),
        }
    }

    fn actions(&self, state: &State) -> Vec<Action> {
        let mut actions = Vec::new();
        for store in (0..STORES).filter(|store| state.stores[usize::from(*store)].is_some()) {
            for request in &state.asked {
                let ask = |reply| Action::Ask { store, request: request.clone(), reply };
                actions.extend([Fate::Arrives, Fate::Crash].map(ask));
                // Of a proposer that tries once, what it hears of an accept leads to nothing: it may as well hear it.
                let proposer = usize::from(request.ballot().node == node_id(1));
                let leads_on = matches!(request, Request::Prepare(_)) || self.retries[proposer] > 0;
                if leads_on {
                    actions.push(ask(Fate::IsLost));
                }
                if leads_on && self.late && state.late.is_none() {
                    actions.push(ask(Fate::IsLate));
                }
            }
        }
        actions.extend(state.late.iter().map(|_| Action::LateReply));
        let tries = (0..2).filter(|proposer| state.retries[usize::from(*proposer)] > 0);
        actions.extend(tries.map(|proposer| Action::Retry { proposer }));
        actions.extend((!state.wiped).then_some(Action::Wipe));
        actions.extend((!state.came_back).then_some(Action::ComesBack));
        actions
    }

    fn step(&self, state: &State, action: &Action) -> State {
        let mut next = state.clone();
        match action {
            Action::Ask { store, request, reply: fate } => {
                let Some(reply) = self.takes(&mut next, *store, request, *fate == Fate::Crash) else { return next };
                if let Reply::Accepted { ballot, value, .. } = &reply {
                    next.accepts.entry((*ballot, *value)).or_default().insert(*store);
                }
                match fate {
                    Fate::IsLost => {}
                    Fate::IsLate => next.late = Some((*store, reply)),
                    Fate::Arrives | Fate::Crash => self.hears(&mut next, *store, reply),
                }
            }
            Action::LateReply => {
                if let Some((store, reply)) = next.late.take() {
                    self.hears(&mut next, store, reply);
                }
            }
            Action::Wipe => {
                next.wiped = true;
                let name = if self.bug == Bug::OtherStoreVotes { store_id(2) } else { store_id(12) };
                next.disks[2] = Shared::new(Record::default());
                next.stores[2] = Acceptor::new(name, DECISION, &everybody(), Record::default()).map(Shared::new);
            }
            Action::Retry { proposer } => {
                let at = usize::from(*proposer);
                next.retries[at] -= 1;
                let mut again = (*state.proposers[at]).clone();
                next.asked.extend(again.retry());
                next.proposers[at] = Shared::new(again);
            }
            Action::ComesBack => {
                next.came_back = true;
                let bits = if self.bug == Bug::BallotUsedAgain { 10 } else { 11 };
                let again = self.proposer(0, bits, "c");
                next.asked.extend(again.request());
                next.proposers[0] = Shared::new(again);
            }
        }
        next
    }

    fn wrong(&self, state: &State) -> Option<String> {
        let majority = state.accepts.iter().filter(|(_, stores)| stores.len() > usize::from(STORES / 2));
        let mut decided: BTreeSet<ValueHash> = majority.map(|((_, value), _)| *value).collect();
        let outcomes: Vec<&Outcome> = state.proposers.iter().filter_map(|proposer| proposer.outcome()).collect();
        decided.extend(outcomes.iter().map(|outcome| outcome.decided().value.hash()));
        if decided.len() > 1 {
            return Some(format!("{} values were decided", decided.len()));
        }
        let wins = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Won(_))).count();
        (wins > 1).then(|| "two proposers think they won".to_owned())
    }
}

const PLAIN: Paxos = Paxos { bug: Bug::None, retries: [0, 0], wipe: false, comes_back: false, late: false };

#[test]
fn one_value_whatever_is_lost_repeated_or_late() {
    assert!(clean("paxos: late replies", &Paxos { late: true, ..PLAIN }) > 1_000);
    assert!(clean("paxos: an attempt more", &Paxos { retries: [1, 0], ..PLAIN }) > 1_000);
}

#[test]
fn one_value_though_a_disk_is_wiped() {
    assert!(clean("paxos: a wiped disk", &Paxos { wipe: true, late: true, ..PLAIN }) > 1_000);
}

#[test]
fn one_value_though_a_proposer_comes_back_with_another() {
    assert!(clean("paxos: a proposer comes back", &Paxos { comes_back: true, ..PLAIN }) > 1_000);
}

#[test]
fn each_rule_taken_out_lets_two_values_be_decided() {
    for bug in [Bug::AnswersBeforeFlush, Bug::IgnoresPromise, Bug::HidesAccepted, Bug::MinorityDecides] {
        finds(&format!("paxos: {bug:?}"), &Paxos { bug, ..PLAIN });
    }
    finds("paxos: another store votes", &Paxos { bug: Bug::OtherStoreVotes, wipe: true, ..PLAIN });
    finds("paxos: a ballot used again", &Paxos { bug: Bug::BallotUsedAgain, comes_back: true, ..PLAIN });
}

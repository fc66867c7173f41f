//! Any schedule: messages lost, repeated and late, crashes before a flush, proposers that come back with another value.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// A cluster in which a schedule of random numbers decides what happens next.
struct World {
    acceptors: Vec<Acceptor>,
    proposers: Vec<Proposer>,
    /// Proposals so far: the bits of the next one, and its value.
    proposals: u64,
    /// In flight: from or to which store, to which proposal.
    requests: Vec<(usize, Request)>,
    replies: Vec<(usize, Ballot, Reply)>,
    accepted: BTreeMap<(Ballot, ValueHash), BTreeSet<usize>>,
    attested: Vec<Option<Bytes>>,
    outcomes: Vec<Outcome>,
}

impl World {
    fn new(stores: usize, proposers: usize) -> Self {
        let acceptor = |n| Acceptor::new(store(n), CHAIN, &electorate(stores), Record::default()).unwrap();
        let mut world = Self {
            acceptors: (0..stores).map(acceptor).collect(),
            proposers: Vec::new(),
            proposals: 0,
            requests: Vec::new(),
            replies: Vec::new(),
            accepted: BTreeMap::new(),
            attested: vec![None; stores],
            outcomes: Vec::new(),
        };
        (0..proposers).for_each(|at| world.propose(at));
        world
    }

    /// Proposer `at` begins, or begins again after a crash, with a value of its own.
    fn propose(&mut self, at: usize) {
        self.proposals += 1;
        let value = Value::new(format!("value {}", self.proposals));
        let node = NodeId::from_bits(at as u128 + 1);
        let proposer = Proposer::new(CHAIN, electorate(self.acceptors.len()), node, self.proposals, value);
        self.send(proposer.request());
        match self.proposers.get_mut(at) {
            Some(before) => *before = proposer,
            None => self.proposers.push(proposer),
        }
    }

    fn send(&mut self, request: Option<Request>) {
        let stores = 0..self.acceptors.len();
        self.requests
            .extend(request.into_iter().flat_map(|request| stores.clone().map(move |to| (to, request.clone()))));
    }

    /// A request arrives; a crash before the flush leaves what was on the disk, and no reply.
    fn deliver_request(&mut self, to: usize, request: &Request, crash: bool) {
        let before = self.acceptors[to].clone();
        let attestation = Bytes::from(format!("{to} at {}", self.proposals));
        let reply = match before.clone().receive(request, || attestation) {
            Step::Answer(after, reply) => {
                assert_eq!(after, before, "what is not flushed does not change");
                reply
            }
            Step::Flush(_) if crash => return,
            Step::Flush(unflushed) => {
                let read = Record::decode(&unflushed.record().encode()).unwrap();
                let stores = electorate(self.acceptors.len());
                let (after, reply) = unflushed.flushed();
                assert_eq!(Some(&after), Acceptor::new(store(to), CHAIN, &stores, read).as_ref());
                self.acceptors[to] = after;
                reply
            }
        };
        if let Reply::Accepted { ballot, value, attestation } = &reply {
            self.accepted.entry((*ballot, *value)).or_default().insert(to);
            let first = self.attested[to].get_or_insert_with(|| attestation.clone());
            assert_eq!(first, attestation, "what was vouched for once stands");
        }
        self.replies.push((to, request.ballot(), reply));
    }

    fn deliver_reply(&mut self, from: usize, to: Ballot, reply: Reply) {
        let at = usize::try_from(to.node.bits()).unwrap() - 1;
        match self.proposers[at].on_reply(store(from), reply) {
            Progress::Wait | Progress::Beaten { .. } => {}
            Progress::Send(request) => self.send(Some(request)),
            Progress::Over(outcome) => self.outcomes.push(outcome),
        }
    }

    /// One thing happens, as random bits decide.
    fn step(&mut self, what: u8, which: prop::sample::Index, fate: u8) {
        let repeat = fate & 1 == 1;
        match what % 32 {
            0 => {
                let at = which.index(self.proposers.len());
                let again = self.proposers[at].retry();
                self.send(again);
            }
            1 if self.proposals < 6 => {
                let at = which.index(self.proposers.len());
                self.propose(at);
            }
            2..=15 if !self.requests.is_empty() => {
                let at = which.index(self.requests.len());
                let (to, request) = self.requests[at].clone();
                if !repeat {
                    self.requests.swap_remove(at);
                }
                if fate % 8 != 2 {
                    self.deliver_request(to, &request, fate % 8 == 4);
                }
            }
            _ if !self.replies.is_empty() => {
                let at = which.index(self.replies.len());
                let (from, to, reply) = self.replies[at].clone();
                if !repeat {
                    self.replies.swap_remove(at);
                }
                if fate % 8 != 2 {
                    self.deliver_reply(from, to, reply);
                }
            }
            _ => {}
        }
    }

    fn decided(&self) -> BTreeSet<ValueHash> {
        let enough = self.acceptors.len() / 2 + 1;
        let majority = self.accepted.iter().filter(|(_, stores)| stores.len() >= enough).map(|((_, value), _)| *value);
        majority.chain(self.outcomes.iter().map(|outcome| outcome.decided().value.hash())).collect()
    }

    /// Everything arrives, and one proposer tries until it is over.
    fn calm(&mut self) -> Outcome {
        for _ in 0..20 {
            while let Some((to, request)) = self.requests.pop() {
                self.deliver_request(to, &request, false);
                while let Some((from, to, reply)) = self.replies.pop() {
                    self.deliver_reply(from, to, reply);
                }
            }
            if let Some(outcome) = self.proposers[0].outcome() {
                return outcome.clone();
            }
            let again = self.proposers[0].retry();
            self.send(again);
        }
        panic!("a proposer alone is not beaten twenty times");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn one_value_in_any_schedule_and_then_an_end(
        size in 1usize..6, rivals in 1usize..4,
        steps in vec((any::<u8>(), any::<prop::sample::Index>(), any::<u8>()), 0..250),
    ) {
        let mut world = World::new(size, rivals);
        for (what, which, fate) in steps {
            world.step(what, which, fate);
            prop_assert!(world.decided().len() <= 1, "{:?}", world.decided());
        }
        let decided = world.decided();
        let outcome = world.calm();
        prop_assert!(decided.iter().all(|value| *value == outcome.decided().value.hash()), "what was decided stays");
        prop_assert_eq!(world.decided().len(), 1);
        prop_assert!(outcome.decided().attestations.len() > size / 2, "a majority vouched");
    }
}

//! I-OVERLAP: "not found" is a vote, and a wiped disk has none until it has merged with every other owner.
//!
//! Three owners, W = 2, R = 2. Writes are blind, so that every acknowledged one must be in what any two voters hold.

use bytes::Bytes;
use quorate::causality::{MergeRules, Object, Payload, Supersedes, Write, write};
use quorate::types::{ActorId, Stamp, Wall};

use super::explore::{Model, Shared, clean, finds};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// The wiped node votes at once.
    WipedVotes,
    /// The wiped node votes when it has merged with one other owner.
    OneSource,
}

struct Votes(Bug);

#[derive(Clone, Hash)]
struct State {
    owners: [Shared<Object>; 3],
    /// Which owners each owner has merged with since its wipe, and itself; all from the start.
    merged: [u8; 3],
    /// Each write's state, and who holds it in a store that counts.
    sent: Vec<(Shared<Object>, u8, bool)>,
    wiped: bool,
}

#[derive(Clone, Debug)]
enum Action {
    Write { at: usize },
    Deliver { write: usize, to: usize },
    Wipe { node: usize },
    Sync { node: usize, from: usize },
}

impl Votes {
    fn votes(&self, state: &State, node: usize) -> bool {
        match self.0 {
            Bug::WipedVotes => true,
            Bug::OneSource => state.merged[node].count_ones() > 1,
            Bug::None => state.merged[node] == 0b111,
        }
    }

    fn merge(&self, state: &mut State, node: usize, other: &Object) {
        let mut object = (*state.owners[node]).clone();
        object.merge(other, &MergeRules::default());
        state.owners[node] = Shared::new(object);
    }
}

impl Model for Votes {
    type State = State;
    type Action = Action;

    fn start(&self) -> State {
        let empty = || Shared::new(Object::new());
        State { owners: [empty(), empty(), empty()], merged: [0b111; 3], sent: Vec::new(), wiped: false }
    }

    fn actions(&self, state: &State) -> Vec<Action> {
        let mut actions = Vec::new();
        for node in 0..3 {
            // Who is not synced neither coordinates nor acknowledges.
            if self.votes(state, node) {
                if state.sent.len() < 2 {
                    actions.push(Action::Write { at: node });
                }
                actions.extend((0..state.sent.len()).map(|write| Action::Deliver { write, to: node }));
            } else {
                actions.extend((0..3).filter(|from| *from != node).map(|from| Action::Sync { node, from }));
            }
            if !state.wiped {
                actions.push(Action::Wipe { node });
            }
        }
        actions
    }

    fn step(&self, state: &State, action: &Action) -> State {
        let mut next = state.clone();
        match *action {
            Action::Write { at } => {
                let number = state.sent.len() as u64;
                let payload = Payload { value: Some(Bytes::new()), written_at: Wall(number), ..Payload::default() };
                let blind = Write { payload, supersedes: Supersedes::Tombstones, request: None };
                // The wiped node is another actor.
                let actor = ActorId(at as u64 + if state.wiped { 10 } else { 0 });
                let minted = write(&state.owners[at], blind, actor, Stamp(1), Stamp(0), &MergeRules::default());
                next.owners[at] = Shared::new(minted.object);
                next.sent.push((next.owners[at].clone(), 1 << at, false));
            }
            Action::Deliver { write, to } => {
                self.merge(&mut next, to, &state.sent[write].0);
                next.sent[write].1 |= 1 << to;
                next.sent[write].2 |= next.sent[write].1.count_ones() >= 2;
            }
            Action::Wipe { node } => {
                next.wiped = true;
                next.owners[node] = Shared::new(Object::new());
                next.merged[node] = 1 << node;
                next.sent.iter_mut().for_each(|(_, holders, _)| *holders &= !(1 << node));
            }
            Action::Sync { node, from } => {
                self.merge(&mut next, node, &state.owners[from]);
                next.merged[node] |= 1 << from;
            }
        }
        next
    }

    fn wrong(&self, state: &State) -> Option<String> {
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            if self.votes(state, a) && self.votes(state, b) {
                let mut read = (*state.owners[a]).clone();
                read.merge(&state.owners[b], &MergeRules::default());
                let found = |n: usize| read.siblings().iter().any(|s| s.payloads[0].written_at.0 == n as u64);
                let missed =
                    state.sent.iter().enumerate().find(|(n, (_, _, acknowledged))| *acknowledged && !found(*n));
                if let Some((n, _)) = missed {
                    return Some(format!("a quorum of {a} and {b} reads without acknowledged write {n}"));
                }
            }
        }
        None
    }
}

#[test]
fn a_wiped_disk_has_no_vote() {
    assert!(clean("votes", &Votes(Bug::None)) > 300);
    finds("a wiped node votes not found", &Votes(Bug::WipedVotes));
    finds("a wiped node is copied from one source", &Votes(Bug::OneSource));
}

//! TTL (semantics section 5): two replicas, values that expire and values that do not, overwrites that one replica may
//! miss, frames that arrive late, clocks as far apart as may be; each replica drops an object past its horizon, at any time
//! from then on. What was superseded is never read again, and what has not expired by anybody's clock is.
//!
//! Taken out: the horizon itself; that it is infinite where the coordinator did not hold what it superseded; that a merge
//! keeps the later one; the drift that is added to it.

use std::collections::BTreeSet;

use quorate::causality::{
    Dot, Horizon, MergeRules, Object, Payload, Supersedes, VersionVector, Write, decode_object, encode_object, write,
};
use quorate::types::{ActorId, Stamp, Wall};

use super::explore::{Model, clean, finds};

const DRIFT: u64 = 10;
const LAST: u64 = 50;
const WRITES: usize = 3;
const FRAMES: usize = 4;

#[derive(Clone, Copy, PartialEq)]
enum Bug {
    /// An object goes once what it holds has expired, whatever it superseded.
    NoHorizon,
    /// A coordinator that lacks what it supersedes takes its own write's expiry.
    WhatIsNotHeldExpires,
    /// Of two horizons a merge keeps the earlier.
    TheEarlierHorizon,
    /// A clock that is ahead drops at once.
    NoDrift,
}

struct Expiry {
    bug: Option<Bug>,
    /// The replica whose clock is ahead of the other's by all that is allowed.
    ahead: usize,
}

#[derive(Clone, Hash)]
struct State {
    now: u64,
    replicas: [Object; 2],
    /// States on their way, for ever.
    frames: Vec<Object>,
    /// What a client was shown last.
    held: VersionVector,
    /// (its dot, when it expires)
    written: Vec<(Dot, Option<u64>)>,
    superseded: BTreeSet<Dot>,
}

#[derive(Clone, Debug)]
enum Action {
    /// The client reads here, and keeps the context.
    Read(usize),
    /// It writes here, with that context, something that lives so long.
    Write(usize, Option<u64>),
    /// What this replica has, goes out; it arrives at once, later, or never.
    Send(usize),
    /// A frame arrives.
    Deliver(usize, usize),
    Tick,
    Drop(usize),
}

/// The object under another horizon: a record names it behind its version.
fn under(object: &Object, horizon: Horizon) -> Object {
    let record = encode_object(object);
    let rest = if record[1] == 2 { 10 } else { 2 };
    let head = match horizon {
        Horizon::NOTHING => vec![record[0], 0],
        Horizon::INFINITE => vec![record[0], 1],
        Horizon(at) => [&[record[0], 2][..], &at.to_be_bytes()].concat(),
    };
    decode_object([&head[..], &record[rest..]].concat().into()).unwrap()
}

impl Expiry {
    fn wall(&self, state: &State, at: usize) -> u64 {
        state.now + if at == self.ahead { DRIFT } else { 0 }
    }

    fn merge(&self, into: &Object, other: &Object) -> Object {
        let mut merged = into.clone();
        merged.merge(other, &MergeRules::default());
        if self.bug == Some(Bug::TheEarlierHorizon) && !into.is_empty() && !other.is_empty() {
            merged = under(&merged, into.horizon().min(other.horizon()));
        }
        merged
    }

    fn may_drop(&self, state: &State, at: usize) -> bool {
        let (object, wall) = (&state.replicas[at], self.wall(state, at));
        let drift = if self.bug == Some(Bug::NoDrift) { 0 } else { DRIFT };
        let due = match self.bug {
            Some(Bug::NoHorizon) => {
                let payloads = object.siblings().iter().flat_map(|sibling| &sibling.payloads);
                payloads.map(|payload| payload.expires_at.map_or(u64::MAX, |at| at.0)).max().unwrap_or(u64::MAX)
            }
            _ => object.horizon().0,
        };
        !object.is_empty() && due.saturating_add(drift) <= wall
    }
}

impl Model for Expiry {
    type State = State;
    type Action = Action;

    fn start(&self) -> State {
        State {
            now: 0,
            replicas: [Object::new(), Object::new()],
            frames: Vec::new(),
            held: VersionVector::new(),
            written: Vec::new(),
            superseded: BTreeSet::new(),
        }
    }

    fn actions(&self, state: &State) -> Vec<Action> {
        let mut actions = Vec::new();
        if state.now < LAST {
            actions.push(Action::Tick);
        }
        for at in 0..2 {
            let object = &state.replicas[at];
            if state.written.len() < WRITES {
                actions.extend([None, Some(10), Some(15)].map(|ttl| Action::Write(at, ttl)));
                if *object.context() != state.held {
                    actions.push(Action::Read(at));
                }
            }
            if !object.is_empty() && !state.frames.contains(object) && state.frames.len() < FRAMES {
                actions.push(Action::Send(at));
            }
            actions.extend((0..state.frames.len()).map(|frame| Action::Deliver(frame, at)));
            if self.may_drop(state, at) {
                actions.push(Action::Drop(at));
            }
        }
        actions
    }

    fn step(&self, state: &State, action: &Action) -> State {
        let mut next = state.clone();
        match *action {
            Action::Read(at) => next.held = state.replicas[at].context().clone(),
            Action::Write(at, ttl) => {
                let (local, wall) = (&state.replicas[at], self.wall(state, at));
                let expires = ttl.map(|ttl| wall + ttl);
                let payload = Payload {
                    value: Some(vec![u8::try_from(state.written.len()).unwrap()].into()),
                    expires_at: expires.map(Wall),
                    ..Payload::default()
                };
                let lacks = !local.context().covers_all(&state.held);
                let supersedes = Supersedes::Covered(state.held.clone());
                let actor = ActorId(at as u64 + 1);
                // The node's clock is strictly increasing.
                let reading = Stamp::at(Wall(wall)).0 + state.written.len() as u64;
                let wish = Write { payload, supersedes, request: None };
                let minted = write(local, wish, actor, Stamp(reading), Stamp(0), &MergeRules::default());
                let mut object = minted.object;
                if lacks && self.bug == Some(Bug::WhatIsNotHeldExpires) {
                    let own = expires.map_or(Horizon::INFINITE, Horizon);
                    object = under(&object, local.horizon().max(own));
                }
                next.superseded.extend(state.written.iter().map(|(dot, _)| *dot).filter(|dot| state.held.covers(*dot)));
                next.written.push((minted.dot, expires));
                next.replicas[at] = object;
            }
            Action::Send(at) => next.frames.push(state.replicas[at].clone()),
            Action::Deliver(frame, at) => next.replicas[at] = self.merge(&state.replicas[at], &state.frames[frame]),
            Action::Tick => next.now += 5,
            Action::Drop(at) => next.replicas[at] = Object::new(),
        }
        next
    }

    fn wrong(&self, state: &State) -> Option<String> {
        let both = self.merge(&state.replicas[0], &state.replicas[1]);
        // By the clock that is behind, which sees the most.
        let behind = Wall(state.now);
        let mut read = both.siblings().iter().filter(|sibling| sibling.is_live(behind)).map(|sibling| sibling.dot);
        if let Some(back) = read.find(|dot| state.superseded.contains(dot)) {
            return Some(format!("{back} was superseded, and is read again"));
        }
        let alive = |expires: &Option<u64>| expires.is_none_or(|at| at > state.now + DRIFT);
        let mut wanted = state.written.iter().filter(|(dot, at)| alive(at) && !state.superseded.contains(dot));
        let lost = wanted.find(|(dot, _)| both.siblings().iter().all(|sibling| sibling.dot != *dot));
        lost.map(|(dot, _)| format!("{dot} has not expired, and is gone"))
    }

    fn most(&self) -> usize {
        1_500_000
    }

    fn may_stop_there(&self) -> bool {
        true
    }
}

#[test]
fn nothing_superseded_comes_back_and_nothing_goes_early() {
    for ahead in 0..2 {
        assert!(clean("expiry", &Expiry { bug: None, ahead }) > 100_000);
    }
}

#[test]
fn every_rule_of_expiry_is_needed() {
    let planted = |name: &str, bug| finds(name, &Expiry { bug: Some(bug), ahead: 0 });
    planted("expiry without a horizon", Bug::NoHorizon);
    planted("what a coordinator lacks expires", Bug::WhatIsNotHeldExpires);
    planted("a merge keeps the earlier horizon", Bug::TheEarlierHorizon);
    planted("a clock that is ahead drops at once", Bug::NoDrift);
}

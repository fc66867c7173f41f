//! The kv679 family, members 2 to 4: an old state in a fallback's hint meets an owner that has moved on, that cannot
//! read its copy just now, or that has collected the tombstone (I-ACK, I-DELETE). Two owners and one hint for the second.

use bytes::Bytes;
use quorate::causality::{MergeRules, Object, Payload, Supersedes, Write, write};
use quorate::types::{ActorId, Stamp, Wall};

use super::explore::{Model, Shared, clean, finds};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// (2) A handed-off state replaces what the owner holds.
    Replaces,
    /// (3) A copy that cannot be read is taken for none.
    UnreadableIsAbsent,
    /// (4) Tombstones are collected while a hint is held.
    NoDrain,
    /// (4) The same, and the floor is not minted above: what is written after it is lost, too.
    NoDrainNoFloor,
}

struct Handoff(Bug);

#[derive(Clone, Hash)]
struct State {
    owners: [Shared<Object>; 2],
    hint: Option<Shared<Object>>,
    unreadable: bool,
    floor: Stamp,
    /// Per write: the writes it was shown, and whether it is a delete.
    written: Vec<(u8, bool)>,
    collected: bool,
}

#[derive(Clone, Debug)]
enum Action {
    Put {
        at: usize,
    },
    /// Of all that the owner shows.
    Delete {
        at: usize,
    },
    /// Owner 1 did not take owner 0's state: it goes to the fallback.
    Hint,
    HandOff,
    Exchange,
    ReadsFail(bool),
    Collect,
}

fn held(object: &Object) -> u8 {
    object.siblings().iter().fold(0, |mask, sibling| mask | 1 << sibling.payloads[0].written_at.0)
}

fn merged(a: &Object, b: &Object) -> Shared<Object> {
    let mut a = a.clone();
    a.merge(b, &MergeRules::default());
    Shared::new(a)
}

impl Model for Handoff {
    type State = State;
    type Action = Action;

    fn start(&self) -> State {
        let empty = || Shared::new(Object::new());
        State {
            owners: [empty(), empty()],
            hint: None,
            unreadable: false,
            floor: Stamp(0),
            written: Vec::new(),
            collected: false,
        }
    }

    fn actions(&self, state: &State) -> Vec<Action> {
        let mut actions = vec![Action::Hint, Action::ReadsFail(!state.unreadable)];
        for at in 0..2 {
            if state.written.len() < 3 && !(at == 1 && state.unreadable) {
                actions.extend([Action::Put { at }, Action::Delete { at }]);
            }
        }
        if state.hint.is_some() && (!state.unreadable || self.0 == Bug::UnreadableIsAbsent) {
            actions.push(Action::HandOff);
        }
        if !state.unreadable {
            actions.push(Action::Exchange);
            let [a, b] = &state.owners;
            let gone = !a.is_empty() && **a == **b && a.siblings().iter().all(|s| s.is_tombstone());
            let drained = state.hint.is_none() || matches!(self.0, Bug::NoDrain | Bug::NoDrainNoFloor);
            if gone && drained {
                actions.push(Action::Collect);
            }
        }
        actions
    }

    fn step(&self, state: &State, action: &Action) -> State {
        let mut next = state.clone();
        match *action {
            Action::Put { at } | Action::Delete { at } => {
                let delete = matches!(action, Action::Delete { .. });
                let local = &state.owners[at];
                let supersedes = if delete { Supersedes::Seen } else { Supersedes::Tombstones };
                let seen = held(local);
                let followed = state.written.iter().enumerate().filter(|(n, _)| delete && seen & 1 << n != 0);
                let past = followed.fold(if delete { seen } else { 0 }, |mask, (_, (past, _))| mask | past);
                let payload = Payload {
                    value: (!delete).then(Bytes::new),
                    written_at: Wall(state.written.len() as u64),
                    ..Payload::default()
                };
                let floor = if self.0 == Bug::NoDrainNoFloor { Stamp(0) } else { state.floor };
                let request = Write { payload, supersedes, request: None };
                let actor = ActorId(at as u64 + 1);
                let minted = write(local, request, actor, Stamp(0), floor, &MergeRules::default());
                next.owners[at] = Shared::new(minted.object);
                next.written.push((past, delete));
            }
            Action::Hint => {
                let older = state.hint.as_deref().cloned().unwrap_or_default();
                next.hint = Some(merged(&older, &state.owners[0])).filter(|hint| !hint.is_empty());
            }
            Action::HandOff => {
                let Some(hint) = next.hint.take() else { return next };
                let replaces = self.0 == Bug::Replaces || state.unreadable;
                next.owners[1] = if replaces { hint } else { merged(&state.owners[1], &hint) };
                next.unreadable = false;
            }
            Action::Exchange => {
                let both = merged(&state.owners[0], &state.owners[1]);
                next.owners = [both.clone(), both];
            }
            Action::ReadsFail(fail) => next.unreadable = fail,
            Action::Collect => {
                next.floor = state.floor.max(state.owners[0].greatest_stamp().unwrap_or_default());
                next.owners = [Shared::new(Object::new()), Shared::new(Object::new())];
                next.collected = true;
            }
        }
        next
    }

    fn wrong(&self, state: &State) -> Option<String> {
        let all = merged(&state.owners[0], &state.owners[1]);
        let held = held(&all);
        let followed = state.written.iter().fold(0, |mask, (past, _)| mask | past);
        let value = |n: usize| !state.written[n].1;
        if let Some(n) = (0..state.written.len()).find(|n| value(*n) && (held | followed) & 1 << n == 0) {
            return Some(format!("write {n} was acknowledged and is gone"));
        }
        if self.0 == Bug::NoDrainNoFloor {
            // What comes back is found sooner; the loss is what this one is about.
            return None;
        }
        // After a collection nothing remembers the delete: what it covered must not be anywhere.
        let back = (0..state.written.len()).find(|n| state.collected && value(*n) && held & followed & 1 << n != 0);
        back.map(|n| format!("write {n} was deleted, collected, and is back"))
    }
}

#[test]
fn an_old_hint_changes_nothing() {
    assert!(clean("hand-off", &Handoff(Bug::None)) > 500);
}

#[test]
fn two_a_hand_off_that_replaces_loses() {
    finds("(2) a hand-off replaces", &Handoff(Bug::Replaces));
}

#[test]
fn three_a_hand_off_onto_a_copy_that_cannot_be_read_loses() {
    finds("(3) a copy that cannot be read is taken for none", &Handoff(Bug::UnreadableIsAbsent));
}

#[test]
fn four_a_tombstone_collected_before_the_hints_are_gone_brings_back() {
    finds("(4) no drain", &Handoff(Bug::NoDrain));
}

#[test]
fn four_a_key_written_again_below_the_floor_loses() {
    finds("(4) no drain, no floor", &Handoff(Bug::NoDrainNoFloor));
}

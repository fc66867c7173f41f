//! Generations (semantics section 6, gossip): whatever a node's directory forgets, its latest self has the last word,
//! and no process takes an earlier self of its own from others.
//!
//! One node that says something new in each life, two peers, all with the product's own views. The node is started
//! anew, its directory goes back to an earlier copy, a peer is started anew (and has forgotten all); any two exchange
//! views at any time, wholly. In every state: a peer that runs never goes back, what it holds is what the node said in
//! that very life, and nobody speaks of copies while no directory was copied. And from every state, once all exchange:
//! all hold what the running process says.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate::membership::{Event, Life, Name, View, next_generation};
use quorate::types::{Mono, NodeId};

use super::explore::{Model, Shared, clean, finds};

const NODE: usize = 0;
const NOW: Mono = Mono(0);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bug {
    None,
    /// A start is not counted, and draws no bits.
    SameLifeAgain,
    /// The node does not go above what others have heard of it.
    IgnoresWhatIsHeard,
    /// It goes as high as what others have heard, not above.
    NotAbove,
    /// A raised generation is used before it is flushed.
    RaisedBeforeFlush,
    /// The node takes what others have heard of it for its state.
    TakesOlderSelf,
}

struct Generations {
    bug: Bug,
    /// How often the directory goes back.
    restores: u8,
}

#[derive(Clone, Hash)]
struct State {
    views: [Shared<View>; 3],
    /// The generation on disk, and in the copy.
    disk: u64,
    copy: u64,
    /// A raised generation that is not flushed yet, only with the bug that uses it so.
    unflushed: bool,
    starts: u8,
    restores: u8,
    peer_starts: u8,
    /// The last word said, and how many more there are besides the first of each life.
    said: u8,
    more: u8,
    /// What was said, by life and version.
    history: BTreeMap<(Life, u64), u8>,
    wrong: Option<&'static str>,
}

#[derive(Clone, Debug)]
enum Action {
    /// The node's process ends, cleanly or not; another one starts.
    Start,
    Copy,
    /// As a start, on the directory as it was copied.
    Restore,
    PeerStarts(usize),
    Say,
    Flush,
    /// The first opens an exchange with the second.
    Exchange(usize, usize),
}

fn node_id(n: usize) -> NodeId {
    NodeId::from_bits(1 + n as u128)
}

fn what() -> Name {
    Name::new("said").unwrap()
}

fn said(view: &View) -> Option<(Life, u64, Option<u8>)> {
    let state = view.get(node_id(NODE))?;
    Some((state.life(), state.version(), state.get(&what()).and_then(|bytes| bytes.first().copied())))
}

impl Generations {
    fn say(state: &mut State) {
        state.said += 1;
        let mut view = (*state.views[NODE]).clone();
        view.set(what(), Bytes::from(vec![state.said])).unwrap();
        Self::publish(state, view);
    }

    fn publish(state: &mut State, view: View) {
        if let Some((life, version, Some(word))) = said(&view) {
            state.history.insert((life, version), word);
        }
        state.views[NODE] = Shared::new(view);
    }

    fn start(&self, state: &mut State) {
        state.unflushed = false;
        // The tens tell what came before the directory went back from what came after.
        let mut boot = 100 + u64::from(state.starts) + 10 * u64::from(state.restores);
        if self.bug == Bug::SameLifeAgain {
            (state.disk, boot) = (1, 100);
        } else {
            state.disk = next_generation(state.disk, None);
        }
        state.views[NODE] = Shared::new(View::new(node_id(NODE), Life { generation: state.disk, boot }, NOW));
        Self::say(state);
    }

    fn told(&self, state: &mut State, who: usize, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Surpassed { heard, raise_to } if who == NODE => {
                    let mut view = (*state.views[NODE]).clone();
                    match self.bug {
                        Bug::IgnoresWhatIsHeard => continue,
                        Bug::NotAbove => view.reborn(heard.generation),
                        _ => view.reborn(raise_to),
                    }
                    if self.bug == Bug::RaisedBeforeFlush {
                        state.unflushed = true;
                    } else {
                        state.disk = state.disk.max(view.life().generation);
                    }
                    Self::publish(state, view);
                }
                // Two lives on one generation are to be expected only if the directory went back between them.
                Event::Twins { lives: [one, other], .. } if one.boot / 10 == other.boot / 10 => {
                    state.wrong = Some("a copy is spoken of, and there is none");
                }
                _ => {}
            }
        }
    }

    fn exchange(&self, state: &mut State, a: usize, b: usize) {
        let (mut opens, mut answers) = ((*state.views[a]).clone(), (*state.views[b]).clone());
        let Some(digest) = answers.answer_hash(opens.hash(), 0, NOW) else { return };
        let (push, mut told_a) = opens.answer_digest(&digest, 0, NOW);
        let (delta, told_b) = answers.answer_push(&push, 0, NOW);
        told_a.extend(opens.apply(&delta, NOW));
        for (who, view, events) in [(a, opens, told_a), (b, answers, told_b)] {
            state.views[who] = Shared::new(view);
            self.told(state, who, events);
        }
        if self.bug == Bug::TakesOlderSelf && a == NODE {
            let heard = said(&state.views[b]).and_then(|(_, _, word)| word).map(|word| Bytes::from(vec![word]));
            let mut view = (*state.views[NODE]).clone();
            if let Some(word) = heard {
                view.set(what(), word).unwrap();
            }
            Self::publish(state, view);
        }
    }

    /// Whether, once all exchange with all, all hold what the running process says.
    fn settles(&self, state: &State) -> bool {
        let mut calm = state.clone();
        let word = said(&calm.views[NODE]).and_then(|(_, _, word)| word);
        let all_hold_it = |state: &State| {
            let mut held = state.views.iter().map(|view| said(view).and_then(|(_, _, held)| held));
            held.all(|held| held == Some(state.said))
        };
        for (a, b) in [(0, 1), (1, 2), (2, 0), (0, 1), (1, 2), (2, 0)] {
            if !all_hold_it(&calm) {
                self.exchange(&mut calm, a, b);
            }
        }
        word == Some(state.said) && all_hold_it(&calm)
    }
}

impl Model for Generations {
    type State = State;
    type Action = Action;

    fn start(&self) -> State {
        let view = |n: usize| Shared::new(View::new(node_id(n), Life { generation: 1, boot: n as u64 }, NOW));
        let mut state = State {
            views: [view(0), view(1), view(2)],
            disk: 0,
            copy: 0,
            unflushed: false,
            starts: 2,
            restores: self.restores,
            peer_starts: 1,
            said: 0,
            more: 1,
            history: BTreeMap::new(),
            wrong: None,
        };
        self.start(&mut state);
        state
    }

    fn actions(&self, state: &State) -> Vec<Action> {
        let pairs = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2)];
        let mut actions: Vec<Action> = pairs.into_iter().map(|(a, b)| Action::Exchange(a, b)).collect();
        actions.extend((state.starts > 0).then_some(Action::Start));
        if state.restores > 0 {
            actions.extend((state.copy != state.disk).then_some(Action::Copy));
            actions.extend((state.copy > 0).then_some(Action::Restore));
        }
        if state.peer_starts > 0 {
            actions.extend([Action::PeerStarts(1), Action::PeerStarts(2)]);
        }
        actions.extend((state.more > 0).then_some(Action::Say));
        actions.extend(state.unflushed.then_some(Action::Flush));
        actions
    }

    fn step(&self, state: &State, action: &Action) -> State {
        let mut next = state.clone();
        match *action {
            Action::Start => {
                next.starts -= 1;
                self.start(&mut next);
            }
            Action::Copy => next.copy = state.disk,
            Action::Restore => {
                (next.restores, next.disk) = (state.restores - 1, state.copy);
                self.start(&mut next);
            }
            Action::PeerStarts(peer) => {
                next.peer_starts -= 1;
                next.views[peer] = Shared::new(View::new(node_id(peer), Life { generation: 2, boot: 20 }, NOW));
            }
            Action::Say => {
                next.more -= 1;
                Self::say(&mut next);
            }
            Action::Flush => {
                (next.unflushed, next.disk) = (false, state.views[NODE].life().generation);
            }
            Action::Exchange(a, b) => self.exchange(&mut next, a, b),
        }
        for peer in [1, 2] {
            let restarted = matches!(action, Action::PeerStarts(started) if *started == peer);
            let reach = |state: &State| said(&state.views[peer]).map(|(life, version, _)| (life, version));
            if !restarted && reach(&next) < reach(state) {
                next.wrong = Some("a peer went back");
            }
        }
        next
    }

    fn wrong(&self, state: &State) -> Option<String> {
        if let Some(wrong) = state.wrong {
            return Some(wrong.to_owned());
        }
        for view in &state.views {
            if let Some((life, version, Some(word))) = said(view)
                && state.history.get(&(life, version)) != Some(&word)
            {
                return Some(format!("{word} is held for version {version} of {life:?}, which said something else"));
            }
        }
        (!self.settles(state)).then(|| "the running process does not get the last word".to_owned())
    }
}

#[test]
fn the_latest_self_has_the_last_word() {
    assert!(clean("generations", &Generations { bug: Bug::None, restores: 0 }) > 500);
    assert!(clean("generations, a directory goes back", &Generations { bug: Bug::None, restores: 1 }) > 5_000);
}

#[test]
fn each_rule_taken_out_is_noticed() {
    for (bug, restores) in [
        (Bug::SameLifeAgain, 0),
        (Bug::IgnoresWhatIsHeard, 1),
        (Bug::NotAbove, 1),
        (Bug::RaisedBeforeFlush, 1),
        (Bug::TakesOlderSelf, 1),
    ] {
        finds(&format!("generations: {bug:?}"), &Generations { bug, restores });
    }
}

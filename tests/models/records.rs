//! The cache of records (`storage::records`): a commit, two readers of the key it changes, evictions, in every order. A
//! read returns nothing older than what was committed, or shown to another reader, before it began.
//!
//! Taken apart: the mark that sends readers round the cache while a commit is under way; the removal after it; that a
//! removal takes away the places of readers under way, too; and that the mark goes last.

use super::explore::{Model, clean, finds};

/// Which rules are kept.
#[derive(Clone, Copy)]
struct Rules {
    marks: bool,
    removes: bool,
    cancels: bool,
    unmarks_last: bool,
}

const KEPT: Rules = Rules { marks: true, removes: true, cancels: true, unmarks_last: true };
const READERS: usize = 2;
const COMMITS: u8 = 2;

/// What the cache has for the key.
#[derive(Clone, Copy, PartialEq, Hash, Debug)]
enum Slot {
    Empty,
    /// A reader's place.
    Place(usize),
    Kept(u8),
}

#[derive(Clone, Copy, PartialEq, Hash, Debug)]
enum Reader {
    /// Has not begun.
    Idle,
    /// Has begun, when this was known to somebody.
    Begun(u8),
    /// Found no mark.
    Unmarked(u8),
    /// Asks the store, and leaves what it finds in its place if it has one.
    Asking(u8, bool),
    /// The store said this.
    Found(u8, u8, bool),
    /// (what was known when it began, what it returned)
    Done(u8, u8),
}

/// Steps of a commit.
#[derive(Clone, Copy, PartialEq, Hash, Debug)]
enum Commit {
    None,
    Marked,
    /// Readable in the store; the commit has not returned.
    Visible,
    /// One of removal and unmarking is done.
    Between,
}

#[derive(Clone, Hash)]
struct State {
    store: u8,
    known: u8,
    slot: Slot,
    marked: bool,
    commit: Commit,
    readers: [Reader; READERS],
}

#[derive(Clone, Debug)]
enum Action {
    Read(usize),
    Commit,
    Evict,
}

impl Rules {
    fn remove(self, state: &mut State) {
        if self.cancels || matches!(state.slot, Slot::Kept(_)) {
            state.slot = Slot::Empty;
        }
    }

    fn read(self, state: &mut State, at: usize) {
        state.readers[at] = match state.readers[at] {
            Reader::Idle => Reader::Begun(state.known),
            Reader::Begun(since) if state.marked && self.marks => Reader::Asking(since, false),
            Reader::Begun(since) => Reader::Unmarked(since),
            Reader::Unmarked(since) => match state.slot {
                Slot::Kept(value) => Reader::Done(since, value),
                Slot::Place(_) => Reader::Asking(since, false),
                Slot::Empty => {
                    state.slot = Slot::Place(at);
                    Reader::Asking(since, true)
                }
            },
            Reader::Asking(since, place) => Reader::Found(since, state.store, place),
            Reader::Found(since, value, place) => {
                if place && (state.slot == Slot::Place(at) || !self.cancels) {
                    state.slot = Slot::Kept(value);
                }
                Reader::Done(since, value)
            }
            Reader::Done(..) => Reader::Idle,
        };
        if let Reader::Done(_, value) = state.readers[at] {
            state.known = state.known.max(value);
        }
    }

    fn commit(self, state: &mut State) {
        state.commit = match state.commit {
            Commit::None => {
                state.marked = true;
                Commit::Marked
            }
            Commit::Marked => {
                state.store += 1;
                Commit::Visible
            }
            Commit::Visible => {
                if self.unmarks_last {
                    if self.removes {
                        self.remove(state);
                    }
                } else {
                    state.marked = false;
                }
                Commit::Between
            }
            Commit::Between => {
                if self.unmarks_last {
                    state.marked = false;
                } else {
                    self.remove(state);
                }
                state.known = state.known.max(state.store);
                Commit::None
            }
        };
    }
}

impl Model for Rules {
    type State = State;
    type Action = Action;

    fn start(&self) -> State {
        let readers = [Reader::Idle; READERS];
        State { store: 0, known: 0, slot: Slot::Kept(0), marked: false, commit: Commit::None, readers }
    }

    fn actions(&self, state: &State) -> Vec<Action> {
        let mut actions: Vec<Action> = (0..READERS).map(Action::Read).collect();
        if state.commit != Commit::None || state.store < COMMITS {
            actions.push(Action::Commit);
        }
        if matches!(state.slot, Slot::Kept(_)) {
            actions.push(Action::Evict);
        }
        actions
    }

    fn step(&self, state: &State, action: &Action) -> State {
        let mut next = state.clone();
        match action {
            Action::Read(at) => self.read(&mut next, *at),
            Action::Commit => self.commit(&mut next),
            Action::Evict => next.slot = Slot::Empty,
        }
        next
    }

    fn wrong(&self, state: &State) -> Option<String> {
        state.readers.iter().find_map(|reader| match *reader {
            Reader::Done(since, value) if value < since => {
                Some(format!("a read that began when {since} was known returned {value}"))
            }
            _ => None,
        })
    }
}

#[test]
fn a_read_never_goes_back_behind_what_was_known_when_it_began() {
    clean("records", &KEPT);
}

#[test]
fn every_step_is_needed() {
    finds("records: no mark", &Rules { marks: false, ..KEPT });
    finds("records: no removal", &Rules { removes: false, ..KEPT });
    finds("records: a removal leaves places", &Rules { cancels: false, ..KEPT });
    finds("records: unmarked before the removal", &Rules { unmarks_last: false, ..KEPT });
}

//! No wedge: faults end, everybody is heard, and a driver that knows nothing but what the owners tell it collects
//! everything.

use super::Collection;
use super::bug::Bug;
use super::state::{BOTH, Round, State, those};

impl Collection {
    /// What is wrong with where this state leads.
    pub(super) fn wedged(&self, state: &State) -> Option<String> {
        let mut state = *state;
        (state.frames, state.read) = Default::default();
        let pushes = |state: &mut State, from: usize| self.push(state, from);
        if state.owners[1].unheard {
            Self::notice(&mut state);
        }
        if state.failed && self.is_behind(&state) && !self.breaks(Bug::LearnsBehind) {
            self.start_over(&mut state);
        }
        if state.owners[1].syncing && !pushes(&mut state, 0) {
            return Some("what the other owner holds is refused by one that syncs".into());
        }
        state.forgetful = false;
        if let Some(hint) = state.hint.take()
            && !self.takes(&mut state, 1, hint)
            && !state.stale
        {
            return Some("a hint is refused for ever".into());
        }
        if !self.breaks(Bug::LeavesForeign) {
            self.forget_dead(&mut state);
            self.finish_marked(&mut state);
        }
        if !(pushes(&mut state, 0) && pushes(&mut state, 1)) {
            return Some("what one owner holds is refused by the other for ever".into());
        }
        if let Some(what) = self.stored_wrong(&state) {
            return Some(format!("{what}, once all are heard"));
        }
        // The second round forgets what the first one dropped.
        for _ in 0..2 {
            let lists = Self::is_deleted(&state);
            self.begin(&mut state, lists, false);
            self.run(&mut state);
            if let Some(what) = self.stored_wrong(&state) {
                return Some(format!("{what}, once all is collected"));
            }
        }
        let [a, b] = state.owners.map(|owner| owner.now);
        let held = a.object.held | b.object.held;
        let finished = those(a.dropped | b.dropped).fold(0, |gone, round| gone | state.rounds[round].lists.held);
        if a.object != b.object {
            Some(format!("the owners never agree: {:?} {:?}", a.object, b.object))
        } else if held & finished != 0 && !(self.backs && self.rounds > 1 && state.failed) {
            Some("a tombstone that was collected stays beside a value for ever".into())
        } else if held != 0 && state.tombstones(held) == held {
            Some("a deletion is never collected".into())
        } else if those(a.seals | b.seals).any(|round| a.dropped & b.dropped & 1 << round == 0) {
            Some("a round that was sealed is never finished".into())
        } else {
            None
        }
    }

    /// What one owner can never mark any more: nobody has dropped it.
    fn forget_dead(&self, state: &mut State) {
        for round in 0..state.begun as usize {
            let epoch = state.rounds[round].epoch;
            let never = |at: usize| {
                let copy = state.owners[at].now;
                copy.epoch >= epoch && copy.marked & 1 << round == 0
            };
            if never(0) || never(1) {
                (0..2).for_each(|at| self.forget(state, round, at));
            }
        }
    }

    /// Whatever all owners marked.
    fn finish_marked(&self, state: &mut State) {
        for _ in 0..state.begun {
            let Some(round) = Self::waits(state) else { return };
            state.rounds[round] = Round { marked: BOTH, sealed: 0, dropped: 0, ..state.rounds[round] };
            self.finish(state, round);
        }
    }

    fn run(&self, state: &mut State) {
        let round = state.begun as usize - 1;
        (0..2).for_each(|at| self.mark(state, round, at));
        if state.rounds[round].marked == BOTH {
            self.finish(state, round);
        }
    }

    fn finish(&self, state: &mut State, round: usize) {
        Self::drain(state, round);
        if self.may_seal(state, round) {
            (0..2).for_each(|at| self.seal(state, round, at));
            (0..2).for_each(|at| self.drop_round(state, round, at));
        }
    }
}

//! The rules of semantics section 5, *Collection of tombstones*, an owner's and a driver's.

use super::Collection;
use super::bug::Bug;
use super::state::{Action, BOTH, Backup, Frame, Obj, ROUNDS, Read, Round, State, WRITES, Written, those};

impl Collection {
    pub(super) fn breaks(&self, bug: Bug) -> bool {
        self.bugs.contains(&bug)
    }

    /// Tombstones that this owner does not merge: of rounds it has sealed, until it may forget them.
    fn gone(&self, state: &State, at: usize) -> u8 {
        let copy = state.owners[at].now;
        those(copy.seals & !copy.forgotten).fold(0, |gone, round| gone | state.rounds[round].lists.held)
    }

    /// What this owner sends, and answers.
    pub(super) fn sends(&self, state: &State, at: usize) -> Frame {
        let copy = state.owners[at].now;
        let dropped = |round: &usize| copy.dropped & 1 << round != 0 || self.breaks(Bug::HidesSealed);
        let gone = those(copy.seals & !copy.forgotten).filter(dropped);
        let gone = gone.fold(0, |gone, round| gone | state.rounds[round].lists.held);
        Frame { object: copy.object.without(gone), epoch: copy.epoch, from: at as u8 }
    }

    /// A state reaches an owner. False: refused, for it was read under an epoch that is sealed here.
    pub(super) fn takes(&self, state: &mut State, at: usize, frame: Frame) -> bool {
        let copy = &state.owners[at].now;
        let own = self.breaks(Bug::OwnStore) && frame.from as usize == at;
        if frame.epoch < copy.sealed && !own && !self.breaks(Bug::NoRefusal) {
            return false;
        }
        let object = frame.object.without(self.gone(state, at));
        state.owners[at].now.object = state.merge(state.owners[at].now.object, object);
        true
    }

    /// A state reaches who holds hints for owner 1.
    fn holder_takes(&self, state: &mut State, frame: Frame) {
        let forgetful = state.forgetful && !self.breaks(Bug::HolderGoesOn);
        let old = frame.epoch < state.holder && !self.breaks(Bug::TakesAfterDrain);
        if frame.object.held == 0 || forgetful || old {
            return;
        }
        let older = state.hint.unwrap_or(Frame { object: Obj::default(), ..frame });
        let object = state.merge(older.object, frame.object);
        state.hint = Some(Frame { object, epoch: self.of_merge(older.epoch, frame.epoch), from: 0 });
    }

    /// The epoch of a merge.
    fn of_merge(&self, a: u8, b: u8) -> u8 {
        if self.breaks(Bug::GreatestEpoch) { a.max(b) } else { a.min(b) }
    }

    pub(super) fn mint(&self, state: &mut State, at: usize, tombstone: bool, supersedes: u8) {
        let n = state.writes as usize;
        let owner = &mut state.owners[at];
        owner.ticks += 1;
        let reading = owner.ticks + if at == self.fast { 10 } else { 0 };
        let floor = if self.bugs.contains(&Bug::NoFloor) { 0 } else { owner.now.floor };
        let stamp = reading.max(owner.now.object.greatest() + 1).max(floor + 1);
        owner.now.object.context[owner.actor as usize] = stamp;
        owner.now.object.held = owner.now.object.held & !supersedes | 1 << n;
        let actor = owner.actor;
        let past = supersedes | state.past_of(supersedes);
        state.written[n] = Written { actor, stamp, tombstone, past };
        state.writes += 1;
    }

    /// A round that lists what both owners hold of this key, if that is one deletion; without `lists` other keys alone.
    pub(super) fn begin(&self, state: &mut State, lists: bool, late: bool) {
        let [a, b] = state.owners.map(|owner| owner.now);
        let after = (0..state.begun as usize).filter(|round| {
            let dropped = 1 << round;
            a.dropped & b.dropped & dropped != 0
        });
        // Epochs of a later layout are greater than any of an earlier one.
        let layout = if state.failed && self.wipes && !self.breaks(Bug::EpochReused) { 16 } else { 0 };
        state.rounds[state.begun as usize] = Round {
            epoch: a.epoch.max(b.epoch).max(layout) + u8::from(!late),
            lists: if lists { a.object } else { Obj::default() },
            after: after.fold(0, |after, round| after | 1 << round),
            ..Round::default()
        };
        state.begun += 1;
    }

    /// Whether what both hold is one and the same deletion.
    pub(super) fn is_deleted(state: &State) -> bool {
        let [a, b] = state.owners;
        let same = a.now.object == b.now.object && !a.syncing && !b.syncing;
        same && a.now.object.held != 0 && state.tombstones(a.now.object.held) == a.now.object.held
    }

    /// Whether owner 0 holds a deletion.
    fn seems_deleted(state: &State) -> bool {
        let held = state.owners[0].now.object.held;
        held != 0 && state.tombstones(held) == held
    }

    /// Whether a round that all owners marked waits to be finished.
    pub(super) fn waits(state: &State) -> Option<usize> {
        let [a, b] = state.owners.map(|owner| owner.now);
        let unfinished = those(a.marked & b.marked & !(a.dropped & b.dropped));
        unfinished.min_by_key(|round| state.rounds[*round].epoch)
    }

    /// Before an answer.
    fn flush(&self, state: &mut State, at: usize) {
        if !self.breaks(Bug::Unflushed) {
            state.owners[at].disk = state.owners[at].now;
        }
    }

    pub(super) fn mark(&self, state: &mut State, round: usize, at: usize) {
        let Round { epoch, lists, .. } = state.rounds[round];
        let owner = &mut state.owners[at];
        if owner.now.marked & 1 << round != 0 {
            state.rounds[round].marked |= 1 << at;
            return;
        }
        if owner.now.epoch == epoch && self.breaks(Bug::SharedEpoch) {
            owner.now.marked |= 1 << round;
            state.rounds[round].marked |= 1 << at;
            return;
        }
        let unheard = owner.unheard && !self.breaks(Bug::MarksUnheard);
        if at == 1 && (unheard || self.is_behind(state)) {
            return;
        }
        let owner = &mut state.owners[at];
        let holds = lists.held == 0 || owner.now.object == lists || self.breaks(Bug::Unchecked);
        if owner.syncing || owner.now.epoch >= epoch || !holds {
            return;
        }
        if self.breaks(Bug::Replaced) {
            owner.now.marked &= owner.now.dropped;
            owner.now.seals &= owner.now.marked;
        }
        owner.now.marked |= 1 << round;
        if !self.breaks(Bug::SameEpoch) {
            owner.now.epoch = epoch;
        }
        self.flush(state, at);
        state.rounds[round].marked |= if self.breaks(Bug::Gossip) { BOTH } else { 1 << at };
    }

    /// Before owners change: an owner that has not sealed a round never will, so that nobody drops it.
    fn abandon(&self, state: &mut State, round: usize, at: usize) {
        let bit = 1 << round;
        let copy = &mut state.owners[at].now;
        let may = copy.seals & bit == 0 || self.breaks(Bug::AbandonsSealed) && copy.dropped & bit == 0;
        if copy.epoch >= state.rounds[round].epoch && may {
            copy.marked &= !bit;
            copy.seals &= !bit;
            self.flush(state, at);
            state.rounds[round].abandoned |= 1 << at;
        }
    }

    /// An owner forgets a round that another has abandoned, whether or not it has sealed it.
    pub(super) fn forget(&self, state: &mut State, round: usize, at: usize) {
        let copy = &mut state.owners[at].now;
        if !self.breaks(Bug::KeepsAbandoned) {
            copy.marked &= !(1 << round);
            copy.seals &= !(1 << round);
        }
        self.flush(state, at);
    }

    /// Who holds hints is asked, after all marks.
    pub(super) fn drain(state: &mut State, round: usize) {
        let epoch = state.rounds[round].epoch;
        state.holder = state.holder.max(epoch);
        state.rounds[round].drained = state.hint.is_none_or(|hint| hint.epoch >= epoch);
    }

    pub(super) fn may_seal(&self, state: &State, round: usize) -> bool {
        let Round { marked, drained, .. } = state.rounds[round];
        marked == BOTH && (drained || self.breaks(Bug::NoDrain))
    }

    pub(super) fn seal(&self, state: &mut State, round: usize, at: usize) {
        let Round { epoch, after, .. } = state.rounds[round];
        let hearsay = self.breaks(Bug::Gossip);
        if state.owners[at].syncing && self.damages && !self.breaks(Bug::SealsDamaged) {
            return;
        }
        let copy = &mut state.owners[at].now;
        if copy.marked & 1 << round == 0 {
            if !hearsay {
                return;
            }
            copy.marked |= 1 << round;
            copy.epoch = copy.epoch.max(epoch);
        }
        copy.seals |= 1 << round;
        copy.sealed = copy.sealed.max(epoch);
        copy.forgotten |= if self.breaks(Bug::StripUntilAnySeal) { copy.dropped } else { after };
        self.flush(state, at);
        state.rounds[round].sealed |= 1 << at;
    }

    pub(super) fn drop_round(&self, state: &mut State, round: usize, at: usize) {
        let Round { lists, sealed, .. } = state.rounds[round];
        let copy = &mut state.owners[at].now;
        let all = sealed == BOTH || self.breaks(Bug::DropsEarly);
        if copy.seals & 1 << round == 0 || !all {
            return;
        }
        let stays = copy.object.without(lists.held);
        if stays.held == 0 {
            copy.floor = copy.floor.max(copy.object.greatest());
        }
        copy.floor = copy.floor.max(lists.greatest());
        copy.object = stays;
        copy.dropped |= 1 << round;
        if self.breaks(Bug::NoStrip) {
            copy.forgotten |= 1 << round;
        }
        self.flush(state, at);
        state.rounds[round].dropped |= 1 << at;
    }

    fn put_frame(&self, state: &mut State, frame: Frame) {
        let free = state.frames.iter().take(self.frames).position(Option::is_none);
        if let Some(free) = free
            && frame.object.held != 0
            && !state.frames.contains(&Some(frame))
        {
            state.frames[free] = Some(frame);
            state.frames.sort_by_key(|frame| {
                frame.map(|frame| (frame.object.context, frame.object.held, frame.epoch, frame.from))
            });
            // Those that are there, first.
            state.frames.sort_by_key(Option::is_none);
        }
    }

    fn answer(&self, state: &mut State) {
        let Some(read) = state.read else { return };
        let other = 1 - read.first.from as usize;
        let (second, sealed) = (self.sends(state, other), state.owners[other].now.sealed);
        let counts = self.breaks(Bug::CountsAcross);
        if read.first.epoch < sealed && !counts {
            // The first has no vote any more, and is asked again.
            state.read = Some(Read { first: second, sealed, ..read });
            return;
        }
        if second.epoch < read.sealed && !counts {
            return;
        }
        state.read = None;
        let object = state.merge(read.first.object, second.object);
        let epoch = self.of_merge(read.first.epoch, second.epoch);
        let values = object.held & !state.tombstones(object.held);
        state.misread |= values & read.never;
        state.missed |= read.wanted & !object.held & !state.past_of(state.all());
        // Its repair, at once or late.
        self.put_frame(state, Frame { object, epoch, from: read.first.from });
    }

    fn crash(&self, state: &mut State) {
        let owner = &mut state.owners[1];
        owner.now = owner.disk;
        (owner.actor, owner.syncing) = (2, true);
        state.failed = true;
        if matches!(state.read, Some(read) if read.first.from == 1) {
            state.read = None;
        }
    }

    /// Owner 1 is replaced: rounds that are not sealed are abandoned, those that are, finished by who is left.
    fn wipe(&self, state: &mut State) {
        self.crash(state);
        // Who was removed is refused for good.
        for frame in &mut state.frames {
            frame.take_if(|frame| frame.from == 1);
        }
        state.frames.sort_by_key(Option::is_none);
        let (left, inherits) = (state.owners[0].now, self.breaks(Bug::MarksInherited));
        for round in 0..state.begun as usize {
            if left.seals & 1 << round == 0 {
                if !inherits {
                    state.rounds[round].marked = 0;
                }
            } else if left.dropped & 1 << round == 0 && !self.breaks(Bug::ReplacedWhileSealed) {
                state.rounds[round].sealed |= 0b10;
                self.drop_round(state, round, 0);
            }
        }
        if !inherits {
            state.owners[0].now.marked &= left.seals;
        }
        let Copy { epoch, sealed, marked, dropped, forgotten, .. } = state.owners[0].now;
        let marked = if inherits { marked } else { dropped };
        let new = Copy { epoch, sealed, marked, seals: dropped, dropped, forgotten, ..Copy::default() };
        let new = match () {
            () if self.breaks(Bug::NoEpochLearnt) => Copy::default(),
            () if self.breaks(Bug::NoSealLearnt) => Copy { epoch, ..Copy::default() },
            () => new,
        };
        (state.owners[1].now, state.owners[1].disk) = (new, new);
    }

    /// Whether owner 1 has forgotten that it marked what owner 0 has sealed.
    pub(super) fn has_forgotten(state: &State) -> bool {
        let [a, b] = state.owners.map(|owner| owner.now);
        a.sealed > b.epoch
    }

    /// ... and knows it: it was told what is sealed.
    pub(super) fn is_behind(&self, state: &State) -> bool {
        Self::has_forgotten(state) && !self.breaks(Bug::GoesOnBehind)
    }

    /// What owner 0 knows of what is collected, and nothing else.
    fn lesson(state: &State) -> Copy {
        let Copy { epoch, sealed, dropped, forgotten, .. } = state.owners[0].now;
        Copy { epoch, sealed, marked: dropped, seals: dropped, dropped, forgotten, ..Copy::default() }
    }

    /// An owner's directory is put back from an old copy.
    fn go_back(state: &mut State) {
        let Some(Backup { copy, .. }) = state.backup.take() else { return };
        let owner = &mut state.owners[1];
        (owner.now, owner.disk, owner.actor, owner.unheard) = (copy, copy, 2, true);
        state.failed = true;
        if matches!(state.read, Some(read) if read.first.from == 1) {
            state.read = None;
        }
    }

    /// What it says does not count before it has merged what the other one holds.
    pub(super) fn notice(state: &mut State) {
        (state.owners[1].unheard, state.owners[1].syncing) = (false, true);
    }

    /// Who is behind gives up what it holds, and learns, once those that are left have finished what they sealed.
    pub(super) fn start_over(&self, state: &mut State) {
        for round in 0..state.begun as usize {
            let Copy { seals, dropped, .. } = state.owners[0].now;
            if seals & !dropped & 1 << round != 0 {
                state.rounds[round].sealed |= 0b10;
                self.drop_round(state, round, 0);
            }
        }
        let lesson = Self::lesson(state);
        let owner = &mut state.owners[1];
        (owner.now, owner.disk, owner.actor, owner.syncing, owner.unheard) =
            (lesson, lesson, (owner.actor + 1).max(3), true, false);
    }

    /// All that owner 0 holds is merged by owner 1, or the other way round: that is a vote, if it has none.
    pub(super) fn push(&self, state: &mut State, from: usize) -> bool {
        let behind = from == 0 && self.is_behind(state);
        let taken = self.takes(state, 1 - from, self.sends(state, from));
        if behind && self.breaks(Bug::LearnsBehind) {
            let object = state.owners[1].now.object;
            state.owners[1].now = Copy { object, ..Self::lesson(state) };
        }
        let votes = taken && (!behind || self.breaks(Bug::LearnsBehind));
        state.owners[1 - from].syncing &= !votes;
        taken
    }

    pub(super) fn do_one(&self, state: &mut State, action: &Action) {
        match *action {
            Action::Put(at) => {
                let seen = state.tombstones(state.owners[at].now.object.held);
                self.mint(state, at, false, seen);
            }
            Action::PutBeside(at) => self.mint(state, at, false, 0),
            Action::Delete(at) => self.mint(state, at, true, state.owners[at].now.object.held),
            Action::Push(from) => drop(self.push(state, from)),
            Action::Send(from) => self.put_frame(state, self.sends(state, from)),
            Action::Deliver { frame, to } => {
                let Some(mut frame) = state.frames[frame] else { return };
                if self.breaks(Bug::WhenSent) {
                    frame.epoch = state.owners[frame.from as usize].now.epoch;
                }
                self.takes(state, to, frame);
            }
            Action::Hint => self.holder_takes(state, self.sends(state, 0)),
            Action::DeliverToHint(frame) => {
                let Some(frame) = state.frames[frame] else { return };
                self.holder_takes(state, frame);
            }
            Action::HandOff => {
                if let Some(hint) = state.hint
                    && self.takes(state, 1, hint)
                {
                    state.hint = None;
                }
            }
            Action::Read(at) => {
                let values = !state.tombstones(state.all());
                let superseded = state.past_of(state.all());
                state.read = Some(Read {
                    first: self.sends(state, at),
                    sealed: state.owners[at].now.sealed,
                    never: state.past_of(state.strictly) & values,
                    wanted: state.strictly & values & !superseded,
                });
            }
            Action::Answer => self.answer(state),
            Action::Crash => self.crash(state),
            Action::Wipe => self.wipe(state),
            Action::Damage => {
                let owner = &mut state.owners[1];
                (owner.now.object, owner.actor, owner.syncing) = (Obj::default(), 2, true);
                state.failed = true;
            }
            Action::Backup => {
                let State { hint, holder, .. } = *state;
                state.backup = Some(Backup { copy: state.owners[1].now, hint, holder });
            }
            Action::GoBack => Self::go_back(state),
            Action::Notice => Self::notice(state),
            Action::StartOver => self.start_over(state),
            Action::HolderGoesBack => {
                let Some(Backup { hint, holder, .. }) = state.backup.take() else { return };
                (state.hint, state.holder, state.failed) = (hint, holder, true);
                (state.forgetful, state.stale) = (true, hint.is_some());
            }
            Action::HolderHears => {
                let [a, b] = state.owners.map(|owner| owner.now.epoch);
                (state.holder, state.forgetful) = (state.holder.max(a).max(b), false);
            }
            Action::Begin { lists, late } => self.begin(state, lists, late),
            Action::Mark { round, at } => self.mark(state, round, at),
            Action::Drain(round) => Self::drain(state, round),
            Action::Abandon { round, at } => self.abandon(state, round, at),
            Action::Forget { round, at } => self.forget(state, round, at),
            Action::Seal { round, at } => self.seal(state, round, at),
            Action::Drop { round, at } => self.drop_round(state, round, at),
        }
        self.note(state);
    }

    /// Who acknowledges what.
    fn note(&self, state: &mut State) {
        let covers = |object: Obj| {
            let written: &[Written; WRITES] = &state.written;
            (0..state.writes as usize).filter(|n| object.covers(&written[*n])).fold(0, |mask, n| mask | 1 << n)
        };
        let [a, b] = state.owners.map(|owner| covers(owner.now.object));
        // Where nothing is lost W = 1 will do, with R = 2.
        state.strictly |= if self.crashes || self.wipes || self.backs || self.damages { a & b } else { a | b };
        state.sloppily |= state.hint.map_or(0, |hint| covers(hint.object) & a);
        if !self.crashes || state.failed {
            // What is flushed makes no difference any more.
            state.owners.iter_mut().for_each(|owner| owner.disk = super::state::Copy::default());
        } else {
            state.owners[0].disk = super::state::Copy::default();
        }
    }

    pub(super) fn all_actions(&self, state: &State) -> Vec<Action> {
        let mut actions = Vec::new();
        for at in 0..2 {
            let owner = &state.owners[at];
            if !owner.syncing {
                if (state.writes as usize) < self.writes {
                    actions.push(Action::Put(at));
                    let held = owner.now.object.held;
                    if self.beside && held != 0 {
                        actions.push(Action::PutBeside(at));
                    }
                    if held == 0 || held != state.tombstones(held) {
                        actions.push(Action::Delete(at));
                    }
                }
                if self.reads && state.read.is_none() {
                    actions.push(Action::Read(at));
                }
                actions.extend([Action::Push(at), Action::Send(at)]);
            }
            for frame in 0..self.frames {
                if state.frames[frame].is_some() {
                    actions.push(Action::Deliver { frame, to: at });
                }
            }
        }
        if let Some(read) = state.read
            && !state.owners[1 - read.first.from as usize].syncing
        {
            actions.push(Action::Answer);
        }
        if self.hints {
            actions.extend((0..self.frames).filter(|frame| state.frames[*frame].is_some()).map(Action::DeliverToHint));
            actions.extend([Action::Hint, Action::HandOff]);
        }
        if !state.failed && self.crashes {
            actions.push(Action::Crash);
        }
        if !state.failed && self.wipes {
            actions.push(Action::Wipe);
        }
        if !state.failed && self.damages {
            actions.push(Action::Damage);
        }
        if !state.failed && (self.backs || self.holder_backs) {
            match state.backup {
                None => actions.push(Action::Backup),
                Some(_) if self.holder_backs => actions.push(Action::HolderGoesBack),
                Some(_) => actions.push(Action::GoBack),
            }
        }
        if state.owners[1].unheard {
            actions.push(Action::Notice);
        }
        if self.backs && state.failed && self.is_behind(state) {
            actions.push(Action::StartOver);
        }
        if state.forgetful {
            actions.push(Action::HolderHears);
        }
        if (state.begun as usize) < self.rounds && (Self::waits(state).is_none() || self.breaks(Bug::LeavesForeign)) {
            let known = state.owners.iter().any(|owner| owner.now.epoch > 0);
            for late in (0..2).filter(|late| *late == 0 || self.late && known) {
                let late = late == 1;
                actions.push(Action::Begin { lists: false, late });
                if Self::is_deleted(state) || self.breaks(Bug::Unchecked) && Self::seems_deleted(state) {
                    actions.push(Action::Begin { lists: true, late });
                }
            }
        }
        for round in 0..state.begun as usize {
            let Round { marked, drained, sealed, dropped, abandoned, .. } = state.rounds[round];
            let missing = |mask: u8| (0..2).filter(move |at| mask & 1 << at == 0);
            actions.extend(missing(marked).map(|at| Action::Mark { round, at }));
            if self.abandons {
                actions.extend(missing(abandoned).map(|at| Action::Abandon { round, at }));
                if abandoned != 0 {
                    actions.extend((0..2).map(|at| Action::Forget { round, at }));
                }
            }
            if marked == BOTH && !drained {
                actions.push(Action::Drain(round));
            }
            if self.may_seal(state, round) {
                actions.extend(missing(sealed).map(|at| Action::Seal { round, at }));
                actions.extend(missing(dropped).map(|at| Action::Drop { round, at }));
            }
        }
        debug_assert!(self.rounds <= ROUNDS);
        actions
    }
}

use super::state::Copy;

//! What nodes, clients, operators and disasters may do, in any order and with any delay.
//!
//! What is left out, and why nothing is missed by it. *Other writes*: writes are merged as sets here, so what happens
//! to one says nothing of another. *Trackers not heard yet*: what a node may do by what it knows it may do later as
//! well, so not having heard and not acting yet are the same; nor is saying `ack` and `synced` put off, for it only
//! ever allows others something. *Late requests*: one sent before its coordinator knew of a layout is accepted by
//! whoever accepts the later one, and counts in fewer layouts. *When* a node that holds the write merges from whom.
//! *Nodes that are alike* in every layout: states that differ by their names are one.

use quorate::ring::change::{Kind, judge_successor};
use quorate::ring::risk::may_lose;

use super::super::explore::Model;
use super::bug::Bug;
use super::rules::{Rules, store};
use super::state::{Action, Held, NO_OP, NOBODY, NODES, Node, Op, Read, Set, State, Track, has, those};

/// When the layout after is decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Step {
    /// Who must be dead first.
    pub(super) after_death_of: Set,
}

/// One scenario.
pub(super) struct World {
    pub(super) rules: Rules,
    pub(super) bug: Option<Bug>,
    /// For each layout after the first.
    pub(super) steps: Vec<Step>,
    /// Who may coordinate.
    pub(super) coordinators: Set,
    /// Who may die for good, and how many of them.
    pub(super) mortal: Set,
    pub(super) deaths: u8,
    pub(super) crashes: u8,
    /// Whether a replica may take its time between judging and committing.
    pub(super) queues: bool,
    /// Whether a write that nobody acknowledged may be found and returned by a read.
    pub(super) writes_back: bool,
    /// Whether nodes drop older layouts as soon as they may, not as late as they like.
    pub(super) drops_at_once: bool,
    /// What has happened already when the exploration begins.
    pub(super) before: Vec<Action>,
    /// Nodes that are alike in every layout.
    pub(super) alike: &'static [(usize, usize)],
    pub(super) most: usize,
    /// Whether the exploration may end there, unfinished.
    pub(super) in_part: bool,
    /// One state in so many is followed until everything has settled.
    pub(super) settle_one_in: u64,
}

impl World {
    /// These layouts one after the other, any majority reads and writes, nobody fails.
    pub(super) fn of(rules: Rules) -> Self {
        let steps = vec![Step { after_death_of: 0 }; rules.layouts.len() - 1];
        Self {
            rules,
            bug: None,
            steps,
            coordinators: 0b11111,
            mortal: 0,
            deaths: 0,
            crashes: 0,
            queues: false,
            writes_back: false,
            drops_at_once: false,
            before: Vec::new(),
            alike: &[],
            most: 1_000_000,
            in_part: false,
            settle_one_in: 256,
        }
    }

    pub(super) fn is(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    pub(super) fn knows(node: &Node) -> bool {
        !node.dead && node.head > 0
    }

    /// In which layouts the write would count at `to`; none if it is refused or changes nothing.
    pub(super) fn accepts(&self, state: &State, to: usize) -> Set {
        let (op, node) = (&state.op, &state.nodes[to]);
        if op.coordinator == NOBODY || !Self::knows(node) || node.queued != 0 {
            return 0;
        }
        let counted = (op.base..=op.head).fold(0, |set, version| set | 1 << version);
        // One who serves the ignorant takes it that they know, and count, what is known here.
        let (newest, named) = match self.is(Bug::ServesTheIgnorant) {
            true => (node.head.max(op.head), counted | 1 << node.head),
            false => (op.head, counted),
        };
        let counts = self.rules.judge_write(node, to, op.coordinator, newest, named) & counted;
        if counts & !op.acks[to] == 0 && node.held == Held::Flushed { 0 } else { counts }
    }

    fn answered(&self, state: &State) -> bool {
        let Op { base, head, acks, coordinator } = state.op;
        if coordinator == NOBODY {
            return false;
        }
        let mut acks = acks;
        if self.is(Bug::CountsLaterLayout) {
            acks.iter_mut().filter(|acks| **acks != 0).for_each(|acks| *acks = 0b1_1110);
        }
        let synced = |node: usize, version: u64| has(state.nodes[node].told.synced, version as usize);
        let oldest_n = self.rules.layouts[usize::from(base) - 1].spec().default_bucket.n;
        let keeps = !matches!(
            self.bug,
            Some(Bug::ForgetsPendingOwner | Bug::IgnoresLiveLayout | Bug::WrongN | Bug::CountsExOwner)
        );
        let twist = |lists: &mut Vec<quorate::ring::live::LayoutHolders<'_>>| match self.bug {
            Some(Bug::IgnoresLiveLayout) => lists.truncate(1),
            Some(Bug::ForgetsPendingOwner) => {
                for list in lists.iter_mut() {
                    let version = list.version;
                    let pending = |owner: &quorate::types::StoreId| {
                        version > u64::from(base) && !(0..NODES).any(|n| store(n) == *owner && synced(n, version))
                    };
                    list.regions.iter_mut().for_each(|region| region.owners.retain(|owner| !pending(owner)));
                }
                lists.retain(|list| list.stores().next().is_some());
            }
            Some(Bug::WrongN) => {
                lists.iter_mut().flat_map(|list| &mut list.regions).for_each(|region| {
                    region.n = oldest_n;
                });
            }
            _ => {}
        };
        if self.is(Bug::CountsExOwner) {
            // Whoever acknowledged, for whichever layout, is counted: as many as a quorum of each layout has.
            let said = acks.iter().filter(|acks| **acks != 0).count();
            return (base..=head).all(|version| {
                let owners = self.rules.owners[usize::from(version)];
                let some = those(owners).take(said).fold(0, |set, node| set | 1 << node);
                self.rules.read_by(version, some)
            });
        }
        self.rules.met(base, head, &acks, twist, keeps)
    }

    /// Whether `from` answers a read so named, and has nothing.
    fn says_not_found(&self, state: &State, from: usize, head: u8, layout: u8) -> bool {
        let node = &state.nodes[from];
        let own = if self.is(Bug::ServesOlderReads) { Track { sync_ack: 0, ..node.own } } else { node.own };
        let newest = if self.is(Bug::ServesTheIgnorant) { node.head.max(head) } else { head };
        Self::knows(node) && node.held == Held::Nothing && self.rules.judge_read(node, from, newest, layout, own)
    }

    /// Who accepts the next layout: some majority of the deciders, if somebody who knows all may propose it.
    fn deciders(&self, state: &State) -> Vec<Set> {
        let next = usize::from(state.decided) + 1;
        if next > self.rules.layouts.len() {
            return Vec::new();
        }
        let dead = (0..NODES).filter(|at| state.nodes[*at].dead).fold(0, |set, at| set | 1 << at);
        if self.steps[next - 2].after_death_of & !dead != 0 {
            return Vec::new();
        }
        let layout = &self.rules.layouts[next - 1];
        let skipped = self.rules.members(state.decided) & !self.rules.members(state.decided + 1);
        let knowing: Vec<usize> =
            (0..NODES).filter(|at| !state.nodes[*at].dead && state.nodes[*at].head == state.decided).collect();
        let proposes = |at: &usize| {
            let node = &state.nodes[*at];
            let complete = node.base == node.head || self.rules.may(&state.nodes, *at).drop_before == Some(node.head);
            match judge_successor(self.rules.chain(node.base, node.head), complete, layout) {
                // A skip says that the process has stopped: nobody says so of one that runs.
                Ok(Kind::Skip) => skipped & !dead == 0,
                Ok(_) => true,
                Err(_) => false,
            }
        };
        let Some(proposer) = knowing.iter().copied().find(proposes) else { return Vec::new() };
        let deciders = self.rules.chain(1, state.decided).deciders();
        let living: Set = (0..NODES)
            .filter(|at| !state.nodes[*at].dead && deciders.iter().any(|(_, decider)| *decider == store(*at)))
            .fold(0, |set, at| set | 1 << at);
        // Who accepts without having sync_acked makes a difference only where something is skipped.
        let majority = deciders.len() / 2 + 1;
        let mut sets: Vec<Set> =
            (1..=living).filter(|set| set & !living == 0 && set.count_ones() as usize == majority).collect();
        if skipped == 0 {
            sets.truncate(1);
        }
        sets.retain(|acceptors| self.nothing_lost(state, proposer, *acceptors, skipped));
        sets
    }

    fn nothing_lost(&self, state: &State, proposer: usize, acceptors: Set, skipped: Set) -> bool {
        let node = &state.nodes[proposer];
        let chain = self.rules.chain(node.base, node.head);
        let stores = |set: Set| those(set).map(store).collect();
        let mut pledges: Vec<_> =
            those(acceptors).map(|at| (store(at), u64::from(state.nodes[at].own.sync_ack))).collect();
        if self.is(Bug::SkipsByOldOwners) {
            pledges = vec![(store(proposer), 0)];
        }
        // Who is not synced to the last complete layout: nobody, here.
        may_lose(chain, &stores(skipped), &Default::default(), &pledges).is_empty()
    }

    /// Whether the copy may go: every key it has is covered by an owner in the newest layout.
    fn covered(&self, state: &State, at: usize) -> bool {
        let newest = self.rules.owners[usize::from(state.nodes[at].head)];
        those(newest).any(|owner| owner != at && state.nodes[owner].held != Held::Nothing)
    }

    pub(super) fn may_drop(&self, state: &State, at: usize) -> Option<u8> {
        if self.is(Bug::DropsEarly) {
            let node = &state.nodes[at];
            let read = self.rules.may(&state.nodes, at).read_in;
            return those(read).max().map(|version| version as u8).filter(|version| *version > node.base);
        }
        self.rules.may(&state.nodes, at).drop_before
    }

    fn may_delete(&self, state: &State, at: usize) -> bool {
        let node = &state.nodes[at];
        if self.is(Bug::DeletesWhileLive) {
            return !has(self.rules.owners[usize::from(node.head)], at);
        }
        self.rules.may(&state.nodes, at).delete
    }

    /// Whether a node merges from another now.
    pub(super) fn merges(&self, state: &State, at: usize, from: usize) -> bool {
        let (node, source) = (&state.nodes[at], &state.nodes[from]);
        let acked = source.own.ack >= node.head || self.is(Bug::StreamsBeforeAck);
        Self::knows(source) && acked && has(self.rules.may(&state.nodes, at).merge, from)
    }

    fn actions_of(&self, state: &State, at: usize, actions: &mut Vec<Action>) {
        let node = &state.nodes[at];
        if node.dead {
            return;
        }
        let last = self.rules.layouts.len() as u8;
        // Told of a layout, of any it has missed.
        actions.extend((node.head + 1..=state.decided.min(last)).map(|version| Action::Learn { node: at, version }));
        if node.head == 0 {
            return;
        }
        let may = self.rules.may(&state.nodes, at);
        let from = (0..NODES).filter(|from| self.merges(state, at, *from));
        actions.extend(from.map(|from| Action::Merge { node: at, from }));
        let in_order = !self.is(Bug::SyncAcksInOrder) || may.sync_ack == Some(node.own.sync_ack.max(node.base) + 1);
        if may.sync_ack.is_some() && in_order {
            actions.push(Action::SyncAck { node: at });
        }
        if self.may_drop(state, at).is_some() {
            actions.push(Action::Drop { node: at });
        }
        if node.held != Held::Nothing && self.may_delete(state, at) && self.covered(state, at) {
            actions.push(Action::Delete { node: at });
        }
        if self.accepts(state, at) != 0 {
            actions.push(Action::Deliver { to: at });
        }
        if node.queued != 0 {
            actions.push(Action::Commit { node: at });
        }
        if has(self.coordinators, at) && may.holds != 0 && state.op == NO_OP {
            if !state.begun {
                actions.push(Action::Write { node: at });
            } else if self.writes_back && !state.acknowledged && state.nodes.iter().any(|n| n.held != Held::Nothing) {
                actions.push(Action::WriteBack { node: at });
            }
        }
        if state.crashes < self.crashes {
            actions.push(Action::Crash { node: at });
        }
        if state.deaths < self.deaths && has(self.mortal, at) {
            actions.push(Action::Die { node: at });
        }
        if node.disk != node.own {
            actions.push(Action::Flush { node: at });
        }
    }

    fn reads(&self, state: &State, actions: &mut Vec<Action>) {
        if !state.acknowledged {
            return;
        }
        if state.read.head > 0 {
            let Read { head, layout, without } = state.read;
            let from = (0..NODES).filter(|from| !has(without, *from));
            let from = from.filter(|from| self.says_not_found(state, *from, head, layout));
            actions.extend(from.map(|from| Action::ReadOn { from }));
            return;
        }
        let mut begun: Vec<(u8, usize)> = Vec::new();
        for coordinator in (0..NODES).filter(|at| Self::knows(&state.nodes[*at])) {
            let head = state.nodes[coordinator].head;
            for layout in those(self.rules.may(&state.nodes, coordinator).read_in) {
                // Who coordinates matters only by what it knows.
                if begun.contains(&(head, layout)) {
                    continue;
                }
                begun.push((head, layout));
                let layout = layout as u8;
                let from = (0..NODES).filter(|from| self.says_not_found(state, *from, head, layout));
                actions.extend(from.map(|from| Action::Read { coordinator, layout, from }));
            }
        }
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn start(&self) -> State {
        let first = self.rules.members(1);
        let begun = Track { ack: 1, synced: 1 << 1, sync_ack: 1 };
        let member = Node { head: 1, base: 1, own: begun, told: begun, disk: begun, ..Node::default() };
        let nodes = std::array::from_fn(|at| if has(first, at) { member } else { Node::default() });
        let mut start = State {
            nodes,
            decided: 1,
            begun: false,
            acknowledged: false,
            op: NO_OP,
            read: Read::default(),
            stale: false,
            crashes: 0,
            deaths: 0,
        };
        for action in &self.before {
            self.step_in_place(&mut start, action);
        }
        start
    }

    fn actions(&self, state: &State) -> Vec<Action> {
        let mut actions = Vec::new();
        let members = self.rules.members(1) | self.rules.members(state.decided);
        for at in (0..NODES).filter(|at| has(members, *at) || state.nodes[*at].head > 0) {
            self.actions_of(state, at, &mut actions);
        }
        if state.op.coordinator != NOBODY {
            let coordinator = &state.nodes[usize::from(state.op.coordinator)];
            if (state.op.base, state.op.head) != (coordinator.base, coordinator.head) {
                actions.push(Action::AskAgain);
            }
            if self.answered(state) {
                actions.push(Action::Answer);
            }
            actions.push(Action::GiveUp);
        }
        actions.extend(self.deciders(state).into_iter().map(|acceptors| Action::Decide { acceptors }));
        self.reads(state, &mut actions);
        actions
    }

    fn step(&self, state: &State, action: &Action) -> State {
        let mut next = *state;
        self.step_in_place(&mut next, action);
        next
    }

    fn wrong(&self, state: &State) -> Option<String> {
        if state.stale {
            return Some("a quorum read misses the acknowledged write".to_owned());
        }
        let held = state.nodes.iter().any(|node| !node.dead && node.held != Held::Nothing);
        // Where as many disks are lost as a quorum has, a write may be gone; nobody may then be skipped unasked.
        let excused = state.deaths >= 2 && usize::from(state.decided) < self.rules.layouts.len();
        if state.acknowledged && !held && !excused {
            return Some("the acknowledged write is gone".to_owned());
        }
        self.wedged(state)
    }

    fn most(&self) -> usize {
        self.most
    }

    fn may_stop_there(&self) -> bool {
        self.in_part
    }
}

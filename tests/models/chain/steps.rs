//! What happens: each action's effect, and what a node then says by itself.

use super::bug::Bug;
use super::state::{Action, Held, NO_OP, NODES, Node, Op, Read, Set, State, Track, has, those};
use super::world::World;

impl World {
    /// The newest layout known to the oldest write this node has in flight.
    fn in_flight_on(state: &State, at: usize) -> Option<u8> {
        let queued = (state.nodes[at].queued != 0).then_some(state.nodes[at].queued_on);
        let coordinates = (usize::from(state.op.coordinator) == at).then_some(state.op.head);
        [queued, coordinates].into_iter().flatten().min()
    }

    fn raise(&self, node: &mut Node, by: Track) {
        if self.is(Bug::TellsBeforeFlush) {
            let raised = Track {
                ack: node.own.ack.max(by.ack),
                synced: node.own.synced | by.synced,
                sync_ack: node.own.sync_ack.max(by.sync_ack),
            };
            (node.own, node.told) = (raised, raised);
        } else {
            self.rules.raise(node, by);
        }
    }

    /// What a node says as soon as it may.
    fn say(&self, state: &mut State, at: usize) {
        if !Self::knows(&state.nodes[at]) {
            return;
        }
        let drained = if self.is(Bug::AcksBeforeDrain) { None } else { Self::in_flight_on(state, at) };
        if let Some(ack) = self.rules.may_ack(&state.nodes[at], at, drained) {
            self.raise(&mut state.nodes[at], Track { ack, ..Track::default() });
        }
        // When it holds the write, it does not matter when it merges from whom.
        if state.nodes[at].held != Held::Nothing {
            for from in (0..NODES).filter(|from| self.merges(state, at, *from)).collect::<Vec<_>>() {
                self.merge(state, at, from);
            }
        }
        let mut claim = self.rules.may(&state.nodes, at).claim;
        if self.is(Bug::KeepsThoughFewer) {
            let owns = |version: u8| has(self.rules.owners[usize::from(version)], at);
            let keeps = (2..=state.nodes[at].own.ack).filter(|version| owns(*version) && owns(*version - 1));
            claim |= keeps.fold(0, |set, version| set | 1 << version) & !state.nodes[at].own.synced;
        }
        if claim != 0 {
            let synced = if self.is(Bug::SyncedIsMaximum) { (claim << 1).next_power_of_two() - 1 } else { claim };
            let node = &mut state.nodes[at];
            if node.held == Held::Unflushed && !self.is(Bug::TellsBeforeFlush) {
                node.held = Held::Flushed;
            }
            self.raise(node, Track { synced, ..Track::default() });
        }
        if self.drops_at_once
            && let Some(base) = self.may_drop(state, at)
        {
            state.nodes[at].base = base;
        }
    }

    /// Nodes that are alike in every layout are told apart by their order alone: one order stands for both.
    fn put_in_order(&self, state: &mut State) {
        for (a, b) in self.alike {
            if state.nodes[*a].sort_key(*a) > state.nodes[*b].sort_key(*b) {
                state.swap(*a, *b);
            }
        }
    }

    fn learn(&self, state: &mut State, at: usize, version: u8) {
        let least = || {
            let others = state.nodes.iter().filter(|node| Self::knows(node)).map(|node| node.base);
            others.min().unwrap_or(1)
        };
        let (known, base) = match state.nodes[at] {
            Node { head: 0, .. } => (0, least()),
            Node { head, base, .. } => (head, base),
        };
        let node = &mut state.nodes[at];
        (node.head, node.base) = (version, base);
        let deletes = if self.is(Bug::DeletesThoughOwner) {
            has(self.rules.owners[usize::from(version)], at)
        } else {
            self.rules.starts_afresh(node, at, known)
        };
        if deletes {
            (node.held, node.merged) = (Held::Nothing, [0; NODES]);
        }
    }

    fn merge(&self, state: &mut State, at: usize, from: usize) {
        let source = state.nodes[from];
        let node = &mut state.nodes[at];
        let acked = if self.is(Bug::StreamsBeforeAck) { node.head } else { source.own.ack };
        node.merged[from] = acked.max(node.merged[from]);
        if self.is(Bug::OneSource) {
            node.merged = [node.head; NODES];
        }
        if source.held != Held::Nothing && node.held == Held::Nothing {
            node.held = Held::Unflushed;
        }
    }

    fn deliver(&self, state: &mut State, to: usize, counts: Set) {
        if self.queues {
            let node = &mut state.nodes[to];
            (node.queued, node.queued_on, node.queued_counts) = (counts, node.head, true);
        } else {
            state.nodes[to].held = Held::Flushed;
            state.op.acks[to] |= counts;
        }
    }

    fn end_of_op(state: &mut State) {
        state.op = NO_OP;
        state.nodes.iter_mut().for_each(|node| node.queued_counts = false);
    }

    fn decide(&self, state: &mut State, acceptors: Set) {
        state.decided += 1;
        let skips = self.rules.members(state.decided - 1) & !self.rules.members(state.decided) != 0;
        if skips && !self.is(Bug::BreaksPledge) {
            for at in those(acceptors) {
                state.nodes[at].pledged = state.decided;
            }
        }
    }

    fn crash(&self, state: &mut State, at: usize) {
        if usize::from(state.op.coordinator) == at {
            Self::end_of_op(state);
        }
        let node = &mut state.nodes[at];
        node.own = node.disk;
        node.merged = [0; NODES];
        (node.queued, node.queued_on, node.queued_counts) = (0, 0, false);
        if node.held == Held::Unflushed {
            node.held = Held::Nothing;
        }
    }

    fn die(&self, state: &mut State, at: usize) {
        self.crash(state, at);
        let node = &mut state.nodes[at];
        node.held = Held::Nothing;
        node.dead = !self.is(Bug::WipedVotes);
        if node.dead {
            // Nothing of it matters any more but its tracker, which others have heard.
            *node = Node { dead: true, told: node.told, own: node.told, disk: node.told, ..Node::default() };
        }
    }

    pub(super) fn step_in_place(&self, next: &mut State, action: &Action) {
        match *action {
            Action::Decide { acceptors } => self.decide(next, acceptors),
            Action::Learn { node, version } => self.learn(next, node, version),
            Action::Merge { node, from } => self.merge(next, node, from),
            Action::SyncAck { node } => {
                if let Some(sync_ack) = self.rules.may(&next.nodes, node).sync_ack {
                    self.raise(&mut next.nodes[node], Track { sync_ack, ..Track::default() });
                }
            }
            Action::Drop { node } => {
                if let Some(base) = self.may_drop(next, node) {
                    next.nodes[node].base = base;
                }
            }
            Action::Delete { node } => next.nodes[node].held = Held::Nothing,
            Action::WriteBack { .. } if self.is(Bug::NoWriteBack) => next.acknowledged = true,
            Action::Write { node } | Action::WriteBack { node } => {
                next.begun = true;
                let Node { base, head, .. } = next.nodes[node];
                next.op = Op { coordinator: node as u8, base, head, acks: [0; NODES] };
            }
            Action::Deliver { to } => {
                let counts = self.accepts(next, to);
                self.deliver(next, to, counts);
            }
            Action::Commit { node } => {
                let at = &mut next.nodes[node];
                at.held = Held::Flushed;
                if at.queued_counts {
                    next.op.acks[node] |= at.queued;
                }
                (at.queued, at.queued_on, at.queued_counts) = (0, 0, false);
            }
            Action::AskAgain => {
                let coordinator = next.nodes[usize::from(next.op.coordinator)];
                (next.op.base, next.op.head) = (coordinator.base, coordinator.head);
            }
            Action::Answer => {
                next.acknowledged = true;
                Self::end_of_op(next);
            }
            Action::GiveUp => Self::end_of_op(next),
            Action::Read { coordinator, layout, from } => {
                let head = next.nodes[coordinator].head;
                next.read = Read { head, layout, without: 1 << from };
            }
            Action::ReadOn { from } => next.read.without |= 1 << from,
            Action::Crash { node } => {
                next.crashes += 1;
                self.crash(next, node);
            }
            Action::Die { node } => {
                next.deaths += 1;
                self.die(next, node);
            }
            Action::Flush { node } => {
                let node = &mut next.nodes[node];
                node.disk = node.own;
                if node.held == Held::Unflushed {
                    node.held = Held::Flushed;
                }
            }
        }
        if next.read.head > 0 && self.rules.read_by(next.read.layout, next.read.without) {
            next.stale = true;
        }
        for at in (0..NODES).chain(0..NODES) {
            self.say(next, at);
        }
        self.put_in_order(next);
    }
}

//! One key on two nodes (and, in one fault, a third that is a copy of the first), its clients, and a network that loses,
//! repeats and reorders: whatever was sent may arrive anywhere, at any time, any number of times, or never.
//!
//! The nodes run the real code. A node takes nothing for a key in the middle of its own commit for it. The clock stands still: a stamp is one more than what the coordinator knows of, so that
//! no help comes from time. A write counts as acknowledged once node 1, which never loses its disk, holds it.

use bytes::Bytes;
use quorate::causality::{
    Horizon, LastLife, Memory, MergeRules, Object, Payload, Start, Supersedes, VersionVector, Write, on_start,
    rollback_proof, write,
};
use quorate::types::{ActorId, Stamp, Wall};

use super::explore::{Model, Shared};

/// A rule taken out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bug {
    /// Every PUT is answered with the whole object's context.
    PutReturnsContext,
    /// A blind PUT supersedes values.
    BlindSupersedesValues,
    /// Only the new sibling travels, under a context that says "up to".
    OnlyTheSiblingTravels,
    /// I-MINT, holds: the local copy is misread as absent.
    Holds,
    /// I-MINT, has superseded: a key that reads as absent is taken for one never written.
    Superseded,
    /// I-MINT, collected by proof: the floor is not minted above.
    Collected,
    /// I-MINT, dropped past its horizon: a drop does not raise the floor.
    Dropped,
    /// The actor goes on after a stop that was not clean.
    Unclean,
    /// ... after a wipe.
    Wiped,
    /// ... after a restore.
    Restored,
    /// ... after proof by an incoming state.
    ProofByState,
    /// ... after proof by a client's context.
    ProofByContext,
    /// ... though a peer has seen a newer generation.
    NewerGeneration,
    /// ... though a peer has seen this generation with another boot nonce.
    OtherBoot,
}

/// What may go wrong with node 0, once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// It stops in the middle of a commit.
    Crash,
    /// Its directory is lost.
    Wipe,
    /// It is restored from a snapshot, by the book.
    Restore,
    /// Its directory is rolled back behind its back to a copy taken at a clean stop; node 1 is asked at the start.
    RollBack,
    /// The same, where only a peer that never met it answers, but what proves it comes before the next mint.
    UnnoticedRollBack,
    /// A copy of its directory, which lived once among strangers and minted nothing, starts as node 2.
    Copy,
}

/// Bounds, and what is taken out.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) bug: Option<Bug>,
    pub(crate) fault: Option<Fault>,
    pub(crate) clients: usize,
    pub(crate) writes: usize,
    pub(crate) verbs: &'static [Verb],
    /// Whether tombstones are collected, and expired objects dropped.
    pub(crate) collects: bool,
    /// What has happened already when the exploration begins.
    pub(crate) before: &'static [Action],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verb {
    Blind,
    /// With the client's context.
    Put,
    /// With the client's context.
    Delete,
    /// A blind PUT of a value that expires; the first write alone.
    Expiring,
}

#[derive(Clone, Hash)]
struct Node {
    object: Shared<Object>,
    /// Sent to the others, not committed yet.
    pending: Option<Shared<Object>>,
    actor: u64,
    floor: Stamp,
    generation: u64,
    boot: u64,
}

#[derive(Clone, Hash)]
struct Client {
    context: Shared<VersionVector>,
    /// The writes it was shown, and what those were shown.
    shown: u16,
}

#[derive(Clone, Hash)]
struct Written {
    /// The writes this one follows.
    past: u16,
    acknowledged: bool,
    /// It is a value that does not expire: one that could be missed.
    lasts: bool,
    state: Option<Shared<Object>>,
}

#[derive(Clone, Hash)]
pub(crate) struct State {
    nodes: Vec<Node>,
    clients: Vec<Client>,
    written: Vec<Written>,
    copy: Option<Node>,
    faulted: bool,
    /// Node 0 may not mint before proof of its rollback came.
    awaits_proof: bool,
    /// What node 1 has seen of node 0.
    memory: (u64, u64),
    fresh: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum Action {
    Get {
        client: usize,
        node: usize,
    },
    Write {
        client: usize,
        node: usize,
        verb: Verb,
    },
    Commit {
        node: usize,
    },
    Deliver {
        write: usize,
        node: usize,
    },
    Collect,
    Drop {
        node: usize,
    },
    /// Node 0 stops cleanly, its directory is copied, it starts again.
    CleanStop,
    Fault(Fault),
}

/// Whether a state that arrives would change anything.
fn news(at: &Node, sent: &Object) -> bool {
    !at.object.context().covers_all(sent.context()) || (*at.object).clone().merge(sent, &RULES()).changed
}

const RULES: fn() -> MergeRules = MergeRules::default;
const EXPIRES: Wall = Wall(10);

impl World {
    fn is(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn held(object: &Object) -> u16 {
        let payloads = object.siblings().iter().flat_map(|sibling| &sibling.payloads);
        // The write that stored a payload is told by its time: the model's own numbering.
        payloads.fold(0, |mask, payload| mask | 1 << payload.written_at.0)
    }

    fn shown_by(state: &State, object: &Object) -> u16 {
        let held = Self::held(object);
        let followed = state.written.iter().enumerate().filter(|(n, _)| held & 1 << n != 0);
        followed.fold(held, |mask, (_, written)| mask | written.past)
    }

    fn new_actor(state: &mut State, node: usize) {
        state.fresh += 1;
        state.nodes[node].actor = state.fresh;
    }

    /// What came in names a mint of this node that it does not know: proof of a rollback.
    fn heed(&self, state: &mut State, node: usize, incoming: &VersionVector, heeded: bool) {
        let at = &state.nodes[node];
        let local = at.pending.as_ref().unwrap_or(&at.object);
        if rollback_proof(local, at.floor, ActorId(at.actor), incoming).is_some() {
            state.awaits_proof &= node != 0;
            if heeded {
                Self::new_actor(state, node);
            }
        }
    }

    fn write(&self, state: &mut State, client: usize, node: usize, verb: Verb) {
        let number = state.written.len();
        let client_context = (*state.clients[client].context).clone();
        if matches!(verb, Verb::Put | Verb::Delete) {
            self.heed(state, node, &client_context, !self.is(Bug::ProofByContext));
        }
        let at = &state.nodes[node];
        let reads_as_absent = !at.object.is_live(Wall(0));
        let absent = self.is(Bug::Holds) || self.is(Bug::Superseded) && reads_as_absent;
        let base = if absent { Shared::new(Object::new()) } else { at.object.clone() };
        let (supersedes, past) = match verb {
            Verb::Put | Verb::Delete => (Supersedes::Covered(client_context), state.clients[client].shown),
            Verb::Blind | Verb::Expiring if self.is(Bug::BlindSupersedesValues) => (Supersedes::Seen, 0),
            Verb::Blind | Verb::Expiring => (Supersedes::Tombstones, 0),
        };
        let payload = Payload {
            value: (verb != Verb::Delete).then(Bytes::new),
            written_at: Wall(number as u64),
            expires_at: (verb == Verb::Expiring).then_some(EXPIRES),
            ..Payload::default()
        };
        let floor = if self.is(Bug::Collected) { Stamp::default() } else { at.floor };
        let actor = ActorId(at.actor);
        let request = Write { payload: payload.clone(), supersedes, request: None };
        let minted = write(&base, request, actor, Stamp::default(), floor, &RULES());
        let sent = if self.is(Bug::OnlyTheSiblingTravels) {
            let alone = Write { payload, supersedes: Supersedes::Seen, request: None };
            write(&Object::new(), alone, actor, minted.dot.stamp, floor, &RULES()).object
        } else {
            minted.object.clone()
        };
        let lasts = matches!(verb, Verb::Blind | Verb::Put);
        state.written.push(Written { past, acknowledged: false, lasts, state: Some(Shared::new(sent)) });
        if let Some(context) = minted.context(self.is(Bug::PutReturnsContext)) {
            state.clients[client] = Client { context: Shared::new(context.clone()), shown: past | 1 << number };
        }
        state.nodes[node].pending = Some(Shared::new(minted.object));
    }

    fn merge(state: &mut State, node: usize, incoming: &Object) {
        let at = &mut state.nodes[node];
        for held in at.pending.iter_mut().chain([&mut at.object]) {
            let mut merged = (**held).clone();
            if merged.merge(incoming, &RULES()).changed {
                *held = Shared::new(merged);
            }
        }
        if node == 1 {
            let held = Self::held(&state.nodes[1].object);
            let held = state.written.iter_mut().enumerate().filter(|(n, _)| held & 1 << n != 0);
            held.for_each(|(_, written)| written.acknowledged = true);
        }
    }

    /// A start of `node` from a directory with this last life.
    fn start_node(&self, state: &mut State, node: usize, last: LastLife, memory: Memory) {
        let named = Some((last.generation, last.boot));
        let shown = match memory.latest {
            // What contradicts is passed over, as if the last life were all there was.
            Some((generation, _)) if generation > last.generation && self.is(Bug::NewerGeneration) => named,
            Some((generation, boot))
                if generation == last.generation && boot != last.boot && self.is(Bug::OtherBoot) =>
            {
                named
            }
            seen => seen,
        };
        let ended_clean = last.ended_clean || self.is(Bug::Unclean);
        if on_start(LastLife { ended_clean, ..last }, &[Memory { latest: shown, ..memory }]) != Start::SameIncarnation {
            Self::new_actor(state, node);
        }
        state.fresh += 1;
        (state.nodes[node].generation, state.nodes[node].boot) = (last.generation + 1, state.fresh);
        if node == 0 && memory.latest.is_some() {
            state.memory = (state.nodes[0].generation, state.nodes[0].boot);
        }
    }

    fn fault(&self, state: &mut State, fault: Fault) {
        state.faulted = true;
        let knows = Memory { latest: Some(state.memory), alive: false };
        let life = |node: &Node, ended_clean| LastLife { ended_clean, generation: node.generation, boot: node.boot };
        match fault {
            Fault::Crash => {
                state.nodes[0].pending = None;
                self.start_node(state, 0, life(&state.nodes[0], false), knows);
            }
            Fault::Wipe => {
                let actor = state.nodes[0].actor;
                state.nodes[0] = Node {
                    pending: None,
                    object: Shared::new(Object::new()),
                    floor: Stamp::default(),
                    ..state.nodes[0].clone()
                };
                if !self.is(Bug::Wiped) {
                    Self::new_actor(state, 0);
                } else {
                    state.nodes[0].actor = actor;
                }
            }
            Fault::Restore | Fault::RollBack | Fault::UnnoticedRollBack => {
                let Some(copy) = state.copy.clone() else { return };
                state.nodes[0] = copy.clone();
                match fault {
                    Fault::Restore if !self.is(Bug::Restored) => Self::new_actor(state, 0),
                    Fault::RollBack => self.start_node(state, 0, life(&copy, true), knows),
                    Fault::UnnoticedRollBack => {
                        // The one peer that answers has met the life that was copied, and none of the later ones.
                        let latest = Some((copy.generation, copy.boot));
                        self.start_node(state, 0, life(&copy, true), Memory { latest, alive: false });
                        state.awaits_proof = true;
                    }
                    _ => {}
                }
            }
            Fault::Copy => {
                let Some(copy) = state.copy.clone() else { return };
                state.nodes.push(copy.clone());
                let lived_once = LastLife { ended_clean: true, generation: copy.generation + 1, boot: u64::MAX };
                self.start_node(state, 2, lived_once, knows);
            }
        }
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn start(&self) -> State {
        let node = |actor| Node {
            object: Shared::new(Object::new()),
            pending: None,
            actor,
            floor: Stamp::default(),
            generation: 1,
            boot: 1,
        };
        let start = State {
            nodes: vec![node(1), node(2)],
            clients: vec![Client { context: Shared::new(VersionVector::new()), shown: 0 }; self.clients],
            written: Vec::new(),
            copy: None,
            faulted: false,
            awaits_proof: false,
            memory: (1, 1),
            fresh: 2,
        };
        self.before.iter().fold(start, |state, action| self.step(&state, action))
    }

    fn actions(&self, state: &State) -> Vec<Action> {
        let mut actions = Vec::new();
        for (node, at) in state.nodes.iter().enumerate() {
            for client in 0..self.clients {
                actions.push(Action::Get { client, node });
                if at.pending.is_none() && state.written.len() < self.writes {
                    let verbs = self.verbs.iter().copied();
                    actions.extend(verbs.map(|verb| Action::Write { client, node, verb }).filter(|action| {
                        // Where proof is awaited, a context may itself be it.
                        let Action::Write { verb, .. } = action else { return false };
                        let proof =
                            rollback_proof(&at.object, at.floor, ActorId(at.actor), &state.clients[client].context);
                        let proves = proof.is_some() && matches!(verb, Verb::Put | Verb::Delete);
                        let first = *verb != Verb::Expiring || state.written.is_empty();
                        first && (node != 0 || !state.awaits_proof || proves)
                    }));
                }
            }
            if at.pending.is_some() {
                actions.push(Action::Commit { node });
            }
            let sent = state.written.iter().enumerate();
            let sent =
                sent.filter(|(_, w)| w.state.as_ref().is_some_and(|sent| at.pending.is_none() && news(at, sent)));
            actions.extend(sent.map(|(write, _)| Action::Deliver { write, node }));
            let horizon = at.object.horizon();
            if self.collects && at.pending.is_none() && !at.object.is_empty() && horizon != Horizon::INFINITE {
                actions.push(Action::Drop { node });
            }
        }
        let first = &state.nodes[0].object;
        let gone = first.siblings().iter().all(|sibling| sibling.is_tombstone()) && !first.is_empty();
        let settled = state.nodes.iter().all(|node| *node.object == **first && node.pending.is_none());
        if self.collects && gone && settled {
            actions.push(Action::Collect);
        }
        let idle = state.nodes[0].pending.is_none();
        match self.fault.filter(|_| !state.faulted) {
            Some(fault @ (Fault::Crash | Fault::Wipe)) => actions.push(Action::Fault(fault)),
            Some(fault) if state.copy.is_some() => actions.push(Action::Fault(fault)),
            Some(_) if idle => actions.push(Action::CleanStop),
            _ => {}
        }
        actions
    }

    fn step(&self, state: &State, action: &Action) -> State {
        let mut next = state.clone();
        match *action {
            Action::Get { client, node } => {
                let object = &state.nodes[node].object;
                next.clients[client] =
                    Client { context: Shared::new(object.context().clone()), shown: Self::shown_by(state, object) };
            }
            Action::Write { client, node, verb } => self.write(&mut next, client, node, verb),
            Action::Commit { node } => {
                if let Some(pending) = next.nodes[node].pending.take() {
                    Self::merge(&mut next, node, &pending);
                }
            }
            Action::Deliver { write, node } => {
                if let Some(object) = &state.written[write].state {
                    self.heed(&mut next, node, object.context(), !self.is(Bug::ProofByState));
                    Self::merge(&mut next, node, object);
                    next.written[write].acknowledged |= node == 1;
                }
            }
            Action::Collect => {
                for node in &mut next.nodes {
                    node.floor = node.floor.max(node.object.greatest_stamp().unwrap_or_default());
                    node.object = Shared::new(Object::new());
                }
                // Sealed: no state read under the epoch of before is taken any more.
                next.written.iter_mut().for_each(|written| written.state = None);
            }
            Action::Drop { node } => {
                let node = &mut next.nodes[node];
                if !self.is(Bug::Dropped) {
                    node.floor = node.floor.max(node.object.greatest_stamp().unwrap_or_default());
                }
                node.object = Shared::new(Object::new());
            }
            Action::CleanStop => {
                let node = state.nodes[0].clone();
                let last = LastLife { ended_clean: true, generation: node.generation, boot: node.boot };
                next.copy = Some(node);
                self.start_node(&mut next, 0, last, Memory { latest: Some(state.memory), alive: false });
            }
            Action::Fault(fault) => self.fault(&mut next, fault),
        }
        next
    }

    fn wrong(&self, state: &State) -> Option<String> {
        let mut all = Object::new();
        state.nodes.iter().for_each(|node| {
            all.merge(&node.object, &RULES());
        });
        let held = Self::held(&all);
        let followed = state.written.iter().fold(0, |mask, written| mask | written.past);
        let lost = state
            .written
            .iter()
            .enumerate()
            .find(|(n, written)| written.acknowledged && written.lasts && (held | followed) & 1 << n == 0);
        lost.map(|(n, _)| format!("write {n} was acknowledged, is gone, and no write that was shown it followed"))
    }
}

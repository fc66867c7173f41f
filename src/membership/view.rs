//! All that one node knows of all nodes, itself included.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::exchange::{Lack, pack};
use super::state::first_half;
use super::{Delta, Digest, GENERATION_MAX, KNOWN_MAX, Known, Life, Name, NodeDelta, Push, REMOVED_MAX, Scope, State};
use super::{Unset, next_generation};
use crate::types::{Mono, NodeId};

/// Most nodes in a view; of more only members are let in.
pub const NODES_MAX: usize = 4096;
/// A node outside the layout of which nobody has had a sign for this long is forgotten. One that waits to join sets
/// something anew a few times within it.
pub const FORGET_AFTER: Duration = Duration::from_secs(3600);

/// Sixteen bytes that stand for a whole view: what an exchange opens with, and all there is to it between equals.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ViewHash(pub [u8; 16]);

/// Something that its node should know of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// More is known of a node, or it is new.
    Changed(NodeId),
    /// A node was removed for good; it may be this one.
    Removed(NodeId),
    /// Others have heard more of this node than it has said in this life: its directory, or its memory, went back. To
    /// be heard again it flushes generation `raise_to`, then calls [`View::reborn`].
    Surpassed {
        /// What was heard of.
        heard: Life,
        /// Above it.
        raise_to: u64,
    },
    /// Two lives of one generation: two processes run, or ran, on copies of one directory. If the node is this one, it
    /// is surpassed as well.
    Twins {
        /// The node.
        node: NodeId,
        /// Both lives, the one that was known before first.
        lives: [Life; 2],
    },
    /// Somebody told what no owner says; it was left out.
    Malformed(NodeId),
}

/// A state, and how old the last sign of its owner is.
#[derive(Clone, Hash, Debug)]
struct Held {
    state: Arc<State>,
    /// Its part of the view's hash.
    fingerprint: u128,
    /// When it was heard, and how old it was then: a reading of a young process's clock may be less than an age.
    at: Mono,
    age: Duration,
}

impl Held {
    fn age(&self, now: Mono) -> Duration {
        self.age.saturating_add(now.since(self.at))
    }
}

/// What one node knows. See the [module](super) for the exchange.
#[derive(Clone, Hash, Debug)]
pub struct View {
    me: NodeId,
    states: BTreeMap<NodeId, Held>,
    removed: BTreeSet<NodeId>,
    /// The members of the live layouts, once known.
    members: Option<BTreeSet<NodeId>>,
    /// Sums of what stands for each state, and for each removed id.
    states_hash: u128,
    removed_hash: u128,
}

impl View {
    /// The view of a node that has just begun `life`, and knows of nobody.
    #[must_use]
    pub fn new(me: NodeId, life: Life, now: Mono) -> Self {
        let state = State::new(life);
        let (states, removed) = (BTreeMap::new(), BTreeSet::new());
        let mut view = Self { me, states, removed, members: None, states_hash: 0, removed_hash: 0 };
        view.put(me, state, now, Duration::ZERO);
        view
    }

    /// Whose view it is.
    #[must_use]
    pub const fn me(&self) -> NodeId {
        self.me
    }

    /// What is known of a node.
    #[must_use]
    pub fn get(&self, node: NodeId) -> Option<&State> {
        self.states.get(&node).map(|held| &*held.state)
    }

    /// All nodes known of, and what is known.
    pub fn states(&self) -> impl ExactSizeIterator<Item = (NodeId, &State)> {
        self.states.iter().map(|(node, held)| (*node, &*held.state))
    }

    /// Whether a node was removed for good.
    #[must_use]
    pub fn is_removed(&self, node: NodeId) -> bool {
        self.removed.contains(&node)
    }

    /// The ids that are refused.
    pub fn removed(&self) -> impl ExactSizeIterator<Item = NodeId> {
        self.removed.iter().copied()
    }

    /// Stands for the whole view: equal where all is equal.
    #[must_use]
    pub const fn hash(&self) -> ViewHash {
        ViewHash(self.states_hash.wrapping_add(self.removed_hash).to_be_bytes())
    }

    /// This node's life.
    #[must_use]
    pub fn life(&self) -> Life {
        self.get(self.me).map(State::life).unwrap_or_default()
    }

    /// Says something of this node. False if it was said already.
    pub fn set(&mut self, name: Name, value: Bytes) -> Result<bool, Unset> {
        let Some(mut state) = self.get(self.me).cloned() else { return Ok(false) };
        let changed = state.set(name, value)?;
        if changed {
            self.put(self.me, state, Mono::default(), Duration::ZERO);
        }
        Ok(changed)
    }

    /// Goes on as a later life, saying what was said: after [`Event::Surpassed`], and only once the generation is
    /// flushed. One that is used and then forgotten in a crash would be used again, and look like a copied directory.
    pub fn reborn(&mut self, generation: u64) {
        let life = Life { generation, ..self.life() };
        if let Some(mut state) = self.get(self.me).cloned().filter(|state| state.life() < life) {
            state.reborn(life);
            self.put(self.me, state, Mono::default(), Duration::ZERO);
        }
    }

    /// Who the members of the live layouts are. All others are forgotten when there has been no sign of them for
    /// [`FORGET_AFTER`]; gives who was. To be said again every minute or so: who is too old is told to nobody any more,
    /// but counts in the hash until then.
    pub fn keep(&mut self, members: BTreeSet<NodeId>, now: Mono) -> Vec<NodeId> {
        self.members = Some(members);
        let old: Vec<NodeId> =
            self.states.iter().filter(|(n, held)| self.is_old(**n, held.age(now))).map(|(n, _)| *n).collect();
        old.iter().for_each(|node| self.drop(*node));
        old
    }

    /// Refuses a node for good: it left the layout. False if it was refused already.
    pub fn remove(&mut self, node: NodeId) -> bool {
        if !self.removed.insert(node) {
            return false;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"removed").update(node.as_bytes());
        self.removed_hash = self.removed_hash.wrapping_add(first_half(&hasher));
        if node != self.me {
            self.drop(node);
        }
        true
    }

    // -- The exchange -------------------------------------------------------------------------------------------------

    /// Somebody opens an exchange with the hash of its view. None: the same as this one. `roll` is any random number.
    #[must_use]
    pub fn answer_hash(&self, hash: ViewHash, roll: u64, now: Mono) -> Option<Digest> {
        (hash != self.hash()).then(|| self.digest(roll, now))
    }

    /// How far this view goes.
    #[must_use]
    pub fn digest(&self, roll: u64, now: Mono) -> Digest {
        let told = self.states.iter().filter(|(node, held)| !self.is_old(**node, held.age(now)));
        let mut known: Vec<Known> = told.map(|(node, held)| Known::of(*node, &held.state)).collect();
        let mut scope = Scope::All;
        if known.len() > KNOWN_MAX {
            let at = roll % known.len() as u64;
            known.rotate_left(usize::try_from(at).unwrap_or(0));
            known.truncate(KNOWN_MAX);
            scope = Scope::Arc(known[0].node, known[KNOWN_MAX - 1].node);
        }
        Digest { scope, known, removed: self.removed_hash }
    }

    /// Somebody says how far its view goes: what it lacks, and what it can tell this node.
    #[must_use]
    pub fn answer_digest(&self, digest: &Digest, roll: u64, now: Mono) -> (Push, Vec<Event>) {
        let mut theirs: Vec<Known> = digest.known.iter().take(KNOWN_MAX).copied().collect();
        theirs.sort_unstable();
        let (mut lacks, mut wants, mut events) = (Vec::new(), Vec::new(), Vec::new());
        let mut mine = self.states.iter().peekable();
        for known in theirs {
            while let Some((node, held)) = mine.next_if(|(node, _)| **node < known.node) {
                lacks.extend(self.lack(*node, held, Known::nothing(*node), now).filter(|_| digest.scope.has(*node)));
            }
            let held = mine.next_if(|(node, _)| **node == known.node).map(|(_, held)| held);
            if known.node == self.me {
                events.extend(self.heard_of_me(known.life, known.version));
            }
            let reach = held.map_or(Known::nothing(known.node), |held| Known::of(known.node, &held.state));
            if let Some(held) = held.filter(|_| reach.reach() > known.reach()) {
                lacks.extend(self.lack(known.node, held, known, now));
            } else if reach.reach() < known.reach() && known.node != self.me && !self.is_removed(known.node) {
                wants.push(reach);
            }
        }
        for (node, held) in mine {
            lacks.extend(self.lack(*node, held, Known::nothing(*node), now).filter(|_| digest.scope.has(*node)));
        }
        let delta = pack(lacks, self.removed_for(digest.removed, roll), roll);
        (Push { delta, wants, removed: self.removed_hash }, events)
    }

    /// Somebody tells what this node lacked, and asks for what it lacks itself.
    #[must_use]
    pub fn answer_push(&mut self, push: &Push, roll: u64, now: Mono) -> (Delta, Vec<Event>) {
        let events = self.apply(&push.delta, now);
        let wants = push.wants.iter().take(KNOWN_MAX);
        let held = wants.filter_map(|known| self.states.get(&known.node).map(|held| (known, held)));
        let ahead = held.filter(|(known, held)| Known::of(known.node, &held.state).reach() > known.reach());
        let lacks = ahead.filter_map(|(known, held)| self.lack(known.node, held, *known, now)).collect();
        (pack(lacks, self.removed_for(push.removed, roll), roll), events)
    }

    /// Takes what this node lacked.
    pub fn apply(&mut self, delta: &Delta, now: Mono) -> Vec<Event> {
        let removed = delta.removed.iter().filter(|node| self.remove(**node)).map(|node| Event::Removed(*node));
        let mut events: Vec<Event> = removed.collect();
        for node in &delta.nodes {
            self.apply_node(node, now, &mut events);
        }
        events
    }

    fn apply_node(&mut self, delta: &NodeDelta, now: Mono, events: &mut Vec<Event>) {
        let (node, life) = (delta.node, delta.life);
        let known = self.get(node).map(|state| (state.life(), state.version()));
        if node == self.me {
            let version = delta.entries.last().map_or(delta.base, |entry| entry.version);
            events.extend(self.heard_of_me(life, version));
            return;
        }
        if life.generation >= GENERATION_MAX {
            events.push(Event::Malformed(node));
            return;
        }
        let full = self.states.len() >= NODES_MAX && known.is_none() && !self.is_member(node);
        if self.is_removed(node) || self.is_old(node, delta.age) || full {
            return;
        }
        if let Some((before, _)) = known
            && before.generation == life.generation
            && before.boot != life.boot
        {
            events.push(Event::Twins { node, lives: [before, life] });
        }
        // What follows on something that is not here would leave a gap: it comes again, from where this view ends.
        let state = match known {
            Some((before, version)) if before == life => (delta.base <= version).then(|| self.get(node).cloned()),
            Some((before, _)) if before > life => None,
            _ => (delta.base == 0).then(|| Some(State::new(life))),
        };
        let Some(mut state) = state.flatten() else { return };
        if !state.take(&delta.entries) {
            events.push(Event::Malformed(node));
        } else if known != Some((life, state.version())) {
            self.put(node, state, now, delta.age);
            events.push(Event::Changed(node));
        }
    }

    fn heard_of_me(&self, heard: Life, version: u64) -> Vec<Event> {
        let mine = self.life();
        let mut events = Vec::new();
        if heard.generation >= GENERATION_MAX {
            return vec![Event::Malformed(self.me)];
        }
        let twin = heard.generation == mine.generation && heard.boot != mine.boot;
        if twin {
            events.push(Event::Twins { node: self.me, lives: [mine, heard] });
        }
        let said = self.get(self.me).map_or(0, State::version);
        if twin || (heard, version) > (mine, said) {
            let raise_to = next_generation(mine.generation, Some(heard.generation));
            events.push(Event::Surpassed { heard, raise_to });
        }
        events
    }

    fn lack<'a>(&self, node: NodeId, held: &'a Held, known: Known, now: Mono) -> Option<Lack<'a>> {
        let age = if node == self.me { Duration::ZERO } else { held.age(now) };
        let base = if known.life == held.state.life() { known.version } else { 0 };
        (!self.is_old(node, age)).then_some(Lack { node, state: &held.state, base, age })
    }

    /// The removed ids, or as many as there is room for, if the other side's set is another one.
    fn removed_for(&self, theirs: u128, roll: u64) -> Vec<NodeId> {
        if theirs == self.removed_hash {
            return Vec::new();
        }
        let from = usize::try_from(roll % (self.removed.len() as u64).max(1)).unwrap_or(0);
        self.removed.iter().cycle().skip(from).take(self.removed.len().min(REMOVED_MAX)).copied().collect()
    }

    fn is_member(&self, node: NodeId) -> bool {
        node == self.me || self.members.as_ref().is_some_and(|members| members.contains(&node))
    }

    /// Whether a node of this age is forgotten. While the layout is not known nobody is.
    fn is_old(&self, node: NodeId, age: Duration) -> bool {
        age >= FORGET_AFTER && self.members.is_some() && !self.is_member(node)
    }

    /// The same view in another node's eyes.
    #[cfg(test)]
    pub(super) fn seen_by(&self, me: NodeId) -> Self {
        Self { me, ..self.clone() }
    }

    fn put(&mut self, node: NodeId, state: State, at: Mono, age: Duration) {
        self.drop(node);
        let fingerprint = state.fingerprint(node);
        self.states_hash = self.states_hash.wrapping_add(fingerprint);
        self.states.insert(node, Held { state: Arc::new(state), fingerprint, at, age });
    }

    fn drop(&mut self, node: NodeId) {
        if let Some(held) = self.states.remove(&node) {
            self.states_hash = self.states_hash.wrapping_sub(held.fingerprint);
        }
    }
}

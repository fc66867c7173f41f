//! Any order of messages, lost and repeated ones, restarts, restored directories, removals: what a view holds of a node
//! is what that node said, it never goes back, and in the end all views are one.

use std::collections::BTreeMap;

use proptest::collection::vec;

use super::*;

const NAMES: [&str; 4] = ["address", "load", "layout", "large"];

#[derive(Clone, Debug)]
enum Message {
    Hash(ViewHash),
    Digest(Digest),
    Push(Push),
    Delta(Delta),
}

/// What a node said in one life: version, name, value.
type Said = Vec<(u64, Name, Bytes)>;

struct World {
    views: Vec<View>,
    /// What the directories hold: the generation, as of now and as of a copy made at some time.
    persisted: Vec<(u64, u64)>,
    restored: Vec<bool>,
    removed: Vec<bool>,
    history: BTreeMap<(NodeId, Life), Said>,
    network: Vec<(usize, usize, Message)>,
    boots: u64,
    now: Mono,
}

impl World {
    fn new(nodes: usize) -> Self {
        let mut world = Self {
            views: (0..nodes).map(view).collect(),
            persisted: vec![(0, 0); nodes],
            restored: vec![false; nodes],
            removed: vec![false; nodes],
            history: BTreeMap::new(),
            network: Vec::new(),
            boots: 100,
            now: Mono(0),
        };
        (0..nodes).for_each(|n| world.start(n));
        world
    }

    /// A node starts: counts its start, then says where it is.
    fn start(&mut self, n: usize) {
        self.persisted[n].0 = next_generation(self.persisted[n].0, None);
        self.boots += 1;
        // Who was removed is in the layout chain, which is flushed.
        let removed: Vec<NodeId> = self.views[n].removed().collect();
        self.views[n] = View::new(node(n), life(self.persisted[n].0, self.boots), self.now);
        removed.into_iter().for_each(|id| assert!(self.views[n].remove(id)));
        self.say(n, 0, 1);
    }

    fn say(&mut self, n: usize, what: usize, number: u8) {
        let what = what % NAMES.len();
        let size = if what == 3 { VALUE_MAX - 1 - usize::from(number) } else { 1 };
        let bytes = Bytes::from(vec![number; size]);
        if self.views[n].set(name(NAMES[what]), bytes).unwrap() {
            self.record(n);
        }
    }

    /// Remembers what a node says now, besides what it said before.
    fn record(&mut self, n: usize) {
        let state = self.views[n].get(node(n)).unwrap();
        let said = self.history.entry((node(n), state.life())).or_default();
        let news = state.entries().iter().map(|entry| (entry.version, entry.name.clone(), entry.value.clone()));
        said.extend(news.filter(|(version, ..)| said.last().is_none_or(|last| *version > last.0)).collect::<Said>());
    }

    fn told(&mut self, n: usize, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Surpassed { raise_to, .. } => {
                    assert!(self.restored[n], "{n} was surpassed, and its directory never went back");
                    self.persisted[n].0 = raise_to.max(self.persisted[n].0);
                    self.views[n].reborn(self.persisted[n].0);
                    self.record(n);
                }
                Event::Twins { node: twin, lives } => {
                    let which = (0..self.views.len()).find(|n| node(*n) == twin).unwrap();
                    assert!(self.restored[which], "{lives:?} of {which}, and its directory never went back");
                }
                Event::Malformed(of) => panic!("{n} was told of {of} what it never said"),
                Event::Changed(_) | Event::Removed(_) => {}
            }
        }
    }

    fn deliver(&mut self, from: usize, to: usize, message: Message, roll: u64) {
        let own = self.views[to].get(node(to)).cloned();
        let (answer, events) = match message {
            Message::Hash(hash) => (self.views[to].answer_hash(hash, roll, self.now).map(Message::Digest), Vec::new()),
            Message::Digest(digest) => {
                let (push, events) = self.views[to].answer_digest(&digest, roll, self.now);
                (Some(Message::Push(push)), events)
            }
            Message::Push(push) => {
                assert!(push.delta.weight() <= DELTA_MAX);
                let (delta, events) = self.views[to].answer_push(&push, roll, self.now);
                (Some(Message::Delta(delta)), events)
            }
            Message::Delta(delta) => {
                assert!(delta.weight() <= DELTA_MAX);
                (None, self.views[to].apply(&delta, self.now))
            }
        };
        assert_eq!(self.views[to].get(node(to)), own.as_ref(), "nobody tells a node what it says");
        self.network.extend(answer.map(|answer| (to, from, answer)));
        self.told(to, events);
        self.check(to);
    }

    fn step(&mut self, what: u8, which: prop::sample::Index, roll: u64) {
        let n = which.index(self.views.len());
        match what % 64 {
            0 => self.start(n),
            1 => self.persisted[n].1 = self.persisted[n].0,
            2 => {
                (self.persisted[n].0, self.restored[n]) = (self.persisted[n].1, true);
                self.start(n);
            }
            3 => {
                let by = usize::try_from(roll % self.views.len() as u64).unwrap();
                let _ = self.views[by].remove(node(n));
                self.removed[n] = true;
            }
            4..=15 => self.say(n, usize::from(what), roll.to_le_bytes()[0]),
            16..=27 => {
                let to = usize::try_from(roll % self.views.len() as u64).unwrap();
                let hash = self.views[n].hash();
                self.network.push((n, to, Message::Hash(hash)));
            }
            fate if !self.network.is_empty() => {
                let at = which.index(self.network.len());
                let (from, to, message) = self.network[at].clone();
                if fate % 4 != 0 {
                    self.network.swap_remove(at);
                }
                if fate % 8 != 1 {
                    self.deliver(from, to, message, roll);
                }
            }
            _ => {}
        }
    }

    /// What every view knows of every node: the greatest life and version, by view.
    fn reach(&self) -> Vec<BTreeMap<NodeId, (Life, u64)>> {
        let reach = |view: &View| view.states().map(|(n, state)| (n, (state.life(), state.version()))).collect();
        self.views.iter().map(reach).collect()
    }

    /// What a view holds of a node is what that node said.
    fn check(&self, n: usize) {
        let view = &self.views[n];
        for (of, state) in view.states() {
            assert!(of == view.me() || !view.is_removed(of), "a removed node is back");
            let said = self.history.get(&(of, state.life())).unwrap();
            for known in NAMES.map(name) {
                let upto: Vec<_> = said.iter().filter(|(v, n, _)| *v <= state.version() && *n == known).collect();
                let later = said.iter().any(|(v, n, _)| *v > state.version() && *n == known);
                let held = state.get(&known);
                if later {
                    // Superseded before it was passed on, perhaps: then an older value, or none, stands here still.
                    assert!(held.is_none_or(|held| upto.iter().any(|(.., value)| value == held)));
                } else {
                    assert_eq!(held, upto.last().map(|(.., value)| value), "{known:?} of {of} with {}", view.me());
                }
            }
        }
    }

    /// All exchange with all, nothing lost, until nothing changes any more.
    fn calm(&mut self) {
        self.network.clear();
        for round in 0..60 {
            let stay: Vec<&View> = self.views.iter().filter(|view| !view.is_removed(view.me())).collect();
            let told =
                self.removed.iter().zip(&self.views).all(|(removed, view)| *removed == view.is_removed(view.me()));
            if told && stay.windows(2).all(|pair| pair[0].hash() == pair[1].hash()) {
                return;
            }
            let nodes = self.views.len();
            for (a, b) in (0..nodes * nodes).map(|pair| (pair / nodes, pair % nodes)).filter(|(a, b)| a != b) {
                self.network.push((a, b, Message::Hash(self.views[a].hash())));
                while let Some((from, to, message)) = self.network.pop() {
                    self.deliver(from, to, message, round);
                }
            }
        }
        panic!("sixty rounds, and no end");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn views_hold_what_was_said_never_go_back_and_become_one(
        nodes in 2usize..6, steps in vec((any::<u8>(), any::<prop::sample::Index>(), any::<u64>()), 0..200),
    ) {
        let mut world = World::new(nodes);
        let mut starts: Vec<Life> = world.views.iter().map(View::life).collect();
        for (what, which, roll) in steps {
            let before = world.reach();
            world.step(what, which, roll);
            for (n, (was, is)) in before.iter().zip(world.reach()).enumerate() {
                // A process that started again has forgotten all, as it may.
                if world.views[n].life().boot == starts[n].boot {
                    let mut known = was.iter().filter(|(of, _)| !world.views[n].is_removed(**of));
                    let back = known.find(|(of, reach)| is.get(*of).is_none_or(|now| now < *reach));
                    prop_assert!(back.is_none(), "{back:?} went back with {n}");
                }
                starts[n] = world.views[n].life();
            }
        }
        world.calm();
        for view in world.views.iter().filter(|view| !view.is_removed(view.me())) {
            for n in (0..nodes).filter(|n| !world.removed[*n]) {
                prop_assert_eq!(view.get(node(n)), world.views[n].get(node(n)), "what it says itself, whole");
            }
        }
    }
}

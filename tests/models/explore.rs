//! Breadth first through all states of a model, so that what is found is found by a shortest way.

use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// States, what can happen in them, and what must never be.
pub(crate) trait Model {
    type State: Clone + Hash;
    type Action: Clone + Debug;
    fn start(&self) -> Self::State;
    fn actions(&self, state: &Self::State) -> Vec<Self::Action>;
    fn step(&self, state: &Self::State, action: &Self::Action) -> Self::State;
    /// What is wrong with a state.
    fn wrong(&self, state: &Self::State) -> Option<String>;
    /// More states than this are a mistake in the model's bounds.
    fn most(&self) -> usize {
        150_000
    }
    /// Whether they are where the exploration ends instead, for models too large to be seen whole.
    fn may_stop_there(&self) -> bool {
        false
    }
}

struct Explored {
    states: usize,
    /// Whether no state is left to be seen.
    all: bool,
    found: Option<String>,
}

fn explore<M: Model>(model: &M) -> Explored {
    let most = model.most();
    let mut seen = Seen::new();
    // How each state was reached: from which other, by what.
    let mut ways: Vec<(usize, Option<M::Action>)> = vec![(0, None)];
    let mut frontier = vec![(0, model.start())];
    seen.insert(name_of(&frontier[0].1));
    while !frontier.is_empty() {
        for (at, state) in std::mem::take(&mut frontier) {
            if let Some(what) = model.wrong(&state) {
                return Explored { states: ways.len(), all: false, found: Some(format!("{what}{}", trace(&ways, at))) };
            }
            for action in model.actions(&state) {
                let next = model.step(&state, &action);
                if seen.insert(name_of(&next)) {
                    if ways.len() >= most && model.may_stop_there() {
                        return Explored { states: ways.len(), all: false, found: None };
                    }
                    assert!(ways.len() < most, "more than {most} states");
                    ways.push((at, Some(action)));
                    frontier.push((ways.len() - 1, next));
                }
            }
        }
    }
    Explored { states: ways.len(), all: true, found: None }
}

/// The names of states seen: a table of its own, because some models have tens of millions.
struct Seen {
    /// 0: free.
    table: Vec<u64>,
    count: usize,
}

impl Seen {
    fn new() -> Self {
        Self { table: vec![0; 1 << 12], count: 0 }
    }

    /// Whether it was not there yet.
    fn insert(&mut self, name: u64) -> bool {
        if 2 * self.count > self.table.len() {
            let larger = vec![0; 2 * self.table.len()];
            let before = std::mem::replace(&mut self.table, larger);
            before.into_iter().filter(|name| *name != 0).for_each(|name| self.put(name));
        }
        let name = name.max(1);
        if self.table[self.place(name)] == name {
            return false;
        }
        self.put(name);
        self.count += 1;
        true
    }

    fn put(&mut self, name: u64) {
        let place = self.place(name);
        self.table[place] = name;
    }

    /// Where `name` is, or would go.
    fn place(&self, name: u64) -> usize {
        let mask = self.table.len() - 1;
        let mut at = name as usize & mask;
        while self.table[at] != 0 && self.table[at] != name {
            at = (at + 1) & mask;
        }
        at
    }
}

/// 64 bits that stand for a state: among ten million states the chance that any two share one is below one in 300,000.
pub(crate) fn name_of(state: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

/// A value that is cheap to copy and to name, for what a state has much of.
pub(crate) struct Shared<T>(Arc<(u64, T)>);

impl<T: Hash> Shared<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new((name_of(&value), value)))
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.0);
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0.1
    }
}

fn trace<A: Debug>(ways: &[(usize, Option<A>)], mut at: usize) -> String {
    let mut steps = Vec::new();
    while let (before, Some(action)) = &ways[at] {
        steps.push(format!("{action:?}"));
        at = *before;
    }
    steps.iter().rev().enumerate().map(|(n, step)| format!("\n  {}. {step}", n + 1)).collect()
}

/// The rules as they are: nothing may be found.
pub(crate) fn clean<M: Model>(name: &str, model: &M) -> usize {
    let explored = explore(model);
    let which = if explored.all { "all" } else { "the first" };
    println!("{name}: {which} {} states, nothing lost", explored.states);
    assert_eq!(explored.found, None, "{name}");
    explored.states
}

/// A rule taken out: it must be found.
pub(crate) fn finds<M: Model>(name: &str, model: &M) {
    let explored = explore(model);
    println!("{name}: found after {} states: {}", explored.states, explored.found.as_deref().unwrap_or("nothing"));
    assert!(explored.found.is_some(), "{name}: the planted bug was not found in {} states", explored.states);
}

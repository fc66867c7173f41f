//! What the clients do: plans as data, and a runner that carries them out against any [`Kv`] and writes the history.
//!
//! [`Plan::generate`] is a pure function of seed and options. The runner knows nothing of simulation: nodes are handed
//! in as trait objects, time as a clock, so the same plans run on real clusters. It never retries: an unknown outcome
//! stays one operation.
//!
//! Objects by kind, so that each check sees its case: `blind-*` (unique elements by blind PUTs: siblings pile up),
//! `set-*` (GET-union-PUT: a sorted list of elements), `hot` (read-modify-write and writes on whatever context the
//! client holds, all on one key), `gone-*` (the same, and deletes with context). Where a run has a bucket in mode `lww`,
//! `latest-*` is in that one: written blind and on contexts, never deleted, for a tombstone that won is nothing that a
//! read shows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::history::{Answered, Event, Invoke, Line, Recorder, Shown, Verb};
use crate::causality::VersionVector;
use crate::env::{Clock, Entropy};
use crate::kv::{ContextToken, Error, FloorToken, Kv, Outcome, ReadAnswer, ReadOptions, WriteAnswer, WriteOptions};
use crate::kv::{SiblingView, Value};
use crate::quorum::Level;
use crate::types::{Bucket, Key, ObjectId};

/// What keys begin with that are in the bucket of [`Runner::latest`].
const LATEST: &str = "latest-";

/// How much the clients do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Number of clients.
    pub clients: u32,
    /// Number of nodes they choose from, at random for each step.
    pub nodes: u32,
    /// Steps of each client.
    pub steps: u32,
    /// N.
    pub n: u8,
    /// Only pairs of levels with R + W > N.
    pub strict: bool,
    /// Every read and every write asks for one replica.
    pub one: bool,
    /// Least W: 2 where one replica may forget what it acknowledged.
    pub least_w: u8,
    /// Least R: 2 where one replica's own copy may be no vote.
    pub least_r: u8,
    /// Whether there are keys in the bucket of [`Runner::latest`].
    pub latest: bool,
    /// Mean time between two steps of a client.
    pub think: Duration,
}

/// What a step does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Action {
    /// Read.
    Read,
    /// PUT without a context.
    Blind,
    /// GET, then PUT of the union of all elements shown and a new one.
    Union,
    /// GET, then PUT of a new value with the context shown.
    Modify,
    /// PUT with the context that the client holds, from whatever answer gave it one; without one, blind.
    Again,
    /// GET, then DELETE with the context shown.
    Delete,
}

/// One step of one client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// How long the client waits before.
    pub think: Duration,
    /// Which node it asks.
    pub node: u32,
    /// Which key.
    pub key: String,
    /// What it does.
    pub action: Action,
    /// The new element: unique in the plan.
    pub element: String,
    /// R.
    pub r: u8,
    /// W.
    pub w: u8,
}

/// All steps, by client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The steps of each client, in order.
    pub clients: Vec<Vec<Step>>,
}

impl Plan {
    /// The plan of a seed. The same arguments give the same plan.
    #[must_use]
    pub fn generate(seed: u64, options: &Options) -> Self {
        let entropy = Entropy::seeded(seed);
        let client = |client| (0..options.steps).map(|number| step(&entropy, options, client, number)).collect();
        Self { clients: (0..options.clients).map(client).collect() }
    }
}

fn step(entropy: &Entropy, options: &Options, client: u32, number: u32) -> Step {
    let total = u64::from(options.clients) * u64::from(options.steps);
    // A blind write adds a sibling, and an object holds a bounded number of them: some ten a key.
    let blind = format!("blind-{}", entropy.below(1 + total / 30));
    let (set, gone) = (format!("set-{}", entropy.below(3)), format!("gone-{}", entropy.below(4)));
    let latest = || format!("{LATEST}{}", entropy.below(4));
    let (key, action) = match entropy.below(if options.latest { 15 } else { 12 }) {
        0 | 1 => (blind, Action::Blind),
        2 => (blind, Action::Read),
        3 | 4 => (set, Action::Union),
        5 => (set, Action::Read),
        6 => ("hot".to_owned(), Action::Modify),
        7 => ("hot".to_owned(), Action::Again),
        8 => (gone, Action::Modify),
        9 => (gone, Action::Again),
        10 => (gone, Action::Delete),
        11 => (gone, Action::Read),
        12 => (latest(), Action::Blind),
        13 => (latest(), Action::Modify),
        _ => (latest(), Action::Read),
    };
    let n = u64::from(options.n);
    let least_w = u64::from(options.least_w).clamp(1, n);
    let w = least_w + entropy.below(n + 1 - least_w);
    let least = if options.strict { n + 1 - w } else { 1 }.max(u64::from(options.least_r)).clamp(1, n);
    let r = least + entropy.below(n + 1 - least);
    let (w, r) = if entropy.chance(0.6) { (n / 2 + 1, n / 2 + 1) } else { (w, r) };
    let (w, r) = if options.one { (1, 1) } else { (w, r) };
    Step {
        think: Duration::from_micros(entropy.below(1 + 2 * options.think.as_micros() as u64)),
        node: entropy.below(u64::from(options.nodes)) as u32,
        key,
        action,
        element: format!("e{client}.{number}"),
        r: r as u8,
        w: w as u8,
    }
}

/// Reads the tokens that are opaque to clients: for whoever holds the cluster's keys.
pub trait Decode: Send + Sync {
    /// The vector in a context; none if it is damaged.
    fn context(&self, id: &ObjectId, token: &ContextToken) -> Option<VersionVector>;
    /// The vector in a floor; none if it is damaged.
    fn floor(&self, id: &ObjectId, token: &FloorToken) -> Option<VersionVector>;
}

/// The node with this number, as it is now; none while nobody is there.
pub type Nodes = Arc<dyn Fn(u32) -> Option<Arc<dyn Kv>> + Send + Sync>;

/// Carries plans out and records what happens.
#[derive(Clone)]
pub struct Runner {
    /// The cluster.
    pub nodes: Nodes,
    /// Reads its tokens.
    pub decode: Arc<dyn Decode>,
    /// The recorder's clock.
    pub clock: Arc<dyn Clock>,
    /// Takes the history.
    pub recorder: Arc<Recorder>,
    /// The bucket all of it is in, but what is in `latest`.
    pub bucket: Bucket,
    /// A bucket in mode `lww`, where there is one.
    pub latest: Option<Bucket>,
    /// Whether 1, 2 and 3 replicas are asked for as `one`, `quorum` and `all`: where N changes, or is not 3 everywhere, it
    /// is those that overlap as the numbers do where it is 3.
    pub words: bool,
    /// Whether fallbacks count; where one replica is asked for, their hints alone are enough.
    pub sloppy: bool,
    /// Whether each client sends with every operation the floor of its last answer about the object.
    pub sessions: bool,
    /// Each operation's deadline; the client itself gives up after twice this.
    pub timeout: Duration,
}

/// The context a client holds for a key.
type Held = (ContextToken, Option<VersionVector>);

/// What a client remembers, by key.
#[derive(Default)]
struct Memory {
    held: BTreeMap<String, Held>,
    floors: BTreeMap<String, FloorToken>,
}

impl Runner {
    /// Carries out one client's steps, one after the other.
    pub async fn client(&self, client: u32, steps: &[Step]) {
        let mut memory = Memory::default();
        for step in steps {
            self.clock.sleep(step.think).await;
            match step.action {
                Action::Read => drop(self.read(client, step, &mut memory).await),
                Action::Blind => self.write(client, step, Some(step.element.clone()), None, &mut memory).await,
                Action::Again => {
                    let context = memory.held.get(&step.key).cloned();
                    self.write(client, step, Some(step.element.clone()), context, &mut memory).await;
                }
                Action::Union | Action::Modify | Action::Delete => {
                    let Some(answer) = self.read(client, step, &mut memory).await else { continue };
                    let value = match step.action {
                        Action::Union => Some(union(&answer, &step.element)),
                        Action::Delete => None,
                        _ => Some(step.element.clone()),
                    };
                    self.write(client, step, value, memory.held.get(&step.key).cloned(), &mut memory).await;
                }
            }
        }
    }

    /// So many of three owners' worth of consistency, as a level.
    fn level(&self, count: u8) -> Level {
        match count {
            1 if self.words => Level::One,
            2 if self.words => Level::Quorum,
            3 if self.words => Level::All,
            count => Level::Count(count),
        }
    }

    /// The object of a key.
    #[must_use]
    pub fn id(&self, key: &str) -> ObjectId {
        ObjectId::new(self.bucket_of(key).clone(), Key::new(key.to_owned()).expect("plans have short keys"))
    }

    fn bucket_of(&self, key: &str) -> &Bucket {
        self.latest.as_ref().filter(|_| key.starts_with(LATEST)).unwrap_or(&self.bucket)
    }

    /// The keys of the history so far.
    #[must_use]
    pub fn keys(&self) -> BTreeSet<String> {
        let key = |line: Line| if let Event::Invoke(invoke) = line.event { Some(invoke.key) } else { None };
        self.recorder.lines().into_iter().filter_map(key).collect()
    }

    /// Reads every object of the history through each of `nodes` at R = all there is: the reads that `lost` judges.
    pub async fn last_reads(&self, client: u32, nodes: &[u32], all: impl Fn(&str) -> u8) {
        for key in self.keys() {
            for &node in nodes {
                let step = Step {
                    think: Duration::ZERO,
                    node,
                    key: key.clone(),
                    action: Action::Read,
                    element: String::new(),
                    r: all(&key),
                    w: 0,
                };
                self.get(client, &step, true, &mut Memory::default()).await;
            }
        }
    }

    async fn read(&self, client: u32, step: &Step, memory: &mut Memory) -> Option<ReadAnswer> {
        self.get(client, step, false, memory).await
    }

    async fn get(&self, client: u32, step: &Step, last: bool, memory: &mut Memory) -> Option<ReadAnswer> {
        let id = self.id(&step.key);
        let invoke = Invoke { level: step.r, last, ..self.invoke(client, step, Verb::Get) };
        let op = self.recorder.invoke(self.now(), invoke);
        // The owners were counted for the last ones.
        let r = if last { Level::Count(step.r) } else { self.level(step.r) };
        let floor = memory.floors.get(&step.key).filter(|_| self.sessions).cloned();
        // The last ones are to find it where it belongs.
        let options =
            ReadOptions { r, timeout: self.timeout, sloppy: self.sloppy && !last, floor, ..ReadOptions::default() };
        let asked = id.clone();
        let result = self.ask(step.node, |kv| async move { kv.get(asked, options).await }).await;
        match result {
            Ok(answer) => {
                let context = self.decode.context(&id, &answer.context);
                memory.held.insert(step.key.clone(), (answer.context.clone(), context.clone()));
                memory.floors.insert(step.key.clone(), answer.floor.clone());
                let (seen, shown) = (self.decode.floor(&id, &answer.floor), shown(&answer.siblings));
                self.recorder.end(self.now(), op, Event::Ok(Answered { dot: None, context, seen, shown }));
                Some(answer)
            }
            Err(error) => {
                self.recorder.end(self.now(), op, Event::Fail { error: error.detail });
                None
            }
        }
    }

    async fn write(&self, client: u32, step: &Step, value: Option<String>, context: Option<Held>, memory: &mut Memory) {
        let id = self.id(&step.key);
        let verb = if value.is_some() { Verb::Put } else { Verb::Delete };
        let (token, vector) = context.map_or((None, None), |(token, vector)| (Some(token), vector));
        let invoke = Invoke { value: value.clone(), context: vector, ..self.invoke(client, step, verb) };
        let op = self.recorder.invoke(self.now(), invoke);
        let w = if self.sloppy && step.w == 1 { Level::Any } else { self.level(step.w) };
        let (timeout, sloppy) = (self.timeout, self.sloppy);
        let floor = memory.floors.get(&step.key).filter(|_| self.sessions).cloned();
        let options = WriteOptions { w, timeout, context: token, sloppy, floor, ..WriteOptions::default() };
        let asked = id.clone();
        let result = self
            .ask(step.node, |kv| async move {
                match value {
                    Some(value) => kv.put(asked, Value::from(value), options).await,
                    None => kv.delete(asked, options).await,
                }
            })
            .await;
        let event = match result {
            Ok(answer) => {
                let answered = self.wrote(&id, &answer);
                memory.floors.insert(step.key.clone(), answer.floor.clone());
                match (&answer.context, &answered.context) {
                    (Some(token), vector) => {
                        drop(memory.held.insert(step.key.clone(), (token.clone(), vector.clone())))
                    }
                    // What it held is superseded by what it was not given: it goes on blind.
                    (None, _) => drop(memory.held.remove(&step.key)),
                }
                Event::Ok(answered)
            }
            Err(error) => {
                memory.held.remove(&step.key);
                if error.outcome == Outcome::NotApplied {
                    Event::Fail { error: error.detail }
                } else {
                    Event::Info { error: error.detail }
                }
            }
        };
        self.recorder.end(self.now(), op, event);
    }

    /// A write's answer. Its dot is the one of the greatest stamp in what the object had seen: a mint is above all that
    /// its object has seen. A replayed answer tells no dot.
    fn wrote(&self, id: &ObjectId, answer: &WriteAnswer) -> Answered {
        let seen = self.decode.floor(id, &answer.floor);
        let newest = seen.as_ref().and_then(|seen| seen.iter().max_by_key(|dot| dot.stamp));
        Answered {
            dot: newest.filter(|_| !answer.replayed),
            context: answer.context.as_ref().and_then(|token| self.decode.context(id, token)),
            seen,
            shown: answer.siblings.as_deref().map(shown).unwrap_or_default(),
        }
    }

    async fn ask<T, F>(&self, node: u32, what: impl FnOnce(Arc<dyn Kv>) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        use crate::kv::ErrorCode::Unreachable;
        let Some(kv) = (self.nodes)(node) else {
            return Err(Error::refused(Unreachable, "nobody is there"));
        };
        tokio::select! {
            biased;
            result = what(kv) => result,
            () = self.clock.sleep(self.timeout * 2) => {
                Err(Error::new(Unreachable, Outcome::Unknown, "the client gave up"))
            }
        }
    }

    fn invoke(&self, client: u32, step: &Step, verb: Verb) -> Invoke {
        Invoke {
            client,
            node: step.node,
            bucket: self.bucket_of(&step.key).to_string(),
            key: step.key.clone(),
            verb,
            level: step.w,
            value: None,
            context: None,
            overwrite: false,
            expires: false,
            last: false,
        }
    }

    fn now(&self) -> u64 {
        self.clock.now().0
    }
}

fn text(value: &Value) -> String {
    String::from_utf8_lossy(&value.bytes).into_owned()
}

fn shown(siblings: &[SiblingView]) -> Vec<Shown> {
    siblings.iter().map(|view| Shown { dot: view.dot, value: view.value.as_ref().map(text) }).collect()
}

/// All elements shown and a new one, sorted, with commas between.
fn union(answer: &ReadAnswer, element: &str) -> String {
    let values: Vec<String> = answer.siblings.iter().filter_map(|view| view.value.as_ref()).map(text).collect();
    let elements: BTreeSet<&str> = values.iter().flat_map(|value| value.split(',')).chain([element]).collect();
    elements.into_iter().collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests;

//! The runner and the judges together, against a store in memory that can be told to cheat.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::*;
use crate::causality::{MergeRules, Object, Payload, Supersedes, Write, write};
use crate::env::{BoxFuture, Tasks};
use crate::kv::{Counted, ETag, KeyPage, ListOptions};
use crate::sim::check::{lost, overlap};
use crate::sim::history::{self, parse_dot};
use crate::sim::time::{SimClock, run};
use crate::types::{ActorId, Digest, Stamp, Wall};

/// How the store cheats.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cheat {
    Honest,
    /// Every seventh acknowledged write is not stored.
    ForgetsWrites,
    /// A write's answer always has the whole context.
    WholeContext,
    /// Of three siblings or more, one is dropped.
    DropsSibling,
    /// A delete is answered and not done.
    SkipsDelete,
    /// Every fifth write is refused as not applied, and stored all the same.
    LiesAboutFailure,
    /// The stamp stands still for every other write.
    MintsTwice,
}

struct MemoryKv {
    cheat: Cheat,
    objects: Mutex<(u64, BTreeMap<ObjectId, Object>)>,
}

fn token(vector: &VersionVector) -> String {
    vector.iter().map(|dot| dot.to_string()).collect::<Vec<_>>().join(" ")
}

fn vector(token: &str) -> Option<VersionVector> {
    token.split_whitespace().map(parse_dot).collect()
}

struct Plain;

impl Decode for Plain {
    fn context(&self, _: &ObjectId, token: &ContextToken) -> Option<VersionVector> {
        vector(&token.0)
    }
    fn floor(&self, _: &ObjectId, token: &FloorToken) -> Option<VersionVector> {
        vector(&token.0)
    }
}

impl MemoryKv {
    fn read(&self, id: &ObjectId) -> ReadAnswer {
        let state = self.objects.lock().unwrap();
        let object = state.1.get(id).cloned().unwrap_or_default();
        let view = |sibling: &crate::causality::Sibling| {
            let payload = sibling.payloads.first().unwrap();
            let value = payload.value.clone().map(Value::from);
            SiblingView { dot: sibling.dot, value, written_at: Wall(0), expires_at: None }
        };
        let mut siblings: Vec<_> = object.siblings().iter().map(view).collect();
        if siblings.iter().all(|view| view.value.is_none()) {
            siblings.clear();
        }
        if self.cheat == Cheat::DropsSibling && siblings.len() > 2 {
            siblings.pop();
        }
        ReadAnswer {
            siblings,
            context: ContextToken(token(object.context())),
            floor: FloorToken(token(object.context())),
            etag: None,
            counted: Counted::default(),
            explain: None,
        }
    }

    #[allow(clippy::result_large_err, reason = "the error of the interface it stands for")]
    fn write(&self, id: ObjectId, value: Option<Value>, options: &WriteOptions) -> Result<WriteAnswer, Error> {
        let mut state = self.objects.lock().unwrap();
        state.0 += 1;
        let count = state.0;
        let is_delete = value.is_none();
        let supersedes = match &options.context {
            Some(context) => Supersedes::Covered(vector(&context.0).unwrap()),
            None if is_delete => Supersedes::Seen,
            None => Supersedes::Tombstones,
        };
        let local = state.1.get(&id).cloned().unwrap_or_default();
        let payload = Payload { value: value.map(|value| value.bytes), ..Payload::default() };
        let rules = MergeRules::default();
        let one = Write { payload, supersedes, request: None };
        let twice = self.cheat == Cheat::MintsTwice && count.is_multiple_of(2);
        let base = if twice { Object::new() } else { local.clone() };
        let one = if twice { Write { supersedes: Supersedes::Tombstones, ..one } } else { one };
        let minted = write(&base, one, ActorId(0xa), Stamp(if twice { 1 } else { count + 1 }), Stamp(0), &rules);
        let mut object = minted.object;
        if twice {
            object.merge(&local, &rules);
        }
        let alone = object.is_alone(minted.dot);
        let whole = alone || self.cheat == Cheat::WholeContext;
        let answer = WriteAnswer {
            context: whole.then(|| ContextToken(token(object.context()))),
            floor: FloorToken(if twice { minted.dot.to_string() } else { token(object.context()) }),
            etag: ETag { digest: Digest([0; 16]), expired: 0 },
            sibling_count: object.siblings().len() as u32,
            siblings: None,
            expires_at: None,
            replayed: false,
            counted: Counted::default(),
            explain: None,
        };
        let forgets = self.cheat == Cheat::ForgetsWrites && count.is_multiple_of(7);
        let skips = self.cheat == Cheat::SkipsDelete && is_delete;
        if !(forgets || skips) {
            state.1.insert(id, object);
        }
        if self.cheat == Cheat::LiesAboutFailure && count.is_multiple_of(5) {
            return Err(Error::refused(crate::kv::ErrorCode::Overloaded, "full"));
        }
        Ok(answer)
    }
}

impl Kv for MemoryKv {
    fn get(&self, id: ObjectId, _: ReadOptions) -> BoxFuture<'_, Result<ReadAnswer, Error>> {
        Box::pin(async move { Ok(self.read(&id)) })
    }
    fn put(&self, id: ObjectId, value: Value, options: WriteOptions) -> BoxFuture<'_, Result<WriteAnswer, Error>> {
        Box::pin(async move { self.write(id, Some(value), &options) })
    }
    fn delete(&self, id: ObjectId, options: WriteOptions) -> BoxFuture<'_, Result<WriteAnswer, Error>> {
        Box::pin(async move { self.write(id, None, &options) })
    }
    fn list(&self, _: Bucket, _: ListOptions) -> BoxFuture<'_, Result<KeyPage, Error>> {
        Box::pin(async { Err(Error::refused(crate::kv::ErrorCode::NotYet, "the workload lists nothing")) })
    }
}

fn options() -> Options {
    Options {
        clients: 5,
        nodes: 3,
        steps: 60,
        n: 3,
        strict: true,
        least_w: 1,
        one: false,
        least_r: 1,
        latest: false,
        think: Duration::from_millis(20),
    }
}

fn history_of(seed: u64, cheat: Cheat) -> Vec<history::Line> {
    run(seed, |time| async move {
        let kv: Arc<dyn Kv> = Arc::new(MemoryKv { cheat, objects: Mutex::default() });
        let runner = Runner {
            nodes: Arc::new(move |_| Some(kv.clone())),
            decode: Arc::new(Plain),
            clock: SimClock::new(time),
            recorder: Arc::default(),
            bucket: Bucket::new("b").unwrap(),
            latest: None,
            words: false,
            sloppy: false,
            sessions: false,
            timeout: Duration::from_secs(1),
        };
        let tasks = Tasks::default();
        let (done, mut left) = tokio::sync::mpsc::channel::<()>(1);
        for (client, steps) in Plan::generate(seed, &options()).clients.into_iter().enumerate() {
            let (runner, done) = (runner.clone(), done.clone());
            tasks.spawn(async move {
                runner.client(client as u32, &steps).await;
                drop(done);
            });
        }
        drop(done);
        assert!(left.recv().await.is_none());
        runner.last_reads(99, &[0, 1, 2], |_| 3).await;
        runner.recorder.lines()
    })
    .unwrap()
}

fn broken(cheat: Cheat) -> BTreeSet<&'static str> {
    let mut rules = BTreeSet::new();
    for seed in 0..5 {
        let lines = history_of(seed, cheat);
        let lines = history::read(&history::write(&lines)).unwrap();
        let overlap = overlap::check(&lines, overlap::Rules { n: 3, lww: false });
        rules.extend(overlap.iter().chain(&lost::check(&lines)).map(|violation| violation.rule));
    }
    rules
}

#[test]
fn an_honest_store_is_acquitted() {
    assert_eq!(broken(Cheat::Honest), BTreeSet::new());
}

#[test]
fn every_cheat_is_condemned_for_what_it_does() {
    // A whole context shows up as `not-shown` alone: what it superseded is missing for a reason that the history has.
    for (cheat, rule) in [
        (Cheat::ForgetsWrites, "stale"),
        (Cheat::ForgetsWrites, "lost"),
        (Cheat::WholeContext, "not-shown"),
        (Cheat::DropsSibling, "dropped"),
        (Cheat::DropsSibling, "lost"),
        (Cheat::SkipsDelete, "stale"),
        (Cheat::SkipsDelete, "resurrected"),
        (Cheat::LiesAboutFailure, "from-nowhere"),
        (Cheat::MintsTwice, "dot-reused"),
    ] {
        let rules = broken(cheat);
        assert!(rules.contains(rule), "{cheat:?}: {rule} not in {rules:?}");
    }
}

#[test]
fn a_seed_is_a_plan_and_a_history() {
    assert_eq!(Plan::generate(3, &options()), Plan::generate(3, &options()));
    assert_ne!(Plan::generate(3, &options()), Plan::generate(4, &options()));
    assert_eq!(history::write(&history_of(3, Cheat::Honest)), history::write(&history_of(3, Cheat::Honest)));
}

#[test]
fn strict_plans_overlap_and_elements_are_unique() {
    let plan = Plan::generate(1, &options());
    let steps: Vec<&Step> = plan.clients.iter().flatten().collect();
    assert!(steps.iter().all(|step| step.r + step.w > 3 && (1..=3).contains(&step.r) && (1..=3).contains(&step.w)));
    assert_eq!(steps.iter().map(|step| &step.element).collect::<BTreeSet<_>>().len(), steps.len());
    let actions: BTreeSet<Action> = steps.iter().map(|step| step.action).collect();
    assert_eq!(actions.len(), 6);
    assert!(steps.iter().any(|step| step.r == 1) && steps.iter().any(|step| step.w == 1));
}

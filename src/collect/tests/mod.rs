//! Owners and drivers of this room in any order: what the exhaustive model judges (`tests/models/collection/`), of the code
//! itself, with three owners, several keys, and books that are read back from their bytes.

mod laws;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::causality::{Dot, MergeRules, Object, Payload, Supersedes, Write, write};
use crate::types::{ActorId, Digest, Stamp, StoreId, Wall};

const OWNERS: usize = 3;
const KEYS: usize = 2;
const LAYOUT: u64 = 7;

/// One thing that happens. Numbers name whatever there is that many of.
#[derive(Clone, Debug)]
enum Op {
    Put {
        at: usize,
        key: usize,
    },
    Delete {
        at: usize,
        key: usize,
    },
    Push {
        from: usize,
        to: usize,
    },
    Send {
        from: usize,
        key: usize,
    },
    Deliver {
        frame: usize,
        to: usize,
    },
    /// A fallback holds it for owner 0.
    Hint {
        from: usize,
        key: usize,
    },
    HandOff,
    /// A driver asks one owner for one thing, or looks what there is to do.
    Drive {
        driver: usize,
        whom: usize,
    },
    /// A driver knows nothing any more.
    Restart(usize),
    /// An owner starts again.
    Reload(usize),
    Abandon(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let (at, to, key) = (0..OWNERS, 0..OWNERS, 0..KEYS);
    prop_oneof![
        2 => (at.clone(), key.clone()).prop_map(|(at, key)| Op::Put { at, key }),
        3 => (at.clone(), key.clone()).prop_map(|(at, key)| Op::Delete { at, key }),
        12 => (at.clone(), to.clone()).prop_map(|(from, to)| Op::Push { from, to }),
        3 => (at.clone(), key.clone()).prop_map(|(from, key)| Op::Send { from, key }),
        4 => (any::<usize>(), to).prop_map(|(frame, to)| Op::Deliver { frame, to }),
        1 => (at.clone(), key).prop_map(|(from, key)| Op::Hint { from, key }),
        1 => Just(Op::HandOff),
        60 => (0..2_usize, any::<usize>()).prop_map(|(driver, whom)| Op::Drive { driver, whom }),
        1 => (0..2_usize).prop_map(Op::Restart),
        1 => at.clone().prop_map(Op::Reload),
        1 => at.prop_map(Op::Abandon),
    ]
}

#[derive(Clone, Default)]
struct Owner {
    objects: [Object; KEYS],
    book: Book,
    floor: Stamp,
    clock: u64,
}

#[derive(Clone)]
struct Frame {
    key: usize,
    object: Object,
    epoch: Epoch,
}

#[derive(Default)]
struct World {
    owners: [Owner; OWNERS],
    frames: Vec<Frame>,
    hints: Vec<Frame>,
    holder: Book,
    drives: [Option<(Drive, Round)>; 2],
    rounds: BTreeMap<RoundId, Round>,
    /// Each write: whether it is a delete, and what it superseded.
    written: BTreeMap<(usize, Dot), (bool, BTreeSet<Dot>)>,
    collected: BTreeSet<(usize, Dot)>,
}

fn stored(key: usize) -> Bytes {
    Bytes::copy_from_slice(&key.to_be_bytes())
}

fn key_of(stored: &Bytes) -> usize {
    (0..KEYS).find(|key| *stored == super::tests::stored(*key)).unwrap()
}

fn store(at: usize) -> StoreId {
    StoreId::from_bits(at as u128 + 1)
}

fn fallback() -> StoreId {
    StoreId::from_bits(99)
}

/// What an owner holds under a key, if that is nothing but deletions.
fn deletions(object: &Object) -> Option<(Digest, Vec<Dot>)> {
    let gone = !object.is_empty() && object.siblings().iter().all(|sibling| sibling.is_tombstone());
    gone.then(|| (object.digest(), object.siblings().iter().map(|sibling| sibling.dot).collect()))
}

impl World {
    fn read(&self, from: usize, key: usize) -> Frame {
        let Owner { objects, book, .. } = &self.owners[from];
        let object = book.strip(&stored(key), &objects[key]).unwrap_or_else(|| objects[key].clone());
        Frame { key, object, epoch: book.epoch() }
    }

    fn take(&mut self, to: usize, frame: &Frame) -> bool {
        let Owner { objects, book, .. } = &mut self.owners[to];
        if book.judge(frame.epoch).is_err() {
            return false;
        }
        let stripped = book.strip(&stored(frame.key), &frame.object);
        objects[frame.key].merge(stripped.as_ref().unwrap_or(&frame.object), &MergeRules::default());
        true
    }

    fn mint(&mut self, at: usize, key: usize, delete: bool) {
        let owner = &mut self.owners[at];
        let supersedes = if delete { Supersedes::Seen } else { Supersedes::Tombstones };
        let before: BTreeSet<Dot> = owner.objects[key].siblings().iter().map(|sibling| sibling.dot).collect();
        owner.clock += 1;
        // One owner's clock is far ahead.
        let reading = Stamp(owner.clock + if at == 0 { 1000 } else { 0 });
        let payload = Payload {
            value: (!delete).then(|| Bytes::from_static(b"v")),
            written_at: Wall(self.written.len() as u64),
            ..Payload::default()
        };
        let wish = Write { payload, supersedes, request: None };
        let minted = write(&owner.objects[key], wish, ActorId(at as u64), reading, owner.floor, &MergeRules::default());
        let after: BTreeSet<Dot> = minted.object.siblings().iter().map(|sibling| sibling.dot).collect();
        let past = before
            .difference(&after)
            .flat_map(|dot| self.written[&(key, *dot)].1.iter().copied().chain([*dot]))
            .collect();
        assert!(self.written.insert((key, minted.dot), (delete, past)).is_none(), "a dot was minted twice");
        owner.objects[key] = minted.object;
    }

    /// One step of a driver.
    fn drive(&mut self, driver: usize, whom: usize) {
        let Some((mut drive, round)) = self.drives[driver].take() else { return self.look(driver) };
        let Some(step) = drive.step() else { return };
        let waits: Vec<StoreId> = drive.waits().iter().copied().collect();
        let from = waits[whom % waits.len()];
        let done = if from == fallback() {
            self.drain(round.id().epoch)
        } else {
            let at = (0..OWNERS).find(|at| store(*at) == from).unwrap();
            self.ask(at, step, &round)
        };
        match done {
            Some(true) => drive.done(from, step),
            Some(false) => {}
            // It begins from what owners say.
            None => return,
        }
        self.drives[driver] = Some((drive, round));
    }

    fn drain(&mut self, epoch: Epoch) -> Option<bool> {
        self.holder.drain(epoch);
        Some(self.hints.iter().all(|hint| hint.epoch >= epoch))
    }

    /// Whether an owner did it; none where it never will.
    fn ask(&mut self, at: usize, step: Step, round: &Round) -> Option<bool> {
        let Owner { objects, book, floor, .. } = &mut self.owners[at];
        match step {
            Step::Mark => {
                let held = |listed: &Listed| deletions(&objects[key_of(&listed.stored)]);
                let agrees = |listed: &Listed| held(listed) == Some((listed.digest, listed.dots.clone()));
                book.mark(round, Some(LAYOUT), agrees).ok().map(|()| true)
            }
            Step::Drain => {
                book.drain(round.id().epoch);
                Some(true)
            }
            Step::Seal => book.seal(round.id()).ok().map(|()| true),
            Step::Drop => {
                for (stored, dots) in book.drop_round(round.id()).ok()? {
                    let object = &mut objects[key_of(stored)];
                    *floor = object.greatest_stamp().unwrap_or_default().max(*floor);
                    if let Some(left) = object.without(dots) {
                        *object = left;
                    }
                    self.collected.extend(dots.iter().map(|dot| (key_of(stored), *dot)));
                }
                Some(true)
            }
        }
    }

    fn look(&mut self, driver: usize) {
        let owners: BTreeSet<StoreId> = (0..OWNERS).map(store).collect();
        let holders = owners.iter().copied().chain([fallback()]).collect();
        let statuses: Vec<Status> = self.owners.iter().map(|owner| owner.book.status()).collect();
        let (drive, round) = match plan(&statuses, LAYOUT) {
            Plan::Finish(id) => (Drive::resume(id, owners, holders), self.rounds[&id].clone()),
            Plan::Forget(id) => return self.owners.iter_mut().for_each(|owner| owner.book.forget(id, false)),
            Plan::Begin { epoch, after } => {
                let same =
                    |key: &usize| self.owners.iter().all(|owner| owner.objects[*key] == self.owners[0].objects[*key]);
                let listed = (0..KEYS).filter(same).filter_map(|key| {
                    let (digest, dots) = deletions(&self.owners[0].objects[key])?;
                    Some(Listed { stored: stored(key), digest, dots })
                });
                let round = Round::new(epoch, self.rounds.len() as u64, listed.collect(), after);
                self.rounds.insert(round.id(), round.clone());
                (Drive::begin(round.id(), owners, holders), round)
            }
            Plan::Exhausted => unreachable!("there are four billion epochs"),
        };
        self.drives[driver] = Some((drive, round));
    }

    fn hand_off(&mut self) -> bool {
        let hints = std::mem::take(&mut self.hints);
        self.hints = hints.into_iter().filter(|hint| !self.take(0, hint)).collect();
        self.hints.is_empty()
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Put { at, key } => self.mint(at, key, false),
            Op::Delete { at, key } => self.mint(at, key, true),
            Op::Push { from, to } => {
                for key in 0..KEYS {
                    self.take(to, &self.read(from, key));
                }
            }
            Op::Send { from, key } => self.frames.push(self.read(from, key)),
            Op::Deliver { frame, to } => {
                if let Some(frame) = self.frames.get(frame % self.frames.len().max(1)).cloned() {
                    self.take(to, &frame);
                }
            }
            Op::Hint { from, key } => {
                let hint = self.read(from, key);
                if self.holder.judge_hint(hint.epoch).is_ok() {
                    self.hints.push(hint);
                }
            }
            Op::HandOff => {
                self.hand_off();
            }
            Op::Drive { driver, whom } => self.drive(driver, whom),
            Op::Restart(driver) => self.drives[driver] = None,
            Op::Reload(at) => {
                let book = &mut self.owners[at].book;
                *book = Book::decode(book.encode()).unwrap();
            }
            Op::Abandon(at) => self.owners[at].book.abandon(),
        }
    }

    /// What must not be, at any moment.
    fn judge(&self) {
        for key in 0..KEYS {
            let mut all = Object::new();
            let hints = self.hints.iter().filter(|hint| hint.key == key).map(|hint| &hint.object);
            for object in self.owners.iter().map(|owner| &owner.objects[key]).chain(hints) {
                all.merge(object, &MergeRules::default());
            }
            let written = || self.written.iter().filter(|((of, _), _)| *of == key);
            let past: BTreeSet<Dot> = written().flat_map(|(_, (_, past))| past.iter().copied()).collect();
            for ((_, dot), _) in written().filter(|(_, (delete, _))| !delete) {
                let held = all.siblings().iter().any(|sibling| sibling.dot == *dot);
                assert!(!(held && past.contains(dot)), "{dot} was superseded, and is back");
                assert!(held || past.contains(dot), "{dot} is gone");
            }
        }
    }

    /// Faults end: all is handed off, exchanged and collected.
    fn settle(&mut self) {
        self.frames.clear();
        self.drives = [None, None];
        assert!(self.hand_off(), "a hint is refused for ever");
        let mut quiet = 0;
        for _ in 0..2000 {
            for (from, to) in [(0, 1), (1, 2), (2, 0), (0, 1), (1, 2)] {
                (0..KEYS).for_each(|key| assert!(self.take(to, &self.read(from, key)), "refused for ever"));
            }
            self.drive(0, 0);
            let idle = self.drives[0]
                .as_ref()
                .is_none_or(|(drive, round)| drive.step().is_none() && round.listed().is_empty());
            quiet += usize::from(idle && self.owners.iter().all(|owner| owner.book.status().rounds.len() <= 1));
            if quiet > 3 {
                break;
            }
        }
        assert!(quiet > 3, "it never comes to rest");
        self.judge();
        for (at, key) in (0..OWNERS).flat_map(|at| (0..KEYS).map(move |key| (at, key))) {
            let object = &self.owners[at].objects[key];
            assert_eq!(object, &self.owners[0].objects[key], "the owners never agree");
            assert_eq!(deletions(object), None, "a deletion is never collected");
            let left = object.siblings().iter().find(|sibling| self.collected.contains(&(key, sibling.dot)));
            assert_eq!(left, None, "what was collected is left beside a value");
        }
    }
}

fn run(ops: &[Op]) -> usize {
    let mut world = World::default();
    for op in ops {
        world.step(op);
        world.judge();
    }
    let collected = world.collected.len();
    world.settle();
    collected
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_comes_back_and_everything_is_collected(ops in proptest::collection::vec(op(), 1..300)) {
        run(&ops);
    }
}

#[test]
fn histories_collect_something() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let histories = proptest::collection::vec(op(), 250..300);
    let collected = (0..200).filter(|_| run(&histories.new_tree(&mut runner).unwrap().current()) > 0).count();
    assert!(collected > 20, "{collected} of 200 collected anything before faults ended");
}

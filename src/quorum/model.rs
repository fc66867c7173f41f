//! Small exhaustive models of I-OVERLAP and I-MONO: the real [`PutCore`] and [`GetCore`], every order of their messages.
//!
//! A world is N replicas, what is under way to them, and the machine that waits for them. Every choice is tried: which
//! message comes next, whether it is lost, refused or answered. A [`Lie`] stands between machine and world and plants one
//! bug; each must be caught, else the model proves nothing.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::testing::{digest, ids, includes, on_top, one_layout};
use super::{
    Floor, Found, GetAction, GetCore, Level, NoVote, PutAction, PutCore, ReadPlan, Repair, ReplicaReply, Requirement,
};
use crate::causality::{MergeRules, Object};
use crate::types::{Mono, StoreId};

/// A planted bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lie {
    None,
    /// A read is answered one vote early.
    ReadsOneLess,
    /// A write is answered one acknowledgement early.
    WritesOneLess,
    /// An error counts as "not found".
    ErrorIsNotFound,
    /// A refusal counts as "same".
    RefusalIsSame,
    /// A repair is taken for done when it is sent.
    RepairNotAwaited,
    /// A write that was not acknowledged counts as one that was.
    FailureIsAck,
    /// A floor is not looked at.
    NoFloor,
    /// An unmet floor is taken for met once R have voted.
    NotWidened,
    /// An owner that gave no vote counts among those that have not seen what the floor names.
    SilenceIsIgnorance,
}

/// The level at which `need` answer.
fn level(need: usize, lie: bool) -> Level {
    Level::Count(u8::try_from(need - usize::from(lie)).unwrap())
}

fn plan(n: u128, votes: Requirement, hold: Requirement, own: u128) -> ReadPlan {
    let rules = MergeRules::default();
    let candidates = ids((0..n).map(|at| (own + at) % n));
    let (beside, own) = (None, Some(StoreId::from_bits(own)));
    ReadPlan { votes, hold, candidates, beside, own, rules, repair: Repair::Sync, floor: None, digest }
}

fn place(id: StoreId) -> usize {
    usize::try_from(id.bits()).unwrap()
}

/// A read in progress among replicas, and what is under way to them.
#[derive(Clone)]
struct Reading {
    replicas: Vec<Object>,
    core: GetCore,
    asks: Vec<(StoreId, Option<crate::types::Digest>)>,
    /// States under way: repairs of this read (`true`), and whatever else arrives or not.
    writes: Vec<(StoreId, Arc<Object>, bool)>,
    hedges: usize,
    found: Option<Found>,
}

impl Reading {
    fn begin(replicas: Vec<Object>, writes: Vec<(StoreId, Arc<Object>, bool)>, plan: ReadPlan, lie: Lie) -> Self {
        let mut core = GetCore::new(plan, None);
        let actions = core.start(Mono(0));
        let mut reading = Self { replicas, core, asks: Vec::new(), writes, hedges: 1, found: None };
        reading.perform(actions, lie);
        reading
    }

    fn perform(&mut self, actions: Vec<GetAction>, lie: Lie) {
        for action in actions {
            match action {
                GetAction::Ask { to, have } => self.asks.push((to, have)),
                GetAction::Repair { to, object, .. } => {
                    let told = lie == Lie::RepairNotAwaited;
                    self.writes.push((to, object, !told));
                    if told {
                        let more = self.core.on_repair_ack(Mono(0), to, true);
                        self.perform(more, lie);
                    }
                }
                GetAction::Answer(found) => {
                    assert!(self.found.is_none(), "answered twice");
                    self.found = Some(found);
                }
                GetAction::Fail { .. } => assert!(self.found.is_none(), "answered and failed"),
            }
        }
    }

    /// Every world that can come next.
    fn next(&self, lie: Lie, failures: &[NoVote]) -> Vec<Self> {
        let mut worlds = Vec::new();
        for at in 0..self.asks.len() {
            let mut base = self.clone();
            let (from, have) = base.asks.remove(at);
            let held = &self.replicas[place(from)];
            let honest = match held {
                held if held.is_empty() => ReplicaReply::Nothing,
                held if have == Some(digest(held)) => ReplicaReply::Same,
                held => ReplicaReply::Object(held.clone()),
            };
            for reply in std::iter::once(honest).chain(failures.iter().map(|why| ReplicaReply::NoVote(*why))) {
                let reply = match (reply, lie) {
                    (ReplicaReply::NoVote(NoVote::Failed), Lie::ErrorIsNotFound) => ReplicaReply::Nothing,
                    (ReplicaReply::NoVote(_), Lie::SilenceIsIgnorance) => ReplicaReply::Nothing,
                    (ReplicaReply::NoVote(NoVote::Refused), Lie::RefusalIsSame) => ReplicaReply::Same,
                    (reply, _) => reply,
                };
                let mut world = base.clone();
                let actions = world.core.on_reply(Mono(0), from, reply);
                world.perform(actions, lie);
                worlds.push(world);
            }
        }
        for at in 0..self.writes.len() {
            let mut base = self.clone();
            let (to, object, told) = base.writes.remove(at);
            // Stored and said so; stored, but the answer lost; not stored. Nobody hears of what nobody waits for.
            for (arrives, answered) in [(true, told), (true, false), (false, false)] {
                let mut world = base.clone();
                if arrives {
                    world.replicas[place(to)].merge(&object, &MergeRules::default());
                }
                if told {
                    let actions = world.core.on_repair_ack(Mono(0), to, answered);
                    world.perform(actions, lie);
                }
                worlds.push(world);
            }
        }
        if self.hedges > 0 && !self.core.is_decided() {
            let mut world = self.clone();
            world.hedges -= 1;
            let actions = world.core.on_hedge(Mono(0));
            world.perform(actions, lie);
            worlds.push(world);
        }
        worlds
    }

    /// What tells two worlds apart.
    fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.replicas.iter().for_each(|held| digest(held).hash(&mut hasher));
        let mut under_way: Vec<_> = self.writes.iter().map(|(to, object, told)| (*to, digest(object), *told)).collect();
        under_way.sort();
        let mut asks = self.asks.clone();
        asks.sort();
        (under_way, asks, self.hedges, self.found.is_some()).hash(&mut hasher);
        self.core.hash_into(&mut hasher);
        hasher.finish()
    }

    /// Visits every reachable world.
    fn explore(self, lie: Lie, failures: &[NoVote], mut visit: impl FnMut(&Self) -> bool) -> usize {
        let mut seen = BTreeSet::new();
        let mut open = vec![self];
        while let Some(world) = open.pop() {
            if seen.insert(world.key()) && visit(&world) {
                open.extend(world.next(lie, failures));
            }
        }
        seen.len()
    }
}

/// How an acknowledged write can leave the replicas: who has it, and to whom it may still be under way.
fn acknowledged_writes(n: u128, w: usize, own: u128, lie: Lie) -> BTreeSet<(Vec<bool>, Vec<StoreId>)> {
    #[derive(Clone)]
    struct Writing {
        core: PutCore,
        has: Vec<bool>,
        sent: Vec<StoreId>,
    }
    let requirement = one_layout(level(w, lie == Lie::WritesOneLess && w > 1), n);
    let mut core = PutCore::new(requirement, [], 0, Some(StoreId::from_bits(own)), None);
    let sends = core.start(Mono(0));
    let mut sent: Vec<_> =
        sends.into_iter().filter_map(|a| if let PutAction::Send { to, .. } = a { Some(to) } else { None }).collect();
    sent.push(StoreId::from_bits(own));
    let mut found = BTreeSet::new();
    let mut open = vec![Writing { core, has: vec![false; usize::try_from(n).unwrap()], sent }];
    let mut seen = BTreeSet::new();
    while let Some(world) = open.pop() {
        let states: Vec<_> = world.core.states().map(|(_, state)| state).collect();
        if !seen.insert((world.has.clone(), world.sent.clone(), states)) {
            continue;
        }
        for at in 0..world.sent.len() {
            let to = world.sent[at];
            // Acknowledged; stored, but the answer lost; refused. (Not stored and never heard of: is left under way.)
            for (stores, acks) in [(true, true), (true, false), (false, false)] {
                let mut world = world.clone();
                world.sent.remove(at);
                world.has[place(to)] = stores;
                let action = if acks || lie == Lie::FailureIsAck {
                    world.core.on_ack(Mono(0), to, &[1], true)
                } else {
                    world.core.on_failed(Mono(0), to, NoVote::TimedOut)
                };
                match action {
                    Some(PutAction::Answer(_)) => drop(found.insert((world.has, world.sent))),
                    Some(_) => {}
                    None => open.push(world),
                }
            }
        }
    }
    found
}

/// I-OVERLAP: every read at R that begins after a write was acknowledged at W, R + W > N, returns it.
fn overlap(n: u128, r: usize, w: usize, lie: Lie, failures: &[NoVote]) -> Result<usize, String> {
    let old = on_top(&Object::new(), 1, "old");
    let mut worlds = 0;
    // Five replicas have many more orders: they are tried without hedges, and for a key that was never written before.
    for blank in if n > 3 { vec![true] } else { vec![true, false] } {
        let before = if blank { Object::new() } else { old.clone() };
        let new = on_top(&before, 2, "new");
        // One late copy may still arrive while the read goes on; the others never do.
        let ends =
            acknowledged_writes(n, w, 0, lie).into_iter().map(|(has, under_way)| (has, under_way.first().copied()));
        for (has, late) in ends.collect::<BTreeSet<_>>() {
            let replicas: Vec<_> = has.iter().map(|has| if *has { new.clone() } else { before.clone() }).collect();
            let late = late.map(|to| (to, Arc::new(new.clone()), false));
            for own in [0, n - 1] {
                let hold = one_layout(level(r, false), n);
                let plan = plan(n, one_layout(level(r, lie == Lie::ReadsOneLess && r > 1), n), hold, own);
                let mut stale = None;
                let mut reading = Reading::begin(replicas.clone(), late.clone().into_iter().collect(), plan, lie);
                reading.hedges = usize::from(n <= 3);
                worlds += reading.explore(lie, failures, |world| {
                    let returns_it = |found: &Found| found.object.as_ref().is_some_and(|object| includes(object, &new));
                    if let Some(found) = world.found.as_ref().filter(|found| !returns_it(found)) {
                        stale = Some(format!("N={n} R={r} W={w}: has {has:?}, read through {own} found {found:?}"));
                    }
                    world.found.is_none() && stale.is_none()
                });
                if let Some(stale) = stale {
                    return Err(stale);
                }
            }
        }
    }
    Ok(worlds)
}

/// I-MONO: of two reads with R + R > N one after the other, from any state that writes may have left, the second
/// returns all that the first did. What the first has under way may arrive, or not, before and during the second. No hedges: with them
/// the worlds are too many to visit at every test run.
fn monotonic(n: u128, r: usize, lie: Lie) -> Result<usize, String> {
    let old = on_top(&Object::new(), 1, "old");
    let states = [Object::new(), old.clone(), on_top(&old, 2, "new"), on_top(&Object::new(), 3, "rival")];
    let count = usize::try_from(n).unwrap();
    let failures = [NoVote::TimedOut];
    let mut worlds = 0;
    let mut wrong = None;
    let mut seconds = BTreeSet::new();
    for code in 0..states.len().pow(u32::try_from(n).unwrap()) {
        let replicas: Vec<_> =
            (0..count).map(|at| states[code / states.len().pow(at as u32) % states.len()].clone()).collect();
        let need = level(r, lie == Lie::ReadsOneLess);
        let plan_of = |own| plan(n, one_layout(need, n), one_layout(level(r, false), n), own);
        let mut first = Reading::begin(replicas, Vec::new(), plan_of(0), lie);
        let mut begin = Vec::new();
        first.hedges = 0;
        worlds += first.explore(lie, &failures, |world| {
            let Some(found) = &world.found else { return true };
            if let Some(object) = &found.object {
                // Repairs the first has under way may still come; nobody waits for them any more.
                let under_way: Vec<_> =
                    world.writes.iter().map(|(to, object, _)| (*to, object.clone(), false)).collect();
                let held: Vec<_> = world.replicas.iter().map(digest).collect();
                let coming: Vec<_> = under_way.iter().map(|(to, object, _)| (*to, digest(object))).collect();
                if seconds.insert((held, coming, digest(object))) {
                    begin.push((world.replicas.clone(), under_way, object.clone()));
                }
            }
            false
        });
        for (replicas, under_way, object) in begin {
            let mut second = Reading::begin(replicas, under_way, plan_of(n - 1), lie);
            second.hedges = 0;
            worlds += second.explore(lie, &failures, |world| {
                let Some(found) = &world.found else { return wrong.is_none() };
                if !found.object.as_ref().is_some_and(|later| includes(later, &object)) {
                    wrong = Some(format!("N={n} R={r}: first {object:?}, then {:?}", found.object));
                }
                false
            });
            if let Some(wrong) = wrong {
                return Err(wrong);
            }
        }
    }
    Ok(worlds)
}

/// I-SESSION: from any state that writes may have left, and any floor that a client may have from it, a read at R returns
/// something that covers the floor, unless none of the owners has seen it any more; then it is answered all the same, by all
/// of them. An owner that gives no vote leaves it unanswered.
fn session(n: u128, r: usize, lie: Lie) -> Result<usize, String> {
    let old = on_top(&Object::new(), 1, "old");
    let rival = on_top(&Object::new(), 3, "rival");
    let states = [Object::new(), old.clone(), on_top(&old, 2, "new"), rival.clone()];
    let mut both = states[2].clone();
    both.merge(&rival, &MergeRules::default());
    let gone = on_top(&Object::new(), 9, "held by nobody");
    let count = usize::try_from(n).unwrap();
    let mut worlds = 0;
    for code in 0..states.len().pow(u32::try_from(n).unwrap()) {
        let replicas: Vec<_> =
            (0..count).map(|at| states[code / states.len().pow(at as u32) % states.len()].clone()).collect();
        let mut held = Object::new();
        for object in &replicas {
            held.merge(object, &MergeRules::default());
        }
        for seen in [&old, &states[2], &rival, &both, &gone].map(Object::context) {
            let there = held.context().covers_all(seen);
            let owners = if lie == Lie::NotWidened { Vec::new() } else { ids(0..n) };
            let floor = (lie != Lie::NoFloor).then(|| Floor { seen: seen.clone(), owners });
            let need = one_layout(level(r, false), n);
            let plan = ReadPlan { repair: Repair::Async, floor, ..plan(n, need.clone(), need, 0) };
            let mut reading = Reading::begin(replicas.clone(), Vec::new(), plan, lie);
            reading.hedges = usize::from(n <= 3);
            let (mut wrong, mut answered) = (None, false);
            worlds += reading.explore(lie, &[NoVote::TimedOut], |world| {
                let Some(found) = &world.found else { return wrong.is_none() };
                answered = true;
                let covers = found.object.as_ref().map_or(seen.is_empty(), |object| object.context().covers_all(seen));
                if !covers && (there || usize::try_from(found.counted.answered).unwrap() < count) {
                    wrong = Some(format!("N={n} R={r} {replicas:?}: {seen:?} was seen, found {found:?}"));
                }
                false
            });
            if !answered {
                wrong = wrong.or_else(|| Some(format!("N={n} R={r} {replicas:?}: {seen:?} is never answered")));
            }
            if let Some(wrong) = wrong {
                return Err(wrong);
            }
        }
    }
    Ok(worlds)
}

const FAILURES: [NoVote; 3] = [NoVote::Failed, NoVote::Refused, NoVote::TimedOut];

fn pairs(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (1..=n).flat_map(move |r| (n + 1 - r..=n).map(move |w| (r, w)))
}

#[test]
fn i_overlap_holds_in_every_order_of_messages() {
    let mut worlds = 0;
    for (r, w) in pairs(3) {
        worlds += overlap(3, r, w, Lie::None, &FAILURES).unwrap();
    }
    assert!(worlds > 5_000, "{worlds} worlds: the model has shrunk");
    println!("I-OVERLAP, N = 3: {worlds} worlds");
}

#[test]
fn i_overlap_holds_for_five_replicas() {
    let worlds = overlap(5, 3, 3, Lie::None, &[NoVote::TimedOut]).unwrap();
    println!("I-OVERLAP, N = 5: {worlds} worlds");
}

#[test]
fn i_mono_holds_in_every_order_of_messages() {
    let worlds = monotonic(3, 2, Lie::None).unwrap();
    assert!(worlds > 5_000, "{worlds} worlds: the model has shrunk");
    println!("I-MONO: {worlds} worlds");
}

#[test]
fn i_session_holds_in_every_order_of_messages() {
    let worlds: usize = (1..=3).map(|r| session(3, r, Lie::None).unwrap()).sum();
    assert!(worlds > 5_000, "{worlds} worlds: the model has shrunk");
    println!("I-SESSION: {worlds} worlds");
}

#[test]
fn every_planted_bug_is_caught() {
    let lies = [Lie::ReadsOneLess, Lie::WritesOneLess, Lie::ErrorIsNotFound, Lie::RefusalIsSame, Lie::FailureIsAck];
    for lie in lies {
        assert!(overlap(3, 2, 2, lie, &FAILURES).is_err(), "{lie:?} went unnoticed");
    }
    for lie in [Lie::RepairNotAwaited, Lie::ReadsOneLess] {
        assert!(monotonic(3, 2, lie).is_err(), "{lie:?} went unnoticed");
    }
    for lie in [Lie::NoFloor, Lie::NotWidened, Lie::SilenceIsIgnorance] {
        assert!(session(3, 1, lie).is_err(), "{lie:?} went unnoticed");
    }
    assert!(overlap(3, 1, 2, Lie::None, &FAILURES).is_err(), "R + W = N promises nothing, and the model can tell");
}

//! Collection of tombstones (semantics section 5, I-DELETE, I-ACK): rounds of mark, drain, seal and drop, by two drivers,
//! over two owners, while a client puts, deletes and reads, states arrive as late as they like or from a hint, an owner
//! crashes, loses its disk and is replaced, cannot read its copy any more, or finds an old copy of its directory in its
//! place (or who holds the hint does), or rounds are abandoned because owners are about to change.
//!
//! Judged in every state: nothing that an acknowledged write superseded is held again, or read again; nothing that was
//! acknowledged is gone. And no state wedges: from each, once faults end, a driver that knows nothing but what the owners
//! tell it collects every deletion, the owners agree, and nothing that was collected is left beside a value.
//!
//! One key, up to three writes, two rounds, two late frames, one crash or one lost disk; of what may go wrong beside the
//! frames one or two things at a time. A round lists the key, or only others. Nothing is left out of a round itself: each
//! step of it at each owner is one of its own, and a driver may be as slow as it likes. Not here: retirement of ended
//! actors, horizons (`expiry`), owners that are not replaced one for one, a third owner, a fallback that coordinates.
//!
//! One rule of the text is not missed in these bounds when it is taken out, and stays because it costs nothing: that drops
//! wait for all seals (here an owner that has marked covers all that old states can bring). Another one does harm: an owner
//! that has sealed goes on *sending* what it is about to drop, for whoever mends a damaged copy has it from there alone, and
//! whoever has sealed does not take it.
//!
//! What it found: the epoch that a lost owner had raised is known to nobody, and is given out again; a hint that was read
//! there passes the next round's drain (`Bug::EpochReused`; decision 0021).

mod bug;
mod rules;
mod settle;
mod state;

use quorate::causality::{self, MergeRules, Object, Payload, Supersedes, VersionVector};
use quorate::types::{ActorId, Stamp, Wall};

use super::explore::{Model, clean, finds};
use bug::Bug;
use state::{Action, Frame, Obj, Owner, Round, State, WRITES, Written, those};

/// What may happen in a run, and which rules are taken out.
#[derive(Clone, Copy)]
struct Collection {
    bugs: &'static [Bug],
    /// What has happened when it begins.
    before: &'static [Action],
    writes: usize,
    rounds: usize,
    frames: usize,
    /// Whose clock is ahead of the other's.
    fast: usize,
    /// Whether drivers begin with epochs that they asked for a while ago.
    late: bool,
    beside: bool,
    hints: bool,
    reads: bool,
    crashes: bool,
    wipes: bool,
    damages: bool,
    /// Whether owner 1's directory, or that of who holds hints, is put back from an old copy.
    backs: bool,
    holder_backs: bool,
    /// Whether rounds are abandoned, for owners are about to change.
    abandons: bool,
    /// What a read returns is not judged, only what is stored.
    stores_alone: bool,
}

/// One round, one late frame, one write and its deletion.
const SMALL: Collection = Collection {
    bugs: &[],
    before: &[],
    writes: 2,
    rounds: 1,
    frames: 1,
    fast: 1,
    late: false,
    beside: false,
    hints: false,
    reads: false,
    crashes: false,
    wipes: false,
    damages: false,
    backs: false,
    holder_backs: false,
    abandons: false,
    stores_alone: false,
};
/// ... and another round.
const ROUNDS: Collection = Collection { rounds: 2, ..SMALL };
const READS: Collection = Collection { reads: true, ..SMALL };
const HINTS: Collection = Collection { hints: true, ..SMALL };
const CRASH: Collection = Collection { crashes: true, ..SMALL };
const WIPE: Collection = Collection { wipes: true, ..SMALL };
const ABANDONS: Collection = Collection { abandons: true, ..SMALL };
const DAMAGE: Collection = Collection { damages: true, ..SMALL };
const BACK: Collection = Collection { backs: true, ..SMALL };
const HOLDER_BACK: Collection = Collection { hints: true, holder_backs: true, ..SMALL };
/// Both owners have a value when a disk is lost.
const REPLACED: Collection =
    Collection { hints: true, wipes: true, before: &[Action::Put(0), Action::Push(0)], ..ROUNDS };

impl Collection {
    /// What the stores of a state show that they must not.
    fn stored_wrong(&self, state: &State) -> Option<String> {
        let [a, mut b] = state.owners.map(|owner| owner.now.object);
        if self.backs && Self::has_forgotten(state) {
            // Nobody takes it, or counts it.
            b = Obj::default();
        }
        let sealed = state.owners.map(|owner| owner.now.sealed).into_iter().max().unwrap_or_default();
        let taken = |hint: &Frame| !self.holder_backs || hint.epoch >= sealed;
        let hint = state.hint.filter(taken).map_or(Obj::default(), |hint| hint.object);
        let all = state.merge(state.merge(a, b), hint);
        let (taken, values) = (state.strictly | state.sloppily, !state.tombstones(state.all()));
        if all.held & values & state.past_of(taken) != 0 {
            return Some("what was deleted is back".into());
        }
        let lost = taken & values & !state.past_of(state.all()) & !all.held;
        (lost != 0).then(|| "what was acknowledged is gone".into())
    }
}

impl Model for Collection {
    type State = State;
    type Action = Action;

    fn start(&self) -> State {
        let nothing = State {
            owners: [0, 1].map(|actor| Owner { actor, ..Owner::default() }),
            frames: [None; 2],
            hint: None,
            holder: 0,
            forgetful: false,
            stale: false,
            backup: None,
            read: None,
            written: [Written::default(); WRITES],
            writes: 0,
            rounds: [Round::default(); state::ROUNDS],
            begun: 0,
            strictly: 0,
            sloppily: 0,
            failed: false,
            misread: 0,
            missed: 0,
        };
        self.before.iter().fold(nothing, |state, action| self.step(&state, action))
    }

    fn actions(&self, state: &State) -> Vec<Action> {
        self.all_actions(state)
    }

    fn step(&self, state: &State, action: &Action) -> State {
        let mut next = *state;
        self.do_one(&mut next, action);
        next
    }

    fn wrong(&self, state: &State) -> Option<String> {
        if state.misread != 0 && !self.stores_alone {
            return Some("a read returned what was deleted before it began".into());
        }
        if state.missed != 0 && !self.stores_alone {
            return Some("a read missed what was acknowledged before it began".into());
        }
        self.stored_wrong(state).or_else(|| self.wedged(state))
    }

    fn most(&self) -> usize {
        3_000_000
    }
}

#[test]
fn late_frames_bring_nothing_back() {
    assert!(clean("collection, three writes", &Collection { writes: 3, frames: 2, fast: 0, ..SMALL }) > 200_000);
    assert!(clean("collection, two rounds", &Collection { frames: 2, late: true, ..ROUNDS }) > 500_000);
    assert!(clean("collection, siblings", &Collection { writes: 3, beside: true, ..SMALL }) > 50_000);
}

#[test]
fn reads_across_a_round_show_nothing_deleted() {
    assert!(clean("collection, a read", &Collection { frames: 2, ..READS }) > 300_000);
}

#[test]
fn hints_are_no_exception() {
    assert!(clean("collection, a hint", &Collection { rounds: 2, ..HINTS }) > 500_000);
}

#[test]
fn a_crash_forgets_nothing_that_was_answered() {
    assert!(clean("collection, a crash", &Collection { rounds: 2, ..CRASH }) > 500_000);
}

#[test]
fn a_damaged_copy_is_mended_from_whoever_has_sealed() {
    assert!(clean("collection, a damaged copy", &Collection { rounds: 2, ..DAMAGE }) > 500_000);
    let planted = |name: &str, bugs, run: Collection| finds(name, &Collection { bugs, ..run });
    planted("what is sealed is sent no more", &[Bug::HidesSealed], DAMAGE);
    planted("a damaged copy is sealed", &[Bug::SealsDamaged], DAMAGE);
}

#[test]
fn an_owner_is_replaced_between_rounds() {
    assert!(clean("collection, a lost disk", &Collection { rounds: 2, ..WIPE }) > 500_000);
    assert!(clean("collection, rounds abandoned", &Collection { rounds: 2, ..ABANDONS }) > 300_000);
    assert!(clean("collection, a lost disk and a hint", &REPLACED) > 100_000);
}

#[test]
fn a_directory_that_went_back_brings_nothing_back() {
    assert!(clean("collection, an owner goes back", &Collection { frames: 1, ..BACK }) > 100_000);
    assert!(clean("collection, an owner goes back, two rounds", &Collection { rounds: 2, frames: 0, ..BACK }) > 50_000);
    assert!(clean("collection, an owner goes back, reads", &Collection { reads: true, frames: 0, ..BACK }) > 10_000);
    assert!(clean("collection, who holds hints goes back", &HOLDER_BACK) > 100_000);
}

#[test]
fn every_rule_of_a_directory_that_went_back_is_needed() {
    let planted = |name: &str, bugs, run: Collection| finds(name, &Collection { bugs, ..run });
    planted("an owner that went back goes on", &[Bug::GoesOnBehind], BACK);
    planted("an owner that went back learns", &[Bug::LearnsBehind], BACK);
    planted("an owner that went back marks", &[Bug::MarksUnheard], Collection { rounds: 2, frames: 0, ..BACK });
    planted("who holds hints went back, and goes on", &[Bug::HolderGoesOn], HOLDER_BACK);
}

#[test]
fn every_rule_of_a_round_is_needed() {
    let planted = |name: &str, bugs, run: Collection| finds(name, &Collection { bugs, ..run });
    planted("marks on gossip", &[Bug::Gossip], SMALL);
    planted("marks of what is not held", &[Bug::Unchecked], SMALL);
    planted("steps are not flushed", &[Bug::Unflushed], CRASH);
    planted("a mark raises no epoch", &[Bug::SameEpoch], SMALL);
    planted("an epoch belongs to two rounds", &[Bug::SharedEpoch], Collection { late: true, ..ROUNDS });
    planted("rounds replace one another", &[Bug::Replaced], ROUNDS);
    planted("what another began is left", &[Bug::LeavesForeign], ROUNDS);
    planted("no drain", &[Bug::NoDrain], HINTS);
    planted("hints are taken after the drain", &[Bug::TakesAfterDrain], HINTS);
    planted("old epochs are taken", &[Bug::NoRefusal], SMALL);
    planted("old epochs are taken by whoever read them", &[Bug::OwnStore], SMALL);
    planted("the epoch of when it is sent", &[Bug::WhenSent], SMALL);
    planted("a read counts across a seal", &[Bug::CountsAcross], READS);
    planted("no floor", &[Bug::NoFloor], Collection { writes: 3, fast: 0, ..SMALL });
    planted("no strip", &[Bug::NoStrip], SMALL);
    planted("strip until any seal", &[Bug::StripUntilAnySeal], ROUNDS);
}

/// A merge that is as new as its newest part does no harm where reads across a seal have no vote: each of the two rules
/// keeps the stores whole alone.
#[test]
fn the_least_epoch_of_a_merge_is_needed() {
    let across = Collection { stores_alone: true, bugs: &[Bug::CountsAcross], ..READS };
    clean("collection, what is stored where reads count across a seal", &across);
    finds("the greatest epoch of a merge", &Collection { bugs: &[Bug::CountsAcross, Bug::GreatestEpoch], ..across });
}

#[test]
fn every_rule_of_a_replacement_is_needed() {
    let planted = |name: &str, bugs, run: Collection| finds(name, &Collection { bugs, ..run });
    planted("a new store learns no epoch", &[Bug::NoEpochLearnt], WIPE);
    planted("a new store learns not what is sealed", &[Bug::NoSealLearnt], WIPE);
    planted("a new store inherits marks", &[Bug::MarksInherited], WIPE);
    planted("an owner is replaced while a round is sealed", &[Bug::ReplacedWhileSealed], WIPE);
    planted("an owner abandons what it has sealed", &[Bug::AbandonsSealed], ABANDONS);
    planted("what was abandoned stays sealed", &[Bug::KeepsAbandoned], ABANDONS);
    planted("an epoch is given out again", &[Bug::EpochReused], REPLACED);
}

/// The product's merge and mint, and the model's, side by side.
#[test]
fn an_object_is_the_products_own() {
    let rules = MergeRules::default();
    let model = SMALL;
    let mut seed = 1_u64;
    let mut below = |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((seed >> 33) % n).unwrap()
    };
    for _ in 0..3000 {
        let mut state = model.start();
        let mut objects = [Object::new(), Object::new()];
        for _ in 0..12 {
            let (at, what) = (below(2), below(5));
            let number = u64::from(state.writes);
            if what < 3 && (state.writes as usize) < WRITES {
                let (tombstone, supersedes) = match what {
                    0 => (false, Supersedes::Tombstones),
                    1 => (false, Supersedes::Covered(VersionVector::new())),
                    _ => (true, Supersedes::Seen),
                };
                model.do_one(&mut state, &[Action::Put(at), Action::PutBeside(at), Action::Delete(at)][what]);
                let stamp = state.written[usize::try_from(number).unwrap()].stamp;
                let payload = Payload {
                    value: (!tombstone).then(Default::default),
                    written_at: Wall(number),
                    ..Payload::default()
                };
                let wish = causality::Write { payload, supersedes, request: None };
                let reading = Stamp(u64::from(state.owners[at].ticks) + if at == model.fast { 10 } else { 0 });
                let minted = causality::write(&objects[at], wish, ActorId(at as u64), reading, Stamp(0), &rules);
                assert_eq!(minted.dot.stamp, Stamp(u64::from(stamp)));
                objects[at] = minted.object;
            } else {
                model.do_one(&mut state, &Action::Push(at));
                let from = objects[at].clone();
                objects[1 - at].merge(&from, &rules);
            }
            for (object, owner) in objects.iter().zip(state.owners) {
                let held: Vec<u64> = object.siblings().iter().map(|sibling| sibling.payloads[0].written_at.0).collect();
                let mut spelled: Vec<u64> = those(owner.now.object.held).map(|n| n as u64).collect();
                spelled.sort_by_key(|n| (state.written[*n as usize].actor, state.written[*n as usize].stamp));
                assert_eq!(held, spelled);
                for actor in 0..state::ACTORS {
                    let seen = object.context().get(ActorId(actor as u64)).map_or(0, |stamp| stamp.0);
                    assert_eq!(seen, u64::from(owner.now.object.context[actor]));
                }
            }
        }
    }
}

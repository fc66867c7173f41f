//! The rules of a coordinated write, one by one.

use super::*;
use crate::quorum::testing::{ids, one_layout, two_layouts};
use crate::quorum::{Described, Level, Role};

const A: StoreId = StoreId::from_bits(0);
const B: StoreId = StoreId::from_bits(1);
const C: StoreId = StoreId::from_bits(2);
const NOW: Mono = Mono(5);

fn core(level: Level, durable: usize) -> PutCore {
    let mut core = PutCore::new(one_layout(level, 3), [], durable, Some(A), Some(Recorder::new(Mono(0))));
    let sends: Vec<_> = [B, C].map(|to| PutAction::Send { to, layouts: vec![1] }).into();
    assert_eq!(core.start(Mono(1)), sends, "to all other owners at once");
    core
}

fn counted(answered: u32, needed: u32) -> Counted {
    Counted { answered, needed, n: 3, layout: 1, sloppy: 0 }
}

#[test]
fn w_acknowledgements_answer_and_late_ones_are_noted() {
    let mut core = core(Level::Two, 0);
    assert_eq!(core.on_ack(NOW, A, &[1], false), None);
    assert_eq!(core.on_ack(NOW, A, &[1], false), None, "one owner counts once");
    assert_eq!(core.on_ack(NOW, StoreId::from_bits(9), &[1], false), None, "a stranger does not count");
    assert_eq!(core.on_ack(NOW, B, &[1], true), Some(PutAction::Answer(counted(2, 2))));
    assert_eq!(core.missed().collect::<Vec<_>>(), [C]);
    assert!(!core.is_settled());
    assert_eq!(core.on_ack(Mono(90), C, &[1], false), None, "answered once");
    assert_eq!(core.missed().count(), 0);
    assert!(core.is_settled());
    let explain = core.recorder().unwrap().explain(|id| Described {
        node: id.bits().to_string(),
        zone: String::new(),
        role: Role::Owner,
    });
    assert_eq!((explain.late, explain.decided_us), (vec!["2".to_owned()], Some(5)));
    assert_eq!(explain.replicas.iter().map(|r| r.counted).collect::<Vec<_>>(), [true, true, false]);
}

#[test]
fn too_many_failures_end_it_with_nothing_known() {
    let mut core = core(Level::Two, 0);
    assert_eq!(core.on_failed(NOW, B, NoVote::Unreachable), None);
    let fail = PutAction::Fail { why: PutFailure::TooFewAcks, counted: counted(0, 2) };
    assert_eq!(core.failed().collect::<Vec<_>>(), [B]);
    assert_eq!(core.on_failed(NOW, C, NoVote::Refused), Some(fail));
    assert_eq!(core.on_ack(NOW, B, &[1], true), None);
    assert_eq!(core.states().collect::<Vec<_>>(), [(A, "timeout"), (B, "ok"), (C, "refused")]);
    assert_eq!((core.unheard().collect::<Vec<_>>(), core.failed().collect::<Vec<_>>()), (vec![A], vec![C]));
    assert_eq!(core.missed().collect::<Vec<_>>(), [A, C]);
}

#[test]
fn the_deadline_ends_it() {
    let mut core = core(Level::All, 0);
    core.on_ack(NOW, A, &[1], true);
    let fail = PutAction::Fail { why: PutFailure::DeadlinePassed, counted: counted(1, 3) };
    assert_eq!(core.on_deadline(NOW), Some(fail));
    assert_eq!(core.on_deadline(NOW), None);
}

#[test]
fn a_failure_takes_no_acknowledgement_back() {
    let mut core = core(Level::Two, 0);
    core.on_ack(NOW, A, &[1], true);
    core.on_failed(NOW, A, NoVote::TimedOut);
    assert!(matches!(core.on_ack(NOW, B, &[1], false), Some(PutAction::Answer(_))));
}

#[test]
fn durable_waits_for_a_flush_beyond_w() {
    let mut core = core(Level::Two, 1);
    assert_eq!(core.on_ack(NOW, A, &[1], false), None);
    assert_eq!(core.on_ack(NOW, B, &[1], false), None, "two, but none flushed");
    assert_eq!(core.on_ack(NOW, C, &[1], true), Some(PutAction::Answer(counted(3, 2))));
    let mut core = self::core(Level::Two, 2);
    core.on_ack(NOW, A, &[1], false);
    assert!(core.on_ack(NOW, B, &[1], false).is_some_and(|a| matches!(a, PutAction::Fail { .. })));
}

#[test]
fn an_acknowledgement_counts_only_in_the_layouts_it_was_for() {
    // Layout 1 owned by 0..3, layout 2 by 1..4.
    let mut core = PutCore::new(two_layouts(Level::Quorum), [], 0, Some(B), None);
    let sends = core.start(NOW);
    assert!(sends.contains(&PutAction::Send { to: C, layouts: vec![2, 1] }));
    assert!(sends.contains(&PutAction::Send { to: A, layouts: vec![1] }));
    assert_eq!(core.on_ack(NOW, B, &[1, 2], true), None);
    assert_eq!(core.on_ack(NOW, C, &[1], true), None, "layout 2 has one of two");
    assert_eq!(core.on_ack(NOW, A, &[1], true), None);
    assert_eq!(core.missed().collect::<Vec<_>>(), ids([2, 3]));
    assert!(matches!(core.on_ack(NOW, C, &[2], true), Some(PutAction::Answer(_))));
}

#[test]
fn who_has_dropped_a_layout_acknowledges_in_part_and_is_asked_what_it_knows() {
    // Layout 1 owned by 0..3, layout 2 by 1..4; B and C have dropped layout 1, and nothing is heard of A.
    let write = || {
        let mut core = PutCore::new(two_layouts(Level::Quorum), [], 0, Some(B), None);
        core.start(NOW);
        for from in [B, C] {
            assert_eq!(core.on_ack(NOW, from, &[2], true), None);
            assert!(core.acked_in_part(from));
        }
        assert!(!core.acked_in_part(A), "it has not acknowledged at all");
        core
    };
    let mut learnt = write();
    let actions = learnt.on_layouts(NOW, two_layouts(Level::Quorum).in_layout(2).unwrap(), [], Fallbacks::default());
    assert!(matches!(actions[..], [PutAction::Answer(_)]), "what they said for layout 2 is enough there");
    assert!(!learnt.acked_in_part(B));
    // Where nothing can be learnt it ends all the same.
    let mut ends = write();
    assert_eq!(ends.on_failed(NOW, B, NoVote::Refused), None, "A and C may make layout 1's quorum");
    let ended = ends.on_failed(NOW, C, NoVote::Refused);
    assert!(matches!(ended, Some(PutAction::Fail { why: PutFailure::TooFewAcks, .. })), "{ended:?}");
}

#[test]
fn under_other_layouts_an_acknowledgement_stands_for_the_one_it_was_for() {
    // Layout 1 owned by 0..3; then layout 2 by 1..4 as well.
    let mut core = PutCore::new(one_layout(Level::Quorum, 3), [], 0, Some(A), None);
    core.start(NOW);
    assert_eq!(core.on_ack(NOW, A, &[1], true), None);
    let sends = core.on_layouts(NOW, two_layouts(Level::Quorum), [], Fallbacks::default());
    let to = |id, layouts: &[u64]| PutAction::Send { to: id, layouts: layouts.to_vec() };
    let d = StoreId::from_bits(3);
    assert_eq!(sends, [to(B, &[2, 1]), to(C, &[2, 1]), to(d, &[2])], "A has all it counts in");
    assert_eq!(core.on_ack(NOW, B, &[1], true), None, "enough in layout 1, none in 2");
    assert_eq!(core.on_ack(NOW, d, &[2], true), None);
    assert!(matches!(core.on_ack(NOW, B, &[2, 1], true), Some(PutAction::Answer(_))), "asked again, it counts");
    assert_eq!(core.on_layouts(NOW, one_layout(Level::All, 3), [], Fallbacks::default()), [], "decided is decided");

    let mut core = PutCore::new(two_layouts(Level::Quorum), [], 0, Some(B), None);
    core.start(NOW);
    core.on_failed(NOW, A, NoVote::Refused);
    core.on_ack(NOW, B, &[2, 1], true);
    core.on_ack(NOW, C, &[1], true);
    assert!(matches!(
        core.on_layouts(NOW, one_layout(Level::Quorum, 3), [], Fallbacks::default())[..],
        [PutAction::Answer(_)]
    ));
}

/// A write at `level` of which B is down from the start: 7 stands in for it, 8 and 9 for whoever fails.
fn sloppy(level: Level) -> PutCore {
    let core = PutCore::new(one_layout(level, 3), [], 0, Some(A), Some(Recorder::new(Mono(0))));
    let mut core = core.sloppy(Fallbacks::new([(ids(0..3), ids(7..10))]), None);
    assert_eq!(core.start(NOW).len(), 2, "those that are down are sent to all the same");
    assert_eq!(core.stand_in(NOW, &[B]), [hint(7, B)]);
    assert_eq!(core.stand_in(NOW, &[B]), [], "nobody needs two");
    core
}

fn hint(to: u128, owner: StoreId) -> PutAction {
    PutAction::Hint { to: StoreId::from_bits(to), owner, layouts: vec![1] }
}

fn by(bits: u128) -> StoreId {
    StoreId::from_bits(bits)
}

#[test]
fn a_hint_is_its_owners_vote_and_only_one() {
    let mut core = sloppy(Level::All);
    assert_eq!(core.on_hinted(NOW, by(7), &[1], false), None);
    assert_eq!(core.on_hinted(NOW, by(7), &[1], false), None, "once");
    assert_eq!(core.on_hinted(NOW, by(8), &[1], false), None, "nobody asked it");
    assert_eq!(core.on_ack(NOW, B, &[1], true), None, "the owner's own vote is the same one");
    assert_eq!(core.on_ack(NOW, A, &[1], true), None);
    let done = core.on_ack(NOW, C, &[1], true);
    assert_eq!(done, Some(PutAction::Answer(counted(3, 3))), "and who has it needs nobody in its place");
    let mut core = sloppy(Level::Two);
    core.on_ack(NOW, A, &[1], true);
    let two = Counted { sloppy: 1, ..counted(2, 2) };
    assert_eq!(core.on_hinted(NOW, by(7), &[1], true), Some(PutAction::Answer(two)));
    assert_eq!(core.missed().collect::<Vec<_>>(), [B, C], "a hint is not the owner's copy");
    assert!(core.is_hinted(B) && !core.is_hinted(C));
    assert_eq!(core.on_failed(NOW, C, NoVote::TimedOut), None, "nobody is asked after the decision");
    let explain = core.recorder().unwrap().explain(|id| Described {
        node: id.bits().to_string(),
        zone: String::new(),
        role: if id.bits() > 6 { Role::Fallback } else { Role::Owner },
    });
    assert_eq!(explain.hinted, ["1"]);
    let stood = explain.replicas.iter().find(|replica| replica.role == Role::Fallback).unwrap();
    assert!(stood.counted && stood.result == Some(ReplicaResult::Flushed) && stood.sent_us == Some(5));
}

#[test]
fn who_fails_is_followed_by_the_next_until_there_is_none() {
    let mut core = sloppy(Level::All);
    assert_eq!(core.on_failed(NOW, B, NoVote::Unreachable), None, "7 stands in for it");
    assert_eq!(core.on_hint_failed(NOW, by(7), NoVote::Refused), Some(hint(8, B)));
    assert_eq!(core.on_failed(NOW, C, NoVote::TimedOut), Some(hint(9, C)));
    assert_eq!(core.on_hint_failed(NOW, by(7), NoVote::Refused), None, "it is known");
    assert_eq!(core.unheard_stand_ins().collect::<Vec<_>>(), ids([8, 9]));
    core.on_ack(NOW, A, &[1], true);
    core.on_hinted(NOW, by(8), &[1], true);
    let fail = PutAction::Fail { why: PutFailure::TooFewAcks, counted: Counted { sloppy: 1, ..counted(2, 3) } };
    assert_eq!(core.on_hint_failed(NOW, by(9), NoVote::Refused), Some(fail));
    let states = [(A, "ok"), (B, "down"), (C, "timeout"), (by(7), "refused"), (by(8), "ok"), (by(9), "refused")];
    assert_eq!(core.states().collect::<Vec<_>>(), states);
}

#[test]
fn an_owner_may_answer_after_its_stand_in_has_failed() {
    let mut core = PutCore::new(one_layout(Level::All, 3), [], 0, Some(A), None);
    core = core.sloppy(Fallbacks::new([(ids(0..3), ids([7]))]), None);
    core.start(NOW);
    core.stand_in(NOW, &[B]);
    assert_eq!(core.on_hint_failed(NOW, by(7), NoVote::Refused), None, "B was not heard of yet");
    core.on_ack(NOW, A, &[1], true);
    core.on_ack(NOW, B, &[1], true);
    assert_eq!(core.on_ack(NOW, C, &[1], true), Some(PutAction::Answer(counted(3, 3))));
}

#[test]
fn a_coordinator_that_stands_in_counts_by_its_own_hint() {
    let core = PutCore::new(one_layout(Level::One, 3), [], 0, None, None);
    let mut core = core.sloppy(Fallbacks::new([(ids(0..3), ids([7, 8]))]), Some((C, by(8))));
    assert_eq!(core.start(NOW).len(), 3);
    assert_eq!(core.stands_for(by(8)), Some(C));
    assert_eq!(core.stand_in(NOW, &[A, B, C]), [hint(7, A)], "itself it is for nobody else");
    let one = Counted { sloppy: 1, ..counted(1, 1) };
    assert_eq!(core.on_hinted(NOW, by(8), &[1], true), Some(PutAction::Answer(one)));
}

#[test]
fn a_hint_counts_only_where_its_owner_does_and_not_for_a_fallback_that_owns() {
    // Layout 1 owned by 0..3; then layout 2 by 1..4 as well. 3 stood in, and so did 7.
    let mut core = PutCore::new(one_layout(Level::All, 3), [], 0, Some(A), None);
    core = core.sloppy(Fallbacks::new([(ids(0..3), ids([3, 7]))]), None);
    core.start(NOW);
    assert_eq!(core.stand_in(NOW, &[B, C]), [hint(3, B), hint(7, C)]);
    core.on_hinted(NOW, by(3), &[1], true);
    let now = Fallbacks::new([(ids(0..4), ids([7, 8]))]);
    let actions = core.on_layouts(NOW, two_layouts(Level::All), [], now);
    let again = PutAction::Hint { to: by(7), owner: C, layouts: vec![2, 1] };
    assert!(actions.contains(&again), "{actions:?}");
    assert!(actions.contains(&PutAction::Send { to: by(3), layouts: vec![2] }), "it is an owner now");
    assert_eq!(core.on_hinted(NOW, by(3), &[2, 1], true), None);
    let next = core.on_failed(NOW, B, NoVote::Unreachable);
    assert_eq!(next, Some(PutAction::Hint { to: by(8), owner: B, layouts: vec![2, 1] }));
    core.on_ack(NOW, by(3), &[2], true);
    core.on_hinted(NOW, by(7), &[2, 1], true);
    assert_eq!(core.on_ack(NOW, A, &[1], true), None, "B's copy of layout 2 is nowhere yet");
    assert!(matches!(core.on_hinted(NOW, by(8), &[2], true), Some(PutAction::Answer(_))));
}

#[test]
fn a_fallback_that_acknowledges_in_part_is_asked_what_it_knows_and_waited_for_no_longer() {
    let mut core = PutCore::new(two_layouts(Level::All), [], 0, Some(A), None);
    core = core.sloppy(Fallbacks::new([(ids(0..4), ids([7]))]), None);
    core.start(NOW);
    core.stand_in(NOW, &[B]);
    for (owner, layouts) in [(A, &[1][..]), (C, &[2, 1]), (by(3), &[2])] {
        assert_eq!(core.on_ack(NOW, owner, layouts, true), None);
    }
    core.on_failed(NOW, B, NoVote::Unreachable);
    assert!(!core.hinted_in_part(by(7)), "it has said nothing");
    assert_eq!(core.on_hinted(NOW, by(7), &[2], true), None);
    assert!(core.hinted_in_part(by(7)), "layout 1 has B's copy nowhere");
    let undecided = core.on_hint_failed(NOW, by(7), NoVote::Refused);
    assert!(matches!(undecided, Some(PutAction::Fail { .. })), "{undecided:?}");
    assert!(!core.hinted_in_part(by(7)));
}

#[test]
fn a_fallback_that_was_none_for_a_while_is_still_the_same_disk() {
    let mut core = PutCore::new(one_layout(Level::All, 3), [], 0, Some(A), None);
    core = core.sloppy(Fallbacks::new([(ids(0..3), ids([7]))]), None);
    core.start(NOW);
    assert_eq!(core.stand_in(NOW, &[B]), [hint(7, B)]);
    core.on_hinted(NOW, by(7), &[1], true);
    for free in [vec![8], vec![7, 8]] {
        core.on_layouts(NOW, two_layouts(Level::All), [], Fallbacks::new([(ids(0..4), ids(free))]));
    }
    let next = core.on_failed(NOW, C, NoVote::Unreachable);
    let instead = PutAction::Hint { to: by(8), owner: C, layouts: vec![2, 1] };
    assert_eq!(next, Some(instead), "7 has given B's vote in layout 1");
}

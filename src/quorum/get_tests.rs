use super::*;
use crate::quorum::testing::{digest, ids, includes, on_top, one_layout, two_layouts};
use crate::quorum::{Described, Level, Role};

impl GetCore {
    /// Everything in it that a later decision can depend on: two cores with one key behave alike.
    pub(in super::super) fn hash_into(&self, hasher: &mut impl std::hash::Hasher) {
        use std::hash::Hash;
        self.base.as_ref().map(|(_, digest)| digest).hash(hasher);
        self.known.as_deref().map(digest).hash(hasher);
        self.tally.hash(hasher);
        for member in &self.members {
            let (state, held) = match &member.copy {
                Copy::Unasked => (0, None),
                Copy::Asked { conditional } => (1 + u8::from(*conditional), None),
                Copy::Failed { conditional, .. } => (3 + u8::from(*conditional), None),
                Copy::Holds(held) => (5, held.as_deref().map(digest)),
            };
            (member.id, state, held, member.sent.as_deref().map(digest), member.repairs).hash(hasher);
        }
        self.widened.hash(hasher);
        match &self.phase {
            Phase::Asking => 0.hash(hasher),
            Phase::Mending { result, hold, divergent } => (1, digest(result), hold, divergent).hash(hasher),
            Phase::Decided => 2.hash(hasher),
        }
    }
}

const A: StoreId = StoreId::from_bits(0);
const B: StoreId = StoreId::from_bits(1);
const C: StoreId = StoreId::from_bits(2);
const NOW: Mono = Mono(7);

fn plan(level: Level, repair: Repair) -> ReadPlan {
    let votes = one_layout(level, 3);
    let (hold, rules) = (votes.clone(), MergeRules::default());
    ReadPlan { votes, hold, candidates: ids([0, 1, 2]), beside: None, own: Some(A), rules, repair, floor: None, digest }
}

fn started(level: Level, repair: Repair) -> GetCore {
    let mut core = GetCore::new(plan(level, repair), None);
    assert_eq!(core.start(NOW), [ask(A, None)], "the own replica first, alone");
    core
}

fn ask(to: StoreId, have: Option<&Object>) -> GetAction {
    GetAction::Ask { to, have: have.map(digest) }
}

fn mend(to: StoreId, object: &Object, awaited: bool) -> GetAction {
    GetAction::Repair { to, object: Arc::new(object.clone()), awaited }
}

fn answer(object: Option<&Object>, answered: u32, needed: u32, divergent: bool) -> GetAction {
    let counted = Counted { answered, needed, n: 3, layout: 1, sloppy: 0 };
    GetAction::Answer(Found { object: object.cloned().map(Arc::new), counted, divergent })
}

fn fail(why: GetFailure, answered: u32, needed: u32) -> GetAction {
    GetAction::Fail { why, counted: Counted { answered, needed, n: 3, layout: 1, sloppy: 0 } }
}

fn object(value: &str) -> Object {
    on_top(&Object::new(), 1, value)
}

fn has(object: &Object) -> ReplicaReply {
    ReplicaReply::Object(object.clone())
}

fn no(why: NoVote) -> ReplicaReply {
    ReplicaReply::NoVote(why)
}

#[test]
fn equal_copies_are_answered_after_one_conditional_read() {
    let x = object("x");
    let mut core = started(Level::Quorum, Repair::Sync);
    assert_eq!(core.on_reply(NOW, A, has(&x)), [ask(B, Some(&x))]);
    assert_eq!(core.on_reply(NOW, B, ReplicaReply::Same), [answer(Some(&x), 2, 2, false)]);
    assert!(core.is_settled());
    assert_eq!(core.on_reply(NOW, B, ReplicaReply::Same), []);
    assert_eq!(core.on_deadline(NOW), []);
}

#[test]
fn one_reads_nothing_but_the_own_replica() {
    let x = object("x");
    let mut core = started(Level::One, Repair::Sync);
    assert_eq!(core.on_reply(NOW, A, has(&x)), [answer(Some(&x), 1, 1, false)]);
}

#[test]
fn not_found_needs_r_votes_and_an_error_is_none() {
    for why in [NoVote::Failed, NoVote::Refused, NoVote::Syncing, NoVote::Unreachable, NoVote::TimedOut] {
        let mut core = started(Level::Quorum, Repair::Sync);
        assert_eq!(core.on_reply(NOW, A, ReplicaReply::Nothing), [ask(B, None)]);
        assert_eq!(core.on_reply(NOW, B, no(why)), [ask(C, None)], "the next candidate");
        let mut other = core.clone();
        assert_eq!(core.on_reply(NOW, C, ReplicaReply::Nothing), [answer(None, 2, 2, false)]);
        assert_eq!(other.on_reply(NOW, C, no(why)), [fail(GetFailure::TooFewVotes, 1, 2)]);
        let states: Vec<_> = other.states().map(|(_, state)| state).collect();
        assert_eq!(states, ["ok", why.as_str(), why.as_str()]);
    }
}

#[test]
fn an_empty_object_is_nothing() {
    let mut core = started(Level::One, Repair::Sync);
    assert_eq!(core.on_reply(NOW, A, has(&Object::new())), [answer(None, 1, 1, false)]);
}

#[test]
fn sync_mends_the_own_replica_before_the_answer() {
    let old = object("old");
    let new = on_top(&old, 2, "new");
    let mut core = started(Level::Quorum, Repair::Sync);
    core.on_reply(NOW, A, has(&old));
    assert_eq!(core.on_reply(NOW, B, has(&new)), [mend(A, &new, true)]);
    assert_eq!(core.on_repair_ack(NOW, B, true), [], "nothing was sent there");
    assert_eq!(core.on_repair_ack(NOW, A, true), [answer(Some(&new), 2, 2, true)]);
}

#[test]
fn siblings_are_merged_and_both_sides_mended() {
    let (x, y) = (object("x"), on_top(&Object::new(), 2, "y"));
    let mut both = x.clone();
    both.merge(&y, &MergeRules::default());
    let mut core = started(Level::Quorum, Repair::Sync);
    core.on_reply(NOW, A, has(&x));
    assert_eq!(core.on_reply(NOW, B, has(&y)), [mend(A, &both, true), mend(B, &both, true)]);
    assert_eq!(core.on_repair_ack(NOW, A, true), []);
    assert_eq!(core.on_repair_ack(NOW, B, true), [answer(Some(&both), 2, 2, true)]);
}

#[test]
fn any_owner_will_do_where_a_stale_one_takes_no_repair() {
    let x = object("x");
    let mut core = started(Level::Quorum, Repair::Sync);
    core.on_reply(NOW, A, ReplicaReply::Nothing);
    assert_eq!(core.on_reply(NOW, B, has(&x)), [mend(A, &x, true)]);
    let mut other = core.clone();
    assert_eq!(core.on_repair_ack(NOW, A, false), [mend(C, &x, true)]);
    assert_eq!(core.on_repair_ack(NOW, C, true), [answer(Some(&x), 2, 2, true)]);
    other.on_repair_ack(NOW, A, false);
    assert_eq!(other.on_repair_ack(NOW, C, false), [fail(GetFailure::NotMended, 1, 2)]);
}

#[test]
fn not_mended_in_time_is_a_failure_never_the_value() {
    let x = object("x");
    let mut core = started(Level::Quorum, Repair::Sync);
    core.on_reply(NOW, A, ReplicaReply::Nothing);
    core.on_reply(NOW, B, has(&x));
    assert_eq!(core.on_hedge(NOW), [mend(C, &x, true)], "a slow repair is hedged, too");
    assert_eq!(core.on_deadline(NOW), [fail(GetFailure::NotMended, 1, 2)]);
    assert_eq!(core.on_repair_ack(NOW, A, true), []);
    assert!(!core.is_settled());
    core.on_repair_ack(NOW, C, true);
    assert!(core.is_settled());
}

#[test]
fn async_mends_after_the_answer_and_off_does_not() {
    let x = object("x");
    let mut core = started(Level::Quorum, Repair::Async);
    core.on_reply(NOW, A, ReplicaReply::Nothing);
    assert_eq!(core.on_reply(NOW, B, has(&x)), [answer(Some(&x), 2, 2, true), mend(A, &x, false)]);
    let mut core = started(Level::Quorum, Repair::Off);
    core.on_reply(NOW, A, ReplicaReply::Nothing);
    assert_eq!(core.on_reply(NOW, B, has(&x)), [answer(Some(&x), 2, 2, true)]);
}

#[test]
fn a_damaged_own_copy_is_read_around_without_a_digest() {
    let x = object("x");
    let mut core = started(Level::Quorum, Repair::Sync);
    assert_eq!(core.on_reply(NOW, A, no(NoVote::Failed)), [ask(B, None), ask(C, None)]);
    assert_eq!(core.on_reply(NOW, B, has(&x)), []);
    assert_eq!(core.on_reply(NOW, C, has(&x)), [answer(Some(&x), 2, 2, false)]);
}

#[test]
fn a_coordinator_without_a_copy_asks_r_at_once() {
    let mut core =
        GetCore::new(ReadPlan { own: None, candidates: ids([2, 9, 1]), ..plan(Level::Quorum, Repair::Sync) }, None);
    assert_eq!(core.start(NOW), [ask(C, None), ask(B, None)], "in the order given, members alone");
    assert_eq!(core.on_reply(NOW, C, ReplicaReply::Same), [ask(A, None)], "same as nothing is no vote");
}

#[test]
fn a_hedge_asks_one_more_and_the_late_one_is_mended() {
    let old = object("old");
    let new = on_top(&old, 2, "new");
    let mut core = GetCore::new(plan(Level::Quorum, Repair::Sync), Some(Recorder::new(Mono(0))));
    core.start(NOW);
    core.on_reply(NOW, A, has(&new));
    assert_eq!(core.on_hedge(NOW), [ask(C, Some(&new))]);
    assert_eq!(core.on_hedge(NOW), [], "nobody is left");
    assert_eq!(core.on_reply(NOW, C, ReplicaReply::Same), [answer(Some(&new), 2, 2, false)]);
    assert!(!core.is_settled());
    assert_eq!(core.on_reply(Mono(99), B, has(&old)), [mend(B, &new, false)]);
    core.on_repair_ack(NOW, B, true);
    assert!(core.is_settled());
    let describe = |id: StoreId| Described { node: id.to_string(), zone: String::new(), role: Role::Owner };
    let explain = core.recorder().unwrap().explain(describe);
    assert_eq!((explain.late, explain.repaired), (vec![B.to_string()], vec![B.to_string()]));
    assert_eq!(
        explain.replicas.iter().map(|r| (r.counted, r.hedged)).collect::<Vec<_>>(),
        [(true, false), (false, false), (true, true)]
    );
    assert_eq!(explain.replicas[0].dots, [new.siblings()[0].dot.to_string()]);
}

#[test]
fn a_late_reply_that_knows_more_is_spread_to_the_others() {
    let old = object("old");
    let new = on_top(&old, 2, "new");
    let mut core = started(Level::Quorum, Repair::Async);
    core.on_reply(NOW, A, has(&old));
    core.on_hedge(NOW);
    assert_eq!(core.on_reply(NOW, C, ReplicaReply::Same), [answer(Some(&old), 2, 2, false)]);
    assert_eq!(core.on_reply(NOW, B, has(&new)), [mend(A, &new, false), mend(C, &new, false)]);
}

#[test]
fn a_slow_own_disk_is_read_around() {
    let x = object("x");
    let mut core = started(Level::Quorum, Repair::Sync);
    assert_eq!(core.on_hedge(NOW), [ask(B, None), ask(C, None)]);
    core.on_reply(NOW, B, has(&x));
    assert_eq!(core.on_reply(NOW, C, has(&x)), [answer(Some(&x), 2, 2, false)]);
    assert_eq!(core.on_reply(NOW, A, ReplicaReply::Nothing), [mend(A, &x, false)]);
}

#[test]
fn a_vote_that_comes_after_its_timeout_counts() {
    let x = object("x");
    let mut core = started(Level::Quorum, Repair::Sync);
    core.on_reply(NOW, A, has(&x));
    assert_eq!(core.on_reply(NOW, B, no(NoVote::TimedOut)), [ask(C, Some(&x))]);
    assert_eq!(core.on_reply(NOW, B, ReplicaReply::Same), [answer(Some(&x), 2, 2, false)]);
}

#[test]
fn one_that_holds_more_than_the_result_holds_it() {
    // While A is being mended, B's newer copy arrives: B holds the result, and A and C get the rest afterwards.
    let (x, y) = (object("x"), on_top(&Object::new(), 2, "y"));
    let mut core = started(Level::Quorum, Repair::Sync);
    core.on_reply(NOW, A, ReplicaReply::Nothing);
    core.on_hedge(NOW);
    assert_eq!(core.on_reply(NOW, C, has(&x)), [mend(A, &x, true)]);
    let mut more = x.clone();
    more.merge(&y, &MergeRules::default());
    let actions = core.on_reply(NOW, B, has(&more));
    assert_eq!(actions, [answer(Some(&x), 3, 2, true), mend(A, &more, false), mend(C, &more, false)]);
    assert!(includes(&more, &x));
}

/// A read in layout 1 (0, 1, 2) while layout 2 (1, 2, 3) is live: of what 0 and 1 hold, layout 2 has one of two.
fn amid_a_change() -> GetCore {
    let hold = two_layouts(Level::Quorum);
    let votes = hold.in_layout(1).unwrap();
    let mut core = GetCore::new(ReadPlan { votes, hold, ..plan(Level::Quorum, Repair::Sync) }, None);
    assert_eq!(core.start(NOW), [ask(A, None)]);
    core
}

#[test]
fn a_read_while_layouts_change_asks_those_who_count_in_each_and_writes_nothing_that_is_held() {
    let x = object("x");
    let mut core = amid_a_change();
    assert_eq!(core.on_reply(NOW, A, has(&x)), [ask(B, Some(&x)), ask(C, Some(&x))]);
    assert_eq!(core.on_reply(NOW, B, ReplicaReply::Same), [], "2 have voted; layout 2 has one of two");
    assert_eq!(core.on_reply(NOW, C, ReplicaReply::Same), [answer(Some(&x), 3, 2, false)]);
    assert!(core.is_settled());
}

#[test]
fn a_read_while_layouts_change_waits_for_r_in_each_to_hold() {
    let (x, d) = (object("x"), StoreId::from_bits(3));
    let mut core = amid_a_change();
    core.on_reply(NOW, A, has(&x));
    assert_eq!(core.on_reply(NOW, B, ReplicaReply::Same), []);
    assert_eq!(core.on_reply(NOW, C, no(NoVote::Failed)), [mend(d, &x, true)], "who does not say that it holds it");
    assert_eq!(core.on_repair_ack(NOW, d, false), [mend(C, &x, true)]);
    assert_eq!(core.on_repair_ack(NOW, C, true), [answer(Some(&x), 2, 2, false)]);

    // One that is stale is mended, and one that is slow not waited for.
    let mut core = amid_a_change();
    core.on_reply(NOW, A, has(&x));
    core.on_reply(NOW, B, ReplicaReply::Same);
    assert_eq!(core.on_hedge(NOW), [mend(d, &x, true)]);
    assert_eq!(core.on_repair_ack(NOW, d, true), [answer(Some(&x), 2, 2, false)]);
    let mut core = amid_a_change();
    core.on_reply(NOW, A, has(&x));
    core.on_reply(NOW, B, ReplicaReply::Same);
    assert_eq!(core.on_reply(NOW, C, ReplicaReply::Nothing), [mend(C, &x, true)]);
    assert_eq!(core.on_repair_ack(NOW, C, true), [answer(Some(&x), 3, 2, false)]);
}

#[test]
fn what_hints_hold_is_merged_into_what_votes_bring_and_is_no_vote() {
    let (old, new) = (on_top(&Object::new(), 1, "old"), on_top(&Object::new(), 2, "hinted"));
    let plan = ReadPlan { beside: Some(Arc::new(new.clone())), ..plan(Level::Two, Repair::Async) };
    let mut core = GetCore::new(plan, None);
    core.start(NOW);
    assert!(
        core.on_reply(NOW, A, ReplicaReply::Object(old.clone())).iter().all(|it| !matches!(it, GetAction::Answer(_)))
    );
    let actions = core.on_reply(NOW, B, ReplicaReply::Same);
    let mut both = old.clone();
    both.merge(&new, &MergeRules::default());
    let Some(GetAction::Answer(found)) = actions.first() else { panic!("{actions:?}") };
    assert_eq!((found.object.as_deref(), found.divergent), (Some(&both), true));
    let repaired = actions.iter().filter(|it| matches!(it, GetAction::Repair { awaited: false, .. })).count();
    assert_eq!(repaired, 2, "the owners get it");
    let mut nothing =
        GetCore::new(ReadPlan { beside: Some(Arc::new(Object::new())), ..self::plan(Level::One, Repair::Off) }, None);
    nothing.start(NOW);
    assert!(matches!(
        &nothing.on_reply(NOW, A, ReplicaReply::Nothing)[..],
        [GetAction::Answer(Found { object: None, .. })]
    ));
}

#[test]
fn a_fallback_votes_in_its_owners_place() {
    let votes = one_layout(Level::All, 3).with_stand_ins(&[(C, StoreId::from_bits(7))]);
    assert_eq!(votes.members(), ids([0, 1, 7]));
    let plan = ReadPlan { votes, candidates: ids([0, 1, 7]), ..plan(Level::All, Repair::Async) };
    let mut core = GetCore::new(plan, None);
    core.start(NOW);
    core.on_reply(NOW, A, ReplicaReply::Nothing);
    core.on_reply(NOW, B, ReplicaReply::Nothing);
    assert_eq!(core.on_reply(NOW, C, ReplicaReply::Nothing), []);
    let actions = core.on_reply(NOW, StoreId::from_bits(7), ReplicaReply::Nothing);
    assert!(matches!(&actions[..], [GetAction::Answer(Found { object: None, .. })]), "{actions:?}");
}

/// A read at `one` of three owners that has to cover `seen`.
fn with_floor(seen: &Object) -> GetCore {
    let floor = Some(Floor { seen: seen.context().clone(), owners: ids([0, 1, 2]) });
    let plan = ReadPlan { floor, ..plan(Level::One, Repair::Async) };
    let mut core = GetCore::new(plan, Some(Recorder::new(NOW)));
    assert_eq!(core.start(NOW), [ask(A, None)]);
    core
}

#[test]
fn a_floor_that_r_votes_cover_costs_nothing() {
    let old = object("old");
    let new = on_top(&old, 2, "new");
    for seen in [Object::new(), old, new.clone()] {
        let mut core = with_floor(&seen);
        assert_eq!(core.on_reply(NOW, A, has(&new)), [answer(Some(&new), 1, 1, false)]);
        assert!(!core.is_widened());
    }
    // Nothing was ever seen, and nothing is there.
    assert_eq!(with_floor(&Object::new()).on_reply(NOW, A, ReplicaReply::Nothing), [answer(None, 1, 1, false)]);
}

#[test]
fn an_unmet_floor_widens_to_every_owner_and_the_first_that_has_it_ends_the_wait() {
    let old = object("old");
    let new = on_top(&old, 2, "new");
    let mut core = with_floor(&new);
    assert_eq!(core.on_reply(NOW, A, has(&old)), [ask(B, Some(&old)), ask(C, Some(&old))]);
    assert_eq!(core.on_reply(NOW, B, ReplicaReply::Same), [], "R have voted, and have not seen it");
    let actions = core.on_reply(NOW, C, has(&new));
    assert_eq!(actions, [answer(Some(&new), 3, 1, true), mend(A, &new, false), mend(B, &new, false)]);
    assert!(core.is_widened());
    let described = |_| Described { node: "n".into(), zone: "z".into(), role: Role::Owner };
    assert!(core.recorder().unwrap().explain(described).widened, "and says so");
}

#[test]
fn a_floor_that_several_cover_only_together_is_covered() {
    let (x, y) = (object("x"), on_top(&Object::new(), 2, "y"));
    let mut both = x.clone();
    both.merge(&y, &MergeRules::default());
    let mut core = with_floor(&both);
    core.on_reply(NOW, A, has(&x));
    assert_eq!(core.on_reply(NOW, C, has(&y))[0], answer(Some(&both), 2, 1, true));
}

#[test]
fn what_no_owner_has_any_more_is_not_waited_for() {
    let mut core = with_floor(&object("collected"));
    assert_eq!(core.on_reply(NOW, A, ReplicaReply::Nothing), [ask(B, None), ask(C, None)]);
    assert_eq!(core.on_reply(NOW, B, ReplicaReply::Nothing), []);
    assert_eq!(core.on_reply(NOW, C, ReplicaReply::Nothing), [answer(None, 3, 1, false)]);
    // Nor where something else is left.
    let x = on_top(&Object::new(), 2, "x");
    let mut core = with_floor(&object("collected"));
    core.on_reply(NOW, A, has(&x));
    core.on_reply(NOW, B, ReplicaReply::Same);
    assert_eq!(core.on_reply(NOW, C, ReplicaReply::Same), [answer(Some(&x), 3, 1, false)]);
}

#[test]
fn an_owner_without_a_vote_may_be_the_one_that_has_it() {
    let old = object("old");
    let new = on_top(&old, 2, "new");
    for why in [NoVote::Failed, NoVote::Refused, NoVote::Syncing, NoVote::Unreachable, NoVote::TimedOut] {
        let mut core = with_floor(&new);
        core.on_reply(NOW, A, has(&old));
        assert_eq!(core.on_reply(NOW, B, no(why)), []);
        let mut late = core.clone();
        assert_eq!(core.on_reply(NOW, C, ReplicaReply::Same), [fail(GetFailure::SessionUnmet, 2, 1)]);
        assert_eq!(late.on_deadline(NOW), [fail(GetFailure::SessionUnmet, 1, 1)], "while C says nothing");
    }
}

#[test]
fn a_floor_is_looked_for_at_every_owner_whoever_may_vote() {
    // A fallback votes in C's place, and C itself is asked when the floor is not covered.
    let votes = one_layout(Level::Two, 3).with_stand_ins(&[(C, StoreId::from_bits(7))]);
    let new = object("new");
    let floor = Some(Floor { seen: new.context().clone(), owners: ids([0, 1, 2]) });
    let own = ReadPlan { votes, candidates: ids([0, 7, 1]), floor, ..plan(Level::Two, Repair::Off) };
    let mut core = GetCore::new(own, None);
    core.start(NOW);
    assert_eq!(core.on_reply(NOW, A, ReplicaReply::Nothing), [ask(StoreId::from_bits(7), None)]);
    assert_eq!(core.on_reply(NOW, StoreId::from_bits(7), ReplicaReply::Nothing), [ask(B, None), ask(C, None)]);
    assert_eq!(core.on_reply(NOW, B, ReplicaReply::Nothing), [], "one owner has said nothing");
    assert_eq!(core.on_reply(NOW, C, has(&new)), [answer(Some(&new), 3, 2, true)]);
}

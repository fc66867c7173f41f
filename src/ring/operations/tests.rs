use proptest::prelude::*;

use super::*;
use crate::ring::chain::tests::{changed, founded, members, store};
use crate::ring::operations::follow::{Stage, stage, steps};
use crate::ring::{Chain, ChainError, Tracker, Trackers};

/// What one node knows, in a form that tests can change.
struct Known {
    chain: Chain,
    trackers: Trackers,
    me: u128,
    down: Vec<u128>,
    ahead: Vec<(u128, u64)>,
    silent: Vec<u128>,
    candidates: Vec<Member>,
    sized: bool,
}

fn known(numbers: &[u128]) -> Known {
    let chain = founded(numbers);
    let (down, ahead) = (Vec::new(), Vec::new());
    let (trackers, me) = (Trackers::default(), numbers[0]);
    Known { chain, trackers, me, down, ahead, silent: Vec::new(), candidates: Vec::new(), sized: true }
}

impl Known {
    fn view(&self) -> View<'_> {
        View { chain: &self.chain, trackers: &self.trackers, me: store(self.me) }
    }

    fn with<T>(&self, ask: impl FnOnce(View<'_>, &Facts<'_>) -> T) -> T {
        let down: BTreeSet<StoreId> = self.down.iter().map(|number| store(*number)).collect();
        let heard = |whose: StoreId| {
            self.ahead.iter().find(|(number, _)| store(*number) == whose).map_or(1, |(_, version)| *version)
        };
        let up = |whose: StoreId| !down.contains(&whose);
        let bytes = |_| self.sized.then_some(1000);
        let silent = self.silent.iter().map(|number| store(*number)).collect();
        let (candidates, unsynced) = (&self.candidates[..], &BTreeSet::new());
        let facts = Facts { candidates, up: &up, knows: &heard, bytes: &bytes, unsynced, silent: &silent };
        ask(self.view(), &facts)
    }

    fn plan(&self, changes: &Changes) -> Result<Plan, Refused> {
        self.with(|view, facts| plan(view, facts, changes))
    }

    fn refuses(&self, changes: &Changes, why: &str) {
        let text = self.plan(changes).expect_err(why).to_string();
        assert!(text.contains(why), "{text:?} does not say {why:?}");
    }

    /// Takes a plan's layout; the change is under way then.
    fn begin(&mut self, changes: &Changes) {
        let next = self.plan(changes).unwrap().next;
        self.chain.push(next).unwrap();
    }

    fn says(&mut self, number: u128, tracker: Tracker) {
        self.trackers.set_own(store(number), &tracker);
    }
}

fn names(numbers: &[u128]) -> Vec<String> {
    numbers.iter().map(|number| format!("n{number}")).collect()
}

fn adds(numbers: &[u128]) -> Changes {
    Changes { add: names(numbers), ..Changes::default() }
}

fn removes(numbers: &[u128]) -> Changes {
    Changes { remove: names(numbers), ..Changes::default() }
}

fn leaves(numbers: &[u128]) -> Changes {
    Changes { leave: names(numbers), ..Changes::default() }
}

fn weighs(name: &str, weight: u32) -> Changes {
    Changes { weights: [(name.to_owned(), weight)].into(), ..Changes::default() }
}

fn abort() -> Changes {
    Changes { abort: true, ..Changes::default() }
}

fn changes_of(plan: &Plan) -> Vec<(String, Change)> {
    let rows = plan.report.members.iter();
    rows.flat_map(|row| row.changes.iter().map(|change| (row.member.name.clone(), change.clone()))).collect()
}

#[test]
fn several_changes_are_one_layout() {
    let mut known = known(&[1, 2, 3, 4, 5]);
    known.candidates = members(&[6, 7]);
    known.down = vec![3];
    let labels = Labels { zone: Some("b".into()), region: None };
    let all = Changes {
        add: names(&[6]),
        leave: names(&[2]),
        replace: vec![Replace { old: "n3".into(), new: "n7".into() }],
        weights: [("n1".to_owned(), 3), ("n6".to_owned(), 2)].into(),
        labels: [("n4".to_owned(), labels)].into(),
        ..Changes::default()
    };
    let plan = known.plan(&all).unwrap();
    assert_eq!((plan.kind, plan.next.version()), (Kind::Change, 2));
    let expected = [
        ("n1", Change::Weight { from: 1, to: 3 }),
        ("n2", Change::Leaves),
        ("n3", Change::ReplacedBy("n7".into())),
        ("n4", Change::Zone { from: String::new(), to: "b".into() }),
        ("n6", Change::Joins),
        ("n7", Change::Replaces("n3".into())),
    ];
    assert_eq!(changes_of(&plan), expected.map(|(name, change)| (name.to_owned(), change)));
    let of = |name: &str| plan.report.members.iter().find(|row| row.member.name == name).unwrap();
    assert_eq!((of("n2").after, of("n2").gains, of("n3").after), (0, 0, 0));
    assert_eq!((of("n6").before, of("n6").after, of("n6").gains), (0, of("n6").after, of("n6").after));
    assert_eq!(of("n6").member.weight, 2);
    let (moved, copied): (usize, usize) =
        (plan.report.moved.iter().map(|moved| moved.partitions).sum(), plan.report.copied);
    assert_eq!((moved, plan.report.bytes), (copied, Some(1000 * copied as u64)));
    assert_eq!(plan.risks, Risks::default());
    let zones: Vec<_> = plan.report.zones.iter().map(|zone| (zone.zone.as_str(), zone.members)).collect();
    assert_eq!(zones, [("", 4), ("b", 1)]);
    assert_eq!(plan.report.zones.iter().map(|zone| zone.after).sum::<usize>(), 4 * 3, "every replica lies somewhere");
    known.sized = false;
    assert_eq!(known.plan(&all).unwrap().report.bytes, None, "not known is not nought");
}

#[test]
fn what_makes_no_sense_is_refused_and_says_what_would() {
    let mut known = known(&[1, 2, 3, 4]);
    known.candidates = [members(&[5, 6]), members(&[6, 104])].concat();
    known.down = vec![4];
    known.refuses(&Changes::default(), "nothing would change");
    known.refuses(&removes(&[44]), "no member is called \"n44\": did you mean n4?");
    known.refuses(&adds(&[7]), "no node that waits to join is called \"n7\": did you mean n5?");
    known.refuses(&adds(&[6]), "2 nodes are called \"n6\"");
    known.refuses(&adds(&[4]), "a member is called n4 already");
    known.refuses(&adds(&[2]), "n2 is a member already: to leave out a dead member beside it, remove that one");
    known.refuses(&removes(&[3]), "n3 is up");
    known.refuses(&removes(&[1]), "n1 is up");
    known.refuses(&leaves(&[4]), "n4 is down");
    known.refuses(&leaves(&[3, 3]), "n3 is named twice");
    known.refuses(&Changes { leave: names(&[4]), ..removes(&[4]) }, "n4 is named twice");
    known.refuses(&Changes { leave: names(&[3]), ..weighs("n3", 2) }, "n3 is named twice");
    known.refuses(&weighs("n3", 0), "n3: a weight is at least 1");
    known.refuses(&weighs("n3", 1), "nothing would change");
    known.refuses(&Changes { weights: weighs("n5", 0).weights, ..adds(&[5]) }, "n5: a weight is at least 1");
    known.refuses(&abort(), "layout 1 is complete");
    known.down.clear();
    known.refuses(&leaves(&[1, 2, 3, 4]), "somebody has to stay");
    known.down = vec![4];
    let by_id = known.chain.newest().members().iter().find(|member| member.name == "n4").unwrap().node.to_string();
    let plan = known.plan(&Changes { remove: vec![by_id], ..Changes::default() }).unwrap();
    assert_eq!(changes_of(&plan), [("n4".to_owned(), Change::Removed)]);
}

#[test]
fn a_wiped_node_takes_its_own_places() {
    let mut known = known(&[1, 2, 3]);
    known.candidates = members(&[103]);
    known.down = vec![3];
    let replace = Replace { old: "n3".into(), new: "n3".into() };
    let plan = known.plan(&Changes { replace: vec![replace], ..Changes::default() }).unwrap();
    let expected = [Change::ReplacedBy("n3".into()), Change::Replaces("n3".into())];
    assert_eq!(changes_of(&plan), expected.map(|change| ("n3".to_owned(), change)));
    assert_eq!(plan.next.partitions_of(store(103)), known.chain.newest().partitions_of(store(3)));
    let [Moved { from: Some(from), to, partitions: 4 }] = plan.report.moved[..] else { panic!("{:?}", plan.report) };
    assert_eq!((from, to), (store(3), store(103)));
}

#[test]
fn too_few_live_replicas_want_force_and_a_lost_majority_wants_more() {
    let mut known = known(&[1, 2, 3, 4]);
    known.candidates = members(&[5]);
    known.down = vec![3, 4];
    let (force, all) = (Consent { force: true, ..Consent::default() }, Consent { force: true, accept_data_loss: true });
    let grown = known.plan(&adds(&[5])).unwrap();
    assert!(matches!(grown.risks.allow(Consent::default()), Err(Refused::TooThin(_))), "{:?}", grown.risks);
    assert_eq!(grown.risks.allow(force), Ok(()));
    let without = known.plan(&removes(&[3, 4])).unwrap();
    assert!(matches!(without.risks.allow(force), Err(Refused::MayLose(_))), "both may be a write's majority");
    assert_eq!(without.risks.allow(all), Ok(()));
    known.down = vec![4];
    assert_eq!(known.plan(&removes(&[4])).unwrap().risks, Risks::default(), "one of three is no majority");
}

#[test]
fn while_a_change_is_under_way_it_is_aborted_or_the_dead_are_left_out_and_nothing_else() {
    let mut known = known(&[1, 2, 3]);
    known.candidates = members(&[4, 5]);
    known.begin(&adds(&[4]));
    known.refuses(&adds(&[5]), "layout 2 is not complete yet");
    known.refuses(&weighs("n2", 2), "layout 2 is not complete yet");
    known.refuses(&leaves(&[2]), "layout 2 is not complete yet");
    known.refuses(&Changes { leave: names(&[2]), ..abort() }, "only removed members go with it");
    let back = known.plan(&abort()).unwrap();
    assert_eq!((back.kind, back.next.members().len()), (Kind::Abort, 4), "the joiner lives, and stays");
    let mut aborted = known.chain.clone();
    aborted.push(back.next).unwrap();
    aborted.drop_before(3);
    let under_way = std::mem::replace(&mut known.chain, aborted);
    let again = known.plan(&Changes { rebalance: true, ..Changes::default() }).unwrap();
    assert!(!again.next.partitions_of(store(4)).is_empty(), "and is given its share when all is placed anew");
    known.chain = under_way;
    known.down = vec![4];
    let back = known.plan(&abort()).unwrap();
    assert_eq!((back.kind, back.next.members().len()), (Kind::Abort, 3), "a dead joiner would hold it up");
    assert_eq!(back.risks, Risks::default());
    let skip = known.plan(&removes(&[4])).unwrap();
    assert_eq!((skip.kind, changes_of(&skip)), (Kind::Skip, vec![("n4".to_owned(), Change::Removed)]));
    known.down = vec![2];
    let back = known.plan(&Changes { remove: names(&[2]), ..abort() }).unwrap();
    assert_eq!(back.next.members().len(), 3);
    let still_down = known.plan(&abort()).unwrap();
    assert!(
        still_down.next.member_by_store(store(2)).is_some(),
        "a member that may come back is left out by name only"
    );
}

#[test]
fn what_replaced_nothing_is_not_counted() {
    // n4 and n5 come and own much; both die before this node sync_acks. Then n1 to n3 hold all there is.
    let mut known = known(&[1, 2, 3]);
    known.candidates = members(&[4, 5]);
    known.begin(&adds(&[4, 5]));
    known.down = vec![4, 5];
    assert_eq!(known.plan(&removes(&[4, 5])).unwrap().risks.loses, []);
    known.says(1, Tracker { ack: 2, synced: [2].into(), sync_ack: 2 });
    let loses = known.plan(&removes(&[4, 5])).unwrap().risks.loses;
    assert!(loses.iter().all(|short| short.version == 2) && !loses.is_empty(), "{loses:?}");
}

#[test]
fn an_operation_is_followed_by_any_node() {
    let mut known = known(&[1, 2, 3, 4]);
    let first = known.chain.newest().hash();
    assert_eq!(stage(known.view(), 1, Some(first)), Stage::Done);
    assert_eq!(stage(known.view(), 2, None), Stage::Unheard);
    known.begin(&leaves(&[4]));
    let hash = known.chain.newest().hash();
    assert_eq!(stage(known.view(), 2, Some(first)), Stage::Lost, "another one was decided");
    assert_eq!((stage(known.view(), 2, Some(hash)), steps(known.view())), (Stage::Running, (0, 12)));
    known.says(2, Tracker { ack: 2, synced: [2].into(), sync_ack: 1 });
    assert_eq!(steps(known.view()), (2, 12));
    for number in 1..=4 {
        known.says(number, Tracker { ack: 2, synced: [2].into(), sync_ack: 2 });
    }
    assert_eq!(steps(known.view()), (12, 12));
    assert_eq!(stage(known.view(), 2, Some(hash)), Stage::Running, "n4 is still a member");
    let without = change::follow_up(&known.chain).unwrap().unwrap();
    known.chain.drop_before(2);
    known.chain.push(without).unwrap();
    assert_eq!(
        stage(known.view(), 2, Some(hash)),
        Stage::Running,
        "it is decided that it is none, and not yet in force"
    );
    assert_eq!(stage(known.view(), 3, None), Stage::Running);
    let before = known.chain.clone();
    known.chain.drop_before(3);
    assert_eq!((stage(known.view(), 2, Some(hash)), stage(known.view(), 3, None)), (Stage::Done, Stage::Done));
    known.chain = before;
    known.down = vec![3];
    known.begin(&removes(&[3]));
    assert_eq!(stage(known.view(), 3, None), Stage::Superseded(4));
}

#[test]
fn a_join_is_done_when_the_newcomer_decides() {
    let mut known = known(&[1, 2, 3]);
    known.candidates = members(&[4]);
    known.begin(&adds(&[4]));
    known.chain.drop_before(2);
    assert_eq!(stage(known.view(), 2, None), Stage::Running, "three decide, so two that die are too many");
    known.chain.push(change::follow_up(&known.chain).unwrap().unwrap()).unwrap();
    assert_eq!((stage(known.view(), 2, None), known.chain.deciders().len()), (Stage::Running, 4));
    known.chain.drop_before(3);
    assert_eq!(stage(known.view(), 2, None), Stage::Done);
    let mut other = changed(&known.chain, |spec| spec.default_bucket.n = 2);
    known.chain.push(other.clone()).unwrap();
    assert_eq!(stage(known.view(), 3, None), Stage::Done, "what is asked for by itself is another operation");
    other = changed(&known.chain, |spec| spec.default_bucket.n = 1);
    assert!(!change::is_follow_up(known.chain.newest(), &other));
}

#[test]
fn a_lost_majority_is_forced_by_whoever_knows_all_that_the_living_know() {
    let mut known = known(&[1, 2, 3, 4, 5]);
    known.down = vec![3, 4, 5];
    let force = |known: &Known, gone: &[u128]| known.with(|view, facts| force(view, facts, &names(gone)));
    assert!(matches!(force(&known, &[3, 4]), Err(Refused::Unheard { name }) if name == "n5"), "all have to be named");
    known.down = vec![3, 4];
    assert!(matches!(force(&known, &[3, 4]), Err(Refused::MajorityLives { left: 3, deciders: 5 })));
    known.silent = vec![2];
    assert_eq!(
        force(&known, &[3, 4]).unwrap().next.members().len(),
        3,
        "who has no voice decides nothing, and goes on"
    );
    known.silent.clear();
    known.down = vec![3, 4, 5];
    assert!(matches!(force(&known, &[2, 3, 4]), Err(Refused::Up { .. })));
    let plan = force(&known, &[3, 4, 5]).unwrap();
    assert!(matches!(plan.risks.allow_force(Consent { force: true, ..Consent::default() }), Err(Refused::Forced(_))));
    assert_eq!(plan.risks.allow_force(Consent { accept_data_loss: true, ..Consent::default() }), Ok(()));
    assert_eq!(plan.next.members().len(), 2);
    // The same command at another node makes the same layout.
    known.me = 2;
    assert_eq!(force(&known, &[5, 4, 3]).unwrap().next, plan.next);
    known.ahead = vec![(1, 2)];
    assert!(matches!(force(&known, &[3, 4, 5]), Err(Refused::Ahead { version: 2, newest: 1, .. })));
    known.ahead.clear();
    // Who is not named has to be there; another command makes another layout, and both are never taken.
    known.down = vec![1, 3, 4, 5];
    assert!(matches!(force(&known, &[3, 4, 5]), Err(Refused::Unheard { .. })));
    let other = force(&known, &[1, 3, 4, 5]).unwrap().next;
    let (mut one, mut two) = (known.chain.clone(), known.chain.clone());
    one.push(plan.next).unwrap();
    two.push(other).unwrap();
    assert_eq!(one.merge(&two), Err(ChainError::Fork { version: 2 }));
    assert_eq!(one.deciders().len(), 2, "those that are left decide from now on");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_plan_is_a_successor_and_its_report_adds_up(
        old in proptest::collection::btree_set(1u128..9, 2..7),
        joins in proptest::collection::btree_set(9u128..13, 0..3),
        gone in proptest::collection::btree_set(1u128..9, 0..3),
        leave in proptest::collection::btree_set(1u128..9, 0..2),
        weight in proptest::option::of((1u128..9, 1u32..5)),
    ) {
        let old: Vec<u128> = old.into_iter().collect();
        let mut known = known(&old);
        let both = |set: BTreeSet<u128>, without: &[u128]| -> Vec<u128> {
            set.into_iter().filter(|n| old.contains(n) && *n != old[0] && !without.contains(n)).collect()
        };
        let gone = both(gone, &[]);
        let leave = both(leave, &gone);
        let joins: Vec<u128> = joins.into_iter().collect();
        known.candidates = members(&joins);
        known.down = gone.clone();
        let heavy = weight.filter(|(n, _)| old.contains(n) && !gone.contains(n) && !leave.contains(n));
        let changes = Changes {
            add: names(&joins),
            remove: names(&gone),
            leave: names(&leave),
            weights: heavy.into_iter().map(|(n, weight)| (format!("n{n}"), weight)).collect(),
            ..Changes::default()
        };
        let Ok(plan) = known.plan(&changes) else {
            prop_assert!(heavy.is_none_or(|(_, weight)| weight == 1) && joins.len() + gone.len() + leave.len() == 0);
            return Ok(());
        };
        prop_assert_eq!(change::judge_successor(&known.chain, true, &plan.next), Ok(plan.kind));
        let report = &plan.report;
        let (before, after): (usize, usize) =
            report.members.iter().fold((0, 0), |(b, a), row| (b + row.before, a + row.after));
        let replicas = |count: usize| 4 * count.min(3);
        prop_assert_eq!(before, replicas(old.len()));
        prop_assert_eq!(after, replicas(old.len() + joins.len() - gone.len() - leave.len()));
        prop_assert_eq!(report.members.iter().map(|row| row.gains).sum::<usize>(), report.copied);
        prop_assert_eq!(report.moved.iter().map(|moved| moved.partitions).sum::<usize>(), report.copied);
        if let Some(least) = report.least_copied {
            prop_assert_eq!(report.after.unwrap().moves, report.copied, "counted as placement is judged");
            prop_assert!(least <= report.copied);
        }
        for row in &report.members {
            prop_assert!(row.gains <= row.after && row.before + row.gains >= row.after);
        }
        for name in gone.iter().chain(&leave) {
            let row = report.members.iter().find(|row| row.member.name == format!("n{name}")).unwrap();
            prop_assert_eq!(row.after, 0);
            prop_assert!(!row.changes.is_empty());
        }
    }
}

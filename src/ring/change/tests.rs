use proptest::prelude::*;

use super::*;
use crate::ring::chain::tests::{chain, changed, founded, members, store};
use crate::ring::live::{View, holders};
use crate::ring::risk::may_lose;
use crate::ring::sync::Merged;
use crate::ring::{Tracker, Trackers};
use crate::types::{Bucket, PartitionId};

fn plan(chain: &Chain, numbers: &[u128]) -> Layout {
    planner::plan(chain.newest(), members(numbers)).unwrap()
}

fn stores(numbers: &[u128]) -> BTreeSet<StoreId> {
    numbers.iter().map(|number| store(*number)).collect()
}

fn owners(layout: &Layout) -> Vec<Vec<StoreId>> {
    layout.grid().partitions().map(|partition| holders(layout, partition, None).stores().collect()).collect()
}

#[test]
fn behind_a_complete_layout_anything_goes_that_follows() {
    let chain = chain(&[&[1, 2, 3]]);
    assert_eq!(judge_successor(&chain, true, &plan(&chain, &[1, 2, 3, 4, 5])), Ok(Kind::Change));
    assert_eq!(judge_successor(&chain, true, &plan(&chain, &[1, 2])), Ok(Kind::Change));
    assert_eq!(judge_successor(&chain, true, &same_again(&chain).unwrap()), Ok(Kind::Same));
    let raised = changed(&chain, |spec| spec.default_bucket.n = 2);
    assert_eq!(judge_successor(&chain, true, &raised), Ok(Kind::Change));
    assert!(matches!(judge_successor(&chain, true, chain.newest()), Err(NotNow::Chain(_))));
}

#[test]
fn behind_an_unfinished_one_only_its_abort_or_a_skip_and_joiners_wait() {
    let chain = chain(&[&[1, 2, 3], &[1, 2, 3, 4]]);
    let judge = |next: Result<Layout, NotNow>| judge_successor(&chain, false, &next.unwrap());
    assert_eq!(judge(abort(&chain, &stores(&[]))), Ok(Kind::Abort));
    assert_eq!(judge(abort(&chain, &stores(&[4]))), Ok(Kind::Abort), "of a joiner that died");
    assert_eq!(judge(skip(&chain, &stores(&[2]))), Ok(Kind::Skip));
    assert_eq!(judge(same_again(&chain)), Err(NotNow::Unfinished { unfinished: 2 }));
    let joins = plan(&chain, &[1, 2, 3, 4, 5]);
    assert_eq!(judge(Ok(joins)), Err(NotNow::Joins { unfinished: 2, store: store(5) }));
    let replaced = plan(&chain, &[1, 2, 103, 4]);
    assert_eq!(judge(Ok(replaced)), Err(NotNow::Joins { unfinished: 2, store: store(103) }), "it is skipped first");
    let heavier = changed(&chain, |spec| spec.default_bucket.n = 2);
    assert_eq!(judge(Ok(heavier)), Err(NotNow::Unfinished { unfinished: 2 }));
}

#[test]
fn an_abort_is_not_aborted_but_repeated_and_whoever_dies_meanwhile_is_skipped() {
    let mut chain = chain(&[&[1, 2, 3], &[1, 2, 3, 4]]);
    chain.push(abort(&chain, &stores(&[])).unwrap()).unwrap();
    assert_eq!(abort(&chain, &stores(&[])), Err(NotNow::NothingToAbort { unfinished: 3 }));
    let again = same_again(&chain).unwrap();
    assert_eq!(judge_successor(&chain, false, &again), Ok(Kind::Same), "an abort that cannot complete is repeated");
    let mut moved = again.spec().clone();
    moved.members[0].client_address = "elsewhere:1".into();
    let moved = Layout::new(moved).unwrap();
    assert_eq!(judge_successor(&chain, false, &moved), Err(NotNow::NothingToAbort { unfinished: 3 }));
    let without = skip(&chain, &stores(&[2])).unwrap();
    assert_eq!(judge_successor(&chain, false, &without), Ok(Kind::Skip));
    let without_joiner = abort(&chain, &stores(&[4])).unwrap();
    assert_eq!(owners(&without_joiner), owners(&chain.layouts()[0]));
    assert_eq!(judge_successor(&chain, false, &without_joiner), Ok(Kind::Skip), "the joiner that stayed has died");
}

#[test]
fn an_abort_gives_back_n_and_keeps_what_must_not_go_back() {
    let bucket = Bucket::new("b").unwrap();
    let mut chain = founded(&[1, 2, 3]);
    let with = |n, generation| BucketSettings { id: 5, n, generation, ..BucketSettings::default() };
    chain.push(changed(&chain, |spec| drop(spec.buckets.insert(bucket.clone(), with(2, 1))))).unwrap();
    chain.drop_before(2);
    let next = changed(&chain, |spec| {
        spec.default_bucket.n = 1;
        spec.buckets.insert(bucket.clone(), with(3, 2));
    });
    chain.push(next).unwrap();
    let back = abort(&chain, &stores(&[])).unwrap();
    assert_eq!(back.spec().default_bucket.n, 3);
    assert_eq!(back.settings(&bucket), &with(2, 2), "what was purged stays purged");
    assert_eq!(judge_successor(&chain, false, &back), Ok(Kind::Abort));
}

#[test]
fn an_abort_whose_owners_are_gone_fills_their_places_from_the_old_members() {
    let chain = chain(&[&[1, 2, 3, 4], &[1, 2, 3, 4, 5]]);
    let back = abort(&chain, &stores(&[2])).unwrap();
    let listed: BTreeSet<StoreId> = owners(&back).into_iter().flatten().collect();
    assert_eq!(listed, stores(&[1, 3, 4]));
    assert_eq!(back.members().len(), 4, "the joiner lives, and stays");
    assert_eq!(judge_successor(&chain, false, &back), Ok(Kind::Skip));
}

#[test]
fn a_region_that_only_the_aborted_layout_had_goes_with_it() {
    let mut chain = founded(&[1, 2, 3]);
    let mut with_us = members(&[1, 2, 3, 4]);
    with_us[3].region = "us".into();
    chain.push(planner::plan(chain.newest(), with_us).unwrap()).unwrap();
    let back = abort(&chain, &stores(&[])).unwrap();
    assert_eq!(owners(&back), owners(&chain.layouts()[0]));
    assert_eq!(back.members().len(), 3);
}

#[test]
fn who_leaves_owns_nothing_and_is_copied_from() {
    let mut chain = founded(&[1, 2, 3, 4]);
    let next = leave(&chain, &stores(&[2])).unwrap();
    assert_eq!(judge_successor(&chain, true, &next), Ok(Kind::Change));
    let listed: BTreeSet<StoreId> = owners(&next).into_iter().flatten().collect();
    assert_eq!(listed, stores(&[1, 3, 4]));
    chain.push(next).unwrap();
    assert!(chain.ended().is_empty());
    let (mut trackers, me) = (Trackers::default(), store(4));
    trackers.set_own(me, &Tracker { ack: 2, ..Tracker::default() });
    let gains = View { chain: &chain, trackers: &trackers, me }.to_merge(&Merged::default());
    assert!(!gains.is_empty() && gains.iter().all(|gain| gain.sources.contains(&store(2))));
    chain.drop_before(2);
    let without = follow_up(&chain).unwrap().unwrap();
    assert_eq!(judge_successor(&chain, true, &without), Ok(Kind::Change));
    assert_eq!((owners(&without), without.members().len()), (owners(chain.newest()), 3), "nothing else moves");
    assert_eq!(
        may_lose(&chain, &stores(&[2]), &stores(&[]), &[]),
        [],
        "then it is left out, and nothing is lost by it"
    );
    let all = leave(&chain, &stores(&[1, 2, 3, 4]));
    assert!(matches!(all, Err(NotNow::NoLayout(_))), "somebody has to stay");
    chain.push(without).unwrap();
    chain.drop_before(3);
    assert_eq!(chain.ended(), &stores(&[2]));
    assert_eq!(follow_up(&chain), Ok(None), "everybody decides, nobody leaves");
}

#[test]
fn an_abort_takes_back_that_somebody_leaves_and_a_skip_leaves_the_leaving_out() {
    let mut chain = founded(&[1, 2, 3, 4]);
    chain.push(leave(&chain, &stores(&[2])).unwrap()).unwrap();
    let back = abort(&chain, &stores(&[])).unwrap();
    assert_eq!(judge_successor(&chain, false, &back), Ok(Kind::Abort));
    assert_eq!((owners(&back), back.leaving().count()), (owners(&chain.layouts()[0]), 0));
    let without = skip(&chain, &stores(&[2])).unwrap();
    assert_eq!(judge_successor(&chain, false, &without), Ok(Kind::Skip), "it died while it left");
    assert_eq!(owners(&without), owners(chain.newest()));
    let another = skip(&chain, &stores(&[3])).unwrap();
    let listed: BTreeSet<StoreId> = owners(&another).into_iter().flatten().collect();
    assert_eq!(listed, stores(&[1, 4]), "who leaves takes nobody's place");
}

#[test]
fn a_whole_region_leaves_and_comes_back_by_an_abort() {
    let mut all = members(&[1, 2, 3, 4]);
    all[3].region = "us".into();
    let (grid, settings) = (crate::ring::Grid::new(4).unwrap(), BucketSettings::default());
    let mut chain = Chain::founded(planner::found("test", grid, 5, settings, all).unwrap());
    let next = leave(&chain, &stores(&[4])).unwrap();
    assert_eq!(next.regions().collect::<Vec<_>>(), ["home"]);
    chain.push(next).unwrap();
    let back = abort(&chain, &stores(&[])).unwrap();
    assert_eq!(back.regions().collect::<Vec<_>>(), ["home", "us"]);
    assert_eq!(owners(&back), owners(&chain.layouts()[0]));
    // One that was leaving already when the aborted change began goes on leaving, region or not.
    chain.drop_before(2);
    let heavier = changed(&chain, |spec| spec.default_bucket.n = 2);
    chain.push(heavier).unwrap();
    let back = abort(&chain, &stores(&[])).unwrap();
    assert_eq!((back.members().len(), back.leaving().count()), (4, 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_change_can_be_aborted_and_whoever_dies_can_be_skipped(
        before in proptest::collection::btree_set(1u128..9, 1..7),
        joins in proptest::collection::btree_set(9u128..13, 0..4),
        dies in proptest::collection::btree_set(1u128..13, 0..3),
        leaves in proptest::collection::btree_set(1u128..9, 0..3),
        n in 1u8..4,
    ) {
        let old: Vec<u128> = before.iter().copied().collect();
        let all: Vec<u128> = before.iter().chain(&joins).copied().collect();
        let mut chain = founded(&old);
        let mut then = members(&all);
        let leave = |number: &u128| leaves.contains(number) && leaves.len() < all.len();
        for (number, member) in all.iter().zip(&mut then) {
            member.weight = u32::from(!leave(number));
        }
        prop_assume!(then.iter().any(|member| member.weight > 0));
        let mut spec = planner::plan(chain.newest(), then).unwrap().spec().clone();
        spec.default_bucket.n = n;
        chain.push(Layout::new(spec).unwrap()).unwrap();
        let dead: BTreeSet<StoreId> = dies.iter().filter(|id| all.contains(id)).map(|id| store(*id)).collect();
        prop_assert!(owners(chain.newest()).iter().flatten().all(|owner| all.iter().any(|n| !leave(n) && store(*n) == *owner)));
        let old_live = old.iter().any(|id| !dead.contains(&store(*id)));
        let changed = owners(chain.newest()) != owners(&chain.layouts()[0]) || n != 3;
        if old_live && changed {
            let back = abort(&chain, &dead).unwrap();
            prop_assert!(judge_successor(&chain, false, &back).is_ok());
            prop_assert!(back.members().iter().all(|member| !dead.contains(&member.store)));
            if old.iter().all(|id| !dead.contains(&store(*id))) {
                prop_assert_eq!(owners(&back), owners(&chain.layouts()[0]));
            }
            // And that once more, if somebody dies while it is under way.
            let mut on = chain.clone();
            on.push(back.clone()).unwrap();
            let last = back.members().last().map(|member| member.store).unwrap();
            if back.members().len() > 1 {
                prop_assert_eq!(judge_successor(&on, false, &skip(&on, &[last].into()).unwrap()), Ok(Kind::Skip));
            }
        }
        let stay = all.iter().any(|number| !leave(number) && !dead.contains(&store(*number)));
        if !dead.is_empty() && stay {
            let next = skip(&chain, &dead).unwrap();
            prop_assert!(matches!(judge_successor(&chain, false, &next), Ok(Kind::Skip | Kind::Abort)));
            let mut on = chain.clone();
            on.push(next).unwrap();
            prop_assert!(dead.is_subset(on.ended()));
            prop_assert!(on.newest().owners_in("home", PartitionId(0), 3).len() <= 3);
        }
    }
}

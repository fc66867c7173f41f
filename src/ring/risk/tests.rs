use proptest::prelude::*;

use super::*;
use crate::ring::chain::tests::{chain, founded, store};
use crate::ring::change::skip;

fn stores(numbers: &[u128]) -> BTreeSet<StoreId> {
    numbers.iter().map(|number| store(*number)).collect()
}

const NONE: BTreeSet<StoreId> = BTreeSet::new();

#[test]
fn a_plan_that_leaves_too_few_alive_says_where() {
    let plan = founded(&[1, 2, 3]).newest().clone();
    assert_eq!(too_thin(&plan, |_| true), []);
    assert_eq!(too_thin(&plan, |owner| owner != store(1)), []);
    let short = too_thin(&plan, |owner| owner == store(1));
    let [Short { left: 1, n: 3, quorum: 2, partitions: 4, region, .. }] = &short[..] else { panic!("{short:?}") };
    assert_eq!(region.as_deref(), Some("home"));
    let text = "layout 1: partition 0 and 3 more in region home: 1 of 3 replicas would be left, a quorum needs 2";
    assert_eq!(short[0].to_string(), text);
}

#[test]
fn one_of_three_is_skipped_freely_the_second_is_asked_for() {
    let mut known = chain(&[&[1, 2, 3, 4]]);
    assert_eq!(may_lose(&known, &stores(&[1]), &NONE, &[]), []);
    assert_ne!(may_lose(&known, &stores(&[1, 2]), &NONE, &[]), []);
    assert_ne!(may_lose(&known, &stores(&[1]), &stores(&[2]), &[]), [], "one that is not synced is as good as gone");
    known.push(skip(&known, &stores(&[1])).unwrap()).unwrap();
    let pledges = [(store(3), 1), (store(4), 1)];
    let short = may_lose(&known, &stores(&[2]), &NONE, &pledges);
    assert!(short.iter().all(|short| short.version == 1) && !short.is_empty(), "since the last complete layout");
    known.drop_before(2);
    assert_eq!(may_lose(&known, &stores(&[2]), &NONE, &[(store(3), 2), (store(4), 2)]), []);
}

#[test]
fn a_layout_counts_only_if_it_may_have_replaced_the_complete_one() {
    // 4 and 5 come, and hold much: are they dispensable?
    let chain = chain(&[&[1, 2, 3], &[1, 2, 3, 4, 5]]);
    let skipped = stores(&[4, 5]);
    assert_eq!(may_lose(&chain, &skipped, &NONE, &[(store(1), 2), (store(2), 1)]), [], "2 never read in layout 2");
    assert_ne!(may_lose(&chain, &skipped, &NONE, &[(store(1), 2), (store(2), 2)]), []);
    assert_ne!(may_lose(&chain, &skipped, &NONE, &[]), [], "where nobody said, it counts");
    let word_of_the_skipped = [(store(1), 2), (store(2), 2), (store(4), 1)];
    assert_ne!(may_lose(&chain, &skipped, &NONE, &word_of_the_skipped), [], "nobody waits for them any more");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn unasked_no_majority_of_a_layout_that_counts_is_lost(
        joins in proptest::collection::btree_set(6u128..9, 0..3),
        skipped in proptest::collection::btree_set(1u128..9, 0..4),
        unsynced in proptest::collection::btree_set(1u128..9, 0..2),
        sync_acked in 1u64..3,
    ) {
        let all: Vec<u128> = (1..6).chain(joins).collect();
        let chain = chain(&[&[1, 2, 3, 4, 5], &all]);
        let set = |numbers: &BTreeSet<u128>| numbers.iter().map(|number| store(*number)).collect::<BTreeSet<_>>();
        let (gone, unsynced) = (set(&skipped), set(&unsynced));
        let pledges: Vec<_> = all.iter().map(|number| (store(*number), sync_acked)).collect();
        let counted = if all.iter().all(|number| skipped.contains(number)) { 2 } else { sync_acked };
        let lost = chain.layouts()[..counted as usize].iter().any(|layout| {
            layout.grid().partitions().any(|partition| {
                let owners: Vec<_> = holders(layout, partition, None).stores().collect();
                let left = owners.iter().filter(|owner| !gone.contains(owner) && !unsynced.contains(owner)).count();
                // A write's majority may be exactly those that are gone.
                owners.len() - left > owners.len() / 2
            })
        });
        prop_assert_eq!(!may_lose(&chain, &gone, &unsynced, &pledges).is_empty(), lost);
    }
}

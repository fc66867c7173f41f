use proptest::prelude::*;

use super::*;
use crate::ring::layout::tests::member;
use crate::ring::{Grid, LayoutSpec, Member, Mode, planner};
use crate::types::Bucket;

/// Members by number; a number from 100 on is the node of the number less 100 with another store.
pub(in crate::ring) fn members(numbers: &[u128]) -> Vec<Member> {
    let of = |number: &u128| match number.checked_sub(100) {
        None => member(*number, "home", "", 1),
        Some(node) => Member { store: StoreId::from_bits(5000 - number), ..member(node, "home", "", 1) },
    };
    numbers.iter().map(of).collect()
}

pub(in crate::ring) fn store(number: u128) -> StoreId {
    members(&[number])[0].store
}

pub(in crate::ring) fn founded(numbers: &[u128]) -> Chain {
    let (grid, settings) = (Grid::new(4).unwrap(), BucketSettings::default());
    Chain::founded(planner::found("test", grid, 5, settings, members(numbers)).unwrap())
}

/// A chain of layouts with these members, one after the other.
pub(in crate::ring) fn chain(lists: &[&[u128]]) -> Chain {
    let mut chain = founded(lists[0]);
    for list in &lists[1..] {
        chain.push(planner::plan(chain.newest(), members(list)).unwrap()).unwrap();
    }
    chain
}

/// The newest layout's successor with its content changed.
pub(in crate::ring) fn changed(chain: &Chain, change: impl FnOnce(&mut LayoutSpec)) -> Layout {
    let mut spec = planner::plan(chain.newest(), chain.newest().members().to_vec()).unwrap().spec().clone();
    change(&mut spec);
    Layout::new(spec).unwrap()
}

#[test]
fn only_a_successor_is_taken() {
    let known = chain(&[&[1, 2, 3], &[1, 2, 3, 4], &[1, 2, 4]]);
    let says = |next: Layout, why: &str| {
        let error = known.follows(&next).expect_err(why).to_string();
        assert!(error.contains(why), "{error:?} does not say {why:?}");
    };
    says(known.newest().clone(), "does not follow layout 3");
    says(changed(&known, |spec| spec.version = 5), "layout 5 does not follow layout 3");
    says(changed(&known, |spec| spec.parent.0[0] ^= 1), "another one here");
    let other_cluster = changed(&known, |spec| spec.cluster = founded(&[9]).newest().cluster().into());
    says(other_cluster, "another one here");
    says(planner::plan(known.newest(), members(&[1, 2, 3, 4])).unwrap(), "has ended");
    says(changed(&known, |spec| spec.replicas_max = 7), "fixed when a cluster is founded");
    let taken = |spec: &mut LayoutSpec| spec.members[0].node = NodeId::from_bits(0);
    says(changed(&known, taken), "is another node's");
    says(changed(&known, |spec| spec.default_bucket.mode = Mode::Lww), "mode and role are fixed");
    assert_eq!(known.follows(&changed(&known, |spec| spec.default_bucket.n = 2)), Ok(()), "n may change");
    assert_eq!(known.ended(), &BTreeSet::from([store(3)]));
}

#[test]
fn a_generation_never_goes_back_and_a_new_bucket_may_have_another_mode() {
    let mut known = founded(&[1, 2]);
    let bucket = Bucket::new("b").unwrap();
    let settings = BucketSettings { id: 7, generation: 3, ..BucketSettings::default() };
    let with = |chain: &Chain, settings: BucketSettings| {
        changed(chain, |spec| drop(spec.buckets.insert(bucket.clone(), settings)))
    };
    known.push(with(&known, settings.clone())).unwrap();
    let older = BucketSettings { generation: 2, ..settings.clone() };
    assert!(known.follows(&with(&known, older)).unwrap_err().to_string().contains("never goes back"));
    let renamed = BucketSettings { id: 8, generation: 4, mode: Mode::Lww, ..settings };
    assert_eq!(known.follows(&with(&known, renamed)), Ok(()));
}

#[test]
fn a_chain_holds_together_or_is_none() {
    let whole = chain(&[&[1, 2, 3], &[1, 2, 3, 4], &[1, 2, 4]]);
    let [first, second, third] = whole.layouts() else { panic!() };
    let ended = BTreeSet::from([store(3)]);
    let new = |layouts: &[&Layout], live_from, ended: &BTreeSet<StoreId>| {
        Chain::new(layouts.iter().copied().cloned().collect(), live_from, ended.clone())
    };
    assert_eq!(new(&[first, second, third], 1, &ended).as_ref(), Ok(&whole));
    assert!(new(&[second, third], 3, &ended).is_ok());
    for (layouts, live_from, ended) in [
        (&[][..], 1, &ended),
        (&[third][..], 3, &ended),
        (&[first, third][..], 1, &ended),
        (&[second, third][..], 1, &ended),
        (&[second, third][..], 4, &ended),
        (&[second, third][..], 2, &BTreeSet::new()),
        (&[second, third][..], 2, &BTreeSet::from([store(3), store(4)])),
    ] {
        assert!(new(layouts, live_from, ended).is_err(), "{layouts:?} {live_from} {ended:?}");
    }
}

#[test]
fn who_has_only_just_come_does_not_decide() {
    let deciders = |lists: &[&[u128]]| -> Vec<u128> {
        let chain = chain(lists);
        let all: Vec<_> = chain.deciders().iter().map(|(node, _)| node.bits()).collect();
        assert_eq!(chain.some_do_not_decide(), all.len() < chain.newest().members().len());
        all
    };
    assert_eq!(deciders(&[&[1, 2, 3]]), [1, 2, 3]);
    assert_eq!(deciders(&[&[1, 2, 3], &[1, 2, 3, 4]]), [1, 2, 3]);
    assert_eq!(deciders(&[&[1, 2, 3], &[1, 2, 3, 4], &[1, 2, 3, 4]]), [1, 2, 3, 4], "the same again");
    assert_eq!(deciders(&[&[1, 2, 3], &[1, 2, 103]]), [1, 2], "a new store is a new member");
    assert_eq!(deciders(&[&[1], &[101]]), [1], "nobody is left: all");
    let mut long = chain(&[&[1, 2, 3], &[1, 2, 3, 4]]);
    long.drop_before(2);
    assert_eq!(long.deciders().len(), 3, "the parent is kept for it");
}

#[test]
fn two_decided_layouts_of_one_version_are_never_settled_silently() {
    let (mut mine, theirs) = (chain(&[&[1, 2, 3], &[1, 2, 3, 4]]), chain(&[&[1, 2, 3], &[1, 2, 3, 5]]));
    let before = mine.clone();
    assert_eq!(mine.merge(&theirs), Err(ChainError::Fork { version: 2 }));
    assert_eq!(mine, before);
}

fn histories() -> impl Strategy<Value = Chain> {
    proptest::collection::vec(proptest::collection::btree_set(1u128..9, 1..6), 1..6).prop_map(|lists| {
        // A number that left comes back as a new store, as its node would.
        let mut chain: Option<Chain> = None;
        for list in lists {
            let fresh = |number: u128, ended: &BTreeSet<StoreId>| {
                (0..2).map(|life| number + 100 * life).find(|id| !ended.contains(&store(*id)))
            };
            let none = BTreeSet::new();
            let ended = chain.as_ref().map_or(&none, Chain::ended);
            let ids: Vec<u128> = list.into_iter().filter_map(|number| fresh(number, ended)).collect();
            chain = match chain {
                _ if ids.is_empty() => chain,
                None => Some(founded(&ids)),
                Some(mut chain) => {
                    chain.push(planner::plan(chain.newest(), members(&ids)).unwrap()).unwrap();
                    Some(chain)
                }
            };
        }
        chain.unwrap_or_else(|| founded(&[1]))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_node_catches_up_from_wherever_it_was(whole in histories(), behind in 1u64..6, live_from in 1u64..6) {
        let newest = whole.newest().version();
        let behind = behind.min(newest);
        let mut node = Chain::founded(whole.layouts()[0].clone());
        for layout in &whole.layouts()[1..behind as usize] {
            node.push(layout.clone()).unwrap();
        }
        let mut told = whole.clone();
        told.drop_before(live_from.min(behind));
        let part = told.since(behind);
        prop_assert!(part.get(behind).is_some(), "the link is there");
        prop_assert_eq!(node.merge(&part), Ok(behind < newest || told.live_from() > 1));
        prop_assert_eq!(node.newest(), whole.newest());
        prop_assert_eq!((node.live(), node.ended()), (told.live(), told.ended()));
        prop_assert_eq!(node.merge(&told), Ok(false));
        let same = node.clone();
        prop_assert_eq!(node.merge(&Chain::founded(whole.layouts()[0].clone())), Ok(false), "old news changes nothing");
        prop_assert_eq!(node, same);
    }

    #[test]
    fn what_is_dropped_is_forgotten_but_for_the_parent(whole in histories(), live_from in 1u64..7) {
        let mut chain = whole.clone();
        chain.drop_before(live_from);
        prop_assert_eq!(chain.live_from(), live_from.min(whole.newest().version()));
        prop_assert_eq!(chain.live().first().map(Layout::version), Some(chain.live_from()));
        prop_assert_eq!(chain.deciders(), whole.deciders());
        prop_assert_eq!(chain.ended(), whole.ended());
        let kept = Chain::new(chain.layouts().to_vec(), chain.live_from(), chain.ended().clone());
        prop_assert_eq!(kept, Ok(chain.clone()), "it is still sound");
        chain.drop_before(1);
        prop_assert_eq!(chain.live_from(), live_from.min(whole.newest().version()), "never back");
        prop_assert!(chain.newest().members().iter().all(|member| !chain.ended().contains(&member.store)));
    }
}

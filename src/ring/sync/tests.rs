use proptest::prelude::*;

use super::*;
use crate::ring::chain::tests::{chain, changed, founded, store};
use crate::ring::live::HoldersIn;
use crate::ring::{BucketSettings, Tracker, Trackers};

const P: PartitionId = PartitionId(0);

fn acked(me: u128, ack: u64) -> Trackers {
    let mut trackers = Trackers::default();
    trackers.set_own(store(me), &Tracker { ack, ..Tracker::default() });
    trackers
}

#[test]
fn a_joiner_merges_from_every_owner_after_its_ack() {
    // n = 3 of 3: with the fourth, each partition moves or stays.
    let chain = chain(&[&[1, 2, 3], &[1, 2, 3, 4]]);
    let trackers = acked(4, 2);
    let view = View { chain: &chain, trackers: &trackers, me: store(4) };
    let mut merged = Merged::default();
    let gains = view.to_merge(&merged);
    let owned = |partition| holders(chain.newest(), partition, None).contains(store(4));
    assert_eq!(gains.len(), chain.newest().grid().partitions().filter(|partition| owned(*partition)).count());
    assert!(!gains.is_empty());
    for gain in &gains {
        assert_eq!(gain.sources, BTreeSet::from([store(1), store(2), store(3)]));
        gain.sources.iter().for_each(|source| merged.record(gain.partition, *source, 1));
    }
    assert_eq!(view.to_merge(&merged), gains, "read before they had acked: all over again");
    assert!(view.may_claim(&merged).is_empty());
    let last = gains.last().map(|gain| gain.partition);
    for gain in &gains {
        for source in &gain.sources {
            assert!(view.may_claim(&merged).is_empty());
            merged.record(gain.partition, *source, 2);
        }
        assert!(view.holds(&merged, 2, gain.partition, None));
        assert_eq!(view.may_claim(&merged) == BTreeSet::from([2]), Some(gain.partition) == last);
    }
    let not_acked = acked(4, 1);
    assert!(View { trackers: &not_acked, ..view }.may_claim(&merged).is_empty(), "ack comes first");
}

#[test]
fn who_keeps_its_partitions_is_synced_at_once_and_who_has_ended_is_no_source() {
    let chain = chain(&[&[1, 2, 3], &[1, 2, 4]]);
    let trackers = acked(1, 2);
    let view = View { chain: &chain, trackers: &trackers, me: store(1) };
    assert_eq!(view.may_claim(&Merged::default()), BTreeSet::from([1, 2]));
    assert_eq!(view.to_merge(&Merged::default()), []);
    let trackers = acked(4, 2);
    let view = View { chain: &chain, trackers: &trackers, me: store(4) };
    for gain in view.to_merge(&Merged::default()) {
        assert_eq!(gain.sources, BTreeSet::from([store(1), store(2)]), "3 has ended");
    }
}

#[test]
fn a_joiner_whose_join_is_aborted_merges_nothing_more_and_has_never_been_synced() {
    let mut chain = chain(&[&[1, 2, 3], &[1, 2, 3, 4]]);
    chain.push(crate::ring::change::abort(&chain, &BTreeSet::new()).unwrap()).unwrap();
    let trackers = acked(4, 3);
    let view = View { chain: &chain, trackers: &trackers, me: store(4) };
    assert_eq!(view.to_merge(&Merged::default()), []);
    assert_eq!(view.may_claim(&Merged::default()), BTreeSet::from([3]), "to 3, not to 2");
    let gave_up =
        chain.newest().grid().partitions().find(|p| !holders(&chain.layouts()[1], *p, None).contains(store(1)));
    if let Some(partition) = gave_up {
        let trackers = acked(1, 3);
        let view = View { chain: &chain, trackers: &trackers, me: store(1) };
        let gain = view.to_merge(&Merged::default()).into_iter().find(|gain| gain.partition == partition).unwrap();
        let both = BTreeSet::from([store(2), store(3), store(4)]);
        assert_eq!(gain.sources, both, "who gets it back merges from the owners of both");
    }
}

#[test]
fn fewer_owners_merge_anew() {
    let mut chain = founded(&[1, 2, 3]);
    chain.push(changed(&chain, |spec| spec.default_bucket.n = 1)).unwrap();
    let first = holders(chain.newest(), P, None).stores().next().unwrap();
    let mut trackers = Trackers::default();
    trackers.set_own(first, &Tracker { ack: 2, ..Tracker::default() });
    let view = View { chain: &chain, trackers: &trackers, me: first };
    let gain = view.to_merge(&Merged::default()).into_iter().find(|gain| gain.partition == P).unwrap();
    assert_eq!(gain.sources.len(), 2, "a majority of three may leave out the one that remains");
}

#[test]
fn a_partition_that_comes_back_begins_afresh_unless_it_never_quite_went() {
    // 3 leaves everything, as a member, then gets it back.
    let mut chain = founded(&[1, 2, 3]);
    let only_one_and_two = |spec: &mut crate::ring::LayoutSpec| {
        spec.regions[0].width = 2;
        spec.regions[0].owners = [0, 1].repeat(4).into_iter().map(crate::ring::MemberIndex).collect();
    };
    chain.push(changed(&chain, only_one_and_two)).unwrap();
    chain.push(crate::ring::change::abort(&chain, &BTreeSet::new()).unwrap()).unwrap();
    let me = store(3);
    assert!(!starts_afresh(&chain, 2, me, P, None), "layout 1 is live: what it holds counts");
    let trackers = Trackers::default();
    assert!(!View { chain: &chain, trackers: &trackers, me }.may_delete(P, None));
    chain.drop_before(2);
    assert!(starts_afresh(&chain, 2, me, P, None));
    assert!(!starts_afresh(&chain, 3, me, P, None), "nothing new");
    assert!(!starts_afresh(&chain, 2, store(1), P, None), "it had it all along");
    assert!(starts_afresh(&chain, 0, store(1), P, None), "a node that knew no layout");
}

#[test]
fn buckets_that_are_placed_alike_are_looked_at_once() {
    let bucket = |name: &str| crate::types::Bucket::new(name).unwrap();
    let chain = founded(&[1, 2]);
    let layout = changed(&chain, |spec| {
        for (id, (name, n)) in [("one", 1), ("two", 2), ("uno", 1), ("three", 3)].into_iter().enumerate() {
            let settings = BucketSettings { id: id as u64 + 1, n, ..BucketSettings::default() };
            spec.buckets.insert(bucket(name), settings);
        }
    });
    let found = placements(std::slice::from_ref(&layout));
    assert_eq!(found, [None, Some(bucket("one")), Some(bucket("two"))], "as three is the default");
}

fn list(version: u64, eu: &BTreeSet<u128>, us: &BTreeSet<u128>) -> LayoutHolders<'static> {
    let region = |region, owners: &BTreeSet<u128>| HoldersIn {
        region,
        n: owners.len() as u8,
        owners: owners.iter().map(|id| StoreId::from_bits(*id)).collect(),
    };
    let regions = [region("eu", eu), region("us", us)];
    LayoutHolders { version, regions: regions.into_iter().filter(|region| !region.owners.is_empty()).collect() }
}

fn owners(from: u128) -> impl Strategy<Value = BTreeSet<u128>> {
    proptest::collection::btree_set(from..from + 5, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The count behind the rule: whatever a write's quorum was in the older layout, once those who gain, or merge
    /// anew, hold all of it, the owners of the newer layout without the write are too few to be a read's quorum.
    #[test]
    fn a_quorum_of_the_older_owners_meets_every_quorum_of_the_newer(
        before in (owners(0), owners(10)), after in (owners(0), owners(10)),
        picks in proptest::collection::vec(any::<prop::sample::Index>(), 16), w in 1usize..6,
    ) {
        let (older, newer) = (list(1, &before.0, &before.1), list(2, &after.0, &after.1));
        let majority = |n: usize| n / 2 + 1;
        let pick = |from: Vec<StoreId>, count: usize| -> BTreeSet<StoreId> {
            let mut left = from;
            let order = picks.iter().map_while(|pick| {
                (!left.is_empty()).then(|| left.swap_remove(pick.index(left.len())))
            });
            order.take(count).collect()
        };
        let all_before: Vec<_> = older.stores().collect();
        prop_assume!(!all_before.is_empty() && newer.stores().next().is_some());
        let without = |acked: &BTreeSet<StoreId>, of: &[StoreId]| {
            let holds = |store: &StoreId| {
                acked.contains(store) || !older.contains(*store) || merges_anew(&older, &newer, *store)
            };
            of.iter().filter(|store| !holds(store)).count()
        };
        let all: Vec<_> = newer.stores().collect();
        let n = all.len();
        // w=quorum, r=quorum.
        let acked = pick(all_before.clone(), majority(all_before.len()));
        prop_assert!(without(&acked, &all) < majority(n), "quorum: {older:?} {newer:?} {acked:?}");
        // A number of W, capped in the older layout; R with R + W > N in the newer.
        let w = w.min(n);
        let acked = pick(all_before.clone(), w.min(all_before.len()));
        prop_assert!(without(&acked, &all) < n + 1 - w, "{w}: {older:?} {newer:?} {acked:?}");
        // local_quorum in a region that both have.
        for region in ["eu", "us"] {
            let of = |at: &LayoutHolders<'_>| -> Vec<StoreId> {
                at.regions.iter().filter(|r| r.region == region).flat_map(|r| r.owners.clone()).collect()
            };
            let (then, now) = (of(&older), of(&newer));
            if !then.is_empty() && !now.is_empty() {
                let acked = pick(then.clone(), majority(then.len()));
                prop_assert!(without(&acked, &now) < majority(now.len()), "{region}: {older:?} {newer:?} {acked:?}");
            }
        }
    }
}

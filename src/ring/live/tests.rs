use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::ring::chain::tests::{chain, changed, founded, store};

fn tracker(ack: u64, synced: impl IntoIterator<Item = u64>, sync_ack: u64) -> Tracker {
    Tracker { ack, synced: synced.into_iter().collect(), sync_ack }
}

fn table(rows: &[(u128, Tracker)]) -> Trackers {
    let mut table = Trackers::default();
    rows.iter().for_each(|(number, tracker)| table.set_own(store(*number), tracker));
    table
}

const P: PartitionId = PartitionId(0);

#[test]
fn reads_use_the_newest_layout_to_which_all_its_members_are_synced() {
    let chain = chain(&[&[1, 2, 3], &[1, 2, 3, 4]]);
    let read_in = |rows: &[(u128, Tracker)]| {
        let trackers = table(rows);
        View { chain: &chain, trackers: &trackers, me: store(1) }.read_layout().version()
    };
    assert_eq!(read_in(&[]), 1, "nobody has said anything: the oldest is complete");
    let synced = || tracker(2, [2], 0);
    assert_eq!(read_in(&[(1, synced()), (2, synced()), (3, synced())]), 1, "the joiner is not");
    assert_eq!(read_in(&[(1, synced()), (2, synced()), (3, synced()), (4, synced())]), 2);
}

#[test]
fn who_is_synced_to_the_abort_is_not_synced_to_what_it_aborts() {
    // 4 joins, and is a member without a partition after the abort.
    let mut chain = chain(&[&[1, 2, 3], &[1, 2, 3, 4]]);
    let none = BTreeSet::new();
    chain.push(crate::ring::change::abort(&chain, &none).unwrap()).unwrap();
    let mut rows: Vec<_> = [1, 2, 3].map(|number| (number, tracker(3, [1, 2], 0))).into();
    rows.push((4, tracker(3, [3], 0)));
    let trackers = table(&rows);
    assert_eq!(View { chain: &chain, trackers: &trackers, me: store(1) }.read_layout().version(), 1);
}

#[test]
fn an_ended_member_that_was_never_synced_keeps_its_layout_from_being_read() {
    let mut chain = chain(&[&[1, 2, 3], &[1, 2, 3, 4]]);
    chain.push(crate::ring::change::skip(&chain, &BTreeSet::from([store(4)])).unwrap()).unwrap();
    let trackers = table(&[1, 2, 3].map(|number| (number, tracker(3, [2], 0))));
    let view = View { chain: &chain, trackers: &trackers, me: store(1) };
    assert_eq!(view.read_layout().version(), 1);
    let trackers = table(&[1, 2, 3].map(|number| (number, tracker(3, [2, 3], 3))));
    let view = View { chain: &chain, trackers: &trackers, me: store(1) };
    assert_eq!((view.read_layout().version(), view.may_drop_before()), (3, Some(3)), "nobody waits for it");
}

#[test]
fn a_node_says_no_more_than_is_so() {
    let chain = chain(&[&[1, 2, 3], &[1, 2, 3, 4], &[1, 2, 3, 4]]);
    let ack = |own: u64, in_flight_on| {
        let trackers = table(&[(1, tracker(own, [], 0))]);
        View { chain: &chain, trackers: &trackers, me: store(1) }.may_ack(in_flight_on)
    };
    assert_eq!((ack(1, None), ack(1, Some(3)), ack(3, None)), (Some(3), Some(3), None));
    assert_eq!((ack(1, Some(2)), ack(1, Some(1))), (Some(2), None), "no further than its writes in flight");

    let sync_ack = |own: Tracker, others: [u64; 2], pledged| {
        let mut rows: Vec<_> = [2, 3, 4].map(|number| (number, tracker(3, others, 0))).into();
        rows.push((1, own));
        let trackers = table(&rows);
        View { chain: &chain, trackers: &trackers, me: store(1) }.may_sync_ack(pledged)
    };
    assert_eq!(sync_ack(tracker(3, [2, 3], 1), [2, 3], 0), Some(3));
    assert_eq!(sync_ack(tracker(3, [2, 3], 1), [2, 2], 0), Some(2), "not all are synced to 3");
    assert_eq!(sync_ack(tracker(3, [2, 3], 1), [2, 2], 3), None, "it has pledged not to");
    assert_eq!(sync_ack(tracker(3, [2, 3], 1), [2, 3], 3), Some(3));
    assert_eq!(sync_ack(tracker(2, [2, 3], 1), [2, 3], 0), Some(2), "its writes are in flight on 2");
    assert_eq!(sync_ack(tracker(3, [2, 3], 3), [2, 3], 0), None);
}

#[test]
fn a_change_names_whom_it_waits_for() {
    let chain = chain(&[&[1, 2, 3], &[1, 2, 3, 4]]);
    let (done, synced) = (tracker(2, [2], 2), tracker(2, [2], 1));
    let waits = |rows: &[(u128, Tracker)]| {
        let trackers = table(rows);
        let view = View { chain: &chain, trackers: &trackers, me: store(1) };
        assert_eq!(view.is_complete(), view.waits_for().is_empty());
        view.waits_for()
    };
    let rows = [(1, done.clone()), (2, synced), (3, tracker(2, [], 0)), (4, done.clone())];
    let mut expected = vec![(store(2), Awaited::SyncAck), (store(3), Awaited::Synced)];
    assert_eq!(waits(&rows), expected);
    expected.push((store(4), Awaited::Ack));
    assert_eq!(waits(&rows[..3]), expected);
    assert_eq!(waits(&[1, 2, 3, 4].map(|number| (number, done.clone()))), []);
}

#[test]
fn a_write_is_counted_in_each_live_layout_with_that_layouts_n() {
    let mut chain = founded(&[1, 2, 3, 4]);
    chain.push(changed(&chain, |spec| spec.default_bucket.n = 2)).unwrap();
    let trackers = Trackers::default();
    let lists = View { chain: &chain, trackers: &trackers, me: store(1) }.written_to(P, None);
    let counts: Vec<_> = lists.iter().map(|list| (list.version, list.regions[0].n, list.stores().count())).collect();
    assert_eq!(counts, [(2, 2, 2), (1, 3, 3)], "the newest first");
    chain.drop_before(2);
    assert_eq!(View { chain: &chain, trackers: &trackers, me: store(1) }.written_to(P, None).len(), 1);
}

fn trackers() -> impl Strategy<Value = Vec<(u128, Tracker)>> {
    let one = (0u64..4, proptest::collection::btree_set(1u64..4, 0..4), 0u64..4)
        .prop_map(|(ack, synced, sync_ack)| Tracker { ack, synced, sync_ack });
    proptest::collection::vec((1u128..6, one), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn knowing_more_only_ever_allows_more(known in trackers(), news in trackers(), pledged in 0u64..4) {
        let chain = chain(&[&[1, 2, 3], &[1, 2, 3, 4], &[1, 2, 4, 5]]);
        // News of others: what this node itself has done is the same before and after.
        let own = tracker(2, [2], 1);
        let with = |rows: &[(u128, Tracker)]| {
            let others: Vec<_> = rows.iter().filter(|(number, _)| *number != 1).cloned().collect();
            let mut trackers = table(&others);
            trackers.set_own(store(1), &own);
            trackers
        };
        let (before, after) = (with(&known), with(&[known, news].concat()));
        let view = |trackers| View { chain: &chain, trackers, me: store(1) };
        let (before, after) = (view(&before), view(&after));
        prop_assert!(before.read_layout().version() <= after.read_layout().version());
        prop_assert!(before.may_drop_before() <= after.may_drop_before());
        prop_assert!(before.may_sync_ack(pledged) <= after.may_sync_ack(pledged));
        prop_assert!(!before.is_complete() || after.is_complete());
        if let Some(version) = after.may_drop_before() {
            let members = chain.newest().members();
            prop_assert!(members.iter().all(|member| after.trackers.of(member.store).sync_ack >= version));
        }
        if let Some(version) = after.may_sync_ack(pledged) {
            prop_assert!(after.all_synced(chain.get(version).unwrap()) && version >= pledged);
        }
    }
}

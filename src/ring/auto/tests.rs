use super::*;
use crate::ring::chain::tests::{chain, changed, founded, members, store};
use crate::ring::{Chain, Tracker, Trackers};

/// Everybody follows `chain` to the end.
fn complete(chain: &Chain) -> Trackers {
    let mut trackers = Trackers::default();
    for layout in chain.layouts() {
        let version = layout.version();
        let done = Tracker { ack: version, synced: [version].into(), sync_ack: version };
        layout.members().iter().for_each(|member| trackers.set_own(member.store, &done));
    }
    trackers
}

fn wished(
    chain: &Chain,
    trackers: &Trackers,
    joiners: &[u128],
    auto_join: bool,
    down: &[(u128, u64)],
) -> (Option<(Why, Vec<StoreId>)>, Vec<Declined>) {
    let joiners = members(joiners);
    let down_for = |of: StoreId| {
        down.iter().find(|(number, _)| store(*number) == of).map(|(_, seconds)| Duration::from_secs(*seconds))
    };
    let seen = Seen { joiners: &joiners, auto_join, in_doubt: &BTreeSet::new(), pledged: 0, down_for: &down_for };
    let (wish, declined) = wish(View { chain, trackers, me: store(1) }, &seen);
    let stores = |layout: Layout| {
        chain.follows(&layout).expect("a wish can follow");
        layout.members().iter().map(|member| member.store).collect()
    };
    (wish.map(|(why, layout)| (why, stores(layout))), declined)
}

fn stores(numbers: &[u128]) -> Vec<StoreId> {
    let mut stores: Vec<_> = members(numbers).into_iter().map(|member| (member.node, member.store)).collect();
    stores.sort_unstable();
    stores.into_iter().map(|(_, store)| store).collect()
}

#[test]
fn who_asks_is_taken_in_together_unless_it_is_switched_off() {
    let chain = founded(&[1, 2, 3]);
    let trackers = complete(&chain);
    let (wish, declined) = wished(&chain, &trackers, &[4, 5], true, &[]);
    assert_eq!(wish, Some((Why::Join(vec!["n4".into(), "n5".into()]), stores(&[1, 2, 3, 4, 5]))));
    assert_eq!(declined, []);
    assert_eq!(wished(&chain, &trackers, &[4, 5], false, &[]), (None, vec![]));
    assert_eq!(wished(&chain, &trackers, &[2], true, &[]), (None, vec![]), "it is a member");
    assert_eq!(wished(&chain, &trackers, &[], true, &[]), (None, vec![]));
}

#[test]
fn a_wiped_node_replaces_itself_once_the_old_one_is_down_one_at_a_time() {
    let chain = founded(&[1, 2, 3]);
    let trackers = complete(&chain);
    // The same name and address, another store.
    let up = wished(&chain, &trackers, &[102], true, &[]);
    assert_eq!(up, (None, vec![Declined::OldIsUp("n2".into())]));
    let (wish, declined) = wished(&chain, &trackers, &[102, 103], true, &[(2, 1), (3, 1)]);
    assert_eq!(wish, Some((Why::Replace(vec!["n2".into()]), stores(&[1, 102, 3]))));
    assert_eq!(declined, []);
    let mut clash = members(&[9]);
    clash[0].name = "n1".into();
    let seen = Seen { joiners: &clash, auto_join: true, in_doubt: &BTreeSet::new(), pledged: 0, down_for: &|_| None };
    let (wish, declined) = super::wish(View { chain: &chain, trackers: &trackers, me: store(1) }, &seen);
    assert_eq!(wish, None);
    assert_eq!(declined, [Declined::Clash { name: "n1".into(), with: "n1".into() }]);
}

#[test]
fn nothing_that_may_lose_data_happens_by_itself() {
    let mut chain = founded(&[1, 2, 3]);
    chain.push(changed(&chain, |spec| spec.default_bucket.n = 1)).unwrap();
    let (wish, declined) = wished(&chain, &complete(&chain), &[102], true, &[(2, 99)]);
    assert_eq!(wish, None, "what it alone held is gone");
    assert_eq!(declined, [Declined::MayLose("n2".into())]);
}

#[test]
fn while_a_change_is_under_way_only_a_dead_joiner_is_given_up() {
    let chain = chain(&[&[1, 2, 3], &[1, 2, 3, 4, 5]]);
    let trackers = complete(&founded(&[1, 2, 3]));
    let (none, declined) = wished(&chain, &trackers, &[6], true, &[(4, 59), (2, 1000)]);
    assert_eq!((none, declined), (None, vec![]), "not yet, and an owner is waited for");
    let (wish, _) = wished(&chain, &trackers, &[6], true, &[(4, 60)]);
    assert_eq!(wish, Some((Why::GiveUp(vec!["n4".into()]), stores(&[1, 2, 3, 5]))), "the other joiner stays a member");
    let mut synced = trackers.clone();
    synced.set_own(store(4), &Tracker { ack: 2, synced: [2].into(), sync_ack: 1 });
    assert_eq!(wished(&chain, &synced, &[], true, &[(4, 600)]).0, None, "what it holds counts");
}

#[test]
fn who_came_with_a_complete_layout_decides_from_the_next_one_on() {
    let chain = chain(&[&[1, 2, 3], &[1, 2, 3, 4]]);
    let (wish, _) = wished(&chain, &complete(&chain), &[], true, &[]);
    assert_eq!(wish, Some((Why::Same, stores(&[1, 2, 3, 4]))));
}

#[test]
fn a_member_for_which_there_is_nothing_is_not_wished_for_again_and_again() {
    let mut weighed = members(&[1, 2, 3, 4, 5, 6]);
    weighed[..5].iter_mut().for_each(|member| member.weight = 1000);
    let mut chain = founded(&[1, 2, 3, 4, 5, 6]);
    chain.push(planner::plan(chain.newest(), weighed).unwrap()).unwrap();
    assert_eq!(chain.newest().partitions_of(store(6)), [], "five lists of four partitions are full without it");
    assert_eq!(wished(&chain, &complete(&chain), &[], true, &[]), (None, vec![]));
    // One that came in with a change that was taken back owns nothing either, and is to.
    let mut chain = self::chain(&[&[1, 2, 3], &[1, 2, 3, 4]]);
    chain.push(change::abort(&chain, &BTreeSet::new()).unwrap()).unwrap();
    let (wish, _) = wished(&chain, &complete(&chain), &[], true, &[]);
    assert_eq!(wish, Some((Why::Join(vec!["n4".into()]), stores(&[1, 2, 3, 4]))));
}

#[test]
fn a_member_wiped_in_the_middle_of_a_change_is_left_out_of_it() {
    let chain = chain(&[&[1, 2, 3], &[1, 2, 3, 4]]);
    let trackers = complete(&founded(&[1, 2, 3]));
    assert_eq!(wished(&chain, &trackers, &[102], true, &[]).0, None, "the old one still answers");
    let (wish, _) = wished(&chain, &trackers, &[102], true, &[(2, 1)]);
    assert_eq!(wish, Some((Why::Skip([store(2)].into(), vec!["n2".into()]), stores(&[1, 3, 4]))));
    let (wish, _) = wished(&chain, &trackers, &[104], true, &[(4, 1)]);
    assert_eq!(wish, Some((Why::GiveUp(vec!["n4".into()]), stores(&[1, 2, 3]))), "the joiner itself: no need to wait");
}

#[test]
fn a_successor_that_was_begun_and_never_decided_is_decided_after_all() {
    let chain = chain(&[&[1, 2, 3], &[1, 2, 3, 4]]);
    let mut trackers = complete(&founded(&[1, 2, 3]));
    let wish_of = |trackers: &Trackers, pledged: u64| {
        let seen = Seen { joiners: &[], auto_join: true, in_doubt: &BTreeSet::new(), pledged, down_for: &|_| None };
        wish(View { chain: &chain, trackers, me: store(1) }, &seen).0.map(|(why, layout)| {
            chain.follows(&layout).expect("it can follow");
            why
        })
    };
    assert_eq!(wish_of(&trackers, 3), None, "the change goes on");
    for number in [1, 2, 3, 4] {
        trackers.set_own(store(number), &Tracker { ack: 2, synced: [2].into(), sync_ack: 1 });
    }
    assert_eq!(wish_of(&trackers, 2), None);
    assert_eq!(wish_of(&trackers, 3), Some(Why::Undecided), "it never says that it reads in layout 2 alone");
    // What gives back the owners from before has nothing to take back: it is repeated.
    let mut chain = chain.clone();
    chain.push(change::abort(&chain, &BTreeSet::new()).unwrap()).unwrap();
    for number in [1, 2, 3, 4] {
        trackers.set_own(store(number), &Tracker { ack: 3, synced: [3].into(), sync_ack: 1 });
    }
    let seen = Seen { joiners: &[], auto_join: true, in_doubt: &BTreeSet::new(), pledged: 4, down_for: &|_| None };
    let view = View { chain: &chain, trackers: &trackers, me: store(1) };
    let Some((Why::Undecided, next)) = wish(view, &seen).0 else { panic!("nothing is wished for") };
    assert_eq!(change::judge_successor(&chain, false, &next), Ok(change::Kind::Same));
    // Nor is there anything to give back to one that was skipped meanwhile.
    let mut chain = self::chain(&[&[1, 2, 3, 4], &[1, 2, 3, 4, 5]]);
    chain.push(change::skip(&chain, &[store(2)].into()).unwrap()).unwrap();
    let mut trackers = complete(&founded(&[1, 2, 3, 4]));
    for number in [1, 3, 4, 5] {
        trackers.set_own(store(number), &Tracker { ack: 3, synced: [3].into(), sync_ack: 1 });
    }
    let view = View { chain: &chain, trackers: &trackers, me: store(1) };
    let Some((Why::Undecided, next)) = wish(view, &seen).0 else { panic!("nothing is wished for") };
    assert_eq!(change::judge_successor(&chain, false, &next), Ok(change::Kind::Same));
}

use super::*;
use crate::ring::chain::tests::{chain, store};
use crate::ring::{Chain, Tracker, Trackers};

/// The partition is owned by 1, 2, 3 in layout 1, by 1, 2, 4 in layout 2; 3 stays a member.
fn moved() -> Chain {
    let mut chain = chain(&[&[1, 2, 3, 4]]);
    for owners in [[0u16, 1, 2], [0, 1, 3]] {
        let next = crate::ring::chain::tests::changed(&chain, |spec| {
            spec.regions[0].width = 3;
            spec.regions[0].owners = owners.repeat(4).into_iter().map(crate::ring::MemberIndex).collect();
        });
        chain.push(next).unwrap();
    }
    chain.drop_before(2);
    chain
}

const P: PartitionId = PartitionId(0);

fn write(chain: &Chain, me: u128, sender: u128, newest: u64, counted: &[u64]) -> Result<Vec<u64>, Unfit> {
    let trackers = Trackers::default();
    let view = View { chain, trackers: &trackers, me: store(me) };
    let judged = view.judge_write(Named { sender: store(sender), newest, counted }, P, None);
    judged.map_err(|refusal| {
        assert_eq!(refusal.live, chain.live().iter().map(crate::ring::Layout::version).collect::<Vec<_>>());
        refusal.why
    })
}

fn read(chain: &Chain, me: u128, own: &Tracker, newest: u64, layout: u64) -> Result<u64, Unfit> {
    let mut trackers = Trackers::default();
    trackers.set_own(store(me), own);
    let view = View { chain, trackers: &trackers, me: store(me) };
    let named = Named { sender: store(1), newest, counted: &[layout] };
    view.judge_read(named, &Merged::default(), P, None).map_err(|refusal| refusal.why)
}

#[test]
fn a_write_counts_in_the_named_layouts_that_are_live_here_and_give_it_to_this_node() {
    let chain = moved();
    assert_eq!(write(&chain, 1, 2, 3, &[2, 3]), Ok(vec![2, 3]));
    assert_eq!(write(&chain, 1, 2, 3, &[3]), Ok(vec![3]), "not in one that was not named");
    assert_eq!(write(&chain, 3, 2, 3, &[2, 3]), Ok(vec![2]));
    assert_eq!(write(&chain, 4, 2, 3, &[2, 3]), Ok(vec![3]));
    assert_eq!(write(&chain, 1, 2, 3, &[2]), Err(Unfit::Behind), "begun before its sender knew the newest");
    assert_eq!(write(&chain, 1, 2, 2, &[2]), Err(Unfit::Behind));
    assert_eq!(write(&chain, 1, 2, 3, &[1]), Err(Unfit::NotLive));
    assert_eq!(write(&chain, 1, 2, 5, &[3, 4, 5]), Ok(vec![3]), "not in one that is not known here yet");
    assert_eq!(write(&chain, 1, 2, 5, &[4, 5]), Err(Unfit::NotLive));
    let mut dropped = chain.clone();
    dropped.drop_before(3);
    assert_eq!(write(&dropped, 1, 2, 3, &[2, 3]), Ok(vec![3]));
    assert_eq!(write(&dropped, 3, 2, 3, &[2, 3]), Err(Unfit::NotOwner));
}

#[test]
fn a_store_that_has_ended_is_refused_for_good() {
    let chain = chain(&[&[1, 2, 3], &[1, 2, 4], &[1, 2, 4]]);
    assert_eq!(write(&chain, 1, 3, 3, &[3]), Err(Unfit::Ended));
    assert_eq!(write(&chain, 1, 3, 9, &[1, 2, 3, 9]), Err(Unfit::Ended), "whatever it knows");
}

#[test]
fn a_read_is_served_by_a_synced_owner_and_never_below_what_was_sync_acked() {
    let chain = moved();
    let (none, synced) = (Tracker::default(), Tracker { ack: 3, synced: [3].into(), sync_ack: 2 });
    assert_eq!(read(&chain, 1, &none, 3, 2), Ok(2));
    assert_eq!(read(&chain, 1, &none, 3, 3), Ok(3), "it keeps what it had");
    assert_eq!(read(&chain, 4, &none, 3, 3), Err(Unfit::Syncing));
    assert_eq!(read(&chain, 4, &none, 3, 2), Err(Unfit::NotOwner));
    assert_eq!(read(&chain, 4, &synced, 3, 3), Ok(3));
    assert_eq!(read(&chain, 3, &synced, 3, 2), Ok(2));
    let superseded = Tracker { sync_ack: 3, ..synced };
    assert_eq!(read(&chain, 3, &superseded, 3, 2), Err(Unfit::Superseded));
    assert_eq!(read(&chain, 1, &superseded, 3, 3), Ok(3));
    assert_eq!(read(&chain, 1, &none, 2, 2), Err(Unfit::Behind));
    assert_eq!(read(&chain, 1, &none, 4, 4), Err(Unfit::NotLive));
}

#[test]
fn a_hint_is_taken_by_a_fallback_alone_and_counts_where_its_owner_does() {
    let mut chain = moved();
    let hint = |chain: &Chain, me: u128, newest: u64, counted: &[u64], owner: u128| {
        let trackers = Trackers::default();
        let view = View { chain, trackers: &trackers, me: store(me) };
        view.judge_hint(Named { sender: store(1), newest, counted }, P, None, store(owner))
            .map_err(|refusal| refusal.why)
    };
    assert_eq!(hint(&chain, 3, 3, &[2, 3], 4), Err(Unfit::NotFallback), "it owns it in layout 2");
    chain.drop_before(3);
    assert_eq!(hint(&chain, 3, 3, &[2, 3], 4), Ok(vec![3]));
    assert_eq!(hint(&chain, 3, 3, &[3], 3), Err(Unfit::NotOwner), "for itself it keeps none");
    assert_eq!(hint(&chain, 4, 3, &[3], 1), Err(Unfit::NotFallback));
    assert_eq!(hint(&chain, 3, 2, &[2], 1), Err(Unfit::Behind));
    assert_eq!(hint(&chain, 3, 4, &[4], 1), Err(Unfit::NotLive));
    // Six that own nothing more or less than before, three times.
    let chain = crate::ring::chain::tests::chain(&[&[1, 2, 3, 4, 5, 6], &[1, 2, 3, 4, 5, 6]]);
    let (layout, owns) = (chain.newest(), |number: u128| holders(chain.newest(), P, None).contains(store(number)));
    let stands =
        |number: &u128| chain.fallback_stores(P, settings_of(layout, None)).any(|(_, one)| one == store(*number));
    let (me, owner) = ((1..=6).find(stands).unwrap(), (1..=6).find(|number| owns(*number)).unwrap());
    assert_eq!(hint(&chain, me, 2, &[1, 2], owner), Ok(vec![1, 2]));
    assert_eq!(hint(&chain, me, 2, &[1], owner), Err(Unfit::Behind), "begun before its sender knew the newest");
}

#[test]
fn who_has_only_just_come_in_stands_in_for_nobody() {
    let mut chain = crate::ring::chain::tests::chain(&[&[1, 2, 3, 4], &[1, 2, 3, 4, 5]]);
    let newest = chain.newest().clone();
    let settings = settings_of(&newest, None);
    let joiner = newest.member_by_store(store(5)).unwrap();
    let partitions = newest.grid().partitions();
    let at: Vec<PartitionId> =
        partitions.filter(|at| newest.fallbacks("home", *at, settings.n).contains(&joiner)).collect();
    assert!(!at.is_empty(), "it is listed behind the owners somewhere");
    for complete in [false, true] {
        if complete {
            chain.drop_before(2);
        }
        let (trackers, counted) = (Trackers::default(), if complete { &[2][..] } else { &[1, 2] });
        for partition in &at {
            let owner = holders(&newest, *partition, None).stores().next().unwrap();
            let view = View { chain: &chain, trackers: &trackers, me: store(5) };
            let named = Named { sender: store(1), newest: 2, counted };
            let judged = view.judge_hint(named, *partition, None, owner).map_err(|refusal| refusal.why);
            assert_eq!(judged.is_ok(), complete, "{judged:?}");
            let stands = chain.fallback_stores(*partition, settings).any(|(_, one)| one == store(5));
            assert_eq!(stands, complete);
        }
    }
}

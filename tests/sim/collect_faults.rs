//! What may not come back through collection when more goes wrong: a fallback's hint from before a round, a store that
//! gains a partition, a member that is skipped, directories that went back.

use std::time::Duration;

use bytes::Bytes;
use quorate::causality::decode_object;
use quorate::cluster::Standing;
use quorate::kv::layouts::{CommitRequest, LayoutAdmin as _, PlanRequest, SkipRequest};
use quorate::kv::{NodeView as _, TombstonesView};
use quorate::kv::{ReadOptions, RepairAdmin as _, RepairMode, RepairRequest, TombstoneAdmin as _, WriteOptions};
use quorate::quorum::Level;
use quorate::sim::cluster::{Cluster, Setup};
use quorate::sim::layouts::settled;
use quorate::sim::net::Death;
use quorate::sim::time::SimTime;
use quorate::storage::Durability;
use quorate::transport::messages::Ask;
use quorate::types::PartitionId;

use crate::collect::{Frames, collecting, delete, founded_as, gone, id, put, sim, stored};
use crate::sloppy::machine;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// What these nodes show of a key.
async fn shown(cluster: &Cluster, nodes: &[usize], key: &str) -> Vec<Bytes> {
    let mut shows = Vec::new();
    for at in nodes {
        let options = ReadOptions { r: Level::All, repair: Some(RepairMode::Sync), ..ReadOptions::default() };
        let answer = cluster.kv(*at).unwrap().get(id(key), options).await.unwrap();
        shows.extend(answer.siblings.into_iter().filter_map(|sibling| Some(sibling.value?.bytes)));
    }
    shows
}

fn partition_of(cluster: &Cluster, key: &str) -> PartitionId {
    let newest = (0..cluster.len()).find_map(|at| cluster.node(at)?.layouts().newest()).unwrap();
    newest.grid().partition(id(key).token())
}

/// Another key of the same partition.
fn beside(cluster: &Cluster, key: &str) -> String {
    let partition = partition_of(cluster, key);
    (0..).map(|n| format!("beside{n}")).find(|name| partition_of(cluster, name) == partition).unwrap()
}

/// The machines that own a key, and those that stand in for them.
fn places(cluster: &Cluster, key: &str) -> (Vec<usize>, Vec<usize>) {
    let node = (0..cluster.len()).find_map(|at| cluster.node(at)).unwrap();
    let views = node.owners(&id(key)).unwrap();
    let of = |views: &[quorate::kv::OwnerView]| views.iter().map(|view| machine(&view.node)).collect();
    (of(&views.owners), of(&views.fallbacks))
}

fn views(cluster: &Cluster) -> Vec<TombstonesView> {
    (0..cluster.len()).filter_map(|at| Some(cluster.node(at)?.tombstones_view())).collect()
}

/// Whether a node is named as holding something up, for a reason that says so much.
fn is_named(cluster: &Cluster, at: usize, why: &str) -> bool {
    let name = format!("n{at}");
    views(cluster).iter().flat_map(|view| &view.held_up_by).any(|by| by.node == name && by.why.contains(why))
}

fn owed(cluster: &Cluster) -> u64 {
    (0..cluster.len()).filter_map(|at| cluster.node(at)).map(|node| node.replica().hints().owed()).sum()
}

async fn is_back(cluster: &Cluster, machines: &[usize]) {
    for at in machines {
        cluster.start(*at).await.unwrap();
    }
    assert!(cluster.until_well(2 * MINUTE).await, "{:?}", cluster.ills());
}

/// A value that fallbacks alone were told of, while all its owners were down. It is on its way to them when deletions of
/// another key of its partition are ripe. Whether those were gone before it arrived, and what its owners show of it in the
/// end.
async fn while_a_hint_is_on_its_way(time: SimTime, seed: u64, broken: Option<&'static str>) -> (bool, Vec<Bytes>) {
    let setup = Setup { linger: Some(5 * SECOND), ..Setup::new(seed, 5) };
    let (cluster, frames) = founded_as(time, setup, broken).await;
    let (owners, fallbacks) = places(&cluster, "k");
    owners.iter().for_each(|at| cluster.crash(*at, Death::Killed));
    time.sleep(15 * SECOND).await;
    let any = WriteOptions { w: Level::Any, ..WriteOptions::default() };
    cluster.kv(fallbacks[0]).unwrap().put(id("k"), "kept".into(), any).await.unwrap();
    assert!(owed(&cluster) > 0);
    frames.hold(true);
    // What is sent to owners themselves is given up meanwhile.
    time.sleep(30 * SECOND).await;
    is_back(&cluster, &owners).await;
    assert!(owners.iter().all(|at| stored(&cluster, *at, "k").is_none()), "seed {seed}: it is on its way");
    let other = beside(&cluster, "k");
    put(&cluster, owners[0], &other, "old").await;
    delete(&cluster, owners[1], &other).await;
    let went = cluster.until(MINUTE, || owners.iter().all(|at| stored(&cluster, *at, &other).is_none())).await;
    let named = fallbacks.iter().any(|at| is_named(&cluster, *at, "hints wait there"));
    assert!(went || named, "seed {seed}: {:?}", views(&cluster));
    frames.hold(false);
    let had: Vec<bool> = owners.iter().map(|at| stored(&cluster, *at, "k").is_some()).collect();
    assert_eq!(had, [false; 3], "seed {seed}: nothing but hints brings it");
    let arrived = cluster.until(MINUTE, || owed(&cluster) == 0).await;
    assert_eq!(arrived, !went, "seed {seed}: what was read before a round can't be handed off after it");
    let shows = shown(&cluster, &owners, "k").await;
    assert!(went || gone(&cluster, &other).await, "seed {seed}: nothing is in the way any more");
    cluster.end();
    (went, shows)
}

#[test]
fn a_hint_from_before_a_round_is_handed_off_first() {
    for seed in 1..=3 {
        sim(seed, |time| async move {
            let (went, shows) = while_a_hint_is_on_its_way(time, seed, None).await;
            assert!(!went && shows == ["kept"; 3], "seed {seed}: {shows:?}");
        });
    }
    sim(1, |time| async move {
        let broken = Some("hints are drained before a seal");
        let (went, shows) = while_a_hint_is_on_its_way(time, 1, broken).await;
        assert!(went && shows.is_empty(), "an acknowledged write is refused for ever: {shows:?}");
    });
}

/// Values, their deletions, rounds; then a node joins, and states that were read before the rounds arrive at it, by somebody
/// who knows where they belong by now. How many it takes in.
async fn after_a_join(time: SimTime, seed: u64, broken: Option<&'static str>) -> usize {
    let (cluster, frames) = founded_as(time, collecting(seed), broken).await;
    let keys: Vec<String> = (0..12).map(|n| format!("k{n}")).collect();
    for key in &keys {
        put(&cluster, 0, key, "old").await;
        delete(&cluster, 1, key).await;
    }
    for key in &keys {
        assert!(gone(&cluster, key).await);
    }
    // What is taken out of what arrives is forgotten.
    time.sleep(2 * MINUTE).await;
    let old = frames.sent();
    let joined = cluster.add_machine(None);
    cluster.start(joined).await.unwrap();
    settled(&cluster, 2 * MINUTE).await.unwrap_or_else(|why| panic!("{why}"));
    let node = cluster.node(joined).unwrap();
    let (store, version) = (node.replica().identity().store(), node.layouts().newest().unwrap().version());
    let mine: Vec<&String> = keys.iter().filter(|key| places(&cluster, key).0.contains(&joined)).collect();
    assert!(!mine.is_empty());
    let mut sent = 0;
    for (transport, _, _, mut request) in old {
        let Some(Ask::Write(write)) = &request.ask else { continue };
        let is_mine = mine.iter().any(|key| write.target.key == key.as_bytes());
        let is_live = decode_object(write.record.clone()).unwrap().siblings().iter().any(|one| !one.is_tombstone());
        if is_mine && is_live {
            (request.head, request.counted, request.also) = (version, version, Vec::new());
            let _ = transport.call(&cluster.address(joined), Some(store), request, SECOND).await;
            sent += 1;
        }
    }
    assert!(sent > 0);
    let took = mine.iter().filter(|key| stored(&cluster, joined, key).is_some()).count();
    time.sleep(MINUTE).await;
    for key in &keys {
        let shows = shown(&cluster, &[0, joined], key).await;
        assert!(took > 0 || shows.is_empty(), "seed {seed}: {key}: {shows:?}");
    }
    cluster.end();
    took
}

#[test]
fn who_gains_a_partition_knows_what_was_collected_there() {
    for seed in 1..=3 {
        sim(seed, |time| async move { assert_eq!(after_a_join(time, seed, None).await, 0, "seed {seed}") });
    }
    sim(1, |time| async move {
        let broken = Some("a store that gains a partition learns its epoch");
        assert!(after_a_join(time, 1, broken).await > 0, "it takes in what was deleted for good");
    });
}

#[test]
fn a_skipped_member_holds_nothing_up_and_comes_back_empty() {
    for seed in 1..=3 {
        sim(seed, |time| async move {
            let setup = Setup { linger: Some(5 * SECOND), ..Setup::new(seed, 4) };
            let (cluster, frames) = founded_as(time, setup, None).await;
            let keys: Vec<String> = (0..12).map(|n| format!("k{n}")).collect();
            for key in &keys {
                put(&cluster, 0, key, "old").await;
            }
            put(&cluster, 1, "stays", "here").await;
            let its: Vec<&String> = keys.iter().filter(|key| places(&cluster, key).0.contains(&3)).collect();
            assert!(!its.is_empty());
            cluster.crash(3, Death::Killed);
            time.sleep(10 * SECOND).await;
            for key in &keys {
                cluster.kv(0).unwrap().delete(id(key), WriteOptions::default()).await.unwrap();
            }
            time.sleep(MINUTE).await;
            let left = |key: &str| (0..3).any(|at| stored(&cluster, at, key).is_some());
            assert!(its.iter().all(|key| left(key)) && is_named(&cluster, 3, "it is down"), "{:?}", views(&cluster));
            let node = cluster.node(0).unwrap();
            let skip = SkipRequest { members: vec!["n3".into()], ..SkipRequest::default() };
            let begun = node.skip(skip).await.unwrap();
            let done = || node.operation(&begun.id).unwrap().state == "done";
            assert!(cluster.until(2 * MINUTE, done).await, "{:?}", node.operation(&begun.id));
            for key in &keys {
                assert!(gone(&cluster, key).await, "seed {seed}: {key}: {:?}", views(&cluster));
            }
            // Its directory is full of what was deleted.
            cluster.start(3).await.unwrap();
            time.sleep(MINUTE).await;
            assert_ne!(cluster.node(3).unwrap().standing(), Standing::Serving);
            for key in &keys {
                assert_eq!(shown(&cluster, &[0, 1, 2], key).await, [""; 0], "seed {seed}: {key}");
            }
            cluster.crash(3, Death::Killed);
            cluster.disk(3, |disk| disk.wipe());
            cluster.start(3).await.unwrap();
            settled(&cluster, 2 * MINUTE).await.unwrap_or_else(|why| panic!("{why}"));
            frames.arrive_again().await;
            time.sleep(MINUTE).await;
            for key in &keys {
                assert_eq!(shown(&cluster, &[0, 1, 2, 3], key).await, [""; 0], "seed {seed}: {key}");
            }
            assert_eq!(shown(&cluster, &[0, 1, 2, 3], "stays").await, ["here"; 4]);
            cluster.end();
        });
    }
}

/// Two of three directories go back behind a collection. Nothing of theirs is deleted until somebody says so.
#[test]
fn where_most_owners_went_back_behind_a_collection_nothing_is_deleted_unasked() {
    for seed in 1..=3 {
        sim(seed, |time| async move {
            let (cluster, frames): (Cluster, Frames) = founded_as(time, collecting(seed), None).await;
            put(&cluster, 0, "k", "old").await;
            put(&cluster, 1, "stays", "here").await;
            (1..3).for_each(|at| cluster.disk(at, |disk| disk.keep_copy()));
            delete(&cluster, 1, "k").await;
            assert!(gone(&cluster, "k").await);
            put(&cluster, 0, "newer", "here").await;
            for at in 1..3 {
                cluster.crash(at, Death::Killed);
                cluster.disk(at, |disk| disk.roll_back());
            }
            for at in 1..3 {
                cluster.start(at).await.unwrap();
            }
            let partition = partition_of(&cluster, "k");
            let synced = |at: usize| cluster.node(at).unwrap().replica().health().is_synced(partition);
            assert!(cluster.until(MINUTE, || !synced(1) && !synced(2)).await);
            assert!(!cluster.until(2 * MINUTE, || synced(1) || synced(2)).await, "seed {seed}");
            assert!((1..3).all(|at| stored(&cluster, at, "k").is_some()), "seed {seed}: it was not deleted unasked");
            assert!(stored(&cluster, 0, "k").is_none(), "and brings nothing back");
            let quorum = cluster.kv(0).unwrap().get(id("k"), ReadOptions::default()).await;
            assert!(quorum.is_err(), "two have no vote: {quorum:?}");
            let request =
                RepairRequest { partition: Some(partition.0), accept_data_loss: true, ..RepairRequest::default() };
            for at in 1..3 {
                cluster.node(at).unwrap().begin_repair(request.clone()).unwrap();
            }
            assert!(cluster.until_well(2 * MINUTE).await, "seed {seed}: {:?}", cluster.ills());
            assert!(gone(&cluster, "k").await, "seed {seed}");
            frames.arrive_again().await;
            time.sleep(MINUTE).await;
            assert_eq!(shown(&cluster, &[0, 1, 2], "k").await, [""; 0], "seed {seed}");
            for key in ["stays", "newer"] {
                assert_eq!(shown(&cluster, &[0, 1, 2], key).await, ["here"; 3], "seed {seed}: {key}");
            }
            cluster.end();
        });
    }
}

/// A fallback's directory goes back to when it kept a value for an owner; that has been handed off, deleted and collected
/// since. No owner takes it, and nobody throws it away: it holds up its partition, and its keeper is named.
#[test]
fn what_a_fallbacks_old_directory_keeps_is_refused_and_named() {
    for seed in 1..=2 {
        sim(seed, |time| async move {
            let setup = Setup { linger: Some(5 * SECOND), ..Setup::new(seed, 5) };
            let (cluster, frames) = founded_as(time, setup, None).await;
            let (owners, _) = places(&cluster, "k");
            cluster.crash(owners[0], Death::Killed);
            time.sleep(15 * SECOND).await;
            let all = WriteOptions { w: Level::All, sloppy: true, ..WriteOptions::default() };
            cluster.kv(owners[1]).unwrap().put(id("k"), "old".into(), all).await.unwrap();
            let keeps = |at: &usize| cluster.node(*at).is_some_and(|node| node.replica().hints().owed() > 0);
            let keeper = (0..5).find(|at| !owners.contains(at) && keeps(at)).unwrap();
            cluster.disk(keeper, |disk| disk.keep_copy());
            is_back(&cluster, &owners[..1]).await;
            assert!(cluster.until(MINUTE, || owed(&cluster) == 0).await);
            delete(&cluster, owners[1], "k").await;
            assert!(gone(&cluster, "k").await);
            cluster.crash(keeper, Death::Killed);
            cluster.disk(keeper, |disk| disk.roll_back());
            is_back(&cluster, &[keeper]).await;
            frames.arrive_again().await;
            let other = beside(&cluster, "k");
            put(&cluster, owners[0], &other, "old").await;
            delete(&cluster, owners[1], &other).await;
            time.sleep(2 * MINUTE).await;
            assert!(keeps(&keeper), "seed {seed}: it may have been acknowledged");
            assert_eq!(shown(&cluster, &owners, "k").await, [""; 0], "seed {seed}");
            assert!(stored(&cluster, owners[0], &other).is_some());
            assert!(is_named(&cluster, keeper, "hints wait there"), "{:?}", views(&cluster));
            // With an empty directory it is its own replacement.
            cluster.crash(keeper, Death::Killed);
            cluster.disk(keeper, |disk| disk.wipe());
            is_back(&cluster, &[keeper]).await;
            assert!(gone(&cluster, &other).await, "seed {seed}: {:?}", views(&cluster));
            assert_eq!(shown(&cluster, &(0..5).collect::<Vec<_>>(), "k").await, [""; 0], "seed {seed}");
            cluster.end();
        });
    }
}

/// A fallback's directory goes back to before a round that it was asked about; then it takes a write that its owners miss.
/// Whether they have it in the end.
async fn after_a_fallback_forgot_what_it_drained(time: SimTime, seed: u64, broken: Option<&'static str>) -> bool {
    let setup = Setup { linger: Some(5 * SECOND), ..Setup::new(seed, 5) };
    let (cluster, _) = founded_as(time, setup, broken).await;
    let (owners, fallbacks) = places(&cluster, "k");
    let keeper = fallbacks[0];
    cluster.disk(keeper, |disk| disk.keep_copy());
    let other = beside(&cluster, "k");
    put(&cluster, owners[0], &other, "old").await;
    delete(&cluster, owners[1], &other).await;
    assert!(gone(&cluster, &other).await, "seed {seed}: {:?}", views(&cluster));
    // A heartbeat tells that it has moved on.
    time.sleep(5 * SECOND).await;
    cluster.crash(keeper, Death::Killed);
    cluster.disk(keeper, |disk| disk.roll_back());
    is_back(&cluster, &[keeper]).await;
    owners.iter().for_each(|at| cluster.crash(*at, Death::Killed));
    time.sleep(15 * SECOND).await;
    let any = WriteOptions { w: Level::Any, ..WriteOptions::default() };
    cluster.kv(keeper).unwrap().put(id("k"), "kept".into(), any).await.unwrap();
    assert!(owed(&cluster) > 0, "seed {seed}");
    for at in &owners {
        cluster.start(*at).await.unwrap();
    }
    let arrived = cluster.until(2 * MINUTE, || owed(&cluster) == 0).await;
    let shows = shown(&cluster, &owners, "k").await;
    assert_eq!(shows.len(), if arrived { 3 } else { 0 }, "seed {seed}: {shows:?}");
    cluster.end();
    arrived
}

#[test]
fn a_fallback_that_forgot_what_it_drained_takes_nothing_that_its_owners_refuse() {
    for seed in 1..=3 {
        sim(seed, |time| async move {
            assert!(after_a_fallback_forgot_what_it_drained(time, seed, None).await, "seed {seed}");
        });
    }
    sim(1, |time| async move {
        let broken = Some("who forgot its promises stands in for nobody");
        assert!(!after_a_fallback_forgot_what_it_drained(time, 1, broken).await, "its owners refuse it for ever");
    });
}

/// An owner that has started again hears whoever drives rounds, and not the third owner, who might know that its directory
/// went back: it marks nothing before it does.
#[test]
fn who_has_not_heard_every_owner_since_its_start_marks_nothing() {
    for seed in 1..=3 {
        sim(seed, |time| async move {
            let (cluster, _) = founded_as(time, collecting(seed), None).await;
            let (owners, _) = places(&cluster, "k");
            // Whoever drives hears both of the others.
            let [driver, one, other] = owners[..] else { panic!("three owners: {owners:?}") };
            put(&cluster, driver, "k", "old").await;
            cluster.crash(one, Death::Killed);
            let (one_at, other_at) = (cluster.address(one), cluster.address(other));
            cluster.net().cut(&one_at, &other_at);
            cluster.net().cut(&other_at, &one_at);
            cluster.start(one).await.unwrap();
            let up = |at: usize| {
                let members = cluster.node(driver).unwrap().status().members;
                members.iter().any(|member| member.name == format!("n{at}") && member.state == "up")
            };
            assert!(cluster.until(MINUTE, || up(one) && up(other)).await, "seed {seed}");
            // As soon as it is written to again.
            time.sleep(5 * SECOND).await;
            let deleted = cluster.kv(driver).unwrap().delete(id("k"), WriteOptions::default()).await;
            assert!(deleted.is_ok(), "seed {seed}: {deleted:?}");
            time.sleep(MINUTE).await;
            assert!(stored(&cluster, driver, "k").is_some(), "seed {seed}");
            assert!(is_named(&cluster, one, "has not heard"), "seed {seed}: {:?}", views(&cluster));
            cluster.net().heal();
            assert!(gone(&cluster, "k").await, "seed {seed}: {:?}", views(&cluster));
            cluster.end();
        });
    }
}

/// Two owners of three that are left merge everything anew for the next layout, and lose power before they have: what each
/// of them holds the other one takes.
#[test]
fn a_power_cut_while_two_owners_merge_from_each_other_leaves_nobody_waiting() {
    for seed in 1..=4 {
        sim(seed, |time| async move {
            let setup = Setup { durability: Durability::Os, ..collecting(seed) };
            let (cluster, _) = founded_as(time, setup, None).await;
            for n in 0..12 {
                put(&cluster, 0, &format!("k{n}"), "here").await;
            }
            put(&cluster, 0, "k", "old").await;
            delete(&cluster, 1, "k").await;
            assert!(gone(&cluster, "k").await, "seed {seed}");
            cluster.crash(2, Death::Killed);
            time.sleep(15 * SECOND).await;
            let node = cluster.node(0).unwrap();
            let plan = node.plan(PlanRequest { remove: vec!["n2".into()], ..PlanRequest::default() }).await.unwrap();
            let commit = CommitRequest { version: plan.version, force: false, accept_data_loss: false };
            node.commit(plan.id, commit).await.unwrap();
            let version = |at: usize| cluster.node(at).unwrap().layouts().newest().unwrap().version();
            assert!(cluster.until(MINUTE, || version(0) == plan.version && version(1) == plan.version).await);
            (0..2).for_each(|at| cluster.crash(at, Death::PowerCut));
            for at in 0..2 {
                cluster.start(at).await.unwrap();
            }
            let ills = || cluster.ills_without(&[2].into());
            assert!(cluster.until(2 * MINUTE, || ills().is_empty()).await, "seed {seed}: {:?}", ills());
            let read = async |at: usize, key: &str| {
                let options = ReadOptions { r: Level::Quorum, ..ReadOptions::default() };
                let answer = cluster.kv(at).unwrap().get(id(key), options).await.unwrap();
                answer.siblings.into_iter().filter_map(|sibling| Some(sibling.value?.bytes)).collect::<Vec<_>>()
            };
            for at in 0..2 {
                for n in 0..12 {
                    assert_eq!(read(at, &format!("k{n}")).await, ["here"], "seed {seed}: k{n}");
                }
                assert_eq!(read(at, "k").await, [""; 0], "seed {seed}");
            }
            cluster.end();
        });
    }
}

//! Sloppy quorums where layouts change, buckets are emptied and disks lose what was not flushed: what a fallback keeps
//! reaches those who own it by then, and nobody goes with what is owed.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use quorate::cluster::Proposed;
use quorate::kv::{
    BucketAdmin as _, BucketWish, ErrorCode, Guard, NodeView as _, Outcome, ReadOptions, Steer, WorkerAdmin as _,
    WriteOptions,
};
use quorate::quorum::{Level, Role};
use quorate::replica::name_of;
use quorate::ring::{Layout, change};
use quorate::sim::cluster::{Cluster, Setup, Wraps};
use quorate::sim::layouts::settled as quiet;
use quorate::sim::net::Death;
use quorate::storage::Durability;
use quorate::types::{Bucket, StoreId};

use crate::sloppy::{SECOND, deaf, id, lose, machine, owed, places, put, read, returns, serving, settled, sim, values};

fn store(cluster: &Cluster, at: usize) -> StoreId {
    cluster.node(at).unwrap().replica().identity().store()
}

fn newest(cluster: &Cluster, at: usize) -> Layout {
    cluster.node(at).unwrap().layouts().newest().unwrap()
}

async fn propose(cluster: &Cluster, at: usize, next: Layout) {
    let won = cluster.node(at).unwrap().layouts().propose(next, 10 * SECOND).await.unwrap();
    assert!(matches!(won, Proposed::Won { .. }));
}

/// The layout that `at` would be changed to, in which these leave.
fn leaving(cluster: &Cluster, at: usize, who: StoreId) -> Layout {
    let known = cluster.node(at).unwrap().layouts().known().unwrap();
    change::leave(&known.chain, &BTreeSet::from([who])).unwrap()
}

fn owed_on(cluster: &Cluster, at: usize) -> u64 {
    cluster.node(at).map_or(0, |node| node.replica().hints().owed())
}

/// The layouts that are live for a node.
fn live(cluster: &Cluster, at: usize) -> usize {
    cluster.node(at).unwrap().layouts().known().unwrap().live().len()
}

/// All serve, mint and hear each other.
async fn all_up(cluster: &Cluster) {
    let well = |at: usize| {
        let node = cluster.node(at).unwrap();
        let members = node.status().members;
        let replica = node.replica();
        replica.identity().barred().is_none()
            && replica.health().unsynced().is_empty()
            && members.iter().all(|member| member.state == "up")
    };
    let states = || (0..cluster.len()).map(|at| cluster.node(at).unwrap().status().members).collect::<Vec<_>>();
    assert!(cluster.until(60 * SECOND, || (0..cluster.len()).all(well)).await, "{:?}", states());
}

/// Nobody hears the other side.
fn cut(cluster: &Cluster, one: usize, other: usize) {
    cluster.net().partition(&[&cluster.address(one)], &[&cluster.address(other)]);
}

fn steer(cluster: &Cluster, at: usize, worker: &str, steer: Steer) {
    cluster.node(at).unwrap().steer(worker, steer).unwrap();
}

/// A fallback holds what it owes an owner that is down. Another one joins, the owner comes back: all have everything.
#[test]
fn a_cluster_grows_while_hints_are_owed() {
    for seed in 1..=3 {
        sim(seed, |time| async move {
            let cluster = serving(time, Setup::new(seed, 5), |_, _| {}).await;
            let (owners, _) = places(&cluster, "k");
            lose(&cluster, &owners[..2]).await;
            let up: Vec<usize> = (0..5).filter(|at| cluster.node(*at).is_some()).collect();
            for key in 0..20 {
                put(&cluster, up[key % 3], &format!("k{key}"), "before", Level::Quorum, None).await.unwrap();
            }
            assert!(owed(&cluster) > 0);
            let joiner = cluster.add_machine(None);
            cluster.start(joiner).await.unwrap();
            let six = || newest(&cluster, up[0]).members().len() == 6;
            assert!(cluster.until(60 * SECOND, six).await, "{:?}", cluster.ills());
            let mut taken = Vec::new();
            for key in 20..40 {
                let key = format!("k{key}");
                match put(&cluster, up[key.len() % 3], &key, "meanwhile", Level::Quorum, None).await {
                    Ok(_) => taken.push(key),
                    Err(error) => assert_ne!(error.outcome, Outcome::Applied),
                }
            }
            assert!(!taken.is_empty(), "fallbacks stand in while the layout changes");
            for at in &owners[..2] {
                cluster.start(*at).await.unwrap();
            }
            assert_eq!(quiet(&cluster, 120 * SECOND).await, Ok(BTreeSet::new()));
            assert!(cluster.until(60 * SECOND, || settled(&cluster)).await, "{} are owed still", owed(&cluster));
            taken.extend((0..20).map(|key| format!("k{key}")));
            for (turn, key) in taken.iter().enumerate() {
                let found = read(&cluster, turn % 6, key, Level::All, false).await.unwrap();
                assert_eq!(values(&found).len(), 1, "{key}");
            }
            assert_eq!(cluster.tally().clashes, 0);
            cluster.end();
        });
    }
}

/// Who has only just come in may be given up, and what it keeps with it: so it keeps nothing for anybody.
#[test]
fn a_joiner_stands_in_for_nobody_until_the_change_is_complete() {
    for seed in 1..=4 {
        sim(seed, |time| async move {
            let (deaf, wraps) = deaf(None);
            let cluster = serving(time, Setup { wraps, partitions: 64, ..Setup::new(seed, 5) }, |_, _| {}).await;
            let keys: Vec<(String, Vec<usize>)> =
                (0..200).map(|at| format!("k{at}")).map(|key| (key.clone(), places(&cluster, &key).0)).collect();
            let lost = places(&cluster, "k").0;
            // The layout is decided by those that are up.
            lose(&cluster, &lost[..2]).await;
            let joiner = cluster.add_machine(None);
            cluster.start(joiner).await.unwrap();
            let up = (0..5).find(|at| !lost.contains(at)).unwrap();
            let six = |at: usize| {
                let newest = cluster.node(at).and_then(|node| node.layouts().newest());
                newest.is_some_and(|newest| newest.members().len() == 6)
            };
            assert!(cluster.until(60 * SECOND, || six(joiner) && six(up)).await);
            lose(&cluster, &lost[2..]).await;
            // Of those, the ones for which the joiner is next in line.
            let layout = newest(&cluster, up);
            let index = layout.member_by_store(store(&cluster, joiner)).unwrap();
            let next = |key: &&(String, Vec<usize>)| {
                let (partition, settings) = (layout.partition(id(&key.0).token()), layout.settings(&id(&key.0).bucket));
                let region = layout.regions().next().unwrap();
                key.1.iter().all(|at| lost.contains(at))
                    && !layout.owners_in(region, partition, settings.n).contains(&index)
                    && layout.fallbacks(region, partition, settings.n).contains(&index)
            };
            let keys: Vec<String> = keys.iter().filter(next).map(|(key, _)| key.clone()).collect();
            assert!(!keys.is_empty(), "there is one in 200");
            deaf.store(true, Ordering::Relaxed);
            let mut taken = Vec::new();
            for key in &keys {
                let wrote = put(&cluster, joiner, key, "v", Level::Any, None).await;
                taken.extend(wrote.is_ok().then_some(key));
            }
            assert!(!taken.is_empty(), "it is handed over to one that stands in");
            assert_eq!(owed_on(&cluster, joiner), 0);
            cluster.crash(joiner, Death::PowerCut);
            deaf.store(false, Ordering::Relaxed);
            for at in &lost {
                cluster.start(*at).await.unwrap();
            }
            let none = || (0..5).all(|at| cluster.node(at).is_some_and(|node| node.replica().hints().owed() == 0));
            assert!(cluster.until(60 * SECOND, none).await);
            for key in taken {
                let found = read(&cluster, up, key, Level::Quorum, false).await.unwrap();
                assert_eq!(values(&found), ["v"], "{key}");
            }
            cluster.end();
        });
    }
}

/// What only one fallback holds when it is told to leave, while its hints are held up: whether it is there in the end.
fn leaves_owing(seed: u64, broken: Option<&'static str>) -> bool {
    sim(seed, |time| async move {
        let (deaf, wraps) = deaf(broken);
        let cluster = serving(time, Setup { wraps, ..Setup::new(seed, 5) }, |_, _| {}).await;
        let (owners, fallbacks) = places(&cluster, "k");
        let who = fallbacks[0];
        lose(&cluster, &owners).await;
        deaf.store(true, Ordering::Relaxed);
        put(&cluster, who, "k", "v", Level::Any, None).await.unwrap();
        deaf.store(false, Ordering::Relaxed);
        steer(&cluster, who, "hints", Steer::Pause);
        for at in &owners {
            cluster.start(*at).await.unwrap();
        }
        all_up(&cluster).await;
        let (next, me) = (leaving(&cluster, owners[0], store(&cluster, who)), store(&cluster, who));
        propose(&cluster, owners[0], next).await;
        let gone = || newest(&cluster, owners[0]).member_by_store(me).is_none();
        let left = cluster.until(60 * SECOND, gone).await;
        assert_eq!(left, broken.is_some(), "it waits for what it owes");
        if !left {
            let attention = cluster.node(who).unwrap().status().attention;
            let told = attention.iter().find(|told| told.code == "leave_waits_for_hints").expect("it says so");
            assert!(told.text.contains("3 keys"), "{told:?}");
            steer(&cluster, who, "hints", Steer::Resume);
        }
        let complete = || gone() && owners.iter().all(|at| live(&cluster, *at) == 1);
        assert!(cluster.until(120 * SECOND, complete).await, "{:?}", cluster.ills());
        let found = values(&read(&cluster, owners[0], "k", Level::All, false).await.unwrap());
        cluster.end();
        found == ["v"]
    })
}

#[test]
fn who_leaves_hands_over_what_it_owes_first() {
    assert!(leaves_owing(1, None) && leaves_owing(2, None));
}

#[test]
fn who_leaves_with_what_it_owes_is_caught() {
    assert!(!leaves_owing(1, Some("who leaves hands over what it owes")));
}

/// A fallback that keeps something for an owner leaves; the owner, and another one, are gone for good, and are skipped:
/// whether the change completes.
fn leaves_after_two_ended(seed: u64, broken: Option<&'static str>) -> bool {
    sim(seed, |time| async move {
        let wraps = Wraps { broken, ..Wraps::default() };
        let cluster = serving(time, Setup { wraps, ..Setup::new(seed, 7) }, |_, _| {}).await;
        let (owners, _) = places(&cluster, "k");
        let (dead, up) = ([owners[0], owners[1]], owners[2]);
        let stores = dead.map(|at| store(&cluster, at));
        lose(&cluster, &dead).await;
        put(&cluster, up, "k", "v", Level::All, None).await.unwrap();
        let who = (0..7).find(|at| owed_on(&cluster, *at) > 0).unwrap();
        let me = store(&cluster, who);
        propose(&cluster, up, leaving(&cluster, up, me)).await;
        // Those that are down hold it up, and so does what is owed to them; and how to go on is said.
        let told = || {
            let attention = cluster.node(who).unwrap().status().attention;
            attention.into_iter().find(|told| told.code == "leave_waits_for_hints")
        };
        assert!(cluster.until(60 * SECOND, || told().is_some()).await);
        let told = told().unwrap();
        assert!(dead.iter().any(|at| told.command == format!("quorate layout skip n{at}")), "{told:?}");
        assert!(told.text.contains("that it alone holds"), "it says what that costs: {told:?}");
        let skipped =
            change::skip(&cluster.node(up).unwrap().layouts().known().unwrap().chain, &stores.into()).unwrap();
        propose(&cluster, up, skipped).await;
        let gone = || newest(&cluster, up).member_by_store(me).is_none();
        let left = cluster.until(120 * SECOND, gone).await;
        if left {
            assert!(cluster.until(60 * SECOND, || live(&cluster, up) == 1).await);
            let found = values(&read(&cluster, up, "k", Level::All, false).await.unwrap());
            assert_eq!(found, ["v"]);
        }
        cluster.end();
        left
    })
}

#[test]
fn what_is_owed_to_one_who_has_ended_goes_to_who_is_left() {
    assert!(leaves_after_two_ended(1, None) && leaves_after_two_ended(2, None));
}

#[test]
fn hints_for_two_who_have_ended_that_go_round_are_caught() {
    assert!(!leaves_after_two_ended(1, Some("who has ended is left no hints")));
}

/// The keys that `at` keeps something of for an owner.
async fn kept_for(cluster: &Cluster, at: usize, owner: StoreId) -> Vec<String> {
    let page = cluster.node(at).unwrap().replica().hints_of(owner, Bytes::new(), 1000).await.unwrap();
    assert_eq!((page.next, page.unreadable), (None, 0));
    let name = |stored: &Bytes| String::from_utf8(name_of(stored).unwrap().0.key.as_bytes().to_vec()).unwrap();
    page.entries.iter().map(|(stored, _)| name(stored)).collect()
}

/// An owner gives keys up and then cannot be reached by who keeps something for it: whether that one waits for it.
fn goes_to_the_owners_of_now(seed: u64, broken: Option<&'static str>) -> bool {
    sim(seed, |time| async move {
        let wraps = Wraps { broken, ..Wraps::default() };
        let cluster = serving(time, Setup { wraps, partitions: 64, ..Setup::new(seed, 5) }, |_, _| {}).await;
        let (owners, fallbacks) = places(&cluster, "k");
        let (away, up, who) = (owners[0], owners[1], fallbacks[0]);
        let gone = store(&cluster, away);
        lose(&cluster, &[away]).await;
        for key in 0..60 {
            put(&cluster, up, &format!("k{key}"), "v", Level::All, None).await.unwrap();
        }
        let kept = kept_for(&cluster, who, gone).await;
        assert!(kept.len() > 5, "{kept:?}");
        cut(&cluster, who, away);
        cluster.start(away).await.unwrap();
        let up_again = || cluster.node(up).unwrap().status().members.iter().all(|member| member.state == "up");
        assert!(cluster.until(60 * SECOND, up_again).await, "{:?}", cluster.node(up).unwrap().status().members);
        let before = newest(&cluster, up).version();
        for _ in 0..3 {
            let joiner = cluster.add_machine(None);
            cluster.start(joiner).await.unwrap();
        }
        let complete = || {
            let known = cluster.node(who).unwrap().layouts().known().unwrap();
            known.newest().version() > before && live(&cluster, who) == 1 && known.newest().members().len() == 8
        };
        assert!(cluster.until(180 * SECOND, complete).await, "{:?}", cluster.ills());
        let owns = |key: &String| places(&cluster, key).0.contains(&away);
        let moved: Vec<&String> = kept.iter().filter(|key| !owns(key)).collect();
        assert!(!moved.is_empty(), "it owns all of {kept:?} still");
        time.sleep(30 * SECOND).await;
        assert!(cluster.node(who).unwrap().status().members.iter().any(|member| member.state == "down"));
        let left = kept_for(&cluster, who, gone).await;
        assert_eq!(left.iter().filter(|key| owns(key)).count(), kept.len() - moved.len(), "the others are its own");
        let let_go = left.iter().all(owns);
        cluster.net().heal();
        assert!(cluster.until(60 * SECOND, || owed(&cluster) == 0).await);
        for key in &kept {
            assert_eq!(values(&read(&cluster, up, key, Level::All, false).await.unwrap()), ["v"], "{key}");
        }
        cluster.end();
        let_go
    })
}

#[test]
fn what_was_kept_for_one_that_owns_no_more_goes_to_who_does() {
    for seed in 1..=3 {
        assert!(goes_to_the_owners_of_now(seed, None), "seed {seed}");
    }
}

#[test]
fn what_waits_for_one_that_owns_no_more_is_caught() {
    assert!(!goes_to_the_owners_of_now(1, Some("what an owner owns no more is not kept for it")));
}

/// What was written before a bucket was emptied is nobody's, also where whom it was kept for is down: whether it is let go.
fn purged(seed: u64, broken: Option<&'static str>) -> bool {
    sim(seed, |time| async move {
        let wraps = Wraps { broken, ..Wraps::default() };
        let cluster = serving(time, Setup { wraps, ..Setup::new(seed, 5) }, |_, _| {}).await;
        let (owners, fallbacks) = places(&cluster, "k");
        let up = owners[2];
        lose(&cluster, &owners[..2]).await;
        for key in 0..10 {
            put(&cluster, up, &format!("k{key}"), "old", Level::Quorum, None).await.unwrap();
        }
        put(&cluster, up, "k", "old", Level::All, None).await.unwrap();
        assert!(owed(&cluster) >= 2);
        let bucket = Bucket::new("sloppy").unwrap();
        cluster.node(up).unwrap().purge_bucket(bucket, 10 * SECOND).await.unwrap();
        let let_go = cluster.until(60 * SECOND, || owed(&cluster) == 0).await;
        assert_eq!(cluster.tally().hints_dropped > 0, let_go);
        // What is written now is owed as before.
        put(&cluster, fallbacks[0], "k", "new", Level::Quorum, None).await.unwrap();
        assert!(owed(&cluster) > 0);
        returns(&cluster).await;
        for at in 0..5 {
            assert_eq!(values(&read(&cluster, at, "k", Level::All, false).await.unwrap()), ["new"]);
            assert_eq!(values(&read(&cluster, at, "k3", Level::All, false).await.unwrap()), [""; 0]);
        }
        cluster.end();
        let_go
    })
}

#[test]
fn of_a_bucket_that_was_emptied_nothing_is_owed() {
    assert!(purged(1, None) && purged(2, None));
}

#[test]
fn what_is_owed_of_a_bucket_that_was_emptied_is_caught() {
    assert!(!purged(1, Some("what an owner owns no more is not kept for it")));
}

/// Disks flush when they like. What a fallback had flushed is delivered, and then all owners lose power: whether it is
/// there.
fn delivered_and_lost(seed: u64, broken: Option<&'static str>) -> bool {
    sim(seed, |time| async move {
        let (deaf, wraps) = deaf(broken);
        let setup = Setup { wraps, durability: Durability::Os, ..Setup::new(seed, 5) };
        let cluster = serving(time, setup, |_, _| {}).await;
        let (owners, fallbacks) = places(&cluster, "k");
        lose(&cluster, &owners).await;
        deaf.store(true, Ordering::Relaxed);
        let options = WriteOptions { w: Level::Any, durable: 1, ..WriteOptions::default() };
        cluster.kv(fallbacks[0]).unwrap().put(id("k"), "v".into(), options).await.unwrap();
        deaf.store(false, Ordering::Relaxed);
        for at in &owners {
            cluster.start(*at).await.unwrap();
        }
        assert!(cluster.until(60 * SECOND, || owed(&cluster) == 0).await, "{:?}", cluster.ills());
        owners.iter().for_each(|at| cluster.crash(*at, Death::PowerCut));
        returns(&cluster).await;
        let found = values(&read(&cluster, 0, "k", Level::All, false).await.unwrap());
        cluster.end();
        found == ["v"]
    })
}

#[test]
fn what_was_flushed_by_who_kept_it_is_flushed_by_who_gets_it() {
    for seed in 1..=6 {
        assert!(delivered_and_lost(seed, None), "seed {seed}");
    }
}

#[test]
fn what_is_let_go_before_it_is_flushed_is_caught() {
    let broken = Some("what is owed is flushed before it is let go");
    assert!((1..=20).any(|seed| !delivered_and_lost(seed, broken)), "nobody noticed");
}

/// A fallback keeps something for an owner, then owns the key itself and notes that the same owner missed another write:
/// whether both reach it, and nobody compares.
fn kept_and_noted(seed: u64, broken: Option<&'static str>) -> bool {
    sim(seed, |time| async move {
        let wraps = Wraps { broken, ..Wraps::default() };
        let cluster = serving(time, Setup { wraps, ..Setup::new(seed, 5) }, |_, _| {}).await;
        let (owners, _) = places(&cluster, "k");
        let (away, up) = (owners[0], owners[1]);
        lose(&cluster, &[away]).await;
        put(&cluster, up, "k", "kept", Level::All, None).await.unwrap();
        let who = (0..5).find(|at| owed_on(&cluster, *at) > 0).unwrap();
        let others: Vec<usize> = (0..5).filter(|at| *at != away).collect();
        for at in &others {
            steer(&cluster, *at, "hints", Steer::Pause);
        }
        cluster.start(away).await.unwrap();
        all_up(&cluster).await;
        // Whoever kept it owns it as well from here on.
        let (bucket, node) = (Bucket::new("sloppy").unwrap(), cluster.node(up).unwrap());
        let before = node.bucket(&bucket).unwrap().etag;
        let guard = Guard { absent: before.is_none(), matches: before };
        let wish: BucketWish = serde_json::from_value(serde_json::json!({"n": 5})).unwrap();
        node.set_bucket(bucket, wish, guard, 30 * SECOND).await.unwrap();
        assert!(cluster.until(120 * SECOND, || (0..5).all(|at| live(&cluster, at) == 1)).await);
        assert!(places(&cluster, "k").0.len() == 5 && owed_on(&cluster, who) > 0);
        lose(&cluster, &[away]).await;
        for at in (0..5).filter(|at| cluster.node(*at).is_some()) {
            steer(&cluster, at, "anti-entropy", Steer::Pause);
        }
        let options = WriteOptions { w: Level::Two, ..WriteOptions::default() };
        cluster.kv(who).unwrap().put(id("k"), "noted".into(), options).await.unwrap();
        time.sleep(20 * SECOND).await;
        cluster.start(away).await.unwrap();
        all_up(&cluster).await;
        steer(&cluster, away, "anti-entropy", Steer::Pause);
        steer(&cluster, who, "hints", Steer::Resume);
        assert!(cluster.until(60 * SECOND, || owed_on(&cluster, who) == 0).await);
        let options = ReadOptions { r: Level::One, hedge: false, ..ReadOptions::default() };
        let found = values(&cluster.kv(away).unwrap().get(id("k"), options).await.unwrap());
        cluster.end();
        found.contains(&"noted".to_owned())
    })
}

#[test]
fn what_was_noted_beside_what_is_kept_is_sent_as_well() {
    assert!(kept_and_noted(1, None) && kept_and_noted(2, None));
}

#[test]
fn a_note_that_is_ended_with_what_is_kept_is_caught() {
    assert!(!kept_and_noted(1, Some("what was noted beside what is kept is sent")));
}

/// Four nodes in each of two regions, three of them owners: a fallback stands in within its region.
#[test]
fn fallbacks_of_another_region_count_for_nobody_here() {
    for seed in 1..=2 {
        sim(seed, |time| async move {
            let region = |at: usize, config: &mut quorate::node::Config| {
                config.node.region = if at < 4 { "eu" } else { "us" }.into();
            };
            let cluster = serving(time, Setup::new(seed, 8), region).await;
            let eu = |at: &&usize| **at < 4;
            let (owners, fallbacks) = places(&cluster, "k");
            assert_eq!((owners.len(), fallbacks.len()), (6, 1), "those of the region that was asked");
            let local: Vec<usize> = owners.iter().filter(eu).copied().collect();
            let instead = (0..4).find(|at| !local.contains(at)).unwrap();
            lose(&cluster, &local[..2]).await;
            let wrote = put(&cluster, local[2], "k", "v", Level::LocalQuorum, None).await.unwrap();
            assert_eq!((wrote.counted.answered, wrote.counted.needed, wrote.counted.sloppy), (2, 2, 1));
            let replicas = wrote.explain.unwrap().replicas;
            let stood: Vec<usize> = replicas
                .iter()
                .filter(|replica| replica.role == Role::Fallback)
                .map(|replica| machine(&replica.node))
                .collect();
            assert_eq!(stood, [instead]);
            let each = put(&cluster, instead, "k", "each", Level::EachQuorum, None).await.unwrap();
            assert_eq!(each.counted.sloppy, 1);
            lose(&cluster, &local[2..]).await;
            let short = put(&cluster, instead, "k", "short", Level::LocalQuorum, None).await.unwrap_err();
            assert_eq!((short.code, short.outcome), (ErrorCode::QuorumUnavailable, Outcome::NotApplied));
            for at in local {
                cluster.start(at).await.unwrap();
            }
            assert!(cluster.until_well(60 * SECOND).await, "{:?}", cluster.ills());
            assert!(cluster.until(60 * SECOND, || owed(&cluster) == 0).await);
            let found = read(&cluster, 7, "k", Level::All, false).await.unwrap();
            assert_eq!(values(&found), ["each", "v"]);
            cluster.end();
        });
    }
}

//! Anti-entropy: owners that hold different things become equal by comparing trees, without anybody reading; where they are
//! equal nothing but roots travels; and expiry makes no difference.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use quorate::kv::{
    ErrorCode, Lifetime, NodeView as _, ReadOptions, RepairAdmin as _, RepairMode, RepairRequest, RepairView, Steer,
    WorkerAdmin as _, WriteOptions,
};
use quorate::metrics::RepairMetrics;
use quorate::quorum::Level;
use quorate::repair::{Repaired, Scope};
use quorate::sim::cluster::{Cluster, Setup, Wraps};
use quorate::sim::net::Death;
use quorate::sim::time::{self, SimTime};
use quorate::storage::Durability;
use quorate::transport::messages::Tell;
use quorate::transport::messages::merkle::RootsCompared;
use quorate::types::{Bucket, Key, ObjectId, PartitionId};

use crate::answers::changed;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn sim<F: Future<Output = ()>>(seed: u64, body: impl FnOnce(SimTime) -> F) {
    time::run(seed, body).unwrap();
}

fn id(key: &str) -> ObjectId {
    ObjectId::new(Bucket::new("repair").unwrap(), Key::new(key.to_owned()).unwrap())
}

async fn put(cluster: &Cluster, at: usize, key: &str, text: &str, ttl: Lifetime) {
    let options = WriteOptions { w: Level::Count(2), ttl, ..WriteOptions::default() };
    cluster.kv(at).unwrap().put(id(key), Bytes::from(text.to_owned()).into(), options).await.unwrap();
}

async fn delete(cluster: &Cluster, at: usize, key: &str) {
    let kv = cluster.kv(at).unwrap();
    let seen = kv.get(id(key), ReadOptions { repair: Some(RepairMode::Off), ..ReadOptions::default() }).await.unwrap();
    let options = WriteOptions { w: Level::Count(2), context: Some(seen.context), ..WriteOptions::default() };
    kv.delete(id(key), options).await.unwrap();
}

fn are_equal(cluster: &Cluster) -> bool {
    let audits: Vec<_> = (0..cluster.len()).map(|at| cluster.audit(at)).collect();
    audits.iter().for_each(|audit| assert_eq!(audit.wrong, [""; 0]));
    audits.iter().all(|audit| audit.records == audits[0].records)
}

fn sum(cluster: &Cluster, of: impl Fn(&RepairMetrics) -> u64) -> u64 {
    (0..cluster.len()).filter_map(|at| cluster.node(at)).map(|node| of(&node.metrics().repair)).sum()
}

/// Two hundred keys on three nodes; then, while n2 is down, forty are changed, ten deleted, twenty new.
async fn drifted(time: SimTime, setup: Setup) -> Cluster {
    let cluster = Cluster::founded(time, Setup { hints: false, ..setup }).await;
    for key in 0..200 {
        put(&cluster, key % 3, &format!("k{key}"), "before", Lifetime::Unsaid).await;
    }
    time.sleep(SECOND).await;
    cluster.crash(2, Death::Killed);
    time.sleep(6 * SECOND).await;
    for key in 0..40 {
        put(&cluster, key % 2, &format!("k{key}"), "after", Lifetime::Unsaid).await;
    }
    for key in 40..50 {
        delete(&cluster, key % 2, &format!("k{key}")).await;
    }
    for key in 200..220 {
        put(&cluster, key % 2, &format!("k{key}"), "new", Lifetime::Unsaid).await;
    }
    // Nobody tries any more to bring it what it missed.
    time.sleep(10 * SECOND).await;
    cluster.start(2).await.unwrap();
    assert!(cluster.until_well(MINUTE).await, "{:?}", cluster.ills());
    cluster
}

#[test]
fn a_node_that_missed_writes_becomes_equal_without_a_reader() {
    for seed in 1..=6 {
        sim(seed, |time| async move {
            let durability = if seed % 2 == 0 { Durability::Os } else { Durability::Flush };
            let cluster = drifted(time, Setup { durability, ..Setup::new(seed, 3) }).await;
            assert!(!are_equal(&cluster), "n2 missed something");
            assert!(cluster.until(2 * MINUTE, || are_equal(&cluster)).await, "seed {seed}: replicas still differ");
            let repaired = sum(&cluster, |repair| repair.repaired.get());
            // Two of the others may both find and bring a key, and then the two who have it compare nothing new.
            assert!((70..=140).contains(&repaired), "seed {seed}: {repaired} keys of 70");
            time.sleep(2 * MINUTE).await;
            let (before, rounds) =
                (sum(&cluster, |repair| repair.differed.get()), sum(&cluster, |repair| repair.rounds.get()));
            time.sleep(2 * MINUTE).await;
            assert_eq!(sum(&cluster, |repair| repair.differed.get()), before, "in sync nothing differs");
            assert!(sum(&cluster, |repair| repair.rounds.get()) > rounds, "and it is compared all the while");
            assert_eq!(sum(&cluster, |repair| repair.failures.get()), 0);
            cluster.end();
        });
    }
}

#[test]
fn a_paused_worker_compares_nothing_until_it_is_resumed() {
    sim(7, |time| async move {
        let cluster = drifted(time, Setup::new(7, 3)).await;
        let tell = |steer| (0..3).for_each(|at| drop(cluster.node(at).unwrap().steer("anti-entropy", steer).unwrap()));
        tell(Steer::Pause);
        // What is under way stops at its next safe point.
        time.sleep(20 * SECOND).await;
        let rounds = sum(&cluster, |repair| repair.compared.get());
        assert!(!cluster.until(3 * MINUTE, || are_equal(&cluster)).await, "nobody compares");
        assert_eq!(sum(&cluster, |repair| repair.compared.get()), rounds);
        tell(Steer::Resume);
        assert!(cluster.until(2 * MINUTE, || are_equal(&cluster)).await, "replicas still differ");
        cluster.end();
    });
}

#[test]
fn a_dry_run_says_what_differs_and_changes_nothing() {
    sim(1, |time| async move {
        // Hints lie there unused: those that are dropped would have their partitions compared.
        let wraps = Wraps { broken: Some("hints are replayed"), ..Wraps::default() };
        let setup = Setup { wraps, ..Setup::new(1, 3) };
        let cluster = Cluster::new(time, setup);
        // Nobody compares by itself.
        (0..3).for_each(|at| cluster.tell(at, |config| config.node.repair_interval = 24 * 60 * MINUTE));
        cluster.start_all().await;
        assert!(cluster.until_well(MINUTE).await);
        for key in 0..50 {
            put(&cluster, 0, &format!("k{key}"), "before", Lifetime::Unsaid).await;
        }
        time.sleep(MINUTE).await;
        cluster.crash(2, Death::Killed);
        time.sleep(6 * SECOND).await;
        for key in 0..7 {
            put(&cluster, 0, &format!("k{key}"), "after", Lifetime::Unsaid).await;
        }
        let fresh = cluster.node(0).unwrap();
        cluster.start(2).await.unwrap();
        assert!(cluster.until_well(MINUTE).await);
        let dry = Scope { dry_run: true, ..Scope::default() };
        time.sleep(30 * SECOND).await;
        // Soon after n2 came up it was compared, once: what was fresh then was left out.
        let said = fresh.repair(dry.clone()).await;
        assert_eq!((said.keys, said.repaired, said.bytes, said.unfinished), (7, 0, 0, 0), "{said:?}");
        assert_eq!(fresh.repair(dry.clone()).await, said, "it changed nothing");
        let partition = cluster.node(1).unwrap().owners(&id("k0")).unwrap().partition;
        let one = Scope { partition: Some(PartitionId(partition)), ..Scope::default() };
        let done = fresh.repair(one).await;
        assert!((1..7).contains(&done.repaired) && done.keys == done.repaired, "{done:?}");
        let rest = fresh.repair(Scope::default()).await;
        assert_eq!(rest.repaired + done.repaired, 7, "{rest:?}");
        let Repaired { keys, differed, unfinished, .. } = fresh.repair(dry).await;
        assert_eq!((keys, unfinished), (0, 0));
        assert_eq!(differed, 0);
        assert!(are_equal(&cluster));
        cluster.end();
    });
}

/// What a repair that every node was asked for comes to, all together.
async fn asked_of_all(cluster: &Cluster, request: &RepairRequest) -> RepairView {
    let mut all = RepairView::default();
    for at in 0..cluster.len() {
        let node = cluster.node(at).unwrap();
        let begun = node.begin_repair(request.clone()).unwrap();
        let ended = || node.repair_operation(&begun.id).unwrap().state != "running";
        assert!(cluster.until(5 * MINUTE, ended).await, "it does not end");
        let operation = node.repair_operation(&begun.id).unwrap();
        assert_eq!((operation.state.as_str(), operation.done), ("done", operation.total), "{operation:?}");
        let repair = operation.repair.unwrap();
        assert_eq!(repair.compared, operation.total);
        all.compared += repair.compared;
        all.keys += repair.keys;
        all.repaired += repair.repaired;
        all.bytes += repair.bytes;
    }
    all
}

#[test]
fn a_repair_that_is_asked_for_is_followed_to_its_end_and_keeps_to_its_bucket() {
    sim(2, |time| async move {
        let cluster = Cluster::new(time, Setup::new(2, 3));
        // Nobody compares by itself.
        (0..3).for_each(|at| cluster.tell(at, |config| config.node.repair_interval = 24 * 60 * MINUTE));
        cluster.start_all().await;
        assert!(cluster.until_well(MINUTE).await);
        for (bucket, keys) in [("repair", 5), ("other", 4)] {
            for key in 0..keys {
                let id = ObjectId::new(Bucket::new(bucket).unwrap(), Key::new(format!("k{key}")).unwrap());
                let options = WriteOptions { w: Level::All, ..WriteOptions::default() };
                cluster.kv(key % 3).unwrap().put(id, Bytes::from("new").into(), options).await.unwrap();
            }
        }
        time.sleep(MINUTE).await;
        // A copy loses what it had, and does not know it.
        let lost = cluster.node(2).unwrap();
        lost.replica().new_tenures((0..16).map(PartitionId).collect()).await.unwrap();
        for partition in (0..16).map(PartitionId) {
            lost.replica().forget(partition, std::sync::Arc::new(|_: &Bucket| true)).await.unwrap();
        }
        let dry = RepairRequest { dry_run: true, once: true, ..RepairRequest::default() };
        let all = asked_of_all(&cluster, &dry).await;
        assert_eq!((all.compared, all.keys, all.repaired, all.bytes), (3 * 16, 2 * 9, 0, 0), "n2 differs from both");
        let other = RepairRequest { bucket: Some("other".into()), once: true, ..RepairRequest::default() };
        let done = asked_of_all(&cluster, &other).await;
        assert!(done.repaired >= 4 && done.keys >= 4 && done.bytes > 0, "{done:?}");
        let left = asked_of_all(&cluster, &dry).await;
        assert_eq!(left.keys, 2 * 5, "the other bucket alone was repaired");
        asked_of_all(&cluster, &RepairRequest::default()).await;
        assert_eq!(asked_of_all(&cluster, &dry).await.keys, 0);
        assert!(are_equal(&cluster));

        let node = cluster.node(0).unwrap();
        let wrong = |request: RepairRequest| node.begin_repair(request).unwrap_err();
        let bucket = wrong(RepairRequest { bucket: Some("a/b".into()), ..RepairRequest::default() });
        let partition = wrong(RepairRequest { partition: Some(16), ..RepairRequest::default() });
        let loss = wrong(RepairRequest { accept_data_loss: true, ..RepairRequest::default() });
        for (wrong, says) in [(bucket, "bucket"), (partition, "0 to 15, got 16"), (loss, "one partition")] {
            assert!(wrong.code == ErrorCode::BadParameter && wrong.detail.contains(says), "{wrong:?}");
        }
        assert_eq!(node.repair_operation("repair-0").unwrap_err().code, ErrorCode::NotKnown);
        node.steer("anti-entropy", Steer::Pause).unwrap();
        let paused = wrong(RepairRequest::default());
        assert!(paused.code == ErrorCode::Paused && paused.detail.contains("workers resume anti-entropy"), "{paused}");
        node.steer("anti-entropy", Steer::Resume).unwrap();
        cluster.crash(2, Death::Killed);
        time.sleep(6 * SECOND).await;
        let begun = node.begin_repair(RepairRequest::default()).unwrap();
        assert!(cluster.until(5 * MINUTE, || node.repair_operation(&begun.id).unwrap().state == "incomplete").await);
        assert!(node.repair_operation(&begun.id).unwrap().error.unwrap().starts_with("16 pairs could not"));
        cluster.end();
    });
}

/// Values expire and are dropped for hours, by each owner in its own time, while trees are compared four times a minute.
#[test]
fn expiry_makes_no_difference() {
    for seed in 1..=2 {
        sim(seed, |time| async move {
            let cluster = Cluster::founded(time, Setup::new(seed, 3)).await;
            for step in 0..400_u64 {
                let ttl = Lifetime::For(SECOND * (30 + (step as u32 * 37) % 7000));
                put(&cluster, (step % 3) as usize, &format!("k{step}"), "v", ttl).await;
                time.sleep(SECOND / 2).await;
            }
            time.sleep(4 * 60 * MINUTE).await;
            let compared = sum(&cluster, |repair| repair.compared.get());
            assert!(compared > 1000, "{compared}");
            assert_eq!(
                sum(&cluster, |repair| repair.repaired.get()),
                0,
                "seed {seed}: expiry looked like a difference"
            );
            assert!((0..3).all(|at| cluster.audit(at).records.is_empty()), "everything has expired");
            cluster.end();
        });
    }
}

/// Whoever is asked says that no root differs.
fn deaf() -> Wraps {
    changed(|_, reply| {
        if let Some(Tell::RootsCompared(compared)) = &mut reply.tell {
            *compared = RootsCompared::default();
        }
    })
}

#[test]
fn a_comparison_that_finds_nothing_is_caught() {
    sim(1, |time| async move {
        let cluster = drifted(time, Setup { wraps: deaf(), ..Setup::new(1, 3) }).await;
        assert!(!cluster.until(2 * MINUTE, || are_equal(&cluster)).await, "nothing else makes them equal");
        assert!(sum(&cluster, |repair| repair.compared.get()) > 0);
        cluster.end();
    });
}

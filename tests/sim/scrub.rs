//! Scrub: what a disk has spoilt is found without anybody reading it, and is whole again; leaves are what they should be.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use quorate::kv::{RepairAdmin as _, RepairRequest, Steer, WorkerAdmin as _, WriteOptions};
use quorate::quorum::Level;
use quorate::repair::Report;
use quorate::sim::cluster::{Cluster, Setup, Wraps};
use quorate::sim::time::{self, SimTime};
use quorate::storage::Keyspace;
use quorate::types::{Bucket, Key, ObjectId, PartitionId};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn sim<F: Future<Output = ()>>(seed: u64, body: impl FnOnce(SimTime) -> F) {
    time::run(seed, body).unwrap();
}

/// Two hundred keys on three nodes, none of which compares, reads or expires anything by itself.
async fn filled(time: SimTime, setup: Setup) -> Cluster {
    let cluster = Cluster::new(time, setup);
    (0..3).for_each(|at| {
        cluster.tell(at, |config| {
            config.node.repair_interval = 24 * 60 * MINUTE;
            config.node.scrub_interval = 7 * 24 * 60 * MINUTE;
        });
    });
    cluster.start_all().await;
    assert!(cluster.until_well(MINUTE).await, "{:?}", cluster.ills());
    for key in 0..200 {
        let id = ObjectId::new(Bucket::new("scrub").unwrap(), Key::new(format!("k{key}")).unwrap());
        let options = WriteOptions { w: Level::All, ..WriteOptions::default() };
        cluster.kv(key % 3).unwrap().put(id, Bytes::from("v".repeat(key)).into(), options).await.unwrap();
    }
    time.sleep(30 * SECOND).await;
    cluster
}

/// Every stored key of a node.
fn stored(cluster: &Cluster, at: usize) -> Vec<Bytes> {
    cluster.audit(at).records.into_keys().collect()
}

/// What the scrub of a node says once it has run from now on to its end.
async fn scrubbed(cluster: &Cluster, at: usize) -> Report {
    let node = cluster.node(at).unwrap();
    let passes = node.metrics().scrub.passes.get();
    node.steer("scrub", Steer::Run).unwrap();
    assert!(cluster.until(5 * MINUTE, || node.metrics().scrub.passes.get() > passes).await, "it does not end");
    node.scrub_report().unwrap()
}

fn is_whole(cluster: &Cluster, at: usize) -> bool {
    let node = cluster.node(at).unwrap();
    let readable = |keyspace| {
        let storage = node.replica().storage();
        storage.scan(keyspace, std::ops::Bound::Unbounded, std::ops::Bound::Unbounded).all(|entry| entry.is_ok())
    };
    node.replica().health().is_well() && Keyspace::ALL.into_iter().all(readable)
}

fn are_equal_and_right(cluster: &Cluster) {
    let audits: Vec<_> = (0..3).map(|at| cluster.audit(at)).collect();
    audits.iter().for_each(|audit| assert_eq!(audit.wrong, [""; 0]));
    assert!(audits.iter().all(|audit| audit.records.len() == 200 && audit.records == audits[0].records));
}

#[test]
fn spoilt_records_are_found_without_a_reader_and_mended_from_the_other_owners() {
    for seed in 1..=4 {
        sim(seed, |time| async move {
            let cluster = filled(time, Setup::new(seed, 3)).await;
            let well = scrubbed(&cluster, 1).await;
            assert_eq!((well.keys, well.found, well.index, well.leaves, well.gaps), (200, 0, 0, 0, 0), "{well:?}");
            let keys = stored(&cluster, 1);
            for key in keys.iter().step_by(9) {
                assert!(cluster.damage_entry(1, Keyspace::Objects, key));
            }
            let report = scrubbed(&cluster, 1).await;
            assert_eq!(report.found, keys.len().div_ceil(9) as u64, "{report:?}");
            assert!(cluster.until(MINUTE, || is_whole(&cluster, 1)).await, "seed {seed}: {:?}", cluster.ills());
            are_equal_and_right(&cluster);
            assert_eq!(cluster.node(1).unwrap().scrub_report().map(|report| report.waiting), Some(0));
            let again = scrubbed(&cluster, 1).await;
            assert_eq!((again.keys, again.found, again.leaves), (200, 0, 0), "{again:?}");
            cluster.end();
        });
    }
}

#[test]
fn index_entries_and_leaves_are_written_again_and_what_has_no_name_is_merged_from_all() {
    for seed in 1..=4 {
        sim(seed, |time| async move {
            let cluster = filled(time, Setup::new(seed, 3)).await;
            let keys = stored(&cluster, 2);
            let storage = cluster.node(2).unwrap().replica().storage().clone();
            let leaves: Vec<Bytes> = storage
                .scan(Keyspace::Merkle, std::ops::Bound::Unbounded, std::ops::Bound::Unbounded)
                .map(|leaf| leaf.unwrap().0)
                .collect();
            // The index alone; the index and the record; leaves.
            for key in keys.iter().skip(3).step_by(20) {
                assert!(cluster.damage_entry(2, Keyspace::Index, key));
            }
            for leaf in leaves.iter().step_by(17) {
                assert!(cluster.damage_entry(2, Keyspace::Merkle, leaf));
            }
            let report = scrubbed(&cluster, 2).await;
            assert_eq!((report.found, report.gaps, report.index), (0, 0, 10), "{report:?}");
            assert!(report.leaves > 0, "{report:?}");
            assert!(is_whole(&cluster, 2), "nobody else was asked");
            are_equal_and_right(&cluster);

            for key in [&keys[50], &keys[150]] {
                assert!(cluster.damage_entry(2, Keyspace::Index, key));
                assert!(cluster.damage_entry(2, Keyspace::Objects, key));
            }
            let report = scrubbed(&cluster, 2).await;
            assert_eq!(report.gaps, 2, "{report:?}");
            assert!(cluster.until(MINUTE, || is_whole(&cluster, 2)).await, "seed {seed}: {:?}", cluster.ills());
            are_equal_and_right(&cluster);
            cluster.end();
        });
    }
}

/// What was merged from all when something had no name is no help when it happens again.
#[test]
fn a_second_gap_in_one_life_is_merged_from_every_owner_too() {
    sim(8, |time| async move {
        let cluster = filled(time, Setup::new(8, 3)).await;
        let keys = stored(&cluster, 2);
        let first = PartitionId(u32::from_be_bytes(*keys[50].first_chunk().unwrap()));
        for round in 1..=2 {
            assert!(cluster.damage_entry(2, Keyspace::Index, &keys[50]));
            assert!(cluster.damage_entry(2, Keyspace::Objects, &keys[50]));
            let report = scrubbed(&cluster, 2).await;
            assert_eq!(report.gaps, 1, "round {round}: {report:?}");
            assert!(cluster.until(MINUTE, || is_whole(&cluster, 2)).await, "round {round}: {:?}", cluster.ills());
            assert!(cluster.node(2).unwrap().replica().health().is_synced(first));
            are_equal_and_right(&cluster);
        }
        cluster.end();
    });
}

#[test]
fn what_nobody_can_read_is_given_up_where_an_operator_says_so_and_not_before() {
    sim(6, |time| async move {
        let cluster = filled(time, Setup::new(6, 3)).await;
        let key = stored(&cluster, 0)[100].clone();
        for at in 0..3 {
            assert!(cluster.damage_entry(at, Keyspace::Objects, &key));
        }
        assert_eq!(scrubbed(&cluster, 0).await.found, 1);
        // Whoever is asked for its copy finds out, too.
        let ill = |at| cluster.node(at).unwrap().replica().health().quarantined().len() == 1;
        assert!(cluster.until(MINUTE, || (0..3).all(ill)).await);
        assert!(!cluster.until(2 * MINUTE, || (0..3).any(|at| is_whole(&cluster, at))).await, "it was acknowledged");
        let partition = u32::from_be_bytes(*key.first_chunk().unwrap());
        let request = RepairRequest { partition: Some(partition), accept_data_loss: true, ..RepairRequest::default() };
        // Nothing is given up where mending is paused; it says so, and what to do.
        let node = cluster.node(0).unwrap();
        node.steer("mending", Steer::Pause).unwrap();
        let begun = node.begin_repair(request.clone()).unwrap();
        let over = || node.repair_operation(&begun.id).unwrap().state == "incomplete";
        assert!(cluster.until(2 * MINUTE, over).await);
        let why = node.repair_operation(&begun.id).unwrap().error.unwrap();
        assert!(why.starts_with("1 keys of partition") && why.contains("workers resume mending"), "{why}");
        node.steer("mending", Steer::Resume).unwrap();
        let mut given_up = 0;
        for at in 0..3 {
            let node = cluster.node(at).unwrap();
            let begun = node.begin_repair(request.clone()).unwrap();
            let ended = || node.repair_operation(&begun.id).unwrap().state != "running";
            assert!(cluster.until(2 * MINUTE, ended).await, "it does not end");
            given_up += node.repair_operation(&begun.id).unwrap().repair.unwrap().given_up;
        }
        assert!((1..=3).contains(&given_up), "{given_up}");
        assert!(cluster.until(MINUTE, || (0..3).all(|at| is_whole(&cluster, at))).await, "{:?}", cluster.ills());
        let audits: Vec<_> = (0..3).map(|at| cluster.audit(at)).collect();
        audits.iter().for_each(|audit| assert_eq!(audit.wrong, [""; 0]));
        assert!(audits.iter().all(|audit| audit.records.len() == 199 && !audit.records.contains_key(&key)));
        cluster.end();
    });
}

#[test]
fn a_scrub_begins_by_itself_and_goes_on_where_a_stopped_node_was() {
    sim(5, |time| async move {
        let cluster = filled(time, Setup::new(5, 3)).await;
        cluster.tell(0, |config| {
            config.node.repair_interval = 24 * 60 * MINUTE;
            config.node.scrub_interval = 10 * MINUTE;
        });
        let key = stored(&cluster, 0)[77].clone();
        cluster.stop(0).await.unwrap();
        cluster.start(0).await.unwrap();
        assert!(cluster.until_well(MINUTE).await);
        assert!(cluster.damage_entry(0, Keyspace::Objects, &key));
        assert!(cluster.until(22 * MINUTE, || cluster.node(0).unwrap().metrics().scrub.damaged.get() == 1).await);
        assert!(cluster.until(MINUTE, || is_whole(&cluster, 0)).await);
        // It says once more that nothing waits.
        time.sleep(5 * SECOND).await;
        let before = cluster.node(0).unwrap().scrub_report().unwrap();
        cluster.stop(0).await.unwrap();
        cluster.start(0).await.unwrap();
        assert!(cluster.until_well(MINUTE).await);
        let after = cluster.node(0).unwrap().scrub_report().unwrap();
        assert_eq!((after.began, after.found), (before.began, before.found), "it is remembered");
        are_equal_and_right(&cluster);
        cluster.end();
    });
}

#[test]
fn nodes_that_are_started_again_and_again_come_to_their_first_scrub_within_an_interval() {
    sim(9, |time| async move {
        let cluster = filled(time, Setup::new(9, 3)).await;
        (0..3).for_each(|at| cluster.tell(at, |config| config.node.scrub_interval = 30 * MINUTE));
        for _ in 0..11 {
            for at in 0..3 {
                cluster.stop(at).await.unwrap();
                cluster.start(at).await.unwrap();
                assert!(cluster.until_well(MINUTE).await, "{:?}", cluster.ills());
            }
            time.sleep(3 * MINUTE).await;
        }
        let ended = |at: usize| cluster.node(at).unwrap().scrub_report().is_some_and(|report| report.ended.is_some());
        assert!((0..3).all(ended), "half an hour has passed");
        cluster.end();
    });
}

#[test]
fn a_scrub_that_skips_what_it_cannot_read_is_caught() {
    sim(1, |time| async move {
        let wraps = Wraps { broken: Some("a scrub reports what it cannot read"), ..Wraps::default() };
        let cluster = filled(time, Setup { wraps, ..Setup::new(1, 3) }).await;
        let key = stored(&cluster, 1)[20].clone();
        assert!(cluster.damage_entry(1, Keyspace::Objects, &key));
        let report = scrubbed(&cluster, 1).await;
        assert_eq!((report.keys, report.found), (200, 0));
        assert!(!cluster.until(5 * MINUTE, || is_whole(&cluster, 1)).await, "nothing else finds it");
        cluster.end();
    });
}

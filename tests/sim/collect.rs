//! Collection of tombstones in whole clusters: rounds that go through every owner's store, while whatever was ever sent
//! arrives again (kv679 (4), the old-frame cases). The test is the driver.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quorate::causality::digest_of_record;
use quorate::collect::{Drive, Epoch, Listed, Plan, Round, Step, plan};
use quorate::env::BoxFuture;
use quorate::kv::{ReadOptions, RepairMode, WriteOptions};
use quorate::quorum::Level;
use quorate::replica::name_of;
use quorate::sim::cluster::{Cluster, Setup, Wraps};
use quorate::sim::time::{self, SimTime};
use quorate::transport::messages::{Ask, Request};
use quorate::transport::{Answer, CallError, Handler, Hello, Transport};
use quorate::types::{Bucket, Key, ObjectId, PartitionId, StoreId};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn sim<F: Future<Output = ()>>(seed: u64, body: impl FnOnce(SimTime) -> F) {
    time::run(seed, body).unwrap();
}

fn id(key: &str) -> ObjectId {
    ObjectId::new(Bucket::new("collect").unwrap(), Key::new(key.to_owned()).unwrap())
}

type Sent = (Arc<dyn Transport>, String, Option<StoreId>, Request);

/// Every write that any node ever sent to another.
#[derive(Clone, Default)]
struct Frames(Arc<Mutex<Vec<Sent>>>);

impl Frames {
    /// All of them arrive once more.
    async fn arrive_again(&self) -> usize {
        let sent: Vec<Sent> = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let count = sent.len();
        for (transport, address, expect, request) in sent {
            transport.call(&address, expect, request, SECOND).await.unwrap();
        }
        count
    }
}

struct Remembering(Arc<dyn Transport>, Frames);

impl Transport for Remembering {
    fn serve(&self, hello: Hello, handler: Arc<dyn Handler>) {
        self.0.serve(hello, handler);
    }

    fn call(
        &self,
        address: &str,
        expect: Option<StoreId>,
        request: Request,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Answer, CallError>> {
        if matches!(request.ask, Some(Ask::Write(_))) {
            let sent = (Arc::clone(&self.0), address.to_owned(), expect, request.clone());
            self.1.0.lock().unwrap_or_else(PoisonError::into_inner).push(sent);
        }
        self.0.call(address, expect, request, deadline)
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.0.shutdown()
    }
}

async fn founded(time: SimTime, seed: u64, broken: Option<&'static str>) -> (Cluster, Frames) {
    let frames = Frames::default();
    let remembered = frames.clone();
    let wraps = Wraps {
        transport: Some(Arc::new(move |inner| Arc::new(Remembering(inner, remembered.clone())))),
        broken,
        ..Wraps::default()
    };
    (Cluster::founded(time, Setup { wraps, ..Setup::new(seed, 3) }).await, frames)
}

async fn put(cluster: &Cluster, at: usize, key: &str, text: &str) {
    let options = WriteOptions { w: Level::All, ..WriteOptions::default() };
    cluster.kv(at).unwrap().put(id(key), Bytes::from(text.to_owned()).into(), options).await.unwrap();
}

async fn delete(cluster: &Cluster, at: usize, key: &str) {
    let options = WriteOptions { w: Level::All, ..WriteOptions::default() };
    cluster.kv(at).unwrap().delete(id(key), options).await.unwrap();
}

/// What a node shows of a key.
async fn shown(cluster: &Cluster, at: usize, key: &str) -> Vec<Bytes> {
    let options = ReadOptions { r: Level::All, repair: Some(RepairMode::Sync), ..ReadOptions::default() };
    let answer = cluster.kv(at).unwrap().get(id(key), options).await.unwrap();
    answer.siblings.into_iter().filter_map(|sibling| Some(sibling.value?.bytes)).collect()
}

/// What a node's store has under a key: stored key and record.
fn stored(cluster: &Cluster, at: usize, key: &str) -> Option<(Bytes, Bytes)> {
    let audit = cluster.audit(at);
    assert_eq!(audit.wrong, [""; 0]);
    audit.records.into_iter().find(|(stored, _)| name_of(stored).is_some_and(|(name, _)| name == id(key)))
}

/// Drives rounds in the partition of a key until the driver has nothing left to finish and has dropped one that lists it.
async fn collect(cluster: &Cluster, key: &str) {
    let (stored_key, record) = stored(cluster, 0, key).unwrap();
    let partition = PartitionId(u32::from_be_bytes(stored_key[..4].try_into().unwrap()));
    let replicas: Vec<_> = (0..3).map(|at| cluster.node(at).unwrap().replica().clone()).collect();
    let owners: BTreeSet<StoreId> = replicas.iter().map(|replica| replica.identity().store()).collect();
    let statuses: Vec<_> = replicas.iter().map(|replica| replica.rounds(partition)).collect();
    let Plan::Begin { epoch, after } = plan(&statuses, 1) else { panic!("nothing else is under way") };
    let listed = vec![Listed { stored: stored_key, digest: digest_of_record(&record) }];
    let round = Round::new(epoch, 7, listed, after);
    let mut drive = Drive::begin(round.id(), owners.clone(), owners);
    while let Some(step) = drive.step() {
        for replica in &replicas {
            let id = round.id();
            match step {
                Step::Mark => replica.mark(partition, round.clone(), Some(1)).await.unwrap().unwrap(),
                Step::Drain => replica.drain(partition, id.epoch).await.unwrap(),
                Step::Seal => replica.seal(partition, id).await.unwrap().unwrap(),
                Step::Drop => assert_eq!(replica.drop_round(partition, id).await.unwrap(), Ok(1)),
            }
            drive.done(replica.identity().store(), step);
        }
    }
    assert!(replicas.iter().all(|replica| replica.epoch(partition) > Epoch::FIRST));
}

/// A value, its deletion, a round; then all that was ever sent, again. What each node shows of the key in the end.
async fn after_late_frames(time: SimTime, seed: u64, broken: Option<&'static str>) -> Vec<Vec<Bytes>> {
    let (cluster, frames) = founded(time, seed, broken).await;
    put(&cluster, 0, "k", "old").await;
    delete(&cluster, 1, "k").await;
    time.sleep(MINUTE).await;
    collect(&cluster, "k").await;
    assert!((0..3).all(|at| stored(&cluster, at, "k").is_none()));
    assert!(frames.arrive_again().await >= 4, "two writes went to two others each");
    // Whatever came back would spread by comparison.
    time.sleep(3 * MINUTE).await;
    let mut shows = Vec::new();
    for at in 0..3 {
        shows.push(shown(&cluster, at, "k").await);
    }
    cluster.end();
    shows
}

#[test]
fn nothing_that_was_deleted_and_collected_comes_back_with_late_frames() {
    for seed in 1..=6 {
        sim(seed, |time| async move {
            let shows = after_late_frames(time, seed, None).await;
            assert!(shows.iter().all(Vec::is_empty), "seed {seed}: {shows:?}");
        });
    }
}

#[test]
fn it_would_where_old_epochs_are_taken() {
    sim(1, |time| async move {
        let broken = Some("what was read under a sealed epoch is refused");
        let shows = after_late_frames(time, 1, broken).await;
        assert!(shows.iter().any(|shown| shown.iter().any(|value| value == "old")), "{shows:?}");
    });
}

#[test]
fn a_key_that_is_written_again_stays_whatever_comes_late() {
    for seed in 1..=4 {
        sim(seed, |time| async move {
            let (cluster, frames) = founded(time, seed, None).await;
            for turn in 0..3 {
                put(&cluster, turn, "k", "old").await;
                delete(&cluster, (turn + 1) % 3, "k").await;
                time.sleep(SECOND).await;
                collect(&cluster, "k").await;
                frames.arrive_again().await;
            }
            put(&cluster, 1, "k", "new").await;
            frames.arrive_again().await;
            time.sleep(MINUTE).await;
            for at in 0..3 {
                assert_eq!(shown(&cluster, at, "k").await, ["new"], "seed {seed}");
            }
            let records: BTreeSet<Bytes> = (0..3).filter_map(|at| Some(stored(&cluster, at, "k")?.1)).collect();
            assert_eq!(records.len(), 1, "and all hold the same");
            cluster.end();
        });
    }
}

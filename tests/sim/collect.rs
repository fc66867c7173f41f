//! Collection of tombstones in whole clusters: rounds that go through every owner's store, while whatever was ever sent
//! arrives again (kv679 (4), the old-frame cases). The test is the driver.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quorate::causality::{decode_object, digest_of_record};
use quorate::collect::{Drive, Epoch, Listed, Plan, Round, Step, plan};
use quorate::env::BoxFuture;
use quorate::kv::{ReadOptions, RepairMode, TombstoneAdmin as _, WriteOptions};
use quorate::quorum::Level;
use quorate::replica::name_of;
use quorate::sim::cluster::{Cluster, Setup, Wraps};
use quorate::sim::net::Death;
use quorate::sim::time::{self, SimTime};
use quorate::storage::Durability;
use quorate::transport::messages::{Ask, Request};
use quorate::transport::{Answer, CallError, Handler, Hello, Transport};
use quorate::types::{Bucket, Key, ObjectId, PartitionId, StoreId};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn sim<F: Future<Output = ()>>(seed: u64, body: impl FnOnce(SimTime) -> F) {
    time::run(seed, body).unwrap();
}

pub(crate) fn id(key: &str) -> ObjectId {
    ObjectId::new(Bucket::new("collect").unwrap(), Key::new(key.to_owned()).unwrap())
}

pub(crate) type Sent = (Arc<dyn Transport>, String, Option<StoreId>, Request);

/// Every write that any node ever sent to another.
#[derive(Clone, Default)]
pub(crate) struct Frames(Arc<Mutex<Vec<Sent>>>, Held);

/// While it is set, what is to repair a replica stays on its way.
#[derive(Clone, Default)]
struct Held(Arc<AtomicBool>);

impl Held {
    fn set(&self, held: bool) {
        self.0.store(held, Ordering::Release);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Frames {
    /// From now on, or no longer, what is to repair a replica, or to end a hint, stays on its way.
    pub(crate) fn hold(&self, held: bool) {
        self.1.set(held);
    }

    pub(crate) fn sent(&self) -> Vec<Sent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All of them arrive once more.
    pub(crate) async fn arrive_again(&self) -> usize {
        self.arrive(0).await
    }

    /// Those arrive that were sent after so many others.
    async fn arrive(&self, after: usize) -> usize {
        let late = self.sent().split_off(after);
        let count = late.len();
        for (transport, address, expect, request) in late {
            // Whoever was replaced is not there any more.
            let _ = transport.call(&address, expect, request, SECOND).await;
        }
        count
    }
}

struct Remembering(Arc<dyn Transport>, Frames, SimTime);

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
        let repairs = matches!(&request.ask, Some(Ask::Write(write)) if write.repair);
        if repairs && self.1.1.is_set() {
            let time = self.2;
            return Box::pin(async move {
                time.sleep(deadline).await;
                Err(CallError::TimedOut)
            });
        }
        self.0.call(address, expect, request, deadline)
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.0.shutdown()
    }
}

async fn founded(time: SimTime, seed: u64, broken: Option<&'static str>) -> (Cluster, Frames) {
    founded_as(time, Setup::new(seed, 3), broken).await
}

pub(crate) async fn founded_as(time: SimTime, setup: Setup, broken: Option<&'static str>) -> (Cluster, Frames) {
    let frames = Frames::default();
    let remembered = frames.clone();
    let wraps = Wraps {
        transport: Some(Arc::new(move |inner| Arc::new(Remembering(inner, remembered.clone(), time)))),
        broken,
        ..Wraps::default()
    };
    (Cluster::founded(time, Setup { wraps, ..setup }).await, frames)
}

pub(crate) async fn put(cluster: &Cluster, at: usize, key: &str, text: &str) {
    let options = WriteOptions { w: Level::All, ..WriteOptions::default() };
    cluster.kv(at).unwrap().put(id(key), Bytes::from(text.to_owned()).into(), options).await.unwrap();
}

pub(crate) async fn delete(cluster: &Cluster, at: usize, key: &str) {
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
pub(crate) fn stored(cluster: &Cluster, at: usize, key: &str) -> Option<(Bytes, Bytes)> {
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
    let dots = decode_object(record.clone()).unwrap().siblings().iter().map(|sibling| sibling.dot).collect();
    let listed = vec![Listed { stored: stored_key, digest: digest_of_record(&record), dots }];
    let round = Round::new(epoch, 7, listed, after);
    let mut drive = Drive::begin(round.id(), owners.clone(), owners);
    while let Some(step) = drive.step() {
        for replica in &replicas {
            let id = round.id();
            match step {
                Step::Mark => {
                    replica.mark(partition, round.clone(), Some(1), Arc::new(|_| true)).await.unwrap().unwrap()
                }
                Step::Drain => assert!(replica.drain(partition, id.epoch).await.unwrap()),
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

/// Three nodes that collect by themselves what was deleted some seconds ago.
pub(crate) fn collecting(seed: u64) -> Setup {
    Setup { linger: Some(5 * SECOND), ..Setup::new(seed, 3) }
}

/// Waits until no store holds anything under a key.
pub(crate) async fn gone(cluster: &Cluster, key: &str) -> bool {
    let running = || (0..cluster.len()).filter(|at| cluster.node(*at).is_some());
    cluster.until(3 * MINUTE, || running().all(|at| stored(cluster, at, key).is_none())).await
}

fn collected(cluster: &Cluster) -> u64 {
    (0..cluster.len()).filter_map(|at| Some(cluster.node(at)?.metrics().collect.dropped.get())).sum()
}

/// What nodes show of a key.
async fn all_shown(cluster: &Cluster, key: &str) -> Vec<Bytes> {
    let mut shows = Vec::new();
    for at in 0..3 {
        shows.extend(shown(cluster, at, key).await);
    }
    shows
}

#[test]
fn deletions_go_by_themselves_and_nothing_that_comes_late_brings_them_back() {
    for seed in 1..=4 {
        sim(seed, |time| async move {
            let (cluster, frames) = founded_as(time, collecting(seed), None).await;
            for (at, key) in ["a", "b", "c", "d"].into_iter().enumerate() {
                put(&cluster, at % 3, key, "old").await;
                delete(&cluster, (at + 1) % 3, key).await;
            }
            put(&cluster, 0, "stays", "here").await;
            time.sleep(3 * SECOND).await;
            assert!(stored(&cluster, 0, "a").is_some(), "they linger");
            for key in ["a", "b", "c", "d"] {
                assert!(gone(&cluster, key).await, "seed {seed}: {key}");
            }
            assert_eq!(collected(&cluster), 12, "four on each");
            assert!(frames.arrive_again().await > 8);
            time.sleep(MINUTE).await;
            for key in ["a", "b", "c", "d"] {
                assert_eq!(all_shown(&cluster, key).await, [""; 0], "seed {seed}: {key}");
            }
            assert_eq!(all_shown(&cluster, "stays").await, ["here"; 3]);
            let view = cluster.node(0).unwrap().tombstones_view();
            assert_eq!((view.waiting, &view.held_up_by[..]), (0, &[][..]), "{view:?}");
            // What was taken out of what arrived is not remembered for ever.
            let remembers = || {
                (0..3).any(|at| {
                    let replica = cluster.node(at).unwrap().replica().clone();
                    (0..16).any(|partition| replica.still_takes_out(PartitionId(partition)))
                })
            };
            assert!(cluster.until(MINUTE, || !remembers()).await);
            cluster.end();
        });
    }
}

#[test]
fn while_a_member_is_down_nothing_is_collected_and_it_is_named() {
    for down in 0..3 {
        sim(7, |time| async move {
            let (cluster, frames) = founded_as(time, collecting(7), None).await;
            put(&cluster, 0, "k", "old").await;
            cluster.crash(down, Death::Killed);
            time.sleep(10 * SECOND).await;
            let others: Vec<usize> = (0..3).filter(|at| *at != down).collect();
            cluster.kv(others[0]).unwrap().delete(id("k"), WriteOptions::default()).await.unwrap();
            time.sleep(2 * MINUTE).await;
            assert!(others.iter().all(|at| stored(&cluster, *at, "k").is_some()));
            let views: Vec<_> = others.iter().map(|at| cluster.node(*at).unwrap().tombstones_view()).collect();
            let waits: u64 = views.iter().map(|view| view.ripe).sum();
            let named: Vec<_> = views.iter().flat_map(|view| &view.held_up_by).collect();
            assert_eq!(waits, 1, "{views:?}");
            assert!(named.iter().all(|holder| holder.node == format!("n{down}")) && !named.is_empty(), "{views:?}");
            cluster.start(down).await.unwrap();
            assert!(gone(&cluster, "k").await, "it is back");
            frames.arrive_again().await;
            time.sleep(MINUTE).await;
            assert_eq!(all_shown(&cluster, "k").await, [""; 0]);
            cluster.end();
        });
    }
}

/// A value that one owner missed is read, and the reader stops before it mends that owner; meanwhile it is deleted, and the
/// deletion is collected. What all show of it in the end, and how many states were refused.
async fn after_a_paused_reader(time: SimTime, seed: u64, broken: Option<&'static str>) -> (Vec<Bytes>, u64) {
    let setup = Setup { hints: false, ..collecting(seed) };
    let (cluster, frames) = founded_as(time, setup, broken).await;
    cluster.crash(2, Death::Killed);
    time.sleep(5 * SECOND).await;
    cluster.kv(0).unwrap().put(id("k"), "old".into(), WriteOptions::default()).await.unwrap();
    let before = frames.sent().len();
    frames.1.set(true);
    cluster.start(2).await.unwrap();
    assert!(cluster.until_well(MINUTE).await);
    let options = ReadOptions { r: Level::All, repair: Some(RepairMode::Async), ..ReadOptions::default() };
    cluster.kv(0).unwrap().get(id("k"), options).await.unwrap();
    delete(&cluster, 1, "k").await;
    assert!(gone(&cluster, "k").await);
    frames.1.set(false);
    let late: Vec<Sent> = frames.sent().split_off(before);
    assert!(late.iter().any(|(.., request)| matches!(&request.ask, Some(Ask::Write(write)) if write.repair)));
    frames.arrive(before).await;
    time.sleep(30 * SECOND).await;
    let refused = (0..3).map(|at| cluster.node(at).unwrap().metrics().collect.refused.get()).sum();
    let shows = all_shown(&cluster, "k").await;
    cluster.end();
    (shows, refused)
}

#[test]
fn a_reader_that_was_paused_before_its_repair_brings_nothing_back() {
    static REFUSED: AtomicU64 = AtomicU64::new(0);
    for seed in 1..=4 {
        sim(seed, |time| async move {
            let (shows, some) = after_a_paused_reader(time, seed, None).await;
            assert_eq!(shows, [""; 0], "seed {seed}");
            REFUSED.fetch_add(some, Ordering::Relaxed);
        });
    }
    assert!(REFUSED.load(Ordering::Relaxed) > 0, "nothing came late");
    sim(1, |time| async move {
        let broken = Some("what was read under a sealed epoch is refused");
        let (shows, _) = after_a_paused_reader(time, 1, broken).await;
        assert!(shows.iter().any(|value| value == "old"), "{shows:?}");
    });
}

#[test]
fn a_wiped_owner_is_replaced_and_what_was_deleted_before_or_after_stays_away() {
    for seed in 1..=4 {
        sim(seed, |time| async move {
            let (cluster, frames) = founded_as(time, collecting(seed), None).await;
            put(&cluster, 0, "before", "old").await;
            put(&cluster, 0, "after", "old").await;
            put(&cluster, 1, "stays", "here").await;
            delete(&cluster, 1, "before").await;
            assert!(gone(&cluster, "before").await);
            cluster.crash(2, Death::PowerCut);
            cluster.disk(2, |disk| disk.wipe());
            cluster.kv(0).unwrap().delete(id("after"), WriteOptions::default()).await.unwrap();
            cluster.start(2).await.unwrap();
            assert!(cluster.until_well(2 * MINUTE).await, "{:?}", cluster.ills());
            frames.arrive_again().await;
            assert!(gone(&cluster, "after").await, "seed {seed}: {:?}", cluster.node(0).unwrap().tombstones_view());
            frames.arrive_again().await;
            time.sleep(MINUTE).await;
            for key in ["before", "after"] {
                assert_eq!(all_shown(&cluster, key).await, [""; 0], "seed {seed}: {key}");
            }
            assert_eq!(all_shown(&cluster, "stays").await, ["here"; 3]);
            cluster.end();
        });
    }
}

#[test]
fn a_directory_from_before_a_collection_brings_nothing_back() {
    for seed in 1..=4 {
        sim(seed, |time| async move {
            let (cluster, frames) = founded_as(time, collecting(seed), None).await;
            put(&cluster, 0, "k", "old").await;
            put(&cluster, 1, "stays", "here").await;
            cluster.disk(2, |disk| disk.keep_copy());
            delete(&cluster, 1, "k").await;
            assert!(gone(&cluster, "k").await);
            put(&cluster, 0, "newer", "here").await;
            cluster.crash(2, Death::Killed);
            cluster.disk(2, |disk| disk.roll_back());
            assert!(cluster.disk(2, |disk| disk.copy().is_some()));
            cluster.start(2).await.unwrap();
            assert!(cluster.until_well(2 * MINUTE).await, "{:?}", cluster.ills());
            assert!(gone(&cluster, "k").await, "seed {seed}");
            frames.arrive_again().await;
            time.sleep(MINUTE).await;
            assert_eq!(all_shown(&cluster, "k").await, [""; 0], "seed {seed}");
            for key in ["stays", "newer"] {
                assert_eq!(all_shown(&cluster, key).await, ["here"; 3], "seed {seed}: {key}");
            }
            // And rounds go on.
            delete(&cluster, 2, "stays").await;
            assert!(gone(&cluster, "stays").await, "seed {seed}: {:?}", cluster.node(0).unwrap().tombstones_view());
            cluster.end();
        });
    }
}

/// Whoever comes with a context from before a collection names dots that nobody holds any more. How often that was taken for
/// a proof that a directory went back.
async fn proofs_by_old_contexts(time: SimTime, broken: Option<&'static str>) -> u64 {
    let (cluster, _) = founded_as(time, collecting(5), broken).await;
    put(&cluster, 0, "k", "old").await;
    let context = cluster.kv(0).unwrap().get(id("k"), ReadOptions::default()).await.unwrap().context;
    delete(&cluster, 0, "k").await;
    assert!(gone(&cluster, "k").await);
    for at in 0..3 {
        let options = WriteOptions { context: Some(context.clone()), ..WriteOptions::default() };
        // Where it is taken for one, the partition has no vote for a while.
        let _ = cluster.kv(at).unwrap().put(id("k"), "new".into(), options).await;
    }
    let proofs = (0..3).map(|at| cluster.node(at).unwrap().metrics().replica.rollback_proofs.get()).sum();
    cluster.end();
    proofs
}

#[test]
fn a_context_from_before_a_collection_proves_nothing() {
    sim(5, |time| async move { assert_eq!(proofs_by_old_contexts(time, None).await, 0) });
    sim(5, |time| async move {
        assert!(proofs_by_old_contexts(time, Some("a drop raises the floor")).await > 0);
    });
}

/// How far a store that lost power right after a round remembers it.
async fn after_a_power_cut(time: SimTime, seed: u64, broken: Option<&'static str>) -> Epoch {
    let setup = Setup { durability: Durability::Os, ..Setup::new(seed, 3) };
    let (cluster, _) = founded_as(time, setup, broken).await;
    put(&cluster, 0, "k", "old").await;
    delete(&cluster, 1, "k").await;
    let (stored_key, _) = stored(&cluster, 0, "k").unwrap();
    let partition = PartitionId(u32::from_be_bytes(stored_key[..4].try_into().unwrap()));
    time.sleep(MINUTE).await;
    collect(&cluster, "k").await;
    cluster.crash(2, Death::PowerCut);
    cluster.start(2).await.unwrap();
    let sealed = cluster.node(2).unwrap().replica().sealed(partition);
    cluster.end();
    sealed
}

#[test]
fn a_round_is_remembered_over_a_power_cut() {
    for seed in 1..=8 {
        sim(seed, |time| async move { assert!(after_a_power_cut(time, seed, None).await > Epoch::FIRST) });
    }
    let forgotten = (1..=8).any(|seed| {
        let lost = Arc::new(AtomicBool::new(false));
        let tell = Arc::clone(&lost);
        sim(seed, |time| async move {
            let sealed = after_a_power_cut(time, seed, Some("a round's step is flushed")).await;
            tell.store(sealed == Epoch::FIRST, Ordering::Release);
        });
        lost.load(Ordering::Acquire)
    });
    assert!(forgotten, "it would not be if it were not flushed");
}

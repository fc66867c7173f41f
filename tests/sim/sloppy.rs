//! Sloppy quorums on whole clusters: fallbacks stand in for owners that are down, and what they keep reaches its owners,
//! whoever crashes meanwhile; an old state that comes back late brings back nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate::env::BoxFuture;
use quorate::kv::{
    ContextToken, Error, ErrorCode, NodeView as _, Outcome, ReadAnswer, ReadOptions, WriteAnswer, WriteOptions,
};
use quorate::node::Config;
use quorate::quorum::{Level, Role};
use quorate::sim::cluster::{Cluster, Setup, Wraps};
use quorate::sim::net::Death;
use quorate::sim::time::{self, SimTime};
use quorate::transport::messages::{Ask, Request};
use quorate::transport::{Answer, CallError, Handler, Hello, Transport};
use quorate::types::{Bucket, Key, ObjectId, StoreId};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn sim<T, F: Future<Output = T>>(seed: u64, body: impl FnOnce(SimTime) -> F) -> T {
    time::run(seed, body).unwrap()
}

pub(crate) fn id(key: &str) -> ObjectId {
    ObjectId::new(Bucket::new("sloppy").unwrap(), Key::new(key.to_owned()).unwrap())
}

/// All of them serving.
pub(crate) async fn serving(
    time: SimTime,
    setup: Setup,
    told: impl Fn(usize, &mut Config) + Copy + Send + 'static,
) -> Cluster {
    let cluster = Cluster::new(time, setup);
    (0..cluster.len()).for_each(|machine| cluster.tell(machine, move |config| told(machine, config)));
    cluster.start_all().await;
    assert!(cluster.until_well(60 * SECOND).await, "{:?}", cluster.ills());
    cluster
}

pub(crate) fn machine(name: &str) -> usize {
    name.trim_start_matches('n').parse().unwrap()
}

/// The machines that own a key, and those that stand in for them, in order.
pub(crate) fn places(cluster: &Cluster, key: &str) -> (Vec<usize>, Vec<usize>) {
    let node = (0..cluster.len()).find_map(|at| cluster.node(at)).unwrap();
    let owners = node.owners(&id(key)).unwrap();
    let of = |views: &[quorate::kv::OwnerView]| views.iter().map(|view| machine(&view.node)).collect::<Vec<_>>();
    (of(&owners.owners), of(&owners.fallbacks))
}

/// These crash, and all others know.
pub(crate) async fn lose(cluster: &Cluster, machines: &[usize]) {
    machines.iter().for_each(|machine| cluster.crash(*machine, Death::Killed));
    let knows = |at: usize| {
        let Some(node) = cluster.node(at) else { return true };
        let down = node.status().attention.iter().filter(|told| told.code == "member_down").count();
        down >= (0..cluster.len()).filter(|other| cluster.node(*other).is_none()).count()
    };
    assert!(cluster.until(20 * SECOND, || (0..cluster.len()).all(knows)).await);
}

pub(crate) async fn put(
    cluster: &Cluster,
    at: usize,
    key: &str,
    value: &str,
    w: Level,
    context: Option<ContextToken>,
) -> Result<WriteAnswer, Error> {
    let options = WriteOptions { w, sloppy: w != Level::Any, context, explain: true, ..WriteOptions::default() };
    cluster.kv(at).unwrap().put(id(key), value.to_owned().into(), options).await
}

pub(crate) async fn read(cluster: &Cluster, at: usize, key: &str, r: Level, sloppy: bool) -> Result<ReadAnswer, Error> {
    let options = ReadOptions { r, sloppy, explain: true, ..ReadOptions::default() };
    cluster.kv(at).unwrap().get(id(key), options).await
}

pub(crate) fn values(answer: &ReadAnswer) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let live = answer.siblings.iter().filter_map(|view| view.value.as_ref());
    let mut values: Vec<String> = live.map(|value| text(&value.bytes)).collect();
    values.sort();
    values
}

/// Keys that are kept for somebody, on all nodes.
pub(crate) fn owed(cluster: &Cluster) -> u64 {
    (0..cluster.len()).filter_map(|at| cluster.node(at)).map(|node| node.replica().hints().owed()).sum()
}

/// Whether every key lies on three nodes, all alike, and nothing waits any more.
pub(crate) fn settled(cluster: &Cluster) -> bool {
    let mut copies: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    for at in 0..cluster.len() {
        let Some(node) = cluster.node(at) else { return false };
        if node.replica().hints().total() != (0, 0) {
            return false;
        }
        for (key, record) in cluster.audit(at).records {
            copies.entry(key.to_vec()).or_default().push(record.to_vec());
        }
    }
    copies.values().all(|records| records.len() == 3 && records.iter().all(|record| *record == records[0]))
}

/// All start that have crashed; then nothing waits for anybody, and owners agree.
pub(crate) async fn returns(cluster: &Cluster) {
    for at in (0..cluster.len()).filter(|at| cluster.node(*at).is_none()).collect::<Vec<_>>() {
        cluster.start(at).await.unwrap();
    }
    assert!(cluster.until_well(60 * SECOND).await, "{:?}", cluster.ills());
    assert!(
        cluster.until(60 * SECOND, || settled(cluster)).await,
        "{} are owed still: {}",
        owed(cluster),
        cluster.tally()
    );
    assert_eq!(cluster.tally().clashes, 0, "one dot with two values");
}

#[test]
fn with_two_of_three_owners_down_a_sloppy_write_succeeds_and_reaches_them() {
    for seed in 1..=3 {
        sim(seed, |time| async move {
            let cluster = serving(time, Setup::new(seed, 5), |_, _| {}).await;
            put(&cluster, 0, "k", "before", Level::All, None).await.unwrap();
            let (owners, fallbacks) = places(&cluster, "k");
            assert_eq!((owners.len(), fallbacks.len()), (3, 2), "three own it, the other two stand in");
            lose(&cluster, &owners[..2]).await;
            for (at, name) in [(owners[2], "owner"), (fallbacks[0], "fallback"), (fallbacks[1], "other")] {
                let options = WriteOptions::default();
                let strict = cluster.kv(at).unwrap().put(id("k"), "strict".into(), options).await.unwrap_err();
                assert_eq!((strict.code, strict.outcome), (ErrorCode::QuorumUnavailable, Outcome::NotApplied));
                let wrote = put(&cluster, at, "k", name, Level::Quorum, None).await.unwrap();
                assert_eq!((wrote.counted.answered, wrote.counted.needed), (2, 2));
                assert!((1..=2).contains(&wrote.counted.sloppy), "{:?}", wrote.counted);
                let explain = wrote.explain.unwrap();
                let stood = explain.replicas.iter().find(|replica| replica.counted && replica.role == Role::Fallback);
                assert!(stood.is_some_and(|replica| fallbacks.contains(&machine(&replica.node))), "{explain:?}");
                assert!(!explain.hinted.is_empty());
            }
            assert!(owed(&cluster) > 0);
            let strict = read(&cluster, fallbacks[0], "k", Level::Quorum, false).await.unwrap_err();
            assert_eq!(strict.code, ErrorCode::QuorumUnavailable);
            let all = ["before", "fallback", "other", "owner"];
            for at in [owners[2], fallbacks[0], fallbacks[1]] {
                let answer = read(&cluster, at, "k", Level::Quorum, true).await.unwrap();
                assert_eq!((values(&answer), answer.counted.sloppy), (all.map(str::to_owned).to_vec(), 2));
            }
            returns(&cluster).await;
            for at in 0..5 {
                let answer = read(&cluster, at, "k", Level::All, false).await.unwrap();
                assert_eq!(values(&answer), all);
            }
            assert_eq!(cluster.tally().hints_dropped, 0);
            cluster.end();
        });
    }
}

#[test]
fn with_all_owners_down_any_is_enough_and_survives_who_keeps_it() {
    for (seed, death) in [(1, Death::Killed), (2, Death::PowerCut), (3, Death::PowerCut)] {
        sim(seed, |time| async move {
            let cluster = serving(time, Setup::new(seed, 5), |_, _| {}).await;
            let (owners, fallbacks) = places(&cluster, "k");
            lose(&cluster, &owners).await;
            let one = put(&cluster, fallbacks[0], "k", "one", Level::One, None).await;
            assert_eq!(one.unwrap().counted.sloppy, 1, "a hint is all there can be");
            // Its own hint record is what a fallback mints on.
            let two = put(&cluster, fallbacks[1], "k", "two", Level::Any, None).await.unwrap();
            let context = two.context.clone();
            let blind = cluster
                .kv(fallbacks[0])
                .unwrap()
                .delete(id("k"), WriteOptions { w: Level::Any, ..WriteOptions::default() })
                .await
                .unwrap_err();
            assert_eq!(
                (blind.code, blind.outcome),
                (ErrorCode::QuorumUnavailable, Outcome::NotApplied),
                "it sees nothing"
            );
            assert!(blind.detail.starts_with("no owner is up") && blind.detail.contains("send the context"), "{blind}");
            let seen = read(&cluster, fallbacks[0], "k", Level::One, true).await.unwrap();
            assert_eq!(values(&seen), ["one", "two"]);
            for at in &fallbacks {
                cluster.crash(*at, death);
                cluster.start(*at).await.unwrap();
            }
            time.sleep(5 * SECOND).await;
            assert!(owed(&cluster) > 0, "what is owed is there after a crash");
            let again = put(&cluster, fallbacks[1], "k", "three", Level::Any, Some(seen.context)).await;
            assert!(again.is_ok(), "{again:?}");
            returns(&cluster).await;
            let answer = read(&cluster, 0, "k", Level::All, false).await.unwrap();
            assert_eq!(values(&answer), ["three"], "it superseded what its writer was shown");
            assert!(context.is_none_or(|context| context != answer.context));
            assert!(cluster.tally().stood_in >= 3);
            cluster.end();
        });
    }
}

/// kv679 (2): a fallback keeps an old state while its owner comes back, is overwritten, and deletes it; then it hands it
/// off. And it coordinates again after it handed off: no dot is minted twice.
#[test]
fn an_old_state_that_is_handed_off_late_brings_back_nothing() {
    for seed in 1..=4 {
        sim(seed, |time| async move {
            let cluster = serving(time, Setup::new(seed, 5), |_, _| {}).await;
            let (owners, fallbacks) = places(&cluster, "k");
            lose(&cluster, &owners).await;
            put(&cluster, fallbacks[0], "k", "old", Level::Any, None).await.unwrap();
            // The one that keeps it, and whoever else does, hear nobody while their owners come back.
            cluster.crash(fallbacks[1], Death::Killed);
            let names: Vec<String> = (0..5).map(|at| cluster.address(at)).collect();
            let seen = read(&cluster, fallbacks[0], "k", Level::One, true).await.unwrap();
            cluster.crash(fallbacks[0], Death::Killed);
            for at in &owners {
                cluster.start(*at).await.unwrap();
            }
            let serves =
                |at: &usize| cluster.node(*at).is_some_and(|node| node.replica().identity().barred().is_none());
            assert!(cluster.until(60 * SECOND, || owners.iter().all(serves)).await, "{names:?}");
            let mut wrote = None;
            for _ in 0..20 {
                wrote = put(&cluster, owners[0], "k", "new", Level::All, Some(seen.context.clone())).await.ok();
                if wrote.is_some() {
                    break;
                }
                time.sleep(SECOND).await;
            }
            let wrote = wrote.expect("all owners are back");
            assert_eq!(wrote.sibling_count, 1);
            let deletes = seed % 2 == 0;
            if deletes {
                let context = read(&cluster, owners[0], "k", Level::All, false).await.unwrap().context;
                let options = WriteOptions { w: Level::All, context: Some(context), ..WriteOptions::default() };
                cluster.kv(owners[1]).unwrap().delete(id("k"), options).await.unwrap();
            }
            returns(&cluster).await;
            assert!(cluster.tally().hints_replayed > 0);
            let expected = if deletes { vec![] } else { vec!["new".to_owned()] };
            for at in 0..5 {
                assert_eq!(values(&read(&cluster, at, "k", Level::All, false).await.unwrap()), expected);
            }
            lose(&cluster, &owners).await;
            put(&cluster, fallbacks[0], "k", "again", Level::Any, None).await.unwrap();
            returns(&cluster).await;
            let answer = read(&cluster, 0, "k", Level::All, false).await.unwrap();
            assert!(values(&answer).contains(&"again".to_owned()));
            cluster.end();
        });
    }
}

/// Room for few hints, and what fits beside them: objects of 1000 bytes.
fn narrow(_: usize, config: &mut Config) {
    (config.node.max_hint_bytes, config.node.max_value, config.node.max_object) = (12_000, 1000, 1000);
}

/// So many keys that the same machines own, and the same stand in for.
fn alike(cluster: &Cluster, count: usize) -> Vec<String> {
    let sorted = |(mut owners, mut fallbacks): (Vec<usize>, Vec<usize>)| {
        owners.sort_unstable();
        fallbacks.sort_unstable();
        (owners, fallbacks)
    };
    let wanted = sorted(places(cluster, "k"));
    let names = (0..).map(|at| format!("k{at}"));
    names.filter(|name| sorted(places(cluster, name)) == wanted).take(count).collect()
}

/// Whether each of these keys is found, once all are back and nothing waits.
async fn all_found(cluster: &Cluster, keys: &[String]) -> bool {
    for at in (0..cluster.len()).filter(|at| cluster.node(*at).is_none()).collect::<Vec<_>>() {
        cluster.start(at).await.unwrap();
    }
    assert!(cluster.until_well(60 * SECOND).await, "{:?}", cluster.ills());
    // Who was left nothing since there was no room finds it by comparison, or by this read.
    let none_wait = || (0..5).all(|at| cluster.node(at).is_some_and(|node| node.replica().hints().total() == (0, 0)));
    assert!(cluster.until(60 * SECOND, none_wait).await, "{}", cluster.tally());
    let mut found = 0;
    for key in keys {
        found += usize::from(!values(&read(cluster, 0, key, Level::All, false).await.unwrap()).is_empty());
    }
    found == keys.len()
}

/// Fallbacks that have no room for the largest object refuse, before anything is sent: nobody is left not knowing.
#[test]
fn near_the_limit_a_write_is_refused_before_anything_is_sent() {
    for seed in 1..=3 {
        sim(seed, |time| async move {
            let cluster = serving(time, Setup::new(seed, 5), narrow).await;
            let (keys, (owners, fallbacks)) = (alike(&cluster, 20), places(&cluster, "k"));
            lose(&cluster, &owners).await;
            let (mut taken, mut full) = (Vec::new(), 0);
            for (step, key) in keys.into_iter().enumerate() {
                match put(&cluster, fallbacks[step % 2], &key, &"v".repeat(300 + 30 * step), Level::Quorum, None).await
                {
                    Ok(_) => taken.push(key),
                    Err(error) => {
                        assert_eq!((error.code, error.outcome), (ErrorCode::HintsFull, Outcome::NotApplied), "{error}");
                        full += 1;
                    }
                }
                // Heartbeats tell who has room.
                time.sleep(2 * SECOND).await;
            }
            assert!(taken.len() >= 4 && full >= 4, "{} were taken, {full} refused", taken.len());
            assert!(all_found(&cluster, &taken).await);
            cluster.end();
        });
    }
}

/// More at once than heartbeats tell of: whether all that was acknowledged was found.
fn at_the_limit(seed: u64, broken: Option<&'static str>) -> bool {
    sim(seed, |time| async move {
        let wraps = Wraps { broken, ..Wraps::default() };
        let cluster = serving(time, Setup { wraps, ..Setup::new(seed, 5) }, narrow).await;
        let (keys, (owners, fallbacks)) = (alike(&cluster, 30), places(&cluster, "k"));
        lose(&cluster, &owners).await;
        let cluster_ref = &cluster;
        let puts = keys.into_iter().enumerate().map(async |(step, key)| {
            let wrote = put(cluster_ref, fallbacks[step % 2], &key, &"v".repeat(900), Level::Any, None).await;
            wrote.is_ok().then_some(key)
        });
        let taken: Vec<String> = futures_util::future::join_all(puts).await.into_iter().flatten().collect();
        let refused: u64 = fallbacks.iter().map(|at| cluster.node(*at).unwrap().metrics().hints.refused.get()).sum();
        assert!(taken.len() >= 4 && refused > 0, "{} were taken, {refused} refused", taken.len());
        // Nothing is under way any more but what is kept.
        time.sleep(30 * SECOND).await;
        let found = all_found(&cluster, &taken).await;
        cluster.end();
        found
    })
}

#[test]
fn what_is_owed_is_never_dropped_for_what_comes_later() {
    assert!(at_the_limit(1, None) && at_the_limit(2, None));
}

#[test]
fn a_hint_that_is_acknowledged_and_not_kept_is_caught() {
    assert!(!at_the_limit(1, Some("what is owed is refused at the limit")));
}

/// Between nodes and their network: nobody is asked to keep anything by a machine that says so.
struct KeepsNothing {
    inner: Arc<dyn Transport>,
    deaf: Arc<AtomicBool>,
}

/// What makes all machines deaf, and how they are told.
pub(crate) fn deaf(broken: Option<&'static str>) -> (Arc<AtomicBool>, Wraps) {
    let deaf = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&deaf);
    let wrap = move |inner| Arc::new(KeepsNothing { inner, deaf: Arc::clone(&switch) }) as Arc<dyn Transport>;
    (deaf, Wraps { transport: Some(Arc::new(wrap)), broken, ..Wraps::default() })
}

impl Transport for KeepsNothing {
    fn serve(&self, hello: Hello, handler: Arc<dyn Handler>) {
        self.inner.serve(hello, handler);
    }

    fn call(
        &self,
        address: &str,
        expect: Option<StoreId>,
        request: Request,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Answer, CallError>> {
        if matches!(request.ask, Some(Ask::Keep(_))) && self.deaf.load(Ordering::Relaxed) {
            return Box::pin(async { Err(CallError::Lost("it is lost".to_owned())) });
        }
        self.inner.call(address, expect, request, deadline)
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.inner.shutdown()
    }
}

/// All owners are down, two copies are asked for, and one fallback alone can keep any: whether the write is acknowledged.
fn one_disk_for_two(seed: u64, broken: Option<&'static str>) -> bool {
    sim(seed, |time| async move {
        let (deaf, wraps) = deaf(broken);
        let cluster = serving(time, Setup { wraps, ..Setup::new(seed, 5) }, |_, _| {}).await;
        let (owners, fallbacks) = places(&cluster, "k");
        lose(&cluster, &owners).await;
        let two = put(&cluster, fallbacks[0], "k", "fine", Level::Quorum, None).await.unwrap();
        assert!(two.counted.sloppy == 2 || broken.is_some(), "two fallbacks are two disks");
        deaf.store(true, Ordering::Relaxed);
        let wrote = put(&cluster, fallbacks[0], "k", "v", Level::Quorum, None).await;
        if let Err(error) = &wrote {
            assert_eq!(error.outcome, Outcome::Unknown, "it was minted: {error}");
        }
        deaf.store(false, Ordering::Relaxed);
        returns(&cluster).await;
        cluster.end();
        wrote.is_ok()
    })
}

#[test]
fn a_fallback_counts_for_one_owner() {
    assert!(!one_disk_for_two(1, None) && !one_disk_for_two(2, None));
}

#[test]
fn a_fallback_that_counts_for_two_owners_is_caught() {
    assert!(one_disk_for_two(1, Some("a fallback counts for one owner")));
}

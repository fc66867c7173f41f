//! Hints on whole clusters: what an owner missed reaches it without a read, however often it was overwritten, whoever
//! crashes meanwhile; what is not kept is marked.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate::env::BoxFuture;
use quorate::kv::{ContextToken, NodeView as _, Outcome, WriteOptions};
use quorate::metrics::Dropped;
use quorate::node::Config;
use quorate::quorum::Level;
use quorate::sim::cluster::{Cluster, Setup, Wraps};
use quorate::sim::net::Death;
use quorate::sim::time::{self, SimTime};
use quorate::transport::messages::{Ask, Request};
use quorate::transport::{Answer, CallError, Handler, Hello, Transport};
use quorate::types::{Bucket, Key, ObjectId, StoreId};

const SECOND: Duration = Duration::from_secs(1);
const KEYS: usize = 300;

fn sim<T, F: Future<Output = T>>(seed: u64, body: impl FnOnce(SimTime) -> F) -> T {
    time::run(seed, body).unwrap()
}

fn id(key: &str) -> ObjectId {
    ObjectId::new(Bucket::new("hints").unwrap(), Key::new(key.to_owned()).unwrap())
}

/// Writes keys, each over what was written to it before; nothing is ever read.
#[derive(Default)]
struct Writer {
    contexts: BTreeMap<String, ContextToken>,
    step: usize,
}

impl Writer {
    async fn put(&mut self, cluster: &Cluster, node: usize, key: String, w: Level) {
        self.step += 1;
        let context = self.contexts.get(&key).cloned();
        let options = WriteOptions { w, context, ..WriteOptions::default() };
        let wrote = cluster.kv(node).unwrap().put(id(&key), self.step.to_string().into(), options).await.unwrap();
        self.contexts.insert(key, wrote.context.expect("it supersedes what was there"));
    }

    /// So many writes of `KEYS` keys, in turn by these nodes.
    async fn writes(&mut self, cluster: &Cluster, nodes: &[usize], writes: usize) {
        for at in 0..writes {
            self.put(cluster, nodes[at % nodes.len()], format!("k{}", at % KEYS), Level::Quorum).await;
        }
    }
}

/// Three nodes, all serving, that are told this.
async fn three(time: SimTime, setup: Setup, told: impl Fn(&mut Config) + Copy + Send + 'static) -> Cluster {
    let cluster = Cluster::new(time, setup);
    (0..cluster.len()).for_each(|machine| cluster.tell(machine, told));
    cluster.start_all().await;
    assert!(cluster.until_well(60 * SECOND).await, "{:?}", cluster.ills());
    cluster
}

async fn loses(cluster: &Cluster, machine: usize) {
    cluster.crash(machine, Death::Killed);
    let other = (machine + 1) % cluster.len();
    let seen = || cluster.node(other).unwrap().status().attention.iter().any(|told| told.code == "member_down");
    assert!(cluster.until(10 * SECOND, seen).await);
}

/// Keys and bytes of the hints on a node.
fn waiting(cluster: &Cluster, machine: usize) -> (u64, u64) {
    cluster.node(machine).unwrap().replica().hints().total()
}

fn none_wait(cluster: &Cluster) -> bool {
    (0..cluster.len()).all(|machine| waiting(cluster, machine) == (0, 0))
}

/// Whether all three hold the same, and what they store about it is true.
fn equal(cluster: &Cluster) -> bool {
    let audits: Vec<_> = (0..3).map(|machine| cluster.audit(machine)).collect();
    assert!(audits.iter().all(|audit| audit.wrong.is_empty()), "what is stored about objects is wrong");
    audits.iter().all(|audit| audit.records == audits[0].records)
}

/// A node is down while 2,000 writes of 300 keys happen; tells whether it has them within a minute of its return, and
/// nothing is read.
fn returns(seed: u64, broken: Option<&'static str>) -> bool {
    sim(seed, |time| async move {
        let wraps = Wraps { broken, ..Wraps::default() };
        let cluster = three(time, Setup { wraps, ..Setup::new(seed, 3) }, |_| {}).await;
        loses(&cluster, 2).await;
        Writer::default().writes(&cluster, &[0, 1], 2000).await;
        time.sleep(10 * SECOND).await;
        let held: Vec<u64> = (0..2).map(|machine| waiting(&cluster, machine).0).collect();
        assert!(held.iter().all(|keys| (1..=KEYS as u64).contains(keys)), "one a key: {held:?}");
        assert_eq!(cluster.tally().hints, 2000);
        cluster.start(2).await.unwrap();
        assert!(cluster.until_well(60 * SECOND).await, "{:?}", cluster.ills());
        let back = cluster.until(60 * SECOND, || none_wait(&cluster) && equal(&cluster)).await;
        let tally = cluster.tally();
        assert_eq!((tally.read_repairs, tally.hints_dropped), (0, 0));
        assert_eq!(tally.hints_replayed > 0, broken.is_none());
        assert!(cluster.node(0).unwrap().replica().hints().marked().is_empty());
        if back {
            assert_eq!(cluster.audit(2).records.len(), KEYS);
        }
        cluster.end();
        back
    })
}

#[test]
fn a_node_that_was_down_has_everything_without_a_read() {
    for seed in 1..=4 {
        assert!(returns(seed, None), "seed {seed}");
    }
}

#[test]
fn hints_that_are_not_replayed_are_caught() {
    assert!(!returns(1, Some("hints are replayed")));
}

/// Between nodes and their network: what a client writes never reaches node 2, and what repairs it is answered late.
struct Late {
    inner: Arc<dyn Transport>,
    time: SimTime,
    off: Arc<AtomicBool>,
}

impl Transport for Late {
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
        let repairs = match &request.ask {
            Some(Ask::Write(write)) if address.starts_with("n2:") && !self.off.load(Ordering::Relaxed) => {
                Some(write.repair)
            }
            _ => None,
        };
        if repairs == Some(false) {
            return Box::pin(async { Err(CallError::Lost("it is lost".to_owned())) });
        }
        let (call, time) = (self.inner.call(address, expect, request, deadline), self.time);
        Box::pin(async move {
            let answer = call.await;
            if repairs.is_some() {
                time.sleep(Duration::from_millis(30)).await;
            }
            answer
        })
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.inner.shutdown()
    }
}

/// Keys are overwritten all the time while they are replayed; whether all is equal once that is over.
fn overwrites(seed: u64, broken: Option<&'static str>) -> bool {
    sim(seed, |time| async move {
        let off = Arc::new(AtomicBool::new(true));
        let switch = Arc::clone(&off);
        let late = move |inner| Arc::new(Late { inner, time, off: Arc::clone(&switch) }) as Arc<dyn Transport>;
        let wraps = Wraps { transport: Some(Arc::new(late)), broken, ..Wraps::default() };
        let cluster = three(time, Setup { wraps, ..Setup::new(seed, 3) }, |_| {}).await;
        off.store(false, Ordering::Relaxed);
        let over = Cell::new(0);
        let client = async |node: usize| {
            let mut writer = Writer::default();
            for step in 0..600 {
                writer.put(&cluster, node, format!("k{node}-{}", step % 20), Level::Quorum).await;
                time.sleep(Duration::from_millis(10)).await;
            }
            over.set(over.get() + 1);
        };
        tokio::join!(client(0), client(1));
        assert_eq!(over.get(), 2);
        let replayed = cluster.tally().hints_replayed;
        assert!(replayed > 40, "{replayed} were replayed meanwhile");
        assert!(cluster.until(60 * SECOND, || none_wait(&cluster)).await, "{:?}", cluster.tally());
        let equal = equal(&cluster);
        cluster.end();
        equal
    })
}

#[test]
fn what_is_written_while_an_older_state_is_on_its_way_is_sent_as_well() {
    for seed in 1..=4 {
        assert!(overwrites(seed, None), "seed {seed}");
    }
}

#[test]
fn acknowledgements_that_end_whatever_revision_there_is_are_caught() {
    assert!((1..=4).any(|seed| !overwrites(seed, Some("an acknowledgement ends only the revision it answers"))));
}

/// A wiped node is its own replacement: what its old self missed reaches whoever owns it now, and a second one that was
/// away all the time gets its own.
#[test]
fn what_a_replaced_node_missed_goes_to_those_that_own_it_now() {
    for seed in 1..=4 {
        sim(seed, |time| async move {
            let cluster = three(time, Setup::new(seed, 3), |_| {}).await;
            let mut writer = Writer::default();
            writer.writes(&cluster, &[0, 1, 2], 300).await;
            let old = cluster.node(2).unwrap().replica().identity().store();
            loses(&cluster, 2).await;
            writer.writes(&cluster, &[0, 1], 400).await;
            cluster.crash(1, Death::Killed);
            for key in 0..20 {
                writer.put(&cluster, 0, format!("alone{key}"), Level::One).await;
            }
            time.sleep(10 * SECOND).await;
            assert_eq!(cluster.node(0).unwrap().replica().hints().targets().len(), 2);
            cluster.disk(2, |disk| disk.wipe());
            cluster.start(1).await.unwrap();
            cluster.start(2).await.unwrap();
            assert!(cluster.until(180 * SECOND, || none_wait(&cluster)).await, "{:?}", cluster.tally());
            assert!(cluster.until_well(60 * SECOND).await, "{:?}", cluster.ills());
            assert_ne!(cluster.node(2).unwrap().replica().identity().store(), old);
            assert!(cluster.until(60 * SECOND, || equal(&cluster)).await, "seed {seed}");
            assert_eq!(cluster.audit(1).records.len(), KEYS + 20);
            let tally = cluster.tally();
            assert_eq!((tally.read_repairs, tally.hints_dropped), (0, 0), "{tally}");
            cluster.end();
        });
    }
}

/// Who holds hints dies in between: a kill loses none, a power cut none that was left before the last flush.
#[test]
fn hints_survive_their_holder() {
    for (seed, death) in [(1, Death::Killed), (2, Death::PowerCut), (3, Death::PowerCut)] {
        sim(seed, |time| async move {
            let cluster = three(time, Setup::new(seed, 3), |_| {}).await;
            loses(&cluster, 2).await;
            let mut writer = Writer::default();
            writer.writes(&cluster, &[0], 100).await;
            time.sleep(10 * SECOND).await;
            let (left, _) = waiting(&cluster, 0);
            assert_eq!(left, 100);
            writer.put(&cluster, 0, "flushes".to_owned(), Level::Quorum).await;
            cluster.crash(0, death);
            cluster.start(0).await.unwrap();
            assert!((100..=101).contains(&waiting(&cluster, 0).0), "{:?}", waiting(&cluster, 0));
            cluster.start(2).await.unwrap();
            assert!(cluster.until_well(60 * SECOND).await, "{:?}", cluster.ills());
            assert!(cluster.until(60 * SECOND, || none_wait(&cluster)).await);
            let held = cluster.audit(2).records;
            assert!(
                held.len() >= 100
                    && cluster.audit(0).records.iter().filter(|(key, _)| held.contains_key(*key)).count() >= 100
            );
            cluster.end();
        });
    }
}

/// Past the window hints are dropped though their owner is still down, and their partitions are marked, also after a
/// restart; what comes later is kept.
#[test]
fn past_the_window_hints_are_dropped_and_marked() {
    sim(1, |time| async move {
        let cluster = three(time, Setup::new(1, 3), |config| config.node.hint_window = 60 * SECOND).await;
        loses(&cluster, 2).await;
        let mut writer = Writer::default();
        writer.writes(&cluster, &[0], 50).await;
        cluster.stop(0).await.unwrap();
        time.sleep(45 * SECOND).await;
        cluster.start(0).await.unwrap();
        assert_eq!(waiting(&cluster, 0).0, 50);
        assert!(cluster.until(10 * SECOND, || cluster.node(0).unwrap().hints().is_some()).await);
        time.sleep(5 * SECOND).await;
        writer.put(&cluster, 0, "late".to_owned(), Level::Quorum).await;
        time.sleep(35 * SECOND).await;
        assert_eq!(waiting(&cluster, 0).0, 1);
        let node = cluster.node(0).unwrap();
        assert_eq!(node.metrics().hints.dropped(Dropped::TooOld).get(), 50);
        let marked = node.replica().hints().marked();
        assert!(marked.len() > 8, "{marked:?}");
        cluster.crash(0, Death::Killed);
        cluster.start(0).await.unwrap();
        let again = cluster.node(0).unwrap().replica().hints().marked();
        assert!(again.keys().eq(marked.keys()));
        cluster.end();
    });
}

/// However much is missed, hints take no more than they may; what is not kept is marked, and writes are none the worse.
#[test]
fn hints_are_bounded() {
    sim(1, |time| async move {
        let cluster = three(time, Setup::new(1, 3), |config| config.node.max_hint_bytes = 2000).await;
        loses(&cluster, 2).await;
        Writer::default().writes(&cluster, &[0], 600).await;
        time.sleep(10 * SECOND).await;
        let (keys, bytes) = waiting(&cluster, 0);
        assert!(bytes <= 2000 && keys >= 20, "{keys} keys, {bytes} bytes");
        let node = cluster.node(0).unwrap();
        assert!(node.metrics().hints.dropped(Dropped::Full).get() > 300);
        assert_eq!(node.replica().hints().marked().len(), 16, "every partition has such a key");
        cluster.start(2).await.unwrap();
        assert!(cluster.until_well(60 * SECOND).await, "{:?}", cluster.ills());
        assert!(cluster.until(30 * SECOND, || none_wait(&cluster)).await);
        assert_eq!(cluster.audit(2).records.len() as u64, keys, "what was kept was sent");
        cluster.end();
    });
}

/// A write whose outcome is unknown leaves hints as well: it is there, and belongs to all owners.
#[test]
fn a_write_of_unknown_outcome_reaches_all_owners() {
    sim(1, |time| async move {
        let cluster = three(time, Setup::new(1, 3), |_| {}).await;
        let names: Vec<String> = (0..3).map(|machine| cluster.address(machine)).collect();
        cluster.net().cut(&names[1], &names[0]);
        cluster.net().cut(&names[2], &names[0]);
        let options = WriteOptions { w: Level::All, ..WriteOptions::default() };
        let unknown = cluster.kv(0).unwrap().put(id("k"), "v".into(), options).await.unwrap_err();
        assert_eq!(unknown.outcome, Outcome::Unknown);
        time.sleep(10 * SECOND).await;
        cluster.net().heal();
        assert!(cluster.until(60 * SECOND, || cluster.ills().is_empty() && none_wait(&cluster)).await);
        assert!(cluster.tally().hints >= 2 && equal(&cluster));
        assert_eq!(cluster.audit(2).records.len(), 1);
        cluster.end();
    });
}

/// What hints bring slowly is not sent once more by a comparison that is due meanwhile; one that is due still comes.
#[test]
fn a_comparison_waits_for_hints_and_then_comes() {
    for seed in 1..=4 {
        sim(seed, |time| async move {
            let slowly = |config: &mut Config| {
                (config.node.hint_rate, config.node.repair_interval) = (250, 60 * SECOND);
            };
            let cluster = three(time, Setup { lag: 0.0, ..Setup::new(seed, 3) }, slowly).await;
            let mut writer = Writer::default();
            let metric = |read: fn(&quorate::metrics::Metrics) -> u64| -> u64 {
                (0..3).filter_map(|node| cluster.node(node)).map(|node| read(node.metrics())).sum()
            };
            loses(&cluster, 2).await;
            writer.writes(&cluster, &[0, 1], KEYS).await;
            let waiting = || (0..2).map(|node| cluster.node(node).unwrap().replica().hints().total().0).sum::<u64>();
            assert_eq!(waiting(), KEYS as u64);
            // What was written lately is left out of comparisons.
            time.sleep(25 * SECOND).await;
            let rounds = metric(|metrics| metrics.repair.rounds.get());
            cluster.start(2).await.unwrap();
            time.sleep(10 * SECOND).await;
            assert!(waiting() > 0, "it takes longer than a comparison after somebody came up");
            assert!(cluster.until(60 * SECOND, || waiting() == 0).await);
            assert_eq!(metric(|metrics| metrics.repair.repaired.get()), 0, "hints brought all of it");
            // Two nodes that were up all the time compare with each other twice at most meanwhile.
            let compared = || metric(|metrics| metrics.repair.rounds.get()) > rounds + 2;
            assert!(cluster.until(60 * SECOND, compared).await, "and then it is compared");
            assert_eq!(metric(|metrics| metrics.repair.repaired.get()), 0);
            cluster.end();
        });
    }
}

//! Buckets on whole clusters: n under load, purges between writes, settings that reach whoever was away.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate::kv::{
    BucketAdmin as _, BucketView, BucketWish, Error, Guard, NodeView as _, Outcome, ReadAnswer, ReadOptions,
    WriteOptions,
};
use quorate::quorum::Level;
use quorate::replica::name_of;
use quorate::sim::cluster::{Cluster, Setup};
use quorate::sim::net::{Death, Link};
use quorate::sim::time::{self, SimTime};
use quorate::types::{Bucket, Key, ObjectId};
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);

fn sim<F: Future<Output = ()>>(seed: u64, body: impl FnOnce(SimTime) -> F) {
    time::run(seed, body).unwrap();
}

fn bucket() -> Bucket {
    Bucket::new("b").unwrap()
}

fn id(key: &str) -> ObjectId {
    ObjectId::new(bucket(), Key::new(key.to_owned()).unwrap())
}

fn value(answer: &ReadAnswer) -> Option<String> {
    assert!(answer.siblings.len() <= 1, "one client writes a key, with its context: {:?}", answer.siblings);
    let value = answer.siblings.first()?.value.as_ref()?;
    Some(String::from_utf8(value.bytes.to_vec()).unwrap())
}

async fn get(cluster: &Cluster, at: usize, key: &str, r: Level) -> Result<ReadAnswer, Error> {
    cluster.kv(at).unwrap().get(id(key), ReadOptions { r, ..ReadOptions::default() }).await
}

/// Sets the bucket at a node, as it is there now.
async fn set(cluster: &Cluster, at: usize, document: Value) -> Result<BucketView, Error> {
    let node = cluster.node(at).unwrap();
    let before = node.bucket(&bucket())?;
    let guard = Guard { absent: before.etag.is_none(), matches: before.etag };
    let wish: BucketWish = serde_json::from_value(document).unwrap();
    node.set_bucket(bucket(), wish, guard, 30 * SECOND).await.map(|(view, _)| view)
}

fn views(cluster: &Cluster) -> Vec<BucketView> {
    (0..cluster.len()).filter_map(|at| cluster.node(at)?.bucket(&bucket()).ok()).collect()
}

/// Waits until all nodes show the same, and nobody is waited for.
async fn complete(cluster: &Cluster) -> BucketView {
    let done = || {
        let views = views(cluster);
        views.len() == cluster.len() && views.iter().all(|view| *view == views[0] && view.waits_for.is_empty())
    };
    assert!(cluster.until(120 * SECOND, done).await, "{:#?}", views(cluster));
    views(cluster).remove(0)
}

/// On how many nodes the bucket's objects lie, by key; what each store says about its objects is true.
fn copies(cluster: &Cluster) -> BTreeMap<String, usize> {
    let mut copies = BTreeMap::new();
    for at in 0..cluster.len() {
        let audit = cluster.audit(at);
        assert!(audit.wrong.is_empty(), "n{at}: {:?}", audit.wrong);
        for stored in audit.records.keys() {
            let (id, _) = name_of(stored).unwrap();
            if id.bucket == bucket() {
                *copies.entry(String::from_utf8(id.key.as_bytes().to_vec()).unwrap()).or_default() += 1;
            }
        }
    }
    copies
}

/// Reads and writes at quorum without pause while n goes 3 -> 5 -> 2: nothing that was acknowledged is missed by a later
/// read, every change completes, and in the end there are as many copies as there are to be, each where it belongs.
#[test]
fn n_changes_under_load_and_nothing_is_lost_or_read_stale() {
    for seed in 1..=6 {
        sim(seed, |time| async move {
            let cluster = Cluster::founded(time, Setup::new(seed, 5)).await;
            let (over, acked) = (Cell::new(false), RefCell::new(BTreeMap::<String, u64>::new()));
            let client = async |client: usize| {
                let mut step = 0;
                while !over.get() {
                    step += 1;
                    let key = format!("k{client}-{}", step % 7);
                    let at = (client + step as usize) % cluster.len();
                    let before = acked.borrow().get(&key).copied();
                    let Ok(read) = get(&cluster, at, &key, Level::Quorum).await else { continue };
                    let shown: Option<u64> = value(&read).map(|text| text.parse().unwrap());
                    assert!(shown >= before, "seed {seed}: {key} is {shown:?}, and {before:?} was acknowledged");
                    let options = WriteOptions { context: Some(read.context), ..WriteOptions::default() };
                    let wrote = cluster.kv(at).unwrap().put(id(&key), step.to_string().into(), options).await;
                    match wrote {
                        Ok(_) => drop(acked.borrow_mut().insert(key, step)),
                        Err(error) => assert_ne!(error.outcome, Outcome::Applied),
                    }
                    time.sleep(Duration::from_millis(20)).await;
                }
            };
            let changes = async {
                for (turn, n) in [3, 5, 2].into_iter().enumerate() {
                    time.sleep(2 * SECOND).await;
                    let at = (turn + seed as usize) % cluster.len();
                    let view = set(&cluster, at, json!({"n": n})).await.unwrap();
                    assert_eq!(u32::from(view.n), n);
                    complete(&cluster).await;
                }
                time.sleep(2 * SECOND).await;
                over.set(true);
            };
            tokio::join!(changes, client(0), client(1), client(2));
            let acked = acked.into_inner();
            assert!(acked.len() == 21 && acked.values().sum::<u64>() > 1000, "there was load: {acked:?}");
            for (key, last) in &acked {
                for at in 0..cluster.len() {
                    let read = get(&cluster, at, key, Level::All).await.unwrap();
                    assert!(value(&read).unwrap().parse::<u64>().unwrap() >= *last);
                    assert_eq!(read.counted.n, 2);
                }
            }
            let two = || {
                let copies = copies(&cluster);
                copies.len() == acked.len() && copies.values().all(|count| *count == 2)
            };
            assert!(cluster.until(120 * SECOND, two).await, "seed {seed}: {:?}", copies(&cluster));
            cluster.end();
        });
    }
}

/// What is read after a purge was answered is never what was written before it began, and what was written after it was
/// answered stays: also where a node was down when it was decided, and comes back with all it had.
#[test]
fn a_purge_holds_also_for_whoever_was_away() {
    for seed in 1..=6 {
        sim(seed, |time| async move {
            let cluster = Cluster::founded(time, Setup::new(seed, 3)).await;
            for key in 0..20 {
                let kv = cluster.kv(key % 3).unwrap();
                kv.put(id(&format!("k{key}")), "old".into(), WriteOptions::default()).await.unwrap();
            }
            let away = seed as usize % 3;
            let here = (away + 1) % 3;
            cluster.crash(away, Death::Killed);
            let down = || cluster.node(here).unwrap().status().members.iter().any(|member| member.state == "down");
            assert!(cluster.until(10 * SECOND, down).await);
            let view = cluster.node(here).unwrap().purge_bucket(bucket(), 10 * SECOND).await.unwrap();
            assert_eq!((view.generation, view.waits_for.len()), (1, 1), "it waits for who is away, and is answered");
            for key in 0..20 {
                let name = format!("k{key}");
                let read = get(&cluster, (away + 1 + key % 2) % 3, &name, Level::Quorum).await.unwrap();
                assert_eq!(value(&read), None, "{name}");
                if key % 2 == 0 {
                    let kv = cluster.kv(here).unwrap();
                    kv.put(id(&name), "new".into(), WriteOptions::default()).await.unwrap();
                }
            }
            cluster.start(away).await.unwrap();
            assert!(cluster.until_well(60 * SECOND).await, "{:?}", cluster.ills());
            complete(&cluster).await;
            for key in 0..20 {
                for at in 0..3 {
                    let read = get(&cluster, at, &format!("k{key}"), Level::All).await.unwrap();
                    assert_eq!(value(&read).as_deref(), (key % 2 == 0).then_some("new"), "k{key} at n{at}");
                }
            }
            let gone = || copies(&cluster).len() == 10;
            assert!(cluster.until(60 * SECOND, gone).await, "seed {seed}: {:?}", copies(&cluster));
            cluster.end();
        });
    }
}

fn proofs(cluster: &Cluster) -> u64 {
    (0..cluster.len()).map(|at| cluster.node(at).unwrap().metrics().replica.rollback_proofs.get()).sum()
}

/// A context of before the purge covers nothing of what is there after it, and proves nothing about those who minted what
/// it names: they have not forgotten it, it was emptied.
#[test]
fn a_context_from_before_a_purge_proves_nothing_and_covers_nothing() {
    for seed in 1..=6 {
        sim(seed, |time| async move {
            let cluster = Cluster::founded(time, Setup::new(seed, 3)).await;
            let mut contexts = Vec::new();
            for key in 0..9 {
                let kv = cluster.kv(key % 3).unwrap();
                kv.put(id(&format!("k{key}")), "old".into(), WriteOptions::default()).await.unwrap();
                contexts.push(get(&cluster, key % 3, &format!("k{key}"), Level::Quorum).await.unwrap().context);
            }
            cluster.node(0).unwrap().purge_bucket(bucket(), 10 * SECOND).await.unwrap();
            complete(&cluster).await;
            for (key, context) in contexts.into_iter().enumerate() {
                let name = format!("k{key}");
                if key % 2 == 0 {
                    let kv = cluster.kv((key + 1) % 3).unwrap();
                    kv.put(id(&name), "first".into(), WriteOptions::default()).await.unwrap();
                }
                let options = WriteOptions { context: Some(context), ..WriteOptions::default() };
                // By whom it was minted, by whom it was not, and by handing over.
                cluster.kv((key / 3) % 3).unwrap().put(id(&name), "second".into(), options).await.unwrap();
                let read = get(&cluster, 2, &name, Level::All).await.unwrap();
                let mut held: Vec<_> = read.siblings.iter().map(|s| s.value.as_ref().unwrap().bytes.clone()).collect();
                held.sort();
                assert_eq!(held, if key % 2 == 0 { vec!["first", "second"] } else { vec!["second"] }, "{name}");
                let options = WriteOptions { context: Some(read.context), ..WriteOptions::default() };
                cluster.kv(key % 3).unwrap().put(id(&name), "third".into(), options).await.unwrap();
                let read = get(&cluster, 1, &name, Level::All).await.unwrap();
                assert_eq!(value(&read).as_deref(), Some("third"), "a context of now does cover");
            }
            assert_eq!(proofs(&cluster), 0, "seed {seed}");
            cluster.end();
        });
    }
}

/// Writes without pause while the bucket is emptied again and again: what was acknowledged before a purge was asked for
/// never shows after it was answered, whatever was under way meanwhile, and nobody is taken for rolled back.
#[test]
fn writes_under_way_while_a_bucket_is_emptied_bring_nothing_back() {
    for seed in 1..=6 {
        sim(seed, |time| async move {
            let cluster = Cluster::founded(time, Setup::new(seed, 3)).await;
            // One hears of everything late: what it coordinates meanwhile is minted under what was before.
            let late = seed as usize % 3;
            let slow = Duration::from_millis(300);
            for other in (0..3).filter(|other| *other != late) {
                let link = Link { delay_min: slow / 3, delay_max: slow, ..Link::default() };
                cluster.net().set_link(&cluster.address(other), &cluster.address(late), Some(link));
            }
            let (over, writes) = (Cell::new(false), Cell::new(0));
            let acked = RefCell::new(BTreeSet::<String>::new());
            let client = async |client: usize| {
                let mut step = 0;
                while !over.get() {
                    step += 1;
                    let text = format!("{client}-{step}");
                    // Blind, so that values pile up where they can.
                    let kv = cluster.kv((client + step) % 3).unwrap();
                    if kv.put(id("hot"), text.clone().into(), WriteOptions::default()).await.is_ok() {
                        acked.borrow_mut().insert(text);
                    }
                    writes.set(writes.get() + 1);
                    time.sleep(Duration::from_millis(1)).await;
                }
            };
            let purges = async {
                for turn in 0..8 {
                    time.sleep(Duration::from_millis(300)).await;
                    let before = acked.borrow().clone();
                    cluster.node(turn % 3).unwrap().purge_bucket(bucket(), 30 * SECOND).await.unwrap();
                    for wait in [Duration::ZERO, 2 * slow, 2 * slow] {
                        time.sleep(wait).await;
                        for at in 0..3 {
                            // Patient: what goes to the late one and back takes its time.
                            let options = ReadOptions { timeout: 20 * SECOND, ..ReadOptions::default() };
                            let read = cluster.kv(at).unwrap().get(id("hot"), options).await.unwrap();
                            for value in read.siblings.iter().filter_map(|sibling| sibling.value.as_ref()) {
                                let text = std::str::from_utf8(&value.bytes).unwrap();
                                assert!(
                                    !before.contains(text),
                                    "seed {seed}: {text} was emptied, and is there at n{at}"
                                );
                            }
                        }
                    }
                    complete(&cluster).await;
                }
                over.set(true);
            };
            tokio::join!(purges, client(0), client(1), client(2), client(3));
            assert!(writes.get() > 1000, "there was load: {}", writes.get());
            assert_eq!(proofs(&cluster), 0, "seed {seed}");
            cluster.end();
        });
    }
}

/// Settings are acknowledged by a majority, survive the crash of all, and reach whoever was away by gossip; a change by
/// a node whose clock is behind wins all the same.
#[test]
fn settings_that_were_acknowledged_win_and_reach_everybody() {
    for seed in 1..=6 {
        sim(seed, |time| async move {
            let cluster = Cluster::founded(time, Setup::new(seed, 5)).await;
            set(&cluster, 0, json!({"max_siblings": 7})).await.unwrap();
            complete(&cluster).await;
            cluster.crash(4, Death::Killed);
            time.sleep(2 * SECOND).await;
            set(&cluster, 1, json!({"max_siblings": 8, "w": "all"})).await.unwrap();
            set(&cluster, 2, json!({"max_siblings": 9})).await.unwrap();
            for at in 0..4 {
                cluster.crash(at, Death::Killed);
            }
            for at in 0..5 {
                cluster.start(at).await.unwrap();
            }
            assert!(cluster.until_well(60 * SECOND).await, "{:?}", cluster.ills());
            let view = complete(&cluster).await;
            assert_eq!((view.max_siblings, &*view.w), (9, "quorum"));

            // A minority neither changes them nor says that it did.
            let names: Vec<String> = (0..5).map(|at| cluster.address(at)).collect();
            cluster.net().partition(&[&names[0], &names[1]], &[&names[2], &names[3], &names[4]]);
            time.sleep(5 * SECOND).await;
            let wish: BucketWish = serde_json::from_value(json!({"max_siblings": 3})).unwrap();
            let any = Guard { matches: Some("*".into()), absent: false };
            let refused = cluster.node(0).unwrap().set_bucket(bucket(), wish, any, 2 * SECOND).await.unwrap_err();
            assert_eq!(refused.outcome, Outcome::NotApplied, "{refused:?}");
            set(&cluster, 3, json!({"max_siblings": 11})).await.unwrap();
            cluster.net().heal();
            assert!(cluster.until_well(60 * SECOND).await, "{:?}", cluster.ills());
            assert_eq!(complete(&cluster).await.max_siblings, 11);
            cluster.end();
        });
    }
}

/// Both sides of a cut write the same keys in `lww`: afterwards all replicas hold one value of each, the one with the
/// greatest stamp, and no reader ever saw siblings.
#[test]
fn in_lww_both_sides_of_a_cut_come_together_on_the_latest() {
    for seed in 1..=6 {
        sim(seed, |time| async move {
            let cluster = Cluster::founded(time, Setup::new(seed, 3)).await;
            set(&cluster, 0, json!({"mode": "lww", "w": 1})).await.unwrap();
            complete(&cluster).await;
            let names: Vec<String> = (0..3).map(|at| cluster.address(at)).collect();
            cluster.net().partition(&[&names[0]], &[&names[1], &names[2]]);
            let mut latest = BTreeMap::new();
            let mut sides = [0; 2];
            for step in 0..60u64 {
                let (key, at) = (format!("k{}", step % 5), ((step + seed) % 3) as usize);
                let options = WriteOptions { w: Level::One, return_body: true, ..WriteOptions::default() };
                let kv = cluster.kv(at).unwrap();
                if let Ok(written) = kv.put(id(&key), step.to_string().into(), options).await {
                    sides[usize::from(at > 0)] += 1;
                    let [only] = &written.siblings.unwrap()[..] else { panic!("siblings in `lww`") };
                    let stamped = (only.dot.stamp, only.dot.actor, step.to_string());
                    let known = latest.entry(key).or_insert_with(|| stamped.clone());
                    *known = stamped.max(known.clone());
                }
                time.sleep(Duration::from_millis(50)).await;
            }
            assert!(sides[0] > 5 && sides[1] > 5, "both sides wrote: {sides:?}");
            cluster.net().heal();
            assert!(cluster.until_well(60 * SECOND).await, "{:?}", cluster.ills());
            for (key, (.., last)) in &latest {
                for at in 0..3 {
                    let read = get(&cluster, at, key, Level::All).await.unwrap();
                    assert_eq!(value(&read).as_ref(), Some(last), "seed {seed}: {key} at n{at}");
                }
            }
            let same = || {
                let audits: Vec<_> = (0..3).map(|at| cluster.audit(at)).collect();
                audits.iter().all(|audit| audit.wrong.is_empty() && audit.records == audits[0].records)
            };
            assert!(cluster.until(20 * SECOND, same).await, "seed {seed}: the replicas differ");
            cluster.end();
        });
    }
}

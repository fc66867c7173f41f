//! Values that expire: always read before their time, never after; gone from the disk an hour later, on every node by
//! itself; and nothing that they superseded comes back.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate::env::Clock as _;
use quorate::kv::{BucketAdmin as _, Guard, Lifetime, ReadAnswer, ReadOptions, RepairMode, WriteOptions};
use quorate::quorum::Level;
use quorate::sim::cluster::{Cluster, Setup, Wraps};
use quorate::sim::net::{Death, Link};
use quorate::sim::time::{self, SimTime};
use quorate::storage::Durability;
use quorate::types::{Bucket, Key, ObjectId};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// As far as clocks in a simulation differ from each other, and a request is on its way.
const SLACK: u64 = 250;

fn sim<F: Future<Output = ()>>(seed: u64, body: impl FnOnce(SimTime) -> F) {
    time::run(seed, body).unwrap();
}

fn id(key: &str) -> ObjectId {
    ObjectId::new(Bucket::new("expiry").unwrap(), Key::new(key.to_owned()).unwrap())
}

fn value(answer: &ReadAnswer) -> Option<&[u8]> {
    answer.siblings.first().map(|sibling| &sibling.value.as_ref().expect("nobody deletes here").bytes[..])
}

async fn put(cluster: &Cluster, at: usize, key: &str, text: &str, ttl: Lifetime) -> Option<u64> {
    let kv = cluster.kv(at).unwrap();
    let seen = kv.get(id(key), ReadOptions::default()).await.ok()?;
    let context = Some(seen.context);
    let options = WriteOptions { ttl, context, return_body: true, ..WriteOptions::default() };
    let written = kv.put(id(key), text.to_owned().into(), options).await.ok()?;
    let [only] = &written.siblings.as_ref().unwrap()[..] else { panic!("one client writes a key") };
    Some(only.expires_at.map_or(u64::MAX, |at| at.0))
}

async fn get(cluster: &Cluster, at: usize, key: &str, repair: RepairMode) -> ReadAnswer {
    let options = ReadOptions { r: Level::Quorum, repair: Some(repair), ..ReadOptions::default() };
    cluster.kv(at).unwrap().get(id(key), options).await.unwrap()
}

fn records(cluster: &Cluster) -> usize {
    (0..cluster.len())
        .map(|at| {
            let audit = cluster.audit(at);
            assert_eq!(audit.wrong, [""; 0], "n{at}: leaves, index and records agree");
            audit.records.len()
        })
        .sum()
}

fn dropped_by(cluster: &Cluster, at: usize) -> u64 {
    cluster.node(at).unwrap().metrics().replica.expired.get()
}

fn dropped(cluster: &Cluster) -> u64 {
    (0..cluster.len()).map(|at| dropped_by(cluster, at)).sum()
}

/// Ten minutes in which values expire all the time, read through every node without repair, so that what one has dropped is
/// not brought back by readers; then two hours, and nothing is left.
#[test]
fn values_are_read_until_they_expire_and_never_after() {
    for seed in 1..=4 {
        sim(seed, |time| async move {
            let setup = Setup { durability: Durability::Os, ..Setup::new(seed, 3) };
            let cluster = Cluster::founded(time, setup).await;
            let mut written = BTreeMap::new();
            for step in 0..600_u64 {
                let key = format!("k{}", step % 150);
                let ttl = Lifetime::For(SECOND * (5 + (step as u32 * 7) % 120));
                let at = (step % 3) as usize;
                let expires = put(&cluster, at, &key, &step.to_string(), ttl).await.unwrap();
                written.insert(key, (step, expires));
                time.sleep(SECOND).await;
                for back in [1, 40, 90, 140] {
                    let Some(step) = step.checked_sub(back) else { continue };
                    let key = format!("k{}", step % 150);
                    let (last, expires) = written[&key];
                    let at = (step % 3) as usize;
                    let asked = cluster.clock(at);
                    let before = asked.wall().0;
                    let read = get(&cluster, at, &key, RepairMode::Off).await;
                    let after = asked.wall().0;
                    match value(&read) {
                        Some(found) => {
                            assert_eq!(found, last.to_string().as_bytes(), "{key}");
                            assert!(before <= expires, "{key} expired at {expires}, and was read at {before}");
                        }
                        None => {
                            assert!(after + SLACK >= expires, "{key} expires at {expires}, and was gone at {after}")
                        }
                    }
                }
            }
            time.sleep(130 * MINUTE).await;
            assert_eq!(records(&cluster), 0, "seed {seed}: what has expired is gone from every disk");
            assert!(dropped(&cluster) >= 3 * 150, "each owner by itself");
            for key in written.keys() {
                assert_eq!(value(&get(&cluster, 0, key, RepairMode::Sync).await), None);
            }
            assert_eq!(records(&cluster), 0, "and reading brings nothing back");
            cluster.end();
        });
    }
}

/// An owner misses the overwrite with a TTL, and comes back after that has expired and was dropped elsewhere: the value
/// that was overwritten, which never expires, stays overwritten.
#[test]
fn what_was_overwritten_with_a_ttl_does_not_come_back_when_that_has_passed() {
    for seed in 1..=4 {
        sim(seed, |time| async move {
            let cluster = Cluster::founded(time, Setup::new(seed, 3)).await;
            for key in 0..20 {
                put(&cluster, 0, &format!("k{key}"), "for ever", Lifetime::Unsaid).await.unwrap();
            }
            time.sleep(SECOND).await;
            cluster.crash(2, Death::Killed);
            time.sleep(6 * SECOND).await;
            for key in 0..20 {
                put(&cluster, 0, &format!("k{key}"), "a minute", Lifetime::For(MINUTE)).await.unwrap();
            }
            time.sleep(150 * MINUTE).await;
            cluster.start(2).await.unwrap();
            assert!(cluster.until_well(MINUTE).await, "{:?}", cluster.ills());
            assert!(records(&cluster) >= 60, "what superseded something for ever is kept: nobody else would know");
            for at in [2, 0, 1] {
                for key in 0..20 {
                    let read = get(&cluster, at, &format!("k{key}"), RepairMode::Sync).await;
                    assert_eq!(value(&read), None, "seed {seed}: k{key} at n{at}");
                }
            }
            cluster.end();
        });
    }
}

/// A state that was held up for hours, of an object that has been dropped everywhere, changes nothing for readers and goes
/// again; a write after the drop stands.
#[test]
fn a_late_frame_of_what_was_dropped_goes_again() {
    for seed in 1..=4 {
        sim(seed, |time| async move {
            let cluster = Cluster::new(time, Setup { hints: false, ..Setup::new(seed, 3) });
            // Nobody else brings n2 what it misses.
            (0..3).for_each(|at| cluster.tell(at, |config| config.node.repair_interval = 24 * 60 * MINUTE));
            cluster.start_all().await;
            assert!(cluster.until_well(MINUTE).await);
            // The comparisons that follow a start are over.
            time.sleep(2 * MINUTE).await;
            // Writes of n0 reach n2 three hours later.
            let (from, to) = (cluster.address(0), cluster.address(2));
            let late = Link { delay_min: 180 * MINUTE, delay_max: 180 * MINUTE, ..Link::default() };
            cluster.net().set_link(&from, &to, Some(late));
            for key in 0..10 {
                // n0 hears n2 and takes it for up, so a read may wait for it in vain.
                while put(&cluster, 0, &format!("k{key}"), "old", Lifetime::For(MINUTE)).await.is_none() {}
            }
            time.sleep(150 * MINUTE).await;
            cluster.net().set_link(&from, &to, None);
            assert_eq!(records(&cluster), 0);
            assert_eq!(dropped_by(&cluster, 2), 0, "n2 has not heard of any of them yet");
            for key in 0..5 {
                put(&cluster, 1, &format!("k{key}"), "new", Lifetime::Unsaid).await.unwrap();
            }
            time.sleep(60 * MINUTE).await;
            for at in 0..3 {
                for key in 0..10 {
                    let read = get(&cluster, at, &format!("k{key}"), RepairMode::Sync).await;
                    assert_eq!(value(&read), (key < 5).then_some(&b"new"[..]), "seed {seed}: k{key} at n{at}");
                }
            }
            time.sleep(120 * MINUTE).await;
            assert_eq!(records(&cluster), 15, "the new ones alone");
            assert!(dropped_by(&cluster, 2) > 0, "seed {seed}: the late frames came, and went");
            cluster.end();
        });
    }
}

/// A bucket's own time holds where a request says nothing, and a request's goes before it.
#[test]
fn a_buckets_time_holds_where_a_request_says_nothing() {
    sim(1, |time| async move {
        let cluster = Cluster::founded(time, Setup::new(1, 3)).await;
        let wish = serde_json::from_str(r#"{"ttl": "30s"}"#).unwrap();
        let node = cluster.node(0).unwrap();
        let (view, _) = node.set_bucket(id("k").bucket, wish, Guard::default(), 30 * SECOND).await.unwrap();
        assert_eq!(view.ttl.as_deref(), Some("30s"));
        time.sleep(5 * SECOND).await;
        for (key, ttl) in [("own", Lifetime::For(MINUTE)), ("bucket", Lifetime::Unsaid), ("never", Lifetime::Forever)] {
            put(&cluster, 1, key, "v", ttl).await.unwrap();
        }
        let mut there = Vec::new();
        for _ in 0..3 {
            time.sleep(25 * SECOND).await;
            for key in ["own", "bucket", "never"] {
                there.push(value(&get(&cluster, 2, key, RepairMode::Sync).await).is_some());
            }
        }
        assert_eq!(there, [true, true, true, true, false, true, false, false, true]);
        cluster.end();
    });
}

fn proofs(cluster: &Cluster) -> u64 {
    (0..cluster.len()).map(|at| cluster.node(at).unwrap().metrics().replica.rollback_proofs.get()).sum()
}

/// Keys that expire are written again while owners drop, each at another moment: blind, with what a 404 gave, with a context
/// from before the drop, through owners that have dropped and such that have not. No owner takes what it dropped for a
/// sign that its directory went back, nothing new is lost, nothing old comes back.
#[test]
fn writes_meet_drops() {
    for seed in 1..=4 {
        assert_eq!(proofs_where_writes_meet_drops(seed, Wraps::default()), 0, "seed {seed}");
    }
    let planted = Wraps { broken: Some("a drop raises the floor"), ..Wraps::default() };
    let taken = (1..=4).any(|seed| proofs_where_writes_meet_drops(seed, planted.clone()) > 0);
    assert!(taken, "without the floor a drop looks like a directory that went back");
}

fn proofs_where_writes_meet_drops(seed: u64, wraps: Wraps) -> u64 {
    time::run(seed, |time| async move {
        let sound = wraps.broken.is_none();
        let cluster = Cluster::founded(time, Setup { wraps, ..Setup::new(seed, 3) }).await;
        let mut contexts = Vec::new();
        for key in 0..60 {
            put(&cluster, key % 3, &format!("k{key}"), "old", Lifetime::For(MINUTE)).await.unwrap();
            contexts.push(get(&cluster, 0, &format!("k{key}"), RepairMode::Sync).await.context);
        }
        // Until the first of the owners has begun to drop.
        let until = 3 * 60 * MINUTE;
        assert!(cluster.until(until, || dropped(&cluster) > 0).await, "nobody drops");
        let at_first = dropped(&cluster);
        for (key, context) in contexts.into_iter().enumerate() {
            let (name, at) = (format!("k{key}"), key % 3);
            let context = match key % 4 {
                0 => None,
                1 => Some(context),
                _ => Some(get(&cluster, (key + 1) % 3, &name, RepairMode::Off).await.context),
            };
            let options = WriteOptions { context, ..WriteOptions::default() };
            let written = cluster.kv(at).unwrap().put(id(&name), "new".to_owned().into(), options).await;
            if sound {
                let siblings = written.unwrap().sibling_count;
                assert_eq!(siblings, 1, "seed {seed}: {name}: what has expired is nobody's sibling");
            }
            time.sleep(3 * SECOND).await;
        }
        assert!(dropped(&cluster) > at_first, "others dropped meanwhile");
        time.sleep(60 * MINUTE).await;
        for (at, key) in (0..3).flat_map(|at| (0..60).map(move |key| (at, key))).filter(|_| sound) {
            let read = get(&cluster, at, &format!("k{key}"), RepairMode::Sync).await;
            assert_eq!(value(&read), Some(&b"new"[..]), "seed {seed}: k{key} at n{at}");
        }
        let proofs = proofs(&cluster);
        cluster.end();
        proofs
    })
    .unwrap()
}

/// Whoever reads "not found" and writes again, over and over, never meets siblings that nobody can see.
#[test]
fn what_has_expired_is_never_in_the_way() {
    sim(1, |time| async move {
        let cluster = Cluster::founded(time, Setup::new(1, 3)).await;
        for round in 0..200_usize {
            let kv = cluster.kv(round % 3).unwrap();
            let seen = kv.get(id("k"), ReadOptions::default()).await.unwrap();
            assert_eq!(seen.siblings.len(), 0, "{round}");
            let ttl = Lifetime::For(10 * SECOND);
            let options = WriteOptions { ttl, context: Some(seen.context), ..WriteOptions::default() };
            let written = kv.put(id("k"), "v".to_owned().into(), options).await.unwrap();
            assert_eq!(written.sibling_count, 1, "{round}");
            assert!(written.context.is_some() && written.expires_at.is_some(), "{round}");
            // Past the time at which readers take the object for gone, once in a while.
            time.sleep(if round % 50 == 49 { 20 * MINUTE } else { 15 * SECOND }).await;
        }
        assert_eq!(proofs(&cluster), 0);
        cluster.end();
    });
}

/// A request that is repeated after what it wrote has expired is still one request.
#[test]
fn a_repeated_request_is_known_after_its_value_expired() {
    sim(1, |time| async move {
        let cluster = Cluster::founded(time, Setup::new(1, 3)).await;
        // So that the hour ends between the two.
        time.sleep(56 * MINUTE).await;
        let options = WriteOptions {
            ttl: Lifetime::For(5 * SECOND),
            idempotency_key: Some("once".into()),
            ..WriteOptions::default()
        };
        let write = async |at: usize| {
            cluster.kv(at).unwrap().put(id("k"), "v".to_owned().into(), options.clone()).await.unwrap()
        };
        assert!(!write(0).await.replayed);
        for at in [1, 2, 0] {
            time.sleep(3 * MINUTE).await;
            assert!(write(at).await.replayed, "n{at} did it again");
            assert_eq!(value(&get(&cluster, at, "k", RepairMode::Sync).await), None);
        }
        cluster.end();
    });
}

/// A node whose clock is a day off writes for its clients by the clocks of others, shows what they show, and drops nothing.
#[test]
fn a_wrong_clock_has_no_say() {
    for (seed, by) in [(1, 86_400_000), (2, -86_400_000)] {
        sim(seed, |time| async move {
            let cluster = Cluster::founded(time, Setup::new(seed, 3)).await;
            put(&cluster, 0, "before", "v", Lifetime::For(20 * MINUTE)).await.unwrap();
            time.sleep(SECOND).await;
            cluster.clock(2).jump(by);
            time.sleep(5 * SECOND).await;
            put(&cluster, 2, "through it", "v", Lifetime::For(20 * MINUTE)).await.unwrap();
            for minute in 0..30 {
                for at in 0..3 {
                    for key in ["before", "through it"] {
                        let read = get(&cluster, at, key, RepairMode::Sync).await;
                        let there = value(&read).is_some();
                        assert_eq!(there, minute < 20, "{key} at n{at} after {minute} minutes, {by} ms off");
                    }
                }
                time.sleep(MINUTE).await;
            }
            assert_eq!(dropped_by(&cluster, 2), 0);
            cluster.end();
        });
    }
}

/// A node that nobody can confirm the clock of, and that is a day ahead, takes nothing out of the way: what it was not shown
/// to have expired stays beside what it writes.
#[test]
fn a_clock_that_nobody_confirms_takes_nothing_away() {
    for seed in 1..=4 {
        sim(seed, |time| async move {
            let cluster = Cluster::founded(time, Setup::new(seed, 3)).await;
            put(&cluster, 0, "k", "alive", Lifetime::For(60 * MINUTE)).await.unwrap();
            time.sleep(SECOND).await;
            let names: Vec<String> = (0..3).map(|at| cluster.address(at)).collect();
            cluster.net().partition(&[&names[2]], &[&names[0], &names[1]]);
            if seed % 2 == 0 {
                time.sleep(20 * SECOND).await;
            }
            cluster.clock(2).jump(86_400_000);
            let options = WriteOptions { w: Level::One, ..WriteOptions::default() };
            let blind = cluster.kv(2).unwrap().put(id("k"), "beside".to_owned().into(), options).await.unwrap();
            assert_eq!(blind.sibling_count, 2, "seed {seed}");
            cluster.clock(2).correct();
            cluster.net().heal();
            time.sleep(2 * MINUTE).await;
            let read = get(&cluster, 0, "k", RepairMode::Sync).await;
            assert_eq!(read.siblings.len(), 2, "seed {seed}: a value was taken away that has not expired");
            cluster.end();
        });
    }
}

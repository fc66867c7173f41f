//! Values that expire: always read before their time, never after; gone from the disk an hour later, on every node by
//! itself; and nothing that they superseded comes back.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate::env::Clock as _;
use quorate::kv::{BucketAdmin as _, Guard, Lifetime, ReadAnswer, ReadOptions, RepairMode, WriteOptions};
use quorate::quorum::Level;
use quorate::sim::cluster::{Cluster, Setup};
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
            let cluster = Cluster::founded(time, Setup::new(seed, 3)).await;
            // Writes of n0 reach n2 three hours later.
            let (from, to) = (cluster.address(0), cluster.address(2));
            let late = Link { delay_min: 180 * MINUTE, delay_max: 180 * MINUTE, ..Link::default() };
            cluster.net().set_link(&from, &to, Some(late));
            for key in 0..10 {
                // n0 hears n2 and takes it for up, so a read may wait for it in vain.
                while put(&cluster, 0, &format!("k{key}"), "old", Lifetime::For(MINUTE)).await.is_none() {}
            }
            cluster.net().set_link(&from, &to, None);
            time.sleep(150 * MINUTE).await;
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

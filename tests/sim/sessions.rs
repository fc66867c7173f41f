//! Session floors on whole clusters (I-SESSION): what one replica acknowledged is found through whatever node, or the
//! answer is that it cannot be told; what nobody has any more makes no session fail. And planted bugs: each rule of the
//! judge `session` finds the one that breaks it.

use std::sync::Arc;
use std::time::Duration;

use quorate::env::BoxFuture;
use quorate::kv::{
    BucketAdmin as _, Error, ErrorCode, FloorToken, KeyPage, Kv, Lifetime, ListOptions, Outcome, ReadAnswer,
    ReadOptions, Value, WriteAnswer, WriteOptions,
};
use quorate::node::Node;
use quorate::quorum::Level;
use quorate::sim::cluster::{Cluster, Keys, Setup, Wraps};
use quorate::sim::drive::{Options, Variety, run};
use quorate::sim::faults::Kind;
use quorate::sim::layouts::settled;
use quorate::sim::net::{Death, Link};
use quorate::sim::workload::Decode as _;
use quorate::types::{Bucket, ObjectId};

use crate::sloppy::{SECOND, id, lose, places, put as put_sloppily, returns, serving, sim, values};

fn one() -> ReadOptions {
    ReadOptions { r: Level::One, explain: true, ..ReadOptions::default() }
}

async fn put(cluster: &Cluster, at: usize, value: &str, floor: Option<FloorToken>) -> Result<WriteAnswer, Error> {
    let options = WriteOptions { w: Level::One, floor, return_body: true, ..WriteOptions::default() };
    cluster.kv(at).unwrap().put(id("k"), value.to_owned().into(), options).await
}

async fn read(cluster: &Cluster, at: usize, floor: Option<FloorToken>) -> Result<ReadAnswer, Error> {
    cluster.kv(at).unwrap().get(id("k"), ReadOptions { floor, ..one() }).await
}

/// What `from` sends to these does not come for a long while.
fn mute(cluster: &Cluster, from: usize, to: &[usize]) {
    let never = Link { delay_min: 3_600 * SECOND, delay_max: 3_600 * SECOND, reorder: 1.0, ..Link::default() };
    for to in to {
        cluster.net().set_link(&cluster.address(from), &cluster.address(*to), Some(never.clone()));
    }
}

/// A write that lies on one node alone, the first of three, and the answer to it. From then on the others hear that one.
async fn written_on_one(cluster: &Cluster) -> WriteAnswer {
    put(cluster, 0, "before", None).await.unwrap();
    cluster.time().sleep(SECOND).await;
    mute(cluster, 0, &[1, 2]);
    let wrote = put(cluster, 0, "mine", None).await.unwrap();
    for to in [1, 2] {
        cluster.net().set_link(&cluster.address(0), &cluster.address(to), None);
    }
    wrote
}

#[test]
fn a_floor_finds_what_one_replica_alone_has() {
    for seed in 1..=4 {
        sim(seed, |time| async move {
            let cluster = Cluster::founded(time, Setup { hints: false, ..Setup::new(seed, 3) }).await;
            let wrote = written_on_one(&cluster).await;
            for at in [1, 2] {
                let options = ReadOptions { repair: Some(quorate::kv::RepairMode::Off), ..one() };
                let kv = cluster.kv(at).unwrap();
                let stale = kv.get(id("k"), options.clone()).await.unwrap();
                assert_eq!(values(&stale), ["before"], "without a floor n{at} says what it has");
                assert!(!stale.explain.unwrap().widened);
                let floor = Some(wrote.floor.clone());
                let found = kv.get(id("k"), ReadOptions { floor, ..options }).await.unwrap();
                assert_eq!(values(&found), ["before", "mine"]);
                assert!(found.explain.unwrap().widened, "and it says why it asked everybody");
                assert_eq!(cluster.node(at).unwrap().metrics().sessions.widened.get(), 1);
            }
            cluster.end();
        });
    }
}

#[test]
fn a_write_with_a_floor_is_made_on_what_its_session_has_seen() {
    for seed in 1..=4 {
        sim(seed, |time| async move {
            let cluster = Cluster::founded(time, Setup { hints: false, ..Setup::new(seed, 3) }).await;
            let wrote = written_on_one(&cluster).await;
            let blind = put(&cluster, 1, "blind", None).await.unwrap();
            assert_eq!(blind.sibling_count, 2, "beside what that node has");
            let after = put(&cluster, 2, "after", Some(wrote.floor.clone())).await.unwrap();
            let shown = values(&ReadAnswer {
                siblings: after.siblings.unwrap(),
                ..read(&cluster, 2, Some(after.floor.clone())).await.unwrap()
            });
            assert!(shown.contains(&"mine".to_owned()) && shown.contains(&"after".to_owned()), "{shown:?}");
            let (seen, before) =
                (Keys::default().floor(&id("k"), &after.floor), Keys::default().floor(&id("k"), &wrote.floor));
            assert!(seen.unwrap().covers_all(&before.unwrap()));
            cluster.end();
        });
    }
}

#[test]
fn who_alone_has_it_and_cannot_be_asked_is_waited_for_and_nothing_older_is_shown() {
    for seed in 1..=4 {
        sim(seed, |time| async move {
            let cluster = Cluster::founded(time, Setup { hints: false, ..Setup::new(seed, 3) }).await;
            let wrote = written_on_one(&cluster).await;
            let (alone, rest) = (cluster.address(0), [cluster.address(1), cluster.address(2)]);
            cluster.net().partition(&[&alone], &[&rest[0], &rest[1]]);
            let unmet = read(&cluster, 1, Some(wrote.floor.clone())).await.unwrap_err();
            assert_eq!(unmet.code, ErrorCode::SessionUnmet, "{unmet:?}");
            let unwritten = put(&cluster, 2, "after", Some(wrote.floor.clone())).await.unwrap_err();
            assert_eq!((unwritten.code, unwritten.outcome), (ErrorCode::SessionUnmet, Outcome::NotApplied));
            // One that has the time waits until it can be asked.
            let options = ReadOptions { floor: Some(wrote.floor.clone()), timeout: 30 * SECOND, ..one() };
            let kv = cluster.kv(1).unwrap();
            let waits = kv.get(id("k"), options);
            let heals = async {
                time.sleep(5 * SECOND).await;
                cluster.net().heal();
            };
            let (found, ()) = futures_util::future::join(waits, heals).await;
            let found = found.unwrap();
            assert!(values(&found).contains(&"mine".to_owned()), "{:?}", values(&found));
            assert!(!values(&found).contains(&"after".to_owned()), "what was refused was not written");
            cluster.end();
        });
    }
}

/// The only disk that had it is lost, and replaced: nobody has it any more, whether or not fallbacks count.
#[test]
fn what_is_lost_with_its_only_disk_fails_no_session_for_ever() {
    for seed in 1..=2 {
        sim(seed, |time| async move {
            let cluster = Cluster::founded(time, Setup { hints: false, ..Setup::new(seed, 3) }).await;
            let wrote = written_on_one(&cluster).await;
            cluster.crash(0, Death::Killed);
            cluster.disk(0, |disk| disk.wipe());
            cluster.start(0).await.unwrap();
            settled(&cluster, 120 * SECOND).await.unwrap_or_else(|why| panic!("{why}"));
            for sloppy in [false, true] {
                let options = ReadOptions { floor: Some(wrote.floor.clone()), sloppy, ..one() };
                let found = cluster.kv(1).unwrap().get(id("k"), options).await.unwrap();
                assert_eq!(values(&found), ["before"], "sloppy {sloppy}");
            }
            cluster.end();
        });
    }
}

#[test]
fn what_has_expired_everywhere_or_was_purged_makes_no_session_fail() {
    for seed in 1..=2 {
        sim(seed, |time| async move {
            let cluster = Cluster::founded(time, Setup::new(seed, 3)).await;
            let ttl = Lifetime::For(10 * SECOND);
            let options = WriteOptions { ttl, ..WriteOptions::default() };
            let wrote = cluster.kv(0).unwrap().put(id("k"), "soon gone".into(), options).await.unwrap();
            let records = || (0..3).map(|at| cluster.audit(at).records.len()).sum::<usize>();
            assert!(cluster.until(3 * 3_600 * SECOND, || records() == 0).await, "it is dropped everywhere");
            for at in 0..3 {
                let gone = read(&cluster, at, Some(wrote.floor.clone())).await.unwrap();
                assert_eq!(values(&gone), [""; 0]);
            }
            let gone = (0..3).map(|at| cluster.node(at).unwrap().metrics().sessions.gone.get()).sum::<u64>();
            assert_eq!(gone, 3);
            let after = put(&cluster, 1, "after", Some(wrote.floor.clone())).await.unwrap();
            assert_eq!(after.sibling_count, 1);
            // An emptied bucket: whatever is in it is newer than a floor from before.
            let bucket = Bucket::new("sloppy").unwrap();
            cluster.node(0).unwrap().purge_bucket(bucket, 10 * SECOND).await.unwrap();
            for at in 0..3 {
                let found = read(&cluster, at, Some(after.floor.clone())).await.unwrap();
                assert_eq!(values(&found), [""; 0]);
                assert!(!found.explain.unwrap().widened, "nobody is asked for it");
            }
            let anew = put(&cluster, 2, "anew", Some(after.floor)).await.unwrap();
            assert_eq!(values(&read(&cluster, 0, Some(anew.floor)).await.unwrap()), ["anew"]);
            cluster.end();
        });
    }
}

#[test]
fn what_a_fallback_keeps_for_an_owner_is_found_and_missed_aloud() {
    for seed in 1..=3 {
        sim(seed, |time| async move {
            let cluster = serving(time, Setup::new(seed, 5), |_, _| {}).await;
            let (owners, fallbacks) = places(&cluster, "k");
            lose(&cluster, &owners).await;
            let wrote = put_sloppily(&cluster, fallbacks[0], "k", "hinted", Level::Any, None).await.unwrap();
            // They hear, but what they keep comes to no owner.
            fallbacks.iter().for_each(|keeps| mute(&cluster, *keeps, &owners));
            for at in &owners {
                cluster.start(*at).await.unwrap();
            }
            let floor = || Some(wrote.floor.clone());
            let mut unmet = read(&cluster, owners[0], floor()).await;
            for _ in 0..60 {
                if unmet.as_ref().err().is_none_or(|error| error.code == ErrorCode::SessionUnmet) {
                    break;
                }
                time.sleep(SECOND).await;
                unmet = read(&cluster, owners[0], floor()).await;
            }
            let unmet = unmet.unwrap_err();
            assert_eq!(unmet.code, ErrorCode::SessionUnmet, "{unmet:?}");
            // It is not waited for by those who have not seen it.
            assert_eq!(values(&read(&cluster, owners[0], None).await.unwrap()), [""; 0]);
            for (keeps, at) in fallbacks.iter().flat_map(|keeps| owners.iter().map(move |at| (*keeps, *at))) {
                cluster.net().set_link(&cluster.address(keeps), &cluster.address(at), None);
            }
            let patient = ReadOptions { floor: floor(), timeout: 30 * SECOND, ..one() };
            let found = cluster.kv(owners[1]).unwrap().get(id("k"), patient).await.unwrap();
            assert_eq!(values(&found), ["hinted"]);
            returns(&cluster).await;
            cluster.end();
        });
    }
}

#[test]
fn a_floor_of_another_object_is_refused() {
    sim(1, |time| async move {
        let cluster = Cluster::founded(time, Setup::new(1, 3)).await;
        let wrote = put(&cluster, 0, "v", None).await.unwrap();
        let other = |floor: FloorToken| ReadOptions { floor: Some(floor), ..one() };
        let kv = cluster.kv(1).unwrap();
        let foreign = kv.get(id("other"), other(wrote.floor.clone())).await.unwrap_err();
        assert_eq!((foreign.code, foreign.outcome), (ErrorCode::BadFloor, Outcome::NotApplied));
        assert!(foreign.detail.contains("Quorate-Floor of an earlier answer"), "{}", foreign.detail);
        let context = FloorToken(wrote.context.unwrap().0);
        assert_eq!(kv.get(id("k"), other(context)).await.unwrap_err().code, ErrorCode::BadFloor);
        let garbage = WriteOptions { floor: Some(FloorToken("no floor".into())), ..WriteOptions::default() };
        assert_eq!(kv.put(id("k"), "w".into(), garbage).await.unwrap_err().code, ErrorCode::BadFloor);
        assert_eq!(values(&read(&cluster, 2, Some(wrote.floor)).await.unwrap()), ["v"]);
        cluster.end();
    });
}

// -- Planted bugs ----------------------------------------------------------------------------------------------------

/// Floors that clients send and nodes do not look at.
#[derive(Clone, Copy, PartialEq)]
enum Ignored {
    OfReads,
    OfWrites,
}

struct Deaf(Node, Ignored);

impl Deaf {
    fn hears(&self, mut options: WriteOptions) -> WriteOptions {
        options.floor = options.floor.filter(|_| self.1 != Ignored::OfWrites);
        options
    }
}

impl Kv for Deaf {
    fn get(&self, id: ObjectId, mut options: ReadOptions) -> BoxFuture<'_, Result<ReadAnswer, Error>> {
        options.floor = options.floor.filter(|_| self.1 != Ignored::OfReads);
        self.0.get(id, options)
    }

    fn put(&self, id: ObjectId, value: Value, options: WriteOptions) -> BoxFuture<'_, Result<WriteAnswer, Error>> {
        self.0.put(id, value, self.hears(options))
    }

    fn delete(&self, id: ObjectId, options: WriteOptions) -> BoxFuture<'_, Result<WriteAnswer, Error>> {
        self.0.delete(id, self.hears(options))
    }

    fn list(&self, bucket: Bucket, options: ListOptions) -> BoxFuture<'_, Result<KeyPage, Error>> {
        self.0.list(bucket, options)
    }
}

fn deaf(to: Ignored) -> Wraps {
    Wraps { kv: Some(Arc::new(move |node| Arc::new(Deaf(node, to)))), ..Wraps::default() }
}

/// What `session` judges. An answer that was too old gives an old floor, so what comes of one may break any of them.
const RULES: [&str; 3] = ["own-write-missed", "session-went-back", "write-before-read"];

/// Each of these rules is broken by one of 30 seeds, none but those of sessions by any, and none at all without the bug.
fn caught(name: &str, wraps: &Wraps, rules: &[&str]) {
    let mut left: Vec<&str> = rules.to_vec();
    for seed in 1..=30 {
        let mut options = Options::with(Variety::Sessions, seed, Duration::from_secs(30));
        options.profile.kinds = [Kind::Loss, Kind::OneWay, Kind::Partition, Kind::Crash].into_iter().collect();
        options.think = Duration::from_millis(80);
        options.wraps = wraps.clone();
        let found = run(&options).unwrap().violations;
        if let Some(odd) = found.iter().find(|it| !RULES.contains(&it.rule)) {
            panic!("{name}: seed {seed} breaks something else: {odd}");
        }
        if let Some(first) = found.iter().find(|violation| left.contains(&violation.rule)) {
            eprintln!("{name}: caught by seed {seed}: {first}");
            options.wraps = Wraps::default();
            assert_eq!(run(&options).unwrap().violations, [], "{name}: and without the bug all is well");
        }
        left.retain(|rule| found.iter().all(|violation| violation.rule != *rule));
        if left.is_empty() {
            return;
        }
    }
    panic!("{name}: nobody noticed: {left:?}");
}

#[test]
fn a_floor_that_reads_do_not_look_at_is_caught() {
    caught("deaf reads", &deaf(Ignored::OfReads), &["own-write-missed", "session-went-back"]);
}

#[test]
fn a_write_that_is_minted_on_what_its_coordinator_happens_to_hold_is_caught() {
    caught("deaf writes", &deaf(Ignored::OfWrites), &["write-before-read"]);
}

#[test]
fn a_read_that_does_not_widen_is_caught() {
    let narrow = Wraps { broken: Some("an unmet floor is looked for at every owner"), ..Wraps::default() };
    caught("it stops at R", &narrow, &RULES);
}

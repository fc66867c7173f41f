//! Lists of keys on whole clusters: complete and in order while nodes come and die; what is missing is named; what a quorum
//! has deleted is not listed by a quorum.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use quorate::kv::{
    Error, ErrorCode, KeyPage, Kv, Lifetime, ListCursor, ListOptions, NodeView as _, Pages, ReadOptions, RepairMode,
    WriteOptions,
};
use quorate::quorum::Level;
use quorate::ring::Layout;
use quorate::sim::cluster::{Cluster, Setup, Wraps};
use quorate::sim::net::Death;
use quorate::sim::time::{self, SimTime};
use quorate::types::{Bucket, Key, ObjectId};

const SECOND: Duration = Duration::from_secs(1);

fn sim<T, F: Future<Output = T>>(seed: u64, body: impl FnOnce(SimTime) -> F) -> T {
    time::run(seed, body).unwrap()
}

fn bucket() -> Bucket {
    Bucket::new("listed").unwrap()
}

fn id(key: &str) -> ObjectId {
    ObjectId::new(bucket(), Key::new(key.as_bytes().to_vec()).unwrap())
}

fn word(number: usize) -> String {
    format!("{}/{number:05}", ["a", "b", "c"][number % 3])
}

async fn put_all(kv: &Arc<dyn Kv>, keys: impl IntoIterator<Item = String>, w: Level) {
    let keys: Vec<String> = keys.into_iter().collect();
    for some in keys.chunks(64) {
        let put = |key: &String| {
            let options = WriteOptions { w, timeout: 5 * SECOND, ..WriteOptions::default() };
            kv.put(id(key), "v".into(), options)
        };
        for put in join_all(some.iter().map(put)).await {
            put.unwrap();
        }
    }
}

/// What a list tells of each key, and of gaps.
#[derive(Debug, Default, PartialEq)]
struct Told {
    keys: Vec<String>,
    gaps: BTreeSet<u32>,
}

impl Told {
    fn add(&mut self, page: &KeyPage) {
        self.keys.extend(page.keys.iter().map(|key| String::from_utf8_lossy(key.key.as_bytes()).into_owned()));
        self.gaps.extend(page.gaps.iter().flat_map(|gap| &gap.partitions));
    }

    /// In byte order, no key twice.
    fn check_order(&self) {
        for pair in self.keys.windows(2) {
            assert!(pair[0] < pair[1], "{} comes before {}", pair[0], pair[1]);
        }
    }
}

async fn list(kv: &Arc<dyn Kv>, options: ListOptions) -> Told {
    let mut told = Told::default();
    let mut pages = Pages::new(&**kv, bucket(), options);
    while let Some(page) = pages.next().await {
        told.add(&page.unwrap());
    }
    told.check_order();
    told
}

fn at(r: Level) -> ListOptions {
    ListOptions { r, limit: 70, ..ListOptions::default() }
}

/// While clients write, overwrite and delete, one node joins and another dies; each page is asked of another node.
#[test]
fn a_list_is_complete_and_in_order_while_a_node_joins_and_another_dies() {
    for seed in 1..=4 {
        sim(seed, |time| async move {
            let cluster = Cluster::founded(time, Setup::new(seed, 3)).await;
            let kv = cluster.kv(0).unwrap();
            let stays: Vec<String> = (0..3000).filter(|number| number % 4 != 0).map(word).collect();
            let comes: Vec<String> = (0..3000).filter(|number| number % 4 == 0).map(word).collect();
            put_all(&kv, stays.iter().cloned(), Level::All).await;
            let writes = async {
                for (at, some) in comes.chunks(25).enumerate() {
                    let kv = cluster.kv(at % 2).unwrap();
                    let write = async |key: &String, delete: bool| {
                        let options = WriteOptions { timeout: 2 * SECOND, ..WriteOptions::default() };
                        // It may fail while a node dies.
                        let _ = match delete {
                            true => kv.delete(id(key), options).await,
                            false => kv.put(id(key), "w".into(), options).await,
                        };
                    };
                    join_all(some.iter().map(|key| write(key, false))).await;
                    join_all(some.iter().step_by(2).map(|key| write(key, true))).await;
                    let again = stays.iter().skip(at * 7).step_by(97);
                    join_all(again.map(|key| write(key, false))).await;
                    time.sleep(Duration::from_millis(100)).await;
                }
            };
            let lists = async {
                let (mut told, mut cursor, mut pages) = (Told::default(), None::<ListCursor>, 0);
                loop {
                    let asked = [0, 1, 3].into_iter().cycle().skip(pages).find_map(|node| cluster.kv(node)).unwrap();
                    let options = ListOptions { limit: 100, cursor: cursor.clone(), ..ListOptions::default() };
                    let page = match asked.list(bucket(), options).await {
                        Ok(page) => page,
                        // It does not serve yet.
                        Err(error) if error.code == ErrorCode::NotServing => {
                            time.sleep(Duration::from_millis(20)).await;
                            pages += 1;
                            continue;
                        }
                        Err(error) => panic!("page {pages}: {error}"),
                    };
                    assert_eq!(page.gaps, [], "page {pages}: two of three owners are always there");
                    told.add(&page);
                    cursor = page.cursor;
                    pages += 1;
                    match pages {
                        4 => {
                            let machine = cluster.add_machine(None);
                            cluster.start(machine).await.unwrap();
                        }
                        12 => cluster.crash(2, Death::PowerCut),
                        _ => time.sleep(Duration::from_millis(200)).await,
                    }
                    if cursor.is_none() {
                        break;
                    }
                }
                told.check_order();
                told
            };
            let (told, ()) = futures_util::future::join(lists, writes).await;
            let keys: BTreeSet<&String> = told.keys.iter().collect();
            let missing: Vec<&String> = stays.iter().filter(|key| !keys.contains(key)).collect();
            assert_eq!(missing, Vec::<&String>::new(), "seed {seed}: these were there all the time");
            let all: BTreeSet<&String> = stays.iter().chain(&comes).collect();
            assert!(keys.is_subset(&all));
            cluster.end();
        });
    }
}

/// The partitions in which fewer than `need` of these machines own a copy.
fn without(layout: &Layout, cluster: &Cluster, alive: &[usize], need: usize) -> BTreeSet<u32> {
    let alive: BTreeSet<_> =
        alive.iter().map(|node| cluster.node(*node).unwrap().replica().identity().store()).collect();
    let settings = layout.settings(&bucket());
    let grid = layout.grid();
    let live = |partition| {
        let owners = layout.owners(partition, settings).flat_map(|(_, owners)| owners);
        owners.filter(|owner| alive.contains(&layout.member(**owner).store)).count()
    };
    grid.partitions().filter(|partition| live(*partition) < need).map(|partition| partition.0).collect()
}

/// Three of five nodes are down, two or three of the three owners of many partitions among them. What is wrong; nothing.
fn gaps_are_named(seed: u64, wraps: Wraps) -> Vec<String> {
    sim(seed, |time| async move {
        let cluster = Cluster::founded(time, Setup { wraps, ..Setup::new(seed, 5) }).await;
        let kv = cluster.kv(0).unwrap();
        let keys: BTreeSet<String> = (0..400).map(word).collect();
        put_all(&kv, keys.iter().cloned(), Level::All).await;
        let layout = cluster.node(0).unwrap().layouts().newest().unwrap();
        (2..5).for_each(|node| cluster.crash(node, Death::Killed));
        let down = |node: usize| {
            let members = cluster.node(node).unwrap().status().members;
            members.iter().filter(|member| member.state == "down").count()
        };
        assert!(cluster.until(30 * SECOND, || [0, 1].into_iter().all(|node| down(node) == 3)).await);
        let mut wrong = Vec::new();
        for (r, need) in [(Level::One, 1), (Level::Quorum, 2), (Level::All, 3)] {
            let gaps = without(&layout, &cluster, &[0, 1], need);
            assert!(!gaps.is_empty(), "seed {seed}: every partition has {need} live owners");
            let there: BTreeSet<String> = keys
                .iter()
                .filter(|key| !gaps.contains(&layout.grid().partition(id(key).token()).0))
                .cloned()
                .collect();
            for node in [0, 1] {
                let told = list(&cluster.kv(node).unwrap(), at(r)).await;
                if told.gaps != gaps {
                    wrong.push(format!("at {r} through n{node} the gaps are {gaps:?}, told are {:?}", told.gaps));
                }
                if told.keys.iter().cloned().collect::<BTreeSet<_>>() != there {
                    wrong.push(format!("at {r} through n{node} {} keys, not {}", told.keys.len(), there.len()));
                }
            }
        }
        // Those that were down come back, and so do their keys.
        for node in 2..5 {
            cluster.start(node).await.unwrap();
        }
        assert!(cluster.until_well(60 * SECOND).await, "{:?}", cluster.ills());
        let told = list(&cluster.kv(1).unwrap(), at(Level::Quorum)).await;
        if told != (Told { keys: keys.into_iter().collect(), gaps: BTreeSet::new() }) {
            wrong.push(format!("once all are back {} keys are told, and gaps {:?}", told.keys.len(), told.gaps));
        }
        cluster.end();
        wrong
    })
}

#[test]
fn exactly_the_partitions_that_too_few_live_nodes_own_are_gaps() {
    for seed in 1..=3 {
        assert_eq!(gaps_are_named(seed, Wraps::default()), Vec::<String>::new(), "seed {seed}");
    }
}

#[test]
fn a_gap_that_is_left_out_in_silence_is_caught() {
    let plant = Wraps { broken: Some("a gap is told"), ..Wraps::default() };
    let wrong = gaps_are_named(1, plant);
    assert!(wrong.iter().any(|wrong| wrong.contains("told are {}")), "nobody noticed: {wrong:?}");
}

#[test]
fn with_two_of_three_down_one_answers_for_all_and_a_quorum_for_nothing() {
    sim(7, |time| async move {
        let cluster = Cluster::founded(time, Setup::new(7, 3)).await;
        put_all(&cluster.kv(0).unwrap(), (0..60).map(word), Level::All).await;
        [1, 2].into_iter().for_each(|node| cluster.crash(node, Death::Killed));
        let kv = cluster.kv(0).unwrap();
        let one = list(&kv, at(Level::One)).await;
        assert_eq!((one.keys.len(), one.gaps.len()), (60, 0));
        let quorum = list(&kv, at(Level::Quorum)).await;
        assert_eq!((quorum.keys.len(), quorum.gaps.len()), (0, 16));
        let page = kv.list(bucket(), at(Level::Quorum)).await.unwrap();
        assert_eq!(page.gaps.len(), 1, "partitions that lack the same replicas are told together");
        let names: Vec<&str> = page.gaps[0].replicas.iter().map(|replica| replica.node.as_str()).collect();
        assert_eq!(names, ["n1", "n2"]);
        cluster.end();
    });
}

/// An owner that was away holds what a quorum has deleted: a quorum does not list it, and tells each object as GET does.
#[test]
fn what_a_quorum_has_deleted_no_quorum_lists() {
    for seed in 1..=3 {
        sim(seed, |time| async move {
            let cluster = Cluster::founded(time, Setup { hints: false, ..Setup::new(seed, 3) }).await;
            let kv = cluster.kv(0).unwrap();
            put_all(&kv, (0..60).map(word), Level::All).await;
            cluster.crash(2, Death::Killed);
            let options = || WriteOptions { timeout: 5 * SECOND, ..WriteOptions::default() };
            for number in 0..20 {
                kv.delete(id(&word(number)), options()).await.unwrap();
            }
            for number in 20..30 {
                // Beside what is there, and with an end.
                let ttl = if number % 2 == 0 { Lifetime::For(20 * SECOND) } else { Lifetime::Unsaid };
                kv.put(id(&word(number)), "w".into(), WriteOptions { ttl, ..options() }).await.unwrap();
            }
            cluster.start(2).await.unwrap();
            let there: BTreeSet<String> = (20..60).map(word).collect();
            for node in 0..3 {
                let kv = cluster.kv(node).unwrap();
                let serves = async || kv.list(bucket(), at(Level::Quorum)).await.is_ok_and(|page| page.gaps.is_empty());
                while !serves().await {
                    cluster.time().sleep(Duration::from_millis(50)).await;
                }
                let mut listed = BTreeMap::new();
                let mut pages = Pages::new(&*kv, bucket(), ListOptions { values: node == 1, ..at(Level::Quorum) });
                while let Some(page) = pages.next().await {
                    for key in page.unwrap().keys {
                        listed.insert(String::from_utf8(key.key.as_bytes().to_vec()).unwrap(), key);
                    }
                }
                assert_eq!(listed.keys().cloned().collect::<BTreeSet<_>>(), there, "seed {seed}, n{node}");
                for (key, listed) in listed {
                    let read =
                        ReadOptions { repair: Some(RepairMode::Off), timeout: 5 * SECOND, ..ReadOptions::default() };
                    let read = ReadOptions { r: Level::All, ..read };
                    let read = loop {
                        match kv.get(id(&key), read.clone()).await {
                            Ok(found) => break found,
                            // It is starting still, or learns of the others.
                            Err(error) => assert!(error.code != ErrorCode::BadParameter, "{error}"),
                        }
                        cluster.time().sleep(Duration::from_millis(50)).await;
                    };
                    assert_eq!(read.siblings.len(), listed.siblings as usize, "seed {seed}, n{node}, {key}");
                    let etag = read.etag.unwrap();
                    assert_eq!(listed.etag, etag, "seed {seed}, n{node}, {key}");
                    if let Some(values) = listed.values {
                        assert_eq!(values, read.siblings);
                    }
                }
            }
            // What has expired is listed no more, nor counted; no node needs to be told.
            cluster.time().sleep(21 * SECOND).await;
            let page = kv.list(bucket(), ListOptions::default()).await.unwrap();
            let listed = page.keys.iter().find(|key| key.key.as_bytes()[..] == *word(20).as_bytes()).unwrap();
            assert_eq!((listed.siblings, listed.etag.expired), (1, 1));
            cluster.end();
        });
    }
}

/// A copy that cannot be read is no answer: another owner gives it, and nothing is missing.
#[test]
fn a_damaged_copy_is_answered_for_by_another_owner() {
    for seed in 1..=3 {
        sim(seed, |time| async move {
            let cluster = Cluster::founded(time, Setup::new(seed, 3)).await;
            let kv = cluster.kv(0).unwrap();
            put_all(&kv, (0..60).map(word), Level::All).await;
            assert!(cluster.damage(0, seed).is_some());
            let told = list(&kv, ListOptions { values: true, ..at(Level::One) }).await;
            assert_eq!((told.keys.len(), told.gaps), (60, BTreeSet::new()), "seed {seed}");
            cluster.end();
        });
    }
}

#[test]
fn prefixes_and_places_are_those_of_the_keys_own_order() {
    sim(1, |time| async move {
        let cluster = Cluster::founded(time, Setup::new(1, 4)).await;
        let kv = cluster.kv(1).unwrap();
        let odd: [&[u8]; 7] = [b"a", b"a\0", b"a\xff", b"a\xff\xff", b"b", b"\xff", b"\xff\xff\xff"];
        for key in odd {
            let id = ObjectId::new(bucket(), Key::new(key.to_vec()).unwrap());
            kv.put(id, "v".into(), WriteOptions { w: Level::All, ..WriteOptions::default() }).await.unwrap();
        }
        // Another bucket's are not among them.
        let other = ObjectId::new(Bucket::new("listed2").unwrap(), Key::new("a").unwrap());
        kv.put(other, "v".into(), WriteOptions::default()).await.unwrap();
        for prefix in [&b""[..], b"a", b"a\xff", b"\xff", b"a\xff\xff", b"c", b"\xff\xff\xff\xff"] {
            for limit in [1, 2, 100] {
                let options = ListOptions { prefix: prefix.to_vec().into(), limit, ..ListOptions::default() };
                let mut pages = Pages::new(&*kv, bucket(), options);
                let mut found = Vec::new();
                while let Some(page) = pages.next().await {
                    let page = page.unwrap();
                    assert!(page.keys.len() <= limit);
                    found.extend(page.keys.into_iter().map(|key| key.key.as_bytes().to_vec()));
                }
                let expected: Vec<&[u8]> = odd.into_iter().filter(|key| key.starts_with(prefix)).collect();
                assert_eq!(found, expected, "{prefix:?}, {limit} a page");
            }
        }
        let refused = |error: Error| error.code == ErrorCode::BadParameter;
        let cursor = Some(ListCursor::behind(&bucket(), b"a", b"a"));
        assert!(refused(kv.list(bucket(), ListOptions { cursor, ..ListOptions::default() }).await.unwrap_err()));
        assert!(refused(kv.list(bucket(), at(Level::Any)).await.unwrap_err()));
        assert!(refused(kv.list(bucket(), at(Level::Count(4))).await.unwrap_err()));
        cluster.end();
    });
}

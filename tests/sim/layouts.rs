//! Layouts on whole clusters: nodes come, go and are given up by themselves; and for each rule of a change a planted bug
//! that breaks it, found by the judges of every run.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use quorate::cluster::{ProposeError, Proposed, Standing};
use quorate::env::Entropy;
use quorate::kv::layouts::{CommitRequest, LayoutAdmin as _, PlanRequest, SkipRequest};
use quorate::kv::{ErrorCode, NodeView as _, Outcome, ReadOptions, WriteOptions};
use quorate::quorum::Level;
use quorate::ring::auto::Declined;
use quorate::ring::{Layout, change, planner};
use quorate::sim::cluster::{Cluster, Setup, Wraps};
use quorate::sim::drive::{Options, Variety, run};
use quorate::sim::layouts::settled;
use quorate::sim::net::Death;
use quorate::sim::time::{self, SimTime};
use quorate::transport::messages::{Page, Tell};
use quorate::types::{Bucket, Key, ObjectId, StoreId};

use crate::answers::changed;

const SECOND: Duration = Duration::from_secs(1);

fn sim<T, F: Future<Output = T>>(seed: u64, body: impl FnOnce(SimTime) -> F) -> T {
    time::run(seed, body).unwrap()
}

fn id(key: usize) -> ObjectId {
    ObjectId::new(Bucket::new("moved").unwrap(), Key::new(format!("k{key}")).unwrap())
}

async fn put_all(cluster: &Cluster, node: usize, keys: std::ops::Range<usize>) {
    for key in keys {
        let kv = cluster.kv(node).unwrap();
        kv.put(id(key), "v".into(), WriteOptions { w: Level::Quorum, ..WriteOptions::default() }).await.unwrap();
    }
}

/// Every one of these is there, at this level, by everybody's word.
async fn find_all(cluster: &Cluster, keys: std::ops::Range<usize>, level: Level, out: &BTreeSet<usize>) {
    assert!(
        cluster.until(60 * SECOND, || cluster.ills_without(out).is_empty()).await,
        "{:?}",
        cluster.ills_without(out)
    );
    for node in (0..cluster.len()).filter(|node| !out.contains(node)) {
        for key in keys.clone() {
            let options = ReadOptions { r: level, ..ReadOptions::default() };
            let found = cluster.kv(node).unwrap().get(id(key), options).await;
            // More than one where a write was repeated that had been done.
            assert!(!found.unwrap().siblings.is_empty(), "k{key} through n{node}");
        }
    }
}

async fn quiet(cluster: &Cluster) -> BTreeSet<usize> {
    settled(cluster, 120 * SECOND).await.unwrap_or_else(|why| panic!("{why}"))
}

fn newest(cluster: &Cluster, node: usize) -> Layout {
    cluster.node(node).unwrap().layouts().newest().unwrap()
}

fn names(layout: &Layout) -> BTreeSet<String> {
    layout.members().iter().map(|member| member.name.clone()).collect()
}

fn store(cluster: &Cluster, node: usize) -> StoreId {
    cluster.node(node).unwrap().replica().identity().store()
}

#[test]
fn nodes_join_by_themselves_hold_what_they_own_and_the_others_let_go_of_it() {
    for seed in 1..=5 {
        sim(seed, |time| async move {
            let cluster = Cluster::founded(time, Setup::new(seed, 3)).await;
            put_all(&cluster, 0, 0..40).await;
            for _ in 0..2 {
                let machine = cluster.add_machine(None);
                cluster.start(machine).await.unwrap();
            }
            let joined = || cluster.node(3).is_some_and(|node| node.standing() == Standing::Serving);
            assert!(cluster.until(30 * SECOND, joined).await, "{:?}", cluster.ills());
            put_all(&cluster, 3, 40..60).await;
            let out = quiet(&cluster).await;
            assert_eq!(out, BTreeSet::new());
            assert_eq!(newest(&cluster, 0).members().len(), 5);
            find_all(&cluster, 0..60, Level::Quorum, &out).await;
            let held: usize = (0..5).map(|node| cluster.audit(node).records.len()).sum();
            let forgotten: u64 = (0..5).map(|node| cluster.node(node).unwrap().metrics().replica.forgotten.get()).sum();
            assert!((60 * 2..=60 * 3).contains(&held), "{held} copies of 60 objects");
            assert!(forgotten > 0, "the old owners have let go");
            cluster.end();
        });
    }
}

#[test]
fn a_wiped_node_comes_back_as_its_own_replacement() {
    for seed in 1..=5 {
        sim(seed, |time| async move {
            let cluster = Cluster::founded(time, Setup::new(seed, 3)).await;
            put_all(&cluster, 0, 0..30).await;
            let old = store(&cluster, 1);
            cluster.crash(1, Death::PowerCut);
            cluster.disk(1, |disk| disk.wipe());
            cluster.start(1).await.unwrap();
            let serves = || cluster.node(1).is_some_and(|node| node.standing() == Standing::Serving);
            assert!(cluster.until(60 * SECOND, serves).await, "{:?}", cluster.ills());
            let out = quiet(&cluster).await;
            assert_eq!(out, BTreeSet::new());
            let layout = newest(&cluster, 0);
            assert_eq!(names(&layout), BTreeSet::from(["n0", "n1", "n2"].map(str::to_owned)));
            assert!(layout.member_by_store(old).is_none() && layout.member_by_store(store(&cluster, 1)).is_some());
            find_all(&cluster, 0..30, Level::All, &out).await;
            cluster.end();
        });
    }
}

#[test]
fn who_leaves_hands_over_first_and_is_told_when_it_may_go() {
    sim(1, |time| async move {
        let cluster = Cluster::founded(time, Setup::new(1, 5)).await;
        put_all(&cluster, 0, 0..40).await;
        let node = cluster.node(0).unwrap();
        let known = node.layouts().known().unwrap();
        let leaving = change::leave(&known.chain, &[store(&cluster, 4)].into()).unwrap();
        let won = node.layouts().propose(leaving, 10 * SECOND).await.unwrap();
        assert!(matches!(won, Proposed::Won { .. }));
        let out = quiet(&cluster).await;
        assert_eq!(out, BTreeSet::from([4]), "left out by the next layout, without a word");
        let standing = cluster.node(4).unwrap().standing();
        assert!(
            matches!(&standing, Standing::Refused(why) if why.contains("removed from the cluster")),
            "{standing:?}"
        );
        find_all(&cluster, 0..40, Level::All, &out).await;
        // A removed node that comes back is told so, and nobody takes its word.
        cluster.crash(4, Death::Killed);
        cluster.start(4).await.unwrap();
        let told = || matches!(cluster.node(4).unwrap().standing(), Standing::Refused(_));
        assert!(cluster.until(30 * SECOND, told).await, "{:?}", cluster.node(4).unwrap().standing());
        cluster.end();
    });
}

#[test]
fn of_two_commits_at_once_one_wins_and_the_other_is_told_which() {
    for seed in 1..=20 {
        sim(seed, |time| async move {
            let cluster = Cluster::founded(time, Setup { auto_join: false, ..Setup::new(seed, 5) }).await;
            let weighing = |node: usize, weight: u32| {
                let known = cluster.node(node).unwrap().layouts().known().unwrap();
                let mut members = known.newest().members().to_vec();
                members[node].weight = weight;
                planner::plan(known.newest(), members).unwrap()
            };
            let plans = [weighing(0, 50), weighing(1, 200)];
            let nodes = [cluster.node(0).unwrap(), cluster.node(1).unwrap()];
            let (one, other) = futures_util::future::join(
                nodes[0].layouts().propose(plans[0].clone(), 20 * SECOND),
                nodes[1].layouts().propose(plans[1].clone(), 20 * SECOND),
            )
            .await;
            let winner = match (one.unwrap(), other.unwrap()) {
                (Proposed::Won { layout, .. }, Proposed::Conflict { winner })
                | (Proposed::Conflict { winner }, Proposed::Won { layout, .. }) => {
                    assert_eq!(layout, winner);
                    winner
                }
                both => panic!("{both:?}"),
            };
            assert!(plans.contains(&winner));
            quiet(&cluster).await;
            assert_eq!(newest(&cluster, 3), winner);
            // A plan whose parent is no longer current is refused.
            let late = nodes[0].layouts().propose(plans[0].clone(), SECOND).await;
            assert!(matches!(late, Err(ProposeError::NotNow(_))), "{late:?}");
            cluster.end();
        });
    }
}

/// Writes and reads go on, with a retry, whoever is down.
async fn goes_on(cluster: &Cluster, node: usize, keys: std::ops::Range<usize>) {
    for key in keys {
        let kv = cluster.kv(node).unwrap();
        let mut tries = 0;
        loop {
            match kv.put(id(key), "v".into(), WriteOptions { w: Level::Quorum, ..WriteOptions::default() }).await {
                Ok(_) => break,
                Err(error) => assert!(tries < 10, "k{key}: {error}"),
            }
            tries += 1;
            cluster.time().sleep(SECOND).await;
        }
    }
}

#[test]
fn a_joiner_that_dies_is_given_up_and_writes_go_on() {
    for seed in 1..=5 {
        sim(seed, |time| async move {
            let cluster = Cluster::founded(time, Setup::new(seed, 3)).await;
            put_all(&cluster, 0, 0..30).await;
            let machine = cluster.add_machine(None);
            cluster.start(machine).await.unwrap();
            let members = |number: usize| newest(&cluster, 0).members().len() == number;
            assert!(cluster.until(30 * SECOND, || members(4)).await);
            cluster.crash(machine, Death::PowerCut);
            goes_on(&cluster, 0, 30..50).await;
            // Perhaps it had everything already: then it is a member that is down like any other.
            let synced = newest(&cluster, 0).version() == cluster.node(0).unwrap().layouts().known().unwrap().live()[0];
            assert!(synced || cluster.until(120 * SECOND, || members(3)).await, "given up after a minute");
            goes_on(&cluster, 1, 50..60).await;
            cluster.disk(machine, |disk| disk.wipe());
            cluster.start(machine).await.unwrap();
            let out = quiet(&cluster).await;
            assert_eq!((out.len(), newest(&cluster, 0).members().len()), (0, 4), "it comes back as a new node");
            find_all(&cluster, 0..60, Level::All, &out).await;
            cluster.end();
        });
    }
}

#[test]
fn a_dead_member_is_named_until_it_is_skipped_and_holds_nobody_up_after_that() {
    sim(3, |time| async move {
        let cluster = Cluster::founded(time, Setup::new(3, 3)).await;
        put_all(&cluster, 0, 0..30).await;
        cluster.crash(2, Death::PowerCut);
        let machine = cluster.add_machine(None);
        cluster.start(machine).await.unwrap();
        assert!(cluster.until(30 * SECOND, || newest(&cluster, 0).members().len() == 4).await);
        goes_on(&cluster, 0, 30..40).await;
        let waits = || cluster.node(0).unwrap().layouts().known().unwrap().view().waits_for();
        let dead = store_of(&cluster, "n2");
        assert!(waits().iter().any(|(store, _)| *store == dead), "{:?}", waits());
        // The operator's word, after the command that status names.
        let node = cluster.node(0).unwrap();
        let told = || node.status().attention.into_iter().find(|told| told.code == "change_waits");
        assert!(cluster.until(120 * SECOND, || told().is_some()).await, "{:?}", node.status().attention);
        let told = told().unwrap();
        assert!(told.text.contains("n2") && told.command == "quorate layout skip n2", "{told:?}");
        let request = SkipRequest { members: vec!["n2".into()], ..SkipRequest::default() };
        let begun = node.skip(request).await.unwrap();
        let done = || node.operation(&begun.id).unwrap().state == "done";
        assert!(cluster.until(120 * SECOND, done).await, "{:?}", node.operation(&begun.id));
        goes_on(&cluster, 1, 40..50).await;
        cluster.disk(2, |disk| disk.wipe());
        cluster.start(2).await.unwrap();
        let out = quiet(&cluster).await;
        assert_eq!((out.len(), newest(&cluster, 0).members().len()), (0, 4));
        find_all(&cluster, 0..50, Level::All, &out).await;
        cluster.end();
    });
}

/// While the last of those who are let go still counts in the older layout, a read that would need it is told so at once:
/// it does not wait its whole time for a dead node.
#[test]
fn while_a_dead_owner_is_let_go_a_read_at_all_waits_for_nobody() {
    sim(4, |time| async move {
        let cluster = Cluster::founded(time, Setup::new(4, 3)).await;
        put_all(&cluster, 0, 0..30).await;
        cluster.crash(2, Death::Killed);
        let down = || cluster.node(0).unwrap().status().members.iter().any(|member| member.state == "down");
        assert!(cluster.until(30 * SECOND, down).await);
        let node = cluster.node(0).unwrap();
        let plan = node.plan(PlanRequest { remove: vec!["n2".into()], ..PlanRequest::default() }).await.unwrap();
        let commit = CommitRequest { version: plan.version, ..CommitRequest::default() };
        node.commit(plan.id, commit).await.unwrap();
        let options = ReadOptions { r: Level::All, timeout: 20 * SECOND, hedge: false, ..ReadOptions::default() };
        let (mut refused, mut found_in_a_row) = (0, 0);
        while found_in_a_row < 60 {
            for (key, reader) in (0..30).zip([0, 1].into_iter().cycle()) {
                let began = time.now();
                match cluster.kv(reader).unwrap().get(id(key), options.clone()).await {
                    Ok(_) => found_in_a_row += 1,
                    Err(error) => {
                        assert_eq!((error.code, error.outcome), (ErrorCode::QuorumUnavailable, Outcome::NotApplied));
                        (refused, found_in_a_row) = (refused + 1, 0);
                    }
                }
                let took = Duration::from_micros(time.now() - began);
                assert!(took < SECOND, "k{key} through n{reader} took {took:?}");
            }
        }
        assert!(refused > 0, "the old layout was in force for a while");
        assert_eq!(names(&newest(&cluster, 1)), BTreeSet::from(["n0", "n1"].map(str::to_owned)));
        cluster.end();
    });
}

/// A copy knows the layouts of the day it was taken. One who was let go since then, and still stands there, has no word on
/// who may come in.
#[test]
fn a_copied_directory_is_not_let_in_by_one_who_was_let_go() {
    sim(5, |time| async move {
        let cluster = Cluster::founded(time, Setup::new(5, 4)).await;
        put_all(&cluster, 0, 0..10).await;
        let copy = cluster.disk(0, |disk| disk.snapshot());
        let node = cluster.node(0).unwrap();
        let leaving = change::leave(&node.layouts().known().unwrap().chain, &[store(&cluster, 3)].into()).unwrap();
        node.layouts().propose(leaving, 10 * SECOND).await.unwrap();
        assert_eq!(quiet(&cluster).await, BTreeSet::from([3]));
        cluster.stop(3).await.unwrap();
        cluster.start(3).await.unwrap();
        let twin = cluster.add_machine(Some(&copy));
        cluster.start(twin).await.unwrap();
        let standing = || cluster.node(twin).unwrap().standing();
        let let_in = || standing() == Standing::Serving || cluster.node(twin).unwrap().replica().identity().may_vote();
        assert!(!cluster.until(30 * SECOND, let_in).await, "{:?}", standing());
        assert!(matches!(&standing(), Standing::Waiting(why) if why.contains("copied")), "{:?}", standing());
        cluster.end();
    });
}

/// A directory of several layouts ago, put back: what it missed cannot be told to it any more. It stays out and says what to
/// do, holds nobody up, and comes back with an empty one.
#[test]
fn a_directory_of_several_layouts_ago_stays_out_and_says_what_to_do() {
    sim(6, |time| async move {
        let cluster = Cluster::founded(time, Setup::new(6, 3)).await;
        put_all(&cluster, 0, 0..20).await;
        cluster.disk(1, |disk| disk.keep_copy());
        for _ in 0..2 {
            let machine = cluster.add_machine(None);
            cluster.start(machine).await.unwrap();
            assert_eq!(quiet(&cluster).await, BTreeSet::new());
        }
        put_all(&cluster, 3, 20..30).await;
        cluster.crash(1, Death::PowerCut);
        cluster.disk(1, |disk| disk.roll_back());
        cluster.start(1).await.unwrap();
        let standing = || cluster.node(1).unwrap().standing();
        let out = |standing: &Standing| matches!(standing, Standing::Refused(why) if why.contains("with an empty one"));
        assert!(cluster.until(30 * SECOND, || out(&standing())).await, "{:?}", standing());
        for at in [0, 2, 3, 4] {
            for key in 0..30 {
                let options = ReadOptions { r: Level::Quorum, ..ReadOptions::default() };
                let found = cluster.kv(at).unwrap().get(id(key), options).await;
                assert!(!found.unwrap().siblings.is_empty(), "k{key} through n{at}");
            }
        }
        assert!(cluster.kv(1).unwrap().get(id(0), ReadOptions::default()).await.is_err(), "it answers nobody");
        cluster.crash(1, Death::Killed);
        cluster.disk(1, |disk| disk.wipe());
        cluster.start(1).await.unwrap();
        assert!(cluster.until(60 * SECOND, || standing() == Standing::Serving).await, "{:?}", standing());
        let out = quiet(&cluster).await;
        assert_eq!(out, BTreeSet::new());
        find_all(&cluster, 0..30, Level::All, &out).await;
        cluster.end();
    });
}

fn store_of(cluster: &Cluster, name: &str) -> StoreId {
    newest(cluster, 0).members().iter().find(|member| member.name == name).unwrap().store
}

/// Too many directories were wiped for anybody to take them out by itself: an operator who knows that nothing was stored
/// says so.
async fn accept_loss(cluster: &Cluster) {
    let nodes = (0..cluster.len()).filter_map(|machine| cluster.node(machine));
    for node in nodes {
        let declined = node.steward().map(|steward| steward.declined()).unwrap_or_default();
        let Some(known) = node.layouts().known() else { continue };
        let lost = declined.into_iter().find_map(|declined| {
            let Declined::MayLose(name) = declined else { return None };
            known.newest().members().iter().find(|member| member.name == name).map(|member| member.store)
        });
        if let Some(layout) = lost.and_then(|store| change::skip(&known.chain, &[store].into()).ok()) {
            drop(node.layouts().propose(layout, 10 * SECOND).await);
            return;
        }
    }
}

/// Four to six nodes start with `bootstrap_expect = 3`, in random order, with delays, crashes and wiped founders.
#[test]
fn nodes_that_start_at_once_are_never_two_clusters() {
    for seed in 1..=200 {
        sim(seed, |time| async move {
            let entropy = Entropy::seeded(seed);
            let count = 4 + usize::try_from(entropy.below(3)).unwrap();
            let seeds = 3 + usize::try_from(entropy.below(2)).unwrap();
            let cluster = Cluster::new(time, Setup { expect: Some(3), ..Setup::new(seed, seeds) });
            while cluster.len() < count {
                let _ = cluster.add_machine(None);
            }
            let mut order: Vec<usize> = (0..count).collect();
            for at in (1..count).rev() {
                order.swap(at, usize::try_from(entropy.below(at as u64 + 1)).unwrap());
            }
            for machine in order {
                time.sleep(Duration::from_millis(entropy.below(1500))).await;
                cluster.start(machine).await.unwrap();
                if entropy.chance(0.3) {
                    let victim = usize::try_from(entropy.below(count as u64)).unwrap();
                    time.sleep(Duration::from_millis(entropy.below(2000))).await;
                    cluster.crash(victim, Death::Killed);
                    // A founder is wiped, as long as nobody could have stored anything.
                    if entropy.chance(0.3) {
                        cluster.disk(victim, |disk| disk.wipe());
                    }
                    time.sleep(Duration::from_millis(entropy.below(2000))).await;
                    cluster.start(victim).await.unwrap();
                }
            }
            cluster.start_all().await;
            let all = || {
                let nodes = (0..count).filter_map(|machine| cluster.node(machine));
                nodes.filter(|node| node.standing() == Standing::Serving).count() == count
            };
            for _ in 0..20 {
                if cluster.until(30 * SECOND, all).await {
                    break;
                }
                accept_loss(&cluster).await;
            }
            assert!(all(), "seed {seed}: {:?}", cluster.ills());
            quiet(&cluster).await;
            let clusters: BTreeSet<_> = (0..count).map(|machine| newest(&cluster, machine).cluster()).collect();
            assert_eq!(clusters.len(), 1, "seed {seed}");
            assert_eq!(newest(&cluster, 0).members().len(), count, "seed {seed}");
            cluster.end();
        });
    }
}

/// All sources but one seem to have nothing to give.
fn one_source() -> Wraps {
    changed(|address, reply| {
        if let Some(Tell::Page(page)) = &mut reply.tell
            && !address.starts_with("n0:")
        {
            *page = Page { acked: page.acked, lesson: page.lesson.take(), ..Page::default() };
        }
    })
}

fn breaking(rule: &'static str) -> Wraps {
    Wraps { broken: Some(rule), ..Wraps::default() }
}

/// Seeds that are tried until a bug is found. A rule that is broken does not lose anything by itself: a change has to be
/// under way, a node has to die, at the right time. The one that shows least does so in one of some seventy.
const TRIES: u64 = 240;

#[test]
fn every_rule_of_a_change_is_needed() {
    let plants = [
        ("ignore a live layout: the newest", breaking("a write counts in the newest layout")),
        ("ignore a live layout: the older", breaking("a write counts in the older layouts")),
        ("copy from one source", one_source()),
    ];
    let mut missed = Vec::new();
    for (name, wraps) in plants {
        let found = (1..=TRIES).find_map(|seed| {
            let options = Options::with(Variety::Layouts, seed, 60 * SECOND);
            let report = run(&Options { wraps: wraps.clone(), ..options }).unwrap();
            report.violations.first().map(|violation| format!("seed {seed}: {violation}"))
        });
        match found {
            Some(found) => eprintln!("{name}: {found}"),
            None => missed.push(name),
        }
    }
    assert_eq!(missed, [""; 0], "nobody noticed in {TRIES} seeds");
}

//! Real processes that come, go, die and are replaced under load: the release binary on RocksDB, the project's own
//! records in it, clients that read and write all the while (`growth/load.rs`). After each change every node shows it;
//! in the end everything acknowledged is found through every node, and no strict read was ever stale.
//!
//! `QUORATE_GROWTH_RECORDS=all` loads all records, a number so many of them.
#![cfg(all(feature = "cli", feature = "rocksdb"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails; processes live in real time"
)]

#[path = "growth/cluster.rs"]
mod cluster;
#[path = "processes/data.rs"]
mod data;
#[path = "growth/disk.rs"]
mod disk;
#[path = "growth/load.rs"]
mod load;
#[path = "processes/server.rs"]
mod server;

use cluster::{Cluster, fails, quorate, records, run, screen};
use data::{for_all, id, value, write};
use load::Load;
use quorate::kv::layouts::LayoutView;
use quorate::kv::{ErrorCode, Kv, Outcome, Status};
use quorate::quorum::Level;
use quorate::ring::Grid;
use tokio::sync::Mutex;

/// The machine is enough for one of these clusters at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_grow_to_five_are_replaced_leave_and_restart_and_nothing_is_lost() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let records = records();
    let mut cluster = Cluster::of(3).await;
    cluster.fill(&records).await;
    cluster.settles(&["n1", "n2", "n3"]).await;
    let mut load = Load::start(cluster.servers());
    load.goes_on().await;
    load.tell("three nodes");

    // Two start at once, and are taken in by themselves.
    cluster.fresh("n4").start();
    cluster.fresh("n5").start();
    let grown = cluster.settles(&["n1", "n2", "n3", "n4", "n5"]).await;
    assert!(grown > 1, "a layout of its own");
    cluster.shows(" joins").await;
    load.through(cluster.servers());
    load.goes_on().await;
    load.tell("three became five");

    // The founder dies and comes back with an empty directory: it replaces itself.
    cluster.node("n1").kill();
    load.goes_on().await;
    cluster.node("n1").wipe();
    cluster.node("n1").start();
    let all = ["n1", "n2", "n3", "n4", "n5"];
    let replaced = |view: &LayoutView| {
        let since = view.history.iter().filter(|layout| layout.version > grown);
        since.flat_map(|layout| &layout.changes).any(|change| change.starts_with("n1 "))
    };
    cluster.until(&cluster.nodes[1].1, "n1 has a new store", replaced).await;
    let wiped = cluster.settles(&all).await;
    assert!(wiped > grown);
    cluster.shows("n1 ").await;
    load.goes_on().await;
    load.tell("n1 was killed, wiped, and replaced itself");

    // One after the other is stopped by SIGTERM and starts again.
    for name in all {
        let node = cluster.node(name);
        assert!(node.terminate().success(), "SIGTERM drains and exits 0");
        node.start();
        cluster.settles(&all).await;
        load.goes_on().await;
    }
    load.tell("rolling restart");

    // One dies for good, a node of another name takes its places: it waits for that, and is not taken in by itself.
    cluster.node("n3").kill();
    let heir = cluster.fresh("n6");
    heir.set("node.membership.auto_join", "false");
    heir.start();
    let n2 = &cluster.nodes[1].1;
    n2.wait_for("n3 is down", |status| {
        status.members.iter().any(|member| member.name == "n3" && member.state == "down")
    })
    .await;
    let asks = |name: &str| name == "n6";
    cluster.until(n2, "n6 asks", |view| view.candidates.iter().any(|node| asks(&node.name))).await;
    load.goes_on().await;
    load.goes_on().await;
    cluster.until(n2, "n6 asks on", |view| view.candidates.iter().any(|node| asks(&node.name))).await;
    cluster.change(n2, &["--replace", "n3=n6"]);
    cluster.nodes.retain(|(name, _)| *name != "n3");
    cluster.settles(&["n1", "n2", "n4", "n5", "n6"]).await;
    cluster.shows("n6 joins").await;
    load.through(cluster.servers());
    load.goes_on().await;
    load.tell("n3 was killed, and replaced by n6");

    // Back to three, in one plan.
    cluster.change(&cluster.nodes[0].1, &["--leave", "n4", "--leave", "n5"]);
    for name in ["n4", "n5"] {
        let node = cluster.node(name);
        assert!(node.terminate().success(), "who has left stops as any other");
    }
    cluster.nodes.retain(|(name, _)| !["n4", "n5"].contains(name));
    cluster.settles(&["n1", "n2", "n6"]).await;
    cluster.shows("n4 has left").await;
    load.through(cluster.servers());
    load.goes_on().await;
    load.tell("five became three");

    load.end().await.is_there(&records, &cluster.running()).await;
    for (_, server) in &mut cluster.nodes {
        assert!(server.terminate().success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_dies_in_the_middle_of_a_join_holds_nobody_up_and_loses_nothing() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let records = records();
    let mut cluster = Cluster::of(3).await;
    cluster.fill(&records).await;
    cluster.settles(&["n1", "n2", "n3"]).await;
    let mut load = Load::start(cluster.servers());

    // The joiner dies, comes back, and goes on where it stopped.
    joins_slowly(&mut cluster, "n4").await;
    cluster.node("n4").kill();
    load.goes_on().await;
    let waits = |view: &LayoutView, name: &str| {
        !view.complete && view.waits_for.iter().any(|wait| wait.member == name && wait.state == "down")
    };
    cluster.until(&cluster.nodes[0].1, "the change waits for n4", |view| waits(view, "n4")).await;
    assert_eq!(waited_for(&cluster, 0), "quorate layout abort");
    quickly(&mut cluster, "n4").start();
    let four = ["n1", "n2", "n3", "n4"];
    cluster.settles(&four).await;
    load.through(cluster.servers());
    load.goes_on().await;
    load.tell("n4 was killed while it joined, and came back");

    // An owner dies, comes back.
    joins_slowly(&mut cluster, "n5").await;
    cluster.node("n2").kill();
    load.goes_on().await;
    cluster.until(&cluster.nodes[0].1, "the change waits for n2", |view| waits(view, "n2")).await;
    assert_eq!(waited_for(&cluster, 0), "quorate layout skip n2");
    cluster.node("n2").start();
    cluster.node("n5").kill();
    quickly(&mut cluster, "n5").start();
    let five = ["n1", "n2", "n3", "n4", "n5"];
    cluster.settles(&five).await;
    load.through(cluster.servers());
    load.goes_on().await;
    load.tell("n2 was killed while n5 joined, and came back");

    // The joiner dies for good, and its join is given up.
    joins_slowly(&mut cluster, "n6").await;
    cluster.node("n6").kill();
    load.goes_on().await;
    cluster.until(&cluster.nodes[0].1, "the change waits for n6", |view| waits(view, "n6")).await;
    let ended = quorate(&cluster.nodes[0].1, &["layout", "abort", "--wait"]);
    assert!(ended.is_ok(), "{ended:?}");
    cluster.nodes.retain(|(name, _)| *name != "n6");
    cluster.settles(&five).await;
    load.goes_on().await;
    load.tell("n6 was killed while it joined, and its join given up");

    load.end().await.is_there(&records, &cluster.running()).await;
    for (_, server) in &mut cluster.nodes {
        assert!(server.terminate().success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_goes_from_three_copies_to_five_to_two_under_load_and_nothing_is_lost() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let records = records();
    let mut cluster = Cluster::of(5).await;
    cluster.fill(&records).await;
    cluster.settles(&["n1", "n2", "n3", "n4", "n5"]).await;
    let mut load = Load::start(cluster.servers());
    load.goes_on().await;
    load.tell("three copies of each on five nodes");
    for (at, (setting, change)) in
        [("n=5", "bucket cities n 3 to 5"), ("n=2", "bucket cities n 5 to 2")].iter().enumerate()
    {
        let node = &cluster.nodes[at].1;
        let set =
            run(&["bucket", "set", "cities", setting, "--endpoint", &format!("http://{}", node.client_address())]);
        assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
        cluster.shows(change).await;
        load.goes_on().await;
        load.tell(change);
    }
    let acknowledged = load.end().await;
    acknowledged.is_there(&records, &cluster.running()).await;

    // Who owns something no more gives back its copy: three of five of each record. What came late goes later.
    cluster.forgets(3 * records.len() as u64).await;
    let mut copies = disk::Copies::default();
    for _ in 0..20 {
        for (_, server) in &mut cluster.nodes {
            assert!(server.terminate().success());
        }
        copies = disk::copies(cluster.servers(), "cities");
        if copies.held_by.keys().all(|nodes| *nodes == 2) {
            break;
        }
        println!("again: {copies}");
        cluster.nodes.iter_mut().for_each(|(_, server)| server.start());
        cluster.settles(&["n1", "n2", "n3", "n4", "n5"]).await;
    }
    println!("{copies}");
    assert_eq!(copies.objects, acknowledged.objects() + records.len());
    assert_eq!(copies.held_by, [(2, copies.objects)].into(), "each on two nodes, and nowhere else");
    assert_eq!(copies.differ, 0, "and alike on both");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_majority_is_given_up_by_force_and_the_rest_goes_on() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut records = records();
    records.truncate(1000);
    let mut cluster = Cluster::of(5).await;
    cluster.fill(&records).await;
    cluster.settles(&["n1", "n2", "n3", "n4", "n5"]).await;
    let first = cluster.nodes[0].1.client();
    // On all owners of each, so that one that survives is enough.
    for_all(&records, |(key, wanted)| {
        let first = &first;
        async move { assert_eq!(value(first, key, Level::All).await.as_ref(), Some(wanted)) }
    })
    .await;
    let ring = first.ring().await.unwrap();
    let grid = Grid::new(ring.q).unwrap();
    let survivors = |key: &str| {
        let owners = &ring.partitions[grid.partition(id(key).token()).0 as usize].owners;
        owners.iter().filter(|owner| ["n1", "n2"].contains(&owner.as_str())).count()
    };
    let (survive, lost): (Vec<_>, Vec<_>) = records.iter().cloned().partition(|(key, _)| survivors(key) > 0);
    assert!(survive.len() > 500 && lost.len() > 10, "{} survive, {} do not", survive.len(), lost.len());

    for name in ["n3", "n4", "n5"] {
        cluster.node(name).kill();
    }
    ["n4", "n5"].into_iter().for_each(|name| cluster.node(name).wipe());
    for at in 0..2 {
        let down = |status: &Status| status.members.iter().filter(|member| member.state == "down").count() == 3;
        cluster.nodes[at].1.wait_for("three are down", down).await;
    }
    let n1 = &cluster.nodes[0].1;
    let shown = screen(n1, &["status"]);
    assert!(
        shown.contains("no_majority: 2 of the 5 members that decide are up")
            && shown.contains("    quorate layout force --help"),
        "{shown}"
    );
    let thin = records.iter().find(|(key, _)| survivors(key) == 1).unwrap();
    let refused = n1.client().put(id(&thin.0), "x".to_owned().into(), write(Level::Quorum)).await.unwrap_err();
    assert_eq!((refused.code, refused.outcome), (ErrorCode::QuorumUnavailable, Outcome::NotApplied));

    // Everybody who is gone has to be named, with all that it takes upon oneself, and nobody who lives.
    let force = ["layout", "force", "--gone", "n3", "--gone", "n4"];
    let all = [&force[..], &["--gone", "n5"]].concat();
    let sure = ["--accept-data-loss", "--yes"];
    let said = fails(n1, 2, &all);
    assert!(said.contains("If n3, n4, n5 still runs anywhere, there will be two clusters"), "{said}");
    assert!(said.contains("next: the same with --yes"), "{said}");
    let said = fails(n1, 1, &[&all[..], &["--yes"]].concat());
    assert!(said.contains("layout_refused: a forced layout is decided by nobody, and may lose"), "{said}");
    assert!(said.contains("next: if that is what you want: the same with --accept-data-loss"), "{said}");
    let said = fails(n1, 1, &[&force[..], &sure].concat());
    assert!(said.contains("layout_refused: n5 is down and not named"), "{said}");
    let said = fails(n1, 1, &[&all[..], &["--gone", "n2"], &sure].concat());
    assert!(said.contains("layout_refused: n2 is up"), "{said}");
    assert_eq!(n1.client().layout().await.unwrap().head.unwrap().version, 1, "nothing was done");
    let forced = quorate(n1, &[&all[..], &sure, &["--wait"]].concat()).unwrap();
    assert_eq!((&forced["state"], &forced["error"]), (&"done".into(), &serde_json::Value::Null), "{forced}");

    // Two are left, and a quorum of two is both.
    let dead = cluster.nodes.split_off(2);
    cluster.settles(&["n1", "n2"]).await;
    cluster.shows("n3 removed").await;
    let mut load = Load::start(cluster.servers());
    load.goes_on().await;
    load.tell("two of five go on by force");
    for server in cluster.running() {
        let client = &server.client();
        for_all(&survive, |(key, wanted)| async move {
            assert_eq!(value(client, key, Level::Quorum).await.as_ref(), Some(wanted), "{key} is on one that is left");
        })
        .await;
        for_all(&lost, |(key, _)| async move {
            assert_eq!(value(client, key, Level::Quorum).await, None, "{key} was on those that are gone");
        })
        .await;
    }

    // One comes back all the same: it is told, and serves nobody.
    let (_, mut n3) = dead.into_iter().next().unwrap();
    n3.start();
    let out = |status: &Status| status.attention.iter().any(|attention| attention.code == "stays_out");
    n3.wait_for("it stays out", out).await;
    let shown = screen(&n3, &["status"]);
    let told = "stays_out: this node does not serve: it was removed from the cluster, by layout 2 or before: stop it; to \
                come back, it starts with an empty directory, as a new node";
    assert!(shown.starts_with("not_serving  ") && shown.contains(told), "{shown}");
    let refused = n3.client().put(id("a/late/one"), "x".to_owned().into(), write(Level::One)).await.unwrap_err();
    assert_eq!((refused.code, refused.outcome), (ErrorCode::NotServing, Outcome::NotApplied), "{refused:?}");
    load.goes_on().await;
    load.tell("one that was given up came back");
    assert!(n3.terminate().success());

    // Those that are left decide: one more joins.
    cluster.fresh("n6").start();
    cluster.settles(&["n1", "n2", "n6"]).await;
    cluster.shows("n6 joins").await;
    load.through(cluster.servers());
    load.goes_on().await;
    load.tell("one more joined");
    load.end().await.is_there(&survive, &cluster.running()).await;
}

/// A fresh node starts, copies slowly, and is in the middle of its join.
async fn joins_slowly(cluster: &mut Cluster, name: &'static str) {
    let node = cluster.fresh(name);
    node.set("node.limits.transfer_rate", "32KiB");
    node.start();
    let in_the_middle = |view: &LayoutView| {
        let head = view.head.as_ref().map_or(0, |head| head.version);
        let acked = view.trackers.iter().all(|tracker| tracker.ack >= head);
        let joins = view.trackers.iter().find(|tracker| tracker.member == name);
        !view.complete && acked && joins.is_some_and(|tracker| !tracker.synced.contains(&head))
    };
    let first = &cluster.nodes[0].1;
    cluster.until(first, &format!("{name} is in the middle of its join"), in_the_middle).await;
    let shown = screen(first, &["status"]);
    let line = shown.lines().nth(1).unwrap();
    assert!(line.contains(&format!(": {name} joins; ")) && line.contains(" steps, waits for "), "{shown}");
    let told = quorate(first, &["status"]).unwrap()["change"].clone();
    assert_eq!((&told["complete"], &told["changes"]), (&false.into(), &serde_json::json!([format!("{name} joins")])));
    assert!(told["done"].as_u64() < told["total"].as_u64() && told["waits_for"].is_array(), "{told}");
}

fn quickly<'a>(cluster: &'a mut Cluster, name: &str) -> &'a mut server::Server {
    let node = cluster.node(name);
    node.set("node.limits.transfer_rate", "64MiB");
    node
}

/// The command that `quorate status` names for a change that waits.
fn waited_for(cluster: &Cluster, at: usize) -> String {
    let status = quorate(&cluster.nodes[at].1, &["status"]).unwrap();
    let attention = status["attention"].as_array().unwrap();
    let waits = attention.iter().find(|attention| attention["code"] == "change_waits");
    waits.unwrap_or_else(|| panic!("status names it: {status}"))["command"].as_str().unwrap().to_owned()
}

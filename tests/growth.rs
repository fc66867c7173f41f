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
#[path = "growth/load.rs"]
mod load;
#[path = "processes/server.rs"]
mod server;

use cluster::{Cluster, quorate, records};
use load::Load;
use quorate::kv::layouts::LayoutView;
use tokio::sync::Mutex;

/// The machine is enough for one of these clusters at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_grow_to_five_are_replaced_leave_and_restart_and_nothing_is_lost() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let records = records();
    let mut cluster = Cluster::three().await;
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
    load.goes_on().await;
    load.tell("n1 was killed, wiped, and replaced itself");

    // One after the other is stopped by SIGTERM and starts again, and from now on who joins is planned.
    for name in all {
        let node = cluster.node(name);
        assert!(node.terminate().success(), "SIGTERM drains and exits 0");
        node.set("node.membership.auto_join", "false");
        node.start();
        cluster.settles(&all).await;
        load.goes_on().await;
    }
    load.tell("rolling restart");

    // One dies for good, a node of another name takes its places.
    cluster.node("n3").kill();
    cluster.fresh("n6").start();
    let n2 = &cluster.nodes[1].1;
    n2.wait_for("n3 is down", |status| {
        status.members.iter().any(|member| member.name == "n3" && member.state == "down")
    })
    .await;
    let asks = |name: &str| name == "n6";
    cluster.until(n2, "n6 asks", |view| view.candidates.iter().any(|node| asks(&node.name))).await;
    cluster.change(n2, &["--replace", "n3=n6"]);
    cluster.nodes.retain(|(name, _)| *name != "n3");
    cluster.settles(&["n1", "n2", "n4", "n5", "n6"]).await;
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
    let mut cluster = Cluster::three().await;
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
    println!("abort: {ended:?}");
    cluster.nodes.retain(|(name, _)| *name != "n6");
    cluster.settles(&five).await;
    load.goes_on().await;
    load.tell("n6 was killed while it joined, and its join given up");

    load.end().await.is_there(&records, &cluster.running()).await;
    for (_, server) in &mut cluster.nodes {
        assert!(server.terminate().success());
    }
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
    cluster.until(&cluster.nodes[0].1, &format!("{name} is in the middle of its join"), in_the_middle).await;
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

//! Real processes: the release binary on RocksDB, real data in and out, nodes killed, copied, rolled back and wiped.
//! Clock figures are printed, never asserted.
#![cfg(all(feature = "cli", feature = "rocksdb"))]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails; processes live in real time"
)]

#[path = "processes/data.rs"]
mod data;
#[path = "processes/server.rs"]
mod server;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use data::{for_all, id, records, value, write};
use quorate::client::Client;
use quorate::kv::{ErrorCode, Kv, Outcome};
use quorate::quorum::Level;
use server::{Server, pause, start_all};

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn clock() -> std::time::Instant {
    std::time::Instant::now()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_records_through_three_nodes_survive_kill_nine() {
    let root = tempfile::tempdir().unwrap();
    let mut servers = Server::cluster(3, root.path());
    start_all(&mut servers).await;
    let clients: Vec<Client> = servers.iter().map(Server::client).collect();
    let records = records();

    // In: at a quorum, through the three nodes in turn.
    let began = clock();
    for_all(records.iter().enumerate(), |(index, (key, value))| {
        let client = &clients[index % 3];
        async move {
            let written = client.put(id(key), value.clone().into(), write(Level::Quorum)).await.unwrap();
            assert!(written.counted.answered >= 2);
        }
    })
    .await;
    println!("{} records in at W=quorum: {:?}", records.len(), began.elapsed());

    // The late acknowledgements are in once nothing is missing at R=1 through the node that was asked last.
    for _ in 0..200 {
        let late = AtomicUsize::new(0);
        for_all(records.iter().rev().take(200), |(key, wanted)| {
            let (clients, late) = (&clients, &late);
            async move {
                for client in clients {
                    if value(client, key, Level::One).await.as_ref() != Some(wanted) {
                        late.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        })
        .await;
        if late.into_inner() == 0 {
            break;
        }
        pause(Duration::from_millis(50)).await;
    }

    // Out: at R = 1, 2 and 3 through each node.
    let began = clock();
    for (node, client) in clients.iter().enumerate() {
        for r in [1, 2, 3] {
            for_all(&records, |(key, wanted)| async move {
                assert_eq!(
                    value(client, key, Level::Count(r)).await.as_ref(),
                    Some(wanted),
                    "{key} at R={r}, node {node}"
                );
            })
            .await;
        }
    }
    println!("{} reads at R=1, 2, 3 through each node: {:?}", 9 * records.len(), began.elapsed());

    // One node killed.
    servers[2].kill();
    let began = clock();
    let down = |status: &quorate::kv::Status| status.members.iter().any(|member| member.state == "down");
    servers[0].wait_for("the killed node is down", down).await;
    servers[1].wait_for("the killed node is down", down).await;
    println!("down in the status of both others after {:?} (bar: 5 s)", began.elapsed());
    let mut refusals = Vec::new();
    for (key, value) in records.iter().take(200) {
        let client = &clients[refusals.len() % 2];
        let began = clock();
        let error = client.put(id(key), value.clone().into(), write(Level::Count(3))).await.unwrap_err();
        refusals.push(began.elapsed());
        assert_eq!((error.code, error.outcome), (ErrorCode::QuorumUnavailable, Outcome::NotApplied), "{error:?}");
    }
    println!("W=3 refused, median {:?} (bar: 50 ms)", median(refusals));
    let mut times = Vec::new();
    for (index, (key, wanted)) in records.iter().take(1000).enumerate() {
        let client = &clients[index % 2];
        let began = clock();
        assert_eq!(value(client, key, Level::Count(2)).await.as_ref(), Some(wanted));
        let fresh = format!("new/{key}");
        client.put(id(&fresh), wanted.clone().into(), write(Level::Count(2))).await.unwrap();
        times.push(began.elapsed());
    }
    println!("R=2 and W=2 go on, median of a pair {:?}", median(times));
    servers[2].start();
    for server in &servers {
        server.wait_until_up(3).await;
    }

    // All killed in the middle of a load.
    let acknowledged: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
    let load = {
        let (acknowledged, clients) = (Arc::clone(&acknowledged), clients.clone());
        tokio::spawn(async move {
            for_all(0..200_000, |index| {
                let (acknowledged, client) = (&acknowledged, &clients[index % 3]);
                async move {
                    let key = format!("load/{index}");
                    if client.put(id(&key), key.clone().into(), write(Level::Quorum)).await.is_ok() {
                        acknowledged.lock().unwrap().push(key);
                    }
                }
            })
            .await;
        })
    };
    while acknowledged.lock().unwrap().len() < 2000 {
        pause(Duration::from_millis(5)).await;
    }
    for server in &mut servers {
        server.kill();
    }
    load.abort();
    let _ = load.await;
    let acknowledged = acknowledged.lock().unwrap().clone();
    start_all(&mut servers).await;
    for_all(&acknowledged, |key| {
        let client = &clients[key.len() % 3];
        async move { assert_eq!(value(client, key, Level::Quorum).await.as_ref(), Some(key), "acknowledged, then gone") }
    })
    .await;
    for_all(&records, |(key, wanted)| {
        let client = &clients[key.len() % 3];
        async move { assert_eq!(value(client, key, Level::Quorum).await.as_ref(), Some(wanted)) }
    })
    .await;
    println!(
        "all three killed in mid-load: {} acknowledged writes and {} records are there",
        acknowledged.len(),
        records.len()
    );
    for server in &mut servers {
        assert!(server.terminate().success(), "SIGTERM drains and exits 0");
    }
}

/// Copies a stopped node's directory, as a backup would.
fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copied_rolled_back_and_wiped_directories_lose_nothing() {
    let root = tempfile::tempdir().unwrap();
    let mut servers = Server::cluster(3, root.path());
    // So that a wiped node stays out until somebody lets it in: see `growth.rs` for one that replaces itself.
    for server in &mut servers {
        server.set("node.membership.auto_join", "false");
    }
    start_all(&mut servers).await;
    let clients: Vec<Client> = servers.iter().map(Server::client).collect();
    let put = async |client: &Client, key: &str, value: &str| {
        client.put(id(key), value.to_owned().into(), write(Level::Quorum)).await.unwrap();
    };
    for index in 0..100 {
        put(&clients[index % 3], &format!("before/{index}"), "v").await;
    }
    assert!(servers[0].terminate().success());
    let backup = root.path().join("backup");
    copy(&servers[0].directory, &backup);
    servers[0].start();
    servers[0].wait_until_up(3).await;
    for index in 0..100 {
        put(&clients[0], &format!("after/{index}"), "v").await;
    }

    // A copy beside its original, at other ports: refused by the others, and it says so.
    let ports = server::free_ports(1).remove(0);
    let mut twins = Server::cluster(1, &root.path().join("twin"));
    let twin = &mut twins[0];
    std::fs::create_dir_all(twin.directory.parent().unwrap()).unwrap();
    copy(&backup, &twin.directory);
    (twin.ports, twin.seeds) = (ports, servers[0].seeds.clone());
    twin.start();
    let said = twin.wait_for("it says why it stays out", |status| {
        status.attention.iter().any(|attention| attention.text.contains("a copied data directory is to be emptied"))
    });
    println!("a copy beside its original: {:?}", said.await.attention);
    let error = twin.client().put(id("twin"), "v".into(), write(Level::One)).await.unwrap_err();
    assert_eq!((error.code, error.outcome), (ErrorCode::NotServing, Outcome::NotApplied));
    twin.kill();

    // The directory rolled back to the copy: unsynced until merged with the others, nothing acknowledged is lost.
    servers[0].kill();
    std::fs::remove_dir_all(&servers[0].directory).unwrap();
    copy(&backup, &servers[0].directory);
    servers[0].start();
    servers[0].wait_until_up(3).await;
    let metrics = servers[0].log();
    assert!(metrics.contains("rolled back or copied"), "a rollback is told loudly: {metrics}");
    for index in 0..100 {
        for client in &clients {
            assert!(value(client, &format!("after/{index}"), Level::Quorum).await.is_some());
            assert!(value(client, &format!("before/{index}"), Level::Quorum).await.is_some());
        }
    }

    // Wiped, under the same address: it stays out, has no vote, and says so.
    servers[0].kill();
    std::fs::remove_dir_all(&servers[0].directory).unwrap();
    servers[0].start();
    let said = servers[0].wait_for("it says why it stays out", |status| {
        status.attention.iter().any(|attention| attention.text.contains("no vote"))
    });
    println!("a wiped directory: {:?}", said.await.attention);
    for index in 0..100 {
        for client in &clients[1..] {
            assert!(value(client, &format!("after/{index}"), Level::Quorum).await.is_some());
        }
    }
    servers[1]
        .wait_for("the wiped node is down for the others", |status| {
            status.members.iter().any(|member| member.state == "down")
        })
        .await;
    let refused = clients[1].put(id("x"), "v".into(), write(Level::Count(3))).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::QuorumUnavailable);
}

#[tokio::test]
async fn the_flush_comes_before_the_acknowledgement() {
    let traced = std::process::Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success());
    assert!(traced, "strace is missing: scripts/test installs it (apt-get install strace)");
    let root = tempfile::tempdir().unwrap();
    let mut servers = Server::cluster(1, root.path());
    let trace = root.path().join("trace");
    let calls = "trace=openat,write,writev,pwrite64,sendto,sendmsg,fdatasync,fsync,sync_file_range";
    servers[0].runner = ["strace", "-f", "-y", "-s", "64", "-e", calls, "-o"].into_iter().map(str::to_owned).collect();
    servers[0].runner.push(trace.display().to_string());
    start_all(&mut servers).await;
    // Twenty, one after the other: each has a flush of its own between what it wrote and its answer.
    let client = servers[0].client();
    for index in 0..20 {
        client.put(id(&format!("flush/{index}")), "v".into(), write(Level::One)).await.unwrap();
    }
    servers[0].kill();
    let lines = std::fs::read_to_string(&trace).unwrap();
    let (mut answers, mut unflushed, mut flushes) = (0, false, 0);
    for line in lines.lines() {
        let log = line.contains(".log>");
        let synced = line.contains("fdatasync") || line.contains("fsync");
        if log && (line.contains("write(") || line.contains("pwrite64(")) && line.contains("flush/") {
            unflushed = true;
        } else if synced && (line.contains("resumed>") || (log && !line.contains("unfinished"))) {
            unflushed = false;
            flushes += 1;
        } else if line.contains("HTTP/1.1 204") {
            assert!(!unflushed, "answered before the flush:\n{line}");
            answers += 1;
        }
    }
    assert_eq!(answers, 20, "every answer was seen");
    assert!(flushes >= 20, "{flushes} flushes for {answers} answers");
    println!("{answers} acknowledgements, each after a flush of the log ({flushes} flushes)");
}

//! Hinted handoff between nodes in this process, over real TCP, on storage threads: one dies with all its tasks, misses
//! 5,000 writes, and comes back on the disk it had. Rates are printed, never asserted.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails; nodes live in real time"
)]

mod embedded;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use quorate::cluster::Standing;
use quorate::env::Entropy;
use quorate::kv::{HintAdmin as _, Kv, NodeView as _, WriteOptions};
use quorate::node::{Config, Node};
use quorate::quorum::Level;
use quorate::replica::Audit;
use quorate::storage::memory::MemoryDisk;
use quorate::types::{Bucket, Key, ObjectId};

const PARTITIONS: u32 = 64;
const KEYS: usize = 1000;
const WRITES: usize = 5;

fn addresses() -> Vec<String> {
    let held: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect()
}

/// A process's worth of a node, on a disk that outlives it.
async fn start(number: usize, addresses: &[String], disk: &MemoryDisk) -> Node {
    let mut config = Config::default();
    config.cluster.partitions = PARTITIONS;
    config.node.name = format!("n{number}");
    config.node.peer_address.clone_from(&addresses[number]);
    config.node.client_address = format!("n{number}:1000");
    config.node.seeds = addresses.to_vec();
    Node::builder().config(config).storage(Arc::new(disk.open().unwrap())).start().await.unwrap()
}

async fn all_up(nodes: &[Node]) {
    for node in nodes {
        assert_eq!(node.wait_until_serving().await, Standing::Serving);
        while node.status().members.iter().any(|member| member.state != "up") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn held(node: &Node) -> Audit {
    embedded::audit(node, PARTITIONS)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_and_comes_back_is_sent_what_it_missed_and_nobody_reads() {
    let addresses = addresses();
    let disks: Vec<MemoryDisk> = (0..3).map(|_| MemoryDisk::new(Arc::new(Entropy::system()))).collect();
    let mut nodes = Vec::new();
    for (number, disk) in disks.iter().enumerate() {
        nodes.push(start(number, &addresses, disk).await);
    }
    all_up(&nodes).await;

    let dead = nodes.pop().unwrap();
    dead.env().tasks.cancel();
    while !dead.env().tasks.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    disks[2].kill();
    drop(dead);
    let began = std::time::Instant::now();
    let writes = (0..KEYS).map(|number| {
        let nodes = &nodes;
        async move {
            let id = ObjectId::new(Bucket::new("b").unwrap(), Key::new(format!("k{number}").into_bytes()).unwrap());
            let mut context = None;
            for step in 0..WRITES {
                let (w, timeout) = (Level::Quorum, Duration::from_secs(20));
                let options = WriteOptions { w, timeout, context, ..WriteOptions::default() };
                let value = format!("{number} {step}").into();
                context = nodes[(number + step) % 2].put(id.clone(), value, options).await.unwrap().context;
            }
        }
    });
    futures_util::stream::iter(writes).buffer_unordered(32).for_each(|()| async {}).await;
    let rate = (KEYS * WRITES) as f64 / began.elapsed().as_secs_f64();

    let back = start(2, &addresses, &disks[2]).await;
    let began = std::time::Instant::now();
    nodes.push(back);
    all_up(&nodes).await;
    let mut equal = false;
    for _ in 0..300 {
        // A write that waited for the dead node for a while leaves its hint only after that.
        for node in &nodes {
            assert!(node.wait_for_hints(Duration::from_secs(60), None).await.done, "{:?}", node.hints_view());
        }
        let audits: Vec<Audit> = nodes.iter().map(held).collect();
        equal = audits.iter().all(|audit| audit.records.len() == KEYS && audit.records == audits[0].records);
        if equal {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let took = began.elapsed();
    assert!(equal, "{:?}", nodes.iter().map(|node| (node.hints_view(), held(node).records.len())).collect::<Vec<_>>());
    let (mut left, mut replayed) = (0, 0);
    for node in &nodes {
        let hints = &node.metrics().hints;
        (left, replayed) = (left + hints.left.get(), replayed + hints.replayed.get());
        assert_eq!((hints.all_dropped(), node.metrics().quorum.read_repairs.get()), (0, 0));
        assert!(hints.replayed.get() <= KEYS as u64, "one a key and holder, however often it was written");
    }
    assert!(left >= (KEYS * WRITES) as u64 && replayed >= KEYS as u64, "{left} left, {replayed} replayed");
    println!(
        "{rate:.0} writes a second with one of three dead; back and equal after {took:?}: {left} hints left, {replayed} replayed"
    );
    for node in nodes {
        node.shutdown().await.unwrap();
    }
}

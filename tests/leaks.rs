//! Ten nodes in one process, started and shut down 20 times: no task, file, thread or port is left. The one test of its
//! process, for it counts what the process holds.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::TcpListener;
use std::time::Duration;

use quorate::cluster::Standing;
use quorate::kv::{ErrorCode, Kv, ReadOptions, WriteOptions};
use quorate::node::{Builder, Config, Node};
use quorate::types::{Bucket, Key, ObjectId};

/// Addresses nobody listens on: taken and given back.
fn free_addresses(count: usize) -> Vec<String> {
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect()
}

#[cfg(feature = "rocksdb")]
fn stored(builder: Builder, directory: &std::path::Path) -> Builder {
    builder.data_dir(directory)
}

#[cfg(not(feature = "rocksdb"))]
fn stored(builder: Builder, _: &std::path::Path) -> Builder {
    builder
}

async fn start(directory: &std::path::Path) -> Vec<Node> {
    let addresses = free_addresses(10);
    let mut nodes = Vec::new();
    for (index, address) in addresses.iter().enumerate() {
        let mut config = Config::default();
        config.cluster.partitions = 64;
        config.node.name = format!("n{index}");
        config.node.peer_address = address.clone();
        config.node.seeds = addresses.clone();
        let builder = stored(Node::builder().config(config), &directory.join(format!("n{index}")));
        nodes.push(builder.start().await.unwrap());
    }
    for node in &nodes {
        assert_eq!(node.wait_until_serving().await, Standing::Serving);
    }
    nodes
}

/// Open files (sockets among them) and threads of this process.
fn held() -> (usize, usize) {
    let count = |path| std::fs::read_dir(path).unwrap().count();
    (count("/proc/self/fd"), count("/proc/self/task"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_nodes_twenty_times_leave_nothing_behind() {
    let mut first = None;
    for round in 0..20 {
        let directory = tempfile::tempdir().unwrap();
        let nodes = start(directory.path()).await;
        let id = ObjectId::new(Bucket::new("b").unwrap(), Key::new("k").unwrap());
        // A member that was not heard from yet is down, and the quorum with it: try again as a client would.
        while nodes[round % 10].put(id.clone(), "v".into(), WriteOptions::default()).await.is_err() {
            tokio::task::yield_now().await;
        }
        let found = loop {
            match nodes[0].get(id.clone(), ReadOptions::default()).await {
                Err(error) if error.code == ErrorCode::QuorumUnavailable => tokio::task::yield_now().await,
                found => break found.unwrap(),
            }
        };
        assert_eq!(found.siblings.len(), 1);
        let addresses: Vec<String> = nodes.iter().map(|node| node.config().node.peer_address.clone()).collect();
        for node in &nodes {
            node.shutdown_within(Duration::from_secs(5)).await.unwrap();
            assert_eq!(node.env().tasks.len(), 0, "tasks left in round {round}");
        }
        drop(nodes);
        for address in addresses {
            TcpListener::bind(&address).unwrap_or_else(|error| panic!("{address} is still taken: {error}"));
        }
        // What the first round left, the runtime and the libraries keep for good.
        match first {
            None => first = Some(held()),
            Some((files, threads)) => {
                let now = held();
                assert!(now.0 <= files && now.1 <= threads, "round {round}: {now:?}, {:?} before", (files, threads));
            }
        }
    }
}

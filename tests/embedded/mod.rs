//! Nodes in this process, over real TCP on loopback, their data in memory.
#![allow(dead_code, reason = "each test file uses a part")]

use std::net::TcpListener;

use quorate::cluster::Standing;
use quorate::kv::NodeView;
use quorate::node::{Config, Node};
use quorate::replica;
use quorate::ring::Grid;

/// Partitions of their ring.
pub(crate) const PARTITIONS: u32 = 64;

/// What a node's own store holds, read past everything that serves it, with nothing amiss. An audit is many reads of a
/// store that goes on working: what it finds amiss counts once the store stood still and it is found again.
pub(crate) fn audit(node: &Node, partitions: u32) -> replica::Audit {
    let grid = Grid::new(partitions).unwrap();
    let mut before = None;
    loop {
        let audit = replica::audit(&**node.replica().storage(), grid).unwrap();
        if audit.wrong.is_empty() {
            return audit;
        }
        assert_ne!(before, Some(audit.clone()), "it says so twice");
        before = Some(audit);
    }
}

/// Addresses nobody listens on: taken and given back.
fn free_addresses(count: usize) -> Vec<String> {
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect()
}

pub(crate) async fn cluster(size: usize) -> Vec<Node> {
    cluster_with(size, |_| {}).await
}

fn config(name: &str, address: &str, seeds: Vec<String>) -> Config {
    let mut config = Config::default();
    config.cluster.partitions = PARTITIONS;
    config.node.name = name.into();
    config.node.peer_address = address.into();
    config.node.client_address = format!("{name}:1000");
    config.node.seeds = seeds;
    config
}

/// A node with an empty directory that asks these to be taken in.
pub(crate) async fn joiner(name: &str, members: &[Node]) -> Node {
    let seeds = members.iter().map(|node| node.config().node.peer_address.clone()).collect();
    let address = free_addresses(1).remove(0);
    Node::builder().config(config(name, &address, seeds)).start().await.unwrap()
}

pub(crate) async fn cluster_with(size: usize, adjust: impl Fn(&mut Config)) -> Vec<Node> {
    let addresses = free_addresses(size);
    let mut nodes = Vec::new();
    for (index, address) in addresses.iter().enumerate() {
        let seeds = if size == 1 { Vec::new() } else { addresses.clone() };
        let mut config = config(&format!("n{}", index + 1), address, seeds);
        adjust(&mut config);
        nodes.push(Node::builder().config(config).start().await.unwrap());
    }
    for node in &nodes {
        assert_eq!(node.wait_until_serving().await, Standing::Serving);
    }
    // Serving needs no quorum; these tests do.
    for node in &nodes {
        while node.status().members.iter().any(|member| member.state != "up") {
            tokio::task::yield_now().await;
        }
    }
    nodes
}

pub(crate) async fn stop(nodes: Vec<Node>) {
    for node in nodes {
        node.shutdown().await.unwrap();
        assert_eq!(node.env().tasks.len(), 0, "tasks left");
    }
}

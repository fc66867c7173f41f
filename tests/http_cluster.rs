//! The client listeners of three real nodes: the same spellings and the same mistakes as before a mock, and what is
//! then stored on each node.
#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod edge;
mod embedded;

use std::sync::Arc;

use edge::spelling::{self, Listeners};
use quorate::http::{Api, RequestLimits, ServeLimits, TcpSocket, client_router, serve};
use quorate::kv::{Kv, ReadOptions};
use quorate::node::Node;
use quorate::quorum::Level;
use quorate::types::ObjectId;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

struct Cluster {
    nodes: Vec<Node>,
    listeners: Listeners,
    stop: CancellationToken,
}

async fn three() -> Cluster {
    let (nodes, stop, mut addresses) = (embedded::cluster(3).await, CancellationToken::new(), Vec::new());
    for node in &nodes {
        let (env, metrics) = (node.env().clone(), Arc::clone(node.metrics()));
        let (kv, view) = (Arc::new(node.clone()), Arc::new(node.clone()));
        let api = Arc::new(Api::new(kv, view, metrics.clone(), env.clone(), RequestLimits::default()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.push(listener.local_addr().unwrap());
        let socket = TcpSocket::new(listener, env.clone());
        let served = serve(socket, client_router(api), ServeLimits::default(), env.clone(), metrics, stop.clone());
        env.tasks.spawn(served);
    }
    Cluster { nodes, listeners: Listeners(addresses), stop }
}

impl Cluster {
    /// What every single node counts under a name when all replicas are asked.
    async fn siblings(&self, id: &ObjectId) -> usize {
        let mut counts = Vec::new();
        for node in &self.nodes {
            let options = ReadOptions { r: Level::All, ..ReadOptions::default() };
            counts.push(node.get(id.clone(), options).await.unwrap().siblings.len());
        }
        assert!(counts.iter().all(|count| *count == counts[0]), "{id}: {counts:?}");
        counts[0]
    }

    /// Objects in each node's own store, read past everything that serves them.
    fn objects(&self) -> Vec<usize> {
        let objects = |node: &Node| embedded::audit(node, embedded::PARTITIONS).records.len();
        self.nodes.iter().map(objects).collect()
    }

    async fn end(self) {
        self.stop.cancel();
        embedded::stop(self.nodes).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_key_can_be_named_at_any_node_and_is_stored_under_that_name_on_all() {
    let cluster = three().await;
    let stored = async |id: &ObjectId| cluster.siblings(id).await;
    let objects = spelling::every_key_can_be_named(&cluster.listeners, stored).await;
    assert_eq!(cluster.objects(), [objects; 3]);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_refused_by_any_node_and_nothing_is_stored_on_any() {
    let cluster = three().await;
    spelling::what_is_wrong_is_refused(&cluster.listeners).await;
    assert_eq!(cluster.objects(), [0; 3]);
    spelling::sloppy_writes_are_taken(&cluster.listeners).await;
    assert_eq!(cluster.objects(), [1; 3]);
    // A sloppy read cannot promise what owners hold.
    let target = "/v1/kv/b/sloppy?sloppy=on&repair=sync";
    let both = edge::send(cluster.listeners.of_turn(1), "GET", target, &[], b"").await;
    assert_eq!((both.status, both.problem()), (400, "bad_parameter".to_owned()), "{both:?}");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contexts_are_checked_by_any_node() {
    let cluster = three().await;
    let stored = async |id: &ObjectId| cluster.siblings(id).await;
    spelling::contexts_are_checked(&cluster.listeners, stored).await;
    assert_eq!(cluster.objects(), [1; 3]);
    cluster.end().await;
}

/// Written through one node, one replica each, and read through the next one at once, one replica each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_batch_wrote_at_one_node_the_next_reads_by_its_floors() {
    let cluster = three().await;
    for round in 0..12 {
        let results = async |turn: usize, ops: Vec<Value>| {
            let body = json!({ "ops": ops }).to_string();
            let answer = edge::send(cluster.listeners.of_turn(turn), "POST", "/v1/batch", &[], body.as_bytes()).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            answer.json()["results"].as_array().unwrap().clone()
        };
        let put = |at| json!({"op": "put", "bucket": "b", "key": format!("{round}/{at}"), "value": "v", "w": "one"});
        let wrote = results(round, (0..20).map(put).collect()).await;
        assert!(wrote.iter().all(|result| result["status"] == 204 && result["outcome"] == "applied"), "{wrote:?}");
        let get = |(at, result): (usize, &Value)| {
            let key = format!("{round}/{at}");
            json!({"op": "get", "bucket": "b", "key": key, "r": "one", "floor": result["floor"]})
        };
        let read = results(round + 1, wrote.iter().enumerate().map(get).collect()).await;
        let missed = read.iter().filter(|result| result["value_b64"] != "dg").count();
        assert_eq!(missed, 0, "{read:?}");
    }
    cluster.end().await;
}

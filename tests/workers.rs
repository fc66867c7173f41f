//! Workers of real nodes, over HTTP and through the client: seen, paused, resumed, run; and what `status` says meanwhile.
#![cfg(all(feature = "http", feature = "client"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails; nodes live in real time"
)]

mod edge;
mod embedded;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quorate::client::{Client, ClientConfig};
use quorate::env::Env;
use quorate::http::{Api, RequestLimits, ServeLimits, TcpSocket, admin_router, serve};
use quorate::kv::layouts::{CommitRequest, PlanRequest};
use quorate::kv::{Attention, ErrorCode, LayoutAdmin as _, NodeView as _, RepairRequest, Steer, WorkerAdmin as _};
use quorate::node::Node;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const WORKERS: [&str; 9] =
    ["mending", "transfers", "leftovers", "purging", "expiry", "collection", "anti-entropy", "hints", "scrub"];

async fn admin_of(node: &Node, stop: &CancellationToken) -> SocketAddr {
    let (env, metrics) = (node.env().clone(), Arc::clone(node.metrics()));
    let (kv, view) = (Arc::new(node.clone()), Arc::new(node.clone()));
    let api = Arc::new(Api::new(kv, view, metrics.clone(), env.clone(), RequestLimits::default()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let socket = TcpSocket::new(listener, env.clone());
    let served = serve(socket, admin_router(api, None), ServeLimits::default(), env.clone(), metrics, stop.clone());
    env.tasks.spawn(served);
    address
}

fn client_of(admin: SocketAddr) -> Client {
    let mut config = ClientConfig::new(["http://127.0.0.1:1"]);
    config.admin_endpoints = vec![format!("http://{admin}")];
    Client::new(config, Env::real()).unwrap()
}

fn paused(node: &Node) -> Vec<Attention> {
    node.status().attention.into_iter().filter(|attention| attention.code == "paused").collect()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_are_listed_paused_resumed_and_run() {
    let (nodes, stop) = (embedded::cluster(1).await, CancellationToken::new());
    let admin = admin_of(&nodes[0], &stop).await;
    let client = client_of(admin);
    let said = client.workers().await.unwrap();
    assert_eq!(said.node, "n1");
    assert_eq!(said.workers.iter().map(|worker| worker.name.as_str()).collect::<Vec<_>>(), WORKERS);
    assert!(said.workers.iter().all(|worker| !worker.about.is_empty() && worker.state != "paused"), "{said:?}");
    let rate = said.workers.iter().find(|worker| worker.name == "anti-entropy").unwrap().rate;
    assert_eq!(rate, Some(16 << 20), "{said:?}");

    let told = client.steer("anti-entropy", Steer::Pause).await.unwrap();
    assert_eq!((told.name.as_str(), told.state.as_str()), ("anti-entropy", "paused"));
    let attention = paused(&nodes[0]);
    assert_eq!(attention.len(), 1, "{attention:?}");
    assert_eq!(attention[0].command, "quorate workers resume anti-entropy");
    assert_ne!(client.steer("anti-entropy", Steer::Resume).await.unwrap().state, "paused");
    assert_eq!(paused(&nodes[0]), []);

    // By itself it begins half a minute after the start, at the earliest.
    client.steer("expiry", Steer::Run).await.unwrap();
    let expiry = || nodes[0].workers_view().workers.into_iter().find(|worker| worker.name == "expiry").unwrap();
    until("it runs", || expiry().runs == 1 && expiry().ended.is_some()).await;

    let refused = client.steer("nobody", Steer::Run).await.unwrap_err();
    assert!(refused.code == ErrorCode::NotKnown && refused.detail.contains("anti-entropy, hints"), "{refused:?}");
    let post = async |path: &str| edge::send(admin, "POST", path, &[], b"").await;
    let wrong = post("/admin/workers/hints/stop").await;
    assert_eq!((wrong.status, wrong.problem().as_str()), (404, "not_known"));
    assert!(wrong.json()["detail"].as_str().unwrap().contains("pause, resume or run"), "{:?}", wrong.json());
    assert_eq!(post("/admin/workers").await.problem(), "method_not_allowed");
    assert_eq!(post("/admin/workers/hints").await.problem(), "no_such_route");
    assert_eq!(post("/admin/workers/hints/run?now=1").await.problem(), "bad_parameter");
    stop.cancel();
    embedded::stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_is_begun_over_http_and_followed() {
    let (nodes, stop) = (embedded::cluster(3).await, CancellationToken::new());
    let admin = admin_of(&nodes[1], &stop).await;
    let client = client_of(admin);
    let begun = client.begin_repair(&RepairRequest { dry_run: true, ..RepairRequest::default() }).await.unwrap();
    assert!(begun.node == "n2" && begun.id.starts_with("repair-"), "{begun:?}");
    let operation = loop {
        let operation = client.operation(&begun.id).await.unwrap();
        if operation.state != "running" {
            break operation;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let repair = operation.repair.clone().unwrap();
    assert_eq!((operation.state.as_str(), operation.total), ("done", 2 * u64::from(embedded::PARTITIONS)));
    assert_eq!((repair.compared, repair.keys, repair.dry_run), (operation.total, 0, true), "{repair:?}");
    let post = async |body: &str| edge::send(admin, "POST", "/admin/repairs", &[], body.as_bytes()).await;
    assert_eq!(post(r#"{"partition":3}"#).await.status, 202);
    for (body, says) in [
        (r#"{"partition":64}"#, "0 to 63, got 64"),
        (r#"{"bucket":""}"#, "bucket"),
        (r#"{"partitions":3}"#, "unknown field"),
        (r#"{"accept_data_loss":true}"#, "one partition"),
    ] {
        let refused = post(body).await;
        assert_eq!((refused.status, refused.problem().as_str()), (400, "bad_parameter"), "{body}");
        assert!(refused.json()["detail"].as_str().unwrap().contains(says), "{body}: {:?}", refused.json());
    }
    let get = async |path: &str| edge::send(admin, "GET", path, &[], b"").await;
    assert_eq!(get("/admin/repairs").await.problem(), "method_not_allowed");
    assert_eq!(get("/admin/operations/repair-1").await.problem(), "not_known");
    stop.cancel();
    embedded::stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_waits_for_paused_transfers_says_so_and_goes_on_when_they_are_resumed() {
    let nodes = embedded::cluster(4).await;
    nodes[0].steer("transfers", Steer::Pause).unwrap();
    let leave = PlanRequest { leave: vec!["n4".into()], ..PlanRequest::default() };
    let plan = nodes[1].plan(leave).await.unwrap();
    let version = plan.version;
    nodes[1].commit(plan.id, CommitRequest { version, ..CommitRequest::default() }).await.unwrap();
    until("n1 knows it", || nodes[0].layout().head.is_some_and(|head| head.version == version)).await;
    let merges = |node: &Node| node.layout().waits_for.iter().map(|wait| wait.member.clone()).collect::<Vec<_>>();
    until("n1 is waited for", || merges(&nodes[1]).contains(&"n1".to_owned())).await;
    let attention = paused(&nodes[0]);
    let text = format!("layout {version} waits for it");
    assert!(attention.len() == 1 && attention[0].text.contains(&text), "{attention:?}");
    assert_eq!(attention[0].command, "quorate workers resume transfers");
    until("n2 has heard of it", || paused(&nodes[1]).iter().any(|one| one.text.contains("n1"))).await;
    assert!(!nodes[1].layout().complete);
    nodes[0].steer("transfers", Steer::Resume).unwrap();
    until("it is complete", || nodes[..3].iter().all(|node| node.layout().complete)).await;
    assert_eq!(paused(&nodes[0]), []);
    embedded::stop(nodes).await;
}

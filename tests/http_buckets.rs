//! Buckets over HTTP, on three real nodes: created, changed, emptied and deleted through any of them, and what that does
//! to the objects in them.
#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod edge;
mod embedded;

use std::net::SocketAddr;
use std::sync::Arc;

use edge::Response;
use quorate::http::{Api, RequestLimits, ServeLimits, TcpSocket, client_router, serve};
use quorate::node::Node;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

struct Cluster {
    nodes: Vec<Node>,
    addresses: Vec<SocketAddr>,
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
    Cluster { nodes, addresses, stop }
}

impl Cluster {
    async fn send(&self, at: usize, verb: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        edge::send(self.addresses[at], verb, target, headers, body).await
    }

    /// Changes a bucket as it is now, or creates it.
    async fn set(&self, at: usize, bucket: &str, document: &Value) -> Response {
        let target = format!("/v1/buckets/{bucket}");
        let now = self.send(at, "GET", &target, &[], b"").await;
        let guard = match now.header("etag") {
            Some(etag) => ("if-match", etag.to_owned()),
            None => ("if-none-match", "*".to_owned()),
        };
        self.send(at, "PUT", &target, &[(guard.0, &guard.1)], document.to_string().as_bytes()).await
    }

    async fn bucket(&self, at: usize, bucket: &str) -> Value {
        self.send(at, "GET", &format!("/v1/buckets/{bucket}"), &[], b"").await.json()
    }

    /// Waits until all nodes show the bucket as this one does.
    async fn agree(&self, bucket: &str) -> Value {
        loop {
            let mut views = Vec::new();
            for at in 0..3 {
                views.push(self.bucket(at, bucket).await);
            }
            if views.iter().all(|view| *view == views[0] && view["waits_for"] == json!([])) {
                return views.remove(0);
            }
            tokio::task::yield_now().await;
        }
    }

    async fn put(&self, at: usize, key: &str, value: &str) -> Response {
        self.send(at, "PUT", &format!("/v1/kv/{key}"), &[], value.as_bytes()).await
    }

    async fn get(&self, at: usize, key: &str) -> Response {
        self.send(at, "GET", &format!("/v1/kv/{key}"), &[], b"").await
    }

    /// What each node's own store holds, checked.
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
async fn a_bucket_is_made_changed_and_taken_away_through_any_node() {
    let cluster = three().await;
    let fresh = cluster.send(0, "GET", "/v1/buckets/orders", &[], b"").await;
    assert_eq!((fresh.status, fresh.header("etag")), (200, None));
    let fresh = fresh.json();
    assert_eq!((&fresh["configured"], &fresh["n"], &fresh["r"]), (&json!(false), &json!(3), &json!("quorum")));
    assert_eq!(cluster.send(1, "GET", "/v1/buckets", &[], b"").await.json(), json!({"buckets": []}));

    let made = cluster.set(0, "orders", &json!({"w": "all", "max_siblings": 5})).await;
    assert_eq!(made.status, 201, "{:?}", made.json());
    let view = cluster.agree("orders").await;
    assert_eq!(
        (&view["w"], &view["max_siblings"], &view["layout"], &view["configured"]),
        (&json!("all"), &json!(5), &json!(2), &json!(true))
    );
    assert_eq!(view["defaults"], json!(["r", "blind_writes", "max_value", "max_object"]));

    // Nobody's change is lost unseen.
    let target = "/v1/buckets/orders";
    let unguarded = cluster.send(1, "PUT", target, &[], b"{}").await;
    assert_eq!((unguarded.status, unguarded.problem().as_str()), (428, "precondition_required"));
    let old = made.header("etag").unwrap().to_owned();
    let changed = cluster.send(1, "PUT", target, &[("if-match", &old)], br#"{"w":2,"blind_writes":"overwrite"}"#).await;
    assert_eq!(changed.status, 200, "{:?}", changed.json());
    let stale = cluster.send(2, "PUT", target, &[("if-match", &old)], br#"{"w":1}"#).await;
    assert_eq!((stale.status, stale.problem().as_str()), (412, "precondition_failed"));
    let again = cluster.send(2, "PUT", target, &[("if-none-match", "*")], b"{}").await;
    assert_eq!(again.status, 412);
    let view = cluster.agree("orders").await;
    assert_eq!(
        (&view["w"], &view["blind_writes"], &view["max_siblings"]),
        (&json!("2"), &json!("overwrite"), &json!(64))
    );
    assert_eq!(view["layout"], json!(2), "levels and limits need no layout");
    let listed = cluster.send(2, "GET", "/v1/buckets", &[], b"").await.json();
    assert_eq!(listed["buckets"].as_array().unwrap().len(), 1);

    let gone = cluster.send(2, "DELETE", target, &[], b"").await;
    assert_eq!((gone.status, &gone.json()["configured"]), (200, &json!(false)));
    let view = cluster.agree("orders").await;
    assert_eq!((&view["w"], &view["generation"]), (&json!("quorum"), &json!(1)), "its settings are gone with it");
    let twice = cluster.send(0, "DELETE", target, &[], b"").await;
    assert_eq!((twice.status, twice.problem().as_str()), (404, "not_known"));
    let anew = cluster.set(1, "orders", &json!({"mode": "lww"})).await;
    assert_eq!((anew.status, &anew.json()["generation"]), (201, &json!(1)));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_bucket_cannot_be_is_refused_and_nothing_is_changed() {
    let cluster = three().await;
    assert_eq!(cluster.set(0, "b", &json!({"mode": "lww"})).await.status, 201);
    let before = cluster.agree("b").await;
    for (document, status, code, why) in [
        (r#"{"n":0}"#, 400, "bad_parameter", "n is 1 to 5"),
        (r#"{"n":6}"#, 400, "bad_parameter", "n is 1 to 5"),
        (r#"{"w":4}"#, 400, "bad_parameter", "w is 1 to n (3)"),
        (r#"{"n":2,"w":3}"#, 400, "bad_parameter", "w is 1 to n (2)"),
        (r#"{"mode":"siblings"}"#, 400, "bad_parameter", "mode is fixed"),
        (r#"{"mode":"cas"}"#, 400, "bad_parameter", "siblings, lww"),
        (r#"{"regions":{"mars":1}}"#, 400, "bad_parameter", "no member stands in"),
        (r#"{"max_sibling":1}"#, 400, "bad_parameter", "max_siblings"),
        (r#"{"n":"#, 400, "bad_parameter", "the body"),
        (r#"{"role":"cache"}"#, 501, "not_yet", "role = cache"),
        (r#"{"ttl":"60"}"#, 400, "bad_parameter", "such as 500ms"),
        (r#"{"r":"any"}"#, 400, "bad_parameter", "any is a level of writes"),
    ] {
        let etag = format!("\"{}\"", before["etag"].as_str().unwrap());
        let refused = cluster.send(1, "PUT", "/v1/buckets/b", &[("if-match", &etag)], document.as_bytes()).await;
        assert_eq!((refused.status, refused.problem().as_str()), (status, code), "{document}");
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(why), "{document}: {detail:?} does not say {why:?}");
        assert_eq!(refused.json()["outcome"], "not_applied");
    }
    assert_eq!(cluster.agree("b").await, before);
    for (verb, target, status) in [
        ("POST", "/v1/buckets", 405),
        ("POST", "/v1/buckets/b", 405),
        ("GET", "/v1/buckets/b/purge", 405),
        ("GET", "/v1/buckets/b/other", 404),
        ("GET", "/v1/buckets/b/keys", 200),
        ("POST", "/v1/buckets/b/keys", 405),
        ("GET", "/v1/buckets/a%2Fb", 400),
        ("GET", "/v1/buckets/b?w=1", 400),
    ] {
        assert_eq!(cluster.send(0, verb, target, &[], b"").await.status, status, "{verb} {target}");
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_go_by_what_their_bucket_says() {
    let cluster = three().await;
    let mut document = json!({"r": 1, "w": "all", "blind_writes": "reject", "max_value": 8, "max_siblings": 2});
    assert_eq!(cluster.set(0, "b", &document).await.status, 201);
    cluster.agree("b").await;

    for at in 0..3 {
        let refused = cluster.put(at, "b/k", "v").await;
        assert_eq!((refused.status, refused.problem().as_str()), (428, "context_required"));
        let refused = cluster.send(at, "DELETE", "/v1/kv/b/k", &[], b"").await;
        assert_eq!(refused.status, 428);
        let missing = cluster.get(at, "b/k").await;
        assert_eq!(missing.header("quorate-replicas").and_then(|text| text.split('/').nth(1)), Some("1"), "r = 1");
        let context = missing.header("quorate-context").unwrap().to_owned();
        let guarded = [("quorate-context", &*context)];
        let long = cluster.send(at, "PUT", &format!("/v1/kv/b/k{at}"), &guarded, b"123456789").await;
        assert_eq!((long.status, long.problem().as_str()), (413, "value_too_large"));
    }
    let context = cluster.get(0, "b/k").await.header("quorate-context").unwrap().to_owned();
    let put = cluster.send(0, "PUT", "/v1/kv/b/k", &[("quorate-context", &context)], b"one").await;
    assert_eq!(put.status, 204, "an empty context is a context");
    assert_eq!(put.header("quorate-replicas"), Some("3/3/3"), "w = all");
    assert_eq!(cluster.put(0, "other/k", "longer than eight").await.status, 204, "other buckets have the defaults");

    document["blind_writes"] = json!("sibling");
    assert_eq!(cluster.set(1, "b", &document).await.status, 200);
    cluster.agree("b").await;
    let second = cluster.put(1, "b/k", "two").await;
    assert_eq!((second.status, second.header("quorate-siblings")), (204, Some("2")));
    let third = cluster.put(2, "b/k", "three").await;
    assert_eq!((third.status, third.problem().as_str()), (409, "too_many_siblings"));

    document["blind_writes"] = json!("overwrite");
    assert_eq!(cluster.set(2, "b", &document).await.status, 200);
    cluster.agree("b").await;
    assert_eq!(cluster.put(0, "b/k", "last").await.status, 204);
    let read = cluster.get(1, "b/k").await;
    assert_eq!((read.status, &read.body[..]), (200, &b"last"[..]), "it superseded what its coordinator saw");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_lww_the_last_write_wins_and_nobody_sees_a_conflict() {
    let cluster = three().await;
    assert_eq!(cluster.put(0, "b/before", "one").await.status, 204);
    assert_eq!(cluster.put(1, "b/before", "two").await.header("quorate-siblings"), Some("2"));
    assert_eq!(cluster.set(0, "b", &json!({"mode": "lww"})).await.status, 201);
    cluster.agree("b").await;

    let mut contexts = Vec::new();
    for (at, value) in [(0, "one"), (1, "two"), (2, "three")] {
        let put = cluster.put(at, "b/k", value).await;
        assert_eq!((put.status, put.header("quorate-siblings")), (204, None), "a blind write stands alone");
        contexts.push(put.header("quorate-context").unwrap().to_owned());
    }
    for at in 0..3 {
        let read = cluster.get(at, "b/k").await;
        assert_eq!((read.status, &read.body[..], read.header("quorate-siblings")), (200, &b"three"[..], None));
    }
    // A context that does not cover what came since is no conflict either: the later stamp stays.
    let old = cluster.send(1, "PUT", "/v1/kv/b/k", &[("quorate-context", &contexts[0])], b"four").await;
    assert_eq!((old.status, old.header("quorate-siblings")), (204, None));
    let envelope = [("accept", "application/vnd.quorate.object+json")];
    let read = cluster.send(2, "GET", "/v1/kv/b/k", &envelope, b"").await.json();
    assert_eq!(read["siblings"].as_array().unwrap().len(), 1);
    assert_eq!(read["siblings"][0]["value"], "four");

    // The same request twice is one write, also once it was superseded.
    let keyed = [("idempotency-key", "once")];
    let first = cluster.send(0, "PUT", "/v1/kv/b/k", &keyed, b"five").await;
    assert_eq!((first.status, first.header("quorate-replayed")), (204, None));
    assert_eq!(cluster.put(1, "b/k", "six").await.status, 204);
    let replayed = cluster.send(2, "PUT", "/v1/kv/b/k", &keyed, b"five").await;
    assert_eq!((replayed.status, replayed.header("quorate-replayed")), (204, Some("true")));
    assert_eq!(replayed.header("quorate-context"), None, "what stands there it was not shown");
    assert_eq!(cluster.get(0, "b/k").await.body, b"six");

    let deleted = cluster.send(2, "DELETE", "/v1/kv/b/k", &[], b"").await;
    assert_eq!((deleted.status, cluster.get(0, "b/k").await.status), (204, 404));

    // What was there before the bucket was made is settled by its mode as soon as it is written or merged.
    assert_eq!(cluster.get(0, "b/before").await.status, 409, "nobody has touched it yet");
    assert_eq!(cluster.put(2, "b/before", "three").await.header("quorate-siblings"), None);
    assert_eq!(cluster.get(1, "b/before").await.body, b"three");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_emptied_is_gone_from_every_node_and_disk_and_never_comes_back() {
    let cluster = three().await;
    for key in 0..40 {
        assert_eq!(cluster.put(key % 3, &format!("b/{key}"), "old").await.status, 204);
        assert_eq!(cluster.put(key % 3, &format!("kept/{key}"), "old").await.status, 204);
    }
    let context = cluster.get(0, "b/1").await.header("quorate-context").unwrap().to_owned();
    let purged = cluster.send(1, "POST", "/v1/buckets/b/purge", &[], b"").await;
    assert_eq!((purged.status, &purged.json()["generation"]), (200, &json!(1)));
    for key in 0..40 {
        assert_eq!(cluster.get(key % 3, &format!("b/{key}")).await.status, 404);
        assert_eq!(cluster.get(key % 3, &format!("kept/{key}")).await.status, 200);
    }
    // A context of before is one of this key still, and brings nothing back.
    let put = cluster.send(2, "PUT", "/v1/kv/b/1", &[("quorate-context", &context)], b"new").await;
    assert_eq!(put.status, 204, "{}", String::from_utf8_lossy(&put.body));
    assert_eq!(cluster.get(0, "b/1").await.body, b"new");
    while cluster.objects() != [41; 3] {
        tokio::task::yield_now().await;
    }
    let proofs: u64 = cluster.nodes.iter().map(|node| node.metrics().replica.rollback_proofs.get()).sum();
    assert_eq!(proofs, 0, "nobody has forgotten what the context names");
    let dropped: u64 = cluster.nodes.iter().map(|node| node.metrics().replica.purged.get()).sum();
    assert_eq!(dropped, 3 * 40, "each node dropped what it had");
    assert_eq!(cluster.get(1, "b/1").await.body, b"new");
    cluster.end().await;
}

/// Two nodes are asked for different buckets, and for the same, at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_at_once_come_one_after_the_other_and_of_one_bucket_only_one_is_made() {
    let cluster = three().await;
    let (a, b, empty) = (json!({"n": 3}), json!({"mode": "lww"}), json!({}));
    let (one, two) = tokio::join!(cluster.set(0, "a", &a), cluster.set(1, "b", &b));
    assert_eq!((one.status, two.status), (201, 201));
    let (one, two) = tokio::join!(cluster.set(0, "c", &empty), cluster.set(2, "c", &b));
    let mut both = [one.status, two.status];
    both.sort_unstable();
    assert_eq!(both, [201, 412], "who comes second is told that it is there");
    let listed = cluster.send(1, "GET", "/v1/buckets", &[], b"").await.json();
    assert_eq!(listed["buckets"].as_array().unwrap().len(), 3);
    cluster.end().await;
}

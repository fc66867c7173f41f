//! Lists of keys over HTTP: pages, lines, cursors, gaps; and the client that goes through them.
#![cfg(all(feature = "http", feature = "client"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod edge;

use std::net::SocketAddr;
use std::sync::Arc;

use quorate::client::{Client, ClientConfig};
use quorate::env::Env;
use quorate::http::{Api, RequestLimits, ServeLimits, TcpSocket, client_router, serve};
use quorate::kv::mock::{MockKv, MockNode, write_timeout};
use quorate::kv::wire::{KeyDocument, TrailerLine};
use quorate::kv::{ErrorCode, KeyGap, Kv, ListOptions, Pages, ReplicaReport, WriteOptions};
use quorate::metrics::Metrics;
use quorate::types::{Bucket, Key, ObjectId};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

struct Server {
    address: SocketAddr,
    kv: Arc<MockKv>,
}

async fn server() -> Server {
    let (kv, metrics, env) = (Arc::new(MockKv::default()), Arc::new(Metrics::new()), Env::real());
    let node = Arc::new(MockNode::default());
    let api = Arc::new(Api::new(kv.clone(), node, metrics.clone(), env.clone(), RequestLimits::default()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (socket, stop) = (TcpSocket::new(listener, env.clone()), CancellationToken::new());
    env.tasks.spawn(serve(socket, client_router(api), ServeLimits::default(), env.clone(), metrics, stop));
    Server { address, kv }
}

fn id(key: &[u8]) -> ObjectId {
    ObjectId::new(Bucket::new("b").unwrap(), Key::new(key.to_vec()).unwrap())
}

impl Server {
    async fn with(keys: &[&[u8]]) -> Self {
        let server = server().await;
        for key in keys {
            server.kv.put(id(key), "v".into(), WriteOptions::default()).await.unwrap();
        }
        server
    }

    async fn get(&self, query: &str) -> edge::Response {
        edge::send(self.address, "GET", &format!("/v1/buckets/b/keys{query}"), &[], b"").await
    }

    /// The lines of an answer whose end is the connection's.
    async fn lines(&self, query: &str) -> Vec<Value> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!("GET /v1/buckets/b/keys{query} HTTP/1.0\r\naccept: application/x-ndjson\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("200 OK") && head.contains("content-type: application/x-ndjson"), "{answer}");
        body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn names(keys: &Value) -> Vec<String> {
    keys.as_array().unwrap().iter().map(|key| key["key"].as_str().unwrap_or("-").to_owned()).collect()
}

fn gap() -> Vec<KeyGap> {
    let replicas = vec![ReplicaReport { node: "n2".into(), state: "down".into() }];
    vec![KeyGap { partitions: vec![3, 17], replicas }]
}

#[tokio::test]
async fn pages_follow_each_other_in_byte_order() {
    let server = Server::with(&[b"b/2", b"a/1", b"b/1", b"c\xff", b"b/3"]).await;
    server.kv.delete(id(b"b/2"), WriteOptions::default()).await.unwrap();
    let all = server.get("").await;
    assert_eq!((all.status, all.header("content-type")), (200, Some("application/json")));
    let all = all.json();
    assert_eq!(names(&all["keys"]), ["a/1", "b/1", "b/3", "-"], "what was deleted is not listed");
    assert_eq!((&all["cursor"], &all["gaps"], &all["bucket"]), (&Value::Null, &json!([]), &json!("b")));
    assert_eq!(all["keys"][3]["key_b64"], "Y_8", "a key that is no text has its bytes alone");
    assert!(all["keys"][0].get("values").is_none());
    let etag = edge::send(server.address, "GET", "/v1/kv/b/a/1", &[], b"").await;
    assert_eq!(etag.header("etag").unwrap(), format!("\"{}\"", all["keys"][0]["etag"].as_str().unwrap()));

    let first = server.get("?prefix=b%2F&limit=1&values=1").await.json();
    assert_eq!(names(&first["keys"]), ["b/1"]);
    assert_eq!(first["keys"][0]["values"][0]["value"], "v");
    let cursor = first["cursor"].as_str().unwrap();
    let rest = server.get(&format!("?prefix_b64=Yi8&cursor={cursor}")).await.json();
    assert_eq!((names(&rest["keys"]), &rest["cursor"]), (vec!["b/3".to_owned()], &Value::Null));
    for wrong in
        [&format!("?cursor={cursor}"), &format!("?prefix=c&cursor={cursor}"), "?cursor=x", "?limit=10001", "?w=1"]
    {
        let refused = server.get(wrong).await;
        assert_eq!((refused.status, refused.problem().as_str()), (400, "bad_parameter"), "{wrong}");
    }
    let post = edge::send(server.address, "POST", "/v1/buckets/b/keys", &[], b"").await;
    assert_eq!((post.status, post.header("allow")), (405, Some("GET, HEAD")));
    let head = edge::send(server.address, "HEAD", "/v1/buckets/b/keys", &[], b"").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[tokio::test]
async fn a_page_names_its_gaps() {
    let server = Server::with(&[b"a"]).await;
    server.kv.leave_gaps(gap());
    let page = server.get("").await.json();
    assert_eq!(page["gaps"], json!([{"partitions": [3, 17], "replicas": [{"node": "n2", "state": "down"}]}]));
}

#[tokio::test]
async fn lines_end_with_what_is_to_be_said_of_all_of_them() {
    let keys: Vec<String> = (0..2500).map(|number| format!("k{number:04}")).collect();
    let server = Server::with(&keys.iter().map(String::as_bytes).collect::<Vec<_>>()).await;
    let lines = server.lines("").await;
    let (trailer, listed) = lines.split_last().unwrap();
    assert_eq!(trailer, &json!({"trailer": {"complete": true, "keys": 2500, "cursor": null, "gaps": []}}));
    let listed: Vec<KeyDocument> = listed.iter().map(|line| serde_json::from_value(line.clone()).unwrap()).collect();
    assert_eq!(listed.iter().map(|key| key.key.clone().unwrap()).collect::<Vec<_>>(), keys);

    // A limit counts lines, over all pages.
    let lines = server.lines("?limit=1200").await;
    assert_eq!(lines.len(), 1201);
    let trailer: TrailerLine = serde_json::from_value(lines[1200].clone()).unwrap();
    assert!(!trailer.trailer.complete, "there is more");
    let cursor = trailer.trailer.cursor.unwrap().0;
    let rest = server.lines(&format!("?cursor={cursor}")).await;
    assert_eq!((rest.len(), &rest[0]["key"]), (1301, &json!("k1200")));
    let trailer: TrailerLine = serde_json::from_value(rest[1300].clone()).unwrap();
    assert!(trailer.trailer.complete);

    server.kv.leave_gaps(gap());
    let lines = server.lines("").await;
    let trailer: TrailerLine = serde_json::from_value(lines.last().unwrap().clone()).unwrap();
    assert_eq!((trailer.trailer.complete, trailer.trailer.gaps), (false, gap()), "each is named once");

    // What cannot be begun is a problem; what cannot be gone on with says so at its end.
    server.kv.fail_next(write_timeout());
    let accept = [("accept", "application/x-ndjson")];
    let refused = edge::send(server.address, "GET", "/v1/buckets/b/keys", &accept, b"").await;
    assert_eq!((refused.status, refused.problem().as_str()), (504, "write_timeout"));
}

#[tokio::test]
async fn the_client_goes_through_pages_as_the_store_itself_does() {
    let keys: Vec<String> = (0..50).map(|number| format!("k {number:02}")).collect();
    let server = Server::with(&keys.iter().map(String::as_bytes).collect::<Vec<_>>()).await;
    server.kv.put(id(b"k 07"), "w".into(), WriteOptions::default()).await.unwrap();
    let client = Client::new(ClientConfig::new([format!("http://{}", server.address)]), Env::real()).unwrap();
    let options = ListOptions { prefix: "k ".into(), limit: 7, values: true, ..ListOptions::default() };
    let stores: [&dyn Kv; 2] = [&client, &*server.kv];
    let mut told = Vec::new();
    for kv in stores {
        let mut pages = Pages::new(kv, Bucket::new("b").unwrap(), options.clone());
        let mut all = Vec::new();
        while let Some(page) = pages.next().await {
            all.extend(page.unwrap().keys);
        }
        assert_eq!(all.len(), 50);
        assert_eq!((all[7].siblings, all[7].values.as_ref().unwrap().len()), (2, 2));
        told.push(all);
    }
    assert_eq!(told[0], told[1]);
    server.kv.leave_gaps(gap());
    let bucket = Bucket::new("b").unwrap();
    assert_eq!(client.list(bucket.clone(), ListOptions::default()).await.unwrap().gaps, gap());
    let wrong = client.list(bucket, ListOptions { limit: 0, ..ListOptions::default() }).await.unwrap_err();
    assert_eq!(wrong.code, ErrorCode::BadParameter);
}

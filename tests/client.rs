//! The client against the HTTP edge: what a `Kv` says in this process it says from elsewhere, and what several attempts
//! tell is never stronger than the weakest of them.
#![cfg(all(feature = "http", feature = "client"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use quorate::client::{Client, ClientConfig};
use quorate::env::{Env, Tasks};
use quorate::http::{Api, RequestLimits, ServeLimits, TcpSocket, admin_router, client_router, serve};
use quorate::kv::mock::{MockKv, MockNode, write_timeout};
use quorate::kv::{
    ContextToken, Error, ErrorCode, Kv, Outcome, ReadOptions, ReplicaReport, Session, Status, Value, WriteOptions,
};
use quorate::metrics::Metrics;
use quorate::quorum::Level;
use quorate::types::{Bucket, Key, ObjectId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

struct Node {
    kv: Arc<MockKv>,
    url: String,
    admin: String,
}

async fn node(tasks: &Tasks) -> Node {
    let env = Env { tasks: tasks.clone(), ..Env::real() };
    let (kv, metrics) = (Arc::new(MockKv::default()), Arc::new(Metrics::new()));
    let view = MockNode { status: Status { node: "a".to_owned(), ..Status::default() }, ..MockNode::default() };
    let api = Arc::new(Api::new(kv.clone(), Arc::new(view), metrics.clone(), env.clone(), RequestLimits::default()));
    let mut urls = Vec::new();
    for router in [client_router(api.clone()), admin_router(api, None)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        urls.push(format!("http://{}", listener.local_addr().unwrap()));
        let socket = TcpSocket::new(listener, env.clone());
        tasks.spawn(serve(
            socket,
            router,
            ServeLimits::default(),
            env.clone(),
            metrics.clone(),
            CancellationToken::new(),
        ));
    }
    Node { kv, admin: urls.remove(1), url: urls.remove(0) }
}

/// An endpoint where nobody listens.
async fn dead() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// An endpoint that takes a request in and closes the connection: it may have been done.
async fn taker(tasks: &Tasks) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _closed = stream.read(&mut [0; 65536]).await;
        }
    });
    url
}

fn client(endpoints: Vec<String>, change: impl FnOnce(&mut ClientConfig)) -> Client {
    let mut config = ClientConfig::new(endpoints);
    config.backoff = Duration::from_millis(1);
    change(&mut config);
    Client::new(config, Env::real()).unwrap()
}

fn id(key: &[u8]) -> ObjectId {
    ObjectId::new(Bucket::new("b").unwrap(), Key::new(key.to_vec()).unwrap())
}

#[tokio::test]
async fn answers_are_those_of_the_store_itself() {
    let tasks = Tasks::default();
    let node = node(&tasks).await;
    let client = client(vec![node.url], |_| {});
    let keys: [&[u8]; 9] = [b"plain", b"a.b", b".", b"..", b"a/../b", b"%2e%2e", b" ", "é".as_bytes(), &[0, 255]];
    for key in keys {
        let mut value = Value::from(vec![0, 159, 146, 150]);
        value.content_type = Some("text/x".to_owned());
        value.meta.insert("colour".to_owned(), "blue".to_owned());
        let first = client.put(id(key), value.clone(), WriteOptions::default()).await.unwrap();
        client.put(id(key), "second".into(), WriteOptions::default()).await.unwrap();
        let options = ReadOptions { r: Level::Count(3), explain: true, ..ReadOptions::default() };
        let there = node.kv.get(id(key), options.clone()).await.unwrap();
        let here = client.get(id(key), options).await.unwrap();
        assert_eq!((&here, here.siblings[1].value.as_ref()), (&there, Some(&value)), "{key:?}");
        assert_eq!((first.sibling_count, first.context.is_some()), (1, true));
        let write = WriteOptions { context: Some(here.context), return_body: true, ..WriteOptions::default() };
        let third = client.put(id(key), "third".into(), write).await.unwrap();
        assert_eq!(third.siblings.unwrap().len(), 1);
        let gone =
            client.delete(id(key), WriteOptions { context: third.context, ..WriteOptions::default() }).await.unwrap();
        assert!(gone.context.is_some() && gone.counted.n == 3);
        assert!(client.get(id(key), ReadOptions::default()).await.unwrap().siblings.is_empty());
    }
    assert_eq!(client.owners(&id(b"..")).await.unwrap().token, id(b"..").token().to_string());
    tasks.shutdown().await;
}

#[tokio::test]
async fn a_session_over_a_client_reads_its_own_writes() {
    let tasks = Tasks::default();
    let node = node(&tasks).await;
    node.kv.lag(&id(b"k"));
    let plain = client(vec![node.url], |_| {});
    let session = Session::new(plain.clone());
    let one = || ReadOptions { r: Level::One, ..ReadOptions::default() };
    session.put(id(b"k"), "mine".into(), WriteOptions::default()).await.unwrap();
    assert_eq!(plain.get(id(b"k"), one()).await.unwrap().siblings.len(), 0, "one replica lags");
    let read = session.get(id(b"k"), one()).await.unwrap();
    assert_eq!(read.siblings.len(), 1);
    assert_eq!(session.floor(&id(b"k")).await, Some(read.floor));
    let wrong = ReadOptions { floor: session.floor(&id(b"k")).await, ..one() };
    assert_eq!(plain.get(id(b"other"), wrong).await.unwrap_err().code, ErrorCode::BadFloor);
    tasks.shutdown().await;
}

#[tokio::test]
async fn every_error_comes_back_as_it_was() {
    let tasks = Tasks::default();
    let node = node(&tasks).await;
    let client = client(vec![node.url], |config| config.max_attempts = 1);
    for code in ErrorCode::ALL {
        for outcome in [Outcome::Applied, Outcome::NotApplied, Outcome::Unknown] {
            let error = Error {
                required: Some(2),
                answered: Some(1),
                n: Some(3),
                layout: Some(7),
                replicas: vec![ReplicaReport { node: "a".to_owned(), state: "timeout".to_owned() }],
                retry_after: Some(Duration::from_millis(1500)),
                context: Some(Box::new(ContextToken("token".to_owned()))),
                ..Error::new(code, outcome, "scripted")
            };
            node.kv.fail_next(error.clone());
            assert_eq!(client.put(id(b"k"), "v".into(), WriteOptions::default()).await, Err(error));
        }
    }
    tasks.shutdown().await;
}

/// An endpoint that gives every request this answer: no Quorate node, or one of a later version.
async fn foreign(tasks: &Tasks, answer: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _read = stream.read(&mut [0; 65536]).await;
            let _written = stream.write_all(answer.as_bytes()).await;
        }
    });
    url
}

#[tokio::test]
async fn what_is_no_answer_of_this_interface_is_no_wrong_parameter() {
    let tasks = Tasks::default();
    let document = r#"{"type":"urn:quorate:problem:later","title":"","status":409,"code":"later",
                       "detail":"of a later version","outcome":"not_applied"}"#;
    let cases = [
        ("404 Not Found", "<html>", ErrorCode::Unexpected, Outcome::NotApplied),
        ("401 Unauthorized", "", ErrorCode::Unauthorized, Outcome::NotApplied),
        ("403 Forbidden", "", ErrorCode::Unauthorized, Outcome::NotApplied),
        ("408 Request Timeout", "", ErrorCode::Unexpected, Outcome::Unknown),
        ("502 Bad Gateway", "", ErrorCode::Internal, Outcome::Unknown),
        ("501 Not Implemented", "", ErrorCode::NotYet, Outcome::Unknown),
        ("409 Conflict", document, ErrorCode::Unexpected, Outcome::NotApplied),
    ];
    for (status, body, code, outcome) in cases {
        let length = body.len();
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
        let client = client(vec![foreign(&tasks, answer).await], |config| config.max_attempts = 2);
        let error = client.put(id(b"k"), "v".into(), WriteOptions::default()).await.unwrap_err();
        assert_eq!((error.code, error.outcome), (code, outcome), "{status}: {error}");
        let says = if body.starts_with('{') { "409 later: of a later version" } else { "is a Quorate node there?" };
        assert!(error.detail.contains(says), "{error}");
    }
    tasks.shutdown().await;
}

#[tokio::test]
async fn what_was_not_taken_goes_to_the_next_endpoint() {
    let tasks = Tasks::default();
    let (first, second) = (node(&tasks).await, node(&tasks).await);
    first.kv.fail_next(Error::refused(ErrorCode::QuorumUnavailable, "1 of 2 up"));
    let client = client(vec![dead().await, first.url, second.url], |config| config.idempotent = false);
    client.put(id(b"k"), "v".into(), WriteOptions::default()).await.unwrap();
    assert_eq!((first.kv.len(), second.kv.len()), (0, 1));
    // The one that answered is kept.
    client.get(id(b"k"), ReadOptions::default()).await.unwrap();
    assert_eq!((first.kv.calls(), second.kv.calls()), (1, 2));
    tasks.shutdown().await;
}

#[tokio::test]
async fn what_may_be_done_is_tried_again_only_under_a_key() {
    let tasks = Tasks::default();
    let node = node(&tasks).await;
    let endpoints = vec![taker(&tasks).await, node.url];
    let bare = client(endpoints.clone(), |config| config.idempotent = false);
    let error = bare.put(id(b"k"), "v".into(), WriteOptions::default()).await.unwrap_err();
    assert_eq!((error.code, error.outcome, node.kv.calls()), (ErrorCode::Unreachable, Outcome::Unknown, 0));
    let keyed = client(endpoints, |_| {});
    assert!(keyed.put(id(b"k"), "v".into(), WriteOptions::default()).await.is_ok());
    // A lost acknowledgement: the second attempt finds the first one's write.
    node.kv.fail_next_after_doing_it(write_timeout());
    let again = keyed.put(id(b"j"), "v".into(), WriteOptions::default()).await.unwrap();
    assert!(again.replayed && node.kv.object(&id(b"j")).siblings().len() == 1);
    tasks.shutdown().await;
}

#[tokio::test]
async fn the_outcome_is_the_weakest_and_the_budget_holds() {
    let tasks = Tasks::default();
    let node = node(&tasks).await;
    node.kv.fail_next(Error::refused(ErrorCode::BadContext, "wrong"));
    let client = client(vec![taker(&tasks).await, node.url.clone()], |_| {});
    let error = client.put(id(b"k"), "v".into(), WriteOptions::default()).await.unwrap_err();
    assert_eq!((error.code, error.outcome), (ErrorCode::BadContext, Outcome::Unknown));
    // Asked to come back after the budget: told at once.
    let later = Error { retry_after: Some(Duration::from_secs(3600)), ..Error::refused(ErrorCode::Overloaded, "full") };
    node.kv.fail_next(later.clone());
    let lone = self::client(vec![node.url], |_| {});
    assert_eq!(lone.get(id(b"k"), ReadOptions::default()).await, Err(later));
    tasks.shutdown().await;
}

#[tokio::test]
async fn status_comes_from_an_admin_endpoint() {
    let tasks = Tasks::default();
    let node = node(&tasks).await;
    let without = client(vec![node.url.clone()], |_| {});
    assert_eq!(without.status().await.unwrap_err().code, ErrorCode::BadParameter);
    let admin = vec![dead().await, node.admin];
    let with = client(vec![node.url], |config| config.admin_endpoints = admin);
    assert_eq!(with.status().await.unwrap().node, "a");
    assert!(Client::new(ClientConfig::new(["https://x"]), Env::real()).is_err());
    assert!(Client::new(ClientConfig::new(Vec::<String>::new()), Env::real()).is_err());
    tasks.shutdown().await;
}

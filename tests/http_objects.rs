//! The HTTP edge for objects, spoken to over raw sockets where a URL library would tidy up what is sent. What is stored
//! is checked in the store behind the edge, not only in the answers.
#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod edge;

use std::sync::Arc;
use std::time::Duration;

use edge::spelling::{self, Listeners};
use edge::{Response, receive, request};

use quorate::env::Env;
use quorate::http::{AdminToken, Api, RequestLimits, ServeLimits, TcpSocket, admin_router, client_router, serve};
use quorate::kv::mock::{MockKv, MockNode, MockRules, write_timeout};
use quorate::kv::wire::from_base64;
use quorate::kv::{Error, ErrorCode, Outcome};
use quorate::metrics::Metrics;
use quorate::types::{Bucket, Key, ObjectId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const MAX_VALUE: usize = 4096;

struct Server {
    address: std::net::SocketAddr,
    admin: std::net::SocketAddr,
    kv: Arc<MockKv>,
    metrics: Arc<Metrics>,
    env: Env,
    stop: CancellationToken,
}

async fn server_with(limits: ServeLimits, node: MockNode, token: Option<AdminToken>) -> Server {
    let kv = Arc::new(MockKv::new(MockRules { max_value: MAX_VALUE, ..MockRules::default() }));
    let (metrics, env, stop) = (Arc::new(Metrics::new()), Env::real(), CancellationToken::new());
    let body_time = Duration::from_millis(200);
    let requests = RequestLimits { max_value: MAX_VALUE, body_time, ..RequestLimits::default() };
    let api = Arc::new(Api::new(kv.clone(), Arc::new(node), metrics.clone(), env.clone(), requests));
    let mut addresses = Vec::new();
    for router in [client_router(api.clone()), admin_router(api, token)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.push(listener.local_addr().unwrap());
        let socket = TcpSocket::new(listener, env.clone());
        env.tasks.spawn(serve(socket, router, limits, env.clone(), metrics.clone(), stop.clone()));
    }
    Server { address: addresses[0], admin: addresses[1], kv, metrics, env, stop }
}

async fn server() -> Server {
    server_with(ServeLimits::default(), MockNode::default(), None).await
}

impl Server {
    fn listeners(&self) -> Listeners {
        Listeners(vec![self.address])
    }

    async fn raw(&self, request: &[u8]) -> Response {
        edge::raw(self.address, request).await
    }

    async fn send(&self, verb: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        edge::send(self.address, verb, target, headers, body).await
    }

    async fn put(&self, target: &str, value: &str) -> Response {
        self.send("PUT", target, &[], value.as_bytes()).await
    }

    async fn get(&self, target: &str) -> Response {
        self.send("GET", target, &[], b"").await
    }

    async fn admin(&self, target: &str, headers: &[(&str, &str)]) -> Response {
        edge::send(self.admin, "GET", target, headers, b"").await
    }

    fn stored(&self, key: &[u8]) -> usize {
        self.kv.object(&spelling::id(key)).siblings().len()
    }
}

#[tokio::test]
async fn every_key_can_be_named_and_none_is_normalised() {
    let server = server().await;
    let stored = async |id: &ObjectId| server.kv.object(id).siblings().len();
    let objects = spelling::every_key_can_be_named(&server.listeners(), stored).await;
    assert_eq!(server.kv.len(), objects);
}

#[tokio::test]
async fn what_names_nothing_is_refused_and_stores_nothing() {
    let server = server().await;
    spelling::what_is_wrong_is_refused(&server.listeners()).await;
    assert!(server.kv.is_empty(), "a refused request stored something");
    spelling::sloppy_writes_are_taken(&server.listeners()).await;
    assert_eq!(server.kv.len(), 1);
}

#[tokio::test]
async fn contexts_are_checked() {
    let server = server().await;
    let stored = async |id: &ObjectId| server.kv.object(id).siblings().len();
    spelling::contexts_are_checked(&server.listeners(), stored).await;
}

#[tokio::test]
async fn a_floor_is_sent_back_and_nothing_older_is_shown() {
    let server = server().await;
    server.put("/v1/kv/b/k", "old").await;
    server.kv.lag(&spelling::id(b"k"));
    let context = server.get("/v1/kv/b/k").await.header("quorate-context").unwrap().to_owned();
    let wrote = server.send("PUT", "/v1/kv/b/k?w=1", &[("Quorate-Context", &context)], b"new").await;
    let floor = wrote.header("quorate-floor").unwrap();
    assert_eq!(server.get("/v1/kv/b/k?r=1").await.body, b"old", "one replica lags");
    let read = server.send("GET", "/v1/kv/b/k?r=1", &[("Quorate-Floor", floor)], b"").await;
    assert_eq!((read.status, &read.body[..]), (200, &b"new"[..]));
    // What was not there has a floor as well, and so has what is gone.
    let nothing = server.get("/v1/kv/b/nothing").await;
    let floor = nothing.header("quorate-floor").unwrap();
    assert_eq!(server.send("GET", "/v1/kv/b/nothing", &[("Quorate-Floor", floor)], b"").await.status, 404);
    assert_eq!(server.send("DELETE", "/v1/kv/b/nothing", &[("Quorate-Floor", floor)], b"").await.status, 204);
    server.kv.fail_next(Error::refused(ErrorCode::SessionUnmet, "scripted"));
    let unmet = server.send("GET", "/v1/kv/b/nothing", &[("Quorate-Floor", floor)], b"").await;
    assert_eq!((unmet.status, unmet.problem().as_str()), (504, "session_unmet"));
    assert_eq!(unmet.json()["retry"], "later");
}

#[tokio::test]
async fn siblings_are_shown_and_settled() {
    let server = server().await;
    let first = server.put("/v1/kv/b/k", "1").await;
    let context = first.header("quorate-context").unwrap().to_owned();
    for value in ["2", "3"] {
        server.send("PUT", "/v1/kv/b/k", &[("Quorate-Context", &context)], value.as_bytes()).await;
    }
    let conflict = server.get("/v1/kv/b/k").await;
    assert_eq!((conflict.status, conflict.problem().as_str()), (409, "siblings"));
    let body = conflict.json();
    let values: Vec<&str> = body["siblings"].as_array().unwrap().iter().map(|s| s["value"].as_str().unwrap()).collect();
    assert_eq!(values, ["3", "2"], "greatest stamp first");
    assert_eq!(body["context"].as_str(), conflict.header("quorate-context"));
    assert_eq!((conflict.header("quorate-siblings"), body["key_b64"].as_str()), (Some("2"), Some("aw")));

    // What shows less than all carries no context.
    let latest = server.get("/v1/kv/b/k?resolve=latest").await;
    assert_eq!((latest.status, latest.body.as_slice()), (200, &b"3"[..]));
    assert_eq!((latest.header("quorate-siblings"), latest.header("quorate-context")), (Some("2"), None));
    let head = server.send("HEAD", "/v1/kv/b/k", &[], b"").await;
    assert_eq!((head.status, head.header("quorate-context")), (409, None));
    let envelope = server.send("GET", "/v1/kv/b/k", &[("Accept", "application/vnd.quorate.object+json")], b"").await;
    assert_eq!((envelope.status, envelope.json()["siblings"].as_array().unwrap().len()), (200, 2));

    // A blind PUT's answer never lets its client supersede what it was not shown.
    let blind = server.put("/v1/kv/b/k", "4").await;
    assert_eq!(
        (blind.status, blind.header("quorate-siblings"), blind.header("quorate-context")),
        (204, Some("3"), None)
    );
    let shown = server.put("/v1/kv/b/k?return=body", "5").await;
    assert_eq!((shown.status, shown.header("content-type")), (200, Some("application/vnd.quorate.object+json")));
    let all = shown.header("quorate-context").unwrap();
    assert_eq!(shown.json()["siblings"].as_array().unwrap().len(), 4);
    let settled = server.send("PUT", "/v1/kv/b/k?return=body", &[("Quorate-Context", all)], b"6").await;
    assert_eq!((settled.status, settled.body.as_slice(), settled.header("quorate-siblings")), (200, &b"6"[..], None));
    assert_eq!(server.stored(b"k"), 1);
}

#[tokio::test]
async fn a_value_comes_back_with_what_describes_it() {
    let server = server().await;
    let headers =
        [("Content-Type", "text/x-test; a=\"b\""), ("Quorate-Meta-Colour", "bleu de minuit"), ("X-Other", "no")];
    let put = server.send("PUT", "/v1/kv/b/k", &headers, b"v").await;
    let got = server.get("/v1/kv/b/k").await;
    assert_eq!(got.header("content-type"), Some(headers[0].1));
    assert_eq!((got.header("quorate-meta-colour"), got.header("x-other")), (Some("bleu de minuit"), None));
    assert_eq!(got.header("etag"), put.header("etag"));
    assert_eq!((got.header("quorate-replicas"), got.header("quorate-layout")), (Some("2/2/3"), Some("1")));
    assert_eq!((got.header("cache-control"), got.header("quorate-siblings")), (Some("no-store"), None));
    assert_eq!(got.header("last-modified"), Some("Thu, 01 Jan 2026 00:00:00 GMT"));
    assert_eq!(got.header("quorate-context"), put.header("quorate-context"));
    assert_eq!((got.header("server-timing"), got.header("quorate-explain")), (None, None));

    let head = server.send("HEAD", "/v1/kv/b/k", &[], b"").await;
    assert_eq!((head.status, head.header("content-length"), head.header("etag")), (200, Some("1"), put.header("etag")));
    let tag = put.header("etag").unwrap();
    for condition in [tag.to_owned(), format!("\"x\", W/{tag}"), "*".to_owned()] {
        let same = server.send("GET", "/v1/kv/b/k", &[("If-None-Match", &condition)], b"").await;
        assert_eq!((same.status, same.header("etag")), (304, Some(tag)), "{condition}");
    }
    assert_eq!(server.send("GET", "/v1/kv/b/k", &[("If-None-Match", "\"x\"")], b"").await.status, 200);

    let explained = server.get("/v1/kv/b/k?explain=1").await;
    let explain = from_base64(explained.header("quorate-explain").unwrap()).unwrap();
    assert!(serde_json::from_slice::<serde_json::Value>(&explain).unwrap().is_object());
    assert!(explained.header("server-timing").unwrap().starts_with("total;dur="));

    let too_much = "m".repeat(2046);
    let refused = server.send("PUT", "/v1/kv/b/m", &[("Quorate-Meta-abc", &too_much)], b"v").await;
    assert_eq!((refused.status, refused.problem().as_str()), (431, "headers_too_large"));
    assert_eq!(server.send("PUT", "/v1/kv/b/m", &[("Quorate-Meta-ab", &too_much)], b"v").await.status, 204);
}

#[tokio::test]
async fn not_found_deleted_and_written_again() {
    let server = server().await;
    let nothing = server.get("/v1/kv/b/k").await;
    assert_eq!((nothing.status, nothing.problem().as_str()), (404, "not_found"));
    assert!(nothing.header("quorate-context").is_some() && nothing.header("quorate-floor").is_some());
    assert_eq!(nothing.header("etag"), None);
    let created = server
        .send("PUT", "/v1/kv/b/k", &[("Quorate-Context", nothing.header("quorate-context").unwrap())], b"1")
        .await;
    assert_eq!(created.status, 204);
    let deleted = server
        .send("DELETE", "/v1/kv/b/k", &[("Quorate-Context", created.header("quorate-context").unwrap())], b"")
        .await;
    assert_eq!((deleted.status, deleted.header("quorate-context").is_some()), (204, true));
    assert_eq!(server.get("/v1/kv/b/k").await.problem(), "not_found");
    assert_eq!(server.send("HEAD", "/v1/kv/b/k", &[], b"").await.status, 404);
    let envelope = server
        .send("GET", "/v1/kv/b/k", &[("Accept", "text/html, application/vnd.quorate.object+json;q=1")], b"")
        .await;
    assert_eq!((envelope.status, envelope.json()["siblings"].as_array().unwrap().len()), (200, 0));
    // A delete that raced a write is a sibling.
    server.send("PUT", "/v1/kv/b/k", &[("Quorate-Context", created.header("quorate-context").unwrap())], b"2").await;
    let race = server.get("/v1/kv/b/k").await;
    assert_eq!(race.problem(), "siblings");
    let flags: Vec<bool> = race.json()["siblings"].as_array().unwrap().iter().map(|s| s["deleted"] == true).collect();
    assert_eq!(flags, [false, true]);
    let latest = server.get("/v1/kv/b/k?resolve=latest").await;
    assert_eq!((latest.status, latest.body.as_slice()), (200, &b"2"[..]), "the value is the later one");
}

#[tokio::test]
async fn the_latest_of_siblings_may_be_a_delete_and_then_nothing_is_there() {
    let server = server().await;
    let first = server.put("/v1/kv/b/k", "1").await;
    let context = [("Quorate-Context", first.header("quorate-context").unwrap())];
    server.send("PUT", "/v1/kv/b/k", &context, b"2").await;
    let deleted = server.send("DELETE", "/v1/kv/b/k", &context, b"").await;
    assert_eq!((deleted.status, deleted.header("quorate-siblings")), (204, Some("2")));
    for verb in ["GET", "HEAD"] {
        let latest = server.send(verb, "/v1/kv/b/k?resolve=latest", &[], b"").await;
        assert_eq!((latest.status, latest.header("quorate-siblings")), (404, Some("2")), "{verb}");
        // It shows all siblings, so its context covers them; HEAD shows nothing, so it has none.
        assert_eq!(latest.header("quorate-context").is_some(), verb == "GET", "{verb}");
        assert!(latest.header("etag").is_some() && latest.header("quorate-floor").is_some());
    }
    let said = server.get("/v1/kv/b/k?resolve=latest").await;
    assert_eq!(said.problem(), "not_found");
    assert!(said.json()["detail"].as_str().unwrap().contains("the latest is a delete"));
    // Nothing is hidden from who asks for all.
    let all = [("Accept", "application/vnd.quorate.object+json")];
    let all = server.send("GET", "/v1/kv/b/k?resolve=latest", &all, b"").await;
    assert_eq!((all.status, all.json()["siblings"].as_array().unwrap().len()), (200, 2));
    assert_eq!(server.get("/v1/kv/b/k").await.problem(), "siblings");
}

#[tokio::test]
async fn the_same_put_twice_is_one_version() {
    let server = server().await;
    let key = [("Idempotency-Key", "once")];
    let first = server.send("PUT", "/v1/kv/b/k", &key, b"v").await;
    let again = server.send("PUT", "/v1/kv/b/k", &key, b"v").await;
    assert_eq!((first.status, again.status, server.stored(b"k")), (204, 204, 1));
    assert_eq!((first.header("quorate-replayed"), again.header("quorate-replayed")), (None, Some("true")));
    assert_eq!(first.header("etag"), again.header("etag"));
    let other = server.send("PUT", "/v1/kv/b/k", &key, b"w").await;
    assert_eq!((other.status, other.problem().as_str(), server.stored(b"k")), (422, "idempotency_reused", 1));
    for bad in ["", &*"k".repeat(256)] {
        assert_eq!(
            server.send("PUT", "/v1/kv/b/k", &[("Idempotency-Key", bad)], b"v").await.problem(),
            "bad_parameter"
        );
    }
    assert_eq!(server.send("PUT", "/v1/kv/b/j", &[("Idempotency-Key", &"k".repeat(255))], b"v").await.status, 204);
}

#[tokio::test]
async fn bodies_are_bounded_before_they_are_buffered() {
    let server = server().await;
    let full = server.send("PUT", "/v1/kv/b/full", &[], &[7; MAX_VALUE]).await;
    assert_eq!((full.status, server.get("/v1/kv/b/full").await.body), (204, vec![7; MAX_VALUE]));
    // Announced too large: refused though not a byte of it came.
    let announced = b"PUT /v1/kv/b/k HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n";
    let refused = server.raw(announced).await;
    assert_eq!((refused.status, refused.problem().as_str()), (413, "value_too_large"));
    // Sent too large, length unsaid, and all of it before listening.
    let mut chunked = b"PUT /v1/kv/b/k HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..64 {
        chunked.extend(b"400\r\n");
        chunked.extend([b'x'; 1024]);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");
    assert_eq!(server.raw(&chunked).await.problem(), "value_too_large");
    // A length that lies: more is announced than comes.
    let lying = b"PUT /v1/kv/b/k HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nshort";
    let late = server.raw(lying).await;
    assert_eq!((late.status, late.problem().as_str()), (408, "body_timeout"));
    assert_eq!(server.stored(b"k"), 0);
    let encoded = server.send("PUT", "/v1/kv/b/k", &[("Content-Encoding", "gzip")], b"v").await;
    assert_eq!((encoded.status, encoded.problem().as_str()), (415, "unsupported_encoding"));
}

#[tokio::test]
async fn conditional_writes_are_refused_rather_than_faked() {
    let server = server().await;
    for (verb, name) in [("PUT", "If-Match"), ("PUT", "If-None-Match"), ("DELETE", "If-Match")] {
        let answer = server.send(verb, "/v1/kv/b/k", &[(name, "*")], b"").await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "precondition_needs_cas"));
    }
    assert!(server.kv.is_empty());
}

#[tokio::test]
async fn every_error_is_a_problem_with_its_outcome() {
    let server = server().await;
    let expected = |code: ErrorCode| match code {
        ErrorCode::BadParameter | ErrorCode::BadContext | ErrorCode::BadFloor => 400,
        ErrorCode::ContextTooLarge | ErrorCode::TooManySiblings | ErrorCode::IdempotencyInFlight => 409,
        ErrorCode::ContextRequired | ErrorCode::PreconditionRequired => 428,
        ErrorCode::PreconditionFailed => 412,
        ErrorCode::LayoutConflict | ErrorCode::LayoutRefused | ErrorCode::Paused => 409,
        ErrorCode::NotKnown => 404,
        ErrorCode::ValueTooLarge | ErrorCode::ObjectTooLarge => 413,
        ErrorCode::IdempotencyReused => 422,
        ErrorCode::NotYet => 501,
        ErrorCode::WriteTimeout | ErrorCode::ReadTimeout | ErrorCode::SessionUnmet | ErrorCode::Undecided => 504,
        ErrorCode::DiskFull => 507,
        ErrorCode::Internal | ErrorCode::Unexpected => 500,
        ErrorCode::Unauthorized => 401,
        _ => 503,
    };
    for code in ErrorCode::ALL {
        server.kv.fail_next(Error::new(code, Outcome::Unknown, "scripted"));
        let answer = server.put("/v1/kv/b/k", "v").await;
        assert_eq!((answer.status, answer.problem().as_str()), (expected(code), code.as_str()));
        assert_eq!(answer.json()["outcome"], "unknown");
        let retry_after = answer.header("retry-after").map(|seconds| seconds.parse::<u64>().unwrap());
        assert_eq!(retry_after.is_some(), answer.status == 503);
        assert!(retry_after.is_none_or(|seconds| (1..=3).contains(&seconds)));
    }
    server.kv.fail_next(write_timeout());
    let timeout = server.put("/v1/kv/b/k", "v").await.json();
    assert_eq!(
        (timeout["required"].as_u64(), timeout["answered"].as_u64(), timeout["n"].as_u64()),
        (Some(2), Some(1), Some(3))
    );
    assert_eq!(timeout["retry"], "same-idempotency-key");
    let failed = ErrorCode::ALL.into_iter().filter(|code| expected(*code) >= 500).count() as u64;
    assert_eq!(server.metrics.http.count("PUT", 500), failed + 1);
}

#[tokio::test]
async fn routes_that_are_not_there_say_so() {
    let server = server().await;
    let wrong = server.send("PATCH", "/v1/kv/b/k", &[], b"").await;
    assert_eq!((wrong.status, wrong.problem().as_str()), (405, "method_not_allowed"));
    assert_eq!(wrong.header("allow"), Some("GET, HEAD, PUT, DELETE"));
    for later in ["/v1/buckets", "/v1/openapi.json"] {
        assert_eq!(server.get(later).await.problem(), "not_yet", "{later}");
    }
    for nowhere in ["/", "/v2/kv/b/k", "/v1/kvx", "/v1/bucketsx"] {
        assert_eq!(
            (server.get(nowhere).await.status, server.get(nowhere).await.problem().as_str()),
            (404, "no_such_route")
        );
    }
    let owners = server.get("/v1/owners/b/a%2Fb").await.json();
    let id = ObjectId::new(Bucket::new("b").unwrap(), Key::new("a/b").unwrap());
    assert_eq!(owners["token"], id.token().to_string());
    assert_eq!(owners["owners"].as_array().unwrap().len(), 3);
    assert_eq!(server.get("/v1/owners/b/k?w=1").await.problem(), "bad_parameter");
}

#[tokio::test]
async fn the_admin_listener_guards_all_but_health() {
    let node = MockNode { metrics: "m 1\n".to_owned(), not_ready: Some("starting".to_owned()), ..MockNode::default() };
    let server = server_with(ServeLimits::default(), node, Some(AdminToken::new("secret"))).await;
    assert_eq!(server.admin("/livez", &[]).await.status, 200);
    let ready = server.admin("/readyz", &[]).await;
    assert_eq!((ready.status, ready.problem().as_str()), (503, "not_serving"));
    for path in [
        "/metrics",
        "/admin/status",
        "/admin/members",
        "/admin/ring",
        "/admin/layout",
        "/admin/hints",
        "/admin/workers",
        "/nowhere",
    ] {
        for headers in [&[][..], &[("Authorization", "Bearer wrong")], &[("Authorization", "Basic secret")]] {
            let refused = server.admin(path, headers).await;
            assert_eq!((refused.status, refused.problem().as_str()), (401, "unauthorized"), "{path}");
        }
    }
    let token = [("Authorization", "bearer secret")];
    assert_eq!(server.admin("/metrics", &token).await.body, b"m 1\n");
    assert!(server.admin("/admin/members", &token).await.json()["members"].is_array());
    assert_eq!(server.admin("/admin/ring", &token).await.json()["version"], 1);
    assert_eq!(server.admin("/admin/status", &token).await.status, 200);
    assert_eq!(server.admin("/admin/layout/plans", &token).await.problem(), "method_not_allowed");
    assert_eq!(server.admin("/admin/drain", &token).await.problem(), "not_yet");
    assert_eq!(server.admin("/admin/tombstones", &token).await.json()["waiting"], 0);
    assert_eq!(server.admin("/admin/tombstones?r=1", &token).await.problem(), "bad_parameter");
    assert_eq!(server.admin("/admin/hints", &token).await.json()["keys"], 0);
    assert_eq!(server.admin("/admin/hints?r=1", &token).await.problem(), "bad_parameter");
    assert_eq!(server.admin("/admin/hints/wait", &token).await.problem(), "method_not_allowed");
    assert_eq!(server.admin("/admin/workers", &token).await.json()["workers"], serde_json::json!([]));
    assert_eq!(server.admin("/admin/workers?r=1", &token).await.problem(), "bad_parameter");
    assert_eq!(server.admin("/admin/workers/hints/pause", &token).await.problem(), "method_not_allowed");
    assert_eq!(server.admin("/nowhere", &token).await.problem(), "no_such_route");
}

#[tokio::test]
async fn headers_are_bounded() {
    let server = server().await;
    let many: String = (0..97).map(|i| format!("x-{i}: y\r\n")).collect();
    let large = format!("x-large: {}\r\n", "y".repeat(70 * 1024));
    for bomb in [many, large] {
        let answer = server.raw(format!("GET /v1/kv/b/k HTTP/1.1\r\nhost: x\r\n{bomb}\r\n").as_bytes()).await;
        assert_eq!((answer.status, answer.problem().as_str()), (431, "headers_too_large"));
    }
    // Past the connection's buffer or hyper's own count: a bare 431, and the connection is gone.
    let bomb: String = (0..300).map(|i| format!("x-{i}: y\r\n")).collect();
    let bare = server.raw(format!("GET / HTTP/1.1\r\nhost: x\r\n{bomb}\r\n").as_bytes()).await;
    assert_eq!((bare.status, bare.body.len()), (431, 0));
}

#[tokio::test]
async fn slow_sockets_keep_nobody_out() {
    let limits = ServeLimits { max_connections: 32, ..ServeLimits::default() };
    let server = server_with(limits, MockNode::default(), None).await;
    let mut slow = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET /v1/kv/b/k HTTP/1.1\r\nx-slow").await.unwrap();
        slow.push(stream);
        if slow.len() % 50 == 0 {
            assert_eq!(server.put("/v1/kv/b/k", "v").await.status, 204);
        }
    }
    assert_eq!(server.get("/v1/kv/b/k?resolve=latest").await.status, 200);
    // The first of them was closed to make room; without that the bound would have kept the clients out.
    assert_eq!(slow[0].read(&mut [0; 16]).await.unwrap_or(0), 0);
    assert_eq!(server.metrics.http.connections_refused.get(), 0);
}

#[tokio::test]
async fn a_head_that_does_not_come_ends_the_connection() {
    let limits = ServeLimits { head_time: Duration::from_millis(50), ..ServeLimits::default() };
    let server = server_with(limits, MockNode::default(), None).await;
    for sent in [&b""[..], b"GET /v1/kv/b/k HT"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap_or_default();
    }
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&request("GET", b"/livez", &[], b"")).await.unwrap();
    assert_eq!(receive(&mut stream, false).await.unwrap().status, 404);
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap_or(0), 0, "an idle connection stays open");
}

#[tokio::test]
async fn shutdown_drains_and_leaves_nothing() {
    let server = server().await;
    let mut busy = TcpStream::connect(server.address).await.unwrap();
    busy.write_all(b"PUT /v1/kv/b/k HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(receive(&mut busy, false).await.unwrap().status, 100);
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(&request("GET", b"/v1/kv/b/none", &[], b"")).await.unwrap();
    assert_eq!(receive(&mut idle, false).await.unwrap().status, 404);
    server.stop.cancel();
    assert_eq!(idle.read(&mut [0; 16]).await.unwrap_or(0), 0, "an idle connection outlives the shutdown");
    busy.write_all(b"v").await.unwrap();
    assert_eq!(receive(&mut busy, false).await.unwrap().status, 204, "a request under way is cut off");
    assert_eq!(busy.read(&mut [0; 16]).await.unwrap_or(0), 0);
    server.env.tasks.shutdown().await;
    assert!(server.env.tasks.is_empty());
    assert!(TcpStream::connect(server.address).await.is_err());
}

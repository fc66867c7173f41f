//! Batches over HTTP, with the mock behind the edge, and the client that sends them. What is stored is checked in the
//! store.
#![cfg(all(feature = "http", feature = "client"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod edge;

use std::sync::Arc;
use std::time::Duration;

use edge::Response;
use quorate::client::{Client, ClientConfig};
use quorate::env::Env;
use quorate::http::{Api, RequestLimits, ServeLimits, TcpSocket, client_router, serve};
use quorate::kv::batch::{Done, Operation, batch};
use quorate::kv::mock::{MockKv, MockNode, MockRules, write_timeout};
use quorate::kv::wire::{ENVELOPE_TYPE, to_base64};
use quorate::kv::{
    ErrorCode, FloorToken, Kv as _, Lifetime, Outcome, ReadOptions, SiblingView, Value, WriteAnswer, WriteOptions,
};
use quorate::metrics::Metrics;
use quorate::quorum::Level;
use quorate::types::{Bucket, Key, ObjectId};
use serde_json::{Value as Json, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const MAX_VALUE: usize = 1 << 20;

struct Server {
    address: std::net::SocketAddr,
    kv: Arc<MockKv>,
    metrics: Arc<Metrics>,
    env: Env,
}

async fn server() -> Server {
    let kv = Arc::new(MockKv::new(MockRules { max_value: MAX_VALUE, ..MockRules::default() }));
    let (metrics, env) = (Arc::new(Metrics::new()), Env::real());
    let requests =
        RequestLimits { max_value: MAX_VALUE, body_time: Duration::from_millis(200), ..RequestLimits::default() };
    let api = Arc::new(Api::new(kv.clone(), Arc::new(MockNode::default()), metrics.clone(), env.clone(), requests));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let socket = TcpSocket::new(listener, env.clone());
    let (limits, stop) = (ServeLimits::default(), CancellationToken::new());
    env.tasks.spawn(serve(socket, client_router(api), limits, env.clone(), metrics.clone(), stop));
    Server { address, kv, metrics, env }
}

impl Server {
    async fn send(&self, target: &str, headers: &[(&str, &str)], body: &Json) -> Response {
        edge::send(self.address, "POST", target, headers, body.to_string().as_bytes()).await
    }

    /// The results of these operations.
    async fn batch(&self, ops: Json) -> Vec<Json> {
        let answer = self.send("/v1/batch", &[], &json!({ "ops": ops })).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{answer:?}");
        answer.json()["results"].as_array().unwrap().clone()
    }

    /// Why a body is refused as a whole.
    async fn refused(&self, target: &str, body: &str) -> (u16, String) {
        let answer = edge::send(self.address, "POST", target, &[], body.as_bytes()).await;
        assert_eq!(answer.json()["outcome"], "not_applied");
        (answer.status, format!("{}: {}", answer.problem(), answer.json()["detail"].as_str().unwrap()))
    }

    fn client(&self) -> Client {
        Client::new(ClientConfig::new([format!("http://{}", self.address)]), Env::real()).unwrap()
    }
}

fn id(key: &str) -> ObjectId {
    ObjectId::new(Bucket::new("b").unwrap(), Key::new(key.as_bytes().to_vec()).unwrap())
}

fn put(key: &str, value: &str) -> Json {
    json!({"op": "put", "bucket": "b", "key": key, "value": value})
}

fn get(key: &str) -> Json {
    json!({"op": "get", "bucket": "b", "key": key})
}

#[tokio::test]
async fn each_operation_has_the_result_that_it_would_have_by_itself() {
    let server = server().await;
    let bytes = [0, 159, 146, 150];
    let results = server
        .batch(json!([
            {"op": "put", "bucket": "b", "key": "a", "value": "x", "content_type": "text/plain", "meta": {"colour": "blue"}},
            {"op": "put", "bucket": "b", "key_b64": to_base64(b"raw"), "value_b64": to_base64(&bytes), "ttl": "60s", "w": 3},
            {"op": "delete", "bucket": "b", "key": "nothing"},
            {"op": "get", "bucket": "b", "key": "nowhere", "r": "all"},
        ]))
        .await;
    let statuses: Vec<u64> = results.iter().map(|result| result["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [204, 204, 204, 404]);
    assert!(results.iter().all(|result| result["floor"].is_string() && result["context"].is_string()), "{results:?}");
    assert_eq!((&results[0]["outcome"], &results[0]["sibling_count"]), (&json!("applied"), &json!(1)));
    assert!(results[1]["expires_at"].as_str().unwrap().starts_with("2026-01-01T00:01:00"));
    assert_eq!((&results[1]["replicas"]["needed"], &results[3]["replicas"]["needed"]), (&json!(3), &json!(3)));
    assert_eq!((&results[3]["error"]["code"], &results[3]["outcome"]), (&json!("not_found"), &json!("not_applied")));

    let results = server.batch(json!([get("a"), get("raw"), get("nothing")])).await;
    let by_itself = edge::send(server.address, "GET", "/v1/kv/b/a", &[], b"").await;
    assert_eq!(results[0]["status"], by_itself.status);
    assert_eq!(results[0]["value_b64"], to_base64(&by_itself.body));
    assert_eq!(results[0]["content_type"].as_str(), by_itself.header("content-type"));
    assert_eq!(results[0]["meta"]["colour"], "blue");
    assert_eq!(results[0]["context"].as_str(), by_itself.header("quorate-context"));
    assert_eq!(format!("\"{}\"", results[0]["etag"].as_str().unwrap()), by_itself.header("etag").unwrap());
    assert_eq!((&results[1]["value_b64"], results[1]["expires_at"].is_string()), (&json!(to_base64(&bytes)), true));
    assert_eq!(results[2]["status"], 404, "deleted");
    assert_eq!(server.batch(json!([])).await, [Json::Null; 0]);
    assert_eq!(server.metrics.http.count("POST", 200), 3, "one request each");
}

#[tokio::test]
async fn one_that_fails_fails_alone() {
    let server = server().await;
    let large = "x".repeat(MAX_VALUE + 1);
    let results = server
        .batch(json!([
            put("a", "1"),
            {"op": "put", "bucket": "b b", "key": "k", "value": "v"},
            {"op": "put", "bucket": "b", "key": "k", "value": "v", "w": "most"},
            {"op": "put", "bucket": "b", "key": "k", "value": "v", "w": 9},
            {"op": "put", "bucket": "b", "key": "k", "value": "v", "context": "forged"},
            {"op": "get", "bucket": "b", "key": "k", "floor": "forged"},
            put("large", &large),
            {"op": "jump", "bucket": "b", "key": "k"},
            put("c", "3"),
        ]))
        .await;
    let told: Vec<(u64, &str)> = results
        .iter()
        .map(|result| (result["status"].as_u64().unwrap(), result["error"]["code"].as_str().unwrap_or("")))
        .collect();
    assert_eq!(
        told,
        [
            (204, ""),
            (400, "bad_parameter"),
            (400, "bad_parameter"),
            (400, "bad_parameter"),
            (400, "bad_context"),
            (400, "bad_floor"),
            (413, "value_too_large"),
            (400, "bad_parameter"),
            (204, ""),
        ]
    );
    for result in results.iter().filter(|result| result["error"].is_object()) {
        assert_eq!((&result["outcome"], &result["error"]["outcome"]), (&json!("not_applied"), &json!("not_applied")));
        assert!(!result["error"]["detail"].as_str().unwrap().is_empty() && result["error"]["request_id"].is_null());
    }
    assert_eq!(server.kv.len(), 2);
    // A context of a batch may be longer than a header takes.
    let long = json!({"op": "delete", "bucket": "b", "key": "a", "context": "x".repeat(100 << 10)});
    assert_eq!(server.batch(json!([long])).await[0]["error"]["code"], "bad_context");
    let long = json!({"op": "delete", "bucket": "b", "key": "a", "context": "x".repeat((256 << 10) + 1)});
    assert_eq!(server.batch(json!([long])).await[0]["error"]["code"], "context_too_large");
    server.kv.fail_next_after_doing_it(write_timeout());
    let unknown = &server.batch(json!([put("a", "2")])).await[0];
    assert_eq!((&unknown["status"], &unknown["outcome"]), (&json!(504), &json!("unknown")));
    assert_eq!(
        (&unknown["error"]["required"], &unknown["error"]["retry"]),
        (&json!(2), &json!("same-idempotency-key"))
    );
}

#[tokio::test]
async fn what_is_no_batch_is_refused_as_a_whole_and_nothing_is_done() {
    let server = server().await;
    let fine = put("a", "1").to_string();
    for (body, says) in [
        (
            format!(r#"{{"ops":[{fine},{{"op":"get","bucket":"b","key":"k","consistancy":1}}]}}"#),
            "did you mean consistency?",
        ),
        (format!(r#"{{"ops":[{fine}],"op":1}}"#), "did you mean ops?"),
        (format!(r#"{{"ops":[{fine},7]}}"#), "ops[1]"),
        (format!(r#"{{"ops":[{fine},{{"op":"get","bucket":"b","key":7}}]}}"#), "ops[1]"),
        (format!(r#"{{"ops":[{fine},{{"bucket":"b","key":"k"}}]}}"#), "missing field `op`"),
        (r#"{"ops":{}}"#.to_owned(), "ops is a list"),
        (r#"{}"#.to_owned(), r#"{"ops":[...]}"#),
        (format!("[{fine}]"), "the body"),
        (String::new(), "the body"),
        ("{".to_owned(), "the body"),
        (json!({ "ops": vec![put("a", "1"); 101] }).to_string(), "at most 100 operations, got 101"),
    ] {
        let (status, detail) = server.refused("/v1/batch", &body).await;
        assert!(status == 400 && detail.starts_with("bad_parameter") && detail.contains(says), "{body}: {detail}");
    }
    let whole = json!({ "ops": [put("a", "1")] }).to_string();
    for (query, says) in [
        ("ttl=60s", "ttl means nothing for a whole batch"),
        ("key_b64=aw", "key_b64 means nothing"),
        ("resolve=latest", "resolve means nothing"),
        ("w=most", "most"),
        ("timeout=31s", "timeout is at most 30s"),
        ("tiemout=1s", "did you mean timeout?"),
    ] {
        let (status, detail) = server.refused(&format!("/v1/batch?{query}"), &whole).await;
        assert!(status == 400 && detail.contains(says), "{query}: {detail}");
    }
    let large = json!({ "ops": vec![put("a", &"x".repeat(1 << 20)); 4] }).to_string();
    let (status, detail) = server.refused("/v1/batch", &large).await;
    assert!(status == 413 && detail.contains("at most 4 MiB"), "{detail}");
    let wrong = edge::send(server.address, "GET", "/v1/batch", &[], b"").await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")));
    assert!(server.kv.is_empty(), "nothing was done");
}

#[tokio::test]
async fn what_the_request_says_holds_for_all_that_do_not_say_it_themselves() {
    let server = server().await;
    let ops = json!({"ops": [put("a", "1"), {"op": "put", "bucket": "b", "key": "c", "value": "v", "w": 2}, get("a")]});
    let answer = server.send("/v1/batch?consistency=all&explain=1&timeout=2s", &[], &ops).await;
    let results = answer.json()["results"].clone();
    let needed: Vec<u64> = (0..3).map(|at| results[at]["replicas"]["needed"].as_u64().unwrap()).collect();
    assert_eq!(needed, [3, 2, 3]);
    assert!((0..3).all(|at| results[at]["explain"].is_object()), "{results}");
    assert!(answer.header("server-timing").unwrap().starts_with("total;dur="));
    // The level any is for writes alone: a read that is told nothing else says so, and the write is done.
    let any = server.send("/v1/batch?consistency=any", &[], &json!({"ops": [put("a", "2"), get("a")]})).await;
    let any = any.json()["results"].clone();
    assert_eq!((&any[0]["status"], &any[1]["status"]), (&json!(204), &json!(400)));
    let own = json!({"op": "get", "bucket": "b", "key": "a", "r": 1});
    let own = server.send("/v1/batch?w=any", &[], &json!({"ops": [own, put("a", "3")]})).await;
    assert_eq!(own.json()["results"][0]["status"], 409, "three values by now");
    let off = server.send("/v1/batch?w=any&sloppy=off", &[], &json!({"ops": [put("a", "4")]})).await;
    assert_eq!(off.json()["results"][0]["status"], 400);
}

#[tokio::test]
async fn siblings_are_shown_with_their_context_and_settled_by_it() {
    let server = server().await;
    server.batch(json!([put("a", "1"), put("a", "2")])).await;
    let read = &server.batch(json!([get("a")])).await[0];
    assert_eq!((&read["status"], &read["error"]["code"]), (&json!(409), &json!("siblings")));
    let values: Vec<&str> = read["siblings"].as_array().unwrap().iter().map(|s| s["value"].as_str().unwrap()).collect();
    assert_eq!((values, read["value_b64"].is_null()), (vec!["2", "1"], true));
    let settles =
        json!({"op": "put", "bucket": "b", "key": "a", "value": "3", "context": read["context"], "return": "body"});
    let settled = &server.batch(json!([settles])).await[0];
    assert_eq!(
        (&settled["status"], &settled["sibling_count"], &settled["siblings"][0]["value"]),
        (&json!(200), &json!(1), &json!("3"))
    );
    // The envelope's members on demand.
    let ops = json!({"ops": [get("a"), get("nothing")]});
    let whole = server.send("/v1/batch", &[("Accept", ENVELOPE_TYPE)], &ops).await.json()["results"].clone();
    assert_eq!((&whole[0]["status"], &whole[0]["siblings"][0]["value"]), (&json!(200), &json!("3")));
    assert_eq!((&whole[1]["status"], &whole[1]["siblings"]), (&json!(200), &json!([])));
}

#[tokio::test]
async fn a_batch_that_is_sent_again_is_each_of_its_writes_again() {
    let server = server().await;
    let ops = json!({"ops": [put("a", "1"), put("a", "1"), {"op": "delete", "bucket": "b", "key": "c"}, get("a")]});
    let key = [("Idempotency-Key", "once")];
    let first = server.send("/v1/batch", &key, &ops).await.json()["results"].clone();
    assert_eq!(server.kv.object(&id("a")).siblings().len(), 2, "two writes, though they say the same");
    let again = server.send("/v1/batch", &key, &ops).await.json()["results"].clone();
    assert_eq!(server.kv.object(&id("a")).siblings().len(), 2, "and not four");
    for at in 0..3 {
        assert_eq!((&first[at]["replayed"], &again[at]["replayed"]), (&Json::Null, &json!(true)), "{at}");
    }
    let other = json!({"ops": [put("a", "other")]});
    let reused = server.send("/v1/batch", &key, &other).await.json()["results"][0].clone();
    assert_eq!((&reused["status"], &reused["error"]["code"]), (&json!(422), &json!("idempotency_reused")));
    // One that has its own keeps it, wherever it stands.
    let own = |at: usize| {
        let mut ops = vec![get("x"); at];
        ops.push(json!({"op": "put", "bucket": "b", "key": "own", "value": "v", "idempotency_key": "mine"}));
        json!({ "ops": ops })
    };
    server.send("/v1/batch", &key, &own(0)).await;
    let moved = server.send("/v1/batch", &[], &own(2)).await.json()["results"][2].clone();
    assert_eq!(moved["replayed"], true);
    let bad = server.send("/v1/batch", &[("Idempotency-Key", "")], &ops).await;
    assert_eq!((bad.status, bad.problem().as_str()), (400, "bad_parameter"));
}

#[tokio::test]
async fn the_client_tells_what_the_store_itself_tells() {
    let server = server().await;
    let client = server.client();
    let mut value = Value::from(vec![0, 159]);
    value.content_type = Some("text/x".to_owned());
    value.meta.insert("colour".to_owned(), "blue".to_owned());
    let whole =
        WriteOptions { return_body: true, ttl: Lifetime::For(Duration::from_secs(60)), ..WriteOptions::default() };
    let wrote = client
        .batch(vec![
            Operation::Put(id("a"), value.clone(), whole),
            Operation::Put(id("c"), "1".into(), WriteOptions::default()),
            Operation::Put(id("c"), "2".into(), WriteOptions::default()),
            Operation::Delete(id("d"), WriteOptions { w: Level::All, ..WriteOptions::default() }),
            Operation::Put(id("e"), "v".into(), WriteOptions { w: Level::Count(9), ..WriteOptions::default() }),
        ])
        .await
        .unwrap();
    let of = |at: usize| -> &WriteAnswer {
        let Done::Wrote(Ok(answer)) = &wrote[at] else { panic!("{:?}", wrote[at]) };
        answer
    };
    let [SiblingView { value: Some(shown), expires_at, .. }] = &of(0).siblings.as_ref().unwrap()[..] else { panic!() };
    assert_eq!((shown, *expires_at, of(0).expires_at.is_some()), (&value, of(0).expires_at, true));
    assert_eq!((of(1).sibling_count, of(2).sibling_count, of(2).context.is_none()), (1, 2, true));
    assert_eq!(
        (of(3).counted.needed, of(3).etag),
        (3, server.kv.get(id("d"), ReadOptions::default()).await.unwrap().etag.unwrap())
    );
    let Done::Wrote(Err(refused)) = &wrote[4] else { panic!("{:?}", wrote[4]) };
    assert_eq!((refused.code, refused.outcome), (ErrorCode::BadParameter, Outcome::NotApplied));

    let floor = Some(of(2).floor.clone());
    let bad = Some(FloorToken("forged".to_owned()));
    let read =
        |key: &str, floor| Operation::Get(id(key), ReadOptions { floor, explain: true, ..ReadOptions::default() });
    let reads =
        || vec![read("a", None), read("c", floor.clone()), read("d", None), read("f", None), read("c", bad.clone())];
    let here = client.batch(reads()).await.unwrap();
    let there = batch(&*server.kv, &*server.env.clock, reads()).await.unwrap();
    assert_eq!(here, there);
    let many = (0..101).map(|_| read("a", None)).collect();
    assert_eq!(client.batch(many).await.unwrap_err().code, ErrorCode::BadParameter);
    assert_eq!(client.batch(Vec::new()).await, Ok(Vec::new()));
}

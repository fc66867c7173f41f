//! How objects may be named, and what is refused: one table for the edge before a mock and for real nodes. The
//! listeners take turns; what is stored is checked in the store, not only in the answers.

use std::net::SocketAddr;

use quorate::kv::wire::{from_base64, to_base64};
use quorate::types::{Bucket, Key, ObjectId};

use super::{Response, raw, request, send};

/// The clients' side of one store: the listeners that lead to it.
pub(crate) struct Listeners(pub(crate) Vec<SocketAddr>);

impl Listeners {
    /// The listener whose turn it is.
    pub(crate) fn of_turn(&self, turn: usize) -> SocketAddr {
        self.0[turn % self.0.len()]
    }
}

pub(crate) fn id(key: &[u8]) -> ObjectId {
    ObjectId::new(Bucket::new("b").unwrap(), Key::new(key.to_vec()).unwrap())
}

/// Every way to spell a key in a path, and the key.
fn spellings() -> Vec<(String, Vec<u8>)> {
    let all: Vec<u8> = (0..=255).collect();
    let escaped: String = all.iter().map(|byte| format!("%{byte:02X}")).collect();
    let mut table: Vec<(String, Vec<u8>)> = [
        ("plain", &b"plain"[..]),
        ("a/b", b"a/b"),
        ("a%2Fc", b"a/c"),
        ("a%252Fd", b"a%2Fd"),
        ("/leading", b"/leading"),
        ("a//b/", b"a//b/"),
        (".", b"."),
        ("..", b".."),
        ("../x/./y", b"../x/./y"),
        ("%2e%2e", b".."),
        ("two%20words", b"two words"),
        ("a+b", b"a+b"),
        ("%C3%A9t%C3%A9", "été".as_bytes()),
    ]
    .map(|(path, key)| (path.to_owned(), key.to_vec()))
    .into();
    table.extend([(escaped, all), ("k".repeat(1024), vec![b'k'; 1024]), ("%FF".repeat(1024), vec![0xff; 1024])]);
    table
}

/// Where every owner is up nobody stands in. Leaves one object.
pub(crate) async fn sloppy_writes_are_taken(to: &Listeners) {
    for (turn, sloppy) in ["sloppy=on", "w=any"].into_iter().enumerate() {
        let target = format!("/v1/kv/b/sloppy?{sloppy}");
        let answer = send(to.of_turn(turn), "PUT", &target, &[], b"v").await;
        assert_eq!((answer.status, answer.header("quorate-sloppy")), (204, None), "{sloppy}");
    }
}

/// Every key can be named, and none is normalised. `siblings` counts what is stored under a name. Returns how many
/// objects there are now.
pub(crate) async fn every_key_can_be_named(to: &Listeners, siblings: impl AsyncFn(&ObjectId) -> usize) -> usize {
    let mut keys = std::collections::BTreeSet::new();
    for (turn, (path, key)) in spellings().into_iter().enumerate() {
        let value = format!("value of {path}");
        let put = send(to.of_turn(turn), "PUT", &format!("/v1/kv/b/{path}?w=3"), &[], value.as_bytes()).await;
        assert!(put.status == 204, "{path}: {put:?}");
        assert!(siblings(&id(&key)).await > 0, "{path} is stored under another key");
        let get = async |target: String| send(to.of_turn(turn + 1), "GET", &target, &[], b"").await;
        let by_b64 = get(format!("/v1/kv/b?key_b64={}&resolve=latest", to_base64(&key))).await;
        assert_eq!((by_b64.status, by_b64.body), (200, value.clone().into_bytes()), "{path}");
        let got = get(format!("/v1/kv/b/{path}?resolve=latest")).await;
        assert_eq!((got.status, got.body), (200, value.into_bytes()), "{path}");
        keys.insert(key);
    }
    // UTF-8 unescaped, as careless clients send it.
    let naive = raw(to.of_turn(0), &request("PUT", "/v1/kv/b/naïve?w=3".as_bytes(), &[], b"v")).await;
    assert_eq!((naive.status, siblings(&id("naïve".as_bytes())).await), (204, 1));
    keys.len() + 1
}

/// Targets of a PUT that is wrong, and the code that says so.
fn wrong_targets() -> Vec<(String, &'static str)> {
    let mut table: Vec<(String, &str)> = [
        ("/v1/kv/b/", "bad_key"),
        ("/v1/kv/b", "bad_key"),
        ("/v1/kv/b?key_b64=", "bad_key"),
        ("/v1/kv/b?key_b64=a", "bad_key"),
        ("/v1/kv/b?key_b64=aw==", "bad_key"),
        ("/v1/kv/b?key_b64=+/8", "bad_key"),
        ("/v1/kv/b/k?key_b64=aw", "bad_key"),
        ("/v1/kv/b/%", "bad_key"),
        ("/v1/kv/b/a%4", "bad_key"),
        ("/v1/kv/b/%zz", "bad_key"),
        ("/v1/kv/b%zz/k", "bad_key"),
        ("/v1/kv", "bad_bucket"),
        ("/v1/kv/", "bad_bucket"),
        ("/v1/kv//k", "bad_bucket"),
        ("/v1/kv/a%20b/k", "bad_bucket"),
        ("/v1/kv/a%2Fb/k", "bad_bucket"),
        ("/v1/kv/%C3%A9/k", "bad_bucket"),
        ("/v1/kv/b/k?w=0", "bad_parameter"),
        ("/v1/kv/b/k?w=9", "bad_parameter"),
        ("/v1/kv/b/k?w=-1", "bad_parameter"),
        ("/v1/kv/b/k?w=most", "bad_parameter"),
        ("/v1/kv/b/k?consistency=strong", "bad_parameter"),
        ("/v1/kv/b/k?w=2&w=3", "bad_parameter"),
        ("/v1/kv/b/k?timeout=1", "bad_parameter"),
        ("/v1/kv/b/k?timeout=31s", "bad_parameter"),
        ("/v1/kv/b/k?timeout=%zz", "bad_parameter"),
        ("/v1/kv/b/k?ttl=60", "bad_parameter"),
        ("/v1/kv/b/k?ttl=0s", "bad_parameter"),
        ("/v1/kv/b/k?ttl=4000d", "bad_parameter"),
        ("/v1/kv/b/k?return=yes", "bad_parameter"),
        ("/v1/kv/b/k?r=2", "bad_parameter"),
    ]
    .map(|(target, code)| (target.to_owned(), code))
    .into();
    table.extend([
        (format!("/v1/kv/b/{}", "k".repeat(1025)), "bad_key"),
        (format!("/v1/kv/b?key_b64={}", to_base64(&[0; 1025])), "bad_key"),
        (format!("/v1/kv/{}/k", "b".repeat(129)), "bad_bucket"),
    ]);
    table
}

/// What names nothing, or asks for what there is not, is refused.
pub(crate) async fn what_is_wrong_is_refused(to: &Listeners) {
    let put = async |turn, target: &str| -> Response { send(to.of_turn(turn), "PUT", target, &[], b"v").await };
    for (turn, (target, code)) in wrong_targets().into_iter().enumerate() {
        let answer = put(turn, &target).await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, code), "{target}");
        assert_eq!(answer.json()["outcome"], "not_applied");
    }
    let typo = put(0, "/v1/kv/b/k?consistancy=all").await;
    assert!(typo.json()["detail"].as_str().unwrap().contains("did you mean consistency?"));
    let neither = put(0, "/v1/kv/b/k?w=any&sloppy=off").await;
    assert_eq!((neither.status, neither.problem().as_str()), (400, "bad_parameter"));
    let nobody = send(to.of_turn(1), "GET", "/v1/kv/b/k?r=any", &[], b"").await;
    assert_eq!((nobody.status, nobody.problem().as_str()), (400, "bad_parameter"));
    for name in ["If-Match", "If-None-Match"] {
        let answer = send(to.of_turn(1), "PUT", "/v1/kv/b/k", &[(name, "*")], b"v").await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "precondition_needs_cas"));
    }
    for verb in ["GET", "HEAD", "PUT", "DELETE"] {
        let floor = send(to.of_turn(2), verb, "/v1/kv/b/k", &[("Quorate-Floor", "x")], b"").await;
        assert_eq!(floor.status, 400, "{verb}");
    }
    let floor = send(to.of_turn(2), "GET", "/v1/kv/b/k", &[("Quorate-Floor", "x")], b"").await;
    assert_eq!((floor.status, floor.problem().as_str()), (400, "bad_floor"));
    let twice = [("Quorate-Floor", "x"), ("Quorate-Floor", "x")];
    let twice = send(to.of_turn(0), "GET", "/v1/kv/b/k", &twice, b"").await;
    assert_eq!((twice.status, twice.problem().as_str()), (400, "bad_parameter"));
}

/// A context is taken from who was given it, for the key it was given for.
pub(crate) async fn contexts_are_checked(to: &Listeners, siblings: impl AsyncFn(&ObjectId) -> usize) {
    let first = send(to.of_turn(0), "PUT", "/v1/kv/b/checked?w=3", &[], b"1").await;
    let context = first.header("quorate-context").unwrap().to_owned();
    let mut forged = from_base64(&context).unwrap().to_vec();
    forged[9] ^= 1;
    let floor = first.header("quorate-floor").unwrap();
    let cases = [
        ("/v1/kv/b/checked", to_base64(&forged)),
        ("/v1/kv/b/checked", "not a token".into()),
        ("/v1/kv/b/checked", String::new()),
        ("/v1/kv/b/checked", floor.into()),
        ("/v1/kv/b/other", context.clone()),
        ("/v1/kv/c/checked", context),
    ];
    for (turn, (target, token)) in cases.iter().enumerate() {
        let answer = send(to.of_turn(turn), "PUT", target, &[("Quorate-Context", token)], b"2").await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "bad_context"), "{target} {token}");
    }
    // Floors are taken by the same rule, with reads and with writes.
    let mut forged = from_base64(floor).unwrap().to_vec();
    forged[9] ^= 1;
    let cases = [
        ("/v1/kv/b/checked", to_base64(&forged)),
        ("/v1/kv/b/checked", String::new()),
        ("/v1/kv/b/checked", first.header("quorate-context").unwrap().to_owned()),
        ("/v1/kv/b/other", floor.to_owned()),
        ("/v1/kv/c/checked", floor.to_owned()),
        ("/v1/kv/b/checked", "a".repeat(32 * 1024 + 1)),
    ];
    for (turn, (target, token)) in cases.iter().enumerate() {
        let given = [("Quorate-Floor", &**token)];
        for answer in [
            send(to.of_turn(turn), "GET", target, &given, b"").await,
            send(to.of_turn(turn), "PUT", target, &given, b"2").await,
        ] {
            assert_eq!((answer.status, answer.problem().as_str()), (400, "bad_floor"), "{target} {token}");
            assert!(answer.json()["detail"].as_str().unwrap().contains("floor"));
        }
    }
    let again = send(to.of_turn(2), "GET", "/v1/kv/b/checked?r=1", &[("Quorate-Floor", floor)], b"").await;
    assert_eq!((again.status, &again.body[..]), (200, &b"1"[..]));
    let large = [("Quorate-Context", &*"a".repeat(32 * 1024 + 1))];
    let large = send(to.of_turn(1), "PUT", "/v1/kv/b/checked", &large, b"2").await;
    assert_eq!((large.status, large.problem().as_str()), (409, "context_too_large"));
    assert_eq!((siblings(&id(b"checked")).await, siblings(&id(b"other")).await), (1, 0));
    assert_eq!(send(to.of_turn(2), "GET", "/v1/kv/b/checked", &[], b"").await.body, b"1");
}

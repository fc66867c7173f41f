//! The admin interface to layouts, before a cluster in memory whose plans are the real planner's: what is taken, what is
//! refused, and how each outcome is told.
#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod edge;

use std::net::SocketAddr;
use std::sync::Arc;

use edge::Response;
use quorate::env::Env;
use quorate::http::{Api, RequestLimits, ServeLimits, TcpSocket, admin_router, serve};
use quorate::kv::mock::{Decides, MockKv, MockLayouts, MockNode, MockRules, member};
use quorate::metrics::Metrics;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

struct Server {
    admin: SocketAddr,
    layouts: Arc<MockLayouts>,
}

async fn serving(layouts: Option<Arc<MockLayouts>>) -> SocketAddr {
    let (metrics, env, stop) = (Arc::new(Metrics::new()), Env::real(), CancellationToken::new());
    let node = MockNode { layouts, ..MockNode::default() };
    let kv = Arc::new(MockKv::new(MockRules::default()));
    let api = Arc::new(Api::new(kv, Arc::new(node), metrics.clone(), env.clone(), RequestLimits::default()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let socket = TcpSocket::new(listener, env.clone());
    env.tasks.spawn(serve(socket, admin_router(api, None), ServeLimits::default(), env.clone(), metrics, stop));
    address
}

async fn server() -> Server {
    let members = ["n1", "n2", "n3", "n4"].into_iter().zip(1..).map(|(name, number)| member(name, number)).collect();
    let layouts = Arc::new(MockLayouts::of(members).unwrap());
    layouts.set_candidates(vec![member("n5", 5)]);
    Server { admin: serving(Some(Arc::clone(&layouts))).await, layouts }
}

impl Server {
    async fn get(&self, path: &str) -> Response {
        edge::send(self.admin, "GET", path, &[], b"").await
    }

    async fn post(&self, path: &str, body: Value) -> Response {
        edge::send(self.admin, "POST", path, &[], body.to_string().as_bytes()).await
    }

    /// A plan: its id and version.
    async fn plan(&self, body: Value) -> (String, u64) {
        let answer = self.post("/admin/layout/plans", body).await;
        assert_eq!(answer.status, 200, "{:?}", answer.json());
        let plan = answer.json();
        (plan["id"].as_str().unwrap().to_owned(), plan["version"].as_u64().unwrap())
    }

    async fn commit(&self, plan: &str, body: Value) -> Response {
        self.post(&format!("/admin/layout/plans/{plan}/commit"), body).await
    }

    /// A problem with this status and code, whose detail says this.
    async fn refuses(&self, path: &str, body: Value, status: u16, code: &str, why: &str) {
        let answer = self.post(path, body).await;
        assert_eq!((answer.status, answer.problem().as_str()), (status, code), "{}", answer.json());
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(why), "{detail:?} does not say {why:?}");
    }
}

#[tokio::test]
async fn a_change_is_planned_committed_and_followed() {
    let server = server().await;
    let answer = server.post("/admin/layout/plans", json!({"add": ["n5"], "weights": {"n1": 2}})).await;
    let plan = answer.json();
    assert_eq!(
        (answer.status, &plan["kind"], &plan["parent"], &plan["version"]),
        (200, &json!("change"), &json!(1), &json!(2))
    );
    let members = plan["members"].as_array().unwrap();
    let changes: Vec<&Value> = members.iter().map(|member| &member["changes"]).collect();
    assert_eq!(changes, [&json!(["weight 1 to 2"]), &json!([]), &json!([]), &json!([]), &json!(["joins"])]);
    let copied = plan["copied"].as_u64().unwrap();
    assert!(copied > 0 && plan["bytes"] == copied * 1024, "{plan}");
    assert_eq!(server.layouts.newest().version(), 1, "a plan changes nothing");
    let id = plan["id"].as_str().unwrap();
    assert_eq!(plan["command"], format!("quorate layout commit {id} --version 2"));

    let begun = server.commit(id, json!({"version": 2})).await;
    assert_eq!((begun.status, begun.json()["hash"] == plan["hash"]), (202, true));
    let operation = format!("/admin/operations/{}", begun.json()["id"].as_str().unwrap());
    let running = server.get(&operation).await.json();
    assert_eq!((&running["state"], &running["done"], &running["total"]), (&json!("running"), &json!(0), &json!(15)));
    assert_eq!(running["waits_for"].as_array().unwrap().len(), 5);
    let view = server.get("/admin/layout").await.json();
    assert_eq!((&view["complete"], &view["head"]["version"], &view["reads_in"]), (&json!(false), &json!(2), &json!(1)));
    assert_eq!(view["live"].as_array().unwrap().len(), 2);
    assert_eq!(view["head"]["changes"], json!(["n1 weight 1 to 2", "n5 joins"]));
    assert_eq!(view["deciders"], json!(["n1", "n2", "n3", "n4"]), "not yet who joins");

    server.layouts.complete();
    let done = server.get(&operation).await.json();
    assert_eq!((&done["state"], &done["done"], &done["error"]), (&json!("done"), &json!(15), &Value::Null));
    assert_eq!(server.get("/admin/layout").await.json()["complete"], true);
}

#[tokio::test]
async fn what_is_not_understood_is_refused_and_nothing_is_planned() {
    let server = server().await;
    let plans = "/admin/layout/plans";
    server.refuses(plans, json!({"leave": ["n44"]}), 400, "bad_parameter", "did you mean n4?").await;
    server.refuses(plans, json!({"leaves": ["n4"]}), 400, "bad_parameter", "unknown field `leaves`").await;
    server.refuses(plans, json!({"labels": {"n1": {"rack": "a"}}}), 400, "bad_parameter", "unknown field `rack`").await;
    server.refuses(plans, json!({}), 400, "bad_parameter", "nothing would change").await;
    server.refuses(plans, json!([1]), 400, "bad_parameter", "the body").await;
    server.refuses("/admin/layout/plans/abc/commit", json!({"version": 2}), 404, "not_known", "plan again").await;
    server.refuses("/admin/layout/plans/abc/commit", json!({}), 400, "bad_parameter", "version").await;
    server.refuses("/admin/layout/abort", json!({}), 409, "layout_refused", "nothing to abort").await;
    server.refuses("/admin/layout/skip", json!({"members": ["n3"]}), 409, "layout_refused", "n3 is up").await;
    for (verb, path) in
        [("GET", plans), ("PUT", "/admin/layout/skip"), ("POST", "/admin/layout"), ("DELETE", "/admin/operations/x")]
    {
        let answer = edge::send(server.admin, verb, path, &[], b"").await;
        assert_eq!((answer.status, answer.problem().as_str()), (405, "method_not_allowed"), "{verb} {path}");
    }
    for path in ["/admin/layout/plans/a/b/commit", "/admin/layout/plan", "/admin/operations/"] {
        assert_eq!(server.get(path).await.status, 404, "{path}");
    }
    let answer = server.get("/admin/operations/layout-2-xyz").await;
    assert_eq!((answer.status, answer.problem().as_str()), (404, "not_known"));
    assert_eq!(server.layouts.newest().version(), 1);
    let fresh = Server { admin: serving(None).await, layouts: server.layouts };
    fresh.refuses(plans, json!({"add": ["n5"]}), 503, "not_serving", "not in a cluster").await;
    assert_eq!(fresh.get("/admin/layout").await.json()["head"], Value::Null);
}

#[tokio::test]
async fn of_two_commits_one_wins_and_the_other_is_told_which() {
    let server = server().await;
    let (mine, version) = server.plan(json!({"weights": {"n1": 2}})).await;
    let (other, _) = server.plan(json!({"add": ["n5"]})).await;
    let commit = format!("/admin/layout/plans/{mine}/commit");
    server.refuses(&commit, json!({"version": 9}), 400, "bad_parameter", "makes layout 2").await;
    assert_eq!(server.commit(&other, json!({"version": version})).await.status, 202);
    server.refuses(&commit, json!({"version": version}), 409, "layout_conflict", "layout 2 was decided").await;
    let late = server.commit(&mine, json!({"version": version})).await.json();
    assert_eq!((&late["layout"], &late["outcome"]), (&json!(2), &json!("not_applied")));
    assert!(late["detail"].as_str().unwrap().contains(&server.layouts.newest().hash().to_string()), "names the winner");

    server.layouts.complete();
    let (mine, version) = server.plan(json!({"weights": {"n1": 3}})).await;
    server.layouts.decide(Decides::Late);
    let commit = format!("/admin/layout/plans/{mine}/commit");
    server.refuses(&commit, json!({"version": version}), 504, "undecided", "may still be").await;
    server.layouts.decide(Decides::Another);
    server.refuses(&commit, json!({"version": version}), 409, "layout_conflict", "it is another one").await;
}

#[tokio::test]
async fn risks_are_named_and_go_on_only_when_they_are_taken() {
    let server = server().await;
    server.layouts.set_down(&["n3", "n4"]);
    let answer = server.post("/admin/layout/plans", json!({"remove": ["n3", "n4"]})).await.json();
    assert_eq!(
        (&answer["risks"][0]["code"], &answer["risks"][0]["needs"]),
        (&json!("may_lose_data"), &json!("accept_data_loss"))
    );
    assert!(answer["command"].as_str().unwrap().ends_with(" --accept-data-loss"), "{answer}");
    let commit = format!("/admin/layout/plans/{}/commit", answer["id"].as_str().unwrap());
    server.refuses(&commit, json!({"version": 2}), 409, "layout_refused", "may be lost").await;
    server.refuses(&commit, json!({"version": 2, "force": true}), 409, "layout_refused", "may be lost").await;
    let (thin, _) = server.plan(json!({"add": ["n5"]})).await;
    let grow = format!("/admin/layout/plans/{thin}/commit");
    server.refuses(&grow, json!({"version": 2}), 409, "layout_refused", "too few live replicas").await;
    assert_eq!(server.post(&grow, json!({"version": 2, "force": true})).await.status, 202);
    // Under way: what is dead is skipped, or the whole is given up.
    let skip = "/admin/layout/skip";
    server.refuses(skip, json!({"members": ["n3", "n4"]}), 409, "layout_refused", "may be lost").await;
    let back = server.post("/admin/layout/abort", json!({"force": true})).await;
    assert_eq!((back.status, back.json()["version"].as_u64()), (202, Some(3)));
    assert_eq!(server.layouts.newest().members().len(), 5, "a joiner that lives stays");
}

#[tokio::test]
async fn a_lost_majority_is_forced_and_never_silently() {
    let server = server().await;
    let force = "/admin/layout/force";
    server.layouts.set_down(&["n3"]);
    let all = |gone: &[&str]| json!({"gone": gone, "accept_data_loss": true});
    server.refuses(force, all(&["n3"]), 409, "layout_refused", "by an ordinary plan").await;
    server.layouts.set_down(&["n2", "n3", "n4"]);
    server.refuses(force, all(&["n3", "n4"]), 409, "layout_refused", "n2 is down and not named").await;
    let gone = ["n2", "n3", "n4"];
    server.refuses(force, json!({"gone": gone}), 409, "layout_refused", "only accepting data loss goes on").await;
    let begun = server.post(force, all(&gone)).await;
    assert_eq!((begun.status, begun.json()["version"].as_u64()), (202, Some(2)));
    assert_eq!(server.layouts.newest().members().len(), 1);
}

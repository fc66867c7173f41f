//! Layouts changed through real nodes, over real TCP: what one node decides all follow, of two commits at once one wins.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod embedded;

use std::time::Duration;

use quorate::cluster::Standing;
use quorate::env::Env;
use quorate::kv::layouts::{CommitRequest, LabelsRequest, OperationView, PlanRequest, PlanView};
use quorate::kv::{Error, ErrorCode, Kv, LayoutAdmin, NodeView, Outcome, ReadOptions, WriteOptions};
use quorate::node::Node;
use quorate::quorum::Level;
use quorate::types::{Bucket, Key, ObjectId};

/// A plan that moves nothing: a label changes.
fn zone(member: &str, zone: &str) -> PlanRequest {
    let labels = LabelsRequest { zone: Some(zone.into()), region: None };
    PlanRequest { labels: [(member.to_owned(), labels)].into(), ..PlanRequest::default() }
}

async fn ended(node: &Node, id: &str) -> OperationView {
    loop {
        let operation = node.operation(id).unwrap();
        if !["running", "unheard"].contains(&operation.state.as_str()) {
            return operation;
        }
        Env::real().clock.sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_has_decided_all_put_in_force() {
    let nodes = embedded::cluster(3).await;
    let plan = nodes[0].plan(zone("n2", "b")).await.unwrap();
    assert_eq!((plan.version, plan.copied, plan.bytes, plan.risks.len()), (2, 0, Some(0), 0));
    let elsewhere = nodes[1].commit(plan.id.clone(), CommitRequest { version: 2, ..CommitRequest::default() }).await;
    assert_eq!(elsewhere.unwrap_err().code, ErrorCode::NotKnown, "a plan is known to the node that made it");
    let begun = nodes[0].commit(plan.id.clone(), CommitRequest { version: 2, ..CommitRequest::default() }).await;
    let begun = begun.unwrap();
    assert_eq!((begun.version, &begun.hash, begun.warnings.len()), (2, &plan.hash, 0));
    for node in &nodes {
        let operation = ended(node, &begun.id).await;
        assert_eq!((operation.state.as_str(), operation.done, operation.total), ("done", 9, 9), "at any node");
        let view = node.layout();
        assert!(view.complete && view.waits_for.is_empty(), "{view:?}");
        assert_eq!((view.head.unwrap().hash, view.reads_in), (plan.hash.clone(), 2));
        assert_eq!(view.history[0].changes, ["n2 zone default to b"]);
        until("older layouts are dropped", || node.ring().live == [2]).await;
        assert_eq!((node.ring().version, node.ring().older.len()), (2, 0));
    }
    let again = nodes[0].commit(plan.id, CommitRequest { version: 2, ..CommitRequest::default() }).await.unwrap();
    assert_eq!(again, begun, "what is in force already is no conflict");
    embedded::stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_commits_at_once_one_wins_and_the_other_is_told_which() {
    let nodes = embedded::cluster(3).await;
    let first = nodes[0].plan(zone("n1", "a")).await.unwrap();
    let second = nodes[1].plan(zone("n1", "b")).await.unwrap();
    let commit = CommitRequest { version: 2, ..CommitRequest::default() };
    let (one, two) = tokio::join!(nodes[0].commit(first.id, commit), nodes[1].commit(second.id, commit));
    let lost = |error: &Error| (error.code, error.outcome, error.layout);
    let conflict = (ErrorCode::LayoutConflict, Outcome::NotApplied, Some(2));
    let (winner, told) = match (one, two) {
        (Ok(won), Err(error)) | (Err(error), Ok(won)) => (won, error),
        both => panic!("one wins: {both:?}"),
    };
    assert_eq!(lost(&told), conflict);
    assert!(told.detail.contains(&winner.hash), "{}", told.detail);
    for node in &nodes {
        assert_eq!(ended(node, &winner.id).await.state, "done");
        assert_eq!(node.layout().head.unwrap().hash, winner.hash);
    }
    let stale = nodes[2].plan(zone("n3", "c")).await.unwrap();
    let next = nodes[0].plan(zone("n2", "c")).await.unwrap();
    let begun = nodes[0].commit(next.id, CommitRequest { version: 3, ..CommitRequest::default() }).await.unwrap();
    ended(&nodes[2], &begun.id).await;
    let refused = nodes[2].commit(stale.id, CommitRequest { version: 3, ..CommitRequest::default() }).await;
    assert_eq!(lost(&refused.unwrap_err()), (ErrorCode::LayoutConflict, Outcome::NotApplied, Some(3)));
    embedded::stop(nodes).await;
}

fn id(number: usize) -> ObjectId {
    ObjectId::new(Bucket::new("b").unwrap(), Key::new(format!("k{number}").into_bytes()).unwrap())
}

const KEYS: usize = 40;

/// Every key is there, at whichever node it is asked for, on as many as there are. One that does not know yet that the
/// older layout is dropped says that its dead owners are missed: it is asked again.
async fn all_there(nodes: &[&Node]) {
    for (number, node) in (0..KEYS).zip(nodes.iter().cycle()) {
        let options = ReadOptions { r: Level::All, timeout: Duration::from_secs(10), ..ReadOptions::default() };
        let mut tries = 2000;
        let read = loop {
            match node.get(id(number), options.clone()).await {
                Err(error) if error.code == ErrorCode::QuorumUnavailable && tries > 0 => {
                    tries -= 1;
                    Env::real().clock.sleep(Duration::from_millis(5)).await;
                }
                read => break read.unwrap(),
            }
        };
        assert_eq!(read.siblings.len(), 1, "{}", id(number));
    }
}

/// Plans, commits, and waits for the end. What nodes decide by themselves may come first: then it is planned anew.
async fn change(node: &Node, request: PlanRequest) -> PlanView {
    loop {
        let planned = match node.plan(request.clone()).await {
            Ok(plan) => {
                let commit = CommitRequest { version: plan.version, ..CommitRequest::default() };
                node.commit(plan.id.clone(), commit).await.map(|begun| (plan, begun))
            }
            Err(error) => Err(error),
        };
        match planned {
            Ok((plan, begun)) => {
                let operation = ended(node, &begun.id).await;
                assert_eq!((operation.state.as_str(), operation.done), ("done", operation.total), "{operation:?}");
                return plan;
            }
            Err(error) => {
                let passing = error.code == ErrorCode::LayoutConflict || error.detail.contains("is not complete yet");
                assert!(passing, "{error}");
                Env::real().clock.sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// Waits until a change is complete by everybody's word: one who dies before that holds the next one up, as it should.
async fn complete(nodes: &[Node]) {
    until("the change is complete", || {
        nodes.iter().all(|node| node.layouts().known().is_some_and(|known| known.view().is_complete()))
    })
    .await;
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    println!("waits until {what}");
    while !holds() {
        Env::real().clock.sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_added_leave_are_removed_and_replaced_and_no_key_is_lost() {
    let mut nodes = embedded::cluster_with(3, |config| config.node.auto_join = false).await;
    for number in 0..KEYS {
        let options = WriteOptions { timeout: Duration::from_secs(10), ..WriteOptions::default() };
        nodes[0].put(id(number), format!("v{number}").into(), options).await.unwrap();
    }
    let names = |node: &Node| -> Vec<String> {
        let mut names: Vec<_> = node.status().members.into_iter().map(|member| member.name).collect();
        names.sort();
        names
    };
    let asks = |node: &Node, name: &str| node.layout().candidates.iter().any(|candidate| candidate.name == name);
    let one = |name: &str| vec![name.to_owned()];

    nodes.push(embedded::joiner("n4", &nodes).await);
    until("n4 asks to be taken in", || asks(&nodes[0], "n4")).await;
    let nobody = nodes[0].plan(PlanRequest { add: one("n5"), ..PlanRequest::default() }).await.unwrap_err();
    assert!(nobody.detail.contains("did you mean n4?"), "{nobody}");
    let plan = change(&nodes[0], PlanRequest { add: one("n4"), ..PlanRequest::default() }).await;
    assert!(plan.copied > 0 && plan.bytes.is_some_and(|bytes| bytes > 0), "{plan:?}");
    assert_eq!(nodes[3].wait_until_serving().await, Standing::Serving);
    assert_eq!(names(&nodes[3]), ["n1", "n2", "n3", "n4"]);
    all_there(&nodes.iter().collect::<Vec<_>>()).await;

    change(&nodes[2], PlanRequest { leave: one("n2"), ..PlanRequest::default() }).await;
    assert_eq!(names(&nodes[2]), ["n1", "n3", "n4"], "it is done once it is left out");
    until("n2 knows that it has left", || matches!(nodes[1].standing(), Standing::Refused(_))).await;
    nodes.remove(1).shutdown().await.unwrap();
    all_there(&nodes.iter().collect::<Vec<_>>()).await;
    complete(&nodes).await;

    // n3 dies; n5 takes its places.
    nodes.remove(1).shutdown().await.unwrap();
    let down = |node: &Node, name: &str| node.status().members.iter().any(|m| m.name == name && m.state == "down");
    until("n3 is down", || down(&nodes[0], "n3")).await;
    let leaves = nodes[0].plan(PlanRequest { leave: one("n3"), ..PlanRequest::default() }).await.unwrap_err();
    assert!(leaves.detail.contains("n3 is down"), "{leaves}");
    nodes.push(embedded::joiner("n5", &nodes).await);
    until("n5 asks to be taken in", || asks(&nodes[0], "n5")).await;
    let replace = vec![quorate::kv::layouts::Replacement { old: "n3".into(), new: "n5".into() }];
    let plan = change(&nodes[0], PlanRequest { replace, ..PlanRequest::default() }).await;
    let of = |name: &str| plan.members.iter().find(|member| member.name == name).unwrap().changes.clone();
    assert_eq!((of("n3"), of("n5")), (one("replaced by n5"), one("replaces n3")));
    assert_eq!(nodes[2].wait_until_serving().await, Standing::Serving);
    assert_eq!(names(&nodes[2]), ["n1", "n4", "n5"]);
    all_there(&nodes.iter().collect::<Vec<_>>()).await;
    complete(&nodes).await;

    // n4 dies, and is left out.
    nodes.remove(1).shutdown().await.unwrap();
    until("n4 is down", || down(&nodes[0], "n4")).await;
    change(&nodes[0], PlanRequest { remove: one("n4"), ..PlanRequest::default() }).await;
    assert_eq!(names(&nodes[1]), ["n1", "n5"]);
    all_there(&nodes.iter().collect::<Vec<_>>()).await;
    embedded::stop(nodes).await;
}

/// A joiner that dies in the middle of its join is named, with the command; after it the others go on as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_waits_for_the_dead_says_so_and_is_aborted() {
    let nodes = embedded::cluster_with(3, |config| config.node.auto_join = false).await;
    let joiner = embedded::joiner("n4", &nodes).await;
    let asks = || nodes[0].layout().candidates.iter().any(|candidate| candidate.name == "n4");
    until("n4 asks to be taken in", asks).await;
    let plan = nodes[0].plan(PlanRequest { add: vec!["n4".into()], ..PlanRequest::default() }).await.unwrap();
    joiner.shutdown().await.unwrap();
    let commit = CommitRequest { version: plan.version, ..CommitRequest::default() };
    let begun = nodes[0].commit(plan.id, commit).await.unwrap();
    let waiting = || {
        let attention = nodes[1].status().attention;
        attention.into_iter().find(|item| item.code == "change_waits")
    };
    until("status names n4", || waiting().is_some()).await;
    let item = waiting().unwrap();
    assert!(item.text.contains("waited for n4 since 2"), "{}", item.text);
    assert_eq!(item.command, "quorate layout abort");
    let view = nodes[2].layout();
    assert!(view.waits_for.iter().any(|wait| wait.member == "n4"), "{view:?}");
    until("n2 knows that n4 is down", || {
        nodes[1].status().members.iter().any(|member| member.name == "n4" && member.state == "down")
    })
    .await;
    let other = nodes[1].plan(zone("n1", "b")).await.unwrap_err();
    assert_eq!((other.code, other.outcome), (ErrorCode::LayoutRefused, Outcome::NotApplied), "{other}");
    let back = nodes[1].abort(quorate::kv::layouts::AbortRequest::default()).await.unwrap();
    assert_eq!(ended(&nodes[1], &back.id).await.state, "done");
    let given_up = ended(&nodes[0], &begun.id).await;
    assert_eq!((given_up.state.as_str(), given_up.error.is_some()), ("superseded", true), "{given_up:?}");
    assert_eq!(nodes[0].layout().trackers.len(), 3);
    embedded::stop(nodes).await;
}

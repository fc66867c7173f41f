//! Layouts changed through real nodes, over real TCP: what one node decides all follow, of two commits at once one wins.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod embedded;

use quorate::kv::layouts::{CommitRequest, LabelsRequest, OperationView, PlanRequest};
use quorate::kv::{Error, ErrorCode, LayoutAdmin, NodeView, Outcome};
use quorate::node::Node;

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
        tokio::task::yield_now().await;
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
        assert_eq!((node.ring().version, node.ring().live, node.ring().older.len()), (2, vec![2], 0));
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

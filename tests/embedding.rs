//! Nodes embedded in this process, over real TCP on loopback, their data in memory: the embedding API, and what a client
//! is shown.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod embedded;

use embedded::{cluster, stop};
use quorate::causality::TokenKind;
use quorate::kv::{ErrorCode, Kv, Outcome, ReadOptions, Session, WriteOptions};
use quorate::quorum::Level;
use quorate::types::{Bucket, Key, ObjectId};

fn id(key: &str) -> ObjectId {
    ObjectId::new(Bucket::new("b").unwrap(), Key::new(key.to_owned()).unwrap())
}

fn values(answer: &quorate::kv::ReadAnswer) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut values: Vec<String> =
        answer.siblings.iter().filter_map(|s| s.value.as_ref().map(|value| text(&value.bytes))).collect();
    values.sort();
    values
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_answer_each_other() {
    let nodes = cluster(3).await;
    for (index, node) in nodes.iter().enumerate() {
        let written =
            node.put(id(&format!("k{index}")), format!("v{index}").into(), WriteOptions::default()).await.unwrap();
        assert!(written.context.is_some());
        assert!(written.counted.answered >= 2 && written.counted.n == 3);
    }
    for r in [Level::One, Level::Two, Level::Three, Level::Quorum, Level::All] {
        for node in &nodes {
            for index in 0..3 {
                if r == Level::One {
                    continue;
                }
                let options = ReadOptions { r, explain: true, ..ReadOptions::default() };
                let found = node.get(id(&format!("k{index}")), options).await.unwrap();
                assert_eq!(values(&found), [format!("v{index}")]);
                assert_eq!(found.explain.unwrap().replicas.len(), 3);
            }
        }
    }
    stop(nodes).await;
}

/// Each session writes at one node and reads at another, one replica at a time, as fast as it can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_reads_its_own_writes_through_whatever_node() {
    let nodes = cluster(3).await;
    let mut floor = None;
    for round in 0..60 {
        let (written, read) = (&nodes[round % 3], &nodes[(round + 1 + round / 3 % 2) % 3]);
        let options = WriteOptions { w: Level::One, floor, ..WriteOptions::default() };
        let context = written.get(id("k"), ReadOptions { floor: options.floor.clone(), ..ReadOptions::default() });
        let options = WriteOptions { context: Some(context.await.unwrap().context), ..options };
        let session = Session::new(written.clone());
        let wrote = session.put(id("k"), format!("v{round}").into(), options).await.unwrap();
        assert_eq!(session.floor(&id("k")).await, Some(wrote.floor.clone()));
        let options = ReadOptions { r: Level::One, floor: Some(wrote.floor), ..ReadOptions::default() };
        let found = read.get(id("k"), options).await.unwrap();
        assert_eq!(values(&found), [format!("v{round}")]);
        floor = Some(found.floor);
    }
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_writers_with_one_context_leave_two_siblings_and_one_context() {
    let nodes = cluster(3).await;
    let first =
        nodes[0].put(id("k"), "first".into(), WriteOptions { w: Level::All, ..WriteOptions::default() }).await.unwrap();
    let with = |context: &Option<quorate::kv::ContextToken>| WriteOptions {
        w: Level::All,
        context: context.clone(),
        ..WriteOptions::default()
    };
    let a = nodes[1].put(id("k"), "a".into(), with(&first.context)).await.unwrap();
    assert!(a.context.is_some(), "alone in the object");
    let b = nodes[2].put(id("k"), "b".into(), with(&first.context)).await.unwrap();
    assert_eq!((b.sibling_count, b.context), (2, None), "a context names only what its holder was shown");
    let found = nodes[0].get(id("k"), ReadOptions::default()).await.unwrap();
    assert_eq!(values(&found), ["a", "b"]);
    let both = Some(found.context.clone());
    let resolved = nodes[0].put(id("k"), "ab".into(), with(&both)).await.unwrap();
    assert_eq!(resolved.sibling_count, 1);
    for node in &nodes {
        let found = node.get(id("k"), ReadOptions { r: Level::One, ..ReadOptions::default() }).await.unwrap();
        assert_eq!(values(&found), ["ab"]);
    }
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_refused_and_not_applied() {
    let nodes = cluster(1).await;
    let node = &nodes[0];
    let put = |options: WriteOptions| node.put(id("k"), "v".into(), options);
    let nine = put(WriteOptions { w: Level::Count(9), ..WriteOptions::default() }).await.unwrap_err();
    assert_eq!((nine.code, nine.outcome), (ErrorCode::BadParameter, Outcome::NotApplied));
    let any = node.get(id("k"), ReadOptions { r: Level::Any, ..ReadOptions::default() }).await.unwrap_err();
    assert_eq!((any.code, any.outcome), (ErrorCode::BadParameter, Outcome::NotApplied));
    let any = node.put(id("any"), "v".into(), WriteOptions { w: Level::Any, ..WriteOptions::default() }).await.unwrap();
    assert_eq!((any.counted.answered, any.counted.sloppy), (1, 0), "an owner is somebody, too");
    let other = node.put(id("other"), "v".into(), WriteOptions::default()).await.unwrap();
    let foreign = put(WriteOptions { context: other.context, ..WriteOptions::default() }).await.unwrap_err();
    assert_eq!((foreign.code, foreign.outcome), (ErrorCode::BadContext, Outcome::NotApplied));
    let floor = quorate::kv::ContextToken(other.floor.0);
    let floor =
        node.put(id("other"), "v".into(), WriteOptions { context: Some(floor), ..WriteOptions::default() }).await;
    assert_eq!(floor.unwrap_err().code, ErrorCode::BadContext);
    let long = node.put(id("k"), vec![0; (1 << 20) + 1].into(), WriteOptions::default()).await.unwrap_err();
    assert_eq!((long.code, long.outcome), (ErrorCode::ValueTooLarge, Outcome::NotApplied));
    let nothing = node.get(id("k"), ReadOptions::default()).await.unwrap();
    assert!(nothing.siblings.is_empty() && nothing.etag.is_none());
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_idempotency_key_is_one_version_through_any_node() {
    let nodes = cluster(3).await;
    let options = || WriteOptions { idempotency_key: Some("once".into()), ..WriteOptions::default() };
    let first = nodes[0].put(id("k"), "v".into(), options()).await.unwrap();
    assert!(!first.replayed);
    for node in &nodes {
        let again = node.put(id("k"), "v".into(), options()).await.unwrap();
        assert!(again.replayed);
        assert_eq!((again.etag, again.context.is_some()), (first.etag, true));
    }
    let other = nodes[1].put(id("k"), "w".into(), options()).await.unwrap_err();
    assert_eq!((other.code, other.outcome), (ErrorCode::IdempotencyReused, Outcome::NotApplied));
    let found = nodes[2].get(id("k"), ReadOptions { r: Level::All, ..ReadOptions::default() }).await.unwrap();
    let keys = nodes[0].token_keys().unwrap();
    let context = keys.verify(TokenKind::Context, &id("k"), &found.context.0, 1 << 15).unwrap();
    assert_eq!((found.siblings.len(), context.len()), (1, 1), "one dot was minted");
    stop(nodes).await;
}

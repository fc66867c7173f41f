//! What it costs to find and to mend a difference between replicas: `scripts/bench repair`.
//!
//! Nodes of this process, each with a directory of its own, over TCP on loopback. They are loaded alike, beneath all
//! quorums; then one of them alone takes newer states of some keys, and compares itself with the others. What counts is
//! the bytes that all of them sent meanwhile, whatever for, and whether just those keys were found. See
//! `docs/performance.md`.

#![allow(dead_code, reason = "the benches share a module and each uses a part of it")]

mod support;

use std::collections::BTreeMap;
use std::error::Error;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use quorate::causality::{MergeRules, Object, Payload, Supersedes, Write, encode_object, write};
use quorate::cluster::Standing;
use quorate::kv::{BucketAdmin as _, Guard, NodeView as _};
use quorate::node::{ClusterConfig, Config, Node, NodeConfig};
use quorate::repair::{Repaired, Scope};
use quorate::replica::{Cause, MergeRequest, Place, Reserve};
use quorate::storage::Durability;
use quorate::types::{ActorId, Bucket, Key, ObjectId, Stamp, StoreId, Wall};
use support::{scratch, value};

type Done<T> = Result<T, Box<dyn Error>>;

const SIZE: usize = 1024;
const AT_ONCE: usize = 512;
/// Longer than keys written lately are left out of comparisons.
const FRESH: Duration = Duration::from_secs(21);
/// What a repair may send beside twice the records: performance.md of the design.
const BESIDE: u64 = 128 << 10;
/// What a round in sync may send for each pair of a partition and another owner.
const A_PAIR: u64 = 64;

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let done = support::runtime(1).map_err(Into::into).and_then(|runtime| runtime.block_on(bench(quick)));
    if let Err(problem) = done {
        eprintln!("error: {problem}");
        std::process::exit(1);
    }
}

async fn bench(quick: bool) -> Done<()> {
    let keys = if quick { 100_000 } else { 1_000_000 };
    println!("values of {SIZE} B; sent: all that the nodes sent meanwhile, heartbeats and gossip included");
    let buckets = [("b", None)];
    one(2, &buckets, keys, 1000).await?;
    let buckets = [("one", Some(1)), ("two", Some(2)), ("three", None)];
    one(3, &buckets, keys / 10, 1000).await
}

/// Loads `count` nodes with `keys` keys in these buckets, in turn, makes `differ` of them differ in the first node, and
/// repairs from there.
async fn one(count: usize, buckets: &[(&str, Option<u8>)], keys: usize, differ: usize) -> Done<()> {
    let dir = scratch()?;
    let nodes = cluster(count, dir.path()).await?;
    for (bucket, n) in buckets {
        let Some(n) = n else { continue };
        let wish = serde_json::from_value(serde_json::json!({ "n": n }))?;
        let set = nodes[0].set_bucket(Bucket::new(bucket)?, wish, Guard::default(), Duration::from_secs(60));
        set.await.map_err(|error| error.detail)?;
    }
    let names: Vec<String> =
        buckets.iter().map(|(name, n)| n.map_or((*name).to_owned(), |n| format!("{name} with n = {n}"))).collect();
    println!("\n{count} nodes, {keys} keys in: {}", names.join(", "));
    settled(&nodes).await;
    let began = now();
    load(&nodes, buckets, 0..keys, 1).await?;
    println!("  loaded in {:.0} s", began.elapsed().as_secs_f64());
    pause(FRESH).await;

    // What a round saw in the midst of the load is made equal first.
    nodes[0].repair(Scope::default()).await;
    let (equal, sent, took) = round(&nodes).await;
    if equal.differed + equal.unfinished > 0 || equal.compared == 0 {
        return Err(format!("not in sync after a repair: {equal:?}").into());
    }
    println!(
        "  in sync: {} pairs of a partition and another owner compared in {took:.1} s, {sent} B sent, {:.1} B a pair (bar {A_PAIR})",
        equal.compared,
        sent as f64 / equal.compared as f64
    );

    let step = (keys / differ).max(1);
    let differing = load(&nodes[..1], buckets, (0..keys).step_by(step).take(differ), 2).await?;
    pause(FRESH).await;
    // A bucket of one replica has nobody to compare with.
    let shared = differing.iter().filter(|(owners, _)| **owners > 1);
    let pairs: u64 = shared.clone().map(|(owners, (keys, _))| (*owners as u64 - 1) * keys).sum();
    let records: u64 = shared.map(|(owners, (_, bytes))| (*owners as u64 - 1) * bytes).sum();
    let (mended, sent, took) = round(&nodes).await;
    let bar = 2 * records + BESIDE;
    println!(
        "  {pairs} keys differ, of {records} B of records: {} found, {} mended in one round of {took:.1} s, {sent} B sent, \
         {:.2} of the records, {:.2} of the bar (2 x records + 128 KiB)",
        mended.keys,
        mended.repaired,
        sent as f64 / records as f64,
        sent as f64 / bar as f64
    );
    let exact = (mended.keys, mended.repaired, mended.unfinished) == (pairs, pairs, 0);
    let again = nodes[0].repair(Scope::default()).await;
    for node in nodes {
        node.shutdown_within(Duration::from_secs(5)).await?;
    }
    match (exact, again.differed) {
        (true, 0) => Ok(()),
        (false, _) => Err(format!("not just what differs, or not in one round: {mended:?}").into()),
        (true, _) => Err(format!("still different after it: {again:?}").into()),
    }
}

/// A round from the first node: what it did, what all sent meanwhile, and seconds.
async fn round(nodes: &[Node]) -> (Repaired, u64, f64) {
    let sent_by = |node: &Node| {
        // What the transport has counted is shown where it is asked for.
        let _ = node.metrics_text();
        node.metrics().transport.bytes_sent.get()
    };
    let sent = || nodes.iter().map(sent_by).sum::<u64>();
    let (before, began) = (sent(), now());
    let repaired = nodes[0].repair(Scope::default()).await;
    let took = began.elapsed().as_secs_f64();
    (repaired, sent() - before, took)
}

async fn cluster(count: usize, dir: &Path) -> Done<Vec<Node>> {
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let addresses: Vec<String> =
        held.iter().map(|listener| Ok(listener.local_addr()?.to_string())).collect::<Done<_>>()?;
    drop(held);
    let mut nodes = Vec::new();
    for (number, address) in addresses.iter().enumerate() {
        let node = NodeConfig {
            name: format!("node-{}", number + 1),
            peer_address: address.clone(),
            client_address: format!("node-{}:0", number + 1),
            seeds: addresses.clone(),
            disk_reserve: Reserve::Bytes(64 << 20),
            durability: Durability::Os,
            // Rounds come when they are asked for, as fast as they go.
            repair_interval: Duration::from_secs(24 * 3600),
            repair_rate: 0,
            ..NodeConfig::default()
        };
        let config = Config { cluster: ClusterConfig::default(), node };
        nodes.push(Node::builder().config(config).data_dir(dir.join(format!("{number}"))).start().await?);
    }
    for node in &nodes {
        match node.wait_until_serving().await {
            Standing::Serving => {}
            other => return Err(format!("{other:?}").into()),
        }
    }
    Ok(nodes)
}

/// Waits until one layout is in force and all are up.
async fn settled(nodes: &[Node]) {
    let well = |node: &Node| {
        let one = node.layouts().known().is_some_and(|known| known.chain.live().len() == 1);
        one && node.status().members.iter().all(|member| member.state == "up")
    };
    while !nodes.iter().all(well) {
        pause(Duration::from_millis(50)).await;
    }
}

/// Puts a state of each key into those of `nodes` that own it, beneath all quorums; `round` above 1 supersedes. For each
/// number of owners: keys and bytes of records that the first node took.
async fn load(
    nodes: &[Node],
    buckets: &[(&str, Option<u8>)],
    keys: impl Iterator<Item = usize>,
    round: u64,
) -> Done<BTreeMap<usize, (u64, u64)>> {
    let layout = nodes[0].layouts().newest().ok_or("no layout")?;
    let body = Bytes::from(value(SIZE));
    let rules = MergeRules { last_write_wins: false, idempotency_window: Duration::ZERO };
    let (mut taken, mut merges) = (BTreeMap::<usize, (u64, u64)>::new(), Vec::new());
    let mut refused = 0_u64;
    for number in keys {
        let bucket = Bucket::new(buckets[number % buckets.len()].0)?;
        let settings = layout.settings(&bucket);
        let id = ObjectId::new(bucket, Key::new(format!("key-{number:08}"))?);
        let place = Place::of(layout.grid(), &id, settings.generation);
        let owners: Vec<StoreId> = layout
            .owners(place.partition, settings)
            .flat_map(|(_, owners)| owners.iter().map(|owner| layout.member(*owner).store))
            .collect();
        let mut object = Object::new();
        for round in 1..=round {
            let payload = Payload {
                value: Some(body.clone()),
                content_type: None,
                meta: BTreeMap::new(),
                written_at: Wall(round),
                expires_at: None,
            };
            let of = Write { payload, supersedes: Supersedes::Seen, request: None };
            let stamp = Stamp::at(Wall(1_700_000_000_000 + round));
            object = write(&object, of, ActorId(number as u64), stamp, Stamp::at(Wall(0)), &rules).object;
        }
        let record = encode_object(&object);
        for (at, node) in nodes.iter().enumerate() {
            let me = node.replica().identity().store();
            if !owners.contains(&me) {
                continue;
            }
            if at == 0 {
                let (keys, bytes) = taken.entry(owners.len()).or_default();
                (*keys, *bytes) = (*keys + 1, *bytes + record.len() as u64);
            }
            let (place, record, class) = (place.clone(), record.clone(), layout.class_of(settings));
            let epoch = node.replica().epoch(place.partition);
            let request = MergeRequest { place, record, rules, class, flush: false, cause: Cause::Repair, epoch };
            let replica = node.replica().clone();
            merges.push(async move { replica.merge(request).await });
        }
        if merges.len() >= AT_ONCE {
            refused += done(std::mem::take(&mut merges)).await;
        }
    }
    refused += done(merges).await;
    if refused > 0 { Err(format!("{refused} states were refused").into()) } else { Ok(taken) }
}

async fn done<T, E>(merges: Vec<impl Future<Output = Result<T, E>>>) -> u64 {
    let merged = futures_util::stream::iter(merges).buffer_unordered(AT_ONCE);
    merged.fold(0, |refused, merged| async move { refused + u64::from(merged.is_err()) }).await
}

#[allow(clippy::disallowed_methods, reason = "a bench runs in real time")]
fn now() -> Instant {
    Instant::now()
}

#[allow(clippy::disallowed_methods, reason = "a bench runs in real time")]
async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}

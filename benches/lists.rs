//! How fast keys are listed, and whether a list is whole while nodes come and go: `scripts/bench lists`.
//!
//! Nodes of this process, each with a directory of its own, over TCP on loopback, loaded alike beneath all quorums. The floor
//! is one scan of one node's index in its own order: what no list can do without. Then pages of several sizes through one
//! node, a prefix of a hundredth of the keys while a fourth node joins and another stops, and the same with two of three
//! stopped. See `docs/performance.md`.

#![allow(dead_code, reason = "the benches share a module and each uses a part of it")]

mod support;

use std::collections::BTreeMap;
use std::error::Error;
use std::net::TcpListener;
use std::ops::Bound::Unbounded;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use quorate::causality::{MergeRules, Object, Payload, Supersedes, Write, encode_object, write};
use quorate::cluster::Standing;
use quorate::kv::{KeyPage, Kv as _, ListCursor, ListOptions, NodeView as _, Pages};
use quorate::node::{ClusterConfig, Config, Node, NodeConfig};
use quorate::quorum::Level;
use quorate::replica::{Cause, MergeRequest, Place, Reserve};
use quorate::storage::{Durability, Keyspace};
use quorate::types::{ActorId, Bucket, Key, ObjectId, Stamp, StoreId, Wall};
use support::{scratch, value};

type Done<T> = Result<T, Box<dyn Error>>;

const SIZE: usize = 100;
const AT_ONCE: usize = 512;
const NODES: usize = 3;
/// Until nothing that the load has caused runs in the background.
const QUIET: Duration = Duration::from_secs(30);
/// Keys with the prefix that is listed while nodes come and go.
const PART: usize = 100;

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let done = support::runtime(1).map_err(Into::into).and_then(|runtime| runtime.block_on(bench(quick)));
    if let Err(problem) = done {
        eprintln!("error: {problem}");
        std::process::exit(1);
    }
}

fn bucket() -> Bucket {
    Bucket::new("listed").unwrap_or_else(|error| unreachable!("{error}"))
}

/// A key: a hundredth of them begins with the same three digits.
fn key(number: usize) -> String {
    format!("key-{:02}-{number:07}", number % PART)
}

async fn bench(quick: bool) -> Done<()> {
    let count = if quick { 100_000 } else { 1_000_000 };
    let dir = scratch()?;
    // The last one's port: it joins later.
    let addresses = addresses(NODES + 1)?;
    let mut nodes = Vec::new();
    for at in 0..NODES {
        nodes.push(node(at, &addresses, dir.path()).await?);
    }
    for node in &nodes {
        serving(node).await?;
    }
    settled(&nodes).await;
    println!("{NODES} nodes, N=3, 1,024 partitions, {count} keys with values of {SIZE} B");
    load(&nodes, count).await?;
    pause(QUIET).await;

    let began = now();
    let entries = nodes[0].replica().storage().scan(Keyspace::Index, Unbounded, Unbounded);
    let scanned = entries.filter(Result::is_ok).count();
    let floor = scanned as f64 / began.elapsed().as_secs_f64();
    println!("floor: one node's index in its own order, {scanned} entries: {floor:.0} keys/s");
    for (limit, pages) in [(100, 20), (1_000, 20), (10_000, 10)] {
        let options = ListOptions { limit, ..ListOptions::default() };
        let (keys, seconds) = some(&nodes[0], options, pages).await?;
        let rate = keys as f64 / seconds;
        println!(
            "pages of {limit}: {rate:.0} keys/s, {:.1} ms a page, {:.3} of the floor",
            seconds / pages as f64 * 1e3,
            rate / floor
        );
    }
    for (what, options) in [
        ("with values", ListOptions { values: true, ..ListOptions::default() }),
        ("r=quorum", ListOptions { r: Level::Quorum, ..ListOptions::default() }),
    ] {
        let (keys, seconds) = some(&nodes[0], options, 10).await?;
        println!("pages of 1000, {what}: {:.0} keys/s", keys as f64 / seconds);
    }
    let began = now();
    let all = all(&nodes[0], b"", 10_000, count, |_| {}).await?;
    println!("all of them by 10,000: {all} keys in {:.1} s, in order, each once", began.elapsed().as_secs_f64());

    changing(&mut nodes, &addresses, dir.path(), count).await?;
    for node in nodes {
        node.shutdown_within(Duration::from_secs(5)).await?;
    }
    Ok(())
}

/// So many pages from the first on: keys, and seconds.
async fn some(node: &Node, options: ListOptions, pages: usize) -> Done<(usize, f64)> {
    let began = now();
    let (mut keys, mut all) = (0, Pages::new(node, bucket(), options));
    for _ in 0..pages {
        let Some(page) = all.next().await else { break };
        keys += page.map_err(|error| error.to_string())?.keys.len();
    }
    Ok((keys, began.elapsed().as_secs_f64()))
}

/// Lists a prefix, and checks that it is whole: in order, nothing twice, nothing missing.
async fn all(node: &Node, prefix: &[u8], limit: usize, count: usize, mut seen: impl FnMut(&KeyPage)) -> Done<usize> {
    let options = ListOptions { prefix: Bytes::copy_from_slice(prefix), limit, ..ListOptions::default() };
    let (mut pages, mut last, mut keys) = (Pages::new(node, bucket(), options), Bytes::new(), 0);
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| error.to_string())?;
        if !page.gaps.is_empty() {
            return Err(format!("gaps: {:?}", page.gaps).into());
        }
        keys += check_order(&page, &mut last)?;
        seen(&page);
    }
    if keys == count { Ok(keys) } else { Err(format!("{keys} keys of {count}").into()) }
}

fn check_order(page: &KeyPage, last: &mut Bytes) -> Done<usize> {
    for listed in &page.keys {
        if listed.key.as_bytes() <= last {
            return Err(format!("{:?} comes after {last:?}", listed.key).into());
        }
        last.clone_from(listed.key.as_bytes());
    }
    Ok(page.keys.len())
}

/// A prefix of a hundredth of the keys, by small pages through one node after the other, while a fourth node joins and
/// another stops; then with two of three stopped.
async fn changing(nodes: &mut Vec<Node>, addresses: &[String], dir: &Path, count: usize) -> Done<()> {
    let prefix = Bytes::from_static(b"key-07-");
    let (mut cursor, mut last, mut keys, mut pages, mut slowest) = (None::<ListCursor>, Bytes::new(), 0, 0, 0.0_f64);
    // A hundred pages, however many keys there are.
    let limit = (count / PART / 100).max(1);
    loop {
        match pages {
            10 => nodes.push(node(NODES, addresses, dir).await?),
            50 => nodes.remove(1).shutdown_within(Duration::ZERO).await?,
            _ => {}
        }
        let serving: Vec<&Node> = nodes.iter().filter(|node| node.standing() == Standing::Serving).collect();
        let options = ListOptions { prefix: prefix.clone(), limit, cursor: cursor.clone(), ..ListOptions::default() };
        let began = now();
        let page = serving[pages % serving.len()].list(bucket(), options).await.map_err(|error| error.to_string())?;
        slowest = slowest.max(began.elapsed().as_secs_f64());
        if !page.gaps.is_empty() {
            return Err(format!("page {pages} has gaps: {:?}", page.gaps).into());
        }
        keys += check_order(&page, &mut last)?;
        (cursor, pages) = (page.cursor, pages + 1);
        if cursor.is_none() {
            break;
        }
    }
    if keys != count / PART {
        return Err(format!("{keys} keys of {} while nodes came and went", count / PART).into());
    }
    println!(
        "a prefix of {keys} by {limit} while a fourth node joins and another stops: whole and in order; the slowest page \
         took {:.0} ms",
        slowest * 1e3
    );

    // Of the three that founded the cluster two are gone.
    nodes.remove(1).shutdown_within(Duration::ZERO).await?;
    let options = || ListOptions { prefix: prefix.clone(), ..ListOptions::default() };
    let (mut gaps, mut listed) = (0, 0);
    let mut all = Pages::new(&nodes[0], bucket(), options());
    while let Some(page) = all.next().await {
        let page = page.map_err(|error| error.to_string())?;
        gaps = gaps.max(page.gaps.iter().map(|gap| gap.partitions.len()).sum());
        listed += page.keys.len();
    }
    let quorum = ListOptions { r: Level::Quorum, ..options() };
    let page = nodes[0].list(bucket(), quorum).await.map_err(|error| error.to_string())?;
    let quorum: usize = page.gaps.iter().map(|gap| gap.partitions.len()).sum();
    println!("with two down, at one: {listed} keys, gaps in {gaps} partitions; at quorum: gaps in {quorum} partitions");
    Ok(())
}

fn addresses(count: usize) -> Done<Vec<String>> {
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.to_string())).collect()
}

async fn node(at: usize, addresses: &[String], dir: &Path) -> Done<Node> {
    let node = NodeConfig {
        name: format!("node-{}", at + 1),
        peer_address: addresses[at].clone(),
        client_address: format!("node-{}:0", at + 1),
        seeds: addresses[..NODES].to_vec(),
        disk_reserve: Reserve::Bytes(64 << 20),
        durability: Durability::Os,
        repair_interval: Duration::from_secs(24 * 3600),
        ..NodeConfig::default()
    };
    let config = Config { cluster: ClusterConfig::default(), node };
    Ok(Node::builder().config(config).data_dir(dir.join(format!("{at}"))).start().await?)
}

async fn serving(node: &Node) -> Done<()> {
    match node.wait_until_serving().await {
        Standing::Serving => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
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

/// Puts each key into all that own it, beneath all quorums.
async fn load(nodes: &[Node], count: usize) -> Done<()> {
    let layout = nodes[0].layouts().newest().ok_or("no layout")?;
    let (bucket, body) = (bucket(), Bytes::from(value(SIZE)));
    let settings = layout.settings(&bucket);
    let rules = MergeRules { last_write_wins: false, idempotency_window: Duration::ZERO };
    let mut merges = Vec::new();
    let mut refused = 0_u64;
    for number in 0..count {
        let id = ObjectId::new(bucket.clone(), Key::new(key(number))?);
        let place = Place::of(layout.grid(), &id, settings.generation);
        let owners: Vec<StoreId> = layout
            .owners(place.partition, settings)
            .flat_map(|(_, owners)| owners.iter().map(|owner| layout.member(*owner).store))
            .collect();
        let payload = Payload {
            value: Some(body.clone()),
            content_type: None,
            meta: BTreeMap::new(),
            written_at: Wall(1),
            expires_at: None,
        };
        let of = Write { payload, supersedes: Supersedes::Seen, request: None };
        let stamp = Stamp::at(Wall(1_700_000_000_000));
        let object = write(&Object::new(), of, ActorId(number as u64), stamp, Stamp::at(Wall(0)), &rules).object;
        let record = encode_object(&object);
        for node in nodes.iter().filter(|node| owners.contains(&node.replica().identity().store())) {
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
    if refused > 0 { Err(format!("{refused} states were refused").into()) } else { Ok(()) }
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

//! What hints cost, and how fast they are replayed: `scripts/bench hints`.
//!
//! A node is killed, misses writes, and is started again; it is sent what it missed while clients go on. In one run: what
//! clients get before, how many hints a second are replayed, what clients get meanwhile, and whether all three hold the
//! same in the end, byte for byte, with nothing repaired by comparison. Then a few keys are overwritten many times while a
//! node is away: hints are bounded by keys. See `docs/performance.md`.

#![allow(dead_code, reason = "the benches share a module and each uses a part of it")]

mod support;

use std::time::Duration;

use quorate::replica::audit;
use quorate::ring::Grid;
use quorate::storage::rocks::{RocksOptions, RocksStorage};
use support::nodes::{AS_NODE, Cluster, Hints, NODES, be_a_node, now, pause};
use support::{Load, drive, drive_on, wrk};

/// Hints replayed a second, against writes a second before the outage; what clients keep of their throughput meanwhile.
const WANTED: (f64, f64) = (0.5, 0.7);
/// The node that is away.
const AWAY: usize = NODES - 1;
const PATIENCE: Duration = Duration::from_secs(600);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.first().map(String::as_str) {
        Some(AS_NODE) => be_a_node(&args[1..]),
        _ => bench(args.iter().any(|arg| arg == "--quick")),
    };
    if let Err(problem) = done {
        eprintln!("error: {problem}");
        std::process::exit(1);
    }
}

fn bench(quick: bool) -> Result<(), String> {
    wrk()?;
    let (writes, overwrites) = if quick { (20_000, 100_000) } else { (200_000, 1_000_000) };
    replay(writes as f64)?;
    bounded(overwrites as f64, 1000)
}

/// Quorum PUTs of 100 B for some seconds, to these nodes.
fn writes(cluster: &Cluster, bucket: &str, nodes: usize, seconds: u64) -> Load {
    let mut load = cluster.load("PUT", bucket, "?w=quorum", 100, seconds);
    load.ports.truncate(nodes);
    load
}

/// Hints of those that stay.
fn left(cluster: &mut Cluster) -> Result<Hints, String> {
    (0..AWAY).try_fold(Hints::default(), |sum, node| Ok(sum.and(cluster.hints(node)?)))
}

fn replay(wanted: f64) -> Result<(), String> {
    let mut cluster = Cluster::start("flush")?;
    let before = drive(&writes(&cluster, "before", NODES, 8))?.per_second();
    println!("Three nodes, N=3, durability=flush, PUT 100 B quorum: {before:.0} op/s");
    cluster.kill(AWAY)?;
    let (mut missed, mut seconds, mut round) = (0.0, 0.0, 0);
    while missed < wanted {
        round += 1;
        let (seen, errors) = drive_on(&writes(&cluster, &format!("missed-{round}"), AWAY, 4))?;
        (missed, seconds) = (missed + seen.requests - errors, seconds + seen.seconds);
    }
    // What was under way is left a hint when it has failed.
    pause(1000);
    let waiting = left(&mut cluster)?;
    println!(
        "One is killed, and misses {missed:.0} writes ({:.0} op/s): {} hints wait",
        missed / seconds,
        waiting.waiting
    );

    cluster.restart(AWAY)?;
    let began = now();
    let (mut meanwhile, mut ended) = ((0.0, 0.0), None);
    let mut round = 0;
    while ended.is_none() {
        round += 1;
        let load = writes(&cluster, &format!("meanwhile-{round}"), NODES, 1);
        let (seen, errors) = std::thread::scope(|scope| {
            let driving = scope.spawn(|| drive_on(&load));
            while !driving.is_finished() {
                if ended.is_none() && left(&mut cluster)?.waiting == 0 {
                    ended = Some(began.elapsed());
                }
                pause(50);
            }
            driving.join().map_err(|_| "the load failed".to_owned())?
        })?;
        meanwhile = (meanwhile.0 + seen.requests - errors, meanwhile.1 + seen.seconds);
        if began.elapsed() > PATIENCE {
            return Err(format!("{} hints wait still", left(&mut cluster)?.waiting));
        }
    }
    let took = ended.unwrap_or_default().as_secs_f64();
    let after = left(&mut cluster)?;
    let (rate, clients) = (waiting.waiting as f64 / took, meanwhile.0 / meanwhile.1);
    println!(
        "It is back: {} hints replayed in {took:.1} s, {rate:.0} a second: {:.2} of the writes before (wanted: {})",
        after.replayed,
        rate / before,
        WANTED.0,
    );
    println!("Clients meanwhile: {clients:.0} op/s, {:.2} of before (wanted: {})", clients / before, WANTED.1);
    let repaired = after.and(cluster.hints(AWAY)?).repaired;
    pause(2000);
    cluster.end();
    let held = (0..NODES).map(|node| records(&cluster, node)).collect::<Result<Vec<_>, _>>()?;
    let differ = held[0].iter().filter(|(key, record)| held[1..].iter().any(|other| other.get(*key) != Some(record)));
    let (differ, most) = (differ.count(), held.iter().map(|held| held.len()).max().unwrap_or(0));
    println!(
        "In the end: {most} objects, {} on which they differ, {} that one lacks; {repaired} repaired by comparison, {} \
         hints dropped",
        differ,
        held.iter().map(|held| most - held.len()).sum::<usize>(),
        after.dropped,
    );
    Ok(())
}

/// What a node that has ended holds.
fn records(cluster: &Cluster, node: usize) -> Result<std::collections::BTreeMap<bytes::Bytes, bytes::Bytes>, String> {
    let said = |error: &dyn std::fmt::Display| error.to_string();
    let options = RocksOptions::default();
    let storage = RocksStorage::open(&cluster.directory(node), &options).map_err(|error| said(&error))?;
    let grid = Grid::new(1024).map_err(|error| said(&error))?;
    let audit = audit(&storage, grid).map_err(|error| said(&error))?;
    if audit.wrong.is_empty() { Ok(audit.records) } else { Err(format!("node {}: {:?}", node + 1, audit.wrong)) }
}

fn bounded(overwrites: f64, keys: usize) -> Result<(), String> {
    let mut cluster = Cluster::start("flush")?;
    cluster.overwrite("overwritten")?;
    cluster.kill(AWAY)?;
    let mut done = 0.0;
    while done < overwrites {
        let mut load = writes(&cluster, "overwritten", AWAY, 5);
        load.overwrites = keys;
        let (seen, errors) = drive_on(&load)?;
        done += seen.requests - errors;
    }
    pause(1000);
    let each = (0..AWAY).map(|node| Ok(cluster.hints(node)?.waiting)).collect::<Result<Vec<_>, String>>()?;
    let most = each.iter().max().copied().unwrap_or(0);
    println!("{done:.0} overwrites of {keys} keys while a node is away: {each:?} hints wait, at most {most} on a node");
    Ok(())
}

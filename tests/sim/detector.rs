//! Who is up, on whole clusters: what each node thinks of the others while one of them dies, stops, or only sleeps.

use std::time::Duration;

use quorate::kv::{MemberView, NodeView as _};
use quorate::sim::cluster::{Cluster, Setup};
use quorate::sim::net::{Death, Link};
use quorate::sim::time::{self, SimTime};

const SECOND: Duration = Duration::from_secs(1);
const SEEDS: std::ops::RangeInclusive<u64> = 1..=5;

fn sim<F: Future<Output = ()>>(seed: u64, body: impl FnOnce(SimTime) -> F) {
    time::run(seed, body).unwrap();
}

/// Five nodes that have learnt each other's intervals.
async fn five(time: SimTime, seed: u64) -> Cluster {
    let cluster = Cluster::founded(time, Setup::new(seed, 5)).await;
    time.sleep(20 * SECOND).await;
    cluster
}

fn seen(cluster: &Cluster, by: usize, of: usize) -> MemberView {
    let (members, name) = (cluster.node(by).unwrap().status().members, format!("n{of}"));
    members.into_iter().find(|member| member.name == name).unwrap()
}

fn others(node: usize) -> impl Iterator<Item = usize> + Clone {
    (0..5).filter(move |other| *other != node)
}

/// How often members were taken for down so far, by all that run.
fn falls(cluster: &Cluster) -> u64 {
    (0..5).filter_map(|node| cluster.node(node)).map(|node| node.metrics().peers.went_down.get()).sum()
}

/// It is down to all others; how long that took.
async fn down_to_all(cluster: &Cluster, node: usize) -> Duration {
    let begun = cluster.time().now();
    let down = || others(node).all(|by| seen(cluster, by, node).state == "down");
    assert!(cluster.until(5 * SECOND, down).await, "it is down to all within five seconds: {:?}", cluster.ills());
    Duration::from_micros(cluster.time().now() - begun)
}

#[test]
fn a_node_that_loses_its_power_is_down_within_five_seconds() {
    for seed in SEEDS {
        sim(seed, |time| async move {
            let cluster = five(time, seed).await;
            assert!(others(2).all(|by| seen(&cluster, by, 2).phi.is_some_and(|phi| phi < 8.0)));
            cluster.crash(2, Death::PowerCut);
            let took = down_to_all(&cluster, 2).await;
            assert!(took > SECOND, "silence alone is no proof after {took:?}");
            assert!(others(2).all(|by| seen(&cluster, by, 2).phi.is_some_and(|phi| phi >= 8.0)));
            assert_eq!(falls(&cluster), 4, "nobody else");
            cluster.end();
        });
    }
}

#[test]
fn a_process_that_is_killed_is_down_at_its_next_heartbeat() {
    for seed in SEEDS {
        sim(seed, |time| async move {
            let cluster = five(time, seed).await;
            cluster.crash(2, Death::Killed);
            let took = down_to_all(&cluster, 2).await;
            assert!(took < SECOND, "refused, and down after {took:?}");
            assert_eq!(falls(&cluster), 4, "nobody else");
            cluster.start(2).await.unwrap();
            assert!(cluster.until_well(20 * SECOND).await, "{:?}", cluster.ills());
            cluster.end();
        });
    }
}

#[test]
fn a_node_that_slept_holds_nobody_else_for_down() {
    for seed in SEEDS {
        sim(seed, |time| async move {
            let cluster = five(time, seed).await;
            cluster.pause(2);
            let took = down_to_all(&cluster, 2).await;
            time.sleep(30 * SECOND - took).await;
            let before = falls(&cluster);
            cluster.resume(2);
            assert!(cluster.until_well(10 * SECOND).await, "{:?}", cluster.ills());
            time.sleep(30 * SECOND).await;
            assert_eq!(cluster.node(2).unwrap().metrics().peers.went_down.get(), 0, "the one that slept");
            assert_eq!(falls(&cluster), before, "anybody, of anybody");
            cluster.end();
        });
    }
}

/// A frame lost now and then takes nobody down: three heartbeats in a row would have to fail.
#[test]
fn a_link_that_loses_a_frame_in_fifty_takes_nobody_down() {
    for seed in SEEDS {
        sim(seed, |time| async move {
            let cluster = five(time, seed).await;
            cluster.net().set_base(Link { loss: 0.02, ..Link::default() });
            time.sleep(60 * SECOND).await;
            let misses = (0..5).map(|node| cluster.node(node).unwrap().metrics().peers.heartbeat_misses.get());
            assert!(misses.sum::<u64>() > 50, "frames were lost");
            let fallen = falls(&cluster);
            assert!(fallen <= 2, "{fallen} of 4,000 heartbeats");
            cluster.end();
        });
    }
}

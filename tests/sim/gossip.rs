//! What nodes hear of each other, on whole clusters.

use std::sync::Arc;
use std::time::Duration;

use quorate::cluster::{DiskState, Heard};
use quorate::kv::{MemberView, NodeView as _};
use quorate::membership::Life;
use quorate::sim::cluster::{Cluster, Setup, Wraps};
use quorate::sim::time::{self, SimTime};
use quorate::transport::messages::{Recalled, Tell};

use crate::answers::changed;

const SECOND: Duration = Duration::from_secs(1);
const SEEDS: std::ops::RangeInclusive<u64> = 1..=4;

fn sim<F: Future<Output = ()>>(seed: u64, body: impl FnOnce(SimTime) -> F) {
    time::run(seed, body).unwrap();
}

fn heard(cluster: &Cluster, by: usize) -> Arc<Heard> {
    cluster.node(by).unwrap().heard()
}

/// Waits until everybody knows the same of everybody.
async fn equal(cluster: &Cluster) {
    let nodes = cluster.len();
    let equal = || {
        let first = heard(cluster, 0);
        first.nodes.len() == nodes && (1..nodes).all(|node| heard(cluster, node) == first)
    };
    assert!(cluster.until(20 * SECOND, equal).await, "all know the same within twenty seconds");
}

fn seen(cluster: &Cluster, by: usize, of: usize) -> MemberView {
    let (members, name) = (cluster.node(by).unwrap().status().members, format!("n{of}"));
    members.into_iter().find(|member| member.name == name).unwrap()
}

fn incarnation(cluster: &Cluster, node: usize) -> String {
    format!("{:032x}", cluster.node(node).unwrap().replica().identity().incarnation().0)
}

/// The life that a node is in, in its own eyes.
fn life(cluster: &Cluster, node: usize) -> Life {
    let id = cluster.node(node).unwrap().replica().identity().node();
    heard(cluster, node).nodes[&id].life
}

#[test]
fn everybody_hears_what_everybody_says() {
    for seed in SEEDS {
        sim(seed, |time| async move {
            let cluster = Cluster::founded(time, Setup::new(seed, 5)).await;
            equal(&cluster).await;
            for node in 0..5 {
                let it = cluster.node(node).unwrap();
                let heard = heard(&cluster, (node + 1) % 5);
                let said = heard.of(it.replica().identity().node()).unwrap();
                assert_eq!(said.name.as_deref(), Some(&*format!("n{node}")));
                assert_eq!(said.peer_address.as_deref(), Some(&*cluster.address(node)));
                assert_eq!(said.store, Some(it.replica().identity().store()));
                assert_eq!((said.protocol, said.disk), (Some((1, 1)), Some(DiskState::Ok)));
                let head = said.head.as_ref().unwrap();
                assert_eq!((head.version, &head.hash), (1, &it.ring().hash));
                assert_eq!(seen(&cluster, (node + 2) % 5, node).layout, 1);
            }
            // From here on nobody has anything to tell.
            let counts = || {
                let nodes = (0..5).map(|node| cluster.node(node).unwrap());
                let each = nodes.map(|node| (node.metrics().gossip.exchanges.get(), node.metrics().gossip.equal.get()));
                each.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
            };
            let before = counts();
            time.sleep(10 * SECOND).await;
            let after = counts();
            assert!(after.0 - before.0 >= 100, "three exchanges a round, about ten rounds, five nodes");
            assert!(after.1 - before.1 >= after.0 - before.0 - 5, "all between equals, but for those under way");
            cluster.end();
        });
    }
}

/// Two nodes that cannot reach each other know of each other by the third.
#[test]
fn gossip_tells_of_whom_no_connection_tells() {
    for seed in SEEDS {
        sim(seed, |time| async move {
            let cluster = Cluster::founded(time, Setup::new(seed, 3)).await;
            equal(&cluster).await;
            cluster.net().partition(&[&cluster.address(0)], &[&cluster.address(1)]);
            for node in [0, 1] {
                cluster.stop(node).await.unwrap();
                cluster.start(node).await.unwrap();
                let serves = || cluster.node(node).unwrap().ready().is_ok();
                assert!(cluster.until(20 * SECOND, serves).await);
            }
            equal(&cluster).await;
            for (by, of) in [(0, 1), (1, 0)] {
                let view = seen(&cluster, by, of);
                assert_eq!((&*view.state, view.layout), ("down", 1), "heard of is not up");
                assert_eq!(view.incarnation, Some(incarnation(&cluster, of)));
            }
            cluster.end();
        });
    }
}

/// Peers that remember nothing of anybody.
fn forgetful() -> Wraps {
    changed(|_, reply| {
        if let Some(Tell::Recalled(recalled)) = &mut reply.tell {
            *recalled = Recalled { kept: true, ..Recalled::default() };
        }
    })
}

/// What peers remember proves it sooner; where they do not, gossip does, and the same is done about it. After one more
/// life than the directory knows it is met with its own twin, after more with a later life of its own.
#[test]
fn a_directory_that_went_back_is_found_out_by_gossip_alone() {
    for (seed, lives) in [(1, 1), (2, 1), (3, 3), (4, 3)] {
        sim(seed, |time| async move {
            let cluster = Cluster::founded(time, Setup { wraps: forgetful(), ..Setup::new(seed, 3) }).await;
            cluster.disk(0, |disk| disk.keep_copy());
            for _life in 0..lives {
                cluster.stop(0).await.unwrap();
                cluster.start(0).await.unwrap();
                assert!(cluster.until_well(20 * SECOND).await, "{:?}", cluster.ills());
                equal(&cluster).await;
            }
            let proofs = || cluster.node(0).unwrap().metrics().replica.rollback_proofs.get();
            let (before, was) = (life(&cluster, 0), incarnation(&cluster, 0));
            assert_eq!(proofs(), 0, "nothing is proven against who is who it was");
            cluster.stop(0).await.unwrap();
            cluster.disk(0, |disk| disk.roll_back());
            cluster.start(0).await.unwrap();
            assert!(cluster.until(20 * SECOND, || proofs() > 0).await, "gossip told it");
            assert!(cluster.until_well(60 * SECOND).await, "{:?}", cluster.ills());
            equal(&cluster).await;
            assert!(life(&cluster, 0).generation > before.generation, "the running process has the last word");
            assert_ne!(incarnation(&cluster, 0), was);
            assert_eq!(proofs(), 1, "one proof, acted on once");
            cluster.end();
        });
    }
}

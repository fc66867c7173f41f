//! A majority of those who decide on layouts has gone back and forgotten what it promised (decision 0022): nothing is
//! decided until every member has given up what it proposes; then everything is.

use std::time::Duration;

use quorate::kv::layouts::{CommitRequest, ForceRequest, LayoutAdmin as _, PlanRequest};
use quorate::kv::{ErrorCode, NodeView as _};
use quorate::sim::cluster::{Cluster, Setup, Wraps};
use quorate::sim::disk::SimDisk;
use quorate::sim::net::Death;
use quorate::sim::time::{self, SimTime};

const SECOND: Duration = Duration::from_secs(1);

fn sim<F: Future<Output = ()>>(seed: u64, body: impl FnOnce(SimTime) -> F) {
    time::run(seed, body).unwrap();
}

/// Four members decide, three of them a majority. Two have gone back, which the third proves; the fourth cannot be reached.
async fn two_of_four_have_forgotten(time: SimTime, seed: u64, broken: Option<&'static str>) -> Cluster {
    let wraps = Wraps { broken, ..Wraps::default() };
    let cluster = Cluster::founded(time, Setup { wraps, ..Setup::new(seed, 4) }).await;
    for machine in [0, 1] {
        cluster.stop(machine).await.unwrap();
        cluster.disk(machine, SimDisk::keep_copy);
        cluster.start(machine).await.unwrap();
        assert!(cluster.until_well(60 * SECOND).await, "seed {seed}: {:?}", cluster.ills());
    }
    let names: Vec<String> = (0..4).map(|machine| cluster.address(machine)).collect();
    let rest: Vec<&str> = names[..3].iter().map(String::as_str).collect();
    cluster.net().partition(&[&names[3][..]], &rest);
    for machine in [0, 1] {
        cluster.crash(machine, Death::Killed);
        cluster.disk(machine, |disk| disk.roll_back());
        cluster.start(machine).await.unwrap();
    }
    let proven = || [0, 1].iter().all(|at| cluster.node(*at).unwrap().metrics().replica.rollback_proofs.get() > 0);
    assert!(cluster.until(30 * SECOND, proven).await, "seed {seed}: nobody proved that they went back");
    cluster
}

/// Commits another weight of a member at `at`; whether that is decided in time.
async fn weighs(cluster: &Cluster, at: usize, weight: u32) -> bool {
    let node = cluster.node(at).unwrap();
    let weights = [("n2".to_owned(), weight)].into();
    let plan = node.plan(PlanRequest { weights, ..PlanRequest::default() }).await.unwrap();
    let commit = CommitRequest { version: plan.version, force: true, accept_data_loss: true };
    match node.commit(plan.id, commit).await {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.code, ErrorCode::Undecided, "{error}");
            false
        }
    }
}

fn says(cluster: &Cluster, at: usize, code: &str) -> bool {
    cluster.node(at).unwrap().status().attention.iter().any(|attention| attention.code == code)
}

fn regained(cluster: &Cluster, at: usize) -> u64 {
    cluster.node(at).unwrap().metrics().layout.voices_regained.get()
}

#[test]
fn a_majority_that_has_forgotten_decides_again_once_everybody_has_renounced() {
    for seed in 1..=6 {
        sim(seed, |time| async move {
            let cluster = two_of_four_have_forgotten(time, seed, None).await;
            assert!(cluster.until(10 * SECOND, || says(&cluster, 2, "no_voice")).await, "seed {seed}");
            assert!(!weighs(&cluster, 2, 150).await, "seed {seed}: decided by who may have promised something else");
            assert_eq!(regained(&cluster, 0) + regained(&cluster, 1), 0, "seed {seed}: one was not asked");
            cluster.net().heal();
            assert!(cluster.until(30 * SECOND, || (0..2).all(|at| regained(&cluster, at) == 1)).await, "seed {seed}");
            assert!(cluster.until(30 * SECOND, || !says(&cluster, 2, "no_voice")).await, "seed {seed}");
            let pledged = (0..2).all(|at| cluster.node(at).unwrap().layouts().pledged() >= 1);
            assert!(pledged, "seed {seed}: what it may have vouched for is forgotten");
            let begun = weighs(&cluster, 0, 200).await || cluster.node(0).unwrap().layout().reads_in > 1;
            assert!(begun, "seed {seed}: still undecided");
            let complete = || {
                let layouts = (0..4).map(|at| cluster.node(at).unwrap().layout());
                layouts.into_iter().all(|layout| layout.reads_in > 1 && layout.complete)
            };
            assert!(
                cluster.until(120 * SECOND, complete).await,
                "seed {seed}: {:?}",
                cluster.node(0).unwrap().layout()
            );
            cluster.end();
        });
    }
}

#[test]
fn who_is_gone_for_good_gives_no_word_and_force_does_without() {
    for seed in 1..=4 {
        sim(seed, |time| async move {
            let cluster = two_of_four_have_forgotten(time, seed, None).await;
            cluster.crash(3, Death::PowerCut);
            let down = || cluster.node(2).unwrap().status().members.iter().any(|member| member.state == "down");
            assert!(cluster.until(60 * SECOND, || down() && says(&cluster, 2, "no_voice")).await, "seed {seed}");
            let force = ForceRequest { gone: vec!["n3".into()], accept_data_loss: true };
            cluster.node(2).unwrap().force(force).await.unwrap();
            let complete = || {
                let layouts = (0..3).map(|at| cluster.node(at).unwrap().layout());
                layouts.into_iter().all(|layout| layout.reads_in > 1 && layout.complete)
            };
            assert!(
                cluster.until(120 * SECOND, complete).await,
                "seed {seed}: {:?}",
                cluster.node(0).unwrap().layout()
            );
            assert!(cluster.until(30 * SECOND, || (0..2).all(|at| regained(&cluster, at) == 1)).await, "seed {seed}");
            assert!(weighs(&cluster, 0, 200).await, "seed {seed}: who is left does not decide");
            cluster.end();
        });
    }
}

#[test]
fn who_speaks_at_once_after_it_has_forgotten_is_found() {
    sim(1, |time| async move {
        let rule = "who has forgotten asks everybody before it speaks";
        let cluster = two_of_four_have_forgotten(time, 1, Some(rule)).await;
        assert!(weighs(&cluster, 2, 150).await, "the planted bug was not found");
        cluster.end();
    });
}

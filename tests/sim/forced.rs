//! `quorate layout force` (decision 0016): those who decide are lost for good, and those who are left go on without them.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use quorate::cluster::Standing;
use quorate::env::Entropy;
use quorate::kv::layouts::{ForceRequest, LayoutAdmin as _, SkipRequest};
use quorate::kv::{Error, ErrorCode, NodeView as _, Outcome, ReadOptions, WriteOptions};
use quorate::quorum::Level;
use quorate::replica::name_of;
use quorate::sim::cluster::{Cluster, Setup};
use quorate::sim::layouts::settled;
use quorate::sim::net::Death;
use quorate::sim::time::{self, SimTime};
use quorate::types::{Bucket, Key, ObjectId};

const SECOND: Duration = Duration::from_secs(1);
const KEYS: usize = 60;
/// Those who are lost, of five.
const GONE: [usize; 3] = [2, 3, 4];

fn sim<F: Future<Output = ()>>(seed: u64, body: impl FnOnce(SimTime) -> F) {
    time::run(seed, body).unwrap();
}

fn id(key: &str) -> ObjectId {
    ObjectId::new(Bucket::new("forced").unwrap(), Key::new(key.to_owned()).unwrap())
}

async fn put(cluster: &Cluster, at: usize, key: &str, value: &str) -> Result<(), Error> {
    let options = WriteOptions { w: Level::Quorum, ..WriteOptions::default() };
    cluster.kv(at).unwrap().put(id(key), value.to_owned().into(), options).await.map(|_| ())
}

async fn get(cluster: &Cluster, at: usize, key: &str, r: Level) -> Result<Vec<String>, Error> {
    let answer = cluster.kv(at).unwrap().get(id(key), ReadOptions { r, ..ReadOptions::default() }).await?;
    let values = answer.siblings.iter().filter_map(|sibling| sibling.value.as_ref());
    Ok(values.map(|value| String::from_utf8(value.bytes.to_vec()).unwrap()).collect())
}

fn named(gone: &[usize]) -> Vec<String> {
    gone.iter().map(|machine| format!("n{machine}")).collect()
}

fn force(accept_data_loss: bool, gone: &[usize]) -> ForceRequest {
    ForceRequest { gone: named(gone), accept_data_loss }
}

fn standing(cluster: &Cluster, machine: usize) -> Standing {
    cluster.node(machine).unwrap().standing()
}

/// Three of five are lost for good, some of the time in the middle of a change. The two that are left are forced to go on:
/// whatever was acknowledged and lies on one of them is found, everything is served again, layouts are decided again. One
/// that comes back after all is refused, and so is what clients ask of it.
#[test]
fn who_is_left_goes_on_and_who_comes_back_is_refused() {
    for seed in 1..=8 {
        sim(seed, |time| async move {
            let cluster = Cluster::founded(time, Setup::new(seed, 5)).await;
            let entropy = Entropy::seeded(seed);
            for key in 0..KEYS {
                put(&cluster, key % 5, &format!("k{key}"), "kept").await.unwrap();
            }
            let joins = seed % 2 == 0;
            if joins {
                let machine = cluster.add_machine(None);
                cluster.start(machine).await.unwrap();
                let begun = || cluster.node(0).unwrap().layouts().newest().unwrap().version() > 1;
                assert!(cluster.until(30 * SECOND, begun).await, "seed {seed}: nobody let it in");
                time.sleep(Duration::from_millis(entropy.below(3000))).await;
                cluster.crash(machine, Death::PowerCut);
            }
            GONE.iter().for_each(|machine| cluster.crash(*machine, Death::PowerCut));
            // What was proven safe to be deleted, while the others were there, is still deleted.
            time.sleep(10 * SECOND).await;
            let gone: Vec<usize> = GONE.into_iter().chain(joins.then_some(5)).collect();
            let held = |key: &usize| {
                let stored =
                    |at: usize| cluster.audit(at).records.into_keys().filter_map(|stored| Some(name_of(&stored)?.0));
                (0..2).any(|at| stored(at).any(|found| found == id(&format!("k{key}"))))
            };
            let kept: BTreeSet<usize> = (0..KEYS).filter(held).collect();
            assert!(kept.len() > KEYS / 2, "seed {seed}: {} of {KEYS} are on somebody who is left", kept.len());

            // Nothing can be decided, and not everything is served; and it is only forced by who says what it may cost.
            let (one, other) = (cluster.node(0).unwrap(), cluster.node(1).unwrap());
            let sees = |at: usize| {
                let members = cluster.node(at).unwrap().status().members;
                members.iter().all(|member| !named(&gone).contains(&member.name) || member.state != "up")
            };
            assert!(cluster.until(60 * SECOND, || sees(0) && sees(1)).await, "seed {seed}: they seem to be up");
            let skip = SkipRequest { members: named(&gone), force: true, accept_data_loss: true };
            let skipped = one.skip(skip).await.unwrap_err();
            assert_ne!(skipped.outcome, Outcome::Applied, "seed {seed}: a minority decided: {skipped}");
            let mut short = 0;
            for key in 0..KEYS {
                short += usize::from(put(&cluster, 0, &format!("k{key}"), "early").await.is_err());
            }
            assert!(short > 0, "seed {seed}: two of five have a quorum of everything");
            let refused = one.force(force(false, &gone)).await.unwrap_err();
            assert_eq!((refused.code, refused.outcome), (ErrorCode::LayoutRefused, Outcome::NotApplied), "{refused}");

            let begun = one.force(force(true, &gone)).await.unwrap();
            if seed % 4 < 2 {
                // The same at the other one makes the same layout, whether it has heard of it or not.
                match other.force(force(true, &gone)).await {
                    Ok(again) => assert_eq!((again.version, again.hash), (begun.version, begun.hash)),
                    Err(known) => assert_eq!(known.code, ErrorCode::LayoutRefused, "seed {seed}: {known}"),
                }
            }
            let complete = || (0..2).all(|at| cluster.node(at).unwrap().layout().complete);
            assert!(cluster.until(120 * SECOND, complete).await, "seed {seed}: {:?}", one.layout());
            for key in 0..KEYS {
                let name = format!("k{key}");
                for at in 0..2 {
                    let found = get(&cluster, at, &name, Level::All).await.unwrap();
                    assert!(!kept.contains(&key) || !found.is_empty(), "seed {seed}: {name} is gone at n{at}");
                }
                put(&cluster, key % 2, &name, "after").await.unwrap();
            }

            // They decide again: another one joins.
            let machine = cluster.add_machine(None);
            cluster.start(machine).await.unwrap();
            let serves = || standing(&cluster, machine) == Standing::Serving;
            assert!(cluster.until(60 * SECOND, serves).await, "seed {seed}: {:?}", standing(&cluster, machine));

            // One after the other comes back on the disk it had.
            for machine in gone.iter().copied() {
                cluster.start(machine).await.unwrap();
                let refused = || matches!(standing(&cluster, machine), Standing::Refused(_));
                assert!(cluster.until(60 * SECOND, refused).await, "seed {seed}: {:?}", standing(&cluster, machine));
                let asked = put(&cluster, machine, "k0", "late").await.unwrap_err();
                assert_eq!(asked.outcome, Outcome::NotApplied, "seed {seed}: {asked}");
                assert!(get(&cluster, machine, "k0", Level::One).await.is_err(), "seed {seed}: n{machine} answers");
            }
            let out = settled(&cluster, 120 * SECOND).await.unwrap_or_else(|why| panic!("seed {seed}: {why}"));
            assert_eq!(out, gone.iter().copied().collect(), "seed {seed}: who is out");
            for key in 0..KEYS {
                for at in [0, 1, machine] {
                    let found = get(&cluster, at, &format!("k{key}"), Level::All).await.unwrap();
                    assert!(found.contains(&"after".to_owned()), "seed {seed}: k{key} at n{at}: {found:?}");
                    assert!(!found.contains(&"late".to_owned()), "seed {seed}: k{key} at n{at}: {found:?}");
                }
            }
            cluster.end();
        });
    }
}

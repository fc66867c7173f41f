//! Layout changes (semantics section 3, I-ACK, I-OVERLAP, I-MONO): while owners are replaced, given back or skipped,
//! with coordinators that go on by what they last heard, no acknowledged write is lost, no quorum read misses one, and
//! no change wedges.
//!
//! The nodes ask the product's own rules (`quorate::ring`): which layouts are live, what may be said, merged, dropped,
//! deleted, accepted, served, decided; W and R are counted by `quorate::quorum`. What is left to the model is to do it,
//! in any order, and to fail: crashes that lose what was not flushed, disks that are lost, replies that come late or
//! never. A replica may answer a read long after another did, and commit a write long after it was judged. `world`
//! tells what is left out, and why that loses nothing.
//!
//! Where the bound ends: one partition, N = 3, up to five nodes, three layouts, one write, one crash, two disks; of
//! what may go wrong beside the change one thing at a time; in changes of three layouts older ones are dropped as soon
//! as they may be. `QUORATE_MODEL=full` takes several at once, each up to ten million states (3 GiB, an hour or so).

mod bug;
mod rules;
mod settle;
mod state;
mod steps;
mod world;

use std::collections::BTreeSet;

use quorate::quorum::Level;
use quorate::ring::change::{abort, follow_up, skip};
use quorate::ring::{BucketSettings, Chain, Layout, LayoutHash, LayoutSpec, Member, MemberIndex, RegionOwners};
use quorate::types::{NodeId, StoreId};

use super::explore::{clean, finds};
use bug::Bug;
use rules::{Rules, store};
use state::{Action, Set, those};
use world::World;

fn member(node: usize) -> Member {
    Member {
        node: NodeId::from_bits(node as u128 + 1),
        store: store(node),
        name: format!("n{node}"),
        region: "home".into(),
        zone: String::new(),
        weight: 1,
        peer_address: format!("n{node}:1"),
        client_address: format!("n{node}:2"),
    }
}

/// A layout of one partition: who its members are, who of them own it, and n.
fn layout(parent: Option<&Layout>, members: Set, owners: &[usize], n: u8) -> Layout {
    let members: Vec<Member> = those(members).map(member).collect();
    let number = |owner: &usize| members.iter().position(|member| member.store == store(*owner)).unwrap();
    let owners: Vec<_> = owners.iter().map(|owner| MemberIndex(number(owner) as u16)).collect();
    Layout::new(LayoutSpec {
        version: parent.map_or(1, |parent| parent.version() + 1),
        parent: parent.map_or(LayoutHash::default(), Layout::hash),
        cluster: parent.map(Layout::cluster),
        cluster_name: "model".into(),
        q: 1,
        replicas_max: 3,
        regions: vec![RegionOwners { region: "home".into(), width: owners.len() as u8, owners }],
        members,
        default_bucket: BucketSettings { n, ..BucketSettings::default() },
        buckets: Default::default(),
    })
    .unwrap()
}

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const D: usize = 3;
const E: usize = 4;

/// {a, b, c}, then {a, b, d}; c stays a member.
fn one_replaced() -> Vec<Layout> {
    let first = layout(None, 0b00111, &[A, B, C], 3);
    let second = layout(Some(&first), 0b01111, &[A, B, D], 3);
    vec![first, second]
}

fn two_replaced() -> Vec<Layout> {
    let first = layout(None, 0b00111, &[A, B, C], 3);
    let second = layout(Some(&first), 0b11111, &[A, D, E], 3);
    vec![first, second]
}

/// {a, b, c}, then c leaves and d takes its place, then c is left out.
fn one_leaves() -> Vec<Layout> {
    let first = layout(None, 0b01111, &[A, B, C], 3);
    let mut spec = layout(Some(&first), 0b01111, &[A, B, D], 3).spec().clone();
    spec.members[C].weight = 0;
    let mut layouts = vec![first, Layout::new(spec).unwrap()];
    layouts.push(follow_up(&chain(&layouts)).unwrap().unwrap());
    layouts
}

/// The chain of these layouts, of which the first is the last complete one.
fn chain(layouts: &[Layout]) -> Chain {
    let mut chain = Chain::founded(layouts[0].clone());
    layouts[1..].iter().for_each(|next| chain.push(next.clone()).unwrap());
    chain
}

fn stores(nodes: &[usize]) -> BTreeSet<StoreId> {
    nodes.iter().copied().map(store).collect()
}

/// ... and then the abort, without these.
fn aborted(mut layouts: Vec<Layout>, skipped: &[usize]) -> Vec<Layout> {
    layouts.push(abort(&chain(&layouts), &stores(skipped)).unwrap());
    layouts
}

/// ... and then the same without these.
fn skipped(mut layouts: Vec<Layout>, skipped: &[usize]) -> Vec<Layout> {
    layouts.push(skip(&chain(&layouts), &stores(skipped)).unwrap());
    layouts
}

/// {a, b, c}, then c, which is dead, is left out and d takes its place.
fn dead_replaced() -> Vec<Layout> {
    let first = layout(None, 0b01111, &[A, B, C], 3);
    let second = layout(Some(&first), 0b01011, &[A, B, D], 3);
    vec![first, second]
}

/// n goes from one to the other.
fn n_changed(from: u8, to: u8) -> Vec<Layout> {
    let first = layout(None, 0b00111, &[A, B, C], from);
    let second = layout(Some(&first), 0b00111, &[A, B, C], to);
    vec![first, second]
}

fn levels(layouts: Vec<Layout>, write: Level, read: Level) -> World {
    World::of(Rules::new(layouts, write, read))
}

fn majority(layouts: Vec<Layout>) -> World {
    levels(layouts, Level::Quorum, Level::Quorum)
}

/// The layout after is decided only once these are dead, and nobody else dies.
fn dies(who: &[usize], step: usize, mut world: World) -> World {
    let set = who.iter().fold(0, |set, node| set | 1 << node);
    world.steps[step].after_death_of = set;
    World { mortal: set, deaths: who.len() as u8, ..world }
}

const A_AND_B: &[(usize, usize)] = &[(A, B)];
const B_AND_C_D_AND_E: &[(usize, usize)] = &[(B, C), (D, E)];

fn one() -> World {
    World { alike: A_AND_B, ..majority(one_replaced()) }
}

fn two() -> World {
    World { alike: B_AND_C_D_AND_E, ..majority(two_replaced()) }
}

/// One is replaced, then given back: by an abort if that is decided before the change is complete, else by another
/// change.
fn back() -> World {
    World { alike: A_AND_B, drops_at_once: true, ..majority(aborted(one_replaced(), &[])) }
}

fn dead_joiner() -> World {
    let world = dies(&[D], 1, majority(aborted(one_replaced(), &[D])));
    World { alike: A_AND_B, drops_at_once: true, ..world }
}

fn dead_owner() -> World {
    World { drops_at_once: true, ..dies(&[B], 1, majority(skipped(one_replaced(), &[B]))) }
}

fn leaves() -> World {
    World { alike: A_AND_B, drops_at_once: true, ..majority(one_leaves()) }
}

/// d and e have taken the places of b and c, and are synced; then both die, and the abort skips them.
fn two_lost() -> World {
    let mut before = vec![Action::Decide { acceptors: 0b011 }];
    before.extend((0..5).map(|node| Action::Learn { node, version: 2 }));
    before.extend([D, E].into_iter().flat_map(|node| [A, B, C].map(|from| Action::Merge { node, from })));
    let world = dies(&[D, E], 1, majority(aborted(two_replaced(), &[D, E])));
    World { before, coordinators: 1 << A, alike: B_AND_C_D_AND_E, ..world }
}

fn scenarios() -> Vec<(&'static str, World)> {
    let (w_one, w_all) = ((Level::One, Level::All), (Level::All, Level::One));
    let at = |(write, read), layouts| World { alike: A_AND_B, ..levels(layouts, write, read) };
    vec![
        ("one of three replaced, a crash", World { crashes: 1, ..one() }),
        ("one of three replaced, commits that lag", World { queues: true, ..one() }),
        ("one of three replaced, reads that write back", World { writes_back: true, ..one() }),
        ("one of three replaced, w=one r=all", at(w_one, one_replaced())),
        ("one of three replaced, w=all r=one", at(w_all, one_replaced())),
        ("two of three replaced", two()),
        ("n from 1 to 3", majority(n_changed(1, 3))),
        ("n from 3 to 1", majority(n_changed(3, 1))),
        ("n from 3 to 2", majority(n_changed(3, 2))),
        ("n from 3 to 2, w=one r=all", levels(n_changed(3, 2), Level::One, Level::All)),
        ("one of three replaced, anybody dies", World { mortal: 0b1111, deaths: 1, settle_one_in: 8, ..one() }),
        ("a dead owner replaced", World { alike: A_AND_B, ..dies(&[C], 0, majority(dead_replaced())) }),
        ("one given back, who stays coordinates", World { coordinators: 1 << A | 1 << B, ..back() }),
        ("one given back, who leaves coordinates", World { coordinators: 1 << C, ..back() }),
        ("one given back, who comes coordinates", World { coordinators: 1 << D, ..back() }),
        ("a dead joiner skipped", World { coordinators: 1 << A | 1 << B, ..dead_joiner() }),
        ("a dead owner skipped midway", World { coordinators: 1 << A, ..dead_owner() }),
        ("two new owners lost and skipped", two_lost()),
        ("one leaves, who stays coordinates", World { coordinators: 1 << A | 1 << B, ..leaves() }),
        ("one leaves, and coordinates", World { coordinators: 1 << C, ..leaves() }),
    ]
}

/// How many states of the largest models are looked at: few, unless more are asked for.
fn bounded(world: World) -> World {
    let full = std::env::var_os("QUORATE_MODEL").is_some_and(|which| which == "full");
    let (most, settle_one_in) = if full { (10_000_000, 1024) } else { (20_000, 64) };
    World { most, settle_one_in, in_part: true, ..world }
}

#[test]
fn no_change_loses_or_hides_or_wedges() {
    for (name, world) in scenarios() {
        assert!(clean(name, &world) > 500, "{name}: the model hardly ran");
    }
}

/// I-MONO over two changes: what a read returned was written back, and no later read misses it.
#[test]
fn reads_stay_monotonic_over_two_changes() {
    let world = World { coordinators: 0b1111, writes_back: true, ..back() };
    assert!(clean("one given back, reads that write back", &bounded(world)) > 500);
}

/// Everything at once.
#[test]
fn no_change_loses_when_more_goes_wrong() {
    let rough = |world| World {
        crashes: 1,
        queues: true,
        writes_back: true,
        drops_at_once: false,
        coordinators: 0b1_1111,
        ..bounded(world)
    };
    let w_one_r_all = World { alike: A_AND_B, ..levels(one_replaced(), Level::One, Level::All) };
    let w_all_r_one = World { alike: A_AND_B, ..levels(one_replaced(), Level::All, Level::One) };
    for (name, world) in [
        ("one of three replaced", one()),
        ("one of three replaced, w=one r=all", w_one_r_all),
        ("one of three replaced, w=all r=one", w_all_r_one),
        ("n from 1 to 3", majority(n_changed(1, 3))),
        ("n from 3 to 2", majority(n_changed(3, 2))),
        ("n from 3 to 1", majority(n_changed(3, 1))),
        ("two of three replaced", two()),
        ("one given back", back()),
        ("a dead joiner skipped", dead_joiner()),
        ("a dead owner skipped midway", dead_owner()),
        ("one leaves", leaves()),
        ("two given back", World { alike: B_AND_C_D_AND_E, ..majority(aborted(two_replaced(), &[])) }),
    ] {
        assert!(clean(&format!("{name}, all at once"), &rough(world)) > 500);
    }
}

#[test]
fn every_rule_is_needed() {
    let stays = 1 << A | 1 << B;
    // c and d have heard of the change, and its abort is decided.
    let mut begun = vec![Action::Decide { acceptors: 0b011 }];
    begun.extend([C, D].map(|node| Action::Learn { node, version: 2 }));
    begun.extend([Action::Merge { node: D, from: C }, Action::Decide { acceptors: 0b011 }]);
    // All have heard of the change, d has merged, all has been flushed.
    let mut synced = vec![Action::Decide { acceptors: 0b011 }];
    synced.extend([A, B, C, D].map(|node| Action::Learn { node, version: 2 }));
    synced.extend([A, B, C].map(|from| Action::Merge { node: D, from }));
    synced.extend([A, B, C, D].map(|node| Action::Flush { node }));
    let read_one = levels(one_replaced(), Level::All, Level::One);
    for (bug, world) in [
        (Bug::IgnoresLiveLayout, one()),
        (Bug::ForgetsPendingOwner, two()),
        (Bug::CountsExOwner, one()),
        (Bug::WrongN, majority(n_changed(1, 3))),
        (Bug::CountsLaterLayout, World { coordinators: stays, before: begun, ..back() }),
        (Bug::StreamsBeforeAck, one()),
        (Bug::AcksBeforeDrain, World { queues: true, ..one() }),
        (Bug::OneSource, one()),
        (Bug::KeepsThoughFewer, majority(n_changed(3, 1))),
        (Bug::SyncedIsMaximum, World { coordinators: stays, ..back() }),
        (Bug::TellsBeforeFlush, World { crashes: 1, coordinators: 1 << A, before: synced, ..read_one }),
        (Bug::ServesOlderReads, one()),
        (Bug::DropsEarly, one()),
        (Bug::ServesTheIgnorant, one()),
        (Bug::DeletesThoughOwner, World { coordinators: stays, ..back() }),
        (Bug::DeletesWhileLive, two()),
        (Bug::WipedVotes, World { mortal: 0b111, deaths: 1, ..one() }),
        (Bug::SkipsByOldOwners, two_lost()),
        (Bug::BreaksPledge, two_lost()),
        (Bug::SyncAcksInOrder, dead_joiner()),
        (Bug::NoWriteBack, World { writes_back: true, ..one() }),
    ] {
        finds(&format!("planted: {bug:?}"), &World { bug: Some(bug), ..world });
    }
}

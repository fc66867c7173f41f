//! The replica on a memory disk: what is acknowledged is durable, what is not is never readable, and who mints.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::time::Duration;

use super::*;
use crate::causality::{
    Fingerprint, LastLife, Memory, MergeRules, Object, Payload, RequestId, Start, Supersedes, Write, decode_object,
    encode_object, on_start,
};
use crate::collect::Epoch;
use crate::env::{Buggify, Entropy};
use crate::storage::memory::{Faults, MemoryDisk};
use crate::types::{Bucket, Key, ObjectId, Wall};

pub(super) struct Life {
    pub(super) replica: Replica,
    pub(super) env: Env,
}

pub(super) fn disk() -> MemoryDisk {
    MemoryDisk::new(Arc::new(Entropy::seeded(7)))
}

/// One life of a node on a disk, with these answers of its peers.
fn live_on(disk: &MemoryDisk, durability: Durability, answers: &[Memory], machine_boot: &str) -> Life {
    live_with(disk, durability, answers, machine_boot, 300)
}

/// The same, with room for so many bytes of hints.
fn live_with(disk: &MemoryDisk, durability: Durability, answers: &[Memory], machine_boot: &str, hints: u64) -> Life {
    live_in(Env::real(), disk, durability, answers, machine_boot, hints)
}

/// One that keeps all rules but this one.
pub(super) fn live_but(disk: &MemoryDisk, broken: &'static str) -> Life {
    let env = Env { buggify: Buggify::default().breaking(Some(broken)), ..Env::real() };
    live_in(env, disk, Durability::Flush, &[], "boot", 1 << 20)
}

fn live_in(
    env: Env,
    disk: &MemoryDisk,
    durability: Durability,
    answers: &[Memory],
    machine_boot: &str,
    hints: u64,
) -> Life {
    let storage: Arc<dyn Storage> = Arc::new(disk.open().unwrap());
    let identity = Arc::new(Identity::open(Arc::clone(&storage), &env).unwrap());
    let options = ReplicaOptions {
        durability,
        threads: 2,
        partitions: 8,
        machine_boot: machine_boot.into(),
        reserve: Reserve::default(),
        max_clock_drift: Duration::from_millis(500),
        idempotency_window: Duration::from_secs(600),
        max_hint_bytes: hints,
        max_object: 100,
    };
    let replica = Replica::start(&env, storage, identity, &Arc::new(Metrics::new()), &options).unwrap();
    replica.identity().settle(on_start(replica.identity().last_life(), answers)).unwrap();
    replica.identity().lift(Bar::Starting);
    Life { replica, env }
}

pub(super) fn live(disk: &MemoryDisk) -> Life {
    live_on(disk, Durability::Flush, &[], "boot")
}

/// With room for more hints than a few.
pub(super) fn roomy(disk: &MemoryDisk) -> Life {
    live_with(disk, Durability::Flush, &[], "boot", 1 << 20)
}

pub(super) fn place(key: &str) -> Place {
    let id = ObjectId::new(Bucket::new("b").unwrap(), Key::new(key.to_owned()).unwrap());
    Place::of(crate::ring::Grid::new(8).unwrap(), &id, 0)
}

impl Life {
    pub(super) fn request(&self, key: &str, value: &str) -> MintRequest {
        let payload = Payload { value: Some(value.to_owned().into()), ..Payload::default() };
        MintRequest {
            place: place(key),
            write: Write { payload, supersedes: Supersedes::Tombstones, request: None },
            rules: MergeRules::default(),
            class: 3,
            max_siblings: 64,
            max_object: 1 << 22,
            deadline: self.env.clock.now() + Duration::from_secs(60),
            flush: false,
            stands_for: None,
        }
    }

    pub(super) async fn mint(&self, request: MintRequest) -> Result<(Coordinated, Result<bool, Fault>), Fault> {
        let mut minting = self.replica.mint(request)?;
        let coordinated = minting.minted().await?;
        Ok((coordinated, minting.durable().await))
    }

    pub(super) async fn put(&self, key: &str, value: &str) -> Coordinated {
        let (coordinated, durable) = self.mint(self.request(key, value)).await.unwrap();
        assert_eq!(durable, Ok(true));
        coordinated
    }

    pub(super) async fn object(&self, key: &str) -> Option<Object> {
        self.replica.read(place(key)).await.unwrap().map(|record| decode_object(record).unwrap())
    }

    async fn merge(&self, key: &str, object: &Object, cause: Cause) -> Result<bool, Fault> {
        let rules = MergeRules::default();
        let record = encode_object(object);
        let (place, epoch) = (place(key), Epoch::FIRST);
        self.replica.merge(MergeRequest { place, record, rules, class: 3, flush: false, cause, epoch }).await
    }
}

#[tokio::test]
async fn an_acknowledged_write_survives_a_power_cut_and_the_next_life_is_another_actor() {
    let disk = disk();
    let first = live(&disk);
    let written = first.put("k", "v").await;
    disk.crash(&Entropy::seeded(1));
    let second = live(&disk);
    assert_eq!(second.object("k").await, Some(written.object.clone()));
    assert_ne!(second.replica.identity().incarnation(), first.replica.identity().incarnation());
    let next = second.put("k", "w").await;
    assert_ne!(next.dot.actor, written.dot.actor);
    assert_eq!(next.object.siblings().len(), 2, "a blind write supersedes no value");
}

#[tokio::test]
async fn a_clean_stop_keeps_the_incarnation_if_a_peer_names_that_life_and_only_then() {
    let disk = disk();
    let first = live(&disk);
    first.put("k", "v").await;
    let identity = first.replica.identity();
    let (generation, boot, incarnation) = (identity.generation(), identity.boot(), identity.incarnation());
    let memory = Memory { latest: Some((generation, boot)), alive: false };
    first.replica.shutdown(true).await.unwrap();
    drop(first);
    let second = live_on(&disk, Durability::Flush, &[memory], "boot");
    assert_eq!(second.replica.identity().incarnation(), incarnation);
    let last = second.replica.identity().last_life();
    assert_eq!(last, LastLife { ended_clean: true, generation, boot });
    second.replica.shutdown(true).await.unwrap();
    drop(second);
    let third = live_on(&disk, Durability::Flush, &[memory], "boot");
    assert_ne!(third.replica.identity().incarnation(), incarnation, "that peer never met the second life");
}

#[tokio::test]
async fn the_clean_mark_is_gone_before_anything_else_is_written() {
    let disk = disk();
    live(&disk).replica.shutdown(true).await.unwrap();
    let storage = disk.open().unwrap();
    drop(Identity::open(Arc::new(storage), &Env::real()).unwrap());
    disk.crash(&Entropy::seeded(1));
    let storage: Arc<dyn Storage> = Arc::new(disk.open().unwrap());
    assert!(!Identity::open(storage, &Env::real()).unwrap().opened().clean);
}

#[tokio::test]
async fn nothing_is_minted_before_the_peers_had_their_say() {
    let disk = disk();
    let life = live(&disk);
    life.replica.identity().bar(Bar::Starting);
    assert_eq!(life.mint(life.request("k", "v")).await.unwrap_err(), Fault::Barred(Bar::Starting));
    assert_eq!(life.replica.read(place("k")).await, Err(Fault::Syncing), "nor is what it holds a vote");
    assert!(life.replica.identity().lift(Bar::Starting));
    life.put("k", "v").await;
}

#[tokio::test]
async fn below_the_reserve_nothing_new_is_taken_and_what_makes_room_is() {
    let disk = disk();
    let life = live(&disk);
    let written = life.put("k", "v").await;
    let beside = life.put("other", "v").await;
    disk.set_faults(Faults { capacity: Some(1 << 40), ..Faults::default() });
    let space = life.replica.storage().space().unwrap();
    let used = space.total - space.free;
    for (percent_used, short) in [(90, false), (96, true)] {
        disk.set_faults(Faults { capacity: Some(used * 100 / percent_used), ..Faults::default() });
        life.replica.measure().await;
        assert_eq!(life.replica.health().room().is_short(), short, "{percent_used}% of the disk are used");
    }
    // Room for all the same, as far as the disk is concerned: it is the reserve that refuses.
    disk.set_faults(Faults::default());

    assert_eq!(life.mint(life.request("k", "w")).await.unwrap_err(), Fault::NoRoom);
    assert_eq!(life.mint(life.request("new", "w")).await.unwrap_err(), Fault::NoRoom);
    assert_eq!(life.merge("new", &beside.object, Cause::Written).await, Err(Fault::NoRoom));
    // What is here, or was superseded, is merged as ever; and it is read.
    assert_eq!(life.merge("k", &written.object, Cause::Written).await, Ok(true));
    assert_eq!(life.object("k").await, Some(written.object.clone()));
    let mut delete = life.request("k", "");
    delete.write.payload.value = None;
    delete.write.supersedes = Supersedes::Seen;
    let (deleted, durable) = life.mint(delete).await.unwrap();
    assert_eq!((deleted.object.siblings().len(), durable), (1, Ok(true)));
    assert_eq!(life.merge("k", &written.object, Cause::Written).await, Ok(true), "an old state brings nothing new");
    assert_eq!(life.object("k").await, Some(deleted.object));
    assert_eq!(life.object("new").await, None);

    // Nothing can be measured: nothing is kept back.
    life.replica.measure().await;
    life.put("new", "w").await;
}

#[tokio::test]
async fn a_failed_commit_is_never_readable_and_ends_all_writing_until_the_next_life() {
    let disk = disk();
    let life = live(&disk);
    life.put("kept", "v").await;
    disk.set_faults(Faults { commit_error: 1.0, ..Faults::default() });
    let (_, durable) = life.mint(life.request("k", "v")).await.unwrap();
    assert!(matches!(durable, Err(Fault::ReadOnly(_))), "{durable:?}");
    disk.set_faults(Faults::default());
    assert_eq!(life.object("k").await, None);
    assert!(life.replica.health().is_read_only());
    assert!(matches!(life.mint(life.request("k", "v")).await, Err(Fault::ReadOnly(_))));
    assert!(matches!(life.merge("k", &Object::new(), Cause::Written).await, Err(Fault::ReadOnly(_))));
    assert!(life.object("kept").await.is_some(), "it still reads");
    let before = life.replica.identity().incarnation();
    disk.crash(&Entropy::seeded(1));
    let next = live(&disk);
    assert_ne!(next.replica.identity().incarnation(), before);
    next.put("k", "v").await;
}

#[tokio::test]
async fn an_unreadable_key_is_no_vote_until_every_other_owner_was_merged() {
    let disk = disk();
    let life = live(&disk);
    let written = life.put("k", "v").await;
    assert!(disk.damage(Keyspace::Objects, &place("k").stored));
    assert_eq!(life.replica.read(place("k")).await, Err(Fault::Damaged));
    assert_eq!(life.replica.read(place("k")).await, Err(Fault::Damaged), "it stays in quarantine");
    assert_eq!(life.mint(life.request("k", "w")).await.unwrap_err(), Fault::Damaged);
    assert_eq!(life.merge("k", &written.object, Cause::Written).await, Err(Fault::Damaged));
    assert!(!life.replica.health().is_well());
    assert_eq!(life.merge("k", &written.object, Cause::Mend).await, Ok(true));
    assert!(life.replica.health().is_well());
    assert_eq!(life.object("k").await, Some(written.object));
    let next = life.put("k", "w").await;
    assert_ne!(next.dot.actor, written.dot.actor, "a new tenure: dots that only the damaged copy held are forgotten");
}

#[tokio::test]
async fn mending_with_nothing_leaves_nothing() {
    let disk = disk();
    let life = live(&disk);
    life.put("k", "v").await;
    assert!(disk.damage(Keyspace::Objects, &place("k").stored));
    assert_eq!(life.replica.read(place("k")).await, Err(Fault::Damaged));
    life.merge("k", &Object::new(), Cause::Mend).await.unwrap();
    assert_eq!(life.object("k").await, None);
    assert_eq!(life.replica.storage().get(Keyspace::Index, &place("k").stored).unwrap(), None);
}

/// Puts index entry and leaf back to what they were before `key` was written last, as a hole in the log does; the record
/// stays.
async fn lose_index_and_leaf(life: &Life, key: &str, value: &str) {
    let storage = life.replica.storage();
    let stored = place(key).stored;
    let index = storage.get(Keyspace::Index, &stored).unwrap().unwrap();
    let leaves = life.replica.leaves(place(key).partition).await.unwrap();
    life.put(key, value).await;
    let mut batch = crate::storage::Batch::new();
    batch.put(Keyspace::Index, stored, index);
    for (leaf, _) in life.replica.leaves(place(key).partition).await.unwrap() {
        batch.put(Keyspace::Merkle, leaf, vec![0; 16]);
    }
    for (leaf, sum) in leaves {
        batch.put(Keyspace::Merkle, leaf, sum.to_le_bytes().to_vec());
    }
    storage.commit(batch, Durability::Flush).unwrap();
}

#[tokio::test]
async fn a_record_that_decodes_is_believed_and_its_index_entry_written_again() {
    let disk = disk();
    let life = live(&disk);
    let before = life.put("k", "old").await;
    lose_index_and_leaf(&life, "k", "new").await;
    let written = life.object("k").await.unwrap();
    let grid = crate::ring::Grid::new(8).unwrap();
    assert_eq!(audit(&**life.replica.storage(), grid).unwrap().wrong.len(), 2, "the entry and its leaf");
    let partition = place("k").partition;
    let scrubbed = life.replica.scrub(partition, Bytes::new()).await.unwrap();
    assert_eq!((scrubbed.keys, scrubbed.disagreed, scrubbed.index_mended, scrubbed.gap), (1, 1, 0, false));
    assert_eq!((scrubbed.damaged.len(), scrubbed.leaves_mended), (0, 1));
    assert!(life.replica.health().is_well(), "it stays a vote");
    assert_eq!(life.object("k").await, Some(written));
    assert_eq!(audit(&**life.replica.storage(), grid).unwrap().wrong, [""; 0]);
    assert!(life.replica.hints().marked().contains_key(&partition), "its owners are compared");
    assert_ne!(life.put("k", "next").await.dot.actor, before.dot.actor, "a new tenure");
    let again = life.replica.scrub(partition, Bytes::new()).await.unwrap();
    assert_eq!((again.disagreed, again.leaves_mended), (0, 0));
    disk.kill();
    assert!(live(&disk).replica.hints().marked().contains_key(&partition), "the mark is durable");
}

#[tokio::test]
async fn a_chunk_costs_one_tenure_however_much_of_it_is_damaged() {
    let disk = disk();
    let life = live(&disk);
    let partition = place("k").partition;
    let keys: Vec<String> =
        (0..).map(|key| format!("k{key}")).filter(|key| place(key).partition == partition).take(20).collect();
    let mut actor = None;
    for key in &keys {
        actor = Some(life.put(key, "v").await.dot.actor);
    }
    keys.iter().for_each(|key| assert!(disk.damage(Keyspace::Objects, &place(key).stored)));
    let flushes = disk.flushes();
    assert_eq!(life.replica.scrub(partition, Bytes::new()).await.unwrap().damaged.len(), keys.len());
    assert_eq!(disk.flushes() - flushes, 1);
    assert_ne!(Some(life.put("k", "v").await.dot.actor), actor);
}

#[tokio::test]
async fn a_readable_leaf_that_is_wrong_costs_the_tenure_and_is_compared_and_one_that_is_right_nothing() {
    let disk = disk();
    let life = live(&disk);
    let before = life.put("k", "v").await;
    let partition = place("k").partition;
    let leaves: BTreeSet<Bytes> = life.replica.leaves(partition).await.unwrap().into_keys().collect();
    assert_eq!(life.replica.recompute(partition, leaves.clone()).await, Ok(0));
    // Unreadable: recomputed from what is here, and nothing else is in doubt.
    leaves.iter().for_each(|leaf| assert!(disk.damage(Keyspace::Merkle, leaf)));
    assert_eq!(life.replica.recompute(partition, leaves.clone()).await, Ok(1));
    assert!(life.replica.hints().marked().is_empty());
    assert_eq!(life.put("k", "v").await.dot.actor, before.dot.actor);
    let mut batch = crate::storage::Batch::new();
    leaves.iter().for_each(|leaf| batch.put(Keyspace::Merkle, leaf.clone(), vec![7; 16]));
    life.replica.storage().commit(batch, Durability::Flush).unwrap();
    assert_eq!(life.replica.recompute(partition, leaves).await, Ok(1));
    assert!(life.replica.hints().marked().contains_key(&partition));
    assert_ne!(life.put("k", "v").await.dot.actor, before.dot.actor, "dots may be forgotten");
    assert_eq!(audit(&**life.replica.storage(), crate::ring::Grid::new(8).unwrap()).unwrap().wrong, [""; 0]);
}

#[tokio::test]
async fn mending_drops_nothing_that_decodes_whatever_the_index_says() {
    let disk = disk();
    let life = live(&disk);
    life.put("k", "old").await;
    lose_index_and_leaf(&life, "k", "new").await;
    let written = life.object("k").await;
    life.replica.suspect(place("k")).await;
    assert_eq!(life.replica.read(place("k")).await, Err(Fault::Damaged));
    life.merge("k", &Object::new(), Cause::Mend).await.unwrap();
    assert_eq!(life.object("k").await, written, "nobody else holds what was acknowledged here");
    let grid = crate::ring::Grid::new(8).unwrap();
    assert_eq!(audit(&**life.replica.storage(), grid).unwrap().wrong, [""; 0]);
}

#[tokio::test]
async fn an_unsynced_partition_is_no_vote_and_coordinates_nothing() {
    let disk = disk();
    let life = live_on(&disk, Durability::Os, &[], "one boot");
    let (written, durable) = life.mint(life.request("k", "v")).await.unwrap();
    assert_eq!(durable, Ok(false), "handed to the operating system alone");
    disk.crash(&Entropy::seeded(3));
    let next = live_on(&disk, Durability::Os, &[], "another boot");
    let partition = place("k").partition;
    assert_eq!(next.replica.read(place("k")).await, Err(Fault::Syncing));
    assert_eq!(next.mint(next.request("k", "w")).await.unwrap_err(), Fault::Syncing);
    assert!(next.replica.read_to_mend(place("k")).await.is_ok(), "an owner that mends itself is told all the same");
    next.merge("k", &written.object, Cause::Written).await.unwrap();
    let doubt = next.replica.health().doubt(partition).unwrap();
    assert!(!next.replica.mark_synced(partition, doubt + 1).await.unwrap(), "that mark is not the last one");
    assert_eq!(next.replica.read(place("k")).await, Err(Fault::Syncing));
    assert!(next.replica.mark_synced(partition, doubt).await.unwrap());
    assert_eq!(next.object("k").await, Some(written.object));
    disk.kill();
    let same_machine = live_on(&disk, Durability::Os, &[], "another boot");
    assert!(same_machine.object("k").await.is_some(), "the process died, the machine did not");
}

#[tokio::test]
async fn a_context_that_names_me_above_what_i_hold_proves_a_rollback() {
    let disk = disk();
    let life = live(&disk);
    let copy = disk.snapshot_platter();
    let written = life.put("k", "v").await;
    let incarnation = life.replica.identity().incarnation();
    disk.kill();
    disk.restore_platter(&copy);
    // Its peers are silent, and by a mistake of theirs it goes on as who it was.
    let env = Env::real();
    let storage: Arc<dyn Storage> = Arc::new(disk.open().unwrap());
    let identity = Arc::new(Identity::open(Arc::clone(&storage), &env).unwrap());
    let options = ReplicaOptions {
        durability: Durability::Flush,
        threads: 1,
        partitions: 8,
        machine_boot: String::new(),
        reserve: Reserve::default(),
        max_clock_drift: Duration::from_millis(500),
        idempotency_window: Duration::from_secs(600),
        max_hint_bytes: 300,
        max_object: 100,
    };
    let replica = Replica::start(&env, storage, identity, &Arc::new(Metrics::new()), &options).unwrap();
    replica.identity().settle(Start::SameIncarnation).unwrap();
    replica.identity().lift(Bar::Starting);
    assert_eq!(replica.identity().incarnation(), incarnation);
    let again = Life { replica, env };
    let mut request = again.request("k", "w");
    request.write.supersedes = Supersedes::Covered(written.object.context().clone());
    assert_eq!(again.mint(request).await.unwrap_err(), Fault::Syncing, "no mint on what is known to be incomplete");
    assert_ne!(again.replica.identity().incarnation(), incarnation);
    assert_eq!(again.replica.health().unsynced().len(), 8, "and no vote, in any partition");
}

#[tokio::test]
async fn a_state_that_names_me_above_what_i_hold_proves_a_rollback_too() {
    let disk = disk();
    let life = live(&disk);
    let incarnation = life.replica.identity().incarnation();
    let mut ahead = life.put("k", "v").await;
    // The same actor, minting where this node cannot know of it: a copied directory.
    ahead = Coordinated { dot: crate::causality::Dot::new(ahead.dot.actor, ahead.dot.stamp.next()), ..ahead };
    let payload = Payload { value: Some("other".into()), ..Payload::default() };
    let write = Write { payload, supersedes: Supersedes::Seen, request: None };
    let rules = MergeRules::default();
    let foreign =
        crate::causality::write(&ahead.object, write, ahead.dot.actor, ahead.dot.stamp, Default::default(), &rules);
    life.merge("k", &foreign.object, Cause::Written).await.unwrap();
    assert_ne!(life.replica.identity().incarnation(), incarnation);
    assert!(!life.replica.health().is_synced(place("k").partition));
}

#[tokio::test]
async fn a_repeated_request_is_answered_and_not_minted() {
    let disk = disk();
    let life = live(&disk);
    let keyed = |value: &str, fingerprint: u8| {
        let mut request = life.request("k", value);
        request.write.request = Some((RequestId([1; 16]), Fingerprint([fingerprint; 16])));
        request
    };
    let (first, _) = life.mint(keyed("v", 1)).await.unwrap();
    let (again, durable) = life.mint(keyed("v", 1)).await.unwrap();
    assert_eq!((again.replayed, again.dot, again.digest, durable), (true, first.dot, first.digest, Ok(true)));
    assert_eq!(life.mint(keyed("w", 2)).await.unwrap_err(), Fault::IdempotencyReused);
    assert_eq!(life.object("k").await, Some(first.object));
}

#[tokio::test]
async fn limits_bind_client_writes_and_never_merges() {
    let disk = disk();
    let life = live(&disk);
    let few = |value: &str| MintRequest { max_siblings: 2, ..life.request("k", value) };
    for value in ["1", "2"] {
        assert_eq!(life.mint(few(value)).await.unwrap().1, Ok(true));
    }
    assert_eq!(life.mint(few("3")).await.unwrap_err(), Fault::TooManySiblings { siblings: 2 });
    let third = life.mint(life.request("k", "3")).await.unwrap().0;
    assert_eq!(life.merge("k", &third.object, Cause::Written).await, Ok(true));
    let mut all = few("all");
    all.write.supersedes = Supersedes::Covered(third.object.context().clone());
    assert_eq!(life.mint(all).await.unwrap().0.object.siblings().len(), 1, "a write that resolves is let in");
    let small = MintRequest { max_object: 64, ..life.request("k", &"x".repeat(100)) };
    assert!(matches!(life.mint(small).await, Err(Fault::ObjectTooLarge { most: 64, .. })));
}

#[tokio::test]
async fn what_is_too_late_is_not_minted() {
    let disk = disk();
    let life = live(&disk);
    let late = MintRequest { deadline: life.env.clock.now(), ..life.request("k", "v") };
    assert_eq!(life.mint(late).await.unwrap_err(), Fault::TooLate);
    assert_eq!(life.object("k").await, None);
}

#[tokio::test]
async fn the_clock_goes_on_after_a_restart_with_the_wall_clock_behind() {
    let disk = disk();
    let life = live(&disk);
    let before = life.put("k", "v").await;
    let identity = life.replica.identity();
    let lease = identity.minter(place("k").partition).unwrap().lease;
    assert!(lease.covers(before.dot.stamp));
    let on_disk = disk.snapshot_platter();
    disk.kill();
    disk.restore_platter(&on_disk);
    let storage = Arc::new(disk.open().unwrap());
    let env = Env::real();
    let identity = Identity::open(storage, &env).unwrap();
    identity.settle(Start::SameIncarnation).unwrap();
    identity.lift(Bar::Starting);
    let minter = identity.minter(place("k").partition).unwrap();
    let mut clock = crate::causality::NodeClock::starting_after(minter.clock_base);
    assert!(clock.next(Wall(0)) > before.dot.stamp, "beyond all that was leased");
}

#[tokio::test]
async fn a_page_walks_a_partition_and_names_what_it_cannot_read() {
    let disk = disk();
    let life = live(&disk);
    let keys: Vec<String> = (0..200).map(|n| format!("k{n}")).collect();
    for key in &keys {
        life.put(key, "v").await;
    }
    let partition = place("k0").partition;
    let wanted: Vec<&String> = keys.iter().filter(|key| place(key).partition == partition).collect();
    assert!(disk.damage(Keyspace::Objects, &place(wanted[1]).stored));
    let (mut after, mut found, mut unreadable) = (Bytes::new(), 0, 0);
    loop {
        let page = life.replica.page(partition, after, 100, Inventory::default()).await.unwrap();
        found += page.entries.len();
        unreadable += page.unreadable.len();
        match page.next {
            Some(next) => after = next,
            None => break,
        }
    }
    assert_eq!((found, unreadable), (wanted.len() - 1, 1));
}

#[tokio::test]
async fn stored_leaves_are_what_the_data_says() {
    let disk = disk();
    let life = live(&disk);
    for round in 0..3 {
        for n in 0..50 {
            life.put(&format!("k{n}"), &format!("v{round}")).await;
        }
    }
    let storage = life.replica.storage();
    let mut wanted = std::collections::BTreeMap::<Bytes, u128>::new();
    for entry in storage.scan(Keyspace::Objects, Bound::Unbounded, Bound::Unbounded) {
        let (stored, record) = entry.unwrap();
        let (id, generation) = name_of(&stored).unwrap();
        let place = Place::of(crate::ring::Grid::new(8).unwrap(), &id, generation);
        assert_eq!(place.stored, stored);
        let digest = crate::causality::digest_of_record(&record);
        assert_eq!(index::index_digest(&storage.get(Keyspace::Index, &stored).unwrap().unwrap()).unwrap().0, digest);
        let leaf = wanted.entry(place::leaf_key(place.partition, 3, u32::MAX, place.leaf)).or_default();
        *leaf = leaf.wrapping_add(crate::merkle::leaf_element(&stored, &digest));
    }
    assert_eq!(wanted.values().filter(|sum| **sum != 0).count(), wanted.len());
    for entry in storage.scan(Keyspace::Merkle, Bound::Unbounded, Bound::Unbounded) {
        let (leaf, sum) = entry.unwrap();
        assert_eq!(wanted.remove(&leaf), Some(u128::from_le_bytes(sum[..].try_into().unwrap())));
    }
    assert!(wanted.is_empty());
}

#[tokio::test]
async fn a_page_leaves_out_what_the_other_side_holds_and_nothing_else() {
    let (disk, other) = (disk(), disk());
    let (source, taker) = (live(&disk), live(&other));
    for n in 0..60 {
        source.put(&format!("k{n}"), "v").await;
    }
    let grid = crate::ring::Grid::new(8).unwrap();
    let mut sent = 0;
    for partition in grid.partitions() {
        let all = source.replica.page(partition, Bytes::new(), 1 << 20, Inventory::default()).await.unwrap();
        assert_eq!(all.next, None);
        // Every other one is there already; of these every other one is changed at the source since.
        let (mut held, mut changed) = (BTreeSet::new(), BTreeSet::new());
        for (n, (stored, record)) in all.entries.iter().enumerate().filter(|(n, _)| n % 2 == 0) {
            let (id, generation) = name_of(stored).unwrap();
            let place = Place::of(grid, &id, generation);
            let rules = MergeRules { last_write_wins: false, idempotency_window: Duration::from_secs(60) };
            let (record, cause) = (record.clone(), Cause::Repair);
            let request = MergeRequest { place, record, rules, class: 3, flush: false, cause, epoch: Epoch::FIRST };
            taker.replica.merge(request).await.unwrap();
            held.insert(stored.clone());
            if n % 4 == 0 {
                source.put(std::str::from_utf8(id.key.as_bytes()).unwrap(), "w").await;
                changed.insert(stored.clone());
            }
        }
        let (inventory, _) = taker.replica.inventory(partition, Bytes::new(), 1 << 20).await.unwrap();
        let page = source.replica.page(partition, Bytes::new(), 1 << 20, inventory.clone()).await.unwrap();
        let wanted: BTreeSet<&Bytes> = all
            .entries
            .iter()
            .map(|(stored, _)| stored)
            .filter(|s| !held.contains(*s) || changed.contains(*s))
            .collect();
        assert_eq!(page.entries.iter().map(|(stored, _)| stored).collect::<BTreeSet<_>>(), wanted);
        assert_eq!(page.next, None);
        sent += page.entries.len();
        // What is left out counts: no page goes through more than it may.
        let first = source.replica.page(partition, Bytes::new(), 1, inventory).await.unwrap();
        assert!(first.entries.len() <= 1 && first.next.is_some());
        // What cannot be read here is not said to be here.
        let Some(lost) = held.difference(&changed).next() else { continue };
        assert!(other.damage(Keyspace::Objects, lost));
        let (inventory, _) = taker.replica.inventory(partition, Bytes::new(), 1 << 20).await.unwrap();
        let page = source.replica.page(partition, Bytes::new(), 1 << 20, inventory).await.unwrap();
        assert!(page.entries.iter().any(|(stored, _)| stored == lost));
    }
    assert!((30..60).contains(&sent), "{sent} of 60 were sent");
}

//! Planted bugs: each must be caught by a judge within a bounded number of seeds, else the judges prove nothing.
//!
//! None of these has a switch in the product: what stands between a node and its storage, its transport or its clients
//! breaks the rule. Those of I-MINT and of layout changes, which take narrower scenarios, are in [`super::mints`] and
//! [`super::needed`].

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use quorate::causality::{MergeRules, Object, decode_object, encode_object};
use quorate::env::BoxFuture;
use quorate::kv::{
    Error, KeyPage, Kv, ListOptions, ReadAnswer, ReadOptions, RepairMode, Value, WriteAnswer, WriteOptions,
};
use quorate::node::Node;
use quorate::sim::cluster::{Keys, Wraps};
use quorate::sim::drive::{Options, run};
use quorate::sim::faults::Kind;
use quorate::storage::{Batch, Committed, Durability, Entry, Keyspace, Storage, StorageError};
use quorate::transport::messages::gossip::{Gossip, GossipAsk, NodeDelta, Push};
use quorate::transport::messages::{Ask, Copy, Held, Refusal, Reply, Request, Tell, Written};
use quorate::transport::{Answer, CallError, Handler, Hello, Transport};
use quorate::types::{Bucket, ObjectId, StoreId};

/// Most seeds a planted bug may survive.
const SEEDS: u64 = 60;

/// The bug is caught, by one of these rules.
fn caught(name: &str, wraps: &Wraps, rules: &[&str], shape: impl Fn(&mut Options)) {
    for seed in 1..=SEEDS {
        let mut options = Options::of(seed, Duration::from_secs(30));
        options.durability = Durability::Flush;
        options.wraps = wraps.clone();
        shape(&mut options);
        let report = run(&options).unwrap();
        if let Some(first) = report.violations.iter().find(|violation| rules.contains(&violation.rule)) {
            eprintln!("{name}: caught by seed {seed}: {first}");
            options.wraps = Wraps::default();
            assert_eq!(run(&options).unwrap().violations, [], "{name}: and without the bug all is well");
            return;
        }
    }
    panic!("{name}: {SEEDS} seeds went by and nobody noticed");
}

fn only(options: &mut Options, kinds: &[Kind]) {
    options.profile.kinds = kinds.iter().copied().collect();
    options.profile.every = Duration::from_millis(300);
    options.lag = 0.05;
    options.rare.clear();
    options.think = Duration::from_millis(80);
    options.nodes = 3;
    options.profile.nodes = 3;
}

#[derive(Clone, Copy, PartialEq)]
enum DiskBug {
    /// Flushes are left out.
    NoFlush,
    /// What fails its checksum reads as nothing.
    DamageIsNothing,
    /// One read in eight is answered with what was read before, whatever was committed since.
    StaleCache,
}

struct BadDisk(Arc<dyn Storage>, DiskBug, Mutex<(u64, BTreeMap<Bytes, Bytes>)>);

impl BadDisk {
    /// What a cache would say that no commit clears.
    fn stale(&self, keyspace: Keyspace, key: &[u8]) -> Option<Bytes> {
        let (reads, kept) = &mut *self.2.lock().unwrap();
        *reads += 1;
        if (keyspace, self.1) != (Keyspace::Objects, DiskBug::StaleCache) || !reads.is_multiple_of(8) {
            return None;
        }
        if let Some(stale) = kept.get(key) {
            return Some(stale.clone());
        }
        kept.insert(Bytes::copy_from_slice(key), self.0.get(keyspace, key).ok()??);
        None
    }
}

impl Storage for BadDisk {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        if let Some(stale) = self.stale(keyspace, key) {
            return Ok(Some(stale));
        }
        match self.0.get(keyspace, key) {
            Err(StorageError::Corrupt { .. }) if self.1 == DiskBug::DamageIsNothing => Ok(None),
            found => found,
        }
    }

    fn scan<'a>(
        &'a self,
        keyspace: Keyspace,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Box<dyn Iterator<Item = Entry> + 'a> {
        self.0.scan(keyspace, from, to)
    }

    fn commit(&self, batch: Batch, durability: Durability) -> Result<Committed, StorageError> {
        self.0.commit(batch, if self.1 == DiskBug::NoFlush { Durability::Os } else { durability })
    }

    fn flush(&self) -> Result<Committed, StorageError> {
        if self.1 == DiskBug::NoFlush { Ok(Committed::default()) } else { self.0.flush() }
    }
}

fn bad_disk(bug: DiskBug) -> Wraps {
    Wraps { storage: Some(Arc::new(move |inner| Arc::new(BadDisk(inner, bug, Mutex::default())))), ..Wraps::default() }
}

#[derive(Clone, Copy, PartialEq)]
enum NetBug {
    /// Whoever does not acknowledge counts as if it had.
    OneAckTooFew,
    /// A merge keeps one sibling and the context of all.
    DropSiblings,
    /// An unsynced partition votes "not found".
    SyncingIsNothing,
    /// A write that was handed over and not answered is handed to the next owner.
    HandOverAgain,
    /// Of two nodes that gossip tells of at once, one is told to be where the other is.
    MixUpStates,
}

/// One node's value in another one's state.
fn mix_up(push: &mut Push) {
    let [one, other, ..] = &mut push.delta.nodes[..] else { return };
    let at = |node: &NodeDelta| node.entries.iter().position(|entry| entry.name == "peer_address");
    if let (Some(from), Some(to)) = (at(one), at(other)) {
        other.entries[to].value = one.entries[from].value.clone();
    }
}

struct BadNet(Arc<dyn Transport>, NetBug);

impl Transport for BadNet {
    fn serve(&self, hello: Hello, handler: Arc<dyn Handler>) {
        self.0.serve(hello, handler);
    }

    fn call(
        &self,
        address: &str,
        expect: Option<StoreId>,
        mut request: Request,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Answer, CallError>> {
        let bug = self.1;
        if let (NetBug::DropSiblings, Some(Ask::Write(write))) = (bug, &mut request.ask) {
            let mut object = decode_object(write.record.clone()).unwrap();
            object.merge(&Object::new(), &MergeRules { last_write_wins: true, ..MergeRules::default() });
            write.record = encode_object(&object);
        }
        if let (NetBug::MixUpStates, Some(Ask::Gossip(Gossip { ask: Some(GossipAsk::Push(push)) }))) =
            (bug, &mut request.ask)
        {
            mix_up(push);
        }
        let (writes, reads, hands_over) = match &request.ask {
            Some(Ask::Write(_)) => (true, false, false),
            Some(Ask::Read(_)) => (false, true, false),
            Some(Ask::HandedWrite(_)) => (false, false, true),
            _ => (false, false, false),
        };
        let layouts = std::iter::once(request.counted).chain(request.also.iter().copied()).collect();
        let call = self.0.call(address, expect, request, deadline);
        Box::pin(async move {
            let answer = call.await;
            match (bug, answer) {
                (NetBug::OneAckTooFew, Ok(mut answer)) if writes => {
                    answer.reply.tell = Some(Tell::Written(Written { flushed: true, layouts }));
                    Ok(answer)
                }
                (NetBug::SyncingIsNothing, Ok(Answer { from, reply })) if reads => {
                    let syncing = matches!(&reply.tell, Some(Tell::Refused(no)) if no.why() == Refusal::Syncing);
                    let nothing = Copy { held: Held::Nothing.into(), record: None, epoch: 0, sealed: 0 };
                    let reply = if syncing { Reply { tell: Some(Tell::Copy(nothing)), ..reply } } else { reply };
                    Ok(Answer { from, reply })
                }
                (NetBug::HandOverAgain, Err(_)) if hands_over => Err(CallError::NotSent("so it says".to_owned())),
                (_, answer) => answer,
            }
        })
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.0.shutdown()
    }
}

fn bad_net(bug: NetBug) -> Wraps {
    Wraps { transport: Some(Arc::new(move |inner| Arc::new(BadNet(inner, bug)))), ..Wraps::default() }
}

#[derive(Clone, Copy, PartialEq)]
enum DoorBug {
    /// Reads do not wait until what they merged is held by R replicas.
    NoRepair,
    /// Every PUT is answered with a context of all that the object has seen.
    ContextAlways,
}

struct BadDoor(Node, DoorBug);

impl Kv for BadDoor {
    fn get(&self, id: ObjectId, mut options: ReadOptions) -> BoxFuture<'_, Result<ReadAnswer, Error>> {
        if self.1 == DoorBug::NoRepair {
            options.repair = Some(RepairMode::Off);
        }
        self.0.get(id, options)
    }

    fn put(&self, id: ObjectId, value: Value, options: WriteOptions) -> BoxFuture<'_, Result<WriteAnswer, Error>> {
        Box::pin(async move {
            let mut answer = self.0.put(id.clone(), value, options).await?;
            if self.1 == DoorBug::ContextAlways {
                answer.context = Keys::default().forge(&id, &answer.floor);
            }
            Ok(answer)
        })
    }

    fn delete(&self, id: ObjectId, options: WriteOptions) -> BoxFuture<'_, Result<WriteAnswer, Error>> {
        self.0.delete(id, options)
    }

    fn list(&self, bucket: Bucket, options: ListOptions) -> BoxFuture<'_, Result<KeyPage, Error>> {
        self.0.list(bucket, options)
    }
}

fn bad_door(bug: DoorBug) -> Wraps {
    Wraps { kv: Some(Arc::new(move |node| Arc::new(BadDoor(node, bug)))), ..Wraps::default() }
}

#[test]
fn skipped_flushes_are_caught() {
    caught("skip flush", &bad_disk(DiskBug::NoFlush), &["lost", "dropped", "stale"], |options| {
        only(options, &[Kind::Crash]);
    });
}

#[test]
fn damage_that_votes_not_found_is_caught() {
    caught("damage is nothing", &bad_disk(DiskBug::DamageIsNothing), &["lost", "dropped", "stale"], |options| {
        only(options, &[Kind::DiskDamage, Kind::Loss, Kind::OneWay]);
    });
}

#[test]
fn a_cache_that_no_commit_clears_is_caught() {
    caught("a stale cache", &bad_disk(DiskBug::StaleCache), &["lost", "dropped", "stale"], |options| {
        only(options, &[Kind::Loss, Kind::OneWay]);
    });
}

#[test]
fn one_acknowledgement_too_few_is_caught() {
    caught("W - 1", &bad_net(NetBug::OneAckTooFew), &["lost", "dropped", "stale"], |options| {
        only(options, &[Kind::DiskFull, Kind::DiskError, Kind::RollBack]);
    });
}

#[test]
fn a_sibling_dropped_in_a_merge_is_caught() {
    caught("drop siblings", &bad_net(NetBug::DropSiblings), &["lost", "dropped"], |options| {
        only(options, &[Kind::Loss]);
    });
}

#[test]
fn an_unsynced_partition_that_votes_not_found_is_caught() {
    caught("syncing is nothing", &bad_net(NetBug::SyncingIsNothing), &["lost", "dropped", "stale"], |options| {
        only(options, &[Kind::Crash, Kind::Partition, Kind::OneWay]);
        options.durability = Durability::Os;
    });
}

#[test]
fn a_handed_over_write_tried_again_elsewhere_is_caught() {
    caught("hand over again", &bad_net(NetBug::HandOverAgain), &["dot-reused"], |options| {
        only(options, &[Kind::Crash]);
        (options.nodes, options.profile.nodes) = (5, 5);
        (options.lag, options.think) = (0.9, Duration::from_millis(30));
    });
}

#[test]
fn states_mixed_up_by_gossip_are_caught() {
    caught("mix up states", &bad_net(NetBug::MixUpStates), &["views-differ"], |options| only(options, &[Kind::Crash]));
}

#[test]
fn reads_that_repair_nothing_are_caught() {
    caught("no repair wait", &bad_door(DoorBug::NoRepair), &["went-back"], |options| {
        only(options, &[Kind::Loss, Kind::OneWay, Kind::Partition]);
    });
}

#[test]
fn a_context_with_every_put_is_caught() {
    caught("context always", &bad_door(DoorBug::ContextAlways), &["not-shown"], |options| only(options, &[]));
}

//! A shard: the partitions of one storage thread, and the one write path into them.
//!
//! Client puts, peer puts, read repair, quarantine repair, transfers (and later anti-entropy) all end here: merge or
//! mint, then object + key index + Merkle delta in one batch, with the hints that are left or ended meanwhile. A shard takes what has queued up, does all reads,
//! merges and mints, and commits *one* batch: atomic per key without locks, group commit for free. Two writes of one key
//! in one batch see each other.
//!
//! `prepare` decides and hands out what was minted, so that it travels to the other owners while the commit is under
//! way; `commit` makes it durable; only then is anything acknowledged. A crash in between leaves other owners knowing a
//! dot that this node forgot, which is why an unclean stop costs the incarnation (I-MINT).
//!
//! Bounds: the queue (`QUEUE`; full: refused before the mint) and the operations of a batch (`BATCH`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tracing::error;

use super::class::{Classes, front_of};
use super::health::Health;
use super::hints::{HintBook, HintOp, HintWork};
use super::identity::{Bar, Identity, Renewal};
use super::index::{index_digest, index_entry, siblings_word};
use super::place::{self, Place};
use super::recent::Recent;
use super::{Fault, ReplicaOptions};
use crate::causality::{
    self, Fingerprint, MergeRules, NodeClock, Object, RequestId, decode_object, digest_of_record, encode_object,
    rollback_proof,
};
use crate::env::Env;
use crate::merkle::{hour_of, leaf_element};
use crate::metrics::Metrics;
use crate::storage::{Batch, Committed, Durability, Keyspace, Storage, StorageError};
use crate::types::{Digest, Mono, PartitionId, Stamp, StoreId};

/// Most operations that wait for one shard.
pub(super) const QUEUE: usize = 4096;
/// Most operations in one batch.
pub(super) const BATCH: usize = 256;

/// A write to be minted here.
#[derive(Clone, Debug)]
pub struct MintRequest {
    /// Where.
    pub place: Place,
    /// What.
    pub write: causality::Write,
    /// How this bucket merges.
    pub rules: MergeRules,
    /// Placement class of the bucket ([`Layout::class_of`](crate::ring::Layout::class_of)).
    pub class: u16,
    /// Most siblings the result may have, where the write adds one.
    pub max_siblings: usize,
    /// Most bytes the resulting record may have.
    pub max_object: usize,
    /// After this nothing is minted any more.
    pub deadline: Mono,
    /// Flush before answering, whatever the node's durability.
    pub flush: bool,
    /// The owner for whom this node stands in, as a fallback that coordinates; none: it owns the object.
    pub stands_for: Option<StoreId>,
}

/// What was minted, before it is durable here: to be sent to the other owners at once.
#[derive(Clone, Debug)]
pub struct Coordinated {
    /// The whole resulting object.
    pub object: Object,
    /// Its record.
    pub record: Bytes,
    /// Its digest.
    pub digest: Digest,
    /// The dot of the new sibling.
    pub dot: causality::Dot,
    /// Nothing was minted: the request had been done before.
    pub replayed: bool,
}

/// Why a state is merged here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// It was written just now.
    Written,
    /// It was written before, and this copy lacks it: read repair, a partition that is synced.
    Repair,
    /// It replaces what cannot be read here, and ends the quarantine: the merged state of every other owner.
    Mend,
}

/// A state to be merged here.
#[derive(Clone, Debug)]
pub struct MergeRequest {
    /// Where.
    pub place: Place,
    /// What.
    pub record: Bytes,
    /// How this bucket merges.
    pub rules: MergeRules,
    /// Placement class of the bucket ([`Layout::class_of`](crate::ring::Layout::class_of)).
    pub class: u16,
    /// Flush before answering, whatever the node's durability.
    pub flush: bool,
    /// Why.
    pub cause: Cause,
}

/// The answer to a merge: whether it was flushed.
pub(super) type Merged = Result<bool, Fault>;

pub(super) enum Op {
    Read {
        place: Place,
        answer: oneshot::Sender<Result<Option<Bytes>, Fault>>,
    },
    Merge {
        request: MergeRequest,
        answer: oneshot::Sender<Merged>,
    },
    Mint {
        request: Box<MintRequest>,
        early: oneshot::Sender<Result<Coordinated, Fault>>,
        done: oneshot::Sender<Merged>,
    },
    Hint(HintOp),
    Run(Box<dyn FnOnce(&Shard) + Send>),
    /// The last one: the shard ends after the batch it is in.
    Stop,
}

/// What a batch found and did to one key.
struct Loaded {
    object: Object,
    /// The digest of what storage holds; none if it holds nothing.
    stored: Option<(Digest, u32)>,
    /// What storage is to hold, where that is something else.
    dirty: Option<Dirty>,
    /// It may hang under leaves, and what hangs there cannot be read any more.
    unknown: bool,
}

struct Dirty {
    /// The record and its digest; none where nothing is to be there any more.
    record: Option<(Bytes, Digest)>,
    partition: PartitionId,
    class: u16,
    leaf: u8,
}

/// A batch that is ready to be committed.
pub(super) struct Prepared {
    batch: Batch,
    durability: Durability,
    waiting: Vec<oneshot::Sender<Merged>>,
    /// Keys whose quarantine ends with this commit.
    mended: Vec<Bytes>,
    hints: HintWork,
}

pub(super) struct Shard {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) identity: Arc<Identity>,
    pub(super) health: Arc<Health>,
    pub(super) hints: Arc<HintBook>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) env: Env,
    pub(super) durability: Durability,
    /// All partitions of the grid: what becomes unsynced on proof of a rollback.
    pub(super) partitions: u32,
    pub(super) classes: Classes,
    /// How far apart clocks may be.
    drift: Duration,
    recent: Mutex<Recent>,
    clock: NodeClock,
    era: u64,
}

impl Shard {
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        identity: Arc<Identity>,
        health: Arc<Health>,
        hints: Arc<HintBook>,
        metrics: Arc<Metrics>,
        env: Env,
        options: &ReplicaOptions,
    ) -> Self {
        // The first mint finds another era than this and starts the clock from the identity's mark.
        let clock = NodeClock::starting_after(Stamp(0));
        let (classes, recent) = (Classes::default(), Mutex::default());
        let ReplicaOptions { durability, partitions, max_clock_drift: drift, .. } = *options;
        Self {
            storage,
            identity,
            health,
            hints,
            metrics,
            env,
            durability,
            partitions,
            classes,
            drift,
            recent,
            clock,
            era: u64::MAX,
        }
    }

    /// Reads, merges, mints; hands out what was minted; answers what needs no commit.
    pub(super) fn prepare(&mut self, ops: impl IntoIterator<Item = Op>) -> Prepared {
        let mut loaded: BTreeMap<Bytes, Loaded> = BTreeMap::new();
        let mut durability = self.durability;
        let mut waiting = Vec::new();
        let mut mended = Vec::new();
        let mut hints = HintWork::default();
        // Hints alone are not worth a flush.
        let mut data = false;
        for op in ops {
            match op {
                Op::Read { place, answer } => {
                    // An unanswered reader has gone away; nothing is owed to it.
                    let _ = answer.send(self.read(&place));
                }
                Op::Run(job) => job(self),
                Op::Stop => {}
                Op::Hint(op) => {
                    let (keeps, flush) = op.is_data();
                    if let Some(answer) = self.hint(&mut hints, op) {
                        data |= keeps;
                        if flush {
                            durability = Durability::Flush;
                        }
                        waiting.push(answer);
                    }
                }
                Op::Merge { request, answer } => match self.merge(&mut loaded, &request) {
                    Ok(()) => {
                        data = true;
                        if request.flush {
                            durability = Durability::Flush;
                        }
                        if request.cause == Cause::Mend {
                            mended.push(request.place.stored.clone());
                        }
                        waiting.push(answer);
                    }
                    Err(fault) => drop(answer.send(Err(fault))),
                },
                Op::Mint { request, early, done } => match self.mint_at(&mut loaded, &mut hints, &request) {
                    Ok(coordinated) => {
                        data = true;
                        if request.flush {
                            durability = Durability::Flush;
                        }
                        drop(early.send(Ok(coordinated)));
                        waiting.push(done);
                    }
                    Err(fault) => drop(early.send(Err(fault))),
                },
            }
        }
        let mut batch = self.batch_of(loaded);
        hints.write(&mut batch);
        let durability = if data { durability } else { Durability::Os };
        Prepared { batch, durability, waiting, mended, hints }
    }

    /// Commits what was prepared. What it returns is to be answered after `stall` has passed.
    pub(super) fn commit(&self, prepared: Prepared) -> (std::time::Duration, Finished) {
        let Prepared { batch, durability, waiting, mended, hints } = prepared;
        if waiting.is_empty() {
            return (std::time::Duration::ZERO, Finished { waiting, result: Ok(true) });
        }
        self.metrics.replica.commits.inc();
        self.metrics.replica.commit_objects.observe(waiting.len() as f64);
        let nothing_new = batch.is_empty();
        let began = self.env.clock.now();
        if !nothing_new && let Err(failed) = self.identity.move_on() {
            self.fail(&failed);
            return (std::time::Duration::ZERO, Finished { waiting, result: Err(Fault::from_commit(&failed)) });
        }
        let committed = match durability {
            // What was merged before may still wait in the operating system.
            Durability::Flush if nothing_new && self.durability == Durability::Os => self.storage.flush(),
            _ if nothing_new => Ok(Committed::default()),
            _ => self.storage.commit(batch, durability),
        };
        match committed {
            Ok(committed) => {
                let replica = &self.metrics.replica;
                replica.commit_seconds.observe(self.env.clock.now().since(began).as_secs_f64());
                if durability == Durability::Flush {
                    replica.flushes.inc();
                }
                if !mended.is_empty() {
                    self.health.release(&mended);
                }
                self.hints_committed(hints);
                (committed.stall, Finished { waiting, result: Ok(durability == Durability::Flush) })
            }
            Err(failed) => {
                self.fail(&failed);
                (std::time::Duration::ZERO, Finished { waiting, result: Err(Fault::from_commit(&failed)) })
            }
        }
    }

    pub(super) fn fail(&self, failed: &StorageError) {
        if self.health.latch_read_only() {
            self.metrics.replica.commit_failures.inc();
            self.metrics.replica.read_only.set(1);
            self.identity.bar(Bar::DiskFailed);
            error!(%failed, "a commit failed: read-only until restart; check the disk, then start the node again");
        }
    }

    /// The record under a key, from disk; puts into quarantine what cannot be read.
    pub(super) fn read(&self, place: &Place) -> Result<Option<Bytes>, Fault> {
        if self.health.is_quarantined(&place.stored) {
            return Err(Fault::Damaged);
        }
        self.storage.get(Keyspace::Objects, &place.stored).map_err(|failed| self.quarantine(place, &failed.to_string()))
    }

    /// Takes a key out of service: a new tenure of its partition before the next mint, for dots that only this copy
    /// held are forgotten (I-MINT).
    pub(super) fn quarantine(&self, place: &Place, why: &str) -> Fault {
        if self.isolate(place, why) {
            self.forgets_dots(place.partition);
        }
        Fault::Damaged
    }

    /// Takes a key out of service; tells whether it was in it. Before the next mint [`Shard::forgets_dots`] is to follow.
    pub(super) fn isolate(&self, place: &Place, why: &str) -> bool {
        let new = self.health.quarantine(place.partition, place.stored.clone());
        if new {
            self.metrics.replica.quarantines.inc();
            error!(partition = %place.partition, why, "a stored object cannot be read: quarantined until fetched from the other owners");
        }
        new
    }

    /// A new tenure of a partition in which keys were quarantined.
    pub(super) fn forgets_dots(&self, partition: PartitionId) {
        if !self.env.buggify.breaks("a quarantine begins a tenure")
            && let Err(failed) = self.identity.new_tenure(partition)
        {
            self.fail(&failed);
        }
    }

    fn load<'a>(&self, loaded: &'a mut BTreeMap<Bytes, Loaded>, place: &Place) -> Result<&'a mut Loaded, Fault> {
        use std::collections::btree_map::Entry;
        match loaded.entry(place.stored.clone()) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let found = match self.read(place)? {
                    None => Loaded { object: Object::new(), stored: None, dirty: None, unknown: false },
                    Some(record) => {
                        let digest = digest_of_record(&record);
                        let object = decode_object(record).map_err(|bad| self.quarantine(place, &bad.to_string()))?;
                        let hour = hour_of(object.horizon());
                        Loaded { object, stored: Some((digest, hour)), dirty: None, unknown: false }
                    }
                };
                Ok(entry.insert(found))
            }
        }
    }

    /// What a quarantined key is mended on: what can be read there after all (a disk that failed once may not the second
    /// time, and this copy may be the only one of what it acknowledged), whatever its index entry says; else nothing.
    fn load_to_mend(&self, place: &Place) -> Loaded {
        let entry = self.storage.get(Keyspace::Index, &place.stored);
        let says = entry.as_ref().ok().and_then(Option::as_ref).and_then(|entry| index_digest(entry));
        let record = self.storage.get(Keyspace::Objects, &place.stored);
        let lost = !matches!(record, Ok(None));
        if let Ok(Some(record)) = record {
            let digest = digest_of_record(&record);
            if let Ok(object) = decode_object(record) {
                let its = (digest, hour_of(object.horizon()));
                // Where they disagree nobody knows which of them hangs under the leaf: it is recomputed.
                let unknown = says.is_some_and(|says| says != its);
                return Loaded { object, stored: (!unknown).then_some(its), dirty: None, unknown };
            }
        }
        // Its contribution to the Merkle leaf is the index entry's; where that cannot be read, the leaf is recomputed.
        let unknown = says.is_none() && !matches!((entry, lost), (Ok(None), false));
        Loaded { object: Object::new(), stored: says, dirty: None, unknown }
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a key may still be on its way from here, or from where it came, to other owners.
    pub(super) fn was_written_lately(&self, now: Mono, stored: &[u8]) -> bool {
        self.recent().has(now, stored)
    }

    pub(super) fn check_writable(&self) -> Result<(), Fault> {
        if self.health.is_read_only() {
            return Err(Fault::ReadOnly("an earlier commit failed".into()));
        }
        Ok(())
    }

    pub(super) fn no_room(&self) -> Fault {
        self.metrics.replica.no_room.inc();
        Fault::NoRoom
    }

    /// Where a state or a context names one of this node's own actors above all this node can know, the directory went
    /// back or was copied: every partition is unsynced and the incarnation is new before the next mint.
    fn check_rollback(&self, place: &Place, local: &Object, incoming: &causality::VersionVector) -> Result<(), Fault> {
        let (actor, floor) = self.identity.actor(place.partition);
        if rollback_proof(local, floor, actor, incoming).is_none()
            || self.env.buggify.breaks("a proof of a rollback is acted upon")
        {
            return Ok(());
        }
        self.metrics.replica.rollback_proofs.inc();
        self.roll_back().map_err(|failed| {
            self.fail(&failed);
            Fault::from_commit(&failed)
        })
    }

    /// Acts on a proof that the data directory went back or was copied.
    pub(super) fn roll_back(&self) -> Result<(), StorageError> {
        let all: Vec<PartitionId> = (0..self.partitions).map(PartitionId).collect();
        let mut beside = Batch::new();
        super::forget::note_going_back(&mut beside);
        self.health.mark_unsynced(&*self.storage, &all, beside)?;
        self.identity.renew(Renewal::RolledBack)
    }

    fn merge(&self, loaded: &mut BTreeMap<Bytes, Loaded>, request: &MergeRequest) -> Result<(), Fault> {
        self.check_writable()?;
        let place = &request.place;
        let incoming = decode_object(request.record.clone()).map_err(|bad| Fault::Malformed(bad.to_string()))?;
        let mends = request.cause == Cause::Mend;
        let first = mends && !loaded.contains_key(&place.stored);
        if first {
            let found = self.load_to_mend(place);
            // Before it is put where the rest of the batch finds it: refused, the key stays in quarantine.
            self.check_rollback(place, &found.object, incoming.context())?;
            loaded.insert(place.stored.clone(), found);
        }
        let entry = self.load(loaded, place)?;
        if !first {
            self.check_rollback(place, &entry.object, incoming.context())?;
        }
        if !self.health.room().admits(&entry.object, &incoming, request.cause) {
            return Err(self.no_room());
        }
        let merged = entry.object.merge(&incoming, &request.rules);
        self.count_clashes(place.partition, &merged);
        if mends && entry.object.is_empty() {
            let (partition, class, leaf) = (place.partition, request.class, place.leaf);
            entry.dirty = Some(Dirty { record: None, partition, class, leaf });
        } else if merged.changed || (mends && entry.dirty.is_none()) {
            let record = if entry.object == incoming { request.record.clone() } else { encode_object(&entry.object) };
            self.health.room().took(record.len());
            entry.set_dirty(record, place, request.class);
        }
        Ok(())
    }

    /// Counts, and says loudly, where one dot came with two values.
    pub(super) fn count_clashes(&self, partition: PartitionId, merged: &causality::Merged) {
        if merged.clashes > 0 {
            self.metrics.replica.dot_clashes.inc_by(merged.clashes as u64);
            error!(%partition, "one dot came with two values: two nodes mint as one actor; nothing is lost, but find out why");
        }
    }

    fn mint_at(
        &mut self,
        loaded: &mut BTreeMap<Bytes, Loaded>,
        hints: &mut HintWork,
        request: &MintRequest,
    ) -> Result<Coordinated, Fault> {
        self.check_writable()?;
        if self.env.clock.now() >= request.deadline {
            return Err(Fault::TooLate);
        }
        match request.stands_for {
            None => self.mint(loaded, request),
            Some(owner) => self.mint_on_hint(hints, request, owner),
        }
    }

    fn mint(&mut self, loaded: &mut BTreeMap<Bytes, Loaded>, request: &MintRequest) -> Result<Coordinated, Fault> {
        let MintRequest { place, write, class, .. } = request;
        if !self.health.is_synced(place.partition) {
            return Err(Fault::Syncing);
        }
        if let causality::Supersedes::Covered(context) = &write.supersedes {
            let entry = self.load(loaded, place)?;
            self.check_rollback(place, &entry.object, context)?;
            if !self.health.is_synced(place.partition) {
                return Err(Fault::Syncing);
            }
        }
        let entry = self.load(loaded, place)?;
        let minted = self.mint_upon(&entry.object, request, None)?;
        if !minted.replayed {
            entry.object = minted.object.clone();
            entry.set_dirty(minted.record.clone(), place, *class);
            self.health.room().took(minted.record.len());
        }
        Ok(minted)
    }

    /// Mints on top of what is here: for an object that this node owns or, with the tenure that was drawn for it, on a
    /// hint's record.
    pub(super) fn mint_upon(
        &mut self,
        local: &Object,
        request: &MintRequest,
        on_hint: Option<u64>,
    ) -> Result<Coordinated, Fault> {
        let MintRequest { place, write, rules, max_siblings, max_object, .. } = request;
        if let Some((id, fingerprint)) = write.request
            && let Some(replay) = replay(local, id, fingerprint)?
        {
            return Ok(replay);
        }
        if write.payload.value.is_some() && self.health.room().is_short() {
            return Err(self.no_room());
        }
        // Refuse before the clock is read: what is minted is committed.
        let mut minter = self.identity.minter(place.partition).map_err(Fault::Barred)?;
        if minter.era != self.era {
            self.era = minter.era;
            self.clock = NodeClock::starting_after(minter.clock_base);
        }
        let wall = self.env.clock.wall();
        let reading = self.clock.next(wall);
        if minter.lease.is_short(reading, wall) {
            minter.lease = self.identity.extend_lease(minter.era, reading, wall).map_err(|failed| {
                self.fail(&failed);
                Fault::from_commit(&failed)
            })?;
        }
        if !minter.lease.covers(reading) {
            // The clock was set right this very moment: the next write finds the new one.
            return Err(Fault::Barred(Bar::ClockDrift));
        }
        // What no reader sees any more is nobody's sibling.
        let shed = local.without_expired(wall, self.drift).filter(|_| self.identity.clock_is_right());
        let base = shed.as_ref().unwrap_or(local);
        let actor = on_hint.map_or(minter.actor, |tenure| self.identity.actor_on_hint(place.partition, tenure));
        let minted = causality::write(base, write.clone(), actor, reading, minter.floor, rules);
        if minted.dot.stamp == Stamp(u64::MAX) {
            return Err(Fault::EndOfTime);
        }
        let siblings = minted.object.siblings().len();
        if siblings > *max_siblings && siblings > local.siblings().len() {
            return Err(Fault::TooManySiblings { siblings: local.siblings().len() });
        }
        let record = encode_object(&minted.object);
        if record.len() > *max_object && siblings > 1 {
            return Err(Fault::ObjectTooLarge { bytes: record.len(), most: *max_object });
        }
        let digest = digest_of_record(&record);
        self.metrics.replica.minted.inc();
        Ok(Coordinated { object: minted.object, record, digest, dot: minted.dot, replayed: false })
    }

    /// Where a write comes with another class than its bucket's objects here hang under, they are all hung anew. False:
    /// everything hangs under 0, which is nearly always.
    fn hang(&self, loaded: &BTreeMap<Bytes, Loaded>, batch: &mut Batch) -> bool {
        let dirty = loaded.iter().filter_map(|(stored, entry)| Some((stored, entry.dirty.as_ref()?.class)));
        if self.classes.is_empty() && dirty.clone().all(|(_, class)| class == 0) {
            return false;
        }
        // The last of several: what is hung is hung once a batch.
        let wanted: BTreeMap<Bytes, u16> = dirty.map(|(stored, class)| (front_of(stored), class)).collect();
        for (front, class) in wanted {
            self.classes.hang(&*self.storage, self.grid(), &front, class, batch);
        }
        true
    }

    /// Object, key index and Merkle delta of every key that changed.
    fn batch_of(&self, loaded: BTreeMap<Bytes, Loaded>) -> Batch {
        let mut batch = Batch::new();
        let hung = self.hang(&loaded, &mut batch);
        let mut unknown: BTreeMap<PartitionId, BTreeSet<Bytes>> = BTreeMap::new();
        for (stored, entry) in loaded.iter().filter(|(_, entry)| entry.unknown) {
            if let Some(Dirty { partition, .. }) = entry.dirty {
                unknown.entry(partition).or_default().insert(stored.clone());
            }
        }
        for (partition, keys) in unknown {
            self.unhang(partition, &keys, &mut batch);
        }
        let now = self.env.clock.now();
        for (stored, entry) in loaded {
            let Some(Dirty { record, partition, leaf, .. }) = entry.dirty else { continue };
            self.recent().note(now, &stored);
            let class = if hung { self.classes.of(&front_of(&stored)) } else { 0 };
            let leaf_at = |hour| place::leaf_key(partition, class, hour, leaf);
            let before = entry.stored.map(|(digest, hour)| (hour, leaf_element(&stored, &digest)));
            let horizon = entry.object.horizon();
            let after = record.as_ref().map(|(_, digest)| (hour_of(horizon), leaf_element(&stored, digest)));
            match (before, after) {
                (Some((hour, old)), Some((same, new))) if hour == same => {
                    batch.add(Keyspace::Merkle, leaf_at(hour), new.wrapping_sub(old));
                }
                (before, after) => {
                    if let Some((hour, old)) = before {
                        batch.add(Keyspace::Merkle, leaf_at(hour), old.wrapping_neg());
                    }
                    if let Some((hour, new)) = after {
                        batch.add(Keyspace::Merkle, leaf_at(hour), new);
                    }
                }
            }
            match record {
                Some((record, digest)) => {
                    let siblings = siblings_word(&entry.object);
                    batch.put(Keyspace::Index, stored.clone(), index_entry(&digest, siblings, horizon));
                    self.metrics.replica.bytes_written.inc_by(record.len() as u64);
                    batch.put(Keyspace::Objects, stored, record);
                }
                None => {
                    batch.delete(Keyspace::Index, stored.clone());
                    batch.delete(Keyspace::Objects, stored);
                }
            }
        }
        batch
    }
}

/// What a request did that this object remembers.
fn replay(object: &Object, id: RequestId, fingerprint: Fingerprint) -> Result<Option<Coordinated>, Fault> {
    match object.recent().find(id) {
        None => Ok(None),
        Some(recent) if recent.fingerprint != fingerprint => Err(Fault::IdempotencyReused),
        Some(recent) => {
            let record = encode_object(object);
            let digest = digest_of_record(&record);
            Ok(Some(Coordinated { object: object.clone(), record, digest, dot: recent.dot, replayed: true }))
        }
    }
}

impl Loaded {
    fn set_dirty(&mut self, record: Bytes, place: &Place, class: u16) -> Digest {
        let digest = digest_of_record(&record);
        self.dirty =
            Some(Dirty { record: Some((record, digest)), partition: place.partition, class, leaf: place.leaf });
        digest
    }
}

/// Acknowledgements that became true.
pub(super) struct Finished {
    waiting: Vec<oneshot::Sender<Merged>>,
    result: Merged,
}

impl Finished {
    /// Tells all who wait.
    pub(super) fn answer(self) {
        for waiting in self.waiting {
            // Whoever no longer waits gave up on its deadline; the write is durable all the same.
            let _ = waiting.send(self.result.clone());
        }
    }
}

impl Fault {
    fn from_commit(failed: &StorageError) -> Self {
        Self::ReadOnly(failed.to_string())
    }
}

//! Who this node is, and whether it may mint as who it was (I-MINT).
//!
//! A store id and a node id are made with the data directory. Every start counts a *generation* and draws a *boot*
//! nonce; peers remember the newest they saw, so a directory that was rolled back or copied is found out. The
//! *incarnation* is kept over a restart only if the stop before was clean **and** a peer vouches that nothing newer was
//! ever seen; in every doubt it is drawn anew, which costs an entry in some version vectors and can lose nothing.
//!
//! An actor is `hash(incarnation, partition, tenure)`. A new incarnation changes all of them, a new tenure one
//! partition's. Everything here is flushed before it is used, whatever `durability` says.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use bytes::Bytes;
use tracing::{info, warn};

use super::trust::Trust;
use crate::causality::{LastLife, Lease, Start, actor_of};
use crate::env::Env;
use crate::storage::{Batch, Durability, Keyspace, Storage, StorageError};
use crate::types::{ActorId, Incarnation, Mono, NodeId, PartitionId, Stamp, StoreId, Tenure, Wall};

const NODE: &[u8] = b"identity/node";
const STORE: &[u8] = b"identity/store";
const GENERATION: &[u8] = b"identity/generation";
const BOOT: &[u8] = b"identity/boot";
const INCARNATION: &[u8] = b"identity/incarnation";
const CLEAN: &[u8] = b"identity/clean";
const LEASE: &[u8] = b"identity/lease";
const PROGRESS: &[u8] = b"identity/progress";
const HISTORY: &[u8] = b"identity/history";
const TENURE: &[u8] = b"tenure/";
const FLOOR: &[u8] = b"floor/";

/// Why a node mints under a new incarnation from now on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Renewal {
    /// The directory is new.
    New,
    /// The stop before was not clean.
    Unclean,
    /// The stop was clean, but no peer could vouch that nothing newer was seen.
    Unvouched,
    /// A peer, a state or a client's context proves that this directory went back, or was copied.
    RolledBack,
    /// The clock was ahead of the others' and starts again from the wall clock.
    ClockReset,
}

/// How often a directory that is written to says so.
const MOVE_ON_EVERY: Duration = Duration::from_secs(2);
/// How many lives a directory remembers of itself.
const HISTORY_KEPT: usize = 64;

/// Why a node mints nothing now. It hands writes over; unless it is [`Bar::Starting`] or an [`Bar::Impostor`], it still
/// votes on its copies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Bar {
    /// A commit failed.
    DiskFailed = 1,
    /// It is stopping.
    Stopping = 2,
    /// Another process answers under its store id, or its address is not the layout's.
    Impostor = 4,
    /// Its peers have not said yet what they saw of it.
    Starting = 8,
    /// Its clock is too far from the others'.
    ClockDrift = 16,
    /// Others have seen more of its directory than it holds, and it is not another actor yet.
    WentBack = 32,
}

impl Bar {
    const ALL: [Self; 6] =
        [Self::DiskFailed, Self::Stopping, Self::Impostor, Self::Starting, Self::ClockDrift, Self::WentBack];
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DiskFailed => "its disk failed; it is read-only until it is started again",
            Self::Stopping => "it is stopping",
            Self::Impostor => "another process answers under its store id",
            Self::Starting => "it has just started, and its peers have not said yet what they saw of it",
            Self::ClockDrift => "its clock is too far from the other members'",
            Self::WentBack => "others have seen more of its data directory than it holds, and it is acting on that",
        })
    }
}

/// What the opening of a data directory found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// The directory was empty: its ids are new.
    pub new: bool,
    /// The last stop was clean.
    pub clean: bool,
}

#[derive(Debug)]
struct Current {
    incarnation: Incarnation,
    tenures: BTreeMap<PartitionId, Tenure>,
    floors: BTreeMap<PartitionId, Stamp>,
    lease: Lease,
    /// Counts incarnations of this process: a storage thread that sees another one starts its clock anew.
    era: u64,
    clock_base: Stamp,
}

/// This node's identity.
///
/// `current` is only held for a look or a swap, never while something is flushed: heartbeats read it, and a slow disk must
/// not make a healthy node look dead. Whoever changes it holds `changing` throughout.
pub struct Identity {
    storage: Arc<dyn Storage>,
    env: Env,
    node: NodeId,
    store: StoreId,
    generation: RwLock<u64>,
    boot: u64,
    last_life: LastLife,
    history: BTreeMap<u64, u64>,
    opened: Opened,
    current: RwLock<Current>,
    changing: Mutex<()>,
    progress: AtomicU64,
    /// What of it was on disk when the directory was opened, or was caught up with.
    known_progress: AtomicU64,
    /// When it last rose, by the monotonic clock, in microseconds.
    moved_at: AtomicU64,
    bars: AtomicU8,
    trust: Trust,
    settled: AtomicBool,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("node", &self.node).field("store", &self.store).finish_non_exhaustive()
    }
}

/// Who mints a dot now, and from which clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Minter {
    pub(super) actor: ActorId,
    pub(super) floor: Stamp,
    pub(super) era: u64,
    pub(super) clock_base: Stamp,
    pub(super) lease: Lease,
}

fn number<const N: usize>(bytes: &Bytes) -> Result<[u8; N], StorageError> {
    bytes.as_ref().try_into().map_err(|_| StorageError::Corrupt {
        keyspace: Keyspace::Meta,
        detail: format!("an identity entry has {} bytes instead of {N}", bytes.len()),
    })
}

impl Identity {
    /// Reads the identity of a data directory, or makes one; counts the generation and removes the clean mark, durably,
    /// before anything else is written. Nothing may be minted before [`Identity::settle`].
    pub fn open(storage: Arc<dyn Storage>, env: &Env) -> Result<Self, StorageError> {
        let meta = |key: &[u8]| storage.get(Keyspace::Meta, key);
        let known = match (meta(NODE)?, meta(STORE)?) {
            (Some(node), Some(store)) => Some((number(&node)?, number(&store)?)),
            _ => None,
        };
        let (node, store) = known.map_or_else(
            || (NodeId::from_bits(env.entropy.u128()), StoreId::from_bits(env.entropy.u128())),
            |(node, store)| {
                (NodeId::from_bits(u128::from_be_bytes(node)), StoreId::from_bits(u128::from_be_bytes(store)))
            },
        );
        let last_generation = meta(GENERATION)?.map(|b| number(&b).map(u64::from_be_bytes)).transpose()?.unwrap_or(0);
        let last_boot = meta(BOOT)?.map(|b| number(&b).map(u64::from_be_bytes)).transpose()?.unwrap_or(0);
        let (generation, boot) = (last_generation + 1, env.entropy.u64());
        let incarnation = meta(INCARNATION)?.map(|b| number(&b).map(u128::from_be_bytes)).transpose()?;
        let leased = meta(LEASE)?.map(|b| number(&b).map(u64::from_be_bytes)).transpose()?.unwrap_or(0);
        let opened = Opened { new: known.is_none(), clean: meta(CLEAN)?.is_some() && incarnation.is_some() };
        let progress = meta(PROGRESS)?.map(|b| number(&b).map(u64::from_be_bytes)).transpose()?.unwrap_or(0);
        let mut history = history_of(&meta(HISTORY)?.unwrap_or_default());
        if last_generation > 0 {
            history.insert(last_generation, last_boot);
        }
        while history.len() > HISTORY_KEPT {
            history.pop_first();
        }
        let mut batch = Batch::new();
        batch.delete(Keyspace::Meta, CLEAN);
        batch.put(Keyspace::Meta, NODE, node.as_bytes().to_vec());
        batch.put(Keyspace::Meta, STORE, store.as_bytes().to_vec());
        batch.put(Keyspace::Meta, GENERATION, generation.to_be_bytes().to_vec());
        batch.put(Keyspace::Meta, BOOT, boot.to_be_bytes().to_vec());
        let lives = history.iter().flat_map(|(generation, boot)| [*generation, *boot]);
        batch.put(Keyspace::Meta, HISTORY, lives.flat_map(u64::to_be_bytes).collect::<Vec<u8>>());
        let tenures = per_partition(&*storage, TENURE)?.into_iter().map(|(p, bits)| (p, Tenure(bits))).collect();
        let floors = per_partition(&*storage, FLOOR)?.into_iter().map(|(p, bits)| (p, Stamp(bits))).collect();
        storage.commit(batch, Durability::Flush)?;
        Ok(Self {
            node,
            store,
            generation: RwLock::new(generation),
            boot,
            last_life: LastLife { ended_clean: opened.clean, generation: last_generation, boot: last_boot },
            history,
            opened,
            current: RwLock::new(Current {
                incarnation: Incarnation(incarnation.unwrap_or(0)),
                tenures,
                floors,
                lease: Lease { until: Stamp(leased) },
                era: 0,
                clock_base: Stamp(leased),
            }),
            changing: Mutex::new(()),
            progress: AtomicU64::new(progress),
            known_progress: AtomicU64::new(progress),
            moved_at: AtomicU64::new(0),
            bars: AtomicU8::new(Bar::Starting as u8),
            trust: Trust::default(),
            settled: AtomicBool::new(false),
            env: env.clone(),
            storage,
        })
    }

    /// The node id.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// The store id.
    #[must_use]
    pub const fn store(&self) -> StoreId {
        self.store
    }

    /// Counts the starts of this data directory.
    #[must_use]
    pub fn generation(&self) -> u64 {
        *self.generation.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Random bits of this start.
    #[must_use]
    pub const fn boot(&self) -> u64 {
        self.boot
    }

    /// What the directory says of its last life.
    #[must_use]
    pub const fn last_life(&self) -> LastLife {
        self.last_life
    }

    /// What the opening found.
    #[must_use]
    pub const fn opened(&self) -> Opened {
        self.opened
    }

    /// The incarnation that mints now.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.read().incarnation
    }

    /// Why no dot is minted now; none: minting.
    #[must_use]
    pub fn barred(&self) -> Option<Bar> {
        let bars = self.bars.load(Ordering::Acquire);
        Bar::ALL.into_iter().find(|bar| bars & *bar as u8 != 0)
    }

    /// Whether this node knows who it is, so that what it holds, and what it does not hold, is a vote.
    #[must_use]
    pub fn may_vote(&self) -> bool {
        self.bars.load(Ordering::Acquire) & (Bar::Starting as u8 | Bar::Impostor as u8) == 0
    }

    /// The wall clock is right to `within`, by a majority of the members' clocks; none: it is not, or nobody knows.
    pub fn confirm_clock(&self, within: Option<Duration>) {
        self.trust.say(within, self.env.clock.now(), self.env.clock.wall());
    }

    /// Whether the wall clock is known to be right, and so may say that something's time has passed. Until it was
    /// confirmed it is not.
    #[must_use]
    pub fn clock_is_right(&self) -> bool {
        self.trust.holds(self.env.clock.now(), self.env.clock.wall())
    }

    /// A number that rises while this directory is written to, flushed before it is told: a peer that has heard a higher
    /// one than the directory holds proves that the directory went back.
    #[must_use]
    pub fn progress(&self) -> u64 {
        self.progress.load(Ordering::Acquire)
    }

    /// The progress of the lives before this one, as far as the directory knows.
    #[must_use]
    pub fn known_progress(&self) -> u64 {
        self.known_progress.load(Ordering::Acquire)
    }

    /// Called where something is written: every few seconds of that, progress rises. Flushed before it is told. By the
    /// monotonic clock, for it is the wall clock that may be wrong.
    pub(super) fn move_on(&self) -> Result<(), StorageError> {
        let now = self.env.clock.now();
        let due = Mono(self.moved_at.load(Ordering::Acquire)) + MOVE_ON_EVERY;
        if self.progress() > self.known_progress() && now < due {
            return Ok(());
        }
        let _changing = self.change();
        let progress = self.progress() + 1;
        let mut batch = Batch::new();
        batch.put(Keyspace::Meta, PROGRESS, progress.to_be_bytes().to_vec());
        self.storage.commit(batch, Durability::Flush)?;
        self.moved_at.store(now.0, Ordering::Release);
        self.progress.store(progress, Ordering::Release);
        Ok(())
    }

    /// Whether a life that a peer remembers is not one of this directory's: of a generation it has lived, with another
    /// boot nonce.
    #[must_use]
    pub fn disowns(&self, generation: u64, boot: u64) -> bool {
        self.history.get(&generation).is_some_and(|own| *own != boot)
    }

    /// Takes on who [`on_start`](crate::causality::on_start) decided this start is, once the peers had their say. It mints
    /// when [`Bar::Starting`] is lifted.
    pub fn settle(&self, start: Start) -> Result<(), StorageError> {
        match start {
            Start::SameIncarnation => {
                info!(incarnation = %self.label(), "keeping the incarnation: clean stop, and a peer vouches for it");
            }
            // The rollback took its new incarnation already.
            Start::RolledBack => {}
            Start::NewIncarnation if self.opened.new => self.renew(Renewal::New)?,
            Start::NewIncarnation if self.opened.clean => self.renew(Renewal::Unvouched)?,
            Start::NewIncarnation => self.renew(Renewal::Unclean)?,
            Start::Refused => return Ok(()),
        }
        self.settled.store(true, Ordering::Release);
        Ok(())
    }

    /// Takes a new incarnation: flushed, then used by every mint that begins later.
    pub fn renew(&self, why: Renewal) -> Result<(), StorageError> {
        let _changing = self.change();
        let incarnation = Incarnation(self.env.entropy.u128());
        let mut batch = Batch::new();
        batch.put(Keyspace::Meta, INCARNATION, incarnation.0.to_be_bytes().to_vec());
        if why == Renewal::ClockReset {
            batch.put(Keyspace::Meta, LEASE, 0u64.to_be_bytes().to_vec());
        }
        self.storage.commit(batch, Durability::Flush)?;
        let mut current = self.write();
        current.incarnation = incarnation;
        if why == Renewal::ClockReset {
            current.lease = Lease { until: Stamp(0) };
            current.clock_base = Stamp(0);
            current.era += 1;
        }
        drop(current);
        match why {
            Renewal::RolledBack => {
                warn!(incarnation = %self.label(), "the data directory was rolled back or copied: minting under a new incarnation")
            }
            _ => info!(incarnation = %self.label(), ?why, "minting under a new incarnation"),
        }
        Ok(())
    }

    /// Takes a new tenure of one partition: flushed, then used.
    pub fn new_tenure(&self, partition: PartitionId) -> Result<(), StorageError> {
        self.new_tenures(&[partition])
    }

    /// Takes new tenures of several partitions: flushed at once, then used.
    pub fn new_tenures(&self, partitions: &[PartitionId]) -> Result<(), StorageError> {
        let _changing = self.change();
        let tenures: Vec<_> = partitions.iter().map(|at| (*at, Tenure(self.env.entropy.u64()))).collect();
        let mut batch = Batch::new();
        for (partition, tenure) in &tenures {
            batch.put(Keyspace::Meta, partition_key(TENURE, *partition), tenure.0.to_be_bytes().to_vec());
        }
        self.storage.commit(batch, Durability::Flush)?;
        self.write().tenures.extend(tenures);
        Ok(())
    }

    /// Stops minting, for this reason. Tells whether it is a new one.
    pub fn bar(&self, why: Bar) -> bool {
        self.bars.fetch_or(why as u8, Ordering::AcqRel) & why as u8 == 0
    }

    /// Mints again, unless there is another reason not to. Tells whether there was this one.
    pub fn lift(&self, why: Bar) -> bool {
        self.bars.fetch_and(!(why as u8), Ordering::AcqRel) & why as u8 != 0
    }

    /// Raises generation and progress above what peers have seen, so that this life is newer than all of them.
    pub fn catch_up(&self, generation: u64, progress: u64) -> Result<(), StorageError> {
        let _changing = self.change();
        let generation = self.generation().max(generation.saturating_add(1));
        let progress = self.progress().max(progress.saturating_add(1));
        let mut batch = Batch::new();
        batch.put(Keyspace::Meta, GENERATION, generation.to_be_bytes().to_vec());
        batch.put(Keyspace::Meta, PROGRESS, progress.to_be_bytes().to_vec());
        self.storage.commit(batch, Durability::Flush)?;
        *self.generation.write().unwrap_or_else(PoisonError::into_inner) = generation;
        self.known_progress.store(progress, Ordering::Release);
        self.progress.store(progress, Ordering::Release);
        Ok(())
    }

    /// Leaves the clean mark: the last thing a clean stop does, after the last commit. A life that never settled leaves
    /// none: it cannot vouch for the one before it.
    pub fn mark_clean(&self) -> Result<(), StorageError> {
        self.bar(Bar::Stopping);
        if !self.settled.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.put(Keyspace::Meta, CLEAN, vec![1]);
        self.storage.commit(batch, Durability::Flush).map(|_| ())
    }

    /// Who mints in `partition` now.
    pub(super) fn minter(&self, partition: PartitionId) -> Result<Minter, Bar> {
        if let Some(why) = self.barred() {
            return Err(why);
        }
        let current = self.read();
        Ok(Minter {
            actor: current.actor(partition),
            floor: current.floors.get(&partition).copied().unwrap_or_default(),
            era: current.era,
            clock_base: current.clock_base,
            lease: current.lease,
        })
    }

    /// The actor that mints on a hint's record, which `tenure` was drawn for, in this life of the node and under this
    /// incarnation.
    pub(super) fn actor_on_hint(&self, partition: PartitionId, tenure: u64) -> ActorId {
        actor_of(self.incarnation(), partition, Tenure(tenure ^ self.boot))
    }

    /// The actor of `partition` now, and the partition's collected floor.
    pub(super) fn actor(&self, partition: PartitionId) -> (ActorId, Stamp) {
        let current = self.read();
        (current.actor(partition), current.floors.get(&partition).copied().unwrap_or_default())
    }

    /// The greatest stamp that was ever collected, or dropped past its time, in `partition` here.
    pub fn collected(&self, partition: PartitionId) -> Stamp {
        self.actor(partition).1
    }

    /// The entry that raises the floor of `partition` to `dropped`, for the batch that drops; none where it is as high.
    pub(super) fn floor_entry(&self, partition: PartitionId, dropped: Stamp) -> Option<(Bytes, Bytes)> {
        let (_, floor) = self.actor(partition);
        (dropped > floor)
            .then(|| (partition_key(FLOOR, partition).into(), Bytes::copy_from_slice(&dropped.0.to_be_bytes())))
    }

    /// The floor of `partition` is on disk as `dropped` now.
    pub(super) fn raise_floor(&self, partition: PartitionId, dropped: Stamp) {
        let _changing = self.change();
        let floors = &mut self.current.write().unwrap_or_else(PoisonError::into_inner).floors;
        let floor = floors.entry(partition).or_default();
        *floor = dropped.max(*floor);
    }

    /// Flushes a later high-water mark for the clock of `era`. Nothing happens if that clock is no longer in use.
    pub(super) fn extend_lease(&self, era: u64, last: Stamp, wall: Wall) -> Result<Lease, StorageError> {
        let _changing = self.change();
        let (held, now) = {
            let current = self.read();
            (current.lease, current.era)
        };
        let mark = Lease::next_mark(last, wall);
        if now != era || mark <= held.until {
            return Ok(held);
        }
        let mut batch = Batch::new();
        batch.put(Keyspace::Meta, LEASE, mark.0.to_be_bytes().to_vec());
        self.storage.commit(batch, Durability::Flush)?;
        let lease = Lease { until: mark };
        self.write().lease = lease;
        Ok(lease)
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn label(&self) -> String {
        format!("{:032x}", self.incarnation().0)
    }

    fn read(&self) -> RwLockReadGuard<'_, Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Current> {
        self.current.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    fn actor(&self, partition: PartitionId) -> ActorId {
        actor_of(self.incarnation, partition, self.tenures.get(&partition).copied().unwrap_or_default())
    }
}

/// The key of a partition's entry among those that begin with `prefix`.
pub(super) fn partition_key(prefix: &[u8], partition: PartitionId) -> Vec<u8> {
    [prefix, &partition.0.to_be_bytes()].concat()
}

fn history_of(bytes: &[u8]) -> BTreeMap<u64, u64> {
    let (pairs, _) = bytes.as_chunks::<16>();
    let half = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    pairs.iter().map(|pair| (half(&pair[..8]), half(&pair[8..]))).collect()
}

fn per_partition(storage: &dyn Storage, prefix: &[u8]) -> Result<Vec<(PartitionId, u64)>, StorageError> {
    use std::ops::Bound::{Excluded, Included};
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    storage
        .scan(Keyspace::Meta, Included(prefix), Excluded(&end))
        .map(|entry| {
            let (key, value) = entry?;
            let partition = number(&key.slice(prefix.len()..))?;
            Ok((PartitionId(u32::from_be_bytes(partition)), u64::from_be_bytes(number(&value)?)))
        })
        .collect()
}

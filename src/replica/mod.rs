//! This node's data: one write path, one read path, and who mints.
//!
//! [`Replica`] is the asynchronous face; behind it a few shards, each owning whole partitions, run the synchronous
//! storage work on threads of their own (or inline, in a simulation). Invariants kept here: I-ACK (nothing is answered
//! before it is as durable as `durability` says), I-MINT (`identity`), and that what cannot be read is never a vote for
//! "not found" (`health`).
//!
//! Left to others: who owns what (`cluster`), how many copies count (`coordinator`), mending (`repair`).

mod audit;
mod class;
mod collect;
mod compare;
mod expiry;
mod fault;
mod forget;
mod health;
mod hints;
mod identity;
mod index;
mod list;
mod page;
mod place;
mod recent;
mod room;
mod scrub;
mod shard;
#[cfg(test)]
mod tests;
mod trust;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

pub use audit::{Audit, audit};
pub use collect::Deletions;
pub use fault::Fault;
pub use forget::{DigestPage, OfBucket};
pub use health::Health;
pub use hints::{Hint, HintBook, HintEnd, HintPage, KeepRequest, Kept, Waiting};
pub use identity::{Bar, Identity, Opened, Renewal};
pub use list::{ListWanted, Listed, Listing};
pub use page::{Inventory, NoInventory, PartitionPage};
pub use place::{Place, name_of, range_of};
pub use room::{Reserve, Room};
pub use scrub::{Leaves, Scrubbed};
pub use shard::{Cause, Coordinated, MergeRequest, MintRequest};

use crate::causality::{Horizon, horizon_of_record};
use crate::env::{Blocking, Buggify, Clock, Env};
use crate::metrics::Metrics;
use crate::storage::{Batch, Durability, Keyspace, Storage, StorageError};
use crate::types::{PartitionId, Wall};
use shard::{BATCH, Op, QUEUE, Shard};

const MACHINE_BOOT: &[u8] = b"replica/machine-boot";
const DURABILITY: &[u8] = b"replica/durability";

/// How a replica is run.
#[derive(Clone, Debug)]
pub struct ReplicaOptions {
    /// How durable a write is when it is acknowledged.
    pub durability: Durability,
    /// Storage threads.
    pub threads: usize,
    /// Partitions of the grid.
    pub partitions: u32,
    /// Names the kernel's life: another one than last time means the machine was restarted, and what was not flushed may
    /// be gone.
    pub machine_boot: String,
    /// Space kept back on the disk.
    pub reserve: Reserve,
    /// How far apart the clocks of two nodes may be that expire things.
    pub max_clock_drift: Duration,
    /// How long a request may be repeated: as long as that what it wrote is kept behind its horizon.
    pub idempotency_window: Duration,
    /// Most bytes of hints, for all owners together.
    pub max_hint_bytes: u64,
    /// The largest object that clients may write, with its names: as much room there is to be where this node stands in for
    /// an owner.
    pub max_object: u64,
}

/// This node's copy of the partitions it owns.
#[derive(Clone)]
pub struct Replica {
    inner: Arc<Inner>,
}

struct Inner {
    storage: Arc<dyn Storage>,
    identity: Arc<Identity>,
    health: Arc<Health>,
    hints: Arc<HintBook>,
    books: Arc<collect::Books>,
    metrics: Arc<Metrics>,
    queues: Vec<mpsc::Sender<Op>>,
    buggify: Buggify,
    clock: Arc<dyn Clock>,
    linger: Duration,
    threads: Mutex<Vec<JoinHandle<()>>>,
    blocking: Blocking,
}

/// A minted write on its way: what to send to the others, and when it is durable here.
#[derive(Debug)]
pub struct Minting {
    early: oneshot::Receiver<Result<Coordinated, Fault>>,
    done: oneshot::Receiver<Result<bool, Fault>>,
}

impl Minting {
    /// What was minted, or why nothing was. To be called once, first.
    pub async fn minted(&mut self) -> Result<Coordinated, Fault> {
        (&mut self.early).await.unwrap_or(Err(Fault::Stopping))
    }

    /// Waits until it is durable here; tells whether it was flushed.
    pub async fn durable(self) -> Result<bool, Fault> {
        self.done.await.unwrap_or(Err(Fault::Stopping))
    }
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica").field("identity", &self.inner.identity).finish_non_exhaustive()
    }
}

impl Replica {
    /// Starts the shards on a store whose identity has been opened.
    pub fn start(
        env: &Env,
        storage: Arc<dyn Storage>,
        identity: Arc<Identity>,
        metrics: &Arc<Metrics>,
        options: &ReplicaOptions,
    ) -> Result<Self, StorageError> {
        let health = Arc::new(Health::open(&*storage, options.reserve)?);
        after_a_power_cut(&*storage, &health, &identity, options)?;
        let recorded = class::recorded(&*storage)?;
        let hints = Arc::new(hints::open(&*storage, options)?);
        let books = Arc::new(collect::Books::open(&*storage, options.partitions)?);
        let mut queues = Vec::new();
        let mut threads = Vec::new();
        for index in 0..options.threads.max(1) {
            let (queue, ops) = mpsc::channel(QUEUE);
            let mut shard = Shard::new(
                Arc::clone(&storage),
                Arc::clone(&identity),
                Arc::clone(&health),
                Arc::clone(&hints),
                Arc::clone(metrics),
                env.clone(),
                options,
            );
            shard.classes = class::Classes::new(recorded.clone());
            shard.books = Arc::clone(&books);
            match env.blocking {
                Blocking::Inline => env.tasks.spawn(run_inline(shard, ops)),
                Blocking::Threads => {
                    let thread = std::thread::Builder::new().name(format!("storage-{index}"));
                    let thread = thread.spawn(move || run_on_thread(shard, ops));
                    threads.push(
                        thread.map_err(|failed| StorageError::Io(format!("starting a storage thread: {failed}")))?,
                    );
                }
            }
            queues.push(queue);
        }
        let threads = Mutex::new(threads);
        Ok(Self {
            inner: Arc::new(Inner {
                storage,
                identity,
                health,
                hints,
                books,
                metrics: Arc::clone(metrics),
                queues,
                buggify: env.buggify.clone(),
                clock: Arc::clone(&env.clock),
                linger: options.max_clock_drift.max(options.idempotency_window),
                threads,
                blocking: env.blocking,
            }),
        })
    }

    /// Who this replica is.
    #[must_use]
    pub fn identity(&self) -> &Arc<Identity> {
        &self.inner.identity
    }

    /// What it must not vote on.
    #[must_use]
    pub fn health(&self) -> &Arc<Health> {
        &self.inner.health
    }

    /// The store it runs on.
    #[must_use]
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.inner.storage
    }

    /// Measures the room on the disk. By a storage thread, as all that may hang with the disk.
    pub async fn measure(&self) {
        if self.inner.blocking == Blocking::Threads {
            // A queue that is full, or has ended, measures nothing now.
            let _ = self.run(PartitionId(0), |shard| shard.health.room().measured(shard.storage.space())).await;
        } else {
            self.inner.health.room().measured(self.inner.storage.space());
        }
    }

    /// The record under a key, as a vote: none is a vote for "not found".
    pub async fn read(&self, place: Place) -> Result<Option<Bytes>, Fault> {
        if !self.votes_on(&place) {
            return Err(Fault::Syncing);
        }
        Ok(self.unless_outlived(self.read_to_mend(place).await?))
    }

    /// What lies behind its horizon, for as long as it is kept there, is as good as dropped, which other owners may have
    /// done: they agree.
    fn unless_outlived(&self, record: Option<Bytes>) -> Option<Bytes> {
        let horizon = horizon_of_record(record.as_deref()?);
        match horizon {
            None | Some(Horizon::INFINITE) => record,
            Some(horizon) => record
                .filter(|_| !self.inner.identity.clock_is_right() || !horizon.is_past(self.now(), self.inner.linger)),
        }
    }

    fn now(&self) -> Wall {
        self.inner.clock.wall()
    }

    /// A node that does not know yet whether its directory went back has no more to say than an unsynced partition.
    fn votes_on(&self, place: &Place) -> bool {
        self.votes(place.partition)
    }

    fn votes(&self, partition: PartitionId) -> bool {
        self.inner.identity.may_vote() && self.inner.health.is_synced(partition)
    }

    /// What [`Replica::read`] would say, where that takes neither the disk nor a storage thread.
    #[must_use]
    pub fn read_at_once(&self, place: &Place) -> Option<Result<Option<Bytes>, Fault>> {
        if !self.votes_on(place) {
            return Some(Err(Fault::Syncing));
        }
        self.cached(place).map(|found| Ok(self.unless_outlived(found)))
    }

    fn cached(&self, place: &Place) -> Option<Option<Bytes>> {
        if self.inner.health.is_quarantined(&place.stored) || self.inner.buggify.at("a record is not in memory") {
            return None;
        }
        let found = self.inner.storage.get_cached(Keyspace::Objects, &place.stored)?.ok()?;
        Some(found.and_then(|record| self.inner.books.send(place.partition, &place.stored, record)))
    }

    /// The record under a key, whether or not the partition is synced: for an owner that mends its own copy. No vote.
    pub async fn read_to_mend(&self, place: Place) -> Result<Option<Bytes>, Fault> {
        if let Some(found) = self.cached(&place) {
            return Ok(found);
        }
        self.seem_overloaded()?;
        let (answer, answered) = oneshot::channel();
        self.send(place.partition, Op::Read { place, answer })?;
        answered.await.unwrap_or(Err(Fault::Stopping))
    }

    /// Merges a state into the copy here; returns once that is durable, and whether it was flushed.
    pub async fn merge(&self, request: MergeRequest) -> Result<bool, Fault> {
        self.seem_overloaded()?;
        let (answer, answered) = oneshot::channel();
        self.send(request.place.partition, Op::Merge { request, answer })?;
        answered.await.unwrap_or(Err(Fault::Stopping))
    }

    /// Mints a write. Once this returned, the write happens even if nobody waits for it.
    pub fn mint(&self, request: MintRequest) -> Result<Minting, Fault> {
        self.seem_overloaded()?;
        let ((early, early_answer), (done, done_answer)) = (oneshot::channel(), oneshot::channel());
        self.send(request.place.partition, Op::Mint { request: Box::new(request), early, done })?;
        Ok(Minting { early: early_answer, done: done_answer })
    }

    /// Puts a key into quarantine whose record was read, and made no sense.
    pub async fn suspect(&self, place: Place) {
        // A shard that has ended serves nobody.
        let _ = self.run(place.partition, move |shard| shard.quarantine(&place, "its record cannot be decoded")).await;
    }

    /// Marks a partition as completely synced: the state of every other owner has been merged, and none of them was read
    /// before `doubt` ([`Health::doubt`]). False: it was marked as unsynced once more since.
    pub async fn mark_synced(&self, partition: PartitionId, doubt: u64) -> Result<bool, Fault> {
        self.run(partition, move |shard| {
            shard
                .health
                .mark_synced(&*shard.storage, partition, doubt)
                .map_err(|failed| Fault::ReadOnly(failed.to_string()))
        })
        .await?
    }

    /// Acts on a peer's proof that this directory went back or was copied: every partition is unsynced, the incarnation
    /// is new.
    pub async fn roll_back(&self) -> Result<(), Fault> {
        self.inner.metrics.replica.rollback_proofs.inc();
        self.run(PartitionId(0), |shard| {
            shard.roll_back().map_err(|failed| {
                // It must not go on as who it was.
                shard.fail(&failed);
                Fault::ReadOnly(failed.to_string())
            })
        })
        .await?
    }

    /// Flushes entries of the node's own state ([`Keyspace::Meta`]): layouts, what was seen of peers.
    pub async fn remember(&self, entries: Vec<(Bytes, Bytes)>) -> Result<(), Fault> {
        self.run(PartitionId(0), move |shard| {
            let mut batch = Batch::new();
            for (key, value) in entries {
                batch.put(Keyspace::Meta, key, value);
            }
            shard.storage.commit(batch, Durability::Flush).map(|_| ()).map_err(|failed| {
                shard.fail(&failed);
                Fault::ReadOnly(failed.to_string())
            })
        })
        .await?
    }

    /// Requests that wait for a storage thread.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.inner.queues.iter().map(|queue| queue.max_capacity() - queue.capacity()).sum()
    }

    /// Takes in what waits, flushes it, ends the storage threads. With `clean`, and unless a commit failed, leaves the
    /// clean mark that lets the next start keep its incarnation.
    pub async fn shutdown(&self, clean: bool) -> Result<(), StorageError> {
        for queue in &self.inner.queues {
            // Behind everything that waits; a shard that has ended already has nothing left to take in.
            let _ = queue.send(Op::Stop).await;
            queue.closed().await;
        }
        let threads = std::mem::take(&mut *self.inner.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // It has taken its last operation; a panic in it has been reported by the panic hook.
            let _ = thread.join();
        }
        if clean && !self.inner.health.is_read_only() {
            self.inner.storage.flush()?;
            self.inner.identity.mark_clean()
        } else {
            self.inner.identity.bar(Bar::Stopping);
            Ok(())
        }
    }

    /// A full queue, without the four thousand operations it takes.
    fn seem_overloaded(&self) -> Result<(), Fault> {
        if self.inner.buggify.at("a storage queue is full") { Err(Fault::Overloaded) } else { Ok(()) }
    }

    async fn run<T: Send + 'static>(
        &self,
        partition: PartitionId,
        job: impl FnOnce(&Shard) -> T + Send + 'static,
    ) -> Result<T, Fault> {
        let (answer, answered) = oneshot::channel();
        self.send(partition, Op::Run(Box::new(move |shard| drop(answer.send(job(shard))))))?;
        answered.await.map_err(|_| Fault::Stopping)
    }

    fn send(&self, partition: PartitionId, op: Op) -> Result<(), Fault> {
        let queue = &self.inner.queues[partition.0 as usize % self.inner.queues.len()];
        queue.try_send(op).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => {
                self.inner.metrics.replica.overloaded.inc();
                Fault::Overloaded
            }
            mpsc::error::TrySendError::Closed(_) => Fault::Stopping,
        })
    }
}

/// What was acknowledged under `durability = "os"` may not have reached the disk when the machine was restarted: no vote
/// until merged with every other owner. It is the durability of the life before that decides, and the marks are in one
/// batch with what keeps the next start from asking again.
fn after_a_power_cut(
    storage: &dyn Storage,
    health: &Health,
    identity: &Identity,
    options: &ReplicaOptions,
) -> Result<(), StorageError> {
    let opened = identity.opened();
    let unflushed = storage.get(Keyspace::Meta, DURABILITY)?.is_some_and(|last| last[..] == *b"os");
    let boot = storage.get(Keyspace::Meta, MACHINE_BOOT)?;
    let restarted = boot.is_none_or(|last| last != options.machine_boot.as_bytes());
    let doubtful = !opened.new && !opened.clean && unflushed && restarted;
    let partitions: Vec<PartitionId> = (0..options.partitions).filter(|_| doubtful).map(PartitionId).collect();
    let mut batch = Batch::new();
    batch.put(Keyspace::Meta, MACHINE_BOOT, options.machine_boot.clone().into_bytes());
    let durability: &[u8] = if options.durability == Durability::Os { b"os" } else { b"flush" };
    batch.put(Keyspace::Meta, DURABILITY, durability.to_vec());
    health.mark_unsynced(storage, &partitions, batch)
}

/// A storage thread that panics may have let a dot leave that it never committed: nothing more is written in this life,
/// and it leaves no clean mark.
struct PanicGuard {
    health: Arc<Health>,
    identity: Arc<Identity>,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.health.latch_read_only();
            self.identity.bar(Bar::DiskFailed);
        }
    }
}

fn run_on_thread(mut shard: Shard, mut queue: mpsc::Receiver<Op>) {
    let mut ops = Vec::with_capacity(BATCH);
    while queue.blocking_recv_many(&mut ops, BATCH) > 0 {
        let stop = ops.iter().any(|op| matches!(op, Op::Stop));
        let (health, identity) = (Arc::clone(&shard.health), Arc::clone(&shard.identity));
        let guard = PanicGuard { health, identity };
        while !ops.is_empty() {
            let prepared = shard.prepare(next_batch(&mut ops));
            let (_, finished) = shard.commit(prepared);
            finished.answer();
        }
        drop(guard);
        if stop {
            return;
        }
    }
}

async fn run_inline(mut shard: Shard, mut queue: mpsc::Receiver<Op>) {
    let mut ops = Vec::with_capacity(BATCH);
    loop {
        let most = if shard.env.buggify.at("a batch of one") { 1 } else { BATCH };
        if queue.recv_many(&mut ops, most).await == 0 {
            return;
        }
        let stop = ops.iter().any(|op| matches!(op, Op::Stop));
        while !ops.is_empty() {
            let prepared = shard.prepare(next_batch(&mut ops));
            if shard.env.buggify.at("commit lags behind the mint") {
                // Other owners learn of the dot while this node can still forget it.
                shard.env.clock.sleep(std::time::Duration::from_micros(shard.env.entropy.below(20_000))).await;
            }
            let (stall, finished) = shard.commit(prepared);
            if !stall.is_zero() {
                shard.env.clock.sleep(stall).await;
            }
            finished.answer();
        }
        if stop {
            return;
        }
    }
}

/// Takes the operations of the next batch: up to a job, which begins one of its own, so that it sees on disk all that was
/// decided before it, and nothing that is written after it has looked puts back what it deletes.
fn next_batch(ops: &mut Vec<Op>) -> Vec<Op> {
    let is_job = |op: &Op| matches!(op, Op::Run(_));
    let end = if ops.first().is_some_and(is_job) { 1 } else { ops.iter().position(is_job).unwrap_or(ops.len()) };
    let rest = ops.split_off(end);
    std::mem::replace(ops, rest)
}

//! Storage in memory: the durable store of nobody, the only store of a build without RocksDB, and the disk of every
//! simulation.
//!
//! A [`MemoryDisk`] is the platter: it outlives the process that uses it. A [`MemoryStorage`] is that process's open
//! handle. What a commit wrote with [`Durability::Os`] waits in an ordered list until a flush; [`MemoryDisk::crash`]
//! (power cut) keeps a random prefix of that list, [`MemoryDisk::kill`] (the process dies, the machine does not) keeps
//! all of it; both make every open handle fail from then on. [`Faults`] add what disks do: errors, no space, slow
//! flushes, damage. All chance comes from the [`Entropy`] handed in, and a fault that is off draws nothing: a seed
//! decides a run.
//!
//! A commit whose *write* fails leaves nothing. One whose *flush* fails is not readable, but may be on the platter: the
//! next [`MemoryDisk::open`] draws whether it is.

mod faults;
mod platter;
mod scan;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use bytes::Bytes;

pub use faults::Faults;
pub use platter::Platter;

use super::{Batch, Committed, Durability, Entry, Keyspace, Space, Storage, StorageError};
use crate::env::Entropy;
use platter::{Event, Image};
use scan::{MemoryScan, Snapshots};

/// Unsynced batches that the operating system keeps before it writes the oldest ones of its own accord.
const WRITE_BACK: usize = 4096;

/// One keyspace, ordered.
type Entries = BTreeMap<Bytes, Bytes>;

/// A simulated disk. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct MemoryDisk {
    drive: Arc<Drive>,
}

#[derive(Debug)]
struct Drive {
    entropy: Arc<Entropy>,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What a power cut leaves at least.
    durable: Image,
    /// What came after, in order.
    unsynced: VecDeque<Event>,
    /// `durable` with `unsynced` applied: what reads see.
    live: Image,
    /// The batch of a failed flush, until the next open decides about it.
    in_doubt: Option<Batch>,
    /// The handle that has the lock; others are stale.
    opener: Option<u64>,
    /// Handles given out so far.
    openings: u64,
    /// Why the open handle accepts no more commits.
    read_only: Option<String>,
    faults: Faults,
    snapshots: Snapshots,
    /// Flushes so far.
    flushes: u64,
    /// There is no platter: `live` is all there is, and nothing is kept for a crash.
    ephemeral: bool,
}

impl Drive {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn chance(&self, p: f64) -> bool {
        p > 0.0 && self.entropy.chance(p)
    }

    fn stall(&self, range: Option<(Duration, Duration)>) -> Duration {
        let Some((least, most)) = range else { return Duration::ZERO };
        let width = u64::try_from(most.saturating_sub(least).as_micros()).unwrap_or(u64::MAX - 1);
        least + Duration::from_micros(self.entropy.below(width + 1))
    }
}

impl State {
    fn changed(&mut self, event: Event) {
        if let Event::Batch(batch) = &event {
            self.snapshots.remember(batch, &self.live);
        }
        self.live.apply(&event);
        if self.ephemeral {
            return;
        }
        self.unsynced.push_back(event);
        if self.unsynced.len() > WRITE_BACK
            && let Some(oldest) = self.unsynced.pop_front()
        {
            self.durable.apply(&oldest);
        }
    }

    fn sync(&mut self) {
        for event in self.unsynced.drain(..) {
            self.durable.apply(&event);
        }
    }

    fn close(&mut self) {
        self.opener = None;
        self.read_only = None;
        self.snapshots.end();
    }

    fn become_image(&mut self, image: Image) {
        self.close();
        self.unsynced.clear();
        self.in_doubt = None;
        self.durable = image.clone();
        self.live = image;
    }
}

impl MemoryDisk {
    /// An empty, healthy disk whose later faults draw from `entropy`.
    #[must_use]
    pub fn new(entropy: Arc<Entropy>) -> Self {
        Self { drive: Arc::new(Drive { entropy, state: RwLock::default() }) }
    }

    /// Another disk with the contents of `platter`: a copied directory.
    #[must_use]
    pub fn cloned_from(platter: &Platter, entropy: Arc<Entropy>) -> Self {
        let disk = Self::new(entropy);
        disk.restore_platter(platter);
        disk
    }

    /// Opens the store.
    ///
    /// # Errors
    /// [`StorageError::Locked`] while another handle is open.
    pub fn open(&self) -> Result<MemoryStorage, StorageError> {
        let mut state = self.drive.write();
        if state.opener.is_some() {
            return Err(StorageError::Locked("the simulated disk is open already".to_owned()));
        }
        if let Some(batch) = state.in_doubt.take()
            && self.drive.entropy.chance(0.5)
        {
            state.changed(Event::Batch(batch));
        }
        state.openings += 1;
        state.opener = Some(state.openings);
        state.read_only = None;
        Ok(MemoryStorage { drive: Arc::clone(&self.drive), opening: state.openings })
    }

    /// Power cut: a prefix of the unsynced batches survives, its length drawn from `entropy`; open handles fail from
    /// now on.
    pub fn crash(&self, entropy: &Entropy) {
        let mut state = self.drive.write();
        // A batch in doubt is the last one written, so it survives only if all before it do.
        if let Some(batch) = state.in_doubt.take() {
            state.unsynced.push_back(Event::Batch(batch));
        }
        let written = u64::try_from(state.unsynced.len()).unwrap_or(u64::MAX - 1);
        let kept = if written == 0 { 0 } else { usize::try_from(entropy.below(written + 1)).unwrap_or(usize::MAX) };
        state.unsynced.truncate(kept);
        state.sync();
        let image = state.durable.clone();
        state.become_image(image);
    }

    /// The process dies and the machine does not: everything committed stays, unsynced; open handles fail from now on.
    pub fn kill(&self) {
        self.drive.write().close();
    }

    /// A fresh, empty directory in place of this one. Open handles fail from now on; faults stay.
    pub fn wipe(&self) {
        self.drive.write().become_image(Image::default());
    }

    /// A copy of the directory as another process would read it now.
    #[must_use]
    pub fn snapshot_platter(&self) -> Platter {
        Platter::new(self.drive.read().live.clone())
    }

    /// Rolls the directory back (or forward) to `platter`, durably. Open handles fail from now on; faults stay.
    pub fn restore_platter(&self, platter: &Platter) {
        self.drive.write().become_image(platter.image().clone());
    }

    /// What the disk does wrong from now on, in place of what it did wrong before.
    pub fn set_faults(&self, faults: Faults) {
        self.drive.write().faults = faults;
    }

    /// What the disk does wrong.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.drive.read().faults.clone()
    }

    /// Damages what is stored under `key`, if anything is: reads answer [`StorageError::Corrupt`] until it is put or
    /// deleted. Says whether anything was.
    #[must_use = "a test that damages nothing proves nothing"]
    pub fn damage(&self, keyspace: Keyspace, key: &[u8]) -> bool {
        let mut state = self.drive.write();
        let found = state.live.get(keyspace, key).is_some();
        if found {
            damage(&mut state, keyspace, Bytes::copy_from_slice(key));
        }
        found
    }

    /// Flushes so far.
    #[must_use]
    pub fn flushes(&self) -> u64 {
        self.drive.read().flushes
    }

    /// Batches that a crash may lose.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        let state = self.drive.read();
        state.unsynced.iter().filter(|event| matches!(event, Event::Batch(_))).count()
    }
}

/// Damage is to the platter, so a crash does not heal it: only a later put or delete that survives does.
fn damage(state: &mut State, keyspace: Keyspace, key: Bytes) {
    let event = Event::Damage(keyspace, key);
    state.durable.apply(&event);
    state.live.apply(&event);
    if !state.unsynced.is_empty() {
        state.unsynced.push_back(event);
    }
}

/// An open store on a [`MemoryDisk`]. Dropping it closes it, as the end of its process would: nothing is flushed.
#[derive(Debug)]
pub struct MemoryStorage {
    drive: Arc<Drive>,
    opening: u64,
}

impl Drop for MemoryStorage {
    fn drop(&mut self) {
        let mut state = self.drive.write();
        if state.opener == Some(self.opening) {
            state.close();
        }
    }
}

impl MemoryStorage {
    /// A store without a platter, for a node without a disk: what it holds ends with it.
    #[must_use]
    pub fn ephemeral(entropy: Arc<Entropy>) -> Self {
        let drive = Arc::new(Drive { entropy, state: RwLock::default() });
        {
            let mut state = drive.write();
            state.openings = 1;
            state.opener = Some(1);
            state.ephemeral = true;
        }
        Self { drive, opening: 1 }
    }

    fn is_open(&self, state: &State) -> Result<(), StorageError> {
        if state.opener == Some(self.opening) {
            Ok(())
        } else {
            Err(StorageError::Io("this handle was closed when its process died".to_owned()))
        }
    }

    /// A read on a disk that may fail or damage what is read.
    fn faulty_get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let mut state = self.drive.write();
        self.is_open(&state)?;
        if self.drive.chance(state.faults.read_error) {
            return Err(StorageError::Io("simulated read error".to_owned()));
        }
        if self.drive.chance(state.faults.damage) && state.live.get(keyspace, key).is_some() {
            damage(&mut state, keyspace, Bytes::copy_from_slice(key));
        }
        state.live.read(keyspace, key)
    }

    fn writable(&self) -> Result<RwLockWriteGuard<'_, State>, StorageError> {
        let state = self.drive.write();
        self.is_open(&state)?;
        match &state.read_only {
            Some(why) => Err(StorageError::ReadOnly(why.clone())),
            None => Ok(state),
        }
    }
}

fn fail<T>(state: &mut State, error: StorageError) -> Result<T, StorageError> {
    state.read_only = Some(error.to_string());
    Err(error)
}

impl Storage for MemoryStorage {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let state = self.drive.read();
        if state.faults.spoil_reads() {
            drop(state);
            return self.faulty_get(keyspace, key);
        }
        self.is_open(&state)?;
        state.live.read(keyspace, key)
    }

    fn get_cached(&self, keyspace: Keyspace, key: &[u8]) -> Option<Result<Option<Bytes>, StorageError>> {
        let state = self.drive.read();
        if self.drive.chance(state.faults.uncached) {
            return None;
        }
        if let Err(closed) = self.is_open(&state) {
            return Some(Err(closed));
        }
        // Damage is on the platter, not in the cache: only a read that goes there can find it.
        state.live.read(keyspace, key).ok().map(Ok)
    }

    fn scan<'a>(
        &'a self,
        keyspace: Keyspace,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Box<dyn Iterator<Item = Entry> + 'a> {
        Box::new(MemoryScan::new(self, keyspace, from, to))
    }

    fn commit(&self, batch: Batch, durability: Durability) -> Result<Committed, StorageError> {
        let mut state = self.writable()?;
        let faults = state.faults.clone();
        if self.drive.chance(faults.commit_error) {
            return fail(&mut state, StorageError::Io("simulated write error".to_owned()));
        }
        if let Some(capacity) = faults.capacity {
            let wanted = state.live.bytes().saturating_add(platter::growth(&batch));
            if wanted > capacity {
                let error = StorageError::Full(format!("{wanted} bytes wanted of {capacity}"));
                return fail(&mut state, error);
            }
        }
        if durability == Durability::Os {
            state.changed(Event::Batch(batch));
            return Ok(Committed::default());
        }
        if self.drive.chance(faults.flush_error) {
            state.in_doubt = Some(batch);
            return fail(&mut state, StorageError::Io("simulated flush error".to_owned()));
        }
        state.changed(Event::Batch(batch));
        state.sync();
        state.flushes += 1;
        Ok(Committed { stall: self.drive.stall(faults.flush_stall) })
    }

    fn flush(&self) -> Result<Committed, StorageError> {
        let mut state = self.writable()?;
        let faults = state.faults.clone();
        if self.drive.chance(faults.flush_error) {
            return fail(&mut state, StorageError::Io("simulated flush error".to_owned()));
        }
        state.sync();
        state.flushes += 1;
        Ok(Committed { stall: self.drive.stall(faults.flush_stall) })
    }

    fn space(&self) -> Option<Space> {
        let state = self.drive.read();
        let total = state.faults.capacity?;
        Some(Space { free: total.saturating_sub(state.live.bytes()), total })
    }
}
